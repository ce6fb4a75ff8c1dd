//! What was typed: the command line of `worker`, declared once, with the environment variable of each flag.
//!
//! Promises that every flag has a variable and that help names both. Refuses to judge values: they arrive as text,
//! so that a bad one is reported with all the others (exit 78) and not alone, by clap (exit 64).

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::{Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use super::Secret;

/// Where OpenSearch is and how to sign in: the same settings for worker and operator.
// No Debug: see [`Args`].
#[derive(clap::Args, Clone, PartialEq, Eq, Default)]
pub struct SearchArgs {
    /// URL of OpenSearch; required unless `--skip-opensearch`.
    #[arg(long, env = "OPENSEARCH_ENDPOINT", value_name = "URL", global = true, help_heading = "Search")]
    pub opensearch_endpoint: Option<String>,

    /// Write alias; the read alias is `{index}-search`; default `files`.
    #[arg(long, env = "OPENSEARCH_INDEX", value_name = "ALIAS", global = true, help_heading = "Search")]
    pub index: Option<String>,

    /// How to sign in: `none`, `basic` or `sigv4`; default: `basic` when a username is given, `sigv4` on AWS host
    /// names, else `none`.
    #[arg(long, env = "OPENSEARCH_AUTH", value_name = "HOW", global = true, help_heading = "Search")]
    pub opensearch_auth: Option<String>,

    /// User for basic authentication; default: none.
    #[arg(long, env = "OPENSEARCH_USERNAME", value_name = "NAME", global = true, help_heading = "Search")]
    pub opensearch_username: Option<String>,

    /// Password for basic authentication; a flag is seen by everyone on the machine: prefer the file; default: none.
    #[arg(long, env = "OPENSEARCH_PASSWORD", value_name = "SECRET", global = true, help_heading = "Search")]
    #[arg(hide_env_values = true)]
    pub opensearch_password: Option<Secret>,

    /// File that holds the password (a trailing newline is dropped); default: none.
    #[arg(long, env = "OPENSEARCH_PASSWORD_FILE", value_name = "PATH", global = true, help_heading = "Search")]
    pub opensearch_password_file: Option<String>,

    /// Do not index: documents are parked, and replayed once this is off again; wins over an endpoint; true or false,
    /// default false.
    #[arg(long, env = "SKIP_OPENSEARCH", value_name = "BOOL", global = true, help_heading = "Search")]
    // The value needs its `=`, or `worker --skip-opensearch run` would take the subcommand for a value.
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub skip_opensearch: Option<String>,
}

/// A worker for Amazon SQS that settles every message it receives: files land in S3, their text is extracted,
/// recorded in S3 and indexed in OpenSearch, and the message is deleted, returned or dead-lettered.
// No Debug: what was typed may hold a secret (a password in a URL, say) that only the conversion would refuse.
#[derive(Parser)]
#[command(name = "worker", version, after_help = AFTER_HELP, after_long_help = AFTER_HELP, subcommand_value_name = "COMMAND")]
pub struct Args {
    /// What to do; `run` when none is given.
    #[command(subcommand)]
    pub command: Option<Task>,

    /// URL of the queue (standard, not FIFO); required.
    #[arg(long, env = "SQS_QUEUE_URL", value_name = "URL", global = true, help_heading = "Queue")]
    pub queue_url: Option<String>,

    /// URL of its dead-letter queue; default: found from the queue's redrive policy.
    #[arg(long, env = "SQS_DLQ_URL", value_name = "URL", global = true, help_heading = "Queue")]
    pub dlq_url: Option<String>,

    /// Length of a lease in seconds, extended by heartbeat; a large value only delays redelivery after a crash;
    /// default 60, range 10 to 43200.
    #[arg(long, env = "SQS_VISIBILITY_TIMEOUT", value_name = "SECONDS", global = true, help_heading = "Queue")]
    #[arg(allow_negative_numbers = true)]
    pub visibility_timeout: Option<String>,

    /// Bucket for records and markers, never a source bucket; required.
    #[arg(long, env = "S3_BUCKET", value_name = "BUCKET", global = true, help_heading = "Storage")]
    pub results_bucket: Option<String>,

    /// Comma list of `bucket` or `bucket/prefix` that may be read; required.
    #[arg(long, env = "SOURCE_BUCKETS", value_name = "LIST", global = true, help_heading = "Storage")]
    pub source_buckets: Option<String>,

    /// Scope of all ids, one per worker: 1 to 32 characters of a-z, 0-9 and '-'; default `default`.
    #[arg(long, env = "NAMESPACE", value_name = "NAME", global = true, help_heading = "Storage")]
    pub namespace: Option<String>,

    /// Folder for files while they are read, swept at start; default: `quittance` in the system's temp folder.
    #[arg(long, env = "TEMP_DIR", value_name = "PATH", global = true, help_heading = "Storage")]
    pub temp_dir: Option<String>,

    /// OpenSearch.
    #[command(flatten)]
    pub search: SearchArgs,

    /// How `setup-index` and `migrate-index` have text cut into words: `kuromoji` (Japanese; plugin analysis-kuromoji),
    /// `icu` (plugin analysis-icu), `cjk` (pairs of characters), `standard`, or `auto` (the first of kuromoji, icu and cjk
    /// that can be had; an index that is there keeps what it has); default `auto`.
    #[arg(long, env = "OPENSEARCH_ANALYZER", value_name = "ANALYZER", global = true, help_heading = "Search")]
    pub analyzer: Option<String>,

    /// Messages in flight; default 64, range 1 to 2000.
    #[arg(long, env = "WORKER_CONCURRENCY", value_name = "N", global = true, help_heading = "Work")]
    #[arg(allow_negative_numbers = true)]
    pub concurrency: Option<String>,

    /// Extraction child processes at a time; default: number of cores, range 1 to 256.
    #[arg(long, env = "EXTRACTORS", value_name = "N", global = true, help_heading = "Work")]
    #[arg(allow_negative_numbers = true)]
    pub extractors: Option<String>,

    /// Failed attempts of a message until it is dead-lettered; default 5, range 1 to 100.
    #[arg(long, env = "MAX_ATTEMPTS", value_name = "N", global = true, help_heading = "Work")]
    #[arg(allow_negative_numbers = true)]
    pub max_attempts: Option<String>,

    /// Delay in seconds after the first failed attempt, doubling; default 30, range 1 to 900.
    #[arg(long, env = "RETRY_BASE_SECONDS", value_name = "SECONDS", global = true, help_heading = "Work")]
    #[arg(allow_negative_numbers = true)]
    pub retry_base_seconds: Option<String>,

    /// Longest delay in seconds between attempts; default 900, range 1 to 900.
    #[arg(long, env = "RETRY_MAX_SECONDS", value_name = "SECONDS", global = true, help_heading = "Work")]
    #[arg(allow_negative_numbers = true)]
    pub retry_max_seconds: Option<String>,

    /// Message whose object is gone when the attempts are spent: `dead-letter` or `drop`; default `dead-letter`.
    #[arg(long, env = "ON_MISSING_OBJECT", value_name = "WHAT", global = true, help_heading = "Work")]
    pub on_missing_object: Option<String>,

    /// File that cannot be read (corrupt, encrypted): `index` (found by name and metadata, with `extraction_error`)
    /// or `dead-letter` (`malformed`); default `index`.
    #[arg(long, env = "ON_EXTRACTION_ERROR", value_name = "WHAT", global = true, help_heading = "Work")]
    pub on_extraction_error: Option<String>,

    /// Larger files are dead-lettered `too_large`; bytes, or with KiB, MiB, GiB; default 512MiB, range 1 to 5120GiB.
    #[arg(long, env = "MAX_OBJECT_BYTES", value_name = "BYTES", global = true, help_heading = "Work")]
    #[arg(allow_negative_numbers = true)]
    pub max_object_bytes: Option<String>,

    /// Where a file's tenant is read: `prefix:N` (its first N key segments, 1 to 16), `message-group` or `none`;
    /// default `prefix:1`.
    #[arg(long, env = "TENANT_FROM", value_name = "WHERE", global = true, help_heading = "Work")]
    pub tenant_from: Option<String>,

    /// Replay parked documents in the worker: true or false; default true, which differs from the older
    /// default, false.
    #[arg(long = "replay", env = "ENABLE_FAILED_RETRY", value_name = "BOOL", global = true, help_heading = "Replay")]
    pub replay: Option<String>,

    /// Replays of a document that is refused for unclear reasons, until it is moved to `errored-index/`; outages do
    /// not count; default 5, range 0 to 1000.
    #[arg(long, env = "FAILED_RETRY_MAX_RETRIES", value_name = "N", global = true, help_heading = "Replay")]
    #[arg(allow_negative_numbers = true)]
    pub replay_max_retries: Option<String>,

    /// Delay in seconds before such a document is replayed again, doubling, jittered down to a half; default 30,
    /// range 1 to 86400.
    #[arg(long, env = "FAILED_RETRY_BASE_BACKOFF_SECONDS", value_name = "SECONDS", global = true)]
    #[arg(allow_negative_numbers = true, help_heading = "Replay")]
    pub replay_base_backoff_seconds: Option<String>,

    /// Longest such delay in seconds; default 3600, range 1 to 86400.
    #[arg(long, env = "FAILED_RETRY_MAX_BACKOFF_SECONDS", value_name = "SECONDS", global = true)]
    #[arg(allow_negative_numbers = true, help_heading = "Replay")]
    pub replay_max_backoff_seconds: Option<String>,

    /// Seconds from SIGTERM to cancelling work; keep it inside the unit's TimeoutStopSec; default 30, range 0 to 3600.
    #[arg(long, env = "DRAIN_TIMEOUT", value_name = "SECONDS", global = true, help_heading = "Operation")]
    #[arg(allow_negative_numbers = true)]
    pub drain_timeout: Option<String>,

    /// What becomes of a failed check before the start (`worker check --before-start`, which the systemd unit runs): `warn`
    /// (it is told, and the worker starts), `fail` or `off`; default `warn`.
    #[arg(long, env = "CHECK_BEFORE_START", value_name = "HOW", global = true, help_heading = "Operation")]
    pub check_before_start: Option<String>,

    /// File of LOG_LEVEL, WORKER_CONCURRENCY (up to what it started with), DRAIN_TIMEOUT, MAX_ATTEMPTS, RETRY_BASE_SECONDS and
    /// RETRY_MAX_SECONDS, read at start and again at SIGHUP; it wins over variables, not over flags; default: none.
    #[arg(long, env = "RELOAD_FILE", value_name = "PATH", global = true, help_heading = "Operation")]
    pub reload_file: Option<String>,

    /// Address of the status page, `/status`, `/metrics` (Prometheus), `/healthz` and `/readyz`: `IP:PORT` or `off`; where the
    /// port is taken, the worker says so and runs without; default 127.0.0.1:9464.
    #[arg(long, env = "ADMIN_LISTEN", value_name = "ADDRESS", global = true, help_heading = "Operation")]
    pub admin_listen: Option<String>,

    /// Token that pauses and resumes this worker by its status page, 16 to 256 printable ASCII characters; a flag is seen by
    /// everyone on the machine: prefer the file; default: none (the page only shows).
    #[arg(long, env = "ADMIN_TOKEN", value_name = "SECRET", global = true, help_heading = "Operation")]
    #[arg(hide_env_values = true)]
    pub admin_token: Option<Secret>,

    /// File that holds that token (a trailing newline is dropped); default: none.
    #[arg(long, env = "ADMIN_TOKEN_FILE", value_name = "PATH", global = true, help_heading = "Operation")]
    pub admin_token_file: Option<String>,

    /// Write the metrics to the log too, once a minute, as CloudWatch's embedded metric format (event `metrics`); true or
    /// false, default false.
    #[arg(long, env = "METRICS_EMF", value_name = "BOOL", global = true, help_heading = "Operation")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub metrics_emf: Option<String>,

    /// Form of the log on stderr: `json` or `text`; default `text` on a terminal, `json` off one.
    #[arg(long, env = "LOG_FORMAT", value_name = "FORMAT", global = true, help_heading = "Operation")]
    pub log_format: Option<String>,

    /// Least level that is logged: `error`, `warn`, `info`, `debug` or `trace`; default `info`.
    #[arg(long, env = "LOG_LEVEL", value_name = "LEVEL", global = true, help_heading = "Operation")]
    pub log_level: Option<String>,

    /// Allow plain `http://` to other than loopback addresses (tests only: passwords and documents travel in the
    /// clear); true or false, default false.
    #[arg(long, env = "ALLOW_HTTP", value_name = "BOOL", global = true, help_heading = "Operation")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allow_http: Option<String>,
}

/// What `worker` can be asked to do.
#[derive(Subcommand, Clone, PartialEq, Eq, Debug, Default)]
pub enum Task {
    /// Receive, process and settle messages until SIGTERM (the default).
    #[default]
    Run,
    /// Create the OpenSearch index and its aliases from the built-in mapping.
    SetupIndex,
    /// Build the next index from the records, while workers go on, and move both aliases to it.
    #[command(after_help = MIGRATE_HELP)]
    MigrateIndex {
        /// Build the next index also where the one in use is as it should be.
        #[arg(long)]
        rebuild: bool,
        /// Move also where searches lose something by it: documents that the new index refuses are parked under
        /// errored-index/, records that cannot be read and documents without a record are not brought.
        #[arg(long)]
        leave_behind: bool,
        /// Print the report as JSON on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Examine queue, buckets and index; each finding with its fix.
    Check {
        /// Print the findings as JSON on stdout.
        #[arg(long)]
        json: bool,
        /// Also send a canary of its own through queue, record, park, replay and index, and take it away again.
        ///
        /// Needs a worker that runs, the rights of deploy/iam-upkeep-policy.json beside the worker's, and up to five minutes
        /// (replay looks every two minutes where nothing is parked). Not sent while a check fails or the fleet is paused.
        #[arg(long)]
        deep: bool,
        /// As the systemd unit asks, before the worker starts: what `--check-before-start` says becomes of a failure. A sick
        /// index never keeps a worker from starting: its documents are parked.
        #[arg(long, conflicts_with = "deep")]
        before_start: bool,
    },
    /// One extraction, started by the worker itself; reads no configuration.
    #[command(hide = true)]
    ExtractChild,
}

const MIGRATE_HELP: &str = "\
For another analyzer (OPENSEARCH_ANALYZER), for a mapping that a new version brings, or to build the index anew. No source
file is read. Workers go on meanwhile; nothing that they write is missing in the end. All namespaces of the results bucket
go along. Progress is in the log on stderr (index_migration), the report on stdout. It can be killed at any moment: the
same command goes on. The old index is kept; the report says how to delete it. Rights: deploy/iam-migrate-policy.json.

Examples:
  OPENSEARCH_ANALYZER=kuromoji worker migrate-index
  worker migrate-index --rebuild --json

Exit codes: 0 the aliases have moved, or there was nothing to do · 64 · 75 stopped, or a dependency is sick: run it again ·
78 somebody must decide; the report says what about";

const AFTER_HELP: &str = "\
Required variables (or their flags):
  SQS_QUEUE_URL, S3_BUCKET, SOURCE_BUCKETS, and OPENSEARCH_ENDPOINT unless SKIP_OPENSEARCH=true.
  A flag wins over its variable; an empty variable counts as absent. Region, credentials and
  AWS_ENDPOINT_URL are the AWS SDK's own.

Examples:
  worker                                     run with what the environment says
  worker check                               what is missing, with the fix
  worker check --deep                        a canary through all of it, by a worker that runs
  worker setup-index                         create the index, once
  worker migrate-index                       build the next one, and move the aliases to it
  worker --source-buckets incoming,archive/2026/ --concurrency 128 run
  SKIP_OPENSEARCH=true worker run            no index for now: documents are parked

Exit codes:
  0   well
  1   `check`: a check failed
  64  bad usage: an unknown flag or command
  70  the books do not balance
  75  a dependency is not there at start (queue, bucket, credentials)
  78  bad configuration: all mistakes are listed, each with its fix";

impl Args {
    /// Reads a command line. The environment is looked at later, by the conversion.
    ///
    /// The error is clap's, also for `--help` and `--version`: print it, and leave with
    /// [`exit::of_usage`](super::exit::of_usage).
    pub fn read<I, T>(argv: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        Self::from_arg_matches(&without_values(Self::command()).try_get_matches_from(argv)?)
    }

    /// What was asked for, `run` when nothing was said.
    pub fn task(&self) -> Task {
        self.command.clone().unwrap_or_default()
    }
}

/// The command line as it is parsed: clap's `env` turned into a word in the help.
///
/// The variables are read by the conversion, through a lookup it is given, and not by clap. So tests do not depend on
/// the process's environment, an empty variable can count as absent, and no value can reach `--help`. The `env`
/// attribute stays the one place where a flag and its variable meet.
pub(super) fn without_values(command: Command) -> Command {
    let command = command.mut_args(|arg| match arg.get_env() {
        None => arg,
        Some(name) => {
            let note = format!("[env: {}]", name.display());
            let help = arg.get_help().map(|text| format!("{text} {note}")).unwrap_or(note);
            arg.env(None::<&'static str>).help(help)
        }
    });
    command.mut_subcommands(without_values)
}

/// Environment variable and flag of one setting.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Name {
    /// The variable, `SQS_QUEUE_URL`.
    pub variable: String,
    /// The flag, `--queue-url`; empty for what only the environment can say.
    pub flag: String,
}

/// Every setting by the name of its field in [`Args`].
pub fn names() -> BTreeMap<String, Name> {
    names_of(&Args::command())
}

/// Every setting of a command line by the name of its field.
pub(super) fn names_of(command: &Command) -> BTreeMap<String, Name> {
    let name = |arg: &clap::Arg| {
        let variable = arg.get_env()?.to_string_lossy().into_owned();
        let flag = format!("--{}", arg.get_long()?);
        Some((arg.get_id().to_string(), Name { variable, flag }))
    };
    command.get_arguments().filter_map(name).collect()
}
