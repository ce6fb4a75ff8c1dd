//! The model of an SQS queue, on tokio's clock: what LocalStack does not show (stack.md), and every fault §3.2 needs.
//!
//! Promises SQS's rules: visibility by the moment, receive counts, a redrive policy applied on receive, the 12-hour
//! cap, handles that go stale. Everything else (duplicates, reordering, lost replies, …) is off until switched on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use quittance::message::{Message, MessageId, ReceiptHandle};
use quittance::queue::{
    BatchSize, EntryReply, Outgoing, Queue, QueueError, QueueFacts, RedriveAllow, Refusal, SQS_MAX_MESSAGE_BYTES,
    SendReply,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::faults::{Call, Drawn, Fate, Faults, History, Stamp, Ticks, carry, chance, travel};

mod rules;
mod words;

use rules::{Held, State, check, check_batch};
pub use words::{Effect, QueueAnswer, QueueAsk, QueueFaults, QueueMemory, StaleDelete};

/// What a queue is set up as.
#[derive(Clone)]
pub struct QueueSettings {
    pub name: String,
    pub visibility: Duration,
    pub delay: Duration,
    pub retention: Duration,
    /// Target and `maxReceiveCount`.
    pub redrive: Option<(ModelQueue, u32)>,
    /// SQS hides at most this many at a time; a poll beyond it is empty, without an error.
    pub in_flight_limit: usize,
    /// Wall clock at the start of the test, for `SentTimestamp`.
    pub epoch_ms: u64,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            name: "files".into(),
            visibility: Duration::from_secs(60),
            delay: Duration::ZERO,
            retention: Duration::from_secs(14 * 86_400),
            redrive: None,
            in_flight_limit: 120_000,
            epoch_ms: super::EPOCH_MS,
        }
    }
}

/// A queue of the model. Clones are the same queue.
#[derive(Clone)]
pub struct ModelQueue {
    settings: Arc<QueueSettings>,
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    started: Instant,
    who: Arc<str>,
}

impl ModelQueue {
    pub fn new(settings: QueueSettings, seed: u64, ticks: Ticks) -> Self {
        let state = State {
            rng: Rng::with_seed(seed),
            faults: QueueFaults::default(),
            held: BTreeMap::new(),
            ripe: BTreeSet::new(),
            ripening: BTreeSet::new(),
            arrivals: 0,
            handles: BTreeMap::new(),
            history: History::new(ticks),
            effects: Vec::new(),
            exists: true,
        };
        Self {
            settings: Arc::new(settings),
            state: Arc::new(Mutex::new(state)),
            changed: Arc::default(),
            started: Instant::now(),
            who: "test".into(),
        }
    }

    /// The same queue, whose calls are recorded under this name.
    pub fn seen_by(&self, who: &str) -> Self {
        Self { who: who.into(), ..self.clone() }
    }

    pub fn arn(&self) -> String {
        format!("arn:aws:sqs:us-east-1:000000000000:{}", self.settings.name)
    }

    /// Changes what goes wrong from now on.
    pub fn faults(&self, change: impl FnOnce(&mut QueueFaults)) {
        change(&mut self.lock().faults);
    }

    /// A producer's send: no faults, no time.
    pub fn put(&self, body: impl Into<String>) -> MessageId {
        self.put_message(Outgoing { body: body.into(), attributes: BTreeMap::new(), group_id: None })
    }

    pub fn put_message(&self, outgoing: Outgoing) -> MessageId {
        let (id, sent_at_ms) = (self.lock().new_id(), self.wall_ms());
        self.arrive(Held::sent(id.clone(), outgoing, sent_at_ms));
        id
    }

    /// As SQS moves a message here from another queue by its redrive policy.
    pub fn put_moved(&self, body: impl Into<String>, from: &str) -> MessageId {
        self.put_moved_message(Outgoing { body: body.into(), attributes: BTreeMap::new(), group_id: None }, from)
    }

    pub fn put_moved_message(&self, outgoing: Outgoing, from: &str) -> MessageId {
        let (id, sent_at_ms) = (self.lock().new_id(), self.wall_ms());
        self.arrive(Held { moved_from: Some(from.to_owned()), ..Held::sent(id.clone(), outgoing, sent_at_ms) });
        id
    }

    /// The messages that are there and not deleted, oldest first: id, body and attributes, receive count.
    pub fn live(&self) -> Vec<(MessageId, Outgoing, u32)> {
        let state = self.lock();
        let held = state.held.values().filter(|held| !held.risen);
        held.map(|held| (held.id.clone(), held.outgoing.clone(), held.count)).collect()
    }

    /// No message is there that was not deleted.
    pub fn is_empty(&self) -> bool {
        self.lock().held.values().all(|held| held.risen)
    }

    /// Nothing is there, not even what was deleted and will be delivered once more.
    pub fn holds_nothing(&self) -> bool {
        self.lock().held.is_empty()
    }

    /// Messages that nobody holds.
    pub fn visible(&self) -> usize {
        let now = Instant::now();
        self.lock().held.values().filter(|held| held.visible_from <= now).count()
    }

    /// How many calls were asked.
    pub fn asked(&self) -> usize {
        self.lock().history.calls.len()
    }

    pub fn calls(&self) -> Vec<Call<QueueAsk, QueueAnswer>> {
        self.lock().history.calls.clone()
    }

    /// A look at everything the queue remembers, without a copy; it must not ask the queue for more meanwhile.
    pub fn look<T>(&self, see: impl FnOnce(QueueMemory<'_>) -> T) -> T {
        let state = self.lock();
        let live = state.held.values().filter(|held| !held.risen).map(|held| (&held.id, &held.outgoing)).collect();
        see(QueueMemory { calls: &state.history.calls, effects: &state.effects, live })
    }

    /// Forges the history, for tests of those who judge it.
    pub fn forge(&self, change: impl FnOnce(&mut Vec<Call<QueueAsk, QueueAnswer>>, &mut Vec<(Stamp, Effect)>)) {
        let mut state = self.lock();
        let state = &mut *state;
        change(&mut state.history.calls, &mut state.effects);
    }

    pub fn effects(&self) -> Vec<(Stamp, Effect)> {
        self.lock().effects.clone()
    }

    /// From now on every call says that the queue does not exist.
    pub fn remove(&self) {
        self.lock().exists = false;
        self.changed.notify_waiters();
    }

    fn wall_ms(&self) -> u64 {
        self.settings.epoch_ms + u64::try_from(self.started.elapsed().as_millis()).unwrap()
    }

    /// Never held across an await: everything a service does at one instant happens under one lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn arrive(&self, held: Held) {
        let visible_from = Instant::now() + self.settings.delay;
        let held = Held { visible_from, ..held };
        let mut state = self.lock();
        state.note(Effect::Arrived(held.id.clone()));
        let number = state.arrivals;
        state.arrivals += 1;
        state.held.insert(number, held);
        state.ripens(number, visible_from);
        drop(state);
        self.changed.notify_waiters();
    }

    fn ask(&self, ask: QueueAsk, faults: impl FnOnce(&mut QueueFaults) -> &mut Faults) -> (usize, Drawn) {
        let mut state = self.lock();
        let state = &mut *state;
        let drawn = faults(&mut state.faults).draw(&mut state.rng);
        (state.history.ask(&self.who, ask), drawn)
    }

    /// The way of every call: there, effect, back. Faults before the effect keep it from happening, a lost reply
    /// does not.
    async fn call<T: Clone>(
        &self,
        (call, drawn): (usize, Drawn),
        act: impl Future<Output = Result<T, QueueError>>,
        answer: impl FnOnce(T) -> QueueAnswer,
    ) -> Result<T, QueueError> {
        travel(drawn.there).await;
        let exists = self.lock().exists;
        let reply = match drawn.fate {
            Fate::FailBefore => Err(QueueError::Unavailable("connection refused".into())),
            Fate::Throttle => Err(QueueError::Unavailable("RequestThrottled: slow down".into())),
            Fate::Proceed | Fate::LoseReply if !exists => Err(QueueError::Missing("QueueDoesNotExist".into())),
            Fate::Proceed | Fate::LoseReply => {
                let reply = act.await;
                self.lock().history.effect(call);
                reply
            }
        };
        travel(drawn.back).await;
        let reply = match drawn.fate {
            Fate::LoseReply => Err(QueueError::Unavailable("connection reset".into())),
            Fate::Proceed | Fate::FailBefore | Fate::Throttle => reply,
        };
        let told = match &reply {
            Ok(reply) => answer(reply.clone()),
            Err(error) => QueueAnswer::Failed(error.clone()),
        };
        self.lock().history.answer(call, told);
        reply
    }

    async fn poll(&self, max: usize, wait: Duration, visibility: Duration) -> Result<Vec<Message>, QueueError> {
        let deadline = Instant::now() + wait;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable(); // before looking: what arrives from here on wakes us
            let (taken, next) = self.take(max, visibility);
            if !taken.is_empty() || Instant::now() >= deadline || self.lock().faults.impatient {
                return Ok(taken);
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = tokio::time::sleep_until(next.map_or(deadline, |next| next.min(deadline))) => {}
            }
            if !self.lock().exists {
                return Err(QueueError::Missing("QueueDoesNotExist".into()));
            }
        }
    }

    /// What a receive hands out at this instant, and when there may be more.
    fn take(&self, max: usize, visibility: Duration) -> (Vec<Message>, Option<Instant>) {
        let now = Instant::now();
        let mut dead = Vec::new();
        let mut guard = self.lock();
        let state = &mut *guard;
        let too_old = self.wall_ms().saturating_sub(u64::try_from(self.settings.retention.as_millis()).unwrap());
        if too_old > self.settings.epoch_ms {
            state.expire(too_old);
        }
        state.ripen(now);
        let mut room = max.min(self.settings.in_flight_limit.saturating_sub(state.hidden(now, &self.settings)));
        if state.faults.short_receives && room > 1 {
            room = state.rng.usize(1..=room);
        }
        // Any of them may come first, or the oldest does.
        let mut any: Option<Vec<u64>> = state.faults.reorder.then(|| state.ripe.iter().copied().collect());
        let mut taken = Vec::new();
        while taken.len() < room {
            let number = match &mut any {
                Some(numbers) if numbers.is_empty() => None,
                Some(numbers) => Some(numbers.swap_remove(state.rng.usize(..numbers.len()))),
                None => state.ripe.first().copied(),
            };
            let Some(number) = number else { break };
            state.ripe.remove(&number);
            let Some(held) = state.held.get(&number) else { continue };
            if !held.is_due(now) {
                continue;
            }
            if self.settings.redrive.as_ref().is_some_and(|(_, most)| held.count >= *most) {
                let held = state.held.remove(&number).unwrap();
                state.note(Effect::MovedToDeadLetters(held.id.clone()));
                dead.push(held);
                continue;
            }
            taken.push(state.deliver(number, visibility));
            if taken.len() < room && chance(&mut state.rng, state.faults.twice_in_reply) {
                taken.push(state.deliver(number, visibility));
            }
        }
        let next = state.next_ripe();
        drop(guard);
        if let Some((target, _)) = &self.settings.redrive {
            for held in dead {
                // As SQS does it: same id, same SentTimestamp, and the count goes on.
                let arrives = Held::sent(held.id, held.outgoing, held.sent_at_ms);
                target.arrive(Held { count: held.count, moved_from: Some(self.arn()), ..arrives });
            }
        }
        (taken, next)
    }

    /// One entry of a batch: what SQS cannot take is refused alone.
    fn send_entry(&self, message: Outgoing) -> SendReply {
        if let Err(error) = check(&message) {
            return Err(Refusal { code: error.to_string(), sender_fault: true });
        }
        let mut sent = None;
        let reply = {
            let mut state = self.lock();
            state.entry(|_| {
                sent = Some(message);
                Ok(())
            })
        };
        // What is forgotten in the reply has happened all the same.
        let id = sent.map(|message| self.put_message(message));
        reply.and_then(|()| id.ok_or(Refusal { code: "NoReply".into(), sender_fault: false }))
    }

    fn facts_now(&self) -> QueueFacts {
        let now = Instant::now();
        let state = self.lock();
        let count = |is: &dyn Fn(&Held) -> bool| state.held.values().filter(|held| is(held)).count() as u64;
        QueueFacts {
            arn: self.arn(),
            visibility: self.settings.visibility,
            max_receive_count: self.settings.redrive.as_ref().map(|(_, most)| *most),
            dead_letter_arn: self.settings.redrive.as_ref().map(|(target, _)| target.arn()),
            redrive_allow: RedriveAllow::default(),
            retention: self.settings.retention,
            visible: count(&|held| held.visible_from <= now),
            in_flight: count(&|held| held.visible_from > now && held.receipt.is_some()),
            delayed: count(&|held| held.visible_from > now && held.receipt.is_none()),
        }
    }
}

#[async_trait]
impl Queue for ModelQueue {
    async fn receive(&self, max: BatchSize, wait: Duration, visibility: Duration) -> Result<Vec<Message>, QueueError> {
        let (queue, max) = (self.clone(), max.get());
        let asked = self.ask(QueueAsk::Receive { max, wait, visibility }, |faults| &mut faults.receive);
        let goes_on = self.lock().faults.outlive_callers;
        let gone = || self.lock().history.gone(asked.0);
        carry(goes_on, gone, async move {
            queue.call(asked, queue.poll(max, wait, visibility), QueueAnswer::Received).await
        })
        .await
    }

    async fn delete(&self, handles: &[ReceiptHandle]) -> Result<Vec<EntryReply>, QueueError> {
        if handles.is_empty() {
            return Ok(Vec::new()); // the adapter asks nothing either
        }
        let (queue, handles) = (self.clone(), handles.to_vec());
        let asked = self.ask(QueueAsk::Delete(handles.clone()), |faults| &mut faults.delete);
        let goes_on = self.lock().faults.outlive_callers;
        let gone = || self.lock().history.gone(asked.0);
        carry(goes_on, gone, async move {
            let act = async {
                check_batch(handles.len())?;
                let mut state = queue.lock();
                Ok(handles.iter().map(|handle| state.entry(|state| state.delete(handle))).collect())
            };
            queue.call(asked, act, QueueAnswer::Entries).await
        })
        .await
    }

    async fn change_visibility(&self, entries: &[(ReceiptHandle, Duration)]) -> Result<Vec<EntryReply>, QueueError> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let (queue, entries) = (self.clone(), entries.to_vec());
        let asked = self.ask(QueueAsk::Change(entries.clone()), |faults| &mut faults.change);
        let goes_on = self.lock().faults.outlive_callers;
        let gone = || self.lock().history.gone(asked.0);
        carry(goes_on, gone, async move {
            let act = async {
                check_batch(entries.len())?;
                let replies = {
                    let mut state = queue.lock();
                    entries.iter().map(|(handle, time)| state.entry(|state| state.change(handle, *time))).collect()
                };
                queue.changed.notify_waiters();
                Ok(replies)
            };
            queue.call(asked, act, QueueAnswer::Entries).await
        })
        .await
    }

    async fn send(&self, message: &Outgoing) -> Result<MessageId, QueueError> {
        let (queue, message) = (self.clone(), message.clone());
        let asked = self.ask(QueueAsk::Send(message.clone()), |faults| &mut faults.send);
        let goes_on = self.lock().faults.outlive_callers;
        let gone = || self.lock().history.gone(asked.0);
        carry(goes_on, gone, async move {
            let act = async {
                check(&message)?;
                Ok(queue.put_message(message))
            };
            queue.call(asked, act, QueueAnswer::Sent).await
        })
        .await
    }

    async fn send_batch(&self, messages: &[Outgoing]) -> Result<Vec<SendReply>, QueueError> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let (queue, messages) = (self.clone(), messages.to_vec());
        let asked = self.ask(QueueAsk::SendBatch(messages.clone()), |faults| &mut faults.send);
        let goes_on = self.lock().faults.outlive_callers;
        let gone = || self.lock().history.gone(asked.0);
        carry(goes_on, gone, async move {
            let act = async {
                check_batch(messages.len())?;
                if messages.iter().map(|message| message.body.len()).sum::<usize>() > SQS_MAX_MESSAGE_BYTES {
                    return Err(QueueError::Refused("BatchRequestTooLong".into()));
                }
                Ok(messages.into_iter().map(|message| queue.send_entry(message)).collect())
            };
            queue.call(asked, act, QueueAnswer::SentBatch).await
        })
        .await
    }

    async fn facts(&self) -> Result<QueueFacts, QueueError> {
        let asked = self.ask(QueueAsk::Facts, |faults| &mut faults.facts);
        let queue = self.clone();
        let gone = || self.lock().history.gone(asked.0);
        let act = async move { queue.call(asked, async { Ok(queue.facts_now()) }, QueueAnswer::Facts).await };
        carry(false, gone, act).await
    }
}
