//! Every shape of event against fixtures (Q16–Q18, B14, B15, T6, T8): body in, judged changes out.
//! The fixtures follow the structure in the AWS documentation, with names of our own.

#![expect(clippy::unwrap_used, reason = "clippy knows test functions, not the helpers beside them")]

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;
use quittance::message::Change;
use quittance::message::s3_event::{Judged, MAX_RECORDS, Parsed, Source, Unreadable, Wanted, parse};

fn wanted() -> Wanted {
    let sources = ["inbox", "shared/drop/"].map(|text| Source::parse(text).unwrap());
    Wanted::new(sources.to_vec(), "results".into())
}

/// One line per change: what a reader of the table wants to compare.
fn lines(result: Result<Parsed, Unreadable>) -> Vec<String> {
    match result {
        Ok(Parsed::Changes(changes)) => changes.iter().map(line).collect(),
        Ok(Parsed::Skip(reason)) => vec![format!("skip {}", reason.as_str())],
        Err(Unreadable::Malformed(detail)) => vec![format!("malformed: {detail}")],
        Err(Unreadable::Limit(detail)) => vec![format!("limit: {detail}")],
    }
}

fn line(judged: &Judged) -> String {
    match judged {
        Judged::Process(change) => format!("process {}", fields(change)),
        Judged::Skip { bucket, key, reason } => format!("skip {bucket} {key:?} {}", reason.as_str()),
        Judged::NotAllowed { change, detail } => format!("not allowed {} {:?}: {detail}", change.bucket, change.key),
        Judged::Malformed { detail } => format!("malformed: {detail}"),
    }
}

fn fields(change: &Change) -> String {
    let mut text = format!("{} {} {:?}", change.operation.as_str(), change.bucket, change.key);
    let named = [
        ("size", change.size.map(|size| size.to_string())),
        ("etag", change.etag.clone()),
        ("version", change.version_id.clone()),
        ("sequencer", change.sequencer.as_ref().map(|sequencer| sequencer.as_str().to_owned())),
        ("request", change.request_id.clone()),
        ("force", change.force.then(|| "yes".to_owned())),
    ];
    for (name, value) in named {
        if let Some(value) = value {
            text.push_str(&format!(" {name}={value}"));
        }
    }
    text
}

const TAIL: &str =
    " size=18233 etag=d41d8cd98f00b204e9800998ecf8427e sequencer=0055AED6DCD90281E5 request=C3D13FE58DE4C810";
const REQUEST: &str = " request=C3D13FE58DE4C810";

fn created(key: &str) -> String {
    format!("process created inbox {key:?}{TAIL}")
}

fn odd_keys() -> Vec<String> {
    let long = ["x".repeat(1_024), format!("{}x", "あ".repeat(341))];
    let short = [
        "a b.txt",
        "a+b.txt",
        "a%2Bb.txt",
        "100%.txt",
        "日本語/報告書 最終.docx",
        "🦀/crab.md",
        "line\nbreak.txt",
        "../../etc/passwd",
        "/lead",
    ];
    short.iter().map(|key| created(key)).chain(long.iter().map(|key| created(key))).collect()
}

fn table() -> Vec<(&'static str, Vec<String>)> {
    let one = |text: &str| vec![text.to_owned()];
    let removed = "process removed inbox \"reports/2026/q3.pdf\"";
    let other = "skip inbox \"reports/2026/q3.pdf\" event_not_wanted";
    vec![
        ("direct_created", vec![created("reports/2026/q3.pdf")]),
        (
            "direct_versioned",
            one("process created inbox \"reports/2026/q3.pdf\" size=73400320 \
                 etag=9b2cf535f27731c974343645a3985328-12 version=096fKKXTRTtl3on89fVO.nfljtsv6qko \
                 sequencer=0055AED6DCD90281E5 request=C3D13FE58DE4C810"),
        ),
        ("direct_no_sequencer", one("process created inbox \"reports/2026/q3.pdf\" size=18233")),
        ("direct_keys_as_s3", odd_keys()),
        ("direct_keys_as_localstack", odd_keys()),
        (
            "direct_removed",
            vec![
                format!("{removed} sequencer=0055AED6DCD90281E6{REQUEST}"),
                format!(
                    "{removed} etag=d41d8cd98f00b204e9800998ecf8427e version=marker1 sequencer=0055AED6DCD90281E5{REQUEST}"
                ),
                format!("{removed} sequencer=0055AED6DCD90281E5{REQUEST}"),
                format!("{removed} version=marker2 sequencer=0055AED6DCD90281E5{REQUEST}"),
            ],
        ),
        (
            "direct_restore",
            vec![
                format!(
                    "process created inbox \"reports/2026/q3.pdf\" size=18233 etag=e1 sequencer=0055AED6DCD90281E5{REQUEST}"
                ),
                other.to_owned(),
                other.to_owned(),
            ],
        ),
        ("direct_other_notifications", vec![other.to_owned(); 7]),
        (
            "direct_partly_wanted",
            vec![
                created("reports/a.txt"),
                format!("process created shared \"drop/b.txt\"{TAIL}"),
                "skip shared \"elsewhere/c.txt\" prefix_not_wanted".to_owned(),
                "not allowed inbox2 \"d.txt\": bucket \"inbox2\" is not in SOURCE_BUCKETS".to_owned(),
                "skip results \"processed/default/00.json\" own_prefix".to_owned(),
                "not allowed results \"notes.txt\": bucket \"results\" is the results bucket, never a source"
                    .to_owned(),
                "skip inbox \"e.txt\" event_not_wanted".to_owned(),
                "malformed: record 8: key \"f%zz.txt\" has a bad escape: '%' without two hex digits".to_owned(),
                created("g.txt"),
            ],
        ),
        ("direct_with_bom", vec![created("reports/2026/q3.pdf")]),
        ("direct_empty", one("skip no_records")),
        ("test_event", one("skip test_event")),
        ("sns_created", vec![created("日本語/a b.txt")]),
        ("sns_test_event", one("skip test_event")),
        ("sns_eventbridge", one(EVENTBRIDGE)),
        ("eventbridge_created", one(EVENTBRIDGE)),
        (
            "eventbridge_deleted",
            one("process removed inbox \"日本語/メモ.txt\" etag=d41d8cd98f00b204e9800998ecf8427e version=mk \
                 sequencer=617F0837B476E463 request=N4N7GDK58NMKJ12R"),
        ),
        ("eventbridge_restored", one("process created inbox \"cold/a.bin\" size=99 etag=e request=N4N7GDK58NMKJ12R")),
        ("eventbridge_tags", one("skip inbox \"a.txt\" event_not_wanted")),
        ("minimal", one("process unstated inbox \"a+b%20c/日本語.txt\"")),
        ("minimal_with_options", one("process unstated inbox \"a.txt\" version=v7 force=yes")),
        ("bad_event_version", one("malformed: record 1: event version \"3.0\" is not 2.x")),
        ("bad_event_source", one("malformed: record 1: event is from \"aws:sns\", not from aws:s3")),
        ("bad_event_name", one("malformed: record 1: unknown event name \"ObjectFolded:Neatly\\n\\u{1b}[2J\"")),
        ("bad_key_escape", one("malformed: record 1: key \"a%zz.txt\" has a bad escape: '%' without two hex digits")),
        ("bad_key_utf8", one("malformed: record 1: key \"a%FF.txt\" is not utf-8 after decoding")),
        (
            "bad_key_too_long",
            vec![format!("malformed: record 1: key \"{}…\" has 1025 bytes, more than 1024", "x".repeat(199))],
        ),
        ("bad_key_empty", one("malformed: record 1: key is empty")),
        ("bad_bucket", one("malformed: record 1: bucket \"../x\" is not a bucket name")),
        ("bad_version_id", one("malformed: record 1: version id \"a\\u{0}b\" cannot be one")),
        ("bad_missing_key", one("malformed: record 1: missing field `key` at line 31 column 9")),
        (
            "bad_value_not_quoted",
            one("malformed: record 1: invalid type: string, expected struct S3 at line 17 column 27"),
        ),
        ("bad_sns_confirmation", one("malformed: sns message of type \"SubscriptionConfirmation\" carries no event")),
        ("bad_sns_text", one("malformed: in sns message: body is not json: expected value at line 1 column 1")),
        ("bad_sns_twice", one("malformed: in sns message: sns notification inside another")),
        ("bad_eventbridge_source", one("malformed: event is from \"aws.ec2\", not from aws.s3")),
        ("bad_eventbridge_type", one("malformed: unknown detail-type \"AWS API Call via CloudTrail\"")),
        ("bad_minimal_no_key", one("malformed: body has a `bucket` but no `key`")),
        ("bad_mixed", one("malformed: body mixes the fields of several event shapes")),
        ("bad_unknown", one("malformed: body is json but no event that is known here")),
        ("bad_list", one("malformed: body is not a json object")),
        ("bad_not_json", one("malformed: body is not json: expected value at line 1 column 1")),
        ("bad_empty", one("malformed: body is empty")),
    ]
}

const EVENTBRIDGE: &str = "process created inbox \"example key+1%2B.txt\" size=5 \
     etag=b1946ac92492d2347c6235b4d2611184 version=IYV3p45BT0ac8hjHg1houSdS1a.Mro8e \
     sequencer=617F08299329D189 request=N4N7GDK58NMKJ12R";

#[test]
fn every_shape_of_event_yields_its_changes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/events");
    let mut wrong = Vec::new();
    let mut named = BTreeSet::new();
    for (name, expected) in table() {
        let body = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
        let found = lines(parse(&body, &wanted()));
        if found != expected {
            wrong.push(format!("{name}\n  expected {expected:#?}\n  found {found:#?}"));
        }
        named.insert(format!("{name}.json"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let there = std::fs::read_dir(&folder).unwrap();
    let there: BTreeSet<String> = there.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(there, named, "fixtures and table name the same files");
}

fn event(encoded_key: &str) -> String {
    let key = serde_json::to_string(encoded_key).unwrap();
    format!(
        r#"{{"Records":[{{"eventVersion":"2.1","eventSource":"aws:s3","eventName":"ObjectCreated:Put",
            "s3":{{"bucket":{{"name":"inbox"}},"object":{{"key":{key}}}}}}}]}}"#
    )
}

fn key_of(body: &str) -> Option<String> {
    match parse(body, &wanted()) {
        Ok(Parsed::Changes(mut changes)) => match changes.remove(0) {
            Judged::Process(change) => Some(change.key),
            other => panic!("{other:?}"),
        },
        _ => None,
    }
}

/// Form encoding as S3 does it; `space` is what stands for one (S3 `+`, LocalStack `%20`).
fn form_encoded(key: &str, space: &str) -> String {
    key.bytes().fold(String::new(), |text, byte| match byte {
        b' ' => text + space,
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' | b'/' => {
            text + &char::from(byte).to_string()
        }
        _ => text + &format!("%{byte:02X}"),
    })
}

#[test]
fn more_records_than_a_message_may_have_are_a_limit() {
    let records = |count: usize| {
        let one = event("a").trim_start_matches(r#"{"Records":["#).trim_end_matches("]}").to_owned();
        format!(r#"{{"Records":[{}]}}"#, vec![one; count].join(","))
    };
    assert!(matches!(parse(&records(MAX_RECORDS), &wanted()), Ok(Parsed::Changes(changes)) if changes.len() == 1_000));
    assert_eq!(lines(parse(&records(MAX_RECORDS + 1), &wanted())), ["limit: body has 1001 records, more than 1000"]);
}

#[test]
fn deep_and_large_bodies_end_in_an_error_and_not_in_the_stack() {
    let deep = 500_000;
    let bodies = [
        "[".repeat(deep),
        "{\"a\":".repeat(deep / 3),
        format!("{{\"Records\":[{}{}]}}", "[".repeat(deep), "]".repeat(deep)),
        format!("{{\"detail-type\":\"Object Created\",\"source\":\"aws.s3\",\"detail\":{}", "[".repeat(deep)),
        format!("{{\"a\":{}{},\"bucket\":7}}", "[".repeat(deep), "]".repeat(deep)),
    ];
    for body in bodies {
        let found = parse(&body, &wanted());
        assert!(matches!(found, Err(Unreadable::Malformed(_))), "{:?} {found:?}", &body[..20]);
    }
    let many = format!("{{\"Records\":[{}1]}}", "1,".repeat(520_000));
    assert_eq!(lines(parse(&many, &wanted())), ["limit: body has 520001 records, more than 1000"]);
    let large = format!("{{\"bucket\":\"{}\"}}", "x".repeat(1_048_576));
    assert!(matches!(parse(&large, &wanted()), Err(Unreadable::Limit(_))));
    let mebibyte = format!("{{\"bucket\":\"inbox\",\"key\":\"a\",\"note\":\"{}\"}}", "x".repeat(1_048_538));
    assert_eq!(mebibyte.len(), 1_048_576);
    assert_eq!(key_of(&mebibyte).as_deref(), Some("a"));
}

#[test]
fn a_detail_is_one_short_line_whatever_the_body_says() {
    let ugly = "\u{1b}[2J\r\n{\"level\":\"ERROR\"}\u{202e}日本".repeat(500);
    let text = serde_json::to_string(&ugly).unwrap();
    let bodies = [
        event("a").replace("ObjectCreated:Put", text.trim_matches('"')),
        event("a").replace("aws:s3", text.trim_matches('"')),
        event("a").replace("inbox", text.trim_matches('"')),
        event(&ugly),
        format!("{{\"Type\":{text}}}"),
        format!("{{\"Event\":{text}}}"),
        format!("{{\"Records\":{text}}}"),
        format!("{{\"source\":{text},\"detail-type\":{text}}}"),
    ];
    for body in bodies {
        let Err(Unreadable::Malformed(detail)) = parse(&body, &wanted()) else { panic!("{body}") };
        assert!(detail.chars().count() <= 512, "{detail}");
        assert!(!detail.chars().any(|c| c.is_control() || c == '\u{202e}'), "{detail}");
        assert!(detail.starts_with(|first: char| first.is_lowercase()), "{detail}");
    }
}

#[test]
fn no_value_of_a_body_is_repeated_when_its_type_is_wrong() {
    for body in
        [r#"{"bucket":["canary"]}"#, r#"{"force":"canary","bucket":"b"}"#, r#"{"Records":"canary\", expected"}"#]
    {
        let found = lines(parse(body, &wanted()));
        assert!(!found[0].contains("canary") && found[0].starts_with("malformed: body "), "{found:?}");
    }
}

fn any_key() -> impl Strategy<Value = String> {
    let piece = prop_oneof![any::<char>().prop_map(String::from), "[ +%/a-f0-9]{1,3}", "[ぁ-ん一-龠]", "%2B|%20|\\+"];
    prop::collection::vec(piece, 1..80)
        .prop_map(|pieces| pieces.concat())
        .prop_filter("1 to 1,024 bytes", |key| (1..=1_024).contains(&key.len()))
}

proptest! {
    #[test]
    fn any_key_round_trips_as_s3_and_as_localstack_encode_it(key in any_key()) {
        for space in ["+", "%20"] {
            prop_assert_eq!(key_of(&event(&form_encoded(&key, space))), Some(key.clone()));
        }
    }

    #[test]
    fn any_key_is_literal_in_minimal_and_eventbridge_bodies(key in any_key()) {
        let text = serde_json::to_string(&key).unwrap();
        let minimal = format!(r#"{{"bucket":"inbox","key":{text}}}"#);
        prop_assert_eq!(key_of(&minimal), Some(key.clone()));
        let bridged = format!(
            r#"{{"detail-type":"Object Created","source":"aws.s3","detail":{{"bucket":{{"name":"inbox"}},"object":{{"key":{text}}}}}}}"#
        );
        prop_assert_eq!(key_of(&bridged), Some(key.clone()));
        let wrapped = format!(r#"{{"Type":"Notification","Message":{}}}"#, serde_json::to_string(&bridged).unwrap());
        prop_assert_eq!(key_of(&wrapped), Some(key));
    }

    #[test]
    fn arbitrary_text_never_panics(body in any::<String>(), key in any::<String>()) {
        let _ = parse(&body, &wanted());
        let _ = parse(&event(&key), &wanted());
    }

    #[test]
    fn a_mangled_event_never_panics_and_its_detail_stays_short(
        fixture in prop::sample::select(vec!["direct_partly_wanted", "eventbridge_deleted", "sns_created"]),
        at in any::<prop::sample::Index>(),
        length in 0_usize..40,
        put in "[\\[\\]{}\",:0-9a-z\\\\]{0,6}",
    ) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/events");
        let characters: Vec<char> = std::fs::read_to_string(folder.join(format!("{fixture}.json"))).unwrap().chars().collect();
        let start = at.index(characters.len());
        let end = (start + length).min(characters.len());
        let body: String = characters[..start].iter().copied().chain(put.chars()).chain(characters[end..].iter().copied()).collect();
        if let Err(Unreadable::Malformed(detail) | Unreadable::Limit(detail)) = parse(&body, &wanted()) {
            prop_assert!(detail.chars().count() <= 512);
        }
    }
}
