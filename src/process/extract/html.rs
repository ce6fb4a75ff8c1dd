//! HTML: what a reader would see, in order, by the tokenizer alone.
//!
//! No tree is built: it takes a minute on nested divs, and text needs none. Scripts, styles and
//! templates are dropped, and so are ruby readings, which would tear words apart.

use std::cell::RefCell;

use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts};

use super::read::{Bytes, Stop, Wanted};
use super::sink::Doc;
use super::{charset, read, text};

/// The standard looks for a charset in as much.
const META_BYTES: usize = 1024;
/// The tokenizer cannot be stopped, so it is fed in pieces until the text is full.
const PIECE_BYTES: usize = 64 << 10;

pub(super) fn extract(wanted: &mut Wanted<'_>, doc: &mut Doc) -> Result<(), Stop> {
    let Bytes { bytes, whole } = read::at_most(wanted.input, text::MAX_MARKUP_BYTES)?;
    let by_type = wanted.hints.content_type.as_deref().and_then(charset::of_content_type).map(str::to_owned);
    let declared = by_type.or_else(|| of_meta(&bytes));
    let decoded = charset::decode(&bytes, declared.as_deref(), whole);
    drop(bytes);
    doc.set("charset", decoded.charset);
    push(&decoded.text, doc);
    if !whole {
        doc.text.cut();
    }
    Ok(())
}

/// Gathers the text of `html` into `doc`, and its title and author.
pub(super) fn push(html: &str, doc: &mut Doc) {
    let page = Page { state: RefCell::new(State { doc, within: Within::Text, pre: 0, title: String::new() }) };
    let tokenizer = Tokenizer::new(page, TokenizerOpts::default());
    let input = BufferQueue::default();
    let mut rest = html;
    while !rest.is_empty() && !tokenizer.sink.state.borrow().doc.text.is_full() {
        let (piece, later) = rest.split_at(rest.floor_char_boundary(PIECE_BYTES));
        input.push_back(StrTendril::from(piece));
        // It would pause for a script to run, but our sink never asks for that.
        drop(tokenizer.feed(&input));
        rest = later;
    }
    tokenizer.end();
    let cut = !rest.is_empty();
    let State { doc, title, .. } = tokenizer.sink.state.into_inner();
    doc.set_title(&title);
    doc.text.end_paragraph();
    if cut {
        doc.text.cut();
    }
}

/// `charset=` of a `meta` tag, in whatever form it is written.
fn of_meta(bytes: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(META_BYTES)]).to_ascii_lowercase();
    let meta = head.split("<meta").skip(1).find(|tag| tag.contains("charset="))?;
    let value = meta.split("charset=").nth(1)?.trim_start_matches(['"', '\'', ' ']);
    let end = value.find(|c: char| !(c.is_ascii_alphanumeric() || "-_:.".contains(c))).unwrap_or(value.len());
    Some(value[..end].to_owned()).filter(|label| !label.is_empty())
}

struct Page<'a> {
    state: RefCell<State<'a>>,
}

struct State<'a> {
    doc: &'a mut Doc,
    within: Within,
    /// Open `pre` and `textarea` elements, where line breaks count.
    pre: usize,
    title: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Within {
    Text,
    Title,
    /// In an element of this end whose text nobody sees.
    Hidden,
    /// In a ruby reading, which may not be closed.
    Reading,
}

impl TokenSink for Page<'_> {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        let mut state = self.state.borrow_mut();
        match token {
            Token::CharacterTokens(text) => state.text(&text),
            Token::TagToken(tag) => return state.tag(&tag),
            Token::NullCharacterToken
            | Token::DoctypeToken(_)
            | Token::CommentToken(_)
            | Token::EOFToken
            | Token::ParseError(_) => {}
        }
        TokenSinkResult::Continue
    }
}

impl State<'_> {
    fn text(&mut self, text: &str) {
        match self.within {
            Within::Hidden | Within::Reading => {}
            Within::Title => self.title.push_str(&text[..text.floor_char_boundary(4096)]),
            Within::Text if self.pre > 0 => self.doc.text.push(text),
            Within::Text => {
                // A line break in the source is a blank on the page.
                for (at, line) in text.split(['\n', '\r', '\u{c}']).enumerate() {
                    if at > 0 {
                        self.doc.text.space();
                    }
                    self.doc.text.push(line);
                }
            }
        }
    }

    fn tag(&mut self, tag: &Tag) -> TokenSinkResult<()> {
        let name = &*tag.name;
        let opens = tag.kind == TagKind::StartTag;
        let raw = match name {
            "script" => Some((Within::Hidden, RawKind::ScriptData)),
            "style" | "iframe" | "noembed" | "noframes" | "xmp" => Some((Within::Hidden, RawKind::Rawtext)),
            "title" => Some((Within::Title, RawKind::Rcdata)),
            "textarea" => Some((Within::Text, RawKind::Rcdata)),
            _ => None,
        };
        if let Some((within, kind)) = raw {
            // A second title (of an SVG image) is not the page's.
            let within = if within == Within::Title && !self.title.is_empty() { Within::Hidden } else { within };
            self.within = if opens { within } else { Within::Text };
            // `<script/>` is XHTML's way to say that there is nothing in it.
            let raw = opens && !tag.self_closing;
            if !raw {
                self.within = Within::Text;
            }
            return if raw { TokenSinkResult::RawData(kind) } else { TokenSinkResult::Continue };
        }
        match name {
            "plaintext" if opens => return TokenSinkResult::Plaintext,
            "template" => self.within = if opens { Within::Hidden } else { Within::Text },
            "rt" | "rp" => self.within = if opens { Within::Reading } else { Within::Text },
            "ruby" => self.within = Within::Text,
            "br" => self.doc.text.push("\n"),
            "td" | "th" => self.doc.text.tab(),
            "meta" if opens => self.meta(tag),
            "pre" => {
                self.pre = if opens { self.pre + 1 } else { self.pre.saturating_sub(1) };
                self.break_at(false);
            }
            "p" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" | "table" | "ul" | "ol" | "dl" | "blockquote" | "article"
            | "section" | "header" | "footer" | "main" | "nav" | "aside" | "figure" | "hr" => self.break_at(true),
            "div" | "li" | "tr" | "dt" | "dd" | "body" | "form" | "fieldset" | "option" | "figcaption" | "address"
            | "caption" | "details" | "summary" | "thead" | "tbody" | "tfoot" => self.break_at(false),
            _ => {}
        }
        TokenSinkResult::Continue
    }

    fn break_at(&mut self, paragraph: bool) {
        if self.within == Within::Reading {
            self.within = Within::Text;
        }
        if paragraph { self.doc.text.end_paragraph() } else { self.doc.text.end_line() }
    }

    fn meta(&mut self, tag: &Tag) {
        let attribute = |name: &str| tag.attrs.iter().find(|own| &*own.name.local == name).map(|own| &*own.value);
        if let (Some(name), Some(content)) = (attribute("name"), attribute("content")) {
            for known in ["author", "description", "keywords"] {
                if name.eq_ignore_ascii_case(known) && !self.doc.meta.contains_key(known) {
                    self.doc.set(known, content);
                }
            }
        }
    }
}
