//! Limits on what one file may cost inside the child, and the word for each when it is broken.
//!
//! A broken limit is a message failure (T1): the dead-letter's detail names it. Text beyond
//! `max_text_bytes` is no broken limit, only truncated.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What one file may cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Longest content, bytes of UTF-8.
    pub max_text_bytes: usize,
    /// Bytes that all parts of an archive may inflate to together, counted as they stream.
    pub max_inflated_bytes: u64,
    /// Inflated bytes per compressed byte, looked at after the first MiB.
    pub max_inflation_ratio: u64,
    /// Entries in an archive.
    pub max_archive_entries: usize,
    /// Largest file of a format that must be in memory as a whole (PDF, mail), bytes.
    pub max_whole_bytes: u64,
    /// How deep elements of XML may nest.
    pub max_depth: usize,
}

impl Limits {
    /// The limits of T1, and 256 MiB where a file must be held in memory.
    pub fn with_text(max_text_bytes: usize) -> Self {
        Self {
            max_text_bytes,
            max_inflated_bytes: 256 << 20,
            max_inflation_ratio: 200,
            max_archive_entries: 10_000,
            max_whole_bytes: 256 << 20,
            max_depth: 256,
        }
    }
}

/// Which limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    /// Address space of the child.
    Memory,
    /// CPU seconds of the child.
    Cpu,
    /// Stack of the child.
    Stack,
    /// Length of the child's reply.
    Reply,
    /// Bytes an archive inflates to.
    Inflated,
    /// Inflated bytes per compressed byte.
    Ratio,
    /// Entries of an archive.
    Entries,
    /// Entries of an archive that share bytes.
    Overlap,
}

impl LimitKind {
    /// The word in logs and dead-letters.
    pub fn as_str(self) -> &'static str {
        match self {
            LimitKind::Memory => "memory",
            LimitKind::Cpu => "cpu",
            LimitKind::Stack => "stack",
            LimitKind::Reply => "reply",
            LimitKind::Inflated => "inflated",
            LimitKind::Ratio => "ratio",
            LimitKind::Entries => "entries",
            LimitKind::Overlap => "overlap",
        }
    }
}

impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A file broke a limit of its own inside the child, which ended well and said so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{which} limit broken: {detail}")]
pub struct LimitBroken {
    /// Which one.
    pub which: LimitKind,
    /// A sentence.
    pub detail: String,
}
