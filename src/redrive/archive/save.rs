//! `redrive archive save`: a queue's messages as objects in S3, the safe alternative before a purge.
//!
//! Promises that a message counts as saved only when its object is acknowledged, and is deleted (`remove`) only after
//! that. Otherwise every message is held under its lease until the end and then returned, so that each is seen once; a
//! run that is killed lets go of them when their leases end. Nothing is charged and nothing dead-lettered. What others
//! hold in flight cannot be seen: it is counted and said.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{Archive, Source};
use crate::books::BooksLine;
use crate::lease::{Intake, Lease};
use crate::outcome::{Judgement, Outcome, Verdict};
use crate::pipeline::{Seat, how_it_broke, start_settler};
use crate::queue::{BatchSize, Queue, QueueFacts, SQS_MAX_BATCH};
use crate::receive::poll_wait;
use crate::settle::{Desk, Settler, SettlerBroken};
use crate::upkeep::{Ended, Trouble, patiently};

/// Receivers at work side by side: at 10 ms a poll and 30 ms an object some 1,000 messages a second.
const RECEIVERS: usize = 4;
/// Lease of a message that is held; extended by heartbeat. A run that is killed hides messages for this long.
pub const LEASE: Duration = Duration::from_secs(120);
/// Long enough to ask all of SQS's servers, and short enough for somebody who waits for the end.
pub const POLL_WAIT: Duration = Duration::from_secs(5);
/// Empty long polls in a row until the queue is asked for its counts.
const EMPTY_POLLS: u32 = 8;
/// And until it is not asked any more: what it counts is not handed out.
const MOST_EMPTY_POLLS: u32 = 40;
/// Failed polls in a row, of all receivers, until the queue is called sick.
const FAILED_POLLS: u32 = 12;
/// Objects in a row that could not be written, each for a reason of its own: it is everybody's.
const UNSAVED_IN_A_ROW: u32 = 20;
/// SQS's counts are approximate, and right within a minute when nobody sends: looks at them, and between two.
const LOOKS: u32 = 4;
const LOOK_AGAIN: Duration = Duration::from_secs(5);
const POLL_AGAIN: Duration = Duration::from_secs(1);
/// A poll may last this much longer than its wait.
const POLL_GRACE: Duration = Duration::from_secs(15);
/// Held messages that are let go together: their returns are calls of ten each.
const LET_GO: usize = 100;
/// Held at once, at most. SQS's limit of messages in flight is about 120,000 and others have theirs; and the settler looks
/// at all that it holds at every turn, and extends each every 40 s.
pub const MOST_MESSAGES: usize = 20_000;
/// Bodies that are held at once; more messages than that are for another run, or for `--remove`.
const MOST_BYTES: usize = 512 * 1024 * 1024;

/// One run.
pub struct Save {
    /// The queue, on the polling client.
    pub queue: Arc<dyn Queue>,
    /// The settler's desk, on its own client; it counts no failures.
    pub desk: Desk,
    /// Where the settler runs.
    pub seat: Seat,
    /// Where letters are written.
    pub archive: Archive,
    /// Which of the two queues it is.
    pub source: Source,
    /// Delete each message once it is saved.
    pub remove: bool,
    /// At most so many messages; without `remove` no more than [`MOST_MESSAGES`] are held.
    pub most: Option<usize>,
    /// Of this process, for the letters.
    pub run_id: String,
    /// Asked between two polls.
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

/// What the receivers share.
#[derive(Default)]
struct Shared {
    tally: Tally,
    /// Saved, and to be returned at the end.
    held: Vec<Lease>,
    held_bytes: usize,
    /// Asked for by polls that are open.
    claimed: usize,
    empty: u32,
    failed: u32,
    unsaved_in_a_row: u32,
    at_limit: bool,
    sick: Option<String>,
    over: bool,
}

impl Save {
    /// Saves what the queue hands out until it is empty.
    pub async fn run(self, sink: &dyn Sink) -> Result<Report, SettlerBroken> {
        let Self { queue, desk, seat, archive, source, remove, most, run_id, stop } = self;
        let held_at_most = most.unwrap_or(MOST_MESSAGES).min(MOST_MESSAGES);
        let most = if remove { most.unwrap_or(usize::MAX) } else { held_at_most };
        // A seat for every message that may be held, and for every open poll.
        let (intake, words) = Intake::new(RECEIVERS * SQS_MAX_BATCH + held_at_most);
        let (books, clock, visibility) = (Arc::clone(&desk.books), desk.lease_clock.clone(), desk.visibility);
        let mut settler = start_settler(Settler::new(desk, words), seat);
        let shared = Mutex::new(Shared::default());
        {
            let receiver = Receiver {
                queue: queue.as_ref(),
                archive: &archive,
                intake: &intake,
                shared: &shared,
                stop: &stop,
                sink,
                wait: poll_wait(visibility).min(POLL_WAIT),
                visibility,
                clock: &clock,
                source,
                remove,
                most,
                run_id: &run_id,
            };
            let receivers = futures_util::future::join_all((0..RECEIVERS).map(|_| receiver.run()));
            tokio::select! {
                biased;
                _ = receivers => {}
                broken = &mut settler => return Err(how_it_broke(broken)),
            }
        }
        let mut held = std::mem::take(&mut lock(&shared).held);
        let mut unseen = Ok(0);
        let sick = lock(&shared).sick.take();
        if !remove && sick.is_none() && !stop.is_cancelled() {
            // Counted while ours are still held: what else is in flight is in the hands of others.
            unseen = count_beside(queue.as_ref(), held.len() as u64).await;
        }
        while !held.is_empty() {
            held.truncate(held.len().saturating_sub(LET_GO));
            // Given back when SQS has answered: a queue of thousands is not returned in one burst.
            tokio::select! {
                biased;
                () = intake.at_most(held.len()) => {}
                broken = &mut settler => return Err(how_it_broke(broken)),
            }
        }
        drop(intake);
        match settler.await {
            Ok(Ok(())) => {}
            broken @ (Ok(Err(_)) | Err(_)) => return Err(how_it_broke(broken)),
        }
        let books = books.snapshot(true);
        if remove && sick.is_none() && !stop.is_cancelled() {
            unseen = count_beside(queue.as_ref(), books.returned).await;
        }
        let Shared { mut tally, at_limit, .. } = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        (tally.removed, tally.returned, tally.lease_lost) = (books.deleted, books.returned, books.lease_lost);
        let (unseen, uncounted) = match unseen {
            Ok(unseen) => (unseen, None),
            Err(trouble) => (0, Some(trouble.to_string())),
        };
        let ended = match sick.or(uncounted) {
            Some(why) => Ended::Sick(why),
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
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let QueueFacts { visible, delayed, in_flight, .. } = patiently(|| queue.facts()).await?;
        beside = (visible + delayed + in_flight).saturating_sub(known);
        if beside == 0 {
            break;
        }
    }
    Ok(beside)
}

/// One of several that receive and write.
struct Receiver<'a> {
    queue: &'a dyn Queue,
    archive: &'a Archive,
    intake: &'a Intake,
    shared: &'a Mutex<Shared>,
    stop: &'a CancellationToken,
    sink: &'a dyn Sink,
    wait: Duration,
    visibility: Duration,
    clock: &'a crate::clock::LeaseClock,
    source: Source,
    remove: bool,
    most: usize,
    run_id: &'a str,
}

impl Receiver<'_> {
    async fn run(&self) {
        while let Some(claim) = self.claim() {
            let Some(seats) = self.intake.seats(1, claim).await else { return };
            // Not cancelled by the stop: an aborted poll still hides what it was about to hand out.
            let sent = self.clock.now();
            let poll = self.queue.receive(BatchSize::clamped(seats.len()), self.wait, self.visibility);
            let trouble = match tokio::time::timeout(self.wait + POLL_GRACE, poll).await {
                Ok(Ok(messages)) if messages.is_empty() => None,
                Ok(Ok(messages)) => {
                    let leases = self.intake.admit(messages, seats, sent).await;
                    {
                        let mut shared = lock(self.shared);
                        (shared.empty, shared.failed) = (0, 0);
                        shared.tally.received += leases.len() as u64;
                        shared.claimed = shared.claimed.saturating_sub(claim);
                    }
                    futures_util::future::join_all(leases.into_iter().map(|lease| self.save(lease))).await;
                    let tally = lock(self.shared).tally.clone();
                    self.sink.progress(&tally);
                    continue;
                }
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("the poll hung past its wait".to_owned()),
            };
            drop(seats);
            let pause = self.nothing_came(claim, trouble);
            self.is_over().await;
            // A queue that does not wait for messages must not be asked in a circle.
            if pause || self.clock.now().saturating_duration_since(sent) < self.wait / 2 {
                tokio::time::sleep(POLL_AGAIN).await;
            }
        }
    }

    /// Counts a poll that brought nothing; whether to wait before the next.
    fn nothing_came(&self, claim: usize, trouble: Option<String>) -> bool {
        let mut shared = lock(self.shared);
        shared.claimed = shared.claimed.saturating_sub(claim);
        let Some(why) = trouble else {
            (shared.empty, shared.failed) = (shared.empty + 1, 0);
            return false;
        };
        shared.failed += 1;
        if shared.failed >= FAILED_POLLS {
            shared.sick.get_or_insert_with(|| format!("SQS: {why}"));
        }
        true
    }

    /// How many messages the next poll may ask for; `None`: no more polls.
    fn claim(&self) -> Option<usize> {
        let mut shared = lock(self.shared);
        if shared.over || shared.sick.is_some() || self.stop.is_cancelled() {
            return None;
        }
        let taken = usize::try_from(shared.tally.received).unwrap_or(usize::MAX);
        let room = self.most.saturating_sub(taken).saturating_sub(shared.claimed);
        if room == 0 || shared.held_bytes >= MOST_BYTES {
            // An open poll may come back empty, but then the queue is.
            shared.at_limit |= shared.held_bytes >= MOST_BYTES || taken >= self.most;
            return None;
        }
        let claim = room.min(SQS_MAX_BATCH);
        shared.claimed += claim;
        Some(claim)
    }

    /// Ends all polls where nothing is visible or about to be, or where the queue hands out none of it.
    async fn is_over(&self) {
        let empty = lock(self.shared).empty;
        if empty < EMPTY_POLLS {
            return;
        }
        let facts = patiently(|| self.queue.facts()).await;
        let mut shared = lock(self.shared);
        match facts {
            Ok(facts) => shared.over |= facts.visible + facts.delayed == 0 || empty >= MOST_EMPTY_POLLS,
            Err(trouble) => drop(shared.sick.get_or_insert_with(|| trouble.to_string())),
        }
    }

    async fn save(&self, lease: Lease) {
        let message = Arc::clone(lease.message());
        let written = patiently(|| async {
            let saved = self.archive.save(&message, self.source, Some(self.run_id)).await;
            saved.map_err(Trouble::from)
        });
        let written = written.await;
        let mut shared = lock(self.shared);
        match written {
            Ok(_key) => {
                let bytes = message.body.len();
                shared.tally.saved += 1;
                shared.tally.body_bytes += bytes as u64;
                shared.unsaved_in_a_row = 0;
                if self.remove {
                    lease.settle(Judgement::without_work(Verdict::Judged(Outcome::Done)));
                } else {
                    shared.held_bytes += bytes;
                    shared.held.push(lease);
                }
            }
            Err(trouble) => {
                let why = trouble.to_string();
                shared.tally.unsaved += 1;
                shared.unsaved_in_a_row += 1;
                let is_sick = match &trouble {
                    Trouble::Sick(_) => true,
                    Trouble::Own(_) => shared.unsaved_in_a_row >= UNSAVED_IN_A_ROW,
                };
                if is_sick {
                    shared.sick.get_or_insert_with(|| why.clone());
                }
                // Held as well: returned now it would be received again by this very run.
                shared.held.push(lease);
                drop(shared);
                self.sink.trouble(&message.id.0, &why);
            }
        }
    }
}

/// A panic elsewhere while it was held leaves counts as they were.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
