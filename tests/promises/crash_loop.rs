//! Crash loops: a message that kills its worker is alone from the second time and dead-lettered at the third; deploys,
//! outages and the company of such a message condemn nobody (design §4).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quittance::gate::Gate;
use quittance::message::MessageId;
use quittance::pipeline;
use quittance::queue::{BatchSize, Queue as _};
use quittance::retry::Jitter;
use quittance::store::StoreError;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::dead_letter::note;
use crate::sim::bench::{BENCH, Bench};
use crate::sim::reader::Act;
use crate::sim::{
    Cut, Faults, QueueAsk, RESULTS, Rule, SOURCE, Setup, Site, StoreAsk, Verb, Worker, World, for_seeds, history, until,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
/// As long as the store must take writes before a suspect is begun: two leases.
const STEADY: Duration = Duration::from_secs(120);

/// Deliveries that ended nowhere, as peeks and lost polls leave them.
pub async fn delivered_before(site: &Site, times: u32) {
    for _ in 0..times {
        for _ in 0..site.world.queue.live().len().div_ceil(10) {
            let peek = site.world.queue.receive(BatchSize::clamped(10), Duration::ZERO, SECOND);
            assert!(!peek.await.unwrap().is_empty());
        }
        sleep(2 * SECOND).await;
    }
}

/// Marks that dead workers have left.
pub fn marked_by(site: &Site, message: &MessageId, runs: &[&str]) {
    let mark = |run: &&str| json!({"run": run, "at": "2026-11-22T00:00:00.000Z", "receive_count": 5});
    let begun: Vec<Value> = runs.iter().map(mark).collect();
    let record = json!({"v": 1, "message_id": message.0, "failed": 0, "first_failed_at": null,
        "last_failed_at": null, "reasons": [], "begun": begun});
    site.world.store.put_object(RESULTS, &format!("attempts/default/{message}.json"), record.to_string());
}

/// Runs that have an uncleared mark on this message.
pub fn marks(site: &Site, message: &MessageId) -> Vec<String> {
    let record = site.attempts_of(message).unwrap_or_default();
    let begun = record["begun"].as_array().cloned().unwrap_or_default();
    begun.iter().map(|mark| mark["run"].as_str().unwrap().to_owned()).collect()
}

pub fn sick(verb: Option<Verb>, prefix: &str, error: StoreError, times: Option<u32>) -> Rule {
    Rule { bucket: RESULTS.into(), prefix: prefix.into(), verb, error, times }
}

pub fn unavailable() -> StoreError {
    StoreError::Unavailable("503".into())
}

/// A worker that dies when it fetches this file.
fn mortal(site: &Site, who: &str, setup: &Setup, killer: &str) -> Worker {
    let worker = site.start(who, setup);
    let place = format!("{SOURCE}/{killer}");
    worker.wires.cut_at(move |asking| (asking.verb == "get" && asking.place == place).then_some(Cut::Before));
    worker
}

/// Two machines whose workers die of the file and are restarted, until the queue is empty; the number of deaths.
async fn until_nothing_is_left(site: &Site, setup: &Setup, killer: &str) -> usize {
    let mut deaths = 0;
    let mut workers: Vec<Worker> = (0..2).map(|machine| mortal(site, &format!("m{machine}"), setup, killer)).collect();
    let began = Instant::now();
    while !site.world.queue.live().is_empty() {
        assert!(began.elapsed() < 6 * HOUR, "it circles");
        sleep(SECOND).await;
        for worker in &mut workers {
            if worker.wires.is_cut() {
                deaths += 1;
                let who = format!("after-{deaths}");
                std::mem::replace(worker, mortal(site, &who, setup, killer)).crash();
            }
        }
    }
    for worker in workers {
        worker.stop().await;
    }
    deaths
}

#[test]
fn a_file_that_kills_its_worker_is_alone_the_second_time_and_dead_lettered_at_the_third() {
    // maxReceiveCount, and the deaths before the third mark is due.
    for (limit, deaths) in [(20, 6), (8, 6), (5, 3), (4, 3)] {
        for_seeds(0..20, |seed| async move {
            let site = Site::in_world(World::with(seed, limit));
            site.world.queue.faults(|faults| faults.reorder = true);
            let slow = Faults { latency: (Duration::ZERO, 3 * SECOND), ..Faults::default() };
            site.world.store.faults(|faults| faults.all(&slow));
            let killer = site.world.upload("killer.txt", "text", 1);
            let innocents: Vec<String> = (0..12).map(|n| format!("{n}.txt")).collect();
            for (n, key) in innocents.iter().enumerate() {
                // Some are always in work when it happens.
                site.reader.plan(key, [Act::Takes(Duration::from_secs(5 * n as u64))]);
                site.world.upload(key, format!("text {n}"), 1);
            }
            let setup = Setup { max_receive_count: Some(limit), ..Setup::default() };
            assert_eq!(until_nothing_is_left(&site, &setup, "killer.txt").await, deaths, "limit {limit}");

            let letters = site.world.dead_letters.live();
            assert_eq!(letters.len(), 1, "{letters:?}");
            let note = note(&letters[0].1);
            assert_eq!((&note["reason"], &note["message_id"]), (&json!("crash_loop"), &json!(killer.0)));
            assert_eq!(note["attempts"], 2, "{note}");
            let detail = note["detail"].as_str().unwrap();
            for time in ["first_failed_at", "last_failed_at"] {
                assert!(detail.contains(note[time].as_str().unwrap()), "{note}");
            }
            let alone: Vec<Value> = site.lines("taken_alone");
            let of_killer = alone.iter().filter(|line| line["message_id"] == killer.0.as_str()).count();
            assert_eq!((of_killer, site.lines("crash_loop").len()), (1, 1));
            let settled = site.lines("message_settled");
            // Those that died have lines too, which nobody would have read.
            let last = settled.iter().find(|line| line["reason"] == "crash_loop").unwrap();
            let of = (&last["message_id"], &last["outcome"], &last["settlement"]);
            assert_eq!(of, (&json!(killer.0), &json!("rejected"), &json!("dead_lettered")));
            let keys: Vec<&str> = innocents.iter().map(String::as_str).collect();
            assert_eq!(history::in_step(&site.world, &keys), Ok(()));
        });
    }
}

/// SQS is quicker there, and gives no reason: `check` asks for more receives.
#[tokio::test(start_paused = true)]
async fn with_three_receives_sqs_moves_it_before_we_can_know() {
    let site = Site::in_world(World::with(1, 3));
    site.world.upload("killer.txt", "text", 1);
    let setup = Setup { max_receive_count: Some(3), ..Setup::default() };
    assert_eq!(until_nothing_is_left(&site, &setup, "killer.txt").await, 3);
    assert!(!site.world.dead_letters.live()[0].1.attributes.contains_key("Quittance"));
}

/// Files in work at the same time as this one.
fn beside(site: &Site, key: &str, others: &[String]) -> Vec<String> {
    let spans = site.reader.spans(key);
    assert!(!spans.is_empty(), "{key} was never in work");
    let meets = |other: &&String| {
        let theirs = site.reader.spans(other);
        spans.iter().any(|(from, to)| theirs.iter().any(|(begun, ended)| begun < to && from < ended))
    };
    others.iter().filter(|other| **other != key).filter(meets).cloned().collect()
}

#[tokio::test(start_paused = true)]
async fn a_suspect_is_alone_in_its_process_and_nothing_is_asked_for_meanwhile() {
    let site = Site::new(1);
    let keys: Vec<String> = (0..12).map(|n| format!("{n}.txt")).collect();
    let mut ids = Vec::new();
    for (n, key) in keys.iter().enumerate() {
        // Longer than the wait for a steady store: the suspects meet others in work.
        site.reader.plan(key, [Act::Takes(Duration::from_secs(200 + 10 * n as u64))]);
        ids.push(site.world.upload(key, format!("text {n}"), 1));
    }
    delivered_before(&site, 5).await;
    let suspects = ["3.txt".to_owned(), "7.txt".to_owned(), "8.txt".to_owned()];
    for n in [3, 7, 8] {
        marked_by(&site, &ids[n], &["dead"]);
    }
    let worker = site.start("w", &Setup { concurrency: 30, ..Setup::default() });
    sleep(STEADY / 2).await;
    // Arrives while the suspects wait for the store, and for what they find in work: intake goes on, then stands still.
    site.world.upload("early.txt", "text", 1);
    until("it is begun", 30 * SECOND, || site.reader.works("early.txt") == 1).await;
    sleep(STEADY).await;
    assert!(suspects.iter().all(|key| site.reader.works(key) == 0), "others are in work");
    site.world.upload("late.txt", "text", 1);
    until("all are done but the late one", HOUR, || site.world.queue.live().len() <= 1).await;
    let all: Vec<String> = keys.iter().cloned().chain(["early.txt".into(), "late.txt".into()]).collect();
    for key in &suspects {
        assert_eq!(beside(&site, key, &all), Vec::<String>::new(), "{key}");
    }
    assert!(!beside(&site, "0.txt", &all).is_empty(), "the others are not alone");
    assert_eq!(site.lines("taken_alone").len(), 3);
    site.until_empty().await;
    // The late one could not overtake: no poll was sent while a suspect was in line.
    let last = suspects.iter().flat_map(|key| site.reader.spans(key)).map(|(_, to)| to).max().unwrap();
    assert!(site.reader.spans("late.txt")[0].0 >= last);
    let polls: Vec<Instant> = site
        .world
        .queue
        .calls()
        .iter()
        .filter(|call| *call.who == *"w")
        .filter(|call| matches!(call.ask, QueueAsk::Receive { .. }))
        .map(|call| call.asked.at)
        .collect();
    let first = suspects.iter().flat_map(|key| site.reader.spans(key)).map(|(from, _)| from).min().unwrap();
    assert!(polls.iter().all(|at| *at < first || *at >= last), "polls while one is alone");
    // One delivery each by this worker: the leases were kept while they waited.
    let line = worker.stop().await;
    assert_eq!((line.received, line.done, line.lease_lost), (14, 14, 0), "{line:?}");
    for id in &ids {
        assert!(marks(&site, id).iter().all(|run| run == "dead"), "only what is not ours");
    }
}

/// A suspect is alone from before its mark is asked for until it is cleared: a process that dies meanwhile leaves one.
fn one_mark_at_a_time(site: &Site, who: &str) {
    let mut begun: BTreeMap<String, Option<u64>> = BTreeMap::new();
    for call in site.world.store.calls().into_iter().filter(|call| *call.who == *who) {
        let StoreAsk::Put { key, body, .. } = call.ask else { continue };
        if !key.starts_with("attempts/") {
            continue;
        }
        if String::from_utf8_lossy(&body).contains(&format!(r#""run":"{who}-0""#)) {
            for (other, cleared) in &begun {
                assert!(cleared.is_some_and(|at| at < call.asked.order), "{key} was begun before {other} was cleared");
            }
            begun.insert(key, None);
        } else if let Some(cleared @ None) = begun.get_mut(&key) {
            *cleared = call.answered.map(|(stamp, _)| stamp.order);
        }
    }
    assert_eq!(begun.len(), 8);
}

/// The lane of one: with a single seat, or with nothing but suspects, it still empties the queue.
#[tokio::test(start_paused = true)]
async fn many_suspects_go_one_by_one_and_block_nobody() {
    for concurrency in [1, 2, 20] {
        let site = Site::new(1);
        let keys: Vec<String> = (0..8).map(|n| format!("{n}.txt")).collect();
        for key in &keys {
            site.reader.plan(key, [Act::Takes(10 * SECOND)]);
            let id = site.world.upload(key, "text", 1);
            marked_by(&site, &id, &["dead"]);
        }
        delivered_before(&site, 5).await;
        let worker = site.start("w", &Setup { concurrency, ..Setup::default() });
        site.world.store.faults(|faults| faults.put.latency = (SECOND, SECOND));
        site.until_empty().await;
        let line = worker.stop().await;
        assert_eq!((line.received, line.done), (8, 8), "concurrency {concurrency}: {line:?}");
        one_mark_at_a_time(&site, "w");
        for key in &keys {
            assert_eq!(beside(&site, key, &keys), Vec::<String>::new(), "concurrency {concurrency}");
        }
    }
}

/// Its process can still die of it.
#[tokio::test(start_paused = true)]
async fn a_suspect_is_alone_until_its_child_is_gone() {
    let site = Site::new(1);
    site.reader.plan("a.txt", [Act::Lingers(40 * SECOND)]);
    let id = site.world.upload("a.txt", "text", 1);
    delivered_before(&site, 5).await;
    marked_by(&site, &id, &["dead"]);
    let bench = Bench::new(site, Setup::default());
    let lease = bench.receive_one().await;
    let processor = Arc::new(bench.site.processor(BENCH, &bench.setup, &bench.wires, &bench.books, None));
    let crash_loop = Arc::new(bench.site.crash_loop(BENCH, &bench.setup, &bench.wires));
    let (gate, ends) = (Arc::new(Gate::new(Arc::new(Jitter::seeded(1)))), Default::default());
    let task = tokio::spawn(pipeline::receipt(lease, processor, gate, Arc::clone(&crash_loop), ends));
    until("it is begun", 300 * SECOND, || bench.site.reader.works("a.txt") == 1).await;
    task.abort();
    bench.until_settled().await;
    let settled = Instant::now();
    assert!(!crash_loop.line().is_open());
    drop(crash_loop.line().join().await);
    assert!(settled.elapsed() >= 39 * SECOND, "others may begin after {:?}", settled.elapsed());
    assert!(crash_loop.line().is_open());
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_or_a_lost_lease_while_waiting_ends_the_wait_and_leaves_no_mark() {
    for (name, wait) in [("for the store", 20), ("for the others", 150)] {
        for lost in [false, true] {
            let site = Site::new(1);
            site.reader.plan("other.txt", [Act::Hangs]);
            let id = site.world.upload("a.txt", "text", 1);
            site.world.upload("other.txt", "text", 1);
            delivered_before(&site, 5).await;
            marked_by(&site, &id, &["dead"]);
            let worker = site.start("w", &Setup::default());
            until("the other is begun", 5 * SECOND, || site.reader.works("other.txt") == 1).await;
            sleep(wait * SECOND).await;
            assert_eq!(site.settlements(), Vec::<String>::new());
            let of_it = |site: &Site| {
                let lines = site.lines("message_settled");
                lines.into_iter().find(|line| line["message_id"] == id.0.as_str())
            };
            let at = Instant::now();
            if lost {
                site.world.queue.faults(|faults| faults.change.down = true);
                until("it is settled", 61 * SECOND, || of_it(&site).is_some()).await;
                site.world.queue.faults(|faults| faults.change.down = false);
            } else {
                worker.ask_to_stop();
                until("it is settled", 5 * SECOND, || of_it(&site).is_some()).await;
                assert!(at.elapsed() < SECOND, "{name}: what is not begun is not drained");
            }
            let expected = if lost { "lease_lost" } else { "returned" };
            assert_eq!(of_it(&site).unwrap()["settlement"], expected, "{name}");
            assert_eq!((marks(&site, &id), site.reader.works("a.txt")), (vec!["dead".to_owned()], 0), "{name}");
            let line = worker.stop().await;
            assert_eq!(line.received, line.returned + line.lease_lost, "{name}: {line:?}");
        }
    }
}

/// Work that does not end: the suspect does not wait for ever, and what waits behind it goes on.
#[tokio::test(start_paused = true)]
async fn a_suspect_that_cannot_be_alone_comes_back_free_of_charge() {
    let site = Site::new(1);
    site.reader.plan("other.txt", [Act::Hangs]);
    let id = site.world.upload("a.txt", "text", 1);
    site.world.upload("other.txt", "text", 1);
    delivered_before(&site, 5).await;
    marked_by(&site, &id, &["dead"]);
    let worker = site.start("w", &Setup::default());
    until("it is settled", HOUR, || !site.settlements().is_empty()).await;
    let line = site.lines("message_settled").remove(0);
    assert_eq!((&line["settlement"], &line["reason"]), (&json!("returned"), &json!("systemic")), "{line}");
    assert_eq!(site.lines("breaker_opened"), Vec::<Value>::new(), "no dependency is sick");
    assert_eq!(site.attempts_of(&id).unwrap()["failed"], 0);
    site.world.upload("later.txt", "text", 1);
    until("intake goes on", 60 * SECOND, || site.reader.works("later.txt") == 1).await;
    worker.stop().await;
}

/// Hours of an outage that comes and goes quicker than a suspect is begun (two leases), and three deploys in it.
#[test]
fn three_deploys_and_an_outage_that_flaps_condemn_nobody() {
    for_seeds(0..12, |seed| async move {
        // How often a message is received in such an outage is the gate's affair, and not in question here.
        let site = Site::in_world(World::with(seed, 1_000));
        let mut rng = fastrand::Rng::with_seed(seed);
        site.world.queue.faults(|faults| faults.reorder = true);
        let keys: Vec<String> = (0..25).map(|n| format!("{n}.txt")).collect();
        for key in &keys {
            site.reader.plan(key, [Act::Takes(Duration::from_secs(rng.u64(0..60)))]);
            site.world.upload(key, "text", 1);
        }
        delivered_before(&site, 4).await;
        let setup = Setup { max_receive_count: Some(1_000), ..Setup::default() };
        let flapping = tokio::spawn({
            let (store, mut rng) = (site.world.store.clone(), fastrand::Rng::with_seed(seed ^ 7));
            async move {
                loop {
                    sleep(Duration::from_secs(rng.u64(1..100))).await;
                    let verb = if rng.bool() { Some(Verb::Put) } else { None };
                    store.inject(sick(verb, "", unavailable(), None));
                    sleep(Duration::from_secs(rng.u64(10..400))).await;
                    store.heal();
                }
            }
        });
        let mut workers: Vec<Worker> = (0..3).map(|n| site.start(&format!("w{n}"), &setup)).collect();
        for deploy in 0..3 {
            sleep(Duration::from_secs(rng.u64(600..4_000))).await;
            for (n, worker) in workers.iter_mut().enumerate() {
                let next = site.start(&format!("w{n}-{deploy}"), &setup);
                let line = std::mem::replace(worker, next).stop().await;
                assert_eq!(line.dead_lettered, 0, "{line:?}");
            }
        }
        flapping.abort();
        site.world.store.heal();
        site.until_empty().await;
        for worker in workers {
            worker.stop().await;
        }
        assert_eq!(site.lines("crash_loop"), Vec::<Value>::new());
        assert_eq!(site.world.dead_letters.live().len(), 0);
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        assert_eq!(history::in_step(&site.world, &keys), Ok(()));
    });
}

/// A condemned message whose letter cannot be sent stays condemned.
#[tokio::test(start_paused = true)]
async fn while_the_dlq_is_sick_a_condemned_message_comes_back_and_is_never_begun() {
    let site = Site::new(1);
    let id = site.world.upload("a.txt", "text", 1);
    delivered_before(&site, 6).await;
    marked_by(&site, &id, &["dead", "also dead"]);
    site.world.dead_letters.faults(|faults| faults.send.down = true);
    let worker = site.start("w", &Setup::default());
    until("the letter failed", STEADY + 60 * SECOND, || !site.lines("dead_letter_failed").is_empty()).await;
    site.world.dead_letters.faults(|faults| faults.send.down = false);
    site.until_empty().await;
    let line = worker.stop().await;
    assert_eq!((line.dead_lettered, line.returned, site.reader.works("a.txt")), (1, 1, 0));
}

/// A worker that lives has its mark there too: a doubled delivery, or a lease that was lost while it stood still, must
/// not add up with an old mark of the dead.
#[tokio::test(start_paused = true)]
async fn the_mark_of_a_worker_that_lives_condemns_nobody() {
    let site = Site::new(1);
    let id = site.world.upload("a.txt", "text", 1);
    delivered_before(&site, 5).await;
    marked_by(&site, &id, &["dead", "alive"]);
    let worker = site.start("w", &Setup::default());
    sleep(STEADY / 2).await;
    assert_eq!(site.settlements(), Vec::<String>::new(), "it is not judged at first sight");
    marked_by(&site, &id, &["dead"]);
    site.until_empty().await;
    let line = worker.stop().await;
    assert_eq!((line.done, line.dead_lettered, site.lines("taken_alone").len()), (1, 0, 1));
}
