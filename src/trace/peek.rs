//! A look into the dead-letter queue: messages are received, read, and returned.
//!
//! Promises a bounded number and time, that every message it received is returned before it ends (told to stop too), and
//! that it says what it cost: SQS counts each look as a receive. Nothing is deleted or sent.

use std::sync::Arc;

use tokio::time::{Duration, Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::PATIENCE;
use super::findings::{Letters, Look};
use super::letters::{Sought, of_queue};
use crate::clock::rfc3339;
use crate::message::detail::detail;
use crate::message::{Message, ReceiptHandle};
use crate::queue::{BatchSize, Queue, SQS_MAX_BATCH};

/// For all receives together.
const LOOK_FOR: Duration = Duration::from_secs(5);
/// One poll: long enough that SQS asks all its servers.
pub(super) const POLL: Duration = Duration::from_secs(1);
/// Longer than the look, and short for one that is killed: then its messages come back by themselves.
const HIDDEN: Duration = Duration::from_secs(30);
/// Empty polls in a row.
const EMPTY: u32 = 2;
/// Tries to return one message.
const TRIES: u32 = 3;

/// What looks.
pub struct Peek {
    /// The dead-letter queue.
    pub queue: Arc<dyn Queue>,
    /// Messages, at most.
    pub most: usize,
    /// Ends the look early.
    pub stop: CancellationToken,
}

impl Peek {
    pub(super) async fn look(&self, sought: &Sought) -> Look<Letters> {
        let there = match timeout(PATIENCE, self.queue.facts()).await {
            Ok(Ok(facts)) => facts.visible + facts.in_flight,
            Ok(Err(error)) => return Look::Unheard(detail(&error.to_string())),
            Err(_) => return Look::Unheard(super::no_answer()),
        };
        let until = Instant::now() + LOOK_FOR;
        let (mut letters, mut held, mut empty, mut trouble) = (Letters::default(), Vec::new(), 0, None);
        while empty < EMPTY && letters.read < self.most && Instant::now() < until && !self.stop.is_cancelled() {
            let most = BatchSize::clamped(self.most - letters.read);
            match timeout(PATIENCE, self.queue.receive(most, POLL, HIDDEN)).await {
                Ok(Ok(messages)) if messages.is_empty() => empty += 1,
                Ok(Ok(messages)) => {
                    empty = 0;
                    letters.read += messages.len();
                    for Message { handle, .. } in &messages {
                        held.push(handle.clone());
                    }
                    let read = messages.iter().map(|message| of_queue(message, message.sent_at_ms.map(rfc3339)));
                    letters.found.extend(read.filter(|letter| sought.is_in(letter)));
                    if matches!(sought, Sought::Message(_)) && !letters.found.is_empty() {
                        break;
                    }
                }
                Ok(Err(error)) => trouble = Some(detail(&error.to_string())),
                Err(_) => trouble = Some(super::no_answer()),
            }
            if trouble.is_some() {
                break;
            }
        }
        if self.stop.is_cancelled() {
            trouble.get_or_insert_with(|| "it was told to stop".to_owned());
        }
        let not_returned = self.give_back(held).await;
        letters.more = trouble.is_some() || (letters.read as u64) < there;
        letters.notes = notes(letters.read, there, not_returned, trouble.as_deref());
        match trouble {
            Some(why) if letters.read == 0 => Look::Unheard(why),
            // Also where nothing was found: what the look has cost is told.
            Some(_) | None => Look::Found(letters),
        }
    }

    /// Those that could not be returned.
    async fn give_back(&self, handles: Vec<ReceiptHandle>) -> usize {
        let mut left = handles;
        for _ in 0..TRIES {
            let mut refused = Vec::new();
            for some in left.chunks(SQS_MAX_BATCH) {
                let entries: Vec<_> = some.iter().map(|handle| (handle.clone(), Duration::ZERO)).collect();
                let replies = timeout(PATIENCE, self.queue.change_visibility(&entries)).await;
                match replies {
                    Ok(Ok(replies)) => {
                        let with = some.iter().enumerate().map(|(at, handle)| (handle, replies.get(at)));
                        // A receipt that is nobody's any more needs no return.
                        let back = |reply: Option<&Result<(), crate::queue::Refusal>>| {
                            reply.is_some_and(|reply| reply.as_ref().err().is_none_or(|refusal| refusal.is_final()))
                        };
                        refused.extend(with.filter(|(_, reply)| !back(*reply)).map(|(handle, _)| handle.clone()));
                    }
                    Ok(Err(_)) | Err(_) => refused.extend_from_slice(some),
                }
            }
            left = refused;
            if left.is_empty() {
                break;
            }
        }
        left.len()
    }
}

fn notes(read: usize, there: u64, not_returned: usize, trouble: Option<&str>) -> Vec<String> {
    let mut notes = vec![format!("{read} of about {there} received (which counts as a receive of each) and returned")];
    if not_returned > 0 {
        notes.push(format!("{not_returned} could not be returned: they are hidden for {HIDDEN:?} at most"));
    }
    notes.extend(trouble.map(|why| format!("the look ended early: {why}")));
    notes
}
