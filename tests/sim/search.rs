//! The model of an index behind an alias: documents by `_id`, external versions, and the ways a bulk goes wrong; and of
//! the next index, which takes its place.
//!
//! Promises `external_gte`: the same revision writes again, a lower one is a 409 (which the port calls durable,
//! because the index holds something newer). A request that was on its way when the aliases moved may land in the index
//! that has retired, also after the move was answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use quittance::index::catalogue::{Catalogue, Entry, Held, Owner, Removal, Stretch};
use quittance::index::provenance::{Provenance, Written};
use quittance::index::succession::{Begun, Progress, Succession, SuccessionError};
use quittance::index::{IndexItem, ItemAnswer, Search, SearchError};
use quittance::message::{DocumentId, MessageId, Namespace};
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
    /// Every request is refused as a whole (400), whatever is in it: a proxy with a bad rule.
    pub refuse_all: bool,
    /// Documents for which any request they are in is answered as if all were sick: a firewall that does not like them.
    pub cursed: BTreeSet<DocumentId>,
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

/// Through which alias.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Door {
    InUse,
    Next,
}

/// An index with its notes.
#[derive(Clone, Default)]
struct Shelf {
    number: u32,
    documents: BTreeMap<DocumentId, Indexed>,
    progress: Option<Progress>,
}

impl Shelf {
    fn name(&self) -> String {
        format!("files-v{}", self.number)
    }
}

#[derive(Clone, PartialEq, Debug)]
pub enum SearchAsk {
    Bulk(Vec<IndexItem>),
    Probe,
    Entries(Stretch),
    Held(Vec<DocumentId>),
    Shows(DocumentId),
    WrittenBy(MessageId),
    Remove(Vec<(DocumentId, u64)>),
    Owners,
    Begin,
    Note(Progress),
    TakeOver,
}

#[derive(Clone, PartialEq, Debug)]
pub enum SearchAnswer {
    Verdicts(Vec<ItemAnswer>),
    Entries(Vec<Entry>),
    Held(Vec<Option<Held>>),
    Removals(Vec<Removal>),
    Owners(Vec<Owner>),
    Begun(Begun),
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
    /// Behind the alias in use.
    in_use: Shelf,
    /// Being built.
    next: Option<Shelf>,
    /// No alias stands for them any more.
    retired: Vec<Shelf>,
    history: History<SearchAsk, SearchAnswer>,
}

/// The index of the model. Clones are the same index.
#[derive(Clone)]
pub struct ModelSearch {
    state: Arc<Mutex<State>>,
    who: Arc<str>,
    patience: Option<Duration>,
    door: Door,
}

impl ModelSearch {
    pub fn new(seed: u64, ticks: Ticks) -> Self {
        let state = State {
            rng: Rng::with_seed(seed),
            faults: SearchFaults::default(),
            in_use: Shelf { number: 1, ..Shelf::default() },
            next: None,
            retired: Vec::new(),
            history: History::new(ticks),
        };
        Self { state: Arc::new(Mutex::new(state)), who: "test".into(), patience: None, door: Door::InUse }
    }

    /// The same index, whose calls are recorded under this name.
    pub fn seen_by(&self, who: &str) -> Self {
        Self { who: who.into(), ..self.clone() }
    }

    /// The same index, asked by a client that waits no longer than this for an answer.
    pub fn given_up_after(self, patience: Option<Duration>) -> Self {
        Self { patience, ..self }
    }

    /// The same, through the alias of the next index.
    pub fn next(&self) -> Self {
        Self { door: Door::Next, ..self.clone() }
    }

    /// Name of the index behind the alias in use.
    pub fn index_in_use(&self) -> String {
        self.lock().in_use.name()
    }

    /// What the last index that has retired still holds; `None`: none has.
    pub fn retired(&self) -> Option<BTreeMap<DocumentId, Indexed>> {
        self.lock().retired.last().map(|shelf| shelf.documents.clone())
    }

    /// What the next index holds so far.
    pub fn documents_of_next(&self) -> Option<BTreeMap<DocumentId, Indexed>> {
        self.lock().next.as_ref().map(|shelf| shelf.documents.clone())
    }

    /// What is noted with the index in use.
    pub fn progress(&self) -> Option<Progress> {
        self.lock().in_use.progress.clone()
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
        self.lock().in_use.documents.get(id).cloned()
    }

    pub fn documents(&self) -> BTreeMap<DocumentId, Indexed> {
        self.lock().in_use.documents.clone()
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
        see(SearchMemory { calls: &state.history.calls, documents: &state.in_use.documents })
    }

    /// Forges history and documents, for tests of those who judge them.
    pub fn forge(
        &self,
        change: impl FnOnce(&mut Vec<Call<SearchAsk, SearchAnswer>>, &mut BTreeMap<DocumentId, Indexed>),
    ) {
        let mut state = self.lock();
        let state = &mut *state;
        change(&mut state.history.calls, &mut state.in_use.documents);
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
    /// Of these, the one with this number, wherever it is by now; `None`: it has no alias.
    fn shelf(&mut self, number: u32) -> Option<&mut Shelf> {
        let all = std::iter::once(&mut self.in_use).chain(self.next.as_mut()).chain(&mut self.retired);
        all.into_iter().find(|shelf| shelf.number == number)
    }

    /// What an alias stands for now.
    fn behind(&self, door: Door) -> Option<&Shelf> {
        match door {
            Door::InUse => Some(&self.in_use),
            Door::Next => self.next.as_ref(),
        }
    }

    fn bulk(&mut self, items: &[IndexItem], fate: Fate, to: Option<u32>) -> Result<Vec<ItemAnswer>, SearchError> {
        let Some(to) = to else {
            let missing = || ItemAnswer::Sick("404 index_not_found_exception".into());
            return Ok(items.iter().map(|_| missing()).collect());
        };
        if self.faults.most_items.is_some_and(|most| items.len() > most) {
            return Err(SearchError::TooLarge("413 request too large".into()));
        }
        let any = |of: &BTreeSet<DocumentId>| items.iter().any(|item| of.contains(&item.document_id));
        if self.faults.refuse_all || any(&self.faults.poison) {
            return Err(SearchError::WholeRefused("400 malformed request".into()));
        }
        if any(&self.faults.cursed) {
            return Err(SearchError::Unavailable("403 of a firewall".into()));
        }
        let reached = match fate {
            Fate::LoseReply if self.faults.half_applied => self.rng.usize(0..items.len().max(1)),
            Fate::LoseReply | Fate::Proceed | Fate::FailBefore | Fate::Throttle => items.len(),
        };
        Ok(items[..reached].iter().map(|item| self.write(item, to)).collect())
    }

    fn entries(documents: &BTreeMap<DocumentId, Indexed>, stretch: &Stretch, limit: usize) -> Vec<Entry> {
        let text = |document: &Indexed, name: &str| document.source[name].as_str().map(str::to_owned);
        let within = |key: &String| {
            key.starts_with(&stretch.prefix)
                && stretch.after.as_ref().is_none_or(|after| key > after)
                && stretch.up_to.as_ref().is_none_or(|up_to| key <= up_to)
        };
        let ours = documents.iter().filter(|(_, document)| {
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
        if self.in_use.documents.get(id).is_some_and(|document| document.revision > *revision) {
            return Removal::Newer;
        }
        self.in_use.documents.remove(id);
        Removal::Removed
    }

    fn write(&mut self, item: &IndexItem, to: u32) -> ItemAnswer {
        if chance(&mut self.rng, self.faults.item_busy) {
            return ItemAnswer::Busy("429 es_rejected_execution_exception".into());
        }
        if chance(&mut self.rng, self.faults.item_systemic) {
            return ItemAnswer::Sick("503 unavailable_shards_exception".into());
        }
        if chance(&mut self.rng, self.faults.item_unknown) {
            if self.rng.bool() {
                self.hold(item, to);
            }
            return ItemAnswer::Unknown("the item cannot be read".into());
        }
        if let Some(reason) = self.faults.unclear.get(&item.document_id) {
            return ItemAnswer::Unclear(reason.clone());
        }
        if let Some(reason) = self.faults.refuse.get(&item.document_id) {
            return ItemAnswer::Refused(reason.clone());
        }
        if self.hold(item, to) {
            ItemAnswer::Durable
        } else {
            ItemAnswer::Refused("400 mapper_parsing_exception".into())
        }
    }

    /// False where it is no JSON.
    fn hold(&mut self, item: &IndexItem, to: u32) -> bool {
        let Ok(source) = serde_json::from_slice::<Value>(&item.source) else { return false };
        let documents = &mut self.shelf(to).unwrap().documents;
        let newer = documents.get(&item.document_id).is_some_and(|held| held.revision > item.revision);
        if !newer {
            documents.insert(item.document_id.clone(), Indexed { revision: item.revision, source });
        }
        true
    }

    /// Nothing is ever as it should be: `anew` or not.
    fn begin(&mut self) -> Begun {
        if let Some(progress) = self.in_use.progress.clone().filter(|progress| !progress.done) {
            return Begun::Moved { new: self.in_use.name(), progress };
        }
        let number = self.in_use.number + 1;
        let progress = Progress { v: 1, from: self.in_use.name(), ..Progress::default() };
        let next = self.next.get_or_insert_with(|| Shelf { number, progress: Some(progress), ..Shelf::default() });
        Begun::Building {
            old: self.in_use.name(),
            new: next.name(),
            analyzer: "none: it is a model".into(),
            progress: next.progress.clone().unwrap(),
        }
    }

    fn note(&mut self, new: &str, progress: &Progress) -> Result<(), SearchError> {
        let all = std::iter::once(&mut self.in_use).chain(self.next.as_mut()).chain(&mut self.retired);
        match all.into_iter().find(|shelf| shelf.name() == new) {
            Some(shelf) => {
                shelf.progress = Some(progress.clone());
                Ok(())
            }
            None => Err(SearchError::Unavailable("404 index_not_found_exception".into())),
        }
    }

    fn take_over(&mut self, old: &str, new: &str) -> Result<(), SuccessionError> {
        if self.in_use.name() == new {
            return Ok(());
        }
        match self.next.take() {
            Some(next) if self.in_use.name() == old && next.name() == new => {
                self.retired.push(std::mem::replace(&mut self.in_use, next));
                Ok(())
            }
            next => {
                self.next = next;
                Err(SuccessionError::Refused("404 aliases_not_found_exception".into()))
            }
        }
    }
}

#[async_trait]
impl Search for ModelSearch {
    async fn bulk(&self, items: &[IndexItem]) -> Result<Vec<ItemAnswer>, SearchError> {
        let items = items.to_vec();
        let door = self.door;
        // While a next index is there, the alias may be looked up early, and the writes come late.
        let early = {
            let mut state = self.lock();
            let looked = state.behind(door).map(|shelf| shelf.number);
            (state.next.is_some() && state.rng.bool()).then_some(looked)
        };
        let write = {
            let items = items.clone();
            move |state: &mut State, fate| {
                let to = early.unwrap_or_else(|| state.behind(door).map(|shelf| shelf.number));
                state.bulk(&items, fate, to)
            }
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

fn no_alias<T>(shelf: Option<T>) -> Result<T, SearchError> {
    shelf.ok_or_else(|| SearchError::Unavailable("404 index_not_found_exception".into()))
}

#[async_trait]
impl Provenance for ModelSearch {
    async fn written_by(
        &self,
        namespace: &Namespace,
        message: &MessageId,
        limit: usize,
    ) -> Result<Vec<Written>, SearchError> {
        let (wanted, scope, door) = (message.0.clone(), namespace.as_str().to_owned(), self.door);
        let look = move |state: &mut State, _| {
            let documents = &no_alias(state.behind(door))?.documents;
            let text = |document: &Indexed, name: &str| document.source[name].as_str().unwrap_or_default().to_owned();
            let names = |document: &Indexed| {
                ["message_id", "original_message_id"].iter().any(|name| text(document, name) == wanted)
            };
            let ours = documents.iter().filter(|(_, document)| text(document, "namespace") == scope && names(document));
            let mut written: Vec<Written> = ours
                .map(|(id, document)| Written {
                    document_id: id.clone(),
                    bucket: text(document, "bucket"),
                    key: text(document, "key"),
                    held: held(document),
                })
                .collect();
            written.sort_by_key(|one| std::cmp::Reverse(one.held.revision));
            written.truncate(limit);
            Ok(written)
        };
        self.call(SearchAsk::WrittenBy(message.clone()), |faults| &mut faults.catalogue, look, |_| SearchAnswer::Yes)
            .await
    }
}

#[async_trait]
impl Catalogue for ModelSearch {
    async fn entries(&self, stretch: &Stretch, limit: usize) -> Result<Vec<Entry>, SearchError> {
        let (wanted, door) = (stretch.clone(), self.door);
        let look =
            move |state: &mut State, _| Ok(State::entries(&no_alias(state.behind(door))?.documents, &wanted, limit));
        let told = |entries: &Vec<Entry>| SearchAnswer::Entries(entries.clone());
        self.call(SearchAsk::Entries(stretch.clone()), |faults| &mut faults.catalogue, look, told).await
    }

    async fn owners(&self) -> Result<Vec<Owner>, SearchError> {
        let door = self.door;
        let look = move |state: &mut State, _| {
            let text = |document: &Indexed, name: &str| document.source[name].as_str().map(str::to_owned);
            let documents = no_alias(state.behind(door))?.documents.values();
            let owner =
                |document| Some(Owner { namespace: text(document, "namespace")?, bucket: text(document, "bucket")? });
            let owners: BTreeSet<Owner> = documents.filter_map(owner).collect();
            Ok(owners.into_iter().collect())
        };
        let told = |owners: &Vec<Owner>| SearchAnswer::Owners(owners.clone());
        self.call(SearchAsk::Owners, |faults| &mut faults.catalogue, look, told).await
    }

    async fn held(&self, ids: &[DocumentId]) -> Result<Vec<Option<Held>>, SearchError> {
        let (wanted, door) = (ids.to_vec(), self.door);
        let look = move |state: &mut State, _| {
            let documents = &no_alias(state.behind(door))?.documents;
            Ok(wanted.iter().map(|id| documents.get(id).map(held)).collect::<Vec<_>>())
        };
        let told = |held: &Vec<Option<Held>>| SearchAnswer::Held(held.clone());
        self.call(SearchAsk::Held(ids.to_vec()), |faults| &mut faults.catalogue, look, told).await
    }

    async fn shows(&self, id: &DocumentId) -> Result<bool, SearchError> {
        let (wanted, door) = (id.clone(), self.door);
        let look = move |state: &mut State, _| {
            let document = no_alias(state.behind(door))?.documents.get(&wanted);
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

fn unavailable(error: SearchError) -> SuccessionError {
    SuccessionError::Unavailable(error.to_string())
}

#[async_trait]
impl Succession for ModelSearch {
    async fn begin(&self, _: bool) -> Result<Begun, SuccessionError> {
        let told = |begun: &Begun| SearchAnswer::Begun(begun.clone());
        let begin = |state: &mut State, _| Ok(state.begin());
        self.call(SearchAsk::Begin, |faults| &mut faults.catalogue, begin, told).await.map_err(unavailable)
    }

    async fn note(&self, new: &str, progress: &Progress) -> Result<(), SearchError> {
        let (new, wanted) = (new.to_owned(), progress.clone());
        let note = move |state: &mut State, _| state.note(&new, &wanted);
        let told = |(): &()| SearchAnswer::Yes;
        self.call(SearchAsk::Note(progress.clone()), |faults| &mut faults.catalogue, note, told).await
    }

    async fn take_over(&self, old: &str, new: &str) -> Result<(), SuccessionError> {
        let (old, new) = (old.to_owned(), new.to_owned());
        // What the index itself says, carried through a call of the port: it is an answer, not a failed call.
        let take = move |state: &mut State, _| Ok(state.take_over(&old, &new));
        let told = |_: &Result<(), SuccessionError>| SearchAnswer::Yes;
        self.call(SearchAsk::TakeOver, |faults| &mut faults.catalogue, take, told).await.map_err(unavailable)?
    }
}
