//! A cell: a world in which workers are killed, what was sent into it, and what must become of that.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use fastrand::Rng;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::process::Launch;
use crate::world::World;

/// Bytes of a file that comes in several chunks.
const LARGE: usize = 200 * 1024;

/// Kinds of message, by what they lead a worker to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A file that was never there.
    Fresh,
    /// A fresh file that comes in several chunks.
    Large,
    /// A known file with another text.
    Overwrite,
    /// A known file is gone.
    Removed,
    /// The same event twice.
    Twin,
    /// Two or three changes in one message.
    Multi,
    /// No event: dead-lettered.
    Malformed,
    /// A bucket that may not be read: dead-lettered.
    NotAllowed,
    /// A file that never comes: returned, then dead-lettered.
    Missing,
}

/// What a message stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Due {
    /// These keys, durable and in the index as the bucket holds them.
    Files(Vec<String>),
    /// A letter in the DLQ for this reason, with this body.
    Letter { reason: &'static str, body: String },
}

/// What was sent, and how the source bucket stands.
#[derive(Default)]
pub struct Ledger {
    /// By message id.
    pub sent: BTreeMap<String, Due>,
    /// By key: the text, or nothing once it is removed.
    pub files: BTreeMap<String, Option<String>>,
    /// Keys that were removed at some time.
    pub removed: BTreeSet<String>,
    number: u64,
}

pub struct Cell {
    pub world: World,
    pub ledger: Mutex<Ledger>,
    concurrency: usize,
}

impl Cell {
    /// Whose workers have at most this many messages in hand.
    pub async fn new(concurrency: usize) -> Self {
        Self { world: World::silent().await, ledger: Mutex::default(), concurrency }
    }

    /// Short leases, few messages in hand, quick second attempts.
    pub fn launch(&self) -> Launch {
        let launch = self.world.launch().set("WORKER_CONCURRENCY", self.concurrency).set("EXTRACTORS", 2);
        launch.set("MAX_ATTEMPTS", 2).set("RETRY_BASE_SECONDS", 1).unarmed()
    }

    /// Sends one message of this kind (a twin is two).
    pub async fn send(&self, kind: Kind, rng: &mut Rng) {
        let mut ledger = self.ledger.lock().await; // the bucket and the sequencers keep one order
        match kind {
            Kind::Fresh | Kind::Large => {
                let record = self.fresh(&mut ledger, kind == Kind::Large).await;
                self.send_files(&mut ledger, vec![record]).await;
            }
            Kind::Overwrite | Kind::Removed => {
                let record = self.change_known(&mut ledger, kind == Kind::Removed, rng).await;
                self.send_files(&mut ledger, vec![record]).await;
            }
            Kind::Twin => {
                let record = self.fresh(&mut ledger, false).await;
                self.send_files(&mut ledger, vec![record.clone()]).await;
                self.send_files(&mut ledger, vec![record]).await;
            }
            Kind::Multi => {
                let mut records = vec![self.fresh(&mut ledger, false).await];
                records.push(self.change_known(&mut ledger, false, rng).await);
                if rng.bool() {
                    records.push(self.fresh(&mut ledger, false).await);
                }
                self.send_files(&mut ledger, records).await;
            }
            Kind::Malformed => {
                let body = format!("{{ \"no event\":\t\"{}\" 日本", ledger.next());
                self.send_dead(&mut ledger, "malformed", body).await;
            }
            Kind::NotAllowed => {
                let body = ledger.not_allowed();
                self.send_dead(&mut ledger, "not_allowed", body).await;
            }
            Kind::Missing => {
                let key = format!("never/came/{}.txt", ledger.next());
                let record = ledger.record("ObjectCreated:Put", &self.world.source, &key);
                self.send_dead(&mut ledger, "source_missing", json!({ "Records": [record] }).to_string()).await;
            }
        }
    }

    /// Sends many messages that can only be dead-lettered, in batches.
    pub async fn send_many(&self, number: usize) {
        let mut ledger = self.ledger.lock().await;
        let bodies: Vec<String> = (0..number).map(|_| ledger.not_allowed()).collect();
        for batch in bodies.chunks(10) {
            let entry = |(n, body): (usize, &String)| {
                SendMessageBatchRequestEntry::builder().id(n.to_string()).message_body(body).build().unwrap()
            };
            let entries = batch.iter().enumerate().map(entry).collect();
            let send = self.world.sqs.send_message_batch().queue_url(&self.world.queue).set_entries(Some(entries));
            for sent in send.send().await.unwrap().successful {
                let body = batch[sent.id.parse::<usize>().unwrap()].clone();
                ledger.sent.insert(sent.message_id, Due::Letter { reason: "not_allowed", body });
            }
        }
        assert_eq!(ledger.sent.len(), number);
    }

    async fn fresh(&self, ledger: &mut Ledger, large: bool) -> Value {
        let number = ledger.next();
        let mut text = format!("File number {number}, and its first text.");
        if large {
            text.push_str(&format!("\nLine of {number}.").repeat(LARGE / 16));
        }
        self.put(ledger, &format!("files/{number:05}-日本.txt"), text).await
    }

    async fn change_known(&self, ledger: &mut Ledger, remove: bool, rng: &mut Rng) -> Value {
        let known: Vec<String> = ledger.files.keys().cloned().collect();
        let Some(key) = rng.choice(known) else { return self.fresh(ledger, false).await };
        if remove {
            self.world.remove(&key).await;
            ledger.files.insert(key.clone(), None);
            ledger.removed.insert(key.clone());
            return ledger.record("ObjectRemoved:Delete", &self.world.source, &key);
        }
        let text = format!("Text number {} of a known file.", ledger.next());
        self.put(ledger, &key, text).await
    }

    async fn put(&self, ledger: &mut Ledger, key: &str, text: String) -> Value {
        self.world.put(key, text.clone()).await;
        ledger.files.insert(key.to_owned(), Some(text));
        ledger.record("ObjectCreated:Put", &self.world.source, key)
    }

    async fn send_files(&self, ledger: &mut Ledger, records: Vec<Value>) {
        let decoded = |record: &Value| {
            let key = record["s3"]["object"]["key"].as_str().unwrap();
            percent_encoding::percent_decode_str(key).decode_utf8().unwrap().into_owned()
        };
        let keys = records.iter().map(decoded).collect();
        let id = self.world.send(&json!({ "Records": records }).to_string()).await;
        ledger.sent.insert(id, Due::Files(keys));
    }

    async fn send_dead(&self, ledger: &mut Ledger, reason: &'static str, body: String) {
        let id = self.world.send(&body).await;
        ledger.sent.insert(id, Due::Letter { reason, body });
    }
}

impl Ledger {
    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn not_allowed(&mut self) -> String {
        let key = format!("not/ours/{}.txt", self.next());
        json!({ "Records": [self.record("ObjectCreated:Put", "a-bucket-of-somebody-else", &key)] }).to_string()
    }

    /// A record of an S3 event, with a sequencer that grows with each change (LocalStack's own never does).
    fn record(&mut self, event: &str, bucket: &str, key: &str) -> Value {
        let encoded = percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC).to_string();
        json!({
            "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "us-east-1",
            "eventTime": "2026-11-20T08:15:30.000Z", "eventName": event,
            "responseElements": { "x-amz-request-id": "C3D13FE58DE4C810" },
            "s3": {
                "s3SchemaVersion": "1.0", "configurationId": "quittance", "bucket": { "name": bucket },
                "object": { "key": encoded, "size": 5, "sequencer": format!("{:018X}", 0x17_0000 + self.next()) },
            },
        })
    }
}
