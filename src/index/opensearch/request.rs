//! The bulk body: an action line and a source line for each document, gzipped.
//!
//! Promises one document on exactly two lines, whatever is in it. Knows no alias and no reply.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use crate::index::IndexItem;

#[derive(Serialize)]
struct Action<'a> {
    index: IndexAction<'a>,
}

#[derive(Serialize)]
struct IndexAction<'a> {
    _id: &'a str,
    version: u64,
    version_type: &'static str,
}

/// Why a source must not be put into a bulk body: without an object on its line, OpenSearch would take the next
/// action line for this document's source, and write it.
pub(super) fn unfit(source: &[u8]) -> Option<String> {
    let source = source.trim_ascii();
    let object = source.starts_with(b"{") && source.ends_with(b"}");
    (!object).then(|| "the document is not a JSON object".to_owned())
}

/// The whole body, compressed. The level is the fastest: text shrinks to a third already, and time is CPU.
pub(super) fn gzipped(items: &[IndexItem]) -> io::Result<Bytes> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    write_ndjson(items, &mut gzip)?;
    gzip.finish().map(Bytes::from)
}

fn write_ndjson(items: &[IndexItem], out: &mut impl Write) -> io::Result<()> {
    for item in items {
        let index =
            IndexAction { _id: item.document_id.as_str(), version: item.revision, version_type: "external_gte" };
        serde_json::to_writer(&mut *out, &Action { index })?;
        out.write_all(b"\n")?;
        // In JSON a line break can only stand between tokens (in a string it is `\n`): a space says the same.
        for (position, part) in item.source.trim_ascii().split(|byte| matches!(byte, b'\n' | b'\r')).enumerate() {
            out.write_all(if position > 0 { b" " } else { b"" })?;
            out.write_all(part)?;
        }
        out.write_all(b"\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{DocumentId, Namespace};
    use flate2::read::GzDecoder;
    use std::io::Read;

    fn item(key: &str, revision: u64, source: &str) -> IndexItem {
        let document_id = DocumentId::of(&Namespace::parse("n").unwrap(), "b", key);
        IndexItem { document_id, revision, source: Bytes::copy_from_slice(source.as_bytes()) }
    }

    fn ndjson(items: &[IndexItem]) -> String {
        let mut out = Vec::new();
        write_ndjson(items, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_document_is_an_action_line_with_its_revision_and_a_source_line() {
        let one = item("k", 1_700_000_000_123, r#"{"title":"請求書\n二行目"}"#);
        let id = one.document_id.clone();
        let expected = format!(
            "{{\"index\":{{\"_id\":\"{id}\",\"version\":1700000000123,\"version_type\":\"external_gte\"}}}}\n\
             {{\"title\":\"請求書\\n二行目\"}}\n"
        );
        assert_eq!(ndjson(&[one]), expected);
    }

    #[test]
    fn a_source_with_line_breaks_between_its_tokens_is_still_one_line_and_the_same_document() {
        let source = "\n{\r\n  \"content\": \"一行目\\n二行目\u{2028}三\",\n  \"n\": 1\n}\n";
        let body = ndjson(&[item("a", 1, source), item("b", 2, "{}")]);
        let lines: Vec<_> = body.split('\n').collect();
        assert_eq!(lines.len(), 5, "four lines and the end: {body:?}");
        let sent: serde_json::Value = serde_json::from_str(lines[1]).unwrap();
        assert_eq!(sent, serde_json::from_str::<serde_json::Value>(source).unwrap());
        assert!(!body.contains('\r'));
    }

    #[test]
    fn the_gzipped_body_unpacks_to_the_lines() {
        let items = [item("a", 1, r#"{"content":"日本語"}"#), item("b", 2, r#"{"content":"text"}"#)];
        let mut unpacked = String::new();
        GzDecoder::new(&gzipped(&items).unwrap()[..]).read_to_string(&mut unpacked).unwrap();
        assert_eq!(unpacked, ndjson(&items));
    }

    #[test]
    fn what_is_not_an_object_is_unfit_because_it_would_shift_the_lines_after_it() {
        for bad in ["", " \n ", "null", "[1]", "\"text\"", "{", "}", "{\"a\":1} x"] {
            assert!(unfit(bad.as_bytes()).is_some(), "{bad:?}");
        }
        for good in ["{}", " {\"a\":1}\n"] {
            assert_eq!(unfit(good.as_bytes()), None, "{good:?}");
        }
    }
}
