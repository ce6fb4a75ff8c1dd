//! Stop, drain, abandon: the order in which a worker ends, and the signals that ask for it.
//!
//! Promises that the first SIGTERM or SIGINT only stops intake, that work gets the drain deadline, and that a second
//! signal skips the drain and never the settling. Knows no message; the pipeline obeys.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::gate::Gate;

/// When the last lease has ended, everything is settled within this (two failed calls to SQS, and a third), or given
/// up as lease_lost: the process ends by itself, with its books, and not by SIGKILL.
/// `TimeoutStopSec` must hold the longest open poll or the drain, whichever is longer, and this.
pub const SETTLE_MARGIN: Duration = Duration::from_secs(15);

/// The two stages of an end.
#[derive(Clone, Default)]
pub struct Stop {
    /// No more polls.
    pub stop: CancellationToken,
    /// No more time for work in hand: it is cancelled and its messages returned, as soon as the open polls have ended.
    pub abandon: CancellationToken,
    why: Arc<std::sync::OnceLock<&'static str>>,
}

impl Stop {
    /// Asks for the end, for a reason that is logged.
    pub fn ask(&self, why: &'static str) {
        let _ = self.why.set(why); // the first reason stands
        self.stop.cancel();
    }

    /// Why it was asked for.
    pub fn why(&self) -> &'static str {
        self.why.get().copied().unwrap_or("asked")
    }
}

/// SIGHUP, listened to from here on: it no longer ends the process.
pub struct Hangups(Signal);

impl Hangups {
    /// Takes the signal over.
    pub fn take() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Until the next; `false`: there will be none.
    pub async fn next(&mut self) -> bool {
        self.0.recv().await.is_some()
    }
}

/// The signals of a worker, listened to from here on.
pub struct Signals {
    term: Signal,
    int: Signal,
    usr1: Signal,
    usr2: Signal,
}

impl Signals {
    /// Takes the signals over. From now on they do not end the process by themselves.
    pub fn take() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Obeys them: SIGTERM and SIGINT end, SIGUSR1 pauses this process's intake, SIGUSR2 resumes it.
    pub async fn obey(mut self, stop: Stop, gate: Arc<Gate>) {
        loop {
            let name = tokio::select! {
                biased;
                _ = self.term.recv() => "SIGTERM",
                _ = self.int.recv() => "SIGINT",
                _ = self.usr1.recv() => { gate.pause("signal", "signal", "SIGUSR1"); continue; }
                _ = self.usr2.recv() => { gate.resume("signal", "signal"); continue; }
            };
            if stop.stop.is_cancelled() {
                stop.abandon.cancel();
            } else {
                stop.ask(name);
            }
        }
    }
}
