//! The agent over a real socket.

use iris_core::backend::ScriptedBackend;
use iris_node::agent::{CoordinatorUrl, WebSocketConnector};
use iris_protocol::transport::websocket::{WebSocket, accept_key};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Waits for the connection of a node, and answers whatever else it asks with 404.
pub(crate) async fn upgraded(listener: &TcpListener) -> WebSocket<TcpStream> {
    let (mut stream, request) = loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        let request = String::from_utf8(request).unwrap();
        if request.starts_with("GET /nodes/connect HTTP/1.1\r\n") {
            break (stream, request);
        }
        let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        stream.write_all(answer).await.unwrap();
    };
    let header = |name: &str| {
        let lines = request.lines().filter_map(|line| line.split_once(": "));
        let mut values = lines.filter(|(header, _)| header.eq_ignore_ascii_case(name));
        values.next().expect(name).1
    };
    assert_eq!(header("authorization"), "Bearer iris_key");
    let accept = accept_key(header("sec-websocket-key").as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    WebSocket::server_from_upgraded(stream).await
}

#[tokio::test]
async fn an_agent_works_over_a_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let url: CoordinatorUrl = base.parse().unwrap();
    let backend = ScriptedBackend::saying("m".parse().unwrap(), ["a", "b"]);
    let connector = WebSocketConnector::new(url, "iris_key");
    let mut agent = Running::new(builder(&backend).build(), connector);
    let mut coordinator = Coordinator::over(upgraded(&listener).await);
    coordinator.accept().await;
    coordinator.assign("m").await;
    assert_eq!(coordinator.answer().await.pieces, ["a", "b"]);
    agent.stop();
    coordinator.answer_heartbeat().await;
    assert!(coordinator.is_left().await);
    assert_eq!(agent.ended().await, Ok(()));
}
