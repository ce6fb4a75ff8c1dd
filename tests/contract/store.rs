//! The contract of a store.
//!
//! LocalStack has neither slow nor broken bodies, and no throttling: those are the model's alone (`tests/model.rs`).
//! It also compares `start_after` in percent-encoded text, which loses keys behind non-ASCII ones: paging over those
//! is asked of the model only (our own keys are ASCII).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use quittance::store::s3::{self, S3Store};
use quittance::store::{Condition, DeleteReply, ObjectHead, PutReply, Shelves, StoreError, read_all};

use crate::sim::{RESULTS, World};
use crate::{contract, local_aws, unique};

struct Bed {
    store: Arc<dyn Shelves>,
    bucket: String,
}

impl Bed {
    fn of_the_model() -> Self {
        Self { store: Arc::new(World::new(1).store), bucket: RESULTS.into() }
    }

    async fn of_the_local_stack() -> Self {
        let client = s3::client(&local_aws().await);
        let bucket = unique("contract");
        client.create_bucket().bucket(&bucket).send().await.unwrap();
        Self { store: Arc::new(S3Store::new(client)), bucket }
    }

    async fn put(&self, key: &str, body: &str, condition: Condition) -> Result<PutReply, StoreError> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        self.store.put(&self.bucket, key, body, &BTreeMap::new(), condition).await
    }

    async fn written(&self, key: &str, body: &str) -> String {
        match self.put(key, body, Condition::None).await.unwrap() {
            PutReply::Written { etag } => etag,
            PutReply::Conflict => panic!("an unconditional PUT met a conflict"),
        }
    }

    async fn read(&self, key: &str) -> Option<String> {
        let object = self.store.get(&self.bucket, key).await.unwrap()?;
        let bytes = read_all(object, 10_000_000).await.unwrap();
        Some(String::from_utf8(bytes.to_vec()).unwrap())
    }
}

contract! { Bed:
    an_object_that_is_not_there_is_an_answer_and_a_missing_bucket_an_error,
    of_many_first_writers_exactly_one_wins,
    a_write_over_an_etag_needs_that_etag,
    what_was_written_is_read_with_its_metadata,
    an_etag_follows_from_the_content,
    keys_come_back_byte_for_byte,
    a_listing_goes_on_after_a_key,
    deleting_twice_is_a_yes,
    a_delete_over_an_etag_takes_no_other_state,
    a_listing_tells_what_head_tells,
    an_empty_object_is_an_object,
    a_large_body_streams_whole,
    a_key_too_long_is_refused,
    a_probe_tells_whether_the_bucket_is_there,
}

async fn an_object_that_is_not_there_is_an_answer_and_a_missing_bucket_an_error(bed: &Bed) {
    assert_eq!(bed.store.head(&bed.bucket, "no").await, Ok(None));
    assert!(bed.store.get(&bed.bucket, "no").await.unwrap().is_none());
    // HEAD has no body to say it with.
    assert_eq!(bed.store.head("no-such-bucket-0", "no").await, Ok(None));
    let none = BTreeMap::new();
    let errors = [
        bed.store.get("no-such-bucket-0", "no").await.map(|_| ()).unwrap_err(),
        bed.store.put("no-such-bucket-0", "no", Bytes::new(), &none, Condition::None).await.map(|_| ()).unwrap_err(),
        bed.store
            .put("no-such-bucket-0", "no", Bytes::new(), &none, Condition::Match("e".into()))
            .await
            .map(|_| ())
            .unwrap_err(),
        bed.store.list("no-such-bucket-0", "", None, 1).await.map(|_| ()).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, StoreError::BucketMissing(_)), "{error}");
    }
}

async fn of_many_first_writers_exactly_one_wins(bed: &Bed) {
    let bodies: Vec<String> = (0..8).map(|writer| format!("writer {writer}")).collect();
    let replies = join_all(bodies.iter().map(|body| bed.put("race", body, Condition::Absent))).await;
    let winners: Vec<&String> = bodies
        .iter()
        .zip(&replies)
        .filter(|(_, reply)| matches!(reply, Ok(PutReply::Written { .. })))
        .map(|(body, _)| body)
        .collect();
    assert_eq!(winners.len(), 1, "{replies:?}");
    assert_eq!(replies.iter().filter(|reply| **reply == Ok(PutReply::Conflict)).count(), 7, "{replies:?}");
    assert_eq!(bed.read("race").await.as_ref(), Some(winners[0]));
}

async fn a_write_over_an_etag_needs_that_etag(bed: &Bed) {
    assert_eq!(bed.put("k", "x", Condition::Match("0".repeat(32))).await, Ok(PutReply::Conflict), "404");
    let first = bed.written("k", "one").await;
    assert_eq!(bed.put("k", "x", Condition::Match("0".repeat(32))).await, Ok(PutReply::Conflict), "412");
    let reply = bed.put("k", "two", Condition::Match(first.clone())).await.unwrap();
    assert!(matches!(reply, PutReply::Written { .. }));
    assert_eq!(bed.put("k", "three", Condition::Match(first)).await, Ok(PutReply::Conflict), "no longer that etag");
    assert_eq!(bed.read("k").await.as_deref(), Some("two"));
}

async fn what_was_written_is_read_with_its_metadata(bed: &Bed) {
    let metadata = BTreeMap::from([
        ("revision".to_owned(), "1795305600000".to_owned()),
        ("message-id".to_owned(), "3fa85f64-5717-4562-b3fc-2c963f66afa6".to_owned()),
        ("Sequencer".to_owned(), "0065B2C3".to_owned()),
    ]);
    let body = Bytes::from_static(b"{}");
    let reply = bed.store.put(&bed.bucket, "k", body, &metadata, Condition::Absent).await.unwrap();
    let PutReply::Written { etag } = reply else { panic!("{reply:?}") };
    let head = bed.store.head(&bed.bucket, "k").await.unwrap().unwrap();
    let lower = metadata.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
    let expected = ObjectHead {
        etag,
        size: 2,
        content_type: Some("application/json".into()),
        metadata: lower,
        version_id: head.version_id.clone(), // only versioned buckets have one
        modified_ms: head.modified_ms,
    };
    assert!(head.modified_ms.is_some_and(|ms| ms > 1_700_000_000_000));
    assert!(!head.etag.contains('"'), "{}", head.etag);
    assert_eq!(head, expected);
    assert_eq!(bed.store.get(&bed.bucket, "k").await.unwrap().unwrap().head, head);
}

async fn an_etag_follows_from_the_content(bed: &Bed) {
    let (a, b, again) = (bed.written("k", "A").await, bed.written("k", "B").await, bed.written("k", "A").await);
    assert_ne!(a, b);
    assert_eq!(a, again);
}

async fn keys_come_back_byte_for_byte(bed: &Bed) {
    let longest = format!("keys/{}{}", "日".repeat(339), "ab");
    assert_eq!(longest.len(), 1_024);
    let keys = BTreeSet::from(
        [
            "keys/日本語/請求書 2026年.pdf",
            "keys/a+b",
            "keys/a%2Bb",
            "keys/a b",
            "keys/a%20b",
            "keys/line\nbreak",
            "keys/carriage\rreturn", // XML would make it a line feed
            "keys/bell\u{7}",        // XML cannot hold it
            "keys/<&>'\"",
            "keys/emoji-😀",
            "keys/emoji-～",   // after 😀 in UTF-16, before it in UTF-8
            "keys/か\u{3099}", // decomposed: not the same key as the next
            "keys/が",
            &longest,
        ]
        .map(str::to_owned),
    );
    for key in &keys {
        bed.written(key, key).await;
    }
    for key in &keys {
        assert_eq!(bed.read(key).await.as_ref(), Some(key));
        assert_eq!(bed.store.head(&bed.bucket, key).await.unwrap().unwrap().size, key.len() as u64, "{key:?}");
    }
    let page = bed.store.list(&bed.bucket, "keys/", None, 1_000).await.unwrap();
    assert_eq!(page.keys, Vec::from_iter(keys.clone()));
    assert!(!page.more);
    for key in &keys {
        bed.store.delete(&bed.bucket, key).await.unwrap();
        assert_eq!(bed.store.head(&bed.bucket, key).await, Ok(None), "{key:?}");
    }
}

/// All keys below `p/`, two to a page.
async fn paged(bed: &Bed) -> Vec<String> {
    let (mut seen, mut after): (Vec<String>, Option<String>) = (Vec::new(), None);
    loop {
        let page = bed.store.list(&bed.bucket, "p/", after.as_deref(), 2).await.unwrap();
        assert!(page.keys.len() <= 2);
        assert!(page.keys.len() == 2 || !page.more);
        after = page.keys.last().cloned();
        seen.extend(page.keys);
        if !page.more {
            return seen;
        }
    }
}

async fn a_listing_goes_on_after_a_key(bed: &Bed) {
    let mut expected: Vec<String> = ["a b", "a+b", "a/b", "a/c d", "Z", "a"].map(|end| format!("p/{end}")).into();
    for key in expected.iter().map(String::as_str).chain(["o/before", "q/after"]) {
        bed.written(key, "x").await;
    }
    expected.sort();
    assert_eq!(paged(bed).await, expected);
    let nothing = bed.store.list(&bed.bucket, "nothing/", None, 10).await.unwrap();
    assert_eq!((nothing.keys.len(), nothing.more), (0, false));
}

#[tokio::test(start_paused = true)]
async fn a_model_listing_goes_on_after_a_key_beyond_ascii_in_utf8_order() {
    let bed = Bed::of_the_model();
    let expected = ["p/a", "p/が", "p/～", "p/😀"]; // UTF-16 would put 😀 before ～
    for key in ["p/😀", "p/が", "p/a", "p/～"] {
        bed.written(key, "x").await;
    }
    assert_eq!(paged(&bed).await, expected);
}

async fn deleting_twice_is_a_yes(bed: &Bed) {
    bed.written("k", "x").await;
    for _ in 0..2 {
        assert_eq!(bed.store.delete(&bed.bucket, "k").await, Ok(()));
    }
    assert_eq!(bed.store.head(&bed.bucket, "k").await, Ok(None));
}

/// Of what is there as it is now: deleted where the store can, and never another state.
async fn a_delete_over_an_etag_takes_no_other_state(bed: &Bed) {
    let first = bed.written("k", "one").await;
    let second = bed.written("k", "two").await;
    let stale = bed.store.delete_if_match(&bed.bucket, "k", &first).await.unwrap();
    assert!(matches!(stale, DeleteReply::Conflict | DeleteReply::Unsupported(_)), "{stale:?}");
    assert_eq!(bed.read("k").await.as_deref(), Some("two"));
    match bed.store.delete_if_match(&bed.bucket, "k", &second).await.unwrap() {
        DeleteReply::Deleted => assert_eq!(bed.read("k").await, None),
        // LocalStack.
        DeleteReply::Unsupported(_) => assert_eq!(bed.read("k").await.as_deref(), Some("two")),
        DeleteReply::Conflict => panic!("a conflict over the etag that is there"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_delete_over_an_etag_deletes() {
    let bed = Bed::of_the_model();
    let etag = bed.written("k", "one").await;
    for _ in 0..2 {
        assert_eq!(bed.store.delete_if_match(&bed.bucket, "k", &etag).await, Ok(DeleteReply::Deleted));
    }
    assert_eq!(bed.read("k").await, None);
}

async fn a_listing_tells_what_head_tells(bed: &Bed) {
    for key in ["l/a b", "l/c", "l/d+e"] {
        bed.written(key, &key.repeat(3)).await;
    }
    let page = bed.store.list_objects(&bed.bucket, "l/", None, 1_000).await.unwrap();
    assert_eq!((page.objects.len(), page.more), (3, false));
    for listed in page.objects {
        let head = bed.store.head(&bed.bucket, &listed.key).await.unwrap().unwrap();
        assert_eq!((listed.etag, listed.size), (head.etag, head.size), "{}", listed.key);
        // HEAD tells whole seconds.
        let seconds = |ms: Option<u64>| ms.map(|ms| ms / 1_000);
        assert_eq!(seconds(listed.modified_ms), seconds(head.modified_ms), "{}", listed.key);
    }
    let first = bed.store.list_objects(&bed.bucket, "l/", None, 1).await.unwrap();
    assert!(first.more && first.objects.len() == 1);
    let rest = bed.store.list_objects(&bed.bucket, "l/", Some("l/a b"), 1_000).await.unwrap();
    assert_eq!(rest.objects.len(), 2);
}

async fn an_empty_object_is_an_object(bed: &Bed) {
    bed.written("empty", "").await;
    assert_eq!(bed.store.head(&bed.bucket, "empty").await.unwrap().unwrap().size, 0);
    assert_eq!(bed.read("empty").await.as_deref(), Some(""));
}

async fn a_large_body_streams_whole(bed: &Bed) {
    let body: Bytes = (0..3 * 1_048_576_u32).map(|at| u8::try_from((at * 7 + at / 251) % 256).unwrap()).collect();
    bed.store.put(&bed.bucket, "large", body.clone(), &BTreeMap::new(), Condition::None).await.unwrap();
    let object = bed.store.get(&bed.bucket, "large").await.unwrap().unwrap();
    assert_eq!(object.head.size, body.len() as u64);
    let (mut read, mut chunks, mut stream) = (Vec::new(), 0, object.body);
    while let Some(chunk) = stream.next().await {
        read.extend_from_slice(&chunk.unwrap());
        chunks += 1;
    }
    assert!(chunks > 1, "it streams");
    assert!(read == body, "{} of {} bytes", read.len(), body.len());
}

async fn a_key_too_long_is_refused(bed: &Bed) {
    let key = "x".repeat(1_025);
    let errors = [
        bed.put(&key, "x", Condition::None).await.map(|_| ()).unwrap_err(),
        bed.store.get(&bed.bucket, &key).await.map(|_| ()).unwrap_err(),
        bed.store.head(&bed.bucket, &key).await.map(|_| ()).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, StoreError::Refused(_)), "{error}");
    }
}

async fn a_probe_tells_whether_the_bucket_is_there(bed: &Bed) {
    assert_eq!(bed.store.probe(&bed.bucket).await, Ok(()));
    let missing = bed.store.probe("no-such-bucket-0").await.unwrap_err();
    assert!(matches!(missing, StoreError::BucketMissing(_)), "{missing}");
}
