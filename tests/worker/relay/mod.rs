//! The proxy in front of a service: counts the exchanges that pass, and does to each what its rule says: holds it,
//! breaks it before or after its effect, answers in the service's words, or bends the reply on its way back. So a
//! worker can be met in the very step that a test is about, without a line of test code in it.
//!
//! Reads whole requests and replies (HTTP/1.1 without pipelining, which all three services speak here). On a runtime
//! of its own: a test that blocks does not stop it. Knows no worker and judges nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::BufReader;
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

pub mod answers;
mod connection;
mod entries;
mod http;

pub use answers::Answer;
pub use entries::Refuse;
use http::Whole;

type Rule = Box<dyn Fn(&Head) -> Fate + Send>;
type Rewrite = Box<dyn Fn(&Head) -> Option<Vec<u8>> + Send>;

/// A rule is asked again this often for what is held, whether it has changed or not.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// What happens to a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    Pass,
    /// Goes nowhere until the rule says otherwise: accepted, and never answered.
    Hold,
    /// The connection breaks; the request has no effect.
    Reset,
    /// This connection and all others break, and new ones are refused, until [`Relay::up`].
    Down,
    /// The proxy answers; the request has no effect.
    Answer(Answer),
    /// Is carried out, but its reply is lost: the connection breaks instead.
    LoseReply,
    /// Is carried out; its reply waits until the rule says otherwise.
    HoldReply,
    /// Is carried out so much later, also when nobody waits for it any more by then.
    Late(Duration),
    /// Is carried out; something is done to its reply.
    Bend(Bend),
    /// Some entries of the batch are refused.
    Refuse(Refuse),
}

impl Fate {
    /// The proxy must understand the reply: it may not come packed.
    fn reads_the_reply(&self) -> bool {
        matches!(self, Fate::Refuse(_) | Fate::Bend(Bend::Reversed))
    }
}

/// What happens to a reply. The byte counts in the body; in the middle of the head where there is no body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Bend {
    /// The connection ends at this byte.
    CutAt(usize),
    /// Nothing follows this byte, and the connection stays.
    StallAt(usize),
    /// From this byte on, two bytes a second.
    DripFrom(usize),
    /// A bit of the body is another one.
    Flip,
    /// Of `_bulk`: the items come in the reverse of the order that was asked.
    Reversed,
    /// Another reply comes instead.
    Into(Answer),
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Head {
    /// Of this proxy's requests; a rule that counts can tell a held one that it is asked about again.
    pub number: u64,
    pub method: String,
    /// As on the wire: percent-encoded.
    pub path: String,
    /// SQS names its operation in a header.
    pub target: String,
    /// `If-Match`: writes over something that was seen.
    pub if_match: bool,
    /// SQS only: what is asked.
    pub body: Bytes,
}

impl Head {
    /// The download of an object of this bucket.
    pub fn downloads_from(&self, bucket: &str) -> bool {
        self.method == "GET" && self.path.starts_with(&format!("/{bucket}/")) && self.path.contains("x-id=GetObject")
    }

    fn of(number: u64, request: &Whole) -> Option<Self> {
        let mut first = request.start.split(' ');
        let target = request.header("x-amz-target").unwrap_or_default().to_owned();
        let body = if target.is_empty() { Bytes::new() } else { request.body.clone().into() };
        let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
        Some(Self { number, method, path, target, if_match: request.header("if-match").is_some(), body })
    }
}

/// What became of a request.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub head: Head,
    pub came: Instant,
    /// Of the reply; 0 where there was none.
    pub status: u16,
    /// SQS only: what was replied.
    pub reply: Bytes,
    /// The reply was handed to the client whole.
    pub delivered: bool,
}

#[derive(Default)]
struct State {
    rule: Option<Rule>,
    rewrite: Option<Rewrite>,
    /// By number: requests without an answer.
    open: BTreeMap<u64, Head>,
    held: usize,
    seen: Vec<Head>,
    exchanges: Vec<Exchange>,
    /// Breaks all connections of now.
    break_all: CancellationToken,
}

struct Shared {
    state: Mutex<State>,
    changed: tokio::sync::Notify,
    upstream: String,
    /// Takes connections.
    up: tokio::sync::watch::Sender<bool>,
    closed: CancellationToken,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn fate(&self, head: &Head) -> Fate {
        self.state().rule.as_ref().map_or(Fate::Pass, |rule| rule(head))
    }

    /// Waits while the rule says so; `None` when the proxy or the client is gone.
    async fn while_it_is(&self, fate: &Fate, head: &Head, client: &mut BufReader<OwnedReadHalf>) -> Option<Fate> {
        loop {
            tokio::select! {
                () = self.closed.cancelled() => return None,
                () = connection::gone(client) => return None,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(ASK_AGAIN) => {}
            }
            let now = self.fate(head);
            if now != *fate {
                return Some(now);
            }
        }
    }
}

pub struct Relay {
    port: u16,
    shared: Arc<Shared>,
    /// Bound and never listening: nobody else gets the port while connections are refused.
    _keeper: TcpSocket,
}

/// One for all proxies of a test binary.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("relay").enable_all().build().unwrap()
    })
}

impl Relay {
    /// Before the service at `upstream`, an `http://` URL.
    pub fn before(upstream: &str) -> Self {
        let _runtime = runtime().enter();
        let keeper = TcpSocket::new_v4().unwrap();
        keeper.set_reuseaddr(true).unwrap();
        keeper.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let port = keeper.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: tokio::sync::Notify::new(),
            upstream: upstream.strip_prefix("http://").unwrap().trim_end_matches('/').to_owned(),
            up: tokio::sync::watch::Sender::new(true),
            closed: CancellationToken::new(),
        });
        let listener = listen(port);
        tokio::spawn(serve(Arc::clone(&shared), listener, port));
        Self { port, shared, _keeper: keeper }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on this rule decides.
    pub fn rule(&self, rule: impl Fn(&Head) -> Fate + Send + 'static) {
        self.shared.state().rule = Some(Box::new(rule));
        self.shared.changed.notify_waiters();
    }

    /// From now on requests go on with the body that this makes of theirs, if it makes one (SQS only).
    pub fn rewrite(&self, rewrite: impl Fn(&Head) -> Option<Vec<u8>> + Send + 'static) {
        self.shared.state().rewrite = Some(Box::new(rewrite));
    }

    /// Holds what the condition says, and passes the rest.
    pub fn hold(&self, which: impl Fn(&Head) -> bool + Send + 'static) {
        self.rule(move |head| if which(head) { Fate::Hold } else { Fate::Pass });
    }

    /// Lets everything pass.
    pub fn release(&self) {
        self.rule(|_| Fate::Pass);
        self.up();
    }

    /// Takes connections again.
    pub fn up(&self) {
        self.shared.up.send_replace(true);
    }

    /// Requests held now.
    pub fn held(&self) -> usize {
        self.shared.state().held
    }

    /// Requests of a kind without an answer yet.
    pub fn open(&self, which: impl Fn(&Head) -> bool) -> usize {
        self.shared.state().open.values().filter(|head| which(head)).count()
    }

    /// All requests of a kind so far.
    pub fn seen(&self, which: impl Fn(&Head) -> bool) -> Vec<Head> {
        self.shared.state().seen.iter().filter(|head| which(head)).cloned().collect()
    }

    /// All exchanges of a kind that have ended, in the order of their ends.
    pub fn exchanges(&self, which: impl Fn(&Head) -> bool) -> Vec<Exchange> {
        self.shared.state().exchanges.iter().filter(|one| which(&one.head)).cloned().collect()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // What is held goes nowhere any more.
        self.shared.closed.cancel();
    }
}

fn listen(port: u16) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(([127, 0, 0, 1], port).into()).unwrap();
    socket.listen(1024).unwrap()
}

async fn serve(shared: Arc<Shared>, first: TcpListener, port: u16) {
    let mut up = shared.up.subscribe();
    let mut listener = Some(first);
    let mut wanted = true;
    loop {
        match (wanted, &listener) {
            (true, None) => listener = Some(listen(port)),
            (false, Some(_)) => listener = None,
            (true, Some(_)) | (false, None) => {}
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.closed.cancelled() => return,
            _ = up.changed() => wanted = *up.borrow_and_update(),
            accepted = accepted => {
                let Ok((client, _)) = accepted else { continue };
                drop(client.set_nodelay(true));
                let (closed, broken) = (shared.closed.clone(), shared.state().break_all.clone());
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    tokio::select! {
                        () = closed.cancelled() => {}
                        () = broken.cancelled() => {}
                        ended = connection::Connection::new(client, shared).run() => drop(ended),
                    }
                });
            }
        }
    }
}
