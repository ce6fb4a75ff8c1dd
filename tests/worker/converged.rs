//! What every story of the side path ends with, whatever broke in it: the index and the records are what the bucket is,
//! nothing is parked, nothing is in the DLQ.
//!
//! One checker for all of them. It looks at the services themselves and believes no line of a worker: each file's record
//! and document agree with its bytes and with each other, each file that is gone is a tombstone without content in both,
//! the read alias shows the files that are there and no others, and nothing else is in the index.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::waiting::{eventually, eventually_every, holds};
use crate::world::{NAMESPACE, World};

/// Until all is well again once it can be: a breaker's next try (30 s) and two looks of the replay.
const HEALS_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Whether somebody took records away. Then nothing but a tombstone in the index may be left of a file that is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Records {
    Kept,
    Lost,
}

/// Waits until the queue is empty and nothing is parked; then all must be in step.
pub async fn converges(world: &World) {
    quiet(world).await;
    in_step(world, Records::Kept).await;
}

/// Waits until nothing is on its way: in this order, for a message parks before it is deleted.
pub async fn quiet(world: &World) {
    eventually_every(LOOK_EVERY, "an empty queue (visible, in flight, delayed)", HEALS_WITHIN, async || {
        let depth = world.depth(&world.queue).await;
        holds(depth == (0, 0, 0), depth)
    })
    .await;
    eventually_every(LOOK_EVERY, "nothing is parked", HEALS_WITHIN, async || {
        let parked = world.results_under("retry-index/").await;
        holds(parked.is_empty(), parked)
    })
    .await;
}

/// Nothing is on its way any more: it is so at once, or never.
pub async fn in_step(world: &World, records: Records) {
    let found = differences(world, records).await;
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
    for at in world.results_under("errored-index/").await {
        let (marker, _) = world.result(&at).await.expect("a marker that was listed");
        // A file that is gone, with record and all: nothing can be replayed for it, and somebody should hear of that.
        let of_nothing = marker["reason"] == "its record is gone"
            && world.record(marker["key"].as_str().unwrap_or_default()).await.is_none();
        assert!(records == Records::Lost && of_nothing, "left in errored-index/: {marker}");
    }
    world.dlq_is_empty().await;
}

/// A file as the bucket holds it.
struct Truth {
    etag: String,
    sha256: String,
    text: String,
}

/// In what bucket, records and index differ, a line each.
pub async fn differences(world: &World, records: Records) -> Vec<String> {
    let (bucket, recorded) = (bucket(world).await, recorded(world).await);
    let held = world.search.held(&world.source).await;
    let mut found = Vec::new();
    for (key, truth) in &bucket {
        match recorded.get(&world.document_id(key)) {
            None => found.push(format!("{key}: no record")),
            Some((record, metadata)) => {
                let document = &record["document"];
                let says = [
                    ("key", document["key"].as_str(), key.as_str()),
                    ("content", document["content"].as_str().map(str::trim), truth.text.trim()),
                    ("sha256", document["sha256"].as_str(), &truth.sha256),
                    ("etag", document["source_etag"].as_str().map(bare), &truth.etag),
                    ("metadata's etag", metadata.get("etag").map(|etag| bare(etag)), &truth.etag),
                ];
                for (what, said, is) in says {
                    if said != Some(is) {
                        found.push(format!("{key}: the record's {what} is {said:?}, and the bucket's {is:?}"));
                    }
                }
                if document["deleted"] != false {
                    found.push(format!("{key}: the record is a tombstone"));
                }
            }
        }
    }
    for (id, (record, metadata)) in &recorded {
        let (document, revision) = (&record["document"], &record["revision"]);
        let key = document["key"].as_str().unwrap_or_default();
        let empty = ["content", "sha256", "source_etag", "title"].iter().all(|field| document[*field].is_null());
        if !bucket.contains_key(key) && (document["deleted"] != true || !empty) {
            found.push(format!("{key}: gone, and its record is no tombstone: {document}"));
        }
        if metadata.get("revision") != Some(&revision.to_string()) || document["revision"] != *revision {
            found.push(format!("{key}: revision {revision}, and not so in metadata or document: {metadata:?}"));
        }
        match held.get(id) {
            None => found.push(format!("{key}: not in the index")),
            Some((version, indexed)) if indexed != document || *revision != *version => {
                found.push(format!("{key}: record {revision} {document}\n  and index {version} {indexed}"));
            }
            Some(_) => {}
        }
    }
    for (id, (version, indexed)) in &held {
        let forgotten = records == Records::Lost && indexed["deleted"] == true && indexed["content"].is_null();
        let there = bucket.contains_key(indexed["key"].as_str().unwrap_or_default());
        let of_no_record = !recorded.contains_key(id);
        if of_no_record && (there || !forgotten) {
            found.push(format!("in the index, and of no record: {version} {indexed}"));
        }
    }
    let shown = world.search.find(serde_json::json!({ "term": { "bucket": world.source } })).await;
    let mut shown: Vec<&str> = shown.iter().map(|one| one["key"].as_str().unwrap_or_default()).collect();
    shown.sort_unstable();
    if !shown.iter().copied().eq(bucket.keys().map(String::as_str)) {
        found.push(format!("the read alias shows {shown:?}, and in the bucket are {:?}", bucket.keys()));
    }
    found
}

/// S3 quotes them.
fn bare(etag: &str) -> &str {
    etag.trim_matches('"')
}

async fn bucket(world: &World) -> BTreeMap<String, Truth> {
    let mut pages = world.s3.list_objects_v2().bucket(&world.source).into_paginator().send();
    let mut keys = Vec::new();
    while let Some(page) = pages.next().await {
        keys.extend(page.unwrap().contents.unwrap_or_default().into_iter().map(|object| object.key.unwrap()));
    }
    let read = async |key: String| {
        let object = world.s3.get_object().bucket(&world.source).key(&key).send().await.unwrap();
        let etag = bare(object.e_tag().unwrap()).to_owned();
        let bytes = object.body.collect().await.unwrap().into_bytes();
        let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        (key, Truth { etag, sha256, text: String::from_utf8(bytes.to_vec()).unwrap() })
    };
    futures_util::stream::iter(keys).map(read).buffer_unordered(8).collect().await
}

/// By document id: JSON and metadata.
async fn recorded(world: &World) -> BTreeMap<String, (Value, std::collections::HashMap<String, String>)> {
    let prefix = format!("processed/{NAMESPACE}/");
    let keys = world.results_under(&prefix).await;
    let read = async |key: String| {
        let record = world.result(&key).await.expect("a record that was listed");
        (key[prefix.len()..].trim_end_matches(".json").to_owned(), record)
    };
    futures_util::stream::iter(keys).map(read).buffer_unordered(8).collect().await
}

/// A checker that finds nothing proves nothing: each kind of damage is one difference.
#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn the_checker_sees_every_kind_of_damage() {
    use opensearch::http::Method;
    use serde_json::json;

    let world = World::new().await;
    let mut worker = world.launch().start().await;
    for key in ["a.txt", "b.txt", "c.txt", "gone.txt"] {
        world.put(key, format!("The text of {key}.")).await;
    }
    worker.settled(4).await;
    world.remove("gone.txt").await;
    worker.settled(5).await;
    converges(&world).await;
    worker.stop().await;

    let index = format!("/{}/_doc", world.search.alias);
    let at = async |key: &str, ahead: u64| {
        let revision = world.record(key).await.unwrap().0["revision"].as_u64().unwrap() + ahead;
        format!("{index}/{}?version={revision}&version_type=external_gte", world.document_id(key))
    };
    let write = async |path: String, document: Value| {
        let (status, reply) = world.search.ask(Method::Put, &path, Some(document)).await;
        assert!(status < 300, "{reply}");
    };
    let of = async |key: &str| world.record(key).await.unwrap().0["document"].clone();
    let only = async |says: &str| {
        let found = differences(&world, Records::Kept).await;
        assert!(found.iter().all(|one| one.contains(says)) && !found.is_empty(), "{says}: {found:?}");
    };
    let mut other = of("a.txt").await;
    other["content"] = json!("Something else.");
    write(at("a.txt", 0).await, other).await;
    only("and index").await;
    write(at("a.txt", 0).await, of("a.txt").await).await;

    write(at("b.txt", 1).await, of("b.txt").await).await;
    only("and index").await;
    world.s3.delete_object().bucket(&world.results).key(world.record_key("b.txt")).send().await.unwrap();
    let found = differences(&world, Records::Lost).await;
    assert!(found.len() == 2 && found[0].contains("no record") && found[1].contains("of no record"), "{found:?}");
    world.put("c.txt", "Another text.").await;
    let found = differences(&world, Records::Kept).await;
    assert!(found.iter().any(|one| one.starts_with("c.txt: the record's content is")), "{found:?}");
    world.remove("c.txt").await;
    let found = differences(&world, Records::Kept).await;
    assert!(found.iter().any(|one| one.contains("no tombstone")), "{found:?}");
    assert!(found.iter().any(|one| one.starts_with("the read alias shows")), "{found:?}");
    world.search.ask(Method::Delete, &at("gone.txt", 1).await, None).await;
    let found = differences(&world, Records::Kept).await;
    assert!(found.iter().any(|one| one == "gone.txt: not in the index"), "{found:?}");
    eventually("the queue hears of them", HEALS_WITHIN, async || {
        let depth = world.depth(&world.queue).await;
        holds(depth.0 == 2, depth)
    })
    .await;
}
