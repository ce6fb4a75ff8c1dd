//! The fleet-wide pause (design §4): every worker and its replay obey within 5 s, across restarts, until it is taken
//! back; work in hand is finished, and what S3 cannot say changes nothing.

use std::sync::Arc;
use std::time::Duration;

use quittance::pause::{Pause, PauseFile, Watch};
use quittance::retry::Jitter;
use quittance::store::{StoreError, layout};
use tokio::time::{Instant, sleep};

use crate::sim::queue::QueueAsk;
use crate::sim::reader::Act;
use crate::sim::{RESULTS, Rule, SearchAsk, Setup, Site, Worker, until};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

fn obedient() -> Setup {
    Setup { obeys_pause: true, ..Setup::default() }
}

/// The operator's side, on the same store.
fn file(site: &Site) -> PauseFile {
    PauseFile { store: Arc::new(site.world.store.seen_by("operator")), bucket: RESULTS.into() }
}

fn pause(reason: &str) -> Pause {
    Pause { v: 1, reason: reason.into(), by: "ada@desk".into(), at: "2026-11-22T00:00:00.000Z".into() }
}

/// Polls that were asked for since then.
fn polls_since(site: &Site, since: Instant) -> usize {
    let calls = site.world.queue.calls();
    calls.iter().filter(|call| matches!(call.ask, QueueAsk::Receive { .. }) && call.asked.at >= since).count()
}

fn bulks_since(site: &Site, since: Instant) -> usize {
    let calls = site.world.search.calls();
    calls.iter().filter(|call| matches!(call.ask, SearchAsk::Bulk(_)) && call.asked.at >= since).count()
}

async fn stop_all(workers: Vec<Worker>) -> u64 {
    let mut done = 0;
    for worker in workers {
        done += worker.stop().await.done;
    }
    done
}

#[tokio::test(start_paused = true)]
async fn every_worker_obeys_within_five_seconds_also_one_that_is_started_meanwhile() {
    let site = Site::new(1);
    let mut workers: Vec<Worker> = (0..5).map(|n| site.start(&format!("w{n}"), &obedient())).collect();
    sleep(60 * SECOND).await;
    let report = file(&site).pause(&pause("incident 7")).await.unwrap();
    assert!(report.paused && report.changed);
    sleep(5 * SECOND).await;
    let obeyed = Instant::now();
    // Open polls end, and none follows. Restarts change nothing, nor does a crash.
    sleep(30 * SECOND).await;
    for n in 0..10 {
        site.world.upload(&format!("{n}.txt"), "text", 1);
    }
    workers.remove(0).crash();
    assert_eq!(workers.remove(0).stop().await.deleted, 0, "it ends as always");
    workers.push(site.start("late", &obedient()));
    workers.push(site.start("later", &obedient()));
    sleep(HOUR).await;
    assert_eq!(polls_since(&site, obeyed), 0);
    assert_eq!(site.lines("paused").len(), 7, "one line a worker");
    let line = &site.lines("paused")[6];
    assert_eq!(line["by"], "ada@desk");
    assert!(line["reason"].as_str().unwrap().contains("incident 7"), "{line}");

    assert_eq!(site.world.queue.visible(), 10);
    let report = file(&site).resume().await.unwrap();
    assert!(!report.paused && report.changed && report.by.as_deref() == Some("ada@desk"));
    let resumed = Instant::now();
    until("they are at it again", 6 * SECOND, || polls_since(&site, resumed) > 0).await;
    site.until_empty().await;
    assert_eq!(stop_all(workers).await, 10);
    assert_eq!(site.lines("resumed").len(), 5);
    assert_eq!(site.world.dead_letters.live().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn work_in_hand_is_finished_settled_and_booked_during_a_pause() {
    let site = Site::new(1);
    site.reader.plan("long.txt", [Act::Takes(600 * SECOND)]);
    site.world.upload("long.txt", "text", 1);
    let worker = site.start("w", &obedient());
    until("it is in work", 60 * SECOND, || site.reader.works("long.txt") == 1).await;
    file(&site).pause(&pause("r")).await.unwrap();
    until("it is done", 700 * SECOND, || site.settlements() == ["done/deleted"]).await;
    assert_eq!(site.lines("paused").len(), 1);
    let books = site.lines("books").len();
    sleep(600 * SECOND).await;
    assert!(site.lines("books").len() >= books + 9, "the books go on");
    let stopping = Instant::now();
    assert_eq!(worker.stop().await.done, 1);
    assert!(stopping.elapsed() < SECOND, "a paused worker has no open poll to wait for: {:?}", stopping.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_worker_does_not_poll_before_it_knows() {
    let site = Site::new(1);
    let sick = |error| Rule { bucket: RESULTS.into(), prefix: "control/".into(), verb: None, error, times: None };
    for error in [StoreError::Unavailable("503".into()), StoreError::Denied("AccessDenied".into())] {
        site.world.store.inject(sick(error));
        let began = Instant::now();
        let worker = site.start("w", &obedient());
        sleep(600 * SECOND).await;
        assert_eq!(polls_since(&site, began), 0);
        assert_eq!(site.lines("notice").len(), 1, "one line, not one a look: {:?}", site.lines("notice"));
        site.world.store.heal();
        until("it polls", 5 * SECOND, || polls_since(&site, began) > 0).await;
        assert_eq!((site.lines("paused").len(), site.lines("resumed").len()), (0, 0), "nobody had paused");
        worker.stop().await;
        site.forget_lines();
    }
    // And one that never hears still ends at once.
    site.world.store.inject(sick(StoreError::Unavailable("503".into())));
    let worker = site.start("w", &obedient());
    sleep(60 * SECOND).await;
    let stopping = Instant::now();
    worker.stop().await;
    assert!(stopping.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn while_s3_does_not_answer_the_last_known_state_stands() {
    for paused in [false, true] {
        let site = Site::new(1);
        let worker = site.start("w", &obedient());
        if paused {
            file(&site).pause(&pause("r")).await.unwrap();
        }
        sleep(30 * SECOND).await;
        let since = Instant::now();
        site.world.store.faults(|faults| faults.get.latency = (HOUR, HOUR));
        if paused {
            site.world.store.remove_object(RESULTS, layout::PAUSE); // which nobody can see
        } else {
            file(&site)
                .store
                .put(RESULTS, layout::PAUSE, "{\"v\":1}".into(), &Default::default(), quittance::store::Condition::None)
                .await
                .unwrap();
        }
        sleep(600 * SECOND).await;
        assert_eq!(polls_since(&site, since) == 0, paused);
        assert_eq!(site.lines("notice").len(), 1, "{:?}", site.lines("notice"));
        site.world.store.heal();
        sleep(6 * SECOND).await;
        let (lines, other) = if paused { ("resumed", "paused") } else { ("paused", "resumed") };
        assert_eq!((site.lines(lines).len(), site.lines(other).len()), (1, usize::from(paused)));
        assert_eq!(site.lines("notice").len(), 2, "and one when it is seen again");
        worker.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_a_pause_and_the_log_says_how_to_mend_it() {
    let bodies = ["", "{}", "{\"v\":2,\"reason\":\"r\"}", "not json", &"x".repeat(100_000)];
    for body in bodies {
        let site = Site::new(1);
        let worker = site.start("w", &obedient());
        sleep(30 * SECOND).await;
        site.world.store.put_object(RESULTS, layout::PAUSE, body.to_owned());
        sleep(5 * SECOND).await;
        let since = Instant::now();
        sleep(HOUR).await;
        assert_eq!(polls_since(&site, since), 0);
        let lines = site.lines("paused");
        assert_eq!(lines.len(), 1, "one line, not one a look");
        let reason = lines[0]["reason"].as_str().unwrap();
        for part in [layout::PAUSE, RESULTS, "cannot be read", "redrive resume"] {
            assert!(reason.contains(part), "{part}: {reason}");
        }
        // The operator sees it too, and `pause` puts it right without letting anybody go on.
        assert!(file(&site).status().await.unwrap().unreadable.is_some());
        let report = file(&site).pause(&pause("r")).await.unwrap();
        assert!(report.paused && report.changed);
        sleep(60 * SECOND).await;
        assert_eq!(polls_since(&site, since), 0);
        assert_eq!(site.lines("paused").len(), 2, "who and why are known now");
        file(&site).resume().await.unwrap();
        until("it polls", 6 * SECOND, || polls_since(&site, since) > 0).await;
        worker.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn replay_stands_still_too_and_goes_on_where_it_was() {
    let site = Site::new(1);
    site.world.search.down_for(HOUR);
    for n in 0..60 {
        site.world.upload(&format!("{n}.txt"), "text", 1);
    }
    let worker = site.start("w", &obedient());
    site.until_empty().await;
    let parked = || site.world.store.keys(RESULTS, "retry-index/").len();
    assert_eq!(parked(), 60);
    file(&site).pause(&pause("r")).await.unwrap();
    sleep(5 * SECOND).await;
    let since = Instant::now();
    sleep(2 * HOUR).await; // the index is well since an hour
    assert_eq!((parked(), bulks_since(&site, since)), (60, 0));
    file(&site).resume().await.unwrap();
    until("all are replayed", HOUR, || parked() == 0).await;
    assert_eq!(worker.stop().await.replayed, 60);
}

#[tokio::test(start_paused = true)]
async fn two_hands_may_hold_and_both_must_let_go() {
    let site = Site::new(1);
    let worker = site.start("w", &obedient());
    sleep(10 * SECOND).await;
    worker.gate.pause("signal", "signal", "SIGUSR1");
    file(&site).pause(&pause("r")).await.unwrap();
    sleep(30 * SECOND).await;
    let since = Instant::now();
    file(&site).resume().await.unwrap();
    sleep(60 * SECOND).await;
    assert_eq!(polls_since(&site, since), 0);
    assert_eq!(site.lines("resumed")[0]["still_paused_by"], "signal");
    worker.gate.resume("signal", "signal");
    until("it polls", 2 * SECOND, || polls_since(&site, since) > 0).await;
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_first_pause_stands_and_a_race_has_one_winner() {
    let site = Site::new(1);
    let file = file(&site);
    assert_eq!(file.status().await.unwrap().text(), "not paused (control/pause.json in results, for all namespaces)\n");
    let nothing = file.resume().await.unwrap();
    assert!(!nothing.paused && !nothing.changed);
    let (one, two) = (pause("one"), Pause { by: "bob@desk".into(), ..pause("two") });
    let (first, second) = tokio::join!(file.pause(&one), file.pause(&two));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert!(first.changed != second.changed, "one winner: {first:?} {second:?}");
    assert!(first.paused && second.paused && first.by == second.by, "the other is told whose it is");
    let (by, reason) = (first.by.unwrap(), first.reason.unwrap());
    assert_eq!(reason, if by == one.by { "one" } else { "two" });
    let third = file.pause(&pause("three")).await.unwrap();
    assert!(!third.changed && third.reason.as_ref() == Some(&reason), "{third:?}");
    let text = file.status().await.unwrap().text();
    let told = format!("by {by} since 2026-11-22T00:00:00.000Z: {reason}");
    assert!(text.contains(&told) && text.contains("redrive resume"), "{text}");
    let stored = site.world.store.object(RESULTS, layout::PAUSE).unwrap().body;
    let expected = format!("{{\"v\":1,\"reason\":\"{reason}\",\"by\":\"{by}\",\"at\":\"2026-11-22T00:00:00.000Z\"}}");
    assert_eq!(String::from_utf8(stored.to_vec()).unwrap(), expected);
    // A store that does not answer is an error, in time, and not a report.
    site.world.store.faults(|faults| faults.get.latency = (HOUR, HOUR));
    let began = Instant::now();
    assert!(file.status().await.is_err() && file.pause(&one).await.is_err() && file.resume().await.is_err());
    assert!(began.elapsed() <= 100 * SECOND);
}

/// A command of upkeep: it has looked once, and then goes on until somebody pauses.
#[tokio::test(start_paused = true)]
async fn a_command_is_told_of_a_pause_within_five_seconds_and_of_no_outage() {
    for written in ["a pause", "what cannot be read"] {
        let site = Site::new(9);
        let watch = Watch { file: file(&site), jitter: Arc::new(Jitter::seeded(9)) };
        let told = tokio::spawn(watch.until_paused());
        sleep(60 * SECOND).await;
        let (bucket, prefix) = (RESULTS.to_owned(), layout::PAUSE.to_owned());
        let error = StoreError::Unavailable("503".into());
        site.world.store.inject(Rule { bucket, prefix, verb: None, error, times: None });
        sleep(60 * SECOND).await;
        assert!(!told.is_finished(), "the last known state stands");
        site.world.store.heal();
        match written {
            "a pause" => drop(file(&site).pause(&pause("incident 7")).await.unwrap()),
            _ => drop(site.world.store.put_object(RESULTS, layout::PAUSE, "{")),
        }
        tokio::time::timeout(5 * SECOND, told).await.unwrap().unwrap();
    }
}
