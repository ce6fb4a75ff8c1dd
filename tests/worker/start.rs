//! What a worker says and how it exits when something is not as it should be, and the commands beside `run`.

use serde_json::Value;

use crate::process::{Launch, Output};
use crate::world::World;

/// Exactly one line, without the log's own: what is wrong, its name, and what to do.
fn one_line(output: &Output, code: i32, says: &[&str]) {
    assert_eq!((output.code, output.stdout.as_str()), (code, ""), "{output:?}");
    assert_eq!(output.stderr.lines().count(), 1, "one line: {}", output.stderr);
    for text in says {
        assert!(output.stderr.contains(text), "{text:?} is not in: {}", output.stderr);
    }
}

#[test]
fn without_a_configuration_all_mistakes_are_told_at_once() {
    let output = Launch::bare().unset("AWS_ENDPOINT_URL").run(&[]);
    assert_eq!((output.code, output.stdout.as_str()), (78, ""), "{output:?}");
    for variable in ["SQS_QUEUE_URL", "S3_BUCKET", "SOURCE_BUCKETS", "OPENSEARCH_ENDPOINT"] {
        let lines: Vec<&str> = output.stderr.lines().filter(|line| line.contains(variable)).collect();
        assert!(!lines.is_empty(), "{variable} is not in: {}", output.stderr);
    }
}

#[test]
fn bad_usage_exits_64_and_help_exits_0() {
    let bare = Launch::bare();
    for wrong in [&["--no-such-flag"][..], &["no-such-command"]] {
        let output = bare.run(wrong);
        assert_eq!(output.code, 64, "{output:?}");
        assert!(output.stderr.contains(wrong[0]), "{output:?}");
    }
    for good in [&["--help"][..], &["check", "--help"], &["--version"]] {
        let output = bare.run(good);
        assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{output:?}");
    }
    assert!(bare.run(&["--help"]).stdout.contains("SQS_QUEUE_URL"));
}

#[test]
fn a_fifo_queue_exits_78_and_says_why() {
    let launch = Launch::bare()
        .unset("AWS_ENDPOINT_URL")
        .set("SQS_QUEUE_URL", "https://sqs.eu-central-1.amazonaws.com/000000000000/files.fifo")
        .set("S3_BUCKET", "results")
        .set("SOURCE_BUCKETS", "files")
        .set("OPENSEARCH_ENDPOINT", "http://127.0.0.1:9200");
    let output = launch.run(&[]);
    assert_eq!(output.code, 78, "{output:?}");
    assert!(output.stderr.contains("SQS_QUEUE_URL") && output.stderr.contains("FIFO"), "{output:?}");
}

#[test]
fn a1_8_a_results_bucket_that_is_a_source_exits_78_and_says_why() {
    let launch = Launch::bare()
        .unset("AWS_ENDPOINT_URL")
        .set("SQS_QUEUE_URL", "https://sqs.eu-central-1.amazonaws.com/000000000000/files")
        .set("OPENSEARCH_ENDPOINT", "http://127.0.0.1:9200")
        .set("S3_BUCKET", "files");
    for sources in ["files", "other,files/retry-index", "files/incoming"] {
        let output = launch.clone().set("SOURCE_BUCKETS", sources).run(&[]);
        assert_eq!(output.code, 78, "{output:?}");
        assert!(output.stderr.contains("S3_BUCKET") && output.stderr.contains("SOURCE_BUCKETS"), "{output:?}");
    }
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn what_is_not_there_exits_75_with_one_line_that_names_it() {
    let world = World::silent().await;
    let good = world.launch();
    let unknown = format!("{}-gone", world.queue);
    one_line(&good.clone().set("SQS_QUEUE_URL", &unknown).run(&[]), 75, &["SQS_QUEUE_URL", &unknown, "check"]);
    one_line(&good.clone().set("SQS_DLQ_URL", &unknown).run(&[]), 75, &["SQS_DLQ_URL", &unknown, "check"]);
    one_line(&good.clone().set("S3_BUCKET", "gone-results").run(&[]), 75, &["S3_BUCKET", "gone-results", "create"]);
    let sources = format!("{},gone-files", world.source);
    one_line(&good.clone().set("SOURCE_BUCKETS", sources).run(&[]), 75, &["SOURCE_BUCKETS", "gone-files", "create"]);
    // Nothing was received by any of them.
    assert_eq!(world.depth(&world.queue).await, (0, 0, 0));
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn the_dlq_is_found_by_the_redrive_policy_or_asked_for() {
    let world = World::silent().await;
    let mut worker = world.launch().start().await;
    assert_eq!(worker.fact("ready").await["dlq_url"], *world.dlq);
    worker.stop().await;

    let alone = crate::world::queue(&world.sqs, &format!("{}-alone", world.source), &[]).await;
    let output = world.launch().set("SQS_QUEUE_URL", alone).run(&[]);
    one_line(&output, 78, &["SQS_DLQ_URL", "redrive policy"]);
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn check_passes_a_good_world_and_fails_one_without_a_paired_dlq() {
    let world = World::new().await;
    let good = world.launch().run(&["check"]);
    assert_eq!(good.code, 0, "{}{}", good.stdout, good.stderr);

    let json = world.launch().run(&["check", "--json"]);
    let findings: Value = serde_json::from_str(&json.stdout).expect("JSON on stdout");
    assert_eq!(json.code, 0, "{findings:#}");

    let alone = crate::world::queue(&world.sqs, &format!("{}-alone", world.source), &[]).await;
    let unpaired = world.launch().set("SQS_QUEUE_URL", alone).set("SQS_DLQ_URL", &world.dlq);
    let output = unpaired.run(&["check"]);
    assert_eq!(output.code, 1, "{}", output.stdout);
    assert!(output.stdout.contains("dlq_pairing"), "{}", output.stdout);
    let output = unpaired.run(&["check", "--json"]);
    assert_eq!(output.code, 1, "{}", output.stdout);
    let findings = serde_json::from_str::<Value>(&output.stdout).expect("JSON on stdout").to_string();
    assert!(findings.contains("dlq_pairing") && findings.contains("RedrivePolicy"), "{findings}");
    let verdict = |output: &crate::process::Output, name: &str| {
        let report: Value = serde_json::from_str(&output.stdout).expect("JSON on stdout");
        let findings = report["findings"].as_array().unwrap().iter();
        findings.filter(|one| one["name"] == name).map(|one| one["verdict"].to_string()).collect::<Vec<_>>()
    };
    for name in ["credentials", "notification", "notification_loop", "results_lifecycle", "mapping", "clock"] {
        assert_eq!(verdict(&json, name), ["\"pass\""], "{name}: {}", json.stdout);
    }
    assert_ne!(verdict(&json, "disk"), Vec::<String>::new());
    // Before the start: told, or in the way; a dead index never is.
    let before =
        |how: &str| unpaired.clone().set("CHECK_BEFORE_START", how).run(&["check", "--before-start", "--json"]);
    assert_eq!(["warn", "fail", "off"].map(|how| before(how).code), [0, 1, 0]);
    assert_eq!(before("off").stdout, "");
    let dead = world.launch().set("OPENSEARCH_ENDPOINT", crate::outage::CLOSED_PORT).set("CHECK_BEFORE_START", "fail");
    let dead = dead.run(&["check", "--before-start", "--json"]);
    assert_eq!((dead.code, verdict(&dead, "index")), (0, vec!["\"fail\"".to_owned()]), "{}", dead.stdout);
    assert_eq!(verdict(&dead, "network_search"), ["\"fail\""], "{}", dead.stdout);
    assert!(dead.stdout.contains("refuses connections"), "{}", dead.stdout);
    // Looking leaves nothing behind.
    assert_eq!(world.results_under("").await, Vec::<String>::new());
    assert_eq!(world.depth(&world.queue).await, (0, 0, 0));
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn setup_index_may_be_run_again_and_changes_nothing() {
    let world = World::silent().await; // has run it once
    let before = world.search.ask(opensearch::http::Method::Get, &format!("/{}", world.search.alias), None).await;
    let again = world.launch().run(&["setup-index"]);
    assert_eq!(again.code, 0, "{again:?}");
    let words: Vec<&str> = again.stdout.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(!words.is_empty() && words.iter().all(|word| *word == "present"), "{}", again.stdout);
    let after = world.search.ask(opensearch::http::Method::Get, &format!("/{}", world.search.alias), None).await;
    assert_eq!(after, before);

    let skipped = world.launch().set("SKIP_OPENSEARCH", true).run(&["setup-index"]);
    one_line(&skipped, 78, &["SKIP_OPENSEARCH"]);
    let down = world.launch().set("OPENSEARCH_ENDPOINT", "http://127.0.0.1:1").run(&["setup-index"]);
    one_line(&down, 75, &["127.0.0.1:1"]);
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn check_deep_sends_a_canary_all_the_way_and_nothing_of_it_stays() {
    let world = World::new().await;
    let mut worker = world.launch().start().await;
    let launch = world.launch();
    let output = tokio::task::spawn_blocking(move || launch.run(&["check", "--deep", "--json"])).await.unwrap();
    assert_eq!(output.code, 0, "{}{}", output.stdout, output.stderr);
    let report: Value = serde_json::from_str(&output.stdout).expect("JSON on stdout");
    let canary: Vec<&str> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["verdict"] == "pass")
        .filter_map(|finding| finding["name"].as_str()?.strip_prefix("canary_"))
        .collect();
    assert_eq!(canary, ["queue", "record", "index", "hidden", "park", "replay", "gone"], "{report:#}");
    assert!(output.stderr.contains("waiting for a worker's replay"), "{}", output.stderr);
    worker.stop().await;
    assert_eq!(world.results_under("").await, vec!["control/replay.json".to_owned()]);
    assert_eq!(world.depth(&world.queue).await, (0, 0, 0));
    world.dlq_is_empty().await;
    let id = world.document_id(&format!("quittance-canary-{}", quittance::start::host()));
    assert_eq!(world.search.stored(&id).await, None);
}
