//! What cannot be done goes to the DLQ with a reason, byte for byte; what the operator wants dropped is dropped.

use std::collections::BTreeSet;

use aws_sdk_s3::primitives::Blob;
use aws_sdk_sqs::types::MessageAttributeValue;
use serde_json::{Value, json};

use crate::body_shapes::created;
use crate::main_job::samples;
use crate::world::World;

/// Design §8, "`Quittance` attribute".
const NOTE: [&str; 11] = [
    "v",
    "reason",
    "detail",
    "attempts",
    "first_failed_at",
    "last_failed_at",
    "work_ids",
    "keys",
    "source_queue",
    "message_id",
    "redrives",
];
/// Nothing that a JSON reader likes, and nothing that survives being parsed and written again.
const MALFORMED: &str =
    "{ \"this is\":\t\"no event\",\r\n\n  \"naïve\" : \"日本語 🚀 &lt;&#x9;\"  , and not even JSON\u{85}";

fn note_of(note: &Value) -> (&str, u64) {
    let fields: BTreeSet<&str> = note.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, BTreeSet::from(NOTE), "fields of the Quittance attribute");
    (note["reason"].as_str().unwrap(), note["attempts"].as_u64().unwrap())
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_malformed_message_is_dead_lettered_byte_for_byte_with_its_attributes() {
    let world = World::silent().await;
    let mut worker = world.launch().start().await;
    let value = |kind: &str| MessageAttributeValue::builder().data_type(kind);
    let attributes = [
        ("trace", value("String").string_value("日本 <&> \"quoted\"").build().unwrap()),
        ("count", value("Number.int").string_value("0042").build().unwrap()),
        ("bytes", value("Binary.gif").binary_value(Blob::new([0, 159, 146, 150])).build().unwrap()),
    ];
    let mut send = world.sqs.send_message().queue_url(&world.queue).message_body(MALFORMED);
    for (name, attribute) in attributes.clone() {
        send = send.message_attributes(name, attribute);
    }
    let id = send.send().await.unwrap().message_id.unwrap();

    let letter = world.dead_letters(1).await.remove(0);
    assert_eq!(letter.body, MALFORMED);
    assert_eq!(note_of(&letter.note), ("malformed", 1));
    let expected = [
        ("v", json!(1)),
        ("work_ids", json!([])),
        ("keys", json!([])),
        ("source_queue", json!(world.arn(&world.queue).await)),
        ("message_id", json!(id)),
        ("redrives", json!(0)),
    ];
    for (field, value) in expected {
        assert_eq!(letter.note[field], value, "{field}");
    }
    let mut kept = letter.attributes;
    kept.remove("Quittance");
    assert_eq!(kept, attributes.map(|(name, value)| (name.to_owned(), value)).into());

    let settled = worker.settled_messages(&[id]).await.remove(0);
    assert_eq!((&settled["outcome"], &settled["settlement"]), (&json!("rejected"), &json!("dead_lettered")));
    assert_eq!(settled["reason"], "malformed", "{settled}");
    world.emptied().await;
    let books = worker.stop().await;
    assert_eq!((books.of("dead_lettered"), books.of("deleted")), (1, 0));
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn files_that_may_not_be_read_are_too_large_or_never_come_are_dead_lettered_with_the_reason() {
    let world = World::silent().await;
    let elsewhere = format!("{}-elsewhere", world.source);
    world.bucket(&elsewhere).await;
    world.put_into(&elsewhere, "secret.txt", "not for this worker").await;
    world.put("large.txt", "x".repeat(1_001)).await;
    world.put("fits.txt", "y".repeat(1_000)).await;
    let relay = world.aws_relay();
    let launch = world.launch().set("AWS_ENDPOINT_URL", relay.url()).set("MAX_OBJECT_BYTES", 1_000);
    let mut worker = launch.set("MAX_ATTEMPTS", 2).set("RETRY_BASE_SECONDS", 1).start().await;

    let not_allowed = world.send(&created(&elsewhere, "secret.txt").to_string()).await;
    let too_large = world.send(&created(&world.source, "large.txt").to_string()).await;
    let missing = world.send(&created(&world.source, "never+came.txt").to_string()).await;
    let fits = world.send(&created(&world.source, "fits.txt").to_string()).await;

    let letters = world.dead_letters(3).await;
    let note = |id: &str| &letters.iter().find(|letter| letter.note["message_id"] == *id).expect("its letter").note;
    assert_eq!(note_of(note(&not_allowed)), ("not_allowed", 1));
    assert_eq!(note(&not_allowed)["keys"], json!(["secret.txt"]));
    assert_eq!(note_of(note(&too_large)), ("too_large", 1));
    assert_eq!(note(&too_large)["keys"], json!(["large.txt"]));
    assert_eq!(note_of(note(&missing)), ("source_missing", 2));
    assert_eq!(note(&missing)["keys"], json!(["never came.txt"]));
    assert_eq!(note(&missing)["work_ids"].as_array().unwrap().len(), 1);
    let touched = relay.seen(|head| head.path.contains(&elsewhere));
    assert!(touched.is_empty(), "a bucket that is not allowed was asked: {touched:?}");

    worker.settled_messages(&[fits]).await;
    worker.settled(5).await;
    world.emptied().await;
    let of_missing: Vec<Value> =
        worker.facts("message_settled").into_iter().filter(|fact| fact["message_id"] == *missing).collect();
    let ends: Vec<_> = of_missing.iter().map(|fact| (&fact["outcome"], &fact["settlement"])).collect();
    let (retried, returned, dead) = (json!("retried"), json!("returned"), json!("dead_lettered"));
    assert_eq!(ends, [(&retried, &returned), (&retried, &dead)], "{of_missing:?}");
    let (attempts, _) = world.result(&format!("attempts/acceptance/{missing}.json")).await.expect("attempts");
    assert_eq!(attempts["failed"], 2);
    world.finds_exactly(["fits.txt"]).await;
    let books = worker.stop().await;
    assert_eq!((books.of("dead_lettered"), books.of("returned"), books.of("done")), (3, 1, 1));
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn one_rejected_change_dead_letters_the_message_and_what_was_done_stays_done() {
    let world = World::silent().await;
    let elsewhere = format!("{}-elsewhere", world.source);
    world.put("good.txt", "The good one of the two, opossum.").await;
    let mut worker = world.launch().start().await;
    let mut body = created(&world.source, "good.txt");
    body["Records"].as_array_mut().unwrap().push(created(&elsewhere, "bad.txt")["Records"][0].clone());
    world.send(&body.to_string()).await;

    let letter = world.dead_letters(1).await.remove(0);
    assert_eq!(letter.body, body.to_string());
    assert_eq!(note_of(&letter.note), ("not_allowed", 1));
    assert_eq!(letter.note["keys"], json!(["bad.txt"]), "the failing one only");
    world.finds("opossum", "good.txt").await;
    world.emptied().await;
    let books = worker.stop().await;
    assert_eq!((books.of("changes_done"), books.of("changes_rejected"), books.of("dead_lettered")), (1, 1, 1));
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_file_that_cannot_be_read_is_found_by_its_name_with_the_error() {
    let world = World::new().await;
    let mut worker = world.launch().start().await;
    let broken = samples("broken");
    world.put_all(&broken.iter().map(|(key, sample)| (key.clone(), sample.bytes.clone())).collect()).await;
    world.finds_exactly(broken.keys().map(String::as_str)).await;
    for (key, sample) in &broken {
        let document = world.search.by_key(key).await.remove(0);
        assert!(document["extraction_error"].as_str().is_some_and(|error| !error.is_empty()), "{document}");
        assert_eq!((&document["mime_type"], &document["size"]), (&json!(sample.mime_type), &json!(sample.bytes.len())));
    }
    world.emptied().await;
    world.dlq_is_empty().await;
    assert_eq!(worker.stop().await.of("done"), broken.len() as u64);
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn the_operator_may_have_unreadable_files_dead_lettered_and_missing_ones_dropped() {
    let world = World::silent().await;
    let launch = world.launch().set("ON_EXTRACTION_ERROR", "dead-letter").set("ON_MISSING_OBJECT", "drop");
    let mut worker = launch.set("MAX_ATTEMPTS", 2).set("RETRY_BASE_SECONDS", 1).start().await;
    let (_, broken) = samples("broken").pop_first().unwrap();
    world.put("broken.docx", broken.bytes).await;
    world.send(&created(&world.source, "broken.docx").to_string()).await;
    let missing = world.send(&created(&world.source, "never-came.txt").to_string()).await;

    let letter = world.dead_letters(1).await.remove(0);
    assert_eq!(note_of(&letter.note), ("malformed", 1));
    assert_eq!(letter.note["keys"], json!(["broken.docx"]));
    worker.settled(3).await;
    world.emptied().await;
    let last = worker.settled_messages(&[missing]).await.remove(0);
    let expected = ("skipped", "deleted", "source_missing", 2);
    let text = |field: &str| last[field].as_str().unwrap();
    let seen = (text("outcome"), text("settlement"), text("reason"), last["receive_count"].as_u64().unwrap());
    assert_eq!(seen, expected);
    world.finds_exactly(Vec::<String>::new()).await;
    assert!(world.record("broken.docx").await.is_none() && world.record("never-came.txt").await.is_none());
    worker.stop().await;
}
