//! Where things lie in the results bucket: every key of design §5, built here and nowhere else.
//!
//! Promises stable, ASCII keys: ids and dates only, never a name from outside.

use crate::message::{DocumentId, MessageId, Namespace, hex};
use sha2::{Digest, Sha256};

/// All prefixes this project writes: a notification of the results bucket names one of them and is skipped.
pub const OWN_PREFIXES: [&str; 7] =
    ["processed/", "retry-index/", "errored-index/", "attempts/", "archive/", "redrive/", "control/"];

/// Digits of a revision in a key: a u64 fits, so that text order is number order.
const REVISION_DIGITS: usize = 20;

/// The record of a file.
pub fn record(namespace: &Namespace, document: &DocumentId) -> String {
    format!("processed/{namespace}/{document}.json")
}

/// A parked marker; `date` is the record's, `yyyy-mm-dd`.
pub fn parked(date: &str, namespace: &Namespace, document: &DocumentId, revision: u64) -> String {
    format!("retry-index/{date}/{namespace}/{document}/{revision:0REVISION_DIGITS$}.json")
}

/// A marker that will not be retried by itself.
pub fn errored(date: &str, namespace: &Namespace, document: &DocumentId, revision: u64) -> String {
    format!("errored-index/{date}/{namespace}/{document}/{revision:0REVISION_DIGITS$}.json")
}

/// Failed attempts of a message. SQS ids are UUIDs; anything else is hashed, so that no id can leave its prefix.
pub fn attempts(namespace: &Namespace, message: &MessageId) -> String {
    format!("attempts/{namespace}/{}.json", safe_id(&message.0))
}

/// The fleet-wide pause: one for all namespaces of a results bucket.
pub const PAUSE: &str = "control/pause.json";

/// The advisory lease of the replayer: one for a results bucket, as the pause.
pub const REPLAY: &str = "control/replay.json";

/// What a worker writes while it finds out whether the results bucket is well again.
pub fn probe(namespace: &Namespace) -> String {
    format!("control/probe-{namespace}.json")
}

/// A dead-letter envelope that did not fit into the message.
pub fn envelope(date: &str, message: &MessageId) -> String {
    archived("dlq", date, message)
}

/// A message that was archived from one of the two queues, `dlq` or `main`; the date is that of the archiving.
pub fn archived(queue: &str, date: &str, message: &MessageId) -> String {
    format!("archive/{queue}/{date}/{}.json", safe_id(&message.0))
}

/// A part of the audit of a redrive run: what one batch did.
pub fn redrive_part(run_id: &str, batch: u64) -> String {
    format!("redrive/{}/{batch:06}.ndjson", safe_id(run_id))
}

fn safe_id(id: &str) -> String {
    let plain = !id.is_empty() && id.len() <= 100 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if plain { id.to_owned() } else { hex(&Sha256::digest(id.as_bytes())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_design() {
        let namespace = Namespace::parse("default").unwrap();
        let document = DocumentId::of(&namespace, "b", "日本.txt");
        let id = document.as_str();
        let message = MessageId("0b1a".into());
        assert_eq!(record(&namespace, &document), format!("processed/default/{id}.json"));
        assert_eq!(
            parked("2026-11-22", &namespace, &document, 1_795_000_000_000),
            format!("retry-index/2026-11-22/default/{id}/00000001795000000000.json")
        );
        assert_eq!(
            errored("2026-11-22", &namespace, &document, 1),
            format!("errored-index/2026-11-22/default/{id}/00000000000000000001.json")
        );
        assert_eq!(attempts(&namespace, &message), "attempts/default/0b1a.json");
        assert_eq!(probe(&namespace), "control/probe-default.json");
        assert_eq!(envelope("2026-11-22", &message), "archive/dlq/2026-11-22/0b1a.json");
        assert_eq!(redrive_part("0199-run", 41), "redrive/0199-run/000041.ndjson");
        assert_eq!(archived("main", "2026-11-22", &message), "archive/main/2026-11-22/0b1a.json");
        assert!(!attempts(&namespace, &MessageId("../../control/pause".into())).contains(".."));
    }
}
