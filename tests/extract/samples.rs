//! Small files of every format, and one way to read them.

use std::io::{Cursor, Write};

use quittance::process::extract::{Extraction, Hints, Limits, extract_bytes};
use zip::write::{SimpleFileOptions, ZipWriter};

pub fn hints(file_name: &str) -> Hints {
    Hints { file_name: file_name.to_owned(), content_type: None }
}

/// Read in this process with a megabyte of text.
pub fn read(bytes: &[u8], file_name: &str) -> Extraction {
    extract_bytes(bytes, &hints(file_name), &Limits::with_text(1 << 20)).unwrap()
}

#[track_caller]
pub fn content(extraction: &Extraction) -> &str {
    extraction.content.as_deref().unwrap_or_else(|| panic!("no content in {extraction:?}"))
}

#[track_caller]
pub fn error(extraction: &Extraction) -> &str {
    extraction.extraction_error.as_deref().unwrap_or_else(|| panic!("no error in {extraction:?}"))
}

pub fn zip(parts: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in parts {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

const CORE: (&str, &str) = (
    "docProps/core.xml",
    r#"<?xml version="1.0" encoding="UTF-8"?><cp:coreProperties xmlns:cp="c" xmlns:dc="d" xmlns:dcterms="t">
    <dc:title>四半期 &amp; 報告</dc:title><dc:creator>山田</dc:creator><dcterms:created>2026-11-01T00:00:00Z</dcterms:created>
    </cp:coreProperties>"#,
);

const TYPES: (&str, &str) = ("[Content_Types].xml", "<Types/>");

pub fn docx_of(document: &str) -> Vec<u8> {
    zip(&[TYPES, CORE, ("word/document.xml", document)])
}

pub fn docx() -> Vec<u8> {
    docx_of(
        r#"<?xml version="1.0"?><w:document xmlns:w="w" xmlns:mc="mc"><w:body>
        <w:p><w:pPr><w:tabs><w:tab w:val="left"/></w:tabs></w:pPr><w:r><w:t xml:space="preserve">Hello </w:t></w:r><w:r><w:t>wor</w:t></w:r><w:r><w:t>ld &lt;&#x65e5;&gt;</w:t></w:r></w:p>
        <w:p><w:r><w:ruby><w:rt><w:r><w:t>とうきょう</w:t></w:r></w:rt><w:rubyBase><w:r><w:t>東京</w:t></w:r></w:rubyBase></w:ruby><w:t>都</w:t><w:br/><w:t>second</w:t></w:r></w:p>
        <w:p><w:r><w:delText>deleted</w:delText><w:instrText>PAGE</w:instrText></w:r></w:p>
        <mc:AlternateContent><mc:Choice><w:p><w:r><w:t>box</w:t></w:r></w:p></mc:Choice><mc:Fallback><w:p><w:r><w:t>box again</w:t></w:r></w:p></mc:Fallback></mc:AlternateContent>
        <w:tbl><w:tr><w:tc><w:p><w:r><w:t>a</w:t></w:r></w:p><w:p><w:r><w:t>b</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>c</w:t></w:r></w:p></w:tc></w:tr></w:tbl>
        </w:body></w:document>"#,
    )
}

pub fn pptx() -> Vec<u8> {
    let slide = |title: &str, text: &str| {
        format!(
            r#"<p:sld xmlns:p="p" xmlns:a="a"><p:cSld><p:spTree>
            <p:sp><p:nvSpPr><p:nvPr><p:ph type="title"/></p:nvPr></p:nvSpPr><p:txBody><a:p><a:r><a:t>{title}</a:t></a:r></a:p></p:txBody></p:sp>
            <p:sp><p:txBody><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:txBody></p:sp></p:spTree></p:cSld></p:sld>"#
        )
    };
    zip(&[
        TYPES,
        ("ppt/slides/slide10.xml", &slide("Ten", "last")),
        ("ppt/slides/slide2.xml", &slide("二枚目", "middle")),
        ("ppt/slides/slide1.xml", &slide("Opening", "first")),
        (
            "ppt/notesSlides/notesSlide1.xml",
            "<p:notes xmlns:p='p' xmlns:a='a'><a:p><a:t>say hello</a:t></a:p></p:notes>",
        ),
    ])
}

pub fn xlsx() -> Vec<u8> {
    xlsx_of(
        r#"<row r="1"><c r="A1" t="s"><v>0</v></c><c r="B1" t="inlineStr"><is><t>単価</t></is></c></row>
        <row r="2"><c r="A2"><v>12</v></c><c r="B2"><v>1.5</v></c><c r="C2" t="b"><v>1</v></c><c r="D2" s="1"><v>46000</v></c></row>
        <row r="1048576"><c r="XFD1048576" t="str"><v>far away</v></c></row>"#,
    )
}

pub fn xlsx_of(rows: &str) -> Vec<u8> {
    let sheet = format!(r#"<worksheet xmlns="{MAIN}"><sheetData>{rows}</sheetData></worksheet>"#);
    zip(&[
        TYPES,
        CORE,
        (
            "_rels/.rels",
            &format!(
                r#"<Relationships xmlns="{PACKAGE}"><Relationship Id="r1" Type="{RELS}/officeDocument" Target="xl/workbook.xml"/></Relationships>"#
            ),
        ),
        (
            "xl/workbook.xml",
            &format!(
                r#"<workbook xmlns="{MAIN}" xmlns:r="{RELS}"><sheets><sheet name="売上" sheetId="1" r:id="rId1"/></sheets></workbook>"#
            ),
        ),
        (
            "xl/_rels/workbook.xml.rels",
            &format!(
                r#"<Relationships xmlns="{PACKAGE}"><Relationship Id="rId1" Type="{RELS}/worksheet" Target="worksheets/sheet1.xml"/><Relationship Id="rId2" Type="{RELS}/sharedStrings" Target="sharedStrings.xml"/><Relationship Id="rId3" Type="{RELS}/styles" Target="styles.xml"/></Relationships>"#
            ),
        ),
        (
            "xl/sharedStrings.xml",
            &format!(r#"<sst xmlns="{MAIN}" count="1" uniqueCount="1"><si><t>品名</t></si></sst>"#),
        ),
        (
            "xl/styles.xml",
            &format!(
                r#"<styleSheet xmlns="{MAIN}"><cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="14" applyNumberFormat="1"/></cellXfs></styleSheet>"#
            ),
        ),
        ("xl/worksheets/sheet1.xml", &sheet),
    ])
}

const MAIN: &str = "http://schemas.openxmlformats.org/spreadsheetml/2006/main";
const RELS: &str = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
const PACKAGE: &str = "http://schemas.openxmlformats.org/package/2006/relationships";

/// A PDF of one page. `fonts` are objects from number 6 on; the first is `/F1`.
pub fn pdf_of(content: &[u8], fonts: &[&str], trailer: &str) -> Vec<u8> {
    let mut objects: Vec<Vec<u8>> = vec![
        b"<< /Type /Catalog /Pages 2 0 R >>".to_vec(),
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_vec(),
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources << /Font << /F1 6 0 R >> >> >>".to_vec(),
        [format!("<< /Length {} >>\nstream\n", content.len()).as_bytes(), content, b"\nendstream"].concat(),
        [
            b"<< /Title (\xfe\xff".as_slice(),
            &"請求書".encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<u8>>(),
            b") /Author (Yamada) /CreationDate (D:20261101093000+09'00') >>",
        ]
        .concat(),
    ];
    objects.extend(fonts.iter().map(|font| font.as_bytes().to_vec()));
    let mut pdf = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n".to_vec();
    let mut offsets = Vec::new();
    for (at, object) in objects.iter().enumerate() {
        offsets.push(pdf.len());
        pdf.extend_from_slice(format!("{} 0 obj\n", at + 1).as_bytes());
        pdf.extend_from_slice(object);
        pdf.extend_from_slice(b"\nendobj\n");
    }
    let xref = pdf.len();
    pdf.extend_from_slice(format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1).as_bytes());
    for offset in offsets {
        pdf.extend_from_slice(format!("{offset:010} 00000 n \n").as_bytes());
    }
    let size = objects.len() + 1;
    pdf.extend_from_slice(
        format!("trailer\n<< /Size {size} /Root 1 0 R /Info 5 0 R {trailer} >>\nstartxref\n{xref}\n%%EOF\n").as_bytes(),
    );
    pdf
}

pub const HELVETICA: &str = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>";

pub fn pdf() -> Vec<u8> {
    pdf_of(b"BT /F1 12 Tf 72 700 Td (Hello world) Tj 0 -14 Td [(sec) 20 (ond) -600 (line)] TJ ET", &[HELVETICA], "")
}

/// One line of text in a Japanese font that the file does not hold.
pub fn japanese_pdf(encoding: &str, code: &[u8]) -> Vec<u8> {
    let hex: String = code.iter().map(|byte| format!("{byte:02x}")).collect();
    pdf_of(
        format!("BT /F1 12 Tf 72 700 Td <{hex}> Tj ET").as_bytes(),
        &[
            &format!(
                "<< /Type /Font /Subtype /Type0 /BaseFont /HeiseiMin-W3 /Encoding /{encoding} /DescendantFonts [7 0 R] >>"
            ),
            "<< /Type /Font /Subtype /CIDFontType0 /BaseFont /HeiseiMin-W3 /CIDSystemInfo << /Registry (Adobe) /Ordering (Japan1) /Supplement 2 >> /FontDescriptor 8 0 R /DW 1000 >>",
            "<< /Type /FontDescriptor /FontName /HeiseiMin-W3 /Flags 4 /FontBBox [-123 -257 1001 910] /ItalicAngle 0 /Ascent 709 /Descent -241 /CapHeight 709 /StemV 69 >>",
        ],
        "",
    )
}

pub fn eml() -> Vec<u8> {
    [
        "From: =?ISO-2022-JP?B?GyRCOzNFRBsoQg==?= <yamada@example.jp>\r\n",
        "To: a@example.com, B <b@example.com>\r\n",
        "Subject: =?UTF-8?B?6KuL5rGC5pu4?= 11\r\n",
        "Date: Sun, 01 Nov 2026 09:30:00 +0900\r\n",
        "Message-ID: <1@example.jp>\r\n",
        "MIME-Version: 1.0\r\n",
        "Content-Type: multipart/mixed; boundary=\"xx\"\r\n\r\n",
        "--xx\r\nContent-Type: multipart/alternative; boundary=\"yy\"\r\n\r\n",
        "--yy\r\nContent-Type: text/plain; charset=Shift_JIS\r\nContent-Transfer-Encoding: base64\r\n\r\ngrGC8YLJgr+CzQ==\r\n",
        "--yy\r\nContent-Type: text/html; charset=UTF-8\r\n\r\n<p>html twin</p>\r\n--yy--\r\n",
        "--xx\r\nContent-Type: application/pdf; name=\"=?UTF-8?B?6KuL5rGC5pu4LnBkZg==?=\"\r\n",
        "Content-Disposition: attachment\r\nContent-Transfer-Encoding: base64\r\n\r\nJVBERi0=\r\n--xx--\r\n",
    ]
    .concat()
    .into_bytes()
}

/// One good file of every format with a structure that can break.
pub fn all() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("a.docx", docx()),
        ("a.pptx", pptx()),
        ("a.xlsx", xlsx()),
        ("a.pdf", pdf()),
        ("b.pdf", japanese_pdf("UniJIS-UCS2-H", &[0x65, 0xe5, 0x67, 0x2c])),
        ("a.eml", eml()),
        ("a.html", b"<html><head><title>t</title></head><body><p>x<table><tr><td>y</table></body></html>".to_vec()),
        ("a.json", br#"{"title":"t","list":[1,2,{"a":null}]}"#.to_vec()),
        ("a.csv", b"a,b\n\"1\",2\n".to_vec()),
        ("a.md", b"# t\n\ntext\n".to_vec()),
    ]
}
