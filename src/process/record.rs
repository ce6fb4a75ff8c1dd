//! The durable result of a file: its JSON, its metadata, and who is newer.
//!
//! Promises P8: two states of a file are compared by the one rule of design §4, a revision only grows, and a tombstone
//! holds no text. Pure but for nothing: it reads and writes no store; `process` does.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::index::{IndexItem, park::Parkable};
use crate::message::{Change, DocumentId, MessageId, Operation, Sequencer, WorkId};
use crate::store::ObjectHead;

/// The document as the index sees it: exactly the fields of design §8.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are the contract of design §8 and are named there")]
pub struct Document {
    pub bucket: String,
    pub key: String,
    pub namespace: String,
    pub tenant: Option<String>,
    pub title: Option<String>,
    pub content: Option<String>,
    pub mime_type: Option<String>,
    pub language: Option<String>,
    pub size: Option<u64>,
    pub sha256: Option<String>,
    pub extension: Option<String>,
    pub source_etag: Option<String>,
    pub source_version_id: Option<String>,
    pub source_modified: Option<String>,
    pub indexed_at: String,
    pub revision: u64,
    pub deleted: bool,
    pub truncated: bool,
    pub extractor: Option<String>,
    pub extraction_error: Option<String>,
    pub message_id: String,
    pub original_message_id: Option<String>,
    pub request_id: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, serde_json::Value>,
}

/// How long the steps took, milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Timings {
    /// Fetching the file.
    pub fetch_ms: u64,
    /// Extracting its text.
    pub extract_ms: u64,
}

/// One JSON object in S3 per document id.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Version of this format.
    pub v: u32,
    /// The file.
    pub document_id: DocumentId,
    /// The change that wrote it.
    pub work_id: WorkId,
    /// Grows with every write; the external version in the index.
    pub revision: u64,
    /// When it was written, Unix milliseconds; its day is in the key of a parked marker.
    pub recorded_ms: u64,
    /// Order of the newest event that is known.
    pub sequencer: Option<Sequencer>,
    /// How long the steps took.
    pub timings: Timings,
    /// What goes into the index; its `deleted` makes this a tombstone.
    pub document: Document,
}

impl Record {
    /// What the index and a parked marker need. The error is a sentence.
    pub fn index_entry(&self) -> Result<(IndexItem, Parkable), String> {
        let source = serde_json::to_vec(&self.document).map_err(|error| error.to_string())?;
        let item =
            IndexItem { document_id: self.document_id.clone(), revision: self.revision, source: Bytes::from(source) };
        let what = Parkable {
            document_id: self.document_id.clone(),
            bucket: self.document.bucket.clone(),
            key: self.document.key.clone(),
            revision: self.revision,
            recorded_ms: self.recorded_ms,
        };
        Ok((item, what))
    }
}

/// What a record's metadata says: enough to compare.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Its revision.
    pub revision: u64,
    /// Its sequencer.
    pub sequencer: Option<Sequencer>,
    /// The source's etag; `None` is a tombstone.
    pub source_etag: Option<String>,
    /// The message that wrote it.
    pub message_id: Option<MessageId>,
    /// The record object's own etag, for `If-Match`.
    pub object_etag: String,
}

impl Standing {
    /// Reads the metadata of a record. A field that is missing or odd counts as absent: the record is then older than
    /// anything that has it, and is written anew.
    pub fn of(head: &ObjectHead) -> Self {
        let field = |name: &str| head.metadata.get(name).filter(|text| !text.is_empty());
        Self {
            revision: field("revision").and_then(|text| text.parse().ok()).unwrap_or(0),
            sequencer: field("sequencer").and_then(|text| Sequencer::parse(text)),
            source_etag: field("etag").cloned(),
            message_id: field("message-id").cloned().map(MessageId),
            object_etag: head.etag.clone(),
        }
    }

    /// The metadata of a record (ASCII; absent fields are left out).
    pub fn metadata(
        revision: u64,
        sequencer: Option<&Sequencer>,
        source_etag: Option<&str>,
        message: &MessageId,
    ) -> BTreeMap<String, String> {
        let mut metadata = BTreeMap::from([
            ("revision".to_owned(), revision.to_string()),
            ("message-id".to_owned(), message.0.clone()),
        ]);
        metadata.extend(sequencer.map(|sequencer| ("sequencer".to_owned(), sequencer.as_str().to_owned())));
        metadata.extend(source_etag.map(|etag| ("etag".to_owned(), etag.to_owned())));
        metadata
    }
}

/// What we know of the source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen<'a> {
    /// Not looked at yet.
    Unread,
    /// There, with this etag.
    There(&'a str),
    /// Not there.
    Gone,
}

/// A record, as seen from the change at hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rank {
    /// Strictly newer: its own message owes the index.
    Newer,
    /// This very work, durable already: not finished, for its writer may have died before indexing.
    Equal,
    /// To be written over.
    Older,
}

/// Newest wins: the rule of design §4.
///
/// The full sequencer decides. Where it does not tell the two apart (equal, as LocalStack's constant is, or none on
/// our side), the object as it stands in the bucket decides, and it counts as *equal* only when the record names this
/// very message (A, B, A in quick succession would leave B for ever).
pub fn rank(record: &Standing, ours: Option<&Sequencer>, source: Seen<'_>, message: &MessageId) -> Rank {
    match (ours, &record.sequencer) {
        (Some(ours), Some(theirs)) => match ours.cmp_same_key(theirs) {
            std::cmp::Ordering::Less => Rank::Newer,
            std::cmp::Ordering::Greater => Rank::Older,
            std::cmp::Ordering::Equal => by_object(record, source, message),
        },
        (Some(_), None) => Rank::Older,
        (None, _) => by_object(record, source, message),
    }
}

/// [`rank`] for a change at hand, also before the source is read.
pub fn rank_of(found: &Standing, change: &Change, seen: Seen<'_>, message: &MessageId) -> Rank {
    let rank = rank(found, change.sequencer.as_ref(), seen, message);
    // Before the source is read, another change of this very message may have written the record: of the same key,
    // with the same sequencer, and the other way round. Only a record of our own kind is our own.
    let live = found.source_etag.is_some();
    let of_our_kind = match change.operation {
        Operation::Created => live,
        Operation::Removed => !live,
        Operation::Unstated => true,
    };
    if rank == Rank::Equal && seen == Seen::Unread && !of_our_kind { Rank::Older } else { rank }
}

fn by_object(record: &Standing, source: Seen<'_>, message: &MessageId) -> Rank {
    let same_state = match source {
        Seen::Unread => true,
        Seen::There(etag) => record.source_etag.as_deref() == Some(etag),
        Seen::Gone => record.source_etag.is_none(),
    };
    if same_state && record.message_id.as_ref() == Some(message) { Rank::Equal } else { Rank::Older }
}

/// Grows always, and with time: a lost record cannot restart it below what the index holds.
pub fn next_revision(previous: Option<&Standing>, unix_ms: u64) -> u64 {
    previous.map_or(0, |record| record.revision.saturating_add(1)).max(unix_ms)
}

/// The sequencer to store: a change without one never lowers the record's.
pub fn stored_sequencer(record: Option<&Standing>, ours: Option<&Sequencer>) -> Option<Sequencer> {
    ours.cloned().or_else(|| record.and_then(|record| record.sequencer.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sequencer: &str, etag: Option<&str>, message: &str) -> Standing {
        Standing {
            revision: 7,
            sequencer: Sequencer::parse(sequencer),
            source_etag: etag.map(str::to_owned),
            message_id: Some(MessageId(message.into())),
            object_etag: "o".into(),
        }
    }

    #[test]
    fn newest_is_decided_as_the_design_says() {
        use Rank::{Equal, Newer, Older};
        use Seen::{Gone, There, Unread};
        // record (sequencer, etag, message) · our sequencer · source · expected, for message "m"
        let table = [
            (record("05", Some("a"), "x"), "06", There("b"), Older, "a greater sequencer is newer"),
            (record("05", Some("a"), "x"), "06", There("a"), Older, "also at the same etag"),
            (record("05", Some("a"), "x"), "04", There("b"), Newer, "a smaller one is superseded"),
            (record("05", Some("a"), "m"), "04", There("a"), Newer, "even by our own later change"),
            (record("05", Some("a"), "m"), "05", There("a"), Equal, "our own write"),
            (record("05", Some("a"), "m"), "05", Unread, Equal, "our own write, found before reading"),
            (record("05", Some("a"), "x"), "05", There("a"), Older, "a twin event's write is no proof"),
            (record("05", Some("a"), "m"), "05", There("b"), Older, "the object has changed under us"),
            (record("05", None, "m"), "05", There("b"), Older, "a tombstone, and the object is there"),
            (record("05", None, "m"), "05", Gone, Equal, "our own tombstone"),
            (record("05", Some("a"), "m"), "05", Gone, Older, "the object is gone"),
            (record("", Some("a"), "m"), "05", There("a"), Older, "a record without a sequencer is older"),
            (record("", Some("a"), "m"), "", There("a"), Equal, "our own write, without sequencers"),
            (record("", Some("a"), "x"), "", There("a"), Older, "the same etag is no proof without one"),
            (record("05", Some("a"), "m"), "", There("a"), Equal, "our own write that kept the sequencer"),
            (record("05", Some("a"), "x"), "", There("b"), Older, "no sequencer: the object decides"),
        ];
        for (record, ours, source, expected, why) in table {
            let ours = Sequencer::parse(ours);
            assert_eq!(rank(&record, ours.as_ref(), source, &MessageId("m".into())), expected, "{why}");
        }
    }

    #[test]
    fn a_revision_grows_always_and_with_time() {
        let at = |revision| Standing { revision, ..record("", None, "m") };
        assert_eq!(next_revision(None, 1000), 1000);
        assert_eq!(next_revision(Some(&at(10)), 1000), 1000);
        assert_eq!(next_revision(Some(&at(1000)), 1000), 1001);
        assert_eq!(next_revision(Some(&at(5000)), 1000), 5001, "a clock that went back");
    }

    #[test]
    fn a_change_without_a_sequencer_keeps_the_records() {
        let five = Sequencer::parse("05");
        assert_eq!(stored_sequencer(Some(&record("05", None, "m")), None), five);
        assert_eq!(stored_sequencer(Some(&record("04", None, "m")), five.as_ref()), five);
        assert_eq!(stored_sequencer(None, None), None);
    }

    #[test]
    fn metadata_comes_back_as_it_was_written() {
        let sequencer = Sequencer::parse("0055");
        let metadata = Standing::metadata(9, sequencer.as_ref(), Some("e"), &MessageId("m".into()));
        let head = ObjectHead { etag: "o".into(), metadata, ..ObjectHead::default() };
        let expected = Standing {
            revision: 9,
            sequencer,
            source_etag: Some("e".into()),
            message_id: Some(MessageId("m".into())),
            object_etag: "o".into(),
        };
        assert_eq!(Standing::of(&head), expected);
        let bare = ObjectHead { etag: "o".into(), ..ObjectHead::default() };
        assert_eq!(Standing::of(&bare).revision, 0);
    }
}
