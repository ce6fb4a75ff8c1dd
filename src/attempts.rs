//! Our own account of a message's troubles, at `attempts/…` in the results bucket: its failed attempts, and the `begun`
//! marks of work that has not ended.
//!
//! Promises that only real failures are charged (`ApproximateReceiveCount` also counts deploys, peeks and lost polls),
//! that a fresh message costs no call (read only when the receive count is above 1, written only when something failed
//! or a mark is due), and that every write is conditional: failures never erase marks, nor marks failures. Knows no
//! outcome table and draws no conclusion from a mark: `settle` and [`crate::crash_loop`] do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::{WallClock, rfc3339};
use crate::message::{Message, MessageId, Namespace};
use crate::store::{Condition, PutReply, Store, StoreError, layout, read_all};

/// Largest attempts record read; one is a few hundred bytes.
const LIMIT: usize = 64 * 1024;
/// Reasons kept, the newest last.
const KEPT_REASONS: usize = 10;
/// Lost races for one record before giving up: two workers can hold a message only while a lease overlaps.
const RACES: usize = 4;
/// One read and one write of a small object.
const STEP_LIMIT: Duration = Duration::from_secs(10);

/// What is written down. A worker older than the marks reads it, and drops them where it charges a failure: during a
/// roll-back a crash may go uncounted, nothing more.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Attempts {
    /// Version of this format; fields may be added to it.
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
    /// Marks of work that was begun and has not ended: its worker is at work, or was killed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub begun: Vec<Begun>,
    /// The delivery whose failure was charged last: a write whose reply was lost is met again as somebody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charged: Option<Charged>,
    /// When a mark was last taken out, or a worker last looked whether marks can be written, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub touched_at: Option<String>,
}

/// One `begun` mark.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Begun {
    /// The incarnation of a worker that began the work: `run_id` of its log lines.
    pub run: String,
    /// When, RFC 3339.
    pub at: String,
    /// `ApproximateReceiveCount` of the delivery that was begun.
    #[serde(default)]
    pub receive_count: u32,
}

/// One delivery, in the hands of one incarnation of a worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Charged {
    /// `run_id` of its log lines.
    pub run: String,
    /// `ApproximateReceiveCount` of the delivery.
    pub receive_count: u32,
}

impl Attempts {
    /// Marks of other incarnations than `run`. Its own is no crash: it lives.
    pub fn begun_by_others<'a>(&'a self, run: &'a str) -> impl Iterator<Item = &'a Begun> {
        self.begun.iter().filter(move |mark| mark.run != run)
    }

    /// The crashes that the marks of others tell of, as failed attempts.
    pub fn count_crashes(&mut self, run: &str) {
        let times: Vec<String> = self.begun_by_others(run).map(|mark| mark.at.clone()).collect();
        self.failed = self.failed.saturating_add(u32::try_from(times.len()).unwrap_or(u32::MAX));
        // RFC 3339 in UTC, one width: the order of the text is that of time.
        self.first_failed_at = times.iter().chain(&self.first_failed_at).min().cloned();
        self.last_failed_at = times.iter().chain(&self.last_failed_at).max().cloned();
    }

    /// `run` has ended what it began at this delivery or before.
    fn end(&mut self, run: &str, receive_count: u32) {
        // A later delivery of the same incarnation may be in work already: that mark is not ours to take.
        self.begun.retain(|mark| mark.run != run || mark.receive_count > receive_count);
    }
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

/// An attempts record that could not be read or written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// A sentence.
    pub detail: String,
    /// This record's own trouble: waiting will not bring it. Otherwise the store is sick.
    pub of_this_record: bool,
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
    /// This incarnation of the worker: unique to the process, for a mark must tell the dead from the living.
    pub run: String,
}

impl AttemptsLog {
    /// What was recorded. A first delivery has no record by definition, and costs no call.
    pub async fn read(&self, message: &MessageId, receive_count: u32) -> Result<Seen, Trouble> {
        if receive_count <= 1 { Ok(Seen::default()) } else { in_time(self.look(message)).await }
    }

    /// Writes one more failure down, and with it that this work has ended; returns the record as written.
    pub async fn charge(&self, message: &Message, seen: Seen, reason: &str) -> Result<Attempts, Trouble> {
        let this = Charged { run: self.run.clone(), receive_count: message.receive_count };
        let charge = |attempts: &mut Attempts, now: String| {
            if attempts.charged.as_ref() == Some(&this) {
                return; // the reply of our own write was lost: one failure is charged once
            }
            attempts.charged = Some(this.clone());
            attempts.failed = attempts.failed.saturating_add(1);
            attempts.first_failed_at.get_or_insert_with(|| now.clone());
            attempts.last_failed_at = Some(now);
            attempts.reasons.push(reason.chars().take(200).collect());
            let surplus = attempts.reasons.len().saturating_sub(KEPT_REASONS);
            attempts.reasons.drain(..surplus);
            attempts.end(&self.run, message.receive_count);
        };
        in_time(self.write(&message.id, seen, charge)).await
    }

    /// Marks the work on this delivery as begun, over exactly what was seen; an older mark of ours is replaced. `None`:
    /// somebody has written since, and what was seen must be judged anew.
    pub async fn begin(&self, message: &Message, seen: &Seen) -> Result<Option<Seen>, Trouble> {
        let begin = |attempts: &mut Attempts, at: String| {
            attempts.begun.retain(|mark| mark.run != self.run);
            attempts.begun.push(Begun { run: self.run.clone(), at, receive_count: message.receive_count });
        };
        in_time(self.write_once(&message.id, seen, begin)).await
    }

    /// Takes our mark out. Writes also where none is seen: one whose reply was lost must not land afterwards, and over
    /// an etag that has changed it cannot.
    pub async fn clear(&self, message: &Message, seen: Option<Seen>) -> Result<(), Trouble> {
        let clear = |attempts: &mut Attempts, now: String| {
            attempts.end(&self.run, message.receive_count);
            attempts.touched_at = Some(now);
        };
        let cleared = async {
            let seen = match seen {
                Some(seen) => seen,
                None => self.look(&message.id).await?,
            };
            self.write(&message.id, seen, clear).await
        };
        in_time(cleared).await.map(|_| ())
    }

    /// Shows that the store takes writes; the record as it is then.
    pub async fn touch(&self, message: &MessageId, seen: Seen) -> Result<Seen, Trouble> {
        let touch = |attempts: &mut Attempts, now: String| attempts.touched_at = Some(now);
        in_time(async {
            match self.write_once(message, &seen, touch).await? {
                Some(written) => Ok(written),
                None => self.look(message).await, // somebody else's write is as good
            }
        })
        .await
    }

    async fn look(&self, message: &MessageId) -> Result<Seen, StoreError> {
        let key = layout::attempts(&self.namespace, message);
        let Some(object) = self.store.get(&self.bucket, &key).await? else { return Ok(Seen::default()) };
        let etag = Some(object.head.etag.clone());
        let bytes = read_all(object, LIMIT).await?;
        // An unreadable record must not make a message immortal or condemn it: it counts as empty and is overwritten.
        Ok(Seen { attempts: serde_json::from_slice(&bytes).unwrap_or_default(), etag })
    }

    /// Repeated for each lost race, on what the winner has written.
    async fn write(
        &self,
        message: &MessageId,
        mut seen: Seen,
        change: impl Fn(&mut Attempts, String),
    ) -> Result<Attempts, StoreError> {
        for _ in 0..RACES {
            match self.write_once(message, &seen, &change).await? {
                Some(written) => return Ok(written.attempts),
                None => seen = self.look(message).await?,
            }
        }
        Err(StoreError::Unavailable(format!("lost {RACES} races for the attempts of {message}")))
    }

    /// `None` is a lost race.
    async fn write_once(
        &self,
        message: &MessageId,
        seen: &Seen,
        change: impl FnOnce(&mut Attempts, String),
    ) -> Result<Option<Seen>, StoreError> {
        let mut attempts = Attempts { v: 1, message_id: message.0.clone(), ..seen.attempts.clone() };
        change(&mut attempts, rfc3339(self.clock.unix_ms()));
        let body = serde_json::to_vec(&attempts).map_err(|error| StoreError::Refused(error.to_string()))?;
        let condition = seen.etag.clone().map_or(Condition::Absent, Condition::Match);
        let key = layout::attempts(&self.namespace, message);
        match self.store.put(&self.bucket, &key, Bytes::from(body), &BTreeMap::new(), condition).await? {
            PutReply::Written { etag } => Ok(Some(Seen { attempts, etag: Some(etag) })),
            PutReply::Conflict => Ok(None),
        }
    }
}

async fn in_time<T>(step: impl Future<Output = Result<T, StoreError>>) -> Result<T, Trouble> {
    match tokio::time::timeout(STEP_LIMIT, step).await {
        Ok(ended) => ended.map_err(|error| {
            let of_this_record = match error {
                StoreError::Denied(_) | StoreError::Archived(_) | StoreError::Refused(_) => true,
                // A body that was cut may be whole the next time: what it says must not be guessed.
                StoreError::Interrupted(_)
                | StoreError::Throttled(_)
                | StoreError::BucketMissing(_)
                | StoreError::Unavailable(_) => false,
            };
            Trouble { detail: error.to_string(), of_this_record }
        }),
        Err(_) => Err(Trouble { detail: format!("no answer within {STEP_LIMIT:?}"), of_this_record: false }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(run: &str, receive_count: u32) -> Begun {
        Begun { run: run.into(), at: "2026-11-22T00:00:00.000Z".into(), receive_count }
    }

    #[test]
    fn a_record_of_an_older_version_is_read_and_ours_is_readable_for_it() {
        let old = r#"{"v":1,"message_id":"m","failed":2,"first_failed_at":"a","last_failed_at":"b","reasons":["x"]}"#;
        let read: Attempts = serde_json::from_str(old).unwrap();
        assert_eq!((read.failed, read.begun.len(), read.touched_at.as_deref()), (2, 0, None));
        assert_eq!(serde_json::to_string(&read).unwrap(), old, "without marks it is what it was");

        /// As the version before the marks had it.
        #[derive(Deserialize)]
        struct Before {
            failed: u32,
            reasons: Vec<String>,
        }
        let ours = Attempts { begun: vec![mark("r", 5)], touched_at: Some("t".into()), ..read };
        let before: Before = serde_json::from_str(&serde_json::to_string(&ours).unwrap()).unwrap();
        assert_eq!((before.failed, before.reasons.len()), (2, 1));
    }

    #[test]
    fn crashes_are_failed_attempts_with_their_times() {
        let at = |day: u32| format!("2026-11-{day}T00:00:00.000Z");
        let crash = |day, run: &str| Begun { at: at(day), ..mark(run, 5) };
        let begun = vec![crash(22, "a"), crash(24, "b"), crash(26, "us")];
        let mut attempts = Attempts { begun: begun.clone(), ..Attempts::default() };
        attempts.count_crashes("us");
        assert_eq!(
            (attempts.failed, attempts.first_failed_at, attempts.last_failed_at),
            (2, Some(at(22)), Some(at(24)))
        );
        let (first, last) = (Some(at(20)), Some(at(25)));
        let mut attempts = Attempts {
            failed: 1,
            first_failed_at: first.clone(),
            last_failed_at: last.clone(),
            begun,
            ..Attempts::default()
        };
        attempts.count_crashes("us");
        assert_eq!((attempts.failed, attempts.first_failed_at, attempts.last_failed_at), (3, first, last));
    }

    #[test]
    fn an_end_takes_its_own_mark_and_no_other() {
        let table = [
            (vec![mark("us", 5)], 5, 0, "ours"),
            (vec![mark("us", 4)], 5, 0, "an older one of ours: we live"),
            (vec![mark("us", 6)], 5, 1, "of a later delivery that is in work already"),
            (vec![mark("them", 5)], 5, 1, "another's"),
            (vec![mark("them", 4), mark("us", 5)], 5, 1, "both"),
        ];
        for (begun, receive_count, left, why) in table {
            let mut attempts = Attempts { begun, ..Attempts::default() };
            attempts.end("us", receive_count);
            assert_eq!(attempts.begun.len(), left, "{why}");
        }
    }
}
