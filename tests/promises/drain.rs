//! `redrive` drains the DLQ on the model: each letter ends where the table says, nothing is lost however it is cut off,
//! and it stops where going on would make things worse (P9; faults.md §3.6).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quittance::books::Books;
use quittance::config::TenantFrom;
use quittance::index::bulk::Lane;
use quittance::index::catalogue::Catalogue;
use quittance::index::{Search, SidePath};
use quittance::message::s3_event::{Source, Wanted};
use quittance::message::{AttributeValue, MessageAttribute, MessageId};
use quittance::pipeline::Seat;
use quittance::queue::{Outgoing, Queue};
use quittance::redrive::archive::Archive;
use quittance::redrive::audit::Audit;
use quittance::redrive::drain::{Drain, Limits, Sink};
use quittance::redrive::hold::{Grip, Hold};
use quittance::redrive::look::Look;
use quittance::redrive::plan::{NoPlan, Plan, PlanReport};
use quittance::redrive::report::{Report, Tally};
use quittance::redrive::select::Selection;
use quittance::retry::Jitter;
use quittance::store::Store;
use quittance::upkeep::outbox::Outbox;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::sim::wires::{Wired, Wires};
use crate::sim::worker::namespace;
use crate::sim::{RESULTS, Record, SOURCE, Setup, Site, World, document_id, s3_event};

mod cut;
mod guards;
mod letters;
mod stops;

/// What an operator types.
#[derive(Clone)]
pub struct Typed {
    pub limits: Limits,
    pub selection: Selection,
    pub rate: u32,
    /// False is `SKIP_OPENSEARCH`.
    pub search: bool,
}

impl Default for Typed {
    fn default() -> Self {
        Self {
            limits: Limits {
                batch_size: 50,
                max_batches: None,
                max_messages: None,
                force: false,
                max_backlog: 1_000,
                canary: Duration::ZERO,
                most_held: 10_000,
                most_bytes: 64 << 20,
            },
            selection: Selection::default(),
            rate: 1_000,
            search: true,
        }
    }
}

/// A redrive put together as `redrive::command` does it.
pub struct Operator {
    pub wires: Arc<Wires>,
    pub stop: CancellationToken,
    pub paused: CancellationToken,
    drain: Drain,
}

/// What was said on the way.
#[derive(Clone, Default)]
pub struct Said(pub Arc<Mutex<Vec<String>>>);

impl Sink for Said {
    fn progress(&mut self, _: &Tally, _: u64, doing: &str) {
        self.0.lock().unwrap().push(doing.to_owned());
    }
}

fn look(store: Arc<dyn Store>, catalogue: Option<Arc<dyn Catalogue>>) -> Look {
    Look {
        store,
        catalogue,
        wanted: Wanted::new(vec![Source { bucket: SOURCE.into(), prefix: String::new() }], RESULTS.into()),
        namespace: namespace(),
        results_bucket: RESULTS.into(),
    }
}

/// Leases on a queue, for polls and settler alike.
pub fn grip(world: &World, queue: Arc<dyn Queue>, most: usize, visibility: Duration) -> Grip {
    Grip {
        polling: Arc::clone(&queue),
        settling: queue,
        most,
        visibility,
        jitter: Jitter::seeded(world.seed),
        clock: world.clock.lease_clock(),
        seat: Seat::Here,
    }
}

fn hold(site: &Site, who: &str, wires: &Arc<Wires>, most: usize) -> Hold {
    let port = Arc::new(Wired { wires: Arc::clone(wires), port: site.world.dead_letters.seen_by(who) });
    Hold::new(grip(&site.world, port, most, Duration::from_secs(120)))
}

impl Operator {
    pub fn new(site: &Site, who: &str, typed: &Typed) -> Self {
        let run_id = site.next_run(who);
        let wires = Wires::new(Arc::default(), run_id.clone());
        let store: Arc<dyn Store> = Arc::new(Wired { wires: Arc::clone(&wires), port: site.world.store.seen_by(who) });
        let jitter = Arc::new(Jitter::seeded(site.world.seed));
        let search = || {
            let port = site.world.search.seen_by(who).given_up_after(Some(Duration::from_secs(10)));
            Arc::new(Wired { wires: Arc::clone(&wires), port })
        };
        let lane = typed.search.then(|| {
            let (lane, drive) = Lane::new(search(), Arc::clone(&jitter));
            tokio::spawn(drive);
            lane
        });
        let queue = |queue: &crate::sim::ModelQueue| -> Arc<dyn Queue> {
            Arc::new(Wired { wires: Arc::clone(&wires), port: queue.seen_by(who) })
        };
        let clock = Arc::new(site.world.clock.clone());
        let (stop, paused) = (CancellationToken::new(), CancellationToken::new());
        let parking = site.lots(who, &wires).parking;
        let drain = Drain {
            look: look(
                store.clone(),
                typed.search.then(|| Arc::new(site.world.search.seen_by(who)) as Arc<dyn Catalogue>),
            ),
            side_path: Arc::new(SidePath { lane, parking, books: Arc::new(Books::default()) }),
            index: typed.search.then(|| search() as Arc<dyn Search>),
            hold: hold(site, who, &wires, typed.limits.most_held + typed.limits.batch_size),
            dlq: queue(&site.world.dead_letters),
            main: queue(&site.world.queue),
            outbox: Outbox::new(queue(&site.world.queue), typed.rate),
            archive: Archive { store: store.clone(), bucket: RESULTS.into(), clock: clock.clone() },
            audit: Audit { store, bucket: RESULTS.into(), clock: clock.clone(), jitter: jitter.clone(), run_id },
            selection: typed.selection.clone(),
            tenant_from: TenantFrom::Prefix(1),
            limits: typed.limits.clone(),
            source_queue: site.world.queue.arn(),
            clock,
            jitter,
            stop: stop.clone(),
            paused: paused.clone(),
        };
        Self { wires, stop, paused, drain }
    }

    /// Other sources than the workers'.
    pub fn sources(&mut self, sources: Vec<Source>) {
        self.drain.look.wanted = Wanted::new(sources, RESULTS.into());
    }

    /// To the end; the sums are looked at, whatever the test asks.
    pub async fn run(self) -> Report {
        self.run_telling(&mut Said::default()).await
    }

    pub async fn run_telling(self, said: &mut Said) -> Report {
        let report = self.drain.run(said).await.unwrap();
        assert!(report.adds_up && report.tally.adds_up(), "{report:?}");
        let by_reason: u64 = report.tally.by_reason.values().flat_map(BTreeMap::values).sum();
        assert!(by_reason <= report.tally.decided(), "{report:?}");
        report
    }
}

pub async fn redrive(site: &Site, typed: &Typed) -> Report {
    Operator::new(site, "operator", typed).run().await
}

/// A plan; `sample` letters are received.
pub async fn plan(site: &Site, sample: Option<usize>) -> PlanReport {
    try_plan(site, sample).await.unwrap()
}

pub async fn try_plan(site: &Site, sample: Option<usize>) -> Result<PlanReport, NoPlan> {
    let wires = Wires::new(Arc::default(), site.next_run("planner"));
    let port = site.world.search.seen_by("planner");
    let plan = Plan {
        look: look(Arc::new(site.world.store.seen_by("planner")), Some(Arc::new(port))),
        selection: Selection::default(),
        tenant_from: TenantFrom::Prefix(1),
        force: false,
        rate: 100,
        main: site.world.queue.facts().await.unwrap(),
        dlq: site.world.dead_letters.facts().await.unwrap(),
        sample: sample.map(|number| (hold(site, "planner", &wires, number), number)),
        clock: Arc::new(site.world.clock.clone()),
        stop: CancellationToken::new(),
    };
    plan.make().await
}

/// The event of a file that is there.
pub fn event(site: &Site, key: &str) -> String {
    let head = site.world.store.put_object(SOURCE, key, format!("text of {key}"));
    s3_event(&[Record::created(SOURCE, key, &head, 1)])
}

/// The attribute that a worker of ours would have written.
pub fn note(reason: &str, first: &str, redrives: u32) -> MessageAttribute {
    let note = json!({
        "v": 1, "reason": reason, "detail": "", "attempts": 5, "first_failed_at": "2026-11-21T00:00:00.000Z",
        "last_failed_at": "2026-11-21T12:00:00.000Z", "work_ids": [], "keys": [], "source_queue": "arn", "message_id": first,
        "redrives": redrives,
    });
    MessageAttribute { data_type: "String".into(), value: AttributeValue::Text(note.to_string()) }
}

/// Into the DLQ, as a worker does it.
pub fn dead(site: &Site, body: String, reason: &str, redrives: u32) -> MessageId {
    let first = format!("first-{}", site.next_run("m"));
    let attributes = BTreeMap::from([("Quittance".to_owned(), note(reason, &first, redrives))]);
    site.world.dead_letters.put_message(Outgoing { body, attributes, group_id: None })
}

/// Into the DLQ, as SQS does it.
pub fn moved(site: &Site, body: String) -> MessageId {
    site.world.dead_letters.put(body)
}

pub fn is_indexed(site: &Site, key: &str) -> bool {
    site.world.search.document(&document_id(key)).is_some()
}

pub fn archived(site: &Site) -> BTreeMap<String, String> {
    let keys = site.world.store.keys(RESULTS, "archive/dlq/").into_iter();
    keys.map(|key| {
        let object: Value = serde_json::from_slice(&site.world.store.object(RESULTS, &key).unwrap().body).unwrap();
        (object["message_id"].as_str().unwrap().to_owned(), object["reason"].as_str().unwrap().to_owned())
    })
    .collect()
}

/// All lines of all audits.
pub fn audits(site: &Site) -> Vec<Value> {
    let keys = site.world.store.keys(RESULTS, "redrive/").into_iter();
    keys.flat_map(|key| {
        let body = site.world.store.object(RESULTS, &key).unwrap().body;
        let text = String::from_utf8(body.to_vec()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    })
    .collect()
}

/// Workers take what was sent back to its end.
pub async fn worked_off(site: &Site) {
    site.drain_as("after", &Setup::default()).await;
}
