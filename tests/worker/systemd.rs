//! What systemd hears of a worker: a real notify socket, the real binary (P16, design §4).

use rustix::process::Signal;
use serde_json::Value;

use crate::notify::Systemd;
use crate::process::Worker;
use crate::waiting::{LONG, eventually};
use crate::world::World;

async fn reloaded(systemd: &mut Systemd, worker: &Worker, text: &str) -> Value {
    let before = (worker.facts("reloaded").len(), worker.facts("reload_failed").len(), systemd.times("READY=1"));
    std::fs::write(systemd.file(), text).unwrap();
    worker.signal(Signal::HUP);
    systemd.until("READY=1", before.2 + 1).await;
    eventually("a line of the reload", LONG, async || {
        let (good, bad) = (worker.facts("reloaded"), worker.facts("reload_failed"));
        let new = good.into_iter().skip(before.0).chain(bad.into_iter().skip(before.1)).next();
        new.ok_or("nothing")
    })
    .await
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn systemd_hears_ready_status_and_the_watchdog_and_a_sighup_changes_level_and_limits() {
    let world = World::silent().await;
    let mut systemd = Systemd::new();
    std::fs::write(systemd.file(), "WORKER_CONCURRENCY=12\n").unwrap();
    let launch = systemd.over(world.launch());
    let mut worker = launch.start().await;
    assert_eq!(worker.fact("ready").await["concurrency"], 12, "read at start, over the variable");
    systemd.until("READY=1", 1).await;
    systemd.until("WATCHDOG=1", 3).await;
    systemd.until("STATUS=0 in flight; 0 deleted", 1).await;

    let told =
        reloaded(&mut systemd, &worker, "WORKER_CONCURRENCY=3\nMAX_ATTEMPTS=2\nDRAIN_TIMEOUT=7\nLOG_LEVEL=warn\n")
            .await;
    let seen = ["concurrency", "max_attempts", "drain_seconds"].map(|name| told[name].as_u64().unwrap());
    assert_eq!((seen, &told["event"]), ([3, 2, 7], &"reloaded".into()), "{told}");
    assert_eq!((systemd.times("RELOADING=1"), systemd.times("MONOTONIC_USEC=")), (1, 1));
    // Nothing but warnings from here on: the message is settled without a line.
    let received = worker.facts("message_received").len();
    world.send("no event").await;
    world.dead_letters(1).await;
    world.emptied().await;
    assert_eq!(worker.facts("message_received").len(), received, "the level holds");

    for (text, words) in [
        ("WORKER_CONCURRENCY=many\n", "WORKER_CONCURRENCY"),
        ("OPENSEARCH_PASSWORD=hunter2\n", "OPENSEARCH_PASSWORD"),
        ("RETRY_BASE_SECONDS=900\nRETRY_MAX_SECONDS=1\n", "RETRY_MAX_SECONDS"),
    ] {
        let told = reloaded(&mut systemd, &worker, text).await;
        assert_eq!(told["event"], "reload_failed", "{told}");
        let detail = told["detail"].as_str().unwrap();
        assert!(detail.contains(words) && !detail.contains("hunter2"), "{told}");
    }
    let told = reloaded(&mut systemd, &worker, "WORKER_CONCURRENCY=500\n").await;
    assert_eq!(told["concurrency"], 12, "what it was started with is the most");
    assert!(told["detail"].as_str().unwrap().contains("a restart"), "{told}");

    worker.signal(Signal::TERM);
    assert_eq!(worker.exited(LONG).await, 0);
    systemd.until("STOPPING=1", 1).await;
    assert_eq!(worker.fact("stopping").await["drain_seconds"], 30, "the default again: the file no longer says it");
}

/// A file that is wrong when it starts is a mistake like any other.
#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_reload_file_that_is_wrong_at_start_exits_78_and_a_worker_without_systemd_tells_nobody() {
    let world = World::silent().await;
    let systemd = Systemd::new();
    std::fs::write(systemd.file(), "S3_BUCKET=other\n").unwrap();
    let output = systemd.over(world.launch()).run(&["run"]);
    assert_eq!(output.code, 78, "{output:?}");
    assert!(output.stderr.contains("RELOAD_FILE (--reload-file)") && output.stderr.contains("S3_BUCKET"), "{output:?}");
    let mut worker = world.launch().start().await;
    worker.signal(Signal::HUP);
    assert!(worker.fact("reloaded").await["detail"].as_str().unwrap().contains("RELOAD_FILE is not set"));
    worker.stop().await;
}

/// H7: the journal stands still, and so does the pipe. Work goes on, and leases are kept.
#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn h7_a_log_that_nobody_reads_holds_up_no_work() {
    let world = World::silent().await;
    let mut child = world.launch().set("LOG_LEVEL", "info").spawn_unread();
    // Two lines each, of 250 bytes or more: far beyond what a pipe holds (64 KiB).
    let messages: Vec<String> =
        (0..600).map(|_| r#"{"Service":"Amazon S3","Event":"s3:TestEvent"}"#.to_owned()).collect();
    world.send_all(&messages).await;
    world.emptied().await;
    let mut stderr = child.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stderr, &mut text).map(|_| text)
    });
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let text = reader.join().unwrap().unwrap();
    let books = text.lines().rfind(|line| line.contains("\"event\":\"books\"")).expect("the last books");
    let books: Value = serde_json::from_str(books).unwrap();
    assert_eq!((&books["final"], &books["skipped"], &books["lease_lost"]), (&true.into(), &600.into(), &0.into()));
    let settled = text.lines().filter(|line| line.contains("message_settled")).count();
    assert_eq!(settled, 600, "the queue holds far more than this");
}
