//! Which documents name a message: what a trace asks of the index beside what [`Catalogue`] tells.
//!
//! A port of its own: no other command searches by message. Promises that an answer is whole or an error. Only the last
//! message that wrote a file is in its document: one that was written over since names nobody here.

use async_trait::async_trait;

use super::SearchError;
use super::catalogue::{Catalogue, Held};
use crate::message::{DocumentId, MessageId, Namespace};

/// A document that names a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// `_id`.
    pub document_id: DocumentId,
    /// Source bucket.
    pub bucket: String,
    /// Source key.
    pub key: String,
    /// What is held.
    pub held: Held,
}

/// An index that knows who wrote what.
#[async_trait]
pub trait Provenance: Catalogue {
    /// Up to `limit` (≤ 10,000) documents of a namespace whose `message_id` or `original_message_id` this is, tombstones
    /// too, the newest revision first. As of the index's last refresh.
    async fn written_by(
        &self,
        namespace: &Namespace,
        message: &MessageId,
        limit: usize,
    ) -> Result<Vec<Written>, SearchError>;
}
