//! One life of a worker: started, fed, killed at a failpoint or at a random instant; and what its log says of the
//! receipts that it held, for the time until they came back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use quittance::failpoint::Point;

use crate::armed::died_of_kill;
use crate::cell::{Cell, Kind};
use crate::process::Worker;
use crate::relay::Relay;

/// A point that is not reached by then is given up; its life ends at a random instant instead.
const REACHED_WITHIN: Duration = Duration::from_secs(40);
/// Another message for a point that waits for one.
const FEED_EVERY: Duration = Duration::from_millis(1500);
/// A random instant: from before the program's first line to after several messages.
const RANDOM_WITHIN_MS: u64 = 2500;
/// Messages of the other kinds are not piled up beyond this many visible ones.
const BACKLOG: u32 = 12;

/// How a life ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    At(Point),
    Random,
}

/// A life that is over.
pub struct Life {
    pub death: Death,
    /// Unix milliseconds, as seen from outside.
    pub killed_at: u64,
    /// Message id and receive count of each receipt, and when its line was written.
    receipts: Vec<(String, u64, u64)>,
    /// Of them, those without a settlement: id and receive count.
    pub in_hand: Vec<(String, u64)>,
    /// Its `run_id`; none where it was killed before its first line.
    pub run: Option<String>,
}

/// The messages that lead to a point, and whether the index must be sick for it.
pub fn way_to(point: Point) -> (&'static [Kind], bool) {
    const FILES: &[Kind] = &[Kind::Fresh, Kind::Overwrite, Kind::Multi];
    match point {
        Point::AfterReceive | Point::BeforeDelete | Point::AfterDeleteSent => {
            (&[Kind::Fresh, Kind::Overwrite, Kind::Multi, Kind::Malformed, Kind::NotAllowed], false)
        }
        Point::BeforeGet | Point::AfterParse | Point::BeforeIndex | Point::AfterIndexAck => (FILES, false),
        Point::MidBody => (&[Kind::Large], false),
        Point::AfterVerify => (&[Kind::Overwrite, Kind::Twin, Kind::Removed], false),
        Point::BeforePark | Point::AfterParkAck => (FILES, true),
        Point::BeforeDlqSend | Point::AfterDlqAck => (&[Kind::Malformed, Kind::NotAllowed], false),
        Point::BeforeReturn => (&[Kind::Missing], false),
    }
}

/// What is sent beside, and into lives that end at random.
const ANY: [Kind; 9] = [
    Kind::Fresh,
    Kind::Large,
    Kind::Overwrite,
    Kind::Overwrite,
    Kind::Removed,
    Kind::Twin,
    Kind::Multi,
    Kind::Malformed,
    Kind::Missing,
];

/// What a life is to be like.
pub struct Plan<'a> {
    pub death: Death,
    /// At most this many hits before the one that kills.
    pub hits: u32,
    pub sick_index: &'a Relay,
    /// Sends what the life needs; without it, what is in the queue has to do.
    pub feed: bool,
}

/// Runs one life to its end. A point that was not reached in time is a random instant after all.
pub async fn live(cell: &Cell, plan: &Plan<'_>, rng: &mut Rng) -> Life {
    let (kinds, sick) = match plan.death {
        Death::At(point) => way_to(point),
        Death::Random => (ANY.as_slice(), rng.u8(..4) == 0),
    };
    if plan.feed {
        feed(cell, plan.death, kinds, rng).await;
    }
    let mut launch = cell.launch();
    if sick {
        launch = launch.set("OPENSEARCH_ENDPOINT", plan.sick_index.url());
    }
    if let Death::At(point) = plan.death {
        launch = launch.armed(&format!("{}=kill@{}", name(point), rng.u32(1..=plan.hits)));
    }
    let mut worker = launch.spawn();
    let began = Instant::now();
    match plan.death {
        Death::Random => tokio::time::sleep(Duration::from_millis(rng.u64(..RANDOM_WITHIN_MS))).await,
        Death::At(_) => {
            let mut fed = Instant::now();
            while worker.ended().is_none() && began.elapsed() < REACHED_WITHIN {
                tokio::time::sleep(Duration::from_millis(10)).await;
                if plan.feed && fed.elapsed() > FEED_EVERY {
                    fed = Instant::now();
                    cell.send(rng.choice(kinds.iter().copied()).unwrap(), rng).await;
                }
            }
        }
    }
    let reached = worker.ended();
    match (plan.death, reached) {
        (Death::At(_), Some(status)) => assert!(died_of_kill(status), "{status}: {:?}", worker.odd_lines()),
        (Death::Random, Some(status)) => panic!("it ended before it was killed: {status}: {:?}", worker.odd_lines()),
        (Death::At(_) | Death::Random, None) => worker.kill(),
    }
    let killed_at = now_ms();
    worker.read_to_the_end();
    let death = if reached.is_some() { plan.death } else { Death::Random };
    let run = worker.all_facts().first().and_then(|fact| fact["run_id"].as_str().map(str::to_owned));
    Life { death, killed_at, receipts: receipts(&worker), in_hand: in_hand(&worker), run }
}

async fn feed(cell: &Cell, death: Death, kinds: &[Kind], rng: &mut Rng) {
    let (visible, _, _) = cell.world.depth(&cell.world.queue).await;
    let mut wanted = match death {
        Death::At(_) => vec![rng.choice(kinds.iter().copied()).unwrap()],
        Death::Random => Vec::new(),
    };
    if visible < BACKLOG {
        wanted.extend((0..rng.usize(1..4)).map(|_| rng.choice(ANY).unwrap()));
    }
    for kind in wanted {
        cell.send(kind, rng).await;
    }
}

pub fn name(point: Point) -> &'static str {
    quittance::failpoint::POINTS.iter().find(|(known, _)| *known == point).unwrap().1
}

fn receipts(worker: &Worker) -> Vec<(String, u64, u64)> {
    let of = |fact: serde_json::Value| {
        let time: jiff::Timestamp = fact["time"].as_str()?.parse().ok()?;
        let id = fact["message_id"].as_str()?.to_owned();
        Some((id, fact["receive_count"].as_u64()?, time.as_millisecond().cast_unsigned()))
    };
    worker.facts("message_received").into_iter().filter_map(of).collect()
}

fn in_hand(worker: &Worker) -> Vec<(String, u64)> {
    let receipt = |fact: serde_json::Value| {
        (fact["message_id"].as_str().unwrap().to_owned(), fact["receive_count"].as_u64().unwrap())
    };
    let mut in_hand: Vec<_> = worker.facts("message_received").into_iter().map(receipt).collect();
    for settled in worker.facts("message_settled").into_iter().map(receipt) {
        in_hand.retain(|receipt| *receipt != settled);
    }
    in_hand
}

/// What became of the receipts of the dead: for each life, the longest time until one came back.
pub fn worst_redeliveries(lives: &[Life], last: &[&Worker]) -> Vec<Option<u64>> {
    let mut by_message: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
    let survivors: Vec<_> = last.iter().map(|worker| receipts(worker)).collect();
    for (id, count, time) in lives.iter().flat_map(|life| &life.receipts).chain(survivors.iter().flatten()) {
        by_message.entry(id).or_default().push((*time, *count));
    }
    by_message.values_mut().for_each(|receipts| receipts.sort_unstable());
    let mut worst: Vec<Option<u64>> = lives
        .iter()
        .map(|life| {
            // The very next receipt: one in between was another kill's, whose worker wrote no line.
            let back = |(id, count): &(String, u64)| {
                let next = by_message.get(id.as_str())?.iter().find(|(_, next)| *next == count + 1)?;
                Some(next.0.saturating_sub(life.killed_at))
            };
            life.in_hand.iter().filter_map(back).max()
        })
        .collect();
    // A receipt without a line: its worker was killed with the poll's answer in its hands, or LocalStack gave the
    // message to a poll whose worker was dead. The receive count has a gap; the latest kill that is a lease before the
    // next receipt explains it.
    for receipts in by_message.values() {
        let mut known = 0;
        for (time, count) in receipts {
            if *count > known + 1 {
                let before = lives.iter().enumerate().filter(|(_, life)| life.killed_at + LEASE_MS - 1_000 < *time);
                if let Some((at, life)) = before.max_by_key(|(_, life)| life.killed_at) {
                    worst[at] = worst[at].max(Some(time - life.killed_at));
                }
            }
            known = *count;
        }
    }
    worst
}

/// `SQS_VISIBILITY_TIMEOUT` of a world's workers, the shortest there is.
const LEASE_MS: u64 = 10_000;

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}
