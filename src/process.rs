//! The critical path: a message's body to changes, each change to a record in S3, the record to the side path.
//!
//! Promises P3's first half (a change is *done* only when its record is acknowledged and its document indexed or
//! parked), P7 (no write once the lease is gone) and P8 (record → source → write, repeated for each lost race).
//! Knows no queue, no lease and no index client: it is told by a [`Scope`] whether it may still act.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::WallClock;
use crate::config::{OnExtractionError, TenantFrom};
use crate::index::SidePath;
use crate::message::s3_event::{self, Judged, Parsed, Unreadable, Wanted};
use crate::message::{DocumentId, Message, Namespace, WorkId};
use crate::outcome::{ChangeReport, InWork, Indexed, Outcome, RejectReason, RetryReason, SkipReason};
use crate::store::Store;

use change::Job;
use extract::{Extract, Keep};
use trouble::Halt;

mod change;
pub mod extract;
pub mod fetch;
mod names;
pub mod record;
mod trouble;

pub use names::{tenant, tenant_in};

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
    begun: Option<InWork>,
    reports: Vec<ChangeReport>,
}

impl Progress {
    fn parsed(&self, changes: usize) {
        self.lock().parsed = changes;
    }

    fn began(&self, work_id: &WorkId, key: &str) {
        self.lock().begun = Some(InWork { work_id: work_id.clone(), key: key.to_owned() });
    }

    fn finished(&self, report: ChangeReport) {
        let mut so_far = self.lock();
        so_far.begun = None;
        so_far.reports.push(report);
    }

    /// The work ended with a panic: that is the report of the change that was in work.
    pub fn panicked(&self, text: &str) {
        let mut so_far = self.lock();
        if let Some(InWork { work_id, key }) = so_far.begun.take() {
            let outcome = Outcome::Retry(RetryReason::Panicked(text.to_owned()));
            so_far.reports.push(ChangeReport { work_id: Some(work_id), key, outcome, indexed: Indexed::None });
        }
    }

    /// The reports so far, how many changes have none, and which of these is in work.
    pub fn so_far(&self) -> (Vec<ChangeReport>, usize, Option<InWork>) {
        let so_far = self.lock();
        (so_far.reports.clone(), so_far.parsed.saturating_sub(so_far.reports.len()), so_far.begun.clone())
    }

    fn lock(&self) -> MutexGuard<'_, SoFar> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
