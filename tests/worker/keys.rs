//! Keys as people and machines make them: whatever the bytes, the file is found under exactly these.

use std::collections::BTreeMap;

use crate::world::{World, spelt};

/// 1,024 bytes, S3's limit, most of them in characters of three.
fn longest_key() -> String {
    let key = format!("深い/{}abcd.txt", "漢".repeat((1_024 - 15) / 3));
    let key = format!("{key}{}", "z".repeat(1_024 - key.len()));
    assert_eq!(key.len(), 1_024);
    key
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_file_is_found_under_the_very_bytes_of_its_key() {
    let keys = [
        "plus/a+b.txt",
        "plus/a b.txt",
        "plus/a%2Bb.txt",
        "plus/a%20b.txt",
        "plus/a%252Bb.txt",
        "日本語/見積書 2026年.txt",
        "日本語/か\u{3099}.txt", // as a Mac writes が
        "日本語/が.txt",
        "🚀/launch 🧑‍🚀.txt",
        "line\nbreak/two\nlines.txt",
        "query/a?b=c&d#e.txt",
        "quotes/\"it's\" \\back.txt",
        "Case/A.txt",
        "case/a.txt",
        " leading and trailing ",
        &longest_key(),
    ];
    let world = World::new().await;
    let mut worker = world.launch().start().await;
    let files: BTreeMap<String, Vec<u8>> = (0..)
        .zip(keys)
        .map(|(n, key)| (key.to_owned(), format!("The key of this file is number {}.", spelt(n)).into_bytes()))
        .collect();
    assert_eq!(files.len(), keys.len());
    world.put_all(&files).await;
    worker.settled(files.len()).await;
    for (n, key) in (0..).zip(keys) {
        let document = world.finds(&spelt(n), key).await;
        assert_eq!(document["key"].as_str().unwrap().as_bytes(), key.as_bytes());
        assert_eq!(world.search.by_key(key).await, [document], "by its key");
        assert!(world.record(key).await.is_some(), "record of {key:?}");
    }
    world.finds_exactly(keys).await;
    world.emptied().await;
    world.dlq_is_empty().await;
    assert_eq!(worker.stop().await.of("done"), files.len() as u64);
}
