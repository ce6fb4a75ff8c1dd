//! What kind of file this is: by its content first, then by its extension, then by what S3 says.
//!
//! A name cannot make a file what it is not (a text named `.docx` is a text), with two
//! exceptions: a container that is broken or encrypted is what its name says, so that its error
//! is about that; and clean text with a text's name stays text, whatever its first letters spell
//! ("BM" is a bitmap's whole signature).

use std::io;

use file_format::FileFormat;

use super::read::Input;
use super::{Hints, charset, read};

/// Which reader a file gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Markdown,
    Csv,
    Tsv,
    Json,
    Html,
    Mail,
    Pdf,
    Docx,
    Xlsx,
    Pptx,
    /// Known by type only.
    Opaque,
}

use Kind::{Csv, Docx, Html, Json, Mail, Markdown, Opaque, Pdf, Pptx, Text, Tsv, Xlsx};

const OCTETS: &str = "application/octet-stream";
const PLAIN: &str = "text/plain";
const DOCX: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
const XLSX: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";
const PPTX: &str = "application/vnd.openxmlformats-officedocument.presentationml.presentation";

/// What is looked at to tell text from bytes.
const HEAD_BYTES: u64 = 16 << 10;

/// Text formats by extension. Source code is text whatever its extension; these have a type of
/// their own that people search by.
const TEXT_EXTENSIONS: &[(&str, Kind, &str)] = &[
    ("c", Text, "text/x-c"),
    ("cc", Text, "text/x-c++"),
    ("cfg", Text, PLAIN),
    ("conf", Text, PLAIN),
    ("cpp", Text, "text/x-c++"),
    ("css", Text, "text/css"),
    ("csv", Csv, "text/csv"),
    ("eml", Mail, "message/rfc822"),
    ("go", Text, "text/x-go"),
    ("h", Text, "text/x-c"),
    ("hpp", Text, "text/x-c++"),
    ("htm", Html, "text/html"),
    ("html", Html, "text/html"),
    ("ini", Text, PLAIN),
    ("java", Text, "text/x-java"),
    ("js", Text, "text/javascript"),
    ("json", Json, "application/json"),
    ("jsonl", Text, "application/x-ndjson"),
    ("log", Text, PLAIN),
    ("markdown", Markdown, "text/markdown"),
    ("md", Markdown, "text/markdown"),
    ("mjs", Text, "text/javascript"),
    ("ndjson", Text, "application/x-ndjson"),
    ("php", Text, "text/x-php"),
    ("pl", Text, "text/x-perl"),
    ("py", Text, "text/x-python"),
    ("rb", Text, "text/x-ruby"),
    ("rs", Text, "text/x-rust"),
    ("sh", Text, "text/x-shellscript"),
    ("sql", Text, "application/sql"),
    ("tex", Text, "text/x-tex"),
    ("text", Text, PLAIN),
    ("toml", Text, "application/toml"),
    ("ts", Text, "text/x-typescript"),
    ("tsv", Tsv, "text/tab-separated-values"),
    ("txt", Text, PLAIN),
    ("xhtml", Html, "application/xhtml+xml"),
    ("xml", Text, "text/xml"),
    ("yaml", Text, "application/yaml"),
    ("yml", Text, "application/yaml"),
];

/// The kind, and the MIME type.
pub(super) fn of(input: &mut dyn Input, hints: &Hints) -> io::Result<(Kind, String)> {
    let head = read::at_most(input, HEAD_BYTES)?;
    input.rewind()?;
    let format = match FileFormat::from_reader(&mut *input).unwrap_or_default() {
        FileFormat::ArbitraryBinaryData => container(&head.bytes),
        known => known,
    };
    let (kind, mime_type) = judge(format, &head.bytes, head.whole, hints);
    Ok((kind, mime_type.to_ascii_lowercase()))
}

/// A container whose inside is broken is still one; the library gives up on it.
fn container(head: &[u8]) -> FileFormat {
    if head.starts_with(b"PK\x03\x04") {
        FileFormat::Zip
    } else if head.starts_with(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1") {
        FileFormat::CompoundFileBinary
    } else {
        FileFormat::ArbitraryBinaryData
    }
}

fn judge(format: FileFormat, head: &[u8], whole: bool, hints: &Hints) -> (Kind, String) {
    let extension = extension(&hints.file_name);
    let office = match extension.as_str() {
        "docx" | "docm" => Some((Docx, DOCX)),
        "xlsx" | "xlsm" => Some((Xlsx, XLSX)),
        "pptx" | "pptm" => Some((Pptx, PPTX)),
        _ => None,
    };
    let named = TEXT_EXTENSIONS.iter().find(|(name, _, _)| *name == extension);
    let says_nothing = format == FileFormat::ArbitraryBinaryData || format == FileFormat::Empty;
    let known = match format {
        FileFormat::PortableDocumentFormat => Some((Pdf, "application/pdf")),
        FileFormat::OfficeOpenXmlDocument => Some((Docx, DOCX)),
        FileFormat::OfficeOpenXmlSpreadsheet => Some((Xlsx, XLSX)),
        FileFormat::OfficeOpenXmlPresentation => Some((Pptx, PPTX)),
        // An encrypted office file is a compound file; a broken one is a zip of nothing known.
        FileFormat::Zip | FileFormat::CompoundFileBinary => office,
        // Everything else, by the table above and its media type: the enum is the library's, and
        // has hundreds of variants.
        _ => None,
    };
    if let Some((kind, mime_type)) = known {
        return (kind, mime_type.to_owned());
    }
    // A PDF may have rubbish before its signature, and readers accept that.
    if extension == "pdf" && says_nothing && !head.is_empty() {
        return (Pdf, "application/pdf".to_owned());
    }
    let clean = looks_like_text(head, whole, named.is_some(), hints);
    if clean && let Some((_, kind, mime_type)) = named {
        return (*kind, (*mime_type).to_owned());
    }
    if !is_textual(format) || !clean {
        return (Opaque, opaque_type(format, says_nothing || is_textual(format), &extension, hints));
    }
    of_text(format, head, hints)
}

/// Clean text whose name says nothing: what S3 says, then how it begins.
fn of_text(format: FileFormat, head: &[u8], hints: &Hints) -> (Kind, String) {
    let declared = hints.content_type.as_deref().map(essence).unwrap_or_default();
    let by_type = TEXT_EXTENSIONS.iter().find(|(_, _, mime_type)| *mime_type == declared && declared != PLAIN);
    if let Some((_, kind, mime_type)) = by_type {
        return (*kind, (*mime_type).to_owned());
    }
    if format == FileFormat::HypertextMarkupLanguage || begins_as_html(head) {
        return (Html, "text/html".to_owned());
    }
    let own = format.media_type();
    let own = if own == OCTETS || format == FileFormat::Empty { PLAIN } else { own };
    (Text, if declared.starts_with("text/") && own == PLAIN { declared } else { own.to_owned() })
}

/// Formats that are text for us, as the library names them.
fn is_textual(format: FileFormat) -> bool {
    let media_type = format.media_type();
    media_type.starts_with("text/")
        || media_type.ends_with("+xml")
        || matches!(format, FileFormat::ArbitraryBinaryData | FileFormat::Empty)
}

/// The type of a file we do not read.
fn opaque_type(format: FileFormat, unknown: bool, extension: &str, hints: &Hints) -> String {
    if !unknown {
        return format.media_type().to_owned();
    }
    let by_extension = FileFormat::from_extension(extension).first().map(|format| format.media_type().to_owned());
    let by_type = || hints.content_type.as_deref().map(essence).filter(|essence| essence.contains('/'));
    by_extension.or_else(by_type).unwrap_or_else(|| OCTETS.to_owned())
}

/// Lower case, without the dot; empty where there is none.
pub(super) fn extension(file_name: &str) -> String {
    match file_name.rsplit_once('.') {
        // `.profile` is a name, not an extension.
        Some((stem, extension)) if !stem.is_empty() => extension.to_ascii_lowercase(),
        Some(_) | None => String::new(),
    }
}

/// A content type without its parameters.
fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn begins_as_html(head: &[u8]) -> bool {
    let start = String::from_utf8_lossy(&head[..head.len().min(512)]);
    let start = start.trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
    start.starts_with("<!doctype html") || start.starts_with("<html")
}

/// Whether bytes decode to something a person may have typed. One character in fifty may be odd:
/// logs hold stray control characters. A text's name makes up for a charset that is not found.
fn looks_like_text(head: &[u8], whole: bool, named: bool, hints: &Hints) -> bool {
    let declared = hints.content_type.as_deref().and_then(charset::of_content_type);
    let text = charset::decode(head, declared, whole).text;
    let is_odd = |c: char| match c {
        '\t' | '\n' | '\r' | '\u{c}' | '\u{1b}' => false,
        '\u{fffd}' => !named,
        c => c.is_control(),
    };
    let odd = text.chars().filter(|c| is_odd(*c)).count();
    // A short line with two stray bytes is a line all the same, if it is named so.
    odd * 50 <= text.chars().count() + if named { 100 } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn kind(bytes: &[u8], name: &str, content_type: Option<&str>) -> (Kind, String) {
        let hints = Hints { file_name: name.to_owned(), content_type: content_type.map(str::to_owned) };
        of(&mut Cursor::new(bytes), &hints).unwrap()
    }

    #[test]
    fn content_rules_then_the_name_then_the_content_type() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0";
        let text = "ただのテキスト".as_bytes();
        type Case<'a> = (&'a [u8], &'a str, Option<&'a str>, Kind, &'a str);
        let cases: [Case<'_>; 18] = [
            (png, "a.txt", Some("text/plain"), Opaque, "image/png"),
            (text, "a.docx", Some(DOCX), Text, PLAIN),
            (text, "a", None, Text, PLAIN),
            (text, "a.rs", Some("binary/octet-stream"), Text, "text/x-rust"),
            (text, "README.MD", None, Markdown, "text/markdown"),
            (text, "a.dat", Some("text/csv; charset=utf-8"), Csv, "text/csv"),
            (text, "a.dat", Some("text/x-own"), Text, "text/x-own"),
            (b"", "a.txt", None, Text, PLAIN),
            (b"", "a", None, Text, PLAIN),
            (b"BM is how I sign", "a.txt", None, Text, PLAIN),
            (b"<!DOCTYPE html><p>x", "a", None, Html, "text/html"),
            (b"%PDF-1.4\n", "a.docx", None, Pdf, "application/pdf"),
            (b"PK\x03\x04 broken \xff\xfe\0\0", "a.xlsx", None, Xlsx, XLSX),
            (b"PK\x03\x04 broken \xff\xfe\0\0", "a", None, Opaque, "application/zip"),
            (b"\0\x01\x02\x03\xff\xfe\xfd", "a.png", None, Opaque, "image/png"),
            (b"\0\x01\x02\x03\xff\xfe\xfd", "a", Some("video/x-own; a=b"), Opaque, "video/x-own"),
            (b"\0\x01\x02\x03\xff\xfe\xfd", "a.txt", None, Opaque, PLAIN),
            (b"\0\x01\x02\x03\xff\xfe\xfd", "../../etc/x", None, Opaque, OCTETS),
        ];
        for (bytes, name, content_type, expected, mime_type) in cases {
            assert_eq!(kind(bytes, name, content_type), (expected, mime_type.to_owned()), "{name} {content_type:?}");
        }
    }
}
