//! A worker with one message: the order of calls of `src/process/change.rs`, `src/index.rs` and `src/settle.rs`.
//!
//! Promises to make the calls that the code makes, with the same conditions, and to end where it ends. What the code
//! does between two calls is done here in one go.

use crate::model::{Flaw, How, Model, Step};
use crate::rules::{Content, Rank, Record, next_revision, rank, stored_sequencer};
use crate::scenario::{Change, Operation};
use crate::world::{At, Call, Entry, REVISIONS, Worker, World};

impl Model {
    pub fn of_worker(&self, world: &World, worker: usize, next: &mut Vec<(Step, World)>) {
        let me = world.workers[worker];
        if me.at == At::Idle {
            return self.receives(world, worker, next);
        }
        let mut push = |how, after| next.push((Step::Works { worker, at: me.at, how }, after));
        let put = |mut after: World, me: Worker| {
            after.workers[worker] = me;
            after
        };
        let stopped = put(*world, Worker::default());
        // The work is cancelled when the lease has ended, sooner or later. Finished work is settled all the same.
        if me.late && me.at != At::DeleteMessage {
            push(How::Cancelled, stopped);
        }
        if me.late && !self.goes_on_without_lease(me.at) {
            return;
        }
        let (call, well) = self.calls(world, me);
        let mut after = *world;
        let won = after.land(call, self.flaw);
        push(How::Well, put(after, if won { well } else { me.after_lost_race() }));
        push(How::Stops, stopped);
        if !me.late && self.goes_on_without_lease(me.at) {
            push(How::LeaseEnds, put(*world, Worker { late: true, ..me }));
        }
        if let Some(in_flight) = self.in_flight(world, call).filter(|_| call != Call::None) {
            push(How::CutOff, put(in_flight, Worker::default()));
            push(How::Unanswered, put(in_flight, self.after_no_answer(me)));
        }
        match me.at {
            At::PutRecord => push(How::Busy, put(*world, me.after_lost_race())),
            At::Bulk => push(How::Refused, self.after_refusal(world, worker)),
            At::PutMarker => push(How::Refused, put(*world, self.after_change(Worker { undone: true, ..me }))),
            At::DeleteMessage if me.late => push(How::Ignored, stopped),
            At::DeleteMessage => {}
            At::Idle | At::HeadRecord | At::ReadSource | At::ExplainAbsence | At::GetRecord => {}
        }
    }

    fn receives(&self, world: &World, worker: usize, next: &mut Vec<(Step, World)>) {
        for message in self.sent(world) {
            let held =
                world.workers.iter().any(|other| other.at != At::Idle && other.message == message && !other.late);
            let duplicate = held || world.is_deleted(message);
            // The receive count is approximate: lost polls raise it, and a message that is kept in hand goes through the
            // work again with the count of its first delivery.
            for again in [false, true] {
                let mut after = *world;
                after.workers[worker] = self.begin(Worker { message, again, ..Worker::default() });
                next.push((Step::Receives { worker, message, again, duplicate }, after));
            }
        }
    }

    /// The lease is looked at before every write to record and index: where it has ended, that is a stop like any other
    /// (what is read in between changes nothing). It is not looked at between an index that refuses and the marker, and
    /// finished work is settled all the same.
    fn goes_on_without_lease(&self, at: At) -> bool {
        matches!(at, At::PutMarker | At::DeleteMessage) || self.flaw == Some(Flaw::NoLeaseCheck)
    }

    /// What the worker asks for now, and where it is when that went well.
    fn calls(&self, world: &World, me: Worker) -> (Call, Worker) {
        let change = self.change(&me);
        match me.at {
            At::Idle => (Call::None, me),
            At::HeadRecord => (Call::None, self.judge(Worker { record: world.record, ..me })),
            // Where the code looks first, a HEAD only says whether a GET is needed; what counts is the last of the two.
            At::ReadSource => (
                Call::None,
                match self.bucket(world) {
                    Content::Gone => self.absent(me),
                    there => Worker { at: At::PutRecord, read: there, ..me },
                },
            ),
            At::ExplainAbsence => (Call::None, self.explained(me, world.record)),
            At::PutRecord => {
                let (over, content) = (me.record, me.read);
                // Without a condition nothing keeps revisions apart but the clock, which has moved on.
                let clock = if self.flaw == Some(Flaw::UnconditionalPut) { world.record } else { over };
                let record = Record {
                    revision: next_revision(over.max(clock)),
                    sequencer: stored_sequencer(over, change.sequencer),
                    content,
                    message: me.message,
                };
                assert!(record.revision <= REVISIONS, "more revisions than a world has room for");
                (Call::PutRecord { over, record }, to_index(me, record))
            }
            At::GetRecord => (Call::None, to_index(me, world.record)),
            At::Bulk => (Call::Bulk(entry(me.record)), self.after_change(me)),
            At::PutMarker => (Call::PutMarker(self.marker(me.record)), self.after_change(me)),
            At::DeleteMessage => (Call::DeleteMessage(me.message), Worker::default()),
        }
    }

    /// A marker names a revision and holds no text; it does where a flaw would use it.
    fn marker(&self, record: Record) -> Entry {
        let text = matches!(self.flaw, Some(Flaw::ReplaysOldText | Flaw::ReplaysOldRevision));
        Entry { content: if text { record.content } else { Content::A }, ..entry(record) }
    }

    fn change(&self, me: &Worker) -> Change {
        self.scenario.of_message(me.message)[usize::from(me.change)]
    }

    /// Only a body without an operation, or a later delivery, looks at the record first.
    fn begin(&self, me: Worker) -> Worker {
        let known = me.again || self.change(&me).operation == Operation::Unstated;
        let last = usize::from(me.change) + 1 == self.scenario.of_message(me.message).len();
        let me = Worker { again: me.again && !last, read: Content::Nothing, record: Record::default(), ..me };
        Worker { at: if known { At::HeadRecord } else { At::ReadSource }, ..me }
    }

    /// `Job::rank`: before the source is read, only a record of our own kind is our own.
    fn rank(&self, me: &Worker, seen: Content) -> Rank {
        let change = self.change(me);
        let rank = rank(me.record, change.sequencer, seen, me.message);
        if self.flaw == Some(Flaw::SameEtagIsEqual) && rank == Rank::Older && seen == me.record.content {
            let told_apart = change.sequencer > 0 && change.sequencer != me.record.sequencer;
            return if told_apart { rank } else { Rank::Equal };
        }
        let of_our_kind = match change.operation {
            Operation::Created => me.record.content.is_text(),
            Operation::Removed => !me.record.content.is_text(),
            Operation::Unstated => true,
        };
        if rank == Rank::Equal && seen == Content::Nothing && !of_our_kind { Rank::Older } else { rank }
    }

    fn judge(&self, me: Worker) -> Worker {
        if !me.record.is_there() {
            return Worker { at: At::ReadSource, ..me };
        }
        match self.rank(&me, me.read) {
            Rank::Newer => self.after_change(me),
            Rank::Equal if self.flaw == Some(Flaw::EqualIsFinished) => self.after_change(me),
            Rank::Equal => Worker { at: At::GetRecord, read: Content::Nothing, record: Record::default(), ..me },
            Rank::Older if self.flaw == Some(Flaw::SourceBeforeRecord) && me.read != Content::Nothing => {
                Worker { at: At::PutRecord, ..me }
            }
            Rank::Older => Worker { at: At::ReadSource, ..me },
        }
    }

    /// The object is not there: a tombstone is due, or the absence is explained, or the message must wait.
    fn absent(&self, me: Worker) -> Worker {
        let me = Worker { read: Content::Gone, ..me };
        match self.change(&me).operation {
            Operation::Unstated if !me.record.is_there() => self.after_change(Worker { undone: true, ..me }),
            Operation::Removed | Operation::Unstated => Worker { at: At::PutRecord, ..me },
            Operation::Created if me.record.is_there() => self.explained(me, me.record),
            Operation::Created => Worker { at: At::ExplainAbsence, ..me },
        }
    }

    fn explained(&self, me: Worker, record: Record) -> Worker {
        let me = Worker { record, ..me };
        let newer = || record.content == Content::Gone || self.rank(&me, Content::Gone) == Rank::Newer;
        let explained = record.is_there() && newer();
        self.after_change(Worker { undone: me.undone || !explained, ..me })
    }

    /// The next change of the message, or its end: deleted, or returned where something is undone.
    fn after_change(&self, me: Worker) -> Worker {
        let done = Worker { read: Content::Nothing, record: Record::default(), ..me };
        if usize::from(me.change) + 1 < self.scenario.of_message(me.message).len() {
            self.begin(Worker { change: me.change + 1, ..done })
        } else if me.undone {
            Worker::default()
        } else {
            Worker { at: At::DeleteMessage, change: 0, ..done }
        }
    }

    /// S3's client and the settler ask again; a bulk request without an answer is trouble like any other.
    fn after_no_answer(&self, me: Worker) -> Worker {
        if me.at == At::Bulk { Worker { at: At::PutMarker, ..me } } else { me }
    }

    fn after_refusal(&self, world: &World, worker: usize) -> World {
        let mut after = *world;
        after.workers[worker].at = At::PutMarker;
        if self.flaw == Some(Flaw::DeleteBeforePark) {
            after.land(Call::DeleteMessage(world.workers[worker].message), self.flaw);
        }
        after
    }
}

fn entry(record: Record) -> Entry {
    Entry { revision: record.revision, content: record.content }
}

/// From here on only revision and content count.
fn to_index(me: Worker, record: Record) -> Worker {
    let record = Record { revision: record.revision, content: record.content, ..Record::default() };
    Worker { at: At::Bulk, read: Content::Nothing, record, ..me }
}
