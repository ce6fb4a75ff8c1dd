//! `redrive reconcile`, `reprocess`, `purge-tombstones` and `search` as an operator runs them.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use opensearch::http::Method;
use quittance::clock::SystemClock;
use quittance::index::opensearch::{Auth, OpenSearchIndex, OpenSearchSettings};
use quittance::message::Namespace;
use quittance::store::s3::{self, S3Store};
use quittance::upkeep::Ended;
use quittance::upkeep::purge::{Purge, Report, Sink};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::process::Output;
use crate::search::endpoint;
use crate::waiting::{LONG, eventually, holds};
use crate::world::{NAMESPACE, World, text_files};

/// The last line of stdout, and the findings before it.
fn report(output: &Output) -> (Value, Vec<Value>) {
    let mut lines: Vec<Value> =
        output.stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{output:?}"))).collect();
    let last = lines.pop().unwrap_or_else(|| panic!("{output:?}"));
    (last["report"].clone(), lines)
}

/// Waits until a look finds nothing.
async fn in_step(world: &World) {
    eventually("nothing to repair", LONG, async || {
        let output = world.launch().redrive(&["reconcile", "--min-age", "0", "--json"]);
        holds(output.code == 0 && report(&output).0["parked"] == 0, output)
    })
    .await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_full_bucket_is_backfilled_and_what_gets_out_of_step_is_found_and_repaired() {
    let world = World::silent().await;
    let files = text_files(12);
    world.put_all(&files).await;
    let dry = world.launch().redrive(&["reprocess", "--dry-run"]);
    assert_eq!((dry.code, world.depth(&world.queue).await), (0, (0, 0, 0)), "{dry:?}");
    assert!(dry.stdout.contains("12 would be sent"), "{dry:?}");
    let sent = world.launch().redrive(&["reprocess", "--json"]);
    assert_eq!((sent.code, report(&sent).0["sent"].as_u64()), (0, Some(12)), "{sent:?}");
    let mut worker = world.launch().start().await;
    world.finds_exactly(files.keys().map(String::as_str)).await;
    world.emptied().await;
    assert_eq!(worker.stop().await.of("done"), 12);
    in_step(&world).await;

    // Damage of every kind, behind everybody's back.
    let key = |n: usize| format!("batch/{n:03}.txt");
    world.put(&key(0), "overwritten").await;
    world.remove(&key(1)).await;
    let lose_record = async |n| {
        world.s3.delete_object().bucket(&world.results).key(world.record_key(&key(n))).send().await.unwrap();
    };
    let lose_document = async |n| {
        // At its revision: a plain delete counts one up, and for a minute the index would know better than the record.
        let (_, metadata) = world.record(&key(n)).await.unwrap();
        let version = format!("version={}&version_type=external_gte", metadata["revision"]);
        let path = format!("/{}/_doc/{}?{version}", world.search.alias, world.document_id(&key(n)));
        assert_eq!(world.search.ask(Method::Delete, &path, None).await.0, 200);
    };
    lose_record(2).await;
    lose_document(3).await;
    lose_record(4).await;
    world.remove(&key(4)).await;
    world.put("new 日本.txt", "nobody heard").await;
    world.search.keys().await; // refreshes the index: until then a look at it is a moment old
    let look = world.launch().redrive(&["reconcile", "--min-age", "0", "--json"]);
    let (counts, findings) = report(&look);
    assert_eq!(look.code, 3, "{look:?}");
    let found: BTreeSet<(String, String)> = findings
        .iter()
        .map(|one| (one["key"].as_str().unwrap().to_owned(), one["finding"].as_str().unwrap().to_owned()))
        .collect();
    let expected = [
        (key(0), "stale_record"),
        (key(1), "orphaned_record"),
        (key(2), "missing_record"),
        (key(3), "missing_document"),
        (key(4), "orphaned_document"),
        ("new 日本.txt".to_owned(), "missing_record"),
    ];
    assert_eq!(found, expected.map(|(key, finding)| (key, finding.to_owned())).into());
    assert_eq!((&counts["missing"], &counts["stale"], &counts["orphaned"]), (&3.into(), &1.into(), &2.into()));
    // One line for a timer to watch.
    let lines: Vec<Value> = look.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["event"], &lines[0]["stale"]), (1, &"reconciled".into(), &1.into()), "{look:?}");
    assert_eq!((&lines[0]["namespace"], &lines[0]["complete"]), (&NAMESPACE.into(), &true.into()));

    let repaired = world.launch().redrive(&["reconcile", "--min-age", "0", "--repair"]);
    assert_eq!(repaired.code, 0, "{repaired:?}");
    assert!(repaired.stdout.contains("5 by message, 1 parked; 0 left"), "{repaired:?}");
    assert_eq!(world.depth(&world.queue).await, (5, 0, 0));
    let mut worker = world.launch().start().await;
    world.emptied().await;
    in_step(&world).await;
    let mut left: BTreeSet<String> = files.keys().cloned().collect();
    left.remove(&key(1));
    left.remove(&key(4));
    left.insert("new 日本.txt".to_owned());
    world.finds_exactly(left).await;
    world.finds("overwritten", &key(0)).await;
    world.dlq_is_empty().await;
    worker.stop().await;

    let hits = world.launch().redrive(&["search", "nobody", "heard", "--json"]);
    let hits: Value = serde_json::from_str(&hits.stdout).unwrap();
    assert_eq!(hits["hits"][0]["key"], "new 日本.txt", "{hits}");
    let shown = world.launch().redrive(&["search", "overwritten"]);
    assert!(shown.code == 0 && shown.stdout.contains("**overwritten**"), "{shown:?}");
    assert!(world.launch().redrive(&["search", "n001x"]).stdout.contains("nothing was found"), "it was removed");
    let nowhere = world.launch().set("OPENSEARCH_INDEX", "no-such-index").redrive(&["search", "x"]);
    assert_eq!((nowhere.code, nowhere.stderr.lines().count()), (75, 1), "{nowhere:?}");
    assert!(nowhere.stderr.contains("no-such-index-search is missing"), "{nowhere:?}");
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn an_interrupted_reprocess_finishes_its_batch_and_says_how_to_go_on() {
    let world = World::silent().await;
    let files = text_files(40);
    world.put_all(&files).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_redrive"));
    command.args(["reprocess", "--rate", "2"]).env_clear().envs(&world.launch().environment);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("some messages", LONG, async || {
        let depth = world.depth(&world.queue).await;
        holds(depth.0 >= 4, depth)
    })
    .await;
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    let ended = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(130), "{stderr}");
    let sent = world.depth(&world.queue).await.0 as usize;
    assert!(sent < 40, "{sent}");
    let last = format!("batch/{:03}.txt", sent - 1);
    assert!(stderr.contains(&format!("--resume-from '{last}'")), "{stderr}");
    let rest = world.launch().redrive(&["reprocess", "--resume-from", &last]);
    assert_eq!((rest.code, world.depth(&world.queue).await.0), (0, 40), "each once: {rest:?}");
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn what_writes_obeys_the_pause_before_it_begins_and_while_it_runs() {
    let world = World::silent().await;
    let files = text_files(40);
    world.put_all(&files).await;
    let redrive = |arguments: &[&str]| world.launch().redrive(arguments);
    let pause = ["pause", "--reason", "incident 7", "--by", "ada"];
    assert_eq!(redrive(&pause).code, 0);
    for writes in [&["reprocess"][..], &["reconcile", "--repair"], &["purge-tombstones", "--older-than", "45d"]] {
        let refused = redrive(writes);
        assert!(refused.code == 4 && refused.stdout.contains("paused by ada"), "{writes:?}: {refused:?}");
        assert!(refused.stdout.contains("to go on: redrive resume"), "{refused:?}");
        let told: Value = serde_json::from_str(&redrive(&[writes, &["--json"]].concat()).stdout).unwrap();
        assert_eq!((&told["ended"], &told["paused_by"]), (&"refused".into(), &"ada".into()), "{writes:?}");
    }
    for (looks, code) in [(&["reprocess", "--dry-run"][..], 0), (&["reconcile", "--min-age", "0"], 3)] {
        let look = redrive(looks);
        assert_eq!(look.code, code, "to look is no work: {look:?}");
    }
    assert_eq!(world.depth(&world.queue).await, (0, 0, 0));
    redrive(&["resume"]);
    let child = world.launch().spawn_redrive(&["reprocess", "--rate", "2"]);
    eventually("some messages", LONG, async || {
        let depth = world.depth(&world.queue).await;
        holds(depth.0 >= 4, depth)
    })
    .await;
    assert_eq!(redrive(&pause).code, 0);
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(3), "{stderr}");
    let sent = world.depth(&world.queue).await.0 as usize;
    assert!(sent < 40, "{sent}");
    let last = format!("batch/{:03}.txt", sent - 1);
    let on = format!("redrive resume, then redrive reprocess --bucket {} --resume-from '{last}'", world.source);
    assert!(stderr.contains("paused meanwhile") && stderr.contains(&on), "{stderr}");
    redrive(&["resume"]);
    let rest = redrive(&["reprocess", "--resume-from", &last]);
    assert_eq!((rest.code, world.depth(&world.queue).await.0), (0, 40), "each once: {rest:?}");
}

struct Silent;

impl Sink for Silent {
    fn unclear(&mut self, name: &str, why: &str) {
        panic!("{name}: {why}");
    }
    fn progress(&mut self, _: &Report) {}
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_tombstone_leaves_the_index_and_on_localstack_its_record_stays() {
    let world = World::new().await;
    world.put("a.txt", "removed soon").await;
    world.put("b.txt", "stays").await;
    let mut worker = world.launch().start().await;
    world.finds_exactly(["a.txt", "b.txt"]).await;
    world.remove("a.txt").await;
    world.finds_exactly(["b.txt"]).await;
    world.emptied().await;
    worker.stop().await;
    let young = world.launch().redrive(&["purge-tombstones", "--older-than", "45d"]);
    assert!(young.code == 0 && young.stdout.starts_with("0 old tombstones among 2 records"), "{young:?}");
    let hasty = world.launch().redrive(&["purge-tombstones", "--older-than", "7d"]);
    assert_eq!(hasty.code, 78, "{hasty:?}");

    // LocalStack's objects cannot be made old: the run itself, with another age.
    let aws = quittance::aws::load().await;
    let index = OpenSearchIndex::new(OpenSearchSettings {
        endpoint: endpoint(),
        index: world.search.alias.clone(),
        auth: Auth::None,
        request_timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(2),
    });
    let purge = Purge {
        store: Arc::new(S3Store::new(s3::client(&aws))),
        catalogue: Arc::new(index.unwrap()),
        namespace: Namespace::parse(NAMESPACE).unwrap(),
        results_bucket: world.results.clone(),
        older_than: Duration::ZERO,
        dry_run: false,
        clock: Arc::new(SystemClock),
        stop: tokio_util::sync::CancellationToken::new(),
    };
    let report = purge.run(&mut Silent).await;
    assert_eq!((report.ended, report.tally.tombstones), (Ended::Complete, 1));
    assert_eq!(world.search.stored(&world.document_id("a.txt")).await, None);
    assert!(world.search.stored(&world.document_id("b.txt")).await.is_some());
    match report.unsupported {
        None => assert_eq!((report.tally.purged, world.record("a.txt").await.is_some()), (1, false)),
        Some(_) => assert_eq!((report.tally.records_left, world.record("a.txt").await.is_some()), (1, true)),
    }
    in_step(&world).await;
}
