//! One receipt in the settler's hands: its phase, its last call, its line.
//!
//! Plain data and what can be read off it; the task in [`super`] moves it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Replies;
use crate::books::{End, ReceiptNumber};
use crate::dead_letter::Origin;
use crate::events::{self, Event as _};
use crate::heartbeat::Span;
use crate::lease::{InHand, Permit, Term};
use crate::message::{Message, ReceiptHandle};
use crate::outcome::{Account, ChangeReport, Indexed, Judgement, Outcome};
use crate::queue::Refusal;

/// Tries of a delete that fail before the log says so.
const TOLD_AT_TRY: u32 = 5;

/// What SQS is asked for at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Last {
    Delete,
    Return(Duration),
}

/// A receipt whose fate is decided.
pub(super) struct Final {
    pub(super) last: Last,
    pub(super) end: End,
    pub(super) ready_at: Instant,
    pub(super) decided_at: Instant,
    pub(super) tries: u32,
    /// The log has said that it fails.
    pub(super) told: bool,
    /// Refused in a batch: goes alone from now on.
    pub(super) alone: bool,
    /// The lease is over but the work is finished: one delete, whatever the time.
    pub(super) late: bool,
    /// What the last try said; for the line that nothing was acknowledged.
    pub(super) trouble: String,
}

impl Final {
    pub(super) fn new(last: Last, end: End, ready_at: Instant) -> Self {
        let trouble = "not acknowledged by the end of the lease".to_owned();
        Self { last, end, ready_at, decided_at: ready_at, tries: 0, told: false, alone: false, late: false, trouble }
    }

    /// Whether the log should say, now that a try has failed, that this delete does not get through: it may go on for
    /// hours, under its lease. By tries where they fail at once, by time where each of them hangs.
    pub(super) fn is_worth_telling(&self, now: Instant, visibility: Duration) -> bool {
        let long = self.tries >= TOLD_AT_TRY || now >= self.decided_at + visibility / 2;
        self.last == Last::Delete && !self.told && long
    }
}

pub(super) enum Phase {
    /// The guard's scope is open.
    Working,
    /// Attempts are read and written, a dead letter is sent.
    Preparing,
    /// Only SQS's answer is missing.
    Final(Final),
}

/// A receipt in the settler's hands.
pub(super) struct Held {
    pub(super) receipt: ReceiptNumber,
    pub(super) message: Arc<Message>,
    pub(super) handle: ReceiptHandle,
    pub(super) receive_count: u32,
    pub(super) taken_on: Instant,
    pub(super) span: Span,
    pub(super) term: Arc<Term>,
    pub(super) busy: bool,
    pub(super) phase: Phase,
    pub(super) judgement: Judgement,
    pub(super) account: Account,
    pub(super) permit: Option<Permit>,
}

/// Twelve hours are over: the work cannot be finished within any lease (design §4).
pub(super) const CAPPED: &str = "held for SQS's 12 hours";

pub(super) fn end_term(held: &mut Held, why: &'static str) {
    held.term.end(why);
    events::LeaseLost {
        message_id: held.message.id.0.clone(),
        detail: why.to_owned(),
        original_message_id: Origin::id_of(&held.message),
    }
    .emit();
}

/// For who looks: the oldest, at most so many.
pub(super) fn in_hand<'a>(held: impl Iterator<Item = &'a Held>, most: usize) -> Vec<InHand> {
    let mut oldest: Vec<&Held> = held.collect();
    oldest.sort_by_key(|held| held.taken_on);
    oldest.truncate(most);
    let seen = |held: &Held| InHand {
        message: Arc::clone(&held.message),
        receive_count: held.receive_count,
        held: held.taken_on.elapsed(),
        phase: match &held.phase {
            Phase::Working => "working",
            Phase::Preparing => "preparing",
            Phase::Final(Final { last: Last::Delete, .. }) => "deleting",
            Phase::Final(Final { last: Last::Return(_), .. }) => "returning",
        },
    };
    oldest.into_iter().map(seen).collect()
}

pub(super) fn settled_line(held: &Held, end: End, account: Account) -> events::MessageSettled {
    let Judgement { reports, cut_short, .. } = &held.judgement;
    let reported = reports.iter().filter_map(|report| report.work_id.as_ref());
    let keys = reports.iter().map(|report| &report.key).filter(|key| !key.is_empty());
    events::MessageSettled {
        message_id: held.message.id.0.clone(),
        receive_count: held.receive_count,
        outcome: account.outcome.as_str(),
        settlement: end.as_str(),
        reason: account.reason,
        detail: account.detail,
        work_ids: reported.chain(cut_short.iter().map(|cut| &cut.work_id)).map(|id| id.as_str().to_owned()).collect(),
        keys: keys.chain(cut_short.iter().map(|cut| &cut.key)).cloned().collect(),
        held_ms: u64::try_from(held.taken_on.elapsed().as_millis()).unwrap_or(u64::MAX),
        index: worst_index(reports).as_str(),
        original_message_id: Origin::id_of(&held.message),
    }
}

/// Indexed, parked, none: the worst of the changes that owe the index a document. A failed one has none.
fn worst_index(reports: &[ChangeReport]) -> Indexed {
    let owed = reports.iter().filter(|report| match report.outcome {
        Outcome::Done | Outcome::Retry(_) | Outcome::Reject(_) => true,
        Outcome::Superseded | Outcome::Skip(_) => false,
    });
    let badness = |indexed: &Indexed| match indexed {
        Indexed::Indexed => 0,
        Indexed::Parked => 1,
        Indexed::None => 2,
    };
    owed.map(|report| report.indexed).max_by_key(badness).unwrap_or(Indexed::None)
}

/// What a call said of one receipt.
pub(super) enum Reply {
    Done,
    Refused(Refusal),
    Unknown(String),
}

impl Reply {
    /// Why it was not done, where it may be done at another try.
    pub(super) fn passing_trouble(&self) -> Option<String> {
        match self {
            Reply::Done => None,
            Reply::Refused(refusal) => (!refusal.is_final()).then(|| format!("SQS refused: {}", refusal.code)),
            Reply::Unknown(trouble) => Some(trouble.clone()),
        }
    }
}

/// A batch reply read entry by entry: what is not there was not acknowledged.
pub(super) fn entry(replies: &Replies, position: usize) -> Reply {
    match replies {
        Err(error) => Reply::Unknown(error.to_string()),
        Ok(replies) => match replies.get(position) {
            Some(Ok(())) => Reply::Done,
            Some(Err(refusal)) => Reply::Refused(refusal.clone()),
            None => Reply::Unknown("no reply for this entry".into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{RejectReason, SkipReason};

    #[test]
    fn index_in_the_line_is_the_worst_of_the_changes_that_owe_a_document() {
        let report = |outcome, indexed| ChangeReport { work_id: None, key: "k".into(), outcome, indexed };
        let indexed = || report(Outcome::Done, Indexed::Indexed);
        let parked = || report(Outcome::Done, Indexed::Parked);
        let failed = || report(Outcome::Reject(RejectReason::TooLarge("x".into())), Indexed::None);
        let skipped = || report(Outcome::Skip(SkipReason::DirectoryMarker), Indexed::None);
        for (reports, expected) in [
            (vec![], Indexed::None),
            (vec![skipped()], Indexed::None),
            (vec![indexed(), skipped()], Indexed::Indexed),
            (vec![indexed(), parked(), indexed()], Indexed::Parked),
            (vec![parked(), failed(), indexed()], Indexed::None),
        ] {
            assert_eq!(worst_index(&reports), expected, "{reports:?}");
        }
    }
}
