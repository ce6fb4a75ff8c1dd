//! Markers per second, and documents per second out of `retry-index/` by `redrive parked`, with its memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use opensearch::http::Method;
use quittance::clock::SystemClock;
use quittance::index::park::{Lot, Parking};
use quittance::process::record::Standing;
use quittance::store::s3::{self, S3Store};
use quittance::store::{Condition, Store as _, layout};
use serde_json::json;

use crate::process::Launch;
use crate::rate;
use crate::records::{namespace, peak, record};
use crate::search::endpoint;
use crate::world::{NAMESPACE, World};

const AT_ONCE: usize = 32;

pub async fn park() {
    println!("\n## Parking ({AT_ONCE} at once, LocalStack)\n");
    println!("| what | per second | against a plain PUT |\n|---|---|---|");
    let world = World::silent().await;
    let store = Arc::new(S3Store::new(s3::client(&quittance::aws::load().await)));
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

/// `QUITTANCE_PARKED=100000` says how many, in place of the usual three.
pub async fn replay() {
    println!("\n## Replay by `redrive parked` (records of 2 KiB, LocalStack)\n");
    println!("| parked | `--list`, s | documents/s | most memory, MiB |\n|---|---|---|---|");
    let wanted: Option<usize> = std::env::var("QUITTANCE_PARKED").ok().map(|number| number.parse().unwrap());
    for number in wanted.map_or(vec![1_000, 5_000, 20_000], |number| vec![number]) {
        let (world, operator) = parked_site(number).await;
        let began = Instant::now();
        let listed = operator.redrive(&["parked", "--list"]);
        let listing = began.elapsed();
        assert!(listed.stdout.starts_with(&format!("{number} parked")), "{listed:?}");
        let (took, most) = replayed(&operator).await;
        assert_eq!(world.results_under("retry-index/").await.len(), 0);
        println!("| {number} | {:.2} | {:.0} | {:.0} |", listing.as_secs_f64(), rate(number, took), most);
    }
}

/// A4.6: what somebody who searches sees of a replay of 10,000.
pub async fn search() {
    const QUERIES: usize = 400;
    println!("\n## A search for two words, while nothing else goes on and during a replay of 10,000\n");
    println!("| | p50, ms | p99, ms | searches |\n|---|---|---|---|");
    // Something to look through, then what is replayed into the same index.
    let (world, operator) = parked_site(2_000).await;
    assert_eq!(operator.redrive(&["parked"]).code, 0);
    let (refreshed, _) = world.search.ask(Method::Post, &format!("/{}/_refresh", world.search.alias), None).await;
    assert_eq!(refreshed, 200);
    park_all(&world, 2_000..12_000).await;
    let ask = async || {
        let began = Instant::now();
        let body = json!({ "query": { "match": { "content": "word beside" } }, "size": 10 });
        let path = format!("/{}-search/_search", world.search.alias);
        let (status, found) = world.search.ask(Method::Post, &path, Some(body)).await;
        assert!(status == 200 && found["hits"]["hits"].as_array().is_some_and(|hits| hits.len() == 10), "{found}");
        began.elapsed()
    };
    for _ in 0..100 {
        ask().await; // the first ones are compiled and cached
    }
    let mut idle = Vec::new();
    while idle.len() < QUERIES {
        idle.push(ask().await);
    }
    shown("nothing else", idle);
    let mut during = Vec::new();
    let asking = async {
        loop {
            during.push(ask().await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! { biased; _ = replayed(&operator) => {}, () = asking => {} }
    shown("replay", during);
}

fn shown(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1_000.0;
    println!("| {what} | {:.1} | {:.1} | {} |", at(0.5), at(0.99), times.len());
}

async fn parked_site(number: usize) -> (World, Launch) {
    let world = World::silent().await;
    park_all(&world, 0..number).await;
    let operator = Launch::bare()
        .set("S3_BUCKET", &world.results)
        .set("NAMESPACE", NAMESPACE)
        .set("OPENSEARCH_ENDPOINT", endpoint())
        .set("OPENSEARCH_INDEX", &world.search.alias);
    (world, operator)
}

async fn park_all(world: &World, numbers: std::ops::Range<usize>) {
    let store = Arc::new(S3Store::new(s3::client(&quittance::aws::load().await)));
    let parking = parking(world, &store);
    stream::iter(numbers)
        .for_each_concurrent(AT_ONCE, async |n| {
            let record = record(world, n, 2_048);
            let key = layout::record(&namespace(), &record.document_id);
            let metadata = Standing::metadata(1, None, Some("e"), &quittance::message::MessageId("m".into()));
            let body = serde_json::to_vec(&record).unwrap().into();
            store.put(&world.results, &key, body, &metadata, Condition::None).await.unwrap();
            parking.park(&record.index_entry().unwrap().1, Lot::Retry, "bench").await.unwrap();
        })
        .await;
}

/// `redrive parked` to its end: how long, and its most memory in MiB.
async fn replayed(operator: &Launch) -> (Duration, f64) {
    let began = Instant::now();
    let mut child = operator.spawn_redrive(&["parked"]);
    let mut most = 0.0;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        most = f64::max(most, peak(child.id()));
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(status.success(), "{status}");
    (began.elapsed(), most)
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
