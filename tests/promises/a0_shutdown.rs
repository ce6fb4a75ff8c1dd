//! P1 and P10, the incident "loss at shutdown": rows A0.x of the fault catalogue (`tests/faults.md`).

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use quittance::queue::Queue as _;
use tokio::time::{Instant, sleep};

use crate::sim::reader::Act;
use crate::sim::{RESULTS, Setup, Site, history};

const SECOND: Duration = Duration::from_secs(1);
const UNIT: &str = include_str!("../../systemd/quittance-worker.service");

/// Workers that are stopped every 5 to 15 s, and started again at once, until the queue is empty; the number of starts.
async fn deploys(site: &Site, setup: &Setup, slot: u64) -> usize {
    let stop_timeout = UNIT.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
    let stop_timeout = Duration::from_secs(stop_timeout.parse().unwrap());
    let mut rng = fastrand::Rng::with_seed(slot);
    let mut starts = 0;
    while !site.world.queue.is_empty() {
        let worker = site.start(&format!("w{slot}-{starts}"), setup);
        starts += 1;
        sleep(Duration::from_millis(rng.u64(5_000..=15_000))).await;
        let asked = Instant::now();
        worker.stop().await; // checks that its books balance, and that nothing is in flight
        assert!(asked.elapsed() < stop_timeout, "the end took {:?}", asked.elapsed());
    }
    starts
}

#[tokio::test(start_paused = true)]
async fn a0_1_ten_thousand_messages_outlive_workers_that_are_stopped_every_few_seconds() {
    const MESSAGES: usize = 10_000;
    let site = Site::new(1);
    site.world.queue.faults(|faults| faults.reorder = true);
    let mut rng = fastrand::Rng::with_seed(1);
    let keys: Vec<String> = (0..MESSAGES).map(|n| format!("{n}.txt")).collect();
    for key in &keys {
        // Some work fits into the drain, and some does not.
        site.reader.plan(key, [Act::Takes(Duration::from_millis(rng.u64(0..2_500)))]);
        site.world.upload(key, format!("text of {key}"), 1);
    }
    let setup = Setup { concurrency: 10, drain: 2 * SECOND, replay: false, ..Setup::default() };
    let starts: usize = join_all((0..3).map(|slot| deploys(&site, &setup, slot))).await.into_iter().sum();
    let facts = site.world.queue.facts().await.unwrap();
    assert_eq!((facts.visible, facts.in_flight, facts.delayed), (0, 0, 0));
    assert_eq!(site.world.dead_letters.live().len(), 0);
    assert_eq!(site.world.store.keys(RESULTS, "processed/").len(), MESSAGES);
    assert_eq!(history::in_step(&site.world, &keys.iter().map(String::as_str).collect::<Vec<_>>()), Ok(()));
    let extra = site.reader.all_works() - MESSAGES;
    assert!(extra <= starts * 10, "{extra} executions too many, {starts} starts");
    assert!(starts > 50 && extra > 20, "only {starts} starts and {extra} works cut short: nothing was shown");
    assert_eq!(site.troubles(), Vec::<String>::new(), "a deploy burns no attempt");
}

#[tokio::test(start_paused = true)]
async fn a0_5_a_thousand_messages_with_forty_skips_balance_and_each_has_its_two_lines() {
    let site = Site::new(5);
    for n in 0..1_000 {
        if n % 25 == 0 {
            site.world.queue.put(r#"{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"source"}"#);
        } else {
            site.world.upload(&format!("{n}.txt"), format!("text {n}"), 1);
        }
    }
    let line = site.drain(&Setup::default()).await;
    assert_eq!((line.received, line.deleted, line.done, line.skipped), (1_000, 1_000, 960, 40), "{line:?}");
    let ids = |event: &str| -> Vec<String> {
        let id = |line: &serde_json::Value| line["message_id"].as_str().unwrap().to_owned();
        let mut ids: Vec<String> = site.lines(event).iter().map(id).collect();
        ids.sort();
        ids
    };
    let received = ids("message_received");
    assert_eq!(received, ids("message_settled"), "lines without their other half");
    assert_eq!(received.iter().collect::<BTreeSet<_>>().len(), 1_000);
}
