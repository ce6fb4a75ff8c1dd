//! P7 and P1 at length: where deletes are slower than receives, what is in flight stays at its limit, nothing grows, and
//! the queue drains at the rate of the deletes. (A known peer wedges here: its permits were freed before SQS answered.)

use std::sync::Arc;
use std::time::Duration;

use quittance::limits::Limits;
use tokio::time::Instant;

use crate::sim::{Faults, Record, SOURCE, Setup, Site, history, s3_event, until};

const MESSAGES: u32 = 20_000;
const RECEIVE: Duration = Duration::from_millis(5);
const DELETE: Duration = Duration::from_millis(10);
/// The settler's own wait for a full batch.
const LINGER: Duration = Duration::from_millis(5);

#[tokio::test(start_paused = true)]
async fn with_deletes_slower_than_receives_in_flight_stays_at_its_limit_and_the_queue_drains_at_their_rate() {
    for concurrency in [10, 64] {
        // As SQS does it: any number of calls beside each other. Then a queue that serves one delete after the other.
        for one_at_a_time in [false, true] {
            let name = format!("concurrency {concurrency}, one at a time: {one_at_a_time}");
            let site = Site::new(1);
            for _ in 0..MESSAGES {
                // Without work in it: only the queue decides the pace.
                site.world.queue.put(r#"{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"source"}"#);
            }
            site.world.queue.faults(|faults| {
                faults.receive.latency = (RECEIVE / 2, RECEIVE / 2);
                let there = if one_at_a_time { DELETE } else { DELETE / 2 };
                faults.delete = Faults { latency: (there, there), one_at_a_time, ..Faults::default() };
            });
            let began = Instant::now();
            let worker = site.start("w", &Setup { concurrency, replay: false, ..Setup::default() });
            let wires = Arc::clone(&worker.wires);
            site.until_empty().await;
            let took = began.elapsed();
            let line = worker.stop().await;
            assert_eq!((line.received, line.skipped, line.lease_lost), (20_000, 20_000, 0), "{name}");

            // At its limit, and not above: a lost permit would show as less, one that is freed too early as more.
            // (A poll waits for ten seats, so up to nine may wait with it.)
            let most = history::within_the_limit(&site.world, "w", concurrency);
            assert!(most + 9 >= i64::try_from(concurrency).unwrap(), "{name}: never more than {most} in flight");
            // Memory: what the settler holds is what the books call in flight, and each of its calls has a receipt.
            let (held, calls) = wires.most();
            assert!(held <= concurrency as u64, "{name}: {held} held");
            assert!(calls <= concurrency + 4, "{name}: {calls} calls at once");

            let deletes = u32::try_from(history::delete_batches(&site.world.queue, "w").len()).unwrap();
            assert!(deletes <= MESSAGES / 9, "{name}: {deletes} deletes, and batches of ten would do");
            if one_at_a_time && concurrency == 64 {
                let busy = DELETE * deletes;
                assert!(took < busy + busy / 20, "{name}: {took:?}, and the deletes took {busy:?}");
            } else {
                // Little's law: a seat is taken for a poll, a linger and a delete; and the way out must not cost more.
                let round = RECEIVE + LINGER + DELETE;
                let rounds = MESSAGES.div_ceil(u32::try_from(concurrency).unwrap() / 10 * 10);
                assert!(took < round * rounds, "{name}: {took:?} for {rounds} rounds of {round:?}");
            }
            history::one_call_at_a_time(&site.world);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_lowered_in_mid_work_holds_as_soon_as_that_work_ends_and_one_that_is_raised_is_used() {
    const SECOND: Duration = Duration::from_secs(1);
    for (seed, lowered) in [(1, 1), (2, 3), (3, 9), (4, 15)] {
        let site = Site::new(seed);
        for n in 0..1_500 {
            let key = format!("{n}.txt");
            let head = site.world.store.put_object(SOURCE, &key, key.clone());
            site.world.queue.put(s3_event(&[Record::created(SOURCE, &key, &head, 1)]));
        }
        site.world.store.faults(|faults| faults.get.latency = (SECOND / 4, SECOND / 2));
        let setup = Setup { concurrency: 40, replay: false, ..Setup::default() };
        let worker = site.start("w", &setup);
        let in_flight = || usize::try_from(worker.books.snapshot(false).in_flight).unwrap();
        until("all seats are taken", 60 * SECOND, || in_flight() >= 31).await;
        worker.limits.set(Limits { concurrency: lowered, ..setup.limits() });
        until("what was in work has ended", 60 * SECOND, || in_flight() <= lowered).await;
        tokio::time::sleep(5 * SECOND).await; // and so have the polls that had their seats before
        let mut most = 0;
        for _ in 0..200 {
            tokio::time::sleep(SECOND / 20).await;
            most = most.max(in_flight());
        }
        assert!((1..=lowered).contains(&most), "{most} in flight at a limit of {lowered}");
        worker.limits.set(setup.limits());
        until("all seats are taken again", 60 * SECOND, || in_flight() >= 31).await;
        // Lowered while nothing is there to receive, and stopped so.
        site.until_empty().await;
        worker.limits.set(Limits { concurrency: lowered, ..setup.limits() });
        tokio::time::sleep(SECOND).await;
        let line = worker.stop().await;
        assert_eq!((line.done, line.lease_lost), (1_500, 0));
    }
}
