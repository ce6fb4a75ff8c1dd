//! Documents into bulk requests and verdicts back out, with a breaker in front.
//!
//! Promises one verdict per document whatever becomes of the request: a refused request is split until the guilty
//! document stands alone, and a sick index is asked only now and then. Parks nothing, and knows no file.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::{IndexItem, ItemVerdict, Search, SearchError};
use crate::breaker::{Breaker, Habits, Leave, Turn};
use crate::events::{self, Event};
use crate::retry::{Backoff, Jitter};
use crate::spawn::tied;

/// A batch goes when it has this many documents,
const BATCH_DOCUMENTS: usize = 200;
/// or this many bytes (AWS takes 10 MiB on its smaller instances; see design §6),
const BATCH_BYTES: usize = 5 * 1024 * 1024;
/// or has waited this long.
const LINGER: Duration = Duration::from_millis(20);
/// Requests under way at once.
const REQUESTS: usize = 2;
/// Whole request with all its splits; the client's own request timeout is shorter.
const BATCH_LIMIT: Duration = Duration::from_secs(60);

const HABITS: Habits =
    Habits { failures: 3, tries: Backoff { base: Duration::from_secs(2), cap: Duration::from_secs(30) } };

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

struct Offered {
    item: IndexItem,
    verdict: oneshot::Sender<ItemVerdict>,
    /// The one that may go although the breaker is open.
    trial: bool,
}

/// The way into the index; cheap to clone.
#[derive(Clone)]
pub struct Lane {
    offers: mpsc::Sender<Offered>,
    shared: Arc<Shared>,
}

struct Shared {
    search: Arc<dyn Search>,
    breaker: Mutex<Breaker>,
    jitter: Arc<Jitter>,
}

impl Lane {
    /// A lane and the task that drives it; the task ends when the last lane is gone.
    pub fn new(search: Arc<dyn Search>, jitter: Arc<Jitter>) -> (Self, impl Future<Output = ()> + Send) {
        let (offers, heard) = mpsc::channel(1024);
        let shared = Arc::new(Shared { search, breaker: Mutex::new(Breaker::new(HABITS)), jitter });
        (Self { offers, shared: Arc::clone(&shared) }, drive(shared, heard))
    }

    /// Brings one document in. Never an error: what cannot be known is `Systemic`.
    pub async fn submit(&self, item: IndexItem) -> ItemVerdict {
        let trial = match self.shared.with_breaker(|breaker, now| breaker.leave(now, &self.shared.jitter)) {
            Leave::Yes => false,
            Leave::Try => true,
            Leave::No(_) => return ItemVerdict::Systemic(OPEN.into()),
        };
        let (verdict, answer) = oneshot::channel();
        if self.offers.send(Offered { item, verdict, trial }).await.is_err() {
            return ItemVerdict::Systemic("the side path has stopped".into());
        }
        answer.await.unwrap_or_else(|_| ItemVerdict::Systemic("the side path lost the answer".into()))
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

    /// `None` is well.
    fn report(&self, trouble: Option<&str>) {
        let turn = self.with_breaker(|breaker, now| match trouble {
            None => breaker.success(now),
            Some(_) => breaker.failure(now, &self.jitter),
        });
        match turn {
            None => {}
            Some(Turn::Opened) => {
                let detail = trouble.unwrap_or_default().to_owned();
                events::BreakerOpened { which: "index", detail }.emit();
            }
            Some(Turn::Closed { open, suppressed }) => {
                let open_ms = u64::try_from(open.as_millis()).unwrap_or(u64::MAX);
                events::BreakerClosed { which: "index", open_ms, suppressed }.emit();
            }
        }
    }
}

async fn drive(shared: Arc<Shared>, mut heard: mpsc::Receiver<Offered>) {
    let requests = Arc::new(Semaphore::new(REQUESTS));
    while let Some(first) = heard.recv().await {
        let until = Instant::now() + LINGER;
        // Nobody waits any more: the work was cancelled. An outage leaves many of those.
        if first.verdict.is_closed() {
            continue;
        }
        let mut bytes = first.item.source.len();
        let mut batch = vec![first];
        while batch.len() < BATCH_DOCUMENTS && bytes < BATCH_BYTES {
            match tokio::time::timeout_at(until, heard.recv()).await {
                Ok(Some(offered)) => {
                    bytes += offered.item.source.len();
                    batch.push(offered);
                }
                Ok(None) | Err(_) => break,
            }
        }
        // Held by the request until it has ended: a slow index gets no more than REQUESTS at a time.
        let Ok(request) = Arc::clone(&requests).acquire_owned().await else { return };
        let shared = Arc::clone(&shared);
        tokio::spawn(tied(async move {
            if tokio::time::timeout(BATCH_LIMIT, send(&shared, batch)).await.is_err() {
                shared.report(Some("no answer to a bulk request")); // its documents' senders are gone: they park
            }
            drop(request);
        }));
    }
}

/// Sends a batch; halves it for as long as the whole is refused.
async fn send(shared: &Shared, batch: Vec<Offered>) {
    let trial = batch.iter().any(|offered| offered.trial);
    let mut parts = VecDeque::from([batch]);
    while let Some(part) = parts.pop_front() {
        // It may have opened while this batch waited for its turn.
        if !trial && shared.with_breaker(|breaker, _| breaker.is_open()) {
            for offered in part {
                drop(offered.verdict.send(ItemVerdict::Systemic(OPEN.into())));
            }
            continue;
        }
        let (items, verdicts): (Vec<_>, Vec<_>) =
            part.into_iter().map(|offered| (offered.item, offered.verdict)).unzip();
        match shared.search.bulk(&items).await {
            Ok(answers) => {
                // One item that is judged shows an index at work: what another says then is about that document alone.
                let at_work = answers.iter().any(|answer| match answer {
                    ItemVerdict::Durable | ItemVerdict::Refused(_) => true,
                    ItemVerdict::Unclear(_) | ItemVerdict::Systemic(_) => false,
                });
                let trouble = answers.iter().find_map(|answer| match answer {
                    ItemVerdict::Unclear(why) | ItemVerdict::Systemic(why) => Some(why.as_str()),
                    ItemVerdict::Durable | ItemVerdict::Refused(_) => None,
                });
                shared.report(trouble.filter(|_| !at_work));
                let mut answers = answers.into_iter();
                for verdict in verdicts {
                    let answer = answers.next().unwrap_or(ItemVerdict::Systemic("no answer for this item".into()));
                    drop(verdict.send(answer)); // nobody waits: the work was cancelled, and the version fences
                }
            }
            Err(SearchError::WholeRefused(why)) if items.len() == 1 => {
                shared.report(None); // it answers: this document is the problem
                verdicts.into_iter().for_each(|verdict| drop(verdict.send(ItemVerdict::Refused(why.clone()))));
            }
            Err(SearchError::WholeRefused(_)) => {
                let mut rest: Vec<_> =
                    items.into_iter().zip(verdicts).map(|(item, verdict)| Offered { item, verdict, trial }).collect();
                let second = rest.split_off(rest.len() / 2);
                parts.push_front(second);
                parts.push_front(rest);
            }
            Err(SearchError::Unavailable(why)) => {
                shared.report(Some(&why));
                // What is left is not tried: an outage costs one request timeout, once (design §6).
                let left = parts.drain(..).flatten().map(|offered| offered.verdict);
                for verdict in verdicts.into_iter().chain(left) {
                    drop(verdict.send(ItemVerdict::Systemic(why.clone())));
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "bulk/tests.rs"]
mod tests;
