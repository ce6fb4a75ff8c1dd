//! Messages to the main queue: in batches of ten, paced, each entry's reply read.
//!
//! Promises that a message counts as sent only when the queue has acknowledged it, that no second sees more than the
//! rate, and that it gives up within bounds: an entry may be sent twice (a reply that says nothing), which is harmless,
//! for its work is the same.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Trouble, limited};
use crate::queue::{Outgoing, Queue, SQS_MAX_BATCH};

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
    /// How many of it were acknowledged.
    pub sent: usize,
    /// What the queue said last.
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

    /// Sends up to [`Outbox::batch`] messages, and again what was refused.
    pub async fn send(&mut self, bodies: &[String]) -> Result<(), Unsent> {
        let outgoing = |body: &String| Outgoing { body: body.clone(), attributes: BTreeMap::new(), group_id: None };
        let mut left: Vec<Outgoing> = bodies.iter().map(outgoing).collect();
        let (mut wait, mut why) = (FIRST_WAIT, String::new());
        for round in 0..ROUNDS {
            if left.is_empty() {
                return Ok(());
            }
            if round > 0 {
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
            self.pace(left.len()).await;
            match limited(self.queue.send_batch(&left)).await {
                Err(Trouble::Sick(told) | Trouble::Own(told)) => why = told,
                Ok(replies) => {
                    let mut replies = replies.into_iter();
                    // One reply for each, in order; what has none was not acknowledged.
                    left.retain(|_| match replies.next() {
                        Some(Ok(_)) => false,
                        Some(Err(refusal)) => {
                            why = format!("SQS refused an entry: {}", refusal.code);
                            true
                        }
                        None => true,
                    });
                }
            }
        }
        if left.is_empty() { Ok(()) } else { Err(Unsent { sent: bodies.len() - left.len(), why }) }
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
