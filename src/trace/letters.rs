//! Messages that were put aside, read for what they say: in the archive, and (`peek`) in the dead-letter queue.
//!
//! Promises a bounded look, which says how many were read and whether there are more. A letter lies under the id it had in
//! the queue it was taken from, which for a dead letter is not the id it was first sent under: so they are looked at by
//! name, and then read, the newest days first, for their notes and bodies.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use serde::Deserialize;
use tokio::time::{Duration, Instant, timeout, timeout_at};

use super::Ground;
use super::findings::{FileName, Letter, Letters, Look, Place};
use crate::dead_letter::{ATTRIBUTE, Note};
use crate::message::detail::detail;
use crate::message::s3_event::{Judged, Parsed, Wanted, parse};
use crate::message::{AttributeValue, Message, MessageId};
use crate::store::{StoreError, layout, read_all};

/// Letters that are read, at most.
const READ: usize = 300;
/// For reading them, all together: the rest of a trace takes less.
const READ_FOR: Duration = Duration::from_millis(1_200);
/// Reads at once.
const TOGETHER: usize = 16;
/// Keys of one day that are counted: S3's page.
const PAGE: usize = 1_000;
/// A message of 1 MiB, its attributes and what JSON adds.
const LETTER_LIMIT: usize = 8 * 1024 * 1024;
/// What was given up on, and copies that were saved from the main queue.
const FOLDERS: [&str; 2] = ["archive/dlq/", "archive/main/"];
/// Of a message that SQS moved itself (design §8).
const MAX_RECEIVES: &str = "max_receives";

/// What is looked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Sought {
    Message(MessageId),
    File(FileName),
}

impl Sought {
    pub(super) fn is_in(&self, letter: &Letter) -> bool {
        match self {
            Sought::Message(id) => letter.message_id == id.0 || letter.original_message_id.as_ref() == Some(&id.0),
            Sought::File(file) => letter.files.contains(file),
        }
    }
}

/// As it lies in the archive: what every version of the format has, and what is told of it.
#[derive(Deserialize)]
struct Stored {
    message_id: String,
    #[serde(default)]
    note: Option<Note>,
    body: String,
    archived_at: Option<String>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    detail: String,
    sent_at: Option<String>,
    #[serde(default)]
    saved: bool,
}

impl Stored {
    fn letter(self, key: &str) -> Letter {
        let key = key.to_owned();
        let place = match (self.saved, &self.archived_at) {
            (true, _) => Place::Saved { key },
            (false, Some(_)) => Place::GivenUp { key },
            (false, None) => Place::Envelope { key },
        };
        let at = self.archived_at.or(self.sent_at);
        let told = Letter { at, ..letter(place, self.message_id, self.note.as_ref(), &self.body) };
        let reason = if self.reason.is_empty() { told.reason } else { detail(&self.reason) };
        let detail = if self.detail.is_empty() { told.detail } else { detail(&self.detail) };
        Letter { reason, detail, at: told.at.or_else(|| Some(self.note?.last_failed_at)), ..told }
    }
}

fn letter(place: Place, message_id: String, note: Option<&Note>, body: &str) -> Letter {
    Letter {
        place,
        message_id,
        original_message_id: note.map(|note| note.message_id.clone()),
        reason: note.map_or_else(|| MAX_RECEIVES.to_owned(), |note| detail(&note.reason)),
        detail: note.map(|note| detail(&note.detail)).unwrap_or_default(),
        at: None,
        attempts: note.map(|note| note.attempts),
        redrives: note.map_or(0, |note| note.redrives),
        files: files_in(body),
    }
}

/// A message of the dead-letter queue.
pub(super) fn of_queue(message: &Message, sent_at: Option<String>) -> Letter {
    let note: Option<Note> = match message.attributes.get(ATTRIBUTE).map(|attribute| &attribute.value) {
        Some(AttributeValue::Text(text)) => serde_json::from_str(text).ok(),
        Some(AttributeValue::Binary(_)) | None => None,
    };
    let at = note.as_ref().map(|note| note.last_failed_at.clone()).or(sent_at);
    Letter { at, ..letter(Place::DeadLetterQueue, message.id.0.clone(), note.as_ref(), &message.body) }
}

/// The files that a body names, in whatever shape, whoever may read them.
fn files_in(body: &str) -> BTreeSet<FileName> {
    // No source is listed: every change is told as one that is not allowed, with its file.
    let Ok(Parsed::Changes(changes)) = parse(body, &Wanted::new(Vec::new(), String::new())) else {
        return BTreeSet::new();
    };
    let name = |judged| match judged {
        Judged::Process(change) | Judged::NotAllowed { change, .. } => {
            Some(FileName { bucket: change.bucket, key: change.key })
        }
        Judged::Skip { bucket, key, .. } => Some(FileName { bucket, key }),
        Judged::Malformed { .. } => None,
    };
    changes.into_iter().filter_map(name).collect()
}

/// Looks through the archive of these days, the newest first.
pub(super) async fn in_archive(ground: &Ground, sought: &Sought, days: &[String]) -> Look<Letters> {
    let until = Instant::now() + READ_FOR;
    let look = async {
        let (named, read) = tokio::join!(by_name(ground, sought, days), through(ground, sought, days, until));
        let (named, read) = (named?, read?);
        let mut found: BTreeMap<String, Letter> = named.into_iter().collect();
        found.extend(read.found);
        let found: Vec<Letter> = found.into_values().collect();
        Ok::<_, StoreError>(Letters { found, read: read.read, more: read.more, notes: read.notes })
    };
    match timeout(super::PATIENCE, look).await {
        Ok(Ok(letters)) if letters.found.is_empty() && !letters.more => Look::Nothing,
        Ok(Ok(letters)) => Look::Found(letters),
        Ok(Err(error)) => Look::Unheard(detail(&error.to_string())),
        Err(_) => Look::Unheard(super::no_answer()),
    }
}

/// Letters by their keys.
struct Read {
    found: Vec<(String, Letter)>,
    read: usize,
    more: bool,
    notes: Vec<String>,
}

/// Under its own id, on any of the days.
async fn by_name(ground: &Ground, sought: &Sought, days: &[String]) -> Result<Vec<(String, Letter)>, StoreError> {
    let Sought::Message(id) = sought else { return Ok(Vec::new()) };
    let keys = days.iter().flat_map(|day| {
        let key = layout::envelope(day, id);
        FOLDERS.map(|folder| key.replacen(FOLDERS[0], folder, 1))
    });
    let reads = futures_util::stream::iter(keys.collect::<Vec<_>>()).map(|key| one(ground, key));
    let letters: Vec<_> = reads.buffered(TOGETHER).collect().await;
    letters.into_iter().filter_map(Result::transpose).collect()
}

async fn through(ground: &Ground, sought: &Sought, days: &[String], until: Instant) -> Result<Read, StoreError> {
    let pages = futures_util::stream::iter(days.to_vec()).map(|day| async move {
        ground.store.list(&ground.bucket, &format!("{}{day}/", FOLDERS[0]), None, PAGE).await
    });
    let pages: Vec<_> = pages.buffered(TOGETHER).collect().await;
    let (mut keys, mut more) = (Vec::new(), false);
    for page in pages {
        let page = page?;
        more |= page.more;
        keys.extend(page.keys);
    }
    more |= keys.len() > READ;
    keys.truncate(READ);
    let (all, mut read, mut unreadable, mut found) = (keys.len(), 0, 0, Vec::new());
    let mut reads = futures_util::stream::iter(keys).map(|key| one(ground, key)).buffered(TOGETHER);
    while let Ok(Some(letter)) = timeout_at(until, reads.next()).await {
        read += 1;
        match letter {
            Ok(Some((key, letter))) if sought.is_in(&letter) => found.push((key, letter)),
            Ok(Some(_) | None) => {}
            Err(_) => unreadable += 1,
        }
    }
    more |= read < all || unreadable > 0;
    let notes = if unreadable > 0 { vec![format!("{unreadable} could not be read")] } else { Vec::new() };
    Ok(Read { found, read, more, notes })
}

/// `None`: it is not there.
async fn one(ground: &Ground, key: String) -> Result<Option<(String, Letter)>, StoreError> {
    let Some(object) = ground.store.get(&ground.bucket, &key).await? else { return Ok(None) };
    let body = read_all(object, LETTER_LIMIT).await?;
    let stored: Stored = serde_json::from_slice(&body)
        .map_err(|error| StoreError::Refused(format!("{key} is no letter of the archive: {error}")))?;
    let letter = stored.letter(&key);
    Ok(Some((key, letter)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stored(change: serde_json::Value) -> Letter {
        let mut stored =
            json!({ "v": 1, "message_id": "d", "note": null, "body": "x", "attributes": {}, "group_id": null });
        stored.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        serde_json::from_value::<Stored>(stored).unwrap().letter("archive/dlq/2026-11-22/d.json")
    }

    #[test]
    fn a_letter_says_what_became_of_its_message() {
        let key = || "archive/dlq/2026-11-22/d.json".to_owned();
        let note = json!({ "v": 1, "reason": "source_missing", "detail": "gone", "attempts": 5, "first_failed_at": "a",
            "last_failed_at": "b", "work_ids": [], "keys": ["k"], "source_queue": "q", "message_id": "m", "redrives": 3 });
        let envelope = stored(json!({ "note": note }));
        assert_eq!((&envelope.place, envelope.at.as_deref()), (&Place::Envelope { key: key() }, Some("b")));
        assert_eq!((envelope.reason.as_str(), envelope.original_message_id.as_deref()), ("source_missing", Some("m")));
        let given_up =
            stored(json!({ "note": note, "archived_at": "c", "reason": "redriven", "detail": "three times" }));
        assert_eq!((&given_up.place, given_up.at.as_deref()), (&Place::GivenUp { key: key() }, Some("c")));
        assert_eq!((given_up.reason.as_str(), given_up.redrives), ("redriven", 3));
        let saved = stored(json!({ "archived_at": "c", "saved": true }));
        assert_eq!((&saved.place, saved.reason.as_str()), (&Place::Saved { key: key() }, "max_receives"));
    }

    #[test]
    fn the_files_of_a_body_are_known_whoever_may_read_them() {
        let named = |body: &str| {
            let files = files_in(body).into_iter();
            files.map(|file| format!("{} {}", file.bucket, file.key)).collect::<Vec<_>>()
        };
        let record = |key: &str| {
            json!({ "eventVersion": "2.1", "eventSource": "aws:s3", "eventName": "ObjectCreated:Put",
            "s3": { "bucket": { "name": "incoming" }, "object": { "key": key } } })
        };
        let event = json!({ "Records": [record("a+b.txt"), record("%E6%97%A5.txt")] });
        assert_eq!(named(&event.to_string()), ["incoming a b.txt", "incoming 日.txt"]);
        assert_eq!(named(r#"{"bucket":"incoming","key":"a+b.txt"}"#), ["incoming a+b.txt"]);
        for none in ["", "no event", r#"{"Records":[]}"#] {
            assert_eq!(named(none), Vec::<String>::new(), "{none}");
        }
    }
}
