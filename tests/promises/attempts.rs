//! P5 and P6: a message leaves within its own attempts; outages and deploys spend none of them.

use std::time::Duration;

use quittance::attempts::Seen;
use quittance::config::OnMissingObject;
use quittance::process::extract::{ExtractFailure, LimitKind};
use quittance::retry::Backoff;
use quittance::store::StoreError;
use tokio::time::{Instant, sleep};

use crate::dead_letter::note;
use crate::sim::bench::{BENCH, Bench};
use crate::sim::reader::Act;
use crate::sim::{
    BodyFault, QueueAsk, RESULTS, Record, Rule, SOURCE, Setup, Site, Verb, World, history, s3_event, until,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

fn crashed() -> Act {
    Act::Fails(ExtractFailure::Crashed { detail: "signal 11".into() })
}

fn limit() -> Act {
    Act::Fails(ExtractFailure::Limit { which: LimitKind::Memory, detail: "1 GiB".into() })
}

#[tokio::test(start_paused = true)]
async fn a_failing_message_is_dead_lettered_after_exactly_its_attempts() {
    let timed_out = || Act::Fails(ExtractFailure::TimedOut { after: 60 * SECOND });
    type Fails = fn() -> Act;
    let table: [(&str, Fails, &str); 4] = [
        ("crashed", crashed, "attempts_exhausted"),
        ("timed out", timed_out, "attempts_exhausted"),
        ("panicked", || Act::Panics, "attempts_exhausted"),
        ("limit", limit, "limit"),
    ];
    for (name, act, reason) in table {
        for max_attempts in [1, 3, 5] {
            let site = Site::new(1);
            site.reader.plan("bad.txt", [act()]);
            site.world.upload("bad.txt", "text", 1);
            site.world.upload("good.txt", "text", 1);
            let line = site.drain(&Setup { max_attempts, ..Setup::default() }).await;
            assert_eq!(site.reader.works("bad.txt"), max_attempts as usize, "{name}");
            let expected = (u64::from(max_attempts) - 1, 1, 1);
            assert_eq!((line.returned, line.dead_lettered, line.done), expected, "{name}: {line:?}");
            let note = note(&site.world.dead_letters.live()[0].1);
            assert_eq!((&note["reason"], &note["attempts"]), (&reason.into(), &max_attempts.into()), "{name}");
            assert_eq!(note["keys"][0], "bad.txt", "{name}");
            let first = note["first_failed_at"] == note["last_failed_at"];
            assert_eq!(first, max_attempts == 1, "{name}: {note}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_fails_for_a_while_is_done_in_the_end() {
    let site = Site::new(1);
    site.reader.plan("a.txt", [crashed(), crashed(), crashed(), crashed(), Act::Reads]);
    site.world.upload("a.txt", "text", 1);
    let line = site.drain(&Setup::default()).await;
    assert_eq!((line.done, line.returned, line.dead_lettered), (1, 4, 0));
}

#[tokio::test(start_paused = true)]
async fn our_reason_comes_before_the_queues_own_dead_lettering() {
    // maxReceiveCount 3 is common, and our budget is 5.
    let site = Site::in_world(World::with(1, 3));
    site.reader.plan("a.txt", [crashed()]);
    site.world.upload("a.txt", "text", 1);
    let line = site.drain(&Setup { max_receive_count: Some(3), ..Setup::default() }).await;
    assert_eq!((line.received, line.dead_lettered, site.reader.works("a.txt")), (3, 1, 3));
    assert_eq!(note(&site.world.dead_letters.live()[0].1)["reason"], "attempts_exhausted");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_gone_is_decided_by_configuration_at_the_last_attempt() {
    for (on_missing, dead, dropped) in [(OnMissingObject::DeadLetter, 1, 0), (OnMissingObject::Drop, 0, 1)] {
        let site = Site::new(1);
        site.world.upload("a.txt", "text", 1);
        site.world.store.remove_object(SOURCE, "a.txt");
        let line = site.drain(&Setup { on_missing, ..Setup::default() }).await;
        assert_eq!((line.returned, line.dead_lettered, line.skipped), (4, dead, dropped), "{on_missing:?}");
        let letters = site.world.dead_letters.live();
        assert!(letters.iter().all(|letter| note(&letter.1)["reason"] == "source_missing"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_denied_object_is_its_messages_trouble_and_five_of_them_are_everybodys() {
    let denied = |prefix: &str| Rule {
        bucket: SOURCE.into(),
        prefix: prefix.into(),
        verb: Some(Verb::Get),
        error: StoreError::Denied("AccessDenied".into()),
        times: None,
    };
    let site = Site::new(1);
    site.world.store.inject(denied("secret"));
    site.world.upload("secret.txt", "text", 1);
    site.world.upload("open.txt", "text", 1);
    let line = site.drain(&Setup::default()).await;
    assert_eq!((line.dead_lettered, line.done), (1, 1));
    assert_eq!(note(&site.world.dead_letters.live()[0].1)["reason"], "denied");

    // A policy is broken for an hour: all keys fail, none succeeds.
    let site = Site::new(1);
    site.world.store.inject(denied(""));
    for n in 0..40 {
        site.world.upload(&format!("{n}.txt"), "text", 1);
    }
    let worker = site.start("w", &Setup::default());
    sleep(HOUR).await;
    assert_eq!(site.world.dead_letters.live().len(), 0);
    site.world.store.heal();
    site.until_empty().await;
    let line = worker.stop().await;
    assert_eq!((line.done, line.dead_lettered), (40, 0));
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_the_store_costs_no_message_an_attempt() {
    let sick = |bucket: &str, verb| Rule {
        bucket: bucket.into(),
        prefix: String::new(),
        verb,
        error: StoreError::Unavailable("503".into()),
        times: None,
    };
    let table = [
        ("all of it", vec![sick(SOURCE, None), sick(RESULTS, None)]),
        ("the sources", vec![sick(SOURCE, None)]),
        ("the results bucket", vec![sick(RESULTS, None)]),
        ("writes only: the probe is well", vec![sick(RESULTS, Some(Verb::Put))]),
    ];
    for (name, rules) in table {
        let site = Site::new(2);
        site.world.queue.faults(|faults| faults.reorder = true); // as SQS picks; in order, it is always the same few
        rules.into_iter().for_each(|rule| site.world.store.inject(rule));
        for n in 0..100 {
            site.world.upload(&format!("{n}.txt"), format!("text {n}"), 1);
        }
        let worker = site.start("w", &Setup::default());
        sleep(HOUR).await;
        assert_eq!((site.world.dead_letters.live().len(), site.world.queue.live().len()), (0, 100), "{name}");
        site.world.store.heal();
        let healed = Instant::now();
        site.until_empty().await;
        assert!(healed.elapsed() < 900 * SECOND, "{name}: {:?}", healed.elapsed());
        let line = worker.stop().await;
        assert_eq!((line.done, line.dead_lettered), (100, 0), "{name}");
        let receives = history::receives(&site.world.queue);
        let most = receives.values().max().copied();
        assert!(most <= Some(6), "{name}: one message was received {most:?} times");
        let all: u32 = receives.values().sum();
        assert!(all <= 300, "{name}: {all} receives of 100 messages");
        assert_eq!(site.troubles(), Vec::<String>::new(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn twenty_deploys_charge_nothing() {
    let site = Site::in_world(World::with(1, 100));
    let setup = Setup { max_receive_count: Some(100), ..Setup::default() };
    for n in 0..5 {
        let name = format!("{n}.txt");
        // Every worker begins it, and none has the time to finish, until the last.
        site.reader.plan(&name, std::iter::repeat_n(Act::Hangs, 20).chain([Act::Reads]));
        site.world.upload(&name, format!("text {n}"), 1);
    }
    for deploy in 0..20 {
        let worker = site.start(&format!("w{deploy}"), &setup);
        until("all are in work", 120 * SECOND, || worker.books.snapshot(false).in_flight == 5).await;
        let line = worker.stop().await;
        assert_eq!((line.received, line.returned), (5, 5), "deploy {deploy}: {line:?}");
    }
    let line = site.drain(&setup).await;
    assert_eq!((line.done, line.dead_lettered), (5, 0));
    assert!(history::receives(&site.world.queue).values().all(|count| *count == 21));
    assert_eq!(site.troubles(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_cannot_be_written_down_is_not_charged() {
    let site = Site::new(1);
    let refused = StoreError::Unavailable("503".into());
    let (bucket, prefix) = (RESULTS.to_owned(), "attempts/".to_owned());
    site.world.store.inject(Rule { bucket, prefix, verb: None, error: refused, times: Some(12) });
    // Four failures that cannot be written down; from the fifth delivery on nothing is begun; then four that are charged.
    site.reader.plan("a.txt", std::iter::repeat_n((), 8).map(|()| crashed()).chain([Act::Reads]));
    site.world.upload("a.txt", "text", 1);
    let line = site.drain(&Setup::default()).await;
    assert_eq!((line.done, line.dead_lettered), (1, 0));
    assert!(site.lines("attempt_not_recorded").len() >= 4);
}

/// A record that is out of reach for good (denied, archived) must not let its message live for ever: the receive count
/// stands in for it.
#[tokio::test(start_paused = true)]
async fn where_the_record_is_denied_for_good_the_receive_count_stands_in() {
    for verb in [Verb::Get, Verb::Put] {
        let site = Site::new(1);
        let denied = StoreError::Denied("AccessDenied".into());
        let rule =
            Rule { bucket: RESULTS.into(), prefix: "attempts/".into(), verb: Some(verb), error: denied, times: None };
        site.world.store.inject(rule);
        site.reader.plan("bad.txt", [crashed()]);
        site.world.upload("bad.txt", "text", 1);
        let line = site.drain(&Setup { max_attempts: 3, ..Setup::default() }).await;
        let dead = site.world.dead_letters.live();
        let note = note(&dead[0].1);
        assert_eq!(note["reason"], "attempts_exhausted", "{verb:?}");
        // Where it can be read, nothing was ever written, and the queue's own limit is what ends it.
        let times = if verb == Verb::Get { 3 } else { 20 };
        assert_eq!(
            (line.received, line.dead_lettered, site.reader.works("bad.txt")),
            (times, 1, times as usize),
            "{verb:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_charge_says_which_message_it_is_of_and_in_which_format() {
    let site = Site::new(1);
    site.reader.plan("a.txt", [crashed(), Act::Reads]);
    let id = site.world.upload("a.txt", "text", 1);
    assert_eq!(site.drain(&Setup::default()).await.done, 1);
    let record = site.attempts_of(&id).unwrap();
    assert_eq!((&record["v"], &record["message_id"], &record["failed"]), (&1.into(), &id.0.into(), &1.into()));
}

/// Our backoff is for failures that count; what could not be written down is free, and comes back as from an outage.
#[tokio::test(start_paused = true)]
async fn a_failure_comes_back_after_our_backoff_and_one_that_is_not_written_down_as_from_an_outage() {
    let ours = 5 * SECOND..10 * SECOND;
    let of_an_outage = 30 * SECOND..60 * SECOND;
    for (written, expected) in [(true, ours), (false, of_an_outage)] {
        for seed in 0..10 {
            let site = Site::new(seed);
            if !written {
                let error = StoreError::Unavailable("503".into());
                let (bucket, prefix) = (RESULTS.to_owned(), "attempts/".to_owned());
                site.world.store.inject(Rule { bucket, prefix, verb: Some(Verb::Put), error, times: None });
            }
            site.reader.plan("a.txt", [crashed()]);
            site.world.upload("a.txt", "text", 1);
            let backoff = Backoff { base: 10 * SECOND, cap: 10 * SECOND };
            let worker = site.start("w", &Setup { backoff, ..Setup::default() });
            until("it is returned", 60 * SECOND, || !site.settlements().is_empty()).await;
            let calls = site.world.queue.calls();
            let delays = calls.iter().rev().find_map(|call| match &call.ask {
                QueueAsk::Change(entries) => Some(entries[0].1),
                _ => None,
            });
            let delay = delays.unwrap();
            assert!(expected.contains(&delay), "written down {written}: {delay:?}");
            worker.crash();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_line_of_a_message_with_a_record_that_cannot_be_read_names_the_keys_that_can() {
    let site = Site::new(1);
    let head = site.world.store.put_object(SOURCE, "a.txt", "text");
    let event = s3_event(&[Record::created(SOURCE, "a.txt", &head, 1)]);
    site.world.queue.put(event.replace("\"Records\":[", "\"Records\":[{\"eventSource\":\"aws:s3\"},"));
    let line = site.drain(&Setup::default()).await;
    assert_eq!((line.dead_lettered, line.changes_done, line.changes_rejected), (1, 1, 1), "{line:?}");
    assert_eq!(site.lines("message_settled")[0]["keys"], serde_json::json!(["a.txt"]));
}

/// A record that was cut on its way says nothing: the receive count must not stand in for it.
#[tokio::test(start_paused = true)]
async fn an_attempts_record_that_is_cut_once_condemns_nobody() {
    let site = Site::new(1);
    let id = site.world.upload("a.txt", "text", 1);
    site.reader.plan("a.txt", [crashed(), crashed(), Act::Reads]);
    let worker = site.start("w", &Setup { max_attempts: 3, ..Setup::default() });
    until("it has failed once", 60 * SECOND, || site.settlements().len() == 1).await;
    let key = format!("attempts/default/{id}.json");
    site.world.store.spoil_body(RESULTS, &key, BodyFault::BreaksAt(3), 1);
    site.until_empty().await;
    let line = worker.stop().await;
    assert_eq!((line.done, line.dead_lettered), (1, 0), "{line:?}");
    assert_eq!(site.attempts_of(&id).unwrap()["failed"], 1, "the second could not be read, and is free");
}

/// The SDK tries a PUT again whose reply was lost, and is told that somebody was quicker.
#[tokio::test(start_paused = true)]
async fn one_failure_is_charged_once_though_its_write_is_met_again() {
    let site = Site::new(1);
    site.world.upload("a.txt", "text", 1);
    let bench = Bench::new(site, Setup::default());
    let lease = bench.receive_one().await;
    let log = bench.site.attempts(BENCH, &bench.wires);
    for _ in 0..2 {
        let written = log.charge(lease.message(), Seen::default(), "x").await.unwrap();
        assert_eq!(written.failed, 1);
    }
    drop(lease);
    bench.finish().await;
}

/// A network that cuts every body is nobody's fault: four messages are charged once, and then intake waits.
#[tokio::test(start_paused = true)]
async fn bodies_that_are_all_cut_are_an_outage_and_one_that_is_always_cut_is_its_messages_trouble() {
    let site = Site::new(1);
    let keys: Vec<String> = (0..40).map(|n| format!("{n}.txt")).collect();
    for key in &keys {
        site.world.upload(key, "a text that is cut", 1);
        site.world.store.spoil_body(SOURCE, key, BodyFault::BreaksAt(3), u32::MAX);
    }
    let worker = site.start("w", &Setup::default());
    sleep(HOUR).await;
    assert_eq!(site.lines("breaker_opened").len(), 1);
    let charged = site.world.store.keys(RESULTS, "attempts/").len();
    assert!(charged <= 4, "{charged} were charged");
    for key in &keys[1..] {
        site.world.store.spoil_body(SOURCE, key, BodyFault::BreaksAt(3), 0);
    }
    until("the rest is done", 3 * HOUR, || worker.books.snapshot(false).done == 39).await;
    until("the one is given up", 3 * HOUR, || !site.world.dead_letters.live().is_empty()).await;
    let note = note(&site.world.dead_letters.live()[0].1);
    assert_eq!((&note["reason"], &note["keys"]), (&"attempts_exhausted".into(), &serde_json::json!(["0.txt"])));
    worker.stop().await;
}
