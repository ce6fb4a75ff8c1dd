//! `redrive parked`: what is parked is replayed now, until nothing is left.
//!
//! Promises the worker's own replay, under its lease: who else replays is waited for only until it is known whether he
//! lives. What waits for another try is waited for; a sick index or store is waited for ten minutes without progress.
//! A pause or a lost lease ends it at the next document, an interruption at once: what is done is done, and the same
//! command goes on.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Answer, count_all};
use crate::config::exit;
use crate::gate::Pauses;
use crate::index::replay::lease::{Holder, Lease, Taken};
use crate::index::replay::patience::Patience;
use crate::index::replay::sweep::{Halt, Sweep, Tally};
use crate::index::replay::{Replayer, told_blind};
use crate::retry::Backoff;
use crate::store::StoreError;

/// Between two looks at a lease that another holds.
const HELD_LOOKS: Duration = Duration::from_secs(2);
/// Between two looks at what was parked meanwhile, at most, while others wait for their next try.
const LOOKS: Duration = Duration::from_secs(30);
/// Between two tries while something is sick, or stuck.
const TRIES: Backoff = Backoff { base: Duration::from_secs(2), cap: Duration::from_secs(30) };
/// Without progress, while something is sick.
const SICK_FOR: Duration = Duration::from_secs(600);
/// Sweeps in a row that change nothing, where nothing waits and something is stuck.
const FRUITLESS: u32 = 4;

/// A replay that is asked for.
pub struct Now {
    /// The worker's own.
    pub replayer: Replayer,
    /// The pause of the fleet.
    pub pauses: Pauses,
    /// Ctrl-C, SIGTERM, a dropped terminal.
    pub stop: CancellationToken,
}

/// How it ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "ended", rename_all = "snake_case")]
pub enum End {
    /// Nothing is parked any more.
    Done,
    /// Some have trouble of their own, and stay.
    Stuck,
    /// Index or store were sick for ten minutes.
    Sick {
        /// What they said.
        why: String,
    },
    /// The fleet was paused meanwhile.
    Paused,
    /// Another took the lease, or it could not be kept.
    LeaseLost,
    /// Another replays.
    Refused {
        /// Who.
        by: String,
        /// For which namespace.
        holder_namespace: String,
        /// Since when, RFC 3339.
        since: String,
    },
    /// It was told to stop.
    Interrupted,
}

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct NowReport {
    /// Scope.
    pub namespace: String,
    /// How it ended.
    #[serde(flatten)]
    pub end: End,
    /// Reached the index.
    pub replayed: u64,
    /// Moved to `errored-index/`.
    pub errored: u64,
    /// Parked still; `None`: the store does not say.
    pub left: Option<u64>,
    /// What the first that was refused or stuck said.
    pub trouble: Option<String>,
}

impl Now {
    /// Replays. `holder`: told once while it is found out whether somebody else replays.
    pub async fn run(self, holder: &(dyn Fn(&Holder) + Sync)) -> Answer {
        let (mut lease, mut all) = (self.replayer.lease(), Tally::default());
        let end = tokio::select! {
            biased;
            () = self.stop.cancelled() => End::Interrupted,
            end = async {
                match self.take(&mut lease, holder).await {
                    Ok(()) => {
                        let lost = lease.lost();
                        lease.under(self.until_done(&lost, &mut all)).await
                    }
                    Err(end) => end,
                }
            } => end,
        };
        lease.release().await;
        let left = match end {
            End::Done => Some(0),
            End::Stuck | End::Sick { .. } | End::Paused | End::LeaseLost | End::Refused { .. } | End::Interrupted => {
                self.left().await.ok()
            }
        };
        let code = match &end {
            End::Done if all.errored == 0 => exit::EX_OK,
            End::Done | End::Stuck | End::Sick { .. } | End::Paused | End::LeaseLost => exit::EX_PARTIAL,
            End::Refused { .. } => exit::EX_REFUSED,
            End::Interrupted => exit::EX_INTERRUPTED,
        };
        let namespace = self.replayer.namespace.as_str().to_owned();
        let (replayed, errored, trouble) = (all.indexed, all.errored, all.trouble);
        let report = NowReport { namespace, end, replayed, errored, left, trouble };
        let text = report.text();
        Answer::of(&report, text, code)
    }

    async fn left(&self) -> Result<u64, StoreError> {
        let late = |_elapsed| StoreError::Unavailable("no answer in time".into());
        let markers = self.replayer.markers();
        tokio::time::timeout(Duration::from_secs(30), count_all(&markers)).await.map_err(late)?
    }

    /// A holder that writes meanwhile lives; one that does not is dead after the lease's 60 s.
    async fn take(&self, lease: &mut Lease, told: &(dyn Fn(&Holder) + Sync)) -> Result<(), End> {
        let mut first: Option<Holder> = None;
        loop {
            match lease.take().await {
                Taken::Ours => return Ok(()),
                Taken::Without => {
                    told_blind();
                    return Ok(());
                }
                Taken::OutOfReach(_) => {}
                Taken::Held(holder) => match &first {
                    Some(seen) if seen.etag != holder.etag => {
                        let Holder { by, namespace: holder_namespace, since, .. } = holder;
                        return Err(End::Refused { by, holder_namespace, since });
                    }
                    Some(_) => {}
                    None => {
                        told(&holder);
                        first = Some(holder);
                    }
                },
            }
            sleep(HELD_LOOKS).await;
        }
    }

    async fn until_done(&self, lost: &CancellationToken, all: &mut Tally) -> End {
        let mut patience = Patience::new(self.replayer.budget);
        let (mut turn, mut fruitless, mut progress) = (0_usize, 0_u32, Instant::now());
        loop {
            let go_on = || !lost.is_cancelled() && !self.pauses.on();
            let before = (all.indexed, all.errored);
            (all.stuck, all.waiting) = (0, 0);
            let halt = Sweep { of: &self.replayer, go_on: &go_on, turn }.over_all(&mut patience, all).await;
            turn = turn.wrapping_add(1);
            let stirred = before != (all.indexed, all.errored);
            if stirred {
                (fruitless, progress) = (0, Instant::now());
            } else {
                fruitless = fruitless.saturating_add(1);
            }
            let pause = TRIES.wait(fruitless, &self.replayer.jitter);
            match halt {
                Halt::Through if stirred => {} // what was parked meanwhile
                // Not much longer than a worker would: who holds the lease replays for all.
                Halt::Through if all.waiting > 0 => {
                    let (now, due) = (Instant::now(), patience.next_due().unwrap_or_else(Instant::now));
                    sleep_until(due.clamp(now + Duration::from_millis(100), now + LOOKS)).await;
                }
                Halt::Through if all.stuck == 0 => return End::Done,
                Halt::Through if fruitless >= FRUITLESS => return End::Stuck,
                // Those that stand apart go one by one, when they are due.
                Halt::Through => {
                    let due = patience.next_due().unwrap_or_else(Instant::now);
                    sleep_until(due.max(Instant::now() + pause)).await;
                }
                Halt::ToldTo | Halt::Behind if self.pauses.on() => return End::Paused,
                Halt::ToldTo | Halt::Behind => return End::LeaseLost,
                Halt::NoRoom | Halt::Sick(_) if progress.elapsed() < SICK_FOR => sleep(pause).await,
                Halt::NoRoom => {
                    return End::Sick { why: all.trouble.clone().unwrap_or_else(|| "the index takes nothing".into()) };
                }
                Halt::Sick(why) => return End::Sick { why },
            }
        }
    }
}

impl NowReport {
    fn text(&self) -> String {
        let Self { namespace, end, replayed, errored, .. } = self;
        let mut page = format!("{replayed} replayed, {errored} errored");
        if let Some(left) = self.left {
            page += &format!(", {left} left");
        }
        page += &format!(" (namespace {namespace})\n");
        page += &match end {
            End::Done => String::new(),
            End::Stuck => "what is left cannot be replayed or moved\n".into(),
            End::Sick { why } => format!("given up after 10 minutes without progress: {why}\n"),
            End::Paused => "paused meanwhile; to go on: redrive resume, then redrive parked\n".into(),
            End::LeaseLost => {
                "another replayer took over, or S3 could not be reached; to go on: redrive parked\n".into()
            }
            End::Refused { by, holder_namespace, since } => {
                format!("refused: {by} replays (namespace {holder_namespace}) since {since}; it goes on by itself\n")
            }
            End::Interrupted => "interrupted; what is done is done; to go on: redrive parked\n".into(),
        };
        if let Some(trouble) = &self.trouble {
            page += &format!("the first trouble: {trouble}\n");
        }
        if *errored > 0 {
            page += "what errored, and why: redrive parked --errored\n";
        }
        page
    }
}
