//! Keys and bucket names as they come out of an event.
//!
//! Promises that a key is decoded exactly once, strictly (a bad escape is an error, never a guess: a guess would
//! name another file), and that no bucket name can be anything but a bucket name. Knows no event shape.

use crate::message::detail::quoted;

/// S3's limit of a key, in bytes of UTF-8.
pub const S3_MAX_KEY_BYTES: usize = 1_024;

/// Undoes the form encoding of a key in `Records[]`: `+` is a space, `%XX` a byte of UTF-8.
///
/// S3 sends a space as `+` and a plus as `%2B`; LocalStack sends `%20`. Both come out right. Characters that
/// should have been escaped and were not are taken as they are.
pub(super) fn form_decoded(encoded: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => match (rest.next().and_then(hex_digit), rest.next().and_then(hex_digit)) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err(format!("key {} has a bad escape: '%' without two hex digits", quoted(encoded))),
            },
            literal => literal,
        });
    }
    String::from_utf8(bytes).map_err(|_| format!("key {} is not utf-8 after decoding", quoted(encoded)))
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// A decoded key, if S3 could hold it.
pub(super) fn checked_key(key: String) -> Result<String, String> {
    match key.len() {
        0 => Err("key is empty".to_owned()),
        1..=S3_MAX_KEY_BYTES => Ok(key),
        bytes => Err(format!("key {} has {bytes} bytes, more than {S3_MAX_KEY_BYTES}", quoted(&key))),
    }
}

/// The form of a bucket name, old ones included (upper case, `_`, up to 255 characters).
///
/// Narrow enough that a name is safe in a hash, a log line and a path-style URL; whether the bucket may be read
/// is the allow-list's business.
pub(super) fn check_bucket(name: &str) -> Result<(), String> {
    let edges = [name.bytes().next(), name.bytes().next_back()];
    let fits = (3..=255).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        && edges.iter().flatten().all(u8::is_ascii_alphanumeric)
        && !name.contains("..");
    if fits { Ok(()) } else { Err(format!("bucket {} is not a bucket name", quoted(name))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_decoded_exactly_once() {
        let cases = [
            ("a+b.txt", "a b.txt"),
            ("a%20b.txt", "a b.txt"),
            ("a%2Bb.txt", "a+b.txt"),
            ("a%252Bb.txt", "a%2Bb.txt"),
            ("100%25.txt", "100%.txt"),
            ("%E6%97%A5%e6%9c%ac", "日本"),
            ("日本", "日本"),
            ("line%0Abreak", "line\nbreak"),
            ("nul%00", "nul\0"),
            ("../../etc/passwd", "../../etc/passwd"),
            ("/lead", "/lead"),
        ];
        for (encoded, key) in cases {
            assert_eq!(form_decoded(encoded).as_deref(), Ok(key), "{encoded}");
        }
    }

    #[test]
    fn a_bad_escape_is_an_error_and_never_a_guess() {
        for bad in ["%", "a%2", "%zz", "%2", "%+1", "%%41", "%é9"] {
            assert!(form_decoded(bad).unwrap_err().contains("bad escape"), "{bad}");
        }
        for bad in ["%FF", "%E6%97", "%C0%AF", "%ED%A0%80"] {
            assert!(form_decoded(bad).unwrap_err().contains("not utf-8"), "{bad}");
        }
    }

    #[test]
    fn bucket_names_have_a_narrow_form() {
        for good in ["abc", "my.bucket-1", "Legacy_Bucket", &"x".repeat(255)] {
            assert_eq!(check_bucket(good), Ok(()), "{good}");
        }
        for bad in ["", "ab", "a/b", "..", "a..b", "-ab", "ab-", "a b", "日本語", "a\0b", "a\nb", &"x".repeat(256)] {
            assert!(check_bucket(bad).is_err(), "{bad:?}");
        }
    }
}
