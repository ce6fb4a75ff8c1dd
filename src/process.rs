//! The critical path: a message's body to changes, each change to a record in S3, the record to the side path.
//!
//! Promises P3's first half (a change is *done* only when its record is acknowledged and its document indexed or
//! parked), P7 (no write once the lease is gone) and P8 (record → source → write, repeated for each lost race).
//! Knows no queue, no lease and no index client: it is told by a [`Scope`] whether it may still act.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::time::Instant;

use crate::clock::{WallClock, rfc3339};
use crate::config::{OnExtractionError, TenantFrom};
use crate::dead_letter::Origin;
use crate::index::{IndexItem, SidePath, park::Parkable};
use crate::message::s3_event::{self, Judged, Parsed, Unreadable, Wanted};
use crate::message::{Change, DocumentId, Message, Namespace, Operation, WorkId};
use crate::outcome::{ChangeReport, Dependency, Indexed, Outcome, RejectReason, RetryReason, SkipReason};
use crate::store::{Condition, PutReply, Store, StoreError, layout, read_all};

use extract::{EXTRACTOR, Extract, ExtractFailure, Extraction, Hints, Keep};
use fetch::{FetchError, Fetched};
use record::{Document, Rank, Record, Seen, Standing, Timings};

pub mod extract;
pub mod fetch;
pub mod record;

/// Largest record read back; one holds at most the extractor's text and its JSON escapes.
const RECORD_LIMIT: usize = 64 * 1024 * 1024;
/// Lost races for one record before the change is called a failure: a store that never lets anybody win.
const RACES: u32 = 100;

/// What the work may do, told by whoever holds the lease.
pub struct Scope {
    /// Asked before every write.
    pub may_act: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Kept alive by the work and its child until both have really stopped.
    pub keep: Keep,
}

/// The work was told to stop: no verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stopped;

/// How far the work on a message has come; outlives the work, also when it panics.
#[derive(Default)]
pub struct Progress(Mutex<SoFar>);

#[derive(Default)]
struct SoFar {
    parsed: usize,
    /// The change in work.
    begun: Option<(WorkId, String)>,
    reports: Vec<ChangeReport>,
}

impl Progress {
    fn parsed(&self, changes: usize) {
        self.lock().parsed = changes;
    }

    fn began(&self, work_id: &WorkId, key: &str) {
        self.lock().begun = Some((work_id.clone(), key.to_owned()));
    }

    fn finished(&self, report: ChangeReport) {
        let mut so_far = self.lock();
        so_far.begun = None;
        so_far.reports.push(report);
    }

    /// The work ended with a panic: that is the report of the change that was in work.
    pub fn panicked(&self, text: &str) {
        let mut so_far = self.lock();
        if let Some((work_id, key)) = so_far.begun.take() {
            let outcome = Outcome::Retry(RetryReason::Panicked(text.to_owned()));
            so_far.reports.push(ChangeReport { work_id: Some(work_id), key, outcome, indexed: Indexed::None });
        }
    }

    /// The reports so far, and how many changes have none.
    pub fn so_far(&self) -> (Vec<ChangeReport>, usize) {
        let so_far = self.lock();
        (so_far.reports.clone(), so_far.parsed.saturating_sub(so_far.reports.len()))
    }

    fn lock(&self) -> MutexGuard<'_, SoFar> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why the steps of a change ended early.
enum Halt {
    With(Outcome),
    Stopped,
}

impl From<RetryReason> for Halt {
    fn from(reason: RetryReason) -> Self {
        Halt::With(Outcome::Retry(reason))
    }
}

type Step<T> = Result<T, Halt>;

/// A file that was fetched and read.
struct Work {
    fetched: Arc<Fetched>,
    extraction: Extraction,
    timings: Timings,
}

/// The source as it stands in the bucket.
enum Source {
    There(Work),
    Gone,
}

/// One worker's critical path.
pub struct Processor {
    /// Buckets.
    pub store: Arc<dyn Store>,
    /// Extraction.
    pub extract: Arc<dyn Extract>,
    /// The side path.
    pub side_path: Arc<SidePath>,
    /// Wall clock, for revisions and times.
    pub clock: Arc<dyn WallClock>,
    /// What may be read.
    pub wanted: Wanted,
    /// Scope of ids.
    pub namespace: Namespace,
    /// Results bucket.
    pub results_bucket: String,
    /// `MAX_OBJECT_BYTES`.
    pub max_object_bytes: u64,
    /// `TENANT_FROM`.
    pub tenant_from: TenantFrom,
    /// `ON_EXTRACTION_ERROR`.
    pub on_extraction_error: OnExtractionError,
    /// This worker's temp folder.
    pub temp_folder: std::path::PathBuf,
}

impl Processor {
    /// Works on all changes of a message; the worst outcome is the message's.
    pub async fn message(&self, message: &Message, scope: &Scope, progress: &Progress) -> Result<Outcome, Stopped> {
        let judged = match s3_event::parse(&message.body, &self.wanted) {
            Ok(Parsed::Changes(judged)) => judged,
            Ok(Parsed::Skip(reason)) => return Ok(Outcome::Skip(SkipReason::Event(reason))),
            Err(Unreadable::Malformed(detail)) => return Ok(Outcome::Reject(RejectReason::Malformed(detail))),
            Err(Unreadable::Limit(detail)) => return Ok(Outcome::Reject(RejectReason::Limit(detail))),
        };
        progress.parsed(judged.len());
        let mut worst: Option<Outcome> = None;
        for judged in judged {
            let report = self.judged(judged, message, scope, progress).await?;
            worst = Some(match worst {
                None => report.outcome.clone(),
                Some(worst) => worst.worse(report.outcome.clone()),
            });
            progress.finished(report);
        }
        Ok(worst.unwrap_or(Outcome::Skip(SkipReason::Event(s3_event::SkipReason::NoRecords))))
    }

    async fn judged(
        &self,
        judged: Judged,
        message: &Message,
        scope: &Scope,
        progress: &Progress,
    ) -> Result<ChangeReport, Stopped> {
        let report = |work_id, key, outcome, indexed| ChangeReport { work_id, key, outcome, indexed };
        Ok(match judged {
            Judged::Process(change) => {
                let document_id = DocumentId::of(&self.namespace, &change.bucket, &change.key);
                let work_id = WorkId::of(&document_id, &change);
                progress.began(&work_id, &change.key);
                let job = Job { processor: self, message, scope, change: &change, document_id, work_id };
                let (outcome, indexed) = match job.run().await {
                    Ok(indexed) => (Outcome::Done, indexed),
                    Err(Halt::With(outcome)) => (outcome, Indexed::None),
                    Err(Halt::Stopped) => return Err(Stopped),
                };
                report(Some(job.work_id), change.key.clone(), outcome, indexed)
            }
            Judged::Skip { key, reason, .. } => {
                report(None, key, Outcome::Skip(SkipReason::Event(reason)), Indexed::None)
            }
            Judged::NotAllowed { change, detail } => {
                let document_id = DocumentId::of(&self.namespace, &change.bucket, &change.key);
                let work_id = WorkId::of(&document_id, &change);
                let outcome = Outcome::Reject(RejectReason::NotAllowed(detail));
                report(Some(work_id), change.key, outcome, Indexed::None)
            }
            Judged::Malformed { detail } => {
                report(None, String::new(), Outcome::Reject(RejectReason::Malformed(detail)), Indexed::None)
            }
        })
    }
}

/// One change being worked on.
struct Job<'a> {
    processor: &'a Processor,
    message: &'a Message,
    scope: &'a Scope,
    change: &'a Change,
    document_id: DocumentId,
    work_id: WorkId,
}

impl Job<'_> {
    /// The order of calls here was model-checked (design §6): keep to it, or check again.
    async fn run(&self) -> Step<Indexed> {
        // A first delivery looks nothing up: the conditional write finds out. A body without an operation does, for
        // without a record it may not make a tombstone (and a record seen *after* the source may not be written over).
        let known = self.message.receive_count > 1 || self.change.operation == Operation::Unstated;
        let mut record = if known { self.look_up().await? } else { None };
        let mut work: Option<Work> = None;
        let mut read_once = false;
        for _ in 0..RACES {
            if let Some(found) = &record {
                let seen = match (&work, read_once) {
                    (Some(work), _) => Seen::There(&work.fetched.head.etag),
                    (None, true) => Seen::Gone,
                    (None, false) => Seen::Unread,
                };
                match self.rank(found, seen) {
                    Rank::Newer => return Err(Halt::With(Outcome::Superseded)),
                    Rank::Equal => {
                        if let Some(indexed) = self.index_recorded().await? {
                            return Ok(indexed);
                        }
                        record = None; // it vanished between HEAD and GET
                    }
                    Rank::Older => {}
                }
            }
            // Record → source → write: what is written over must have been seen before the source was read.
            work = match self.source(work.take()).await? {
                Source::There(work) => Some(work),
                Source::Gone => {
                    self.explain_absence(record.as_ref()).await?;
                    None
                }
            };
            read_once = true;
            self.judge_file(work.as_ref(), record.is_some()).await?;
            let written = self.write(record.as_ref(), work.as_ref()).await?;
            if let Some(written) = written {
                drop(work); // the file is not needed while the index is waited for
                return self.index(&written).await;
            }
            record = self.look_up().await?;
        }
        Err(RetryReason::Refused(format!("lost {RACES} races for the record")).into())
    }

    fn rank(&self, found: &Standing, seen: Seen<'_>) -> Rank {
        let rank = record::rank(found, self.change.sequencer.as_ref(), seen, &self.message.id);
        // Before the source is read, another change of this very message may have written the record: of the same key,
        // with the same sequencer, and the other way round. Only a record of our own kind is our own.
        let live = found.source_etag.is_some();
        let of_our_kind = match self.change.operation {
            Operation::Created => live,
            Operation::Removed => !live,
            Operation::Unstated => true,
        };
        if rank == Rank::Equal && seen == Seen::Unread && !of_our_kind { Rank::Older } else { rank }
    }

    async fn look_up(&self) -> Step<Option<Standing>> {
        let key = layout::record(&self.processor.namespace, &self.document_id);
        let head = self.processor.store.head(&self.processor.results_bucket, &key).await.map_err(results_trouble)?;
        Ok(head.as_ref().map(Standing::of))
    }

    /// The current object, never pinned to the event's version. A file that was read already and has not changed
    /// since is not read again.
    async fn source(&self, before: Option<Work>) -> Step<Source> {
        let (bucket, key) = (&self.change.bucket, &self.change.key);
        let look_first = match self.change.operation {
            Operation::Created => before.is_some(),
            // A removal also fires for old versions, and can be forged: the object itself is asked.
            Operation::Removed | Operation::Unstated => true,
        };
        if look_first {
            let head = self.processor.store.head(bucket, key).await.map_err(source_trouble)?;
            let Some(head) = head else { return Ok(Source::Gone) };
            if let Some(work) = before
                && work.fetched.head.etag == head.etag
            {
                return Ok(Source::There(work));
            }
        }
        let started = Instant::now();
        let object = self.processor.store.get(bucket, key).await.map_err(source_trouble)?;
        let Some(object) = object else { return Ok(Source::Gone) };
        let fetched = fetch::fetch(object, &self.processor.temp_folder, self.processor.max_object_bytes).await;
        let fetched = Arc::new(fetched.map_err(fetch_trouble)?);
        let fetch_ms = millis(started);
        let started = Instant::now();
        let hints = Hints { file_name: file_name(key).to_owned(), content_type: fetched.head.content_type.clone() };
        // The child keeps the file and the permit until it is really gone.
        let keep: Keep = Arc::new((Arc::clone(&fetched), Arc::clone(&self.scope.keep)));
        let extraction = self.processor.extract.extract(fetched.path(), &hints, keep).await.map_err(child_trouble)?;
        let timings = Timings { fetch_ms, extract_ms: millis(started) };
        Ok(Source::There(Work { fetched, extraction, timings }))
    }

    /// The object is not there: a tombstone is due, or the absence is explained, or the message must wait.
    async fn explain_absence(&self, record: Option<&Standing>) -> Step<()> {
        match self.change.operation {
            Operation::Unstated if record.is_none() => Err(RetryReason::SourceMissing.into()),
            Operation::Removed if record.is_none() && self.change.key.ends_with('/') => match self.look_up().await? {
                Some(_) => Ok(()),
                None => Err(Halt::With(Outcome::Skip(SkipReason::DirectoryMarker))),
            },
            Operation::Removed | Operation::Unstated => Ok(()),
            Operation::Created => {
                let found = match record {
                    Some(found) => Some(found.clone()),
                    None => self.look_up().await?,
                };
                let explained = found
                    .is_some_and(|found| found.source_etag.is_none() || self.rank(&found, Seen::Gone) == Rank::Newer);
                Err(if explained { Halt::With(Outcome::Superseded) } else { RetryReason::SourceMissing.into() })
            }
        }
    }

    /// What the bytes alone decide.
    async fn judge_file(&self, work: Option<&Work>, recorded: bool) -> Step<()> {
        let Some(work) = work else { return Ok(()) };
        // A "folder" of the console; but a file of that name that was emptied must not stay found by its old text.
        let marker = self.change.key.ends_with('/') && work.fetched.size == 0;
        if marker && !recorded && self.look_up().await?.is_none() {
            return Err(Halt::With(Outcome::Skip(SkipReason::DirectoryMarker)));
        }
        match (&work.extraction.extraction_error, self.processor.on_extraction_error) {
            (Some(error), OnExtractionError::DeadLetter) => {
                Err(Halt::With(Outcome::Reject(RejectReason::Unreadable(error.clone()))))
            }
            (Some(_), OnExtractionError::Index) | (None, _) => Ok(()),
        }
    }

    /// `None` is a lost race.
    async fn write(&self, over: Option<&Standing>, work: Option<&Work>) -> Step<Option<Record>> {
        let now = self.processor.clock.unix_ms();
        let revision = record::next_revision(over, now);
        let sequencer = record::stored_sequencer(over, self.change.sequencer.as_ref());
        let record = Record {
            v: 1,
            document_id: self.document_id.clone(),
            work_id: self.work_id.clone(),
            revision,
            recorded_ms: now,
            sequencer: sequencer.clone(),
            timings: work.map(|work| work.timings).unwrap_or_default(),
            document: self.document(revision, now, work),
        };
        let body = serde_json::to_vec(&record).map_err(|error| RetryReason::Refused(error.to_string()))?;
        let etag = work.map(|work| work.fetched.head.etag.as_str());
        let metadata = Standing::metadata(revision, sequencer.as_ref(), etag, &self.message.id);
        let condition = over.map_or(Condition::Absent, |over| Condition::Match(over.object_etag.clone()));
        let key = layout::record(&self.processor.namespace, &self.document_id);
        self.still_ours()?;
        let put =
            self.processor.store.put(&self.processor.results_bucket, &key, Bytes::from(body), &metadata, condition);
        match put.await.map_err(results_trouble)? {
            PutReply::Written { .. } => Ok(Some(record)),
            PutReply::Conflict => Ok(None),
        }
    }

    fn document(&self, revision: u64, now: u64, work: Option<&Work>) -> Document {
        let key = &self.change.key;
        let base = Document {
            bucket: self.change.bucket.clone(),
            key: key.clone(),
            namespace: self.processor.namespace.as_str().to_owned(),
            tenant: tenant(&self.processor.tenant_from, key, self.message),
            extension: extension(key),
            indexed_at: rfc3339(now),
            revision,
            deleted: work.is_none(),
            message_id: self.message.id.0.clone(),
            original_message_id: Origin::id_of(self.message),
            request_id: self.change.request_id.clone(),
            ..Document::default()
        };
        let Some(Work { fetched, extraction, .. }) = work else { return base };
        let head = &fetched.head;
        Document {
            title: extraction.title.clone(),
            content: extraction.content.clone(),
            mime_type: Some(extraction.mime_type.clone()),
            language: extraction.language.clone(),
            size: Some(fetched.size),
            sha256: Some(fetched.sha256.clone()),
            source_etag: Some(head.etag.clone()),
            source_version_id: head.version_id.clone(),
            source_modified: head.modified_ms.map(rfc3339),
            truncated: extraction.truncated,
            extractor: Some(EXTRACTOR.to_owned()),
            extraction_error: extraction.extraction_error.clone(),
            meta: extraction.meta.clone(),
            ..base
        }
    }

    /// Equal is not finished work: its writer may have died before indexing, or it was our own write whose reply was
    /// lost. `None`: the record is not there any more.
    async fn index_recorded(&self) -> Step<Option<Indexed>> {
        let key = layout::record(&self.processor.namespace, &self.document_id);
        let object = self.processor.store.get(&self.processor.results_bucket, &key).await.map_err(results_trouble)?;
        let Some(object) = object else { return Ok(None) };
        let bytes = read_all(object, RECORD_LIMIT).await.map_err(results_trouble)?;
        let record: Record = serde_json::from_slice(&bytes)
            .map_err(|error| RetryReason::Refused(format!("cannot read record {key}: {error}")))?;
        self.index(&record).await.map(Some)
    }

    async fn index(&self, record: &Record) -> Step<Indexed> {
        self.still_ours()?;
        let (item, what) = record.index_entry().map_err(RetryReason::Refused)?;
        match self.processor.side_path.offer(item, &what).await {
            indexed @ (Indexed::Indexed | Indexed::Parked) => Ok(indexed),
            Indexed::None => {
                let detail = "the document could neither be indexed nor parked".to_owned();
                Err(RetryReason::Systemic(Dependency::Parking, detail).into())
            }
        }
    }

    fn still_ours(&self) -> Step<()> {
        if (self.scope.may_act)() { Ok(()) } else { Err(Halt::Stopped) }
    }
}

impl Record {
    /// What the index and a parked marker need. The error is a sentence.
    pub fn index_entry(&self) -> Result<(IndexItem, Parkable), String> {
        let source = serde_json::to_vec(&self.document).map_err(|error| error.to_string())?;
        let item =
            IndexItem { document_id: self.document_id.clone(), revision: self.revision, source: Bytes::from(source) };
        let what = Parkable {
            document_id: self.document_id.clone(),
            bucket: self.document.bucket.clone(),
            key: self.document.key.clone(),
            revision: self.revision,
            recorded_ms: self.recorded_ms,
        };
        Ok((item, what))
    }
}

/// The results bucket is everybody's: whatever it refuses says nothing about this message.
fn results_trouble(error: StoreError) -> Halt {
    match error {
        StoreError::Refused(detail) => RetryReason::Refused(detail).into(),
        // One record moved to an archive class: this file's trouble.
        StoreError::Archived(detail) => RetryReason::Refused(format!("its record is archived: {detail}")).into(),
        StoreError::Interrupted(detail) => RetryReason::Interrupted(detail).into(),
        StoreError::Denied(_)
        | StoreError::Throttled(_)
        | StoreError::BucketMissing(_)
        | StoreError::Unavailable(_) => RetryReason::Systemic(Dependency::Results, error.to_string()).into(),
    }
}

fn source_trouble(error: StoreError) -> Halt {
    match error {
        StoreError::Denied(detail) => RetryReason::Denied(detail).into(),
        StoreError::Throttled(detail) => RetryReason::Throttled(detail).into(),
        StoreError::Archived(detail) => Halt::With(Outcome::Reject(RejectReason::Archived(detail))),
        StoreError::Interrupted(detail) => RetryReason::Interrupted(detail).into(),
        StoreError::Refused(detail) => RetryReason::Refused(detail).into(),
        // One bucket of several may be gone for good: its messages must not stop the others, and ON_MISSING_OBJECT=drop
        // was said of an object, not of a bucket.
        StoreError::BucketMissing(_) => RetryReason::Refused(error.to_string()).into(),
        StoreError::Unavailable(detail) => RetryReason::Systemic(Dependency::Source, detail).into(),
    }
}

fn fetch_trouble(error: FetchError) -> Halt {
    let detail = error.to_string();
    match error {
        FetchError::TooLarge { .. } => Halt::With(Outcome::Reject(RejectReason::TooLarge(detail))),
        FetchError::Store(error) => source_trouble(error),
        FetchError::TooSlow(_) => RetryReason::Interrupted(detail).into(),
        FetchError::Host(_) => RetryReason::Systemic(Dependency::Host, detail).into(),
    }
}

fn child_trouble(failure: ExtractFailure) -> Halt {
    let detail = failure.to_string();
    match failure {
        ExtractFailure::Crashed { .. } => RetryReason::ChildCrashed(detail).into(),
        ExtractFailure::TimedOut { .. } => RetryReason::ChildTimedOut(detail).into(),
        ExtractFailure::Limit { .. } => RetryReason::Limit(detail).into(),
        ExtractFailure::Unavailable { .. } => RetryReason::Systemic(Dependency::Host, detail).into(),
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn file_name(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

/// Lower case, without the dot; names like `.profile` and endings longer than 16 characters have none.
fn extension(key: &str) -> Option<String> {
    let (stem, ending) = file_name(key).rsplit_once('.')?;
    let fits = !stem.is_empty() && (1..=16).contains(&ending.chars().count());
    fits.then(|| ending.to_lowercase())
}

fn tenant(from: &TenantFrom, key: &str, message: &Message) -> Option<String> {
    match from {
        TenantFrom::Prefix(segments) => {
            let folders: Vec<&str> = key.split('/').collect();
            let folders = &folders[..folders.len().saturating_sub(1).min(*segments)];
            (!folders.is_empty()).then(|| folders.join("/"))
        }
        TenantFrom::MessageGroup => message.group_id.clone(),
        TenantFrom::None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_taken_from_the_last_segment() {
        for (key, expected) in [
            ("a/b.PDF", Some("pdf")),
            ("a.d/b", None),
            (".profile", None),
            ("x.tar.gz", Some("gz")),
            ("日本.テキスト", Some("テキスト")),
            ("a.", None),
            ("a.this-is-no-extension-at-all", None),
        ] {
            assert_eq!(extension(key).as_deref(), expected, "{key}");
        }
    }
}
