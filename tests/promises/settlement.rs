//! Settling by batches that fail in parts, replies that are lost, calls that are slow: one end for each receipt, one
//! call at a time (P1, P3, P7, P10).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use quittance::books::End;
use quittance::lease::Lease;
use quittance::outcome::{Judgement, Outcome, OutcomeName};
use quittance::queue::Refusal;
use tokio::time::{Instant, sleep, sleep_until};

use crate::crash_loop::delivered_before;
use crate::sim::bench::{BENCH, Bench, judged};
use crate::sim::reader::Act;
use crate::sim::{Cut, Fate, Faults, QueueAsk, Setup, Site, World, history, until};

const SECOND: Duration = Duration::from_secs(1);

/// A bench with this many messages in work.
async fn bench_with(messages: usize, setup: Setup) -> (Bench, Vec<Lease>) {
    let site = Site::new(1);
    for n in 0..messages {
        site.world.upload(&format!("{n}.txt"), "text", 1);
    }
    let bench = Bench::new(site, setup);
    let leases = bench.receive(messages).await;
    assert_eq!(leases.len(), messages);
    (bench, leases)
}

fn all_done(leases: Vec<Lease>) {
    leases.into_iter().for_each(|lease| lease.settle(judged(Outcome::Done)));
}

fn refusal(code: &str, sender_fault: bool) -> Option<Refusal> {
    Some(Refusal { code: code.into(), sender_fault })
}

#[tokio::test(start_paused = true)]
async fn of_ten_deletes_the_one_refused_is_sent_again_alone_and_the_nine_are_settled_once() {
    for position in 0..10 {
        let (bench, leases) = bench_with(10, Setup::default()).await;
        let began = Instant::now();
        let refused = leases[position].message().handle.clone();
        bench.site.world.queue.faults(|faults| {
            faults
                .next_entries
                .extend((0..10).map(|n| (n == position).then(|| refusal("InternalError", false)).flatten()));
        });
        all_done(leases);
        until("nine are settled", SECOND, || bench.books.snapshot(false).deleted == 9).await;
        assert_eq!(bench.books.snapshot(false).in_flight, 1, "the tenth is not done because the batch was");
        bench.until_settled().await;
        assert!(began.elapsed() < bench.setup.visibility, "within the lease");
        let (site, line) = bench.finish().await;
        assert_eq!((line.deleted, line.lease_lost), (10, 0));
        assert_eq!(history::delete_batches(&site.world.queue, BENCH), [10, 1]);
        let last = site.world.queue.calls().pop().unwrap().ask;
        assert_eq!(last, QueueAsk::Delete(vec![refused]));
        let deleted: BTreeSet<_> = history::really_deleted(&site.world.queue).into_iter().collect();
        assert_eq!((deleted.len(), site.world.queue.live().len()), (10, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn entries_refused_together_are_not_sent_together_again() {
    let (bench, leases) = bench_with(10, Setup::default()).await;
    bench.site.world.queue.faults(|faults| {
        faults.next_entries.extend([refusal("InternalError", false), refusal("InternalError", false)]);
    });
    all_done(leases);
    bench.until_settled().await;
    let (site, line) = bench.finish().await;
    assert_eq!(line.deleted, 10);
    assert_eq!(history::delete_batches(&site.world.queue, BENCH), [10, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_receipt_that_sqs_says_is_not_ours_ends_as_lease_lost_without_another_try() {
    let (bench, leases) = bench_with(2, Setup::default()).await;
    bench.site.world.queue.faults(|faults| {
        faults.next_entries.extend([refusal("ReceiptHandleIsInvalid", true), None]);
    });
    all_done(leases);
    bench.until_settled().await;
    let (site, line) = bench.finish().await;
    assert_eq!((line.deleted, line.lease_lost), (1, 1));
    assert_eq!(history::delete_batches(&site.world.queue, BENCH), [2]);
    let failed = site.lines("delete_failed");
    assert_eq!(failed.len(), 1);
    assert!(failed[0]["detail"].as_str().unwrap().contains("ReceiptHandleIsInvalid"), "{failed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_delete_whose_reply_is_lost_is_asked_again_and_booked_once() {
    let (bench, leases) = bench_with(10, Setup::default()).await;
    bench.site.world.queue.faults(|faults| faults.delete.next.push_back(Fate::LoseReply));
    all_done(leases);
    bench.until_settled().await;
    let (site, line) = bench.finish().await;
    assert_eq!((line.deleted, line.lease_lost), (10, 0));
    assert_eq!(history::delete_batches(&site.world.queue, BENCH), [10, 10]);
    assert_eq!(history::really_deleted(&site.world.queue).len(), 10);
}

#[tokio::test(start_paused = true)]
async fn deletes_that_nobody_acknowledges_are_lease_lost_at_the_end_of_the_lease() {
    let lost = Faults { lose_reply: 1.0, ..Faults::default() };
    let refused = Faults { down: true, ..Faults::default() };
    let silent = Faults { latency: (60 * SECOND, 60 * SECOND), ..Faults::default() };
    for (name, faults, really_deleted) in
        [("replies lost", lost, 3), ("not reached", refused, 0), ("never answered", silent, 0)]
    {
        let (bench, leases) = bench_with(3, Setup::default()).await;
        // Nor can their leases be extended; where the deletes took effect, SQS says so.
        let change = if really_deleted > 0 { Faults::default() } else { faults.clone() };
        bench.site.world.queue.faults(|all| (all.delete, all.change) = (faults, change));
        let began = Instant::now();
        all_done(leases);
        sleep_until(began + 59 * SECOND).await;
        assert_eq!(bench.books.snapshot(false).in_flight, 3, "{name}: nothing is booked before it is known");
        bench.until_settled().await;
        assert!(began.elapsed() < 70 * SECOND, "{name}: {:?}", began.elapsed());
        let (site, line) = bench.finish().await;
        assert_eq!((line.deleted, line.lease_lost), (0, 3), "{name}");
        assert_eq!(site.lines("delete_failed").len(), 6, "{name}: at the fifth try, and at the end");
        assert!(site.lines("delete_failed").iter().all(|line| line["tries"].as_u64() > Some(1)), "{name}");
        assert_eq!(history::really_deleted(&site.world.queue).len(), really_deleted, "{name}");
        history::one_call_at_a_time(&site.world);
    }
}

/// With a short lease few tries fit into it, and each of them may hang.
#[tokio::test(start_paused = true)]
async fn a_delete_that_hangs_is_told_after_half_a_lease_and_once() {
    let setup = Setup { visibility: 12 * SECOND, ..Setup::default() };
    let (bench, leases) = bench_with(1, setup).await;
    bench.site.world.queue.faults(|faults| faults.delete.latency = (60 * SECOND, 60 * SECOND));
    let began = Instant::now();
    all_done(leases);
    sleep_until(began + 5 * SECOND).await;
    assert_eq!(bench.site.lines("delete_failed").len(), 0, "one try may fail");
    sleep_until(began + 11 * SECOND).await;
    let told = bench.site.lines("delete_failed");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0]["tries"].as_u64() < Some(5), "{told:?}");
    sleep_until(began + 60 * SECOND).await;
    bench.site.world.queue.faults(|faults| faults.delete.latency = Default::default());
    bench.until_settled().await;
    let (site, line) = bench.finish().await;
    assert_eq!((line.deleted, line.lease_lost, site.lines("delete_failed").len()), (1, 0, 1));
}

/// Deletes fail for an hour while messages can be received (IAM, one API of SQS): were the leases to lapse, finished
/// messages would come back until SQS dead-letters them without a reason.
#[tokio::test(start_paused = true)]
async fn finished_messages_that_sqs_does_not_delete_stay_under_their_leases_and_end_intake() {
    let site = Site::in_world(World::with(1, 5));
    for n in 0..200 {
        site.world.upload(&format!("{n}.txt"), format!("text {n}"), 1);
    }
    site.world.queue.faults(|faults| faults.delete.down = true);
    let setup = Setup { concurrency: 64, max_receive_count: Some(5), ..Setup::default() };
    let worker = site.start("w", &setup);
    tokio::time::sleep(3_600 * SECOND).await;
    let line = worker.books.snapshot(false);
    assert_eq!(line.received, line.in_flight, "none has ended");
    assert!((55..=64).contains(&line.in_flight), "and nothing more was asked for: {line:?}");
    assert_eq!(site.lines("delete_failed").len() as u64, line.in_flight, "told once each");
    site.world.queue.faults(|faults| faults.delete.down = false);
    site.until_empty().await;
    let line = worker.stop().await;
    assert_eq!((line.received, line.done, line.lease_lost), (200, 200, 0));
    assert_eq!(site.world.dead_letters.live().len(), 0);
    history::one_call_at_a_time(&site.world);
}

/// An extension that followed would hide the message again: whoever asked for the return would wait for its lease.
#[tokio::test(start_paused = true)]
async fn a_return_that_sqs_does_not_take_is_asked_again_and_never_extended() {
    let (bench, mut leases) = bench_with(1, Setup::default()).await;
    let began = Instant::now();
    bench.site.world.queue.faults(|faults| faults.change.down_until = Some(began + 45 * SECOND));
    leases.pop().unwrap().settle(Judgement::none());
    bench.until_settled().await;
    let visibility = bench.setup.visibility;
    let (site, line) = bench.finish().await;
    assert_eq!(line.returned, 1);
    let calls = site.world.queue.calls();
    let asked: Vec<Duration> = calls
        .iter()
        .filter_map(|call| if let QueueAsk::Change(entries) = &call.ask { Some(entries[0].1) } else { None })
        .collect();
    assert!(asked.len() > 2 && asked.iter().all(|time| *time < visibility), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_finished_message_is_deleted_at_once_though_its_lease_cannot_be_extended() {
    let (bench, leases) = bench_with(1, Setup::default()).await;
    bench.site.world.queue.faults(|faults| faults.change.down = true);
    sleep(30 * SECOND).await; // its extension is due
    let done = Instant::now();
    all_done(leases);
    bench.until_settled().await;
    assert!(done.elapsed() < SECOND, "{:?}", done.elapsed());
    let (_, line) = bench.finish().await;
    assert_eq!((line.deleted, line.lease_lost), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_permit_is_not_free_before_sqs_has_answered() {
    let setup = Setup { concurrency: 4, ..Setup::default() };
    let (bench, mut leases) = bench_with(2, setup).await;
    let slow = Faults { latency: (SECOND, SECOND), ..Faults::default() };
    bench.site.world.queue.faults(|faults| (faults.delete, faults.change) = (slow.clone(), slow));
    assert_eq!(bench.free_seats(), 2);
    leases.pop().unwrap().settle(judged(Outcome::Done));
    drop(leases); // returned
    sleep(Duration::from_millis(1_900)).await;
    assert_eq!((bench.words(), bench.free_seats()), (2, 2), "SQS has acted, and not answered");
    sleep(Duration::from_millis(200)).await;
    assert_eq!(bench.free_seats(), 4);
    let (_, line) = bench.finish().await;
    assert_eq!((line.deleted, line.returned), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn under_slow_deletes_no_more_is_in_flight_than_the_limit() {
    let setup = Setup { concurrency: 10, ..Setup::default() };
    let site = Site::new(3);
    let slow = Faults { latency: (SECOND, 2 * SECOND), ..Faults::default() };
    site.world.queue.faults(|faults| faults.delete = slow);
    for n in 0..60 {
        site.world.upload(&format!("{n}.txt"), format!("text {n}"), 1);
    }
    let line = site.drain(&setup).await;
    assert_eq!(line.done, 60);
    let most = history::within_the_limit(&site.world, "last", 10);
    assert!(most >= 9, "the limit was never approached: {most}");
    history::one_call_at_a_time(&site.world);
}

/// The first extension goes out at a third of the lease, and takes four seconds here.
#[tokio::test(start_paused = true)]
async fn a_verdict_waits_for_the_extension_that_is_under_way() {
    for verdict_at in 17..27 {
        for done in [true, false] {
            let (bench, mut leases) = bench_with(1, Setup::default()).await;
            let slow = Faults { latency: (2 * SECOND, 2 * SECOND), ..Faults::default() };
            bench.site.world.queue.faults(|faults| faults.change = slow);
            let began = Instant::now();
            sleep_until(began + verdict_at * SECOND).await;
            leases.pop().unwrap().settle(if done { judged(Outcome::Done) } else { Judgement::none() });
            bench.until_settled().await;
            // An extension that landed after the return would hide the message for another minute.
            let visible = bench.site.world.queue.visible();
            assert_eq!(visible, usize::from(!done), "verdict at {verdict_at} s, done: {done}");
            let (site, line) = bench.finish().await;
            assert_eq!((line.deleted, line.returned), (u64::from(done), u64::from(!done)), "at {verdict_at} s");
            history::one_call_at_a_time(&site.world);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_receipt_has_one_end_whatever_sqs_does_to_its_calls() {
    let mut lost = 0;
    for seed in 0..300 {
        let site = Site::new(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let wild = Faults {
            fail_before: 0.2 * rng.f64(),
            lose_reply: 0.2 * rng.f64(),
            throttle: 0.1 * rng.f64(),
            latency: (Duration::ZERO, Duration::from_millis(rng.u64(0..4_000))),
            ..Faults::default()
        };
        site.world.queue.faults(|faults| {
            (faults.delete, faults.change) = (wild.clone(), wild);
            (faults.refuse_entry, faults.forget_entry) = (0.1, 0.1);
            (faults.redeliver_early, faults.twice_in_reply, faults.reorder) = (0.2, 0.1, true);
            faults.rise_after_delete = 0.1;
            faults.outlive_callers = rng.bool();
        });
        for n in 0..12 {
            site.world.upload(&format!("{n}.txt"), "text", 1);
        }
        let bench = Bench::new(site, Setup::default());
        for _ in 0..6 {
            for lease in bench.receive(10).await {
                let (wait, word) = (Duration::from_millis(rng.u64(0..90_000)), rng.u8(0..4));
                tokio::spawn(async move {
                    let term = Arc::clone(lease.term());
                    tokio::select! { biased; () = term.ended() => {}, () = sleep(wait) => {} }
                    match word {
                        0 | 1 => lease.settle(judged(Outcome::Done)),
                        2 => lease.settle(judged(Outcome::Superseded)),
                        _ => drop(lease),
                    }
                });
            }
        }
        bench.until_settled().await;
        let (site, line) = bench.finish().await;
        assert_eq!(line.dead_lettered, 0, "seed {seed}");
        history::one_call_at_a_time(&site.world);
        lost += line.lease_lost;
    }
    assert!(lost > 100, "only {lost} leases were lost: the faults did nothing");
}

/// P10 of faults.md: never on without a settler. The binary ends with 70 then, and systemd starts it anew.
#[tokio::test(start_paused = true)]
async fn a_panic_in_a_call_of_the_settler_ends_the_worker_and_hangs_nowhere() {
    // In work, in the drain, and when all that is left is the last call.
    for (name, verb, stopping) in [
        ("a delete", "delete", false),
        ("an extension", "change", false),
        ("an extension in the drain", "change", true),
        ("a delete at the end", "delete", true),
        ("a mark", "put", false),
    ] {
        let site = Site::new(1);
        site.world.upload("hangs.txt", "text", 1);
        site.world.upload("a.txt", "text", 1);
        delivered_before(&site, 4).await;
        site.reader.plan("hangs.txt", [Act::Hangs]);
        site.reader.plan("a.txt", [Act::Takes(20 * SECOND)]);
        let worker = site.start("w", &Setup { drain: 60 * SECOND, ..Setup::default() });
        until("both are begun", 5 * SECOND, || site.reader.works("a.txt") + site.reader.works("hangs.txt") == 2).await;
        worker.wires.cut_at(move |asking| {
            let ours = verb != "put" || asking.place.contains("/attempts/");
            (asking.verb == verb && ours).then_some(Cut::Panics)
        });
        if stopping {
            worker.ask_to_stop();
        }
        let began = Instant::now();
        let broken = worker.broken().await;
        assert!(began.elapsed() < 180 * SECOND, "{name}: after {:?}", began.elapsed());
        assert!(broken.to_string().contains("panicked"), "{name}: {broken}");
        assert_eq!(site.world.queue.live().len(), 2, "{name}: nothing was deleted");
    }
}

#[tokio::test(start_paused = true)]
async fn books_that_do_not_balance_are_an_error_line_every_minute() {
    let site = Site::new(1);
    let worker = site.start("w", &Setup::default());
    sleep(125 * SECOND).await;
    assert_eq!(site.lines("out_of_balance").len(), 0);
    // Deleted without finished work.
    worker.books.settled(worker.books.received(), End::Deleted, OutcomeName::Cancelled);
    sleep(120 * SECOND).await;
    let told = site.lines("out_of_balance");
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0]["detail"].as_str().unwrap().contains("received: 1"), "{told:?}");
    worker.crash();
}
