//! The configuration from outside: what is typed, what comes of it, what is said of mistakes.
//!
//! No test reads the process's environment: the conversion is given its own.

mod contract;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::CommandFactory as _;
use quittance::config::{
    Args, LogFormat, Mistakes, OnExtractionError, OnMissingObject, OpenSearchAuth, Secret, Surroundings, Task,
    TenantFrom, WorkerConfig, exit, names,
};
use quittance::index::opensearch::AnalyzerChoice;

const QUEUE: &str = "https://sqs.eu-central-1.amazonaws.com/111122223333/files";

/// The least that is a configuration.
const REQUIRED: [(&str, &str); 4] = [
    ("SQS_QUEUE_URL", QUEUE),
    ("S3_BUCKET", "results"),
    ("SOURCE_BUCKETS", "incoming"),
    ("OPENSEARCH_ENDPOINT", "https://search.example.com:9200"),
];

fn read(argv: &[&str]) -> Args {
    Args::read(std::iter::once("worker").chain(argv.iter().copied())).unwrap_or_else(|usage| panic!("{usage}"))
}

/// From exactly these variables and words.
fn convert(env: &BTreeMap<&str, &str>, argv: &[&str]) -> Result<WorkerConfig, Mistakes> {
    let lookup = |name: &str| env.get(name).map(|text| (*text).to_owned());
    WorkerConfig::from_args(&read(argv), &Surroundings { env: &lookup, stderr_is_terminal: false, cores: 6 })
}

/// From the required variables and these.
fn with(env: &[(&'static str, &'static str)]) -> Result<WorkerConfig, Mistakes> {
    convert(&REQUIRED.into_iter().chain(env.iter().copied()).collect(), &[])
}

/// From the required variables and these words.
fn typed(argv: &[&str]) -> Result<WorkerConfig, Mistakes> {
    convert(&REQUIRED.into(), argv)
}

fn lines(result: Result<WorkerConfig, Mistakes>) -> Vec<String> {
    result.err().map_or_else(Vec::new, |mistakes| mistakes.0.iter().map(ToString::to_string).collect())
}

#[test]
fn defaults_are_those_of_the_design() {
    let config = with(&[]).unwrap();
    let seconds = Duration::from_secs;
    assert_eq!(config.queue_url, QUEUE);
    assert_eq!(config.dlq_url, None);
    assert_eq!(config.results_bucket, "results");
    assert_eq!(config.sources.len(), 1);
    assert_eq!((config.sources[0].bucket.as_str(), config.sources[0].prefix.as_str()), ("incoming", ""));
    assert_eq!(config.namespace.as_str(), "default");
    let search = config.opensearch.clone().unwrap();
    assert_eq!(search.endpoint, "https://search.example.com:9200");
    assert_eq!((search.index.as_str(), search.search_alias().as_str()), ("files", "files-search"));
    assert_eq!(search.auth, OpenSearchAuth::None);
    assert_eq!(config.analyzer, AnalyzerChoice::Auto);
    assert_eq!(config.visibility, seconds(60));
    assert_eq!((config.concurrency, config.extractors), (64, 6));
    assert_eq!((config.max_attempts, config.retry_base, config.retry_max), (5, seconds(30), seconds(900)));
    assert_eq!(config.on_missing_object, OnMissingObject::DeadLetter);
    assert_eq!(config.on_extraction_error, OnExtractionError::Index);
    assert_eq!(config.max_object_bytes, 512 * 1024 * 1024);
    assert_eq!(config.drain_timeout, seconds(30));
    assert!(config.replay);
    assert_eq!(config.replay_max_retries, 5);
    assert_eq!((config.replay_base_backoff, config.replay_max_backoff), (seconds(30), seconds(3600)));
    assert_eq!(config.admin_listen, Some("127.0.0.1:9464".parse().unwrap()));
    assert_eq!((config.log_format, config.log_level.as_str()), (LogFormat::Json, "info"));
    assert!(!config.allow_http);
    assert_eq!(config.tenant_from, TenantFrom::Prefix(1));
    assert_eq!((config.aws_endpoint_url.clone(), config.temp_dir.clone()), (None, None));
    assert!(config.temp_path().ends_with("quittance"));
}

#[test]
fn every_setting_has_the_flag_and_the_variable_of_the_design() {
    let built: BTreeSet<_> = names().into_values().map(|name| (name.variable, name.flag)).collect();
    let agreed: BTreeSet<_> =
        contract::SETTINGS.iter().map(|(variable, flag, _)| ((*variable).to_owned(), (*flag).to_owned())).collect();
    assert_eq!(built, agreed);
}

#[test]
fn the_conversion_reads_every_declared_setting() {
    // A flag that nobody reads would be accepted and ignored.
    let asked = std::cell::RefCell::new(BTreeSet::new());
    let lookup = |name: &str| {
        asked.borrow_mut().insert(name.to_owned());
        None
    };
    let around = Surroundings { env: &lookup, stderr_is_terminal: false, cores: 1 };
    WorkerConfig::from_args(&read(&[]), &around).unwrap_err();
    let declared: BTreeSet<_> = names().into_values().map(|name| name.variable).collect();
    let unread: Vec<_> = declared.difference(&asked.borrow()).cloned().collect();
    assert!(unread.is_empty(), "declared, but never read: {unread:?}");
}

#[test]
fn every_setting_can_be_given_by_flag_and_by_variable() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "from the file\n").unwrap();
    let file = file.to_str().unwrap();
    let given = [
        ("SQS_QUEUE_URL", "http://127.0.0.1:4566/000000000000/q"),
        ("SQS_DLQ_URL", "http://127.0.0.1:4566/000000000000/dlq"),
        ("S3_BUCKET", "other-results"),
        ("SOURCE_BUCKETS", "a-bucket/x/日本,b-bucket"),
        ("NAMESPACE", "tenant-7"),
        ("OPENSEARCH_ENDPOINT", "http://localhost:9200/proxy"),
        ("OPENSEARCH_INDEX", "docs"),
        ("OPENSEARCH_AUTH", "basic"),
        ("OPENSEARCH_USERNAME", "user"),
        ("OPENSEARCH_PASSWORD_FILE", file),
        ("SKIP_OPENSEARCH", "false"),
        ("OPENSEARCH_ANALYZER", "kuromoji"),
        ("SQS_VISIBILITY_TIMEOUT", "2m"),
        ("WORKER_CONCURRENCY", "7"),
        ("EXTRACTORS", "3"),
        ("MAX_ATTEMPTS", "2"),
        ("RETRY_BASE_SECONDS", "1"),
        ("RETRY_MAX_SECONDS", "15m"),
        ("ON_MISSING_OBJECT", "drop"),
        ("ON_EXTRACTION_ERROR", "dead-letter"),
        ("MAX_OBJECT_BYTES", "3 kib"),
        ("DRAIN_TIMEOUT", "0"),
        ("ENABLE_FAILED_RETRY", "No"),
        ("FAILED_RETRY_MAX_RETRIES", "0"),
        ("FAILED_RETRY_BASE_BACKOFF_SECONDS", "2s"),
        ("FAILED_RETRY_MAX_BACKOFF_SECONDS", "1h"),
        ("ADMIN_LISTEN", "off"),
        ("ADMIN_TOKEN", "0123456789abcdef"),
        ("METRICS_EMF", "true"),
        ("LOG_FORMAT", "TEXT"),
        ("LOG_LEVEL", "WARN"),
        ("ALLOW_HTTP", "yes"),
        ("TENANT_FROM", "message-group"),
        ("TEMP_DIR", "/var/tmp/q"),
        ("RELOAD_FILE", "/no/such/file"),
        ("CHECK_BEFORE_START", "FAIL"),
    ];
    let given: BTreeMap<&str, &str> = given.into();
    let by_variable = convert(&given, &[]).unwrap_or_else(|mistakes| panic!("{mistakes}"));

    let flags: BTreeMap<String, String> = names().into_values().map(|name| (name.variable, name.flag)).collect();
    let argv: Vec<String> = given.iter().map(|(variable, text)| format!("{}={text}", flags[*variable])).collect();
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let by_flag = convert(&BTreeMap::new(), &argv).unwrap_or_else(|mistakes| panic!("{mistakes}"));

    assert_eq!(format!("{by_variable:?}"), format!("{by_flag:?}"));
    assert_eq!(
        by_flag.opensearch.unwrap().auth,
        OpenSearchAuth::Basic { username: "user".into(), password: Secret::from("from the file".to_owned()) }
    );
    assert_eq!(by_flag.sources[0].prefix, "x/日本");
    assert_eq!(by_flag.visibility, Duration::from_secs(120));
    assert_eq!(by_flag.max_object_bytes, 3072);
    assert_eq!((by_flag.replay, by_flag.allow_http, by_flag.admin_listen), (false, true, None));
    assert_eq!((by_flag.log_format, by_flag.log_level.as_str()), (LogFormat::Text, "warn"));
    assert_eq!(by_flag.tenant_from, TenantFrom::MessageGroup);

    // All but the password itself, which excludes its file, and the token's file, which the token excludes.
    let missed: Vec<_> = flags.keys().filter(|name| !given.contains_key(name.as_str())).collect();
    assert_eq!(missed, ["ADMIN_TOKEN_FILE", "OPENSEARCH_PASSWORD"]);
}

#[test]
fn a_flag_wins_over_its_variable_and_blank_counts_as_absent() {
    assert_eq!(convert(&REQUIRED.into(), &["--namespace", "typed"]).unwrap().namespace.as_str(), "typed");
    let env = [("NAMESPACE", ""), ("WORKER_CONCURRENCY", "  "), ("SKIP_OPENSEARCH", ""), ("OPENSEARCH_PASSWORD", "")];
    let config = with(&env).unwrap();
    assert_eq!((config.namespace.as_str(), config.concurrency), ("default", 64));
    assert_eq!(config.opensearch.unwrap().auth, OpenSearchAuth::None);
    let lines = lines(with(&[("SQS_QUEUE_URL", " ")]));
    assert!(lines[0].starts_with("SQS_QUEUE_URL (--queue-url): is required and not set; fix: "), "{lines:?}");
}

#[test]
fn flags_may_stand_before_and_after_the_subcommand() {
    for argv in [
        &["--namespace", "n", "--skip-opensearch", "run"][..],
        &["run", "--namespace", "n", "--skip-opensearch"],
        &["--namespace", "n", "run", "--skip-opensearch=true"],
        &["--skip-opensearch", "--namespace=n"],
        &["--namespace", "overruled", "run", "--namespace", "n", "--skip-opensearch"],
    ] {
        let config = typed(argv).unwrap_or_else(|mistakes| panic!("{argv:?}: {mistakes}"));
        assert_eq!((config.namespace.as_str(), config.opensearch.is_none()), ("n", true), "{argv:?}");
        assert_eq!(read(argv).task(), Task::Run, "{argv:?}");
    }
    assert_eq!(read(&["setup-index"]).task(), Task::SetupIndex);
    let check = |json, deep| Task::Check { json, deep, before_start: false };
    assert_eq!(read(&["check"]).task(), check(false, false));
    assert_eq!(read(&["--queue-url", "x", "check", "--json"]).task(), check(true, false));
    assert_eq!(read(&["check", "--deep"]).task(), check(false, true));
    assert_eq!(read(&["extract-child"]).task(), Task::ExtractChild);
    assert!(!typed(&["--replay", "false"]).unwrap().replay);
}

#[test]
fn bad_usage_is_64_help_and_version_are_0_and_bad_values_are_not_usage() {
    let code = |argv: &[&str]| Args::read(argv).err().map(|usage| exit::of_usage(&usage));
    for argv in
        [&["worker", "--queue"][..], &["worker", "walk"], &["worker", "run", "x"], &["worker", "check", "--jso"]]
    {
        assert_eq!(code(argv), Some(64), "{argv:?}");
    }
    for argv in [&["worker", "--help"][..], &["worker", "-h"], &["worker", "run", "--help"], &["worker", "--version"]] {
        assert_eq!(code(argv), Some(0), "{argv:?}");
    }
    for argv in [&["worker", "--concurrency", "-5"][..], &["worker", "--replay", "maybe"], &["worker", "--log-level=x"]]
    {
        assert_eq!(code(argv), None, "{argv:?}");
        assert_eq!(lines(typed(&argv[1..])).len(), 1, "{argv:?}");
    }
    let codes =
        [exit::EX_OK, exit::EX_CHECK_FAILED, exit::EX_USAGE, exit::EX_BOOKS, exit::EX_TEMPFAIL, exit::EX_CONFIG];
    assert_eq!(codes, [0, 1, 64, 70, 75, 78]);
    let help = Args::read(["worker", "--help"]).err().unwrap().to_string();
    for code in codes {
        assert!(help.lines().any(|line| line.starts_with(&format!("  {code:<3} "))), "{code} is not in the help");
    }
}

#[test]
fn help_says_variable_default_and_what_is_required() {
    let help = Args::read(["worker", "--help"]).err().unwrap().to_string();
    assert!(help.contains("Examples:") && help.contains("Exit codes:") && help.contains("Required variables"));
    assert!(!help.contains("extract-child"));
    let flat = help.split_whitespace().collect::<Vec<_>>().join(" "); // help is wrapped
    let unwrapped = Args::command();
    for (variable, flag, default) in contract::SETTINGS {
        assert!(flat.contains(&format!("[env: {variable}]")), "{variable}");
        let arg = unwrapped.get_arguments().find(|arg| arg.get_long() == flag.strip_prefix("--")).unwrap();
        let text = arg.get_help().unwrap().to_string().replace('`', "");
        assert!(text.contains(default), "{flag}: help does not say {default:?}: {text}");
        assert!(text.contains("default") || text.contains("required"), "{flag}: {text}");
    }
    let replay =
        unwrapped.get_arguments().find(|arg| arg.get_id() == "replay").unwrap().get_help().unwrap().to_string();
    assert!(replay.contains("differs from the older default"), "{replay}");
}

/// One bad value, what is said of it, and how it is mended. `NAME: what … fix` must be the only line.
const MISTAKES: &[(&str, &str, &str, &str)] = &[
    ("SQS_QUEUE_URL", "", "is required and not set", "aws sqs get-queue-url"),
    ("SQS_QUEUE_URL", "files", "\"files\" is not a URL", "aws sqs get-queue-url"),
    ("SQS_QUEUE_URL", "arn:aws:sqs:eu-central-1:1:files", "is an ARN", "aws sqs get-queue-url"),
    ("SQS_QUEUE_URL", "https://sqs.eu-central-1.amazonaws.com/", "names no queue", "aws sqs get-queue-url"),
    ("SQS_QUEUE_URL", "ftp://host/1/files", "is neither https nor http", "aws sqs get-queue-url"),
    ("SQS_QUEUE_URL", "https://h/1/files.fifo", "is a FIFO queue: S3 cannot notify one", "use a standard queue"),
    ("SQS_DLQ_URL", "https://h/1/files-dlq.fifo", "is a FIFO queue", "use a standard queue"),
    ("SQS_DLQ_URL", QUEUE, "is the queue itself", "dead-letter queue's URL, or leave it out"),
    (
        "SQS_DLQ_URL",
        "HTTPS://SQS.eu-central-1.amazonaws.com:443/111122223333/files",
        "is the queue itself",
        "leave it out",
    ),
    ("SQS_VISIBILITY_TIMEOUT", "9", "\"9\" is out of range", "seconds from 10 to 43200"),
    ("SQS_VISIBILITY_TIMEOUT", "43201", "is out of range", "10 to 43200"),
    ("SQS_VISIBILITY_TIMEOUT", "13h", "is out of range", "10 to 43200"),
    ("SQS_VISIBILITY_TIMEOUT", "-60", "is not a duration", "10 to 43200"),
    ("SQS_VISIBILITY_TIMEOUT", "+60", "is not a duration", "10 to 43200"),
    ("SQS_VISIBILITY_TIMEOUT", "1.5", "is not a duration", "10 to 43200"),
    ("SQS_VISIBILITY_TIMEOUT", "s", "is not a duration", "10 to 43200"),
    ("SQS_VISIBILITY_TIMEOUT", "６０", "is not a duration", "10 to 43200"),
    ("SQS_VISIBILITY_TIMEOUT", "99999999999999999999", "is not a duration", "10 to 43200"),
    ("SQS_VISIBILITY_TIMEOUT", "18446744073709551615h", "is not a duration", "10 to 43200"),
    ("S3_BUCKET", "", "is required and not set", "name the bucket"),
    ("S3_BUCKET", "s3://results", "is not a bucket's name", "without s3://"),
    ("S3_BUCKET", "results/x", "is not a bucket's name", "bare name"),
    ("S3_BUCKET", "Results", "is not a bucket's name", "a-z"),
    ("S3_BUCKET", "-results", "is not a bucket's name", "a-z"),
    ("S3_BUCKET", "incoming", "\"incoming\" is also in SOURCE_BUCKETS", "bucket of its own"),
    ("SOURCE_BUCKETS", "", "is required and not set", "bucket or bucket/prefix"),
    ("SOURCE_BUCKETS", " , ", "the list is empty", "bucket or bucket/prefix"),
    ("SOURCE_BUCKETS", "s3://incoming/x", "\"s3://incoming/x\" is not a bucket's name", "without s3://"),
    ("SOURCE_BUCKETS", "incoming,arn:aws:s3:::x", "\"arn:aws:s3:::x\" is not a bucket's name", "ARN"),
    ("SOURCE_BUCKETS", "incoming/x*", "ends in '*'", "without s3://, ARN or '*'"),
    ("SOURCE_BUCKETS", "incoming,other,incoming/", "\"incoming/\" is listed twice", "list each source once"),
    ("SOURCE_BUCKETS", "A,incoming,B", "\"A\" is not a bucket's name, \"B\" is not a bucket's name", "bucket/prefix"),
    ("NAMESPACE", "Prod", "\"Prod\" must be 1 to 32 characters of a-z, 0-9 and '-'", "prod or tenant-7"),
    ("TEMP_DIR", "tmp", "is not a folder to itself", "absolute path"),
    ("TEMP_DIR", "/", "is not a folder to itself", "/var/cache/quittance"),
    ("OPENSEARCH_ENDPOINT", "", "is required and not set", "SKIP_OPENSEARCH=true"),
    ("OPENSEARCH_ENDPOINT", "search.example.com", "is not a URL", "https://host:port"),
    ("OPENSEARCH_ENDPOINT", "localhost:9200", "is neither https nor http", "https://host:port"),
    (
        "OPENSEARCH_ENDPOINT",
        "http://search.example.com",
        "is plain http to another machine",
        "ALLOW_HTTP=true (--allow-http)",
    ),
    ("OPENSEARCH_ENDPOINT", "http://localhost.evil.example", "is plain http to another machine", "use https://"),
    ("OPENSEARCH_ENDPOINT", "http://0.0.0.0:9200", "is plain http to another machine", "use https://"),
    ("OPENSEARCH_ENDPOINT", "https://169.254.169.254", "is a link-local address", "the service itself"),
    ("OPENSEARCH_ENDPOINT", "http://2852039166/", "is a link-local address", "the service itself"),
    ("OPENSEARCH_ENDPOINT", "https://0xA9FEA9FE/", "is a link-local address", "the service itself"),
    ("OPENSEARCH_ENDPOINT", "http://[::ffff:169.254.169.254]/", "is a link-local address", "the service itself"),
    ("OPENSEARCH_ENDPOINT", "http://[fe80::1]/", "is a link-local address", "the service itself"),
    ("OPENSEARCH_ENDPOINT", "http://[fd00:ec2::254]/", "is a link-local address", "the service itself"),
    ("OPENSEARCH_ENDPOINT", "https://h/?q=1", "has a query or a fragment", "only scheme, host, port and path"),
    ("OPENSEARCH_ENDPOINT", "https://h/#x", "has a query or a fragment", "only scheme, host, port and path"),
    ("OPENSEARCH_INDEX", "Files", "\"Files\" is not an index name", "lower-case"),
    ("OPENSEARCH_INDEX", "_files", "is not an index name", "does not begin with"),
    ("OPENSEARCH_INDEX", "..", "is not an index name", "lower-case"),
    ("OPENSEARCH_INDEX", "a,b", "is not an index name", "none of"),
    ("OPENSEARCH_INDEX", "a/_bulk", "is not an index name", "none of"),
    ("OPENSEARCH_ANALYZER", "ngram", "\"ngram\" is not known", "give one of auto, kuromoji, icu, cjk, standard"),
    ("OPENSEARCH_AUTH", "kerberos", "\"kerberos\" is not known", "give one of none, basic, sigv4"),
    (
        "OPENSEARCH_USERNAME",
        "u",
        "OPENSEARCH_PASSWORD (--opensearch-password): is required",
        "OPENSEARCH_PASSWORD_FILE",
    ),
    ("OPENSEARCH_PASSWORD", "p", "OPENSEARCH_USERNAME (--opensearch-username): is required", "needs a user"),
    ("SKIP_OPENSEARCH", "perhaps", "\"perhaps\" is neither true nor false", "true or false"),
    ("WORKER_CONCURRENCY", "0", "\"0\" is out of range", "number of messages from 1 to 2000"),
    ("WORKER_CONCURRENCY", "2001", "is out of range", "1 to 2000"),
    ("WORKER_CONCURRENCY", "many", "is not such a number", "1 to 2000"),
    ("EXTRACTORS", "0", "is out of range", "number of processes from 1 to 256"),
    ("MAX_ATTEMPTS", "0", "is out of range", "number of attempts from 1 to 100"),
    ("RETRY_BASE_SECONDS", "0", "is out of range", "seconds from 1 to 900"),
    ("RETRY_MAX_SECONDS", "901", "is out of range", "seconds from 1 to 900"),
    (
        "RETRY_MAX_SECONDS",
        "29",
        "RETRY_BASE_SECONDS (--retry-base-seconds): 30 s is more than",
        "raise RETRY_MAX_SECONDS",
    ),
    ("ON_MISSING_OBJECT", "ignore", "\"ignore\" is not known", "dead-letter, drop"),
    ("ON_EXTRACTION_ERROR", "drop", "\"drop\" is not known", "index, dead-letter"),
    ("MAX_OBJECT_BYTES", "0", "is out of range", "KiB, MiB or GiB"),
    ("MAX_OBJECT_BYTES", "512MB", "\"512MB\" is not a size", "KiB, MiB or GiB"),
    ("MAX_OBJECT_BYTES", "6000GiB", "is out of range", "1 to 5497558138880"),
    ("TENANT_FROM", "prefix", "does not say where the tenant is read", "prefix:N"),
    ("TENANT_FROM", "prefix:0", "does not say where the tenant is read", "prefix:N"),
    ("TENANT_FROM", "prefix:17", "does not say where the tenant is read", "1 to 16"),
    ("ENABLE_FAILED_RETRY", "on", "\"on\" is neither true nor false", "true or false"),
    ("FAILED_RETRY_MAX_RETRIES", "1001", "is out of range", "0 to 1000"),
    ("FAILED_RETRY_BASE_BACKOFF_SECONDS", "0", "is out of range", "1 to 86400"),
    ("FAILED_RETRY_BASE_BACKOFF_SECONDS", "3601", "3601 s is more than FAILED_RETRY_MAX_BACKOFF_SECONDS", "lower it"),
    ("FAILED_RETRY_MAX_BACKOFF_SECONDS", "x", "is not a duration", "1 to 86400"),
    ("DRAIN_TIMEOUT", "3601", "is out of range", "0 to 3600"),
    ("CHECK_BEFORE_START", "yes", "\"yes\" is not known", "warn"),
    ("RELOAD_FILE", "limits.env", "is not a file's path", "give an absolute path"),
    ("RELOAD_FILE", "/", "is not a file's path", "give an absolute path"),
    ("ADMIN_LISTEN", "9464", "\"9464\" is not an address", "IP:PORT"),
    ("ADMIN_LISTEN", "localhost:9464", "is not an address", "or off"),
    ("ADMIN_TOKEN", "too-short", "is no token of 16 to 256 printable ASCII characters", "openssl rand"),
    ("ADMIN_TOKEN", "0123456789 abcdef", "is no token", "openssl rand"),
    ("METRICS_EMF", "on", "\"on\" is neither true nor false", "true or false"),
    ("LOG_FORMAT", "xml", "\"xml\" is not known", "json, text"),
    ("LOG_LEVEL", "loud", "\"loud\" is not known", "error, warn, info, debug, trace"),
    ("LOG_LEVEL", "a\n\u{1b}[2Jb", "\"a\\n\\u{1b}[2Jb\" is not known", "error, warn"),
    ("LOG_LEVEL", "caf\u{fffd}", "is not UTF-8 text", "UTF-8"),
    ("ALLOW_HTTP", "2", "is neither true nor false", "true or false"),
    ("AWS_ENDPOINT_URL", "http://localstack:4566", "is plain http to another machine", "ALLOW_HTTP"),
    ("AWS_ENDPOINT_URL", "http://169.254.169.254", "is a link-local address", "the service itself"),
    ("AWS_ENDPOINT_URL_S3", "http://minio:9000", "is plain http to another machine", "ALLOW_HTTP"),
    ("AWS_ENDPOINT_URL_SQS", "nonsense", "is not a URL", "https://host:port"),
];

#[test]
fn each_mistake_is_one_sentence_with_its_fix() {
    for (variable, bad, what, fix) in MISTAKES {
        let lines = lines(with(&[(*variable, *bad)]));
        assert_eq!(lines.len(), 1, "{variable}={bad:?}: {lines:#?}");
        let (said, mend) = lines[0].split_once("; fix: ").unwrap_or_else(|| panic!("no fix: {lines:?}"));
        assert!(said.contains(what), "{variable}={bad:?}: {said}");
        assert!(mend.contains(fix), "{variable}={bad:?}: {mend}");
        // The one to blame is the one that was given, but where its other half is missing or contradicted.
        assert!(said.starts_with(variable) || what.contains(" (--"), "{variable}={bad:?}: {said}");
        assert!(!lines[0].contains(char::is_control), "{lines:?}");
    }
}

#[test]
fn every_setting_that_can_be_wrong_is_in_the_table() {
    let tried: BTreeSet<_> = MISTAKES.iter().map(|(variable, ..)| *variable).collect();
    let untried: Vec<_> =
        contract::SETTINGS.iter().map(|(variable, ..)| *variable).filter(|name| !tried.contains(name)).collect();
    let files = ["OPENSEARCH_PASSWORD_FILE", "ADMIN_TOKEN_FILE"];
    assert_eq!(untried, files, "their mistakes need files and have tests of their own");
}

#[test]
fn all_mistakes_are_told_at_once() {
    // The last bad value of each setting; each is alone in its setting, so each gives one line.
    let env: BTreeMap<&str, &str> = MISTAKES
        .iter()
        .filter(|(variable, _, what, _)| !what.contains(" (--") && *variable != "SKIP_OPENSEARCH")
        .filter(|(variable, bad, ..)| !(*variable == "SQS_DLQ_URL" && bad.ends_with("files"))) // needs a good queue
        .filter(|(variable, bad, ..)| !(variable.ends_with("BACKOFF_SECONDS") && *bad == "3601")) // needs a good maximum
        .filter(|(variable, ..)| *variable != "ALLOW_HTTP") // would hide the endpoints' mistakes
        .filter(|(_, bad, ..)| *bad != "incoming")
        .map(|(variable, bad, ..)| (*variable, *bad))
        .collect();
    assert!(env.len() > 25, "{env:?}");
    let mistakes = convert(&env, &[]).unwrap_err();
    let blamed: BTreeSet<_> = mistakes.0.iter().map(|mistake| mistake.name.variable.as_str()).collect();
    assert_eq!(blamed, env.keys().copied().collect());
    assert_eq!(mistakes.0.len(), env.len(), "{mistakes}");
    let text = mistakes.to_string();
    assert!(text.starts_with(&format!("{} mistakes in the configuration:\n", env.len())), "{text}");
    assert_eq!(text.lines().count(), env.len() + 1);

    let nothing = convert(&BTreeMap::new(), &[]).unwrap_err();
    let blamed: Vec<_> = nothing.0.iter().map(|mistake| mistake.name.variable.as_str()).collect();
    assert_eq!(blamed, ["SQS_QUEUE_URL", "S3_BUCKET", "SOURCE_BUCKETS", "OPENSEARCH_ENDPOINT"]);
    assert!(with(&[("LOG_LEVEL", "x")]).unwrap_err().to_string().starts_with("1 mistake in the configuration:\n"));
}

#[test]
fn what_is_right_at_the_edge_is_accepted() {
    for (variable, good) in [
        ("SQS_VISIBILITY_TIMEOUT", "10"),
        ("SQS_VISIBILITY_TIMEOUT", "12h"),
        ("WORKER_CONCURRENCY", "2000"),
        ("RETRY_MAX_SECONDS", "30"),
        ("MAX_OBJECT_BYTES", "5120GiB"),
        ("SOURCE_BUCKETS", "incoming/a,incoming/b, results-2/results"),
        ("OPENSEARCH_ENDPOINT", "http://127.8.9.10:9200"),
        ("OPENSEARCH_ENDPOINT", "http://[::1]:9200"),
        ("OPENSEARCH_ENDPOINT", "http://LOCALHOST:9200"),
        ("SQS_QUEUE_URL", "http://sqs.us-east-1.localhost.localstack.cloud:4566/000000000000/files"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:4566"),
        ("ADMIN_LISTEN", "[::]:0"),
        ("OPENSEARCH_INDEX", "日本-1.x"),
        ("TENANT_FROM", "none"),
    ] {
        assert_eq!(lines(with(&[(variable, good)])), [""; 0], "{variable}={good}");
    }
    let allowed =
        [("ALLOW_HTTP", "1"), ("OPENSEARCH_ENDPOINT", "http://search:9200"), ("AWS_ENDPOINT_URL", "http://ls:4566")];
    assert_eq!(with(&allowed).unwrap().aws_endpoint_url.as_deref(), Some("http://ls:4566"));
    assert_eq!(lines(with(&[("ALLOW_HTTP", "1"), ("OPENSEARCH_ENDPOINT", "http://169.254.169.254")])).len(), 1);
}

#[test]
fn the_way_to_sign_in_is_guessed_from_what_is_given() {
    let auth =
        |env: &[(&'static str, &'static str)]| with(env).unwrap_or_else(|m| panic!("{m}")).opensearch.unwrap().auth;
    let basic = OpenSearchAuth::Basic { username: "u".into(), password: Secret::from(" p ".to_owned()) };
    let domain = ("OPENSEARCH_ENDPOINT", "https://search-x.eu-central-1.es.amazonaws.com");
    let user = [("OPENSEARCH_USERNAME", "u"), ("OPENSEARCH_PASSWORD", " p ")];
    assert_eq!(auth(&user), basic);
    assert_eq!(auth(&[user[0], user[1], domain]), basic);
    assert_eq!(auth(&[domain]), OpenSearchAuth::SigV4);
    for host in [
        "https://x.eu-central-1.aoss.amazonaws.com",
        "https://X.ES.AMAZONAWS.COM./",
        "https://x.cn-north-1.es.amazonaws.com.cn",
    ] {
        assert_eq!(auth(&[("OPENSEARCH_ENDPOINT", host)]), OpenSearchAuth::SigV4, "{host}");
    }
    for host in ["https://es.amazonaws.com.example", "https://fakees.amazonaws.com"] {
        assert_eq!(auth(&[("OPENSEARCH_ENDPOINT", host)]), OpenSearchAuth::None, "{host}");
    }
    // What is said wins over what is given.
    assert_eq!(auth(&[domain, ("OPENSEARCH_AUTH", "none")]), OpenSearchAuth::None);
    assert_eq!(auth(&[user[0], user[1], ("OPENSEARCH_AUTH", "sigv4")]), OpenSearchAuth::SigV4);
    let halves = lines(with(&[("OPENSEARCH_AUTH", "basic")]));
    assert_eq!(halves.len(), 2, "user and password are both missing: {halves:?}");
}

#[test]
fn skipping_opensearch_looks_at_nothing_of_it() {
    let config = with(&[
        ("SKIP_OPENSEARCH", "true"),
        ("OPENSEARCH_ENDPOINT", "not looked at"),
        ("OPENSEARCH_AUTH", "basic"),
        ("OPENSEARCH_PASSWORD_FILE", "/nowhere"),
    ]);
    assert!(config.unwrap().opensearch.is_none());
}

#[test]
fn the_token_of_the_status_page_is_given_or_in_a_file_and_no_mistake_quotes_it() {
    let folder = tempfile::tempdir().unwrap();
    let from = |content: &str, more: &[(&'static str, &'static str)]| {
        let file = folder.path().join("token");
        std::fs::write(&file, content).unwrap();
        let mut env: BTreeMap<&str, &str> = REQUIRED.into();
        env.extend(more.iter().copied());
        env.insert("ADMIN_TOKEN_FILE", file.to_str().unwrap());
        convert(&env, &[])
    };
    let token = from("0123456789abcdef\n", &[]).unwrap().admin_token.unwrap();
    assert_eq!(token.expose(), "0123456789abcdef");
    assert_eq!(convert(&REQUIRED.into(), &[]).unwrap().admin_token, None);
    let given = [("ADMIN_TOKEN", "0123456789abcdef")];
    for (content, more, what) in [
        ("hunter2", &[][..], "ADMIN_TOKEN_FILE (--admin-token-file): is no token of 16 to 256"),
        ("0123456789 hunter2\n", &[], "ADMIN_TOKEN_FILE (--admin-token-file): is no token"),
        ("\n", &[], "is empty"),
        ("hunter2-hunter2-hunter2", &given, "ADMIN_TOKEN (--admin-token): is given, and ADMIN_TOKEN_FILE too"),
    ] {
        let lines = lines(from(content, more));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains(what) && !lines[0].contains("hunter2") && !lines[0].contains("cdef"), "{lines:?}");
    }
}

#[test]
fn a_password_file_is_read_and_its_mistakes_never_quote_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let from = |file: &str, more: &[(&'static str, &'static str)]| {
        let mut env: BTreeMap<&str, &str> = REQUIRED.into();
        env.extend(more.iter().copied());
        env.extend([("OPENSEARCH_USERNAME", "u"), ("OPENSEARCH_PASSWORD_FILE", file)]);
        convert(&env, &[])
    };
    for (name, content, password) in [
        ("lf", "hunter2\n", "hunter2"),
        ("crlf", "hunter2\r\n", "hunter2"),
        ("bare", "hunter2", "hunter2"),
        ("two", " a \n\n", " a \n"),
    ] {
        let auth = from(&path(name, content.as_bytes()), &[]).unwrap().opensearch.unwrap().auth;
        let OpenSearchAuth::Basic { password: found, .. } = auth else { panic!("{auth:?}") };
        assert_eq!(found.expose(), password, "{name}");
    }
    let cases = [
        (folder.path().join("none").to_str().unwrap().to_owned(), "cannot read"),
        (folder.path().to_str().unwrap().to_owned(), "cannot read"),
        (path("empty", b"\n"), "is empty"),
        (path("binary", b"hunter2\xff\xfe"), "cannot read"),
        (path("long", "hunter2".repeat(20_000).as_bytes()), "longer than any password"),
        ("/dev/zero".to_owned(), "longer than any password"),
    ];
    for (file, what) in cases {
        let lines = lines(from(&file, &[]));
        assert_eq!(lines.len(), 1, "{file}: {lines:?}");
        assert!(lines[0].starts_with("OPENSEARCH_PASSWORD_FILE (--opensearch-password-file): "), "{lines:?}");
        assert!(lines[0].contains(what) && !lines[0].contains("hunter2"), "{lines:?}");
    }
    let both = lines(from(&path("both", b"x"), &[("OPENSEARCH_PASSWORD", "hunter2")]));
    assert_eq!(both.len(), 1, "{both:?}");
    assert!(
        both[0].starts_with("OPENSEARCH_PASSWORD (--opensearch-password): is given, and OPENSEARCH_PASSWORD_FILE too")
    );
    assert!(!both[0].contains("hunter2"), "{both:?}");
}

#[test]
fn secrets_are_in_no_debug_and_no_mistake() {
    let config = with(&[("OPENSEARCH_USERNAME", "u"), ("OPENSEARCH_PASSWORD", "hunter2")]).unwrap();
    let debug = format!("{config:?} {config:#?}");
    assert!(debug.contains("Secret(..)") && !debug.contains("hunter2"), "{debug}");

    for variable in ["SQS_QUEUE_URL", "SQS_DLQ_URL", "OPENSEARCH_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"] {
        for url in [
            "https://u:hunter2@host:9200/1/q",
            "https://hunter2@host/1/q",
            "http://u:hunter2@169.254.169.254/1/q",
            "u:hunter2@host",
            "https://u:hunter2@ho st/1/q",
            "arn:hunter2@x",
            "https://h/1/q.fifo?x=u:hunter2@h",
            "ftp://h/1/q?token=hunter2",
        ] {
            let lines = lines(with(&[(variable, url)]));
            assert_eq!(lines.len(), 1, "{variable}={url}: {lines:?}");
            assert!(!lines[0].contains("hunter2"), "{lines:?}");
        }
    }
}

#[test]
fn no_value_of_the_environment_reaches_help_or_parsing() {
    // The variables of a process cannot be changed safely in a test, so this test runs itself again with some.
    if std::env::var_os("QUITTANCE_TEST_CHILD").is_some() {
        let help = Args::read(["worker", "--help"]).err().unwrap().to_string();
        assert!(help.contains("[env: OPENSEARCH_PASSWORD]") && !help.contains("hunter2"), "{help}");
        assert!(read(&[]).namespace.is_none(), "clap has read the environment");
        let seen = Surroundings::of_process();
        assert_eq!((seen.env)("NAMESPACE").as_deref(), Some("hunter2"));
        return;
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "no_value_of_the_environment_reaches_help_or_parsing"]).env("QUITTANCE_TEST_CHILD", "1");
    for (variable, ..) in contract::SETTINGS {
        child.env(variable, "hunter2");
    }
    let output = child.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

/// Variables which the SDK reads, and the sample explains.
const AWS: [&str; 7] = [
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_SQS",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
];

const SAMPLE: &str = include_str!("../deploy/worker.env");

/// `NAME=value` of a line of the sample, which is always commented out.
fn example(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.strip_prefix('#')?.split_once('=')?;
    name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_').then_some((name, value))
}

#[test]
fn the_sample_explains_exactly_the_variables_there_are() {
    let mut known: BTreeSet<String> = names().into_values().map(|name| name.variable).collect();
    known.extend(AWS.map(str::to_owned));
    let shown: Vec<&str> = SAMPLE.lines().filter_map(example).map(|(name, _)| name).collect();
    let distinct: BTreeSet<String> = shown.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(distinct, known);
    assert_eq!(shown.len(), distinct.len(), "a variable is there twice");
    assert!(SAMPLE.lines().all(|line| line.is_empty() || line.starts_with('#')), "a line of the sample is in force");
}

#[test]
fn the_sample_says_the_default_of_each_variable() {
    for paragraph in SAMPLE.split("\n\n") {
        let examples: Vec<_> = paragraph.lines().filter_map(example).collect();
        let prose: Vec<&str> = paragraph.lines().filter(|line| example(line).is_none()).collect();
        let prose = prose.join(" ").replace(" # ", " ").to_lowercase();
        for (variable, _) in examples {
            let default = contract::SETTINGS.iter().find(|(name, ..)| *name == variable).map_or("default", |row| row.2);
            assert!(prose.contains(&default.to_lowercase()), "{variable}: {default:?} is not in {prose:?}");
            assert!(prose.contains("default") || prose.contains("required"), "{variable}: {prose:?}");
        }
    }
}

#[test]
fn the_sample_uncommented_is_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("opensearch");
    std::fs::write(&file, "hunter2\n").unwrap();
    let mut env: BTreeMap<&str, &str> = SAMPLE.lines().filter_map(example).collect();
    let path = env.insert("OPENSEARCH_PASSWORD_FILE", file.to_str().unwrap()).unwrap();
    assert!(path.starts_with("/run/credentials/quittance-worker.service/"), "{path}: not where the unit puts it");
    let token = folder.path().join("admin");
    std::fs::write(&token, "0123456789abcdef\n").unwrap();
    let path = env.insert("ADMIN_TOKEN_FILE", token.to_str().unwrap()).unwrap();
    assert!(path.starts_with("/run/credentials/quittance-worker.service/"), "{path}: not where the unit puts it");
    let sample = convert(&env, &[]).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert!(sample.admin_token.is_some());
    assert!(matches!(sample.opensearch.unwrap().auth, OpenSearchAuth::Basic { .. }));
    assert_eq!(sample.sources[1].prefix, "2026/");
}

#[test]
fn polls_and_heartbeats_fit_the_lease() {
    for (visibility, poll, beat) in
        [("10", 2500, 3333), ("60", 15_000, 20_000), ("80", 20_000, 26_666), ("12h", 20_000, 14_400_000)]
    {
        let config = with(&[("SQS_VISIBILITY_TIMEOUT", visibility)]).unwrap();
        assert_eq!(config.poll_wait().as_millis(), poll, "{visibility}");
        assert_eq!(quittance::heartbeat::every(config.visibility).as_millis(), beat, "{visibility}");
    }
}

#[test]
fn the_log_is_text_on_a_terminal() {
    let lookup = |name: &str| REQUIRED.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned());
    let around = Surroundings { env: &lookup, stderr_is_terminal: true, cores: 1000 };
    let config = WorkerConfig::from_args(&read(&[]), &around).unwrap();
    assert_eq!(config.log_format, LogFormat::Text);
    assert_eq!(config.extractors, 256, "a very large machine is no mistake");
}
