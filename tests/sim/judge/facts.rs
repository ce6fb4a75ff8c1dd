//! The history of a trial, indexed once: lives, deliveries, the calls that name them, and what each life learnt.
//!
//! Promises one pass over each history and no copy of it. Judges nothing: the rules beside it do.

use std::collections::HashMap;
use std::time::Duration;

use quittance::message::{AttributeValue, DocumentId, Message};
use quittance::queue::{EntryReply, Outgoing};
use serde_json::Value;
use tokio::time::Instant;

use super::told::{Change, Told, told};
use crate::sim::faults::{Call, Stamp};
use crate::sim::queue::{Effect, QueueAnswer, QueueAsk, QueueMemory};
use crate::sim::search::SearchMemory;
use crate::sim::store::{StoreAnswer, StoreAsk, StoreMemory};
use crate::sim::story::{Ended, Line, WorkerStory};
use crate::sim::worker::{Setup, document_id};

mod hear;

pub type QueueCall = Call<QueueAsk, QueueAnswer>;
pub type StoreCall = Call<StoreAsk, StoreAnswer>;

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

    /// When the work of this delivery began: with its own delivery, or with the older one whose work it took over.
    pub fn begun(&self, delivery: &Delivery<'_>) -> Stamp {
        let taken_over = |line: &Line| line.fields["reason"] == "twin_delivery" && line.stamp.at == delivery.heard.at;
        let older = self.subjects[delivery.subject].deliveries.iter().map(|number| &self.deliveries[*number]);
        let older = older.filter(|older| older.life == delivery.life && older.heard.order < delivery.heard.order);
        let older = older.filter(|older| older.settled.iter().any(|line| taken_over(line)));
        older.map(|older| self.begun(older)).min().unwrap_or(delivery.heard)
    }

    /// Its worker stood still while it held this delivery: an answer may have been there and not been heard in time.
    pub fn stood_still(&self, delivery: &Delivery<'_>, until: Stamp) -> bool {
        let frozen = self.lives[delivery.life].story.map_or(&[][..], |story| &story.frozen);
        let begun = self.begun(delivery);
        frozen.iter().any(|(from, to)| from.order < until.order && begun.order < to.order)
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

/// The `Quittance` attribute, or null.
pub fn note(outgoing: &Outgoing) -> Value {
    match outgoing.attributes.get(quittance::dead_letter::ATTRIBUTE).map(|attribute| &attribute.value) {
        Some(AttributeValue::Text(text)) => serde_json::from_str(text).unwrap_or_default(),
        Some(AttributeValue::Binary(_)) | None => Value::Null,
    }
}
