//! Text, Markdown, CSV, JSON, HTML, and what is none of them.

use encoding_rs::{EUC_JP, Encoding, ISO_2022_JP, SHIFT_JIS, UTF_8, WINDOWS_1252};
use quittance::process::extract::{Hints, Limits, extract_bytes};
use serde_json::json;

use crate::samples::{content, error, hints, read};

const JAPANESE: &str = "請求書の送付について\nいつもお世話になっております。カタカナと漢字、ＡＢＣ。";

fn utf_16(text: &str, big: bool, bom: bool) -> Vec<u8> {
    let mark = if bom { "\u{feff}" } else { "" };
    mark.encode_utf16()
        .chain(text.encode_utf16())
        .flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() })
        .collect()
}

fn encode(text: &str, encoding: &'static Encoding) -> Vec<u8> {
    let (bytes, _, lossy) = encoding.encode(text);
    assert!(!lossy);
    bytes.into_owned()
}

#[test]
fn every_charset_is_found_and_named() {
    let french = "Le café est fermé – « déjà vu » à l’hôtel, où l’on a mangé une crème brûlée.";
    let cases: Vec<(Vec<u8>, &str, &str)> = vec![
        (JAPANESE.into(), JAPANESE, "UTF-8"),
        ([b"\xef\xbb\xbf", JAPANESE.as_bytes()].concat(), JAPANESE, "UTF-8"),
        (encode(JAPANESE, UTF_8), JAPANESE, "UTF-8"),
        (utf_16(JAPANESE, false, true), JAPANESE, "UTF-16LE"),
        (utf_16(JAPANESE, true, true), JAPANESE, "UTF-16BE"),
        (utf_16(JAPANESE, false, false), JAPANESE, "UTF-16LE"),
        (utf_16(JAPANESE, true, false), JAPANESE, "UTF-16BE"),
        (utf_16("plain words\n", false, false), "plain words", "UTF-16LE"),
        (utf_16("plain words\n", true, false), "plain words", "UTF-16BE"),
        (encode(JAPANESE, SHIFT_JIS), JAPANESE, "Shift_JIS"),
        (encode("請求書兼領収証在中", SHIFT_JIS), "請求書兼領収証在中", "Shift_JIS"),
        (encode("ﾊﾝｶｸｶﾅ の テスト", SHIFT_JIS), "ﾊﾝｶｸｶﾅ の テスト", "Shift_JIS"),
        (encode(JAPANESE, EUC_JP), JAPANESE, "EUC-JP"),
        (encode(JAPANESE, ISO_2022_JP), JAPANESE, "ISO-2022-JP"),
        (encode(french, WINDOWS_1252), french, "windows-1252"),
        (b"plain ASCII".to_vec(), "plain ASCII", "UTF-8"),
    ];
    for (bytes, text, charset) in cases {
        let got = read(&bytes, "a.txt");
        assert_eq!((content(&got), &got.meta["charset"]), (text, &json!(charset)));
        assert_eq!((got.extraction_error, got.truncated), (None, false));
    }
}

#[test]
fn a_declared_charset_is_believed_where_it_fits() {
    let declared = |bytes: &[u8], content_type: &str| {
        let hints = Hints { file_name: "a.txt".into(), content_type: Some(content_type.into()) };
        extract_bytes(bytes, &hints, &Limits::with_text(1000)).unwrap()
    };
    let latin = encode("naïve", WINDOWS_1252);
    assert_eq!(content(&declared(&latin, "text/plain; charset=\"windows-1252\"")), "naïve");
    assert_eq!(content(&declared(JAPANESE.as_bytes(), "text/plain; charset=Shift_JIS")), JAPANESE);
    assert_eq!(content(&declared(JAPANESE.as_bytes(), "text/plain; charset=nonsense")), JAPANESE);
}

#[test]
fn text_is_cut_at_its_cap_between_characters() {
    for max in [0, 1, 2, 3, 100, 101, 102] {
        let got = extract_bytes("日本語".repeat(1000).as_bytes(), &hints("a.txt"), &Limits::with_text(max)).unwrap();
        assert!(content(&got).len() <= max && content(&got).len() + 3 > max && got.truncated, "{max}");
        assert_eq!(got.meta["charset"], "UTF-8");
    }
    let got = extract_bytes(&b"x ".repeat(3 << 20), &hints("a.log"), &Limits::with_text(10)).unwrap();
    assert_eq!((content(&got), got.truncated), ("x x x x x", true));
}

#[test]
fn control_characters_never_come_through() {
    let got = read(b"a\0b\x1b[31m\x07 c\r\nd\re", "a.txt");
    assert_eq!(content(&got), "ab[31m c\nd\ne");
}

#[test]
fn source_code_and_empty_files_are_text() {
    let got = read("// 日本語のコメント\nfn main() {}\n".as_bytes(), "main.rs");
    assert_eq!((got.mime_type.as_str(), content(&got)), ("text/x-rust", "// 日本語のコメント\nfn main() {}"));
    assert_eq!(got.language.as_deref(), Some("ja"));
    let got = read(b"", "empty.txt");
    assert_eq!((content(&got), &got.extraction_error), ("", &None));
}

#[test]
fn a_text_named_docx_is_a_text() {
    let got = read("ただのテキスト".as_bytes(), "a.docx");
    assert_eq!((got.mime_type.as_str(), content(&got)), ("text/plain", "ただのテキスト"));
}

#[test]
fn markdown_has_its_first_heading_for_a_title() {
    let got = read("intro\n\n# 設計 書\n\ntext".as_bytes(), "README.md");
    assert_eq!((got.mime_type.as_str(), got.title.as_deref()), ("text/markdown", Some("設計 書")));
    assert_eq!(content(&got), "intro\n\n# 設計 書\n\ntext");
}

#[test]
fn tables_are_cells_with_their_rows_and_columns_counted() {
    let got = read(&encode("名前,値\n\"山田, 太郎\",1\n", SHIFT_JIS), "a.csv");
    assert_eq!(content(&got), "名前\t値\n山田, 太郎\t1");
    assert_eq!((&got.meta["rows"], &got.meta["columns"]), (&json!(2), &json!(2)));
    assert_eq!(got.meta["charset"], "Shift_JIS");
    let got = read(b"a\tb,c\n1\t2\n", "a.tsv");
    assert_eq!((content(&got), got.mime_type.as_str()), ("a\tb,c\n1\t2", "text/tab-separated-values"));
    let got = read(b"a,b\n\"never closed,2\n", "a.csv");
    assert_eq!(error(&got), "a quoted cell in row 2 is never closed");
    assert_eq!(content(&got), "a\tb\nnever closed,2");
}

#[test]
fn json_is_its_values_and_broken_json_is_still_text() {
    let got = read(r#"{"title":"設計","n":[1,-2.5,true],"o":{"k":"two\nlines","z":null}}"#.as_bytes(), "a.json");
    assert_eq!(content(&got), "title: 設計\nn: 1\nn: -2.5\nn: true\nk: two\nlines");
    assert_eq!((got.title.as_deref(), got.mime_type.as_str()), (Some("設計"), "application/json"));
    for broken in [r#"{"a": "cut"#, "{} trailing", "", &"[".repeat(100_000)] {
        let got = read(broken.as_bytes(), "a.json");
        assert!(error(&got).starts_with("not valid JSON: "), "{got:?}");
        assert_eq!(content(&got), broken);
    }
}

#[test]
fn html_is_what_a_reader_sees() {
    let page = r#"<!DOCTYPE html><html><head><title>表題 &amp; more</title><meta name="author" content="山田">
        <style>p { color: red }</style><script>var hidden = "<p>no</p>";</script></head>
        <body><h1>Heading</h1><p>one
        two&nbsp;<b>bo</b>ld</p><div>三<br>四</div><ul><li>a<li>b</ul>
        <table><tr><td>x</td><td>y</td></tr></table><pre>k
  l</pre><ruby>漢字<rt>かんじ</rt></ruby>です<!-- no --><template><p>no</p></template><svg><title>no</title></svg></body></html>"#;
    let got = read(page.as_bytes(), "a.html");
    assert_eq!(got.title.as_deref(), Some("表題 & more"));
    assert_eq!(content(&got), "Heading\n\none two bold\n\n三\n四\n\na\nb\n\nx\ty\n\nk\nl\n漢字です");
    assert_eq!(got.meta["author"], "山田");
}

#[test]
fn html_charset_comes_from_bom_type_or_meta() {
    let page = |charset: &str| {
        format!("<html><meta http-equiv='Content-Type' content='text/html; charset={charset}'><p>日本語の文章です")
    };
    for (charset, encoding, name) in
        [("Shift_JIS", SHIFT_JIS, "Shift_JIS"), ("euc-jp", EUC_JP, "EUC-JP"), ("utf-8", UTF_8, "UTF-8")]
    {
        let got = read(&encode(&page(charset), encoding), "a.htm");
        assert_eq!((content(&got), &got.meta["charset"]), ("日本語の文章です", &json!(name)));
    }
    let got = read(&utf_16(&page("utf-8"), false, true), "a.htm");
    assert_eq!((content(&got), &got.meta["charset"]), ("日本語の文章です", &json!("UTF-16LE")));
}

#[test]
fn deeply_nested_and_broken_html_is_read_to_its_end() {
    let deep = format!("{}deep{}", "<div>".repeat(200_000), "</div>".repeat(100_000));
    assert_eq!(content(&read(deep.as_bytes(), "a.html")), "deep");
    assert_eq!(content(&read(b"<p>a<script>never closed", "a.html")), "a");
    assert_eq!(content(&read(b"<p>a<b attr='never closed", "a.html")), "a");
    let attributes = format!("<p {}>text", "a=1 ".repeat(20_000));
    assert_eq!(content(&read(attributes.as_bytes(), "a.html")), "text");
}

#[test]
fn what_we_cannot_read_is_known_by_its_type_and_is_no_error() {
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0";
    let zip = crate::samples::zip(&[("a.txt", "x")]);
    let cases: [(&[u8], &str, &str); 4] = [
        (png, "写真.png", "image/png"),
        (&zip, "a.zip", "application/zip"),
        (b"\0\x01\x02\xff", "broken.png", "image/png"),
        (b"\0\x01\x02\xff", "blob", "application/octet-stream"),
    ];
    for (bytes, name, mime_type) in cases {
        let got = read(bytes, name);
        assert_eq!(got.mime_type, mime_type);
        assert_eq!((got.content, got.extraction_error, got.truncated), (None, None, false));
    }
}
