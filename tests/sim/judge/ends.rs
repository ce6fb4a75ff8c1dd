//! E0, P5 and P8: where everything is in the end, and how it came there.
//!
//! Judges what the services really hold, whatever anybody was told.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use quittance::config::OnMissingObject;
use quittance::message::MessageId;
use serde_json::Value;

use super::durable::Discharged;
use super::facts::{Doc, Facts, Memories, note};
use super::told::{Change, Kind, Told, newer};
use super::{Findings, LOST, P5, P6, P8, PARKED};
use crate::sim::queue::Effect;
use crate::sim::store::Stored;
use crate::sim::{RESULTS, SOURCE};

/// Longest time that a message may be hidden without a heartbeat (P5: *at most 15 minutes*).
const LONGEST_RETURN: Duration = Duration::from_secs(900);
/// Deliveries of one message where no redrive policy bounds them.
const MOST_DELIVERIES: u32 = 100;

/// P5: nothing circles, and nothing is hidden for long without a heartbeat.
pub fn nothing_circles(facts: &Facts<'_>, drained: bool, findings: &mut Findings) {
    findings.unless(drained, P5, || "something was left when all was well for long".to_owned());
    for (stamp, effect) in facts.effects {
        match effect {
            Effect::Hidden { id, until, .. } | Effect::Delivered { id, until, .. } => {
                let hidden = *until - stamp.at;
                findings
                    .unless(hidden <= LONGEST_RETURN, P5, || format!("{id} was hidden for {hidden:?} at {stamp:?}"));
                if let Effect::Delivered { count, .. } = effect {
                    findings.unless(*count <= MOST_DELIVERIES, P5, || format!("{id} was delivered {count} times"));
                }
            }
            Effect::Arrived(_) | Effect::Deleted { .. } | Effect::MovedToDeadLetters(_) | Effect::Expired(_) => {}
        }
    }
}

/// Messages that lie in the dead-letter queue: sent there by a worker, or moved by SQS.
pub struct Dead<'a> {
    ids: HashSet<&'a str>,
    named: HashSet<String>,
}

impl<'a> Dead<'a> {
    pub fn of(memories: &Memories<'a>) -> Self {
        let ids = memories.letters.live.iter().map(|(id, _)| id.0.as_str()).collect();
        let named = memories
            .letters
            .live
            .iter()
            .filter_map(|(_, letter)| note(letter)["message_id"].as_str().map(str::to_owned));
        Self { ids, named: named.collect() }
    }

    fn holds(&self, id: &str) -> bool {
        self.ids.contains(id) || self.named.contains(id)
    }
}

/// A queue that moves messages this early cannot tell a deploy from a failure; `check` says so, and 20 is advised.
const LOW_RECEIVE_COUNT: u32 = 10;

/// P6: SQS itself moves a message to the dead-letter queue, without a reason, only when one of its deliveries came to
/// nothing: a worker that answered for all of them would have said why before.
pub fn moved_for_a_cause(facts: &Facts<'_>, findings: &mut Findings) {
    for (_, effect) in facts.effects {
        let Effect::MovedToDeadLetters(MessageId(id)) = effect else { continue };
        let deliveries =
            facts.of_message.get(id.as_str()).map_or(&[][..], |subject| &facts.subjects[*subject].deliveries);
        let answered = deliveries.iter().filter(|number| facts.deliveries[**number].acknowledged().is_some()).count();
        let limit = deliveries.first().and_then(|number| {
            let first = &facts.deliveries[*number];
            facts.lives[first.life].setup.max_receive_count
        });
        let all_answered = limit.is_some_and(|limit| limit >= LOW_RECEIVE_COUNT && answered >= limit as usize);
        findings.unless(!all_answered, P6, || {
            format!("SQS moved {id} to the dead-letter queue without a reason, after {answered} answered deliveries")
        });
    }
}

/// E0, lost = 0: every message that was sent is still live, or dead-lettered, or was rightly deleted by somebody (P3
/// says what that is), or each of its changes is recorded at its own state or a newer one. What the queue's retention
/// took is no worker's loss.
pub fn nothing_is_lost(
    facts: &Facts<'_>,
    memories: &Memories<'_>,
    dead: &Dead<'_>,
    discharged: &Discharged,
    findings: &mut Findings,
) {
    let expired: HashSet<&str> = facts
        .effects
        .iter()
        .filter_map(|(_, effect)| if let Effect::Expired(id) = effect { Some(id.0.as_str()) } else { None })
        .collect();
    let live: HashSet<&str> = memories.queue.live.iter().map(|(id, _)| id.0.as_str()).collect();
    let drops = facts.lives.iter().any(|life| life.setup.on_missing == OnMissingObject::Drop);
    for (number, subject) in facts.subjects.iter().enumerate() {
        let kept = live.contains(subject.id) || dead.holds(subject.id) || expired.contains(subject.id);
        if kept || discharged.subjects.contains(&number) {
            continue;
        }
        let undone = match &subject.told {
            Told::Nothing => None,
            Told::Unreadable => Some("unreadable".to_owned()),
            Told::Changes(changes) => changes
                .iter()
                .zip(&subject.docs)
                .find(|(change, doc)| !is_there(&facts.docs[**doc], change, memories, drops))
                .map(|(change, _)| format!("{:?} of {}", change.kind, change.key)),
        };
        if let Some(undone) = undone {
            findings.add(LOST, format!("{}: neither live nor dead, and not durable: {undone}", subject.id));
        }
    }
}

fn is_there(doc: &Doc, change: &Change, memories: &Memories<'_>, drops: bool) -> bool {
    match change.kind {
        Kind::Skipped => return true,
        Kind::Refused => return false,
        Kind::Created | Kind::Removed | Kind::Unstated => {}
    }
    let object = memories.store.buckets.get(SOURCE).and_then(|objects| objects.get(&change.key));
    let Some(record) = memories.store.buckets.get(RESULTS).and_then(|objects| objects.get(&doc.record_key)) else {
        let empty = object.is_none_or(|object| object.body.is_empty());
        return change.key.ends_with('/') && empty || drops && object.is_none();
    };
    let theirs = record.head.metadata.get("sequencer");
    match (theirs, &change.sequencer) {
        (Some(theirs), Some(ours)) => !newer(ours, theirs) || drops && object.is_none(),
        (None, Some(_)) => false,
        (_, None) => true,
    }
}

/// P8 and E0: record and index are what the bucket holds, nothing waits in the parked prefix; a record's revision only
/// grows, its sequencer never falls, and no record is written without a condition.
pub fn newest_wins(facts: &Facts<'_>, memories: &Memories<'_>, dead: &Dead<'_>, findings: &mut Findings) {
    for doc in &facts.docs {
        for pair in doc.landed.windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            findings.unless(before.revision < after.revision, P8, || {
                format!("{}: revision {} was written over {}", doc.key, after.revision, before.revision)
            });
            let fell = match (&before.sequencer, &after.sequencer) {
                (Some(before), Some(after)) => newer(before, after),
                (Some(_), None) => true,
                (None, _) => false,
            };
            findings.unless(!fell, P8, || {
                format!("{}: {:?} was written over the newer {:?}", doc.key, after.sequencer, before.sequencer)
            });
        }
        let unfenced = doc.landed.iter().find(|landed| landed.unconditional);
        findings.unless(unfenced.is_none(), P8, || format!("{}: a record was written without a condition", doc.key));
    }
    // What is dead-lettered was not done: its file may be newer than its record. A newer change that was done is.
    let mut waits: HashSet<usize> = HashSet::new();
    let mut newest: BTreeMap<usize, (&str, bool)> = BTreeMap::new();
    for subject in &facts.subjects {
        let Told::Changes(changes) = &subject.told else { continue };
        let is_dead = dead.holds(subject.id);
        for (change, doc) in changes.iter().zip(&subject.docs) {
            match change.sequencer.as_deref() {
                None if is_dead => drop(waits.insert(*doc)),
                None => {}
                Some(ours) => {
                    let held = newest.entry(*doc).or_insert((ours, is_dead));
                    if newer(ours, held.0) || ours == held.0 && is_dead {
                        *held = (ours, is_dead);
                    }
                }
            }
        }
    }
    waits.extend(newest.into_iter().filter(|(_, (_, is_dead))| *is_dead).map(|(doc, _)| doc));
    let drops = facts.lives.iter().any(|life| life.setup.on_missing == OnMissingObject::Drop);
    for (number, doc) in facts.docs.iter().enumerate() {
        if let Err(why) = in_step(doc, memories, waits.contains(&number), drops) {
            findings.add(P8, format!("{}: {why}", doc.key));
        }
    }
}

/// E0, parked = 0 after replay: a marker that is left is of a document that can be replayed no more.
pub fn nothing_is_parked(memories: &Memories<'_>, findings: &mut Findings) {
    let Some(results) = memories.store.buckets.get(RESULTS) else { return };
    let left = || results.range("retry-index/".to_owned()..).take_while(|(key, _)| key.starts_with("retry-index/"));
    findings.unless(left().next().is_none(), PARKED, || {
        format!("{} markers are left, the first at {}", left().count(), left().next().map_or("", |(key, _)| key))
    });
}

fn in_step(doc: &Doc, memories: &Memories<'_>, waits: bool, drops: bool) -> Result<(), String> {
    let buckets = memories.store.buckets;
    let object = buckets.get(SOURCE).and_then(|objects| objects.get(&doc.key));
    let Some(stored) = buckets.get(RESULTS).and_then(|objects| objects.get(&doc.record_key)) else {
        let folder = doc.key.ends_with('/') && object.is_some_and(|object| object.body.is_empty());
        return match object {
            Some(_) if !waits && !folder => Err("there, and without a record".to_owned()),
            Some(_) | None => Ok(()),
        };
    };
    let record: Value = serde_json::from_slice(&stored.body).map_err(|error| error.to_string())?;
    let document = &record["document"];
    let dropped = drops && object.is_none();
    if !waits && !dropped {
        is_of(document, object)?;
    }
    // Of this very revision: that an earlier one was refused says nothing of the document as it is.
    let errored = || {
        let Some(results) = buckets.get(RESULTS) else { return false };
        let revision = record["revision"].as_u64().unwrap_or_default();
        let tail = format!("/{}/{revision:020}.json", doc.id.as_str());
        results
            .range("errored-index/".to_owned()..)
            .take_while(|(key, _)| key.starts_with("errored-index/"))
            .any(|(key, _)| key.ends_with(&tail))
    };
    match memories.search.documents.get(&doc.id) {
        Some(indexed) if record["revision"] == indexed.revision && indexed.source == *document => Ok(()),
        _ if errored() => Ok(()),
        // SQS moved its message away between record and index: what the index holds is older.
        None if waits => Ok(()),
        Some(indexed) if waits && record["revision"].as_u64() > Some(indexed.revision) => Ok(()),
        // A duplicate lost its lease there, when its message was done and gone: the index holds the same by another name.
        Some(indexed) if record["revision"].as_u64() > Some(indexed.revision) && same(document, &indexed.source) => {
            Ok(())
        }
        None => Err("recorded, and not in the index".to_owned()),
        Some(indexed) => Err(format!("the record is {record}, the index holds {indexed:?}")),
    }
}

/// But for the work that wrote it.
fn same(recorded: &Value, indexed: &Value) -> bool {
    let of_the_work = ["revision", "indexed_at", "message_id", "original_message_id", "request_id"];
    let (mut recorded, mut indexed) = (recorded.clone(), indexed.clone());
    for document in [&mut recorded, &mut indexed].into_iter().filter_map(Value::as_object_mut) {
        of_the_work.iter().for_each(|field| drop(document.remove(*field)));
    }
    recorded == indexed
}

fn is_of(document: &Value, object: Option<&Stored>) -> Result<(), String> {
    let well = match object {
        None => document["deleted"] == true && document["content"].is_null(),
        Some(stored) => {
            let content = String::from_utf8_lossy(&stored.body);
            let unreadable = document["extraction_error"].is_string();
            let same_text = document["content"].as_str() == Some(&*content) || unreadable;
            document["deleted"] == false && same_text && document["source_etag"] == stored.head.etag
        }
    };
    let holds = object.map(|stored| String::from_utf8_lossy(&stored.body).into_owned());
    if well { Ok(()) } else { Err(format!("the bucket holds {holds:?}, the record {document}")) }
}

/// P8 alone, for one key: record and index are what the bucket holds.
pub fn key_in_step(facts: &Facts<'_>, memories: &Memories<'_>, key: &str) -> Result<(), String> {
    match facts.doc_of(key) {
        Some(doc) => in_step(&facts.docs[doc], memories, false, false).map_err(|why| format!("{key}: {why}")),
        None => Err(format!("{key}: nobody knows it")),
    }
}
