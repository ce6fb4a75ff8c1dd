//! P6 over hours: an outage of any kind costs neither attempts nor receives, whatever the probe can see of it, however
//! few messages there are and however many workers ask for them.

use std::collections::BTreeMap;
use std::time::Duration;

use quittance::message::MessageId;
use quittance::process::extract::ExtractFailure;
use quittance::store::StoreError;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::dead_letter::note;
use crate::sim::queue::{Effect, QueueAsk};
use crate::sim::reader::Act;
use crate::sim::{RESULTS, Rule, SOURCE, Setup, Site, Verb, Worker, World, history, until};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// Calls of this verb below this prefix fail.
fn rule(bucket: &str, prefix: &str, verb: Option<Verb>, error: StoreError) -> Rule {
    Rule { bucket: bucket.into(), prefix: prefix.into(), verb, error, times: None }
}

fn down(bucket: &str, prefix: &str, verb: Option<Verb>) -> Rule {
    rule(bucket, prefix, verb, StoreError::Unavailable("503".into()))
}

type Outage = (&'static str, fn(&Site));

/// From what every probe sees to what none can.
const OUTAGES: [Outage; 6] = [
    ("all of S3", |site| {
        site.world.store.inject(down(SOURCE, "", None));
        site.world.store.inject(down(RESULTS, "", None));
    }),
    ("objects cannot be read", |site| site.world.store.inject(down(SOURCE, "", Some(Verb::Get)))),
    ("nothing can be written", |site| site.world.store.inject(down(RESULTS, "", Some(Verb::Put)))),
    ("records cannot be written", |site| site.world.store.inject(down(RESULTS, "processed/", Some(Verb::Put)))),
    ("neither index nor parking", |site| {
        site.world.search.down_for(100 * HOUR);
        site.world.store.inject(down(RESULTS, "retry-index/", Some(Verb::Put)));
    }),
    ("no extraction on any host", |site| {
        let sick = ExtractFailure::Unavailable { detail: "no process can be started".into() };
        for (_, outgoing, _) in site.world.queue.live() {
            let body: Value = serde_json::from_str(&outgoing.body).unwrap();
            let key = body["Records"][0]["s3"]["object"]["key"].as_str().unwrap();
            site.reader.plan(key, [Act::Fails(sick.clone())]);
        }
    }),
];

fn heal(site: &Site, keys: &[String]) {
    site.world.store.heal();
    site.world.search.faults(|faults| *faults = Default::default());
    keys.iter().for_each(|key| site.reader.plan(key, [Act::Reads]));
}

fn upload(site: &Site, files: usize) -> Vec<String> {
    let keys: Vec<String> = (0..files).map(|n| format!("{n}.txt")).collect();
    keys.iter().for_each(|key| drop(site.world.upload(key, format!("text of {key}"), 1)));
    keys
}

fn start(site: &Site, workers: usize, setup: &Setup) -> Vec<Worker> {
    (0..workers).map(|n| site.start(&format!("w{n}"), setup)).collect()
}

/// All end well, and everything is done and nothing dead.
async fn finish(site: &Site, workers: Vec<Worker>, files: usize, name: &str) {
    let mut done = 0;
    for worker in workers {
        done += worker.stop().await.done;
    }
    assert_eq!((done, site.world.dead_letters.live().len()), (files as u64, 0), "{name}");
    assert_eq!(site.troubles(), Vec::<String>::new(), "{name}: an attempt was charged");
}

/// The most receives of one message within any hour.
fn most_in_an_hour(site: &Site) -> usize {
    let mut times: BTreeMap<MessageId, Vec<Instant>> = BTreeMap::new();
    for (stamp, effect) in site.world.queue.effects() {
        if let Effect::Delivered { id, .. } = effect {
            times.entry(id).or_default().push(stamp.at);
        }
    }
    let busiest = |times: Vec<Instant>| {
        let within = |from: &Instant| times.iter().filter(|at| **at >= *from && **at < *from + HOUR).count();
        times.iter().map(within).max().unwrap_or(0)
    };
    times.into_values().map(busiest).max().unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn six_hours_of_any_outage_do_not_take_the_only_message_from_us() {
    for (name, begin) in OUTAGES {
        for (workers, limit) in [(1, 5), (1, 20), (20, 5)] {
            if workers > 1 && !["all of S3", "records cannot be written"].contains(&name) {
                continue; // one that every probe sees, and one that none does: the others are costly and teach no more
            }
            let name = format!("{name}, {workers} workers, maxReceiveCount {limit}");
            let site = Site::in_world(World::with(1, limit));
            let keys = upload(&site, 1);
            begin(&site);
            let setup = Setup { max_receive_count: Some(limit), ..Setup::default() };
            let workers = start(&site, workers, &setup);
            sleep(6 * HOUR).await;
            let receives = history::receives(&site.world.queue).values().copied().max().unwrap_or(0);
            assert_eq!(site.world.dead_letters.live().len(), 0, "{name}: {receives} receives");
            heal(&site, &keys);
            let healed = Instant::now();
            site.until_empty().await;
            assert!(healed.elapsed() < 1_200 * SECOND, "{name}: {:?}", healed.elapsed());
            finish(&site, workers, 1, &name).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn three_hours_without_a_store_cost_two_receives_an_hour_and_four_in_all() {
    // In order, SQS would hand out the same few again and again: no luck is needed.
    for (reorder, outages) in [(true, &OUTAGES[..1]), (true, &OUTAGES[2..3]), (false, &OUTAGES[3..5])] {
        for (name, begin) in outages {
            let site = Site::new(7);
            site.world.queue.faults(|faults| faults.reorder = reorder);
            let keys = upload(&site, 300);
            // In the middle of it: 200 are in hand, 100 wait.
            site.world.store.faults(|faults| faults.get.latency = (SECOND, SECOND));
            let workers = start(&site, 20, &Setup { concurrency: 10, ..Setup::default() });
            sleep(1_500 * SECOND / 1_000).await;
            let in_hand: u64 = workers.iter().map(|worker| worker.books.snapshot(false).in_flight).sum();
            assert_eq!(in_hand, 200, "{name}");
            begin(&site);
            sleep(3 * HOUR).await;
            assert_eq!(site.world.dead_letters.live().len(), 0, "{name}");
            heal(&site, &keys);
            let healed = Instant::now();
            site.until_empty().await;
            assert!(healed.elapsed() < 1_200 * SECOND, "{name}: {:?}", healed.elapsed());
            let most = history::receives(&site.world.queue).values().copied().max();
            assert!(most <= Some(4), "{name}, reorder {reorder}: one message was received {most:?} times");
            assert!(most_in_an_hour(&site) <= 2, "{name}, reorder {reorder}: {} in an hour", most_in_an_hour(&site));
            finish(&site, workers, 300, name).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_throttled_records_four_keys_a_worker_are_charged_once_and_the_rest_waits() {
    let site = Site::new(7);
    let keys = upload(&site, 60);
    site.world.store.inject(rule(RESULTS, "processed/", None, StoreError::Throttled("SlowDown".into())));
    let workers = start(&site, 3, &Setup::default());
    sleep(3 * HOUR).await;
    let charged = site.world.store.keys(RESULTS, "attempts/").len();
    assert!((4..=12).contains(&charged), "{charged}");
    heal(&site, &keys);
    site.until_empty().await;
    let mut done = 0;
    for worker in workers {
        done += worker.stop().await.done;
    }
    assert_eq!((done, site.world.dead_letters.live().len()), (60, 0));
    assert!(most_in_an_hour(&site) <= 3, "{}", most_in_an_hour(&site));
}

#[tokio::test(start_paused = true)]
async fn healing_is_noticed_within_a_minute_and_nobody_stampedes() {
    let site = Site::new(3);
    let keys = upload(&site, 2_000);
    OUTAGES[0].1(&site);
    let workers = start(&site, 20, &Setup { concurrency: 4, ..Setup::default() });
    sleep(HOUR).await;
    heal(&site, &keys);
    // As slow as it takes for all of them to come back before the queue is empty.
    let slow = (SECOND / 2, SECOND);
    site.world.store.faults(|faults| (faults.get.latency, faults.put.latency) = (slow, slow));
    let healed = Instant::now();
    until("the first is done", 61 * SECOND, || site.settlements().iter().any(|end| end == "done/deleted")).await;
    site.until_empty().await;
    let calls = site.world.queue.calls();
    let mut first: BTreeMap<String, Instant> = BTreeMap::new();
    for call in calls.iter().filter(|call| call.asked.at >= healed) {
        if matches!(call.ask, QueueAsk::Receive { max: 2.., .. }) {
            first.entry(call.who.to_string()).or_insert(call.asked.at);
        }
    }
    assert_eq!(first.len(), 20, "all are back");
    let together = |from: &Instant| first.values().filter(|at| **at >= *from && **at < *from + SECOND).count();
    let most = first.values().map(together).max().unwrap();
    assert!(most <= 6, "{most} of 20 workers began in the same second");
    finish(&site, workers, 2_000, "healed").await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_keeps_messages_in_an_outage_gives_them_back_when_it_stops() {
    let site = Site::new(1);
    let keys = upload(&site, 1);
    OUTAGES[3].1(&site);
    let worker = site.start("w", &Setup::default());
    until("it is kept", HOUR, || {
        worker.books.snapshot(false).in_flight == 1 && site.lines("breaker_opened").len() == 1
    })
    .await;
    sleep(600 * SECOND).await;
    assert_eq!(worker.books.snapshot(false).in_flight, 1, "kept, with its heartbeat");
    assert_eq!(site.world.queue.visible(), 0);
    let stopping = Instant::now();
    let line = worker.stop().await;
    assert!(stopping.elapsed() < 20 * SECOND, "not at the drain deadline: {:?}", stopping.elapsed());
    assert_eq!((line.lease_lost, line.returned), (0, line.received));
    heal(&site, &keys);
    assert_eq!(site.drain(&Setup::default()).await.done, 1);
    assert!(history::receives(&site.world.queue).values().all(|count| *count <= 4));
}

/// Objects of this prefix are denied.
fn deny(site: &Site, prefix: &str) {
    let denied = StoreError::Denied("AccessDenied".into());
    site.world.store.inject(rule(SOURCE, prefix, Some(Verb::Get), denied));
}

#[tokio::test(start_paused = true)]
async fn five_denied_objects_alone_in_a_queue_end_denied_where_others_can_be_read() {
    let site = Site::new(1);
    deny(&site, "secret");
    site.world.store.put_object(SOURCE, "other.txt", "was done long ago");
    for n in 0..5 {
        site.world.upload(&format!("secret-{n}.txt"), "text", 1);
    }
    let worker = site.start("w", &Setup::default());
    site.until_empty().await;
    assert_eq!(site.lines("breaker_opened").len(), 1, "{:?}", site.lines("breaker_opened"));
    let reasons: Vec<_> =
        site.world.dead_letters.live().iter().map(|letter| note(&letter.1)["reason"].clone()).collect();
    assert_eq!(reasons, ["denied"; 5]);
    // And a good one is not held up by them.
    site.world.upload("good.txt", "text", 1);
    until("it is done", 120 * SECOND, || site.world.queue.live().is_empty()).await;
    let line = worker.stop().await;
    assert_eq!((line.done, line.dead_lettered), (1, 5));
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_denies_everything_for_six_hours_is_no_verdict_on_the_objects() {
    // Each worker counts for itself: five keys have to pass by each of them.
    for (files, workers) in [(5, 1), (60, 3)] {
        let site = Site::new(1);
        deny(&site, "");
        upload(&site, files);
        let workers = start(&site, workers, &Setup::default());
        sleep(6 * HOUR).await;
        assert_eq!(site.world.dead_letters.live().len(), 0, "{files}");
        site.world.store.heal();
        site.until_empty().await;
        let mut done = 0;
        for worker in workers {
            done += worker.stop().await.done;
        }
        assert_eq!((done, site.world.dead_letters.live().len()), (files as u64, 0), "{files}");
    }
}
