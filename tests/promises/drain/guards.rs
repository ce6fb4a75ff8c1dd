//! What a hostile reader found: where it hung, sent without end, or said what was not so.

use async_trait::async_trait;
use quittance::message::s3_event::Wanted;
use quittance::message::{Message, ReceiptHandle};
use quittance::queue::{BatchSize, EntryReply, QueueError, QueueFacts, SQS_MAX_MESSAGE_BYTES, SendReply};
use quittance::redrive::decide::{Hopeless, Work};
use quittance::redrive::letter::Letter;
use quittance::redrive::report::End;
use quittance::store::StoreError;
use tokio::time::{Instant, timeout};

use super::*;
use crate::sim::{Faults, Rule, Verb, until};

const SECOND: Duration = Duration::from_secs(1);

fn letters(site: &Site, number: usize) {
    for n in 0..number {
        dead(site, event(site, &format!("{n}.txt")), "deadline", 0);
    }
}

fn typed(change: impl FnOnce(&mut Limits)) -> Typed {
    let mut typed = Typed::default();
    change(&mut typed.limits);
    typed
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_bounded_in_bytes_whether_it_is_meant_or_not() {
    let site = Site::new(20);
    letters(&site, 300);
    let mut small = typed(|limits| (limits.batch_size, limits.most_bytes) = (1_000, 20_000));
    small.selection.tenants = vec!["nobody".into()];
    let report = redrive(&site, &small).await;
    assert!(matches!(report.end, End::TooManyAside { held } if held < 200), "{report:?}");
    assert_eq!((report.code(), site.world.dead_letters.visible()), (3, 300), "all are back");
    small.selection = Selection::default();
    let report = redrive(&site, &small).await;
    assert_eq!((report.tally.resent, report.end.clone()), (300, End::Emptied), "{report:?}");
    assert!(report.tally.batches > 1, "no batch of all of them: {report:?}");
}

#[tokio::test(start_paused = true)]
async fn attributes_count_among_the_bytes_that_are_held() {
    let site = Site::new(22);
    for n in 0..50 {
        let value = MessageAttribute { data_type: "Binary".into(), value: AttributeValue::Binary(vec![0; 1_000]) };
        let attributes = BTreeMap::from([("large".to_owned(), value)]);
        site.world.dead_letters.put_message(Outgoing { body: format!("{n}"), attributes, group_id: None });
    }
    let mut small = typed(|limits| (limits.batch_size, limits.most_bytes) = (10, 20_000));
    small.selection.tenants = vec!["nobody".into()];
    let report = redrive(&site, &small).await;
    assert!(matches!(report.end, End::TooManyAside { held: 20..50 }), "{report:?}");
    assert_eq!(site.world.dead_letters.visible(), 50, "all are back");
}

#[tokio::test(start_paused = true)]
async fn what_was_received_ahead_of_a_limit_is_put_back_and_is_no_failure() {
    let site = Site::new(1);
    letters(&site, 100);
    // While it waits for the first ten it receives what comes next.
    let typed = typed(|limits| (limits.canary, limits.max_messages) = (60 * SECOND, Some(15)));
    let run = tokio::spawn(Operator::new(&site, "operator", &typed).run());
    tokio::time::sleep(20 * SECOND).await;
    let worker = site.start("w", &Setup::default());
    let report = run.await.unwrap();
    site.until_empty().await;
    worker.stop().await;
    assert_eq!((report.code(), &report.end, report.tally.resent), (0, &End::Limit, 15), "{report:?}");
    assert_eq!((report.tally.left, report.tally.lease_lost), (0, 0), "{report:?}");
    assert!(report.tally.received > 15, "some were received ahead: {report:?}");
    assert_eq!(site.world.dead_letters.visible(), 85);
}

#[tokio::test(start_paused = true)]
async fn where_no_audit_can_be_written_nothing_is_sent_however_often_it_is_tried() {
    let site = Site::new(2);
    letters(&site, 30);
    site.world.store.inject(Rule {
        bucket: RESULTS.into(),
        prefix: "redrive/".into(),
        verb: Some(Verb::Put),
        error: StoreError::Denied("403".into()),
        times: None,
    });
    for _ in 0..3 {
        let report = redrive(&site, &Typed::default()).await;
        assert_eq!((report.code(), report.tally.finished()), (75, 0), "{report:?}");
    }
    assert_eq!((site.world.queue.live().len(), site.world.dead_letters.visible()), (0, 30));
}

#[tokio::test(start_paused = true)]
async fn it_does_not_hang_where_letters_that_are_not_meant_take_all_its_room_while_the_first_are_waited_for() {
    let site = Site::new(3);
    dead(&site, event(&site, "a.txt"), "denied", 0);
    letters(&site, 300);
    let mut typed = typed(|limits| (limits.canary, limits.most_held) = (60 * SECOND, 20));
    typed.selection.reasons = vec!["denied".into()];
    let report = timeout(3_600 * SECOND, redrive(&site, &typed)).await.expect("it ends");
    assert!(matches!(report.end, End::Unanswered { sent: 1, .. }), "{report:?}");
    assert_eq!(site.world.dead_letters.visible(), 300);
}

#[tokio::test(start_paused = true)]
async fn a_letter_in_which_the_count_has_no_room_by_a_few_bytes_is_archived_and_not_left_for_ever() {
    let site = Site::new(4);
    let id = moved(&site, "{".into());
    let body = event(&site, "a.txt");
    let of = |body: String| {
        let message = Message {
            id: id.clone(),
            handle: ReceiptHandle("h".into()),
            body,
            attributes: BTreeMap::new(),
            receive_count: 1,
            sent_at_ms: None,
            group_id: None,
            moved_from: None,
        };
        Letter::read(Arc::new(message), &Wanted::new(Vec::new(), RESULTS.into()))
    };
    let bare = of(body.clone()).back("", "").unwrap().bytes();
    let padded = format!("{body}{}", " ".repeat(SQS_MAX_MESSAGE_BYTES - bare - 20));
    assert!(of(padded.clone()).back("", "").is_some());
    assert!(of(padded.clone()).back("a run's id of some length", &site.world.queue.arn()).is_none());
    let full = moved(&site, padded);
    let report = redrive(&site, &Typed::default()).await;
    assert_eq!((report.code(), report.tally.left, report.tally.archived), (0, 0, 2), "{report:?}");
    assert_eq!(archived(&site).get(&full.0).map(String::as_str), Some("no_room"));
}

/// A queue whose counts say something of their own.
struct Counts<F>(Arc<dyn Queue>, F);

#[async_trait]
impl<F: Fn() -> Result<u64, QueueError> + Send + Sync + 'static> Queue for Counts<F> {
    async fn receive(&self, max: BatchSize, wait: Duration, visible: Duration) -> Result<Vec<Message>, QueueError> {
        self.0.receive(max, wait, visible).await
    }
    async fn delete(&self, handles: &[ReceiptHandle]) -> Result<Vec<EntryReply>, QueueError> {
        self.0.delete(handles).await
    }
    async fn change_visibility(&self, entries: &[(ReceiptHandle, Duration)]) -> Result<Vec<EntryReply>, QueueError> {
        self.0.change_visibility(entries).await
    }
    async fn send(&self, message: &Outgoing) -> Result<MessageId, QueueError> {
        self.0.send(message).await
    }
    async fn send_batch(&self, messages: &[Outgoing]) -> Result<Vec<SendReply>, QueueError> {
        self.0.send_batch(messages).await
    }
    async fn facts(&self) -> Result<QueueFacts, QueueError> {
        let facts = self.0.facts().await?;
        Ok(QueueFacts { visible: self.1()?, ..facts })
    }
}

async fn counting(site: &Site, counts: impl Fn() -> Result<u64, QueueError> + Send + Sync + 'static) -> Report {
    let mut operator = Operator::new(site, "operator", &Typed::default());
    operator.drain.dlq = Arc::new(Counts(operator.drain.dlq.clone(), counts));
    operator.run().await
}

#[tokio::test(start_paused = true)]
async fn r8_it_is_not_called_empty_while_sqs_counts_letters_that_nobody_holds() {
    let site = Site::new(5);
    let began = Instant::now();
    let report = counting(&site, move || Ok(if began.elapsed() < 400 * SECOND { 3 } else { 0 })).await;
    assert_eq!((report.code(), &report.end), (0, &End::Emptied), "{report:?}");
    assert!(began.elapsed() >= 400 * SECOND, "{:?}", began.elapsed());
    let told: [fn() -> Result<u64, QueueError>; 2] = [|| Ok(3), || Err(QueueError::Denied("403".into()))];
    for counts in told {
        let report = timeout(3_600 * SECOND, counting(&site, counts)).await.expect("it ends");
        assert_eq!(report.code(), 75, "it says that it does not know: {report:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sample_that_cannot_be_received_is_an_error_and_not_a_sample_of_none() {
    let site = Site::new(6);
    letters(&site, 10);
    site.world.dead_letters.faults(|faults| faults.receive = Faults { fail_before: 1.0, ..Faults::default() });
    assert!(try_plan(&site, Some(10)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn where_the_dead_letter_queue_takes_no_deletes_it_stops_sending_and_ends() {
    let site = Site::new(7);
    letters(&site, 1_000);
    for n in 0..20 {
        dead(&site, event(&site, &format!("other/{n}.txt")), "denied", 0);
    }
    site.world.dead_letters.faults(|faults| faults.delete = Faults { fail_before: 1.0, ..Faults::default() });
    let mut typed = Typed::default();
    typed.selection.reasons = vec!["deadline".into()];
    let report = timeout(3_600 * SECOND, redrive(&site, &typed)).await.expect("it ends");
    assert_eq!((report.code(), report.tally.deleted), (75, 0), "{report:?}");
    assert!(report.tally.resent <= 200, "each of them is there twice now: {report:?}");
    // Those in hand, and not meant, are put back all the same.
    site.world.dead_letters.faults(|faults| faults.delete = Faults::default());
    let mut typed = Typed { limits: Limits { batch_size: 1_020, ..typed.limits }, ..Typed::default() };
    typed.selection.reasons = vec!["denied".into()];
    tokio::time::sleep(130 * SECOND).await;
    let most = Operator::new(&site, "most", &typed);
    site.world.dead_letters.faults(|faults| faults.delete = Faults { fail_before: 1.0, ..Faults::default() });
    let report = timeout(3_600 * SECOND, most.run()).await.expect("it ends");
    assert_eq!((report.tally.unmatched, report.tally.returned), (1_000, 1_000), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_letter_whose_lease_has_ended_before_its_turn_is_not_sent() {
    let site = Site::new(8);
    letters(&site, 200);
    site.world.dead_letters.faults(|faults| faults.change = Faults { fail_before: 1.0, ..Faults::default() });
    // 200 s for one batch, and no lease lives longer than its 120 s.
    let typed = Typed { rate: 1, ..typed(|limits| (limits.batch_size, limits.max_batches) = (200, Some(1))) };
    let report = redrive(&site, &typed).await;
    assert!((100..=121).contains(&report.tally.resent), "{report:?}");
    assert_eq!(report.tally.left, 200 - report.tally.resent, "{report:?}");
    assert!(report.trouble.as_ref().is_some_and(|why| why.contains("its lease ended")), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn letters_of_another_queue_that_shares_the_dead_letter_queue_are_left_to_it() {
    let site = Site::new(9);
    letters(&site, 5);
    // Judged by our sources it would be archived, and sent back it would be worked on in the wrong namespace.
    let theirs = json!({ "bucket": "theirs", "key": "k" }).to_string();
    let AttributeValue::Text(text) = note("denied", "first", 0).value else { panic!("text") };
    let value = AttributeValue::Text(text.replace("\"arn\"", "\"arn:theirs\""));
    let attributes = BTreeMap::from([("Quittance".to_owned(), MessageAttribute { data_type: "String".into(), value })]);
    let noted = site.world.dead_letters.put_message(Outgoing { body: theirs.clone(), attributes, group_id: None });
    let moved = site.world.dead_letters.put_moved(theirs, "arn:theirs");
    site.world.dead_letters.put_moved(event(&site, "ours.txt"), "arn:ours");
    let mut typed = Typed::default();
    typed.selection.not_of = vec!["arn:theirs".into()];
    let report = redrive(&site, &typed).await;
    assert_eq!((report.code(), report.tally.resent, report.tally.unmatched), (0, 6, 2), "{report:?}");
    let left: Vec<MessageId> = site.world.dead_letters.live().into_iter().map(|(id, ..)| id).collect();
    assert_eq!((left, archived(&site).len()), (vec![noted.clone(), moved.clone()], 0));
    // Where SQS does not say who shares it, the letters do.
    worked_off(&site).await;
    site.world.dead_letters.put_moved(event(&site, "ours too.txt"), &site.world.queue.arn());
    (typed.selection.not_of, typed.selection.only_of) = (Vec::new(), Some(site.world.queue.arn()));
    let report = redrive(&site, &typed).await;
    assert_eq!((report.code(), report.tally.resent, report.tally.unmatched), (0, 1, 2), "{report:?}");
    let left: Vec<MessageId> = site.world.dead_letters.live().into_iter().map(|(id, ..)| id).collect();
    assert_eq!((left, archived(&site).len()), (vec![noted, moved], 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_among_its_sources_is_archived_whole_and_never_dropped() {
    let site = Site::new(21);
    // Typed to narrow the run, or copied from another worker: the workers read all of the bucket.
    let narrow = vec![Source { bucket: SOURCE.into(), prefix: "2026/".into() }];
    let (ours, others) = (event(&site, "2026/a.txt"), event(&site, "2025/b.txt"));
    dead(&site, ours, "attempts_exhausted", 0);
    let other = dead(&site, others.clone(), "attempts_exhausted", 0);
    let mut operator = Operator::new(&site, "operator", &Typed::default());
    operator.sources(narrow);
    let report = operator.run().await;
    let Tally { dropped, resent, archived: given_up, .. } = &report.tally;
    assert_eq!((report.code(), *dropped, *resent, *given_up), (0, 0, 1, 1), "{report:?}");
    assert_eq!(archived(&site).get(&other.0).map(String::as_str), Some("prefix_not_wanted"));
    let key = site.world.store.keys(RESULTS, "archive/dlq/").remove(0);
    let kept: Value = serde_json::from_slice(&site.world.store.object(RESULTS, &key).unwrap().body).unwrap();
    assert_eq!(kept["body"], others, "to be restored");
}

#[tokio::test(start_paused = true)]
async fn work_counts_as_finished_only_on_proof_and_what_cannot_be_asked_is_unknown() {
    let site = Site::new(10);
    let head = |key: &str, text: &str| site.world.store.put_object(SOURCE, key, text.to_owned());
    let created =
        |key: &str, head: &quittance::store::ObjectHead, n| s3_event(&[Record::created(SOURCE, key, head, n)]);
    let run = async |body: &str, who: &str, search: bool| {
        let id = site.world.queue.put(body);
        site.drain_as(who, &Setup { search, ..Setup::default() }).await;
        id
    };
    let look = look(
        Arc::new(site.world.store.seen_by("look")),
        Some(Arc::new(site.world.search.seen_by("look")) as Arc<dyn Catalogue>),
    );
    let works = async |body: &str, id: &str| {
        let message = Message {
            id: MessageId(id.into()),
            handle: ReceiptHandle("h".into()),
            body: body.into(),
            attributes: BTreeMap::new(),
            receive_count: 1,
            sent_at_ms: None,
            group_id: None,
            moved_from: None,
        };
        look.at(&Letter::read(Arc::new(message), &look.wanted)).await.works
    };
    let first = created("a", &head("a", "one"), 1);
    let one = run(&first, "one", true).await;
    assert_eq!(works(&first, &one.0).await, [Work::Finished], "the record names it, the index holds it");
    assert_eq!(works(&first, "other").await, [Work::Owed], "the same event under another id is no proof");
    let second = created("a", &head("a", "two"), 2);
    let two = run(&second, "two", false).await;
    assert_eq!(works(&second, &two.0).await, [Work::Unindexed], "the index holds an older revision");
    assert_eq!(works(&first, "other").await, [Work::Unindexed], "a newer record, and the index lacks that");

    let store = &site.world.store;
    let third = created("a", &head("a", "three"), 3);
    let refusing = |bucket: &str, prefix: &str, error: StoreError| {
        let (bucket, prefix) = (bucket.into(), prefix.into());
        store.inject(Rule { bucket, prefix, verb: Some(Verb::Head), error, times: None });
    };
    refusing(SOURCE, "a", StoreError::Denied("403".into()));
    assert_eq!(works(&third, "m").await, [Work::Owed], "whether it is there is the worker's to find out");
    store.heal();
    refusing(RESULTS, "processed/", StoreError::Unavailable("503".into()));
    assert!(matches!(works(&first, &one.0).await.as_slice(), [Work::Unknown(_)]), "not asked is not known");
    store.heal();

    store.remove_object(SOURCE, "a");
    assert_eq!(
        works(&third, "m").await,
        [Work::Hopeless(Hopeless::SourceMissing)],
        "an older live record explains nothing"
    );
    let removed = s3_event(&[Record::removed(SOURCE, "a", 4)]);
    assert_eq!(works(&removed, "m").await, [Work::Owed], "a tombstone is due");
    let gone = run(&removed, "three", true).await;
    assert_eq!(works(&removed, &gone.0).await, [Work::Finished]);
    let late = created("a", &store_head(), 5);
    assert_eq!(works(&late, "m").await, [Work::Finished], "a tombstone explains that the file is gone");
}

#[tokio::test(start_paused = true)]
async fn folders_are_dropped_and_never_waited_for() {
    let site = Site::new(11);
    let put = |key: &str, text: &str| {
        let head = site.world.store.put_object(SOURCE, key, text.to_owned());
        s3_event(&[Record::created(SOURCE, key, &head, 1)])
    };
    for n in 0..12 {
        dead(&site, put(&format!("{n}/"), ""), "deadline", 0);
    }
    dead(&site, s3_event(&[Record::removed(SOURCE, "gone/", 2)]), "deadline", 0);
    dead(&site, put("full/", "a file of an odd name"), "deadline", 0);
    let typed = typed(|limits| limits.canary = 60 * SECOND);
    let worker = site.start("w", &Setup::default());
    let report = redrive(&site, &typed).await;
    site.until_empty().await;
    worker.stop().await;
    assert_eq!((report.code(), report.tally.dropped, report.tally.resent), (0, 13, 1), "{report:?}");
    assert!(is_indexed(&site, "full/"));
}

#[tokio::test(start_paused = true)]
async fn within_a_large_batch_too_it_waits_while_the_main_queue_is_full() {
    let site = Site::new(12);
    letters(&site, 200);
    let typed = typed(|limits| (limits.batch_size, limits.max_backlog) = (200, 30));
    let operator = Operator::new(&site, "operator", &typed);
    let (stop, depth) = (operator.stop.clone(), || site.world.queue.live().len());
    let run = tokio::spawn(operator.run());
    until("the main queue is full", 60 * SECOND, || depth() >= 30).await;
    tokio::time::sleep(120 * SECOND).await;
    assert!((31..=60).contains(&depth()), "no worker takes them, and no more are sent: {}", depth());
    let worker = site.start("w", &Setup::default());
    until("it goes on", 600 * SECOND, || depth() == 0 && site.world.dead_letters.live().len() < 170).await;
    worker.stop().await;
    until("it is full again, or done", 60 * SECOND, || depth() > 30 || site.world.dead_letters.is_empty()).await;
    stop.cancel();
    let report = run.await.unwrap();
    assert!(report.tally.resent >= 60, "{report:?}");
    assert_eq!(report.tally.resent + report.tally.left, 200, "{report:?}");
    assert_eq!(report.trouble.is_some_and(|why| why.contains("wait in the main queue")), report.tally.left > 0);
}

#[tokio::test(start_paused = true)]
async fn letters_named_by_their_ids_end_the_walk_and_those_not_met_are_told() {
    let site = Site::new(13);
    letters(&site, 30);
    let named = moved(&site, event(&site, "named.txt"));
    letters(&site, 300);
    let asked = |ids: &[&str]| {
        let mut typed = Typed::default();
        typed.selection.message_ids = ids.iter().map(|id| (*id).to_owned()).collect();
        typed
    };
    let report = redrive(&site, &asked(&[&named.0])).await;
    assert_eq!((report.code(), report.end.clone(), report.tally.resent), (0, End::Found, 1), "{report:?}");
    assert!(report.tally.received < 150, "the rest was not received: {report:?}");
    let first = report.first_expires.unwrap();
    assert!((1_209_000..=1_209_600).contains(&first.in_s), "14 days are left to those put back: {first:?}");
    let report = redrive(&site, &asked(&[&named.0])).await;
    assert_eq!(
        (report.code(), report.missing.clone()),
        (3, vec![named.0.clone()]),
        "it is not there any more: {report:?}"
    );
    assert!(report.text("redrive").contains(&format!("redrive trace '{}'", named.0)));
    assert_eq!(site.world.dead_letters.visible(), 330);
}

#[tokio::test(start_paused = true)]
async fn what_a_later_release_wrote_is_dropped_on_proof_and_otherwise_left() {
    let site = Site::new(14);
    let later = json!({ "v": 2, "redrives": { "times": 2 } }).to_string();
    let of = |body: String| {
        let value = AttributeValue::Text(later.clone());
        let attributes =
            BTreeMap::from([("Quittance".to_owned(), MessageAttribute { data_type: "String".into(), value })]);
        site.world.dead_letters.put_message(Outgoing { body, attributes, group_id: None })
    };
    let owed = of(event(&site, "a.txt"));
    let unread = of("a body of that release".into());
    of(json!({ "Service": "Amazon S3", "Event": "s3:TestEvent" }).to_string());
    let report = redrive(&site, &Typed::default()).await;
    assert_eq!((report.code(), report.tally.dropped, report.tally.left), (3, 1, 2), "{report:?}");
    assert!(report.trouble.is_some_and(|why| why.contains("version 2")));
    let left = site.world.dead_letters.live();
    let AttributeValue::Text(text) = &left[0].1.attributes["Quittance"].value else { panic!("text") };
    assert_eq!((left.len(), &left[0].0, text, &left[1].0), (2, &owed, &later, &unread), "as it was");
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_holds_to_the_end_is_told_and_is_no_success() {
    let site = Site::new(16);
    letters(&site, 3);
    let other = site.world.dead_letters.seen_by("other");
    let held = other.receive(BatchSize::clamped(2), SECOND, 43_200 * SECOND).await.unwrap();
    let report = redrive(&site, &Typed::default()).await;
    assert_eq!((report.code(), report.tally.resent, report.held_elsewhere), (3, 1, held.len() as u64), "{report:?}");
    assert!(report.text("").contains("2 are held by somebody else"), "{}", report.text(""));
}

#[tokio::test(start_paused = true)]
async fn the_first_ten_are_waited_for_as_long_as_what_stood_before_them_shrinks() {
    let site = Site::new(17);
    for n in 0..400 {
        site.world.queue.put(event(&site, &format!("before/{n}.txt")));
    }
    letters(&site, 20);
    site.world.store.faults(|faults| faults.get.latency = (SECOND, 2 * SECOND));
    let worker = site.start("w", &Setup { concurrency: 2, ..Setup::default() });
    let began = Instant::now();
    let report = redrive(&site, &typed(|limits| limits.canary = 60 * SECOND)).await;
    assert!(began.elapsed() > 120 * SECOND, "the ten had to wait for long: {:?}", began.elapsed());
    assert_eq!((report.code(), report.tally.resent), (0, 20), "{report:?}");
    site.until_empty().await;
    worker.stop().await;
}

/// Of a file that is not there any more.
fn store_head() -> quittance::store::ObjectHead {
    quittance::store::ObjectHead { etag: "e".into(), size: 1, ..Default::default() }
}
