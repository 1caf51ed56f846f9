//! The SDK against a coordinator that means it harm.

#[allow(dead_code, reason = "each test file uses its own part")]
mod support;

use axum::body::{Body, Bytes};
use axum::http::Response;
use futures::{StreamExt, stream};
use iris_client::{Client, ClientError, Cut, Partial, Policy};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn client(url: &str) -> Client {
    let builder = Client::builder(url).with_api_key("iris_k").with_policy(Policy::Open);
    builder.build().expect("the url is valid")
}

/// Streams an answer that should break off.
async fn cut(client: &Client) -> Partial {
    let stream = client.ask("m", "hi").stream().await.expect("it begins well");
    match stream.collect_text().await {
        Err(ClientError::Truncated(partial)) => *partial,
        other => panic!("not cut: {other:?}"),
    }
}

/// Answers with `piece` over and over.
fn endless(status: u16, kind: &str, piece: &'static [u8]) -> Response<Body> {
    let pieces = stream::repeat(Bytes::from_static(piece)).map(Ok::<_, std::io::Error>);
    Response::builder()
        .status(status)
        .header("content-type", kind)
        .body(Body::from_stream(pieces))
        .expect("the answer is valid")
}

#[tokio::test]
async fn answers_without_end_are_given_up() {
    static SPACE: [u8; 64 << 10] = [b' '; 64 << 10];
    let coordinator = Scripted::always(|| endless(200, "application/json", &SPACE)).await;
    let error = client(&coordinator.url).ask("m", "hi").await.unwrap_err();
    assert!(matches!(error, ClientError::Malformed { .. }), "{error:?}");
}

#[tokio::test]
async fn refusals_without_end_have_the_type_of_their_status() {
    static WORDS: [u8; 64 << 10] = [b'x'; 64 << 10];
    let coordinator = Scripted::always(|| endless(403, "application/json", &WORDS)).await;
    let error = client(&coordinator.url).ask("m", "hi").await.unwrap_err();
    assert!(matches!(error, ClientError::Forbidden(_)), "{error:?}");
}

#[tokio::test]
async fn answers_that_would_grow_when_read_are_not_read() {
    let zeros = "0,".repeat(4 << 20);
    let body = format!(r#"{{"choices":[],"x":[{zeros}0]}}"#);
    let coordinator = Scripted::always(move || json(200, &[], &body)).await;
    let error = client(&coordinator.url).ask("m", "hi").await.unwrap_err();
    let ClientError::Malformed { reason, .. } = &error else { panic!("{error:?}") };
    assert_eq!(reason, "it is too long");
}

#[tokio::test]
async fn comments_without_end_are_given_up() {
    static COMMENTS: &[u8] = &{
        let mut bytes = [b'\n'; 64 << 10];
        let mut at = 0;
        while at < bytes.len() {
            bytes[at] = b':';
            at += 4;
        }
        bytes
    };
    let coordinator = Scripted::always(|| endless(200, "text/event-stream", COMMENTS)).await;
    assert_eq!(cut(&client(&coordinator.url)).await.cause, Cut::TooLarge);
}

#[tokio::test]
async fn nested_answers_do_not_overflow_the_stack() {
    let deep = format!(r#"{{"choices":[],"x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let event = format!("data: {deep}\n\n");
    let coordinator = Scripted::start(move |_, seen| {
        if seen.body["stream"] == true {
            events(vec![chunk("a"), event.clone()])
        } else {
            json(200, &[], &deep)
        }
    })
    .await;
    let client = client(&coordinator.url);
    assert!(matches!(cut(&client).await.cause, Cut::Malformed(_)));
    let error = client.ask("m", "hi").await.unwrap_err();
    assert!(matches!(error, ClientError::Malformed { .. }), "{error:?}");
}

#[tokio::test]
async fn what_follows_the_end_mark_is_not_read() {
    let coordinator = Scripted::always(|| {
        events(vec![chunk("a"), DONE.to_owned(), chunk("b"), DONE.to_owned(), chunk("c")])
    })
    .await;
    let stream = client(&coordinator.url).ask("m", "hi").stream().await.unwrap();
    assert_eq!(stream.collect_text().await.unwrap().0, "a");
}

#[tokio::test]
async fn bytes_that_are_no_text_are_shown_as_such_and_do_not_break_the_line() {
    let coordinator = Scripted::always(|| {
        let pieces: [&[u8]; 3] = [
            b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\xff",
            b"\xf0\x9f\"}}]}\n\ndata: \xff\xfe\n\n",
            b"data: [DONE]\n\n",
        ];
        event_stream(stream::iter(pieces.map(Bytes::from_static)))
    })
    .await;
    let partial = cut(&client(&coordinator.url)).await;
    assert_eq!(partial.text, "a\u{fffd}\u{fffd}");
    assert!(matches!(partial.cause, Cut::Malformed(_)), "{:?}", partial.cause);
}

#[tokio::test]
async fn error_events_of_every_form_end_the_stream() {
    for (error, message) in [
        (r#""busy""#, "busy"),
        (r#"{"message":7,"code":[]}"#, "7"),
        (r#"{"message":"a\u0000b"}"#, "a\0b"),
        ("{}", ""),
    ] {
        let event = format!("data: {{\"error\":{error}}}\n\n");
        let coordinator =
            Scripted::always(move || events(vec![chunk("a"), event.clone(), DONE.to_owned()]))
                .await;
        let partial = cut(&client(&coordinator.url)).await;
        let Cut::Reported(detail) = partial.cause else { panic!("{error}: {:?}", partial.cause) };
        assert_eq!((partial.text.as_str(), detail.message.as_str()), ("a", message));
    }
    for error in ["7", "[]", "true"] {
        let event = format!("data: {{\"error\":{error}}}\n\n");
        let coordinator = Scripted::always(move || events(vec![event.clone()])).await;
        assert!(matches!(cut(&client(&coordinator.url)).await.cause, Cut::Malformed(_)), "{error}");
    }
}

#[tokio::test]
async fn compressed_answers_are_not_unpacked() {
    let coordinator =
        Scripted::always(|| json(200, &[("content-encoding", "gzip")], "\u{1f}\u{8b}")).await;
    let client = client(&coordinator.url);
    let error = client.ask("m", "hi").await.unwrap_err();
    assert!(matches!(error, ClientError::Malformed { .. }), "{error:?}");
    assert!(coordinator.seen()[0].header("accept-encoding").is_none());
}

#[tokio::test]
async fn a_key_follows_no_redirect_to_another_host() {
    let other = Scripted::always(|| json(200, &[], &models(&["a"]))).await;
    for status in [301, 302, 303, 307, 308] {
        let target = other.url.clone();
        let coordinator =
            Scripted::always(move || json(status, &[("location", &target)], "")).await;
        let client = client(&coordinator.url);
        assert!(client.models().await.is_err() && client.ask("m", "hi").await.is_err());
    }
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn numbers_at_their_limits_are_read_or_refused() {
    for (usage, total) in [("18446744073709551615", Some(u64::MAX)), ("-1", None), ("1e400", None)]
    {
        let event = format!("data: {{\"choices\":[],\"usage\":{{\"total_tokens\":{usage}}}}}\n\n");
        let coordinator =
            Scripted::always(move || events(vec![event.clone(), DONE.to_owned()])).await;
        let stream = client(&coordinator.url).ask("m", "hi").stream().await.unwrap();
        let read = stream.collect_text().await.ok().and_then(|(_, usage)| usage);
        assert_eq!(read.map(|usage| usage.total_tokens), total, "{usage}");
    }
    for wait in ["18446744073709551615", "99999999999999999999", "-1", "1e9", "NaN"] {
        let wait = wait.to_owned();
        let coordinator =
            Scripted::always(move || json(429, &[("retry-after", &wait)], "{}")).await;
        let error = client(&coordinator.url).models().await.unwrap_err();
        assert!(matches!(error, ClientError::RateLimited(_)), "{error:?}");
    }
}

/// Answers every connection with `answer`, again and again, whatever it asks.
async fn raw(answer: &'static [u8], again: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let mut sent = stream.write_all(answer).await;
                while sent.is_ok() && !again.is_empty() {
                    sent = stream.write_all(again).await;
                }
            });
        }
    });
    url
}

#[tokio::test]
async fn heads_without_end_and_answers_that_are_none_are_errors() {
    for (answer, again) in [
        (&b"HTTP/1.1 200 OK\r\n"[..], &b"x-a: b\r\n"[..]),
        (b"HTTP/1.1 200 OK\r\nx-long: ", b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef", b""),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n", b""),
        (b"SSH-2.0-OpenSSH\r\n", b""),
        (b"\x15\x03\x01\x00\x02\x02\x0a", b""),
    ] {
        let url = raw(answer, again).await;
        let error = client(&url).ask("m", "hi").await.unwrap_err();
        let is_typed = matches!(error, ClientError::Connection(_) | ClientError::Malformed { .. });
        assert!(is_typed, "{error:?}");
    }
}
