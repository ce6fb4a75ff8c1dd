//! What the findings mean, in one line, and what to do next.
//!
//! Pure: a table. Promises that nothing is concluded from a source that was not heard, and that what cannot be told apart
//! from here is said as a choice and not as one of them.

use serde::Serialize;

use super::findings::{FileFindings, Indexed, Letter, Letters, Look, Mark, Marks, MessageFindings, Place, RecordSeen};
use super::target::place;
use crate::clock::rfc3339;
use crate::index::catalogue::Held;
use crate::message::MessageId;
use crate::process::record::Standing;
use crate::terminal::shell;
use crate::upkeep::verdict::{self as upkeep, Finding};

/// Work on a younger change may be under way: as `redrive reconcile` has it.
const YOUNG_MS: u64 = 15 * 60_000;
const REPLAYED: &str =
    "redrive parked --list          (the workers replay it by themselves; redrive parked does it now)";
const AGAIN: &str = "the same again in a minute";

/// The end it stands at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// File, record and index agree.
    InStep,
    /// The file is gone, and all know.
    Removed,
    /// Recorded; of the index nothing is known.
    Recorded,
    /// The index has it, and searches say otherwise.
    NotShown,
    /// Recorded, and on its way into the index.
    Parked,
    /// Recorded, and refused by the index.
    Errored,
    /// File, record and index do not agree.
    OutOfStep,
    /// The file is there and has no record.
    Unrecorded,
    /// A worker is at it, or died at it.
    InWork,
    /// It has failed, and its end is not known.
    Failing,
    /// It is in the dead-letter queue.
    DeadLettered,
    /// It is in the archive.
    GivenUp,
    /// The source that would tell could not be asked.
    Unclear,
    /// Nobody knows of it.
    NoTrace,
}

impl State {
    /// There is nothing to be done about it.
    pub fn is_well(self) -> bool {
        matches!(self, State::InStep | State::Removed)
    }
}

/// The verdict.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Verdict {
    /// For a machine.
    pub state: State,
    /// For a person.
    pub line: String,
    /// What to do next: commands, or a few words.
    pub next: Vec<String>,
}

impl Verdict {
    fn new(state: State, line: impl Into<String>, next: &[&str]) -> Self {
        Self { state, line: line.into(), next: next.iter().map(|next| (*next).to_owned()).collect() }
    }
}

/// Of a file.
pub fn of_file(file: &FileFindings, now_ms: u64) -> Verdict {
    match &file.record {
        Look::Found(record) => of_recorded(file, record, now_ms),
        Look::Nothing => of_unrecorded(file, now_ms),
        Look::Unheard(why) => {
            Verdict::new(State::Unclear, format!("nothing can be said: its record could not be asked: {why}"), &[])
        }
        Look::NotAsked(why) => Verdict::new(State::Unclear, format!("its record was not asked: {why}"), &[]),
    }
}

fn of_unrecorded(file: &FileFindings, now_ms: u64) -> Verdict {
    if let Some(letter) = newest(&file.dead_letters, &file.archive) {
        return of_letter(letter, &place(&file.bucket, &file.key));
    }
    let repair = repair(file);
    match (&file.object, &file.index) {
        (Look::Found(object), _) => {
            let young = object.modified_ms.is_some_and(|at| now_ms.saturating_sub(at) < YOUNG_MS);
            let since = object.modified_ms.map(|at| format!(" since {}", rfc3339(at))).unwrap_or_default();
            let line = format!(
                "the file is there{since} and has no record: its message is waiting, in flight, dead-lettered or lost"
            );
            let mut next = if young { vec![AGAIN, &repair] } else { vec![repair.as_str()] };
            // Saved before a purge, perhaps.
            let shown = copy(&file.archive).map(|letter| format!("redrive archive show {}", shell(&letter.message_id)));
            next.extend(shown.as_deref());
            Verdict::new(State::Unrecorded, line, &next)
        }
        (_, Look::Found(Indexed { deleted: false, revision })) => {
            let line = format!("the index holds it at revision {revision}, and it has no record");
            Verdict::new(State::OutOfStep, line, &[&repair])
        }
        (Look::Unheard(why), _) => {
            let line = format!("it has no record, and whether the file is there could not be asked: {why}");
            Verdict::new(State::Unclear, line, &[])
        }
        (Look::NotAsked(_) | Look::Nothing, _) => match copy(&file.archive) {
            Some(letter) => of_letter(letter, &format!("a message of {}", place(&file.bucket, &file.key))),
            None => Verdict::new(State::NoTrace, "nothing is known of it: no file, no record, no document", &[]),
        },
    }
}

fn of_recorded(file: &FileFindings, record: &RecordSeen, now_ms: u64) -> Verdict {
    let RecordSeen { revision, recorded_ms, .. } = record;
    let (at, repair) = (rfc3339(*recorded_ms), repair(file));
    let found = match &file.object {
        Look::Found(object) => Some(compared(Some(&object.etag), record, &file.index)),
        Look::Nothing => Some(compared(None, record, &file.index)),
        // Whether the record is of the newest state is not known; whether the index agrees with it is.
        Look::Unheard(_) | Look::NotAsked(_) => None,
    };
    let finding = found.unwrap_or_else(|| compared(record.source_etag.as_deref(), record, &file.index));
    let blind = match &file.object {
        Look::Unheard(_) | Look::NotAsked(_) => " (whether the file has changed since could not be asked)",
        Look::Found(_) | Look::Nothing => "",
    };
    if let Some(Finding::StaleRecord | Finding::OrphanedRecord) = finding {
        let newest = newest(&file.dead_letters, &file.archive).filter(|letter| letter.at.as_ref() > Some(&at));
        if let Some(letter) = newest {
            return of_letter(letter, &place(&file.bucket, &file.key));
        }
        let what = match (&file.object, &record.source_etag) {
            (Look::Found(_), None) => "the file is there again, and its record says removed",
            (Look::Found(_), Some(_)) => "the file has changed since it was recorded",
            (Look::Nothing | Look::Unheard(_) | Look::NotAsked(_), _) => {
                "the file is gone, and its record says it is there"
            }
        };
        let line =
            format!("{what} (revision {revision}, {at}): the message is waiting, in flight, dead-lettered or lost");
        let young = file.object.found().and_then(|object| object.modified_ms).is_some_and(|at| now_ms < at + YOUNG_MS);
        let next = if young { vec![AGAIN, &repair] } else { vec![repair.as_str()] };
        return Verdict::new(State::OutOfStep, line, &next);
    }
    let (parked, errored) = (last(&file.parked), last(&file.errored));
    match (&file.index, finding) {
        (Look::Unheard(_) | Look::NotAsked(_), _) | (_, Some(_)) if parked.is_some() || errored.is_some() => {
            of_marked(file, *revision, parked, errored, blind)
        }
        (Look::Unheard(why), _) => {
            let line = format!("recorded at revision {revision}; the index could not be asked: {why}{blind}");
            Verdict::new(State::Recorded, line, &["worker check"])
        }
        (Look::NotAsked(why), _) => Verdict::new(
            State::Recorded,
            format!("recorded at revision {revision}; the index was not asked: {why}{blind}"),
            &[],
        ),
        (Look::Found(_) | Look::Nothing, Some(finding)) => {
            let young = now_ms.saturating_sub(*recorded_ms) < YOUNG_MS;
            let line = format!("recorded at revision {revision}, and {}: nothing is parked{blind}", finding.as_str());
            let next = if young { vec![AGAIN, &repair] } else { vec![repair.as_str()] };
            Verdict::new(State::OutOfStep, line, &next)
        }
        (Look::Found(_) | Look::Nothing, None) => of_agreed(file, record, blind),
    }
}

/// Record and index agree.
fn of_agreed(file: &FileFindings, record: &RecordSeen, blind: &str) -> Verdict {
    let RecordSeen { revision, source_etag, .. } = record;
    let late = ["the same again in a few seconds: searches see what the index's last refresh saw", "worker check"];
    match (source_etag, &file.shown) {
        (Some(_), Look::Found(false)) => {
            let line =
                format!("recorded at revision {revision}, the index holds it, and a search does not show it{blind}");
            Verdict::new(State::NotShown, line, &late)
        }
        (None, Look::Found(true)) => {
            let line = format!("removed: a tombstone at revision {revision}, and a search still shows it{blind}");
            Verdict::new(State::NotShown, line, &late)
        }
        (Some(_), shown) => {
            let shown = if *shown == Look::Found(true) { " and a search shows it" } else { "" };
            let line = format!("in step: recorded at revision {revision}, the index holds it{shown}{blind}");
            Verdict::new(State::InStep, line, &[])
        }
        (None, _) => {
            let line = format!("removed: a tombstone at revision {revision}, and the index does not show it{blind}");
            Verdict::new(State::Removed, line, &[])
        }
    }
}

/// The index does not have the record's state, and a marker says why.
fn of_marked(
    file: &FileFindings,
    revision: u64,
    parked: Option<&Mark>,
    errored: Option<&Mark>,
    blind: &str,
) -> Verdict {
    let why = |mark: &Mark| {
        let since = mark.failed_at.as_deref().unwrap_or("an unknown time");
        format!("since {since}: {}", mark.reason.as_deref().unwrap_or("its marker cannot be read"))
    };
    match (parked, errored) {
        (Some(mark), _) => Verdict::new(
            State::Parked,
            format!("recorded at revision {revision}, parked {}{blind}", why(mark)),
            &[REPLAYED],
        ),
        (None, Some(mark)) => {
            let line = format!("recorded at revision {revision}, errored {}{blind}", why(mark));
            let reset = format!("redrive parked --errored --reset --key-prefix {}", shell(&file.key));
            Verdict::new(State::Errored, line, &["mend the mapping or the file, then:", &reset])
        }
        (None, None) => Verdict::new(State::Recorded, format!("recorded at revision {revision}{blind}"), &[]),
    }
}

/// Of a message.
pub fn of_message(message: &MessageFindings, now_ms: u64) -> Verdict {
    let files = message.files.iter().map(|file| (file, of_file(file, now_ms)));
    let worst = files.max_by_key(|(_, verdict)| verdict.state);
    let name = format!("message {}", message.message_id);
    if let Some(letter) = newest(&message.dead_letters, &message.archive) {
        // Brought back, and done: what it left behind tells of the past.
        let over = message.documents.found().is_some()
            && message.files.iter().all(|file| {
                let recorded = file.record.found().map(|record| rfc3339(record.recorded_ms));
                recorded > letter.at && of_file(file, now_ms).state.is_well()
            });
        if !over {
            return of_letter(letter, &name);
        }
    }
    if let (Look::Found(number), Some((file, verdict))) = (&message.documents, worst) {
        let Verdict { state, line, next } = verdict;
        let many = if *number > 1 { format!(", the worst of {number} files") } else { String::new() };
        let line = format!("its work is recorded{many}: {}: {line}", place(&file.bucket, &file.key));
        return Verdict { state, line, next };
    }
    match &message.attempts {
        Look::Found(attempts) => {
            let failed = match (attempts.failed, &attempts.last_failed_at) {
                (0, _) | (_, None) => String::new(),
                (failed, Some(at)) => {
                    let reason = attempts.reasons.last().map_or("no reason was kept", String::as_str);
                    format!("failed {failed} times, last at {at}: {reason}; ")
                }
            };
            match attempts.begun.last() {
                Some(mark) => {
                    let line =
                        format!("{failed}begun at {} by run {}, which is at work or died at it", mark.at, mark.run);
                    Verdict::new(State::InWork, line, &["the workers' log of that run_id (see below)"])
                }
                None if attempts.failed > 0 => {
                    let line = format!("{failed}it waits for its next attempt, or was dead-lettered, or has expired");
                    Verdict::new(State::Failing, line, &[&format!("redrive trace {} --dlq", message.message_id)])
                }
                None => {
                    let line = "it was received more than once, and nothing is held against it: how it ended, only the log says";
                    Verdict::new(State::Failing, line, &[])
                }
            }
        }
        Look::Nothing | Look::NotAsked(_) | Look::Unheard(_) => {
            match (&message.documents, message.attempts.unheard()) {
                (Look::Unheard(why), _) => {
                    let line = format!("nothing was found, and the index could not be asked: {why}");
                    Verdict::new(State::Unclear, line, &[])
                }
                (Look::Found(_) | Look::Nothing | Look::NotAsked(_), Some(why)) => {
                    let line = format!("nothing was found, and its attempts could not be asked: {why}");
                    Verdict::new(State::Unclear, line, &[])
                }
                (Look::NotAsked(why), None) => {
                    let line = format!("nothing was found, and the index was not asked: {why}");
                    Verdict::new(State::Unclear, line, &[])
                }
                (Look::Found(_) | Look::Nothing, None) => match copy(&message.archive) {
                    Some(letter) => of_letter(letter, &name),
                    None => {
                        let line = "no trace of it: no document names it, and it has no failed attempt";
                        Verdict::new(State::NoTrace, line, &[])
                    }
                },
            }
        }
    }
}

fn of_letter(letter: &Letter, name: &str) -> Verdict {
    let Letter { message_id: id, reason, detail, attempts, redrives, .. } = letter;
    let at = letter.at.as_deref().map(|at| format!(" at {at}")).unwrap_or_default();
    let detail = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
    let attempts = attempts.map(|n| format!(", {n} attempts")).unwrap_or_default();
    let redrives = if *redrives > 0 { format!(", redriven {redrives} times") } else { String::new() };
    let why = format!("{at}: {reason}{detail}{attempts}{redrives}");
    let id = shell(id);
    match &letter.place {
        Place::DeadLetterQueue => {
            let line = format!("dead-lettered{why}; it is in the dead-letter queue");
            Verdict::new(
                State::DeadLettered,
                line,
                &[&format!("redrive inspect --message-id {id}"), &format!("redrive --message-id {id}")],
            )
        }
        Place::GivenUp { key } => {
            let line = format!("given up on{why}; archived as {key}");
            Verdict::new(
                State::GivenUp,
                line,
                &[&format!("redrive archive show {id}"), &format!("redrive archive restore --message-id {id}")],
            )
        }
        Place::Envelope { key } => {
            let line =
                format!("dead-lettered{why}; its envelope is {key}, the letter is or was in the dead-letter queue");
            Verdict::new(State::DeadLettered, line, &[&format!("redrive inspect --message-id {id}")])
        }
        Place::Saved { key } => Verdict::new(
            State::Unclear,
            format!("a copy of {name} was saved{at}: {key}"),
            &[&format!("redrive archive show {id}")],
        ),
    }
}

/// The newest that was put aside; what is in the queue comes before what is in the archive.
fn newest<'a>(dead_letters: &'a Look<Letters>, archive: &'a Look<Letters>) -> Option<&'a Letter> {
    let last = |letters: &'a Look<Letters>| {
        let put_aside = letters.found()?.found.iter().filter(|letter| !matches!(letter.place, Place::Saved { .. }));
        put_aside.max_by_key(|letter| &letter.at)
    };
    last(dead_letters).or_else(|| last(archive))
}

/// The newest copy that an operator saved: it says nothing of what became of its message.
fn copy(archive: &Look<Letters>) -> Option<&Letter> {
    let copies = archive.found()?.found.iter().filter(|letter| matches!(letter.place, Place::Saved { .. }));
    copies.max_by_key(|letter| &letter.at)
}

fn last(marks: &Look<Marks>) -> Option<&Mark> {
    marks.found()?.marks.iter().max_by_key(|mark| mark.revision)
}

/// As `redrive reconcile` judges it. An index that was not heard is taken for one that agrees: it is judged apart.
fn compared(object: Option<&str>, record: &RecordSeen, index: &Look<Indexed>) -> Option<Finding> {
    let held = match index {
        Look::Found(Indexed { revision, deleted }) => Some(Held { revision: *revision, deleted: *deleted }),
        Look::Nothing => None,
        Look::Unheard(_) | Look::NotAsked(_) => {
            Some(Held { revision: record.revision, deleted: record.source_etag.is_none() })
        }
    };
    let standing = Standing {
        revision: record.revision,
        sequencer: None,
        source_etag: record.source_etag.clone(),
        message_id: record.message_id.clone().map(MessageId),
        object_etag: String::new(),
    };
    upkeep::verdict(object, Some(&standing), held)
}

fn repair(file: &FileFindings) -> String {
    let (bucket, prefix) = (shell(&file.bucket), shell(&file.key));
    format!("redrive reconcile --bucket {bucket} --prefix {prefix} --repair")
}

#[cfg(test)]
mod tests;
