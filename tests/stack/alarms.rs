//! Alarms and the CloudWatch dashboard: each rests on a metric that is really emitted, and leads to a page of the runbook.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::metrics::{Kind, OURS, assert_emitted, is_emitted};
use crate::template::Template;

/// One for each line of what must be told; the anchor in deploy/RUNBOOK.md is the name.
const WANTED: [&str; 22] = [
    "dlq-not-empty",
    "dlq-rising",
    "dlq-age",
    "backlog-age",
    "in-flight-without-a-worker",
    "delete-failures",
    "dead-letter-failures",
    "park-failures",
    "parked-age",
    "errored",
    "breaker-open",
    "lease-lost",
    "returned-share",
    "received-again-share",
    "work-time",
    "books-out-of-balance",
    "heartbeat-failures",
    "superseded-share",
    "reconcile-missing",
    "no-progress",
    "no-worker",
    "workers-missing",
];

/// Name without the stack's, and properties.
fn alarms() -> Vec<(String, Value)> {
    let template = Template::with(&[("AlarmTopic", "arn:aws:sns:eu-central-1:111122223333:pager")]);
    let all = template.of_type("AWS::CloudWatch::Alarm").into_values();
    all.map(|alarm| (alarm["AlarmName"].as_str().unwrap().strip_prefix("quittance-").unwrap().to_owned(), alarm))
        .collect()
}

/// The metrics that an alarm rests on: `{Namespace, MetricName, Dimensions}`.
fn inputs(alarm: &Value) -> Vec<Value> {
    match alarm["Metrics"].as_array() {
        Some(metrics) => metrics.iter().filter_map(|one| Some(one.get("MetricStat")?["Metric"].clone())).collect(),
        None => vec![alarm.clone()],
    }
}

#[test]
fn every_alarm_that_is_wanted_is_there_and_leads_to_its_page() {
    let alarms = alarms();
    let names: BTreeSet<&str> = alarms.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, WANTED.into());
    let runbook = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/RUNBOOK.md")).ok();
    for (name, alarm) in &alarms {
        let said = alarm["AlarmDescription"].as_str().unwrap();
        assert!(said.ends_with(&format!(": deploy/RUNBOOK.md#{name}")), "{said}");
        assert_eq!(alarm["AlarmActions"], serde_json::json!(["arn:aws:sns:eu-central-1:111122223333:pager"]), "{name}");
        assert_eq!(alarm["OKActions"], alarm["AlarmActions"], "{name}: that it is over is told as well");
        // As Markdown makes anchors of headings.
        let anchor = |line: &str| {
            let heading = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            heading.replace(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'), "")
        };
        let has = |text: &String| {
            text.lines()
                .any(|line| line.starts_with('#') && anchor(line) == *name || line.contains(&format!("id=\"{name}\"")))
        };
        assert!(runbook.as_ref().is_none_or(has), "the runbook has no page #{name}");
    }
    let quiet = Template::with(&[]).of_type("AWS::CloudWatch::Alarm");
    assert!(quiet.values().all(|alarm| alarm.get("AlarmActions").is_none()), "without a topic nobody is told");
}

#[test]
fn every_alarm_rests_on_metrics_that_are_emitted() {
    for (name, alarm) in alarms() {
        let inputs = inputs(&alarm);
        assert!(!inputs.is_empty(), "{name}");
        inputs.iter().for_each(|metric| assert_emitted(metric, &name));
        let Some(metrics) = alarm["Metrics"].as_array() else {
            assert!(
                alarm["Period"].is_u64() && (alarm["Statistic"].is_string() || alarm["ExtendedStatistic"] == "p95"),
                "{name}"
            );
            continue;
        };
        // What is judged names every input, by its id, and nothing else.
        let (judged, stats): (Vec<_>, Vec<_>) = metrics.iter().partition(|metric| metric["ReturnData"] == true);
        let [judged] = judged[..] else { panic!("{name}: one result") };
        let ids: BTreeSet<&str> = stats.iter().map(|stat| stat["Id"].as_str().unwrap()).collect();
        let words = judged["Expression"].as_str().unwrap().split(|c: char| !c.is_ascii_alphabetic());
        let words: BTreeSet<&str> = words.filter(|word| !["", "IF", "FILL", "DIFF"].contains(word)).collect();
        assert_eq!(words, ids, "{name}");
        let periods: BTreeSet<u64> = stats.iter().map(|stat| stat["MetricStat"]["Period"].as_u64().unwrap()).collect();
        assert_eq!(periods.len(), 1, "{name}: a term for each instant");
    }
}

#[test]
fn missing_data_breaches_where_silence_is_the_trouble_and_nowhere_else() {
    for (name, alarm) in alarms() {
        let inputs = inputs(&alarm);
        let kinds: Vec<Kind> = inputs
            .iter()
            .filter_map(|input| OURS.iter().find(|(ours, _)| input["MetricName"] == *ours).map(|(_, kind)| *kind))
            .collect();
        let on_dlq = inputs.iter().any(|input| input["Dimensions"][0]["Value"] == "DeadLetterQueue.QueueName");
        let expected = match name.as_str() {
            _ if kinds.contains(&Kind::Liveness) => "breaching",
            // DIFF of nothing is no rise; what both sides say of nothing is nothing.
            "dlq-rising" | "in-flight-without-a-worker" => "notBreaching",
            _ if on_dlq || kinds.contains(&Kind::State) => "ignore",
            _ => "notBreaching",
        };
        assert_eq!(alarm["TreatMissingData"], expected, "{name}");
    }
}

#[test]
fn a_dead_letter_is_told_of_at_once_and_again_when_half_of_its_time_is_over() {
    let alarms = alarms();
    let alarm = |name: &str| &alarms.iter().find(|(other, _)| other == name).unwrap().1;
    let retention = Template::with(&[]).properties("DeadLetterQueue")["MessageRetentionPeriod"].as_u64().unwrap();
    assert_eq!(alarm("dlq-age")["Threshold"].as_u64().unwrap() * 2, retention);
    let first = alarm("dlq-not-empty");
    assert_eq!(
        (&first["Threshold"], &first["EvaluationPeriods"], &first["Period"]),
        (&0.into(), &1.into(), &60.into())
    );
    // Ten minutes, in periods of five: each worker says Up and MessagesInFlight once a minute.
    let stuck = alarm("in-flight-without-a-worker");
    assert_eq!((&stuck["EvaluationPeriods"], &stuck["Metrics"][0]["MetricStat"]["Period"]), (&2.into(), &300.into()));
    assert_eq!(stuck["Metrics"][2]["Expression"], "hidden - FILL(own, 0) / 5");
    assert_eq!(alarm("returned-share")["Threshold"], 1, "per cent");
}

#[test]
fn the_dashboard_shows_every_metric_and_only_what_is_emitted() {
    let dashboard = Template::with(&[]).properties("Dashboard");
    let body: Value = serde_json::from_str(dashboard["DashboardBody"].as_str().unwrap()).unwrap();
    let mut shown = BTreeSet::new();
    let mut places = BTreeSet::new();
    for widget in body["widgets"].as_array().unwrap() {
        assert!(
            places.insert([&widget["x"], &widget["y"]].map(|at| at.as_u64().unwrap())),
            "two at one place: {widget}"
        );
        for metric in widget["properties"]["metrics"].as_array().unwrap() {
            let text = |at: usize| metric[at].as_str().unwrap();
            assert!(is_emitted(text(0), text(1), text(2), text(3)), "nobody emits {metric}");
            shown.insert(text(1).to_owned());
        }
    }
    for (name, _) in OURS.iter().filter(|(name, _)| !["MessagesInFlight", "MessagesReceivedAgain"].contains(name)) {
        assert!(shown.contains(*name), "{name} is not shown");
    }
}
