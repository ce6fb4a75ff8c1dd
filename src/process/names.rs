//! What a key says by itself: file name, extension, tenant. A key is never a path here.

use crate::config::TenantFrom;
use crate::message::Message;

pub(super) fn file_name(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

/// Lower case, without the dot; names like `.profile` and endings longer than 16 characters have none.
pub(super) fn extension(key: &str) -> Option<String> {
    let (stem, ending) = file_name(key).rsplit_once('.')?;
    let fits = !stem.is_empty() && (1..=16).contains(&ending.chars().count());
    fits.then(|| ending.to_lowercase())
}

/// Of a key, by `TENANT_FROM`.
pub fn tenant(from: &TenantFrom, key: &str, message: &Message) -> Option<String> {
    tenant_in(from, key, message.group_id.as_deref())
}

/// The same, where the message itself is not at hand.
pub fn tenant_in(from: &TenantFrom, key: &str, group_id: Option<&str>) -> Option<String> {
    match from {
        TenantFrom::Prefix(segments) => {
            let folders: Vec<&str> = key.split('/').collect();
            let folders = &folders[..folders.len().saturating_sub(1).min(*segments)];
            (!folders.is_empty()).then(|| folders.join("/"))
        }
        TenantFrom::MessageGroup => group_id.map(str::to_owned),
        TenantFrom::None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_taken_from_the_last_segment() {
        for (key, expected) in [
            ("a/b.PDF", Some("pdf")),
            ("a.d/b", None),
            (".profile", None),
            ("x.tar.gz", Some("gz")),
            ("日本.テキスト", Some("テキスト")),
            ("a.", None),
            ("a.this-is-no-extension-at-all", None),
        ] {
            assert_eq!(extension(key).as_deref(), expected, "{key}");
        }
    }
}
