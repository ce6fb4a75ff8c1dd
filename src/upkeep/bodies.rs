//! The bodies that upkeep sends to the main queue: shapes every worker knows.
//!
//! Promises that what is sent is read back as it was meant (tested through the parser of the workers).

use serde_json::{Value, json};

/// "Look at this file": what is there is processed, what is gone becomes a tombstone of its record. `force` says that it
/// is meant although the file has not changed.
pub fn look_at(bucket: &str, key: &str, force: bool) -> String {
    match force {
        true => text(&json!({ "bucket": bucket, "key": key, "force": true })),
        false => text(&json!({ "bucket": bucket, "key": key })),
    }
}

/// "This file was removed", in EventBridge's shape, whose keys are literal, and without a sequencer, so that it is newer
/// than nothing. For a document that has neither file nor record: [`look_at`] would wait for one of them and end in the
/// dead-letter queue, a removal makes the tombstone. It cannot lie: the worker asks the bucket first, and processes the
/// file if it is there again.
pub fn removed(bucket: &str, key: &str) -> String {
    let detail = json!({ "bucket": { "name": bucket }, "object": { "key": key } });
    text(&json!({ "detail-type": "Object Deleted", "source": "aws.s3", "detail": detail }))
}

/// Of what a key may hold, SQS takes neither control characters, which JSON escapes, nor these two, which it does not.
fn text(body: &Value) -> String {
    body.to_string().replace('\u{fffe}', "\\ufffe").replace('\u{ffff}', "\\uffff")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Operation;
    use crate::message::s3_event::{Judged, Parsed, Source, Wanted, parse};

    #[test]
    fn a_body_comes_back_from_the_parser_as_it_was_meant() {
        let wanted = Wanted::new(vec![Source::parse("inbox").unwrap()], "results".into());
        for key in ["a.txt", "日本語/請求書 2026.pdf", "a+b%20c", "line\nbreak\"quoted\"", "\u{1}", "\u{fffe}\u{ffff}𝄞"]
        {
            for (body, operation, force) in [
                (look_at("inbox", key, false), Operation::Unstated, false),
                (look_at("inbox", key, true), Operation::Unstated, true),
                (removed("inbox", key), Operation::Removed, false),
            ] {
                // SQS takes #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF: the rest is escaped.
                let odd = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
                assert!(!body.chars().any(odd), "{body:?}");
                let Ok(Parsed::Changes(changes)) = parse(&body, &wanted) else { panic!("{body}") };
                let [Judged::Process(change)] = &changes[..] else { panic!("{changes:?}") };
                assert_eq!((change.bucket.as_str(), change.key.as_str()), ("inbox", key));
                assert_eq!((change.operation, change.force, &change.sequencer), (operation, force, &None));
            }
        }
    }
}
