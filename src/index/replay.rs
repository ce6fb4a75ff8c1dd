//! Replay: parked documents into the index, oldest first, from the record as it is now.
//!
//! Promises P8 (a marker names a document, never its text: what is indexed is the newest record) and that an outage
//! costs a marker nothing. A marker goes only after the index has acknowledged. Takes the same bulk lane as fresh
//! documents. Its own budget, its place in line and the advisory lease come with a later issue.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::bulk::Lane;
use super::park::{Marker, Parking};
use super::{IndexItem, ItemVerdict};
use crate::books::Books;
use crate::events::{self, Event};
use crate::message::Namespace;
use crate::process::record::Record;
use crate::retry::Jitter;
use crate::store::{Store, StoreError, layout, read_all};

/// Between two looks at the parked prefix.
const EVERY: Duration = Duration::from_secs(5);
/// Markers per look.
const PAGE: usize = 100;
/// Markers in work at once.
const TOGETHER: usize = 16;
const MARKER_LIMIT: usize = 64 * 1024;
const RECORD_LIMIT: usize = 64 * 1024 * 1024;

/// The replayer of one worker.
pub struct Replayer {
    /// Where markers and records lie.
    pub store: Arc<dyn Store>,
    /// Results bucket.
    pub bucket: String,
    /// Only this scope's markers.
    pub namespace: Namespace,
    /// The way into the index.
    pub lane: Lane,
    /// For documents that turn out to be refused.
    pub parking: Parking,
    /// The ledger.
    pub books: Arc<Books>,
    /// Spread of looks: workers must not list in step.
    pub jitter: Arc<Jitter>,
}

/// What became of a marker.
enum Fate {
    Indexed,
    Errored,
    Left,
}

impl Replayer {
    /// Runs until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.jitter.half_to_one(EVERY * 2)) => {}
            }
            if !self.lane.is_well().await {
                continue;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                swept = self.sweep() => if let Err(error) = swept {
                    tracing::debug!(target: "quittance", "replay could not look: {error}");
                },
            }
        }
    }

    /// Once over what is parked, oldest first, for as long as the index takes it.
    async fn sweep(&self) -> Result<(), StoreError> {
        let (mut indexed, mut errored, mut left) = (0, 0, 0);
        let mut after: Option<String> = None;
        loop {
            let page = self.store.list(&self.bucket, "retry-index/", after.as_deref(), PAGE).await?;
            let mine = format!("/{}/", self.namespace);
            let keys: Vec<&String> = page.keys.iter().filter(|key| key.contains(&mine)).collect();
            for some in keys.chunks(TOGETHER) {
                for fate in futures_util::future::join_all(some.iter().map(|key| self.replay(key))).await {
                    match fate? {
                        Fate::Indexed => indexed += 1,
                        Fate::Errored => errored += 1,
                        Fate::Left => left += 1,
                    }
                }
                if left > 0 {
                    break; // the index is sick again: the rest waits, free of charge
                }
            }
            after = page.keys.last().cloned();
            if left > 0 || !page.more || after.is_none() {
                break;
            }
        }
        if indexed + errored > 0 {
            self.books.replayed(indexed);
            events::ParkedReplayed { indexed, errored, left }.emit();
        }
        Ok(())
    }

    async fn replay(&self, key: &str) -> Result<Fate, StoreError> {
        let Some(object) = self.store.get(&self.bucket, key).await? else { return Ok(Fate::Left) };
        let marker: Marker = match serde_json::from_slice(&read_all(object, MARKER_LIMIT).await?) {
            Ok(marker) => marker,
            Err(error) => {
                tracing::warn!(target: "quittance", "{key} is no marker and stays where it is: {error}");
                return Ok(Fate::Errored);
            }
        };
        let record_key = layout::record(&self.namespace, &marker.document_id);
        let Some(object) = self.store.get(&self.bucket, &record_key).await? else {
            // Records are never removed by us: somebody did. There is nothing to index; keep the marker where it shows.
            return self.give_up(key, &marker, "its record is gone").await;
        };
        let record: Record = match serde_json::from_slice(&read_all(object, RECORD_LIMIT).await?) {
            Ok(record) => record,
            Err(error) => return self.give_up(key, &marker, &format!("its record cannot be read: {error}")).await,
        };
        let item: IndexItem = match record.index_entry() {
            Ok((item, _)) => item,
            Err(error) => return self.give_up(key, &marker, &error).await,
        };
        match self.lane.submit(item).await {
            ItemVerdict::Durable => {
                self.store.delete(&self.bucket, key).await?;
                Ok(Fate::Indexed)
            }
            ItemVerdict::Refused(reason) => self.give_up(key, &marker, &reason).await,
            ItemVerdict::Systemic(_) => Ok(Fate::Left),
        }
    }

    /// Into `errored-index/` first, then away from `retry-index/`.
    async fn give_up(&self, key: &str, marker: &Marker, reason: &str) -> Result<Fate, StoreError> {
        self.parking.move_to_errored(key, marker, reason).await.map_err(StoreError::Unavailable)?;
        self.store.delete(&self.bucket, key).await?;
        let document_id = marker.document_id.as_str().to_owned();
        let place = format!("{}/{}", marker.bucket, marker.key);
        let revision = marker.revision;
        events::DocumentErrored { document_id, key: place, revision, reason: reason.to_owned() }.emit();
        Ok(Fate::Errored)
    }
}
