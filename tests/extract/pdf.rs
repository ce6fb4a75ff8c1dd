//! PDF, by hand: lines and words, Japanese without its fonts, and files that are broken.

use encoding_rs::SHIFT_JIS;
use serde_json::json;

use crate::samples::{HELVETICA, content, error, japanese_pdf, pdf, pdf_of, read};

#[test]
fn lines_and_words_are_found_by_where_glyphs_stand() {
    let got = read(&pdf(), "a.pdf");
    assert_eq!(content(&got), "Hello world\nsecond line");
    assert_eq!((got.title.as_deref(), got.mime_type.as_str()), (Some("請求書"), "application/pdf"));
    assert_eq!((&got.meta["pages"], &got.meta["author"]), (&json!(1), &json!("Yamada")));
    assert_eq!(got.meta["created"], "2026-11-01T09:30:00+09:00");
    assert_eq!(got.extraction_error, None);
}

#[test]
fn japanese_is_read_in_fonts_that_are_not_embedded() {
    let text = "日本語の請求書";
    let ucs2: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let (shift_jis, _, _) = SHIFT_JIS.encode(text);
    for (encoding, code) in
        [("UniJIS-UCS2-H", &ucs2[..]), ("UniJIS-UTF16-H", &ucs2), ("90ms-RKSJ-H", &shift_jis), ("UniJIS-UCS2-V", &ucs2)]
    {
        let got = read(&japanese_pdf(encoding, code), "a.pdf");
        assert_eq!(content(&got), text, "{encoding}");
        assert_eq!(got.language.as_deref(), Some("ja"), "{encoding}");
    }
}

#[test]
fn text_painted_twice_for_weight_is_text_once() {
    let got = read(&pdf_of(b"BT /F1 12 Tf 72 700 Td (A) Tj ET BT /F1 12 Tf 72.2 700 Td (A) Tj ET BT /F1 12 Tf 72 650 Td 3 Tr (unseen) Tj ET", &[HELVETICA], ""), "a.pdf");
    assert_eq!(content(&got), "A\nunseen");
}

#[test]
fn an_encrypted_pdf_is_named_so() {
    let lock = format!(
        "/ID [<{0}> <{0}>] /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <{1}> /U <{1}> >>",
        "00".repeat(16),
        "ab".repeat(32)
    );
    let got = read(&pdf_of(b"BT ET", &[HELVETICA], &lock), "a.pdf");
    assert_eq!((error(&got), content(&got)), ("the file is encrypted", ""));
    assert_eq!(got.mime_type, "application/pdf");
}

#[test]
fn a_pdf_cut_short_says_so_and_gives_what_it_has() {
    let whole = pdf();
    for length in 5..whole.len() - 8 {
        let got = read(&whole[..length], "a.pdf");
        assert!(got.extraction_error.is_some(), "{length}: {got:?}");
    }
    let got = read(&whole[..whole.len() - 100], "a.pdf");
    assert_eq!((error(&got), content(&got)), ("the file was cut short", "Hello world\nsecond line"));
    assert_eq!(error(&read(b"%PDF-1.7 and nothing more", "a.pdf")), "not a readable PDF");
}

#[test]
fn objects_nested_without_end_do_no_harm() {
    for nest in ["[", "<<", "<< /A "] {
        let content = format!("BT /F1 12 Tf (x) Tj ET {}", nest.repeat(10_000));
        let _ = read(&pdf_of(content.as_bytes(), &[HELVETICA], ""), "a.pdf");
        let _ = read(&pdf_of(b"BT ET", &[HELVETICA, &nest.repeat(10_000)], ""), "a.pdf");
        let _ = read(&pdf_of(b"BT ET", &[HELVETICA], &nest.repeat(10_000)), "a.pdf");
    }
    // A page tree and a form that hold themselves.
    let looped = pdf_of(b"/F1 Do", &[HELVETICA], "").windows(1).flatten().copied().collect::<Vec<u8>>();
    let looped = String::from_utf8_lossy(&looped).replace("/Kids [3 0 R]", "/Kids [2 0 R]");
    let _ = read(looped.as_bytes(), "a.pdf");
}
