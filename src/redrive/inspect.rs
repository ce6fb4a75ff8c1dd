//! `redrive inspect`: what is in the dead-letter queue, the archive and `errored-index/`, why, since when, and whose.
//!
//! Promises that nothing is received from the DLQ unless a sample was asked for, that a sample is taken under leases and
//! returned whole, and that nothing is written or deleted. Memory does not grow with what is there. Judges no letter.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::clock::{WallClock, rfc3339, unix_ms_of};
use crate::config::{TenantFrom, exit};
use crate::dead_letter::Note;
use crate::index::park::Marker;
use crate::index::park::markers::{MarkerKey, Markers, PAGE};
use crate::index::parked::Answer;
use crate::message::Message;
use crate::process::tenant_in;
use crate::queue::{Queue, QueueFacts};
use crate::settle::SettlerBroken;
use crate::upkeep::{Trouble, patiently, read};

use super::archive::Archived;
use super::archive::list::{Found, full, more_than_shown};
use super::archive::shelf::{Read, Selection, Shelf, TOGETHER};
use super::expiry::Expiry;
use super::hold::Hold;
use super::letter::{MAX_RECEIVES, cause};

pub mod groups;
pub mod html;
pub mod report;

use groups::Inflow;
use report::{Item, QueueCounts, Report, Tally};

/// Rounds of polls without a message until a sample is what there is.
const EMPTY_ROUNDS: u32 = 3;
/// Rounds that fail in a row until the queue is called sick.
const FAILED_ROUNDS: u32 = 4;
const AGAIN: Duration = Duration::from_secs(1);
const MARKER_LIMIT: usize = 64 * 1024;

/// One inspection.
pub struct Inspect {
    /// The archive.
    pub shelf: Shelf,
    /// What errored, of one namespace.
    pub errored: Markers,
    /// The dead-letter queue, for its counts.
    pub dlq: Arc<dyn Queue>,
    /// Its URL.
    pub dlq_url: String,
    /// So many of its letters, at most; `None` receives nothing.
    pub sample: Option<(Hold, usize)>,
    /// From when on, Unix milliseconds.
    pub since_ms: Option<u64>,
    /// Until when, Unix milliseconds.
    pub until_ms: Option<u64>,
    /// Whose a file is.
    pub tenant_from: TenantFrom,
    /// Objects to read of each place, at most: the newest days.
    pub most: usize,
    /// For ages.
    pub clock: Arc<dyn WallClock>,
    /// Asked between two steps.
    pub stop: CancellationToken,
}

/// Why there is no report.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoReport {
    /// A dependency is sick.
    #[error("{0}")]
    Sick(String),
    /// It was asked to stop; a sample was returned.
    #[error("interrupted")]
    Interrupted,
}

impl From<Trouble> for NoReport {
    fn from(trouble: Trouble) -> Self {
        Self::Sick(trouble.to_string())
    }
}

impl From<SettlerBroken> for NoReport {
    fn from(broken: SettlerBroken) -> Self {
        Self::Sick(broken.to_string())
    }
}

impl Inspect {
    /// Looks. `tell`: where it is, for a person who waits.
    pub async fn run(mut self, tell: &(dyn Fn(&str) + Sync)) -> Result<Report, NoReport> {
        let now = self.clock.unix_ms();
        let facts = patiently(|| self.dlq.facts()).await?;
        let sampled = match self.sample.take() {
            None => Sampled::default(),
            Some((hold, most)) => sample(hold, most, &self.stop, tell).await?,
        };
        let mut dlq = Tally::default();
        for message in &sampled.messages {
            dlq.read += 1;
            let item = self.of_message(message, facts.retention, now);
            self.count(&mut dlq, &item, now);
        }
        let (archive, archived) = self.archive(now, tell).await?;
        let (errored, markers) = self.errored(now, tell).await?;
        let scale = Inflow::scale([&dlq.inflow, &archive.inflow, &errored.inflow]);
        let QueueFacts { visible, in_flight, delayed, retention, .. } = facts;
        let first = dlq.first_expires_ms;
        let scale = scale.as_ref();
        Ok(Report {
            at: rfc3339(now),
            results_bucket: self.shelf.bucket.clone(),
            namespace: self.errored.namespace.to_string(),
            since: report::written(self.since_ms),
            until: report::written(self.until_ms),
            queue: QueueCounts { url: self.dlq_url, visible, in_flight, delayed, retention_s: retention.as_secs() },
            received: sampled.messages.len() as u64,
            not_returned: sampled.not_returned,
            first_expires: first.map(|first| Expiry::at(first, now)),
            dlq: dlq.place("dlq", "Dead-letter queue", visible + in_flight + delayed, scale),
            archive: archive.place("archive", "Archive (given up on)", archived, scale),
            errored: errored.place("errored", "Errored (not in the index)", markers, scale),
            inflow_scale: scale.copied(),
        })
    }

    fn count(&self, tally: &mut Tally, item: &Item, now_ms: u64) {
        let within = self.since_ms.is_none_or(|since| since <= item.at_ms)
            && self.until_ms.is_none_or(|until| item.at_ms < until);
        if within {
            tally.add(item, now_ms);
        } else {
            tally.unmatched += 1;
        }
    }

    fn tenants(&self, keys: &[String], group_id: Option<&str>) -> Vec<String> {
        keys.iter().filter_map(|key| tenant_in(&self.tenant_from, key, group_id)).collect()
    }

    fn of_message(&self, message: &Message, retention: Duration, now_ms: u64) -> Item {
        let letter = Archived::envelope(message, Note::of(message));
        let keys = letter.keys();
        // SQS counts its retention from the first send, also of a message that it moved itself.
        let kept = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
        let (reason, detail) = match cause(message, letter.note.as_ref()) {
            Some(note) => (note.reason.clone(), note.detail.clone()),
            None => (MAX_RECEIVES.to_owned(), String::new()),
        };
        Item {
            reason,
            detail,
            tenants: self.tenants(&keys, message.group_id.as_deref()),
            keys,
            at_ms: message.sent_at_ms.unwrap_or(now_ms),
            redrives: Some(letter.note.as_ref().map_or(0, |note| note.redrives)),
            expires_ms: message.sent_at_ms.map(|sent| sent.saturating_add(kept)),
        }
    }

    async fn archive(&self, now: u64, tell: &(dyn Fn(&str) + Sync)) -> Result<(Tally, u64), NoReport> {
        let days = Selection { since_ms: self.since_ms, until_ms: self.until_ms, ..Selection::default() };
        let (mut walk, mut newest, mut there) = (self.shelf.walk(&days), Newest::new(self.most), 0);
        while let Some(keys) = walk.next().await? {
            self.may_go_on()?;
            there += keys.len() as u64;
            newest.extend(keys.into_iter().map(|(key, _day)| key));
        }
        let mut tally = Tally::default();
        let reads = newest.keys().map(async |key| (self.shelf.read(&key).await, key));
        let mut reads = futures_util::stream::iter(reads).buffered(TOGETHER);
        while let Some((read, key)) = reads.next().await {
            self.may_go_on()?;
            match read? {
                Read::Gone => continue,
                Read::Unreadable(why) => tally.unreadable(&key, &why),
                Read::Letter(letter) => match letter.archived_ms() {
                    None => tally.envelopes += 1,
                    Some(at_ms) => {
                        let keys = letter.keys();
                        let item = Item {
                            tenants: self.tenants(&keys, letter.group_id.as_deref()),
                            redrives: Some(letter.note.as_ref().map_or(0, |note| note.redrives)),
                            reason: letter.reason,
                            detail: letter.detail,
                            keys,
                            at_ms,
                            expires_ms: None,
                        };
                        self.count(&mut tally, &item, now);
                    }
                },
            }
            tally.read += 1;
            tell(&format!("archive: {} of {there} read", tally.read));
        }
        Ok((tally, there))
    }

    async fn errored(&self, now: u64, tell: &(dyn Fn(&str) + Sync)) -> Result<(Tally, u64), NoReport> {
        let (mut newest, mut there, mut place) = (Newest::new(self.most), 0, None);
        loop {
            self.may_go_on()?;
            let batch = patiently(|| self.errored.after(place.clone(), PAGE)).await?;
            there += batch.markers.len() as u64;
            newest.extend(batch.markers);
            place = batch.next;
            if place.is_none() {
                break;
            }
        }
        let mut tally = Tally::default();
        let reads = newest.keys().map(async |marker: MarkerKey| {
            let (store, bucket) = (self.errored.store.as_ref(), &self.errored.bucket);
            (read(store, bucket, &marker.key, MARKER_LIMIT).await, marker.key)
        });
        let mut reads = futures_util::stream::iter(reads).buffered(TOGETHER);
        while let Some((read, key)) = reads.next().await {
            self.may_go_on()?;
            let marker = match read {
                Ok(None) => continue,
                Ok(Some((_, bytes))) => serde_json::from_slice::<Marker>(&bytes).map_err(|error| error.to_string()),
                Err(Trouble::Own(why)) => Err(why),
                Err(sick @ Trouble::Sick(_)) => return Err(sick.into()),
            };
            tally.read += 1;
            match marker {
                Err(why) => tally.unreadable(&key, &why),
                Ok(Marker { key, reason, failed_at, .. }) => {
                    // Reasons of documents are sentences; their first part names the kind.
                    let (kind, detail) = reason.split_once(": ").unwrap_or((&reason, ""));
                    let keys = vec![key];
                    let item = Item {
                        reason: kind.to_owned(),
                        detail: detail.to_owned(),
                        tenants: self.tenants(&keys, None),
                        keys,
                        at_ms: unix_ms_of(&failed_at).unwrap_or(now),
                        redrives: None,
                        expires_ms: None,
                    };
                    self.count(&mut tally, &item, now);
                }
            }
            tell(&format!("errored: {} of {there} read", tally.read));
        }
        Ok((tally, there))
    }

    fn may_go_on(&self) -> Result<(), NoReport> {
        if self.stop.is_cancelled() { Err(NoReport::Interrupted) } else { Ok(()) }
    }
}

/// The last so many of an ascending listing.
struct Newest<T> {
    kept: std::collections::VecDeque<T>,
    most: usize,
}

impl<T> Newest<T> {
    fn new(most: usize) -> Self {
        Self { kept: std::collections::VecDeque::new(), most }
    }

    fn extend(&mut self, keys: impl IntoIterator<Item = T>) {
        for key in keys {
            self.kept.push_back(key);
            if self.kept.len() > self.most {
                self.kept.pop_front();
            }
        }
    }

    fn keys(self) -> impl Iterator<Item = T> {
        self.kept.into_iter()
    }
}

/// Letters that were received, held, and returned.
#[derive(Default)]
struct Sampled {
    messages: Vec<Arc<Message>>,
    not_returned: u64,
}

/// Receives up to so many letters, holds them, so that none is seen twice, and returns them all.
async fn sample(
    hold: Hold,
    most: usize,
    stop: &CancellationToken,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Sampled, NoReport> {
    let (mut leases, mut empty, mut failed) = (Vec::new(), 0, 0);
    let mut trouble = None;
    while leases.len() < most && empty < EMPTY_ROUNDS && failed < FAILED_ROUNDS && !stop.is_cancelled() {
        match hold.receive(most - leases.len()).await {
            Ok(received) if received.is_empty() => (empty, failed) = (empty + 1, 0),
            Ok(received) => {
                (empty, failed) = (0, 0);
                leases.extend(received);
                tell(&format!("dead-letter queue: {} received", leases.len()));
            }
            Err(error) => {
                failed += 1;
                trouble = Some(error.to_string());
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
    let messages: Vec<Arc<Message>> = leases.iter().map(|lease| Arc::clone(lease.message())).collect();
    let books = hold.end(leases).await?;
    if failed >= FAILED_ROUNDS {
        return Err(NoReport::Sick(format!("SQS: {}", trouble.unwrap_or_default())));
    }
    if stop.is_cancelled() {
        return Err(NoReport::Interrupted);
    }
    Ok(Sampled { messages, not_returned: books.received - books.returned })
}

/// One message in full, from the archive, and from a sample of the DLQ where one is taken.
pub async fn show(
    shelf: &Shelf,
    id: &str,
    hold: Option<(Hold, usize)>,
    stop: &CancellationToken,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<Answer, NoReport> {
    #[derive(Serialize)]
    struct Shown {
        place: String,
        letter: Archived,
    }
    #[derive(Serialize)]
    struct ShowReport<'a> {
        message_id: &'a str,
        received: u64,
        found: Vec<Shown>,
        /// Of the archive's.
        more: bool,
    }
    let (mut found, mut received) = (Vec::new(), 0);
    if let Some((hold, most)) = hold {
        let sampled = sample(hold, most, stop, tell).await?;
        received = sampled.messages.len() as u64;
        let letters = sampled.messages.iter().map(|message| Archived::envelope(message, Note::of(message)));
        let called = letters.filter(|letter| letter.is_called(id));
        found.extend(called.map(|letter| Shown { place: "dead-letter queue".to_owned(), letter }));
    }
    let Found { letters: archived, more } =
        shelf.find(id, &|seen| tell(&format!("archive: {seen} letters read"))).await?;
    found.extend(archived.into_iter().map(|(place, letter)| Shown { place, letter }));
    let code = if found.is_empty() { exit::EX_PARTIAL } else { exit::EX_OK };
    let text = if found.is_empty() {
        let looked = match received {
            0 => "the dead-letter queue was not looked at (--sample N)".to_owned(),
            received => format!("nor among {received} letters of the dead-letter queue"),
        };
        format!("{} is not in the archive; {looked}", crate::message::detail::printable(id, 200))
    } else {
        let page = found.iter().map(|shown| full(&shown.place, &shown.letter)).collect::<Vec<_>>().join("\n");
        if more { page + &more_than_shown() } else { page }
    };
    Ok(Answer::of(&ShowReport { message_id: id, received, found, more }, text, code))
}
