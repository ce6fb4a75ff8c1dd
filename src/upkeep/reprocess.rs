//! `redrive reprocess`: work anew for files that have not changed (a better extractor, a bucket that was filled before).
//!
//! Promises to change nothing itself: each file becomes a message with `force`, and a worker reads it as it is then and
//! writes its record with a higher revision (P8: without a sequencer of its own it never lowers the record's). What is
//! counted as sent was acknowledged, entry by entry; a run goes on behind the last key whose batch was.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::outbox::{Outbox, Unsent};
use super::{Area, Ended, Halt, PAGE, RECORD_LIMIT, Trouble, bodies, is_directory_marker, patiently, read};
use crate::index::catalogue::{Catalogue, Stretch};
use crate::message::{DocumentId, Namespace};
use crate::process::record::Record;
use crate::store::{Listed, Shelves, layout};

/// One run.
pub struct Reprocess {
    /// Buckets.
    pub store: Arc<dyn Shelves>,
    /// The main queue; `None` only counts.
    pub outbox: Option<Outbox>,
    /// Which files.
    pub area: Area,
    /// Only those read by an older extractor.
    pub older_than: Option<Older>,
    /// `MAX_OBJECT_BYTES`: larger files would only be dead-lettered.
    pub max_object_bytes: u64,
    /// Asked between two batches.
    pub stop: CancellationToken,
}

/// Files whose record was made by an extractor older than this.
pub struct Older {
    /// The version.
    pub than: ExtractorVersion,
    /// Who read a file, as the index says: it costs no call for each.
    pub catalogue: Arc<dyn Catalogue>,
    /// Scope.
    pub namespace: Namespace,
    /// Results bucket, for files that the index does not know.
    pub results_bucket: String,
}

/// The version in an extractor's name, `quittance-extract/1`: numbers, compared one by one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ExtractorVersion(Vec<u64>);

impl ExtractorVersion {
    /// Reads `2`, `2.1` or `quittance-extract/2`.
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.rsplit('/').next()?.trim_start_matches('v');
        let parts: Option<Vec<u64>> = number
            .split('.')
            .map(|part| part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())?)
            .collect();
        let mut parts = parts?;
        while parts.len() > 1 && parts.last() == Some(&0) {
            parts.pop(); // 2.0 is 2
        }
        Some(Self(parts))
    }

    /// A file read by nobody, or by one whose version cannot be read, is older than all.
    fn is_newer_than(&self, extractor: Option<&str>) -> bool {
        extractor.and_then(Self::parse).is_none_or(|version| version < *self)
    }
}

impl std::fmt::Display for ExtractorVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<String> = self.0.iter().map(u64::to_string).collect();
        f.write_str(&parts.join("."))
    }
}

/// What was counted.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Tally {
    /// Listed in the bucket.
    pub objects: u64,
    /// Messages acknowledged by the queue; with `--dry-run`, that would be sent.
    pub sent: u64,
    /// Read by an extractor that is new enough.
    pub new_enough: u64,
    /// "Folders", files that the workers may not read, files that are too large.
    pub skipped: u64,
    /// Could not be judged, and were not sent.
    pub unclear: u64,
}

/// A run, so far or whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Counts.
    pub tally: Tally,
    /// How it ended.
    pub ended: Ended,
    /// All keys up to this one are done.
    pub cursor: Option<String>,
}

/// Who listens to a run.
pub trait Sink: Send {
    /// A file could not be judged.
    fn unclear(&mut self, key: &str, why: &str);
    /// Some more were sent.
    fn progress(&mut self, report: &Report);
}

/// What is to be done with a file.
enum Fate {
    Send,
    NewEnough,
    Skip,
    Unclear(String),
}

impl Reprocess {
    /// Sends all of the area, or what comes behind `from`.
    pub async fn run(mut self, from: Option<String>, sink: &mut dyn Sink) -> Report {
        let mut report = Report { tally: Tally::default(), ended: Ended::Complete, cursor: from };
        let ended = match self.pages(&mut report, sink).await {
            Ok(()) => Ended::Complete,
            Err(halt) => halt.into(),
        };
        Report { ended, ..report }
    }

    async fn pages(&mut self, report: &mut Report, sink: &mut dyn Sink) -> Result<(), Halt> {
        let mut after = report.cursor.clone();
        loop {
            self.may_go_on()?;
            let (bucket, prefix) = (&self.area.bucket, &self.area.prefix);
            let page = patiently(|| self.store.list_objects(bucket, prefix, after.as_deref(), PAGE)).await?;
            let last = page.objects.iter().map(|object| &object.key).max().cloned();
            let extractors = self.extractors(after.as_ref(), last.as_ref()).await?;
            let mut batch = Batch::default();
            for object in &page.objects {
                report.tally.objects += 1;
                match self.fate(object, &extractors).await? {
                    Fate::Send => batch.bodies.push(bodies::look_at(&self.area.bucket, &object.key, true)),
                    Fate::NewEnough => report.tally.new_enough += 1,
                    Fate::Skip => report.tally.skipped += 1,
                    Fate::Unclear(why) => {
                        report.tally.unclear += 1;
                        sink.unclear(&object.key, &why);
                    }
                }
                batch.last = Some(object.key.clone());
                if self.outbox.as_ref().is_some_and(|outbox| batch.bodies.len() >= outbox.batch()) {
                    self.send(&mut batch, report, sink).await?;
                    self.may_go_on()?;
                }
            }
            self.send(&mut batch, report, sink).await?;
            if !page.more || last.is_none() {
                return Ok(());
            }
            after = last;
        }
    }

    async fn send(&mut self, batch: &mut Batch, report: &mut Report, sink: &mut dyn Sink) -> Result<(), Halt> {
        let Batch { bodies, last } = std::mem::take(batch);
        match &mut self.outbox {
            None => report.tally.sent += bodies.len() as u64,
            Some(outbox) => match outbox.send_bodies(&bodies).await {
                Ok(()) => report.tally.sent += bodies.len() as u64,
                Err(Unsent { left, why, .. }) => {
                    // Where it stands is before this batch: what of it was sent is sent again, which is harmless.
                    report.tally.sent += (bodies.len() - left.len()) as u64;
                    return Err(Halt::Sick(why));
                }
            },
        }
        report.cursor = last.or(report.cursor.take());
        sink.progress(report);
        Ok(())
    }

    async fn fate(&self, object: &Listed, extractors: &BTreeMap<String, Option<String>>) -> Result<Fate, Halt> {
        let unwanted = !self.area.has(&self.area.bucket, &object.key)
            || is_directory_marker(&object.key, object.size)
            || object.size > self.max_object_bytes;
        if unwanted {
            return Ok(Fate::Skip);
        }
        let Some(older) = &self.older_than else { return Ok(Fate::Send) };
        let extractor = match extractors.get(&object.key) {
            Some(extractor) => extractor.clone(),
            None => match self.recorded_extractor(older, &object.key).await {
                Ok(extractor) => extractor,
                Err(Trouble::Own(why)) => return Ok(Fate::Unclear(why)),
                Err(Trouble::Sick(why)) => return Err(Halt::Sick(why)),
            },
        };
        Ok(if older.than.is_newer_than(extractor.as_deref()) { Fate::Send } else { Fate::NewEnough })
    }

    /// Of the documents between two keys, as the index has them.
    async fn extractors(
        &self,
        after: Option<&String>,
        up_to: Option<&String>,
    ) -> Result<BTreeMap<String, Option<String>>, Halt> {
        let mut found = BTreeMap::new();
        let (Some(older), Some(up_to)) = (&self.older_than, up_to) else { return Ok(found) };
        let mut behind = after.cloned();
        loop {
            let stretch = Stretch {
                namespace: older.namespace.clone(),
                bucket: self.area.bucket.clone(),
                prefix: self.area.prefix.clone(),
                after: behind,
                up_to: Some(up_to.clone()),
            };
            let entries = patiently(|| older.catalogue.entries(&stretch, PAGE)).await?;
            let full = entries.len() == PAGE;
            behind = entries.last().map(|entry| entry.key.clone());
            // Tombstones say nothing of a file that is there.
            found.extend(
                entries.into_iter().filter(|entry| !entry.held.deleted).map(|entry| (entry.key, entry.extractor)),
            );
            if !full {
                return Ok(found);
            }
        }
    }

    async fn recorded_extractor(&self, older: &Older, key: &str) -> Result<Option<String>, Trouble> {
        let id = DocumentId::of(&older.namespace, &self.area.bucket, key);
        let place = layout::record(&older.namespace, &id);
        let found = read(self.store.as_ref(), &older.results_bucket, &place, RECORD_LIMIT).await?;
        let Some((_, bytes)) = found else { return Ok(None) };
        // What cannot be read is made anew.
        Ok(serde_json::from_slice::<Record>(&bytes).ok().and_then(|record| record.document.extractor))
    }

    fn may_go_on(&self) -> Result<(), Halt> {
        if self.stop.is_cancelled() { Err(Halt::Interrupted) } else { Ok(()) }
    }
}

/// Messages on their way, and the last key that was looked at for them.
#[derive(Default)]
struct Batch {
    bodies: Vec<String>,
    last: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extractor_is_older_by_its_numbers() {
        for (extractor, than, older) in [
            (Some("quittance-extract/1"), "2", true),
            (Some("quittance-extract/2"), "2", false),
            (Some("quittance-extract/10"), "9", false),
            (Some("quittance-extract/2.1"), "quittance-extract/2.10", true),
            (Some("quittance-extract/2.0"), "2", false),
            (Some("quittance-extract/2"), "2.0", false),
            (Some("something else"), "1", true),
            (None, "1", true),
        ] {
            let than = ExtractorVersion::parse(than).unwrap();
            assert_eq!(than.is_newer_than(extractor), older, "{extractor:?} {than:?}");
        }
        for bad in ["", "x", "1.", "1.x", "-1", "quittance-extract/"] {
            assert_eq!(ExtractorVersion::parse(bad), None, "{bad}");
        }
    }
}
