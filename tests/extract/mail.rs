//! EML: headers, bodies in several charsets, attachments by name.

use serde_json::json;

use crate::samples::{content, eml, error, read};

#[test]
fn a_mail_is_its_headers_its_text_and_the_names_of_its_attachments() {
    let got = read(&eml(), "a.eml");
    assert_eq!(content(&got), "こんにちは");
    assert_eq!((got.title.as_deref(), got.mime_type.as_str()), (Some("請求書 11"), "message/rfc822"));
    assert_eq!(got.meta["from"], json!(["山田 <yamada@example.jp>"]));
    assert_eq!(got.meta["to"], json!(["a@example.com", "B <b@example.com>"]));
    assert_eq!(got.meta["date"], "2026-11-01T09:30:00+09:00");
    assert_eq!((&got.meta["attachments"], &got.meta["attachment_count"]), (&json!(["請求書.pdf"]), &json!(1)));
    assert_eq!(got.extraction_error, None);
}

#[test]
fn a_mail_in_html_alone_is_read_as_its_page() {
    let got = read(
        b"Subject: s\nContent-Type: text/html; charset=ISO-2022-JP\n\n<style>x</style><p>\x1b$BF|K\\\x1b(B<p>two",
        "a.eml",
    );
    assert_eq!(content(&got), "日本\n\ntwo");
}

#[test]
fn a_mail_cut_short_or_locked_says_so() {
    let whole = eml();
    let got = read(&whole[..whole.len() - 20], "a.eml");
    assert_eq!((error(&got), content(&got)), ("the mail ends before its last part does", "こんにちは"));
    let got = read(b"Subject: s\nContent-Type: multipart/encrypted; boundary=x\n\n--x\n\nz\n--x--\n", "a.eml");
    assert_eq!((error(&got), got.title.as_deref()), ("the mail is encrypted", Some("s")));
    let got = read(b"Subject: s\nContent-Type: application/pkcs7-mime; smime-type=enveloped-data\n\nAAAA", "a.eml");
    assert_eq!(error(&got), "the mail is encrypted");
    assert_eq!(error(&read(b"", "a.eml")), "no mail: it has no headers");
}
