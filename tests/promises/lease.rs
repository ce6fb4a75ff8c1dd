//! P7: no work without a lease. Heartbeats keep it, its loss ends the work, twins are one work, twelve hours are the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use quittance::lease::{Intake, Term};
use quittance::message::ReceiptHandle;
use quittance::outcome::{Dependency, Judgement, Outcome, RejectReason, RetryReason, SkipReason};
use quittance::process::extract::ExtractFailure;
use quittance::process::{Progress, Scope};
use quittance::queue::{Queue as _, Refusal, SQS_MAX_VISIBILITY};
use tokio::time::{Instant, sleep, sleep_until};

use crate::sim::bench::{BENCH, Bench, judged};
use crate::sim::reader::Act;
use crate::sim::{Faults, QueueAsk, RESULTS, Setup, Site, StaleDelete, history, until};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const VISIBILITY: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_job_of_ten_minutes_is_kept_by_heartbeats_and_received_once() {
    let site = Site::new(1);
    site.reader.plan("a.txt", [Act::Takes(600 * SECOND)]);
    let id = site.world.upload("a.txt", "text", 1);
    let line = site.drain(&Setup::default()).await;
    assert_eq!((line.received, line.done), (1, 1));
    assert_eq!(history::receives(&site.world.queue)[&id], 1);
    let extensions = site.world.queue.calls().iter().filter(|call| matches!(call.ask, QueueAsk::Change(_))).count();
    assert!((29..=31).contains(&extensions), "a third of the lease apart: {extensions}");
    assert_eq!(history::no_write_without_a_lease(&site.world, "last", VISIBILITY), 1);
}

#[tokio::test(start_paused = true)]
async fn two_failed_extensions_of_three_lose_nothing() {
    let site = Site::new(1);
    site.reader.plan("a.txt", [Act::Takes(100 * SECOND)]);
    site.world.upload("a.txt", "text", 1);
    let worker = site.start("w", &Setup::default());
    let down = Faults { down_until: Some(Instant::now() + 50 * SECOND), ..Faults::default() };
    site.world.queue.faults(|faults| faults.change = down);
    site.until_empty().await;
    assert_eq!(worker.stop().await.received, 1);
    assert!(!site.lines("extend_failed").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_cannot_be_extended_ends_the_work_before_anything_is_written() {
    for (name, faults) in [
        ("not reached", Faults { down: true, ..Faults::default() }),
        ("never answered", Faults { latency: (90 * SECOND, 90 * SECOND), ..Faults::default() }),
        ("throttled", Faults { throttle: 1.0, ..Faults::default() }),
    ] {
        let site = Site::new(1);
        // Without the end of the lease, it would write five seconds after it.
        site.reader.plan("a.txt", [Act::Takes(65 * SECOND), Act::Reads]);
        site.world.upload("a.txt", "text", 1);
        site.world.queue.faults(|all| all.change = faults);
        let began = Instant::now();
        let worker = site.start("w", &Setup::default());
        until("the lease is lost", 70 * SECOND, || !site.settlements().is_empty()).await;
        assert_eq!(began.elapsed().as_secs(), 60, "{name}");
        assert_eq!(site.settlements(), ["cancelled/lease_lost"], "{name}");
        site.until_empty().await;
        let line = worker.stop().await;
        assert_eq!((line.received, line.lease_lost, line.done), (2, 1, 1), "{name}");
        assert_eq!(history::no_write_without_a_lease(&site.world, "w", VISIBILITY), 1, "{name}");
        assert_eq!(site.troubles(), Vec::<String>::new(), "{name}: no failure of its own");
    }
}

/// The reply to the poll takes twelve seconds of the minute: the lease has 48 left when it is born here.
#[tokio::test(start_paused = true)]
async fn a_lease_counts_from_when_the_poll_was_sent() {
    let site = Site::new(1);
    site.reader.plan("a.txt", [Act::Takes(50 * SECOND), Act::Reads]);
    site.world.upload("a.txt", "text", 1);
    site.world.queue.faults(|faults| {
        faults.receive.latency = (6 * SECOND, 6 * SECOND);
        faults.change.down = true;
    });
    let began = Instant::now();
    let worker = site.start("w", &Setup::default());
    until("the lease is lost", 70 * SECOND, || !site.settlements().is_empty()).await;
    assert_eq!(began.elapsed().as_secs(), 60);
    site.until_empty().await;
    assert_eq!(worker.stop().await.lease_lost, 1);
    history::no_write_without_a_lease(&site.world, "w", VISIBILITY);
}

#[tokio::test(start_paused = true)]
async fn an_extension_counts_from_when_it_was_sent() {
    let site = Site::new(1);
    site.world.upload("a.txt", "text", 1);
    let bench = Bench::new(site, Setup::default());
    let lease = bench.receive_one().await;
    let began = Instant::now();
    bench.site.world.queue.faults(|faults| faults.change.latency = (2 * SECOND, 2 * SECOND));
    sleep_until(began + 25 * SECOND).await; // sent at 20, answered at 24: good until 80
    bench.site.world.queue.faults(|faults| faults.change.down = true);
    lease.term().ended().await;
    assert_eq!(began.elapsed().as_secs(), 80);
    drop(lease);
    let (_, line) = bench.finish().await;
    assert_eq!(line.lease_lost, 1);
}

/// P19: the monotonic clock stands still while a machine is suspended, SQS does not. The work would have written five
/// seconds after waking, long before its timers tell that the lease is over.
#[tokio::test(start_paused = true)]
async fn a_machine_that_wakes_after_its_lease_writes_nothing() {
    for (slept, writes) in [(30, 1), (600, 0)] {
        let site = Site::new(1);
        site.reader.plan("a.txt", [Act::Takes(10 * SECOND), Act::Reads]);
        site.world.upload("a.txt", "text", 1);
        let worker = site.start("w", &Setup { replay: false, ..Setup::default() });
        until("it is in work", 5 * SECOND, || site.reader.works("a.txt") == 1).await;
        sleep(5 * SECOND).await;
        site.world.clock.suspend(slept * SECOND);
        sleep(10 * SECOND).await;
        assert_eq!(site.world.store.keys(RESULTS, "processed/").len(), writes, "after {slept} s");
        site.until_empty().await;
        let line = worker.stop().await;
        assert_eq!((line.lease_lost, line.done), (1 - writes as u64, 1), "after {slept} s: {line:?}");
    }
}

/// A process may stand still between the decision to extend or return and the call: SQS would hide a message that
/// nobody works on, or take it from another.
#[tokio::test(start_paused = true)]
async fn a_process_that_stood_still_at_any_turn_touches_no_receipt_that_is_over() {
    let sick = || Act::Fails(ExtractFailure::Unavailable { detail: "no more processes".into() });
    // Around the extension at 20 s less the poll's second; from the delivery to the return.
    for (act, since) in [(Act::Hangs, 18 * SECOND), (sick(), Duration::ZERO)] {
        let mut times = 0;
        for turns in 0..60 {
            let site = Site::new(1);
            site.reader.plan("a.txt", [act.clone()]);
            let worker = site.start("w", &Setup { replay: false, ..Setup::default() });
            sleep(SECOND).await;
            site.world.upload("a.txt", "text", 1);
            sleep(since).await;
            worker.life.freeze_in(turns);
            sleep(2 * SECOND).await;
            if worker.life.is_frozen() {
                times += 1;
                sleep(100 * SECOND).await;
                let thawed = Instant::now();
                worker.life.thaw();
                sleep(Duration::from_millis(10)).await;
                let late = site.world.queue.calls().into_iter().filter(|call| call.asked.at >= thawed);
                // Of the first delivery: it may come again in the same instant.
                let of_the_first = |(handle, _): &(ReceiptHandle, _)| handle.0.starts_with("handle-0-");
                let late =
                    late.filter(|call| matches!(&call.ask, QueueAsk::Change(all) if all.iter().any(of_the_first)));
                assert_eq!(late.count(), 0, "stood still after {turns} turns");
            }
            worker.crash();
        }
        assert!(times > 2, "it stood still {times} times, {since:?} after the delivery");
    }
}

#[tokio::test(start_paused = true)]
async fn a_receipt_that_went_to_another_worker_ends_the_work_of_the_first() {
    for code in ["MessageNotInflight", "ReceiptHandleIsInvalid"] {
        let site = Site::new(7);
        site.reader.plan("a.txt", [Act::Takes(300 * SECOND)]);
        site.world.upload("a.txt", "text", 1);
        site.world.queue.faults(|faults| (faults.redeliver_early, faults.stale_change) = (1.0, code));
        let first = site.start("first", &Setup { concurrency: 1, ..Setup::default() });
        until("the first has it", 5 * SECOND, || site.reader.works("a.txt") == 1).await;
        site.world.queue.faults(|faults| faults.redeliver_early = 0.0);
        let second = site.start("second", &Setup { concurrency: 1, ..Setup::default() });
        until("the second has it too", 60 * SECOND, || site.reader.works("a.txt") == 2).await;
        until("the first has lost it", 60 * SECOND, || !site.settlements().is_empty()).await;
        assert_eq!(site.settlements()[0], "cancelled/lease_lost", "{code}");
        let told = site.lines("lease_lost");
        assert_eq!(told[0]["detail"], "SQS refused the extension", "{code}");
        site.until_empty().await;
        let lost = first.stop().await;
        assert_eq!((lost.deleted, lost.returned), (0, 0), "{code}: {lost:?}");
        assert_eq!(second.stop().await.done, 1, "{code}");
        history::no_write_without_a_lease(&site.world, "first", VISIBILITY);
        history::no_write_without_a_lease(&site.world, "second", VISIBILITY);
    }
}

#[tokio::test(start_paused = true)]
async fn two_deliveries_in_one_process_are_one_work_settled_by_the_newer_handle() {
    for (name, twice, early) in [("in one reply", 1.0, 0.0), ("by two polls", 0.0, 1.0)] {
        let site = Site::new(1);
        // An old handle does not delete here: only the newest one empties the queue.
        site.world.queue.faults(|faults| {
            (faults.twice_in_reply, faults.redeliver_early) = (twice, early);
            faults.stale_delete = StaleDelete::Ignored;
        });
        site.reader.plan("a.txt", [Act::Takes(100 * SECOND)]);
        site.world.upload("a.txt", "text", 1);
        let worker = site.start("w", &Setup::default());
        until("it was delivered twice", 100 * SECOND, || worker.books.snapshot(false).received > 1).await;
        site.world.queue.faults(|faults| (faults.twice_in_reply, faults.redeliver_early) = (0.0, 0.0));
        site.until_empty().await;
        let line = worker.stop().await;
        assert_eq!(site.reader.works("a.txt"), 1, "{name}");
        assert_eq!((line.done, line.lease_lost), (1, line.received - 1), "{name}: {line:?}");
        assert_eq!((line.changes_parsed, history::really_deleted(&site.world.queue).len()), (1, 1), "{name}");
        history::one_call_at_a_time(&site.world);
    }
}

/// What is left to do with a receipt whose lease is gone when its work speaks: finished work is deleted, once and
/// without a promise; nothing is returned or dead-lettered, for it may be another's by now.
#[tokio::test(start_paused = true)]
async fn after_the_lease_is_lost_only_finished_work_is_deleted_and_booked_as_lost() {
    let crashed = || Outcome::Retry(RetryReason::ChildCrashed("signal 11".into()));
    let sick = || Outcome::Retry(RetryReason::Systemic(Dependency::Results, "503".into()));
    let table: [(Option<Outcome>, usize); 7] = [
        (Some(Outcome::Done), 1),
        (Some(Outcome::Superseded), 1),
        (Some(Outcome::Skip(SkipReason::DirectoryMarker)), 1),
        (Some(crashed()), 0),
        (Some(sick()), 0),
        (Some(Outcome::Reject(RejectReason::Malformed("no event".into()))), 0),
        (None, 0),
    ];
    for (outcome, deletes) in table {
        for refused in [false, true] {
            let site = Site::new(1);
            site.world.upload("a.txt", "text", 1);
            let bench = Bench::new(site, Setup::default());
            let lease = bench.receive_one().await;
            bench.site.world.queue.faults(|faults| {
                (faults.change.down, faults.delete.down) = (true, refused);
            });
            lease.term().ended().await;
            let before = bench.site.world.queue.calls().len();
            lease.settle(outcome.clone().map_or_else(Judgement::none, judged));
            bench.until_settled().await;
            let after: Vec<_> = bench.site.world.queue.calls().split_off(before);
            let name = format!("{outcome:?}, refused: {refused}");
            assert!(after.iter().all(|call| matches!(call.ask, QueueAsk::Delete(_))), "{name}: {after:?}");
            assert_eq!(after.len(), deletes, "{name}: one try at most");
            let (site, line) = bench.finish().await;
            assert_eq!((line.received, line.lease_lost), (1, 1), "{name}");
            assert_eq!(site.world.dead_letters.calls().len(), 0, "{name}");
        }
    }
}

/// Nothing fences a dead letter: a lease that ends while its attempts are read is not followed by a send.
#[tokio::test(start_paused = true)]
async fn no_dead_letter_is_sent_once_the_lease_is_over() {
    for (verdict_at, sent) in [(40, 1), (55, 0)] {
        let site = Site::new(1);
        site.world.upload("a.txt", "text", 1);
        let bench = Bench::new(site, Setup::default());
        drop(bench.receive_one().await); // attempts are read from the second delivery on
        let lease = bench.receive_one().await;
        let began = Instant::now();
        bench.site.world.queue.faults(|faults| faults.change.down = true);
        bench.site.world.store.faults(|faults| faults.get.latency = (4 * SECOND, 4 * SECOND));
        sleep_until(began + verdict_at * SECOND).await;
        lease.settle(judged(Outcome::Reject(RejectReason::Malformed("no event".into()))));
        bench.until_settled().await;
        let (site, line) = bench.finish().await;
        assert_eq!((line.dead_lettered, line.lease_lost), (sent, 1 - sent), "verdict at {verdict_at} s");
        assert_eq!(site.world.dead_letters.live().len() as u64, sent, "verdict at {verdict_at} s");
        assert_eq!(history::no_write_without_a_lease(&site.world, BENCH, VISIBILITY) as u64, sent);
    }
}

/// The letter is there: one delete, or there are two copies. What it does is not ours to promise any more.
#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_outlasts_its_lease_is_followed_by_one_delete_booked_as_lost() {
    let site = Site::new(1);
    site.world.upload("a.txt", "text", 1);
    let bench = Bench::new(site, Setup::default());
    let lease = bench.receive_one().await;
    bench.site.world.queue.faults(|faults| faults.change.down = true);
    bench.site.world.dead_letters.faults(|faults| faults.send.latency = (4 * SECOND, 4 * SECOND));
    sleep(55 * SECOND).await;
    lease.settle(judged(Outcome::Reject(RejectReason::Malformed("no event".into()))));
    bench.until_settled().await;
    let (site, line) = bench.finish().await;
    assert_eq!((line.dead_lettered, line.lease_lost), (0, 1));
    assert_eq!(history::delete_batches(&site.world.queue, BENCH), [1]);
    assert_eq!((site.world.queue.live().len(), site.world.dead_letters.live().len()), (0, 1));
}

/// Whoever is late to tell the work that its lease is over: the work asks, before each thing that it writes.
#[tokio::test(start_paused = true)]
async fn the_work_asks_for_its_lease_before_each_write() {
    // Asked so many times with the answer yes, then no: records and markers written.
    for (yes, records, markers) in [(0, 0, 0), (1, 1, 0), (2, 1, 1)] {
        let site = Site::new(1);
        site.world.upload("a.txt", "text", 1);
        let bench = Bench::new(site, Setup::default());
        let lease = bench.receive_one().await;
        let processor = bench.site.processor(BENCH, &bench.setup, &bench.wires, &bench.books, None);
        let asked = AtomicUsize::new(0);
        let may_act = move || asked.fetch_add(1, Ordering::Relaxed) < yes;
        let scope = Scope { may_act: Arc::new(may_act), keep: Arc::new(()) };
        let ended = processor.message(lease.message(), &scope, &Progress::default()).await;
        assert_eq!(ended.is_ok(), yes == 2);
        let written = |prefix| bench.site.world.store.keys(RESULTS, prefix).len();
        assert_eq!((written("processed/"), written("retry-index/")), (records, markers), "after {yes}");
    }
}

/// Two polls' replies may cross on their way: the delivery that is heard of last is then the older one.
#[tokio::test(start_paused = true)]
async fn an_older_delivery_that_is_heard_of_later_does_not_take_over() {
    let site = Site::new(1);
    site.world.queue.faults(|faults| (faults.redeliver_early, faults.stale_delete) = (1.0, StaleDelete::Ignored));
    site.world.upload("a.txt", "text", 1);
    let bench = Bench::new(site, Setup::default());
    let older = bench.poll(1).await;
    bench.site.world.queue.faults(|faults| faults.redeliver_early = 0.0);
    let newer = bench.poll(1).await;
    let leases = bench.admit(newer.0, newer.1).await;
    assert_eq!(bench.admit(older.0, older.1).await.len(), 0, "one work");
    sleep(30 * SECOND).await; // an extension goes out, with the handle that is good
    assert!(leases[0].term().is_live());
    leases.into_iter().for_each(|lease| lease.settle(judged(Outcome::Done)));
    bench.until_settled().await;
    assert_eq!(bench.site.world.queue.live().len(), 0, "deleted by the newer handle");
    let (site, line) = bench.finish().await;
    assert_eq!((line.received, line.done, line.lease_lost), (2, 1, 1));
    assert_eq!(history::delete_batches(&site.world.queue, BENCH), [1]);
    // The line of the older one tells its own receipt: that of the newer one's work comes later.
    let older = site.lines("message_settled").remove(0);
    assert_eq!(
        (&older["receive_count"], &older["held_ms"], &older["reason"]),
        (&1.into(), &0.into(), &"twin_delivery".into())
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_over_at_its_deadline_and_not_a_moment_before() {
    let world = Site::new(1).world;
    let born = Instant::now();
    let term = Term::until(world.clock.lease_clock(), born, born + SECOND);
    sleep(SECOND - Duration::from_millis(1)).await;
    assert!(term.is_live() && term.is_in_time());
    sleep(Duration::from_millis(1)).await;
    assert!(!term.is_live() && !term.is_in_time());
}

#[tokio::test]
async fn no_more_seats_are_taken_than_were_asked_for() {
    let (intake, _words) = Intake::new(10);
    let mut held = Vec::new();
    for (at_least, up_to, taken) in [(1, 3, 3), (1, 1, 1), (2, 10, 6)] {
        let seats = intake.seats(at_least, up_to).await.unwrap();
        assert_eq!(seats.len(), taken, "{at_least} to {up_to}");
        held.push(seats);
    }
    assert!(intake.seats(1, 1).now_or_never().is_none(), "all ten are held");
}

/// With a short lease a call that hangs is given up early enough for another (and a refusal is not the end).
#[tokio::test(start_paused = true)]
async fn an_extension_that_hangs_or_is_refused_for_now_is_asked_again_inside_of_the_lease() {
    for visibility in [12 * SECOND, VISIBILITY] {
        let site = Site::new(1);
        site.reader.plan("a.txt", [Act::Takes(visibility)]);
        site.world.upload("a.txt", "text", 1);
        let worker = site.start("w", &Setup { visibility, ..Setup::default() });
        until("it is in work", 5 * SECOND, || site.reader.works("a.txt") == 1).await;
        site.world.queue.faults(|faults| faults.change.latency = (HOUR, HOUR));
        until("a call was given up", visibility, || !site.lines("extend_failed").is_empty()).await;
        let limit = visibility / 4;
        let expected = format!("no answer within {:?}", limit.min(5 * SECOND));
        let detail = site.lines("extend_failed")[0]["detail"].to_string();
        assert!(detail.contains(&expected), "{detail}");
        site.world.queue.faults(|faults| {
            faults.change.latency = (Duration::ZERO, Duration::ZERO);
            let busy = Refusal { code: "RequestThrottled".into(), sender_fault: false };
            faults.next_entries.push_back(Some(busy));
        });
        until("the refusal of one entry is told too", visibility, || {
            let told = site.lines("extend_failed");
            told.iter().any(|line| line["detail"].to_string().contains("RequestThrottled"))
        })
        .await;
        site.until_empty().await;
        let line = worker.stop().await;
        assert_eq!((line.received, line.done, line.lease_lost), (1, 1, 0), "{visibility:?}");
    }
}

/// Leases that end at about the same time are extended in one call; others are not extended for company's sake.
#[tokio::test(start_paused = true)]
async fn leases_due_soon_ride_along_and_others_do_not() {
    // A lease counts from its poll: those of one poll are due together; with 45 s, those of two polls 5 s apart.
    for (apart, visibility, messages, per_call) in [(SECOND, VISIBILITY, 5, 5), (25 * SECOND, 45 * SECOND, 2, 1)] {
        let site = Site::new(1);
        let worker = site.start("w", &Setup { replay: false, visibility, ..Setup::default() });
        for n in 0..messages {
            let key = format!("{n}.txt");
            site.reader.plan(&key, [Act::Takes(300 * SECOND)]);
            site.world.upload(&key, "text", 1);
            sleep(apart).await;
        }
        sleep(200 * SECOND).await;
        let sizes: Vec<usize> = site
            .world
            .queue
            .calls()
            .iter()
            .filter_map(|call| match &call.ask {
                QueueAsk::Change(entries) => Some(entries.len()),
                _ => None,
            })
            .collect();
        assert!(sizes.len() >= 9 && sizes.iter().all(|size| *size == per_call), "{apart:?} apart: {sizes:?}");
        site.until_empty().await;
        worker.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn slow_and_failing_extensions_of_many_leases_are_one_call_a_receipt() {
    for seed in 0..20 {
        let site = Site::new(seed);
        site.world.queue.faults(|faults| {
            faults.change.latency = (Duration::ZERO, 2 * SECOND);
            faults.change.fail_before = 0.2;
            faults.refuse_entry = 0.1;
        });
        let worker = site.start("w", &Setup { replay: false, ..Setup::default() });
        for n in 0..25 {
            let key = format!("{n}.txt");
            site.reader.plan(&key, [Act::Takes(100 * SECOND)]);
            site.world.upload(&key, "text", 1);
            sleep(Duration::from_millis(400)).await;
        }
        site.until_empty().await;
        assert_eq!(worker.stop().await.done, 25, "seed {seed}");
        history::one_call_at_a_time(&site.world);
    }
}

#[tokio::test(start_paused = true)]
async fn after_twelve_hours_the_message_is_dead_lettered_with_the_reason_deadline() {
    let site = Site::new(1);
    site.reader.plan("a.txt", [Act::Hangs]);
    let id = site.world.upload("a.txt", "text", 1);
    let began = Instant::now();
    let worker = site.start("w", &Setup::default());
    until("it is given up", SQS_MAX_VISIBILITY + 60 * SECOND, || !site.settlements().is_empty()).await;
    assert!(began.elapsed() > SQS_MAX_VISIBILITY - 120 * SECOND && began.elapsed() < SQS_MAX_VISIBILITY);
    assert_eq!(history::receives(&site.world.queue)[&id], 1, "held all the time");
    let line = worker.stop().await;
    assert_eq!((line.received, line.dead_lettered, line.changes_abandoned), (1, 1, 1), "{line:?}");
    let letters = site.world.dead_letters.live();
    assert_eq!(letters.len(), 1);
    let note = crate::dead_letter::note(&letters[0].1);
    assert_eq!((&note["reason"], &note["keys"]), (&"deadline".into(), &serde_json::json!(["a.txt"])));
    // Which file it was: the change has no outcome, and is named all the same.
    let settled = site.lines("message_settled").remove(0);
    assert_eq!((&settled["keys"], &settled["work_ids"]), (&note["keys"], &note["work_ids"]));
    assert_eq!(note["work_ids"].as_array().unwrap().len(), 1);
    assert_eq!(site.world.queue.facts().await.unwrap().in_flight, 0);
}

/// A child that takes its time to die holds the permit of its message, although SQS has long answered.
#[tokio::test(start_paused = true)]
async fn a_permit_is_not_free_before_the_child_is_gone() {
    let site = Site::new(1);
    let setup = Setup { concurrency: 1, ..Setup::default() };
    site.reader.plan("a.txt", [Act::Lingers(40 * SECOND), Act::Reads]);
    site.world.upload("a.txt", "text", 1);
    let worker = site.start("w", &setup);
    until("it is in work", 5 * SECOND, || site.reader.works("a.txt") == 1).await;
    site.world.queue.faults(|faults| faults.change.down = true);
    until("the lease is lost", 70 * SECOND, || !site.settlements().is_empty()).await;
    let lost_at = Instant::now();
    assert_eq!(site.world.queue.visible(), 1, "SQS would hand it out");
    until("it is in work again", 100 * SECOND, || site.reader.works("a.txt") == 2).await;
    assert!(lost_at.elapsed() >= 40 * SECOND, "the permit was free after {:?}", lost_at.elapsed());
    site.until_empty().await;
    worker.stop().await;
}
