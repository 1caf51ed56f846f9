//! A model server on loopback that answers as a test tells it.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt, stream};
use iris_node::backend::openai::{OpenAiBackend, OpenAiBackendBuilder};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// A request that the server got.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Asked {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

pub(crate) struct ModelServer {
    pub(crate) url: String,
    connections: Arc<AtomicUsize>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl ModelServer {
    /// Starts a server that gives each request to `answer`.
    pub(crate) async fn start<F, A>(answer: F) -> Self
    where
        F: Fn(Asked) -> A + Clone + Send + Sync + 'static,
        A: IntoResponse + 'static,
    {
        Self::start_waiting(move |asked| {
            let answer = answer(asked).into_response();
            async move { answer }.boxed()
        })
        .await
    }

    /// Starts a server whose answers may wait.
    pub(crate) async fn start_waiting<F>(answer: F) -> Self
    where
        F: Fn(Asked) -> BoxFuture<'static, Response> + Clone + Send + Sync + 'static,
    {
        let connections = Arc::new(AtomicUsize::new(0));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (counted, recorded) = (Arc::clone(&connections), Arc::clone(&asked));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let listener = listener.tap_io(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let router = Router::new().fallback(move |request: Request| {
            let (answer, recorded) = (answer.clone(), Arc::clone(&recorded));
            async move {
                let (parts, body) = request.into_parts();
                let path = parts.uri.path().to_owned();
                let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
                let asked = Asked { path, headers: parts.headers, body };
                recorded.lock().unwrap().push(asked.clone());
                answer(asked).await
            }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, connections, asked }
    }

    pub(crate) fn builder(&self) -> OpenAiBackendBuilder {
        OpenAiBackend::builder(&*self.url)
    }

    pub(crate) fn backend(&self) -> OpenAiBackend {
        self.builder().build().unwrap()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// Answers with a JSON document.
pub(crate) fn reply(status: u16, body: impl Into<String>) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    (status, [(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}

/// Answers with an event stream in the pieces given.
pub(crate) fn event_stream(
    pieces: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
) -> Response {
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(pieces)).into_response()
}

/// Answers with an event stream that is there at once.
pub(crate) fn events(data: &[Value]) -> Response {
    let stream: String = data.iter().map(event).collect::<String>() + "data: [DONE]\n\n";
    event_stream(stream::iter([Ok(Bytes::from(stream))]))
}

/// Writes one event.
pub(crate) fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}

/// Makes a chunk around the first choice's delta.
pub(crate) fn delta(delta: &Value, finish_reason: &Value) -> Value {
    let choice = json!({"index": 0, "delta": delta, "finish_reason": finish_reason});
    json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [choice]})
}

/// Makes a chunk of text.
pub(crate) fn text(content: &str) -> Value {
    delta(&json!({"content": content}), &Value::Null)
}

/// Answers like a small, honest server with the one model `m`.
pub(crate) fn honest(asked: &Asked) -> Response {
    if asked.path == "/v1/models" {
        return reply(200, r#"{"object":"list","data":[{"id":"m","object":"model"}]}"#);
    }
    if asked.path != "/v1/chat/completions" {
        return reply(404, r#"{"detail":"Not Found"}"#);
    }
    let body = asked.json();
    if body["model"] != "m" {
        let error = json!({"message": "no such model", "code": "model_not_found"});
        return reply(404, json!({ "error": error }).to_string());
    }
    let usage = json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5});
    if body["stream"] != true {
        let message = json!({"role": "assistant", "content": "Hello there"});
        let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
        let whole = json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [choice], "usage": usage});
        return reply(200, serde_json::to_string_pretty(&whole).unwrap());
    }
    let mut last = delta(&json!({}), &Value::Null);
    last["choices"] = json!([]);
    last["usage"] = usage;
    events(&[
        delta(&json!({"role": "assistant", "content": ""}), &Value::Null),
        text("Hello"),
        text(" there"),
        delta(&json!({}), &json!("stop")),
        last,
    ])
}

/// Tells when it is dropped, that is when the server stops working on an answer.
pub(crate) struct Stopped(Option<oneshot::Sender<()>>);

impl Stopped {
    pub(crate) fn new() -> (Self, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Some(sender)), receiver)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(());
        }
    }
}

/// Yields `pieces`, then nothing more, until the client goes away.
pub(crate) fn stalling(
    pieces: Vec<String>,
    stopped: Stopped,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send {
    let pieces = stream::iter(pieces).map(|piece| Ok::<_, Infallible>(Bytes::from(piece)));
    pieces.chain(stream::pending()).map(move |piece| {
        let _held = &stopped;
        Ok(piece.expect("infallible"))
    })
}
