//! How long replay is patient with a marker: its own unclear refusals are counted, an outage's are not.
//!
//! Promises that what all suffer is charged to nobody (five distinct documents refused for unclear reasons and none taken
//! in between, as for messages: design §2), that a charged one waits longer each time and the others go on meanwhile, and
//! that the memory is bounded. It is the replayer's own: another replayer counts anew, so that a budget is spent late
//! rather than early. Pure; asks nobody.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::index::everybody::Refused;
use crate::retry::{Backoff, Jitter};

/// Markers that are remembered: about 2 MiB. One that is not is tried again at the next look, without a charge.
const MOST: usize = 10_000;
/// Between seeing that a marker lies in `errored-index/` as well and trusting that it stays there: an operator's reset
/// may be about to remove it (`parked::reset`), and its calls end within a fraction of this.
const BESIDE: Duration = Duration::from_secs(120);

/// Between two tries of one whose request failed as a whole.
const APART: Backoff = Backoff { base: Duration::from_secs(30), cap: Duration::from_secs(300) };

/// `FAILED_RETRY_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Unclear refusals of a document until it goes to `errored-index/`; 0 is as 1.
    pub retries: u32,
    /// Until it is tried again.
    pub backoff: Backoff,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Own {
    refusals: u32,
    /// Requests in a row that failed as a whole while the index was well.
    apart: u32,
    due: Instant,
    beside_since: Option<Instant>,
}

/// What a refusal comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Charge {
    /// It waits.
    Waits,
    /// So many refusals: its budget is spent.
    Spent(u32),
    /// Nobody is taken: not its fault.
    Everybodys,
}

/// The memory of one replayer.
pub struct Patience {
    budget: Budget,
    own: BTreeMap<String, Own>,
    refused: Refused<String>,
}

impl Patience {
    /// Nothing is remembered yet.
    pub fn new(budget: Budget) -> Self {
        Self { budget, own: BTreeMap::new(), refused: Refused::default() }
    }

    /// Whether a marker may be tried now.
    pub fn is_due(&self, key: &str, now: Instant) -> bool {
        self.own.get(key).is_none_or(|own| own.due <= now)
    }

    /// When the next that waits is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.own.values().map(|own| own.due).min()
    }

    /// Markers that are remembered.
    pub fn waiting(&self) -> usize {
        self.own.len()
    }

    /// It is gone: indexed, moved, or taken by somebody else.
    pub fn gone(&mut self, key: &str) {
        self.own.remove(key);
        self.refused.forget(key);
    }

    /// A document was judged by the index: what others suffer is their own.
    pub fn somebody_was_taken(&mut self) {
        self.refused.somebody_was_taken();
    }

    /// A marker was refused for an unclear reason.
    pub fn refused(&mut self, key: &str, now: Instant, jitter: &Jitter) -> Charge {
        let everybodys = self.refused.add(key.to_owned());
        let refusals = self.own.get(key).map_or(0, |own| own.refusals) + u32::from(!everybodys);
        if !everybodys && refusals >= self.budget.retries {
            return Charge::Spent(refusals);
        }
        // It waits also where it is not charged: the next look must ask others, or nobody would ever be taken.
        let due = now + self.budget.backoff.wait(refusals.saturating_sub(1), jitter);
        let beside_since = self.own.get(key).and_then(|own| own.beside_since);
        self.remember(key, Own { refusals, apart: 0, due, beside_since });
        if everybodys { Charge::Everybodys } else { Charge::Waits }
    }

    /// A marker that is to go lies in `errored-index/` already: see `BESIDE`.
    pub fn lies_beside(&mut self, key: &str, now: Instant) {
        let refusals = self.own.get(key).map_or(0, |own| own.refusals);
        self.remember(key, Own { refusals, apart: 0, due: now + BESIDE, beside_since: Some(now) });
    }

    /// The request that it was in failed as a whole while the index was well: perhaps for one of those it went with. Each
    /// waits for a time of its own, uncharged, and so they come to go with others, or alone.
    pub fn apart(&mut self, key: &str, now: Instant, jitter: &Jitter) {
        let (refusals, apart) = self.own.get(key).map_or((0, 0), |own| (own.refusals, own.apart));
        let beside_since = self.own.get(key).and_then(|own| own.beside_since);
        let due = now + APART.wait(apart, jitter);
        self.remember(key, Own { refusals, apart: apart.saturating_add(1), due, beside_since });
    }

    /// It waits for that.
    pub fn stands_apart(&self, key: &str) -> bool {
        self.own.get(key).is_some_and(|own| own.apart > 0)
    }

    /// Whether it has lain there for long enough.
    pub fn trusts_errored(&self, key: &str, now: Instant) -> bool {
        let since = self.own.get(key).and_then(|own| own.beside_since);
        since.is_some_and(|since| now.saturating_duration_since(since) >= BESIDE)
    }

    fn remember(&mut self, key: &str, own: Own) {
        if self.own.len() >= MOST && !self.own.contains_key(key) {
            self.own.retain(|_, own| own.refusals > 0); // those of an outage first
            if self.own.len() >= MOST {
                return;
            }
        }
        self.own.insert(key.to_owned(), own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget =
        Budget { retries: 3, backoff: Backoff { base: Duration::from_secs(30), cap: Duration::from_secs(3_600) } };

    fn patience() -> (Patience, Jitter, Instant) {
        (Patience::new(BUDGET), Jitter::seeded(1), Instant::now())
    }

    #[test]
    fn a_document_that_alone_is_refused_waits_longer_each_time_and_is_given_up_at_its_budget() {
        let (mut patience, jitter, mut now) = patience();
        for (refusal, least) in [(1, 15), (2, 30)] {
            assert_eq!(patience.refused("a", now, &jitter), Charge::Waits, "refusal {refusal}");
            assert!(!patience.is_due("a", now + Duration::from_secs(least) - Duration::from_millis(1)));
            assert!(patience.is_due("b", now), "the others go on");
            now = patience.next_due().unwrap();
            assert!(patience.is_due("a", now));
        }
        assert_eq!(patience.refused("a", now, &jitter), Charge::Spent(3));
        patience.gone("a");
        assert_eq!((patience.waiting(), patience.next_due()), (0, None));
    }

    #[test]
    fn a_budget_of_none_is_spent_at_the_first_refusal() {
        let mut patience = Patience::new(Budget { retries: 0, ..BUDGET });
        assert_eq!(patience.refused("a", Instant::now(), &Jitter::seeded(1)), Charge::Spent(1));
    }

    #[test]
    fn what_all_suffer_is_charged_to_nobody_however_long_it_lasts() {
        let (mut patience, jitter, mut now) = patience();
        for round in 0..50 {
            for n in 0..20 {
                let charge = patience.refused(&format!("{n}"), now, &jitter);
                let first = round == 0 && n < 4;
                assert_eq!(charge, if first { Charge::Waits } else { Charge::Everybodys }, "{n} of round {round}");
                assert!(!patience.is_due(&format!("{n}"), now), "{n} of round {round}: others are asked first");
            }
            now += Duration::from_secs(3_600);
        }
        patience.somebody_was_taken();
        // Those that were first have one charge, the others none.
        let mut spent = |key| (1..9).find(|_| matches!(patience.refused(key, now, &jitter), Charge::Spent(_)));
        assert_eq!((spent("0"), spent("19")), (Some(2), Some(3)));
    }

    #[test]
    fn several_sick_ones_among_well_ones_are_their_own_trouble() {
        let (mut patience, jitter, now) = patience();
        for round in 1..=3 {
            for n in 0..50 {
                let charge = patience.refused(&format!("{n}"), now, &jitter);
                assert_eq!(charge, if round == 3 { Charge::Spent(3) } else { Charge::Waits });
                patience.somebody_was_taken();
            }
        }
    }

    #[test]
    fn the_memory_is_bounded_and_forgets_what_an_outage_left_in_it_first() {
        let (mut patience, jitter, now) = patience();
        for n in 0..(3 * MOST) {
            patience.refused(&format!("{n}"), now, &jitter);
        }
        assert!(patience.waiting() <= MOST);
        assert!(!patience.is_due("0", now), "what was charged is kept");
        for n in 0..(2 * MOST) {
            patience.somebody_was_taken();
            patience.refused(&format!("own {n}"), now, &jitter);
        }
        assert_eq!(patience.waiting(), MOST);
    }

    #[test]
    fn an_errored_marker_that_was_there_before_is_trusted_only_after_a_while() {
        let (mut patience, jitter, now) = patience();
        assert!(!patience.trusts_errored("a", now));
        patience.lies_beside("a", now);
        assert!(!patience.is_due("a", now) && !patience.trusts_errored("a", now));
        patience.refused("a", now + BESIDE, &jitter);
        assert!(patience.trusts_errored("a", now + BESIDE), "also when it was refused meanwhile");
    }
}
