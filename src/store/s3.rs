//! The store port on S3: the only file naming `aws_sdk_s3`.
//!
//! Promises that "not there" and "somebody was first" are answers, and that an error is judged by S3's code
//! before its status. Knows no record and no key layout. Only a body's streaming is without a timeout here:
//! the reader owns a total deadline, which the SDK cannot give.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryPartition;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{EncodingType, Object};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use percent_encoding::percent_decode_str;

use super::{
    Condition, DeleteReply, Listed, ListedPage, ObjectHead, OpenObject, Page, PutReply, Shelves, Store, StoreError,
};
use crate::aws::{Fault, blames_credentials, endpoint_is_custom, one_line};

mod wiring;

/// Until the headers of a reply, the whole upload of a PUT included.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);
/// All attempts of one call together; short enough that a call ends inside the shortest useful lease.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(30);
/// S3's limit of a key.
const S3_MAX_KEY_BYTES: usize = 1_024;
/// S3's limit of keys in one page.
const S3_MAX_PAGE: usize = 1_000;

/// Of a listing, in a row.
const MOST_EMPTY_PAGES: usize = 100;

/// The client for all buckets, with timeouts on everything but body streaming.
pub fn client(shared: &SdkConfig) -> Client {
    let mut timeouts = TimeoutConfig::builder()
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT)
        .build();
    if let Some(base) = shared.timeout_config() {
        timeouts.take_defaults_from(base); // keeps the shared connect timeout
    }
    let config = aws_sdk_s3::config::Builder::from(shared)
        .force_path_style(endpoint_is_custom(shared))
        .retry_partition(RetryPartition::new("quittance-store"))
        .timeout_config(timeouts)
        .build();
    Client::from_conf(config)
}

/// All buckets, through one client.
#[derive(Clone, Debug)]
pub struct S3Store {
    client: Client,
}

impl S3Store {
    /// A store on this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// HEAD has no error body, so a 400 or 403 does not say whether the object, the key or our credentials are at
    /// fault. A GET of the same object does; one byte of it is asked, and none is read.
    async fn reason_of(&self, bucket: &str, key: &str, silent: StoreError) -> StoreError {
        match self.client.get_object().bucket(bucket).key(key).range("bytes=0-0").send().await {
            Ok(_) => StoreError::Unavailable(format!("HEAD was refused and GET was not: {silent}")),
            Err(error) => match fault(&error) {
                // Answered too: what stood in the way of the HEAD was no fault of the object's, and is gone.
                Fault::Answered { code: Some(code), .. } if code == "NoSuchKey" => {
                    StoreError::Unavailable(format!("HEAD was refused and GET was not: {silent}"))
                }
                other => judge(other),
            },
        }
    }
}

#[async_trait]
impl Store for S3Store {
    async fn head(&self, bucket: &str, key: &str) -> Result<Option<ObjectHead>, StoreError> {
        check_key(key)?;
        let error = match self.client.head_object().bucket(bucket).key(key).send().await {
            Ok(reply) => {
                return Ok(Some(head_of(
                    reply.e_tag,
                    reply.version_id,
                    reply.content_length,
                    reply.content_type,
                    reply.last_modified,
                    reply.metadata,
                )));
            }
            Err(error) => fault(&error),
        };
        match error {
            Fault::Answered { status: 404, .. } => Ok(None),
            Fault::Answered { status: 400 | 403, .. } => Err(self.reason_of(bucket, key, judge(error)).await),
            other => Err(judge(other)),
        }
    }

    async fn get(&self, bucket: &str, key: &str) -> Result<Option<OpenObject>, StoreError> {
        check_key(key)?;
        match self.client.get_object().bucket(bucket).key(key).send().await {
            Ok(reply) => {
                let head = head_of(
                    reply.e_tag,
                    reply.version_id,
                    reply.content_length,
                    reply.content_type,
                    reply.last_modified,
                    reply.metadata,
                );
                Ok(Some(OpenObject { head, body: chunks(reply.body) }))
            }
            Err(error) => match fault(&error) {
                Fault::Answered { code: Some(code), .. } if code == "NoSuchKey" => Ok(None),
                other => Err(judge(other)),
            },
        }
    }

    async fn put(
        &self,
        bucket: &str,
        key: &str,
        body: Bytes,
        metadata: &BTreeMap<String, String>,
        condition: Condition,
    ) -> Result<PutReply, StoreError> {
        check_key(key)?;
        let mut request = self
            .client
            .put_object()
            .bucket(bucket)
            .key(key)
            .content_type("application/json") // all we write is JSON
            .set_metadata(Some(metadata.iter().map(|(name, value)| (name.clone(), value.clone())).collect()))
            .body(ByteStream::from(body));
        let over_etag = matches!(condition, Condition::Match(_));
        request = match condition {
            Condition::Absent => request.if_none_match("*"),
            Condition::Match(etag) => request.if_match(format!("\"{etag}\"")),
            Condition::None => request,
        };
        match request.send().await {
            Ok(reply) => match reply.e_tag {
                Some(etag) => Ok(PutReply::Written { etag: unquoted(&etag) }),
                None => Err(StoreError::Unavailable("put reply without an etag".into())),
            },
            Err(error) => match fault(&error) {
                fault if lost_race(&fault, over_etag) => Ok(PutReply::Conflict),
                other => Err(judge(other)),
            },
        }
    }

    async fn delete(&self, bucket: &str, key: &str) -> Result<(), StoreError> {
        check_key(key)?;
        match self.client.delete_object().bucket(bucket).key(key).send().await {
            Ok(_) => Ok(()),
            Err(error) => match fault(&error) {
                Fault::Answered { code: Some(code), .. } if code == "NoSuchKey" => Ok(()),
                other => Err(judge(other)),
            },
        }
    }

    async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let page = self.list_objects(bucket, prefix, start_after, limit).await?;
        Ok(Page { keys: page.objects.into_iter().map(|object| object.key).collect(), more: page.more })
    }

    async fn probe(&self, bucket: &str) -> Result<(), StoreError> {
        // Needs the permission of HeadBucket (s3:ListBucket), but its error has a body that says why.
        let request = self.client.list_objects_v2().bucket(bucket).max_keys(1);
        request.send().await.map(|_| ()).map_err(|error| judge(fault(&error)))
    }
}

#[async_trait]
impl Shelves for S3Store {
    async fn list_objects(
        &self,
        bucket: &str,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<ListedPage, StoreError> {
        let mut from: Option<String> = None;
        let mut empty = 0;
        let reply = loop {
            let reply = self
                .client
                .list_objects_v2()
                .bucket(bucket)
                .prefix(prefix)
                .set_start_after(start_after.map(str::to_owned))
                .set_continuation_token(from)
                .max_keys(i32::try_from(limit.clamp(1, S3_MAX_PAGE)).unwrap_or(1))
                // Keys may hold what XML cannot carry (control characters, a bare CR).
                .encoding_type(EncodingType::Url)
                .send()
                .await
                .map_err(|error| judge(fault(&error)))?;
            // A page may be empty and not the last (among many delete markers, say): without a key to go on behind, it
            // would look like the end.
            if reply.is_truncated != Some(true) || reply.contents.as_ref().is_some_and(|contents| !contents.is_empty())
            {
                break reply;
            }
            empty += 1;
            from = reply.next_continuation_token;
            if from.is_none() || empty == MOST_EMPTY_PAGES {
                return Err(StoreError::Unavailable(format!(
                    "{empty} pages of a listing say that there is more, and name nothing"
                )));
            }
        };
        let encoded = reply.encoding_type == Some(EncodingType::Url);
        let listed = |object: Object| {
            let key = object.key?;
            let key = if encoded { decoded(&key) } else { Ok(key) };
            Some(key.map(|key| Listed {
                key,
                etag: object.e_tag.as_deref().map(unquoted).unwrap_or_default(),
                size: object.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
                modified_ms: object.last_modified.and_then(|time| unix_ms(&time)),
            }))
        };
        let objects = reply.contents.unwrap_or_default().into_iter().filter_map(listed).collect::<Result<_, _>>()?;
        Ok(ListedPage { objects, more: reply.is_truncated.unwrap_or(false) })
    }

    async fn delete_if_match(&self, bucket: &str, key: &str, etag: &str) -> Result<DeleteReply, StoreError> {
        check_key(key)?;
        let request = self.client.delete_object().bucket(bucket).key(key).if_match(format!("\"{etag}\""));
        match request.send().await {
            Ok(_) => Ok(DeleteReply::Deleted),
            Err(error) => conditional_delete(fault(&error)),
        }
    }
}

fn conditional_delete(fault: Fault) -> Result<DeleteReply, StoreError> {
    let Fault::Answered { status, code, text } = &fault else { return Err(judge(fault)) };
    match (*status, code.as_deref().unwrap_or_default()) {
        (404, code) if code != "NoSuchBucket" => Ok(DeleteReply::Deleted),
        (412, _) | (_, "PreconditionFailed" | "ConditionalRequestConflict") => Ok(DeleteReply::Conflict),
        (501, _) | (_, "NotImplemented") => Ok(DeleteReply::Unsupported(text.clone())),
        _ => Err(judge(fault)),
    }
}

fn head_of(
    etag: Option<String>,
    version_id: Option<String>,
    length: Option<i64>,
    content_type: Option<String>,
    modified: Option<DateTime>,
    metadata: Option<std::collections::HashMap<String, String>>,
) -> ObjectHead {
    let metadata = metadata.unwrap_or_default().into_iter();
    ObjectHead {
        etag: etag.as_deref().map(unquoted).unwrap_or_default(),
        version_id,
        size: length.and_then(|length| u64::try_from(length).ok()).unwrap_or(0),
        content_type,
        modified_ms: modified.as_ref().and_then(unix_ms),
        metadata: metadata.map(|(name, value)| (name.to_ascii_lowercase(), value)).collect(),
    }
}

fn unix_ms(time: &DateTime) -> Option<u64> {
    time.to_millis().ok().and_then(|ms| u64::try_from(ms).ok())
}

fn unquoted(etag: &str) -> String {
    etag.trim_matches('"').to_owned()
}

/// The body as the SDK hands it on. An error (reset, stall, checksum) ends the stream: nothing after it is trusted.
fn chunks(body: ByteStream) -> BoxStream<'static, Result<Bytes, StoreError>> {
    stream::unfold(Some(body), |state| async move {
        let mut body = state?;
        match body.next().await? {
            Ok(chunk) => Some((Ok(chunk), Some(body))),
            Err(error) => Some((Err(StoreError::Interrupted(text_of(&error))), None)),
        }
    })
    .boxed()
}

fn text_of(error: &(dyn std::error::Error + 'static)) -> String {
    match Fault::silent(error) {
        Fault::Silent { text } | Fault::Unsendable { text } | Fault::Answered { text, .. } => text,
    }
}

/// Said here because the refusal of a HEAD could not say it: such a key is the message's fault for ever.
fn check_key(key: &str) -> Result<(), StoreError> {
    if (1..=S3_MAX_KEY_BYTES).contains(&key.len()) {
        Ok(())
    } else {
        Err(StoreError::Refused(format!("a key has 1 to {S3_MAX_KEY_BYTES} bytes, this one {}", key.len())))
    }
}

/// `encoding-type=url` is form encoding on S3 (`+` is a space); an encoder that writes `%20` never leaves a bare `+`.
fn decoded(key: &str) -> Result<String, StoreError> {
    let spaced = key.replace('+', " ");
    match percent_decode_str(&spaced).decode_utf8() {
        Ok(key) => Ok(key.into_owned()),
        Err(_) => Err(StoreError::Refused(one_line(&format!("listed key is not UTF-8: {key}")))),
    }
}

fn fault<E: ProvideErrorMetadata + std::error::Error + 'static>(error: &SdkError<E>) -> Fault {
    match error {
        SdkError::ConstructionFailure(_) => Fault::unsendable(error),
        SdkError::ServiceError(answer) => {
            Fault::answered(answer.raw().status().as_u16(), answer.err().code(), answer.err().message())
        }
        _ => Fault::silent(error),
    }
}

/// 412, 409 between two conditional writers, and 404 of an object that `If-Match` expected.
fn lost_race(fault: &Fault, over_etag: bool) -> bool {
    let Fault::Answered { status, code, .. } = fault else { return false };
    match (*status, code.as_deref().unwrap_or_default()) {
        (412, _) | (_, "PreconditionFailed" | "ConditionalRequestConflict") => true,
        (404, code) => over_etag && code != "NoSuchBucket",
        _ => false,
    }
}

/// The one place that says what an SDK error means. The code goes before the status: S3 says 403 for four
/// different faults, and 400 for an expired token.
fn judge(fault: Fault) -> StoreError {
    let (status, code, text) = match fault {
        Fault::Unsendable { text } => return StoreError::Refused(text),
        Fault::Silent { text } => return StoreError::Unavailable(text),
        Fault::Answered { status, code, text } => (status, code.unwrap_or_default(), text),
    };
    match code.as_str() {
        "NoSuchBucket" => StoreError::BucketMissing(text),
        "InvalidObjectState" => StoreError::Archived(text),
        "SlowDown" | "RequestLimitExceeded" | "BandwidthLimitExceeded" => StoreError::Throttled(text),
        code if code.contains("Throttling") => StoreError::Throttled(text),
        code if code.starts_with("KMS.") || code.starts_with("Kms") => StoreError::Denied(text),
        code if blames_credentials(code) => StoreError::Unavailable(text),
        // Answers of a moment, whatever their status: the same again can help.
        "RequestTimeout" | "OperationAborted" | "InternalError" => StoreError::Unavailable(text),
        _ => match status {
            503 | 429 => StoreError::Throttled(text),
            403 => StoreError::Denied(text),
            408 | 500.. => StoreError::Unavailable(text),
            _ => StoreError::Refused(text),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_judged_by_its_code_before_its_status() {
        use StoreError::*;
        type Verdict = fn(String) -> StoreError;
        let cases: [(u16, &str, Verdict); 18] = [
            (404, "NoSuchBucket", BucketMissing),
            (403, "AccessDenied", Denied),
            (403, "InvalidAccessKeyId", Unavailable),
            (403, "SignatureDoesNotMatch", Unavailable),
            (403, "RequestTimeTooSkewed", Unavailable),
            (400, "ExpiredToken", Unavailable),
            (403, "InvalidObjectState", Archived),
            (400, "KMS.DisabledException", Denied),
            (400, "KMS.NotFoundException", Denied),
            (400, "ThrottlingException", Throttled),
            (503, "SlowDown", Throttled),
            (503, "ServiceUnavailable", Throttled),
            (429, "TooManyRequests", Throttled),
            (500, "InternalError", Unavailable),
            (400, "RequestTimeout", Unavailable),
            (409, "OperationAborted", Unavailable),
            (400, "InvalidRequest", Refused),
            (301, "PermanentRedirect", Refused),
        ];
        for (status, code, expected) in cases {
            let judged = judge(Fault::answered(status, Some(code), None));
            assert_eq!(judged, expected(code.into()), "{status}");
        }
        assert_eq!(judge(Fault::answered(403, None, None)), Denied("status 403".into()));
        assert_eq!(judge(Fault::Silent { text: "no route".into() }), Unavailable("no route".into()));
    }

    #[test]
    fn only_a_lost_race_is_a_conflict() {
        let lost = |status, code, over_etag| lost_race(&Fault::answered(status, Some(code), None), over_etag);
        assert!(lost(412, "PreconditionFailed", false));
        assert!(lost(409, "ConditionalRequestConflict", false));
        assert!(lost(404, "NoSuchKey", true));
        assert!(!lost(404, "NoSuchKey", false));
        assert!(!lost(404, "NoSuchBucket", true));
        assert!(!lost(409, "OperationAborted", true));
        assert!(!lost(403, "AccessDenied", true));
    }

    #[test]
    fn a_conditional_delete_tells_gone_from_changed_from_unknown() {
        use DeleteReply::{Conflict, Deleted, Unsupported};
        let told = |status, code: &str| conditional_delete(Fault::answered(status, Some(code), None));
        assert_eq!(told(404, "NoSuchKey"), Ok(Deleted));
        assert_eq!(told(412, "PreconditionFailed"), Ok(Conflict));
        assert_eq!(told(409, "ConditionalRequestConflict"), Ok(Conflict));
        assert_eq!(told(501, "NotImplemented"), Ok(Unsupported("NotImplemented".into())));
        assert!(matches!(told(404, "NoSuchBucket"), Err(StoreError::BucketMissing(_))));
        assert!(matches!(told(403, "AccessDenied"), Err(StoreError::Denied(_))));
        assert!(matches!(told(503, "SlowDown"), Err(StoreError::Throttled(_))));
    }

    #[test]
    fn listed_keys_are_decoded_from_either_encoding_of_a_space() {
        for encoded in ["a+b%2Bc%252B%E6%97%A5%0D%0A", "a%20b%2Bc%252B%E6%97%A5%0D%0A"] {
            assert_eq!(decoded(encoded).unwrap(), "a b+c%2B日\r\n");
        }
        assert!(decoded("%FF").is_err());
    }

    #[test]
    fn a_key_s3_cannot_hold_is_refused_without_a_call() {
        assert!(check_key(&"日".repeat(341)).is_ok());
        assert!(matches!(check_key(&"x".repeat(1_025)), Err(StoreError::Refused(_))));
        assert!(matches!(check_key(""), Err(StoreError::Refused(_))));
    }
}
