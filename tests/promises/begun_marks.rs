//! `begun` marks: what they cost, that every end takes its own back, and what an outage can leave of them (design §4).

use std::sync::Arc;
use std::time::Duration;

use quittance::gate::Gate;
use quittance::pipeline;
use quittance::process::extract::ExtractFailure;
use quittance::retry::Jitter;
use quittance::store::StoreError;
use serde_json::Value;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::crash_loop::{delivered_before, marked_by, marks, sick, unavailable};
use crate::sim::bench::{BENCH, Bench};
use crate::sim::reader::Act;
use crate::sim::{Faults, QueueAsk, RESULTS, Rule, SOURCE, Setup, Site, StoreAsk, Verb, World, until};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test(start_paused = true)]
async fn below_the_fifth_receive_a_mark_costs_nothing_and_from_there_on_one_read_and_two_writes() {
    for count in 1..=7 {
        let site = Site::new(1);
        let id = site.world.upload("a.txt", "text", 1);
        delivered_before(&site, count - 1).await;
        let line = site.drain(&Setup::default()).await;
        assert_eq!(line.done, 1);
        let mut calls = Vec::new();
        for call in site.world.store.calls() {
            match call.ask {
                StoreAsk::Get { key, .. } if key.starts_with("attempts/") => calls.push("read"),
                StoreAsk::Put { key, .. } if key.starts_with("attempts/") => calls.push("write"),
                _ => {}
            }
        }
        let expected: &[&str] = if count < 5 { &[] } else { &["read", "write", "write"] };
        assert_eq!(calls, expected, "receive {count}");
        assert_eq!(marks(&site, &id), Vec::<String>::new());
    }
}

/// When the worker's last write to the attempts record was acknowledged, and when its last call about the receipt was
/// asked for: places in the order of all calls.
fn cleared_and_settled(site: &Site, who: &str) -> (u64, u64) {
    let stores = site.world.store.calls().into_iter().filter(|call| *call.who == *who);
    let cleared = stores.filter_map(|call| match (&call.ask, call.answered) {
        (StoreAsk::Put { key, .. }, Some((stamp, _))) if key.starts_with("attempts/") => Some(stamp.order),
        _ => None,
    });
    let queues = site.world.queue.calls().into_iter().filter(|call| *call.who == *who);
    let last = queues.filter(|call| matches!(call.ask, QueueAsk::Delete(_) | QueueAsk::Change(_))).last();
    (cleared.last().unwrap(), last.unwrap().asked.order)
}

#[tokio::test(start_paused = true)]
async fn whatever_the_end_the_mark_is_gone_before_sqs_hears_of_it() {
    let crashed = || Act::Fails(ExtractFailure::Crashed { detail: "signal 11".into() });
    let sick = || Act::Fails(ExtractFailure::Unavailable { detail: "no more processes".into() });
    let table: [(&str, Act, u32, &str); 6] = [
        ("done", Act::Reads, 5, "done/deleted"),
        ("a failed attempt", crashed(), 5, "retried/returned"),
        ("a systemic failure", sick(), 5, "retried/returned"),
        ("a panic", Act::Panics, 5, "panicked/returned"),
        ("the last attempt", crashed(), 1, "retried/dead_lettered"),
        ("cancelled by a deploy", Act::Hangs, 5, "cancelled/returned"),
    ];
    for (name, act, max_attempts, expected) in table {
        let site = Site::new(1);
        let id = site.world.upload("a.txt", "text", 1);
        delivered_before(&site, 4).await;
        site.reader.plan("a.txt", [act]);
        let worker = site.start("w", &Setup { max_attempts, ..Setup::default() });
        until("it is begun", 5 * SECOND, || site.reader.works("a.txt") == 1).await;
        if expected != "cancelled/returned" {
            until("it is settled", 300 * SECOND, || !site.settlements().is_empty()).await;
        } else {
            assert_eq!(marks(&site, &id), ["w-0"], "while it is in work");
        }
        worker.stop().await;
        assert_eq!(site.settlements(), [expected], "{name}");
        assert_eq!(marks(&site, &id), Vec::<String>::new(), "{name}");
        let (cleared, settled) = cleared_and_settled(&site, "w");
        assert!(cleared < settled, "{name}");
        let failed = site.attempts_of(&id).unwrap()["failed"].clone();
        let charged = ["a failed attempt", "a panic", "the last attempt"].contains(&name);
        assert_eq!(failed, u32::from(charged), "{name}: the two writers leave each other's word alone");
    }
}

/// A lost lease is an end too, and so are SQS's twelve hours.
#[tokio::test(start_paused = true)]
async fn a_lease_that_is_lost_or_too_old_leaves_no_mark() {
    let site = Site::new(1);
    let id = site.world.upload("a.txt", "text", 1);
    delivered_before(&site, 4).await;
    site.reader.plan("a.txt", [Act::Takes(90 * SECOND), Act::Hangs]);
    let worker = site.start("w", &Setup::default());
    until("it is begun", 5 * SECOND, || site.reader.works("a.txt") == 1).await;
    let down = Faults { down_until: Some(Instant::now() + 61 * SECOND), ..Faults::default() };
    site.world.queue.faults(|faults| faults.change = down);
    until("it is lost", 90 * SECOND, || !site.settlements().is_empty()).await;
    assert_eq!(site.settlements(), ["cancelled/lease_lost"]);
    until("it is begun again", 90 * SECOND, || site.reader.works("a.txt") == 2).await;
    sleep(SECOND).await;
    assert_eq!(site.attempts_of(&id).unwrap()["begun"][0]["receive_count"], 6, "that of the lost lease is gone");
    assert_eq!(site.lines("taken_alone"), Vec::<Value>::new(), "this worker lives");
    assert_eq!(marks(&site, &id), ["w-0"]);
    until("it is given up", 13 * HOUR, || site.settlements().len() == 2).await;
    assert_eq!(site.settlements()[1], "cancelled/dead_lettered");
    assert_eq!(marks(&site, &id), Vec::<String>::new());
    worker.stop().await;
}

/// Nobody takes it up again: what is left is what the lost lease has left.
#[tokio::test(start_paused = true)]
async fn a_lost_lease_takes_its_own_mark_back() {
    let site = Site::new(1);
    let id = site.world.upload("a.txt", "text", 1);
    delivered_before(&site, 4).await;
    site.reader.plan("a.txt", [Act::Hangs]);
    let worker = site.start("w", &Setup { drain: 120 * SECOND, ..Setup::default() });
    until("it is begun", 5 * SECOND, || site.reader.works("a.txt") == 1).await;
    worker.ask_to_stop();
    site.world.queue.faults(|faults| faults.change.down = true);
    assert_eq!(worker.stop().await.lease_lost, 1);
    assert_eq!((site.attempts_of(&id).is_some(), marks(&site, &id)), (true, Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_mark_of_this_very_process_is_replaced_and_not_counted() {
    for (before, alone) in [(vec!["w-0"], 0), (vec!["dead"], 1), (vec!["w-0", "dead"], 1)] {
        let site = Site::new(1);
        let id = site.world.upload("a.txt", "text", 1);
        delivered_before(&site, 5).await;
        marked_by(&site, &id, &before);
        let worker = site.start("w", &Setup::default());
        site.until_empty().await;
        assert_eq!(worker.stop().await.done, 1, "{before:?}");
        assert_eq!(site.lines("taken_alone").len(), alone, "{before:?}");
        assert_eq!(marks(&site, &id).len(), alone, "{before:?}: only the other's is left");
    }
}

#[tokio::test(start_paused = true)]
async fn failures_and_marks_leave_each_other_alone() {
    let site = Site::new(1);
    let id = site.world.upload("a.txt", "text", 1);
    delivered_before(&site, 5).await;
    marked_by(&site, &id, &["dead"]);
    let crashed = || Act::Fails(ExtractFailure::Crashed { detail: "signal 11".into() });
    site.reader.plan("a.txt", [crashed(), crashed(), Act::Reads]);
    assert_eq!(site.drain(&Setup::default()).await.done, 1);
    assert_eq!((&site.attempts_of(&id).unwrap()["failed"], marks(&site, &id)), (&2.into(), vec!["dead".to_owned()]));
}

/// The write of a mark that was given up lands when its clearing has already looked.
#[tokio::test(start_paused = true)]
async fn a_mark_that_lands_late_is_cleared_too() {
    for tenth in 0..25 {
        let site = Site::new(1);
        let id = site.world.upload("a.txt", "text", 1);
        delivered_before(&site, 4).await;
        site.world.store.faults(|faults| {
            faults.outlive_callers = true;
            faults.put.latency = (SECOND, SECOND);
        });
        let (bench, _) = given_up(site, || sleep(tenth * SECOND / 10)).await;
        sleep(10 * SECOND).await;
        assert_eq!(marks(&bench.site, &id), Vec::<String>::new(), "given up after {tenth} tenths of a second");
        bench.finish().await;
    }
}

/// A receipt's task, aborted after `a_while` and settled; whether it had finished.
async fn given_up<F: Future<Output = ()>>(site: Site, a_while: impl FnOnce() -> F) -> (Bench, bool) {
    let bench = Bench::new(site, Setup::default());
    let lease = bench.receive_one().await;
    let processor = bench.site.processor(BENCH, &bench.setup, &bench.wires, &bench.books, None);
    let gate = Arc::new(Gate::new(Arc::new(Jitter::seeded(1))));
    let crash_loop = Arc::new(bench.site.crash_loop(BENCH, &bench.setup, &bench.wires));
    let ends = (CancellationToken::new(), CancellationToken::new());
    let task = tokio::spawn(pipeline::receipt(lease, Arc::new(processor), gate, crash_loop, ends));
    a_while().await;
    task.abort();
    let finished = task.await.is_ok();
    bench.until_settled().await;
    (bench, finished)
}

/// Where the receipt's own task is cut off at any turn, the write of its mark may still be on its way.
#[tokio::test(start_paused = true)]
async fn a_receipt_that_is_aborted_at_any_turn_leaves_no_mark_behind() {
    let mut seen_marked = false;
    for turns in 0.. {
        let site = Site::new(1);
        site.world.store.faults(|faults| faults.outlive_callers = true);
        let id = site.world.upload("a.txt", "text", 1);
        delivered_before(&site, 4).await;
        let (world, of) = (site.world.clone(), id.clone());
        let a_while = async || {
            for _ in 0..turns {
                yield_now().await;
            }
            let record = world.store.object(RESULTS, &format!("attempts/default/{of}.json"));
            seen_marked |= record.is_some_and(|record| String::from_utf8_lossy(&record.body).contains("begun"));
        };
        let (bench, finished) = given_up(site, a_while).await;
        sleep(SECOND).await;
        assert_eq!(marks(&bench.site, &id), Vec::<String>::new(), "after {turns} turns");
        bench.finish().await;
        if finished {
            break;
        }
    }
    assert!(seen_marked, "nothing was cut");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_takes_no_mark_is_sick_and_a_record_out_of_reach_is_not_waited_for() {
    // Sick: nothing is begun, nothing is charged, intake is shut.
    for verb in [Verb::Get, Verb::Put] {
        let site = Site::new(1);
        for n in 0..5 {
            site.world.upload(&format!("{n}.txt"), "text", 1);
        }
        delivered_before(&site, 4).await;
        site.world.store.inject(sick(Some(verb), "attempts/", unavailable(), None));
        let worker = site.start("w", &Setup::default());
        until("the gate is told", 600 * SECOND, || !site.lines("breaker_opened").is_empty()).await;
        assert!((0..5).all(|n| site.reader.works(&format!("{n}.txt")) == 0), "{verb:?}: begun without a mark");
        sleep(600 * SECOND).await;
        assert!(site.settlements().iter().all(|end| end == "retried/returned"), "{verb:?}");
        site.world.store.heal();
        site.until_empty().await;
        let line = worker.stop().await;
        assert_eq!((line.done, line.dead_lettered, site.troubles().len()), (5, 0, 0), "{verb:?}: {line:?}");
    }
    // The record's own trouble: its message is processed all the same.
    for (verb, error) in [
        (Verb::Get, StoreError::Denied("AccessDenied".into())),
        (Verb::Put, StoreError::Denied("AccessDenied".into())),
        (Verb::Get, StoreError::Archived("InvalidObjectState".into())),
    ] {
        let site = Site::new(1);
        site.world.upload("a.txt", "text", 1);
        delivered_before(&site, 4).await;
        site.world.store.inject(sick(Some(verb), "attempts/", error, None));
        let line = site.drain(&Setup::default()).await;
        assert_eq!((line.received, line.done), (1, 1), "{verb:?}");
        let failed = site.lines("mark_failed");
        assert_eq!(failed[0]["step"], "write", "{failed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clear_is_tried_again_while_the_lease_is_held_and_given_up_in_the_end() {
    // The store takes no attempts for so many seconds once the work has begun: what comes of a failed attempt, of
    // finished work, of a deploy, and how long they were held.
    let fails = || Act::Fails(ExtractFailure::Unavailable { detail: "no more processes".into() });
    type Held = (u64, u64);
    let table: [(&str, Act, u64, usize, Held); 7] = [
        ("one 503", fails(), 1, 0, (0, 20)),
        ("a minute", fails(), 60, 0, (60, 90)),
        ("four minutes", fails(), 240, 0, (240, 270)),
        ("an hour", fails(), 3_600, 1, (299, 310)),
        ("an hour, and finished", Act::Reads, 3_600, 1, (9, 15)),
        ("three seconds, at a deploy", Act::Hangs, 3, 0, (0, 60)),
        ("an hour, at a deploy", Act::Hangs, 3_600, 1, (0, 60)),
    ];
    for (name, act, down, left, (least, most)) in table {
        let site = Site::new(1);
        let id = site.world.upload("a.txt", "text", 1);
        delivered_before(&site, 4).await;
        let deploy = matches!(act, Act::Hangs);
        site.reader.plan("a.txt", [act]);
        let worker = site.start("w", &Setup::default());
        let store = site.world.store.clone();
        worker.wires.cut_at(move |asking| {
            if asking.verb == "get" && asking.place.starts_with(SOURCE) {
                store.inject(sick(Some(Verb::Put), "attempts/", unavailable(), None));
            }
            None
        });
        until("it is begun", 5 * SECOND, || site.reader.works("a.txt") == 1).await;
        let began = Instant::now();
        if deploy {
            worker.ask_to_stop();
            sleep(29 * SECOND).await; // the drain is over soon
        }
        let healing = tokio::spawn({
            let store = site.world.store.clone();
            async move {
                sleep(Duration::from_secs(down)).await;
                store.heal();
            }
        });
        until("it is settled", 400 * SECOND, || !site.settlements().is_empty()).await;
        let held = began.elapsed().as_secs();
        assert!((least..=most).contains(&held), "{name}: held for {held} s");
        let end = site.settlements().remove(0);
        assert!(end.ends_with("/returned") || end == "done/deleted", "{name}: {end}");
        assert_eq!((marks(&site, &id).len(), site.lines("mark_failed").len()), (left, left), "{name}");
        healing.abort();
        site.world.store.heal();
        worker.stop().await;
    }
}

/// Denied is denied: three tries, and not the whole patience.
#[tokio::test(start_paused = true)]
async fn a_mark_whose_record_is_denied_by_now_is_tried_three_times() {
    let site = Site::new(1);
    let id = site.world.upload("a.txt", "text", 1);
    delivered_before(&site, 4).await;
    site.reader.plan("a.txt", [Act::Takes(10 * SECOND)]);
    let worker = site.start("w", &Setup::default());
    until("it is begun", 5 * SECOND, || site.reader.works("a.txt") == 1).await;
    site.world.store.inject(sick(Some(Verb::Put), "attempts/", StoreError::Denied("AccessDenied".into()), None));
    let began = Instant::now();
    until("it is settled", 60 * SECOND, || !site.settlements().is_empty()).await;
    assert_eq!(site.settlements(), ["done/deleted"]);
    let writes = site.world.store.calls().into_iter().filter(|call| call.asked.at >= began);
    let writes = writes.filter(|call| matches!(&call.ask, StoreAsk::Put { key, .. } if key.starts_with("attempts/")));
    assert_eq!((writes.count(), marks(&site, &id).len()), (3, 1));
    worker.stop().await;
}

/// What the wait for a steady store is for: a second mark of the same outage.
#[tokio::test(start_paused = true)]
async fn one_outage_leaves_a_message_at_most_one_mark_however_many_workers_end_in_it() {
    let site = Site::new(1);
    let id = site.world.upload("a.txt", "text", 1);
    delivered_before(&site, 4).await;
    site.reader.plan("a.txt", [Act::Hangs]);
    for n in 0..6 {
        // The store is up just long enough to begin, and away when the worker must go.
        let worker = site.start(&format!("w{n}"), &Setup { drain: 5 * SECOND, ..Setup::default() });
        sleep(100 * SECOND).await;
        site.world.store.inject(sick(None, "", unavailable(), None));
        worker.stop().await;
        site.world.store.heal();
        assert_eq!(marks(&site, &id), ["w0-0"], "after {n} more");
    }
    assert_eq!(site.reader.works("a.txt"), 1);
    site.reader.plan("a.txt", [Act::Reads]);
    let line = site.drain(&Setup::default()).await;
    assert_eq!((line.done, line.dead_lettered), (1, 0));
}

/// A message that stays in hand until an outage ends is not at work meanwhile: who dies then does not die of it.
#[tokio::test(start_paused = true)]
async fn workers_killed_while_a_message_waits_for_the_end_of_an_outage_are_no_sign_against_it() {
    let site = Site::new(1);
    let id = site.world.upload("a.txt", "text", 1);
    delivered_before(&site, 4).await;
    let source_is_sick = || Rule { bucket: SOURCE.into(), ..sick(Some(Verb::Get), "", unavailable(), None) };
    site.world.store.inject(source_is_sick());
    let fetches = || {
        let calls = site.world.store.calls();
        calls.iter().filter(|call| matches!(&call.ask, StoreAsk::Get { bucket, .. } if bucket == SOURCE)).count()
    };
    for n in 0..4 {
        let before = fetches();
        let worker = site.start(&format!("w{n}"), &Setup::default());
        until("it was tried, and waits", 300 * SECOND, || fetches() > before && marks(&site, &id).is_empty()).await;
        sleep(30 * SECOND).await;
        assert_eq!(worker.books.snapshot(false).in_flight, 1, "in hand");
        assert_eq!(marks(&site, &id), Vec::<String>::new(), "while it waits");
        worker.crash();
    }
    site.world.store.heal();
    let line = site.drain(&Setup::default()).await;
    assert_eq!((line.done, line.dead_lettered), (1, 0));
    assert_eq!(site.lines("taken_alone"), Vec::<Value>::new());
}

/// Nor is one that must be alone: others go on while it waits, and it is alone again when it is tried.
#[tokio::test(start_paused = true)]
async fn a_suspect_that_waits_for_the_end_of_an_outage_keeps_nobody_waiting() {
    let site = Site::new(1);
    let id = site.world.upload("suspect.txt", "text", 1);
    delivered_before(&site, 5).await;
    marked_by(&site, &id, &["dead"]);
    let only_its_own = Rule { bucket: SOURCE.into(), ..sick(Some(Verb::Get), "suspect.txt", unavailable(), None) };
    site.world.store.inject(only_its_own);
    let worker = site.start("w", &Setup::default());
    until("it is alone", 300 * SECOND, || !site.lines("taken_alone").is_empty()).await;
    until("it waits", 60 * SECOND, || marks(&site, &id) == ["dead"]).await;
    site.world.upload("b.txt", "text", 1);
    until("the other is settled", 30 * SECOND, || !site.settlements().is_empty()).await;
    assert_eq!((site.settlements(), worker.books.snapshot(false).in_flight), (vec!["done/deleted".to_owned()], 1));
    site.world.store.heal();
    site.until_empty().await;
    assert_eq!(worker.stop().await.done, 2);
    assert!(site.lines("taken_alone").len() > 1, "alone at each try");
}

/// The mark of a worker that lives and is late to clear it: the suspect sees it go while it waits.
#[tokio::test(start_paused = true)]
async fn a_mark_that_is_cleared_while_the_suspect_waits_makes_no_suspect() {
    let site = Site::new(1);
    let id = site.world.upload("a.txt", "text", 1);
    delivered_before(&site, 5).await;
    marked_by(&site, &id, &["slow"]);
    let worker = site.start("w", &Setup::default());
    sleep(50 * SECOND).await;
    assert_eq!(site.reader.works("a.txt"), 0);
    marked_by(&site, &id, &[]);
    until("it is begun", 20 * SECOND, || site.reader.works("a.txt") == 1).await;
    site.until_empty().await;
    assert_eq!(site.lines("taken_alone"), Vec::<Value>::new());
    worker.stop().await;
}

/// Two minutes of writes on end, of which a failed one begins a new count; a record out of reach is not waited for.
#[tokio::test(start_paused = true)]
async fn a_suspect_waits_until_the_store_has_been_steady_for_two_leases_on_end() {
    let denied = || StoreError::Denied("AccessDenied".into());
    let table: [(&str, Option<StoreError>, [u64; 2]); 3] = [
        ("undisturbed", None, [119, 124]),
        ("away from 60 s to 80 s", Some(unavailable()), [194, 199]),
        ("its record denied from 60 s to 80 s", Some(denied()), [60, 70]),
    ];
    for (name, trouble, [least, most]) in table {
        let site = Site::new(1);
        let id = site.world.upload("a.txt", "text", 1);
        delivered_before(&site, 5).await;
        marked_by(&site, &id, &["dead"]);
        let started = Instant::now();
        let worker = site.start("w", &Setup::default());
        if let Some(error) = trouble {
            sleep(60 * SECOND).await;
            site.world.store.inject(sick(Some(Verb::Put), "attempts/", error, None));
            sleep(20 * SECOND).await;
            site.world.store.heal();
        }
        until("it is begun", 300 * SECOND, || site.reader.works("a.txt") == 1).await;
        let begun = site.reader.begun()[0].at - started;
        assert!((least..=most).contains(&begun.as_secs()), "{name}: begun after {begun:?}");
        site.until_empty().await;
        let line = worker.stop().await;
        assert_eq!((line.received, line.done), (1, 1), "{name}: in hand for the whole wait");
    }
}

#[tokio::test(start_paused = true)]
async fn twenty_deploys_leave_no_mark_and_no_suspect() {
    let site = Site::in_world(World::with(1, 100));
    let setup = Setup { max_receive_count: Some(100), ..Setup::default() };
    let id = site.world.upload("a.txt", "text", 1);
    site.reader.plan("a.txt", std::iter::repeat_n(Act::Hangs, 20).chain([Act::Reads]));
    for deploy in 0..20 {
        let worker = site.start(&format!("w{deploy}"), &setup);
        until("it is begun", 120 * SECOND, || site.reader.works("a.txt") == deploy + 1).await;
        worker.stop().await;
        assert_eq!(marks(&site, &id), Vec::<String>::new());
    }
    assert_eq!(site.drain(&setup).await.done, 1);
    assert_eq!(site.lines("taken_alone"), Vec::<Value>::new());
}
