//! As much of HTTP/1.1 as the three services speak: whole requests and whole replies off a stream and onto one.
//!
//! Promises that a body is read by its length or its chunks, never by guessing. No pipelining, no upgrades.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

/// A request or a reply, read whole.
#[derive(Clone, Debug)]
pub struct Whole {
    /// The request line, or the status line.
    pub start: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Whole {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(one, _)| one.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn drop_header(&mut self, name: &str) {
        self.headers.retain(|(one, _)| !one.eq_ignore_ascii_case(name));
    }

    /// Another body: with its own length, and without the checksum of the old one.
    pub fn set_body(&mut self, body: Vec<u8>) {
        self.body = body;
        self.drop_header("content-length");
        self.headers.push(("content-length".into(), self.body.len().to_string()));
    }

    /// The status of a reply; 0 of a request.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// Everything up to and with the empty line.
    pub fn head_bytes(&self) -> Vec<u8> {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{}\r\n{headers}\r\n", self.start).into_bytes()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// The head of a request or reply; `None` where the stream ends before it.
pub async fn head(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Whole>> {
    let Some(start) = line(stream).await? else { return Ok(None) };
    let mut headers = Vec::new();
    while let Some(line) = line(stream).await?.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other(format!("no header: {line}")))?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    Ok(Some(Whole { start, headers, body: Vec::new() }))
}

/// The rest of a request: nothing, unless a length or chunks are announced.
pub async fn request_body(stream: &mut (impl AsyncBufRead + Unpin), request: &mut Whole) -> io::Result<()> {
    body(stream, request, false).await
}

/// The rest of a reply: to the end of the stream, unless something else is said.
pub async fn reply_body(stream: &mut (impl AsyncBufRead + Unpin), reply: &mut Whole, to: &str) -> io::Result<()> {
    if to == "HEAD" || matches!(reply.status(), 204 | 304) {
        return Ok(());
    }
    body(stream, reply, true).await
}

async fn body(stream: &mut (impl AsyncBufRead + Unpin), whole: &mut Whole, to_the_end: bool) -> io::Result<()> {
    let chunked = whole.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
    if chunked {
        let body = chunks(stream).await?;
        whole.drop_header("transfer-encoding");
        whole.set_body(body);
    } else if let Some(length) = whole.header("content-length") {
        let length = length.parse().map_err(io::Error::other)?;
        whole.body.resize(length, 0);
        stream.read_exact(&mut whole.body).await?;
    } else if to_the_end {
        let mut body = Vec::new();
        stream.read_to_end(&mut body).await?;
        whole.set_body(body);
    }
    Ok(())
}

async fn chunks(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = line(stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let digits = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(digits, 16).map_err(io::Error::other)?;
        if size == 0 {
            while line(stream).await?.is_some_and(|trailer| !trailer.is_empty()) {}
            return Ok(body);
        }
        let from = body.len();
        body.resize(from + size, 0);
        stream.read_exact(&mut body[from..]).await?;
        line(stream).await?;
    }
}

async fn line(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    if stream.read_until(b'\n', &mut bytes).await? == 0 {
        return Ok(None);
    }
    while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        bytes.pop();
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}
