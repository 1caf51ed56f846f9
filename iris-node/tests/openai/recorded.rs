//! What is offered of model servers that answer as their documentation shows.

use iris_core::backend::Backend;
use iris_core::model::Abilities;

use crate::server::{ModelServer, reply};

/// Serves the replies at their paths, and nothing else.
async fn server(replies: &'static [(&'static str, &'static str)]) -> ModelServer {
    ModelServer::start(move |asked| {
        let found = replies.iter().find(|(path, _)| *path == asked.path);
        found.map_or_else(|| reply(404, "{}"), |(_, json)| reply(200, *json))
    })
    .await
}

/// What is read of a model: its name, context, parameters, way of storing and abilities.
type Read = (String, u32, Option<u64>, Option<String>, Abilities);

async fn offers(replies: &'static [(&'static str, &'static str)]) -> (Vec<Read>, Option<u32>) {
    let backend = server(replies).await.backend();
    let offers = backend.models().await.unwrap().into_iter().map(|offer| {
        let name = offer.name.to_string();
        (name, offer.context_length, offer.parameters, offer.quantization, offer.abilities)
    });
    (offers.collect(), backend.slots())
}

fn read(
    name: &str,
    context: u32,
    parameters: u64,
    quantization: &str,
    abilities: Abilities,
) -> Read {
    (name.to_owned(), context, Some(parameters), Some(quantization.to_owned()), abilities)
}

fn only_embeds() -> Abilities {
    Abilities::EMBEDDINGS.union(Abilities::MUTE)
}

#[tokio::test]
async fn lm_studio() {
    let (found, slots) =
        offers(&[("/api/v1/models", include_str!("recorded/lm_studio_v1.json"))]).await;
    let gemma = read("gemma-3-270m-it-qat", 4096, 270_000_000, "Q4_0", Abilities::JSON_SCHEMA);
    assert_eq!((found, slots), (vec![gemma], Some(1)));
}

#[tokio::test]
async fn lm_studio_before_0_4() {
    let (found, slots) =
        offers(&[("/api/v0/models", include_str!("recorded/lm_studio_v0.json"))]).await;
    let able = Abilities::JSON_SCHEMA.union(Abilities::VISION);
    let qwen = read("qwen2-vl-7b-instruct", 32_768, 7_000_000_000, "4bit", able);
    let nomic = "text-embedding-nomic-embed-text-v1.5";
    let vectors = (nomic.to_owned(), 2048, None, Some("Q4_0".to_owned()), only_embeds());
    assert_eq!((found, slots), (vec![qwen, vectors], Some(1)));
}

#[tokio::test]
async fn ollama() {
    let (found, slots) = offers(&[
        ("/api/ps", include_str!("recorded/ollama_ps.json")),
        ("/api/show", include_str!("recorded/ollama_show.json")),
    ])
    .await;
    let able = Abilities::JSON_SCHEMA.union(Abilities::VISION);
    assert_eq!(found, [read("gemma3", 4096, 4_299_915_632, "Q4_K_M", able)]);
    assert_eq!(slots, None);
}

#[tokio::test]
async fn llama_cpp() {
    let (found, slots) = offers(&[
        ("/props", include_str!("recorded/llama_cpp_props.json")),
        ("/v1/models", include_str!("recorded/llama_cpp_models.json")),
    ])
    .await;
    let able = Abilities::JSON_SCHEMA.union(Abilities::TOOLS).union(Abilities::LOGPROBS);
    assert_eq!(found, [read("gpt-4o-mini", 1024, 8_030_261_312, "Q4_K_M", able)]);
    assert_eq!(slots, Some(1));
}

#[tokio::test]
async fn vllm() {
    let (found, slots) = offers(&[("/v1/models", include_str!("recorded/vllm_models.json"))]).await;
    let able = [Abilities::LOGPROBS, Abilities::CONTINUE, Abilities::SCORE, Abilities::VISION];
    let able = able.into_iter().fold(Abilities::JSON_SCHEMA, Abilities::union);
    let chat = |name| read(name, 32_768, 7_000_000_000, "AWQ", able);
    let vectors = ("BAAI/bge-m3".to_owned(), 8192, None, None, only_embeds());
    assert_eq!(found, [chat("chat"), chat("sql-lora"), vectors]);
    assert_eq!(slots, None);
}
