//! `redrive archive list` and `show`: what was given up on, for a person and for a script.
//!
//! Promises that what is printed and held is bounded however much is archived, and that text from outside is printed as
//! one harmless line. Changes nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use futures_util::StreamExt as _;
use serde::Serialize;

use super::shelf::{Read, Selection, Shelf, TOGETHER};
use super::{Archived, Source};
use crate::config::exit;
use crate::index::parked::Answer;
use crate::message::detail::{detail, printable};
use crate::terminal::KEY_CHARS;
use crate::upkeep::Trouble;

/// Reasons that are told apart; they are a closed list, but an object may say anything.
const REASONS: usize = 30;
/// Letters of one message that are held and shown: each may have megabytes.
const FOUND: usize = 20;
/// Source keys of one letter in a report; `show` tells all.
const KEYS: usize = 10;

/// What is archived.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ListReport {
    /// Of which queue.
    pub queue: &'static str,
    /// Objects of the days that were asked for.
    pub objects: u64,
    /// Letters that match, where all were read; `None`: nothing but days was asked for, and they were not.
    pub matching: Option<u64>,
    /// Objects, by the day of their archiving; with more to match than days, the letters that match.
    pub days: BTreeMap<String, u64>,
    /// How many objects were read: the oldest.
    pub read: u64,
    /// Reasons of the letters that were read and match.
    pub reasons: BTreeMap<String, u64>,
    /// Envelopes among those that were read: their letters are in the DLQ, and not given up.
    pub envelopes: u64,
    /// The oldest letters that match.
    pub letters: Vec<Line>,
    /// Of those that were looked at, those that cannot be read.
    pub unreadable: u64,
    /// What the first of those said.
    pub trouble: Option<String>,
}

/// A letter in a listing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Line {
    /// Its object.
    pub object: String,
    /// Id under which it was archived.
    pub message_id: String,
    /// Id under which it was first sent.
    pub original_message_id: String,
    /// When it was archived, RFC 3339.
    pub archived_at: String,
    /// Why.
    pub reason: String,
    /// Why, as a sentence.
    pub detail: String,
    /// The first of its source keys.
    pub keys: Vec<String>,
    /// How often it had been redriven.
    pub redrives: u32,
    /// A copy: the message itself may still be in its queue.
    pub saved: bool,
    /// Bytes of its body.
    pub body_bytes: usize,
}

impl Line {
    /// Of a letter and its object.
    pub fn of(object: &str, letter: &Archived) -> Self {
        let mut keys = letter.keys();
        keys.truncate(KEYS);
        Self {
            object: object.to_owned(),
            message_id: letter.message_id.clone(),
            original_message_id: letter.original_id().to_owned(),
            archived_at: letter.archived_at.clone().unwrap_or_default(),
            reason: letter.reason.clone(),
            detail: letter.detail.clone(),
            keys,
            redrives: letter.note.as_ref().map_or(0, |note| note.redrives),
            saved: letter.saved,
            body_bytes: letter.body.len(),
        }
    }

    /// For a person.
    pub fn text(&self) -> String {
        let key = self.keys.first().map_or_else(|| "(no key)".to_owned(), |key| printable(key, KEY_CHARS));
        let more = match self.keys.len() {
            0 | 1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        let saved = if self.saved { ", a copy" } else { "" };
        let why = if self.detail.is_empty() { String::new() } else { format!(": {}", detail(&self.detail)) };
        let (at, id, reason) =
            (printable(&self.archived_at, 30), printable(&self.message_id, 100), printable(&self.reason, 60));
        format!("{at}  {id}  {key}{more}\n    {reason}{why} (redriven {} times{saved})", self.redrives)
    }
}

/// Letters of one message, and their objects.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// The first of them.
    pub letters: Vec<(String, Archived)>,
    /// There are more.
    pub more: bool,
}

impl Found {
    fn add(&mut self, object: String, letter: Archived) {
        self.more |= self.letters.len() >= FOUND;
        if !self.more {
            self.letters.push((object, letter));
        }
    }
}

pub(in crate::redrive) fn more_than_shown() -> String {
    format!("\nthere are more archived letters of this message than the {FOUND} that are shown\n")
}

impl Shelf {
    /// Counts by day and reason, and shows the oldest `limit` letters.
    pub async fn list(&self, selection: &Selection, limit: usize) -> Result<Answer, Trouble> {
        let by_day = selection.is_by_day();
        let mut report = ListReport { queue: selection.source.as_str(), ..ListReport::default() };
        let mut walk = self.walk(selection);
        while let Some(keys) = walk.next().await? {
            report.objects += keys.len() as u64;
            let mut wanted = Vec::new();
            for (key, day) in keys {
                if by_day {
                    *report.days.entry(day.clone()).or_default() += 1;
                }
                wanted.push((key, day));
            }
            if by_day {
                wanted.truncate(limit.saturating_sub(usize::try_from(report.read).unwrap_or(usize::MAX)));
            }
            let reads = wanted.into_iter().map(async |(key, day)| (self.read(&key).await, key, day));
            let mut reads = futures_util::stream::iter(reads).buffered(TOGETHER);
            while let Some((read, key, day)) = reads.next().await {
                self.count(read?, &key, day, selection, limit, &mut report);
            }
        }
        if !by_day {
            report.matching = Some(report.reasons.values().sum());
        }
        let code = if report.unreadable == 0 { exit::EX_OK } else { exit::EX_PARTIAL };
        Ok(Answer::of(&report, report.text(&self.bucket, limit), code))
    }

    fn count(&self, read: Read, key: &str, day: String, selection: &Selection, limit: usize, report: &mut ListReport) {
        let letter = match read {
            Read::Gone => return,
            Read::Unreadable(why) => {
                report.read += 1;
                report.unreadable += 1;
                report.trouble.get_or_insert_with(|| format!("{key}: {why}"));
                return;
            }
            Read::Letter(letter) => letter,
        };
        report.read += 1;
        if letter.archived_at.is_none() {
            report.envelopes += 1;
        } else if selection.has(&letter) {
            if !selection.is_by_day() {
                *report.days.entry(day).or_default() += 1;
            }
            let full = report.reasons.len() >= REASONS && !report.reasons.contains_key(&letter.reason);
            let reason = if full { "others".to_owned() } else { letter.reason.clone() };
            *report.reasons.entry(reason).or_default() += 1;
            if report.letters.len() < limit {
                report.letters.push(Line::of(key, &letter));
            }
        }
    }

    /// The letters that were archived, or first sent, under this id, of both queues. `tell`: how many were read so far,
    /// where all have to be.
    pub async fn find(&self, id: &str, tell: &(dyn Fn(u64) + Sync)) -> Result<Found, Trouble> {
        let mut found = Found::default();
        for source in [Source::Dlq, Source::Main] {
            for key in self.keys_by_id(source, id).await? {
                if let Read::Letter(letter) = self.read(&key).await? {
                    found.add(key, *letter);
                }
            }
        }
        if !found.letters.is_empty() {
            return Ok(found);
        }
        // Its first id is in no key: all are read.
        let mut seen = 0;
        for source in [Source::Dlq, Source::Main] {
            let all = Selection { source, ..Selection::default() };
            let mut walk = self.walk(&all);
            while let Some(keys) = walk.next().await? {
                let reads = keys.into_iter().map(async |(key, _)| (self.read(&key).await, key));
                let mut reads = futures_util::stream::iter(reads).buffered(TOGETHER);
                while let Some((read, key)) = reads.next().await {
                    seen += 1;
                    match read? {
                        Read::Letter(letter) if letter.is_called(id) => found.add(key, *letter),
                        Read::Letter(_) | Read::Gone | Read::Unreadable(_) => {}
                    }
                }
                tell(seen);
                if found.more {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }

    /// One message in full.
    pub async fn show(&self, id: &str, tell: &(dyn Fn(u64) + Sync)) -> Result<Answer, Trouble> {
        #[derive(Serialize)]
        struct Shown<'a> {
            object: &'a str,
            letter: &'a Archived,
        }
        #[derive(Serialize)]
        struct ShowReport<'a> {
            message_id: &'a str,
            found: Vec<Shown<'a>>,
            more: bool,
        }
        let Found { letters: found, more } = self.find(id, tell).await?;
        let report = ShowReport {
            message_id: id,
            more,
            found: found.iter().map(|(object, letter)| Shown { object, letter }).collect(),
        };
        if found.is_empty() {
            let text = format!(
                "no archived message {} in {}: it was never given up on, or was restored, or has expired there",
                printable(id, 200),
                self.bucket
            );
            return Ok(Answer::of(&report, text, exit::EX_PARTIAL));
        }
        let mut text = found.iter().map(|(object, letter)| full(object, letter)).collect::<Vec<_>>().join("\n");
        if more {
            text += &more_than_shown();
        }
        Ok(Answer::of(&report, text, exit::EX_OK))
    }
}

impl ListReport {
    fn text(&self, bucket: &str, limit: usize) -> String {
        let Self { queue, objects, read, envelopes, unreadable, .. } = self;
        let mut page = match self.matching {
            None => format!("{objects} archived under archive/{queue}/ in {bucket}\n"),
            Some(matching) => format!("{matching} match of {objects} archived under archive/{queue}/ in {bucket}\n"),
        };
        for (day, number) in &self.days {
            let _ = writeln!(page, "  {day}  {number}");
        }
        if !self.reasons.is_empty() {
            let of = if self.matching.is_some() { String::new() } else { format!(" (of the oldest {read})") };
            let _ = writeln!(page, "by reason{of}:");
            for (reason, number) in &self.reasons {
                let _ = writeln!(page, "  {number:7}  {}", printable(reason, 60));
            }
        }
        if *envelopes > 0 {
            let _ =
                writeln!(page, "{envelopes} are envelopes: their letters are in the dead-letter queue, not given up");
        }
        for line in &self.letters {
            let _ = writeln!(page, "{}", line.text());
        }
        // Of days alone no more are read than are asked for: among them may be envelopes, which are no letters.
        if self.matching.map_or(objects > read, |matching| matching > self.letters.len() as u64) {
            let _ = writeln!(page, "… only the oldest {limit} are shown (--limit)");
        }
        if let Some(trouble) = &self.trouble {
            let _ = writeln!(page, "{unreadable} cannot be read, the first: {}", detail(trouble));
        }
        page
    }
}

/// Everything of a letter, for a person. The body as it is but for characters that would drive the terminal.
pub(in crate::redrive) fn full(object: &str, letter: &Archived) -> String {
    let mut page = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(page, "{name:18} {}", printable(value, KEY_CHARS));
    };
    line("object", object);
    line("message id", &letter.message_id);
    if letter.original_id() != letter.message_id {
        line("first sent as", letter.original_id());
    }
    match &letter.archived_at {
        Some(at) if letter.saved => line("saved", &format!("{at} (a copy; the message may be in its queue)")),
        Some(at) => line("archived", at),
        None => line("envelope", "its letter is in the dead-letter queue, and not given up"),
    }
    line("from", letter.source.as_str());
    line("reason", &letter.reason);
    line("detail", &letter.detail);
    line("sent", letter.sent_at.as_deref().unwrap_or("not known"));
    line("receive count", &letter.receive_count.to_string());
    if let Some(run) = &letter.run_id {
        line("run", run);
    }
    for key in letter.keys() {
        line("key", &key);
    }
    if let Some(note) = &letter.note {
        line("attempts", &format!("{}, first {} last {}", note.attempts, note.first_failed_at, note.last_failed_at));
        line("redriven", &note.redrives.to_string());
    }
    if let Some(group) = &letter.group_id {
        line("group", group);
    }
    for (name, attribute) in &letter.attributes {
        let value = attribute.text.as_ref().or(attribute.base64.as_ref()).map_or("", String::as_str);
        line(&format!("attribute {name}"), &format!("({}) {value}", attribute.data_type));
    }
    // Line by line, so that the text keeps its shape and nothing in it can forge a line of ours.
    let _ = writeln!(page, "body ({} bytes):", letter.body.len());
    for text in letter.body.split('\n') {
        let _ = writeln!(page, "  {}", printable(text.trim_end_matches('\r'), usize::MAX));
    }
    page
}
