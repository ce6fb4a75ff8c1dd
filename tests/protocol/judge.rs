//! What must hold: P3 in every state, P8 in every quiet one, and that a record only moves forward.

use crate::model::{Flaw, Model};
use crate::rules::Content;
use crate::scenario::Operation;
use crate::world::{At, Call, ReplayAt, World};

/// A broken promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    pub rule: &'static str,
    pub what: String,
}

fn broken(rule: &'static str, what: String) -> Result<(), Broken> {
    Err(Broken { rule, what })
}

impl Model {
    /// Judges a step by the worlds before and after it.
    pub fn judge_step(&self, before: &World, after: &World) -> Result<(), Broken> {
        let (was, is) = (before.record, after.record);
        if was == is || self.only_ends {
            return Ok(());
        }
        if is.revision <= was.revision {
            return broken("record", format!("revision {} was written over {}", is.revision, was.revision));
        }
        if is.sequencer < was.sequencer {
            return broken("record", format!("sequencer {} was written over {}", is.sequencer, was.sequencer));
        }
        Ok(())
    }

    /// Judges a state.
    pub fn judge_world(&self, world: &World) -> Result<(), Broken> {
        if !self.only_ends {
            if world.index.revision > world.record.revision {
                return broken("P8", format!("the index holds revision {}, which no record has", world.index.revision));
            }
            self.durable_before_deleted(world)?;
        }
        if self.is_quiet(world) { self.in_step(world) } else { Ok(()) }
    }

    /// P3: each message that is gone left a record at least as new as each of its changes, and that record is in the
    /// index, or parked, or owed by a message that is still in the queue.
    fn durable_before_deleted(&self, world: &World) -> Result<(), Broken> {
        if world.deleted == 0 {
            return Ok(());
        }
        let contents = &self.scenario.changes[..usize::from(world.happened)];
        for (message, (first, end)) in (0..).zip(&self.scenario.messages) {
            if !world.is_deleted(message) {
                continue;
            }
            if !world.record.is_there() {
                return broken("P3", format!("message {} is gone and there is no record", message + 1));
            }
            // At least as new as the last change: it says what the bucket held then or at some time since.
            let since = &contents[usize::from(*end) - 1..];
            if !since.iter().any(|change| change.content == world.record.content) {
                let (said, change) = (world.record.content, first + 1);
                return broken(
                    "P3",
                    format!("message {} (change {change}) is gone, the record says {said:?}", message + 1),
                );
            }
        }
        if self.index_is_in_step(world) || world.markers.any() || self.is_owed(world) {
            return Ok(());
        }
        let (record, index) = (world.record, world.index);
        broken("P3", format!("nobody owes the index anything, which holds {index:?}; the record is {record:?}"))
    }

    /// By revision, or because it says the same: a duplicate may have written the same once more and died.
    fn index_is_in_step(&self, world: &World) -> bool {
        world.index.revision >= world.record.revision || self.shown(world) == world.record.content
    }

    /// A hard delete leaves nothing to compare: nothing is as good as deleted then.
    fn shown(&self, world: &World) -> Content {
        match (self.flaw, world.index.content) {
            (Some(Flaw::HardDelete), Content::Nothing) => Content::Gone,
            (_, content) => content,
        }
    }

    /// A message in the queue owes the index this record, or one that is written over it, when no worker that takes the
    /// message can end it as superseded by this record: it has no older sequencer, and the record is no tombstone that
    /// explains its absence. Such a worker finds its own record and indexes it, or an older one, writes over it and
    /// indexes that; or it returns the message.
    fn is_owed(&self, world: &World) -> bool {
        (0..).zip(&self.scenario.messages).any(|(message, (first, end))| {
            let changes = &self.scenario.changes[..usize::from(world.happened.min(*end))];
            !world.is_deleted(message)
                && changes.iter().skip(usize::from(*first)).any(|change| {
                    let older = change.sequencer > 0 && change.sequencer < world.record.sequencer;
                    let tombstone = world.record.content == Content::Gone && world.record.message != message;
                    let explains = tombstone && change.operation == Operation::Created;
                    !older && !explains
                })
        })
    }

    /// No message, no marker, nothing under way.
    pub fn is_quiet(&self, world: &World) -> bool {
        let mut heard_of = self.scenario.messages.iter().filter(|(first, _)| *first < world.happened);
        world.happened > 0
            && self.nothing_moves(world)
            && heard_of.all(|(_, end)| *end <= world.happened)
            && self.sent(world).all(|message| world.is_deleted(message))
    }

    fn nothing_moves(&self, world: &World) -> bool {
        world.workers.iter().all(|worker| worker.at == At::Idle)
            && world.replayers.iter().all(|replayer| replayer.at == ReplayAt::Idle)
            && world.calls.iter().all(|call| *call == Call::None)
            && !world.markers.any()
    }

    /// All has happened, and all is quiet. Or the file was gone before anybody looked: without a record and without a
    /// removal nothing explains that, and the messages end as `source_missing` in the dead-letter queue.
    pub fn is_end(&self, world: &World) -> bool {
        let all = usize::from(world.happened) == self.scenario.changes.len();
        let left = self.sent(world).filter(|message| !world.is_deleted(*message));
        let mut changes = left.flat_map(|message| self.scenario.of_message(message));
        let mut unexplained = || {
            let never_recorded = self.bucket(world) == Content::Gone && !world.record.is_there();
            never_recorded && changes.all(|change| change.operation != Operation::Removed)
        };
        all && (self.is_quiet(world) || self.nothing_moves(world) && unexplained())
    }

    /// P8: the record says what the bucket holds, the index what the record says.
    fn in_step(&self, world: &World) -> Result<(), Broken> {
        let (bucket, record, index) = (self.bucket(world), world.record.content, self.shown(world));
        if record != bucket {
            return broken("P8", format!("all is quiet, the bucket holds {bucket:?}, the record says {record:?}"));
        }
        if index != record {
            return broken("P8", format!("all is quiet, the record says {record:?}, the index {index:?}"));
        }
        Ok(())
    }
}
