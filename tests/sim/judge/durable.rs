//! P3: nothing is deleted before it is durable, by what the deleting life itself knew from answers.
//!
//! Durable is an acknowledged dead letter; or for every change of the message a record that names it *and* an
//! acknowledged index item or marker of that revision or a newer one; or a newer record that was seen; or the
//! tombstone that explains an absence; or a reason to skip that the history bears out.

use std::collections::HashSet;

use quittance::config::OnMissingObject;

use super::facts::{Facts, Knowledge, Verb};
use super::told::{Change, Kind, Told, newer};
use super::{Findings, P3, name};

/// What the deletes of a history have discharged.
#[derive(Default)]
pub struct Discharged {
    /// Deletes that were looked at.
    pub deletes: usize,
    /// Messages that somebody rightly deleted.
    pub subjects: HashSet<usize>,
}

pub fn durable_before_deleted(facts: &Facts<'_>, findings: &mut Findings) -> Discharged {
    let mut discharged = Discharged::default();
    for delivery in &facts.deliveries {
        for entry in delivery.entries.iter().filter(|entry| entry.verb == Verb::Delete) {
            discharged.deletes += 1;
            let before = entry.call.asked.order;
            if facts.letter_before(delivery.life, delivery.subject, before) {
                discharged.subjects.insert(delivery.subject);
                continue;
            }
            let subject = &facts.subjects[delivery.subject];
            let undone = match &subject.told {
                Told::Nothing => None,
                Told::Unreadable => Some("an unreadable body".to_owned()),
                Told::Changes(changes) => {
                    let mut of_doc = changes.iter().zip(&subject.docs);
                    of_doc
                        .find(|(change, doc)| !is_durable(facts, delivery.life, **doc, change, subject.id, before))
                        .map(|(change, _)| format!("{:?} of {}", change.kind, change.key))
                }
            };
            match undone {
                None => drop(discharged.subjects.insert(delivery.subject)),
                Some(undone) => {
                    findings
                        .add(P3, format!("{} was deleted before this was durable: {undone}", name(facts, delivery)));
                }
            }
        }
    }
    discharged
}

fn is_durable(facts: &Facts<'_>, life: usize, doc: usize, change: &Change, id: &str, before: u64) -> bool {
    match change.kind {
        Kind::Skipped => return true,
        Kind::Refused => return false, // only a dead letter discharges it
        Kind::Created | Kind::Removed | Kind::Unstated => {}
    }
    let nothing = Knowledge::default();
    let known = facts.knowledge.get(&(life, doc)).unwrap_or(&nothing);
    let mut records = known.records.iter().filter(|record| record.order < before);
    let settled = records.any(|record| {
        let theirs_is_newer = match (record.sequencer, &change.sequencer) {
            (Some(theirs), Some(ours)) => newer(theirs, ours),
            (Some(_), None) | (None, _) => false,
        };
        let theirs_is_older = match (record.sequencer, &change.sequencer) {
            (Some(theirs), Some(ours)) => newer(ours, theirs),
            (None, Some(_)) => true,
            (_, None) => false,
        };
        let placed = || known.placed.iter().any(|(order, placed)| *order < before && *placed >= record.revision);
        let done = record.message == id && !theirs_is_older && placed();
        let gone = || known.source_gone.iter().any(|order| *order < before);
        let explained = change.kind == Kind::Created && record.tombstone && gone();
        done || theirs_is_newer || explained
    });
    let is_gone = known.source_gone.iter().chain(&known.source_empty).any(|order| *order < before);
    let folder = change.key.ends_with('/') && is_gone;
    let dropped = change.kind != Kind::Removed
        && facts.lives[life].setup.on_missing == OnMissingObject::Drop
        && known.source_gone.iter().any(|order| *order < before);
    settled || folder || dropped
}
