//! Replay (design §6): oldest first, one at a time, an outage free of charge, and an end for what is refused alone.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use quittance::clock::date;
use quittance::index::park::Marker;
use quittance::index::replay::patience::Budget;
use quittance::message::{Change, Operation, WorkId};
use quittance::process::record::{Document, Record, Timings};
use quittance::retry::Backoff;
use quittance::store::{StoreError, layout};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::sim::worker::namespace;
use crate::sim::{
    Cut, EPOCH_MS, Faults, RESULTS, Rule, SOURCE, Setup, Site, StoreAsk, Verb, document_id, history, until,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY_MS: u64 = 86_400_000;

/// A worker that has nothing to receive.
fn setup() -> Setup {
    Setup::default()
}

pub fn budget(retries: u32) -> Budget {
    Budget { retries, backoff: Backoff { base: 30 * SECOND, cap: HOUR } }
}

/// A record, as a worker has written it so many days ago.
pub fn record(site: &Site, key: &str, days_ago: u64, revision: u64, deleted: bool) -> Record {
    let recorded_ms = EPOCH_MS - days_ago * DAY_MS;
    let change = Change {
        bucket: SOURCE.into(),
        key: key.into(),
        operation: Operation::Created,
        version_id: None,
        etag: None,
        sequencer: None,
        size: None,
        request_id: None,
        force: false,
    };
    let document = Document {
        bucket: SOURCE.into(),
        key: key.into(),
        namespace: "default".into(),
        content: (!deleted).then(|| format!("text of {key}")),
        revision,
        deleted,
        ..Document::default()
    };
    let record = Record {
        v: 1,
        document_id: document_id(key),
        work_id: WorkId::of(&document_id(key), &change),
        revision,
        recorded_ms,
        sequencer: None,
        timings: Timings::default(),
        document,
    };
    let body = serde_json::to_vec(&record).unwrap();
    site.world.store.put_object(RESULTS, &layout::record(&namespace(), &record.document_id), body);
    record
}

/// Its marker, at a revision, in `retry-index/` or `errored-index/`.
pub fn marker(site: &Site, record: &Record, revision: u64, lot: &str) -> String {
    let key = layout::parked(&date(record.recorded_ms), &namespace(), &record.document_id, revision);
    let key = key.replacen("retry-index", lot, 1);
    let marker = Marker {
        v: 1,
        document_id: record.document_id.clone(),
        bucket: SOURCE.into(),
        key: record.document.key.clone(),
        revision,
        reason: "the index breaker is open".into(),
        failed_at: "2026-11-21T23:00:00.000Z".into(),
    };
    site.world.store.put_object(RESULTS, &key, serde_json::to_vec(&marker).unwrap());
    key
}

/// So many documents, parked today.
pub fn park(site: &Site, number: usize) -> Vec<String> {
    let keys: Vec<String> = (0..number).map(|n| format!("{n}.txt")).collect();
    for key in &keys {
        marker(site, &record(site, key, 0, 7, false), 7, "retry-index");
    }
    keys
}

pub fn under(site: &Site, prefix: &str) -> usize {
    site.world.store.keys(RESULTS, prefix).len()
}

fn parked(site: &Site) -> usize {
    under(site, "retry-index/")
}

pub fn indexed(site: &Site, keys: &[String]) -> usize {
    keys.iter().filter(|key| site.world.search.document(&document_id(key)).is_some()).count()
}

/// Keys that were asked for with GET, by whom and when.
fn gets(site: &Site, prefix: &str) -> Vec<(Instant, String, String)> {
    site.world.store.look(|memory| {
        let asked = memory.calls.iter().filter_map(|call| match &call.ask {
            StoreAsk::Get { key, .. } if key.starts_with(prefix) => {
                Some((call.asked.at, call.who.to_string(), key.clone()))
            }
            _ => None,
        });
        asked.collect()
    })
}

fn lists(site: &Site) -> usize {
    site.world.store.look(|memory| memory.calls.iter().filter(|call| matches!(call.ask, StoreAsk::List { .. })).count())
}

pub fn lease(site: &Site) -> Value {
    let object = site.world.store.object(RESULTS, layout::REPLAY).unwrap();
    serde_json::from_slice(&object.body).unwrap()
}

/// As another holder writes it.
pub fn hold(site: &Site, beat: u64) {
    let body = json!({ "v": 1, "holder": "x", "by": "worker x on elsewhere", "namespace": "other",
        "since": "2026-11-21T22:00:00.000Z", "beat": beat });
    site.world.store.put_object(RESULTS, layout::REPLAY, body.to_string());
}

fn slow_index(site: &Site, milliseconds: u64) {
    let time = Duration::from_millis(milliseconds);
    site.world.search.faults(|faults| faults.bulk.latency = (time, time));
}

#[tokio::test(start_paused = true)]
async fn two_replayers_take_turns_and_no_marker_is_replayed_twice() {
    let site = Site::new(1);
    let keys = park(&site, 3_000);
    slow_index(&site, 500);
    let workers = ["a", "b", "c"].map(|who| site.start(who, &setup()));
    until("all are replayed", HOUR, || parked(&site) == 0).await;
    assert_eq!(indexed(&site, &keys), 3_000);
    assert_eq!(gets(&site, "processed/").len(), 3_000, "one GET each, of the record");
    assert_eq!(gets(&site, "retry-index/").len(), 0, "and none of the marker");
    sleep(30 * SECOND).await;
    assert_eq!(lease(&site)["holder"], Value::Null, "let go when all was done");
    let mut replayed = Vec::new();
    for worker in workers {
        replayed.push(worker.stop().await.replayed);
    }
    assert_eq!(replayed.iter().sum::<u64>(), 3_000, "{replayed:?}");
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_a_crashed_replayer_is_taken_over_after_a_minute_and_not_before() {
    let site = Site::new(2);
    let keys = park(&site, 2_000);
    slow_index(&site, 2_000);
    let dead = site.start("a", &setup());
    until("it replays", HOUR, || indexed(&site, &keys) > 100).await;
    let heir = site.start("b", &setup());
    sleep(30 * SECOND).await;
    assert_eq!(gets(&site, "processed/").iter().filter(|(_, who, _)| who == "b").count(), 0);
    dead.crash();
    let died = Instant::now();
    until("the heir replays", HOUR, || gets(&site, "processed/").iter().any(|(_, who, _)| who == "b")).await;
    let took = died.elapsed();
    assert!(took >= 40 * SECOND && took <= 110 * SECOND, "{took:?}"); // the last beat was up to 15 s ago
    until("all are replayed", HOUR, || parked(&site) == 0).await;
    assert_eq!(indexed(&site, &keys), 2_000);
    let told = site.lines("notice");
    assert!(told[0]["detail"].as_str().unwrap().contains("taken over from worker a"), "{told:?}");
    heir.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_replayer_that_loses_its_lease_stops_at_its_next_step_and_takes_it_back_when_the_other_dies() {
    let site = Site::new(3);
    let keys = park(&site, 3_000);
    slow_index(&site, 2_000);
    let worker = site.start("a", &setup());
    until("it replays", HOUR, || indexed(&site, &keys) > 100).await;
    for beat in 0..20 {
        hold(&site, beat);
        sleep(15 * SECOND).await;
    }
    let lost = Instant::now() - 280 * SECOND;
    let late = gets(&site, "processed/").into_iter().filter(|(at, ..)| *at > lost + 20 * SECOND).count();
    assert_eq!(late, 0, "documents begun after the lease was lost");
    assert!(parked(&site) > 0);
    let alone = Instant::now();
    until("all are replayed", HOUR, || parked(&site) == 0).await;
    let began = gets(&site, "processed/").into_iter().find(|(at, ..)| *at > alone).unwrap().0;
    assert!(began - alone >= 40 * SECOND && began - alone <= 110 * SECOND, "{:?}", began - alone);
    assert_eq!(indexed(&site, &keys), 3_000);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_lets_the_lease_go_and_the_next_need_not_wait() {
    let site = Site::new(4);
    let keys = park(&site, 2_000);
    slow_index(&site, 2_000);
    let worker = site.start("a", &setup());
    until("it replays", HOUR, || indexed(&site, &keys) > 100).await;
    assert_eq!(lease(&site)["by"], "worker a");
    let stopping = Instant::now();
    worker.stop().await;
    assert!(stopping.elapsed() < 20 * SECOND, "{:?}", stopping.elapsed());
    assert_eq!(lease(&site)["holder"], Value::Null);
    let next = site.start("b", &setup());
    until("the next replays", 20 * SECOND, || gets(&site, "processed/").iter().any(|(_, who, _)| who == "b")).await;
    next.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_cannot_be_read_or_reached_stops_nobody_for_long() {
    for (name, spoil) in [
        ("garbled", Some("{\"v\":1,\"holder\":")),
        ("of a later version", Some(r#"{"v":2,"holder":"x","by":"x","namespace":"n","since":"s","beat":1}"#)),
        ("denied", None),
    ] {
        let site = Site::new(5);
        let keys = park(&site, 50);
        match spoil {
            Some(body) => drop(site.world.store.put_object(RESULTS, layout::REPLAY, body)),
            None => {
                let (bucket, prefix) = (RESULTS.to_owned(), layout::REPLAY.to_owned());
                let error = StoreError::Denied("AccessDenied".into());
                site.world.store.inject(Rule { bucket, prefix, verb: None, error, times: None });
            }
        }
        let worker = site.start("w", &setup());
        sleep(55 * SECOND).await;
        assert_eq!(indexed(&site, &keys), 0, "{name}: it may be somebody's");
        until("all are replayed", 120 * SECOND, || parked(&site) == 0).await;
        let told: Vec<_> = site.lines("notice");
        assert_eq!(told.len(), 1, "{name}: {told:?}");
        let says = told[0]["detail"].as_str().unwrap();
        assert!(says.starts_with("control/replay.json") && (spoil.is_some() || says.contains("grant")), "{says}");
        worker.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_costs_no_budget_however_long_it_lasts_and_whatever_it_says() {
    for outage in ["down", "throttled", "silent", "every item", "every item, in unknown words"] {
        let site = Site::new(6);
        let keys = park(&site, 40);
        site.world.search.faults(|all| match outage {
            "down" => (all.bulk.down_until, all.probe.down_until) = (Some(Instant::now() + 50 * HOUR), None),
            "throttled" => all.bulk.throttle = 1.0,
            "silent" => all.bulk.latency = (50 * HOUR, 50 * HOUR),
            "every item" => all.item_systemic = 1.0,
            _ => all.unclear = keys.iter().map(|key| (document_id(key), "500 npe".to_owned())).collect(),
        });
        // What the first few of unknown words are charged before it shows to be everybody's is one refusal.
        let setup = Setup { replay_budget: budget(2), search_timeout: Some(10 * SECOND), ..setup() };
        let worker = site.start("w", &setup);
        sleep(30 * HOUR).await;
        assert_eq!((parked(&site), under(&site, "errored-index/")), (40, 0), "{outage}");
        let (asked, charged) = (site.world.search.asked(), gets(&site, "processed/").len());
        assert!(asked < 8_000 && charged < 8_000, "{outage}: {asked} requests, {charged} GETs in 30 hours");
        site.world.search.faults(|all| *all = Default::default());
        until("all are replayed", 3 * HOUR, || parked(&site) == 0).await;
        assert_eq!((indexed(&site, &keys), under(&site, "errored-index/")), (40, 0), "{outage}");
        worker.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_sick_document_among_well_ones_is_given_up_at_its_budget_and_the_others_go_on() {
    // As many sick ones as would be taken for an outage, were the others not there.
    for sick in [1, 8] {
        let site = Site::new(7);
        let keys = park(&site, 60);
        site.world.search.faults(|all| {
            all.unclear = keys[..sick].iter().map(|key| (document_id(key), "500 npe: null".to_owned())).collect();
        });
        let began = Instant::now();
        let worker = site.start("w", &Setup { replay_budget: budget(4), ..setup() });
        until("the well ones are replayed", 300 * SECOND, || indexed(&site, &keys) == 60 - sick).await;
        assert_eq!(under(&site, "errored-index/"), 0, "not at once");
        until("nothing is parked", HOUR, || parked(&site) == 0).await;
        assert!(began.elapsed() > (15 + 30 + 60) * SECOND, "it is tried again at growing distances");
        let errored = site.world.store.keys(RESULTS, "errored-index/");
        assert_eq!(errored.len(), sick);
        for key in errored {
            let marker: Marker = serde_json::from_slice(&site.world.store.object(RESULTS, &key).unwrap().body).unwrap();
            assert!(keys[..sick].contains(&marker.key), "{marker:?}");
            assert_eq!(marker.reason, "given up after 4 replays of unclear outcome; the last: 500 npe: null");
            assert_eq!(marker.failed_at, "2026-11-21T23:00:00.000Z", "the first failure is kept");
        }
        assert_eq!(site.lines("document_errored").len(), sick);
        worker.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_sick_document_that_is_alone_is_given_up_too() {
    let site = Site::new(8);
    let keys = park(&site, 1);
    site.world.search.faults(|all| drop(all.unclear.insert(document_id(&keys[0]), "500 npe".into())));
    let worker = site.start("w", &setup());
    until("it is given up", 2 * HOUR, || (parked(&site), under(&site, "errored-index/")) == (0, 1)).await;
    worker.stop().await;
}

/// Nothing else is parked, so that no replayed document shows that the index is well; fresh ones do, all the time.
#[tokio::test(start_paused = true)]
async fn sick_documents_that_are_parked_among_themselves_are_given_up_where_fresh_ones_are_taken() {
    for (sick, quiet) in [("index", false), ("index", true), ("record", true)] {
        let site = Site::new(25);
        let keys = park(&site, 8);
        match sick {
            "index" => site.world.search.faults(|all| {
                all.unclear = keys.iter().map(|key| (document_id(key), "500 npe: null".to_owned())).collect();
            }),
            _ => {
                for key in &keys {
                    let prefix = layout::record(&namespace(), &document_id(key));
                    let (bucket, error) = (RESULTS.to_owned(), StoreError::Denied("AccessDenied".into()));
                    site.world.store.inject(Rule { bucket, prefix, verb: Some(Verb::Get), error, times: None });
                }
            }
        }
        let worker = site.start("w", &Setup { replay_budget: budget(2), ..setup() });
        if quiet {
            sleep(HOUR / 2).await;
            assert_eq!((parked(&site), under(&site, "errored-index/")), (8, 0), "{sick}: it may be an outage");
        }
        for n in 0..1_800 {
            site.world.upload(&format!("fresh/{n}.txt"), "text", 1);
            sleep(SECOND).await;
        }
        assert_eq!((parked(&site), under(&site, "errored-index/")), (0, 8), "{sick}, quiet at first: {quiet}");
        worker.stop().await;
    }
}

/// A firewall that does not like one document answers for all of its request. Where fresh documents are taken all the time,
/// the breaker stays closed; where it has opened, one document finds out for all, and not the same one each time.
#[tokio::test(start_paused = true)]
async fn a_document_with_which_every_request_is_turned_away_holds_up_no_other() {
    turned_away(true).await;
    turned_away(false).await;
}

async fn turned_away(fresh: bool) {
    let site = Site::new(26);
    let keys = park(&site, 12);
    // The first in line, and so in every sweep's first request.
    let cursed = keys.iter().min_by_key(|key| document_id(key)).unwrap();
    site.world.search.faults(|all| assert!(all.cursed.insert(document_id(cursed))));
    if !fresh {
        site.world.search.down_for(60 * SECOND);
    }
    let worker = site.start("w", &setup());
    for n in 0..900 {
        if fresh {
            site.world.upload(&format!("fresh/{n}.txt"), "text", 1);
        }
        sleep(SECOND).await;
    }
    assert_eq!((indexed(&site, &keys), under(&site, "errored-index/")), (11, 0), "fresh ones: {fresh}");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_witness_whose_record_is_gone_proves_nothing_against_the_others() {
    let site = Site::new(27);
    let taken = park(&site, 1);
    let worker = site.start("w", &Setup { replay_budget: budget(2), ..setup() });
    until("it is taken", HOUR, || parked(&site) == 0).await;
    site.world.store.remove_object(RESULTS, &layout::record(&namespace(), &document_id(&taken[0])));
    let keys: Vec<String> = (0..8).map(|n| format!("later {n}.txt")).collect();
    site.world.search.faults(|all| {
        all.unclear = keys.iter().map(|key| (document_id(key), "500 npe: null".to_owned())).collect();
    });
    keys.iter().for_each(|key| drop(marker(&site, &record(&site, key, 0, 7, false), 7, "retry-index")));
    sleep(10 * HOUR).await;
    assert_eq!((parked(&site), under(&site, "errored-index/")), (8, 0));
    worker.stop().await;
}

/// Nobody can say whether another has taken it over.
#[tokio::test(start_paused = true)]
async fn a_replayer_whose_beats_are_not_acknowledged_stops_before_anybody_may_take_over() {
    let site = Site::new(28);
    let keys = park(&site, 3_000);
    slow_index(&site, 2_000);
    let worker = site.start("w", &setup());
    until("it replays", HOUR, || indexed(&site, &keys) > 100).await;
    let (bucket, prefix) = (RESULTS.to_owned(), layout::REPLAY.to_owned());
    let error = StoreError::Unavailable("503".into());
    site.world.store.inject(Rule { bucket, prefix, verb: Some(Verb::Put), error, times: None });
    sleep(62 * SECOND).await;
    let given_up = Instant::now();
    sleep(40 * SECOND).await;
    assert_eq!(gets(&site, "processed/").iter().filter(|(at, ..)| *at >= given_up).count(), 0);
    assert!(parked(&site) > 0);
    site.world.store.heal();
    until("all are replayed", HOUR, || parked(&site) == 0).await;
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_parked_documents_are_replayed_with_one_get_each_and_flat_memory() {
    const NUMBER: usize = 100_000;
    let site = Site::new(9);
    let keys = park(&site, NUMBER);
    let began = Instant::now();
    let worker = site.start("w", &setup());
    until("all are replayed", 24 * HOUR, || worker.books.snapshot(false).replayed == NUMBER as u64).await;
    until("nothing is parked", HOUR, || site.world.store.none(RESULTS, "retry-index/")).await;
    println!("{NUMBER} in {:?} of simulated time, {} LISTs", began.elapsed(), lists(&site));
    assert_eq!(site.world.search.documents().len(), keys.len());
    assert_eq!((gets(&site, "processed/").len(), gets(&site, "retry-index/").len()), (NUMBER, 0));
    assert!(lists(&site) <= NUMBER / 1_000 + 5, "{} LISTs", lists(&site));
    // In work at once, beside heartbeat, poll and lease; a page of keys is what S3 lists at once.
    let (_, under_way) = worker.wires.most();
    assert!(under_way <= 64 + 6, "{under_way} calls at once");
    worker.stop().await;
}

/// All in work would find out at the same time, each with the SDK's three tries.
#[tokio::test(start_paused = true)]
async fn a_sweep_finds_out_with_four_markers_that_the_store_is_sick() {
    for verb in [Verb::Get, Verb::Delete] {
        let site = Site::new(24);
        park(&site, 500);
        let prefix = if verb == Verb::Get { "processed/" } else { "retry-index/" };
        let error = StoreError::Unavailable("503".into());
        let rule = Rule { bucket: RESULTS.into(), prefix: prefix.into(), verb: Some(verb), error, times: None };
        site.world.store.inject(rule);
        let worker = site.start("w", &setup());
        sleep(600 * SECOND).await;
        let asked: Vec<Instant> = site.world.store.look(|memory| {
            let meant = memory.calls.iter().filter(|call| match &call.ask {
                StoreAsk::Get { key, .. } => verb == Verb::Get && key.starts_with(prefix),
                StoreAsk::Delete { key, .. } => verb == Verb::Delete && key.starts_with(prefix),
                _ => false,
            });
            meant.map(|call| call.asked.at).collect()
        });
        let within = |from: &Instant| asked.iter().filter(|at| *at >= from && **at < *from + SECOND).count();
        let most = asked.iter().map(within).max().unwrap_or(0);
        assert!((1..=4).contains(&most), "{verb:?}: {most} calls in a second");
        site.world.store.heal();
        until("all are replayed", HOUR, || parked(&site) == 0).await;
        worker.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn records_in_memory_are_bounded_by_their_bytes() {
    let site = Site::new(10);
    for n in 0..6 {
        let mut record = record(&site, &format!("{n}.txt"), 0, 7, false);
        record.document.content = Some("x".repeat(20 << 20));
        let body = serde_json::to_vec(&record).unwrap();
        site.world.store.put_object(RESULTS, &layout::record(&namespace(), &record.document_id), body);
        marker(&site, &record, 7, "retry-index");
    }
    slow_index(&site, 1_000);
    let worker = site.start("w", &setup());
    until("all are replayed", HOUR, || parked(&site) == 0).await;
    let largest = site.world.search.look(|memory| {
        let items = memory.calls.iter().map(|call| match &call.ask {
            crate::sim::SearchAsk::Bulk(items) => items.iter().map(|item| item.source.len()).sum(),
            _ => 0,
        });
        items.max().unwrap_or_default()
    });
    assert!(largest <= 64 << 20, "{largest} bytes at once");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_oldest_go_first() {
    let site = Site::new(11);
    for days_ago in [0, 3, 1, 40, 2] {
        for n in 0..100 {
            let record = record(&site, &format!("{days_ago}/{n}.txt"), days_ago, 7, false);
            marker(&site, &record, 7, "retry-index");
        }
    }
    let worker = site.start("w", &setup());
    until("all are replayed", HOUR, || parked(&site) == 0).await;
    let removed: Vec<String> = site.world.store.look(|memory| {
        let days = memory.calls.iter().filter_map(|call| match &call.ask {
            StoreAsk::Get { key, .. } if key.starts_with("processed/") => Some(key.clone()),
            _ => None,
        });
        days.collect()
    });
    let day_of = |key: &String| {
        let body = site.world.store.object(RESULTS, key).unwrap().body;
        serde_json::from_slice::<Record>(&body).unwrap().recorded_ms
    };
    assert!(removed.is_sorted_by_key(day_of), "not in the order of their days");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn killed_between_index_and_marker_nothing_is_lost_and_nothing_is_written_twice_otherwise() {
    for cut in [Cut::Before, Cut::After] {
        let site = Site::new(12);
        let keys = park(&site, 200);
        let worker = site.start("a", &setup());
        worker
            .wires
            .cut_at(move |asking| (asking.verb == "remove" && asking.place.contains("retry-index/")).then_some(cut));
        until("it died", HOUR, || worker.wires.is_cut()).await;
        assert!(indexed(&site, &keys) > 0 && parked(&site) > 0);
        let before = site.world.search.documents();
        let next = site.start("b", &setup());
        until("all are replayed", HOUR, || parked(&site) == 0).await;
        assert_eq!(indexed(&site, &keys), 200);
        for (id, document) in before {
            assert_eq!(site.world.search.document(&id), Some(document));
        }
        next.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_marker_ends_right() {
    let site = Site::new(13);
    // Newer than its markers, two of them.
    let newer = record(&site, "newer.txt", 2, 9, false);
    marker(&site, &newer, 7, "retry-index");
    marker(&site, &newer, 8, "retry-index");
    // Removed meanwhile.
    marker(&site, &record(&site, "gone.txt", 2, 8, true), 7, "retry-index");
    // Its record is gone.
    let lost = record(&site, "lost.txt", 2, 7, false);
    marker(&site, &lost, 7, "retry-index");
    site.world.store.remove_object(RESULTS, &layout::record(&namespace(), &lost.document_id));
    // Its record is garbage; its marker too.
    for (key, marker_too) in [("garbled.txt", false), ("both.txt", true)] {
        let garbled = record(&site, key, 2, 7, false);
        let at = marker(&site, &garbled, 7, "retry-index");
        site.world.store.put_object(RESULTS, &layout::record(&namespace(), &garbled.document_id), "{");
        if marker_too {
            site.world.store.put_object(RESULTS, &at, "no marker");
        }
    }
    // The index holds a newer revision than the record: it was restored from an old copy, say.
    let restored = record(&site, "restored.txt", 2, 3, false);
    marker(&site, &restored, 5, "retry-index");
    site.world.search.forge(|_, documents| {
        let newer = crate::sim::search::Indexed { revision: 6, source: json!({ "newer": true }) };
        documents.insert(restored.document_id.clone(), newer);
    });
    let worker = site.start("w", &setup());
    until("nothing is parked", 2 * HOUR, || parked(&site) == 0).await;
    let of = |key: &str| site.world.search.document(&document_id(key));
    assert_eq!(of("newer.txt").unwrap().revision, 9);
    let gone = of("gone.txt").unwrap();
    assert_eq!((&gone.source["deleted"], &gone.source["content"]), (&json!(true), &Value::Null));
    assert_eq!(of("restored.txt").unwrap().revision, 6);
    assert!(of("lost.txt").is_none() && of("garbled.txt").is_none());
    let mut reasons: Vec<String> = site
        .world
        .store
        .keys(RESULTS, "errored-index/")
        .iter()
        .map(|key| {
            serde_json::from_slice::<Marker>(&site.world.store.object(RESULTS, key).unwrap().body).unwrap().reason
        })
        .map(|reason| reason.split(": ").nth(1).unwrap_or(&reason).to_owned())
        .collect();
    reasons.sort();
    assert_eq!(reasons, ["its record cannot be read", "its record cannot be read", "its record is gone"]);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_denied_record_is_its_own_trouble_and_a_denied_bucket_is_not() {
    for all in [false, true] {
        let site = Site::new(14);
        let keys = park(&site, 30);
        let prefix = if all { "processed/".into() } else { layout::record(&namespace(), &document_id(&keys[3])) };
        let (bucket, error) = (RESULTS.to_owned(), StoreError::Denied("AccessDenied".into()));
        site.world.store.inject(Rule { bucket, prefix, verb: Some(Verb::Get), error, times: None });
        let worker = site.start("w", &Setup { replay_budget: budget(3), ..setup() });
        sleep(3 * HOUR).await;
        let expected = if all { (30, 0, 0) } else { (0, 1, 29) };
        assert_eq!((parked(&site), under(&site, "errored-index/"), indexed(&site, &keys)), expected);
        site.world.store.heal();
        until("nothing is parked", 3 * HOUR, || parked(&site) == 0).await;
        worker.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_resent_event_of_an_errored_file_tries_again() {
    let site = Site::new(15);
    site.world.search.faults(|all| drop(all.refuse.insert(document_id("a.txt"), "400 mapping".into())));
    site.world.upload("a.txt", "text", 1);
    let worker = site.start("w", &setup());
    site.until_empty().await;
    assert_eq!((under(&site, "errored-index/"), site.world.search.documents().len()), (1, 0));
    // The mapping was mended; the same event, with the same sequencer, is sent once more.
    site.world.search.faults(|all| all.refuse.clear());
    site.world.upload("a.txt", "text", 1);
    site.until_empty().await;
    assert_eq!(history::in_step(&site.world, &["a.txt"]), Ok(()));
    assert_eq!(parked(&site), 0);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_errored_marker_that_was_there_before_is_not_trusted_at_once() {
    // As an operator's reset leaves it for an instant: both are there, and the errored one is about to go.
    let site = Site::new(16);
    let bad = record(&site, "bad.txt", 0, 7, false);
    let (retry, errored) = (marker(&site, &bad, 7, "retry-index"), marker(&site, &bad, 7, "errored-index"));
    site.world.search.faults(|all| drop(all.refuse.insert(bad.document_id.clone(), "400 mapping".into())));
    let worker = site.start("w", &setup());
    until("it was refused", HOUR, || site.world.search.asked() > 0).await;
    sleep(60 * SECOND).await;
    assert!(site.world.store.object(RESULTS, &retry).is_some(), "one of the two must stay");
    site.world.store.remove_object(RESULTS, &errored);
    until("it is errored again", HOUR, || parked(&site) == 0).await;
    assert_eq!(site.world.store.keys(RESULTS, "errored-index/"), [errored]);
    worker.stop().await;
}

/// Faults of all kinds at once: the end is that of a clean run.
#[test]
fn whatever_fails_meanwhile_all_is_replayed_in_the_end() {
    crate::sim::for_seeds(0..60, |seed| async move {
        let site = Site::new(seed);
        let keys = park(&site, 300);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut wild = || Faults {
            fail_before: 0.1 * rng.f64(),
            lose_reply: 0.1 * rng.f64(),
            throttle: 0.05 * rng.f64(),
            latency: (Duration::ZERO, Duration::from_millis(rng.u64(0..3_000))),
            ..Faults::default()
        };
        let (store, search) = (wild(), wild());
        site.world.store.faults(|faults| {
            faults.all(&store);
            faults.busy = 0.1;
        });
        site.world.search.faults(|faults| {
            (faults.bulk, faults.item_systemic, faults.half_applied) = (search, 0.2, true);
        });
        let workers = ["a", "b"].map(|who| site.start(who, &setup()));
        let dies = Arc::new(Mutex::new(rng.usize(20..400)));
        workers[0].wires.cut_at(move |_| {
            let mut left = dies.lock().unwrap();
            *left = left.saturating_sub(1);
            (*left == 0).then_some(Cut::After)
        });
        sleep(300 * SECOND).await;
        site.world.store.heal();
        site.world.search.faults(|faults| *faults = Default::default());
        until("all are replayed", 2 * HOUR, || parked(&site) == 0).await;
        assert_eq!((indexed(&site, &keys), under(&site, "errored-index/")), (300, 0));
        let [dead, alive] = workers;
        dead.crash();
        alive.stop().await;
    });
}
