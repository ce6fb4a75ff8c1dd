//! `redrive archive restore`: archived letters back into the workers' queue.
//!
//! Promises that a letter's object goes only after the queue has acknowledged its message (killed in between, the next
//! run sends it once more: a duplicate, which is harmless, and never a loss), that body, attributes and group are those
//! that were archived, and that an envelope, whose letter is still in the DLQ, is never sent. A run can be stopped
//! between any two batches; the same command goes on, for what is done is gone. It takes what was archived before it
//! began and nothing later: what fails again meanwhile and is archived by a drain beside it does not go round.
//!
//! The `Quittance` attribute of a restored letter says 0 redrives: an operator restores on purpose, after something was
//! mended, so it gets the whole budget again; with the old count the next failure would go straight back to the archive.
//! The first message id travels on.

use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::shelf::{Read, Selection, Shelf, TOGETHER};
use super::{Archived, Source};
use crate::dead_letter::{ATTRIBUTE, Note, VERSION};
use crate::message::{AttributeValue, MessageAttribute};
use crate::queue::Outgoing;
use crate::upkeep::outbox::{Outbox, Unsent};
use crate::upkeep::{Ended, Halt, Trouble, patiently};

/// Batches of which the queue took nothing, one after the other, until it is the queue's trouble and not the letters'.
const REFUSED_IN_A_ROW: u32 = 3;

/// One run.
pub struct Restore {
    /// The archive.
    pub shelf: Shelf,
    /// The workers' queue; `None` only counts.
    pub outbox: Option<Outbox>,
    /// Which letters.
    pub selection: Selection,
    /// At most so many.
    pub most: Option<u64>,
    /// Now, by the wall clock, Unix milliseconds: what is archived later is for another run.
    pub began_ms: u64,
    /// Asked before each letter and between two batches.
    pub stop: CancellationToken,
}

/// What was counted. `looked_at = sent + twice + refused + envelopes + unwanted + later + unreadable + gone`, once a run
/// is complete (with `--dry-run`: `sent` would be).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Tally {
    /// Objects that were read.
    pub looked_at: u64,
    /// Messages that the queue acknowledged; with `--dry-run`, that would be sent.
    pub sent: u64,
    /// Second letters of a message that this run has sent; removed with the first.
    pub twice: u64,
    /// Letters that the queue does not take; they stay.
    pub refused: u64,
    /// Envelopes: their letters are in the DLQ.
    pub envelopes: u64,
    /// Not selected.
    pub unwanted: u64,
    /// Selected, but archived since this run began.
    pub later: u64,
    /// No letters of ours, out of reach, or more than SQS takes; they stay.
    pub unreadable: u64,
    /// Restored by somebody else meanwhile.
    pub gone: u64,
    /// Sent, but their objects could not be removed: the next run sends them again.
    pub left_behind: u64,
    /// Sent without a note, for want of room: the worker's lines do not name their first id.
    pub without_note: u64,
}

impl Tally {
    /// All that was selected is restored.
    pub fn is_well(&self) -> bool {
        self.refused + self.unreadable + self.left_behind == 0
    }
}

/// A run, so far or whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Counts.
    pub tally: Tally,
    /// How it ended.
    pub ended: Ended,
}

/// Who listens to a run.
pub trait Sink: Send {
    /// A letter that would be, or was, sent.
    fn restored(&mut self, object: &str, letter: &Archived);
    /// A trouble with one object.
    fn trouble(&mut self, object: &str, why: &str);
    /// Some more were sent.
    fn progress(&mut self, tally: &Tally);
}

/// A letter on its way.
struct Pending {
    object: String,
    letter: Archived,
    likeness: Likeness,
    outgoing: Outgoing,
}

/// Hash of a letter's id and of all that would be sent: objects of one id that say different things are two messages.
type Likeness = [u8; 32];

fn likeness(letter: &Archived) -> Result<Likeness, String> {
    let Archived { message_id, body, attributes, group_id, .. } = letter;
    let whole = serde_json::to_vec(&(message_id, body, attributes, group_id)).map_err(|error| error.to_string())?;
    Ok(Sha256::digest(&whole).into())
}

/// What a run remembers.
#[derive(Default)]
struct Run {
    tally: Tally,
    pending: Vec<Pending>,
    /// Messages that were sent: a message archived on two days is one message.
    sent: BTreeSet<Likeness>,
    refused_in_a_row: u32,
}

impl Restore {
    /// Sends what is selected, oldest first.
    pub async fn run(mut self, sink: &mut dyn Sink) -> Report {
        let mut run = Run::default();
        let ended = match self.all(&mut run, sink).await {
            Ok(()) => Ended::Complete,
            Err(halt) => halt.into(),
        };
        Report { tally: run.tally, ended }
    }

    async fn all(&mut self, run: &mut Run, sink: &mut dyn Sink) -> Result<(), Halt> {
        let (shelf, selection) = (self.shelf.clone(), self.selection.clone());
        if let Some(id) = &selection.message_id {
            // The key says under which id a letter was archived; for its first id all have to be read.
            let keys = shelf.keys_by_id(selection.source, id).await?;
            if !keys.is_empty() {
                self.some(keys, run, sink).await?;
                return self.flush(run, sink).await;
            }
        }
        let mut walk = shelf.walk(&selection);
        while let Some(keys) = walk.next().await? {
            self.some(keys.into_iter().map(|(key, _day)| key).collect(), run, sink).await?;
            if self.is_enough(run) {
                break;
            }
        }
        self.flush(run, sink).await
    }

    fn is_enough(&self, run: &Run) -> bool {
        self.most.is_some_and(|most| run.tally.sent + run.pending.len() as u64 >= most)
    }

    async fn some(&mut self, keys: Vec<String>, run: &mut Run, sink: &mut dyn Sink) -> Result<(), Halt> {
        let shelf = self.shelf.clone();
        let reads = keys.into_iter().map(async |key| (shelf.read(&key).await, key));
        let mut reads = futures_util::stream::iter(reads).buffered(TOGETHER);
        while let Some((read, key)) = reads.next().await {
            // Here as well: among letters that are not wanted no batch ever comes.
            if self.stop.is_cancelled() {
                return Err(Halt::Interrupted);
            }
            run.tally.looked_at += 1;
            self.one(read?, key, run, sink).await?;
            if self.is_enough(run) {
                break;
            }
        }
        Ok(())
    }

    async fn one(&mut self, read: Read, object: String, run: &mut Run, sink: &mut dyn Sink) -> Result<(), Halt> {
        let letter = match read {
            Read::Letter(letter) => *letter,
            Read::Gone => {
                run.tally.gone += 1;
                return Ok(());
            }
            Read::Unreadable(why) => {
                run.tally.unreadable += 1;
                sink.trouble(&object, &why);
                return Ok(());
            }
        };
        if letter.archived_at.is_none() {
            run.tally.envelopes += 1;
            return Ok(());
        }
        if !self.selection.has(&letter) {
            run.tally.unwanted += 1;
            return Ok(());
        }
        if letter.archived_ms().is_some_and(|at| at > self.began_ms) {
            run.tally.later += 1;
            return Ok(());
        }
        let (likeness, outgoing) = match (likeness(&letter), restored(&letter)) {
            (Ok(likeness), Ok(outgoing)) => (likeness, outgoing),
            (Err(why), _) | (_, Err(why)) => {
                run.tally.unreadable += 1;
                sink.trouble(&object, &why);
                return Ok(());
            }
        };
        if run.pending.iter().any(|pending| pending.likeness == likeness) {
            self.flush(run, sink).await?;
        }
        if run.sent.contains(&likeness) {
            run.tally.twice += 1;
            self.remove(vec![object], run, sink).await;
            return Ok(());
        }
        run.pending.push(Pending { object, letter, likeness, outgoing });
        let full = self.outbox.as_ref().map_or(1, Outbox::batch);
        if run.pending.len() >= full { self.flush(run, sink).await } else { Ok(()) }
    }

    /// Sends what is pending, then removes what was acknowledged.
    async fn flush(&mut self, run: &mut Run, sink: &mut dyn Sink) -> Result<(), Halt> {
        let pending = std::mem::take(&mut run.pending);
        if pending.is_empty() {
            return Ok(());
        }
        if self.stop.is_cancelled() {
            return Err(Halt::Interrupted);
        }
        let (left, refused, why) = match &mut self.outbox {
            None => (Vec::new(), false, String::new()),
            Some(outbox) => {
                let messages: Vec<Outgoing> = pending.iter().map(|one| one.outgoing.clone()).collect();
                match outbox.send(&messages).await {
                    Ok(()) => (Vec::new(), false, String::new()),
                    Err(Unsent { left, refused, why }) => (left, refused, why),
                }
            }
        };
        run.refused_in_a_row = if left.len() == pending.len() { run.refused_in_a_row + 1 } else { 0 };
        let mut acknowledged = Vec::with_capacity(pending.len());
        for (place, one) in pending.into_iter().enumerate() {
            if left.contains(&place) {
                if refused {
                    run.tally.refused += 1;
                    sink.trouble(&one.object, &why);
                }
                continue;
            }
            run.tally.sent += 1;
            run.tally.without_note += u64::from(!one.outgoing.attributes.contains_key(ATTRIBUTE));
            sink.restored(&one.object, &one.letter);
            run.sent.insert(one.likeness);
            acknowledged.push(one.object);
        }
        self.remove(acknowledged, run, sink).await;
        sink.progress(&run.tally);
        match !left.is_empty() && (!refused || run.refused_in_a_row >= REFUSED_IN_A_ROW) {
            true => Err(Halt::Sick(why)),
            false => Ok(()),
        }
    }

    /// After the acknowledgement: what cannot be removed is sent again by the next run, and said.
    async fn remove(&self, objects: Vec<String>, run: &mut Run, sink: &mut dyn Sink) {
        if self.outbox.is_none() {
            return;
        }
        let Shelf { store, bucket } = &self.shelf;
        let removals = objects.iter().map(|object| patiently(|| store.delete(bucket, object)));
        for (object, removed) in objects.iter().zip(join_all(removals).await) {
            if let Err(Trouble::Own(why) | Trouble::Sick(why)) = removed {
                run.tally.left_behind += 1;
                sink.trouble(object, &format!("was sent, but stays: the next restore sends it again ({why})"));
            }
        }
    }
}

/// The message as it goes back. Where there is no room for a note it goes without.
pub fn restored(letter: &Archived) -> Result<Outgoing, String> {
    let bare = letter.outgoing()?;
    if !bare.fits() || bare.body.is_empty() {
        return Err("is no message that SQS takes: a body of 1 byte at least, 10 attributes, 1 MiB in all".to_owned());
    }
    let foreign = match bare.attributes.get(ATTRIBUTE) {
        None => false,
        // A copy of a message on its way through the main queue: nobody has given up on it, and its count stands.
        Some(_) if letter.source == Source::Main => return Ok(bare),
        Some(MessageAttribute { value: AttributeValue::Text(text), .. }) => serde_json::from_str::<Note>(text).is_err(),
        Some(MessageAttribute { value: AttributeValue::Binary(_), .. }) => true,
    };
    if foreign {
        return Ok(bare); // somebody else's attribute of that name: not ours to replace
    }
    let note = note(letter);
    let short = Note { work_ids: Vec::new(), keys: Vec::new(), detail: String::new(), ..note.clone() };
    for note in [note, short] {
        let mut outgoing = bare.clone();
        let attribute = note.attribute().map_err(|error| error.to_string())?;
        outgoing.attributes.insert(ATTRIBUTE.to_owned(), attribute);
        if outgoing.fits() {
            return Ok(outgoing);
        }
    }
    Ok(bare)
}

/// What is known of the message, with its budget renewed.
fn note(letter: &Archived) -> Note {
    let at = letter.archived_at.clone().unwrap_or_default();
    let known = letter.note.clone().unwrap_or_else(|| Note {
        v: VERSION,
        reason: letter.reason.clone(),
        detail: letter.detail.clone(),
        attempts: 0,
        first_failed_at: at.clone(),
        last_failed_at: at,
        work_ids: Vec::new(),
        keys: Vec::new(),
        source_queue: String::new(),
        message_id: letter.message_id.clone(),
        redrives: 0,
        envelope: None,
        run: None,
    });
    Note { redrives: 0, envelope: None, run: None, ..known }
}
