//! What a trace cannot tell, and where that is written: the workers' log.
//!
//! Promises queries that can be pasted, whatever a key holds. Pure.

use serde::Serialize;

use super::findings::{FileFindings, Letters, Look, MessageFindings};
use super::target::{Target, as_in_events, is_uuid};
use super::verdict::{State, Verdict};
use crate::message::detail::printable;
use crate::terminal::{KEY_CHARS, shell};

/// The unit of systemd/: a worker's log is its journal.
const UNIT: &str = "quittance-worker";

/// The lines of a worker's log that tell the end of a message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LogQueries {
    /// For CloudWatch Logs Insights.
    pub insights: String,
    /// For a shell on a worker's machine.
    pub journal: String,
}

impl LogQueries {
    /// Of a target.
    pub fn of(target: &Target) -> Self {
        let events = r#"event in ["message_received", "message_settled"]"#;
        let fields = "fields @timestamp, event, message_id, receive_count, outcome, settlement, reason, detail, index";
        let journal = format!("journalctl -u {UNIT} -o cat --since '15 days ago' | jq -cR");
        let one_of = r#"(.event == "message_received" or .event == "message_settled")"#;
        match target {
            Target::Message(id) => {
                let either = format!(r#"(message_id = "{id}" or original_message_id = "{id}")"#);
                let select = format!(r#"(.message_id == "{id}" or .original_message_id == "{id}")"#);
                Self {
                    insights: format!("{fields}, keys.0 | filter {events} and {either} | sort @timestamp asc"),
                    journal: format!("{journal} 'fromjson? | select({one_of} and {select})'"),
                }
            }
            Target::File { key, .. } => {
                // As it stands in the line: keys[] of message_settled. The line of the receipt names only the message.
                let in_line = serde_json::Value::from(key.as_str()).to_string();
                let quoted = serde_json::Value::from(in_line).to_string();
                let key = shell(key);
                let select = "select((.keys // []) | index($key))";
                Self {
                    insights: format!("{fields} | filter {events} and @message like {quoted} | sort @timestamp asc"),
                    journal: format!("{journal} --arg key {key} 'fromjson? | select({one_of}) | {select}'"),
                }
            }
        }
    }
}

/// What is left open, a sentence each.
pub(super) fn of_file(target: &Target, file: &FileFindings, verdict: &Verdict) -> Vec<String> {
    let mut open = Vec::new();
    if verdict.state.is_well() {
        return open;
    }
    if let (State::NoTrace | State::Unclear, Target::File { bucket, key }) = (verdict.state, target)
        && let Some(decoded) = as_in_events(key)
    {
        let (bucket, decoded) = (printable(bucket, KEY_CHARS), shell(&format!("s3://{bucket}/{decoded}")));
        open.push(format!(
            "The key looks as S3's events write keys; as bucket {bucket} has it: redrive trace {decoded}"
        ));
    }
    open.push(
        "A message of this file may be waiting in the queue, in flight, or expired: SQS cannot be searched. Or it was \
         skipped (a prefix that is not wanted) or deleted long ago."
            .to_owned(),
    );
    open.extend(of_letters(&file.archive, &file.dead_letters));
    let days = [("parked", &file.parked), ("errored", &file.errored)];
    for (name, from) in days.iter().filter_map(|(name, marks)| Some((name, marks.found()?.not_from.as_ref()?))) {
        open.push(format!(
            "Markers ({name}) of days from {from} on were not looked through, but for the record's own day."
        ));
    }
    open
}

pub(super) fn of_message(target: &Target, message: &MessageFindings, verdict: &Verdict) -> Vec<String> {
    let mut open = Vec::new();
    if verdict.state.is_well() {
        return open;
    }
    open.push(
        "It may be waiting in the queue, in flight, or expired: SQS cannot be searched. Or it was deleted as done, \
         superseded or skipped, and a newer message has written its file since: only the last one is named in the index."
            .to_owned(),
    );
    if message.documents.found().is_none() {
        open.push(
            "Records are not searched by message: one that is not in the index yet (parked, say) shows by its file: \
             the log has its key; redrive trace s3://BUCKET/KEY."
                .to_owned(),
        );
    }
    if message.attempts.is_nothing() {
        open.push("Without a failure no attempts are written down, and they are kept for 15 days.".to_owned());
    }
    open.extend(of_letters(&message.archive, &message.dead_letters));
    if let (State::NoTrace, Target::Message(id)) = (verdict.state, target)
        && !is_uuid(id)
    {
        open.push(format!("{id} does not look like an id of SQS. A file is traced as s3://BUCKET/KEY."));
    }
    open
}

fn of_letters(archive: &Look<Letters>, dead_letters: &Look<Letters>) -> Vec<String> {
    let mut open = Vec::new();
    if let Look::Found(Letters { read, more: true, found, .. }) = archive
        && found.is_empty()
    {
        open.push(format!("Of the archive {read} letters were read, and there are more: redrive archive list."));
    }
    match dead_letters {
        Look::NotAsked(_) => open.push(
            "The dead-letter queue was not looked at: --dlq does, and each message there is received and returned, \
             which SQS counts."
                .to_owned(),
        ),
        Look::Found(Letters { read, more: true, found, .. }) if found.is_empty() => {
            open.push(format!("Of the dead-letter queue {read} messages were seen, and there are more (--dlq-limit)."));
        }
        Look::Found(_) | Look::Nothing | Look::Unheard(_) => {}
    }
    open
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MessageId;

    #[test]
    fn the_queries_of_a_message_ask_for_both_ids_and_both_lines() {
        let LogQueries { insights, journal } = LogQueries::of(&Target::Message(MessageId("6c1f-7".into())));
        for part in
            [r#"message_id = "6c1f-7""#, r#"original_message_id = "6c1f-7""#, "message_received", "message_settled"]
        {
            assert!(insights.contains(part), "{part}: {insights}");
        }
        assert!(journal.contains(r#".message_id == "6c1f-7" or .original_message_id == "6c1f-7""#), "{journal}");
    }

    #[test]
    fn a_key_stands_in_a_query_as_it_stands_in_the_line_whatever_it_holds() {
        let key = "日本/it's \"50%\".txt";
        let LogQueries { insights, journal } = LogQueries::of(&Target::File { bucket: "b".into(), key: key.into() });
        assert!(insights.contains(r#"@message like "\"日本/it's \\\"50%\\\".txt\"""#), "{insights}");
        assert!(journal.contains(r#"--arg key '日本/it'\''s "50%".txt'"#), "{journal}");
        let line = serde_json::json!({ "keys": [key] }).to_string();
        assert!(line.contains(r#""日本/it's \"50%\".txt""#), "{line}");
    }
}
