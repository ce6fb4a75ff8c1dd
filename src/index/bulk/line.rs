//! Who goes next: documents wait in two lines, fresh and replay, and a third of at most one try of a sick index.
//!
//! Promises that replay has every tenth slot while both wait (so that it never starves and never floods), that a batch
//! keeps its bounds of documents and bytes except where one document alone is larger, and that a document for which
//! nobody waits any more is not sent. Knows no index and no breaker.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;

use crate::index::aimd::MOST_DOCUMENTS;
use crate::index::{IndexItem, ItemVerdict};

/// A batch goes when it has this many bytes (AWS takes 10 MiB on its smaller instances; see design §6), in proportion
/// fewer where fewer documents are allowed,
const BATCH_BYTES: usize = 5 * 1024 * 1024;
/// or has waited this long.
const LINGER: Duration = Duration::from_millis(20);
/// Of slots that are taken while both wait, this one is the replay's.
const TENTH: u32 = 10;
/// About what the action line of a document takes: its id, its revision and the words round them.
const ACTION_BYTES: usize = 160;

/// Whose documents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Of a message: its settlement waits for the verdict.
    Fresh,
    /// Parked before: nobody's settlement waits, so that it may wait for its turn.
    Replay,
}

/// A document in line.
pub(super) struct Offered {
    pub item: IndexItem,
    /// `None`: nobody waits, and it is sent all the same.
    pub verdict: Option<oneshot::Sender<ItemVerdict>>,
    /// Its share of the bytes that may wait; given back when its request has ended.
    pub _room: Option<OwnedSemaphorePermit>,
}

impl Offered {
    /// Whether it need be sent: the work may have been cancelled, or parked after a while.
    pub(super) fn is_wanted(&self) -> bool {
        self.verdict.as_ref().is_none_or(|verdict| !verdict.is_closed())
    }

    /// The first answer counts.
    pub(super) fn answer(&mut self, verdict: ItemVerdict) {
        if let Some(waiting) = self.verdict.take() {
            drop(waiting.send(verdict)); // nobody waits: the work was cancelled, and the version fences
        }
    }

    fn bytes(&self) -> usize {
        self.item.source.len() + ACTION_BYTES
    }
}

/// Documents of one class, in order.
struct Queue {
    heard: mpsc::Receiver<Offered>,
    /// Did not fit into the last batch.
    next: Option<Offered>,
}

impl Queue {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Offered>> {
        loop {
            let offered = match self.next.take() {
                Some(offered) => offered,
                None => match ready!(self.heard.poll_recv(context)) {
                    Some(offered) => offered,
                    None => return Poll::Ready(None),
                },
            };
            if offered.is_wanted() {
                return Poll::Ready(Some(offered));
            }
        }
    }
}

/// Whose turn it is, where both wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Turns {
    /// Slots of fresh documents since replay had one.
    fresh: u32,
}

impl Turns {
    fn first(self) -> Class {
        if self.fresh + 1 >= TENTH { Class::Replay } else { Class::Fresh }
    }

    fn taken(&mut self, class: Class) {
        self.fresh = match class {
            Class::Fresh => (self.fresh + 1).min(TENTH),
            Class::Replay => 0,
        };
    }
}

/// What may be taken out of the line now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Open {
    pub trials: bool,
    pub fresh: bool,
    pub replay: bool,
}

/// Who comes out of the line.
pub(super) enum Next {
    /// The one that finds out whether the index is well again.
    Trial(Offered),
    /// The first of a batch.
    One(Class, Offered),
}

/// The lines and their turns.
pub(super) struct Line {
    trials: mpsc::Receiver<Offered>,
    fresh: Queue,
    replay: Queue,
    turns: Turns,
}

/// The ends to which documents are handed in.
#[derive(Clone)]
pub(super) struct Ends {
    pub trials: mpsc::Sender<Offered>,
    pub fresh: mpsc::Sender<Offered>,
    pub replay: mpsc::Sender<Offered>,
}

impl Ends {
    pub(super) fn of(&self, class: Class) -> &mpsc::Sender<Offered> {
        match class {
            Class::Fresh => &self.fresh,
            Class::Replay => &self.replay,
        }
    }
}

impl Line {
    pub(super) fn new() -> (Ends, Self) {
        let ((trials, first), (fresh, second), (replay, third)) =
            (mpsc::channel(1), mpsc::channel(1024), mpsc::channel(1024));
        let queue = |heard| Queue { heard, next: None };
        let line = Self { trials: first, fresh: queue(second), replay: queue(third), turns: Turns::default() };
        (Ends { trials, fresh, replay }, line)
    }

    /// The next in line; `None` when nobody can come any more. Takes nothing that it does not return.
    pub(super) async fn next(&mut self, open: Open) -> Option<Next> {
        std::future::poll_fn(|context| self.poll(open, context)).await
    }

    fn poll(&mut self, open: Open, context: &mut Context<'_>) -> Poll<Option<Next>> {
        let mut gone = true;
        if open.trials {
            match self.trials.poll_recv(context) {
                Poll::Ready(Some(offered)) => return Poll::Ready(Some(Next::Trial(offered))),
                Poll::Ready(None) => {}
                Poll::Pending => gone = false,
            }
        }
        let order = match self.turns.first() {
            Class::Fresh => [Class::Fresh, Class::Replay],
            Class::Replay => [Class::Replay, Class::Fresh],
        };
        for class in order {
            let (queue, is_open) = match class {
                Class::Fresh => (&mut self.fresh, open.fresh),
                Class::Replay => (&mut self.replay, open.replay),
            };
            if !is_open {
                gone = false;
                continue;
            }
            match queue.poll(context) {
                Poll::Ready(Some(offered)) => return Poll::Ready(Some(Next::One(class, offered))),
                Poll::Ready(None) => {}
                Poll::Pending => gone = false,
            }
        }
        if gone { Poll::Ready(None) } else { Poll::Pending }
    }

    /// A batch behind its first document; whether it is full. It is this class's turn that is taken.
    pub(super) async fn batch(&mut self, class: Class, first: Offered, most: usize) -> (Vec<Offered>, bool) {
        self.turns.taken(class);
        let queue = match class {
            Class::Fresh => &mut self.fresh,
            Class::Replay => &mut self.replay,
        };
        let most_bytes = BATCH_BYTES / MOST_DOCUMENTS * most.min(MOST_DOCUMENTS);
        let until = Instant::now() + LINGER;
        let mut bytes = first.bytes();
        let mut batch = vec![first];
        while batch.len() < most && bytes < most_bytes {
            let next = std::future::poll_fn(|context| queue.poll(context));
            match tokio::time::timeout_at(until, next).await {
                Ok(Some(offered)) if bytes + offered.bytes() > most_bytes => {
                    queue.next = Some(offered);
                    return (batch, true);
                }
                Ok(Some(offered)) => {
                    bytes += offered.bytes();
                    batch.push(offered);
                }
                Ok(None) | Err(_) => return (batch, false),
            }
        }
        (batch, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{DocumentId, Namespace};
    use bytes::Bytes;

    const ALL: Open = Open { trials: true, fresh: true, replay: true };

    fn offered(name: &str, bytes: usize) -> Offered {
        let document_id = DocumentId::of(&Namespace::parse("n").unwrap(), "b", name);
        let item = IndexItem { document_id, revision: 1, source: Bytes::from(vec![b' '; bytes]) };
        Offered { item, verdict: None, _room: None }
    }

    #[tokio::test(start_paused = true)]
    async fn while_both_wait_every_tenth_slot_is_the_replays_and_else_whoever_is_there() {
        let (ends, mut line) = Line::new();
        let mut taken = String::new();
        for _ in 0..30 {
            for end in [&ends.fresh, &ends.replay] {
                end.try_send(offered("x", 1)).unwrap();
            }
            let Some(Next::One(class, first)) = line.next(ALL).await else { panic!("nobody") };
            taken.push(match class {
                Class::Fresh => 'f',
                Class::Replay => 'r',
            });
            line.batch(class, first, 1).await;
        }
        assert_eq!(taken, "fffffffffrfffffffffrfffffffffr");
        // Replay alone has all; where it may not, fresh has the tenth too.
        let (ends, mut line) = Line::new();
        for _ in 0..5 {
            ends.replay.try_send(offered("r", 1)).unwrap();
            assert!(matches!(line.next(ALL).await, Some(Next::One(Class::Replay, _))));
        }
        let full = Open { replay: false, ..ALL };
        for _ in 0..30 {
            ends.fresh.try_send(offered("f", 1)).unwrap();
            ends.replay.try_send(offered("r", 1)).unwrap();
            let Some(Next::One(Class::Fresh, first)) = line.next(full).await else { panic!("not fresh") };
            line.batch(Class::Fresh, first, 1).await;
        }
        assert!(matches!(line.next(ALL).await, Some(Next::One(Class::Replay, _))), "it is overdue");
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_keeps_its_bounds_and_nothing_is_lost_or_reordered() {
        const MIB: usize = 1024 * 1024;
        // Sizes that wait, documents allowed, sizes that go, full.
        let cases: [(&[usize], usize, &[usize], bool); 7] = [
            (&[10, 20, 30], 200, &[10, 20, 30], false),
            (&[10, 20, 30], 2, &[10, 20], true),
            (&[2 * MIB, 2 * MIB, 2 * MIB], 200, &[2 * MIB, 2 * MIB], true),
            (&[9 * MIB, 10], 200, &[9 * MIB], true),
            (&[10, 9 * MIB, 10], 200, &[10], true),
            // Half the documents are half the bytes, and one always goes.
            (&[2 * MIB, 2 * MIB, 2 * MIB], 100, &[2 * MIB], true),
            (&[MIB, 10], 1, &[MIB], true),
        ];
        for (waiting, most, expected, expected_full) in cases {
            let (ends, mut line) = Line::new();
            for (number, bytes) in waiting.iter().enumerate() {
                ends.fresh.try_send(offered(&format!("{number}"), *bytes)).unwrap();
            }
            let mut went = Vec::new();
            while went.len() < waiting.len() {
                let Some(Next::One(class, first)) = line.next(ALL).await else { panic!("nobody") };
                let (batch, full) = line.batch(class, first, most).await;
                let sizes: Vec<usize> = batch.iter().map(|offered| offered.item.source.len()).collect();
                if went.is_empty() {
                    assert_eq!((&sizes[..], full), (expected, expected_full), "{waiting:?}, {most}");
                }
                went.extend(sizes);
            }
            assert_eq!(went, waiting, "{most}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_document_for_which_nobody_waits_is_not_sent_and_a_line_without_ends_is_over() {
        let (ends, mut line) = Line::new();
        let (verdict, answer) = oneshot::channel();
        ends.fresh.try_send(Offered { verdict: Some(verdict), ..offered("gone", 1) }).unwrap();
        drop(answer);
        ends.fresh.try_send(offered("stays", 1)).unwrap();
        let Some(Next::One(Class::Fresh, first)) = line.next(ALL).await else { panic!("nobody") };
        assert_eq!(first.item, offered("stays", 1).item);
        drop(ends);
        assert!(line.next(ALL).await.is_none());
    }
}
