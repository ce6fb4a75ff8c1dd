use std::collections::BTreeMap;
use std::time::Duration;

use clap::CommandFactory as _;

use super::*;
use crate::config::{OpenSearchAuth, exit};
use crate::message::{DocumentId, MessageId};
use crate::trace::Target;
use crate::upkeep::reconcile::Cursor;

const QUEUE: &str = "https://sqs.eu-central-1.amazonaws.com/111122223333/files";
const REQUIRED: [(&str, &str); 4] = [
    ("SQS_QUEUE_URL", QUEUE),
    ("S3_BUCKET", "results"),
    ("SOURCE_BUCKETS", "incoming,shared/drop/"),
    ("OPENSEARCH_ENDPOINT", "https://search.example.com:9200"),
];

fn with(env: &[(&str, &str)], argv: &[&str]) -> Result<RedriveConfig, Mistakes> {
    let env: BTreeMap<&str, &str> = REQUIRED.into_iter().chain(env.iter().copied()).collect();
    let lookup = |name: &str| env.get(name).map(|text| (*text).to_owned());
    let args = RedriveArgs::read(std::iter::once("redrive").chain(argv.iter().copied()));
    let args = args.map_err(|usage| usage.to_string()).unwrap();
    RedriveConfig::from_args(&args, &Surroundings { env: &lookup, stderr_is_terminal: false, cores: 1 })
}

fn mistakes(env: &[(&str, &str)], argv: &[&str]) -> Vec<String> {
    with(env, argv).unwrap_err().0.iter().map(ToString::to_string).collect()
}

#[test]
fn each_command_has_the_defaults_that_its_help_tells() {
    let Order::Reconcile(config) = with(&[], &["reconcile", "--bucket", "incoming"]).unwrap().order else { panic!() };
    assert_eq!((config.area.bucket.as_str(), config.area.prefix.as_str()), ("incoming", ""));
    assert_eq!((config.repair, config.resume), (None, None));
    assert_eq!((config.min_age, config.max_object_bytes), (Duration::from_secs(900), 512 << 20));
    assert_eq!((config.namespace.as_str(), config.opensearch.index.as_str()), ("default", "files"));
    assert_eq!(config.opensearch.auth, OpenSearchAuth::None);

    let Order::Reprocess(config) = with(&[("UPKEEP_BUCKET", "shared")], &["reprocess"]).unwrap().order else {
        panic!()
    };
    assert_eq!((config.send, config.older_than, config.resume), (Some((QUEUE.into(), 100)), None, None));
    assert_eq!(config.area.bucket, "shared");

    let Order::PurgeTombstones(config) = with(&[], &["purge-tombstones", "--older-than", "45d"]).unwrap().order else {
        panic!()
    };
    assert_eq!((config.older_than, config.dry_run), (Duration::from_secs(45 * 86_400), false));

    let Order::Search(config) = with(&[("S3_BUCKET", "")], &["search", "annual", "report"]).unwrap().order else {
        panic!()
    };
    assert_eq!((config.words.as_str(), config.limit), ("annual report", 10));
}

#[test]
fn flags_win_over_variables_and_mean_what_they_say() {
    let env =
        [("UPKEEP_PREFIX", "variable/"), ("RECONCILE_REPAIR", "true"), ("UPKEEP_RATE", "7"), ("NAMESPACE", "prod")];
    let argv = ["reconcile", "--bucket", "incoming", "--prefix", " 日本/", "--min-age", "0", "--resume-from", "-k"];
    let Order::Reconcile(config) = with(&env, &argv).unwrap().order else { panic!() };
    assert_eq!((config.area.prefix.as_str(), config.repair), (" 日本/", Some((QUEUE.into(), 7))));
    assert_eq!((config.min_age, config.resume), (Duration::ZERO, Some(Cursor::Key("-k".into()))));
    assert_eq!(config.namespace.as_str(), "prod");

    let id = "60423995a4d21abbe466464af25652088350431e0221836c3cfe9b2b201773f4";
    let argv = ["reconcile", "--bucket", "incoming", "--repair=false", "--resume-from-record", id];
    let Order::Reconcile(config) = with(&env, &argv).unwrap().order else { panic!() };
    assert_eq!((config.repair, config.resume), (None, DocumentId::parse(id).map(Cursor::Record)));

    let argv =
        ["reprocess", "--bucket", "incoming", "--extractor-older-than", "2.1", "--dry-run", "--resume-from", "k"];
    let Order::Reprocess(config) = with(&[("SQS_QUEUE_URL", "")], &argv).unwrap().order else { panic!() };
    assert_eq!((config.send, config.resume.as_deref()), (None, Some("k")), "a dry run needs no queue");
    assert_eq!(config.older_than.unwrap().0.to_string(), "2.1");
    // Without that filter nothing asks the index.
    let argv = ["reprocess", "--bucket", "incoming"];
    assert!(with(&[("OPENSEARCH_ENDPOINT", "")], &argv).is_ok());
}

#[test]
fn all_mistakes_are_told_at_once_each_with_its_fix() {
    let env = [("SQS_QUEUE_URL", "nonsense"), ("S3_BUCKET", ""), ("NAMESPACE", "A"), ("OPENSEARCH_ENDPOINT", "")];
    let argv = ["reconcile", "--repair", "--rate", "0", "--min-age", "x", "--resume-from-record", "y"];
    let told = mistakes(&env, &argv);
    let starts = [
        "S3_BUCKET (--results-bucket)",
        "UPKEEP_BUCKET (--bucket)",
        "SQS_QUEUE_URL (--queue-url)",
        "UPKEEP_RATE (--rate)",
        "NAMESPACE (--namespace)",
        "OPENSEARCH_ENDPOINT (--opensearch-endpoint)",
        "RECONCILE_MIN_AGE (--min-age)",
        "RECONCILE_RESUME_FROM_RECORD (--resume-from-record)",
    ];
    assert_eq!(told.len(), starts.len(), "{told:#?}");
    for (told, start) in told.iter().zip(starts) {
        assert!(told.starts_with(start) && told.contains("; fix: "), "{told}");
    }
    for (argv, says) in [
        (&["reconcile", "--bucket", "elsewhere"][..], "not in SOURCE_BUCKETS"),
        (&["reconcile", "--bucket", "results"], "the results bucket"),
        (&["reconcile", "--bucket", "incoming", "--skip-opensearch"], "looks at the index"),
        (&["reprocess", "--bucket", "incoming", "--extractor-older-than", "new"], "no version"),
        (&["purge-tombstones"], "is required"),
        (&["purge-tombstones", "--older-than", "14d"], "too short"),
        (&["search", "--limit", "0", "words"], "out of range"),
    ] {
        let told = mistakes(&[], argv);
        assert!(told.len() == 1 && told[0].contains(says), "{argv:?}: {told:?}");
    }
    let buckets = mistakes(&[("S3_BUCKET", "incoming")], &["reprocess", "--bucket", "incoming"]);
    assert!(buckets[0].contains("the results bucket"), "{buckets:?}");
}

#[test]
fn a_password_is_in_no_mistake_and_no_help() {
    let env = [("OPENSEARCH_PASSWORD", "hunter2"), ("OPENSEARCH_AUTH", "basic")];
    let told = mistakes(&env, &["search", "words"]).concat();
    assert!(told.contains("OPENSEARCH_USERNAME") && !told.contains("hunter2"), "{told}");
}

#[test]
fn every_command_explains_itself_with_examples_and_exit_codes() {
    let usage = |argv: &[&str]| {
        let Err(told) = RedriveArgs::read(argv.iter().copied()) else { panic!("{argv:?}") };
        (exit::of_usage(&told), told.to_string())
    };
    for command in RedriveArgs::command().get_subcommands().map(|command| command.get_name().to_owned()) {
        let (code, help) = usage(&["redrive", &command, "--help"]);
        assert_eq!(code, 0, "{command}");
        if !["pause", "resume", "status"].contains(&command.as_str()) {
            for text in ["Examples:", "Exit codes:", "[env: ", "redrive "] {
                assert!(help.contains(text), "{command}: {text}");
            }
        }
    }
    for argv in [
        &["redrive", "reconcile", "--resume-from", "k", "--resume-from-record", "r"][..],
        &["redrive", "search"],
        &["redrive", "trace"],
        &["redrive", "trace", "incoming/a.txt"],
        &["redrive", "trace", "s3://incoming"],
        &["redrive", "reprocess", "--repair"],
        &["redrive"],
    ] {
        assert_eq!(usage(argv).0, 64, "{argv:?}");
    }
}

#[test]
fn a_trace_takes_its_target_as_typed_and_needs_a_queue_only_to_look_into_the_dead_letter_queue() {
    let dlq = "https://sqs.eu-central-1.amazonaws.com/111122223333/files-dlq";
    let traced = |env: &[(&str, &str)], argv: &[&str]| {
        let Order::Trace(config) = with(env, &[&["trace"], argv].concat()).unwrap().order else { panic!() };
        *config
    };
    let config = traced(&[("SQS_QUEUE_URL", "")], &["s3://incoming/ a+b %20日本 "]);
    let target = Target::File { bucket: "incoming".into(), key: " a+b %20日本 ".into() };
    assert_eq!((config.target, config.days, config.dlq), (target, 15, None));
    assert_eq!((config.namespace.as_str(), config.opensearch.unwrap().index.as_str()), ("default", "files"));
    let config = traced(&[("SKIP_OPENSEARCH", "true"), ("TRACE_SINCE", "60d")], &["6c1f7a52", "--dlq"]);
    assert_eq!((config.target, config.days), (Target::Message(MessageId("6c1f7a52".into())), 60));
    assert_eq!(config.opensearch, None);
    assert_eq!(config.dlq, Some(DlqConfig { queue: DlqUrl::Of(QUEUE.into()), limit: 100 }));
    let config = traced(&[("SQS_DLQ_URL", dlq), ("TRACE_DLQ", "true")], &["m", "--dlq-limit", "7"]);
    assert_eq!(config.dlq, Some(DlqConfig { queue: DlqUrl::Given(dlq.into()), limit: 7 }));
    assert_eq!(traced(&[("SQS_DLQ_URL", "nonsense")], &["m"]).dlq, None, "it is not looked at");

    let env = [("SQS_QUEUE_URL", ""), ("S3_BUCKET", ""), ("NAMESPACE", "A"), ("OPENSEARCH_ENDPOINT", "")];
    let told = mistakes(&env, &["trace", "m", "--dlq", "--dlq-limit", "0", "--since", "15"]);
    let starts = ["S3_BUCKET", "NAMESPACE", "OPENSEARCH_ENDPOINT", "TRACE_SINCE", "TRACE_DLQ_LIMIT", "SQS_QUEUE_URL"];
    assert_eq!(told.len(), starts.len(), "{told:#?}");
    for (told, start) in told.iter().zip(starts) {
        assert!(told.starts_with(start) && told.contains("; fix: "), "{told}");
    }
    for since in ["0d", "401d", "15", "d", "+5d"] {
        assert_eq!(mistakes(&[], &["trace", "m", "--since", since]).len(), 1, "{since}");
    }
}
