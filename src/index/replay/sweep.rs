//! Once over what is parked, oldest first, some at a time.
//!
//! Promises flat memory, however much is parked: a page of keys, at most `TOGETHER` markers in work, and
//! `MOST_BYTES` of records among them; that while the index is not known to be well one document finds out for all,
//! and `FEW` for the store. Each marker costs one GET (of its record) and one DELETE, and a thousandth of a LIST.

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Replayer;
use super::one::{Fate, One, Testimony};
use super::patience::{Charge, Patience};
use crate::index::bulk::Room;
use crate::index::park::markers::{Markers, PAGE};

/// Markers in work at once: a bulk request is built of them.
const TOGETHER: usize = 64;
/// At the beginning; each that is answered, however, makes room for one more. On a store that is sick, all in work would ask it, each
/// with the SDK's three tries, before the first of them can say so.
const FEW: usize = 4;
/// Records in memory at once, bytes; one that is larger goes alone.
pub(super) const MOST_BYTES: u32 = 64 * 1024 * 1024;

/// What a sweep did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Markers whose documents reached the index.
    pub indexed: u64,
    /// Markers that were moved to `errored-index/`.
    pub errored: u64,
    /// Markers that have trouble of their own, and stay.
    pub stuck: u64,
    /// Markers that wait for their next try.
    pub waiting: u64,
    /// What the first stuck one said.
    pub trouble: Option<String>,
    /// LISTs.
    pub lists: u64,
}

/// How a sweep ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Halt {
    /// At the end of what is parked.
    Through,
    /// Another replays.
    Behind,
    /// The index is not to be asked now.
    NoRoom,
    /// It was told to stop: a pause, or a lost lease.
    ToldTo,
    /// The index or the store is sick: the rest waits, free of charge.
    Sick(String),
}

/// A sweep to be made.
pub struct Sweep<'a, F: Fn() -> bool> {
    /// By whom.
    pub of: &'a Replayer,
    /// Asked before each marker is begun. Those in work are finished.
    pub go_on: &'a F,
    /// Number of this sweep.
    pub turn: usize,
}

impl<F: Fn() -> bool> Sweep<'_, F> {
    /// From the oldest to the newest, for as long as index and store are well.
    pub async fn over_all(&self, patience: &mut Patience, tally: &mut Tally) -> Halt {
        let markers: Markers = self.of.markers();
        let bytes = Semaphore::new(MOST_BYTES as usize);
        let (mut place, mut together) = (None, FEW);
        loop {
            tally.lists += 1;
            let batch = match markers.after(place, PAGE).await {
                Ok(batch) => batch,
                Err(error) => return Halt::Sick(error.to_string()),
            };
            if let Some(odd) = batch.odd.first() {
                tally.stuck += batch.odd.len() as u64;
                tally.trouble.get_or_insert(format!("{odd} is not the key of a marker"));
            }
            let now = Instant::now();
            let (mut due, later): (Vec<_>, Vec<_>) =
                batch.markers.into_iter().partition(|marker| patience.is_due(&marker.key, now));
            let apart = later.iter().filter(|marker| patience.stands_apart(&marker.key)).count();
            tally.stuck += apart as u64;
            tally.waiting += (later.len() - apart) as u64;
            if self.of.lane.room() == Room::One && !due.is_empty() {
                // The one that finds out must not be the same each time: it may be what the index cannot take.
                let turn = self.turn % due.len();
                due.rotate_left(turn);
            }
            if let Some(halt) = self.over(due, &bytes, &mut together, patience, tally).await {
                return halt;
            }
            place = batch.next;
            if place.is_none() {
                return Halt::Through;
            }
        }
    }

    /// Some markers; `None`: all had their turn.
    async fn over(
        &self,
        markers: Vec<crate::index::park::markers::MarkerKey>,
        bytes: &Semaphore,
        together: &mut usize,
        patience: &mut Patience,
        tally: &mut Tally,
    ) -> Option<Halt> {
        let mut rest = markers.into_iter().peekable();
        let mut working = FuturesUnordered::new();
        let mut halt = None;
        loop {
            while halt.is_none() && rest.peek().is_some() {
                let most = match self.of.lane.room() {
                    _ if !(self.go_on)() => {
                        halt = Some(Halt::ToldTo);
                        break;
                    }
                    Room::Free => *together,
                    // While the index is not known to be well, one document finds out for all.
                    Room::One => 1,
                    Room::None if working.is_empty() => {
                        halt = Some(Halt::NoRoom);
                        break;
                    }
                    Room::None => 0, // those in work say how things stand
                };
                if working.len() >= most {
                    break;
                }
                let Some(marker) = rest.next() else { break };
                let trusts_errored = patience.trusts_errored(&marker.key, Instant::now());
                let one = One { of: self.of, bytes, marker, trusts_errored };
                working.push(async move {
                    let fate = one.fate().await;
                    (one, fate)
                });
            }
            let Some((one, fate)) = working.next().await else { return halt };
            match self.book(&one, fate, patience, tally).await {
                Some(sick) => drop(halt.get_or_insert(Halt::Sick(sick))),
                None => *together = TOGETHER.min(*together + 1),
            }
        }
    }

    /// Enters what became of a marker; why the others need not be tried now, if so.
    async fn book(&self, one: &One<'_>, fate: Fate, patience: &mut Patience, tally: &mut Tally) -> Option<String> {
        let key = &one.marker.key;
        let fate = match fate {
            Fate::Unclear(why) => match self.charge(one, patience).await {
                Charge::Spent(times) => {
                    let reason = format!("given up after {times} replays of unclear outcome; the last: {why}");
                    match one.give_up(&reason).await {
                        // Not moved: its budget stays spent, and the next try moves it.
                        Fate::Stuck(trouble) => Fate::Stuck(trouble),
                        moved => moved,
                    }
                }
                Charge::Waits => {
                    tally.waiting += 1;
                    tally.trouble.get_or_insert(why);
                    return None;
                }
                Charge::Everybodys => {
                    tally.trouble.get_or_insert(why.clone());
                    return Some(why);
                }
            },
            other => other,
        };
        match fate {
            Fate::Indexed => {
                patience.somebody_was_taken();
                patience.gone(key);
                tally.indexed += 1;
                self.of.books.replayed(1);
            }
            Fate::Errored { judged } => {
                if judged {
                    patience.somebody_was_taken();
                }
                patience.gone(key);
                tally.errored += 1;
            }
            Fate::Gone => patience.gone(key),
            Fate::Beside => {
                patience.lies_beside(key, Instant::now());
                tally.waiting += 1;
            }
            Fate::Apart(why) => {
                patience.apart(key, Instant::now(), &self.of.jitter);
                tally.stuck += 1;
                tally.trouble.get_or_insert(why);
            }
            Fate::Stuck(why) | Fate::Unclear(why) => {
                tally.stuck += 1;
                tally.trouble.get_or_insert(why);
            }
            Fate::Sick(why) => return Some(why),
        }
        None
    }

    /// Several sick ones that are left among themselves come to an end where a document that was taken before, by replay or
    /// fresh, is taken still.
    async fn charge(&self, one: &One<'_>, patience: &mut Patience) -> Charge {
        let key = &one.marker.key;
        let charge = patience.refused(key, Instant::now(), &self.of.jitter);
        let Some(witness) = self.of.lane.witness().filter(|_| charge == Charge::Everybodys) else { return charge };
        match one.testimony(&witness).await {
            Testimony::Taken => {
                patience.somebody_was_taken();
                patience.refused(key, Instant::now(), &self.of.jitter)
            }
            Testimony::NotNow => charge,
            Testimony::Unfit => {
                self.of.lane.unfit(&witness);
                charge
            }
        }
    }
}
