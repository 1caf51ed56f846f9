//! A backend of your own: `cargo run -p iris-examples --bin custom_backend`.
//!
//! This one answers without a model: it writes the question backwards, letter by letter. The
//! conformance suite proves that nodes can rely on it.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt};
use iris_coordinator::Coordinator;
use iris_core::ModelName;
use iris_core::backend::{Backend, BackendError, Chunk, Finish, GenerateRequest, Operation, Usage};
use iris_core::conformance;
use iris_core::model::ModelOffer;
use iris_core::store::MemoryStore;
use iris_crypto::{Identity, Secret};
use serde_json::{Map, Value, json};

use small_network::{AnyError, SmallNetwork};

mod small_network;

/// Writes questions backwards.
#[derive(Clone, Debug)]
struct Mirror {
    model: ModelName,
}

impl Backend for Mirror {
    fn models(&self) -> BoxFuture<'_, Result<Vec<ModelOffer>, BackendError>> {
        let offer = ModelOffer::new(self.model.clone(), 4096);
        async { Ok(vec![offer]) }.boxed()
    }

    fn generate(
        &self,
        request: GenerateRequest,
    ) -> BoxStream<'static, Result<Chunk, BackendError>> {
        let mirror = self.clone();
        // Nothing is done before the first poll, and nothing follows the end.
        stream::once(async move { stream::iter(mirror.answer(&request)) }).flatten().fuse().boxed()
    }
}

impl Mirror {
    fn answer(&self, request: &GenerateRequest) -> Vec<Result<Chunk, BackendError>> {
        match self.read(request) {
            Ok(question) => write(request, &question).into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        }
    }

    /// Finds the last message, or the prompt of a completion.
    fn read(&self, request: &GenerateRequest) -> Result<String, BackendError> {
        let body: Map<String, Value> =
            serde_json::from_slice(&request.body).map_err(|_| BackendError::Rejected {
                status: 400,
                code: None,
                param: None,
                message: "the body is not a JSON object".to_owned(),
            })?;
        if request.model != self.model {
            return Err(BackendError::ModelNotFound);
        }
        let question = match request.operation {
            Operation::Chat => body["messages"].as_array().and_then(|m| m.last()?.get("content")),
            Operation::Completion => body.get("prompt"),
            Operation::Embedding => body.get("input"),
        };
        Ok(question.and_then(Value::as_str).unwrap_or_default().to_owned())
    }
}

fn write(request: &GenerateRequest, question: &str) -> Vec<Chunk> {
    let letters: Vec<_> = question.chars().rev().map(String::from).collect();
    let count = u32::try_from(letters.len()).unwrap_or(u32::MAX);
    let usage = Usage { prompt_tokens: count, completion_tokens: count };
    let mut chunks: Vec<_> = if request.stream {
        letters.into_iter().map(Chunk::Text).collect()
    } else {
        let text = letters.concat();
        let choice = match request.operation {
            Operation::Chat => json!({ "message": { "role": "assistant", "content": text } }),
            Operation::Completion | Operation::Embedding => json!({ "text": text }),
        };
        vec![Chunk::Whole(json!({ "choices": [choice] }).to_string().into())]
    };
    chunks.push(Chunk::Finished(Finish { reason: "stop".to_owned(), usage }));
    chunks
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let model: ModelName = "mirror".parse()?;
    let mirror = Mirror { model: model.clone() };
    let example = GenerateRequest {
        operation: Operation::Chat,
        model,
        body: r#"{"model":"mirror","messages":[{"role":"user","content":"hello"}]}"#.into(),
        stream: true,
        time_left: Duration::from_secs(10),
        begun: None,
        isolated: false,
    };
    conformance::backend::run_all(&mirror, example).await;
    println!("The backend keeps its contract.");

    let store = Arc::new(MemoryStore::new());
    let builder = Coordinator::builder(store, Identity::generate(), Secret::generate());
    let network = SmallNetwork::start(builder, [Arc::new(mirror) as Arc<dyn Backend>]).await?;
    println!("{}", network.ask("mirror", "!sirI ,olleH").await?);
    network.stop().await;
    Ok(())
}
