//! Messages to the main queue: in batches of ten and 1 MiB, paced, each entry's reply read.
//!
//! Promises that a message counts as sent only when the queue has acknowledged it, that no second sees more than the
//! rate, and that it gives up within bounds: an entry may be sent twice (a reply that says nothing), which is harmless,
//! for its work is the same.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Trouble, limited};
use crate::message::MessageId;
use crate::queue::{Outgoing, Queue, QueueError, SQS_MAX_BATCH, SQS_MAX_MESSAGE_BYTES};

/// Sends of one batch until what is left is given up.
const ROUNDS: u32 = 6;
/// Before the second of them; doubling.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The way into the main queue.
pub struct Outbox {
    queue: Arc<dyn Queue>,
    rate: u32,
    next: Option<Instant>,
    /// Sends of the last second.
    lately: VecDeque<(Instant, usize)>,
}

/// A batch that is not wholly in the queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsent {
    /// Places in the batch of those that were not acknowledged, ascending.
    pub left: Vec<usize>,
    /// The queue answered for each of them and took none: rather their own trouble than the queue's.
    pub refused: bool,
    /// What the queue said last.
    pub why: String,
}

/// What became of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Posted {
    /// The id of each, in order; `None` was not acknowledged.
    pub ids: Vec<Option<MessageId>>,
    /// As [`Unsent::refused`].
    pub refused: bool,
    /// What the queue said last of those.
    pub why: String,
}

impl Outbox {
    /// `rate`: messages per second, 1 or more.
    pub fn new(queue: Arc<dyn Queue>, rate: u32) -> Self {
        Self { queue, rate: rate.max(1), next: None, lately: VecDeque::new() }
    }

    /// How many messages to hand over at once: never more than one second's.
    pub fn batch(&self) -> usize {
        SQS_MAX_BATCH.min(usize::try_from(self.rate).unwrap_or(SQS_MAX_BATCH))
    }

    /// As [`Outbox::send`], of messages that have nothing but a body.
    pub async fn send_bodies(&mut self, bodies: &[String]) -> Result<(), Unsent> {
        let plain = |body: &String| Outgoing { body: body.clone(), attributes: BTreeMap::new(), group_id: None };
        self.send(&bodies.iter().map(plain).collect::<Vec<_>>()).await
    }

    /// As [`Outbox::post`], where nobody needs the ids.
    pub async fn send(&mut self, messages: &[Outgoing]) -> Result<(), Unsent> {
        let Posted { ids, refused, why } = self.post(messages).await;
        let left: Vec<usize> = ids.iter().enumerate().filter(|(_, id)| id.is_none()).map(|(at, _)| at).collect();
        if left.is_empty() { Ok(()) } else { Err(Unsent { left, refused, why }) }
    }

    /// Sends up to [`Outbox::batch`] messages, and again what was refused; in several calls where they have more than
    /// SQS's 1 MiB together, and each on its own where a whole call was refused: one message may be to blame.
    pub async fn post(&mut self, messages: &[Outgoing]) -> Posted {
        let mut left: Vec<usize> = (0..messages.len()).collect();
        let mut posted = Posted { ids: vec![None; messages.len()], refused: true, why: String::new() };
        let mut alone = BTreeSet::new();
        let mut wait = FIRST_WAIT;
        for round in 0..ROUNDS {
            if left.is_empty() {
                break;
            }
            if round > 0 {
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
            let mut again = Vec::new();
            posted.refused = true;
            for call in calls(messages, &left, &alone) {
                self.pace(call.len()).await;
                let entries: Vec<Outgoing> = call.iter().filter_map(|at| messages.get(*at)).cloned().collect();
                let reply = async {
                    match self.queue.send_batch(&entries).await {
                        Err(QueueError::Refused(why)) => Ok(Err(why)),
                        reply => reply.map(Ok),
                    }
                };
                match limited(reply).await {
                    Err(Trouble::Sick(told) | Trouble::Own(told)) => {
                        (posted.why, posted.refused) = (told, false);
                        again.extend(call);
                    }
                    Ok(Err(why)) => {
                        posted.why = format!("SQS refused it: {why}");
                        // One of them may be to blame. Alone it is refused for itself, and the same again cannot help.
                        if call.len() > 1 {
                            alone.extend(call.iter().copied());
                            again.extend(call);
                        }
                    }
                    Ok(Ok(replies)) => {
                        let mut replies = replies.into_iter();
                        // One reply for each, in order; what has none was not acknowledged.
                        for at in call {
                            match (replies.next(), posted.ids.get_mut(at)) {
                                (Some(Ok(id)), Some(slot)) => *slot = Some(id),
                                (Some(Err(refusal)), _) => {
                                    posted.why = format!("SQS refused an entry: {}", refusal.code);
                                    posted.refused &= refusal.sender_fault;
                                    again.push(at);
                                }
                                (None, _) | (Some(Ok(_)), None) => {
                                    posted.refused = false;
                                    again.push(at);
                                }
                            }
                        }
                    }
                }
            }
            left = again;
        }
        posted
    }

    /// Even steps; and, for batches differ in size, never more within any second than the rate.
    async fn pace(&mut self, messages: usize) {
        const WINDOW: Duration = Duration::from_secs(1);
        if let Some(next) = self.next {
            tokio::time::sleep_until(next).await;
        }
        let most = usize::try_from(self.rate).unwrap_or(usize::MAX);
        loop {
            let now = Instant::now();
            while self.lately.front().is_some_and(|(at, _)| *at + WINDOW <= now) {
                self.lately.pop_front();
            }
            let sent: usize = self.lately.iter().map(|(_, sent)| sent).sum();
            match self.lately.front() {
                Some((at, _)) if sent + messages > most => tokio::time::sleep_until(*at + WINDOW).await,
                Some(_) | None => break,
            }
        }
        let now = Instant::now();
        self.lately.push_back((now, messages));
        self.next = Some(now + WINDOW.mul_f64(messages as f64 / f64::from(self.rate)));
    }
}

/// The messages at these places as calls that SQS takes: 1 MiB together, if there is more than one, and those `alone`
/// one by one.
fn calls(messages: &[Outgoing], places: &[usize], alone: &BTreeSet<usize>) -> Vec<Vec<usize>> {
    let mut calls: Vec<Vec<usize>> = Vec::new();
    let mut room = None;
    for at in places {
        if alone.contains(at) {
            calls.push(vec![*at]);
            room = None;
            continue;
        }
        let bytes = messages.get(*at).map_or(0, Outgoing::bytes);
        let left = room.and_then(|room: usize| room.checked_sub(bytes));
        match calls.last_mut().filter(|call| call.len() < SQS_MAX_BATCH && left.is_some()) {
            Some(call) => {
                call.push(*at);
                room = left;
            }
            None => {
                calls.push(vec![*at]);
                room = Some(SQS_MAX_MESSAGE_BYTES.saturating_sub(bytes));
            }
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;
    use crate::message::{Message, ReceiptHandle};
    use crate::queue::{BatchSize, EntryReply, QueueFacts, SendReply};

    /// Refuses each call that has a bad message in it; remembers what it took, and how many calls there were.
    #[derive(Default)]
    struct Picky(Mutex<(Vec<String>, usize)>);

    const NOT_ASKED: &str = "nobody asks this";

    #[async_trait]
    impl Queue for Picky {
        async fn receive(&self, _: BatchSize, _: Duration, _: Duration) -> Result<Vec<Message>, QueueError> {
            Err(QueueError::Refused(NOT_ASKED.into()))
        }
        async fn delete(&self, _: &[ReceiptHandle]) -> Result<Vec<EntryReply>, QueueError> {
            Err(QueueError::Refused(NOT_ASKED.into()))
        }
        async fn change_visibility(&self, _: &[(ReceiptHandle, Duration)]) -> Result<Vec<EntryReply>, QueueError> {
            Err(QueueError::Refused(NOT_ASKED.into()))
        }
        async fn send(&self, _: &Outgoing) -> Result<MessageId, QueueError> {
            Err(QueueError::Refused(NOT_ASKED.into()))
        }
        async fn send_batch(&self, messages: &[Outgoing]) -> Result<Vec<SendReply>, QueueError> {
            let mut seen = self.0.lock().unwrap();
            seen.1 += 1;
            if messages.iter().any(|message| message.body.starts_with("bad")) {
                return Err(QueueError::Refused("InvalidParameterValue".into()));
            }
            seen.0.extend(messages.iter().map(|message| message.body.clone()));
            Ok(messages.iter().map(|message| Ok(MessageId(message.body.clone()))).collect())
        }
        async fn facts(&self) -> Result<QueueFacts, QueueError> {
            Err(QueueError::Refused(NOT_ASKED.into()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_for_which_a_whole_call_is_refused_stays_alone() {
        let queue = Arc::new(Picky::default());
        let mut outbox = Outbox::new(queue.clone(), 1_000);
        let bodies: Vec<String> =
            (0..10).map(|n| if n == 3 || n == 7 { format!("bad{n}") } else { format!("{n}") }).collect();
        let unsent = outbox.send_bodies(&bodies).await.unwrap_err();
        assert_eq!((unsent.left, unsent.refused), (vec![3, 7], true), "their own trouble");
        assert!(unsent.why.contains("InvalidParameterValue"));
        let (mut took, calls) = std::mem::take(&mut *queue.0.lock().unwrap());
        took.sort();
        assert_eq!((took, calls), (["0", "1", "2", "4", "5", "6", "8", "9"].map(String::from).to_vec(), 11));
    }

    #[test]
    fn no_call_has_more_than_ten_messages_or_a_mebibyte() {
        let sized = |size: &usize| Outgoing { body: "x".repeat(*size), attributes: BTreeMap::new(), group_id: None };
        let most = SQS_MAX_MESSAGE_BYTES;
        for (sizes, expected) in [
            (vec![], vec![]),
            (vec![1; 10], vec![10]),
            (vec![1; 23], vec![10, 10, 3]),
            (vec![most / 2, most / 2, 1], vec![2, 1]),
            (vec![most / 2 + 1, most / 2, 1], vec![1, 2]),
            (vec![most, 1, most], vec![1, 1, 1]),
        ] {
            let messages: Vec<Outgoing> = sizes.iter().map(sized).collect();
            let all: Vec<usize> = (0..messages.len()).collect();
            let calls = calls(&messages, &all, &BTreeSet::new());
            assert_eq!(calls.iter().map(Vec::len).collect::<Vec<_>>(), expected, "{sizes:?}");
            assert_eq!(calls.concat(), all, "each once, in order");
        }
    }
}
