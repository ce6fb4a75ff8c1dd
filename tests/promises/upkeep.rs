//! Index and records in step with the source: what `redrive` finds, sends, forces and forgets (P3, P8).

use std::sync::Arc;
use std::time::Duration;

use quittance::books::BooksLine;
use quittance::index::park::Parking;
use quittance::message::s3_event::Source;
use quittance::process::record::Standing;
use quittance::queue::Queue;
use quittance::upkeep::outbox::Outbox;
use quittance::upkeep::reconcile::{Cursor, Found, Reconcile, Report, Sink};
use quittance::upkeep::verdict::Finding;
use quittance::upkeep::{Area, reprocess};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::sim::worker::namespace;
use crate::sim::{RESULTS, SOURCE, Setup, Site, World, document_id, record_key, until};

mod force;
mod meddler;
mod migrate;
mod purge;
mod reconcile;
mod reprocessing;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

fn setup() -> Setup {
    Setup { max_receive_count: None, ..Setup::default() }
}

fn area(prefix: &str) -> Area {
    let sources = vec![Source { bucket: SOURCE.into(), prefix: String::new() }];
    Area { bucket: SOURCE.into(), prefix: prefix.into(), sources }
}

fn outbox(world: &World, rate: u32) -> Outbox {
    let queue: Arc<dyn Queue> = Arc::new(world.queue.seen_by("redrive"));
    Outbox::new(queue, rate)
}

/// As `redrive reconcile` is put together.
fn reconcile(world: &World, repair: bool) -> Reconcile {
    let store = Arc::new(world.store.seen_by("redrive"));
    Reconcile {
        parking: Parking {
            store: store.clone(),
            bucket: RESULTS.into(),
            namespace: namespace(),
            clock: Arc::new(world.clock.clone()),
            news: Arc::default(),
        },
        store,
        catalogue: Arc::new(world.search.seen_by("redrive")),
        repair: repair.then(|| outbox(world, 1_000)),
        area: area(""),
        namespace: namespace(),
        results_bucket: RESULTS.into(),
        min_age: 15 * MINUTE,
        max_object_bytes: 1 << 20,
        clock: Arc::new(world.clock.clone()),
        stop: CancellationToken::new(),
    }
}

/// Listens, and asks for a stop at the n-th page.
#[derive(Default)]
struct Ears {
    found: Vec<(Finding, String)>,
    unclear: Vec<String>,
    pages: usize,
    stop_at: Option<(usize, CancellationToken)>,
}

impl Ears {
    fn page(&mut self) {
        self.pages += 1;
        if let Some((at, stop)) = &self.stop_at
            && *at == self.pages
        {
            stop.cancel();
        }
    }

    fn sorted(&self) -> Vec<(Finding, &str)> {
        let mut found: Vec<(Finding, &str)> =
            self.found.iter().map(|(finding, key)| (*finding, key.as_str())).collect();
        found.sort();
        found
    }
}

impl Sink for Ears {
    fn found(&mut self, found: &Found) {
        self.found.push((found.finding, found.key.clone()));
    }

    fn unclear(&mut self, name: &str, why: &str) {
        self.unclear.push(format!("{name}: {why}"));
    }

    fn progress(&mut self, _: &Report) {
        self.page();
    }
}

impl reprocess::Sink for Ears {
    fn unclear(&mut self, key: &str, why: &str) {
        self.unclear.push(format!("{key}: {why}"));
    }

    fn progress(&mut self, _: &reprocess::Report) {
        self.page();
    }
}

impl quittance::upkeep::purge::Sink for Ears {
    fn unclear(&mut self, name: &str, why: &str) {
        self.unclear.push(format!("{name}: {why}"));
    }

    fn progress(&mut self, _: &quittance::upkeep::purge::Report) {
        self.page();
    }
}

fn standing(world: &World, key: &str) -> Option<Standing> {
    world.store.object(RESULTS, &record_key(key)).map(|object| Standing::of(&object.head))
}

/// Bucket, record and index say the same of this file, as somebody who looks sees it.
fn in_step(world: &World, key: &str) -> Result<(), String> {
    let object = world.store.object(SOURCE, key);
    let (record, document) = (standing(world, key), world.search.document(&document_id(key)));
    let told = format!("{key}: object {}, record {record:?}, document {document:?}", object.is_some());
    let shown = document.as_ref().filter(|document| document.source["deleted"] != true);
    let well = match (&object, &record) {
        (Some(object), Some(record)) => shown.is_some_and(|document| {
            record.source_etag.as_ref() == Some(&object.head.etag)
                && document.revision == record.revision
                && document.source["source_etag"] == object.head.etag
                && document.source["content"].as_str().is_some_and(|text| text.as_bytes() == object.body)
        }),
        (Some(_), None) => false,
        (None, Some(record)) => record.source_etag.is_none() && shown.is_none(),
        (None, None) => shown.is_none(),
    };
    if well { Ok(()) } else { Err(told) }
}

/// One worker works off the queue and what is parked.
async fn work_off(site: &Site) {
    let worker = site.start(&site.next_run("worker"), &setup());
    site.until_empty().await;
    until("nothing is parked", HOUR, || site.world.store.none(RESULTS, "retry-index/")).await;
    worker.stop().await;
    assert_eq!(site.world.dead_letters.live(), [], "no dead letters");
    assert!(site.world.store.none(RESULTS, "errored-index/"));
}

/// One worker until the queue is empty.
async fn drain(site: &Site) -> BooksLine {
    site.drain_as(&site.next_run("worker"), &setup()).await
}

async fn long_after() {
    sleep(HOUR).await;
}

fn resume(report: &Report) -> Option<Cursor> {
    report.cursor.clone()
}
