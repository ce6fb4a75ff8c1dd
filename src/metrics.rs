//! Every metric, in one table: its Prometheus name, kind, labels and words, and its CloudWatch name where it has one.
//!
//! Promises that a number comes from the ledger, or from the very facts that the log tells (`meters` hears them as the log
//! does), so that none of them can disagree; that labels are words of ours, never a key or a bucket (T10); and that what is
//! not known is left out, not shown as 0. Knows no port and no format but the Prometheus text.

use std::fmt::Write as _;
use std::time::Duration;

use crate::books::BooksLine;
use crate::survey::Seen;

pub mod emf;
mod facts;
mod meters;
mod spread;

pub use facts::{Attached, Facts};
pub use meters::{Counts, Failure, Meters};
pub use spread::{Histogram, Sample};

/// All there is to measure, at one instant.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The ledger.
    pub books: BooksLine,
    /// What was heard of facts that the ledger does not hold.
    pub counts: Counts,
    /// Somebody holds intake.
    pub paused: bool,
    /// The critical breaker is open,
    pub critical_open: bool,
    /// or the index's.
    pub index_open: bool,
    /// Documents of a bulk request and requests outstanding, at most; `None`: there is no index.
    pub pace: Option<(usize, usize)>,
    /// What lies parked and dead-lettered, if somebody could look lately.
    pub seen: Seen,
    /// Since anything was settled while something was in hand.
    pub progress_age: Duration,
    /// Start of the process, Unix milliseconds.
    pub started_ms: u64,
    /// Now, Unix milliseconds.
    pub now_ms: u64,
}

/// As Prometheus calls them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    /// In `# TYPE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// Units of CloudWatch that are of use here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// A number of things.
    Count,
    /// A time.
    Seconds,
    /// 0 or 1.
    None,
}

impl Unit {
    /// As CloudWatch writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Unit::Count => "Count",
            Unit::Seconds => "Seconds",
            Unit::None => "None",
        }
    }
}

/// Where a CloudWatch metric takes its number from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Of {
    /// The one series, or the one of this label value.
    Series(&'static str),
    /// The largest of all series.
    Worst,
    /// 1 where the series is 0.
    Not,
    /// A fair sample of what was measured since the last line.
    Sample,
}

/// A metric of CloudWatch. A counter is told as what was added since the last line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Emf {
    /// Alarms hang on it.
    pub name: &'static str,
    /// Its unit.
    pub unit: Unit,
    /// Its number.
    pub of: Of,
}

/// How a metric is read.
pub enum Read {
    /// Label values (empty without a label) with their numbers; nothing where it is not known.
    Numbers(fn(&Reading) -> Vec<(&'static str, f64)>),
    /// A histogram.
    Spread(fn(&Reading) -> &Histogram),
}

/// A row of the table.
pub struct Metric {
    /// Of Prometheus, with its unit.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// The name of its label.
    pub label: Option<&'static str>,
    /// One sentence.
    pub help: &'static str,
    /// What CloudWatch is told of it.
    pub emf: &'static [Emf],
    /// Its numbers.
    pub read: Read,
}

const fn counted(name: &'static str) -> Emf {
    Emf { name, unit: Unit::Count, of: Of::Series("") }
}

const fn part(name: &'static str, value: &'static str) -> Emf {
    Emf { name, unit: Unit::Count, of: Of::Series(value) }
}

const fn lasting(name: &'static str) -> Emf {
    Emf { name, unit: Unit::Seconds, of: Of::Series("") }
}

fn one(value: u64) -> Vec<(&'static str, f64)> {
    vec![("", value as f64)]
}

fn each<const N: usize>(values: [(&'static str, u64); N]) -> Vec<(&'static str, f64)> {
    values.map(|(label, value)| (label, value as f64)).to_vec()
}

fn known(value: Option<f64>) -> Vec<(&'static str, f64)> {
    value.map(|value| ("", value)).into_iter().collect()
}

macro_rules! metric {
    ($kind:ident $name:literal $([$label:literal])?, $help:literal, $emf:expr, $read:expr) => {
        Metric {
            name: $name,
            kind: Kind::$kind,
            label: metric!(@label $($label)?),
            help: $help,
            emf: $emf,
            read: $read,
        }
    };
    (@label) => { None };
    (@label $label:literal) => { Some($label) };
}

/// All of them, in the order in which they are shown.
pub static TABLE: [Metric; 30] = [
    metric!(Counter "quittance_messages_received_total", "Receipts taken on.", &[counted("MessagesReceived")],
        Read::Numbers(|now| one(now.books.received))),
    metric!(Counter "quittance_messages_settled_total" ["settlement"], "Receipts that ended, by what SQS acknowledged.",
    &[part("MessagesDeleted", "deleted"), part("MessagesDeadLettered", "dead_lettered"),
      part("MessagesReturned", "returned"), part("LeasesLost", "lease_lost")],
    Read::Numbers(|now| each([
        ("deleted", now.books.deleted),
        ("dead_lettered", now.books.dead_lettered),
        ("returned", now.books.returned),
        ("lease_lost", now.books.lease_lost),
    ]))),
    metric!(Counter "quittance_messages_deleted_total" ["outcome"], "Deleted receipts, by outcome of their work.", &[],
    Read::Numbers(|now| each([
        ("done", now.books.done),
        ("superseded", now.books.superseded),
        ("skipped", now.books.skipped),
    ]))),
    metric!(Gauge "quittance_messages_in_flight", "Receipts in hand.", &[counted("MessagesInFlight")],
        Read::Numbers(|now| one(now.books.in_flight))),
    metric!(Counter "quittance_messages_received_again_total", "Receipts of messages that had been received before.",
        &[counted("MessagesReceivedAgain")], Read::Numbers(|now| one(now.counts.received_again))),
    metric!(Histogram "quittance_message_age_seconds", "Since it was sent, of a message when it is received.", &[],
        Read::Spread(|now| &now.counts.age)),
    metric!(Histogram "quittance_work_seconds", "In hand, from receive to settlement, of a message whose work came to a verdict.",
        &[Emf { name: "WorkTime", unit: Unit::Seconds, of: Of::Sample }], Read::Spread(|now| &now.counts.work)),
    metric!(Gauge "quittance_progress_age_seconds", "Since anything was settled, while something is in hand; else 0.",
        &[lasting("ProgressAge")], Read::Numbers(|now| known(Some(now.progress_age.as_secs_f64())))),
    metric!(Counter "quittance_changes_parsed_total", "Changes found in messages.", &[],
        Read::Numbers(|now| one(now.books.changes_parsed))),
    metric!(Counter "quittance_changes_total" ["outcome"], "Changes, by how their work ended.",
    &[part("ChangesDone", "done"), part("ChangesSuperseded", "superseded"), part("ChangesSkipped", "skipped"),
      part("ChangesRetried", "retried"), part("ChangesRejected", "rejected")],
    Read::Numbers(|now| each([
        ("done", now.books.changes_done),
        ("superseded", now.books.changes_superseded),
        ("skipped", now.books.changes_skipped),
        ("retried", now.books.changes_retried),
        ("rejected", now.books.changes_rejected),
        ("abandoned", now.books.changes_abandoned),
    ]))),
    metric!(Counter "quittance_documents_offered_total", "Documents offered to the index.", &[],
        Read::Numbers(|now| one(now.books.documents_offered))),
    metric!(Counter "quittance_documents_total" ["end"], "Documents, by what became of them at first.",
    &[part("DocumentsIndexed", "indexed"), part("DocumentsParked", "parked"), part("DocumentsFailed", "failed")],
    Read::Numbers(|now| each([
        ("indexed", now.books.documents_indexed),
        ("parked", now.books.documents_parked),
        ("failed", now.books.documents_failed),
    ]))),
    metric!(Counter "quittance_documents_replayed_total", "Parked documents that reached the index later.",
        &[counted("DocumentsReplayed")], Read::Numbers(|now| one(now.books.replayed))),
    metric!(Gauge "quittance_parked_documents", "Documents of the namespace that wait in `retry-index/`; absent where not known.",
        &[counted("ParkedDocuments")], Read::Numbers(|now| known(now.seen.parked.map(|lot| lot.markers as f64)))),
    metric!(Gauge "quittance_parked_oldest_age_seconds", "Age of the oldest record among them, 0 without any; absent where not known.",
        &[lasting("ParkedOldestAge")],
        Read::Numbers(|now| known(now.seen.parked.map(|lot| lot.oldest_age(now.now_ms).as_secs_f64())))),
    metric!(Gauge "quittance_errored_documents", "Documents of the namespace in `errored-index/`; absent where not known.",
        &[counted("ErroredDocuments")], Read::Numbers(|now| known(now.seen.errored.map(|lot| lot.markers as f64)))),
    metric!(Counter "quittance_receive_failures_total", "Polls that failed.", &[counted("ReceiveFailures")],
        Read::Numbers(|now| one(now.counts.receive_failures))),
    metric!(Counter "quittance_heartbeat_failures_total", "Leases whose extension failed, each time; it is tried again.",
        &[counted("HeartbeatFailures")], Read::Numbers(|now| one(now.counts.heartbeat_failures))),
    metric!(Counter "quittance_delete_failures_total", "Deletes that SQS does not acknowledge (`delete_failed`).",
        &[counted("DeleteFailures")], Read::Numbers(|now| one(now.counts.delete_failures))),
    metric!(Counter "quittance_dead_letter_failures_total", "Messages that could not be sent to the DLQ (`dead_letter_failed`).",
        &[counted("DeadLetterFailures")], Read::Numbers(|now| one(now.counts.dead_letter_failures))),
    metric!(Counter "quittance_park_failures_total", "Documents that could neither be indexed nor parked (`park_failed`).",
        &[counted("ParkFailures")], Read::Numbers(|now| one(now.counts.park_failures))),
    metric!(Counter "quittance_crash_loops_total", "Messages dead-lettered for killing their workers (`crash_loop`).",
        &[counted("CrashLoops")], Read::Numbers(|now| one(now.counts.crash_loops))),
    metric!(Gauge "quittance_breaker_open" ["which"], "1 while this breaker is open.",
    &[Emf { name: "BreakerOpen", unit: Unit::None, of: Of::Worst }],
    Read::Numbers(|now| each([
        ("critical", now.critical_open.into()),
        ("index", now.index_open.into()),
    ]))),
    metric!(Gauge "quittance_paused", "1 while intake is paused, by whomever.",
        &[Emf { name: "Paused", unit: Unit::None, of: Of::Series("") }], Read::Numbers(|now| one(now.paused.into()))),
    metric!(Gauge "quittance_index_batch_limit_documents", "Documents that a bulk request may have now; absent without an index.",
        &[], Read::Numbers(|now| known(now.pace.map(|(documents, _)| documents as f64)))),
    metric!(Gauge "quittance_index_requests_limit", "Bulk requests that may be outstanding now; absent without an index.",
        &[], Read::Numbers(|now| known(now.pace.map(|(_, requests)| requests as f64)))),
    metric!(Gauge "quittance_dead_letters", "Visible messages in the DLQ, as SQS estimates; absent where not known.", &[],
        Read::Numbers(|now| known(now.seen.dead_letters.map(|letters| letters.visible as f64)))),
    metric!(Gauge "quittance_books_balanced", "1 while the sums hold; 0 is a defect of ours (`out_of_balance`; exit code 70).",
        &[Emf { name: "BooksOutOfBalance", unit: Unit::None, of: Of::Not }],
        Read::Numbers(|now| one(now.books.balanced.into()))),
    metric!(Gauge "quittance_build_info" ["version"], "The running version.",
        &[Emf { name: "Up", unit: Unit::None, of: Of::Worst }],
        Read::Numbers(|_| vec![(env!("CARGO_PKG_VERSION"), 1.0)])),
    metric!(Gauge "quittance_start_time_seconds", "When this process started, in Unix seconds.", &[],
        Read::Numbers(|now| known(Some((now.started_ms / 1000) as f64)))),
];

/// The Prometheus text format, version 0.0.4. A family that is not known has no series.
pub fn prometheus(now: &Reading) -> String {
    let mut text = String::new();
    for Metric { name, kind, label, help, read, .. } in &TABLE {
        let help = help.replace('`', "");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str());
        match read {
            Read::Numbers(read) => {
                for (value, number) in read(now) {
                    let labels = label.map(|label| format!("{{{label}=\"{value}\"}}")).unwrap_or_default();
                    let _ = writeln!(text, "{name}{labels} {number}");
                }
            }
            Read::Spread(read) => read(now).write(name, &mut text),
        }
    }
    text
}

/// The table as README has it (a test compares them).
pub fn readme(now: &Reading) -> String {
    let mut text = String::from("| metric | kind | meaning | CloudWatch |\n|---|---|---|---|\n");
    for Metric { name, kind, label, help, emf, read } in &TABLE {
        let by = match (label, read) {
            (Some("version"), _) => " By `version`.".to_owned(),
            (Some(label), Read::Numbers(read)) => {
                let values: Vec<String> = read(now).iter().map(|(value, _)| format!("`{value}`")).collect();
                format!(" By `{label}`: {}.", values.join(", "))
            }
            (Some(_), Read::Spread(_)) | (None, _) => String::new(),
        };
        let emf: Vec<String> = emf.iter().map(|emf| format!("`{}`", emf.name)).collect();
        let _ = writeln!(text, "| `{name}` | {} | {help}{by} | {} |", kind.as_str(), emf.join(", "));
    }
    text
}

#[cfg(test)]
#[path = "metrics/tests.rs"]
mod tests;
