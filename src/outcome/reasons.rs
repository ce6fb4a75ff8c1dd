//! The reasons: why a change is skipped, retried or rejected, and the closed list that dead letters carry.
//!
//! Promises that every reason has one stable name (scripts hang on those of design §8). Plain data.

use crate::message::s3_event;

/// Why nothing had to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SkipReason {
    /// The event itself says so.
    Event(s3_event::SkipReason),
    /// A zero-byte key that ends in `/`: the console's "folder".
    DirectoryMarker,
    /// The source was gone at the last attempt and `ON_MISSING_OBJECT=drop`.
    SourceMissing,
}

impl SkipReason {
    /// Name in log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            SkipReason::Event(reason) => reason.as_str(),
            SkipReason::DirectoryMarker => "directory_marker",
            SkipReason::SourceMissing => "source_missing",
        }
    }
}

/// A dependency that can be sick.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Dependency {
    /// A source bucket.
    Source,
    /// The results bucket.
    Results,
    /// Parking, while the index is down (the results bucket again, but named for what it stops).
    Parking,
    /// This host: temp disk, file descriptors, processes.
    Host,
}

impl Dependency {
    /// Name in log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Dependency::Source => "source",
            Dependency::Results => "results",
            Dependency::Parking => "parking",
            Dependency::Host => "host",
        }
    }
}

/// Why a later delivery may succeed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RetryReason {
    /// A created object is not there (yet).
    SourceMissing,
    /// 403 or KMS on this object.
    Denied(Dependency, String),
    /// SlowDown on this object.
    Throttled(Dependency, String),
    /// The body broke off, dripped, or its checksum was wrong.
    Interrupted(Dependency, String),
    /// The extraction child crashed.
    ChildCrashed(String),
    /// The extraction child ran out of time.
    ChildTimedOut(String),
    /// The extraction child broke a limit.
    Limit(String),
    /// Our own code panicked.
    Panicked(String),
    /// A store refused in a way that names no cause.
    Refused(String),
    /// A dependency is sick: says nothing about this message.
    Systemic(Dependency, String),
}

impl RetryReason {
    /// Systemic failures are not the message's: not charged, told to the breaker.
    pub fn is_systemic(&self) -> bool {
        match self {
            RetryReason::Systemic(..) => true,
            RetryReason::SourceMissing
            | RetryReason::Denied(..)
            | RetryReason::Throttled(..)
            | RetryReason::Interrupted(..)
            | RetryReason::ChildCrashed(_)
            | RetryReason::ChildTimedOut(_)
            | RetryReason::Limit(_)
            | RetryReason::Panicked(_)
            | RetryReason::Refused(_) => false,
        }
    }

    /// Reason and detail for the dead-letter queue, when no attempt is left.
    pub(super) fn last_word(&self) -> (DeadLetterReason, String) {
        let (name, detail) = self.describe();
        match self {
            RetryReason::SourceMissing => (DeadLetterReason::SourceMissing, detail.to_owned()),
            RetryReason::Denied(..) => (DeadLetterReason::Denied, detail.to_owned()),
            RetryReason::Limit(_) => (DeadLetterReason::Limit, detail.to_owned()),
            RetryReason::Throttled(..)
            | RetryReason::Interrupted(..)
            | RetryReason::ChildCrashed(_)
            | RetryReason::ChildTimedOut(_)
            | RetryReason::Panicked(_)
            | RetryReason::Refused(_)
            | RetryReason::Systemic(..) => (DeadLetterReason::AttemptsExhausted, format!("{name}: {detail}")),
        }
    }

    /// Name and detail in log lines.
    pub fn describe(&self) -> (&'static str, &str) {
        match self {
            RetryReason::SourceMissing => ("source_missing", "the object is not in the bucket"),
            RetryReason::Denied(_, detail) => ("denied", detail),
            RetryReason::Throttled(_, detail) => ("throttled", detail),
            RetryReason::Interrupted(_, detail) => ("interrupted", detail),
            RetryReason::ChildCrashed(detail) => ("child_crashed", detail),
            RetryReason::ChildTimedOut(detail) => ("child_timed_out", detail),
            RetryReason::Limit(detail) => ("limit", detail),
            RetryReason::Panicked(detail) => ("panicked", detail),
            RetryReason::Refused(detail) => ("refused", detail),
            RetryReason::Systemic(_, detail) => ("systemic", detail),
        }
    }
}

/// Why no later delivery can succeed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RejectReason {
    /// The body is no event we know.
    Malformed(String),
    /// The bucket is not among `SOURCE_BUCKETS`.
    NotAllowed(String),
    /// Larger than `MAX_OBJECT_BYTES`.
    TooLarge(String),
    /// A body past a limit of ours.
    Limit(String),
    /// Archived: no retry brings it.
    Archived(String),
    /// A file that cannot be read, with `ON_EXTRACTION_ERROR=dead-letter`.
    Unreadable(String),
    /// The work on it has killed two workers.
    CrashLoop(String),
}

/// The closed list of reasons in the `Quittance` attribute (design §8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeadLetterReason {
    /// `malformed`
    Malformed,
    /// `not_allowed`
    NotAllowed,
    /// `source_missing`
    SourceMissing,
    /// `denied`
    Denied,
    /// `too_large`
    TooLarge,
    /// `limit`
    Limit,
    /// `attempts_exhausted`
    AttemptsExhausted,
    /// `crash_loop`
    CrashLoop,
    /// `deadline`
    Deadline,
}

impl DeadLetterReason {
    /// The name that scripts hang on.
    pub fn as_str(self) -> &'static str {
        match self {
            DeadLetterReason::Malformed => "malformed",
            DeadLetterReason::NotAllowed => "not_allowed",
            DeadLetterReason::SourceMissing => "source_missing",
            DeadLetterReason::Denied => "denied",
            DeadLetterReason::TooLarge => "too_large",
            DeadLetterReason::Limit => "limit",
            DeadLetterReason::AttemptsExhausted => "attempts_exhausted",
            DeadLetterReason::CrashLoop => "crash_loop",
            DeadLetterReason::Deadline => "deadline",
        }
    }
}

impl RejectReason {
    /// Reason and detail for the dead-letter queue.
    pub fn describe(&self) -> (DeadLetterReason, &str) {
        match self {
            RejectReason::Malformed(detail) | RejectReason::Unreadable(detail) => (DeadLetterReason::Malformed, detail),
            RejectReason::NotAllowed(detail) => (DeadLetterReason::NotAllowed, detail),
            RejectReason::TooLarge(detail) => (DeadLetterReason::TooLarge, detail),
            RejectReason::Limit(detail) => (DeadLetterReason::Limit, detail),
            RejectReason::Archived(detail) => (DeadLetterReason::Denied, detail),
            RejectReason::CrashLoop(detail) => (DeadLetterReason::CrashLoop, detail),
        }
    }
}
