//! The side path: documents into OpenSearch in batches, parked in S3 when that fails.
//!
//! Promises P4: whatever OpenSearch does, an offered document ends as indexed, parked, or (when S3 fails too)
//! failed, and intake never hears of it. Knows no lease and no queue.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::books::Books;
use crate::events::{self, Event};
use crate::message::DocumentId;
use crate::outcome::Indexed;

mod aimd;
pub mod bulk;
pub mod catalogue;
mod everybody;
pub mod park;
pub mod parked;
pub mod provenance;
pub mod replay;
pub mod succession;

pub mod opensearch;

/// One document on its way into the index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexItem {
    /// `_id`.
    pub document_id: DocumentId,
    /// External version (`external_gte`).
    pub revision: u64,
    /// The document's JSON, on one line.
    pub source: Bytes,
}

/// What the index said of one document in one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ItemAnswer {
    /// 2xx, or 409: the index holds this revision or a newer one.
    Durable,
    /// The document itself was refused (mapping, 400-class): another try cannot help.
    Refused(String),
    /// A failure told of this document alone that is none of the others: an unknown 5xx.
    Unclear(String),
    /// 429: no room for it at the moment. Slower, and again.
    Busy(String),
    /// Nothing that can be trusted: it may have been written or not. Again; the version fences.
    Unknown(String),
    /// Sick cluster: says nothing about the document, and will say the same in a moment.
    Sick(String),
}

/// What became of one document on its way into the index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ItemVerdict {
    /// The index holds this revision or a newer one.
    Durable,
    /// The document itself was refused: another try cannot help.
    Refused(String),
    /// A failure of its own that is neither, while nothing is said of the others. Replay counts these
    /// (`FAILED_RETRY_MAX_RETRIES`); for a fresh document it is as good as systemic.
    Unclear(String),
    /// Sick or overloaded index, or no answer that could be trusted: says nothing about the document.
    Systemic(String),
}

/// A bulk request that has no per-item answers.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SearchError {
    /// The request as a whole was refused (400): some document in it is guilty, or whoever answers refuses everything.
    #[error("bulk request refused: {0}")]
    WholeRefused(String),
    /// Refused for its size (413, or more than the cluster ever takes at once): some document in it is too large, or all
    /// of them together are.
    #[error("bulk request too large: {0}")]
    TooLarge(String),
    /// 429: too much at the moment, for all of the request. Slower, and again.
    #[error("search is busy: {0}")]
    Busy(String),
    /// Cannot connect, timeout, 401/403, 5xx, cluster block, alias missing.
    #[error("search unavailable: {0}")]
    Unavailable(String),
}

/// A search index behind an alias.
#[async_trait]
pub trait Search: Send + Sync + 'static {
    /// Writes documents through the alias; one answer per item, in order.
    async fn bulk(&self, items: &[IndexItem]) -> Result<Vec<ItemAnswer>, SearchError>;

    /// The alias is there and can be written to.
    async fn probe(&self) -> Result<(), SearchError>;

    /// How long one request may take. It is what an outage may cost a document in all, its retries included.
    fn request_timeout(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// The side path of one worker.
pub struct SidePath {
    /// `None` is `SKIP_OPENSEARCH`: everything is parked.
    pub lane: Option<bulk::Lane>,
    /// Where documents wait.
    pub parking: park::Parking,
    /// The ledger.
    pub books: Arc<Books>,
}

impl SidePath {
    /// Brings a recorded document into the index, or parks it. `Indexed::None`: neither worked, and the message must
    /// not be deleted (P3).
    pub async fn offer(&self, item: IndexItem, what: &park::Parkable) -> Indexed {
        let indexed = self.bring(item, what).await;
        self.books.document(indexed);
        indexed
    }

    async fn bring(&self, item: IndexItem, what: &park::Parkable) -> Indexed {
        let verdict = match &self.lane {
            Some(lane) => lane.submit(item, bulk::Class::Fresh).await,
            None => ItemVerdict::Systemic("SKIP_OPENSEARCH is set".into()),
        };
        let (lot, reason) = match verdict {
            ItemVerdict::Durable => {
                failpoint!(AfterIndexAck);
                return Indexed::Indexed;
            }
            ItemVerdict::Refused(reason) => (park::Lot::Errored, reason),
            ItemVerdict::Unclear(reason) | ItemVerdict::Systemic(reason) => (park::Lot::Retry, reason),
        };
        let document_id = what.document_id.as_str().to_owned();
        let key = what.key.clone();
        match self.parking.park(what, lot, &reason).await {
            Ok(()) => {
                if lot == park::Lot::Errored {
                    // A parked one is told by its message's line and by the breaker: an outage is not 10,000 lines.
                    events::DocumentErrored { document_id, key, revision: what.revision, reason }.emit();
                }
                Indexed::Parked
            }
            Err(detail) => {
                events::ParkFailed { document_id, key, detail: format!("{detail} (after: {reason})") }.emit();
                Indexed::None
            }
        }
    }
}
