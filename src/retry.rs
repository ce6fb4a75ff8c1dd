//! Waiting times: an exponential shape with a cap, and seeded jitter in [½, 1).
//!
//! Promises that a wait is never longer than its cap and that a seed replays. Refuses to sleep, to count attempts
//! or to give up: those belong to the caller. The only file naming the `backoff` crate, of which it takes the shape
//! and nothing else: that crate's default gives up after 15 minutes, its jitter is ± 50 % and its clock is not ours.

use std::sync::Mutex;
use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// `base × 2^n`, at most `cap`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    /// The first wait.
    pub base: Duration,
    /// The longest wait.
    pub cap: Duration,
}

impl Backoff {
    /// The wait after `n` earlier ones (0 for the first), without jitter.
    pub fn nominal(&self, n: u32) -> Duration {
        let mut shape = ExponentialBackoff {
            current_interval: self.base.min(self.cap),
            initial_interval: self.base.min(self.cap),
            randomization_factor: 0.0,
            multiplier: 2.0,
            max_interval: self.cap,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        let mut wait = self.base.min(self.cap);
        for _ in 0..=n.min(64) {
            wait = shape.next_backoff().unwrap_or(self.cap); // `None` only with a max_elapsed_time
        }
        // The crate adds a random part below a nanosecond even at factor 0, which rounds up now and then: off with it, or
        // no seed replays.
        Duration::from_micros(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX)).min(self.cap)
    }

    /// The same, jittered.
    pub fn wait(&self, n: u32, jitter: &Jitter) -> Duration {
        jitter.half_to_one(self.nominal(n))
    }
}

/// A seeded source of jitter, shared by everything that waits.
pub struct Jitter(Mutex<fastrand::Rng>);

impl Jitter {
    /// The same seed gives the same jitter.
    pub fn seeded(seed: u64) -> Self {
        Self(Mutex::new(fastrand::Rng::with_seed(seed)))
    }

    /// Seeded by the operating system.
    pub fn from_entropy() -> Self {
        Self(Mutex::new(fastrand::Rng::new()))
    }

    /// A duration in [½, 1) of `nominal`: spread out, and never a surprise of zero.
    pub fn half_to_one(&self, nominal: Duration) -> Duration {
        let draw = match self.0.lock() {
            Ok(mut rng) => rng.f64(),
            Err(poisoned) => poisoned.into_inner().f64(), // a generator has no broken state
        };
        nominal.mul_f64(0.5 + draw / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_doubles_up_to_its_cap() {
        let shape = Backoff { base: Duration::from_secs(30), cap: Duration::from_secs(900) };
        let seconds: Vec<u64> = (0..8).map(|n| shape.nominal(n).as_secs()).collect();
        assert_eq!(seconds, [30, 60, 120, 240, 480, 900, 900, 900]);
        assert_eq!(shape.nominal(u32::MAX).as_secs(), 900);
        let odd = Backoff { base: Duration::from_secs(50), cap: Duration::from_secs(20) };
        assert_eq!(odd.nominal(0).as_secs(), 20, "a base above the cap is capped too");
    }

    #[test]
    fn the_shape_is_the_same_each_time_it_is_asked_for() {
        let shape = Backoff { base: Duration::from_secs(900), cap: Duration::from_secs(900) };
        let odd = (0..200_000).map(|_| shape.nominal(0)).find(|wait| *wait != Duration::from_secs(900));
        assert_eq!(odd, None);
    }

    #[test]
    fn jitter_stays_in_its_half_and_replays() {
        let draw = |seed| {
            let jitter = Jitter::seeded(seed);
            (0..1000).map(|_| jitter.half_to_one(Duration::from_secs(10))).collect::<Vec<_>>()
        };
        let waits = draw(7);
        assert!(waits.iter().all(|w| *w >= Duration::from_secs(5) && *w < Duration::from_secs(10)));
        assert!(waits.iter().any(|w| *w < Duration::from_millis(5_500)), "spread to the lower end");
        assert!(waits.iter().any(|w| *w > Duration::from_millis(9_500)), "spread to the upper end");
        assert_eq!(waits, draw(7));
        assert_ne!(waits, draw(8));
    }
}
