//! The suite's bench on a real OpenSearch, and what only a real one can show: set-up, mapping, search in Japanese.
//!
//! `OPENSEARCH_ENDPOINT` says where it is. Each bench has an index of its own name, removed when it ends well.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use opensearch::OpenSearch;
use opensearch::http::Method;
use opensearch::http::headers::HeaderMap;
use opensearch::http::transport::Transport;
use quittance::index::Search;
use quittance::index::catalogue::Catalogue;
use quittance::index::opensearch::{
    Analyzer, AnalyzerChoice, Auth, OpenSearchIndex, OpenSearchSettings, OpenSearchSuccession, SetupError, SetupStep,
};
use quittance::index::provenance::Provenance;
use quittance::index::succession::{Begun, Succession, SuccessionError};
use quittance::message::DocumentId;
use serde_json::{Value, json};

use super::{Bench, Block, id, item, text};

const CJK: AnalyzerChoice = AnalyzerChoice::Only(Analyzer::Cjk);

pub struct RealBench {
    index: OpenSearchIndex,
    next: OpenSearchIndex,
    succession: OpenSearchSuccession,
    nowhere: OpenSearchIndex,
    direct: Direct,
}

/// The cluster as an operator sees it, not through the code under test.
struct Direct(OpenSearch);

impl Direct {
    fn new() -> Self {
        Self(OpenSearch::new(Transport::single_node(&endpoint()).expect("an endpoint")))
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let body = body.map(|body| body.to_string());
        let sent = self.0.send::<_, ()>(method, path, HeaderMap::new(), None, body, Some(Duration::from_secs(30)));
        let reply = sent.await.expect("the local stack answers");
        let status = reply.status_code().as_u16();
        (status, serde_json::from_slice(&reply.bytes().await.expect("a whole reply")).unwrap_or(Value::Null))
    }

    async fn well(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let (status, reply) = self.ask(method, path, body).await;
        assert_eq!(status, 200, "{path}: {reply}");
        reply
    }
}

fn endpoint() -> String {
    std::env::var("OPENSEARCH_ENDPOINT").expect("OPENSEARCH_ENDPOINT: run through `make test`")
}

fn unique(what: &str) -> String {
    format!("{what}-{}", uuid::Uuid::now_v7().simple())
}

fn index_at(name: &str) -> OpenSearchIndex {
    OpenSearchIndex::new(OpenSearchSettings {
        endpoint: endpoint(),
        index: name.to_owned(),
        auth: Auth::None,
        request_timeout: Duration::from_secs(20),
        connect_timeout: Duration::from_secs(3),
    })
    .expect("settings")
}

impl RealBench {
    /// By an analyzer that every OpenSearch has.
    pub async fn new() -> Self {
        Self::with(CJK).await
    }

    pub async fn with(analyzer: AnalyzerChoice) -> Self {
        let name = unique("contract");
        let index = index_at(&name);
        index.setup_index(analyzer).await.expect("an index");
        Self {
            next: index_at(&index.next_alias()),
            succession: OpenSearchSuccession { index: Arc::new(index_at(&name)), analyzer },
            index,
            nowhere: index_at(&unique("nowhere")),
            direct: Direct::new(),
        }
    }

    pub fn index(&self) -> &OpenSearchIndex {
        &self.index
    }

    async fn found(&self, query: Value) -> Vec<String> {
        self.direct.well(Method::Post, &format!("/{}/_refresh", self.index.write_alias()), None).await;
        let path = format!("/{}/_search", self.index.read_alias());
        let reply = self.direct.well(Method::Post, &path, Some(json!({ "query": query, "size": 100 }))).await;
        let hits = reply["hits"]["hits"].as_array().expect("hits").iter();
        hits.map(|hit| hit["_id"].as_str().expect("an id").to_owned()).collect()
    }
}

/// All that a test may have made.
fn versions(alias: &str) -> String {
    let names: Vec<String> = (1..=3).map(|number| format!("{alias}-v{number}")).collect();
    format!("/{}?ignore_unavailable=true", names.join(","))
}

/// The server's limit of shards is for all tests together.
impl Drop for RealBench {
    fn drop(&mut self) {
        let (Ok(runtime), path) =
            (tokio::runtime::Builder::new_current_thread().enable_all().build(), versions(self.index.write_alias()))
        else {
            return;
        };
        // On a thread of its own: this one is inside a runtime.
        let gone = std::thread::spawn(move || {
            runtime.block_on(async { drop(Direct::new().ask(Method::Delete, &path, None).await) });
        });
        drop(gone.join());
    }
}

#[async_trait]
impl Bench for RealBench {
    fn search(&self) -> &dyn Search {
        &self.index
    }

    fn without_alias(&self) -> &dyn Search {
        &self.nowhere
    }

    fn catalogue(&self) -> &dyn Catalogue {
        &self.index
    }

    fn catalogue_without_alias(&self) -> &dyn Catalogue {
        &self.nowhere
    }

    fn provenance(&self) -> &dyn Provenance {
        &self.index
    }

    fn succession(&self) -> &dyn Succession {
        &self.succession
    }

    fn next(&self) -> &dyn Search {
        &self.next
    }

    fn next_catalogue(&self) -> &dyn Catalogue {
        &self.next
    }

    async fn stored(&self, id: &DocumentId) -> Option<(u64, Value)> {
        let (_, found) = self.direct.ask(Method::Get, &format!("/{}/_doc/{id}", self.index.write_alias()), None).await;
        found["found"].as_bool()?.then(|| (found["_version"].as_u64().expect("a version"), found["_source"].clone()))
    }

    async fn shown(&self) -> Vec<DocumentId> {
        let ids = self.found(json!({ "match_all": {} })).await;
        let mut ids: Vec<DocumentId> =
            ids.into_iter().map(|id| serde_json::from_value(Value::String(id)).expect("an id")).collect();
        ids.sort();
        ids
    }

    async fn block(&self, block: Block, on: bool) {
        let name = match block {
            Block::FloodStage => "index.blocks.read_only_allow_delete",
            Block::ReadOnly => "index.blocks.read_only",
        };
        let value = if on { json!(true) } else { Value::Null };
        let path = format!("/{}-v1/_settings", self.index.write_alias());
        self.direct.well(Method::Put, &path, Some(json!({ name: value }))).await;
    }

    async fn something_has_the_missing_name(&self) -> bool {
        self.direct.ask(Method::Get, &format!("/{}", self.nowhere.write_alias()), None).await.0 != 404
    }
}

/// All fields of the contract, as the worker fills them.
pub fn full(key: &str, content: &str) -> Value {
    json!({
        "bucket": "b", "key": key, "namespace": "n", "tenant": "t", "title": "四半期報告", "content": content,
        "mime_type": "text/plain", "language": "ja", "size": 3, "sha256": "00", "extension": "txt",
        "source_etag": "e", "source_version_id": null, "source_modified": "2026-11-22T01:02:03.123456789Z",
        "indexed_at": "2026-11-22T01:02:03Z", "revision": 1, "deleted": false, "truncated": false,
        "extractor": "text/1", "extraction_error": null, "message_id": "m", "original_message_id": null,
        "request_id": "r", "meta": { "author": "山田太郎", "pages": 3, "nested": { "a": [1, "x", null] }, "": "" },
    })
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_file_is_found_by_its_words_and_by_parts_of_its_name_in_japanese_too() {
    let bench = RealBench::new().await;
    let key = "tenant_a/2024-05/カ\u{3099}ス料金_請求書 Report_final-v2.PDF";
    let items = [
        item("wanted", 1, &full(key, "東京都の水道料金について The QUICK brown fox")),
        item("other", 1, &full("tenant_b/memo.txt", "京都の天気")),
    ];
    assert_eq!(bench.index.bulk(&items).await.expect("a reply"), vec![quittance::index::ItemAnswer::Durable; 2]);
    let wanted = [id("wanted").to_string()];
    let words = |field: &str, words: &str| json!({ "match": { field: { "query": words, "operator": "and" } } });
    for query in [
        words("content", "水道料金"),
        words("content", "東京都"),
        words("content", "quick FOX"),
        words("key.name", "請求書"),
        words("key.name", "ガス料金"),
        words("key.name", "report final"),
        words("key.name", "v2 pdf"),
        json!({ "prefix": { "key": "tenant_a/" } }),
        json!({ "wildcard": { "key": "*_final-v2.PDF" } }),
        json!({ "term": { "key": key } }),
    ] {
        assert_eq!(bench.found(query.clone()).await, wanted, "{query}");
    }
    for query in
        [words("title", "報告"), json!({ "term": { "meta.author": "山田太郎" } }), json!({ "term": { "tenant": "t" } })]
    {
        assert_eq!(bench.found(query.clone()).await.len(), 2, "{query}");
    }
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn setting_up_again_changes_nothing_and_says_so() {
    let bench = RealBench::new().await;
    let again = bench.index.setup_index(CJK).await.expect("a report");
    assert!(again.steps.iter().all(|step| matches!(step, SetupStep::Present(_))), "{again}");
    assert_eq!(again.index, format!("{}-v1", bench.index.write_alias()));
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn many_that_set_up_at_once_all_find_it_done() {
    let name = unique("race");
    let reports = futures_util::future::join_all((0..6).map(|_| async {
        let index = index_at(&name);
        index.setup_index(CJK).await
    }))
    .await;
    for report in reports {
        let report = report.expect("a report");
        assert!(!report.has_conflicts(), "{report}");
    }
    let index = index_at(&name);
    index.probe().await.expect("ready");
    let again = index.setup_index(CJK).await.expect("a report");
    assert!(again.steps.iter().all(|step| matches!(step, SetupStep::Present(_))), "{again}");
    Direct::new().well(Method::Delete, &format!("/{name}-v1"), None).await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn what_is_missing_from_an_index_in_use_is_added_and_what_cannot_change_is_a_conflict() {
    let (name, direct) = (unique("old"), Direct::new());
    let old = json!({
        "mappings": { "properties": { "size": { "type": "keyword" }, "bucket": { "type": "keyword" } } },
        "aliases": { &name: {}, format!("{name}-search"): {} },
    });
    direct.well(Method::Put, &format!("/{name}-v1"), Some(old)).await;
    let index = index_at(&name);
    let report = index.setup_index(CJK).await.expect("a report");
    let told = report.to_string();
    assert!(report.has_conflicts() && told.contains("conflict  field size has type keyword, not long"), "{told}");
    assert!(told.contains("changed   field bucket") && told.contains("changed   field tenant"), "{told}");
    assert!(told.contains("conflict  field key in"), "its analyzer is not in the settings: {told}");
    assert!(told.contains("no longer maps unknown fields") && told.contains("hides deleted documents now"), "{told}");
    let again = index.setup_index(CJK).await.expect("a report");
    assert!(!again.steps.iter().any(|step| matches!(step, SetupStep::Changed(_) | SetupStep::Created(_))), "{again}");
    direct.well(Method::Delete, &format!("/{name}-v1"), None).await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn lost_aliases_come_back_to_the_only_version_and_not_to_one_of_several() {
    let bench = RealBench::new().await;
    let name = bench.index.write_alias().to_owned();
    bench.index.bulk(&[item("k", 1, &text("kept"))]).await.expect("a reply");
    bench.direct.well(Method::Delete, &format!("/{name}-v1/_alias/{name},{name}-search"), None).await;
    let report = bench.index.setup_index(CJK).await.expect("a report");
    assert_eq!(report.index, format!("{name}-v1"));
    assert_eq!(bench.shown().await, [id("k")]);
    bench.direct.well(Method::Delete, &format!("/{name}-v1/_alias/{name}"), None).await;
    bench.direct.well(Method::Put, &format!("/{name}-v2"), None).await;
    let several = bench.index.setup_index(CJK).await.expect_err("ambiguous").to_string();
    assert!(several.contains(&format!("{name}-v1, {name}-v2")), "{several}");
    bench.direct.well(Method::Delete, &format!("/{name}-v2"), None).await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn an_index_that_has_the_name_of_an_alias_is_left_alone_and_told() {
    for suffix in ["", "-search"] {
        let (name, direct) = (unique("taken"), Direct::new());
        direct.well(Method::Put, &format!("/{name}{suffix}"), None).await;
        let index = index_at(&name);
        let error = index.setup_index(CJK).await.expect_err("the name is taken");
        assert!(
            matches!(&error, SetupError::Names(why) if why.contains(&format!("{name}{suffix} is an index"))),
            "{error}"
        );
        assert!(index.probe().await.is_err());
        direct.well(Method::Delete, &format!("/{name}{suffix}"), None).await;
    }
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn an_alias_without_a_write_index_is_sick_and_told() {
    let bench = RealBench::new().await;
    let name = bench.index.write_alias();
    let off =
        json!({ "actions": [{ "add": { "index": format!("{name}-v1"), "alias": name, "is_write_index": false } }] });
    bench.direct.well(Method::Post, "/_aliases", Some(off)).await;
    assert!(bench.index.probe().await.expect_err("no write index").to_string().contains("no write index"));
    let verdicts = bench.index.bulk(&[item("k", 1, &text("x"))]).await.expect("a reply");
    assert!(matches!(&verdicts[..], [quittance::index::ItemAnswer::Sick(_)]), "{verdicts:?}");
    assert!(matches!(bench.index.setup_index(CJK).await, Err(SetupError::Names(_))));
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn an_operator_finds_files_by_their_words_with_what_was_matched() {
    let bench = RealBench::new().await;
    let document = |key: &str, namespace: &str, content: &str, deleted: bool| {
        let mut document = full(key, content);
        document["namespace"] = json!(namespace);
        document["deleted"] = json!(deleted);
        item(&format!("{namespace}/{key}"), 1, &document)
    };
    let long = "word ".repeat(300_000); // beyond what a highlighter looks at by itself
    let items = [
        document("memo.txt", "n", "東京都の水道料金について The QUICK brown fox", false),
        document("long.txt", "n", &format!("quick {long}"), false),
        document("gone.txt", "n", "quick", true),
        document("theirs.txt", "other", "quick", false),
    ];
    bench.index.bulk(&items).await.expect("a reply");
    bench.shown().await;
    let namespace = quittance::message::Namespace::parse("n").expect("a namespace");
    let hits = bench.index.find("水道料金", &namespace, 10).await.expect("hits");
    assert_eq!(hits.iter().map(|hit| hit.key.as_str()).collect::<Vec<_>>(), ["memo.txt"]);
    assert!(hits[0].highlights.concat().contains("**水道料金**"), "{hits:?}");
    let mut keys: Vec<String> =
        bench.index.find("quick", &namespace, 10).await.expect("hits").into_iter().map(|hit| hit.key).collect();
    keys.sort();
    assert_eq!(keys, ["long.txt", "memo.txt"], "neither deleted ones nor those of others");
    assert_eq!(bench.index.find("quick", &namespace, 1).await.expect("hits").len(), 1);
    assert_eq!(bench.index.find("nowhere", &namespace, 10).await.expect("hits"), []);
    let missing = bench.nowhere.find("quick", &namespace, 10).await.expect_err("no alias").to_string();
    assert!(missing.contains("-search is missing") && missing.contains("setup-index"), "{missing}");
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn an_index_keeps_its_analyzer_under_auto_and_another_is_a_conflict_that_names_the_way_out() {
    // The local OpenSearch has both plugins.
    let new = index_at(&unique("auto"));
    let told = new.setup_index(AnalyzerChoice::Auto).await.expect("a report").to_string();
    assert!(told.contains("analyzer kuromoji (auto: plugin analysis-kuromoji is installed)"), "{told}");
    Direct::new().well(Method::Delete, &versions(new.write_alias()), None).await;
    for analyzer in [Analyzer::Cjk, Analyzer::Standard, Analyzer::Icu, Analyzer::Kuromoji] {
        let bench = RealBench::with(AnalyzerChoice::Only(analyzer)).await;
        let kept = bench.index.setup_index(AnalyzerChoice::Auto).await.expect("a report");
        let told = kept.to_string();
        assert!(!kept.has_conflicts() && told.contains(&format!("text by analyzer {}", analyzer.as_str())), "{told}");
        assert_eq!(told.contains("migrate-index"), analyzer != Analyzer::Kuromoji, "{told}");
        let other = if analyzer == Analyzer::Icu { Analyzer::Cjk } else { Analyzer::Icu };
        let report = bench.index.setup_index(AnalyzerChoice::Only(other)).await.expect("a report");
        assert!(report.has_conflicts() && report.to_string().contains("`worker migrate-index` builds"), "{report}");
    }
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn a_migration_is_refused_where_the_names_or_the_half_built_index_are_not_its_own() {
    let refused = async |bench: &RealBench, analyzer: AnalyzerChoice| {
        let index = Arc::new(index_at(bench.index.write_alias()));
        match (OpenSearchSuccession { index, analyzer }).begin(false).await {
            Err(SuccessionError::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    let icu = AnalyzerChoice::Only(Analyzer::Icu);
    let bench = RealBench::new().await;
    let name = bench.index.write_alias().to_owned();
    // As it should be: nothing to do, and nothing is made.
    let same = bench.succession.begin(false).await;
    assert_eq!(same, Ok(Begun::Same { index: format!("{name}-v1") }));
    // Begun by one analyzer, gone on with by another.
    assert!(matches!(bench.succession.begin(true).await, Ok(Begun::Building { .. })));
    let why = refused(&bench, icu).await;
    assert!(why.contains("half built with another mapping") && why.contains("OPENSEARCH_ANALYZER=cjk"), "{why}");
    assert!(why.contains(&format!("DELETE /{name}-v2")), "{why}");
    // The index in use is another one by now.
    let alias = |action: &str, index: &str, alias: &str| json!({ action: { "index": format!("{name}-{index}"), "alias": alias } });
    let read = format!("{name}-search");
    let rest = [
        alias("remove", "v1", &name),
        alias("remove", "v1", &read),
        alias("add", "v3", &name),
        alias("add", "v3", &read),
    ];
    bench.direct.well(Method::Put, &format!("/{name}-v3"), None).await;
    bench.direct.well(Method::Post, "/_aliases", Some(json!({ "actions": rest }))).await;
    let why = refused(&bench, CJK).await;
    assert!(why.contains(&format!("{name}-v2 was begun as the next index of {name}-v1")), "{why}");
    // Two behind one alias; an alias lost; the next one's alias on somebody else's index.
    bench.direct.well(Method::Post, "/_aliases", Some(json!({ "actions": [alias("add", "v1", &read)] }))).await;
    assert!(refused(&bench, CJK).await.contains("leave"), "the read alias");
    let lost = [alias("remove", "v1", &read), alias("remove", "v3", &read)];
    bench.direct.well(Method::Post, "/_aliases", Some(json!({ "actions": lost }))).await;
    assert!(refused(&bench, CJK).await.contains("-search is missing"), "the read alias");
    let bench = RealBench::new().await;
    let name = bench.index.write_alias().to_owned();
    let theirs = json!({ "aliases": { format!("{name}-next"): {} } });
    bench.direct.well(Method::Put, &format!("/{name}-v2"), Some(theirs)).await;
    assert!(refused(&bench, icu).await.contains("which no migration has made"), "the next alias");
}
