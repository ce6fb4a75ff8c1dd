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
use crate::lease::{Permit, Term};
use crate::message::{Message, ReceiptHandle};
use crate::outcome::{Account, Indexed, Judgement};
use crate::queue::Refusal;

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
    pub(super) tries: u32,
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
        Self { last, end, ready_at, tries: 0, alone: false, late: false, trouble }
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

pub(super) fn settled_line(held: &Held, end: End, account: Account) -> events::MessageSettled {
    let reports = &held.judgement.reports;
    events::MessageSettled {
        message_id: held.message.id.0.clone(),
        receive_count: held.receive_count,
        outcome: account.outcome.as_str(),
        settlement: end.as_str(),
        reason: account.reason,
        detail: account.detail,
        work_ids: reports
            .iter()
            .filter_map(|report| report.work_id.as_ref())
            .map(|id| id.as_str().to_owned())
            .collect(),
        keys: reports.iter().map(|report| report.key.clone()).filter(|key| !key.is_empty()).collect(),
        held_ms: u64::try_from(held.taken_on.elapsed().as_millis()).unwrap_or(u64::MAX),
        index: reports.iter().map(|report| report.indexed).max().unwrap_or(Indexed::None).as_str(),
        original_message_id: Origin::id_of(&held.message),
    }
}

/// What a call said of one receipt.
pub(super) enum Reply {
    Done,
    Refused(Refusal),
    Unknown(String),
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
