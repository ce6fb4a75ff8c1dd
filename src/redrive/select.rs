//! Which letters a command is about: by reason, tenant, key, age, id.
//!
//! Pure. Promises that a letter which does not say what is asked for does not match: it is left where it is.

use crate::config::TenantFrom;
use crate::process::tenant;

use super::letter::Letter;

/// All of what is given must match; nothing given is everything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selection {
    /// One of these reasons.
    pub reasons: Vec<String>,
    /// One of these tenants has a change in it.
    pub tenants: Vec<String>,
    /// A key in it begins so.
    pub key_prefix: Option<String>,
    /// Given up longer ago than this, milliseconds.
    pub older_than_ms: Option<u64>,
    /// Given up within this, milliseconds.
    pub newer_than_ms: Option<u64>,
    /// One of these ids: its own, or the one it was first sent under.
    pub message_ids: Vec<String>,
    /// Not of these queues, by ARN: they have their own workers.
    pub not_of: Vec<String>,
    /// Only of this queue, by ARN, or of none that is named: SQS does not say who shares the dead-letter queue.
    pub only_of: Option<String>,
}

impl Selection {
    /// Whether nothing was asked for.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a letter is meant.
    pub fn matches(&self, letter: &Letter, tenant_from: &TenantFrom, now_ms: u64) -> bool {
        let Self { reasons, tenants, key_prefix, older_than_ms, newer_than_ms, message_ids, not_of, only_of } = self;
        let any = |list: &[String], is: &dyn Fn(&String) -> bool| list.is_empty() || list.iter().any(is);
        let age = letter.since_ms().map(|since| now_ms.saturating_sub(since));
        let keys = letter.keys();
        let of_tenant = |wanted: &String| {
            keys.iter().any(|key| tenant(tenant_from, key, &letter.message).as_deref() == Some(wanted.as_str()))
        };
        let first = letter.first_id();
        // A letter that was restored from the archive may name no queue.
        let of_others = letter.source_queue().filter(|source| !source.is_empty()).is_some_and(|source| {
            not_of.iter().any(|other| other == source) || only_of.as_ref().is_some_and(|main| main != source)
        });
        !of_others
            && any(reasons, &|reason| reason == letter.reason())
            && any(tenants, &of_tenant)
            && key_prefix.as_ref().is_none_or(|prefix| keys.iter().any(|key| key.starts_with(prefix.as_str())))
            && older_than_ms.is_none_or(|than| age.is_some_and(|age| age > than))
            && newer_than_ms.is_none_or(|than| age.is_some_and(|age| age <= than))
            && any(message_ids, &|id| *id == letter.message.id.0 || *id == first.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::message::s3_event::{Source, Wanted};
    use crate::message::{AttributeValue, Message, MessageAttribute, MessageId, ReceiptHandle};

    const NOW: u64 = 1_795_358_754_000;

    fn letter(body: &str, attribute: Option<&str>, moved_from: Option<&str>) -> Letter {
        let value = attribute
            .map(|text| MessageAttribute { data_type: "String".into(), value: AttributeValue::Text(text.into()) });
        let message = Message {
            id: MessageId("m2".into()),
            handle: ReceiptHandle("h".into()),
            body: body.into(),
            attributes: value.map(|value| BTreeMap::from([("Quittance".to_owned(), value)])).unwrap_or_default(),
            receive_count: 1,
            sent_at_ms: Some(NOW - 5_000),
            group_id: None,
            moved_from: moved_from.map(str::to_owned),
        };
        Letter::read(Arc::new(message), &Wanted::new(vec![Source::parse("incoming").unwrap()], "results".into()))
    }

    fn only() -> Selection {
        Selection::default()
    }

    #[test]
    fn a_letter_matches_when_all_that_was_asked_for_is_true_of_it() {
        let note = r#"{"v":1,"reason":"denied","detail":"","attempts":5,"first_failed_at":"2026-11-22T14:00:00.000Z",
            "last_failed_at":"2026-11-22T14:44:54.000Z","work_ids":[],"keys":["acme/a.txt"],"source_queue":"q",
            "message_id":"m1","redrives":1}"#;
        let body = r#"{"bucket":"incoming","key":"acme/a.txt"}"#;
        let ours = letter(body, Some(note), None);
        let moved = letter(body, None, Some("r"));
        let broken = letter("{", Some(note), Some("r"));
        let list = |text: &str| vec!["x".to_owned(), text.to_owned()];
        // ours, moved by SQS, of a body that cannot be read
        let table = [
            (only(), [true, true, true], "everything"),
            (Selection { reasons: list("denied"), ..only() }, [true, false, false], "a reason"),
            (
                Selection { reasons: list("max_receives"), ..only() },
                [false, true, true],
                "SQS's own, its note of before too",
            ),
            (Selection { tenants: list("acme"), ..only() }, [true, true, true], "a tenant"),
            (Selection { tenants: list("acm"), ..only() }, [false; 3], "a tenant is a whole name"),
            (Selection { key_prefix: Some("acme/a".into()), ..only() }, [true, true, true], "a key"),
            (Selection { key_prefix: Some("/acme".into()), ..only() }, [false; 3], "from its beginning"),
            (
                Selection { older_than_ms: Some(30_000), ..only() },
                [true, false, false],
                "given up 60 s ago; sent 5 s ago",
            ),
            (Selection { newer_than_ms: Some(30_000), ..only() }, [false, true, true], "the other way round"),
            (Selection { message_ids: list("m1"), ..only() }, [true, false, true], "the first id"),
            (Selection { message_ids: list("m2"), ..only() }, [true; 3], "its own id"),
            (Selection { not_of: list("q"), ..only() }, [false, true, true], "another queue's, by its worker"),
            (Selection { not_of: list("r"), ..only() }, [true, false, false], "another queue's, by SQS itself"),
            (Selection { not_of: list("p"), ..only() }, [true; 3], "of no queue but those"),
            (Selection { only_of: Some("q".into()), ..only() }, [true, false, false], "of this queue alone"),
            (Selection { only_of: Some("r".into()), ..only() }, [false, true, true], "of that queue alone"),
            (
                Selection { reasons: list("denied"), key_prefix: Some("b".into()), ..only() },
                [false; 3],
                "one of two is not enough",
            ),
        ];
        for (selection, expected, why) in table {
            let found = [&ours, &moved, &broken].map(|letter| selection.matches(letter, &TenantFrom::Prefix(1), NOW));
            assert_eq!(found, expected, "{why}");
        }
    }
}
