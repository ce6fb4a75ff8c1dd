//! One batch through the index, to a verdict for each of its documents.
//!
//! Promises that a refused request is split until the guilty document stands alone, that what got no answer of its own,
//! or was turned away for the moment, is sent again, and that all of it costs no more than one request timeout: what is
//! left then is systemic, and parked. A request that has not ended by then is waited for all the same, by nobody but
//! its own slot. Knows no line and no class.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::line::Offered;
use super::{OPEN, Shared};
use crate::index::aimd::Ending;
use crate::index::{ItemAnswer, ItemVerdict, SearchError};
use crate::retry::Backoff;

/// Before what was not taken is sent again.
const AGAIN: Backoff = Backoff { base: Duration::from_millis(200), cap: Duration::from_secs(2) };
/// What has no answer that can be trusted is sent again this often: the next reply is more likely no better.
const UNKNOWN_AGAIN: u32 = 2;

/// Documents that go in one request.
struct Part {
    offered: Vec<Offered>,
    /// Requests that some of them have been in without a verdict, and what was said.
    tries: u32,
    why: String,
}

impl Part {
    fn answer_all(&mut self, verdict: &ItemVerdict) {
        self.offered.iter_mut().for_each(|offered| offered.answer(verdict.clone()));
    }
}

/// What has been learnt of a batch.
#[derive(Default)]
struct Learnt {
    /// Something of it was judged.
    at_work: bool,
    split: bool,
    refused_alone: bool,
}

/// Sends a batch. `trial`: goes although the breaker is open, and once. `full`: more would have gone with it.
pub(super) async fn send(shared: &Shared, batch: Vec<Offered>, trial: bool, full: bool) {
    let (documents, began) = (batch.len(), Instant::now());
    let until = began + shared.patience;
    let mut parts = VecDeque::from([Part { offered: batch, tries: 0, why: String::new() }]);
    let mut learnt = Learnt::default();
    while let Some(mut part) = parts.pop_front() {
        // It may have opened while this batch waited for its turn.
        if !trial && shared.is_open() {
            part.answer_all(&ItemVerdict::Systemic(OPEN.into()));
            continue;
        }
        if part.tries > 0 && !trial {
            let again = Instant::now() + AGAIN.wait(part.tries - 1, &shared.jitter);
            sleep_until(again.min(until)).await;
        }
        if Instant::now() >= until || trial && part.tries > 0 {
            give_up(shared, part, &learnt, began);
            continue;
        }
        part.offered.retain(Offered::is_wanted);
        if part.offered.is_empty() {
            continue;
        }
        let begin = Instant::now();

        let items: Vec<_> = part.offered.iter().map(|offered| offered.item.clone()).collect();
        let ticket = shared.with_pace(|pace| pace.aimd.launch(items.len(), full, pace.outstanding));
        let ended = |ending| shared.with_pace(|pace| pace.aimd.end(ticket, ending, begin.elapsed()));
        let mut call = shared.search.bulk(&items);
        let answer = tokio::select! {
            biased;
            answer = &mut call => answer,
            () = sleep_until(until) => {
                ended(Ending::TimedOut);
                let why = format!("no answer to a bulk request within {:?}", shared.patience);
                shared.report(Some((began, &why)));
                let verdict = ItemVerdict::Systemic(why);
                part.answer_all(&verdict);
                parts.iter_mut().for_each(|part| part.answer_all(&verdict));
                // It still counts: its client closes the connection when its own time is up.
                drop(call.await);
                return;
            }
        };
        match answer {
            Ok(answers) => {
                let again = hear(shared, &mut learnt, part, answers, begin, ended);
                parts.extend(again);
            }
            Err(SearchError::TooLarge(why)) if part.offered.len() == 1 => {
                ended(Ending::Answered);
                shared.report(None); // it answers: this document is the problem
                (learnt.at_work, learnt.refused_alone) = (true, true);
                part.answer_all(&ItemVerdict::Refused(why));
            }
            Err(SearchError::WholeRefused(why)) if part.offered.len() == 1 => {
                ended(Ending::Answered);
                learnt.refused_alone = true;
                let everybodys = part.offered.iter().any(|offered| shared.suspect(&offered.item.document_id));
                if !everybodys {
                    part.answer_all(&ItemVerdict::Refused(why));
                    continue;
                }
                // Nothing is taken any more: whoever answers refuses everything, and what is left is not tried.
                shared.report(Some((begin, &why)));
                part.answer_all(&ItemVerdict::Unclear(why.clone()));
                let verdict = ItemVerdict::Systemic(why);
                parts.drain(..).for_each(|mut part| part.answer_all(&verdict));
            }
            Err(SearchError::WholeRefused(why) | SearchError::TooLarge(why)) => {
                ended(Ending::Answered);
                learnt.split = true;
                let second = part.offered.split_off(part.offered.len() / 2);
                parts.push_front(Part { offered: second, tries: 0, why: why.clone() });
                parts.push_front(Part { offered: part.offered, tries: 0, why });
            }
            Err(SearchError::Busy(why)) => {
                ended(Ending::Busy);
                parts.push_back(Part { offered: part.offered, tries: part.tries + 1, why });
            }
            Err(SearchError::Unavailable(why)) => {
                let timed_out = begin.elapsed() >= shared.patience;
                ended(if timed_out { Ending::TimedOut } else { Ending::Failed });
                shared.report(Some((begin, &why)));
                // What is left is not tried: an outage costs one request timeout, once (design §6).
                let verdict = ItemVerdict::Systemic(why);
                part.answer_all(&verdict);
                parts.drain(..).for_each(|mut part| part.answer_all(&verdict));
            }
        }
    }
    if learnt.split && !learnt.refused_alone {
        shared.with_pace(|pace| pace.aimd.too_large(documents));
    }
}

/// Gives each document its verdict; those without one, to be sent again.
fn hear(
    shared: &Shared,
    learnt: &mut Learnt,
    part: Part,
    answers: Vec<ItemAnswer>,
    begin: Instant,
    ended: impl FnOnce(Ending),
) -> Option<Part> {
    let (mut busy, mut at_work, mut trouble, mut unknown, mut taken) = (false, false, None, Vec::new(), None);
    let mut again = Part { offered: Vec::new(), tries: part.tries + 1, why: String::new() };
    let mut answers = answers.into_iter();
    for mut offered in part.offered {
        match answers.next().unwrap_or_else(|| ItemAnswer::Unknown("no answer for this item".into())) {
            // One item that is judged shows an index at work: what another says then is about that document alone.
            ItemAnswer::Durable => {
                at_work = true;
                offered.answer(ItemVerdict::Durable);
                taken = Some(offered.item.document_id);
            }
            ItemAnswer::Refused(why) => {
                at_work = true;
                offered.answer(ItemVerdict::Refused(why));
            }
            ItemAnswer::Sick(why) => {
                offered.answer(ItemVerdict::Systemic(why.clone()));
                trouble.get_or_insert(why);
            }
            ItemAnswer::Unclear(why) => {
                offered.answer(ItemVerdict::Unclear(why.clone()));
                trouble.get_or_insert(why);
            }
            ItemAnswer::Busy(why) => {
                busy = true;
                again.offered.push(offered);
                again.why = why;
            }
            ItemAnswer::Unknown(why) => {
                if part.tries < UNKNOWN_AGAIN {
                    again.offered.push(offered);
                    again.why.clone_from(&why);
                } else {
                    unknown.push((offered, why.clone()));
                }
                trouble.get_or_insert(why);
            }
        }
    }
    ended(match (busy, at_work) {
        (true, _) => Ending::Busy,
        (false, true) => Ending::Answered,
        (false, false) => Ending::Failed,
    });
    if taken.is_some() {
        *shared.taken() = taken;
    }
    match (at_work, &trouble) {
        (true, _) => shared.report(None),
        (false, Some(why)) => shared.report(Some((begin, why))),
        (false, None) => {} // busy and nothing else: alive, and not at work for us
    }
    learnt.at_work |= at_work;
    // Where others of the batch were judged, it is about these alone.
    let verdict = if learnt.at_work { ItemVerdict::Unclear } else { ItemVerdict::Systemic };
    unknown.into_iter().for_each(|(mut offered, why)| offered.answer(verdict(why)));
    (!again.offered.is_empty()).then_some(again)
}

/// No time is left for another request.
fn give_up(shared: &Shared, mut part: Part, learnt: &Learnt, began: Instant) {
    let spent = format!("not taken within {:?}", began.elapsed());
    let why = if part.why.is_empty() { spent } else { format!("{spent}: {}", part.why) };
    if !learnt.at_work {
        shared.report(Some((began, &why)));
    }
    part.answer_all(&ItemVerdict::Systemic(why));
}
