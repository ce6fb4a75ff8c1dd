//! The scope guard: one receipt, ours for a time, settled exactly once however its scope ends.
//!
//! Promises P1 and P2: a lease is born as *return*; `Drop` reports and never waits, spawns or panics, through a slot
//! that was reserved before the message was even asked for. Knows no queue: the settler does the acting.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::LeaseClock;
use crate::crash_loop::Owed;
use crate::message::Message;
use crate::outcome::Judgement;

/// The right to have one message in flight: held by the work and its child, travels in [`Settled`], and is given back
/// when SQS has answered *and* the work has really stopped, whichever is last (P7).
#[derive(Clone)]
pub struct Permit {
    _permit: Arc<OwnedSemaphorePermit>,
}

/// A place for one message, taken before the queue is asked.
pub struct Seat {
    permit: Permit,
    slot: mpsc::OwnedPermit<Word>,
}

/// A lease in the settler's table; never reused within a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LeaseNumber(pub(crate) u64);

/// What the settler hears.
pub enum Word {
    /// Messages have been received.
    Admit(Admission),
    /// A guard's scope has ended.
    Settled(Settled),
    /// Somebody asks whether the settler still turns.
    Pulse(oneshot::Sender<()>),
    /// Somebody asks what it holds: at most so many receipts, the oldest first.
    Look(usize, oneshot::Sender<Vec<InHand>>),
}

/// A receipt in the settler's hands, for who looks.
pub struct InHand {
    /// The message.
    pub message: Arc<Message>,
    /// Of this delivery.
    pub receive_count: u32,
    /// Since it was taken on.
    pub held: Duration,
    /// `working`, `preparing`, `deleting` or `returning`.
    pub phase: &'static str,
}

/// Messages on their way to becoming leases.
pub struct Admission {
    /// What was received, each with its seat.
    pub batch: Vec<(Message, Seat)>,
    /// When the receive request was sent, by the [`LeaseClock`]: leases count from here.
    pub sent: Instant,
    /// Where the leases go. A delivery whose twin is in work here gets none.
    pub reply: oneshot::Sender<Vec<Lease>>,
}

/// The end of a guard's scope.
pub struct Settled {
    /// Whose.
    pub number: LeaseNumber,
    /// How the work ended.
    pub judgement: Judgement,
    /// Given back when SQS has answered.
    pub permit: Permit,
    /// To be cleared first.
    pub owed: Option<Box<Owed>>,
}

/// How long a receipt is ours, as far as anybody in this process knows; readable from every thread.
pub struct Term {
    clock: LeaseClock,
    born: Instant,
    deadline_us: AtomicU64,
    ended: CancellationToken,
    why: Mutex<Option<&'static str>>,
}

impl Term {
    /// A term that ends at `deadline` unless moved; both by `clock`.
    pub fn until(clock: LeaseClock, born: Instant, deadline: Instant) -> Arc<Self> {
        let (deadline_us, why) = (AtomicU64::new(0), Mutex::new(None));
        let term = Self { clock, born, deadline_us, ended: CancellationToken::new(), why };
        term.move_to(deadline);
        Arc::new(term)
    }

    /// An extension was acknowledged, or a newer delivery adopted.
    pub fn move_to(&self, deadline: Instant) {
        let us = u64::try_from(deadline.saturating_duration_since(self.born).as_micros()).unwrap_or(u64::MAX);
        self.deadline_us.store(us, Ordering::Release);
    }

    /// The receipt is ours now. Asks the clock, so that it is right even if nobody had time to say that it ended.
    pub fn is_live(&self) -> bool {
        !self.ended.is_cancelled() && self.is_in_time()
    }

    /// SQS holds the message for us, even where the work had to stop.
    pub fn is_in_time(&self) -> bool {
        let age = self.clock.now().saturating_duration_since(self.born);
        age.as_micros() < u128::from(self.deadline_us.load(Ordering::Acquire))
    }

    /// The work must stop.
    pub fn end(&self, why: &'static str) {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.ended.cancel();
    }

    /// Why it ended, once it has.
    pub fn why_ended(&self) -> Option<&'static str> {
        *self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when the work must stop.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

/// One receipt that is ours to settle.
#[must_use = "dropping a lease returns its message to the queue"]
pub struct Lease {
    number: LeaseNumber,
    message: Arc<Message>,
    term: Arc<Term>,
    judgement: Judgement,                  // born as "no verdict", which means return
    slot: Option<mpsc::OwnedPermit<Word>>, // reserved at birth, used only in drop
    permit: Option<Permit>,                // in flight until SQS has answered
    owed: Option<Box<Owed>>,               // the mark that must go before it
}

impl Lease {
    /// Called by the settler, which keeps the other half.
    pub(crate) fn new(number: LeaseNumber, message: Arc<Message>, term: Arc<Term>, seat: Seat) -> Self {
        let Seat { permit, slot } = seat;
        Self { number, message, term, judgement: Judgement::none(), slot: Some(slot), permit: Some(permit), owed: None }
    }

    /// The message.
    pub fn message(&self) -> &Arc<Message> {
        &self.message
    }

    /// How long it is ours.
    pub fn term(&self) -> &Arc<Term> {
        &self.term
    }

    /// For the work, and whatever must have stopped before the permit is free.
    pub fn permit(&self) -> Option<Permit> {
        self.permit.clone()
    }

    /// From here on the end of this receipt owes the clearing of a mark, whatever end it is.
    pub fn owe(&mut self, owed: Owed) {
        self.owed = Some(Box::new(owed));
    }

    /// What it owes, if anything.
    pub fn owed(&self) -> Option<&Owed> {
        self.owed.as_deref()
    }

    /// The mark is gone: nothing is owed any more.
    pub fn paid(&mut self) {
        self.owed = None;
    }

    /// Ends the scope with a judgement.
    pub fn settle(mut self, judgement: Judgement) {
        self.judgement = judgement;
    } // drop speaks
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let (Some(slot), Some(permit)) = (self.slot.take(), self.permit.take()) {
            let judgement = std::mem::replace(&mut self.judgement, Judgement::none());
            let owed = self.owed.take();
            drop(slot.send(Word::Settled(Settled { number: self.number, judgement, permit, owed })));
        }
    }
}

/// The road from the receiver to the settler: seats first, then messages. When the last one is dropped and every lease
/// has ended, the settler has heard everything there is to hear.
#[derive(Clone)]
pub struct Intake {
    permits: Arc<Semaphore>,
    words: mpsc::Sender<Word>,
    limit: usize,
}

impl Intake {
    /// A road for at most `limit` messages in flight (at least 1).
    pub fn new(limit: usize) -> (Self, mpsc::Receiver<Word>) {
        let limit = limit.max(1);
        // One slot per seat; admissions share what is left, and wait when there is none.
        let (words, heard) = mpsc::channel(limit + 16);
        (Self { permits: Arc::new(Semaphore::new(limit)), words, limit }, heard)
    }

    /// To ask whether the settler still turns; keeps no road open.
    pub fn pulse(&self) -> Pulse {
        Pulse(self.words.downgrade())
    }

    /// To have fewer messages in flight; keeps no road open.
    pub fn brake(&self) -> Brake {
        Brake { permits: Arc::clone(&self.permits), most: self.limit, kept: None }
    }

    /// Messages that may be in flight at once, at most.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Waits for `at_least` seats and takes what is free up to `up_to`. `None` when the settler is gone.
    pub async fn seats(&self, at_least: usize, up_to: usize) -> Option<Vec<Seat>> {
        let wanted = u32::try_from(at_least.clamp(1, self.limit)).ok()?;
        let mut first = Arc::clone(&self.permits).acquire_many_owned(wanted).await.ok()?;
        let mut permits = Vec::with_capacity(up_to);
        while let Some(one) = first.split(1) {
            permits.push(one);
        }
        while permits.len() < up_to {
            let Ok(one) = Arc::clone(&self.permits).try_acquire_owned() else { break };
            permits.push(one);
        }
        let mut seats = Vec::with_capacity(permits.len());
        for permit in permits {
            let slot = self.words.clone().reserve_owned().await.ok()?;
            seats.push(Seat { permit: Permit { _permit: Arc::new(permit) }, slot });
        }
        Some(seats)
    }

    /// Waits until no more than so many messages are in flight.
    pub async fn at_most(&self, in_flight: usize) {
        let free = u32::try_from(self.limit.saturating_sub(in_flight)).unwrap_or(u32::MAX);
        drop(self.permits.acquire_many(free).await); // never closed
    }

    /// Hands received messages over and gets their leases. From the moment this is called the settler owns them:
    /// if the caller goes away, they are returned. Messages beyond the seats cannot be (the poll asked for no more).
    pub async fn admit(&self, messages: Vec<Message>, seats: Vec<Seat>, sent: Instant) -> Vec<Lease> {
        let (reply, leases) = oneshot::channel();
        let batch = messages.into_iter().zip(seats).collect();
        if self.words.send(Word::Admit(Admission { batch, sent, reply })).await.is_err() {
            return Vec::new(); // no settler: the process is ending, and the queue will redeliver
        }
        leases.await.unwrap_or_default()
    }
}

/// Asks the settler whether it still turns.
#[derive(Clone)]
pub struct Pulse(mpsc::WeakSender<Word>);

impl Pulse {
    /// Resolves when the settler has answered; `false`: nobody can speak to it any more, for the process is ending.
    pub async fn beat(&self) -> bool {
        let Some(words) = self.0.upgrade() else { return false };
        let (alive, answer) = oneshot::channel();
        words.send(Word::Pulse(alive)).await.is_ok() && answer.await.is_ok()
    }
}

impl Pulse {
    /// What the settler holds, at most so many, the oldest first; `None`: nobody can speak to it any more.
    pub async fn look(&self, most: usize) -> Option<Vec<InHand>> {
        let words = self.0.upgrade()?;
        let (tell, answer) = oneshot::channel();
        words.send(Word::Look(most, tell)).await.ok()?;
        drop(words); // while we wait for the answer, no road is kept open
        answer.await.ok()
    }
}

/// Keeps seats from being taken.
pub struct Brake {
    permits: Arc<Semaphore>,
    most: usize,
    kept: Option<OwnedSemaphorePermit>,
}

impl Brake {
    /// Waits until no more than so many messages are in flight, and keeps it so. May be dropped at any time: what it got by
    /// then is given back, or kept until the next call.
    pub async fn hold_at(&mut self, limit: usize) {
        let wanted = self.most.saturating_sub(limit.max(1));
        let kept = self.kept.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if kept > wanted {
            drop(self.kept.as_mut().and_then(|kept_permit| kept_permit.split(kept - wanted)));
        }
        for _ in kept..wanted {
            // One at a time: the pollers wait in the same line, and none of them for long.
            let Ok(one) = Arc::clone(&self.permits).acquire_owned().await else { return };
            match &mut self.kept {
                Some(kept) => kept.merge(one),
                None => self.kept = Some(one),
            }
        }
    }
}
