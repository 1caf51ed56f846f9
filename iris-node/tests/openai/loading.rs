//! Models that are loaded on demand, on stubs that follow the documented APIs of LM Studio and Ollama.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::response::Response;
use futures::StreamExt;
use iris_core::backend::{Backend, BackendError, Chunk, GenerateRequest};
use iris_core::memory::ByteSize;
use iris_core::residency::Capacity;
use iris_node::agent::ModelFilter;
use iris_node::backend::on_demand::{Loader, OnDemand};
use iris_node::backend::openai::OpenAiLoader;
use serde_json::{Value, json};

use crate::server::{Asked, ModelServer, delta, events, reply, text};

const MB: u64 = 1 << 20;

/// The models of a server, each of 600 MB, and which of them are loaded.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<BTreeSet<String>>>);

impl Shelf {
    const MODELS: [&str; 3] = ["small", "other", "by-hand"];

    fn set(&self, name: &str, loaded: bool) {
        let mut all = self.0.lock().unwrap();
        if loaded {
            all.insert(name.to_owned())
        } else {
            all.remove(name)
        };
    }

    fn has(&self, name: &str) -> bool {
        self.0.lock().unwrap().contains(name)
    }

    fn loaded(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().cloned().collect()
    }

    fn chat(&self, asked: &Asked) -> Response {
        let model = asked.json()["model"].as_str().unwrap().to_owned();
        if !self.has(&model) {
            return reply(404, r#"{"error":{"message":"not loaded","code":"model_not_found"}}"#);
        }
        events(&[text("Hi"), delta(&json!({}), &json!("stop"))])
    }

    fn lm_studio(&self, asked: &Asked) -> Response {
        let body = || asked.json();
        match &*asked.path {
            "/api/v1/models" => {
                let model = |name: &&str| {
                    let instance = json!({"id": name, "config": {"context_length": 4096}});
                    let instances: Vec<Value> =
                        self.has(name).then_some(instance).into_iter().collect();
                    json!({"type": "llm", "key": name, "size_bytes": 600 * MB, "params_string": "1B",
                        "quantization": {"name": "Q4_K_M"}, "max_context_length": 32768,
                        "loaded_instances": instances})
                };
                let models: Vec<_> = Self::MODELS.iter().map(model).collect();
                reply(200, json!({ "models": models }).to_string())
            }
            "/api/v1/models/load" => {
                let name = body()["model"].as_str().unwrap().to_owned();
                self.set(&name, true);
                reply(
                    200,
                    json!({"type": "llm", "instance_id": name, "status": "loaded"}).to_string(),
                )
            }
            "/api/v1/models/unload" => {
                let name = body()["instance_id"].as_str().unwrap().to_owned();
                self.set(&name, false);
                reply(200, json!({"instance_id": name}).to_string())
            }
            "/v1/chat/completions" => self.chat(asked),
            _ => reply(200, r#"{"error":"Unexpected endpoint or method."}"#),
        }
    }

    fn ollama(&self, asked: &Asked) -> Response {
        let body = || asked.json();
        let list = |names: Vec<String>| {
            let model = |name: &String| {
                let details = json!({"parameter_size": "1.2B", "quantization_level": "Q4_K_M"});
                json!({"name": name, "model": name, "size": 600 * MB, "details": details})
            };
            let models: Vec<_> = names.iter().map(model).collect();
            reply(200, json!({ "models": models }).to_string())
        };
        match &*asked.path {
            "/api/ps" => list(self.loaded()),
            "/api/tags" => list(Self::MODELS.map(str::to_owned).to_vec()),
            "/api/show" => reply(
                200,
                json!({"capabilities": ["completion"], "model_info": {
                "llama.block_count": 16, "llama.attention.head_count": 32,
                "llama.attention.head_count_kv": 8, "llama.embedding_length": 2048}})
                .to_string(),
            ),
            "/api/generate" => {
                let name = body()["model"].as_str().unwrap().to_owned();
                let stays = body()["keep_alive"] != 0;
                self.set(&name, stays);
                let reason = if stays { "load" } else { "unload" };
                reply(200, json!({"model": name, "done": true, "done_reason": reason}).to_string())
            }
            "/v1/chat/completions" => self.chat(asked),
            _ => reply(404, "404 page not found"),
        }
    }
}

fn on_demand(server: &ModelServer, models: &[&str], memory: u64) -> OnDemand {
    let loader = OpenAiLoader::new(server.backend(), ModelFilter::new(models));
    let (memory, stay) = (ByteSize::new(memory), Duration::ZERO);
    OnDemand::new(Arc::new(loader), Capacity { memory, waiting: 8, stay })
}

async fn ask(backend: &OnDemand, model: &str) -> Vec<Result<Chunk, BackendError>> {
    let body = json!({"model": model, "messages": [{"role": "user", "content": "Hi"}]});
    let model = model.parse().unwrap();
    let request = GenerateRequest { body: body.to_string().into(), model, ..super::request(true) };
    backend.generate(request).collect().await
}

async fn names(backend: &OnDemand) -> Vec<String> {
    backend.models().await.unwrap().into_iter().map(|offer| offer.name.to_string()).collect()
}

/// What is loaded by hand stays, and the others take turns in a memory that holds one of them.
async fn take_turns(answer: fn(&Shelf, &Asked) -> Response) -> Vec<Asked> {
    let shelf = Shelf::default();
    shelf.set("by-hand", true);
    let stub = shelf.clone();
    let server = ModelServer::start(move |asked| answer(&stub, &asked)).await;
    let backend = on_demand(&server, &["*"], 2600 * MB);
    assert_eq!(names(&backend).await, ["small", "other"], "the owner's is offered elsewhere");
    for model in ["small", "small", "other"] {
        let chunks = ask(&backend, model).await;
        assert!(matches!(chunks.last(), Some(Ok(Chunk::Finished(_)))), "{model}: {chunks:?}");
    }
    assert_eq!(shelf.loaded(), ["by-hand", "other"]);
    // It is offered here for as long as it was loaded here, and is loaded again once it has gone.
    assert_eq!(names(&backend).await, ["small", "other"]);
    shelf.set("other", false);
    names(&backend).await;
    assert_eq!(backend.resident().models, []);
    ask(&backend, "other").await;
    // What the owner has loaded meanwhile is used, and not unloaded.
    shelf.set("small", true);
    let chunks = ask(&backend, "small").await;
    assert!(matches!(chunks.last(), Some(Ok(Chunk::Finished(_)))), "{chunks:?}");
    assert_eq!(shelf.loaded(), ["by-hand", "small"]);
    ask(&backend, "other").await;
    assert_eq!(shelf.loaded(), ["by-hand", "other", "small"]);
    server.asked()
}

#[tokio::test]
async fn lm_studio_loads_and_unloads() {
    let asked = take_turns(Shelf::lm_studio).await;
    let loads: Vec<_> = asked.iter().filter(|asked| asked.path.ends_with("/load")).collect();
    assert_eq!(loads[0].json(), json!({"model": "small", "context_length": 4096}));
    let unload = asked.iter().find(|asked| asked.path.ends_with("/unload")).unwrap();
    assert_eq!(unload.json(), json!({"instance_id": "small"}));
}

#[tokio::test]
async fn ollama_loads_and_unloads() {
    let asked = take_turns(Shelf::ollama).await;
    let told: Vec<_> = asked.iter().filter(|asked| asked.path == "/api/generate").collect();
    assert_eq!(told[0].json(), json!({"model": "small", "keep_alive": "30m", "stream": false}));
    assert_eq!(told[1].json(), json!({"model": "small", "keep_alive": 0, "stream": false}));
    assert!(told.iter().all(|asked| asked.json().get("prompt").is_none()));
}

#[tokio::test]
async fn only_what_was_named_and_fits_is_offered() {
    let shelf = Shelf::default();
    let server = ModelServer::start(move |asked| shelf.ollama(&asked)).await;
    assert_eq!(names(&on_demand(&server, &["o*"], 2600 * MB)).await, ["other"]);
    // Weights, 128 MiB for 4096 tokens, and what the server takes besides.
    assert_eq!(names(&on_demand(&server, &["*"], 600 * MB)).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_server_that_cannot_load_is_told_of() {
    let shelf = Shelf::default();
    let server = ModelServer::start(move |asked| match &*asked.path {
        "/api/v1/models/load" => reply(500, r#"{"error":{"message":"out of memory"}}"#),
        _ => shelf.lm_studio(&asked),
    })
    .await;
    let backend = on_demand(&server, &["*"], 2600 * MB);
    names(&backend).await;
    assert_eq!(ask(&backend, "small").await, [Err(BackendError::Failed)]);
    let plain = ModelServer::start(|asked| crate::server::honest(&asked)).await;
    assert_eq!(names(&on_demand(&plain, &["*"], 2600 * MB)).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_may_have_been_loaded_is_unloaded_before_another_is_loaded() {
    let shelf = Shelf::default();
    let stub = shelf.clone();
    let server = ModelServer::start(move |asked| {
        let answer = stub.lm_studio(&asked);
        let is_small = &*asked.path == "/api/v1/models/load" && asked.json()["model"] == "small";
        if is_small { reply(200, "{") } else { answer }
    })
    .await;
    let backend = on_demand(&server, &["*"], 2600 * MB);
    names(&backend).await;
    assert_eq!(ask(&backend, "small").await, [Err(BackendError::Failed)]);
    assert!(matches!(ask(&backend, "other").await.last(), Some(Ok(Chunk::Finished(_)))));
    assert_eq!(shelf.loaded(), ["other"]);
    backend.close().await;
    assert_eq!(shelf.loaded(), Vec::<String>::new());
}

/// A server that refuses to unload a model once is asked again.
async fn unloads_again(answer: fn(&Shelf, &Asked) -> Response) {
    let shelf = Shelf::default();
    let (stub, refused) = (shelf.clone(), Arc::new(Mutex::new(false)));
    let server = ModelServer::start(move |asked| {
        let unloads = asked.path.ends_with("/unload")
            || &*asked.path == "/api/generate" && asked.json()["keep_alive"] == 0;
        if unloads && !std::mem::replace(&mut *refused.lock().unwrap(), true) {
            return reply(500, r#"{"error":{"message":"busy"}}"#);
        }
        answer(&stub, &asked)
    })
    .await;
    let loader = OpenAiLoader::new(server.backend(), ModelFilter::new(["*"]));
    let small = "small".parse().unwrap();
    loader.load(&small).await.unwrap();
    assert!(loader.unload(&small).await.is_err());
    assert!(shelf.has("small"));
    loader.unload(&small).await.unwrap();
    assert!(!shelf.has("small"));
}

#[tokio::test]
async fn lm_studio_is_asked_again_to_unload() {
    unloads_again(Shelf::lm_studio).await;
}

#[tokio::test]
async fn ollama_is_asked_again_to_unload() {
    unloads_again(Shelf::ollama).await;
}

#[tokio::test]
async fn a_model_that_ollama_could_not_tell_of_once_is_asked_for_again() {
    let (shelf, failed) = (Shelf::default(), Arc::new(Mutex::new(false)));
    let server = ModelServer::start(move |asked| {
        if &*asked.path == "/api/show" && !std::mem::replace(&mut *failed.lock().unwrap(), true) {
            return reply(500, r#"{"error":"busy"}"#);
        }
        shelf.ollama(&asked)
    })
    .await;
    let backend = on_demand(&server, &["small"], 2600 * MB);
    assert_eq!(names(&backend).await, Vec::<String>::new());
    assert_eq!(names(&backend).await, ["small"]);
}
