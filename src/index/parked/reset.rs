//! What errored goes back to `retry-index/`, to be replayed once more.
//!
//! Promises that no marker is lost, wherever this is killed and whoever replays meanwhile: the retry marker is written
//! first, and the errored one is removed only where this very call wrote the other. Where a retry marker is there
//! already, replay may be about to remove it in favour of the errored one (`replay::one`): that one stays, and goes
//! with the next reset. One whose record is gone is taken away instead: there is nothing that could be indexed, and of a
//! file that is still there `redrive reconcile` knows.

use futures_util::StreamExt as _;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{Answer, Lots, Seen, TOGETHER};
use crate::config::exit;
use crate::index::park::markers::{MarkerKey, PAGE};
use crate::index::park::{Lot, Parking, Written};
use crate::store::layout;

/// What a reset did.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ResetReport {
    /// Scope.
    pub namespace: String,
    /// Moved back.
    pub reset: u64,
    /// Taken away, because their records are gone.
    pub no_record: u64,
    /// Left, because they were in `retry-index/` as well.
    pub parked_already: u64,
    /// Left, because their source keys begin otherwise.
    pub not_matching: u64,
    /// Left, because the store would not have it, or because they cannot be read.
    pub failed: u64,
    /// What the first of those said.
    pub trouble: Option<String>,
    /// It was told to stop.
    pub interrupted: bool,
}

enum Moved {
    Now,
    NoRecord,
    ParkedAlready,
    NotMatching,
    Failed(String),
    Gone,
}

impl Lots {
    /// Moves them back, those whose source keys begin so. `progress` hears how many so far.
    pub async fn reset(
        &self,
        key_prefix: Option<&str>,
        stop: &CancellationToken,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Answer {
        let mut report = ResetReport { namespace: self.parking.namespace.as_str().into(), ..ResetReport::default() };
        let (lot, mut place) = (self.lot(Lot::Errored), None);
        'pages: loop {
            let batch = match lot.after(place, PAGE).await {
                Ok(batch) => batch,
                Err(error) => {
                    report.failed += 1;
                    report.trouble.get_or_insert(error.to_string());
                    break;
                }
            };
            // Those in work are finished, whoever says stop: half a move is no loss, but no use either.
            let begun = futures_util::stream::iter(batch.markers).take_while(|_| {
                let go_on = !stop.is_cancelled();
                async move { go_on }
            });
            let mut moving = std::pin::pin!(begun.map(|key| self.back(key, key_prefix)).buffered(TOGETHER));
            while let Some(moved) = moving.next().await {
                match moved {
                    Moved::Now => report.reset += 1,
                    Moved::NoRecord => report.no_record += 1,
                    Moved::ParkedAlready => report.parked_already += 1,
                    Moved::NotMatching => report.not_matching += 1,
                    Moved::Gone => {}
                    Moved::Failed(why) => {
                        report.failed += 1;
                        report.trouble.get_or_insert(why);
                    }
                }
                progress(report.reset);
            }
            if stop.is_cancelled() {
                report.interrupted = true;
                break 'pages;
            }
            place = batch.next;
            if place.is_none() {
                break;
            }
        }
        let code = match (report.interrupted, report.failed) {
            (true, _) => exit::EX_INTERRUPTED,
            (false, 0) => exit::EX_OK,
            (false, _) => exit::EX_PARTIAL,
        };
        let text = report.text();
        Answer::of(&report, text, code)
    }

    async fn back(&self, key: MarkerKey, key_prefix: Option<&str>) -> Moved {
        let (key, marker) = match self.read(key).await {
            Ok((key, Seen::Marker(marker))) => (key, marker),
            Ok((_, Seen::Gone)) => return Moved::Gone,
            Ok((key, Seen::Unreadable(why))) => return Moved::Failed(format!("{}: {why}", key.key)),
            Err(error) => return Moved::Failed(error.to_string()),
        };
        if key_prefix.is_some_and(|prefix| !marker.key.starts_with(prefix)) {
            return Moved::NotMatching;
        }
        let Parking { store, bucket, namespace, .. } = &self.parking;
        match store.head(bucket, &layout::record(namespace, &key.document_id)).await {
            Ok(Some(_)) => {}
            Ok(None) => {
                return match store.delete(bucket, &key.key).await {
                    Ok(()) => Moved::NoRecord,
                    Err(error) => Moved::Failed(format!("{}: {error}", key.key)),
                };
            }
            Err(error) => return Moved::Failed(error.to_string()),
        }
        match self.parking.copy(key.tail(), Lot::Retry, &marker).await {
            Ok(Written::Now) => {}
            Ok(Written::Before) => return Moved::ParkedAlready,
            Err(trouble) => return Moved::Failed(trouble),
        }
        match store.delete(bucket, &key.key).await {
            Ok(()) => Moved::Now,
            Err(error) => Moved::Failed(format!("{} is parked again, and stays errored as well: {error}", key.key)),
        }
    }
}

impl ResetReport {
    fn text(&self) -> String {
        let Self { namespace, reset, no_record, parked_already, not_matching, failed, .. } = self;
        let mut page = format!("{reset} parked again (namespace {namespace}); workers replay them\n");
        if *no_record > 0 {
            page +=
                &format!("{no_record} taken away: their records are gone (files that are there: redrive reconcile)\n");
        }
        if *parked_already > 0 {
            page += &format!("{parked_already} left: they are parked already; once those are replayed, reset again\n");
        }
        if *not_matching > 0 {
            page += &format!("{not_matching} left: their keys begin otherwise\n");
        }
        if let Some(trouble) = &self.trouble {
            page += &format!("{failed} left, the first because: {trouble}\n");
        }
        if self.interrupted {
            page += "interrupted; to go on: the same command again\n";
        }
        page
    }
}
