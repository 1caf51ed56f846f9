//! The backend for OpenAI-compatible servers, against servers on loopback.
#![cfg(feature = "openai")]
// Where a test's own server or request cannot be made, the test has failed.
#![allow(clippy::unwrap_used)]

use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::{FutureExt, StreamExt, stream};
use iris_core::backend::{
    Backend, BackendError, Begun, Chunk, Finish, Gate, GenerateRequest, Operation, Usage,
};
use iris_core::conformance;
use iris_core::model::Abilities;
use iris_node::backend::openai::OpenAiBackend;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

mod hostile;
mod loading;
mod recorded;
mod server;

use server::{
    Asked, ModelServer, Stopped, delta, event, event_stream, events, honest, reply, stalling, text,
};

/// More time than any of these exchanges needs.
const AMPLE: Duration = Duration::from_secs(20);

fn request(stream: bool) -> GenerateRequest {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
    GenerateRequest {
        operation: Operation::Chat,
        model: "m".parse().unwrap(),
        body: body.to_string().into(),
        stream,
        time_left: AMPLE,
        begun: None,
        isolated: false,
    }
}

async fn answer(backend: &OpenAiBackend, stream: bool) -> Vec<Result<Chunk, BackendError>> {
    timeout(AMPLE, backend.generate(request(stream)).collect()).await.unwrap()
}

fn said(text: &str) -> Chunk {
    Chunk::Text(text.to_owned())
}

fn finished(reason: &str, prompt_tokens: u32, completion_tokens: u32) -> Chunk {
    let usage = Usage { prompt_tokens, completion_tokens };
    Chunk::Finished(Finish { reason: reason.to_owned(), usage })
}

#[tokio::test]
async fn meets_the_contract_of_backends() {
    let server = ModelServer::start(|asked| honest(&asked)).await;
    let backend = server.backend();
    timeout(AMPLE, conformance::backend::run_all(&backend, request(true))).await.unwrap();
}

#[tokio::test]
async fn streamed_answer_is_texts_and_their_end() {
    let server = ModelServer::start(|asked| honest(&asked)).await;
    let chunks = answer(&server.backend(), true).await;
    assert_eq!(chunks, [Ok(said("Hello")), Ok(said(" there")), Ok(finished("stop", 3, 2))]);
    let sent = server.asked()[0].json();
    assert_eq!(sent["stream_options"], json!({"include_usage": true}));
}

#[tokio::test]
async fn completions_have_a_path_and_a_form_of_their_own() {
    let server = ModelServer::start(|_| {
        events(&[
            json!({"choices": [{"index": 0, "text": "a", "finish_reason": null}]}),
            json!({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}),
        ])
    })
    .await;
    let body = Bytes::from_static(br#"{"model":"m","prompt":"Hi"}"#);
    let request = GenerateRequest { operation: Operation::Completion, body, ..request(true) };
    let chunks: Vec<_> = server.backend().generate(request).collect().await;
    assert_eq!(chunks, [Ok(said("a")), Ok(finished("length", 0, 0))]);
    assert_eq!(server.asked()[0].path, "/v1/completions");
}

#[tokio::test]
async fn tool_calls_are_passed_on_as_they_come() {
    let call = |index: &Value| json!({"tool_calls": [index]});
    let first = call(&json!({"index": 0, "id": "t1", "function": {"name": "f", "arguments": ""}}));
    let more = call(&json!({"index": 0, "function": {"arguments": "{\"a\":"}}));
    let sent = [first.clone(), more.clone()];
    let server = ModelServer::start(move |_| {
        let mut first = sent[0].clone();
        first["role"] = json!("assistant");
        events(&[
            delta(&first, &Value::Null),
            delta(&sent[1], &Value::Null),
            delta(&json!({}), &json!("tool_calls")),
        ])
    })
    .await;
    let chunks = answer(&server.backend(), true).await;
    let deltas: Vec<Value> = chunks[..2]
        .iter()
        .map(|chunk| match chunk {
            Ok(Chunk::Json(json)) => serde_json::from_slice::<Value>(json).unwrap(),
            other => panic!("{other:?}"),
        })
        .map(|json| json["choices"][0]["delta"].clone())
        .collect();
    assert_eq!(deltas, [first, more]);
    assert_eq!(chunks[2], Ok(finished("tool_calls", 0, 0)));
}

#[tokio::test]
async fn characters_may_be_split_between_reads() {
    let server = ModelServer::start(|_| {
        let stream = event(&text("a€𝄞")) + &event(&delta(&json!({}), &json!("stop")));
        let bytes: Vec<_> = stream.bytes().map(|byte| Ok(Bytes::from(vec![byte]))).collect();
        event_stream(stream::iter(bytes))
    })
    .await;
    let chunks = answer(&server.backend(), true).await;
    assert_eq!(chunks, [Ok(said("a€𝄞")), Ok(finished("stop", 0, 0))]);
}

#[tokio::test]
async fn error_in_mid_stream_follows_what_was_said() {
    let server = ModelServer::start(|_| {
        events(&[text("a"), json!({"error": {"message": "out of memory", "code": 500}})])
    })
    .await;
    let chunks = answer(&server.backend(), true).await;
    assert_eq!(chunks, [Ok(said("a")), Err(BackendError::Failed)]);
}

/// Answers with `events`, which are read up to the first chunk before the connection is cut, or
/// the stream ended in order.
async fn answer_cut_after(events: String, is_reset: bool) -> Vec<Result<Chunk, BackendError>> {
    let gate = Gate::new();
    let opened = gate.clone();
    let server = ModelServer::start(move |_| {
        let opened = opened.opened();
        let cut = async move {
            opened.await;
            is_reset.then(|| Err(io::Error::other("cut")))
        };
        let events = stream::iter([Ok(Bytes::from(events.clone()))]);
        event_stream(events.chain(stream::once(cut).filter_map(std::future::ready)))
    })
    .await;
    let mut chunks = server.backend().generate(request(true));
    let first = timeout(AMPLE, chunks.next()).await.unwrap();
    gate.open();
    let rest: Vec<_> = timeout(AMPLE, chunks.collect()).await.unwrap();
    first.into_iter().chain(rest).collect()
}

#[tokio::test]
async fn stream_that_is_cut_never_succeeds() {
    for is_reset in [false, true] {
        let chunks = answer_cut_after(event(&text("a")), is_reset).await;
        assert_eq!(chunks, [Ok(said("a")), Err(BackendError::Failed)], "reset: {is_reset}");
    }
}

#[tokio::test]
async fn complete_answer_survives_a_missing_end_mark() {
    for is_reset in [false, true] {
        let events = event(&text("a")) + &event(&delta(&json!({}), &json!("stop")));
        let chunks = answer_cut_after(events, is_reset).await;
        assert_eq!(chunks, [Ok(said("a")), Ok(finished("stop", 0, 0))], "reset: {is_reset}");
    }
}

#[tokio::test]
async fn whole_answer_that_is_cut_never_succeeds() {
    let server = ModelServer::start(|_| {
        event_stream(stream::iter([Ok(Bytes::from("{\"choices\":")), Err(io::Error::other("cut"))]))
    })
    .await;
    assert_eq!(answer(&server.backend(), false).await, [Err(BackendError::Failed)]);
}

#[tokio::test]
async fn event_without_end_is_malformed() {
    let server = ModelServer::start(|_| {
        let endless = stream::repeat_with(|| Ok(Bytes::from(vec![b'x'; 1 << 16])));
        event_stream(endless.take(64))
    })
    .await;
    assert_eq!(answer(&server.backend(), true).await, [Err(BackendError::Malformed)]);
}

#[tokio::test]
async fn dropping_an_answer_stops_the_server() {
    for is_streaming in [true, false] {
        let (stopped, has_stopped) = Stopped::new();
        let stopped = Arc::new(Mutex::new(Some(stopped)));
        let arrived = Gate::new();
        let arrival = arrived.clone();
        let server = ModelServer::start_waiting(move |_| {
            let stopped = stopped.lock().unwrap().take().expect("one request is made");
            arrival.open();
            async move {
                if !is_streaming {
                    let _held = stopped;
                    return pending().await;
                }
                event_stream(stalling(vec![event(&text("a"))], stopped))
            }
            .boxed()
        })
        .await;
        let mut chunks = server.backend().generate(request(is_streaming));
        if is_streaming {
            assert_eq!(timeout(AMPLE, chunks.next()).await.unwrap(), Some(Ok(said("a"))));
        } else {
            tokio::select! {
                chunk = chunks.next() => panic!("the server does not answer, but: {chunk:?}"),
                () = arrived.opened() => {}
            }
        }
        drop(chunks);
        let told = timeout(Duration::from_secs(1), has_stopped).await;
        assert!(told.is_ok(), "the server works on, streaming: {is_streaming}");
    }
}

#[tokio::test]
async fn time_runs_out_before_and_during_the_answer() {
    let waiting = ModelServer::start_waiting(|_| pending().boxed()).await;
    let stalled = ModelServer::start(|_| {
        let (stopped, _) = Stopped::new();
        event_stream(stalling(vec![event(&text("a"))], stopped))
    })
    .await;
    let busy = ModelServer::start(|_| {
        let comments = stream::repeat_with(|| Ok(Bytes::from_static(b": keep-alive\n\n")));
        event_stream(stream::iter([Ok(Bytes::from(event(&text("a"))))]).chain(comments))
    })
    .await;
    let time_left = Duration::from_millis(100);
    for (server, said_before) in [(&waiting, 0), (&stalled, 1), (&busy, 1)] {
        let chunks = server.backend().generate(GenerateRequest { time_left, ..request(true) });
        let chunks: Vec<_> = timeout(AMPLE, chunks.collect()).await.unwrap();
        assert_eq!(chunks.len(), said_before + 1);
        assert_eq!(chunks[said_before], Err(BackendError::Timeout));
    }
}

#[tokio::test]
async fn key_is_sent_and_never_told() {
    let server = ModelServer::start(|asked| {
        let key = asked.headers[header::AUTHORIZATION].to_str().unwrap().to_owned();
        let host = asked.headers[header::HOST].to_str().unwrap();
        let message = format!("{key} is not welcome at http://{host}/v1");
        reply(400, json!({"error": {"message": message, "param": key}}).to_string())
    })
    .await;
    let backend = server.builder().with_api_key("sk-secret").build().unwrap();
    let chunks = answer(&backend, true).await;
    assert_eq!(server.asked()[0].headers[header::AUTHORIZATION], "Bearer sk-secret");
    let [Err(error @ BackendError::Rejected { status: 400, .. })] = &chunks[..] else {
        panic!("{chunks:?}")
    };
    let told = format!("{error:?} {error} {backend:?}").replace(&format!("{:?}", server.url), "");
    assert!(error.to_string().contains("is not welcome"));
    assert!(!error.to_string().contains("127.0.0.1"), "{error}");
    assert!(!told.contains("sk-secret"), "{told}");
}

#[tokio::test]
async fn redirect_is_not_followed() {
    let server = ModelServer::start(|asked| {
        if asked.path == "/elsewhere" {
            return honest(&asked);
        }
        let elsewhere =
            format!("http://{}/elsewhere", asked.headers[header::HOST].to_str().unwrap());
        (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, elsewhere)]).into_response()
    })
    .await;
    assert_eq!(answer(&server.backend(), true).await, [Err(BackendError::Unavailable)]);
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn refusals_are_typed() {
    for (status, body, expected) in [
        (404, r#"{"error":{"message":"x","code":"model_not_found"}}"#, BackendError::ModelNotFound),
        (401, r#"{"error":{"message":"x"}}"#, BackendError::Unavailable),
        (429, r#"{"error":{"message":"x"}}"#, BackendError::Busy),
        (503, "", BackendError::Busy),
        (500, "boom", BackendError::Failed),
        (200, r#"{"error":{"message":"x","code":503}}"#, BackendError::Busy),
        (200, r#"{"hello":1}"#, BackendError::Malformed),
    ] {
        let server = ModelServer::start(move |_| reply(status, body)).await;
        for stream in [true, false] {
            let chunks = answer(&server.backend(), stream).await;
            assert_eq!(chunks, [Err(expected.clone())], "{status} {body}, stream: {stream}");
        }
    }
}

#[tokio::test]
async fn refused_request_never_reaches_the_server() {
    let server = ModelServer::start(|asked| honest(&asked)).await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data"}},
    ]}]});
    let request = GenerateRequest { body: body.to_string().into(), ..request(true) };
    let chunks: Vec<_> = server.backend().generate(request).collect().await;
    assert!(matches!(&chunks[..], [Err(BackendError::Rejected { status: 400, .. })]), "{chunks:?}");
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn absent_server_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let backend = OpenAiBackend::builder(url).build().unwrap();
    assert_eq!(answer(&backend, true).await, [Err(BackendError::Unavailable)]);
    assert_eq!(backend.models().await, Err(BackendError::Unavailable));
}

#[tokio::test]
async fn connections_are_used_again() {
    let server = ModelServer::start(|asked| honest(&asked)).await;
    let backend = server.backend();
    for _ in 0..10 {
        assert_eq!(answer(&backend, true).await.len(), 3);
        assert_eq!(answer(&backend, false).await.len(), 2);
    }
    let connections = server.connections();
    assert!(connections < 10, "{connections} connections for 20 answers");
}

#[tokio::test]
async fn server_may_end_a_complete_answer_in_its_own_time() {
    let gate = Gate::new();
    let (ended, has_ended) = oneshot::channel();
    let (opened, ended) = (gate.clone(), Arc::new(Mutex::new(Some(ended))));
    let server = ModelServer::start(move |asked| {
        if asked.json()["stream"] != true {
            return honest(&asked);
        }
        let (opened, ended) = (opened.opened(), ended.lock().unwrap().take());
        let end = async move {
            opened.await;
            let _ = ended.expect("one answer is streamed").send(());
        };
        let events = event(&text("a")) + "data: [DONE]\n\n";
        let end = stream::once(end).filter_map(|()| std::future::ready(None));
        event_stream(stream::iter([Ok(Bytes::from(events))]).chain(end))
    })
    .await;
    let backend = server.backend();
    assert_eq!(answer(&backend, true).await.len(), 2);
    assert_eq!(answer(&backend, false).await.len(), 2);
    gate.open();
    assert_eq!(timeout(AMPLE, has_ended).await.unwrap(), Ok(()));
}

#[tokio::test]
async fn replies_beyond_their_limit_are_not_read() {
    let server = ModelServer::start(|asked| {
        let is_list = asked.path == "/v1/models";
        let end = if is_list { r#"{"data":[]}"# } else { r#"{"error":{"message":"late"}}"# };
        let space = stream::repeat_with(|| Bytes::from(vec![b' '; 1 << 20])).take(16);
        let pieces = space.chain(stream::iter([Bytes::from(end)])).map(Ok::<_, io::Error>);
        let status = if is_list { StatusCode::OK } else { StatusCode::BAD_REQUEST };
        (status, Body::from_stream(pieces)).into_response()
    })
    .await;
    let backend = server.backend();
    assert_eq!(backend.models().await, Err(BackendError::Malformed));
    let chunks = answer(&backend, true).await;
    let [Err(error @ BackendError::Rejected { .. })] = &chunks[..] else { panic!("{chunks:?}") };
    assert_ne!(error.to_string(), "late");
}

#[tokio::test]
async fn kind_of_server_is_found_out_once_and_again_when_it_changes() {
    let kind = Arc::new(Mutex::new("llama.cpp"));
    let now = Arc::clone(&kind);
    let server = ModelServer::start(move |asked| {
        let props = json!({"default_generation_settings": {"n_ctx": 512}, "total_slots": 4});
        let instance = json!({"id": "m", "config": {"context_length": 1024, "parallel": 2}});
        let model = json!({"type": "llm", "key": "m", "loaded_instances": [instance]});
        match (*now.lock().unwrap(), &*asked.path) {
            ("llama.cpp", "/props") => reply(200, props.to_string()),
            ("llama.cpp", "/v1/models") => reply(200, r#"{"data":[{"id":"m"}]}"#),
            ("LM Studio", "/api/v1/models") => reply(200, json!({"models": [model]}).to_string()),
            _ => reply(404, "{}"),
        }
    })
    .await;
    let backend = server.backend();
    assert_eq!(backend.slots(), None);
    for requests in [5, 7] {
        assert_eq!(backend.models().await.unwrap()[0].context_length, 512);
        assert_eq!(server.asked().len(), requests);
    }
    assert_eq!(backend.slots(), Some(4));

    *kind.lock().unwrap() = "LM Studio";
    assert_eq!(backend.models().await.unwrap()[0].context_length, 1024);
    assert_eq!(backend.slots(), Some(2));

    *kind.lock().unwrap() = "none";
    assert_eq!(backend.models().await, Err(BackendError::Unavailable));
    assert_eq!(backend.slots(), None);
}

/// Answers like llama.cpp, which goes on from a last message by the assistant if it is told to.
fn llama_cpp(asked: &Asked) -> Response {
    const WORDS: [&str; 4] = ["one, ", "two,", " ", "three"];
    match &*asked.path {
        "/props" => {
            let settings = json!({"n_ctx": 512});
            let props = json!({"default_generation_settings": settings, "total_slots": 1,
                "build_info": "b5300-0123abc"});
            return reply(200, props.to_string());
        }
        "/v1/chat/completions" => {}
        _ => return honest(asked),
    }
    let body = asked.json();
    let last = body["messages"].as_array().and_then(|messages| messages.last());
    let begun = last.filter(|last| last["role"] == "assistant");
    if body["model"] != "m" || body["stream"] != true {
        return honest(asked);
    }
    let begun = begun.map_or("", |last| last["content"].as_str().unwrap());
    let whole = WORDS.concat();
    let rest = match body["continue_final_message"].as_bool() {
        Some(true) => whole.strip_prefix(begun).expect("it wrote the beginning itself"),
        _ => &whole,
    };
    let mut chunks = vec![delta(&json!({"role": "assistant", "content": null}), &Value::Null)];
    chunks.extend(rest.split_inclusive(' ').map(text));
    chunks.push(delta(&json!({}), &json!("stop")));
    for chunk in &mut chunks {
        chunk["system_fingerprint"] = json!("b5300-0123abc");
    }
    events(&chunks)
}

#[tokio::test]
async fn begun_answer_goes_on_at_servers_that_can() {
    let server = ModelServer::start(|asked| llama_cpp(&asked)).await;
    let backend = server.backend();
    let begun = |text: &str| {
        let begun = Some(Begun { text: text.to_owned(), tokens: 2 });
        GenerateRequest { begun, ..request(true) }
    };
    let early: Vec<_> = backend.generate(begun("one, ")).collect().await;
    assert_eq!(early, [Err(BackendError::Unavailable)], "it is not known yet what server it is");
    assert!(backend.models().await.unwrap()[0].abilities.contains(Abilities::CONTINUE));
    for (known, rest) in [
        ("one, ", &["two, ", "three"][..]),
        ("one, two,", &[" ", "three"]),
        ("one, two, ", &["three"]),
        ("one, two, three", &[]),
    ] {
        let chunks: Vec<_> = backend.generate(begun(known)).collect().await;
        let mut expected: Vec<_> = rest.iter().map(|text| Ok(said(text))).collect();
        expected.push(Ok(finished("stop", 0, 0)));
        assert_eq!(chunks, expected, "{known:?}");
    }
    let sent = server.asked().last().unwrap().json();
    let last = json!({"role": "assistant", "content": "one, two, three"});
    assert_eq!((&sent["messages"][1], &sent["continue_final_message"]), (&last, &json!(true)));
}

/// Measures a model server of yours:
/// `IRIS_TEST_MODEL_SERVER=http://127.0.0.1:8080 cargo test -p iris-node --test openai -- --ignored
/// --nocapture`. Its model must be in memory; at temperature 0 it should say the same twice.
#[tokio::test]
#[ignore = "needs a model server"]
async fn real_server_goes_on_from_any_place() {
    let Ok(url) = std::env::var("IRIS_TEST_MODEL_SERVER") else { return };
    let backend = OpenAiBackend::builder(url).build().unwrap();
    let offer = backend.models().await.unwrap().remove(0);
    let (mut cuts, mut same, mut alike) = (0, 0, 0);
    let prompts: Vec<Value> = include_str!("../data/prompts.jsonl")
        .lines()
        .step_by(5)
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for prompt in &prompts {
        let body = json!({"model": offer.name, "messages": prompt["messages"],
            "temperature": 0, "max_tokens": 120});
        let request = GenerateRequest {
            model: offer.name.clone(),
            body: body.to_string().into(),
            ..request(true)
        };
        let (whole, usage) = read(&backend, request.clone()).await;
        let (again, _) = read(&backend, request.clone()).await;
        alike += i32::from(whole == again);
        for place in 1..=whole.len() {
            let tokens = u32::try_from(place).unwrap();
            let begun = Some(Begun { text: whole[..place].concat(), tokens });
            let (rest, end) = read(&backend, GenerateRequest { begun, ..request.clone() }).await;
            cuts += 1;
            // White space that is kept back is written twice, so only the sum stays the same.
            let total = |usage: Usage| usage.prompt_tokens + usage.completion_tokens;
            let counted = total(end) == total(usage);
            same += i32::from(rest.concat() == whole[place..].concat() && counted);
        }
    }
    println!("{alike} of {} prompts answered alike twice", prompts.len());
    println!("{same} of {cuts} cut answers end as the uncut ones, with as many tokens in all");
}

/// Reads a streamed answer of plain text.
async fn read(backend: &OpenAiBackend, request: GenerateRequest) -> (Vec<String>, Usage) {
    let mut texts = Vec::new();
    let mut answer = backend.generate(request);
    while let Some(chunk) = answer.next().await {
        match chunk.unwrap() {
            Chunk::Text(text) => texts.push(text),
            Chunk::Finished(finish) => return (texts, finish.usage),
            Chunk::Json(_) | Chunk::Whole(_) => {}
        }
    }
    panic!("the answer has no end");
}

#[tokio::test]
async fn unknown_servers_models_have_the_configured_context() {
    let server = ModelServer::start(|asked| honest(&asked)).await;
    let offers =
        server.builder().with_context_length(2048).build().unwrap().models().await.unwrap();
    assert_eq!(offers[0].context_length, 2048);
    assert_eq!(server.backend().models().await.unwrap()[0].context_length, 4096);
}
