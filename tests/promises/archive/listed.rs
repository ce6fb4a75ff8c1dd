//! What was archived, listed and shown.

use serde_json::Value;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_listing_counts_by_day_and_reason_and_shows_no_more_than_it_was_asked_for() {
    let site = Site::new(11);
    let world = &site.world;
    give_up_on(world, 20).await;
    sleep(DAY).await;
    let hostile = Message { body: r#"{"bucket":"incoming","key":"a\u001b[2J\u202e.txt"}"#.into(), ..letter(50, None) };
    archive(world).keep(&hostile, None, "max_receives", "x\ny", None).await.unwrap();
    let shelf = Shelf { store: Arc::new(world.store.clone()), bucket: RESULTS.into() };
    let list = async |selection: Selection, limit| {
        let answer = shelf.list(&selection, limit).await.unwrap();
        (serde_json::from_str::<Value>(&answer.json).unwrap(), answer.text, answer.code)
    };
    let (all, text, code) = list(Selection::default(), 5).await;
    assert_eq!((all["objects"].as_u64(), all["read"].as_u64(), code), (Some(21), Some(5), 0));
    assert_eq!((&all["days"]["2026-11-22"], &all["days"]["2026-11-23"]), (&20.into(), &1.into()));
    assert!(all["matching"].is_null() && text.contains("the oldest 5 are shown"), "{text}");
    let moved = Selection { reason: Some("max_receives".into()), ..Selection::default() };
    let (some, text, _) = list(moved, 5).await;
    assert_eq!(
        (some["matching"].as_u64(), some["letters"][0]["keys"][0].as_str()),
        (Some(1), Some("a\u{1b}[2J\u{202e}.txt"))
    );
    assert!(text.contains("a\\u{1b}[2J\\u{202e}.txt") && !text.contains('\u{1b}'), "{text}");
    let second = Selection { since_ms: Some(crate::sim::EPOCH_MS + 86_400_000), ..Selection::default() };
    assert_eq!(list(second, 100).await.0["objects"].as_u64(), Some(1));

    // In full, by the id of its object and by its first one.
    for id in ["letter-0003", "first-0003"] {
        let answer = shelf.show(id, &|_| {}).await.unwrap();
        let shown: Value = serde_json::from_str(&answer.json).unwrap();
        assert_eq!((shown["found"][0]["letter"]["body"].as_str(), answer.code), (Some("body\t3 日本"), 0), "{id}");
    }
    assert_eq!(shelf.show("nobody", &|_| {}).await.unwrap().code, 3);
}
