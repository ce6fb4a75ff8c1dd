//! `worker migrate-index`: the next index takes the place of the old one while workers go on, and nothing is missing.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use quittance::index::bulk::Lane;
use quittance::index::catalogue::{Catalogue, Entry, Held, Owner, Removal, Stretch};
use quittance::index::succession::{Begun, Progress, Succession, SuccessionError};
use quittance::index::{IndexItem, ItemAnswer, Search, SearchError};
use quittance::message::{DocumentId, Namespace};
use quittance::retry::Jitter;
use quittance::store::{Shelves, StoreError};
use quittance::upkeep::migrate::{End, MARGIN, Memory, Migrate, Phase, Report, Sink, Way};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::meddler::{Meddler, Side};
use super::{Ears, HOUR, SECOND, in_step, setup, standing, work_off};
use crate::sim::worker::namespace;
use crate::sim::{
    ModelSearch, RESULTS, Rule, Setup, Site, StoreAsk, Verb, World, document_id, for_seeds, record_key, until,
};

impl Sink for Ears {
    fn unclear(&mut self, name: &str, why: &str) {
        self.unclear.push(format!("{name}: {why}"));
    }

    fn progress(&mut self, _: Phase, _: &Report) {
        self.page();
    }
}

/// One of the two indices, behind somebody who may stop any call.
struct Door {
    meddler: Arc<Meddler>,
    port: ModelSearch,
}

#[async_trait]
impl Search for Door {
    async fn bulk(&self, items: &[IndexItem]) -> Result<Vec<ItemAnswer>, SearchError> {
        self.meddler.pass(self.port.bulk(items)).await
    }
    async fn probe(&self) -> Result<(), SearchError> {
        self.port.probe().await
    }
    fn request_timeout(&self) -> Duration {
        // Whoever stops a call is not to be taken for an outage.
        24 * HOUR
    }
}

#[async_trait]
impl Catalogue for Door {
    async fn entries(&self, stretch: &Stretch, limit: usize) -> Result<Vec<Entry>, SearchError> {
        self.meddler.pass(self.port.entries(stretch, limit)).await
    }
    async fn owners(&self) -> Result<Vec<Owner>, SearchError> {
        self.meddler.pass(self.port.owners()).await
    }
    async fn shows(&self, id: &DocumentId) -> Result<bool, SearchError> {
        self.meddler.pass(self.port.shows(id)).await
    }
    async fn held(&self, ids: &[DocumentId]) -> Result<Vec<Option<Held>>, SearchError> {
        self.meddler.pass(self.port.held(ids)).await
    }
    async fn remove(&self, documents: &[(DocumentId, u64)]) -> Result<Vec<Removal>, SearchError> {
        self.meddler.pass(self.port.remove(documents)).await
    }
}

#[async_trait]
impl Succession for Door {
    async fn begin(&self, anew: bool) -> Result<Begun, SuccessionError> {
        self.meddler.pass(self.port.begin(anew)).await
    }
    async fn note(&self, new: &str, progress: &Progress) -> Result<(), SearchError> {
        self.meddler.pass(self.port.note(new, progress)).await
    }
    async fn take_over(&self, old: &str, new: &str) -> Result<(), SuccessionError> {
        self.meddler.pass(self.port.take_over(old, new)).await
    }
}

fn way<P: Search + Catalogue>(port: P) -> Way {
    let port = Arc::new(port);
    let (lane, drive) = Lane::new(port.clone(), Arc::new(Jitter::seeded(7)));
    tokio::spawn(drive);
    Way { lane, catalogue: port }
}

fn put_together(world: &World, store: Arc<dyn Shelves>, succession: Arc<dyn Succession>, ways: [Way; 2]) -> Migrate {
    let [in_use, next] = ways;
    Migrate {
        store,
        results_bucket: RESULTS.into(),
        succession,
        in_use,
        next,
        clock: Arc::new(world.clock.clone()),
        anew: false,
        leave_behind: false,
        memory: Memory::default(),
        stop: CancellationToken::new(),
    }
}

/// As `start::migrate` puts it together.
fn migrate(world: &World) -> Migrate {
    let search = world.search.seen_by("migrate");
    let ways = [way(search.clone()), way(search.next())];
    put_together(world, Arc::new(world.store.seen_by("migrate")), Arc::new(search), ways)
}

/// The same, with somebody between it and all services.
fn meddled(world: &World, meddler: &Arc<Meddler>) -> Migrate {
    let search = world.search.seen_by("migrate");
    let door = |port: &ModelSearch| Door { meddler: Arc::clone(meddler), port: port.clone() };
    let ways = [way(door(&search)), way(door(&search.next()))];
    put_together(world, Arc::clone(meddler) as Arc<dyn Shelves>, Arc::new(door(&search)), ways)
}

async fn moves(world: &World) -> Report {
    let mut ears = Ears::default();
    let report = migrate(world).run(&mut ears).await;
    assert_eq!((&report.end, &ears.unclear), (&End::Moved, &Vec::new()), "{report:?}");
    report
}

fn all_in_step(world: &World, keys: &[&str]) {
    for key in keys {
        in_step(world, key).unwrap_or_else(|told| panic!("seed {}: {told}", world.seed));
    }
    let progress = world.search.progress().unwrap();
    assert!(progress.done && progress.pass.is_none(), "{progress:?}");
}

/// Records that a migration has read.
fn reads(world: &World) -> usize {
    let calls = world.store.calls().into_iter();
    calls.filter(|call| *call.who == *"migrate" && matches!(call.ask, StoreAsk::Get { .. })).count()
}

#[tokio::test(start_paused = true)]
async fn all_records_go_along_tombstones_too_and_the_old_index_stays() {
    let site = Site::new(1);
    let world = &site.world;
    for key in ["a", "日本.txt", "removed"] {
        world.upload(key, format!("text of {key}"), 1);
    }
    world.remove("removed", 2);
    work_off(&site).await;
    // Another scope of the same bucket, whose documents lie in the same index.
    let other = Namespace::parse("other").unwrap();
    let record = world.store.object(RESULTS, &record_key("a")).unwrap();
    let mut theirs: serde_json::Value = serde_json::from_slice(&record.body).unwrap();
    let their_id = DocumentId::of(&other, "source", "a");
    theirs["document_id"] = their_id.as_str().into();
    theirs["document"]["namespace"] = "other".into();
    let key = quittance::store::layout::record(&other, &their_id);
    world.store.put_object(RESULTS, &key, serde_json::to_vec(&theirs).unwrap());
    world.store.put_object(RESULTS, "processed/readme.txt", "not a record");
    let before = world.search.documents();

    let report = moves(world).await;
    assert_eq!((report.old.as_str(), report.new.as_str()), ("files-v1", "files-v2"));
    assert_eq!((report.tally.passes, report.tally.odd, world.search.index_in_use()), (3, 3, "files-v2".into()));
    all_in_step(world, &["a", "日本.txt", "removed"]);
    let removed = world.search.document(&document_id("removed")).unwrap();
    assert!(removed.source["deleted"] == true && removed.source["content"].is_null(), "{removed:?}");
    assert!(world.search.document(&their_id).is_some());
    assert_eq!(world.search.retired(), Some(before), "nothing is deleted");
    // No source file was asked for, and nothing was written but the index.
    for call in world.store.calls().into_iter().filter(|call| *call.who == *"migrate") {
        let records = matches!(&call.ask, StoreAsk::List { bucket, .. } | StoreAsk::Get { bucket, .. } | StoreAsk::Head { bucket, .. } if bucket == RESULTS);
        assert!(records, "{call:?}");
    }
    // And once more, to the next.
    assert_eq!(moves(world).await.new, "files-v3");
    all_in_step(world, &["a", "日本.txt", "removed"]);
}

#[tokio::test(start_paused = true)]
async fn a_pass_reads_what_was_recorded_since_the_one_before_and_no_more() {
    let site = Site::new(2);
    let world = &site.world;
    for n in 0..50 {
        world.upload(&format!("{n}"), "text", 1);
    }
    work_off(&site).await;
    sleep(2 * MARGIN).await;
    let (stop, mut ears) = (CancellationToken::new(), Ears::default());
    ears.stop_at = Some((2, stop.clone())); // in the second step: the first pass has been noted
    let first = Migrate { stop, ..migrate(world) }.run(&mut ears).await;
    assert_eq!((first.end, reads(world)), (End::Interrupted, 50));
    sleep(2 * MARGIN).await;
    world.upload("1", "new text", 2);
    world.upload("new", "text", 1);
    work_off(&site).await;
    moves(world).await;
    // In the second pass, and not again in the last: they are as they were.
    assert_eq!(reads(world), 50 + 2);
    all_in_step(world, &["0", "1", "49", "new"]);
}

/// Somebody writes at every moment between two steps of a migration, and it goes on; and it is killed at every moment,
/// after which another goes on.
#[tokio::test(start_paused = true)]
async fn at_every_step_files_may_change_and_the_migration_may_die() {
    for dies in [false, true] {
        for side in [Side::Before, Side::After] {
            let mut meddled_with = 0;
            for number in 0.. {
                let site = Site::new(number as u64);
                let world = &site.world;
                let keys = ["changed", "removed", "stays", "late", "came back"];
                for key in &keys {
                    if *key != "late" {
                        world.upload(key, format!("text of {key}"), 1);
                    }
                }
                world.remove("came back", 2);
                work_off(&site).await;
                sleep(2 * MARGIN).await;
                let (meddler, reached, let_go) = Meddler::new(world, (number, side));
                let meddler = Arc::new(meddler);
                let run = meddled(world, &meddler);
                let running = tokio::spawn(async move { run.run(&mut Ears::default()).await });
                // Not reached: it had ended before, and so has this test.
                let stopped =
                    tokio::select! { biased; stopped = reached => stopped.is_ok(), () = sleep(48 * HOUR) => false };
                if stopped {
                    meddled_with += 1;
                    world.upload("changed", "another text", 2);
                    world.upload("late", "text of late", 1);
                    world.upload("came back", "it is here again", 3);
                    world.remove("removed", 2);
                    work_off(&site).await;
                }
                if dies && stopped {
                    running.abort();
                    drop(running.await);
                    sleep(3 * MARGIN).await;
                    drop(let_go);
                    // It may have been done already.
                    if !world.search.progress().is_some_and(|progress| progress.done) {
                        moves(world).await;
                    }
                } else {
                    let _ = let_go.send(()); // it may have ended meanwhile
                    let report = running.await.unwrap();
                    assert_eq!(report.end, End::Moved, "{report:?}");
                }
                assert_eq!(world.search.index_in_use(), "files-v2");
                all_in_step(world, if stopped { &keys } else { &keys[..3] });
                if !stopped {
                    break;
                }
            }
            assert!(meddled_with >= 15, "{meddled_with} steps");
        }
    }
}

/// Workers index all the while; calls take their time, fail, and lose their replies; the migration dies and is begun again.
#[test]
fn beside_busy_workers_and_killed_again_and_again_nothing_is_missing_in_the_end() {
    for_seeds(0..25, |seed| async move {
        let site = Site::new(seed);
        let world = &site.world;
        let mut rng = fastrand::Rng::with_seed(seed);
        let keys: Vec<String> = (0..30).map(|n| format!("dir/{n}")).collect();
        let latency = (Duration::from_millis(1), Duration::from_millis(rng.u64(2..400)));
        let share = if seed % 4 == 0 { 0.0 } else { 0.03 };
        world.store.faults(|faults| {
            for verb in [Verb::Get, Verb::List, Verb::Put, Verb::Head] {
                (faults.of(verb).latency, faults.of(verb).fail_before) = (latency, share);
            }
        });
        world.search.faults(|faults| {
            for faults in [&mut faults.bulk, &mut faults.catalogue] {
                (faults.latency, faults.fail_before, faults.lose_reply) = (latency, share, share);
            }
            (faults.item_busy, faults.outlive_callers) = (share, true);
        });
        let mut turns = vec![0; keys.len()];
        let mut write = |rng: &mut fastrand::Rng| {
            let n = rng.usize(0..keys.len());
            turns[n] += 1;
            match rng.u8(0..4) {
                0 if turns[n] > 1 => drop(world.remove(&keys[n], turns[n])),
                _ => drop(world.upload(&keys[n], format!("text {} of {n}", turns[n]), turns[n])),
            }
        };
        (0..40).for_each(|_| write(&mut rng));
        let workers = [site.start("one", &setup()), site.start("two", &setup())];
        sleep(Duration::from_millis(rng.u64(0..5_000))).await;
        let mut lives = 0;
        while !world.search.progress().is_some_and(|progress| progress.done) {
            lives += 1;
            assert!(lives < 200, "it never ends");
            let run = migrate(world);
            let mut running = tokio::spawn(async move { run.run(&mut Ears::default()).await });
            // The first lives are short; then it may live for as long as it likes.
            let mut left = if lives < 12 { rng.u64(1..60) } else { u64::MAX };
            loop {
                tokio::select! {
                    biased;
                    ended = &mut running => {
                        let report = ended.unwrap();
                        assert!(matches!(report.end, End::Moved | End::Sick(_)), "{report:?}");
                        break;
                    }
                    () = sleep(Duration::from_millis(rng.u64(1..300))) => {}
                }
                if rng.u8(0..3) == 0 {
                    write(&mut rng);
                }
                left -= 1;
                if left == 0 {
                    running.abort();
                    drop(running.await);
                    break;
                }
            }
        }
        world.store.heal();
        world.search.faults(|faults| *faults = Default::default());
        site.until_empty().await;
        until("nothing is parked", HOUR, || world.store.none(RESULTS, "retry-index/")).await;
        for worker in workers {
            worker.stop().await;
        }
        assert_eq!(world.search.index_in_use(), "files-v2");
        let keys: Vec<&str> = keys.iter().map(String::as_str).filter(|key| standing(world, key).is_some()).collect();
        assert!(keys.len() > 10);
        all_in_step(world, &keys);
    });
}

#[tokio::test(start_paused = true)]
async fn what_searches_would_lose_stops_it_before_the_move_and_is_left_behind_only_when_told() {
    let site = Site::new(3);
    let world = &site.world;
    for key in ["fine", "refused", "refused before", "unreadable", "lost"] {
        world.upload(key, format!("text of {key}"), 1);
    }
    work_off(&site).await;
    // What the old index never took either is nobody's loss.
    let record = standing(world, "refused before").unwrap();
    let errored =
        quittance::store::layout::errored("2026-11-22", &namespace(), &document_id("refused before"), record.revision);
    world.store.put_object(RESULTS, &errored, "{}");
    world.search.faults(|faults| {
        for key in ["refused", "refused before"] {
            faults.refuse.insert(document_id(key), "400 mapper_parsing_exception".into());
        }
    });
    let error = StoreError::Denied("403".into());
    let denied =
        Rule { bucket: RESULTS.into(), prefix: record_key("unreadable"), verb: Some(Verb::Get), error, times: None };
    world.store.inject(denied);
    world.store.remove_object(RESULTS, &record_key("lost"));

    let mut ears = Ears::default();
    let report = migrate(world).run(&mut ears).await;
    assert_eq!((&report.end, report.code()), (&End::Blocked, 78), "{report:?}");
    let tally = &report.tally;
    assert_eq!((tally.brought, tally.errored, tally.refused, tally.unclear), (1, 1, 1, 1), "{report:?}");
    assert_eq!(world.search.index_in_use(), "files-v1");
    // The first is mended; what has no record is found next.
    world.store.heal();
    world.search.faults(|faults| drop(faults.refuse.remove(&document_id("refused"))));
    let mut ears = Ears::default();
    let report = migrate(world).run(&mut ears).await;
    assert_eq!((&report.end, report.tally.without_record), (&End::Blocked, 1), "{report:?}");
    assert!(ears.unclear[0].contains("s3://source/lost (default): it has no record"), "{:?}", ears.unclear);
    assert_eq!(world.search.index_in_use(), "files-v1");
    // Told to.
    world.search.faults(|faults| drop(faults.refuse.insert(document_id("refused"), "400 again".into())));
    let run = Migrate { leave_behind: true, ..migrate(world) };
    let report = run.run(&mut Ears::default()).await;
    assert_eq!((&report.end, report.code()), (&End::Moved, 0), "{report:?}");
    assert_eq!(world.search.index_in_use(), "files-v2");
    in_step(world, "fine").unwrap();
    in_step(world, "unreadable").unwrap();
    assert_eq!(world.search.document(&document_id("lost")), None);
    let revision = standing(world, "refused").unwrap().revision;
    let parked = quittance::store::layout::errored("2026-11-22", &namespace(), &document_id("refused"), revision);
    assert!(report.tally.left_behind == 0 || world.store.object(RESULTS, &parked).is_some(), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_waited_for_and_a_long_one_ends_the_run_where_another_goes_on() {
    let site = Site::new(4);
    let world = &site.world;
    for n in 0..20 {
        world.upload(&format!("{n}"), "text", 1);
    }
    work_off(&site).await;
    world.search.down_for(300 * SECOND);
    moves(world).await;
    all_in_step(world, &["0", "19"]);
    world.search.faults(|faults| faults.bulk.down = true);
    let report = migrate(world).run(&mut Ears::default()).await;
    assert!(matches!(&report.end, End::Sick(why) if why.starts_with("OpenSearch: ")), "{report:?}");
    assert_eq!((report.code(), world.search.index_in_use()), (75, "files-v2".into()));
    world.search.faults(|faults| faults.bulk.down = false);
    moves(world).await;
    assert_eq!(world.search.index_in_use(), "files-v3");
    all_in_step(world, &["0", "19"]);
}

#[tokio::test(start_paused = true)]
async fn two_that_migrate_at_once_end_with_one_next_index() {
    for_two(5).await;
    for_two(6).await;
}

async fn for_two(seed: u64) {
    let site = Site::new(seed);
    let world = &site.world;
    for n in 0..30 {
        world.upload(&format!("{n}"), "text", 1);
    }
    work_off(&site).await;
    let latency = (SECOND / 100, SECOND);
    world.search.faults(|faults| (faults.bulk.latency, faults.catalogue.latency) = (latency, latency));
    let (one, two) = (migrate(world), migrate(world));
    let (mut ears, mut more) = (Ears::default(), Ears::default());
    let both = tokio::join!(one.run(&mut ears), two.run(&mut more));
    // The slower one may find the alias of the next index gone.
    assert!(both.0.end == End::Moved || both.1.end == End::Moved, "{both:?}");
    if world.search.index_in_use() == "files-v2" && !world.search.progress().unwrap().done {
        moves(world).await;
    }
    all_in_step(world, &["0", "29"]);
    let _: Setup = setup();
}
