//! The markers of one namespace in the order of their keys: by the day of their records, oldest first.
//!
//! Promises one LIST for each thousand markers, and that markers of other namespaces in the same bucket cost two LISTs a
//! day of theirs, however many they are: a listing leaps over them. A key says whose document it is at which revision,
//! so that nothing need be read to know. Reads no marker.

use std::sync::Arc;

use super::Lot;
use crate::message::{DocumentId, Namespace};
use crate::store::{Store, StoreError};

/// S3's most.
pub const PAGE: usize = 1_000;

/// What a marker's key says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MarkerKey {
    /// The whole key.
    pub key: String,
    /// The document.
    pub document_id: DocumentId,
    /// The revision that is not in the index.
    pub revision: u64,
}

impl MarkerKey {
    /// From a key of ours; `None` for any other.
    pub fn parse(key: &str) -> Option<Self> {
        let mut parts = key.split('/').skip(3);
        let (document, file) = (parts.next()?, parts.next()?);
        let revision = file.strip_suffix(".json")?;
        let is_number = revision.len() == 20 && revision.bytes().all(|b| b.is_ascii_digit());
        let marker = Self {
            key: key.to_owned(),
            document_id: DocumentId::parse(document)?,
            revision: revision.parse().ok().filter(|_| is_number)?,
        };
        parts.next().is_none().then_some(marker)
    }

    /// `{day}/{namespace}/{document id}/{revision}.json`: the same in both lots.
    pub fn tail(&self) -> &str {
        self.key.split_once('/').map_or("", |(_, tail)| tail)
    }

    /// Day of the record, `yyyy-mm-dd`.
    pub fn day(&self) -> &str {
        self.tail().split_once('/').map_or("", |(day, _)| day)
    }
}

/// A part of a listing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    /// At most [`PAGE`], in order.
    pub markers: Vec<MarkerKey>,
    /// Keys in the place of ours that are no marker's: nobody's business, and not silent.
    pub odd: Vec<String>,
    /// Where to go on; `None` is the end.
    pub next: Option<String>,
}

/// One lot of one namespace.
#[derive(Clone)]
pub struct Markers {
    /// Where they lie.
    pub store: Arc<dyn Store>,
    /// Results bucket.
    pub bucket: String,
    /// Whose.
    pub namespace: Namespace,
    /// Which.
    pub lot: Lot,
}

impl Markers {
    /// The next markers after a place (`None`: from the beginning), at most `most`; empty only at the end.
    pub async fn after(&self, mut place: Option<String>, most: usize) -> Result<Batch, StoreError> {
        loop {
            let page = self.store.list(&self.bucket, self.lot.prefix(), place.as_deref(), most).await?;
            let (ours, others): (Vec<&String>, Vec<&String>) =
                page.keys.iter().partition(|key| self.leap(key).is_none());
            let mut batch = Batch::default();
            for key in &ours {
                match MarkerKey::parse(key) {
                    Some(marker) => batch.markers.push(marker),
                    None => batch.odd.push((*key).clone()),
                }
            }
            let last = page.keys.last().filter(|_| page.more);
            batch.next = last.map(|last| self.leap(last).filter(|leap| leap > last).unwrap_or_else(|| last.clone()));
            if batch.next.is_none() || !ours.is_empty() {
                return Ok(batch);
            }
            // Among others only: the first of them says how far to leap, if it is further than this page went.
            let far = others.first().and_then(|first| self.leap(first));
            place = far.max(batch.next);
        }
    }

    /// From a key that is not ours, to where ours can be next; `None` for one of ours.
    fn leap(&self, key: &str) -> Option<String> {
        let day = key.strip_prefix(self.lot.prefix())?.split('/').next()?;
        let (here, end) = (format!("{}{day}/{}/", self.lot.prefix(), self.namespace), '0'); // '0' follows '/'
        if key.starts_with(&here) {
            None
        } else if *key < *here {
            Some(here)
        } else {
            Some(format!("{}{day}{end}", self.lot.prefix()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Condition, ObjectHead, OpenObject, Page, PutReply};
    use async_trait::async_trait;
    use bytes::Bytes;
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Keys alone.
    struct Keys(BTreeSet<String>, AtomicUsize);

    #[async_trait]
    impl Store for Keys {
        async fn head(&self, _: &str, _: &str) -> Result<Option<ObjectHead>, StoreError> {
            unreachable!()
        }
        async fn get(&self, _: &str, _: &str) -> Result<Option<OpenObject>, StoreError> {
            unreachable!()
        }
        async fn put(
            &self,
            _: &str,
            _: &str,
            _: Bytes,
            _: &BTreeMap<String, String>,
            _: Condition,
        ) -> Result<PutReply, StoreError> {
            unreachable!()
        }
        async fn delete(&self, _: &str, _: &str) -> Result<(), StoreError> {
            unreachable!()
        }
        async fn list(&self, _: &str, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            let all = self.0.iter().filter(|key| key.starts_with(prefix));
            let mut rest = all.filter(|key| after.is_none_or(|after| key.as_str() > after)).cloned();
            let keys = rest.by_ref().take(limit).collect();
            Ok(Page { keys, more: rest.next().is_some() })
        }
        async fn probe(&self, _: &str) -> Result<(), StoreError> {
            unreachable!()
        }
    }

    fn key(day: u64, namespace: &str, document: u64) -> String {
        format!("retry-index/2026-11-{day:02}/{namespace}/{document:064x}/{:020}.json", 7)
    }

    async fn all(keys: BTreeSet<String>, most: usize) -> (Vec<String>, Vec<String>, usize) {
        let store = Arc::new(Keys(keys, AtomicUsize::new(0)));
        let namespace = Namespace::parse("default").unwrap();
        let markers = Markers { store: store.clone(), bucket: "b".into(), namespace, lot: Lot::Retry };
        let (mut found, mut odd, mut place) = (Vec::new(), Vec::new(), None);
        loop {
            let batch = markers.after(place, most).await.unwrap();
            assert!(batch.next.is_none() || !batch.markers.is_empty() || !batch.odd.is_empty(), "empty, and no end");
            found.extend(batch.markers.into_iter().map(|marker| marker.key));
            odd.extend(batch.odd);
            place = batch.next;
            if place.is_none() {
                return (found, odd, store.1.load(Ordering::Relaxed));
            }
        }
    }

    #[tokio::test]
    async fn all_of_a_namespace_are_found_in_order_wherever_pages_end_and_whoever_lies_between() {
        // A namespace may look like a date, or begin as ours does: '-' comes before '/'.
        let namespaces = ["a", "default", "default-2", "defaulu", "z", "2026-11-22"];
        for most in [1, 2, 3, 7, 1_000] {
            for others in [0, 1, 2, 5, 40] {
                let mut keys = BTreeSet::new();
                let mut ours = Vec::new();
                for day in [21, 22, 25] {
                    for namespace in namespaces {
                        let number = if namespace == "default" { 4 } else { others };
                        let made: Vec<String> = (0..number).map(|n| key(day, namespace, n)).collect();
                        if namespace == "default" && day != 22 {
                            ours.extend(made.clone());
                        }
                        if namespace != "default" || day != 22 {
                            keys.extend(made);
                        }
                    }
                }
                assert_eq!(all(keys, most).await.0, ours, "{most} a page, {others} others");
            }
        }
    }

    #[tokio::test]
    async fn a_listing_leaps_over_what_other_namespaces_have_parked() {
        let foreign = (0..20_000).map(|n| key(21, "another", n)).chain((0..20_000).map(|n| key(21, "zoo", n)));
        let (found, _, asked) =
            all(foreign.chain([key(21, "default", 1), key(22, "default", 1)]).collect(), PAGE).await;
        assert_eq!(found, [key(21, "default", 1), key(22, "default", 1)]);
        assert!(asked <= 4, "{asked} LISTs");
        let (found, _, asked) = all((0..20_000).map(|n| key(21, "default", n)).collect(), PAGE).await;
        assert_eq!((found.len(), asked), (20_000, 20));
    }

    #[tokio::test]
    async fn what_is_no_marker_is_told_and_not_taken_for_one() {
        let odd = [
            "retry-index/2026-11-21/default/readme.txt".to_owned(),
            format!("retry-index/2026-11-21/default/{:064x}/7.json", 1),
            format!("retry-index/2026-11-21/default/{:064X}/{:020}.json", 0xABC, 7),
            format!("retry-index/2026-11-21/default/{:064x}/{:020}.json/more", 1, 7),
            format!("retry-index/2026-11-21/default/{:064x}/+{:019}.json", 1, 7),
        ];
        let (found, told, _) = all(odd.iter().cloned().chain([key(21, "default", 5)]).collect(), PAGE).await;
        assert_eq!(found, [key(21, "default", 5)]);
        assert_eq!(BTreeSet::from_iter(told), BTreeSet::from(odd));
        let marker = MarkerKey::parse(&found[0]).unwrap();
        assert_eq!((marker.revision, marker.day()), (7, "2026-11-21"));
        assert_eq!(format!("retry-index/{}", marker.tail()), found[0]);
    }
}
