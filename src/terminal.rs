//! What a person at the terminal sees: reports on stdout, the rest on stderr, one line of progress that is written over.
//!
//! Promises that text from outside cannot drive the terminal, that a reader who has gone away (`| head`) ends nothing, and
//! that a command which is printed can be pasted. Knows no command.

use std::io::{IsTerminal as _, Write as _};

use crate::message::detail::{detail, printable};

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

/// Findings on stdout, troubles and progress on stderr.
pub struct Page {
    /// Findings are JSON lines.
    pub json: bool,
    shows_progress: bool,
}

impl Page {
    /// Progress is shown on a terminal, and nowhere else.
    pub fn new(json: bool) -> Self {
        Self { json, shows_progress: std::io::stderr().is_terminal() }
    }

    /// Writes over the line of progress.
    pub fn line(&self, text: &str) {
        if self.shows_progress {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[2K{text}");
        }
    }

    /// Takes the line of progress away.
    pub fn close(&self) {
        self.line("");
    }

    /// A trouble with one thing.
    pub fn trouble(&self, name: &str, why: &str) {
        self.line("");
        let (name, why) = (printable(name, KEY_CHARS), detail(why));
        let _ = writeln!(std::io::stderr().lock(), "redrive: {name}: {why}");
    }
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
