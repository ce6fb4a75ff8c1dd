use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use tracing_subscriber::layer::SubscriberExt as _;

use super::emf::{MetricsLine, nothing_reconciled};
use super::*;
use crate::books::{Books, End};
use crate::clock::{WallClock, rfc3339};
use crate::events::{self, Event as _};
use crate::outcome::OutcomeName;
use crate::survey::{Letters, Lot};

const NOW_MS: u64 = 1_795_305_600_000;

struct Standing;

impl WallClock for Standing {
    fn unix_ms(&self) -> u64 {
        NOW_MS
    }
}

fn meters() -> Arc<Meters> {
    Meters::new(Arc::default(), Arc::new(Standing))
}

/// Everything known, everything 0.
fn reading(meters: &Meters) -> Reading {
    let lot = Lot { markers: 0, more: false, oldest_ms: None };
    let letters = Letters { visible: 0, hidden: 0, retention: Duration::from_secs(60) };
    Reading {
        books: meters.books.snapshot(false),
        counts: meters.counts(),
        paused: false,
        critical_open: false,
        index_open: false,
        pace: Some((0, 0)),
        seen: Seen { parked: Some(lot), errored: Some(lot), dead_letters: Some(letters) },
        progress_age: meters.progress_age(),
        started_ms: 0,
        now_ms: NOW_MS,
    }
}

fn hearing<T>(meters: &Arc<Meters>, tell: impl FnOnce() -> T) -> T {
    tracing::subscriber::with_default(tracing_subscriber::registry().with(meters.layer()), tell)
}

fn received(id: &str, receive_count: u32, age_ms: u64) -> events::MessageReceived {
    let sent_at = Some(rfc3339(NOW_MS - age_ms));
    events::MessageReceived { message_id: id.into(), receive_count, sent_at, original_message_id: None }
}

fn settled(
    id: &str,
    outcome: &'static str,
    settlement: &'static str,
    reason: Option<&'static str>,
) -> events::MessageSettled {
    events::MessageSettled {
        message_id: id.into(),
        receive_count: 1,
        outcome,
        settlement,
        reason,
        detail: reason.map(|_| "why".to_owned()),
        work_ids: vec![],
        keys: vec!["a\"}\n# x{y=\"\u{202e}".into()],
        held_ms: 700,
        index: "none",
        original_message_id: None,
    }
}

fn has(text: &str, wanted: &str) {
    assert!(text.lines().any(|line| line == wanted), "{wanted} is not in:\n{text}");
}

#[test]
fn a_scrape_shows_the_books_of_that_instant_and_whether_they_balance() {
    let meters = meters();
    let number = meters.books.received();
    let text = prometheus(&reading(&meters));
    for line in ["quittance_messages_received_total 1", "quittance_messages_in_flight 1", "quittance_books_balanced 1"]
    {
        has(&text, line);
    }
    meters.books.settled(number, End::Deleted, OutcomeName::Done);
    meters.books.settled(number, End::Returned, OutcomeName::Done);
    let text = prometheus(&reading(&meters));
    for line in [
        "quittance_messages_settled_total{settlement=\"deleted\"} 1",
        "quittance_messages_deleted_total{outcome=\"done\"} 1",
        "quittance_books_balanced 0",
    ] {
        has(&text, line);
    }
}

#[test]
fn every_field_of_the_books_has_a_series_of_its_own() {
    let books = serde_json::to_value(BooksLine::default()).unwrap();
    let numbers: serde_json::Map<_, _> = books
        .as_object()
        .unwrap()
        .iter()
        .enumerate()
        .map(|(at, (name, old))| (name.clone(), if old.is_u64() { (1000 + at).into() } else { old.clone() }))
        .collect();
    let books: BooksLine = serde_json::from_value(numbers.clone().into()).unwrap();
    let text = prometheus(&Reading { books, ..reading(&meters()) });
    for (name, value) in numbers.iter().filter(|(_, value)| value.is_u64()) {
        let found = text.lines().filter(|line| line.ends_with(&format!(" {value}"))).count();
        assert_eq!(found, 1, "{name}:\n{text}");
    }
}

#[test]
fn every_fact_that_is_counted_moves_its_metric_with_its_line_whatever_the_log_level_is() {
    let text = String::new;
    let meters = meters();
    hearing(&meters, || {
        received("a", 1, 2_000).emit();
        received("a", 2, 400_000).emit();
        settled("a", "done", "deleted", None).emit();
        settled("b", "cancelled", "returned", None).emit();
        events::ReceiveFailed { detail: text(), retry_in_ms: 1 }.emit();
        events::ExtendFailed { messages: 7, detail: text() }.emit();
        events::DeleteFailed { message_id: text(), tries: 1, detail: text(), original_message_id: None }.emit();
        let original_message_id = None;
        events::DeadLetterFailed { message_id: text(), reason: "limit", detail: text(), original_message_id }.emit();
        events::ParkFailed { document_id: text(), key: text(), detail: text() }.emit();
        let crash = |count| events::CrashLoop {
            message_id: text(),
            receive_count: count,
            detail: text(),
            original_message_id: None,
        };
        crash(7).emit();
    });
    let told = prometheus(&reading(&meters));
    for line in [
        "quittance_messages_received_again_total 1",
        "quittance_message_age_seconds_bucket{le=\"5\"} 1",
        "quittance_message_age_seconds_count 2",
        "quittance_work_seconds_bucket{le=\"0.5\"} 0",
        "quittance_work_seconds_bucket{le=\"1\"} 1",
        "quittance_work_seconds_sum 0.7",
        "quittance_receive_failures_total 1",
        "quittance_heartbeat_failures_total 7",
        "quittance_delete_failures_total 1",
        "quittance_dead_letter_failures_total 1",
        "quittance_park_failures_total 1",
        "quittance_crash_loops_total 1",
    ] {
        has(&told, line);
    }
    assert_eq!(meters.take_sample(), [0.7], "what was cut short says nothing of work");
}

#[test]
fn what_is_not_known_is_left_out() {
    let unknown = Reading { pace: None, seen: Seen::default(), ..reading(&meters()) };
    let names = ["parked_documents", "parked_oldest_age", "errored_documents", "limit", "dead_letters "];
    for line in prometheus(&unknown).lines().filter(|line| !line.starts_with('#')) {
        assert!(names.iter().all(|name| !line.contains(name)), "{line}");
    }
    let MetricsLineParts { metrics, .. } = parts(&MetricsLine::of_worker(&unknown, None, &[]));
    let told = |name: &&str| metrics.iter().any(|other| other == name);
    assert!(!["ParkedDocuments", "ParkedOldestAge", "ErroredDocuments", "WorkTime"].iter().any(told));
}

#[test]
fn no_key_message_or_bucket_makes_a_series_however_many_there_are() {
    let meters = meters();
    let before = prometheus(&reading(&meters)).lines().count();
    hearing(&meters, || {
        for number in 0..10_000 {
            let id = format!("id-{number}\n# x");
            received(&id, 2, 5).emit();
            settled(&id, "rejected", "dead_lettered", Some("malformed")).emit();
            events::ParkFailed { document_id: id.clone(), key: id.clone(), detail: id }.emit();
        }
    });
    let told = prometheus(&reading(&meters));
    assert_eq!(told.lines().count(), before);
    assert!(!told.contains("id-"), "{told}");
    let failures = meters.failures();
    let counts: Vec<_> = failures.iter().map(|(reason, number, last)| (reason.as_str(), *number, last.len())).collect();
    assert_eq!(counts, [("malformed", 10_000, 5), ("park_failed", 10_000, 5)], "and what is kept is bounded");
    assert_eq!(failures[0].2[0].message_id.as_deref(), Some("id-9999\n# x"), "the last is the first");
}

#[tokio::test(start_paused = true)]
async fn progress_has_an_age_only_while_something_is_in_hand() {
    let meters = meters();
    let pass = |seconds| tokio::time::advance(Duration::from_secs(seconds));
    let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(meters.layer()));
    let age = || meters.progress_age().as_secs();
    pass(1_000).await;
    assert_eq!(age(), 0, "nothing to do");
    let first = meters.books.received();
    received("a", 1, 0).emit();
    pass(30).await;
    assert_eq!(age(), 30, "it began when there was something to do");
    let second = meters.books.received();
    received("b", 1, 0).emit();
    pass(30).await;
    assert_eq!(age(), 60);
    meters.books.settled(first, End::Deleted, OutcomeName::Done);
    settled("a", "done", "deleted", None).emit();
    pass(5).await;
    assert_eq!(age(), 5, "something was settled");
    meters.books.settled(second, End::Deleted, OutcomeName::Done);
    settled("b", "done", "deleted", None).emit();
    pass(500).await;
    assert_eq!(age(), 0);
    meters.books.received();
    received("c", 1, 0).emit();
    assert_eq!(age(), 0, "after an idle time it begins anew");
    drop(guard);
}

/// A line of the format, read strictly.
struct MetricsLineParts {
    metrics: Vec<String>,
    line: Value,
}

/// By the specification of the format: <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>
fn parts(line: &MetricsLine) -> MetricsLineParts {
    let line = serde_json::to_value(line).unwrap();
    let aws = line["_aws"].as_object().unwrap();
    assert_eq!(aws.keys().collect::<Vec<_>>(), ["CloudWatchMetrics", "Timestamp"]);
    assert_eq!(aws["Timestamp"], NOW_MS);
    let directives = aws["CloudWatchMetrics"].as_array().unwrap();
    assert_eq!(directives.len(), 1);
    let directive = &directives[0];
    assert_eq!((&directive["Namespace"], &directive["Dimensions"]), (&json!("Quittance"), &json!([["namespace"]])));
    let definitions = directive["Metrics"].as_array().unwrap();
    assert!((1..=100).contains(&definitions.len()), "{}", definitions.len());
    let mut metrics = Vec::new();
    for definition in definitions {
        let name = definition["Name"].as_str().unwrap();
        assert!((1..=1024).contains(&name.len()) && name.is_ascii());
        assert!(["Count", "Seconds", "None"].iter().any(|unit| definition["Unit"] == *unit), "{definition}");
        match &line[name] {
            Value::Number(_) => {}
            Value::Array(values) => {
                assert!((1..=100).contains(&values.len()) && values.iter().all(Value::is_number), "{name}: {values:?}");
            }
            other => panic!("{name} is {other}"),
        }
        metrics.push(name.to_owned());
    }
    let told: BTreeSet<_> = metrics.iter().cloned().chain(["_aws".to_owned()]).collect();
    assert_eq!(told.len(), metrics.len() + 1, "a name is told twice: {metrics:?}");
    assert_eq!(told, line.as_object().unwrap().keys().cloned().collect(), "what is there is told, and nothing else");
    MetricsLineParts { metrics, line }
}

/// Alarms hang on these.
const AGREED: [&str; 31] = [
    "Up",
    "MessagesReceived",
    "MessagesDeleted",
    "MessagesDeadLettered",
    "MessagesReturned",
    "LeasesLost",
    "MessagesInFlight",
    "MessagesReceivedAgain",
    "ChangesDone",
    "ChangesSuperseded",
    "ChangesSkipped",
    "ChangesRetried",
    "ChangesRejected",
    "DocumentsIndexed",
    "DocumentsParked",
    "DocumentsFailed",
    "DocumentsReplayed",
    "DeleteFailures",
    "DeadLetterFailures",
    "ParkFailures",
    "HeartbeatFailures",
    "ReceiveFailures",
    "CrashLoops",
    "BreakerOpen",
    "Paused",
    "BooksOutOfBalance",
    "WorkTime",
    "ParkedDocuments",
    "ParkedOldestAge",
    "ErroredDocuments",
    "ProgressAge",
];

#[test]
fn every_name_that_alarms_hang_on_is_in_the_table_and_is_emitted_and_the_line_is_valid() {
    let table: BTreeSet<&str> = TABLE.iter().flat_map(|metric| metric.emf).map(|emf| emf.name).collect();
    assert_eq!(table, AGREED.into());
    let sample: Vec<f64> = (0..100).map(f64::from).collect();
    let emitted = parts(&MetricsLine::of_worker(&reading(&meters()), None, &sample));
    assert_eq!(emitted.metrics.iter().map(String::as_str).collect::<BTreeSet<_>>(), AGREED.into());
    assert_eq!((&emitted.line["Up"], &emitted.line["BooksOutOfBalance"]), (&json!(1), &json!(0)));

    let ended = events::Reconciled { missing: 3, orphaned: 1, ..nothing_reconciled() };
    let emitted = parts(&MetricsLine::of_reconciliation(NOW_MS, &ended));
    assert_eq!(emitted.metrics, ["ReconcileMissing", "ReconcileStale", "ReconcileOrphaned"]);
    assert_eq!((&emitted.line["ReconcileMissing"], &emitted.line["ReconcileStale"]), (&json!(3), &json!(0)));
}

#[test]
fn counters_are_told_as_what_came_since_the_line_before_and_gauges_as_they_are() {
    let books = Arc::new(Books::default());
    let meters = Meters::new(Arc::clone(&books), Arc::new(Standing));
    let numbers: Vec<_> = (0..5).map(|_| books.received()).collect();
    let first = reading(&meters);
    books.settled(numbers[0], End::Deleted, OutcomeName::Done);
    books.received();
    let mut second = reading(&meters);
    second.index_open = true;
    second.books.balanced = false;
    second.seen.parked = Some(Lot { markers: 4, more: false, oldest_ms: Some(NOW_MS - 90_500) });
    let told = |now: &Reading, before: Option<&Reading>| {
        let line = parts(&MetricsLine::of_worker(now, before, &[])).line;
        ["MessagesReceived", "MessagesDeleted", "MessagesInFlight", "BreakerOpen", "BooksOutOfBalance"]
            .map(|name| line[name].as_u64().unwrap())
    };
    assert_eq!(told(&first, None), [5, 0, 5, 0, 0]);
    assert_eq!(told(&second, Some(&first)), [1, 1, 5, 1, 1]);
    assert_eq!(told(&second, Some(&second)), [0, 0, 5, 1, 1]);
    let line = parts(&MetricsLine::of_worker(&second, None, &[])).line;
    assert_eq!((&line["ParkedDocuments"], &line["ParkedOldestAge"]), (&json!(4), &json!(90.5)));
}

#[test]
fn the_table_in_the_readme_is_the_metrics() {
    let table = readme(&reading(&meters()));
    let found = include_str!("../../README.md").contains(&table);
    assert!(found, "README.md does not have this table:\n{table}");
}
