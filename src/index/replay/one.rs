//! One parked marker: its record as it is now into the index, then the marker away.
//!
//! Promises that a marker is removed only when the index has acknowledged its document, or a marker in `errored-index/`
//! says why it never will. One GET, of the record: whose document it is stands in the marker's key, and the marker
//! itself is read only to be moved. Counts nothing; `patience` does.

use tokio::sync::Semaphore;

use super::Replayer;
use super::sweep::MOST_BYTES;
use crate::clock::rfc3339;
use crate::events::{self, Event};
use crate::index::bulk::{Class, Room};
use crate::index::park::markers::MarkerKey;
use crate::index::park::{Lot, Marker, Written};
use crate::index::{IndexItem, ItemVerdict};
use crate::message::DocumentId;
use crate::message::detail::detail;
use crate::process::record::Record;
use crate::store::{StoreError, layout, read_all};

const MARKER_LIMIT: usize = 64 * 1024;
const RECORD_LIMIT: usize = 64 * 1024 * 1024;

/// What became of a marker.
pub(super) enum Fate {
    /// Its document is in the index.
    Indexed,
    /// It lies in `errored-index/` now.
    Errored {
        /// The index itself said why.
        judged: bool,
    },
    /// Somebody else was there first.
    Gone,
    /// It lies in `errored-index/` as well, and somebody may be about to take that one away.
    Beside,
    /// A refusal that says neither that the document is bad nor that all are refused.
    Unclear(String),
    /// Its request failed as a whole, and the index is well: it or one that it went with may be what fails.
    Apart(String),
    /// It cannot be moved or removed: the next look tries again, the others go on.
    Stuck(String),
    /// The index or the store is sick: the rest waits, free of charge.
    Sick(String),
}

/// What a witness shows.
pub(super) enum Testimony {
    /// The index takes what is well.
    Taken,
    /// It takes nothing, or the store does not answer.
    NotNow,
    /// The witness is no good any more.
    Unfit,
}

/// A marker in work.
pub(super) struct One<'a> {
    pub of: &'a Replayer,
    pub bytes: &'a Semaphore,
    pub marker: MarkerKey,
    pub trusts_errored: bool,
}

impl One<'_> {
    pub async fn fate(&self) -> Fate {
        let record = match self.record(&self.marker.document_id, self.bytes).await {
            Ok(record) => record,
            Err(error) => return self.trouble(&error),
        };
        let (item, held) = match record {
            Found::Item(item, held) => (item, held),
            // Records are never removed by us: somebody did. There is nothing to index; it must show somewhere.
            Found::Nothing => return self.give_up("its record is gone").await,
            // It may have been garbled on its way.
            Found::Unreadable(why) => return Fate::Unclear(format!("its record cannot be read: {why}")),
        };
        let verdict = self.of.lane.submit(item, Class::Replay).await;
        drop(held);
        match verdict {
            ItemVerdict::Durable => match self.of.store.delete(&self.of.bucket, &self.marker.key).await {
                Ok(()) => Fate::Indexed,
                Err(error) => self.stays(&error),
            },
            ItemVerdict::Refused(reason) => match self.give_up(&reason).await {
                Fate::Errored { .. } => Fate::Errored { judged: true },
                other => other,
            },
            ItemVerdict::Unclear(why) => Fate::Unclear(why),
            // With the breaker closed the others may well be taken.
            ItemVerdict::Systemic(why) if self.of.lane.room() == Room::Free => {
                Fate::Apart(format!("{}: {why}", self.marker.key))
            }
            ItemVerdict::Systemic(why) => Fate::Sick(why),
        }
    }

    /// Offers a document that was taken before once more, as its record is now.
    pub async fn testimony(&self, witness: &DocumentId) -> Testimony {
        // Not of the sweep's bytes: those in work hold them, and stand still meanwhile.
        let bytes = Semaphore::new(MOST_BYTES as usize);
        match self.record(witness, &bytes).await {
            Ok(Found::Item(item, _held)) => match self.of.lane.submit(item, Class::Replay).await {
                ItemVerdict::Durable => Testimony::Taken,
                ItemVerdict::Unclear(_) | ItemVerdict::Systemic(_) => Testimony::NotNow,
                ItemVerdict::Refused(_) => Testimony::Unfit,
            },
            Ok(Found::Nothing | Found::Unreadable(_)) => Testimony::Unfit,
            Err(_) => Testimony::NotNow,
        }
    }

    async fn record<'b>(&self, document: &DocumentId, bytes: &'b Semaphore) -> Result<Found<'b>, StoreError> {
        let key = layout::record(&self.of.namespace, document);
        let Some(object) = self.of.store.get(&self.of.bucket, &key).await? else { return Ok(Found::Nothing) };
        // Held until the document is judged: text and JSON of it are as large again.
        let share = u32::try_from(object.head.size).unwrap_or(MOST_BYTES).clamp(1, MOST_BYTES);
        let held = bytes.acquire_many(share).await.ok();
        let bytes = read_all(object, RECORD_LIMIT).await?;
        let record: Record = match serde_json::from_slice(&bytes) {
            Ok(record) => record,
            Err(error) => return Ok(Found::Unreadable(detail(&error.to_string()))),
        };
        drop(bytes);
        Ok(match record.index_entry() {
            Ok((item, _)) => Found::Item(item, held),
            Err(error) => Found::Unreadable(error),
        })
    }

    /// Into `errored-index/` first, then away from `retry-index/`.
    pub async fn give_up(&self, reason: &str) -> Fate {
        let marker = match self.read().await {
            Ok(Some(marker)) => marker,
            Ok(None) => return Fate::Gone,
            Err(error) => return self.stays(&error),
        };
        let marker = Marker { reason: reason.to_owned(), ..marker };
        match self.of.parking.copy(self.marker.tail(), Lot::Errored, &marker).await {
            Ok(Written::Now) => {}
            Ok(Written::Before) if self.trusts_errored => {}
            // A reset writes the retry marker, then removes the errored one: were both removed now, it would be lost.
            Ok(Written::Before) => return Fate::Beside,
            Err(trouble) => {
                return Fate::Stuck(format!("{}: cannot be moved to errored-index/: {trouble}", self.marker.key));
            }
        }
        if let Err(error) = self.of.store.delete(&self.of.bucket, &self.marker.key).await {
            return self.stays(&error);
        }
        let Marker { document_id, key, revision, reason, .. } = marker;
        events::DocumentErrored { document_id: document_id.as_str().to_owned(), key, revision, reason }.emit();
        Fate::Errored { judged: false }
    }

    /// The marker itself; what cannot be read of it is made up from its key, for it must end somewhere.
    async fn read(&self) -> Result<Option<Marker>, StoreError> {
        let Some(object) = self.of.store.get(&self.of.bucket, &self.marker.key).await? else { return Ok(None) };
        let bytes = read_all(object, MARKER_LIMIT).await?;
        Ok(Some(serde_json::from_slice(&bytes).unwrap_or_else(|_| Marker {
            v: 1,
            document_id: self.marker.document_id.clone(),
            bucket: String::new(),
            key: String::new(),
            revision: self.marker.revision,
            reason: String::new(),
            failed_at: rfc3339(self.of.parking.clock.unix_ms()),
        })))
    }

    /// What the store said of the record.
    fn trouble(&self, error: &StoreError) -> Fate {
        match error {
            StoreError::Unavailable(_) | StoreError::Throttled(_) | StoreError::BucketMissing(_) => {
                Fate::Sick(error.to_string())
            }
            StoreError::Denied(_) | StoreError::Archived(_) | StoreError::Interrupted(_) | StoreError::Refused(_) => {
                Fate::Unclear(format!("its record: {error}"))
            }
        }
    }

    /// What the store said of the marker: it stays where it is, and nothing is charged, for no budget could move it.
    fn stays(&self, error: &StoreError) -> Fate {
        match error {
            StoreError::Unavailable(_) | StoreError::Throttled(_) | StoreError::BucketMissing(_) => {
                Fate::Sick(error.to_string())
            }
            StoreError::Denied(_) | StoreError::Archived(_) | StoreError::Interrupted(_) | StoreError::Refused(_) => {
                Fate::Stuck(format!("{}: {error}", self.marker.key))
            }
        }
    }
}

enum Found<'a> {
    Item(IndexItem, Option<tokio::sync::SemaphorePermit<'a>>),
    Nothing,
    Unreadable(String),
}
