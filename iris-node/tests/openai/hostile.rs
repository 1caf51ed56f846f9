//! Model servers that mean their node harm.

use super::*;

fn endless(kind: &'static str, piece: &'static str) -> axum::response::Response {
    let pieces = stream::repeat(Bytes::from_static(piece.as_bytes())).map(Ok::<_, io::Error>);
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(pieces)).into_response()
}

#[tokio::test]
async fn streams_that_say_nothing_end_with_their_time() {
    for piece in [": comment\n\n", "event: x\n", "\n", "data: {\"choices\":[]}\n\n"] {
        let server = ModelServer::start(move |_| endless("text/event-stream", piece)).await;
        let limited = GenerateRequest { time_left: Duration::from_millis(300), ..request(true) };
        let chunks = server.backend().generate(limited).collect::<Vec<_>>();
        let chunks = timeout(AMPLE, chunks).await.unwrap();
        assert_eq!(chunks, [Err(BackendError::Timeout)], "{piece:?}");
    }
}

#[tokio::test]
async fn answers_without_end_are_malformed() {
    let space: &'static str = " ".repeat(1 << 20).leak();
    let server = ModelServer::start(move |_| endless("application/json", space)).await;
    for stream in [false, true] {
        assert_eq!(answer(&server.backend(), stream).await, [Err(BackendError::Malformed)]);
    }
}

#[tokio::test]
async fn lists_that_would_grow_when_read_are_malformed() {
    let entries = format!("{{\"data\":[{}{{\"id\":\"m\"}}]}}", "{\"id\":\"\"},".repeat(800_000));
    let server = ModelServer::start(move |asked| match asked.path.as_str() {
        "/v1/models" => reply(200, entries.clone()),
        _ => reply(404, ""),
    })
    .await;
    assert_eq!(server.backend().models().await, Err(BackendError::Malformed));
}

#[tokio::test]
async fn ten_thousand_models_are_cut_to_a_thousand() {
    let entries: Vec<_> = (0..10_000).map(|n| json!({"id": format!("m{n}")})).collect();
    let list = json!({ "data": entries }).to_string();
    let server = ModelServer::start(move |asked| match asked.path.as_str() {
        "/v1/models" => reply(200, list.clone()),
        _ => reply(404, ""),
    })
    .await;
    assert_eq!(server.backend().models().await.unwrap().len(), 1000);
}

#[tokio::test]
async fn names_that_hide_something_are_not_offered() {
    let names = ["a\nb", "\u{202e}evil", "", " a", "a\u{0}", "good", &"x".repeat(201), "\u{3164}"];
    let entries: Vec<_> = names.iter().map(|name| json!({ "id": name })).collect();
    let list = json!({ "data": entries }).to_string();
    let server = ModelServer::start(move |asked| match asked.path.as_str() {
        "/v1/models" => reply(200, list.clone()),
        _ => reply(404, ""),
    })
    .await;
    let offers = server.backend().models().await.unwrap();
    let offers: Vec<_> = offers.iter().map(|offer| offer.name.as_str()).collect();
    assert_eq!(offers, ["good"]);
}

#[tokio::test]
async fn slots_at_their_limits_are_told_as_they_are() {
    for (slots, told) in
        [("4294967295", Some(u32::MAX)), ("0", Some(0)), ("-1", None), ("1e9", None)]
    {
        let props = format!(
            r#"{{"default_generation_settings":{{"n_ctx":4294967295}},"total_slots":{slots}}}"#
        );
        let server = ModelServer::start(move |asked| match asked.path.as_str() {
            "/props" => reply(200, props.clone()),
            "/v1/models" => reply(200, r#"{"data":[{"id":"m"}]}"#),
            _ => reply(404, ""),
        })
        .await;
        let backend = server.backend();
        assert_eq!(backend.models().await.unwrap().len(), 1);
        assert_eq!(backend.slots(), told, "{slots}");
    }
}

#[tokio::test]
async fn compressed_answers_are_not_unpacked() {
    let server = ModelServer::start(|_| {
        let kind = (header::CONTENT_TYPE, "application/json");
        ([kind, (header::CONTENT_ENCODING, "gzip")], &b"\x1f\x8b\x08\0"[..]).into_response()
    })
    .await;
    for stream in [false, true] {
        assert_eq!(answer(&server.backend(), stream).await, [Err(BackendError::Malformed)]);
    }
    assert!(server.asked().iter().all(|a| !a.headers.contains_key(header::ACCEPT_ENCODING)));
}

#[tokio::test]
async fn prompts_follow_no_redirect_to_another_host() {
    let other = ModelServer::start(|asked| honest(&asked)).await;
    for status in [301, 302, 303, 307, 308] {
        let target = format!("{}/v1/chat/completions", other.url);
        let server = ModelServer::start(move |_| {
            let status = StatusCode::from_u16(status).unwrap();
            (status, [(header::LOCATION, target.clone())]).into_response()
        })
        .await;
        assert_eq!(answer(&server.backend(), true).await, [Err(BackendError::Unavailable)]);
        assert!(server.backend().models().await.is_err());
    }
    assert!(other.asked().is_empty());
}

#[tokio::test]
async fn nested_events_and_answers_are_malformed() {
    let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    let deep = format!(r#"{{"choices":[{{"finish_reason":"stop"}}],"x":{deep}}}"#);
    let server = ModelServer::start(move |asked| {
        if asked.json()["stream"] == true {
            let event = format!("data: {deep}\n\n");
            event_stream(stream::iter([Ok(Bytes::from(event))]))
        } else {
            reply(200, deep.clone())
        }
    })
    .await;
    for stream in [false, true] {
        assert_eq!(answer(&server.backend(), stream).await, [Err(BackendError::Malformed)]);
    }
}
