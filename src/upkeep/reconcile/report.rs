//! What a reconciliation tells: findings one by one as they are made, counts in the end.

use serde::Serialize;

use super::Cursor;
use crate::message::DocumentId;
use crate::upkeep::Ended;
use crate::upkeep::verdict::{Finding, Kind};

/// A file that is not in step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Found {
    /// What is wrong.
    pub finding: Finding,
    /// Source bucket.
    pub bucket: String,
    /// Source key.
    pub key: String,
    /// `_id`, and the name of its record.
    pub document_id: DocumentId,
}

/// Who listens to a run.
pub trait Sink: Send {
    /// A file is not in step.
    fn found(&mut self, found: &Found);
    /// A file or record could not be judged or repaired.
    fn unclear(&mut self, name: &str, why: &str);
    /// A page is done.
    fn progress(&mut self, report: &Report);
}

/// What was counted.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Tally {
    /// Listed in the bucket.
    pub objects: u64,
    /// Listed among the records.
    pub records: u64,
    /// In step.
    pub well: u64,
    /// Changed too lately to be judged.
    pub young: u64,
    /// Not in the index, and parked.
    pub parked: u64,
    /// Not in the index, which refused it: `errored-index/`.
    pub errored: u64,
    /// Larger than `MAX_OBJECT_BYTES`.
    pub too_large: u64,
    /// Could not be judged.
    pub unclear: u64,
    /// No record, or no document.
    pub missing: u64,
    /// A record or document of another state.
    pub stale: u64,
    /// A record or document whose file is gone.
    pub orphaned: u64,
    /// Sent to the queue.
    pub repaired_messages: u64,
    /// Parked for the replay.
    pub repaired_parked: u64,
}

impl Tally {
    pub(super) fn count(&mut self, finding: Finding) {
        match finding.kind() {
            Kind::Missing => self.missing += 1,
            Kind::Stale => self.stale += 1,
            Kind::Orphaned => self.orphaned += 1,
        }
    }

    /// Files with a verdict.
    pub(super) fn answered(&self) -> u64 {
        self.well + self.young + self.parked + self.errored + self.too_large + self.found()
    }

    /// Files that are not in step.
    pub fn found(&self) -> u64 {
        self.missing + self.stale + self.orphaned
    }

    /// Findings that were put on their way.
    pub fn repaired(&self) -> u64 {
        self.repaired_messages + self.repaired_parked
    }

    /// Nothing is left for anybody to do.
    pub fn is_well(&self) -> bool {
        self.found() == self.repaired() && self.unclear == 0
    }
}

/// A run, so far or whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Counts.
    pub tally: Tally,
    /// How it ended.
    pub ended: Ended,
    /// Where another run goes on; `None`: at the beginning.
    pub cursor: Option<Cursor>,
}

impl Default for Report {
    fn default() -> Self {
        Self { tally: Tally::default(), ended: Ended::Complete, cursor: None }
    }
}
