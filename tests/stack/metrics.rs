//! The metrics that alarms and dashboards may rest on: those that a worker and `redrive reconcile` emit as EMF lines
//! (namespace `Quittance`, dimension `namespace`), and those of AWS that we use.

use serde_json::Value;

/// How a metric is spoken of while nothing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Events since the last line.
    Counter,
    /// How things are.
    State,
    /// That somebody is there, and moves.
    Liveness,
}

/// Name and kind.
pub const OURS: [(&str, Kind); 34] = {
    use Kind::{Counter, Liveness, State};
    [
        ("Up", Liveness),
        ("ProgressAge", Liveness),
        ("MessagesReceived", Counter),
        ("MessagesDeleted", Counter),
        ("MessagesDeadLettered", Counter),
        ("MessagesReturned", Counter),
        ("LeasesLost", Counter),
        ("MessagesInFlight", State),
        ("MessagesReceivedAgain", Counter),
        ("ChangesDone", Counter),
        ("ChangesSuperseded", Counter),
        ("ChangesSkipped", Counter),
        ("ChangesRetried", Counter),
        ("ChangesRejected", Counter),
        ("DocumentsIndexed", Counter),
        ("DocumentsParked", Counter),
        ("DocumentsFailed", Counter),
        ("DocumentsReplayed", Counter),
        ("DeleteFailures", Counter),
        ("DeadLetterFailures", Counter),
        ("ParkFailures", Counter),
        ("HeartbeatFailures", Counter),
        ("ReceiveFailures", Counter),
        ("CrashLoops", Counter),
        ("BreakerOpen", State),
        ("Paused", State),
        ("BooksOutOfBalance", State),
        ("WorkTime", Counter),
        ("ParkedDocuments", State),
        ("ParkedOldestAge", State),
        ("ErroredDocuments", State),
        ("ReconcileMissing", State),
        ("ReconcileStale", State),
        ("ReconcileOrphaned", State),
    ]
};

const QUEUES: [&str; 3] =
    ["ApproximateNumberOfMessagesVisible", "ApproximateNumberOfMessagesNotVisible", "ApproximateAgeOfOldestMessage"];

/// One of those above, with the dimension that it is emitted with.
pub fn is_emitted(namespace: &str, name: &str, dimension: &str, value: &str) -> bool {
    match namespace {
        "Quittance" => OURS.iter().any(|(ours, _)| *ours == name) && (dimension, value) == ("namespace", "default"),
        "AWS/SQS" => {
            let queues = ["MainQueue.QueueName", "DeadLetterQueue.QueueName", "quittance", "quittance-dlq"];
            QUEUES.contains(&name) && dimension == "QueueName" && queues.contains(&value)
        }
        "AWS/AutoScaling" => {
            (name, dimension, value) == ("GroupInServiceInstances", "AutoScalingGroupName", "quittance")
        }
        _ => false,
    }
}

/// The same for `{Namespace, MetricName, Dimensions}`.
pub fn assert_emitted(metric: &Value, of: &str) {
    let dimensions = metric["Dimensions"].as_array().unwrap();
    assert_eq!(dimensions.len(), 1, "{of}: {metric}");
    let [namespace, name] = ["Namespace", "MetricName"].map(|key| metric[key].as_str().unwrap());
    let [dimension, value] = ["Name", "Value"].map(|key| dimensions[0][key].as_str().unwrap());
    assert!(is_emitted(namespace, name, dimension, value), "{of}: nobody emits {metric}");
}

#[test]
fn the_metrics_are_those_that_the_code_emits() {
    let src = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    if !std::path::Path::new(src).join("metrics.rs").exists() {
        return; // they come with that file
    }
    let (mut folders, mut text) = (vec![std::path::PathBuf::from(src)], String::new());
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true => folders.push(path),
                // A test's word is no metric.
                false if path.file_name().is_some_and(|name| name == "tests.rs") => {}
                false => text += &std::fs::read_to_string(path).unwrap(),
            }
        }
    }
    let silent: Vec<_> = OURS.iter().filter(|(name, _)| !text.contains(&format!("\"{name}\""))).collect();
    assert!(silent.is_empty(), "no code emits {silent:?}");
}
