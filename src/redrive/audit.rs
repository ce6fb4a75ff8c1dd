//! What a run did, written down before anything is deleted: one part for each batch.
//!
//! Promises that no letter leaves the DLQ without a line here that says what became of it, and that a part is written
//! once (`If-None-Match`) or the run stops, before its first send where none can be written. Reads nothing back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use crate::clock::{WallClock, rfc3339};
use crate::retry::{Backoff, Jitter};
use crate::store::{Condition, PutReply, Store, layout};

/// One PUT.
const LIMIT: Duration = Duration::from_secs(15);
/// Tries of a part; the leases live on meanwhile.
const TRIES: u32 = 6;
const AGAIN: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(15) };

/// What became of one letter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Line {
    /// Version of this format: 1.
    pub v: u32,
    /// When the part was written, RFC 3339.
    pub at: String,
    /// The run.
    pub run_id: String,
    /// Id of the letter in the DLQ.
    pub message_id: String,
    /// Id under which it was first sent.
    pub original_message_id: String,
    /// Why it was in the DLQ.
    pub reason: String,
    /// `dropped`, `indexed`, `parked`, `resent`, `archived`, `left`.
    pub action: &'static str,
    /// Why, where there is more to say.
    pub detail: String,
    /// Source keys, the first twenty.
    pub keys: Vec<String>,
    /// How many there are.
    pub keys_in_all: usize,
    /// How often it has been redriven, this time included.
    pub redrives: u32,
    /// Its new id in the main queue.
    pub new_message_id: Option<String>,
    /// Where it was archived.
    pub archived: Option<String>,
}

/// Where the parts go.
pub struct Audit {
    /// Results bucket's store.
    pub store: Arc<dyn Store>,
    /// Results bucket.
    pub bucket: String,
    /// For `at`.
    pub clock: Arc<dyn WallClock>,
    /// Spread of tries.
    pub jitter: Arc<Jitter>,
    /// The run.
    pub run_id: String,
}

impl Audit {
    /// Now, as the lines have it.
    pub fn now(&self) -> String {
        rfc3339(self.clock.unix_ms())
    }

    /// Part 0, without a line: where nothing can be written down nothing may be sent, or each new run would send the same
    /// letters again. The error is a sentence.
    pub async fn open(&self) -> Result<String, String> {
        self.write(0, &[]).await
    }

    /// Writes a part. The error is a sentence.
    pub async fn write(&self, batch: u64, lines: &[Line]) -> Result<String, String> {
        let key = layout::redrive_part(&self.run_id, batch);
        let mut body = String::new();
        for line in lines {
            body += &serde_json::to_string(line).map_err(|error| error.to_string())?;
            body.push('\n');
        }
        let body = Bytes::from(body);
        let (mut why, none) = (String::new(), BTreeMap::new());
        for round in 0..TRIES {
            if round > 0 {
                tokio::time::sleep(AGAIN.wait(round - 1, &self.jitter)).await;
            }
            let put = self.store.put(&self.bucket, &key, body.clone(), &none, Condition::Absent);
            match tokio::time::timeout(LIMIT, put).await {
                Ok(Ok(PutReply::Written { .. })) => return Ok(key),
                // The name is this run's and this batch's: it is our own write, whose reply was lost. A 409 is looked at.
                Ok(Ok(PutReply::Conflict)) => match self.is_there(&key).await {
                    Ok(true) => return Ok(key),
                    Ok(false) => why = "a conflict, and it is not there".to_owned(),
                    Err(told) => why = told,
                },
                Ok(Err(error)) => why = error.to_string(),
                Err(_) => why = format!("no answer within {LIMIT:?}"),
            }
        }
        Err(format!("the audit {key} cannot be written: {why}"))
    }

    async fn is_there(&self, key: &str) -> Result<bool, String> {
        match tokio::time::timeout(LIMIT, self.store.head(&self.bucket, key)).await {
            Ok(Ok(head)) => Ok(head.is_some()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {LIMIT:?}")),
        }
    }
}
