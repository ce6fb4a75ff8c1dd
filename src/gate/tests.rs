//! The gate on a paused clock.

use super::probe::tests::{Buckets, down, probe_of};
use super::*;
use crate::outcome::{RejectReason, Verdict};

fn gate() -> Gate {
    Gate::new(Arc::new(Jitter::seeded(1)))
}

fn systemic() -> Outcome {
    Outcome::Retry(RetryReason::Systemic(Dependency::Source, "connection refused".into()))
}

async fn passes(gate: &Gate) -> Option<Passage> {
    tokio::time::timeout(Duration::from_secs(3600), gate.pass()).await.ok()
}

/// Three failures in a row.
fn shut(gate: &Gate) {
    for _ in 0..3 {
        gate.weigh("b/k", systemic());
    }
    assert!(gate.is_shut());
}

/// The gate's prober on these buckets, until the test's runtime ends.
fn probing(gate: &Arc<Gate>, store: &Arc<Buckets>) {
    drop(tokio::spawn(Arc::clone(gate).probe_while_shut(probe_of(store, &["src"]), CancellationToken::new())));
}

/// What is kept in hand for it, if anything is.
fn kept(gate: &Arc<Gate>, receive_count: u32) -> Option<Kept> {
    gate.keep(&Verdict::Judged(systemic()), receive_count, None)
}

#[tokio::test(start_paused = true)]
async fn an_outage_shuts_intake_and_one_message_reopens_it() {
    let gate = Arc::new(gate());
    assert_eq!(passes(&gate).await, Some(Passage::Free));
    shut(&gate);
    assert_eq!(passes(&gate).await, None, "nothing is received while it is shut");

    let store = Buckets::new(&["src/1", "src/2"], &[("", down)]);
    probing(&gate, &store);
    assert_eq!(passes(&gate).await, None, "the probe still fails");
    store.faults.lock().unwrap().clear();
    let healed = Instant::now();
    assert_eq!(passes(&gate).await, Some(Passage::One), "the probe was well: one message");
    assert!(healed.elapsed() <= Duration::from_secs(60), "{:?}", healed.elapsed());
    gate.weigh("b/k", systemic());
    assert!(gate.is_shut(), "it failed: shut again");
    assert_eq!(passes(&gate).await, Some(Passage::One));
    gate.weigh("b/k", Outcome::Done);
    assert_eq!(passes(&gate).await, Some(Passage::Free));
}

#[tokio::test(start_paused = true)]
async fn under_an_outage_that_no_probe_sees_messages_are_asked_for_ever_more_rarely() {
    let gate = Arc::new(gate());
    shut(&gate);
    probing(&gate, &Buckets::new(&["src/1"], &[]));
    let (started, mut asked) = (Instant::now(), Vec::new());
    while started.elapsed() < Duration::from_secs(6 * 3600) {
        if passes(&gate).await.is_some() {
            asked.push(started.elapsed().as_secs());
            gate.weigh("b/k", systemic());
        }
    }
    let first_hour = asked.iter().filter(|at| **at < 3600).count();
    assert!(first_hour <= 10 && asked.len() <= 45, "{first_hour} in the first hour, {} in all: {asked:?}", asked.len());
    assert!(asked.windows(2).all(|pair| pair[1] - pair[0] <= 960), "and never too rarely: {asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_kept_message_finds_out_without_a_receive_and_opens_the_gate_for_all() {
    let gate = Arc::new(gate());
    shut(&gate);
    let (mut first, mut second) = (kept(&gate, 2).unwrap(), kept(&gate, 5).unwrap());
    assert!(kept(&gate, 1).is_none(), "a first delivery goes back: another worker may be well");
    let store = Buckets::new(&["src/1", "src/2"], &[("", down)]);
    probing(&gate, &store);
    let hour = Duration::from_secs(1800);
    assert!(tokio::time::timeout(hour, first.again()).await.is_err(), "the probe fails");
    store.faults.lock().unwrap().clear();
    let healed = Instant::now();
    assert!(first.again().await);
    assert!(healed.elapsed() <= Duration::from_secs(60), "{:?}", healed.elapsed());
    assert!(tokio::time::timeout(Duration::from_secs(10), second.again()).await.is_err(), "one at a time");
    gate.weigh("b/k", Outcome::Done);
    drop(first);
    assert!(second.again().await, "and all when it was well");
    assert_eq!(passes(&gate).await, Some(Passage::Free));
}

#[tokio::test(start_paused = true)]
async fn when_the_gate_opens_all_that_is_kept_tries_again_spread_over_two_to_four_seconds() {
    let gate = Arc::new(gate());
    shut(&gate);
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut one = kept(&gate, 2).unwrap();
        waiting.spawn(async move { one.again().await.then(Instant::now) });
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    let opened = Instant::now();
    gate.probed(Answer::Well);
    gate.weigh("b/k", Outcome::Done);
    let mut after = Vec::new();
    while let Some(tried) = waiting.join_next().await {
        after.push(tried.unwrap().unwrap() - opened);
    }
    assert!(after.iter().all(|after| (2_000..=4_000).contains(&after.as_millis())), "{after:?}");
    assert!(*after.last().unwrap() - after[0] > Duration::from_millis(500), "not in one instant: {after:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_goes_back_when_its_time_is_over_or_the_worker_stops() {
    let gate = Arc::new(gate().of_queue(Some(6), 64));
    shut(&gate);
    let started = Instant::now();
    assert!(!kept(&gate, 2).unwrap().again().await);
    assert_eq!(started.elapsed(), Duration::from_secs(3600));
    let mut short_of_receives = kept(&gate, 3).unwrap();
    let day = Duration::from_secs(10 * 3600);
    assert!(tokio::time::timeout(day, short_of_receives.again()).await.is_err(), "it stays");
    gate.leave();
    assert!(!short_of_receives.again().await, "at once");
    assert!(kept(&gate, 3).is_none());
}

/// One bad object must not hold every seat of a small worker; an outage may (P6).
#[tokio::test(start_paused = true)]
async fn while_the_gate_is_open_the_kept_leave_a_seat_and_behind_a_shut_gate_all_may_stay() {
    let gate = Arc::new(gate().of_queue(Some(2), 2));
    gate.weigh("b/k", systemic());
    let one = kept(&gate, 2);
    assert!(one.is_some() && kept(&gate, 2).is_none(), "both are short of receives, and one seat stays free");
    shut(&gate);
    let other = kept(&gate, 2);
    assert!(other.is_some(), "it would come back to be dead-lettered by SQS");
    drop((one, other));
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_while_the_gate_is_open_tries_again_by_itself() {
    let gate = Arc::new(gate());
    gate.weigh("b/k", systemic());
    let mut one = kept(&gate, 2).unwrap();
    assert!(kept(&gate, 2).is_none(), "one seat is enough");
    let started = Instant::now();
    assert!(one.again().await);
    assert!((30..=60).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    assert!(one.again().await);
    assert!((90..=180).contains(&started.elapsed().as_secs()), "longer: {:?}", started.elapsed());
    drop(one);
    assert!(kept(&gate, 2).is_some(), "its place is free again");
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
    let mut pauses = gate.pauses();
    assert!(!pauses.on());
    gate.wait_for_word("fleet");
    assert_eq!(passes(&gate).await, None, "it may be paused");
    gate.pause("signal", "signal", "SIGUSR1");
    gate.pause("fleet", "ada", "incident 7");
    gate.resume("signal", "signal");
    assert_eq!(passes(&gate).await, None);
    assert!(pauses.on());
    gate.resume("fleet", "ada");
    assert_eq!(passes(&gate).await, Some(Passage::Free));
    pauses.over().await;
}

#[tokio::test(start_paused = true)]
async fn while_shut_an_unclear_failure_is_everybodys_and_only_finished_work_reopens() {
    let gate = Arc::new(gate());
    shut(&gate);
    let denied = || Outcome::Retry(RetryReason::Denied(Dependency::Source, "KMS".into()));
    assert!(matches!(gate.weigh("b/1", denied()), Outcome::Retry(RetryReason::Systemic(..))), "charged to nobody");
    gate.probed(Answer::Well);
    assert_eq!(passes(&gate).await, Some(Passage::One));
    let started = Instant::now();
    for outcome in [
        Outcome::Reject(RejectReason::Malformed("it asked no bucket".into())),
        Outcome::Reject(RejectReason::TooLarge("it asked one bucket of two".into())),
        Outcome::Retry(RetryReason::Panicked("it may have asked none".into())),
    ] {
        assert_eq!(gate.weigh("b/2", outcome.clone()), outcome);
        gate.undecided();
        assert_eq!(passes(&gate).await, Some(Passage::One), "that decides nothing: the next may try");
        assert_eq!(started.elapsed(), Duration::ZERO, "at once");
    }
    gate.weigh("b/4", Outcome::Done);
    assert_eq!(passes(&gate).await, Some(Passage::Free), "durable and indexed or parked: all is well");
}

#[tokio::test(start_paused = true)]
async fn five_denied_objects_alone_are_charged_once_the_probe_has_read_others_and_not_before() {
    let denied = || Outcome::Retry(RetryReason::Denied(Dependency::Source, "KMS".into()));
    let systemic = |outcome| matches!(outcome, Outcome::Retry(RetryReason::Systemic(..)));
    let keys = ["1", "2", "3", "4", "5"];
    let refusal = || crate::store::StoreError::Denied("KMS".into());
    // A broken policy first: nothing can be read.
    let store = Buckets::new(&["src/1", "src/2", "src/3", "src/4", "src/5", "src/other"], &[("get src", refusal)]);
    let gate = Arc::new(gate());
    probing(&gate, &store);
    keys.iter().for_each(|key| drop(gate.weigh(key, denied())));
    keys.iter().for_each(|key| drop(gate.weigh(key, denied())));
    assert!(gate.is_shut());
    for _ in 0..20 {
        assert_eq!(passes(&gate).await, Some(Passage::One), "asked for ever more rarely");
        assert!(systemic(gate.weigh("1", denied())), "an outage is not a verdict");
    }
    // Now it is those five alone.
    *store.faults.lock().unwrap() = vec![
        ("get src/1", refusal),
        ("get src/2", refusal),
        ("get src/3", refusal),
        ("get src/4", refusal),
        ("get src/5", refusal),
    ];
    tokio::time::sleep(Duration::from_secs(60)).await; // one probe
    for key in keys {
        assert_eq!(passes(&gate).await, Some(Passage::One));
        assert_eq!(gate.weigh(key, denied()), denied(), "its own");
        gate.undecided();
    }
    // Anything else that fails is a reason to doubt again.
    assert!(systemic(gate.weigh("x", Outcome::Retry(RetryReason::Systemic(Dependency::Results, "503".into())))));
    assert!(systemic(gate.weigh("1", denied())));
}

#[tokio::test(start_paused = true)]
async fn a_grant_is_overtaken_by_an_outage_or_a_pause() {
    let gate = gate();
    assert!(gate.still_grants(Passage::Free));
    gate.pause("signal", "signal", "SIGUSR1");
    assert!(!gate.still_grants(Passage::Free) && !gate.still_grants(Passage::One));
    gate.resume("signal", "signal");
    shut(&gate);
    assert!(!gate.still_grants(Passage::Free));
    gate.probed(Answer::Well);
    assert!(gate.still_grants(Passage::One) && !gate.still_grants(Passage::Free));
}
