//! `redrive reprocess`: its flags, and what comes of them.

use clap::Args;

use super::upkeep::{AreaArgs, QueueArgs, ScopeArgs, area, index, queue, scope};
use crate::config::args::SearchArgs;
use crate::config::mistakes::{Reader, wrong};
use crate::config::values::quoted;
use crate::config::{OpenSearchConfig, setting};
use crate::message::Namespace;
use crate::upkeep::Area;
use crate::upkeep::reprocess::ExtractorVersion;

pub(super) const HELP: &str = "\
Each file becomes a message with `force`: a worker reads it again and writes its record with a higher revision, however
little has changed. Messages count as sent when the queue has acknowledged each. OpenSearch is asked
only with --extractor-older-than.

Examples:
  redrive reprocess --bucket incoming --dry-run                   how many files
  redrive reprocess --bucket incoming --prefix 2025/ --rate 50    the first backfill of a full bucket
  redrive reprocess --bucket incoming --extractor-older-than 2    after a better extractor

Exit codes: 0 all sent · 3 some could not be judged, or the fleet was paused meanwhile · 4 refused: the fleet is paused ·
64 · 75 a dependency is sick · 78 · 130 interrupted; where it ends early it says how to go on";

/// What was typed.
#[derive(Args, Clone, PartialEq, Eq)]
pub(super) struct ReprocessArgs {
    #[command(flatten)]
    area: AreaArgs,
    #[command(flatten)]
    queue: QueueArgs,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    search: SearchArgs,

    /// Only files whose record was made by an extractor older than this: 2, or quittance-extract/2.
    #[arg(long, env = "REPROCESS_EXTRACTOR_OLDER_THAN", value_name = "VERSION")]
    extractor_older_than: Option<String>,

    /// Count, and send nothing.
    #[arg(long)]
    dry_run: bool,

    /// Go on behind this key, as an interrupted run says it.
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    resume_from: Option<String>,
}

/// What a reprocessing runs with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReprocessConfig {
    /// Which files.
    pub area: Area,
    /// Where messages are sent, at most so many per second; `None` only counts.
    pub send: Option<(String, u32)>,
    /// Only files of older extractors, looked up in the index.
    pub older_than: Option<(ExtractorVersion, OpenSearchConfig)>,
    /// Scope.
    pub namespace: Namespace,
    /// Larger files are left alone.
    pub max_object_bytes: u64,
    /// Where to go on.
    pub resume: Option<String>,
}

pub(super) fn convert(
    read: &Reader<'_>,
    args: &ReprocessArgs,
    results_bucket: Option<&str>,
    allow_http: bool,
) -> Option<ReprocessConfig> {
    let area = area(read, &args.area, results_bucket);
    let queue = queue(read, &args.queue, !args.dry_run);
    let namespace = scope(read, &args.scope);
    let older = read.optional(&setting!(read, args.extractor_older_than), |text| match ExtractorVersion::parse(text) {
        Some(version) => Ok(version),
        None => wrong(
            format!("{} is no version of an extractor", quoted(text)),
            "give a number, as behind the '/' of `extractor` in a record: 2",
        ),
    });
    // Without the filter nothing here asks the index: its settings may be absent.
    let older_than = match older? {
        None => None,
        Some(version) => Some((version, index(read, &args.search, allow_http)?)),
    };
    let (area, max_object_bytes) = area?;
    let queue = queue?;
    Some(ReprocessConfig {
        area,
        send: queue.url.filter(|_| !args.dry_run).map(|url| (url, queue.rate)),
        older_than,
        namespace: namespace?,
        max_object_bytes,
        resume: args.resume_from.clone(),
    })
}
