//! The line before the work: any number of messages side by side, or one alone.
//!
//! Promises first come, first served: who wants to be alone waits for those before it and is waited for by those after
//! it, so that nobody starves; and since nobody waits while being in, two of them cannot block each other. Knows no
//! message and no reason.

use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::word::Word;

/// The line of one worker.
pub struct Line {
    // tokio's is fair: a writer in line keeps later readers out (tokio::sync::RwLock, "fair").
    room: Arc<RwLock<()>>,
    /// Messages that are alone, or wait to be.
    loners: Arc<Word<usize>>,
}

impl Default for Line {
    fn default() -> Self {
        Self { room: Arc::default(), loners: Arc::new(Word::new(0)) }
    }
}

/// A place in the room; kept by the work, its child, and whoever else must have ended before it is free.
#[derive(Clone, Default)]
pub struct Company(Option<Arc<Place>>);

enum Place {
    Others { _room: OwnedRwLockReadGuard<()> },
    Alone { _room: OwnedRwLockWriteGuard<()>, _hold: Hold },
}

impl Company {
    /// Nobody else is in work.
    pub fn is_alone(&self) -> bool {
        self.0.as_ref().is_some_and(|place| match **place {
            Place::Others { .. } => false,
            Place::Alone { .. } => true,
        })
    }
}

/// Holds intake.
struct Hold(Arc<Word<usize>>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.say(|loners| *loners -= 1);
    }
}

impl Line {
    /// A place beside others.
    pub async fn join(&self) -> Company {
        Company(Some(Arc::new(Place::Others { _room: Arc::clone(&self.room).read_owned().await })))
    }

    /// The room for one. Intake stands still from the first poll of this on.
    pub async fn alone(&self) -> Company {
        self.loners.say(|loners| *loners += 1);
        let hold = Hold(Arc::clone(&self.loners));
        Company(Some(Arc::new(Place::Alone { _room: Arc::clone(&self.room).write_owned().await, _hold: hold })))
    }

    /// Nobody is alone or waits to be: messages may be asked for.
    pub fn is_open(&self) -> bool {
        self.loners.get() == 0
    }

    /// Until it is open.
    pub async fn open(&self) {
        let mut loners = self.loners.ear();
        while loners.hear() > 0 {
            loners.news().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn first_come_first_served_alone_or_side_by_side() {
        let line = Line::default();
        let (first, second) = (line.join().await, line.join().await);
        let mut loner = Box::pin(line.alone());
        assert!(loner.as_mut().now_or_never().is_none(), "two are in");
        assert!(!line.is_open());
        let mut late = Box::pin(line.join());
        assert!(late.as_mut().now_or_never().is_none(), "behind the loner");
        let mut other_loner = Box::pin(line.alone());
        assert!(other_loner.as_mut().now_or_never().is_none());
        let child = first.clone();
        drop((first, second));
        assert!(loner.as_mut().now_or_never().is_none(), "a child of the first still lives");
        drop(child);
        let alone = loner.as_mut().now_or_never().expect("the room is empty");
        assert!(alone.is_alone());
        assert!(late.as_mut().now_or_never().is_none() && other_loner.as_mut().now_or_never().is_none());
        drop(alone);
        let beside = late.as_mut().now_or_never().expect("it was next");
        assert!(!beside.is_alone() && other_loner.as_mut().now_or_never().is_none());
        drop(beside);
        let alone = other_loner.as_mut().now_or_never().expect("it was next");
        assert!(!line.is_open());
        drop(alone);
        assert!(line.is_open());
        line.open().await;
    }

    #[tokio::test]
    async fn who_gives_up_waiting_is_not_waited_for() {
        let line = Line::default();
        let inside = line.join().await;
        let mut loner = Box::pin(line.alone());
        assert!(loner.as_mut().now_or_never().is_none());
        drop(loner);
        assert!(line.is_open());
        assert!(line.join().now_or_never().is_some());
        drop(inside);
    }
}
