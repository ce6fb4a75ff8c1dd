//! P7 on the wall's clock: the settler and its heartbeats have a thread of their own, so that work which starves the
//! main runtime loses no lease (catalogue P17). The only file here that waits for real time: a paused clock has one thread.

use std::time::Duration;

use quittance::pipeline::Seat;

use crate::sim::reader::Act;
use crate::sim::{Setup, Site, history};

/// Threads of the main runtime, all of them blocked.
const THREADS: usize = 2;
const LEASE: Duration = Duration::from_secs(3);
const BLOCKED: Duration = Duration::from_secs(5);

/// Deliveries and lost leases of files whose reading blocks every thread of the main runtime.
fn starve(seat: Seat) -> (u32, u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build().unwrap();
    runtime.block_on(async {
        let site = Site::new(1);
        let keys: Vec<String> = (0..THREADS).map(|n| format!("{n}.txt")).collect();
        for key in &keys {
            site.reader.plan(key, [Act::Blocks(BLOCKED), Act::Reads]);
            site.world.upload(key, format!("text of {key}"), 1);
        }
        let worker = site.start("w", &Setup { visibility: LEASE, replay: false, seat, ..Setup::default() });
        site.until_empty().await;
        let line = worker.stop().await;
        assert_eq!(line.done, THREADS as u64, "{line:?}");
        assert_eq!(history::in_step(&site.world, &keys.iter().map(String::as_str).collect::<Vec<_>>()), Ok(()));
        (history::receives(&site.world.queue).into_values().sum(), line.lease_lost)
    })
}

#[test]
fn a_starved_main_runtime_loses_no_lease_for_the_settler_has_a_thread_of_its_own() {
    assert_eq!(starve(Seat::OwnThread), (2, 0));
    // On the one runtime it would be lost: this test can fail.
    let (receives, lost) = starve(Seat::Here);
    assert!(receives > 2 && lost > 0, "{receives} receives, {lost} leases lost");
}
