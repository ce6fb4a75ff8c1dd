//! Is what is looked for found? A known set of English and Japanese documents and queries, on each analyzer.
//!
//! `tests/fixtures/search/quality.json`: each query finds its document among the first three. `forms` are words in another
//! form than the text has them (詰める, 詰めた; サーバ, サーバー): only a dictionary of forms owes those.

use std::path::Path;

use quittance::index::opensearch::{Analyzer, AnalyzerChoice, OpenSearchIndex};
use quittance::message::Namespace;
use serde::Deserialize;
use serde_json::json;

use super::Bench as _;
use super::item;
use super::real::{RealBench, full};

/// A person looks at so many.
const FIRST: usize = 3;

#[derive(Deserialize)]
struct Known {
    documents: Vec<Document>,
    queries: Vec<(String, String)>,
    forms: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Document {
    key: String,
    title: Option<String>,
    content: String,
}

fn known() -> Known {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/search/quality.json");
    let known: Known = serde_json::from_slice(&std::fs::read(path).expect("the file")).expect("its form");
    let keys: Vec<&String> = known.documents.iter().map(|document| &document.key).collect();
    for (words, key) in known.queries.iter().chain(&known.forms) {
        assert!(keys.contains(&key), "{words} is for a document that is not there: {key}");
    }
    known
}

/// The place of each query's document (from 1), and how many were found; `None`: it was not.
async fn places(index: &OpenSearchIndex, queries: &[(String, String)]) -> Vec<(Option<usize>, usize)> {
    let namespace = Namespace::parse("n").expect("a namespace");
    let mut places = Vec::new();
    for (words, key) in queries {
        let hits = index.find(words, &namespace, 100).await.expect("hits");
        places.push((hits.iter().position(|hit| hit.key == *key).map(|at| at + 1), hits.len()));
    }
    places
}

async fn each_query_finds_its_document(analyzer: Analyzer) {
    let known = known();
    let bench = RealBench::with(AnalyzerChoice::Only(analyzer)).await;
    let documents = known.documents.iter().map(|Document { key, title, content }| {
        let mut document = full(key, content);
        document["title"] = json!(title);
        item(key, 1, &document)
    });
    bench.search().bulk(&documents.collect::<Vec<_>>()).await.expect("a reply");
    bench.shown().await; // all writes are visible
    let found = places(bench.index(), &known.queries).await;
    let first = found.iter().filter(|(place, _)| *place == Some(1)).count();
    let hits: usize = found.iter().map(|(_, hits)| hits).sum();
    let forms = places(bench.index(), &known.forms).await;
    let well = |place: Option<usize>| place.is_some_and(|place| place <= FIRST);
    let forms_found = forms.iter().filter(|(place, _)| well(*place)).count();
    eprintln!(
        "{}: {first} of {} first, {hits} hits in all; {forms_found} of {} other forms",
        analyzer.as_str(),
        found.len(),
        forms.len()
    );
    let missed: Vec<_> = known.queries.iter().zip(&found).filter(|(_, (place, _))| !well(*place)).collect();
    assert!(missed.is_empty(), "{analyzer:?}: not among the first {FIRST}: {missed:?}");
    if analyzer == Analyzer::Kuromoji {
        let missed: Vec<_> = known.forms.iter().zip(&forms).filter(|(_, (place, _))| !well(*place)).collect();
        assert!(missed.is_empty(), "{missed:?}");
    }
    // A code is one word, and its neighbours are not found for its sake.
    let codes = [("PO9933X", 1), ("E1043x", 1), ("XR7B", 1)].map(|(words, hits)| (words.to_owned(), hits));
    for (words, expected) in codes {
        let hits = bench.index().find(&words, &Namespace::parse("n").expect("a namespace"), 100).await.expect("hits");
        assert_eq!(hits.len(), expected, "{analyzer:?}: {words}");
        let marked = hits[0].highlights.concat();
        assert!(marked.contains(&format!("**{words}**")), "{analyzer:?}: {marked}");
    }
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn each_query_finds_its_document_by_kuromoji() {
    each_query_finds_its_document(Analyzer::Kuromoji).await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn each_query_finds_its_document_by_icu() {
    each_query_finds_its_document(Analyzer::Icu).await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn each_query_finds_its_document_by_pairs_of_characters() {
    each_query_finds_its_document(Analyzer::Cjk).await;
}

#[tokio::test]
#[ignore = "needs the local stack: make test"]
async fn each_query_finds_its_document_by_the_standard_analyzer() {
    each_query_finds_its_document(Analyzer::Standard).await;
}
