//! PDF: the glyphs of each page as text, in the order in which they are painted.
//!
//! Lines and words are found by where glyphs stand, since PDF has neither. Text in fonts that
//! are not embedded is read too (Japanese forms), by the predefined character maps.
//! Refuses to do: pictures, and text that is only a picture.

use hayro_interpret::font::{Glyph, GlyphRun};
use hayro_interpret::hayro_cmap::{BfString, WritingMode};
use hayro_interpret::kurbo::{BezPath, Point, Rect, Vec2};
use hayro_interpret::{
    BlendMode, ClipPath, Context, Device, DrawMode, DrawProps, Image, ImageDrawProps, InterpreterCache,
    InterpreterSettings, SoftMask, interpret_page,
};
use hayro_syntax::object::DateTime;
use hayro_syntax::{DecryptionError, LoadPdfError, Pdf};

use super::read::{Bytes, Stop, Wanted};
use super::sink::{Doc, Sink};
use super::{charset, read};

/// Glyph space has as many units in an em.
const UNITS_PER_EM: f64 = 1000.0;

pub(super) fn extract(wanted: &mut Wanted<'_>, doc: &mut Doc) -> Result<(), Stop> {
    let Bytes { bytes, whole } = read::at_most(wanted.input, wanted.limits.max_whole_bytes)?;
    if !whole {
        return Err(Stop::finding(format!("a PDF of more than {} bytes is not read", wanted.limits.max_whole_bytes)));
    }
    // What readers look for at the end; without it the file was cut short, and what can still
    // be read of it is read.
    let ended = bytes[bytes.len().saturating_sub(2048)..].windows(5).any(|window| window == b"%%EOF");
    let pdf = Pdf::new(bytes).map_err(|error| Stop::finding(complaint(error)))?;
    metadata(&pdf, doc);
    let pages = pdf.pages();
    doc.set_count("pages", pages.len());
    let cache = InterpreterCache::new();
    let mut device = TextDevice { sink: &mut doc.text, pen: None, unreadable: 0, readable: 0 };
    for page in pages.iter() {
        // No bounds: what is cut off on paper is still text.
        let everywhere = Rect::new(f64::from(i32::MIN), f64::from(i32::MIN), f64::from(i32::MAX), f64::from(i32::MAX));
        let mut context =
            Context::new(Default::default(), everywhere, &cache, pdf.xref(), InterpreterSettings::default());
        interpret_page(page, &mut context, &mut device);
        device.end_page();
        if device.sink.is_full() {
            break;
        }
    }
    let (readable, unreadable) = (device.readable, device.unreadable);
    if pages.is_empty() {
        Err(Stop::finding("no pages in it"))
    } else if !ended {
        Err(Stop::finding("the file was cut short"))
    } else if unreadable > readable {
        Err(Stop::finding(format!("{unreadable} of {} glyphs stand for no known character", unreadable + readable)))
    } else {
        Ok(())
    }
}

fn complaint(error: LoadPdfError) -> &'static str {
    match error {
        LoadPdfError::Decryption(DecryptionError::PasswordProtected) => "the file is encrypted",
        LoadPdfError::Decryption(DecryptionError::UnsupportedAlgorithm) => "the file is encrypted in an unknown way",
        LoadPdfError::Decryption(DecryptionError::MissingIDEntry | DecryptionError::InvalidEncryption) => {
            "the file's encryption is broken"
        }
        LoadPdfError::Invalid => "not a readable PDF",
    }
}

fn metadata(pdf: &Pdf, doc: &mut Doc) {
    let known = pdf.metadata();
    if let Some(title) = &known.title {
        doc.set_title(&text_string(title));
    }
    for (name, value) in [("author", &known.author), ("subject", &known.subject), ("keywords", &known.keywords)] {
        if let Some(value) = value {
            doc.set(name, &text_string(value));
        }
    }
    for (name, date) in [("created", &known.creation_date), ("modified", &known.modification_date)] {
        if let Some(date) = date {
            doc.set(name, &rfc_3339(date));
        }
    }
}

/// UTF-16 or UTF-8 with a BOM, or PDFDocEncoding, in whose place Japanese programs write
/// Shift_JIS.
fn text_string(bytes: &[u8]) -> String {
    charset::decode(bytes, None, true).text
}

fn rfc_3339(date: &DateTime) -> String {
    let DateTime { year, month, day, hour, minute, second, utc_offset_hour, utc_offset_minute } = date;
    let zone = if (*utc_offset_hour, *utc_offset_minute) == (0, 0) {
        "Z".to_owned()
    } else {
        format!("{utc_offset_hour:+03}:{utc_offset_minute:02}")
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{zone}")
}

/// Where the last glyph ended.
struct Pen {
    start: Point,
    end: Point,
    last: char,
}

struct TextDevice<'a> {
    sink: &'a mut Sink,
    pen: Option<Pen>,
    readable: usize,
    unreadable: usize,
}

impl TextDevice<'_> {
    fn end_page(&mut self) {
        self.pen = None;
        self.sink.end_paragraph();
    }

    fn show(&mut self, text: &str, start: Point, along: Vec2, advance: f64, em: f64) {
        let (Some(first), Some(last)) = (text.chars().next(), text.chars().next_back()) else { return };
        if let Some(pen) = &self.pen {
            // Bold by painting twice: the same character, in the same place.
            if pen.last == last && text.chars().count() == 1 && (start - pen.start).hypot() < em * 0.1 {
                return;
            }
            let step = start - pen.end;
            let (forth, across) = (step.dot(along), step.cross(along).abs());
            // Japanese is set with air between characters, not words.
            let wide = if is_wide(pen.last) && is_wide(first) { 0.6 } else { 0.2 };
            if across > em * 0.6 || forth < -em {
                self.sink.end_line();
            } else if forth > em * wide {
                self.sink.space();
            }
        }
        self.sink.push(text);
        self.pen = Some(Pen { start, end: start + along * advance, last });
    }
}

/// Scripts set without blanks between words.
fn is_wide(c: char) -> bool {
    matches!(c, '\u{2e80}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{ff00}'..='\u{ffef}' | '\u{20000}'..='\u{3ffff}')
}

impl<'a> Device<'a> for TextDevice<'_> {
    fn draw_glyph_run(&mut self, run: &GlyphRun<'_, 'a>, props: DrawProps<'a>, _: &DrawMode) {
        for glyph in run.glyphs() {
            let unicode = glyph.as_unicode();
            let mut utf_8 = [0; 4];
            let text = match &unicode {
                Some(BfString::Char(c)) => &*c.encode_utf8(&mut utf_8),
                Some(BfString::String(text)) => text,
                None => {
                    self.unreadable += 1;
                    continue;
                }
            };
            self.readable += 1;
            let transform = props.transform * glyph.transform();
            let start = transform * Point::ZERO;
            let to = |x, y| transform * Point::new(x, y) - start;
            let em = to(0.0, UNITS_PER_EM).hypot();
            let (direction, advance) = match run.writing_mode() {
                WritingMode::Horizontal => (to(UNITS_PER_EM, 0.0), advance(glyph).unwrap_or(UNITS_PER_EM / 2.0)),
                WritingMode::Vertical => (to(0.0, -UNITS_PER_EM), UNITS_PER_EM),
            };
            let length = direction.hypot();
            // A font of no size paints nothing.
            if length.is_finite() && length > 0.0 && em > 0.0 {
                self.show(text, start, direction / length, advance / UNITS_PER_EM * length, em);
            }
        }
    }

    fn draw_path(&mut self, _: &BezPath, _: DrawProps<'a>, _: &DrawMode) {}
    fn push_clip_path(&mut self, _: &ClipPath) {}
    fn push_transparency_group(&mut self, _: f32, _: Option<SoftMask<'a>>, _: BlendMode) {}
    fn draw_image(&mut self, _: Image<'a, '_>, _: ImageDrawProps<'a>) {}
    fn pop_clip(&mut self) {}
    fn pop_transparency_group(&mut self) {}
}

/// How far the next glyph stands, in glyph space.
fn advance(glyph: &Glyph<'_>) -> Option<f64> {
    match glyph {
        Glyph::Outline(glyph) => glyph.advance_width(),
        Glyph::Type3(glyph) => glyph.advance_width(),
    }
    .map(f64::from)
}
