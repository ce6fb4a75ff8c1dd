//! What is shipped round the binary, as test input: unit, policy, build profiles.
//!
//! The sample environment file is in `tests/config.rs`, beside the settings it explains.

// Clippy exempts test functions only, not the functions they share.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use quittance::config::{Args, Surroundings, WorkerConfig};
use quittance::message::{DocumentId, MessageId, Namespace};
use quittance::shutdown::SETTLE_MARGIN;
use quittance::store::layout;
use serde_json::Value;

const UNIT: &str = include_str!("../systemd/quittance-worker.service");
const POLICY: &str = include_str!("../deploy/iam-worker-policy.json");
const REDRIVE: &str = include_str!("../deploy/iam-redrive-policy.json");
const TRACE: &str = include_str!("../deploy/iam-trace-policy.json");
const UPKEEP: &str = include_str!("../deploy/iam-upkeep-policy.json");
const MIGRATE: &str = include_str!("../deploy/iam-migrate-policy.json");
const ARCHIVE: &str = include_str!("../deploy/iam-archive-policy.json");
const OPERATOR: &str = include_str!("../deploy/iam-operator-policy.json");
const CARGO: &str = include_str!("../Cargo.toml");

/// All values of a key of the unit, in order.
fn unit(key: &str) -> Vec<&'static str> {
    UNIT.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn the_stop_fits_into_the_units_time() {
    let config = |visibility: &str| {
        let env = |name: &str| {
            let text = match name {
                "SQS_QUEUE_URL" => "https://sqs.eu-central-1.amazonaws.com/111122223333/files",
                "S3_BUCKET" => "results",
                "SOURCE_BUCKETS" => "incoming",
                "SKIP_OPENSEARCH" => "true",
                "SQS_VISIBILITY_TIMEOUT" => visibility,
                _ => return None,
            };
            Some(text.to_owned())
        };
        let args = Args::read(["worker"]).unwrap_or_else(|usage| panic!("{usage}"));
        WorkerConfig::from_args(&args, &Surroundings { env: &env, stderr_is_terminal: false, cores: 1 }).unwrap()
    };
    let stop: u64 = unit("TimeoutStopSec")[0].parse().expect("plain seconds");
    // 43,200 s: the longest lease has the longest poll.
    for visibility in ["", "10", "43200"] {
        let config = config(visibility);
        let needed = config.drain_timeout + config.poll_wait() + SETTLE_MARGIN;
        assert!(Duration::from_secs(stop) >= needed, "TimeoutStopSec={stop}, but a stop may take {needed:?}");
    }
}

#[test]
fn the_unit_has_what_reliability_rests_on() {
    for (key, value) in [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("Restart", "always"),
        ("StartLimitIntervalSec", "0"), // P20
        ("KillSignal", "SIGTERM"),
        ("KillMode", "mixed"),     // P15
        ("OOMPolicy", "continue"), // P13
        ("LimitCORE", "0"),        // T9
        ("LogRateLimitIntervalSec", "0"),
        ("EnvironmentFile", "/etc/quittance/worker.env"),
        ("ExecStart", "/usr/bin/quittance-worker run"),
        ("ExecReload", "/bin/kill -HUP $MAINPID"),
        ("WatchdogSec", "60"), // P16
    ] {
        assert_eq!(unit(key), [value], "{key}");
    }
    // Taken away with @resources, given back for the child's limits; the order matters.
    assert_eq!(unit("SystemCallFilter"), ["@system-service", "~@privileged @resources", "prlimit64 setrlimit"]);
}

/// All units and timers: name and text.
fn all_units() -> BTreeMap<String, String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(&path).unwrap()))
        .collect()
}

#[test]
fn systemd_accepts_the_units_and_finds_them_hardened() {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        eprintln!("skipped: there is no systemd-analyze on this machine");
        return;
    };
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let folder = tempfile::tempdir().unwrap();
    let units = all_units();
    assert_eq!(units.len(), 8, "{:?}", units.keys());
    for (name, text) in &units {
        // The binaries are not installed where tests run, and that is all that may be missing.
        let text =
            text.replace("/usr/bin/quittance-worker", "/bin/sh").replace("/usr/bin/quittance-redrive", "/bin/sh");
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    for name in units.keys() {
        let path = folder.path().join(name.replace("@.", "@1."));
        if name.contains("@.") {
            std::fs::copy(folder.path().join(name), &path).unwrap();
        }
        for words in [&["verify"][..], &["security", "--offline=true", "--threshold=15"]] {
            if words[0] == "security" && name.ends_with(".timer") {
                continue;
            }
            let output = Command::new("systemd-analyze").args(words).arg(&path).output().unwrap();
            let said =
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success(), "{name}: {words:?} of {version}: {said}");
            assert!(
                words[0] != "verify" || said.trim().is_empty(),
                "{name}: a warning, such as of an unknown key: {said}"
            );
        }
    }
}

#[test]
fn the_template_is_the_unit_but_for_what_each_instance_has_of_its_own() {
    let units = all_units();
    let lines = |name: &str| -> Vec<String> {
        let text = units[name].lines().filter(|line| !line.starts_with('#') && !line.contains("worker-%i.env"));
        text.map(|line| line.replace(" (%i)", "").replace("-%i", "")).collect()
    };
    assert_eq!(lines("quittance-worker@.service"), lines("quittance-worker.service"));
    assert!(units["quittance-worker@.service"].contains("EnvironmentFile=-/etc/quittance/worker-%i.env"));
}

#[test]
fn what_an_operator_would_do_by_hand_has_a_timer_that_is_off_until_somebody_enables_it() {
    let units = all_units();
    for (name, when) in [("redrive", "hourly"), ("reconcile", "*-*-* 03:00:00"), ("report", "Mon *-*-* 06:00:00")] {
        let service = &units[&format!("quittance-{name}.service")];
        let timer = &units[&format!("quittance-{name}.timer")];
        assert!(timer.contains(&format!("\nOnCalendar={when}\n")) && timer.contains("\nPersistent=true\n"), "{timer}");
        // Only its timer starts it, and only when that is enabled.
        assert!(!service.contains("[Install]") && timer.ends_with("[Install]\nWantedBy=timers.target\n"), "{service}");
        assert!(
            service.contains("\nType=oneshot\n") && service.contains("\nAWS_PROFILE=quittance-redrive\n".trim_start())
        );
        let command =
            service.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/quittance-redrive ")).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_redrive")).args(command.split(' ')).env_clear().output().unwrap();
        // Configured by nothing it must know the words: 78 for what is missing, and not 64.
        assert_eq!(output.status.code(), Some(78), "{name}: {output:?}");
    }
}

#[test]
fn the_samples_beside_the_workers_name_what_there_is() {
    let names = |text: &'static str| -> BTreeSet<&'static str> {
        let lines = text.lines().filter_map(|line| line.strip_prefix('#').unwrap_or(line).split_once('='));
        lines.map(|(name, _)| name).filter(|name| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')).collect()
    };
    let limits = names(include_str!("../deploy/limits.env"));
    assert_eq!(limits, quittance::config::RELOADABLE.into_iter().collect());
    let help = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_redrive")).args(words).arg("--help").output().unwrap();
        String::from_utf8(output.stdout).unwrap().replace("[env:\n", "[env: ")
    };
    let known = help(&[]) + &help(&["reconcile"]);
    let known: String = known.split_whitespace().collect::<Vec<_>>().join(" ");
    for name in names(include_str!("../deploy/redrive.env")) {
        assert!(known.contains(&format!("[env: {name}]")), "{name}");
    }
}

#[test]
fn a_panic_unwinds_in_every_profile() {
    let mut profiles: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut section = "";
    for line in CARGO.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if section.starts_with("profile.") {
            profiles.entry(section).or_default().push(line.split('#').next().unwrap_or_default().trim());
        }
    }
    assert!(profiles.contains_key("profile.dev") && profiles.contains_key("profile.release"), "{profiles:?}");
    for (profile, lines) in profiles {
        let settings: Vec<_> = lines.iter().filter(|line| line.starts_with("panic")).collect();
        // Package and build overrides cannot set it; what inherits has it from its parent.
        let inherits = lines.iter().any(|line| line.starts_with("inherits")) || profile.matches('.').count() > 1;
        assert!(settings == [&"panic = \"unwind\""] || (settings.is_empty() && inherits), "[{profile}]: {settings:?}");
    }
}

/// The worker's policy.
fn statements() -> Vec<Value> {
    statements_of(POLICY, &[])
}

/// A policy's statements, with its placeholders filled in; it has all but these.
fn statements_of(policy: &str, without: &[&str]) -> Vec<Value> {
    let mut text = policy.to_owned();
    for (placeholder, value) in [
        ("REGION", "eu-central-1"),
        ("ACCOUNT", "111122223333"),
        ("MAIN_QUEUE", "files"),
        ("DEAD_LETTER_QUEUE", "files-dlq"),
        ("SOURCE_BUCKET", "incoming"),
        ("SOURCE_PREFIX", "in/"),
        ("RESULTS_BUCKET", "results"),
        ("NAMESPACE", "default"),
        ("DOMAIN", "search"),
        ("INDEX", "files"),
        ("KMS_KEY", "k"),
    ] {
        assert_eq!(text.contains(&format!("${{{placeholder}}}")), !without.contains(&placeholder), "{placeholder}");
        text = text.replace(&format!("${{{placeholder}}}"), value);
    }
    assert!(!text.contains('$'), "a placeholder that this test does not know");
    let policy: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(policy["Version"], "2012-10-17");
    policy["Statement"].as_array().unwrap().clone()
}

/// A string or a list of strings.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(list) => list.iter().map(|text| text.as_str().unwrap()).collect(),
        Value::Null => Vec::new(),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => panic!("{value}"),
    }
}

/// IAM's `*`, over any characters.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text
            .strip_prefix(start)
            .is_some_and(|tail| (0..=tail.len()).any(|at| tail.is_char_boundary(at) && matches(rest, &tail[at..]))),
    }
}

/// The worker's right.
fn allowed(action: &str, resource: &str) -> bool {
    allows(&statements(), action, resource)
}

/// IAM's verdict: some Allow and no Deny. Conditions are taken as met.
fn allows(statements: &[Value], action: &str, resource: &str) -> bool {
    let applies = |statement: &&Value| {
        let any = |key: &str, text: &str| texts(&statement[key]).iter().any(|pattern| matches(pattern, text));
        assert!(statement["NotAction"].is_null(), "{statement}");
        let covered =
            if statement["NotResource"].is_null() { any("Resource", resource) } else { !any("NotResource", resource) };
        any("Action", action) && covered
    };
    let effects: Vec<_> = statements.iter().filter(applies).map(|statement| statement["Effect"].clone()).collect();
    effects.iter().any(|effect| effect == "Allow") && !effects.iter().any(|effect| effect == "Deny")
}

#[test]
fn the_policy_grants_no_wildcard() {
    for statement in statements().iter().filter(|statement| statement["Effect"] == "Allow") {
        let wild = |text: &&str| text.contains('*');
        assert!(!texts(&statement["Action"]).iter().any(wild), "{statement}");
        assert!(statement["NotResource"].is_null(), "{statement}");
        for resource in texts(&statement["Resource"]) {
            // Up to the queue, bucket, domain or key everything is named.
            let (owner, _) = resource.split_once('/').unwrap_or((resource, ""));
            assert!(resource.starts_with("arn:aws:") && !owner.contains('*'), "{resource}");
        }
    }
}

#[test]
fn deleting_objects_is_granted_by_one_statement_only() {
    // The denial would hide a second one: a policy must not lean on it.
    let grants: Vec<_> = statements()
        .iter()
        .filter(|statement| statement["Effect"] == "Allow")
        .filter(|statement| texts(&statement["Action"]).iter().any(|action| action.starts_with("s3:Delete")))
        .map(|statement| statement["Sid"].clone())
        .collect();
    assert_eq!(grants, ["RemoveWhatIsReplayed"]);
}

#[test]
fn the_policy_allows_what_the_worker_does_and_nothing_that_destroys() {
    let namespace = Namespace::parse("default").unwrap();
    let other = Namespace::parse("other").unwrap();
    let document = DocumentId::of(&namespace, "incoming", "in/a.txt");
    let message = MessageId("0b1a".into());
    let results = |key: &str| format!("arn:aws:s3:::results/{key}");
    let record = results(&layout::record(&namespace, &document));
    let parked = results(&layout::parked("2026-11-22", &namespace, &document, 1));
    let errored = results(&layout::errored("2026-11-22", &namespace, &document, 1));
    let attempts = results(&layout::attempts(&namespace, &message));
    let envelope = results(&layout::envelope("2026-11-22", &message));
    let source = "arn:aws:s3:::incoming/in/a.txt";
    let main = "arn:aws:sqs:eu-central-1:111122223333:files";
    let dlq = "arn:aws:sqs:eu-central-1:111122223333:files-dlq";
    let index = |path: &str| format!("arn:aws:es:eu-central-1:111122223333:domain/search/{path}");
    let (get, put, delete) = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject");

    let mut cases: Vec<(&str, String, bool)> = vec![
        ("s3:ListBucket", "arn:aws:s3:::incoming".into(), true),
        ("s3:ListBucket", "arn:aws:s3:::results".into(), true),
        (get, source.into(), true),
        (get, "arn:aws:s3:::incoming/private/a.txt".into(), false),
        (put, source.into(), false),
        (delete, source.into(), false),
        ("s3:DeleteObjectVersion", source.into(), false),
        (delete, record.clone(), false),
        (delete, attempts.clone(), false),
        (delete, envelope.clone(), false),
        (delete, parked.clone(), true),
        (delete, errored.clone(), true),
        ("s3:DeleteObjectVersion", parked.clone(), false),
        (delete, results("control/check-1"), true),
        (put, results("control/check-1"), true),
        (put, results("control/replay.json"), true),
        (get, results(layout::PAUSE), true),
        (get, results(&layout::probe(&namespace)), true),
        (put, results(&layout::probe(&namespace)), true),
        (put, results(&layout::probe(&other)), false),
        (delete, results(&layout::probe(&namespace)), false),
        (put, results(layout::PAUSE), false),
        (delete, results(layout::PAUSE), false),
        (get, results(&layout::record(&other, &document)), false),
        (put, results("redrive/run/0001.ndjson"), false),
        (put, results("elsewhere"), false),
        ("s3:PutBucketPolicy", "arn:aws:s3:::results".into(), false),
        ("sqs:SendMessage", main.into(), false), // it cannot make a loop
        ("sqs:SendMessage", dlq.into(), true),
        ("sqs:ReceiveMessage", dlq.into(), false),
        ("sqs:DeleteMessage", dlq.into(), false),
        ("es:ESHttpPost", index("files/_bulk"), true),
        ("es:ESHttpPost", index("_analyze"), true),
        ("es:ESHttpPost", index("_aliases"), false),
        ("es:ESHttpPost", index("_bulk"), false),
        ("es:ESHttpPost", index("other/_bulk"), false),
        ("es:ESHttpPost", index("files/_delete_by_query"), false),
        ("es:ESHttpDelete", index("files-000001"), false),
        ("es:ESHttpPut", index("files-000001"), true),
        ("es:ESHttpHead", index("_alias/files"), true),
        ("es:ESHttpGet", index("_alias/files-search"), true),
    ];
    for action in ["ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility", "GetQueueAttributes"] {
        let action: &str = Box::leak(format!("sqs:{action}").into_boxed_str());
        cases.push((action, main.into(), true));
    }
    for action in ["sqs:PurgeQueue", "sqs:DeleteQueue", "sqs:SetQueueAttributes", "sqs:AddPermission"] {
        cases.extend([(action, main.into(), false), (action, dlq.into(), false)]);
    }
    for key in [record, parked, errored, attempts, envelope] {
        cases.extend([(get, key.clone(), true), (put, key, true)]);
    }
    for (action, resource, expected) in cases {
        assert_eq!(allowed(action, &resource), expected, "{action} on {resource}");
    }
}

#[test]
fn the_operators_policy_allows_to_pause_and_resume_and_nothing_else() {
    let absent = ["MAIN_QUEUE", "DEAD_LETTER_QUEUE", "SOURCE_BUCKET", "SOURCE_PREFIX", "NAMESPACE", "DOMAIN", "INDEX"];
    let statements = statements_of(OPERATOR, &absent);
    let results = |key: &str| format!("arn:aws:s3:::results/{key}");
    let every = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"];
    for (key, expected) in [(layout::PAUSE, true), ("control/replay.json", false), ("processed/default/a", false)] {
        for action in every {
            assert_eq!(allows(&statements, action, &results(key)), expected, "{action} on {key}");
        }
    }
    // Without it a bucket where nobody has paused answers 403.
    assert!(allows(&statements, "s3:ListBucket", "arn:aws:s3:::results"));
    assert!(!allows(&statements, "sqs:ReceiveMessage", "arn:aws:sqs:eu-central-1:111122223333:files"));
}

#[test]
fn the_archives_policy_moves_messages_and_touches_no_file_record_or_document() {
    let statements = statements_of(ARCHIVE, &["SOURCE_BUCKET", "SOURCE_PREFIX", "DOMAIN", "INDEX"]);
    let namespace = Namespace::parse("default").unwrap();
    let document = DocumentId::of(&namespace, "incoming", "in/a.txt");
    let results = |key: &str| format!("arn:aws:s3:::results/{key}");
    let letter = |queue| results(&layout::archived(queue, "2026-11-22", &MessageId("0b1a".into())));
    let record = results(&layout::record(&namespace, &document));
    let (get, put, delete) = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject");
    let main = "arn:aws:sqs:eu-central-1:111122223333:files";
    let mut cases = vec![
        ("sqs:SendMessage", main.to_owned(), true),
        ("sqs:SendMessage", format!("{main}-dlq"), false),
        ("sqs:PurgeQueue", main.to_owned(), false),
        ("sqs:SetQueueAttributes", main.to_owned(), false),
        ("sqs:ReceiveMessage", format!("{main}-others"), false),
        ("s3:ListBucket", "arn:aws:s3:::results".to_owned(), true),
        ("s3:ListBucket", "arn:aws:s3:::incoming".to_owned(), false),
        (get, results(layout::PAUSE), true),
        (put, results(layout::PAUSE), false),
        (get, results(&layout::errored("2026-11-22", &namespace, &document, 1)), true),
        (delete, results(&layout::errored("2026-11-22", &namespace, &document, 1)), false),
        (get, "arn:aws:s3:::incoming/in/a.txt".to_owned(), false),
        (get, record.clone(), false),
        (put, record.clone(), false),
        (delete, record, false),
    ];
    for queue in ["dlq", "main"] {
        cases.extend([(get, letter(queue), true), (put, letter(queue), true), (delete, letter(queue), true)]);
    }
    for action in ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes"] {
        cases.extend([(action, main.to_owned(), true), (action, format!("{main}-dlq"), true)]);
    }
    for (action, resource, expected) in cases {
        assert_eq!(allows(&statements, action, &resource), expected, "{action} on {resource}");
    }
}

#[test]
fn the_upkeep_policy_sends_work_and_forgets_tombstones_and_writes_no_record() {
    let statements = statements_of(UPKEEP, &["DEAD_LETTER_QUEUE"]);
    let namespace = Namespace::parse("default").unwrap();
    let document = DocumentId::of(&namespace, "incoming", "in/a.txt");
    let results = |key: &str| format!("arn:aws:s3:::results/{key}");
    let record = results(&layout::record(&namespace, &document));
    let parked = results(&layout::parked("2026-11-22", &namespace, &document, 1));
    let errored = results(&layout::errored("2026-11-22", &namespace, &document, 1));
    let index = |path: &str| format!("arn:aws:es:eu-central-1:111122223333:domain/search/{path}");
    let (get, put, delete) = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject");
    let (main, source) = ("arn:aws:sqs:eu-central-1:111122223333:files", "arn:aws:s3:::incoming/in/a.txt");
    for (action, resource, expected) in [
        ("sqs:SendMessage", main.to_owned(), true),
        ("sqs:GetQueueAttributes", main.to_owned(), true),
        ("sqs:ReceiveMessage", main.to_owned(), false),
        ("sqs:SendMessage", format!("{main}-dlq"), false),
        ("s3:ListBucket", "arn:aws:s3:::incoming".to_owned(), true),
        ("s3:ListBucket", "arn:aws:s3:::results".to_owned(), true),
        (get, source.to_owned(), true),
        (put, source.to_owned(), false),
        (delete, source.to_owned(), false),
        (get, record.clone(), true),
        (put, record.clone(), false),
        (delete, record, true),
        (put, parked.clone(), true),
        (delete, parked, true),
        (put, errored.clone(), false),
        (delete, errored, true),
        (get, results(layout::PAUSE), true),
        (put, results(layout::PAUSE), false),
        (delete, results(layout::PAUSE), false),
        ("es:ESHttpPost", index("files/_search"), true),
        ("es:ESHttpPost", index("files/_mget"), true),
        ("es:ESHttpPost", index("files/_bulk"), true),
        ("es:ESHttpPost", index("files-search/_search"), true),
        ("es:ESHttpGet", index("files"), true),
        ("es:ESHttpDelete", index("files"), false),
    ] {
        assert_eq!(allows(&statements, action, &resource), expected, "{action} on {resource}");
    }
}

#[test]
fn the_policy_for_a_trace_looks_at_everything_and_changes_nothing() {
    let statements = statements_of(TRACE, &[]);
    let (namespace, message) = (Namespace::parse("default").unwrap(), MessageId("m".into()));
    let document = DocumentId::of(&namespace, "incoming", "in/a.txt");
    let queue = "arn:aws:sqs:eu-central-1:111122223333:files";
    let index = |path: &str| format!("arn:aws:es:eu-central-1:111122223333:domain/search/{path}");
    let keys = [
        layout::record(&namespace, &document),
        layout::parked("2026-11-22", &namespace, &document, 1),
        layout::errored("2026-11-22", &namespace, &document, 1),
        layout::attempts(&namespace, &message),
        layout::envelope("2026-11-22", &message),
    ];
    let objects = keys.iter().map(|key| format!("arn:aws:s3:::results/{key}"));
    for object in objects.chain(["arn:aws:s3:::incoming/in/a.txt".to_owned()]) {
        assert!(allows(&statements, "s3:GetObject", &object), "{object}");
    }
    for (action, resource, expected) in [
        ("s3:ListBucket", "arn:aws:s3:::incoming".to_owned(), true),
        ("s3:ListBucket", "arn:aws:s3:::results".to_owned(), true),
        ("es:ESHttpPost", index("files/_search"), true),
        ("es:ESHttpPost", index("files/_mget"), true),
        ("es:ESHttpPost", index("files-search/_search"), true),
        ("es:ESHttpPost", index("files/_bulk"), false),
        ("sqs:GetQueueAttributes", queue.to_owned(), true),
        ("sqs:ReceiveMessage", queue.to_owned(), false),
        ("sqs:GetQueueUrl", format!("{queue}-dlq"), true),
        ("sqs:GetQueueAttributes", format!("{queue}-dlq"), true),
        ("sqs:ReceiveMessage", format!("{queue}-dlq"), true),
        ("sqs:ChangeMessageVisibility", format!("{queue}-dlq"), true),
    ] {
        assert_eq!(allows(&statements, action, &resource), expected, "{action} on {resource}");
    }
    let granted: BTreeSet<&str> = statements.iter().flat_map(|statement| texts(&statement["Action"])).collect();
    let changes =
        |action: &&&str| ["Put", "Delete", "Send", "Purge", "Generate"].iter().any(|verb| action.contains(verb));
    assert_eq!(granted.iter().find(changes), None);
}

#[test]
fn the_policy_of_the_redrive_empties_the_dlq_and_writes_no_record() {
    let statements = statements_of(REDRIVE, &[]);
    let (namespace, message) = (Namespace::parse("default").unwrap(), MessageId("m".into()));
    let document = DocumentId::of(&namespace, "incoming", "in/a.txt");
    let results = |key: &str| format!("arn:aws:s3:::results/{key}");
    let queue = "arn:aws:sqs:eu-central-1:111122223333:files";
    let dlq = format!("{queue}-dlq");
    let record = results(&layout::record(&namespace, &document));
    let index = |path: &str| format!("arn:aws:es:eu-central-1:111122223333:domain/search/{path}");
    let (get, put, delete) = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject");
    for (action, resource, expected) in [
        ("sqs:ReceiveMessage", dlq.clone(), true),
        ("sqs:DeleteMessage", dlq.clone(), true),
        ("sqs:ChangeMessageVisibility", dlq.clone(), true),
        ("sqs:PurgeQueue", dlq.clone(), false),
        ("sqs:SendMessage", dlq, false),
        ("sqs:SendMessage", queue.to_owned(), true),
        ("sqs:ReceiveMessage", queue.to_owned(), false),
        ("sqs:DeleteMessage", queue.to_owned(), false),
        (get, "arn:aws:s3:::incoming/in/a.txt".to_owned(), true),
        (put, "arn:aws:s3:::incoming/in/a.txt".to_owned(), false),
        (get, record.clone(), true),
        (put, record.clone(), false),
        (delete, record, false),
        (put, results(&layout::parked("2026-11-22", &namespace, &document, 1)), true),
        (put, results(&layout::errored("2026-11-22", &namespace, &document, 1)), true),
        (put, results(&layout::envelope("2026-11-22", &message)), true),
        (put, results(&layout::redrive_part("run", 0)), true),
        (get, results(&layout::redrive_part("run", 0)), true), // a conflict is looked at
        (delete, results(&layout::redrive_part("run", 0)), false),
        (get, results(layout::PAUSE), true),
        (put, results(layout::PAUSE), false),
        ("es:ESHttpPost", index("files/_mget"), true),
        ("es:ESHttpPost", index("files/_bulk"), true),
        ("es:ESHttpGet", index("files"), true),
        ("es:ESHttpDelete", index("files"), false),
    ] {
        assert_eq!(allows(&statements, action, &resource), expected, "{action} on {resource}");
    }
}

#[test]
fn the_migrations_policy_fills_an_index_and_moves_aliases_and_deletes_nothing() {
    let absent = ["MAIN_QUEUE", "DEAD_LETTER_QUEUE", "SOURCE_BUCKET", "SOURCE_PREFIX", "NAMESPACE"];
    let statements = statements_of(MIGRATE, &absent);
    let namespace = Namespace::parse("default").unwrap();
    let document = DocumentId::of(&namespace, "incoming", "in/a.txt");
    let results = |key: &str| format!("arn:aws:s3:::results/{key}");
    let record = results(&layout::record(&namespace, &document));
    let errored = results(&layout::errored("2026-11-22", &namespace, &document, 1));
    let index = |path: &str| format!("arn:aws:es:eu-central-1:111122223333:domain/search/{path}");
    let (get, put, delete) = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject");
    for (action, resource, expected) in [
        ("s3:ListBucket", "arn:aws:s3:::results".to_owned(), true),
        (get, record.clone(), true),
        (put, record.clone(), false),
        (delete, record, false),
        (get, errored.clone(), true),
        (put, errored.clone(), true),
        (delete, errored, false),
        (get, "arn:aws:s3:::incoming/in/a.txt".to_owned(), false), // no source file is read
        (put, results(layout::PAUSE), false),
        ("es:ESHttpGet", index("files"), true),
        ("es:ESHttpGet", index("files/_alias"), true),
        ("es:ESHttpGet", index("files-search/_alias"), true),
        ("es:ESHttpGet", index("files-v*/_alias"), true),
        ("es:ESHttpGet", index("files-v1/_mapping"), true),
        ("es:ESHttpPut", index("files-v2"), true),
        ("es:ESHttpPut", index("files-v2/_mapping"), true),
        ("es:ESHttpPut", index("files"), false),
        ("es:ESHttpPost", index("_aliases"), true),
        ("es:ESHttpPost", index("_analyze"), true),
        ("es:ESHttpPost", index("files/_bulk"), true),
        ("es:ESHttpPost", index("files/_search"), true),
        ("es:ESHttpPost", index("files-next/_bulk"), true),
        ("es:ESHttpPost", index("files-next/_mget"), true),
        ("es:ESHttpPost", index("files/_delete_by_query"), false),
        ("es:ESHttpDelete", index("files-v1"), false),
    ] {
        assert_eq!(allows(&statements, action, &resource), expected, "{action} on {resource}");
    }
}

#[test]
fn the_policy_denies_for_good_what_another_policy_might_allow() {
    // Beside the worker's own policy somebody may attach a wider one: these stay denied.
    let with_admin = |action: &str, resource: &str| {
        let denied = |statement: &Value| {
            let any = |key: &str, text: &str| texts(&statement[key]).iter().any(|pattern| matches(pattern, text));
            statement["Effect"] == "Deny"
                && any("Action", action)
                && (any("Resource", resource) || (!statement["NotResource"].is_null() && !any("NotResource", resource)))
        };
        !statements().iter().any(denied)
    };
    let queue = "arn:aws:sqs:eu-central-1:111122223333:files";
    for (action, resource) in [
        ("sqs:PurgeQueue", queue),
        ("sqs:DeleteQueue", queue),
        ("sqs:SetQueueAttributes", queue),
        ("sqs:AddPermission", queue),
        ("s3:DeleteObject", "arn:aws:s3:::incoming/in/a.txt"),
        ("s3:DeleteObject", "arn:aws:s3:::incoming/retry-index/a.txt"),
        ("s3:DeleteObject", "arn:aws:s3:::results/processed/default/a.json"),
        ("s3:DeleteObjectVersion", "arn:aws:s3:::results/retry-index/a"),
        ("s3:PutBucketNotification", "arn:aws:s3:::incoming"),
        ("s3:PutLifecycleConfiguration", "arn:aws:s3:::results"),
        ("es:ESHttpDelete", "arn:aws:es:eu-central-1:111122223333:domain/search/files"),
    ] {
        assert!(!with_admin(action, resource), "{action} on {resource}");
    }
    // What the replay removes is not caught by the denial.
    assert!(with_admin("s3:DeleteObject", "arn:aws:s3:::results/retry-index/2026-11-22/default/x/1.json"));
}

/// What stands between backticks and begins with one of our programs; lines of its blocks too.
fn commands(text: &str) -> Vec<Vec<&str>> {
    let quoted = text.split('`').skip(1).step_by(2);
    let lines = quoted.flat_map(str::lines).map(|line| line.split('#').next().unwrap_or_default());
    let words = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    words.filter(|words| matches!(words.first(), Some(&("redrive" | "worker"))) && words.len() > 1).collect()
}

#[test]
fn every_command_of_the_runbook_is_one_there_is() {
    let runbook = include_str!("../deploy/RUNBOOK.md");
    let found = commands(runbook);
    assert!(found.len() > 40, "{found:?}");
    let mut helps: BTreeMap<Vec<&str>, String> = BTreeMap::new();
    for words in found {
        let program = if words[0] == "worker" { env!("CARGO_BIN_EXE_worker") } else { env!("CARGO_BIN_EXE_redrive") };
        let is_name =
            |word: &&&str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') && !word.starts_with('-');
        let names: Vec<&str> = words[1..].iter().take_while(|word| is_name(word)).copied().collect();
        let key: Vec<&str> = words[..1].iter().copied().chain(names.iter().copied()).collect();
        let help = helps.entry(key).or_insert_with(|| {
            let output = Command::new(program).args(&names).arg("--help").env_clear().output().unwrap();
            assert!(output.status.success(), "{words:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        });
        for flag in words.iter().filter(|word| word.starts_with("--") && **word != "--help") {
            let flag = flag.split('=').next().unwrap().trim_end_matches(['.', ',', ':', ';']);
            assert!(help.contains(flag), "{words:?}: no {flag} in its help");
        }
    }
}
