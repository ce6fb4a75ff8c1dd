//! Times as an operator types them: a day, a moment, or how long ago.
//!
//! Promises UTC throughout, as in keys and log lines. Knows no clock: what is relative is resolved when a run begins.

use std::time::Duration;

/// A point in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// Unix milliseconds.
    At(u64),
    /// Before the run began.
    Ago(Duration),
}

impl When {
    /// Unix milliseconds, for a run that begins now.
    pub fn ms(self, now_ms: u64) -> u64 {
        match self {
            When::At(ms) => ms,
            When::Ago(age) => now_ms.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// `2026-11-22` (its first moment), `2026-11-22T08:30:00Z`, or `90m`, `12h`, `3d` ago.
pub(super) fn when(text: &str) -> Result<When, String> {
    let text = text.trim();
    let units = [('m', 60), ('h', 3_600), ('d', 86_400)];
    for (unit, seconds) in units {
        let Some(digits) = text.strip_suffix(unit) else { continue };
        if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            let age = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds));
            let age = age.filter(|age| *age <= 100 * 366 * 86_400).ok_or("that is too long ago")?;
            return Ok(When::Ago(Duration::from_secs(age)));
        }
    }
    let day = text.parse::<jiff::civil::Date>().ok().filter(|_| text.len() == 10);
    let moment = match day {
        Some(day) => day.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp()),
        None => text.parse::<jiff::Timestamp>().ok(),
    };
    let ms = moment.and_then(|moment| u64::try_from(moment.as_millisecond()).ok());
    let form = "give a day (2026-11-22), a moment (2026-11-22T08:30:00Z) or how long ago (90m, 12h, 3d)";
    ms.map(When::At).ok_or_else(|| form.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_moments_and_ages_are_understood_and_nothing_else_is() {
        const DAY: u64 = 1_795_305_600_000; // 2026-11-22T00:00:00Z
        for (text, expected) in [
            ("2026-11-22", When::At(DAY)),
            (" 2026-11-22T08:30:00Z ", When::At(DAY + 8 * 3_600_000 + 30 * 60_000)),
            ("2026-11-22T09:30:00+01:00", When::At(DAY + 8 * 3_600_000 + 30 * 60_000)),
            ("90m", When::Ago(Duration::from_secs(5_400))),
            ("12h", When::Ago(Duration::from_secs(43_200))),
            ("3d", When::Ago(Duration::from_secs(259_200))),
        ] {
            assert_eq!(when(text), Ok(expected), "{text}");
        }
        for bad in
            ["", "d", "-3d", "3w", "3 d", "yesterday", "2026-13-01", "2026-11-22T08:30", "1969-01-01", "99999999d"]
        {
            assert!(when(bad).is_err(), "{bad}");
        }
        assert_eq!(When::Ago(Duration::from_secs(1)).ms(5_000), 4_000);
    }
}
