//! The model of S3: conditional writes, versions, listings in UTF-8 order, and faults by bucket, prefix or key.
//!
//! Promises S3's strong consistency: every effect is one instant, seen by every later call. An etag follows from the
//! content, as on S3, so the same bytes written twice have the same etag (A, B, A looks like A).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fastrand::Rng;
use futures_util::StreamExt as _;
use futures_util::stream;
use quittance::message::hex;
use quittance::store::{
    Condition, DeleteReply, Listed, ListedPage, ObjectHead, OpenObject, Page, PutReply, Shelves, Store, StoreError,
};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::faults::{Call, Drawn, Fate, Faults, History, Ticks, carry, chance, travel};

/// What can go wrong with a store.
#[derive(Clone, Debug, Default)]
pub struct StoreFaults {
    pub head: Faults,
    pub get: Faults,
    pub put: Faults,
    pub delete: Faults,
    pub list: Faults,
    pub probe: Faults,
    /// Share of conditional PUTs that meet another one in flight (409), without effect.
    pub busy: f64,
    /// There is no conditional DELETE, as at LocalStack.
    pub no_conditional_delete: bool,
    /// A call goes on at the service when its caller went away.
    pub outlive_callers: bool,
}

impl StoreFaults {
    /// Sets the faults of all operations alike.
    pub fn all(&mut self, faults: &Faults) {
        let operations = [&mut self.head, &mut self.get, &mut self.put, &mut self.delete, &mut self.list];
        operations.into_iter().for_each(|operation| *operation = faults.clone());
        self.probe = faults.clone();
    }
}

/// Which calls a rule is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    Head,
    Get,
    Put,
    Delete,
    List,
    Probe,
}

/// An error for some calls, without effect: a key that is denied, a prefix that is throttled, a bucket that is down.
#[derive(Clone, Debug)]
pub struct Rule {
    pub bucket: String,
    /// Of the key (of the listed prefix for [`Verb::List`]); a whole key, or empty for the whole bucket.
    pub prefix: String,
    /// `None`: all of them.
    pub verb: Option<Verb>,
    pub error: StoreError,
    /// How often; `None`: until [`ModelStore::heal`].
    pub times: Option<u32>,
}

/// What happens to a body on its way. Bytes before `at` arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyFault {
    /// An error at this byte.
    BreaksAt(usize),
    /// An end without an error at this byte, short of the promised length.
    EndsAt(usize),
    /// Nothing more from this byte on, for ever.
    StallsAt(usize),
    /// This much time before each chunk of 64 KiB.
    Drips(Duration),
}

#[derive(Clone, PartialEq, Debug)]
pub enum StoreAsk {
    Head { bucket: String, key: String },
    Get { bucket: String, key: String },
    Put { bucket: String, key: String, body: Bytes, metadata: BTreeMap<String, String>, condition: Condition },
    Delete { bucket: String, key: String },
    DeleteIfMatch { bucket: String, key: String, etag: String },
    List { bucket: String, prefix: String, start_after: Option<String>, limit: usize },
    Probe { bucket: String },
}

#[derive(Clone, PartialEq, Debug)]
pub enum StoreAnswer {
    /// HEAD, or the headers of a GET.
    Head(Option<ObjectHead>),
    Put(PutReply),
    Deleted(DeleteReply),
    Page(Page),
    Yes,
    Failed(StoreError),
}

/// An object as it lies in the bucket.
#[derive(Clone, PartialEq, Debug)]
pub struct Stored {
    pub head: ObjectHead,
    pub body: Bytes,
}

struct State {
    rng: Rng,
    faults: StoreFaults,
    rules: Vec<Rule>,
    /// By bucket and key.
    bodies: BTreeMap<(String, String), (BodyFault, u32)>,
    /// `String`'s order is that of its UTF-8 bytes, as S3 lists.
    buckets: BTreeMap<String, BTreeMap<String, Stored>>,
    versions: u64,
    history: History<StoreAsk, StoreAnswer>,
    /// The call that is being carried out.
    acting: usize,
    /// PUTs that wrote, whatever was answered, in the order in which they did.
    landed: Vec<usize>,
    /// GETs whose body went wrong.
    spoilt: Vec<usize>,
}

/// What a store remembers.
pub struct StoreMemory<'a> {
    pub calls: &'a [Call<StoreAsk, StoreAnswer>],
    pub buckets: &'a BTreeMap<String, BTreeMap<String, Stored>>,
    /// PUTs that wrote, whatever was answered, in the order in which they did: their places in `calls`.
    pub landed: &'a [usize],
    /// GETs whose body went wrong: their places in `calls`.
    pub spoilt: &'a [usize],
}

/// All buckets of the model. Clones are the same store.
#[derive(Clone)]
pub struct ModelStore {
    state: Arc<Mutex<State>>,
    started: Instant,
    epoch_ms: u64,
    who: Arc<str>,
}

impl ModelStore {
    pub fn new(buckets: &[&str], seed: u64, ticks: Ticks) -> Self {
        let state = State {
            rng: Rng::with_seed(seed),
            faults: StoreFaults::default(),
            rules: Vec::new(),
            bodies: BTreeMap::new(),
            buckets: buckets.iter().map(|name| ((*name).to_owned(), BTreeMap::new())).collect(),
            versions: 0,
            history: History::new(ticks),
            acting: 0,
            landed: Vec::new(),
            spoilt: Vec::new(),
        };
        let state = Arc::new(Mutex::new(state));
        Self { state, started: Instant::now(), epoch_ms: super::EPOCH_MS, who: "test".into() }
    }

    /// The same store, whose calls are recorded under this name.
    pub fn seen_by(&self, who: &str) -> Self {
        Self { who: who.into(), ..self.clone() }
    }

    /// Changes what goes wrong from now on.
    pub fn faults(&self, change: impl FnOnce(&mut StoreFaults)) {
        change(&mut self.lock().faults);
    }

    pub fn inject(&self, rule: Rule) {
        self.lock().rules.push(rule);
    }

    /// The next `times` bodies of this object go wrong.
    pub fn spoil_body(&self, bucket: &str, key: &str, fault: BodyFault, times: u32) {
        self.lock().bodies.insert((bucket.into(), key.into()), (fault, times));
    }

    /// Ends all faults, rules and spoilt bodies.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.faults = StoreFaults::default();
        state.rules.clear();
        state.bodies.clear();
    }

    /// A producer's PUT: no faults, no time.
    pub fn put_object(&self, bucket: &str, key: &str, body: impl Into<Bytes>) -> ObjectHead {
        let now = self.now_ms();
        let (key, body) = (key.to_owned(), body.into());
        self.lock().write(bucket, key, body, BTreeMap::new(), "binary/octet-stream", now)
    }

    pub fn remove_object(&self, bucket: &str, key: &str) {
        self.lock().buckets.get_mut(bucket).unwrap().remove(key);
    }

    pub fn add_bucket(&self, bucket: &str) {
        self.lock().buckets.entry(bucket.to_owned()).or_default();
    }

    pub fn remove_bucket(&self, bucket: &str) {
        self.lock().buckets.remove(bucket);
    }

    pub fn object(&self, bucket: &str, key: &str) -> Option<Stored> {
        self.lock().buckets.get(bucket)?.get(key).cloned()
    }

    pub fn keys(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let state = self.lock();
        state.buckets[bucket].keys().filter(|key| key.starts_with(prefix)).cloned().collect()
    }

    pub fn none(&self, bucket: &str, prefix: &str) -> bool {
        let state = self.lock();
        let mut from = state.buckets[bucket].range(prefix.to_owned()..);
        from.next().is_none_or(|(key, _)| !key.starts_with(prefix))
    }

    /// How many calls were asked.
    pub fn asked(&self) -> usize {
        self.lock().history.calls.len()
    }

    pub fn calls(&self) -> Vec<Call<StoreAsk, StoreAnswer>> {
        self.lock().history.calls.clone()
    }

    /// A look at everything the store remembers, without a copy; it must not ask the store for more meanwhile.
    pub fn look<T>(&self, see: impl FnOnce(StoreMemory<'_>) -> T) -> T {
        let state = self.lock();
        see(StoreMemory {
            calls: &state.history.calls,
            buckets: &state.buckets,
            landed: &state.landed,
            spoilt: &state.spoilt,
        })
    }

    /// Forges history and objects, for tests of those who judge them.
    pub fn forge(
        &self,
        change: impl FnOnce(&mut Vec<Call<StoreAsk, StoreAnswer>>, &mut BTreeMap<String, BTreeMap<String, Stored>>),
    ) {
        let mut state = self.lock();
        let state = &mut *state;
        change(&mut state.history.calls, &mut state.buckets);
    }

    fn now_ms(&self) -> u64 {
        self.epoch_ms + u64::try_from(self.started.elapsed().as_millis()).unwrap()
    }

    /// Never held across an await.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The way of every call: there, effect at one instant, back.
    async fn call<T: Clone + Send + 'static>(
        &self,
        verb: Verb,
        ask: StoreAsk,
        act: impl FnOnce(&mut State, u64) -> Result<T, StoreError> + Send + 'static,
        answer: impl FnOnce(&T) -> StoreAnswer + Send + 'static,
    ) -> Result<T, StoreError> {
        let place = place(&ask);
        let (call, drawn, goes_on) = {
            let mut state = self.lock();
            let state = &mut *state;
            let drawn: Drawn = state.faults.of(verb).draw(&mut state.rng);
            (state.history.ask(&self.who, ask), drawn, state.faults.outlive_callers)
        };
        let store = self.clone();
        let gone = || self.lock().history.gone(call);
        carry(goes_on, gone, async move {
            travel(drawn.there).await;
            let reply = store.lock().decide(verb, &place, call, drawn.fate, |state| act(state, store.now_ms()));
            travel(drawn.back).await;
            let reply = match drawn.fate {
                Fate::LoseReply => Err(StoreError::Unavailable("connection reset".into())),
                Fate::Proceed | Fate::FailBefore | Fate::Throttle => reply,
            };
            let told = reply.as_ref().map_or_else(|error| StoreAnswer::Failed(error.clone()), answer);
            store.lock().history.answer(call, told);
            reply
        })
        .await
    }
}

impl StoreFaults {
    pub fn of(&mut self, verb: Verb) -> &mut Faults {
        match verb {
            Verb::Head => &mut self.head,
            Verb::Get => &mut self.get,
            Verb::Put => &mut self.put,
            Verb::Delete => &mut self.delete,
            Verb::List => &mut self.list,
            Verb::Probe => &mut self.probe,
        }
    }
}

/// Bucket and key (or prefix) of a call.
fn place(ask: &StoreAsk) -> (String, String) {
    match ask {
        StoreAsk::Head { bucket, key }
        | StoreAsk::Get { bucket, key }
        | StoreAsk::Put { bucket, key, .. }
        | StoreAsk::Delete { bucket, key }
        | StoreAsk::DeleteIfMatch { bucket, key, .. }
        | StoreAsk::List { bucket, prefix: key, .. } => (bucket.clone(), key.clone()),
        StoreAsk::Probe { bucket } => (bucket.clone(), String::new()),
    }
}

impl State {
    fn decide<T>(
        &mut self,
        verb: Verb,
        (bucket, key): &(String, String),
        call: usize,
        fate: Fate,
        act: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match fate {
            Fate::FailBefore => return Err(StoreError::Unavailable("connection refused".into())),
            Fate::Throttle => return Err(StoreError::Throttled("SlowDown".into())),
            Fate::Proceed | Fate::LoseReply => {}
        }
        let hit = self.rules.iter_mut().find(|rule| {
            rule.bucket == *bucket
                && key.starts_with(&rule.prefix)
                && rule.verb.is_none_or(|only| only == verb)
                && rule.times != Some(0)
        });
        if let Some(rule) = hit {
            rule.times = rule.times.map(|left| left - 1);
            return Err(rule.error.clone());
        }
        // S3 checks the key before anything else; HEAD cannot say that the bucket is missing.
        let keyed = matches!(verb, Verb::Head | Verb::Get | Verb::Put | Verb::Delete);
        if keyed && !(1..=1_024).contains(&key.len()) {
            return Err(StoreError::Refused("KeyTooLongError".into()));
        }
        if verb != Verb::Head && !self.buckets.contains_key(bucket) {
            return Err(StoreError::BucketMissing("NoSuchBucket".into()));
        }
        self.acting = call;
        let reply = act(self);
        self.history.effect(call);
        reply
    }

    fn write(
        &mut self,
        bucket: &str,
        key: String,
        body: Bytes,
        metadata: BTreeMap<String, String>,
        content_type: &str,
        now_ms: u64,
    ) -> ObjectHead {
        self.versions += 1;
        let head = ObjectHead {
            etag: hex(&Sha256::digest(&body)[..16]), // as long as S3's MD5
            version_id: Some(format!("v{:08}", self.versions)),
            size: body.len() as u64,
            content_type: Some(content_type.to_owned()),
            modified_ms: Some(now_ms / 1_000 * 1_000), // S3 tells whole seconds
            metadata: metadata.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect(),
        };
        self.buckets.get_mut(bucket).unwrap().insert(key, Stored { head: head.clone(), body });
        head
    }

    fn put(
        &mut self,
        (bucket, key): (String, String),
        body: Bytes,
        metadata: BTreeMap<String, String>,
        condition: Condition,
        now_ms: u64,
    ) -> PutReply {
        if condition != Condition::None && chance(&mut self.rng, self.faults.busy) {
            return PutReply::Conflict;
        }
        let there = self.buckets[&bucket].get(&key).map(|stored| stored.head.etag.as_str());
        let allowed = match &condition {
            Condition::None => true,
            Condition::Absent => there.is_none(),
            Condition::Match(etag) => there == Some(etag.as_str()),
        };
        if !allowed {
            return PutReply::Conflict;
        }
        self.landed.push(self.acting);
        PutReply::Written { etag: self.write(&bucket, key, body, metadata, "application/json", now_ms).etag }
    }

    fn page(&self, bucket: &str, prefix: &str, start_after: Option<&str>, limit: usize) -> Page {
        let all = self.buckets[bucket].keys().filter(|key| key.starts_with(prefix));
        let mut rest = all.filter(|key| start_after.is_none_or(|after| key.as_str() > after)).cloned();
        let keys = rest.by_ref().take(limit.clamp(1, 1_000)).collect();
        Page { keys, more: rest.next().is_some() }
    }

    fn listed(&self, bucket: &str, page: &Page) -> ListedPage {
        let listed = |key: &String| {
            let head = &self.buckets[bucket][key].head;
            Listed { key: key.clone(), etag: head.etag.clone(), size: head.size, modified_ms: head.modified_ms }
        };
        ListedPage { objects: page.keys.iter().map(listed).collect(), more: page.more }
    }

    fn delete_over(&mut self, bucket: &str, key: &str, etag: &str) -> DeleteReply {
        if self.faults.no_conditional_delete {
            return DeleteReply::Unsupported("NotImplemented".into());
        }
        match self.buckets[bucket].get(key).map(|stored| stored.head.etag == etag) {
            Some(false) => DeleteReply::Conflict,
            Some(true) | None => {
                self.buckets.get_mut(bucket).unwrap().remove(key);
                DeleteReply::Deleted
            }
        }
    }

    fn body_fault(&mut self, bucket: &str, key: &str) -> Option<BodyFault> {
        let (fault, times) = self.bodies.get_mut(&(bucket.to_owned(), key.to_owned()))?;
        *times = times.checked_sub(1)?;
        self.spoilt.push(self.acting);
        Some(*fault)
    }
}

/// The body in chunks, with what goes wrong on the way.
fn flow(body: Bytes, fault: Option<BodyFault>) -> stream::BoxStream<'static, Result<Bytes, StoreError>> {
    const CHUNK: usize = 65_536;
    let whole = match fault {
        Some(BodyFault::BreaksAt(at) | BodyFault::EndsAt(at) | BodyFault::StallsAt(at)) => {
            body.slice(..at.min(body.len()))
        }
        Some(BodyFault::Drips(_)) | None => body,
    };
    let chunks: Vec<Bytes> =
        (0..whole.len()).step_by(CHUNK).map(|at| whole.slice(at..whole.len().min(at + CHUNK))).collect();
    let pause = if let Some(BodyFault::Drips(pause)) = fault { pause } else { Duration::ZERO };
    let good = stream::iter(chunks).then(move |chunk| async move {
        travel(pause).await;
        Ok(chunk)
    });
    match fault {
        Some(BodyFault::BreaksAt(at)) => {
            let broken = Err(StoreError::Interrupted(format!("connection reset at byte {at}")));
            good.chain(stream::once(async { broken })).boxed()
        }
        Some(BodyFault::StallsAt(_)) => good.chain(stream::pending()).boxed(),
        Some(BodyFault::EndsAt(_) | BodyFault::Drips(_)) | None => good.boxed(),
    }
}

#[async_trait]
impl Store for ModelStore {
    async fn head(&self, bucket: &str, key: &str) -> Result<Option<ObjectHead>, StoreError> {
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        let ask = StoreAsk::Head { bucket: bucket.clone(), key: key.clone() };
        let look = move |state: &mut State, _| {
            Ok(state.buckets.get(&bucket).and_then(|objects| objects.get(&key)).map(|stored| stored.head.clone()))
        };
        self.call(Verb::Head, ask, look, |head| StoreAnswer::Head(head.clone())).await
    }

    async fn get(&self, bucket: &str, key: &str) -> Result<Option<OpenObject>, StoreError> {
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        let ask = StoreAsk::Get { bucket: bucket.clone(), key: key.clone() };
        let open = move |state: &mut State, _| {
            let Some(stored) = state.buckets[&bucket].get(&key).cloned() else { return Ok(None) };
            let fault = state.body_fault(&bucket, &key);
            Ok(Some((stored, fault)))
        };
        let told =
            |found: &Option<(Stored, _)>| StoreAnswer::Head(found.as_ref().map(|(stored, _)| stored.head.clone()));
        let found = self.call(Verb::Get, ask, open, told).await?;
        Ok(found.map(|(stored, fault)| OpenObject { head: stored.head, body: flow(stored.body, fault) }))
    }

    async fn put(
        &self,
        bucket: &str,
        key: &str,
        body: Bytes,
        metadata: &BTreeMap<String, String>,
        condition: Condition,
    ) -> Result<PutReply, StoreError> {
        if !metadata.iter().all(|(name, value)| name.is_ascii() && value.is_ascii()) {
            return Err(StoreError::Refused("metadata must be ASCII".into())); // the SDK cannot send it either
        }
        let (place, metadata) = ((bucket.to_owned(), key.to_owned()), metadata.clone());
        let ask = StoreAsk::Put {
            bucket: place.0.clone(),
            key: place.1.clone(),
            body: body.clone(),
            metadata: metadata.clone(),
            condition: condition.clone(),
        };
        let write = move |state: &mut State, now_ms| Ok(state.put(place, body, metadata, condition, now_ms));
        self.call(Verb::Put, ask, write, |reply| StoreAnswer::Put(reply.clone())).await
    }

    async fn delete(&self, bucket: &str, key: &str) -> Result<(), StoreError> {
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        let ask = StoreAsk::Delete { bucket: bucket.clone(), key: key.clone() };
        let remove = move |state: &mut State, _| {
            state.buckets.get_mut(&bucket).unwrap().remove(&key);
            Ok(())
        };
        self.call(Verb::Delete, ask, remove, |()| StoreAnswer::Yes).await
    }

    async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let (bucket, prefix, start_after) = (bucket.to_owned(), prefix.to_owned(), start_after.map(str::to_owned));
        let ask =
            StoreAsk::List { bucket: bucket.clone(), prefix: prefix.clone(), start_after: start_after.clone(), limit };
        let look = move |state: &mut State, _| Ok(state.page(&bucket, &prefix, start_after.as_deref(), limit));
        self.call(Verb::List, ask, look, |page| StoreAnswer::Page(page.clone())).await
    }

    async fn probe(&self, bucket: &str) -> Result<(), StoreError> {
        let ask = StoreAsk::Probe { bucket: bucket.to_owned() };
        self.call(Verb::Probe, ask, |_: &mut State, _| Ok(()), |()| StoreAnswer::Yes).await
    }
}

#[async_trait]
impl Shelves for ModelStore {
    async fn list_objects(
        &self,
        bucket: &str,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<ListedPage, StoreError> {
        let (bucket, prefix, start_after) = (bucket.to_owned(), prefix.to_owned(), start_after.map(str::to_owned));
        let ask =
            StoreAsk::List { bucket: bucket.clone(), prefix: prefix.clone(), start_after: start_after.clone(), limit };
        let look = move |state: &mut State, _| {
            let page = state.page(&bucket, &prefix, start_after.as_deref(), limit);
            Ok(state.listed(&bucket, &page))
        };
        let told = |page: &ListedPage| {
            let keys = page.objects.iter().map(|object| object.key.clone()).collect();
            StoreAnswer::Page(Page { keys, more: page.more })
        };
        self.call(Verb::List, ask, look, told).await
    }

    async fn delete_if_match(&self, bucket: &str, key: &str, etag: &str) -> Result<DeleteReply, StoreError> {
        let (bucket, key, etag) = (bucket.to_owned(), key.to_owned(), etag.to_owned());
        let ask = StoreAsk::DeleteIfMatch { bucket: bucket.clone(), key: key.clone(), etag: etag.clone() };
        let remove = move |state: &mut State, _| Ok(state.delete_over(&bucket, &key, &etag));
        self.call(Verb::Delete, ask, remove, |reply| StoreAnswer::Deleted(reply.clone())).await
    }
}
