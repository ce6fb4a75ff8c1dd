//! What a message's body says, read without the crate's own parser: a judge that asks the accused learns nothing.
//!
//! Knows the bodies that simulations send: `Records[]`, the minimal form, `s3:TestEvent`. Others it leaves to the
//! crate's parser, which has tests of its own.

use std::borrow::Cow;

use quittance::message::Operation;
use quittance::message::s3_event::{self, Judged, Parsed, Source, Wanted};
use serde_json::Value;

use crate::sim::{RESULTS, SOURCE};

/// What is to be done for a body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    Changes(Vec<Change>),
    /// A test event, or no records.
    Nothing,
    /// No event.
    Unreadable,
}

/// One change as the body says it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub key: String,
    pub kind: Kind,
    pub sequencer: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Created,
    Removed,
    /// The minimal form.
    Unstated,
    /// Not ours to do: a record of our own.
    Skipped,
    /// A bucket that is not allowed, or a record that cannot be read: the message belongs in the dead-letter queue.
    Refused,
}

/// Reads a body.
pub fn told(body: &str) -> Told {
    let Ok(json) = serde_json::from_str::<Value>(body) else { return Told::Unreadable };
    if let Some(records) = json["Records"].as_array() {
        if records.is_empty() {
            return Told::Nothing;
        }
        let changes: Option<Vec<Change>> = records.iter().map(of_record).collect();
        return changes.map_or_else(|| by_the_crate(body), Told::Changes);
    }
    match (json["bucket"].as_str(), json["key"].as_str()) {
        _ if json["Event"] == "s3:TestEvent" => Told::Nothing,
        (Some(bucket), Some(key)) if json["Type"].is_null() && json["detail-type"].is_null() => {
            Told::Changes(vec![Change {
                key: key.to_owned(),
                kind: wanted(bucket, key, Kind::Unstated),
                sequencer: None,
            }])
        }
        _ => by_the_crate(body),
    }
}

fn of_record(record: &Value) -> Option<Change> {
    let (event, object) = (record["eventName"].as_str()?, &record["s3"]["object"]);
    let kind = if event.starts_with("ObjectCreated:") {
        Kind::Created
    } else if event.starts_with("ObjectRemoved:") || event.starts_with("LifecycleExpiration:") {
        Kind::Removed
    } else {
        return None;
    };
    let key = form_decoded(object["key"].as_str()?)?;
    let bucket = record["s3"]["bucket"]["name"].as_str()?;
    let kind = wanted(bucket, &key, kind);
    Some(Change { key, kind, sequencer: object["sequencer"].as_str().map(str::to_owned) })
}

fn wanted(bucket: &str, key: &str, kind: Kind) -> Kind {
    match bucket {
        _ if key.is_empty() || key.len() > 1_024 => Kind::Refused,
        SOURCE => kind,
        RESULTS if quittance::store::layout::OWN_PREFIXES.iter().any(|own| key.starts_with(own)) => Kind::Skipped,
        _ => Kind::Refused,
    }
}

fn form_decoded(text: &str) -> Option<String> {
    if !text.contains(['+', '%']) {
        return Some(text.to_owned());
    }
    let spaced = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced).decode_utf8().ok().map(Cow::into_owned)
}

fn by_the_crate(body: &str) -> Told {
    let sources = vec![Source { bucket: SOURCE.into(), prefix: String::new() }];
    match s3_event::parse(body, &Wanted::new(sources, RESULTS.into())) {
        Ok(Parsed::Skip(_)) => Told::Nothing,
        Err(_) => Told::Unreadable,
        Ok(Parsed::Changes(judged)) => Told::Changes(judged.into_iter().map(of_judged).collect()),
    }
}

fn of_judged(judged: Judged) -> Change {
    let bare = |key, kind| Change { key, kind, sequencer: None };
    match judged {
        Judged::Process(change) => Change {
            kind: match change.operation {
                Operation::Created => Kind::Created,
                Operation::Removed => Kind::Removed,
                Operation::Unstated => Kind::Unstated,
            },
            sequencer: change.sequencer.map(|sequencer| sequencer.as_str().to_owned()),
            key: change.key,
        },
        Judged::Skip { key, .. } => bare(key, Kind::Skipped),
        Judged::NotAllowed { change, .. } => bare(change.key, Kind::Refused),
        Judged::Malformed { .. } => bare(String::new(), Kind::Refused),
    }
}

/// The order of two sequencers of one key: the shorter one padded on the right (AWS's rule), as text.
pub fn newer(one: &str, other: &str) -> bool {
    let padded = |text: &str, at: usize| text.as_bytes().get(at).map_or(b'0', u8::to_ascii_uppercase);
    let differ = (0..one.len().max(other.len())).find(|at| padded(one, *at) != padded(other, *at));
    differ.is_some_and(|at| padded(one, at) > padded(other, at))
}
