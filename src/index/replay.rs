//! Replay: parked documents into the index, oldest first, from the record as it is now.
//!
//! Promises P8 (a marker names a document, never its text: what is indexed is the newest record, a tombstone as a soft
//! delete) and that an outage costs a marker nothing. A marker goes only after the index has acknowledged, or another
//! marker lies in `errored-index/`. Takes the same bulk lane as fresh documents. The worker's replay and `redrive parked`
//! are one code: a sweep over what is parked (`sweep`), under an advisory lease (`lease`), with a memory of what was
//! refused (`patience`). Knows no message.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::bulk::{Lane, Room};
use super::park::Parking;
use super::park::markers::Markers;
use crate::books::Books;
use crate::events::{self, Event};
use crate::gate::Pauses;
use crate::message::Namespace;
use crate::retry::{Backoff, Jitter};
use crate::store::Store;

pub mod lease;
mod one;
pub mod patience;
pub mod sweep;

use lease::{Lease, Replaying, Taken};
use patience::{Budget, Patience};
use sweep::{Halt, Sweep, Tally};

/// Between two looks at the parked prefix, while something is there; doubling to the cap while nothing is, for a look
/// is a LIST that is paid for. A document that this worker parks brings the next look forward.
const LOOKS: Backoff = Backoff { base: Duration::from_secs(10), cap: Duration::from_secs(120) };
/// Between two looks at a lease that another holds: one GET, and no LIST.
const HELD_LOOKS: Duration = Duration::from_secs(20);

/// What a replayer works with: that of a worker, or of `redrive parked`.
pub struct Replayer {
    /// Where markers and records lie.
    pub store: Arc<dyn Store>,
    /// Results bucket.
    pub bucket: String,
    /// Only this scope's markers.
    pub namespace: Namespace,
    /// The way into the index.
    pub lane: Lane,
    /// For documents that turn out to be refused.
    pub parking: Parking,
    /// The ledger.
    pub books: Arc<Books>,
    /// Spread of looks: workers must not list in step.
    pub jitter: Arc<Jitter>,
    /// `FAILED_RETRY_*`.
    pub budget: Budget,
    /// In the lease.
    pub me: Replaying,
}

impl Replayer {
    /// Runs until told to stop; does nothing while the worker is paused, and lets the lease go after each sweep: another
    /// namespace of this bucket may be waiting for it.
    pub async fn run(self, mut pauses: Pauses, stop: CancellationToken) {
        let (mut lease, mut patience) = (self.lease(), Patience::new(self.budget));
        let (mut idle, mut turn, mut behind, mut blind) = (0, 0_usize, false, false);
        loop {
            tokio::select! { biased; () = stop.cancelled() => return, () = pauses.over() => {} }
            let pause = if behind { self.jitter.half_to_one(HELD_LOOKS) } else { LOOKS.wait(idle, &self.jitter) };
            let pause = tokio::time::sleep(pause);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = pause => {}
                () = self.parking.news.notified() => {
                    idle = 0; // not at once: the index has just refused this document
                    let pause = tokio::time::sleep(LOOKS.wait(0, &self.jitter));
                    tokio::select! { biased; () = stop.cancelled() => return, () = pause => {} }
                }
            }
            if self.lane.room() == Room::None || pauses.on() {
                continue;
            }
            let mut tally = Tally::default();
            let swept = tokio::select! {
                biased;
                () = stop.cancelled() => None,
                swept = async {
                    // Where nothing is parked nobody need hold the lease for it.
                    if !behind && let Some(halt) = self.nothing_to_do(&mut tally).await {
                        return halt;
                    }
                    let taken = lease.take().await;
                    let without = taken == Taken::Without;
                    if without && !blind {
                        told_blind();
                    }
                    blind = without;
                    match taken {
                        Taken::Ours | Taken::Without => {
                            let lost = lease.lost();
                            let sweep = Sweep { of: &self, go_on: &|| !lost.is_cancelled() && !pauses.on(), turn };
                            lease.under(sweep.over_all(&mut patience, &mut tally)).await
                        }
                        Taken::Held(_) => Halt::Behind,
                        Taken::OutOfReach(error) => Halt::Sick(error.to_string()),
                    }
                } => Some(swept),
            };
            lease.release().await;
            turn = turn.wrapping_add(1);
            self.tell(&tally, swept.as_ref());
            let Some(swept) = swept else { return };
            behind = swept == Halt::Behind;
            // By progress: what is stuck is not looked at every few seconds for ever.
            idle = if tally.indexed + tally.errored == 0 { idle.saturating_add(1) } else { 0 };
        }
    }

    /// Our side of the lease.
    pub fn lease(&self) -> Lease {
        let clock = Arc::clone(&self.parking.clock);
        Lease::new(Arc::clone(&self.store), &self.bucket, &self.namespace, self.me.clone(), clock)
    }

    /// What is parked.
    pub fn markers(&self) -> Markers {
        let (store, bucket, namespace) = (Arc::clone(&self.store), self.bucket.clone(), self.namespace.clone());
        Markers { store, bucket, namespace, lot: super::park::Lot::Retry }
    }

    async fn nothing_to_do(&self, tally: &mut Tally) -> Option<Halt> {
        tally.lists += 1;
        match self.markers().after(None, 1).await {
            Ok(batch) if batch.markers.is_empty() && batch.next.is_none() => Some(Halt::Through),
            Ok(_) => None,
            Err(error) => Some(Halt::Sick(error.to_string())),
        }
    }

    /// Books and lines of a sweep, also of one that was cut short: what was done is done.
    fn tell(&self, tally: &Tally, swept: Option<&Halt>) {
        let Tally { indexed, errored, stuck, .. } = *tally;
        if indexed + errored > 0 {
            events::ParkedReplayed { indexed, errored, stuck }.emit();
        }
        let trouble = match swept {
            Some(Halt::Sick(why)) => Some(why.clone()),
            Some(Halt::Through | Halt::Behind | Halt::NoRoom | Halt::ToldTo) | None => tally.trouble.clone(),
        };
        if let Some(detail) = trouble {
            events::ReplayTrouble { detail, stuck }.emit();
        }
    }
}

/// Once for each time that it begins.
pub(super) fn told_blind() {
    let key = crate::store::layout::REPLAY;
    let seconds = lease::EXPIRES.as_secs();
    let detail = format!(
        "{key} has been out of reach for {seconds} s: replaying without it (more than one may replay at once, which is \
         safe); fix: grant s3:GetObject and s3:PutObject on it"
    );
    events::Notice { detail }.emit();
}
