//! The plan of a trial: workers, files, messages, troubles and ends, all drawn from the seed before anything runs.
//!
//! Promises that the seed alone decides. Plain data: `TRACE=1` prints it.

use std::time::Duration;

use fastrand::Rng;
use quittance::config::{OnExtractionError, OnMissingObject};
use quittance::process::extract::ExtractFailure;
use quittance::retry::Backoff;

use super::super::Cut;
use super::super::reader::Act;
use super::super::worker::Setup;
use super::weather::{Climate, Gust};
use super::{weather, workload};

/// Something that happens at a time of its own.
#[derive(Clone, Debug)]
pub enum Event {
    Producer(workload::Deed),
    /// One or more gusts begin or end.
    Weather,
    Start(usize),
    Crash(usize),
    /// At one of its calls from here on.
    CrashAtCall(usize, AtCall, Cut),
    /// Stands still for this long once it has sent one of its calls from here on.
    FreezeAtCall(usize, AtCall, Duration),
    /// SIGTERM.
    Stop(usize),
    /// SIGTERM again, to whatever life of this worker is still ending.
    Hurry(usize),
    Freeze(usize),
    Thaw(usize),
    /// The wall clock, milliseconds.
    Step(i64),
}

/// The so-manieth call of this verb; of any, without one.
#[derive(Clone, Copy, Debug)]
pub struct AtCall {
    pub verb: Option<&'static str>,
    pub skip: usize,
}

impl AtCall {
    fn draw(rng: &mut Rng) -> Self {
        let verbs = ["delete", "delete", "put", "put", "bulk", "send", "change", "change", "receive", "get", "head"];
        match rng.bool() {
            true => Self { verb: Some(one_of(rng, &verbs)), skip: one_of(rng, &[0, 0, 0, 1, 1, 2, 3, 5]) },
            false => Self { verb: None, skip: rng.usize(0..40) },
        }
    }
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub max_receive_count: u32,
    pub setups: Vec<Setup>,
    pub climate: Climate,
    /// Share of task turns that are put off.
    pub restless: f64,
    pub gusts: Vec<Gust>,
    /// By file name.
    pub reading: Vec<(String, Vec<Act>)>,
    /// When faults stop and all workers are up.
    pub span: Duration,
    /// All workers are then stopped and started anew: work that hangs has no other end than SQS's 12 hours.
    pub redeploy: bool,
    /// By time.
    pub events: Vec<(Duration, Event)>,
    /// Nothing may stir for this long before the trial is over: calls of the dead may still be under way.
    pub quiet: Duration,
    /// Everything must have drained by this long after `span`.
    pub patience: Duration,
}

pub fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub fn one_of<T: Clone>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(0..of.len())].clone()
}

/// A share up to `most`, never 0.
pub fn share(rng: &mut Rng, most: f64) -> f64 {
    most * (0.05 + 0.95 * rng.f64())
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

impl Plan {
    pub fn draw(seed: u64) -> Self {
        // Consecutive seeds must not give alike beginnings.
        let mut rng = Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5EED);
        let rng = &mut rng;
        let span = SECOND * one_of(rng, &[10, 30, 60, 90, 120, 180, 300, 600]);
        let max_receive_count = one_of(rng, &[3, 5, 8, 20, 20, 20, 1_000]);
        let setups = setups(rng, max_receive_count);
        let keys = workload::keys(rng);
        let reading = reading(rng, &keys, setups[0].visibility);
        let gusts = weather::draw(rng, span, &keys);
        let mut events: Vec<(Duration, Event)> =
            workload::draw(rng, span, &keys).into_iter().map(|(at, deed)| (at, Event::Producer(deed))).collect();
        for gust in &gusts {
            events.push((gust.from, Event::Weather));
            events.push((gust.until, Event::Weather));
        }
        for worker in 0..setups.len() {
            let late = if rng.u8(0..4) == 0 { rng.u64(0..20_000) } else { 0 };
            events.push((millis(late), Event::Start(worker)));
        }
        for _ in 0..one_of(rng, &[0, 0, 1, 1, 2, 3, 5]) {
            ends(rng, span, &setups, &mut events);
        }
        if rng.u8(0..5) == 0 {
            let hours = one_of(rng, &[-87_600, -24, -1, 1, 24, 87_600]);
            events.push((within(rng, span), Event::Step(hours * 3_600_000)));
        }
        events.sort_by_key(|(at, _)| *at); // stable: of one instant, in the order drawn
        let never_ends = |act: &&Act| matches!(act, Act::Hangs | Act::Lingers(_));
        let hanging = reading.iter().flat_map(|(_, acts)| acts).filter(never_ends).count() as u32;
        let hangs = hanging > 0;
        // Rarely, the twelve hours are waited for.
        let capped = hangs && rng.u8(0..20) == 0;
        Self {
            seed,
            max_receive_count,
            climate: Climate::draw(rng),
            restless: one_of(rng, &[0.0, 0.02, 0.1, 0.3]),
            setups,
            reading,
            span,
            quiet: 25 * SECOND + 2 * gusts.iter().map(|gust| gust.trouble.slowest()).max().unwrap_or_default(),
            gusts,
            redeploy: !capped && (hangs || rng.bool()),
            events,
            // One after the other, where there is but one seat.
            patience: if capped { (13 * hanging + 16) * HOUR } else { 8 * HOUR },
        }
    }
}

fn within(rng: &mut Rng, span: Duration) -> Duration {
    millis(rng.u64(0..span.as_millis() as u64))
}

fn setups(rng: &mut Rng, max_receive_count: u32) -> Vec<Setup> {
    let base = Setup {
        concurrency: one_of(rng, &[1, 2, 3, 5, 10, 20]),
        visibility: SECOND * one_of(rng, &[10, 12, 20, 30, 60, 60, 120]),
        drain: SECOND * one_of(rng, &[0, 1, 5, 10, 30, 60]),
        max_attempts: one_of(rng, &[1, 2, 3, 5, 5]),
        max_receive_count: Some(max_receive_count),
        backoff: Backoff {
            base: SECOND * one_of(rng, &[1, 2, 5, 30]),
            cap: SECOND * one_of(rng, &[10, 10, 30, 60, 60, 300, 900]),
        },
        replay: true,
        search: true,
        on_missing: one_of(rng, &[OnMissingObject::DeadLetter, OnMissingObject::DeadLetter, OnMissingObject::Drop]),
        on_extraction_error: one_of(rng, &[OnExtractionError::Index, OnExtractionError::DeadLetter]),
        max_object_bytes: one_of(rng, &[1 << 20, 1 << 20, 1 << 20, 7]),
        ..Setup::default()
    };
    let count = one_of(rng, &[1, 1, 2, 2, 3, 4]);
    (0..count)
        .map(|number| {
            let mut setup = base.clone();
            if number > 0 {
                // The first can always replay; what the others park must not stay for ever.
                setup.replay = rng.u8(0..4) > 0;
                setup.search = rng.u8(0..8) > 0;
                if rng.u8(0..3) == 0 {
                    setup.concurrency = one_of(rng, &[1, 4, 20]);
                    setup.visibility = SECOND * one_of(rng, &[10, 30, 60]);
                    setup.drain = SECOND * one_of(rng, &[0, 10, 60]);
                }
            }
            setup
        })
        .collect()
}

/// What the reader does to some of the files.
fn reading(rng: &mut Rng, keys: &[String], visibility: Duration) -> Vec<(String, Vec<Act>)> {
    let mut plans = Vec::new();
    for key in keys {
        if rng.u8(0..5) > 1 {
            continue;
        }
        let name = key.rsplit('/').next().unwrap_or_default().to_owned();
        let mut acts: Vec<Act> = (0..rng.usize(1..4)).map(|_| act(rng, visibility)).collect();
        let ends =
            |act: &Act| !matches!(act, Act::Hangs | Act::Lingers(_) | Act::Fails(ExtractFailure::Unavailable { .. }));
        if rng.u8(0..4) > 0 || !acts.last().is_some_and(ends) {
            acts.push(Act::Reads); // in the end; otherwise the last one stands for ever
        }
        plans.push((name, acts));
    }
    plans
}

fn act(rng: &mut Rng, visibility: Duration) -> Act {
    match rng.u8(0..12) {
        0..=4 => {
            let most = one_of(rng, &[200, 3_000, 20_000, visibility.as_millis() as u64 * 3]);
            Act::Takes(millis(rng.u64(0..most)))
        }
        5 => Act::Hangs,
        6 => Act::Panics,
        7 => Act::Fails(ExtractFailure::Crashed { detail: "signal 6".into() }),
        8 => Act::Fails(ExtractFailure::TimedOut { after: 30 * SECOND }),
        9 => Act::Fails(ExtractFailure::Unavailable { detail: "no memory".into() }),
        10 => Act::Unreadable("encrypted"),
        _ => Act::Lingers(millis(rng.u64(0..20_000))),
    }
}

/// One end, or standstill, of one worker; now and then of all at once.
fn ends(rng: &mut Rng, span: Duration, setups: &[Setup], events: &mut Vec<(Duration, Event)>) {
    let (one, at) = (rng.usize(0..setups.len()), within(rng, span));
    let of = if rng.u8(0..6) == 0 { 0..setups.len() } else { one..one + 1 };
    let back = at + millis(one_of(rng, &[0, 500, 5_000, 30_000, 90_000]));
    let visibility = setups[one].visibility.as_millis() as u64;
    let most = one_of(rng, &[5_000, visibility, visibility * 3, 600_000]);
    let still = millis(rng.u64(100..most));
    let (kind, at_call, cut) = (rng.u8(0..12), AtCall::draw(rng), one_of(rng, &[Cut::Before, Cut::After]));
    let hurry = (rng.u8(0..3) == 0).then(|| at + millis(rng.u64(0..10_000)));
    for worker in of {
        match kind {
            0 | 1 => {
                events.push((at, Event::Crash(worker)));
                events.push((back, Event::Start(worker)));
            }
            2..=4 => {
                events.push((at, Event::CrashAtCall(worker, at_call, cut)));
                events.push((back + 20 * SECOND, Event::Start(worker)));
            }
            5 | 6 => {
                events.push((at, Event::Stop(worker)));
                events.extend(hurry.map(|at| (at, Event::Hurry(worker))));
                events.push((back, Event::Start(worker)));
            }
            7 | 8 => {
                events.push((at, Event::Freeze(worker)));
                events.push((at + still, Event::Thaw(worker)));
            }
            9 => {
                // Stopped while it stands still: the signal waits.
                events.push((at, Event::Freeze(worker)));
                events.push((at + still / 2, Event::Stop(worker)));
                events.push((at + still, Event::Thaw(worker)));
                events.push((back, Event::Start(worker)));
            }
            _ => events.push((at, Event::FreezeAtCall(worker, at_call, still))),
        }
    }
}
