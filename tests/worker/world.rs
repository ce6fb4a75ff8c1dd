//! A world of its own for a test: queue and DLQ with a redrive policy, source and results buckets, a notification,
//! an index. Everything here speaks to the services as an operator would, not through the code under test.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_s3::types::{Event, NotificationConfiguration, QueueConfiguration as Notify};
use aws_sdk_sqs::types::{MessageAttributeValue, QueueAttributeName, SendMessageBatchRequestEntry};
use futures_util::StreamExt as _;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::process::Launch;
use crate::relay::Relay;
use crate::search::Search;
use crate::waiting::{LONG, eventually, holds};

pub const NAMESPACE: &str = "acceptance";
/// Of the queues: more receives than any test needs, so that nothing but the worker dead-letters.
const MAX_RECEIVES: u32 = 50;

pub struct World {
    pub sqs: aws_sdk_sqs::Client,
    pub s3: aws_sdk_s3::Client,
    pub search: Search,
    pub queue: String,
    pub dlq: String,
    pub source: String,
    pub results: String,
    temp: tempfile::TempDir,
}

/// Messages of a queue: visible, in flight, delayed.
pub type Depth = (u32, u32, u32);

/// A message in the DLQ.
pub struct DeadLetter {
    pub body: String,
    pub attributes: HashMap<String, MessageAttributeValue>,
    /// The `Quittance` attribute.
    pub note: Value,
}

impl World {
    /// With a notification from the source bucket to the queue, and an index.
    pub async fn new() -> Self {
        let world = Self::silent().await;
        world.notifies().await;
        world
    }

    /// The same, with the index on a node that ends with the test.
    pub async fn on(node: &str) -> Self {
        let name = unique();
        let world = Self::beside(&name, Search::on(node, &name)).await;
        world.set_up();
        world.notifies().await;
        world
    }

    async fn notifies(&self) {
        let queue_arn = self.arn(&self.queue).await;
        let created = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"].map(Event::from);
        let notify = Notify::builder().queue_arn(queue_arn).set_events(Some(created.to_vec())).build().unwrap();
        let notifications = NotificationConfiguration::builder().queue_configurations(notify).build();
        let put = self.s3.put_bucket_notification_configuration().bucket(&self.source);
        put.notification_configuration(notifications).send().await.unwrap();
        // S3 announces itself; that a worker skips it is a test of its own.
        let announced = eventually("S3's test event", LONG, async || {
            let receive = self.sqs.receive_message().queue_url(&self.queue).wait_time_seconds(1);
            receive.send().await.unwrap().messages.and_then(|mut some| some.pop()).ok_or("nothing")
        })
        .await;
        assert!(announced.body().unwrap().contains("s3:TestEvent"), "{announced:?}");
        let handle = announced.receipt_handle.unwrap();
        self.sqs.delete_message().queue_url(&self.queue).receipt_handle(handle).send().await.unwrap();
    }

    /// Without a notification: only what is sent arrives. With an index.
    pub async fn silent() -> Self {
        let name = unique();
        let world = Self::beside(&name, Search::of(&name)).await;
        world.set_up();
        world
    }

    /// `worker setup-index`.
    pub fn set_up(&self) {
        let set_up = self.launch().run(&["setup-index"]);
        assert_eq!(set_up.code, 0, "setup-index: {set_up:?}");
    }

    /// Without a notification, and with somebody else's index.
    pub async fn sharing(index: &Search) -> Self {
        Self::beside(&unique(), Search::borrowed(&index.alias)).await
    }

    /// Queues, buckets and notification as CloudFormation makes them of deploy/stack.yaml; with an index. S3's test
    /// events are in the queue.
    pub async fn of_the_template() -> Self {
        // A role's name has at most 64 characters, ours at most 32.
        let name = unique()[..32].to_owned();
        let stack = concat!(env!("CARGO_MANIFEST_DIR"), "/localstack/stack");
        let made = std::process::Command::new(stack).args(["provision", &name]).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let made: Value = serde_json::from_slice(&made.stdout).unwrap();
        let [queue, dlq, source, results] = ["SQS_QUEUE_URL", "SQS_DLQ_URL", "SOURCE_BUCKETS", "S3_BUCKET"]
            .map(|variable| made[variable].as_str().unwrap().to_owned());
        let ((sqs, s3), temp) = (clients().await, tempfile::tempdir().unwrap());
        let world = Self { sqs, s3, search: Search::of(&name), queue, dlq, source, results, temp };
        world.set_up();
        world
    }

    async fn beside(name: &str, search: Search) -> Self {
        let (sqs, s3) = clients().await;
        let world = Self {
            dlq: queue(&sqs, &format!("{name}-dlq"), &[("MessageRetentionPeriod", "1209600")]).await,
            queue: queue(&sqs, name, &[("VisibilityTimeout", "60")]).await,
            source: format!("{name}-files"),
            results: format!("{name}-results"),
            search,
            temp: tempfile::tempdir().unwrap(),
            sqs,
            s3,
        };
        let policy =
            format!(r#"{{"deadLetterTargetArn":"{}","maxReceiveCount":{MAX_RECEIVES}}}"#, world.arn(&world.dlq).await);
        let set = world.sqs.set_queue_attributes().queue_url(&world.queue);
        set.attributes(QueueAttributeName::RedrivePolicy, policy).send().await.unwrap();
        world.bucket(&world.source).await;
        world.bucket(&world.results).await;
        world
    }

    pub async fn bucket(&self, name: &str) {
        self.s3.create_bucket().bucket(name).send().await.unwrap();
    }

    pub async fn arn(&self, url: &str) -> String {
        let asked = self.sqs.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::QueueArn);
        asked.send().await.unwrap().attributes.unwrap().remove(&QueueAttributeName::QueueArn).unwrap()
    }

    /// A worker of this world. The DLQ is not named: it is found by the redrive policy.
    pub fn launch(&self) -> Launch {
        Launch::bare()
            .set("SQS_QUEUE_URL", &self.queue)
            .set("S3_BUCKET", &self.results)
            .set("SOURCE_BUCKETS", &self.source)
            .set("NAMESPACE", NAMESPACE)
            .set("OPENSEARCH_ENDPOINT", &self.search.endpoint)
            .set("OPENSEARCH_INDEX", &self.search.alias)
            .set("SQS_VISIBILITY_TIMEOUT", 10)
            .set("WORKER_CONCURRENCY", 20)
            .set("ADMIN_LISTEN", "off")
            .set("TEMP_DIR", self.temp.path().display())
    }

    /// Before S3 and SQS, for a worker that is started with its URL as `AWS_ENDPOINT_URL`.
    pub fn aws_relay(&self) -> Relay {
        Relay::before(&std::env::var("AWS_ENDPOINT_URL").unwrap())
    }

    pub async fn put(&self, key: &str, body: impl Into<Vec<u8>>) -> String {
        self.put_into(&self.source, key, body).await
    }

    /// The etag.
    pub async fn put_into(&self, bucket: &str, key: &str, body: impl Into<Vec<u8>>) -> String {
        let put = self.s3.put_object().bucket(bucket).key(key).body(body.into().into());
        put.send().await.unwrap().e_tag.unwrap()
    }

    /// Several, some at a time.
    pub async fn put_all(&self, files: &BTreeMap<String, Vec<u8>>) {
        let puts = files.iter().map(|(key, body)| self.put(key, body.clone()));
        futures_util::stream::iter(puts).buffer_unordered(8).for_each(async |_| {}).await;
    }

    pub async fn remove(&self, key: &str) {
        self.s3.delete_object().bucket(&self.source).key(key).send().await.unwrap();
    }

    /// The message's id.
    pub async fn send(&self, body: &str) -> String {
        let sent = self.sqs.send_message().queue_url(&self.queue).message_body(body).send().await;
        sent.unwrap().message_id.unwrap()
    }

    /// Several, in batches; their ids.
    pub async fn send_all(&self, bodies: &[String]) -> Vec<String> {
        self.send_all_to(&self.queue, bodies).await
    }

    /// The same, to any queue.
    pub async fn send_all_to(&self, queue: &str, bodies: &[String]) -> Vec<String> {
        let mut ids = Vec::with_capacity(bodies.len());
        for some in bodies.chunks(10) {
            let entry = |(n, body): (usize, &String)| {
                SendMessageBatchRequestEntry::builder().id(n.to_string()).message_body(body).build().unwrap()
            };
            let entries = some.iter().enumerate().map(entry).collect();
            let send = self.sqs.send_message_batch().queue_url(queue).set_entries(Some(entries));
            let sent = send.send().await.unwrap();
            assert!(sent.failed.is_empty(), "{:?}", sent.failed);
            ids.extend(sent.successful.into_iter().map(|entry| entry.message_id));
        }
        ids
    }

    pub async fn depth(&self, url: &str) -> Depth {
        use QueueAttributeName::{
            ApproximateNumberOfMessages as Visible, ApproximateNumberOfMessagesDelayed as Delayed,
            ApproximateNumberOfMessagesNotVisible as InFlight,
        };
        let asked = self.sqs.get_queue_attributes().queue_url(url);
        let asked = asked.attribute_names(Visible).attribute_names(InFlight).attribute_names(Delayed);
        let found = asked.send().await.unwrap().attributes.unwrap();
        let number = |name| found.get(&name).unwrap().parse().unwrap();
        (number(Visible), number(InFlight), number(Delayed))
    }

    /// Waits until the queue is empty: nothing visible, in flight or delayed.
    pub async fn emptied(&self) {
        eventually("an empty queue (visible, in flight, delayed)", LONG, async || {
            let depth = self.depth(&self.queue).await;
            holds(depth == (0, 0, 0), depth)
        })
        .await;
    }

    pub async fn dlq_is_empty(&self) {
        assert_eq!(self.depth(&self.dlq).await, (0, 0, 0), "the DLQ (visible, in flight, delayed)");
    }

    /// Takes this many messages out of the DLQ; there must not be more.
    pub async fn dead_letters(&self, number: usize) -> Vec<DeadLetter> {
        let mut letters = Vec::new();
        eventually(&format!("{number} messages in the DLQ"), LONG, async || {
            let receive = self.sqs.receive_message().queue_url(&self.dlq).message_attribute_names("All");
            let receive = receive.max_number_of_messages(10).visibility_timeout(300);
            for message in receive.send().await.unwrap().messages.unwrap_or_default() {
                let attributes = message.message_attributes.unwrap_or_default();
                let note = attributes.get("Quittance").and_then(|note| note.string_value.as_deref());
                let note = serde_json::from_str(note.expect("a Quittance attribute")).unwrap();
                letters.push(DeadLetter { body: message.body.unwrap(), attributes, note });
            }
            holds(letters.len() >= number, letters.len())
        })
        .await;
        let (visible, taken, _) = self.depth(&self.dlq).await;
        assert_eq!((visible, taken as usize, letters.len()), (0, number, number), "messages in the DLQ");
        letters
    }

    /// The keys under a prefix of the results bucket.
    pub async fn results_under(&self, prefix: &str) -> Vec<String> {
        let mut pages = self.s3.list_objects_v2().bucket(&self.results).prefix(prefix).into_paginator().send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            keys.extend(page.unwrap().contents.unwrap_or_default().into_iter().map(|object| object.key.unwrap()));
        }
        keys
    }

    /// An object of the results bucket, JSON and metadata.
    pub async fn result(&self, key: &str) -> Option<(Value, HashMap<String, String>)> {
        match self.s3.get_object().bucket(&self.results).key(key).send().await {
            Ok(object) => {
                let metadata = object.metadata.unwrap_or_default();
                let body = object.body.collect().await.unwrap().into_bytes();
                Some((serde_json::from_slice(&body).unwrap(), metadata))
            }
            Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_key()) => None,
            Err(error) => panic!("{key}: {error:?}"),
        }
    }

    /// The record of a source key.
    pub async fn record(&self, key: &str) -> Option<(Value, HashMap<String, String>)> {
        self.result(&self.record_key(key)).await
    }

    pub fn record_key(&self, key: &str) -> String {
        format!("processed/{NAMESPACE}/{}.json", self.document_id(key))
    }

    /// As design §2 says it, not as the code does.
    pub fn document_id(&self, key: &str) -> String {
        let digest = Sha256::digest(format!("{NAMESPACE}\0{}\0{key}", self.source));
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Waits until the read alias shows exactly these keys, each once.
    pub async fn finds_exactly(&self, keys: impl IntoIterator<Item = impl Into<String>>) {
        let mut expected: Vec<String> = keys.into_iter().map(Into::into).collect();
        expected.sort();
        eventually("the read alias shows exactly the expected keys", LONG, async || {
            let keys = self.search.keys().await;
            holds(keys == expected, (keys.len(), expected.len(), keys))
        })
        .await;
    }

    /// Waits until no marker of a parked document is left.
    pub async fn nothing_is_parked(&self) {
        eventually("no marker is left", LONG, async || {
            let left = self.results_under("retry-index/").await;
            holds(left.is_empty(), left)
        })
        .await;
    }

    /// Waits until a phrase finds this key and nothing else; the document.
    pub async fn finds(&self, phrase: &str, key: &str) -> Value {
        eventually(&format!("{phrase:?} finds {key:?} alone"), LONG, async || {
            let mut found = self.search.by_phrase(phrase).await;
            holds(found.len() == 1 && found[0]["key"] == key, ()).map(|()| found.remove(0)).map_err(|()| {
                let keys: Vec<Value> = found.iter().map(|one| one["key"].clone()).collect();
                keys
            })
        })
        .await
    }
}

/// Not the worker's own: their timeouts are for a worker, and a busy stack is slow to make a queue.
async fn clients() -> (aws_sdk_sqs::Client, aws_sdk_s3::Client) {
    assert!(std::env::var_os("AWS_ENDPOINT_URL").is_some(), "AWS_ENDPOINT_URL must name the local stack");
    let aws = quittance::aws::load().await;
    let s3 = aws_sdk_s3::config::Builder::from(&aws).force_path_style(true).build();
    (aws_sdk_sqs::Client::new(&aws), aws_sdk_s3::Client::from_conf(s3))
}

fn unique() -> String {
    format!("w{}", uuid::Uuid::now_v7().simple())
}

pub async fn queue(sqs: &aws_sdk_sqs::Client, name: &str, attributes: &[(&str, &str)]) -> String {
    let mut create = sqs.create_queue().queue_name(name);
    for (attribute, value) in attributes {
        create = create.attributes((*attribute).into(), *value);
    }
    create.send().await.unwrap().queue_url.unwrap()
}

/// Small text files that can be told apart: key → body, and the phrase that finds each.
pub fn text_files(number: usize) -> BTreeMap<String, Vec<u8>> {
    (0..number)
        .map(|n| (format!("batch/{n:03}.txt"), format!("A small file.\nIts number is {}.\n", spelt(n)).into_bytes()))
        .collect()
}

/// A word of its own for each number: phrases must not match each other's beginnings.
pub fn spelt(n: usize) -> String {
    format!("n{n:03}x")
}
