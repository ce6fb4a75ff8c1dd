//! `redrive trace`: its flags, and what comes of them.

use clap::Args;

use super::upkeep::{ScopeArgs, scope, switch};
use crate::config::args::SearchArgs;
use crate::config::mistakes::{Reader, Wrong, wrong};
use crate::config::values::{number, quoted};
use crate::config::{OpenSearchConfig, search, setting, urls};
use crate::message::Namespace;
use crate::trace::Target;

pub(super) const HELP: &str = "\
Asks the file itself, its record, the index, parked/ and errored markers, failed attempts and the archive, all at once and
5 seconds each at most; one that does not answer is told and hides no other. First comes what it means, then the life in
its order, then what to do next. What cannot be known from here is said, with the query for the workers' log that can
tell. A key is taken as it is typed: not decoded. A message is known by the id it was sent under, also after a redrive.

Nothing is changed. Only --dlq leaves a mark: SQS has no way to look, so each message of the dead-letter queue that is
looked at (--dlq-limit) is received, which SQS counts, and returned within seconds; it needs SQS_QUEUE_URL or SQS_DLQ_URL.
Needs S3_BUCKET, NAMESPACE and the OPENSEARCH_ settings (SKIP_OPENSEARCH=true leaves the index out).

Examples:
  redrive trace 's3://incoming/2026/annual report.pdf'
  redrive trace 6c1f7a52-0d3e-4b0c-9a57-2f6d8d3f1f10 --json
  redrive trace 6c1f7a52-0d3e-4b0c-9a57-2f6d8d3f1f10 --dlq
  redrive trace s3://incoming/請求書.pdf --since 60d

Exit codes: 0 found · 3 found nothing, or something could not be asked · 64 no such form · 75 nothing could be asked · 78";

/// What was typed.
#[derive(Args, Clone, PartialEq, Eq)]
pub(super) struct TraceArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    search: SearchArgs,

    /// The file, s3://BUCKET/KEY, or the id of the message.
    #[arg(value_name = "S3-URL|MESSAGE-ID", value_parser = Target::parse)]
    target: Target,

    /// How far back the archive is looked through, in days (15d); default 15d, range 1d to 400d.
    #[arg(long, env = "TRACE_SINCE", value_name = "DAYS", allow_negative_numbers = true)]
    since: Option<String>,

    /// Look into the dead-letter queue too, which costs each message there a receive; true or false, default false.
    #[arg(long, env = "TRACE_DLQ", value_name = "BOOL", help_heading = "Dead-letter queue")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    dlq: Option<String>,

    /// Messages of it that are looked at, at most, in 5 seconds; default 100, range 1 to 1000.
    #[arg(long, env = "TRACE_DLQ_LIMIT", value_name = "N", allow_negative_numbers = true)]
    #[arg(help_heading = "Dead-letter queue")]
    dlq_limit: Option<String>,

    /// URL of the workers' queue: its dead-letter queue is found by the redrive policy; only with --dlq.
    #[arg(long, env = "SQS_QUEUE_URL", value_name = "URL", help_heading = "Dead-letter queue")]
    queue_url: Option<String>,

    /// URL of the dead-letter queue; default: found from SQS_QUEUE_URL; only with --dlq.
    #[arg(long, env = "SQS_DLQ_URL", value_name = "URL", help_heading = "Dead-letter queue")]
    dlq_url: Option<String>,
}

/// A dead-letter queue that is looked into.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DlqConfig {
    /// Where it is.
    pub queue: DlqUrl,
    /// Messages, at most.
    pub limit: usize,
}

/// How a dead-letter queue is found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DlqUrl {
    /// Its own URL.
    Given(String),
    /// By the redrive policy of this queue.
    Of(String),
}

/// What a trace runs with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceConfig {
    /// What is traced.
    pub target: Target,
    /// Scope.
    pub namespace: Namespace,
    /// The index; `None` is not asked.
    pub opensearch: Option<OpenSearchConfig>,
    /// Days of the archive.
    pub days: u64,
    /// The dead-letter queue, where it is wanted.
    pub dlq: Option<DlqConfig>,
}

pub(super) fn convert(read: &Reader<'_>, args: &TraceArgs, allow_http: bool) -> Option<TraceConfig> {
    let namespace = scope(read, &args.scope);
    let opensearch = search::convert(read, &args.search, allow_http);
    let days = read.value(&setting!(read, args.since), "15d", days);
    let dlq = dlq(read, args);
    let target = args.target.clone();
    Some(TraceConfig { target, namespace: namespace?, opensearch: opensearch?, days: days?, dlq: dlq? })
}

fn dlq(read: &Reader<'_>, args: &TraceArgs) -> Option<Option<DlqConfig>> {
    let limit = read.value(&setting!(read, args.dlq_limit), "100", number(1..=1_000, "messages"));
    if !switch(read, "dlq", args.dlq.as_deref())? {
        return limit.map(|_| None); // the worker's environment file may name queues: they are not looked at
    }
    let form = || urls::queue("S3 cannot notify one, and the workers refuse it");
    let given = read.optional(&setting!(read, args.dlq_url), form())?;
    let queue = match given {
        Some(url) => DlqUrl::Given(url),
        None => {
            let fix = "--dlq needs it, or SQS_DLQ_URL: give the workers' queue";
            DlqUrl::Of(read.required(&setting!(read, args.queue_url), fix, form())?)
        }
    };
    Some(Some(DlqConfig { queue, limit: limit? }))
}

/// `15d`.
fn days(text: &str) -> Result<u64, Wrong> {
    let fix = "give whole days from 1d to 400d";
    let digits = text.strip_suffix('d').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(days @ 1..=400) => Ok(days),
        Some(_) => wrong(format!("{} is out of range", quoted(text)), fix),
        None => wrong(format!("{} is not a number of days", quoted(text)), fix),
    }
}
