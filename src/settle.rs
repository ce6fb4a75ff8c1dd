//! The settler: one task that owns every receipt, extends the leases, and is alone in calling delete,
//! change-visibility and send-to-DLQ.
//!
//! Promises P1 (what a guard said is carried out once), P3 (it deletes on finished work or an acknowledged DLQ send),
//! P7 (at most one call per receipt is under way; the permit lives until SQS has answered) and P10 (only what SQS
//! acknowledged is booked). Runs on a thread of its own with its own SDK client, so that starved work loses no lease.
//! Knows no files, no records, no index.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::attempts::AttemptsLog;
use crate::books::{Books, End, ReceiptNumber};
use crate::clock::rfc3339;
use crate::dead_letter::{DeadLetters, Origin};
use crate::events::{self, Event};
use crate::heartbeat::{Beat, Span};
use crate::lease::{Admission, Lease, LeaseNumber, Permit, Settled, Term, Word};
use crate::message::{Message, ReceiptHandle};
use crate::outcome::{Indexed, Judgement, OutcomeName, Rules, Verdict};
use crate::queue::{EntryReply, Queue, QueueError, Refusal, SQS_MAX_BATCH, SQS_MAX_VISIBILITY};
use crate::retry::Jitter;

mod prepare;

use prepare::{Prepared, prepare};

/// How long a delete waits for nine others before it goes alone.
const LINGER: Duration = Duration::from_millis(5);
/// A failed extension, delete or return is tried again after [½, 1) of this.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Longest single call to SQS; shorter for short leases, so that a failed one leaves time for another.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// Everything the settler works with; shared with its calls, which outlive no loop turn's borrow.
pub struct Desk {
    /// The main queue, on the settler's own client.
    pub queue: Arc<dyn Queue>,
    /// The DLQ and its envelopes.
    pub dead_letters: DeadLetters,
    /// Our own attempt budget.
    pub attempts: AttemptsLog,
    /// The ledger.
    pub books: Arc<Books>,
    /// The table's parameters.
    pub rules: Rules,
    /// Spread of delays.
    pub jitter: Jitter,
    /// Lease length.
    pub visibility: Duration,
}

impl Desk {
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

/// What SQS is asked for at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Last {
    Delete,
    Return(Duration),
}

/// A receipt whose fate is decided.
struct Final {
    last: Last,
    end: End,
    ready_at: Instant,
    tries: u32,
    /// Refused in a batch: goes alone from now on.
    alone: bool,
    /// The lease is over but the work is finished: one delete, whatever the time.
    late: bool,
}

enum Phase {
    /// The guard's scope is open.
    Working,
    /// Attempts are read and written, a dead letter is sent.
    Preparing,
    /// Only SQS's answer is missing.
    Final(Final),
}

/// A receipt in the settler's hands.
struct Held {
    receipt: ReceiptNumber,
    message: Arc<Message>,
    handle: ReceiptHandle,
    receive_count: u32,
    taken_on: Instant,
    span: Span,
    term: Arc<Term>,
    busy: bool,
    phase: Phase,
    judgement: Judgement,
    outcome: OutcomeName,
    reason: Option<String>,
    permit: Option<Permit>,
}

/// A call that has come back.
enum Ended {
    Extended { numbers: Vec<(LeaseNumber, ReceiptNumber, Duration)>, sent: Instant, replies: Replies },
    Finished { numbers: Vec<LeaseNumber>, replies: Replies },
    Prepared(LeaseNumber, Prepared),
}

type Replies = Result<Vec<EntryReply>, QueueError>;

/// Twelve hours are over: the work cannot be finished within any lease (design §4).
const CAPPED: &str = "held for SQS's 12 hours";

/// The task.
pub struct Settler {
    desk: Arc<Desk>,
    words: mpsc::Receiver<Word>,
    listening: bool,
    held: BTreeMap<LeaseNumber, Held>,
    next: u64,
    calls: JoinSet<Ended>,
}

impl Settler {
    /// A settler that listens to `words` (the other half of [`crate::lease::Intake`]).
    pub fn new(desk: Desk, words: mpsc::Receiver<Word>) -> Self {
        let desk = Arc::new(desk);
        Self { desk, words, listening: true, held: BTreeMap::new(), next: 0, calls: JoinSet::new() }
    }

    /// Runs until nobody can speak any more and every receipt has its end.
    pub async fn run(mut self) -> Result<(), SettlerBroken> {
        loop {
            let wake = self.act(Instant::now());
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
                    None => self.listening = false,
                },
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    fn admit(&mut self, admission: Admission) {
        let Admission { batch, sent, reply } = admission;
        let span = Span::born(sent, self.desk.visibility);
        let mut leases = Vec::with_capacity(batch.len());
        for (message, seat) in batch {
            let receipt = self.desk.books.received();
            let origin = Origin::of(&message);
            events::MessageReceived {
                message_id: message.id.0.clone(),
                receive_count: message.receive_count,
                sent_at: message.sent_at_ms.map(rfc3339),
                original_message_id: origin.map(|origin| origin.message_id),
            }
            .emit();
            if self.adopt(&message, receipt, span) {
                continue; // its seat is free again: there is no second piece of work
            }
            let number = LeaseNumber(self.next);
            self.next += 1;
            let message = Arc::new(message);
            let term = Term::until(sent, span.deadline);
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
                outcome: OutcomeName::Cancelled,
                reason: None,
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
            held.message.id == message.id && matches!(held.phase, Phase::Working) && held.term.why_ended().is_none()
        });
        let Some(held) = twin else { return false };
        if message.receive_count < held.receive_count {
            self.desk.books.settled(receipt, End::LeaseLost, OutcomeName::Cancelled);
            let reason = Some("a newer delivery is in work".into());
            let line = settled_line(held, End::LeaseLost, OutcomeName::Cancelled, reason);
            events::MessageSettled { receive_count: message.receive_count, held_ms: 0, ..line }.emit();
            return true;
        }
        let older = std::mem::replace(&mut held.receipt, receipt);
        self.desk.books.settled(older, End::LeaseLost, OutcomeName::Cancelled);
        settled_line(held, End::LeaseLost, OutcomeName::Cancelled, Some("adopted by a newer delivery".into())).emit();
        held.handle = message.handle.clone();
        held.receive_count = message.receive_count;
        held.taken_on = Instant::now();
        held.span = Span { first: span.first.max(held.span.first), ..span };
        held.term.move_to(span.deadline);
        true
    }

    fn hear_verdict(&mut self, settled: Settled) {
        let Settled { number, judgement, permit } = settled;
        let Some(held) = self.held.get_mut(&number) else { return }; // cannot be: a lease speaks once
        self.desk.books.changes(&judgement.reports, judgement.abandoned);
        held.judgement = judgement;
        held.permit = Some(permit);
        let now = Instant::now();
        let capped = held.term.why_ended() == Some(CAPPED);
        let lost = !capped && !held.term.is_live();
        let finished = held.judgement.verdict.is_finished();
        let quick = match &held.judgement.verdict {
            Verdict::Judged(outcome) => match outcome {
                crate::outcome::Outcome::Retry(reason) => reason.is_systemic(),
                crate::outcome::Outcome::Reject(_) => false,
                crate::outcome::Outcome::Done
                | crate::outcome::Outcome::Superseded
                | crate::outcome::Outcome::Skip(_) => true,
            },
            Verdict::Panicked(_) => false,
            Verdict::Cancelled => !capped,
        };
        if lost || quick {
            let plan = self.desk.rules.plan(&held.judgement.verdict, 0, held.receive_count, &self.desk.jitter);
            held.outcome = plan.outcome;
            held.reason = plan.reason;
            let (last, end) = match plan.settlement {
                crate::outcome::Settlement::Return(delay) => (Last::Return(delay), End::Returned),
                crate::outcome::Settlement::Delete | crate::outcome::Settlement::DeadLetter(..) => {
                    (Last::Delete, End::Deleted)
                }
            };
            if lost && !finished {
                return self.conclude(number, End::LeaseLost); // never returned, never dead-lettered
            }
            let end = if lost { End::LeaseLost } else { end };
            held.phase = Phase::Final(Final { last, end, ready_at: now, tries: 0, alone: false, late: lost });
            return;
        }
        held.phase = Phase::Preparing;
        let work = prepare(
            Arc::clone(&self.desk),
            Arc::clone(&held.message),
            held.receive_count,
            held.judgement.clone(),
            Arc::clone(&held.term),
            capped,
        );
        self.calls.spawn(async move { Ended::Prepared(number, work.await) });
    }

    /// Starts every call that is due and says when to look again.
    fn act(&mut self, now: Instant) -> Instant {
        let mut wake = now + Duration::from_secs(3600);
        let mut extend = Vec::new();
        let mut finals = Vec::new();
        let mut over = Vec::new();
        let nearly = self.desk.visibility / 12; // leases due soon ride along in the same batch
        for (number, held) in &mut self.held {
            match &held.phase {
                Phase::Working | Phase::Preparing => {
                    if held.term.why_ended().is_some() {
                        continue; // the work is on its way out; its word will come
                    }
                    match held.span.beat(now, self.desk.visibility) {
                        Beat::Lost => end_term(held, "the lease ended"),
                        Beat::Capped => end_term(held, CAPPED),
                        Beat::Wait(until) => {
                            wake = wake.min(until);
                            if !held.busy
                                && let Beat::Extend(granted) = held.span.beat(now + nearly, self.desk.visibility)
                            {
                                extend.push((*number, granted, false));
                            }
                        }
                        Beat::Extend(_) if held.busy => wake = wake.min(held.span.deadline),
                        Beat::Extend(granted) => {
                            // The lease may end while the call is under way.
                            wake = wake.min(held.span.deadline);
                            extend.push((*number, granted, true));
                        }
                    }
                }
                Phase::Final(last) => {
                    if held.busy {
                        continue;
                    }
                    if now >= held.span.deadline && !(last.late && last.tries == 0) {
                        over.push(*number);
                    } else if now >= last.ready_at {
                        finals.push(*number);
                    } else {
                        wake = wake.min(last.ready_at).min(held.span.deadline);
                    }
                }
            }
        }
        for number in over {
            self.give_up(number);
        }
        if extend.iter().any(|(_, _, due)| *due) {
            self.extend(extend, now);
        }
        self.finish(finals, now).map_or(wake, |later| wake.min(later))
    }

    fn extend(&mut self, due: Vec<(LeaseNumber, Duration, bool)>, now: Instant) {
        for chunk in due.chunks(SQS_MAX_BATCH) {
            let mut entries = Vec::with_capacity(chunk.len());
            let mut numbers = Vec::with_capacity(chunk.len());
            for (number, granted, _) in chunk {
                if let Some(held) = self.held.get_mut(number) {
                    held.busy = true;
                    entries.push((held.handle.clone(), *granted));
                    numbers.push((*number, held.receipt, *granted));
                }
            }
            let desk = Arc::clone(&self.desk);
            self.calls.spawn(async move {
                let replies = within(desk.call_limit(), desk.queue.change_visibility(&entries)).await;
                Ended::Extended { numbers, sent: now, replies }
            });
        }
    }

    /// Sends deletes and returns in batches; says when the first waiting batch is due.
    fn finish(&mut self, ready: Vec<LeaseNumber>, now: Instant) -> Option<Instant> {
        let (mut deletes, mut returns, mut alone) = (VecDeque::new(), VecDeque::new(), Vec::new());
        let mut later = None;
        for number in ready {
            let Some(Phase::Final(last)) = self.held.get(&number).map(|held| &held.phase) else { continue };
            match last.last {
                _ if last.alone => alone.push(number),
                Last::Delete => deletes.push_back((number, last.ready_at)),
                Last::Return(_) => returns.push_back((number, last.ready_at)),
            }
        }
        for mut waiting in [deletes, returns] {
            while let Some((_, oldest)) = waiting.front() {
                let full = waiting.len() >= SQS_MAX_BATCH;
                if !full && self.listening && now < *oldest + LINGER {
                    let due = *oldest + LINGER;
                    later = Some(later.map_or(due, |other: Instant| other.min(due)));
                    break;
                }
                let batch = waiting.drain(..waiting.len().min(SQS_MAX_BATCH)).map(|(number, _)| number).collect();
                self.send_final(batch, now);
            }
        }
        for number in alone {
            self.send_final(vec![number], now);
        }
        later
    }

    /// One call; all of `numbers` are deletes, or all are returns.
    fn send_final(&mut self, numbers: Vec<LeaseNumber>, now: Instant) {
        let mut handles = Vec::with_capacity(numbers.len());
        let mut delays = Vec::new();
        for number in &numbers {
            let Some(held) = self.held.get_mut(number) else { continue };
            let Phase::Final(last) = &mut held.phase else { continue };
            last.tries += 1;
            held.busy = true;
            if let Last::Return(delay) = last.last {
                let room = SQS_MAX_VISIBILITY.saturating_sub(now.saturating_duration_since(held.span.first));
                delays.push(delay.min(room.saturating_sub(Duration::from_secs(1))));
            }
            handles.push(held.handle.clone());
        }
        let desk = Arc::clone(&self.desk);
        self.calls.spawn(async move {
            let replies = if delays.is_empty() {
                within(desk.call_limit(), desk.queue.delete(&handles)).await
            } else {
                let entries: Vec<_> = handles.into_iter().zip(delays).collect();
                within(desk.call_limit(), desk.queue.change_visibility(&entries)).await
            };
            Ended::Finished { numbers, replies }
        });
    }

    fn hear_end(&mut self, ended: Ended) {
        match ended {
            Ended::Prepared(number, prepared) => self.hear_prepared(number, prepared),
            Ended::Extended { numbers, sent, replies } => {
                if let Err(error) = &replies {
                    events::ExtendFailed { messages: numbers.len(), detail: error.to_string() }.emit();
                }
                for (position, (number, receipt, granted)) in numbers.into_iter().enumerate() {
                    self.hear_extended(number, receipt, granted, sent, entry(&replies, position));
                }
            }
            Ended::Finished { numbers, replies } => {
                // One instant for all: what failed together is asked again together.
                let again = Instant::now() + self.desk.jitter.half_to_one(TRY_AGAIN);
                for (position, number) in numbers.into_iter().enumerate() {
                    self.hear_final(number, entry(&replies, position), again);
                }
            }
        }
    }

    fn hear_prepared(&mut self, number: LeaseNumber, prepared: Prepared) {
        let now = Instant::now();
        let Some(held) = self.held.get_mut(&number) else { return };
        let (last, end) = match prepared {
            Prepared::Lost { outcome, reason } => {
                held.outcome = outcome;
                held.reason = reason;
                return self.conclude(number, End::LeaseLost);
            }
            Prepared::Delete { outcome, reason, end } => {
                held.outcome = outcome;
                held.reason = reason;
                (Last::Delete, end)
            }
            Prepared::Return { delay, outcome, reason } => {
                held.outcome = outcome;
                held.reason = reason;
                (Last::Return(delay), End::Returned)
            }
        };
        // An acknowledged DLQ send is finished work: one delete even if the lease ended meanwhile, or there are two copies.
        let late = now >= held.span.deadline && last == Last::Delete;
        held.phase = Phase::Final(Final { last, end, ready_at: now, tries: 0, alone: false, late });
    }

    fn hear_extended(
        &mut self,
        number: LeaseNumber,
        receipt: ReceiptNumber,
        granted: Duration,
        sent: Instant,
        reply: Reply,
    ) {
        let again = Instant::now() + self.desk.jitter.half_to_one(TRY_AGAIN);
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
            Reply::Refused(refusal) if refusal.sender_fault => {
                held.span.deadline = sent;
                if matches!(held.phase, Phase::Working | Phase::Preparing) {
                    end_term(held, "SQS refused the extension");
                }
            }
            Reply::Refused(_) | Reply::Unknown(_) => held.span.retry_at(again),
        }
    }

    fn hear_final(&mut self, number: LeaseNumber, reply: Reply, again: Instant) {
        let Some(held) = self.held.get_mut(&number) else { return };
        held.busy = false;
        let Phase::Final(last) = &mut held.phase else { return };
        match reply {
            Reply::Done => {
                let end = if last.late { End::LeaseLost } else { last.end };
                self.conclude(number, end);
            }
            Reply::Refused(refusal) if refusal.sender_fault => {
                held.reason = Some(format!("SQS refused: {}", refusal.code));
                held.span.deadline = Instant::now();
                self.give_up(number);
            }
            Reply::Refused(refusal) => {
                last.alone = true;
                last.ready_at = again;
                held.reason.get_or_insert(format!("SQS refused: {}", refusal.code));
            }
            Reply::Unknown(_) => last.ready_at = again,
        }
    }

    /// The lease is over and SQS has not acknowledged.
    fn give_up(&mut self, number: LeaseNumber) {
        let Some(held) = self.held.get(&number) else { return };
        if let Phase::Final(Final { last: Last::Delete, tries, .. }) = held.phase {
            let detail = held.reason.clone().unwrap_or_else(|| "not acknowledged by the end of the lease".into());
            events::DeleteFailed { message_id: held.message.id.0.clone(), tries, detail }.emit();
        }
        self.conclude(number, End::LeaseLost);
    }

    /// The one place where a receipt leaves the table: books, line, permit.
    fn conclude(&mut self, number: LeaseNumber, end: End) {
        let Some(held) = self.held.remove(&number) else { return };
        self.desk.books.settled(held.receipt, end, held.outcome);
        settled_line(&held, end, held.outcome, held.reason.clone()).emit();
        drop(held.permit);
    }
}

fn end_term(held: &mut Held, why: &'static str) {
    held.term.end(why);
    events::LeaseLost { message_id: held.message.id.0.clone(), detail: why.to_owned() }.emit();
}

fn settled_line(held: &Held, end: End, outcome: OutcomeName, reason: Option<String>) -> events::MessageSettled {
    let reports = &held.judgement.reports;
    events::MessageSettled {
        message_id: held.message.id.0.clone(),
        receive_count: held.receive_count,
        outcome: outcome.as_str(),
        settlement: end.as_str(),
        reason,
        work_ids: reports
            .iter()
            .filter_map(|report| report.work_id.as_ref())
            .map(|id| id.as_str().to_owned())
            .collect(),
        keys: reports.iter().map(|report| report.key.clone()).filter(|key| !key.is_empty()).collect(),
        held_ms: u64::try_from(held.taken_on.elapsed().as_millis()).unwrap_or(u64::MAX),
        index: reports.iter().map(|report| report.indexed).max().unwrap_or(Indexed::None).as_str(),
        original_message_id: Origin::of(&held.message).map(|origin| origin.message_id),
    }
}

/// What a call said of one receipt.
enum Reply {
    Done,
    Refused(Refusal),
    Unknown(String),
}

/// A batch reply read entry by entry: what is not there was not acknowledged.
fn entry(replies: &Replies, position: usize) -> Reply {
    match replies {
        Err(error) => Reply::Unknown(error.to_string()),
        Ok(replies) => match replies.get(position) {
            Some(Ok(())) => Reply::Done,
            Some(Err(refusal)) => Reply::Refused(refusal.clone()),
            None => Reply::Unknown("no reply for this entry".into()),
        },
    }
}

async fn within(limit: Duration, call: impl Future<Output = Replies>) -> Replies {
    match tokio::time::timeout(limit, call).await {
        Ok(replies) => replies,
        Err(_) => Err(QueueError::Unavailable(format!("no answer within {limit:?}"))),
    }
}
