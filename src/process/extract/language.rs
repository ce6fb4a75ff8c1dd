//! A cheap and honest guess at the language: Japanese where there are kana, English where plain
//! ASCII prose says so by its commonest words, otherwise nothing.
//!
//! Refuses to guess: a wrong language sends a text to the wrong analyzer; none does no harm.

/// As much text is looked at, characters.
const SAMPLE_CHARS: usize = 20_000;

/// Words that English prose cannot do without and other Latin languages, and code, rarely have.
const ENGLISH: [&str; 16] =
    ["the", "and", "of", "to", "is", "that", "for", "with", "was", "this", "are", "it", "be", "by", "from", "not"];

pub(super) fn guess(text: &str) -> Option<&'static str> {
    let (mut letters, mut kana, mut ascii, mut others) = (0_usize, 0_usize, 0_usize, 0_usize);
    for c in text.chars().take(SAMPLE_CHARS) {
        match c {
            // Not U+30FB and U+30FC (dots and dashes): Chinese texts use the dot too.
            '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' | '\u{ff66}'..='\u{ff9d}' => kana += 1,
            'a'..='z' | 'A'..='Z' => ascii += 1,
            c if c.is_alphabetic() => others += 1,
            _ => continue,
        }
        letters += 1;
    }
    // A few kana in a long text of another language are a quotation.
    if kana > 0 && kana * 20 >= letters {
        return Some("ja");
    }
    (ascii >= 20 && others * 50 <= letters && reads_as_english(text)).then_some("en")
}

/// At least one word in eight, and three different ones.
fn reads_as_english(text: &str) -> bool {
    let (mut words, mut hits, mut seen) = (0_usize, 0_usize, 0_u32);
    let end = text.char_indices().nth(SAMPLE_CHARS).map_or(text.len(), |(at, _)| at);
    for word in text[..end].split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()) {
        words += 1;
        if let Some(at) = ENGLISH.iter().position(|english| word.eq_ignore_ascii_case(english)) {
            hits += 1;
            seen |= 1 << at;
        }
    }
    hits * 8 >= words && seen.count_ones() >= 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_language_is_named_only_where_it_is_plain_to_see() {
        let cases = [
            ("これは日本語の文章です。", Some("ja")),
            ("ﾊﾝｶｸｶﾅ", Some("ja")),
            ("請求書の件について。Invoice 2026-11 for the office", Some("ja")),
            ("The quick brown fox is not the one that jumps over it, and this is for you.", Some("en")),
            ("Der schnelle braune Fuchs springt über den faulen Hund und das ist alles.", None),
            ("这是一个没有假名的中文句子。", None),
            ("fn main() { let mut value = compute(vec![1, 2, 3]); println!(\"{value}\"); }", None),
            ("12345 67890", None),
            ("", None),
        ];
        for (text, language) in cases {
            assert_eq!(guess(text), language, "{text}");
        }
    }
}
