//! Asks the buckets, without messages, whether what failed is well again.
//!
//! Design §4 has a HEAD of each bucket. That is well in outages in which nothing gets through: writes refused, or reads
//! of objects. So what failed is tried itself: one small object of our own is written and read back where the results
//! bucket is suspected, and a few objects are opened where a source is (their first bytes at most; nothing is kept). A
//! refusal of the probe alone never shuts intake for good: it only says nothing. Knows no message and no mode.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;

use crate::message::s3_event::Source;
use crate::outcome::Dependency;
use crate::store::{Condition, Store, StoreError, read_all};

/// All calls about one bucket.
const LIMIT: Duration = Duration::from_secs(10);
/// Objects looked at in a source, and opened.
const LISTED: usize = 20;
const OPENED: usize = 3;
/// Denied keys that are remembered; a listing has no more others than that in its way.
const DENIED: usize = LISTED - OPENED;
const WORDS: &[u8] = b"{\"v\":1,\"written_by\":\"a worker's probe of an outage; may be removed\"}";

/// What failed since the last success.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Suspects {
    source: bool,
    results: bool,
    /// Something else than denied objects of a source.
    beyond_denied: bool,
    /// Keys that were denied.
    denied: BTreeSet<String>,
    /// The last probe read other objects, while nothing but denied ones speaks against the source.
    pub(super) acquitted: bool,
}

impl Suspects {
    /// `denied`: the key of an object that was denied; `None`: another failure.
    pub(super) fn add(&mut self, dependency: Dependency, denied: Option<&str>) {
        match dependency {
            Dependency::Source => self.source = true,
            Dependency::Results | Dependency::Parking => self.results = true,
            Dependency::Host => {}
        }
        match (dependency, denied) {
            (Dependency::Source, Some(key)) => {
                if self.denied.len() < DENIED {
                    self.denied.insert(key.to_owned());
                }
            }
            (Dependency::Source | Dependency::Results | Dependency::Parking | Dependency::Host, _) => {
                self.beyond_denied = true;
                self.acquitted = false;
            }
        }
    }

    /// The probe has answered. True when this is news: what is denied is denied for itself.
    pub(super) fn heard(&mut self, answer: Answer) -> bool {
        let before = self.acquitted;
        self.acquitted = answer == Answer::Reads && !self.beyond_denied && !self.denied.is_empty();
        self.acquitted && !before
    }
}

/// What the probe found; the worst counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub(super) enum Answer {
    /// All is well; where a source is suspected, others of its objects were read.
    Reads,
    /// Nothing is sick that can be seen from here.
    Well,
    /// Something is.
    Sick,
}

/// The buckets that intake needs.
pub struct Probe {
    /// Where they are.
    pub store: Arc<dyn Store>,
    /// Results bucket.
    pub results_bucket: String,
    /// Our own object in it (`store::layout::probe`).
    pub key: String,
    /// What may be read.
    pub sources: Vec<Source>,
}

impl Probe {
    /// One look at everything.
    pub(super) async fn ask(&self, suspects: &Suspects) -> Answer {
        let results = within(async { Some(self.results(suspects.results).await) });
        let sources = join_all(self.sources.iter().map(|source| within(self.source(source, suspects))));
        let (results, sources) = futures_util::future::join(results, sources).await;
        // That one source can be read says nothing of another; one that is empty or gone has nothing to say.
        let sources = sources.into_iter().flatten().max().unwrap_or(Answer::Well);
        results.map_or(sources, |results| results.max(sources))
    }

    async fn results(&self, suspected: bool) -> Answer {
        if let Err(error) = self.store.probe(&self.results_bucket).await {
            return self.sick(&self.results_bucket, &error);
        }
        match if suspected { self.write_and_read_back().await } else { Ok(()) } {
            Ok(()) => Answer::Reads,
            Err(error @ (StoreError::Throttled(_) | StoreError::BucketMissing(_) | StoreError::Unavailable(_))) => {
                self.sick(&self.results_bucket, &error)
            }
            // This object's own trouble, it may be: a policy older than the probe must not shut intake for ever.
            Err(
                StoreError::Denied(_) | StoreError::Archived(_) | StoreError::Interrupted(_) | StoreError::Refused(_),
            ) => Answer::Well,
        }
    }

    async fn write_and_read_back(&self) -> Result<(), StoreError> {
        let (bucket, body) = (&self.results_bucket, Bytes::from_static(WORDS));
        self.store.put(bucket, &self.key, body, &BTreeMap::new(), Condition::None).await?;
        if let Some(object) = self.store.get(bucket, &self.key).await? {
            read_all(object, WORDS.len()).await?;
        }
        Ok(())
    }

    /// `None`: it is empty, or gone for good; that must not stop the others.
    async fn source(&self, Source { bucket, prefix }: &Source, suspects: &Suspects) -> Option<Answer> {
        let listed = if suspects.source {
            self.store.list(bucket, prefix, None, LISTED).await.map(|page| page.keys)
        } else {
            self.store.probe(bucket).await.map(|()| Vec::new())
        };
        let keys = match listed {
            Ok(keys) => keys,
            Err(StoreError::BucketMissing(_)) => return None,
            Err(error @ (StoreError::Throttled(_) | StoreError::Unavailable(_))) => {
                return Some(self.sick(bucket, &error));
            }
            Err(
                StoreError::Denied(_) | StoreError::Archived(_) | StoreError::Interrupted(_) | StoreError::Refused(_),
            ) => return Some(Answer::Well),
        };
        if !suspects.source {
            return Some(Answer::Reads);
        }
        if keys.is_empty() {
            return None;
        }
        let mut sick = 0;
        for key in keys.iter().filter(|key| !suspects.denied.contains(*key)).take(OPENED) {
            match self.store.get(bucket, key).await {
                // S3 asks who may before it says what is archived.
                Ok(Some(_)) | Err(StoreError::Archived(_)) => return Some(Answer::Reads),
                Err(StoreError::Throttled(_) | StoreError::Unavailable(_)) => sick += 1,
                Ok(None)
                | Err(
                    StoreError::Denied(_)
                    | StoreError::Interrupted(_)
                    | StoreError::BucketMissing(_)
                    | StoreError::Refused(_),
                ) => {}
            }
        }
        // One object that never answers must not shut intake for ever: it takes two to speak for a bucket.
        Some(if sick >= 2 { Answer::Sick } else { Answer::Well })
    }

    fn sick(&self, bucket: &str, error: &StoreError) -> Answer {
        tracing::debug!(target: "quittance", "probe of {bucket}: {error}");
        Answer::Sick
    }
}

async fn within(look: impl Future<Output = Option<Answer>>) -> Option<Answer> {
    tokio::time::timeout(LIMIT, look).await.unwrap_or(Some(Answer::Sick))
}

#[cfg(test)]
#[path = "probe_tests.rs"]
pub(super) mod tests;
