//! The drain's flags (`redrive` without a command, and `redrive plan`), and what comes of them.

use std::time::Duration;

use clap::Args;

use super::upkeep::{ScopeArgs, scope};
use crate::config::args::SearchArgs;
use crate::config::mistakes::{Reader, Wrong};
use crate::config::values::{number, seconds, sources, tenant_from};
use crate::config::{OpenSearchConfig, TenantFrom, search, setting, urls};
use crate::message::Namespace;
use crate::message::s3_event::Source;
use crate::redrive::drain::Limits;
use crate::redrive::letter::REASONS;
use crate::redrive::select::Selection;

/// Letters of a batch, where nothing is said.
const BATCH: &str = "50";
/// Longest age that can be asked for; SQS keeps a message for 14 days.
const OLDEST: u64 = 60 * 86_400;
/// Letters that may be held at once: SQS hands out 120,000 in all (SQS quotas, "In flight messages"), and the settler looks
/// at all that it holds at every turn.
const MOST_HELD: usize = 20_000;
/// Of their bodies, in memory.
const MOST_BYTES: usize = 512 << 20;

pub(super) const PLAN_HELP: &str = "\
Looks at both queues, the archive and the attempts, and says what a drain would do. Receives nothing; with
--sample N it receives N letters, judges them as the drain would, and puts them back: their receive counts
rise by one.

Examples:
  redrive plan
  redrive plan --sample 100
  redrive plan --sample 100 --reason denied --rate 20

Exit codes: 0 · 4 refused: the queues do not belong together · 64 · 75 a dependency is not there · 78 · 130 interrupted";

/// What was typed.
#[derive(Args, Clone, PartialEq, Eq, Default)]
pub(super) struct DrainArgs {
    /// Letters of a batch, each batch written down before it is settled; default 50, range 1 to 10000.
    #[arg(long, env = "REDRIVE_BATCH_SIZE", value_name = "N", allow_negative_numbers = true, help_heading = "Drain")]
    #[arg(value_parser = batch)]
    pub(super) batch_size: Option<String>,
    /// Batches at most; default: no end.
    #[arg(long, env = "REDRIVE_MAX_BATCHES", value_name = "N", allow_negative_numbers = true, help_heading = "Drain")]
    #[arg(value_parser = count)]
    max_batches: Option<String>,
    /// Letters at most; default: no end.
    #[arg(long, env = "REDRIVE_MAX_MESSAGES", value_name = "N", allow_negative_numbers = true, help_heading = "Drain")]
    #[arg(value_parser = count)]
    max_messages: Option<String>,
    /// Messages sent back per second, at most; default 100, range 1 to 10000.
    #[arg(long, env = "REDRIVE_RATE", value_name = "N", allow_negative_numbers = true, help_heading = "Drain")]
    #[arg(value_parser = batch)]
    rate: Option<String>,
    /// Wait while more messages than this are in the main queue; default 1000.
    #[arg(long, env = "REDRIVE_MAX_BACKLOG", value_name = "N", allow_negative_numbers = true, help_heading = "Drain")]
    #[arg(value_parser = count)]
    max_backlog: Option<String>,
    /// The first ten must be worked on within this; seconds, or 5m; 0 does without; default 2m.
    #[arg(long, env = "REDRIVE_CANARY_TIMEOUT", value_name = "TIME", help_heading = "Drain")]
    canary_timeout: Option<String>,
    /// Only say what would be done, and receive nothing (as `redrive plan`).
    #[arg(long, help_heading = "Drain")]
    pub(super) dry_run: bool,
    /// With --dry-run or plan: receive this many letters, look at them, and put them back.
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Drain")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) sample: Option<u32>,
    /// Send finished work back too, to be done again; a newer state of a file still wins.
    #[arg(long, help_heading = "Drain")]
    force: bool,
    /// Take this dead-letter queue although no policy joins it to the queue.
    #[arg(long, value_name = "ARN", value_parser = arn, help_heading = "Drain")]
    allow_unpaired: Vec<String>,

    /// Only letters with one of these reasons: malformed, not_allowed, source_missing, denied, too_large, limit,
    /// attempts_exhausted, crash_loop, deadline, max_receives (moved by SQS itself); a comma list, or several times.
    #[arg(long, value_name = "REASON", value_delimiter = ',', value_parser = reason, help_heading = "Which letters")]
    reason: Vec<String>,
    /// Only letters with a file of one of these tenants.
    #[arg(long, value_name = "NAME", help_heading = "Which letters")]
    tenant: Vec<String>,
    /// Only letters with a file whose key begins so.
    #[arg(long, value_name = "TEXT", help_heading = "Which letters")]
    key_prefix: Option<String>,
    /// Only letters that were given up longer ago; seconds, or 15m, 6h, 2d.
    #[arg(long, value_name = "TIME", value_parser = age, help_heading = "Which letters")]
    older_than: Option<Duration>,
    /// Only letters that were given up within this time.
    #[arg(long, value_name = "TIME", value_parser = age, help_heading = "Which letters")]
    newer_than: Option<Duration>,
    /// Only the letters with these message ids: their own, or those they were first sent under.
    #[arg(long, value_name = "ID", value_delimiter = ',', help_heading = "Which letters")]
    message_id: Vec<String>,

    /// The workers' queue, which letters are sent back to; required.
    #[arg(long, env = "SQS_QUEUE_URL", value_name = "URL", help_heading = "Where")]
    queue_url: Option<String>,
    /// Its dead-letter queue; default: found from the queue's redrive policy.
    #[arg(long, env = "SQS_DLQ_URL", value_name = "URL", help_heading = "Where")]
    dlq_url: Option<String>,
    /// How long a letter is held before its lease is extended, or it shows again after a crash; seconds; default 120,
    /// range 10 to 43200.
    #[arg(long, env = "SQS_VISIBILITY_TIMEOUT", value_name = "SECONDS", help_heading = "Where")]
    visibility_timeout: Option<String>,
    /// Comma list of `bucket` or `bucket/prefix` that the workers read, as theirs; required.
    #[arg(long, env = "SOURCE_BUCKETS", value_name = "LIST", help_heading = "Where")]
    source_buckets: Option<String>,
    /// Where a file's tenant is read, as the workers': prefix:N, message-group, none; default prefix:1.
    #[arg(long, env = "TENANT_FROM", value_name = "WHERE", help_heading = "Where")]
    tenant_from: Option<String>,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    search: SearchArgs,
}

/// `redrive plan`.
#[derive(Args, Clone, PartialEq, Eq)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pub(super) drain: DrainArgs,
}

/// What a drain runs with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DrainConfig {
    /// The workers' queue.
    pub queue_url: String,
    /// Its DLQ, where it was named.
    pub dlq_url: Option<String>,
    /// What the workers read.
    pub sources: Vec<Source>,
    /// Scope.
    pub namespace: Namespace,
    /// Where tenants are read.
    pub tenant_from: TenantFrom,
    /// The index; `None`: parked instead.
    pub opensearch: Option<OpenSearchConfig>,
    /// Which letters.
    pub selection: Selection,
    /// How much, how fast.
    pub limits: Limits,
    /// Messages sent per second, at most.
    pub rate: u32,
    /// Lease length.
    pub visibility: Duration,
    /// ARNs that are taken although no policy joins them.
    pub allow_unpaired: Vec<String>,
    /// Letters to receive for a plan.
    pub sample: Option<usize>,
}

impl DrainArgs {
    /// Something was typed that only a drain has; flags of the worker's environment are every command's.
    pub(super) fn is_asked_for(&self) -> bool {
        Self { search: SearchArgs::default(), scope: ScopeArgs::default(), ..self.clone() } != Self::default()
    }
}

fn checked(text: &str, fits: impl FnOnce(&str) -> Result<u64, Wrong>) -> Result<String, String> {
    fits(text).map(|_| text.to_owned()).map_err(|Wrong { what, fix }| format!("{what}; {fix}"))
}

fn arn(text: &str) -> Result<String, String> {
    let fits = text.starts_with("arn:") && text.contains(":sqs:");
    if fits {
        Ok(text.to_owned())
    } else {
        Err("it is not the ARN of a queue: give the dead-letter queue's".to_owned())
    }
}

fn batch(text: &str) -> Result<String, String> {
    checked(text, number(1..=10_000, "a batch or a second"))
}

fn count(text: &str) -> Result<String, String> {
    checked(text, number(1..=u64::from(u32::MAX), "of them"))
}

fn age(text: &str) -> Result<Duration, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok()?.checked_mul(86_400));
    let text = days.map_or_else(|| text.to_owned(), |seconds| seconds.to_string());
    seconds(1..=OLDEST)(&text).map_err(|Wrong { what, fix }| format!("{what}; {fix}"))
}

fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if REASONS.contains(&text) { Ok(text.to_owned()) } else { Err(format!("there are: {}", REASONS.join(", "))) }
}

pub(super) fn convert(read: &Reader<'_>, args: &DrainArgs, allow_http: bool) -> Option<DrainConfig> {
    let form = || urls::queue("S3 cannot notify one, and the workers refuse it");
    let queue_url = read.required(&setting!(read, args.queue_url), "give the workers' queue", form());
    let dlq_url = read.optional(&setting!(read, args.dlq_url), form());
    let listed = setting!(read, args.source_buckets);
    let sources = read.required(&listed, "list what the workers read, as theirs: bucket or bucket/prefix", sources);
    let tenant_from = read.value(&setting!(read, args.tenant_from), "prefix:1", tenant_from);
    let namespace = scope(read, &args.scope);
    let opensearch = search::convert(read, &args.search, allow_http);
    let most = || number(1..=u64::from(u32::MAX), "of them");
    let batch_size = read.value(&setting!(read, args.batch_size), BATCH, number(1..=10_000, "letters a batch"));
    let max_batches = read.optional(&setting!(read, args.max_batches), most());
    let max_messages = read.optional(&setting!(read, args.max_messages), most());
    let max_backlog = read.value(&setting!(read, args.max_backlog), "1000", most());
    let rate = read.value(&setting!(read, args.rate), "100", number(1..=10_000, "messages per second"));
    let canary = read.value(&setting!(read, args.canary_timeout), "2m", |text| match text {
        "0" => Ok(Duration::ZERO),
        text => seconds(1..=86_400)(text),
    });
    let visibility = read.value(&setting!(read, args.visibility_timeout), "120", seconds(10..=43_200));
    let ms = |age: Option<Duration>| age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    Some(DrainConfig {
        queue_url: queue_url?,
        dlq_url: dlq_url?,
        sources: sources?,
        namespace: namespace?,
        tenant_from: tenant_from?,
        opensearch: opensearch?,
        selection: Selection {
            reasons: args.reason.clone(),
            tenants: args.tenant.clone(),
            key_prefix: args.key_prefix.clone(),
            older_than_ms: ms(args.older_than),
            newer_than_ms: ms(args.newer_than),
            message_ids: args.message_id.clone(),
            // What shares the dead-letter queue is SQS's to say.
            not_of: Vec::new(),
            only_of: None,
        },
        limits: Limits {
            batch_size: batch_size?,
            max_batches: max_batches?,
            max_messages: max_messages?,
            force: args.force,
            max_backlog: max_backlog?,
            canary: canary?,
            most_held: MOST_HELD,
            most_bytes: MOST_BYTES,
        },
        rate: rate?,
        visibility: visibility?,
        allow_unpaired: args.allow_unpaired.clone(),
        sample: args.sample.map(|number| usize::try_from(number).unwrap_or(usize::MAX)),
    })
}
