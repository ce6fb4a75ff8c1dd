//! What an inspection found: for a person, for a script, and as the numbers behind the page.
//!
//! Promises that it says what was looked at and what was not: how many of how many were read, and whether anything was
//! received. Pure.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde::Serialize;

use super::groups::{Bar, Counts, Inflow, NONE, Row, Scale, Spans, kind_of, prefix_of};
use crate::clock::rfc3339;
use crate::message::detail::{detail, printable};
use crate::redrive::expiry::Expiry;

/// Files that are told apart while counting.
const FILES: usize = 1_000_000;

/// One message or document, as far as it is counted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Item {
    /// Why it is where it is.
    pub reason: String,
    /// Why, as a sentence.
    pub detail: String,
    /// Source keys.
    pub keys: Vec<String>,
    /// Tenants of those keys.
    pub tenants: Vec<String>,
    /// When it came there, Unix milliseconds.
    pub at_ms: u64,
    /// How often it was redriven; nothing of that can be said of a document.
    pub redrives: Option<u32>,
    /// When the queue drops it, Unix milliseconds.
    pub expires_ms: Option<u64>,
}

/// A place while it is counted.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    reasons: Counts,
    errors: Counts,
    prefixes: Counts,
    tenants: Counts,
    redrives: Counts,
    ages: Spans,
    expiry: Spans,
    pub(super) inflow: Inflow,
    files: BTreeSet<u64>,
    whose: BTreeSet<String>,
    pub(super) matching: u64,
    pub(super) first_expires_ms: Option<u64>,
    /// Objects that were read, or messages that were received.
    pub read: u64,
    /// Of those, not within the time that was asked for.
    pub unmatched: u64,
    /// Of those, no letter or marker of ours.
    pub unreadable: u64,
    /// What the first of those said.
    pub trouble: Option<String>,
    /// Envelopes: their letters are in the DLQ.
    pub envelopes: u64,
}

impl Tally {
    /// Counts one.
    pub fn add(&mut self, item: &Item, now_ms: u64) {
        self.matching += 1;
        self.reasons.add(&item.reason);
        self.errors.add(&kind_of(&item.detail));
        // A message of several changes counts once for each folder and tenant.
        let folders: BTreeSet<String> = item.keys.iter().map(|key| prefix_of(key)).collect();
        folders.iter().for_each(|folder| self.prefixes.add(folder));
        let tenants: BTreeSet<&String> = item.tenants.iter().collect();
        tenants.iter().for_each(|tenant| self.tenants.add(tenant));
        if folders.is_empty() {
            self.prefixes.add(NONE);
        }
        if tenants.is_empty() {
            self.tenants.add(NONE);
        }
        for key in &item.keys {
            if self.files.len() < FILES {
                let mut hasher = DefaultHasher::new();
                key.hash(&mut hasher);
                self.files.insert(hasher.finish());
            }
        }
        for tenant in tenants {
            if self.whose.len() < FILES {
                self.whose.insert(tenant.clone());
            }
        }
        if let Some(redrives) = item.redrives {
            self.redrives.add(&redrives.to_string());
        }
        self.ages.add(now_ms.saturating_sub(item.at_ms));
        self.inflow.add(item.at_ms);
        if let Some(expires) = item.expires_ms {
            self.expiry.add(expires.saturating_sub(now_ms));
            self.first_expires_ms = Some(self.first_expires_ms.map_or(expires, |first| first.min(expires)));
        }
    }

    /// One that cannot be read.
    pub fn unreadable(&mut self, name: &str, why: &str) {
        self.unreadable += 1;
        self.trouble.get_or_insert_with(|| format!("{name}: {why}"));
    }

    /// As it is reported.
    pub fn place(self, name: &'static str, title: &'static str, there: u64, scale: Option<&Scale>) -> Place {
        Place {
            name,
            title,
            there,
            read: self.read,
            matching: self.matching,
            unmatched: self.unmatched,
            files: self.files.len() as u64,
            tenants: self.whose.len() as u64,
            unreadable: self.unreadable,
            trouble: self.trouble,
            envelopes: self.envelopes,
            by_reason: self.reasons.rows(),
            by_error: self.errors.rows(),
            by_prefix: self.prefixes.rows(),
            by_tenant: self.tenants.rows(),
            by_redrives: self.redrives.rows(),
            by_age: self.ages.rows(),
            by_time_to_expiry: self.expiry.rows(),
            inflow: scale.filter(|_| self.matching > 0).map(|scale| self.inflow.bars(scale)).unwrap_or_default(),
        }
    }
}

/// What was found in one place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Place {
    /// `dlq`, `archive`, `errored`.
    pub name: &'static str,
    /// For a person.
    #[serde(skip)]
    pub title: &'static str,
    /// Messages that the queue counts, or objects that are listed.
    pub there: u64,
    /// How many of them were looked at.
    pub read: u64,
    /// How many of those are within the time that was asked for: the tables count them.
    pub matching: u64,
    /// How many are not.
    pub unmatched: u64,
    /// Different source keys among them.
    pub files: u64,
    /// Different tenants among them.
    pub tenants: u64,
    /// Could not be read.
    pub unreadable: u64,
    /// What the first of those said.
    pub trouble: Option<String>,
    /// Objects of the archive whose letters are in the DLQ.
    pub envelopes: u64,
    /// By reason.
    pub by_reason: Vec<Row>,
    /// By the kind of the sentence that says why.
    pub by_error: Vec<Row>,
    /// By the first folder of the keys.
    pub by_prefix: Vec<Row>,
    /// By tenant.
    pub by_tenant: Vec<Row>,
    /// By how often they were redriven.
    pub by_redrives: Vec<Row>,
    /// By how long they have been there.
    pub by_age: Vec<Row>,
    /// By how long the queue still keeps them.
    pub by_time_to_expiry: Vec<Row>,
    /// When they came.
    pub inflow: Vec<Bar>,
}

impl Place {
    /// How much of it was looked at.
    pub fn said(&self) -> String {
        let Self { there, read, matching, unmatched, files, tenants, unreadable, envelopes, .. } = self;
        if *read == 0 && *there > 0 {
            return format!("{there} there, none looked at");
        }
        let mut said = format!("{read} of {there} looked at: {matching} match, {files} files of {tenants} tenants");
        for (number, what) in
            [(unmatched, "outside of the time"), (envelopes, "envelopes"), (unreadable, "cannot be read")]
        {
            if *number > 0 {
                let _ = write!(said, ", {number} {what}");
            }
        }
        said
    }

    /// The tables, with their titles.
    pub fn tables(&self) -> [(&'static str, &[Row]); 7] {
        [
            ("by reason", &self.by_reason),
            ("by error", &self.by_error),
            ("by tenant", &self.by_tenant),
            ("by folder", &self.by_prefix),
            ("by age", &self.by_age),
            ("by time to expiry", &self.by_time_to_expiry),
            ("by number of redrives", &self.by_redrives),
        ]
    }
}

/// What the queue says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct QueueCounts {
    /// Its URL.
    pub url: String,
    /// Approximate, as all of SQS's counts.
    pub visible: u64,
    /// Held by somebody.
    pub in_flight: u64,
    /// To be visible later.
    pub delayed: u64,
    /// How long it keeps a message, seconds.
    pub retention_s: u64,
}

/// All that was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    /// When, RFC 3339.
    pub at: String,
    /// Results bucket.
    pub results_bucket: String,
    /// Scope, of what errored.
    pub namespace: String,
    /// From when on, RFC 3339.
    pub since: Option<String>,
    /// Until when, RFC 3339.
    pub until: Option<String>,
    /// The dead-letter queue.
    pub queue: QueueCounts,
    /// Messages that were received for a sample, and returned; 0: nothing was received.
    pub received: u64,
    /// Of those, what SQS has not acknowledged as returned: they come back when their leases end.
    pub not_returned: u64,
    /// When SQS deletes the first of the sample.
    pub first_expires: Option<Expiry>,
    /// In the dead-letter queue, by the sample.
    pub dlq: Place,
    /// Given up on.
    pub archive: Place,
    /// Refused by the index, or its retry budget spent.
    pub errored: Place,
    /// How wide the bars of `inflow` are.
    pub inflow_scale: Option<Scale>,
}

impl Report {
    /// The three places.
    pub fn places(&self) -> [&Place; 3] {
        [&self.dlq, &self.archive, &self.errored]
    }

    /// Everything could be read.
    pub fn is_well(&self) -> bool {
        self.places().iter().all(|place| place.unreadable == 0)
    }

    /// What, when, and over which time.
    pub fn heading(&self) -> String {
        let since = self.since.as_deref().map(|since| format!(", since {since}")).unwrap_or_default();
        let until = self.until.as_deref().map(|until| format!(", until {until}")).unwrap_or_default();
        format!("{}, namespace {}{since}{until}", self.at, self.namespace)
    }

    /// The queue in sentences.
    pub fn queue_lines(&self) -> Vec<String> {
        let QueueCounts { url, visible, in_flight, delayed, retention_s } = &self.queue;
        let days = retention_s / 86_400;
        let mut lines = vec![format!(
            "dead-letter queue {url}: {visible} visible, {in_flight} in flight, {delayed} delayed (approximate); it keeps a \
             message for {days} days"
        )];
        lines.push(match (self.received, self.not_returned) {
            (0, _) => "nothing was received: --sample N looks at N of its letters, and costs each a receive".to_owned(),
            (received, 0) => format!("{received} were received for a sample (it cost each a receive), and returned"),
            (received, lost) => format!(
                "{received} were received for a sample (it cost each a receive); {lost} of the returns were not \
                 acknowledged: these come back when their leases end"
            ),
        });
        if let Some(first) = &self.first_expires {
            lines.push(format!("SQS deletes the first of the sample {}", first.text()));
        }
        lines
    }

    /// For a person.
    pub fn text(&self) -> String {
        let mut page = format!("{} ({})\n", printable(&self.results_bucket, 100), self.heading());
        for line in self.queue_lines() {
            let _ = writeln!(page, "{}", printable(&line, 1_000));
        }
        for place in self.places() {
            let _ = writeln!(page, "\n{}: {}", place.title, place.said());
            if let Some(trouble) = &place.trouble {
                let _ = writeln!(page, "  the first that cannot be read: {}", detail(trouble));
            }
            for (title, rows) in place.tables() {
                // All of one kind, and of none that says anything: no table is needed to know.
                if rows.is_empty() || rows.iter().all(|row| row.name == NONE) {
                    continue;
                }
                let _ = writeln!(page, "  {title}:");
                for Row { name, number } in rows.iter().filter(|row| row.number > 0) {
                    let _ = writeln!(page, "  {number:>9}  {}", printable(name, 120));
                }
            }
        }
        page
    }
}

/// The times of a report.
pub(super) fn written(ms: Option<u64>) -> Option<String> {
    ms.map(rfc3339)
}
