//! P4, P7 and P8, the incident "the stampede": rows A4.x of the fault catalogue (`tests/faults.md`), as far as they
//! concern settlement; and A3.3 and A3.6, which are about the same clocks.

use std::collections::BTreeMap;
use std::time::Duration;

use quittance::config::OnMissingObject;
use quittance::outcome::{Outcome, RetryReason, Rules, Settlement, Verdict};
use quittance::retry::{Backoff, Jitter};
use tokio::time::{Instant, sleep};

use crate::sim::reader::Act;
use crate::sim::{Faults, QueueAsk, RESULTS, SearchAsk, Setup, Site, StaleDelete, history, record_key, until};

const SECOND: Duration = Duration::from_secs(1);
const VISIBILITY: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a4_1_an_index_slower_than_its_timeout_is_not_stormed() {
    const SLOW: Duration = Duration::from_secs(35);
    let site = Site::new(1);
    // What its client has given up goes on at the server.
    site.world.search.faults(|faults| {
        faults.bulk.latency = (SLOW, SLOW);
        faults.outlive_callers = true;
    });
    for n in 0..500 {
        site.world.upload(&format!("{n}.txt"), format!("text {n}"), 1);
    }
    let setup = Setup { concurrency: 25, search_timeout: Some(10 * SECOND), ..Setup::default() };
    let began = Instant::now();
    let worker = site.start("w", &setup);
    site.until_empty().await;
    sleep((600 * SECOND).saturating_sub(began.elapsed())).await;
    let bulks: Vec<Instant> = site
        .world
        .search
        .calls()
        .iter()
        .filter(|call| matches!(call.ask, SearchAsk::Bulk(_)))
        .map(|call| call.asked.at)
        .collect();
    let at_once =
        bulks.iter().map(|at| bulks.iter().filter(|other| **other <= *at && *at < **other + 2 * SLOW).count());
    let at_once = at_once.max().unwrap();
    assert!(at_once <= 25, "{at_once} requests at once, abandoned ones too");
    assert!((1..=550).contains(&bulks.len()), "{} requests in ten minutes", bulks.len());
    assert_eq!(site.world.dead_letters.live().len(), 0);
    let line = worker.stop().await;
    assert_eq!((line.done, line.documents_indexed + line.documents_parked, line.lease_lost), (500, 500, 0), "{line:?}");
}

/// A second for each document, one after the other, also those of requests that were given up: ten of them fit into a
/// request timeout.
#[tokio::test(start_paused = true)]
async fn a4_1_an_index_too_slow_for_whole_batches_is_given_smaller_ones_and_takes_what_it_can() {
    let site = Site::new(1);
    site.world.search.faults(|faults| (faults.work, faults.outlive_callers) = (SECOND, true));
    let keys: Vec<String> = (0..500).map(|n| format!("{n}.txt")).collect();
    keys.iter().for_each(|key| drop(site.world.upload(key, format!("text of {key}"), 1)));
    let worker = site.start("w", &Setup { concurrency: 25, ..Setup::default() });
    site.until_empty().await;
    let line = worker.books.snapshot(false);
    assert_eq!((line.done, line.documents_indexed + line.documents_parked), (500, 500), "{line:?}");
    until("nothing is parked", 4 * 3_600 * SECOND, || site.world.store.keys(RESULTS, "retry-index/").is_empty()).await;
    let calls = site.world.search.calls();
    let batches: Vec<usize> = calls
        .iter()
        .filter_map(|call| if let SearchAsk::Bulk(items) = &call.ask { Some(items.len()) } else { None })
        .collect();
    let largest_later = batches.iter().skip(3).max().unwrap();
    assert!(*largest_later < 10, "{batches:?}");
    assert_eq!(site.world.dead_letters.live().len(), 0);
    assert_eq!(history::in_step(&site.world, &keys.iter().map(String::as_str).collect::<Vec<_>>()), Ok(()));
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a4_3_work_whose_heartbeats_fail_for_a_lease_writes_nothing_after_it_and_the_second_worker_completes() {
    for faults in [Faults { down: true, ..Faults::default() }, Faults { lose_reply: 1.0, ..Faults::default() }] {
        let site = Site::new(3);
        // Cut off from SQS for 90 s; without the end of the lease, it would write in the middle of that.
        site.reader.plan("a.txt", [Act::Takes(65 * SECOND), Act::Reads]);
        site.world.upload("a.txt", "old text", 1);
        let first = site.start("first", &Setup { concurrency: 1, ..Setup::default() });
        until("the first has it", 5 * SECOND, || site.reader.works("a.txt") == 1).await;
        site.world.queue.faults(|all| (all.change, all.delete) = (faults.clone(), faults));
        site.world.upload("a.txt", "new text", 2);
        let second = site.start("second", &Setup::default());
        sleep(90 * SECOND).await;
        site.world.queue.faults(|all| (all.change, all.delete) = Default::default());
        site.until_empty().await;
        for who in ["first", "second"] {
            history::no_write_without_a_lease(&site.world, who, VISIBILITY);
        }
        assert_eq!(history::in_step(&site.world, &["a.txt"]), Ok(()));
        let line = first.stop().await;
        assert!(line.lease_lost >= 1, "{line:?}");
        assert!(second.stop().await.received >= 1);
    }
}

/// The extension that would tell the first worker is not due yet when both write.
#[tokio::test(start_paused = true)]
async fn a4_4_a_message_that_two_workers_process_makes_one_document_of_the_newest_state() {
    for stale_delete in [StaleDelete::Ignored, StaleDelete::Deletes] {
        for (first_takes, second_takes) in [(15, 0), (15, 5), (5, 15), (10, 10)] {
            for overwritten in [false, true] {
                let site = Site::new(4);
                site.world.queue.faults(|faults| (faults.redeliver_early, faults.stale_delete) = (1.0, stale_delete));
                site.reader.plan("a.txt", [first_takes, second_takes, 0].map(|seconds| Act::Takes(seconds * SECOND)));
                site.world.upload("a.txt", "old text", 1);
                let one = Setup { concurrency: 1, visibility: 60 * SECOND, ..Setup::default() };
                let first = site.start("first", &one);
                until("the first has it", 5 * SECOND, || site.reader.works("a.txt") == 1).await;
                site.world.queue.faults(|faults| faults.redeliver_early = 0.0);
                if overwritten {
                    site.world.upload("a.txt", "new text", 2);
                }
                let second = site.start("second", &Setup::default());
                site.until_empty().await;
                let name = format!("{stale_delete:?}, {first_takes} s, {second_takes} s, overwritten: {overwritten}");
                assert_eq!(history::in_step(&site.world, &["a.txt"]), Ok(()), "{name}");
                let records = site.world.store.keys(RESULTS, "processed/");
                assert_eq!((records, site.world.search.documents().len()), (vec![record_key("a.txt")], 1), "{name}");
                for who in ["first", "second"] {
                    history::durable_before_deleted(&site.world, who);
                    history::no_write_without_a_lease(&site.world, who, VISIBILITY);
                }
                first.stop().await;
                second.stop().await;
            }
        }
    }
}

/// What fails in one second does not come back in one second.
#[test]
fn a3_3_five_thousand_failures_of_one_second_come_back_spread_out() {
    let jitter = Jitter::seeded(1);
    let backoff = Backoff { base: 30 * SECOND, cap: 900 * SECOND };
    let (on_missing, max_receive_count) = (OnMissingObject::DeadLetter, None);
    let rules = Rules { max_attempts: 5, backoff, on_missing, max_receive_count };
    for (failed_before, least, most) in [(0, 15, 30), (1, 30, 60), (3, 120, 240)] {
        let mut arrivals: BTreeMap<u64, u32> = BTreeMap::new();
        for n in 0..5_000 {
            let failed_at = Duration::from_micros(n * 200);
            let verdict = Verdict::Judged(Outcome::Retry(RetryReason::ChildCrashed("signal 11".into())));
            let plan = rules.plan(&verdict, failed_before, 1, &jitter);
            let Settlement::Return(delay) = plan.settlement else { panic!("{plan:?}") };
            *arrivals.entry((failed_at + delay).as_secs()).or_default() += 1;
        }
        let (first, last) = (*arrivals.keys().next().unwrap(), *arrivals.keys().next_back().unwrap());
        assert!(first >= least && last <= most, "{first} to {last} s");
        // Over the window that it should be spread over: without jitter all would come in its last second.
        let mean = 5_000.0 / f64::from(u32::try_from(most - least).unwrap());
        let peak = f64::from(*arrivals.values().max().unwrap());
        assert!(peak / mean <= 2.0, "{peak} in one second, {mean} in the mean");
    }
}

#[tokio::test(start_paused = true)]
async fn a3_6_a_wall_clock_that_jumps_moves_no_lease() {
    const HOUR_MS: i64 = 3_600_000;
    const TEN_YEARS_MS: i64 = 10 * 365 * 24 * HOUR_MS;
    let site = Site::new(6);
    let keys: Vec<String> = (0..20).map(|n| format!("{n}.txt")).collect();
    for key in &keys {
        site.reader.plan(key, [Act::Takes(300 * SECOND)]);
        site.world.upload(key, format!("text of {key}"), 1);
    }
    let worker = site.start("w", &Setup::default());
    for step in [HOUR_MS, -2 * HOUR_MS, TEN_YEARS_MS, -2 * TEN_YEARS_MS, TEN_YEARS_MS + HOUR_MS] {
        sleep(50 * SECOND).await;
        site.world.clock.step(step);
    }
    site.until_empty().await;
    let extensions: Vec<Instant> = site
        .world
        .queue
        .calls()
        .iter()
        .filter(|call| matches!(call.ask, QueueAsk::Change(_)))
        .map(|call| call.asked.at)
        .collect();
    assert!(extensions.windows(2).all(|pair| pair[1] - pair[0] <= 20 * SECOND), "late: {extensions:?}");
    assert!(extensions.len() <= 16 * 2, "{} extensions of twenty leases, in batches of ten", extensions.len());
    let line = worker.stop().await;
    assert_eq!((line.received, line.done, line.lease_lost, site.reader.all_works()), (20, 20, 0, 20));
    assert_eq!(history::in_step(&site.world, &keys.iter().map(String::as_str).collect::<Vec<_>>()), Ok(()));
}
