//! What each source said of a file or a message. Data, and how it reads as JSON.
//!
//! Promises that a source which was not heard is never taken for one that knows nothing: [`Look`] has a word for each.

use std::collections::BTreeSet;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::message::DocumentId;

/// What one source said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Look<T> {
    /// It has something.
    Found(T),
    /// It has nothing.
    Nothing,
    /// It could not be asked, or gave no answer that can be trusted: why.
    Unheard(String),
    /// It was not to be asked: why.
    NotAsked(&'static str),
}

impl<T> Look<T> {
    /// What was found.
    pub fn found(&self) -> Option<&T> {
        match self {
            Look::Found(found) => Some(found),
            Look::Nothing | Look::Unheard(_) | Look::NotAsked(_) => None,
        }
    }

    /// It was asked and has nothing.
    pub fn is_nothing(&self) -> bool {
        matches!(self, Look::Nothing)
    }

    /// Why it could not be asked.
    pub fn unheard(&self) -> Option<&str> {
        match self {
            Look::Unheard(why) => Some(why),
            Look::Found(_) | Look::Nothing | Look::NotAsked(_) => None,
        }
    }
}

impl<T> From<Option<T>> for Look<T> {
    fn from(found: Option<T>) -> Self {
        found.map_or(Look::Nothing, Look::Found)
    }
}

/// `{"state":"found","found":…}`, `{"state":"nothing"}`, `{"state":"unheard","why":…}`, `{"state":"not_asked","why":…}`.
impl<T: Serialize> Serialize for Look<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Look::Found(found) => {
                map.serialize_entry("state", "found")?;
                map.serialize_entry("found", found)?;
            }
            Look::Nothing => map.serialize_entry("state", "nothing")?,
            Look::Unheard(why) => {
                map.serialize_entry("state", "unheard")?;
                map.serialize_entry("why", why)?;
            }
            Look::NotAsked(why) => {
                map.serialize_entry("state", "not_asked")?;
                map.serialize_entry("why", why)?;
            }
        }
        map.end()
    }
}

/// The file itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Object {
    /// Its etag.
    pub etag: String,
    /// Bytes.
    pub size: u64,
    /// `Last-Modified`, Unix milliseconds.
    pub modified_ms: Option<u64>,
}

/// Its record, without the text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RecordSeen {
    /// Its revision.
    pub revision: u64,
    /// When it was written, Unix milliseconds.
    pub recorded_ms: u64,
    /// Etag of the file it was read from; `None` is a tombstone: the file was removed.
    pub source_etag: Option<String>,
    /// Order of the newest event that is known.
    pub sequencer: Option<String>,
    /// The message that wrote it.
    pub message_id: Option<String>,
    /// The id under which that message was first sent, where it was redriven.
    pub original_message_id: Option<String>,
    /// Who read the file.
    pub extractor: Option<String>,
    /// What could not be read in it.
    pub extraction_error: Option<String>,
}

/// The document in the index.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Indexed {
    /// Its revision.
    pub revision: u64,
    /// A tombstone.
    pub deleted: bool,
}

/// A marker of a document that is not in the index.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Mark {
    /// Where it lies.
    pub marker: String,
    /// The revision that is not in the index.
    pub revision: u64,
    /// When it first failed, RFC 3339; `None`: the marker could not be read.
    pub failed_at: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// The markers of one document in one lot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Marks {
    /// Oldest day first.
    pub marks: Vec<Mark>,
    /// Where there were more days than were looked through: the first that was not, the record's own excepted.
    pub not_from: Option<String>,
}

/// Our own account of a message's troubles.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct AttemptsSeen {
    /// Charged failures.
    pub failed: u32,
    /// First failure, RFC 3339.
    pub first_failed_at: Option<String>,
    /// Last failure, RFC 3339.
    pub last_failed_at: Option<String>,
    /// Reasons of the last failures, the newest last.
    pub reasons: Vec<String>,
    /// Work that was begun and has not ended: by which run, and since when.
    pub begun: Vec<BegunSeen>,
}

/// A mark of work that has not ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct BegunSeen {
    /// `run_id` of the worker's log lines.
    pub run: String,
    /// RFC 3339.
    pub at: String,
}

/// Where a letter was found, and what that means.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// In the dead-letter queue.
    DeadLetterQueue,
    /// In the archive: given up on.
    GivenUp {
        /// Key in the results bucket.
        key: String,
    },
    /// In the archive, for it is too full for its attribute: the letter itself is in the dead-letter queue, or was.
    Envelope {
        /// Key in the results bucket.
        key: String,
    },
    /// In the archive: a copy that an operator saved.
    Saved {
        /// Key in the results bucket.
        key: String,
    },
}

/// A message that was put aside.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Letter {
    /// Where it is.
    pub place: Place,
    /// Its id there.
    pub message_id: String,
    /// The id it was first sent under, where it is known.
    pub original_message_id: Option<String>,
    /// Why, by a stable name.
    pub reason: String,
    /// Why, as a sentence.
    pub detail: String,
    /// When, RFC 3339: archived, or failed for the last time, or sent.
    pub at: Option<String>,
    /// Failed attempts.
    pub attempts: Option<u32>,
    /// How often it was redriven.
    pub redrives: u32,
    /// The files it names.
    pub files: BTreeSet<FileName>,
}

/// A file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct FileName {
    /// Source bucket.
    pub bucket: String,
    /// Source key.
    pub key: String,
}

/// A look through messages that were put aside.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Letters {
    /// Those that were asked for.
    pub found: Vec<Letter>,
    /// How many were read for it.
    pub read: usize,
    /// There are more than were read, or some could not be read: what is not found may be among them.
    pub more: bool,
    /// What is to be known of the look itself.
    pub notes: Vec<String>,
}

/// Everything known about a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FileFindings {
    /// Source bucket.
    pub bucket: String,
    /// Source key.
    pub key: String,
    /// Its name in S3 keys and in the index.
    pub document_id: DocumentId,
    /// The file itself.
    pub object: Look<Object>,
    /// Its record.
    pub record: Look<RecordSeen>,
    /// What the index holds.
    pub index: Look<Indexed>,
    /// Whether a search shows it.
    pub shown: Look<bool>,
    /// Markers that are replayed.
    pub parked: Look<Marks>,
    /// Markers that are not.
    pub errored: Look<Marks>,
    /// Attempts of the messages that its record and its letters name: id, and what was found.
    pub attempts: Vec<(String, Look<AttemptsSeen>)>,
    /// In the archive.
    pub archive: Look<Letters>,
    /// In the dead-letter queue.
    pub dead_letters: Look<Letters>,
}

/// Everything known about a message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct MessageFindings {
    /// As asked for.
    pub message_id: String,
    /// Its failed attempts.
    pub attempts: Look<AttemptsSeen>,
    /// In the archive.
    pub archive: Look<Letters>,
    /// In the dead-letter queue.
    pub dead_letters: Look<Letters>,
    /// How many documents of the index name it, at most [`MOST_FILES`](super::MOST_FILES) and one.
    pub documents: Look<usize>,
    /// The files that the index or its letters tell of.
    pub files: Vec<FileFindings>,
}

impl FileFindings {
    /// What could not be asked: source and reason.
    pub fn unheard(&self) -> Vec<(&'static str, &str)> {
        let mut all = vec![
            ("file", self.object.unheard()),
            ("record", self.record.unheard()),
            ("index", self.index.unheard()),
            ("search", self.shown.unheard()),
            ("parked", self.parked.unheard()),
            ("errored", self.errored.unheard()),
            ("archive", self.archive.unheard()),
            ("dlq", self.dead_letters.unheard()),
        ];
        all.extend(self.attempts.iter().map(|(_, attempts)| ("attempts", attempts.unheard())));
        all.into_iter().filter_map(|(name, why)| Some((name, why?))).collect()
    }

    /// Some source answered.
    pub fn heard(&self) -> bool {
        let answered = [
            matches!(self.object, Look::Found(_) | Look::Nothing),
            matches!(self.record, Look::Found(_) | Look::Nothing),
            matches!(self.index, Look::Found(_) | Look::Nothing),
            matches!(self.parked, Look::Found(_) | Look::Nothing),
            matches!(self.archive, Look::Found(_) | Look::Nothing),
            matches!(self.dead_letters, Look::Found(_) | Look::Nothing),
        ];
        answered.contains(&true)
    }
}

impl MessageFindings {
    /// What could not be asked: source and reason.
    pub fn unheard(&self) -> Vec<(&'static str, &str)> {
        let all = [
            ("attempts", self.attempts.unheard()),
            ("archive", self.archive.unheard()),
            ("dlq", self.dead_letters.unheard()),
            ("index", self.documents.unheard()),
        ];
        let own = all.into_iter().filter_map(|(name, why)| Some((name, why?)));
        own.chain(self.files.iter().flat_map(FileFindings::unheard)).collect()
    }

    /// Some source answered.
    pub fn heard(&self) -> bool {
        matches!(self.attempts, Look::Found(_) | Look::Nothing)
            || matches!(self.archive, Look::Found(_) | Look::Nothing)
            || matches!(self.documents, Look::Found(_) | Look::Nothing)
            || matches!(self.dead_letters, Look::Found(_) | Look::Nothing)
    }
}
