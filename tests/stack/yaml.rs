//! Reads the part of YAML in which `deploy/stack.yaml` is written, CloudFormation's short tags included, into JSON.
//!
//! Promises to refuse, with the line, what it does not know (anchors, text over several lines, tabs) rather than to
//! guess: LocalStack reads the same file with a real reader in `make test`. A crate for one test file was not worth it.

use serde_json::{Map, Value};

pub fn read(text: &str) -> Value {
    let mut reader = Reader { lines: text.lines().map(str::to_owned).collect(), at: 0 };
    let value = reader.block();
    assert_eq!(reader.peek(), None, "something is left");
    value
}

struct Reader {
    lines: Vec<String>,
    at: usize,
}

impl Reader {
    /// Indentation and text of the next line that says something.
    fn peek(&mut self) -> Option<(usize, String)> {
        while let Some(line) = self.lines.get(self.at) {
            let text = line.trim();
            if text.is_empty() || text.starts_with('#') {
                self.at += 1;
                continue;
            }
            return Some((line.len() - line.trim_start().len(), text.to_owned()));
        }
        None
    }

    fn block(&mut self) -> Value {
        let (indent, text) = self.peek().expect("a value");
        if text.starts_with("- ") {
            let mut items = Vec::new();
            while let Some((_, text)) = self.peek().filter(|(n, text)| *n == indent && text.starts_with("- ")) {
                let item = text[2..].trim_start();
                if key(item).is_some() {
                    self.lines[self.at] = format!("{}{item}", " ".repeat(indent + 2));
                    items.push(self.block());
                } else {
                    self.at += 1;
                    items.push(self.value(item, indent));
                }
            }
            return items.into();
        }
        if text.starts_with('{') {
            self.at += 1;
            return inline(&text);
        }
        let mut map = Map::new();
        while let Some((_, text)) = self.peek().filter(|(n, text)| *n == indent && !text.starts_with("- ")) {
            let (name, rest) = key(&text).unwrap_or_else(|| panic!("line {}: no key: {text}", self.at + 1));
            self.at += 1;
            let value = self.value(rest, indent);
            assert!(map.insert(name.to_owned(), value).is_none(), "line {}: {name} twice", self.at);
        }
        assert!(self.peek().is_none_or(|(n, _)| n < indent), "line {}: indentation", self.at + 1);
        map.into()
    }

    /// What stands behind `key:` or `-`, on that line or on those below.
    fn value(&mut self, rest: &str, indent: usize) -> Value {
        if let Some(tagged) = rest.strip_prefix('!') {
            let (tag, rest) = tagged.split_once(' ').unwrap_or((tagged, ""));
            if rest.is_empty() || rest == "|" {
                return tag_of(tag, self.value(rest, indent));
            }
        }
        match rest {
            "" => self.block(),
            "|" => self.literal(indent).into(),
            rest => inline(rest),
        }
    }

    fn literal(&mut self, indent: usize) -> String {
        let (mut text, mut margin) = (String::new(), None);
        while let Some(line) = self.lines.get(self.at) {
            let blank = line.trim().is_empty();
            let depth = line.len() - line.trim_start().len();
            if !blank && depth <= indent {
                break;
            }
            if !blank {
                margin.get_or_insert(depth);
            }
            text.push_str(line.get(margin.unwrap_or(0)..).unwrap_or(""));
            text.push('\n');
            self.at += 1;
        }
        text.trim_end().to_owned() + "\n"
    }
}

/// `name` and what follows of `name: …`.
fn key(text: &str) -> Option<(&str, &str)> {
    if text.starts_with(['"', '\'', '!', '{', '[']) {
        return None;
    }
    let (name, rest) = text.split_once(": ").or_else(|| text.strip_suffix(':').map(|name| (name, "")))?;
    Some((name, rest.trim()))
}

fn tag_of(tag: &str, value: Value) -> Value {
    let name = if tag == "Ref" { tag.to_owned() } else { format!("Fn::{tag}") };
    Map::from_iter([(name, value)]).into()
}

/// A value on one line; behind it there may be a comment.
fn inline(text: &str) -> Value {
    let mut flow = Flow { text, at: 0, depth: 0 };
    let value = flow.value();
    let left = flow.rest().trim_start();
    assert!(left.is_empty() || left.starts_with('#'), "{left:?} is left of {text:?}");
    value
}

struct Flow<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Flow<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip(&mut self, wanted: char) -> bool {
        self.at += self.rest().len() - self.rest().trim_start().len();
        let there = self.rest().starts_with(wanted);
        self.at += if there { wanted.len_utf8() } else { 0 };
        there
    }

    fn until(&mut self, ends: impl Fn(&str) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.char_indices().map(|(at, _)| at).find(|at| ends(&rest[*at..])).unwrap_or(rest.len());
        self.at += end;
        rest[..end].trim()
    }

    fn quoted(&mut self, quote: char) -> String {
        let text = self.until(|rest| rest.starts_with(quote)).to_owned();
        assert!(!text.contains('\\'), "escapes are not known: {text}");
        assert!(self.skip(quote), "no end of {text}");
        text
    }

    fn value(&mut self) -> Value {
        if self.skip('!') {
            let tag = self.until(|rest| rest.starts_with(' '));
            return tag_of(tag, self.value());
        }
        if self.skip('"') {
            return self.quoted('"').into();
        }
        if self.skip('\'') {
            return self.quoted('\'').into();
        }
        self.depth += 1;
        if self.skip('[') {
            let mut items = Vec::new();
            while !self.skip(']') {
                items.push(self.value());
                assert!(self.skip(',') || self.rest().starts_with(']'), "in {}", self.text);
            }
            self.depth -= 1;
            return items.into();
        }
        if self.skip('{') {
            let mut map = Map::new();
            while !self.skip('}') {
                let name = if self.skip('"') {
                    self.quoted('"')
                } else {
                    self.until(|rest| rest.starts_with(": ")).to_owned()
                };
                assert!(self.skip(':'), "no value of {name}");
                map.insert(name, self.value());
                assert!(self.skip(',') || self.rest().trim_start().starts_with('}'), "in {}", self.text);
            }
            self.depth -= 1;
            return map.into();
        }
        self.depth -= 1;
        let within = self.depth > 0;
        let plain = self.until(|rest| rest.starts_with(" #") || (within && rest.starts_with([',', ']', '}'])));
        assert!(
            !plain.is_empty() && !plain.starts_with(['&', '*', '>', '%', '@', '`']),
            "{plain:?} in {:?}",
            self.text
        );
        match plain {
            "true" => true.into(),
            "false" => false.into(),
            plain => match serde_json::from_str::<serde_json::Number>(plain) {
                Ok(number) => number.into(),
                Err(_) => plain.into(),
            },
        }
    }
}

#[test]
fn what_the_template_is_written_in_is_read_and_nothing_else() {
    let text = "a: 1 # one\nb:\n  - !Ref X\n  - c: [!Sub \"${a}-b\", 2, s3:Get]\n    Fn::If:\n      - D\n  - { e: true, \"f:g\": 'h' }\n\
                i: !Sub |\n  {\"j\":\n    1}\n\n  k\nl: !Sub\n  - m\n";
    let expected = serde_json::json!({
        "a": 1,
        "b": [{"Ref": "X"}, {"c": [{"Fn::Sub": "${a}-b"}, 2, "s3:Get"], "Fn::If": ["D"]}, {"e": true, "f:g": "h"}],
        "i": {"Fn::Sub": "{\"j\":\n  1}\n\nk\n"},
        "l": {"Fn::Sub": ["m"]},
    });
    assert_eq!(read(text), expected);
    for wrong in ["a: &x 1", "a: >\n  b", "a: [1\n  2]", "a: 1\n  b: 2", "a: 1\na: 2", "text"] {
        assert!(std::panic::catch_unwind(|| read(wrong)).is_err(), "{wrong}");
    }
}
