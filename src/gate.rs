//! The intake gate: whether the queue may be asked for messages at all.
//!
//! Promises P6: while a dependency that every message needs is sick, nothing is received, no attempt is spent and
//! nothing is dead-lettered; the gate is probed without messages (`probe`) and reopens with one (`turns`), which
//! stays in hand rather than being received again (`keep`). Watches source buckets, the results bucket and parking;
//! never OpenSearch alone (P4), never the DLQ. Knows no message.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::breaker::{Breaker, Habits, Leave, Turn};
use crate::events::{self, Event};
use crate::outcome::{Dependency, Outcome, RetryReason};
use crate::retry::{Backoff, Jitter};
use crate::word::{Ear, Word};

mod keep;
mod probe;
mod seen;
mod turns;

pub use keep::Kept;
pub use probe::Probe;
use probe::{Answer, Suspects};
use seen::Answers;
pub use seen::{Hold, Seen};
use turns::Turns;

/// The probe is asked at the distances of the tries: healing is noticed within a minute where the probe can see it.
const HABITS: Habits =
    Habits { failures: 3, tries: Backoff { base: Duration::from_secs(4), cap: Duration::from_secs(60) } };
/// Distinct keys that must fail, and none succeed, before an unclear failure is everybody's (design §2).
const UNCLEAR_KEYS: usize = 5;
/// Over this long: a message that is denied spends its attempts in 4 to 8 minutes by default, and in a queue with little
/// traffic five of them must meet before the first is dead-lettered.
const UNCLEAR_WINDOW: Duration = Duration::from_secs(600);

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
    /// Nothing is received, nothing is tried.
    Shut,
    /// The probe is well: one at a time until one succeeds.
    Half,
}

/// What those who wait see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Posture {
    mode: Mode,
    paused: bool,
    /// The worker stops: what is kept goes back.
    leaving: bool,
}

/// Who holds a pause, as the log says it; `None`: nobody yet, the state is not known.
type Hand = Option<(String, String)>;

struct State {
    breaker: Breaker,
    turns: Turns,
    suspects: Suspects,
    /// Keys of unclear failures since the last success, with their times.
    unclear: BTreeMap<String, Instant>,
    hands: BTreeMap<&'static str, Hand>,
    kept: usize,
    /// How SQS and S3 answered lately; for those who only look.
    queue: Answers,
    store: Answers,
}

/// The gate of one worker.
pub struct Gate {
    state: Mutex<State>,
    posture: Word<Posture>,
    jitter: Arc<Jitter>,
    most_receives: Option<u32>,
    /// `WORKER_CONCURRENCY`; `None`: without end.
    seats: Option<usize>,
}

impl Gate {
    /// Open.
    pub fn new(jitter: Arc<Jitter>) -> Self {
        let state = State {
            breaker: Breaker::new(HABITS),
            turns: Turns::new(Instant::now()),
            suspects: Suspects::default(),
            unclear: BTreeMap::new(),
            hands: BTreeMap::new(),
            kept: 0,
            queue: Answers::default(),
            store: Answers::default(),
        };
        let posture = Posture { mode: Mode::Free, paused: false, leaving: false };
        Self { state: Mutex::new(state), posture: Word::new(posture), jitter, most_receives: None, seats: None }
    }

    /// The gate of a queue with this `maxReceiveCount`, for so many messages in flight: what is short of receives is kept
    /// in an outage, but while the gate is open never so many that nothing could be received.
    pub fn of_queue(self, max_receive_count: Option<u32>, seats: usize) -> Self {
        Self { most_receives: max_receive_count, seats: Some(seats), ..self }
    }

    /// Waits until messages may be asked for.
    pub async fn pass(&self) -> Passage {
        let mut posture = self.posture.ear();
        loop {
            let seen = posture.hear();
            let due = match seen.mode {
                _ if seen.paused => None,
                Mode::Free => return Passage::Free,
                Mode::Shut => None,
                Mode::Half => match self.with(|state| state.turns.ask(Instant::now(), &self.jitter)) {
                    Ok(()) => return Passage::One,
                    Err(due) => Some(due),
                },
            };
            tokio::select! {
                biased;
                _ = posture.news() => {}
                () = sleep_until(due) => {}
            }
        }
    }

    /// What was granted before a wait for seats may have been overtaken by an outage or a pause.
    pub fn still_grants(&self, passage: Passage) -> bool {
        let Posture { mode, paused, .. } = self.posture.get();
        match (passage, mode) {
            _ if paused => false,
            (Passage::Free, Mode::Free) | (Passage::One, Mode::Half | Mode::Free) => true,
            (Passage::Free, Mode::Half | Mode::Shut) | (Passage::One, Mode::Shut) => false,
        }
    }

    /// Waits until what was granted is granted no more.
    pub async fn withdrawn(&self, passage: Passage) {
        let mut posture = self.posture.ear();
        loop {
            posture.hear();
            if !self.still_grants(passage) {
                return;
            }
            posture.news().await;
        }
    }

    /// A try came to nothing: no message, or one that ended before it had asked all that intake needs. The next may
    /// try at once.
    pub fn undecided(&self) {
        self.with(|state| state.turns.undecided(state.kept > 0, Instant::now()));
        self.posture.say(|_| {}); // wakes a poller that waits for its turn
    }

    /// The outcome of a change, as the gate sees it: an unclear failure that is everybody's becomes systemic.
    pub fn weigh(&self, key: &str, outcome: Outcome) -> Outcome {
        let now = Instant::now();
        match outcome {
            Outcome::Retry(RetryReason::Systemic(dependency, detail)) => {
                self.sick(dependency, None, &detail, now);
                Outcome::Retry(RetryReason::Systemic(dependency, detail))
            }
            Outcome::Retry(RetryReason::Denied(dependency, detail)) if self.denied_to_all(dependency, key, now) => {
                self.sick(dependency, Some(key), &detail, now);
                Outcome::Retry(RetryReason::Systemic(dependency, detail))
            }
            Outcome::Retry(
                RetryReason::Throttled(dependency, detail) | RetryReason::Interrupted(dependency, detail),
            ) if self.unclear(key, now) => {
                self.sick(dependency, None, &detail, now);
                Outcome::Retry(RetryReason::Systemic(dependency, detail))
            }
            Outcome::Done | Outcome::Superseded => {
                self.well(now);
                outcome
            }
            Outcome::Retry(
                RetryReason::Denied(..)
                | RetryReason::Throttled(..)
                | RetryReason::SourceMissing
                | RetryReason::Interrupted(..)
                | RetryReason::ChildCrashed(_)
                | RetryReason::ChildTimedOut(_)
                | RetryReason::Limit(_)
                | RetryReason::Panicked(_)
                | RetryReason::Refused(_),
            )
            | Outcome::Reject(_)
            | Outcome::Skip(_) => outcome,
        }
    }

    /// Stops intake until [`Gate::resume`] by the same hand. One line for each change of who or why.
    pub fn pause(&self, hand: &'static str, by: &str, reason: &str) {
        let said = Some((by.to_owned(), reason.to_owned()));
        if self.hold(hand, said.clone()) != Some(said) {
            events::Paused { by: by.to_owned(), reason: reason.to_owned() }.emit();
        }
    }

    /// As [`Gate::pause`], until it is known whether there is a pause; without a line.
    pub fn wait_for_word(&self, hand: &'static str) {
        self.hold(hand, None);
    }

    fn hold(&self, hand: &'static str, said: Hand) -> Option<Hand> {
        self.with(|state| {
            // Under the same lock as the hands: the two must never disagree.
            self.posture.say(|posture| posture.paused = true);
            state.hands.insert(hand, said)
        })
    }

    /// Takes a pause back; others may still hold one.
    pub fn resume(&self, hand: &'static str, by: &str) {
        let (was, left) = self.with(|state| {
            let was = state.hands.remove(hand);
            self.posture.say(|posture| posture.paused = !state.hands.is_empty());
            (was, state.hands.values().flatten().map(|(by, _)| by.clone()).collect::<Vec<_>>())
        });
        if was.flatten().is_some() {
            let still_paused_by = (!left.is_empty()).then(|| left.join(", "));
            events::Resumed { by: by.to_owned(), still_paused_by }.emit();
        }
    }

    /// The worker stops: what is kept in hand goes back.
    pub fn leave(&self) {
        self.posture.say(|posture| posture.leaving = true);
    }

    /// Nothing holds intake.
    pub fn is_open(&self) -> bool {
        let posture = self.posture.get();
        posture.mode == Mode::Free && !posture.paused
    }

    /// Whether a sick dependency holds intake.
    pub fn is_shut(&self) -> bool {
        self.posture.get().mode == Mode::Shut
    }

    /// For those beside the road who obey a pause too.
    pub fn pauses(&self) -> Pauses {
        Pauses(self.posture.ear())
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

    /// Likewise; but once the probe has read others, what is denied is denied for itself. (Were it not so, five such
    /// objects alone in a queue would hold intake at one message at a time for as long as they lie there.)
    fn denied_to_all(&self, dependency: Dependency, key: &str, now: Instant) -> bool {
        let acquitted = dependency == Dependency::Source && self.with(|state| state.suspects.acquitted);
        self.unclear(key, now) && !acquitted
    }

    fn sick(&self, dependency: Dependency, denied: Option<&str>, detail: &str, now: Instant) {
        let turn = self.with(|state| {
            state.suspects.add(dependency, denied);
            let turn = state.breaker.failure(now, &self.jitter);
            if turn == Some(Turn::Opened) {
                state.turns = Turns::new(now);
            }
            // Under the same lock as the breaker: mode and breaker must never disagree.
            if state.breaker.is_open() {
                self.posture.say(|posture| posture.mode = Mode::Shut);
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
            state.unclear.clear();
            state.suspects = Suspects::default();
            let turn = state.breaker.success(now);
            if turn.is_some() {
                self.posture.say(|posture| posture.mode = Mode::Free);
            }
            turn
        });
        let Some(Turn::Closed { open, suppressed }) = turn else { return };
        let open_ms = u64::try_from(open.as_millis()).unwrap_or(u64::MAX);
        events::BreakerClosed { which: "critical", open_ms, suppressed }.emit();
    }

    fn probed(&self, answer: Answer) {
        let acquitted = self.with(|state| {
            if !state.breaker.is_open() {
                return false; // a message was quicker
            }
            let well = answer != Answer::Sick;
            state.turns.probed(well, state.kept > 0, Instant::now());
            let mode = if well { Mode::Half } else { Mode::Shut };
            self.posture.say(|posture| posture.mode = mode);
            state.suspects.heard(answer)
        });
        if acquitted {
            let detail = "objects are denied while others of their buckets can be read: each is charged to its message";
            events::Notice { detail: detail.into() }.emit();
        }
    }

    /// Asks the buckets, without messages, while the breaker is open.
    pub async fn probe_while_shut(self: Arc<Self>, probe: Probe, stop: CancellationToken) {
        let mut posture = self.posture.ear();
        loop {
            let due = match self.with(|state| state.breaker.leave(Instant::now(), &self.jitter)) {
                Leave::Try => {
                    let suspects = self.with(|state| state.suspects.clone());
                    let answer = tokio::select! {
                        biased;
                        () = stop.cancelled() => return,
                        answer = probe.ask(&suspects) => answer,
                    };
                    self.probed(answer);
                    continue;
                }
                Leave::No(next) => Some(next),
                Leave::Yes => None,
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = posture.news() => {}
                () = sleep_until(due) => {}
            }
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether this process is paused, for a station beside the road.
#[derive(Clone)]
pub struct Pauses(Ear<Posture>);

impl Pauses {
    /// It is, now.
    pub fn on(&self) -> bool {
        self.0.get().paused
    }

    /// Waits until it is not.
    pub async fn over(&mut self) {
        while self.0.hear().paused {
            self.0.news().await;
        }
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
