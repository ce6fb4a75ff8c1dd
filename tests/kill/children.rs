//! P11, P12, P13, A4.2: an extraction child that dies, spins or hoards, in a worker that has other work.
//!
//! That children are confined, killed with their whole group and waited for is shown in `tests/extract/pool.rs`; here
//! it is the parent and the innocent that are looked at.

use serde_json::json;

use crate::process::Worker;
use crate::waiting::{LONG, eventually, holds};
use crate::world::{World, spelt, text_files};

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn p11_p12_p13_a_child_that_dies_spins_or_hoards_harms_neither_its_worker_nor_other_files() {
    let world = World::silent().await;
    let event = |key: &str| json!({ "bucket": world.source, "key": key }).to_string();
    let innocents = text_files(20);
    world.put_all(&innocents).await;
    let guilty =
        [("failpoint-abort", "attempts_exhausted"), ("failpoint-spin", "limit"), ("failpoint-allocate", "limit")];
    for (key, _) in guilty {
        world.put(key, "What it says does not matter.").await;
    }
    let launch = world.launch().set("RETRY_BASE_SECONDS", 1).set("MAX_ATTEMPTS", 2).set("EXTRACTORS", 2);
    let mut worker = launch.unarmed().start().await;
    let mut ids = Vec::new();
    for (n, key) in innocents.keys().enumerate() {
        if let Some((key, _)) = guilty.get(n / 5).filter(|_| n % 5 == 0) {
            world.send(&event(key)).await;
        }
        ids.push(world.send(&event(key)).await);
    }
    let letters = world.dead_letters(guilty.len()).await;
    for (key, reason) in guilty {
        let letter = letters.iter().find(|letter| letter.note["keys"] == json!([key])).expect(key);
        assert_eq!(letter.note["reason"], reason, "{}", letter.note);
    }
    let detail = |key: &str| {
        let letter = letters.iter().find(|letter| letter.note["keys"] == json!([key])).unwrap();
        letter.note["detail"].as_str().unwrap().to_owned()
    };
    assert!(detail("failpoint-spin").contains("cpu"), "{}", detail("failpoint-spin"));
    assert!(detail("failpoint-allocate").contains("memory"), "{}", detail("failpoint-allocate"));
    for line in worker.settled_messages(&ids).await {
        let seen = ["outcome", "settlement"].map(|field| line[field].as_str().unwrap());
        assert_eq!((seen, &line["receive_count"]), (["done", "deleted"], &json!(1)), "an innocent: {line}");
    }
    world.emptied().await;
    world.finds_exactly(innocents.keys().map(String::as_str)).await;
    world.finds(&spelt(3), "batch/003.txt").await;
    assert!(worker.children().is_empty(), "a child was left");
    worker.stop().await;
}

/// Resident memory of the worker itself, KiB.
fn resident(worker: &Worker) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a4_2_children_that_spin_are_killed_and_until_then_hold_the_permits_of_their_messages() {
    const FILES: usize = 6;
    const PERMITS: usize = 4;
    const CHILDREN: usize = 2;
    let world = World::silent().await;
    for n in 0..FILES {
        let key = format!("{n}/failpoint-spin");
        world.put(&key, "What it says does not matter.").await;
        world.send(&json!({ "bucket": world.source, "key": key }).to_string()).await;
    }
    let launch = world.launch().set("WORKER_CONCURRENCY", PERMITS).set("EXTRACTORS", CHILDREN).set("MAX_ATTEMPTS", 1);
    let mut worker = launch.unarmed().start().await;
    let before = resident(&worker);
    let (mut most_in_hand, mut most_children) = (0, 0);
    // Each spins for a second of CPU time, which a busy machine may take long to give.
    eventually("all are settled", LONG * 3, async || {
        most_in_hand = most_in_hand.max(worker.in_hand());
        most_children = most_children.max(worker.children().len());
        let settled = worker.facts("message_settled").len();
        holds(settled == FILES, settled)
    })
    .await;
    assert!((1..=PERMITS).contains(&most_in_hand), "{most_in_hand} messages in hand at once");
    assert!((1..=CHILDREN).contains(&most_children), "{most_children} children at once");
    assert!(worker.children().is_empty(), "a child was left");
    let grown = resident(&worker).saturating_sub(before);
    assert!(grown < 64 * 1024, "it grew by {grown} KiB");
    for letter in world.dead_letters(FILES).await {
        assert_eq!(letter.note["reason"], "limit", "{}", letter.note);
    }
    world.emptied().await;
    worker.stop().await;
}
