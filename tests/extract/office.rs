//! DOCX, XLSX and PPTX, whole and broken, and archives that mean harm (T1, T2).

use quittance::process::extract::{LimitKind, Limits, extract_bytes};
use serde_json::json;

use crate::samples::{content, docx, docx_of, error, hints, pptx, read, xlsx, xlsx_of, zip};

#[test]
fn a_document_is_read_paragraph_by_paragraph() {
    let got = read(&docx(), "報告.docx");
    assert_eq!(content(&got), "Hello world <日>\n東京都\nsecond\nbox\na b\tc");
    assert_eq!((got.title.as_deref(), &got.meta["author"]), (Some("四半期 & 報告"), &json!("山田")));
    assert_eq!(got.meta["created"], "2026-11-01T00:00:00Z");
    assert_eq!(got.mime_type, "application/vnd.openxmlformats-officedocument.wordprocessingml.document");
    assert_eq!(got.extraction_error, None);
}

#[test]
fn slides_are_read_in_the_order_of_their_numbers() {
    let got = read(&pptx(), "a.pptx");
    assert_eq!(content(&got), "Opening\nfirst\n\n二枚目\nmiddle\n\nTen\nlast\n\nsay hello");
    assert_eq!((got.title.as_deref(), &got.meta["slides"]), (Some("Opening"), &json!(3)));
}

#[test]
fn a_workbook_is_read_row_by_row_and_far_cells_cost_nothing() {
    let got = read(&xlsx(), "a.xlsx");
    assert_eq!(content(&got), "売上\n品名\t単価\n12\t1.5\tTRUE\t2025-12-09\nfar away");
    assert_eq!((&got.meta["sheets"], &got.meta["sheet_count"]), (&json!(["売上"]), &json!(1)));
    assert_eq!(got.title.as_deref(), Some("四半期 & 報告"));
}

#[test]
fn office_files_are_known_by_content_under_any_name() {
    for (bytes, suffix) in [
        (docx(), "wordprocessingml.document"),
        (xlsx(), "spreadsheetml.sheet"),
        (pptx(), "presentationml.presentation"),
    ] {
        let got = read(&bytes, "blob.bin");
        assert!(got.mime_type.ends_with(suffix) && got.content.is_some(), "{got:?}");
    }
}

#[test]
fn text_beyond_the_cap_is_left_unread() {
    for (bytes, name) in [(docx(), "a.docx"), (xlsx(), "a.xlsx"), (pptx(), "a.pptx")] {
        let got = extract_bytes(&bytes, &hints(name), &Limits::with_text(5)).unwrap();
        assert!(content(&got).len() <= 5 && got.truncated, "{got:?}");
    }
}

#[test]
fn a_broken_archive_is_a_finding_and_keeps_its_type() {
    for (whole, name) in [(docx(), "a.docx"), (xlsx(), "a.xlsx"), (pptx(), "a.pptx")] {
        for bytes in [&whole[..whole.len() / 2], &whole[..whole.len() - 5], &whole[..60]] {
            let got = read(bytes, name);
            assert!(error(&got).contains("broken"), "{name}: {got:?}");
            assert!(got.mime_type.contains("openxmlformats"), "{name}: {got:?}");
        }
    }
    let got = read(&zip(&[("word/other.xml", "<a/>")]), "a.docx");
    assert_eq!(error(&got), "no word/document.xml in it");
    let got = read(&xlsx_of("<row><c r=\"A1\"><v>1</w></c></row>"), "a.xlsx");
    assert!(error(&got).starts_with("the workbook is broken: "), "{got:?}");
}

#[test]
fn broken_xml_is_a_finding_and_what_came_before_it_stays() {
    for end in ["<w:p>", "</w:q>", "<w:t attr=\"", "<!", "\u{1}<"] {
        let got = read(&docx_of(&format!("<w:document><w:body><w:p><w:t>before</w:t></w:p>{end}")), "a.docx");
        assert!(error(&got).contains("XML"), "{end}: {got:?}");
        assert_eq!(content(&got), "before");
        assert_eq!(got.title.as_deref(), Some("四半期 & 報告"));
    }
    let deep = format!("<w:document>{}", "<w:p>".repeat(100_000));
    assert_eq!(error(&read(&docx_of(&deep), "a.docx")), "XML nested deeper than 256");
}

#[test]
fn no_entity_is_ever_expanded() {
    let laughs =
        r#"<!DOCTYPE a [<!ENTITY b "lol"><!ENTITY c "&b;&b;&b;">]><w:document><w:p><w:t>&c;</w:t></w:p></w:document>"#;
    let outside = r#"<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><w:document><w:p><w:t>&x;</w:t></w:p></w:document>"#;
    for document in [laughs, outside] {
        let got = read(&docx_of(document), "a.docx");
        assert_eq!((error(&got), content(&got)), ("a document type declaration in it is refused", ""));
    }
    let got = read(&docx_of("<w:document><w:p><w:t>a&unknown;b</w:t></w:p></w:document>"), "a.docx");
    assert_eq!((content(&got), &got.extraction_error), ("ab", &None));
    let sheet = zip(&[("xl/workbook.xml", laughs)]);
    assert_eq!(error(&read(&sheet, "a.xlsx")), "a document type declaration in it is refused");
}

#[test]
fn attributes_by_the_ten_thousand_take_no_time() {
    let attributes: String = (0..80_000).map(|at| format!(" a{at}=\"1\"")).collect();
    let got =
        read(&docx_of(&format!("<w:document><w:pStyle{attributes}/><w:p><w:t>x</w:t></w:p></w:document>")), "a.docx");
    assert_eq!(content(&got), "x");
}

#[test]
fn encrypted_files_are_named_so() {
    let mut compound = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".to_vec();
    compound.resize(1024, 0);
    let plain = compound.clone();
    compound.extend("EncryptedPackage".encode_utf16().flat_map(u16::to_le_bytes));
    for name in ["a.docx", "a.xlsx", "a.pptx"] {
        assert_eq!(error(&read(&compound, name)), "the file is encrypted");
        assert_eq!(error(&read(&plain, name)), "an old binary office file under a new name");
    }
    // The general purpose bit 0 of both headers of every entry.
    let mut locked = docx();
    for at in 0..locked.len() - 10 {
        match &locked[at..at + 4] {
            b"PK\x03\x04" => locked[at + 6] |= 1,
            b"PK\x01\x02" => locked[at + 8] |= 1,
            _ => {}
        }
    }
    assert_eq!(error(&read(&locked, "a.docx")), "the archive is encrypted");
}

#[test]
fn archives_that_inflate_without_end_break_a_limit() {
    let blanks = " ".repeat(8 << 20);
    let document = format!("<w:document>{blanks}</w:document>");
    let bombs = [
        (docx_of(&document), "a.docx"),
        (xlsx_of(&blanks), "a.xlsx"),
        (zip(&[("ppt/slides/slide1.xml", &document)]), "a.pptx"),
    ];
    for (bomb, name) in bombs {
        let of = |limits: Limits| extract_bytes(&bomb, &hints(name), &limits).map_err(|broken| broken.which);
        let usual = Limits::with_text(1000);
        assert_eq!(of(usual), Err(LimitKind::Ratio), "{name}");
        let patient = Limits { max_inflation_ratio: 100_000, ..usual };
        assert_eq!(of(Limits { max_inflated_bytes: 1 << 20, ..patient }), Err(LimitKind::Inflated), "{name}");
        assert_eq!(of(Limits { max_archive_entries: 0, ..patient }), Err(LimitKind::Entries), "{name}");
        assert!(of(patient).is_ok(), "{name}");
    }
}

#[test]
fn entries_that_share_bytes_break_a_limit() {
    // One stored entry, listed twice.
    let (name, text) = ("word/document.xml", "<w:document/>");
    let mut archive = Vec::new();
    let fields = |crc: u32| {
        let size = text.len() as u32;
        [
            &[20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0x5b][..],
            &crc.to_le_bytes(),
            &size.to_le_bytes(),
            &size.to_le_bytes(),
            &(name.len() as u16).to_le_bytes(),
            &[0, 0],
        ]
        .concat()
    };
    let crc = 0;
    archive.extend([b"PK\x03\x04", &fields(crc)[..], name.as_bytes(), text.as_bytes()].concat());
    let start = archive.len() as u32;
    for name in [name, "word/documenu.xml"] {
        archive
            .extend([b"PK\x01\x02\x14\0", &fields(crc)[..], &[0; 10], &0_u32.to_le_bytes(), name.as_bytes()].concat());
    }
    let size = archive.len() as u32 - start;
    archive
        .extend([b"PK\x05\x06\0\0\0\0\x02\0\x02\0", &size.to_le_bytes()[..], &start.to_le_bytes(), &[0, 0]].concat());
    let got = extract_bytes(&archive, &hints("a.docx"), &Limits::with_text(1000));
    assert_eq!(got.map_err(|broken| broken.which), Err(LimitKind::Overlap));
}
