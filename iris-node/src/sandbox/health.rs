//! Asks a server on this machine whether it answers.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);
/// As much of an answer as says whether it is 200: `HTTP/1.1 200`.
const STATUS: usize = 12;

/// Returns whether the server answers 200 in time.
pub(super) async fn answers(port: u16, path: &str) -> bool {
    matches!(tokio::time::timeout(LIMIT, status(port, path)).await, Ok(Ok(true)))
}

async fn status(port: u16, path: &str) -> io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let asked =
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(asked.as_bytes()).await?;
    let mut head = [0; STATUS];
    stream.read_exact(&mut head).await?;
    Ok(head.starts_with(b"HTTP/1.") && head.ends_with(b" 200"))
}
