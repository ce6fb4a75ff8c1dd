//! A proxy that holds requests and replies back, loses some and refuses some, by a seed, until it is released.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::relay::{Fate, Head, Relay, answers};
use crate::world::World;

/// Of a hundred requests of a kind: how many meet which fate. The rest passes.
type Share = (u8, Fate);

fn is_bulk(head: &Head) -> bool {
    head.path.contains("_bulk")
}

fn lay(relay: &Relay, seed: u64, shares: impl Fn(&Head) -> Vec<Share> + Send + 'static) {
    let rng = fastrand::Rng::with_seed(seed);
    // A held one is asked about again and again: its fate, and until when.
    let decided: BTreeMap<u64, (Fate, Instant)> = BTreeMap::new();
    // All three tries of the SDK lost would be an outage of S3: a minute's wait, and nothing new.
    let lost: BTreeSet<String> = BTreeSet::new();
    let state = Mutex::new((rng, decided, lost));
    relay.rule(move |head| {
        let (rng, decided, lost) = &mut *state.lock().unwrap();
        if let Some((fate, until)) = decided.get(&head.number) {
            return if Instant::now() < *until { fate.clone() } else { Fate::Pass };
        }
        let (mut dice, long) = (rng.u8(0..100), Duration::from_millis(rng.u64(100..2_500)));
        let struck = shares(head).into_iter().find(|(share, _)| match dice.checked_sub(*share) {
            Some(less) => {
                dice = less;
                false
            }
            None => true,
        });
        let fate = match struck {
            Some((_, Fate::LoseReply)) if !is_bulk(head) && !lost.insert(head.path.clone()) => Fate::Pass,
            Some((_, fate)) => fate,
            None => Fate::Pass,
        };
        decided.insert(head.number, (fate.clone(), Instant::now() + long));
        fate
    });
}

/// Reads of the source are late, so that they are old when they come; writes of records too, and some are done without
/// anybody's hearing of it.
pub fn s3(relay: &Relay, seed: u64, world: &World) {
    let source = world.source.clone();
    let under = ["processed/", "retry-index/"].map(|prefix| format!("/{}/{prefix}", world.results));
    lay(relay, seed, move |head| {
        let [record, marker] = under.each_ref().map(|under| head.path.starts_with(under));
        match head.method.as_str() {
            "PUT" if record => vec![(15, Fate::Hold), (15, Fate::HoldReply), (6, Fate::LoseReply)],
            "PUT" if marker => vec![(10, Fate::HoldReply), (15, Fate::LoseReply)],
            "DELETE" if marker => vec![(15, Fate::Hold), (10, Fate::LoseReply)],
            "GET" if head.downloads_from(&source) || record => vec![(20, Fate::HoldReply)],
            "HEAD" => vec![(15, Fate::HoldReply)],
            _ => Vec::new(),
        }
    });
}

/// Old documents come late, also when nobody waits for them any more.
pub fn search(relay: &Relay, seed: u64) {
    lay(relay, seed, |head| {
        if !is_bulk(head) {
            return Vec::new();
        }
        let sick = answers::search(503, "unavailable_shards_exception", "the fault proxy says so");
        vec![
            (12, Fate::Hold),
            (12, Fate::HoldReply),
            (8, Fate::LoseReply),
            (8, Fate::Late(Duration::from_secs(3))),
            (10, Fate::Answer(sick)),
        ]
    });
}
