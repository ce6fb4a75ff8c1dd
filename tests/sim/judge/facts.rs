//! The history of a trial, indexed once: lives, deliveries, the calls that name them, and what each life learnt.
//!
//! Promises one pass over each history and no copy of it. Judges nothing: the rules beside it do.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use quittance::index::ItemVerdict;
use quittance::message::{AttributeValue, DocumentId, Message};
use quittance::queue::{EntryReply, Outgoing};
use quittance::store::{Condition, PutReply, StoreError};
use serde_json::Value;
use tokio::time::Instant;

use super::told::{Change, Told, told};
use crate::sim::faults::{Call, Stamp};
use crate::sim::queue::{Effect, QueueAnswer, QueueAsk, QueueMemory};
use crate::sim::search::{SearchAnswer, SearchAsk, SearchMemory};
use crate::sim::store::{StoreAnswer, StoreAsk, StoreMemory};
use crate::sim::story::{Ended, Line, WorkerStory};
use crate::sim::worker::{Setup, document_id};
use crate::sim::{RESULTS, SOURCE};

pub type QueueCall = Call<QueueAsk, QueueAnswer>;
pub type StoreCall = Call<StoreAsk, StoreAnswer>;

/// An extension asked this late may be cut short by SQS's 12 hours.
const NEAR_THE_CAP: Duration = Duration::from_secs(11 * 3_600);

/// What the services remember.
pub struct Memories<'a> {
    pub queue: QueueMemory<'a>,
    pub letters: QueueMemory<'a>,
    pub store: StoreMemory<'a>,
    pub search: SearchMemory<'a>,
}

/// One incarnation of a worker.
pub struct Life<'a> {
    pub who: &'a str,
    pub setup: &'a Setup,
    /// Not there where a test judges a part of a history by itself.
    pub story: Option<&'a WorkerStory>,
    /// Its deliveries, in the order heard.
    pub deliveries: Vec<usize>,
    pub polls: Vec<&'a QueueCall>,
    /// Store calls that failed, ran out of time or met a broken body: when they were over.
    pub store_trouble: Vec<Stamp>,
    /// The same of the index.
    pub search_trouble: Vec<Stamp>,
}

/// One delivery that a life has heard of.
pub struct Delivery<'a> {
    pub life: usize,
    pub message: &'a Message,
    pub subject: usize,
    /// Of the poll.
    pub asked: Stamp,
    pub heard: Stamp,
    /// Every delete and visibility change of its handle, in the order asked.
    pub entries: Vec<Entry<'a>>,
    pub received: Vec<&'a Line>,
    pub settled: Vec<&'a Line>,
}

/// One entry of a delete or a visibility change.
pub struct Entry<'a> {
    pub call: &'a QueueCall,
    pub verb: Verb,
    /// As the life heard it.
    pub reply: Option<(Stamp, &'a EntryReply)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    Delete,
    Extend(Duration),
    Return(Duration),
}

/// A message, whoever received it.
pub struct Subject<'a> {
    pub id: &'a str,
    pub told: Told,
    /// Its deliveries, by all lives.
    pub deliveries: Vec<usize>,
    /// Keys of its changes: their places in `docs`.
    pub docs: Vec<usize>,
    /// Its dead letters, by all lives.
    pub letters: Vec<usize>,
}

/// A key that somebody named.
pub struct Doc {
    pub key: String,
    pub id: DocumentId,
    pub record_key: String,
    /// Sightings that say that a file of it, or its record, made trouble of its own (not a sick service).
    pub blame: Vec<Blame>,
    /// PUTs of its record that wrote, in order: revision, sequencer, conditional, stamp.
    pub landed: Vec<Landed>,
}

/// Something that may be charged to the message.
#[derive(Clone, Copy, Debug)]
pub struct Blame {
    /// `None`: the reader's; it does not say for whom it read.
    pub life: Option<usize>,
    pub at: Instant,
    /// No retry can help.
    pub for_good: bool,
}

pub struct Landed {
    pub at: Stamp,
    pub revision: u64,
    pub sequencer: Option<String>,
    pub unconditional: bool,
}

/// What one life knows of one document from answers, each with the order in which it learnt it.
#[derive(Default)]
pub struct Knowledge<'a> {
    pub records: Vec<Known<'a>>,
    /// Revisions acknowledged by the index or by parking.
    pub placed: Vec<(u64, u64)>,
    pub source_gone: Vec<u64>,
    /// Seen with no bytes in it.
    pub source_empty: Vec<u64>,
}

/// A record that was written, or seen.
pub struct Known<'a> {
    pub order: u64,
    pub revision: u64,
    pub sequencer: Option<&'a str>,
    pub message: &'a str,
    pub tombstone: bool,
}

/// A dead letter that was asked for.
pub struct Letter<'a> {
    pub call: &'a QueueCall,
    pub outgoing: &'a Outgoing,
    pub life: usize,
    /// The message it carries, where that can be told.
    pub subject: Option<usize>,
    pub note: Value,
    pub acknowledged: Option<Stamp>,
}

/// A PUT of an attempts record.
pub struct Charge<'a> {
    pub call: &'a StoreCall,
    pub life: usize,
    pub subject: usize,
    pub failed: u64,
}

pub struct Facts<'a> {
    pub effects: &'a [(Stamp, Effect)],
    pub lives: Vec<Life<'a>>,
    pub deliveries: Vec<Delivery<'a>>,
    pub subjects: Vec<Subject<'a>>,
    pub docs: Vec<Doc>,
    pub knowledge: HashMap<(usize, usize), Knowledge<'a>>,
    pub letters: Vec<Letter<'a>>,
    pub charges: Vec<Charge<'a>>,
    /// Record PUTs asked: life, document, call.
    pub record_puts: Vec<(usize, usize, &'a StoreCall)>,
    /// By life and subject: the attempts record was out of reach for a reason of its own.
    pub attempts_unreadable: HashMap<(usize, usize), u64>,
    /// Deletes and visibility changes of handles that the asker was never given.
    pub strangers: Vec<&'a QueueCall>,
    pub of_handle: HashMap<&'a str, usize>,
    pub of_message: HashMap<&'a str, usize>,
    of_life: HashMap<&'a str, usize>,
    of_doc_key: HashMap<String, usize>,
    of_record: HashMap<String, usize>,
    of_doc_id: HashMap<String, usize>,
}

impl<'a> Facts<'a> {
    /// `lives`: whose calls are looked at; all others' are passed over. `sent`: bodies of messages that may never have
    /// been delivered. `keys`: keys that may be in no message.
    pub fn of<'k>(
        memories: &Memories<'a>,
        lives: impl IntoIterator<Item = (&'a str, &'a Setup, Option<&'a WorkerStory>)>,
        sent: impl IntoIterator<Item = (&'a str, &'a str)>,
        keys: impl IntoIterator<Item = &'k str>,
    ) -> Self {
        let mut facts = Self {
            effects: memories.queue.effects,
            lives: Vec::new(),
            deliveries: Vec::new(),
            subjects: Vec::new(),
            docs: Vec::new(),
            knowledge: HashMap::new(),
            letters: Vec::new(),
            charges: Vec::new(),
            record_puts: Vec::new(),
            attempts_unreadable: HashMap::new(),
            strangers: Vec::new(),
            of_handle: HashMap::new(),
            of_message: HashMap::new(),
            of_life: HashMap::new(),
            of_doc_key: HashMap::new(),
            of_record: HashMap::new(),
            of_doc_id: HashMap::new(),
        };
        for (who, setup, story) in lives {
            facts.of_life.insert(who, facts.lives.len());
            facts.lives.push(Life {
                who,
                setup,
                story,
                deliveries: Vec::new(),
                polls: Vec::new(),
                store_trouble: Vec::new(),
                search_trouble: Vec::new(),
            });
        }
        for key in keys {
            facts.doc(key);
        }
        for (id, body) in sent {
            facts.subject(id, body);
        }
        facts.hear_queue(memories.queue.calls);
        facts.hear_lines();
        facts.hear_letters(memories.letters.calls);
        facts.hear_store(&memories.store);
        facts.hear_search(memories.search.calls);
        facts
    }

    pub fn who(&self, life: usize) -> &'a str {
        self.lives[life].who
    }

    /// When a life that stood still at this moment could hear of it.
    pub fn thawed(&self, life: usize, stamp: Stamp) -> Stamp {
        let frozen = self.lives[life].story.map_or(&[][..], |story| &story.frozen);
        let still = frozen.iter().find(|(from, to)| from.order < stamp.order && stamp.order < to.order);
        still.map_or(stamp, |(_, to)| *to)
    }

    /// What this life heard of its call: nothing that came when it stood still for ever, or was dead.
    pub fn heard<Ask, Answer>(&self, life: usize, call: &'a Call<Ask, Answer>) -> Option<(Stamp, &'a Answer)> {
        let (stamp, answer) = call.heard()?;
        let died = self.died(life).is_some_and(|died| self.thawed(life, stamp).order >= died.order);
        (!died).then_some((stamp, answer))
    }

    fn died(&self, life: usize) -> Option<Stamp> {
        self.lives[life].story.and_then(|story| match story.ended {
            Ended::Crashed(stamp) => Some(stamp),
            Ended::Stopped(_) => None,
        })
    }

    /// Before this place in the history the life had heard that a dead letter of this message was taken.
    pub fn letter_before(&self, life: usize, subject: usize, order: u64) -> bool {
        let of = self.subjects[subject].letters.iter().map(|letter| &self.letters[*letter]);
        of.filter(|letter| letter.life == life)
            .any(|letter| letter.acknowledged.is_some_and(|acknowledged| acknowledged.order < order))
    }

    /// When the delivery left its life's hands: by its line, by the queue's answer, or by the life's own end.
    pub fn end(&self, delivery: &Delivery<'_>) -> Option<Stamp> {
        let settled = delivery.settled.first().map(|line| line.stamp);
        settled.or(delivery.acknowledged().map(|(stamp, _)| stamp)).or(self.died(delivery.life))
    }

    /// The document of a key that somebody named.
    pub fn doc_of(&self, key: &str) -> Option<usize> {
        self.of_doc_key.get(key).copied()
    }

    /// The document that a record's or a marker's key in the results bucket is of.
    pub fn doc_of_marker(&self, key: &str) -> Option<(usize, u64)> {
        let (rest, revision) = key.strip_suffix(".json")?.rsplit_once('/')?;
        let (_, id) = rest.rsplit_once('/')?;
        Some((*self.of_doc_id.get(id)?, revision.parse().ok()?))
    }

    fn doc(&mut self, key: &str) -> usize {
        if let Some(doc) = self.of_doc_key.get(key) {
            return *doc;
        }
        let doc = self.docs.len();
        let id = document_id(key);
        let record_key = quittance::store::layout::record(&crate::sim::worker::namespace(), &id);
        self.of_doc_key.insert(key.to_owned(), doc);
        self.of_record.insert(record_key.clone(), doc);
        self.of_doc_id.insert(id.as_str().to_owned(), doc);
        self.docs.push(Doc { key: key.to_owned(), id, record_key, blame: Vec::new(), landed: Vec::new() });
        doc
    }

    fn subject(&mut self, id: &'a str, body: &str) -> usize {
        if let Some(subject) = self.of_message.get(id) {
            return *subject;
        }
        let told = told(body);
        let docs = match &told {
            Told::Changes(changes) => changes.iter().map(|change: &Change| self.doc(&change.key)).collect(),
            Told::Nothing | Told::Unreadable => Vec::new(),
        };
        let subject = self.subjects.len();
        self.of_message.insert(id, subject);
        self.subjects.push(Subject { id, told, deliveries: Vec::new(), docs, letters: Vec::new() });
        subject
    }

    fn hear_queue(&mut self, calls: &'a [QueueCall]) {
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
                QueueAsk::Send(_) | QueueAsk::Facts => {}
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
    fn hear_lines(&mut self) {
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

    fn hear_letters(&mut self, calls: &'a [QueueCall]) {
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

    fn hear_store(&mut self, store: &StoreMemory<'a>) {
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
            let conflict = matches!(heard, Some((_, StoreAnswer::Put(PutReply::Conflict))));
            if failure.is_some() || broken || conflict || heard.is_none() {
                self.lives[life].store_trouble.extend(call.over());
            }
            let (bucket, key) = match &call.ask {
                StoreAsk::Head { bucket, key } | StoreAsk::Get { bucket, key } | StoreAsk::Put { bucket, key, .. } => {
                    (bucket, key)
                }
                StoreAsk::Delete { .. } | StoreAsk::List { .. } | StoreAsk::Probe { .. } => continue,
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

    fn hear_search(&mut self, calls: &'a [Call<SearchAsk, SearchAnswer>]) {
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
                    (ItemVerdict::Durable, Some(doc)) => {
                        let known = self.knowledge.entry((life, *doc)).or_default();
                        known.placed.push((stamp.order, item.revision));
                    }
                    (ItemVerdict::Durable, None) => {}
                    (ItemVerdict::Refused(_) | ItemVerdict::Systemic(_), _) => {
                        self.lives[life].search_trouble.push(stamp);
                    }
                }
            }
        }
    }
}

impl Delivery<'_> {
    /// When the delivery was over as the queue said it: its delete or its return was acknowledged.
    pub fn acknowledged(&self) -> Option<(Stamp, Verb)> {
        let acknowledged = |entry: &Entry<'_>| match (entry.verb, entry.reply) {
            (Verb::Delete | Verb::Return(_), Some((stamp, Ok(())))) => Some((stamp, entry.verb)),
            (Verb::Delete | Verb::Return(_) | Verb::Extend(_), _) => None,
        };
        self.entries.iter().find_map(acknowledged)
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

/// The `Quittance` attribute, or null.
pub fn note(outgoing: &Outgoing) -> Value {
    match outgoing.attributes.get(quittance::dead_letter::ATTRIBUTE).map(|attribute| &attribute.value) {
        Some(AttributeValue::Text(text)) => serde_json::from_str(text).unwrap_or_default(),
        Some(AttributeValue::Binary(_)) | None => Value::Null,
    }
}
