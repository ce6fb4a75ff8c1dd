//! One connection of a client: request after request, each met as its rule says.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::sync::CancellationToken;

use super::http::{self, Whole};
use super::{Bend, Exchange, Fate, Head, Shared};

/// Two bytes a second: below every client's own idea of a slow transfer.
const DRIP: Duration = Duration::from_millis(500);

/// Ends when the peer has closed its side, or broken the connection.
pub(super) async fn gone(peer: &mut BufReader<OwnedReadHalf>) {
    match peer.fill_buf().await {
        Ok([]) | Err(_) => {}
        Ok(_) => std::future::pending().await, // it says more: it is there
    }
}

/// A request in hand: on every way out it leaves the open ones, and is written down.
struct Turn {
    shared: Arc<Shared>,
    exchange: Exchange,
    held: bool,
}

impl Turn {
    fn of(shared: &Arc<Shared>, request: &Whole) -> Option<Self> {
        let mut state = shared.state();
        let head = Head::of(state.seen.len() as u64, request)?;
        state.seen.push(head.clone());
        state.open.insert(head.number, head.clone());
        let exchange = Exchange { head, came: Instant::now(), status: 0, reply: Bytes::new(), delivered: false };
        Some(Self { shared: Arc::clone(shared), exchange, held: false })
    }

    fn holds(&mut self, held: bool) {
        if held != self.held {
            let mut state = self.shared.state();
            state.held = if held { state.held + 1 } else { state.held - 1 };
            self.held = held;
        }
    }

    fn heard(&mut self, reply: &Whole) {
        self.exchange.status = reply.status();
        if !self.exchange.head.target.is_empty() {
            self.exchange.reply = reply.body.clone().into();
        }
    }

    /// Waits while it is held; `None` when the proxy or the client is gone.
    async fn fate(&mut self, client: &mut BufReader<OwnedReadHalf>) -> Option<Fate> {
        let shared = Arc::clone(&self.shared);
        let fate = shared.fate(&self.exchange.head);
        if fate != Fate::Hold {
            return Some(fate);
        }
        self.holds(true);
        let fate = shared.while_it_is(&fate, &self.exchange.head, client).await;
        self.holds(false);
        fate
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.holds(false);
        let mut state = self.shared.state();
        state.open.remove(&self.exchange.head.number);
        state.exchanges.push(self.exchange.clone());
    }
}

pub(super) struct Connection {
    client: BufReader<OwnedReadHalf>,
    to_client: OwnedWriteHalf,
    server: Option<(BufReader<OwnedReadHalf>, OwnedWriteHalf)>,
    shared: Arc<Shared>,
}

/// Whether the connection can be used again.
type Keep = io::Result<bool>;

impl Connection {
    pub(super) fn new(client: TcpStream, shared: Arc<Shared>) -> Self {
        let (client, to_client) = client.into_split();
        Self { client: BufReader::new(client), to_client, server: None, shared }
    }

    pub(super) async fn run(mut self) -> io::Result<()> {
        loop {
            let server_gone = async {
                match &mut self.server {
                    Some((server, _)) => gone(server).await,
                    None => std::future::pending().await,
                }
            };
            let head = tokio::select! {
                biased;
                () = server_gone => return Ok(()),
                head = http::head(&mut self.client) => head?,
            };
            let Some(mut request) = head else { return Ok(()) };
            if request.header("expect").is_some() {
                self.to_client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
                request.drop_header("expect");
            }
            http::request_body(&mut self.client, &mut request).await?;
            let Some(mut turn) = Turn::of(&self.shared, &request) else { return Ok(()) };
            let Some(fate) = turn.fate(&mut self.client).await else { return Ok(()) };
            let rewritten = self.shared.state().rewrite.as_ref().and_then(|rewrite| rewrite(&turn.exchange.head));
            if let Some(body) = rewritten {
                request.set_body(body);
            }
            if fate.reads_the_reply() {
                request.drop_header("accept-encoding");
            }
            if !self.meet(&mut turn, request, fate).await? {
                return Ok(());
            }
        }
    }

    async fn meet(&mut self, turn: &mut Turn, request: Whole, fate: Fate) -> Keep {
        match fate {
            Fate::Pass | Fate::Hold => {
                let reply = self.ask(&request).await?;
                self.tell(turn, &reply).await
            }
            Fate::Reset => self.reset(),
            Fate::Down => {
                self.shared.up.send_replace(false);
                let all = std::mem::replace(&mut self.shared.state().break_all, CancellationToken::new());
                all.cancel();
                self.reset()
            }
            Fate::Answer(answer) => self.tell(turn, &answer.reply_to(&turn.exchange.head.method)).await,
            Fate::LoseReply => {
                self.ask(&request).await?;
                self.reset()
            }
            Fate::HoldReply => {
                let reply = self.ask(&request).await?;
                let shared = Arc::clone(&self.shared);
                turn.holds(true);
                let released = shared.while_it_is(&fate, &turn.exchange.head, &mut self.client).await;
                turn.holds(false);
                if released.is_some() { self.tell(turn, &reply).await } else { Ok(false) }
            }
            Fate::Late(by) => {
                tokio::time::sleep(by).await;
                let reply = self.ask_whoever_waits(&request).await?;
                self.tell(turn, &reply).await
            }
            Fate::Refuse(refuse) => {
                let reply = match refuse.request(request.clone()) {
                    Some(rest) => Some(self.ask(&rest).await?),
                    None => None,
                };
                self.tell(turn, &refuse.reply(&request, reply)).await
            }
            Fate::Bend(bend) => {
                let reply = self.ask(&request).await?;
                self.bend(turn, reply, bend).await
            }
        }
    }

    /// The service's reply. A client that leaves meanwhile is an aborted request for the service too.
    async fn ask(&mut self, request: &Whole) -> io::Result<Whole> {
        self.ask_while(request, true).await
    }

    /// The same, also when the client has left.
    async fn ask_whoever_waits(&mut self, request: &Whole) -> io::Result<Whole> {
        self.ask_while(request, false).await
    }

    async fn ask_while(&mut self, request: &Whole, client_waits: bool) -> io::Result<Whole> {
        if self.server.is_none() {
            let server = TcpStream::connect(&self.shared.upstream).await?;
            server.set_nodelay(true)?;
            let (server, to_server) = server.into_split();
            self.server = Some((BufReader::new(server), to_server));
        }
        let Some((server, to_server)) = &mut self.server else { return Err(io::ErrorKind::NotConnected.into()) };
        to_server.write_all(&request.bytes()).await?;
        let method = request.start.split(' ').next().unwrap_or_default();
        let reply = async {
            loop {
                let mut reply = http::head(server).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
                if reply.status() >= 200 {
                    http::reply_body(server, &mut reply, method).await?;
                    return Ok::<_, io::Error>(reply);
                }
            }
        };
        let reply = tokio::select! {
            reply = reply => reply?,
            () = gone(&mut self.client), if client_waits => return Err(io::ErrorKind::ConnectionAborted.into()),
        };
        if reply.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            self.server = None;
        }
        Ok(reply)
    }

    async fn tell(&mut self, turn: &mut Turn, reply: &Whole) -> Keep {
        turn.heard(reply);
        self.to_client.write_all(&reply.bytes()).await?;
        turn.exchange.delivered = true;
        Ok(self.server.is_some() || reply.header("connection").is_none())
    }

    async fn bend(&mut self, turn: &mut Turn, mut reply: Whole, bend: Bend) -> Keep {
        let place = |byte: usize| {
            let head = reply.head_bytes().len();
            if reply.body.is_empty() { head / 2 } else { head + byte.min(reply.body.len() / 2) }
        };
        match bend {
            Bend::Into(answer) => self.tell(turn, &answer.reply_to(&turn.exchange.head.method)).await,
            Bend::Flip => {
                let middle = reply.body.len() / 2;
                if let Some(byte) = reply.body.get_mut(middle) {
                    *byte ^= 1;
                }
                self.tell(turn, &reply).await
            }
            Bend::Reversed => {
                let mut body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_default();
                if let Some(items) = body["items"].as_array_mut() {
                    items.reverse();
                    reply.set_body(body.to_string().into_bytes());
                }
                self.tell(turn, &reply).await
            }
            Bend::CutAt(byte) => {
                self.to_client.write_all(&reply.bytes()[..place(byte)]).await?;
                Ok(false)
            }
            Bend::StallAt(byte) => {
                self.to_client.write_all(&reply.bytes()[..place(byte)]).await?;
                gone(&mut self.client).await;
                Ok(false)
            }
            Bend::DripFrom(byte) => {
                let (bytes, place) = (reply.bytes(), place(byte));
                self.to_client.write_all(&bytes[..place]).await?;
                for drop in &bytes[place..] {
                    tokio::select! {
                        () = gone(&mut self.client) => return Ok(false),
                        () = tokio::time::sleep(DRIP) => {}
                    }
                    self.to_client.write_all(std::slice::from_ref(drop)).await?;
                }
                turn.heard(&reply);
                turn.exchange.delivered = true;
                Ok(true)
            }
        }
    }

    /// Not an end: a break.
    fn reset(&self) -> Keep {
        self.to_client.as_ref().set_zero_linger()?;
        Ok(false)
    }
}
