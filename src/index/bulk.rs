//! Documents into bulk requests and verdicts back out, with a breaker in front.
//!
//! Promises one verdict per document whatever becomes of the request, that a fresh one never waits longer for it than one
//! request timeout, that no more requests are outstanding than the index bears (`aimd`), abandoned ones included, and
//! that a sick index is asked only now and then. Parks nothing, and knows no file.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use super::aimd::Aimd;
use super::everybody::Refused;
use super::{IndexItem, ItemVerdict, Search};
use crate::breaker::{Breaker, Habits, Leave, Turn};
use crate::events::{self, Event};
use crate::message::DocumentId;
use crate::retry::{Backoff, Jitter};
use crate::spawn::tied;

mod line;
mod send;

pub use line::Class;
use line::{Ends, Line, Next, Offered, Open};

const HABITS: Habits =
    Habits { failures: 3, tries: Backoff { base: Duration::from_secs(2), cap: Duration::from_secs(30) } };

/// Bytes of fresh documents that may wait for the index, those under way included: without a bound, every message in
/// flight may bring 10 MiB of text. Over it a document waits for its place, and for no longer than for anything else.
const WAITING_BYTES: usize = 64 * 1024 * 1024;
/// The same of replayed ones, whose bytes must not keep fresh ones out.
const WAITING_REPLAY_BYTES: usize = 16 * 1024 * 1024;
/// What bytes are counted in: a semaphore counts to 2^32 at once, and no further on some machines.
const UNIT: usize = 1024;
/// A replayed document waits this many request timeouts for its turn: nine slots of the slowest index, its own, and some.
const REPLAY_WAITS: u32 = 12;

/// Why a document was not sent.
const OPEN: &str = "the index breaker is open";

/// See [`Lane::room`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// The index is well.
    Free,
    /// One document decides whether it is well again.
    One,
    /// Not now.
    None,
}

/// The way into the index; cheap to clone.
#[derive(Clone)]
pub struct Lane {
    ends: Ends,
    waiting: [Arc<Semaphore>; 2],
    shared: Arc<Shared>,
}

struct Shared {
    search: Arc<dyn Search>,
    breaker: Mutex<Breaker>,
    /// When it was last seen at work.
    well: Mutex<Option<Instant>>,
    /// Documents with which a whole request was refused (400) since then.
    suspects: Mutex<Refused<DocumentId>>,
    /// The last document that was taken, fresh or replayed.
    taken: Mutex<Option<DocumentId>>,
    pace: Mutex<Pace>,
    /// A slot is free, or the breaker has opened.
    changed: Notify,
    jitter: Arc<Jitter>,
    /// One request timeout.
    patience: Duration,
}

/// Slots in use, and how many there may be.
struct Pace {
    aimd: Aimd,
    /// All of them,
    outstanding: usize,
    /// and the replay's.
    replay: usize,
}

impl Lane {
    /// A lane and the task that drives it; the task ends when the last lane is gone.
    pub fn new(search: Arc<dyn Search>, jitter: Arc<Jitter>) -> (Self, impl Future<Output = ()> + Send) {
        let (ends, line) = Line::new();
        let patience = search.request_timeout();
        let shared = Arc::new(Shared {
            search,
            breaker: Mutex::new(Breaker::new(HABITS)),
            well: Mutex::default(),
            suspects: Mutex::default(),
            taken: Mutex::default(),
            pace: Mutex::new(Pace { aimd: Aimd::new(patience), outstanding: 0, replay: 0 }),
            changed: Notify::new(),
            jitter,
            patience,
        });
        let waiting = [WAITING_BYTES, WAITING_REPLAY_BYTES].map(|bytes| Arc::new(Semaphore::new(bytes / UNIT)));
        (Self { ends, waiting, shared: Arc::clone(&shared) }, drive(shared, line))
    }

    /// Brings one document in. Never an error: what cannot be known is `Systemic`. A fresh document has its verdict
    /// within one request timeout; a replayed one may wait for its turn, `REPLAY_WAITS` timeouts at most.
    pub async fn submit(&self, item: IndexItem, class: Class) -> ItemVerdict {
        let leave = self.shared.with_breaker(|breaker, now| breaker.leave(now, &self.shared.jitter));
        let (end, patience) = match (leave, class) {
            (Leave::No(_), _) => return ItemVerdict::Systemic(OPEN.into()),
            (Leave::Try, Class::Fresh) => {
                // It finds out for all, and its message does not wait for that: parked at once like the others.
                drop(self.ends.trials.try_send(Offered { item, verdict: None, _room: None }));
                return ItemVerdict::Systemic(OPEN.into());
            }
            (Leave::Try, Class::Replay) => (&self.ends.trials, self.shared.patience),
            (Leave::Yes, Class::Fresh) => (self.ends.of(class), self.shared.patience),
            (Leave::Yes, Class::Replay) => (self.ends.of(class), self.shared.patience * REPLAY_WAITS),
        };
        let (verdict, answer) = oneshot::channel();
        let through = async {
            let Some(room) = self.room_for(&item, class).await else {
                return ItemVerdict::Systemic("the side path has stopped".into());
            };
            if end.send(Offered { item, verdict: Some(verdict), _room: Some(room) }).await.is_err() {
                return ItemVerdict::Systemic("the side path has stopped".into());
            }
            answer.await.unwrap_or_else(|_| ItemVerdict::Systemic("the side path lost the answer".into()))
        };
        timeout_at(Instant::now() + patience, through)
            .await
            .unwrap_or_else(|_| ItemVerdict::Systemic(format!("the index has no verdict after {patience:?}")))
    }

    /// Waits until its bytes may wait; one document larger than the bound has all of it for itself.
    async fn room_for(&self, item: &IndexItem, class: Class) -> Option<tokio::sync::OwnedSemaphorePermit> {
        let (waiting, bound) = match class {
            Class::Fresh => (&self.waiting[0], WAITING_BYTES),
            Class::Replay => (&self.waiting[1], WAITING_REPLAY_BYTES),
        };
        let units = (item.source.len().min(bound) / UNIT).max(1);
        Arc::clone(waiting).acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX)).await.ok()
    }

    /// The breaker is open.
    pub fn is_open(&self) -> bool {
        self.shared.is_open()
    }

    /// Documents of a request and requests outstanding, at most, as the index bears them now.
    pub fn limits(&self) -> (usize, usize) {
        self.shared.with_pace(|pace| (pace.aimd.documents(), pace.aimd.requests()))
    }

    /// A document that was taken lately: offered once more, it shows whether the index still takes what is well.
    pub fn witness(&self) -> Option<DocumentId> {
        self.shared.taken().clone()
    }

    /// This one is no good as a witness any more.
    pub fn unfit(&self, witness: &DocumentId) {
        let mut taken = self.shared.taken();
        if taken.as_ref() == Some(witness) {
            *taken = None;
        }
    }

    /// How many documents may be brought now: any number, one (a try is due), or none.
    /// Only a written document closes the breaker: an index that answers a look may still refuse to write.
    pub fn room(&self) -> Room {
        self.shared.with_breaker(|breaker, now| match (breaker.is_open(), breaker.try_is_due(now)) {
            (false, _) => Room::Free,
            (true, true) => Room::One,
            (true, false) => Room::None,
        })
    }
}

impl Shared {
    fn with_breaker<T>(&self, act: impl FnOnce(&mut Breaker, Instant) -> T) -> T {
        act(&mut self.breaker.lock().unwrap_or_else(PoisonError::into_inner), Instant::now())
    }

    fn with_pace<T>(&self, act: impl FnOnce(&mut Pace) -> T) -> T {
        act(&mut self.pace.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn taken(&self) -> MutexGuard<'_, Option<DocumentId>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self) -> bool {
        self.with_breaker(|breaker, _| breaker.is_open())
    }

    /// With this document a whole request was refused, and it alone; whether that is no fault of its own.
    fn suspect(&self, alone: &DocumentId) -> bool {
        self.suspects().add(alone.clone())
    }

    fn suspects(&self) -> MutexGuard<'_, Refused<DocumentId>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` is well. Trouble is since when, and what: some in a row open the breaker, or one that has cost what they may
    /// cost together (those that come after it must not pay again), unless others fared better meanwhile.
    fn report(&self, trouble: Option<(Instant, &str)>) {
        let mut well = self.well.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = self.with_breaker(|breaker, now| match trouble {
            None => {
                *well = Some(now);
                self.suspects().somebody_was_taken();
                breaker.success(now)
            }
            Some((began, _)) => {
                let costly = now.saturating_duration_since(began) >= self.patience / HABITS.failures;
                let nobody_fared_better = well.is_none_or(|well| well < began);
                if costly && nobody_fared_better {
                    breaker.trip(now, &self.jitter)
                } else {
                    breaker.failure(now, &self.jitter)
                }
            }
        });
        drop(well);
        match turn {
            None => {}
            Some(Turn::Opened) => {
                let detail = trouble.map(|(_, why)| why.to_owned()).unwrap_or_default();
                events::BreakerOpened { which: "index", detail }.emit();
                self.changed.notify_one(); // those who wait in line are told
            }
            Some(Turn::Closed { open, suppressed }) => {
                let open_ms = u64::try_from(open.as_millis()).unwrap_or(u64::MAX);
                events::BreakerClosed { which: "index", open_ms, suppressed }.emit();
            }
        }
    }

    /// Who may come out of the line now: with a slot free, its next; with the breaker open, everybody, to be told.
    fn open(&self) -> Open {
        let told = self.is_open();
        self.with_pace(|pace| {
            let free = pace.outstanding < pace.aimd.requests();
            // A free slot is kept from replay for the fresh ones that may come, where there is more than one.
            let replay = free && pace.replay < (pace.aimd.requests() / 2).max(1);
            Open { trials: free, fresh: free || told, replay: replay || told }
        })
    }
}

/// One bulk request that may be outstanding; free again when it is dropped.
struct Slot {
    shared: Arc<Shared>,
    class: Class,
}

impl Slot {
    fn take(shared: &Arc<Shared>, class: Class) -> Self {
        shared.with_pace(|pace| {
            pace.outstanding += 1;
            pace.replay += usize::from(class == Class::Replay);
        });
        Self { shared: Arc::clone(shared), class }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.with_pace(|pace| {
            pace.outstanding -= 1;
            pace.replay -= usize::from(self.class == Class::Replay);
        });
        self.shared.changed.notify_one();
    }
}

async fn drive(shared: Arc<Shared>, mut line: Line) {
    loop {
        let next = tokio::select! {
            biased;
            () = shared.changed.notified() => continue,
            next = line.next(shared.open()) => next,
        };
        let (class, batch, trial, full) = match next {
            None => return,
            Some(Next::Trial(offered)) => (Class::Fresh, vec![offered], true, false),
            // Nobody waits for an outage.
            Some(Next::One(_, mut offered)) if shared.is_open() => {
                offered.answer(ItemVerdict::Systemic(OPEN.into()));
                continue;
            }
            Some(Next::One(class, first)) => {
                let most = shared.with_pace(|pace| pace.aimd.documents());
                let (batch, full) = line.batch(class, first, most).await;
                (class, batch, false, full)
            }
        };
        // The limit may have gone down since; and where the breaker has opened, there is nothing to wait for.
        while !shared.open().fresh {
            shared.changed.notified().await;
        }
        if !trial && shared.is_open() {
            batch.into_iter().for_each(|mut offered| offered.answer(ItemVerdict::Systemic(OPEN.into())));
            continue;
        }
        // Held until the request has really ended, whoever has stopped waiting for it.
        let slot = Slot::take(&shared, class);
        let shared = Arc::clone(&shared);
        tokio::spawn(tied(async move {
            send::send(&shared, batch, trial, full).await;
            drop(slot);
        }));
    }
}

#[cfg(test)]
#[path = "bulk/tests.rs"]
mod tests;
