//! Whether a worker can do its work now: SQS and S3 answered its own calls lately.
//!
//! Promises that nobody is asked for it, and that OpenSearch never fails it (P4): it is told. A pause and a drain are told
//! too; they are somebody's will, and no fault.

use crate::metrics::{Facts, Reading};

/// What `/readyz` says.
pub(super) struct Readiness {
    /// Why not; empty: it is.
    pub(super) reasons: Vec<String>,
    /// What else there is to know.
    pub(super) notes: Vec<String>,
}

impl Readiness {
    pub(super) fn of(facts: &Facts, now: &Reading) -> Self {
        let (gate, mut reasons, mut notes) = (facts.gate.seen(), Vec::new(), Vec::new());
        if facts.attached.get().is_none() {
            reasons.push("starting: intake has not begun".to_owned());
        }
        if let Some(trouble) = gate.queue_trouble {
            reasons.push(format!("sqs: polls fail: {trouble}"));
        }
        if let Some(trouble) = gate.store_trouble {
            reasons.push(format!("s3: the results bucket does not answer: {trouble}"));
        }
        if gate.is_shut {
            reasons.push("s3: the critical breaker is open (its line breaker_opened says why)".to_owned());
        }
        notes.push(match (&facts.lane, now.index_open) {
            (None, _) => "opensearch: skipped (SKIP_OPENSEARCH): documents are parked".to_owned(),
            (Some(_), true) => "opensearch: its breaker is open: documents are parked".to_owned(),
            (Some(_), false) => "opensearch: well".to_owned(),
        });
        notes.extend(
            gate.holds.into_iter().map(|hold| format!("paused: by {} ({}): {}", hold.by, hold.hand, hold.reason)),
        );
        if facts.attached.get().is_some_and(|attached| attached.stop.is_cancelled()) {
            notes.push("draining: it was asked to stop".to_owned());
        }
        Self { reasons, notes }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.reasons.is_empty()
    }

    pub(super) fn text(&self) -> String {
        let first = if self.is_ready() { "ready" } else { "not ready" };
        let lines = self.reasons.iter().chain(&self.notes);
        lines.fold(first.to_owned() + "\n", |text, line| text + line + "\n")
    }
}
