//! What a drain would do, before it does anything.
//!
//! Promises no receive unless a sample was asked for, and no write at all: what a sample takes is returned untouched. A
//! sample is what it is: shares of it are shown as shares, and the time that is left is that of the letters in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::clock::WallClock;
use crate::config::TenantFrom;
use crate::queue::{QueueError, QueueFacts};
use crate::settle::SettlerBroken;
use crate::store::{Store, StoreError};

use super::decide::{Action, decide};
use super::drain::TOGETHER;
use super::expiry::{Expiry, time};
use super::hold::{Hold, bytes};
use super::letter::Letter;
use super::look::Look;
use super::select::Selection;

/// Empty rounds after which there is nothing to sample.
const EMPTY_ROUNDS: u32 = 2;
/// Bytes of a sample, at most; one round of polls may go beyond. It then is of fewer letters, and says of how many.
const MOST_BYTES: usize = 256 << 20;
/// Objects counted per prefix, at most.
const COUNTED: usize = 10_000;

/// A plan to be made.
pub struct Plan {
    /// Who is asked about work.
    pub look: Look,
    /// Which letters.
    pub selection: Selection,
    /// `TENANT_FROM`.
    pub tenant_from: TenantFrom,
    /// Finished work too.
    pub force: bool,
    /// Letters a second.
    pub rate: u32,
    /// The main queue.
    pub main: QueueFacts,
    /// The DLQ.
    pub dlq: QueueFacts,
    /// The DLQ under leases, and how many letters to look at; `None` receives nothing.
    pub sample: Option<(Hold, usize)>,
    /// For ages.
    pub clock: Arc<dyn WallClock>,
    /// Ends it early.
    pub stop: CancellationToken,
}

/// What a sample showed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Sampled {
    /// Letters looked at.
    pub letters: u64,
    /// Of them, those that are not selected.
    pub unmatched: u64,
    /// By reason and by what would be done.
    pub by_reason: BTreeMap<String, BTreeMap<&'static str, u64>>,
    /// When SQS deletes the first of them.
    pub first_expires: Option<Expiry>,
}

/// A plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PlanReport {
    /// ARN of the main queue.
    pub main: String,
    /// ARN of the DLQ.
    pub dlq: String,
    /// Letters in the DLQ that can be received.
    pub visible: u64,
    /// Held by somebody.
    pub in_flight: u64,
    /// Waiting in the main queue.
    pub backlog: u64,
    /// How long the DLQ keeps a letter, seconds.
    pub retention_s: u64,
    /// All of them at this rate, seconds.
    pub seconds_at_rate: u64,
    /// Letters a second.
    pub rate: u32,
    /// Under `archive/dlq/`, up to 10,000.
    pub archived: usize,
    /// Under `attempts/`: messages with failed attempts within 15 days, up to 10,000.
    pub with_attempts: usize,
    /// Receives that were made.
    pub received: u64,
    /// What they showed.
    pub sample: Option<Sampled>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum NoPlan {
    /// The results bucket does not answer.
    #[error("the results bucket: {0}")]
    Store(#[from] StoreError),
    /// The settler broke.
    #[error("{0}")]
    Settler(#[from] SettlerBroken),
    /// Not one letter could be received for the sample.
    #[error("the dead-letter queue: {0}")]
    Queue(#[from] QueueError),
}

impl Plan {
    /// Makes it.
    pub async fn make(self) -> Result<PlanReport, NoPlan> {
        let Self { look, selection, tenant_from, force, rate, main, dlq, sample, clock, stop } = self;
        let archived = count(look.store.as_ref(), &look.results_bucket, "archive/dlq/").await?;
        let attempts = format!("attempts/{}/", look.namespace);
        let with_attempts = count(look.store.as_ref(), &look.results_bucket, &attempts).await?;
        let all = dlq.visible + dlq.in_flight + dlq.delayed;
        let mut report = PlanReport {
            main: main.arn,
            dlq: dlq.arn,
            visible: dlq.visible,
            in_flight: dlq.in_flight,
            backlog: main.visible + main.delayed,
            retention_s: dlq.retention.as_secs(),
            seconds_at_rate: all.div_ceil(u64::from(rate.max(1))),
            rate,
            archived,
            with_attempts,
            received: 0,
            sample: None,
        };
        let Some((hold, wanted)) = sample else { return Ok(report) };
        let (mut sampled, mut held, mut empty) = (Sampled::default(), Vec::new(), 0);
        let (mut first, mut trouble): (Option<u64>, Option<QueueError>) = (None, None);
        let main = report.main.clone();
        let mut weight = 0;
        while held.len() < wanted && weight < MOST_BYTES && empty < EMPTY_ROUNDS && !stop.is_cancelled() {
            let leases = match hold.receive(wanted - held.len()).await {
                Ok(leases) => leases,
                Err(error) => {
                    trouble = Some(error);
                    Vec::new()
                }
            };
            empty = if leases.is_empty() { empty + 1 } else { 0 };
            let looks: Vec<BoxFuture<'_, (Letter, Option<Action>)>> = leases
                .iter()
                .map(|lease| {
                    let letter = Letter::read(Arc::clone(lease.message()), &look.wanted);
                    let meant = selection.matches(&letter, &tenant_from, clock.unix_ms());
                    judged(&look, letter, meant, force, &main).boxed()
                })
                .collect();
            let looked: Vec<(Letter, Option<Action>)> =
                futures_util::stream::iter(looks).buffered(TOGETHER).collect().await;
            for (letter, action) in looked {
                sampled.letters += 1;
                let sent = letter.message.sent_at_ms;
                first = [first, sent].into_iter().flatten().min();
                match action {
                    None => sampled.unmatched += 1,
                    Some(action) => {
                        let row = sampled.by_reason.entry(letter.reason().to_owned()).or_default();
                        *row.entry(action.name()).or_default() += 1;
                    }
                }
            }
            weight += leases.iter().map(bytes).sum::<usize>();
            held.extend(leases);
        }
        report.received = hold.end(held).await?.received;
        if let Some(error) = trouble.filter(|_| sampled.letters == 0) {
            return Err(error.into());
        }
        sampled.first_expires = first.map(|sent| Expiry::of(sent, dlq.retention, clock.unix_ms()));
        report.sample = Some(sampled);
        Ok(report)
    }
}

/// As long as a run's id is.
const SOME_RUN: &str = "00000000-0000-0000-0000-000000000000";

async fn judged(look: &Look, letter: Letter, meant: bool, force: bool, main: &str) -> (Letter, Option<Action>) {
    let action = match meant {
        true => Some(decide(&look.at(&letter).await.works, letter.history(force, SOME_RUN, main))),
        false => None,
    };
    (letter, action)
}

async fn count(store: &dyn Store, bucket: &str, prefix: &str) -> Result<usize, StoreError> {
    let (mut number, mut place): (usize, Option<String>) = (0, None);
    loop {
        let page = store.list(bucket, prefix, place.as_deref(), 1_000).await?;
        number += page.keys.len();
        place = page.keys.last().cloned();
        if !page.more || place.is_none() || number >= COUNTED {
            return Ok(number);
        }
    }
}

impl Action {
    /// For a report.
    pub fn name(&self) -> &'static str {
        match self {
            Action::Drop => "drop",
            Action::Index => "index",
            Action::Resend => "resend",
            Action::Archive(_) => "archive",
            Action::Leave(_) => "leave",
        }
    }
}

impl PlanReport {
    /// For a person.
    pub fn text(&self) -> String {
        let Self { main, dlq, visible, in_flight, backlog, rate, received, .. } = self;
        let mut page = format!("from  {dlq}\nto    {main}\n");
        page += &format!("{visible} letters can be received, {in_flight} are held by somebody; ");
        page += &format!("{backlog} messages wait in the main queue\n");
        page += &format!("all of them at {rate} a second: {}\n", time(self.seconds_at_rate));
        page += &format!("the dead-letter queue keeps a letter for {}\n", time(self.retention_s));
        page += &format!(
            "{} in the archive (redrive archive list), {} messages with failed attempts on record\n",
            self.archived, self.with_attempts
        );
        let Some(sample) = &self.sample else {
            page += "nothing was received. What they are, and when the first expires: --sample 100 (receives 100, raises \
                     their receive counts, and puts them back)\n";
            return page;
        };
        page += &format!("a sample of {} ({received} receives, all put back):\n", sample.letters);
        for (reason, actions) in &sample.by_reason {
            for (action, number) in actions {
                let share = 100.0 * *number as f64 / sample.letters.max(1) as f64;
                page += &format!("  {number:>7} ({share:>5.1} %)  {reason}: {action}\n");
            }
        }
        if sample.unmatched > 0 {
            page += &format!("  {:>7}           not selected\n", sample.unmatched);
        }
        if let Some(first) = &sample.first_expires {
            page += &format!("SQS deletes the first of them {}\n", first.text());
        }
        page
    }
}
