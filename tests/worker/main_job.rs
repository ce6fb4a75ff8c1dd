//! The main job: files land in S3, the worker processes them, OpenSearch finds them, every message is settled.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::process::Worker;
use crate::world::{NAMESPACE, World};

/// A file of localstack/samples.
pub struct Sample {
    pub bytes: Vec<u8>,
    pub phrase: String,
    pub format: String,
    pub mime_type: String,
}

/// By key; `kind` is `good` or `broken`.
pub fn samples(kind: &str) -> BTreeMap<String, Sample> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("localstack/samples");
    let read = |file: &str| std::fs::read(folder.join(file)).unwrap();
    let expected: Value = serde_json::from_slice(&read("expected.json")).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of = |one: &Value| Sample {
        bytes: read(one["file"].as_str().unwrap()),
        phrase: text(&one["phrase"]),
        format: text(&one["format"]),
        mime_type: text(&one["mime_type"]),
    };
    expected[kind].as_object().unwrap().iter().map(|(key, one)| (key.clone(), of(one))).collect()
}

fn names(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn set<'a>(names: &[&'a str]) -> BTreeSet<&'a str> {
    names.iter().copied().collect()
}

/// Design §8, "Fields of a document", without `meta`, which only some formats have.
const DOCUMENT: [&str; 23] = [
    "bucket",
    "key",
    "namespace",
    "tenant",
    "title",
    "content",
    "mime_type",
    "language",
    "size",
    "sha256",
    "extension",
    "source_etag",
    "source_version_id",
    "source_modified",
    "indexed_at",
    "revision",
    "deleted",
    "truncated",
    "extractor",
    "extraction_error",
    "message_id",
    "original_message_id",
    "request_id",
];
/// In every line (§8), with time and level.
const LINE: [&str; 6] = ["time", "level", "event", "run_id", "version", "namespace"];

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn thirty_files_of_ten_formats_are_recorded_indexed_found_and_settled() {
    let world = World::new().await;
    let samples = samples("good");
    assert_eq!(samples.len(), 30);
    assert_eq!(samples.values().map(|sample| &sample.format).collect::<BTreeSet<_>>().len(), 10);
    let worker = world.launch().set("SQS_DLQ_URL", &world.dlq).unset("WORKER_CONCURRENCY");
    let mut worker = worker.set("ADMIN_LISTEN", "127.0.0.1:0").start().await;
    world.put_all(&samples.iter().map(|(key, sample)| (key.clone(), sample.bytes.clone())).collect()).await;

    let settled = worker.settled(samples.len()).await;
    let by_key: BTreeMap<&str, &Value> = settled.iter().map(|fact| (fact["keys"][0].as_str().unwrap(), fact)).collect();
    assert_eq!(by_key.len(), samples.len(), "one settlement for each file");
    for (key, sample) in &samples {
        let document = world.finds(&sample.phrase, key).await;
        let (record, metadata) = world.record(key).await.expect("a record");
        the_document_is_that_of_the_design(&world, key, sample, &document);
        the_record_is_that_of_the_design(&world, key, &record, &metadata, &document);
        the_lines_are_those_of_the_design(&worker, by_key[key.as_str()], key, &record);
    }
    world.finds_exactly(samples.keys().map(String::as_str)).await;
    let mut expected: Vec<String> = samples.keys().map(|key| world.record_key(key)).collect();
    expected.sort();
    assert_eq!(world.results_under("").await, expected, "objects in the results bucket: records and nothing else");

    world.emptied().await;
    world.dlq_is_empty().await;
    let scraped = worker.scrape().await;
    let books = worker.stop().await;
    for (series, field) in [
        ("quittance_messages_received_total", "received"),
        ("quittance_messages_settled_total{settlement=\"deleted\"}", "deleted"),
        ("quittance_documents_total{end=\"indexed\"}", "documents_indexed"),
    ] {
        assert_eq!(scraped.get(series), Some(&books.of(field).to_string()), "{series}");
    }
    assert_eq!(scraped["quittance_books_balanced"], "1");
    assert_eq!((books.of("received"), books.of("done"), books.of("documents_indexed")), (30, 30, 30));
    assert_eq!(worker.odd_lines(), Vec::<String>::new(), "lines of the log that are not JSON");
    every_line_is_flat_and_says_who_speaks(&worker);
}

fn the_document_is_that_of_the_design(world: &World, key: &str, sample: &Sample, document: &Value) {
    let mut fields = names(document);
    if fields.remove("meta") {
        assert!(document["meta"].is_object(), "{key}: meta");
    }
    assert_eq!(fields, set(&DOCUMENT), "{key}: fields of the document");
    let sha256: String = Sha256::digest(&sample.bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let extension = key.rsplit_once('.').map(|(_, extension)| extension);
    let tenant = key.split_once('/').map(|(tenant, _)| tenant);
    let expected = [
        ("bucket", json!(world.source)),
        ("key", json!(key)),
        ("namespace", json!(NAMESPACE)),
        ("tenant", json!(tenant)),
        ("mime_type", json!(sample.mime_type)),
        ("size", json!(sample.bytes.len())),
        ("sha256", json!(sha256)),
        ("extension", json!(extension)),
        ("deleted", json!(false)),
        ("truncated", json!(false)),
        ("extraction_error", Value::Null),
        ("original_message_id", Value::Null),
        ("source_version_id", Value::Null),
    ];
    for (field, value) in expected {
        assert_eq!(document[field], value, "{key}: {field}");
    }
    for field in ["source_etag", "source_modified", "indexed_at", "extractor", "message_id", "request_id"] {
        assert!(document[field].as_str().is_some_and(|text| !text.is_empty()), "{key}: {field} of {document}");
    }
}

fn the_record_is_that_of_the_design(
    world: &World,
    key: &str,
    record: &Value,
    metadata: &std::collections::HashMap<String, String>,
    document: &Value,
) {
    assert_eq!(record["document"], *document, "{key}: what is indexed is what is recorded");
    assert_eq!(record["document_id"], *world.document_id(key), "{key}");
    assert_eq!(record["revision"], document["revision"], "{key}");
    assert!(record["timings"]["fetch_ms"].is_u64() && record["timings"]["extract_ms"].is_u64(), "{key}: {record}");
    let expected = [
        ("revision", record["revision"].to_string()),
        ("sequencer", record["sequencer"].as_str().unwrap().to_owned()),
        ("etag", document["source_etag"].as_str().unwrap().to_owned()),
        ("message-id", document["message_id"].as_str().unwrap().to_owned()),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value)).into();
    assert_eq!(*metadata, expected, "{key}: metadata of the record");
}

fn the_lines_are_those_of_the_design(worker: &Worker, settled: &Value, key: &str, record: &Value) {
    let fields = ["message_id", "receive_count", "outcome", "settlement", "work_ids", "keys", "held_ms", "index"];
    let mut expected = set(&LINE);
    expected.extend(fields); // and no reason: it is done
    assert_eq!(names(settled), expected, "fields of message_settled");
    let values = [
        ("outcome", json!("done")),
        ("settlement", json!("deleted")),
        ("index", json!("indexed")),
        ("keys", json!([key])),
        ("work_ids", json!([record["work_id"]])),
        ("message_id", record["document"]["message_id"].clone()),
        ("receive_count", json!(1)),
    ];
    for (field, value) in values {
        assert_eq!(settled[field], value, "{key}: {field} of message_settled");
    }
    let received = worker.facts("message_received");
    let received = received.iter().find(|fact| fact["message_id"] == settled["message_id"]).expect("its line");
    let mut expected = set(&LINE);
    expected.extend(["message_id", "receive_count", "sent_at"]);
    assert_eq!(names(received), expected, "fields of message_received");
    assert_eq!(received["receive_count"], 1);
}

fn every_line_is_flat_and_says_who_speaks(worker: &Worker) {
    let facts = worker.all_facts();
    for fact in &facts {
        assert!(LINE.iter().all(|field| fact[*field].is_string()), "{fact}");
        assert!(!fact.as_object().unwrap().values().any(Value::is_object), "not flat: {fact}");
        assert_eq!((&fact["namespace"], &fact["run_id"]), (&json!(NAMESPACE), &facts[0]["run_id"]));
    }
}
