//! P4 under load: fresh documents, replay and an index that bears only so much; rows A3.4 and A4.6 of the fault catalogue
//! (`tests/faults.md`), and what an outage costs settlement.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quittance::index::bulk::{Class, Lane};
use quittance::index::{IndexItem, ItemVerdict};
use quittance::retry::Jitter;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::sim::{Faults, RESULTS, Setup, Site, World, document_id, history, until};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// Hands a document in again and again, `pause` after each verdict; tells how long each took. Only what was taken counts.
async fn again_and_again(lane: Lane, name: String, class: Class, pause: Duration, took: impl Fn(Duration)) {
    let document_id = document_id(&name);
    for revision in 1.. {
        sleep(pause).await;
        let source = Bytes::from_static(b"{\"content\":\"x\"}");
        let began = Instant::now();
        let verdict = lane.submit(IndexItem { document_id: document_id.clone(), revision, source }, class).await;
        if verdict == ItemVerdict::Durable {
            took(began.elapsed());
        }
    }
}

/// An index that takes fifty documents a second, and three hundred that want in at every moment, for half an hour.
#[tokio::test(start_paused = true)]
async fn a3_4_under_sustained_full_load_fifty_due_retries_are_done_in_time_and_fresh_work_hardly_notices() {
    const BACKOFF: Duration = Duration::from_secs(30);
    let mut throughput = Vec::new();
    for retries in [0, 50] {
        let world = World::new(34);
        world.search.faults(|faults| faults.work = 20 * MS);
        let search = world.search.seen_by("w").given_up_after(Some(10 * SECOND));
        let (lane, drive) = Lane::new(Arc::new(search), Arc::new(Jitter::seeded(34)));
        let (fresh, retried, slowest) = <(Arc<AtomicU64>, Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(drive);
        for n in 0..300 {
            let done = Arc::clone(&fresh);
            let took = move |_| {
                done.fetch_add(1, Ordering::Relaxed);
            };
            tasks.spawn(again_and_again(lane.clone(), format!("fresh {n}"), Class::Fresh, Duration::ZERO, took));
        }
        for n in 0..retries {
            let (done, slowest) = (Arc::clone(&retried), Arc::clone(&slowest));
            let took = move |time: Duration| {
                done.fetch_add(1, Ordering::Relaxed);
                slowest.fetch_max(time.as_secs(), Ordering::Relaxed);
            };
            tasks.spawn(again_and_again(lane.clone(), format!("retry {n}"), Class::Replay, BACKOFF, took));
        }
        sleep(HOUR / 2).await;
        tasks.shutdown().await;
        let done = |of: &AtomicU64| of.load(Ordering::Relaxed);
        throughput.push(done(&fresh));
        // Full load: without replay, the index is never idle.
        assert!(done(&fresh) + done(&retried) > 1_800 * 50 * 9 / 10, "{throughput:?}, {} retried", done(&retried));
        assert!(done(&slowest) <= 2 * BACKOFF.as_secs(), "a retry took {} s", done(&slowest));
        // Each of them, round after round: none took longer than a backoff and its wait.
        assert!(done(&retried) >= retries * 1_800 / 90 - retries, "{} of {retries} loops", done(&retried));
    }
    assert!(throughput[1] * 10 >= throughput[0] * 9, "fresh documents without and with retries: {throughput:?}");
}

/// Milliseconds that the slowest of a hundred messages was held, of those settled since the lines were forgotten.
fn p99_held(site: &Site) -> u64 {
    let mut held: Vec<u64> =
        site.lines("message_settled").iter().map(|line| line["held_ms"].as_u64().unwrap()).collect();
    held.sort_unstable();
    held[held.len() * 99 / 100]
}

/// The row's probe is a query; in the model the foreground is a message's way from receive to settlement. Ten thousand
/// parked documents and an index that takes a tenth of a second for a request.
#[tokio::test(start_paused = true)]
async fn a4_6_the_foreground_is_hardly_slower_while_ten_thousand_documents_are_replayed() {
    let site = Site::new(46);
    for n in 0..10_000 {
        site.world.upload(&format!("parked/{n}.txt"), format!("text {n}"), 1);
    }
    site.drain_as("parks", &Setup { search: false, concurrency: 200, ..Setup::default() }).await;
    let parked = || site.world.store.keys(RESULTS, "retry-index/").len();
    assert_eq!(parked(), 10_000);
    site.world.search.faults(|faults| faults.bulk.latency = (30 * MS, 70 * MS));
    let mut p99 = Vec::new();
    for (name, replay) in [("alone", false), ("beside replay", true)] {
        let worker = site.start(name, &Setup { replay, ..Setup::default() });
        let began = parked();
        if replay {
            until("replay is at work", HOUR, || parked() < began).await;
        }
        site.forget_lines();
        for n in 0..300 {
            site.world.upload(&format!("{name}/{n}.txt"), format!("text {n}"), 1);
            sleep(100 * MS).await;
        }
        site.until_empty().await;
        let left = parked();
        assert!(!replay || (left > 0 && left < began), "it was over: {left} of {began}");
        p99.push(p99_held(&site));
        let line = worker.stop().await;
        assert_eq!((line.done, line.documents_indexed), (300, 300), "{name}");
    }
    assert!(p99[1] * 2 <= p99[0] * 3, "milliseconds alone, and beside replay: {p99:?}");
}

/// Messages come ten a second, and after a minute the index hangs: those that wait for it then, in a request or in line
/// behind one, are held for one request timeout; those that come later are not held at all.
#[tokio::test(start_paused = true)]
async fn an_outage_slows_settlement_by_one_request_timeout_once() {
    const TIMEOUT: Duration = Duration::from_secs(10);
    // Beyond the timeout: a poll of the queue, the record, the marker, the delete.
    const ROAD: Duration = Duration::from_secs(1);
    let healthy = Faults { latency: (20 * MS, 40 * MS), ..Faults::default() };
    for (name, sick) in [
        ("hangs", Faults { latency: (HOUR, HOUR), ..Faults::default() }),
        ("refuses", Faults { down: true, ..Faults::default() }),
        ("throttles", Faults { throttle: 1.0, ..Faults::default() }),
        ("loses replies slowly", Faults { lose_reply: 1.0, latency: (3 * SECOND, 4 * SECOND), ..Faults::default() }),
    ] {
        let site = Site::new(10);
        site.world.search.faults(|faults| (faults.bulk, faults.outlive_callers) = (healthy.clone(), true));
        let worker = site.start("w", &Setup { replay: false, ..Setup::default() });
        let mut fell = None;
        for n in 0..3_000 {
            if n == 600 {
                fell = Some(Instant::now());
                site.world.search.faults(|faults| faults.bulk = sick.clone());
            }
            site.world.upload(&format!("{n}.txt"), format!("text {n}"), 1);
            sleep(SECOND / 10).await;
        }
        site.until_empty().await;
        assert_eq!(history::durable_before_deleted(&site.world, "w"), 3_000);
        let fell = fell.unwrap();
        for told in site.take_lines() {
            if told.line.event != "message_settled" {
                continue;
            }
            let held = Duration::from_millis(told.line.fields["held_ms"].as_u64().unwrap());
            let received = told.line.stamp.at - held;
            let most = if received < fell + TIMEOUT + ROAD { TIMEOUT + ROAD } else { ROAD };
            assert!(held <= most, "{name}: held for {held:?}, received {:?} after", received.duration_since(fell));
        }
        let line = worker.stop().await;
        assert_eq!((line.done, line.documents_failed), (3_000, 0), "{name}");
        assert!(line.documents_indexed >= 590 && line.documents_parked >= 2_300, "{name}: {line:?}");
    }
}
