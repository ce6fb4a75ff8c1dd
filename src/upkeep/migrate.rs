//! `worker migrate-index`: the next index, filled from the records, in the place of the one in use.
//!
//! Passes over all records: the first brings them all, the next what was recorded since the one before it began. Then both
//! aliases move in one step, and a last pass brings what was recorded since the last one before that began. Workers go on
//! meanwhile and know nothing of it. Nothing that they write is missing in the end:
//!
//! - A record is durable before its document is offered to the index (P3). A document that went only into the old index
//!   was offered through the alias before the move had reached the node that took it, so its record lay in the bucket
//!   before the move was over; all nodes have acknowledged a note that follows the move before the last pass lists its first
//!   key; so the last pass, or one before it, has read that record, in this state or a newer one. A bulk request which is
//!   still on its way into the old index at that moment changes nothing: its records are as old.
//! - A pass may skip what was recorded before the one before it began: that one has read it. The two clocks, S3's and ours,
//!   need not agree: [`MARGIN`]. What lies within it and was brought by this run in the state that is listed is not read
//!   again ([`Memory`]).
//! - Nothing older comes over something newer, whoever writes first: the external version is the record's revision, in both
//!   indices (P8). So a pass may be cut short anywhere and begun again. A tombstone goes along as a tombstone.
//!
//! Where a migration stands is noted with the new index ([`Progress`]): killed at any moment, the same command goes on. What
//! would be lost to searches by the move (documents that the new index refuses, records that cannot be read, documents
//! of the old index that have no record) stops it before, unless it is told to leave them behind. Promises flat memory, and
//! to delete nothing. Reads no source file.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Halt, PAGE, TOGETHER, Trouble, UNCLEAR_IN_A_ROW, patiently};
use crate::clock::WallClock;
use crate::index::bulk::Lane;
use crate::index::catalogue::{Catalogue, Owner, Stretch};
use crate::index::succession::{Begun, Pass, Progress, Succession};
use crate::message::{DocumentId, Namespace};
use crate::store::{Listed, Shelves, layout};

mod memory;
mod one;
mod report;

pub use memory::Memory;
use one::{Fate, Limits, One};
pub use report::{End, Phase, Report, Sink, Tally};

/// Recorded this long before a moment counts as recorded after it. S3 refuses requests of a clock that is 15 minutes off
/// (`RequestTimeTooSkewed`), so the two differ by less; and a PUT bears the time at which it arrived, and is seen by a
/// listing when it is whole, within the 30 s that our clients give it.
pub const MARGIN: Duration = Duration::from_secs(20 * 60);
/// A pass this short has left little to be recorded meanwhile: the move may come.
const SHORT: Duration = Duration::from_secs(60);
/// Passes for what has changed, before the move comes all the same: they are as long as their listing.
const MOST_AGAIN: u32 = 3;
/// A note changes the state of the cluster: not more often.
const NOTES: Duration = Duration::from_secs(10);
/// Records in work at once: bulk requests are built of them.
const RECORDS_TOGETHER: usize = 400;
/// Reads at once,
const READS_TOGETHER: usize = 32;
/// and KiB of records in memory; one that is larger goes alone.
const MOST_KIB: u32 = 32 * 1024;

/// One of the two indices.
pub struct Way {
    /// Into it.
    pub lane: Lane,
    /// What it holds.
    pub catalogue: Arc<dyn Catalogue>,
}

/// One migration.
pub struct Migrate {
    /// Records and markers.
    pub store: Arc<dyn Shelves>,
    /// Results bucket. All its namespaces go along.
    pub results_bucket: String,
    /// The aliases.
    pub succession: Arc<dyn Succession>,
    /// Through the alias in use: the old index before the move, the new one after it.
    pub in_use: Way,
    /// Through the alias of the next index.
    pub next: Way,
    /// For notes and markers.
    pub clock: Arc<dyn WallClock>,
    /// Also where the index in use is as it should be.
    pub anew: bool,
    /// Moves also where searches lose something by it: what is refused is parked under `errored-index/`.
    pub leave_behind: bool,
    /// What it has brought of late; empty to begin with.
    pub memory: Memory,
    /// Asked between two records.
    pub stop: CancellationToken,
}

/// A pass that has ended.
struct Passed {
    /// It has brought all that it should.
    clean: bool,
    took: Duration,
}

impl Migrate {
    /// From where it stands to the end.
    pub async fn run(self, sink: &mut dyn Sink) -> Report {
        let mut report = Report::default();
        let end = match self.steps(&mut report, sink).await {
            Ok(end) => end,
            Err(Halt::Interrupted) => End::Interrupted,
            Err(Halt::Sick(why)) => End::Sick(why),
        };
        Report { end, ..report }
    }

    async fn steps(&self, report: &mut Report, sink: &mut dyn Sink) -> Result<End, Halt> {
        let begun = match patiently(|| self.succession.begin(self.anew)).await {
            Ok(begun) => begun,
            Err(Trouble::Own(why)) => return Ok(End::Refused(why)),
            Err(Trouble::Sick(why)) => return Err(Halt::Sick(why)),
        };
        let (new, mut progress) = match begun {
            Begun::Same { index } => return Ok(End::Same { index }),
            Begun::Moved { new, progress } => (new, progress),
            Begun::Building { old, new, analyzer, mut progress } => {
                (report.old, report.new, report.analyzer) = (old.clone(), new.clone(), Some(analyzer));
                if !self.fill(&new, &mut progress, report, sink).await? {
                    return Ok(End::Blocked);
                }
                self.may_go_on()?;
                match patiently(|| self.succession.take_over(&old, &new)).await {
                    Ok(()) => {}
                    Err(Trouble::Own(why)) => return Ok(End::Refused(why)),
                    Err(Trouble::Sick(why)) => return Err(Halt::Sick(why)),
                }
                (new, progress)
            }
        };
        (report.old, report.new) = (progress.from.clone(), new.clone());
        // From its beginning, wherever one was: it may have been begun before the move.
        progress.pass = None;
        let last = self.pass(Phase::Last, &self.in_use.lane, &new, &mut progress, report, sink).await?;
        Ok(if last.clean { End::Moved } else { End::Owed })
    }

    /// Fills the new index. False: something would be lost.
    async fn fill(
        &self,
        new: &str,
        progress: &mut Progress,
        report: &mut Report,
        sink: &mut dyn Sink,
    ) -> Result<bool, Halt> {
        let lane = &self.next.lane;
        if progress.since_ms == 0 && !self.pass(Phase::First, lane, new, progress, report, sink).await?.clean {
            return Ok(false);
        }
        if !self.compare(report, sink).await? {
            return Ok(false);
        }
        for _ in 0..MOST_AGAIN {
            let again = self.pass(Phase::Again, lane, new, progress, report, sink).await?;
            if !again.clean {
                return Ok(false);
            }
            if again.took <= SHORT {
                break;
            }
        }
        Ok(true)
    }

    /// Once over all records, or what is left of them. What is noted of it is true whoever else is at it: of two, each goes
    /// on from a place up to which all has been done.
    async fn pass(
        &self,
        phase: Phase,
        lane: &Lane,
        new: &str,
        progress: &mut Progress,
        report: &mut Report,
        sink: &mut dyn Sink,
    ) -> Result<Passed, Halt> {
        let began = Instant::now();
        report.tally.passes += 1;
        let fresh = || Pass { began_ms: self.clock.unix_ms(), after: None };
        let Pass { began_ms, mut after } = progress.pass.get_or_insert_with(fresh).clone();
        match phase {
            // So that all nodes know of the move before the first key is listed.
            Phase::Last => self.note(new, progress).await?,
            Phase::First | Phase::Compare | Phase::Again => {}
        }
        let (due_from, next_due_from) = (less_margin(progress.since_ms), less_margin(began_ms));
        let (limits, mut clean, mut noted) = (Limits::new(), true, Instant::now());
        loop {
            self.may_go_on()?;
            let bucket = &self.results_bucket;
            let page = patiently(|| self.store.list_objects(bucket, "processed/", after.as_deref(), PAGE)).await?;
            report.tally.listed += page.objects.len() as u64;
            let last = page.objects.last().map(|object| object.key.clone());
            let is_due = |object: &Listed| object.modified_ms.is_none_or(|at| at >= due_from);
            let due = page.objects.into_iter().filter(|object| is_due(object) && !self.memory.has(object));
            let one = One { of: self, lane, limits: &limits, parks: self.leave_behind || phase == Phase::Last };
            let mut fates = stream::iter(due)
                .map(|object| async {
                    let fate = one.bring(&object).await;
                    (object, fate)
                })
                .buffer_unordered(RECORDS_TOGETHER);
            while let Some((object, fate)) = fates.next().await {
                let fate = fate?;
                // The next pass would read it again, within the margin.
                if matches!(fate, Fate::Brought) && object.modified_ms.is_none_or(|at| at >= next_due_from) {
                    self.memory.keep(&object);
                }
                clean &= self.take(&object.key, fate, &mut report.tally, sink)?;
            }
            drop(fates);
            sink.progress(phase, report);
            if !page.more || last.is_none() {
                break;
            }
            after = last;
            // Behind what is owed nothing is noted: the next run looks at it again.
            if clean && noted.elapsed() >= NOTES {
                progress.pass = Some(Pass { began_ms, after: after.clone() });
                self.note(new, progress).await?;
                noted = Instant::now();
            }
        }
        if clean {
            (progress.since_ms, progress.pass, progress.done) = (began_ms, None, phase == Phase::Last);
            self.note(new, progress).await?;
        }
        Ok(Passed { clean, took: began.elapsed() })
    }

    /// Counts what became of a record; whether nothing is owed.
    fn take(&self, key: &str, fate: Fate, tally: &mut Tally, sink: &mut dyn Sink) -> Result<bool, Halt> {
        match fate {
            Fate::Brought => tally.brought += 1,
            Fate::Gone => {}
            Fate::Known => tally.errored += 1,
            Fate::LeftBehind(why) => {
                tally.left_behind += 1;
                sink.unclear(key, &format!("left behind: {why}"));
            }
            Fate::NoRecord => tally.odd += 1,
            Fate::Refused(why) => {
                tally.refused += 1;
                sink.unclear(key, &format!("refused by the new index: {why}"));
                self.not_everybodys(tally, why)?;
                return Ok(false);
            }
            Fate::Unclear(why) => {
                sink.unclear(key, &why);
                if self.leave_behind {
                    tally.left_behind += 1;
                } else {
                    tally.unclear += 1;
                }
                self.not_everybodys(tally, why)?;
                return Ok(self.leave_behind);
            }
        }
        Ok(true)
    }

    /// Many troubles and not one that is well: they are not of these records.
    fn not_everybodys(&self, tally: &Tally, why: String) -> Result<(), Halt> {
        let troubles = tally.refused + tally.unclear + tally.left_behind;
        if tally.brought == 0 && troubles >= UNCLEAR_IN_A_ROW { Err(Halt::Sick(why)) } else { Ok(()) }
    }

    /// Are there documents which the old index shows and no record tells of? They are another bucket's, or their records
    /// were lost: no pass would bring them. False: there are, and they must not be left behind.
    async fn compare(&self, report: &mut Report, sink: &mut dyn Sink) -> Result<bool, Halt> {
        let owners = patiently(|| self.in_use.catalogue.owners()).await?;
        let mut clean = true;
        for Owner { namespace, bucket } in owners {
            let Ok(namespace) = Namespace::parse(&namespace) else {
                report.tally.without_record += 1;
                sink.unclear(&bucket, &format!("documents of a namespace that cannot be one: {namespace}"));
                clean = false;
                continue;
            };
            let mut after = None;
            loop {
                self.may_go_on()?;
                let (namespace, bucket) = (namespace.clone(), bucket.clone());
                let stretch = Stretch { namespace, bucket, prefix: String::new(), after, up_to: None };
                let entries = patiently(|| self.in_use.catalogue.entries(&stretch, PAGE)).await?;
                let full = entries.len() == PAGE;
                after = entries.last().map(|entry| entry.key.clone());
                report.tally.compared += entries.len() as u64;
                // A tombstone is shown to nobody.
                let shown: Vec<_> = entries.into_iter().filter(|entry| !entry.held.deleted).collect();
                let ids: Vec<DocumentId> = shown.iter().map(|entry| entry.document_id.clone()).collect();
                let held = patiently(|| self.next.catalogue.held(&ids)).await?;
                let missing = shown.into_iter().zip(held).filter(|(_, held)| held.is_none()).map(|(entry, _)| entry);
                let looks = stream::iter(missing).map(|entry| async {
                    let key = layout::record(&stretch.namespace, &entry.document_id);
                    let record = patiently(|| self.store.head(&self.results_bucket, &key)).await;
                    (entry, record)
                });
                for (entry, record) in looks.buffered(TOGETHER).collect::<Vec<_>>().await {
                    let why = match record {
                        // On its way: it was recorded after the first pass had been there. Or refused, and counted.
                        Ok(Some(_)) => continue,
                        Ok(None) => "it has no record in this results bucket".to_owned(),
                        Err(Trouble::Own(why)) => why,
                        Err(Trouble::Sick(why)) => return Err(Halt::Sick(why)),
                    };
                    report.tally.without_record += 1;
                    sink.unclear(&format!("s3://{}/{} ({})", stretch.bucket, entry.key, stretch.namespace), &why);
                    clean = false;
                }
                sink.progress(Phase::Compare, report);
                if !full {
                    break;
                }
            }
        }
        Ok(clean || self.leave_behind)
    }

    async fn note(&self, new: &str, progress: &mut Progress) -> Result<(), Halt> {
        // Each try is another note: one that changed nothing would be acknowledged without being told to any node.
        let number = Mutex::new(progress.note);
        let noted = patiently(|| async {
            let next = {
                let mut number = number.lock().unwrap_or_else(PoisonError::into_inner);
                *number = number.saturating_add(1);
                *number
            };
            self.succession.note(new, &Progress { note: next, ..progress.clone() }).await
        });
        noted.await?;
        progress.note = number.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(())
    }

    fn may_go_on(&self) -> Result<(), Halt> {
        if self.stop.is_cancelled() { Err(Halt::Interrupted) } else { Ok(()) }
    }
}

fn less_margin(at_ms: u64) -> u64 {
    at_ms.saturating_sub(u64::try_from(MARGIN.as_millis()).unwrap_or(u64::MAX))
}

impl Limits {
    fn new() -> Self {
        Self {
            reads: Semaphore::new(READS_TOGETHER),
            kib: Semaphore::new(MOST_KIB as usize),
            well: Mutex::new(Instant::now()),
        }
    }
}
