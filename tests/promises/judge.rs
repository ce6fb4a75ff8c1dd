//! The judge itself: acquits a history that is well, and finds each of these forgeries under its rule's name.
//!
//! The history is a real one: a worker that dies with a file in hand, another that drains the queue, an index that is
//! away for a while, a file that fails once and a body that is no event.

use std::collections::BTreeSet;
use std::time::Duration;

use quittance::message::{AttributeValue, MessageId};
use quittance::process::extract::ExtractFailure;
use quittance::queue::Refusal;
use quittance::store::{Condition, PutReply};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::sim::judge::{self, LEASE, LIMIT, LOST, ONE_CALL, P1, P2, P3, P4, P5, P6, P8, P10, PARKED};
use crate::sim::reader::{Act, Reader};
use crate::sim::story::{Ended, Line, Story, Violation, WorkerStory};
use crate::sim::{
    Effect, Faults, QueueAnswer, QueueAsk, RESULTS, SOURCE, SearchAsk, Setup, Site, StoreAnswer, StoreAsk, document_id,
};

mod exceptions;

const SECOND: Duration = Duration::from_secs(1);
/// The worker whose history is forged.
const WHO: &str = "w2.1";

struct Trial {
    site: Site,
    workers: Vec<WorkerStory>,
    keys: BTreeSet<String>,
    sent: Vec<(MessageId, String)>,
    healed_at: Instant,
    drained: bool,
    reader: Option<Reader>,
}

impl Trial {
    async fn run() -> Self {
        let site = Site::new(5);
        let world = site.world.clone();
        let slow = Faults { latency: (SECOND / 100, SECOND / 10), ..Faults::default() };
        world.queue.faults(|faults| faults.all(&slow));
        site.reader.plan("slow.txt", [Act::Takes(30 * SECOND), Act::Reads]);
        let crashed = Act::Fails(ExtractFailure::Crashed { detail: "signal 11".into() });
        site.reader.plan("bad.txt", [crashed, Act::Reads]);
        let setup = Setup { concurrency: 4, ..Setup::default() };

        let started = world.ticks.stamp();
        world.upload("slow.txt", "slow", 1);
        let first = site.start("w1.1", &setup);
        sleep(10 * SECOND).await;
        first.crash();
        let died = first.life.died().unwrap();

        world.search.down_for(100 * SECOND);
        for turn in 1..4 {
            world.upload("a.txt", format!("text {turn}"), turn);
        }
        world.upload("bad.txt", "bad", 1);
        world.upload("gone.txt", "gone", 1);
        world.remove("gone.txt", 2);
        world.queue.put("not json");
        let restarted = world.ticks.stamp();
        let second = site.start(WHO, &setup);
        // The dead one's open poll has taken three messages with it, for as long as their leases last.
        for turn in 4..6 {
            sleep(30 * SECOND).await;
            world.upload("a.txt", format!("text {turn}"), turn);
        }
        sleep(140 * SECOND).await;
        site.until_empty().await;
        sleep(200 * SECOND).await; // replay
        let asked = world.ticks.stamp();
        let books = second.stop().await;

        let mut stories = Vec::new();
        let lines = site.take_lines();
        for (who, started, asked_to_stop, ended) in
            [("w1.1", started, None, Ended::Crashed(died)), (WHO, restarted, Some(asked), Ended::Stopped(books))]
        {
            let of_this = lines.iter().filter(|told| told.who.as_deref() == Some(who));
            let lines = of_this.map(|told| told.line.clone()).collect();
            let (setup, frozen, complaint) = (setup.clone(), Vec::new(), None);
            stories.push(WorkerStory {
                who: who.into(),
                setup,
                started,
                asked_to_stop,
                ended,
                frozen,
                lines,
                complaint,
            });
        }
        let sent = world.queue.look(|memory| {
            let received = memory.calls.iter().filter_map(|call| match &call.answered {
                Some((_, QueueAnswer::Received(messages))) => Some(messages),
                _ => None,
            });
            received.flatten().map(|message| (message.id.clone(), message.body.clone())).collect()
        });
        let keys = ["a.txt", "bad.txt", "gone.txt", "slow.txt"].map(str::to_owned).into();
        Self { site, workers: stories, keys, sent, healed_at: Instant::now(), drained: true, reader: None }
    }

    fn judge(&self) -> Vec<Violation> {
        judge::judge(&Story {
            world: &self.site.world,
            reader: self.reader.as_ref().unwrap_or(&self.site.reader),
            workers: &self.workers,
            keys: &self.keys,
            sent: &self.sent,
            healed_at: self.healed_at,
            drained: self.drained,
        })
    }

    /// Changes the first settled line of this outcome.
    fn retell(&mut self, outcome: &str, name: &str, value: &str) {
        let settled = |line: &&mut Line| line.event == "message_settled" && line.fields["outcome"] == outcome;
        self.workers[1].lines.iter_mut().find(settled).unwrap().fields[name] = json!(value);
    }
}

/// The forged worker's first delete.
fn delete(trial: &Trial, forge: impl FnOnce(&mut Vec<crate::sim::judge::facts::QueueCall>, usize)) {
    trial.site.world.queue.forge(|calls, _| {
        let is_delete = |call: &crate::sim::judge::facts::QueueCall| {
            *call.who == *WHO && matches!(call.ask, QueueAsk::Delete(_)) && call.answered.is_some()
        };
        let first = calls.iter().position(is_delete).unwrap();
        forge(calls, first);
    });
}

/// The forged worker's PUTs of records that wrote.
fn record_puts(trial: &Trial, mut forge: impl FnMut(&mut crate::sim::judge::facts::StoreCall)) {
    trial.site.world.store.forge(|calls, _| {
        for call in calls.iter_mut().filter(|call| *call.who == *WHO) {
            let wrote = matches!(call.answered, Some((_, StoreAnswer::Put(PutReply::Written { .. }))));
            if wrote && matches!(&call.ask, StoreAsk::Put { key, .. } if key.starts_with("processed/")) {
                forge(call);
            }
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_history_that_is_well_is_acquitted() {
    assert_eq!(Trial::run().await.judge(), []);
}

type Forgery = fn(&mut Trial);

const FORGERIES: &[(&str, &str, Forgery)] = &[
    ("a message that is nowhere", LOST, |trial| {
        trial.sent.push((MessageId("lost".into()), r#"{"bucket":"source","key":"lost.txt"}"#.into()));
    }),
    ("a marker that is left", PARKED, |trial| {
        trial.site.world.store.forge(|_, buckets| {
            let any = buckets[RESULTS].values().next().unwrap().clone();
            buckets.get_mut(RESULTS).unwrap().insert("retry-index/2026-11-22/default/x/1.json".into(), any);
        });
    }),
    ("a receipt that was never settled", P1, |trial| {
        let lines = &mut trial.workers[1].lines;
        let settled = lines.iter().position(|line| line.event == "message_settled").unwrap();
        lines.remove(settled);
    }),
    ("a receipt that was settled twice", P1, |trial| {
        let lines = &mut trial.workers[1].lines;
        let settled = lines.iter().find(|line| line.event == "message_settled").unwrap().clone();
        lines.push(settled);
    }),
    ("a settlement of a delivery that never was", P1, |trial| trial.retell("done", "receive_count", "7")),
    ("a delete without a verdict", P2, |trial| trial.retell("done", "outcome", "cancelled")),
    ("a delete before the marker was acknowledged", P3, |trial| {
        trial.site.world.store.forge(|calls, _| {
            for call in calls.iter_mut().filter(|call| *call.who == *WHO) {
                if matches!(&call.ask, StoreAsk::Put { key, .. } if key.starts_with("retry-index/")) {
                    call.gone = call.answered.as_ref().map(|(stamp, _)| *stamp);
                }
            }
        });
        trial.site.world.search.forge(|calls, _| calls.retain(|call| !matches!(call.ask, SearchAsk::Bulk(_))));
    }),
    ("a delete before the dead letter was acknowledged", P3, |trial| {
        trial.site.world.dead_letters.forge(|calls, _| calls.iter_mut().for_each(|call| call.answered = None));
    }),
    ("a message returned as systemic while only the index was sick", P4, |trial| {
        trial.retell("superseded", "reason", "systemic");
        trial.retell("superseded", "outcome", "retried");
    }),
    ("intake closed while only the index was sick", P4, |trial| {
        let lines = &mut trial.workers[1].lines;
        let (stamp, fields) = (lines[0].stamp, json!({ "which": "critical" }));
        lines.insert(0, Line { stamp, event: "breaker_opened".into(), fields });
    }),
    ("a message hidden for an hour without a heartbeat", P5, |trial| {
        trial.site.world.queue.forge(|_, effects| {
            let hidden = effects.iter_mut().rev().find_map(|(_, effect)| match effect {
                Effect::Hidden { until, .. } | Effect::Delivered { until, .. } => Some(until),
                _ => None,
            });
            *hidden.unwrap() += 3_600 * SECOND;
        });
    }),
    ("a queue that was never empty", P5, |trial| trial.drained = false),
    ("an attempt charged for nothing", P6, |trial| trial.reader = Some(Reader::default())),
    ("a dead letter with a reason that the history does not bear out", P6, |trial| {
        trial.site.world.dead_letters.forge(|calls, _| {
            let QueueAsk::Send(letter) = &mut calls[0].ask else { panic!("no letter") };
            let AttributeValue::Text(note) = &mut letter.attributes.get_mut("Quittance").unwrap().value else {
                panic!("no note")
            };
            *note = note.replace("malformed", "attempts_exhausted");
        });
    }),
    ("a crash loop in which nobody died", P6, |trial| {
        trial.site.world.dead_letters.forge(|calls, _| {
            let QueueAsk::Send(letter) = &mut calls[0].ask else { panic!("no letter") };
            let AttributeValue::Text(note) = &mut letter.attributes.get_mut("Quittance").unwrap().value else {
                panic!("no note")
            };
            *note = note.replace("malformed", "crash_loop");
        });
    }),
    ("intake closed long after the last trouble", P4, |trial| {
        let lines = &mut trial.workers[1].lines;
        let mut stamp = lines.last().unwrap().stamp;
        stamp.at += 7_200 * SECOND;
        lines.push(Line { stamp, event: "breaker_opened".into(), fields: json!({ "which": "critical" }) });
    }),
    ("a document that is not in the index, of which an earlier revision was refused", P8, |trial| {
        let id = document_id("a.txt");
        trial.site.world.search.forge(|_, documents| drop(documents.remove(&id).unwrap()));
        trial.site.world.store.forge(|_, buckets| {
            let results = buckets.get_mut(RESULTS).unwrap();
            let any = results.values().next().unwrap().clone();
            results.insert(format!("errored-index/2026-11-22/default/{id}/{:020}.json", 1), any);
        });
    }),
    ("a record written after the lease", LEASE, |trial| record_puts(trial, |call| call.asked.at += 3_600 * SECOND)),
    ("a return after the lease", LEASE, |trial| {
        trial.site.world.queue.forge(|calls, _| {
            let change = |call: &&mut judge::facts::QueueCall| matches!(call.ask, QueueAsk::Change(_));
            calls.iter_mut().filter(|call| *call.who == *WHO).find(change).unwrap().asked.at += 3_600 * SECOND;
        });
    }),
    ("two calls of one receipt at once", ONE_CALL, |trial| {
        delete(trial, |calls, first| {
            let again = calls[first].clone();
            calls.insert(first, again);
        });
    }),
    ("an extension after an acknowledged delete", ONE_CALL, |trial| {
        delete(trial, |calls, first| {
            let mut late = calls[first].clone();
            let QueueAsk::Delete(handles) = &late.ask else { panic!("no delete") };
            late.ask = QueueAsk::Change(handles.iter().map(|handle| (handle.clone(), 60 * SECOND)).collect());
            late.asked = late.answered.as_ref().unwrap().0;
            late.asked.order += 1;
            calls.push(late);
        });
    }),
    ("more in flight than the limit", LIMIT, |trial| trial.workers[1].setup.concurrency = 2),
    ("a record that is not what the bucket holds", P8, |trial| {
        trial.site.world.store.put_object(SOURCE, "a.txt", "another text");
    }),
    ("a document that is not the record's", P8, |trial| {
        trial.site.world.search.forge(|_, documents| {
            documents.values_mut().next().unwrap().source["content"] = json!("an old text");
        });
    }),
    ("a revision that does not grow", P8, |trial| {
        record_puts(trial, |call| {
            let StoreAsk::Put { metadata, .. } = &mut call.ask else { panic!("no put") };
            metadata.insert("revision".into(), "7".into());
        });
    }),
    ("a record written without a condition", P8, |trial| {
        record_puts(trial, |call| {
            let StoreAsk::Put { condition, .. } = &mut call.ask else { panic!("no put") };
            *condition = Condition::None;
        });
    }),
    ("a delete that SQS refused, and the line says deleted", P10, |trial| {
        delete(trial, |calls, first| {
            let Some((_, QueueAnswer::Entries(replies))) = &mut calls[first].answered else { panic!("no answer") };
            replies[0] = Err(Refusal { code: "InternalError".into(), sender_fault: false });
        });
    }),
    ("a delete that SQS acknowledged, and the line says lease_lost", P10, |trial| {
        trial.retell("done", "settlement", "lease_lost");
    }),
    ("books that say more than the queue", P10, |trial| {
        let Ended::Stopped(books) = &mut trial.workers[1].ended else { panic!("it stopped") };
        books.received += 1;
        books.returned += 1;
    }),
];

#[tokio::test(start_paused = true)]
async fn every_forgery_is_found_under_its_rules_name() {
    let mut unseen = Vec::new();
    for (name, rule, forge) in FORGERIES {
        let mut trial = Trial::run().await;
        forge(&mut trial);
        let found = trial.judge();
        if !found.iter().any(|violation| violation.rule == *rule) {
            unseen.push(format!("{name}: {rule} says nothing, of {found:#?}"));
        }
    }
    assert!(unseen.is_empty(), "{}", unseen.join("\n"));
}
