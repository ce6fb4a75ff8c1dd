//! DOCX and PPTX: the text of their parts in reading order.
//!
//! Both say text as runs in paragraphs, with tables of the same shape, so one walk serves both.
//! Left out: deleted text, field codes, ruby readings (they would tear words apart), and the
//! fallback copy that newer drawings carry for old programs.

use super::ooxml::Package;
use super::read::{Stop, Wanted};
use super::sink::Doc;
use super::xml::{Node, Xml, attribute};

pub(super) fn docx(wanted: &mut Wanted<'_>, doc: &mut Doc) -> Result<(), Stop> {
    let mut package = Package::open(wanted)?;
    package.core_properties(doc)?;
    package
        .part("word/document.xml", |xml| walk(xml, doc))?
        .ok_or_else(|| Stop::finding("no word/document.xml in it"))?;
    for prefix in ["word/header", "word/footer", "word/footnotes", "word/endnotes", "word/comments"] {
        for part in package.numbered(prefix) {
            doc.text.end_paragraph();
            package.part(&part, |xml| walk(xml, doc))?;
        }
    }
    Ok(())
}

/// Slides in the order of their numbers, which is that of their making; then the notes.
pub(super) fn pptx(wanted: &mut Wanted<'_>, doc: &mut Doc) -> Result<(), Stop> {
    let mut package = Package::open(wanted)?;
    package.core_properties(doc)?;
    let slides = package.numbered("ppt/slides/slide");
    if slides.is_empty() {
        return Err(Stop::finding("no ppt/slides in it"));
    }
    doc.set_count("slides", slides.len());
    for part in slides.iter().chain(&package.numbered("ppt/notesSlides/notesSlide")) {
        package.part(part, |xml| walk(xml, doc))?;
        doc.text.end_paragraph();
    }
    Ok(())
}

/// Where a walk is.
#[derive(Default)]
struct Place {
    /// Inside an element that holds visible text.
    in_text: bool,
    /// Open elements below one that is left out, itself included.
    hidden: usize,
    /// Open table cells.
    cells: usize,
    /// Text of a title so far, while in one.
    title: Option<String>,
}

fn walk(xml: &mut Xml<'_>, doc: &mut Doc) -> Result<(), Stop> {
    let mut place = Place::default();
    loop {
        if doc.text.is_full() {
            return Ok(());
        }
        match xml.next()? {
            Node::Open(start) => {
                let name = start.local_name();
                let name = name.as_ref();
                // Marks of a title sit inside properties, which hold no text.
                let marks_title = match name {
                    "ph" => attribute(&start, "type").is_some_and(|kind| kind == "title" || kind == "ctrTitle"),
                    "pStyle" => attribute(&start, "val").is_some_and(|style| style == "Title"),
                    _ => false,
                };
                if marks_title {
                    place.title = Some(String::new());
                }
                if place.hidden > 0 || is_hidden(name) {
                    place.hidden += 1;
                    continue;
                }
                match name {
                    "t" => place.in_text = true,
                    "tab" => doc.text.tab(),
                    "br" | "cr" => doc.text.push("\n"),
                    "noBreakHyphen" => doc.text.push("-"),
                    "tc" => place.cells += 1,
                    _ => {}
                }
            }
            Node::Text(text) if place.in_text && place.hidden == 0 => {
                doc.text.push(&text);
                if let Some(title) = place.title.as_mut().filter(|title| title.len() < 4096) {
                    title.push_str(&text);
                }
            }
            Node::Text(_) => {}
            Node::Close(_) if place.hidden > 0 => place.hidden -= 1,
            Node::Close(name) => place.close(&name, doc),
            Node::End => return Ok(()),
        }
    }
}

impl Place {
    fn close(&mut self, name: &str, doc: &mut Doc) {
        match name {
            "t" => self.in_text = false,
            "p" => {
                // Paragraphs of one cell stay in its row.
                if self.cells > 0 {
                    doc.text.space()
                } else {
                    doc.text.end_line()
                }
                match &mut self.title {
                    Some(title) if !title.trim().is_empty() => {
                        doc.set_title(title);
                        self.title = None;
                    }
                    Some(_) | None => {}
                }
            }
            "tc" => {
                self.cells = self.cells.saturating_sub(1);
                doc.text.tab();
            }
            "tr" | "sp" => {
                self.title = None;
                doc.text.end_line();
            }
            _ => {}
        }
    }
}

/// Elements whose text nobody sees; properties hold tab stops that look like tabs.
fn is_hidden(name: &str) -> bool {
    matches!(
        name,
        "pPr" | "rPr" | "tblPr" | "trPr" | "tcPr" | "sectPr" | "nvSpPr" | "delText" | "instrText" | "rt" | "Fallback"
    )
}
