//! Rows of the fault catalogue (§3.2 SQS, §3.3 S3; `tests/faults.md`) that no file of a promise shows by itself.

use std::time::Duration;

use quittance::outcome::{Outcome, RetryReason};
use quittance::queue::{Queue as _, SQS_MAX_MESSAGE_BYTES};
use quittance::retry::Backoff;
use quittance::store::StoreError;
use tokio::time::{Instant, sleep, sleep_until};

use crate::dead_letter::note;
use crate::sim::bench::{BENCH, Bench, judged};
use crate::sim::reader::Act;
use crate::sim::{
    ModelQueue, QueueAnswer, QueueAsk, QueueSettings, RESULTS, Record, Rule, SOURCE, Setup, Site, StaleDelete, Verb,
    World, document_id, history, record_key, s3_event, until,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test(start_paused = true)]
async fn q2_a_delivery_after_the_delete_changes_nothing() {
    let site = Site::new(2);
    site.world.queue.faults(|faults| faults.rise_after_delete = 1.0);
    site.world.upload("a.txt", "text", 1);
    let worker = site.start("w", &Setup::default());
    until("it was delivered again", 300 * SECOND, || worker.books.snapshot(false).deleted == 2).await;
    let line = worker.stop().await;
    assert_eq!((line.received, site.reader.works("a.txt")), (2, 1), "the record is proof of the reading");
    assert_eq!(site.world.store.keys(RESULTS, "processed/"), [record_key("a.txt")]);
    assert_eq!(history::in_step(&site.world, &["a.txt"]), Ok(()));
}

/// SQS refuses a visibility change that goes beyond its twelve hours; the message would stay hidden to their end.
#[tokio::test(start_paused = true)]
async fn q13_a_return_delay_beyond_what_is_left_of_the_twelve_hours_is_clamped() {
    let site = Site::new(13);
    site.world.upload("a.txt", "text", 1);
    let long = Backoff { base: 900 * SECOND, cap: 900 * SECOND };
    let bench = Bench::new(site, Setup { backoff: long, ..Setup::default() });
    let (began, lease) = (Instant::now(), bench.receive_one().await);
    sleep_until(began + 12 * HOUR - 120 * SECOND).await;
    assert!(lease.term().is_live());
    lease.settle(judged(Outcome::Retry(RetryReason::ChildCrashed("signal 11".into()))));
    bench.until_settled().await;
    let (site, line) = bench.finish().await;
    assert_eq!((line.returned, line.lease_lost), (1, 0));
    for call in site.world.queue.calls() {
        if let (QueueAsk::Change(_), Some((_, answer))) = (&call.ask, &call.answered) {
            assert_eq!(*answer, QueueAnswer::Entries(vec![Ok(())]), "{call:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn q9_a_late_delete_that_really_deletes_takes_nothing_from_the_worker_that_has_the_message_now() {
    for stale_delete in [StaleDelete::Deletes, StaleDelete::Ignored] {
        let site = Site::new(9);
        site.world.queue.faults(|faults| (faults.redeliver_early, faults.stale_delete) = (1.0, stale_delete));
        site.reader.plan("a.txt", [Act::Takes(15 * SECOND), Act::Takes(200 * SECOND)]);
        site.world.upload("a.txt", "text", 1);
        let first = site.start("first", &Setup { concurrency: 1, ..Setup::default() });
        until("the first has it", 5 * SECOND, || site.reader.works("a.txt") == 1).await;
        site.world.queue.faults(|faults| faults.redeliver_early = 0.0);
        let second = site.start("second", &Setup { concurrency: 1, ..Setup::default() });
        until("the first is done", 60 * SECOND, || first.books.snapshot(false).in_flight == 0).await;
        assert_eq!(history::durable_before_deleted(&site.world, "first"), 1);
        assert!(history::in_step(&site.world, &["a.txt"]).is_ok(), "{stale_delete:?}: durable before the delete");
        site.until_empty().await;
        until("the second is done too", HOUR, || second.books.snapshot(false).in_flight == 0).await;
        assert_eq!(history::in_step(&site.world, &["a.txt"]), Ok(()), "{stale_delete:?}");
        assert_eq!(first.stop().await.done, 1, "{stale_delete:?}");
        second.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn q16_a_body_that_nobody_can_read_is_dead_lettered_byte_for_byte() {
    let bodies = [
        "no JSON".to_owned(),
        "\u{feff}no JSON behind a mark".to_owned(),
        "{\"Records\":[{".to_owned(),
        " ".to_owned(),
        "null".to_owned(),
        "[".repeat(200_000),
        format!("{{\"Records\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000)),
        "x".repeat(SQS_MAX_MESSAGE_BYTES),
    ];
    for body in bodies {
        let site = Site::new(16);
        site.world.queue.put(body.clone());
        let line = site.drain(&Setup::default()).await;
        assert_eq!((line.received, line.dead_lettered), (1, 1), "{}", &body[..20.min(body.len())]);
        let letters = site.world.dead_letters.live();
        assert!(letters[0].1.body == body, "another body");
        // A full message has no room for the note; its envelope is in S3.
        if body.len() < SQS_MAX_MESSAGE_BYTES {
            assert_eq!(note(&letters[0].1)["reason"], "malformed");
        } else {
            assert_eq!(site.world.store.keys(RESULTS, "archive/dlq/").len(), 1);
        }
    }
}

/// SQS answers such a poll with nothing, and without an error.
#[tokio::test(start_paused = true)]
async fn q21_at_the_queues_in_flight_limit_workers_go_on_with_what_they_have() {
    let mut world = World::new(21);
    let redrive = Some((world.dead_letters.clone(), 20));
    let settings = QueueSettings { in_flight_limit: 5, redrive, ..QueueSettings::default() };
    world.queue = ModelQueue::new(settings, 21, world.ticks.clone());
    let site = Site::in_world(world);
    let keys: Vec<String> = (0..60).map(|n| format!("{n}.txt")).collect();
    for key in &keys {
        site.reader.plan(key, [Act::Takes(SECOND)]);
        site.world.upload(key, format!("text of {key}"), 1);
    }
    let workers = ["one", "two"].map(|name| site.start(name, &Setup::default()));
    site.until_empty().await;
    assert_eq!(history::in_step(&site.world, &keys.iter().map(String::as_str).collect::<Vec<_>>()), Ok(()));
    let mut done = 0;
    for worker in workers {
        let line = worker.stop().await;
        assert_eq!(line.received, line.done, "{line:?}");
        done += line.done;
    }
    assert_eq!(done, 60);
}

/// As at that limit, or behind a proxy: nothing, at once, whatever the wait. What arrives is still taken soon.
#[tokio::test(start_paused = true)]
async fn q14_a_queue_that_answers_with_nothing_at_once_is_asked_no_more_than_once_a_second() {
    let site = Site::new(14);
    let answers_in = Duration::from_millis(10);
    site.world.queue.faults(|faults| (faults.impatient, faults.receive.latency) = (true, (answers_in, answers_in)));
    let worker = site.start("w", &Setup::default());
    tokio::time::sleep(600 * SECOND).await;
    let polls = site.world.queue.calls().iter().filter(|call| matches!(call.ask, QueueAsk::Receive { .. })).count();
    let pollers = quittance::receive::pollers(Setup::default().concurrency);
    assert!((300 * pollers..=600 * pollers).contains(&polls), "{polls} polls in ten minutes by {pollers}");
    assert_eq!(site.lines("receive_failed").len(), 0, "an empty reply is an answer");
    let began = Instant::now();
    site.world.upload("a.txt", "text", 1);
    site.until_empty().await;
    assert!(began.elapsed() < 3 * SECOND, "{:?}", began.elapsed());
    assert_eq!(worker.stop().await.done, 1);
}

#[tokio::test(start_paused = true)]
async fn b16_an_archived_object_is_dead_lettered_at_once_and_its_neighbours_are_done() {
    let site = Site::new(16);
    let error = StoreError::Archived("InvalidObjectState".into());
    let (bucket, prefix) = (SOURCE.to_owned(), "cold.txt".to_owned());
    site.world.store.inject(Rule { bucket, prefix, verb: Some(Verb::Get), error, times: None });
    for key in ["cold.txt", "warm.txt"] {
        site.world.upload(key, "text", 1);
    }
    let line = site.drain(&Setup::default()).await;
    assert_eq!((line.received, line.done, line.dead_lettered, line.returned), (2, 1, 1, 0));
    let note = note(&site.world.dead_letters.live()[0].1);
    assert_eq!((&note["reason"], &note["keys"][0]), (&"denied".into(), &"cold.txt".into()));
    assert!(note["detail"].as_str().unwrap().contains("InvalidObjectState"), "{note}");
}

#[tokio::test(start_paused = true)]
async fn q8_a_receipt_that_expired_before_its_delete_is_booked_as_lost_and_the_message_is_done_again() {
    let site = Site::new(8);
    site.world.queue.faults(|faults| faults.stale_delete = StaleDelete::Ignored);
    site.world.upload("a.txt", "text", 1);
    let bench = Bench::new(site, Setup::default());
    let lease = bench.receive_one().await;
    bench.site.world.queue.faults(|faults| faults.change.down = true);
    lease.term().ended().await;
    let (again, _) = bench.poll(1).await;
    assert_eq!((again.len(), again[0].receive_count), (1, 2), "it is another's now");
    lease.settle(judged(Outcome::Done));
    bench.until_settled().await;
    let (site, line) = bench.finish().await;
    assert_eq!((line.deleted, line.lease_lost), (0, 1));
    assert_eq!((history::delete_batches(&site.world.queue, BENCH), site.world.queue.live().len()), (vec![1], 1));
    assert_eq!(site.world.queue.facts().await.unwrap().in_flight, 1);
    assert_eq!(site.drain(&Setup::default()).await.done, 1);
}

#[tokio::test(start_paused = true)]
async fn b12_of_two_puts_told_in_the_wrong_order_the_second_stands() {
    let site = Site::new(12);
    let older = site.world.store.put_object(SOURCE, "a.txt", "old text");
    site.world.upload("a.txt", "new text", 2);
    site.drain_as("first", &Setup::default()).await;
    site.world.queue.put(s3_event(&[Record::created(SOURCE, "a.txt", &older, 1)]));
    let line = site.drain(&Setup::default()).await;
    assert_eq!((line.received, line.superseded), (1, 1));
    assert_eq!(history::in_step(&site.world, &["a.txt"]), Ok(()));
}

/// The event of a PUT may come long after that of the removal; a hard delete would be forgotten by then.
#[tokio::test(start_paused = true)]
async fn b13_what_was_removed_does_not_rise_again_thirteen_days_later() {
    for wait in [0, 90, 13 * 86_400] {
        let site = Site::new(13);
        let head = site.world.store.put_object(SOURCE, "a.txt", "text");
        site.world.remove("a.txt", 2);
        site.drain_as("first", &Setup::default()).await;
        let removed = || site.world.search.document(&document_id("a.txt")).unwrap();
        assert_eq!(removed().source["deleted"], true);
        let before = removed();
        sleep(wait * SECOND).await;
        site.world.queue.put(s3_event(&[Record::created(SOURCE, "a.txt", &head, 1)]));
        let line = site.drain(&Setup::default()).await;
        assert_eq!((line.received, line.superseded), (1, 1), "{wait} s");
        assert_eq!(removed(), before, "{wait} s");
        assert_eq!(history::in_step(&site.world, &["a.txt"]), Ok(()), "{wait} s");
    }
}
