//! The metrics as CloudWatch reads them out of a log: once a minute a line of its own, in the embedded metric format.
//!
//! Promises the limits of the specification (100 metrics in a line, 100 values of a metric; "CloudWatch embedded metric
//! format specification", 2026), that every name of the table is in each line whose number is known, and that counters are
//! told as what was added since the line before, also in the last line of a process. One dimension, `namespace`, which every
//! line of the log has. Knows no CloudWatch: an agent ships the lines.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{Emf, Facts, Kind, Metric, Of, Read, Reading, TABLE, Unit};
use crate::events::{Event, Reconciled};
use crate::telemetry;

/// Between two lines.
const EVERY: Duration = Duration::from_secs(60);
/// CloudWatch's name for all that is ours.
const NAMESPACE: &str = "Quittance";
/// The field of every line that tells workers of different namespaces apart.
const DIMENSION: &str = "namespace";

/// One line, event `metrics`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct MetricsLine(Map<String, Value>);

impl Event for MetricsLine {
    const NAME: &'static str = "metrics";
    const LEVEL: tracing::Level = tracing::Level::INFO;

    /// Under a target of its own: who asked for these lines gets them whatever `LOG_LEVEL` is, and always as JSON.
    fn emit(&self) {
        let fields = serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned());
        tracing::info!(target: telemetry::METRICS, fact = Self::NAME, fields);
    }
}

impl MetricsLine {
    fn of(now_ms: u64, metrics: Vec<(&'static str, Unit, Value)>) -> Self {
        let definitions: Vec<Value> =
            metrics.iter().map(|(name, unit, _)| json!({ "Name": name, "Unit": unit.as_str() })).collect();
        let directive = json!({ "Namespace": NAMESPACE, "Dimensions": [[DIMENSION]], "Metrics": definitions });
        let mut line = Map::new();
        line.insert("_aws".into(), json!({ "Timestamp": now_ms, "CloudWatchMetrics": [directive] }));
        line.extend(metrics.into_iter().map(|(name, _, value)| (name.to_owned(), value)));
        Self(line)
    }

    /// The line of a worker; `before`: as it was at the line before.
    pub fn of_worker(now: &Reading, before: Option<&Reading>, sample: &[f64]) -> Self {
        let mut metrics = Vec::new();
        for Metric { kind, emf, read, .. } in &TABLE {
            for Emf { name, unit, of } in *emf {
                let value = match read {
                    Read::Spread(_) => (!sample.is_empty()).then(|| json!(sample)),
                    Read::Numbers(read) => {
                        let then =
                            before.filter(|_| *kind == Kind::Counter).and_then(|before| pick(&read(before), *of));
                        pick(&read(now), *of).map(|now| number(now - then.unwrap_or(0.0)))
                    }
                };
                metrics.extend(value.map(|value| (*name, *unit, value)));
            }
        }
        Self::of(now.now_ms, metrics)
    }

    /// The line of a reconciliation, at its end.
    pub fn of_reconciliation(now_ms: u64, ended: &Reconciled) -> Self {
        let found = |name, number: u64| (name, Unit::Count, json!(number));
        let Reconciled { missing, stale, orphaned, .. } = ended;
        let metrics = [
            found("ReconcileMissing", *missing),
            found("ReconcileStale", *stale),
            found("ReconcileOrphaned", *orphaned),
        ];
        Self::of(now_ms, metrics.to_vec())
    }
}

fn pick(series: &[(&'static str, f64)], of: Of) -> Option<f64> {
    let series: BTreeMap<_, _> = series.iter().copied().collect();
    match of {
        Of::Series(label) => series.get(label).copied(),
        Of::Worst => series.values().copied().reduce(f64::max),
        Of::Not => series.values().next().map(|value| f64::from(u8::from(*value == 0.0))),
        Of::Sample => None,
    }
}

/// Whole numbers without a point.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 { json!(value as i64) } else { json!(value) }
}

/// Tells them.
pub struct Teller {
    facts: Arc<Facts>,
    before: Mutex<Option<Reading>>,
}

impl Teller {
    /// Nothing told yet.
    pub fn new(facts: Arc<Facts>) -> Self {
        Self { facts, before: Mutex::default() }
    }

    /// One line now.
    pub fn tell(&self) {
        let now = self.facts.reading();
        let sample = self.facts.meters.take_sample();
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner).replace(now.clone());
        MetricsLine::of_worker(&now, before.as_ref(), &sample).emit();
    }

    /// Every minute, until the process ends.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval_at(Instant::now() + EVERY, EVERY);
        loop {
            ticks.tick().await;
            self.tell();
        }
    }
}

#[cfg(test)]
pub(crate) fn nothing_reconciled() -> Reconciled {
    Reconciled {
        bucket: String::new(),
        prefix: String::new(),
        complete: true,
        objects: 0,
        records: 0,
        well: 0,
        young: 0,
        parked: 0,
        errored: 0,
        too_large: 0,
        unclear: 0,
        missing: 0,
        stale: 0,
        orphaned: 0,
        repaired_messages: 0,
        repaired_parked: 0,
        ms: 0,
    }
}
