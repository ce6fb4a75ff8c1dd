//! The port to an object store: HEAD, GET, conditional PUT, LIST, DELETE.
//!
//! Promises that "not there" is an answer and not an error, and that an error says whose fault it is:
//! the object's, or the dependency's. Knows no record and no key layout (`process::record`, `store::layout`);
//! `store::s3` is the only file naming the SDK.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

pub mod layout;
pub mod s3;
pub mod wiring;

/// What HEAD or GET says of an object.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ObjectHead {
    /// ETag without quotes.
    pub etag: String,
    /// Version id, on versioned buckets.
    pub version_id: Option<String>,
    /// Length in bytes.
    pub size: u64,
    /// `Content-Type` as stored.
    pub content_type: Option<String>,
    /// `Last-Modified`, Unix milliseconds.
    pub modified_ms: Option<u64>,
    /// User metadata, lower-case names.
    pub metadata: BTreeMap<String, String>,
}

/// An object whose body is still to be read.
pub struct OpenObject {
    /// What the reply's headers said.
    pub head: ObjectHead,
    /// The body. An error in it is an interrupted body, never an end.
    pub body: BoxStream<'static, Result<Bytes, StoreError>>,
}

/// When a PUT may take effect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Condition {
    /// `If-None-Match: *`: only where there is nothing.
    Absent,
    /// `If-Match`: only over this etag.
    Match(String),
    /// Unconditional.
    None,
}

/// How a PUT ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PutReply {
    /// Durable; the etag of what was written.
    Written {
        /// ETag without quotes.
        etag: String,
    },
    /// 412, 409, or 404 on `If-Match`: somebody was there first (or our own lost reply was).
    Conflict,
}

/// One page of a listing, in key order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// Keys, ascending.
    pub keys: Vec<String>,
    /// More follow: ask again with `start_after` the last key.
    pub more: bool,
}

/// An object as a listing tells of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listed {
    /// Key.
    pub key: String,
    /// ETag without quotes.
    pub etag: String,
    /// Length in bytes.
    pub size: u64,
    /// `LastModified`, Unix milliseconds.
    pub modified_ms: Option<u64>,
}

/// One page of a listing with what it tells of each object, in key order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListedPage {
    /// Objects, ascending by key.
    pub objects: Vec<Listed>,
    /// More follow: ask again with `start_after` the last key.
    pub more: bool,
}

/// How a DELETE over an etag ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeleteReply {
    /// It is gone; also where it was gone before.
    Deleted,
    /// Another state of the object is there. Nothing was deleted.
    Conflict,
    /// The store has no conditional DELETE (LocalStack: 501). Nothing was deleted.
    Unsupported(String),
}

/// Why a call gave no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// 403 and KMS refusals: this object's, or everybody's (an *unclear* failure).
    #[error("access denied: {0}")]
    Denied(String),
    /// 503 SlowDown, 429: this prefix's, or everybody's (an *unclear* failure).
    #[error("throttled: {0}")]
    Throttled(String),
    /// The object is archived (`InvalidObjectState`): no retry brings it.
    #[error("archived: {0}")]
    Archived(String),
    /// The body broke off, or a checksum did not match: this transfer's.
    #[error("body interrupted: {0}")]
    Interrupted(String),
    /// The bucket is not there.
    #[error("bucket does not exist: {0}")]
    BucketMissing(String),
    /// Cannot connect, DNS, timeout, credentials, 5xx after the SDK's retries: systemic.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// A refusal none of the above names (4xx): the same again cannot help.
    #[error("refused: {0}")]
    Refused(String),
}

/// Buckets of objects.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Metadata only. `None` is a 404 of the *object*; a missing bucket is an error.
    /// (HEAD has no error body, so where S3 cannot tell the two apart, `None`.)
    async fn head(&self, bucket: &str, key: &str) -> Result<Option<ObjectHead>, StoreError>;

    /// Opens the current object. `None` is a 404 of the object.
    async fn get(&self, bucket: &str, key: &str) -> Result<Option<OpenObject>, StoreError>;

    /// Writes an object with ASCII metadata.
    async fn put(
        &self,
        bucket: &str,
        key: &str,
        body: Bytes,
        metadata: &BTreeMap<String, String>,
        condition: Condition,
    ) -> Result<PutReply, StoreError>;

    /// Removes an object; gone already is success.
    async fn delete(&self, bucket: &str, key: &str) -> Result<(), StoreError>;

    /// Up to `limit` (≤ 1,000) keys below `prefix`, after `start_after`, in UTF-8 order.
    async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Page, StoreError>;

    /// The bucket is there and we may look at it.
    async fn probe(&self, bucket: &str) -> Result<(), StoreError>;
}

/// What keeping a bucket in order takes beyond that. A port of its own, so that nothing in a worker can take a record
/// away.
#[async_trait]
pub trait Shelves: Store {
    /// As [`Store::list`], with etag, size and time of each object.
    async fn list_objects(
        &self,
        bucket: &str,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<ListedPage, StoreError>;

    /// Removes an object that still has this etag (`If-Match`).
    async fn delete_if_match(&self, bucket: &str, key: &str, etag: &str) -> Result<DeleteReply, StoreError>;
}

/// For the smallest body, and for all others beside their size: no link that is worth working on needs longer to begin.
const BODY_LEAST: Duration = Duration::from_secs(30);
/// Slower than this a body is not coming: with all of the default's 64 downloads at once, 8 MiB a second.
const SLOWEST_BYTES_PER_SECOND: u64 = 128 * 1024;

/// How long a body of this many bytes may take in all, at most `longest`. A drip of a few bytes a second passes every
/// other check; and by the size, for a permit held for minutes is too much for a small file that drips.
pub fn body_deadline(bytes: u64, longest: Duration) -> Duration {
    (BODY_LEAST + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND)).min(longest)
}

/// A whole record of tens of MiB arrives in this on any link that is worth working on.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// Reads an object of our own (a record, a marker) into memory, at most `limit` bytes, under one total deadline.
pub async fn read_all(object: OpenObject, limit: usize) -> Result<Bytes, StoreError> {
    let deadline = body_deadline(object.head.size, READ_LIMIT);
    match tokio::time::timeout(deadline, collect(object, limit)).await {
        Ok(ended) => ended,
        Err(_) => Err(StoreError::Interrupted(format!("the body took longer than {deadline:?}"))),
    }
}

async fn collect(object: OpenObject, limit: usize) -> Result<Bytes, StoreError> {
    use futures_util::StreamExt as _;
    let mut body = object.body;
    let mut bytes = Vec::with_capacity(usize::try_from(object.head.size).unwrap_or(0).min(limit));
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        if bytes.len() + chunk.len() > limit {
            return Err(StoreError::Refused(format!("object is larger than {limit} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    if (bytes.len() as u64) < object.head.size {
        return Err(StoreError::Interrupted(format!("{} of {} bytes", bytes.len(), object.head.size)));
    }
    Ok(Bytes::from(bytes))
}
