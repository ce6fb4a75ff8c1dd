//! P1 and P2: however the scope of a lease ends, exactly one word reaches the settler, and without a verdict nothing is
//! deleted.

use std::sync::Arc;
use std::time::Duration;

use quittance::gate::Gate;
use quittance::lease::Lease;
use quittance::outcome::{Judgement, Outcome, Verdict};
use quittance::pipeline;
use quittance::process::{Progress, Scope};
use quittance::retry::Jitter;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::sim::bench::{BENCH, Bench, judged};
use crate::sim::reader::Act;
use crate::sim::{Faults, RESULTS, Setup, Site, history, record_key, until};

/// A bench whose one message is in a lease.
async fn one_lease() -> (Bench, Lease) {
    let site = Site::new(1);
    site.world.upload("a.txt", "text", 1);
    let bench = Bench::new(site, Setup::default());
    let lease = bench.receive_one().await;
    (bench, lease)
}

fn fails() -> Result<(), std::fmt::Error> {
    Err(std::fmt::Error)
}

#[tokio::test(start_paused = true)]
async fn however_a_scope_ends_one_word_is_spoken_and_only_a_verdict_deletes() {
    type End = fn(Lease) -> JoinHandle<()>;
    let ends: [(&str, End, &str); 9] = [
        ("done", |lease| tokio::spawn(async move { lease.settle(judged(Outcome::Done)) }), "done/deleted"),
        (
            "a panic of the work, told as a verdict",
            |lease| {
                let verdict = Verdict::Panicked("boom".into());
                tokio::spawn(async move { lease.settle(Judgement { verdict, ..Judgement::none() }) })
            },
            "panicked/returned",
        ),
        ("no verdict", |lease| tokio::spawn(async move { lease.settle(Judgement::none()) }), "cancelled/returned"),
        ("a plain drop", |lease| tokio::spawn(async move { drop(lease) }), "cancelled/returned"),
        (
            "?",
            |lease| {
                tokio::spawn(async move {
                    let ended: Result<(), std::fmt::Error> = async move {
                        let _held = lease;
                        fails()?;
                        yield_now().await;
                        Ok(())
                    }
                    .await;
                    assert!(ended.is_err());
                })
            },
            "cancelled/returned",
        ),
        (
            "a panic of the scope itself",
            |lease| {
                tokio::spawn(async move {
                    let _held = lease;
                    yield_now().await;
                    panic!("told to")
                })
            },
            "cancelled/returned",
        ),
        (
            "a timeout",
            |lease| {
                tokio::spawn(async move {
                    let held = async move {
                        let _held = lease;
                        std::future::pending::<()>().await;
                    };
                    assert!(timeout(Duration::from_secs(2), held).await.is_err());
                })
            },
            "cancelled/returned",
        ),
        (
            "an abort",
            |lease| {
                let task = tokio::spawn(async move {
                    let _held = lease;
                    std::future::pending::<()>().await;
                });
                task.abort();
                task
            },
            "cancelled/returned",
        ),
        (
            "a task that is never polled",
            |lease| {
                drop(async move { lease.settle(judged(Outcome::Done)) });
                tokio::spawn(async {})
            },
            "cancelled/returned",
        ),
    ];
    for (name, end, expected) in ends {
        let (bench, lease) = one_lease().await;
        drop(end(lease).await);
        bench.until_settled().await;
        assert_eq!(bench.words(), 1, "{name}");
        let (site, _) = bench.finish().await;
        assert_eq!(site.settlements(), [expected], "{name}");
        let deleted = history::really_deleted(&site.world.queue).len();
        assert_eq!(deleted, usize::from(expected.ends_with("deleted")), "{name}");
        // "At once": returned means visible again, not at the end of the lease.
        let visible_at_once = expected == "cancelled/returned";
        assert_eq!(site.world.queue.visible(), usize::from(visible_at_once), "{name}");
    }
}

/// Polls `work` up to `most` times and drops it; its result if it was ready by then.
async fn polled<F: Future>(most: usize, work: F) -> Option<F::Output> {
    let mut work = Box::pin(work);
    for _ in 0..most {
        if let Some(ready) = futures_util::FutureExt::now_or_never(&mut work) {
            return Some(ready);
        }
        yield_now().await; // what it waits for goes on: the model answers after one turn
        yield_now().await;
    }
    None
}

#[tokio::test(start_paused = true)]
async fn a0_4_work_that_is_dropped_at_any_await_speaks_once_and_is_returned() {
    for polls in 0.. {
        let (bench, lease) = one_lease().await;
        let processor = bench.site.processor(BENCH, &bench.setup, &bench.wires, &bench.books, None);
        let (message, term) = (Arc::clone(lease.message()), Arc::clone(lease.term()));
        let work = async {
            let scope = Scope { may_act: Arc::new(move || term.is_live()), keep: Arc::new(()) };
            let outcome = processor.message(&message, &scope, &Progress::default()).await.unwrap();
            lease.settle(judged(outcome));
        };
        let finished = polled(polls, work).await.is_some();
        bench.until_settled().await;
        assert_eq!(bench.words(), 1, "after {polls} polls");
        let (site, _) = bench.finish().await;
        let expected = if finished { "done/deleted" } else { "cancelled/returned" };
        assert_eq!(site.settlements(), [expected], "after {polls} polls");
        history::durable_before_deleted(&site.world, BENCH);
        if finished {
            assert!(polls > 5, "only {polls} awaits: nothing was cut");
            return;
        }
        assert_eq!(history::really_deleted(&site.world.queue), [], "after {polls} polls");
    }
}

#[tokio::test(start_paused = true)]
async fn a_receipts_task_aborted_at_any_turn_speaks_once_and_its_work_ends_with_it() {
    for turns in 0.. {
        let (bench, lease) = one_lease().await;
        let processor = bench.site.processor(BENCH, &bench.setup, &bench.wires, &bench.books, None);
        let gate = Arc::new(Gate::new(Arc::new(Jitter::seeded(1))));
        let crash_loop = Arc::new(bench.site.crash_loop(BENCH, &bench.setup, &bench.wires));
        let ends = (CancellationToken::new(), CancellationToken::new());
        let task = tokio::spawn(pipeline::receipt(lease, Arc::new(processor), gate, crash_loop, ends));
        for _ in 0..turns {
            yield_now().await;
        }
        task.abort();
        let finished = task.await.is_ok();
        yield_now().await; // an abort is a wish: its task ends at its next turn
        let asked = bench.site.world.store.calls().len();
        bench.until_settled().await;
        sleep(Duration::from_secs(5)).await;
        assert_eq!(bench.words(), 1, "after {turns} turns");
        assert_eq!(bench.site.world.store.calls().len(), asked, "work without a lease, after {turns} turns");
        let (site, _) = bench.finish().await;
        let expected = if finished { "done/deleted" } else { "cancelled/returned" };
        assert_eq!(site.settlements(), [expected], "after {turns} turns");
        if finished {
            assert!(turns > 5, "only {turns} turns: nothing was cut");
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_at_any_instant_settles_each_receipt_once() {
    let mut cut_short = 0;
    for instant in 0.. {
        let site = Site::new(instant);
        // The store is slower than the poll is long: the end waits for the open polls before it cuts work short.
        let quick = Faults { latency: (Duration::from_millis(1), Duration::from_millis(2)), ..Faults::default() };
        let slow = Faults { latency: (Duration::from_secs(4), Duration::from_secs(5)), ..Faults::default() };
        site.world.queue.faults(|faults| faults.all(&quick));
        site.world.store.faults(|faults| faults.all(&slow));
        site.world.search.faults(|faults| faults.bulk = quick.clone());
        for n in 0..3 {
            site.world.upload(&format!("{n}.txt"), format!("text {n}"), 1);
        }
        let first = site.start("first", &Setup::default());
        sleep(Duration::from_millis(instant * 500)).await;
        first.ask_to_stop();
        first.abandon();
        let line = first.stop().await;
        assert_eq!(site.lines("message_settled").len() as u64, line.received, "at {instant} half seconds");
        assert_eq!(line.deleted + line.returned, line.received, "at {instant} half seconds: {line:?}");
        assert_eq!(history::really_deleted(&site.world.queue).len() as u64, line.deleted, "at {instant} half seconds");
        history::durable_before_deleted(&site.world, "first");
        history::one_call_at_a_time(&site.world);
        cut_short += line.returned;
        let all_done = line.deleted == 3;
        // What was returned is there at once for the next.
        site.drain(&Setup::default()).await;
        assert_eq!(history::in_step(&site.world, &["0.txt", "1.txt", "2.txt"]), Ok(()), "at {instant} half seconds");
        if all_done {
            break;
        }
    }
    assert!(cut_short > 20, "only {cut_short} receipts were cut short");
}

#[tokio::test(start_paused = true)]
async fn work_that_outlasts_the_drain_is_cancelled_and_returned_once() {
    let site = Site::new(1);
    site.reader.plan("a.txt", [Act::Hangs, Act::Reads]);
    site.world.upload("a.txt", "text", 1);
    let worker = site.start("w", &Setup::default());
    until("the file is begun", Duration::from_secs(5), || site.reader.works("a.txt") == 1).await;
    let line = worker.stop().await;
    assert_eq!((line.received, line.returned, line.changes_abandoned), (1, 1, 1), "{line:?}");
    assert_eq!(site.settlements(), ["cancelled/returned"]);
    let settled = site.lines("message_settled").remove(0);
    assert_eq!((&settled["keys"][0], settled["work_ids"].as_array().unwrap().len()), (&"a.txt".into(), 1));
    assert_eq!(site.world.queue.visible(), 1, "returned at once");
    let line = site.drain(&Setup::default()).await;
    assert_eq!(line.done, 1);
    assert_eq!(site.troubles(), Vec::<String>::new(), "a shutdown is no failure");
}

#[tokio::test(start_paused = true)]
async fn what_an_open_poll_brings_after_the_stop_is_returned_at_once() {
    let site = Site::new(1);
    let worker = site.start("w", &Setup::default());
    sleep(Duration::from_secs(3)).await;
    worker.ask_to_stop();
    site.world.upload("a.txt", "text", 1);
    let line = worker.stop().await;
    assert_eq!((line.received, line.returned, site.reader.works("a.txt")), (1, 1, 0), "{line:?}");
    assert_eq!(site.settlements(), ["cancelled/returned"]);
    assert_eq!(site.world.queue.visible(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_work_is_a_failed_attempt_and_never_a_delete() {
    let site = Site::new(1);
    site.reader.plan("a.txt", [Act::Panics, Act::Reads]);
    let id = site.world.upload("a.txt", "text", 1);
    let worker = site.start("w", &Setup::default());
    until("the panic is settled", Duration::from_secs(5), || !site.settlements().is_empty()).await;
    assert_eq!(site.settlements(), ["panicked/returned"]);
    assert!(site.world.store.object(RESULTS, &record_key("a.txt")).is_none());
    let attempts = site.world.store.object(RESULTS, &format!("attempts/default/{id}.json")).unwrap();
    let attempts: serde_json::Value = serde_json::from_slice(&attempts.body).unwrap();
    assert_eq!(attempts["failed"], 1);
    site.until_empty().await;
    assert_eq!(worker.stop().await.done, 1);
}
