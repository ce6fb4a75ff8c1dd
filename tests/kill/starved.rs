//! P9, P10, P16, P17: a handler that panics, a settler that does, and work that blocks its threads.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::armed::end_of;
use crate::notify::Systemd;
use crate::process::Worker;
use crate::waiting::{LONG, eventually, holds};
use crate::world::{World, text_files};

fn event(world: &World, key: &str) -> String {
    json!({ "bucket": world.source, "key": key }).to_string()
}

/// Outcome and settlement of each line of a message.
fn ends(worker: &Worker, id: &str) -> Vec<[String; 2]> {
    let lines = worker.facts("message_settled").into_iter().filter(|line| line["message_id"] == id);
    lines.map(|line| ["outcome", "settlement"].map(|field| line[field].as_str().unwrap().to_owned())).collect()
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn p9_a_panic_in_the_work_is_a_failed_attempt_and_the_process_survives_it() {
    let world = World::silent().await;
    world.put("bad.txt", "It breaks its worker's code twice.").await;
    let launch = world.launch().set("RETRY_BASE_SECONDS", 1).set("MAX_ATTEMPTS", 2);
    // Hits 1 and 2 are the two attempts; what comes later is well again.
    let mut worker = launch.armed("after_parse=panic@1,after_parse=panic@2").start().await;
    let bad = world.send(&event(&world, "bad.txt")).await;
    let letter = world.dead_letters(1).await.remove(0);
    world.put("good.txt", "It does no harm.").await;
    let good = world.send(&event(&world, "good.txt")).await;
    worker.settled_messages(&[bad.clone(), good.clone()]).await;
    world.emptied().await;
    assert_eq!(ends(&worker, &bad), [["panicked", "returned"], ["panicked", "dead_lettered"]]);
    assert_eq!(ends(&worker, &good), [["done", "deleted"]]);
    assert_eq!((&letter.note["message_id"], &letter.note["attempts"]), (&json!(bad), &json!(2)), "{}", letter.note);
    assert_eq!(letter.note["reason"], "attempts_exhausted", "{}", letter.note);
    let returned = worker.facts("message_settled").remove(0);
    assert_eq!(returned["reason"], "panicked", "{returned}");
    worker.stop().await;
}

/// In its own task, and in a call that it has made: either way there is no worker without a settler.
#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn p10_a_panic_in_the_settler_ends_the_process_and_loses_nothing() {
    let broken = async |point: &str| {
        let world = World::silent().await;
        let files = text_files(3);
        world.put_all(&files).await;
        for key in files.keys() {
            world.send(&event(&world, key)).await;
        }
        let mut first = world.launch().armed(&format!("{point}=panic")).spawn();
        let status = end_of(&mut first, LONG).await;
        assert_eq!(status.code(), Some(70), "{point}: {status}");
        let books = first.facts("books").pop().expect("the last books");
        assert_eq!(books["final"], true, "{point}: {books}");
        assert_eq!(first.facts("settler_broke").len(), 1, "{point}");

        let mut second = world.launch().unarmed().start().await;
        world.finds_exactly(files.keys().map(String::as_str)).await;
        world.emptied().await;
        world.dlq_is_empty().await;
        assert_eq!(world.results_under("processed/").await.len(), files.len(), "{point}");
        second.stop().await;
    };
    tokio::join!(broken("before_delete"), broken("after_delete_sent"));
}

/// P16, P17. Every thread of the work's runtime is blocked for longer than a lease, and longer than any poll. The
/// settler has a thread, a runtime and a client of its own: no lease is lost, and nobody else gets the messages.
#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn p17_work_that_blocks_every_thread_for_longer_than_a_lease_loses_no_lease() {
    const BLOCKED: Duration = Duration::from_secs(16);
    let world = World::silent().await;
    let files = text_files(2);
    world.put_all(&files).await;
    let mut ids = Vec::new();
    for key in files.keys() {
        ids.push(world.send(&event(&world, key)).await);
    }
    let plan = format!("before_get=block:{}", BLOCKED.as_millis());
    let mut starved = world.launch().set("TOKIO_WORKER_THREADS", 2).armed(&plan).start().await;
    eventually("it holds both", LONG, async || {
        let received = starved.facts("message_received").len();
        holds(received == ids.len(), received)
    })
    .await;
    let blocked = Instant::now();
    let mut other = world.launch().unarmed().start().await;
    let settled = starved.settled_messages(&ids).await;
    assert!(blocked.elapsed() > BLOCKED / 2, "it was not blocked");
    for line in &settled {
        let seen = ["outcome", "settlement"].map(|field| line[field].as_str().unwrap());
        assert_eq!((seen, line["receive_count"].as_u64()), (["done", "deleted"], Some(1)), "{line}");
        assert!(line["held_ms"].as_u64().unwrap() > 12_000, "longer than a lease of 10 s: {line}");
    }
    assert_eq!(starved.facts("lease_lost"), Vec::<Value>::new());
    assert_eq!(other.facts("message_received"), Vec::<Value>::new(), "nobody else got them");
    world.emptied().await;
    starved.stop().await;
    other.stop().await;
}

/// The settler stands still; everything else goes on. systemd (WatchdogSec=60 in the unit) would kill it within its time, and
/// the messages come back by themselves.
#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn p16_a_settler_that_stands_still_feeds_no_watchdog_and_says_so() {
    let world = World::silent().await;
    let mut systemd = Systemd::new();
    let mut worker = systemd.over(world.launch()).armed("before_delete=hang").start().await;
    systemd.until("WATCHDOG=1", 2).await;
    let files = text_files(1);
    world.put_all(&files).await;
    let key = files.keys().next().unwrap();
    world.send(&event(&world, key)).await;
    worker.fact("stalled").await;
    systemd.until("STATUS=STALLED", 2).await;
    // Two status lines after the last sign of life: half of the watchdog's time, and it stays so.
    let fed = systemd.times("WATCHDOG=1");
    systemd.until("STATUS=STALLED", 8).await;
    assert_eq!(systemd.times("WATCHDOG=1"), fed);
    assert_eq!(worker.facts("stalled").len(), 1, "told once");
    worker.kill(); // as the watchdog does
    let mut next = world.launch().unarmed().start().await;
    world.finds_exactly([key.as_str()]).await;
    world.emptied().await;
    next.stop().await;
}
