//! P7: no work without a lease, one call at a time per receipt, never more in flight than the limit.
//!
//! A lease counts from when its request was *sent*, and moves only by an extension that was acknowledged. What the
//! worker believed of it is not asked.

use tokio::time::Instant;

use super::facts::{Delivery, Facts, Verb};
use super::{Findings, LEASE, LIMIT, ONE_CALL, name};
use crate::sim::faults::Stamp;
use crate::sim::queue::{QueueAnswer, QueueAsk};
use crate::sim::store::StoreAsk;

/// The time in which one delivery is its life's, as that life knows it from answers.
pub struct Lease {
    first: Instant,
    /// In the order heard: when it was heard, until when.
    moves: Vec<(Stamp, Instant)>,
    /// When SQS was first heard to say that the receipt is not ours: no time brings it back.
    refused: Option<Stamp>,
}

impl Lease {
    pub fn of(facts: &Facts<'_>, delivery: &Delivery<'_>) -> Self {
        let (mut moves, mut refused) = (Vec::new(), None);
        for entry in &delivery.entries {
            let Some((stamp, reply)) = entry.reply else { continue };
            let stamp = facts.thawed(delivery.life, stamp);
            match (entry.verb, reply) {
                (Verb::Extend(granted), Ok(())) => moves.push((stamp, entry.call.asked.at + granted)),
                (_, Err(refusal)) if refusal.is_final() => refused = refused.or(Some(stamp)),
                (Verb::Delete | Verb::Extend(_) | Verb::Return(_), _) => {}
            }
        }
        Self { first: delivery.asked.at + facts.lives[delivery.life].setup.visibility, moves, refused }
    }

    /// Until when, as known at this place in the history.
    pub fn until(&self, at: Stamp) -> Instant {
        let known = self.moves.iter().rev().find(|(heard, _)| heard.order < at.order);
        known.map_or(self.first, |(_, until)| *until)
    }

    /// What goes out in the very instant in which a refusal is heard crosses it: the calls have tasks of their own.
    pub fn is_over(&self, at: Stamp) -> bool {
        let refused = self.refused.is_some_and(|heard| heard.order < at.order && heard.at < at.at);
        refused || self.until(at) <= at.at
    }

    /// It was over at some time before, even if an extension was heard of later: the work may have been told to stop.
    pub fn has_lapsed(&self, at: Stamp) -> bool {
        if self.refused.is_some_and(|heard| heard.order < at.order) {
            return true;
        }
        let mut until = self.first;
        for (heard, next) in self.moves.iter().filter(|(heard, _)| heard.order < at.order) {
            if until <= heard.at {
                return true;
            }
            until = *next;
        }
        until <= at.at
    }
}

/// No record and no dead letter is asked for without a lease on its message, and nobody extends or returns a receipt
/// whose lease is over. Returns how many writes were looked at.
pub fn no_write_without_a_lease(facts: &Facts<'_>, findings: &mut Findings) -> usize {
    let mut seen = 0;
    let mut held = |life: usize, subject: Option<usize>, at: Stamp| {
        seen += 1;
        let deliveries = subject.map_or(&[][..], |subject| &facts.subjects[subject].deliveries);
        deliveries.iter().map(|number| &facts.deliveries[*number]).any(|delivery| {
            delivery.life == life && delivery.heard.order < at.order && !Lease::of(facts, delivery).is_over(at)
        })
    };
    for (life, doc, call) in &facts.record_puts {
        let StoreAsk::Put { metadata, .. } = &call.ask else { continue };
        let id = metadata.get("message-id").map(String::as_str).unwrap_or_default();
        findings.unless(held(*life, facts.of_message.get(id).copied(), call.asked), LEASE, || {
            let key = &facts.docs[*doc].key;
            format!("{} wrote a record of {key} for {id} without a lease at {:?}", facts.who(*life), call.asked)
        });
    }
    for letter in &facts.letters {
        findings.unless(held(letter.life, letter.subject, letter.call.asked), LEASE, || {
            let note = &letter.note;
            format!("{} sent a dead letter without a lease at {:?}: {note}", facts.who(letter.life), letter.call.asked)
        });
    }
    for delivery in &facts.deliveries {
        if delivery.entries.iter().all(|entry| entry.verb == Verb::Delete) {
            continue; // a delete follows finished work, whatever the time
        }
        let lease = Lease::of(facts, delivery);
        for entry in delivery.entries.iter().filter(|entry| entry.verb != Verb::Delete) {
            let asked = entry.call.asked;
            findings.unless(!lease.is_over(asked), LEASE, || {
                let since = asked.at - lease.until(asked);
                format!("{}: {:?} at {asked:?}, {since:?} after its lease", name(facts, delivery), entry.verb)
            });
        }
    }
    seen
}

/// Of the deletes and visibility changes of one receipt, no two are under way at once; and nothing follows an
/// acknowledged delete.
pub fn one_call_at_a_time(facts: &Facts<'_>, findings: &mut Findings) {
    for delivery in &facts.deliveries {
        let mut deleted = false;
        for (entry, before) in
            delivery.entries.iter().zip(std::iter::once(None).chain(delivery.entries.iter().map(Some)))
        {
            findings.unless(!deleted, ONE_CALL, || {
                format!("{}: {:?} after an acknowledged delete", name(facts, delivery), entry.verb)
            });
            let over =
                before.is_none_or(|before| before.call.over().is_some_and(|over| over.order < entry.call.asked.order));
            findings.unless(over, ONE_CALL, || {
                let other = before.map(|before| before.verb);
                format!("{}: {:?} while {other:?} is under way", name(facts, delivery), entry.verb)
            });
            deleted |= entry.verb == Verb::Delete && matches!(entry.reply, Some((_, Ok(()))));
        }
    }
    for call in &facts.strangers {
        findings.add(ONE_CALL, format!("{} names a receipt that it was never given: {:?}", call.who, call.ask));
    }
}

/// At no poll can a life hold more messages than its limit: what SQS has not answered for is in flight, and so is what
/// an open poll may bring. Returns the most that any of them could.
pub fn within_the_limit(facts: &Facts<'_>, findings: &mut Findings) -> i64 {
    let mut most = 0;
    let mut steps: Vec<(u64, i64)> = Vec::new();
    for (number, life) in facts.lives.iter().enumerate() {
        let limit = i64::try_from(life.setup.concurrency).unwrap();
        steps.clear();
        for poll in &life.polls {
            let QueueAsk::Receive { max, .. } = poll.ask else { continue };
            let max = i64::try_from(max).unwrap();
            steps.push((poll.asked.order, max));
            let Some(over) = poll.over() else { continue };
            let brought = match facts.heard(number, poll) {
                Some((_, QueueAnswer::Received(messages))) => i64::try_from(messages.len()).unwrap(),
                Some(_) | None => 0,
            };
            steps.push((over.order, brought - max));
        }
        for number in &life.deliveries {
            let delivery = &facts.deliveries[*number];
            let acknowledged = delivery.acknowledged().map(|(stamp, _)| stamp);
            // Where there are lines, they say when a receipt left the worker's hands; P10 holds them to the answers.
            let left =
                if life.story.is_some() { delivery.settled.first().map(|line| line.stamp) } else { acknowledged };
            steps.extend(left.map(|left| (left.order, -1)));
        }
        steps.sort_unstable();
        let mut held = 0;
        for (order, step) in &steps {
            held += step;
            most = most.max(held);
            findings.unless(held <= limit, LIMIT, || format!("{}: {held} in flight, of {limit}, at {order}", life.who));
        }
    }
    most
}
