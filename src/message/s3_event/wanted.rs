//! What may be read and what is wanted: the allow-list of sources, and our own bucket.
//!
//! Promises that a message cannot make us read a bucket that is not listed (T6), and that our own writes never
//! come back as work, whatever notification somebody sets up on the results bucket.

use super::names::{S3_MAX_KEY_BYTES, check_bucket};
use super::{Judged, SkipReason};
use crate::message::Change;
use crate::message::detail::{detail, quoted};
use crate::store::layout::OWN_PREFIXES;

/// A bucket, or a part of one, that may be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// The bucket, compared whole.
    pub bucket: String,
    /// Plain string prefix of the keys that are wanted; empty means all.
    pub prefix: String,
}

impl Source {
    /// Reads `bucket` or `bucket/prefix`. The error is a sentence for the operator.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return Err(format!("source {} must be written bucket or bucket/prefix, without a scheme", quoted(text)));
        }
        let (bucket, prefix) = text.split_once('/').unwrap_or((text, ""));
        check_bucket(bucket)?;
        if prefix.len() > S3_MAX_KEY_BYTES {
            return Err(format!("prefix of source {} is longer than a key can be", quoted(text)));
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

/// The rule by which changes are let in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    sources: Vec<Source>,
    results_bucket: String,
}

impl Wanted {
    /// Sources that may be read, and the bucket that never is one.
    pub fn new(sources: Vec<Source>, results_bucket: String) -> Self {
        Self { sources, results_bucket }
    }

    /// The verdict on one change, before anything is read.
    pub(super) fn judge(&self, change: Change) -> Judged {
        // First, so that no entry in the list of sources can turn our own records into work.
        if change.bucket == self.results_bucket {
            if OWN_PREFIXES.iter().any(|own| change.key.starts_with(own)) {
                return Judged::skip(change, SkipReason::OwnPrefix);
            }
            let detail = detail(&format!("bucket {} is the results bucket, never a source", quoted(&change.bucket)));
            return Judged::NotAllowed { change, detail };
        }
        let mut prefixes = self.sources.iter().filter(|source| source.bucket == change.bucket).peekable();
        if prefixes.peek().is_none() {
            let detail = detail(&format!("bucket {} is not in SOURCE_BUCKETS", quoted(&change.bucket)));
            return Judged::NotAllowed { change, detail };
        }
        if prefixes.any(|source| change.key.starts_with(&source.prefix)) {
            Judged::Process(change)
        } else {
            Judged::skip(change, SkipReason::PrefixNotWanted)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Operation;

    fn verdict(sources: &[&str], bucket: &str, key: &str) -> &'static str {
        let sources = sources.iter().map(|text| Source::parse(text).unwrap()).collect();
        let change = Change {
            bucket: bucket.into(),
            key: key.into(),
            operation: Operation::Created,
            version_id: None,
            etag: None,
            sequencer: None,
            size: None,
            request_id: None,
            force: false,
        };
        match Wanted::new(sources, "results".into()).judge(change) {
            Judged::Process(_) => "process",
            Judged::Skip { reason, .. } => reason.as_str(),
            Judged::NotAllowed { .. } => "not_allowed",
            Judged::Malformed { .. } => "malformed",
        }
    }

    #[test]
    fn a_bucket_is_compared_whole_and_a_prefix_as_plain_text() {
        let cases = [
            (&["bucket"][..], "bucket", "any/key", "process"),
            (&["bucket"], "bucket2", "any/key", "not_allowed"),
            (&["bucket2"], "bucket", "any/key", "not_allowed"),
            (&["bucket"], "Bucket", "any/key", "not_allowed"),
            (&["bucket/in/"], "bucket", "in/a", "process"),
            (&["bucket/in/"], "bucket", "in", "prefix_not_wanted"),
            (&["bucket/in"], "bucket", "inbox/a", "process"),
            (&["bucket/in/"], "bucket", "x/in/a", "prefix_not_wanted"),
            (&["bucket/in/"], "bucket2", "in/a", "not_allowed"),
            (&["bucket/a/", "other", "bucket/b/"], "bucket", "b/1", "process"),
            (&["bucket/日本/"], "bucket", "日本/1", "process"),
            (&[], "bucket", "a", "not_allowed"),
        ];
        for (sources, bucket, key, expected) in cases {
            assert_eq!(verdict(sources, bucket, key), expected, "{sources:?} {bucket} {key}");
        }
    }

    #[test]
    fn the_results_bucket_is_never_a_source_even_when_it_is_listed() {
        for own in OWN_PREFIXES {
            assert_eq!(verdict(&["results"], "results", &format!("{own}x.json")), "own_prefix", "{own}");
            // In a source bucket the same names are somebody's files.
            assert_eq!(verdict(&["bucket"], "bucket", &format!("{own}x.json")), "process", "{own}");
        }
        assert_eq!(verdict(&["results"], "results", "inbox/a.txt"), "not_allowed");
        assert_eq!(verdict(&["results"], "results", "processed"), "not_allowed");
    }

    #[test]
    fn a_source_is_a_bucket_or_a_bucket_and_a_prefix() {
        let parsed = |text: &str| Source::parse(text).map(|source| (source.bucket, source.prefix));
        assert_eq!(parsed("bucket"), Ok(("bucket".into(), String::new())));
        assert_eq!(parsed("bucket/"), Ok(("bucket".into(), String::new())));
        assert_eq!(parsed("bucket/a/b"), Ok(("bucket".into(), "a/b".into())));
        assert_eq!(parsed("bucket//a"), Ok(("bucket".into(), "/a".into())));
        for bad in ["", "/a", "s3://bucket/a", "b", "a b", &format!("bucket/{}", "x".repeat(1_025))] {
            assert!(parsed(bad).is_err(), "{bad:?}");
        }
    }
}
