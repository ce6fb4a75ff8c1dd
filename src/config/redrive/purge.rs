//! `redrive purge-tombstones`: its flags, and what comes of them.

use std::time::Duration;

use clap::Args;

use super::upkeep::{ScopeArgs, index, scope};
use crate::config::args::SearchArgs;
use crate::config::mistakes::{Reader, Wrong, wrong};
use crate::config::values::quoted;
use crate::config::{OpenSearchConfig, setting};
use crate::message::Namespace;
use crate::upkeep::purge::LEAST_AGE;

pub(super) const HELP: &str = "\
Removes, in this order and only at the tombstone's revision: the index entry, markers of that revision or older, the
record. A file that comes back meanwhile survives. Where the store has no conditional DELETE, the record stays, and the
report says so (exit 3).

Examples:
  redrive purge-tombstones --older-than 45d --dry-run
  redrive purge-tombstones --older-than 45d

Exit codes: 0 all old tombstones are gone · 3 some are left, or the fleet was paused meanwhile · 4 refused: the fleet is
paused · 64 · 75 a dependency is sick (run it again) · 78 · 130 interrupted (run it again)";

const DAY: u64 = 86_400;

/// What was typed.
#[derive(Args, Clone, PartialEq, Eq)]
pub(super) struct PurgeArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    search: SearchArgs,

    /// Only tombstones written longer ago, in days (45d); required; 28d at least, for that long an old event may wait in
    /// the queue and its dead-letter queue; 45d is advised.
    #[arg(long, env = "PURGE_OLDER_THAN", value_name = "DAYS", allow_negative_numbers = true)]
    older_than: Option<String>,

    /// Count, and remove nothing.
    #[arg(long)]
    dry_run: bool,
}

/// What a purge runs with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PurgeConfig {
    /// Scope.
    pub namespace: Namespace,
    /// The index.
    pub opensearch: OpenSearchConfig,
    /// Younger tombstones stay.
    pub older_than: Duration,
    /// Only count.
    pub dry_run: bool,
}

pub(super) fn convert(read: &Reader<'_>, args: &PurgeArgs, allow_http: bool) -> Option<PurgeConfig> {
    let namespace = scope(read, &args.scope);
    let opensearch = index(read, &args.search, allow_http);
    let older_than = read.required(&setting!(read, args.older_than), "give an age in days: 45d", days);
    Some(PurgeConfig { namespace: namespace?, opensearch: opensearch?, older_than: older_than?, dry_run: args.dry_run })
}

/// `45d`.
fn days(text: &str) -> Result<Duration, Wrong> {
    let least = LEAST_AGE.as_secs() / DAY;
    let fix = format!("give whole days, {least}d at least; 45d is advised");
    let digits = text.strip_suffix('d').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    match digits.and_then(|digits| digits.parse::<u64>().ok()) {
        Some(days @ 0..=36_500) if days < least => {
            let why = "an old event may still wait in the queue (14 days) or its dead-letter queue (14 more)";
            wrong(format!("{} is too short: {why}, and must find the tombstone", quoted(text)), fix)
        }
        Some(days @ 0..=36_500) => Ok(Duration::from_secs(days * DAY)),
        Some(_) => wrong(format!("{} is out of range", quoted(text)), fix),
        None => wrong(format!("{} is not a number of days", quoted(text)), fix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_below_what_an_old_event_may_wait_is_refused_with_the_reason() {
        assert_eq!(days("45d").unwrap(), Duration::from_secs(45 * DAY));
        assert_eq!(days("28d").unwrap(), LEAST_AGE);
        for short in ["0d", "14d", "27d"] {
            let mistake = days(short).unwrap_err();
            assert!(mistake.what.contains("dead-letter queue") && mistake.fix.contains("28d"), "{mistake:?}");
        }
        for bad in ["", "d", "45", "-1d", "+45d", "1.5d", "99999999999d", "45 d", "6w"] {
            assert!(days(bad).is_err(), "{bad}");
        }
    }
}
