//! The fleet-wide pause: one object in the results bucket, written by `redrive pause`, that every worker looks at.
//!
//! Promises that every worker of this bucket, of whatever namespace, sends no new poll and replays nothing within 5 s
//! while S3 answers within a second, and until the object is gone, across restarts: before the first look has an answer
//! nothing is received. Polls that are open end by themselves (a cancelled one hides messages); what they bring is done.
//! While S3 does not answer, the last known state stands. What cannot be understood is a pause. Work in hand is finished
//! and settled; it hears nothing of this. Knows no queue.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::events::{self, Event};
use crate::gate::Gate;
use crate::message::detail::detail;
use crate::retry::Jitter;
use crate::store::layout::PAUSE;
use crate::store::{Condition, PutReply, Store, StoreError, read_all};

pub mod operator;

/// From one look to the next, in [½, 1) of this: 1,600 GETs an hour and worker, $0.0006 at S3's $0.0004 per 1,000
/// (us-east-1, 2026).
const LOOKS: Duration = Duration::from_secs(3);
/// One look. Short: the next one asks again anyway.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
/// Looks in a row without an answer that are worth a line: the pause is not seen for about 10 s.
const BLIND: u32 = 3;
/// The object's bytes; more is not ours.
const LIMIT: usize = 64 * 1024;
/// The hand that holds the gate.
const HAND: &str = "fleet";

/// The body of the object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pause {
    /// Version of this format: 1.
    pub v: u32,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// Who.
    #[serde(default)]
    pub by: String,
    /// Since when, RFC 3339.
    #[serde(default)]
    pub at: String,
}

/// What lies in the bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Nothing.
    Running,
    /// A pause.
    Paused(Pause),
    /// Something that is no pause we know: taken for one.
    Unreadable {
        /// Why it cannot be read.
        why: String,
        /// To write over it, and over nothing else.
        etag: String,
    },
}

impl Standing {
    fn read(bytes: &[u8], etag: &str) -> Self {
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        // The version first: a later one may have other fields.
        let read = match serde_json::from_slice::<Version>(bytes) {
            Ok(Version { v: 1 }) => serde_json::from_slice::<Pause>(bytes).map_err(|error| error.to_string()),
            Ok(Version { v }) => Err(format!("its version is {v}, and 1 is known here")),
            Err(error) => Err(error.to_string()),
        };
        match read {
            Ok(Pause { v, reason, by, at }) => {
                Standing::Paused(Pause { v, reason: detail(&reason), by: detail(&by), at: detail(&at) })
            }
            Err(why) => Standing::Unreadable { why: detail(&why), etag: etag.to_owned() },
        }
    }
}

/// The object, in a results bucket.
#[derive(Clone)]
pub struct PauseFile {
    /// Where it is.
    pub store: Arc<dyn Store>,
    /// Results bucket.
    pub bucket: String,
}

impl PauseFile {
    /// One look.
    pub async fn look(&self) -> Result<Standing, StoreError> {
        look(self.store.as_ref(), &self.bucket).await
    }

    /// Writes a pause, where there is none or over what was seen.
    async fn write(&self, pause: &Pause, over: Option<String>) -> Result<PutReply, StoreError> {
        let body = serde_json::to_vec(pause).map_err(|error| StoreError::Refused(error.to_string()))?;
        let condition = over.map_or(Condition::Absent, Condition::Match);
        self.store.put(&self.bucket, PAUSE, Bytes::from(body), &BTreeMap::new(), condition).await
    }
}

/// One look; an error says nothing about the pause.
pub async fn look(store: &dyn Store, bucket: &str) -> Result<Standing, StoreError> {
    let Some(object) = store.get(bucket, PAUSE).await? else { return Ok(Standing::Running) };
    let (size, etag) = (object.head.size, object.head.etag.clone());
    if size > LIMIT as u64 {
        return Ok(Standing::Unreadable { why: format!("it has {size} bytes"), etag });
    }
    Ok(Standing::read(&read_all(object, LIMIT).await?, &etag))
}

/// The station of one worker.
pub struct Watch {
    /// What is looked at.
    pub file: PauseFile,
    /// Spread of looks: workers must not ask in step.
    pub jitter: Arc<Jitter>,
}

impl Watch {
    /// Obeys until told to stop. Holds the gate from its first poll on: spawn it before the receivers.
    pub fn run(self, gate: Arc<Gate>, stop: CancellationToken) -> impl Future<Output = ()> + Send {
        gate.wait_for_word(HAND);
        async move {
            let watching = async {
                let mut blind = 0;
                loop {
                    match tokio::time::timeout(LOOK_LIMIT, self.file.look()).await {
                        Ok(Ok(standing)) => {
                            if blind >= BLIND {
                                told("is seen again".to_owned());
                            }
                            blind = 0;
                            gate.store_answered(Ok(()));
                            self.obey(&gate, standing);
                        }
                        Ok(Err(error)) => self.unseen(&gate, &mut blind, &error.to_string()),
                        Err(_) => {
                            self.unseen(&gate, &mut blind, &format!("no answer within {} s", LOOK_LIMIT.as_secs()));
                        }
                    }
                    tokio::time::sleep(self.jitter.half_to_one(LOOKS)).await;
                }
            };
            tokio::select! { biased; () = stop.cancelled() => {}, () = watching => {} }
        }
    }

    /// Until the fleet is paused. For a command that has looked once at its start; like a worker it goes on while S3 does not
    /// answer.
    pub async fn until_paused(self) {
        loop {
            tokio::time::sleep(self.jitter.half_to_one(LOOKS)).await;
            match tokio::time::timeout(LOOK_LIMIT, self.file.look()).await {
                Ok(Ok(Standing::Running) | Err(_)) | Err(_) => {}
                Ok(Ok(Standing::Paused(_) | Standing::Unreadable { .. })) => return,
            }
        }
    }

    fn obey(&self, gate: &Gate, standing: Standing) {
        match standing {
            Standing::Running => gate.resume(HAND, "redrive resume"),
            Standing::Paused(Pause { reason, by, at, v: _ }) => {
                gate.pause(HAND, &by, &format!("{reason} (since {at}; to go on: redrive resume)"));
            }
            Standing::Unreadable { why, .. } => {
                let bucket = &self.file.bucket;
                let reason = format!(
                    "{PAUSE} in {bucket} cannot be read ({why}), which counts as a pause; \
                     fix: `redrive resume` removes it, `redrive pause` writes it anew"
                );
                gate.pause(HAND, PAUSE, &reason);
            }
        }
    }

    fn unseen(&self, gate: &Gate, blind: &mut u32, why: &str) {
        gate.store_answered(Err(why));
        *blind = blind.saturating_add(1);
        if *blind == BLIND {
            told(format!(
                "cannot be seen: {why}; the last known state stands (before the first look: nothing received)"
            ));
        }
    }
}

fn told(what: String) {
    events::Notice { detail: format!("{PAUSE} {what}") }.emit();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pause_that_is_understood_is_read_and_all_else_is_one_that_is_not() {
        let pause = |reason: &str, by: &str, at: &str| {
            Some(Pause { v: 1, reason: reason.into(), by: by.into(), at: at.into() })
        };
        let table = [
            (r#"{"v":1,"reason":"r","by":"b","at":"2026-11-22T00:00:00Z"}"#, pause("r", "b", "2026-11-22T00:00:00Z")),
            (r#"{"v":1,"reason":"r","by":"b","at":"t","new":[1]}"#, pause("r", "b", "t")),
            (r#"{"v":1}"#, pause("", "", "")),
            ("{\"v\":1,\"reason\":\"a\\n\\u001b[2Jb\"}", pause("a\\n\\u{1b}[2Jb", "", "")),
            (r#"{"v":2,"reason":"r","by":"b","at":"t"}"#, None),
            (r#"{"reason":"r"}"#, None),
            (r#"{"v":1,"reason":7}"#, None),
            (r#"{"v":"1"}"#, None),
            ("", None),
            ("null", None),
            ("false", None),
            ("\u{feff}{\"v\":1}", None),
            (r#"{"v":1,"reason":"cut o"#, None),
        ];
        for (body, expected) in table {
            match (Standing::read(body.as_bytes(), "e"), expected) {
                (Standing::Paused(seen), Some(expected)) => assert_eq!(seen, expected, "{body}"),
                (Standing::Unreadable { why, etag }, None) => assert!(!why.is_empty() && etag == "e", "{body}"),
                (seen, expected) => panic!("{body}: {seen:?}, expected {expected:?}"),
            }
        }
        assert!(matches!(Standing::read(b"\xff\xfe", "e"), Standing::Unreadable { .. }));
    }

    #[test]
    fn a_look_and_the_wait_for_it_fit_into_five_seconds() {
        // Written just after a look was answered: the wait, then a look that S3 answers within a second.
        assert!(LOOKS + Duration::from_secs(1) + Duration::from_secs(1) <= Duration::from_secs(5));
    }
}
