//! `redrive parked`: what was typed, and what comes of it.
//!
//! Promises the worker's own names for what the worker has too, so that its environment file serves here as well.
//! OpenSearch is needed only to replay.

use clap::Args;

use super::super::args::SearchArgs;
use super::super::mistakes::Reader;
use super::super::search;
use super::super::values::{namespace, number, seconds};
use super::super::{DAY, OpenSearchConfig, setting};
use crate::index::replay::patience::Budget;
use crate::message::Namespace;
use crate::retry::Backoff;

/// Documents of a listing.
const LIMIT: usize = 100;

#[derive(Args, Clone, PartialEq, Eq)]
#[command(after_help = AFTER_HELP, after_long_help = AFTER_HELP)]
pub(super) struct ParkedArgs {
    /// Only say what is parked: by day and by reason.
    #[arg(long, conflicts_with = "errored")]
    list: bool,
    /// Say what has errored (refused by the index, or its retry budget spent), with key, reason and time.
    #[arg(long)]
    errored: bool,
    /// Move what has errored back, to be replayed again.
    #[arg(long, requires = "errored")]
    reset: bool,
    /// Only documents whose source keys begin so.
    #[arg(long, alias = "prefix", value_name = "TEXT", requires = "errored")]
    key_prefix: Option<String>,
    /// Documents to print at most; default 100, range 1 to 100000.
    #[arg(long, value_name = "N", requires = "errored", conflicts_with = "reset")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: Option<u32>,

    /// The workers' scope; default `default`.
    #[arg(long, env = "NAMESPACE", value_name = "NAME")]
    namespace: Option<String>,
    #[command(flatten)]
    search: SearchArgs,

    /// Replays of a document that is refused for unclear reasons, until it is moved to `errored-index/`; default 5.
    #[arg(long, env = "FAILED_RETRY_MAX_RETRIES", value_name = "N", help_heading = "Replay")]
    replay_max_retries: Option<String>,
    /// Delay in seconds before such a document is replayed again, doubling; default 30.
    #[arg(long, env = "FAILED_RETRY_BASE_BACKOFF_SECONDS", value_name = "SECONDS", help_heading = "Replay")]
    replay_base_backoff_seconds: Option<String>,
    /// Longest such delay in seconds; default 3600.
    #[arg(long, env = "FAILED_RETRY_MAX_BACKOFF_SECONDS", value_name = "SECONDS", help_heading = "Replay")]
    replay_max_backoff_seconds: Option<String>,
}

const AFTER_HELP: &str = "\
Without a flag: replays what is parked, oldest first, until nothing is left, as the workers do by
themselves. One replayer at a time (control/replay.json): where a worker is at it already, this is
refused; one that has died is waited for, 60 seconds. A pause refuses it, and ends it.

Examples:
  redrive parked                             replay now
  redrive parked --list                      how much is parked, since when and why
  redrive parked --errored                   what was given up on, with key and reason
  redrive parked --errored --key-prefix 2026/ --limit 20
  redrive parked --errored --reset           after the mapping was mended: try all of it again

Exit codes:
  0    well: nothing is left
  3    partial: some are left, or have errored; the report says which and why
  4    refused: paused, or another replays; by whom and since when
  75   a dependency is not there: the bucket, credentials, OpenSearch
  130  interrupted: what was done is done, the same command goes on";

/// What is wanted of what is parked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ParkedOrder {
    /// Replay it.
    Replay {
        /// Into this.
        search: OpenSearchConfig,
        /// `FAILED_RETRY_*`.
        budget: Budget,
    },
    /// Count it.
    List,
    /// Show what errored.
    Errored {
        /// Only of keys that begin so.
        key_prefix: Option<String>,
        /// At most.
        limit: usize,
    },
    /// Park again what errored.
    Reset {
        /// Only of keys that begin so.
        key_prefix: Option<String>,
    },
}

pub(super) fn convert(read: &Reader<'_>, args: &ParkedArgs, allow_http: bool) -> Option<(Namespace, ParkedOrder)> {
    let namespace = read.value(&setting!(read, args.namespace), "default", namespace);
    let key_prefix = args.key_prefix.clone();
    let order = match (args.list, args.errored, args.reset) {
        (true, ..) => Some(ParkedOrder::List),
        (false, true, false) => {
            let limit = args.limit.map_or(LIMIT, |limit| usize::try_from(limit).unwrap_or(LIMIT));
            Some(ParkedOrder::Errored { key_prefix, limit })
        }
        (false, _, true) => Some(ParkedOrder::Reset { key_prefix }),
        (false, false, false) => replay(read, args, allow_http),
    };
    Some((namespace?, order?))
}

fn replay(read: &Reader<'_>, args: &ParkedArgs, allow_http: bool) -> Option<ParkedOrder> {
    let search = search::convert(read, &args.search, allow_http);
    if search == Some(None) {
        let typed = &args.search;
        let skip = setting!(read, typed.skip_opensearch);
        read.mistake(&skip, "is set: there is nothing to replay into", "unset it here, and name the endpoint");
    }
    let retries = setting!(read, args.replay_max_retries);
    let retries = read.value(&retries, "5", number(0..=1000, "replays"));
    let backoff = setting!(read, args.replay_base_backoff_seconds);
    let base = read.value(&backoff, "30", seconds(1..=DAY));
    let cap = read.value(&setting!(read, args.replay_max_backoff_seconds), "3600", seconds(1..=DAY));
    let budget = Budget { retries: retries?, backoff: Backoff { base: base?, cap: cap? } };
    Some(ParkedOrder::Replay { search: search??, budget })
}
