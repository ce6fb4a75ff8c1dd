//! What is traced: a file, or a message.
//!
//! Promises to take a key as it is typed, byte for byte: nothing in it is decoded or trimmed. Asks nobody.

use std::fmt;

use percent_encoding::percent_decode_str;

use crate::message::MessageId;
use crate::message::detail::{printable, quoted};
use crate::message::s3_event::S3_MAX_KEY_BYTES;
use crate::terminal::KEY_CHARS;

/// SQS's ids have 36 characters; its longest identifier of any kind has 128.
const LONGEST_ID: usize = 128;
const FORMS: &str = "give s3://BUCKET/KEY, the key as it is in the bucket, or the id of a message, such as \
                     6c1f7a52-0d3e-4b0c-9a57-2f6d8d3f1f10";

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// A file.
    File {
        /// Source bucket.
        bucket: String,
        /// Source key.
        key: String,
    },
    /// A message: the id it was sent under, or that of a redriven copy.
    Message(MessageId),
}

impl Target {
    /// Reads an argument. The error is a sentence that shows both forms.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("{} {what}; {FORMS}", quoted(text)));
        if let Some(place) = text.strip_prefix("s3://") {
            return match place.split_once('/') {
                Some((bucket, _)) if bucket.is_empty() || !is_plain(bucket, "._-") => {
                    wrong("does not name a bucket behind s3://")
                }
                None | Some((_, "")) => wrong("names no key"),
                Some((_, key)) if key.len() > S3_MAX_KEY_BYTES => wrong("has a key that is longer than a key can be"),
                Some((bucket, key)) => Ok(Self::File { bucket: bucket.to_owned(), key: key.to_owned() }),
            };
        }
        if text.is_empty() || text.len() > LONGEST_ID || !is_plain(text, "-_") {
            return wrong("is neither a file nor a message");
        }
        Ok(Self::Message(MessageId(text.to_owned())))
    }
}

fn is_plain(text: &str, also: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c))
}

/// As a line for a person.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::File { bucket, key } => f.write_str(&place(bucket, key)),
            Target::Message(id) => write!(f, "message {id}"),
        }
    }
}

/// `s3://bucket/key`, fit for a line.
pub(super) fn place(bucket: &str, key: &str) -> String {
    format!("s3://{}/{}", printable(bucket, KEY_CHARS), printable(key, KEY_CHARS))
}

/// The key that S3 would have encoded so in an event; `None` where it looks like nothing of the kind.
pub(super) fn as_in_events(key: &str) -> Option<String> {
    let decoded = percent_decode_str(&key.replace('+', " ")).decode_utf8().ok()?.into_owned();
    (decoded != key).then_some(decoded)
}

/// As SQS makes them.
pub(super) fn is_uuid(id: &MessageId) -> bool {
    let parts: Vec<&str> = id.0.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    lengths == [8, 4, 4, 4, 12] && parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_as_it_is_typed_and_anything_else_is_told_both_forms() {
        for key in [" a b ", "日本/請求書.pdf", "50%25 + more", "/", "//x", "a\nb", "s3://b/k", "-"] {
            let file = Target::File { bucket: "incoming".into(), key: key.into() };
            assert_eq!(Target::parse(&format!("s3://incoming/{key}")), Ok(file), "{key:?}");
        }
        for id in ["6c1f7a52-0d3e-4b0c-9a57-2f6d8d3f1f10", "m-000001"] {
            assert_eq!(Target::parse(id), Ok(Target::Message(MessageId(id.into()))));
        }
        let long = format!("s3://b/{}", "x".repeat(1_025));
        for bad in
            ["", " ", "s3://", "s3://b", "s3://b/", "s3:///k", "s3://b b/k", "b/k", "a.txt", "日本", "S3://b/k", &long]
        {
            let told = Target::parse(bad).unwrap_err();
            assert!(told.contains("s3://BUCKET/KEY") && told.contains("6c1f7a52-"), "{bad:?}: {told}");
        }
    }

    #[test]
    fn a_key_out_of_an_event_is_known_for_one() {
        for (typed, decoded) in [
            ("a+b.txt", Some("a b.txt")),
            ("%E6%97%A5%2B.txt", Some("日+.txt")),
            ("plain.txt", None),
            ("100%", None),
            ("日本.txt", None),
            ("%FF", None),
        ] {
            assert_eq!(as_in_events(typed).as_deref(), decoded, "{typed}");
        }
    }

    #[test]
    fn an_id_of_sqs_is_told_from_another_word() {
        let is = |id: &str| is_uuid(&MessageId(id.into()));
        assert!(is("6c1f7a52-0d3e-4b0c-9a57-2f6d8d3f1f10"));
        assert!(!is("incoming") && !is("m-1") && !is("6c1f7a52-0d3e-4b0c-9a57-2f6d8d3f1f1g"));
    }
}
