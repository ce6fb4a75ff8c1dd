//! Documents by the message that wrote them: [`Provenance`] on OpenSearch, through the write alias.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::catalogue::{Found, Hit, MAX_HITS, whole};
use super::{OpenSearchIndex, in_path};
use crate::index::SearchError;
use crate::index::catalogue::Held;
use crate::index::provenance::{Provenance, Written};
use crate::message::{MessageId, Namespace};

#[derive(Deserialize)]
struct Source {
    bucket: String,
    key: String,
    #[serde(default)]
    deleted: bool,
}

#[async_trait]
impl Provenance for OpenSearchIndex {
    async fn written_by(
        &self,
        namespace: &Namespace,
        message: &MessageId,
        limit: usize,
    ) -> Result<Vec<Written>, SearchError> {
        let path = format!("/{}/_search", in_path(self.write_alias()));
        let body = question(namespace, message, limit);
        let answer = self.read(&path, &[("allow_partial_search_results", "false")], &body).await?;
        let found: Found<Source> = whole(&answer)?;
        let written = |hit: Hit<Source>| Written {
            document_id: hit.id,
            bucket: hit.source.bucket,
            key: hit.source.key,
            held: Held { revision: hit.version, deleted: hit.source.deleted },
        };
        Ok(found.hits.hits.into_iter().map(written).collect())
    }
}

fn question(namespace: &Namespace, message: &MessageId, limit: usize) -> Value {
    let named = ["message_id", "original_message_id"].map(|field| json!({ "term": { field: message.0 } }));
    json!({
        "size": limit.clamp(1, MAX_HITS),
        "_source": ["bucket", "key", "deleted"],
        "version": true,
        "track_total_hits": false,
        "timeout": "4s", // a person waits
        "query": { "bool": {
            "filter": [{ "term": { "namespace": namespace.as_str() } }],
            "should": named,
            "minimum_should_match": 1,
        } },
        "sort": [{ "revision": "desc" }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_id_is_asked_for_and_only_in_the_namespace() {
        let asked = question(&Namespace::parse("prod").unwrap(), &MessageId("m-1".into()), 0);
        let query = &asked["query"]["bool"];
        assert_eq!(query["filter"], json!([{ "term": { "namespace": "prod" } }]));
        let either = json!([{ "term": { "message_id": "m-1" } }, { "term": { "original_message_id": "m-1" } }]);
        assert_eq!((&query["should"], &query["minimum_should_match"], &asked["size"]), (&either, &json!(1), &json!(1)));
    }
}
