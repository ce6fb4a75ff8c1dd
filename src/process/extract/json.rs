//! JSON: every value a line, under its name; what is not JSON is still text.
//!
//! Streams: no tree is built, and nesting ends at serde's own limit (128).

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::read::{Stop, Wanted};
use super::sink::{Doc, Sink, unify_breaks};
use super::text;

pub(super) fn extract(wanted: &mut Wanted<'_>, doc: &mut Doc) -> Result<(), Stop> {
    let (text, whole) = text::of_markup(wanted, doc)?;
    let mut found = Found { text: Sink::new(wanted.limits.max_text_bytes), title: None };
    let mut reader = serde_json::Deserializer::from_str(text.trim_start_matches('\u{feff}'));
    let parsed = Lines { found: &mut found, name: None, depth: 0 }.deserialize(&mut reader).and_then(|()| reader.end());
    match parsed {
        Ok(()) => {
            doc.text = found.text;
            found.title.iter().for_each(|title| doc.set_title(title));
            Ok(())
        }
        Err(error) => {
            doc.text.push(&unify_breaks(&text));
            if whole {
                return Err(Stop::finding(format!("not valid JSON: {error}")));
            }
            doc.text.cut();
            Ok(())
        }
    }
}

struct Found {
    text: Sink,
    /// `title` of the outermost object.
    title: Option<String>,
}

/// Writes one value: scalars on a line of their own, after their name.
struct Lines<'a, 'n> {
    found: &'a mut Found,
    name: Option<&'n str>,
    depth: usize,
}

impl Lines<'_, '_> {
    fn line(self, value: &str) {
        if let Some(name) = self.name {
            self.found.text.push(name);
            self.found.text.push(": ");
            if name == "title" && self.depth == 1 {
                self.found.title = Some(value.to_owned());
            }
        }
        self.found.text.push(&unify_breaks(value));
        self.found.text.end_line();
    }
}

impl<'de> DeserializeSeed<'de> for Lines<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Lines<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.line(if value { "true" } else { "false" });
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.line(&value.to_string());
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.line(&value.to_string());
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.line(&value.to_string());
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.line(value);
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        let depth = self.depth + 1;
        while values.next_element_seed(Lines { found: &mut *self.found, name: self.name, depth })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let depth = self.depth + 1;
        while let Some(name) = entries.next_key::<String>()? {
            entries.next_value_seed(Lines { found: &mut *self.found, name: Some(&name), depth })?;
        }
        Ok(())
    }
}
