//! Who counts no failures gives back what is not finished.

use quittance::outcome::{Judgement, Outcome, RejectReason, RetryReason, Verdict};

use super::*;
use crate::sim::bench::Bench;

#[tokio::test(start_paused = true)]
async fn who_counts_no_failures_returns_what_is_not_finished_and_writes_nothing() {
    let outcomes = [
        (Verdict::Judged(Outcome::Done), "done/deleted"),
        (Verdict::Judged(Outcome::Superseded), "superseded/deleted"),
        (Verdict::Judged(Outcome::Retry(RetryReason::SourceMissing)), "retried/returned"),
        (Verdict::Judged(Outcome::Reject(RejectReason::Malformed("m".into()))), "rejected/returned"),
        (Verdict::Panicked("boom".into()), "panicked/returned"),
        (Verdict::Cancelled, "cancelled/returned"),
    ];
    for (verdict, expected) in outcomes {
        let site = Site::new(1);
        site.world.upload("a.txt", "text", 1);
        let setup = Setup { counts_failures: false, max_attempts: 1, ..Setup::default() };
        let bench = Bench::new(site, setup);
        let lease = bench.receive_one().await;
        lease.settle(Judgement::without_work(verdict.clone()));
        until("it is settled", HOUR, || bench.site.settlements().len() == 1).await;
        assert_eq!(bench.site.settlements(), [expected], "{verdict:?}");
        let world = &bench.site.world;
        assert!(world.dead_letters.is_empty() && world.store.none(RESULTS, ""), "{verdict:?}");
        assert_eq!(world.queue.visible(), usize::from(!expected.ends_with("/deleted")), "at once: {verdict:?}");
    }
}
