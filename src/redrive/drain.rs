//! The drain: letters out of the DLQ in batches, each judged, acted upon, written down, and only then settled.
//!
//! Promises P9: a letter is deleted only after an acknowledged send, index item, park or archive, or a proof that its
//! work is done, and after the audit of its batch; killed anywhere and run again, the end is that of one clean run. Sends
//! a few first and looks whether they are worked on (`watch`). Knows no terminal and no flags.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::clock::WallClock;
use crate::config::TenantFrom;
use crate::index::{Search, SidePath};
use crate::lease::Lease;
use crate::outcome::{Judgement, Outcome, Verdict};
use crate::queue::Queue;
use crate::retry::{Backoff, Jitter};
use crate::settle::SettlerBroken;
use crate::upkeep::outbox::Outbox;

use super::act::{Did, Item, lines};
use super::archive::Archive;
use super::audit::Audit;
use super::decide::decide;
use super::expiry::Expiry;
use super::hold::Hold;
use super::letter::Letter;
use super::look::Look;
use super::report::{End, Report, Tally};
use super::select::Selection;
use super::watch::Watched;

/// Letters looked at at once.
pub(super) const TOGETHER: usize = 16;
/// Of the first batch that sends anything back.
const CANARIES: usize = 10;
/// One look at a queue or at the index.
pub(super) const LOOK_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at something that is sick, or full.
pub(super) const AGAIN: Backoff = Backoff { base: Duration::from_secs(2), cap: Duration::from_secs(30) };
/// Sick for so long, and the run ends.
pub(super) const SICK_FOR: Duration = Duration::from_secs(600);
/// Between two looks at the first ones.
const CANARY_LOOKS: Duration = Duration::from_secs(1);

/// What the operator set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Letters of a batch, at least 1.
    pub batch_size: usize,
    /// Batches at most.
    pub max_batches: Option<u64>,
    /// Letters at most.
    pub max_messages: Option<u64>,
    /// Finished work is sent back too.
    pub force: bool,
    /// While more wait in the main queue, nothing is sent to it.
    pub max_backlog: u64,
    /// The first ones must be worked on within this; zero does without.
    pub canary: Duration,
    /// Letters held at once, at most.
    pub most_held: usize,
    /// Bytes of them, attributes too, at most; one round of polls may go beyond.
    pub most_bytes: usize,
}

/// A drain, ready to run.
pub struct Drain {
    /// Who is asked about work.
    pub look: Look,
    /// Into the index, or parked.
    pub side_path: Arc<SidePath>,
    /// The index, to see that it is well; `None` is `SKIP_OPENSEARCH`.
    pub index: Option<Arc<dyn Search>>,
    /// The DLQ under leases.
    pub hold: Hold,
    /// The DLQ, for its counts.
    pub dlq: Arc<dyn Queue>,
    /// The main queue, for its counts.
    pub main: Arc<dyn Queue>,
    /// The way into the main queue.
    pub outbox: Outbox,
    /// For what is given up.
    pub archive: Archive,
    /// What was done.
    pub audit: Audit,
    /// Which letters.
    pub selection: Selection,
    /// `TENANT_FROM`, for the selection.
    pub tenant_from: TenantFrom,
    /// What the operator set.
    pub limits: Limits,
    /// ARN of the main queue.
    pub source_queue: String,
    /// Wall clock, for ages.
    pub clock: Arc<dyn WallClock>,
    /// Spread of waits.
    pub jitter: Arc<Jitter>,
    /// Finish the batch in hand, and end.
    pub stop: CancellationToken,
    /// Cancelled where it was a pause that stopped it.
    pub paused: CancellationToken,
}

/// Who hears how it goes.
pub trait Sink: Send {
    /// So far, of about so many; `doing` is empty while letters are moved.
    fn progress(&mut self, tally: &Tally, about: u64, doing: &str);
}

/// A letter in hand.
pub(super) struct Held {
    pub(super) lease: Lease,
    pub(super) letter: Letter,
}

/// A drain under way.
pub(super) struct Run {
    pub(super) of: Drain,
    pub(super) tally: Tally,
    pub(super) about: u64,
    /// Not meant, or back within this run: kept, so that each is seen once, and returned at the end.
    pub(super) aside: Vec<Lease>,
    /// Received, and not yet in a batch.
    pub(super) waiting: VecDeque<Held>,
    pub(super) watched: Watched,
    pub(super) trouble: Option<String>,
    /// Of the ids that were named, those that have not been met.
    pub(super) missing: BTreeSet<String>,
    /// Letters that somebody else held to the end.
    pub(super) held_elsewhere: u64,
}

impl Drain {
    /// Runs to its end. The error is the settler's: the process must end, and the leases with it.
    pub async fn run(self, sink: &mut dyn Sink) -> Result<Report, SettlerBroken> {
        let about = match tokio::time::timeout(LOOK_LIMIT, self.dlq.facts()).await {
            Ok(Ok(facts)) => facts.visible + facts.in_flight + facts.delayed,
            Ok(Err(_)) | Err(_) => 0,
        };
        let missing = self.selection.message_ids.iter().cloned().collect();
        let mut run = Run {
            watched: Watched::new(self.audit.run_id.clone(), self.clock.unix_ms()),
            of: self,
            tally: Tally::default(),
            about,
            aside: Vec::new(),
            waiting: VecDeque::new(),
            trouble: None,
            missing,
            held_elsewhere: 0,
        };
        let end = run.until_end(sink).await;
        let Run { of, mut tally, aside, waiting, trouble, missing, held_elsewhere, .. } = run;
        tally.ahead += waiting.len() as u64;
        let Drain { hold, dlq, audit, clock, .. } = of;
        let stay: Vec<Lease> = aside.into_iter().chain(waiting.into_iter().map(|Held { lease, .. }| lease)).collect();
        let oldest = stay.iter().filter_map(|lease| lease.message().sent_at_ms).min();
        tally.close(&hold.end(stay).await?);
        let facts = match tokio::time::timeout(LOOK_LIMIT, dlq.facts()).await {
            Ok(Ok(facts)) => Some(facts),
            Ok(Err(_)) | Err(_) => None,
        };
        let left_in_dlq = facts.as_ref().map(|facts| facts.visible + facts.in_flight + facts.delayed);
        let first_expires = oldest.zip(facts).map(|(sent, facts)| Expiry::of(sent, facts.retention, clock.unix_ms()));
        let (run_id, adds_up, missing) = (audit.run_id, tally.adds_up(), missing.into_iter().collect());
        Ok(Report { run_id, end, adds_up, tally, left_in_dlq, held_elsewhere, first_expires, missing, trouble })
    }
}

impl Run {
    async fn until_end(&mut self, sink: &mut dyn Sink) -> End {
        let mut canaries_are_well = self.of.limits.canary.is_zero();
        loop {
            if let Some(end) = self.stopped() {
                return end;
            }
            let Limits { batch_size, max_batches, max_messages, .. } = self.of.limits;
            let left = max_messages.map_or(u64::MAX, |most| most.saturating_sub(self.tally.decided()));
            if left == 0 || max_batches.is_some_and(|most| self.tally.batches >= most) {
                return End::Limit;
            }
            if self.has_met_all_that_were_named() && self.waiting.is_empty() {
                return End::Found;
            }
            if let Some(end) = self.too_many_aside() {
                return end;
            }
            if let Err(end) = self.until_all_are_well(sink).await {
                return end;
            }
            let size = if canaries_are_well { batch_size } else { batch_size.min(CANARIES) };
            let size = size.min(usize::try_from(left).unwrap_or(usize::MAX));
            let batch = match self.gather(size, sink).await {
                Ok(batch) => batch,
                // Nothing else is left, and that is because of what came back.
                Err(End::Emptied) => return self.bouncing().unwrap_or(End::Emptied),
                Err(end) => return end,
            };
            let sent_before = self.tally.resent;
            if let Err(why) = self.batch(batch, sink).await {
                return End::Sick { why };
            }
            sink.progress(&self.tally, self.about, "");
            if !canaries_are_well && self.tally.resent > sent_before {
                if let Err(end) = self.canaries(sink).await {
                    return end;
                }
                canaries_are_well = true;
            }
            if let Some(end) = self.bouncing() {
                return end;
            }
        }
    }

    /// `--message-id`: what else is in the queue need not be received.
    pub(super) fn has_met_all_that_were_named(&self) -> bool {
        !self.of.selection.message_ids.is_empty() && self.missing.is_empty()
    }

    fn bouncing(&self) -> Option<End> {
        self.watched.is_bouncing().map(|(came_back, of)| End::Bouncing { came_back, of })
    }

    pub(super) fn stopped(&self) -> Option<End> {
        match (self.of.paused.is_cancelled(), self.of.stop.is_cancelled()) {
            (true, _) => Some(End::Paused),
            (false, true) => Some(End::Interrupted),
            (false, false) => None,
        }
    }

    /// `false`: it was told to stop meanwhile.
    pub(super) async fn rest(&self, time: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.of.stop.cancelled() => false,
            () = sleep(time) => true,
        }
    }

    /// Judged, acted upon, written down, settled. The error ends the run; all of the batch is left then.
    async fn batch(&mut self, batch: Vec<Held>, sink: &mut dyn Sink) -> Result<(), String> {
        if self.tally.batches == 0
            && let Err(why) = self.of.audit.open().await
        {
            self.waiting.extend(batch);
            return Err(why);
        }
        let of = &self.of;
        let looks: Vec<BoxFuture<'_, Item>> = batch.into_iter().map(|held| judged(of, held).boxed()).collect();
        let mut items: Vec<Item> = futures_util::stream::iter(looks).buffered(TOGETHER).collect().await;
        self.act(&mut items, sink).await;
        self.tally.batches += 1;
        let written = self.of.audit.write(self.tally.batches, &lines(&self.of.audit, &items)).await;
        for item in items {
            let Item { lease, letter, did, .. } = item;
            let did = match &written {
                Ok(_) => did,
                Err(why) => Did::Left(match did {
                    Did::Resent(id) => format!("{why}; it was sent back all the same, as {id}"),
                    Did::Dropped | Did::Indexed | Did::Parked | Did::Archived(_) | Did::Left(_) => why.clone(),
                }),
            };
            let reason = self.tally.by_reason.entry(letter.reason().to_owned()).or_default();
            *reason.entry(did.name()).or_default() += 1;
            let (column, goes) = match &did {
                Did::Dropped => (&mut self.tally.dropped, true),
                Did::Indexed => (&mut self.tally.indexed, true),
                Did::Parked => (&mut self.tally.parked, true),
                Did::Resent(_) => (&mut self.tally.resent, true),
                Did::Archived(_) => (&mut self.tally.archived, true),
                Did::Left(why) => {
                    self.trouble.get_or_insert_with(|| format!("{}: {why}", letter.message.id));
                    (&mut self.tally.left, false)
                }
            };
            *column += 1;
            match goes {
                true => lease.settle(Judgement::without_work(Verdict::Judged(Outcome::Done))),
                // Kept in hand, so that it is not met again and again in this run.
                false => self.aside.push(lease),
            }
            if let Did::Resent(id) = did {
                self.watched.sent(letter, id);
            }
        }
        written.map(drop)
    }

    /// The first ones have a record, or the run ends.
    async fn canaries(&mut self, sink: &mut dyn Sink) -> Result<(), End> {
        let (mut began, mut shortest) = (Instant::now(), None);
        loop {
            let (look, watched) = (&self.of.look, &mut self.watched);
            let (recorded, open) = watched.progress(look).await;
            if open == 0 {
                return Ok(());
            }
            // What waited in the queue before them has its turn first: as long as that shrinks, somebody works.
            if let Ok(waiting) = self.waiting_in_main().await {
                if shortest.is_some_and(|shortest| waiting < shortest) {
                    began = Instant::now();
                }
                shortest = Some(shortest.map_or(waiting, |shortest: u64| shortest.min(waiting)));
            }
            if began.elapsed() >= self.of.limits.canary {
                let (sent, seconds) = (recorded + open, self.of.limits.canary.as_secs());
                return if recorded > 0 { Ok(()) } else { Err(End::Unanswered { sent, seconds }) };
            }
            sink.progress(&self.tally, self.about, &format!("waiting for the first {open} to be worked on"));
            if let Some(end) = self.stopped() {
                return Err(end);
            }
            // What comes back shows only to who receives. A poll waits for a seat, and here none becomes free.
            let Limits { batch_size, most_held, .. } = self.of.limits;
            let has_room = self.aside.len() + self.waiting.len() + CANARIES <= most_held && !self.is_full();
            if has_room && self.waiting.len() < batch_size.max(CANARIES) {
                // What it said is said again by the next batch.
                drop(self.take_in(CANARIES).await);
            }
            self.rest(CANARY_LOOKS).await;
        }
    }
}

async fn judged(of: &Drain, Held { lease, letter }: Held) -> Item {
    let known = of.look.at(&letter).await;
    let history = letter.history(of.limits.force, &of.audit.run_id, &of.source_queue);
    let action = decide(&known.works, history);
    Item { lease, letter, action, unindexed: known.unindexed, did: Did::Left(String::new()) }
}
