//! What must hold over everything the services remember of a run: single rules of the judge, for tests of one promise.
//!
//! The rules themselves are the judge's: there is one implementation of each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quittance::message::MessageId;

use super::judge::{self, durable, ends, leases};
use super::queue::{Effect, ModelQueue};
use super::worker::Setup;
use super::{QueueAsk, World};

/// P7: of the deletes and visibility changes of one receipt, no two are ever under way at once; and nothing follows
/// an acknowledged delete.
pub fn one_call_at_a_time(world: &World) {
    let who: BTreeSet<_> = world.queue.look(|memory| memory.calls.iter().map(|call| call.who.clone()).collect());
    let who: Vec<&str> = who.iter().map(|who| &**who).collect();
    judge::part(world, &who, &Setup::default(), leases::one_call_at_a_time);
}

/// Calls of `who` that carried more than one entry for a delete.
pub fn delete_batches(queue: &ModelQueue, who: &str) -> Vec<usize> {
    let calls = queue.calls();
    let of = calls.iter().filter(|call| *call.who == *who);
    of.filter_map(|call| if let QueueAsk::Delete(handles) = &call.ask { Some(handles.len()) } else { None }).collect()
}

/// P7: `who` asked for no record and no dead letter of a message at an instant at which it held no lease on it, a
/// lease counting from when its call was *sent*. Returns how many were looked at.
pub fn no_write_without_a_lease(world: &World, who: &str, visibility: Duration) -> usize {
    let setup = Setup { visibility, ..Setup::default() };
    judge::part(world, &[who], &setup, leases::no_write_without_a_lease)
}

/// P7: at no poll could `who` hold more messages than `limit`: what SQS has not answered for is in flight. Returns the
/// most that it could.
pub fn within_the_limit(world: &World, who: &str, limit: usize) -> i64 {
    let setup = Setup { concurrency: limit, ..Setup::default() };
    judge::part(world, &[who], &setup, leases::within_the_limit)
}

/// P3: `who` asked for no delete before it knew from answers that the message's work is durable. Returns the number of
/// deletes that were looked at.
pub fn durable_before_deleted(world: &World, who: &str) -> usize {
    judge::part(world, &[who], &Setup::default(), durable::durable_before_deleted).deletes
}

/// P8: for each key, record and index are what the bucket holds. A key that was never recorded must not be there.
pub fn in_step(world: &World, keys: &[&str]) -> Result<(), String> {
    judge::remembering(world, |memories| {
        let facts = judge::facts::Facts::of(memories, [], [], keys.iter().copied());
        keys.iter().try_for_each(|key| ends::key_in_step(&facts, memories, key))
    })
}

/// Messages that the main queue has really deleted, as often as it has.
pub fn really_deleted(queue: &ModelQueue) -> Vec<MessageId> {
    let effects = queue.effects().into_iter();
    effects.filter_map(|(_, effect)| if let Effect::Deleted { id, .. } = effect { Some(id) } else { None }).collect()
}

/// How often each message was delivered.
pub fn receives(queue: &ModelQueue) -> BTreeMap<MessageId, u32> {
    let mut counts = BTreeMap::new();
    for (_, effect) in queue.effects() {
        if let Effect::Delivered { id, count, .. } = effect {
            counts.insert(id, count);
        }
    }
    counts
}
