//! The next index in the place of the one in use: what a migration asks of the index beside writing documents.
//!
//! A port beside [`Search`](super::Search), so that nothing in a worker can move an alias. Where a migration stands is
//! kept with the index that it builds: who deletes that index begins anew, and nobody else need be asked. Promises that
//! both aliases move in one step or not at all, and that nothing is ever deleted. Knows no record.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::SearchError;

/// Where a migration stands.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Version of this format.
    pub v: u32,
    /// The index that was in use when this one was begun.
    pub from: String,
    /// All that was recorded before this (Unix milliseconds) is in the index; 0: nothing is known to be.
    pub since_ms: u64,
    /// A pass over the records that is under way.
    pub pass: Option<Pass>,
    /// The aliases have moved, and what was recorded round that moment is in the index, too.
    pub done: bool,
    /// Counts the notes, so that each is another one: only then does the cluster tell all its nodes.
    pub note: u64,
}

/// A pass over the records: what is behind `after` is yet to be looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pass {
    /// When it was begun, Unix milliseconds.
    pub began_ms: u64,
    /// Key of the last record that it has dealt with; `None`: it has just begun.
    pub after: Option<String>,
}

/// What a migration begins with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Begun {
    /// The index in use is as it should be: there is nothing to migrate to.
    Same {
        /// Its name.
        index: String,
    },
    /// The next index is there, and is written to through its own alias. It may be half built.
    Building {
        /// In use.
        old: String,
        /// To be in use.
        new: String,
        /// Text of the new one is cut so.
        analyzer: String,
        /// How far it is.
        progress: Progress,
    },
    /// The aliases have moved, and the last pass is owed.
    Moved {
        /// In use now.
        new: String,
        /// How far it is; `from` was in use before.
        progress: Progress,
    },
}

/// Why a migration cannot begin or go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SuccessionError {
    /// Somebody has to decide, or to correct something; the text says what.
    #[error("{0}")]
    Refused(String),
    /// The index does not answer, or not as hoped.
    #[error("search unavailable: {0}")]
    Unavailable(String),
}

/// An index that can be succeeded by another.
#[async_trait]
pub trait Succession: Send + Sync + 'static {
    /// Finds out how things stand; creates the next index where there is none. `anew`: also where the one in use is as it
    /// should be. Safe to be asked at any time, and by several at once.
    async fn begin(&self, anew: bool) -> Result<Begun, SuccessionError>;

    /// Writes down how far the index of this name is. When it has answered, every node of the cluster knows of this note,
    /// and so of all that was told to the cluster before.
    async fn note(&self, new: &str, progress: &Progress) -> Result<(), SearchError>;

    /// Moves write and read alias from the old index to the new one, and takes the new one's own alias away: all of it or
    /// nothing, and only if the old one still has them. Where they are with the new one already, that is well.
    async fn take_over(&self, old: &str, new: &str) -> Result<(), SuccessionError>;
}
