//! A relay in front of a service: counts the requests that pass, and holds those it is told to, for ever or until
//! released. So a worker can be met in the very step that a test is about, without a line of test code in it.
//!
//! Plain bytes both ways; it reads only the head of a request. Both services speak HTTP/1.1 without pipelining.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

type Rule = Box<dyn Fn(&Head) -> Fate + Send>;

/// What happens to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Pass,
    /// Goes nowhere until the rule says otherwise.
    Hold,
    /// Is answered with 503 and goes nowhere.
    #[allow(dead_code)] // by `tests/kill`, which shares this file
    Refuse,
    /// Is carried out, but its reply is lost: the connection breaks instead.
    LoseReply,
}

/// The head of a request.
#[derive(Clone, Debug)]
pub struct Head {
    pub method: String,
    /// As on the wire: percent-encoded.
    pub path: String,
    /// SQS names its operation in a header.
    pub target: String,
    /// `If-Match`: writes over something that was seen.
    pub if_match: bool,
}

impl Head {
    /// The download of an object of this bucket.
    pub fn downloads_from(&self, bucket: &str) -> bool {
        self.method == "GET" && self.path.starts_with(&format!("/{bucket}/")) && self.path.contains("x-id=GetObject")
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n");
        let mut first = lines.next()?.split(' ');
        let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
        let (mut target, mut if_match) = (String::new(), false);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("x-amz-target") {
                target = value.trim().to_owned();
            }
            if_match |= name.eq_ignore_ascii_case("if-match");
        }
        Some(Self { method, path, target, if_match })
    }
}

#[derive(Default)]
struct State {
    rule: Option<Rule>,
    closed: bool,
    /// By connection: requests without an answer.
    open: BTreeMap<u64, Head>,
    held: usize,
    seen: Vec<Head>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

pub struct Relay {
    port: u16,
    shared: Arc<Shared>,
}

impl Relay {
    /// Before the service at `upstream`, an `http://` URL.
    pub fn before(upstream: &str) -> Self {
        let upstream = upstream.strip_prefix("http://").unwrap().trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Self { port: listener.local_addr().unwrap().port(), shared: Arc::default() };
        let shared = Arc::clone(&relay.shared);
        std::thread::spawn(move || {
            for (number, client) in (0..).zip(listener.incoming()) {
                if shared.state.lock().unwrap().closed {
                    return;
                }
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(&upstream)) else { continue };
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || connection(number, &client, &server, &shared));
            }
        });
        relay
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on this rule decides.
    pub fn rule(&self, rule: impl Fn(&Head) -> Fate + Send + 'static) {
        self.shared.state.lock().unwrap().rule = Some(Box::new(rule));
        self.shared.changed.notify_all();
    }

    /// Holds what the condition says, and passes the rest.
    pub fn hold(&self, which: impl Fn(&Head) -> bool + Send + 'static) {
        self.rule(move |head| if which(head) { Fate::Hold } else { Fate::Pass });
    }

    /// Lets everything pass.
    pub fn release(&self) {
        self.rule(|_| Fate::Pass);
    }

    /// Requests held now.
    pub fn held(&self) -> usize {
        self.shared.state.lock().unwrap().held
    }

    /// Requests of a kind without an answer yet.
    pub fn open(&self, which: impl Fn(&Head) -> bool) -> usize {
        self.shared.state.lock().unwrap().open.values().filter(|head| which(head)).count()
    }

    /// All requests of a kind so far.
    pub fn seen(&self, which: impl Fn(&Head) -> bool) -> Vec<Head> {
        self.shared.state.lock().unwrap().seen.iter().filter(|head| which(head)).cloned().collect()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // What is held goes nowhere any more.
        if let Ok(mut state) = self.shared.state.lock() {
            state.closed = true;
        }
        self.shared.changed.notify_all();
        drop(TcpStream::connect(("127.0.0.1", self.port))); // wakes the listener, which ends
    }
}

fn connection(number: u64, client: &TcpStream, server: &TcpStream, shared: &Arc<Shared>) {
    let lose = Arc::new(Mutex::new(false));
    let back = {
        let (client, server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let (shared, lose) = (Arc::clone(shared), Arc::clone(&lose));
        std::thread::spawn(move || answers(number, &client, &server, &shared, &lose))
    };
    requests(number, client, server, shared, &lose);
    drop((client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both)));
    drop(back.join());
    shared.state.lock().unwrap().open.remove(&number);
}

fn requests(number: u64, mut client: &TcpStream, mut server: &TcpStream, shared: &Shared, lose: &Mutex<bool>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(mut length @ 1..) = client.read(&mut buffer) else { return };
        if starts_a_request(&buffer[..length]) {
            while !buffer[..length].windows(4).any(|four| four == b"\r\n\r\n") {
                let Ok(more @ 1..) = client.read(&mut buffer[length..]) else { return };
                length += more;
            }
            let Some(head) = Head::parse(&buffer[..length]) else { return };
            match let_through(number, head, client, shared) {
                Some(Fate::Refuse) => {
                    // The rest of the request is not waited for: the connection ends with the answer.
                    drop(client.write_all(
                        b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
                    ));
                    return;
                }
                Some(fate) => *lose.lock().unwrap() = fate == Fate::LoseReply,
                None => return,
            }
        }
        if server.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

fn answers(number: u64, mut client: &TcpStream, mut server: &TcpStream, shared: &Shared, lose: &Mutex<bool>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = server.read(&mut buffer);
        shared.state.lock().unwrap().open.remove(&number);
        let Ok(length @ 1..) = read else { break };
        if *lose.lock().unwrap() || client.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    drop((client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both)));
}

/// Waits while it is held; `None` when the relay or the client is gone.
fn let_through(number: u64, head: Head, client: &TcpStream, shared: &Shared) -> Option<Fate> {
    let mut state = shared.state.lock().unwrap();
    state.seen.push(head.clone());
    state.open.insert(number, head.clone());
    let mut held = false;
    let fate = loop {
        if state.closed || (held && is_gone(client)) {
            break None;
        }
        let fate = state.rule.as_ref().map_or(Fate::Pass, |rule| rule(&head));
        if fate != Fate::Hold {
            break Some(fate);
        }
        if !held {
            held = true;
            state.held += 1;
        }
        state = shared.changed.wait_timeout(state, Duration::from_millis(100)).unwrap().0;
    };
    if held {
        state.held -= 1;
    }
    fate
}

fn is_gone(client: &TcpStream) -> bool {
    drop(client.set_nonblocking(true));
    let gone = matches!(client.peek(&mut [0]), Ok(0));
    drop(client.set_nonblocking(false));
    gone
}

fn starts_a_request(bytes: &[u8]) -> bool {
    ["GET /", "HEAD /", "PUT /", "POST /", "DELETE /"].iter().any(|method| bytes.starts_with(method.as_bytes()))
}
