//! A value that many wait for: as tokio's `watch`, but those who wait wake in the order in which they came.
//!
//! `watch` wakes them in an order of chance, and a seed would not replay. Nobody misses news: it is counted.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Said by one, heard by many.
pub(crate) struct Word<T>(Arc<Shared<T>>);

struct Shared<T> {
    /// How often it was said, and what.
    said: Mutex<(u64, T)>,
    news: Notify,
}

impl<T> Shared<T> {
    fn with<R>(&self, act: impl FnOnce(&mut (u64, T)) -> R) -> R {
        act(&mut self.said.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Clone for Word<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Copy> Word<T> {
    pub(crate) fn new(first: T) -> Self {
        Self(Arc::new(Shared { said: Mutex::new((0, first)), news: Notify::new() }))
    }

    pub(crate) fn get(&self) -> T {
        self.0.with(|(_, value)| *value)
    }

    /// Says it anew, changed or not: everybody wakes.
    pub(crate) fn say(&self, change: impl FnOnce(&mut T)) {
        self.0.with(|(times, value)| {
            *times += 1;
            change(value);
        });
        self.0.news.notify_waiters();
    }

    /// An ear that has heard all until now.
    pub(crate) fn ear(&self) -> Ear<T> {
        Ear { heard: self.0.with(|(times, _)| *times), word: Arc::clone(&self.0) }
    }
}

/// One listener.
pub(crate) struct Ear<T> {
    word: Arc<Shared<T>>,
    heard: u64,
}

impl<T: Copy> Clone for Ear<T> {
    fn clone(&self) -> Self {
        Self { word: Arc::clone(&self.word), heard: self.heard }
    }
}

impl<T: Copy> Ear<T> {
    /// What is said now; not heard by that.
    pub(crate) fn get(&self) -> T {
        self.word.with(|(_, value)| *value)
    }

    /// What is said now, heard.
    pub(crate) fn hear(&mut self) -> T {
        let (times, value) = self.word.with(|said| *said);
        self.heard = times;
        value
    }

    /// Until something was said that was not heard; hears it. May be dropped at any time.
    pub(crate) async fn news(&mut self) -> T {
        loop {
            let notified = self.word.news.notified();
            tokio::pin!(notified);
            notified.as_mut().enable(); // in line before the look: what is said in between wakes us
            let (times, value) = self.word.with(|said| *said);
            if times != self.heard {
                self.heard = times;
                return value;
            }
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn news_is_heard_once_by_each_and_in_the_order_of_waiting() {
        let word = Word::new(1);
        let (mut first, mut second) = (word.ear(), word.ear());
        assert!(first.news().now_or_never().is_none());
        word.say(|value| *value = 2);
        assert_eq!((first.get(), first.news().now_or_never(), first.news().now_or_never()), (2, Some(2), None));
        assert_eq!((second.hear(), second.news().now_or_never()), (2, None));
        word.say(|_| {});
        assert_eq!(second.clone().news().now_or_never(), Some(2), "said again");

        let order = Mutex::new(Vec::new());
        let listen = async |name, mut ear: Ear<i32>| {
            ear.hear();
            ear.news().await;
            order.lock().unwrap().push(name);
        };
        let ears: Vec<_> = (0..20).map(|name| listen(name, word.ear())).collect();
        let all = futures_util::future::join_all(ears);
        tokio::pin!(all);
        assert!(all.as_mut().now_or_never().is_none());
        word.say(|value| *value = 3);
        all.await;
        assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
    }
}
