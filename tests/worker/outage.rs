//! OpenSearch is a side path (P4): without it documents are parked, messages are deleted, and later all is found.

use serde_json::json;

use crate::process::Launch;
use crate::world::{NAMESPACE, World, spelt, text_files};

/// Nothing listens on port 1 of a machine of ours.
pub const CLOSED_PORT: &str = "http://127.0.0.1:1";

async fn everything_is_parked_and_a_worker_that_can_index_replays_it(without_index: impl Fn(Launch) -> Launch) {
    let world = World::new().await;
    let files = text_files(8);
    let mut worker = without_index(world.launch()).start().await;
    world.put_all(&files).await;
    for fact in worker.settled(files.len()).await {
        let seen = ["outcome", "settlement", "index"].map(|field| fact[field].as_str().unwrap());
        assert_eq!(seen, ["done", "deleted", "parked"], "{fact}");
        assert_eq!(fact["receive_count"], 1, "no attempt is spent: {fact}");
    }
    world.emptied().await;
    world.dlq_is_empty().await;
    let mut expected = Vec::new();
    for key in files.keys() {
        let (record, _) = world.record(key).await.expect("a record");
        let revision = record["revision"].as_u64().unwrap();
        let day = &record["document"]["indexed_at"].as_str().unwrap()[..10];
        let at = format!("retry-index/{day}/{NAMESPACE}/{}/{revision:020}.json", world.document_id(key));
        let (marker, _) = world.result(&at).await.expect("its marker");
        assert_eq!((&marker["bucket"], &marker["key"]), (&json!(world.source), &json!(key)));
        assert_eq!(marker["revision"], revision);
        assert!(marker["reason"].is_string() && marker["failed_at"].is_string(), "{marker}");
        assert!(!marker.to_string().contains("A small file"), "a marker holds no text: {marker}");
        expected.push(at);
    }
    expected.sort();
    assert_eq!(world.results_under("retry-index/").await, expected);
    let books = worker.stop().await;
    assert_eq!((books.of("done"), books.of("documents_parked"), books.of("returned")), (8, 8, 0));
    assert_eq!(world.search.keys().await, Vec::<String>::new());

    let mut worker = world.launch().start().await;
    world.finds_exactly(files.keys().map(String::as_str)).await;
    world.finds(&spelt(3), "batch/003.txt").await;
    world.nothing_is_parked().await;
    assert_eq!(world.results_under("errored-index/").await, Vec::<String>::new());
    let books = worker.stop().await;
    assert_eq!((books.of("received"), books.of("replayed")), (0, 8));
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn with_opensearch_down_from_the_start_everything_is_parked_and_found_later() {
    everything_is_parked_and_a_worker_that_can_index_replays_it(|launch| {
        launch.set("OPENSEARCH_ENDPOINT", CLOSED_PORT)
    })
    .await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn with_skip_opensearch_everything_is_parked_and_found_once_it_is_off() {
    everything_is_parked_and_a_worker_that_can_index_replays_it(|launch| {
        launch.unset("OPENSEARCH_ENDPOINT").set("SKIP_OPENSEARCH", true)
    })
    .await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn what_was_deleted_while_parked_does_not_rise_again() {
    let world = World::new().await;
    let mut worker = world.launch().set("OPENSEARCH_ENDPOINT", CLOSED_PORT).start().await;
    world.put("gone.txt", "A short-lived axolotl.").await;
    worker.settled(1).await;
    world.remove("gone.txt").await;
    world.put("stays.txt", "A long-lived tortoise.").await;
    worker.settled(3).await;
    world.emptied().await;
    worker.stop().await;

    let mut worker = world.launch().start().await;
    world.nothing_is_parked().await;
    world.finds_exactly(["stays.txt"]).await;
    assert!(world.search.by_phrase("axolotl").await.is_empty());
    worker.stop().await;
}
