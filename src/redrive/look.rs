//! What is known of the work that a letter asks for: record, source, index.
//!
//! Promises that work counts as finished only on proof (a record that is newer, or names this very message, and an index
//! that holds it), that a call which fails makes it *unknown* and nothing else, and that nothing is written. Decides
//! nothing: `decide` does.

use std::sync::Arc;
use std::time::Duration;

use crate::index::catalogue::Catalogue;
use crate::message::detail::{detail, quoted};
use crate::message::s3_event::{Judged, Parsed, SkipReason, Wanted};
use crate::message::{Change, DocumentId, MessageId, Namespace, Operation};
use crate::process::record::{Rank, Seen, Standing, rank, rank_of};
use crate::store::{Store, StoreError, layout};

use super::decide::{Hopeless, Work};
use super::letter::Letter;

/// One HEAD, one look into the index.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// Who is asked.
pub struct Look {
    /// Sources and results.
    pub store: Arc<dyn Store>,
    /// The index; `None` is `SKIP_OPENSEARCH`: nothing is known to be in it.
    pub catalogue: Option<Arc<dyn Catalogue>>,
    /// What the workers may read.
    pub wanted: Wanted,
    /// Scope of ids.
    pub namespace: Namespace,
    /// Results bucket.
    pub results_bucket: String,
}

/// A letter and what is known of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    /// One for each change, in the order of the body.
    pub works: Vec<Work>,
    /// Documents whose records the index lacks.
    pub unindexed: Vec<DocumentId>,
}

/// Durable in a record, and at which revision.
struct Durable {
    document_id: DocumentId,
    revision: u64,
}

enum Found {
    Known(Work),
    Durable(Durable),
}

impl Look {
    /// All that is known of a letter's changes.
    pub async fn at(&self, letter: &Letter) -> Known {
        let changes = match &letter.parsed {
            Err(unreadable) => return Known::only(Work::Hopeless(Hopeless::from(unreadable))),
            Ok(Parsed::Skip(_)) => return Known::only(Work::Nothing),
            Ok(Parsed::Changes(changes)) => changes,
        };
        let mut found = Vec::with_capacity(changes.len());
        for judged in changes {
            found.push(match judged {
                Judged::Skip { bucket, reason, .. } => Found::Known(skipped(bucket, *reason)),
                Judged::NotAllowed { detail, .. } => Found::Known(Work::Hopeless(Hopeless::NotAllowed(detail.clone()))),
                Judged::Malformed { detail } => Found::Known(Work::Hopeless(Hopeless::Malformed(detail.clone()))),
                Judged::Process(change) => {
                    let ids = [letter.message.id.clone(), letter.first_id()];
                    self.change(change, &ids).await.unwrap_or_else(|why| Found::Known(Work::Unknown(why)))
                }
            });
        }
        self.with_the_index(found).await
    }

    /// Which of the durable ones the index holds.
    async fn with_the_index(&self, found: Vec<Found>) -> Known {
        let ids: Vec<DocumentId> = found
            .iter()
            .filter_map(|found| match found {
                Found::Durable(Durable { document_id, .. }) => Some(document_id.clone()),
                Found::Known(_) => None,
            })
            .collect();
        let held = match &self.catalogue {
            Some(index) if !ids.is_empty() => match tokio::time::timeout(STEP_LIMIT, index.held(&ids)).await {
                Ok(Ok(held)) if held.len() == ids.len() => Ok(held),
                Ok(Ok(_)) => Err("the index: an answer for other documents".to_owned()),
                Ok(Err(error)) => Err(format!("the index: {error}")),
                Err(_) => Err(format!("the index: no answer within {STEP_LIMIT:?}")),
            },
            Some(_) | None => Ok(vec![None; ids.len()]),
        };
        let mut held = match held {
            Ok(held) => held.into_iter(),
            Err(why) => return Known::only(Work::Unknown(why)),
        };
        let mut known = Known { works: Vec::with_capacity(found.len()), unindexed: Vec::new() };
        for found in found {
            known.works.push(match found {
                Found::Known(work) => work,
                Found::Durable(Durable { document_id, revision }) => {
                    if held.next().flatten().is_some_and(|held| held.revision >= revision) {
                        Work::Finished
                    } else {
                        known.unindexed.push(document_id);
                        Work::Unindexed
                    }
                }
            });
        }
        known
    }

    /// Record first, then the source, as the workers do.
    async fn change(&self, change: &Change, ids: &[MessageId]) -> Result<Found, String> {
        let document_id = DocumentId::of(&self.namespace, &change.bucket, &change.key);
        let key = layout::record(&self.namespace, &document_id);
        let record = self.head(&self.results_bucket, &key).await.map_err(|error| format!("its record: {error}"))?;
        let record = record.as_ref().map(Standing::of);
        let ranked = |seen| {
            record.as_ref().filter(|record| {
                ids.iter().any(|id| match rank_of(record, change, seen, id) {
                    Rank::Newer | Rank::Equal => true,
                    Rank::Older => false,
                })
            })
        };
        let durable = |record: &Standing| Found::Durable(Durable { document_id, revision: record.revision });
        if let Some(record) = ranked(Seen::Unread) {
            return Ok(durable(record));
        }
        let head = self.head(&change.bucket, &change.key).await;
        // A "folder" of the console, or one that is gone: the workers skip it, and nothing would ever tell that they did.
        let is_folder = record.is_none() && change.key.ends_with('/');
        let there = match head {
            Ok(Some(head)) if is_folder && head.size == 0 => return Ok(Found::Known(Work::Nothing)),
            Ok(None) if is_folder && change.operation == Operation::Removed => return Ok(Found::Known(Work::Nothing)),
            Ok(head) => head.is_some(),
            // Whether it is there is not ours to see: the worker finds out, and says so.
            Err(StoreError::Denied(_) | StoreError::Archived(_)) => true,
            Err(error) => return Err(format!("the file: {error}")),
        };
        if there {
            return Ok(Found::Known(Work::Owed));
        }
        Ok(match (change.operation, &record) {
            (Operation::Removed, _) | (Operation::Unstated, Some(_)) => Found::Known(Work::Owed),
            (Operation::Unstated, None) => Found::Known(Work::Hopeless(Hopeless::SourceMissing)),
            // Removed since: the tombstone explains it. A record that is older and live does not.
            (Operation::Created, Some(record)) if record.source_etag.is_none() => durable(record),
            (Operation::Created, _) => Found::Known(Work::Hopeless(Hopeless::SourceMissing)),
        })
    }

    /// Whether a message that was sent under this id has been worked on, or has nothing to be worked on. A call that fails
    /// says no: it is asked again.
    pub async fn is_recorded(&self, letter: &Letter, id: &MessageId) -> bool {
        let Ok(Parsed::Changes(changes)) = &letter.parsed else { return true };
        for judged in changes {
            let Judged::Process(change) = judged else { continue };
            let document_id = DocumentId::of(&self.namespace, &change.bucket, &change.key);
            let head = self.head(&self.results_bucket, &layout::record(&self.namespace, &document_id)).await;
            let record = head.ok().flatten().as_ref().map(Standing::of);
            let rank = record.map(|record| rank(&record, change.sequencer.as_ref(), Seen::Unread, id));
            match rank {
                Some(Rank::Newer | Rank::Equal) => {}
                Some(Rank::Older) | None => return false,
            }
        }
        true
    }

    async fn head(&self, bucket: &str, key: &str) -> Result<Option<crate::store::ObjectHead>, StoreError> {
        match tokio::time::timeout(STEP_LIMIT, self.store.head(bucket, key)).await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::Unavailable(format!("no answer within {STEP_LIMIT:?}"))),
        }
    }
}

/// What no worker works on. By its prefix alone it proves nothing: it is in the dead-letter queue, so a worker did take it
/// up, and this command may have been given fewer sources than the workers.
fn skipped(bucket: &str, reason: SkipReason) -> Work {
    match reason {
        SkipReason::PrefixNotWanted => {
            let why = format!("bucket {} is a source, but not this part of it: see SOURCE_BUCKETS", quoted(bucket));
            Work::Hopeless(Hopeless::NotWanted(detail(&why)))
        }
        SkipReason::TestEvent | SkipReason::NoRecords | SkipReason::OwnPrefix | SkipReason::EventNotWanted => {
            Work::Nothing
        }
    }
}

impl Known {
    fn only(work: Work) -> Self {
        Self { works: vec![work], unindexed: Vec::new() }
    }
}
