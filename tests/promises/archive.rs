//! `redrive archive` on the model: what is archived comes back whole, and nothing is lost wherever it is killed (P3, P9).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quittance::books::Books;
use quittance::dead_letter::{ATTRIBUTE, Note, Origin};
use quittance::message::{AttributeValue, Message, MessageAttribute, MessageId, ReceiptHandle};
use quittance::outcome::{Judgement, Outcome, RejectReason, RetryReason, Verdict};
use quittance::pipeline::Seat;
use quittance::queue::{BatchSize, Outgoing, Queue, Refusal};
use quittance::redrive::archive::restore::{self, Restore};
use quittance::redrive::archive::save::{self, Save};
use quittance::redrive::archive::shelf::{Selection, Shelf};
use quittance::redrive::archive::{Archive, Archived, Source};
use quittance::spawn::{Turns, given_by, tied};
use quittance::store::{Store, StoreError};
use quittance::upkeep::Ended;
use quittance::upkeep::outbox::Outbox;
use serde_json::Value;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::sim::bench::Bench;
use crate::sim::life::Life;
use crate::sim::wires::{Wired, Wires};
use crate::sim::{
    Cut, Faults, ModelQueue, QueueAnswer, QueueAsk, RESULTS, Rule, Setup, Site, StoreAnswer, StoreAsk, Verb, World,
    until,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// One process of `redrive`, which can be killed at any of its calls.
struct Process {
    wires: Arc<Wires>,
    life: Arc<Life>,
}

impl Process {
    fn new(site: &Site) -> Self {
        let run = site.next_run("redrive");
        let life = Life::new(&run, site.world.ticks.clone(), site.world.seed, 0.0);
        Self { wires: Wires::of(Arc::default(), run, Some(Arc::clone(&life))), life }
    }

    fn store(&self, world: &World) -> Arc<dyn Store> {
        Arc::new(Wired { wires: Arc::clone(&self.wires), port: world.store.seen_by("redrive") })
    }

    fn queue(&self, queue: &ModelQueue) -> Arc<dyn Queue> {
        Arc::new(Wired { wires: Arc::clone(&self.wires), port: queue.seen_by("redrive") })
    }

    /// Runs it until it ends or is killed.
    async fn run<T: Send + 'static>(&self, command: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let turns: Arc<dyn Turns> = self.life.clone();
        let task = tokio::spawn(given_by(turns, tied(command)));
        until("it ends or is killed", 24 * HOUR, || task.is_finished() || self.wires.is_cut()).await;
        if task.is_finished() { Some(task.await.unwrap()) } else { None }
    }

    fn restore(&self, world: &World, selection: Selection) -> Restore {
        Restore {
            shelf: Shelf { store: self.store(world), bucket: RESULTS.into() },
            outbox: Some(Outbox::new(self.queue(&world.queue), 1_000)),
            selection,
            most: None,
            stop: CancellationToken::new(),
        }
    }

    fn save(&self, site: &Site, remove: bool) -> Save {
        let world = &site.world;
        let setup = Setup { counts_failures: false, visibility: save::LEASE, ..Setup::default() };
        Save {
            queue: self.queue(&world.queue),
            desk: site.desk("redrive", &setup, &self.wires, &Arc::new(Books::default())),
            seat: Seat::Here,
            archive: Archive { store: self.store(world), ..archive(world) },
            source: Source::Main,
            remove,
            most: None,
            run_id: "run".into(),
            stop: CancellationToken::new(),
        }
    }
}

/// Listens to a run.
#[derive(Clone, Default)]
struct Ears(Arc<Mutex<(Vec<String>, Vec<String>)>>);

impl Ears {
    fn troubles(&self) -> Vec<String> {
        self.0.lock().unwrap().1.clone()
    }
}

impl restore::Sink for Ears {
    fn restored(&mut self, _object: &str, letter: &Archived) {
        self.0.lock().unwrap().0.push(letter.message_id.clone());
    }
    fn trouble(&mut self, object: &str, why: &str) {
        self.0.lock().unwrap().1.push(format!("{object}: {why}"));
    }
    fn progress(&mut self, _: &restore::Tally) {}
}

impl save::Sink for Ears {
    fn trouble(&self, message_id: &str, why: &str) {
        self.0.lock().unwrap().1.push(format!("{message_id}: {why}"));
    }
    fn progress(&self, _: &save::Tally) {}
}

fn archive(world: &World) -> Archive {
    Archive { store: Arc::new(world.store.clone()), bucket: RESULTS.into(), clock: Arc::new(world.clock.clone()) }
}

fn note(message_id: &str, redrives: u32) -> Note {
    Note {
        v: 1,
        reason: "denied".into(),
        detail: "403".into(),
        attempts: 5,
        first_failed_at: "2026-11-21T00:00:00.000Z".into(),
        last_failed_at: "2026-11-21T01:00:00.000Z".into(),
        work_ids: vec!["w".into()],
        keys: vec![format!("tenant/{message_id}")],
        source_queue: "arn".into(),
        message_id: message_id.into(),
        redrives,
        envelope: None,
        run: Some("run".into()),
    }
}

fn text(text: &str) -> MessageAttribute {
    MessageAttribute { data_type: "String.x".into(), value: AttributeValue::Text(text.into()) }
}

/// A letter as it is received from the DLQ.
fn letter(n: usize, note: Option<&Note>) -> Message {
    let bytes = AttributeValue::Binary((0..=255).collect());
    let mut attributes = BTreeMap::from([
        ("bytes".to_owned(), MessageAttribute { data_type: "Binary.y".into(), value: bytes }),
        ("text".to_owned(), text("日本 <b>\n")),
    ]);
    attributes.extend(note.map(|note| (ATTRIBUTE.to_owned(), note.attribute().unwrap())));
    Message {
        id: MessageId(format!("letter-{n:04}")),
        handle: ReceiptHandle("h".into()),
        body: format!("body\t{n} 日本"),
        attributes,
        receive_count: 1,
        sent_at_ms: Some(1_795_305_600_000),
        group_id: Some("tenant".into()),
        moved_from: None,
    }
}

/// Archives so many letters.
async fn give_up_on(world: &World, number: usize) {
    for n in 0..number {
        let note = note(&format!("first-{n:04}"), 3);
        archive(world).keep(&letter(n, Some(&note)), Some(note), "denied", "403", None).await.unwrap();
    }
}

/// Bodies in the queue, and how often each.
fn sent(world: &World) -> BTreeMap<String, usize> {
    let mut sent = BTreeMap::new();
    for (_, message, _) in world.queue.live() {
        *sent.entry(message.body).or_insert(0) += 1;
    }
    sent
}

fn archived(world: &World) -> Vec<String> {
    world.store.keys(RESULTS, "archive/")
}

async fn restore_all(site: &Site) -> (restore::Report, Ears) {
    let (process, mut ears) = (Process::new(site), Ears::default());
    let run = process.restore(&site.world, Selection::default());
    let heard = ears.clone();
    let report = process.run(async move { run.run(&mut ears).await }).await.unwrap();
    (report, heard)
}

#[tokio::test(start_paused = true)]
async fn who_counts_no_failures_returns_what_is_not_finished_and_writes_nothing() {
    let outcomes = [
        (Verdict::Judged(Outcome::Done), "done/deleted"),
        (Verdict::Judged(Outcome::Superseded), "superseded/deleted"),
        (Verdict::Judged(Outcome::Retry(RetryReason::SourceMissing)), "retried/returned"),
        (Verdict::Judged(Outcome::Reject(RejectReason::Malformed("m".into()))), "rejected/returned"),
        (Verdict::Panicked("boom".into()), "panicked/returned"),
        (Verdict::Cancelled, "cancelled/returned"),
    ];
    for (verdict, expected) in outcomes {
        let site = Site::new(1);
        site.world.upload("a.txt", "text", 1);
        let setup = Setup { counts_failures: false, max_attempts: 1, ..Setup::default() };
        let bench = Bench::new(site, setup);
        let lease = bench.receive_one().await;
        lease.settle(Judgement::without_work(verdict.clone()));
        until("it is settled", HOUR, || bench.site.settlements().len() == 1).await;
        assert_eq!(bench.site.settlements(), [expected], "{verdict:?}");
        let world = &bench.site.world;
        assert!(world.dead_letters.is_empty() && world.store.none(RESULTS, ""), "{verdict:?}");
        assert_eq!(world.queue.visible(), usize::from(!expected.ends_with("/deleted")), "at once: {verdict:?}");
    }
}

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

/// Killed before and after each of its calls, and run again.
#[tokio::test(start_paused = true)]
async fn a_restore_killed_anywhere_and_run_again_loses_nothing_and_sends_nothing_three_times() {
    const LETTERS: usize = 23;
    for cut in [Cut::Before, Cut::After] {
        let mut killed = 0;
        for number in 0.. {
            let site = Site::new(number as u64);
            give_up_on(&site.world, LETTERS).await;
            let (process, mut ears) = (Process::new(&site), Ears::default());
            process.wires.cut_at(move |asking| (asking.number == number).then_some(cut));
            let run = process.restore(&site.world, Selection::default());
            if process.run(async move { run.run(&mut ears).await }).await.is_some() {
                break;
            }
            killed += 1;
            let before = sent(&site.world);
            let missing: Vec<usize> = (0..LETTERS)
                .filter(|n| !before.contains_key(&letter(*n, None).body))
                .filter(|n| !archived(&site.world).iter().any(|key| key.contains(&format!("letter-{n:04}"))))
                .collect();
            assert_eq!(missing, [0; 0], "{cut:?} {number}: neither in the queue nor in the archive");
            let (report, ears) = restore_all(&site).await;
            assert_eq!((report.ended, ears.troubles()), (Ended::Complete, vec![]), "{cut:?} {number}");
            let sent = sent(&site.world);
            assert_eq!((sent.len(), archived(&site.world).len()), (LETTERS, 0), "{cut:?} {number}");
            assert!(sent.values().all(|times| *times <= 2), "{cut:?} {number}: {sent:?}");
            let again = sent.values().filter(|times| **times == 2).count();
            assert!(again <= 10, "{cut:?} {number}: one batch at most");
        }
        assert!(killed > 3 + LETTERS, "{cut:?}: {killed}");
    }
}

#[tokio::test(start_paused = true)]
async fn refused_forgotten_and_lost_entries_are_sent_until_they_are_acknowledged() {
    for seed in 0..30 {
        let site = Site::new(seed);
        give_up_on(&site.world, 64).await;
        site.world.queue.faults(|faults| {
            faults.refuse_entry = 0.3;
            faults.forget_entry = 0.1;
            faults.send = Faults { fail_before: 0.1, lose_reply: 0.1, ..Faults::default() };
        });
        site.world
            .store
            .faults(|faults| faults.delete = Faults { fail_before: 0.2, lose_reply: 0.2, ..Faults::default() });
        for run in 0.. {
            assert!(run < 40, "seed {seed}: it never ends");
            let (report, _) = restore_all(&site).await;
            for n in 0..64 {
                let there = archived(&site.world).iter().any(|key| key.contains(&format!("letter-{n:04}")));
                assert!(there || sent(&site.world).contains_key(&letter(n, None).body), "seed {seed}: {n} is lost");
            }
            if report.ended == Ended::Complete && report.tally.is_well() {
                break;
            }
        }
        assert_eq!((sent(&site.world).len(), archived(&site.world).len()), (64, 0), "seed {seed}");
    }
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

fn fill(world: &World, number: usize) {
    for n in 0..number {
        let Message { body, attributes, group_id, .. } = letter(n, None);
        world.queue.put_message(Outgoing { body, attributes, group_id });
    }
}

/// Bodies of the archive of the main queue.
fn saved(world: &World) -> BTreeMap<String, usize> {
    let mut saved = BTreeMap::new();
    for key in world.store.keys(RESULTS, "archive/main/") {
        let letter: Archived = serde_json::from_slice(&world.store.object(RESULTS, &key).unwrap().body).unwrap();
        assert!(letter.saved && letter.archived_at.is_some() && letter.source == Source::Main);
        *saved.entry(letter.body).or_insert(0) += 1;
    }
    saved
}

#[tokio::test(start_paused = true)]
async fn a_saved_queue_keeps_its_messages_and_each_was_seen_once() {
    let site = Site::new(7);
    fill(&site.world, 345);
    let process = Process::new(&site);
    let run = process.save(&site, false);
    let report = process.run(async move { run.run(&Ears::default()).await }).await.unwrap().unwrap();
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
    let run = process.save(&site, true);
    let report = process.run(async move { run.run(&Ears::default()).await }).await.unwrap().unwrap();
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
            let run = process.save(&site, remove);
            if process.run(async move { run.run(&Ears::default()).await }).await.is_some() {
                assert!(number > 40, "{number}");
                break;
            }
            sleep(2 * save::LEASE).await;
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
        let run = process.save(&site, remove);
        let report = process.run(async move { run.run(&Ears::default()).await }).await.unwrap().unwrap();
        assert!(matches!(report.ended, Ended::Sick(_)) && report.tally.saved == 0, "{report:?}");
        assert_eq!((site.world.queue.visible(), sent(&site.world).len()), (30, 30), "remove {remove}");
    }
    site.world.store.heal();
    // Somebody else holds five.
    let held = site.world.queue.receive(BatchSize::clamped(5), SECOND, HOUR).await.unwrap();
    for remove in [false, true] {
        let process = Process::new(&site);
        let run = process.save(&site, remove);
        let report = process.run(async move { run.run(&Ears::default()).await }).await.unwrap().unwrap();
        assert_eq!((report.tally.saved, report.unseen, report.is_well()), (25, 5, false), "{report:?}");
    }
    assert_eq!((held.len(), sent(&site.world).len()), (5, 5));
}

#[tokio::test(start_paused = true)]
async fn a_limit_and_a_stop_end_a_save_with_the_rest_untouched() {
    let site = Site::new(10);
    fill(&site.world, 100);
    let process = Process::new(&site);
    let run = Save { most: Some(42), ..process.save(&site, false) };
    let report = process.run(async move { run.run(&Ears::default()).await }).await.unwrap().unwrap();
    assert_eq!((report.tally.saved, report.unseen, report.at_limit), (42, 58, true));
    assert_eq!((saved(&site.world).len(), site.world.queue.visible()), (42, 100));
    let process = Process::new(&site);
    let run = process.save(&site, true);
    run.stop.cancel();
    let report = process.run(async move { run.run(&Ears::default()).await }).await.unwrap().unwrap();
    assert_eq!((report.ended, report.tally.received), (Ended::Interrupted, 0));
}

#[tokio::test(start_paused = true)]
async fn a_listing_counts_by_day_and_reason_and_shows_no_more_than_it_was_asked_for() {
    let site = Site::new(11);
    let world = &site.world;
    give_up_on(world, 20).await;
    sleep(DAY).await;
    let hostile = Message { body: r#"{"bucket":"incoming","key":"a\u001b[2J\u202e.txt"}"#.into(), ..letter(50, None) };
    archive(world).keep(&hostile, None, "max_receives", "x\ny", None).await.unwrap();
    let shelf = Shelf { store: Arc::new(world.store.clone()), bucket: RESULTS.into() };
    let list = async |selection: Selection, limit| {
        let answer = shelf.list(&selection, limit).await.unwrap();
        (serde_json::from_str::<Value>(&answer.json).unwrap(), answer.text, answer.code)
    };
    let (all, text, code) = list(Selection::default(), 5).await;
    assert_eq!((all["objects"].as_u64(), all["read"].as_u64(), code), (Some(21), Some(5), 0));
    assert_eq!((&all["days"]["2026-11-22"], &all["days"]["2026-11-23"]), (&20.into(), &1.into()));
    assert!(all["matching"].is_null() && text.contains("the oldest 5 are shown"), "{text}");
    let moved = Selection { reason: Some("max_receives".into()), ..Selection::default() };
    let (some, text, _) = list(moved, 5).await;
    assert_eq!(
        (some["matching"].as_u64(), some["letters"][0]["keys"][0].as_str()),
        (Some(1), Some("a\u{1b}[2J\u{202e}.txt"))
    );
    assert!(text.contains("a\\u{1b}[2J\\u{202e}.txt") && !text.contains('\u{1b}'), "{text}");
    let second = Selection { since_ms: Some(crate::sim::EPOCH_MS + 86_400_000), ..Selection::default() };
    assert_eq!(list(second, 100).await.0["objects"].as_u64(), Some(1));

    // In full, by the id of its object and by its first one.
    for id in ["letter-0003", "first-0003"] {
        let answer = shelf.show(id, &|_| {}).await.unwrap();
        let shown: Value = serde_json::from_str(&answer.json).unwrap();
        assert_eq!((shown["found"][0]["letter"]["body"].as_str(), answer.code), (Some("body\t3 日本"), 0), "{id}");
    }
    assert_eq!(shelf.show("nobody", &|_| {}).await.unwrap().code, 3);
}
