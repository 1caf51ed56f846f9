//! A caller that sees every byte of its requests and every piece of their answers.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A request, to be written as it is.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    head: String,
    body: Vec<u8>,
}

impl Request {
    pub(crate) fn get(path: &str) -> Self {
        Self { head: format!("GET {path} HTTP/1.1\r\nhost: iris\r\n"), body: Vec::new() }
    }

    pub(crate) fn post(path: &str, body: impl Display) -> Self {
        let body = body.to_string().into_bytes();
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nhost: iris\r\ncontent-length: {length}\r\n");
        Self { head, body }
    }

    /// Opens a WebSocket at the door for nodes.
    pub(crate) fn upgrade() -> Self {
        Self::get("/nodes/connect")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.head = [&self.head, name, ": ", value, "\r\n"].concat();
        self
    }

    pub(crate) fn bearer(self, key: &str) -> Self {
        self.header("authorization", &format!("Bearer {key}"))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        [self.head.as_bytes(), b"\r\n", &self.body].concat()
    }
}

/// An answer whose body is read as far as a test wants.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    /// Bytes of the body that are left; `None` for a body in chunks.
    left: Option<usize>,
    ended: bool,
    /// What was read of the next event.
    events: String,
    io: BufReader<TcpStream>,
}

/// Sends `request` on a connection of its own and reads the head of its answer.
pub(crate) fn send(
    address: SocketAddr,
    request: &Request,
) -> impl Future<Output = io::Result<Reply>> + Send + 'static {
    let request = request.clone();
    async move {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        send_on(BufReader::new(stream), &request).await
    }
}

/// Sends `request` on a connection that is open already.
pub(crate) async fn send_on(mut io: BufReader<TcpStream>, request: &Request) -> io::Result<Reply> {
    io.write_all(&request.bytes()).await?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if io.read_line(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or(io::ErrorKind::InvalidData)?;
    let left = header(&head, "content-length").and_then(|length| length.parse().ok());
    let ended = left == Some(0) || status == 101;
    Ok(Reply { status, head, left, ended, events: String::new(), io })
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// Returns the next piece of the body, as the server wrote it; `None` at its end.
    pub(crate) async fn piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.ended {
            return Ok(None);
        }
        let length = if let Some(left) = self.left {
            self.ended = true;
            left
        } else {
            let mut line = String::new();
            self.io.read_line(&mut line).await?;
            let length = usize::from_str_radix(line.trim_end(), 16);
            length.map_err(|_| io::ErrorKind::UnexpectedEof)?
        };
        let mut piece = vec![0; length];
        self.io.read_exact(&mut piece).await?;
        if self.left.is_none() {
            self.io.read_exact(&mut [0; 2]).await?;
            self.ended = length == 0;
        }
        Ok((length > 0).then_some(piece))
    }

    /// Returns the data of the next event; `None` at the end of the stream.
    pub(crate) async fn event(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some((event, rest)) = self.events.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.events = rest;
                if let Some(data) = event.strip_prefix("data: ") {
                    return Ok(Some(data.to_owned()));
                }
            } else if let Some(piece) = self.piece().await? {
                let piece = String::from_utf8(piece).map_err(|_| io::ErrorKind::InvalidData)?;
                self.events.push_str(&piece);
            } else {
                assert_eq!(self.events, "", "a stream ends between events");
                return Ok(None);
            }
        }
    }

    /// Returns the text of the next event that has one; `None` at the end of the stream.
    pub(crate) async fn word(&mut self) -> io::Result<Option<String>> {
        while let Some(event) = self.event().await? {
            if let Some(text) = text_of(&event) {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    /// Returns the rest of the body.
    pub(crate) async fn text(&mut self) -> io::Result<String> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece().await? {
            body.extend(piece);
        }
        String::from_utf8(body).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    pub(crate) async fn json(&mut self) -> Value {
        let text = self.text().await.unwrap();
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"))
    }

    /// Returns the connection, for another request or for what it has become.
    pub(crate) fn into_connection(self) -> BufReader<TcpStream> {
        self.io
    }
}

/// Returns the text that an event adds to its answer.
pub(crate) fn text_of(event: &str) -> Option<String> {
    let event: Value = serde_json::from_str(event).ok()?;
    let text = event["choices"][0]["delta"]["content"].as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}
