//! Dead letters: byte for byte the message and one attribute more, acknowledged before the delete, and kept in S3 where
//! SQS has no room (P3, P5).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quittance::message::{AttributeValue, MessageAttribute, MessageId};
use quittance::queue::{Outgoing, SQS_MAX_MESSAGE_BYTES};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::sim::{Fate, Faults, RESULTS, Record, Setup, Site, history, s3_event, until};

/// The `Quittance` attribute of a dead letter.
pub fn note(letter: &Outgoing) -> Value {
    let AttributeValue::Text(text) = &letter.attributes["Quittance"].value else { panic!("it is text") };
    serde_json::from_str(text).unwrap()
}

fn text(data_type: &str, value: &str) -> MessageAttribute {
    MessageAttribute { data_type: data_type.into(), value: AttributeValue::Text(value.into()) }
}

/// Attributes of all types, the last one's name being its number.
fn attributes(count: usize) -> BTreeMap<String, MessageAttribute> {
    let binary = MessageAttribute { data_type: "Binary.gif".into(), value: AttributeValue::Binary(vec![0, 255, 10]) };
    let mut attributes = BTreeMap::from([
        ("trace".to_owned(), text("String", "日本 \"quoted\"\n")),
        ("size".to_owned(), text("Number.int", "0042")),
        ("picture".to_owned(), binary),
    ]);
    for n in attributes.len()..count {
        attributes.insert(format!("a{n}"), text("String", "x"));
    }
    attributes
}

async fn dead_letter_of(sent: &Outgoing) -> (Site, MessageId, Outgoing) {
    let site = Site::new(1);
    let id = site.world.queue.put_message(sent.clone());
    let line = site.drain(&Setup::default()).await;
    assert_eq!((line.received, line.dead_lettered), (1, 1), "{line:?}");
    let mut letters = site.world.dead_letters.live();
    assert_eq!(letters.len(), 1);
    let letter = letters.remove(0).1;
    (site, id, letter)
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_the_message_byte_for_byte_and_one_attribute() {
    let body = "{ \"Records\" : [ 1 ],\t\"日本\": \"\\u0041\" } \n".to_owned();
    let sent = Outgoing { body, attributes: attributes(9), group_id: Some("tenant-7".into()) };
    let (site, id, mut letter) = dead_letter_of(&sent).await;
    let note = note(&letter);
    letter.attributes.remove("Quittance");
    assert_eq!(letter, sent);
    let names: BTreeSet<&str> = note.as_object().unwrap().keys().map(String::as_str).collect();
    let contract = [
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
    assert_eq!(names, BTreeSet::from(contract));
    assert_eq!((&note["v"], &note["reason"], &note["attempts"]), (&1.into(), &"malformed".into(), &1.into()));
    assert_eq!(note["message_id"], id.0);
    assert_eq!(note["source_queue"], site.world.queue.arn());
    assert_eq!(note["first_failed_at"], note["last_failed_at"]);
    assert!(note["first_failed_at"].as_str().unwrap().starts_with("2026-11-22T00:00:0"), "{note}");
    assert!(note["detail"].as_str().is_some_and(|detail| !detail.is_empty() && detail.chars().count() <= 512));
}

#[tokio::test(start_paused = true)]
async fn a_message_with_ten_attributes_goes_unchanged_and_its_envelope_to_s3() {
    let sent = Outgoing { body: "no event".into(), attributes: attributes(10), group_id: None };
    let (site, id, letter) = dead_letter_of(&sent).await;
    assert_eq!(letter, sent, "there is no room for another attribute");
    let kept = site.world.store.object(RESULTS, &format!("archive/dlq/2026-11-22/{id}.json")).unwrap();
    let kept: Value = serde_json::from_slice(&kept.body).unwrap();
    assert_eq!((&kept["body"], &kept["note"]["reason"]), (&"no event".into(), &"malformed".into()));
    assert_eq!(kept["attributes"].as_object().unwrap().len(), 10);
    assert_eq!(kept["attributes"]["picture"]["base64"], "AP8K");
    assert_eq!(kept["note"]["message_id"], id.0);
}

#[tokio::test(start_paused = true)]
async fn a_message_of_a_mebibyte_gets_a_pointer_to_its_envelope() {
    let elsewhere = |n: usize| Record { bucket: "elsewhere".into(), ..Record::removed("", &format!("{n}.txt"), 1) };
    let records: Vec<Record> = (0..100).map(elsewhere).collect();
    let mut body = s3_event(&records);
    // Too much for a hundred ids and keys, enough for the pointer.
    body.push_str(&" ".repeat(SQS_MAX_MESSAGE_BYTES - 2_000 - body.len()));
    let sent = Outgoing { body, attributes: BTreeMap::new(), group_id: None };
    let (site, id, letter) = dead_letter_of(&sent).await;
    assert_eq!(letter.body, sent.body);
    let short = note(&letter);
    let key = format!("archive/dlq/2026-11-22/{id}.json");
    assert_eq!((&short["reason"], &short["envelope"]), (&"not_allowed".into(), &key.clone().into()));
    let left_out = [&short["keys"], &short["work_ids"], &short["detail"]];
    assert_eq!(left_out, [&json!([]), &json!([]), &json!("")]);
    let kept: Value = serde_json::from_slice(&site.world.store.object(RESULTS, &key).unwrap().body).unwrap();
    assert_eq!(kept["note"]["keys"].as_array().unwrap().len(), 100);
    assert_eq!(kept["body"], sent.body);
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_dead_letter_cannot_be_sent_comes_back_late_and_is_never_deleted() {
    for (name, faults) in [
        ("not reached", Faults { down: true, ..Faults::default() }),
        ("never answered", Faults { latency: (60 * SECOND, 60 * SECOND), ..Faults::default() }),
    ] {
        let site = Site::new(1);
        site.world.dead_letters.faults(|all| all.send = faults);
        site.world.queue.put("no event");
        let worker = site.start("w", &Setup::default());
        until("it is settled", 60 * SECOND, || !site.settlements().is_empty()).await;
        let (returned, began) = (site.settlements(), Instant::now());
        assert_eq!(returned, ["rejected/returned"], "{name}");
        until("it is tried again", 900 * SECOND, || site.settlements().len() == 2).await;
        assert!(began.elapsed() > 290 * SECOND, "{name}: back after {:?}", began.elapsed());
        assert_eq!(site.lines("dead_letter_failed").len(), 2, "{name}");
        assert_eq!(history::really_deleted(&site.world.queue), [], "{name}");
        assert!(!worker.gate.is_shut(), "{name}: the DLQ never stops intake");
        site.world.upload("other.txt", "text", 1);
        until("others go on", 30 * SECOND, || site.settlements().len() == 3).await;
        site.world.dead_letters.faults(|all| all.send = Faults::default());
        site.until_empty().await;
        let line = worker.stop().await;
        assert_eq!((line.dead_lettered, line.done, line.returned), (1, 1, 2), "{name}");
        assert_eq!(site.world.dead_letters.live().len(), 1, "{name}");
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_dead_letter_whose_reply_or_delete_is_lost_may_come_twice_and_is_never_missing() {
    let site = Site::new(1);
    site.world.dead_letters.faults(|faults| faults.send.next.push_back(Fate::LoseReply));
    site.world.queue.put("no event");
    let line = site.drain(&Setup::default()).await;
    assert_eq!((line.dead_lettered, line.returned), (1, 1));
    assert_eq!(site.world.dead_letters.live().len(), 2, "one more, never one less");

    let site = Site::new(1);
    site.world.queue.put("no event");
    let until_then = Some(Instant::now() + 70 * SECOND);
    site.world.queue.faults(|faults| (faults.delete.down_until, faults.change.down_until) = (until_then, until_then));
    let line = site.drain(&Setup::default()).await;
    assert_eq!((line.dead_lettered, line.lease_lost), (1, 1), "not dead-lettered before the delete is acknowledged");
    assert_eq!(site.world.dead_letters.live().len(), 2);
}
