//! The model of an SQS queue, on tokio's clock: what LocalStack does not show (stack.md), and every fault §3.2 needs.
//!
//! Promises SQS's rules: visibility by the moment, receive counts, a redrive policy applied on receive, the 12-hour
//! cap, handles that go stale. Everything else (duplicates, reordering, lost replies, …) is off until switched on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use quittance::message::{AttributeValue, Message, MessageAttribute, MessageId, ReceiptHandle};
use quittance::queue::{
    BatchSize, EntryReply, Outgoing, Queue, QueueError, QueueFacts, Refusal, SQS_MAX_ATTRIBUTES, SQS_MAX_BATCH,
    SQS_MAX_MESSAGE_BYTES, SQS_MAX_VISIBILITY,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::faults::{Call, Drawn, Fate, Faults, History, Stamp, Ticks, between, carry, chance, travel};

/// What a delete with an old handle does, when the message has been delivered again since. SQS promises nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StaleDelete {
    /// Says yes, and deletes nothing.
    #[default]
    Ignored,
    /// Says yes, and deletes, under the newer receipt's feet.
    Deletes,
}

/// What can go wrong with a queue.
#[derive(Clone, Debug)]
pub struct QueueFaults {
    pub receive: Faults,
    pub delete: Faults,
    pub change: Faults,
    pub send: Faults,
    pub facts: Faults,
    /// Share of batch entries that are refused (`InternalError`, not the sender's fault), without effect.
    pub refuse_entry: f64,
    /// Share of batch entries that take effect and are left out of the reply (the port says `NoReply`).
    pub forget_entry: f64,
    /// Refusals of the next batch entries, in order (`None`: proceed).
    pub next_entries: VecDeque<Option<Refusal>>,
    /// Any visible message may come first.
    pub reorder: bool,
    /// A receive may hand out fewer messages than there are.
    pub short_receives: bool,
    /// Share of deliveries that are in the same reply a second time.
    pub twice_in_reply: f64,
    /// Share of deliveries that are delivered again while the first receipt still holds the message.
    pub redeliver_early: f64,
    /// Share of deleted messages that are delivered once more.
    pub rise_after_delete: f64,
    pub stale_delete: StaleDelete,
    /// The code of a visibility change with an old handle.
    pub stale_change: &'static str,
    /// A call goes on at the service when its caller went away.
    pub outlive_callers: bool,
}

impl Default for QueueFaults {
    fn default() -> Self {
        Self {
            receive: Faults::default(),
            delete: Faults::default(),
            change: Faults::default(),
            send: Faults::default(),
            facts: Faults::default(),
            refuse_entry: 0.0,
            forget_entry: 0.0,
            next_entries: VecDeque::new(),
            reorder: false,
            short_receives: false,
            twice_in_reply: 0.0,
            redeliver_early: 0.0,
            rise_after_delete: 0.0,
            stale_delete: StaleDelete::default(),
            stale_change: "ReceiptHandleIsInvalid",
            outlive_callers: false,
        }
    }
}

impl QueueFaults {
    /// Sets the faults of all operations alike.
    pub fn all(&mut self, faults: &Faults) {
        for operation in [&mut self.receive, &mut self.delete, &mut self.change, &mut self.send, &mut self.facts] {
            *operation = faults.clone();
        }
    }
}

#[derive(Clone, PartialEq, Debug)]
pub enum QueueAsk {
    Receive { max: usize, wait: Duration, visibility: Duration },
    Delete(Vec<ReceiptHandle>),
    Change(Vec<(ReceiptHandle, Duration)>),
    Send(Outgoing),
    Facts,
}

#[derive(Clone, PartialEq, Debug)]
pub enum QueueAnswer {
    Received(Vec<Message>),
    Entries(Vec<EntryReply>),
    Sent(MessageId),
    Facts(QueueFacts),
    Failed(QueueError),
}

/// What really happened to a message, whatever was answered.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    Arrived(MessageId),
    Delivered {
        id: MessageId,
        handle: ReceiptHandle,
        count: u32,
        until: Instant,
    },
    Hidden {
        id: MessageId,
        handle: ReceiptHandle,
        until: Instant,
    },
    Deleted {
        id: MessageId,
        handle: ReceiptHandle,
    },
    /// By the redrive policy.
    MovedToDeadLetters(MessageId),
}

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

#[derive(Clone)]
struct Held {
    id: MessageId,
    outgoing: Outgoing,
    sent_at_ms: u64,
    count: u32,
    visible_from: Instant,
    /// Delivered a second time from here on, although hidden.
    again_from: Option<Instant>,
    /// The newest receipt's, and when it was received.
    receipt: Option<(String, Instant)>,
    /// Deleted, and about to be delivered once more.
    risen: bool,
}

struct State {
    rng: Rng,
    faults: QueueFaults,
    /// By order of arrival.
    held: BTreeMap<u64, Held>,
    arrivals: u64,
    /// Every handle ever given out, and whose it was.
    handles: BTreeMap<String, u64>,
    history: History<QueueAsk, QueueAnswer>,
    effects: Vec<(Stamp, Effect)>,
    exists: bool,
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
        self.arrive(id.clone(), outgoing, sent_at_ms, 0);
        id
    }

    /// The messages that are there and not deleted, oldest first: id, body and attributes, receive count.
    pub fn live(&self) -> Vec<(MessageId, Outgoing, u32)> {
        let state = self.lock();
        let held = state.held.values().filter(|held| !held.risen);
        held.map(|held| (held.id.clone(), held.outgoing.clone(), held.count)).collect()
    }

    /// Messages that nobody holds.
    pub fn visible(&self) -> usize {
        let now = Instant::now();
        self.lock().held.values().filter(|held| held.visible_from <= now).count()
    }

    pub fn calls(&self) -> Vec<Call<QueueAsk, QueueAnswer>> {
        self.lock().history.calls.clone()
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

    fn arrive(&self, id: MessageId, outgoing: Outgoing, sent_at_ms: u64, count: u32) {
        let visible_from = Instant::now() + self.settings.delay;
        let mut state = self.lock();
        state.note(Effect::Arrived(id.clone()));
        let held =
            Held { id, outgoing, sent_at_ms, count, visible_from, again_from: None, receipt: None, risen: false };
        let number = state.arrivals;
        state.arrivals += 1;
        state.held.insert(number, held);
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
            if !taken.is_empty() || Instant::now() >= deadline {
                return Ok(taken);
            }
            tokio::select! {
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
        let due = |held: &Held| held.visible_from <= now || held.again_from.is_some_and(|from| from <= now);
        let mut numbers: Vec<u64> =
            state.held.iter().filter(|(_, held)| due(held)).map(|(number, _)| *number).collect();
        if state.faults.reorder {
            state.rng.shuffle(&mut numbers);
        }
        let hidden = state.held.values().filter(|held| held.receipt.is_some() && held.visible_from > now).count();
        let mut room = max.min(self.settings.in_flight_limit.saturating_sub(hidden));
        if state.faults.short_receives && room > 1 {
            room = state.rng.usize(1..=room);
        }
        let mut taken = Vec::new();
        for number in numbers {
            if taken.len() >= room {
                break;
            }
            let count = state.held[&number].count;
            if self.settings.redrive.as_ref().is_some_and(|(_, most)| count >= *most) {
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
        let times = state.held.values().flat_map(|held| [Some(held.visible_from), held.again_from]).flatten();
        let next = times.filter(|from| *from > now).min();
        drop(guard);
        if let Some((target, _)) = &self.settings.redrive {
            for held in dead {
                // As SQS does it: same id, same SentTimestamp, and the count goes on.
                target.arrive(held.id, held.outgoing, held.sent_at_ms, held.count);
            }
        }
        (taken, next)
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
            retention: self.settings.retention,
            visible: count(&|held| held.visible_from <= now),
            in_flight: count(&|held| held.visible_from > now && held.receipt.is_some()),
            delayed: count(&|held| held.visible_from > now && held.receipt.is_none()),
        }
    }
}

impl State {
    fn note(&mut self, effect: Effect) {
        let stamp = self.history.stamp();
        self.effects.push((stamp, effect));
    }

    fn new_id(&mut self) -> MessageId {
        let (high, low) = (self.rng.u64(..), self.rng.u64(..));
        let (a, b, c, d) = (high >> 32, (high >> 16) & 0xffff, high & 0xffff, low >> 48);
        MessageId(format!("{a:08x}-{b:04x}-{c:04x}-{d:04x}-{:012x}", low & 0xffff_ffff_ffff))
    }

    fn deliver(&mut self, number: u64, visibility: Duration) -> Message {
        let now = Instant::now();
        let early = chance(&mut self.rng, self.faults.redeliver_early);
        let again_from = early.then(|| now + between(&mut self.rng, (Duration::ZERO, visibility)));
        let handle = format!("handle-{}-{:016x}", self.handles.len(), self.rng.u64(..));
        self.handles.insert(handle.clone(), number);
        let held = self.held.get_mut(&number).unwrap();
        held.count += 1;
        held.visible_from = now + visibility;
        held.again_from = again_from;
        held.receipt = Some((handle.clone(), now));
        let message = Message {
            id: held.id.clone(),
            handle: ReceiptHandle(handle),
            body: held.outgoing.body.clone(),
            attributes: held.outgoing.attributes.clone(),
            receive_count: held.count,
            sent_at_ms: Some(held.sent_at_ms),
            group_id: held.outgoing.group_id.clone(),
        };
        let (id, handle, count) = (message.id.clone(), message.handle.clone(), message.receive_count);
        self.note(Effect::Delivered { id, handle, count, until: now + visibility });
        message
    }

    /// Decides one batch entry: refused, done, or done and left out of the reply.
    fn entry(&mut self, act: impl FnOnce(&mut Self) -> EntryReply) -> EntryReply {
        let scripted = self.faults.next_entries.pop_front().flatten();
        let drawn = chance(&mut self.rng, self.faults.refuse_entry).then(|| refusal("InternalError", false));
        if let Some(refusal) = scripted.or(drawn) {
            return Err(refusal);
        }
        let reply = act(self);
        if chance(&mut self.rng, self.faults.forget_entry) { Err(refusal("NoReply", false)) } else { reply }
    }

    fn delete(&mut self, handle: &ReceiptHandle) -> EntryReply {
        let Some(number) = self.handles.get(&handle.0).copied() else {
            return Err(refusal("ReceiptHandleIsInvalid", true));
        };
        let Some(held) = self.held.get_mut(&number) else { return Ok(()) }; // deleted before: SQS says yes
        let current = held.receipt.as_ref().is_some_and(|(current, _)| *current == handle.0);
        if !current && self.faults.stale_delete == StaleDelete::Ignored {
            return Ok(());
        }
        let id = held.id.clone();
        if !held.risen && chance(&mut self.rng, self.faults.rise_after_delete) {
            held.risen = true;
            held.receipt = None;
            held.again_from = None;
            held.visible_from = Instant::now() + between(&mut self.rng, (Duration::ZERO, Duration::from_secs(120)));
        } else {
            self.held.remove(&number);
        }
        self.note(Effect::Deleted { id, handle: handle.clone() });
        Ok(())
    }

    fn change(&mut self, handle: &ReceiptHandle, visibility: Duration) -> EntryReply {
        let now = Instant::now();
        let Some(number) = self.handles.get(&handle.0) else {
            return Err(refusal("ReceiptHandleIsInvalid", true));
        };
        let Some(held) = self.held.get_mut(number) else {
            return Err(refusal("InvalidParameterValue", true)); // SQS: "message does not exist"
        };
        let Some(received) = held.receipt.as_ref().filter(|(current, _)| *current == handle.0).map(|(_, at)| *at)
        else {
            return Err(refusal(self.faults.stale_change, true));
        };
        if held.visible_from <= now {
            return Err(refusal("MessageNotInflight", true));
        }
        let until = now + visibility;
        if until > received + SQS_MAX_VISIBILITY {
            return Err(refusal("InvalidParameterValue", true)); // SQS: "total VisibilityTimeout beyond the limit"
        }
        held.visible_from = until;
        let id = held.id.clone();
        self.note(Effect::Hidden { id, handle: handle.clone(), until });
        Ok(())
    }
}

fn refusal(code: &str, sender_fault: bool) -> Refusal {
    Refusal { code: code.into(), sender_fault }
}

/// What SQS refuses to take.
fn check(message: &Outgoing) -> Result<(), QueueError> {
    let refused = |why: &str| Err(QueueError::Refused(why.into()));
    let attribute = |(name, attribute): (&String, &MessageAttribute)| {
        let value = match &attribute.value {
            AttributeValue::Text(text) => text.len(),
            AttributeValue::Binary(bytes) => bytes.len(),
        };
        name.len() + attribute.data_type.len() + value
    };
    let legal =
        |c: char| matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    if message.body.is_empty() {
        refused("MissingParameter: MessageBody")
    } else if message.body.len() + message.attributes.iter().map(attribute).sum::<usize>() > SQS_MAX_MESSAGE_BYTES {
        refused("InvalidParameterValue: message too long")
    } else if message.attributes.len() > SQS_MAX_ATTRIBUTES {
        refused("InvalidParameterValue: more than 10 attributes")
    } else if !message.body.chars().all(legal) {
        refused("InvalidMessageContents")
    } else {
        Ok(())
    }
}

fn check_batch(entries: usize) -> Result<(), QueueError> {
    if entries > SQS_MAX_BATCH { Err(QueueError::Refused("TooManyEntriesInBatchRequest".into())) } else { Ok(()) }
}

#[async_trait]
impl Queue for ModelQueue {
    async fn receive(&self, max: BatchSize, wait: Duration, visibility: Duration) -> Result<Vec<Message>, QueueError> {
        let (queue, max) = (self.clone(), max.get());
        let asked = self.ask(QueueAsk::Receive { max, wait, visibility }, |faults| &mut faults.receive);
        let goes_on = self.lock().faults.outlive_callers;
        carry(goes_on, async move { queue.call(asked, queue.poll(max, wait, visibility), QueueAnswer::Received).await })
            .await
    }

    async fn delete(&self, handles: &[ReceiptHandle]) -> Result<Vec<EntryReply>, QueueError> {
        if handles.is_empty() {
            return Ok(Vec::new()); // the adapter asks nothing either
        }
        let (queue, handles) = (self.clone(), handles.to_vec());
        let asked = self.ask(QueueAsk::Delete(handles.clone()), |faults| &mut faults.delete);
        let goes_on = self.lock().faults.outlive_callers;
        carry(goes_on, async move {
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
        carry(goes_on, async move {
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
        carry(goes_on, async move {
            let act = async {
                check(&message)?;
                Ok(queue.put_message(message))
            };
            queue.call(asked, act, QueueAnswer::Sent).await
        })
        .await
    }

    async fn facts(&self) -> Result<QueueFacts, QueueError> {
        let asked = self.ask(QueueAsk::Facts, |faults| &mut faults.facts);
        self.call(asked, async { Ok(self.facts_now()) }, QueueAnswer::Facts).await
    }
}
