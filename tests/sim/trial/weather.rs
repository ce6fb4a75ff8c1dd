//! What goes wrong with the services in a trial: gusts, each with its time, drawn from the seed.
//!
//! Promises that a gust only adds trouble: with none blowing, every service is well.

use std::time::Duration;

use fastrand::Rng;
use quittance::store::StoreError;
use tokio::time::Instant;

use super::super::queue::QueueFaults;
use super::super::search::SearchFaults;
use super::super::store::StoreFaults;
use super::super::{BodyFault, Faults, RESULTS, Rule, SOURCE, StaleDelete, Verb, World, document_id};
use super::plan::{millis, one_of, share};

/// One kind of trouble.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// Any call of the queue, the dead-letter queue, or some of their operations.
    Queue(Vec<QueueVerb>, Faults),
    DeadLetters(Faults),
    /// Duplicates while the first receipt holds it, in one reply, and after a delete.
    Duplicates(f64, f64, f64),
    Disorder,
    /// Entries refused; entries done and left out of the reply.
    Entries(f64, f64),
    /// Receive counts raised without a delivery.
    Miscount(f64),
    Store(Vec<Verb>, Faults),
    Busy(f64),
    /// One key (or prefix, or bucket) that answers with an error.
    Rule(&'static str, String, Option<Verb>, StoreError),
    /// The next bodies of this source object.
    Body(String, BodyFault, u32),
    Search(Faults),
    HalfApplied,
    ItemSystemic(f64),
    /// The mapping refuses this key's document.
    Mapping(String),
    Poison(String),
    MostItems(usize),
    NoAlias,
}

impl Trouble {
    /// The longest way to or from a service.
    pub fn slowest(&self) -> Duration {
        match self {
            Trouble::Queue(_, faults)
            | Trouble::DeadLetters(faults)
            | Trouble::Store(_, faults)
            | Trouble::Search(faults) => faults.latency.1,
            Trouble::Duplicates(..)
            | Trouble::Disorder
            | Trouble::Entries(..)
            | Trouble::Miscount(_)
            | Trouble::Busy(_)
            | Trouble::Rule(..)
            | Trouble::Body(..)
            | Trouble::HalfApplied
            | Trouble::ItemSystemic(_)
            | Trouble::Mapping(_)
            | Trouble::Poison(_)
            | Trouble::MostItems(_)
            | Trouble::NoAlias => Duration::ZERO,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QueueVerb {
    Receive,
    Delete,
    Change,
    Send,
}

/// Trouble, from when until when.
#[derive(Clone, Debug)]
pub struct Gust {
    pub from: Duration,
    pub until: Duration,
    pub trouble: Trouble,
}

/// What a trial's services are like throughout.
#[derive(Clone, Copy, Debug)]
pub struct Climate {
    pub stale_delete: StaleDelete,
    pub stale_change: &'static str,
    pub outlive_callers: bool,
    /// Each way of each call.
    pub latency: (Duration, Duration),
}

impl Climate {
    pub fn draw(rng: &mut Rng) -> Self {
        let most = one_of(rng, &[0, 0, 5, 50, 200]);
        Self {
            stale_delete: one_of(rng, &[StaleDelete::Deletes, StaleDelete::Ignored, StaleDelete::Either]),
            stale_change: one_of(rng, &["MessageNotInflight", "ReceiptHandleIsInvalid"]),
            outlive_callers: rng.bool(),
            latency: (Duration::ZERO, millis(most)),
        }
    }
}

pub fn draw(rng: &mut Rng, span: Duration, keys: &[String]) -> Vec<Gust> {
    let count = one_of(rng, &[0, 1, 1, 2, 2, 3, 3, 4, 5, 7]);
    let mut gusts: Vec<Gust> = (0..count)
        .map(|_| {
            let from = millis(rng.u64(0..span.as_millis() as u64));
            let lasts = match rng.u8(0..4) {
                0 => millis(rng.u64(500..20_000)),
                1 | 2 => millis(rng.u64(5_000..180_000)),
                _ => span,
            };
            Gust { from, until: (from + lasts).min(span), trouble: trouble(rng, keys) }
        })
        .collect();
    gusts.sort_by_key(|gust| gust.from);
    gusts
}

fn trouble(rng: &mut Rng, keys: &[String]) -> Trouble {
    let key = |rng: &mut Rng| keys[rng.usize(0..keys.len())].clone();
    match rng.u8(0..22) {
        0..=4 => {
            let all = [QueueVerb::Receive, QueueVerb::Delete, QueueVerb::Change, QueueVerb::Send];
            Trouble::Queue(some(rng, &all), faults(rng))
        }
        5 => Trouble::DeadLetters(faults(rng)),
        6 | 7 => Trouble::Duplicates(share(rng, 0.5), share(rng, 0.3), share(rng, 0.5)),
        8 => Trouble::Disorder,
        9 => Trouble::Entries(share(rng, 0.5), share(rng, 0.3)),
        10 => Trouble::Miscount(share(rng, 0.4)),
        11..=13 => {
            Trouble::Store(some(rng, &[Verb::Head, Verb::Get, Verb::Put, Verb::Delete, Verb::List]), faults(rng))
        }
        14 => Trouble::Busy(share(rng, 0.4)),
        15 => {
            let error = match rng.u8(0..5) {
                0 | 1 => StoreError::Denied("AccessDenied".into()),
                2 => StoreError::Throttled("SlowDown".into()),
                3 => StoreError::Unavailable("InternalError".into()),
                _ => StoreError::Archived("InvalidObjectState".into()),
            };
            match rng.u8(0..4) {
                0 | 1 => Trouble::Rule(SOURCE, key(rng), Some(Verb::Get), error),
                2 => Trouble::Rule(RESULTS, "retry-index/".into(), Some(Verb::Put), error),
                _ => Trouble::Rule(RESULTS, "processed/".into(), Some(Verb::Put), error),
            }
        }
        16 => {
            let at = rng.usize(0..6);
            let fault = match rng.u8(0..4) {
                0 => BodyFault::BreaksAt(at),
                1 => BodyFault::EndsAt(at),
                2 => BodyFault::StallsAt(at),
                _ => BodyFault::Drips(millis(rng.u64(0..40_000))),
            };
            Trouble::Body(key(rng), fault, rng.u32(1..4))
        }
        17 | 18 => Trouble::Search(faults(rng)),
        19 => one_of(rng, &[Trouble::HalfApplied, Trouble::NoAlias, Trouble::MostItems(1)]),
        20 => Trouble::ItemSystemic(share(rng, 0.8)),
        _ => {
            let key = key(rng);
            if rng.bool() { Trouble::Mapping(key) } else { Trouble::Poison(key) }
        }
    }
}

fn some<T: Copy>(rng: &mut Rng, all: &[T]) -> Vec<T> {
    if rng.bool() {
        return all.to_vec();
    }
    vec![all[rng.usize(0..all.len())]]
}

fn faults(rng: &mut Rng) -> Faults {
    let slow = millis(one_of(rng, &[1_000, 4_000, 8_000, 15_000, 40_000]));
    match rng.u8(0..7) {
        0 => Faults { down: true, ..Faults::default() },
        1 => Faults { fail_before: share(rng, 0.6), ..Faults::default() },
        2 => Faults { lose_reply: share(rng, 0.6), ..Faults::default() },
        3 => Faults { throttle: share(rng, 0.6), ..Faults::default() },
        4 => Faults { latency: (Duration::ZERO, slow), ..Faults::default() },
        5 => Faults { latency: (Duration::ZERO, slow), lose_reply: share(rng, 0.4), ..Faults::default() },
        _ => Faults {
            fail_before: share(rng, 0.2),
            lose_reply: share(rng, 0.2),
            throttle: share(rng, 0.1),
            latency: (Duration::ZERO, millis(rng.u64(0..2_500))),
            ..Faults::default()
        },
    }
}

/// Sets the services to what blows at `at`.
pub fn set(world: &World, climate: &Climate, gusts: &[Gust], at: Duration) {
    let calm = Faults { latency: climate.latency, ..Faults::default() };
    let mut queue = QueueFaults {
        stale_delete: climate.stale_delete,
        stale_change: climate.stale_change,
        outlive_callers: climate.outlive_callers,
        ..QueueFaults::default()
    };
    queue.all(&calm);
    let mut dead_letters = queue.clone();
    let mut store = StoreFaults { outlive_callers: climate.outlive_callers, ..StoreFaults::default() };
    store.all(&calm);
    let mut search = SearchFaults { outlive_callers: climate.outlive_callers, ..SearchFaults::default() };
    (search.bulk, search.probe) = (calm.clone(), calm);
    world.store.heal();
    for gust in gusts.iter().filter(|gust| gust.from <= at && at < gust.until) {
        match &gust.trouble {
            Trouble::Queue(verbs, faults) => {
                for verb in verbs {
                    let of = match verb {
                        QueueVerb::Receive => &mut queue.receive,
                        QueueVerb::Delete => &mut queue.delete,
                        QueueVerb::Change => &mut queue.change,
                        QueueVerb::Send => &mut dead_letters.send,
                    };
                    add(of, faults);
                }
            }
            Trouble::DeadLetters(faults) => add(&mut dead_letters.send, faults),
            Trouble::Duplicates(early, twice, risen) => {
                (queue.redeliver_early, queue.twice_in_reply, queue.rise_after_delete) = (*early, *twice, *risen);
            }
            Trouble::Disorder => (queue.reorder, queue.short_receives, queue.impatient) = (true, true, true),
            Trouble::Entries(refuse, forget) => (queue.refuse_entry, queue.forget_entry) = (*refuse, *forget),
            Trouble::Miscount(share) => queue.miscount = *share,
            Trouble::Store(verbs, faults) => {
                for verb in verbs {
                    add(store.of(*verb), faults);
                }
                add(&mut store.probe, faults);
            }
            Trouble::Busy(share) => store.busy = *share,
            Trouble::Rule(bucket, prefix, verb, error) => world.store.inject(Rule {
                bucket: (*bucket).into(),
                prefix: prefix.clone(),
                verb: *verb,
                error: error.clone(),
                times: None,
            }),
            Trouble::Body(key, fault, times) => world.store.spoil_body(SOURCE, key, *fault, *times),
            Trouble::Search(faults) => {
                add(&mut search.bulk, faults);
                add(&mut search.probe, faults);
            }
            Trouble::HalfApplied => search.half_applied = true,
            Trouble::ItemSystemic(share) => {
                let third = *share / 3.0;
                (search.item_systemic, search.item_busy, search.item_unknown) = (third, third, third);
            }
            Trouble::Mapping(key) => {
                search.refuse.insert(document_id(key), "400 mapper_parsing_exception".into());
            }
            Trouble::Poison(key) => {
                search.poison.insert(document_id(key));
            }
            Trouble::MostItems(most) => search.most_items = Some(*most),
            Trouble::NoAlias => search.no_alias = true,
        }
    }
    world.queue.faults(|faults| *faults = queue);
    world.dead_letters.faults(|faults| *faults = dead_letters);
    world.store.faults(|faults| *faults = store);
    world.search.faults(|faults| *faults = search);
}

fn add(to: &mut Faults, more: &Faults) {
    to.down |= more.down;
    to.fail_before = to.fail_before.max(more.fail_before);
    to.lose_reply = to.lose_reply.max(more.lose_reply);
    to.throttle = to.throttle.max(more.throttle);
    to.latency = (to.latency.0.max(more.latency.0), to.latency.1.max(more.latency.1));
}

/// All is well from now on. Returns when that is.
pub fn heal(world: &World, climate: &Climate) -> Instant {
    let well = Climate { latency: (Duration::ZERO, climate.latency.1.min(millis(50))), ..*climate };
    set(world, &well, &[], Duration::ZERO);
    Instant::now()
}
