//! Whose trouble an error is: the change's, a dependency's, or nobody's.
//!
//! Promises P6: what says nothing about a file never becomes its failure. Pure.

use super::extract::ExtractFailure;
use super::fetch::FetchError;
use crate::outcome::{Dependency, Outcome, RejectReason, RetryReason};
use crate::store::StoreError;

/// Why the steps of a change ended early.
pub(super) enum Halt {
    With(Outcome),
    Stopped,
}

impl From<RetryReason> for Halt {
    fn from(reason: RetryReason) -> Self {
        Halt::With(Outcome::Retry(reason))
    }
}

pub(super) type Step<T> = Result<T, Halt>;

/// 403, KMS, SlowDown and a body that is cut are unclear here too: one record among good ones is its own file's trouble, five are everybody's.
pub(super) fn results_trouble(error: StoreError) -> Halt {
    match error {
        StoreError::Denied(detail) => RetryReason::Denied(Dependency::Results, format!("its record: {detail}")).into(),
        StoreError::Throttled(detail) => {
            RetryReason::Throttled(Dependency::Results, format!("its record: {detail}")).into()
        }
        StoreError::Refused(detail) => RetryReason::Refused(detail).into(),
        // One record moved to an archive class: this file's trouble.
        StoreError::Archived(detail) => RetryReason::Refused(format!("its record is archived: {detail}")).into(),
        StoreError::Interrupted(detail) => {
            RetryReason::Interrupted(Dependency::Results, format!("its record: {detail}")).into()
        }
        StoreError::BucketMissing(_) | StoreError::Unavailable(_) => {
            RetryReason::Systemic(Dependency::Results, error.to_string()).into()
        }
    }
}

pub(super) fn source_trouble(error: StoreError) -> Halt {
    match error {
        StoreError::Denied(detail) => RetryReason::Denied(Dependency::Source, detail).into(),
        StoreError::Throttled(detail) => RetryReason::Throttled(Dependency::Source, detail).into(),
        StoreError::Archived(detail) => Halt::With(Outcome::Reject(RejectReason::Archived(detail))),
        StoreError::Interrupted(detail) => RetryReason::Interrupted(Dependency::Source, detail).into(),
        StoreError::Refused(detail) => RetryReason::Refused(detail).into(),
        // One bucket of several may be gone for good: its messages must not stop the others, and ON_MISSING_OBJECT=drop
        // was said of an object, not of a bucket.
        StoreError::BucketMissing(_) => RetryReason::Refused(error.to_string()).into(),
        StoreError::Unavailable(detail) => RetryReason::Systemic(Dependency::Source, detail).into(),
    }
}

pub(super) fn fetch_trouble(error: FetchError) -> Halt {
    let detail = error.to_string();
    match error {
        FetchError::TooLarge { .. } => Halt::With(Outcome::Reject(RejectReason::TooLarge(detail))),
        FetchError::Store(error) => source_trouble(error),
        FetchError::TooSlow(_) => RetryReason::Interrupted(Dependency::Source, detail).into(),
        FetchError::Host(_) => RetryReason::Systemic(Dependency::Host, detail).into(),
    }
}

pub(super) fn child_trouble(failure: ExtractFailure) -> Halt {
    let detail = failure.to_string();
    match failure {
        ExtractFailure::Crashed { .. } => RetryReason::ChildCrashed(detail).into(),
        ExtractFailure::TimedOut { .. } => RetryReason::ChildTimedOut(detail).into(),
        ExtractFailure::Limit { .. } => RetryReason::Limit(detail).into(),
        ExtractFailure::Unavailable { .. } => RetryReason::Systemic(Dependency::Host, detail).into(),
    }
}
