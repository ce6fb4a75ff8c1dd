//! The model of an index behind an alias: documents by `_id`, external versions, and the ways a bulk goes wrong.
//!
//! Promises `external_gte`: the same revision writes again, a lower one is a 409 (which the port calls durable,
//! because the index holds something newer).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use quittance::index::catalogue::{Catalogue, Entry, Held, Removal, Stretch};
use quittance::index::{IndexItem, ItemAnswer, Search, SearchError};
use quittance::message::DocumentId;
use serde_json::Value;
use tokio::time::Instant;

use super::faults::{Call, Fate, Faults, History, Ticks, carry, chance, travel};

/// What can go wrong with the index.
#[derive(Clone, Debug, Default)]
pub struct SearchFaults {
    pub bulk: Faults,
    pub probe: Faults,
    /// Looking through the index, and taking out of it.
    pub catalogue: Faults,
    /// Documents the mapping refuses, each with the reason.
    pub refuse: BTreeMap<DocumentId, String>,
    /// Documents that get an unclear answer of their own, each with its words.
    pub unclear: BTreeMap<DocumentId, String>,
    /// Documents that make the index refuse any request they are in.
    pub poison: BTreeSet<DocumentId>,
    /// More items than this in a request: refused as a whole (413).
    pub most_items: Option<usize>,
    /// Share of items turned away with a 429, without effect.
    pub item_busy: f64,
    /// Share of items whose part of the reply is not there or cannot be read; half of them with effect.
    pub item_unknown: f64,
    /// Share of items answered as of a sick cluster (a block, 503), without effect.
    pub item_systemic: f64,
    /// Served one after the other, each request in this time for each of its documents; on top of `bulk`'s own.
    pub work: Duration,
    /// With `work`: when those so far have been served.
    pub busy_until: Option<Instant>,
    /// A lost reply leaves a part of the items applied, and not all of them.
    pub half_applied: bool,
    /// The read alias has lost its filter.
    pub shows_deleted: bool,
    /// The alias is not there.
    pub no_alias: bool,
    /// A call goes on at the service when its caller went away.
    pub outlive_callers: bool,
}

/// A document as the index holds it.
#[derive(Clone, PartialEq, Debug)]
pub struct Indexed {
    pub revision: u64,
    pub source: Value,
}

#[derive(Clone, PartialEq, Debug)]
pub enum SearchAsk {
    Bulk(Vec<IndexItem>),
    Probe,
    Entries(Stretch),
    Held(Vec<DocumentId>),
    Shows(DocumentId),
    Remove(Vec<(DocumentId, u64)>),
}

#[derive(Clone, PartialEq, Debug)]
pub enum SearchAnswer {
    Verdicts(Vec<ItemAnswer>),
    Entries(Vec<Entry>),
    Held(Vec<Option<Held>>),
    Removals(Vec<Removal>),
    Yes,
    Failed(SearchError),
}

/// What an index remembers.
pub struct SearchMemory<'a> {
    pub calls: &'a [Call<SearchAsk, SearchAnswer>],
    pub documents: &'a BTreeMap<DocumentId, Indexed>,
}

struct State {
    rng: Rng,
    faults: SearchFaults,
    documents: BTreeMap<DocumentId, Indexed>,
    history: History<SearchAsk, SearchAnswer>,
}

/// The index of the model. Clones are the same index.
#[derive(Clone)]
pub struct ModelSearch {
    state: Arc<Mutex<State>>,
    who: Arc<str>,
    patience: Option<Duration>,
}

impl ModelSearch {
    pub fn new(seed: u64, ticks: Ticks) -> Self {
        let state = State {
            rng: Rng::with_seed(seed),
            faults: SearchFaults::default(),
            documents: BTreeMap::new(),
            history: History::new(ticks),
        };
        Self { state: Arc::new(Mutex::new(state)), who: "test".into(), patience: None }
    }

    /// The same index, whose calls are recorded under this name.
    pub fn seen_by(&self, who: &str) -> Self {
        Self { who: who.into(), ..self.clone() }
    }

    /// The same index, asked by a client that waits no longer than this for an answer.
    pub fn given_up_after(self, patience: Option<Duration>) -> Self {
        Self { patience, ..self }
    }

    /// Changes what goes wrong from now on.
    pub fn faults(&self, change: impl FnOnce(&mut SearchFaults)) {
        change(&mut self.lock().faults);
    }

    /// Down for this long.
    pub fn down_for(&self, time: Duration) {
        let until = Some(Instant::now() + time);
        self.faults(|faults| {
            faults.bulk.down_until = until;
            faults.probe.down_until = until;
        });
    }

    pub fn document(&self, id: &DocumentId) -> Option<Indexed> {
        self.lock().documents.get(id).cloned()
    }

    pub fn documents(&self) -> BTreeMap<DocumentId, Indexed> {
        self.lock().documents.clone()
    }

    /// How many calls were asked.
    pub fn asked(&self) -> usize {
        self.lock().history.calls.len()
    }

    pub fn calls(&self) -> Vec<Call<SearchAsk, SearchAnswer>> {
        self.lock().history.calls.clone()
    }

    /// A look at everything the index remembers, without a copy; it must not ask the index for more meanwhile.
    pub fn look<T>(&self, see: impl FnOnce(SearchMemory<'_>) -> T) -> T {
        let state = self.lock();
        see(SearchMemory { calls: &state.history.calls, documents: &state.documents })
    }

    /// Forges history and documents, for tests of those who judge them.
    pub fn forge(
        &self,
        change: impl FnOnce(&mut Vec<Call<SearchAsk, SearchAnswer>>, &mut BTreeMap<DocumentId, Indexed>),
    ) {
        let mut state = self.lock();
        let state = &mut *state;
        change(&mut state.history.calls, &mut state.documents);
    }

    /// Never held across an await.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    async fn call<T: Send + 'static>(
        &self,
        ask: SearchAsk,
        faults: impl FnOnce(&mut SearchFaults) -> &mut Faults,
        act: impl FnOnce(&mut State, Fate) -> Result<T, SearchError> + Send + 'static,
        answer: impl FnOnce(&T) -> SearchAnswer + Send + 'static,
    ) -> Result<T, SearchError> {
        let (call, drawn, goes_on) = {
            let mut state = self.lock();
            let state = &mut *state;
            let mut drawn = faults(&mut state.faults).draw(&mut state.rng);
            if let (SearchAsk::Bulk(items), false) = (&ask, state.faults.work.is_zero()) {
                let now = Instant::now();
                let begun = state.faults.busy_until.map_or(now, |until| until.max(now));
                let served = begun + state.faults.work * items.len() as u32;
                state.faults.busy_until = Some(served);
                drawn.there += served - now;
            }
            (state.history.ask(&self.who, ask), drawn, state.faults.outlive_callers)
        };
        let search = self.clone();
        let gone = || self.lock().history.gone(call);
        let asked = carry(goes_on, gone, async move {
            let unavailable = |why: &str| Err(SearchError::Unavailable(why.into()));
            travel(drawn.there).await;
            let reply = match drawn.fate {
                Fate::FailBefore => unavailable("connection refused"),
                Fate::Throttle => Err(SearchError::Busy("429 es_rejected_execution_exception".into())),
                Fate::Proceed | Fate::LoseReply => {
                    let mut state = search.lock();
                    let reply =
                        if state.faults.no_alias { unavailable("alias missing") } else { act(&mut state, drawn.fate) };
                    state.history.effect(call);
                    reply
                }
            };
            travel(drawn.back).await;
            let reply = if drawn.fate == Fate::LoseReply { unavailable("connection reset") } else { reply };
            let told = reply.as_ref().map_or_else(|error| SearchAnswer::Failed(error.clone()), answer);
            search.lock().history.answer(call, told);
            reply
        });
        match self.patience {
            None => asked.await,
            Some(patience) => tokio::time::timeout(patience, asked)
                .await
                .unwrap_or_else(|_| Err(SearchError::Unavailable("request timed out".into()))),
        }
    }
}

impl State {
    fn bulk(&mut self, items: &[IndexItem], fate: Fate) -> Result<Vec<ItemAnswer>, SearchError> {
        let refused = |why: &str| Err(SearchError::WholeRefused(why.into()));
        if self.faults.most_items.is_some_and(|most| items.len() > most) {
            return refused("413 request too large");
        }
        if items.iter().any(|item| self.faults.poison.contains(&item.document_id)) {
            return refused("400 malformed request");
        }
        let reached = match fate {
            Fate::LoseReply if self.faults.half_applied => self.rng.usize(0..items.len().max(1)),
            Fate::LoseReply | Fate::Proceed | Fate::FailBefore | Fate::Throttle => items.len(),
        };
        Ok(items[..reached].iter().map(|item| self.write(item)).collect())
    }

    fn entries(&self, stretch: &Stretch, limit: usize) -> Vec<Entry> {
        let text = |document: &Indexed, name: &str| document.source[name].as_str().map(str::to_owned);
        let within = |key: &String| {
            key.starts_with(&stretch.prefix)
                && stretch.after.as_ref().is_none_or(|after| key > after)
                && stretch.up_to.as_ref().is_none_or(|up_to| key <= up_to)
        };
        let ours = self.documents.iter().filter(|(_, document)| {
            text(document, "namespace").as_deref() == Some(stretch.namespace.as_str())
                && text(document, "bucket").as_ref() == Some(&stretch.bucket)
        });
        let keyed = ours.filter_map(|(id, document)| Some((text(document, "key").filter(within)?, id, document)));
        let sorted: BTreeMap<(String, DocumentId), Entry> = keyed
            .map(|(key, id, document)| {
                let extractor = text(document, "extractor");
                let entry = Entry { document_id: id.clone(), key: key.clone(), held: held(document), extractor };
                ((key, id.clone()), entry)
            })
            .collect();
        sorted.into_values().take(limit).collect()
    }

    fn remove(&mut self, (id, revision): &(DocumentId, u64)) -> Removal {
        if self.documents.get(id).is_some_and(|document| document.revision > *revision) {
            return Removal::Newer;
        }
        self.documents.remove(id);
        Removal::Removed
    }

    fn write(&mut self, item: &IndexItem) -> ItemAnswer {
        if chance(&mut self.rng, self.faults.item_busy) {
            return ItemAnswer::Busy("429 es_rejected_execution_exception".into());
        }
        if chance(&mut self.rng, self.faults.item_systemic) {
            return ItemAnswer::Sick("503 unavailable_shards_exception".into());
        }
        if chance(&mut self.rng, self.faults.item_unknown) {
            if self.rng.bool() {
                self.hold(item);
            }
            return ItemAnswer::Unknown("the item cannot be read".into());
        }
        if let Some(reason) = self.faults.unclear.get(&item.document_id) {
            return ItemAnswer::Unclear(reason.clone());
        }
        if let Some(reason) = self.faults.refuse.get(&item.document_id) {
            return ItemAnswer::Refused(reason.clone());
        }
        if self.hold(item) { ItemAnswer::Durable } else { ItemAnswer::Refused("400 mapper_parsing_exception".into()) }
    }

    /// False where it is no JSON.
    fn hold(&mut self, item: &IndexItem) -> bool {
        let Ok(source) = serde_json::from_slice::<Value>(&item.source) else { return false };
        let newer = self.documents.get(&item.document_id).is_some_and(|held| held.revision > item.revision);
        if !newer {
            self.documents.insert(item.document_id.clone(), Indexed { revision: item.revision, source });
        }
        true
    }
}

#[async_trait]
impl Search for ModelSearch {
    async fn bulk(&self, items: &[IndexItem]) -> Result<Vec<ItemAnswer>, SearchError> {
        let items = items.to_vec();
        let write = {
            let items = items.clone();
            move |state: &mut State, fate| state.bulk(&items, fate)
        };
        let told = |verdicts: &Vec<ItemAnswer>| SearchAnswer::Verdicts(verdicts.clone());
        self.call(SearchAsk::Bulk(items), |faults| &mut faults.bulk, write, told).await
    }

    async fn probe(&self) -> Result<(), SearchError> {
        self.call(SearchAsk::Probe, |faults| &mut faults.probe, |_, _| Ok(()), |()| SearchAnswer::Yes).await
    }

    fn request_timeout(&self) -> Duration {
        self.patience.unwrap_or(Duration::from_secs(10))
    }
}

fn held(document: &Indexed) -> Held {
    Held { revision: document.revision, deleted: document.source["deleted"] == true }
}

#[async_trait]
impl Catalogue for ModelSearch {
    async fn entries(&self, stretch: &Stretch, limit: usize) -> Result<Vec<Entry>, SearchError> {
        let wanted = stretch.clone();
        let look = move |state: &mut State, _| Ok(state.entries(&wanted, limit));
        let told = |entries: &Vec<Entry>| SearchAnswer::Entries(entries.clone());
        self.call(SearchAsk::Entries(stretch.clone()), |faults| &mut faults.catalogue, look, told).await
    }

    async fn held(&self, ids: &[DocumentId]) -> Result<Vec<Option<Held>>, SearchError> {
        let wanted = ids.to_vec();
        let look = move |state: &mut State, _| {
            Ok(wanted.iter().map(|id| state.documents.get(id).map(held)).collect::<Vec<_>>())
        };
        let told = |held: &Vec<Option<Held>>| SearchAnswer::Held(held.clone());
        self.call(SearchAsk::Held(ids.to_vec()), |faults| &mut faults.catalogue, look, told).await
    }

    async fn shows(&self, id: &DocumentId) -> Result<bool, SearchError> {
        let wanted = id.clone();
        let look = move |state: &mut State, _| {
            let document = state.documents.get(&wanted);
            Ok(document.is_some_and(|document| !held(document).deleted || state.faults.shows_deleted))
        };
        self.call(SearchAsk::Shows(id.clone()), |faults| &mut faults.catalogue, look, |_| SearchAnswer::Yes).await
    }

    async fn remove(&self, documents: &[(DocumentId, u64)]) -> Result<Vec<Removal>, SearchError> {
        let wanted = documents.to_vec();
        let remove = move |state: &mut State, _| Ok(wanted.iter().map(|one| state.remove(one)).collect::<Vec<_>>());
        let told = |removals: &Vec<Removal>| SearchAnswer::Removals(removals.clone());
        self.call(SearchAsk::Remove(documents.to_vec()), |faults| &mut faults.catalogue, remove, told).await
    }
}
