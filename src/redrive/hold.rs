//! Messages of a queue held under the worker's own leases while a command looks at them.
//!
//! Promises that a message is asked for only when there is a seat for it, that each poll ends by itself (a cancelled one
//! still hides messages), and that what is not settled by the end is returned: to nobody's charge. Knows no letter.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::oneshot;

use crate::books::{Books, BooksLine};
use crate::clock::LeaseClock;
use crate::lease::{Intake, Lease};
use crate::pipeline::{Seat, SettlerEnd, how_it_broke, start_settler};
use crate::queue::{self, BatchSize, Queue, QueueError, SQS_MAX_BATCH};
use crate::retry::Jitter;
use crate::settle::{Desk, Failures, Settler, SettlerBroken};

/// Polls at once.
const POLLS: usize = 8;
/// `WaitTimeSeconds`: a long poll asks all of SQS's servers, however short its wait.
pub const WAIT: Duration = Duration::from_secs(2);
/// Lease of a message that is only looked at; extended by heartbeat. A run that is killed hides messages for this long.
pub const LEASE: Duration = Duration::from_secs(120);
/// A poll may last this much longer than its wait.
const GRACE: Duration = Duration::from_secs(15);

/// Returned together.
const LET_GO: usize = 100;
/// Until the next ones are, whatever became of these.
const PORTION: Duration = Duration::from_secs(5);

/// The hold on a queue.
pub struct Hold {
    queue: Arc<dyn Queue>,
    intake: Intake,
    settler: oneshot::Receiver<Result<(), SettlerBroken>>,
    books: Arc<Books>,
    visibility: Duration,
    clock: LeaseClock,
}

/// What a hold takes.
pub struct Grip {
    /// The queue, for polls.
    pub polling: Arc<dyn Queue>,
    /// The queue, for the settler.
    pub settling: Arc<dyn Queue>,
    /// Messages held at once, at most.
    pub most: usize,
    /// Lease length.
    pub visibility: Duration,
    /// Spread of retries.
    pub jitter: Jitter,
    /// What leases are counted by.
    pub clock: LeaseClock,
    /// Where the settler runs.
    pub seat: Seat,
}

impl Hold {
    /// Starts the settler; receives nothing yet.
    pub fn new(grip: Grip) -> Self {
        let Grip { polling, settling, most, visibility, jitter, clock, seat } = grip;
        let books = Arc::new(Books::default());
        let desk = Desk {
            queue: settling,
            failures: Failures::Returned,
            books: Arc::clone(&books),
            jitter,
            visibility,
            lease_clock: clock.clone(),
        };
        let (intake, words) = Intake::new(most);
        let settler = start_settler(Settler::new(desk, words), seat);
        Self { queue: polling, intake, settler, books, visibility, clock }
    }

    /// One round of polls at once, for at most so many messages; empty when all of them were. An error only where none
    /// succeeded.
    pub async fn receive(&self, at_most: usize) -> Result<Vec<Lease>, QueueError> {
        // Whole polls of ten: the rest is for the next round.
        let polls = (at_most / SQS_MAX_BATCH).clamp(1, POLLS);
        let most = at_most.clamp(1, SQS_MAX_BATCH);
        let mut leases = Vec::new();
        let (mut answered, mut trouble) = (false, None);
        for reply in join_all((0..polls).map(|_| self.poll(most))).await {
            match reply {
                Ok(received) => {
                    answered = true;
                    leases.extend(received);
                }
                Err(error) => trouble = Some(error),
            }
        }
        match trouble {
            Some(error) if !answered => Err(error),
            Some(_) | None => Ok(leases),
        }
    }

    async fn poll(&self, most: usize) -> Result<Vec<Lease>, QueueError> {
        let Some(seats) = self.intake.seats(1, most).await else {
            return Err(QueueError::Unavailable("the settler is gone".to_owned()));
        };
        let sent = self.clock.now();
        let poll = self.queue.receive(BatchSize::clamped(seats.len()), WAIT, self.visibility);
        match tokio::time::timeout(WAIT + GRACE, poll).await {
            Ok(Ok(messages)) if messages.is_empty() => Ok(Vec::new()),
            Ok(Ok(messages)) => Ok(self.intake.admit(messages, seats, sent).await),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(QueueError::Unavailable("the poll hung past its wait".to_owned())),
        }
    }

    /// Messages that may be held at once.
    pub fn seats(&self) -> usize {
        self.intake.limit()
    }

    /// Lease length.
    pub fn visibility(&self) -> Duration {
        self.visibility
    }

    /// What has been settled so far.
    pub fn books(&self) -> BooksLine {
        self.books.snapshot(false)
    }

    /// Returns what is left and waits until everything is settled: all other leases must have ended before. No more is
    /// returned at once than SQS takes in a few calls: thousands in one burst would be throttled, and what is not
    /// acknowledged in time stays hidden until its lease ends.
    pub async fn end(mut self, mut left: Vec<Lease>) -> Result<BooksLine, SettlerBroken> {
        while !left.is_empty() {
            left.truncate(left.len().saturating_sub(LET_GO));
            tokio::select! {
                biased;
                () = self.intake.at_most(left.len()) => {}
                // What is in the way may be a delete that SQS does not take: its own lease is the end of that.
                () = tokio::time::sleep(PORTION) => {}
                end = &mut self.settler => return Err(how_it_broke(end)),
            }
        }
        let Self { intake, settler, books, .. } = self;
        drop(intake);
        let end: SettlerEnd = settler.await;
        match end {
            Ok(Ok(())) => Ok(books.snapshot(true)),
            broken @ (Ok(Err(_)) | Err(_)) => Err(how_it_broke(broken)),
        }
    }
}

/// What a held message takes of memory, as SQS counts it: up to 1 MiB.
pub(super) fn bytes(lease: &Lease) -> usize {
    let message = lease.message();
    queue::bytes(&message.body, &message.attributes)
}
