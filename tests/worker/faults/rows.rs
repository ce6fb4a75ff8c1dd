//! Rows of the catalogue that are a story of their own, each named after its row.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use super::ledger::Outside;
use crate::body_shapes::created;
use crate::relay::{Fate, Head, Relay, answers};
use crate::search::endpoint;
use crate::waiting::{LONG, eventually, holds};
use crate::world::{World, spelt, text_files};

fn is_poll(head: &Head) -> bool {
    head.target == "AmazonSQS.ReceiveMessage"
}

fn all_created(world: &World, files: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    files.keys().map(|key| created(&world.source, key).to_string()).collect()
}

/// 200 messages of every end: done, skipped, returned (and done later), dead-lettered.
#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a0_6_the_proxys_own_count_is_the_workers_ledger() {
    let world = World::silent().await;
    let relay = world.aws_relay();
    let launch = world.launch().set("AWS_ENDPOINT_URL", relay.url());
    let mut worker =
        launch.set("RETRY_BASE_SECONDS", 1).set("RETRY_MAX_SECONDS", 2).set("MAX_ATTEMPTS", 40).start().await;
    let files = text_files(160);
    let (late, early): (BTreeMap<_, _>, BTreeMap<_, _>) =
        files.clone().into_iter().partition(|(key, _)| key.ends_with("7.txt") || key.ends_with("3.txt"));
    world.put_all(&early).await;
    let mut bodies = all_created(&world, &files);
    bodies.extend((0..20).map(|n| format!("no event, number {n}")));
    bodies.extend((0..20).map(|_| json!({ "Records": [] }).to_string()));
    let ids = world.send_all(&bodies).await;
    eventually("the late ones are returned", LONG, async || {
        let returned = worker.count(|fact| fact["event"] == "message_settled" && fact["settlement"] == "returned");
        holds(returned >= late.len(), returned)
    })
    .await;
    world.put_all(&late).await;
    world.emptied().await;
    worker.settled_messages(&ids).await;
    world.finds_exactly(files.keys().map(String::as_str)).await;
    let books = worker.stop().await;
    let ends = ["done", "skipped", "dead_lettered", "lease_lost"].map(|end| books.of(end));
    assert_eq!(ends, [160, 20, 20, 0], "{}", books.0);
    assert!(books.of("returned") >= late.len() as u64, "{}", books.0);
    assert_eq!(world.dead_letters(20).await.len(), 20);
    let outside = Outside::of(&relay);
    outside.agrees_with(&worker, &books);
    // Without a fault every call is an acknowledgement: the calls themselves, counted, are the ledger too.
    let called = |target: &str| {
        let calls = relay.seen(|head| head.target == format!("AmazonSQS.{target}"));
        calls.iter().map(|head| super::ledger::entries(&head.body).len().max(1)).sum::<usize>()
    };
    let deleted = (books.of("deleted") + books.of("dead_lettered")) as usize;
    assert_eq!((called("DeleteMessageBatch"), outside.deleted()), (deleted, deleted));
    assert_eq!(called("SendMessage"), 20);
    assert_eq!(outside.received() as u64, books.of("received"));
}

/// The pause comes while everything is at work: intake stops within a second, and what is in hand is finished.
#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a4_5_a_pause_under_full_load_stops_polls_within_a_second() {
    const FILES: usize = 600;
    let world = World::silent().await;
    let relay = world.aws_relay();
    let files = text_files(FILES);
    world.put_all(&files).await;
    world.send_all(&all_created(&world, &files)).await;
    let launch = world.launch().set("AWS_ENDPOINT_URL", relay.url()).set("WORKER_CONCURRENCY", 80);
    let mut worker = launch.start().await;
    let settled = |worker: &crate::process::Worker| worker.count(|fact| fact["event"] == "message_settled");
    eventually("full load", LONG, async || holds(settled(&worker) >= 40 && worker.in_hand() >= 20, worker.in_hand()))
        .await;

    let asked = Instant::now();
    worker.signal(Signal::USR1);
    worker.fact("paused").await;
    eventually("work in hand is finished, and open polls have ended", LONG, async || {
        let left = (worker.in_hand(), relay.open(is_poll));
        holds(left == (0, 0), left)
    })
    .await;
    // Nothing follows a poll that is not made: only time can tell. Longer than a worker would wait between two.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let polls = relay.exchanges(is_poll);
    let last = polls.iter().map(|poll| poll.came).max().unwrap();
    assert!(last < asked + Duration::from_secs(1), "the last poll came {:?} after the pause", last - asked);
    let ends = worker.facts("message_settled");
    assert!(ends.iter().all(|fact| fact["settlement"] == "deleted"), "in-flight work completes");
    let done = ends.len();
    assert!(done < FILES, "it was over before the pause: {done}");
    assert_eq!(world.depth(&world.queue).await, ((FILES - done) as u32, 0, 0), "the rest stays where it is");

    worker.signal(Signal::USR2);
    worker.settled(FILES).await;
    world.emptied().await;
    let books = worker.stop().await;
    assert_eq!((books.of("done"), books.of("returned")), (FILES as u64, 0));
    Outside::of(&relay).agrees_with(&worker, &books);
}

/// What is read is the object of one moment; one put in its place meanwhile comes by its own event, and wins.
#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn b6_an_object_replaced_while_it_is_processed_ends_as_the_newer_one() {
    let world = World::new().await;
    let relay = world.aws_relay();
    let source = world.source.clone();
    // The first download has been answered with the old text, which is on its way for as long as we like.
    relay.rule(move |head| if head.downloads_from(&source) { Fate::HoldReply } else { Fate::Pass });
    let mut worker = world.launch().set("AWS_ENDPOINT_URL", relay.url()).start().await;
    world.put("report.txt", "The old text, about a badger.").await;
    eventually("the old text is on its way", LONG, async || holds(relay.held() == 1, relay.held())).await;
    world.put("report.txt", "The new text, about a marten.").await;
    relay.release();
    worker.settled(2).await;
    world.emptied().await;
    world.finds("marten", "report.txt").await;
    assert!(world.search.by_phrase("badger").await.is_empty());
    let (record, _) = world.record("report.txt").await.unwrap();
    assert_eq!(record["document"]["content"].as_str().map(str::trim), Some("The new text, about a marten."));
    worker.stop().await;
}

/// More markers than a page holds, each deleted while the listing goes on: 120 in `make test`, 1,001 in `make faults`.
#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn b18_more_parked_documents_than_a_page_are_all_replayed() {
    let number = if std::env::var_os("QUITTANCE_FAULTS").is_some_and(|which| which == "all") { 1_001 } else { 120 };
    let within = Duration::from_secs(180);
    let world = World::silent().await;
    let search = Relay::before(&endpoint());
    let sick = answers::cluster_block();
    search.rule(move |head| if head.path.contains("_bulk") { Fate::Answer(sick.clone()) } else { Fate::Pass });
    let files: BTreeMap<String, Vec<u8>> =
        (0..number).map(|n| (format!("parked/{n:04}.txt"), format!("Parked, {}.", spelt(n)).into_bytes())).collect();
    world.put_all(&files).await;
    world.send_all(&all_created(&world, &files)).await;
    let launch = world.launch().set("OPENSEARCH_ENDPOINT", search.url()).set("WORKER_CONCURRENCY", 80);
    let mut worker = launch.start().await;
    eventually("all are parked", within, async || {
        let parked = worker.count(|fact| fact["event"] == "message_settled" && fact["index"] == "parked");
        holds(parked == number, parked)
    })
    .await;
    world.emptied().await;
    assert_eq!(world.results_under("retry-index/").await.len(), number);
    search.release();
    eventually("no marker is left", within, async || {
        let left = world.results_under("retry-index/").await.len();
        holds(left == 0, left)
    })
    .await;
    world.search.ask(opensearch::http::Method::Post, &format!("/{}/_refresh", world.search.alias), None).await;
    let count = format!("/{}-search/_count", world.search.alias);
    let (_, counted) = world.search.ask(opensearch::http::Method::Get, &count, None).await;
    assert_eq!(counted["count"], number, "{counted}");
    world.dlq_is_empty().await;
    let books = worker.stop().await;
    assert_eq!((books.of("done"), books.of("replayed")), (number as u64, number as u64));
}

/// An idle worker: the open poll ends, nothing is left hidden, exit 0.
#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn p1_sigterm_while_idle_ends_the_open_poll_and_exits_0() {
    let world = World::silent().await;
    let relay = world.aws_relay();
    let mut worker = world.launch().set("AWS_ENDPOINT_URL", relay.url()).start().await;
    eventually("an open poll", LONG, async || holds(relay.open(is_poll) > 0, "none")).await;
    let asked = Instant::now();
    worker.signal(Signal::TERM);
    assert_eq!(worker.exited(LONG).await, 0);
    // The poll that is open may last its wait of 3 s (an aborted one hides what it was about to hand out).
    assert!(asked.elapsed() < Duration::from_secs(3 + 2), "the end took {:?}", asked.elapsed());
    assert_eq!((worker.books().of("received"), world.depth(&world.queue).await), (0, (0, 0, 0)));
}
