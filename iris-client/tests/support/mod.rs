//! A coordinator that says what a test tells it to say.

use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Response};
use futures::{Stream, StreamExt, stream};
use tokio::net::TcpListener;

#[cfg(feature = "cli")]
pub(crate) mod command;
pub(crate) mod sealed;

/// One request, as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) call: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: serde_json::Value,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A running coordinator on a free port.
#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Scripted {
    /// Starts a coordinator that answers the n-th request, from 0, with `script(n, request)`.
    pub(crate) async fn start(
        script: impl Fn(usize, &Seen) -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("the listener is bound"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, script) = (Arc::clone(&seen), Arc::new(script));
        let handler = move |request: Request| {
            let (log, script) = (Arc::clone(&log), Arc::clone(&script));
            async move {
                let (head, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 1 << 20).await.unwrap_or_default();
                let seen = Seen {
                    call: format!("{} {}", head.method, head.uri.path()),
                    query: head.uri.query().unwrap_or_default().to_owned(),
                    headers: head.headers,
                    body: serde_json::from_slice(&body).unwrap_or_default(),
                };
                let mut log = log.lock().expect("no test panics while it holds the log");
                log.push(seen.clone());
                script(log.len() - 1, &seen)
            }
        };
        let app = axum::Router::new().fallback(handler);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, seen }
    }

    /// Starts a coordinator that gives every request the same answer.
    pub(crate) async fn always(
        answer: impl Fn() -> Response<Body> + Send + Sync + 'static,
    ) -> Self {
        Self::start(move |_, _| answer()).await
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no test panics while it holds the log").clone()
    }
}

/// An answer of JSON, with further headers.
pub(crate) fn json(status: u16, headers: &[(&str, &str)], body: &str) -> Response<Body> {
    let mut answer = Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .header("x-request-id", "req-1");
    for (name, value) in headers {
        answer = answer.header(*name, *value);
    }
    answer.body(Body::from(body.to_owned())).expect("the test's answer is valid")
}

/// A refusal with a code.
pub(crate) fn refusal(status: u16, code: &str) -> Response<Body> {
    let body = serde_json::json!({ "error": {
        "message": format!("refused as {code}"), "type": "t", "param": null, "code": code,
    }});
    json(status, &[], &body.to_string())
}

/// A stream of events that comes in `pieces` and then ends.
pub(crate) fn events(pieces: Vec<String>) -> Response<Body> {
    event_stream(stream::iter(pieces))
}

/// A stream of events that comes in `pieces` and then stays open in silence.
pub(crate) fn events_then_silence(pieces: Vec<String>) -> Response<Body> {
    event_stream(stream::iter(pieces).chain(stream::pending()))
}

/// A stream of events.
pub(crate) fn event_stream(
    pieces: impl Stream<Item: Into<Bytes>> + Send + 'static,
) -> Response<Body> {
    let pieces = pieces.map(|piece| Ok::<Bytes, std::io::Error>(piece.into()));
    Response::builder()
        .header("content-type", "text/event-stream")
        .header("x-request-id", "req-1")
        .header("x-iris-node", NODE)
        .body(Body::from_stream(pieces))
        .expect("the test's answer is valid")
}

/// The event of one piece of text.
pub(crate) fn chunk(text: &str) -> String {
    let chunk = serde_json::json!({ "id": "c", "choices": [
        { "index": 0, "delta": { "content": text }, "finish_reason": null }
    ]});
    format!("data: {chunk}\n\n")
}

/// The event that ends the first choice.
pub(crate) fn finish(reason: &str) -> String {
    let chunk = serde_json::json!({ "id": "c", "choices": [
        { "index": 0, "delta": {}, "finish_reason": reason }
    ]});
    format!("data: {chunk}\n\n")
}

/// The event that ends a complete stream.
pub(crate) const DONE: &str = "data: [DONE]\n\n";

/// A whole answer that says `text`.
pub(crate) fn answer(text: &str) -> String {
    serde_json::json!({ "id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{ "index": 0, "message": { "role": "assistant", "content": text },
            "finish_reason": "stop" }] })
    .to_string()
}

/// A list of models.
pub(crate) fn models(names: &[&str]) -> String {
    let data: Vec<_> = names.iter().map(|name| serde_json::json!({ "id": name })).collect();
    serde_json::json!({ "object": "list", "data": data }).to_string()
}

/// A task's state.
pub(crate) fn task(status: &str, result: Option<&str>) -> String {
    let result = result.map(|text| {
        serde_json::json!({ "text": text, "finish_reason": "stop",
            "usage": { "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2 } })
    });
    serde_json::json!({ "id": TASK, "status": status, "created": 1, "model": "m",
        "result": result, "error": null })
    .to_string()
}

/// A new API key.
pub(crate) fn new_key(scope: &str) -> String {
    serde_json::json!({ "key": "iris_new", "scope": scope, "id": "0123456789abcdef01234567" })
        .to_string()
}

/// The id of the task in [`task`].
pub(crate) const TASK: &str = "0123456789abcdef0123456789abcdef";

/// The id of the node that answers.
pub(crate) const NODE: &str = "abcdefghijklmnopqrstuvwx27";

/// The events of a whole stream.
#[derive(Debug)]
pub(crate) struct SseEvents(Vec<String>);

impl SseEvents {
    pub(crate) fn of(text: &str) -> Self {
        let mut parser = iris_client::SseParser::new();
        parser.push(text.as_bytes()).expect("it is short");
        Self(std::iter::from_fn(|| parser.pop()).collect())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn last(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }

    pub(crate) fn json(&self, place: usize) -> serde_json::Value {
        serde_json::from_str(&self.0[place]).expect("the event is JSON")
    }

    /// What the first choice says.
    pub(crate) fn text(&self) -> String {
        let delta = |event: &String| {
            let event: serde_json::Value = serde_json::from_str(event).ok()?;
            event["choices"][0]["delta"]["content"].as_str().map(str::to_owned)
        };
        self.0.iter().filter_map(delta).collect()
    }
}
