//! One change: look up, read the source, write the record, index it.
//!
//! Promises P8's order (record → source → write, repeated for each lost race) and P7 (asks before every write whether
//! it may still act). The order of its calls is model-checked (`tests/protocol`).

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::extract::{EXTRACTOR, Extraction, Hints, Keep};
use super::fetch::{self, Fetched};
use super::names::{extension, file_name, tenant};
use super::record::{self, Document, Rank, Record, Seen, Standing, Timings};
use super::trouble::{Halt, Step, child_trouble, fetch_trouble, results_trouble, source_trouble};
use super::{Processor, Scope};
use crate::clock::rfc3339;
use crate::config::OnExtractionError;
use crate::dead_letter::Origin;
use crate::message::{Change, DocumentId, Message, Operation, WorkId};
use crate::outcome::{Dependency, Indexed, Outcome, RejectReason, RetryReason, SkipReason};
use crate::store::{Condition, PutReply, layout, read_all};

/// Largest record read back; one holds at most the extractor's text and its JSON escapes.
const RECORD_LIMIT: usize = 64 * 1024 * 1024;
/// Lost races for one record before the change is called a failure: a store that never lets anybody win.
const RACES: u32 = 100;

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

/// One change being worked on.
pub(super) struct Job<'a> {
    pub(super) processor: &'a Processor,
    pub(super) message: &'a Message,
    pub(super) scope: &'a Scope,
    pub(super) change: &'a Change,
    pub(super) document_id: DocumentId,
    pub(super) work_id: WorkId,
}

impl Job<'_> {
    /// The order of calls here is model-checked: keep to it, or change `tests/protocol/worker.rs` as well.
    pub(super) async fn run(&self) -> Step<Indexed> {
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
                let rank = self.rank(found, seen);
                failpoint!(AfterVerify);
                match rank {
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
        record::rank_of(found, self.change, seen, &self.message.id)
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
        failpoint!(BeforeGet);
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
        failpoint!(AfterParse);
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
        failpoint!(BeforeIndex);
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

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
