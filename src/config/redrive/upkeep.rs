//! What the commands that keep index and records in step have in common: which files, which queue, which index.

use clap::Args;

use crate::config::args::SearchArgs;
use crate::config::mistakes::Reader;
use crate::config::values::{boolean, bucket, bytes, namespace, number, one_of, quoted, sources};
use crate::config::{LogFormat, OpenSearchConfig, S3_MAX_OBJECT, search, setting, urls};
use crate::message::Namespace;
use crate::message::s3_event::S3_MAX_KEY_BYTES;
use crate::upkeep::Area;

/// Which files.
#[derive(Args, Clone, PartialEq, Eq)]
pub(super) struct AreaArgs {
    /// Source bucket; default: the only one of SOURCE_BUCKETS.
    #[arg(long, env = "UPKEEP_BUCKET", value_name = "BUCKET")]
    bucket: Option<String>,

    /// Only keys that begin so; default: all.
    #[arg(long, env = "UPKEEP_PREFIX", value_name = "PREFIX")]
    prefix: Option<String>,

    /// Comma list of `bucket` or `bucket/prefix` that the workers read, as theirs: other files are left alone; required.
    #[arg(long, env = "SOURCE_BUCKETS", value_name = "LIST")]
    source_buckets: Option<String>,

    /// Larger files are left alone, as the workers would dead-letter them; bytes, or with KiB, MiB, GiB; default 512MiB.
    #[arg(long, env = "MAX_OBJECT_BYTES", value_name = "BYTES")]
    max_object_bytes: Option<String>,
}

/// The way into the main queue.
#[derive(Args, Clone, PartialEq, Eq)]
pub(super) struct QueueArgs {
    /// URL of the workers' queue; required where messages are sent.
    #[arg(long, env = "SQS_QUEUE_URL", value_name = "URL")]
    queue_url: Option<String>,

    /// Messages sent per second, at most; default 100, range 1 to 10000.
    #[arg(long, env = "UPKEEP_RATE", value_name = "N", allow_negative_numbers = true)]
    rate: Option<String>,
}

/// Scope of ids.
#[derive(Args, Clone, PartialEq, Eq, Default)]
pub(super) struct ScopeArgs {
    /// Scope of all ids, as the workers'; default `default`.
    #[arg(long, env = "NAMESPACE", value_name = "NAME")]
    namespace: Option<String>,
}

/// A sendable queue, once it is known.
pub(super) struct QueueSettings {
    pub(super) url: Option<String>,
    pub(super) rate: u32,
}

pub(super) fn area(read: &Reader<'_>, args: &AreaArgs, results_bucket: Option<&str>) -> Option<(Area, u64)> {
    let listed = setting!(read, args.source_buckets);
    let sources = read.required(&listed, "list what the workers read, as theirs: bucket or bucket/prefix", sources);
    let named = setting!(read, args.bucket);
    let given = read.optional(&named, bucket);
    // A prefix is taken as it is: a space may be a part of it.
    let prefix = read.secret("prefix", args.prefix.as_deref());
    if prefix.text.as_ref().is_some_and(|prefix| prefix.len() > S3_MAX_KEY_BYTES) {
        read.mistake(&prefix, "is longer than a key can be", "give the beginning of a key");
    }
    let largest = setting!(read, args.max_object_bytes);
    let max_object_bytes = read.value(&largest, "512MiB", bytes(1..=S3_MAX_OBJECT));
    let (sources, given) = (sources?, given?);
    let mut buckets: Vec<&String> = sources.iter().map(|source| &source.bucket).collect();
    buckets.dedup();
    let bucket = match (given, &buckets[..]) {
        (Some(bucket), _) => bucket,
        (None, [only]) => (*only).clone(),
        (None, _) => {
            read.mistake(&named, "is not set, and SOURCE_BUCKETS lists several", "say which of them");
            return None;
        }
    };
    if Some(bucket.as_str()) == results_bucket {
        let what = format!("{} is the results bucket, which is never a source", quoted(&bucket));
        read.mistake(&named, what, "name the bucket of the files");
    } else if !sources.iter().any(|source| source.bucket == bucket) {
        let what = format!("{} is not in SOURCE_BUCKETS: the workers would reject what is sent", quoted(&bucket));
        read.mistake(&named, what, "name one of them, or add it there and at the workers");
    }
    Some((Area { bucket, prefix: prefix.text.unwrap_or_default(), sources }, max_object_bytes?))
}

/// `needed`: messages will be sent.
pub(super) fn queue(read: &Reader<'_>, args: &QueueArgs, needed: bool) -> Option<QueueSettings> {
    let setting = setting!(read, args.queue_url);
    let form = urls::queue("S3 cannot notify one, and the workers refuse it");
    let url = if needed {
        read.required(&setting, "give the workers' queue: messages are sent to it", form).map(Some)
    } else {
        read.optional(&setting, form)
    };
    let rate = read.value(&setting!(read, args.rate), "100", number(1..=10_000, "messages per second"));
    Some(QueueSettings { url: url?, rate: rate? })
}

pub(super) fn scope(read: &Reader<'_>, args: &ScopeArgs) -> Option<Namespace> {
    read.value(&setting!(read, args.namespace), "default", namespace)
}

/// An index that must be there.
pub(super) fn index(read: &Reader<'_>, args: &SearchArgs, allow_http: bool) -> Option<OpenSearchConfig> {
    let found = search::convert(read, args, allow_http)?;
    if found.is_none() {
        let skip = setting!(read, args.skip_opensearch);
        read.mistake(&skip, "is set, and this command looks at the index", "leave it out here (=false)");
    }
    found
}

/// Form of the log lines on stderr.
pub(super) fn log_format(read: &Reader<'_>, stderr_is_terminal: bool) -> Option<LogFormat> {
    let default = if stderr_is_terminal { "text" } else { "json" };
    let formats = [("json", LogFormat::Json), ("text", LogFormat::Text)];
    read.value(&read.variable("LOG_FORMAT"), default, one_of(&formats))
}

/// A flag without a value.
pub(super) fn switch(read: &Reader<'_>, field: &str, text: Option<&str>) -> Option<bool> {
    read.value(&read.setting(field, text), "false", boolean)
}
