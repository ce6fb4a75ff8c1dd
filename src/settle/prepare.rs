//! What must be durable before the last call: the attempts record, the dead letter.
//!
//! Promises P3 (an acknowledged DLQ send comes before any delete) and P7 (no DLQ send without a live lease: it is the
//! one side effect that nothing fences). Heartbeats go on meanwhile. Knows no batches and no table of receipts.

use std::sync::Arc;
use std::time::Duration;

use super::Desk;
use super::held::CAPPED;
use crate::attempts::{Attempts, Seen};
use crate::books::End;
use crate::dead_letter::Origin;
use crate::events::{self, Event};
use crate::lease::Term;
use crate::message::Message;
use crate::outcome::{
    Account, DeadLetterReason, Dependency, Judgement, Outcome, Plan, RetryReason, Settlement, Verdict,
};
use crate::retry::Backoff;

/// One read and one write of a small object, or one send.
const STEP_LIMIT: Duration = Duration::from_secs(10);
/// A message whose dead letter could not be sent comes back late: the DLQ is sick, not the message.
const AFTER_FAILED_SEND: Backoff = Backoff { base: Duration::from_secs(600), cap: Duration::from_secs(600) };

/// What is left to do.
pub(super) enum Prepared {
    Delete { end: End, account: Account },
    Return { delay: Duration, account: Account },
    Lost { account: Account },
}

pub(super) async fn prepare(
    desk: Arc<Desk>,
    message: Arc<Message>,
    receive_count: u32,
    judgement: Judgement,
    term: Arc<Term>,
    capped: bool,
) -> Prepared {
    let seen = match limited(desk.attempts.read(&message.id, receive_count)).await {
        Ok(seen) => Some(seen),
        Err(detail) => {
            not_recorded(&message, detail);
            None
        }
    };
    let failed_before = seen.as_ref().map_or(0, |seen| seen.attempts.failed);
    let plan = desk.rules.plan(&judgement.verdict, failed_before, receive_count, &desk.jitter);
    let mut plan = plan.sparing_the_undone(&judgement.reports);
    if capped {
        plan.settlement = Settlement::DeadLetter(DeadLetterReason::Deadline, CAPPED.to_owned());
        plan.account.reason = Some(DeadLetterReason::Deadline.as_str());
        plan.account.detail = Some(CAPPED.to_owned());
    }
    let Plan { settlement, charged, account } = plan;
    let attempts = match (charged, seen) {
        (false, Some(seen)) => Some(seen.attempts),
        (true, Some(seen)) => charge(&desk, &message, seen, &account).await,
        (_, None) => None,
    };
    match settlement {
        Settlement::Delete => Prepared::Delete { account, end: End::Deleted },
        // Without a written attempt the return is free: the store is sick, and that is not the message's fault (P6).
        Settlement::Return(_) if charged && attempts.is_none() => {
            let sick = RetryReason::Systemic(Dependency::Results, "the attempt could not be recorded".into());
            let verdict = Verdict::Judged(Outcome::Retry(sick));
            let free = desk.rules.plan(&verdict, failed_before, receive_count, &desk.jitter);
            match free.settlement {
                Settlement::Return(delay) => Prepared::Return { delay, account },
                Settlement::Delete | Settlement::DeadLetter(..) => Prepared::Return { delay: Duration::ZERO, account },
            }
        }
        Settlement::Return(delay) => Prepared::Return { delay, account },
        Settlement::DeadLetter(why, detail) => {
            // A capped lease is ended for the work only; SQS still holds the message for us for a minute.
            if !capped && !term.is_live() {
                return Prepared::Lost { account };
            }
            let attempts = attempts.unwrap_or_default();
            let letter = desk.dead_letters.send(&message, why, &detail, &attempts, &judgement.reports);
            match limited(letter).await {
                Ok(()) => Prepared::Delete { account, end: End::DeadLettered },
                Err(detail) => {
                    let (message_id, original_message_id) = (message.id.0.clone(), Origin::id_of(&message));
                    let failed =
                        events::DeadLetterFailed { message_id, reason: why.as_str(), detail, original_message_id };
                    failed.emit();
                    let delay = AFTER_FAILED_SEND.wait(0, &desk.jitter);
                    Prepared::Return { delay, account }
                }
            }
        }
    }
}

async fn charge(desk: &Desk, message: &Message, seen: Seen, account: &Account) -> Option<Attempts> {
    let (reason, detail) = (account.reason.unwrap_or_default(), account.detail.as_deref().unwrap_or_default());
    match limited(desk.attempts.charge(&message.id, seen, &format!("{reason}: {detail}"))).await {
        Ok(attempts) => Some(attempts),
        Err(detail) => {
            not_recorded(message, detail);
            None
        }
    }
}

fn not_recorded(message: &Message, detail: String) {
    let (message_id, original_message_id) = (message.id.0.clone(), Origin::id_of(message));
    events::AttemptNotRecorded { message_id, detail, original_message_id }.emit();
}

async fn limited<T, E: std::fmt::Display>(step: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(STEP_LIMIT, step).await {
        Ok(ended) => ended.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {STEP_LIMIT:?}")),
    }
}
