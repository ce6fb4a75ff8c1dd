//! The index looked through, and tombstones taken out of it: [`Catalogue`] on OpenSearch.
//!
//! Promises that a partial answer is an error, and that nothing is removed but through an alias that is there: a delete
//! with an external version would create an index of that name. Knows no record.

use async_trait::async_trait;
use bytes::Bytes;
use opensearch::http::Method;
use opensearch::http::headers::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};

use super::reply::{one_line, whole_trouble};
use super::wire::Ask;
use super::{OpenSearchIndex, in_path};
use crate::index::catalogue::{Catalogue, Entry, Held, Owner, Removal, Stretch};
use crate::index::{Search as _, SearchError};
use crate::message::DocumentId;

/// OpenSearch's limit of hits in one answer (`index.max_result_window`).
pub(super) const MAX_HITS: usize = 10_000;
/// Owners in one answer.
const MAX_OWNERS: usize = 1_000;

/// What a search says of itself, and what it was asked for.
#[derive(Deserialize)]
struct Searched<T> {
    timed_out: bool,
    #[serde(rename = "_shards")]
    shards: Shards,
    #[serde(flatten)]
    found: T,
}

/// Hits whose `_source` is this.
#[derive(Deserialize)]
pub(super) struct Found<S> {
    pub(super) hits: Hits<S>,
}

#[derive(Deserialize)]
struct Shards {
    failed: u64,
}

#[derive(Deserialize)]
pub(super) struct Hits<S> {
    pub(super) hits: Vec<Hit<S>>,
}

#[derive(Deserialize)]
pub(super) struct Hit<S> {
    #[serde(rename = "_id")]
    pub(super) id: DocumentId,
    #[serde(rename = "_version")]
    pub(super) version: u64,
    #[serde(rename = "_source")]
    pub(super) source: S,
}

#[derive(Deserialize, Default)]
struct Source {
    #[serde(default)]
    key: String,
    #[serde(default)]
    deleted: bool,
    extractor: Option<String>,
}

#[derive(Deserialize)]
struct Grouped {
    aggregations: Groups,
}

#[derive(Deserialize)]
struct Groups {
    owners: Buckets,
}

#[derive(Deserialize)]
struct Buckets {
    buckets: Vec<Bucket>,
    after_key: Option<Value>,
}

#[derive(Deserialize)]
struct Bucket {
    key: BucketKey,
}

#[derive(Deserialize)]
struct BucketKey {
    namespace: String,
    bucket: String,
}

#[derive(Deserialize)]
struct Docs {
    docs: Vec<Doc>,
}

#[derive(Deserialize)]
struct Doc {
    #[serde(rename = "_id")]
    id: String,
    #[serde(rename = "_version")]
    version: Option<u64>,
    found: Option<bool>,
    #[serde(rename = "_source", default)]
    source: Source,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Removals {
    items: Vec<RemovalItem>,
}

#[derive(Deserialize)]
struct RemovalItem {
    delete: Option<Deleted>,
}

#[derive(Deserialize)]
struct Deleted {
    #[serde(rename = "_id")]
    id: String,
    status: u16,
    error: Option<Value>,
}

fn unavailable(why: impl Into<String>) -> SearchError {
    SearchError::Unavailable(why.into())
}

#[async_trait]
impl Catalogue for OpenSearchIndex {
    async fn entries(&self, stretch: &Stretch, limit: usize) -> Result<Vec<Entry>, SearchError> {
        let body = json!({
            "size": limit.clamp(1, MAX_HITS),
            "_source": ["key", "deleted", "extractor"],
            "version": true,
            "track_total_hits": false,
            "timeout": self.server_wait,
            "query": query(stretch),
            // Keywords are in the order of their UTF-8 bytes, as S3 lists keys.
            "sort": [{ "key": "asc" }],
        });
        let path = format!("/{}/_search", in_path(&self.alias));
        let answer = self.read(&path, &[("allow_partial_search_results", "false")], &body).await?;
        let found: Found<Source> = whole(&answer)?;
        let entry = |hit: Hit<Source>| Entry {
            document_id: hit.id,
            key: hit.source.key,
            held: Held { revision: hit.version, deleted: hit.source.deleted },
            extractor: hit.source.extractor,
        };
        Ok(found.hits.hits.into_iter().map(entry).collect())
    }

    async fn owners(&self) -> Result<Vec<Owner>, SearchError> {
        let path = format!("/{}/_search", in_path(&self.alias));
        let (mut owners, mut after) = (Vec::new(), None);
        loop {
            let sources = ["namespace", "bucket"].map(|name| json!({ name: { "terms": { "field": name } } }));
            let mut composite = json!({ "size": MAX_OWNERS, "sources": sources });
            if let Some(after) = after.take() {
                composite["after"] = after;
            }
            let body = json!({
                "size": 0, "track_total_hits": false, "timeout": self.server_wait,
                "aggs": { "owners": { "composite": composite } },
            });
            let answer = self.read(&path, &[("allow_partial_search_results", "false")], &body).await?;
            let Grouped { aggregations: Groups { owners: Buckets { buckets, after_key } } } = whole(&answer)?;
            let more = buckets.len() == MAX_OWNERS;
            owners.extend(
                buckets.into_iter().map(|Bucket { key: BucketKey { namespace, bucket } }| Owner { namespace, bucket }),
            );
            match after_key.filter(|_| more) {
                Some(key) => after = Some(key),
                None => return Ok(owners),
            }
        }
    }

    async fn held(&self, ids: &[DocumentId]) -> Result<Vec<Option<Held>>, SearchError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let path = format!("/{}/_mget", in_path(&self.alias));
        let answer = self.read(&path, &[("_source_includes", "deleted")], &json!({ "ids": ids })).await?;
        held(&answer, ids)
    }

    async fn shows(&self, id: &DocumentId) -> Result<bool, SearchError> {
        let body = json!({
            "size": 1, "_source": false, "version": true, "timeout": self.server_wait,
            "query": { "ids": { "values": [id] } },
        });
        let path = format!("/{}/_search", in_path(&self.read_alias()));
        let answer = self.read(&path, &[("allow_partial_search_results", "false")], &body).await?;
        Ok(!whole::<Found<Option<IgnoredAny>>>(&answer)?.hits.hits.is_empty())
    }

    async fn remove(&self, documents: &[(DocumentId, u64)]) -> Result<Vec<Removal>, SearchError> {
        if documents.is_empty() {
            return Ok(Vec::new());
        }
        // `require_alias` is not heeded for deletes.
        self.probe().await?;
        let mut lines = String::new();
        for (id, revision) in documents {
            let action = json!({ "delete": { "_id": id, "version": revision, "version_type": "external_gte" } });
            lines.push_str(&action.to_string());
            lines.push('\n');
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        let ask = Ask {
            method: Method::Post,
            path: &self.bulk_path,
            query: &[("timeout", &self.server_wait)],
            headers,
            body: Some(Bytes::from(lines)),
            timeout: self.request_timeout,
        };
        let answer = self.wire.ask(ask).await.map_err(SearchError::Unavailable)?;
        match answer.status {
            200 => Ok(removals(&answer.body, documents)),
            status => Err(unavailable(whole_trouble(status, &answer.body))),
        }
    }
}

impl OpenSearchIndex {
    pub(super) async fn read(&self, path: &str, query: &[(&str, &str)], body: &Value) -> Result<Bytes, SearchError> {
        let ask = Ask {
            method: Method::Post,
            path,
            query,
            headers: HeaderMap::new(),
            body: Some(Bytes::from(body.to_string())),
            timeout: self.request_timeout,
        };
        let answer = self.wire.ask(ask).await.map_err(SearchError::Unavailable)?;
        match answer.status {
            200 => Ok(answer.body),
            404 => Err(unavailable(format!("alias {} is missing: run `worker setup-index`", self.alias))),
            status => Err(unavailable(whole_trouble(status, &answer.body))),
        }
    }
}

/// A part of the entries would make the others look missing.
pub(super) fn whole<T: DeserializeOwned>(answer: &[u8]) -> Result<T, SearchError> {
    let searched: Searched<T> =
        serde_json::from_slice(answer).map_err(|error| unavailable(format!("the reply cannot be read: {error}")))?;
    if searched.timed_out || searched.shards.failed > 0 {
        return Err(unavailable("only a part of the index answered"));
    }
    Ok(searched.found)
}

fn query(stretch: &Stretch) -> Value {
    let mut filters = vec![
        json!({ "term": { "namespace": stretch.namespace.as_str() } }),
        json!({ "term": { "bucket": stretch.bucket } }),
    ];
    if !stretch.prefix.is_empty() {
        filters.push(json!({ "prefix": { "key": stretch.prefix } }));
    }
    let mut range = serde_json::Map::new();
    range.extend(stretch.after.as_ref().map(|after| ("gt".to_owned(), json!(after))));
    range.extend(stretch.up_to.as_ref().map(|up_to| ("lte".to_owned(), json!(up_to))));
    if !range.is_empty() {
        filters.push(json!({ "range": { "key": range } }));
    }
    json!({ "bool": { "filter": filters } })
}

fn held(body: &[u8], ids: &[DocumentId]) -> Result<Vec<Option<Held>>, SearchError> {
    let Ok(Docs { docs }) = serde_json::from_slice(body) else { return Err(unavailable("the reply cannot be read")) };
    if docs.len() != ids.len() {
        return Err(unavailable(format!("{} documents in the reply to {}", docs.len(), ids.len())));
    }
    let one = |(doc, id): (Doc, &DocumentId)| {
        if doc.id != id.as_str() {
            return Err(unavailable("the reply names another document at this place"));
        }
        match (doc.found, doc.version, doc.error) {
            (Some(false), _, None) => Ok(None),
            (Some(true), Some(revision), None) => Ok(Some(Held { revision, deleted: doc.source.deleted })),
            (_, _, Some(error)) => Err(unavailable(one_line(&error.to_string(), 300))),
            (None | Some(true), _, None) => Err(unavailable("the reply does not say whether a document was found")),
        }
    };
    docs.into_iter().zip(ids).map(one).collect()
}

fn removals(body: &[u8], documents: &[(DocumentId, u64)]) -> Vec<Removal> {
    let unclear = |why: &str| documents.iter().map(|_| Removal::Unclear(why.to_owned())).collect();
    let Ok(Removals { items }) = serde_json::from_slice(body) else { return unclear("the reply cannot be read") };
    if items.len() != documents.len() {
        return unclear("the reply has not one item for each document");
    }
    let one = |(item, (id, _)): (RemovalItem, &(DocumentId, u64))| match item.delete {
        Some(deleted) if deleted.id == id.as_str() => match (deleted.status, deleted.error) {
            (200 | 404, None) => Removal::Removed,
            (409, Some(error)) if error["type"] == "version_conflict_engine_exception" => Removal::Newer,
            (status, error) => {
                let said = error.map(|error| error.to_string()).unwrap_or_default();
                Removal::Unclear(one_line(&format!("{status} {said}"), 300))
            }
        },
        Some(_) | None => Removal::Unclear("the reply names another document at this place".to_owned()),
    };
    items.into_iter().zip(documents).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Namespace;

    fn id(key: &str) -> DocumentId {
        DocumentId::of(&Namespace::parse("n").unwrap(), "b", key)
    }

    #[test]
    fn what_is_held_is_told_only_where_the_reply_is_whole() {
        let (a, b) = (id("a"), id("b"));
        let docs = |docs: Value| json!({ "docs": docs }).to_string().into_bytes();
        let good = docs(json!([
            { "_id": a, "_version": 7, "found": true, "_source": { "deleted": true } },
            { "_id": b, "found": false },
        ]));
        let ids = [a.clone(), b.clone()];
        assert_eq!(held(&good, &ids), Ok(vec![Some(Held { revision: 7, deleted: true }), None]));
        for bad in [
            docs(json!([{ "_id": a, "found": false }])),
            docs(json!([{ "_id": b, "found": false }, { "_id": a, "found": false }])),
            docs(json!([{ "_id": a, "found": false }, { "_id": b, "error": { "type": "index_not_found_exception" } }])),
            docs(json!([{ "_id": a, "found": true }, { "_id": b, "found": false }])),
            b"<html>".to_vec(),
        ] {
            assert!(held(&bad, &ids).is_err(), "{}", String::from_utf8_lossy(&bad));
        }
    }

    #[test]
    fn a_removal_is_believed_item_by_item() {
        let (a, b) = (id("a"), id("b"));
        let item = |id: &DocumentId, status: u16, error: Value| json!({ "delete": { "_id": id, "status": status, "error": error } });
        let told = |items: Value| {
            removals(json!({ "items": items }).to_string().as_bytes(), &[(a.clone(), 1), (b.clone(), 2)])
        };
        let conflict = json!({ "type": "version_conflict_engine_exception" });
        let both = told(json!([item(&a, 200, json!(null)), item(&b, 409, conflict.clone())]));
        assert_eq!(both, [Removal::Removed, Removal::Newer]);
        let gone = told(json!([item(&a, 404, json!(null)), item(&b, 429, json!({ "type": "block" }))]));
        assert!(matches!(&gone[..], [Removal::Removed, Removal::Unclear(_)]), "{gone:?}");
        for odd in
            [json!([item(&a, 200, json!(null))]), json!([item(&b, 200, json!(null)), item(&a, 200, json!(null))])]
        {
            assert!(told(odd).iter().all(|removal| matches!(removal, Removal::Unclear(_))));
        }
        let missing = json!({ "type": "index_not_found_exception" });
        let none = told(json!([item(&a, 404, missing.clone()), item(&b, 404, missing)]));
        assert!(none.iter().all(|removal| matches!(removal, Removal::Unclear(_))), "no index is not no document");
    }
}
