//! Two workers on one queue.

use std::collections::BTreeSet;

use crate::world::{World, text_files};

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn two_workers_share_a_queue_and_each_file_is_settled_and_found_once() {
    let world = World::new().await;
    let files = text_files(100);
    let (mut one, mut two) = (world.launch().start().await, world.launch().start().await);
    world.put_all(&files).await;
    world.finds_exactly(files.keys().map(String::as_str)).await;
    world.emptied().await;
    assert_eq!(world.results_under("processed/").await.len(), files.len());
    world.dlq_is_empty().await;

    let (first, second) = (one.stop().await, two.stop().await);
    assert!(first.of("done") > 0 && second.of("done") > 0, "both worked: {} and {}", first.0, second.0);
    assert_eq!(first.of("done") + second.of("done"), files.len() as u64);
    let settled: Vec<_> = [&one, &two].iter().flat_map(|worker| worker.facts("message_settled")).collect();
    let keys: BTreeSet<&str> = settled.iter().map(|fact| fact["keys"][0].as_str().unwrap()).collect();
    assert_eq!((settled.len(), keys.len()), (files.len(), files.len()), "each message settled once");
}
