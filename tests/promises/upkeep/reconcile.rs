//! `redrive reconcile`: every way to be out of step is found, and brought back on the normal road.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use quittance::index::park::Marker;
use quittance::store::layout;
use quittance::upkeep::Ended;
use quittance::upkeep::reconcile::Reconcile;
use quittance::upkeep::verdict::Finding;
use tokio::time::Instant;

use super::meddler::{Meddler, Side};
use super::{Ears, HOUR, MINUTE, SECOND, in_step, long_after, outbox, reconcile, resume, setup, standing, work_off};
use crate::sim::worker::namespace;
use crate::sim::{
    Faults, QueueAsk, RESULTS, SOURCE, Setup, Site, StoreAsk, World, document_id, for_seeds, record_key, until,
};

/// What was done to a file behind everybody's back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Damage {
    Nothing,
    New,
    Overwritten,
    Removed,
    CameBack,
    RecordLost,
    RecordAndFileLost,
    DocumentLost,
    DocumentOld,
    DocumentAhead,
    RemovalNotIndexed,
    FileAndDocumentLost,
    AllButTheFileLost,
}

use Damage::*;

const ALL: [Damage; 13] = [
    Nothing,
    New,
    Overwritten,
    Removed,
    CameBack,
    RecordLost,
    RecordAndFileLost,
    DocumentLost,
    DocumentOld,
    DocumentAhead,
    RemovalNotIndexed,
    FileAndDocumentLost,
    AllButTheFileLost,
];

impl Damage {
    fn finding(self) -> Option<Finding> {
        match self {
            Nothing => None,
            New | RecordLost | AllButTheFileLost => Some(Finding::MissingRecord),
            Overwritten | CameBack => Some(Finding::StaleRecord),
            Removed | FileAndDocumentLost => Some(Finding::OrphanedRecord),
            RecordAndFileLost => Some(Finding::OrphanedDocument),
            DocumentLost => Some(Finding::MissingDocument),
            DocumentOld | RemovalNotIndexed => Some(Finding::StaleDocument),
            DocumentAhead => Some(Finding::StrayDocument),
        }
    }

    /// Before: an upload whose event the workers see.
    fn prepare(self, world: &World, key: &str) {
        if self == New {
            return;
        }
        world.upload(key, format!("text of {key}"), 1);
        if matches!(self, CameBack | RemovalNotIndexed) {
            world.remove(key, 2);
        }
    }

    fn strike(self, world: &World, key: &str) {
        let (store, id) = (&world.store, document_id(key));
        let lose_document = || world.search.forge(|_, documents| drop(documents.remove(&id)));
        let shift = |by: i64, deleted: bool| {
            world.search.forge(|_, documents| {
                let held = documents.get_mut(&id).unwrap();
                held.revision = held.revision.checked_add_signed(by).unwrap();
                held.source["deleted"] = deleted.into();
            });
        };
        match self {
            Nothing => {}
            New | Overwritten | CameBack => drop(store.put_object(SOURCE, key, format!("new text of {key}"))),
            Removed => store.remove_object(SOURCE, key),
            RecordLost => store.remove_object(RESULTS, &record_key(key)),
            RecordAndFileLost => {
                store.remove_object(SOURCE, key);
                store.remove_object(RESULTS, &record_key(key));
            }
            DocumentLost => lose_document(),
            DocumentOld => shift(-5, false),
            DocumentAhead => shift(5, false),
            RemovalNotIndexed => shift(-1, false),
            FileAndDocumentLost => {
                store.remove_object(SOURCE, key);
                lose_document();
            }
            AllButTheFileLost => {
                store.remove_object(RESULTS, &record_key(key));
                lose_document();
            }
        }
    }
}

fn key_of(damage: Damage) -> String {
    format!("in/{damage:?} 日本.txt")
}

/// A world in which each of these files was struck so.
async fn damaged(site: &Site, files: &[(String, Damage)]) {
    for (key, damage) in files {
        damage.prepare(&site.world, key);
    }
    work_off(site).await;
    for (key, damage) in files {
        damage.strike(&site.world, key);
    }
    long_after().await;
}

fn writes(world: &World) -> usize {
    let store = world.store.calls().into_iter();
    let store = store.filter(|call| {
        *call.who == *"redrive"
            && matches!(call.ask, StoreAsk::Put { .. } | StoreAsk::Delete { .. } | StoreAsk::DeleteIfMatch { .. })
    });
    let queue = world.queue.calls().into_iter().filter(|call| *call.who == *"redrive");
    store.count() + queue.count()
}

#[tokio::test(start_paused = true)]
async fn every_way_to_be_out_of_step_is_found_and_a_look_writes_nothing() {
    let site = Site::new(1);
    let files = ALL.map(|damage| (key_of(damage), damage));
    damaged(&site, &files).await;
    let mut ears = Ears::default();
    let report = reconcile(&site.world, false).run(None, &mut ears).await;
    let mut expected: Vec<(Finding, &str)> =
        files.iter().filter_map(|(key, damage)| Some((damage.finding()?, key.as_str()))).collect();
    expected.sort();
    assert_eq!(ears.sorted(), expected);
    assert_eq!((report.ended, ears.unclear.len(), writes(&site.world)), (Ended::Complete, 0, 0));
    let tally = report.tally;
    assert_eq!((tally.missing, tally.stale, tally.orphaned), (4, 5, 3));
    assert!(!tally.is_well());
}

#[tokio::test(start_paused = true)]
async fn after_a_repair_and_an_empty_queue_bucket_record_and_index_are_one() {
    let site = Site::new(2);
    let files = ALL.map(|damage| (key_of(damage), damage));
    damaged(&site, &files).await;
    let before: Vec<u64> =
        files.iter().map(|(key, _)| standing(&site.world, key).map_or(0, |it| it.revision)).collect();
    let report = reconcile(&site.world, true).run(None, &mut Ears::default()).await;
    assert!(report.tally.is_well() && report.tally.found() == 12, "{report:?}");
    // Where the record is right nobody fetches the file again: three documents are parked.
    assert_eq!((report.tally.repaired_parked, report.tally.repaired_messages), (3, 9));
    work_off(&site).await;
    for ((key, damage), before) in files.iter().zip(before) {
        assert_eq!(in_step(&site.world, key), Ok(()), "{damage:?}");
        let after = standing(&site.world, key).unwrap().revision;
        let rewritten = !matches!(damage, Nothing | DocumentLost | DocumentOld | RemovalNotIndexed);
        assert_eq!(after > before, rewritten, "{damage:?}: {before} to {after}");
    }
    long_after().await;
    let mut ears = Ears::default();
    let again = reconcile(&site.world, true).run(None, &mut ears).await;
    assert_eq!((ears.found, again.tally.repaired()), (vec![], 0), "in step");
}

/// Any damage to any file, an unsteady queue and an unsteady store: repair until nothing is found.
#[test]
fn any_damage_is_repaired_in_any_weather() {
    for_seeds(0..60, |seed| async move {
        let mut rng = fastrand::Rng::with_seed(seed);
        let site = Site::new(seed);
        let files: Vec<(String, Damage)> =
            (0..rng.usize(1..30)).map(|n| (format!("in/{n:03}.txt"), ALL[rng.usize(..ALL.len())])).collect();
        damaged(&site, &files).await;
        let shaky = Faults { fail_before: 0.05, lose_reply: 0.05, ..Faults::default() };
        site.world.store.faults(|faults| faults.all(&shaky));
        site.world.search.faults(|faults| faults.catalogue = shaky.clone());
        site.world.queue.faults(|faults| {
            faults.send = shaky.clone();
            faults.refuse_entry = 0.2;
            faults.forget_entry = 0.2;
        });
        let mut from = None;
        for run in 0.. {
            assert!(run < 50, "seed {seed}: it never ends");
            let report = reconcile(&site.world, true).run(from, &mut Ears::default()).await;
            // What could not be parked is told, and left to the next run.
            match report.ended {
                Ended::Complete if report.tally.is_well() => break,
                Ended::Complete => from = None,
                Ended::Interrupted | Ended::Sick(_) => from = resume(&report),
            }
        }
        site.world.store.heal();
        site.world.queue.faults(|faults| *faults = crate::sim::queue::QueueFaults::default());
        site.world.search.faults(|faults| faults.catalogue = Faults::default());
        work_off(&site).await;
        long_after().await;
        let mut ears = Ears::default();
        reconcile(&site.world, false).run(None, &mut ears).await;
        assert_eq!(ears.found, [], "seed {seed}");
        for (key, damage) in &files {
            assert_eq!(in_step(&site.world, key), Ok(()), "seed {seed}: {damage:?}");
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_run_is_stopped_between_pages_and_goes_on_where_it_was() {
    let site = Site::new(3);
    let all: BTreeSet<String> = (0..3_500).map(|n| format!("in/{n:05}")).collect();
    all.iter().for_each(|key| drop(site.world.store.put_object(SOURCE, key, "x")));
    long_after().await;
    let (mut from, mut seen, mut runs) = (None, Vec::new(), 0);
    loop {
        let run = reconcile(&site.world, false);
        let mut ears = Ears { stop_at: Some((1, run.stop.clone())), ..Ears::default() };
        let report = run.run(from, &mut ears).await;
        seen.extend(ears.found.into_iter().map(|(_, key)| key));
        from = resume(&report);
        runs += 1;
        match report.ended {
            Ended::Complete => break,
            Ended::Interrupted => assert!(from.is_some()),
            Ended::Sick(why) => panic!("{why}"),
        }
    }
    assert!(runs >= 4, "{runs}");
    assert_eq!((seen.len(), seen.into_iter().collect::<BTreeSet<_>>()), (all.len(), all), "each once");
}

/// Without an age that would excuse it: what has another etag than was listed is not judged by what was listed.
#[tokio::test(start_paused = true)]
async fn a_file_that_changes_between_list_and_look_is_no_finding() {
    let site = Site::new(8);
    let world = &site.world;
    world.store.put_object(SOURCE, "new", "text");
    long_after().await;
    // List, entries, HEAD of the record: and then it is overwritten, as the second look finds.
    let (ports, reached, go_on) = Meddler::new(world, (2, Side::After));
    let ports = Arc::new(ports);
    let run = Reconcile { store: ports.clone(), catalogue: ports, min_age: Duration::ZERO, ..reconcile(world, true) };
    let mut ears = Ears::default();
    let meddle = async {
        reached.await.unwrap();
        world.store.put_object(SOURCE, "new", "other text");
        go_on.send(()).unwrap();
    };
    let (report, ()) = tokio::join!(run.run(None, &mut ears), meddle);
    assert_eq!((report.tally.young, ears.found, writes(world)), (1, vec![], 0));
    assert_eq!(report.ended, Ended::Complete);
}

#[tokio::test(start_paused = true)]
async fn a_record_just_written_is_not_judged_and_a_file_that_was_emptied_is_no_folder() {
    let site = Site::new(9);
    let world = &site.world;
    world.upload("emptied/", "text", 1);
    work_off(&site).await;
    world.store.put_object(SOURCE, "emptied/", "");
    long_after().await;
    // Written and removed in this minute, and not in the index yet.
    world.upload("young", "text", 1);
    site.drain(&Setup { search: false, ..setup() }).await;
    world.store.remove_object(SOURCE, "young");
    let mut ears = Ears::default();
    reconcile(world, false).run(None, &mut ears).await;
    assert_eq!(ears.sorted(), [(Finding::StaleRecord, "emptied/")]);
    long_after().await;
    let mut ears = Ears::default();
    reconcile(world, false).run(None, &mut ears).await;
    assert_eq!(ears.sorted(), [(Finding::StaleRecord, "emptied/"), (Finding::OrphanedRecord, "young")]);
}

/// Two hundred findings to be sent and as many to be parked, all on one page.
#[tokio::test(start_paused = true)]
async fn a_repair_is_stopped_between_two_messages_or_markers_and_the_next_run_does_what_is_left() {
    for slow_store in [false, true] {
        let site = Site::new(7);
        let world = &site.world;
        let keys: Vec<String> = (0..200).map(|n| format!("in/{n:03}")).collect();
        keys.iter().for_each(|key| drop(world.upload(key, "text", 1)));
        work_off(&site).await;
        for n in 0..200 {
            world.store.put_object(SOURCE, &format!("new/{n:03}"), "x");
        }
        world.search.forge(|_, documents| documents.clear());
        long_after().await;
        let slow = Faults { latency: (SECOND / 2, SECOND / 2), ..Faults::default() };
        if slow_store {
            world.store.faults(|faults| faults.put = slow.clone());
        }
        let run = Reconcile { repair: Some(outbox(world, 10)), ..reconcile(world, false) };
        let stop = run.stop.clone();
        let told = async {
            until("repairs", HOUR, || {
                let parked = world.store.keys(RESULTS, "retry-index/").len();
                let sent = world.queue.calls().iter().filter(|call| *call.who == *"redrive").count();
                if slow_store { parked > 3 } else { sent > 3 }
            })
            .await;
            stop.cancel();
            Instant::now()
        };
        let mut ears = Ears::default();
        let (report, told) = tokio::join!(run.run(None, &mut ears), told);
        assert!(told.elapsed() < 3 * SECOND, "slow store: {slow_store}: {:?} after it was told", told.elapsed());
        assert_eq!(report.ended, Ended::Interrupted);
        assert!(report.tally.repaired() < 390, "{report:?}");
        world.store.heal();
        let report = reconcile(world, true).run(resume(&report), &mut Ears::default()).await;
        assert!(report.ended == Ended::Complete && report.tally.is_well(), "{report:?}");
        work_off(&site).await;
        for key in keys.into_iter().chain((0..200).map(|n| format!("new/{n:03}"))) {
            assert_eq!(in_step(world, &key), Ok(()));
        }
    }
}

/// More documents of removed files between two keys than a page holds.
#[tokio::test(start_paused = true)]
async fn a_thousand_documents_without_files_hide_none() {
    let site = Site::new(4);
    site.world.upload("a", "text", 1);
    site.world.upload("z", "text", 1);
    work_off(&site).await;
    let keys: Vec<String> = (0..2_345).map(|n| format!("m/{n:05}")).collect();
    let like = site.world.search.document(&document_id("a")).unwrap();
    site.world.search.forge(|_, documents| {
        for key in &keys {
            let mut document = like.clone();
            document.source["key"] = key.as_str().into();
            documents.insert(document_id(key), document);
        }
    });
    long_after().await;
    let mut ears = Ears::default();
    let report = reconcile(&site.world, false).run(None, &mut ears).await;
    let expected: Vec<(Finding, &str)> = keys.iter().map(|key| (Finding::OrphanedDocument, key.as_str())).collect();
    assert_eq!(ears.sorted(), expected);
    assert_eq!((report.tally.well, report.tally.orphaned), (2, 2_345));
}

#[test]
fn work_under_way_is_no_finding() {
    for_seeds(0..10, |seed| async move {
        let site = Site::new(seed);
        let keys: Vec<String> = (0..40).map(|n| format!("in/{n:02}")).collect();
        for key in &keys {
            site.world.upload(key, "first", 1);
        }
        work_off(&site).await;
        let slow = Faults { latency: (SECOND / 100, SECOND), ..Faults::default() };
        site.world.store.faults(|faults| faults.all(&slow));
        site.world.search.faults(|faults| faults.bulk = slow.clone());
        let worker = site.start("worker", &setup());
        let looks = async {
            let mut ears = Ears::default();
            for _ in 0..4 {
                reconcile(&site.world, true).run(None, &mut ears).await;
            }
            ears
        };
        let uploads = async {
            for turn in 2..6 {
                for key in &keys {
                    site.world.upload(key, format!("turn {turn}"), turn);
                    tokio::time::sleep(SECOND / 10).await;
                }
            }
        };
        let (ears, ()) = tokio::join!(looks, uploads);
        assert_eq!(ears.found, [], "seed {seed}");
        site.world.store.heal();
        site.until_empty().await;
        worker.stop().await;
    });
}

#[tokio::test(start_paused = true)]
async fn what_is_parked_refused_young_too_large_or_a_folder_is_no_finding() {
    let site = Site::new(5);
    let world = &site.world;
    for key in ["parked", "refused"] {
        world.upload(key, "text", 1);
    }
    site.drain(&Setup { search: false, ..setup() }).await;
    // One of the two markers is put where refusals lie.
    let revision = standing(world, "refused").unwrap().revision;
    let markers = world.store.keys(RESULTS, "retry-index/");
    assert_eq!(markers.len(), 2);
    let of_refused = markers.iter().find(|key| key.contains(document_id("refused").as_str())).unwrap();
    let body = world.store.object(RESULTS, of_refused).unwrap().body;
    let marker: Marker = serde_json::from_slice(&body).unwrap();
    assert_eq!(marker.revision, revision);
    let day = quittance::clock::date(crate::sim::EPOCH_MS);
    world.store.put_object(RESULTS, &layout::errored(&day, &namespace(), &document_id("refused"), revision), body);
    world.store.remove_object(RESULTS, of_refused);
    world.store.put_object(SOURCE, "large", vec![b'x'; (1 << 20) + 1]);
    world.store.put_object(SOURCE, "folder/", "");
    long_after().await;
    world.store.put_object(SOURCE, "young", "text");
    let mut ears = Ears::default();
    let tally = reconcile(world, true).run(None, &mut ears).await.tally;
    assert_eq!((ears.found, writes(world)), (vec![], 0));
    assert_eq!((tally.parked, tally.errored, tally.young, tally.too_large, tally.well), (1, 1, 1, 1, 1));
    // Of a file that is wanted by nobody, and of another prefix.
    let mut narrow = reconcile(world, false);
    narrow.area.sources[0].prefix = "wanted/".into();
    world.store.put_object(SOURCE, "unwanted", "text");
    world.store.put_object(SOURCE, "wanted/a", "text");
    tokio::time::sleep(HOUR).await;
    let mut ears = Ears::default();
    narrow.run(None, &mut ears).await;
    assert_eq!(ears.sorted(), [(Finding::MissingRecord, "wanted/a")]);
    let mut prefixed = reconcile(world, false);
    prefixed.area.prefix = "unw".into();
    let mut ears = Ears::default();
    prefixed.run(None, &mut ears).await;
    assert_eq!(ears.sorted(), [(Finding::MissingRecord, "unwanted")]);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_looked_at_is_told_and_hides_no_other() {
    let site = Site::new(6);
    let world = &site.world;
    world.upload("a", "text", 1);
    work_off(&site).await;
    world.store.put_object(SOURCE, "denied", "text");
    world.store.put_object(SOURCE, "new", "text");
    long_after().await;
    world.store.inject(crate::sim::Rule {
        bucket: SOURCE.into(),
        prefix: "denied".into(),
        verb: Some(crate::sim::Verb::Head),
        error: quittance::store::StoreError::Denied("AccessDenied".into()),
        times: None,
    });
    let mut ears = Ears::default();
    let report = reconcile(world, false).run(None, &mut ears).await;
    assert_eq!((ears.sorted(), report.tally.unclear), (vec![(Finding::MissingRecord, "new")], 1));
    assert!(ears.unclear[0].starts_with("denied: "), "{:?}", ears.unclear);
    // And an index that does not answer ends the run: its documents would all look missing.
    world.search.faults(|faults| faults.catalogue.down = true);
    let report = reconcile(world, true).run(None, &mut Ears::default()).await;
    assert!(matches!(report.ended, Ended::Sick(_)) && report.tally.found() == 0, "{report:?}");
}

/// Ten to a call, and never more a second than was asked for.
#[tokio::test(start_paused = true)]
async fn repairs_are_sent_in_batches_of_ten_at_the_rate() {
    let site = Site::new(7);
    for n in 0..95 {
        site.world.store.put_object(SOURCE, &format!("in/{n:02}"), "text");
    }
    long_after().await;
    let mut run = reconcile(&site.world, true);
    run.repair = Some(super::outbox(&site.world, 20));
    let report = run.run(None, &mut Ears::default()).await;
    assert_eq!(report.tally.repaired_messages, 95);
    let calls = site.world.queue.calls();
    let sends: Vec<(tokio::time::Instant, usize)> = calls
        .iter()
        .filter_map(
            |call| if let QueueAsk::SendBatch(batch) = &call.ask { Some((call.asked.at, batch.len())) } else { None },
        )
        .collect();
    assert_eq!(sends.len(), 10);
    for (at, _) in &sends {
        let within = sends.iter().filter(|(other, _)| other >= at && *other < *at + SECOND);
        assert!(within.map(|(_, messages)| messages).sum::<usize>() <= 20);
    }
    work_off(&site).await;
    until("nothing more", MINUTE, || site.world.queue.is_empty()).await;
}
