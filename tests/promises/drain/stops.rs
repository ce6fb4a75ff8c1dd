//! Where going on would make things worse, it stops or waits, and says how to go on.

use quittance::redrive::report::End;
use quittance::store::StoreError;

use super::*;
use crate::sim::{Faults, Rule, Verb, until};

const SECOND: Duration = Duration::from_secs(1);

fn with_canary() -> Typed {
    let typed = Typed::default();
    Typed { limits: Limits { canary: 60 * SECOND, ..typed.limits }, ..typed }
}

fn letters(site: &Site, number: usize) {
    for n in 0..number {
        dead(site, event(site, &format!("{n}.txt")), "deadline", 0);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_worker_it_stops_after_the_first_ten() {
    let site = Site::new(1);
    letters(&site, 100);
    let report = redrive(&site, &with_canary()).await;
    assert_eq!((report.code(), report.end.clone()), (3, End::Unanswered { sent: 10, seconds: 60 }), "{report:?}");
    assert_eq!((site.world.queue.live().len(), site.world.dead_letters.live().len()), (10, 90));
    assert!(report.text("redrive").contains("Is a worker running"));
    let worker = site.start("w", &Setup::default());
    let report = redrive(&site, &with_canary()).await;
    site.until_empty().await;
    worker.stop().await;
    assert_eq!((report.code(), report.tally.resent), (0, 90), "{report:?}");
    assert!((0..100).all(|n| is_indexed(&site, &format!("{n}.txt"))));
}

#[tokio::test(start_paused = true)]
async fn r2_while_the_worker_fails_everything_it_stops_and_sends_nothing_twice() {
    let site = Site::new(2);
    letters(&site, 300);
    // All files are corrupt to this worker: each message comes straight back.
    let setup = Setup { max_object_bytes: 1, ..Setup::default() };
    let worker = site.start("w", &setup);
    // Without the first ten it is told only by what it meets again, behind all that was there before.
    for (canary, batch, sent) in [(Duration::ZERO, 20, 300), (60 * SECOND, 400, 10)] {
        let mut typed = Typed::default();
        typed.limits.canary = canary;
        typed.limits.batch_size = batch;
        let report = redrive(&site, &typed).await;
        assert!(matches!(report.end, End::Bouncing { .. }), "{report:?}");
        assert_eq!(report.code(), 3);
        assert_eq!((report.tally.resent, report.tally.came_back > 0), (sent, true), "{report:?}");
        site.until_empty().await;
    }
    worker.stop().await;
    assert_eq!(site.world.dead_letters.live().len(), 300, "all are still there");
    for (_, outgoing, _) in site.world.dead_letters.live() {
        let AttributeValue::Text(text) = &outgoing.attributes["Quittance"].value else { panic!("text") };
        let note: Value = serde_json::from_str(text).unwrap();
        assert!(note["redrives"].as_u64().unwrap() <= 2, "once for each run: {note}");
    }
}

#[tokio::test(start_paused = true)]
async fn r9_after_three_redrives_it_is_archived() {
    let site = Site::new(3);
    letters(&site, 12);
    let setup = Setup { max_object_bytes: 1, ..Setup::default() };
    for round in 0..4 {
        let mut typed = Typed::default();
        typed.limits.batch_size = 100;
        let report = redrive(&site, &typed).await;
        let expected = if round < 3 { (12, 0) } else { (0, 12) };
        assert_eq!((report.tally.resent, report.tally.archived), expected, "round {round}: {report:?}");
        site.drain_as(&format!("w{round}"), &setup).await;
    }
    assert!(site.world.dead_letters.is_empty());
    assert_eq!(archived(&site).values().filter(|reason| *reason == "redriven_too_often").count(), 12);
}

#[tokio::test(start_paused = true)]
async fn it_waits_while_the_index_is_sick_or_the_main_queue_is_full() {
    let site = Site::new(4);
    letters(&site, 30);
    site.world.search.down_for(300 * SECOND);
    let mut said = Said::default();
    let began = tokio::time::Instant::now();
    let report = Operator::new(&site, "operator", &Typed::default()).run_telling(&mut said).await;
    assert!(began.elapsed() >= 300 * SECOND, "{:?}", began.elapsed());
    assert_eq!(report.tally.resent, 30);
    assert!(said.0.lock().unwrap().iter().any(|said| said.contains("waiting: OpenSearch")));

    letters(&site, 30);
    let mut typed = Typed::default();
    typed.limits.max_backlog = 20;
    let mut said = Said::default();
    let operator = Operator::new(&site, "second", &typed);
    let (stop, told) = (operator.stop.clone(), said.0.clone());
    let run = tokio::spawn(async move { operator.run_telling(&mut said).await });
    until("it waits", 60 * SECOND, || told.lock().unwrap().iter().any(|said| said.contains("wait in the main queue")))
        .await;
    stop.cancel();
    let report = run.await.unwrap();
    assert_eq!((report.code(), &report.end, report.tally.received), (130, &End::Interrupted, 0), "{report:?}");

    site.world.search.down_for(3_600 * SECOND);
    let report = redrive(&site, &Typed::default()).await;
    assert_eq!((report.code(), report.tally.received), (75, 0), "ten minutes: {report:?}");
}

#[tokio::test(start_paused = true)]
async fn r12_an_interruption_finishes_the_batch_and_a_pause_lets_no_further_call_of_it_go() {
    for pause in [false, true] {
        let site = Site::new(5);
        letters(&site, 100);
        let typed = Typed { rate: 10, ..Typed::default() };
        let operator = Operator::new(&site, "operator", &typed);
        let (stop, paused) = (operator.stop.clone(), operator.paused.clone());
        let run = tokio::spawn(operator.run());
        until("it sends", 60 * SECOND, || !site.world.queue.live().is_empty()).await;
        if pause {
            paused.cancel();
        }
        stop.cancel();
        let report = run.await.unwrap();
        let expected = if pause { (3, End::Paused) } else { (130, End::Interrupted) };
        assert_eq!((report.code(), report.end.clone()), expected);
        let sent = if pause { 20 } else { 50 }; // the second call was waiting for its second
        assert_eq!((report.tally.resent, report.tally.deleted), (sent, sent), "{report:?}");
        assert_eq!(report.tally.left, 50 - sent, "all of the batch is accounted for: {report:?}");
        assert_eq!(site.world.dead_letters.visible(), 100 - sent as usize);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_deleted_whose_audit_is_not_written() {
    let site = Site::new(6);
    letters(&site, 30);
    let operator = Operator::new(&site, "operator", &Typed::default());
    site.world.store.inject(Rule {
        bucket: RESULTS.into(),
        prefix: format!("redrive/{}/000001", operator.wires.run),
        verb: Some(Verb::Put),
        error: StoreError::Unavailable("503".into()),
        times: None,
    });
    let report = operator.run().await;
    assert_eq!((report.code(), report.tally.deleted, report.tally.left), (75, 0, 30), "{report:?}");
    assert!(report.trouble.as_ref().is_some_and(|why| why.contains("sent back all the same")), "{report:?}");
    assert_eq!(site.world.dead_letters.visible(), 30);
    site.world.store.heal();
    let report = redrive(&site, &Typed::default()).await;
    assert_eq!((report.code(), report.tally.deleted), (0, 30), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn r4_of_a_send_that_fails_in_part_only_what_was_acknowledged_leaves() {
    let site = Site::new(7);
    letters(&site, 200);
    site.world.queue.faults(|faults| (faults.refuse_entry, faults.forget_entry) = (0.3, 0.1));
    let report = redrive(&site, &Typed::default()).await;
    site.world.queue.faults(|faults| (faults.refuse_entry, faults.forget_entry) = (0.0, 0.0));
    assert_eq!(report.tally.deleted, report.tally.resent, "{report:?}");
    assert_eq!(report.tally.resent + report.tally.left, 200);
    let again = redrive(&site, &Typed::default()).await;
    assert_eq!((again.code(), again.tally.resent), (0, report.tally.left), "{again:?}");
    worked_off(&site).await;
    assert!((0..200).all(|n| is_indexed(&site, &format!("{n}.txt"))));
}

#[tokio::test(start_paused = true)]
async fn r8_an_empty_poll_is_not_an_empty_queue() {
    let site = Site::new(8);
    letters(&site, 60);
    site.world.dead_letters.faults(|faults| faults.short_receives = true);
    let slow = Faults { fail_before: 0.3, ..Faults::default() };
    site.world.dead_letters.faults(|faults| faults.receive = slow);
    let report = redrive(&site, &Typed::default()).await;
    assert_eq!((report.tally.resent, report.end.clone()), (60, End::Emptied), "{report:?}");
}
