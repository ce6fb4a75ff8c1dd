//! Extraction: from a file to its text, through a child process that can be killed.
//!
//! Promises: one child per file; a child that crashes, hangs or breaks a limit is an
//! [`ExtractFailure`], never a worker's death; whatever the caller must hold while work goes on
//! ([`Keep`]) is released only when the child is really gone (P7). A file that cannot be read is
//! not a failure: it is an [`Extraction`] with an `extraction_error`.
//! Refuses to know: queues, leases, S3, indexes. Keys are never paths here: only the caller's
//! temp file is opened, and the key's last segment is a hint about the type.

mod charset;
mod html;
mod json;
mod kind;
mod language;
mod limits;
mod mail;
mod markdown;
mod office;
mod ooxml;
mod pdf;
mod protocol;
mod read;
mod sandbox;
mod sheet;
mod sink;
mod supervise;
mod table;
mod text;
mod xml;

use std::any::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, oneshot};

pub use limits::{LimitBroken, LimitKind, Limits};
pub use read::{FileError, extract_bytes, extract_file};
pub use sandbox::child_main;

/// Name and version of this extractor, as records carry it. Raised when the same bytes would
/// give another text.
pub const EXTRACTOR: &str = "quittance-extract/1";

/// The argument that makes a program of ours the child.
pub const CHILD_ARG: &str = "extract-child";

/// What is known of a file besides its bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hints {
    /// Last segment of the key: any UTF-8, never used as a path.
    pub file_name: String,
    /// As stored in S3, parameters included.
    pub content_type: Option<String>,
}

/// What a file says. Every text in it is free of control characters but `\n` and `\t`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Extraction {
    /// Lower case, without parameters; `application/octet-stream` when nothing is known.
    pub mime_type: String,
    /// From the file itself, one line.
    pub title: Option<String>,
    /// At most `max_text_bytes` bytes of UTF-8; `None` when the format has no text for us.
    pub content: Option<String>,
    /// ISO 639-1, only where it is plain to see.
    pub language: Option<String>,
    /// The file holds more text than `content`.
    pub truncated: bool,
    /// Why the file cannot be read, or not whole: at most 512 characters.
    pub extraction_error: Option<String>,
    /// Facts of the format, by the names that the index knows them under.
    pub meta: BTreeMap<String, serde_json::Value>,
}

impl Extraction {
    /// The promises above, kept also when a child broke them: it parses hostile files.
    fn bounded(mut self, max_text_bytes: usize) -> Self {
        self.mime_type = sink::one_line(&self.mime_type, sink::MAX_META_CHARS).unwrap_or_default();
        self.title = self.title.and_then(|title| sink::one_line(&title, sink::MAX_META_CHARS));
        self.extraction_error = self.extraction_error.and_then(|error| sink::one_line(&error, sink::MAX_ERROR_CHARS));
        if let Some(content) = &mut self.content
            && content.len() > max_text_bytes
        {
            content.truncate(content.floor_char_boundary(max_text_bytes));
            self.truncated = true;
        }
        self
    }
}

/// Whatever must stay alive until the child is really gone (the message's permit, the temp
/// file). Opaque here: this station knows no lease.
pub type Keep = Arc<dyn Any + Send + Sync>;

/// The child failed, not the file's format.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ExtractFailure {
    /// The child ended by itself without an answer, after it had begun on the file.
    #[error("extraction child crashed: {detail}")]
    Crashed {
        /// How it ended, and the end of its stderr.
        detail: String,
    },
    /// The child was killed at its deadline.
    #[error("extraction child ran longer than {} ms", after.as_millis())]
    TimedOut {
        /// The deadline.
        after: Duration,
    },
    /// A limit on this file's cost was broken; `which` is the word for the dead-letter's detail.
    #[error("{which} limit broken: {detail}")]
    Limit {
        /// Which one.
        which: LimitKind,
        /// A sentence.
        detail: String,
    },
    /// The child never began on the file: no binary, another program, no memory, no descriptors,
    /// the temp file gone. Says nothing about the file: systemic.
    #[error("extraction child unavailable: {detail}")]
    Unavailable {
        /// A sentence.
        detail: String,
    },
}

/// The port: how the critical path has a file read.
#[async_trait]
pub trait Extract: Send + Sync + 'static {
    /// Reads `file`. Dropping the future ends the work; `keep` is dropped when it has ended.
    async fn extract(&self, file: &Path, hints: &Hints, keep: Keep) -> Result<Extraction, ExtractFailure>;
}

/// How children are run.
#[derive(Clone, Debug)]
pub struct ChildSettings {
    /// The program, by its absolute path (children run in `/`); `/proc/self/exe` stays the running version while a deploy replaces the file.
    pub program: PathBuf,
    /// Its only argument, [`CHILD_ARG`].
    pub arg: &'static str,
    /// Children at a time; at least one is taken.
    pub children: usize,
    /// Wall clock a child has for one file, counted from its start (waiting for a free child is
    /// not counted: it says nothing about the file).
    pub deadline: Duration,
    /// Address space of a child, bytes (`RLIMIT_AS`).
    pub memory_bytes: u64,
    /// Longest content, bytes of UTF-8.
    pub max_text_bytes: usize,
}

impl ChildSettings {
    /// Settings for children of this very program: 60 s, 1 GiB and 10 MiB of text each.
    pub fn new(children: usize) -> Self {
        Self {
            program: PathBuf::from("/proc/self/exe"),
            arg: CHILD_ARG,
            children,
            deadline: Duration::from_secs(60),
            memory_bytes: 1 << 30,
            max_text_bytes: 10 << 20,
        }
    }
}

/// At most so many children at once, each with a task of its own that outlives the request.
///
/// The slot is taken by the requester, not by a queue: a request that goes away while it waits
/// gives its `Keep` back at once instead of when its turn comes.
pub struct ChildPool {
    settings: Arc<ChildSettings>,
    slots: Arc<Semaphore>,
}

impl ChildPool {
    /// No child is started before the first request.
    pub fn start(settings: ChildSettings) -> Self {
        let slots = Arc::new(Semaphore::new(settings.children.max(1)));
        Self { settings: Arc::new(settings), slots }
    }
}

#[async_trait]
impl Extract for ChildPool {
    async fn extract(&self, file: &Path, hints: &Hints, keep: Keep) -> Result<Extraction, ExtractFailure> {
        let gone = |what: &str| ExtractFailure::Unavailable { detail: what.to_owned() };
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(|_| gone("the pool of children is closed"))?;
        let request = protocol::Request::new(file, hints, &self.settings);
        let (reply, answer) = oneshot::channel();
        // The task, not this future, owns the child: it must live on to see the child's end.
        tokio::spawn(supervise::supervise(Arc::clone(&self.settings), request, reply, (slot, keep)));
        answer.await.unwrap_or_else(|_| Err(gone("the task that watches the child ended early")))
    }
}
