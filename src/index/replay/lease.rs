//! The advisory lease of the replayer: `control/replay.json`, one for a results bucket.
//!
//! Promises that of the replayers that can reach it one at a time replays, and that none is waited for longer than it
//! lives: a lease whose etag has not changed for 60 s on the reader's own clock is taken over, whoever wrote it and
//! whatever it says, so that neither a dead holder nor an object that cannot be read stops replay. One that is out of
//! reach (denied, while the rest of the bucket answers) is done without after the same 60 s. More it need not promise:
//! replay is idempotent, two at once cost requests and nothing else. It is never deleted (the worker may not): a clean
//! end writes that nobody holds it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::{WallClock, rfc3339};
use crate::events::{self, Event};
use crate::message::Namespace;
use crate::message::detail::detail;
use crate::store::layout::REPLAY;
use crate::store::{Condition, PutReply, Store, StoreError, read_all};

/// An etag that has not changed for this long is a dead holder's (design §5).
pub const EXPIRES: Duration = Duration::from_secs(60);
/// The holder writes this often: three beats may be lost in a row.
const BEATS: Duration = Duration::from_secs(15);
/// After a beat that failed.
const BEAT_AGAIN: Duration = Duration::from_secs(3);
/// A holder that has not been acknowledged for this long stops, before anybody may take over.
const GIVEN_UP: Duration = Duration::from_secs(50);
/// One call.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// All calls of a release: a process that ends waits for no more.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);
/// The object's bytes; more is not ours.
const LIMIT: usize = 64 * 1024;

/// Who replays.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replaying {
    /// Never the same twice.
    pub id: String,
    /// For people: `worker … on host`.
    pub by: String,
}

/// The object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Body {
    /// Version of this format: 1.
    v: u32,
    /// `None`: nobody.
    holder: Option<String>,
    by: String,
    namespace: String,
    since: String,
    /// Grows, so that no two bodies have the same etag.
    beat: u64,
}

/// Who holds it, as the object says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// Who.
    pub by: String,
    /// For which documents.
    pub namespace: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// Of the object: it has changed when the holder lives.
    pub etag: String,
}

/// The answer to "may I replay?".
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Taken {
    /// Yes: it is ours.
    Ours,
    /// Yes, without it: it is out of reach, and has been for long enough.
    Without,
    /// No.
    Held(Holder),
    /// Not yet: the store does not say.
    OutOfReach(StoreError),
}

/// One replayer's side of the lease.
pub struct Lease {
    store: Arc<dyn Store>,
    bucket: String,
    namespace: Namespace,
    me: Replaying,
    clock: Arc<dyn WallClock>,
    /// Another's etag, and when it was first seen.
    seen: Option<(String, Instant)>,
    /// Ours, while we hold it, and since when.
    held: Option<(String, String)>,
    beat: u64,
    /// A write that would make it ours has not been answered.
    unsure: bool,
    out_of_reach: Option<Instant>,
    lost: CancellationToken,
}

enum Found {
    Nothing,
    Body(Body, String),
    Unreadable(String, String),
}

impl Lease {
    /// Not held yet.
    pub fn new(
        store: Arc<dyn Store>,
        bucket: &str,
        namespace: &Namespace,
        me: Replaying,
        clock: Arc<dyn WallClock>,
    ) -> Self {
        let (bucket, namespace, lost) = (bucket.to_owned(), namespace.clone(), CancellationToken::new());
        let (seen, held, out_of_reach) = (None, None, None);
        Self { store, bucket, namespace, me, clock, seen, held, beat: 0, unsure: false, out_of_reach, lost }
    }

    /// Takes it, if it is free, expired or ours.
    pub async fn take(&mut self) -> Taken {
        self.lost = CancellationToken::new();
        match timeout(4 * CALL_LIMIT, self.try_take()).await.unwrap_or_else(|_elapsed| Err(late())) {
            Ok(taken) => {
                self.out_of_reach = None;
                taken
            }
            Err(error) => {
                let since = *self.out_of_reach.get_or_insert_with(Instant::now);
                if since.elapsed() < EXPIRES {
                    return Taken::OutOfReach(error);
                }
                Taken::Without
            }
        }
    }

    async fn try_take(&mut self) -> Result<Taken, StoreError> {
        let mut races = 0;
        loop {
            let (over, from) = match self.look().await? {
                Found::Nothing => (None, None),
                Found::Body(Body { holder: None, .. }, etag) => (Some(etag), None),
                Found::Body(Body { holder: Some(holder), .. }, etag) if holder == self.me.id => (Some(etag), None),
                Found::Body(Body { by, namespace, since, .. }, etag) => {
                    let holder = Holder { by: detail(&by), namespace: detail(&namespace), since: detail(&since), etag };
                    match self.has_expired(&holder.etag) {
                        true => (Some(holder.etag), Some(holder.by)),
                        false => return Ok(Taken::Held(holder)),
                    }
                }
                Found::Unreadable(why, etag) => {
                    let by = format!("an object that cannot be read ({why})");
                    match self.has_expired(&etag) {
                        true => (Some(etag), Some(by)),
                        false => {
                            let (namespace, since) = (String::new(), String::new());
                            return Ok(Taken::Held(Holder { by, namespace, since, etag }));
                        }
                    }
                }
            };
            let since = rfc3339(self.clock.unix_ms());
            self.unsure = true; // also where this call is cut short, or its reply is lost
            let written = self.write(Some(&since), over).await?;
            self.unsure = false;
            if let PutReply::Written { etag } = written {
                if let Some(from) = from {
                    let silence = EXPIRES.as_secs();
                    events::Notice { detail: format!("{REPLAY}: taken over from {from}, silent for {silence} s") }
                        .emit();
                }
                (self.seen, self.held) = (None, Some((etag, since)));
                return Ok(Taken::Ours);
            }
            races += 1;
            if races == 3 {
                return Err(StoreError::Throttled(format!("lost {races} races for {REPLAY}")));
            }
        }
    }

    fn has_expired(&mut self, etag: &str) -> bool {
        let now = Instant::now();
        match &self.seen {
            Some((seen, since)) if seen == etag => now.saturating_duration_since(*since) >= EXPIRES,
            Some(_) | None => {
                self.seen = Some((etag.to_owned(), now));
                false
            }
        }
    }

    /// Cancelled when the lease is lost, or done without and taken by nobody: what runs under it stops at its next step.
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Does some work, and writes beats beside it; where the lease is lost the work is told (see [`Lease::lost`]).
    pub async fn under<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            done = work => done,
            never = self.keep() => match never {},
        }
    }

    async fn keep(&mut self) -> Infallible {
        let mut acknowledged = Instant::now();
        let mut pause = BEATS;
        while self.held.is_some() {
            sleep(pause).await;
            let asked = Instant::now();
            match timeout(CALL_LIMIT, self.beat()).await.unwrap_or_else(|_elapsed| Err(late())) {
                Ok(true) => (acknowledged, pause) = (asked, BEATS),
                Ok(false) => self.held = None,
                Err(_) if acknowledged.elapsed() >= GIVEN_UP => self.held = None,
                Err(_) => pause = BEAT_AGAIN,
            }
            if self.held.is_none() {
                self.lost.cancel();
            }
        }
        std::future::pending().await
    }

    /// Whether it is ours still.
    async fn beat(&mut self) -> Result<bool, StoreError> {
        let Some((etag, since)) = self.held.clone() else { return Ok(false) };
        if let PutReply::Written { etag } = self.write(Some(&since), Some(etag)).await? {
            self.held = Some((etag, since));
            return Ok(true);
        }
        // Another's, or our own beat whose reply was lost.
        match self.look().await? {
            Found::Body(Body { holder: Some(holder), .. }, etag) if holder == self.me.id => {
                self.held = Some((etag, since));
                Ok(true)
            }
            Found::Body(..) | Found::Nothing | Found::Unreadable(..) => Ok(false),
        }
    }

    /// Says that nobody holds it. What fails here costs the next replayer its 60 s.
    pub async fn release(&mut self) {
        let releasing = async {
            if std::mem::take(&mut self.unsure)
                && let Ok(Found::Body(Body { holder: Some(holder), since, .. }, etag)) = self.look().await
                && holder == self.me.id
            {
                self.held = Some((etag, since));
            }
            while let Some((etag, _)) = self.held.clone() {
                match self.write(None, Some(etag)).await {
                    // A beat that was cut short may have landed.
                    Ok(PutReply::Conflict) if self.beat().await == Ok(true) => {}
                    Ok(_) | Err(_) => self.held = None,
                }
            }
        };
        let _ = timeout(RELEASE_LIMIT, releasing).await;
        self.held = None;
    }

    async fn look(&self) -> Result<Found, StoreError> {
        let Some(object) = self.store.get(&self.bucket, REPLAY).await? else { return Ok(Found::Nothing) };
        let (size, etag) = (object.head.size, object.head.etag.clone());
        if size > LIMIT as u64 {
            return Ok(Found::Unreadable(format!("it has {size} bytes"), etag));
        }
        Ok(match serde_json::from_slice::<Body>(&read_all(object, LIMIT).await?) {
            Ok(body) if body.v == 1 => Found::Body(body, etag),
            Ok(Body { v, .. }) => Found::Unreadable(format!("its version is {v}, and 1 is known here"), etag),
            Err(error) => Found::Unreadable(detail(&error.to_string()), etag),
        })
    }

    /// `since`: we hold it; `None`: nobody does.
    async fn write(&mut self, since: Option<&str>, over: Option<String>) -> Result<PutReply, StoreError> {
        self.beat += 1;
        let body = Body {
            v: 1,
            holder: since.map(|_| self.me.id.clone()),
            by: self.me.by.clone(),
            namespace: self.namespace.as_str().to_owned(),
            since: since.map_or_else(|| rfc3339(self.clock.unix_ms()), str::to_owned),
            beat: self.beat,
        };
        let bytes = serde_json::to_vec(&body).map_err(|error| StoreError::Refused(error.to_string()))?;
        let condition = over.map_or(Condition::Absent, Condition::Match);
        self.store.put(&self.bucket, REPLAY, Bytes::from(bytes), &BTreeMap::new(), condition).await
    }
}

fn late() -> StoreError {
    StoreError::Unavailable("no answer in time".into())
}
