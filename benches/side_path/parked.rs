//! Markers per second, and documents per second out of `retry-index/` by `redrive parked`, with its memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use quittance::clock::{SystemClock, WallClock as _};
use quittance::index::park::{Lot, Parking};
use quittance::message::{Change, DocumentId, Namespace, Operation, WorkId};
use quittance::process::record::{Document, Record, Standing, Timings};
use quittance::store::s3::{self, S3Store};
use quittance::store::{Condition, Store as _, layout};

use crate::process::Launch;
use crate::rate;
use crate::search::endpoint;
use crate::world::{NAMESPACE, World};

const AT_ONCE: usize = 32;

pub async fn park() {
    println!("\n## Parking ({AT_ONCE} at once, LocalStack)\n");
    println!("| what | per second | against a plain PUT |\n|---|---|---|");
    let (world, store) = site().await;
    let number = 2_000;
    let began = Instant::now();
    stream::iter(0..number)
        .for_each_concurrent(AT_ONCE, async |n| {
            let (key, body) = (format!("plain/{n:06}.json"), Bytes::from_static(b"{\"v\":1}"));
            store.put(&world.results, &key, body, &Default::default(), Condition::None).await.unwrap();
        })
        .await;
    let plain = rate(number, began.elapsed());
    println!("| plain PUT | {plain:.0} | 1.0 × |");
    let parking = parking(&world, &store);
    let began = Instant::now();
    stream::iter(0..number)
        .for_each_concurrent(AT_ONCE, async |n| {
            parking.park(&record(&world, n, 64).index_entry().unwrap().1, Lot::Retry, "bench").await.unwrap();
        })
        .await;
    let parked = rate(number, began.elapsed());
    println!("| parked document | {parked:.0} | {:.1} × |", parked / plain);
}

pub async fn replay() {
    println!("\n## Replay by `redrive parked` (records of 2 KiB, LocalStack)\n");
    println!("| parked | documents/s | most memory, MiB |\n|---|---|---|");
    for number in [1_000, 5_000, 20_000] {
        let (world, store) = site().await;
        let parking = parking(&world, &store);
        stream::iter(0..number)
            .for_each_concurrent(AT_ONCE, async |n| {
                let record = record(&world, n, 2_048);
                let key = layout::record(&namespace(), &record.document_id);
                let metadata = Standing::metadata(1, None, Some("e"), &quittance::message::MessageId("m".into()));
                let body = serde_json::to_vec(&record).unwrap().into();
                store.put(&world.results, &key, body, &metadata, Condition::None).await.unwrap();
                parking.park(&record.index_entry().unwrap().1, Lot::Retry, "bench").await.unwrap();
            })
            .await;
        let operator = Launch::bare()
            .set("S3_BUCKET", &world.results)
            .set("NAMESPACE", NAMESPACE)
            .set("OPENSEARCH_ENDPOINT", endpoint())
            .set("OPENSEARCH_INDEX", &world.search.alias);
        let began = Instant::now();
        let mut child = operator.spawn_redrive(&["parked"]);
        let mut most = 0;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            most = most.max(peak(child.id()));
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let took = began.elapsed();
        assert!(status.success(), "{status}");
        println!("| {number} | {:.0} | {:.0} |", rate(number, took), most as f64 / 1024.0);
    }
}

/// KiB; 0 where it cannot be told.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
}

async fn site() -> (World, Arc<S3Store>) {
    let world = World::silent().await;
    (world, Arc::new(S3Store::new(s3::client(&quittance::aws::load().await))))
}

fn namespace() -> Namespace {
    Namespace::parse(NAMESPACE).unwrap()
}

fn parking(world: &World, store: &Arc<S3Store>) -> Parking {
    Parking {
        store: store.clone(),
        bucket: world.results.clone(),
        namespace: namespace(),
        clock: Arc::new(SystemClock),
        news: Arc::default(),
    }
}

fn record(world: &World, n: usize, text: usize) -> Record {
    let key = format!("{n}.txt");
    let document_id = DocumentId::of(&namespace(), &world.source, &key);
    let change = Change {
        bucket: world.source.clone(),
        key: key.clone(),
        operation: Operation::Created,
        version_id: None,
        etag: Some("e".into()),
        size: None,
        sequencer: None,
        request_id: None,
        force: false,
    };
    Record {
        v: 1,
        work_id: WorkId::of(&document_id, &change),
        document_id,
        revision: 1,
        recorded_ms: SystemClock.unix_ms(),
        sequencer: None,
        timings: Timings::default(),
        document: Document {
            bucket: world.source.clone(),
            key,
            namespace: NAMESPACE.into(),
            content: Some("word ".repeat(text / 5)),
            source_etag: Some("e".into()),
            indexed_at: "2026-11-23T00:00:00.000Z".into(),
            revision: 1,
            ..Document::default()
        },
    }
}
