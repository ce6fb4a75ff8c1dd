//! Replay: parked documents into the index, oldest first, from the record as it is now.
//!
//! Promises P8 (a marker names a document, never its text: what is indexed is the newest record) and that an outage
//! costs a marker nothing. A marker goes only after the index has acknowledged. Takes the same bulk lane as fresh
//! documents. Its own budget, its place in line and the advisory lease come with a later issue.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::bulk::{Class, Lane, Room};
use super::park::{Marker, Parking};
use super::{IndexItem, ItemVerdict};
use crate::books::Books;
use crate::events::{self, Event};
use crate::gate::Pauses;
use crate::message::Namespace;
use crate::process::record::Record;
use crate::retry::{Backoff, Jitter};
use crate::store::{Store, StoreError, layout, read_all};

/// Between two looks at the parked prefix, while something is there; doubling to the cap while nothing is, for a look
/// is a LIST that is paid for. A document that this worker parks brings the next look forward.
const LOOKS: Backoff = Backoff { base: Duration::from_secs(10), cap: Duration::from_secs(120) };
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
    /// Its document is in the index.
    Indexed,
    /// It lies in `errored-index/` now.
    Errored,
    /// Somebody else was there first, or it is no marker of ours.
    NotOurs,
    /// Its own trouble (record denied, archived, cut off): the next look tries again, the others go on.
    Stuck(String),
    /// The index or the store is sick: the rest waits, free of charge.
    Sick(String),
}

#[derive(Default)]
struct Tally {
    indexed: u64,
    errored: u64,
    stuck: u64,
    /// What the first stuck one said.
    trouble: Option<String>,
}

impl Replayer {
    /// Runs until told to stop; does nothing while the worker is paused.
    pub async fn run(self, mut pauses: Pauses, stop: CancellationToken) {
        let (mut idle, mut turn) = (0, 0_usize);
        loop {
            tokio::select! { biased; () = stop.cancelled() => return, () = pauses.over() => {} }
            let pause = tokio::time::sleep(LOOKS.wait(idle, &self.jitter));
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = pause => {}
                () = self.parking.news.notified() => {
                    idle = 0; // not at once: the index has just refused this document
                    let pause = tokio::time::sleep(LOOKS.wait(0, &self.jitter));
                    tokio::select! { biased; () = stop.cancelled() => return, () = pause => {} }
                }
            }
            if self.lane.room() == Room::None || pauses.on() {
                continue;
            }
            let mut tally = Tally::default();
            let swept = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                swept = self.sweep(&mut tally, turn, &pauses) => swept,
            };
            turn = turn.wrapping_add(1);
            // By progress: what is stuck is not looked at every few seconds for ever.
            idle = if tally.indexed + tally.errored == 0 { idle.saturating_add(1) } else { 0 };
            if tally.indexed + tally.errored > 0 {
                self.books.replayed(tally.indexed);
                let Tally { indexed, errored, stuck, .. } = tally;
                events::ParkedReplayed { indexed, errored, stuck }.emit();
            }
            if let Some(detail) = swept.err().map(|error| error.to_string()).or(tally.trouble) {
                events::ReplayTrouble { detail, stuck: tally.stuck }.emit();
            }
        }
    }

    /// Once over what is parked, oldest first, for as long as index and store are well.
    async fn sweep(&self, tally: &mut Tally, turn: usize, pauses: &Pauses) -> Result<(), StoreError> {
        let mut after: Option<String> = None;
        loop {
            let page = self.store.list(&self.bucket, "retry-index/", after.as_deref(), PAGE).await?;
            let mut keys: Vec<&String> = page.keys.iter().filter(|key| is_of(&self.namespace, key)).collect();
            if self.lane.room() == Room::One && !keys.is_empty() {
                // The one that finds out must not be the same each time: it may be what the index cannot take.
                let turn = turn % keys.len();
                keys.rotate_left(turn);
            }
            let mut rest = keys.as_slice();
            while !rest.is_empty() {
                if pauses.on() {
                    return Ok(()); // those in work were finished
                }
                // While the index is not known to be well, one document finds out for all.
                let together = match self.lane.room() {
                    Room::Free => TOGETHER.min(rest.len()),
                    Room::One => 1,
                    Room::None => return Ok(()),
                };
                let (now, later) = rest.split_at(together);
                rest = later;
                let mut sick = None;
                for fate in futures_util::future::join_all(now.iter().map(|key| self.fate(key))).await {
                    match fate {
                        Fate::Indexed => tally.indexed += 1,
                        Fate::Errored => tally.errored += 1,
                        Fate::NotOurs => {}
                        Fate::Stuck(why) => {
                            tally.stuck += 1;
                            tally.trouble.get_or_insert(why);
                        }
                        Fate::Sick(why) => sick = Some(why),
                    }
                }
                if let Some(why) = sick {
                    tally.trouble.get_or_insert(why);
                    return Ok(());
                }
            }
            after = page.keys.last().cloned();
            if !page.more || after.is_none() {
                return Ok(());
            }
        }
    }

    async fn fate(&self, key: &str) -> Fate {
        match self.replay(key).await {
            Ok(fate) => fate,
            Err(error @ (StoreError::Unavailable(_) | StoreError::Throttled(_) | StoreError::BucketMissing(_))) => {
                Fate::Sick(error.to_string())
            }
            Err(
                error @ (StoreError::Denied(_)
                | StoreError::Archived(_)
                | StoreError::Interrupted(_)
                | StoreError::Refused(_)),
            ) => Fate::Stuck(format!("{key}: {error}")),
        }
    }

    async fn replay(&self, key: &str) -> Result<Fate, StoreError> {
        let Some(object) = self.store.get(&self.bucket, key).await? else { return Ok(Fate::NotOurs) };
        let marker: Marker = match serde_json::from_slice(&read_all(object, MARKER_LIMIT).await?) {
            Ok(marker) => marker,
            Err(error) => return Ok(Fate::Stuck(format!("{key} is no marker: {error}"))),
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
        match self.lane.submit(item, Class::Replay).await {
            ItemVerdict::Durable => {
                self.store.delete(&self.bucket, key).await?;
                Ok(Fate::Indexed)
            }
            ItemVerdict::Refused(reason) => self.give_up(key, &marker, &reason).await,
            // With the breaker closed the others may well be taken: this one alone waits.
            ItemVerdict::Systemic(why) if self.lane.room() == Room::Free => Ok(Fate::Stuck(format!("{key}: {why}"))),
            ItemVerdict::Systemic(why) => Ok(Fate::Sick(why)),
        }
    }

    /// Into `errored-index/` first, then away from `retry-index/`.
    async fn give_up(&self, key: &str, marker: &Marker, reason: &str) -> Result<Fate, StoreError> {
        if let Err(trouble) = self.parking.move_to_errored(key, marker, reason).await {
            return Ok(Fate::Stuck(format!("{key}: cannot be moved to errored-index/: {trouble}")));
        }
        self.store.delete(&self.bucket, key).await?;
        let document_id = marker.document_id.as_str().to_owned();
        let (key, revision, reason) = (marker.key.clone(), marker.revision, reason.to_owned());
        events::DocumentErrored { document_id, key, revision, reason }.emit();
        Ok(Fate::Errored)
    }
}

/// `retry-index/{date}/{namespace}/…`: the third part and no other, for a namespace may look like a date.
fn is_of(namespace: &Namespace, key: &str) -> bool {
    key.split('/').nth(2) == Some(namespace.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_belongs_to_the_namespace_in_its_place() {
        let of = |namespace, key| is_of(&Namespace::parse(namespace).unwrap(), key);
        let key = "retry-index/2026-11-22/default/abc/00000000000000000001.json";
        assert!(of("default", key));
        for other in ["2026-11-22", "abc", "retry-index", "defaul"] {
            assert!(!of(other, key), "{other}");
        }
    }
}
