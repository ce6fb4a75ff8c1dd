//! One trial as it is handed to the judge: the world with its histories, and what each worker logged.
//!
//! Plain data. A worker has one story per incarnation: what is started again after a crash or a stop is another one,
//! under another name, and that name is the `who` of its calls.

use std::collections::BTreeSet;

use quittance::books::BooksLine;
use quittance::message::MessageId;
use serde_json::Value;
use tokio::time::Instant;

use super::World;
use super::faults::Stamp;
use super::reader::Reader;
use super::worker::Setup;

/// A fact that a worker logged.
#[derive(Clone, Debug)]
pub struct Line {
    /// In the one order of all calls and effects.
    pub stamp: Stamp,
    /// The name of the fact (`event`).
    pub event: String,
    pub fields: Value,
}

/// How an incarnation ended.
#[derive(Clone, Debug)]
pub enum Ended {
    /// It was asked to stop and did, with these books.
    Stopped(BooksLine),
    /// As by kill -9: nothing of it ran from here on. Its calls under way went on at the services.
    Crashed(Stamp),
}

/// One incarnation of a worker.
pub struct WorkerStory {
    /// Unique, as `w2.3`: the third life of worker 2. The `who` of its calls.
    pub who: String,
    pub setup: Setup,
    pub started: Stamp,
    /// When it was asked to stop, if it was.
    pub asked_to_stop: Option<Stamp>,
    pub ended: Ended,
    /// Spans in which nothing of it ran, as between SIGSTOP and SIGCONT; calls under way went on at the services.
    pub frozen: Vec<(Stamp, Stamp)>,
    /// What it logged, in order.
    pub lines: Vec<Line>,
    /// Its books were found out of balance before a call.
    pub complaint: Option<String>,
}

/// Everything there is to know of a trial.
pub struct Story<'a> {
    pub world: &'a World,
    /// What happened to files while they were read.
    pub reader: &'a Reader,
    pub workers: &'a [WorkerStory],
    /// Every key that was ever put, removed or named in a message.
    pub keys: &'a BTreeSet<String>,
    /// What producers sent: id and body.
    pub sent: &'a [(MessageId, String)],
    /// From here on nothing went wrong any more.
    pub healed_at: Instant,
    /// The queue and the parked prefix were empty in time.
    pub drained: bool,
}

/// A rule that was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// As "E0.lost", "P3".
    pub rule: &'static str,
    pub what: String,
}
