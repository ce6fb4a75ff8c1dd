//! P1, P2 and P10: every receipt has one end, told once, and the books say what the queue itself remembers.
//!
//! Knows no record and no index.

use quittance::books::BooksLine;
use quittance::shutdown::SETTLE_MARGIN;

use super::facts::{Delivery, Entry, Facts, Verb};
use super::leases::Lease;
use super::{Findings, P1, P2, P10, name};
use crate::sim::faults::Stamp;
use crate::sim::story::{Ended, Line, WorkerStory};

/// P1: each delivery that was heard of by a life that did not crash has one `message_received` and one
/// `message_settled`; those of a life that crashed have at most one of each, and no line is of a delivery that never was.
pub fn one_settlement_each(facts: &Facts<'_>, findings: &mut Findings) {
    for delivery in &facts.deliveries {
        let Some(story) = facts.lives[delivery.life].story else { continue };
        let (received, settled) = (delivery.received.len(), delivery.settled.len());
        let well = match story.ended {
            Ended::Stopped(_) => received == 1 && settled == 1,
            Ended::Crashed(_) => received <= 1 && settled <= received,
        };
        findings.unless(well, P1, || {
            format!("{} was received {received} times and settled {settled} times", name(facts, delivery))
        });
    }
    for life in &facts.lives {
        let Some(story) = life.story else { continue };
        let told =
            story.lines.iter().filter(|line| line.event == "message_received" || line.event == "message_settled");
        let joined: usize = life
            .deliveries
            .iter()
            .map(|number| facts.deliveries[*number].received.len() + facts.deliveries[*number].settled.len())
            .sum();
        findings.unless(told.clone().count() == joined, P1, || {
            let strange = told.clone().find(|line| !is_joined(facts, &life.deliveries, line));
            format!("{} tells of a delivery that it was never given: {strange:?}", life.who)
        });
    }
}

fn is_joined(facts: &Facts<'_>, deliveries: &[usize], line: &Line) -> bool {
    deliveries.iter().any(|number| {
        let delivery = &facts.deliveries[*number];
        delivery.received.iter().chain(&delivery.settled).any(|told| std::ptr::eq(*told, line))
    })
}

/// P2: no delete without a verdict or an acknowledged dead letter; no verdict means a return at once.
pub fn no_delete_without_a_verdict(facts: &Facts<'_>, findings: &mut Findings) {
    for delivery in &facts.deliveries {
        let Some(line) = delivery.settled.first() else { continue };
        let outcome = line.fields["outcome"].as_str().unwrap_or_default();
        for entry in &delivery.entries {
            match entry.verb {
                Verb::Delete if !matches!(outcome, "done" | "superseded" | "skipped") => {
                    let sent = facts.letter_before(delivery.life, delivery.subject, entry.call.asked.order);
                    findings.unless(sent, P2, || {
                        format!("{} was deleted, and its outcome is {outcome}", name(facts, delivery))
                    });
                }
                Verb::Return(delay) if outcome == "cancelled" && reason(line) != "deadline" => {
                    findings.unless(delay.is_zero(), P2, || {
                        format!("{} had no verdict, and was hidden for {delay:?}", name(facts, delivery))
                    });
                }
                Verb::Delete | Verb::Return(_) | Verb::Extend(_) => {}
            }
        }
    }
}

/// What became of the receipts of one life by the queue's own memory.
#[derive(Default, PartialEq, Eq, Debug)]
struct Tally {
    received: u64,
    deleted: u64,
    done: u64,
    superseded: u64,
    skipped: u64,
    dead_lettered: u64,
    returned: u64,
    lease_lost: u64,
}

/// P10 (and E0's *ledger balanced*): the line of each receipt says what was acknowledged, and the books of each life
/// that stopped are the sum of it, field by field.
pub fn the_books_are_the_queues(facts: &Facts<'_>, findings: &mut Findings) {
    for life in &facts.lives {
        let Some(story) = life.story else { continue };
        let mut tally = Tally::default();
        for number in &life.deliveries {
            let delivery = &facts.deliveries[*number];
            let Some(line) = delivery.settled.first() else { continue };
            let text = |name: &str| line.fields[name].as_str().unwrap_or_default();
            let (outcome, settlement) = (text("outcome"), text("settlement"));
            if let Err(why) = acknowledged(facts, delivery, story, line, settlement) {
                findings.add(P10, format!("{}: {why}", name(facts, delivery)));
            }
            tally.received += 1;
            match settlement {
                "deleted" => {
                    tally.deleted += 1;
                    match outcome {
                        "done" => tally.done += 1,
                        "superseded" => tally.superseded += 1,
                        "skipped" => tally.skipped += 1,
                        _ => {}
                    }
                }
                "dead_lettered" => tally.dead_lettered += 1,
                "returned" => tally.returned += 1,
                _ => tally.lease_lost += 1,
            }
        }
        if let Some(complaint) = &story.complaint {
            findings.add(P10, format!("{}: books during the run: {complaint}", life.who));
        }
        let Ended::Stopped(line) = &story.ended else { continue };
        findings.unless(booked(line) == tally, P10, || {
            format!("{}: the books say {:?}, the queue {tally:?}", life.who, booked(line))
        });
        findings.unless(line.balanced && line.in_flight == 0 && line.last, P10, || {
            format!("{}: the last books are {line:?}", life.who)
        });
    }
}

fn booked(line: &BooksLine) -> Tally {
    Tally {
        received: line.received,
        deleted: line.deleted,
        done: line.done,
        superseded: line.superseded,
        skipped: line.skipped,
        dead_lettered: line.dead_lettered,
        returned: line.returned,
        lease_lost: line.lease_lost,
    }
}

/// Whether the queue's answers bear out what the line says. Deleted and returned mean *acknowledged*, dead-lettered
/// that send and delete are; the rest is lease_lost.
fn acknowledged(
    facts: &Facts<'_>,
    delivery: &Delivery<'_>,
    story: &WorkerStory,
    line: &Line,
    settlement: &str,
) -> Result<(), String> {
    let answered = delivery.acknowledged().filter(|(stamp, _)| stamp.order < line.stamp.order);
    let natural = match answered {
        // A message that an earlier delivery dead-lettered may be done by this one; the line says which it was.
        Some((_, Verb::Delete)) if settlement == "dead_lettered" => {
            let sent = facts.letter_before(delivery.life, delivery.subject, line.stamp.order);
            if sent { "dead_lettered" } else { "deleted" }
        }
        Some((_, Verb::Delete)) => "deleted",
        Some((_, Verb::Return(_) | Verb::Extend(_))) => "returned",
        None => "lease_lost",
    };
    let lease = Lease::of(facts, delivery);
    let late = |entry: &Entry<'_>| {
        let asked = entry.call.asked;
        // An extension is also refused where an earlier delete took effect and its reply was lost.
        let first =
            delivery.entries.iter().filter(|entry| entry.verb == Verb::Delete).map(|entry| entry.call.asked.order);
        let is_first = first.min() == Some(asked.order);
        let over = lease.until(asked) <= asked.at || is_first && lease.is_over(asked);
        // Decided inside of the lease by one that then stood still: the first turn of its call came after.
        entry.verb == Verb::Delete && over && !facts.stood_still(delivery, asked)
    };
    match settlement {
        "lease_lost" => gave_up_in_time(facts, delivery, story, line, answered.map(|(stamp, _)| stamp)),
        "deleted" | "dead_lettered" if delivery.entries.iter().any(late) => {
            Err(format!("{settlement} by the line, and its delete went out after the lease"))
        }
        _ if settlement == natural => Ok(()),
        _ => Err(format!("{settlement} by the line, {natural} by the queue's answers")),
    }
}

/// Nothing was acknowledged in time: then the lease is over, or a newer delivery took its place, or the process is at
/// its end. An answer that comes in the very instant of the end, or while the worker stands still, may be too late.
fn gave_up_in_time(
    facts: &Facts<'_>,
    delivery: &Delivery<'_>,
    story: &WorkerStory,
    line: &Line,
    answered: Option<Stamp>,
) -> Result<(), String> {
    let lease = Lease::of(facts, delivery);
    let at_the_end = story.asked_to_stop.is_some_and(|asked| line.stamp.at >= asked.at + SETTLE_MARGIN);
    let well = match answered {
        Some(answered) => {
            let answered = facts.thawed(delivery.life, answered);
            let late = |entry: &Entry<'_>| entry.verb == Verb::Delete && lease.has_lapsed(entry.call.asked);
            delivery.entries.iter().any(late) || lease.is_over(answered) || at_the_end && answered.at >= line.stamp.at
        }
        None => {
            let twin = reason(line) == "twin_delivery" && has_twin(facts, delivery, line.stamp);
            lease.has_lapsed(line.stamp) || twin || at_the_end
        }
    };
    let left = || lease.until(line.stamp).saturating_duration_since(line.stamp.at);
    if well { Ok(()) } else { Err(format!("lease_lost, with {:?} left and the answer {answered:?}", left())) }
}

/// Another delivery of the same message is in the same process's hands.
fn has_twin(facts: &Facts<'_>, delivery: &Delivery<'_>, at: Stamp) -> bool {
    facts.subjects[delivery.subject].deliveries.iter().map(|number| &facts.deliveries[*number]).any(|other| {
        other.life == delivery.life && other.message.handle != delivery.message.handle && other.heard.order < at.order
    })
}

fn reason(line: &Line) -> &str {
    line.fields["reason"].as_str().unwrap_or_default()
}
