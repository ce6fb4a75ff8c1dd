//! Search for operators: the best hits for some words, with what was matched.
//!
//! Promises to look through the read alias only, so that deleted documents are not shown, and within a few seconds or
//! not at all. Writes nothing.

use std::time::Duration;

use bytes::Bytes;
use opensearch::http::Method;
use opensearch::http::headers::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::reply::whole_trouble;
use super::wire::Ask;
use super::{OpenSearchIndex, in_path};
use crate::index::SearchError;
use crate::message::Namespace;

/// A person waits.
const PATIENCE: Duration = Duration::from_secs(5);
/// Round what was matched.
pub const MARK: &str = "**";

/// A document that was found.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Hit {
    /// Source bucket.
    pub bucket: String,
    /// Source key.
    pub key: String,
    /// Title, where the file has one.
    pub title: Option<String>,
    /// Bytes of the file.
    pub size: Option<u64>,
    /// RFC 3339.
    pub source_modified: Option<String>,
    /// How well it fits; says nothing across searches.
    pub score: f64,
    /// Pieces of the text, what was matched between [`MARK`]s.
    pub highlights: Vec<String>,
}

#[derive(Deserialize)]
struct Found {
    hits: Hits,
}

#[derive(Deserialize)]
struct Hits {
    hits: Vec<Raw>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "_score")]
    score: Option<f64>,
    #[serde(rename = "_source")]
    source: Source,
    #[serde(default)]
    highlight: std::collections::BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
struct Source {
    bucket: String,
    key: String,
    title: Option<String>,
    size: Option<u64>,
    source_modified: Option<String>,
}

impl OpenSearchIndex {
    /// The best documents for some words, in title, text and name of the file.
    pub async fn find(&self, words: &str, namespace: &Namespace, limit: usize) -> Result<Vec<Hit>, SearchError> {
        let body = question(words, namespace, limit);
        let read_alias = self.read_alias();
        let ask = Ask {
            method: Method::Post,
            path: &format!("/{}/_search", in_path(&read_alias)),
            query: &[],
            headers: HeaderMap::new(),
            body: Some(Bytes::from(body.to_string())),
            timeout: self.request_timeout.min(PATIENCE),
        };
        let answer = self.wire.ask(ask).await.map_err(SearchError::Unavailable)?;
        match answer.status {
            200 => read(&answer.body),
            404 => {
                let why =
                    format!("alias {read_alias} is missing: run `worker setup-index`, or correct OPENSEARCH_INDEX");
                Err(SearchError::Unavailable(why))
            }
            status => Err(SearchError::Unavailable(whole_trouble(status, &answer.body))),
        }
    }
}

fn question(words: &str, namespace: &Namespace, limit: usize) -> Value {
    let fields = ["title^3", "key.name^2", "content"];
    // A highlighted field that is longer than the limit of the index (a million characters) fails the search else.
    let highlight = json!({
        "pre_tags": [MARK], "post_tags": [MARK], "max_analyzer_offset": 900_000,
        "fields": { "content": { "fragment_size": 120, "number_of_fragments": 2 }, "title": { "number_of_fragments": 0 } },
    });
    json!({
        "size": limit,
        "_source": ["bucket", "key", "title", "size", "source_modified"],
        "track_total_hits": false,
        "timeout": "4s",
        "query": { "bool": {
            "must": [{ "multi_match": { "query": words, "fields": fields, "type": "best_fields" } }],
            // Words that stand together are meant together.
            "should": [{ "multi_match": { "query": words, "fields": fields, "type": "phrase" } }],
            "filter": [{ "term": { "namespace": namespace.as_str() } }],
        } },
        "highlight": highlight,
    })
}

fn read(body: &[u8]) -> Result<Vec<Hit>, SearchError> {
    let found: Found = serde_json::from_slice(body)
        .map_err(|error| SearchError::Unavailable(format!("the reply cannot be read: {error}")))?;
    let hit = |raw: Raw| Hit {
        bucket: raw.source.bucket,
        key: raw.source.key,
        title: raw.source.title,
        size: raw.source.size,
        source_modified: raw.source.source_modified,
        score: raw.score.unwrap_or(0.0),
        highlights: raw.highlight.into_values().flatten().collect(),
    };
    Ok(found.hits.hits.into_iter().map(hit).collect())
}
