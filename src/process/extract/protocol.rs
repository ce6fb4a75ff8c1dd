//! What worker and child say to each other: one request over stdin, a hello and one reply over
//! stdout, all JSON.
//!
//! The hello is written when the child is set up and before it looks at the file: a child that
//! ends before it said nothing about the file (`Unavailable`), one that ends after it did.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ChildSettings, EXTRACTOR, Extraction, Hints, LimitBroken, Limits};

/// A request's length is bounded by its parts: a path of ours, a key's segment, a header.
pub(super) const MAX_REQUEST_BYTES: u64 = 1 << 20;

/// What a reply holds besides its text: bounded metadata.
const REPLY_SLACK_BYTES: usize = 4 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub file: PathBuf,
    pub hints: Hints,
    pub limits: Limits,
    pub memory_bytes: u64,
    pub cpu_seconds: u64,
}

impl Request {
    pub fn new(file: &Path, hints: &Hints, settings: &ChildSettings) -> Self {
        Self {
            file: file.to_owned(),
            hints: hints.clone(),
            limits: Limits::with_text(settings.max_text_bytes),
            memory_bytes: settings.memory_bytes,
            // The wall clock rules; this one is for the child whose parent was killed.
            cpu_seconds: settings.deadline.as_secs() + 2,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    Extracted(Box<Extraction>),
    Limit(LimitBroken),
    /// The file could not be read from disk: nothing about its format.
    CannotRead(String),
}

/// First line of a child that is ours and ready.
pub(super) fn hello() -> String {
    format!("{EXTRACTOR} ready\n")
}

/// Escapes at most double the bytes of a text without control characters.
pub(super) fn max_reply_bytes(max_text_bytes: usize) -> usize {
    max_text_bytes.saturating_mul(2).saturating_add(REPLY_SLACK_BYTES)
}
