//! What the judge excuses, each with a history within the excuse (acquitted by that rule) and one just beyond (found).
//!
//! An excuse that is too wide is a rule that says nothing: these came from seeds that were read, one by one.

use std::sync::Arc;

use quittance::message::{Message, ReceiptHandle};
use quittance::store::StoreError;

use super::*;
use crate::sim::faults::Stamp;

/// Forges a history within the excuse, or (`true`) beyond it.
type Bend = fn(&mut Trial, bool);

const MOMENT: Duration = Duration::from_millis(1);

const EXCUSES: &[(&str, &str, Bend)] = &[
    (
        "a twin goes on with its elder's work, and what stood in the elder's way stands in its own",
        P4,
        |trial, beyond| {
            let id = trial.line("message_settled", "bad.txt", 1).fields["message_id"].clone();
            let elder = trial.line("message_received", "bad.txt", 1).stamp;
            let younger = trial.line("message_received", "bad.txt", 2).stamp;
            // The elder's trouble: a call that failed while it was held, and before the younger came.
            trial.site.world.store.forge(|calls, _| {
                let within = |call: &&mut judge::facts::StoreCall| {
                    let over = call.over().is_some_and(|over| elder.order < over.order && over.order < younger.order);
                    over && *call.who == *WHO && matches!(call.ask, StoreAsk::Head { .. } | StoreAsk::Get { .. })
                };
                let call = calls.iter_mut().find(within).unwrap();
                call.answered.as_mut().unwrap().1 = StoreAnswer::Failed(StoreError::Unavailable("503".into()));
            });
            let of = |line: &&mut Line| line.event == "message_settled" && line.fields["message_id"] == id;
            let mut lines = trial.workers[1].lines.iter_mut().filter(of);
            let first = lines.next().unwrap();
            first.fields["reason"] = json!("twin_delivery");
            first.stamp.at = if beyond { younger.at - MOMENT } else { younger.at };
            systemic(lines.next().unwrap());
        },
    ),
    ("who stood still while it held a message may return it as systemic", P4, |trial, beyond| {
        let received = trial.line("message_received", "gone.txt", 1).stamp;
        trial.freeze(if beyond { trial.workers[1].started } else { received });
        systemic(trial.settled("gone.txt"));
    }),
    ("who had to be alone and waited half an hour for others may return a message as systemic", P4, |trial, beyond| {
        let received = trial.line("message_received", "gone.txt", 1).stamp;
        let late = received.at + if beyond { 1_790 * SECOND } else { 1_830 * SECOND };
        let line = trial.settled("gone.txt");
        systemic(line);
        line.stamp.at = late;
        let mut lines = trial.workers[1].lines.iter_mut();
        let of_other = |line: &&mut Line| line.event == "message_settled" && line.stamp.order > received.order;
        lines.find(|line| of_other(line) && !names(line, "gone.txt")).unwrap().stamp.at = late;
    }),
    ("a return and the refusal of an extension may cross in one instant", LEASE, |trial, beyond| {
        trial.site.world.queue.forge(|calls, _| {
            let is_return = |call: &judge::facts::QueueCall| {
                *call.who == *WHO && matches!(&call.ask, QueueAsk::Change(entries) if entries.len() == 1)
            };
            let place = calls.iter().position(is_return).unwrap();
            let early = if beyond { MOMENT } else { Duration::ZERO };
            let QueueAsk::Change(entries) = &calls[place].ask else { panic!("no return") };
            let handle = entries[0].0.clone();
            refuse_before(calls, place, handle, early);
        });
    }),
    ("a duplicate may leave the record a revision ahead of the index, with the same text", P8, |trial, beyond| {
        trial.site.world.search.forge(|_, documents| {
            let indexed = documents.values_mut().find(|indexed| indexed.source["key"] == "slow.txt").unwrap();
            indexed.revision -= 1;
            indexed.source["revision"] = json!(indexed.revision);
            indexed.source["message_id"] = json!("another");
            if beyond {
                indexed.source["content"] = json!("an old text");
            }
        });
    }),
    ("the delete of one that stood still may go out after its lease", P10, |trial, beyond| {
        let received = trial.line("message_received", "gone.txt", 1).stamp;
        trial.freeze(if beyond { trial.workers[1].started } else { received });
        let handle = trial.handle("gone.txt");
        trial.site.world.queue.forge(|calls, _| {
            let place = delete_of(calls, &handle);
            let call = &mut calls[place];
            call.asked.at += 3_600 * SECOND;
            call.answered.as_mut().unwrap().0.at += 3_600 * SECOND;
        });
    }),
    (
        "an extension is refused where a delete took effect unheard, and that delete is asked again",
        P10,
        |trial, beyond| {
            let handle = trial.handle("gone.txt");
            trial.site.world.queue.forge(|calls, _| {
                let place = delete_of(calls, &handle);
                refuse_before(calls, place, handle.clone(), MOMENT);
                if !beyond {
                    let mut unheard = calls[place + 1].clone();
                    unheard.asked = before(unheard.asked, 5, 5 * MOMENT);
                    unheard.gone = Some(before(calls[place + 1].asked, 4, 4 * MOMENT));
                    unheard.answered = None;
                    calls.insert(place, unheard);
                }
            });
        },
    ),
];

#[tokio::test(start_paused = true)]
async fn what_is_excused_is_acquitted_and_what_is_just_beyond_is_found() {
    let mut wrong = Vec::new();
    for (name, rule, bend) in EXCUSES {
        for beyond in [false, true] {
            let mut trial = Trial::run().await;
            bend(&mut trial, beyond);
            let found = trial.judge();
            let of_rule: Vec<_> = found.iter().filter(|violation| violation.rule == *rule).collect();
            if of_rule.is_empty() == beyond {
                wrong.push(format!("{name} (beyond: {beyond}): {rule} says {of_rule:#?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

impl Trial {
    /// The forged worker's line of this event, of the nth delivery of this key's first message that it had.
    fn line(&self, event: &str, key: &str, nth: usize) -> Line {
        let settled = self.workers[1].lines.iter().find(|line| line.event == "message_settled" && names(line, key));
        let id = &settled.unwrap().fields["message_id"];
        let lines = self.workers[1].lines.iter();
        let mut of = lines.filter(|line| line.event == event && line.fields["message_id"] == *id);
        of.nth(nth - 1).unwrap().clone()
    }

    fn settled(&mut self, key: &str) -> &mut Line {
        let mut lines = self.workers[1].lines.iter_mut();
        lines.find(|line| line.event == "message_settled" && names(line, key)).unwrap()
    }

    /// The handle of the delivery that `settled` tells of.
    fn handle(&self, key: &str) -> ReceiptHandle {
        let line = self.line("message_settled", key, 1);
        self.site.world.queue.look(|memory| {
            let received = memory.calls.iter().filter_map(|call| match &call.answered {
                Some((_, QueueAnswer::Received(messages))) if *call.who == *WHO => Some(messages),
                Some(_) | None => None,
            });
            let of = |message: &&Message| {
                line.fields["message_id"] == message.id.0 && line.fields["receive_count"] == message.receive_count
            };
            received.flatten().find(of).unwrap().handle.clone()
        })
    }

    /// The forged worker stood still for the length of one event.
    fn freeze(&mut self, at: Stamp) {
        self.workers[1].frozen.push((at, Stamp { order: at.order + 1, at: at.at }));
    }
}

fn names(line: &Line, key: &str) -> bool {
    line.fields["keys"].to_string().contains(key)
}

fn systemic(line: &mut Line) {
    line.fields["outcome"] = json!("retried");
    line.fields["reason"] = json!("systemic");
}

fn before(stamp: Stamp, order: u64, time: Duration) -> Stamp {
    Stamp { order: stamp.order - order, at: stamp.at - time }
}

fn delete_of(calls: &[judge::facts::QueueCall], handle: &ReceiptHandle) -> usize {
    let of = |call: &judge::facts::QueueCall| {
        let heard = call.answered.is_some() && *call.who == *WHO;
        heard && matches!(&call.ask, QueueAsk::Delete(handles) if handles.contains(handle))
    };
    calls.iter().position(of).unwrap()
}

/// An extension of this receipt, refused for good this long before the call.
fn refuse_before(calls: &mut Vec<judge::facts::QueueCall>, place: usize, handle: ReceiptHandle, early: Duration) {
    let call = &calls[place];
    let refusal = Refusal { code: "ReceiptHandleIsInvalid".into(), sender_fault: true };
    let refused = judge::facts::QueueCall {
        who: Arc::clone(&call.who),
        ask: QueueAsk::Change(vec![(handle, Setup::default().visibility)]),
        asked: before(call.asked, 2, early + MOMENT),
        took_effect: None,
        answered: Some((before(call.asked, 1, early), QueueAnswer::Entries(vec![Err(refusal)]))),
        gone: None,
    };
    calls.insert(place, refused);
}
