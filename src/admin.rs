//! What may be asked of a running worker: its status page, `/status`, `/metrics` (Prometheus text), `/healthz`, `/readyz`; and,
//! with the token, to pause and to resume it.
//!
//! Promises that each answer shows the books as they are at that instant, under their one lock (P10), that nobody who asks can
//! slow the worker (few connections, short ones, small requests), and that a pause made here is one hand of the gate, as
//! SIGUSR1 is. Decides nothing else, and a worker whose port is taken works without it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Body;
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::config::Secret;
use crate::events::{self, Event};
use crate::message::detail::printable;
use crate::metrics::{Facts, prometheus};

mod door;
mod history;
mod page;
mod ready;
mod status;

use door::Refused;
use history::{History, STEP};
use page::{PAGE, POLICY};
use ready::Readiness;
use status::Hands;

/// Connections at once; another waits in the kernel's queue.
const CONNECTIONS: usize = 16;
/// A connection is over after this, whatever it does.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
/// Who says a wrong token waits: with so few connections, nobody guesses one.
const WRONG_TOKEN: Duration = Duration::from_secs(1);
/// A request is a few headers; the body of a pause is its reason.
const HEADERS: usize = 16 * 1024;
const REASON_BYTES: usize = 2 * 1024;
const REASON_CHARS: usize = 400;
/// The hand that holds the gate.
const HAND: &str = "page";
const BY: &str = "status page";
const TEXT: &str = "text/plain; charset=utf-8";
/// Version of the text format that we write.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLACES: &str = "there are /, /status, /metrics, /healthz and /readyz\n";

/// The listener of one worker.
pub struct Admin {
    listener: TcpListener,
    office: Arc<Office>,
}

/// What answers take.
struct Office {
    facts: Arc<Facts>,
    token: Option<Secret>,
    history: History,
    hands: Hands,
}

impl Admin {
    /// Takes the port; `None`, and a line, where it cannot be had: several workers on one host are normal. Without a token
    /// nobody can pause here.
    pub async fn open(address: SocketAddr, facts: Arc<Facts>, token: Option<Secret>) -> Option<Self> {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                let office = Office { facts, token, history: History::default(), hands: Hands::default() };
                Some(Self { listener, office: Arc::new(office) })
            }
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
        tokio::join!(self.office.remember(), self.answer());
    }

    async fn answer(&self) {
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
            let office = Arc::clone(&self.office);
            tokio::spawn(async move {
                let answer = service_fn(|request: Request<hyper::body::Incoming>| {
                    let office = Arc::clone(&office);
                    async move { Ok::<_, Infallible>(office.respond(request).await) }
                });
                let mut http = http1::Builder::new();
                http.timer(TokioTimer::new()).max_buf_size(HEADERS);
                // Who breaks off or takes too long is its own trouble.
                let connection = http.serve_connection(TokioIo::new(stream), answer);
                drop(tokio::time::timeout(CONNECTION_LIMIT, connection).await);
                drop(place);
            });
        }
    }
}

type Answer = Response<Full<Bytes>>;

impl Office {
    async fn remember(&self) {
        let mut ticks = tokio::time::interval(STEP);
        loop {
            ticks.tick().await;
            self.history.note(self.facts.reading());
        }
    }

    async fn respond<B: Body<Error: std::error::Error + Send + Sync + 'static>>(&self, request: Request<B>) -> Answer {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/metrics") => {
                let now = self.facts.reading();
                now.books.clone().checked();
                answer(StatusCode::OK, METRICS, prometheus(&now))
            }
            (&Method::GET, "/healthz") => answer(StatusCode::OK, TEXT, "ok\n".into()),
            (&Method::GET, "/readyz") => {
                let ready = Readiness::of(&self.facts, &self.facts.reading());
                let code = if ready.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                answer(code, TEXT, ready.text())
            }
            (&Method::GET, "/") => match door::may_look(request.headers()) {
                Ok(()) => page(),
                Err(refused) => turned_away(refused),
            },
            (&Method::GET, "/status") => match door::may_look(request.headers()) {
                Ok(()) => self.status().await,
                Err(refused) => turned_away(refused),
            },
            (&Method::POST, "/pause" | "/resume") => match door::may_act(request.headers(), self.token.as_ref()) {
                Ok(()) => self.act(request).await,
                Err(refused) => {
                    if refused == Refused::WrongToken {
                        tokio::time::sleep(WRONG_TOKEN).await;
                    }
                    turned_away(refused)
                }
            },
            (&Method::GET, "/pause" | "/resume") => {
                answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only POST, with the token\n".into())
            }
            (&Method::GET, _) => answer(StatusCode::NOT_FOUND, TEXT, PLACES.into()),
            _ => answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".into()),
        }
    }

    async fn status(&self) -> Answer {
        let status = status::status(&self.facts, &self.history, &self.hands, self.token.is_some()).await;
        answer(StatusCode::OK, "application/json", status.to_string() + "\n")
    }

    async fn act<B: Body<Error: std::error::Error + Send + Sync + 'static>>(&self, request: Request<B>) -> Answer {
        let gate = &self.facts.gate;
        if request.uri().path() == "/resume" {
            gate.resume(HAND, BY);
            let others: Vec<String> = gate.seen().holds.into_iter().map(|hold| hold.by).collect();
            let said = match others.as_slice() {
                [] => "resumed\n".to_owned(),
                others => format!("taken back; still paused by {}\n", printable(&others.join(", "), REASON_CHARS)),
            };
            return answer(StatusCode::OK, TEXT, said);
        }
        let Ok(body) = Limited::new(request.into_body(), REASON_BYTES).collect().await else {
            return answer(StatusCode::PAYLOAD_TOO_LARGE, TEXT, "the reason is too long\n".into());
        };
        let body = body.to_bytes();
        let reason = printable(String::from_utf8_lossy(&body).trim(), REASON_CHARS);
        gate.pause(HAND, BY, if reason.is_empty() { "no reason was given" } else { &reason });
        answer(StatusCode::OK, TEXT, "paused: work in hand is finished, and no new poll is sent\n".into())
    }
}

fn turned_away(refused: Refused) -> Answer {
    let code = match refused {
        Refused::Name => StatusCode::MISDIRECTED_REQUEST,
        Refused::Origin | Refused::NoToken | Refused::WrongToken => StatusCode::FORBIDDEN,
    };
    answer(code, TEXT, refused.why().into())
}

fn page() -> Answer {
    let mut page = answer(StatusCode::OK, "text/html; charset=utf-8", PAGE.clone());
    // It is ASCII, whatever the hashes are.
    if let Ok(policy) = HeaderValue::from_str(&POLICY) {
        page.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    page
}

fn answer(code: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
#[path = "admin/tests.rs"]
mod tests;
