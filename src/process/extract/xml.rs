//! A walk through XML, element by element, with nothing of it kept.
//!
//! Promises (T2): a document type declaration is refused, so no entity is ever expanded and
//! nothing outside is ever asked for; nesting has an end.

use std::borrow::Cow;
use std::io::{BufReader, Read};

use quick_xml::Reader;
use quick_xml::events::{BytesRef, BytesStart, Event};

use super::read::Stop;

/// What a walk through a part meets.
pub(super) enum Node<'x> {
    Open(BytesStart<'x>),
    Close(String),
    Text(Cow<'x, str>),
    End,
}

/// One part, walked through.
pub(super) struct Xml<'x> {
    reader: Reader<BufReader<&'x mut dyn Read>>,
    buffer: Vec<u8>,
    depth: usize,
    max_depth: usize,
}

impl<'x> Xml<'x> {
    pub fn new(part: &'x mut dyn Read, max_depth: usize) -> Self {
        let mut reader = Reader::from_reader(BufReader::new(part));
        // An empty element opens and closes, so that walks have one case.
        reader.config_mut().expand_empty_elements = true;
        Self { reader, buffer: Vec::new(), depth: 0, max_depth }
    }

    pub fn next(&mut self) -> Result<Node<'_>, Stop> {
        loop {
            self.buffer.clear();
            // The borrow checker cannot see that a skipped event gives its buffer back.
            let event = self.reader.read_event_into(&mut self.buffer);
            let event = event.map_err(|error| Stop::finding(format!("broken XML: {error}")))?.into_owned();
            return Ok(match event {
                Event::Start(start) => {
                    self.depth += 1;
                    if self.depth > self.max_depth {
                        return Err(Stop::finding(format!("XML nested deeper than {}", self.max_depth)));
                    }
                    Node::Open(start)
                }
                Event::End(end) => {
                    self.depth = self.depth.saturating_sub(1);
                    Node::Close(end.local_name().as_ref().to_owned())
                }
                Event::Text(text) => Node::Text(Cow::Owned(text.xml10_content().into_owned())),
                Event::CData(text) => Node::Text(Cow::Owned(text.xml10_content().into_owned())),
                Event::GeneralRef(reference) => Node::Text(Cow::Owned(entity(&reference))),
                Event::DocType(_) => return Err(declared()),
                Event::Eof if self.depth > 0 => return Err(Stop::finding("the XML ends too early")),
                Event::Eof => Node::End,
                Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => continue,
            });
        }
    }
}

/// Characters by number and the five names of XML; any other is unknown without a declaration.
fn entity(reference: &BytesRef<'_>) -> String {
    match reference.resolve_char_ref() {
        Ok(Some(c)) => c.to_string(),
        Ok(None) | Err(_) => quick_xml::escape::resolve_predefined_entity(reference).unwrap_or_default().to_owned(),
    }
}

pub(super) fn declared() -> Stop {
    Stop::finding("a document type declaration in it is refused")
}

/// An attribute by its local name. Duplicates are not looked for: that takes quadratic time.
pub(super) fn attribute(start: &BytesStart<'_>, name: &str) -> Option<String> {
    start
        .attributes()
        .with_checks(false)
        .filter_map(Result::ok)
        .find(|own| own.key.local_name().as_ref() == name)
        .map(|own| own.value.into_owned())
}
