//! P4 and P6: what is charged to a message, and what is dead-lettered, has its cause in that message's own history.
//!
//! An outage, a crash, a deploy, a sick index are no cause. Causes are what a service said of one object, what a body
//! did on its way, and what the reader was told to do with a file.

use std::collections::HashMap;
use std::time::Duration;

use quittance::config::OnExtractionError;
use quittance::process::extract::ExtractFailure;
use tokio::time::Instant;

use super::facts::{Blame, Delivery, Facts, Letter};
use super::told::{Kind, Told};
use super::{Findings, P4, P6, name};
use crate::sim::faults::Stamp;
use crate::sim::reader::{Act, Begun};

/// SQS's 12 hours, less what the settlement itself needs.
const NEARLY_TWELVE_HOURS: u64 = 12 * 3_600 - 120;
/// Deliveries whose holder died or stood still before a message may be called a crash loop.
const CRASHES: usize = 2;

/// Three failures in a row shut intake; in a quiet queue they are apart by as much as messages that come back.
const LATELY: Duration = Duration::from_secs(3_600);

/// Adds the reader's acts to what the store's history says of each file.
pub fn blame_files(facts: &mut Facts<'_>, begun: &[Begun]) {
    let mut of_name: HashMap<&str, Vec<Instant>> = HashMap::new();
    for begun in begun {
        let charged = match &begun.act {
            Act::Panics | Act::Unreadable(_) => true,
            Act::Fails(failure) => match failure {
                ExtractFailure::Crashed { .. } | ExtractFailure::TimedOut { .. } | ExtractFailure::Limit { .. } => true,
                ExtractFailure::Unavailable { .. } => false,
            },
            Act::Reads | Act::Takes(_) | Act::Blocks(_) | Act::Hangs | Act::Lingers(_) => false,
        };
        if charged {
            of_name.entry(&begun.file_name).or_default().push(begun.at);
        }
    }
    if of_name.is_empty() {
        return;
    }
    for doc in &mut facts.docs {
        let file_name = doc.key.rsplit('/').next().unwrap_or_default();
        if let Some(times) = of_name.get(file_name) {
            doc.blame.extend(times.iter().map(|at| Blame { life: None, at: *at, for_good: false }));
        }
    }
}

/// When the reader was not there for anybody: systemic trouble that no store shows.
pub fn host_trouble(begun: &[Begun]) -> Vec<Instant> {
    let unavailable = |begun: &&Begun| matches!(&begun.act, Act::Fails(ExtractFailure::Unavailable { .. }));
    begun.iter().filter(unavailable).map(|begun| begun.at).collect()
}

/// P6: every attempts record that was asked for has a failure of its message's own behind it, found by the delivery
/// that it was written for, and counts no more of them than there are.
pub fn charged_for_a_cause(facts: &Facts<'_>, findings: &mut Findings) {
    let mut known: HashMap<usize, u64> = HashMap::new();
    for charge in &facts.charges {
        let asked = charge.call.asked;
        let before = known.entry(charge.subject).or_default();
        if charge.failed <= *before {
            continue; // a mark that work has begun, or another who lost the race for the same charge
        }
        *before = charge.failed;
        let held = facts.subjects[charge.subject].deliveries.iter().map(|number| &facts.deliveries[*number]);
        let mut held = held.filter(|held| held.life == charge.life && held.heard.order < asked.order);
        let id = facts.subjects[charge.subject].id;
        let mut deliveries = held.clone();
        if !held.any(|held| has_cause(facts, held, asked)) {
            let rule = if deliveries.any(|held| index_was_sick(facts, held, asked)) { P4 } else { P6 };
            findings.add(rule, format!("{} charged {id} with an attempt for no cause of its own", charge.call.who));
        }
        let causes = failed_deliveries(facts, charge.subject, asked) as u64;
        let unreadable = facts.attempts_unreadable.keys().any(|(_, subject)| *subject == charge.subject);
        findings.unless(charge.failed <= causes || unreadable, P6, || {
            let (failed, who) = (charge.failed, &charge.call.who);
            format!("{who} wrote down {failed} failed attempts of {id}, which has failed in {causes} deliveries")
        });
    }
}

/// P6: every dead letter says why, and the history bears it out. P4: none is for the index's sake.
pub fn dead_lettered_for_a_cause(facts: &Facts<'_>, findings: &mut Findings) {
    for letter in &facts.letters {
        let Some(subject) = letter.subject else {
            findings.add(P6, format!("a dead letter of no message that was received: {}", letter.note));
            continue;
        };
        if letter.note.is_null() {
            continue; // as received, for the note did not fit
        }
        if let Err(why) = bears_out(facts, letter, subject) {
            let sick = held_by(facts, letter, subject).any(|held| index_was_sick(facts, held, letter.call.asked));
            let of_the_index = sick && failed_deliveries(facts, subject, letter.call.asked) == 0;
            let (who, id) = (facts.who(letter.life), facts.subjects[subject].id);
            findings
                .add(if of_the_index { P4 } else { P6 }, format!("{who} dead-lettered {id}: {why}: {}", letter.note));
        }
    }
}

fn bears_out(facts: &Facts<'_>, letter: &Letter<'_>, subject: usize) -> Result<(), String> {
    let (told, setup) = (&facts.subjects[subject].told, facts.lives[letter.life].setup);
    let asked = letter.call.asked;
    let refused = match told {
        Told::Unreadable => true,
        Told::Nothing => false,
        Told::Changes(changes) => changes.iter().any(|change| change.kind == Kind::Refused),
    };
    let cause = held_by(facts, letter, subject).any(|held| has_cause(facts, held, asked));
    let yes = |well: bool, why: &str| if well { Ok(()) } else { Err(why.to_owned()) };
    let reason = letter.note["reason"].as_str().unwrap_or_default();
    match reason {
        "malformed" => {
            let unreadable = setup.on_extraction_error == OnExtractionError::DeadLetter && cause;
            yes(refused || unreadable, "its body can be read")
        }
        "not_allowed" => yes(refused, "its bucket is allowed"),
        "too_large" => yes(cause, "no file of it is too large"),
        "deadline" => {
            let held = |held: &Delivery<'_>| (asked.at - held.asked.at).as_secs() >= NEARLY_TWELVE_HOURS;
            yes(held_by(facts, letter, subject).any(held), "it was not held for twelve hours")
        }
        "crash_loop" => yes(unfinished_deliveries(facts, subject, asked) >= CRASHES, "too few of its holders died"),
        // A body that breaks a limit of ours is rejected at once, and so is an archived object.
        "limit" if refused => Ok(()),
        "denied" if held_by(facts, letter, subject).any(|held| blames(facts, held, asked).any(|it| it.for_good)) => {
            Ok(())
        }
        "source_missing" | "denied" | "limit" | "attempts_exhausted" => {
            yes(cause, "this delivery has not failed")?;
            let failed = failed_deliveries(facts, subject, asked);
            let at_the_queues_limit = setup
                .max_receive_count
                .is_some_and(|limit| held_by(facts, letter, subject).any(|held| held.message.receive_count >= limit));
            let out_of_reach = facts.attempts_unreadable.contains_key(&(letter.life, subject));
            let spent = failed as u64 >= u64::from(setup.max_attempts) || at_the_queues_limit || out_of_reach;
            yes(spent, &format!("it has failed in {failed} of its deliveries, and may {} times", setup.max_attempts))
        }
        _ => Err(format!("{reason:?} is no reason")),
    }
}

/// P4: who returns a message as *systemic* has met a sick store or host; a sick index alone gives no cause.
pub fn returned_for_a_cause(facts: &Facts<'_>, host: &[Instant], findings: &mut Findings) {
    for delivery in &facts.deliveries {
        for line in &delivery.settled {
            if line.fields["outcome"] != "retried" || line.fields["reason"] != "systemic" {
                continue;
            }
            let begun = facts.begun(delivery).at;
            let within = |stamp: &Stamp| begun <= stamp.at && stamp.order < line.stamp.order;
            let store = facts.lives[delivery.life].store_trouble.iter().any(within);
            let host = host.iter().any(|at| begun <= *at && *at <= line.stamp.at);
            let stood_still = facts.stood_still(delivery, line.stamp);
            let waited = waited_for_others(facts, delivery, line.stamp);
            findings.unless(store || host || stood_still || waited, P4, || {
                let fields = &line.fields;
                format!("{} was returned as systemic, and no store was sick: {fields}", name(facts, delivery))
            });
        }
    }
}

/// It had to be alone, and another delivery in the same hands did not end for half an hour.
fn waited_for_others(facts: &Facts<'_>, delivery: &Delivery<'_>, until: Stamp) -> bool {
    let others = facts.lives[delivery.life].deliveries.iter().map(|number| &facts.deliveries[*number]);
    let mut others = others.filter(|other| other.message.id != delivery.message.id);
    others.any(|other| {
        let end = facts.end(other).map_or(until.at, |end| end.at.min(until.at));
        end.saturating_duration_since(other.heard.at.max(delivery.heard.at)) >= Duration::from_secs(1_800)
    })
}

/// P4: intake is closed for a sick store or host, never for the index alone.
pub fn closed_for_a_cause(facts: &Facts<'_>, host: &[Instant], findings: &mut Findings) {
    for life in &facts.lives {
        let lines = life.story.map_or(&[][..], |story| &story.lines);
        for line in lines.iter().filter(|line| line.event == "breaker_opened" && line.fields["which"] == "critical") {
            let lately = |at: Instant| at <= line.stamp.at && line.stamp.at - at <= LATELY;
            let store = life.store_trouble.iter().any(|stamp| stamp.order < line.stamp.order && lately(stamp.at));
            let host = host.iter().any(|at| lately(*at));
            findings.unless(store || host, P4, || format!("{} closed intake for nothing: {}", life.who, line.fields));
        }
    }
}

fn held_by<'f>(facts: &'f Facts<'_>, letter: &'f Letter<'_>, subject: usize) -> impl Iterator<Item = &'f Delivery<'f>> {
    let held = facts.subjects[subject].deliveries.iter().map(|number| &facts.deliveries[*number]);
    held.filter(|held| held.life == letter.life && held.heard.order < letter.call.asked.order)
}

/// A file of the message made trouble of its own in this delivery's hands, before `until`.
fn has_cause(facts: &Facts<'_>, delivery: &Delivery<'_>, until: Stamp) -> bool {
    blames(facts, delivery, until).next().is_some()
}

fn blames<'f>(facts: &'f Facts<'_>, delivery: &'f Delivery<'_>, until: Stamp) -> impl Iterator<Item = &'f Blame> {
    let end = facts.end(delivery).map_or(until.at, |end| end.at.min(until.at));
    let begun = facts.begun(delivery).at;
    let docs = facts.subjects[delivery.subject].docs.iter();
    docs.flat_map(|doc| &facts.docs[*doc].blame).filter(move |blame| {
        blame.life.is_none_or(|life| life == delivery.life) && begun <= blame.at && blame.at <= end
    })
}

fn failed_deliveries(facts: &Facts<'_>, subject: usize, until: Stamp) -> usize {
    let deliveries = facts.subjects[subject].deliveries.iter().map(|number| &facts.deliveries[*number]);
    deliveries.filter(|held| held.heard.order < until.order && has_cause(facts, held, until)).count()
}

/// Deliveries that have no end of their own: their holder died, stood still or lost them.
fn unfinished_deliveries(facts: &Facts<'_>, subject: usize, until: Stamp) -> usize {
    let deliveries = facts.subjects[subject].deliveries.iter().map(|number| &facts.deliveries[*number]);
    // One whose work a twin went on with has not come to nothing.
    let taken_over = |held: &Delivery<'_>| held.settled.iter().any(|line| line.fields["reason"] == "twin_delivery");
    deliveries
        .filter(|held| held.heard.order < until.order && held.acknowledged().is_none() && !taken_over(held))
        .count()
}

fn index_was_sick(facts: &Facts<'_>, delivery: &Delivery<'_>, until: Stamp) -> bool {
    let trouble = &facts.lives[delivery.life].search_trouble;
    trouble.iter().any(|stamp| delivery.heard.at <= stamp.at && stamp.order < until.order)
}
