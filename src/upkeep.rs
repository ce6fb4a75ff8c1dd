//! Index and records in step with the source: found out, and brought about, by an operator or a timer.
//!
//! Promises that nothing here writes a record or a document itself: what is wrong is repaired by sending work through the
//! normal road (a message to the queue, a marker for the replay), which has its own promises (P3, P7, P8). There are two
//! exceptions: [`purge`], which takes tombstones away, each only at the revision it has read, and [`migrate`], which fills
//! an index that nobody reads yet. Every run can be stopped after any step and goes on from where it was. Knows no receipt
//! and no lease.

use std::time::Duration;

use bytes::Bytes;

use crate::clock::WallClock;
use crate::index::SearchError;
use crate::index::succession::SuccessionError;
use crate::message::s3_event::Source;
use crate::queue::QueueError;
use crate::store::{ObjectHead, Store, StoreError, read_all};

pub mod bodies;
pub mod command;

pub mod migrate;
pub mod outbox;
pub mod purge;
pub mod reconcile;
pub mod reprocess;
pub mod verdict;

/// Keys in one page: S3's limit.
const PAGE: usize = 1_000;
/// Files looked at together.
const TOGETHER: usize = 16;
/// The longest of our clients' own limits is 30 s: this one is for what has none.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// A blip must not end a run of hours; an outage must.
const TRIES: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Own troubles without one answer between them: they are everybody's.
const UNCLEAR_IN_A_ROW: u64 = 50;
/// The largest record that is read.
const RECORD_LIMIT: usize = 64 * 1024 * 1024;

/// What is looked after: a part of a source bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Area {
    /// Source bucket.
    pub bucket: String,
    /// Of its keys; empty is all.
    pub prefix: String,
    /// What the workers may read (`SOURCE_BUCKETS`): of other keys they would make nothing, or a dead letter.
    pub sources: Vec<Source>,
}

impl Area {
    /// Whether a file is in it, and wanted by the workers.
    pub fn has(&self, bucket: &str, key: &str) -> bool {
        let wanted = |source: &Source| source.bucket == bucket && key.starts_with(&source.prefix);
        bucket == self.bucket && key.starts_with(&self.prefix) && self.sources.iter().any(wanted)
    }
}

/// A "folder" of the console: the workers skip it, unless a file of that name is recorded.
fn is_directory_marker(key: &str, size: u64) -> bool {
    key.ends_with('/') && size == 0
}

/// Why something could not be done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Trouble {
    /// A dependency is sick: the run cannot go on, and can be taken up again.
    #[error("{0}")]
    Sick(String),
    /// Of this file alone.
    #[error("{0}")]
    Own(String),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        let text = format!("S3: {error}");
        match error {
            StoreError::Unavailable(_) | StoreError::Throttled(_) | StoreError::BucketMissing(_) => Self::Sick(text),
            StoreError::Denied(_) | StoreError::Archived(_) | StoreError::Interrupted(_) | StoreError::Refused(_) => {
                Self::Own(text)
            }
        }
    }
}

impl From<SearchError> for Trouble {
    fn from(error: SearchError) -> Self {
        Self::Sick(format!("OpenSearch: {error}"))
    }
}

impl From<SuccessionError> for Trouble {
    fn from(error: SuccessionError) -> Self {
        match error {
            SuccessionError::Refused(why) => Self::Own(why),
            SuccessionError::Unavailable(_) => Self::Sick(format!("OpenSearch: {error}")),
        }
    }
}

impl From<QueueError> for Trouble {
    fn from(error: QueueError) -> Self {
        Self::Sick(format!("SQS: {error}"))
    }
}

/// One call, tried again while a dependency is sick.
pub(crate) async fn patiently<T, E: Into<Trouble>, F: Future<Output = Result<T, E>>>(
    call: impl Fn() -> F,
) -> Result<T, Trouble> {
    let mut wait = FIRST_WAIT;
    for _ in 1..TRIES {
        match limited(call()).await {
            Err(Trouble::Sick(_)) => {}
            ended => return ended,
        }
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
    limited(call()).await
}

pub(crate) async fn limited<T, E: Into<Trouble>>(call: impl Future<Output = Result<T, E>>) -> Result<T, Trouble> {
    match tokio::time::timeout(CALL_LIMIT, call).await {
        Ok(ended) => ended.map_err(Into::into),
        Err(_) => Err(Trouble::Sick(format!("no answer within {CALL_LIMIT:?}"))),
    }
}

/// A whole object of the results bucket, of at most so many bytes; `None`: there is none.
pub(crate) async fn read(
    store: &dyn Store,
    bucket: &str,
    key: &str,
    limit: usize,
) -> Result<Option<(ObjectHead, Bytes)>, Trouble> {
    patiently(|| async {
        let Some(object) = store.get(bucket, key).await? else { return Ok(None) };
        let head = object.head.clone();
        Ok::<_, Trouble>(Some((head, read_all(object, limit).await?)))
    })
    .await
}

/// Changed so lately that work on it may be under way. A time that is not told is long ago.
fn is_young(modified_ms: Option<u64>, min_age: Duration, clock: &dyn WallClock) -> bool {
    let grown = u64::try_from(min_age.as_millis()).unwrap_or(u64::MAX);
    modified_ms.is_some_and(|modified| clock.unix_ms().saturating_sub(modified) < grown)
}

/// How a run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// All was looked at.
    Complete,
    /// It was asked to stop, and did so between two steps.
    Interrupted,
    /// A dependency is sick.
    Sick(String),
}

/// Why a run stops before its end.
pub(crate) enum Halt {
    Interrupted,
    Sick(String),
}

impl From<Halt> for Ended {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Interrupted => Ended::Interrupted,
            Halt::Sick(why) => Ended::Sick(why),
        }
    }
}

impl From<Trouble> for Halt {
    fn from(trouble: Trouble) -> Self {
        Halt::Sick(trouble.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_in_the_area_where_prefix_and_sources_both_have_it() {
        let sources = ["inbox/a/", "inbox/b/", "other"].map(|text| Source::parse(text).unwrap()).to_vec();
        let area = |prefix: &str| Area { bucket: "inbox".into(), prefix: prefix.into(), sources: sources.clone() };
        for (prefix, bucket, key, expected) in [
            ("", "inbox", "a/1", true),
            ("", "inbox", "b/1", true),
            ("", "inbox", "c/1", false),
            ("a/", "inbox", "b/1", false),
            ("a/x", "inbox", "a/x1", true),
            ("", "other", "a/1", false),
        ] {
            assert_eq!(area(prefix).has(bucket, key), expected, "{prefix} {bucket}/{key}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_blip_is_waited_for_and_an_outage_is_not() {
        let asked = std::cell::Cell::new(0);
        let blip = patiently(|| {
            asked.set(asked.get() + 1);
            let nth = asked.get();
            async move { if nth < 3 { Err(StoreError::Unavailable("reset".into())) } else { Ok(nth) } }
        });
        assert_eq!(blip.await, Ok(3));
        let down = patiently(|| async { Err::<(), _>(StoreError::Unavailable("down".into())) }).await;
        assert_eq!(down, Err(Trouble::Sick("S3: unavailable: down".into())));
        asked.set(0);
        let own = patiently(|| {
            asked.set(asked.get() + 1);
            async { Err::<(), _>(StoreError::Denied("no".into())) }
        });
        assert!(matches!(own.await, Err(Trouble::Own(_))) && asked.get() == 1, "another try cannot help");
        let never = patiently(std::future::pending::<Result<(), StoreError>>).await;
        assert!(matches!(never, Err(Trouble::Sick(_))));
    }
}
