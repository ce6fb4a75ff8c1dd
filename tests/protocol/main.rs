//! The protocol of record, index, park and replay (design §4 to §6), model-checked: every order of steps within bounds.
//!
//! One file, its changes and the messages that tell them; workers and a replayer that make the calls of the code in the
//! code's order (`worker.rs`, `replay.rs`), with crashes, calls that land late or never, ended leases and duplicates;
//! P3 in every state, P8 in every quiet one (`judge.rs`), and a way to a quiet end from everywhere (`ends.rs`). Uses
//! nothing of the library: what it shows is that the *order* is right; that the code keeps to it is shown by the
//! simulation, and that both mean the same by "newer" in `tests/promises/newest_wins.rs`.
//!
//! `make protocol BOUNDS=faults=2` searches further; the bounds are in `scenario.rs`.

use std::collections::BTreeSet;

use model::{Flaw, How, Model, Step};
use rules::Content::{self, A, B, Gone};
use scenario::{Bounds, Scenario, Telling};
use search::{Found, search};

mod ends;
mod judge;
mod model;
mod replay;
mod rules;
mod scenario;
mod search;
mod trace;
mod worker;
mod world;

/// What `make test` searches, or what the environment says.
fn bounds(usual: Bounds) -> Bounds {
    let wish = std::env::var("BOUNDS").unwrap_or_default();
    usual.parse(&wish).unwrap_or_else(|mistake| panic!("BOUNDS: {mistake}"))
}

fn searched(model: &Model) -> Found {
    let found = search(model);
    let (Found { steps, quiet, depth, took, .. }, states) = (&found, found.worlds.len());
    let (name, flaw) = (&model.scenario.name, model.flaw.map_or(String::new(), |flaw| format!("{flaw:?}: ")));
    println!("{flaw}{name}: {states} states, {steps} steps, {quiet} quiet, {depth} deep, {:.1} s", took.as_secs_f64());
    assert!(!found.cut_short, "{name}: more than {states} states, so nothing is proved");
    found
}

fn holds(scenario: Scenario, bounds: Bounds, flaw: Option<Flaw>) {
    let model = Model { scenario, bounds, flaw, only_ends: false };
    let found = searched(&model);
    if let Some(broken) = &found.broken {
        panic!("{}\n{}", model.scenario.name, trace::tell(&model, broken));
    }
    assert!(found.quiet > 0, "it never came to an end, so P8 was never judged");
}

fn all_hold(telling: Telling, histories: &[&[Content]]) {
    let bounds = bounds(Bounds::USUAL);
    let shortened: BTreeSet<&[Content]> = histories.iter().map(|history| &history[..bounds.changes]).collect();
    for history in shortened {
        holds(Scenario::told(telling, history), bounds, None);
    }
}

#[test]
fn histories_with_the_sequencers_of_s3_keep_their_promises() {
    all_hold(Telling::Ordered, &[&[A, B, Gone, A], &[A, Gone, B, Gone], &[A, B, A, Gone], &[A, Gone, A, B]]);
}

#[test]
fn histories_with_one_sequencer_for_all_keep_their_promises() {
    all_hold(Telling::Constant, &[&[A, B, Gone, A], &[A, Gone, B, Gone], &[A, B, A, Gone]]);
}

#[test]
fn histories_of_minimal_bodies_keep_their_promises() {
    all_hold(Telling::Minimal, &[&[A, Gone, B, Gone], &[A, B, A, Gone]]);
}

#[test]
fn histories_told_now_this_way_now_that_keep_their_promises() {
    all_hold(Telling::Mixed(0b101), &[&[A, Gone, B, Gone]]);
    all_hold(Telling::Mixed(0b010), &[&[A, B, Gone, A]]);
}

#[test]
fn twins_false_removals_and_two_changes_in_one_message_keep_their_promises() {
    let bounds = bounds(Bounds::USUAL);
    holds(Scenario::with_a_twin(Telling::Ordered, &[A, B]), bounds, None);
    holds(Scenario::with_a_twin(Telling::Constant, &[A, Gone]), bounds, None);
    holds(Scenario::with_a_false_removal(Telling::Ordered, &[A, Gone, B]), bounds, None);
    holds(Scenario::with_a_pair(Telling::Ordered, &[A, Gone, B]), bounds, None);
    holds(Scenario::with_a_pair(Telling::Constant, &[Gone, A, Gone]), bounds, None);
    holds(Scenario::with_a_pair(Telling::Minimal, &[A, Gone, B]), bounds, None);
}

#[test]
fn two_things_may_go_wrong_at_once() {
    let bounds = bounds(Bounds { changes: 2, faults: 2, ..Bounds::USUAL });
    for telling in [Telling::Ordered, Telling::Constant, Telling::Minimal] {
        for history in [[A, B], [A, Gone]] {
            holds(Scenario::told(telling, &history), bounds, None);
        }
    }
}

/// By operation but without a sequencer is as with one for all: no rule tells the two apart.
#[test]
fn a_missing_sequencer_is_as_good_as_an_equal_one() {
    let bounds = Bounds { changes: 2, ..Bounds::USUAL };
    for history in [[A, B], [A, Gone]] {
        let [without, constant] = [Telling::Without, Telling::Constant].map(|telling| {
            let scenario = Scenario::told(telling, &history);
            searched(&Model { scenario, bounds, flaw: None, only_ends: false })
        });
        assert!(without.broken.is_none() && constant.broken.is_none());
        assert_eq!((without.worlds.len(), without.steps), (constant.worlds.len(), constant.steps), "{history:?}");
    }
}

/// Each is told twice: where a promise is broken first, and how it ends when nobody looks before the end.
#[test]
fn every_flaw_is_caught() {
    use Flaw::*;
    use Telling::{Constant, Minimal, Ordered};
    let table: [(Flaw, Telling, &[Content], &str); 12] = [
        (EqualIsFinished, Ordered, &[A], "P3"),
        (EqualIsFinished, Minimal, &[A], "P3"),
        (HardDelete, Ordered, &[A, Gone], "P3"),
        (HardDelete, Constant, &[A, Gone], "P3"),
        (DeleteBeforePark, Ordered, &[A], "P3"),
        (UnconditionalPut, Ordered, &[A, B], "record"),
        (UnconditionalPut, Constant, &[A, B], "P3"),
        (ReplaysOldText, Ordered, &[A, B], "P8"),
        (MarkerGoesFirst, Ordered, &[A], "P3"),
        (UnversionedIndex, Ordered, &[A, B], "P3"),
        (SourceBeforeRecord, Constant, &[A, B], "P3"),
        (SameEtagIsEqual, Constant, &[A, B, A], "P3"),
    ];
    for (flaw, telling, history, rule) in table {
        for (only_ends, rule) in [(false, rule), (true, "P8")] {
            let scenario = Scenario::told(telling, history);
            let model = Model { scenario, bounds: Bounds::USUAL, flaw: Some(flaw), only_ends };
            let found = searched(&model);
            let broken = found.broken.unwrap_or_else(|| panic!("{flaw:?} was not caught"));
            println!("{}\n", trace::tell(&model, &broken));
            assert_eq!(broken.broken.rule, rule, "{flaw:?}");
        }
    }
}

/// Two rules of the code are not what keeps P3 and P8, and it is well to know what does. Without a look at the lease
/// the record is fenced by its condition and the index by its version, whoever writes and however late (the look is
/// there for what nothing fences, a dead letter, and against work in vain: P7). A replay that sent the text and the
/// revision of a marker would be refused by the version too (that a marker has no text keeps deleted text from being
/// kept twice).
#[test]
fn without_a_look_at_the_lease_and_with_text_in_the_markers_the_fences_still_hold() {
    let bounds = Bounds { changes: 2, faults: 2, ..Bounds::USUAL };
    for flaw in [Flaw::NoLeaseCheck, Flaw::ReplaysOldRevision] {
        holds(Scenario::told(Telling::Ordered, &[A, B]), bounds, Some(flaw));
        holds(Scenario::told(Telling::Constant, &[A, Gone]), bounds, Some(flaw));
    }
}

/// A model that cannot do a thing cannot fail by it.
#[test]
fn every_step_of_the_model_is_taken() {
    let mut taken = BTreeSet::new();
    for (telling, history) in [(Telling::Ordered, [A, Gone]), (Telling::Minimal, [A, B])] {
        let scenario = Scenario::told(telling, &history);
        let model = Model { scenario, bounds: Bounds::USUAL, flaw: None, only_ends: false };
        let mut next = Vec::new();
        for world in &searched(&model).worlds {
            model.next(world, &mut next);
            taken.extend(next.iter().map(|(step, _)| kind(*step)));
        }
    }
    use How::*;
    let calls: [(&str, &[How]); 11] = [
        ("HeadRecord", &[Well, Stops]),
        ("ReadSource", &[Well, Stops]),
        ("ExplainAbsence", &[Well, Stops]),
        ("GetRecord", &[Well, Stops]),
        ("PutRecord", &[Well, Stops, Busy, Unanswered, CutOff]),
        ("Bulk", &[Well, Stops, Refused, Unanswered, CutOff]),
        ("PutMarker", &[Well, Stops, Refused, Unanswered, CutOff, LeaseEnds, Cancelled]),
        ("DeleteMessage", &[Well, Stops, Ignored, Unanswered, CutOff, LeaseEnds]),
        ("replay GetRecord", &[Well]),
        ("replay Bulk", &[Well, Stops, CutOff]),
        ("replay DeleteMarker", &[Well, Stops, CutOff, Unanswered]),
    ];
    let calls = calls.iter().flat_map(|(at, hows)| hows.iter().map(move |how| format!("{at} {how:?}")));
    let lands = ["PutRecord", "Bulk", "PutMarker", "DeleteMarker", "DeleteMessage"].map(|call| format!("{call} lands"));
    let others = ["a change", "a first delivery", "a later delivery", "a duplicate", "a marker"].map(str::to_owned);
    let expected: BTreeSet<String> = calls.chain(lands).chain(others).collect();
    assert_eq!(taken, expected);
}

fn kind(step: Step) -> String {
    match step {
        Step::Happens => "a change".to_owned(),
        Step::Receives { duplicate: true, .. } => "a duplicate".to_owned(),
        Step::Receives { again: false, .. } => "a first delivery".to_owned(),
        Step::Receives { again: true, .. } => "a later delivery".to_owned(),
        Step::Works { at, how, .. } => format!("{at:?} {how:?}"),
        Step::Picks { .. } => "a marker".to_owned(),
        Step::Replays { at, how, .. } => format!("replay {at:?} {how:?}"),
        Step::Lands(call) => {
            let call = format!("{call:?}");
            format!("{} lands", call.split(|c: char| !c.is_alphabetic()).next().unwrap_or_default())
        }
        Step::Forgets => "the index forgets".to_owned(),
    }
}
