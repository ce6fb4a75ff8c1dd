//! Configuration: what was typed ([`Args`]) becomes what is used ([`WorkerConfig`]) in one conversion.
//!
//! Promises that all mistakes are told at once, each with its fix, that every cross-check is in this file, and that no
//! secret is printed. Names, defaults and exit codes are the contract of design §8. Refuses to know whether a queue or
//! bucket exists: that is asked at start, and by `worker check`.
//!
//! ```no_run
//! use std::process::ExitCode;
//! use quittance::config::{Args, Surroundings, Task, WorkerConfig, exit};
//!
//! fn main() -> ExitCode {
//!     let args = match Args::read(std::env::args_os()) {
//!         Ok(args) => args,
//!         Err(usage) => {
//!             let _ = usage.print();
//!             return ExitCode::from(exit::of_usage(&usage));
//!         }
//!     };
//!     if args.task() == Task::ExtractChild {
//!         return ExitCode::SUCCESS; // needs no configuration
//!     }
//!     match WorkerConfig::from_args(&args, &Surroundings::of_process()) {
//!         Ok(_config) => ExitCode::SUCCESS,
//!         Err(mistakes) => {
//!             eprintln!("{mistakes}");
//!             ExitCode::from(exit::EX_CONFIG)
//!         }
//!     }
//! }
//! ```

use std::fmt;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::index::opensearch::{Analyzer, AnalyzerChoice};
use crate::limits::Limits;
use crate::message::Namespace;
use crate::message::s3_event::Source;
use crate::retry::Backoff;

mod args;
pub mod exit;
mod mistakes;
mod redrive;
mod reload;
mod search;
mod token;
mod urls;
mod values;

pub use args::{Args, Name, Task, names};
pub use mistakes::{Mistake, Mistakes};
pub use redrive::{
    ArchiveOrder, DlqConfig, DlqUrl, DrainConfig, FindConfig, InspectConfig, LettersWanted, Order, ParkedOrder,
    PurgeConfig, ReconcileConfig, RedriveArgs, RedriveConfig, ReprocessConfig, TraceConfig, When,
};
pub use reload::RELOADABLE;

use mistakes::Reader;
use values::{
    boolean, bucket, bytes, file, folder, listen, namespace, number, one_of, quoted, seconds, sources, tenant_from,
};

/// What the worker runs with. Every value has passed its checks.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The queue.
    pub queue_url: String,
    /// Its dead-letter queue; `None`: found from the redrive policy.
    pub dlq_url: Option<String>,
    /// Bucket of records and markers; never among the sources.
    pub results_bucket: String,
    /// What may be read; not empty.
    pub sources: Vec<Source>,
    /// Scope of all ids.
    pub namespace: Namespace,
    /// The index; `None` with `SKIP_OPENSEARCH`: documents are parked.
    pub opensearch: Option<OpenSearchConfig>,
    /// How `setup-index` and `migrate-index` have text cut into words.
    pub analyzer: AnalyzerChoice,
    /// Length of a lease.
    pub visibility: Duration,
    /// Messages in flight.
    pub concurrency: usize,
    /// Extraction children at a time.
    pub extractors: usize,
    /// Failed attempts of a message until it is dead-lettered.
    pub max_attempts: u32,
    /// Delay after the first failed attempt.
    pub retry_base: Duration,
    /// Longest delay between attempts.
    pub retry_max: Duration,
    /// A message whose object is gone, when its attempts are spent.
    pub on_missing_object: OnMissingObject,
    /// A file that cannot be read.
    pub on_extraction_error: OnExtractionError,
    /// Larger files are dead-lettered.
    pub max_object_bytes: u64,
    /// From SIGTERM to cancelling work.
    pub drain_timeout: Duration,
    /// Replay parked documents in the worker.
    pub replay: bool,
    /// Replays of a document refused for unclear reasons.
    pub replay_max_retries: u32,
    /// Delay before the first of them.
    pub replay_base_backoff: Duration,
    /// Longest such delay.
    pub replay_max_backoff: Duration,
    /// Health, metrics, status; `None` is `off`.
    pub admin_listen: Option<SocketAddr>,
    /// Pauses and resumes this worker by its status page; `None`: nobody can.
    pub admin_token: Option<Secret>,
    /// Metrics go to the log too, once a minute.
    pub metrics_emf: bool,
    /// Form of the log.
    pub log_format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: String,
    /// Plain http to other than loopback addresses is allowed.
    pub allow_http: bool,
    /// Where a file's tenant is read.
    pub tenant_from: TenantFrom,
    /// `AWS_ENDPOINT_URL`, which the SDK reads itself; here only to know that S3 needs path-style addresses.
    pub aws_endpoint_url: Option<String>,
    /// Folder for files while they are read, as given; see [`WorkerConfig::temp_path`].
    pub temp_dir: Option<PathBuf>,
    /// What becomes of a failed check before the start.
    pub check_before_start: BeforeStart,
    /// What may be changed while it runs.
    pub reload_file: Option<PathBuf>,
}

/// Where and how documents are indexed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenSearchConfig {
    /// URL, without credentials in it.
    pub endpoint: String,
    /// Write alias.
    pub index: String,
    /// How to sign in.
    pub auth: OpenSearchAuth,
}

impl OpenSearchConfig {
    /// The alias to search: the write alias's documents without the deleted ones.
    pub fn search_alias(&self) -> String {
        format!("{}-search", self.index)
    }
}

/// How to sign in to OpenSearch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpenSearchAuth {
    /// Not at all.
    None,
    /// User and password.
    Basic {
        /// User.
        username: String,
        /// Password.
        password: Secret,
    },
    /// AWS request signing.
    SigV4,
}

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text, for the one who sends it to where it belongs.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What becomes of a message whose object is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnMissingObject {
    /// To the dead-letter queue, `source_missing`.
    DeadLetter,
    /// Deleted, as skipped.
    Drop,
}

/// What becomes of a file that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnExtractionError {
    /// Indexed by name and metadata, with `extraction_error`.
    Index,
    /// To the dead-letter queue, `malformed`.
    DeadLetter,
}

/// What becomes of a failed check before the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BeforeStart {
    /// Nothing is looked at.
    Off,
    /// It is told, and the worker starts.
    Warn,
    /// The worker does not start.
    Fail,
}

/// Form of the log on stderr.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// One flat object a line.
    Json,
    /// For people.
    Text,
}

/// Where a file's tenant is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TenantFrom {
    /// The first segments of the key, this many.
    Prefix(usize),
    /// The message's group id.
    MessageGroup,
    /// Nowhere.
    None,
}

/// What the conversion may know of the process round it; given, so that tests are not at its mercy.
pub struct Surroundings<'a> {
    /// Looks up an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Whether the log goes to a terminal.
    pub stderr_is_terminal: bool,
    /// Cores of the machine that this process may use.
    pub cores: usize,
}

impl Surroundings<'static> {
    /// Those of this process.
    pub fn of_process() -> Self {
        Self {
            // What is not UTF-8 gets replacement characters, which the reader refuses.
            env: &|name| std::env::var_os(name).map(|text| text.to_string_lossy().into_owned()),
            stderr_is_terminal: std::io::stderr().is_terminal(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// A setting by its field: the name cannot be mistyped, and the compiler minds a renaming.
macro_rules! setting {
    ($read:ident, $args:ident . $field:ident) => {
        $read.setting(stringify!($field), $args.$field.as_deref())
    };
}
use setting;

/// SQS's longest visibility timeout: 12 hours.
const SQS_MAX_VISIBILITY: u64 = 43_200;
/// A returned message is hidden for 15 minutes at most (P5).
const LONGEST_RETURN: u64 = 900;
const DAY: u64 = 86_400;
const MOST_EXTRACTORS: usize = 256;
/// S3's largest object when this was written: 5 TiB.
const S3_MAX_OBJECT: u64 = 5 << 40;

impl WorkerConfig {
    /// The one conversion: flag, else `RELOAD_FILE`, else variable, else default; then what must fit together. Called again,
    /// it reads that file again.
    pub fn from_args(args: &Args, around: &Surroundings<'_>) -> Result<Self, Mistakes> {
        let outside = &Reader::new(around.env, names());
        let reload = setting!(outside, args.reload_file);
        let reload_file = outside.optional(&reload, file).flatten();
        let changed = reload_file.as_deref().map(reload::read).transpose();
        let env = |name: &str| {
            let changed = changed.as_ref().ok().and_then(|changed| changed.as_ref()?.get(name));
            changed.cloned().or_else(|| (around.env)(name))
        };
        let read = &Reader::new(&env, names());
        read.optional(&reload, file); // a mistake in it is told in its place
        if let Err(why) = &changed {
            let (what, fix) = why.split_once("; ").unwrap_or((why, "mend it"));
            read.mistake(&reload, what, fix);
        }
        let cores = around.cores.clamp(1, MOST_EXTRACTORS).to_string();
        let format = if around.stderr_is_terminal { "text" } else { "json" };

        let queue = setting!(read, args.queue_url);
        let queue_url = read.required(
            &queue,
            "give its URL, as `aws sqs get-queue-url --queue-name NAME` prints it",
            urls::queue("S3 cannot notify one, and the order of its groups would not be kept"),
        );
        let dlq = setting!(read, args.dlq_url);
        let dlq_url = read.optional(&dlq, urls::queue("a standard queue has a standard dead-letter queue"));
        let results = setting!(read, args.results_bucket);
        let results_bucket = read.required(&results, "name the bucket for records and markers", bucket);
        let listed = setting!(read, args.source_buckets);
        let sources = read.required(&listed, "list what may be read: bucket or bucket/prefix, commas between", sources);
        let namespace = read.value(&setting!(read, args.namespace), "default", namespace);

        let visibility = setting!(read, args.visibility_timeout);
        let visibility = read.value(&visibility, "60", seconds(10..=SQS_MAX_VISIBILITY));
        let concurrency = read.value(&setting!(read, args.concurrency), "64", number(1..=2000, "messages"));
        let extractors = setting!(read, args.extractors);
        let extractors = read.value(&extractors, &cores, number(1..=MOST_EXTRACTORS, "processes"));
        let max_attempts = read.value(&setting!(read, args.max_attempts), "5", number(1..=100, "attempts"));
        let retry = setting!(read, args.retry_base_seconds);
        let retry_base = read.value(&retry, "30", seconds(1..=LONGEST_RETURN));
        let retry_max = read.value(&setting!(read, args.retry_max_seconds), "900", seconds(1..=LONGEST_RETURN));
        let missing = [("dead-letter", OnMissingObject::DeadLetter), ("drop", OnMissingObject::Drop)];
        let on_missing_object = read.value(&setting!(read, args.on_missing_object), "dead-letter", one_of(&missing));
        let unreadable = [("index", OnExtractionError::Index), ("dead-letter", OnExtractionError::DeadLetter)];
        let on_extraction_error = read.value(&setting!(read, args.on_extraction_error), "index", one_of(&unreadable));
        let max_object_bytes = setting!(read, args.max_object_bytes);
        let max_object_bytes = read.value(&max_object_bytes, "512MiB", bytes(1..=S3_MAX_OBJECT));
        let tenant_from = read.value(&setting!(read, args.tenant_from), "prefix:1", tenant_from);

        let replay = read.value(&setting!(read, args.replay), "true", boolean);
        let replay_max_retries = setting!(read, args.replay_max_retries);
        let replay_max_retries = read.value(&replay_max_retries, "5", number(0..=1000, "replays"));
        let backoff = setting!(read, args.replay_base_backoff_seconds);
        let replay_base_backoff = read.value(&backoff, "30", seconds(1..=DAY));
        let replay_max_backoff = setting!(read, args.replay_max_backoff_seconds);
        let replay_max_backoff = read.value(&replay_max_backoff, "3600", seconds(1..=DAY));

        let drain_timeout = read.value(&setting!(read, args.drain_timeout), "30", seconds(0..=3600));
        let admin_listen = read.value(&setting!(read, args.admin_listen), "127.0.0.1:9464", listen);
        let admin_token = token::convert(read, args);
        let metrics_emf = read.value(&setting!(read, args.metrics_emf), "false", boolean);
        let formats = [("json", LogFormat::Json), ("text", LogFormat::Text)];
        let log_format = read.value(&setting!(read, args.log_format), format, one_of(&formats));
        let levels = ["error", "warn", "info", "debug", "trace"].map(|level| (level, level));
        let log_level = read.value(&setting!(read, args.log_level), "info", one_of(&levels));
        let ways = [("warn", BeforeStart::Warn), ("fail", BeforeStart::Fail), ("off", BeforeStart::Off)];
        let check_before_start = read.value(&setting!(read, args.check_before_start), "warn", one_of(&ways));
        let temp_dir = read.optional(&setting!(read, args.temp_dir), folder);

        let allow_http = read.value(&setting!(read, args.allow_http), "false", boolean);
        // A mistake in ALLOW_HTTP itself is told once, not once more for each endpoint.
        let http = allow_http.unwrap_or(true);
        let aws_endpoint_url = read.optional(&read.variable("AWS_ENDPOINT_URL"), urls::endpoint(http));
        for service in ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_SQS"] {
            read.optional(&read.variable(service), urls::endpoint(http)); // the SDK obeys them as well
        }
        let opensearch = search::convert(read, &args.search, http);
        let mut analyzers = vec![("auto", AnalyzerChoice::Auto)];
        analyzers.extend(Analyzer::ALL.map(|analyzer| (analyzer.as_str(), AnalyzerChoice::Only(analyzer))));
        let analyzer = read.value(&setting!(read, args.analyzer), "auto", one_of(&analyzers));

        // What must fit together. Values which are mistakes themselves are not compared.
        if let (Some(queue_url), Some(Some(dlq_url))) = (&queue_url, &dlq_url)
            && urls::same(queue_url, dlq_url)
        {
            let what = "is the queue itself: a dead-lettered message would come straight back";
            read.mistake(&dlq, what, "give the dead-letter queue's URL, or leave it out to have it found");
        }
        if let (Some(bucket), Some(sources)) = (&results_bucket, &sources)
            && sources.iter().any(|source| source.bucket == *bucket)
        {
            let what = format!("{} is also in SOURCE_BUCKETS: every record written would be new work", quoted(bucket));
            read.mistake(&results, what, "use a bucket of its own for results, without notifications");
        }
        if let (Some(base), Some(max)) = (retry_base, retry_max)
            && base > max
        {
            let what = format!("{} s is more than RETRY_MAX_SECONDS, {} s", base.as_secs(), max.as_secs());
            read.mistake(&retry, what, "lower it, or raise RETRY_MAX_SECONDS");
        }
        if let (Some(base), Some(max)) = (replay_base_backoff, replay_max_backoff)
            && base > max
        {
            let (base, max) = (base.as_secs(), max.as_secs());
            let what = format!("{base} s is more than FAILED_RETRY_MAX_BACKOFF_SECONDS, {max} s");
            read.mistake(&backoff, what, "lower it, or raise FAILED_RETRY_MAX_BACKOFF_SECONDS");
        }

        let built = || {
            Some(Self {
                queue_url: queue_url?,
                dlq_url: dlq_url?,
                results_bucket: results_bucket?,
                sources: sources?,
                namespace: namespace?,
                opensearch: opensearch?,
                analyzer: analyzer?,
                visibility: visibility?,
                concurrency: concurrency?,
                extractors: extractors?,
                max_attempts: max_attempts?,
                retry_base: retry_base?,
                retry_max: retry_max?,
                on_missing_object: on_missing_object?,
                on_extraction_error: on_extraction_error?,
                max_object_bytes: max_object_bytes?,
                drain_timeout: drain_timeout?,
                replay: replay?,
                replay_max_retries: replay_max_retries?,
                replay_base_backoff: replay_base_backoff?,
                replay_max_backoff: replay_max_backoff?,
                admin_listen: admin_listen?,
                admin_token: admin_token?,
                metrics_emf: metrics_emf?,
                log_format: log_format?,
                log_level: log_level?.to_owned(),
                allow_http: allow_http?,
                tenant_from: tenant_from?,
                aws_endpoint_url: aws_endpoint_url?,
                temp_dir: temp_dir?,
                check_before_start: check_before_start?,
                reload_file,
            })
        };
        read.finish(built())
    }

    /// What may be changed while a worker runs.
    pub fn limits(&self) -> Limits {
        let backoff = Backoff { base: self.retry_base, cap: self.retry_max };
        Limits { concurrency: self.concurrency, drain: self.drain_timeout, max_attempts: self.max_attempts, backoff }
    }

    /// How long a poll may wait: a quarter of the lease, which is counted from when the poll was sent.
    pub fn poll_wait(&self) -> Duration {
        crate::receive::poll_wait(self.visibility)
    }

    /// The folder for files while they are read.
    pub fn temp_path(&self) -> PathBuf {
        self.temp_dir.clone().unwrap_or_else(|| std::env::temp_dir().join("quittance"))
    }
}
