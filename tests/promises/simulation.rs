//! The simulation itself: a seed replays, a worker can stand still, and what the model can do to a message it does.

use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

use crate::sim::reader::Act;
use crate::sim::trial::{self, Want};
use crate::sim::{Setup, Site, StoreAsk, document_id, until};

const SECOND: Duration = Duration::from_secs(1);

/// Each on a thread of its own: what a thread remembers must not show either.
fn trace_of(seed: u64) -> Vec<String> {
    std::thread::spawn(move || trial::run(seed, Want::Trace).trace).join().unwrap()
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..50 {
        let (first, second) = (trace_of(seed), trace_of(seed));
        assert!(first.len() > 20, "seed {seed}: nothing happened");
        for (one, other) in first.iter().zip(&second) {
            assert_eq!(one, other, "seed {seed}");
        }
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
    assert_ne!(trace_of(1), trace_of(2));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_stands_still_past_its_lease_writes_nothing_after_it() {
    let site = Site::new(1);
    site.reader.plan("a.txt", [Act::Takes(5 * SECOND), Act::Reads]);
    site.world.upload("a.txt", "text", 1);
    let sleeper = site.start("sleeper", &Setup::default());
    sleep(2 * SECOND).await;
    sleeper.life.freeze();
    let asked = site.world.store.calls().len() + site.world.queue.calls().len();
    sleep(61 * SECOND).await;
    assert_eq!(site.world.store.calls().len() + site.world.queue.calls().len(), asked, "nothing of it runs");
    let other = site.start("other", &Setup::default());
    until("another one has done the work", 60 * SECOND, || site.world.search.document(&document_id("a.txt")).is_some())
        .await;
    site.until_empty().await;
    let before = site.world.store.calls().len();
    sleeper.life.thaw();
    sleep(SECOND).await;
    let after = site.world.store.calls().split_off(before);
    let late = after.iter().find(|call| *call.who == *"sleeper" && matches!(call.ask, StoreAsk::Put { .. }));
    assert!(late.is_none(), "{late:?}");
    assert_eq!(sleeper.stop().await.lease_lost, 1);
    other.stop().await;
}

/// A task that is not tied runs on while its worker stands still, and its lines are nobody's.
#[test]
fn every_task_of_the_pipeline_is_tied() {
    // The child's task, the thread of the settler's runtime and the operator's commands are no tasks of a simulation.
    let elsewhere = [
        "admin",
        "process/extract",
        "index/opensearch",
        "start.rs",
        "start/",
        "check",
        "tests.rs",
        "spawn.rs",
        "upkeep/command.rs",
        "redrive/command.rs",
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            if elsewhere.iter().any(|part| name.contains(part)) {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            for line in code.lines().filter(|line| line.contains("spawn(") && !line.contains("fn ")) {
                assert!(line.contains("spawn(tied(") || line.contains(".spawn(move ||"), "{name}: {line}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 10, "{seen}");
}
