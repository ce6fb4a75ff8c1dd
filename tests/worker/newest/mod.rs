//! Newest wins (P8) on the real services, as histories: some keys are written, overwritten and removed, and their events
//! come in any order, twice, and late, with sequencers of every length, with one for all, or with none, to two workers whose
//! calls and replies are held back, lost and refused on their way. In every second history all records are lost half-way.
//!
//! In the end everything must be what the bucket is (`converged.rs`), and late replays of old events must change nothing.
//! Where records were lost, this holds of every file of which something was told since (revisions grow with time), and of
//! the others after an operator's `redrive reconcile --repair`. The model does thousands of these, and
//! crashes besides (`tests/promises/newest_wins.rs`); here it is the stores' own conditional writes and versions that count.
//!
//! A seed decides a history (not the order in which the services happen to answer). `QUITTANCE_HISTORIES=200` runs so many,
//! `QUITTANCE_SEED=17` begins with that one.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::converged::{Records, differences, in_step, quiet};
use crate::process::Worker;
use crate::relay::Relay;
use crate::search::Search;
use crate::stories::{Story, side_by_side, story};
use crate::world::World;

use telling::{TELLINGS, Telling};

mod telling;
mod unruly;

const HISTORIES: u64 = 8;
/// At a time: two workers each.
const TOGETHER: usize = 8;
const KEYS: [&str; 5] = ["a.txt", "b.txt", "dir/c d.txt", "日本/え.txt", "e+f.txt"];

/// Two workers, each with a proxy of its own before S3 and OpenSearch.
struct Pair {
    workers: [Worker; 2],
    relays: Vec<Relay>,
}

impl Pair {
    async fn start(world: &World, rng: &mut fastrand::Rng) -> Self {
        let mut relays = Vec::new();
        let mut launches = Vec::new();
        for _ in 0..2 {
            let (s3, search) = (world.aws_relay(), Relay::before(&world.search.endpoint));
            unruly::s3(&s3, rng.u64(..), world);
            unruly::search(&search, rng.u64(..));
            let launch = world.launch().set("AWS_ENDPOINT_URL_S3", s3.url()).set("OPENSEARCH_ENDPOINT", search.url());
            // A file that was gone before anybody looked is nobody's any more; its removal is told as well.
            let launch = launch.set("ON_MISSING_OBJECT", "drop").set("MAX_ATTEMPTS", 4).set("EXTRACTORS", 1);
            launches.push(launch.set("RETRY_BASE_SECONDS", 1).set("RETRY_MAX_SECONDS", 2));
            relays.extend([s3, search]);
        }
        let (one, two) = tokio::join!(launches[0].start(), launches[1].start());
        Self { workers: [one, two], relays }
    }

    fn heal(&self) {
        self.relays.iter().for_each(Relay::release);
    }

    async fn stop(mut self) {
        let mut done = 0;
        for worker in &mut self.workers {
            let books = worker.stop().await;
            assert_eq!((books.of("documents_failed"), books.of("dead_lettered")), (0, 0), "{}", books.0);
            done += books.of("done");
        }
        assert!(done > 0, "nothing was ever done");
    }
}

/// When all records are lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Loss {
    Never,
    /// While nothing is in hand.
    InAQuietMoment,
    /// While records are being written. One that was read before, written after, and never told of again may then be an
    /// old one until somebody reconciles.
    InTheMidst,
}

async fn history(seed: u64, telling: Telling, loss: Loss, index: String) {
    let world = World::sharing(&Search::borrowed(&index)).await;
    let mut rng = fastrand::Rng::with_seed(seed);
    let pair = Pair::start(&world, &mut rng).await;
    let mut there = BTreeSet::new();
    // Told by S3, and not come yet; those that came may come again.
    let (mut pending, mut came): (Vec<Told>, Vec<Told>) = (Vec::new(), Vec::new());
    let mut since_the_loss = BTreeSet::new();
    let turns = rng.u64(14..22);
    for turn in 1..=turns {
        let key: &'static str = KEYS[rng.usize(0..KEYS.len())];
        let removed = there.contains(key) && rng.u8(0..3) == 0;
        if removed {
            world.remove(key).await;
            there.remove(key);
        } else {
            // Few texts, so that a key often has the state that it had before.
            world.put(key, format!("The text is {}.", ["heron", "stork", "crane"][rng.usize(0..3)])).await;
            there.insert(key);
        }
        pending.push((key, telling.body(&world.source, key, removed, turn, &mut rng)));
        if rng.u8(0..4) == 0 {
            pending.push(pending[pending.len() - 1].clone());
        }
        while !pending.is_empty() && rng.u8(0..3) > 0 {
            let told = pending.swap_remove(rng.usize(0..pending.len()));
            world.send(&told.1).await;
            since_the_loss.insert(told.0);
            came.push(told);
        }
        if !came.is_empty() && rng.u8(0..4) == 0 {
            let (key, again) = &came[rng.usize(0..came.len())];
            world.send(again).await;
            since_the_loss.insert(*key);
        }
        if turn == turns / 2 && loss != Loss::Never {
            lose_records(&world, loss).await;
            since_the_loss.clear();
        }
        // Some changes come in bursts.
        tokio::time::sleep(Duration::from_millis([0, rng.u64(0..800)][rng.usize(0..2)])).await;
    }
    rng.shuffle(&mut pending);
    send_all(&world, &pending).await;
    since_the_loss.extend(pending.iter().map(|(key, _)| *key));
    came.extend(pending);
    pair.heal();
    quiet(&world).await;
    let records = match loss {
        Loss::Never => Records::Kept,
        Loss::InAQuietMoment => {
            let found = differences(&world, Records::Lost).await;
            for key in since_the_loss.intersection(&there) {
                let of_it: Vec<_> = found.iter().filter(|one| one.starts_with(&format!("{key}: "))).collect();
                assert!(of_it.is_empty(), "told of since the records were lost: {of_it:?}");
            }
            repair(&world).await;
            Records::Lost
        }
        Loss::InTheMidst => {
            repair(&world).await;
            Records::Lost
        }
    };
    in_step(&world, records).await;

    // Old news, once more and all at once.
    rng.shuffle(&mut came);
    came.truncate(8);
    send_all(&world, &came).await;
    quiet(&world).await;
    in_step(&world, records).await;
    pair.stop().await;
}

/// Its key, and the body that tells of it.
type Told = (&'static str, String);

async fn send_all(world: &World, told: &[Told]) {
    let bodies: Vec<String> = told.iter().map(|(_, body)| body.clone()).collect();
    world.send_all(&bodies).await;
}

async fn lose_records(world: &World, loss: Loss) {
    if loss == Loss::InAQuietMoment {
        world.emptied().await;
    }
    for key in world.results_under("processed/").await {
        world.s3.delete_object().bucket(&world.results).key(key).send().await.unwrap();
    }
}

/// What an operator does who has lost records: reconcile until nothing is found, and send back what the replay gave up
/// because its record was gone.
async fn repair(world: &World) {
    for _ in 0..3 {
        world.search.keys().await; // refreshes the index: until then a look at it is a moment old
        let launch = world.launch();
        let run = move || launch.redrive(&["reconcile", "--min-age", "0", "--repair", "--json"]);
        let output = tokio::task::spawn_blocking(run).await.unwrap();
        assert_eq!(output.code, 0, "{output:?}");
        let last: Value = serde_json::from_str(output.stdout.lines().last().unwrap()).unwrap();
        let found = ["missing", "stale", "orphaned"].map(|kind| last["report"][kind].as_u64().unwrap());
        quiet(world).await;
        if found == [0, 0, 0] {
            let launch = world.launch();
            let reset = move || launch.redrive(&["parked", "--errored", "--reset"]);
            assert_eq!(tokio::task::spawn_blocking(reset).await.unwrap().code, 0);
            quiet(world).await;
            return;
        }
    }
    panic!("reconcile does not come to an end");
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn histories_of_two_workers_on_the_real_services_end_with_what_the_bucket_holds() {
    let owner = World::silent().await;
    let (first, histories) = (number("QUITTANCE_SEED", 0), number("QUITTANCE_HISTORIES", HISTORIES));
    eprintln!("histories {first} to {}", first + histories - 1);
    let of = |seed: u64| -> Story {
        let telling = TELLINGS[(seed % TELLINGS.len() as u64) as usize];
        let loss = match (seed / TELLINGS.len() as u64) % 4 {
            1 => Loss::InAQuietMoment,
            3 => Loss::InTheMidst,
            _ => Loss::Never,
        };
        let name = format!("QUITTANCE_SEED={seed} QUITTANCE_HISTORIES=1 ({telling:?}, records lost {loss:?})");
        story(name, history(seed, telling, loss, owner.search.alias.clone()))
    };
    side_by_side(TOGETHER, (first..first + histories).map(of)).await;
}
