//! The intake gate: whether the queue may be asked for messages at all.
//!
//! Promises P6: while a dependency that every message needs is sick, nothing is received, no attempt is spent and
//! nothing is dead-lettered; the gate is probed without messages and reopens with one. Watches source buckets, the
//! results bucket and parking; never OpenSearch alone (P4), never the DLQ. Knows no message.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::breaker::{Breaker, Habits, Leave, Turn};
use crate::events::{self, Event};
use crate::outcome::{Dependency, Outcome, RetryReason};
use crate::retry::{Backoff, Jitter};
use crate::store::Store;

const HABITS: Habits =
    Habits { failures: 3, tries: Backoff { base: Duration::from_secs(4), cap: Duration::from_secs(60) } };
/// Distinct keys that must fail, and none succeed, before an unclear failure is everybody's (design §2).
const UNCLEAR_KEYS: usize = 5;
/// Over this long.
const UNCLEAR_WINDOW: Duration = Duration::from_secs(60);
/// While one message decides whether intake reopens, the next is asked for only after this.
const TRIAL: Duration = Duration::from_secs(5);
/// One HEAD of a bucket.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// How many messages may be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Passage {
    /// As many as there are seats.
    Free,
    /// One: it decides whether intake reopens.
    One,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Free,
    /// Nothing is received.
    Shut,
    /// The probe was well; one message at a time until one succeeds.
    Trial,
}

struct State {
    breaker: Breaker,
    /// Keys of unclear failures since the last success, with their times.
    unclear: BTreeMap<String, Instant>,
    paused_by: BTreeSet<&'static str>,
    next_trial: Instant,
}

/// The gate of one worker.
pub struct Gate {
    state: Mutex<State>,
    mode: watch::Sender<(Mode, bool)>,
    jitter: Arc<Jitter>,
}

impl Gate {
    /// Open.
    pub fn new(jitter: Arc<Jitter>) -> Self {
        let state = State {
            breaker: Breaker::new(HABITS),
            unclear: BTreeMap::new(),
            paused_by: BTreeSet::new(),
            next_trial: Instant::now(),
        };
        Self { state: Mutex::new(state), mode: watch::Sender::new((Mode::Free, false)), jitter }
    }

    /// Waits until messages may be asked for.
    pub async fn pass(&self) -> Passage {
        let mut mode = self.mode.subscribe();
        loop {
            let (now_mode, paused) = *mode.borrow_and_update();
            match (now_mode, paused) {
                (Mode::Free, false) => return Passage::Free,
                (Mode::Trial, false) => {
                    let now = Instant::now();
                    let wait = self.with(|state| {
                        let due = state.next_trial;
                        if now >= due {
                            state.next_trial = now + TRIAL;
                        }
                        due
                    });
                    if now >= wait {
                        return Passage::One;
                    }
                    tokio::select! { biased; _ = mode.changed() => {}, () = tokio::time::sleep_until(wait) => {} }
                }
                (Mode::Shut, _) | (_, true) => {
                    if mode.changed().await.is_err() {
                        return Passage::Free; // cannot be: we hold the sender
                    }
                }
            }
        }
    }

    /// What was granted before a wait for seats may have been overtaken by an outage or a pause.
    pub fn still_grants(&self, passage: Passage) -> bool {
        match (passage, *self.mode.borrow()) {
            (Passage::Free, (Mode::Free, false)) | (Passage::One, (Mode::Trial | Mode::Free, false)) => true,
            (Passage::Free | Passage::One, _) => false,
        }
    }

    /// The outcome of a change, as the gate sees it: an unclear failure that is everybody's becomes systemic.
    pub fn weigh(&self, key: &str, outcome: Outcome) -> Outcome {
        let now = Instant::now();
        match outcome {
            Outcome::Retry(RetryReason::Systemic(dependency, detail)) => {
                self.sick(dependency, &detail, now);
                Outcome::Retry(RetryReason::Systemic(dependency, detail))
            }
            Outcome::Retry(RetryReason::Denied(dependency, detail) | RetryReason::Throttled(dependency, detail))
                if self.unclear(key, now) =>
            {
                self.sick(dependency, &detail, now);
                Outcome::Retry(RetryReason::Systemic(dependency, detail))
            }
            Outcome::Retry(RetryReason::Denied(..) | RetryReason::Throttled(..)) => outcome,
            Outcome::Done | Outcome::Superseded => {
                self.with(|state| state.unclear.clear());
                self.well(now);
                outcome
            }
            // Ended before it had asked all that intake needs, and decides nothing: the next message may try at once.
            Outcome::Retry(
                RetryReason::SourceMissing
                | RetryReason::Interrupted(_)
                | RetryReason::ChildCrashed(_)
                | RetryReason::ChildTimedOut(_)
                | RetryReason::Limit(_)
                | RetryReason::Panicked(_)
                | RetryReason::Refused(_),
            )
            | Outcome::Reject(_)
            | Outcome::Skip(_) => {
                self.with(|state| state.next_trial = now);
                // Wakes a poller that waits for its turn.
                self.mode.send_modify(|_| {});
                outcome
            }
        }
    }

    /// Stops intake until [`Gate::resume`] by the same hand.
    pub fn pause(&self, by: &'static str, reason: &str) {
        if self.with(|state| state.paused_by.insert(by)) {
            self.mode.send_modify(|(_, paused)| *paused = true);
            events::Paused { by: by.to_owned(), reason: reason.to_owned() }.emit();
        }
    }

    /// Takes a pause back; others may still hold one.
    pub fn resume(&self, by: &'static str) {
        let (was, left) = self.with(|state| (state.paused_by.remove(by), !state.paused_by.is_empty()));
        if was {
            self.mode.send_modify(|(_, paused)| *paused = left);
            events::Resumed { by: by.to_owned() }.emit();
        }
    }

    /// Nothing holds intake.
    pub fn is_open(&self) -> bool {
        *self.mode.borrow() == (Mode::Free, false)
    }

    /// Whether a sick dependency holds intake.
    pub fn is_shut(&self) -> bool {
        self.mode.borrow().0 == Mode::Shut
    }

    /// Five distinct keys in the window, and no success between them; or any, while intake is shut already.
    fn unclear(&self, key: &str, now: Instant) -> bool {
        self.with(|state| {
            state.unclear.retain(|_, at| now.saturating_duration_since(*at) < UNCLEAR_WINDOW);
            if state.unclear.len() < UNCLEAR_KEYS || state.unclear.contains_key(key) {
                state.unclear.insert(key.to_owned(), now);
            }
            state.unclear.len() >= UNCLEAR_KEYS || state.breaker.is_open()
        })
    }

    fn sick(&self, dependency: Dependency, detail: &str, now: Instant) {
        let turn = self.with(|state| {
            let turn = state.breaker.failure(now, &self.jitter);
            // Under the same lock as the breaker: mode and breaker must never disagree.
            if state.breaker.is_open() {
                self.mode.send_modify(|(mode, _)| *mode = Mode::Shut);
            }
            turn
        });
        if turn == Some(Turn::Opened) {
            let detail = format!("{}: {detail}", dependency.as_str());
            events::BreakerOpened { which: "critical", detail }.emit();
        }
    }

    fn well(&self, now: Instant) {
        let turn = self.with(|state| {
            let turn = state.breaker.success(now);
            if turn.is_some() {
                self.mode.send_modify(|(mode, _)| *mode = Mode::Free);
            }
            turn
        });
        let Some(Turn::Closed { open, suppressed }) = turn else { return };
        let open_ms = u64::try_from(open.as_millis()).unwrap_or(u64::MAX);
        events::BreakerClosed { which: "critical", open_ms, suppressed }.emit();
    }

    /// The buckets answer: one message may try.
    fn on_trial(&self) {
        self.with(|state| {
            if state.breaker.is_open() {
                self.mode.send_modify(|(mode, _)| *mode = Mode::Trial);
            }
        });
    }

    /// Asks the buckets, without messages, while intake is shut.
    pub async fn probe_while_shut(
        self: Arc<Self>,
        store: Arc<dyn Store>,
        buckets: Vec<String>,
        stop: CancellationToken,
    ) {
        let mut mode = self.mode.subscribe();
        loop {
            let due = if self.is_shut() {
                match self.with(|state| state.breaker.leave(Instant::now(), &self.jitter)) {
                    Leave::Try => {
                        let answer = tokio::select! {
                            biased;
                            () = stop.cancelled() => return,
                            answer = self.all_answer(store.as_ref(), &buckets) => answer,
                        };
                        if answer {
                            self.on_trial();
                        }
                        continue;
                    }
                    Leave::No(next) => Some(next),
                    Leave::Yes => None,
                }
            } else {
                None
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = mode.changed() => if changed.is_err() { return },
                () = sleep_until(due) => {}
            }
        }
    }

    async fn all_answer(&self, store: &dyn Store, buckets: &[String]) -> bool {
        for bucket in buckets {
            match tokio::time::timeout(PROBE_LIMIT, store.probe(bucket)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(target: "quittance", "probe of {bucket}: {error}");
                    return false;
                }
                Err(_) => return false,
            }
        }
        true
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "gate/tests.rs"]
mod tests;
