//! The settler: one task that owns every receipt, extends the leases, and is alone in calling delete,
//! change-visibility and send-to-DLQ.
//!
//! Promises P1 (what a guard said is carried out once), P3 (it deletes on finished work or an acknowledged DLQ send),
//! P7 (at most one call per receipt is under way; the permit lives until SQS has answered) and P10 (only what SQS
//! acknowledged is booked). Runs on a thread of its own with its own SDK client, so that starved work loses no lease.
//! Knows no files, no records, no index.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::attempts::AttemptsLog;
use crate::books::{Books, End, ReceiptNumber};
use crate::clock::{LeaseClock, rfc3339};
use crate::config::OnMissingObject;
use crate::dead_letter::{DeadLetters, Origin};
use crate::events::{self, Event};
use crate::heartbeat::Span;
use crate::lease::{Admission, Lease, LeaseNumber, Settled, Term, Word};
use crate::limits::{Limits, Live};
use crate::message::Message;
use crate::outcome::{Account, Judgement, Outcome, OutcomeName, Plan, Rules, Settlement, Verdict};
use crate::queue::{EntryReply, Queue, QueueError};
use crate::retry::Jitter;
use crate::shutdown::SETTLE_MARGIN;
use crate::spawn::tied;

mod calls;
mod clear;
mod held;
mod prepare;

use held::{CAPPED, Final, Held, Last, Phase, Reply, end_term, entry, settled_line};
use prepare::{Case, Prepared, prepare};

/// A failed extension, delete or return is tried again after [½, 1) of this.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Longest single call to SQS; shorter for short leases, so that a failed one leaves time for another.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// Everything the settler works with; shared with its calls, which outlive no loop turn's borrow.
pub struct Desk {
    /// The queue that is received from, on the settler's own client.
    pub queue: Arc<dyn Queue>,
    /// What a failure costs its message.
    pub failures: Failures,
    /// The ledger.
    pub books: Arc<Books>,
    /// Spread of delays.
    pub jitter: Jitter,
    /// Lease length.
    pub visibility: Duration,
    /// What leases are counted by.
    pub lease_clock: LeaseClock,
}

/// What becomes of messages whose work is not finished.
pub enum Failures {
    /// A failure is counted, and a message whose budget is spent is dead-lettered: a worker's way.
    Counted(Arc<Counted>),
    /// They are returned at once, and nothing is held against them: the way of an operator's command, to which a message
    /// is not given to be judged.
    Returned,
}

/// What counting failures takes.
pub struct Counted {
    /// The DLQ and its envelopes.
    pub dead_letters: DeadLetters,
    /// Our own attempt budget.
    pub attempts: AttemptsLog,
    /// `MAX_ATTEMPTS` and the backoff.
    pub limits: Live,
    /// `ON_MISSING_OBJECT`.
    pub on_missing: OnMissingObject,
    /// The queue's.
    pub max_receive_count: Option<u32>,
}

impl Counted {
    /// The table's parameters, as they are now.
    fn rules(&self) -> Rules {
        let (Limits { max_attempts, backoff, .. }, on_missing) = (self.limits.now(), self.on_missing);
        Rules { max_attempts, backoff, on_missing, max_receive_count: self.max_receive_count }
    }
}

impl Desk {
    /// `failed_before`: attempts already recorded against the message.
    fn plan(&self, verdict: &Verdict, failed_before: u32, receive_count: u32) -> Plan {
        match &self.failures {
            Failures::Counted(counted) => counted.rules().plan(verdict, failed_before, receive_count, &self.jitter),
            Failures::Returned => Plan::without_charge(verdict),
        }
    }

    fn call_limit(&self) -> Duration {
        CALL_LIMIT.min(self.visibility / 4)
    }
}

/// The settler cannot go on: its own code panicked. The process must end (P1 holds by the leases' ends).
#[derive(Debug, thiserror::Error)]
#[error("the settler broke: {0}")]
pub struct SettlerBroken(String);

impl SettlerBroken {
    /// For a reason, as a sentence.
    pub fn because(why: &str) -> Self {
        Self(why.to_owned())
    }
}

/// A call that has come back.
enum Ended {
    Extended {
        numbers: Vec<(LeaseNumber, ReceiptNumber, Duration)>,
        sent: Instant,
        replies: Replies,
    },
    Finished {
        numbers: Vec<LeaseNumber>,
        replies: Replies,
    },
    /// The mark is cleared, or given up.
    Cleared(LeaseNumber),
    Prepared(LeaseNumber, Prepared),
}

type Replies = Result<Vec<EntryReply>, QueueError>;

/// Reason of the older of two deliveries in one process: the newer one is in work.
const TWIN: &str = "twin_delivery";

/// The task.
pub struct Settler {
    desk: Arc<Desk>,
    words: mpsc::Receiver<Word>,
    listening: bool,
    /// Set when nobody can speak any more.
    last_call: Option<Instant>,
    /// Cancelled then.
    closing: CancellationToken,
    held: BTreeMap<LeaseNumber, Held>,
    next: u64,
    calls: JoinSet<Ended>,
}

impl Settler {
    /// A settler that listens to `words` (the other half of [`crate::lease::Intake`]).
    pub fn new(desk: Desk, words: mpsc::Receiver<Word>) -> Self {
        let desk = Arc::new(desk);
        Self {
            desk,
            words,
            listening: true,
            last_call: None,
            closing: CancellationToken::new(),
            held: BTreeMap::new(),
            next: 0,
            calls: JoinSet::new(),
        }
    }

    /// Runs until nobody can speak any more and every receipt has its end.
    pub async fn run(mut self) -> Result<(), SettlerBroken> {
        loop {
            let wake = self.act(self.desk.lease_clock.now());
            if !self.listening && self.held.is_empty() {
                return Ok(());
            }
            tokio::select! {
                biased;
                ended = self.calls.join_next(), if !self.calls.is_empty() => match ended {
                    Some(Ok(ended)) => self.hear_end(ended),
                    Some(Err(broken)) => return Err(SettlerBroken(broken.to_string())),
                    None => {}
                },
                word = self.words.recv(), if self.listening => match word {
                    Some(Word::Admit(admission)) => self.admit(admission),
                    Some(Word::Settled(settled)) => self.hear_verdict(settled),
                    Some(Word::Pulse(alive)) => drop(alive.send(())), // who asked may have gone
                    Some(Word::Look(most, tell)) => drop(tell.send(held::in_hand(self.held.values(), most))),
                    // Everything has been said. What SQS does not acknowledge within the margin is lease_lost.
                    None => {
                        self.listening = false;
                        self.closing.cancel();
                        self.last_call = Some(self.desk.lease_clock.now() + SETTLE_MARGIN);
                    }
                },
                () = tokio::time::sleep_until(self.desk.lease_clock.timer(wake)) => {}
            }
        }
    }

    fn admit(&mut self, admission: Admission) {
        let Admission { batch, sent, reply } = admission;
        let span = Span::born(sent, self.desk.visibility);
        let mut leases = Vec::with_capacity(batch.len());
        for (message, seat) in batch {
            let receipt = self.desk.books.received();
            events::MessageReceived {
                message_id: message.id.0.clone(),
                receive_count: message.receive_count,
                sent_at: message.sent_at_ms.map(rfc3339),
                original_message_id: Origin::id_of(&message),
            }
            .emit();
            if self.adopt(&message, receipt, span) {
                continue; // its seat is free again: there is no second piece of work
            }
            let number = LeaseNumber(self.next);
            self.next += 1;
            let message = Arc::new(message);
            let term = Term::until(self.desk.lease_clock.clone(), sent, span.deadline);
            leases.push(Lease::new(number, Arc::clone(&message), Arc::clone(&term), seat));
            let held = Held {
                receipt,
                handle: message.handle.clone(),
                receive_count: message.receive_count,
                message,
                taken_on: Instant::now(),
                span,
                term,
                busy: false,
                phase: Phase::Working,
                judgement: Judgement::none(),
                account: Account::plain(OutcomeName::Cancelled, None),
                permit: None,
            };
            self.held.insert(number, held);
        }
        drop(reply.send(leases)); // nobody there: the leases' drops come back to us as words
    }

    /// Two deliveries of one message in one process are one piece of work: the newer handle is adopted, the older
    /// receipt ends as lease_lost (its handle may no longer delete). Replies of two polls may cross on their way, so the
    /// one heard of last need not be the newer.
    fn adopt(&mut self, message: &Message, receipt: ReceiptNumber, span: Span) -> bool {
        let twin = self.held.values_mut().find(|held| {
            let in_work = matches!(held.phase, Phase::Working | Phase::Preparing);
            held.message.id == message.id && in_work && held.term.why_ended().is_none()
        });
        let Some(held) = twin else { return false };
        if message.receive_count < held.receive_count {
            self.desk.books.settled(receipt, End::LeaseLost, OutcomeName::Cancelled);
            let line = settled_line(held, End::LeaseLost, Account::plain(OutcomeName::Cancelled, Some(TWIN)));
            events::MessageSettled { receive_count: message.receive_count, held_ms: 0, ..line }.emit();
            return true;
        }
        let older = std::mem::replace(&mut held.receipt, receipt);
        self.desk.books.settled(older, End::LeaseLost, OutcomeName::Cancelled);
        settled_line(held, End::LeaseLost, Account::plain(OutcomeName::Cancelled, Some(TWIN))).emit();
        held.handle = message.handle.clone();
        held.receive_count = message.receive_count;
        held.taken_on = Instant::now();
        held.span = Span { first: span.first.max(held.span.first), ..span };
        held.term.move_to(span.deadline);
        true
    }

    fn hear_verdict(&mut self, settled: Settled) {
        let Settled { number, judgement, permit, owed } = settled;
        let Some(held) = self.held.get_mut(&number) else { return }; // cannot be: a lease speaks once
        self.desk.books.changes(&judgement.reports, judgement.abandoned);
        held.judgement = judgement;
        held.permit = Some(permit);
        let capped = held.term.why_ended() == Some(CAPPED);
        let lost = !capped && !held.term.is_live();
        let quick = match &held.judgement.verdict {
            Verdict::Judged(outcome) => match outcome {
                Outcome::Retry(reason) => reason.is_systemic(),
                Outcome::Reject(_) => false,
                Outcome::Done | Outcome::Superseded | Outcome::Skip(_) => true,
            },
            Verdict::Panicked(_) => false,
            Verdict::Cancelled => !capped,
        };
        // Where nothing is charged and nothing dead-lettered, nothing needs preparation and no mark is owed.
        let counted = match &self.desk.failures {
            Failures::Counted(counted) => Arc::clone(counted),
            Failures::Returned => return self.decide(number),
        };
        match (lost || quick, owed) {
            (true, None) => self.decide(number),
            (true, Some(owed)) => self.clear_first(number, counted, owed, lost),
            (false, owed) => {
                held.phase = Phase::Preparing;
                let case = Case {
                    message: Arc::clone(&held.message),
                    receive_count: held.receive_count,
                    judgement: held.judgement.clone(),
                    term: Arc::clone(&held.term),
                    capped,
                    owed,
                    closing: self.closing.clone(),
                };
                let work = prepare(Arc::clone(&self.desk), counted, case);
                self.calls.spawn(tied(async move { Ended::Prepared(number, work.await) }));
            }
        }
    }

    /// A verdict that neither charges nor dead-letters: only the last call is missing.
    fn decide(&mut self, number: LeaseNumber) {
        let Some(held) = self.held.get_mut(&number) else { return };
        let lost = held.term.why_ended() != Some(CAPPED) && !held.term.is_live();
        let plan = self.desk.plan(&held.judgement.verdict, 0, held.receive_count);
        held.account = plan.account;
        let (last, end) = match plan.settlement {
            Settlement::Return(delay) => (Last::Return(delay), End::Returned),
            Settlement::Delete => (Last::Delete, End::Deleted),
            // Only where the lease is lost: nothing is deleted without its letter.
            Settlement::DeadLetter(..) => (Last::Return(Duration::ZERO), End::Returned),
        };
        if lost && !held.judgement.verdict.is_finished() {
            return self.conclude(number, End::LeaseLost); // never returned, never dead-lettered
        }
        let end = if lost { End::LeaseLost } else { end };
        held.phase = Phase::Final(Final::new(last, end, self.desk.lease_clock.now()));
    }

    fn hear_end(&mut self, ended: Ended) {
        match ended {
            Ended::Prepared(number, prepared) => self.hear_prepared(number, prepared),
            Ended::Cleared(number) => self.decide(number),
            Ended::Extended { numbers, sent, replies } => {
                let (mut failed, mut why) = (0, None);
                for (position, (number, receipt, granted)) in numbers.into_iter().enumerate() {
                    let reply = entry(&replies, position);
                    if let Some(trouble) = reply.passing_trouble() {
                        failed += 1;
                        why.get_or_insert(trouble);
                    }
                    self.hear_extended(number, receipt, granted, sent, reply);
                }
                if let Some(detail) = why {
                    events::ExtendFailed { messages: failed, detail }.emit();
                }
            }
            Ended::Finished { numbers, replies } => {
                // One instant for all: what failed together is asked again together.
                let again = self.desk.lease_clock.now() + self.desk.jitter.half_to_one(TRY_AGAIN);
                for (position, number) in numbers.into_iter().enumerate() {
                    self.hear_final(number, entry(&replies, position), again);
                }
            }
        }
    }

    fn hear_prepared(&mut self, number: LeaseNumber, prepared: Prepared) {
        let now = self.desk.lease_clock.now();
        let Some(held) = self.held.get_mut(&number) else { return };
        let (last, end) = match prepared {
            Prepared::Lost { account } => {
                held.account = account;
                return self.conclude(number, End::LeaseLost);
            }
            Prepared::Delete { end, account } => {
                held.account = account;
                (Last::Delete, end)
            }
            Prepared::Return { delay, account } => {
                held.account = account;
                (Last::Return(delay), End::Returned)
            }
        };
        held.phase = Phase::Final(Final::new(last, end, now));
    }

    fn hear_extended(
        &mut self,
        number: LeaseNumber,
        receipt: ReceiptNumber,
        granted: Duration,
        sent: Instant,
        reply: Reply,
    ) {
        let again = self.desk.lease_clock.now() + self.desk.jitter.half_to_one(TRY_AGAIN);
        let Some(held) = self.held.get_mut(&number) else { return };
        held.busy = false;
        if held.receipt != receipt {
            return; // a newer delivery was adopted meanwhile: the answer is about a handle we no longer use
        }
        match reply {
            Reply::Done => {
                held.span.extended(sent, granted);
                held.term.move_to(held.span.deadline);
            }
            // SQS says that the receipt is not ours: no time will bring it back.
            Reply::Refused(refusal) if refusal.is_final() => match &held.phase {
                // Perhaps a delete took effect and its reply was lost: the next one says so.
                Phase::Final(Final { last: Last::Delete, tries: 1.., .. }) => held.span.retry_at(held.span.deadline),
                Phase::Final(_) => held.span.deadline = sent,
                Phase::Working | Phase::Preparing => {
                    held.span.deadline = sent;
                    end_term(held, "SQS refused the extension");
                }
            },
            Reply::Refused(_) | Reply::Unknown(_) => held.span.retry_at(again),
        }
    }

    fn hear_final(&mut self, number: LeaseNumber, reply: Reply, again: Instant) {
        let now = self.desk.lease_clock.now();
        let Some(held) = self.held.get_mut(&number) else { return };
        held.busy = false;
        let Phase::Final(last) = &mut held.phase else { return };
        match reply {
            Reply::Done => {
                let end = if last.late { End::LeaseLost } else { last.end };
                return self.conclude(number, end);
            }
            Reply::Refused(refusal) if refusal.is_final() => {
                last.trouble = format!("SQS refused: {}", refusal.code);
                return self.give_up(number);
            }
            Reply::Refused(refusal) => {
                last.trouble = format!("SQS refused: {}", refusal.code);
                last.alone = true;
                last.ready_at = again;
            }
            Reply::Unknown(trouble) => {
                last.trouble = trouble;
                last.ready_at = again;
            }
        }
        if last.is_worth_telling(now, self.desk.visibility) {
            last.told = true;
            self.tell_delete_failed(number);
        }
    }

    fn tell_delete_failed(&self, number: LeaseNumber) {
        let Some(held) = self.held.get(&number) else { return };
        if let Phase::Final(Final { last: Last::Delete, tries, trouble, .. }) = &held.phase {
            let (message_id, detail) = (held.message.id.0.clone(), trouble.clone());
            let original_message_id = Origin::id_of(&held.message);
            events::DeleteFailed { message_id, tries: *tries, detail, original_message_id }.emit();
        }
    }

    /// The lease is over and SQS has not acknowledged.
    fn give_up(&mut self, number: LeaseNumber) {
        self.tell_delete_failed(number);
        self.conclude(number, End::LeaseLost);
    }

    /// The one place where a receipt leaves the table: books, line, permit.
    fn conclude(&mut self, number: LeaseNumber, end: End) {
        let Some(held) = self.held.remove(&number) else { return };
        self.desk.books.settled(held.receipt, end, held.account.outcome);
        settled_line(&held, end, held.account.clone()).emit();
        drop(held.permit);
    }
}
