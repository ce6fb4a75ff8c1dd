//! P3 and P8, the incident "deduplication that ate live work": rows A2.x of the fault catalogue (`tests/faults.md`).
//! A2.4 stands beside the id's builder, in `src/message.rs`.

use std::time::Duration;

use quittance::message::{DocumentId, MessageId};
use serde_json::Value;

use crate::sim::reader::Act;
use crate::sim::worker::namespace;
use crate::sim::{
    Faults, RESULTS, Record, SOURCE, Setup, Site, StoreAnswer, StoreAsk, Worker, for_seeds, history, s3_event, until,
};

const TENANTS: [&str; 3] = ["tenant-a", "tenant-b", "tenant-c"];

fn record_of(site: &Site, bucket: &str, key: &str) -> Option<Value> {
    let id = DocumentId::of(&namespace(), bucket, key);
    let stored = site.world.store.object(RESULTS, &quittance::store::layout::record(&namespace(), &id))?;
    Some(serde_json::from_slice(&stored.body).unwrap())
}

/// The same keys, the same bytes, the same sequencers: only the bucket tells them apart.
#[tokio::test(start_paused = true)]
async fn a2_1_five_hundred_identical_keys_of_three_tenants_are_fifteen_hundred_pieces_of_work() {
    let site = Site::new(1);
    site.world.queue.faults(|faults| faults.reorder = true);
    TENANTS.iter().for_each(|bucket| site.world.store.add_bucket(bucket));
    for n in 0..500 {
        for bucket in TENANTS {
            site.world.upload_to(bucket, &format!("{n}.txt"), format!("text {n}"), 1);
        }
    }
    let setup = Setup { sources: TENANTS.to_vec(), ..Setup::default() };
    let workers: Vec<Worker> = (0..4).map(|n| site.start(&format!("w{n}"), &setup)).collect();
    site.until_empty().await;
    let mut lines = Vec::new();
    for worker in workers {
        lines.push(worker.stop().await);
    }
    assert_eq!(lines.iter().map(|line| line.done).sum::<u64>(), 1_500);
    assert_eq!(lines.iter().map(|line| line.superseded + line.skipped + line.dead_lettered).sum::<u64>(), 0);
    assert!(lines.iter().all(|line| line.done > 0), "{lines:?}");
    for n in 0..500 {
        for bucket in TENANTS {
            let record = record_of(&site, bucket, &format!("{n}.txt")).unwrap();
            assert_eq!(record["document"]["bucket"], bucket);
            let document = site.world.search.document(&DocumentId::of(&namespace(), bucket, &format!("{n}.txt")));
            assert_eq!(document.unwrap().source, record["document"]);
        }
    }
}

/// One change, by all that goes into a work id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Told {
    bucket: &'static str,
    key: &'static str,
    text: &'static str,
    removed: bool,
    turn: u64,
}

const BASE: Told = Told { bucket: "tenant-a", key: "x/a.txt", text: "one", removed: false, turn: 3 };

fn any(rng: &mut fastrand::Rng) -> Told {
    Told {
        bucket: TENANTS[rng.usize(0..2)],
        key: ["x/a.txt", "y/a.txt"][rng.usize(0..2)],
        text: ["one", "two"][rng.usize(0..2)],
        removed: rng.u8(0..3) == 0,
        turn: rng.u64(1..4),
    }
}

fn tell(site: &Site, told: Told) -> MessageId {
    let record = if told.removed {
        Record::removed(told.bucket, told.key, told.turn)
    } else {
        let head = site.world.store.put_object(told.bucket, told.key, told.text);
        Record::created(told.bucket, told.key, &head, told.turn)
    };
    site.world.queue.put(s3_event(&[record]))
}

/// Runs `first` and `second` into one queue; their `outcome`s. Whatever is called superseded, a record of that very
/// document with a greater sequencer was seen before: no other message can take its place.
async fn pair(seed: u64, first: Told, second: Told) -> [String; 2] {
    let site = Site::new(seed);
    TENANTS.iter().for_each(|bucket| site.world.store.add_bucket(bucket));
    site.world.queue.faults(|faults| faults.reorder = true);
    let slow = Faults { latency: (Duration::ZERO, Duration::from_millis(800)), ..Faults::default() };
    site.world.store.faults(|faults| faults.all(&slow));
    let ids = [tell(&site, first), tell(&site, second)];
    let setup = Setup { sources: TENANTS.to_vec(), concurrency: 2, ..Setup::default() };
    let workers = [site.start("one", &setup), site.start("two", &setup)];
    until("both are settled", Duration::from_secs(3_600), || site.world.queue.is_empty()).await;
    for worker in workers {
        worker.stop().await;
    }
    let lines = site.lines("message_settled");
    let last = |id: &MessageId| lines.iter().rfind(|line| line["message_id"] == id.0).unwrap();
    for (id, told) in ids.iter().zip([first, second]) {
        if last(id)["outcome"] != "superseded" {
            continue;
        }
        let document = DocumentId::of(&namespace(), told.bucket, told.key);
        let place = quittance::store::layout::record(&namespace(), &document);
        let seen = site.world.store.calls().into_iter().any(|call| match (call.ask, call.answered) {
            (StoreAsk::Head { bucket, key }, Some((_, StoreAnswer::Head(Some(head))))) => {
                bucket == RESULTS
                    && key == place
                    && (head.metadata["sequencer"] > crate::sim::sequencer(told.turn)
                        || !head.metadata.contains_key("etag"))
            }
            _ => false,
        });
        assert!(seen, "{id} ({told:?}) gave way to nothing durable: {first:?}, {second:?}");
    }
    ids.map(|id| last(&id)["outcome"].as_str().unwrap().to_owned())
}

#[test]
fn a2_2_a_message_gives_way_only_to_a_newer_durable_state_of_its_own_document() {
    // Each component alone: nothing else may be taken for the same work.
    let mutations = [
        Told { bucket: "tenant-b", ..BASE }, // the tenant, where tenants have buckets
        Told { key: "y/a.txt", ..BASE },     // the tenant, where it is a prefix
        Told { bucket: "tenant-b", turn: 9, ..BASE },
        Told { key: "y/a.txt", turn: 9, ..BASE },
        Told { key: "y/a.txt", text: "two", ..BASE },
        Told { bucket: "tenant-b", removed: true, turn: 9, ..BASE },
    ];
    for_seeds(0..20, |seed| async move {
        for other in mutations {
            for (first, second) in [(BASE, other), (other, BASE)] {
                assert_eq!(pair(seed, first, second).await, ["done", "done"], "{first:?}, {second:?}");
            }
        }
        // Of one document: the newer one is never the one to give way.
        for other in
            [Told { text: "two", turn: 4, ..BASE }, Told { turn: 4, ..BASE }, Told { removed: true, turn: 4, ..BASE }]
        {
            assert_eq!(pair(seed, BASE, other).await[1], "done", "{other:?}");
        }
    });
    // And any two, under the check that is in `pair`.
    let superseded = std::cell::Cell::new(0);
    for_seeds(1_000..1_400, |seed| {
        let superseded = &superseded;
        async move {
            let mut rng = fastrand::Rng::with_seed(seed);
            let outcomes = pair(seed, any(&mut rng), any(&mut rng)).await;
            superseded.set(superseded.get() + outcomes.iter().filter(|outcome| **outcome == "superseded").count());
        }
    });
    assert!(superseded.get() > 10, "only {} gave way: nothing was shown", superseded.get());
}

#[tokio::test(start_paused = true)]
async fn a2_3_a_duplicate_that_meets_its_twin_in_work_is_not_lost_when_the_twin_dies() {
    for duplicate_of_sqs in [true, false] {
        let site = Site::new(3);
        site.reader.plan("a.txt", [Act::Hangs, Act::Reads]);
        let chance = if duplicate_of_sqs { 1.0 } else { 0.0 };
        site.world.queue.faults(|faults| faults.redeliver_early = chance);
        let head = site.world.store.put_object(SOURCE, "a.txt", "text");
        let body = s3_event(&[Record::created(SOURCE, "a.txt", &head, 1)]);
        site.world.queue.put(body.clone());
        let first = site.start("first", &Setup { concurrency: 1, ..Setup::default() });
        until("the twin is in work", Duration::from_secs(5), || site.reader.works("a.txt") == 1).await;
        site.world.queue.faults(|faults| faults.redeliver_early = 0.0);
        if !duplicate_of_sqs {
            site.world.queue.put(body); // the same event, told twice
        }
        let second = site.start("second", &Setup::default());
        until("the duplicate is settled", Duration::from_secs(120), || second.books.snapshot(false).done == 1).await;
        first.crash();
        site.until_empty().await;
        assert_eq!(history::in_step(&site.world, &["a.txt"]), Ok(()));
        assert_eq!(site.world.store.keys(RESULTS, "processed/").len(), 1);
        second.stop().await;
    }
}
