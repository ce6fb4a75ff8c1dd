//! When SQS deletes a letter for its age.
//!
//! Pure. SQS counts from when a message was first sent, also where it has moved the message to a dead-letter queue by
//! itself (SQS developer guide, "Using dead-letter queues", on retention).

use std::time::Duration;

use serde::Serialize;

use crate::clock::rfc3339;

/// The moment, and how far it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Expiry {
    /// RFC 3339.
    pub at: String,
    /// Until then, seconds; zero or less: any moment.
    pub in_s: i64,
}

impl Expiry {
    /// Of a message sent then, Unix milliseconds, in a queue that keeps it so long.
    pub fn of(sent_ms: u64, retention: Duration, now_ms: u64) -> Self {
        Self::at(sent_ms.saturating_add(u64::try_from(retention.as_millis()).unwrap_or(u64::MAX)), now_ms)
    }

    /// At this moment, Unix milliseconds.
    pub fn at(at_ms: u64, now_ms: u64) -> Self {
        Self { at: rfc3339(at_ms), in_s: (at_ms as i64).saturating_sub(now_ms as i64) / 1_000 }
    }

    /// To follow "SQS deletes it".
    pub fn text(&self) -> String {
        match self.in_s {
            ..=0 => "ANY MOMENT".to_owned(),
            left => format!("in {} ({})", time(left.unsigned_abs()), self.at),
        }
    }
}

/// `3 d 4 h`, `5 min`, `12 s`.
pub(super) fn time(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_in_two_units_and_what_is_over_as_any_moment() {
        const DAY: u64 = 86_400;
        let of = |days: u64, now_s: u64| Expiry::of(0, Duration::from_secs(days * DAY), now_s * 1_000).text();
        assert_eq!(of(4, DAY), "in 3 d 0 h (1970-01-05T00:00:00.000Z)");
        assert_eq!(of(1, DAY - 90), "in 90 s (1970-01-02T00:00:00.000Z)");
        assert_eq!(of(1, DAY), "ANY MOMENT");
        assert_eq!(of(1, 2 * DAY), "ANY MOMENT");
    }
}
