//! Where a running worker can be looked at: its ledger, its gate, its lane, what was heard and what was seen.
//!
//! Promises that a look changes nothing and costs the worker next to nothing. Keeps no numbers of its own.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use super::{Meters, Reading};
use crate::clock::WallClock;
use crate::gate::Gate;
use crate::index::bulk::Lane;
use crate::lease::Pulse;
use crate::message::s3_event::Wanted;
use crate::survey::Survey;

/// One running worker.
pub struct Facts {
    /// What was heard, and the ledger.
    pub meters: Arc<Meters>,
    /// Whether intake is held, and by what.
    pub gate: Arc<Gate>,
    /// The way into the index; `None` with `SKIP_OPENSEARCH`.
    pub lane: Option<Lane>,
    /// What lies parked and dead-lettered.
    pub survey: Arc<Survey>,
    /// For ages and times.
    pub clock: Arc<dyn WallClock>,
    /// Start of the process, Unix milliseconds.
    pub started_ms: u64,
    /// Of this process, as in its log.
    pub run_id: String,
    /// Scope of ids.
    pub namespace: String,
    /// How events are read: for the keys of what is in hand.
    pub wanted: Wanted,
    /// Known once intake starts.
    pub attached: OnceLock<Attached>,
}

/// What is there once intake starts.
pub struct Attached {
    /// To ask the settler what it holds.
    pub pulse: Pulse,
    /// Cancelled when the worker was asked to stop.
    pub stop: CancellationToken,
}

impl Facts {
    /// All there is to measure, now.
    pub fn reading(&self) -> Reading {
        // Breakers as they stand, not by their lines: two that are written at once may cross.
        let gate = self.gate.seen();
        Reading {
            books: self.meters.books.snapshot(false),
            counts: self.meters.counts(),
            paused: gate.is_paused(),
            critical_open: gate.is_shut,
            index_open: self.lane.as_ref().is_some_and(Lane::is_open),
            pace: self.lane.as_ref().map(Lane::limits),
            seen: self.survey.seen(),
            progress_age: self.meters.progress_age(),
            started_ms: self.started_ms,
            now_ms: self.clock.unix_ms(),
        }
    }

    /// Intake has started.
    pub fn attach(&self, pulse: Pulse, stop: CancellationToken) {
        let _ = self.attached.set(Attached { pulse, stop }); // once in the life of a process
    }
}
