//! The table: every operation that the worker makes × every class of error × position, and the catalogue's row each
//! of them is. What is not in it cannot be: a class that an operation does not know.

use super::plan::Position;
use crate::relay::{Answer, Bend, Fate, Refuse, answers};

/// What the worker asks of the services while it runs (its calls at start are a table of their own).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    Receive,
    Delete,
    Extend,
    Return,
    SendToDlq,
    GetSource,
    HeadSource,
    HeadRecord,
    GetRecord,
    PutRecord,
    PutMarker,
    GetAttempts,
    PutAttempts,
    ListMarkers,
    /// The record of a parked document.
    GetParked,
    DeleteMarker,
    /// The gate's look at a bucket, while intake is shut.
    ProbeBucket,
    Bulk,
}

pub const OPS: [Op; 18] = [
    Op::Receive,
    Op::Delete,
    Op::Extend,
    Op::Return,
    Op::SendToDlq,
    Op::GetSource,
    Op::HeadSource,
    Op::HeadRecord,
    Op::GetRecord,
    Op::PutRecord,
    Op::PutMarker,
    Op::GetAttempts,
    Op::PutAttempts,
    Op::ListMarkers,
    Op::GetParked,
    Op::DeleteMarker,
    Op::ProbeBucket,
    Op::Bulk,
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    Sqs,
    S3,
    Search,
}

impl Op {
    pub fn service(self) -> Service {
        match self {
            Op::Receive | Op::Delete | Op::Extend | Op::Return | Op::SendToDlq => Service::Sqs,
            Op::Bulk => Service::Search,
            Op::GetSource
            | Op::HeadSource
            | Op::HeadRecord
            | Op::GetRecord
            | Op::PutRecord
            | Op::PutMarker
            | Op::GetAttempts
            | Op::PutAttempts
            | Op::ListMarkers
            | Op::GetParked
            | Op::DeleteMarker
            | Op::ProbeBucket => Service::S3,
        }
    }

    fn is_a_batch(self) -> bool {
        matches!(self, Op::Delete | Op::Extend | Op::Return | Op::Bulk)
    }

    fn is_conditional(self) -> bool {
        matches!(self, Op::PutRecord | Op::PutMarker | Op::PutAttempts)
    }

    /// Reads an object, whose checksum S3 sends along.
    fn downloads(self) -> bool {
        matches!(self, Op::GetSource | Op::GetRecord | Op::GetAttempts | Op::GetParked)
    }

    /// Its reply has a body.
    fn is_answered_at_length(self) -> bool {
        !matches!(
            self,
            Op::HeadSource | Op::HeadRecord | Op::PutRecord | Op::PutMarker | Op::PutAttempts | Op::DeleteMarker
        )
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// Nobody listens any more.
    Refused,
    /// The connection breaks before the call has an effect.
    ResetBefore,
    /// And after.
    LostReply,
    Denied,
    Kms,
    Throttled,
    TooMany,
    Internal,
    Unavailable,
    Expired,
    /// The queue, the bucket or the index is not there.
    Missing,
    ClusterBlock,
    /// S3 says that the object is not there (yet).
    NoSuchKey,
    /// S3 says that somebody else is writing, or has written.
    Conflict,
    Precondition,
    Stall,
    Drip,
    Cut,
    /// Accepted, without an effect, and never answered.
    Hang,
    /// Carried out, and never answered.
    HangAfter,
    /// Somebody else's words with status 200; of a download: a bit is another one.
    Garbage,
    /// Carried out; status 200 and the service's format, and nothing in it.
    Empty,
    /// Entry 0 of a batch is refused, and not carried out.
    Entry,
    /// The same, and it is the caller's fault, so they say.
    EntryFault,
    /// Entry 0 is said to have failed, and was carried out.
    EntryAfter,
}

pub const CLASSES: [Class; 25] = [
    Class::Refused,
    Class::ResetBefore,
    Class::LostReply,
    Class::Denied,
    Class::Kms,
    Class::Throttled,
    Class::TooMany,
    Class::Internal,
    Class::Unavailable,
    Class::Expired,
    Class::Missing,
    Class::ClusterBlock,
    Class::NoSuchKey,
    Class::Conflict,
    Class::Precondition,
    Class::Stall,
    Class::Drip,
    Class::Cut,
    Class::Hang,
    Class::HangAfter,
    Class::Garbage,
    Class::Empty,
    Class::Entry,
    Class::EntryFault,
    Class::EntryAfter,
];

/// A line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub op: Op,
    pub class: Class,
    pub position: Position,
}

impl Row {
    /// With its name in the catalogue.
    pub fn name(&self) -> String {
        format!("{} {:?}/{:?}/{:?}", self.catalogue(), self.op, self.class, self.position)
    }

    /// The row of faults.md §3.1-3.4 that this is an instance of.
    fn catalogue(&self) -> &'static str {
        match (self.op, self.class) {
            (Op::Receive, Class::LostReply | Class::HangAfter) => "Q3",
            (Op::Receive, Class::Hang | Class::Stall | Class::Drip) => "Q4",
            (Op::Receive, Class::Missing) => "Q15",
            (Op::Receive, _) => "Q14",
            (Op::Delete | Op::Return, Class::Entry | Class::EntryFault | Class::EntryAfter) => "Q6",
            (Op::Delete, Class::Missing) => "Q15",
            (Op::Delete, _) => "Q5",
            (Op::Extend, Class::EntryFault) => "Q10",
            (Op::Extend, _) => "Q11",
            (Op::Return, _) => "Q5",
            (Op::SendToDlq, _) => "Q20",
            (Op::PutRecord | Op::PutMarker | Op::PutAttempts, Class::LostReply | Class::HangAfter) => "B9",
            (_, Class::Conflict | Class::Precondition) => "B8",
            (_, Class::NoSuchKey) => "B1",
            (Op::PutMarker, Class::Denied | Class::Missing) => "B10",
            (_, Class::Throttled | Class::TooMany | Class::Internal | Class::Unavailable)
                if self.op.service() == Service::S3 =>
            {
                "B7"
            }
            (_, Class::Kms) => "B17",
            (Op::Bulk, Class::Refused | Class::ResetBefore) => "O1",
            (Op::Bulk, Class::Hang | Class::HangAfter | Class::Drip) => "O2",
            (Op::Bulk, Class::Denied) => "O3",
            (Op::Bulk, Class::ClusterBlock) => "O4",
            (Op::Bulk, Class::Throttled) => "O5",
            (Op::Bulk, Class::Entry | Class::EntryFault | Class::EntryAfter) => "O6",
            (Op::Bulk, Class::Garbage | Class::Empty | Class::Cut | Class::Stall) => "O7",
            (Op::Bulk, Class::Internal | Class::Unavailable | Class::TooMany) => "O11",
            (Op::Bulk, Class::LostReply) => "O12",
            (Op::Bulk, Class::Missing) => "O13",
            (Op::Bulk, Class::Expired) => "O16",
            (_, Class::Stall | Class::Drip | Class::Hang | Class::HangAfter) => "B4",
            (_, Class::Cut | Class::Garbage | Class::ResetBefore | Class::LostReply) => "B5",
            (_, Class::Denied) => "B3",
            (_, Class::Expired) => "H4",
            (_, _) => "B7",
        }
    }

    /// What is done to the call; `None` where it cannot be.
    pub fn fate(&self) -> Option<Fate> {
        let (op, service) = (self.op, self.op.service());
        if matches!(op, Op::ListMarkers | Op::ProbeBucket) && self.position == Position::Nth {
            return None; // a look every few seconds, and there is nothing to find at the third
        }
        if self.position == Position::PastTheLease && !self.can_outlast_a_lease() {
            return None;
        }
        let refuse = |code, status, sender_fault, passed_on| {
            Some(Fate::Refuse(Refuse { positions: vec![0], code, status, sender_fault, passed_on }))
        };
        let answer = |sqs: Option<(u16, &str)>, s3: Option<(u16, &str)>, search: Option<(u16, &str)>| {
            Some(Fate::Answer(match service {
                Service::Sqs => sqs.map(|(status, code)| answers::sqs(status, code)),
                Service::S3 => s3.map(|(status, code)| answers::s3(status, code)),
                Service::Search => {
                    search.map(|(status, kind)| answers::search(status, kind, "the fault proxy says so"))
                }
            }?))
        };
        match self.class {
            // Everything breaks at the first call: there is no third.
            Class::Refused => (self.position == Position::While).then_some(Fate::Down),
            Class::ResetBefore => Some(Fate::Reset),
            Class::LostReply => Some(Fate::LoseReply),
            Class::Denied => {
                answer(Some((403, "AccessDenied")), Some((403, "AccessDenied")), Some((403, "security_exception")))
            }
            Class::Kms => answer(Some((400, "KmsAccessDenied")), Some((400, "KMS.DisabledException")), None),
            Class::Throttled => answer(
                Some((400, "RequestThrottled")),
                Some((503, "SlowDown")),
                Some((429, "rejected_execution_exception")),
            ),
            Class::TooMany => answer(Some((429, "ThrottlingException")), Some((429, "TooManyRequests")), None),
            Class::Internal => answer(
                Some((500, "InternalFailure")),
                Some((500, "InternalError")),
                Some((500, "null_pointer_exception")),
            ),
            Class::Unavailable => answer(
                Some((503, "ServiceUnavailable")),
                Some((503, "ServiceUnavailable")),
                Some((503, "unavailable_shards_exception")),
            ),
            Class::Expired => answer(
                Some((403, "ExpiredTokenException")),
                Some((400, "ExpiredToken")),
                Some((401, "security_exception")),
            ),
            Class::Missing => answer(
                Some((400, "QueueDoesNotExist")),
                op.is_answered_at_length().then_some((404, "NoSuchBucket")),
                Some((404, "index_not_found_exception")),
            ),
            Class::ClusterBlock => (service == Service::Search).then(|| Fate::Answer(answers::cluster_block())),
            Class::NoSuchKey => (op == Op::GetSource).then(|| Fate::Answer(answers::s3(404, "NoSuchKey"))),
            // For ever would be a store that never lets anybody win, and the worker asks again at once.
            Class::Conflict | Class::Precondition if !op.is_conditional() || self.position == Position::While => None,
            Class::Conflict => Some(Fate::Answer(answers::s3(409, "ConditionalRequestConflict"))),
            Class::Precondition => Some(Fate::Answer(answers::s3(412, "PreconditionFailed"))),
            Class::Stall => Some(Fate::Bend(Bend::StallAt(40))),
            Class::Drip => Some(Fate::Bend(Bend::DripFrom(10))),
            Class::Cut => Some(Fate::Bend(Bend::CutAt(40))),
            Class::Hang => Some(Fate::Hold),
            Class::HangAfter => Some(Fate::HoldReply),
            Class::Garbage if op.downloads() => Some(Fate::Bend(Bend::Flip)),
            // A HEAD or a DELETE that says "yes" cannot be told from a true one.
            Class::Garbage | Class::Empty if matches!(op, Op::HeadSource | Op::HeadRecord | Op::DeleteMarker) => None,
            Class::Garbage => Some(Fate::Answer(Answer::html(200))),
            Class::Empty => (service != Service::S3).then(|| {
                let nothing = Answer::plain(200, "application/x-amz-json-1.0", "{}");
                Fate::Bend(Bend::Into(nothing))
            }),
            Class::Entry | Class::EntryFault | Class::EntryAfter if !op.is_a_batch() => None,
            Class::Entry if op == Op::Bulk => refuse("rejected_execution_exception", 429, false, false),
            Class::Entry => refuse("InternalError", 500, false, false),
            // A document refused for its own sake is the side path's issue.
            Class::EntryFault if op == Op::Bulk => None,
            Class::EntryFault => refuse("ReceiptHandleIsInvalid", 400, true, false),
            Class::EntryAfter if op == Op::Bulk => refuse("unavailable_shards_exception", 503, false, true),
            Class::EntryAfter => refuse("InternalError", 500, false, true),
        }
    }

    /// What SQS does not acknowledge before the lease is over ends as lease_lost, and comes again.
    fn can_outlast_a_lease(&self) -> bool {
        let settles = matches!(self.op, Op::Delete | Op::Extend | Op::Return);
        let class = matches!(
            self.class,
            Class::ResetBefore | Class::LostReply | Class::Throttled | Class::Internal | Class::Hang | Class::Entry
        );
        settles && class
    }

    /// The lines that the worker must have written.
    pub fn told(&self) -> &'static [&'static str] {
        match (self.op, self.position) {
            (Op::Receive, Position::While) => match self.class {
                // An empty reply is an answer, and so is one that is late by less than a poll may be.
                Class::Empty | Class::Hang | Class::HangAfter | Class::Drip => &[],
                _ => &["receive_failed"],
            },
            (Op::SendToDlq, Position::While) => match self.class {
                // The while is shorter than two tries of a call that is not answered.
                Class::HangAfter | Class::Hang | Class::Stall | Class::Drip | Class::Refused => &[],
                _ => &["dead_letter_failed"],
            },
            (Op::Delete, Position::PastTheLease) => &["delete_failed"],
            // One entry of a batch is told when its lease is lost.
            (Op::Extend, Position::PastTheLease) if self.class == Class::Entry => &["lease_lost"],
            (Op::Extend, Position::PastTheLease) => &["extend_failed", "lease_lost"],
            (Op::ProbeBucket, _) => &["breaker_opened", "breaker_closed"],
            (_, _) => &[],
        }
    }

    /// The message itself may be blamed for it, and pay with an attempt: what one object says of itself, 403 and
    /// SlowDown of one object among good ones, a body that does not come whole.
    pub fn may_be_charged(&self) -> bool {
        let unclear = matches!(
            self.class,
            Class::Denied
                | Class::Kms
                | Class::Throttled
                | Class::TooMany
                | Class::Unavailable
                | Class::Missing
                | Class::NoSuchKey
        );
        let body = matches!(self.class, Class::Stall | Class::Drip | Class::Cut | Class::Garbage);
        match self.op {
            Op::GetSource => unclear || body,
            Op::HeadSource | Op::HeadRecord | Op::PutRecord => unclear,
            // These rows begin with a failure of the message's own.
            Op::Return | Op::GetAttempts | Op::PutAttempts | Op::GetRecord => true,
            Op::Receive
            | Op::Delete
            | Op::Extend
            | Op::SendToDlq
            | Op::PutMarker
            | Op::ListMarkers
            | Op::GetParked
            | Op::DeleteMarker
            | Op::ProbeBucket
            | Op::Bulk => false,
        }
    }
}
