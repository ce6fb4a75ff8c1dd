//! The wall clock, for what is written down: revisions, times in records, dates in keys.
//!
//! Leases never ask it: they live on tokio's monotonic clock, so that a stepped clock moves no lease.

use std::time::{SystemTime, UNIX_EPOCH};

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

/// `2026-11-22T14:45:54.123Z`; times that no calendar holds are shown as 1970.
pub fn rfc3339(unix_ms: u64) -> String {
    let stamp = timestamp(unix_ms);
    format!("{stamp:.3}")
}

/// `2026-11-22`, UTC.
pub fn date(unix_ms: u64) -> String {
    timestamp(unix_ms).strftime("%Y-%m-%d").to_string()
}

fn timestamp(unix_ms: u64) -> jiff::Timestamp {
    i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(rfc3339(1_795_358_754_123), "2026-11-22T14:45:54.123Z");
        assert_eq!(date(1_795_358_754_123), "2026-11-22");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(date(u64::MAX), "1970-01-01");
    }
}
