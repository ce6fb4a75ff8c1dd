//! `redrive archive save`: a queue's messages as objects in S3, the safe alternative before a purge.
//!
//! Promises that a message counts as saved only when its object is acknowledged, and is deleted (`remove`) only after
//! that. Otherwise every message is held under its lease until the end and then returned, so that each is seen once; a
//! run that is killed lets go of them when their leases end. Nothing is charged and nothing dead-lettered, and a run that
//! cannot go on (nothing is written, no delete is acknowledged) ends rather than receive the same messages again and
//! again. What others hold in flight cannot be seen: it is counted and said.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Archive, Source};
use crate::books::BooksLine;
use crate::lease::Lease;
use crate::outcome::{Judgement, Outcome, Verdict};
use crate::queue::{Queue, QueueFacts};
use crate::redrive::hold::{self, Hold, bytes as weight};
use crate::settle::SettlerBroken;
use crate::upkeep::{Ended, Trouble, patiently};

/// Empty rounds of long polls in a row until the queue is asked for its counts.
const EMPTY_ROUNDS: u32 = 3;
/// And until it is not asked any more: what it counts is not handed out.
const MOST_EMPTY_ROUNDS: u32 = 20;
/// Failed rounds in a row until the queue is called sick.
const FAILED_ROUNDS: u32 = 4;
const POLL_AGAIN: Duration = Duration::from_secs(1);
/// Objects in a row that could not be written, each for a reason of its own: it is everybody's.
const UNSAVED_IN_A_ROW: u32 = 20;
/// Deletes not acknowledged yet with which it goes on: their leases are kept, for hours.
const UNDELETED: u64 = 200;
/// With more than that for so long and not one acknowledged, SQS is called sick; and so it is when as many leases end in a
/// row, for those messages come back, and would be saved in a circle until SQS moves them to the DLQ.
const UNDELETED_FOR: Duration = Duration::from_secs(300);
/// SQS's counts are approximate, and right within a minute when nobody sends: looks at them, and between two.
const LOOKS: u32 = 4;
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Held at once, at most. SQS's limit of messages in flight is about 120,000 and others have theirs; and the settler looks
/// at all that it holds at every turn, and extends each at a third of its lease.
pub const MOST_MESSAGES: usize = 20_000;
/// Bytes of messages that are held at once, but for one round of polls; more messages than that are for another run, or for
/// `--remove`.
const MOST_BYTES: usize = 512 * 1024 * 1024;

/// One run.
pub struct Save {
    /// The queue under leases; it has a seat for each message that is held, [`MOST_MESSAGES`] do.
    pub hold: Hold,
    /// The queue, for its counts.
    pub queue: Arc<dyn Queue>,
    /// Where letters are written.
    pub archive: Archive,
    /// Which of the two queues it is.
    pub source: Source,
    /// Delete each message once it is saved.
    pub remove: bool,
    /// At most so many messages; without `remove` no more than the hold has seats for.
    pub most: Option<usize>,
    /// Of this process, for the letters.
    pub run_id: String,
    /// Asked between two rounds of polls.
    pub stop: CancellationToken,
}

/// What was counted. `received = saved + unsaved`; `saved = removed + left` where every answer was heard.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Tally {
    /// Messages received, each once.
    pub received: u64,
    /// Objects that S3 acknowledged.
    pub saved: u64,
    /// Could not be written; returned.
    pub unsaved: u64,
    /// Bytes of the bodies that were saved.
    pub body_bytes: u64,
    /// Deletes that SQS acknowledged.
    pub removed: u64,
    /// Returned to the queue, by SQS's acknowledgement.
    pub returned: u64,
    /// Leases that ended without an acknowledgement: the messages come back, or were deleted late.
    pub lease_lost: u64,
}

/// A run as it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Counts.
    pub tally: Tally,
    /// How it ended.
    pub ended: Ended,
    /// Messages that the queue still counts and that were not seen: visible, delayed, and held by others.
    pub unseen: u64,
    /// It stopped at its limit of messages or bytes.
    pub at_limit: bool,
    /// The books.
    pub books: BooksLine,
}

impl Report {
    /// All that the queue holds is in the archive.
    pub fn is_well(&self) -> bool {
        self.tally.unsaved == 0 && self.unseen == 0
    }
}

/// Who listens to a run.
pub trait Sink: Send + Sync {
    /// A message could not be saved.
    fn trouble(&self, message_id: &str, why: &str);
    /// Some more were saved.
    fn progress(&self, tally: &Tally);
}

/// A run under way.
struct Run<'a> {
    of: Save,
    tally: Tally,
    sink: &'a dyn Sink,
    /// To be returned at the end: saved, or not to be.
    held: Vec<Lease>,
    held_bytes: usize,
    unsaved_in_a_row: u32,
    deletes: Deletes,
    at_limit: bool,
}

/// Deletes as the books show them.
#[derive(Default)]
struct Deletes {
    acknowledged: u64,
    /// Leases lost when the last one was acknowledged.
    lost_before: u64,
    /// Since when too many wait.
    waiting: Option<Instant>,
}

impl Deletes {
    /// Whether to wait for more of them; the error is SQS's sickness.
    fn wait(&mut self, books: &BooksLine, undeleted: u64) -> Result<bool, Trouble> {
        if books.deleted > self.acknowledged {
            *self = Self { acknowledged: books.deleted, lost_before: books.lease_lost, waiting: None };
        }
        let lost = books.lease_lost - self.lost_before;
        let waits = undeleted > UNDELETED;
        let since = self.waiting.filter(|_| waits).or_else(|| waits.then(Instant::now));
        self.waiting = since;
        if lost >= UNDELETED || since.is_some_and(|since| since.elapsed() >= UNDELETED_FOR) {
            return Err(Trouble::Sick(format!("SQS: {} deletes were not acknowledged", lost + undeleted)));
        }
        Ok(waits)
    }
}

/// What the next round may ask for.
enum Room {
    For(usize),
    /// Deletes have to be acknowledged first.
    Wait,
    None,
}

impl Save {
    /// Saves what the queue hands out until it is empty.
    pub async fn run(self, sink: &dyn Sink) -> Result<Report, SettlerBroken> {
        let mut run = Run {
            of: self,
            tally: Tally::default(),
            sink,
            held: Vec::new(),
            held_bytes: 0,
            unsaved_in_a_row: 0,
            deletes: Deletes::default(),
            at_limit: false,
        };
        let sick = run.until_empty().await.err();
        let Run { of, mut tally, held, at_limit, .. } = run;
        let Save { hold, queue, remove, stop, .. } = of;
        let counts = sick.is_none() && !stop.is_cancelled();
        let mut unseen = Ok(0);
        if counts && !remove {
            // Counted while ours are still held: what else is in flight is in the hands of others.
            unseen = count_beside(queue.as_ref(), held.len() as u64).await;
        }
        let books = hold.end(held).await?;
        if counts && remove {
            unseen = count_beside(queue.as_ref(), books.returned).await;
        }
        (tally.removed, tally.returned, tally.lease_lost) = (books.deleted, books.returned, books.lease_lost);
        let (unseen, uncounted) = match unseen {
            Ok(unseen) => (unseen, None),
            Err(trouble) => (0, Some(trouble)),
        };
        let ended = match sick.or(uncounted) {
            Some(trouble) => Ended::Sick(trouble.to_string()),
            None if stop.is_cancelled() => Ended::Interrupted,
            None => Ended::Complete,
        };
        Ok(Report { tally, ended, unseen, at_limit, books })
    }
}

/// Messages that the queue counts beside those that we know of.
async fn count_beside(queue: &dyn Queue, known: u64) -> Result<u64, Trouble> {
    let mut beside = 0;
    for look in 0..LOOKS {
        if look > 0 {
            sleep(LOOK_AGAIN).await;
        }
        let QueueFacts { visible, delayed, in_flight, .. } = patiently(|| queue.facts()).await?;
        beside = (visible + delayed + in_flight).saturating_sub(known);
        if beside == 0 {
            break;
        }
    }
    Ok(beside)
}

impl Run<'_> {
    /// Round after round, until nothing is visible or about to be, until it is told to stop, or at a limit.
    async fn until_empty(&mut self) -> Result<(), Trouble> {
        let (mut empty, mut failed) = (0, 0);
        while !self.of.stop.is_cancelled() {
            let room = match self.room()? {
                Room::For(room) => room,
                Room::Wait => {
                    sleep(POLL_AGAIN).await;
                    continue;
                }
                Room::None => {
                    self.at_limit = true;
                    return Ok(());
                }
            };
            let asked = Instant::now();
            match self.of.hold.receive(room).await {
                Ok(leases) if leases.is_empty() => {
                    (empty, failed) = (empty + 1, 0);
                    if empty >= EMPTY_ROUNDS {
                        let QueueFacts { visible, delayed, .. } = patiently(|| self.of.queue.facts()).await?;
                        if visible + delayed == 0 || empty >= MOST_EMPTY_ROUNDS {
                            return Ok(());
                        }
                    }
                    // A queue that does not wait for messages must not be asked in a circle.
                    if asked.elapsed() < hold::WAIT / 2 {
                        sleep(POLL_AGAIN).await;
                    }
                }
                Ok(leases) => {
                    (empty, failed) = (0, 0);
                    self.save(leases).await?;
                    self.sink.progress(&self.tally);
                }
                Err(error) => {
                    failed += 1;
                    if failed >= FAILED_ROUNDS {
                        return Err(error.into());
                    }
                    sleep(POLL_AGAIN).await;
                }
            }
        }
        Ok(())
    }

    fn room(&mut self) -> Result<Room, Trouble> {
        let taken = usize::try_from(self.tally.received).unwrap_or(usize::MAX);
        let most = self.of.most.unwrap_or(usize::MAX).saturating_sub(taken);
        let seats = self.of.hold.seats().saturating_sub(self.held.len());
        if most.min(seats) == 0 || self.held_bytes >= MOST_BYTES {
            return Ok(Room::None);
        }
        if self.of.remove {
            let books = self.of.hold.books();
            let undeleted = books.in_flight.saturating_sub(self.held.len() as u64);
            if self.deletes.wait(&books, undeleted)? {
                return Ok(Room::Wait);
            }
        }
        Ok(Room::For(most.min(seats)))
    }

    /// All of a round at once. The error is everybody's; the round is counted first.
    async fn save(&mut self, leases: Vec<Lease>) -> Result<(), Trouble> {
        self.tally.received += leases.len() as u64;
        let (archive, source, run_id) = (&self.of.archive, self.of.source, self.of.run_id.as_str());
        let written = join_all(leases.into_iter().map(async |lease| {
            let message = lease.message();
            let written =
                patiently(|| async { archive.save(message, source, Some(run_id)).await.map_err(Trouble::from) });
            (written.await, lease)
        }));
        let mut sick = None;
        for (written, lease) in written.await {
            let (bytes, weight) = (lease.message().body.len(), weight(&lease));
            match written {
                Ok(_key) => {
                    self.tally.saved += 1;
                    self.tally.body_bytes += bytes as u64;
                    self.unsaved_in_a_row = 0;
                    if self.of.remove {
                        lease.settle(Judgement::without_work(Verdict::Judged(Outcome::Done)));
                        continue;
                    }
                }
                Err(trouble) => {
                    self.tally.unsaved += 1;
                    self.unsaved_in_a_row += 1;
                    self.sink.trouble(&lease.message().id.0, &trouble.to_string());
                    let is_sick = match &trouble {
                        Trouble::Sick(_) => true,
                        Trouble::Own(_) => self.unsaved_in_a_row >= UNSAVED_IN_A_ROW,
                    };
                    if is_sick {
                        sick.get_or_insert(trouble);
                    }
                }
            }
            // What was not saved as well: returned now it would be received again by this very run.
            self.held_bytes += weight;
            self.held.push(lease);
        }
        sick.map_or(Ok(()), Err)
    }
}
