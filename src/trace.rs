//! `redrive trace`: everything known about one file or one message, for somebody who was woken up.
//!
//! Promises that all sources are asked at once, each in its own time, that one which does not answer is told and hides no
//! other, and that a miss says what it cannot prove. Writes nothing; only a look into the dead-letter queue, which must be
//! asked for, leaves a mark (a receive of each message). Concludes by a pure table (`verdict`).

use std::sync::Arc;

use serde::Serialize;
use tokio::time::{Duration, Instant};

use crate::clock::{WallClock, date};
use crate::config::exit;
use crate::index::provenance::Provenance;
use crate::message::{MessageId, Namespace};
use crate::store::Store;

mod advice;
pub mod command;
mod file;
pub mod findings;
mod letters;
mod marks;
mod peek;
mod target;
mod text;
pub mod verdict;

pub use advice::LogQueries;
pub use peek::Peek;
pub use target::Target;

use findings::{FileFindings, FileName, Letters, Look, MessageFindings};
use letters::Sought;
use verdict::{State, Verdict};

/// For one source: a person waits.
const PATIENCE: Duration = Duration::from_secs(5);
/// Files of a message that are traced; a message may name a thousand.
pub const MOST_FILES: usize = 10;
const DAY_MS: u64 = 86_400_000;

/// Why the dead-letter queue was not asked.
const NO_DLQ: &str = "--dlq was not given";
/// Why the letters of a message's file are not looked for again.
const BY_MESSAGE: &str = "looked for by the message";

/// Where everything lies.
pub(crate) struct Ground {
    store: Arc<dyn Store>,
    bucket: String,
    namespace: Namespace,
    index: Option<Arc<dyn Provenance>>,
    clock: Arc<dyn WallClock>,
}

/// A trace that is asked for.
pub struct Trace {
    /// Source and results bucket.
    pub store: Arc<dyn Store>,
    /// Results bucket.
    pub results_bucket: String,
    /// Scope.
    pub namespace: Namespace,
    /// The index; `None` with `SKIP_OPENSEARCH`.
    pub index: Option<Arc<dyn Provenance>>,
    /// The dead-letter queue, where it was asked for.
    pub dead_letters: Option<Peek>,
    /// Days of the archive that are looked through, today's too.
    pub days: u64,
    /// For those days.
    pub clock: Arc<dyn WallClock>,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// The target, for a person.
    #[serde(skip)]
    pub title: String,
    /// `s3://bucket/key` or the id, as asked for.
    pub target: String,
    /// Scope.
    pub namespace: String,
    /// When it was asked, RFC 3339.
    pub at: String,
    /// What it means, and what to do.
    pub verdict: Verdict,
    /// Of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileFindings>,
    /// Of a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<MessageFindings>,
    /// What could not be asked: source and reason.
    pub unheard: Vec<(String, String)>,
    /// What was left open.
    pub cannot_tell: Vec<String>,
    /// Where the rest is written: the workers' log.
    pub log: LogQueries,
    /// How long it took.
    pub ms: u64,
    /// Exit code of design §8.
    #[serde(skip)]
    pub code: u8,
}

impl Trace {
    /// Asks everybody.
    pub async fn run(self, target: &Target) -> Report {
        let began = Instant::now();
        let Self { store, results_bucket: bucket, namespace, index, dead_letters, days, clock } = self;
        let ground = Ground { store, bucket, namespace, index, clock };
        let today = ground.clock.unix_ms();
        let days: Vec<String> = (0..days.max(1)).map(|n| date(today.saturating_sub(n * DAY_MS))).collect();
        let at = file::now(&ground);
        let mut report = match target {
            Target::File { bucket, key } => {
                let name = FileName { bucket: bucket.clone(), key: key.clone() };
                let sought = Sought::File(name.clone());
                let archive = letters::in_archive(&ground, &sought, &days);
                let found = file::trace(&ground, name, archive, peek(dead_letters, &sought)).await;
                Report::of_file(target, &ground, today, found)
            }
            Target::Message(id) => {
                let found = message(&ground, id, &days, dead_letters).await;
                Report::of_message(target, &ground, today, found)
            }
        };
        (report.at, report.ms) = (at, u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
        report
    }
}

async fn peek(peek: Option<Peek>, sought: &Sought) -> Look<Letters> {
    match peek {
        Some(peek) => peek.look(sought).await,
        None => Look::NotAsked(NO_DLQ),
    }
}

/// By its id everywhere; then the files that the index or its letters name.
async fn message(ground: &Ground, id: &MessageId, days: &[String], dead_letters: Option<Peek>) -> MessageFindings {
    let sought = Sought::Message(id.clone());
    let (attempts, archive, dead_letters, documents) = tokio::join!(
        file::attempts(ground, id),
        letters::in_archive(ground, &sought, days),
        peek(dead_letters, &sought),
        file::documents(ground, id, MOST_FILES + 1),
    );
    let mut names: Vec<FileName> = documents.found().cloned().unwrap_or_default();
    for letters in [&dead_letters, &archive] {
        let named = letters.found().into_iter().flat_map(|letters| &letters.found).flat_map(|letter| &letter.files);
        for name in named.take(MOST_FILES) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    names.truncate(MOST_FILES);
    let letters_are_known = || std::future::ready(Look::NotAsked(BY_MESSAGE));
    let files = names.into_iter().map(|name| file::trace(ground, name, letters_are_known(), letters_are_known()));
    let files = futures_util::future::join_all(files).await;
    let documents = match documents {
        Look::Found(names) => Look::Found(names.len()),
        Look::Nothing => Look::Nothing,
        Look::Unheard(why) => Look::Unheard(why),
        Look::NotAsked(why) => Look::NotAsked(why),
    };
    MessageFindings { message_id: id.0.clone(), attempts, archive, dead_letters, documents, files }
}

/// What is said of a source that was silent.
fn no_answer() -> String {
    format!("no answer within {PATIENCE:?}")
}

impl Report {
    fn of_file(target: &Target, ground: &Ground, now_ms: u64, file: FileFindings) -> Self {
        let verdict = verdict::of_file(&file, now_ms);
        let cannot_tell = advice::of_file(target, &file, &verdict);
        let (unheard, heard) = (owned(file.unheard()), file.heard());
        Self { file: Some(file), cannot_tell, ..Self::bare(target, ground, verdict, unheard, heard) }
    }

    fn of_message(target: &Target, ground: &Ground, now_ms: u64, message: MessageFindings) -> Self {
        let verdict = verdict::of_message(&message, now_ms);
        let cannot_tell = advice::of_message(target, &message, &verdict);
        let (unheard, heard) = (owned(message.unheard()), message.heard());
        Self { message: Some(message), cannot_tell, ..Self::bare(target, ground, verdict, unheard, heard) }
    }

    fn bare(target: &Target, ground: &Ground, verdict: Verdict, unheard: Vec<(String, String)>, heard: bool) -> Self {
        let code = match (heard, unheard.is_empty(), verdict.state) {
            (false, _, _) => exit::EX_TEMPFAIL,
            (true, false, _) | (true, true, State::NoTrace) => exit::EX_PARTIAL,
            (true, true, _) => exit::EX_OK,
        };
        Self {
            title: target.to_string(),
            target: match target {
                Target::File { bucket, key } => format!("s3://{bucket}/{key}"),
                Target::Message(id) => id.0.clone(),
            },
            namespace: ground.namespace.to_string(),
            at: String::new(),
            verdict,
            file: None,
            message: None,
            unheard,
            cannot_tell: Vec::new(),
            log: LogQueries::of(target),
            ms: 0,
            code,
        }
    }

    /// One JSON object on one line.
    pub fn json(&self) -> String {
        // Strings, numbers and lists: there is nothing here that JSON cannot hold.
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn owned(unheard: Vec<(&str, &str)>) -> Vec<(String, String)> {
    unheard.into_iter().map(|(name, why)| (name.to_owned(), why.to_owned())).collect()
}
