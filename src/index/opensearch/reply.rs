//! What OpenSearch's reply to a bulk request means: pure, from status and body to an answer per document.
//!
//! Promises that nothing is durable unless the item at its place names the document and says 200, 201 or
//! "version conflict" (P3, P8); that a sick cluster is never taken for a bad document, whatever its status says
//! (a full disk is a 403 or a 429, a closed index a 400); that reasons are short and of one line. Knows no socket.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::index::{ItemAnswer, SearchError};
use crate::message::DocumentId;

/// Longest reason, characters: that of the `Quittance` attribute's `detail`.
const MAX_REASON: usize = 512;
/// Longest share of one error in a chain: the innermost one often quotes the document.
const MAX_PART: usize = 160;

/// Errors of the cluster that also come with a status of the document's (400, 404, 409).
const SICK: [&str; 14] = [
    "circuit_breaking_exception",
    "cluster_block_exception",
    "cluster_manager_not_discovered_exception",
    "index_closed_exception",
    "index_not_found_exception",
    "invalid_alias_name_exception",
    "invalid_index_name_exception",
    "master_not_discovered_exception",
    "no_shard_available_action_exception",
    "process_cluster_event_timeout_exception",
    "routing_missing_exception",
    "security_exception",
    "unavailable_shards_exception",
    "validation_exception",
];
/// Set-up of alias, index or pipeline, or a shard that is full, under the type that a bad document's value has too.
const SICK_ARGUMENT: [&str; 5] = [
    "no write index is defined for alias [",
    "pipeline with id [",
    "only write ops with an op_type of create are allowed in data streams",
    "Number of documents in the index can't exceed [",
    "number of documents in the index cannot exceed ",
];

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    _id: Cow<'a, str>,
    status: u16,
    error: Option<Value>,
}

/// What is said of the documents asked about, in their order. `Err` where the reply has none.
pub(super) fn classify(status: u16, body: &[u8], asked: &[DocumentId]) -> Result<Vec<ItemAnswer>, SearchError> {
    match status {
        200 => Ok(items(body, asked)),
        // A proxy in front refuses by size as well, in words of its own.
        413 => Err(SearchError::TooLarge(whole_trouble(status, body))),
        400 if whole_error(body).is_some_and(|error| !sick(&error)) => {
            Err(SearchError::WholeRefused(whole_trouble(status, body)))
        }
        429 if whole_error(body).is_some_and(|error| never_fits(&error)) => {
            Err(SearchError::TooLarge(whole_trouble(status, body)))
        }
        // A full disk's is a block, and lasts; a proxy's has words of its own.
        429 if whole_error(body).is_none_or(|error| busy(&error)) => {
            Err(SearchError::Busy(whole_trouble(status, body)))
        }
        // A 400 that is not OpenSearch's (https spoken to an http port) says nothing about any document: bisected,
        // it would condemn them all.
        _ => Err(SearchError::Unavailable(whole_trouble(status, body))),
    }
}

/// `errors` and `took` are not read: only an item's own words count.
fn items(body: &[u8], asked: &[DocumentId]) -> Vec<ItemAnswer> {
    let unknown = |why: &str| asked.iter().map(|_| ItemAnswer::Unknown(why.to_owned())).collect();
    let Ok(reply) = serde_json::from_slice::<Reply<'_>>(body) else {
        return unknown("the reply cannot be read");
    };
    // With one item too few or too many no place means anything: the same id may stand in a batch twice.
    if reply.items.len() != asked.len() {
        return unknown(&format!("{} items in the reply to {}", reply.items.len(), asked.len()));
    }
    let parsed: Vec<Option<Item<'_>>> = reply.items.iter().map(|raw| item(raw)).collect();
    let misplaced = |(item, id): (&Option<Item<'_>>, &DocumentId)| item.as_ref().is_some_and(|i| i._id != id.as_str());
    if parsed.iter().zip(asked).any(misplaced) {
        return unknown("the reply names another document at this place");
    }
    parsed
        .into_iter()
        .map(|item| item.map_or_else(|| ItemAnswer::Unknown("the item cannot be read".into()), answer))
        .collect()
}

/// `{"index": {…}}`, and nothing else.
fn item<'a>(raw: &'a RawValue) -> Option<Item<'a>> {
    let mut actions: BTreeMap<Cow<'a, str>, Item<'a>> = serde_json::from_str(raw.get()).ok()?;
    let item = actions.remove("index")?;
    actions.is_empty().then_some(item)
}

fn answer(item: Item<'_>) -> ItemAnswer {
    let Some(error) = item.error else {
        return match item.status {
            200 | 201 => ItemAnswer::Durable,
            status => ItemAnswer::Unknown(format!("status {status} without an error")),
        };
    };
    let reason = one_line(&format!("{} {}", item.status, told(&error)), MAX_REASON);
    match item.status {
        429 if busy(&error) => ItemAnswer::Busy(reason),
        _ if sick(&error) => ItemAnswer::Sick(reason),
        // A newer revision is there: ours is superseded, which is as good as written.
        409 if kinds(&error).any(|kind| kind == "version_conflict_engine_exception") => ItemAnswer::Durable,
        // An unknown 400 is the document's too: taken for the cluster's, one document would stop the index for all.
        400 | 413 | 422 => ItemAnswer::Refused(reason),
        // Who asks and how much is never a document's affair, whatever the type is called.
        401..=403 | 429 => ItemAnswer::Sick(reason),
        _ => ItemAnswer::Unclear(reason),
    }
}

/// A reply without items, in a line.
pub(super) fn whole_trouble(status: u16, body: &[u8]) -> String {
    let said = match whole_error(body) {
        Some(error) => told(&error),
        None => one_line(String::from_utf8_lossy(&body[..body.len().min(4 * MAX_PART)]).trim(), MAX_PART),
    };
    let gap = if said.is_empty() { "" } else { " " };
    one_line(&format!("status {status}{gap}{said}"), MAX_REASON)
}

/// The `error` of a reply in OpenSearch's own form.
fn whole_error(body: &[u8]) -> Option<Value> {
    #[derive(Deserialize)]
    struct Whole {
        error: Value,
    }
    serde_json::from_slice::<Whole>(body).ok().map(|whole| whole.error).filter(|error| !error.is_null())
}

/// The error and its causes, outermost first. Bounded: a chain comes from outside.
fn chain(error: &Value) -> impl Iterator<Item = &Value> {
    std::iter::successors(Some(error), |error| error.get("caused_by")).take(8)
}

fn kinds(error: &Value) -> impl Iterator<Item = &str> {
    chain(error).filter_map(|error| error.get("type").and_then(Value::as_str))
}

/// Full at the moment, which is over when what is under way is: not a disk that is full.
fn busy(error: &Value) -> bool {
    let full = |kind: &str| kind.ends_with("rejected_execution_exception") || kind == "circuit_breaking_exception";
    kinds(error).any(full) && !kinds(error).any(|kind| kind == "cluster_block_exception")
}

fn sick(error: &Value) -> bool {
    kinds(error).any(|kind| SICK.contains(&kind) || kind.ends_with("rejected_execution_exception"))
        || error.get("reason").and_then(Value::as_str).is_some_and(sick_reason)
}

/// A request that alone is larger than the cluster's limit for all writes together (a tenth of its heap) is
/// refused like one of too many, also when nothing else is going on: waiting would not help it.
fn never_fits(error: &Value) -> bool {
    let reason = error.get("reason").and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| {
        let rest = reason.split(['[', ' ']).find_map(|part| part.strip_prefix(name)?.strip_prefix('='))?;
        rest.trim_end_matches([',', ']']).parse::<u64>().ok()
    };
    match (number("coordinating_operation_bytes"), number("max_coordinating_and_primary_bytes")) {
        (Some(this), Some(most)) => this > most,
        _ => false,
    }
}

/// Only how the outermost reason begins: further in it may quote the document, which must not be able to talk
/// itself into "sick cluster".
fn sick_reason(reason: &str) -> bool {
    // Blocks name themselves here too, also where an older server or a proxy gives another type.
    let block =
        reason.starts_with("blocked by: [") || reason.starts_with("index [") && reason.contains("] blocked by: [");
    block || SICK_ARGUMENT.iter().any(|words| reason.starts_with(words))
}

/// Types and reasons of the chain, the document's own text cut short.
fn told(error: &Value) -> String {
    if let Some(text) = error.as_str() {
        return one_line(text, MAX_PART);
    }
    let part = |error: &Value| {
        let field = |name| error.get(name).and_then(Value::as_str).unwrap_or_default();
        let reason = match field("reason").split_once("Preview of field's value") {
            Some((before, _)) => before.trim_end(),
            None => field("reason"),
        };
        format!("{}: {}", one_line(field("type"), 80), one_line(reason, MAX_PART))
    };
    chain(error).map(part).collect::<Vec<_>>().join("; caused by ")
}

/// Text from outside, fit for a log line and an S3 body: one line, no control characters, at most so many characters.
pub(super) fn one_line(text: &str, max: usize) -> String {
    // Line and direction marks of Unicode count as control characters: terminals and viewers obey them.
    let escaped = |c: char| {
        let mark = matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || mark { c.escape_default().to_string() } else { c.to_string() }
    };
    // An escape is longer than what it stands for, so that one more than fits is enough to see that it is too long.
    let line: String = text.chars().take(max + 1).map(escaped).collect();
    match line.char_indices().nth(max) {
        None => line,
        Some(_) => line.chars().take(max - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests;
