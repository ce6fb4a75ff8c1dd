//! Documents per second into OpenSearch, by the size of a bulk request, and through the worker's own lane.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream;
use quittance::index::bulk::{Class, Lane};
use quittance::index::opensearch::{Auth, OpenSearchIndex, OpenSearchSettings};
use quittance::index::{IndexItem, ItemAnswer, ItemVerdict, Search as _};
use quittance::message::{DocumentId, Namespace};
use quittance::retry::Jitter;
use serde_json::json;

use crate::rate;
use crate::search::{Search, endpoint};

/// Of text in a document.
const TEXT: usize = 4 * 1024;

pub async fn measure() {
    println!("\n## Documents into OpenSearch ({} KiB of text each)\n", TEXT / 1024);
    println!("| way in | documents/s | against one a request |\n|---|---|---|");
    let mut first = None;
    for (size, at_once, number) in [(1, 1, 500), (10, 1, 3_000), (100, 1, 10_000), (1_000, 1, 10_000), (100, 4, 10_000)]
    {
        let (_owner, index) = index().await;
        let items: Vec<Vec<IndexItem>> = items(number).chunks(size).map(<[IndexItem]>::to_vec).collect();
        let began = Instant::now();
        let index = &index;
        stream::iter(&items)
            .for_each_concurrent(at_once, async |batch| {
                let answers = index.bulk(batch).await.unwrap();
                assert!(answers.iter().all(|answer| *answer == ItemAnswer::Durable), "{answers:?}");
            })
            .await;
        row(&format!("{size} a request, {at_once} outstanding"), number, began.elapsed(), &mut first);
    }
    for submitters in [16, 64, 256] {
        let (_owner, index) = index().await;
        let (lane, drive) = Lane::new(Arc::new(index), Arc::new(Jitter::from_entropy()));
        tokio::spawn(drive);
        let began = Instant::now();
        let items = items(10_000);
        let number = items.len();
        let lane = &lane;
        stream::iter(items)
            .for_each_concurrent(submitters, async |item| {
                assert_eq!(lane.submit(item, Class::Fresh).await, ItemVerdict::Durable);
            })
            .await;
        row(&format!("the worker's lane, {submitters} messages in hand"), number, began.elapsed(), &mut first);
    }
}

fn row(name: &str, number: usize, took: Duration, first: &mut Option<f64>) {
    let rate = rate(number, took);
    println!("| {name} | {rate:.0} | {:.1} × |", rate / *first.get_or_insert(rate));
}

async fn index() -> (Search, OpenSearchIndex) {
    let name = format!("b{}", uuid::Uuid::now_v7().simple());
    let settings = OpenSearchSettings {
        endpoint: endpoint(),
        index: name.clone(),
        auth: Auth::None,
        request_timeout: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(2),
    };
    let index = OpenSearchIndex::new(settings).unwrap();
    index.setup_index().await.unwrap();
    (Search::of(&name), index)
}

fn items(number: usize) -> Vec<IndexItem> {
    let namespace = Namespace::parse("bench").unwrap();
    let item = |n: usize| {
        let key = format!("{n}.txt");
        let words: Vec<String> = (0..TEXT / 8).map(|word| format!("w{:06}", (word * 31 + n * 7) % 50_000)).collect();
        let source = json!({ "bucket": "files", "key": key, "namespace": "bench", "content": words.join(" "),
            "size": TEXT, "revision": 1, "deleted": false, "mime_type": "text/plain" });
        let document_id = DocumentId::of(&namespace, "files", &key);
        IndexItem { document_id, revision: 1, source: source.to_string().into() }
    };
    (0..number).map(item).collect()
}
