//! `kill -9`: the lease ends, another worker finishes, nothing is lost and nothing is there twice.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::process::Worker;
use crate::relay::{Fate, Head, Relay};
use crate::search::endpoint;
use crate::waiting::{LONG, eventually, holds};
use crate::world::{World, spelt, text_files};

/// After all that happened: every file recorded and found once, with its own text; nothing left over anywhere.
async fn nothing_is_lost(world: &World, files: &BTreeMap<String, Vec<u8>>) {
    world.finds_exactly(files.keys().map(String::as_str)).await;
    world.emptied().await;
    world.dlq_is_empty().await;
    for (n, key) in files.keys().enumerate() {
        world.finds(&spelt(n), key).await;
    }
    assert_eq!(world.results_under("processed/").await.len(), files.len());
    for prefix in ["retry-index/", "errored-index/"] {
        assert_eq!(world.results_under(prefix).await, Vec::<String>::new());
    }
    for key in world.results_under("attempts/").await {
        let (attempts, _) = world.result(&key).await.unwrap();
        assert_eq!(attempts["failed"], 0, "a crash is no failure of a message: {attempts}");
    }
}

/// Its state as in `/proc/PID/stat`; `None` when there is no such process.
fn state(child: Pid) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// An extraction child lives for milliseconds: the files are written again until one is caught at work, and stopped.
async fn stopped_child(world: &World, files: &BTreeMap<String, Vec<u8>>, worker: &Worker) -> Pid {
    let write = async {
        loop {
            world.put_all(files).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let watch = async {
        loop {
            for child in worker.children() {
                if state(child) == Some('T') {
                    return child;
                }
                let _gone_already = kill_process(child, Signal::STOP);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        child = watch => child,
        () = write => unreachable!("it writes until it is dropped"),
        () = tokio::time::sleep(LONG) => panic!("no extraction child within {LONG:?}"),
    }
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_worker_killed_in_mid_work_loses_nothing() {
    let world = World::new().await;
    let files = text_files(12);
    let relay = world.aws_relay();
    let source = world.source.clone();
    // Some of the downloads never come: the others are at every stage.
    relay.hold(move |head| head.downloads_from(&source) && head.path.contains("1.txt"));
    let mut worker = world.launch().set("AWS_ENDPOINT_URL", relay.url()).start().await;
    world.put_all(&files).await;
    eventually("some are settled and some in hand", LONG, async || {
        let (settled, in_hand) = (worker.facts("message_settled").len(), worker.in_hand());
        holds(settled > 0 && in_hand > 0 && relay.held() > 0, (settled, in_hand, relay.held()))
    })
    .await;
    let child = stopped_child(&world, &files, &worker).await;
    worker.kill();
    assert!(worker.in_hand() > 0);
    kill_process(child, Signal::CONT).unwrap();
    eventually("its extraction child is gone too", LONG, async || {
        holds(matches!(state(child), None | Some('Z')), child)
    })
    .await;

    let mut second = world.launch().start().await;
    nothing_is_lost(&world, &files).await;
    second.stop().await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn workers_killed_at_random_instants_lose_nothing() {
    let world = World::new().await;
    let files = text_files(60);
    world.put_all(&files).await;
    let mut settled = 0;
    for _ in 0..6 {
        let mut worker = world.launch().start().await;
        let instant = Duration::from_millis(fastrand::u64(10..700));
        tokio::time::sleep(instant).await;
        worker.kill();
        settled += worker.facts("message_settled").len();
        eprintln!("killed {instant:?} after ready: {settled} settled so far, {} in hand", worker.in_hand());
    }
    let mut last = world.launch().start().await;
    nothing_is_lost(&world, &files).await;
    last.stop().await;
}

/// The steps of a fresh file, each as the request that the worker was about to make when it was killed.
#[derive(Clone, Copy, Debug)]
enum Before {
    Fetch,
    Record,
    Index,
    Delete,
}

/// The honest way to stand between two steps: the real binary runs into a relay that keeps that one request, and is
/// killed there. What the request would have done has not happened; everything before it has.
async fn killed(before: Before) {
    let world = World::new().await;
    let key = "steps/一.txt";
    let files = BTreeMap::from([(key.to_owned(), format!("The step is {}.", spelt(0)).into_bytes())]);
    let (aws, index) = (world.aws_relay(), Relay::before(&endpoint()));
    let (source, results) = (world.source.clone(), format!("/{}/processed/", world.results));
    match before {
        Before::Fetch => aws.hold(move |head| head.downloads_from(&source)),
        Before::Record => aws.hold(move |head| head.method == "PUT" && head.path.starts_with(&results)),
        Before::Index => index.hold(|head| head.path.contains("_bulk")),
        Before::Delete => aws.hold(|head| head.target == "AmazonSQS.DeleteMessageBatch"),
    }
    let launch = world.launch().set("AWS_ENDPOINT_URL", aws.url()).set("OPENSEARCH_ENDPOINT", index.url());
    let mut first = launch.start().await;
    world.put_all(&files).await;
    eventually("the request is held", LONG, async || holds(aws.held() + index.held() == 1, first.all_facts())).await;
    first.kill();
    assert_eq!(first.facts("message_settled"), Vec::<Value>::new());
    drop((aws, index)); // what was held goes nowhere

    let recorded = world.record(key).await;
    let there = (recorded.is_some(), world.search.keys().await.len());
    let expected = match before {
        Before::Fetch | Before::Record => (false, 0),
        Before::Index => (true, 0),
        Before::Delete => (true, 1),
    };
    assert_eq!(there, expected, "recorded and found when killed before {before:?}");

    let aws = world.aws_relay();
    let mut second = world.launch().set("AWS_ENDPOINT_URL", aws.url()).start().await;
    let settled = second.settled(1).await.remove(0);
    assert!(settled["receive_count"].as_u64().unwrap() > 1, "{settled}");
    let seen = ["outcome", "settlement", "index"].map(|field| settled[field].as_str().unwrap());
    assert_eq!(seen, ["done", "deleted", "indexed"], "killed before {before:?}: {settled}");
    nothing_is_lost(&world, &files).await;
    if let Some((before_the_kill, _)) = recorded {
        // What was durable is not done again: the document comes from the record, under the record's revision.
        assert_eq!(world.record(key).await.unwrap().0, before_the_kill);
        let fetched = aws.seen(|head| head.downloads_from(&world.source));
        assert!(fetched.is_empty(), "{fetched:?}");
    }
    second.stop().await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_worker_killed_before_any_step_leaves_what_another_finishes() {
    tokio::join!(killed(Before::Fetch), killed(Before::Record), killed(Before::Index), killed(Before::Delete));
}

/// S3 has the record, the worker does not know: its next try meets its own write, which is not finished work.
#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_record_whose_reply_is_lost_is_indexed_all_the_same() {
    let world = World::new().await;
    let relay = world.aws_relay();
    let results = format!("/{}/processed/", world.results);
    let lost = std::sync::atomic::AtomicBool::new(false);
    let is_record = move |head: &Head| head.method == "PUT" && head.path.starts_with(&results);
    relay.rule(move |head| {
        let first = is_record(head) && !lost.swap(true, std::sync::atomic::Ordering::SeqCst);
        if first { Fate::LoseReply } else { Fate::Pass }
    });
    let mut worker: Worker = world.launch().set("AWS_ENDPOINT_URL", relay.url()).start().await;
    let files = text_files(1);
    world.put_all(&files).await;
    let settled = worker.settled(1).await.remove(0);
    let seen = ["outcome", "settlement", "index"].map(|field| settled[field].as_str().unwrap());
    assert_eq!(seen, ["done", "deleted", "indexed"], "{settled}");
    let puts = relay.seen(|head| head.method == "PUT" && head.path.contains("/processed/"));
    assert_eq!(puts.len(), 2, "the PUT, and its retry: {puts:?}");
    nothing_is_lost(&world, &files).await;
    worker.stop().await;
}
