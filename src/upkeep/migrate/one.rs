//! One record into the new index.
//!
//! Promises to wait for a sick index, ten minutes without a sign of life, and that a record which is not brought has a
//! fate that says so. The way is that of the replay: the same lane, in the replay's class, for nobody's settlement waits.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{MOST_KIB, Migrate};
use crate::clock::date;
use crate::index::bulk::{Class, Lane};
use crate::index::park::{Lot, Parkable, Parking};
use crate::index::{IndexItem, ItemVerdict};
use crate::message::{DocumentId, Namespace};
use crate::process::record::Record;
use crate::retry::{Backoff, Jitter};
use crate::store::{Listed, layout};
use crate::upkeep::{Halt, RECORD_LIMIT, Trouble, patiently, read};

/// Without a verdict on any document.
const SICK_FOR: Duration = Duration::from_secs(600);
/// Between two tries of a document.
const TRIES: Backoff = Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(15) };
/// Of a document that gets unclear answers of its own.
const UNCLEAR: u32 = 4;

/// What became of a record.
pub(super) enum Fate {
    /// The new index holds it, or something newer.
    Brought,
    /// It was taken away meanwhile: a tombstone that was purged.
    Gone,
    /// Refused, and known to be: it lies under `errored-index/`.
    Known,
    /// Refused, and parked there now.
    LeftBehind(String),
    /// Refused.
    Refused(String),
    /// It cannot be read, or the index has no clear word for it.
    Unclear(String),
    /// Something else that lies among the records.
    NoRecord,
}

/// What all records of a pass share.
pub(super) struct Limits {
    pub reads: Semaphore,
    pub kib: Semaphore,
    /// When the index last had a verdict.
    pub well: Mutex<Instant>,
}

/// Brings records.
pub(super) struct One<'a> {
    pub of: &'a Migrate,
    pub lane: &'a Lane,
    pub limits: &'a Limits,
    /// What is refused is parked.
    pub parks: bool,
}

impl One<'_> {
    pub async fn bring(&self, object: &Listed) -> Result<Fate, Halt> {
        let Some((namespace, id)) = owner(&object.key) else { return Ok(Fate::NoRecord) };
        // Held until there is a verdict: text and JSON of it are as large again.
        let share = u32::try_from(object.size / 1024).unwrap_or(MOST_KIB).clamp(1, MOST_KIB);
        let _held = self.limits.kib.acquire_many(share).await;
        let found = {
            let _turn = self.limits.reads.acquire().await;
            self.of.may_go_on()?;
            read(self.of.store.as_ref(), &self.of.results_bucket, &object.key, RECORD_LIMIT).await
        };
        let bytes = match found {
            Ok(Some((_, bytes))) => bytes,
            Ok(None) => return Ok(Fate::Gone),
            Err(Trouble::Own(why)) => return Ok(Fate::Unclear(why)),
            Err(Trouble::Sick(why)) => return Err(Halt::Sick(why)),
        };
        let record: Record = match serde_json::from_slice(&bytes) {
            Ok(record) => record,
            Err(error) => return Ok(Fate::Unclear(format!("is no record: {error}"))),
        };
        drop(bytes);
        if record.document_id != id {
            return Ok(Fate::Unclear(format!("is the record of {}", record.document_id)));
        }
        match record.index_entry() {
            Ok((item, what)) => self.offer(item, &what, namespace).await,
            Err(why) => Ok(Fate::Unclear(why)),
        }
    }

    async fn offer(&self, item: IndexItem, what: &Parkable, namespace: Namespace) -> Result<Fate, Halt> {
        let (began, jitter) = (Instant::now(), Jitter::seeded(item.revision));
        let (mut tries, mut unclear) = (0_u32, 0_u32);
        loop {
            match self.lane.submit(item.clone(), Class::Replay).await {
                ItemVerdict::Durable => {
                    self.is_well();
                    return Ok(Fate::Brought);
                }
                ItemVerdict::Refused(why) => {
                    self.is_well();
                    return self.refused(why, what, namespace).await;
                }
                ItemVerdict::Unclear(why) => {
                    unclear += 1;
                    if unclear >= UNCLEAR {
                        return Ok(Fate::Unclear(format!("the index: {why}")));
                    }
                }
                ItemVerdict::Systemic(why) => {
                    let well = *self.limits.well.lock().unwrap_or_else(PoisonError::into_inner);
                    if well.max(began).elapsed() >= SICK_FOR {
                        return Err(Halt::Sick(format!("OpenSearch: {why}")));
                    }
                }
            }
            let wait = TRIES.wait(tries, &jitter);
            tries = tries.saturating_add(1);
            tokio::select! {
                biased;
                () = self.of.stop.cancelled() => return Err(Halt::Interrupted),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn is_well(&self) {
        *self.limits.well.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    async fn refused(&self, why: String, what: &Parkable, namespace: Namespace) -> Result<Fate, Halt> {
        let marker = layout::errored(&date(what.recorded_ms), &namespace, &what.document_id, what.revision);
        match patiently(|| self.of.store.head(&self.of.results_bucket, &marker)).await {
            Ok(Some(_)) => return Ok(Fate::Known),
            Ok(None) => {}
            Err(Trouble::Own(trouble)) => return Ok(Fate::Unclear(format!("refused ({why}); {marker}: {trouble}"))),
            Err(Trouble::Sick(why)) => return Err(Halt::Sick(why)),
        }
        if !self.parks {
            return Ok(Fate::Refused(why));
        }
        let parking = Parking {
            store: self.of.store.clone(),
            bucket: self.of.results_bucket.clone(),
            namespace,
            clock: self.of.clock.clone(),
            news: std::sync::Arc::default(),
        };
        match parking.park(what, Lot::Errored, &why).await {
            Ok(()) => Ok(Fate::LeftBehind(why)),
            Err(trouble) => Err(Halt::Sick(format!("{marker} cannot be written: {trouble}"))),
        }
    }
}

/// `processed/{namespace}/{id}.json`.
fn owner(key: &str) -> Option<(Namespace, DocumentId)> {
    let (namespace, file) = key.strip_prefix("processed/")?.split_once('/')?;
    let id = DocumentId::parse(file.strip_suffix(".json")?)?;
    Some((Namespace::parse(namespace).ok()?, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_known_by_its_key_and_nothing_else_is_taken_for_one() {
        let namespace = Namespace::parse("default").unwrap();
        let id = DocumentId::of(&namespace, "b", "日本.txt");
        assert_eq!(owner(&layout::record(&namespace, &id)), Some((namespace, id.clone())));
        for odd in [
            "processed/".to_owned(),
            "processed/default/".to_owned(),
            "processed/default/readme.txt".to_owned(),
            format!("processed/{id}.json"),
            format!("processed/default/{id}"),
            format!("processed/default/more/{id}.json"),
            format!("processed/NOT A NAMESPACE/{id}.json"),
            format!("control/default/{id}.json"),
        ] {
            assert_eq!(owner(&odd), None, "{odd}");
        }
    }
}
