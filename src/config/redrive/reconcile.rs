//! `redrive reconcile`: its flags, and what comes of them.

use std::time::Duration;

use clap::Args;

use super::upkeep::{AreaArgs, QueueArgs, ScopeArgs, area, index, queue, scope, switch};
use crate::config::args::SearchArgs;
use crate::config::mistakes::{Reader, wrong};
use crate::config::values::{quoted, seconds};
use crate::config::{OpenSearchConfig, setting};
use crate::message::{DocumentId, Namespace};
use crate::upkeep::Area;
use crate::upkeep::reconcile::Cursor;

pub(super) const HELP: &str = "\
Nothing is written without --repair. With it, work goes through the normal road: a message to the queue where a file
must be read again or its record made a tombstone, a marker (retry-index/) where only the index is behind. Each finding
is a line on stdout, then the counts; the last line on stderr is `reconciled`, for a timer to watch. Work that waits in
the queue shows as a finding: look when the queue is short. A finding that comes back after a repair is in the
dead-letter queue.

Examples:
  redrive reconcile --bucket incoming                     what is not in step
  redrive reconcile --bucket incoming --prefix 2026/ --repair
  redrive reconcile --repair --json > findings.ndjson     daily, by a timer

Exit codes: 0 in step, or all found was put on its way · 3 something was found, or is left, or the fleet was paused
meanwhile · 4 refused: --repair while the fleet is paused · 64 · 75 a dependency is sick · 78 · 130 interrupted; where it
ends early it says how to go on";

/// What was typed.
#[derive(Args, Clone, PartialEq, Eq)]
pub(super) struct ReconcileArgs {
    #[command(flatten)]
    area: AreaArgs,
    #[command(flatten)]
    queue: QueueArgs,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    search: SearchArgs,

    /// Send what is not in step through the normal road; true or false, default false.
    #[arg(long, env = "RECONCILE_REPAIR", value_name = "BOOL")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    repair: Option<String>,

    /// Leave alone what changed within this time, for work on it may be under way; seconds, or 15m, 1h; default 15m.
    #[arg(long, env = "RECONCILE_MIN_AGE", value_name = "TIME", allow_negative_numbers = true)]
    min_age: Option<String>,

    /// Write the counts to the log too, at the end, as CloudWatch's embedded metric format (event `metrics`); true or false,
    /// default false.
    #[arg(long, env = "METRICS_EMF", value_name = "BOOL")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    metrics_emf: Option<String>,

    /// Go on behind this source key, as an interrupted run says it.
    #[arg(long, value_name = "KEY", conflicts_with = "resume_from_record", allow_hyphen_values = true)]
    resume_from: Option<String>,

    /// Go on behind this record, as an interrupted run says it; all source keys count as done.
    #[arg(long, env = "RECONCILE_RESUME_FROM_RECORD", value_name = "DOCUMENT_ID")]
    resume_from_record: Option<String>,
}

/// What a reconciliation runs with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReconcileConfig {
    /// Which files.
    pub area: Area,
    /// Scope.
    pub namespace: Namespace,
    /// The index.
    pub opensearch: OpenSearchConfig,
    /// Where repairs are sent, at most so many per second; `None` only looks.
    pub repair: Option<(String, u32)>,
    /// Younger changes are left alone.
    pub min_age: Duration,
    /// Larger files are left alone.
    pub max_object_bytes: u64,
    /// The counts go to the log as metrics too.
    pub metrics_emf: bool,
    /// Where to go on.
    pub resume: Option<Cursor>,
}

pub(super) fn convert(
    read: &Reader<'_>,
    args: &ReconcileArgs,
    results_bucket: Option<&str>,
    allow_http: bool,
) -> Option<ReconcileConfig> {
    let area = area(read, &args.area, results_bucket);
    let repair = switch(read, "repair", args.repair.as_deref());
    let metrics_emf = switch(read, "metrics_emf", args.metrics_emf.as_deref());
    let queue = queue(read, &args.queue, repair == Some(true));
    let namespace = scope(read, &args.scope);
    let opensearch = index(read, &args.search, allow_http);
    let min_age = read.value(&setting!(read, args.min_age), "15m", seconds(0..=30 * 86_400));
    let record = read.optional(&setting!(read, args.resume_from_record), |text| match DocumentId::parse(text) {
        Some(id) => Ok(id),
        None => wrong(format!("{} is no document id", quoted(text)), "give what the interrupted run printed"),
    });
    let (area, max_object_bytes) = area?;
    let (queue, repair) = (queue?, repair?);
    let resume = record?.map(Cursor::Record).or(args.resume_from.clone().map(Cursor::Key));
    let repair = queue.url.filter(|_| repair).map(|url| (url, queue.rate));
    Some(ReconcileConfig {
        area,
        namespace: namespace?,
        opensearch: opensearch?,
        repair,
        min_age: min_age?,
        max_object_bytes,
        metrics_emf: metrics_emf?,
        resume,
    })
}
