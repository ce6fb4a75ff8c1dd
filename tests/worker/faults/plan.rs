//! When a fault strikes: which calls it is meant for, and which of those it hits.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::ledger::LEASE_SECONDS;
use crate::relay::{Fate, Head, Relay};

/// Which calls of an operation are hit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Position {
    First,
    /// The third.
    Nth,
    /// All, until healed after a while.
    While,
    /// All, until the leases are over.
    PastTheLease,
}

impl Position {
    /// How long the fault lasts after its first hit; `None` where it is a single call.
    pub fn lasts(self) -> Option<Duration> {
        match self {
            Position::First | Position::Nth => None,
            Position::While => Some(Duration::from_secs(4)),
            Position::PastTheLease => Some(Duration::from_secs(LEASE_SECONDS + 2)),
        }
    }
}

/// A position counts calls from 1.
const NTH: usize = 3;

#[derive(Default)]
struct Count {
    seen: usize,
    /// Numbers of calls that were hit, and let go: a held one is asked about again.
    hit: BTreeSet<u64>,
    spared: BTreeSet<u64>,
    at: Vec<Instant>,
    healed: bool,
}

/// A fault that has been laid in the way of an operation.
#[derive(Clone)]
pub struct Plan(Arc<Mutex<Count>>);

impl Plan {
    pub fn lay(
        relay: &Relay,
        is_meant: impl Fn(&Head) -> bool + Send + 'static,
        fate: Fate,
        position: Position,
    ) -> Self {
        Self::beside(relay, is_meant, fate, position, |_| Fate::Pass)
    }

    /// With another rule for the calls that are not meant, until the fault has struck.
    pub fn beside(
        relay: &Relay,
        is_meant: impl Fn(&Head) -> bool + Send + 'static,
        fate: Fate,
        position: Position,
        others: impl Fn(&Head) -> Fate + Send + 'static,
    ) -> Self {
        let count: Arc<Mutex<Count>> = Arc::default();
        let plan = Self(Arc::clone(&count));
        relay.rule(move |head| {
            let mut count = count.lock().unwrap();
            if count.healed || count.spared.contains(&head.number) {
                return Fate::Pass;
            }
            if !is_meant(head) {
                return if count.at.is_empty() { others(head) } else { Fate::Pass };
            }
            if count.hit.contains(&head.number) {
                return fate.clone();
            }
            count.seen += 1;
            let strikes = match position {
                Position::First => count.seen == 1,
                Position::Nth => count.seen == NTH,
                Position::While | Position::PastTheLease => true,
            };
            if strikes {
                count.hit.insert(head.number);
                count.at.push(Instant::now());
                fate.clone()
            } else {
                count.spared.insert(head.number);
                Fate::Pass
            }
        });
        plan
    }

    pub fn heal(&self, relay: &Relay) {
        self.0.lock().unwrap().healed = true;
        relay.up();
    }

    pub fn hits(&self) -> usize {
        self.0.lock().unwrap().at.len()
    }

    /// Calls that were meant so far, hit or not.
    pub fn seen(&self) -> usize {
        self.0.lock().unwrap().seen
    }

    pub fn first_hit(&self) -> Option<Instant> {
        self.0.lock().unwrap().at.first().copied()
    }

    /// The most hits within any one second: a busy loop shows here.
    pub fn most_in_a_second(&self) -> usize {
        let at = &self.0.lock().unwrap().at;
        let within =
            |from: &Instant| at.iter().filter(|hit| *hit >= from && **hit < *from + Duration::from_secs(1)).count();
        at.iter().map(within).max().unwrap_or(0)
    }
}
