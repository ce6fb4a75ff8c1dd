//! Which charset bytes are in, and their text.
//!
//! In this order: BOM, UTF-16 without BOM (by its own pattern), the declared charset where it
//! fits without an error, UTF-8, ISO-2022-JP, then the detector with Japanese as its hint.
//! A declaration is doubted because it is often wrong, and wrong text is found by nobody.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

/// The detector has made up its mind long before this many bytes.
const DETECTOR_BYTES: usize = 256 << 10;
/// As much is looked at for UTF-16 without BOM.
const UTF_16_SAMPLE_BYTES: usize = 8 << 10;

pub(super) struct Decoded {
    pub text: String,
    /// The charset's name in the WHATWG encoding standard.
    pub charset: &'static str,
}

/// Decodes all of `bytes`; `whole` is false where they are the beginning of something longer,
/// so that a character cut at the end is no error.
pub(super) fn decode(bytes: &[u8], declared: Option<&str>, whole: bool) -> Decoded {
    if let Some((encoding, bom_bytes)) = Encoding::for_bom(bytes) {
        return decode_as(encoding, &bytes[bom_bytes..], whole).0;
    }
    if let Some(encoding) = utf_16_without_bom(bytes) {
        return decode_as(encoding, bytes, whole).0;
    }
    let seven_bit = bytes.is_ascii();
    // Seven bits with escapes may be ISO-2022-JP, which is valid UTF-8 as it stands.
    let plain = !(seven_bit && bytes.contains(&0x1b));
    if plain && let Some(text) = utf_8(bytes, whole) {
        return Decoded { text: text.to_owned(), charset: UTF_8.name() };
    }
    if let Some(encoding) = declared.and_then(|label| Encoding::for_label(label.trim().as_bytes())) {
        let (decoded, malformed) = decode_as(encoding, bytes, whole);
        if !malformed {
            return decoded;
        }
    }
    // The hint makes Shift_JIS of short Western lines, which then does not decode.
    let (japanese, malformed) = decode_as(detect(bytes, whole, Some(b"jp")), bytes, whole);
    if !malformed {
        return japanese;
    }
    let (other, malformed) = decode_as(detect(bytes, whole, None), bytes, whole);
    if malformed { japanese } else { other }
}

/// The `charset` parameter of a content type.
pub(super) fn of_content_type(content_type: &str) -> Option<&str> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
    })
}

fn detect(bytes: &[u8], whole: bool, hint: Option<&[u8]>) -> &'static Encoding {
    let sample = &bytes[..bytes.len().min(DETECTOR_BYTES)];
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    detector.feed(sample, whole && sample.len() == bytes.len());
    detector.guess(hint, Utf8Detection::Allow)
}

fn utf_8(bytes: &[u8], whole: bool) -> Option<&str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) if !whole && error.error_len().is_none() => std::str::from_utf8(&bytes[..error.valid_up_to()]).ok(),
        Err(_) => None,
    }
}

fn decode_as(encoding: &'static Encoding, bytes: &[u8], whole: bool) -> (Decoded, bool) {
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let capacity = decoder.max_utf8_buffer_length(bytes.len()).unwrap_or(0);
    let mut text = String::with_capacity(capacity);
    let (_, _, malformed) = decoder.decode_to_string(bytes, &mut text, whole);
    // The worst case is three times the bytes; what is kept should be what is used.
    text.shrink_to_fit();
    (Decoded { text, charset: encoding.name() }, malformed)
}

/// UTF-16 gives itself away by NULs (ASCII, line breaks) or by kana, always in the same half of
/// a pair. Kanji alone prove nothing: Shift_JIS read as UTF-16 is full of them.
fn utf_16_without_bom(bytes: &[u8]) -> Option<&'static Encoding> {
    let sample = &bytes[..bytes.len().min(UTF_16_SAMPLE_BYTES) & !1];
    let pairs = sample.len() / 2;
    if pairs < 2 {
        return None;
    }
    let score = |big_endian: bool| {
        let (mut telling, mut strange) = (0, 0);
        for pair in sample.chunks_exact(2) {
            let (high, low) = if big_endian { (pair[0], pair[1]) } else { (pair[1], pair[0]) };
            match (high, low) {
                (0, b'\t' | b'\n' | b'\r' | 0x20..=0x7e) => telling += 1,
                // Kana; the low half 0x30 would be a digit of ASCII, seen one byte off.
                (0x30, 0x00..=0x02 | 0x0c..=0x0f | 0x41..=0xff) => telling += 1,
                (0, 0..=0x1f | 0x7f..=0x9f) | (0xd8..=0xf8, _) => strange += 1,
                (_, _) => {}
            }
        }
        (telling, strange)
    };
    let ((little, little_strange), (big, big_strange)) = (score(false), score(true));
    let wins = |own: usize, strange: usize, other: usize| own * 4 >= pairs && strange * 50 <= pairs && own > other * 4;
    if wins(little, little_strange, big) {
        Some(UTF_16LE)
    } else if wins(big, big_strange, little) {
        Some(UTF_16BE)
    } else {
        None
    }
}
