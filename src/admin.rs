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

use crate::books::{Books, BooksLine};
use crate::events::{self, Event};

/// Scrapers at once; another waits in the kernel's queue.
const CONNECTIONS: usize = 16;
/// A connection is over after this, whatever it does.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
/// Version of the text format that we write.
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// The listener of one worker.
pub struct Admin {
    listener: TcpListener,
    books: Arc<Books>,
    started_ms: u64,
}

impl Admin {
    /// Takes the port; `None`, and a line, where it cannot be had: several workers on one host are normal.
    pub async fn open(address: SocketAddr, books: Arc<Books>, started_ms: u64) -> Option<Self> {
        match TcpListener::bind(address).await {
            Ok(listener) => Some(Self { listener, books, started_ms }),
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
        let (room, started_ms) = (Arc::new(Semaphore::new(CONNECTIONS)), self.started_ms);
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
            let books = Arc::clone(&self.books);
            tokio::spawn(async move {
                let answer = service_fn(|request: Request<hyper::body::Incoming>| {
                    let response = respond(request.method(), request.uri().path(), &books, started_ms);
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

fn respond(method: &Method, path: &str, books: &Books, started_ms: u64) -> Response<Full<Bytes>> {
    let text = |status, kind: HeaderValue, body: String| {
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    };
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    match (method, path) {
        (&Method::GET, "/metrics") => {
            text(StatusCode::OK, METRICS, metrics(&books.snapshot(false).checked(), started_ms))
        }
        (&Method::GET, "/healthz") => text(StatusCode::OK, plain, "ok\n".into()),
        (&Method::GET, _) => text(StatusCode::NOT_FOUND, plain, "there are /metrics and /healthz\n".into()),
        _ => text(StatusCode::METHOD_NOT_ALLOWED, plain, "only GET\n".into()),
    }
}

/// The books as Prometheus text; the table of names in README is these (a test compares them).
fn metrics(line: &BooksLine, started_ms: u64) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, series: &[(&str, u64)]| {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for (labels, value) in series {
            text.push_str(&format!("{name}{labels} {value}\n"));
        }
    };
    family("quittance_messages_received_total", "counter", "Receipts taken on.", &[("", line.received)]);
    family(
        "quittance_messages_settled_total",
        "counter",
        "Receipts that ended, by what SQS acknowledged.",
        &[
            ("{settlement=\"deleted\"}", line.deleted),
            ("{settlement=\"dead_lettered\"}", line.dead_lettered),
            ("{settlement=\"returned\"}", line.returned),
            ("{settlement=\"lease_lost\"}", line.lease_lost),
        ],
    );
    family(
        "quittance_messages_deleted_total",
        "counter",
        "Deleted receipts, by outcome of their work.",
        &[
            ("{outcome=\"done\"}", line.done),
            ("{outcome=\"superseded\"}", line.superseded),
            ("{outcome=\"skipped\"}", line.skipped),
        ],
    );
    family("quittance_messages_in_flight", "gauge", "Receipts in hand.", &[("", line.in_flight)]);
    family("quittance_changes_parsed_total", "counter", "Changes found in messages.", &[("", line.changes_parsed)]);
    family(
        "quittance_changes_total",
        "counter",
        "Changes, by how their work ended.",
        &[
            ("{outcome=\"done\"}", line.changes_done),
            ("{outcome=\"superseded\"}", line.changes_superseded),
            ("{outcome=\"skipped\"}", line.changes_skipped),
            ("{outcome=\"retried\"}", line.changes_retried),
            ("{outcome=\"rejected\"}", line.changes_rejected),
            ("{outcome=\"abandoned\"}", line.changes_abandoned),
        ],
    );
    family(
        "quittance_documents_offered_total",
        "counter",
        "Documents offered to the index.",
        &[("", line.documents_offered)],
    );
    family(
        "quittance_documents_total",
        "counter",
        "Documents, by what became of them at first.",
        &[
            ("{end=\"indexed\"}", line.documents_indexed),
            ("{end=\"parked\"}", line.documents_parked),
            ("{end=\"failed\"}", line.documents_failed),
        ],
    );
    family(
        "quittance_documents_replayed_total",
        "counter",
        "Parked documents that reached the index later.",
        &[("", line.replayed)],
    );
    family(
        "quittance_books_balanced",
        "gauge",
        "1 while the sums above hold; 0 is a defect of ours.",
        &[("", line.balanced.into())],
    );
    let version = format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    family("quittance_build_info", "gauge", "The running version.", &[(&version, 1)]);
    family(
        "quittance_start_time_seconds",
        "gauge",
        "When this process started, in Unix seconds.",
        &[("", started_ms / 1000)],
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::books::End;
    use crate::outcome::OutcomeName;

    fn body(path: &str, books: &Books) -> (StatusCode, String) {
        let response = respond(&Method::GET, path, books, 1_795_305_600_000);
        let status = response.status();
        let body = futures_util::FutureExt::now_or_never(http_body_util::BodyExt::collect(response.into_body()));
        (status, String::from_utf8(body.unwrap().unwrap().to_bytes().to_vec()).unwrap())
    }

    #[test]
    fn a_scrape_shows_the_books_of_that_instant_and_whether_they_balance() {
        let books = Books::default();
        let number = books.received();
        let (status, text) = body("/metrics", &books);
        assert_eq!(status, StatusCode::OK);
        for line in
            ["quittance_messages_received_total 1", "quittance_messages_in_flight 1", "quittance_books_balanced 1"]
        {
            assert!(text.lines().any(|other| other == line), "{line} is not in:\n{text}");
        }
        books.settled(number, End::Deleted, OutcomeName::Done);
        books.settled(number, End::Returned, OutcomeName::Done);
        let (_, text) = body("/metrics", &books);
        for line in [
            "quittance_messages_settled_total{settlement=\"deleted\"} 1",
            "quittance_messages_deleted_total{outcome=\"done\"} 1",
            "quittance_books_balanced 0",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn every_field_of_the_books_has_a_series_of_its_own() {
        let books = serde_json::to_value(BooksLine::default()).unwrap();
        let numbers: serde_json::Map<_, _> = books
            .as_object()
            .unwrap()
            .iter()
            .enumerate()
            .map(|(at, (name, old))| {
                let value = if old.is_u64() { (1000 + at).into() } else { old.clone() };
                (name.clone(), value)
            })
            .collect();
        let line: BooksLine = serde_json::from_value(numbers.clone().into()).unwrap();
        let text = metrics(&line, 0);
        for (name, value) in numbers.iter().filter(|(_, value)| value.is_u64()) {
            let found = text.lines().filter(|line| line.ends_with(&format!(" {value}"))).count();
            assert_eq!(found, 1, "{name}:\n{text}");
        }
    }

    #[test]
    fn the_table_in_the_readme_is_the_metrics() {
        let text = metrics(&BooksLine::default(), 0);
        let names: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let readme = include_str!("../README.md");
        let table: Vec<&str> =
            readme.lines().filter_map(|line| line.strip_prefix("| `quittance_")?.split('`').next()).collect();
        assert_eq!(table, names.iter().map(|name| &name["quittance_".len()..]).collect::<Vec<_>>());
    }

    #[test]
    fn only_get_is_answered_and_only_what_is_there() {
        let books = Books::default();
        assert_eq!(body("/healthz", &books), (StatusCode::OK, "ok\n".to_owned()));
        assert_eq!(body("/", &books).0, StatusCode::NOT_FOUND);
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::HEAD] {
            assert_eq!(respond(&method, "/metrics", &books, 0).status(), StatusCode::METHOD_NOT_ALLOWED, "{method}");
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_told_and_the_worker_goes_on() {
        let first = Admin::open("127.0.0.1:0".parse().unwrap(), Arc::default(), 0).await.unwrap();
        let taken = first.address().unwrap();
        assert!(Admin::open(taken, Arc::default(), 0).await.is_none());
    }
}
