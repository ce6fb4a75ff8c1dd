//! `redrive reprocess`: each file once, acknowledged, at the rate, and on from where it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use quittance::upkeep::Ended;
use quittance::upkeep::reprocess::{ExtractorVersion, Older, Report, Reprocess, Tally};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Ears, SECOND, area, in_step, outbox, standing, work_off};
use crate::sim::worker::namespace;
use crate::sim::{Faults, QueueAsk, RESULTS, SOURCE, Site, World, document_id};

fn reprocess(world: &World, rate: u32) -> Reprocess {
    Reprocess {
        store: Arc::new(world.store.seen_by("redrive")),
        outbox: Some(outbox(world, rate)),
        area: area("in/"),
        older_than: None,
        max_object_bytes: 1 << 20,
        stop: CancellationToken::new(),
    }
}

fn files(world: &World, number: usize) -> BTreeSet<String> {
    let keys: BTreeSet<String> = (0..number).map(|n| format!("in/{n:04} 日本")).collect();
    for key in &keys {
        world.store.put_object(SOURCE, key, format!("text of {key}"));
    }
    keys
}

/// Keys of the messages in the queue, and how often each.
fn sent(world: &World) -> BTreeMap<String, usize> {
    let mut sent = BTreeMap::new();
    for (_, message, _) in world.queue.live() {
        let body: Value = serde_json::from_str(&message.body).unwrap();
        assert_eq!((body["bucket"].as_str(), body["force"].as_bool()), (Some(SOURCE), Some(true)));
        *sent.entry(body["key"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    sent
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_was_filled_before_is_worked_on_and_again_at_will() {
    let site = Site::new(1);
    let keys = files(&site.world, 25);
    site.world.store.put_object(SOURCE, "in/folder/", "");
    site.world.store.put_object(SOURCE, "in/large", vec![b'x'; (1 << 20) + 1]);
    site.world.store.put_object(SOURCE, "elsewhere", "text");
    let mut revisions = BTreeMap::new();
    for _ in 0..2 {
        let report = reprocess(&site.world, 100).run(None, &mut Ears::default()).await;
        let expected = Tally { objects: 27, sent: 25, new_enough: 0, skipped: 2, unclear: 0 };
        assert_eq!((report.tally, report.ended), (expected, Ended::Complete));
        assert_eq!(sent(&site.world).keys().collect::<Vec<_>>(), keys.iter().collect::<Vec<_>>());
        work_off(&site).await;
        for key in &keys {
            assert_eq!(in_step(&site.world, key), Ok(()));
            let revision = standing(&site.world, key).unwrap().revision;
            assert!(revisions.insert(key.clone(), revision).is_none_or(|before| before < revision), "{key}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn entries_that_are_refused_or_forgotten_are_sent_again_and_counted_once() {
    for seed in 0..30 {
        let site = Site::new(seed);
        let keys = files(&site.world, 64);
        site.world.queue.faults(|faults| {
            faults.refuse_entry = 0.3;
            faults.forget_entry = 0.1;
            faults.send = Faults { fail_before: 0.1, lose_reply: 0.1, ..Faults::default() };
        });
        let (mut from, mut counted) = (None, 0);
        for run in 0.. {
            assert!(run < 40, "seed {seed}: it never ends");
            let report = reprocess(&site.world, 100).run(from.clone(), &mut Ears::default()).await;
            counted += report.tally.sent;
            // It never claims a key beyond what was acknowledged.
            let there = sent(&site.world);
            let claimed = keys.iter().filter(|key| report.cursor.as_ref().is_some_and(|cursor| *key <= cursor));
            claimed.for_each(|key| assert!(there.contains_key(key), "seed {seed}: {key}"));
            from = report.cursor;
            if report.ended == Ended::Complete {
                break;
            }
        }
        assert_eq!(sent(&site.world).len(), 64, "seed {seed}");
        assert!(counted >= 64, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_run_goes_on_behind_the_last_acknowledged_batch() {
    let site = Site::new(2);
    let keys = files(&site.world, 2_345);
    let (mut from, mut runs) = (None, 0);
    loop {
        let run = reprocess(&site.world, 10_000);
        let mut ears = Ears { stop_at: Some((50, run.stop.clone())), ..Ears::default() };
        let Report { tally, ended, cursor } = run.run(from.clone(), &mut ears).await;
        runs += 1;
        if ended == Ended::Complete {
            break;
        }
        assert_eq!((ended, tally.sent), (Ended::Interrupted, 500), "the batch in hand was finished");
        assert!(cursor > from);
        from = cursor;
    }
    assert_eq!(runs, 5);
    let there = sent(&site.world);
    assert!(there.len() == keys.len() && there.values().all(|times| *times == 1), "each once");
}

#[tokio::test(start_paused = true)]
async fn no_second_sees_more_messages_than_the_rate() {
    for rate in [1, 3, 10, 25, 200] {
        let site = Site::new(u64::from(rate));
        files(&site.world, 60);
        site.world.queue.faults(|faults| faults.refuse_entry = 0.1);
        let began = tokio::time::Instant::now();
        reprocess(&site.world, rate).run(None, &mut Ears::default()).await;
        let calls = site.world.queue.calls();
        let sends: Vec<(tokio::time::Instant, usize)> = calls
            .iter()
            .filter_map(|call| match &call.ask {
                QueueAsk::SendBatch(batch) => Some((call.asked.at, batch.len())),
                _ => None,
            })
            .collect();
        for (at, _) in &sends {
            let within = sends.iter().filter(|(other, _)| other >= at && *other < *at + SECOND);
            let within: usize = within.map(|(_, messages)| messages).sum();
            assert!(within <= rate as usize, "{within} at a rate of {rate}");
        }
        let seconds = began.elapsed().as_secs_f64();
        assert!(
            seconds < 3.0 * (60.0 / f64::from(rate)) + 20.0,
            "and it is not slower than that for nothing: {seconds}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn only_files_of_an_older_extractor_are_sent_where_that_was_asked_for() {
    let site = Site::new(3);
    let world = &site.world;
    files(world, 6);
    reprocess(world, 100).run(None, &mut Ears::default()).await;
    work_off(&site).await;
    let key = |n: usize| format!("in/{n:04} 日本");
    // The index says: 0 and 1 were read by an older one; it does not know 2 and 3. The records are all of the first.
    world.search.forge(|_, documents| {
        for n in [0, 1] {
            documents.get_mut(&document_id(&key(n))).unwrap().source["extractor"] = "quittance-extract/0".into();
        }
        for n in [2, 3] {
            documents.remove(&document_id(&key(n)));
        }
    });
    world.store.remove_object(RESULTS, &crate::sim::record_key(&key(3)));
    // Of 5 it has the tombstone still, which nobody has read: the file came back, and its record says by whom it was read.
    world.search.forge(|_, documents| {
        let source = &mut documents.get_mut(&document_id(&key(5))).unwrap().source;
        (source["deleted"], source["extractor"]) = (true.into(), Value::Null);
    });
    let of = |than: &str, outbox| Reprocess {
        older_than: Some(Older {
            than: ExtractorVersion::parse(than).unwrap(),
            catalogue: Arc::new(world.search.clone()),
            namespace: namespace(),
            results_bucket: RESULTS.into(),
        }),
        outbox,
        ..reprocess(world, 100)
    };
    let report = of("1", Some(outbox(world, 100))).run(None, &mut Ears::default()).await;
    assert_eq!((report.tally.sent, report.tally.new_enough), (3, 3));
    assert_eq!(sent(world).into_keys().collect::<Vec<_>>(), [key(0), key(1), key(3)]);
    // A dry run counts and sends nothing.
    let asked = world.queue.asked();
    let report = of("2", None).run(None, &mut Ears::default()).await;
    assert_eq!((report.tally.sent, world.queue.asked()), (6, asked));
}
