//! What comes through the door for nodes and is none.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use iris_protocol::Frame;
use iris_protocol::frame::Utf8;
use iris_protocol::message::{CoordinatorMessage, ErrorCode};
use iris_protocol::transport::websocket::{IntoClientRequest, WebSocket};

use super::*;

/// Opens a WebSocket as a node does.
async fn enter(net: &Net) -> WebSocket<TcpStream> {
    let key = key(&net.coordinator, net.account, KeyScope::Node).await;
    let stream = TcpStream::connect(net.address).await.unwrap();
    let url = format!("ws://{}/nodes/connect", net.address);
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    WebSocket::client(stream, request).await.unwrap()
}

/// Sends `frames` and returns the code by which the coordinator shows the node out.
async fn shown_out(net: &Net, frames: Vec<Frame>) -> Option<ErrorCode> {
    let mut socket = enter(net).await;
    for frame in frames {
        let _ = socket.send(frame).await;
    }
    let mut code = None;
    let ended = async {
        while let Some(Ok(frame)) = socket.next().await {
            let Frame::Text(text) = frame else { continue };
            if let Ok(Some(CoordinatorMessage::Error(error))) =
                CoordinatorMessage::decode(text.as_bytes())
            {
                code = Some(error.code);
            }
        }
    };
    timeout(SOON, ended).await.expect("who breaks a rule is shown out");
    code
}

fn text(text: impl Into<String>) -> Frame {
    Frame::Text(Utf8::from(text.into()))
}

fn register(slots: &str, models: &str, name: &str) -> Frame {
    text(format!(
        r#"{{"type":"NODE_REGISTER","version":1,"identity":"{0}","certificate":"","nonce":"{0}","signature":"{1}","name":{name},"slots":{slots},"models":[{models}]}}"#,
        "A".repeat(43),
        "A".repeat(86),
    ))
}

fn models(count: usize) -> String {
    let models: Vec<_> =
        (0..count).map(|n| format!(r#"{{"name":"{n}","context_length":1}}"#)).collect();
    models.join(",")
}

#[tokio::test]
async fn whoever_speaks_out_of_turn_is_shown_out() {
    let net = Net::start().await;
    for frames in [
        vec![text(r#"{"type":"NODE_HEARTBEAT","running":0}"#)],
        vec![text(r#"{"type":"TASK_ACCEPT","assignment":0}"#)],
        vec![text(r#"{"type":"DRAIN"}"#)],
        vec![Frame::Binary(Bytes::from_static(&[2; 40]))],
        vec![Frame::Binary(Bytes::new())],
        vec![text("GET / HTTP/1.1\r\n\r\n")],
        vec![text("[".repeat(200_000))],
        vec![text("x".repeat(300 << 10))],
        vec![text(r#"{"type":"DRAIN","type":"NODE_REGISTER"}"#)],
        vec![text(r#"{"type":"CHALLENGE","min_version":1}"#); 1000],
    ] {
        let name = format!("{:.60?}", frames[0]);
        assert_eq!(shown_out(&net, frames).await, Some(ErrorCode::Violation), "{name}");
    }
    assert_eq!(net.coordinator.stats().nodes, 0);
}

#[tokio::test]
async fn registrations_beyond_the_limits_are_refused_by_type() {
    let net = Net::start().await;
    let one = models(1);
    for (slots, offered, name) in [
        ("1", models(257), "null"),
        ("1", models(7000), "null"),
        ("1025", one.clone(), "null"),
        ("4294967295", one.clone(), "null"),
        ("4294967296", one.clone(), "null"),
        ("-1", one.clone(), "null"),
        ("1.5", one.clone(), "null"),
        ("1", format!("{one},{one}"), "null"),
        ("1", one.replace("\"0\"", "\"a\\u202eb\""), "null"),
        ("1", one.replace("\"0\"", "\"\""), "null"),
        ("1", one.replace(":1}", ":4294967296}"), "null"),
        ("1", one.replace(":1}", ":-1}"), "null"),
        ("1", one.replace(":1}", r#":1,"parameters":18446744073709551616}"#), "null"),
        ("1", one.replace(":1}", r#":1,"quantization":"a\nb"}"#), "null"),
        ("1", one.clone(), r#""two\nlines""#),
        ("1", one.clone(), r#""\u2066hidden\u2069""#),
        ("1", one.clone(), r#""  ""#),
    ] {
        let frame = register(slots, &offered, name);
        let code = shown_out(&net, vec![frame]).await;
        assert_eq!(code, Some(ErrorCode::Violation), "{slots} {offered:.60} {name}");
    }
    // Ten thousand do not even fit into a message.
    let frame = register("1", &models(10_000), "null");
    assert!(frame.len() > 256 << 10);
    assert_eq!(shown_out(&net, vec![frame]).await, Some(ErrorCode::Violation));
    // At the limits only the proof is missing.
    let frame = register("1024", &models(256), "\"n\"");
    assert_eq!(shown_out(&net, vec![frame]).await, Some(ErrorCode::Unauthorized));
    assert_eq!(net.coordinator.stats().nodes, 0);
}

#[tokio::test]
async fn frames_that_are_none_close_the_connection() {
    let net = Net::start().await;
    let mask = [0; 4];
    let frame = |first: u8, second: u8, rest: &[u8]| [&[first, second][..], &mask, rest].concat();
    let long = [&[0x82, 0xff][..], &u64::MAX.to_be_bytes(), &mask].concat();
    let negative = [&[0x82, 0xff][..], &((1_u64 << 20) + 1).to_be_bytes(), &mask].concat();
    let mut fragments = frame(0x02, 0xfe, &[]);
    drop(fragments.splice(2..2, 60_000_u16.to_be_bytes()));
    fragments.resize(fragments.len() + 60_000, 0);
    let mut more = fragments.clone();
    more[0] = 0x00;
    let fragments = [fragments, more.repeat(20)].concat();
    for (what, bytes) in [
        ("a compressed frame", frame(0xc1, 0x80, &[])),
        ("a reserved bit", frame(0xa1, 0x80, &[])),
        ("an opcode of nobody's", frame(0x83, 0x80, &[])),
        ("a control opcode of nobody's", frame(0x8b, 0x80, &[])),
        ("a frame without a mask", vec![0x81, 0x01, b'x']),
        ("a text that is none", frame(0x81, 0x82, &[0xff, 0xfe])),
        ("a continuation of nothing", frame(0x80, 0x80, &[])),
        ("a ping in two parts", frame(0x09, 0x80, &[])),
        ("a ping that is too long", [&[0x89, 0xfe, 0x01, 0x00][..], &mask, &[0; 256]].concat()),
        ("a frame of all lengths", long),
        ("a frame that is one byte too long", negative),
        ("fragments without end", fragments),
        ("two messages in one", [frame(0x01, 0x81, b"a"), frame(0x81, 0x81, b"b")].concat()),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
    ] {
        let mut stream = raw(&net).await;
        // It may be closed before everything is written.
        let _ = stream.write_all(&bytes).await;
        let mut rest = Vec::new();
        let ended = timeout(SOON, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{what} does not end the connection");
    }
    assert_eq!(net.coordinator.stats().nodes, 0);
}

/// Becomes a WebSocket by hand, and asks for compression.
async fn raw(net: &Net) -> TcpStream {
    let key = key(&net.coordinator, net.account, KeyScope::Node).await;
    let mut stream = TcpStream::connect(net.address).await.unwrap();
    let head = format!(
        "GET /nodes/connect HTTP/1.1\r\nhost: iris\r\nauthorization: Bearer {key}\r\n\
         connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap().to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    assert!(!answer.contains("sec-websocket-extensions"), "nothing is compressed: {answer}");
    stream
}

#[tokio::test]
async fn whoever_registers_drop_by_drop_is_shown_out_in_time() {
    let net = Net::start().await;
    let mut stream = raw(&net).await;
    let begun = std::time::Instant::now();
    // A message of a megabyte, a byte at a time.
    let mut head = vec![0x81, 0xff];
    head.extend((1_u64 << 20).to_be_bytes());
    head.extend([0; 4]);
    stream.write_all(&head).await.unwrap();
    let (mut reading, mut writing) = stream.split();
    let mut rest = Vec::new();
    let drops = async {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        loop {
            pace.tick().await;
            let _ = writing.write_all(b" ").await;
        }
    };
    tokio::select! {
        _ = timeout(SOON, reading.read_to_end(&mut rest)) => {}
        () = drops => {}
    }
    assert!(begun.elapsed() < SOON, "the time for registration is over at last");
}
