//! What is archived comes back whole, and what was not asked for stays.

use quittance::dead_letter::Origin;
use quittance::queue::{BatchSize, Refusal};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_letter_comes_back_whole_with_its_first_id_and_a_new_budget() {
    let site = Site::new(1);
    let world = &site.world;
    let old = note("first", 3);
    let given_up = letter(1, Some(&old));
    let key = archive(world).keep(&given_up, Some(old.clone()), "denied", "403", Some("run")).await.unwrap();
    assert_eq!(key, "archive/dlq/2026-11-22/letter-0001.json");
    assert_eq!(archive(world).keep(&given_up, Some(old.clone()), "denied", "403", Some("run")).await.unwrap(), key);
    // One that SQS moved has no note, and one that is full has no room for it.
    let bare = letter(2, None);
    archive(world).keep(&bare, None, "max_receives", "", None).await.unwrap();
    let mut full = letter(3, None);
    full.attributes.extend((0..8).map(|n| (format!("a{n}"), text("x"))));
    archive(world).keep(&full, None, "max_receives", "", None).await.unwrap();

    let (report, ears) = restore_all(&site).await;
    let expected = restore::Tally { looked_at: 3, sent: 3, without_note: 1, ..restore::Tally::default() };
    assert_eq!((report.tally, report.ended, ears.troubles()), (expected, Ended::Complete, vec![]));
    assert_eq!(archived(world), [""; 0]);
    let received = world.queue.receive(BatchSize::clamped(10), SECOND, SECOND).await.unwrap();
    for message in received {
        let was = [&given_up, &bare, &full].into_iter().find(|was| was.body == message.body).unwrap();
        assert_eq!(message.group_id, was.group_id);
        let others = |message: &Message| {
            let mut attributes = message.attributes.clone();
            attributes.remove(ATTRIBUTE);
            attributes
        };
        assert_eq!(others(&message), others(was));
        let origin = Origin::of(&message);
        let expected = match was.id.0.as_str() {
            "letter-0001" => Some("first"),
            "letter-0002" => Some("letter-0002"),
            _ => None,
        };
        assert_eq!(origin.as_ref().map(|origin| origin.message_id.as_str()), expected);
        assert!(origin.is_none_or(|origin| (origin.redrives, origin.run) == (0, None)), "a new budget");
    }
}

#[tokio::test(start_paused = true)]
async fn an_envelope_is_not_given_up_and_what_was_not_selected_stays() {
    let site = Site::new(2);
    let world = &site.world;
    give_up_on(world, 3).await;
    let envelope = Archived::envelope(&letter(9, None), Some(note("x", 0)));
    world.store.put_object(RESULTS, "archive/dlq/2026-11-22/letter-0009.json", serde_json::to_vec(&envelope).unwrap());
    world.store.put_object(RESULTS, "archive/dlq/2026-11-22/broken.json", "{");
    world.store.put_object(RESULTS, "archive/dlq/elsewhere", "not ours");
    archive(world).save(&letter(7, None), Source::Main, None).await.unwrap();

    let select = |selection: Selection| {
        let (process, mut ears) = (Process::new(&site), Ears::default());
        let run = process.restore(&site.world, selection);
        async move { process.run(async move { run.run(&mut ears).await }).await.unwrap().tally }
    };
    let by_prefix = Selection { key_prefix: Some("tenant/first-0001".into()), ..Selection::default() };
    let tally = select(by_prefix).await;
    assert_eq!((tally.sent, tally.unwanted, tally.envelopes, tally.unreadable), (1, 2, 1, 1));
    assert_eq!(tally.looked_at, tally.sent + tally.unwanted + tally.envelopes + tally.unreadable);
    let by_first_id = Selection { message_id: Some("first-0002".into()), ..Selection::default() };
    assert_eq!(select(by_first_id).await.sent, 1);
    let by_id = Selection { message_id: Some("letter-0000".into()), ..Selection::default() };
    let tally = select(by_id).await;
    assert_eq!((tally.sent, tally.looked_at), (1, 1), "nothing else is read");
    assert_eq!(sent(world).len(), 3);
    let left = [
        "archive/dlq/2026-11-22/broken.json",
        "archive/dlq/2026-11-22/letter-0009.json",
        "archive/dlq/elsewhere",
        "archive/main/2026-11-22/letter-0007.json",
    ];
    assert_eq!(archived(world), left);
    let from_main = Selection { source: Source::Main, ..Selection::default() };
    assert_eq!(select(from_main).await.sent, 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_archived_on_two_days_is_sent_once() {
    let site = Site::new(3);
    give_up_on(&site.world, 12).await;
    sleep(DAY).await;
    give_up_on(&site.world, 12).await;
    assert_eq!(archived(&site.world).len(), 24);
    let (report, _) = restore_all(&site).await;
    assert_eq!((report.tally.sent, report.tally.twice, report.tally.looked_at), (12, 12, 24));
    assert!(archived(&site.world).is_empty() && sent(&site.world).values().all(|times| *times == 1));
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_the_queue_refuses_stays_and_stops_nobody_behind_it() {
    let site = Site::new(5);
    give_up_on(&site.world, 12).await;
    let refusal = || Some(Refusal { code: "InvalidMessageContents".into(), sender_fault: true });
    // The third of the first call, and that one alone in each call after it.
    site.world.queue.faults(|faults| {
        faults.next_entries = [None, None, refusal(), None, None, None, None, None, None, None].into();
        faults.next_entries.extend((0..5).map(|_| refusal()));
    });
    let (report, ears) = restore_all(&site).await;
    assert_eq!((report.tally.sent, report.tally.refused, report.ended), (11, 1, Ended::Complete));
    assert_eq!(archived(&site.world), ["archive/dlq/2026-11-22/letter-0002.json"]);
    assert!(ears.troubles()[0].contains("InvalidMessageContents"), "{:?}", ears.troubles());
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_writes_nothing_and_a_stop_is_heard_between_two_batches() {
    let site = Site::new(6);
    give_up_on(&site.world, 30).await;
    let (process, mut ears) = (Process::new(&site), Ears::default());
    let run = Restore { outbox: None, ..process.restore(&site.world, Selection::default()) };
    let report = run.run(&mut ears).await;
    assert_eq!((report.tally.sent, ears.0.lock().unwrap().0.len()), (30, 30));
    assert_eq!((sent(&site.world).len(), archived(&site.world).len()), (0, 30));

    let some = Restore { most: Some(7), ..process.restore(&site.world, Selection::default()) };
    assert_eq!(some.run(&mut ears).await.tally.sent, 7);
    let stopped = process.restore(&site.world, Selection::default());
    stopped.stop.cancel();
    assert_eq!(stopped.run(&mut ears).await.ended, Ended::Interrupted);
    assert_eq!((sent(&site.world).len(), archived(&site.world).len()), (7, 23));
}
