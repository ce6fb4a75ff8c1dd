//! Keys as people and machines make them: whatever the bytes, the file is found under exactly these.

use std::collections::BTreeMap;

use crate::outage::CLOSED_PORT;
use crate::world::{World, spelt};

/// 1,024 bytes, S3's limit, most of them in characters of three.
fn longest_key() -> String {
    let key = format!("深い/{}abcd.txt", "漢".repeat((1_024 - 15) / 3));
    let key = format!("{key}{}", "z".repeat(1_024 - key.len()));
    assert_eq!(key.len(), 1_024);
    key
}

/// Fifty keys, each with a character or a form that some step between S3 and the index might take for something else.
fn fifty_keys() -> Vec<String> {
    let mut keys: Vec<String> = [
        "plus/a+b.txt",
        "plus/a b.txt",
        "plus/a%2Bb.txt",
        "plus/a%20b.txt",
        "plus/a%252Bb.txt",
        "日本語/見積書 2026年.txt",
        "日本語/か\u{3099}.txt", // as a Mac writes が
        "日本語/が.txt",
        "日本語/ｶﾞ.txt", // of half width
        "日本語/全角\u{3000}空白＋％.txt",
        "🚀/launch 🧑\u{200d}🚀.txt",
        "🚀/👨\u{200d}👩\u{200d}👧\u{200d}👦.txt",
        "line\nbreak/two\nlines.txt",
        "carriage\rreturn.txt",
        "query/a?b=c&d#e.txt",
        "quotes/\"it's\" \\back.txt",
        "Case/A.txt",
        "case/a.txt",
        " leading and trailing ",
        "two  spaces.txt",
        "right\u{202e}left.txt",
        "mark\u{feff}.txt",
        "accents/caf\u{e9}.txt",
        "accents/cafe\u{301}.txt",
        "json/{\"key\":\"value\"}.txt",
        "json/null",
        "xml/<key>&amp;</key>.txt",
        "no extension",
        ".hidden",
        "dots...txt",
        "a.tar.gz.txt",
        "-rf.txt",
        "2026-11-22T00:00:00.000Z.txt",
        "0",
        "%",
        "%%",
        "%zz.txt",
        "+",
    ]
    .map(str::to_owned)
    .into();
    keys.extend(['!', '*', '\'', '(', ')', ';', ':', '@', '$', ','].map(|odd| format!("reserved/a{odd}b.txt")));
    keys.push("漢".repeat(341)); // 1,023 bytes
    keys.push(longest_key());
    assert_eq!(keys.iter().collect::<std::collections::BTreeSet<_>>().len(), 50);
    keys
}

/// Each with a text of its own.
fn files(keys: &[String]) -> BTreeMap<String, Vec<u8>> {
    let text = |n| format!("The key of this file is number {}.", spelt(n)).into_bytes();
    keys.iter().enumerate().map(|(n, key)| (key.clone(), text(n))).collect()
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a1_7_fifty_odd_keys_are_found_under_their_very_bytes() {
    let keys = fifty_keys();
    let world = World::new().await;
    let mut worker = world.launch().start().await;
    world.put_all(&files(&keys)).await;
    worker.settled(keys.len()).await;
    for (n, key) in keys.iter().enumerate() {
        let document = world.finds(&spelt(n), key).await;
        assert_eq!(document["key"].as_str().unwrap().as_bytes(), key.as_bytes());
        assert_eq!(world.search.by_key(key).await, [document], "by its key");
        assert!(world.record(key).await.is_some(), "record of {key:?}");
    }
    world.finds_exactly(&keys).await;
    world.emptied().await;
    world.dlq_is_empty().await;
    assert_eq!(worker.stop().await.of("done"), keys.len() as u64);
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a1_7_fifty_odd_keys_are_parked_under_their_very_bytes_without_opensearch() {
    let keys = fifty_keys();
    let world = World::new().await;
    let mut worker = world.launch().set("OPENSEARCH_ENDPOINT", CLOSED_PORT).start().await;
    world.put_all(&files(&keys)).await;
    worker.settled(keys.len()).await;
    world.emptied().await;
    world.dlq_is_empty().await;
    let mut parked = Vec::new();
    for marker in world.results_under("retry-index/").await {
        parked.push(world.result(&marker).await.unwrap().0["key"].as_str().unwrap().to_owned());
    }
    parked.sort();
    let mut expected = keys.clone();
    expected.sort();
    assert_eq!(parked, expected);
    assert_eq!(worker.stop().await.of("documents_parked"), keys.len() as u64);

    let mut worker = world.launch().start().await;
    world.finds_exactly(&keys).await;
    world.nothing_is_parked().await; // its marker goes after the document is found
    assert_eq!(worker.stop().await.of("replayed"), keys.len() as u64);
}
