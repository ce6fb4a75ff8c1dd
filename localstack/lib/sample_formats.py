"""Builders of small, valid office, PDF and mail files from plain text, with the standard library alone.

Promise the same bytes for the same text on one machine (fixed times, fixed order); what zlib packs may differ
between zlib versions, so make_samples.py compares the members of an archive, not the archive. Only what a sample
needs: no styles, no images.
"""
import io
import zipfile
from xml.sax.saxutils import escape

OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'


def _zip(members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in members.items():
            info = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, (HEAD + text).encode())
    return out.getvalue()


def _relations(*targets):
    """(kind or full type, target) pairs; ids are rId1, rId2, …"""
    lines = "".join(f'<Relationship Id="rId{n}" Type="{kind if ":" in kind else OFFICE + "/" + kind}" Target="{to}"/>'
                    for n, (kind, to) in enumerate(targets, 1))
    return f'<Relationships xmlns="{PACKAGE}/relationships">{lines}</Relationships>'


def _package(main, main_type, parts, title, author):
    """The parts every office file has, around its own: `parts` is name -> (content type or None, xml)."""
    types = "".join(f'<Override PartName="/{name}" ContentType="application/vnd.openxmlformats-{kind}+xml"/>'
                    for name, (kind, _) in {**parts, main: (main_type, "")}.items() if kind)
    core = (f'<cp:coreProperties xmlns:cp="{PACKAGE}/metadata/core-properties"'
            ' xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:dcterms="http://purl.org/dc/terms/"'
            ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
            f"<dc:title>{escape(title)}</dc:title><dc:creator>{escape(author)}</dc:creator>"
            '<dcterms:created xsi:type="dcterms:W3CDTF">2026-01-01T00:00:00Z</dcterms:created>'
            "</cp:coreProperties>")
    return _zip({
        "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/>' + types +
        '<Override PartName="/docProps/core.xml"'
        ' ContentType="application/vnd.openxmlformats-package.core-properties+xml"/></Types>',
        "_rels/.rels": _relations(("officeDocument", main),
                                  (f"{PACKAGE}/relationships/metadata/core-properties", "docProps/core.xml")),
        "docProps/core.xml": core, **{name: xml for name, (_, xml) in parts.items()}})


def docx(title, author, paragraphs, table=()):
    """The second half of each paragraph is a run of its own, as Word likes to split them."""
    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'

    def paragraph(text):
        runs = (text[:len(text) // 2], text[len(text) // 2:])
        return "<w:p>" + "".join(f'<w:r><w:t xml:space="preserve">{escape(run)}</w:t></w:r>' for run in runs) + "</w:p>"

    body = "".join(map(paragraph, [title, *paragraphs]))
    if table:
        rows = "".join("<w:tr>" + "".join(f"<w:tc><w:tcPr/>{paragraph(cell)}</w:tc>" for cell in row) + "</w:tr>"
                       for row in table)
        grid = '<w:gridCol w:w="2400"/>' * len(table[0])
        body += f'<w:tbl><w:tblPr/><w:tblGrid>{grid}</w:tblGrid>{rows}</w:tbl><w:p/>'
    main = f"<w:document {space}><w:body>{body}<w:sectPr/></w:body></w:document>"
    return _package("word/document.xml", "officedocument.wordprocessingml.document.main", {
        "word/document.xml": (None, main)}, title, author)


def xlsx(title, author, sheets):
    """`sheets` is name -> rows; texts are shared strings, numbers are numbers."""
    space = f'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" xmlns:r="{OFFICE}"'
    shared, parts, count = {}, {}, 0

    def cell(at, value):
        if isinstance(value, str):
            return f'<c r="{at}" t="s"><v>{shared.setdefault(value, len(shared))}</v></c>'
        return f'<c r="{at}"><v>{value}</v></c>'

    for number, rows in enumerate(sheets.values(), 1):
        lines = "".join(f'<row r="{y}">' + "".join(cell(f"{chr(64 + x)}{y}", value) for x, value in enumerate(row, 1))
                        + "</row>" for y, row in enumerate(rows, 1))
        count += sum(isinstance(value, str) for row in rows for value in row)
        parts[f"xl/worksheets/sheet{number}.xml"] = (
            "officedocument.spreadsheetml.worksheet", f"<worksheet {space}><sheetData>{lines}</sheetData></worksheet>")
    strings = "".join(f'<si><t xml:space="preserve">{escape(text)}</t></si>' for text in shared)
    names = "".join(f'<sheet name="{escape(name)}" sheetId="{n}" r:id="rId{n}"/>' for n, name in enumerate(sheets, 1))
    parts["xl/sharedStrings.xml"] = ("officedocument.spreadsheetml.sharedStrings",
                                     f'<sst {space} count="{count}" uniqueCount="{len(shared)}">{strings}</sst>')
    parts["xl/workbook.xml"] = (None, f"<workbook {space}><sheets>{names}</sheets></workbook>")
    parts["xl/_rels/workbook.xml.rels"] = (None, _relations(
        *(("worksheet", f"worksheets/sheet{n}.xml") for n in range(1, len(sheets) + 1)),
        ("sharedStrings", "sharedStrings.xml")))
    return _package("xl/workbook.xml", "officedocument.spreadsheetml.sheet.main", parts, title, author)


def pptx(title, author, slides):
    """`slides` is a list of (heading, lines). Master, layout and theme are the smallest that readers accept."""
    space = ('xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
             f'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" xmlns:r="{OFFICE}"')
    group = ('<p:nvGrpSpPr><p:cNvPr id="1" name=""/><p:cNvGrpSpPr/><p:nvPr/></p:nvGrpSpPr><p:grpSpPr/>')
    empty = f"<p:cSld><p:spTree>{group}</p:spTree></p:cSld>"
    map_ = ('<p:clrMap bg1="lt1" tx1="dk1" bg2="lt2" tx2="dk2" accent1="accent1" accent2="accent2" accent3="accent3"'
            ' accent4="accent4" accent5="accent5" accent6="accent6" hlink="hlink" folHlink="folHlink"/>')
    names = ("dk1", "lt1", "dk2", "lt2", *(f"accent{n}" for n in range(1, 7)), "hlink", "folHlink")
    colours = "".join(f'<a:{name}><a:srgbClr val="336699"/></a:{name}>' for name in names)
    fonts = '<a:latin typeface="Arial"/><a:ea typeface=""/><a:cs typeface=""/>'
    fill, line = '<a:solidFill><a:schemeClr val="phClr"/></a:solidFill>', '<a:ln><a:solidFill><a:schemeClr val="phClr"/></a:solidFill></a:ln>'
    theme = (f'<a:theme {space} name="plain"><a:themeElements><a:clrScheme name="plain">{colours}</a:clrScheme>'
             f'<a:fontScheme name="plain"><a:majorFont>{fonts}</a:majorFont><a:minorFont>{fonts}</a:minorFont></a:fontScheme>'
             f'<a:fmtScheme name="plain"><a:fillStyleLst>{fill * 3}</a:fillStyleLst><a:lnStyleLst>{line * 3}</a:lnStyleLst>'
             '<a:effectStyleLst>' + '<a:effectStyle><a:effectLst/></a:effectStyle>' * 3 + '</a:effectStyleLst>'
             f'<a:bgFillStyleLst>{fill * 3}</a:bgFillStyleLst></a:fmtScheme></a:themeElements></a:theme>')

    def shape(number, kind, lines):
        text = "".join(f"<a:p><a:r><a:t>{escape(line)}</a:t></a:r></a:p>" for line in lines)
        return (f'<p:sp><p:nvSpPr><p:cNvPr id="{number}" name="{kind} {number}"/><p:cNvSpPr/><p:nvPr>'
                f'<p:ph type="{kind}"/></p:nvPr></p:nvSpPr><p:spPr/><p:txBody><a:bodyPr/>{text}</p:txBody></p:sp>')

    part = "officedocument.presentationml."
    ids = "".join(f'<p:sldId id="{255 + n}" r:id="rId{n + 1}"/>' for n in range(1, len(slides) + 1))
    parts = {
        "ppt/presentation.xml": (None, f'<p:presentation {space}><p:sldMasterIdLst><p:sldMasterId id="2147483648"'
                                 f' r:id="rId1"/></p:sldMasterIdLst><p:sldIdLst>{ids}</p:sldIdLst>'
                                 '<p:sldSz cx="9144000" cy="6858000"/><p:notesSz cx="6858000" cy="9144000"/>'
                                 "</p:presentation>"),
        "ppt/_rels/presentation.xml.rels": (None, _relations(
            ("slideMaster", "slideMasters/slideMaster1.xml"),
            *(("slide", f"slides/slide{n}.xml") for n in range(1, len(slides) + 1)))),
        "ppt/slideMasters/slideMaster1.xml": (part + "slideMaster", f'<p:sldMaster {space}>{empty}{map_}<p:sldLayoutIdLst>'
                                              '<p:sldLayoutId id="2147483649" r:id="rId1"/></p:sldLayoutIdLst></p:sldMaster>'),
        "ppt/slideMasters/_rels/slideMaster1.xml.rels": (None, _relations(
            ("slideLayout", "../slideLayouts/slideLayout1.xml"), ("theme", "../theme/theme1.xml"))),
        "ppt/slideLayouts/slideLayout1.xml": (part + "slideLayout", f"<p:sldLayout {space}>{empty}</p:sldLayout>"),
        "ppt/slideLayouts/_rels/slideLayout1.xml.rels": (None, _relations(
            ("slideMaster", "../slideMasters/slideMaster1.xml"))),
        "ppt/theme/theme1.xml": ("officedocument.theme", theme)}
    for number, (heading, lines) in enumerate(slides, 1):
        tree = group + shape(2, "title", [heading]) + shape(3, "body", lines)
        parts[f"ppt/slides/slide{number}.xml"] = (
            part + "slide", f"<p:sld {space}><p:cSld><p:spTree>{tree}</p:spTree></p:cSld></p:sld>")
        parts[f"ppt/slides/_rels/slide{number}.xml.rels"] = (None, _relations(
            ("slideLayout", "../slideLayouts/slideLayout1.xml")))
    return _package("ppt/presentation.xml", part + "presentation.main", parts, title, author)


# ---- PDF

LATIN = ("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",)


def japanese(base, cmap):
    """A font that is not embedded, with a predefined CMap: common in Japanese files."""
    return (f"<< /Type /Font /Subtype /Type0 /BaseFont /{base}-{cmap} /Encoding /{cmap} /DescendantFonts [@1 0 R] >>",
            f"<< /Type /Font /Subtype /CIDFontType0 /BaseFont /{base} /DW 1000 /CIDSystemInfo"
            " << /Registry (Adobe) /Ordering (Japan1) /Supplement 2 >> /FontDescriptor @2 0 R >>",
            f"<< /Type /FontDescriptor /FontName /{base} /Flags 4 /FontBBox [-92 -250 1010 922] /ItalicAngle 0"
            " /Ascent 752 /Descent -221 /CapHeight 737 /StemV 114 >>")


def pdf(title, pages, font, encoding, filtered=False):
    """`pages` is a list of lists of lines. `encoding` is that of the font's CMap."""
    hexed = encoding != "cp1252"
    objects = {1: b"<< /Type /Catalog /Pages 2 0 R >>"}
    first_font = 4
    for offset, text in enumerate(font):
        for step in (1, 2):
            text = text.replace(f"@{step} ", f"{first_font + step} ")
        objects[first_font + offset] = text.encode()
    number, kids = first_font + len(font), []
    for lines in pages:
        shown = []
        for line in lines:
            raw = line.encode(encoding)
            escaped = raw.replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")
            shown.append((b"<%s>" % raw.hex().encode() if hexed else b"(%s)" % escaped) + b" Tj T*")
        content = b"BT /F1 12 Tf 16 TL 72 760 Td " + b" ".join(shown) + b" ET"
        extra = b""
        if filtered:
            content, extra = content.hex().encode() + b">", b" /Filter /ASCIIHexDecode"
        objects[number] = (b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R /Resources"
                           b" << /Font << /F1 %d 0 R >> >> >>" % (number + 1, first_font))
        objects[number + 1] = b"<< /Length %d%s >>\nstream\n%s\nendstream" % (len(content), extra, content)
        kids.append(number)
        number += 2
    objects[2] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (
        b" ".join(b"%d 0 R" % kid for kid in kids), len(kids))
    objects[3] = b"<< /Title <%s> /Producer (quittance samples) >>" % (
        "\ufeff" + title).encode("utf-16-be").hex().encode()
    out, offsets = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n"), {}
    for key in sorted(objects):
        offsets[key] = len(out)
        out += b"%d 0 obj\n%s\nendobj\n" % (key, objects[key])
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    for key in sorted(objects):
        out += b"%010d 00000 n \n" % offsets[key]
    out += b"trailer\n<< /Size %d /Root 1 0 R /Info 3 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    return bytes(out)
