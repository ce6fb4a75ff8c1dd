//! The Grafana dashboard: it is one, and every query names metrics that the worker has.

use std::collections::BTreeSet;

use serde_json::Value;

const DASHBOARD: &str = include_str!("../../deploy/grafana-dashboard.json");

/// What comes with src/metrics.rs; while that is not there.
const TO_COME: [&str; 18] = [
    "quittance_breaker_open",
    "quittance_crash_loops_total",
    "quittance_dead_letter_failures_total",
    "quittance_dead_letters",
    "quittance_delete_failures_total",
    "quittance_errored_documents",
    "quittance_heartbeat_failures_total",
    "quittance_index_batch_limit_documents",
    "quittance_index_requests_limit",
    "quittance_message_age_seconds",
    "quittance_messages_received_again_total",
    "quittance_park_failures_total",
    "quittance_parked_documents",
    "quittance_parked_oldest_age_seconds",
    "quittance_paused",
    "quittance_progress_age_seconds",
    "quittance_receive_failures_total",
    "quittance_work_seconds",
];

const HISTOGRAMS: [&str; 2] = ["quittance_work_seconds", "quittance_message_age_seconds"];

/// Names in a text, without what a histogram adds to its own.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let names = words.filter(|word| word.starts_with("quittance_") && !word.ends_with('_'));
    names.map(|name| name.trim_end_matches("_bucket").to_owned()).collect()
}

fn known() -> BTreeSet<String> {
    let source = |file: &str| std::fs::read_to_string(format!("{}/src/{file}", env!("CARGO_MANIFEST_DIR"))).ok();
    match source("metrics.rs") {
        Some(table) => names(&table),
        None => names(&source("admin.rs").unwrap()).into_iter().chain(TO_COME.map(str::to_owned)).collect(),
    }
}

fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).unwrap()
}

fn expressions(at: &Value) -> Vec<String> {
    match at {
        Value::Object(map) => {
            let own = map.get("expr").and_then(Value::as_str).map(str::to_owned);
            own.into_iter().chain(map.values().flat_map(expressions)).collect()
        }
        Value::Array(items) => items.iter().flat_map(expressions).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn every_query_names_metrics_that_there_are_of_the_chosen_instances() {
    let (known, all) = (known(), expressions(&dashboard()));
    assert!(all.len() > 20, "{}", all.len());
    for expression in &all {
        let names = names(expression);
        assert!(!names.is_empty() && names.is_subset(&known), "{expression}");
        let chosen = expression.matches(r#"{job=~"$job",instance=~"$instance""#).count();
        assert_eq!(chosen, expression.matches("quittance_").count(), "{expression}");
        for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
            assert_eq!(expression.matches(open).count(), expression.matches(close).count(), "{expression}");
        }
        // A counter is shown as what it does in a time, never as it stands.
        let counters =
            names.iter().filter(|name| name.ends_with("_total") || HISTOGRAMS.contains(&name.as_str())).count();
        assert_eq!(
            expression.matches("rate(").count() + expression.matches("increase(").count(),
            counters,
            "{expression}"
        );
    }
}

#[test]
fn every_metric_of_the_worker_is_shown() {
    let shown: BTreeSet<String> = expressions(&dashboard()).iter().flat_map(|expression| names(expression)).collect();
    assert_eq!(known().difference(&shown).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn panels_have_ids_and_places_of_their_own_and_any_prometheus_will_do() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "ids");
    let mut taken = BTreeSet::new();
    for panel in panels {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(x + w <= 24, "{panel}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{} lies on another", panel["title"]);
        }
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
            let targets = panel["targets"].as_array().unwrap();
            let refs: BTreeSet<&str> = targets.iter().map(|target| target["refId"].as_str().unwrap()).collect();
            assert!(!refs.is_empty() && refs.len() == targets.len(), "{}", panel["title"]);
        }
    }
    let annotations = dashboard["annotations"]["list"].as_array().unwrap();
    assert!(annotations.iter().any(|one| one["expr"].as_str().unwrap().starts_with("quittance_start_time_seconds")));
}
