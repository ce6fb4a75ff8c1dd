//! The outside checker: E0 of the fault catalogue, from the ledger of what was sent and from what the services hold.
//!
//! A message is lost when neither its files are durable (a record, and in the index at that revision or a marker at
//! it) nor a letter lies in the DLQ. Asks no worker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use opensearch::http::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cell::{Cell, Due, Ledger};
use crate::waiting::{eventually, holds};
use crate::world::{DeadLetter, NAMESPACE, World};

/// Leases end, markers are replayed (a look may be 20 s away).
const SETTLES_WITHIN: Duration = Duration::from_secs(180);

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    pub messages: usize,
    pub keys: usize,
    /// Letters in the DLQ, copies included.
    pub letters: usize,
    /// Messages with a letter.
    pub distinct: usize,
    /// The work ids that the letters name.
    pub work_ids: BTreeSet<String>,
    /// Markers before the replay.
    pub parked: usize,
    /// Dead-lettered because they were in work at too many crashes, with what the letter says: in the DLQ, so not lost.
    pub crash_loops: BTreeMap<String, String>,
    /// Dead-lettered because their file was removed before it could be read: in the DLQ, so not lost.
    pub overtaken: usize,
    /// Message ids, each with what is wrong.
    pub lost: Vec<(String, String)>,
    /// Anything else that must not be.
    pub wrong: Vec<String>,
}

impl Cell {
    /// Waits until the queue is empty, then judges what is there. Workers without failpoints must be running.
    pub async fn judge(&self) -> Found {
        let (world, ledger) = (&self.world, self.ledger.lock().await);
        let mut found = Found { messages: ledger.sent.len(), keys: ledger.files.len(), ..Found::default() };
        eventually("an empty queue (visible, in flight, delayed)", SETTLES_WITHIN, async || {
            let depth = world.depth(&world.queue).await;
            holds(depth == (0, 0, 0), depth)
        })
        .await;
        let letters = letters(world).await;
        found.letters = letters.len();
        judge_letters(&ledger, &letters, &mut found);
        // Markers before the index: what replay takes meanwhile is in the index by then.
        let markers = markers(world, &mut found).await;
        found.parked = markers.len();
        let records = records(world, &ledger).await;
        let index = index(world).await;
        for (id, due) in &ledger.sent {
            let Due::Files(keys) = due else { continue };
            if found_letter(&letters, id).is_some() {
                continue;
            }
            for key in keys {
                let document_id = world.document_id(key);
                let Some(record) = &records[key] else {
                    found.lost.push((id.clone(), format!("{key}: no record")));
                    continue;
                };
                let revision = record["revision"].as_u64().unwrap();
                let in_index = index.get(&document_id).is_some_and(|document| document["revision"] == revision);
                if !in_index && !markers.contains(&(document_id, revision)) {
                    found.lost.push((id.clone(), format!("{key}: revision {revision} neither in index nor parked")));
                }
            }
        }
        eventually("no marker is left", SETTLES_WITHIN, async || {
            let left = world.results_under("retry-index/").await;
            holds(left.is_empty(), left.len())
        })
        .await;
        self.judge_index(&ledger, &letters, &mut found).await;
        found
    }

    /// Index and records are what the bucket is, one document for each key.
    async fn judge_index(&self, ledger: &Ledger, letters: &[DeadLetter], found: &mut Found) {
        let world = &self.world;
        let records = records(world, ledger).await;
        let index = index(world).await;
        // A condemned message's files may be at an earlier state, or nowhere.
        let condemned: BTreeSet<&String> = ledger
            .sent
            .iter()
            .filter(|(id, _)| found_letter(letters, id).is_some_and(|letter| letter.note["reason"] == "crash_loop"))
            .flat_map(|(_, due)| if let Due::Files(keys) = due { keys.as_slice() } else { &[] })
            .collect();
        for (key, text) in ledger.files.iter().filter(|(key, _)| !condemned.contains(key)) {
            let document = records[key].as_ref().map_or(&Value::Null, |record| &record["document"]);
            let sha256 = text.as_ref().map(|text| hex(&Sha256::digest(text)));
            let expected = (json!(text.is_none()), json!(sha256), json!(text.as_ref().map(|text| text.trim())));
            let content = json!(document["content"].as_str().map(str::trim));
            if (document["deleted"].clone(), document["sha256"].clone(), content) != expected {
                found.wrong.push(format!("{key}: the record is not the source"));
            }
            if index.get(&world.document_id(key)) != Some(document) {
                found.wrong.push(format!("{key}: index and record differ"));
            }
        }
        let recorded = world.results_under("processed/").await.len();
        let surplus = index.len().max(recorded);
        if surplus > ledger.files.len() {
            found.wrong.push(format!("{surplus} documents or records of {} keys", ledger.files.len()));
        }
        for key in world.results_under("errored-index/").await {
            found.wrong.push(format!("errored: {key}"));
        }
    }
}

fn found_letter<'a>(letters: &'a [DeadLetter], id: &str) -> Option<&'a DeadLetter> {
    letters.iter().find(|letter| letter.note["message_id"] == id)
}

fn judge_letters(ledger: &Ledger, letters: &[DeadLetter], found: &mut Found) {
    let mut distinct = BTreeSet::new();
    for letter in letters {
        let id = letter.note["message_id"].as_str().unwrap().to_owned();
        let reason = letter.note["reason"].as_str().unwrap();
        let work_ids = letter.note["work_ids"].as_array().unwrap().iter();
        found.work_ids.extend(work_ids.map(|work_id| work_id.as_str().unwrap().to_owned()));
        match ledger.sent.get(&id) {
            Some(_) if reason == "crash_loop" => {
                found.crash_loops.insert(id.clone(), letter.note["detail"].as_str().unwrap().to_owned());
            }
            Some(Due::Letter { reason: expected, body }) if *expected == reason && *body == letter.body => {}
            // A file that was removed before it was read, by a change whose own message was late.
            Some(Due::Files(keys))
                if reason == "source_missing" && keys.iter().any(|key| ledger.removed.contains(key)) =>
            {
                found.overtaken += 1;
            }
            other => found.wrong.push(format!("a letter {} of {other:?}", letter.note)),
        }
        distinct.insert(id);
    }
    for (id, due) in &ledger.sent {
        if let Due::Letter { reason, .. } = due
            && !distinct.contains(id)
        {
            found.lost.push((id.clone(), format!("no letter for {reason}")));
        }
    }
    found.distinct = distinct.len();
}

/// All letters of the DLQ.
async fn letters(world: &World) -> Vec<DeadLetter> {
    let (visible, _, _) = world.depth(&world.dlq).await;
    world.dead_letters(visible as usize).await
}

/// Document id and revision of what is parked; one marker for each.
async fn markers(world: &World, found: &mut Found) -> BTreeSet<(String, u64)> {
    let mut markers = BTreeSet::new();
    for key in world.results_under("retry-index/").await {
        let mut parts = key.rsplit('/');
        let revision = parts.next().unwrap().trim_end_matches(".json").parse().unwrap();
        if !markers.insert((parts.next().unwrap().to_owned(), revision)) {
            found.wrong.push(format!("a second marker for one revision: {key}"));
        }
    }
    markers
}

/// The record of each key that was ever sent.
async fn records(world: &World, ledger: &Ledger) -> BTreeMap<String, Option<Value>> {
    let record = async |key: &String| (key.clone(), world.record(key).await.map(|(record, _)| record));
    futures_util::stream::iter(ledger.files.keys().map(record)).buffer_unordered(8).collect().await
}

/// All documents of the index, deleted ones too, by id.
async fn index(world: &World) -> BTreeMap<String, Value> {
    const PAGE: usize = 500;
    let search = &world.search;
    search.ask(Method::Post, &format!("/{}/_refresh", search.alias), None).await;
    let mut documents = BTreeMap::new();
    loop {
        let page = json!({ "query": { "term": { "namespace": NAMESPACE } }, "sort": ["key"], "size": PAGE,
                           "from": documents.len() });
        let (status, reply) = search.ask(Method::Post, &format!("/{}/_search", search.alias), Some(page)).await;
        assert_eq!(status, 200, "{reply}");
        let hits = reply["hits"]["hits"].as_array().unwrap();
        for hit in hits {
            let twice = documents.insert(hit["_id"].as_str().unwrap().to_owned(), hit["_source"].clone());
            assert_eq!(twice, None, "an id twice");
        }
        if hits.len() < PAGE {
            return documents;
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
