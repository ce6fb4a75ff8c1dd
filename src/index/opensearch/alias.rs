//! What a name stands for: nothing, an index, or an alias and the index that writes go to.
//!
//! Promises OpenSearch's own rule for the write index. Pure; knows no request.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// `{"<index>": {"aliases": {"<alias>": {…}}}}`, of `GET /{name}` and `GET /{name}/_alias`.
#[derive(Deserialize)]
struct Holder {
    #[serde(default)]
    aliases: BTreeMap<String, Value>,
    #[serde(default)]
    settings: Value,
}

/// What the name was found to be.
#[derive(Debug, PartialEq)]
pub(super) enum Standing {
    /// Nothing has that name.
    Missing,
    /// An index (or a data stream) has it.
    Index,
    /// An alias has it.
    Alias {
        /// Where writes go, if anywhere.
        write: Option<String>,
        /// Each index behind it, with the alias's definition there.
        holders: BTreeMap<String, Value>,
    },
    /// The reply is not one.
    Unreadable,
}

impl Standing {
    /// Reads the body of a reply with status 200.
    pub(super) fn read(name: &str, body: &[u8]) -> Self {
        let Ok(found) = serde_json::from_slice::<BTreeMap<String, Holder>>(body) else { return Standing::Unreadable };
        let holders: BTreeMap<String, Value> = found
            .into_iter()
            .filter_map(|(index, mut holder)| holder.aliases.remove(name).map(|alias| (index, alias)))
            .collect();
        if holders.is_empty() {
            return Standing::Index;
        }
        let flag = |alias: &Value| alias.get("is_write_index").and_then(Value::as_bool);
        let chosen = holders.iter().find(|(_, alias)| flag(alias) == Some(true));
        // An alias of one index that says nothing about writing can be written to.
        let only = holders.iter().next().filter(|(_, alias)| holders.len() == 1 && flag(alias).is_none());
        let write = chosen.or(only).map(|(index, _)| index.clone());
        Standing::Alias { write, holders }
    }
}

/// The block that keeps writes from the index, by its setting's name.
pub(super) fn blocked(index: &str, body: &[u8]) -> Option<&'static str> {
    let found: BTreeMap<String, Holder> = serde_json::from_slice(body).ok()?;
    let blocks = found.get(index)?.settings.pointer("/index/blocks")?;
    let set = |name: &&str| blocks.get(name).is_some_and(|value| value == "true" || value == true);
    ["read_only_allow_delete", "read_only", "write"].into_iter().find(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_index(body: &str) -> Option<String> {
        match Standing::read("files", body.as_bytes()) {
            Standing::Alias { write, .. } => write,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn writes_go_to_the_flagged_index_or_to_the_only_one() {
        let cases = [
            (r#"{"files-v1":{"aliases":{"files":{}}}}"#, Some("files-v1")),
            (r#"{"files-v1":{"aliases":{"files":{"is_write_index":true}}}}"#, Some("files-v1")),
            (r#"{"files-v1":{"aliases":{"files":{"is_write_index":false}}}}"#, None),
            (r#"{"files-v1":{"aliases":{"files":{}}},"files-v2":{"aliases":{"files":{}}}}"#, None),
            (
                r#"{"files-v1":{"aliases":{"files":{}}},"files-v2":{"aliases":{"files":{"is_write_index":true}}}}"#,
                Some("files-v2"),
            ),
        ];
        for (body, expected) in cases {
            assert_eq!(write_index(body).as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn an_index_of_that_name_is_not_an_alias_of_that_name() {
        for body in ["{}", r#"{"files":{"aliases":{}}}"#, r#"{"files":{"aliases":{"other":{}}}}"#] {
            assert_eq!(Standing::read("files", body.as_bytes()), Standing::Index, "{body}");
        }
        for body in ["", "[]", "<html>", r#"{"error":"x"}"#] {
            assert_eq!(Standing::read("files", body.as_bytes()), Standing::Unreadable, "{body}");
        }
    }

    #[test]
    fn a_block_is_seen_by_its_name() {
        for (blocks, expected) in [
            (r#"{"read_only_allow_delete":"true"}"#, Some("read_only_allow_delete")),
            (r#"{"write":"true"}"#, Some("write")),
            (r#"{"read_only":"true","write":"false"}"#, Some("read_only")),
            (r#"{"write":"false","read":"true"}"#, None),
        ] {
            let body = format!(r#"{{"f":{{"settings":{{"index":{{"blocks":{blocks}}}}}}}}}"#);
            assert_eq!(blocked("f", body.as_bytes()), expected, "{blocks}");
        }
    }
}
