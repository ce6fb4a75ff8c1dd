//! Which leases to extend, and when to give one up. Pure: time comes in, a decision goes out.
//!
//! Promises P7: a lease is counted from when its request was *sent*, moves only by an acknowledged extension, and is
//! extended at a third of its length, so that two extensions can fail before it is lost.

use std::time::Duration;

use tokio::time::Instant;

use crate::queue::SQS_MAX_VISIBILITY;

/// When a lease of this length is extended: at a third of it (design §4).
pub fn every(visibility: Duration) -> Duration {
    visibility / 3
}

/// The time in which a receipt is ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// When the receive request was sent: SQS's 12 hours count from (at most) here.
    pub first: Instant,
    /// When it ends unless extended.
    pub deadline: Instant,
    /// When to extend next.
    pub extend_at: Instant,
}

/// What to do about a lease now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Beat {
    /// Nothing until then.
    Wait(Instant),
    /// Ask for this much from now on.
    Extend(Duration),
    /// SQS's 12 hours are nearly over: the work cannot go on.
    Capped,
    /// It is over.
    Lost,
}

/// Kept free below SQS's 12 h cap, for the settlement itself.
const CAP_MARGIN: Duration = Duration::from_secs(60);

impl Span {
    /// A lease born from a request sent at `sent`.
    pub fn born(sent: Instant, visibility: Duration) -> Self {
        Self { first: sent, deadline: sent + visibility, extend_at: sent + every(visibility) }
    }

    /// An extension to `granted` from `sent` on was acknowledged.
    pub fn extended(&mut self, sent: Instant, granted: Duration) {
        self.deadline = sent + granted;
        self.extend_at = sent + every(granted);
    }

    /// An extension failed without saying anything about the receipt: again soon.
    pub fn retry_at(&mut self, again: Instant) {
        self.extend_at = again;
    }

    /// What to do at `now`.
    pub fn beat(&self, now: Instant, visibility: Duration) -> Beat {
        let cap = self.first + SQS_MAX_VISIBILITY - CAP_MARGIN;
        if now >= self.deadline {
            Beat::Lost
        } else if now >= cap {
            Beat::Capped
        } else if now < self.extend_at {
            Beat::Wait(self.extend_at.min(self.deadline).min(cap))
        } else {
            // Never past the cap: SQS refuses the whole extension (InvalidParameterValue). Whole seconds, as SQS counts.
            let room = (self.first + SQS_MAX_VISIBILITY).duration_since(now).as_secs().saturating_sub(1);
            let granted = visibility.min(Duration::from_secs(room));
            if now + granted <= self.deadline { Beat::Wait(cap.min(self.deadline)) } else { Beat::Extend(granted) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VISIBILITY: Duration = Duration::from_secs(60);

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_is_extended_at_a_third_and_lost_at_its_end() {
        let start = Instant::now();
        let span = Span::born(start, VISIBILITY);
        assert_eq!(span.beat(after(start, 0), VISIBILITY), Beat::Wait(after(start, 20)));
        assert_eq!(span.beat(after(start, 19), VISIBILITY), Beat::Wait(after(start, 20)));
        assert_eq!(span.beat(after(start, 20), VISIBILITY), Beat::Extend(VISIBILITY));
        assert_eq!(span.beat(after(start, 59), VISIBILITY), Beat::Extend(VISIBILITY));
        assert_eq!(span.beat(after(start, 60), VISIBILITY), Beat::Lost);
    }

    #[test]
    fn an_acknowledged_extension_counts_from_when_it_was_sent() {
        let start = Instant::now();
        let mut span = Span::born(start, VISIBILITY);
        span.extended(after(start, 20), VISIBILITY);
        assert_eq!(span.deadline, after(start, 80));
        assert_eq!(span.beat(after(start, 39), VISIBILITY), Beat::Wait(after(start, 40)));
        assert_eq!(span.beat(after(start, 79), VISIBILITY), Beat::Extend(VISIBILITY));
        assert_eq!(span.beat(after(start, 80), VISIBILITY), Beat::Lost);
    }

    #[test]
    fn a_failed_extension_moves_nothing_but_the_next_try() {
        let start = Instant::now();
        let mut span = Span::born(start, VISIBILITY);
        span.retry_at(after(start, 21));
        assert_eq!(span.beat(after(start, 20), VISIBILITY), Beat::Wait(after(start, 21)));
        assert_eq!(span.deadline, after(start, 60));
    }

    #[test]
    fn no_extension_goes_past_twelve_hours_and_the_end_is_announced_before() {
        let start = Instant::now();
        let mut span = Span::born(start, VISIBILITY);
        let mut now = start;
        let mut calls = 0_u32;
        loop {
            match span.beat(now, VISIBILITY) {
                Beat::Wait(until) => now = until,
                Beat::Extend(granted) => {
                    assert!(now + granted <= start + SQS_MAX_VISIBILITY);
                    span.extended(now, granted);
                    calls += 1;
                }
                Beat::Capped => break,
                Beat::Lost => panic!("lost {:?} after the start", now - start),
            }
        }
        assert!(now >= start + SQS_MAX_VISIBILITY - CAP_MARGIN && now < span.deadline);
        assert!((2100..2200).contains(&calls), "{calls}");
    }
}
