//! Archived letters: whole messages as objects under `archive/`, and what writes them.
//!
//! Promises that what comes out is what went in, byte for byte (body, attributes, group), and that a key is handed out
//! only for an acknowledged write. One format for three things: a letter that was given up on, a copy of a message that
//! `redrive archive save` made, and the envelope of a letter that is too full for its `Quittance` attribute (that letter
//! is in the DLQ: `archived_at` is absent). Knows no queue and deletes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::{WallClock, date, rfc3339};
use crate::dead_letter::Note;
use crate::message::detail::detail as detail_line;
use crate::message::{AttributeValue, Message, MessageAttribute};
use crate::queue::Outgoing;
use crate::store::{Condition, PutReply, Store, StoreError, layout};

use super::letter::MAX_RECEIVES;

pub mod list;
pub mod restore;
pub mod save;
pub mod shelf;

/// One write of at most a few MiB; longer than the client's own limits (30 s).
const WRITE_LIMIT: Duration = Duration::from_secs(32);

/// The queue a letter was taken from: a folder of the archive each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The dead-letter queue: `archive/dlq/`.
    #[default]
    Dlq,
    /// The workers' queue: `archive/main/`.
    Main,
}

impl Source {
    /// Name in keys, options and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Dlq => "dlq",
            Source::Main => "main",
        }
    }
}

/// An attribute of a message: text as it is, binary in base64.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attribute {
    /// SQS's data type, custom suffix included.
    pub data_type: String,
    /// Of `String` and `Number` types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Of `Binary` types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

impl From<&MessageAttribute> for Attribute {
    fn from(attribute: &MessageAttribute) -> Self {
        let data_type = attribute.data_type.clone();
        match &attribute.value {
            AttributeValue::Text(text) => Self { data_type, text: Some(text.clone()), base64: None },
            AttributeValue::Binary(bytes) => Self { data_type, text: None, base64: Some(STANDARD.encode(bytes)) },
        }
    }
}

impl Attribute {
    /// As it was on the message. The error is a sentence.
    pub fn read(&self) -> Result<MessageAttribute, String> {
        let value = match (&self.text, &self.base64) {
            (Some(text), None) => AttributeValue::Text(text.clone()),
            (None, Some(base64)) => {
                AttributeValue::Binary(STANDARD.decode(base64).map_err(|error| format!("is not base64: {error}"))?)
            }
            (None, None) | (Some(_), Some(_)) => return Err("has not one value, text or base64".to_owned()),
        };
        Ok(MessageAttribute { data_type: self.data_type.clone(), value })
    }
}

/// An archived letter as it lies under `archive/{dlq|main}/{yyyy-mm-dd}/{message id}.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Archived {
    /// Version of this format: 1; fields may be added to it.
    pub v: u32,
    /// Id under which the message was received where it was taken from.
    pub message_id: String,
    /// Its `Quittance` attribute, read; of an envelope, the one that did not fit.
    #[serde(default)]
    pub note: Option<Note>,
    /// Body, byte for byte.
    pub body: String,
    /// All attributes, its own `Quittance` included.
    #[serde(default)]
    pub attributes: BTreeMap<String, Attribute>,
    /// `MessageGroupId`.
    #[serde(default)]
    pub group_id: Option<String>,
    /// `SentTimestamp`, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<String>,
    /// `ApproximateReceiveCount` of the delivery that was archived.
    #[serde(default)]
    pub receive_count: u32,
    /// When it was archived, RFC 3339. Absent: the envelope of a letter that is still in the DLQ, and not given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived_at: Option<String>,
    /// Why, by a stable name.
    #[serde(default)]
    pub reason: String,
    /// Why, as a sentence of at most 512 characters.
    #[serde(default)]
    pub detail: String,
    /// The run of `redrive` that archived it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Where it was taken from.
    #[serde(default)]
    pub source: Source,
    /// A copy by `redrive archive save`: the message itself may still be in its queue.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub saved: bool,
}

impl Archived {
    /// A letter of the DLQ that is given up on.
    pub fn of(
        message: &Message,
        note: Option<Note>,
        reason: &str,
        detail: &str,
        archived_at_ms: u64,
        run_id: Option<&str>,
    ) -> Self {
        Self {
            archived_at: Some(rfc3339(archived_at_ms)),
            reason: reason.to_owned(),
            detail: detail_line(detail),
            run_id: run_id.map(str::to_owned),
            ..Self::envelope(message, note)
        }
    }

    /// What does not fit into a letter that is about to be sent.
    pub fn envelope(message: &Message, note: Option<Note>) -> Self {
        Self {
            v: 1,
            message_id: message.id.0.clone(),
            note,
            body: message.body.clone(),
            attributes: message.attributes.iter().map(|(name, value)| (name.clone(), value.into())).collect(),
            group_id: message.group_id.clone(),
            sent_at: message.sent_at_ms.map(rfc3339),
            receive_count: message.receive_count,
            archived_at: None,
            reason: String::new(),
            detail: String::new(),
            run_id: None,
            source: Source::Dlq,
            saved: false,
        }
    }

    /// The message, to be sent again: body, attributes, group byte for byte. The error is a sentence.
    pub fn outgoing(&self) -> Result<Outgoing, String> {
        let attribute = |(name, stored): (&String, &Attribute)| match stored.read() {
            Ok(attribute) => Ok((name.clone(), attribute)),
            Err(why) => Err(format!("attribute {name:?} {why}")),
        };
        Ok(Outgoing {
            body: self.body.clone(),
            attributes: self.attributes.iter().map(attribute).collect::<Result<_, _>>()?,
            group_id: self.group_id.clone(),
        })
    }

    /// Writes it; `Ok` is an acknowledged write.
    pub(crate) async fn put(&self, store: &dyn Store, bucket: &str, key: &str) -> Result<(), StoreError> {
        let body = serde_json::to_vec(self).map_err(|error| StoreError::Refused(error.to_string()))?;
        let metadata = BTreeMap::new();
        // Unconditional: the same message writes the same letter again.
        let put = store.put(bucket, key, Bytes::from(body), &metadata, Condition::None);
        match tokio::time::timeout(WRITE_LIMIT, put).await {
            Ok(Ok(PutReply::Written { .. })) => Ok(()),
            Ok(Ok(PutReply::Conflict)) => Err(StoreError::Unavailable("another write of this key is under way".into())),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(StoreError::Unavailable(format!("no answer within {WRITE_LIMIT:?}"))),
        }
    }
}

/// What writes letters that are given up on.
#[derive(Clone)]
pub struct Archive {
    /// Results bucket's store.
    pub store: Arc<dyn Store>,
    /// Results bucket.
    pub bucket: String,
    /// For `archived_at` and the day in the key.
    pub clock: Arc<dyn WallClock>,
}

impl Archive {
    /// Archives a letter of the DLQ; its key, once the write is acknowledged. Idempotent: the same message archived
    /// twice on one day writes the same key (and over midnight two, of which restore sends one).
    pub async fn keep(
        &self,
        message: &Message,
        note: Option<Note>,
        reason: &str,
        detail: &str,
        run_id: Option<&str>,
    ) -> Result<String, StoreError> {
        let now = self.clock.unix_ms();
        self.write(&Archived::of(message, note, reason, detail, now, run_id), message, now).await
    }

    /// Writes a copy of a message of either queue.
    pub async fn save(&self, message: &Message, source: Source, run_id: Option<&str>) -> Result<String, StoreError> {
        let (now, note) = (self.clock.unix_ms(), Note::of(message));
        let (reason, detail) = match (&note, source) {
            (Some(note), Source::Dlq) => (note.reason.clone(), note.detail.clone()),
            (None, Source::Dlq) => (MAX_RECEIVES.to_owned(), String::new()),
            (_, Source::Main) => (SAVED.to_owned(), String::new()),
        };
        let letter = Archived::of(message, note, &reason, &detail, now, run_id);
        self.write(&Archived { source, saved: true, ..letter }, message, now).await
    }

    async fn write(&self, letter: &Archived, message: &Message, now: u64) -> Result<String, StoreError> {
        let key = layout::archived(letter.source.as_str(), &date(now), &message.id);
        letter.put(self.store.as_ref(), &self.bucket, &key).await?;
        Ok(key)
    }
}

/// Reason of a copy of a message that nobody has given up on.
pub const SAVED: &str = "saved";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{MessageId, ReceiptHandle};

    fn message() -> Message {
        let text = |text: &str| AttributeValue::Text(text.into());
        let attributes = [
            ("text", "String", text("日本\t<b>\"\\\u{fffd}")),
            ("empty", "String.custom", text("")),
            ("number", "Number.int", text("007")),
            ("bytes", "Binary.gif", AttributeValue::Binary((0..=255).collect())),
            ("none", "Binary", AttributeValue::Binary(Vec::new())),
        ];
        let attribute = |(name, data_type, value): (&str, &str, AttributeValue)| {
            (name.to_owned(), MessageAttribute { data_type: data_type.into(), value })
        };
        Message {
            id: MessageId("0b1a".into()),
            handle: ReceiptHandle("h".into()),
            body: "not\r\n{json 日本 \u{0}".into(),
            attributes: attributes.into_iter().map(attribute).collect(),
            receive_count: 7,
            sent_at_ms: Some(1_795_305_600_123),
            group_id: Some("tenant-7".into()),
            moved_from: None,
        }
    }

    #[test]
    fn what_comes_out_is_what_went_in_byte_for_byte() {
        let message = message();
        let letter = Archived::of(&message, None, "malformed", "a\nb", 1_795_305_600_000, Some("run"));
        let read: Archived = serde_json::from_slice(&serde_json::to_vec(&letter).unwrap()).unwrap();
        assert_eq!(read, letter);
        let Outgoing { body, attributes, group_id } = read.outgoing().unwrap();
        assert_eq!((body, attributes, group_id), (message.body, message.attributes, message.group_id));
        assert_eq!((read.detail.as_str(), read.receive_count), ("a\\nb", 7));
        assert_eq!(read.sent_at.as_deref(), Some("2026-11-22T00:00:00.123Z"));
    }

    #[test]
    fn an_envelope_of_before_still_reads_and_is_not_given_up() {
        let old = r#"{"v":1,"message_id":"m","note":null,"body":"b","group_id":null,
                      "attributes":{"a":{"data_type":"String","text":"x"},"b":{"data_type":"Binary","base64":"AAE="}}}"#;
        let read: Archived = serde_json::from_str(old).unwrap();
        assert_eq!((read.archived_at.as_ref(), read.source, read.saved), (None, Source::Dlq, false));
        let outgoing = read.outgoing().unwrap();
        assert_eq!(outgoing.attributes["b"].value, AttributeValue::Binary(vec![0, 1]));
    }

    #[test]
    fn an_attribute_that_says_no_value_or_two_is_not_guessed() {
        for bad in [
            r#"{"data_type":"String"}"#,
            r#"{"data_type":"Binary","base64":"AA=","text":"x"}"#,
            r#"{"data_type":"Binary","base64":"%"}"#,
        ] {
            let mut letter = Archived::envelope(&message(), None);
            letter.attributes.insert("bad".into(), serde_json::from_str(bad).unwrap());
            assert!(letter.outgoing().unwrap_err().starts_with("attribute \"bad\""), "{bad}");
        }
    }
}
