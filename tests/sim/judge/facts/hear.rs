//! One pass over each history: calls to their deliveries and documents, answers to what a life has learnt.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use quittance::index::ItemAnswer;
use quittance::store::{Condition, PutReply, StoreError};
use serde_json::Value;

use super::{Blame, Charge, Delivery, Entry, Facts, Known, Landed, Letter, QueueCall, StoreCall, Verb, note};
use crate::sim::faults::Call;
use crate::sim::queue::{QueueAnswer, QueueAsk};
use crate::sim::search::{SearchAnswer, SearchAsk};
use crate::sim::store::{StoreAnswer, StoreAsk, StoreMemory};
use crate::sim::{RESULTS, SOURCE};

/// An extension asked this late may be cut short by SQS's 12 hours.
const NEAR_THE_CAP: Duration = Duration::from_secs(11 * 3_600);

impl<'a> Facts<'a> {
    pub(super) fn hear_queue(&mut self, calls: &'a [QueueCall]) {
        for call in calls {
            let Some(life) = self.of_life.get(&*call.who).copied() else { continue };
            match &call.ask {
                QueueAsk::Receive { .. } => {
                    self.lives[life].polls.push(call);
                    let Some((heard, QueueAnswer::Received(messages))) = self.heard(life, call) else { continue };
                    for message in messages {
                        let subject = self.subject(&message.id.0, &message.body);
                        let number = self.deliveries.len();
                        self.of_handle.insert(&message.handle.0, number);
                        self.subjects[subject].deliveries.push(number);
                        self.lives[life].deliveries.push(number);
                        self.deliveries.push(Delivery {
                            life,
                            message,
                            subject,
                            asked: call.asked,
                            heard,
                            entries: Vec::new(),
                            received: Vec::new(),
                            settled: Vec::new(),
                        });
                    }
                }
                QueueAsk::Delete(handles) => {
                    for (position, handle) in handles.iter().enumerate() {
                        self.entry(call, position, &handle.0, |_, _| Verb::Delete);
                    }
                }
                QueueAsk::Change(entries) => {
                    for (position, (handle, time)) in entries.iter().enumerate() {
                        self.entry(call, position, &handle.0, |visibility, capped| change(*time, visibility, capped));
                    }
                }
                QueueAsk::Send(_) | QueueAsk::SendBatch(_) | QueueAsk::Facts => {}
            }
        }
    }

    fn entry(&mut self, call: &'a QueueCall, position: usize, handle: &str, verb: impl FnOnce(Duration, bool) -> Verb) {
        let Some(number) = self.of_handle.get(handle).copied() else { return self.strangers.push(call) };
        let delivery = &self.deliveries[number];
        if self.lives[delivery.life].who != &*call.who {
            return self.strangers.push(call);
        }
        let life = delivery.life;
        let visibility = self.lives[life].setup.visibility;
        let capped = call.asked.at.saturating_duration_since(delivery.asked.at) > NEAR_THE_CAP;
        let reply = match self.heard(life, call) {
            Some((stamp, QueueAnswer::Entries(replies))) => replies.get(position).map(|reply| (stamp, reply)),
            Some(_) | None => None,
        };
        self.deliveries[number].entries.push(Entry { call, verb: verb(visibility, capped), reply });
    }

    /// Lines are joined to deliveries by message id and receive count.
    pub(super) fn hear_lines(&mut self) {
        let mut of_delivery: HashMap<(usize, &str, u64), usize> = HashMap::new();
        for (number, delivery) in self.deliveries.iter().enumerate() {
            let key = (delivery.life, delivery.message.id.0.as_str(), u64::from(delivery.message.receive_count));
            of_delivery.insert(key, number);
        }
        for life in 0..self.lives.len() {
            let Some(story) = self.lives[life].story else { continue };
            for line in &story.lines {
                let received = line.event == "message_received";
                if !received && line.event != "message_settled" {
                    continue;
                }
                let (Some(id), Some(count)) =
                    (line.fields["message_id"].as_str(), line.fields["receive_count"].as_u64())
                else {
                    continue;
                };
                if let Some(number) = of_delivery.get(&(life, id, count)) {
                    let delivery = &mut self.deliveries[*number];
                    if received { &mut delivery.received } else { &mut delivery.settled }.push(line);
                }
            }
        }
    }

    pub(super) fn hear_letters(&mut self, calls: &'a [QueueCall]) {
        for call in calls {
            let (QueueAsk::Send(outgoing), Some(life)) = (&call.ask, self.of_life.get(&*call.who)) else { continue };
            let note = note(outgoing);
            let named = note["message_id"].as_str().and_then(|id| self.of_message.get(id)).copied();
            let of_body = |subject: &usize| {
                let first = self.subjects[*subject].deliveries.first();
                first.is_some_and(|number| self.deliveries[*number].message.body == outgoing.body)
            };
            // A redriven message's note names the id it was first sent under; a bare one names nothing.
            let subject = named.filter(of_body).or_else(|| {
                let held = self.lives[*life].deliveries.iter().rev().map(|number| &self.deliveries[*number]);
                held.filter(|held| held.message.body == outgoing.body).map(|held| held.subject).next()
            });
            let acknowledged = match self.heard(*life, call) {
                Some((stamp, QueueAnswer::Sent(_))) => Some(stamp),
                Some(_) | None => None,
            };
            if let Some(subject) = subject {
                self.subjects[subject].letters.push(self.letters.len());
            }
            self.letters.push(Letter { call, outgoing, life: *life, subject, note, acknowledged });
        }
    }

    pub(super) fn hear_store(&mut self, store: &StoreMemory<'a>) {
        let mut spoilt = store.spoilt.to_vec();
        spoilt.sort_unstable(); // they are told in the order of their effects
        let mut spoilt = spoilt.into_iter().peekable();
        let attempts = format!("attempts/{}/", crate::sim::worker::namespace());
        for (number, call) in store.calls.iter().enumerate() {
            let broken = spoilt.next_if(|at| *at == number).is_some();
            let Some(life) = self.of_life.get(&*call.who).copied() else { continue };
            let heard = self.heard(life, call);
            let failure = match heard {
                Some((_, StoreAnswer::Failed(error))) => Some(error),
                Some(_) | None => None,
            };
            // A record that was written by somebody else is no trouble; a marker that can neither be written nor seen is.
            let conflict = matches!(heard, Some((_, StoreAnswer::Put(PutReply::Conflict))));
            let of_marker = matches!(&call.ask, StoreAsk::Put { key, .. } if key.contains("-index/"));
            if failure.is_some() || broken || heard.is_none() || conflict && of_marker {
                self.lives[life].store_trouble.extend(call.over());
            }
            let (bucket, key) = match &call.ask {
                StoreAsk::Head { bucket, key } | StoreAsk::Get { bucket, key } | StoreAsk::Put { bucket, key, .. } => {
                    (bucket, key)
                }
                StoreAsk::Delete { .. }
                | StoreAsk::DeleteIfMatch { .. }
                | StoreAsk::List { .. }
                | StoreAsk::Probe { .. } => continue,
            };
            if let Some(id) = key.strip_prefix(&attempts).filter(|_| bucket == RESULTS) {
                let Some(subject) = id.strip_suffix(".json").and_then(|id| self.of_message.get(id)).copied() else {
                    continue;
                };
                if failure.is_some_and(of_this_object) || broken {
                    self.attempts_unreadable.entry((life, subject)).or_insert(call.asked.order);
                }
                if let StoreAsk::Put { body, .. } = &call.ask {
                    let body: Value = serde_json::from_slice(body).unwrap_or_default();
                    let failed = body["failed"].as_u64().unwrap_or_default();
                    self.charges.push(Charge { call, life, subject, failed });
                }
                continue;
            }
            let of_source = bucket == SOURCE;
            let doc = if of_source { self.of_doc_key.get(key) } else { self.of_record.get(key) }.copied();
            if let Some(doc) = doc {
                let missing = of_source && matches!(heard, Some((_, StoreAnswer::Head(None))));
                let large = matches!(heard, Some((_, StoreAnswer::Head(Some(head))))
                    if of_source && head.size > self.lives[life].setup.max_object_bytes);
                // A PUT that is denied is its file's trouble as well; a lost race is not.
                if missing || large || broken || failure.is_some_and(of_this_object) {
                    let at = call.over().map_or(call.asked.at, |over| over.at);
                    let for_good = matches!(failure, Some(StoreError::Archived(_)));
                    self.docs[doc].blame.push(Blame { life: Some(life), at, for_good });
                }
            }
            self.learn(life, call, of_source, doc, key);
        }
        for number in store.landed {
            let call = &store.calls[*number];
            let StoreAsk::Put { key, metadata, condition, .. } = &call.ask else { continue };
            let (Some(doc), Some(at)) = (self.of_record.get(key), call.took_effect) else { continue };
            self.docs[*doc].landed.push(Landed {
                at,
                revision: metadata.get("revision").and_then(|text| text.parse().ok()).unwrap_or(0),
                sequencer: metadata.get("sequencer").cloned(),
                unconditional: *condition == Condition::None,
            });
        }
    }

    fn learn(&mut self, life: usize, call: &'a StoreCall, of_source: bool, doc: Option<usize>, key: &str) {
        if let (StoreAsk::Put { .. }, Some(doc), false) = (&call.ask, doc, of_source) {
            self.record_puts.push((life, doc, call));
        }
        let Some((stamp, answer)) = self.heard(life, call) else { return };
        let metadata = match (&call.ask, answer) {
            (StoreAsk::Put { metadata, .. }, StoreAnswer::Put(PutReply::Written { .. })) => metadata,
            (_, StoreAnswer::Head(Some(head))) if !of_source => &head.metadata,
            (_, StoreAnswer::Head(head)) if of_source => {
                let Some(doc) = doc else { return };
                let known = self.knowledge.entry((life, doc)).or_default();
                match head {
                    None => known.source_gone.push(stamp.order),
                    Some(head) if head.size == 0 => known.source_empty.push(stamp.order),
                    Some(_) => {}
                }
                return;
            }
            _ => return,
        };
        if let Some(doc) = doc {
            let known = known(stamp.order, metadata);
            self.knowledge.entry((life, doc)).or_default().records.push(known);
        } else if key.starts_with("retry-index/") || key.starts_with("errored-index/") {
            // That a marker conflicts does not say that it is there: only writing or seeing it does.
            if let Some((doc, revision)) = self.doc_of_marker(key) {
                self.knowledge.entry((life, doc)).or_default().placed.push((stamp.order, revision));
            }
        }
    }

    pub(super) fn hear_search(&mut self, calls: &'a [Call<SearchAsk, SearchAnswer>]) {
        for call in calls {
            let Some(life) = self.of_life.get(&*call.who).copied() else { continue };
            let (SearchAsk::Bulk(items), Some((stamp, SearchAnswer::Verdicts(verdicts)))) =
                (&call.ask, self.heard(life, call))
            else {
                self.lives[life].search_trouble.extend(call.over());
                continue;
            };
            for (item, verdict) in items.iter().zip(verdicts) {
                match (verdict, self.of_doc_id.get(item.document_id.as_str())) {
                    (ItemAnswer::Durable, Some(doc)) => {
                        let known = self.knowledge.entry((life, *doc)).or_default();
                        known.placed.push((stamp.order, item.revision));
                    }
                    (ItemAnswer::Durable, None) => {}
                    (
                        ItemAnswer::Refused(_)
                        | ItemAnswer::Unclear(_)
                        | ItemAnswer::Busy(_)
                        | ItemAnswer::Unknown(_)
                        | ItemAnswer::Sick(_),
                        _,
                    ) => {
                        self.lives[life].search_trouble.push(stamp);
                    }
                }
            }
        }
    }
}

/// An extension asks for the lease again, or for what SQS's 12 hours leave of it; everything else is a return.
fn change(time: Duration, visibility: Duration, capped: bool) -> Verb {
    let rest = capped && !time.is_zero() && time < visibility && time.subsec_nanos() == 0;
    if time == visibility || rest { Verb::Extend(time) } else { Verb::Return(time) }
}

/// Errors that may be charged to a message: they name its object and no sick service.
fn of_this_object(error: &StoreError) -> bool {
    match error {
        StoreError::Denied(_)
        | StoreError::Throttled(_)
        | StoreError::Archived(_)
        | StoreError::Interrupted(_)
        | StoreError::Refused(_)
        | StoreError::BucketMissing(_) => true,
        StoreError::Unavailable(_) => false,
    }
}

fn known(order: u64, metadata: &BTreeMap<String, String>) -> Known<'_> {
    let field = |name: &str| metadata.get(name).map(String::as_str);
    Known {
        order,
        revision: field("revision").and_then(|text| text.parse().ok()).unwrap_or(0),
        sequencer: field("sequencer"),
        message: field("message-id").unwrap_or_default(),
        tombstone: field("etag").is_none(),
    }
}
