//! Where text is gathered: cleaned, collapsed and capped on the way in.
//!
//! Promises: at most `max_text_bytes` bytes, cut between characters; no control characters but
//! `\n` and `\t`; runs of blanks become one, runs of empty lines become one. A format need not
//! know any of this: it pushes what it finds and stops when told that the sink is full.

use std::collections::BTreeMap;

use serde_json::Value;

/// Longest title and longest text in the metadata, characters.
pub(super) const MAX_META_CHARS: usize = 512;
/// Most items of a list in the metadata.
const MAX_META_ITEMS: usize = 100;
/// Longest `extraction_error`, characters.
pub(super) const MAX_ERROR_CHARS: usize = 512;

/// Text under a cap.
pub(super) struct Sink {
    text: String,
    max_bytes: usize,
    full: bool,
    /// Line breaks seen since the last visible character: at most two are written.
    breaks: usize,
    /// Blanks seen since then, as the one character they become.
    blank: Option<char>,
}

impl Sink {
    pub fn new(max_bytes: usize) -> Self {
        Self { text: String::new(), max_bytes, full: false, breaks: 0, blank: None }
    }

    /// Takes text as it comes; blanks and breaks at its edges count.
    pub fn push(&mut self, text: &str) {
        let mut rest = text;
        while !self.full
            && let Some(first) = rest.chars().next()
        {
            // Words at once: by far the most of a text.
            let length = rest.find(|c| !is_visible(c)).unwrap_or(rest.len());
            if length > 0 {
                self.push_visible(&rest[..length]);
            } else {
                self.push_blank(first);
            }
            rest = &rest[length.max(first.len_utf8())..];
        }
    }

    /// A line ends here, unless it has already.
    pub fn end_line(&mut self) {
        self.breaks = self.breaks.max(1);
    }

    /// A paragraph ends here.
    pub fn end_paragraph(&mut self) {
        self.breaks = 2;
    }

    /// A cell ends here.
    pub fn tab(&mut self) {
        self.blank = Some('\t');
    }

    /// A word ends here.
    pub fn space(&mut self) {
        self.blank.get_or_insert(' ');
    }

    /// More text would be dropped: no use in reading on.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// There is more text than was pushed.
    pub fn cut(&mut self) {
        self.full = true;
    }

    /// The text, and whether it was cut.
    pub fn finish(self) -> (String, bool) {
        (self.text, self.full)
    }

    fn push_blank(&mut self, c: char) {
        match c {
            '\n' | '\u{2028}' | '\u{2029}' | '\u{c}' => self.breaks += 1,
            // CR LF is one break by its LF; a lone CR (old Macs) is told apart by `unify_breaks`.
            '\r' => {}
            '\t' => self.blank = Some('\t'),
            c if c.is_whitespace() => {
                // One blank of a kind stays as it is (U+3000 is content in Japanese); a run
                // becomes one plain blank, or a tab if there was one in it.
                self.blank = match self.blank {
                    None if c == '\u{3000}' => Some(c),
                    Some('\t') => Some('\t'),
                    None | Some(_) => Some(' '),
                }
            }
            _ => {}
        }
    }

    fn push_visible(&mut self, word: &str) {
        let gap = match (self.breaks, self.blank) {
            _ if self.text.is_empty() => "",
            (0, None) => "",
            (0, Some('\t')) => "\t",
            (0, Some('\u{3000}')) => "\u{3000}",
            (0, Some(_)) => " ",
            (1, _) => "\n",
            (2.., _) => "\n\n",
        };
        let room = self.max_bytes.saturating_sub(self.text.len() + gap.len());
        let kept = &word[..word.floor_char_boundary(room)];
        self.full = kept.len() < word.len();
        if !kept.is_empty() {
            self.text.push_str(gap);
            self.text.push_str(kept);
            (self.breaks, self.blank) = (0, None);
        }
    }
}

/// Neither a blank nor noise. The first line says nothing new; it is quick.
fn is_visible(c: char) -> bool {
    matches!(c, '!'..='~' | '\u{3001}'..='\u{d7ff}') || !(c <= ' ' || c.is_whitespace() || is_noise(c))
}

/// Control characters, and characters that only ever mark an encoding.
fn is_noise(c: char) -> bool {
    c.is_control() || matches!(c, '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// What is gathered from one file.
pub(super) struct Doc {
    pub text: Sink,
    pub title: Option<String>,
    pub meta: BTreeMap<String, Value>,
}

impl Doc {
    pub fn new(max_text_bytes: usize) -> Self {
        Self { text: Sink::new(max_text_bytes), title: None, meta: BTreeMap::new() }
    }

    /// The first title that says anything stays.
    pub fn set_title(&mut self, title: &str) {
        if self.title.is_none() {
            self.title = one_line(title, MAX_META_CHARS);
        }
    }

    /// A fact of one line, left out when it is empty.
    pub fn set(&mut self, name: &str, value: &str) {
        if let Some(value) = one_line(value, MAX_META_CHARS) {
            self.meta.insert(name.to_owned(), Value::from(value));
        }
    }

    pub fn set_count(&mut self, name: &str, count: usize) {
        self.meta.insert(name.to_owned(), Value::from(count));
    }

    /// A list of lines, left out when it is empty, cut when it is long.
    pub fn set_list<'a>(&mut self, name: &str, values: impl Iterator<Item = &'a str>) {
        let values: Vec<Value> =
            values.filter_map(|value| one_line(value, MAX_META_CHARS)).take(MAX_META_ITEMS).map(Value::from).collect();
        if !values.is_empty() {
            self.meta.insert(name.to_owned(), Value::from(values));
        }
    }
}

/// One line without control characters, blanks collapsed, at most `max_chars`; `None` if empty.
pub(super) fn one_line(text: &str, max_chars: usize) -> Option<String> {
    let mut line = String::new();
    let mut chars = 0;
    // A bound on the input too: a title of megabytes is not worth a walk over all of it.
    for c in text.chars().take(max_chars.saturating_mul(8)) {
        let blank = c.is_whitespace() || c.is_control();
        if chars == max_chars || (blank && (line.is_empty() || line.ends_with(' '))) || is_noise(c) && !blank {
            continue;
        }
        line.push(if blank { ' ' } else { c });
        chars += 1;
    }
    line.truncate(line.trim_end().len());
    (!line.is_empty()).then_some(line)
}

/// A lone CR is a line break, CR LF is one.
pub(super) fn unify_breaks(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sunk(max: usize, pushes: &[&str]) -> (String, bool) {
        let mut sink = Sink::new(max);
        pushes.iter().for_each(|text| sink.push(text));
        sink.finish()
    }

    #[test]
    fn runs_of_blanks_and_empty_lines_become_one() {
        let (text, cut) = sunk(100, &["  a   b \t c\r\n\r\n\r\n\n  d\u{3000}e", "\u{3000}\u{3000}f\n"]);
        assert_eq!(text, "a b\tc\n\nd\u{3000}e f");
        assert!(!cut);
    }

    #[test]
    fn control_characters_and_nuls_are_dropped() {
        assert_eq!(sunk(100, &["a\0b\u{1b}[2J\u{85}c\u{feff}"]).0, "ab[2J c");
    }

    #[test]
    fn text_is_cut_between_characters() {
        for max in 0..12 {
            let (text, cut) = sunk(max, &["日本 語で"]);
            assert!(text.len() <= max && cut, "{max}: {text:?}");
        }
        assert_eq!(sunk(13, &["日本 語で"]), ("日本 語で".to_owned(), false));
    }

    #[test]
    fn a_line_has_no_breaks_and_no_more_than_its_length() {
        assert_eq!(one_line(" a\n\0 b\u{1b} ", 10).as_deref(), Some("a b"));
        assert_eq!(one_line("日本語", 2).as_deref(), Some("日本"));
        assert_eq!(one_line(" \n ", 10), None);
    }
}
