//! `redrive purge-tombstones`: index entry, markers, record, in this order; and a file that comes back survives.

use std::sync::Arc;
use std::time::Duration;

use quittance::index::catalogue::Catalogue;
use quittance::index::park::Marker;
use quittance::message::MessageId;
use quittance::process::record::Standing;
use quittance::store::{Condition, DeleteReply, Shelves, Store as _, StoreError};
use quittance::upkeep::Ended;
use quittance::upkeep::purge::{Purge, Report, Tally};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::meddler::{Meddler, Side};
use super::{DAY, Ears, HOUR, SECOND, in_step, long_after, reconcile, setup, standing, work_off};
use crate::sim::worker::namespace;
use crate::sim::{
    RESULTS, Rule, SOURCE, SearchAsk, Setup, Site, StoreAsk, Verb, World, document_id, record_key, until,
};

const AGE: Duration = Duration::from_secs(45 * 86_400);

fn purge(world: &World, store: Arc<dyn Shelves>, catalogue: Arc<dyn Catalogue>) -> Purge {
    Purge {
        store,
        catalogue,
        namespace: namespace(),
        results_bucket: RESULTS.into(),
        older_than: AGE,
        dry_run: false,
        clock: Arc::new(world.clock.clone()),
        stop: CancellationToken::new(),
    }
}

fn of(world: &World) -> Purge {
    purge(world, Arc::new(world.store.seen_by("redrive")), Arc::new(world.search.seen_by("redrive")))
}

/// `old` was removed long ago, and a marker of its tombstone lies about in both places; `live` never was; `young`
/// lately.
async fn prepare(site: &Site) {
    let world = &site.world;
    for key in ["old", "live", "young"] {
        world.upload(key, format!("text of {key}"), 1);
    }
    world.remove("old", 2);
    work_off(site).await;
    sleep(AGE - 10 * DAY).await;
    world.remove("young", 2);
    work_off(site).await;
    sleep(20 * DAY).await;
}

fn marker(world: &World, lot: &str, key: &str, revision: u64) -> String {
    let place = format!("{lot}/2026-11-22/default/{}/{revision:020}.json", document_id(key));
    let marker = Marker {
        v: 1,
        document_id: document_id(key),
        bucket: SOURCE.into(),
        key: key.into(),
        revision,
        reason: "a test".into(),
        failed_at: "2026-11-22T00:00:00.000Z".into(),
    };
    world.store.put_object(RESULTS, &place, serde_json::to_vec(&marker).unwrap());
    place
}

#[tokio::test(start_paused = true)]
async fn an_old_tombstone_is_forgotten_in_this_order_and_nothing_else_is() {
    let site = Site::new(1);
    let world = &site.world;
    prepare(&site).await;
    let revision = standing(world, "old").unwrap().revision;
    let gone = [marker(world, "retry-index", "old", revision), marker(world, "errored-index", "old", revision - 7)];
    let kept = [marker(world, "retry-index", "old", revision + 1), marker(world, "errored-index", "live", 1)];
    let dry = Purge { dry_run: true, ..of(world) }.run(&mut Ears::default()).await;
    assert_eq!((dry.tally.tombstones, dry.tally.purged), (1, 0));
    assert!(standing(world, "old").is_some() && world.search.document(&document_id("old")).is_some());

    let report = of(world).run(&mut Ears::default()).await;
    let expected = Tally { records: 3, tombstones: 1, purged: 1, markers: 2, ..Tally::default() };
    assert_eq!((report.tally, report.ended), (expected, Ended::Complete));
    assert!(standing(world, "old").is_none() && world.search.document(&document_id("old")).is_none());
    assert!(gone.iter().all(|key| world.store.object(RESULTS, key).is_none()));
    assert!(kept.iter().all(|key| world.store.object(RESULTS, key).is_some()));
    for key in ["live", "young"] {
        assert!(standing(world, key).is_some() && world.search.document(&document_id(key)).is_some(), "{key}");
    }
    // The order, by the services' own memory.
    let removal = world.search.calls().into_iter().find(|call| matches!(call.ask, SearchAsk::Remove(_))).unwrap();
    let calls = world.store.calls();
    let markers = calls.iter().filter(|call| *call.who == *"redrive" && matches!(call.ask, StoreAsk::Delete { .. }));
    let record = calls.iter().find(|call| matches!(call.ask, StoreAsk::DeleteIfMatch { .. })).unwrap();
    let order = |call: Option<u64>| call.unwrap();
    let answered = order(removal.answered.map(|(stamp, _)| stamp.order));
    let markers: Vec<u64> = markers.map(|call| call.asked.order).collect();
    assert!(markers.len() == 2 && markers.iter().all(|asked| answered < *asked && *asked < record.asked.order));
}

/// At each moment between two steps, with the index there and with `SKIP_OPENSEARCH`.
#[tokio::test(start_paused = true)]
async fn a_file_that_comes_back_meanwhile_survives_at_every_step() {
    for search in [true, false] {
        for side in [Side::Before, Side::After] {
            let mut meddled = 0;
            for number in 0.. {
                let site = Site::new(number as u64);
                let world = &site.world;
                prepare(&site).await;
                marker(world, "retry-index", "old", standing(world, "old").unwrap().revision);
                let (ports, reached, let_go) = Meddler::new(world, (number, side));
                let ports = Arc::new(ports);
                let run = purge(world, ports.clone(), ports);
                let mut ears = Ears::default();
                let mut run = Box::pin(run.run(&mut ears));
                let place = format!("{side:?} call {number}, index: {search}");
                tokio::select! {
                    biased;
                    report = &mut run => {
                        // It has ended before: that was every call.
                        assert_eq!(report.tally.purged, 1, "{place}");
                        break;
                    }
                    reached = reached => reached.unwrap(),
                }
                meddled += 1;
                world.upload("old", "it came back", 3);
                site.drain_as("fresh", &Setup { search, replay: false, ..setup() }).await;
                let back = standing(world, "old").unwrap();
                let_go.send(()).unwrap();
                let report = run.await;
                assert_eq!(report.ended, Ended::Complete, "{place}");
                assert_eq!(standing(world, "old"), Some(back), "{place}: the record stays");
                work_off(&site).await;
                assert_eq!(in_step(world, "old"), Ok(()), "{place}");
                long_after().await;
                let mut ears = Ears::default();
                reconcile(world, false).run(None, &mut ears).await;
                assert_eq!(ears.found, [], "{place}");
            }
            assert!(meddled >= 7, "{meddled}: list, three reads, index, two lists, marker, record");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_call_and_run_again_it_ends_as_one_clean_run() {
    for side in [Side::Before, Side::After] {
        for number in 0.. {
            let site = Site::new(number as u64);
            let world = &site.world;
            prepare(&site).await;
            let left = marker(world, "retry-index", "old", standing(world, "old").unwrap().revision);
            let (ports, reached, let_go) = Meddler::new(world, (number, side));
            let ports = Arc::new(ports);
            let run = purge(world, ports.clone(), ports);
            let mut ears = Ears::default();
            let mut run = Box::pin(run.run(&mut ears));
            tokio::select! {
                biased;
                _ = &mut run => break,
                reached = reached => reached.unwrap(),
            }
            drop((run, let_go)); // it never goes on
            let again = of(world).run(&mut Ears::default()).await;
            let place = format!("{side:?} call {number}");
            assert_eq!(again.ended, Ended::Complete, "{place}");
            let known = [world.search.document(&document_id("old")).is_some(), standing(world, "old").is_some()];
            assert_eq!(known, [false, false], "{place}");
            assert!(world.store.object(RESULTS, &left).is_none(), "{place}");
            assert_eq!(in_step(world, "live"), Ok(()), "{place}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn where_the_store_has_no_conditional_delete_the_record_stays_and_that_is_told() {
    let site = Site::new(3);
    let world = &site.world;
    prepare(&site).await;
    world.store.faults(|faults| faults.no_conditional_delete = true);
    for _ in 0..2 {
        let Report { tally, ended, unsupported } = of(world).run(&mut Ears::default()).await;
        assert_eq!((tally.tombstones, tally.purged, tally.records_left, ended), (1, 0, 1, Ended::Complete));
        assert!(unsupported.is_some());
        assert!(standing(world, "old").is_some() && world.search.document(&document_id("old")).is_none());
    }
    let mut ears = Ears::default();
    reconcile(world, true).run(None, &mut ears).await;
    assert_eq!(ears.found, [], "a tombstone without a document is in step");
}

#[tokio::test(start_paused = true)]
async fn a_purge_is_stopped_between_two_records_and_the_next_one_ends_it() {
    let site = Site::new(7);
    let world = &site.world;
    let keys: Vec<String> = (0..60).map(|n| format!("{n}")).collect();
    keys.iter().for_each(|key| drop(world.upload(key, "text", 1)));
    work_off(&site).await;
    keys.iter().for_each(|key| drop(world.remove(key, 2)));
    work_off(&site).await;
    sleep(AGE + DAY).await;
    world.store.faults(|faults| faults.delete.latency = (SECOND / 2, SECOND / 2));
    let run = of(world);
    let stop = run.stop.clone();
    let told = async {
        until("some are gone", HOUR, || world.store.keys(RESULTS, "processed/").len() < 50).await;
        stop.cancel();
        Instant::now()
    };
    let mut ears = Ears::default();
    let (report, told) = tokio::join!(run.run(&mut ears), told);
    assert!(told.elapsed() < 3 * SECOND, "{:?} after it was told", told.elapsed());
    assert_eq!(report.ended, Ended::Interrupted);
    world.store.heal();
    assert_eq!(of(world).run(&mut Ears::default()).await.ended, Ended::Complete);
    assert!(world.store.none(RESULTS, "processed/") && world.search.documents().is_empty());
}

/// What an old event finds afterwards is what it would have found before there was a record.
#[tokio::test(start_paused = true)]
async fn a_file_that_is_put_after_a_purge_starts_above_what_was_forgotten() {
    let site = Site::new(4);
    let world = &site.world;
    prepare(&site).await;
    let before = standing(world, "old").unwrap().revision;
    of(world).run(&mut Ears::default()).await;
    world.upload("old", "anew", 9);
    work_off(&site).await;
    assert!(standing(world, "old").unwrap().revision > before);
    assert_eq!(in_step(world, "old"), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_record_whose_metadata_and_body_disagree_is_no_tombstone() {
    let site = Site::new(5);
    let world = &site.world;
    prepare(&site).await;
    // Metadata gone (copied by hand): it looks like a tombstone to a HEAD.
    let body = world.store.object(RESULTS, &record_key("live")).unwrap().body;
    world.store.put_object(RESULTS, &record_key("live"), body);
    sleep(60 * DAY).await;
    let report = of(world).run(&mut Ears::default()).await;
    assert_eq!(report.tally.tombstones, 2, "old and, by now, young");
    assert!(world.store.object(RESULTS, &record_key("live")).is_some());
    assert!(world.search.document(&document_id("live")).is_some());
}

/// The index knows better than the record (which was put back, say): nothing goes until reconcile has seen to it.
#[tokio::test(start_paused = true)]
async fn a_tombstone_that_the_index_is_ahead_of_stays_with_its_markers() {
    let site = Site::new(8);
    let world = &site.world;
    prepare(&site).await;
    let revision = standing(world, "old").unwrap().revision;
    let left = marker(world, "retry-index", "old", revision);
    world.search.forge(|_, documents| documents.get_mut(&document_id("old")).unwrap().revision += 5);
    let tally = of(world).run(&mut Ears::default()).await.tally;
    assert_eq!((tally.tombstones, tally.purged, tally.came_back), (1, 0, 1));
    assert!(standing(world, "old").is_some() && world.search.document(&document_id("old")).is_some());
    assert!(world.store.object(RESULTS, &left).is_some());
    // Nor does a body that says tombstone where the metadata names a source.
    world.search.forge(|_, documents| documents.get_mut(&document_id("old")).unwrap().revision -= 5);
    let body = world.store.object(RESULTS, &record_key("old")).unwrap().body;
    let metadata = Standing::metadata(revision, None, Some("an etag"), &MessageId("m".into()));
    world.store.put(RESULTS, &record_key("old"), body, &metadata, Condition::None).await.unwrap();
    sleep(AGE + DAY).await;
    let tally = of(world).run(&mut Ears::default()).await.tally;
    assert_eq!((tally.tombstones, standing(world, "old").is_some()), (1, true), "young alone, by now");
}

#[tokio::test(start_paused = true)]
async fn a_sick_index_or_store_ends_the_run_before_any_record_goes() {
    let site = Site::new(6);
    let world = &site.world;
    prepare(&site).await;
    world.search.faults(|faults| faults.catalogue.down = true);
    let report = of(world).run(&mut Ears::default()).await;
    assert!(matches!(report.ended, Ended::Sick(_)) && standing(world, "old").is_some(), "{report:?}");
    world.search.faults(|faults| faults.catalogue.down = false);
    let error = StoreError::Unavailable("503".into());
    let lists =
        Rule { bucket: RESULTS.into(), prefix: "retry-index/".into(), verb: Some(Verb::List), error, times: None };
    world.store.inject(lists);
    let report = of(world).run(&mut Ears::default()).await;
    assert!(matches!(report.ended, Ended::Sick(_)) && standing(world, "old").is_some(), "{report:?}");
    world.store.heal();
    assert_eq!(of(world).run(&mut Ears::default()).await.tally.purged, 1);
    let again = world.store.delete_if_match(RESULTS, &record_key("old"), "etag").await;
    assert_eq!(again, Ok(DeleteReply::Deleted), "gone is gone");
    until("quiet", HOUR, || world.store.none(RESULTS, "retry-index/")).await;
    world.store.put_object(SOURCE, "unused", "");
}
