//! The lane over an index that answers as told.

use super::*;
use crate::message::{DocumentId, Namespace};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Answers per document by its revision: 1 is good, 2 is refused alone, 3 poisons its request, 4 is never taken.
#[derive(Default)]
struct Told {
    requests: AtomicUsize,
    down: std::sync::atomic::AtomicBool,
}

#[async_trait]
impl Search for Told {
    async fn bulk(&self, items: &[IndexItem]) -> Result<Vec<ItemVerdict>, SearchError> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        if self.down.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_secs(10)).await;
            return Err(SearchError::Unavailable("no answer".into()));
        }
        if items.iter().any(|item| item.revision == 3) {
            return Err(SearchError::WholeRefused("413".into()));
        }
        let verdict = |item: &IndexItem| match item.revision {
            2 => ItemVerdict::Refused("mapping".into()),
            4 => ItemVerdict::Systemic("circuit_breaking_exception".into()),
            _ => ItemVerdict::Durable,
        };
        Ok(items.iter().map(verdict).collect())
    }

    async fn probe(&self) -> Result<(), SearchError> {
        Ok(())
    }
}

fn lane() -> (Arc<Told>, Lane) {
    let told = Arc::new(Told::default());
    let (lane, drive) = Lane::new(Arc::clone(&told) as Arc<dyn Search>, Arc::new(Jitter::seeded(1)));
    tokio::spawn(drive);
    (told, lane)
}

async fn submit(lane: &Lane, revisions: impl IntoIterator<Item = u64>) -> Vec<ItemVerdict> {
    let item = |(number, revision)| {
        let document_id = DocumentId::of(&Namespace::parse("n").unwrap(), "b", &format!("{number}"));
        IndexItem { document_id, revision, source: Bytes::from_static(b"{}") }
    };
    join_all(revisions.into_iter().enumerate().map(item).map(|item| lane.submit(item))).await
}

#[tokio::test(start_paused = true)]
async fn one_poison_among_a_hundred_is_found_in_fifteen_requests_and_the_others_are_indexed() {
    for guilty in [0, 37, 99] {
        let (told, lane) = lane();
        let verdicts = submit(&lane, (0..100).map(|n| if n == guilty { 3 } else { 1 })).await;
        for (n, verdict) in (0..).zip(&verdicts) {
            let expected = if n == guilty { ItemVerdict::Refused("413".into()) } else { ItemVerdict::Durable };
            assert_eq!(verdict, &expected, "document {n}, guilty {guilty}");
        }
        let requests = told.requests.load(Ordering::SeqCst);
        assert!(requests <= 15, "{requests} requests");
        assert_eq!(lane.room(), Room::Free, "it answers: it is well");
    }
}

#[tokio::test(start_paused = true)]
async fn a_document_that_is_never_taken_does_not_shut_out_the_others() {
    let (_, lane) = lane();
    for _ in 0..10 {
        let verdicts = submit(&lane, [1, 4, 2]).await;
        assert!(
            matches!(&verdicts[..], [ItemVerdict::Durable, ItemVerdict::Systemic(_), ItemVerdict::Refused(_)]),
            "{verdicts:?}"
        );
        assert_eq!(lane.room(), Room::Free);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_costs_the_queued_one_time_out_each_at_most_and_then_nothing_until_a_try_is_well() {
    let (told, lane) = lane();
    told.down.store(true, Ordering::SeqCst);
    let began = Instant::now();
    for _ in 0..3 {
        assert!(matches!(submit(&lane, [1]).await[..], [ItemVerdict::Systemic(_)]));
    }
    assert_eq!(told.requests.load(Ordering::SeqCst), 3);
    assert!(began.elapsed() < Duration::from_secs(31));
    // Open now: nothing is sent, nothing waits.
    let began = Instant::now();
    let verdicts = submit(&lane, vec![1; 500]).await;
    assert!(verdicts.iter().all(|verdict| matches!(verdict, ItemVerdict::Systemic(_))));
    assert_eq!((told.requests.load(Ordering::SeqCst), began.elapsed()), (3, Duration::ZERO));
    assert_eq!(lane.room(), Room::None);
    // A try is due: one request, whose end decides.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(lane.room(), Room::One);
    told.down.store(false, Ordering::SeqCst);
    let verdicts = submit(&lane, vec![1; 5]).await;
    let durable = verdicts.iter().filter(|verdict| **verdict == ItemVerdict::Durable).count();
    assert_eq!(durable, 1, "one goes, the others park: {verdicts:?}");
    assert_eq!(lane.room(), Room::Free);
    assert_eq!(submit(&lane, vec![1; 5]).await, vec![ItemVerdict::Durable; 5]);
}
