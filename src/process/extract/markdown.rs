//! Markdown: text as it stands (people search for what they wrote), its title the first heading.

use super::read::{Stop, Wanted};
use super::sink::{Doc, unify_breaks};
use super::text;

/// A title that comes later than this is none.
const TITLE_WITHIN_LINES: usize = 200;

pub(super) fn extract(wanted: &mut Wanted<'_>, doc: &mut Doc) -> Result<(), Stop> {
    let (text, whole) = text::of_markup(wanted, doc)?;
    let text = unify_breaks(&text);
    if let Some(title) = title(&text) {
        doc.set_title(title);
    }
    doc.text.push(&text);
    if !whole {
        doc.text.cut();
    }
    Ok(())
}

/// `# Title`, or a line underlined with `=` or `-`; `title:` of a front matter comes first.
/// What looks like a heading inside a code fence is code.
fn title(text: &str) -> Option<&str> {
    let mut lines = text.lines().take(TITLE_WITHIN_LINES).peekable();
    if lines.peek().is_some_and(|line| line.trim_end() == "---") {
        lines.next();
        for line in lines.by_ref().take_while(|line| line.trim_end() != "---") {
            if let Some(title) = line.strip_prefix("title:") {
                return Some(title.trim().trim_matches(['"', '\'']));
            }
        }
    }
    let mut fence: Option<&str> = None;
    while let Some(line) = lines.next() {
        let trimmed = line.trim();
        let mark = ["```", "~~~"].into_iter().find(|mark| trimmed.starts_with(mark));
        match (fence, mark) {
            (Some(open), Some(mark)) if open == mark => fence = None,
            (Some(_), Some(_) | None) => {}
            (None, Some(mark)) => fence = Some(mark),
            (None, None) => {
                let heading = trimmed.trim_start_matches('#');
                let level = trimmed.len() - heading.len();
                if (1..=6).contains(&level) && heading.starts_with([' ', '\t']) {
                    return Some(heading.trim().trim_end_matches('#').trim_end());
                }
                if !trimmed.is_empty() && lines.peek().is_some_and(|next| is_underline(next)) {
                    return Some(trimmed);
                }
            }
        }
    }
    None
}

fn is_underline(line: &str) -> bool {
    let line = line.trim_end();
    line.len() >= 3 && (line.bytes().all(|b| b == b'=') || line.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_heading_is_the_title() {
        let cases = [
            ("intro\n\n## 設計 ##\n# later", Some("設計")),
            ("Title\n=====\n", Some("Title")),
            ("```sh\n# not this\n```\n# this", Some("this")),
            ("---\ntitle: \"From the front\"\n---\n# not this", Some("From the front")),
            ("---\nauthor: x\n---\n# this", Some("this")),
            ("#hashtag only", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(title(text), expected, "{text}");
        }
    }
}
