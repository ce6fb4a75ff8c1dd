//! What was typed to `redrive`, and what comes of it: the operator's commands that there are today.
//!
//! Promises the rules of the worker's settings: every flag has a variable, all mistakes are told at once, each with its
//! fix. Needs a bucket and the AWS SDK's own settings; what else a worker's environment file holds is not looked at.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use super::args::{Name, names_of, without_values};
use super::mistakes::{Mistakes, Reader};
use super::setting;
use super::urls;
use super::values::{boolean, bucket};
use super::{LogFormat, Surroundings};
use crate::message::Namespace;

mod archive;
mod drain;
mod find;
mod inspect;
mod parked;
mod purge;
mod reconcile;
mod reprocess;
mod trace;
mod upkeep;
mod when;

pub use archive::{ArchiveOrder, LettersWanted};
pub use drain::DrainConfig;
pub use find::FindConfig;
pub use inspect::InspectConfig;
pub use parked::ParkedOrder;
pub use purge::PurgeConfig;
pub use reconcile::ReconcileConfig;
pub use reprocess::ReprocessConfig;
pub use trace::{DlqConfig, DlqUrl, TraceConfig};
pub use when::When;

/// Longest reason: it goes into a log line of every worker.
const REASON_CHARS: usize = 400;

/// The operator's side of quittance: drain the dead-letter queue, pause and resume all workers of a results bucket, see to
/// what is parked, keep index and records in step with the source, look into the index.
// No Debug: what was typed may hold a secret.
#[derive(Parser)]
#[command(name = "redrive", version, after_help = AFTER_HELP, after_long_help = AFTER_HELP, subcommand_value_name = "COMMAND")]
pub struct RedriveArgs {
    /// What to do; without one, the dead-letter queue is drained.
    #[command(subcommand)]
    command: Option<Verb>,

    #[command(flatten)]
    drain: drain::DrainArgs,

    /// The workers' results bucket; required but for `search`.
    #[arg(long, env = "S3_BUCKET", value_name = "BUCKET", global = true)]
    results_bucket: Option<String>,

    /// Allow a plain `http://` AWS_ENDPOINT_URL to other than loopback addresses (tests only); true or false, default
    /// false.
    #[arg(long, env = "ALLOW_HTTP", value_name = "BOOL", global = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_http: Option<String>,

    /// Print JSON on stdout: one object, or one a line.
    #[arg(long, global = true)]
    json: bool,
}

/// What `redrive` can be asked to do.
#[derive(Subcommand, Clone, PartialEq, Eq)]
enum Verb {
    /// Stop receiving and replaying in all workers; work in hand is finished. The first pause stands.
    Pause {
        /// Why, for those who find the workers standing still; at most 400 characters.
        #[arg(long, value_name = "TEXT", required_unless_present = "status", conflicts_with = "status")]
        #[arg(value_parser = reason)]
        reason: Option<String>,
        /// Who; default: user@host.
        #[arg(long, value_name = "NAME", conflicts_with = "status", value_parser = reason)]
        by: Option<String>,
        /// Only say how things stand, as `redrive status` does.
        #[arg(long)]
        status: bool,
    },
    /// Take the pause back, whoever made it.
    Resume,
    /// Say whether the workers are paused, by whom, since when and why.
    Status,
    /// Say what a drain of the dead-letter queue would do, and how long it would take.
    #[command(after_help = drain::PLAN_HELP)]
    Plan(Box<drain::PlanArgs>),
    /// Replay the documents that are not in the index yet, list them, or see to those that errored.
    Parked(Box<parked::ParkedArgs>),
    /// Say what is in the dead-letter queue, the archive and errored, why, since when and whose.
    #[command(after_help = inspect::HELP)]
    Inspect(Box<inspect::InspectArgs>),
    /// Look at what was given up on, send it back, or save a queue's messages to S3.
    #[command(after_help = archive::HELP)]
    Archive(Box<archive::ArchiveArgs>),
    /// Compare source bucket, records and index; with --repair, send what is missing, stale or orphaned to be worked on.
    #[command(after_help = reconcile::HELP)]
    Reconcile(Box<reconcile::ReconcileArgs>),
    /// Have files worked on anew that have not changed: a better extractor, the first backfill.
    #[command(after_help = reprocess::HELP)]
    Reprocess(Box<reprocess::ReprocessArgs>),
    /// Forget files that were removed long ago: index entry, markers and record.
    #[command(after_help = purge::HELP)]
    PurgeTombstones(Box<purge::PurgeArgs>),
    /// Look for words in the index: the best hits, with what was matched.
    #[command(after_help = find::HELP)]
    Search(Box<find::FindArgs>),
    /// Tell the life of one file or one message: what is known of it, where it stands, and what to do next.
    #[command(after_help = trace::HELP)]
    Trace(Box<trace::TraceArgs>),
}

const AFTER_HELP: &str = "\
Without a command: drains the dead-letter queue, in batches that are written down before they are settled.
A letter is dropped where its work is done, indexed from its record where only the index lacks it, archived
where it can never be done, and else sent back. The first ten must be worked on before the rest follows.

Required: S3_BUCKET (or --results-bucket); to drain, also SQS_QUEUE_URL, SOURCE_BUCKETS and the index, as
the workers have them: their environment file serves. Region, credentials and AWS_ENDPOINT_URL are the AWS SDK's own.
A pause is one object, control/pause.json: it holds for every worker of that bucket, whatever its
namespace, across restarts, until `redrive resume`. Workers send no new poll after 5 seconds; polls
that are open may bring messages for up to 20 s more.

Examples:
  redrive plan --sample 100                  what is in the dead-letter queue, and what would become of it
  redrive --batch-size 50                    drain it
  redrive --batch-size 50 --max-messages 500 --reason denied --rate 20
  redrive pause --reason 'incident 7: index rebuild'
  redrive status                             who paused, since when, why
  redrive status --json
  redrive resume
  redrive parked --list                      documents that wait for the index
  redrive inspect --since 24h                what is dead-lettered, archived or errored, why and whose
  redrive archive list                       what was given up on (show, restore, save)
  redrive reconcile --bucket incoming        what is missing, stale or orphaned (--repair: put on its way)
  redrive reprocess --bucket incoming --extractor-older-than 2
  redrive purge-tombstones --older-than 45d
  redrive search 'annual report'
  redrive trace s3://incoming/a.pdf          where is my file? (or the id of a message)
`redrive COMMAND --help` says more.

Exit codes:
  0   well, also where there was nothing to change (the report says so)
  3   partial: something was found, or is left
  4   refused: paused, another is at it, or queues that do not belong together
  64  bad usage: no command, an unknown flag or command, no reason
  70  the report of a drain does not add up, or a saved queue's books do not: a defect, please report it
  75  a dependency is not there: the bucket, credentials, the network
  78  bad configuration: all mistakes are listed, each with its fix
  130 interrupted; it says how to go on";

const NOTHING_TYPED: &str = "\
no command was given, so nothing is done; to drain the dead-letter queue: redrive --batch-size 50 (first: redrive plan);
  there are: plan, inspect, pause, resume, status, parked, archive, reconcile, reprocess, purge-tombstones, search,
  trace";

fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    match text.chars().count() {
        0 => Err("it is empty".into()),
        1..=REASON_CHARS => Ok(text.to_owned()),
        many => Err(format!("it has {many} characters, and {REASON_CHARS} are read")),
    }
}

impl RedriveArgs {
    /// Reads a command line; the error is clap's, as for [`Args::read`](super::Args::read).
    pub fn read<I, T>(argv: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        let mut command = without_values(Self::command());
        let args = Self::from_arg_matches(&command.try_get_matches_from_mut(argv)?)?;
        let drains = args.drain.is_asked_for();
        match &args.command {
            // Typed by somebody who wants to see what there is: that must not move anything.
            None if !drains => Err(command.error(ErrorKind::MissingSubcommand, NOTHING_TYPED)),
            None if args.drain.sample.is_some() && !args.drain.dry_run => {
                let what = "--sample only looks, and a drain without --dry-run moves: redrive plan --sample N";
                Err(command.error(ErrorKind::MissingRequiredArgument, what))
            }
            Some(_) if drains => {
                let what =
                    "the drain's own flags go without a command (redrive --batch-size 50), the command's behind it";
                Err(command.error(ErrorKind::ArgumentConflict, what))
            }
            Some(Verb::Archive(archive)) if archive.is_bare() => {
                let what =
                    "archive: nothing was said to do; there are: list, show, restore, save (or --queue main|dlq)";
                Err(command.error(ErrorKind::MissingSubcommand, what))
            }
            Some(Verb::Archive(archive)) if archive.is_both() => {
                let what = "archive: a command's flags go behind it (redrive archive save --queue main)";
                Err(command.error(ErrorKind::ArgumentConflict, what))
            }
            Some(_) | None => Ok(args),
        }
    }

    /// Flags and variables of what was typed: the common ones and those of its command.
    fn names(&self) -> BTreeMap<String, Name> {
        let all = Self::command();
        let mut names = names_of(&all);
        let path: &[&str] = match &self.command {
            Some(Verb::Archive(args)) => args.path(),
            Some(Verb::Parked(_)) => &["parked"],
            Some(Verb::Reconcile(_)) => &["reconcile"],
            Some(Verb::Reprocess(_)) => &["reprocess"],
            Some(Verb::PurgeTombstones(_)) => &["purge-tombstones"],
            Some(Verb::Search(_)) => &["search"],
            Some(Verb::Plan(_)) => &["plan"],
            Some(Verb::Trace(_)) => &["trace"],
            Some(Verb::Inspect(_)) => &["inspect"],
            Some(Verb::Pause { .. } | Verb::Resume | Verb::Status) | None => &[],
        };
        let mut command = Some(&all);
        for name in path {
            command = command.and_then(|command| command.find_subcommand(name));
            names.extend(command.map(names_of).unwrap_or_default());
        }
        names
    }
}

/// What an operator wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// Pause.
    Pause {
        /// Why.
        reason: String,
        /// Who, if it was said.
        by: Option<String>,
    },
    /// Resume.
    Resume,
    /// Look.
    Status,
    /// See to what is parked.
    Parked {
        /// Whose.
        namespace: Namespace,
        /// What to do.
        order: ParkedOrder,
    },
    /// Count what is there.
    Inspect(Box<InspectConfig>),
    /// Look at what was given up on, send it back, save a queue.
    Archive(Box<ArchiveOrder>),
    /// Compare, and repair.
    Reconcile(Box<ReconcileConfig>),
    /// Work anew.
    Reprocess(Box<ReprocessConfig>),
    /// Forget what was removed.
    PurgeTombstones(Box<PurgeConfig>),
    /// Look for words.
    Search(Box<FindConfig>),
    /// Say what a drain would do.
    Plan(Box<DrainConfig>),
    /// Drain the DLQ.
    Drain(Box<DrainConfig>),
    /// Tell the life of a file or a message.
    Trace(Box<TraceConfig>),
}

/// What `redrive` runs with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RedriveConfig {
    /// What to do.
    pub order: Order,
    /// Where; empty for a search, which asks no bucket.
    pub results_bucket: String,
    /// The report is JSON.
    pub json: bool,
    /// Form of log lines on stderr.
    pub log_format: LogFormat,
}

impl RedriveConfig {
    /// The one conversion.
    pub fn from_args(args: &RedriveArgs, around: &Surroundings<'_>) -> Result<Self, Mistakes> {
        let read = &Reader::new(around.env, args.names());
        let results = setting!(read, args.results_bucket);
        let asks_no_bucket = matches!(args.command, Some(Verb::Search(_)));
        let results_bucket = if asks_no_bucket {
            Some(String::new())
        } else {
            read.required(&results, "name the workers' results bucket", bucket)
        };
        let allow_http = read.value(&setting!(read, args.allow_http), "false", boolean);
        let http = allow_http.unwrap_or(true);
        for service in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_SQS"] {
            read.optional(&read.variable(service), urls::endpoint(http));
        }
        let results = results_bucket.as_deref();
        let order = match &args.command {
            Some(Verb::Pause { reason: Some(reason), by, status: _ }) => {
                Some(Order::Pause { reason: reason.clone(), by: by.clone() })
            }
            Some(Verb::Pause { reason: None, .. } | Verb::Status) => Some(Order::Status),
            None => {
                let config = drain::convert(read, &args.drain, http).map(Box::new);
                config.map(if args.drain.dry_run { Order::Plan } else { Order::Drain })
            }
            Some(Verb::Plan(args)) => {
                drain::convert(read, &args.drain, http).map(|config| Order::Plan(Box::new(config)))
            }
            Some(Verb::Resume) => Some(Order::Resume),
            Some(Verb::Parked(args)) => {
                parked::convert(read, args, http).map(|(namespace, order)| Order::Parked { namespace, order })
            }
            Some(Verb::Inspect(args)) => inspect::convert(read, args).map(|config| Order::Inspect(Box::new(config))),
            Some(Verb::Archive(args)) => archive::convert(read, args).map(|order| Order::Archive(Box::new(order))),
            Some(Verb::Reconcile(args)) => {
                reconcile::convert(read, args, results, http).map(|config| Order::Reconcile(Box::new(config)))
            }
            Some(Verb::Reprocess(args)) => {
                reprocess::convert(read, args, results, http).map(|config| Order::Reprocess(Box::new(config)))
            }
            Some(Verb::PurgeTombstones(args)) => {
                purge::convert(read, args, http).map(|config| Order::PurgeTombstones(Box::new(config)))
            }
            Some(Verb::Search(args)) => find::convert(read, args, http).map(|config| Order::Search(Box::new(config))),
            Some(Verb::Trace(args)) => trace::convert(read, args, http).map(|config| Order::Trace(Box::new(config))),
        };
        let log_format = upkeep::log_format(read, around.stderr_is_terminal);
        let built = || {
            let (order, results_bucket, log_format) = (order?, results_bucket?, log_format?);
            Some(Self { order, results_bucket, json: args.json, log_format })
        };
        read.finish(built())
    }
}

#[cfg(test)]
mod tests;
