//! What lies under `archive/`, read: keys in the order of their days, letters, and those that are wanted.
//!
//! Promises that a walk never holds more than one page, that an object which is no letter of ours is told of and stops
//! nobody, and that a letter is found by the id it was archived under and by its first one. Changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Archived, Source};
use crate::clock::{date, unix_ms_of};
use crate::message::MessageId;
use crate::message::s3_event::{Judged, Parsed, Wanted, parse};
use crate::store::{Store, layout};
use crate::upkeep::{Trouble, patiently, read};

/// Keys in one page: S3's limit.
pub const PAGE: usize = 1_000;
/// Letters read at once.
pub const TOGETHER: usize = 16;
/// A message of 1 MiB, each byte escaped or in base64, and what is written round it.
pub const LETTER_LIMIT: usize = 8 * 1024 * 1024;
const DAY_MS: u64 = 86_400_000;

/// Which letters are wanted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selection {
    /// Of which queue.
    pub source: Source,
    /// Archived at this time or later, Unix milliseconds.
    pub since_ms: Option<u64>,
    /// Archived before this time, Unix milliseconds.
    pub until_ms: Option<u64>,
    /// Archived for this reason.
    pub reason: Option<String>,
    /// One of its source keys begins so.
    pub key_prefix: Option<String>,
    /// Archived under this id, or first sent under it.
    pub message_id: Option<String>,
}

impl Selection {
    /// The keys alone say which letters are wanted: whole days.
    pub fn is_by_day(&self) -> bool {
        let whole = |time: Option<u64>| time.is_none_or(|ms| ms.is_multiple_of(DAY_MS));
        let Self { source: _, since_ms, until_ms, reason, key_prefix, message_id } = self;
        whole(*since_ms) && whole(*until_ms) && reason.is_none() && key_prefix.is_none() && message_id.is_none()
    }

    /// The day of a key is not before, or after, what is wanted.
    fn has_day(&self, day: &str) -> std::cmp::Ordering {
        let before = self.since_ms.is_some_and(|since| day < date(since).as_str());
        let after = self.until_ms.is_some_and(|until| until == 0 || day > date(until - 1).as_str());
        match (before, after) {
            (true, _) => std::cmp::Ordering::Less,
            (false, true) => std::cmp::Ordering::Greater,
            (false, false) => std::cmp::Ordering::Equal,
        }
    }

    /// A letter is wanted. One that does not say when it was archived is no archived letter.
    pub fn has(&self, letter: &Archived) -> bool {
        let Some(at) = letter.archived_ms() else { return false };
        let of = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted == is);
        let keys = || {
            let Some(prefix) = &self.key_prefix else { return true };
            letter.keys().iter().any(|key| key.starts_with(prefix.as_str()))
        };
        self.since_ms.is_none_or(|since| since <= at)
            && self.until_ms.is_none_or(|until| at < until)
            && of(&self.reason, &letter.reason)
            && self.message_id.as_ref().is_none_or(|id| letter.is_called(id))
            && keys()
    }
}

impl Archived {
    /// When it was archived, Unix milliseconds; `None`: it is an envelope, or the time cannot be read.
    pub fn archived_ms(&self) -> Option<u64> {
        unix_ms_of(self.archived_at.as_deref()?)
    }

    /// It was archived, or first sent, under this id.
    pub fn is_called(&self, id: &str) -> bool {
        self.message_id == id || self.original_id() == id
    }

    /// The id it was first sent under, as far as its note says.
    pub fn original_id(&self) -> &str {
        self.note.as_ref().map_or(&self.message_id, |note| &note.message_id)
    }

    /// Its source keys: those that failed, where its note says so, or all that its body names.
    pub fn keys(&self) -> Vec<String> {
        match &self.note {
            Some(note) if !note.keys.is_empty() => note.keys.clone(),
            Some(_) | None => files_of(&self.body).into_iter().map(|(_bucket, key)| key).collect(),
        }
    }
}

/// The files that a body names, bucket and key, in whatever shape and whoever may read them; none where it cannot be read.
pub fn files_of(body: &str) -> BTreeSet<(String, String)> {
    // No source is listed: every change is told as one that is not allowed, with its file.
    let Ok(Parsed::Changes(changes)) = parse(body, &Wanted::new(Vec::new(), String::new())) else {
        return BTreeSet::new();
    };
    let file = |judged: Judged| match judged {
        Judged::Process(change) | Judged::NotAllowed { change, .. } => Some((change.bucket, change.key)),
        Judged::Skip { bucket, key, .. } => Some((bucket, key)),
        Judged::Malformed { .. } => None,
    };
    changes.into_iter().filter_map(file).collect()
}

/// An object under `archive/`, once read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Read {
    /// A letter.
    Letter(Box<Archived>),
    /// Gone meanwhile: restored by somebody else.
    Gone,
    /// No letter of ours, or out of reach; a sentence.
    Unreadable(String),
}

/// The archive of a results bucket.
#[derive(Clone)]
pub struct Shelf {
    /// Its store.
    pub store: Arc<dyn Store>,
    /// Results bucket.
    pub bucket: String,
}

/// Keys of the wanted days, page by page, ascending.
pub struct Walk<'a> {
    shelf: &'a Shelf,
    selection: &'a Selection,
    prefix: String,
    after: Option<String>,
    over: bool,
}

impl Shelf {
    /// All keys of the wanted days.
    pub fn walk<'a>(&'a self, selection: &'a Selection) -> Walk<'a> {
        let prefix = format!("archive/{}/", selection.source.as_str());
        // What begins with the day comes after the day alone.
        let after = selection.since_ms.map(|since| format!("{prefix}{}", date(since)));
        Walk { shelf: self, selection, prefix, after, over: false }
    }

    /// Reads one; an error is a dependency that is sick.
    pub async fn read(&self, key: &str) -> Result<Read, Trouble> {
        let (_, bytes) = match read(self.store.as_ref(), &self.bucket, key, LETTER_LIMIT).await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Read::Gone),
            Err(Trouble::Own(why)) => return Ok(Read::Unreadable(why)),
            Err(sick @ Trouble::Sick(_)) => return Err(sick),
        };
        Ok(match serde_json::from_slice::<Archived>(&bytes) {
            Ok(letter) if letter.v != 1 => {
                Read::Unreadable(format!("its version is {}, and 1 is known here", letter.v))
            }
            // Neither an envelope nor a letter: it would be passed over as not wanted, whatever was asked for.
            Ok(letter) if letter.archived_at.is_some() && letter.archived_ms().is_none() => {
                Read::Unreadable("does not say in RFC 3339 when it was archived".to_owned())
            }
            Ok(letter) => Read::Letter(Box::new(letter)),
            Err(error) => Read::Unreadable(format!("is no archived letter: {error}")),
        })
    }

    /// Keys of the letters that were archived under this id, of one queue: one LIST and one GET a day.
    pub async fn keys_by_id(&self, source: Source, id: &str) -> Result<Vec<String>, Trouble> {
        let all = Selection { source, ..Selection::default() };
        let (mut walk, mut found) = (self.walk(&all), Vec::new());
        let id = MessageId(id.to_owned());
        while let Some(day) = walk.next_day().await? {
            let key = layout::archived(source.as_str(), &day, &id);
            if patiently(|| self.store.head(&self.bucket, &key)).await?.is_some() {
                found.push(key);
            }
        }
        Ok(found)
    }
}

impl Walk<'_> {
    /// The next keys with their days; `None`: there are no more.
    pub async fn next(&mut self) -> Result<Option<Vec<(String, String)>>, Trouble> {
        while !self.over {
            let page = self.page(PAGE).await?;
            let mut wanted = Vec::with_capacity(page.len());
            for key in page {
                let Some(day) = self.day_of(&key).map(str::to_owned) else { continue };
                match self.selection.has_day(&day) {
                    std::cmp::Ordering::Less => {}
                    std::cmp::Ordering::Equal => wanted.push((key, day)),
                    std::cmp::Ordering::Greater => self.over = true,
                }
            }
            if !wanted.is_empty() {
                return Ok(Some(wanted));
            }
        }
        Ok(None)
    }

    /// The next day that has any key; skips the rest of its keys, and whole folders that are no days.
    async fn next_day(&mut self) -> Result<Option<String>, Trouble> {
        while !self.over {
            let page = self.page(1).await?;
            let folder = page.first().and_then(|key| key.strip_prefix(self.prefix.as_str())?.split_once('/'));
            if let Some((day, _)) = folder {
                // '0' is the character after '/'.
                self.after = Some(format!("{}{day}0", self.prefix));
                self.over = false;
                if is_day(day) {
                    return Ok(Some(day.to_owned()));
                }
            }
        }
        Ok(None)
    }

    async fn page(&mut self, limit: usize) -> Result<Vec<String>, Trouble> {
        let Shelf { store, bucket } = self.shelf;
        let page = patiently(|| store.list(bucket, &self.prefix, self.after.as_deref(), limit)).await?;
        // An empty page with "more" would be asked for again and again: there is nothing to go on from.
        self.over = !page.more || page.keys.is_empty();
        self.after = page.keys.last().cloned().or(self.after.take());
        Ok(page.keys)
    }

    /// `archive/{queue}/{day}/{id}.json`; anything else is not ours.
    fn day_of<'k>(&self, key: &'k str) -> Option<&'k str> {
        let (day, name) = key.strip_prefix(self.prefix.as_str())?.split_once('/')?;
        (is_day(day) && name.ends_with(".json") && !name.contains('/')).then_some(day)
    }
}

/// `yyyy-mm-dd`. A listing counts by day: what anybody may call a folder must not make it grow without end.
fn is_day(text: &str) -> bool {
    text.parse::<jiff::civil::Date>().is_ok_and(|date| date.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Message, ReceiptHandle};

    const DAY: u64 = 1_795_305_600_000; // 2026-11-22T00:00:00Z

    fn letter(body: &str, reason: &str, at: u64) -> Archived {
        let message = Message {
            id: MessageId("m".into()),
            handle: ReceiptHandle("h".into()),
            body: body.into(),
            attributes: Default::default(),
            receive_count: 1,
            sent_at_ms: None,
            group_id: None,
            moved_from: None,
        };
        Archived::of(&message, None, reason, "", at, None)
    }

    #[test]
    fn a_letter_is_wanted_where_everything_that_was_asked_for_holds() {
        let body = r#"{"bucket":"incoming","key":"tenant/a b.txt"}"#;
        let it = letter(body, "malformed", DAY + 1_000);
        let all = Selection::default();
        for (selection, expected) in [
            (all.clone(), true),
            (Selection { since_ms: Some(DAY), until_ms: Some(DAY + 1_001), ..all.clone() }, true),
            (Selection { since_ms: Some(DAY + 1_001), ..all.clone() }, false),
            (Selection { until_ms: Some(DAY + 1_000), ..all.clone() }, false),
            (Selection { reason: Some("malformed".into()), key_prefix: Some("tenant/a ".into()), ..all.clone() }, true),
            (Selection { reason: Some("malformed".into()), key_prefix: Some("tenant/b".into()), ..all.clone() }, false),
            (Selection { reason: Some("limit".into()), ..all.clone() }, false),
            (Selection { message_id: Some("m".into()), ..all.clone() }, true),
            (Selection { message_id: Some("n".into()), ..all.clone() }, false),
        ] {
            assert_eq!(selection.has(&it), expected, "{selection:?}");
            let envelope = Archived { archived_at: None, ..it.clone() };
            assert!(!selection.has(&envelope), "its letter is still in the queue");
        }
        assert!(!Selection { key_prefix: Some(String::new()), ..all }.has(&letter("no event", "malformed", DAY)));
    }

    #[test]
    fn whole_days_are_known_by_their_keys() {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let of = |since_ms, until_ms| Selection { since_ms, until_ms, ..Selection::default() };
        let day = 86_400_000;
        assert!(of(Some(DAY), Some(DAY + day)).is_by_day() && !of(Some(DAY + 1), None).is_by_day());
        for (selection, expected) in [
            (of(None, None), [Equal, Equal, Equal]),
            (of(Some(DAY), None), [Less, Equal, Equal]),
            (of(Some(DAY), Some(DAY + day)), [Less, Equal, Greater]),
            (of(Some(DAY + 5), Some(DAY + day + 1)), [Less, Equal, Equal]),
        ] {
            let days = ["2026-11-21", "2026-11-22", "2026-11-23"].map(|day| selection.has_day(day));
            assert_eq!(days, expected, "{selection:?}");
        }
    }

    #[test]
    fn the_files_of_a_body_are_known_whoever_may_read_them() {
        let named = |body: &str| {
            let files = files_of(body).into_iter();
            files.map(|file| format!("{} {}", file.0, file.1)).collect::<Vec<_>>()
        };
        let record = |key: &str| {
            serde_json::json!({ "eventVersion": "2.1", "eventSource": "aws:s3", "eventName": "ObjectCreated:Put",
            "s3": { "bucket": { "name": "incoming" }, "object": { "key": key } } })
        };
        let event = serde_json::json!({ "Records": [record("a+b.txt"), record("%E6%97%A5.txt")] });
        assert_eq!(named(&event.to_string()), ["incoming a b.txt", "incoming 日.txt"]);
        assert_eq!(named(r#"{"bucket":"incoming","key":"a+b.txt"}"#), ["incoming a+b.txt"]);
        for none in ["", "no event", r#"{"Records":[]}"#] {
            assert_eq!(named(none), Vec::<String>::new(), "{none}");
        }
    }
}
