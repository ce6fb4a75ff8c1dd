//! Whatever the bytes and whatever the name: a reader comes back with an answer.

use proptest::prelude::*;
use quittance::process::extract::{Hints, Limits, extract_bytes};

use crate::samples;

const EXTENSIONS: [&str; 20] = [
    "txt",
    "md",
    "csv",
    "tsv",
    "json",
    "html",
    "xhtml",
    "xml",
    "eml",
    "pdf",
    "docx",
    "xlsx",
    "pptx",
    "zip",
    "png",
    "rs",
    "mp4",
    "",
    "日本語",
    "../../x",
];

/// Whatever is said of a file is within its bounds.
fn answers(bytes: &[u8], hints: &Hints, max_text_bytes: usize) {
    let Ok(got) = extract_bytes(bytes, hints, &Limits::with_text(max_text_bytes)) else { return };
    let content = got.content.unwrap_or_default();
    assert!(content.len() <= max_text_bytes);
    assert!(!content.contains(|c: char| c.is_control() && c != '\n' && c != '\t'), "{content:?}");
    assert!(!got.mime_type.is_empty());
    for text in got.title.iter().chain(&got.extraction_error) {
        assert!(text.chars().count() <= 512 && !text.contains(char::is_control), "{text:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_under_every_extension_are_answered(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        magic in 0..6_usize,
        content_type in proptest::option::of(".{0,30}"),
    ) {
        let magics: [&[u8]; 6] = [b"", b"PK\x03\x04", b"%PDF-1.4\n", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"<html>", b"\xff\xfe"];
        let bytes = [magics[magic], &bytes].concat();
        for extension in EXTENSIONS {
            answers(&bytes, &Hints { file_name: format!("a.{extension}"), content_type: content_type.clone() }, 100);
        }
    }

    #[test]
    fn good_files_with_bytes_changed_or_cut_are_answered(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        for (name, mut bytes) in samples::all() {
            for (at, value) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            answers(&bytes, &samples::hints(name), 10_000);
        }
    }
}
