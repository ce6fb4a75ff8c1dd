//! P8: record and index converge to the newest state of each key under duplicates, reordering, deletes and crashes.

use std::time::Duration;

use quittance::message::{MessageId, Sequencer};
use quittance::process::record::{self, Rank, Seen, Standing};
use serde_json::json;
use tokio::time::sleep;

use crate::dead_letter::note;
use crate::sim::reader::Act;
use crate::sim::{
    Asking, Cut, Faults, RESULTS, Record, SOURCE, Setup, Site, Worker, World, for_seeds, history, record_key, s3_event,
    sequencer, until,
};

/// The rules of the protocol that is model-checked.
#[path = "../protocol/rules.rs"]
#[allow(dead_code, reason = "the model needs more of it than is compared here")]
mod rules;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

fn setup() -> Setup {
    Setup { max_receive_count: None, ..Setup::default() }
}

/// Where the first worker's wires are cut.
type Place = fn(&Asking) -> Option<Cut>;

#[tokio::test(start_paused = true)]
async fn a_worker_killed_between_record_and_index_leaves_no_file_unfound() {
    let after_the_record: Place =
        |asking| (asking.verb == "put" && asking.place.contains("/processed/")).then_some(Cut::After);
    let before_the_index: Place = |asking| (asking.verb == "bulk").then_some(Cut::Before);
    let before_the_marker: Place =
        |asking| (asking.verb == "put" && asking.place.contains("/retry-index/")).then_some(Cut::Before);
    for (name, place, search) in [
        ("after the record", after_the_record, true),
        ("before the index", before_the_index, true),
        ("before the marker", before_the_marker, false),
    ] {
        let site = Site::new(1);
        site.world.upload("a.txt", "text", 1);
        let first = site.start("first", &Setup { search, ..setup() });
        first.wires.cut_at(place);
        until("it is killed", 10 * SECOND, || first.wires.is_cut()).await;
        assert!(history::in_step(&site.world, &["a.txt"]).is_err(), "{name}: recorded, not indexed");
        assert_eq!(site.world.queue.live().len(), 1, "{name}");
        first.crash();
        let line = site.drain(&setup()).await;
        assert_eq!((line.done, line.documents_indexed), (1, 1), "{name}: equal is not finished work");
        assert_eq!(history::in_step(&site.world, &["a.txt"]), Ok(()), "{name}");
        assert_eq!(site.reader.works("a.txt"), 1, "{name}: the record is proof of the reading");
    }
}

/// A put, an overwrite and a removal wait; the first worker dies at its n-th call, for every n.
#[tokio::test(start_paused = true)]
async fn a_worker_may_die_at_any_call() {
    for cut in [Cut::Before, Cut::After] {
        for (search, concurrency) in [(true, 20), (false, 20), (true, 1)] {
            let (mut number, mut deaths) = (0, 0);
            loop {
                let site = Site::new(number as u64);
                for (key, removed) in [("a.txt", false), ("b.txt", true)] {
                    site.world.upload(key, "old text", 1);
                    site.world.upload(key, "new text", 2);
                    if removed {
                        site.world.remove(key, 3);
                    }
                }
                let first = site.start("first", &Setup { search, concurrency, ..setup() });
                first.wires.cut_at(move |asking| (asking.number == number).then_some(cut));
                until("it is killed or done", 300 * SECOND, || {
                    first.wires.is_cut() || site.world.queue.live().is_empty()
                })
                .await;
                let (died, calls) = (first.wires.is_cut(), first.wires.asked());
                first.crash();
                site.drain(&setup()).await;
                let last = site.start("replayer", &setup());
                until("nothing is parked", HOUR, || site.world.store.keys(RESULTS, "retry-index/").is_empty()).await;
                last.stop().await;
                let place = format!("{cut:?} call {number}, index: {search}, concurrency: {concurrency}");
                assert_eq!(history::in_step(&site.world, &["a.txt", "b.txt"]), Ok(()), "{place}");
                assert_eq!(site.world.dead_letters.live().len(), 0, "{place}");
                for who in ["first", "last"] {
                    history::durable_before_deleted(&site.world, who);
                }
                deaths += usize::from(died);
                number += 1;
                if !died && number >= calls {
                    assert!(deaths >= 12, "died only {deaths} times in {calls} calls");
                    break;
                }
            }
        }
    }
}

/// How the events of a history are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Telling {
    /// With the sequencers of S3.
    Ordered,
    /// With one sequencer for all, as LocalStack does.
    Constant,
    /// As minimal bodies.
    Without,
    /// Now this way, now that.
    Mixed,
}

/// An old state is still being read when the new one is put, told and recorded.
#[tokio::test(start_paused = true)]
async fn a_slow_reading_of_an_old_state_does_not_stand_in_the_end() {
    for telling in [Telling::Ordered, Telling::Constant, Telling::Without] {
        for removed in [false, true] {
            let site = Site::new(1);
            site.reader.plan("a.txt", [Act::Takes(20 * SECOND), Act::Reads]);
            let head = site.world.store.put_object(SOURCE, "a.txt", "old text");
            site.world.queue.put(told(telling, Record::created(SOURCE, "a.txt", &head, 1)));
            let worker = site.start("w", &setup());
            until("the old state is being read", 5 * SECOND, || site.reader.works("a.txt") == 1).await;
            let record = if removed {
                site.world.store.remove_object(SOURCE, "a.txt");
                Record::removed(SOURCE, "a.txt", 2)
            } else {
                let head = site.world.store.put_object(SOURCE, "a.txt", "new text");
                Record::created(SOURCE, "a.txt", &head, 2)
            };
            let recorded = || site.world.store.object(RESULTS, &record_key("a.txt")).is_some();
            // Without an operation and without a record, an absence explains nothing: that message waits.
            let waits = removed && telling == Telling::Without;
            site.world.queue.put(told(telling, record));
            sleep(10 * SECOND).await;
            assert_eq!((recorded(), site.world.queue.live().len()), (!waits, if waits { 2 } else { 1 }), "{telling:?}");
            site.until_empty().await;
            let end = history::in_step(&site.world, &["a.txt"]);
            assert_eq!(end, Ok(()), "{telling:?}, removed: {removed}");
            assert_eq!(worker.stop().await.deleted, 2, "{telling:?}, removed: {removed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_from_before_is_superseded_also_after_a_change_without_a_sequencer() {
    let site = Site::new(1);
    site.world.upload("a.txt", "text", 5);
    let head = site.world.store.object(SOURCE, "a.txt").unwrap().head;
    site.drain_as("first", &setup()).await;
    site.world.queue.put(told(Telling::Without, Record::created(SOURCE, "a.txt", &head, 0)));
    assert_eq!(site.drain_as("second", &setup()).await.done, 1);
    site.world.queue.put(told(Telling::Ordered, Record::created(SOURCE, "a.txt", &head, 4)));
    assert_eq!(site.drain_as("third", &setup()).await.superseded, 1);
    assert_eq!(history::in_step(&site.world, &["a.txt"]), Ok(()));
}

/// The body that tells a change in this way.
fn told(telling: Telling, record: Record) -> String {
    match telling {
        Telling::Ordered | Telling::Mixed => s3_event(&[record]),
        Telling::Constant => s3_event(&[Record { sequencer: Some(sequencer(7)), ..record }]),
        Telling::Without => json!({ "bucket": record.bucket, "key": record.key }).to_string(),
    }
}

/// One change of a key, and the event that tells it; some events come twice, under ids of their own.
fn change(world: &World, rng: &mut fastrand::Rng, telling: Telling, turn: u64) {
    let key = ["a.txt", "b.txt", "c.txt"][rng.usize(0..3)];
    let there = world.store.object(SOURCE, key).is_some();
    let removed = there && rng.u8(0..3) == 0;
    let record = if removed {
        world.store.remove_object(SOURCE, key);
        Record::removed(SOURCE, key, turn)
    } else {
        // Few texts, so that a key often has the state it had before.
        let head = world.store.put_object(SOURCE, key, format!("text {}", rng.u8(0..3)));
        Record::created(SOURCE, key, &head, turn)
    };
    let way = match telling {
        Telling::Mixed => [Telling::Ordered, Telling::Without][rng.usize(0..2)],
        Telling::Ordered | Telling::Constant | Telling::Without => telling,
    };
    let body = told(way, record);
    for _ in 0..rng.usize(1..=2) {
        world.queue.put(body.clone());
    }
}

fn make_wild(world: &World, rng: &mut fastrand::Rng) {
    let mut faults = |share: f64| Faults {
        fail_before: share * rng.f64(),
        lose_reply: share * rng.f64(),
        latency: (Duration::ZERO, Duration::from_millis(rng.u64(0..2_500))),
        ..Faults::default()
    };
    let (queue, store, search) = (faults(0.05), faults(0.1), faults(0.2));
    world.queue.faults(|all| {
        all.all(&queue);
        (all.reorder, all.short_receives) = (true, true);
        (all.redeliver_early, all.twice_in_reply, all.rise_after_delete) = (0.2, 0.1, 0.1);
        all.outlive_callers = true;
    });
    world.store.faults(|all| {
        all.all(&store);
        (all.busy, all.outlive_callers) = (0.05, true);
    });
    world.search.faults(|all| {
        (all.bulk, all.probe) = (search.clone(), search);
        (all.half_applied, all.outlive_callers) = (true, true);
    });
}

fn heal(world: &World) {
    world.queue.faults(|faults| *faults = Default::default());
    world.store.heal();
    world.search.faults(|faults| *faults = Default::default());
}

async fn history_of(seed: u64, telling: Telling) {
    let site = Site::in_world(World::with(seed, 10_000));
    let mut rng = fastrand::Rng::with_seed(seed);
    make_wild(&site.world, &mut rng);
    let mut workers: Vec<(String, Worker)> = Vec::new();
    let mut dead = Vec::new();
    for turn in 1..=rng.u64(4..12) {
        while workers.len() < 2 {
            let name = format!("w{}", workers.len() + dead.len());
            let worker = site.start(&name, &setup());
            if rng.bool() {
                let (last, cut) = (rng.usize(0..60), [Cut::Before, Cut::After][rng.usize(0..2)]);
                worker.wires.cut_at(move |asking| (asking.number == last).then_some(cut));
            }
            workers.push((name, worker));
        }
        change(&site.world, &mut rng, telling, turn);
        let pause = [1_500, 20_000][rng.usize(0..2)]; // some changes come in bursts
        sleep(Duration::from_millis(rng.u64(0..pause))).await;
        let (gone, living): (Vec<_>, Vec<_>) = workers.into_iter().partition(|(_, worker)| worker.wires.is_cut());
        dead.extend(gone.into_iter().map(|(name, _)| name));
        workers = living;
    }
    heal(&site.world);
    let last = site.start("last", &setup());
    let parked = || site.world.store.keys(RESULTS, "retry-index/").len();
    let idle = || site.world.queue.live().is_empty() && parked() == 0;
    until("the queue is empty and nothing is parked", 6 * HOUR, idle).await;
    // A message that was deleted may be delivered once more: what it does late must change nothing.
    sleep(300 * SECOND).await;
    until("that is still so", HOUR, idle).await;
    assert_eq!(history::in_step(&site.world, &["a.txt", "b.txt", "c.txt"]), Ok(()), "{telling:?}");
    for (_, letter, _) in site.world.dead_letters.live() {
        assert_eq!(note(&letter)["reason"], "source_missing", "{telling:?}");
        assert!(telling != Telling::Ordered, "each removal has its event, and explains the absence");
    }
    for (name, worker) in workers {
        history::durable_before_deleted(&site.world, &name);
        if !worker.wires.is_cut() {
            worker.abandon();
            worker.ask_to_stop();
        }
    }
    history::durable_before_deleted(&site.world, "last");
    last.stop().await;
}

#[test]
fn histories_with_the_sequencers_of_s3_converge() {
    for_seeds(0..150, |seed| history_of(seed, Telling::Ordered));
}

#[test]
fn histories_with_one_sequencer_for_all_converge() {
    for_seeds(1_000..1_150, |seed| history_of(seed, Telling::Constant));
}

#[test]
fn histories_without_sequencers_converge() {
    for_seeds(2_000..2_150, |seed| history_of(seed, Telling::Without));
}

#[test]
fn histories_told_now_this_way_now_that_converge() {
    for_seeds(3_000..3_150, |seed| history_of(seed, Telling::Mixed));
}

/// `tests/protocol` searches every order of calls by rules of its own; what it shows is worth nothing if they are not the
/// code's.
#[test]
fn the_model_of_the_protocol_means_by_newer_what_the_code_means() {
    use rules::Content::{A, B, Gone, Nothing};
    for theirs in 0..3 {
        for content in [Gone, A, B] {
            for writer in [1, 2] {
                let modelled = rules::Record { revision: 7, sequencer: theirs, content, message: writer };
                for ours in 0..3 {
                    [Nothing, Gone, A, B].into_iter().for_each(|seen| same_rules(modelled, ours, seen));
                }
            }
        }
    }
    let nothing = rules::Record::default();
    assert_eq!(u64::from(rules::next_revision(nothing)), record::next_revision(None, 1));
    assert_eq!(
        told_sequencer(rules::stored_sequencer(nothing, 2)),
        record::stored_sequencer(None, told_sequencer(2).as_ref())
    );
}

fn same_rules(modelled: rules::Record, ours: u8, seen: rules::Content) {
    let etag = |content| (content != rules::Content::Gone).then(|| format!("{content:?}"));
    let (message, writer) = (MessageId("1".to_owned()), MessageId(modelled.message.to_string()));
    let standing = Standing {
        revision: modelled.revision.into(),
        sequencer: told_sequencer(modelled.sequencer),
        source_etag: etag(modelled.content),
        message_id: Some(writer),
        object_etag: "o".to_owned(),
    };
    let seen_etag = etag(seen);
    let source = match (seen, seen_etag.as_deref()) {
        (rules::Content::Nothing, _) => Seen::Unread,
        (_, None) => Seen::Gone,
        (_, Some(etag)) => Seen::There(etag),
    };
    let sequencer = told_sequencer(ours);
    let meant = match record::rank(&standing, sequencer.as_ref(), source, &message) {
        Rank::Newer => rules::Rank::Newer,
        Rank::Equal => rules::Rank::Equal,
        Rank::Older => rules::Rank::Older,
    };
    assert_eq!(rules::rank(modelled, ours, seen, 1), meant, "{standing:?}, ours: {ours}, {source:?}");
    let kept = record::stored_sequencer(Some(&standing), sequencer.as_ref());
    assert_eq!(told_sequencer(rules::stored_sequencer(modelled, ours)), kept, "{standing:?}, ours: {ours}");
    assert_eq!(u64::from(rules::next_revision(modelled)), record::next_revision(Some(&standing), 1));
}

/// The model's 0 is none.
fn told_sequencer(number: u8) -> Option<Sequencer> {
    (number > 0).then(|| Sequencer::parse(&format!("0{number}")).unwrap())
}
