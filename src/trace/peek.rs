//! A look into the dead-letter queue: messages are received under leases, read, and returned.
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
use crate::queue::Queue;
use crate::redrive::hold::{Grip, Hold};

/// For all receives together.
const LOOK_FOR: Duration = Duration::from_secs(5);
/// Longer than the look, and short for one that is killed: then its messages come back by themselves.
pub(super) const HIDDEN: Duration = Duration::from_secs(30);
/// Empty rounds of polls.
const EMPTY: u32 = 2;

/// What looks.
pub struct Peek {
    /// The dead-letter queue, for its counts.
    pub queue: Arc<dyn Queue>,
    /// The same, for leases of 30 s.
    pub grip: Grip,
    /// Messages, at most.
    pub most: usize,
    /// Ends the look early.
    pub stop: CancellationToken,
}

impl Peek {
    pub(super) async fn look(self, sought: &Sought) -> Look<Letters> {
        let Self { queue, grip, most, stop } = self;
        let there = match timeout(PATIENCE, queue.facts()).await {
            Ok(Ok(facts)) => facts.visible + facts.in_flight,
            Ok(Err(error)) => return Look::Unheard(detail(&error.to_string())),
            Err(_) => return Look::Unheard(super::no_answer()),
        };
        let (hold, until) = (Hold::new(grip), Instant::now() + LOOK_FOR);
        let (mut letters, mut held, mut empty, mut trouble) = (Letters::default(), Vec::new(), 0, None);
        while empty < EMPTY && letters.read < most && Instant::now() < until && !stop.is_cancelled() {
            let leases = match hold.receive(most - letters.read).await {
                Ok(leases) => leases,
                Err(error) => {
                    trouble = Some(detail(&error.to_string()));
                    break;
                }
            };
            empty = if leases.is_empty() { empty + 1 } else { 0 };
            letters.read += leases.len();
            let read = leases.iter().map(|lease| of_queue(lease.message(), lease.message().sent_at_ms.map(rfc3339)));
            letters.found.extend(read.filter(|letter| sought.is_in(letter)));
            held.extend(leases);
            if matches!(sought, Sought::Message(_)) && !letters.found.is_empty() {
                break;
            }
        }
        if stop.is_cancelled() {
            trouble.get_or_insert_with(|| "it was told to stop".to_owned());
        }
        let not_returned = match hold.end(held).await {
            Ok(books) => books.received - books.returned,
            Err(broken) => {
                trouble.get_or_insert_with(|| broken.to_string());
                letters.read as u64
            }
        };
        letters.more = trouble.is_some() || (letters.read as u64) < there;
        letters.notes = notes(letters.read, there, not_returned, trouble.as_deref());
        match trouble {
            Some(why) if letters.read == 0 => Look::Unheard(why),
            // Also where nothing was found: what the look has cost is told.
            Some(_) | None => Look::Found(letters),
        }
    }
}

fn notes(read: usize, there: u64, not_returned: u64, trouble: Option<&str>) -> Vec<String> {
    let mut notes = vec![format!("{read} of about {there} received (which counts as a receive of each) and returned")];
    if not_returned > 0 {
        notes.push(format!("{not_returned} could not be returned: they are hidden for {HIDDEN:?} at most"));
    }
    notes.extend(trouble.map(|why| format!("the look ended early: {why}")));
    notes
}
