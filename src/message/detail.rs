//! Text from outside (keys, event names, replies of services), made fit for one log line.
//!
//! Promises one line, no control character, no reordering of what the reader sees (T8), and a bound on length:
//! a `detail` is at most [`DETAIL_CHARS`] characters. Refuses to know what the text means.

/// Longest `detail` of a dead-letter reason (design §8).
pub const DETAIL_CHARS: usize = 512;
/// Longest name quoted inside a detail: a key of 1,024 bytes must not push the sentence round it out of sight.
const QUOTED_CHARS: usize = 200;

/// `text` with control and direction-changing characters escaped, cut to `max_chars`.
pub fn printable(text: &str, max_chars: usize) -> String {
    let mut line = String::with_capacity(text.len().min(max_chars));
    let mut used = 0;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let escaped = deceives(character);
        let width = if escaped { character.escape_default().count() } else { 1 };
        // Keep room for the ellipsis unless this is the last character; an escape is never cut in two.
        let room = if characters.peek().is_some() { max_chars.saturating_sub(1) } else { max_chars };
        if used + width > room {
            line.push('…');
            break;
        }
        if escaped {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
        used += width;
    }
    line
}

/// A finished sentence as a detail.
pub fn detail(sentence: &str) -> String {
    printable(sentence, DETAIL_CHARS)
}

/// A name from outside, in quotes, to stand inside a sentence.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", printable(name, QUOTED_CHARS))
}

/// Characters that end a line, drive a terminal, or make text read other than it is.
fn deceives(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forged_log_line_stays_one_harmless_line() {
        assert_eq!(
            printable("a\n{\"level\":\"ERROR\"}\u{1b}[2J\u{202e}", 100),
            "a\\n{\"level\":\"ERROR\"}\\u{1b}[2J\\u{202e}"
        );
        assert_eq!(printable("日本語 🦀", 100), "日本語 🦀");
    }

    #[test]
    fn length_is_counted_in_characters_and_no_escape_is_cut() {
        assert_eq!(printable("abcd", 4), "abcd");
        assert_eq!(printable("abcde", 4), "abc…");
        assert_eq!(printable("日本語日本語", 4), "日本語…");
        assert_eq!(printable("ab\u{1b}cd", 6), "ab…");
        assert_eq!(detail(&"\n".repeat(10_000)).chars().count(), 511); // 255 escapes and the ellipsis
        assert_eq!(printable("abc", 0), "…");
    }
}
