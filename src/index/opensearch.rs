//! The index behind the port [`Search`]: OpenSearch, through its write alias.
//!
//! Promises that a document is called durable only when the reply names it at its place and says so (P4, P8),
//! that nothing is written but through an alias that exists (`require_alias`), and that no request is without a
//! timeout. Knows no S3, no record, no breaker: whoever calls decides when to try, and what to park.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::SdkConfig;
use opensearch::http::Method;
use opensearch::http::headers::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use self::alias::Standing;
use self::reply::{classify, one_line, whole_trouble};
use self::wire::{Ask, Wire};
use super::{IndexItem, ItemAnswer, Search, SearchError};

mod alias;
mod analyzer;
mod catalogue;
mod credentials;
mod find;
mod mapping;
mod provenance;
mod reply;
mod request;
mod setup;
mod succession;
mod wire;

pub use analyzer::{Analyzer, AnalyzerChoice};
pub use find::{Hit, MARK};
pub use setup::{Examine, SetupError, SetupReport, SetupStep};
pub use succession::OpenSearchSuccession;

/// How requests prove who sends them.
#[derive(Clone)]
pub enum Auth {
    /// Not at all.
    None,
    /// A user of the domain.
    Basic {
        /// The user.
        username: String,
        /// Never shown.
        password: String,
    },
    /// Signed as AWS requests are: with the region and credentials of this configuration.
    SigV4 {
        /// Where region and credentials come from.
        sdk_config: Box<SdkConfig>,
    },
}

/// By hand, so that a password cannot reach a log line.
impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Auth::None => f.write_str("None"),
            Auth::Basic { username, .. } => write!(f, "Basic({username:?}, ..)"),
            Auth::SigV4 { .. } => f.write_str("SigV4(..)"),
        }
    }
}

/// What the client needs to know.
#[derive(Clone, Debug)]
pub struct OpenSearchSettings {
    /// `https://host[:port][/path]`, without credentials in it.
    pub endpoint: String,
    /// The write alias; the read alias is `{index}-search`.
    pub index: String,
    /// Proof of identity.
    pub auth: Auth,
    /// All of one request: connect, credentials, send, wait, read the reply.
    pub request_timeout: Duration,
    /// How long a host may stay silent before it counts as unreachable. Part of `request_timeout`.
    pub connect_timeout: Duration,
}

/// OpenSearch behind one write alias.
#[derive(Debug)]
pub struct OpenSearchIndex {
    wire: Wire,
    alias: String,
    bulk_path: String,
    /// The server's own wait for a shard: half of ours, so that it says why before we stop listening.
    server_wait: String,
    request_timeout: Duration,
}

impl OpenSearchIndex {
    /// Builds the client; connects to nothing. The error is a sentence for the operator.
    pub fn new(settings: OpenSearchSettings) -> Result<Self, String> {
        check_index_name(&settings.index)?;
        let request_timeout = settings.request_timeout;
        Ok(Self {
            bulk_path: format!("/{}/_bulk", in_path(&settings.index)),
            alias: settings.index.clone(),
            server_wait: format!("{}ms", (request_timeout / 2).as_millis().max(1)),
            request_timeout,
            wire: Wire::new(settings)?,
        })
    }

    /// The write alias.
    pub fn write_alias(&self) -> &str {
        &self.alias
    }

    /// The filtered alias that searches use: soft-deleted documents are not in it.
    pub fn read_alias(&self) -> String {
        format!("{}-search", self.alias)
    }
}

#[async_trait]
impl Search for OpenSearchIndex {
    async fn bulk(&self, items: &[IndexItem]) -> Result<Vec<ItemAnswer>, SearchError> {
        // A source that is not an object on a line of its own would shift the lines after it: it is never sent.
        let mut answers: Vec<Option<ItemAnswer>> =
            items.iter().map(|item| request::unfit(&item.source).map(ItemAnswer::Refused)).collect();
        let sent: Vec<IndexItem> =
            items.iter().zip(&answers).filter(|(_, unfit)| unfit.is_none()).map(|(item, _)| item.clone()).collect();
        if !sent.is_empty() {
            let mut said = self.send_bulk(sent).await?.into_iter();
            for open in answers.iter_mut().filter(|answer| answer.is_none()) {
                *open = said.next();
            }
        }
        Ok(answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(|| ItemAnswer::Unknown("no answer".into())))
            .collect())
    }

    async fn probe(&self) -> Result<(), SearchError> {
        let filter = "*.aliases,*.settings.index.blocks,error.type,error.reason,status";
        let ask = Ask {
            method: Method::Get,
            path: &format!("/{}", in_path(&self.alias)),
            query: &[("filter_path", filter)],
            headers: HeaderMap::new(),
            body: None,
            timeout: self.request_timeout,
        };
        let reply = self.wire.ask(ask).await.map_err(SearchError::Unavailable)?;
        let sick = |why: String| Err(SearchError::Unavailable(why));
        match reply.status {
            200 => match Standing::read(&self.alias, &reply.body) {
                Standing::Alias { write: Some(index), .. } => match alias::blocked(&index, &reply.body) {
                    Some(block) => sick(format!("index {index} is blocked: {block}")),
                    None => Ok(()),
                },
                Standing::Alias { write: None, .. } => {
                    sick(format!("alias {} has no write index: run `worker setup-index`", self.alias))
                }
                Standing::Index | Standing::Missing => sick(format!(
                    "{} is an index, not an alias: run `worker setup-index`, which says how to change that",
                    self.alias
                )),
                Standing::Unreadable => sick("unknown: the reply cannot be read".into()),
            },
            404 => sick(format!("alias {} is missing: run `worker setup-index`", self.alias)),
            status => sick(whole_trouble(status, &reply.body)),
        }
    }

    fn request_timeout(&self) -> Duration {
        self.request_timeout
    }
}

impl OpenSearchIndex {
    async fn send_bulk(&self, items: Vec<IndexItem>) -> Result<Vec<ItemAnswer>, SearchError> {
        let ids: Vec<_> = items.iter().map(|item| item.document_id.clone()).collect();
        // Compressing megabytes takes tens of milliseconds: not on a thread that others wait for.
        let packed = tokio::task::spawn_blocking(move || request::gzipped(&items)).await;
        let body = match packed {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => return Err(SearchError::Unavailable(format!("cannot build the request: {error}"))),
            Err(error) => return Err(SearchError::Unavailable(format!("cannot build the request: {error}"))),
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let ask = Ask {
            method: Method::Post,
            path: &self.bulk_path,
            query: &[("require_alias", "true"), ("timeout", &self.server_wait)],
            headers,
            body: Some(body),
            timeout: self.request_timeout,
        };
        let reply = self.wire.ask(ask).await.map_err(SearchError::Unavailable)?;
        classify(reply.status, &reply.body, &ids)
    }
}

/// Checks an index or alias name as OpenSearch would. The error is a sentence for the operator.
pub fn check_index_name(name: &str) -> Result<(), String> {
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || c.is_uppercase() || r#"\/*?"<>|,#:"#.contains(c);
    // 255 bytes is OpenSearch's limit; the longest name made of this one is `{index}-search`.
    let fits = !name.is_empty()
        && name.len() <= 255 - "-search".len()
        && !name.starts_with(['-', '_', '+', '.'])
        && !name.chars().any(forbidden);
    if fits {
        Ok(())
    } else {
        Err(format!(
            "index {:?} must be 1 to 248 bytes, in lower case, without spaces or any of \\ / * ? \" < > | , # : and \
             must not start with - _ + or .",
            one_line(name, 80)
        ))
    }
}

/// A name as one segment of a path.
fn in_path(name: &str) -> String {
    const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
    utf8_percent_encode(name, SEGMENT).to_string()
}

#[cfg(test)]
mod tests;
