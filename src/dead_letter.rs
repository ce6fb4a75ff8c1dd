//! The envelope of a dead letter: the message byte for byte, plus one `Quittance` attribute that says why.
//!
//! Promises that nothing of the message changes, that the reason is one of a closed list, and that a message too full
//! for the attribute is still kept: the envelope then goes to S3 first. Deletes nothing: that is the settler's.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::attempts::Attempts;
use crate::clock::{WallClock, date, rfc3339};
use crate::message::detail::detail as detail_line;
use crate::message::{AttributeValue, Message, MessageAttribute};
use crate::outcome::{ChangeReport, DeadLetterReason, Judgement, Outcome};
use crate::queue::{Outgoing, Queue, QueueError};
use crate::redrive::archive::Archived;
use crate::store::{Store, layout};

/// Name of the one attribute this project adds.
pub const ATTRIBUTE: &str = "Quittance";
/// Of the attribute's JSON.
pub const VERSION: u32 = 1;

/// The attribute's JSON (design §8).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are the contract of design §8 and are named there")]
pub struct Note {
    pub v: u32,
    pub reason: String,
    pub detail: String,
    pub attempts: u32,
    pub first_failed_at: String,
    pub last_failed_at: String,
    pub work_ids: Vec<String>,
    pub keys: Vec<String>,
    pub source_queue: String,
    pub message_id: String,
    pub redrives: u32,
    /// Where the full envelope lies, when it did not fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<String>,
    /// The run of `redrive` that sent the message last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
}

impl Note {
    /// A message's own `Quittance` attribute. One that does not parse is somebody else's: none.
    pub fn of(message: &Message) -> Option<Self> {
        let AttributeValue::Text(text) = &message.attributes.get(ATTRIBUTE)?.value else { return None };
        serde_json::from_str(text).ok()
    }

    /// The version of an attribute that a later release of ours wrote: after a rollback it is met by this one.
    pub fn foreign_version(message: &Message) -> Option<u64> {
        let AttributeValue::Text(text) = &message.attributes.get(ATTRIBUTE)?.value else { return None };
        let version = serde_json::from_str::<serde_json::Value>(text).ok()?.get("v")?.as_u64()?;
        (version > u64::from(VERSION)).then_some(version)
    }

    /// The attribute that says it.
    pub fn attribute(&self) -> Result<MessageAttribute, serde_json::Error> {
        let value = AttributeValue::Text(serde_json::to_string(self)?);
        Ok(MessageAttribute { data_type: "String".to_owned(), value })
    }
}

/// Where a redriven message came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The id it was first sent under.
    pub message_id: String,
    /// How often it was redriven.
    pub redrives: u32,
    /// The run of `redrive` that sent it last.
    pub run: Option<String>,
}

impl Origin {
    /// Read from the message's own `Quittance` attribute; without one that is ours there is no origin.
    pub fn of(message: &Message) -> Option<Self> {
        let Note { message_id, redrives, run, .. } = Note::of(message)?;
        Some(Self { message_id, redrives, run })
    }

    /// `original_message_id` of a message's log lines and document.
    pub fn id_of(message: &Message) -> Option<String> {
        Self::of(message).map(|origin| origin.message_id)
    }
}

/// Why a dead letter was not sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NotSent {
    /// The lease is gone: another consumer may be at work.
    NotOurs,
    /// A sentence.
    Failed(String),
}

/// The dead-letter queue and what its letters need.
pub struct DeadLetters {
    /// The DLQ.
    pub queue: Arc<dyn Queue>,
    /// ARN of the main queue, for `source_queue`.
    pub source_queue: String,
    /// Results bucket's store, for envelopes that do not fit.
    pub store: Arc<dyn Store>,
    /// Results bucket.
    pub bucket: String,
    /// For the times written down.
    pub clock: Arc<dyn WallClock>,
}

impl DeadLetters {
    /// Sends; `Ok` is an acknowledged send. `ours` is asked before every call to the queue: a send is the one side
    /// effect that nothing fences (P7).
    pub async fn send(
        &self,
        message: &Message,
        reason: DeadLetterReason,
        detail: &str,
        attempts: &Attempts,
        judgement: &Judgement,
        ours: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), NotSent> {
        let now = self.clock.unix_ms();
        let note = self.note(message, reason, detail, attempts, judgement, &rfc3339(now));
        if let Some(whole) = fitting(message, &note)
            && self.attempt(&whole, ours).await?
        {
            return Ok(());
        }
        let envelope = Some(self.keep_envelope(message, &note, now).await.map_err(NotSent::Failed)?);
        let short = Note { work_ids: Vec::new(), keys: Vec::new(), detail: String::new(), envelope, ..note };
        if let Some(pointed) = fitting(message, &short)
            && self.attempt(&pointed, ours).await?
        {
            return Ok(());
        }
        // As received where not even the pointer fits: the envelope lies under the message's id.
        match self.attempt(&as_received(message), ours).await? {
            true => Ok(()),
            false => Err(NotSent::Failed("the dead-letter queue refuses the message as it was received".into())),
        }
    }

    /// `false`: our own sum said that it fits, and SQS refuses it: the DLQ takes less, or a name is beyond XML.
    async fn attempt(&self, outgoing: &Outgoing, ours: &(dyn Fn() -> bool + Sync)) -> Result<bool, NotSent> {
        if !ours() {
            return Err(NotSent::NotOurs);
        }
        failpoint!(BeforeDlqSend);
        match self.queue.send(outgoing).await {
            Ok(_acknowledged) => {
                failpoint!(AfterDlqAck);
                Ok(true)
            }
            Err(QueueError::Refused(_)) => Ok(false),
            // A letter that may not be sent now is not too large: made smaller, it would lose its note for nothing.
            Err(error @ (QueueError::Missing(_) | QueueError::Denied(_) | QueueError::Unavailable(_))) => {
                Err(NotSent::Failed(error.to_string()))
            }
        }
    }

    fn note(
        &self,
        message: &Message,
        reason: DeadLetterReason,
        detail: &str,
        attempts: &Attempts,
        judgement: &Judgement,
        now: &str,
    ) -> Note {
        let origin = Origin::of(message);
        let Judgement { reports, cut_short, .. } = judgement;
        let failing: Vec<&ChangeReport> =
            reports.iter().filter(|report| matches!(report.outcome, Outcome::Retry(_) | Outcome::Reject(_))).collect();
        let ids = failing.iter().filter_map(|report| report.work_id.as_ref());
        let keys = failing.iter().map(|report| &report.key).filter(|key| !key.is_empty());
        Note {
            v: VERSION,
            reason: reason.as_str().to_owned(),
            detail: detail_line(detail),
            attempts: attempts.failed.max(1),
            first_failed_at: attempts.first_failed_at.clone().unwrap_or_else(|| now.to_owned()),
            last_failed_at: attempts.last_failed_at.clone().unwrap_or_else(|| now.to_owned()),
            work_ids: ids.chain(cut_short.iter().map(|cut| &cut.work_id)).map(|id| id.as_str().to_owned()).collect(),
            keys: keys.chain(cut_short.iter().map(|cut| &cut.key)).cloned().collect(),
            source_queue: self.source_queue.clone(),
            message_id: origin.as_ref().map_or_else(|| message.id.0.clone(), |origin| origin.message_id.clone()),
            redrives: origin.as_ref().map_or(0, |origin| origin.redrives),
            envelope: None,
            run: origin.and_then(|origin| origin.run),
        }
    }

    /// The letter goes to the DLQ with a pointer to it.
    async fn keep_envelope(&self, message: &Message, note: &Note, now: u64) -> Result<String, String> {
        let key = layout::envelope(&date(now), &message.id);
        let envelope = Archived::envelope(message, Some(note.clone()));
        match envelope.put(self.store.as_ref(), &self.bucket, &key).await {
            Ok(()) => Ok(key),
            Err(error) => Err(format!("cannot keep the envelope at {key}: {error}")),
        }
    }
}

fn as_received(message: &Message) -> Outgoing {
    Outgoing { body: message.body.clone(), attributes: message.attributes.clone(), group_id: message.group_id.clone() }
}

/// The message with its note, or `None` where SQS would refuse it: more than 10 attributes, or more than 1 MiB.
pub(crate) fn fitting(message: &Message, note: &Note) -> Option<Outgoing> {
    let mut outgoing = as_received(message);
    outgoing.attributes.insert(ATTRIBUTE.to_owned(), note.attribute().ok()?);
    outgoing.fits().then_some(outgoing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{MessageId, ReceiptHandle};
    use crate::queue::SQS_MAX_MESSAGE_BYTES;

    fn note() -> Note {
        Note {
            v: 1,
            reason: "malformed".into(),
            detail: String::new(),
            attempts: 1,
            first_failed_at: String::new(),
            last_failed_at: String::new(),
            work_ids: Vec::new(),
            keys: Vec::new(),
            source_queue: String::new(),
            message_id: "m".into(),
            redrives: 0,
            envelope: None,
            run: None,
        }
    }

    fn message(body: usize, attributes: usize) -> Message {
        let value = || MessageAttribute { data_type: "Binary".into(), value: AttributeValue::Binary(vec![0; 100]) };
        Message {
            id: MessageId("m".into()),
            handle: ReceiptHandle("h".into()),
            body: "b".repeat(body),
            attributes: (0..attributes).map(|n| (format!("a{n}"), value())).collect(),
            receive_count: 1,
            sent_at_ms: None,
            group_id: None,
            moved_from: None,
        }
    }

    #[test]
    fn a_note_fits_up_to_the_last_byte_and_the_tenth_attribute_and_no_further() {
        let text = serde_json::to_string(&note()).unwrap().len();
        for attributes in [0, 9] {
            let taken = ATTRIBUTE.len() + "String".len() + text + attributes * ("a0".len() + "Binary".len() + 100);
            let room = SQS_MAX_MESSAGE_BYTES - taken;
            assert!(fitting(&message(room, attributes), &note()).is_some(), "{attributes} attributes");
            assert!(fitting(&message(room + 1, attributes), &note()).is_none(), "{attributes} attributes");
        }
        assert!(fitting(&message(1, 10), &note()).is_none(), "an eleventh attribute");
    }
}
