//! `redrive purge-tombstones`: what was removed long ago, forgotten at last.
//!
//! In this order and only at the tombstone's revision: the index entry (a versioned delete), the markers of that revision
//! or older, the record (a delete over its etag). Promises that a file which comes back meanwhile survives, whatever the
//! moment: the index holds a newer revision then and keeps it, its marker has a newer revision and is not touched, its
//! record has another etag and stays. Killed anywhere and run again, the end is that of one clean run: the record, by
//! which a tombstone is found, goes last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio_util::sync::CancellationToken;

use super::{Ended, Halt, PAGE, TOGETHER, Trouble, is_young, patiently, read};
use crate::clock::WallClock;
use crate::index::catalogue::{Catalogue, Removal};
use crate::message::{DocumentId, Namespace};
use crate::process::record::{Record, Standing};
use crate::store::{DeleteReply, Shelves, layout};

/// The youngest tombstone that may go: SQS keeps a message for 14 days at most, and its dead-letter queue for 14 more
/// (a message that we dead-letter is a new one there). Until then an old event of the file may still arrive, and must
/// find that it is superseded. The advised 45 days hold another 14: a redriven message is new once more.
pub const LEAST_AGE: Duration = Duration::from_secs(28 * 86_400);
/// A tombstone has no text: its key, escaped, and little else.
const TOMBSTONE_BYTES: u64 = 16 * 1024;

/// One run.
pub struct Purge {
    /// Buckets.
    pub store: Arc<dyn Shelves>,
    /// The index.
    pub catalogue: Arc<dyn Catalogue>,
    /// Scope.
    pub namespace: Namespace,
    /// Results bucket.
    pub results_bucket: String,
    /// Only tombstones that were written longer ago.
    pub older_than: Duration,
    /// Counts, and removes nothing.
    pub dry_run: bool,
    /// For ages.
    pub clock: Arc<dyn WallClock>,
    /// Asked between two steps.
    pub stop: CancellationToken,
}

/// What was counted.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Tally {
    /// Records that were listed.
    pub records: u64,
    /// Tombstones that are old enough.
    pub tombstones: u64,
    /// Gone from index, markers and records.
    pub purged: u64,
    /// Markers removed with them.
    pub markers: u64,
    /// Their files came back meanwhile: left as they are.
    pub came_back: u64,
    /// Gone from the index; the record stays, for this store has no conditional DELETE.
    pub records_left: u64,
    /// Something stood in the way; the next run tries again.
    pub unclear: u64,
}

/// A run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Counts.
    pub tally: Tally,
    /// How it ended.
    pub ended: Ended,
    /// What the store said of a conditional DELETE, where it has none.
    pub unsupported: Option<String>,
}

/// Who listens to a run.
pub trait Sink: Send {
    /// A tombstone or marker could not be judged or removed.
    fn unclear(&mut self, name: &str, why: &str);
    /// A page is done.
    fn progress(&mut self, report: &Report);
}

/// A tombstone as it was read.
struct Tombstone {
    id: DocumentId,
    revision: u64,
    /// Of the record's object.
    etag: String,
}

impl Purge {
    /// Goes through all records of the namespace.
    pub async fn run(self, sink: &mut dyn Sink) -> Report {
        let mut report = Report { tally: Tally::default(), ended: Ended::Complete, unsupported: None };
        let ended = match self.pages(&mut report, sink).await {
            Ok(()) => Ended::Complete,
            Err(halt) => halt.into(),
        };
        Report { ended, ..report }
    }

    async fn pages(&self, report: &mut Report, sink: &mut dyn Sink) -> Result<(), Halt> {
        let prefix = format!("processed/{}/", self.namespace);
        let mut after: Option<String> = None;
        loop {
            self.may_go_on()?;
            let bucket = &self.results_bucket;
            let page = patiently(|| self.store.list_objects(bucket, &prefix, after.as_deref(), PAGE)).await?;
            report.tally.records += page.objects.len() as u64;
            after = page.objects.last().map(|object| object.key.clone());
            let likely = page.objects.into_iter().filter(|object| {
                object.size <= TOMBSTONE_BYTES && !is_young(object.modified_ms, self.older_than, self.clock.as_ref())
            });
            let keys: Vec<String> = likely.map(|object| object.key).collect();
            let reads: Vec<_> = stream::iter(&keys).map(|key| self.tombstone(key)).buffered(TOGETHER).collect().await;
            let mut tombstones = Vec::new();
            for (key, read) in keys.iter().zip(reads) {
                match read {
                    Ok(found) => tombstones.extend(found),
                    Err(trouble) => Self::trouble(key, trouble, report, sink)?,
                }
            }
            report.tally.tombstones += tombstones.len() as u64;
            if !self.dry_run && !tombstones.is_empty() {
                self.purge(tombstones, report, sink).await?;
            }
            sink.progress(report);
            if !page.more || after.is_none() {
                return Ok(());
            }
        }
    }

    /// The record, if it is a tombstone and old enough by its own clock, too.
    async fn tombstone(&self, key: &str) -> Result<Option<Tombstone>, Trouble> {
        let found = read(self.store.as_ref(), &self.results_bucket, key, 64 * 1024).await?;
        let Some((head, bytes)) = found else { return Ok(None) };
        let record: Record = match serde_json::from_slice(&bytes) {
            Ok(record) => record,
            Err(error) => return Err(Trouble::Own(format!("is no record: {error}"))),
        };
        let standing = Standing::of(&head);
        // Body and metadata must both say so.
        let is_tombstone =
            record.document.deleted && standing.source_etag.is_none() && standing.revision == record.revision;
        let old = !is_young(Some(record.recorded_ms), self.older_than, self.clock.as_ref());
        let named = layout::record(&self.namespace, &record.document_id) == key;
        let tombstone = Tombstone { id: record.document_id, revision: record.revision, etag: head.etag };
        Ok((is_tombstone && old && named).then_some(tombstone))
    }

    async fn purge(&self, found: Vec<Tombstone>, report: &mut Report, sink: &mut dyn Sink) -> Result<(), Halt> {
        // 1: the index. What comes back from here on is written at a revision of its own, which is higher.
        let asked: Vec<(DocumentId, u64)> = found.iter().map(|one| (one.id.clone(), one.revision)).collect();
        let removals = patiently(|| self.catalogue.remove(&asked)).await?;
        let mut gone = Vec::new();
        for (tombstone, removal) in found.into_iter().zip(removals) {
            match removal {
                Removal::Removed => gone.push(tombstone),
                Removal::Newer => report.tally.came_back += 1,
                Removal::Unclear(why) => {
                    Self::trouble(tombstone.id.as_str(), Trouble::Own(format!("OpenSearch: {why}")), report, sink)?;
                }
            }
        }
        // 2: markers, or the replay would find no record and call it an error.
        let revisions: BTreeMap<&DocumentId, u64> = gone.iter().map(|one| (&one.id, one.revision)).collect();
        for prefix in ["retry-index/", "errored-index/"] {
            self.markers(prefix, &revisions, report).await?;
        }
        // 3: the records.
        for tombstone in &gone {
            self.may_go_on()?;
            let key = layout::record(&self.namespace, &tombstone.id);
            if report.unsupported.is_some() {
                report.tally.records_left += 1;
                continue;
            }
            match patiently(|| self.store.delete_if_match(&self.results_bucket, &key, &tombstone.etag)).await {
                Ok(DeleteReply::Deleted) => report.tally.purged += 1,
                Ok(DeleteReply::Conflict) => report.tally.came_back += 1,
                Ok(DeleteReply::Unsupported(why)) => {
                    report.unsupported = Some(why);
                    report.tally.records_left += 1;
                }
                Err(trouble) => Self::trouble(&key, trouble, report, sink)?,
            }
        }
        Ok(())
    }

    /// Markers lie under the day of their record, so all are listed, once for a page of records.
    async fn markers(
        &self,
        prefix: &str,
        revisions: &BTreeMap<&DocumentId, u64>,
        report: &mut Report,
    ) -> Result<(), Halt> {
        let mut after: Option<String> = None;
        loop {
            self.may_go_on()?;
            let page = patiently(|| self.store.list(&self.results_bucket, prefix, after.as_deref(), PAGE)).await?;
            for key in &page.keys {
                let Some((id, revision)) = self.marker(key) else { continue };
                if revisions.get(&id).is_some_and(|tombstone| revision <= *tombstone) {
                    // A marker that stays would find its record gone: not for this file alone, for the step is owed.
                    patiently(|| self.store.delete(&self.results_bucket, key)).await?;
                    report.tally.markers += 1;
                }
            }
            after = page.keys.last().cloned();
            if !page.more || after.is_none() {
                return Ok(());
            }
        }
    }

    /// `{lot}/{date}/{namespace}/{document id}/{revision}.json`, of this namespace.
    fn marker(&self, key: &str) -> Option<(DocumentId, u64)> {
        let parts: Vec<&str> = key.split('/').collect();
        let [_, _, namespace, id, revision] = parts[..] else { return None };
        let ours = namespace == self.namespace.as_str();
        ours.then(|| Some((DocumentId::parse(id)?, revision.strip_suffix(".json")?.parse().ok()?)))?
    }

    fn may_go_on(&self) -> Result<(), Halt> {
        if self.stop.is_cancelled() { Err(Halt::Interrupted) } else { Ok(()) }
    }

    fn trouble(name: &str, trouble: Trouble, report: &mut Report, sink: &mut dyn Sink) -> Result<(), Halt> {
        match trouble {
            Trouble::Own(why) => {
                report.tally.unclear += 1;
                sink.unclear(name, &why);
                Ok(())
            }
            Trouble::Sick(why) => Err(Halt::Sick(why)),
        }
    }
}
