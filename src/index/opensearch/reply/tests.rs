use serde_json::json;

use super::*;
use crate::message::Namespace;

fn ids(keys: &[&str]) -> Vec<DocumentId> {
    keys.iter().map(|key| DocumentId::of(&Namespace::parse("n").unwrap(), "b", key)).collect()
}

fn written(id: &DocumentId, status: u16) -> Value {
    json!({"index": {"_index": "files-v1", "_id": id, "_version": 5, "result": "created", "_shards":
        {"total": 1, "successful": 1, "failed": 0}, "_seq_no": 0, "_primary_term": 1, "status": status}})
}

fn failed(id: &DocumentId, status: u16, error: Value) -> Value {
    json!({"index": {"_index": "files-v1", "_id": id, "status": status, "error": error}})
}

fn reply(items: Vec<Value>) -> Vec<u8> {
    // Always the more harmless claim: it must not be believed.
    json!({"took": 3, "errors": false, "items": items}).to_string().into_bytes()
}

fn kind(answer: &ItemAnswer) -> &'static str {
    match answer {
        ItemAnswer::Durable => "durable",
        ItemAnswer::Refused(_) => "refused",
        ItemAnswer::Unclear(_) => "unclear",
        ItemAnswer::Busy(_) => "busy",
        ItemAnswer::Unknown(_) => "unknown",
        ItemAnswer::Sick(_) => "sick",
    }
}

fn kinds_of(verdicts: &[ItemAnswer]) -> Vec<&'static str> {
    verdicts.iter().map(kind).collect()
}

#[test]
fn an_item_is_judged_by_its_error_and_not_by_its_status_alone() {
    let error = |kind: &str, reason: &str| json!({"type": kind, "reason": reason});
    let caused = |kind: &str, cause: Value| json!({"type": kind, "reason": "r", "caused_by": cause});
    let cases = [
        // what a real 3.8.0 answered
        (
            409,
            error("version_conflict_engine_exception", "[1]: version conflict, current version [5] is higher"),
            "durable",
        ),
        (400, error("mapper_parsing_exception", "failed to parse field [revision] of type [long]"), "refused"),
        (400, error("mapper_parsing_exception", "failed to parse, document is empty"), "refused"),
        (400, error("illegal_argument_exception", "Document contains at least one immense term in field"), "refused"),
        (400, error("strict_dynamic_mapping_exception", "mapping set to strict"), "refused"),
        (
            404,
            error("index_not_found_exception", "no such index [nope] and [require_alias] request flag is [true]"),
            "sick",
        ),
        (403, error("cluster_block_exception", "index [t-v1] blocked by: [FORBIDDEN/8/index write (api)];"), "sick"),
        (
            403,
            error("cluster_block_exception", "index [t-v1] blocked by: [FORBIDDEN/5/index read-only (api)];"),
            "sick",
        ),
        (
            429,
            error("cluster_block_exception", "index [t-v1] blocked by: [TOO_MANY_REQUESTS/12/disk usage exceeded"),
            "sick",
        ),
        (400, error("index_closed_exception", "closed"), "sick"),
        (400, error("illegal_argument_exception", "no write index is defined for alias [t]. The write"), "sick"),
        // what others answer
        (
            403,
            error("cluster_block_exception", "blocked by: [FORBIDDEN/10/cluster create-index blocked (api)];"),
            "sick",
        ),
        (403, error("exception", "index [x] blocked by: [FORBIDDEN/12/index read-only / allow delete (api)];"), "sick"),
        (400, error("cluster_block_exception", "a block with a status of the document's"), "sick"),
        (400, error("exception", "blocked by: [FORBIDDEN/12/…];"), "sick"),
        (429, error("es_rejected_execution_exception", "rejected execution of coordinating operation"), "busy"),
        (400, error("opensearch_rejected_execution_exception", "rejected"), "sick"),
        (429, error("circuit_breaking_exception", "[parent] Data too large"), "busy"),
        (429, error("tomorrows_exception", "?"), "sick"),
        (400, caused("mapper_parsing_exception", error("circuit_breaking_exception", "too large")), "sick"),
        (403, error("security_exception", "no permissions for [indices:data/write/bulk]"), "sick"),
        (401, error("security_exception", "unauthorized"), "sick"),
        (402, error("exception", "serverless: throttled"), "sick"),
        (404, error("document_missing_exception", "gone"), "unclear"),
        (400, error("illegal_argument_exception", "pipeline with id [clean] does not exist"), "sick"),
        (
            400,
            error("illegal_argument_exception", "only write ops with an op_type of create are allowed in data streams"),
            "sick",
        ),
        (
            400,
            error("illegal_argument_exception", "Number of documents in the index can't exceed [2147483519]"),
            "sick",
        ),
        (400, error("illegal_argument_exception", "number of documents in the index cannot exceed 2147483519"), "sick"),
        (500, error("null_pointer_exception", "null"), "unclear"),
        (503, error("unavailable_shards_exception", "[t-v1][0] primary shard is not active Timeout: [5s]"), "sick"),
        (504, json!({}), "unclear"),
        (413, error("content_too_long_exception", "too long"), "refused"),
        (400, error("some_exception_of_tomorrow", "?"), "refused"),
        (400, json!("MapperParsingException[failed]"), "refused"),
        // other conflicts than ours say nothing
        (409, error("resource_already_exists_exception", "?"), "unclear"),
        // an error takes back what the status says
        (200, error("mapper_parsing_exception", "?"), "unclear"),
        // a document must not talk itself into a sick cluster, nor into a sound one
        (400, error("mapper_parsing_exception", "failed to parse: 'index [x] blocked by: [FORBIDDEN/8/…]'"), "refused"),
        (400, error("mapper_parsing_exception", "version_conflict_engine_exception"), "refused"),
    ];
    let asked = ids(&["a"]);
    for (status, error, expected) in cases {
        let verdicts = classify(200, &reply(vec![failed(&asked[0], status, error.clone())]), &asked).unwrap();
        assert_eq!(kinds_of(&verdicts), [expected], "{status} {error} → {verdicts:?}");
    }
}

#[test]
fn an_item_without_an_error_is_durable_at_200_and_201_only() {
    let asked = ids(&["a"]);
    for (status, expected) in [(200, "durable"), (201, "durable"), (202, "unknown"), (409, "unknown"), (0, "unknown")] {
        let verdicts = classify(200, &reply(vec![written(&asked[0], status)]), &asked).unwrap();
        assert_eq!(kinds_of(&verdicts), [expected], "{status}");
    }
}

#[test]
fn one_bad_document_among_good_ones_is_refused_alone() {
    let asked = ids(&["a", "b", "c"]);
    let bad = failed(&asked[1], 400, json!({"type": "mapper_parsing_exception", "reason": "no"}));
    let verdicts = classify(200, &reply(vec![written(&asked[0], 201), bad, written(&asked[2], 200)]), &asked).unwrap();
    assert_eq!(kinds_of(&verdicts), ["durable", "refused", "durable"]);
}

#[test]
fn a_reply_that_is_not_item_for_item_what_was_asked_makes_nothing_durable() {
    let asked = ids(&["a", "b", "c"]);
    let [a, b, c] = [0, 1, 2].map(|place| written(&asked[place], 201));
    let stranger = written(&ids(&["d"])[0], 201);
    let whole = reply(vec![a.clone(), b.clone(), c.clone()]);
    let cases: [(&str, Vec<u8>); 12] = [
        ("missing", reply(vec![a.clone(), b.clone()])),
        ("surplus", reply(vec![a.clone(), b.clone(), c.clone(), c.clone()])),
        ("none", reply(vec![])),
        ("reordered", reply(vec![b.clone(), a.clone(), c.clone()])),
        ("a stranger", reply(vec![a.clone(), stranger, c.clone()])),
        ("truncated", whole[..whole.len() / 2].to_vec()),
        ("last byte lost", whole[..whole.len() - 1].to_vec()),
        ("more after it", [&whole[..], b"{}"].concat()),
        ("empty", Vec::new()),
        ("not JSON", b"<html>200 OK</html>".to_vec()),
        ("not a bulk reply", br#"{"acknowledged":true}"#.to_vec()),
        ("not UTF-8", [&whole[..20], b"\xff", &whole[20..]].concat()),
    ];
    for (name, body) in cases {
        let verdicts = classify(200, &body, &asked).unwrap();
        assert_eq!(kinds_of(&verdicts), ["unknown"; 3], "{name}");
    }
}

#[test]
fn an_item_that_cannot_be_read_is_unknown_and_its_neighbours_stand() {
    let asked = ids(&["a", "b"]);
    let odd = [
        json!({"index": {"_id": asked[0]}}),
        json!({"index": {"_id": asked[0], "status": "201"}}),
        json!({"index": {"status": 201}}),
        json!({"create": {"_id": asked[0], "status": 201}}),
        json!({"index": {"_id": asked[0], "status": 201}, "delete": {"_id": asked[0], "status": 200}}),
        json!({}),
        json!(null),
        json!([201]),
    ];
    for item in odd {
        let verdicts = classify(200, &reply(vec![item.clone(), written(&asked[1], 201)]), &asked).unwrap();
        assert_eq!(kinds_of(&verdicts), ["unknown", "durable"], "{item}");
    }
}

#[test]
fn a_whole_reply_is_the_documents_fault_only_where_opensearch_says_so() {
    let os = |status: u16, kind: &str, reason: &str| {
        json!({"error": {"root_cause": [], "type": kind, "reason": reason}, "status": status}).to_string()
    };
    let rejected = |all: u64, this: u64| {
        format!(
            "rejected execution of coordinating operation [coordinating_and_primary_bytes={all}, replica_bytes=0, \
             all_bytes={all}, coordinating_operation_bytes={this}, max_coordinating_and_primary_bytes=51897958]"
        )
    };
    let cases = [
        (400, os(400, "illegal_argument_exception", "Malformed action/metadata line [1]"), "refused"),
        (400, os(400, "action_request_validation_exception", "Validation Failed: 1: id is too long"), "refused"),
        (400, os(400, "parse_exception", "?"), "refused"),
        (413, String::new(), "too large"),
        (413, r#"{"Message":"Request size exceeded 10485760 bytes"}"#.into(), "too large"),
        (413, "<html>nginx</html>".into(), "too large"),
        (400, os(400, "cluster_block_exception", "blocked by: [FORBIDDEN/8/index write (api)];"), "unavailable"),
        (400, os(400, "index_closed_exception", "closed"), "unavailable"),
        (400, "<html>The plain HTTP request was sent to HTTPS port</html>".into(), "unavailable"),
        (400, String::new(), "unavailable"),
        // what a real 3.8.0 with 512 MB answered to one document of 90 MB, and what it answers under load
        (429, os(429, "rejected_execution_exception", &rejected(0, 94_372_089)), "too large"),
        (429, os(429, "rejected_execution_exception", &rejected(50_000_000, 5_000_000)), "busy"),
        (429, os(429, "circuit_breaking_exception", "[parent] Data too large"), "busy"),
        (429, "<html>Too Many Requests</html>".into(), "busy"),
        (429, os(429, "cluster_block_exception", "index [t-v1] blocked by: [TOO_MANY_REQUESTS/12/…];"), "unavailable"),
        (401, "Unauthorized".into(), "unavailable"),
        (402, String::new(), "unavailable"),
        (403, os(403, "security_exception", "no permissions"), "unavailable"),
        (403, os(403, "cluster_block_exception", "blocked by: [FORBIDDEN/12/…];"), "unavailable"),
        (404, os(404, "index_not_found_exception", "no such index [files]"), "unavailable"),
        (429, os(429, "rejected_execution_exception", "rejected"), "busy"),
        (500, String::new(), "unavailable"),
        (502, "<html>".into(), "unavailable"),
        (503, os(503, "cluster_manager_not_discovered_exception", ""), "unavailable"),
        (302, String::new(), "unavailable"),
        (201, String::from_utf8(reply(vec![written(&ids(&["a"])[0], 201)])).unwrap(), "unavailable"),
    ];
    for (status, body, expected) in cases {
        let said = match classify(status, body.as_bytes(), &ids(&["a"])) {
            Err(SearchError::WholeRefused(_)) => "refused",
            Err(SearchError::TooLarge(_)) => "too large",
            Err(SearchError::Busy(_)) => "busy",
            Err(SearchError::Unavailable(_)) => "unavailable",
            Ok(_) => "verdicts",
        };
        assert_eq!(said, expected, "{status} {body}");
    }
}

#[test]
fn a_reason_is_short_of_one_line_and_does_not_repeat_the_document() {
    let secret = "機密".repeat(5_000);
    let asked = ids(&["a"]);
    let errors = [
        json!({"type": "mapper_parsing_exception", "reason": format!("failed to parse field [n] of type [long] in \
            document with id '1'. Preview of field's value: '{secret}'"), "caused_by":
            {"type": "illegal_argument_exception", "reason": format!("For input string: \"{secret}\"")}}),
        json!({"type": "x\r\n{\"level\":\"ERROR\"}\u{1b}[2J\u{2028}", "reason": "a\0b\u{202e}c"}),
        json!(secret),
    ];
    for error in errors {
        let verdicts = classify(200, &reply(vec![failed(&asked[0], 400, error)]), &asked).unwrap();
        let ItemAnswer::Refused(reason) = &verdicts[0] else { panic!("{verdicts:?}") };
        assert!(reason.chars().count() <= MAX_REASON, "{reason}");
        assert!(!reason.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{202e}')), "{reason:?}");
        assert!(reason.matches("機密").count() <= MAX_PART / 2, "{reason}");
    }
    let long = classify(503, secret.as_bytes(), &asked).unwrap_err().to_string();
    assert!(long.chars().count() <= MAX_REASON + 20, "{long}");
}

#[test]
fn one_line_keeps_what_fits_and_marks_what_does_not() {
    for (text, max, expected) in [
        ("short", 10, "short"),
        ("exactly", 7, "exactly"),
        ("too long", 4, "too…"),
        ("日本語です", 3, "日本…"),
        ("a\nb", 10, "a\\nb"),
        ("a\nb", 3, "a\\…"),
        ("", 5, ""),
    ] {
        assert_eq!(one_line(text, max), expected, "{text:?} {max}");
    }
}
