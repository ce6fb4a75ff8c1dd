//! A trace as one screen: the verdict, the life in its order, what is left open, what to do.
//!
//! Promises one line for each source, and that names from outside cannot drive the terminal. Pure.

use super::Report;
use super::findings::{
    AttemptsSeen, FileFindings, Indexed, Letter, Letters, Look, Marks, MessageFindings, Object, Place, RecordSeen,
};
use super::target::place;
use crate::clock::rfc3339;
use crate::message::detail::printable;

/// Where the second column begins.
const WIDTH: usize = 10;
/// Longest text of a line's own words.
const CHARS: usize = 300;
/// Letters and markers that are shown one by one: the newest.
const SHOWN: usize = 3;

impl Report {
    /// For a person.
    pub fn text(&self) -> String {
        let mut page = format!("{}\n  {}\n\n", self.title, printable(&self.verdict.line, 3 * CHARS));
        if let Some(message) = &self.message {
            page += &of_message(message);
            for file in &message.files {
                page += &format!("\n{}\n{}", place(&file.bucket, &file.key), of_file(file));
            }
        }
        if let Some(file) = &self.file {
            page += &of_file(file);
        }
        let mut next = self.verdict.next.iter();
        if let Some(first) = next.next() {
            page += &format!("\nnext: {first}\n");
            page.extend(next.map(|next| format!("      {next}\n")));
        }
        if !self.cannot_tell.is_empty() {
            page += "\nWhat this cannot tell:\n";
            page.extend(self.cannot_tell.iter().map(|open| format!("- {open}\n")));
            let log = &self.log;
            page += &format!("The workers' log can. CloudWatch Logs Insights:\n  {}\n", log.insights);
            page += &format!("On a worker's machine:\n  {}\n", log.journal);
        }
        page
    }
}

fn row(name: &str, text: &str) -> String {
    format!("  {name:WIDTH$}{}\n", printable(text, CHARS))
}

/// A source that has something, or the word for each way in which it has not.
fn look<T>(name: &str, look: &Look<T>, nothing: &str, told: impl FnOnce(&T) -> String) -> String {
    match look {
        Look::Found(found) => told(found),
        Look::Nothing => row(name, nothing),
        Look::Unheard(why) => row(name, &format!("could not be asked: {why}")),
        Look::NotAsked(why) => row(name, &format!("not asked: {why}")),
    }
}

fn of_file(file: &FileFindings) -> String {
    let mut page = look("file", &file.object, "not in the bucket", |Object { etag, size, modified_ms }| {
        let since = modified_ms.map(rfc3339).unwrap_or_else(|| "there".to_owned());
        row("file", &format!("{since}  {size} bytes, etag {etag}"))
    });
    page += &look("record", &file.record, "none", of_record);
    page += &of_index(file);
    page += &look("parked", &file.parked, "no", |marks| of_marks("parked", marks));
    page += &look("errored", &file.errored, "no", |marks| of_marks("errored", marks));
    for (id, attempts) in &file.attempts {
        page += &look("attempts", attempts, &format!("none failed of message {id}"), |seen| of_attempts(seen, id));
    }
    page + &of_letters(&file.archive, &file.dead_letters)
}

fn of_message(message: &MessageFindings) -> String {
    let mut page = look("attempts", &message.attempts, "none failed (or they are older than 15 days)", |seen| {
        of_attempts(seen, &message.message_id)
    });
    page += &of_letters(&message.archive, &message.dead_letters);
    page += &look("index", &message.documents, "no document names it", |number| {
        let (shown, number) = (message.files.len(), *number);
        let shown = if number > shown { format!("more than {shown} documents") } else { format!("{number} documents") };
        row("index", &format!("{shown} written by it"))
    });
    page
}

fn of_record(record: &RecordSeen) -> String {
    let RecordSeen { revision, recorded_ms, source_etag, sequencer, message_id, original_message_id, .. } = record;
    let what = if source_etag.is_some() { "revision" } else { "tombstone, revision" };
    let by = message_id.as_deref().map(|id| format!(", by message {id}")).unwrap_or_default();
    let first = original_message_id.as_deref().map(|id| format!(" (first sent as {id})")).unwrap_or_default();
    let mut page = row("record", &format!("{}  {what} {revision}{by}{first}", rfc3339(*recorded_ms)));
    let etag = source_etag.as_deref().map(|etag| format!("of etag {etag}"));
    let sequencer = sequencer.as_deref().map(|sequencer| format!("sequencer {sequencer}"));
    let extractor = record.extractor.as_deref().map(|extractor| format!("read by {extractor}"));
    let more: Vec<String> = [etag, sequencer, extractor].into_iter().flatten().collect();
    if !more.is_empty() {
        page += &row("", &more.join(", "));
    }
    if let Some(error) = &record.extraction_error {
        page += &row("", &format!("could not be read: {error}"));
    }
    page
}

fn of_index(file: &FileFindings) -> String {
    look("index", &file.index, "holds no such document", |Indexed { revision, deleted }| {
        let what = if *deleted { "tombstone, revision" } else { "revision" };
        let shown = match &file.shown {
            Look::Found(true) => "; a search shows it".to_owned(),
            Look::Found(false) | Look::Nothing => "; no search shows it".to_owned(),
            Look::Unheard(why) => format!("; whether a search shows it could not be asked: {why}"),
            Look::NotAsked(_) => String::new(),
        };
        row("index", &format!("{what} {revision}{shown}"))
    })
}

fn of_marks(name: &str, Marks { marks, not_from }: &Marks) -> String {
    let mut page = String::new();
    for mark in marks.iter().rev().take(SHOWN) {
        let since = mark.failed_at.as_deref().unwrap_or("?");
        let why = mark.reason.as_deref().unwrap_or("its marker cannot be read");
        page += &row(name, &format!("{since}  revision {}: {why}", mark.revision));
        page += &row("", &mark.marker);
    }
    if marks.len() > SHOWN {
        page += &row("", &format!("and {} of older revisions", marks.len() - SHOWN));
    }
    if marks.is_empty() {
        let days = not_from.as_deref().map(|from| format!(" before {from}")).unwrap_or_default();
        page += &row(name, &format!("none on the days{days}"));
    }
    page
}

fn of_attempts(seen: &AttemptsSeen, id: &str) -> String {
    let mut page = match (seen.failed, &seen.first_failed_at, &seen.last_failed_at) {
        (0, _, _) => row("attempts", &format!("none failed of message {id}")),
        (failed, first, last) => {
            let (first, last) = (first.as_deref().unwrap_or("?"), last.as_deref().unwrap_or("?"));
            row("attempts", &format!("{first}  {failed} failed of message {id}, the last at {last}"))
        }
    };
    for reason in seen.reasons.iter().rev().take(SHOWN) {
        page += &row("", reason);
    }
    for mark in seen.begun.iter().rev().take(SHOWN) {
        page += &row("", &format!("begun at {} by run {} and not ended", mark.at, mark.run));
    }
    page
}

fn of_letters(archive: &Look<Letters>, dead_letters: &Look<Letters>) -> String {
    let told = |name: &'static str| {
        move |letters: &Letters| {
            let Letters { found, read, notes, more } = letters;
            let mut page: String = found.iter().rev().take(SHOWN).map(|letter| of_letter(name, letter)).collect();
            if found.is_empty() {
                let more = if *more { ", and there are more" } else { "" };
                page += &row(name, &format!("nothing of it among the {read} that were read{more}"));
            }
            page.extend(notes.iter().map(|note| row("", note)));
            page
        }
    };
    look("archive", archive, "nothing of it", told("archive"))
        + &look("dlq", dead_letters, "nothing of it", told("dlq"))
}

fn of_letter(name: &str, letter: &Letter) -> String {
    let Letter { message_id, original_message_id, reason, detail, .. } = letter;
    let at = letter.at.as_deref().unwrap_or("?");
    let first = original_message_id.as_deref().filter(|first| *first != message_id);
    let first = first.map(|first| format!(" (first sent as {first})")).unwrap_or_default();
    let why = if detail.is_empty() { reason.clone() } else { format!("{reason}: {detail}") };
    let page = row(name, &format!("{at}  message {message_id}{first}: {why}"));
    match &letter.place {
        Place::DeadLetterQueue => page,
        Place::GivenUp { key } => page + &row("", key),
        Place::Envelope { key } => page + &row("", &format!("{key} (an envelope: the letter is in the queue)")),
        Place::Saved { key } => page + &row("", &format!("{key} (a copy)")),
    }
}
