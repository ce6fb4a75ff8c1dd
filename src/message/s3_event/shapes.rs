//! The JSON of every body we understand, borrowed from the body, and nothing else.
//!
//! Promises bounded memory whatever the body holds: unknown fields are passed over without recursion, and of a
//! list of records at most [`MAX_RECORDS`] are kept. Judges nothing: that is `s3_event` and `wanted`.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// More records in one message than S3 ever sends (it sends one); a bound for forged bodies.
pub const MAX_RECORDS: usize = 1_000;

/// Text that borrows from the body where no JSON escape forbids it (a bare `Option<Cow>` never borrows).
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Text<'_> {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn into_string(self) -> String {
        self.0.into_owned()
    }
}

/// The top level of all shapes at once; which one it is, is told by the fields that are there.
#[derive(Deserialize)]
#[serde(expecting = "a json object")]
pub(super) struct Body<'a> {
    /// S3 to SQS, direct (or SNS with raw delivery).
    #[serde(borrow, rename = "Records")]
    pub(super) records: Option<Records<'a>>,
    /// `s3:TestEvent`, sent when a notification is set up.
    #[serde(borrow, rename = "Event")]
    pub(super) test: Option<Text<'a>>,
    /// SNS: `Notification` and two confirmations.
    #[serde(borrow, rename = "Type")]
    pub(super) sns_type: Option<Text<'a>>,
    #[serde(borrow, rename = "Message")]
    pub(super) sns_message: Option<Text<'a>>,
    /// EventBridge.
    #[serde(borrow, rename = "detail-type")]
    pub(super) detail_type: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) source: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) detail: Option<&'a RawValue>,
    /// Minimal.
    #[serde(borrow)]
    pub(super) bucket: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) key: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) version_id: Option<Text<'a>>,
    pub(super) force: Option<bool>,
}

/// `Records[]`, each still unread: one that cannot be read must not hide the others.
pub(super) struct Records<'a> {
    pub(super) kept: Vec<&'a RawValue>,
    pub(super) total: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Records<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Records<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of records")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Records<'de>, A::Error> {
                let mut kept = Vec::new();
                while kept.len() < MAX_RECORDS {
                    match list.next_element()? {
                        Some(record) => kept.push(record),
                        None => return Ok(Records { total: kept.len(), kept }),
                    }
                }
                let mut total = kept.len();
                while list.next_element::<IgnoredAny>()?.is_some() {
                    total += 1;
                }
                Ok(Records { kept, total })
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// One of `Records[]`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record<'a> {
    #[serde(borrow)]
    pub(super) event_version: Text<'a>,
    #[serde(borrow)]
    pub(super) event_source: Text<'a>,
    #[serde(borrow)]
    pub(super) event_name: Text<'a>,
    #[serde(borrow)]
    pub(super) response_elements: Option<ResponseElements<'a>>,
    #[serde(borrow)]
    pub(super) s3: S3<'a>,
}

#[derive(Deserialize)]
pub(super) struct ResponseElements<'a> {
    #[serde(borrow, rename = "x-amz-request-id")]
    pub(super) request_id: Option<Text<'a>>,
}

#[derive(Deserialize)]
pub(super) struct S3<'a> {
    #[serde(borrow)]
    pub(super) bucket: Bucket<'a>,
    #[serde(borrow)]
    pub(super) object: Object<'a>,
}

#[derive(Deserialize)]
pub(super) struct Bucket<'a> {
    #[serde(borrow)]
    pub(super) name: Text<'a>,
}

/// An object, in both spellings: `eTag`, `versionId` in `Records[]`; `etag`, `version-id` in EventBridge.
#[derive(Deserialize)]
pub(super) struct Object<'a> {
    #[serde(borrow)]
    pub(super) key: Text<'a>,
    pub(super) size: Option<u64>,
    #[serde(borrow, rename = "eTag", alias = "etag")]
    pub(super) etag: Option<Text<'a>>,
    #[serde(borrow, rename = "versionId", alias = "version-id")]
    pub(super) version_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) sequencer: Option<Text<'a>>,
}

/// `detail` of an EventBridge event.
#[derive(Deserialize)]
pub(super) struct Detail<'a> {
    #[serde(borrow)]
    pub(super) bucket: Bucket<'a>,
    #[serde(borrow)]
    pub(super) object: Object<'a>,
    #[serde(borrow, rename = "request-id")]
    pub(super) request_id: Option<Text<'a>>,
}
