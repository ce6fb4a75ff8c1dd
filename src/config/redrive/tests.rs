use std::collections::BTreeMap;
use std::time::Duration;

use clap::CommandFactory as _;

use super::*;
use crate::config::{OpenSearchAuth, TenantFrom, exit};
use crate::message::{DocumentId, MessageId};
use crate::redrive::archive::Source;
use crate::redrive::archive::shelf::Selection;
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
fn a_drain_has_the_defaults_that_its_help_tells_and_takes_what_was_typed() {
    let Order::Drain(config) = with(&[], &["--batch-size", "50"]).unwrap().order else { panic!() };
    assert_eq!((config.queue_url.as_str(), &config.dlq_url), (QUEUE, &None));
    assert_eq!((config.limits.batch_size, config.limits.max_batches, config.limits.max_messages), (50, None, None));
    assert_eq!((config.rate, config.limits.max_backlog), (100, 1_000));
    assert_eq!((config.limits.canary, config.limits.force), (Duration::from_secs(120), false));
    assert!(config.selection.is_everything() && config.opensearch.is_some() && config.allow_unpaired.is_empty());

    let typed = [
        "--reason",
        "denied,limit",
        "--reason",
        "max_receives",
        "--tenant",
        "acme",
        "--key-prefix",
        "2026/",
        "--older-than",
        "2d",
        "--newer-than",
        "90m",
        "--message-id",
        "a,b",
        "--max-batches",
        "3",
        "--max-messages",
        "7",
        "--force",
        "--canary-timeout",
        "0",
        "--skip-opensearch",
        "--allow-unpaired",
        "arn:aws:sqs:eu-west-1:1:dlq",
        "--rate",
        "5",
    ];
    let Order::Drain(config) = with(&[("REDRIVE_BATCH_SIZE", "20")], &typed).unwrap().order else { panic!() };
    let selection = &config.selection;
    assert_eq!(selection.reasons, ["denied", "limit", "max_receives"]);
    assert_eq!((&selection.tenants[..], selection.key_prefix.as_deref()), (&["acme".to_owned()][..], Some("2026/")));
    assert_eq!((selection.older_than_ms, selection.newer_than_ms), (Some(172_800_000), Some(5_400_000)));
    assert_eq!(selection.message_ids, ["a", "b"]);
    let limits = &config.limits;
    assert_eq!((limits.batch_size, limits.max_batches, limits.max_messages), (20, Some(3), Some(7)));
    assert_eq!(
        (limits.force, limits.canary, config.rate, config.opensearch.is_none()),
        (true, Duration::ZERO, 5, true)
    );

    for argv in [&["plan", "--sample", "9"][..], &["--dry-run", "--sample", "9"]] {
        let Order::Plan(config) = with(&[], argv).unwrap().order else { panic!("{argv:?}") };
        assert_eq!(config.sample, Some(9), "{argv:?}");
    }
}

#[test]
fn r13_numbers_that_make_no_sense_are_usage_errors_and_nothing_typed_moves_nothing() {
    let usage = |argv: &[&str]| {
        let Err(told) = RedriveArgs::read(std::iter::once("redrive").chain(argv.iter().copied())) else {
            panic!("{argv:?}")
        };
        (exit::of_usage(&told), told.to_string())
    };
    for argv in [
        &["--batch-size", "0"][..],
        &["--batch-size", "-1"],
        &["--batch-size", "1000000000"],
        &["--rate", "0"],
        &["--max-messages", "0"],
        &["--sample", "0", "--dry-run"],
        &["--sample", "100"],
        &["--sample", "100", "--batch-size", "50"],
        &["--reason", "because", "--batch-size", "5"],
        &["--older-than", "soon", "--batch-size", "5"],
        &["--allow-unpaired", "my-dlq", "--batch-size", "5"],
        &["--batch-size", "5", "parked"],
        &[],
    ] {
        let (code, told) = usage(argv);
        assert_eq!(code, exit::EX_USAGE, "{argv:?}: {told}");
    }
    assert!(usage(&[]).1.contains("redrive --batch-size 50"));
    let told = mistakes(&[("REDRIVE_BATCH_SIZE", "0")], &["--rate", "5"]);
    assert!(told.len() == 1 && told[0].starts_with("REDRIVE_BATCH_SIZE (--batch-size)"), "{told:?}");
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
fn the_archive_is_listed_shown_restored_and_filled() {
    let order = |env: &[(&str, &str)], argv: &[&str]| match with(env, argv).unwrap().order {
        Order::Archive(order) => *order,
        _ => panic!("{argv:?}"),
    };
    const DAY: u64 = 1_795_305_600_000; // 2026-11-22T00:00:00Z
    let ArchiveOrder::List { wanted, limit } = order(&[], &["archive", "list"]) else { panic!() };
    assert_eq!((wanted.selection(DAY), limit), (Selection::default(), 100));
    let argv = [
        "archive",
        "list",
        "--queue",
        "main",
        "--since",
        "2026-11-20",
        "--until",
        "12h",
        "--reason",
        "denied",
        "--prefix",
        "-k",
        "--message-id",
        "m",
        "--limit",
        "7",
    ];
    let ArchiveOrder::List { wanted, limit } = order(&[], &argv) else { panic!() };
    let expected = Selection {
        source: Source::Main,
        since_ms: Some(DAY - 2 * 86_400_000),
        until_ms: Some(DAY - 43_200_000),
        reason: Some("denied".into()),
        key_prefix: Some("-k".into()),
        message_id: Some("m".into()),
    };
    assert_eq!((wanted.selection(DAY), limit), (expected, 7));
    let shown = order(&[("SQS_QUEUE_URL", "")], &["archive", "show", "0b1a"]);
    assert_eq!(shown, ArchiveOrder::Show { message_id: "0b1a".into() });

    let argv = ["archive", "restore", "--all", "--rate", "7", "--max-messages", "9"];
    let ArchiveOrder::Restore { send, most, .. } = order(&[], &argv) else { panic!() };
    assert_eq!((send, most), (Some((QUEUE.into(), 7)), Some(9)));
    let dry = order(&[("SQS_QUEUE_URL", "")], &["archive", "restore", "--reason", "limit", "--dry-run"]);
    assert!(matches!(dry, ArchiveOrder::Restore { send: None, .. }), "a dry run needs no queue: {dry:?}");
    let told = mistakes(&[("SQS_QUEUE_URL", "")], &["archive", "restore", "--all", "--rate", "0"]);
    assert!(
        told[0].starts_with("SQS_QUEUE_URL (--queue-url)") && told[1].starts_with("UPKEEP_RATE (--rate)"),
        "{told:?}"
    );

    let saved = |source, remove, most| {
        let visibility = Duration::from_secs(120);
        ArchiveOrder::Save { source, queue_url: QUEUE.into(), dlq_url: None, remove, visibility, most }
    };
    let short = order(&[("SQS_VISIBILITY_TIMEOUT", "60")], &["archive", "--queue", "main"]);
    assert!(matches!(short, ArchiveOrder::Save { visibility, .. } if visibility.as_secs() == 60), "{short:?}");
    let list = order(&[], &["archive", "--json", "list"]);
    assert!(matches!(list, ArchiveOrder::List { .. }), "a flag of all commands may stand anywhere: {list:?}");
    for spelling in [&["archive", "--queue", "main"][..], &["archive", "save", "--queue", "main"]] {
        assert_eq!(order(&[], spelling), saved(Source::Main, false, None), "{spelling:?}");
    }
    let argv = ["archive", "--queue", "dlq", "--remove", "--max-messages", "5"];
    assert_eq!(order(&[], &argv), saved(Source::Dlq, true, Some(5)));
    let told = mistakes(&[("SQS_QUEUE_URL", ""), ("SQS_DLQ_URL", "x")], &["archive", "save", "--queue", "dlq"]);
    assert!(
        told[0].starts_with("SQS_QUEUE_URL (--queue-url)") && told[1].starts_with("SQS_DLQ_URL (--dlq-url)"),
        "{told:?}"
    );
}

#[test]
fn an_inspection_receives_only_what_it_is_told_to() {
    let order = |env: &[(&str, &str)], argv: &[&str]| match with(env, argv).unwrap().order {
        Order::Inspect(config) => *config,
        _ => panic!("{argv:?}"),
    };
    let plain = order(&[("OPENSEARCH_ENDPOINT", "")], &["inspect"]);
    let expected = InspectConfig {
        since: None,
        until: None,
        sample: None,
        most: 10_000,
        message_id: None,
        html: None,
        queue_url: QUEUE.into(),
        dlq_url: None,
        tenant_from: TenantFrom::Prefix(1),
        namespace: Namespace::parse("default").unwrap(),
    };
    assert_eq!(plain, expected);
    let env = [("TENANT_FROM", "message-group"), ("NAMESPACE", "prod")];
    let argv = ["inspect", "--since", "3d", "--until", "1h", "--sample", "500", "--read", "7", "--html", "a.html"];
    let InspectConfig { since, until, sample, most, html, tenant_from, namespace, .. } = order(&env, &argv);
    let day = Duration::from_secs(86_400);
    assert_eq!((since, until), (Some(When::Ago(3 * day)), Some(When::Ago(day / 24))));
    assert_eq!((sample, most, html), (Some(500), 7, Some("a.html".into())));
    assert_eq!((tenant_from, namespace.as_str()), (TenantFrom::MessageGroup, "prod"));
    assert_eq!(order(&[], &["inspect", "--message-id", "m"]).message_id.as_deref(), Some("m"));
    let told = mistakes(&[("SQS_QUEUE_URL", ""), ("TENANT_FROM", "x")], &["inspect"]);
    assert!(told[0].starts_with("SQS_QUEUE_URL") && told[1].starts_with("TENANT_FROM"), "{told:?}");
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
        &["redrive", "archive"],
        &["redrive", "archive", "--remove"],
        &["redrive", "archive", "save"],
        &["redrive", "archive", "--queue", "other"],
        &["redrive", "archive", "--queue", "main", "list"],
        &["redrive", "archive", "restore"],
        &["redrive", "archive", "restore", "--dry-run"],
        &["redrive", "archive", "show"],
        &["redrive", "inspect", "--sample", "0"],
        &["redrive", "inspect", "--sample", "1001"],
        &["redrive", "inspect", "--message-id", "m", "--html", "f"],
        &["redrive", "archive", "list", "--since", "yesterday"],
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
