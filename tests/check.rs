//! The doctor against small fakes: a sound world passes, and each broken thing is named with what mends it.

#![expect(clippy::unwrap_used, reason = "clippy knows test functions, not the helpers beside them")]

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use quittance::check::{Finding, QueueAt, Subject, Verdict, check, exit_code};
use quittance::clock::WallClock;
use quittance::index::opensearch::{Examine, SetupError, SetupReport, SetupStep};
use quittance::index::{IndexItem, ItemAnswer, Search, SearchError};
use quittance::message::s3_event::Source;
use quittance::message::{Message, MessageId, ReceiptHandle};
use quittance::queue::{BatchSize, EntryReply, Outgoing, Queue, QueueError, QueueFacts, SendReply};
use quittance::store::wiring::{Expiration, Notification, Notifications, Wiring};
use quittance::store::{Condition, ObjectHead, OpenObject, Page, PutReply, Store, StoreError};

const URL: &str = "https://sqs.eu-central-1.amazonaws.com/111122223333/files";
const DLQ_URL: &str = "https://sqs.eu-central-1.amazonaws.com/111122223333/files-dlq";
const ARN: &str = "arn:aws:sqs:eu-central-1:111122223333:files";
const DLQ_ARN: &str = "arn:aws:sqs:eu-central-1:111122223333:files-dlq";
const DAY: Duration = Duration::from_secs(86_400);

/// What one fake call does.
#[derive(Clone)]
enum Mood<E> {
    Well,
    Error(E),
    Hangs,
}

impl<E: Clone> Mood<E> {
    async fn meet(&self) -> Result<(), E> {
        match self {
            Mood::Well => Ok(()),
            Mood::Error(error) => Err(error.clone()),
            Mood::Hangs => pending().await,
        }
    }
}

struct FakeQueue {
    facts: QueueFacts,
    mood: Mood<QueueError>,
}

#[async_trait]
impl Queue for FakeQueue {
    async fn receive(&self, _: BatchSize, _: Duration, _: Duration) -> Result<Vec<Message>, QueueError> {
        panic!("the doctor receives nothing")
    }
    async fn delete(&self, _: &[ReceiptHandle]) -> Result<Vec<EntryReply>, QueueError> {
        panic!("the doctor deletes nothing")
    }
    async fn change_visibility(&self, _: &[(ReceiptHandle, Duration)]) -> Result<Vec<EntryReply>, QueueError> {
        panic!("the doctor hides nothing")
    }
    async fn send(&self, _: &Outgoing) -> Result<MessageId, QueueError> {
        panic!("the doctor sends nothing")
    }
    async fn send_batch(&self, _: &[Outgoing]) -> Result<Vec<SendReply>, QueueError> {
        panic!("the doctor sends nothing")
    }
    async fn facts(&self) -> Result<QueueFacts, QueueError> {
        self.mood.meet().await.map(|()| self.facts.clone())
    }
}

/// A body and its metadata.
type Stored = (Bytes, BTreeMap<String, String>);

struct FakeStore {
    probe: BTreeMap<&'static str, Mood<StoreError>>,
    head: Mood<StoreError>,
    put: Mood<StoreError>,
    get: Mood<StoreError>,
    delete: Mood<StoreError>,
    honours_if_none_match: bool,
    honours_if_match: bool,
    keeps_metadata: bool,
    /// A PUT that happens, and whose reply is an error all the same.
    loses_replies: bool,
    invents_objects: bool,
    objects: Mutex<BTreeMap<String, Stored>>,
}

impl FakeStore {
    fn pause(&self, body: &'static str) {
        let stored = (Bytes::from_static(body.as_bytes()), BTreeMap::new());
        self.objects.lock().unwrap().insert("control/pause.json".into(), stored);
    }
}

#[async_trait]
impl Store for FakeStore {
    async fn head(&self, _: &str, key: &str) -> Result<Option<ObjectHead>, StoreError> {
        assert!(!key.starts_with("control/"), "{key}");
        self.head.meet().await?;
        Ok(self.invents_objects.then(ObjectHead::default))
    }
    async fn get(&self, bucket: &str, key: &str) -> Result<Option<OpenObject>, StoreError> {
        assert_eq!(bucket, "results");
        self.get.meet().await?;
        Ok(self.objects.lock().unwrap().get(key).cloned().map(|(body, metadata)| OpenObject {
            head: ObjectHead { size: body.len() as u64, metadata, modified_ms: Some(WRITTEN), ..ObjectHead::default() },
            body: stream::iter([Ok(body)]).boxed(),
        }))
    }
    async fn put(
        &self,
        bucket: &str,
        key: &str,
        body: Bytes,
        metadata: &BTreeMap<String, String>,
        condition: Condition,
    ) -> Result<PutReply, StoreError> {
        assert!(bucket == "results" && key.starts_with("control/check-"), "{bucket}/{key}");
        self.put.meet().await?;
        let mut objects = self.objects.lock().unwrap();
        let conflict = match condition {
            Condition::Absent => self.honours_if_none_match && objects.contains_key(key),
            Condition::Match(_) => self.honours_if_match,
            Condition::None => panic!("an unconditional write"),
        };
        if conflict {
            return Ok(PutReply::Conflict);
        }
        let metadata = if self.keeps_metadata { metadata.clone() } else { BTreeMap::new() };
        objects.insert(key.to_owned(), (body, metadata));
        if self.loses_replies {
            return Err(StoreError::Unavailable("connection reset".into()));
        }
        Ok(PutReply::Written { etag: "e".into() })
    }
    async fn delete(&self, bucket: &str, key: &str) -> Result<(), StoreError> {
        assert!(bucket == "results" && key.starts_with("control/check-"), "{bucket}/{key}");
        self.delete.meet().await?;
        self.objects.lock().unwrap().remove(key);
        Ok(())
    }
    async fn list(&self, _: &str, _: &str, _: Option<&str>, _: usize) -> Result<Page, StoreError> {
        panic!("the doctor lists nothing")
    }
    async fn probe(&self, bucket: &str) -> Result<(), StoreError> {
        self.probe[bucket].meet().await
    }
}

struct FakeSearch(Mood<SearchError>);

#[async_trait]
impl Search for FakeSearch {
    async fn bulk(&self, _: &[IndexItem]) -> Result<Vec<ItemAnswer>, SearchError> {
        panic!("the doctor indexes nothing")
    }
    async fn probe(&self) -> Result<(), SearchError> {
        self.0.meet().await
    }
}

/// What the buckets do by themselves.
#[derive(Clone, Default)]
struct FakeWiring {
    mood: Option<StoreError>,
    lifecycle_mood: Option<StoreError>,
    notifications: BTreeMap<&'static str, Notifications>,
    expirations: BTreeMap<&'static str, Vec<Expiration>>,
}

impl FakeWiring {
    fn of(&mut self, bucket: &'static str) -> &mut Notifications {
        self.notifications.entry(bucket).or_default()
    }

    fn expires(&mut self, bucket: &'static str, prefix: &str) {
        let rule = Expiration { rule: "tidy".into(), prefix: prefix.into() };
        self.expirations.entry(bucket).or_default().push(rule);
    }
}

#[async_trait]
impl Wiring for FakeWiring {
    async fn notifications(&self, bucket: &str) -> Result<Notifications, StoreError> {
        self.mood.clone().map_or(Ok(()), Err)?;
        Ok(self.notifications.get(bucket).cloned().unwrap_or_default())
    }
    async fn expirations(&self, bucket: &str) -> Result<Vec<Expiration>, StoreError> {
        self.mood.clone().or_else(|| self.lifecycle_mood.clone()).map_or(Ok(()), Err)?;
        Ok(self.expirations.get(bucket).cloned().unwrap_or_default())
    }
}

fn tells(target: &str, events: &[&str], prefix: &str) -> Notification {
    let events = events.iter().map(|event| (*event).to_owned()).collect();
    Notification { target: target.into(), events, prefix: prefix.into(), suffix: String::new() }
}

const COMES_AND_GOES: [&str; 2] = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"];

struct FakeMapping(Result<Vec<SetupStep>, SetupError>);

#[async_trait]
impl Examine for FakeMapping {
    async fn examine(&self) -> Result<SetupReport, SetupError> {
        self.0.clone().map(|steps| SetupReport { index: "files-v1".into(), steps })
    }
}

/// A wall clock that stands.
struct Stands(u64);

impl WallClock for Stands {
    fn unix_ms(&self) -> u64 {
        self.0
    }
}

/// When all objects were written.
const WRITTEN: u64 = 1_795_358_754_000;

struct World {
    wiring: FakeWiring,
    mapping: FakeMapping,
    clock: Stands,
    url: &'static str,
    queue: FakeQueue,
    dlq: Option<FakeQueue>,
    store: FakeStore,
    search: Option<FakeSearch>,
    skip_opensearch: bool,
    sources: Vec<&'static str>,
    visibility: Duration,
}

impl World {
    fn sound() -> Self {
        let facts = |arn: &str, days: u32| QueueFacts {
            arn: arn.into(),
            visibility: Duration::from_secs(30),
            retention: DAY * days,
            visible: 12,
            ..QueueFacts::default()
        };
        let main = QueueFacts { max_receive_count: Some(20), dead_letter_arn: Some(DLQ_ARN.into()), ..facts(ARN, 4) };
        let mut wiring = FakeWiring::default();
        for bucket in ["inbox", "shared"] {
            wiring.of(bucket).all.push(tells(ARN, &COMES_AND_GOES, ""));
        }
        Self {
            wiring,
            mapping: FakeMapping(Ok(vec![SetupStep::Present("mapping of files-v1".into())])),
            clock: Stands(WRITTEN),
            url: URL,
            queue: FakeQueue { facts: main, mood: Mood::Well },
            dlq: Some(FakeQueue { facts: facts(DLQ_ARN, 14), mood: Mood::Well }),
            store: FakeStore {
                probe: ["inbox", "shared", "results"].map(|bucket| (bucket, Mood::Well)).into(),
                head: Mood::Well,
                put: Mood::Well,
                get: Mood::Well,
                delete: Mood::Well,
                honours_if_none_match: true,
                honours_if_match: true,
                keeps_metadata: true,
                loses_replies: false,
                invents_objects: false,
                objects: Mutex::default(),
            },
            search: Some(FakeSearch(Mood::Well)),
            skip_opensearch: false,
            sources: vec!["inbox", "shared/drop/"],
            visibility: Duration::from_secs(60),
        }
    }

    fn dlq(&mut self) -> &mut FakeQueue {
        self.dlq.as_mut().unwrap()
    }

    async fn check(&self) -> Vec<Finding> {
        let sources: Vec<Source> = self.sources.iter().map(|text| Source::parse(text).unwrap()).collect();
        check(&Subject {
            queue: QueueAt { url: self.url, queue: &self.queue },
            dlq: self.dlq.as_ref().map(|queue| QueueAt { url: DLQ_URL, queue }),
            store: &self.store,
            sources: &sources,
            results_bucket: "results",
            search: self.search.as_ref().map(|search| search as &dyn Search),
            skip_opensearch: self.skip_opensearch,
            index: "files",
            visibility: self.visibility,
            drain_timeout: Duration::from_secs(30),
            wiring: Some(&self.wiring),
            mapping: self.search.as_ref().map(|_| &self.mapping as &dyn Examine),
            disk: None,
            clock: &self.clock,
        })
        .await
    }
}

/// A fault, and the findings that are not a pass: `FAIL name`, with words of the evidence and of the fix.
type Case = (&'static str, fn(&mut World), &'static [(Verdict, &'static str, &'static str, &'static str)]);

use Verdict::{Fail, Skipped, Warn};

const NEEDS_QUEUE: &str = "needs the attributes of the queue";
const NEEDS_DLQ: &str = "needs the attributes of the dead-letter queue";
const JOIN: &str = r#"aws sqs set-queue-attributes --queue-url 'https://sqs.eu-central-1.amazonaws.com/111122223333/files' --attributes '{"RedrivePolicy":"{\"deadLetterTargetArn\":\"arn:aws:sqs:eu-central-1:111122223333:files-dlq\",\"maxReceiveCount\":\"20\"}"}'"#;

const CASES: &[Case] = &[
    (
        "the queue is not there",
        |w| w.queue.mood = Mood::Error(QueueError::Missing("files".into())),
        &[
            (Fail, "queue", "queue does not exist: files", "check SQS_QUEUE_URL"),
            (Skipped, "dlq_pairing", NEEDS_QUEUE, ""),
            (Skipped, "max_receives", NEEDS_QUEUE, ""),
            (Skipped, "retention", NEEDS_QUEUE, ""),
            (Skipped, "lease", NEEDS_QUEUE, ""),
            (Skipped, "notification", "inbox: needs the queue\'s ARN", ""),
            (Skipped, "notification", "shared: needs the queue\'s ARN", ""),
        ],
    ),
    (
        "the queue may not be looked at, and no dlq is configured",
        |w| {
            w.queue.mood = Mood::Error(QueueError::Refused("AccessDenied".into()));
            w.dlq = None;
        },
        &[
            (Fail, "queue", "refused: AccessDenied", "sqs:GetQueueAttributes"),
            (Skipped, "dlq", NEEDS_QUEUE, ""),
            (Skipped, "dlq_pairing", NEEDS_QUEUE, ""),
            (Skipped, "max_receives", NEEDS_QUEUE, ""),
            (Skipped, "retention", NEEDS_QUEUE, ""),
            (Skipped, "lease", NEEDS_QUEUE, ""),
            (Skipped, "notification", "inbox: needs the queue\'s ARN", ""),
            (Skipped, "notification", "shared: needs the queue\'s ARN", ""),
        ],
    ),
    (
        "the dlq never answers",
        |w| w.dlq().mood = Mood::Hangs,
        &[
            (Fail, "dlq", "unavailable: no answer within 10 s", "network"),
            (Skipped, "dlq_pairing", NEEDS_DLQ, ""),
            (Skipped, "retention", NEEDS_DLQ, ""),
        ],
    ),
    (
        "the dlq is not there",
        |w| w.dlq().mood = Mood::Error(QueueError::Missing("files-dlq".into())),
        &[
            (Fail, "dlq", "queue does not exist: files-dlq", "check SQS_DLQ_URL"),
            (Skipped, "dlq_pairing", NEEDS_DLQ, ""),
            (Skipped, "retention", NEEDS_DLQ, ""),
        ],
    ),
    (
        "the queue is fifo",
        |w| w.queue.facts.arn = format!("{ARN}.fifo"),
        &[
            (Fail, "queue_type", "fifo", "use a standard queue"),
            (Warn, "notification", "inbox: does not notify the queue", "deploy/stack.yaml"),
            (Warn, "notification", "shared: does not notify the queue", "deploy/stack.yaml"),
        ],
    ),
    (
        "the policy names a queue that was not opened",
        |w| w.dlq = None,
        &[
            (Fail, "dlq", "the redrive policy names arn:aws:sqs:eu-central-1:111122223333:files-dlq", "SQS_DLQ_URL"),
            (Skipped, "dlq_pairing", NEEDS_DLQ, ""),
            (Skipped, "retention", NEEDS_DLQ, ""),
        ],
    ),
    (
        "there is no dlq at all",
        |w| {
            w.dlq = None;
            w.queue.facts.dead_letter_arn = None;
            w.queue.facts.max_receive_count = None;
        },
        &[
            (Fail, "dlq", "nowhere to go", "aws sqs set-queue-attributes"),
            (Skipped, "dlq_pairing", NEEDS_DLQ, ""),
            (Fail, "max_receives", "no maxReceiveCount", "aws sqs set-queue-attributes"),
            (Skipped, "retention", NEEDS_DLQ, ""),
        ],
    ),
    (
        "no policy joins queue and dlq",
        |w| {
            w.queue.facts.dead_letter_arn = None;
            w.queue.facts.max_receive_count = None;
        },
        &[(Fail, "dlq_pairing", "no redrive policy", JOIN), (Fail, "max_receives", "circles for ever", JOIN)],
    ),
    (
        "the policy names another dlq",
        |w| w.queue.facts.dead_letter_arn = Some(format!("{DLQ_ARN}2")),
        &[(Fail, "dlq_pairing", "files-dlq2, SQS_DLQ_URL is arn:aws:sqs:eu-central-1:111122223333:files-dlq", JOIN)],
    ),
    (
        "the queue is its own dlq",
        |w| w.dlq().facts.arn = ARN.into(),
        &[(Fail, "dlq_pairing", "its own dead-letter queue", "another queue")],
    ),
    (
        "maxReceiveCount is 3",
        |w| w.queue.facts.max_receive_count = Some(3),
        &[(Fail, "max_receives", "maxReceiveCount is 3", JOIN)],
    ),
    (
        "maxReceiveCount is 5",
        |w| w.queue.facts.max_receive_count = Some(5),
        &[(Warn, "max_receives", "maxReceiveCount is 5, 20 is advised", JOIN)],
    ),
    (
        "maxReceiveCount is 19 on a local stack",
        |w| {
            w.queue.facts.max_receive_count = Some(19);
            w.url = "http://127.0.0.1:4566/000000000000/files";
        },
        &[(
            Warn,
            "max_receives",
            "maxReceiveCount is 19",
            "--endpoint-url 'http://127.0.0.1:4566' --queue-url 'http://127.0.0.1:4566/000000000000/files'",
        )],
    ),
    (
        "the dlq forgets as early as the queue",
        |w| w.dlq().facts.retention = DAY * 4,
        &[(
            Fail,
            "retention",
            "queue 4 d, dlq 4 d",
            r#"/files-dlq' --attributes '{"MessageRetentionPeriod":"1209600"}'"#,
        )],
    ),
    (
        "the queue keeps messages as long as a dlq can",
        |w| w.queue.facts.retention = DAY * 14,
        &[(Fail, "retention", "queue 14 d, dlq 14 d", r#"/files' --attributes '{"MessageRetentionPeriod":"345600"}'"#)],
    ),
    (
        "the lease is too short",
        |w| w.visibility = Duration::from_secs(9),
        &[(Fail, "lease", "SQS_VISIBILITY_TIMEOUT is 9 s", "10 or more")],
    ),
    (
        "the lease is long",
        |w| w.visibility = Duration::from_secs(1_800),
        &[(Warn, "lease", "hidden for up to 1800 s", "SQS_VISIBILITY_TIMEOUT=60")],
    ),
    (
        "the lease is longer than sqs allows",
        |w| w.visibility = Duration::from_secs(43_200),
        &[
            (Warn, "lease", "43200 s", "SQS_VISIBILITY_TIMEOUT=60"),
            (Fail, "timeouts", "lease 43200 s < 43200 s", "lower SQS_VISIBILITY_TIMEOUT"),
        ],
    ),
    ("no source is configured", |w| w.sources.clear(), &[(Fail, "source_bucket", "no source", "SOURCE_BUCKETS")]),
    (
        "a source bucket is not there",
        |w| drop(w.store.probe.insert("shared", Mood::Error(StoreError::BucketMissing("shared".into())))),
        &[
            (Fail, "source_bucket", "shared: bucket does not exist", "check SOURCE_BUCKETS"),
            (Skipped, "missing_key", "shared: needs the bucket", ""),
        ],
    ),
    (
        "a source bucket does not answer",
        |w| drop(w.store.probe.insert("inbox", Mood::Hangs)),
        &[
            (Fail, "source_bucket", "inbox: unavailable: no answer within 10 s", "network"),
            (Skipped, "missing_key", "inbox: needs the bucket", ""),
        ],
    ),
    (
        "listing a source is not allowed",
        |w| {
            w.sources = vec!["shared/drop/"];
            w.store.probe.insert("shared", Mood::Error(StoreError::Denied("403".into())));
            w.store.head = Mood::Error(StoreError::Denied("403".into()));
        },
        &[
            (Fail, "source_bucket", "shared: access denied", "grant s3:ListBucket on arn:aws:s3:::shared"),
            (Fail, "missing_key", "s3:ListBucket is missing", "s3:GetObject on arn:aws:s3:::shared/drop/*"),
        ],
    ),
    (
        "a store has every key",
        |w| {
            w.sources = vec!["inbox"];
            w.store.invents_objects = true;
        },
        &[(Fail, "missing_key", "a key that nobody wrote", "AWS_ENDPOINT_URL")],
    ),
    (
        "the results bucket is a source",
        |w| w.sources = vec!["inbox", "results/in/"],
        &[
            (Fail, "results_apart", "results is a source", "take this one out of SOURCE_BUCKETS"),
            (Warn, "notification", "results: does not notify the queue", "deploy/stack.yaml"),
        ],
    ),
    (
        "the results bucket is not there",
        |w| drop(w.store.probe.insert("results", Mood::Error(StoreError::BucketMissing("results".into())))),
        &[
            (Fail, "results_bucket", "results: bucket does not exist", "check S3_BUCKET"),
            (Skipped, "results_writes", "needs the bucket", ""),
            (Skipped, "pause", "results: needs the bucket", ""),
            (Skipped, "clock", "needs a write to the results bucket", ""),
        ],
    ),
    (
        "writing results is not allowed",
        |w| w.store.put = Mood::Error(StoreError::Denied("403".into())),
        &[
            (Fail, "results_writes", "cannot write control/check-", "s3:PutObject"),
            (Skipped, "clock", "needs a write to the results bucket", ""),
        ],
    ),
    (
        "writing results never ends",
        |w| w.store.put = Mood::Hangs,
        &[
            (Fail, "results_writes", "no answer within 10 s", "s3:PutObject"),
            (Skipped, "clock", "needs a write to the results bucket", ""),
        ],
    ),
    (
        "the reply of a write is lost",
        |w| w.store.loses_replies = true,
        &[
            (Fail, "results_writes", "connection reset", "s3:PutObject"),
            (Skipped, "clock", "needs a write to the results bucket", ""),
        ],
    ),
    (
        "the store ignores if-none-match",
        |w| w.store.honours_if_none_match = false,
        &[
            (Fail, "results_writes", "ignores if-none-match", "conditional writes"),
            (Skipped, "clock", "needs a write to the results bucket", ""),
        ],
    ),
    (
        "the store ignores if-match",
        |w| w.store.honours_if_match = false,
        &[
            (Fail, "results_writes", "ignores if-match", "conditional writes"),
            (Skipped, "clock", "needs a write to the results bucket", ""),
        ],
    ),
    (
        "the store drops metadata",
        |w| w.store.keeps_metadata = false,
        &[
            (Fail, "results_writes", "not what was written", ""),
            (Skipped, "clock", "needs a write to the results bucket", ""),
        ],
    ),
    (
        "reading results is not allowed",
        |w| w.store.get = Mood::Error(StoreError::Denied("403".into())),
        &[
            (Fail, "results_writes", "cannot read", "s3:GetObject"),
            (Fail, "pause", "cannot see whether the fleet is paused", "arn:aws:s3:::results/control/pause.json"),
            (Skipped, "clock", "needs a write to the results bucket", ""),
        ],
    ),
    (
        "the fleet is paused",
        |w| w.store.pause(r#"{"v":1,"reason":"incident 7","by":"ada","at":"2026-11-22T00:00:00Z"}"#),
        &[(Warn, "pause", "paused by ada since 2026-11-22T00:00:00Z: incident 7", "S3_BUCKET=results redrive resume")],
    ),
    (
        "the pause cannot be read",
        |w| w.store.pause("{"),
        &[(Warn, "pause", "control/pause.json cannot be read", "redrive resume")],
    ),
    (
        "removing results is not allowed",
        |w| w.store.delete = Mood::Error(StoreError::Denied("403".into())),
        &[(Warn, "results_writes", "could not be removed", "s3:DeleteObject")],
    ),
    (
        "the alias is not there",
        |w| w.search = Some(FakeSearch(Mood::Error(SearchError::Unavailable("no such alias".into())))),
        &[(Fail, "index", "alias files: search unavailable: no such alias", "worker setup-index")],
    ),
    (
        "search never answers",
        |w| w.search = Some(FakeSearch(Mood::Hangs)),
        &[(Fail, "index", "no answer within 10 s", "OPENSEARCH_ENDPOINT")],
    ),
    (
        "nothing tells the queue of new files",
        |w| w.wiring.of("inbox").all.clear(),
        &[(Warn, "notification", "inbox: does not notify the queue", "s3:ObjectCreated:*")],
    ),
    (
        "removed files are not told",
        |w| w.wiring.of("inbox").all = vec![tells(ARN, &["s3:ObjectCreated:Put", "s3:ObjectCreated:*"], "")],
        &[(Warn, "notification", "removed files stay found", "s3:ObjectRemoved:*")],
    ),
    (
        "only some ways of writing a file are told, and only removals by hand",
        |w| w.wiring.of("inbox").all = vec![tells(ARN, &["s3:ObjectCreated:Put", "s3:ObjectRemoved:Delete"], "")],
        &[(Warn, "notification", "new files of this source are not all told; s3:ObjectRemoved:*", "deploy/stack.yaml")],
    ),
    (
        "the filter of the notification leaves out some of the source",
        |w| w.wiring.of("shared").all = vec![tells(ARN, &COMES_AND_GOES, "drop/pdf/")],
        &[(Warn, "notification", "shared/drop/: the queue is not told of s3:ObjectCreated:*", "deploy/stack.yaml")],
    ),
    (
        "files that expire are not told",
        |w| w.wiring.expires("shared", "drop/old/"),
        &[(Warn, "notification", "files that a lifecycle rule deletes stay found", "s3:LifecycleExpiration:*")],
    ),
    (
        "our own records come back as work",
        |w| w.wiring.of("results").all.push(tells(ARN, &["s3:ObjectCreated:*"], "processed/")),
        &[(Fail, "notification_loop", "results: notifies the queue of our own records", "take the queue out")],
    ),
    (
        "a lifecycle rule deletes records",
        |w| w.wiring.expires("results", ""),
        &[(Fail, "results_lifecycle", "lifecycle rule \"tidy\" deletes what begins with \"\"", "attempts/")],
    ),
    (
        "a lifecycle rule deletes some markers",
        |w| w.wiring.expires("results", "retry-index/2026"),
        &[(Fail, "results_lifecycle", "retry-index/2026", "prefix of its own")],
    ),
    (
        "what the buckets do may not be looked at",
        |w| w.wiring.mood = Some(StoreError::Denied("403".into())),
        &[
            (Warn, "notification", "inbox: cannot be looked at", "s3:GetBucketNotification"),
            (Warn, "notification", "shared: cannot be looked at", "s3:GetBucketNotification"),
            (Warn, "notification_loop", "results: cannot be looked at", "s3:GetBucketNotification"),
            (Warn, "results_lifecycle", "cannot be looked at", "s3:GetLifecycleConfiguration"),
        ],
    ),
    (
        "whether files expire may not be looked at, and of one bucket it would be told",
        |w| {
            w.wiring.lifecycle_mood = Some(StoreError::Denied("403".into()));
            let all = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:LifecycleExpiration:*"];
            w.wiring.of("shared").all = vec![tells(ARN, &all, "")];
        },
        &[
            (Warn, "notification", "inbox: cannot be looked at", "s3:GetLifecycleConfiguration"),
            (Warn, "results_lifecycle", "cannot be looked at", "s3:GetLifecycleConfiguration"),
        ],
    ),
    (
        "the mapping has changed",
        |w| w.mapping = FakeMapping(Ok(vec![SetupStep::Conflict("files-v1 has no field tenant".into())])),
        &[(Fail, "mapping", "files-v1 has no field tenant", "worker setup-index")],
    ),
    (
        "the alias writes to no index",
        |w| w.mapping = FakeMapping(Err(SetupError::Names("alias files writes to no index".into()))),
        &[(Fail, "mapping", "writes to no index", "worker setup-index")],
    ),
    ("the clock is slow", |w| w.clock = Stands(WRITTEN - 60_000), &[(Warn, "clock", "59 s between", "time service")]),
    (
        "the clock is wrong",
        |w| w.clock = Stands(WRITTEN + 3_600_000),
        &[(Fail, "clock", "3599 s between", "time service")],
    ),
    ("search was forgotten", |w| w.search = None, &[(Fail, "index", "no search endpoint", "SKIP_OPENSEARCH=true")]),
    (
        "search is skipped on purpose",
        |w| {
            w.search = None;
            w.skip_opensearch = true;
        },
        &[(Skipped, "index", "SKIP_OPENSEARCH is set", "")],
    ),
];

#[tokio::test(start_paused = true)]
async fn every_broken_thing_is_named_with_what_mends_it_and_nothing_else_is() {
    for (fault, break_it, expected) in CASES {
        let mut world = World::sound();
        break_it(&mut world);
        let findings = world.check().await;
        let noted: Vec<&Finding> = findings.iter().filter(|finding| finding.verdict != Verdict::Pass).collect();
        let seen: Vec<_> = noted.iter().map(|finding| (finding.verdict, finding.name)).collect();
        let named: Vec<_> = expected.iter().map(|(verdict, name, ..)| (*verdict, *name)).collect();
        assert_eq!(seen, named, "{fault}: {noted:#?}");
        for (finding, (verdict, _, evidence, fix)) in noted.iter().zip(*expected) {
            assert!(finding.evidence.contains(evidence), "{fault}: {finding:#?}");
            assert!(finding.fix.as_deref().unwrap_or("").contains(fix), "{fault}: {finding:#?}");
            assert_eq!(finding.fix.is_some(), *verdict != Verdict::Skipped, "{fault}: {finding:#?}");
        }
        let failed = expected.iter().any(|(verdict, ..)| *verdict == Verdict::Fail);
        assert_eq!(exit_code(&findings), u8::from(failed), "{fault}");
        let left = world.store.objects.lock().unwrap().keys().filter(|key| key.contains("check-")).count();
        assert_eq!(left, usize::from(matches!(world.store.delete, Mood::Error(_))), "{fault}: objects left behind");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sound_world_passes_every_check() {
    let findings = World::sound().check().await;
    let names: Vec<&str> = findings.iter().map(|finding| finding.name).collect();
    let expected = [
        "queue",
        "queue_type",
        "dlq",
        "dlq_pairing",
        "max_receives",
        "retention",
        "lease",
        "source_bucket",
        "missing_key",
        "source_bucket",
        "missing_key",
        "results_apart",
        "results_bucket",
        "results_writes",
        "pause",
        "notification",
        "notification",
        "notification_loop",
        "results_lifecycle",
        "index",
        "mapping",
        "timeouts",
        "clock",
    ];
    assert_eq!(names, expected);
    for finding in &findings {
        assert_eq!((finding.verdict, &finding.fix), (Verdict::Pass, &None), "{finding:#?}");
    }
    assert_eq!(
        findings.iter().find(|finding| finding.name == "timeouts").unwrap().evidence,
        "poll 15 s < heartbeat every 20 s < lease 60 s < 43200 s (sqs limit); \
         stop: drain or open poll 30 s + settling 15 s = 45 s < TimeoutStopSec"
    );
}

#[tokio::test(start_paused = true)]
async fn everything_hanging_at_once_still_ends_within_half_a_minute() {
    let mut world = World::sound();
    world.queue.mood = Mood::Hangs;
    world.dlq().mood = Mood::Hangs;
    world.search = Some(FakeSearch(Mood::Hangs));
    world.store.head = Mood::Hangs;
    world.store.put = Mood::Hangs;
    world.store.get = Mood::Hangs;
    world.store.delete = Mood::Hangs;
    world.store.probe.insert("inbox", Mood::Hangs);
    let start = tokio::time::Instant::now();
    let findings = world.check().await;
    assert!(start.elapsed() <= Duration::from_secs(30), "{:?}", start.elapsed());
    assert_eq!(exit_code(&findings), 1);
}

/// A message may come to the DLQ late in its life, and its age counts from the first queue on.
#[tokio::test(start_paused = true)]
async fn a1_9_a_dlq_that_keeps_messages_no_longer_than_its_queue_fails_the_check() {
    for (days, verdict) in [(3, Verdict::Fail), (4, Verdict::Fail), (14, Verdict::Pass)] {
        let mut world = World::sound();
        assert_eq!(world.queue.facts.retention, DAY * 4);
        world.dlq().facts.retention = DAY * days;
        let findings = world.check().await;
        let retention = findings.iter().find(|finding| finding.name == "retention").unwrap();
        assert_eq!(
            (retention.verdict, exit_code(&findings)),
            (verdict, u8::from(verdict == Verdict::Fail)),
            "{days} d"
        );
    }
}
