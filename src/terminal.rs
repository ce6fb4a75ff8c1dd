//! What a person at the terminal sees: reports on stdout, the rest on stderr, one line of progress that is written over.
//!
//! Promises that text from outside cannot drive the terminal, that a reader who has gone away (`| head`) ends nothing, and
//! that a command which is printed can be pasted. Knows no command.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::termios::tcgetwinsize;

use crate::message::detail::{detail, printable};

/// Whether a line of progress stands on the terminal, which the next line would run into.
static STANDS: AtomicBool = AtomicBool::new(false);
/// Back to the left, and nothing there.
const AWAY: &str = "\r\x1b[2K";
/// Where the terminal does not say how wide it is.
const COLUMNS: usize = 80;
/// Left free: the last column, for there some terminals begin a new line, and two for the `^C` that one shows by itself.
const FREE: usize = 3;

/// Longest text of a key in a line for a person: any key fits.
pub const KEY_CHARS: usize = 2_048;

/// A line on stdout. Nobody is there to be told that nobody is there.
pub fn out(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// A whole text on stdout, with its own ends of lines.
pub fn page(text: &str) {
    out(text.trim_end_matches('\n'));
}

/// A line on stderr, also where the terminal is gone: `eprintln!` would end the run there with a panic.
pub fn say(line: &str) {
    log(&format!("{line}\n"));
}

/// Whole lines with their ends, as the log writes them; the line of progress makes room.
pub fn log(lines: &str) {
    let away = if STANDS.swap(false, Ordering::Relaxed) { AWAY } else { "" };
    let _ = std::io::stderr().lock().write_all(format!("{away}{lines}").as_bytes());
}

/// Findings on stdout, troubles and progress on stderr.
pub struct Page {
    /// Findings are JSON lines.
    pub json: bool,
    shows_progress: bool,
}

impl Page {
    /// Progress is shown on a terminal that can take a line back, and nowhere else.
    pub fn new(json: bool) -> Self {
        let term = std::env::var("TERM").unwrap_or_default();
        Self { json, shows_progress: std::io::stderr().is_terminal() && !["", "dumb"].contains(&term.as_str()) }
    }

    /// Columns for a line of progress, now.
    pub fn columns(&self) -> usize {
        let told = tcgetwinsize(std::io::stderr()).map_or(0, |size| usize::from(size.ws_col));
        let there_are = if told == 0 { COLUMNS } else { told };
        there_are.saturating_sub(FREE)
    }

    /// Writes over the line of progress. It is never longer than a line: only the last one can be taken back.
    pub fn line(&self, text: &str) {
        if !self.shows_progress {
            return;
        }
        let stands = !text.is_empty();
        if STANDS.swap(stands, Ordering::Relaxed) || stands {
            let line = format!("{AWAY}{}", cut(text, self.columns()));
            let _ = std::io::stderr().lock().write_all(line.as_bytes());
        }
    }

    /// Takes the line of progress away.
    pub fn close(&self) {
        self.line("");
    }

    /// A trouble with one thing.
    pub fn trouble(&self, name: &str, why: &str) {
        say(&format!("redrive: {}: {}", printable(name, KEY_CHARS), detail(why)));
    }
}

/// As much of a text as fits. What is not ASCII may be two columns wide, and is taken as such.
fn cut(text: &str, columns: usize) -> String {
    let text = printable(text, text.len().max(columns));
    let width = |c: char| if c.is_ascii() { 1 } else { 2 };
    if text.chars().map(width).sum::<usize>() <= columns {
        return text;
    }
    let mut left = columns.saturating_sub(2); // an ellipsis
    let fits = |c: &char| {
        let has_room = width(*c) <= left;
        left = left.saturating_sub(width(*c));
        has_room
    };
    let mut some: String = text.chars().take_while(fits).collect();
    if columns > 1 {
        some.push('…');
    }
    some
}

/// A word that any shell takes as it is, whatever a key holds.
pub fn shell(text: &str) -> String {
    if text.chars().any(char::is_control) {
        // `$'…'` knows escapes; a control character typed as itself would not survive a terminal.
        let escaped: String = text
            .chars()
            .map(|c| match c {
                '\'' | '\\' => format!("\\{c}"),
                c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
                c => c.to_string(),
            })
            .collect();
        return format!("$'{escaped}'");
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_progress_fits_its_columns_whatever_is_in_it() {
        for (text, columns, line) in [
            ("12 of 13", 8, "12 of 13"),
            ("12 of 13", 7, "12 of…"),
            ("日本語", 6, "日本語"),
            ("日本語 x", 6, "日本…"),
            ("a\nb\u{1b}[2J", 20, "a\\nb\\u{1b}[2J"),
            ("ab", 1, ""),
            ("ab", 0, ""),
        ] {
            assert_eq!(cut(text, columns), line, "{text:?} in {columns}");
        }
    }

    #[test]
    fn a_key_is_one_word_to_a_shell_whatever_is_in_it() {
        for (key, word) in [
            ("a b/日本.txt", "'a b/日本.txt'"),
            ("it's", r"'it'\''s'"),
            ("$(rm -rf /)", "'$(rm -rf /)'"),
            ("two\nlines'\\", r"$'two\u000alines\'\\'"),
        ] {
            assert_eq!(shell(key), word);
        }
    }
}
