//! The judge of a trial: what must hold over everything the services remember, whatever the run was.
//!
//! Reads who asked what, what was answered and when, what the services really hold in the end, and the lines the workers
//! logged, which it holds to the answers. Asks no worker: its counters are what is judged (P10). P9 is redrive's.
//! The history is indexed once (`facts`), and each rule walks the index once: a million trials are judged.

use super::World;
use super::story::{Story, Violation};
use super::worker::Setup;

pub mod blame;
pub mod durable;
pub mod ends;
pub mod facts;
pub mod leases;
pub mod receipts;
pub mod told;

use facts::{Delivery, Facts, Memories};

/// E0: every sent work is durable, dead-lettered, skipped for a reason, or live.
pub const LOST: &str = "E0.lost";
/// E0: nothing is parked after replay.
pub const PARKED: &str = "E0.parked";
pub const P1: &str = "P1";
pub const P2: &str = "P2";
pub const P3: &str = "P3";
pub const P4: &str = "P4";
pub const P5: &str = "P5";
pub const P6: &str = "P6";
/// P7: no write, extension or return without a lease.
pub const LEASE: &str = "P7.lease";
/// P7: at most one call of a receipt is under way.
pub const ONE_CALL: &str = "P7.one_call";
/// P7: a permit is given back only when SQS has answered.
pub const LIMIT: &str = "P7.limit";
pub const P8: &str = "P8";
pub const P10: &str = "P10";

/// Violations as they are found.
#[derive(Default, Debug)]
pub struct Findings(pub Vec<Violation>);

impl Findings {
    pub fn add(&mut self, rule: &'static str, what: String) {
        self.0.push(Violation { rule, what });
    }

    pub fn unless(&mut self, well: bool, rule: &'static str, what: impl FnOnce() -> String) {
        if !well {
            self.add(rule, what());
        }
    }
}

/// Judges a trial; an empty list is an acquittal.
pub fn judge(story: &Story<'_>) -> Vec<Violation> {
    let begun = story.reader.begun();
    remembering(story.world, |memories| {
        let lives = story.workers.iter().map(|worker| (worker.who.as_str(), &worker.setup, Some(worker)));
        let sent = story.sent.iter().map(|(id, body)| (id.0.as_str(), body.as_str()));
        let mut facts = Facts::of(memories, lives, sent, story.keys.iter().map(String::as_str));
        blame::blame_files(&mut facts, &begun);
        let (facts, findings) = (&facts, &mut Findings::default());
        receipts::one_settlement_each(facts, findings);
        receipts::no_delete_without_a_verdict(facts, findings);
        receipts::the_books_are_the_queues(facts, findings);
        let discharged = durable::durable_before_deleted(facts, findings);
        leases::no_write_without_a_lease(facts, findings);
        leases::one_call_at_a_time(facts, findings);
        leases::within_the_limit(facts, findings);
        blame::charged_for_a_cause(facts, findings);
        blame::dead_lettered_for_a_cause(facts, findings);
        let host = blame::host_trouble(&begun);
        blame::returned_for_a_cause(facts, &host, findings);
        blame::closed_for_a_cause(facts, &host, findings);
        ends::moved_for_a_cause(facts, findings);
        ends::nothing_circles(facts, story.drained, findings);
        let dead = ends::Dead::of(memories);
        ends::nothing_is_lost(facts, memories, &dead, &discharged, findings);
        // What is still under way is not in step yet; that it is, is P5's finding.
        if story.drained {
            ends::newest_wins(facts, memories, &dead, findings);
            ends::nothing_is_parked(memories, findings);
        }
        std::mem::take(&mut findings.0)
    })
}

/// Shows what the services of a world remember, without a copy. Nobody may ask them for more meanwhile.
pub fn remembering<T>(world: &World, see: impl FnOnce(&Memories<'_>) -> T) -> T {
    world.queue.look(|queue| {
        world.dead_letters.look(|letters| {
            world.store.look(|store| world.search.look(|search| see(&Memories { queue, letters, store, search })))
        })
    })
}

/// Judges a part of a history, for tests of one promise: the calls of these names, without their lines and ends.
pub fn part<T>(world: &World, lives: &[&str], setup: &Setup, see: impl FnOnce(&Facts<'_>, &mut Findings) -> T) -> T {
    remembering(world, |memories| {
        let lives = lives.iter().map(|who| (*who, setup, None));
        let mut findings = Findings::default();
        let seen = see(&Facts::of(memories, lives, [], []), &mut findings);
        assert!(findings.0.is_empty(), "{:#?}", findings.0);
        seen
    })
}

fn name(facts: &Facts<'_>, delivery: &Delivery<'_>) -> String {
    let message = delivery.message;
    format!("{} (delivery {}, of {})", message.id, message.receive_count, facts.who(delivery.life))
}
