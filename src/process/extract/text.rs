//! Plain text and source code: the charset is found, everything else is taken as it is.

use super::read::{Bytes, Stop, Wanted};
use super::sink::{Doc, unify_breaks};
use super::{charset, read};

/// A text of ours takes at most this many bytes of a file for one byte of its own, blanks aside
/// (UTF-16 of ASCII takes two).
const BYTES_PER_TEXT_BYTE: u64 = 3;
/// Markup, escapes and blanks around little text: what is read of a text format at most.
pub(super) const MAX_MARKUP_BYTES: u64 = 64 << 20;

pub(super) fn extract(wanted: &mut Wanted<'_>, doc: &mut Doc) -> Result<(), Stop> {
    let enough = (wanted.limits.max_text_bytes as u64).saturating_mul(BYTES_PER_TEXT_BYTE) + (1 << 20);
    let (text, whole) = decoded(wanted, doc, enough)?;
    doc.text.push(&unify_breaks(&text));
    if !whole {
        doc.text.cut();
    }
    Ok(())
}

/// The whole text of a text format with a structure of its own (HTML, JSON, CSV), as far as it
/// is read at all; the flag says whether that is all of it.
pub(super) fn of_markup(wanted: &mut Wanted<'_>, doc: &mut Doc) -> Result<(String, bool), Stop> {
    decoded(wanted, doc, MAX_MARKUP_BYTES)
}

fn decoded(wanted: &mut Wanted<'_>, doc: &mut Doc, max_bytes: u64) -> Result<(String, bool), Stop> {
    let Bytes { bytes, whole } = read::at_most(wanted.input, max_bytes)?;
    let declared = wanted.hints.content_type.as_deref().and_then(charset::of_content_type);
    let decoded = charset::decode(&bytes, declared, whole);
    doc.set("charset", decoded.charset);
    Ok((decoded.text, whole))
}
