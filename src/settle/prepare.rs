//! What must be durable before the last call: the attempts record (a `begun` mark taken out of it), the dead letter.
//!
//! Promises P3 (an acknowledged DLQ send comes before any delete) and P7 (no DLQ send without a live lease: it is the
//! one side effect that nothing fences). Heartbeats go on meanwhile. Knows no batches and no table of receipts.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::clear::{Patience, clear};
use super::held::CAPPED;
use super::{Counted, Desk};
use crate::attempts::{Attempts, Seen, Trouble};
use crate::books::End;
use crate::crash_loop::Owed;
use crate::dead_letter::{NotSent, Origin};
use crate::events::{self, Event};
use crate::lease::Term;
use crate::message::Message;
use crate::outcome::{
    Account, DeadLetterReason, Dependency, Judgement, Outcome, Plan, RetryReason, Settlement, Verdict,
};
use crate::retry::Backoff;

/// One send.
const STEP_LIMIT: Duration = Duration::from_secs(10);
const TOO_SLOW: &str = "no answer within 10 s";
/// A message whose dead letter could not be sent comes back late: the DLQ is sick, not the message.
const AFTER_FAILED_SEND: Backoff = Backoff { base: Duration::from_secs(600), cap: Duration::from_secs(600) };

/// What is left to do.
pub(super) enum Prepared {
    Delete { end: End, account: Account },
    Return { delay: Duration, account: Account },
    Lost { account: Account },
}

/// A receipt whose verdict needs preparation.
pub(super) struct Case {
    pub(super) message: Arc<Message>,
    pub(super) receive_count: u32,
    pub(super) judgement: Judgement,
    pub(super) term: Arc<Term>,
    pub(super) capped: bool,
    pub(super) owed: Option<Box<Owed>>,
    pub(super) closing: CancellationToken,
}

pub(super) async fn prepare(desk: Arc<Desk>, counted: Arc<Counted>, case: Case) -> Prepared {
    let Case { message, receive_count, judgement, term, capped, owed, closing } = case;
    let seen = match counted.attempts.read(&message.id, receive_count).await {
        Ok(seen) => Some(seen),
        Err(Trouble { detail, of_this_record }) => {
            not_recorded(&message, detail);
            // Out of reach for good (denied, archived): the receive count stands in, or the message would live for ever.
            of_this_record.then(|| Seen::counted(receive_count))
        }
    };
    let failed_before = seen.as_ref().map_or(0, |seen| seen.attempts.failed);
    let plan = counted.rules().plan(&judgement.verdict, failed_before, receive_count, &desk.jitter);
    let mut plan = plan.sparing_the_undone(&judgement.reports);
    if capped {
        plan.settlement = Settlement::DeadLetter(DeadLetterReason::Deadline, CAPPED.to_owned());
        plan.account.reason = Some(DeadLetterReason::Deadline.as_str());
        plan.account.detail = Some(CAPPED.to_owned());
    }
    let Plan { settlement, charged, account } = plan;
    let (attempts, written) = match (charged, seen) {
        (false, Some(seen)) => (Some(seen.attempts), false),
        (true, Some(seen)) => charge(&counted, &message, seen, &account).await,
        (_, None) => (None, false),
    };
    // A charge has taken the mark out in the same write.
    if let Some(owed) = owed.filter(|_| !written) {
        let patience = match settlement {
            Settlement::Return(_) => Patience::Hold,
            Settlement::Delete | Settlement::DeadLetter(..) => Patience::Briefly,
        };
        clear(&desk, &counted, &message, owed, patience, &term, &closing).await;
    }
    match settlement {
        Settlement::Delete => Prepared::Delete { account, end: End::Deleted },
        // Without a written attempt the return is free: the store is sick, and that is not the message's fault (P6).
        Settlement::Return(_) if charged && attempts.is_none() => {
            let sick = RetryReason::Systemic(Dependency::Results, "the attempt could not be recorded".into());
            let verdict = Verdict::Judged(Outcome::Retry(sick));
            let free = counted.rules().plan(&verdict, failed_before, receive_count, &desk.jitter);
            match free.settlement {
                Settlement::Return(delay) => Prepared::Return { delay, account },
                Settlement::Delete | Settlement::DeadLetter(..) => Prepared::Return { delay: Duration::ZERO, account },
            }
        }
        Settlement::Return(delay) => Prepared::Return { delay, account },
        Settlement::DeadLetter(why, detail) => {
            let mut attempts = attempts.unwrap_or_default();
            if why == DeadLetterReason::CrashLoop {
                attempts.count_crashes(&counted.attempts.run);
            }
            // A capped lease has ended for the work only: until its deadline SQS holds the message for us.
            let ours = || if capped { term.is_in_time() } else { term.is_live() };
            let letter = counted.dead_letters.send(&message, why, &detail, &attempts, &judgement, &ours);
            match tokio::time::timeout(STEP_LIMIT, letter).await.unwrap_or(Err(NotSent::Failed(TOO_SLOW.to_owned()))) {
                Ok(()) => Prepared::Delete { account, end: End::DeadLettered },
                Err(NotSent::NotOurs) => Prepared::Lost { account },
                Err(NotSent::Failed(detail)) => {
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

/// The record to tell of, and whether it was written.
async fn charge(counted: &Counted, message: &Message, seen: Seen, account: &Account) -> (Option<Attempts>, bool) {
    let (reason, detail) = (account.reason.unwrap_or_default(), account.detail.as_deref().unwrap_or_default());
    let before = seen.attempts.clone();
    match counted.attempts.charge(message, seen, &format!("{reason}: {detail}")).await {
        Ok(attempts) => (Some(attempts), true),
        Err(Trouble { detail, of_this_record }) => {
            not_recorded(message, detail);
            (of_this_record.then_some(before), false)
        }
    }
}

fn not_recorded(message: &Message, detail: String) {
    let (message_id, original_message_id) = (message.id.0.clone(), Origin::id_of(message));
    events::AttemptNotRecorded { message_id, detail, original_message_id }.emit();
}
