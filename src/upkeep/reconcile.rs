//! `redrive reconcile`: source bucket, records and index compared, and repaired through the normal road.
//!
//! Bucket and index are both listed in the order of their keys, a page at a time, and joined; each file costs one HEAD of
//! its record. Records lie under hashes and cannot be joined: those that the index does not know are read in a second
//! pass. Promises that a finding was seen twice, the second time in an order that no worker's progress can fool, that
//! memory does not grow with the bucket, and that a run goes on from any page. Writes markers and sends messages, and
//! only with `--repair`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio_util::sync::CancellationToken;

use super::outbox::{Outbox, Unsent};
use super::verdict::{Finding, Road, verdict};
use super::{
    Area, Ended, Halt, PAGE, RECORD_LIMIT, TOGETHER, Trouble, UNCLEAR_IN_A_ROW, bodies, is_directory_marker, is_young,
    patiently, read,
};
use crate::clock::{WallClock, date};
use crate::index::catalogue::{Catalogue, Entry, Held, Stretch};
use crate::index::park::{Lot, Parkable, Parking};
use crate::message::{DocumentId, Namespace};
use crate::process::record::{Record, Standing};
use crate::store::{Listed, ObjectHead, Shelves, layout};

pub use report::{Found, Report, Sink, Tally};

mod report;

/// Bodies of records in memory at once.
const BODIES_TOGETHER: usize = 4;

/// Where a run stands, and another goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cursor {
    /// First pass: all source keys up to this one were looked at.
    Key(String),
    /// Second pass: all records up to this one were.
    Record(DocumentId),
}

/// One run.
pub struct Reconcile {
    /// Buckets.
    pub store: Arc<dyn Shelves>,
    /// The index.
    pub catalogue: Arc<dyn Catalogue>,
    /// Markers.
    pub parking: Parking,
    /// The main queue; `None` only looks.
    pub repair: Option<Outbox>,
    /// What is looked at.
    pub area: Area,
    /// Scope.
    pub namespace: Namespace,
    /// Results bucket.
    pub results_bucket: String,
    /// Files and records that changed within this time are left alone: work on them may be under way.
    pub min_age: Duration,
    /// `MAX_OBJECT_BYTES`: larger files have no record, and are none that is missing.
    pub max_object_bytes: u64,
    /// For ages.
    pub clock: Arc<dyn WallClock>,
    /// Asked between two pages, and between two repairs.
    pub stop: CancellationToken,
}

/// One file, by what a listing and the index said of it.
struct Pair {
    key: String,
    listed: Option<Listed>,
    held: Option<Held>,
}

/// What a look at one file came to.
enum Seen {
    Well,
    /// Changed lately, or while it was looked at.
    Young,
    /// Not in the index, and on its way there.
    Parked,
    /// Not in the index, which refused it.
    Errored,
    TooLarge,
    /// Of another area, or judged in the first pass.
    NotHere,
    Found(Box<(Found, Option<Parkable>)>),
}

impl Reconcile {
    /// Looks at all of the area, or at what comes behind `from`.
    pub async fn run(mut self, from: Option<Cursor>, sink: &mut dyn Sink) -> Report {
        let mut report = Report { cursor: from.clone(), ..Report::default() };
        let ended = match self.passes(from, &mut report, sink).await {
            Ok(()) => Ended::Complete,
            Err(halt) => halt.into(),
        };
        Report { ended, ..report }
    }

    async fn passes(&mut self, from: Option<Cursor>, report: &mut Report, sink: &mut dyn Sink) -> Result<(), Halt> {
        let record = match from {
            Some(Cursor::Record(record)) => Some(record),
            Some(Cursor::Key(key)) => {
                self.by_key(Some(key), report, sink).await?;
                None
            }
            None => {
                self.by_key(None, report, sink).await?;
                None
            }
        };
        self.by_record(record, report, sink).await
    }

    /// First pass: bucket and index, both in the order of keys.
    async fn by_key(
        &mut self,
        mut after: Option<String>,
        report: &mut Report,
        sink: &mut dyn Sink,
    ) -> Result<(), Halt> {
        loop {
            self.may_go_on()?;
            let (bucket, prefix) = (&self.area.bucket, &self.area.prefix);
            let page = patiently(|| self.store.list_objects(bucket, prefix, after.as_deref(), PAGE)).await?;
            let last = page.objects.iter().map(|object| &object.key).max().cloned();
            let up_to = last.filter(|_| page.more);
            if page.more && up_to.is_none() {
                return Err(Halt::Sick("S3: a listing says that there is more, and names nothing".into()));
            }
            report.tally.objects += page.objects.len() as u64;
            let mut objects: BTreeMap<String, Listed> =
                page.objects.into_iter().map(|object| (object.key.clone(), object)).collect();
            // The index may hold more documents between two keys than a page: those of removed files.
            let mut behind = after.clone();
            loop {
                let stretch = self.stretch(behind.clone(), up_to.clone());
                let entries = patiently(|| self.catalogue.entries(&stretch, PAGE)).await?;
                let full = entries.len() == PAGE;
                behind = entries.last().map(|entry| entry.key.clone());
                let pairs = entries.into_iter().filter_map(|entry| self.pair(entry, &mut objects)).collect();
                self.judge_all(pairs, report, sink).await?;
                if !full {
                    break;
                }
                self.may_go_on()?;
            }
            let rest = objects.into_values();
            let rest = rest.map(|listed| Pair { key: listed.key.clone(), listed: Some(listed), held: None });
            self.judge_all(rest.collect(), report, sink).await?;
            if !page.more {
                return Ok(());
            }
            after = up_to;
            report.cursor = after.clone().map(Cursor::Key);
            sink.progress(report);
        }
    }

    /// Second pass: records that the index does not know, of files that are gone. (Those whose files are there were seen
    /// in the first, and so was everything the index knows.)
    async fn by_record(
        &mut self,
        from: Option<DocumentId>,
        report: &mut Report,
        sink: &mut dyn Sink,
    ) -> Result<(), Halt> {
        let prefix = format!("processed/{}/", self.namespace);
        let mut after = from.map(|id| layout::record(&self.namespace, &id));
        loop {
            self.may_go_on()?;
            let bucket = &self.results_bucket;
            let page = patiently(|| self.store.list_objects(bucket, &prefix, after.as_deref(), PAGE)).await?;
            report.tally.records += page.objects.len() as u64;
            let old = page.objects.iter().filter(|object| !self.is_young(object.modified_ms));
            let ids: Vec<DocumentId> = old.filter_map(|object| id_of(&object.key)).collect();
            let held = patiently(|| self.catalogue.held(&ids)).await?;
            let unknown: Vec<DocumentId> =
                ids.into_iter().zip(held).filter(|(_, held)| held.is_none()).map(|(id, _)| id).collect();
            let looks = stream::iter(&unknown).map(|id| self.lone_record(id)).buffered(BODIES_TOGETHER);
            let seen: Vec<Result<Seen, Trouble>> = looks.collect().await;
            let names = unknown.iter().map(|id| layout::record(&self.namespace, id)).collect::<Vec<_>>();
            self.take(names.into_iter().zip(seen), report, sink).await?;
            after = page.objects.last().map(|object| object.key.clone());
            if !page.more || after.is_none() {
                return Ok(());
            }
            report.cursor = after.as_deref().and_then(id_of).map(Cursor::Record).or(report.cursor.take());
            sink.progress(report);
        }
    }

    fn stretch(&self, after: Option<String>, up_to: Option<String>) -> Stretch {
        Stretch {
            namespace: self.namespace.clone(),
            bucket: self.area.bucket.clone(),
            prefix: self.area.prefix.clone(),
            after,
            up_to,
        }
    }

    /// An entry with its object; one that is not ours by its id is left alone.
    fn pair(&self, entry: Entry, objects: &mut BTreeMap<String, Listed>) -> Option<Pair> {
        let Entry { document_id, key, held, extractor: _ } = entry;
        let ours = document_id == self.id(&key);
        ours.then(|| Pair { listed: objects.remove(&key), key, held: Some(held) })
    }

    async fn judge_all(&mut self, pairs: Vec<Pair>, report: &mut Report, sink: &mut dyn Sink) -> Result<(), Halt> {
        let looks = stream::iter(&pairs).map(|pair| self.judge(pair)).buffered(TOGETHER);
        let seen: Vec<Result<Seen, Trouble>> = looks.collect().await;
        self.take(pairs.into_iter().map(|pair| pair.key).zip(seen), report, sink).await
    }

    /// Looks once with what is known already; where that is not well, a second time.
    async fn judge(&self, pair: &Pair) -> Result<Seen, Trouble> {
        let Pair { key, listed, held } = pair;
        if !self.area.has(&self.area.bucket, key) {
            return Ok(Seen::NotHere);
        }
        if listed.as_ref().is_some_and(|listed| self.is_young(listed.modified_ms)) {
            return Ok(Seen::Young);
        }
        let id = self.id(key);
        let first = self.record_head(&id).await?;
        let standing = first.as_ref().map(Standing::of);
        if verdict(listed.as_ref().map(|listed| listed.etag.as_str()), standing.as_ref(), *held).is_none() {
            return Ok(Seen::Well);
        }
        if first.is_none() && listed.as_ref().is_some_and(|listed| is_directory_marker(key, listed.size)) {
            return Ok(Seen::Well);
        }
        self.look_again(key, &id, listed.as_ref(), first.as_ref()).await
    }

    /// In the order source, index, record: what a worker has done since the first look shows in the record, which it
    /// writes before the index.
    async fn look_again(
        &self,
        key: &str,
        id: &DocumentId,
        listed: Option<&Listed>,
        first: Option<&ObjectHead>,
    ) -> Result<Seen, Trouble> {
        let source = patiently(|| self.store.head(&self.area.bucket, key)).await?;
        let held = patiently(|| self.catalogue.held(std::slice::from_ref(id))).await?.into_iter().next().flatten();
        let record = self.record_head(id).await?;
        let etag = |head: Option<&ObjectHead>| head.map(|head| head.etag.clone());
        let changed = listed.is_some_and(|listed| etag(source.as_ref()).as_ref() != Some(&listed.etag))
            || etag(record.as_ref()) != etag(first);
        let young = [&source, &record].into_iter().flatten().any(|head| self.is_young(head.modified_ms));
        if changed || young {
            return Ok(Seen::Young);
        }
        let standing = record.as_ref().map(Standing::of);
        let object = source.as_ref().map(|head| head.etag.as_str());
        let Some(finding) = verdict(object, standing.as_ref(), held) else { return Ok(Seen::Well) };
        let too_large = source.is_some_and(|head| head.size > self.max_object_bytes);
        match finding.road() {
            Road::Message if too_large => Ok(Seen::TooLarge),
            Road::Message | Road::Removal => Ok(self.found(finding, key, id, None)),
            Road::Park => self.missing_document(finding, key, id).await,
        }
    }

    /// Only the index is behind: perhaps a marker says so already.
    async fn missing_document(&self, finding: Finding, key: &str, id: &DocumentId) -> Result<Seen, Trouble> {
        let Some((_, record)) = self.record(id).await? else { return Ok(Seen::Young) };
        let (_, what) = record.index_entry().map_err(Trouble::Own)?;
        let day = date(what.recorded_ms);
        let parked = layout::parked(&day, &self.namespace, id, what.revision);
        if patiently(|| self.store.head(&self.results_bucket, &parked)).await?.is_some() {
            return Ok(Seen::Parked);
        }
        let errored = layout::errored(&day, &self.namespace, id, what.revision);
        if patiently(|| self.store.head(&self.results_bucket, &errored)).await?.is_some() {
            return Ok(Seen::Errored);
        }
        Ok(self.found(finding, key, id, Some(what)))
    }

    /// A record that the index does not know.
    async fn lone_record(&self, id: &DocumentId) -> Result<Seen, Trouble> {
        let Some((_, record)) = self.record(id).await? else { return Ok(Seen::NotHere) };
        let (bucket, key) = (&record.document.bucket, &record.document.key);
        if record.document.deleted || !self.area.has(bucket, key) {
            return Ok(Seen::NotHere);
        }
        let source = patiently(|| self.store.head(bucket, key)).await?;
        Ok(match source {
            Some(_) => Seen::NotHere,
            None => self.found(Finding::OrphanedRecord, key, id, None),
        })
    }

    fn found(&self, finding: Finding, key: &str, id: &DocumentId, what: Option<Parkable>) -> Seen {
        let found = Found { finding, bucket: self.area.bucket.clone(), key: key.to_owned(), document_id: id.clone() };
        Seen::Found(Box::new((found, what)))
    }

    /// Counts what was seen, tells what was found, and repairs it.
    async fn take(
        &mut self,
        seen: impl Iterator<Item = (String, Result<Seen, Trouble>)>,
        report: &mut Report,
        sink: &mut dyn Sink,
    ) -> Result<(), Halt> {
        let mut repairs = Vec::new();
        let mut sick = None;
        for (name, seen) in seen {
            let tally = &mut report.tally;
            match seen {
                Ok(Seen::Well) => tally.well += 1,
                Ok(Seen::Young) => tally.young += 1,
                Ok(Seen::Parked) => tally.parked += 1,
                Ok(Seen::Errored) => tally.errored += 1,
                Ok(Seen::TooLarge) => tally.too_large += 1,
                Ok(Seen::NotHere) => {}
                Ok(Seen::Found(found)) => {
                    tally.count(found.0.finding);
                    sink.found(&found.0);
                    repairs.push(*found);
                }
                Err(Trouble::Own(why)) => {
                    tally.unclear += 1;
                    sink.unclear(&name, &why);
                    if tally.unclear >= UNCLEAR_IN_A_ROW && tally.answered() == 0 {
                        sick.get_or_insert(why);
                    }
                }
                Err(Trouble::Sick(why)) => drop(sick.get_or_insert(why)),
            }
        }
        // What was found is repaired also where the run ends here.
        self.repair(repairs, report, sink).await?;
        sick.map_or(Ok(()), |why| Err(Halt::Sick(why)))
    }

    async fn repair(
        &mut self,
        repairs: Vec<(Found, Option<Parkable>)>,
        report: &mut Report,
        sink: &mut dyn Sink,
    ) -> Result<(), Halt> {
        let Some(outbox) = &mut self.repair else { return Ok(()) };
        let (mut bodies, tally) = (Vec::new(), &mut report.tally);
        // A page may be a thousand findings: whoever says stop is heard between two of them, and the page is looked at
        // again by the next run.
        let may_go_on = || if self.stop.is_cancelled() { Err(Halt::Interrupted) } else { Ok(()) };
        for (found, what) in repairs {
            may_go_on()?;
            match (found.finding.road(), what) {
                (Road::Park, Some(what)) => {
                    match self.parking.park(&what, Lot::Retry, &format!("reconcile: {}", found.finding.as_str())).await
                    {
                        Ok(()) => tally.repaired_parked += 1,
                        Err(why) => sink.unclear(&found.key, &format!("cannot be parked: {why}")),
                    }
                }
                (Road::Message | Road::Park, _) => bodies.push(bodies::look_at(&found.bucket, &found.key, false)),
                (Road::Removal, _) => bodies.push(bodies::removed(&found.bucket, &found.key)),
            }
        }
        for batch in bodies.chunks(outbox.batch()) {
            may_go_on()?;
            match outbox.send_bodies(batch).await {
                Ok(()) => tally.repaired_messages += batch.len() as u64,
                Err(Unsent { left, why, .. }) => {
                    tally.repaired_messages += (batch.len() - left.len()) as u64;
                    return Err(Halt::Sick(why));
                }
            }
        }
        Ok(())
    }

    async fn record_head(&self, id: &DocumentId) -> Result<Option<ObjectHead>, Trouble> {
        let key = layout::record(&self.namespace, id);
        patiently(|| self.store.head(&self.results_bucket, &key)).await
    }

    async fn record(&self, id: &DocumentId) -> Result<Option<(ObjectHead, Record)>, Trouble> {
        let key = layout::record(&self.namespace, id);
        let found = read(self.store.as_ref(), &self.results_bucket, &key, RECORD_LIMIT).await?;
        let Some((head, bytes)) = found else { return Ok(None) };
        let record = serde_json::from_slice(&bytes);
        record.map(|record| Some((head, record))).map_err(|error| Trouble::Own(format!("{key} is no record: {error}")))
    }

    fn id(&self, key: &str) -> DocumentId {
        DocumentId::of(&self.namespace, &self.area.bucket, key)
    }

    fn is_young(&self, modified_ms: Option<u64>) -> bool {
        is_young(modified_ms, self.min_age, self.clock.as_ref())
    }

    fn may_go_on(&self) -> Result<(), Halt> {
        if self.stop.is_cancelled() { Err(Halt::Interrupted) } else { Ok(()) }
    }
}

/// `processed/{namespace}/{id}.json`.
fn id_of(record_key: &str) -> Option<DocumentId> {
    DocumentId::parse(record_key.rsplit('/').next()?.strip_suffix(".json")?)
}
