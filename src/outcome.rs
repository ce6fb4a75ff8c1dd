//! What processing says of a message, and the one table that turns it into a settlement.
//!
//! Promises P2 (no verdict means return), P5 (a message failure ends within its budget) and P6 (a systemic failure
//! is never charged). Pure: knows no queue, no clock, no store. No catch-all arm: a new outcome must be decided here.

use std::time::Duration;

use crate::config::OnMissingObject as OnMissing;
use crate::message::WorkId;
use crate::retry::{Backoff, Jitter};

mod reasons;

pub use reasons::{DeadLetterReason, Dependency, RejectReason, RetryReason, SkipReason};

/// What processing says of a change, and, as the worst of its changes, of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Durable, and indexed or parked.
    Done,
    /// A newer state is durable, or the removal that explains the absence.
    Superseded,
    /// Nothing to do, for a reason.
    Skip(SkipReason),
    /// A later delivery may succeed.
    Retry(RetryReason),
    /// No later delivery can.
    Reject(RejectReason),
}

impl Outcome {
    /// Retry(systemic) > Retry > Reject > Done > Superseded > Skip: what is done stays done, the worst wins.
    fn severity(&self) -> u8 {
        match self {
            Outcome::Retry(reason) if reason.is_systemic() => 5,
            Outcome::Retry(_) => 4,
            Outcome::Reject(_) => 3,
            Outcome::Done => 2,
            Outcome::Superseded => 1,
            Outcome::Skip(_) => 0,
        }
    }

    /// The worse of two; of equals the first.
    pub fn worse(self, other: Self) -> Self {
        if other.severity() > self.severity() { other } else { self }
    }
}

/// What became of the document of a change, or, as the worst, of a message's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Indexed {
    /// No document was offered.
    None,
    /// In the index.
    Indexed,
    /// Parked in S3.
    Parked,
}

impl Indexed {
    /// Name in log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Indexed::None => "none",
            Indexed::Indexed => "indexed",
            Indexed::Parked => "parked",
        }
    }
}

/// What became of one change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangeReport {
    /// Id of the work; none for a record that could not be read or was skipped.
    pub work_id: Option<WorkId>,
    /// The key, decoded; empty for a record that could not be read.
    pub key: String,
    /// Its outcome.
    pub outcome: Outcome,
    /// Its document.
    pub indexed: Indexed,
}

/// All that is known of a message when its work has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// How the work ended.
    pub verdict: Verdict,
    /// The changes that were judged before the end.
    pub reports: Vec<ChangeReport>,
    /// Changes that were parsed but have no outcome: the work ended before.
    pub abandoned: usize,
    /// The one of them that was in work.
    pub cut_short: Option<InWork>,
}

/// A change that was begun and has no outcome (yet).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InWork {
    /// Id of the work.
    pub work_id: WorkId,
    /// The key, decoded.
    pub key: String,
}

impl Judgement {
    /// The guard's verdict before anybody spoke.
    pub fn none() -> Self {
        Self::without_work(Verdict::Cancelled)
    }

    /// Of a message whose work was not begun.
    pub fn without_work(verdict: Verdict) -> Self {
        Self { verdict, reports: Vec::new(), abandoned: 0, cut_short: None }
    }
}

/// How the work on a message ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// With an outcome (the worst of its changes).
    Judged(Outcome),
    /// With a panic: a failed attempt.
    Panicked(String),
    /// Without a verdict: shutdown, cancellation, a lost lease.
    Cancelled,
}

impl Verdict {
    /// The work is durable *and* indexed or parked, or there was none to do: the receipt may be deleted even when
    /// its lease is gone.
    pub fn is_finished(&self) -> bool {
        match self {
            Verdict::Judged(Outcome::Done | Outcome::Superseded | Outcome::Skip(_)) => true,
            Verdict::Judged(Outcome::Retry(_) | Outcome::Reject(_)) | Verdict::Panicked(_) | Verdict::Cancelled => {
                false
            }
        }
    }
}

/// What happens to the receipt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Settlement {
    /// Delete it.
    Delete,
    /// Send to the DLQ, then delete.
    DeadLetter(DeadLetterReason, String),
    /// Make it visible after a delay; zero is at once.
    Return(Duration),
}

/// What the log line and the books say of a message's end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    /// `outcome`.
    pub outcome: OutcomeName,
    /// `reason`: a stable name, that of the dead letter where there is one.
    pub reason: Option<&'static str>,
    /// `detail`: a sentence.
    pub detail: Option<String>,
}

impl Account {
    /// With a reason and nothing more to say, or without one.
    pub fn plain(outcome: OutcomeName, reason: Option<&'static str>) -> Self {
        Self { outcome, reason, detail: None }
    }

    fn told(outcome: OutcomeName, reason: &'static str, detail: &str) -> Self {
        Self { outcome, reason: Some(reason), detail: Some(detail.to_owned()) }
    }
}

/// A line of the table: the settlement, and whether an attempt is written down first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// What happens to the receipt.
    pub settlement: Settlement,
    /// The failure counts against the message's budget.
    pub charged: bool,
    /// What is told of it.
    pub account: Account,
}

/// `outcome` in log lines (design §8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutcomeName {
    /// `done`
    Done,
    /// `superseded`
    Superseded,
    /// `skipped`
    Skipped,
    /// `retried`
    Retried,
    /// `rejected`
    Rejected,
    /// `panicked`
    Panicked,
    /// `cancelled`
    Cancelled,
}

impl OutcomeName {
    /// The name that dashboards hang on.
    pub fn as_str(self) -> &'static str {
        match self {
            OutcomeName::Done => "done",
            OutcomeName::Superseded => "superseded",
            OutcomeName::Skipped => "skipped",
            OutcomeName::Retried => "retried",
            OutcomeName::Rejected => "rejected",
            OutcomeName::Panicked => "panicked",
            OutcomeName::Cancelled => "cancelled",
        }
    }
}

/// The rules a message is judged by: configuration and queue, the same for all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// `MAX_ATTEMPTS`, at least 1.
    pub max_attempts: u32,
    /// `RETRY_BASE_SECONDS`, `RETRY_MAX_SECONDS`.
    pub backoff: Backoff,
    /// `ON_MISSING_OBJECT`.
    pub on_missing: OnMissing,
    /// The queue's `maxReceiveCount`: SQS dead-letters without a reason on the receive after it.
    pub max_receive_count: Option<u32>,
}

/// Systemic failures come back after 30–60 s, doubling with the receive count to 300 s (design §4).
const SYSTEMIC_BACKOFF: Backoff = Backoff { base: Duration::from_secs(60), cap: Duration::from_secs(300) };

impl Rules {
    /// May the message fail once more and still come back to us? Our own budget, and the queue's: at its
    /// `maxReceiveCount` the next receive would dead-letter it without a reason.
    fn attempts_left(&self, failed_before: u32, receive_count: u32) -> bool {
        failed_before.saturating_add(1) < self.max_attempts
            && self.max_receive_count.is_none_or(|limit| receive_count < limit)
    }

    /// The table. `failed_before`: attempts already recorded against the message.
    pub fn plan(&self, verdict: &Verdict, failed_before: u32, receive_count: u32, jitter: &Jitter) -> Plan {
        match verdict {
            Verdict::Judged(Outcome::Done) => Plan::delete(OutcomeName::Done, None),
            Verdict::Judged(Outcome::Superseded) => Plan::delete(OutcomeName::Superseded, None),
            Verdict::Judged(Outcome::Skip(reason)) => Plan::delete(OutcomeName::Skipped, Some(reason.as_str())),
            Verdict::Judged(Outcome::Retry(RetryReason::Systemic(dependency, detail))) => Plan {
                settlement: Settlement::Return(SYSTEMIC_BACKOFF.wait(receive_count.saturating_sub(1), jitter)),
                charged: false,
                account: Account::told(OutcomeName::Retried, "systemic", &format!("{}: {detail}", dependency.as_str())),
            },
            Verdict::Judged(Outcome::Retry(reason)) => {
                self.after_failure(reason, OutcomeName::Retried, failed_before, receive_count, jitter)
            }
            Verdict::Judged(Outcome::Reject(reason)) => {
                let (name, detail) = reason.describe();
                Plan {
                    settlement: Settlement::DeadLetter(name, detail.to_owned()),
                    charged: false,
                    account: Account::told(OutcomeName::Rejected, name.as_str(), detail),
                }
            }
            Verdict::Panicked(detail) => {
                let reason = RetryReason::Panicked(detail.clone());
                self.after_failure(&reason, OutcomeName::Panicked, failed_before, receive_count, jitter)
            }
            Verdict::Cancelled => Plan {
                settlement: Settlement::Return(Duration::ZERO),
                charged: false,
                account: Account::plain(OutcomeName::Cancelled, None),
            },
        }
    }

    fn after_failure(
        &self,
        reason: &RetryReason,
        outcome: OutcomeName,
        failed_before: u32,
        receive_count: u32,
        jitter: &Jitter,
    ) -> Plan {
        let (name, detail) = reason.describe();
        if self.attempts_left(failed_before, receive_count) {
            let delay = self.backoff.wait(failed_before, jitter);
            let account = Account::told(outcome, name, detail);
            return Plan { settlement: Settlement::Return(delay), charged: true, account };
        }
        match (reason, self.on_missing) {
            (RetryReason::SourceMissing, OnMissing::Drop) => {
                return Plan::delete(OutcomeName::Skipped, Some(SkipReason::SourceMissing.as_str()));
            }
            (_, OnMissing::Drop | OnMissing::DeadLetter) => {}
        }
        let (last_word, detail) = reason.last_word();
        let account = Account::told(outcome, last_word.as_str(), &detail);
        Plan { settlement: Settlement::DeadLetter(last_word, detail), charged: true, account }
    }
}

impl Plan {
    /// The table of who charges nothing and dead-letters nothing: what is not finished is returned at once.
    pub fn without_charge(verdict: &Verdict) -> Self {
        let returned = |account| Self { settlement: Settlement::Return(Duration::ZERO), charged: false, account };
        match verdict {
            Verdict::Judged(Outcome::Done) => Self::delete(OutcomeName::Done, None),
            Verdict::Judged(Outcome::Superseded) => Self::delete(OutcomeName::Superseded, None),
            Verdict::Judged(Outcome::Skip(reason)) => Self::delete(OutcomeName::Skipped, Some(reason.as_str())),
            Verdict::Judged(Outcome::Retry(reason)) => {
                let (name, detail) = reason.describe();
                returned(Account::told(OutcomeName::Retried, name, detail))
            }
            Verdict::Judged(Outcome::Reject(reason)) => {
                let (name, detail) = reason.describe();
                returned(Account::told(OutcomeName::Rejected, name.as_str(), detail))
            }
            Verdict::Panicked(detail) => returned(Account::told(OutcomeName::Panicked, "panicked", detail)),
            Verdict::Cancelled => returned(Account::plain(OutcomeName::Cancelled, None)),
        }
    }

    /// A message may only be dropped for a missing source when nothing else in it is left undone: another change that
    /// was rejected or failed takes the whole message to the dead-letter queue (P3).
    pub fn sparing_the_undone(self, reports: &[ChangeReport]) -> Self {
        match self.settlement {
            Settlement::Return(_) | Settlement::DeadLetter(..) => self,
            Settlement::Delete => {
                let undone = reports.iter().find_map(|report| match &report.outcome {
                    Outcome::Reject(reason) => {
                        let (name, detail) = reason.describe();
                        Some((name, detail.to_owned(), OutcomeName::Rejected))
                    }
                    Outcome::Retry(RetryReason::SourceMissing) => None,
                    Outcome::Retry(reason) => {
                        let (name, detail) = reason.last_word();
                        Some((name, detail, OutcomeName::Retried))
                    }
                    Outcome::Done | Outcome::Superseded | Outcome::Skip(_) => None,
                });
                let Some((name, detail, outcome)) = undone else { return self };
                let account = Account::told(outcome, name.as_str(), &detail);
                Self { settlement: Settlement::DeadLetter(name, detail), charged: self.charged, account }
            }
        }
    }

    fn delete(outcome: OutcomeName, reason: Option<&'static str>) -> Self {
        Self { settlement: Settlement::Delete, charged: false, account: Account::plain(outcome, reason) }
    }
}

#[cfg(test)]
#[path = "outcome/tests.rs"]
mod tests;
