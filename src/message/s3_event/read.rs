//! One change out of one record, `detail` or minimal body, checked field by field.
//!
//! Promises that what comes out can be hashed and logged safely, and that a fault is a sentence naming the field.
//! Does not know what is wanted (`wanted`) nor how the message ends (`s3_event`).

use serde::Deserialize;
use serde_json::value::RawValue;

use super::names::{check_bucket, checked_key, form_decoded};
use super::shapes::{Detail, Object, Record, Text};
use super::{Judged, SkipReason, Wanted};
use crate::message::detail::quoted;
use crate::message::{Change, Operation, Sequencer};

/// S3's limit of a version id, in bytes; etags and request ids are shorter.
const S3_MAX_VERSION_ID_BYTES: usize = 1_024;

/// A change as reported, before it is judged.
pub(super) enum Reported {
    File(Change),
    /// Neither creates nor removes: nothing would be read, so there is nothing to allow either.
    Other {
        bucket: String,
        key: String,
    },
}

impl Reported {
    pub(super) fn judge(self, wanted: &Wanted) -> Judged {
        match self {
            Reported::File(change) => wanted.judge(change),
            Reported::Other { bucket, key } => Judged::Skip { bucket, key, reason: SkipReason::EventNotWanted },
        }
    }
}

/// What an event name means to us; `None` inside for the notifications that are not about a file's content.
type Meaning = Option<Operation>;

pub(super) fn read_record(raw: &RawValue) -> Result<Reported, String> {
    let record: Record<'_> = from_object(raw.get())?;
    if record.event_source.as_str() != "aws:s3" {
        return Err(format!("event is from {}, not from aws:s3", quoted(record.event_source.as_str())));
    }
    // Minor versions only add fields (S3 documentation); a new major may mean something else by the same names.
    if record.event_version.as_str().split('.').next() != Some("2") {
        return Err(format!("event version {} is not 2.x", quoted(record.event_version.as_str())));
    }
    let name = record.event_name.as_str();
    let meaning = meaning_of_name(name).ok_or_else(|| format!("unknown event name {}", quoted(name)))?;
    let request_id = record.response_elements.and_then(|elements| elements.request_id);
    let key = form_decoded(record.s3.object.key.as_str())?;
    report(meaning, record.s3.bucket.name, key, record.s3.object, request_id)
}

fn meaning_of_name(name: &str) -> Option<Meaning> {
    let name = name.strip_prefix("s3:").unwrap_or(name);
    let (family, action) = name.split_once(':').unwrap_or((name, ""));
    match (family, action) {
        ("ObjectCreated" | "ObjectRemoved" | "LifecycleExpiration", "") => None,
        // A restored copy of an archived object can be read at last.
        ("ObjectCreated", _) | ("ObjectRestore", "Completed") => Some(Some(Operation::Created)),
        ("ObjectRemoved" | "LifecycleExpiration", _) => Some(Some(Operation::Removed)),
        ("ObjectRestore", "Post" | "Delete")
        | ("ObjectTagging" | "ObjectAcl" | "Replication" | "ReducedRedundancyLostObject", _)
        | ("LifecycleTransition" | "IntelligentTiering", _) => Some(None),
        _ => None,
    }
}

pub(super) fn read_eventbridge(
    kind: &str,
    source: Option<Text<'_>>,
    detail_field: Option<&RawValue>,
) -> Result<Reported, String> {
    let source = source.as_ref().map_or("", Text::as_str);
    if source != "aws.s3" {
        return Err(format!("event is from {}, not from aws.s3", quoted(source)));
    }
    let meaning = match kind {
        "Object Created" | "Object Restore Completed" => Some(Operation::Created),
        "Object Deleted" => Some(Operation::Removed),
        "Object Restore Initiated"
        | "Object Restore Expired"
        | "Object Storage Class Changed"
        | "Object Access Tier Changed"
        | "Object ACL Updated"
        | "Object Tags Added"
        | "Object Tags Deleted" => None,
        // As with event names: what nobody here has heard of goes to a person, it is not deleted.
        other => return Err(format!("unknown detail-type {}", quoted(other))),
    };
    let raw = detail_field.ok_or("event has no `detail`")?;
    let fields: Detail<'_> = from_object(raw.get()).map_err(|error| format!("`detail` {error}"))?;
    let key = fields.object.key.as_str().to_owned(); // literal here, `+` and `%` included
    report(meaning, fields.bucket.name, key, fields.object, fields.request_id)
}

pub(super) fn read_minimal(
    bucket: Option<Text<'_>>,
    key: Option<Text<'_>>,
    version_id: Option<Text<'_>>,
    force: bool,
) -> Result<Reported, String> {
    let bucket = bucket.ok_or("body has a `key` but no `bucket`")?.into_string();
    let key = key.ok_or("body has a `bucket` but no `key`")?.into_string();
    check_bucket(&bucket)?;
    Ok(Reported::File(Change {
        bucket,
        key: checked_key(key)?,
        operation: Operation::Unstated,
        version_id: id_part("version id", version_id)?,
        etag: None,
        sequencer: None,
        size: None,
        request_id: None,
        force,
    }))
}

/// Checks and joins what `Records[]` and EventBridge have in common.
fn report(
    meaning: Meaning,
    bucket: Text<'_>,
    key: String,
    object: Object<'_>,
    request_id: Option<Text<'_>>,
) -> Result<Reported, String> {
    let bucket = bucket.into_string();
    check_bucket(&bucket)?;
    let key = checked_key(key)?;
    let Some(operation) = meaning else { return Ok(Reported::Other { bucket, key }) };
    Ok(Reported::File(Change {
        bucket,
        key,
        operation,
        version_id: id_part("version id", object.version_id)?,
        etag: id_part("etag", object.etag)?,
        // Unusable is the same as missing (B14): then the object as it stands decides.
        sequencer: object.sequencer.as_ref().and_then(|text| Sequencer::parse(text.as_str())),
        size: object.size,
        request_id: id_part("request id", request_id)?,
        force: false,
    }))
}

/// Text that becomes part of an id: no quotes round it, nothing that could fake the ids' NUL separator.
fn id_part(name: &str, text: Option<Text<'_>>) -> Result<Option<String>, String> {
    let Some(text) = text.map(Text::into_string) else { return Ok(None) };
    if text.len() > S3_MAX_VERSION_ID_BYTES || text.chars().any(char::is_control) {
        return Err(format!("{name} {} cannot be one", quoted(&text)));
    }
    let bare = text.trim_matches('"');
    Ok((!bare.is_empty()).then(|| bare.to_owned()))
}

/// Deserialises an object. serde would also fill a struct from a list, by position: nobody means that.
pub(super) fn from_object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    if text.trim_ascii_start().starts_with('[') {
        return Err("is not a json object".to_owned());
    }
    serde_json::from_str(text).map_err(|error| without_values(&error))
}

/// serde's own words, less the value they quote: a detail is logged, and bodies are not.
fn without_values(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let found = match (text.find("string \""), text.rfind("\", expected")) {
        (Some(start), Some(end)) if start < end => format!("{}string{}", &text[..start], &text[end + 1..]),
        _ => text,
    };
    if error.is_data() { found } else { format!("is not json: {found}") }
}
