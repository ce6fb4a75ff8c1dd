//! `redrive trace` as an operator runs it at night: each way in which a file or a message can stand, on real services.

use std::time::Instant;

use serde_json::{Value, json};

use crate::body_shapes::created;
use crate::outage::CLOSED_PORT;
use crate::parked::refuse_documents;
use crate::process::{Launch, Output};
use crate::relay::Relay;
use crate::search::endpoint;
use crate::waiting::{LONG, eventually, holds};
use crate::world::World;

fn trace(launch: &Launch, target: &str, more: &[&str]) -> (Output, Value) {
    let began = Instant::now();
    let output = launch.redrive(&[&["trace", target, "--json"], more].concat());
    println!("trace {target}: {} ms in all", began.elapsed().as_millis());
    let told = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (output, told)
}

fn state((output, told): &(Output, Value), code: i32) -> &str {
    assert_eq!(output.code, code, "{output:?}");
    told["verdict"]["state"].as_str().unwrap()
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_file_and_its_message_are_traced_from_arrival_to_removal_in_less_than_two_seconds() {
    let world = World::new().await;
    let key = "請求書/a b+c%20d 'x'.txt";
    let target = format!("s3://{}/{key}", world.source);
    let launch = world.launch();
    let nothing = trace(&launch, &target, &[]);
    assert_eq!(state(&nothing, 3), "no_trace");
    world.put(key, "An ocelot.").await;
    let waits = trace(&launch, &target, &[]);
    assert_eq!(state(&waits, 0), "unrecorded");
    let text = launch.redrive(&["trace", &target]);
    for part in [
        "its message is waiting, in flight, dead-lettered or lost",
        "redrive reconcile --bucket",
        "CloudWatch Logs Insights",
        "journalctl",
    ] {
        assert!(text.stdout.contains(part), "{part}: {text:?}");
    }
    let mut worker = launch.start().await;
    world.finds_exactly([key]).await;
    let settled = worker.settled(1).await.remove(0);
    let well = trace(&launch, &target, &[]);
    assert_eq!(state(&well, 0), "in_step", "{}", well.1);
    let (record, _) = world.record(key).await.unwrap();
    let id = settled["message_id"].as_str().unwrap();
    let file = &well.1["file"];
    assert_eq!(
        (&file["record"]["found"]["revision"], &file["record"]["found"]["message_id"]),
        (&record["revision"], &json!(id))
    );
    assert_eq!((&file["index"]["found"]["revision"], &file["shown"]["found"]), (&record["revision"], &json!(true)));
    assert!(well.1["ms"].as_u64().unwrap() < 2_000, "{}", well.1["ms"]);
    // The queries fit the line that the worker wrote.
    let line = settled.to_string();
    assert!(line.contains(&Value::from(key).to_string()), "{line}");

    let message = trace(&launch, id, &[]);
    assert_eq!((state(&message, 0), &message.1["message"]["files"][0]["key"]), ("in_step", &json!(key)));
    world.remove(key).await;
    world.finds_exactly(Vec::<String>::new()).await;
    worker.settled(2).await;
    assert_eq!(state(&trace(&launch, &target, &[]), 0), "removed");
    let text = launch.redrive(&["trace", &target]);
    assert!(text.code == 0 && text.stdout.contains("removed: a tombstone at revision"), "{text:?}");
    assert!(!text.stdout.contains("CloudWatch"), "nothing is open: {text:?}");
    worker.stop().await;

    let unknown = trace(&launch, "6c1f7a52-0d3e-4b0c-9a57-2f6d8d3f1f10", &[]);
    assert_eq!(state(&unknown, 3), "no_trace");
    assert!(unknown.1["log"]["insights"].as_str().unwrap().contains("original_message_id"), "{}", unknown.1);
    let form = launch.redrive(&["trace", "incoming/a.txt"]);
    assert!(form.code == 64 && form.stderr.contains("s3://BUCKET/KEY"), "{form:?}");
    let encoded = launch.redrive(&["trace", &format!("s3://{}/a+b.txt", world.source)]);
    assert!(encoded.code == 3 && encoded.stdout.contains("/a b.txt'"), "{encoded:?}");
    let elsewhere = launch.redrive(&["trace", "s3://no-such-bucket-here/a.txt"]);
    assert!(
        elsewhere.code == 3 && elsewhere.stdout.contains("could not be asked: bucket does not exist"),
        "{elsewhere:?}"
    );
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn what_is_parked_or_errored_is_told_with_the_reason_and_a_dead_index_hides_nothing_else() {
    let world = World::new().await;
    let (launch, down) = (world.launch(), world.launch().set("OPENSEARCH_ENDPOINT", CLOSED_PORT));
    let mut worker = down.start().await;
    world.put("parked.txt", "An okapi.").await;
    worker.settled(1).await;
    world.emptied().await;
    worker.stop().await;
    let target = format!("s3://{}/parked.txt", world.source);
    let parked = trace(&launch, &target, &[]);
    assert_eq!(state(&parked, 0), "parked", "{}", parked.1);
    assert!(parked.1["verdict"]["line"].as_str().unwrap().contains("cannot connect"), "{}", parked.1["verdict"]);
    // The index is down for the operator too.
    let blind = trace(&down, &target, &[]);
    assert_eq!(state(&blind, 3), "parked", "{}", blind.1);
    assert_eq!(
        (&blind.1["file"]["index"]["state"], &blind.1["file"]["record"]["state"]),
        (&json!("unheard"), &json!("found"))
    );
    let text = down.redrive(&["trace", &target]);
    assert!(text.stdout.contains("could not be asked: "), "{text:?}");
    let skipped = trace(&launch.clone().set("SKIP_OPENSEARCH", true), &target, &[]);
    assert_eq!(state(&skipped, 0), "parked", "not asked is not unheard: {}", skipped.1);
    let nowhere = trace(&down.clone().set("AWS_ENDPOINT_URL", CLOSED_PORT), &target, &[]);
    assert_eq!(state(&nowhere, 75), "unclear", "{}", nowhere.1);

    let search = Relay::before(&endpoint());
    refuse_documents(&search);
    let mut worker =
        launch.clone().set("OPENSEARCH_ENDPOINT", search.url()).set("ENABLE_FAILED_RETRY", false).start().await;
    world.put("errored.txt", "An axolotl.").await;
    worker.fact("document_errored").await;
    world.emptied().await;
    worker.stop().await;
    let errored = trace(&launch, &format!("s3://{}/errored.txt", world.source), &[]);
    assert_eq!(state(&errored, 0), "errored", "{}", errored.1);
    assert!(
        errored.1["verdict"]["line"].as_str().unwrap().contains("mapper_parsing_exception"),
        "{}",
        errored.1["verdict"]
    );
    assert_eq!(errored.1["file"]["errored"]["found"]["marks"].as_array().unwrap().len(), 1);
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn failed_attempts_and_dead_letters_are_told_and_the_look_into_the_queue_leaves_it_as_it_was() {
    let world = World::silent().await;
    let launch = world.launch().set("MAX_ATTEMPTS", 3).set("RETRY_BASE_SECONDS", 1);
    let mut worker = launch.start().await;
    let malformed = world.send("no event at all").await;
    let missing = world.send(&created(&world.source, "never+came.txt").to_string()).await;
    eventually("both in the DLQ", LONG, async || {
        let depth = world.depth(&world.dlq).await;
        holds(depth == (2, 0, 0), depth)
    })
    .await;
    world.emptied().await;
    worker.stop().await;

    let failing = trace(&launch, &missing, &[]);
    assert_eq!((state(&failing, 0), &failing.1["message"]["attempts"]["found"]["failed"]), ("failing", &json!(3)));
    assert_eq!(failing.1["message"]["dead_letters"]["state"], "not_asked");
    let found = trace(&launch, &malformed, &["--dlq"]);
    assert_eq!(state(&found, 0), "dead_lettered", "{}", found.1);
    assert!(found.1["verdict"]["line"].as_str().unwrap().contains("malformed"), "{}", found.1["verdict"]);
    assert_eq!(world.depth(&world.dlq).await, (2, 0, 0), "returned");
    let by_file = trace(&launch, &format!("s3://{}/never came.txt", world.source), &["--dlq"]);
    assert_eq!(state(&by_file, 0), "dead_lettered", "{}", by_file.1);
    let letter = &by_file.1["file"]["dead_letters"]["found"]["found"][0];
    assert_eq!((&letter["reason"], &letter["original_message_id"]), (&json!("source_missing"), &json!(missing)));
    let [id, attempts] = [0, 1].map(|part| &by_file.1["file"]["attempts"][0][part]);
    assert_eq!((id, &attempts["found"]["failed"]), (&json!(missing), &json!(3)), "{}", by_file.1);
    assert_eq!(world.depth(&world.dlq).await, (2, 0, 0), "returned");
    let text = launch.clone().set("SQS_DLQ_URL", &world.dlq).redrive(&[
        "trace",
        "6c1f7a52-0d3e-4b0c-9a57-2f6d8d3f1f10",
        "--dlq",
    ]);
    assert!(text.code == 3 && text.stdout.contains("2 of about 2 received (which counts as a receive"), "{text:?}");
    let unnamed = launch.clone().unset("SQS_QUEUE_URL").redrive(&["trace", &missing, "--dlq"]);
    assert!(unnamed.code == 78 && unnamed.stderr.contains("SQS_QUEUE_URL"), "{unnamed:?}");
    let gone =
        launch.clone().set("SQS_QUEUE_URL", format!("{}-gone", world.queue)).redrive(&["trace", &missing, "--dlq"]);
    assert!(gone.code == 75 && gone.stderr.contains("there is no queue"), "{gone:?}");
    assert_eq!(
        launch.clone().unset("SQS_QUEUE_URL").redrive(&["trace", &missing]).code,
        0,
        "without --dlq no queue is needed"
    );
    // Byte for byte, and nobody lost: as after any look.
    assert_eq!(world.dead_letters(2).await.len(), 2);
}
