//! The wires between a worker and its services: every call goes through one place, where it can be cut.
//!
//! Promises that a cut is a crash as the services see it: no later call arrives, no answer is heard, and what was under
//! way goes on at the services.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use quittance::books::Books;
use quittance::index::{IndexItem, ItemAnswer, Search, SearchError};
use quittance::message::{Message, MessageId, ReceiptHandle};
use quittance::queue::{BatchSize, EntryReply, Outgoing, Queue, QueueError, QueueFacts, SendReply};
use quittance::store::{Condition, ObjectHead, OpenObject, Page, PutReply, Store, StoreError};
use tokio_util::sync::CancellationToken;

use super::life::Life;
use super::{ModelQueue, ModelSearch, ModelStore};

/// A call that is about to be made: its verb, and `bucket/key` where it names an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asking {
    pub verb: &'static str,
    pub place: String,
    /// Calls of this worker before this one.
    pub number: usize,
}

/// Where the wires are cut: before the service hears of the call, or after it has acted. Or the caller's own code panics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    Before,
    After,
    Panics,
}

type Trap = Box<dyn FnMut(&Asking) -> Option<Cut> + Send>;

/// All wires of one worker.
pub struct Wires {
    /// The incarnation whose wires they are.
    pub run: String,
    cut: CancellationToken,
    trap: Mutex<Option<Trap>>,
    spared: AtomicBool,
    asked: Mutex<usize>,
    books: Arc<Books>,
    life: Option<Arc<Life>>,
    complaint: Mutex<Option<String>>,
    most: Mutex<Most>,
}

/// What was seen at the calls.
#[derive(Default)]
struct Most {
    in_flight: u64,
    under_way: usize,
    calls: usize,
}

impl Wires {
    /// Wires of somebody who cannot die.
    pub fn new(books: Arc<Books>, run: String) -> Arc<Self> {
        Self::of(books, run, None)
    }

    /// A cut ends this life.
    pub fn of(books: Arc<Books>, run: String, life: Option<Arc<Life>>) -> Arc<Self> {
        Arc::new(Self {
            run,
            cut: CancellationToken::new(),
            trap: Mutex::default(),
            spared: AtomicBool::new(false),
            asked: Mutex::default(),
            books,
            life,
            complaint: Mutex::default(),
            most: Mutex::default(),
        })
    }

    /// Cuts at the first call for which `at` says so.
    pub fn cut_at(&self, at: impl FnMut(&Asking) -> Option<Cut> + Send + 'static) {
        *self.trap.lock().unwrap() = Some(Box::new(at));
    }

    pub fn cut_now(&self) {
        if let Some(life) = &self.life {
            life.kill();
        }
        self.cut.cancel();
    }

    /// Takes the trap away, also one that has sprung and waits for its answer.
    pub fn no_trap(&self) {
        self.spared.store(true, Ordering::Relaxed);
        *self.trap.lock().unwrap() = None;
    }

    pub fn is_cut(&self) -> bool {
        self.cut.is_cancelled()
    }

    /// Calls so far.
    pub fn asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }

    /// The first imbalance that was seen, if any: the books are looked at before every call.
    pub fn complaint(&self) -> Option<String> {
        self.complaint.lock().unwrap().clone()
    }

    /// The most receipts in flight, by the books, and the most calls under way, at the begin of any call.
    pub fn most(&self) -> (u64, usize) {
        let most = self.most.lock().unwrap();
        (most.in_flight, most.calls)
    }

    async fn pass<T>(&self, verb: &'static str, place: String, call: impl Future<Output = T>) -> T {
        let line = self.books.snapshot(false);
        if !line.balanced {
            self.complaint.lock().unwrap().get_or_insert(format!("before {verb} {place}: {line:?}"));
        }
        {
            let mut most = self.most.lock().unwrap();
            most.in_flight = most.in_flight.max(line.in_flight);
            most.under_way += 1;
            most.calls = most.calls.max(most.under_way);
        }
        let _under_way = UnderWay(&self.most);
        let number = {
            let mut asked = self.asked.lock().unwrap();
            *asked += 1;
            *asked - 1
        };
        let sprung = match &mut *self.trap.lock().unwrap() {
            Some(trap) if !self.is_cut() => trap(&Asking { verb, place: place.clone(), number }),
            Some(_) | None => None,
        };
        match sprung {
            Some(Cut::Before) => self.cut_now(),
            Some(Cut::Panics) => panic!("told to, before {verb} {place}"),
            Some(Cut::After) | None => {}
        }
        tokio::select! {
            biased;
            () = self.cut.cancelled() => std::future::pending().await,
            reply = call => {
                if sprung == Some(Cut::After) && !self.spared.load(Ordering::Relaxed) {
                    self.cut_now();
                    std::future::pending().await
                }
                reply
            }
        }
    }
}

/// Counts a call out, also one whose caller went away.
struct UnderWay<'a>(&'a Mutex<Most>);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap().under_way -= 1;
    }
}

/// A port behind wires.
pub struct Wired<P> {
    pub wires: Arc<Wires>,
    pub port: P,
}

#[async_trait]
impl Queue for Wired<ModelQueue> {
    async fn receive(&self, max: BatchSize, wait: Duration, visibility: Duration) -> Result<Vec<Message>, QueueError> {
        self.wires.pass("receive", String::new(), self.port.receive(max, wait, visibility)).await
    }

    async fn delete(&self, handles: &[ReceiptHandle]) -> Result<Vec<EntryReply>, QueueError> {
        self.wires.pass("delete", String::new(), self.port.delete(handles)).await
    }

    async fn change_visibility(&self, entries: &[(ReceiptHandle, Duration)]) -> Result<Vec<EntryReply>, QueueError> {
        self.wires.pass("change", String::new(), self.port.change_visibility(entries)).await
    }

    async fn send(&self, message: &Outgoing) -> Result<MessageId, QueueError> {
        self.wires.pass("send", String::new(), self.port.send(message)).await
    }

    async fn send_batch(&self, messages: &[Outgoing]) -> Result<Vec<SendReply>, QueueError> {
        self.wires.pass("send", String::new(), self.port.send_batch(messages)).await
    }

    async fn facts(&self) -> Result<QueueFacts, QueueError> {
        self.wires.pass("facts", String::new(), self.port.facts()).await
    }
}

#[async_trait]
impl Store for Wired<ModelStore> {
    async fn head(&self, bucket: &str, key: &str) -> Result<Option<ObjectHead>, StoreError> {
        self.wires.pass("head", format!("{bucket}/{key}"), self.port.head(bucket, key)).await
    }

    async fn get(&self, bucket: &str, key: &str) -> Result<Option<OpenObject>, StoreError> {
        self.wires.pass("get", format!("{bucket}/{key}"), self.port.get(bucket, key)).await
    }

    async fn put(
        &self,
        bucket: &str,
        key: &str,
        body: Bytes,
        metadata: &BTreeMap<String, String>,
        condition: Condition,
    ) -> Result<PutReply, StoreError> {
        let call = self.port.put(bucket, key, body, metadata, condition);
        self.wires.pass("put", format!("{bucket}/{key}"), call).await
    }

    async fn delete(&self, bucket: &str, key: &str) -> Result<(), StoreError> {
        self.wires.pass("remove", format!("{bucket}/{key}"), self.port.delete(bucket, key)).await
    }

    async fn list(&self, bucket: &str, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        self.wires.pass("list", format!("{bucket}/{prefix}"), self.port.list(bucket, prefix, after, limit)).await
    }

    async fn probe(&self, bucket: &str) -> Result<(), StoreError> {
        self.wires.pass("probe", bucket.to_owned(), self.port.probe(bucket)).await
    }
}

#[async_trait]
impl Search for Wired<ModelSearch> {
    async fn bulk(&self, items: &[IndexItem]) -> Result<Vec<ItemAnswer>, SearchError> {
        self.wires.pass("bulk", String::new(), self.port.bulk(items)).await
    }

    async fn probe(&self) -> Result<(), SearchError> {
        self.wires.pass("search-probe", String::new(), self.port.probe()).await
    }

    fn request_timeout(&self) -> Duration {
        self.port.request_timeout()
    }
}
