//! Where each kind of letter ends, and which are meant.

use super::*;

#[tokio::test(start_paused = true)]
async fn each_kind_of_letter_ends_where_the_table_says() {
    let site = Site::new(1);
    // Done and indexed; done, and the index lost it; never done.
    let (done, unindexed, owed) = ("a/done.txt", "a/unindexed.txt", "a/owed.txt");
    let bodies: Vec<String> = [done, unindexed].map(|key| event(&site, key)).into();
    let ids: Vec<MessageId> = bodies.iter().map(|body| site.world.queue.put(body.clone())).collect();
    let dead_search = Setup { search: false, ..Setup::default() };
    let worker = site.start("w", &dead_search);
    site.until_empty().await;
    worker.stop().await;
    for marker in site.world.store.keys(RESULTS, "retry-index/") {
        site.world.store.remove_object(RESULTS, &marker); // lost: that is what the drain is to find
    }
    // `done` gets into the index; its letter names the message that did it.
    let name = |id: &MessageId, body: &String| {
        let attributes = BTreeMap::from([("Quittance".to_owned(), note("attempts_exhausted", &id.0, 0))]);
        site.world.dead_letters.put_message(Outgoing { body: body.clone(), attributes, group_id: None })
    };
    let first = name(&ids[0], &bodies[0]);
    let report = redrive(&site, &Typed::default()).await;
    assert_eq!((report.code(), report.tally.indexed, is_indexed(&site, done)), (0, 1, true), "{report:?}");
    name(&ids[0], &bodies[0]);
    let unindexed_letter = name(&ids[1], &bodies[1]);
    let owed_letter = moved(&site, event(&site, owed));
    let malformed = dead(&site, "{".into(), "malformed", 0);
    let foreign = dead(&site, json!({ "bucket": "elsewhere", "key": "k" }).to_string(), "not_allowed", 0);
    let gone_body = event(&site, "a/gone.txt");
    site.world.store.remove_object(SOURCE, "a/gone.txt");
    let gone = dead(&site, gone_body, "source_missing", 0);
    let test_event = moved(&site, json!({ "Service": "Amazon S3", "Event": "s3:TestEvent" }).to_string());
    let too_often = dead(&site, event(&site, "a/often.txt"), "crash_loop", 3);
    let denied = dead(&site, event(&site, "a/denied.txt"), "denied", 2);
    let full: BTreeMap<String, MessageAttribute> = (0..10)
        .map(|n| {
            let value = AttributeValue::Text("x".into());
            (format!("a{n}"), MessageAttribute { data_type: "String".into(), value })
        })
        .collect();
    let full = Outgoing { body: event(&site, "a/full.txt"), attributes: full, group_id: None };
    let full = site.world.dead_letters.put_message(full);

    let report = redrive(&site, &Typed::default()).await;
    let Tally { dropped, indexed, parked, resent, archived: given_up, left, .. } = &report.tally;
    assert_eq!((*dropped, *indexed, *parked, *resent, *given_up, *left), (2, 1, 0, 1, 6, 0), "{report:?}");
    assert_eq!((report.code(), site.world.dead_letters.is_empty()), (0, true), "{report:?}");
    assert!(is_indexed(&site, unindexed));
    let reasons = archived(&site);
    for (id, reason) in [
        (&malformed, "malformed"),
        (&foreign, "not_allowed"),
        (&gone, "source_missing"),
        (&too_often, "redriven_too_often"),
        (&denied, "denied"),
        (&full, "no_room"),
    ] {
        assert_eq!(reasons.get(&id.0).map(String::as_str), Some(reason), "{reasons:?}");
    }
    let audit: BTreeMap<String, String> = audits(&site)
        .iter()
        .map(|line| (line["message_id"].as_str().unwrap().into(), line["action"].as_str().unwrap().into()))
        .collect();
    for (id, action) in
        [(&first, "indexed"), (&unindexed_letter, "indexed"), (&owed_letter, "resent"), (&test_event, "dropped")]
    {
        assert_eq!(audit.get(&id.0).map(String::as_str), Some(action), "{audit:?}");
    }
    worked_off(&site).await;
    assert!(is_indexed(&site, owed) && site.world.dead_letters.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_goes_back_is_the_message_byte_for_byte_with_its_count_raised_and_its_first_id() {
    let site = Site::new(2);
    let body = event(&site, "日本/a b.txt");
    let binary = MessageAttribute { data_type: "Binary.x".into(), value: AttributeValue::Binary(vec![0, 255]) };
    let attributes =
        BTreeMap::from([("picture".to_owned(), binary), ("Quittance".to_owned(), note("deadline", "the-first", 1))]);
    let letter = Outgoing { body, attributes, group_id: Some("tenant-7".into()) };
    site.world.dead_letters.put_message(letter.clone());
    let plain = event(&site, "plain.txt");
    let moved_id = moved(&site, plain.clone());
    let report = redrive(&site, &Typed::default()).await;
    assert_eq!(report.tally.resent, 2, "{report:?}");
    let sent = site.world.queue.live();
    let note_of = |outgoing: &Outgoing| -> Value {
        let AttributeValue::Text(text) = &outgoing.attributes["Quittance"].value else { panic!("text") };
        serde_json::from_str(text).unwrap()
    };
    let ours = sent.iter().find(|(_, outgoing, _)| outgoing.group_id.is_some()).unwrap();
    let told = note_of(&ours.1);
    assert_eq!(
        (&told["redrives"], &told["message_id"], &told["reason"]),
        (&json!(2), &json!("the-first"), &json!("deadline"))
    );
    assert_eq!(told["run"], report.run_id);
    let mut without = (ours.1.clone(), letter);
    without.0.attributes.remove("Quittance");
    without.1.attributes.remove("Quittance");
    assert_eq!(without.0, without.1);
    let theirs = sent.iter().find(|(_, outgoing, _)| outgoing.body == plain).unwrap();
    let told = note_of(&theirs.1);
    assert_eq!((&told["redrives"], &told["message_id"]), (&json!(1), &json!(moved_id.0)));
    assert_eq!(told["reason"], "max_receives");
    // The worker's lines carry the first id; a letter made of it again keeps count and id.
    worked_off(&site).await;
    let lines = site.lines("message_settled");
    assert!(lines.iter().any(|line| line["original_message_id"] == "the-first"), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_selected_is_put_back_untouched_and_is_no_failure() {
    let site = Site::new(3);
    for n in 0..120 {
        dead(&site, event(&site, &format!("acme/{n}.txt")), "deadline", 0);
        dead(&site, event(&site, &format!("zoo/{n}.txt")), if n % 2 == 0 { "denied" } else { "limit" }, 0);
    }
    let mut typed = Typed::default();
    typed.selection.tenants = vec!["zoo".into()];
    typed.selection.reasons = vec!["denied".into()];
    let before: BTreeMap<String, Outgoing> =
        site.world.dead_letters.live().into_iter().map(|(id, outgoing, _)| (id.0, outgoing)).collect();
    let report = redrive(&site, &typed).await;
    assert_eq!((report.code(), report.tally.resent, report.tally.unmatched), (0, 60, 180), "{report:?}");
    let live = site.world.dead_letters.live();
    assert_eq!((live.len(), site.world.dead_letters.visible()), (180, 180), "all can be received again at once");
    for (id, outgoing, count) in live {
        assert_eq!((&before[&id.0], count), (&outgoing, 1), "each was looked at once");
    }
}

#[tokio::test(start_paused = true)]
async fn limits_end_it_and_batches_are_no_larger_than_asked() {
    let site = Site::new(4);
    for n in 0..95 {
        dead(&site, event(&site, &format!("{n}.txt")), "deadline", 0);
    }
    let mut typed = Typed::default();
    typed.limits.batch_size = 20;
    typed.limits.max_batches = Some(2);
    let report = redrive(&site, &typed).await;
    assert_eq!((report.code(), report.tally.resent, report.tally.batches), (0, 40, 2), "{report:?}");
    assert!(report.text("redrive again").contains("to go on: redrive again"));
    typed.limits.max_batches = None;
    typed.limits.max_messages = Some(25);
    let report = redrive(&site, &typed).await;
    assert_eq!((report.tally.resent, report.tally.batches), (25, 2), "{report:?}");
    assert_eq!(site.world.dead_letters.visible(), 30);
    typed.limits.max_messages = None;
    let report = redrive(&site, &typed).await;
    assert_eq!((report.tally.resent, report.left_in_dlq), (30, Some(0)), "{report:?}");
    let sizes: Vec<usize> = site
        .world
        .store
        .keys(RESULTS, "redrive/")
        .iter()
        .map(|key| {
            let body = site.world.store.object(RESULTS, key).unwrap().body;
            String::from_utf8(body.to_vec()).unwrap().lines().count()
        })
        .collect();
    assert!(sizes.iter().all(|size| *size <= 20) && sizes.iter().sum::<usize>() == 95, "{sizes:?}");
}

#[tokio::test(start_paused = true)]
async fn a3_5_a_dead_letter_that_is_sent_again_is_worked_on_and_not_deduplicated() {
    let site = Site::new(5);
    let key = "a.txt";
    let body = event(&site, key);
    site.world.store.remove_object(SOURCE, key);
    site.world.queue.put(body);
    site.drain(&Setup::default()).await;
    assert_eq!(site.world.dead_letters.live().len(), 1, "source_missing");
    site.world.store.put_object(SOURCE, key, "here it is"); // and no event tells
    let report = redrive(&site, &Typed::default()).await;
    assert_eq!(report.tally.resent, 1, "{report:?}");
    worked_off(&site).await;
    assert!(is_indexed(&site, key) && site.world.dead_letters.is_empty());
    let force = Typed { limits: Limits { force: true, ..Typed::default().limits }, ..Typed::default() };
    let done = site.lines("message_settled").last().unwrap()["message_id"].as_str().unwrap().to_owned();
    let attributes = BTreeMap::from([("Quittance".to_owned(), note("deadline", &done, 0))]);
    let body = s3_event(&[Record::created(SOURCE, key, &site.world.store.object(SOURCE, key).unwrap().head, 1)]);
    let letter = Outgoing { body, attributes, group_id: None };
    site.world.dead_letters.put_message(letter.clone());
    assert_eq!(redrive(&site, &Typed::default()).await.tally.dropped, 1);
    site.world.dead_letters.put_message(letter);
    assert_eq!(redrive(&site, &force).await.tally.resent, 1, "--force");
}

#[tokio::test(start_paused = true)]
async fn r7_a_plan_receives_nothing_and_a_sample_puts_all_of_it_back() {
    let site = Site::new(6);
    for n in 0..30 {
        dead(&site, event(&site, &format!("{n}.txt")), "deadline", 0);
        dead(&site, "{".into(), "malformed", 0);
    }
    let received = || {
        site.world.dead_letters.look(|memory| {
            memory.calls.iter().filter(|call| matches!(call.ask, crate::sim::QueueAsk::Receive { .. })).count()
        })
    };
    let report = plan(&site, None).await;
    assert_eq!((received(), report.received, report.visible, report.sample.is_none()), (0, 0, 60, true));
    assert!(report.text().contains("nothing was received"), "{}", report.text());
    let report = plan(&site, Some(25)).await;
    assert_eq!((report.received, site.world.dead_letters.visible()), (25, 60), "no more than was asked for");
    let report = plan(&site, Some(60)).await;
    let sample = report.sample.clone().unwrap();
    assert_eq!((report.received, sample.letters), (60, 60), "{report:?}");
    assert_eq!(sample.by_reason["deadline"]["resend"], 30);
    assert_eq!(sample.by_reason["malformed"]["archive"], 30);
    assert!(sample.first_expires.as_ref().is_some_and(|first| first.in_s > 0), "{sample:?}");
    assert_eq!(site.world.dead_letters.visible(), 60, "all are back");
    assert_eq!((site.world.queue.live().len(), archived(&site).len()), (0, 0), "nothing was done");
    assert!(report.text().contains("50.0 %)  deadline: resend"), "{}", report.text());
}

#[tokio::test(start_paused = true)]
async fn r11_it_is_told_when_sqs_deletes_the_first_of_those_that_stay() {
    const DAY: u64 = 86_400;
    let site = Site::new(7);
    dead(&site, "{".into(), "malformed", 0);
    tokio::time::sleep(Duration::from_secs(2 * DAY)).await;
    for n in 0..3 {
        dead(&site, event(&site, &format!("{n}.txt")), "denied", 0);
        dead(&site, "{".into(), "malformed", 0);
    }
    let sample = plan(&site, Some(60)).await.sample.unwrap();
    let mut typed = Typed::default();
    typed.selection.reasons = vec!["denied".into()];
    let report = redrive(&site, &typed).await;
    assert_eq!((report.code(), report.tally.resent, report.tally.unmatched), (0, 3, 4), "{report:?}");
    for told in [sample.first_expires, report.first_expires.clone()] {
        let left = u64::try_from(told.unwrap().in_s).unwrap();
        assert!((12 * DAY - 600..=12 * DAY).contains(&left), "14 days, and the oldest is 2 days old: {left}");
    }
    assert!(report.text("").contains("SQS deletes the first in 11 d 23 h"), "{}", report.text(""));
    let report = redrive(&site, &Typed::default()).await;
    assert_eq!((report.tally.archived, report.first_expires), (4, None), "nothing stays");
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_was_sent_back_and_that_sqs_moved_since_is_there_for_its_receives_and_not_as_before() {
    let site = Site::new(8);
    let body = event(&site, "a.txt");
    let attributes = BTreeMap::from([("Quittance".to_owned(), note("denied", "the-first", 2))]);
    site.world.dead_letters.put_moved_message(Outgoing { body, attributes, group_id: None }, &site.world.queue.arn());
    let mut typed = Typed::default();
    typed.selection.reasons = vec!["denied".into()];
    let report = redrive(&site, &typed).await;
    assert_eq!((report.tally.unmatched, report.tally.archived), (1, 0), "{report:?}");
    // Its last reason is not that it was denied again: the budget is that of all others.
    typed.selection.reasons = vec!["max_receives".into()];
    typed.selection.newer_than_ms = Some(3_600_000);
    let report = redrive(&site, &typed).await;
    assert_eq!((report.tally.resent, report.tally.archived), (1, 0), "{report:?}");
    assert_eq!(report.tally.by_reason["max_receives"]["resent"], 1);
    assert_eq!(audits(&site).last().unwrap()["original_message_id"], "the-first");
}
