//! A dead letter as it was received: what its attribute says, what its body says, and the message that goes back.
//!
//! Promises that body, attributes and group go back byte for byte, but for the one attribute that counts the redrives,
//! and that a letter which SQS moved itself (no attribute of ours) is a letter like any other.

use std::sync::Arc;

use crate::clock::unix_ms_of;
use crate::dead_letter::{Note, VERSION, fitting};
use crate::message::s3_event::{self, Judged, Parsed, Unreadable, Wanted};
use crate::message::{Message, MessageId};
use crate::outcome::DeadLetterReason;
use crate::queue::Outgoing;

use super::decide::History;

/// The reason of letters that SQS moved by itself (design §8).
pub const MAX_RECEIVES: &str = "max_receives";

/// All reasons there are, design §8's.
pub const REASONS: [&str; 11] = [
    "malformed",
    "not_allowed",
    "source_missing",
    "denied",
    "too_large",
    "limit",
    "attempts_exhausted",
    "crash_loop",
    "deadline",
    "rejected_by_handler",
    MAX_RECEIVES,
];

/// A letter.
#[derive(Clone, Debug)]
pub struct Letter {
    /// As received.
    pub message: Arc<Message>,
    /// Its `Quittance` attribute; `None` where SQS moved it, or where somebody else wrote one.
    pub note: Option<Note>,
    /// What its body says, by the workers' own rules.
    pub parsed: Result<Parsed, Unreadable>,
}

impl Letter {
    /// Reads it.
    pub fn read(message: Arc<Message>, wanted: &Wanted) -> Self {
        let parsed = s3_event::parse(&message.body, wanted);
        Self { note: Note::of(&message), parsed, message }
    }

    /// Why it is here.
    pub fn reason(&self) -> &str {
        cause(&self.message, self.note.as_ref()).map_or(MAX_RECEIVES, |note| &note.reason)
    }

    /// The id under which it was first sent.
    pub fn first_id(&self) -> MessageId {
        self.note.as_ref().map_or_else(|| self.message.id.clone(), |note| MessageId(note.message_id.clone()))
    }

    /// ARN of the queue it comes from, as far as anybody says: SQS's word, where it moved the letter by itself, or the
    /// worker's that sent it here.
    pub fn source_queue(&self) -> Option<&str> {
        let noted = || self.note.as_ref().map(|note| note.source_queue.as_str());
        self.message.moved_from.as_deref().or_else(noted)
    }

    /// The redrive run that sent it last.
    pub fn run(&self) -> Option<&str> {
        self.note.as_ref().and_then(|note| note.run.as_deref())
    }

    /// The keys of its changes; those of its note where the body cannot be read.
    pub fn keys(&self) -> Vec<&str> {
        match &self.parsed {
            Ok(Parsed::Changes(changes)) => changes.iter().filter_map(key).collect(),
            Ok(Parsed::Skip(_)) => Vec::new(),
            Err(_) => self.note.iter().flat_map(|note| note.keys.iter().map(String::as_str)).collect(),
        }
    }

    /// When it was given up, Unix milliseconds; for one that SQS moved, when it was sent (SQS keeps that time).
    pub fn since_ms(&self) -> Option<u64> {
        let told = cause(&self.message, self.note.as_ref()).and_then(|note| unix_ms_of(&note.last_failed_at));
        told.or(self.message.sent_at_ms)
    }

    /// What counts beside its changes; `run` and `source_queue` as in [`Letter::back`].
    pub fn history(&self, force: bool, run: &str, source_queue: &str) -> History {
        let note = self.note.as_ref();
        History {
            redrives: note.map_or(0, |note| note.redrives),
            denied: self.reason() == DeadLetterReason::Denied.as_str(),
            full: self.back(run, source_queue).is_none(),
            newer: Note::foreign_version(&self.message),
            force,
        }
    }

    /// The message that goes back, with its count raised. `None`: the attribute has no room.
    pub fn back(&self, run: &str, source_queue: &str) -> Option<Outgoing> {
        let note = match &self.note {
            Some(note) => Note { redrives: note.redrives.saturating_add(1), run: Some(run.to_owned()), ..note.clone() },
            None => Note {
                v: VERSION,
                reason: MAX_RECEIVES.to_owned(),
                detail: String::new(),
                attempts: self.message.receive_count,
                first_failed_at: String::new(),
                last_failed_at: String::new(),
                work_ids: Vec::new(),
                keys: Vec::new(),
                source_queue: source_queue.to_owned(),
                message_id: self.message.id.0.clone(),
                redrives: 1,
                envelope: None,
                run: Some(run.to_owned()),
            },
        };
        let short = Note { detail: String::new(), work_ids: Vec::new(), keys: Vec::new(), ..note.clone() };
        fitting(&self.message, &note).or_else(|| fitting(&self.message, &short))
    }
}

/// The note of a message of the DLQ, where it says why the message is there. One that was sent back carries the note of
/// its last time; where SQS itself has moved it since, that is over.
pub fn cause<'n>(message: &Message, note: Option<&'n Note>) -> Option<&'n Note> {
    note.filter(|_| message.moved_from.is_none())
}

fn key(judged: &Judged) -> Option<&str> {
    match judged {
        Judged::Process(change) | Judged::NotAllowed { change, .. } => Some(&change.key),
        Judged::Skip { key, .. } => Some(key),
        Judged::Malformed { .. } => None,
    }
}
