//! Our own attempt budget: failed attempts of a message, at `attempts/…` in the results bucket.
//!
//! Promises that only real failures are charged (`ApproximateReceiveCount` also counts deploys, peeks and lost polls),
//! and that a fresh message costs no call: it is read only when the receive count is above 1, and written only when
//! something failed. Knows no outcome table; the settler is its only caller.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::{WallClock, rfc3339};
use crate::message::{MessageId, Namespace};
use crate::store::{Condition, PutReply, Store, StoreError, layout, read_all};

/// Largest attempts record read; one is a few hundred bytes.
const LIMIT: usize = 64 * 1024;
/// Reasons kept, the newest last.
const KEPT_REASONS: usize = 10;
/// Lost races for one record before giving up: two workers can hold a message only while a lease overlaps.
const RACES: usize = 4;

/// What is written down.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Attempts {
    /// Version of this format.
    pub v: u32,
    /// The message.
    pub message_id: String,
    /// Charged failures.
    pub failed: u32,
    /// First failure, RFC 3339.
    pub first_failed_at: Option<String>,
    /// Last failure, RFC 3339.
    pub last_failed_at: Option<String>,
    /// Reasons of the last failures.
    #[serde(default)]
    pub reasons: Vec<String>,
}

/// A record as read, with what a conditional write needs.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The record; empty where there is none.
    pub attempts: Attempts,
    etag: Option<String>,
}

impl Seen {
    /// Stands in for a record that is out of reach: every earlier delivery counts as a failed attempt.
    pub fn counted(receive_count: u32) -> Self {
        let attempts = Attempts { failed: receive_count.saturating_sub(1), ..Attempts::default() };
        Self { attempts, etag: None }
    }
}

/// The records of one namespace.
pub struct AttemptsLog {
    /// Results bucket and its store.
    pub store: Arc<dyn Store>,
    /// Results bucket.
    pub bucket: String,
    /// Scope.
    pub namespace: Namespace,
    /// For the times written down.
    pub clock: Arc<dyn WallClock>,
}

impl AttemptsLog {
    /// What was recorded. A first delivery has no record by definition, and costs no call.
    pub async fn read(&self, message: &MessageId, receive_count: u32) -> Result<Seen, StoreError> {
        if receive_count <= 1 { Ok(Seen::default()) } else { self.look(message).await }
    }

    async fn look(&self, message: &MessageId) -> Result<Seen, StoreError> {
        let key = layout::attempts(&self.namespace, message);
        let Some(object) = self.store.get(&self.bucket, &key).await? else { return Ok(Seen::default()) };
        let etag = Some(object.head.etag.clone());
        let bytes = read_all(object, LIMIT).await?;
        // An unreadable record must not make a message immortal or condemn it: it counts as empty and is overwritten.
        Ok(Seen { attempts: serde_json::from_slice(&bytes).unwrap_or_default(), etag })
    }

    /// Writes one more failure down; returns the record as written.
    pub async fn charge(&self, message: &MessageId, mut seen: Seen, reason: &str) -> Result<Attempts, StoreError> {
        let key = layout::attempts(&self.namespace, message);
        for _ in 0..RACES {
            let now = rfc3339(self.clock.unix_ms());
            let mut attempts = seen.attempts.clone();
            attempts.v = 1;
            attempts.message_id = message.0.clone();
            attempts.failed = attempts.failed.saturating_add(1);
            attempts.first_failed_at.get_or_insert_with(|| now.clone());
            attempts.last_failed_at = Some(now);
            attempts.reasons.push(reason.chars().take(200).collect());
            let surplus = attempts.reasons.len().saturating_sub(KEPT_REASONS);
            attempts.reasons.drain(..surplus);
            let body = serde_json::to_vec(&attempts).map_err(|error| StoreError::Refused(error.to_string()))?;
            let condition = seen.etag.clone().map_or(Condition::Absent, Condition::Match);
            match self.store.put(&self.bucket, &key, Bytes::from(body), &BTreeMap::new(), condition).await? {
                PutReply::Written { .. } => return Ok(attempts),
                PutReply::Conflict => seen = self.look(message).await?,
            }
        }
        Err(StoreError::Unavailable(format!("lost {RACES} races for {key}")))
    }
}
