//! Source buckets can be read and tell "not there" from "not allowed"; the results bucket keeps its word.
//!
//! Promises to remove what it writes, also after a failure, and to write below `control/` only.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::future::join_all;
use uuid::Uuid;

use super::{Finding, Subject, within};
use crate::message::s3_event::Source;
use crate::pause::{self, Pause, Standing};
use crate::store::{Condition, PutReply, Store, StoreError, layout, read_all};

/// An etag that no object has: MD5 of nothing we write.
const FOREIGN_ETAG: &str = "00000000000000000000000000000000";

pub(super) async fn check_sources(subject: &Subject<'_>) -> Vec<Finding> {
    if subject.sources.is_empty() {
        let fix = "set SOURCE_BUCKETS to bucket or bucket/prefix, separated by commas";
        return vec![Finding::fail("source_bucket", "no source is configured: every message would be refused", fix)];
    }
    join_all(subject.sources.iter().map(|source| check_source(subject.store, source))).await.concat()
}

async fn check_source(store: &dyn Store, source: &Source) -> Vec<Finding> {
    let Source { bucket, prefix } = source;
    // A name that nobody has: S3 answers 404 for it only to those who may list.
    let key = format!("{prefix}quittance-check-{}", Uuid::now_v7());
    let (probe, head) = tokio::join!(
        within(store.probe(bucket), StoreError::Unavailable),
        within(store.head(bucket, &key), StoreError::Unavailable)
    );
    let reachable = bucket_finding("source_bucket", "SOURCE_BUCKETS", bucket, &probe);
    if matches!(probe, Err(StoreError::BucketMissing(_) | StoreError::Unavailable(_))) {
        let second = Finding::skipped("missing_key", &format!("{bucket}: needs the bucket"));
        return vec![reachable, second];
    }
    let grant =
        format!("grant s3:ListBucket on arn:aws:s3:::{bucket} and s3:GetObject on arn:aws:s3:::{bucket}/{prefix}*");
    let second = match head {
        Ok(None) => Finding::pass("missing_key", &format!("{bucket}/{prefix}: a key that is not there answers 404")),
        Ok(Some(_)) => Finding::fail(
            "missing_key",
            &format!("{bucket}: answers for a key that nobody wrote"),
            "check AWS_ENDPOINT_URL: this is not s3",
        ),
        Err(StoreError::Denied(why)) => Finding::fail(
            "missing_key",
            &format!(
                "{bucket}/{prefix}: a key that is not there answers 403 ({why}): s3:ListBucket is missing, \
                 so that a removed file looks like a forbidden one"
            ),
            &grant,
        ),
        Err(error) => Finding::fail("missing_key", &format!("{bucket}: {error}"), &grant),
    };
    vec![reachable, second]
}

fn bucket_finding(name: &'static str, variable: &str, bucket: &str, probe: &Result<(), StoreError>) -> Finding {
    let error = match probe {
        Ok(()) => return Finding::pass(name, &format!("{bucket} is reachable")),
        Err(error) => error,
    };
    let fix = match error {
        StoreError::BucketMissing(_) => format!("check {variable} and AWS_REGION; create the bucket if it is new"),
        StoreError::Denied(_) => {
            format!("grant s3:ListBucket on arn:aws:s3:::{bucket}; check the credentials and that the bucket is yours")
        }
        StoreError::Throttled(_)
        | StoreError::Archived(_)
        | StoreError::Interrupted(_)
        | StoreError::Unavailable(_)
        | StoreError::Refused(_) => {
            "check the network to s3 (endpoint, dns, proxy, AWS_ENDPOINT_URL) and the credentials".to_owned()
        }
    };
    Finding::fail(name, &format!("{bucket}: {error}"), &fix)
}

/// The findings; and when an object was written, by the store's clock and by ours.
pub(super) async fn check_results(subject: &Subject<'_>) -> (Vec<Finding>, Option<(u64, u64)>) {
    let bucket = subject.results_bucket;
    let apart = if subject.sources.iter().any(|source| source.bucket == bucket) {
        Finding::fail(
            "results_apart",
            &format!("{bucket} is a source and the results bucket: our own records would come back as work"),
            "give S3_BUCKET a bucket of its own, or take this one out of SOURCE_BUCKETS",
        )
    } else {
        Finding::pass("results_apart", &format!("{bucket} is not a source"))
    };
    let probe = within(subject.store.probe(bucket), StoreError::Unavailable).await;
    let reachable = bucket_finding("results_bucket", "S3_BUCKET", bucket, &probe);
    // A refused probe says nothing about reading and writing; a bucket that is not there does.
    let ((writes, written), pause) = if matches!(probe, Err(StoreError::BucketMissing(_) | StoreError::Unavailable(_)))
    {
        let needs = |name| Finding::skipped(name, &format!("{bucket}: needs the bucket"));
        ((needs("results_writes"), None), needs("pause"))
    } else {
        tokio::join!(check_writes(subject, bucket), check_pause(subject.store, bucket))
    };
    (vec![apart, reachable, writes, pause], written)
}

/// A fleet that stands still as it was told to looks like a broken one.
async fn check_pause(store: &dyn Store, bucket: &str) -> Finding {
    let (name, key) = ("pause", layout::PAUSE);
    match within(pause::look(store, bucket), StoreError::Unavailable).await {
        Ok(Standing::Running) => Finding::pass(name, &format!("{bucket}: the fleet is not paused")),
        Ok(Standing::Paused(Pause { reason, by, at, v: _ })) => Finding::warn(
            name,
            &format!("{bucket}: paused by {by} since {at}: {reason}; no worker of this bucket receives or replays"),
            &format!("S3_BUCKET={bucket} redrive resume"),
        ),
        Ok(Standing::Unreadable { why, .. }) => Finding::warn(
            name,
            &format!("{bucket}: {key} cannot be read ({why}): workers take it for a pause"),
            &format!("S3_BUCKET={bucket} redrive resume"),
        ),
        Err(error) => Finding::fail(
            name,
            &format!("{bucket}: cannot see whether the fleet is paused: {error}; a worker does not start"),
            &format!("grant s3:GetObject on arn:aws:s3:::{bucket}/{key}"),
        ),
    }
}

/// What went wrong, and what mends it.
struct Broken {
    evidence: String,
    fix: String,
}

async fn check_writes(subject: &Subject<'_>, bucket: &str) -> (Finding, Option<(u64, u64)>) {
    let (name, store) = ("results_writes", subject.store);
    let key = format!("control/check-{}.json", Uuid::now_v7());
    let kept = keeps_its_word(store, bucket, &key).await;
    let ours = subject.clock.unix_ms();
    // Also after a failure: a write whose reply was lost may have happened.
    let removed = within(store.delete(bucket, &key), StoreError::Unavailable).await;
    let written = kept.as_ref().ok().copied().flatten().map(|theirs| (theirs, ours));
    let finding = match (kept, removed) {
        (Err(Broken { evidence, fix }), _) => Finding::fail(name, &format!("{bucket}: {evidence}"), &fix),
        (Ok(_), Err(error)) => Finding::warn(
            name,
            &format!("{bucket}: writes are sound, but {key} could not be removed: {error}"),
            &format!("grant s3:DeleteObject on arn:aws:s3:::{bucket}/*, and remove that object"),
        ),
        (Ok(_), Ok(())) => Finding::pass(
            name,
            &format!("{bucket}: written, read back, removed; both conditions hold (if-none-match, if-match)"),
        ),
    };
    (finding, written)
}

/// The record's protocol in small: create once, never twice, never over another's etag, metadata kept. When it was written,
/// as the store says, Unix milliseconds.
async fn keeps_its_word(store: &dyn Store, bucket: &str, key: &str) -> Result<Option<u64>, Broken> {
    let body = Bytes::from_static(b"{\"written_by\":\"worker check\"}");
    let metadata = BTreeMap::from([("revision".to_owned(), "1".to_owned())]);
    let put = async |condition: Condition| {
        let call = store.put(bucket, key, body.clone(), &metadata, condition);
        within(call, StoreError::Unavailable).await.map_err(|error| Broken {
            evidence: format!("cannot write {key}: {error}"),
            fix: format!("grant s3:PutObject on arn:aws:s3:::{bucket}/* (and the use of its kms key, if it has one)"),
        })
    };
    let broken = |evidence: &str| Broken {
        evidence: evidence.to_owned(),
        fix: "use a store with conditional writes (s3, localstack ≥ 4): without them two workers overwrite each other"
            .to_owned(),
    };
    if put(Condition::Absent).await? == PutReply::Conflict {
        return Err(broken("the first write of a new key conflicted"));
    }
    if put(Condition::Absent).await? != PutReply::Conflict {
        return Err(broken("the store ignores if-none-match: a second create went through"));
    }
    if put(Condition::Match(FOREIGN_ETAG.to_owned())).await? != PutReply::Conflict {
        return Err(broken("the store ignores if-match: a write over another etag went through"));
    }
    let read = async {
        let Some(object) = store.get(bucket, key).await? else { return Ok(None) };
        let (found, written) = (object.head.metadata.clone(), object.head.modified_ms);
        Ok(Some((found, written, read_all(object, body.len()).await?)))
    };
    match within(read, StoreError::Unavailable).await {
        Ok(Some((found, written, text)))
            if text == body && found.get("revision").is_some_and(|revision| revision == "1") =>
        {
            Ok(written)
        }
        Ok(Some(_)) => Err(broken("what was read back is not what was written")),
        Ok(None) => Err(broken("what was written is not there")),
        Err(error) => Err(Broken {
            evidence: format!("cannot read {key} back: {error}"),
            fix: format!("grant s3:GetObject on arn:aws:s3:::{bucket}/*"),
        }),
    }
}
