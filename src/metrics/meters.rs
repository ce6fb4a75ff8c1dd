//! Hears every fact that the log tells, whatever `LOG_LEVEL` is, and counts those that the ledger does not hold.
//!
//! Promises that a metric and its line are of one and the same `emit`, and bounded memory: what failed last is kept by
//! reason, a few of each. Writes nothing: it is called from where lines are written.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::field::{Field, Visit};
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::{Histogram, Sample};
use crate::books::{Books, End};
use crate::clock::{WallClock, unix_ms_of};
use crate::events::{self, Event as _};
use crate::outcome::OutcomeName;

/// Seconds; the longest is SQS's 12 hours.
const WORK: &[f64] =
    &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0];
/// Seconds; the longest is SQS's 14 days.
const AGE: &[f64] =
    &[0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 10_800.0, 43_200.0, 86_400.0, 345_600.0, 1_209_600.0];
/// CloudWatch takes at most 100 values of a metric in one line (EMF specification).
pub(super) const EMF_VALUES: usize = 100;
/// Failures that are kept of each reason, and reasons: the latter are words of ours, and far fewer.
const KEPT: usize = 5;
const REASONS: usize = 64;

/// What was heard.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each has its row in the table of metrics")]
pub struct Counts {
    pub received_again: u64,
    pub receive_failures: u64,
    pub heartbeat_failures: u64,
    pub delete_failures: u64,
    pub dead_letter_failures: u64,
    pub park_failures: u64,
    pub crash_loops: u64,
    pub work: Histogram,
    pub age: Histogram,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            received_again: 0,
            receive_failures: 0,
            heartbeat_failures: 0,
            delete_failures: 0,
            dead_letter_failures: 0,
            park_failures: 0,
            crash_loops: 0,
            work: Histogram::new(WORK),
            age: Histogram::new(AGE),
        }
    }
}

/// One thing that failed.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Failure {
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// Its message, where it has one.
    pub message_id: Option<String>,
    /// What became of the receipt, or the name of the fact.
    pub end: String,
    /// A sentence.
    pub detail: Option<String>,
    /// The first of its keys.
    pub key: Option<String>,
}

#[derive(Debug)]
struct State {
    counts: Counts,
    sample: Sample,
    /// By reason: how many, and the last of them, the newest first.
    failures: BTreeMap<String, (u64, VecDeque<Failure>)>,
    /// First send to the DLQ by this process, Unix milliseconds.
    first_dead_letter_ms: Option<u64>,
    last_settled: Option<Instant>,
    /// Since when something has been in hand without a break.
    busy_since: Option<Instant>,
}

/// The counts of one process.
pub struct Meters {
    /// The ledger of the same process.
    pub books: Arc<Books>,
    clock: Arc<dyn WallClock>,
    state: Mutex<State>,
}

/// The fields of facts that are of use here; each fact has some of them.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Fields {
    message_id: Option<String>,
    receive_count: u32,
    sent_at: Option<String>,
    outcome: String,
    settlement: String,
    reason: Option<String>,
    detail: Option<String>,
    key: Option<String>,
    keys: Vec<String>,
    held_ms: u64,
    messages: u64,
}

impl Meters {
    /// Nothing heard yet.
    pub fn new(books: Arc<Books>, clock: Arc<dyn WallClock>) -> Arc<Self> {
        let state = State {
            counts: Counts::default(),
            sample: Sample::new(EMF_VALUES, fastrand::Rng::new()),
            failures: BTreeMap::new(),
            first_dead_letter_ms: None,
            last_settled: None,
            busy_since: None,
        };
        Arc::new(Self { books, clock, state: Mutex::new(state) })
    }

    /// What hears for it; to be put beside the log.
    pub fn layer<S>(self: &Arc<Self>) -> impl Layer<S> + Send + Sync + 'static
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        // Facts are told at INFO and above; the libraries' own events are none of ours.
        let facts = Targets::new().with_target("quittance", Level::INFO);
        Heard(Arc::clone(self)).with_filter(facts)
    }

    /// What was heard so far.
    pub fn counts(&self) -> Counts {
        self.lock().counts.clone()
    }

    /// Work times since the last call, at most 100, in seconds.
    pub fn take_sample(&self) -> Vec<f64> {
        self.lock().sample.take()
    }

    /// Since anything was settled while something was in hand; 0 where nothing is.
    pub fn progress_age(&self) -> Duration {
        if self.books.in_flight() == 0 {
            return Duration::ZERO;
        }
        let state = self.lock();
        let since = state.last_settled.max(state.busy_since);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// By reason: how many there were, and the last few, the newest first.
    pub fn failures(&self) -> Vec<(String, u64, Vec<Failure>)> {
        let state = self.lock();
        let of = |(reason, (number, last)): (&String, &(u64, VecDeque<Failure>))| {
            (reason.clone(), *number, last.iter().cloned().collect())
        };
        state.failures.iter().map(of).collect()
    }

    /// When this process first dead-lettered a message.
    pub fn first_dead_letter_ms(&self) -> Option<u64> {
        self.lock().first_dead_letter_ms
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, fact: &str, fields: &str) {
        // Most facts are none of ours: they are not read.
        let read = || serde_json::from_str::<Fields>(fields).unwrap_or_default();
        match fact {
            events::MessageReceived::NAME => self.received(&read()),
            events::MessageSettled::NAME => self.settled(read()),
            events::ReceiveFailed::NAME => self.lock().counts.receive_failures += 1,
            events::ExtendFailed::NAME => self.lock().counts.heartbeat_failures += read().messages,
            events::CrashLoop::NAME => self.lock().counts.crash_loops += 1,
            events::DeleteFailed::NAME => self.failed(fact, read(), |counts| counts.delete_failures += 1),
            events::DeadLetterFailed::NAME => self.failed(fact, read(), |counts| counts.dead_letter_failures += 1),
            events::ParkFailed::NAME => self.failed(fact, read(), |counts| counts.park_failures += 1),
            events::DocumentErrored::NAME => self.failed(fact, read(), |_| {}),
            _ => {}
        }
    }

    fn received(&self, fact: &Fields) {
        let first_in_hand = self.books.in_flight() <= 1;
        let now_ms = self.clock.unix_ms();
        let mut state = self.lock();
        if first_in_hand {
            state.busy_since = Some(Instant::now());
        }
        if fact.receive_count > 1 {
            state.counts.received_again += 1;
        }
        if let Some(sent_ms) = fact.sent_at.as_deref().and_then(unix_ms_of) {
            state.counts.age.add(now_ms.saturating_sub(sent_ms) as f64 / 1000.0); // another machine's clock may be ahead
        }
    }

    fn settled(&self, fact: Fields) {
        let now_ms = self.clock.unix_ms();
        let mut state = self.lock();
        state.last_settled = Some(Instant::now());
        if fact.settlement == End::DeadLettered.as_str() {
            state.first_dead_letter_ms.get_or_insert(now_ms);
        }
        let cancelled = fact.outcome == OutcomeName::Cancelled.as_str();
        if !cancelled {
            let seconds = fact.held_ms as f64 / 1000.0;
            state.counts.work.add(seconds);
            state.sample.add(seconds);
        }
        let well = fact.settlement == End::Deleted.as_str();
        let given_back = fact.settlement == End::Returned.as_str() && cancelled; // a stop, say
        if !well && !given_back {
            let reason = fact.reason.unwrap_or_else(|| fact.settlement.clone());
            let key = fact.keys.into_iter().next();
            let (message_id, end, detail) = (fact.message_id, fact.settlement, fact.detail);
            state.keep(reason, Failure { at_ms: now_ms, message_id, end, detail, key });
        }
    }

    fn failed(&self, name: &str, fact: Fields, count: impl FnOnce(&mut Counts)) {
        let at_ms = self.clock.unix_ms();
        let detail = fact.detail.or(fact.reason);
        let failure = Failure { at_ms, message_id: fact.message_id, end: name.to_owned(), detail, key: fact.key };
        let mut state = self.lock();
        count(&mut state.counts);
        state.keep(name.to_owned(), failure);
    }
}

impl State {
    fn keep(&mut self, reason: String, failure: Failure) {
        if self.failures.len() >= REASONS && !self.failures.contains_key(&reason) {
            return;
        }
        let (number, last) = self.failures.entry(reason).or_default();
        *number += 1;
        last.truncate(KEPT - 1);
        last.push_front(failure);
    }
}

/// The layer beside the log.
struct Heard(Arc<Meters>);

impl<S: Subscriber> Layer<S> for Heard {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        #[derive(Default)]
        struct Told {
            fact: String,
            fields: String,
        }
        impl Visit for Told {
            fn record_str(&mut self, field: &Field, value: &str) {
                match field.name() {
                    "fact" => value.clone_into(&mut self.fact),
                    "fields" => value.clone_into(&mut self.fields),
                    _ => {}
                }
            }
            fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
        }
        let mut told = Told::default();
        event.record(&mut told);
        self.0.hear(&told.fact, &told.fields);
    }
}
