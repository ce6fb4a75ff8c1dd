//! `redrive` on real services: the DLQ emptied, killed on the way, refused where it should be (P9; A1.6).

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::process::Output;
use crate::relay::Head;
use crate::waiting::{LONG, eventually, holds};
use crate::world::{World, text_files};

fn report(output: &Output, code: i32) -> Value {
    assert_eq!(output.code, code, "{output:?}");
    serde_json::from_str(output.stdout.lines().last().unwrap_or_default()).unwrap()
}

fn is_receive(head: &Head) -> bool {
    head.target == "AmazonSQS.ReceiveMessage"
}

/// Into the DLQ, as SQS does it: body and nothing else.
pub async fn dead(world: &World, bodies: &[String]) -> Vec<String> {
    let mut ids = Vec::new();
    for some in bodies.chunks(10) {
        let entry = |(n, body): (usize, &String)| {
            let entry = aws_sdk_sqs::types::SendMessageBatchRequestEntry::builder();
            entry.id(n.to_string()).message_body(body).build().unwrap()
        };
        let entries = some.iter().enumerate().map(entry).collect();
        let sent =
            world.sqs.send_message_batch().queue_url(&world.dlq).set_entries(Some(entries)).send().await.unwrap();
        assert!(sent.failed.is_empty(), "{:?}", sent.failed);
        ids.extend(sent.successful.into_iter().map(|entry| entry.message_id));
    }
    ids
}

/// Files that are there, and the events that were lost on the way.
pub async fn lost(world: &World, number: usize) -> (BTreeSet<String>, Vec<String>) {
    let files = text_files(number);
    world.put_all(&files).await;
    let bodies = files.keys().map(|key| json!({ "bucket": world.source, "key": key }).to_string()).collect();
    (files.into_keys().collect(), bodies)
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn the_dlq_is_planned_drained_and_empty_and_the_report_adds_up() {
    let world = World::silent().await;
    let relay = world.aws_relay();
    let mut worker = world.launch().start().await;
    let (keys, bodies) = lost(&world, 35).await;
    let ids = dead(&world, &bodies).await;
    let malformed = dead(&world, &["{".to_owned(), "nonsense".to_owned()]).await;
    let operator = world.launch().set("AWS_ENDPOINT_URL", relay.url());

    let planned = report(&operator.redrive(&["plan", "--json"]), 0);
    assert_eq!((&planned["visible"], &planned["received"], &planned["sample"]), (&json!(37), &json!(0), &Value::Null));
    assert_eq!(relay.seen(is_receive).len(), 0, "R7: a plan receives nothing");
    assert_eq!(world.depth(&world.dlq).await, (37, 0, 0));
    let sampled = report(&operator.redrive(&["--dry-run", "--sample", "37", "--json"]), 0);
    assert_eq!(sampled["sample"]["by_reason"]["max_receives"], json!({ "archive": 2, "resend": 35 }), "{sampled}");
    assert_eq!(world.depth(&world.dlq).await, (37, 0, 0), "all are back");

    let drained = report(&operator.redrive(&["--batch-size", "20", "--json"]), 0);
    assert_eq!((&drained["resent"], &drained["archived"], &drained["adds_up"]), (&json!(35), &json!(2), &json!(true)));
    assert_eq!((&drained["ended"], &drained["deleted"]), (&json!("emptied"), &json!(37)), "{drained}");
    world.finds_exactly(keys).await;
    world.dlq_is_empty().await;
    let settled = worker.settled(35).await;
    let first: BTreeSet<&str> = settled.iter().filter_map(|line| line["original_message_id"].as_str()).collect();
    assert_eq!(first, ids.iter().map(String::as_str).collect(), "the worker's lines carry the first ids");
    let mut actions = Vec::new();
    for key in world.results_under("redrive/").await {
        let part = world.s3.get_object().bucket(&world.results).key(&key).send().await.unwrap();
        let text = String::from_utf8(part.body.collect().await.unwrap().to_vec()).unwrap();
        actions.extend(text.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            (line["action"].as_str().unwrap().to_owned(), line["message_id"].as_str().unwrap().to_owned())
        }));
    }
    let archived: BTreeSet<&str> =
        actions.iter().filter(|(action, _)| action == "archived").map(|(_, id)| id.as_str()).collect();
    assert_eq!((actions.len(), archived), (37, malformed.iter().map(String::as_str).collect()));
    let again = operator.redrive(&["--batch-size", "20"]);
    assert!(again.code == 0 && again.stdout.starts_with("0 letters"), "{again:?}");
    worker.stop().await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn r5_r6_queues_that_do_not_belong_together_are_refused_before_anything_is_received() {
    let (world, other) = (World::silent().await, World::silent().await);
    let relay = world.aws_relay();
    let operator = world.launch().set("AWS_ENDPOINT_URL", relay.url());
    dead(&world, &["{".to_owned()]).await;
    let drain = ["--batch-size", "10"];
    for (queue, dlq, says) in [
        (&world.queue, &world.queue, "same queue"),
        (&world.queue, &other.dlq, "another dead-letter queue"),
        (&other.queue, &world.dlq, "another dead-letter queue"),
        (&world.dlq, &world.queue, "no redrive policy"),
    ] {
        let refused = operator.clone().set("SQS_QUEUE_URL", queue).set("SQS_DLQ_URL", dlq).redrive(&drain);
        assert!(refused.code == 4 && refused.stderr.contains(says), "{says}: {refused:?}");
    }
    // A file below a bucket that is not there looks like one that is gone, and would be archived.
    let gone = operator.clone().set("SOURCE_BUCKETS", "gone-files").redrive(&drain);
    assert!(
        gone.code == 75 && gone.stderr.contains("SOURCE_BUCKETS") && gone.stderr.contains("gone-files"),
        "{gone:?}"
    );
    let paused = world.launch().redrive(&["pause", "--reason", "test"]);
    assert_eq!(paused.code, 0);
    let refused = operator.redrive(&drain);
    assert!(refused.code == 4 && refused.stdout.contains("refused: paused"), "{refused:?}");
    assert_eq!(relay.seen(is_receive).len(), 0, "nothing was received");
    assert_eq!(world.launch().redrive(&["resume"]).code, 0);
    let named = world.arn(&other.dlq).await;
    let allowed = operator.set("SQS_DLQ_URL", &other.dlq).redrive(&["--batch-size", "10", "--allow-unpaired", &named]);
    assert!(allowed.code == 0 && allowed.stdout.starts_with("0 letters"), "{allowed:?}");
}

/// `QUITTANCE_LETTERS=8158` for all of the incident.
#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a1_6_killed_again_and_again_the_dlq_ends_empty_and_every_file_is_in_the_index() {
    let number: usize = std::env::var("QUITTANCE_LETTERS").map_or(80, |text| text.parse().unwrap());
    let every = (number / 40).clamp(3, 20); // batches of ten
    let world = World::silent().await;
    let mut worker = world.launch().start().await;
    let (keys, bodies) = lost(&world, number).await;
    dead(&world, &bodies).await;
    let hopeless = dead(&world, &vec!["{".to_owned(); number / 10]).await;
    let mut kills = 0;
    loop {
        let relay = world.aws_relay();
        let is_send = |head: &Head| head.target == "AmazonSQS.SendMessageBatch";
        let arguments = ["--batch-size", "50", "--rate", "10000", "--canary-timeout", "5m"];
        let mut child = world.launch().set("AWS_ENDPOINT_URL", relay.url()).spawn_redrive_unheard(&arguments);
        let ended = eventually("it has sent so many, or is at its end", 20 * LONG, async || {
            let ended = child.try_wait().unwrap();
            holds(ended.is_some() || relay.seen(is_send).len() >= every, relay.seen(is_send).len())?;
            Ok::<_, usize>(ended)
        })
        .await;
        if let Some(status) = ended {
            assert!(status.success(), "{status}");
            break;
        }
        kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    world.dlq_is_empty().await;
    eventually("all are in the index", Duration::from_secs(60 + number as u64), async || {
        let found = world.search.keys().await.len();
        holds(found >= keys.len(), found)
    })
    .await;
    world.finds_exactly(keys).await;
    let archived = world.results_under("archive/dlq/").await;
    assert_eq!((archived.len(), kills > 0), (hopeless.len(), true), "{kills} kills");
    println!("{number} letters and {} hopeless ones, {kills} times killed", hopeless.len());
    world.emptied().await;
    worker.stop().await;
}
