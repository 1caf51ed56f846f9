//! Nodes that have a key and no manners.

use std::net::SocketAddr;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use iris_protocol::Frame;
use iris_protocol::frame::Utf8;
use iris_protocol::transport::websocket::{IntoClientRequest, WebSocket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::node::SOON;

/// Comes through the door, breaks a rule and waits until it is shown out.
pub(crate) async fn intrude(server: SocketAddr, key: &str, n: usize) {
    let models: Vec<String> =
        (0..10_000).map(|n| format!(r#"{{"name":"m{n}","context_length":1}}"#)).collect();
    let register = format!(
        r#"{{"type":"NODE_REGISTER","version":1,"identity":"{0}","certificate":"","nonce":"{0}","signature":"{1}","slots":4294967295,"models":[{2}]}}"#,
        "A".repeat(43),
        "A".repeat(86),
        models.join(",")
    );
    let text = |text: &str| Frame::Text(Utf8::from(text.to_owned()));
    let frames = match n % 7 {
        0 => vec![text(&register[..250_000]), text(&register)],
        1 => vec![text(r#"{"type":"NODE_HEARTBEAT","running":0}"#)],
        2 => vec![Frame::Binary(Bytes::from(vec![2; 1 << 20]))],
        3 => vec![text(&"[".repeat(200_000))],
        4 => vec![text(r#"{"type":"DRAIN","type":"DRAIN"}"#)],
        5 => return upgraded(server, key, b"GET / HTTP/1.1\r\n\r\n").await,
        // Pings, which are to be answered, and then something that is not.
        _ => {
            let mut pings = [0x89, 0x80, 0, 0, 0, 0].repeat(20_000);
            pings.push(0x83);
            pings.push(0x80);
            return upgraded(server, key, &pings).await;
        }
    };
    let stream = TcpStream::connect(server).await.unwrap();
    let mut request = format!("ws://{server}/nodes/connect").into_client_request().unwrap();
    let authorization = format!("Bearer {key}").parse().unwrap();
    request.headers_mut().insert("authorization", authorization);
    let mut socket = WebSocket::client(stream, request).await.unwrap();
    for frame in frames {
        // It may be shown out already.
        let _ = socket.send(frame).await;
    }
    let ended = async { while let Some(Ok(_)) = socket.next().await {} };
    timeout(SOON, ended).await.expect("who breaks a rule is shown out");
}

/// Speaks no WebSocket once the connection is one.
async fn upgraded(server: SocketAddr, key: &str, bytes: &[u8]) {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let head = format!(
        "GET /nodes/connect HTTP/1.1\r\nhost: iris\r\nauthorization: Bearer {key}\r\n\
         connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reading, mut writing) = stream.split();
    let mut rest = Vec::new();
    // The end may come as a reset, for what was sent is not read.
    let read = async { timeout(SOON, reading.read_to_end(&mut rest)).await };
    let (ended, _) = tokio::join!(read, writing.write_all(bytes));
    let _ = ended.expect("the connection ends");
    assert!(rest.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&rest));
}
