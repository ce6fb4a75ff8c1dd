//! A circuit breaker, pure: reports come in, a decision goes out. The gate has one for what intake needs, the side path
//! one for the index; they share this shape and nothing else.
//!
//! Promises that one success closes it, that only failures in a row open it, and that while it is open one try at a
//! time goes through, at growing distances. Knows no clock of its own and says nothing to anybody.

use std::time::Duration;

use tokio::time::Instant;

use crate::retry::{Backoff, Jitter};

/// How a breaker behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Habits {
    /// Failures in a row that open it (at least 1).
    pub failures: u32,
    /// Distance between tries while it is open.
    pub tries: Backoff,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Closed { failures: u32 },
    Open { since: Instant, next_try: Instant, tries: u32, suppressed: u64 },
}

/// The answer to "may I?".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leave {
    /// Go.
    Yes,
    /// Go, alone: this is the try that decides.
    Try,
    /// Not before then.
    No(Instant),
}

/// A report changed its state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// It is open now.
    Opened,
    /// It is closed again, after this long and this many refusals.
    Closed {
        /// How long it was open.
        open: Duration,
        /// How often it said no.
        suppressed: u64,
    },
}

/// The breaker.
#[derive(Clone, Debug)]
pub struct Breaker {
    habits: Habits,
    state: State,
}

impl Breaker {
    /// Closed.
    pub fn new(habits: Habits) -> Self {
        Self { habits, state: State::Closed { failures: 0 } }
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// A try would be granted now.
    pub fn try_is_due(&self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => false,
            State::Open { next_try, .. } => now >= next_try,
        }
    }

    /// May somebody call now? A `Try` moves the next one away, so that only one is under way.
    pub fn leave(&mut self, now: Instant, jitter: &Jitter) -> Leave {
        match &mut self.state {
            State::Closed { .. } => Leave::Yes,
            State::Open { next_try, tries, suppressed, .. } => {
                if now >= *next_try {
                    *tries = tries.saturating_add(1);
                    *next_try = now + self.habits.tries.wait(*tries, jitter);
                    Leave::Try
                } else {
                    *suppressed += 1;
                    Leave::No(*next_try)
                }
            }
        }
    }

    /// A call cost so much that the next must not be let try the same: opens it at once.
    pub fn trip(&mut self, now: Instant, jitter: &Jitter) -> Option<Turn> {
        if let State::Closed { failures } = &mut self.state {
            *failures = self.habits.failures;
        }
        self.failure(now, jitter)
    }

    /// A call came back well.
    pub fn success(&mut self, now: Instant) -> Option<Turn> {
        match std::mem::replace(&mut self.state, State::Closed { failures: 0 }) {
            State::Closed { .. } => None,
            State::Open { since, suppressed, .. } => {
                Some(Turn::Closed { open: now.saturating_duration_since(since), suppressed })
            }
        }
    }

    /// A call failed in a way that says nothing about what was asked.
    pub fn failure(&mut self, now: Instant, jitter: &Jitter) -> Option<Turn> {
        match &mut self.state {
            State::Closed { failures } => {
                *failures += 1;
                if *failures < self.habits.failures {
                    return None;
                }
                let next_try = now + self.habits.tries.wait(0, jitter);
                self.state = State::Open { since: now, next_try, tries: 0, suppressed: 0 };
                Some(Turn::Opened)
            }
            State::Open { .. } => None, // the distance to the next try was set when this one was let go
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HABITS: Habits =
        Habits { failures: 3, tries: Backoff { base: Duration::from_secs(2), cap: Duration::from_secs(60) } };

    #[test]
    fn failures_in_a_row_open_it_and_one_success_between_them_does_not() {
        let (mut breaker, jitter, now) = (Breaker::new(HABITS), Jitter::seeded(1), Instant::now());
        for _ in 0..10 {
            assert_eq!(breaker.failure(now, &jitter), None);
            assert_eq!(breaker.failure(now, &jitter), None);
            assert_eq!(breaker.success(now), None);
        }
        assert_eq!(breaker.leave(now, &jitter), Leave::Yes);
        breaker.failure(now, &jitter);
        breaker.failure(now, &jitter);
        assert_eq!(breaker.failure(now, &jitter), Some(Turn::Opened));
        assert!(matches!(breaker.leave(now, &jitter), Leave::No(_)));
    }

    #[test]
    fn a_call_that_cost_too_much_opens_it_at_once_and_once() {
        let (mut breaker, jitter, now) = (Breaker::new(HABITS), Jitter::seeded(1), Instant::now());
        assert_eq!(breaker.trip(now, &jitter), Some(Turn::Opened));
        let Leave::No(next) = breaker.leave(now, &jitter) else { panic!("should be closed to callers") };
        assert_eq!(breaker.trip(now + (next - now) / 2, &jitter), None, "it is open already");
        assert_eq!(breaker.leave(next, &jitter), Leave::Try, "and the next try is where it was");
        assert!(matches!(breaker.success(now), Some(Turn::Closed { .. })));
    }

    #[test]
    fn while_open_one_try_at_a_time_goes_through_at_growing_distances() {
        let (mut breaker, jitter, mut now) = (Breaker::new(HABITS), Jitter::seeded(1), Instant::now());
        let opened = now;
        for _ in 0..3 {
            breaker.failure(now, &jitter);
        }
        let mut gaps = Vec::new();
        for _ in 0..8 {
            let Leave::No(next) = breaker.leave(now, &jitter) else { panic!("should be closed to callers") };
            gaps.push(next - now);
            now = next;
            assert_eq!(breaker.leave(now, &jitter), Leave::Try);
            assert!(matches!(breaker.leave(now, &jitter), Leave::No(_)), "one try at a time");
            breaker.failure(now, &jitter);
        }
        assert!(gaps[0] >= Duration::from_secs(1) && gaps[0] < Duration::from_secs(2), "{gaps:?}");
        assert!(gaps[7] >= Duration::from_secs(30) && gaps[7] < Duration::from_secs(60), "{gaps:?}");
        let Some(Turn::Closed { open, suppressed }) = breaker.success(now) else { panic!("a success closes it") };
        assert_eq!((open, suppressed), (now - opened, 16));
        assert_eq!(breaker.leave(now, &jitter), Leave::Yes);
    }
}
