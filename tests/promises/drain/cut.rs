//! Killed at any call and run again, or two at once: the end is that of one clean run (P9).

use std::collections::BTreeSet;

use tokio::time::sleep;

use super::*;
use crate::sim::queue::QueueFaults;
use crate::sim::{Cut, Faults, for_seeds};

const SECOND: Duration = Duration::from_secs(1);

/// Some of each kind: to be sent back, archived, indexed, dropped.
struct Mixed {
    owed: Vec<String>,
    archived: BTreeSet<String>,
}

async fn mixed(site: &Site, of_each: usize) -> Mixed {
    let all: Vec<String> = (0..of_each).map(|n| format!("done/{n}.txt")).collect();
    let bodies: Vec<String> = all.iter().map(|key| event(site, key)).collect();
    let ids: Vec<MessageId> = bodies.iter().map(|body| site.world.queue.put(body.clone())).collect();
    let worker = site.start("before", &Setup { search: false, ..Setup::default() });
    site.until_empty().await;
    worker.stop().await;
    for marker in site.world.store.keys(RESULTS, "retry-index/") {
        site.world.store.remove_object(RESULTS, &marker);
    }
    for (body, id) in bodies.into_iter().zip(ids) {
        let attributes = BTreeMap::from([("Quittance".to_owned(), note("deadline", &id.0, 0))]);
        site.world.dead_letters.put_message(Outgoing { body, attributes, group_id: None });
    }
    let owed: Vec<String> = (0..of_each).map(|n| format!("owed/{n}.txt")).collect();
    for key in &owed {
        moved(site, event(site, key));
    }
    let archived = (0..of_each).map(|_| dead(site, "{".into(), "malformed", 0).0).collect();
    Mixed { owed: owed.into_iter().chain(all).collect(), archived }
}

/// Every letter is in the DLQ, in the main queue, durable and indexed, or in the archive.
fn nobody_is_lost(site: &Site, mixed: &Mixed, when: &str) {
    let bodies = |live: Vec<(MessageId, Outgoing, u32)>| live.into_iter().map(|(_, outgoing, _)| outgoing.body);
    let waiting: Vec<String> = bodies(site.world.dead_letters.live()).chain(bodies(site.world.queue.live())).collect();
    for key in &mixed.owed {
        let there = is_indexed(site, key) || waiting.iter().any(|body| body.contains(key));
        let marked = site
            .world
            .store
            .keys(RESULTS, "retry-index/")
            .iter()
            .any(|marker| marker.contains(document_id(key).as_str()));
        assert!(there || marked, "{when}: {key} is lost");
    }
    let (given_up, live) = (archived(site), site.world.dead_letters.live());
    for id in &mixed.archived {
        assert!(given_up.contains_key(id) || live.iter().any(|(live, ..)| live.0 == *id), "{when}: {id} is lost");
    }
}

async fn ends_as_a_clean_run(site: &Site, mixed: &Mixed, when: &str) {
    // A killed one's leases have to lapse.
    sleep(130 * SECOND).await;
    let report = redrive(site, &Typed::default()).await;
    assert_eq!(report.code(), 0, "{when}: {report:?}");
    worked_off(site).await;
    assert!(site.world.dead_letters.is_empty(), "{when}");
    for key in &mixed.owed {
        assert!(is_indexed(site, key), "{when}: {key}");
    }
    let given_up: BTreeSet<String> = archived(site).into_keys().collect();
    assert_eq!(given_up, mixed.archived, "{when}");
}

#[tokio::test(start_paused = true)]
async fn r3_killed_at_any_call_and_run_again_the_end_is_that_of_one_clean_run() {
    let mut ends = BTreeSet::new();
    for cut in [Cut::Before, Cut::After] {
        for call in 0..70 {
            let site = Site::new(1);
            let mixed = mixed(&site, 6).await;
            let typed = Typed { limits: Limits { batch_size: 5, ..Typed::default().limits }, ..Typed::default() };
            let operator = Operator::new(&site, "killed", &typed);
            operator.wires.cut_at(move |asking| (asking.number == call).then_some(cut));
            let wires = Arc::clone(&operator.wires);
            let killed = tokio::spawn(operator.run());
            sleep(100 * SECOND).await;
            ends.insert(wires.is_cut());
            killed.abort();
            let when = format!("{cut:?} call {call}");
            nobody_is_lost(&site, &mixed, &when);
            ends_as_a_clean_run(&site, &mixed, &when).await;
        }
    }
    assert!(ends.contains(&true), "some were killed");
}

#[test]
fn r1_two_at_once_under_faults_lose_nothing_and_their_columns_add_up() {
    for_seeds(0..40, |seed| async move {
        let site = Site::new(seed);
        let mixed = mixed(&site, 40).await;
        let bad =
            Faults { latency: (Duration::ZERO, SECOND), lose_reply: 0.05, fail_before: 0.05, ..Faults::default() };
        site.world.dead_letters.faults(|faults| {
            faults.all(&bad);
            (faults.refuse_entry, faults.forget_entry, faults.redeliver_early) = (0.05, 0.05, 0.02);
        });
        site.world.queue.faults(|faults| {
            faults.send = bad.clone();
            (faults.refuse_entry, faults.forget_entry) = (0.05, 0.05);
        });
        site.world.store.faults(|faults| faults.all(&bad));
        let typed = Typed { limits: Limits { batch_size: 15, ..Typed::default().limits }, ..Typed::default() };
        let runs = ["a", "b"].map(|who| tokio::spawn(Operator::new(&site, who, &typed).run()));
        for run in runs {
            let report = run.await.unwrap();
            assert!(report.tally.deleted + report.tally.lease_lost >= report.tally.finished(), "{report:?}");
            nobody_is_lost(&site, &mixed, "under faults");
        }
        site.world.store.heal();
        site.world.dead_letters.faults(|faults| *faults = QueueFaults::default());
        site.world.queue.faults(|faults| *faults = QueueFaults::default());
        ends_as_a_clean_run(&site, &mixed, &format!("seed {seed}")).await;
    });
}
