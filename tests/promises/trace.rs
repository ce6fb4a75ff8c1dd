//! `redrive trace` on the model: the life of a file or a message, told whole while sources are sick, and nothing changed.

use std::sync::Arc;
use std::time::Duration;

use quittance::message::{Message, MessageId};
use quittance::queue::Outgoing;
use quittance::store::StoreError;
use quittance::trace::findings::{Letters, Look, Place};
use quittance::trace::verdict::State;
use quittance::trace::{Peek, Report, Target, Trace};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::drain::grip;
use super::replay::{marker, record};
use crate::sim::worker::namespace;
use crate::sim::{
    Faults, QueueAnswer, RESULTS, Rule, SOURCE, SearchAsk, Setup, Site, StoreAsk, Verb, document_id, record_key,
};

const SECOND: Duration = Duration::from_secs(1);
const ME: &str = "redrive";

/// As `redrive trace` is put together.
fn trace(site: &Site) -> Trace {
    Trace {
        store: Arc::new(site.world.store.seen_by(ME)),
        results_bucket: RESULTS.into(),
        namespace: namespace(),
        index: Some(Arc::new(site.world.search.seen_by(ME))),
        dead_letters: None,
        days: 15,
        clock: Arc::new(site.world.clock.clone()),
    }
}

fn with_dlq(site: &Site, most: usize, stop: &CancellationToken) -> Trace {
    let queue = Arc::new(site.world.dead_letters.seen_by(ME));
    let grip = grip(&site.world, queue.clone(), most, 30 * SECOND);
    Trace { dead_letters: Some(Peek { queue, grip, most, stop: stop.clone() }), ..trace(site) }
}

fn file(key: &str) -> Target {
    Target::File { bucket: SOURCE.into(), key: key.into() }
}

async fn of_file(site: &Site, key: &str) -> Report {
    trace(site).run(&file(key)).await
}

async fn of_message(site: &Site, id: &MessageId) -> Report {
    trace(site).run(&Target::Message(id.clone())).await
}

/// A letter in the archive, as `redrive` writes them.
fn archive(site: &Site, day: &str, id: &str, original: &str, body: &str) {
    let note = json!({ "v": 1, "reason": "source_missing", "detail": "GET says 404", "attempts": 5,
        "first_failed_at": "2026-11-20T00:00:00.000Z", "last_failed_at": "2026-11-20T01:00:00.000Z", "work_ids": [],
        "keys": [], "source_queue": "q", "message_id": original, "redrives": 3 });
    let letter = json!({ "v": 1, "message_id": id, "note": note, "body": body, "attributes": {}, "group_id": null,
        "archived_at": format!("{day}T02:00:00.000Z"), "reason": "redriven", "detail": "three times" });
    site.world.store.put_object(RESULTS, &format!("archive/dlq/{day}/{id}.json"), letter.to_string());
}

fn minimal(key: &str) -> String {
    json!({ "bucket": SOURCE, "key": key }).to_string()
}

/// What this trace has done to anything.
fn writes(site: &Site) -> Vec<String> {
    let store = site.world.store.look(|memory| {
        let mine = memory.calls.iter().filter(|call| *call.who == *ME);
        let wrote = mine.filter(|call| {
            matches!(call.ask, StoreAsk::Put { .. } | StoreAsk::Delete { .. } | StoreAsk::DeleteIfMatch { .. })
        });
        wrote.map(|call| format!("{:?}", call.ask)).collect::<Vec<_>>()
    });
    let search = site.world.search.calls().into_iter().filter(|call| *call.who == *ME);
    let wrote = search.filter(|call| matches!(call.ask, SearchAsk::Bulk(_) | SearchAsk::Remove(_)));
    store.into_iter().chain(wrote.map(|call| format!("{:?}", call.ask))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_file_in_step_a_removed_one_and_the_messages_that_did_it_are_told_and_nothing_is_changed() {
    let site = Site::new(1);
    let put = site.world.upload("日本/a b.txt", "text", 1);
    let gone = site.world.upload("gone.txt", "text", 1);
    site.drain_as("w1", &Setup::default()).await;
    let removed = site.world.remove("gone.txt", 2);
    site.drain_as("w2", &Setup::default()).await;

    let told = of_file(&site, "日本/a b.txt").await;
    assert_eq!((told.verdict.state, told.code, told.unheard.len()), (State::InStep, 0, 0), "{told:?}");
    let json: Value = serde_json::from_str(&told.json()).unwrap();
    assert_eq!(json["file"]["record"]["found"]["message_id"], put.0);
    assert_eq!(json["file"]["index"]["found"]["revision"], json["file"]["record"]["found"]["revision"]);
    assert_eq!((&json["file"]["shown"]["found"], &json["file"]["parked"]["state"]), (&json!(true), &json!("nothing")));
    assert_eq!((&json["verdict"]["state"], &json["cannot_tell"]), (&json!("in_step"), &json!([])));
    assert!(told.text().starts_with("s3://source/日本/a b.txt\n  in step: recorded at revision"), "{}", told.text());
    assert!(told.text().lines().count() <= 24, "one screen: {}", told.text());

    let told = of_file(&site, "gone.txt").await;
    assert_eq!((told.verdict.state, told.code), (State::Removed, 0), "{told:?}");
    for (id, state, documents) in
        [(&put, State::InStep, Some(1)), (&removed, State::Removed, Some(1)), (&gone, State::NoTrace, None)]
    {
        let told = of_message(&site, id).await;
        let message = told.message.as_ref().unwrap();
        assert_eq!((told.verdict.state, message.documents.found().copied()), (state, documents), "{told:?}");
        assert_eq!(told.code, if state == State::NoTrace { 3 } else { 0 });
        if state == State::NoTrace {
            assert!(
                told.text().contains("superseded or skipped"),
                "its file was written by another since: {}",
                told.text()
            );
        }
    }
    assert_eq!(writes(&site), Vec::<String>::new());
    assert_eq!(site.world.dead_letters.asked(), 0, "without --dlq nobody asks a queue");
}

#[tokio::test(start_paused = true)]
async fn a_parked_document_an_errored_one_and_a_file_without_a_record_are_told_with_the_reason_and_the_next_step() {
    let site = Site::new(2);
    site.world.upload("parked.txt", "text", 1);
    site.drain_as("w3", &Setup { search: false, ..Setup::default() }).await;
    let told = of_file(&site, "parked.txt").await;
    assert_eq!((told.verdict.state, told.code), (State::Parked, 0), "{told:?}");
    assert!(told.verdict.line.contains("SKIP_OPENSEARCH is set") && told.text().contains("redrive parked"), "{told:?}");

    site.world.search.faults(|all| drop(all.refuse.insert(document_id("errored.txt"), "400 mapper: no".into())));
    site.world.upload("errored.txt", "text", 1);
    site.drain_as("w4", &Setup::default()).await;
    let told = of_file(&site, "errored.txt").await;
    assert_eq!((told.verdict.state, told.code), (State::Errored, 0), "{told:?}");
    assert!(told.verdict.line.contains("400 mapper: no"), "{told:?}");

    site.world.store.put_object(SOURCE, "unheard of.txt", "text");
    let told = of_file(&site, "unheard of.txt").await;
    assert_eq!((told.verdict.state, told.code), (State::Unrecorded, 0), "{told:?}");
    let text = told.text();
    for part in [
        "--prefix 'unheard of.txt' --repair",
        "SQS cannot be searched",
        "@message like \"\\\"unheard of.txt\\\"\"",
        "--dlq",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let told = of_file(&site, "a+b%2Etxt").await;
    assert_eq!((told.verdict.state, told.code), (State::NoTrace, 3), "{told:?}");
    assert!(told.text().contains("redrive trace 's3://source/a b.txt'"), "{}", told.text());
    let told = trace(&site).run(&Target::File { bucket: "elsewhere".into(), key: "k".into() }).await;
    assert_eq!((told.verdict.state, told.code), (State::Unclear, 3), "a missing bucket is no missing file: {told:?}");
}

#[tokio::test(start_paused = true)]
async fn failed_attempts_are_told_by_message_with_their_reasons() {
    let site = Site::new(3);
    let id = site.world.queue.put(minimal("never came.txt"));
    let worker = site.start("w", &Setup::default());
    crate::sim::until("two failures", 3_600 * SECOND, || {
        site.attempts_of(&id).is_some_and(|attempts| attempts["failed"] == 2)
    })
    .await;
    worker.stop().await;
    let told = of_message(&site, &id).await;
    assert_eq!((told.verdict.state, told.code), (State::Failing, 0), "{told:?}");
    assert!(told.verdict.line.starts_with("failed 2 times, last at 2026-11-22T"), "{told:?}");
    assert!(told.text().contains(&format!("original_message_id = \"{id}\"")), "{}", told.text());
}

#[tokio::test(start_paused = true)]
async fn each_source_that_fails_or_is_silent_is_told_and_hides_no_other() {
    let site = Site::new(4);
    site.world.upload("a.txt", "text", 1);
    site.drain(&Setup::default()).await;
    let silent = Faults { latency: (3_600 * SECOND, 3_600 * SECOND), ..Faults::default() };
    let down = Faults { down: true, ..Faults::default() };
    for (faults, how) in [(silent, "no answer within 5s"), (down, "")] {
        for (verb, unheard) in [
            ("head", &["file"][..]),
            ("get", &["record"]),
            ("list", &["parked", "errored", "archive"]),
            ("index", &["index", "search"]),
        ] {
            match verb {
                "head" => site.world.store.faults(|all| all.head = faults.clone()),
                "get" => site.world.store.faults(|all| all.get = faults.clone()),
                "list" => site.world.store.faults(|all| all.list = faults.clone()),
                _ => site.world.search.faults(|all| all.catalogue = faults.clone()),
            }
            let began = Instant::now();
            let told = of_file(&site, "a.txt").await;
            assert!(began.elapsed() <= 12 * SECOND, "{verb}: {:?}", began.elapsed());
            let names: Vec<&str> = told.unheard.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!((names.as_slice(), told.code), (unheard, 3), "{verb}: {told:?}");
            assert!(told.unheard.iter().all(|(_, why)| why.contains(how)), "{verb}: {told:?}");
            assert!(told.text().contains("could not be asked: "), "{}", told.text());
            let found = told.file.as_ref().unwrap();
            let answers =
                [found.object.found().is_some(), found.record.found().is_some(), found.index.found().is_some()];
            assert_eq!(
                answers.iter().filter(|answer| !**answer).count(),
                usize::from(verb != "list"),
                "{verb}: {told:?}"
            );
            site.world.store.heal();
            site.world.search.faults(|all| all.catalogue = Faults::default());
        }
    }
    // Nobody answers: nothing was found out.
    site.world.store.faults(|all| all.all(&Faults { down: true, ..Faults::default() }));
    site.world.search.faults(|all| all.catalogue.down = true);
    assert_eq!(of_file(&site, "a.txt").await.code, 75);
    let told = of_message(&site, &MessageId("m".into())).await;
    assert_eq!((told.code, told.verdict.state), (75, State::Unclear), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn one_denied_record_and_one_broken_marker_are_told_as_such() {
    let site = Site::new(5);
    let made = record(&site, "a.txt", 0, 7, false);
    let at = marker(&site, &made, 7, "retry-index");
    site.world.store.put_object(RESULTS, &at, "no marker");
    let told = of_file(&site, "a.txt").await;
    let marks = told.file.as_ref().unwrap().parked.found().unwrap();
    assert_eq!((marks.marks[0].revision, &marks.marks[0].reason), (7, &None), "its key says so: {told:?}");
    assert!(told.text().contains("its marker cannot be read"), "{}", told.text());
    site.world.store.inject(Rule {
        bucket: RESULTS.into(),
        prefix: record_key("a.txt"),
        verb: Some(Verb::Get),
        error: StoreError::Denied("AccessDenied: kms".into()),
        times: None,
    });
    let told = of_file(&site, "a.txt").await;
    assert_eq!((told.verdict.state, told.code), (State::Unclear, 3));
    assert!(told.verdict.line.contains("AccessDenied: kms"), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn markers_are_found_on_whatever_day_and_however_many_others_there_are() {
    let site = Site::new(6);
    for day in 0..40 {
        for other in 0..3 {
            marker(&site, &record(&site, &format!("{day}-{other}.txt"), day, 7, false), 7, "retry-index");
        }
    }
    // Long ago: an older revision. And today, the record's day, which is beyond what is leapt over.
    marker(&site, &record(&site, "a.txt", 39, 5, false), 5, "retry-index");
    marker(&site, &record(&site, "a.txt", 0, 9, false), 9, "retry-index");
    let told = of_file(&site, "a.txt").await;
    let marks = told.file.as_ref().unwrap().parked.found().unwrap();
    let revisions: Vec<u64> = marks.marks.iter().map(|mark| mark.revision).collect();
    assert_eq!(revisions, [5, 9], "{told:?}");
    assert_eq!(marks.not_from.as_deref(), Some("2026-10-28"), "{told:?}");
    let lists = site.world.store.look(|memory| {
        let lists = memory
            .calls
            .iter()
            .filter(|call| matches!(&call.ask, StoreAsk::List { prefix, .. } if prefix.starts_with("retry")));
        lists.count()
    });
    assert!(lists <= 30, "{lists} LISTs");
}

#[tokio::test(start_paused = true)]
async fn what_was_given_up_on_is_found_by_its_first_id_its_own_and_its_file() {
    let site = Site::new(7);
    archive(&site, "2026-11-21", "d-1", "m-1", &minimal("日本.txt"));
    archive(&site, "2026-11-20", "d-2", "m-2", &minimal("other.txt"));
    archive(&site, "2026-10-01", "d-3", "m-3", &minimal("old.txt"));
    for target in [Target::Message(MessageId("m-1".into())), Target::Message(MessageId("d-1".into())), file("日本.txt")]
    {
        let told = trace(&site).run(&target).await;
        assert_eq!((told.verdict.state, told.code), (State::GivenUp, 0), "{told:?}");
        assert!(told.verdict.line.contains("redriven (three times), 5 attempts, redriven 3 times"), "{told:?}");
        assert!(told.text().contains("redrive archive restore --message-id 'd-1'"), "{}", told.text());
    }
    let old = trace(&site).run(&file("old.txt")).await;
    assert_eq!(old.verdict.state, State::NoTrace);
    let far = Trace { days: 60, ..trace(&site) }.run(&file("old.txt")).await;
    assert_eq!(far.verdict.state, State::GivenUp);
    // More than are read: what is not found may be among them, unless its name is known.
    for n in 0..320 {
        archive(&site, "2026-11-22", &format!("x-{n:03}"), &format!("o-{n:03}"), "no event");
    }
    let told = trace(&site).run(&file("日本.txt")).await;
    assert!(told.text().contains("Of the archive 300 letters were read, and there are more"), "{}", told.text());
    assert_eq!(of_message(&site, &MessageId("d-1".into())).await.verdict.state, State::GivenUp);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_was_saved_of_the_main_queue_is_found_by_its_file_and_by_its_first_id() {
    let site = Site::new(9);
    site.world.store.put_object(SOURCE, "there.txt", "text");
    for (id, key) in [("q-1", "there.txt"), ("q-2", "gone.txt")] {
        let note = json!({ "v": 1, "reason": "denied", "detail": "", "attempts": 5, "first_failed_at": "a",
            "last_failed_at": "b", "work_ids": [], "keys": [], "source_queue": "q", "message_id": format!("first-{id}"),
            "redrives": 1 });
        let letter = json!({ "v": 1, "message_id": id, "note": note, "body": minimal(key), "attributes": {},
            "group_id": null, "archived_at": "2026-11-21T02:00:00.000Z", "reason": "saved", "source": "main",
            "saved": true });
        site.world.store.put_object(RESULTS, &format!("archive/main/2026-11-21/{id}.json"), letter.to_string());
    }
    let told = of_file(&site, "there.txt").await;
    assert_eq!(told.verdict.state, State::Unrecorded, "{told:?}");
    assert!(told.verdict.next.contains(&"redrive archive show 'q-1'".to_owned()), "{told:?}");
    for target in [file("gone.txt"), Target::Message(MessageId("first-q-2".into()))] {
        let told = trace(&site).run(&target).await;
        assert!(told.verdict.line.contains("was saved"), "{told:?}");
        assert!(told.text().contains("redrive archive show 'q-2'"), "{}", told.text());
    }
    let told = of_message(&site, &MessageId("q-2".into())).await;
    assert!(told.verdict.line.contains("was saved"), "{told:?}");
}

fn received(site: &Site) -> Vec<Message> {
    let calls = site.world.dead_letters.calls().into_iter().filter(|call| *call.who == *ME);
    let answers = calls.filter_map(|call| match call.answered {
        Some((_, QueueAnswer::Received(messages))) => Some(messages),
        _ => None,
    });
    answers.flatten().collect()
}

#[tokio::test(start_paused = true)]
async fn a_look_into_the_dead_letter_queue_finds_the_letter_and_returns_every_message_it_received() {
    let site = Site::new(8);
    let ids: Vec<MessageId> = (0..25).map(|n| site.world.queue.put(format!("no event {n}"))).collect();
    let far = site.world.dead_letters.put(minimal("moved by sqs.txt"));
    site.drain(&Setup::default()).await;
    assert_eq!(site.world.dead_letters.visible(), 26);
    let stop = CancellationToken::new();
    let told = with_dlq(&site, 100, &stop).run(&Target::Message(ids[13].clone())).await;
    assert_eq!((told.verdict.state, told.code), (State::DeadLettered, 0), "{told:?}");
    assert!(told.verdict.line.contains(": malformed ("), "{told:?}");
    let Look::Found(Letters { found, .. }) = &told.message.as_ref().unwrap().dead_letters else { panic!("{told:?}") };
    assert_eq!((&found[0].place, found[0].original_message_id.as_ref()), (&Place::DeadLetterQueue, Some(&ids[13].0)));
    assert_eq!(site.world.dead_letters.visible(), 26, "all were returned");

    let told = with_dlq(&site, 100, &stop).run(&file("moved by sqs.txt")).await;
    assert_eq!(told.verdict.state, State::DeadLettered);
    assert!(told.verdict.line.contains("max_receives") && told.text().contains(&far.0), "{told:?}");
    assert!(told.text().contains("26 of about 26 received"), "{}", told.text());
    assert_eq!(site.world.dead_letters.visible(), 26);

    let before = received(&site).len();
    let told = with_dlq(&site, 7, &stop).run(&Target::Message(MessageId("nobody".into()))).await;
    assert_eq!((told.verdict.state, told.code, received(&site).len() - before), (State::NoTrace, 3, 7), "{told:?}");
    assert!(told.text().contains("7 messages were seen, and there are more"), "{}", told.text());
    assert_eq!(site.world.dead_letters.visible(), 26);
    assert_eq!(writes(&site), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_look_that_is_told_to_stop_or_meets_refusals_returns_what_it_holds() {
    for seed in 0..8 {
        let site = Site::new(seed);
        for n in 0..30 {
            site.world.dead_letters.put_message(Outgoing {
                body: format!("no event {n}"),
                attributes: Default::default(),
                group_id: None,
            });
        }
        site.world.dead_letters.faults(|all| {
            all.refuse_entry = 0.2;
            all.short_receives = true;
            all.receive.latency = (SECOND / 10, SECOND / 2);
        });
        let stop = CancellationToken::new();
        let run = with_dlq(&site, 1_000, &stop);
        let running = tokio::spawn(async move { run.run(&Target::Message(MessageId("nobody".into()))).await });
        tokio::time::sleep(SECOND).await;
        stop.cancel();
        let told = running.await.unwrap();
        assert!(told.text().contains("the look ended early: it was told to stop"), "{}", told.text());
        let hidden = 30 - site.world.dead_letters.visible();
        let told_hidden = told.text().lines().find(|line| line.contains("could not be returned")).map(str::to_owned);
        match hidden {
            0 => assert_eq!(told_hidden, None, "seed {seed}"),
            n => assert!(told_hidden.is_some_and(|line| line.contains(&format!("{n} could not"))), "seed {seed}: {n}"),
        }
        // Killed or not, they come back.
        tokio::time::sleep(31 * SECOND).await;
        assert_eq!(site.world.dead_letters.visible(), 30);
    }
}
