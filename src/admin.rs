//! What a scraper may ask of a running worker: `/metrics` (Prometheus text) and `/healthz`.
//!
//! Promises that each scrape shows the books as they are at that instant, under their one lock (P10), and that no
//! scraper can slow the worker: few connections, short ones, and nothing but GET. Decides nothing, and a worker whose
//! port is taken works without it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::config::Secret;
use crate::events::{self, Event};
use crate::metrics::{Facts, prometheus};

/// Scrapers at once; another waits in the kernel's queue.
const CONNECTIONS: usize = 16;
/// A connection is over after this, whatever it does.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
/// Version of the text format that we write.
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// The listener of one worker.
pub struct Admin {
    listener: TcpListener,
    facts: Arc<Facts>,
    #[expect(dead_code)]
    token: Option<Secret>,
}

impl Admin {
    /// Takes the port; `None`, and a line, where it cannot be had: several workers on one host are normal.
    pub async fn open(address: SocketAddr, facts: Arc<Facts>, token: Option<Secret>) -> Option<Self> {
        match TcpListener::bind(address).await {
            Ok(listener) => Some(Self { listener, facts, token }),
            Err(error) => {
                let detail = format!(
                    "ADMIN_LISTEN: cannot listen on {address}: {error}; the worker runs without metrics \
                     (give each worker of a host its own port, or `off`)"
                );
                events::Notice { detail }.emit();
                None
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Answers until the process ends, the drain included.
    pub async fn serve(self) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                // Out of files, or a peer that is gone already: neither is mended by asking again at once.
                Err(_) => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            let facts = Arc::clone(&self.facts);
            tokio::spawn(async move {
                let answer = service_fn(|request: Request<hyper::body::Incoming>| {
                    let response = respond(request.method(), request.uri().path(), &facts);
                    async move { Ok::<_, Infallible>(response) }
                });
                let connection =
                    http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answer);
                // A scraper that breaks off or takes too long is its own trouble.
                drop(tokio::time::timeout(CONNECTION_LIMIT, connection).await);
                drop(place);
            });
        }
    }
}

fn respond(method: &Method, path: &str, facts: &Facts) -> Response<Full<Bytes>> {
    let text = |status, kind: HeaderValue, body: String| {
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    };
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    match (method, path) {
        (&Method::GET, "/metrics") => text(StatusCode::OK, METRICS, prometheus(&facts.reading())),
        (&Method::GET, "/healthz") => text(StatusCode::OK, plain, "ok\n".into()),
        (&Method::GET, _) => text(StatusCode::NOT_FOUND, plain, "there are /metrics and /healthz\n".into()),
        _ => text(StatusCode::METHOD_NOT_ALLOWED, plain, "only GET\n".into()),
    }
}
