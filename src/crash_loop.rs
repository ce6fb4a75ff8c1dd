//! Crash loops: a message whose work kills its worker is found out by the marks that it leaves.
//!
//! From a receive count of 5 on, a `begun` mark is written to the message's attempts record before work, and cleared
//! by the settler at every end. A mark of another incarnation that is still there was left by one that died. One such:
//! the message is processed **alone**, so that it takes no other with it. Two: it is not begun a third time, but
//! dead-lettered as `crash_loop`.
//!
//! Promises that what was not killed is not condemned. A process that goes in order takes its marks back; one can stay
//! behind only where the store is out of reach until the process ends. An outage leaves a message at most one such:
//! where a mark of another is seen, ours is added, and the message judged, only after the store has taken writes for two
//! leases on end, which also gives a worker that lives (its lease lost, its delivery doubled) the time to clear its own.
//! (What no memory but the store can tell from a crash: two outages that far apart, and in each a worker that ends with
//! the same message in hand.)
//! Below the threshold it costs no call. Knows no outcome of the work and settles nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::attempts::{Attempts, AttemptsLog, Seen, Trouble};
use crate::dead_letter::Origin;
use crate::events::{self, Event};
use crate::lease::Lease;
use crate::message::Message;

mod alone;

pub use alone::{Company, Line};

/// Marks are written from this receive count on (design §4).
const FROM: u32 = 5;
/// Of one message, waits for the store and for the others included: far below SQS's 12 h, of which the work has the
/// rest, and longer than the fetch and the extraction of any one file.
const WAIT_LIMIT: Duration = Duration::from_secs(30 * 60);
/// Writes that show a steady store; with a lease of a minute one every five seconds, as a short absence must show too.
const STEADY_WRITES: u32 = 24;
/// Two of the longest leases would be longer than the whole wait.
const LONGEST_STEADY: Duration = Duration::from_secs(10 * 60);
/// Lost races for one record before the message is returned.
const RACES: usize = 8;

/// Receive count from which marks are written, on a queue with this `maxReceiveCount`: 5, or less where SQS would
/// dead-letter the message before we have three deliveries to find out. With less than 4 it does.
pub fn marks_from(max_receive_count: Option<u32>) -> u32 {
    max_receive_count.map_or(FROM, |limit| FROM.min(limit.saturating_sub(3)).max(2))
}

/// What the marks of dead incarnations say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Suspicion {
    None,
    /// A worker died at it, or with it.
    Alone,
    /// A second one died, and then it was alone: it is this message.
    Condemned,
}

fn judge(marks_of_others: usize) -> Suspicion {
    match marks_of_others {
        0 => Suspicion::None,
        1 => Suspicion::Alone,
        _ => Suspicion::Condemned,
    }
}

/// Why the work on a message is not begun.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stay {
    /// It has killed two workers; a sentence.
    Condemned(String),
    /// The store does not take marks: it is sick, and the message is returned free of charge.
    Sick(String),
    /// The others did not end in time; a sentence.
    TooLong(String),
    /// The process stops, or the lease is over.
    Stopping,
}

/// A mark that lies in the store, or may: to be cleared before the receipt's last call.
#[derive(Clone)]
pub struct Owed {
    /// The record as it was written; `None` where nobody knows.
    pub seen: Option<Seen>,
    /// A message that was alone is so until its mark is cleared: who dies after that does not die of it.
    pub company: Company,
}

/// The station of one worker.
pub struct CrashLoop {
    log: AttemptsLog,
    from: u32,
    steady: Duration,
    line: Line,
}

impl CrashLoop {
    /// `log` on the clients of the work's runtime; `max_receive_count` of the main queue; `visibility`: the lease.
    pub fn new(log: AttemptsLog, max_receive_count: Option<u32>, visibility: Duration) -> Self {
        let steady = (visibility * 2).min(LONGEST_STEADY);
        Self { log, from: marks_from(max_receive_count), steady, line: Line::default() }
    }

    /// Where messages wait for each other; intake stands still while one is alone or waits to be.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// Called before the work, and kept until it has really stopped: the leave to begin, in company or alone. What may
    /// lie in the store from here on is owed by the lease, however its scope ends. May be dropped at any await.
    pub async fn begin(&self, lease: &mut Lease, stop: &CancellationToken) -> Result<Company, Stay> {
        let (message, deadline) = (Arc::clone(lease.message()), Instant::now() + WAIT_LIMIT);
        let wait = Wait { stop, deadline };
        if message.receive_count < self.from {
            return wait.on(self.line.join()).await;
        }
        let mut seen = match self.log.read(&message.id, message.receive_count).await {
            Ok(seen) => seen,
            Err(trouble) => return self.unmarked(trouble, &message, &wait).await,
        };
        let mut steady = false;
        for _ in 0..RACES {
            let company = match judge(seen.attempts.begun_by_others(&self.log.run).count()) {
                Suspicion::None => wait.on(self.line.join()).await?,
                Suspicion::Alone | Suspicion::Condemned if !steady => {
                    seen = self.steady(&message, seen, &wait).await?;
                    steady = true;
                    continue; // a worker that lives has cleared its mark meanwhile
                }
                Suspicion::Alone => wait.on(self.line.alone()).await?,
                Suspicion::Condemned => {
                    let detail = self.sentence(&seen.attempts);
                    events::CrashLoop {
                        message_id: message.id.0.clone(),
                        receive_count: message.receive_count,
                        detail: detail.clone(),
                        original_message_id: Origin::id_of(&message),
                    }
                    .emit();
                    return Err(Stay::Condemned(detail));
                }
            };
            lease.owe(Owed { seen: None, company: company.clone() }); // before the call: it may be cut short
            match self.log.begin(&message, &seen).await {
                Ok(Some(written)) => {
                    if company.is_alone() {
                        self.tell(&message, &written.attempts);
                    }
                    lease.owe(Owed { seen: Some(written), company: company.clone() });
                    return Ok(company);
                }
                Ok(None) => {
                    drop(company);
                    lease.owe(Owed { seen: None, company: Company::default() }); // the winner may be our own lost reply
                    seen = match self.log.read(&message.id, message.receive_count).await {
                        Ok(seen) => seen,
                        Err(trouble) => return self.unmarked(trouble, &message, &wait).await,
                    };
                }
                Err(trouble) => {
                    drop(company);
                    lease.owe(Owed { seen: None, company: Company::default() }); // or it would wait for itself
                    return self.unmarked(trouble, &message, &wait).await;
                }
            }
        }
        Err(Stay::Sick(format!("lost {RACES} races for its attempts record")))
    }

    /// Between two tries under one lease nothing is at work: the mark is taken back, and the place given up, so that a
    /// worker that dies meanwhile is no sign against this message and one that must be alone keeps nobody waiting. What
    /// it returns is kept for the next try: where the store does not take the mark back, place and mark stay together.
    pub async fn rest(&self, lease: &mut Lease, company: Option<Company>) -> Option<Company> {
        let owed = lease.owed()?;
        // Owed until it is acknowledged: this may be dropped at the await.
        match self.log.clear(lease.message(), owed.seen.clone()).await {
            Ok(()) => {
                lease.paid();
                None
            }
            Err(_) => company, // the settler clears it at the end, and says so if it cannot
        }
    }

    /// Until the store has taken writes for `steady` on end; what fails begins it anew. Waiting costs the message no
    /// receive, coming back would: an outage that flaps must not bring it to the queue's `maxReceiveCount`.
    async fn steady(&self, message: &Message, mut seen: Seen, wait: &Wait<'_>) -> Result<Seen, Stay> {
        let mut written = 0;
        while written < STEADY_WRITES {
            wait.on(sleep(self.steady / STEADY_WRITES)).await?;
            match self.log.touch(&message.id, seen.clone()).await {
                Ok(now) => {
                    seen = now;
                    if judge(seen.attempts.begun_by_others(&self.log.run).count()) == Suspicion::None {
                        return Ok(seen);
                    }
                    written += 1;
                }
                Err(trouble) if trouble.of_this_record => return Ok(seen), // the mark itself will meet it too
                Err(trouble) if Instant::now() >= wait.deadline => return Err(Stay::Sick(trouble.detail)),
                Err(_) => written = 0,
            }
        }
        Ok(seen)
    }

    /// Where no mark can be had: the record's own trouble does not stop its message, a sick store does.
    async fn unmarked(&self, trouble: Trouble, message: &Message, wait: &Wait<'_>) -> Result<Company, Stay> {
        if !trouble.of_this_record {
            return Err(Stay::Sick(trouble.detail));
        }
        let (message_id, original_message_id) = (message.id.0.clone(), Origin::id_of(message));
        events::MarkFailed { message_id, step: "write", detail: trouble.detail, original_message_id }.emit();
        wait.on(self.line.join()).await
    }

    fn sentence(&self, attempts: &Attempts) -> String {
        let marks: Vec<String> = attempts
            .begun_by_others(&self.log.run)
            .map(|mark| format!("at {} by run {} (receive {})", mark.at, mark.run, mark.receive_count))
            .collect();
        format!("the work on it was begun and never ended: {}; its workers died", marks.join(", "))
    }

    fn tell(&self, message: &Message, attempts: &Attempts) {
        events::TakenAlone {
            message_id: message.id.0.clone(),
            receive_count: message.receive_count,
            detail: self.sentence(attempts),
            original_message_id: Origin::id_of(message),
        }
        .emit();
    }
}

/// How long a message may wait before it is begun.
struct Wait<'a> {
    /// What has not begun when the process is asked to stop is returned, and not drained.
    stop: &'a CancellationToken,
    deadline: Instant,
}

impl Wait<'_> {
    async fn on<T>(&self, event: impl Future<Output = T>) -> Result<T, Stay> {
        tokio::select! {
            biased;
            done = event => Ok(done),
            () = self.stop.cancelled() => Err(Stay::Stopping),
            () = tokio::time::sleep_until(self.deadline) => {
                Err(Stay::TooLong(format!("other work here did not end within {WAIT_LIMIT:?}, and one of them must be alone")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_leaves_room_for_three_deliveries_below_the_queues_own_limit() {
        let table = [
            (None, 5),
            (Some(1_000), 5),
            (Some(20), 5),
            (Some(8), 5),
            (Some(7), 4),
            (Some(6), 3),
            (Some(5), 2),
            (Some(4), 2),
            (Some(3), 2),
            (Some(1), 2),
        ];
        for (limit, from) in table {
            assert_eq!(marks_from(limit), from, "{limit:?}");
            // Marked, alone, condemned: on the third of these deliveries, which SQS must still hand out.
            if let Some(limit) = limit.filter(|limit| *limit >= 4) {
                assert!(from + 2 <= limit, "{limit}");
            }
        }
    }

    #[test]
    fn one_mark_of_the_dead_makes_a_suspect_and_two_condemn() {
        let expected = [Suspicion::None, Suspicion::Alone, Suspicion::Condemned, Suspicion::Condemned];
        for (marks, expected) in expected.into_iter().enumerate() {
            assert_eq!(judge(marks), expected);
        }
    }
}
