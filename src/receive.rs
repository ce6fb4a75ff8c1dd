//! Permits, then polls, then leases, each with its task.
//!
//! Promises that a message is asked for only when there is a seat for it, that an open poll is never cancelled (SQS
//! hides what it was about to hand out), and that what arrives after the stop is returned once. Knows no outcome.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::clock::LeaseClock;
use crate::crash_loop::CrashLoop;
use crate::events::{self, Event};
use crate::gate::{Gate, Passage};
use crate::lease::{Intake, Lease};
use crate::limits::Live;
use crate::queue::{BatchSize, Queue, SQS_MAX_BATCH};
use crate::retry::{Backoff, Jitter};

/// After a failed poll; a refused one is no busier than one in 30 s in the end (Q14).
const POLL_AGAIN: Backoff = Backoff { base: Duration::from_secs(2), cap: Duration::from_secs(30) };
/// Polls resume after a pause or an outage within [½, 1) of this.
const RESUME: Duration = Duration::from_secs(1);
/// A poll may last this much longer than its wait before it is given up (aws-sdk-rust#1094).
const POLL_GRACE: Duration = Duration::from_secs(15);

/// One poller; several share an intake.
pub struct Receiver {
    /// The main queue, on the polling client.
    pub queue: Arc<dyn Queue>,
    /// The road to the settler.
    pub intake: Intake,
    /// Whether to ask at all.
    pub gate: Arc<Gate>,
    /// How many messages may be in flight.
    pub limits: Live,
    /// Holds intake while a message is alone.
    pub crash_loop: Arc<CrashLoop>,
    /// `WaitTimeSeconds`.
    pub wait: Duration,
    /// Lease length.
    pub visibility: Duration,
    /// Spread of retries.
    pub jitter: Arc<Jitter>,
    /// Tells when a poll is sent.
    pub clock: LeaseClock,
    /// Shared by the pollers, and closed: over when none of them will ask any more.
    pub polling: TaskTracker,
}

/// `WaitTimeSeconds` for a lease of this length: a quarter of it, within SQS's 1 to 20 s, so that no lease is born
/// nearly dead (design §4: it counts from when the poll was sent).
pub fn poll_wait(visibility: Duration) -> Duration {
    (visibility / 4).clamp(Duration::from_secs(1), Duration::from_secs(20))
}

/// Seats that must be free before a poll: full batches where the limit allows them.
pub fn least_seats(limit: usize) -> usize {
    SQS_MAX_BATCH.min(limit / 2).max(1)
}

/// How many pollers serve a limit: each holds ten permits while it waits.
pub fn pollers(limit: usize) -> usize {
    (limit / 20).clamp(1, 4)
}

impl Receiver {
    /// Polls until told to stop; `work` starts the task of a lease.
    pub async fn run(self, stop: CancellationToken, work: impl Fn(Lease)) {
        let (mut failures, mut limits) = (0, self.limits.ear());
        let polling = self.polling.token();
        loop {
            let passed = async {
                self.crash_loop.line().open().await;
                let held_up = !self.gate.is_open();
                let passage = self.gate.pass().await;
                if held_up && passage == Passage::Free {
                    // Pollers of many workers wake together: they must not all ask in the same instant.
                    tokio::time::sleep(self.jitter.half_to_one(RESUME)).await;
                }
                passage
            };
            let passage = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                passage = passed => passage,
            };
            let limit = limits.hear().concurrency.min(self.intake.limit());
            let (least, most) = match passage {
                Passage::Free => (least_seats(limit), SQS_MAX_BATCH),
                Passage::One => (1, 1),
            };
            let seats = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                seats = self.intake.seats(least, most) => seats,
                // Many seats may not be free for long, and who waits for them stands before the one that would do.
                () = self.gate.withdrawn(passage) => {
                    self.unused(passage);
                    continue;
                }
                // So many may never be free any more.
                _ = limits.news() => {
                    self.unused(passage);
                    continue;
                }
            };
            let Some(seats) = seats else { return };
            if !self.gate.still_grants(passage) || !self.crash_loop.line().is_open() {
                self.unused(passage);
                continue;
            }
            // Not cancelled by the stop: an aborted poll still hides what it was about to hand out.
            let sent = self.clock.now();
            let poll = self.queue.receive(BatchSize::clamped(seats.len()), self.wait, self.visibility);
            let trouble = match tokio::time::timeout(self.wait + POLL_GRACE, poll).await {
                Ok(Ok(messages)) if messages.is_empty() => None,
                Ok(Ok(messages)) => {
                    failures = 0;
                    self.gate.queue_answered(Ok(()));
                    failpoint!(AfterReceive);
                    let leases = self.intake.admit(messages, seats, sent).await;
                    if stop.is_cancelled() {
                        return self.give_back(leases, polling).await;
                    }
                    leases.into_iter().for_each(&work);
                    continue;
                }
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("the poll hung past its wait".to_owned()),
            };
            drop(seats);
            self.unused(passage);
            self.gate.queue_answered(trouble.as_deref().map_or(Ok(()), Err));
            let pause = if let Some(detail) = trouble {
                let pause = POLL_AGAIN.wait(failures, &self.jitter);
                failures = failures.saturating_add(1);
                let retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                events::ReceiveFailed { detail, retry_in_ms }.emit();
                pause
            } else {
                failures = 0;
                if self.clock.now().saturating_duration_since(sent) >= self.wait / 2 {
                    continue;
                }
                // SQS did not wait for a message, as at its limit of messages in flight: asking at once would be a
                // busy loop.
                POLL_AGAIN.wait(0, &self.jitter)
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// The one message that was to find out did not come: that must not count as a try that failed.
    fn unused(&self, passage: Passage) {
        match passage {
            Passage::One => self.gate.undecided(),
            Passage::Free => {}
        }
    }

    /// Returns what arrived after the stop, when the other pollers have nothing open either: theirs would take it
    /// again, one after the other, and each time SQS counts a receive.
    async fn give_back(&self, late: Vec<Lease>, polling: TaskTrackerToken) {
        drop(polling);
        drop(tokio::time::timeout(self.wait + POLL_GRACE, self.polling.wait()).await);
        drop(late);
    }
}
