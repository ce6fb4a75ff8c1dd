//! P3 to P7, the incident "stuck messages and a full DLQ": rows A1.x of the fault catalogue (`tests/faults.md`).

use std::collections::BTreeSet;
use std::time::Duration;

use quittance::store::StoreError;
use tokio::time::{Instant, sleep};

use crate::sim::reader::Act;
use crate::sim::{QueueAsk, RESULTS, Record, Rule, Setup, Site, Verb, document_id, history, s3_event, until};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const MESSAGES: usize = 1_000;

fn upload(site: &Site) -> Vec<String> {
    let keys: Vec<String> = (0..MESSAGES).map(|n| format!("{n}.txt")).collect();
    keys.iter().for_each(|key| drop(site.world.upload(key, format!("text of {key}"), 1)));
    keys
}

fn in_step(site: &Site, keys: &[String]) -> Result<(), String> {
    history::in_step(&site.world, &keys.iter().map(String::as_str).collect::<Vec<_>>())
}

fn parked(site: &Site) -> usize {
    site.world.store.keys(RESULTS, "retry-index/").len()
}

async fn until_replayed(site: &Site) {
    until("nothing is parked", HOUR, || parked(site) == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a1_2_an_hour_without_opensearch_parks_a_thousand_documents_and_keeps_no_message() {
    let site = Site::new(2);
    let keys = upload(&site);
    site.world.search.down_for(HOUR);
    let began = Instant::now();
    let worker = site.start("w", &Setup::default());
    site.until_empty().await;
    assert!(began.elapsed() < HOUR / 2, "{:?}", began.elapsed());
    assert_eq!((site.world.dead_letters.live().len(), parked(&site)), (0, MESSAGES));
    assert_eq!(history::delete_batches(&site.world.queue, "w").iter().sum::<usize>(), MESSAGES, "delete attempts");
    assert_eq!(site.world.search.documents().len(), 0);
    assert_eq!(history::durable_before_deleted(&site.world, "w"), MESSAGES);
    sleep(HOUR).await; // the index comes back
    until_replayed(&site).await;
    assert_eq!(site.world.search.documents().len(), MESSAGES);
    assert_eq!(in_step(&site, &keys), Ok(()));
    assert_eq!(worker.stop().await.replayed, MESSAGES as u64);
}

#[tokio::test(start_paused = true)]
async fn a1_3_when_parking_fails_too_nothing_is_deleted_and_hardly_anything_asked_for() {
    for (name, prefix) in [("all writes", ""), ("parking alone", "retry-index/")] {
        let site = Site::new(3);
        site.world.queue.faults(|faults| faults.reorder = true);
        let keys = upload(&site);
        site.world.search.down_for(HOUR);
        let error = StoreError::Unavailable("503".into());
        let (bucket, prefix, verb) = (RESULTS.to_owned(), prefix.to_owned(), Some(Verb::Put));
        site.world.store.inject(Rule { bucket, prefix, verb, error, times: None });
        let worker = site.start("w", &Setup::default());
        sleep(HOUR).await;
        let receives = history::receives(&site.world.queue);
        let most = receives.values().max().copied();
        assert!(most <= Some(2), "{name}: {most:?} receives of one message within the hour");
        assert_eq!(history::delete_batches(&site.world.queue, "w"), Vec::<usize>::new(), "{name}");
        assert_eq!((site.world.dead_letters.live().len(), site.world.queue.live().len()), (0, MESSAGES), "{name}");
        site.world.store.heal();
        site.until_empty().await;
        until_replayed(&site).await;
        assert_eq!(in_step(&site, &keys), Ok(()), "{name}");
        let line = worker.stop().await;
        assert_eq!((line.done, line.dead_lettered), (MESSAGES as u64, 0), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a1_4_an_index_that_flaps_while_it_says_that_it_is_well_loses_no_document() {
    let site = Site::new(4);
    let flapping = tokio::spawn({
        let search = site.world.search.clone();
        async move {
            loop {
                for down in [true, false] {
                    search.faults(|faults| faults.bulk.down = down); // its probe says yes all the time
                    sleep(Duration::from_millis(700)).await;
                }
            }
        }
    });
    let worker = site.start("w", &Setup { replay: false, ..Setup::default() });
    let (mut keys, mut rng) = (Vec::new(), fastrand::Rng::with_seed(4));
    for n in 0..MESSAGES {
        let key = format!("{n}.txt");
        site.world.upload(&key, format!("text of {key}"), 1);
        keys.push(key);
        sleep(Duration::from_millis(rng.u64(20..400))).await;
    }
    site.until_empty().await;
    flapping.abort();
    assert_eq!(history::durable_before_deleted(&site.world, "w"), MESSAGES);
    // Some are both: those that were sent to find out whether the index is well were parked like their neighbours.
    let indexed = site.world.search.documents();
    let markers = site.world.store.keys(RESULTS, "retry-index/").join(" ");
    for key in &keys {
        let id = document_id(key);
        assert!(indexed.contains_key(&id) || markers.contains(id.as_str()), "{key} is neither indexed nor parked");
    }
    assert!(indexed.len() > 20 && parked(&site) > 100, "{} indexed: it did not flap", indexed.len());
    let line = worker.stop().await;
    assert_eq!((line.done, line.documents_indexed + line.documents_parked), (MESSAGES as u64, MESSAGES as u64));
    assert_eq!(line.documents_parked as usize, parked(&site));
    site.world.search.faults(|faults| *faults = Default::default());
    let replayer = site.start("replayer", &Setup::default());
    until_replayed(&site).await;
    replayer.stop().await;
    assert_eq!(in_step(&site, &keys), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a1_5_a_job_of_twenty_minutes_is_done_once_and_a_killed_ones_message_is_back_within_a_lease() {
    let site = Site::new(5);
    let lease = Setup::default().visibility;
    assert_eq!(lease, 60 * SECOND);
    site.reader.plan("a.txt", [Act::Takes(20 * 60 * SECOND)]);
    let id = site.world.upload("a.txt", "text", 1);
    let first = site.start("first", &Setup::default());
    until("the first has it", 5 * SECOND, || site.reader.works("a.txt") == 1).await;
    let second = site.start("second", &Setup::default());
    site.until_empty().await;
    assert_eq!((site.reader.works("a.txt"), history::receives(&site.world.queue)[&id]), (1, 1));
    assert_eq!(second.books.snapshot(false).received, 0);
    let heartbeats = site.world.queue.calls().iter().filter(|call| matches!(call.ask, QueueAsk::Change(_))).count();
    assert!((58..=62).contains(&heartbeats), "every 20 s: {heartbeats}");

    // The same again, and its owner is killed; the other one has it within the lease.
    second.stop().await;
    site.reader.plan("b.txt", [Act::Takes(20 * 60 * SECOND), Act::Reads]);
    site.world.upload("b.txt", "text", 1);
    until("the first has it", 5 * SECOND, || site.reader.works("b.txt") == 1).await;
    let second = site.start("second again", &Setup::default());
    sleep(10 * 60 * SECOND).await;
    assert_eq!(second.books.snapshot(false).received, 0);
    first.crash();
    let killed = Instant::now();
    until("the second has it", 2 * lease, || second.books.snapshot(false).received == 1).await;
    assert!(killed.elapsed() <= lease, "redelivered after {:?}", killed.elapsed());
    site.until_empty().await;
    assert_eq!(second.stop().await.done, 1);
    assert_eq!(in_step(&site, &["a.txt".to_owned(), "b.txt".to_owned()]), Ok(()));
}

/// At start, a results bucket that is a source is refused (`tests/config.rs`). If a notification is set up on it all the
/// same, even with its prefix let in as a source, what the worker writes makes no work.
#[tokio::test(start_paused = true)]
async fn a1_8_notifications_of_our_own_writes_make_no_more_messages() {
    let site = Site::new(8);
    let setup = Setup { sources: vec![crate::sim::SOURCE, RESULTS], ..Setup::default() };
    site.world.search.down_for(HOUR); // so that each record has its marker
    for n in 0..50 {
        site.world.upload(&format!("{n}.txt"), format!("text {n}"), 1);
    }
    let notify = || {
        let mut told = BTreeSet::new();
        let world = site.world.clone();
        move || {
            for key in world.store.keys(RESULTS, "") {
                if told.insert(key.clone()) {
                    let head = world.store.object(RESULTS, &key).unwrap().head;
                    world.queue.put(s3_event(&[Record::created(RESULTS, &key, &head, 1)]));
                }
            }
            told.len()
        }
    };
    let (worker, mut notify) = (site.start("w", &setup), notify());
    let mut sent = Vec::new();
    for _ in 0..600 {
        sleep(SECOND).await;
        sent.push(notify());
        assert!(sent.last() <= Some(&100), "it feeds itself");
    }
    assert_eq!((sent[59], sent[599]), (100, 100), "50 records and 50 markers, once");
    assert!(site.world.queue.is_empty());
    let line = worker.stop().await;
    assert_eq!((line.received, line.done, line.skipped, line.dead_lettered), (150, 50, 100, 0));
}
