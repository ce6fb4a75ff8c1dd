//! What lies in S3 and in the DLQ, looked at now and then: how much is parked, how old, what errored, how many letters.
//!
//! A replayer that waits for a sick index, or for another that replays, does not look; and that is when what is parked
//! grows. So this looks for itself, with a few LISTs a minute that read keys and no markers. Every worker of a namespace sees
//! the same, so dashboards take the largest and not the sum. Promises a bounded cost, and to forget what it saw when it can
//! see it no more. Moves nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::index::park::markers::{Markers, PAGE};
use crate::queue::Queue;
use crate::retry::Jitter;
use crate::store::StoreError;

/// From one look to the next, in [½, 1) of this: at most 2 LISTs and 1 SQS call a minute where little is parked, about
/// $0.50 a month and worker at S3's $0.005 per 1,000 LISTs (us-east-1, 2026).
const LOOKS: Duration = Duration::from_secs(60);
/// One look at one of the three.
const LIMIT: Duration = Duration::from_secs(20);
/// Pages of a lot that are counted: beyond, a lot is "at least" so many.
const PAGES: usize = 10;
/// What was seen longer ago than this is not known any more.
const STALE: Duration = Duration::from_secs(300);

/// What is in one lot of the namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lot {
    /// Markers counted.
    pub markers: u64,
    /// There are more.
    pub more: bool,
    /// Revision of the oldest: the time of its record in Unix milliseconds, or a little more (design §4).
    pub oldest_ms: Option<u64>,
}

impl Lot {
    /// Age of the oldest; 0 where there is none.
    pub fn oldest_age(&self, now_ms: u64) -> Duration {
        Duration::from_millis(self.oldest_ms.map_or(0, |oldest| now_ms.saturating_sub(oldest)))
    }
}

/// The DLQ as SQS estimates it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Letters {
    /// Can be received.
    pub visible: u64,
    /// In somebody's hands, or delayed.
    pub hidden: u64,
    /// After this SQS deletes a letter.
    pub retention: Duration,
}

/// What was seen; `None`: not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// `retry-index/`.
    pub parked: Option<Lot>,
    /// `errored-index/`.
    pub errored: Option<Lot>,
    /// The DLQ.
    pub dead_letters: Option<Letters>,
}

/// What was seen last, for all who ask.
#[derive(Default)]
pub struct Survey(Mutex<Option<(Instant, Seen)>>);

impl Survey {
    /// What was seen lately.
    pub fn seen(&self) -> Seen {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.filter(|(at, _)| at.elapsed() < STALE).map(|(_, seen)| seen).unwrap_or_default()
    }

    /// From now on this.
    pub fn saw(&self, seen: Seen) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), seen));
    }
}

/// Who looks.
pub struct Surveyor {
    /// `retry-index/`.
    pub parked: Markers,
    /// `errored-index/`.
    pub errored: Markers,
    /// The DLQ.
    pub dead_letters: Arc<dyn Queue>,
    /// Spread of looks: workers must not list in step.
    pub jitter: Arc<Jitter>,
    /// Where it is told.
    pub survey: Arc<Survey>,
}

impl Surveyor {
    /// Looks until the process ends.
    pub async fn run(self) {
        loop {
            self.survey.saw(self.look().await);
            tokio::time::sleep(self.jitter.half_to_one(LOOKS)).await;
        }
    }

    /// Once. What does not answer is not known.
    pub async fn look(&self) -> Seen {
        let parked = limited(lot(&self.parked)).await.and_then(Result::ok);
        let errored = limited(lot(&self.errored)).await.and_then(Result::ok);
        let facts = limited(self.dead_letters.facts()).await.and_then(Result::ok);
        let dead_letters = facts.map(|facts| Letters {
            visible: facts.visible,
            hidden: facts.in_flight + facts.delayed,
            retention: facts.retention,
        });
        Seen { parked, errored, dead_letters }
    }
}

async fn limited<T>(look: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(LIMIT, look).await.ok()
}

/// Keys are in the order of their records' days: the oldest is on the first of them.
async fn lot(markers: &Markers) -> Result<Lot, StoreError> {
    let (mut lot, mut place, mut first_day) = (Lot::default(), None, None);
    for _ in 0..PAGES {
        let batch = markers.after(place, PAGE).await?;
        for marker in &batch.markers {
            lot.markers += 1;
            if first_day.get_or_insert_with(|| marker.day().to_owned()) == marker.day() {
                lot.oldest_ms = Some(lot.oldest_ms.map_or(marker.revision, |oldest| oldest.min(marker.revision)));
            }
        }
        place = batch.next;
        if place.is_none() {
            return Ok(lot);
        }
    }
    lot.more = true;
    Ok(lot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_long_ago_is_not_known_any_more() {
        let survey = Survey::default();
        assert_eq!(survey.seen(), Seen::default());
        let seen = Seen { parked: Some(Lot { markers: 3, more: false, oldest_ms: Some(1_000) }), ..Seen::default() };
        survey.saw(seen);
        tokio::time::advance(STALE - Duration::from_secs(1)).await;
        assert_eq!(survey.seen(), seen);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(survey.seen(), Seen::default());
    }

    #[test]
    fn the_oldest_has_an_age_also_where_a_clock_is_behind() {
        let lot = Lot { markers: 1, more: false, oldest_ms: Some(5_000) };
        assert_eq!(lot.oldest_age(65_000), Duration::from_secs(60));
        assert_eq!((lot.oldest_age(1), Lot::default().oldest_age(9)), (Duration::ZERO, Duration::ZERO));
    }
}
