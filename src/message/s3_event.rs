//! Every shape of S3 event, to changes: direct, through SNS, through EventBridge, and the minimal body.
//!
//! A pure function. Promises that nothing is lost by being unknown (what cannot be read is an error that names it,
//! for the dead-letter queue, never a skip), that one bad record does not hide the others of its message, and that
//! a bad body costs bounded memory and no stack. Reads no object, knows no queue, settles nothing.

use super::Change;
use super::detail::{detail, quoted};
use crate::queue::SQS_MAX_MESSAGE_BYTES;

mod names;
mod read;
mod shapes;
mod wanted;

pub use names::S3_MAX_KEY_BYTES;
pub use shapes::MAX_RECORDS;
pub use wanted::{Source, Wanted};

use read::{from_object, read_eventbridge, read_minimal, read_record};
use shapes::{Body, Records};

/// Why there is nothing to do. A name for logs and metrics, never text from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SkipReason {
    /// `s3:TestEvent`, sent by S3 when a notification is set up.
    TestEvent,
    /// `Records` is an empty list.
    NoRecords,
    /// A key of our own in the results bucket.
    OwnPrefix,
    /// The bucket is a source, this part of it is not.
    PrefixNotWanted,
    /// A known notification that neither creates nor removes a file (tags, ACL, replication, transitions, …).
    EventNotWanted,
}

impl SkipReason {
    /// Stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            SkipReason::TestEvent => "test_event",
            SkipReason::NoRecords => "no_records",
            SkipReason::OwnPrefix => "own_prefix",
            SkipReason::PrefixNotWanted => "prefix_not_wanted",
            SkipReason::EventNotWanted => "event_not_wanted",
        }
    }
}

/// One change of a message and whether it is let in. All run; the worst outcome is the message's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Judged {
    /// To be processed.
    Process(Change),
    /// Nothing to do.
    Skip {
        /// Bucket the event names.
        bucket: String,
        /// Key the event names, decoded.
        key: String,
        /// Why.
        reason: SkipReason,
    },
    /// Its bucket may not be read: the message is rejected `not_allowed`, its other changes still run.
    NotAllowed {
        /// The change, for its ids; it must not be read.
        change: Change,
        /// A sentence for the dead-letter reason.
        detail: String,
    },
    /// A record that cannot be read: the message is rejected `malformed`, its other changes still run.
    Malformed {
        /// A sentence for the dead-letter reason.
        detail: String,
    },
}

impl Judged {
    fn skip(change: Change, reason: SkipReason) -> Self {
        Judged::Skip { bucket: change.bucket, key: change.key, reason }
    }
}

/// What a body says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// At least one change, in the order of the body; at least one of them could be read.
    Changes(Vec<Judged>),
    /// A body that reports no change.
    Skip(SkipReason),
}

/// A body that yields no change at all: dead-letter it with its bytes kept. The text is the `detail`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreadable {
    /// Reason `malformed`.
    #[error("{0}")]
    Malformed(String),
    /// Reason `limit`.
    #[error("{0}")]
    Limit(String),
}

/// Reads a message body.
pub fn parse(body: &str, wanted: &Wanted) -> Result<Parsed, Unreadable> {
    if body.len() > SQS_MAX_MESSAGE_BYTES {
        let bytes = body.len();
        return Err(Unreadable::Limit(format!("body has {bytes} bytes, more than {SQS_MAX_MESSAGE_BYTES}")));
    }
    let parsed = read(body, Wrapping::None, wanted);
    parsed.map_err(|unreadable| match unreadable {
        Unreadable::Malformed(text) => Unreadable::Malformed(detail(&text)),
        Unreadable::Limit(text) => Unreadable::Limit(detail(&text)),
    })
}

/// What a body has been taken out of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrapping {
    None,
    Sns,
}

fn read(text: &str, wrapping: Wrapping, wanted: &Wanted) -> Result<Parsed, Unreadable> {
    let malformed = |text: String| Err(Unreadable::Malformed(text));
    let text = text.strip_prefix('\u{feff}').unwrap_or(text); // some producers write a BOM, JSON knows none
    if text.trim_ascii().is_empty() {
        return malformed("body is empty".to_owned());
    }
    let body: Body<'_> = from_object(text).map_err(|error| Unreadable::Malformed(format!("body {error}")))?;

    // Told apart by the field that only that shape has; two at once are nobody's event.
    let shapes = [
        body.records.is_some(),
        body.test.is_some(),
        body.sns_type.is_some(),
        body.detail_type.is_some(),
        body.bucket.is_some() || body.key.is_some(),
    ];
    if shapes.iter().filter(|there| **there).count() > 1 {
        return malformed("body mixes the fields of several event shapes".to_owned());
    }
    if let Some(records) = body.records {
        read_records(&records, wanted)
    } else if let Some(event) = body.test {
        match event.as_str() {
            "s3:TestEvent" => Ok(Parsed::Skip(SkipReason::TestEvent)),
            other => malformed(format!("unknown event {}", quoted(other))),
        }
    } else if let Some(kind) = body.sns_type {
        match (kind.as_str(), body.sns_message, wrapping) {
            ("Notification", Some(message), Wrapping::None) => {
                read(message.as_str(), Wrapping::Sns, wanted).map_err(|unreadable| match unreadable {
                    Unreadable::Malformed(fault) => Unreadable::Malformed(format!("in sns message: {fault}")),
                    limit @ Unreadable::Limit(_) => limit,
                })
            }
            ("Notification", Some(_), Wrapping::Sns) => malformed("sns notification inside another".to_owned()),
            ("Notification", None, _) => malformed("sns notification has no `Message`".to_owned()),
            // Not skipped: until a person confirms the subscription, no event arrives at all.
            (other, _, _) => malformed(format!("sns message of type {} carries no event", quoted(other))),
        }
    } else if let Some(kind) = body.detail_type {
        let reported = read_eventbridge(kind.as_str(), body.source, body.detail);
        reported.map(|change| Parsed::Changes(vec![change.judge(wanted)])).map_err(Unreadable::Malformed)
    } else if body.bucket.is_some() || body.key.is_some() {
        let reported = read_minimal(body.bucket, body.key, body.version_id, body.force.unwrap_or(false));
        reported.map(|change| Parsed::Changes(vec![change.judge(wanted)])).map_err(Unreadable::Malformed)
    } else {
        malformed("body is json but no event that is known here".to_owned())
    }
}

fn read_records(records: &Records<'_>, wanted: &Wanted) -> Result<Parsed, Unreadable> {
    if records.total > MAX_RECORDS {
        let total = records.total;
        return Err(Unreadable::Limit(format!("body has {total} records, more than {MAX_RECORDS}")));
    }
    if records.total == 0 {
        return Ok(Parsed::Skip(SkipReason::NoRecords));
    }
    let mut first_fault = None;
    let mut readable = false;
    let mut changes = Vec::with_capacity(records.kept.len());
    for (position, raw) in records.kept.iter().enumerate() {
        changes.push(match read_record(raw) {
            Ok(reported) => {
                readable = true;
                reported.judge(wanted)
            }
            Err(fault) => {
                let detail = detail(&format!("record {}: {fault}", position + 1));
                first_fault.get_or_insert_with(|| detail.clone());
                Judged::Malformed { detail }
            }
        });
    }
    match first_fault {
        Some(fault) if !readable => Err(Unreadable::Malformed(fault)),
        _ => Ok(Parsed::Changes(changes)),
    }
}
