//! What must hold over everything the services remember of a run, whatever the run was.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quittance::index::ItemVerdict;
use quittance::message::{DocumentId, Message, MessageId, ReceiptHandle};
use quittance::store::{ObjectHead, PutReply};
use serde_json::Value;
use tokio::time::Instant;

use super::queue::{Effect, ModelQueue};
use super::worker::{document_id, record_key};
use super::{QueueAnswer, QueueAsk, RESULTS, SearchAnswer, SearchAsk, StoreAnswer, StoreAsk, World};

/// A caller has given up on a call by then (the settler's own limit).
const GIVEN_UP: Duration = Duration::from_secs(5);

/// P7: of the deletes and visibility changes of one receipt, no two are ever under way at once; and nothing follows
/// an acknowledged delete.
pub fn one_call_at_a_time(queue: &ModelQueue) {
    let mut ends: BTreeMap<ReceiptHandle, Instant> = BTreeMap::new();
    let mut deleted = BTreeSet::new();
    for call in queue.calls() {
        let handles: Vec<ReceiptHandle> = match &call.ask {
            QueueAsk::Delete(handles) => handles.clone(),
            QueueAsk::Change(entries) => entries.iter().map(|(handle, _)| handle.clone()).collect(),
            QueueAsk::Receive { .. } | QueueAsk::Send(_) | QueueAsk::Facts => continue,
        };
        let heard = call.answered.as_ref().filter(|(stamp, _)| stamp.at <= call.asked.at + GIVEN_UP);
        let end = heard.map_or(call.asked.at + GIVEN_UP, |(stamp, _)| stamp.at);
        for (position, handle) in handles.into_iter().enumerate() {
            assert!(!deleted.contains(&handle), "a call after an acknowledged delete: {call:?}");
            let before = ends.insert(handle.clone(), end);
            assert!(before.is_none_or(|before| before <= call.asked.at), "two calls at once: {call:?}");
            if let (QueueAsk::Delete(_), Some((_, QueueAnswer::Entries(replies)))) = (&call.ask, heard)
                && replies[position].is_ok()
            {
                deleted.insert(handle);
            }
        }
    }
}

/// Calls of `who` that carried more than one entry for a delete.
pub fn delete_batches(queue: &ModelQueue, who: &str) -> Vec<usize> {
    let calls = queue.calls();
    let of = calls.iter().filter(|call| *call.who == *who);
    of.filter_map(|call| if let QueueAsk::Delete(handles) = &call.ask { Some(handles.len()) } else { None }).collect()
}

/// Messages delivered by the main queue, by receipt handle.
fn deliveries(queue: &ModelQueue, who: &str) -> BTreeMap<ReceiptHandle, Message> {
    let mut messages = BTreeMap::new();
    for call in queue.calls().into_iter().filter(|call| *call.who == *who) {
        if let Some((_, QueueAnswer::Received(received))) = call.answered {
            messages.extend(received.into_iter().map(|message| (message.handle.clone(), message)));
        }
    }
    messages
}

/// P7: `who` asked for no record and no dead letter of a message at an instant at which it held no lease on it, a
/// lease counting from when its call was *sent*. Returns how many were looked at.
pub fn no_write_without_a_lease(world: &World, who: &str, visibility: Duration) -> usize {
    let of_handle = deliveries(&world.queue, who);
    // By message: known from, good until.
    let mut leases: BTreeMap<MessageId, Vec<(Instant, Instant)>> = BTreeMap::new();
    for call in world.queue.calls().into_iter().filter(|call| *call.who == *who) {
        match (&call.ask, &call.answered) {
            (_, Some((stamp, QueueAnswer::Received(messages)))) => {
                for message in messages {
                    leases.entry(message.id.clone()).or_default().push((stamp.at, call.asked.at + visibility));
                }
            }
            (QueueAsk::Change(entries), Some((stamp, QueueAnswer::Entries(replies)))) => {
                for ((handle, time), reply) in entries.iter().zip(replies) {
                    if reply.is_ok() {
                        let id = of_handle[handle].id.clone();
                        leases.entry(id).or_default().push((stamp.at, call.asked.at + *time));
                    }
                }
            }
            _ => {}
        }
    }
    let held = |id: &MessageId, at: Instant| {
        leases.get(id).is_some_and(|spans| spans.iter().any(|(from, until)| *from <= at && at < *until))
    };
    let mut seen = 0;
    for call in world.store.calls().into_iter().filter(|call| *call.who == *who) {
        if let StoreAsk::Put { key, metadata, .. } = &call.ask
            && key.starts_with("processed/")
        {
            let id = MessageId(metadata["message-id"].clone());
            assert!(held(&id, call.asked.at), "{who} wrote a record of {id} without a lease at {:?}", call.asked);
            seen += 1;
        }
    }
    for call in world.dead_letters.calls().into_iter().filter(|call| *call.who == *who) {
        if let QueueAsk::Send(outgoing) = &call.ask {
            let mut of = of_handle.values().filter(|message| message.body == outgoing.body);
            assert!(of.any(|message| held(&message.id, call.asked.at)), "{who} sent a dead letter without a lease");
            seen += 1;
        }
    }
    seen
}

/// At no poll could `who` hold more messages than `limit`: what SQS has not answered for is in flight, and so is what a
/// poll that is under way may bring. Returns the most it could hold.
pub fn within_the_limit(queue: &ModelQueue, who: &str, limit: usize) -> usize {
    let mut steps: Vec<(u64, i64)> = Vec::new();
    for call in queue.calls().into_iter().filter(|call| *call.who == *who) {
        let answered = call.answered.as_ref().map(|(stamp, answer)| (stamp.order, answer));
        match (&call.ask, answered) {
            (QueueAsk::Receive { max, .. }, answered) => {
                let max = i64::try_from(*max).unwrap();
                steps.push((call.asked.order, max));
                match answered {
                    Some((order, QueueAnswer::Received(messages))) => {
                        steps.push((order, i64::try_from(messages.len()).unwrap() - max));
                    }
                    Some((order, _)) => steps.push((order, -max)),
                    None => {}
                }
            }
            // For runs without returns: only a delete gives room back.
            (QueueAsk::Delete(_), Some((order, QueueAnswer::Entries(replies)))) => {
                steps.push((order, -i64::try_from(replies.iter().filter(|reply| reply.is_ok()).count()).unwrap()));
            }
            _ => {}
        }
    }
    steps.sort_unstable();
    let (mut in_flight, mut most) = (0, 0);
    for (_, step) in steps {
        in_flight += step;
        most = most.max(in_flight);
    }
    assert!(most <= i64::try_from(limit).unwrap(), "{most} in flight, of {limit}");
    usize::try_from(most).unwrap()
}

/// One change as the body says it.
struct Told {
    key: String,
    created: bool,
    sequencer: Option<String>,
}

/// Bodies as the tests make them: `Records[]` with plain keys, or minimal ones.
fn told(body: &str) -> Vec<Told> {
    let body: Value = serde_json::from_str(body).unwrap();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match body["Records"].as_array() {
        Some(records) => records
            .iter()
            .map(|record| Told {
                key: text(&record["s3"]["object"]["key"]).unwrap(),
                created: record["eventName"].as_str().unwrap().starts_with("ObjectCreated"),
                sequencer: text(&record["s3"]["object"]["sequencer"]),
            })
            .collect(),
        None => vec![Told { key: text(&body["key"]).unwrap(), created: false, sequencer: None }],
    }
}

/// What one worker knows of one document from answers, with the order in which it learnt it.
#[derive(Default)]
struct Knowledge {
    /// Revision, sequencer, message, whether a tombstone.
    records: Vec<(u64, u64, Option<String>, String, bool)>,
    /// Revisions acknowledged by the index or by parking.
    placed: Vec<(u64, u64)>,
    source_gone: Vec<u64>,
}

/// P3: before `who` asked for a delete, it had an acknowledged record that names this message *and* an acknowledged
/// index item or marker of its revision (or a newer one); or had seen a newer record, or the tombstone that explains an absence;
/// or had an acknowledged dead letter. Returns the number of deletes that were looked at.
pub fn durable_before_deleted(world: &World, who: &str) -> usize {
    let messages = deliveries(&world.queue, who);
    let knowledge = knowledge(world, who);
    let sent: Vec<(u64, String)> = world
        .dead_letters
        .calls()
        .into_iter()
        .filter_map(|call| match (call.ask, call.answered) {
            (QueueAsk::Send(letter), Some((stamp, QueueAnswer::Sent(_)))) => Some((stamp.order, letter.body)),
            _ => None,
        })
        .collect();
    let mut looked_at = 0;
    for call in world.queue.calls().into_iter().filter(|call| *call.who == *who) {
        let QueueAsk::Delete(handles) = &call.ask else { continue };
        let before = call.asked.order;
        for handle in handles {
            let message = &messages[handle];
            looked_at += 1;
            if sent.iter().any(|(order, body)| *order < before && *body == message.body) {
                continue;
            }
            for told in told(&message.body) {
                let nothing = Knowledge::default();
                let known = knowledge.get(&document_id(&told.key)).unwrap_or(&nothing);
                let done = known.records.iter().any(|(order, revision, _, id, _)| {
                    *order < before
                        && *id == message.id.0
                        && known.placed.iter().any(|(order, placed)| *order < before && placed >= revision)
                });
                let newer = known.records.iter().any(|(order, _, theirs, ..)| {
                    *order < before && theirs.is_some() && told.sequencer.is_some() && *theirs > told.sequencer
                });
                let explained = told.created
                    && known.source_gone.iter().any(|order| *order < before)
                    && known.records.iter().any(|(order, .., tombstone)| *order < before && *tombstone);
                assert!(done || newer || explained, "{who} deleted {} ({}) too early", message.id, told.key);
            }
        }
    }
    looked_at
}

fn knowledge(world: &World, who: &str) -> BTreeMap<DocumentId, Knowledge> {
    let mut of_key = BTreeMap::new();
    let mut of_source = BTreeMap::new();
    for body in deliveries(&world.queue, who).values().map(|message| message.body.clone()) {
        for told in told(&body) {
            of_key.insert(record_key(&told.key), document_id(&told.key));
            of_source.insert(told.key.clone(), document_id(&told.key));
        }
    }
    let mut all: BTreeMap<DocumentId, Knowledge> = BTreeMap::new();
    for call in world.store.calls().into_iter().filter(|call| *call.who == *who) {
        let Some((stamp, answer)) = &call.answered else { continue };
        let order = stamp.order;
        let record = |metadata: &BTreeMap<String, String>| {
            let revision = metadata["revision"].parse().unwrap();
            let tombstone = !metadata.contains_key("etag");
            (order, revision, metadata.get("sequencer").cloned(), metadata["message-id"].clone(), tombstone)
        };
        // A marker's key, taken apart. That it conflicts does not say that it is there: only writing or seeing it does.
        let marker = |key: &str| {
            let tail = key.strip_prefix("retry-index/").or_else(|| key.strip_prefix("errored-index/"))?;
            let (rest, revision) = tail.strip_suffix(".json")?.rsplit_once('/')?;
            let id = of_key.values().find(|id| rest.ends_with(id.as_str()))?;
            Some((id.clone(), revision.parse::<u64>().unwrap()))
        };
        match (&call.ask, answer) {
            (StoreAsk::Put { key, metadata, .. }, StoreAnswer::Put(reply)) => {
                if let (Some(id), PutReply::Written { .. }) = (of_key.get(key), reply) {
                    all.entry(id.clone()).or_default().records.push(record(metadata));
                } else if let (Some((id, revision)), PutReply::Written { .. }) = (marker(key), reply) {
                    all.entry(id).or_default().placed.push((order, revision));
                }
            }
            (StoreAsk::Head { bucket, key } | StoreAsk::Get { bucket, key }, StoreAnswer::Head(head)) => {
                match (bucket == RESULTS, head) {
                    (true, Some(ObjectHead { metadata, .. })) => {
                        if let Some(id) = of_key.get(key) {
                            all.entry(id.clone()).or_default().records.push(record(metadata));
                        } else if let Some((id, revision)) = marker(key) {
                            all.entry(id).or_default().placed.push((order, revision));
                        }
                    }
                    (false, None) => all.entry(of_source[key].clone()).or_default().source_gone.push(order),
                    (true, None) | (false, Some(_)) => {}
                }
            }
            _ => {}
        }
    }
    for call in world.search.calls().into_iter().filter(|call| *call.who == *who) {
        let (SearchAsk::Bulk(items), Some((stamp, SearchAnswer::Verdicts(verdicts)))) = (&call.ask, &call.answered)
        else {
            continue;
        };
        for (item, verdict) in items.iter().zip(verdicts) {
            if *verdict == ItemVerdict::Durable {
                let known = all.entry(item.document_id.clone()).or_default();
                known.placed.push((stamp.order, item.revision));
            }
        }
    }
    all
}

/// P8: for each key, record and index are what the bucket holds. A key that was never recorded must not be there.
pub fn in_step(world: &World, keys: &[&str]) -> Result<(), String> {
    for key in keys {
        let object = world.store.object(super::SOURCE, key);
        let record = world.store.object(RESULTS, &record_key(key));
        let Some(record) = record else {
            if object.is_some() {
                return Err(format!("{key}: there, and without a record"));
            }
            continue;
        };
        let record: Value = serde_json::from_slice(&record.body).unwrap();
        let document = &record["document"];
        let content = object.as_ref().map(|stored| String::from_utf8_lossy(&stored.body).into_owned());
        if document["content"].as_str().map(str::to_owned) != content || document["deleted"] != content.is_none() {
            return Err(format!("{key}: the bucket holds {content:?}, the record {document}"));
        }
        let Some(indexed) = world.search.document(&document_id(key)) else {
            return Err(format!("{key}: recorded, and not in the index"));
        };
        if record["revision"] != indexed.revision || indexed.source != *document {
            return Err(format!("{key}: the record is {record}, the index holds {indexed:?}"));
        }
    }
    Ok(())
}

/// Messages that the main queue has really deleted, as often as it has.
pub fn really_deleted(queue: &ModelQueue) -> Vec<MessageId> {
    let effects = queue.effects().into_iter();
    effects.filter_map(|(_, effect)| if let Effect::Deleted { id, .. } = effect { Some(id) } else { None }).collect()
}

/// How often each message was delivered.
pub fn receives(queue: &ModelQueue) -> BTreeMap<MessageId, u32> {
    let mut counts = BTreeMap::new();
    for (_, effect) in queue.effects() {
        if let Effect::Delivered { id, count, .. } = effect {
            counts.insert(id, count);
        }
    }
    counts
}
