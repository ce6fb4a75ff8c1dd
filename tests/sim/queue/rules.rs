//! The rules of the model queue: what SQS does to one message at one instant, under one lock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fastrand::Rng;
use quittance::message::{AttributeValue, Message, MessageAttribute, MessageId, ReceiptHandle};
use quittance::queue::{
    EntryReply, Outgoing, QueueError, Refusal, SQS_MAX_ATTRIBUTES, SQS_MAX_BATCH, SQS_MAX_MESSAGE_BYTES,
    SQS_MAX_VISIBILITY,
};
use tokio::time::Instant;

use super::QueueSettings;
use super::words::{Effect, QueueAnswer, QueueAsk, QueueFaults, StaleDelete};
use crate::sim::faults::{History, Stamp, between, chance};

#[derive(Clone)]
pub(super) struct Held {
    pub(super) id: MessageId,
    pub(super) outgoing: Outgoing,
    pub(super) sent_at_ms: u64,
    /// ARN of the queue that SQS itself moved it from.
    pub(super) moved_from: Option<String>,
    pub(super) count: u32,
    pub(super) visible_from: Instant,
    /// Delivered a second time from here on, although hidden.
    pub(super) again_from: Option<Instant>,
    /// The newest receipt's, and when it was received.
    pub(super) receipt: Option<(String, Instant)>,
    /// Deleted, and about to be delivered once more.
    pub(super) risen: bool,
}

impl Held {
    pub(super) fn sent(id: MessageId, outgoing: Outgoing, sent_at_ms: u64) -> Self {
        let visible_from = Instant::now();
        let (moved_from, again_from, receipt) = (None, None, None);
        Self { id, outgoing, sent_at_ms, moved_from, count: 0, visible_from, again_from, receipt, risen: false }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.visible_from <= now || self.again_from.is_some_and(|from| from <= now)
    }
}

pub(super) struct State {
    pub(super) rng: Rng,
    pub(super) faults: QueueFaults,
    /// By order of arrival.
    pub(super) held: BTreeMap<u64, Held>,
    /// Those that were due when it was looked: a receive asks them again, and need not look at all the others.
    pub(super) ripe: BTreeSet<u64>,
    /// When to look at a message again. May be out of date: it is asked then.
    pub(super) ripening: BTreeSet<(Instant, u64)>,
    pub(super) arrivals: u64,
    /// Every handle ever given out, and whose it was.
    pub(super) handles: BTreeMap<String, u64>,
    pub(super) history: History<QueueAsk, QueueAnswer>,
    pub(super) effects: Vec<(Stamp, Effect)>,
    pub(super) exists: bool,
}

impl State {
    pub(super) fn note(&mut self, effect: Effect) {
        let stamp = self.history.stamp();
        self.effects.push((stamp, effect));
    }

    pub(super) fn new_id(&mut self) -> MessageId {
        let (high, low) = (self.rng.u64(..), self.rng.u64(..));
        let (a, b, c, d) = (high >> 32, (high >> 16) & 0xffff, high & 0xffff, low >> 48);
        MessageId(format!("{a:08x}-{b:04x}-{c:04x}-{d:04x}-{:012x}", low & 0xffff_ffff_ffff))
    }

    /// A message is due from then on, unless something happens to it before.
    pub(super) fn ripens(&mut self, number: u64, from: Instant) {
        self.ripening.insert((from, number));
    }

    /// Moves what is due by now to where a receive looks.
    pub(super) fn ripen(&mut self, now: Instant) {
        while let Some((from, number)) = self.ripening.first().copied() {
            if from > now {
                return;
            }
            self.ripening.pop_first();
            if self.held.get(&number).is_some_and(|held| held.is_due(now)) {
                self.ripe.insert(number);
            }
        }
    }

    /// The queue's retention, from the first send on.
    pub(super) fn expire(&mut self, too_old_ms: u64) {
        let expired: Vec<u64> =
            self.held.iter().filter(|(_, held)| held.sent_at_ms < too_old_ms).map(|(number, _)| *number).collect();
        for number in expired {
            if let Some(held) = self.held.remove(&number) {
                self.note(Effect::Expired(held.id));
            }
        }
    }

    /// When there may be more than there is now.
    pub(super) fn next_ripe(&self) -> Option<Instant> {
        self.ripening.first().map(|(from, _)| *from)
    }

    /// Messages in flight; counted only where there may be too many.
    pub(super) fn hidden(&self, now: Instant, settings: &QueueSettings) -> usize {
        if self.held.len() < settings.in_flight_limit {
            return 0;
        }
        self.held.values().filter(|held| held.receipt.is_some() && held.visible_from > now).count()
    }

    pub(super) fn deliver(&mut self, number: u64, visibility: Duration) -> Message {
        let now = Instant::now();
        let early = chance(&mut self.rng, self.faults.redeliver_early);
        let again_from = early.then(|| now + between(&mut self.rng, (Duration::ZERO, visibility)));
        let others = if chance(&mut self.rng, self.faults.miscount) { self.rng.u32(1..=3) } else { 0 };
        let handle = format!("handle-{}-{:016x}", self.handles.len(), self.rng.u64(..));
        self.handles.insert(handle.clone(), number);
        let held = self.held.get_mut(&number).unwrap();
        held.count += 1 + others;
        held.visible_from = now + visibility;
        held.again_from = again_from;
        held.receipt = Some((handle.clone(), now));
        self.ripening.insert((now + visibility, number));
        self.ripening.extend(again_from.map(|from| (from, number)));
        let message = Message {
            id: held.id.clone(),
            handle: ReceiptHandle(handle),
            body: held.outgoing.body.clone(),
            attributes: held.outgoing.attributes.clone(),
            receive_count: held.count,
            sent_at_ms: Some(held.sent_at_ms),
            group_id: held.outgoing.group_id.clone(),
            moved_from: held.moved_from.clone(),
        };
        let (id, handle, count) = (message.id.clone(), message.handle.clone(), message.receive_count);
        self.note(Effect::Delivered { id, handle, count, until: now + visibility });
        message
    }

    /// Decides one batch entry: refused, done, or done and left out of the reply.
    pub(super) fn entry(&mut self, act: impl FnOnce(&mut Self) -> EntryReply) -> EntryReply {
        let scripted = self.faults.next_entries.pop_front().flatten();
        let drawn = chance(&mut self.rng, self.faults.refuse_entry).then(|| refusal("InternalError", false));
        if let Some(refusal) = scripted.or(drawn) {
            return Err(refusal);
        }
        let reply = act(self);
        if chance(&mut self.rng, self.faults.forget_entry) { Err(refusal("NoReply", false)) } else { reply }
    }

    pub(super) fn delete(&mut self, handle: &ReceiptHandle) -> EntryReply {
        let Some(number) = self.handles.get(&handle.0).copied() else {
            return Err(refusal("ReceiptHandleIsInvalid", true));
        };
        let Some(held) = self.held.get_mut(&number) else { return Ok(()) }; // deleted before: SQS says yes
        let current = held.receipt.as_ref().is_some_and(|(current, _)| *current == handle.0);
        let deletes = match self.faults.stale_delete {
            StaleDelete::Deletes => true,
            StaleDelete::Ignored => false,
            StaleDelete::Either => self.rng.bool(),
        };
        if !current && !deletes {
            return Ok(());
        }
        let id = held.id.clone();
        if !held.risen && chance(&mut self.rng, self.faults.rise_after_delete) {
            held.risen = true;
            held.receipt = None;
            held.again_from = None;
            held.visible_from = Instant::now() + between(&mut self.rng, (Duration::ZERO, Duration::from_secs(120)));
            let from = held.visible_from;
            self.ripens(number, from);
        } else {
            self.held.remove(&number);
        }
        self.note(Effect::Deleted { id, handle: handle.clone() });
        Ok(())
    }

    pub(super) fn change(&mut self, handle: &ReceiptHandle, visibility: Duration) -> EntryReply {
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
        self.ripening.insert((until, *number));
        let id = held.id.clone();
        self.note(Effect::Hidden { id, handle: handle.clone(), until });
        Ok(())
    }
}

fn refusal(code: &str, sender_fault: bool) -> Refusal {
    Refusal { code: code.into(), sender_fault }
}

/// What SQS refuses to take.
pub(super) fn check(message: &Outgoing) -> Result<(), QueueError> {
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

pub(super) fn check_batch(entries: usize) -> Result<(), QueueError> {
    if entries > SQS_MAX_BATCH { Err(QueueError::Refused("TooManyEntriesInBatchRequest".into())) } else { Ok(()) }
}
