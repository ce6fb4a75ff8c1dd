//! The acts of a batch: into the index, into the archive, back to the main queue.
//!
//! Promises that each act is done or left by its own acknowledgement, entry by entry, and that no letter is sent whose
//! lease is gone: somebody else may have it. Settles nothing.

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};

use crate::index::SidePath;
use crate::lease::Lease;
use crate::message::{DocumentId, MessageId};
use crate::outcome::Indexed;
use crate::process::record::Record;
use crate::queue::Outgoing;
use crate::store::{layout, read_all};

use super::audit::{Audit, Line};
use super::decide::Action;
use super::drain::{Drain, Run, Sink, TOGETHER};
use super::letter::Letter;
use super::look::Look;

/// Largest record read.
const RECORD_LIMIT: usize = 64 * 1024 * 1024;
/// Messages sent within a batch until the main queue is looked at again; fewer where fewer may wait in it.
const LOOK_EVERY: u64 = 500;
/// Keys of a letter that its line names: a letter of 1 MiB may have thousands, and a part must be writable in time.
const MOST_KEYS: usize = 20;
/// One record into the index, or parked.
const BRING_LIMIT: Duration = Duration::from_secs(120);

/// A letter of a batch.
pub(super) struct Item {
    pub(super) lease: Lease,
    pub(super) letter: Letter,
    pub(super) action: Action,
    pub(super) unindexed: Vec<DocumentId>,
    pub(super) did: Did,
}

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Did {
    Dropped,
    Indexed,
    Parked,
    /// Its new id.
    Resent(MessageId),
    /// Where.
    Archived(String),
    /// Why.
    Left(String),
}

impl Did {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Did::Dropped => "dropped",
            Did::Indexed => "indexed",
            Did::Parked => "parked",
            Did::Resent(_) => "resent",
            Did::Archived(_) => "archived",
            Did::Left(_) => "left",
        }
    }
}

const PAUSED: &str = "the fleet was paused before its turn";
const LOST: &str = "its lease ended before it was acted upon";

impl Run {
    /// Does what was decided, and writes into each item what became of it.
    pub(super) async fn act(&mut self, items: &mut [Item], sink: &mut dyn Sink) {
        let of = &self.of;
        let acts: Vec<BoxFuture<'_, Option<Did>>> = items.iter().map(|item| act_on(of, item).boxed()).collect();
        let done: Vec<Option<Did>> = futures_util::stream::iter(acts).buffered(TOGETHER).collect().await;
        let mut sends = Vec::new();
        for (at, (item, did)) in items.iter_mut().zip(done).enumerate() {
            match did {
                Some(did) => item.did = did,
                None => sends.push(at),
            }
        }
        self.send(items, &sends, sink).await;
    }

    async fn send(&mut self, items: &mut [Item], sends: &[usize], sink: &mut dyn Sink) {
        // Before the first, the batch itself has looked.
        let (mut unlooked, mut full) = (0, None);
        for places in sends.chunks(self.of.outbox.batch()) {
            if unlooked >= LOOK_EVERY.min(self.of.limits.max_backlog) && full.is_none() {
                (unlooked, full) = (0, self.until_there_is_room(sink).await.err());
            }
            // The fleet stands still within seconds, and a batch may last hours at a low rate.
            let paused = self.of.paused.is_cancelled().then(|| PAUSED.to_owned());
            if let Some(why) = paused.or_else(|| full.clone()) {
                for at in places {
                    if let Some(item) = items.get_mut(*at) {
                        item.did = Did::Left(why.clone());
                    }
                }
                continue;
            }
            unlooked += places.len() as u64;
            let (mut outgoing, mut live): (Vec<Outgoing>, Vec<usize>) = (Vec::new(), Vec::new());
            for at in places {
                let Some(item) = items.get_mut(*at) else { continue };
                if !item.lease.term().is_live() {
                    item.did = Did::Left(LOST.to_owned());
                } else if let Some(message) = item.letter.back(&self.of.audit.run_id, &self.of.source_queue) {
                    outgoing.push(message);
                    live.push(*at);
                } else {
                    item.did = Did::Left("its attribute has no room for the count of its redrives".to_owned());
                }
            }
            let sent = self.of.outbox.post(&outgoing).await;
            for (place, at) in live.into_iter().enumerate() {
                let Some(item) = items.get_mut(at) else { continue };
                item.did = match sent.ids.get(place).cloned().flatten() {
                    Some(id) => Did::Resent(id),
                    None => Did::Left(format!("not sent: {}", sent.why)),
                };
            }
        }
    }
}

/// All but sends, which go together. `None`: it is to be sent.
async fn act_on(of: &Drain, item: &Item) -> Option<Did> {
    match &item.action {
        Action::Drop => Some(Did::Dropped),
        Action::Leave(why) => Some(Did::Left(why.clone())),
        Action::Resend => None,
        Action::Index => Some(bring(&of.look, &of.side_path, item).await),
        Action::Archive(why) => Some(match bring(&of.look, &of.side_path, item).await {
            Did::Left(why) => Did::Left(why),
            Did::Dropped | Did::Indexed | Did::Parked | Did::Resent(_) | Did::Archived(_) => {
                let run_id = Some(of.audit.run_id.as_str());
                let (message, note) = (&item.letter.message, item.letter.note.clone());
                match of.archive.keep(message, note, why.as_str(), &why.detail(), run_id).await {
                    Ok(key) => Did::Archived(key),
                    Err(error) => Did::Left(format!("it cannot be archived: {error}")),
                }
            }
        }),
    }
}

/// The records that the index lacks, into it or parked.
async fn bring(look: &Look, side_path: &SidePath, item: &Item) -> Did {
    let mut worst = Did::Indexed;
    for document_id in &item.unindexed {
        match tokio::time::timeout(BRING_LIMIT, one(look, side_path, document_id)).await {
            Ok(Ok(Indexed::Indexed)) => {}
            Ok(Ok(Indexed::Parked)) => worst = Did::Parked,
            Ok(Ok(Indexed::None)) => return Did::Left("it could neither be indexed nor parked".to_owned()),
            Ok(Err(why)) => return Did::Left(why),
            Err(_) => return Did::Left(format!("not indexed within {BRING_LIMIT:?}")),
        }
    }
    worst
}

async fn one(look: &Look, side_path: &SidePath, document_id: &DocumentId) -> Result<Indexed, String> {
    let key = layout::record(&look.namespace, document_id);
    let object = look.store.get(&look.results_bucket, &key).await.map_err(|error| format!("its record: {error}"))?;
    let Some(object) = object else { return Err("its record has gone meanwhile".to_owned()) };
    let bytes = read_all(object, RECORD_LIMIT).await.map_err(|error| format!("its record: {error}"))?;
    let record: Record = serde_json::from_slice(&bytes).map_err(|error| format!("its record: {error}"))?;
    let (entry, what) = record.index_entry()?;
    Ok(side_path.offer(entry, &what).await)
}

/// The audit of a batch.
pub(super) fn lines(audit: &Audit, items: &[Item]) -> Vec<Line> {
    let at = audit.now();
    let line = |item: &Item| {
        let Item { letter, did, action, .. } = item;
        let (new_message_id, archived, mut detail) = match did {
            Did::Resent(id) => (Some(id.0.clone()), None, String::new()),
            Did::Archived(key) => (None, Some(key.clone()), String::new()),
            Did::Left(why) => (None, None, why.clone()),
            Did::Dropped | Did::Indexed | Did::Parked => (None, None, String::new()),
        };
        if let (Did::Archived(_), Action::Archive(why)) = (did, action) {
            detail = format!("{}: {}", why.as_str(), why.detail());
        }
        let redrives = letter.note.as_ref().map_or(0, |note| note.redrives) + u32::from(new_message_id.is_some());
        Line {
            v: 1,
            at: at.clone(),
            run_id: audit.run_id.clone(),
            message_id: letter.message.id.0.clone(),
            original_message_id: letter.first_id().0,
            reason: letter.reason().to_owned(),
            action: did.name(),
            detail,
            keys: letter.keys().into_iter().take(MOST_KEYS).map(str::to_owned).collect(),
            keys_in_all: letter.keys().len(),
            redrives,
            new_message_id,
            archived,
        }
    };
    items.iter().map(line).collect()
}
