//! The one way to OpenSearch: every request of this client goes through [`Wire::ask`].
//!
//! Promises a timeout around all of a request (credentials, connect, send, wait, read), a quick answer when the
//! host does not take connections, and that a reply from elsewhere is not believed. Knows no bulk and no mapping.

use std::error::Error;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_credential_types::provider::SharedCredentialsProvider;
use bytes::Bytes;
use futures_util::future::select_ok;
use opensearch::OpenSearch;
use opensearch::auth::Credentials;
use opensearch::http::headers::HeaderMap;
use opensearch::http::transport::{SingleNodeConnectionPool, TransportBuilder};
use opensearch::http::{Method, Url};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

use super::credentials::Remembered;
use super::reply::one_line;
use super::{Auth, OpenSearchSettings};

/// After an answer, the host counts as reachable for so long: under load nobody knocks.
const FRESH: Duration = Duration::from_secs(2);
/// Of a host with very many addresses, only so many are tried.
const MAX_ADDRESSES: usize = 8;
/// A reply longer than this is not read: 10,000 refusals fit.
const MAX_REPLY: u64 = 32 * 1024 * 1024;

/// One request.
pub(super) struct Ask<'a> {
    pub method: Method,
    pub path: &'a str,
    pub query: &'a [(&'a str, &'a str)],
    pub headers: HeaderMap,
    pub body: Option<Bytes>,
    pub timeout: Duration,
}

/// What came back, whatever its status.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub body: Bytes,
}

/// The client of one endpoint.
pub(super) struct Wire {
    client: OpenSearch,
    home: Url,
    connect_timeout: Duration,
    /// When the host last answered; `None` after a request that got no answer.
    heard: Mutex<Option<Instant>>,
    credentials: Option<Remembered>,
}

/// By hand: the client's own `Debug` shows the password.
impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire({})", self.home)
    }
}

impl Wire {
    /// Connects to nothing yet.
    pub(super) fn new(settings: OpenSearchSettings) -> Result<Self, String> {
        let home = endpoint(&settings.endpoint)?;
        // No proxy: the text of documents goes to the endpoint and nowhere else, whatever `HTTP_PROXY` says.
        let mut builder = TransportBuilder::new(SingleNodeConnectionPool::new(home.clone()))
            .disable_proxy()
            .timeout(settings.request_timeout);
        let mut credentials = None;
        match settings.auth {
            Auth::None => {}
            Auth::Basic { username, password } => builder = builder.auth(Credentials::Basic(username, password)),
            Auth::SigV4 { sdk_config } => {
                let provider = sdk_config.credentials_provider().ok_or("no AWS credentials are configured")?;
                let region = sdk_config.region().ok_or("no AWS region is configured: set AWS_REGION")?.clone();
                let remembered = Remembered::new(provider);
                let shared = SharedCredentialsProvider::new(remembered.clone());
                credentials = Some(remembered);
                builder = builder.service_name(service(&home)).auth(Credentials::AwsSigV4(shared, region));
            }
        }
        let transport = builder.build().map_err(|error| format!("cannot build the OpenSearch client: {error}"))?;
        Ok(Self {
            client: OpenSearch::new(transport),
            home,
            connect_timeout: settings.connect_timeout,
            heard: Mutex::new(None),
            credentials,
        })
    }

    /// Asks, and reads the whole reply. The error is a line for a log.
    pub(super) async fn ask(&self, ask: Ask<'_>) -> Result<Answer, String> {
        let limit = ask.timeout;
        // Around everything: the client's own timeout begins after the credentials were asked for.
        let answer = match timeout(limit, self.knock_and_ask(ask)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {limit:?}")),
        };
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = answer.is_ok().then(Instant::now);
        if let (Ok(Answer { status: 401 | 403, .. }), Some(credentials)) = (&answer, &self.credentials) {
            credentials.forget().await;
        }
        answer
    }

    async fn knock_and_ask(&self, ask: Ask<'_>) -> Result<Answer, String> {
        self.knock().await?;
        let to = self.home.join(ask.path.trim_start_matches('/')).map_err(|error| error.to_string())?;
        let response = self
            .client
            .send(ask.method, ask.path, ask.headers, Some(ask.query), ask.body, Some(ask.timeout))
            .await
            .map_err(|error| whole(&error))?;
        // The crate follows redirects and cannot be told not to: what it brings from there is not OpenSearch's word.
        let from = response.url();
        if from.origin() != to.origin() || from.path() != to.path() {
            let elsewhere = one_line(from.host_str().unwrap_or_default(), 80);
            return Err(format!("redirected to {elsewhere}, which is not believed: check the endpoint"));
        }
        let status = response.status_code().as_u16();
        if response.content_length().is_some_and(|length| length > MAX_REPLY) {
            return Err(format!("status {status} with a reply of more than {MAX_REPLY} bytes"));
        }
        let body = response.bytes().await.map_err(|error| format!("status {status}, then: {}", whole(&error)))?;
        Ok(Answer { status, body })
    }

    /// The crate has no connect timeout, so that a host which swallows packets would cost a whole request timeout
    /// each time. A connection of our own tells: made only when the host has not answered for a moment.
    async fn knock(&self) -> Result<(), String> {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        let host = self.home.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let port = self.home.port_or_known_default().unwrap_or(443);
        let open = async {
            let addresses = lookup_host((host, port)).await.map_err(|error| format!("cannot find {host}: {error}"))?;
            let tries: Vec<_> = addresses.take(MAX_ADDRESSES).map(|a| Box::pin(TcpStream::connect(a))).collect();
            if tries.is_empty() {
                return Err(format!("cannot find {host}: no address"));
            }
            // All at once: one family of addresses may be a dead end.
            select_ok(tries).await.map(drop).map_err(|error| format!("cannot connect to {host}:{port}: {error}"))
        };
        let waited = self.connect_timeout;
        timeout(waited, open).await.unwrap_or_else(|_| Err(format!("{host}:{port} is silent for {waited:?}")))
    }
}

/// Signing name: Serverless has its own.
fn service(home: &Url) -> &'static str {
    if home.host_str().is_some_and(|host| host.ends_with(".aoss.amazonaws.com")) { "aoss" } else { "es" }
}

/// The endpoint as a base for paths.
fn endpoint(text: &str) -> Result<Url, String> {
    let mistake = |why: &str| format!("OpenSearch endpoint {why}: write it as https://host[:port]");
    let mut url = Url::parse(text).map_err(|error| mistake(&format!("is not a URL ({error})")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(mistake("is not an http or https address"));
    }
    // It is printed in errors and by `check`.
    if !url.username().is_empty() || url.password().is_some() {
        return Err(mistake("has credentials in it, which belong in OPENSEARCH_USERNAME and OPENSEARCH_PASSWORD"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(mistake("has a query or a fragment"));
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url)
}

/// An error with its causes: the client's own line names only the URL.
fn whole(error: &dyn Error) -> String {
    let mut parts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        // Wrappers repeat what they wrap.
        let text = error.to_string();
        if parts.last() != Some(&text) {
            parts.push(text);
        }
        cause = error.source();
    }
    one_line(&parts.join(": "), 300)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_address_without_secrets() {
        for good in ["http://127.0.0.1:9200", "https://x.es.amazonaws.com", "https://h/prefix", "http://[::1]:1/"] {
            assert!(endpoint(good).unwrap().path().ends_with('/'), "{good}");
        }
        for bad in ["", "localhost:9200", "ftp://h", "https://u:p@h", "https://u@h", "https://h?x=1", "https://h#f"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
        assert!(!endpoint("https://user:hunter2@h").unwrap_err().contains("hunter2"));
    }

    #[test]
    fn serverless_is_signed_for_by_its_own_name() {
        let named = |text| service(&Url::parse(text).unwrap());
        assert_eq!(named("https://abc.eu-central-1.aoss.amazonaws.com"), "aoss");
        assert_eq!(named("https://search-x.eu-central-1.es.amazonaws.com"), "es");
    }
}
