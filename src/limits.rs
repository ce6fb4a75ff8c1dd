//! The limits of a worker, which an operator may change while it runs (SIGHUP; `RELOAD_FILE`).
//!
//! Promises that all who read them read the same ones, and that a change reaches who waits for seats. Judges no value:
//! `config` has.

use std::time::Duration;

use crate::retry::Backoff;
use crate::word::{Ear, Word};

/// What may be changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// `WORKER_CONCURRENCY`; of use up to what the process was started with.
    pub concurrency: usize,
    /// `DRAIN_TIMEOUT`.
    pub drain: Duration,
    /// `MAX_ATTEMPTS`, at least 1.
    pub max_attempts: u32,
    /// `RETRY_BASE_SECONDS`, `RETRY_MAX_SECONDS`.
    pub backoff: Backoff,
}

/// The limits as they are now; every clone is of the same ones.
#[derive(Clone)]
pub struct Live(Word<Limits>);

impl Live {
    /// From these on.
    pub fn new(limits: Limits) -> Self {
        Self(Word::new(limits))
    }

    /// As they are now.
    pub fn now(&self) -> Limits {
        self.0.get()
    }

    /// From now on these.
    pub fn set(&self, limits: Limits) {
        self.0.say(|now| *now = limits);
    }

    pub(crate) fn ear(&self) -> Ear<Limits> {
        self.0.ear()
    }
}
