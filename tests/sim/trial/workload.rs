//! What producers do in a trial: files put, overwritten and removed, and the messages that tell of it.
//!
//! Promises that whatever is done to a file is told at least once, after it was done. Some messages tell of what never
//! was, and some are no messages at all.

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;
use quittance::message::MessageId;
use serde_json::json;

use super::super::{Record, SOURCE, World, s3_event, sequencer};
use super::plan::{millis, one_of};

/// How the order of changes is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Telling {
    /// As S3 does.
    Ordered,
    /// One sequencer for all, as LocalStack does.
    Constant,
    /// `Records[]` without sequencers.
    Without,
    /// The minimal form: no operation, no sequencer.
    Minimal,
}

#[derive(Clone, Debug)]
pub enum Deed {
    Put {
        key: String,
        text: String,
        turn: u64,
    },
    Remove {
        key: String,
        turn: u64,
    },
    /// Tells of these turns (as they were when done) in one message.
    Tell {
        turns: Vec<u64>,
        telling: Telling,
    },
    /// A message that tells of nothing that was done.
    Say(String),
}

const KEYS: [&str; 6] =
    ["t1/a.txt", "t1/b.txt", "t2/c.txt", "top.txt", "\u{65e5}\u{672c}/\u{30d5} 1.txt", "t2/d+e%.txt"];

pub fn keys(rng: &mut Rng) -> Vec<String> {
    let mut keys = KEYS.map(str::to_owned);
    rng.shuffle(&mut keys);
    keys[..rng.usize(1..=5)].to_vec()
}

pub fn draw(rng: &mut Rng, span: Duration, keys: &[String]) -> Vec<(Duration, Deed)> {
    let mut deeds = Vec::new();
    let changes = one_of(rng, &[1, 2, 3, 5, 8, 12, 20]);
    let manner = one_of(rng, &[Some(Telling::Ordered), Some(Telling::Ordered), Some(Telling::Constant), None, None]);
    // A burst at the beginning, or spread.
    let spread = if rng.u8(0..3) == 0 { millis(2_000).min(span) } else { span };
    let mut times: Vec<u64> = (0..changes).map(|_| rng.u64(0..spread.as_millis() as u64)).collect();
    times.sort_unstable();
    let mut there = BTreeSet::new();
    let mut untold = Vec::new();
    for (turn, at) in (1..).zip(times) {
        let at = millis(at);
        let key = keys[rng.usize(0..keys.len())].clone();
        if there.contains(&key) && rng.u8(0..3) == 0 {
            there.remove(&key);
            deeds.push((at, Deed::Remove { key, turn }));
        } else {
            there.insert(key.clone());
            // Few texts, so that a key often has the state it had before.
            deeds.push((at, Deed::Put { key, text: format!("text {}", "x".repeat(rng.usize(0..3))), turn }));
        }
        untold.push(turn);
        if turn < changes && rng.u8(0..5) == 0 {
            continue; // told together with the next
        }
        let telling = manner
            .unwrap_or_else(|| one_of(rng, &[Telling::Ordered, Telling::Ordered, Telling::Without, Telling::Minimal]));
        let turns = std::mem::take(&mut untold);
        for _ in 0..one_of(rng, &[1, 1, 1, 2, 2, 3]) {
            let most = one_of(rng, &[1, 1, 3_000, 60_000]);
            let late = rng.u64(0..most);
            deeds.push(((at + millis(late)).min(span), Deed::Tell { turns: turns.clone(), telling }));
        }
    }
    for _ in 0..one_of(rng, &[0, 0, 0, 1, 2, 4]) {
        deeds.push((millis(rng.u64(0..spread.as_millis() as u64)), Deed::Say(noise(rng, keys))));
    }
    deeds
}

/// Malformed, unwanted, forged.
fn noise(rng: &mut Rng, keys: &[String]) -> String {
    let key = one_of(rng, keys);
    let record = |bucket: &str, key: &str, event| Record { event, ..Record::removed(bucket, key, 0) };
    match rng.u8(0..11) {
        0 => "not json".into(),
        1 => "{}".into(),
        2 => "[1, 2, 3]".into(),
        3 => json!({ "Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": SOURCE }).to_string(),
        4 => json!({ "Records": [] }).to_string(),
        5 => s3_event(&[record("elsewhere", &key, "ObjectCreated:Put")]),
        6 => s3_event(&[record(SOURCE, "ghost.txt", "ObjectCreated:Put")]),
        7 => s3_event(&[record(SOURCE, &key, "ObjectRemoved:Delete")]),
        8 => s3_event(&[record(SOURCE, &key, "ObjectRemoved:Delete"), record("elsewhere", &key, "ObjectCreated:Put")]),
        9 => json!({ "Records": [{ "eventName": "ObjectCreated:Put", "s3": {} }] }).to_string(),
        _ => s3_event(&[record("results", "processed/default/x.json", "ObjectCreated:Put")]),
    }
}

/// The producers of a trial.
#[derive(Default)]
pub struct Producers {
    /// By turn.
    done: std::collections::BTreeMap<u64, Record>,
    pub keys: BTreeSet<String>,
    pub sent: Vec<(MessageId, String)>,
}

impl Producers {
    pub fn act(&mut self, world: &World, deed: &Deed) {
        match deed {
            Deed::Put { key, text, turn } => {
                let head = world.store.put_object(SOURCE, key, text.clone());
                self.keys.insert(key.clone());
                self.done.insert(*turn, Record::created(SOURCE, key, &head, *turn));
            }
            Deed::Remove { key, turn } => {
                world.store.remove_object(SOURCE, key);
                self.done.insert(*turn, Record::removed(SOURCE, key, *turn));
            }
            Deed::Tell { turns, telling } => self.tell(world, turns, *telling),
            Deed::Say(body) => self.send(world, body.clone()),
        }
    }

    fn tell(&mut self, world: &World, turns: &[u64], telling: Telling) {
        let records: Vec<Record> = turns.iter().map(|turn| self.done[turn].clone()).collect();
        let with = |sequencer: Option<String>| {
            let records: Vec<_> =
                records.iter().map(|record| Record { sequencer: sequencer.clone(), ..record.clone() }).collect();
            s3_event(&records)
        };
        match telling {
            Telling::Ordered => self.send(world, s3_event(&records)),
            Telling::Constant => self.send(world, with(Some(sequencer(7)))),
            Telling::Without => self.send(world, with(None)),
            Telling::Minimal => {
                for record in &records {
                    self.send(world, json!({ "bucket": record.bucket, "key": record.key }).to_string());
                }
            }
        }
    }

    fn send(&mut self, world: &World, body: String) {
        let id = world.queue.put(body.clone());
        self.sent.push((id, body));
    }
}
