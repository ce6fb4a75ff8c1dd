//! A message in hand whose dependency is sick: go back, or stay and try again here?
//!
//! Going back costs a receive each time, and at its queue's `maxReceiveCount` SQS dead-letters a message without a
//! reason: in a long outage a small queue would lose all it holds (P6). So a message that came back once stays under
//! its lease, with its heartbeat, until the gate lets it try. Promises that it stays for a bounded time, well inside of
//! SQS's 12 hours, and that it goes back when the worker stops. The rule is pure.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Gate, Mode};
use crate::outcome::{Dependency, Outcome, RetryReason, Verdict};
use crate::receive::least_seats;
use crate::retry::Backoff;

/// Kept by this worker, though perhaps another could do it: the store may be sick for this one only.
const A_WHILE: Duration = Duration::from_secs(3600);
/// Kept because it cannot be received many times more. Ends before SQS's 12 hours do.
const AS_LONG_AS_CAN_BE: Duration = Duration::from_secs(11 * 3600);
/// Between two tries here while the gate is open, as between two receives (design §4).
const TRIES: Backoff = Backoff { base: Duration::from_secs(60), cap: Duration::from_secs(300) };
/// When the gate opens, all that is kept tries within [½, 1) of this.
const SPREAD: Duration = Duration::from_secs(4);

/// How long a message stays in hand; `None`: it goes back.
fn patience(
    dependency: Dependency,
    receive_count: u32,
    most_receives: Option<u32>,
    shut: bool,
    kept: usize,
) -> Option<Duration> {
    let half_spent = most_receives.is_some_and(|most| receive_count.saturating_mul(2) >= most);
    let nearly_spent = most_receives.is_some_and(|most| receive_count.saturating_add(1) >= most);
    match dependency {
        Dependency::Source | Dependency::Results | Dependency::Parking => {
            // While the gate is open only one stays: many would take the seats of those that go through.
            let came_back = receive_count > 1 && (shut || kept == 0);
            if half_spent { Some(AS_LONG_AS_CAN_BE) } else { came_back.then_some(A_WHILE) }
        }
        // This host's trouble: the others may well be able to.
        Dependency::Host if nearly_spent => Some(AS_LONG_AS_CAN_BE),
        Dependency::Host => half_spent.then_some(A_WHILE),
    }
}

/// How many of these seats the kept may take while others go through: what a poll needs stays free. Behind a shut gate
/// all of them: nothing is received there but by the message that reopens it, and a kept one is that (P6).
fn room(seats: usize, shut: bool) -> usize {
    if shut { seats } else { seats.saturating_sub(least_seats(seats)) }
}

/// A message that is kept: counted by the gate until this is dropped.
pub struct Kept {
    gate: Arc<Gate>,
    until: Instant,
    tries: u32,
}

impl Gate {
    /// Whether a message that ended so stays in hand; `before` is what this returned for it last time.
    pub fn keep(self: &Arc<Self>, verdict: &Verdict, receive_count: u32, before: Option<Kept>) -> Option<Kept> {
        let Verdict::Judged(Outcome::Retry(RetryReason::Systemic(dependency, _))) = verdict else { return None };
        let posture = self.posture.get();
        if let Some(before) = before {
            // How long it stays is settled; but what was kept behind a shut gate must not keep an open one from receiving.
            let shut = posture.mode != Mode::Free;
            let stays = self.with(|state| state.kept <= self.seats.map_or(usize::MAX, |seats| room(seats, shut)));
            return stays.then_some(before);
        }
        self.with(|state| {
            let shut = posture.mode != Mode::Free;
            if state.kept >= self.seats.map_or(usize::MAX, |seats| room(seats, shut)) {
                return None;
            }
            let stays = patience(*dependency, receive_count, self.most_receives, shut, state.kept);
            let until = Instant::now() + stays.filter(|_| !posture.leaving)?;
            state.kept += 1;
            Some(Kept { gate: Arc::clone(self), until, tries: 0 })
        })
    }
}

impl Kept {
    /// Waits until the message may try again; false when it has to go back.
    pub async fn again(&mut self) -> bool {
        let gate = &self.gate;
        let mut posture = gate.posture.ear();
        let mut due = Instant::now() + TRIES.wait(self.tries, &gate.jitter);
        self.tries = self.tries.saturating_add(1);
        let mut was_shut = false;
        loop {
            let (seen, now) = (posture.hear(), Instant::now());
            if seen.leaving || now >= self.until {
                return false;
            }
            let wake = match seen.mode {
                Mode::Free => {
                    if std::mem::take(&mut was_shut) {
                        due = now + gate.jitter.half_to_one(SPREAD);
                    }
                    if now >= due {
                        return true;
                    }
                    due
                }
                Mode::Shut => {
                    was_shut = true;
                    self.until
                }
                Mode::Half => {
                    was_shut = true;
                    match gate.with(|state| state.turns.try_kept(now)) {
                        Ok(()) => return true,
                        Err(due) => due,
                    }
                }
            };
            tokio::select! {
                biased;
                _ = posture.news() => {}
                () = tokio::time::sleep_until(wake.min(self.until)) => {}
            }
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.gate.with(|state| state.kept = state.kept.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_and_for_how_long() {
        use Dependency::{Host, Parking, Results, Source};
        const WHILE: Option<Duration> = Some(A_WHILE);
        const LONG: Option<Duration> = Some(AS_LONG_AS_CAN_BE);
        let (open, shut) = (false, true);
        // dependency, receive count, maxReceiveCount, gate, kept already → how long
        let table = [
            (Source, 1, Some(20), shut, 0, None),
            (Source, 2, Some(20), shut, 0, WHILE),
            (Results, 2, Some(20), shut, 63, WHILE),
            (Parking, 9, Some(20), shut, 1, WHILE),
            (Source, 10, Some(20), shut, 1, LONG),
            (Source, 20, Some(20), open, 99, LONG),
            // While others go through, one at most; but what is short of receives stays whatever happens.
            (Results, 2, Some(20), open, 0, WHILE),
            (Results, 2, Some(20), open, 1, None),
            (Results, 10, Some(20), open, 1, LONG),
            // Low limits.
            (Source, 1, Some(5), shut, 0, None),
            (Source, 2, Some(5), shut, 0, WHILE),
            (Source, 3, Some(5), open, 5, LONG),
            (Source, 1, Some(2), open, 0, LONG),
            (Source, 1, Some(1), open, 0, LONG),
            // Nobody counts.
            (Source, 1, None, shut, 0, None),
            (Source, 99, None, shut, 0, WHILE),
            // Another host may be well.
            (Host, 9, Some(20), shut, 0, None),
            (Host, 10, Some(20), shut, 0, WHILE),
            (Host, 19, Some(20), shut, 0, LONG),
            (Host, 2, Some(5), shut, 0, None),
            (Host, 3, Some(5), shut, 0, WHILE),
            (Host, 4, Some(5), shut, 0, LONG),
            (Host, 99, None, shut, 0, None),
        ];
        for (dependency, count, most, shut, kept, expected) in table {
            let case = format!("{dependency:?} {count}/{most:?} shut {shut} kept {kept}");
            assert_eq!(patience(dependency, count, most, shut, kept), expected, "{case}");
        }
    }

    #[test]
    fn the_kept_leave_seats_for_those_that_go_through() {
        for (seats, open, shut) in [(1, 0, 1), (2, 1, 2), (3, 2, 3), (8, 4, 8), (20, 10, 20), (64, 54, 64)] {
            assert_eq!((room(seats, false), room(seats, true)), (open, shut), "{seats}");
        }
    }

    #[test]
    fn no_patience_outlasts_sqs() {
        assert!(AS_LONG_AS_CAN_BE + Duration::from_secs(1800) < crate::queue::SQS_MAX_VISIBILITY);
    }
}
