//! The operator's side of what is parked: list it, look at what errored and send that back, replay now.
//!
//! Promises that a marker is never in neither place (`reset`), that what is printed is bounded however much is parked,
//! and that `redrive parked` is the worker's own replay (`now`). Knows no command line.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Serialize;

use crate::config::exit;
use crate::index::park::markers::{MarkerKey, Markers, PAGE};
use crate::index::park::{Lot, Marker, Parking};
use crate::message::detail::{detail, printable};
use crate::pause::{Pause, Standing};
use crate::store::{StoreError, read_all};

mod now;
mod reset;

pub use now::{End, Now, NowReport};
pub use reset::ResetReport;

/// Markers that are read for their reasons: the oldest.
const READ: usize = 1_000;
/// Reads at once.
const TOGETHER: usize = 16;
/// Kinds of reasons that are told apart.
const KINDS: usize = 30;
const MARKER_LIMIT: usize = 64 * 1024;

/// A report and how the command ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// For a person.
    pub text: String,
    /// One JSON object on one line.
    pub json: String,
    /// Exit code of design §8.
    pub code: u8,
}

impl Answer {
    /// Of a report that is plain data.
    pub fn of(report: &impl Serialize, text: String, code: u8) -> Self {
        // Strings and numbers: there is nothing here that JSON cannot hold.
        Self { text, json: serde_json::to_string(report).unwrap_or_default() + "\n", code }
    }
}

/// The fleet is paused: nothing was done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Paused {
    ended: &'static str,
    paused_by: Option<String>,
    paused_at: Option<String>,
    reason: String,
}

/// Where the fleet is paused nothing is replayed or moved; `None`: it is not.
pub fn refused_by(standing: Standing) -> Option<Answer> {
    let (paused_by, paused_at, reason) = match standing {
        Standing::Running => return None,
        Standing::Paused(Pause { reason, by, at, v: _ }) => (Some(by), Some(at), reason),
        Standing::Unreadable { why, .. } => (None, None, format!("the pause cannot be read ({why})")),
    };
    let by = paused_by.as_deref().unwrap_or("nobody knows whom");
    let since = paused_at.as_deref().map(|at| format!(" since {at}")).unwrap_or_default();
    let text = format!("refused: paused by {by}{since}: {reason}\n  to go on: redrive resume\n");
    Some(Answer::of(&Paused { ended: "refused", paused_by, paused_at, reason }, text, exit::EX_REFUSED))
}

/// Both lots of one namespace.
pub struct Lots {
    /// Where they lie.
    pub parking: Parking,
}

/// What is parked.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ListReport {
    /// Scope.
    pub namespace: String,
    /// Markers in `retry-index/`.
    pub parked: u64,
    /// Markers in `errored-index/`.
    pub errored: u64,
    /// Parked, by the day of their records.
    pub days: BTreeMap<String, u64>,
    /// The first failure among those that were read.
    pub oldest_failed_at: Option<String>,
    /// How many were read for their reasons: the oldest.
    pub read: u64,
    /// Their kinds of reasons.
    pub reasons: BTreeMap<String, u64>,
    /// Of the oldest, those whose markers cannot be read.
    pub unreadable: u64,
    /// What the first of those said.
    pub trouble: Option<String>,
}

/// What errored.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ErroredReport {
    /// Scope.
    pub namespace: String,
    /// Markers in `errored-index/`.
    pub errored: u64,
    /// Those that match, where all were read; `None`: no prefix was given, and they were not.
    pub matching: Option<u64>,
    /// By the day of their records.
    pub days: BTreeMap<String, u64>,
    /// Kinds of reasons of those that were read.
    pub reasons: BTreeMap<String, u64>,
    /// The oldest that match.
    pub documents: Vec<Errored>,
    /// Of those that were looked at, those whose markers cannot be read.
    pub unreadable: u64,
    /// What the first of those said.
    pub trouble: Option<String>,
}

/// A document that replay has given up on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Errored {
    /// Source bucket.
    pub bucket: String,
    /// Source key.
    pub key: String,
    /// Why.
    pub reason: String,
    /// When it first failed, RFC 3339.
    pub failed_at: String,
    /// At this revision.
    pub revision: u64,
    /// Its marker.
    pub marker: String,
}

impl Lots {
    fn lot(&self, lot: Lot) -> Markers {
        let Parking { store, bucket, namespace, .. } = &self.parking;
        Markers { store: store.clone(), bucket: bucket.clone(), namespace: namespace.clone(), lot }
    }

    /// Counts by day, and kinds of reasons.
    pub async fn list(&self) -> Result<Answer, StoreError> {
        let mut report = ListReport { namespace: self.parking.namespace.as_str().into(), ..ListReport::default() };
        let (lot, mut place) = (self.lot(Lot::Retry), None);
        let mut oldest = Vec::new();
        loop {
            let batch = lot.after(place, PAGE).await?;
            for marker in batch.markers {
                report.parked += 1;
                *report.days.entry(marker.day().to_owned()).or_default() += 1;
                if oldest.len() < READ {
                    oldest.push(marker);
                }
            }
            place = batch.next;
            if place.is_none() {
                break;
            }
        }
        let mut read = futures_util::stream::iter(oldest).map(|key| self.read(key)).buffered(TOGETHER);
        while let Some(read) = read.next().await {
            let marker = match read? {
                (_, Seen::Marker(marker)) => marker,
                (_, Seen::Gone) => continue,
                (key, Seen::Unreadable(why)) => {
                    report.unreadable += 1;
                    report.trouble.get_or_insert(format!("{}: {why}", key.key));
                    continue;
                }
            };
            report.read += 1;
            count(&mut report.reasons, &marker.reason);
            let oldest = report.oldest_failed_at.get_or_insert_with(|| marker.failed_at.clone());
            if marker.failed_at < *oldest {
                *oldest = marker.failed_at;
            }
        }
        report.errored = self.count(Lot::Errored).await?;
        let text = report.text();
        Ok(Answer::of(&report, text, exit::EX_OK))
    }

    /// The oldest that errored, at most `limit`, whose source keys begin so.
    pub async fn errored(&self, key_prefix: Option<&str>, limit: usize) -> Result<Answer, StoreError> {
        let mut report =
            ErroredReport { namespace: self.parking.namespace.as_str().into(), ..ErroredReport::default() };
        let (lot, mut place) = (self.lot(Lot::Errored), None);
        loop {
            let batch = lot.after(place, PAGE).await?;
            report.errored += batch.markers.len() as u64;
            for marker in &batch.markers {
                *report.days.entry(marker.day().to_owned()).or_default() += 1;
            }
            // Without a prefix no more are read than are shown; with one, all must be.
            let wanted = match key_prefix {
                Some(_) => batch.markers.len(),
                None => limit.saturating_sub(report.documents.len()).min(batch.markers.len()),
            };
            let mut read = futures_util::stream::iter(batch.markers.into_iter().take(wanted))
                .map(|key| self.read(key))
                .buffered(TOGETHER);
            while let Some(read) = read.next().await {
                let (key, marker) = match read? {
                    (key, Seen::Marker(marker)) => (key, marker),
                    (_, Seen::Gone) => continue,
                    (key, Seen::Unreadable(why)) => {
                        report.unreadable += 1;
                        report.trouble.get_or_insert(format!("{}: {why}", key.key));
                        continue;
                    }
                };
                if key_prefix.is_some_and(|prefix| !marker.key.starts_with(prefix)) {
                    continue;
                }
                count(&mut report.reasons, &marker.reason);
                if key_prefix.is_some() {
                    *report.matching.get_or_insert(0) += 1;
                }
                if report.documents.len() < limit {
                    let Marker { bucket, key: source, reason, failed_at, revision, .. } = marker;
                    let marker = key.key;
                    report.documents.push(Errored { bucket, key: source, reason, failed_at, revision, marker });
                }
            }
            place = batch.next;
            if place.is_none() {
                break;
            }
        }
        if key_prefix.is_some() {
            report.matching.get_or_insert(0);
        }
        let text = report.text();
        Ok(Answer::of(&report, text, exit::EX_OK))
    }

    async fn count(&self, lot: Lot) -> Result<u64, StoreError> {
        count_all(&self.lot(lot)).await
    }

    /// One that cannot be read hides no other; a store that is sick does.
    async fn read(&self, key: MarkerKey) -> Result<(MarkerKey, Seen), StoreError> {
        let seen = match self.bytes(&key).await {
            Ok(None) => Seen::Gone,
            Ok(Some(bytes)) => match serde_json::from_slice(&bytes) {
                Ok(marker) => Seen::Marker(marker),
                Err(error) => Seen::Unreadable(format!("it is no marker: {error}")),
            },
            Err(
                error @ (StoreError::Denied(_)
                | StoreError::Archived(_)
                | StoreError::Interrupted(_)
                | StoreError::Refused(_)),
            ) => Seen::Unreadable(error.to_string()),
            Err(error @ (StoreError::Unavailable(_) | StoreError::Throttled(_) | StoreError::BucketMissing(_))) => {
                return Err(error);
            }
        };
        Ok((key, seen))
    }

    async fn bytes(&self, key: &MarkerKey) -> Result<Option<Bytes>, StoreError> {
        match self.parking.store.get(&self.parking.bucket, &key.key).await? {
            None => Ok(None),
            Some(object) => read_all(object, MARKER_LIMIT).await.map(Some),
        }
    }
}

/// A marker that was looked at.
enum Seen {
    Marker(Marker),
    /// It was taken away meanwhile.
    Gone,
    /// Why.
    Unreadable(String),
}

/// How many markers there are; one LIST for each thousand.
pub async fn count_all(markers: &Markers) -> Result<u64, StoreError> {
    let (mut number, mut place) = (0, None);
    loop {
        let batch = markers.after(place, PAGE).await?;
        number += batch.markers.len() as u64;
        place = batch.next;
        if place.is_none() {
            return Ok(number);
        }
    }
}

/// Reasons are sentences; their first part names the kind.
fn count(kinds: &mut BTreeMap<String, u64>, reason: &str) {
    let kind = printable(reason.split(": ").next().unwrap_or_default().trim(), 80);
    let room = kinds.len() < KINDS || kinds.contains_key(&kind);
    *kinds.entry(if room { kind } else { "others".into() }).or_default() += 1;
}

fn table(page: &mut String, head: &str, rows: &BTreeMap<String, u64>) {
    if !rows.is_empty() {
        *page += &format!("{head}\n");
        rows.iter().for_each(|(name, number)| *page += &format!("  {number:>9}  {name}\n"));
    }
}

fn unread(unreadable: u64, trouble: Option<&str>) -> String {
    trouble.map(|why| format!("{unreadable} cannot be read, the first: {}\n", detail(why))).unwrap_or_default()
}

impl ListReport {
    fn text(&self) -> String {
        let Self { namespace, parked, errored, read, .. } = self;
        let mut page = format!("{parked} parked, {errored} errored (namespace {namespace})\n");
        if let Some(oldest) = &self.oldest_failed_at {
            page += &format!("oldest failure: {oldest}\n");
        }
        table(&mut page, "by day of the record:", &self.days);
        table(&mut page, &format!("by reason, of the oldest {read}:"), &self.reasons);
        page += &unread(self.unreadable, self.trouble.as_deref());
        if *parked > 0 {
            page += "workers replay them; at once: redrive parked\n";
        }
        if *errored > 0 {
            page += "what errored, and why: redrive parked --errored\n";
        }
        page
    }
}

impl ErroredReport {
    fn text(&self) -> String {
        let Self { namespace, errored, .. } = self;
        let mut page = format!("{errored} errored (namespace {namespace})\n");
        if let Some(matching) = self.matching {
            page += &format!("{matching} of them match\n");
        }
        table(&mut page, "by day of the record:", &self.days);
        table(&mut page, "by reason, of those that were read:", &self.reasons);
        for Errored { bucket, key, reason, failed_at, .. } in &self.documents {
            let key = printable(key, 300);
            page += &format!("{failed_at}  s3://{bucket}/{key}\n    {}\n", detail(reason));
        }
        page += &unread(self.unreadable, self.trouble.as_deref());
        let all = self.matching.unwrap_or(*errored);
        let shown = self.documents.len() as u64;
        if all > shown {
            page += &format!("… and {} more: --limit N shows more, --json all fields\n", all - shown);
        }
        if all > 0 {
            page += "to try them again: redrive parked --errored --reset [--key-prefix P]\n";
        }
        page
    }
}
