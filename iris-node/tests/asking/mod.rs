//! Asking the engine for the bundled model's answers.

// Helpers of tests fail like tests.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use iris_core::backend::{Backend, BackendError, Chunk, Finish, GenerateRequest, Operation};
use iris_node::backend::engine::{BUNDLED_MODEL, Engine};
use serde_json::{Value, json};

pub(crate) fn request(operation: Operation, body: &Value, stream: bool) -> GenerateRequest {
    GenerateRequest {
        operation,
        model: BUNDLED_MODEL.parse().unwrap(),
        body: Bytes::from(body.to_string()),
        stream,
        time_left: Duration::from_mins(1),
        begun: None,
        isolated: false,
    }
}

pub(crate) fn question(text: &str) -> Value {
    json!({"model": BUNDLED_MODEL, "messages": [{"role": "user", "content": text}]})
}

pub(crate) async fn chunks(
    engine: &Engine,
    request: GenerateRequest,
) -> Result<Vec<Chunk>, BackendError> {
    engine.generate(request).collect::<Vec<_>>().await.into_iter().collect()
}

/// Streams a chat and returns its text and its end.
pub(crate) async fn chat(engine: &Engine, body: &Value) -> Result<(String, Finish), BackendError> {
    let mut text = String::new();
    for chunk in chunks(engine, request(Operation::Chat, body, true)).await? {
        match chunk {
            Chunk::Text(part) => text += &part,
            Chunk::Finished(finish) => return Ok((text, finish)),
            other => panic!("unexpected {other:?}"),
        }
    }
    panic!("the stream ended without an end");
}
