//! What this run has sent, and what became of it: worked on, or back in the DLQ.
//!
//! Promises that a letter which carries this run's id is not sent a second time by it (R2), and that the run is told when
//! more than a fifth of the last hundred came back. Sends nothing.

use std::collections::{BTreeSet, VecDeque};

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};

use crate::message::MessageId;

use super::drain::TOGETHER;
use super::letter::Letter;
use super::look::Look;

/// The last so many are judged together.
const LAST: usize = 100;
/// More than this share of them back is too many.
const TOO_MANY: f64 = 0.20;
/// Fewer than this say nothing about a share.
const TELLING: usize = 5;

/// Sent in this run.
pub(super) struct Watched {
    run_id: String,
    last: VecDeque<Sent>,
}

struct Sent {
    letter: Letter,
    id: MessageId,
    came_back: bool,
    recorded: bool,
}

impl Watched {
    pub(super) fn new(run_id: String) -> Self {
        Self { run_id, last: VecDeque::new() }
    }

    /// A send was acknowledged.
    pub(super) fn sent(&mut self, letter: Letter, id: MessageId) {
        if self.last.len() >= LAST {
            self.last.pop_front();
        }
        self.last.push_back(Sent { letter, id, came_back: false, recorded: false });
    }

    /// Whether a letter was sent by this run before.
    pub(super) fn came_back(&mut self, letter: &Letter) -> bool {
        if letter.run() != Some(&self.run_id) {
            return false;
        }
        let first = letter.first_id();
        if let Some(sent) = self.last.iter_mut().find(|sent| sent.letter.first_id() == first) {
            sent.came_back = true;
        }
        true
    }

    /// How many of how many came back, where that is too many.
    pub(super) fn is_bouncing(&self) -> Option<(usize, usize)> {
        let (back, of) = (self.last.iter().filter(|sent| sent.came_back).count(), self.last.len());
        (back >= TELLING.min(of) && back > 0 && back as f64 > of as f64 * TOO_MANY).then_some((back, of))
    }

    /// How many have a record now, and of how many nothing is known.
    pub(super) async fn progress(&mut self, look: &Look) -> (usize, usize) {
        let open: Vec<usize> = (0..self.last.len())
            .filter(|at| self.last.get(*at).is_some_and(|sent| !sent.came_back && !sent.recorded))
            .collect();
        let asked: Vec<BoxFuture<'_, (usize, bool)>> = open
            .into_iter()
            .filter_map(|at| self.last.get(at).map(|sent| (at, sent)))
            .map(|(at, sent)| async move { (at, look.is_recorded(&sent.letter, &sent.id).await) }.boxed())
            .collect();
        let answers: Vec<(usize, bool)> = futures_util::stream::iter(asked).buffered(TOGETHER).collect().await;
        let recorded: BTreeSet<usize> = answers.into_iter().filter(|(_, is)| *is).map(|(at, _)| at).collect();
        for (at, sent) in self.last.iter_mut().enumerate() {
            sent.recorded |= recorded.contains(&at);
        }
        let known = self.last.iter().filter(|sent| sent.recorded).count();
        (known, self.last.iter().filter(|sent| !sent.recorded && !sent.came_back).count())
    }
}
