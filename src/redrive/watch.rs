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
    began_ms: u64,
    last: VecDeque<Sent>,
}

struct Sent {
    letter: Letter,
    id: MessageId,
    came_back: bool,
    recorded: bool,
}

impl Watched {
    pub(super) fn new(run_id: String, began_ms: u64) -> Self {
        Self { run_id, began_ms, last: VecDeque::new() }
    }

    /// A send was acknowledged.
    pub(super) fn sent(&mut self, letter: Letter, id: MessageId) {
        if self.last.len() >= LAST {
            self.last.pop_front();
        }
        self.last.push_back(Sent { letter, id, came_back: false, recorded: false });
    }

    /// Whether a letter was sent before by this run, or meanwhile by another.
    pub(super) fn came_back(&mut self, letter: &Letter) -> bool {
        let Some(run) = letter.run() else { return false };
        let first = letter.first_id();
        if let Some(sent) = self.last.iter_mut().find(|sent| sent.letter.first_id() == first) {
            sent.came_back = true;
            return true;
        }
        // Sent by another run and given up again since this one began: two that send each other's back would spend its
        // three redrives in minutes.
        run == self.run_id || letter.since_ms().is_some_and(|since| since >= self.began_ms)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::clock::unix_ms_of;
    use crate::message::s3_event::Wanted;
    use crate::message::{AttributeValue, Message, MessageAttribute, ReceiptHandle};

    const BEGAN: &str = "2026-11-22T14:00:00.000Z";

    fn letter(run: Option<&str>, first: &str, failed_at: &str) -> Letter {
        let note = serde_json::json!({
            "v": 1, "reason": "denied", "detail": "", "attempts": 5, "first_failed_at": failed_at, "last_failed_at": failed_at,
            "work_ids": [], "keys": [], "source_queue": "q", "message_id": first, "redrives": 1, "run": run,
        });
        let value = AttributeValue::Text(note.to_string());
        let attribute = MessageAttribute { data_type: "String".into(), value };
        let message = Message {
            id: MessageId("m".into()),
            handle: ReceiptHandle("h".into()),
            body: "{".into(),
            attributes: BTreeMap::from([("Quittance".to_owned(), attribute)]),
            receive_count: 1,
            sent_at_ms: None,
            group_id: None,
            moved_from: None,
        };
        Letter::read(Arc::new(message), &Wanted::new(Vec::new(), "results".into()))
    }

    #[test]
    fn what_this_run_or_meanwhile_another_has_sent_is_not_sent_again_and_only_our_own_counts_as_bouncing() {
        const BEFORE: &str = "2026-11-22T13:59:59.999Z";
        const LATER: &str = "2026-11-22T14:00:01.000Z";
        let mut watched = Watched::new("ours".into(), unix_ms_of(BEGAN).unwrap());
        watched.sent(letter(None, "sent", BEFORE), MessageId("new".into()));
        for (letter, expected, why) in [
            (letter(None, "never", LATER), false, "given up just now, and never redriven"),
            (
                letter(Some("theirs"), "old", BEFORE),
                false,
                "another run's of before: its work failed again, and was mended",
            ),
            (letter(Some("theirs"), "theirs", LATER), true, "another run sends at the same time"),
            (letter(Some("ours"), "long ago", LATER), true, "ours, of more than a hundred ago"),
        ] {
            assert_eq!(watched.came_back(&letter), expected, "{why}");
            assert_eq!(watched.is_bouncing(), None, "{why}");
        }
        // Ours, which another run has sent once more.
        assert!(watched.came_back(&letter(Some("theirs"), "sent", LATER)));
        assert_eq!(watched.is_bouncing(), Some((1, 1)));
    }
}
