//! A way through the worlds in sentences.

use std::fmt::Write as _;

use crate::model::{How, Model, Step};
use crate::rules::{Content, Record};
use crate::search::Counterexample;
use crate::world::{At, Call, Entry, ReplayAt, World};

/// The whole counterexample.
pub fn tell(model: &Model, found: &Counterexample) -> String {
    let mut text = String::new();
    let mut before = World::default();
    for (number, (step, after)) in (1..).zip(&found.steps) {
        let sentence = sentence(model, &before, *step, after);
        let _ = writeln!(text, "  {number:>2}  {sentence}");
        before = *after;
    }
    let _ = write!(text, "  =>  {}: {}", found.broken.rule, found.broken.what);
    text
}

fn sentence(model: &Model, before: &World, step: Step, after: &World) -> String {
    match step {
        Step::Happens => {
            let change = model.scenario.changes[usize::from(before.happened)];
            let told = model.scenario.messages.iter().position(|(_, end)| *end == after.happened);
            let told = told.map_or(String::new(), |message| format!("; message {} is sent", message + 1));
            let sequencer = match change.sequencer {
                0 => "no sequencer".to_owned(),
                number => format!("sequencer {number}"),
            };
            format!("the bucket holds {:?} ({:?}, {sequencer}){told}", change.content, change.operation)
        }
        Step::Receives { worker, message, again, duplicate } => {
            let count = if again { "a later delivery" } else { "a first delivery" };
            let why = if duplicate { ", a duplicate" } else { "" };
            format!("worker {} receives message {} as {count}{why}", name(worker), message + 1)
        }
        Step::Works { worker, at, how } => {
            let what = work(model, before, worker, at);
            let end = match how {
                How::Well if at == At::PutRecord && before.record == after.record => ": a race lost",
                How::Well if after.workers[worker].at == At::DeleteMessage => "; the work is finished",
                how => ending(how),
            };
            format!("worker {} {what}{end}", name(worker))
        }
        Step::Picks { replayer, revision } => format!("replayer {} takes the marker of {revision}", name(replayer)),
        Step::Replays { replayer, at, how } => {
            let me = before.replayers[replayer];
            let what = match at {
                ReplayAt::Idle => "waits".to_owned(),
                ReplayAt::GetRecord => format!("reads the record: {}", record(before.record)),
                ReplayAt::Bulk => format!("sends {} to the index", entry(me.entry)),
                ReplayAt::DeleteMarker => format!("deletes the marker of {}", me.marker.revision),
            };
            let end = if how == How::Well { "" } else { ending(how) };
            format!("replayer {} {what}{end}", name(replayer))
        }
        Step::Lands(call) => {
            let what = match call {
                Call::None => "nothing".to_owned(),
                Call::PutRecord { record: written, .. } => format!("the record {}", record(written)),
                Call::Bulk(sent) => format!("the bulk of {}", entry(sent)),
                Call::PutMarker(parked) => format!("the marker of {}", parked.revision),
                Call::DeleteMarker(revision) => format!("the removal of the marker of {revision}"),
                Call::DeleteMessage(message) => format!("the deletion of message {}", message + 1),
            };
            format!("what was in flight lands: {what}")
        }
        Step::Forgets => "the index forgets what it deleted".to_owned(),
    }
}

fn work(model: &Model, world: &World, worker: usize, at: At) -> String {
    let me = world.workers[worker];
    match at {
        At::Idle => "waits".to_owned(),
        At::HeadRecord | At::ExplainAbsence => format!("looks at the record: {}", record(world.record)),
        At::GetRecord => format!("reads the record to index it: {}", record(world.record)),
        At::ReadSource => format!("reads the source: {:?}", model.bucket(world)),
        At::PutRecord if me.record.is_there() => format!("writes {:?} over revision {}", me.read, me.record.revision),
        At::PutRecord => format!("writes {:?} where there is no record", me.read),
        At::Bulk => {
            format!("sends {} to the index", entry(Entry { revision: me.record.revision, content: me.record.content }))
        }
        At::PutMarker => format!("writes the marker of {}", me.record.revision),
        At::DeleteMessage => format!("deletes message {}", me.message + 1),
    }
}

fn ending(how: How) -> &'static str {
    match how {
        How::Well => "",
        How::Refused => ": refused",
        How::Busy => ": busy (409)",
        How::Unanswered => ": no answer, it is still in flight",
        How::CutOff => ", and dies or is cancelled while that is in flight",
        How::Stops => ": but stops before that",
        How::LeaseEnds => ": but before that the lease ends",
        How::Cancelled => ": cancelled, for its lease has ended",
        How::Ignored => ": the handle is not the newest, the message stays",
    }
}

fn record(record: Record) -> String {
    if !record.is_there() {
        return "there is none".to_owned();
    }
    let Record { revision, sequencer, content, message } = record;
    format!("revision {revision} ({}, sequencer {sequencer}, by message {})", said(content), message + 1)
}

fn entry(entry: Entry) -> String {
    format!("revision {} ({})", entry.revision, said(entry.content))
}

fn said(content: Content) -> &'static str {
    match content {
        Content::Nothing => "nothing",
        Content::Gone => "a tombstone",
        Content::A => "A",
        Content::B => "B",
    }
}

fn name(number: usize) -> char {
    (b'a' + number as u8) as char
}
