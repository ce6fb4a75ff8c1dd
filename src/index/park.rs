//! Parking: a marker in S3 that says "this revision of this document is not in the index yet".
//!
//! Promises P4 and half of P3: an acknowledged marker is as good as an acknowledged index item, for replay reads the
//! record as it is then. A marker holds no text, so deleted text is not kept twice. Calls no index.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use tokio::sync::Notify;

pub mod markers;

use crate::clock::{WallClock, date, rfc3339};
use crate::message::{DocumentId, Namespace};
use crate::store::{Condition, PutReply, Store, StoreError, layout};

/// One small PUT.
const PARK_LIMIT: Duration = Duration::from_secs(10);

/// A parked marker's body (design §5).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Marker {
    /// Version of this format.
    pub v: u32,
    /// The document.
    pub document_id: DocumentId,
    /// Source bucket.
    pub bucket: String,
    /// Source key.
    pub key: String,
    /// The revision that is not in the index.
    pub revision: u64,
    /// Why.
    pub reason: String,
    /// When it first failed, RFC 3339.
    pub failed_at: String,
}

/// What is parked: enough to find the record again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parkable {
    /// The document.
    pub document_id: DocumentId,
    /// Source bucket.
    pub bucket: String,
    /// Source key.
    pub key: String,
    /// Its revision.
    pub revision: u64,
    /// When the record was written, Unix milliseconds: the date in the marker's key.
    pub recorded_ms: u64,
}

/// Whether a marker is tried again by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lot {
    /// `retry-index/`: replay brings it into the index.
    Retry,
    /// `errored-index/`: the document was refused, or its retry budget is spent.
    Errored,
}

impl Lot {
    /// Where its markers lie.
    pub fn prefix(self) -> &'static str {
        match self {
            Lot::Retry => "retry-index/",
            Lot::Errored => "errored-index/",
        }
    }
}

/// Who wrote a marker that is there now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// This call.
    Now,
    /// Somebody before it, or a try of this call whose reply was lost.
    Before,
}

/// The markers of one namespace.
#[derive(Clone)]
pub struct Parking {
    /// Where markers go.
    pub store: Arc<dyn Store>,
    /// Results bucket.
    pub bucket: String,
    /// Scope.
    pub namespace: Namespace,
    /// For `failed_at`.
    pub clock: Arc<dyn WallClock>,
    /// Told when something was parked for replay.
    pub news: Arc<Notify>,
}

impl Parking {
    /// Writes the marker. There already is as good as written now: the key names the revision.
    pub async fn park(&self, what: &Parkable, lot: Lot, reason: &str) -> Result<(), String> {
        let marker = Marker {
            v: 1,
            document_id: what.document_id.clone(),
            bucket: what.bucket.clone(),
            key: what.key.clone(),
            revision: what.revision,
            reason: reason.to_owned(),
            failed_at: rfc3339(self.clock.unix_ms()),
        };
        let day = date(what.recorded_ms);
        let key = match lot {
            Lot::Retry => layout::parked(&day, &self.namespace, &what.document_id, what.revision),
            Lot::Errored => layout::errored(&day, &self.namespace, &what.document_id, what.revision),
        };
        failpoint!(BeforePark);
        self.write(&key, &marker).await?;
        failpoint!(AfterParkAck);
        match lot {
            Lot::Retry => self.news.notify_one(),
            Lot::Errored => {}
        }
        Ok(())
    }

    /// Writes the marker into the other lot, under the same tail (replay gives up, or an operator resets). Whether this
    /// call wrote it decides who may remove the first one: see `replay::one` and `parked::reset`.
    pub async fn copy(&self, tail: &str, lot: Lot, marker: &Marker) -> Result<Written, String> {
        let written = self.write(&format!("{}{tail}", lot.prefix()), marker).await?;
        match lot {
            Lot::Retry => self.news.notify_one(),
            Lot::Errored => {}
        }
        Ok(written)
    }

    async fn write(&self, key: &str, marker: &Marker) -> Result<Written, String> {
        let body = Bytes::from(serde_json::to_vec(marker).map_err(|error| error.to_string())?);
        match tokio::time::timeout(PARK_LIMIT, self.acknowledged(key, body)).await {
            Ok(Ok(Some(written))) => Ok(written),
            Ok(Ok(None)) => Err(format!("lost every race for {key}, and it is not there")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {PARK_LIMIT:?}")),
        }
    }

    /// A conflict is a 412, which proves that the marker is there, or a 409, which proves nothing: it is looked at.
    async fn acknowledged(&self, key: &str, body: Bytes) -> Result<Option<Written>, StoreError> {
        for _ in 0..3 {
            let put = self.store.put(&self.bucket, key, body.clone(), &BTreeMap::new(), Condition::Absent).await?;
            match put {
                PutReply::Written { .. } => return Ok(Some(Written::Now)),
                PutReply::Conflict if self.store.head(&self.bucket, key).await?.is_some() => {
                    return Ok(Some(Written::Before));
                }
                PutReply::Conflict => {}
            }
        }
        Ok(None)
    }
}
