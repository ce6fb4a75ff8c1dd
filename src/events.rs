//! One type per fact: what is logged, under which name, with which fields (design §8).
//!
//! Promises that a fact's line has the same shape wherever it is told, and that no field holds a body, a receipt
//! handle or a secret. Knows no format: `telemetry` turns a fact into one line of JSON or text.

use serde::Serialize;

use crate::books::BooksLine;

/// A fact worth a line.
pub trait Event: Serialize {
    /// `event` in the line.
    const NAME: &'static str;
    /// ERROR: somebody must act. WARN: recovered. INFO: life cycle.
    const LEVEL: tracing::Level;

    /// Writes the line.
    fn emit(&self) {
        // A fact is plain data: serialising it cannot fail, and if it did, the name still stands.
        let fields = serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned());
        // tracing wants its level at compile time.
        match Self::LEVEL {
            tracing::Level::ERROR => tracing::error!(target: "quittance", fact = Self::NAME, fields),
            tracing::Level::WARN => tracing::warn!(target: "quittance", fact = Self::NAME, fields),
            _ => tracing::info!(target: "quittance", fact = Self::NAME, fields),
        }
    }
}

macro_rules! event {
    ($(#[$doc:meta])* $type:ident, $name:literal, $level:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Debug, Serialize)]
        #[allow(missing_docs, reason = "the fields are the contract of design §8 and are named there")]
        pub struct $type {
            $($(#[$field_doc])* #[serde(skip_serializing_if = "is_none")] pub $field: $kind,)*
        }
        impl Event for $type {
            const NAME: &'static str = $name;
            const LEVEL: tracing::Level = tracing::Level::$level;
        }
    };
}

/// Leaves out what is not there: `null` in a log line says nothing.
fn is_none<T: Serialize>(value: &T) -> bool {
    serde_json::to_value(value).is_ok_and(|value| value.is_null())
}

event!(
    /// Intake starts.
    Ready, "ready", INFO { queue_url: String, dlq_url: String, results_bucket: String, index: Option<String>, concurrency: usize, admin: Option<String>, }
);
event!(
    /// A receipt was taken on.
    MessageReceived, "message_received", INFO {
        message_id: String, receive_count: u32, sent_at: Option<String>, original_message_id: Option<String>,
    }
);
event!(
    /// A receipt's end.
    MessageSettled, "message_settled", INFO {
        message_id: String, receive_count: u32, outcome: &'static str, settlement: &'static str,
        reason: Option<&'static str>, detail: Option<String>, work_ids: Vec<String>, keys: Vec<String>, held_ms: u64, index: &'static str,
        original_message_id: Option<String>,
    }
);
event!(
    /// A delete was not acknowledged within the lease.
    DeleteFailed, "delete_failed", ERROR {
        message_id: String, tries: u32, detail: String, original_message_id: Option<String>,
    }
);
event!(
    /// A message could not be sent to the DLQ; it was returned.
    DeadLetterFailed, "dead_letter_failed", ERROR {
        message_id: String, reason: &'static str, detail: String, original_message_id: Option<String>,
    }
);
event!(
    /// A failed attempt could not be written down; the message is returned without a charge.
    AttemptNotRecorded, "attempt_not_recorded", WARN { message_id: String, detail: String, original_message_id: Option<String>, }
);
event!(
    /// A `begun` mark could not be written (the message is processed without it) or cleared (it stays).
    MarkFailed, "mark_failed", WARN {
        message_id: String, step: &'static str, detail: String, original_message_id: Option<String>,
    }
);
event!(
    /// A worker died at this message, or with it: it is processed alone.
    TakenAlone, "taken_alone", WARN {
        message_id: String, receive_count: u32, detail: String, original_message_id: Option<String>,
    }
);
event!(
    /// A message that has killed two workers is dead-lettered without being begun again.
    CrashLoop, "crash_loop", ERROR {
        message_id: String, receive_count: u32, detail: String, original_message_id: Option<String>,
    }
);
event!(
    /// A document could neither be indexed nor parked.
    ParkFailed, "park_failed", ERROR { document_id: String, key: String, detail: String, }
);
event!(
    /// A document was refused by the index and lies in `errored-index/`.
    DocumentErrored, "document_errored", WARN { document_id: String, key: String, revision: u64, reason: String, }
);
event!(
    /// Parked documents reached the index.
    ParkedReplayed, "parked_replayed", INFO { indexed: u64, errored: u64, stuck: u64, }
);
event!(
    /// Replay could not look, or some markers cannot be replayed by themselves.
    ReplayTrouble, "replay_trouble", WARN { detail: String, stuck: u64, }
);
event!(
    /// A breaker opened.
    BreakerOpened, "breaker_opened", ERROR { which: &'static str, detail: String, }
);
event!(
    /// A breaker closed.
    BreakerClosed, "breaker_closed", INFO { which: &'static str, open_ms: u64, suppressed: u64, }
);
event!(
    /// Intake and replay are paused.
    Paused, "paused", WARN { by: String, reason: String, }
);
event!(
    /// A pause was taken back; all goes on unless another still holds.
    Resumed, "resumed", INFO { by: String, still_paused_by: Option<String>, }
);
event!(
    /// A poll of the queue failed.
    ReceiveFailed, "receive_failed", WARN { detail: String, retry_in_ms: u64, }
);
event!(
    /// A lease ended while its message was in work.
    LeaseLost, "lease_lost", WARN { message_id: String, detail: String, original_message_id: Option<String>, }
);
event!(
    /// An extension of leases failed and is tried again.
    ExtendFailed, "extend_failed", WARN { messages: usize, detail: String, }
);
event!(
    /// The process was asked to stop.
    Stopping, "stopping", INFO { signal: &'static str, in_flight: u64, drain_seconds: u64, }
);
event!(
    /// Work was cancelled at the drain deadline or by a second signal.
    Abandoning, "abandoning", WARN { why: &'static str, in_flight: u64, }
);
event!(
    /// `RELOAD_FILE` was read again (SIGHUP), and what it says holds from now on.
    Reloaded, "reloaded", INFO {
        log_level: String, concurrency: usize, drain_seconds: u64, max_attempts: u32, retry_base_seconds: u64,
        retry_max_seconds: u64, detail: Option<String>,
    }
);
event!(
    /// It was read again, and nothing was changed.
    ReloadFailed, "reload_failed", ERROR { detail: String, }
);
event!(
    /// The watchdog is not fed: something that must always answer does not.
    Stalled, "stalled", ERROR { detail: String, }
);
event!(
    /// The books do not balance: a defect of ours.
    OutOfBalance, "out_of_balance", ERROR { detail: String, }
);
event!(
    /// The settler's own code failed: the process ends, and the leases with it.
    SettlerBroke, "settler_broke", ERROR { detail: String, }
);
event!(
    /// A reconciliation has ended.
    Reconciled, "reconciled", INFO {
        bucket: String, prefix: String, complete: bool, objects: u64, records: u64, well: u64, young: u64, parked: u64,
        errored: u64, too_large: u64, unclear: u64, missing: u64, stale: u64, orphaned: u64, repaired_messages: u64,
        repaired_parked: u64, ms: u64,
    }
);
event!(
    /// How far a migration of the index is, every ten seconds and at each of its steps.
    IndexMigration, "index_migration", INFO {
        phase: &'static str, from: String, to: String, listed: u64, brought: u64, compared: u64, refused: u64, unclear: u64,
        without_record: u64,
    }
);
event!(
    /// A record or document that a migration cannot bring into the next index.
    MigrationTrouble, "migration_trouble", WARN { name: String, detail: String, }
);
event!(
    /// Something to know at start.
    Notice, "notice", WARN { detail: String, }
);

impl Event for BooksLine {
    const NAME: &'static str = "books";
    const LEVEL: tracing::Level = tracing::Level::INFO;
}
