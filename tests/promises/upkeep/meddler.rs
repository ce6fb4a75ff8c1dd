//! Ports that stop before or after one of their calls, until the test has done something meanwhile.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use quittance::index::SearchError;
use quittance::index::catalogue::{Catalogue, Entry, Held, Removal, Stretch};
use quittance::message::DocumentId;
use quittance::store::{
    Condition, DeleteReply, ListedPage, ObjectHead, OpenObject, Page, PutReply, Shelves, Store, StoreError,
};
use tokio::sync::oneshot;

use crate::sim::{ModelSearch, ModelStore, World};

/// Where a call is stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Before,
    After,
}

pub struct Meddler {
    store: ModelStore,
    search: ModelSearch,
    at: (usize, Side),
    calls: AtomicUsize,
    gate: Mutex<Option<Gate>>,
}

struct Gate {
    reached: oneshot::Sender<()>,
    go_on: oneshot::Receiver<()>,
}

impl Meddler {
    /// Stops at the n-th call; told by the first channel, let go by the second.
    pub fn new(world: &World, at: (usize, Side)) -> (Self, oneshot::Receiver<()>, oneshot::Sender<()>) {
        let ((reached, is_reached), (let_go, go_on)) = (oneshot::channel(), oneshot::channel());
        let meddler = Self {
            store: world.store.seen_by("redrive"),
            search: world.search.seen_by("redrive"),
            at,
            calls: AtomicUsize::new(0),
            gate: Mutex::new(Some(Gate { reached, go_on })),
        };
        (meddler, is_reached, let_go)
    }

    async fn pass<T>(&self, call: impl Future<Output = T>) -> T {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        self.stop((number, Side::Before)).await;
        let reply = call.await;
        self.stop((number, Side::After)).await;
        reply
    }

    async fn stop(&self, here: (usize, Side)) {
        if here != self.at {
            return;
        }
        let gate = self.gate.lock().unwrap().take();
        if let Some(Gate { reached, go_on }) = gate {
            reached.send(()).unwrap();
            let _ = go_on.await; // dropped: whoever was stopped here never goes on
        }
    }
}

#[async_trait]
impl Store for Meddler {
    async fn head(&self, bucket: &str, key: &str) -> Result<Option<ObjectHead>, StoreError> {
        self.pass(self.store.head(bucket, key)).await
    }
    async fn get(&self, bucket: &str, key: &str) -> Result<Option<OpenObject>, StoreError> {
        self.pass(self.store.get(bucket, key)).await
    }
    async fn put(
        &self,
        bucket: &str,
        key: &str,
        body: Bytes,
        metadata: &BTreeMap<String, String>,
        condition: Condition,
    ) -> Result<PutReply, StoreError> {
        self.pass(self.store.put(bucket, key, body, metadata, condition)).await
    }
    async fn delete(&self, bucket: &str, key: &str) -> Result<(), StoreError> {
        self.pass(self.store.delete(bucket, key)).await
    }
    async fn list(&self, bucket: &str, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        self.pass(self.store.list(bucket, prefix, after, limit)).await
    }
    async fn probe(&self, bucket: &str) -> Result<(), StoreError> {
        self.pass(self.store.probe(bucket)).await
    }
}

#[async_trait]
impl Shelves for Meddler {
    async fn list_objects(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ListedPage, StoreError> {
        self.pass(self.store.list_objects(bucket, prefix, after, limit)).await
    }
    async fn delete_if_match(&self, bucket: &str, key: &str, etag: &str) -> Result<DeleteReply, StoreError> {
        self.pass(self.store.delete_if_match(bucket, key, etag)).await
    }
}

#[async_trait]
impl Catalogue for Meddler {
    async fn entries(&self, stretch: &Stretch, limit: usize) -> Result<Vec<Entry>, SearchError> {
        self.pass(self.search.entries(stretch, limit)).await
    }
    async fn held(&self, ids: &[DocumentId]) -> Result<Vec<Option<Held>>, SearchError> {
        self.pass(self.search.held(ids)).await
    }
    async fn shows(&self, id: &DocumentId) -> Result<bool, SearchError> {
        self.pass(self.search.shows(id)).await
    }
    async fn remove(&self, documents: &[(DocumentId, u64)]) -> Result<Vec<Removal>, SearchError> {
        self.pass(self.search.remove(documents)).await
    }
}
