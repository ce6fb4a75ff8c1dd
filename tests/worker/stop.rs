//! The end of a worker: stop, drain, abandon, settle, exit 0 (design §4).

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::process::Worker;
use crate::relay::Relay;
use crate::waiting::{LONG, eventually, holds};
use crate::world::{World, text_files};

const FILES: usize = 6;
/// A quarter of the lease of 10 s: what an open poll may still last.
const POLL_WAIT: Duration = Duration::from_millis(2_500);
/// Settling what was returned, on a busy machine.
const SETTLING: Duration = Duration::from_secs(4);

/// A worker with all files in work: the relay holds their downloads.
async fn at_work(world: &World, drain_seconds: u64) -> (Worker, Relay) {
    let relay = world.aws_relay();
    let source = world.source.clone();
    relay.hold(move |head| head.downloads_from(&source));
    let launch = world.launch().set("AWS_ENDPOINT_URL", relay.url()).set("DRAIN_TIMEOUT", drain_seconds);
    let worker = launch.start().await;
    world.put_all(&text_files(FILES)).await;
    eventually("all downloads under way", LONG, async || holds(relay.held() == FILES, relay.held())).await;
    assert_eq!(worker.in_hand(), FILES);
    (worker, relay)
}

/// Everything was given back, quickly, and another worker does it.
async fn was_returned(world: &World, worker: &Worker) {
    let gone = Instant::now();
    let books = worker.books();
    // Once: an open poll of the worker itself must not take again what it has just given back.
    let seen = ["received", "returned", "changes_abandoned", "lease_lost"].map(|name| books.of(name));
    assert_eq!(seen, [FILES as u64, FILES as u64, FILES as u64, 0], "{}", books.0);
    worker.receipts_are_settled_once();
    let ends: Vec<Value> = worker.facts("message_settled");
    assert!(ends.iter().all(|fact| fact["outcome"] == "cancelled" && fact["settlement"] == "returned"), "{ends:?}");
    // Far below the lease of 10 s.
    eventually("the messages are visible again", Duration::from_secs(4), async || {
        let depth = world.depth(&world.queue).await;
        holds(depth == (FILES as u32, 0, 0), depth)
    })
    .await;
    assert_eq!(world.results_under("attempts/").await, Vec::<String>::new(), "a shutdown is no failed attempt");
    let mut another = world.launch().start().await;
    another.settled(FILES).await;
    assert!(gone.elapsed() < Duration::from_secs(10), "taken over after {:?}", gone.elapsed());
    world.finds_exactly(text_files(FILES).into_keys()).await;
    world.emptied().await;
    world.dlq_is_empty().await;
    assert_eq!(another.stop().await.of("done"), FILES as u64);
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn sigterm_lets_work_in_hand_finish() {
    let world = World::new().await;
    let (mut worker, relay) = at_work(&world, 60).await;
    worker.signal(Signal::TERM);
    let stopping = worker.fact("stopping").await;
    assert_eq!((stopping["signal"].as_str(), stopping["in_flight"].as_u64()), (Some("SIGTERM"), Some(FILES as u64)));
    relay.release();
    assert_eq!(worker.exited(LONG).await, 0);
    worker.receipts_are_settled_once();
    let books = worker.books();
    assert_eq!((books.of("done"), books.of("returned")), (FILES as u64, 0));
    world.emptied().await;
    world.finds_exactly(text_files(FILES).into_keys()).await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn at_the_drain_deadline_work_is_returned_and_visible_again_soon() {
    let world = World::new().await;
    let (mut worker, _relay) = at_work(&world, 2).await;
    let asked = Instant::now();
    worker.signal(Signal::TERM);
    assert_eq!(worker.exited(LONG).await, 0);
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(2) + POLL_WAIT + SETTLING, "the end took {took:?}");
    assert!(took >= Duration::from_secs(2), "work was not given its drain: {took:?}");
    assert_eq!(worker.fact("abandoning").await["in_flight"], FILES);
    was_returned(&world, &worker).await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_second_signal_skips_the_drain_and_not_the_settling() {
    let world = World::new().await;
    let (mut worker, _relay) = at_work(&world, 60).await;
    worker.signal(Signal::INT);
    assert_eq!(worker.fact("stopping").await["signal"], "SIGINT");
    let asked = Instant::now();
    worker.signal(Signal::TERM);
    assert_eq!(worker.exited(LONG).await, 0);
    assert!(asked.elapsed() < POLL_WAIT + SETTLING, "the end took {:?}", asked.elapsed());
    was_returned(&world, &worker).await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn what_arrives_after_the_stop_is_received_once_and_returned() {
    let world = World::silent().await;
    let relay = world.aws_relay();
    let launch = world.launch().set("AWS_ENDPOINT_URL", relay.url()).set("WORKER_CONCURRENCY", 80);
    let mut worker = launch.start().await;
    let polls = || relay.open(|head| head.target == "AmazonSQS.ReceiveMessage");
    eventually("four open polls", LONG, async || holds(polls() == 4, polls())).await;
    worker.signal(Signal::TERM);
    worker.fact("stopping").await;
    world.send("a late one").await;
    assert_eq!(worker.exited(LONG).await, 0);
    let books = worker.books();
    assert!(books.of("received") <= 1, "one of its own polls after the other took it: {}", books.0);
    assert_eq!(books.of("received"), books.of("returned"));
    worker.receipts_are_settled_once();
    eventually("it is visible", LONG, async || {
        let depth = world.depth(&world.queue).await;
        holds(depth == (1, 0, 0), depth)
    })
    .await;
    world.dlq_is_empty().await;
}

/// Ten downloads that never end, and ten messages that arrive while the stop waits for the open poll.
#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a0_3_ten_in_work_and_ten_that_arrive_with_the_stop_are_all_visible_again_two_seconds_after_it() {
    let world = World::silent().await;
    let files = text_files(20);
    world.put_all(&files).await;
    let bodies: Vec<String> =
        files.keys().map(|key| json!({ "bucket": world.source, "key": key }).to_string()).collect();
    let (relay, source) = (world.aws_relay(), world.source.clone());
    relay.hold(move |head| head.downloads_from(&source));
    let launch = world.launch().set("AWS_ENDPOINT_URL", relay.url()).set("DRAIN_TIMEOUT", 2);
    let mut worker = launch.start().await;
    join_all(bodies[..10].iter().map(|body| world.send(body))).await;
    eventually("ten downloads under way", LONG, async || holds(relay.held() == 10, relay.held())).await;
    let polls = || relay.seen(|head| head.target == "AmazonSQS.ReceiveMessage").len();
    let before = polls();
    eventually("a poll that has just begun", LONG, async || holds(polls() > before, polls())).await;
    let asked = Instant::now();
    worker.signal(Signal::TERM);
    worker.fact("stopping").await;
    join_all(bodies[10..].iter().map(|body| world.send(body))).await;
    assert_eq!(worker.exited(LONG).await, 0);
    let (took, gone) = (asked.elapsed(), Instant::now());
    assert!(took < Duration::from_secs(2) + POLL_WAIT + SETTLING, "the end took {took:?}");
    eventually("all twenty are visible again", Duration::from_secs(2), async || {
        let depth = world.depth(&world.queue).await;
        holds(depth == (20, 0, 0), depth)
    })
    .await;
    assert!(gone.elapsed() < Duration::from_secs(4), "{:?}", gone.elapsed());
    let books = worker.books();
    let (received, returned) = (books.of("received"), books.of("returned"));
    assert!(received > 10, "nothing arrived on the open poll: {}", books.0);
    assert_eq!((returned, books.of("deleted"), books.of("lease_lost")), (received, 0, 0), "{}", books.0);
    worker.receipts_are_settled_once();
    world.dlq_is_empty().await;
}
