//! What keeping index and records in step asks of the index: what it holds, by key and by id, and to take a tombstone out.
//!
//! A port beside [`Search`](super::Search), so that nothing in a worker can take a document out. Promises that an answer
//! is whole or an error: a part of the entries would make the others look missing.

use async_trait::async_trait;

use super::SearchError;
use crate::message::{DocumentId, Namespace};

/// A document as the index holds it, without its text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// `_id`.
    pub document_id: DocumentId,
    /// Source key.
    pub key: String,
    /// What is held.
    pub held: Held,
    /// Who read the file; tombstones have none.
    pub extractor: Option<String>,
}

/// Revision of a document, and whether it is a tombstone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Its external version.
    pub revision: u64,
    /// Soft-deleted: the read alias hides it.
    pub deleted: bool,
}

/// A stretch of keys of one bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// Scope.
    pub namespace: Namespace,
    /// Source bucket.
    pub bucket: String,
    /// Of the keys; empty is all.
    pub prefix: String,
    /// Only keys behind this one, in UTF-8 order.
    pub after: Option<String>,
    /// Only keys up to this one.
    pub up_to: Option<String>,
}

/// How a removal ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Removal {
    /// It is not there any more; also where it was not there before.
    Removed,
    /// The index holds a newer revision. Nothing was removed.
    Newer,
    /// No answer that can be trusted; it may have been removed.
    Unclear(String),
}

/// An index that can be looked through.
#[async_trait]
pub trait Catalogue: Send + Sync + 'static {
    /// Up to `limit` (≤ 10,000) documents of a stretch, tombstones too, in the order of their keys. As of the index's
    /// last refresh: what was written within the last seconds may be missing.
    async fn entries(&self, stretch: &Stretch, limit: usize) -> Result<Vec<Entry>, SearchError>;

    /// What is held under each id, in their order; as of now.
    async fn held(&self, ids: &[DocumentId]) -> Result<Vec<Option<Held>>, SearchError>;

    /// Whether a search shows a document; as of the index's last refresh.
    async fn shows(&self, id: &DocumentId) -> Result<bool, SearchError>;

    /// Takes documents out for good, each only at this revision or an older one. One answer per document, in order.
    async fn remove(&self, documents: &[(DocumentId, u64)]) -> Result<Vec<Removal>, SearchError>;
}
