//! Newest wins (P8): a key overwritten, deleted and created again is in index and record what it is in the bucket.
//!
//! LocalStack gives every event the same sequencer and keeps no order, so it is always the object that decides.

use rustix::process::Signal;
use serde_json::Value;

use crate::waiting::{LONG, eventually, holds};
use crate::world::World;

const KEY: &str = "reports/会議 + notes.txt";

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn index_and_record_follow_a_key_that_is_overwritten_deleted_and_created_again() {
    let world = World::new().await;
    let mut worker = world.launch().start().await;
    let id = world.document_id(KEY);
    let revision = async || world.record(KEY).await.expect("a record").0["revision"].as_u64().unwrap();

    world.put(KEY, "The first text: heron.").await;
    world.finds("heron", KEY).await;
    let first = revision().await;

    world.put(KEY, "The second text: stork.").await;
    world.finds("stork", KEY).await;
    assert!(world.search.by_phrase("heron").await.is_empty());
    let second = revision().await;
    assert!(second > first, "{second} > {first}");

    world.remove(KEY).await;
    world.finds_exactly(Vec::<String>::new()).await;
    let (record, metadata) = world.record(KEY).await.expect("a tombstone");
    let third = record["revision"].as_u64().unwrap();
    assert!(third > second, "{third} > {second}");
    assert_eq!(record["document"]["deleted"], true);
    assert!(!metadata.contains_key("etag"), "a tombstone names no state of the source: {metadata:?}");
    for (whose, document) in [("record", &record["document"]), ("index", &world.search.stored(&id).await.unwrap())] {
        assert_eq!((&document["deleted"], &document["content"]), (&Value::Bool(true), &Value::Null), "{whose}");
        assert_eq!(document["sha256"], Value::Null, "{whose}");
    }
    let text = record.to_string();
    assert!(!text.contains("heron") && !text.contains("stork"), "deleted text is not kept: {text}");

    world.put(KEY, "The third text: crane.").await;
    world.finds("crane", KEY).await;
    assert!(revision().await > third);
    assert_eq!(world.search.stored(&id).await.unwrap()["deleted"], false);

    worker.settled(4).await;
    world.emptied().await;
    world.dlq_is_empty().await;
    worker.stop().await;
    // One document and one record, whatever happened to the key.
    assert_eq!(world.results_under("processed/").await, [world.record_key(KEY)]);
}

/// No waiting between the changes: their messages are in work at the same time, in two processes.
#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn many_quick_changes_of_some_keys_end_in_what_the_bucket_holds() {
    let world = World::new().await;
    // A file that is gone before it was read, and before its removal is recorded, is asked for again.
    let launch = world.launch().set("RETRY_BASE_SECONDS", 1);
    let mut workers = [launch.start().await, launch.start().await];
    let mut changes = 0;
    let keys: Vec<String> = (0..6).map(|n| format!("quick/{n}.txt")).collect();
    for round in 0..4 {
        for (n, key) in keys.iter().enumerate() {
            world.put(key, format!("Text of round {round}.")).await;
            changes += 1;
            if (n + round) % 3 == 0 {
                world.remove(key).await;
                changes += 1;
            }
        }
    }
    // A, B, A for one key: the etag comes back, the state in between must not stay.
    for text in ["Aba the first.", "Something in between.", "Aba the first."] {
        world.put("quick/aba.txt", text).await;
        changes += 1;
    }
    eventually("each change's message is deleted", LONG, async || {
        let settled: Vec<Value> = workers.iter().flat_map(|worker| worker.facts("message_settled")).collect();
        let deleted = settled.iter().filter(|fact| fact["settlement"] == "deleted").count();
        holds(deleted == changes, (deleted, changes))
    })
    .await;
    world.emptied().await;
    let mut expected: Vec<String> =
        keys.iter().enumerate().filter(|(n, _)| (n + 3) % 3 != 0).map(|(_, key)| key.clone()).collect();
    expected.push("quick/aba.txt".into());
    world.finds_exactly(expected.clone()).await;
    let texts = world.search.by_phrase("Text of round 3").await;
    assert_eq!(texts.len() + 1, expected.len(), "{texts:?}");
    world.finds("Aba the first", "quick/aba.txt").await;
    for key in &keys {
        let (record, _) = world.record(key).await.expect("a record");
        assert_eq!(record["document"]["deleted"], !expected.contains(key), "{key}");
        let indexed = world.search.stored(&world.document_id(key)).await.expect("a document");
        assert_eq!(record["document"], indexed, "{key}: record and index");
    }
    world.dlq_is_empty().await;
    for worker in &mut workers {
        worker.stop().await;
    }
}

/// A, B, A: the message of B is about to write when the text is A again, and A's own etag says that nothing changed.
/// Taken for finished work, A would leave the way free for B, for ever (a model checker found it).
#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_late_writer_does_not_bring_back_a_text_that_was_replaced_by_the_one_before() {
    let world = World::new().await;
    let relay = world.aws_relay();
    let mut late = world.launch().set("AWS_ENDPOINT_URL", relay.url()).start().await;
    world.put(KEY, "The text is heron.").await;
    late.settled(1).await;
    relay.hold(|head| head.method == "PUT" && head.path.contains("/processed/") && head.if_match);
    world.put(KEY, "The text is stork.").await;
    eventually("the late writer is about to write", LONG, async || holds(relay.held() == 1, relay.held())).await;
    late.signal(Signal::USR1);
    late.fact("paused").await;
    eventually("it takes nothing more", LONG, async || {
        let open = relay.open(|head| head.target == "AmazonSQS.ReceiveMessage");
        holds(open == 0, open)
    })
    .await;

    let mut other = world.launch().start().await;
    world.put(KEY, "The text is heron.").await;
    other.settled(1).await;
    relay.release();
    late.settled(2).await;
    let (record, _) = world.record(KEY).await.unwrap();
    assert_eq!(record["document"]["content"].as_str().map(str::trim), Some("The text is heron."));
    world.finds("heron", KEY).await;
    assert_eq!(world.search.stored(&world.document_id(KEY)).await.unwrap(), record["document"]);
    for worker in [&mut late, &mut other] {
        worker.stop().await;
    }
    world.emptied().await;
    world.dlq_is_empty().await;
}

/// Frozen (a paused machine, a full swap) for longer than its lease: what it then still wants to do is fenced.
#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_worker_frozen_past_its_lease_changes_nothing_when_it_thaws() {
    let world = World::new().await;
    let relay = world.aws_relay();
    relay.hold(|head| head.method == "PUT" && head.path.contains("/processed/"));
    let mut frozen = world.launch().set("AWS_ENDPOINT_URL", relay.url()).start().await;
    world.put(KEY, "The text is heron.").await;
    eventually("it is about to write", LONG, async || holds(relay.held() == 1, relay.held())).await;
    frozen.signal(Signal::STOP);

    let mut other = world.launch().start().await;
    let again = other.settled(1).await.remove(0);
    assert_eq!((again["outcome"].as_str(), again["keys"][0].as_str()), (Some("done"), Some(KEY)), "{again}");
    world.put(KEY, "The text is stork.").await;
    world.finds("stork", KEY).await;
    let (newest, _) = world.record(KEY).await.unwrap();

    relay.release();
    frozen.signal(Signal::CONT);
    let settled = frozen.settled(1).await.remove(0);
    assert_eq!(settled["settlement"], "lease_lost", "{settled}");
    assert_eq!(world.record(KEY).await.unwrap().0, newest);
    assert_eq!(world.search.stored(&world.document_id(KEY)).await.unwrap(), newest["document"]);
    assert_eq!(frozen.stop().await.of("lease_lost"), 1);
    other.stop().await;
    world.emptied().await;
    world.dlq_is_empty().await;
}
