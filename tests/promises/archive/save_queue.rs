//! A queue that is saved: each message is seen once and given back, or deleted after its object is durable (P3).

use quittance::queue::{BatchSize, Refusal};
use quittance::store::StoreError;

use super::*;
use crate::sim::{Cut, Faults, QueueAnswer, QueueAsk, Rule, StoreAnswer, StoreAsk, Verb};

#[tokio::test(start_paused = true)]
async fn a_saved_queue_keeps_its_messages_and_each_was_seen_once() {
    let site = Site::new(7);
    fill(&site.world, 345);
    let process = Process::new(&site);
    let report = process.save(&site, |_| ()).await.unwrap();
    let save::Tally { received, saved: written, removed, returned, unsaved, lease_lost, .. } = report.tally;
    assert_eq!((received, written, removed, returned, unsaved, lease_lost), (345, 345, 0, 345, 0, 0));
    assert!(report.is_well() && report.ended == Ended::Complete && report.books.balanced, "{report:?}");
    assert_eq!((saved(&site.world), site.world.queue.visible()), (sent(&site.world), 345));
    assert!(site.world.queue.live().iter().all(|(_, _, count)| *count == 1), "one receive each");
    assert!(site.world.dead_letters.is_empty());
}

#[tokio::test(start_paused = true)]
async fn with_remove_each_delete_follows_its_acknowledged_object() {
    let site = Site::new(8);
    fill(&site.world, 120);
    let before = sent(&site.world);
    site.world.store.faults(|faults| faults.put = Faults { fail_before: 0.1, lose_reply: 0.1, ..Faults::default() });
    let process = Process::new(&site);
    let report = process.save(&site, |save| save.remove = true).await.unwrap();
    assert!(report.is_well() && report.tally.removed == 120, "{report:?}");
    assert_eq!((saved(&site.world), site.world.queue.is_empty()), (before, true));
    // By the services' own memory.
    let mut durable = BTreeMap::new();
    for call in site.world.store.calls() {
        if let (StoreAsk::Put { key, .. }, Some((stamp, StoreAnswer::Put(_)))) = (&call.ask, &call.answered) {
            let id = key.rsplit('/').next().unwrap().trim_end_matches(".json").to_owned();
            durable.entry(id).or_insert(stamp.order);
        }
    }
    let mut owner = BTreeMap::new();
    let mut deleted = 0;
    for call in site.world.queue.calls() {
        if let Some((_, QueueAnswer::Received(messages))) = &call.answered {
            owner.extend(messages.iter().map(|message| (message.handle.0.clone(), message.id.0.clone())));
        }
        if let QueueAsk::Delete(handles) = &call.ask {
            for handle in handles {
                deleted += 1;
                assert!(durable[&owner[&handle.0]] < call.asked.order, "deleted before it was durable");
            }
        }
    }
    assert!(deleted >= 120);
}

#[tokio::test(start_paused = true)]
async fn a_save_killed_anywhere_loses_nothing_and_the_queue_is_whole_again_when_the_leases_end() {
    for (remove, cut) in [(false, Cut::Before), (true, Cut::Before), (true, Cut::After)] {
        for number in 0.. {
            let site = Site::new(number as u64);
            fill(&site.world, 33);
            let all = sent(&site.world);
            let process = Process::new(&site);
            process.wires.cut_at(move |asking| (asking.number == number).then_some(cut));
            if process.save(&site, move |save| save.remove = remove).await.is_some() {
                assert!(number > 40, "{number}");
                break;
            }
            sleep(2 * LEASE).await;
            let (here, there) = (sent(&site.world), saved(&site.world));
            let lost: Vec<&String> =
                all.keys().filter(|body| !here.contains_key(*body) && !there.contains_key(*body)).collect();
            assert!(lost.is_empty(), "remove {remove}, {cut:?} {number}: {lost:?}");
            assert_eq!(site.world.queue.visible(), here.len(), "remove {remove}, {cut:?} {number}");
            assert!(remove || here == all);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_is_returned_and_what_others_hold_is_told() {
    let site = Site::new(9);
    fill(&site.world, 30);
    let denied = |key: &str| Rule {
        bucket: RESULTS.into(),
        prefix: key.into(),
        verb: Some(Verb::Put),
        error: StoreError::Denied("no".into()),
        times: None,
    };
    site.world.store.inject(denied("archive/"));
    for remove in [false, true] {
        let process = Process::new(&site);
        let report = process.save(&site, move |save| save.remove = remove).await.unwrap();
        assert!(matches!(report.ended, Ended::Sick(_)) && report.tally.saved == 0, "{report:?}");
        assert_eq!((site.world.queue.visible(), sent(&site.world).len()), (30, 30), "remove {remove}");
    }
    site.world.store.heal();
    // Somebody else holds five.
    let held = site.world.queue.receive(BatchSize::clamped(5), SECOND, HOUR).await.unwrap();
    for remove in [false, true] {
        let process = Process::new(&site);
        let report = process.save(&site, move |save| save.remove = remove).await.unwrap();
        assert_eq!((report.tally.saved, report.unseen, report.is_well()), (25, 5, false), "{report:?}");
    }
    assert_eq!((held.len(), sent(&site.world).len()), (5, 5));
}

#[tokio::test(start_paused = true)]
async fn a_limit_and_a_stop_end_a_save_with_the_rest_untouched() {
    let site = Site::new(10);
    fill(&site.world, 100);
    let process = Process::new(&site);
    let report = process.save(&site, |save| save.most = Some(42)).await.unwrap();
    assert_eq!((report.tally.saved, report.unseen, report.at_limit), (42, 58, true));
    assert_eq!((saved(&site.world).len(), site.world.queue.visible()), (42, 100));
    let process = Process::new(&site);
    let stopped = |save: &mut Save| {
        save.remove = true;
        save.stop.cancel();
    };
    let report = process.save(&site, stopped).await.unwrap();
    assert_eq!((report.ended, report.tally.received), (Ended::Interrupted, 0));
}

#[tokio::test(start_paused = true)]
async fn where_no_delete_is_acknowledged_a_save_ends_and_does_not_go_round() {
    let site = Site::new(11);
    fill(&site.world, 1_500);
    site.world.queue.faults(|faults| faults.delete = Faults { fail_before: 1.0, ..Faults::default() });
    let process = Process::new(&site);
    let report = process.save(&site, |save| save.remove = true).await.unwrap();
    assert!(matches!(&report.ended, Ended::Sick(why) if why.contains("deletes were not acknowledged")), "{report:?}");
    assert!(report.books.balanced && report.tally.removed == 0, "{report:?}");
    let live = site.world.queue.live();
    let most = live.iter().map(|(_, _, count)| *count).max();
    assert_eq!((live.len(), most), (1_500, Some(1)), "none was received twice for nothing");

    // Taken, and not: SQS says that each receipt is not ours.
    let site = Site::new(12);
    fill(&site.world, 1_500);
    let refusal = Refusal { code: "ReceiptHandleIsInvalid".into(), sender_fault: true };
    site.world.queue.faults(|faults| {
        faults.next_entries = (0..1_500).map(|_| Some(refusal.clone())).collect();
    });
    let process = Process::new(&site);
    let report = process.save(&site, |save| save.remove = true).await.unwrap();
    assert!(matches!(report.ended, Ended::Sick(_)) && report.tally.lease_lost >= 200, "{report:?}");
    assert!(report.tally.received < 500 && site.world.queue.live().len() == 1_500, "{report:?}");
}

#[test]
fn a_save_beside_workers_deletes_nothing_and_lets_go_of_all() {
    crate::sim::for_seeds(0..20, |seed| async move {
        let site = Site::new(seed);
        let keys: Vec<String> = (0..150).map(|n| format!("files/{n}.txt")).collect();
        for key in &keys {
            site.world.queue.put(crate::drain::event(&site, key));
        }
        let slow = Faults { latency: (Duration::ZERO, SECOND), ..Faults::default() };
        site.world.store.faults(|faults| faults.all(&slow));
        site.world.queue.faults(|faults| {
            faults.all(&slow);
            (faults.reorder, faults.redeliver_early, faults.refuse_entry) = (true, 0.03, 0.03);
        });
        let worker = site.start("worker", &Setup::default());
        let process = Process::new(&site);
        let report = process.save(&site, |_| ()).await.unwrap();
        assert!(report.ended == Ended::Complete && report.tally.removed == 0, "seed {seed}: {report:?}");
        assert_eq!(report.tally.unsaved, 0, "seed {seed}");
        assert!(report.tally.saved > 0, "seed {seed}: it got its share");
        site.until_empty().await;
        worker.stop().await;
        assert!(site.world.dead_letters.is_empty(), "seed {seed}");
        assert!(keys.iter().all(|key| crate::drain::is_indexed(&site, key)), "seed {seed}: the workers got theirs");
    });
}
