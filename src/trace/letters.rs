//! Messages that were put aside, read for what they say: in the archive, and (`peek`) in the dead-letter queue.
//!
//! Promises a bounded look, which says how many were read and whether there are more. A letter lies under the id it had in
//! the queue it was taken from, which for a dead letter is not the id it was first sent under: so they are looked at by
//! name, and then read, the newest days first, for their notes and bodies.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use tokio::time::{Duration, Instant, timeout, timeout_at};

use super::Ground;
use super::findings::{FileName, Letter, Letters, Look, Place};
use crate::dead_letter::Note;
use crate::message::detail::detail;
use crate::message::{Message, MessageId};
use crate::redrive::archive::Archived;
use crate::redrive::archive::shelf::{LETTER_LIMIT, files_of};
use crate::redrive::letter::{MAX_RECEIVES, cause};
use crate::store::{StoreError, layout, read_all};

/// Letters that are read, at most.
const READ: usize = 300;
/// For reading them, all together: the rest of a trace takes less.
const READ_FOR: Duration = Duration::from_millis(1_200);
/// Reads at once.
const TOGETHER: usize = 16;
/// Keys of one day that are counted: S3's page.
const PAGE: usize = 1_000;
/// What was given up on, and copies that were saved from the main queue.
const FOLDERS: [&str; 2] = ["archive/dlq/", "archive/main/"];

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

/// As it lies in the archive.
fn stored(archived: Archived, key: &str) -> Letter {
    let key = key.to_owned();
    let place = match (archived.saved, &archived.archived_at) {
        (true, _) => Place::Saved { key },
        (false, Some(_)) => Place::GivenUp { key },
        (false, None) => Place::Envelope { key },
    };
    let Archived { message_id, note, body, archived_at, sent_at, .. } = archived;
    let told = letter(place, message_id, note.as_ref(), &body);
    let reason = if archived.reason.is_empty() { told.reason } else { detail(&archived.reason) };
    let detail = if archived.detail.is_empty() { told.detail } else { detail(&archived.detail) };
    let at = archived_at.or(sent_at).or_else(|| note.map(|note| note.last_failed_at));
    Letter { reason, detail, at, ..told }
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
        files: files_of(body).into_iter().map(|(bucket, key)| FileName { bucket, key }).collect(),
    }
}

/// A message of the dead-letter queue.
pub(super) fn of_queue(message: &Message, sent_at: Option<String>) -> Letter {
    let note = Note::of(message);
    let told = letter(Place::DeadLetterQueue, message.id.0.clone(), note.as_ref(), &message.body);
    match cause(message, note.as_ref()) {
        Some(note) => Letter { at: Some(note.last_failed_at.clone()), ..told },
        None => Letter { at: sent_at, reason: MAX_RECEIVES.to_owned(), detail: String::new(), attempts: None, ..told },
    }
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
    // Copies last: there may be as many as a queue had, and what was given up on is of more worth.
    let folders = FOLDERS.iter().flat_map(|folder| days.iter().map(move |day| format!("{folder}{day}/")));
    let pages = futures_util::stream::iter(folders.collect::<Vec<_>>())
        .map(|folder| async move { ground.store.list(&ground.bucket, &folder, None, PAGE).await });
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
    let archived: Archived = serde_json::from_slice(&body)
        .map_err(|error| StoreError::Refused(format!("{key} is no letter of the archive: {error}")))?;
    let letter = stored(archived, &key);
    Ok(Some((key, letter)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(change: serde_json::Value) -> Letter {
        let mut stored =
            json!({ "v": 1, "message_id": "d", "note": null, "body": "x", "attributes": {}, "group_id": null });
        stored.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        super::stored(serde_json::from_value(stored).unwrap(), "archive/dlq/2026-11-22/d.json")
    }

    #[test]
    fn a_letter_says_what_became_of_its_message() {
        let key = || "archive/dlq/2026-11-22/d.json".to_owned();
        let note = json!({ "v": 1, "reason": "source_missing", "detail": "gone", "attempts": 5, "first_failed_at": "a",
            "last_failed_at": "b", "work_ids": [], "keys": ["k"], "source_queue": "q", "message_id": "m", "redrives": 3 });
        let envelope = told(json!({ "note": note }));
        assert_eq!((&envelope.place, envelope.at.as_deref()), (&Place::Envelope { key: key() }, Some("b")));
        assert_eq!((envelope.reason.as_str(), envelope.original_message_id.as_deref()), ("source_missing", Some("m")));
        let given_up = told(json!({ "note": note, "archived_at": "c", "reason": "redriven", "detail": "three times" }));
        assert_eq!((&given_up.place, given_up.at.as_deref()), (&Place::GivenUp { key: key() }, Some("c")));
        assert_eq!((given_up.reason.as_str(), given_up.redrives), ("redriven", 3));
        let saved = told(json!({ "archived_at": "c", "saved": true }));
        assert_eq!((&saved.place, saved.reason.as_str()), (&Place::Saved { key: key() }, "max_receives"));
    }
}
