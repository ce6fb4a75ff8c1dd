//! A node that breaks: too small for a request (413), killed in mid bulk and started again, away for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use super::own_node::OwnNode;
use crate::converged::{Records, converges, in_step, quiet};
use crate::process::Worker;
use crate::relay::{Head, Relay};
use crate::waiting::{LONG, eventually, holds};
use crate::world::World;

/// Of a request, unpacked; the documents of a batch together are longer,
const MAX_CONTENT: &str = "256kb";
/// and one document alone is.
const TOO_LONG: usize = 400_000;

fn is_bulk(head: &Head) -> bool {
    head.path.contains("_bulk")
}

/// Words that do not compress to nothing.
fn words(seed: u64, bytes: usize) -> String {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut text = String::with_capacity(bytes + 20);
    while text.len() < bytes {
        text.push_str(&format!("{:x} ", rng.u64(..)));
    }
    text
}

/// 413 of the node itself: found by halves, and the one that is too long alone waits until somebody makes it shorter.
async fn a_request_that_is_too_large(node: &str) -> World {
    let world = World::on(node).await;
    let files: BTreeMap<String, Vec<u8>> =
        (0..6).map(|n| (format!("fits/{n}.txt"), words(n, 90_000).into_bytes())).collect();
    // All are waiting when the worker comes, and meet in a batch.
    world.put_all(&files).await;
    world.put("too long.txt", words(99, TOO_LONG)).await;
    let mut worker = world.launch().start().await;
    let errored = worker.fact("document_errored").await;
    assert_eq!(errored["key"], "too long.txt", "{errored}");
    assert!(errored["reason"].as_str().unwrap().contains("413"), "{errored}");
    worker.settled(7).await;
    quiet(&world).await;
    world.finds_exactly(files.keys().map(String::as_str)).await;
    assert_eq!(worker.facts("document_errored").len(), 1);
    assert_eq!(world.results_under("errored-index/").await.len(), 1);

    world.put("too long.txt", "Shorter by far.").await;
    worker.settled(8).await;
    assert_eq!(world.launch().redrive(&["parked", "--errored", "--reset"]).code, 0);
    converges(&world).await;
    let books = worker.stop().await;
    let seen = ["done", "documents_parked", "documents_failed", "returned"].map(|name| books.of(name));
    assert_eq!(seen, [8, 1, 0, 0], "{}", books.0);
    world
}

/// Frozen while a bulk request is under way: without its reply, whatever it has done of it.
async fn frozen_in_mid_bulk(node: &mut OwnNode, relay: &Relay) {
    for _ in 0..200 {
        eventually("a bulk request under way", LONG, async || holds(relay.open(is_bulk) > 0, ())).await;
        node.freeze().await;
        // A reply that was written before is on its way through the proxy, and soon through.
        tokio::time::sleep(Duration::from_millis(50)).await;
        if relay.open(is_bulk) > 0 {
            return;
        }
        node.thaw().await;
    }
    panic!("no bulk request was ever under way");
}

async fn all_deleted(workers: &[&Worker], number: usize) {
    eventually("all messages are deleted", LONG, async || {
        let is_deleted = |fact: &serde_json::Value| fact["settlement"] == "deleted";
        let deleted: usize =
            workers.iter().map(|worker| worker.count(|f| f["event"] == "message_settled" && is_deleted(f))).sum();
        holds(deleted == number, (deleted, number))
    })
    .await;
}

/// Two workers, one through the proxy, the other without: it sees connections refused.
async fn killed_in_mid_bulk_and_started_again(node: &mut OwnNode) -> World {
    const FILES: usize = 150;
    let world = World::on(&node.url).await;
    let relay = Relay::before(&node.url);
    let files: BTreeMap<String, Vec<u8>> =
        (0..FILES as u64).map(|n| (format!("many/{n:03}.txt"), words(n, 8_000).into_bytes())).collect();
    let mut seen = world.launch().set("OPENSEARCH_ENDPOINT", relay.url()).start().await;
    let mut other = world.launch().start().await;
    let puts = async {
        world.put_all(&files).await;
    };
    tokio::join!(puts, async {
        eventually("some are in", LONG, async || holds(seen.facts("message_settled").len() >= 10, ())).await;
        frozen_in_mid_bulk(node, &relay).await;
        node.kill().await;
    });
    eventually("the proxy sees it", LONG, async || holds(relay.open(is_bulk) == 0, relay.open(is_bulk))).await;
    let cut_off = relay.exchanges(is_bulk).iter().filter(|bulk| bulk.status == 0).count();
    assert!(cut_off > 0, "a bulk request without its reply");
    all_deleted(&[&seen, &other], FILES).await;
    let parked = world.results_under("retry-index/").await.len();
    assert!(0 < parked && parked < FILES, "some were acknowledged before it died, and some not: {parked}");

    // While it is away: a new file, an overwritten and a removed one of those that were in.
    world.put("many/000.txt", "Overwritten while the node was away.").await;
    world.remove("many/001.txt").await;
    world.put("many/new 日本.txt", "Written while the node was away.").await;
    all_deleted(&[&seen, &other], FILES + 3).await;
    world.emptied().await;
    world.dlq_is_empty().await;

    node.start_again().await;
    converges(&world).await;
    let (seen, other) = (seen.stop().await, other.stop().await);
    let both = |name: &str| seen.of(name) + other.of(name);
    assert_eq!((both("documents_failed"), both("returned"), both("dead_lettered")), (0, 0, 0));
    assert!(both("documents_parked") >= 3 && both("replayed") >= 3, "{} {}", seen.0, other.0);
    world
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_node_too_small_for_a_request_or_killed_in_mid_bulk_ends_with_what_the_bucket_holds() {
    let mut node = OwnNode::start(MAX_CONTENT).await;
    let before = a_request_that_is_too_large(&node.url).await;
    killed_in_mid_bulk_and_started_again(&mut node).await;
    // What was acknowledged before kill -9 is there after it.
    in_step(&before, Records::Kept).await;
}
