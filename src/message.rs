//! The words of the project as types: a message, its receipt, the changes it reports, the ids derived from it.
//!
//! Promises that no two ids can be mixed up, and that an id is built in one place from typed parts
//! (a deduplication key that lost a scope once ate live jobs). Knows no queue, no store, no JSON shape:
//! those are in `queue`, `store` and [`s3_event`].

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub mod detail;
pub mod s3_event;

/// SQS's id of a message; stable over redeliveries, new after a resend.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageId(pub String);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What SQS wants to see for a delete or a visibility change: one delivery's handle. Never logged.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReceiptHandle(pub String);

impl fmt::Debug for ReceiptHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReceiptHandle(..)")
    }
}

/// A message attribute, kept byte for byte for the dead-letter queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MessageAttribute {
    /// SQS's data type, custom suffix included (`String`, `Number.int`, `Binary.gif`, …).
    pub data_type: String,
    /// The value.
    pub value: AttributeValue,
}

/// The two forms of an attribute's value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AttributeValue {
    /// `String` and `Number` types.
    Text(String),
    /// `Binary` types.
    Binary(Vec<u8>),
}

/// One delivery of a message, as received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The message's id.
    pub id: MessageId,
    /// This delivery's handle.
    pub handle: ReceiptHandle,
    /// The body, untouched.
    pub body: String,
    /// User attributes, untouched.
    pub attributes: BTreeMap<String, MessageAttribute>,
    /// `ApproximateReceiveCount`, at least 1. Also raised by deploys, peeks and lost polls.
    pub receive_count: u32,
    /// `SentTimestamp`, Unix milliseconds, where SQS gave one.
    pub sent_at_ms: Option<u64>,
    /// `MessageGroupId`, allowed on standard queues too (fair queues).
    pub group_id: Option<String>,
    /// `DeadLetterQueueSourceArn`: the queue that SQS itself moved it from; none where it was sent.
    pub moved_from: Option<String>,
}

/// Scope of all ids; `[a-z0-9-]{1,32}`, one per worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Namespace(String);

impl Namespace {
    /// Checks the form. The error is a sentence for the operator.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fits = (1..=32).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("namespace {text:?} must be 1 to 32 characters of a-z, 0-9 and '-'"))
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names a file everywhere: in S3 keys and as OpenSearch `_id`. 64 hex characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DocumentId(String);

impl DocumentId {
    /// `sha256(namespace NUL bucket NUL key)`; the key as raw UTF-8, decoded.
    pub fn of(namespace: &Namespace, bucket: &str, key: &str) -> Self {
        Self(hash_parts(&[namespace.as_str(), bucket, key]))
    }

    /// From a key of ours: 64 hex characters, in lower case.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        is_hex.then(|| Self(text.to_owned()))
    }

    /// The hex text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names one piece of work: this change of this file. 64 hex characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkId(String);

impl WorkId {
    /// `sha256(document id NUL version-or-etag NUL sequencer NUL operation)`: the only builder.
    pub fn of(document: &DocumentId, change: &Change) -> Self {
        let version = change.version_id.as_deref().or(change.etag.as_deref()).unwrap_or("");
        let sequencer = change.sequencer.as_ref().map_or("", Sequencer::as_str);
        Self(hash_parts(&[document.as_str(), version, sequencer, change.operation.as_str()]))
    }

    /// The hex text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// NUL-joined, so that no two lists of parts hash alike; no part can hold a NUL of its own
/// (S3 keys may: but it is the last part of a document id, and the others are checked or hex).
fn hash_parts(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for (position, part) in parts.iter().enumerate() {
        if position > 0 {
            hasher.update([0]);
        }
        hasher.update(part.as_bytes());
    }
    hex(&hasher.finalize())
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}

/// What happened to the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// `ObjectCreated:*`, `ObjectRestore:Completed`, EventBridge "Object Created".
    Created,
    /// Removed in any way; it also fires for old versions, so the object itself is asked.
    Removed,
    /// The body does not say (minimal bodies): read like a removal, see `process`.
    Unstated,
}

impl Operation {
    /// Stable name, part of the work id.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Created => "created",
            Operation::Removed => "removed",
            Operation::Unstated => "unstated",
        }
    }
}

/// S3's `sequencer`: hexadecimal text that orders the events of one key.
///
/// Rule (S3 documentation, "Event message structure"): right-pad the shorter with zeros, compare as text;
/// says nothing across keys.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequencer(String);

impl Sequencer {
    /// `None` for text that is empty or not hexadecimal: such a change is treated as having none.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_hexdigit());
        fits.then(|| Self(text.to_ascii_uppercase()))
    }

    /// The text, upper case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Order of two events of the *same key*.
    pub fn cmp_same_key(&self, other: &Self) -> std::cmp::Ordering {
        let width = self.0.len().max(other.0.len());
        let padded = |text: &str| format!("{text:0<width$}");
        padded(&self.0).cmp(&padded(&other.0))
    }
}

/// One record of an event: a file created or removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Source bucket.
    pub bucket: String,
    /// Key, decoded; any UTF-8, up to 1,024 bytes; never used as a local path.
    pub key: String,
    /// What happened.
    pub operation: Operation,
    /// The event's version id; for ids and reports only, the *current* object is what is read.
    pub version_id: Option<String>,
    /// The event's etag, without quotes; as above.
    pub etag: Option<String>,
    /// Order of this event among those of the key.
    pub sequencer: Option<Sequencer>,
    /// The event's size in bytes.
    pub size: Option<u64>,
    /// S3's request id of the event.
    pub request_id: Option<String>,
    /// The sender asks for work anew (minimal bodies with `force`). A body without a sequencer is always worked on anew,
    /// by the rule of design §4; this says that it was meant.
    pub force: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Ordering;

    fn change() -> Change {
        Change {
            bucket: "b".into(),
            key: "k".into(),
            operation: Operation::Created,
            version_id: Some("v".into()),
            etag: Some("e".into()),
            sequencer: Sequencer::parse("0055"),
            size: None,
            request_id: None,
            force: false,
        }
    }

    #[test]
    fn a2_4_no_component_of_an_id_can_be_left_out() {
        let space = |text: &str| Namespace::parse(text).unwrap();
        let id = |ns: &str, bucket: &str, key: &str, change: &Change| {
            WorkId::of(&DocumentId::of(&space(ns), bucket, key), change)
        };
        let base = id("n", "b", "k", &change());
        let others = [
            id("m", "b", "k", &change()),
            id("n", "c", "k", &change()),
            id("n", "b", "l", &change()),
            id("n", "bk", "", &change()),
            id("n", "b", "k", &Change { operation: Operation::Removed, ..change() }),
            id("n", "b", "k", &Change { operation: Operation::Unstated, ..change() }),
            id("n", "b", "k", &Change { version_id: Some("w".into()), ..change() }),
            id("n", "b", "k", &Change { version_id: None, ..change() }),
            id("n", "b", "k", &Change { version_id: None, etag: None, ..change() }),
            id("n", "b", "k", &Change { version_id: None, etag: Some("f".into()), ..change() }),
            id("n", "b", "k", &Change { sequencer: Sequencer::parse("0056"), ..change() }),
            id("n", "b", "k", &Change { sequencer: None, ..change() }),
        ];
        let all: Vec<&WorkId> = [&base].into_iter().chain(&others).collect();
        for (position, one) in all.iter().enumerate() {
            for (earlier, other) in all[..position].iter().enumerate() {
                assert_ne!(one, other, "{position} and {earlier}");
            }
        }
        assert_eq!(base, id("n", "b", "k", &change()));
    }

    #[test]
    fn a_document_id_is_the_documented_hash() {
        // printf 'default\0bucket\0a/b.txt' | sha256sum
        let id = DocumentId::of(&Namespace::parse("default").unwrap(), "bucket", "a/b.txt");
        assert_eq!(id.as_str(), "60423995a4d21abbe466464af25652088350431e0221836c3cfe9b2b201773f4");
    }

    #[test]
    fn sequencers_compare_right_padded() {
        let cases = [
            ("0055AED6DCD90281E5", "0055AED6DCD90281E5", Ordering::Equal),
            ("0055AED6DCD90281E5", "0055AED6DCD90281E6", Ordering::Less),
            ("0055AED6DCD90281E5", "0055AED6DCD90281E500", Ordering::Equal),
            ("0055AED6DCD90281E5", "0055AED6DCD90281E501", Ordering::Less),
            ("0056", "0055AED6DCD90281E5", Ordering::Greater),
            ("00ab", "00AB", Ordering::Equal),
            ("F", "0FFFFFFFFFFFFFFFFFFFFFFFF", Ordering::Greater),
        ];
        for (left, right, order) in cases {
            let parse = |text| Sequencer::parse(text).unwrap();
            assert_eq!(parse(left).cmp_same_key(&parse(right)), order, "{left} {right}");
            assert_eq!(parse(right).cmp_same_key(&parse(left)), order.reverse(), "{right} {left}");
        }
        for bad in ["", "xyz", "00 1", "０"] {
            assert_eq!(Sequencer::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_namespace_has_a_narrow_form() {
        for good in ["default", "a", "tenant-7", &"x".repeat(32)] {
            assert!(Namespace::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "a_b", "a/b", "日本", &"x".repeat(33)] {
            assert!(Namespace::parse(bad).is_err(), "{bad}");
        }
    }
}
