//! OpenSearch as a reader and an operator see it, not through the code under test.

use std::collections::BTreeMap;
use std::time::Duration;

use opensearch::OpenSearch;
use opensearch::http::Method;
use opensearch::http::headers::HeaderMap;
use opensearch::http::transport::Transport;
use serde_json::{Value, json};

pub struct Search {
    client: OpenSearch,
    /// Where it is.
    pub endpoint: String,
    /// The write alias.
    pub alias: String,
    /// Deletes the index in the end, and those that took its place.
    owned: bool,
}

pub fn endpoint() -> String {
    std::env::var("OPENSEARCH_ENDPOINT").expect("OPENSEARCH_ENDPOINT: run through `make test`")
}

impl Search {
    pub fn of(alias: &str) -> Self {
        Self::at(&endpoint(), alias, true)
    }

    fn at(endpoint: &str, alias: &str, owned: bool) -> Self {
        let client = OpenSearch::new(Transport::single_node(endpoint).unwrap());
        Self { client, endpoint: endpoint.to_owned(), alias: alias.to_owned(), owned }
    }

    /// On a node that ends with the test.
    pub fn on(node: &str, alias: &str) -> Self {
        Self::at(node, alias, false)
    }

    /// Of an index that somebody else will delete.
    pub fn borrowed(alias: &str) -> Self {
        Self::at(&endpoint(), alias, false)
    }

    pub async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let body = body.map(|body| body.to_string());
        let sent = self.client.send::<_, ()>(method, path, HeaderMap::new(), None, body, Some(Duration::from_secs(30)));
        let reply = sent.await.expect("the local stack answers");
        let status = reply.status_code().as_u16();
        (status, serde_json::from_slice(&reply.bytes().await.expect("a whole reply")).unwrap_or(Value::Null))
    }

    /// What the read alias shows for a query: the documents.
    pub async fn find(&self, query: Value) -> Vec<Value> {
        self.ask(Method::Post, &format!("/{}/_refresh", self.alias), None).await;
        let path = format!("/{}-search/_search", self.alias);
        let (status, reply) = self.ask(Method::Post, &path, Some(json!({ "query": query, "size": 10_000 }))).await;
        assert_eq!(status, 200, "{reply}");
        reply["hits"]["hits"].as_array().expect("hits").iter().map(|hit| hit["_source"].clone()).collect()
    }

    pub async fn by_key(&self, key: &str) -> Vec<Value> {
        self.find(json!({ "term": { "key": key } })).await
    }

    pub async fn by_phrase(&self, phrase: &str) -> Vec<Value> {
        self.find(json!({ "match_phrase": { "content": phrase } })).await
    }

    /// All that the read alias shows, as sorted keys.
    pub async fn keys(&self) -> Vec<String> {
        let found = self.find(json!({ "match_all": {} })).await;
        let mut keys: Vec<String> = found.iter().map(|one| one["key"].as_str().unwrap().to_owned()).collect();
        keys.sort();
        keys
    }

    /// All that the index holds of a bucket, deleted or not: by id, the version and the document.
    pub async fn held(&self, bucket: &str) -> BTreeMap<String, (u64, Value)> {
        self.ask(Method::Post, &format!("/{}/_refresh", self.alias), None).await;
        let query = json!({ "query": { "term": { "bucket": bucket } }, "size": 10_000, "version": true });
        let (status, reply) = self.ask(Method::Post, &format!("/{}/_search", self.alias), Some(query)).await;
        assert_eq!(status, 200, "{reply}");
        let held = |hit: &Value| {
            (hit["_id"].as_str().unwrap().to_owned(), (hit["_version"].as_u64().unwrap(), hit["_source"].clone()))
        };
        reply["hits"]["hits"].as_array().expect("hits").iter().map(held).collect()
    }

    /// The document as the index holds it, deleted or not.
    pub async fn stored(&self, id: &str) -> Option<Value> {
        let (_, found) = self.ask(Method::Get, &format!("/{}/_doc/{id}", self.alias), None).await;
        found["found"].as_bool()?.then(|| found["_source"].clone())
    }
}

/// The server's limit of shards is for all tests together.
impl Drop for Search {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        let names: Vec<String> = (1..=3).map(|number| format!("{}-v{number}", self.alias)).collect();
        let (endpoint, path) = (self.endpoint.clone(), format!("/{}?ignore_unavailable=true", names.join(",")));
        let gone = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let client = OpenSearch::new(Transport::single_node(&endpoint).unwrap());
            runtime.block_on(async {
                let sent = client.send::<String, ()>(Method::Delete, &path, HeaderMap::new(), None, None, None);
                drop(sent.await);
            });
        });
        drop(gone.join());
    }
}
