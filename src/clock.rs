//! Two clocks: the wall's, for what is written down (revisions, times in records, dates in keys), and that of leases.
//!
//! Leases never ask the wall: a stepped clock moves no lease. Theirs is tokio's monotonic clock, and the time that the
//! machine was suspended, which that one leaves out while SQS goes on counting (P19).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// Where Unix time comes from; the simulation has its own.
pub trait WallClock: Send + Sync + 'static {
    /// Milliseconds since 1970, UTC.
    fn unix_ms(&self) -> u64;
}

/// The operating system's clock.
pub struct SystemClock;

impl WallClock for SystemClock {
    fn unix_ms(&self) -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The clock of leases. Its instants are not timers: [`LeaseClock::timer`] makes them so.
#[derive(Clone)]
pub struct LeaseClock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl LeaseClock {
    /// The machine's own.
    pub fn of_system() -> Self {
        let before = suspended();
        Self::with(move || suspended().saturating_sub(before))
    }

    /// With another account of how long the machine was suspended so far; it only grows.
    pub fn with(suspended: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(suspended))
    }

    /// Now, as leases count.
    pub fn now(&self) -> Instant {
        Instant::now() + (self.0)()
    }

    /// When a tokio timer has to fire for `at`, unless the machine is suspended before.
    pub fn timer(&self, at: Instant) -> Instant {
        at.checked_sub((self.0)()).unwrap_or_else(Instant::now)
    }
}

/// How long this machine has been suspended since it started: `CLOCK_BOOTTIME` counts it, `CLOCK_MONOTONIC` does not
/// (clock_gettime(2)). The two are read one after the other; a process that was stopped in between reads them again.
fn suspended() -> Duration {
    let mut read = Duration::ZERO;
    for _ in 0..8 {
        let (before, boot, after) =
            (clock_gettime(ClockId::Monotonic), clock_gettime(ClockId::Boottime), clock_gettime(ClockId::Monotonic));
        let since = |time: rustix::time::Timespec, other| Duration::try_from(time - other).unwrap_or_default();
        read = since(boot, after); // rather too little: a lease must never be thought to have begun later than it did
        if since(after, before) < Duration::from_millis(1) {
            break;
        }
    }
    read
}

/// `2026-11-22T14:45:54.123Z`; times that no calendar holds are shown as 1970.
pub fn rfc3339(unix_ms: u64) -> String {
    let stamp = timestamp(unix_ms);
    format!("{stamp:.3}")
}

/// `2026-11-22`, UTC.
pub fn date(unix_ms: u64) -> String {
    timestamp(unix_ms).strftime("%Y-%m-%d").to_string()
}

/// The reverse of [`rfc3339`]; `None` for text that is no such time, or one before 1970.
pub fn unix_ms_of(text: &str) -> Option<u64> {
    let stamp: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(stamp.as_millisecond()).ok()
}

fn timestamp(unix_ms: u64) -> jiff::Timestamp {
    i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_was_not_suspended_counts_leases_as_tokio_does() {
        let clock = LeaseClock::of_system();
        let (before, now, after) = (Instant::now(), clock.now(), Instant::now());
        assert!(before <= now && now <= after + Duration::from_millis(2), "{before:?} {now:?} {after:?}");
        let later = now + Duration::from_secs(9);
        assert!(later.duration_since(clock.timer(later)) < Duration::from_millis(2));
    }

    #[test]
    fn suspended_time_counts_for_leases_and_brings_their_timers_forward() {
        let clock = LeaseClock::with(|| Duration::from_secs(600));
        let now = Instant::now();
        assert!(clock.now() >= now + Duration::from_secs(600));
        assert_eq!(clock.timer(now + Duration::from_secs(660)), now + Duration::from_secs(60));
    }

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(rfc3339(1_795_358_754_123), "2026-11-22T14:45:54.123Z");
        assert_eq!(date(1_795_358_754_123), "2026-11-22");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(date(u64::MAX), "1970-01-01");
        assert_eq!(unix_ms_of("2026-11-22T14:45:54.123Z"), Some(1_795_358_754_123));
        assert_eq!((unix_ms_of(""), unix_ms_of("1969-12-31T23:59:59Z")), (None, None));
    }
}
