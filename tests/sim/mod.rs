//! The world of the simulations: queue, dead-letter queue, store and index on one paused clock, from one seed.
//!
//! Promises that a seed replays: one thread, ordered maps, and a generator per model, so that what one model draws
//! does not depend on what another was asked. Knows no worker; tests bring their own, through the ports.

// Every test file compiles this module for itself and uses its own part of it. It is all test code, though clippy
// only sees the functions marked as tests as such.
#![allow(dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quittance::clock::{LeaseClock, WallClock};
use quittance::message::MessageId;
use quittance::store::ObjectHead;
use serde_json::{Value, json};
use tokio::time::Instant;

pub mod bench;
pub mod faults;
pub mod history;
pub mod judge;
pub mod life;
pub mod queue;
pub mod reader;
pub mod search;
pub mod store;
pub mod story;
pub mod trial;
pub mod wires;
pub mod worker;

pub use faults::{Call, Fate, Faults, Stamp, Ticks};
pub use queue::{Effect, ModelQueue, QueueAnswer, QueueAsk, QueueSettings, StaleDelete};
pub use search::{ModelSearch, SearchAnswer, SearchAsk};
pub use store::{BodyFault, ModelStore, Rule, StoreAnswer, StoreAsk, Verb};
pub use wires::{Asking, Cut};
pub use worker::{Setup, Site, Worker, document_id, for_seeds, record_key, until};

/// The wall clock when a world begins: 2026-11-22T00:00:00Z.
pub const EPOCH_MS: u64 = 1_795_305_600_000;
/// The bucket files land in.
pub const SOURCE: &str = "source";
/// The bucket records go to.
pub const RESULTS: &str = "results";

/// All services of one simulation.
#[derive(Clone)]
pub struct World {
    pub seed: u64,
    pub queue: ModelQueue,
    pub dead_letters: ModelQueue,
    pub store: ModelStore,
    pub search: ModelSearch,
    pub clock: SimClock,
    pub ticks: Ticks,
}

impl World {
    /// A main queue with `maxReceiveCount` 20 and its dead-letter queue, two buckets, an index. What SQS leaves open
    /// (which code, whether a stale delete deletes) follows from the seed.
    pub fn new(seed: u64) -> Self {
        Self::with(seed, 20)
    }

    pub fn with(seed: u64, max_receive_count: u32) -> Self {
        let ticks = Ticks::default();
        let mut rng = fastrand::Rng::with_seed(seed);
        let dead = QueueSettings { name: "files-dlq".into(), ..QueueSettings::default() };
        let dead_letters = ModelQueue::new(dead, rng.u64(..), ticks.clone());
        let main =
            QueueSettings { redrive: Some((dead_letters.clone(), max_receive_count)), ..QueueSettings::default() };
        let queue = ModelQueue::new(main, rng.u64(..), ticks.clone());
        let store = ModelStore::new(&[SOURCE, RESULTS], rng.u64(..), ticks.clone());
        let search = ModelSearch::new(rng.u64(..), ticks.clone());
        queue.faults(|faults| {
            faults.stale_delete = if rng.bool() { StaleDelete::Deletes } else { StaleDelete::Ignored };
            faults.stale_change = if rng.bool() { "MessageNotInflight" } else { "ReceiptHandleIsInvalid" };
        });
        Self { seed, queue, dead_letters, store, search, clock: SimClock::default(), ticks }
    }

    /// A producer puts a file and S3 tells the queue: one event, whose sequencer is the `turn`-th of its key.
    pub fn upload(&self, key: &str, body: impl Into<Bytes>, turn: u64) -> MessageId {
        self.upload_to(SOURCE, key, body, turn)
    }

    /// The same in another bucket.
    pub fn upload_to(&self, bucket: &str, key: &str, body: impl Into<Bytes>, turn: u64) -> MessageId {
        let head = self.store.put_object(bucket, key, body);
        self.queue.put(s3_event(&[Record::created(bucket, key, &head, turn)]))
    }

    /// A producer removes a file and S3 tells the queue.
    pub fn remove(&self, key: &str, turn: u64) -> MessageId {
        self.store.remove_object(SOURCE, key);
        self.queue.put(s3_event(&[Record::removed(SOURCE, key, turn)]))
    }
}

/// The wall clock of a simulation: runs with tokio's, and can be stepped without it.
#[derive(Clone, Debug)]
pub struct SimClock {
    started: Instant,
    step_ms: Arc<AtomicI64>,
    suspended_ms: Arc<AtomicU64>,
}

impl Default for SimClock {
    fn default() -> Self {
        Self { started: Instant::now(), step_ms: Arc::default(), suspended_ms: Arc::default() }
    }
}

impl SimClock {
    /// Sets the wall clock forward or back; no lease may notice.
    pub fn step(&self, milliseconds: i64) {
        self.step_ms.fetch_add(milliseconds, Ordering::Relaxed);
    }

    /// The machine of all workers sleeps and wakes: its monotonic clock, and so tokio's, does not know.
    pub fn suspend(&self, time: Duration) {
        self.suspended_ms.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
    }

    pub fn lease_clock(&self) -> LeaseClock {
        let suspended = Arc::clone(&self.suspended_ms);
        LeaseClock::with(move || Duration::from_millis(suspended.load(Ordering::Relaxed)))
    }
}

impl WallClock for SimClock {
    fn unix_ms(&self) -> u64 {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap();
        (EPOCH_MS + elapsed).saturating_add_signed(self.step_ms.load(Ordering::Relaxed))
    }
}

/// One record of an S3 event to be made.
#[derive(Clone, Debug)]
pub struct Record {
    pub bucket: String,
    /// As it is; the body form-encodes it, as AWS does.
    pub key: String,
    pub event: &'static str,
    pub etag: Option<String>,
    pub version_id: Option<String>,
    pub size: Option<u64>,
    pub sequencer: Option<String>,
}

impl Record {
    pub fn created(bucket: &str, key: &str, head: &ObjectHead, turn: u64) -> Self {
        Self {
            bucket: bucket.into(),
            key: key.into(),
            event: "ObjectCreated:Put",
            etag: Some(head.etag.clone()),
            version_id: head.version_id.clone(),
            size: Some(head.size),
            sequencer: Some(sequencer(turn)),
        }
    }

    pub fn removed(bucket: &str, key: &str, turn: u64) -> Self {
        let event = "ObjectRemoved:Delete";
        let sequencer = Some(sequencer(turn));
        Self { bucket: bucket.into(), key: key.into(), event, etag: None, version_id: None, size: None, sequencer }
    }
}

/// S3's form: hexadecimal, 18 digits; greater turns are newer.
pub fn sequencer(turn: u64) -> String {
    format!("0065B2C3{turn:010X}")
}

/// The body that S3 sends for these records (event version 2.1).
pub fn s3_event(records: &[Record]) -> String {
    let record = |record: &Record| {
        let mut object = json!({ "key": form_encoded(&record.key) });
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                object[name] = value;
            }
        };
        set("eTag", record.etag.clone().map(Value::from));
        set("versionId", record.version_id.clone().map(Value::from));
        set("size", record.size.map(Value::from));
        set("sequencer", record.sequencer.clone().map(Value::from));
        json!({
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "awsRegion": "us-east-1",
            "eventTime": "2026-11-22T00:00:00.000Z",
            "eventName": record.event,
            "responseElements": { "x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "FMyUVURIY8/IgAtTv8xRjskZQpcIZ9KG" },
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "quittance",
                "bucket": { "name": record.bucket, "arn": format!("arn:aws:s3:::{}", record.bucket) },
                "object": object,
            },
        })
    };
    json!({ "Records": records.iter().map(record).collect::<Vec<_>>() }).to_string()
}

/// As AWS encodes keys in events: spaces as `+`, all but unreserved characters and `/` as `%XX`.
pub fn form_encoded(key: &str) -> String {
    let mut encoded = String::new();
    for byte in key.bytes() {
        match byte {
            b' ' => encoded.push('+'),
            b'/' | b'-' | b'_' | b'.' | b'*' => encoded.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => encoded.push(char::from(byte)),
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
