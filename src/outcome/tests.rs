//! The outcome table of design §4, row by row.

use super::*;

const RULES: Rules = Rules {
    max_attempts: 5,
    backoff: Backoff { base: Duration::from_secs(30), cap: Duration::from_secs(900) },
    on_missing: OnMissing::DeadLetter,
    max_receive_count: Some(20),
};

fn plan_with(rules: Rules, verdict: Verdict, failed_before: u32, receive_count: u32) -> Plan {
    rules.plan(&verdict, failed_before, receive_count, &Jitter::seeded(1))
}

fn retry(reason: RetryReason) -> Verdict {
    Verdict::Judged(Outcome::Retry(reason))
}

fn charged_reasons() -> Vec<RetryReason> {
    vec![
        RetryReason::SourceMissing,
        RetryReason::Denied(Dependency::Source, "d".into()),
        RetryReason::Throttled(Dependency::Source, "d".into()),
        RetryReason::Interrupted(Dependency::Source, "d".into()),
        RetryReason::ChildCrashed("d".into()),
        RetryReason::ChildTimedOut("d".into()),
        RetryReason::Limit("d".into()),
        RetryReason::Refused("d".into()),
    ]
}

#[test]
fn finished_work_is_deleted_whatever_the_counts_say() {
    for (outcome, name) in [
        (Outcome::Done, OutcomeName::Done),
        (Outcome::Superseded, OutcomeName::Superseded),
        (Outcome::Skip(SkipReason::DirectoryMarker), OutcomeName::Skipped),
    ] {
        for (failed, received) in [(0, 1), (99, 1), (0, 20), (99, 99)] {
            let plan = plan_with(RULES, Verdict::Judged(outcome.clone()), failed, received);
            assert_eq!((plan.settlement, plan.charged, plan.account.outcome), (Settlement::Delete, false, name));
        }
    }
}

#[test]
fn a_message_failure_with_attempts_left_is_returned_after_a_doubling_delay_and_charged() {
    for reason in charged_reasons() {
        for (failed_before, nominal) in [(0, 30), (1, 60), (2, 120), (3, 240)] {
            let plan = plan_with(RULES, retry(reason.clone()), failed_before, 2);
            let Settlement::Return(delay) = plan.settlement else { panic!("{reason:?}: {plan:?}") };
            assert!(delay >= Duration::from_secs(nominal / 2) && delay < Duration::from_secs(nominal), "{delay:?}");
            assert!(plan.charged, "{reason:?}");
            assert_eq!(plan.account.outcome, OutcomeName::Retried);
        }
    }
}

#[test]
fn the_last_message_failure_is_dead_lettered_with_its_reason() {
    let expected = |reason: &RetryReason| match reason {
        RetryReason::SourceMissing => DeadLetterReason::SourceMissing,
        RetryReason::Denied(..) => DeadLetterReason::Denied,
        RetryReason::Limit(_) => DeadLetterReason::Limit,
        _ => DeadLetterReason::AttemptsExhausted,
    };
    for reason in charged_reasons() {
        let plan = plan_with(RULES, retry(reason.clone()), 4, 6);
        let Settlement::DeadLetter(name, _) = plan.settlement else { panic!("{reason:?}: {plan:?}") };
        assert_eq!(name, expected(&reason));
    }
}

#[test]
fn a_panic_is_a_failed_attempt() {
    let plan = plan_with(RULES, Verdict::Panicked("boom".into()), 0, 1);
    assert!(matches!(plan.settlement, Settlement::Return(delay) if delay >= Duration::from_secs(15)));
    assert!(plan.charged);
    let last = plan_with(RULES, Verdict::Panicked("boom".into()), 4, 5);
    assert_eq!(
        last.settlement,
        Settlement::DeadLetter(DeadLetterReason::AttemptsExhausted, "panicked: boom".into()),
        "and the last one says so"
    );
    assert_eq!(last.account.outcome, OutcomeName::Panicked);
}

#[test]
fn a_systemic_failure_is_never_charged_and_never_dead_lettered() {
    for (receive_count, low, high) in [(1, 30, 60), (2, 60, 120), (3, 120, 240), (4, 150, 300), (500, 150, 300)] {
        let verdict = retry(RetryReason::Systemic(Dependency::Source, "connection refused".into()));
        let plan = plan_with(RULES, verdict, 99, receive_count);
        let Settlement::Return(delay) = plan.settlement else { panic!("{plan:?}") };
        assert!(delay >= Duration::from_secs(low) && delay < Duration::from_secs(high), "{receive_count}: {delay:?}");
        assert!(!plan.charged);
    }
}

#[test]
fn a_rejection_is_dead_lettered_at_once() {
    for (reason, name) in [
        (RejectReason::Malformed("x".into()), "malformed"),
        (RejectReason::NotAllowed("x".into()), "not_allowed"),
        (RejectReason::TooLarge("x".into()), "too_large"),
        (RejectReason::Limit("x".into()), "limit"),
        (RejectReason::Archived("x".into()), "denied"),
        (RejectReason::Unreadable("x".into()), "malformed"),
    ] {
        let plan = plan_with(RULES, Verdict::Judged(Outcome::Reject(reason)), 0, 1);
        let Settlement::DeadLetter(found, detail) = plan.settlement else { panic!() };
        assert_eq!((found.as_str(), detail.as_str()), (name, "x"));
        assert_eq!(plan.account.outcome, OutcomeName::Rejected);
    }
}

#[test]
fn no_verdict_is_returned_at_once_and_free_of_charge() {
    let plan = plan_with(RULES, Verdict::Cancelled, 4, 19);
    assert_eq!(plan.settlement, Settlement::Return(Duration::ZERO));
    assert!(!plan.charged);
}

#[test]
fn a_low_max_receive_count_brings_the_last_attempt_forward() {
    let rules = Rules { max_receive_count: Some(3), ..RULES };
    let failure = || retry(RetryReason::Interrupted(Dependency::Source, "cut".into()));
    assert!(matches!(plan_with(rules, failure(), 0, 1).settlement, Settlement::Return(_)));
    assert!(matches!(plan_with(rules, failure(), 1, 2).settlement, Settlement::Return(_)));
    assert!(matches!(plan_with(rules, failure(), 1, 3).settlement, Settlement::DeadLetter(..)), "before SQS does it");
    let unlimited = Rules { max_receive_count: None, ..RULES };
    assert!(matches!(plan_with(unlimited, failure(), 1, 3000).settlement, Settlement::Return(_)));
}

#[test]
fn a_source_that_stays_missing_ends_as_the_operator_chose() {
    let drop = Rules { on_missing: OnMissing::Drop, ..RULES };
    let plan = plan_with(drop, retry(RetryReason::SourceMissing), 4, 6);
    assert_eq!((plan.settlement, plan.account.outcome), (Settlement::Delete, OutcomeName::Skipped));
    assert_eq!(plan.account.reason, Some("source_missing"));
    assert!(matches!(plan_with(drop, retry(RetryReason::SourceMissing), 0, 1).settlement, Settlement::Return(_)));
}

#[test]
fn the_worst_change_of_a_message_wins_in_any_order() {
    let ranked = [
        Outcome::Skip(SkipReason::DirectoryMarker),
        Outcome::Superseded,
        Outcome::Done,
        Outcome::Reject(RejectReason::Malformed("x".into())),
        Outcome::Retry(RetryReason::SourceMissing),
        Outcome::Retry(RetryReason::Systemic(Dependency::Source, "x".into())),
    ];
    for (low, better) in ranked.iter().enumerate() {
        for worse in &ranked[low..] {
            assert_eq!(&better.clone().worse(worse.clone()), worse);
            assert_eq!(&worse.clone().worse(better.clone()), worse);
        }
    }
}

#[test]
fn of_two_changes_that_are_equally_bad_the_first_is_told() {
    let first = Outcome::Retry(RetryReason::Systemic(Dependency::Source, "first".into()));
    let second = Outcome::Retry(RetryReason::Systemic(Dependency::Results, "second".into()));
    assert_eq!(first.clone().worse(second), first);
}

#[test]
fn a_systemic_failure_is_told_by_the_name_of_what_is_sick() {
    use Dependency::{Host, Parking, Results, Source};
    let names = [Source, Results, Parking, Host].map(Dependency::as_str);
    assert_eq!(names, ["source", "results", "parking", "host"]);
}

#[test]
fn a_message_is_not_dropped_for_one_missing_source_while_another_change_of_it_is_undone() {
    let drop = Rules { on_missing: OnMissing::Drop, ..RULES };
    let report = |outcome| ChangeReport { work_id: None, key: "k".into(), outcome, indexed: Indexed::None };
    let missing = || report(Outcome::Retry(RetryReason::SourceMissing));
    let plan = |others: &[ChangeReport]| {
        let mut reports = vec![missing()];
        reports.extend_from_slice(others);
        plan_with(drop, retry(RetryReason::SourceMissing), 4, 6).sparing_the_undone(&reports).settlement
    };
    assert_eq!(plan(&[missing(), report(Outcome::Done), report(Outcome::Superseded)]), Settlement::Delete);
    let rejected = report(Outcome::Reject(RejectReason::TooLarge("big".into())));
    assert_eq!(plan(&[rejected]), Settlement::DeadLetter(DeadLetterReason::TooLarge, "big".into()));
    let failed = report(Outcome::Retry(RetryReason::Denied(Dependency::Source, "no".into())));
    assert_eq!(plan(&[report(Outcome::Done), failed]), Settlement::DeadLetter(DeadLetterReason::Denied, "no".into()));
}

#[test]
fn without_charge_what_is_finished_is_deleted_and_all_else_is_returned_at_once() {
    let reject = Verdict::Judged(Outcome::Reject(RejectReason::Malformed("d".into())));
    let systemic = retry(RetryReason::Systemic(Dependency::Results, "d".into()));
    let others = [reject, systemic, Verdict::Panicked("d".into()), Verdict::Cancelled];
    for verdict in charged_reasons().into_iter().map(retry).chain(others) {
        let Plan { settlement, charged, .. } = Plan::without_charge(&verdict);
        assert_eq!((settlement, charged), (Settlement::Return(Duration::ZERO), false), "{verdict:?}");
    }
    for outcome in [Outcome::Done, Outcome::Superseded, Outcome::Skip(SkipReason::DirectoryMarker)] {
        let verdict = Verdict::Judged(outcome);
        assert_eq!(Plan::without_charge(&verdict), plan_with(RULES, verdict, 0, 1));
    }
}
