//! What can be said of any trial at a glance; the judge looks closer.

use std::collections::BTreeSet;

use super::super::history;
use super::super::story::{Ended, Story, Violation};

pub fn judge(story: &Story) -> Vec<Violation> {
    let mut found = Vec::new();
    let world = story.world;
    if !story.drained {
        let left: Vec<_> = world.queue.live().into_iter().map(|(id, _, count)| (id, count)).collect();
        let parked = world.store.keys(super::RESULTS, "retry-index/");
        found.push(Violation { rule: "P5", what: format!("not drained: {left:?}, parked {parked:?}") });
    }
    for worker in story.workers {
        if let Some(complaint) = &worker.complaint {
            found.push(Violation { rule: "P10", what: format!("{}: {complaint}", worker.who) });
        }
        if let Ended::Stopped(books) = &worker.ended
            && (!books.balanced || books.in_flight != 0)
        {
            found.push(Violation { rule: "P10", what: format!("{}: {books:?}", worker.who) });
        }
    }
    // A key of which a message lies among the dead letters may stay behind.
    let dead: Vec<String> = world.dead_letters.live().into_iter().map(|(_, letter, _)| letter.body).collect();
    let encoded: BTreeSet<&String> = story
        .keys
        .iter()
        .filter(|key| {
            let form = super::super::form_encoded(key);
            let errored = world.store.keys(super::RESULTS, "errored-index/");
            let document = super::super::document_id(key);
            !dead.iter().any(|body| body.contains(&form) || body.contains(key.as_str()))
                && !errored.iter().any(|marker| marker.contains(document.as_str()))
        })
        .collect();
    let whole: Vec<&str> = encoded.into_iter().map(String::as_str).collect();
    if let Err(what) = history::in_step(world, &whole) {
        found.push(Violation { rule: "P8", what });
    }
    found
}
