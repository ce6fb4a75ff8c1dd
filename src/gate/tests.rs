//! The gate on a paused clock.

use super::*;
use crate::outcome::RejectReason;

fn gate() -> Gate {
    Gate::new(Arc::new(Jitter::seeded(1)))
}

fn systemic() -> Outcome {
    Outcome::Retry(RetryReason::Systemic(Dependency::Source, "connection refused".into()))
}

async fn passes(gate: &Gate) -> Option<Passage> {
    tokio::time::timeout(Duration::from_secs(3600), gate.pass()).await.ok()
}

/// A store that answers a probe only when told to.
struct Bucket(std::sync::atomic::AtomicBool);

#[async_trait::async_trait]
impl Store for Bucket {
    async fn head(&self, _: &str, _: &str) -> Result<Option<crate::store::ObjectHead>, crate::store::StoreError> {
        Ok(None)
    }
    async fn get(&self, _: &str, _: &str) -> Result<Option<crate::store::OpenObject>, crate::store::StoreError> {
        Ok(None)
    }
    async fn put(
        &self,
        _: &str,
        _: &str,
        _: bytes::Bytes,
        _: &BTreeMap<String, String>,
        _: crate::store::Condition,
    ) -> Result<crate::store::PutReply, crate::store::StoreError> {
        Ok(crate::store::PutReply::Conflict)
    }
    async fn delete(&self, _: &str, _: &str) -> Result<(), crate::store::StoreError> {
        Ok(())
    }
    async fn list(
        &self,
        _: &str,
        _: &str,
        _: Option<&str>,
        _: usize,
    ) -> Result<crate::store::Page, crate::store::StoreError> {
        Ok(crate::store::Page::default())
    }
    async fn probe(&self, _: &str) -> Result<(), crate::store::StoreError> {
        if self.0.load(std::sync::atomic::Ordering::SeqCst) {
            Ok(())
        } else {
            Err(crate::store::StoreError::Unavailable("down".into()))
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_shuts_intake_and_one_message_reopens_it() {
    let gate = Arc::new(gate());
    assert_eq!(passes(&gate).await, Some(Passage::Free));
    for _ in 0..3 {
        gate.weigh("b/k", systemic());
    }
    assert_eq!(passes(&gate).await, None, "nothing is received while it is shut");

    let bucket = Arc::new(Bucket(false.into()));
    let stop = CancellationToken::new();
    let prober = tokio::spawn(Arc::clone(&gate).probe_while_shut(
        Arc::clone(&bucket) as Arc<dyn Store>,
        vec!["b".into()],
        stop.clone(),
    ));
    assert_eq!(passes(&gate).await, None, "the probe still fails");
    bucket.0.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(passes(&gate).await, Some(Passage::One), "the probe was well: one message");
    gate.weigh("b/k", systemic());
    assert!(gate.is_shut(), "it failed: shut again");
    assert_eq!(passes(&gate).await, Some(Passage::One));
    gate.weigh("b/k", Outcome::Done);
    assert_eq!(passes(&gate).await, Some(Passage::Free));
    stop.cancel();
    prober.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_forbidden_key_among_good_ones_is_its_own_problem_and_five_without_success_are_everybodys() {
    let gate = gate();
    let denied = || Outcome::Retry(RetryReason::Denied(Dependency::Source, "AccessDenied".into()));
    for _ in 0..50 {
        assert_eq!(gate.weigh("b/one", denied()), denied(), "one key, however often");
    }
    for key in ["b/2", "b/3", "b/4"] {
        assert_eq!(gate.weigh(key, denied()), denied());
    }
    gate.weigh("b/good", Outcome::Done);
    for key in ["b/5", "b/6", "b/7", "b/8"] {
        assert_eq!(gate.weigh(key, denied()), denied(), "a success between them: {key}");
    }
    assert!(matches!(gate.weigh("b/9", denied()), Outcome::Retry(RetryReason::Systemic(..))));
    tokio::time::advance(UNCLEAR_WINDOW).await;
    assert_eq!(gate.weigh("b/10", denied()), denied(), "the window has passed");
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_until_every_hand_has_let_go() {
    let gate = gate();
    gate.pause("signal", "SIGUSR1");
    gate.pause("operator", "incident 7");
    gate.resume("signal");
    assert_eq!(passes(&gate).await, None);
    gate.resume("operator");
    assert_eq!(passes(&gate).await, Some(Passage::Free));
}

#[tokio::test(start_paused = true)]
async fn while_shut_an_unclear_failure_is_everybodys_and_only_finished_work_reopens() {
    let gate = Arc::new(gate());
    for _ in 0..3 {
        gate.weigh("b/k", systemic());
    }
    let denied = || Outcome::Retry(RetryReason::Denied(Dependency::Source, "KMS".into()));
    assert!(matches!(gate.weigh("b/1", denied()), Outcome::Retry(RetryReason::Systemic(..))), "charged to nobody");
    gate.on_trial();
    assert_eq!(passes(&gate).await, Some(Passage::One));
    gate.weigh("b/2", Outcome::Reject(RejectReason::Malformed("x".into())));
    let started = Instant::now();
    assert_eq!(passes(&gate).await, Some(Passage::One), "it asked no bucket: the next may try");
    assert_eq!(started.elapsed(), Duration::ZERO, "at once");
    gate.weigh("b/3", Outcome::Reject(RejectReason::TooLarge("x".into())));
    assert_eq!(passes(&gate).await, Some(Passage::One), "it asked one bucket of two: that decides nothing either");
    gate.weigh("b/4", Outcome::Done);
    assert_eq!(passes(&gate).await, Some(Passage::Free), "durable and indexed or parked: all is well");
}

#[tokio::test(start_paused = true)]
async fn a_grant_is_overtaken_by_an_outage_or_a_pause() {
    let gate = gate();
    assert!(gate.still_grants(Passage::Free));
    gate.pause("signal", "SIGUSR1");
    assert!(!gate.still_grants(Passage::Free) && !gate.still_grants(Passage::One));
    gate.resume("signal");
    for _ in 0..3 {
        gate.weigh("b/k", systemic());
    }
    assert!(!gate.still_grants(Passage::Free));
    gate.on_trial();
    assert!(gate.still_grants(Passage::One) && !gate.still_grants(Passage::Free));
}
