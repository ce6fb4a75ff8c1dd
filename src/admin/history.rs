//! The last quarter of an hour, in steps: the ledger and the work times as they stood at each.
//!
//! Promises bounded memory, and differences of the ledger's own numbers: nothing is counted here.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::metrics::{Histogram, Reading};

/// From one step to the next.
pub(super) const STEP: Duration = Duration::from_secs(10);
/// A quarter of an hour.
const STEPS: usize = 90;

/// What happened lately.
#[derive(Default)]
pub(super) struct History(Mutex<VecDeque<Reading>>);

impl History {
    /// A step.
    pub(super) fn note(&self, now: Reading) {
        let mut steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if steps.len() > STEPS {
            steps.pop_front();
        }
        steps.push_back(now);
    }

    /// What each step brought, the oldest first.
    pub(super) fn steps(&self) -> Vec<Value> {
        let steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        steps.iter().zip(steps.iter().skip(1)).map(|(before, after)| step(before, after)).collect()
    }

    /// Work times from the first step that is kept until now.
    pub(super) fn work(&self, now: &Reading) -> Histogram {
        let steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        steps.front().map_or_else(|| now.counts.work.clone(), |first| now.counts.work.since(&first.counts.work))
    }
}

fn step(before: &Reading, after: &Reading) -> Value {
    let (then, now) = (&before.books, &after.books);
    let work = after.counts.work.since(&before.counts.work);
    json!({
        "at_ms": after.now_ms,
        "ms": after.now_ms.saturating_sub(before.now_ms),
        "received": now.received - then.received,
        "deleted": now.deleted - then.deleted,
        "returned": now.returned - then.returned,
        "dead_lettered": now.dead_lettered - then.dead_lettered,
        "lease_lost": now.lease_lost - then.lease_lost,
        "work_p50_seconds": work.quantile(0.5),
        "work_p95_seconds": work.quantile(0.95),
    })
}
