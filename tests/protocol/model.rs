//! All that may happen next: in the bucket, in the network, to a worker, to a replayer.
//!
//! A call that is answered is one step: nobody else can tell when it was sent and when its answer arrived. What can be
//! told is modelled: a caller that goes away or gives up while its call is under way leaves it in flight, and it lands
//! at any later time or never. Reads change nothing, so theirs are not followed.

use crate::rules::Content;
use crate::scenario::{Bounds, Scenario};
use crate::world::{At, CALLS, Call, Entry, ReplayAt, World};

/// The protocol with one thing done wrongly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// A record that is equal is taken for finished work: Superseded.
    EqualIsFinished,
    /// An equal etag is taken for the same work, whoever wrote it.
    SameEtagIsEqual,
    /// After a lost race the record is looked at again, and the source is not.
    SourceBeforeRecord,
    UnconditionalPut,
    /// The index is told to delete, and forgets after a while that it did.
    HardDelete,
    /// The index takes whatever comes last.
    UnversionedIndex,
    /// The message goes when the index has refused, the marker is written after.
    DeleteBeforePark,
    /// Replay sends the text of the time when it was parked, as the revision of now.
    ReplaysOldText,
    /// Replay deletes the marker, then asks the index.
    MarkerGoesFirst,
    /// Replay sends the text of the time when it was parked, as the revision of that time.
    ReplaysOldRevision,
    /// Nobody asks whether the lease has ended.
    NoLeaseCheck,
}

/// How a call ends, as far as its caller is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// It is answered.
    Well,
    /// It is refused without effect.
    Refused,
    /// A 409 between two writers, where there is none: S3 may.
    Busy,
    /// No answer: it stays in flight, and the caller goes on as the code does.
    Unanswered,
    /// The caller dies, or is cancelled, with its call in flight.
    CutOff,
    /// The caller dies, is cancelled, or gives up on an error, before it calls.
    Stops,
    /// The lease ends before the call.
    LeaseEnds,
    /// The caller is cancelled because its lease has ended.
    Cancelled,
    /// SQS answers well, and the message stays: its handle was not the newest.
    Ignored,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// In the bucket.
    Happens,
    /// `again`: the receive count says so.
    Receives {
        worker: usize,
        message: u8,
        again: bool,
        duplicate: bool,
    },
    Works {
        worker: usize,
        at: At,
        how: How,
    },
    /// A marker was listed and read.
    Picks {
        replayer: usize,
        revision: u8,
    },
    Replays {
        replayer: usize,
        at: ReplayAt,
        how: How,
    },
    Lands(Call),
    /// The index, a minute after a hard delete.
    Forgets,
}

impl Step {
    /// Whether this is something going wrong: there are only so many of those.
    pub fn is_fault(self) -> bool {
        let how = match self {
            Step::Receives { duplicate, .. } => return duplicate,
            Step::Works { at, how, .. } => {
                // An index may be away for as long as it likes.
                return at != At::Bulk && how == How::Refused || is_fault(how);
            }
            Step::Replays { how, .. } => how,
            Step::Happens | Step::Picks { .. } | Step::Lands(_) | Step::Forgets => return false,
        };
        is_fault(how)
    }
}

fn is_fault(how: How) -> bool {
    match how {
        How::Busy | How::Unanswered | How::CutOff | How::Stops | How::LeaseEnds => true,
        How::Well | How::Refused | How::Cancelled | How::Ignored => false,
    }
}

pub struct Model {
    pub scenario: Scenario,
    pub bounds: Bounds,
    pub flaw: Option<Flaw>,
    /// Judge nothing but how it ends.
    pub only_ends: bool,
}

impl Model {
    pub fn bucket(&self, world: &World) -> Content {
        self.scenario.bucket(world.happened)
    }

    /// Messages that have been sent by now.
    pub fn sent(&self, world: &World) -> impl Iterator<Item = u8> {
        let happened = world.happened;
        (0..).zip(&self.scenario.messages).filter(move |(_, (_, end))| *end <= happened).map(|(message, _)| message)
    }

    /// Every step that can be taken now, and the world after it.
    pub fn next(&self, world: &World, next: &mut Vec<(Step, World)>) {
        next.clear();
        if usize::from(world.happened) < self.scenario.changes.len() {
            next.push((Step::Happens, World { happened: world.happened + 1, ..*world }));
        }
        for worker in 0..self.bounds.workers {
            self.of_worker(world, worker, next);
        }
        for replayer in 0..self.bounds.replayers {
            self.of_replayer(world, replayer, next);
        }
        for place in 0..CALLS {
            let call = world.calls[place];
            if call != Call::None {
                let mut after = *world;
                after.calls[place] = Call::None;
                after.land(call, self.flaw);
                next.push((Step::Lands(call), after));
            }
        }
        if self.flaw == Some(Flaw::HardDelete) && world.index.content == Content::Gone {
            next.push((Step::Forgets, World { index: Entry::default(), ..*world }));
        }
        for (_, after) in next {
            after.tidy(self.flaw);
        }
    }

    /// The same with this call under way and nobody waiting for it, if there is room for one more.
    pub fn in_flight(&self, world: &World, call: Call) -> Option<World> {
        let under_way = world.calls.iter().filter(|call| **call != Call::None).count();
        if under_way >= self.bounds.in_flight {
            return None;
        }
        let mut after = *world;
        after.leave_in_flight(call);
        Some(after)
    }
}
