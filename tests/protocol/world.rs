//! The state of everything: bucket, queue, record, index, markers, network, workers and replayers.
//!
//! Promises that the services do what S3 and OpenSearch do with a call that lands, whenever it lands. Knows no order
//! of calls: that is in `worker.rs` and `replay.rs`.

use crate::model::Flaw;
use crate::rules::{Content, Record};

/// Room for workers, replayers and calls without a caller.
pub const WORKERS: usize = 3;
pub const REPLAYERS: usize = 2;
pub const CALLS: usize = 2;
/// Room for markers.
pub const REVISIONS: u8 = 15;

/// What the index holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Entry {
    /// The external version; 0 where there is nothing.
    pub revision: u8,
    pub content: Content,
}

impl Entry {
    fn word(self) -> u64 {
        u64::from(self.revision) | (self.content as u64) << 4
    }
}

/// Markers by revision, two bits for each: what the record said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Markers(u32);

impl Markers {
    pub fn any(self) -> bool {
        self.0 != 0
    }

    pub fn all(self) -> impl Iterator<Item = Entry> {
        (1..=REVISIONS).filter_map(move |revision| {
            let content = match self.0 >> (2 * revision) & 3 {
                1 => Content::Gone,
                2 => Content::A,
                3 => Content::B,
                _ => return None,
            };
            Some(Entry { revision, content })
        })
    }

    /// What is there already stays.
    fn put(&mut self, Entry { revision, content }: Entry) {
        let bits = match content {
            Content::Nothing => 0,
            Content::Gone => 1,
            Content::A => 2,
            Content::B => 3,
        };
        if self.0 >> (2 * revision) & 3 == 0 {
            self.0 |= bits << (2 * revision);
        }
    }

    fn delete(&mut self, revision: u8) {
        self.0 &= !(3 << (2 * revision));
    }
}

/// A call that changes something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Call {
    #[default]
    None,
    /// `If-None-Match: *` where `over` is not there, else `If-Match`.
    PutRecord {
        over: Record,
        record: Record,
    },
    /// `external_gte`.
    Bulk(Entry),
    /// `If-None-Match: *` under its revision. The content is nobody's business but a flaw's.
    PutMarker(Entry),
    DeleteMarker(u8),
    DeleteMessage(u8),
}

impl Call {
    fn word(self) -> u64 {
        match self {
            Call::None => 0,
            Call::PutRecord { over, record } => 1 | over.word() << 8 | record.word() << 24,
            Call::Bulk(entry) => 2 | entry.word() << 8,
            Call::PutMarker(entry) => 3 | entry.word() << 8,
            Call::DeleteMarker(revision) => 4 | u64::from(revision) << 8,
            Call::DeleteMessage(message) => 5 | u64::from(message) << 8,
        }
    }
}

/// The next call of a worker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum At {
    #[default]
    Idle,
    /// Look-up: before the source on a later delivery, after a lost race.
    HeadRecord,
    /// Its current object.
    ReadSource,
    /// Look-up of a created change whose source is gone and that knows of no record.
    ExplainAbsence,
    PutRecord,
    /// Of an equal record, to index it.
    GetRecord,
    Bulk,
    PutMarker,
    DeleteMessage,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Worker {
    pub at: At,
    pub message: u8,
    /// Of the message's changes, the one in work.
    pub change: u8,
    /// The receive count said that this is a later delivery.
    pub again: bool,
    /// A change of the message could not be done: it will be returned.
    pub undone: bool,
    /// The lease has ended.
    pub late: bool,
    /// What was read of the source.
    pub read: Content,
    /// What was seen of the record; from the bulk on, what is brought into the index.
    pub record: Record,
}

impl Worker {
    pub fn after_lost_race(self) -> Self {
        Self { at: At::HeadRecord, record: Record::default(), ..self }
    }

    fn word(self) -> u64 {
        let Self { at, message, change, again, undone, late, read, record } = self;
        let flags = u64::from(again) | u64::from(undone) << 1 | u64::from(late) << 2;
        let place = at as u64 | u64::from(message) << 8 | u64::from(change) << 12 | flags << 16;
        place | (read as u64) << 20 | record.word() << 24
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum ReplayAt {
    #[default]
    Idle,
    GetRecord,
    Bulk,
    DeleteMarker,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Replayer {
    pub at: ReplayAt,
    pub marker: Entry,
    pub entry: Entry,
}

impl Replayer {
    fn word(self) -> u64 {
        self.at as u64 | self.marker.word() << 8 | self.entry.word() << 16
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct World {
    /// Changes of the bucket so far.
    pub happened: u8,
    /// A bit for each message that is gone from the queue.
    pub deleted: u8,
    pub record: Record,
    pub index: Entry,
    pub markers: Markers,
    pub workers: [Worker; WORKERS],
    pub replayers: [Replayer; REPLAYERS],
    pub calls: [Call; CALLS],
}

impl World {
    /// All of it, for a hash.
    pub fn words(&self) -> [u64; 7] {
        let Self { happened, deleted, record, index, markers, workers: [a, b, c], replayers: [d, e], calls: [f, g] } =
            *self;
        let queue = u64::from(happened) | u64::from(deleted) << 8;
        let services = queue | record.word() << 16 | index.word() << 32;
        [
            services,
            u64::from(markers.0),
            a.word(),
            b.word(),
            c.word(),
            d.word() | e.word() << 32,
            f.word() ^ g.word() << 1,
        ]
    }

    pub fn is_deleted(&self, message: u8) -> bool {
        self.deleted & (1 << message) != 0
    }

    /// The same world whichever worker is called the first; who is idle is called last.
    pub fn sorted(mut self) -> Self {
        if self.workers[1].at != At::Idle || self.workers[2].at != At::Idle {
            self.workers.sort_unstable_by(|a, b| b.cmp(a));
        }
        if self.replayers[1].at != ReplayAt::Idle {
            self.replayers.sort_unstable_by(|a, b| b.cmp(a));
        }
        if self.calls[1] != Call::None {
            self.calls.sort_unstable_by(|a, b| b.cmp(a));
        }
        self
    }

    /// A call without a caller.
    pub fn leave_in_flight(&mut self, call: Call) {
        if let Some(place) = self.calls.iter_mut().find(|place| **place == Call::None) {
            *place = call;
        }
    }

    /// A call lands; `false` is a lost race.
    pub fn land(&mut self, call: Call, flaw: Option<Flaw>) -> bool {
        match call {
            Call::None => {}
            Call::PutRecord { over, record } => {
                if self.record != over && flaw != Some(Flaw::UnconditionalPut) {
                    return false;
                }
                self.record = record;
            }
            Call::Bulk(entry) => {
                if entry.revision >= self.index.revision || flaw == Some(Flaw::UnversionedIndex) {
                    self.index = entry;
                }
            }
            Call::PutMarker(entry) => self.markers.put(entry),
            Call::DeleteMarker(revision) => self.markers.delete(revision),
            Call::DeleteMessage(message) => self.deleted |= 1 << message,
        }
        true
    }

    /// Leaves out what can change nothing any more, whenever it comes: a record that was written over never comes back,
    /// an index goes to no older revision, and a message is deleted once.
    pub fn tidy(&mut self, flaw: Option<Flaw>) {
        let (record, index, deleted) = (self.record, self.index, self.deleted);
        let is_deleted = |message: u8| deleted & (1 << message) != 0;
        let is_lost = |over| over != record && flaw != Some(Flaw::UnconditionalPut);
        for call in &mut self.calls {
            let spent = match *call {
                Call::PutRecord { over, .. } => is_lost(over),
                Call::Bulk(entry) => index.revision >= entry.revision && flaw.is_none(),
                Call::DeleteMessage(message) => is_deleted(message),
                Call::None | Call::PutMarker(_) | Call::DeleteMarker(_) => false,
            };
            if spent {
                *call = Call::None;
            }
        }
        for worker in &mut self.workers {
            match worker.at {
                At::PutRecord if is_lost(worker.record) => *worker = worker.after_lost_race(),
                At::DeleteMessage if is_deleted(worker.message) => *worker = Worker::default(),
                At::Idle | At::HeadRecord | At::ReadSource | At::ExplainAbsence | At::PutRecord => {}
                At::GetRecord | At::Bulk | At::PutMarker | At::DeleteMessage => {}
            }
        }
    }
}
