//! What every `Search` must do, whatever is behind it: one suite, run against each implementation.
//!
//! A bench is an implementation with a way to look behind it. To put another one under the suite (the model of
//! `tests/sim`), implement [`Bench`] for it and name it in a `contract!` line.

#![allow(clippy::expect_used, reason = "helpers of tests are tests")]

use async_trait::async_trait;
use bytes::Bytes;
use quittance::index::catalogue::{Catalogue, Entry, Held, Owner, Removal, Stretch};
use quittance::index::provenance::{Provenance, Written};
use quittance::index::succession::{Begun, Pass, Progress, Succession, SuccessionError};
use quittance::index::{IndexItem, ItemAnswer, Search, SearchError};
use quittance::message::{DocumentId, MessageId, Namespace};
use serde_json::{Value, json};

#[path = "search_contract/model.rs"]
mod model;
#[path = "search_contract/quality.rs"]
mod quality;
#[path = "search_contract/real.rs"]
mod real;
mod sim;

/// The two ways in which an index stops taking writes.
#[derive(Clone, Copy, Debug)]
enum Block {
    /// Disk nearly full: `read_only_allow_delete`, a 429 per item.
    FloodStage,
    /// Set by somebody: `read_only`, a 403 per item.
    ReadOnly,
}

/// An implementation set up with empty index, write alias and read alias.
#[async_trait]
trait Bench: Send + Sync {
    /// The port, for the write alias.
    fn search(&self) -> &dyn Search;
    /// The port, for an alias that does not exist.
    fn without_alias(&self) -> &dyn Search;
    /// The port that looks through the index.
    fn catalogue(&self) -> &dyn Catalogue;
    /// The same, for an alias that does not exist.
    fn catalogue_without_alias(&self) -> &dyn Catalogue;
    /// The port that knows who wrote what.
    fn provenance(&self) -> &dyn Provenance;
    /// The port that has one index succeed another.
    fn succession(&self) -> &dyn Succession;
    /// The way into the next index.
    fn next(&self) -> &dyn Search;
    /// What the next index holds.
    fn next_catalogue(&self) -> &dyn Catalogue;
    /// Version and source of a document as the index holds it, deleted or not.
    async fn stored(&self, id: &DocumentId) -> Option<(u64, Value)>;
    /// What the read alias shows once all writes are visible, sorted.
    async fn shown(&self) -> Vec<DocumentId>;
    /// Told before a document that the mapping refuses is sent: for a bench that has no mapping.
    fn will_be_refused(&self, _id: &DocumentId) {}
    /// Sets or lifts a block.
    async fn block(&self, block: Block, on: bool);
    /// Whether anything has the name of the alias that does not exist.
    async fn something_has_the_missing_name(&self) -> bool;
}

fn id(key: &str) -> DocumentId {
    DocumentId::of(&Namespace::parse("contract").expect("a namespace"), "bucket", key)
}

fn item(key: &str, revision: u64, source: &Value) -> IndexItem {
    IndexItem { document_id: id(key), revision, source: Bytes::from(source.to_string()) }
}

fn text(content: &str) -> Value {
    json!({ "key": "k", "content": content, "deleted": false })
}

async fn write(bench: &dyn Bench, items: &[IndexItem]) -> Vec<ItemAnswer> {
    bench.search().bulk(items).await.expect("a reply with items")
}

async fn content(bench: &dyn Bench, key: &str) -> (u64, String) {
    let (version, source) = bench.stored(&id(key)).await.expect("the document is there");
    (version, source["content"].as_str().unwrap_or_default().to_owned())
}

async fn a_newer_revision_replaces(bench: &dyn Bench) {
    assert_eq!(write(bench, &[item("k", 5, &text("first"))]).await, [ItemAnswer::Durable]);
    assert_eq!(write(bench, &[item("k", 6, &text("二番目"))]).await, [ItemAnswer::Durable]);
    assert_eq!(content(bench, "k").await, (6, "二番目".to_owned()));
}

async fn an_equal_revision_is_accepted(bench: &dyn Bench) {
    for _ in 0..2 {
        assert_eq!(write(bench, &[item("k", 5, &text("same"))]).await, [ItemAnswer::Durable]);
    }
    assert_eq!(content(bench, "k").await, (5, "same".to_owned()));
}

async fn an_older_revision_is_durable_and_changes_nothing(bench: &dyn Bench) {
    write(bench, &[item("k", 1_700_000_000_001, &text("newest"))]).await;
    let late = [item("k", 1_700_000_000_000, &text("late")), item("k", 1, &text("later still"))];
    assert_eq!(write(bench, &late).await, [ItemAnswer::Durable, ItemAnswer::Durable]);
    assert_eq!(content(bench, "k").await, (1_700_000_000_001, "newest".to_owned()));
}

async fn the_newest_of_several_revisions_in_one_batch_wins(bench: &dyn Bench) {
    let batch = [3, 7, 5].map(|revision| item("k", revision, &text(&format!("r{revision}"))));
    assert_eq!(write(bench, &batch).await, vec![ItemAnswer::Durable; 3]);
    assert_eq!(content(bench, "k").await, (7, "r7".to_owned()));
}

async fn a_soft_deleted_document_is_hidden_by_the_read_alias_and_does_not_rise_again(bench: &dyn Bench) {
    write(bench, &[item("stays", 1, &text("a")), item("goes", 1, &text("b"))]).await;
    let mut both = vec![id("stays"), id("goes")];
    both.sort();
    assert_eq!(bench.shown().await, both);
    assert_eq!(write(bench, &[item("goes", 2, &json!({ "deleted": true }))]).await, [ItemAnswer::Durable]);
    assert_eq!(bench.shown().await, [id("stays")]);
    assert_eq!(write(bench, &[item("goes", 1, &text("a late twin"))]).await, [ItemAnswer::Durable]);
    assert_eq!(bench.shown().await, [id("stays")]);
    assert_eq!(bench.stored(&id("goes")).await.expect("a tombstone").0, 2);
    assert_eq!(write(bench, &[item("goes", 3, &text("back"))]).await, [ItemAnswer::Durable]);
    assert_eq!(bench.shown().await, both);
}

async fn a_refused_document_does_not_hold_up_the_good_ones(bench: &dyn Bench) {
    let bad = json!({ "key": "k", "revision": "not a number" });
    bench.will_be_refused(&id("bad"));
    let verdicts = write(bench, &[item("a", 1, &text("a")), item("bad", 1, &bad), item("c", 1, &text("c"))]).await;
    assert!(
        matches!(&verdicts[..], [ItemAnswer::Durable, ItemAnswer::Refused(why), ItemAnswer::Durable] if !why.is_empty()),
        "{verdicts:?}"
    );
    assert_eq!(bench.stored(&id("bad")).await, None);
    assert!(bench.stored(&id("a")).await.is_some() && bench.stored(&id("c")).await.is_some());
}

async fn a_missing_alias_is_systemic_and_creates_nothing(bench: &dyn Bench) {
    assert!(matches!(bench.without_alias().probe().await, Err(SearchError::Unavailable(_))));
    match bench.without_alias().bulk(&[item("k", 1, &text("x"))]).await {
        Ok(verdicts) => assert!(matches!(&verdicts[..], [ItemAnswer::Sick(_)]), "{verdicts:?}"),
        Err(error) => assert!(matches!(error, SearchError::Unavailable(_)), "{error}"),
    }
    assert!(!bench.something_has_the_missing_name().await);
}

async fn a_block_is_systemic_and_over_when_it_is_lifted(bench: &dyn Bench) {
    for (revision, block) in [(2, Block::FloodStage), (3, Block::ReadOnly)] {
        bench.search().probe().await.expect("writable before");
        bench.block(block, true).await;
        match bench.search().bulk(&[item("k", revision, &text("x"))]).await {
            Ok(verdicts) => assert!(matches!(&verdicts[..], [ItemAnswer::Sick(_)]), "{block:?} {verdicts:?}"),
            Err(error) => assert!(matches!(error, SearchError::Unavailable(_)), "{block:?} {error}"),
        }
        assert!(matches!(bench.search().probe().await, Err(SearchError::Unavailable(_))), "{block:?}");
        bench.block(block, false).await;
        bench.search().probe().await.expect("writable again");
        assert_eq!(write(bench, &[item("k", revision, &text("x"))]).await, [ItemAnswer::Durable], "{block:?}");
    }
}

async fn text_of_any_kind_comes_back_as_it_was(bench: &dyn Bench) {
    let odd = text("請求書\n二行目\r\n\u{2028}\u{0}\"\\ 😀 {\"index\":{\"_id\":\"x\"}}\n");
    assert_eq!(write(bench, &[item("k", 1, &odd), item("l", 1, &text("next"))]).await, vec![ItemAnswer::Durable; 2]);
    assert_eq!(bench.stored(&id("k")).await, Some((1, odd)));
}

async fn an_empty_batch_has_no_verdicts(bench: &dyn Bench) {
    assert_eq!(write(bench, &[]).await, []);
}

fn stretch(prefix: &str, after: Option<&str>, up_to: Option<&str>) -> Stretch {
    Stretch {
        namespace: Namespace::parse("contract").expect("a namespace"),
        bucket: "bucket".into(),
        prefix: prefix.into(),
        after: after.map(Into::into),
        up_to: up_to.map(Into::into),
    }
}

fn of_bucket(bucket: &str, namespace: &str, key: &str, deleted: bool) -> Value {
    json!({ "bucket": bucket, "namespace": namespace, "key": key, "deleted": deleted, "extractor": "e/1", "content": "x" })
}

async fn entries_come_in_the_order_of_their_keys_and_only_of_the_stretch(bench: &dyn Bench) {
    // In UTF-8, not in UTF-16 and not by any alphabet.
    let keys = ["p/Z", "p/a b", "p/a+b", "p/日本", "p/～", "p/😀"];
    let mut items: Vec<IndexItem> =
        keys.iter().map(|key| item(key, 7, &of_bucket("bucket", "contract", key, *key == "p/a+b"))).collect();
    items.push(item("other prefix", 1, &of_bucket("bucket", "contract", "q/1", false)));
    items.push(item("other bucket", 1, &of_bucket("another", "contract", "p/b", false)));
    items.push(item("other namespace", 1, &of_bucket("bucket", "another", "p/b", false)));
    write(bench, &items).await;
    bench.shown().await; // all writes are visible
    let ask = async |stretch: Stretch, limit| bench.catalogue().entries(&stretch, limit).await.expect("entries");
    let all = ask(stretch("p/", None, None), 100).await;
    let entry = |key: &&str| Entry {
        document_id: id(key),
        key: (*key).into(),
        held: Held { revision: 7, deleted: *key == "p/a+b" },
        extractor: Some("e/1".into()),
    };
    assert_eq!(all, keys.iter().map(entry).collect::<Vec<_>>());
    assert_eq!(ask(stretch("p/", None, None), 2).await, all[..2]);
    assert_eq!(ask(stretch("p/", Some("p/a b"), None), 2).await, all[2..4]);
    assert_eq!(ask(stretch("p/", Some("p/a b"), Some("p/～")), 100).await, all[2..5]);
    assert_eq!(ask(stretch("", None, None), 100).await.len(), 7);
    assert_eq!(ask(stretch("nothing/", None, None), 100).await, []);
}

async fn what_is_held_is_told_as_of_now(bench: &dyn Bench) {
    let ids = [id("held"), id("never"), id("gone")];
    assert_eq!(bench.catalogue().held(&ids).await, Ok(vec![None, None, None]));
    write(bench, &[item("held", 5, &text("a")), item("gone", 9, &json!({ "deleted": true }))]).await;
    let held = |revision, deleted| Some(Held { revision, deleted });
    assert_eq!(bench.catalogue().held(&ids).await, Ok(vec![held(5, false), None, held(9, true)]));
    assert_eq!(bench.catalogue().held(&[]).await, Ok(vec![]));
}

async fn a_removal_takes_this_revision_or_an_older_one_and_never_a_newer(bench: &dyn Bench) {
    write(bench, &[item("same", 7, &text("a")), item("older", 6, &text("a")), item("newer", 8, &text("a"))]).await;
    let asked = ["same", "older", "newer", "never"].map(|key| (id(key), 7));
    let expected = [Removal::Removed, Removal::Removed, Removal::Newer, Removal::Removed];
    assert_eq!(bench.catalogue().remove(&asked).await, Ok(expected.to_vec()));
    for (key, there) in [("same", false), ("older", false), ("newer", true), ("never", false)] {
        assert_eq!(bench.stored(&id(key)).await.is_some(), there, "{key}");
    }
    // Again: nothing is left to do. And what comes back newer is written.
    assert_eq!(bench.catalogue().remove(&asked).await, Ok(expected.to_vec()));
    write(bench, &[item("same", 8, &text("back"))]).await;
    assert_eq!(content(bench, "same").await, (8, "back".into()));
    assert_eq!(bench.catalogue().remove(&[]).await, Ok(vec![]));
}

async fn documents_are_found_by_the_message_that_wrote_them_or_its_first_id(bench: &dyn Bench) {
    let by = |bucket: &str, namespace: &str, key: &str, revision: u64, message: &str, original: Option<&str>| {
        let mut source = of_bucket(bucket, namespace, key, key == "gone");
        (source["message_id"], source["original_message_id"]) = (json!(message), json!(original));
        source["revision"] = json!(revision);
        item(key, revision, &source)
    };
    let items = [
        by("bucket", "contract", "日本.txt", 7, "m-1", None),
        by("another", "contract", "gone", 9, "m-2", Some("m-1")),
        by("bucket", "contract", "of another", 8, "m-2", None),
        by("bucket", "elsewhere", "not ours", 8, "m-1", None),
        by("bucket", "contract", "not quite", 8, "m-11", None),
    ];
    write(bench, &items).await;
    bench.shown().await; // all writes are visible
    let namespace = Namespace::parse("contract").expect("a namespace");
    let ask = async |message: &str, limit| {
        bench.provenance().written_by(&namespace, &MessageId(message.into()), limit).await.expect("documents")
    };
    let written = |bucket: &str, key: &str, revision, deleted| Written {
        document_id: id(key),
        bucket: bucket.into(),
        key: key.into(),
        held: Held { revision, deleted },
    };
    let both = [written("another", "gone", 9, true), written("bucket", "日本.txt", 7, false)];
    assert_eq!(ask("m-1", 100).await, both);
    assert_eq!(ask("m-1", 1).await, both[..1]);
    assert_eq!(ask("m", 100).await, []);
}

async fn whose_documents_there_are_is_told_once_each_and_in_order(bench: &dyn Bench) {
    assert_eq!(bench.catalogue().owners().await, Ok(vec![]));
    let items = [("b", "z", "1"), ("a", "z", "2"), ("a", "y", "3"), ("b", "z", "4"), ("c", "x", "5")];
    let items = items.map(|(bucket, namespace, key)| item(key, 1, &of_bucket(bucket, namespace, key, key == "5")));
    write(bench, &items).await;
    bench.shown().await; // all writes are visible
    let owners = [("x", "c"), ("y", "a"), ("z", "a"), ("z", "b")];
    let owners = owners.map(|(namespace, bucket)| Owner { namespace: namespace.into(), bucket: bucket.into() });
    assert_eq!(bench.catalogue().owners().await, Ok(owners.to_vec()));
}

async fn the_next_index_is_filled_apart_and_takes_both_aliases_over_in_one_step(bench: &dyn Bench) {
    let succession = bench.succession();
    let deleted = json!({ "key": "k", "deleted": true });
    write(bench, &[item("both", 5, &text("old")), item("old", 1, &text("old"))]).await;
    assert!(bench.next_catalogue().held(&[id("both")]).await.is_err(), "there is none yet");
    let Ok(Begun::Building { old, new, progress, .. }) = succession.begin(true).await else { panic!("not begun") };
    assert_eq!(progress, Progress { v: 1, from: old.clone(), ..Progress::default() });
    // Apart: neither sees the other's.
    let both = [item("both", 7, &text("new")), item("new", 1, &text("new")), item("gone", 1, &deleted)];
    assert_eq!(bench.next().bulk(&both).await, Ok(vec![ItemAnswer::Durable; 3]));
    assert_eq!(bench.next().bulk(&[item("both", 6, &text("late"))]).await, Ok(vec![ItemAnswer::Durable]));
    assert_eq!(content(bench, "both").await, (5, "old".into()));
    let held = |revision, deleted| Some(Held { revision, deleted });
    let asked = [id("both"), id("old"), id("gone")];
    assert_eq!(bench.next_catalogue().held(&asked).await, Ok(vec![held(7, false), None, held(1, true)]));
    // What is noted is found again, and the index with it; a note replaces the one before.
    let pass = Some(Pass { began_ms: 9, after: Some("processed/default/a.json".into()) });
    let noted = Progress { since_ms: 7, pass, note: 1, ..progress };
    for noted in [&noted, &Progress { pass: None, note: 2, ..noted.clone() }] {
        assert_eq!(succession.note(&new, noted).await, Ok(()));
        let again = succession.begin(false).await;
        assert!(
            matches!(&again, Ok(Begun::Building { old: o, new: n, progress, .. }) if (o, n, progress) == (&old, &new, noted)),
            "{again:?}"
        );
    }
    assert!(succession.note("no-such-index", &noted).await.is_err());
    // From another than the one in use nothing is taken.
    let wrong = succession.take_over("no-such-index", &new).await;
    assert!(matches!(wrong, Err(SuccessionError::Refused(_))), "{wrong:?}");
    assert_eq!(content(bench, "both").await, (5, "old".into()));
    for _ in 0..2 {
        assert_eq!(succession.take_over(&old, &new).await, Ok(()));
        assert_eq!(content(bench, "both").await, (7, "new".into()));
    }
    assert_eq!(bench.stored(&id("old")).await, None);
    let mut shown = vec![id("both"), id("new")];
    shown.sort();
    assert_eq!(bench.shown().await, shown, "the tombstone is hidden here, too");
    // Its own alias is gone: what is on its way through it lands nowhere.
    match bench.next().bulk(&[item("late", 1, &text("x"))]).await {
        Ok(answers) => assert!(matches!(&answers[..], [ItemAnswer::Sick(_)]), "{answers:?}"),
        Err(error) => assert!(matches!(error, SearchError::Unavailable(_)), "{error}"),
    }
    assert_eq!(bench.stored(&id("late")).await, None);
    assert_eq!(write(bench, &[item("both", 8, &text("newest"))]).await, [ItemAnswer::Durable]);
    // Until it is done the next migration is this one.
    let owed = succession.begin(true).await;
    assert!(matches!(&owed, Ok(Begun::Moved { new: n, progress }) if *n == new && progress.from == old), "{owed:?}");
    let done = Progress { done: true, note: 3, pass: None, ..noted };
    assert_eq!(succession.note(&new, &done).await, Ok(()));
    let third = succession.begin(true).await;
    assert!(matches!(&third, Ok(Begun::Building { old: o, new: n, .. }) if *o == new && *n != old), "{third:?}");
    assert_eq!(content(bench, "both").await, (8, "newest".into()));
}

async fn looking_and_removing_without_the_alias_are_errors_and_create_nothing(bench: &dyn Bench) {
    let catalogue = bench.catalogue_without_alias();
    assert!(matches!(catalogue.entries(&stretch("", None, None), 1).await, Err(SearchError::Unavailable(_))));
    assert!(matches!(catalogue.owners().await, Err(SearchError::Unavailable(_))));
    assert!(matches!(catalogue.held(&[id("k")]).await, Err(SearchError::Unavailable(_))));
    assert!(matches!(catalogue.remove(&[(id("k"), 7)]).await, Err(SearchError::Unavailable(_))));
    assert!(!bench.something_has_the_missing_name().await);
}

/// The whole suite for one bench: a module of tests, each on a bench of its own.
macro_rules! contract {
    ($name:ident, $bench:expr, $(#[$attribute:meta])*) => {
        contract!(@each $name, $bench, [$(#[$attribute])*],
            a_newer_revision_replaces
            an_equal_revision_is_accepted
            an_older_revision_is_durable_and_changes_nothing
            the_newest_of_several_revisions_in_one_batch_wins
            a_soft_deleted_document_is_hidden_by_the_read_alias_and_does_not_rise_again
            a_refused_document_does_not_hold_up_the_good_ones
            a_missing_alias_is_systemic_and_creates_nothing
            a_block_is_systemic_and_over_when_it_is_lifted
            text_of_any_kind_comes_back_as_it_was
            an_empty_batch_has_no_verdicts
            entries_come_in_the_order_of_their_keys_and_only_of_the_stretch
            what_is_held_is_told_as_of_now
            a_removal_takes_this_revision_or_an_older_one_and_never_a_newer
            documents_are_found_by_the_message_that_wrote_them_or_its_first_id
            whose_documents_there_are_is_told_once_each_and_in_order
            the_next_index_is_filled_apart_and_takes_both_aliases_over_in_one_step
            looking_and_removing_without_the_alias_are_errors_and_create_nothing
        );
    };
    (@each $name:ident, $bench:expr, $attributes:tt, $($clause:ident)*) => {
        mod $name {
            use super::*;
            $( contract!(@one $bench, $attributes, $clause); )*
        }
    };
    (@one $bench:expr, [$($attribute:tt)*], $clause:ident) => {
        $($attribute)*
        #[tokio::test]
        async fn $clause() {
            let bench = $bench.await;
            super::$clause(&bench).await;
        }
    };
}

contract!(on_the_model, model::ModelBench::new(),);
contract!(on_opensearch, real::RealBench::new(), #[ignore = "needs the local stack: make test"]);
