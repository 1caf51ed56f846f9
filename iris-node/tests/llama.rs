//! llama.cpp inside this process, in the engine's place.

#![cfg(feature = "llama-cpp")]
// Helpers of tests fail like tests.
#![allow(clippy::unwrap_used)]

mod asking;

use std::num::NonZeroUsize;
use std::path::Path;

use futures::StreamExt;
use futures::future::join_all;
use iris_core::backend::{Backend, BackendError, Chunk, Operation};
use iris_core::model::Abilities;
use iris_node::backend::engine::{BUNDLED_MODEL, Engine, EngineError, EngineSettings, Runner};
use serde_json::{Value, json};

use crate::asking::{chat, chunks, question, request};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/model/iris-tiny-f16.gguf");

fn settings(file: impl AsRef<Path>) -> EngineSettings {
    let name = BUNDLED_MODEL.parse().unwrap();
    EngineSettings::file(file.as_ref()).with_name(name).with_runner(Runner::LlamaCpp)
}

fn engine() -> Engine {
    Engine::load(settings(FILE)).unwrap()
}

/// Returns a whole answer.
async fn whole(engine: &Engine, body: &Value) -> Value {
    let answer = chunks(engine, request(Operation::Chat, body, false)).await.unwrap();
    let Some(Chunk::Whole(whole)) = answer.first() else { panic!("unexpected {answer:?}") };
    serde_json::from_slice(whole).unwrap()
}

#[tokio::test]
async fn it_keeps_the_contract_of_backends() {
    let engine = engine();
    let chat = request(Operation::Chat, &question("What is 2 + 3?"), true);
    iris_core::conformance::backend::run_all(&engine, chat).await;
    let body = json!({"model": BUNDLED_MODEL, "prompt": "<|user|>\nHello<|end|>\n<|assistant|>\n"});
    let completion = request(Operation::Completion, &body, true);
    iris_core::conformance::backend::run_all(&engine, completion).await;
}

#[tokio::test]
async fn the_offer_tells_what_the_file_is() {
    let offers = engine().models().await.unwrap();
    let [offer] = offers.as_slice() else { panic!("one model") };
    assert_eq!(offer.name.as_str(), BUNDLED_MODEL);
    assert_eq!((offer.context_length, offer.parameters), (512, Some(787_584)));
    assert_eq!(offer.quantization.as_deref(), Some("F16"));
    let able = [Abilities::CONTINUE, Abilities::JSON_SCHEMA, Abilities::LOGPROBS, Abilities::SCORE];
    assert_eq!(offer.abilities, able.into_iter().fold(Abilities::NONE, Abilities::union));
    let body = json!({"model": BUNDLED_MODEL, "input": "Hello"});
    let refused = chunks(&engine(), request(Operation::Embedding, &body, false)).await;
    assert!(matches!(refused, Err(BackendError::Rejected { status: 400, .. })), "{refused:?}");
}

#[tokio::test]
async fn it_answers_as_the_built_in_layers_do() {
    let (llama, built_in) = (engine(), Engine::bundled().unwrap());
    let (text, finish) = chat(&llama, &question("What is the capital of France?")).await.unwrap();
    assert_eq!(text, "The capital of France is Paris.");
    assert_eq!(finish.reason, "stop");
    let (mut same, mut all) = (0, 0);
    for line in include_str!("data/prompts.jsonl").lines().step_by(4) {
        let prompt: Value = serde_json::from_str(line).unwrap();
        let body = json!({"messages": prompt["messages"], "max_tokens": 160});
        let [one, other] = [chat(&llama, &body).await, chat(&built_in, &body).await];
        all += 1;
        same += usize::from(one.unwrap() == other.unwrap());
    }
    println!("{same} of {all} answers are worded alike");
    assert!(all == 25 && same >= 24, "{same} of {all}");
}

#[tokio::test]
async fn answers_side_by_side_are_the_answers_one_by_one() {
    let four = NonZeroUsize::new(4).unwrap();
    let engine = Engine::load(settings(FILE).with_slots(four).with_queue(four)).unwrap();
    let questions = ["What is 2 + 3?", "What is a node?", "Hello", "Reverse apple."];
    let bodies: Vec<_> = questions.iter().map(|text| question(text)).collect();
    let mut alone = Vec::new();
    for body in &bodies {
        alone.push(chat(&engine, body).await.unwrap());
    }
    for _ in 0..5 {
        let together = join_all(bodies.iter().map(|body| chat(&engine, body))).await;
        assert_eq!(together.into_iter().map(Result::unwrap).collect::<Vec<_>>(), alone);
    }
}

/// Starts an answer of more chunks than a stream buffers and reads the first.
async fn stalled(
    engine: &Engine,
) -> futures::stream::BoxStream<'static, Result<Chunk, BackendError>> {
    let mut answer = engine.generate(request(Operation::Chat, &question("What can you do?"), true));
    assert!(matches!(answer.next().await, Some(Ok(Chunk::Text(_)))));
    answer
}

#[tokio::test]
async fn a_full_queue_is_busy_and_a_dropped_stream_frees_its_slot() {
    let one = NonZeroUsize::MIN;
    let engine = Engine::load(settings(FILE).with_slots(one).with_queue(one)).unwrap();
    let hello = request(Operation::Chat, &question("Hello"), true);
    // More often than there are sequences: each is free again.
    for _ in 0..5 {
        let running = stalled(&engine).await;
        let mut waiting = engine.generate(hello.clone());
        assert!(futures::poll!(waiting.next()).is_pending());
        assert_eq!(engine.generate(hello.clone()).next().await, Some(Err(BackendError::Busy)));
        drop(running);
        let rest: Vec<_> = waiting.collect().await;
        assert!(matches!(rest.last(), Some(Ok(Chunk::Finished(_)))), "{rest:?}");
    }
}

#[tokio::test]
async fn the_context_bounds_prompt_and_answer() {
    for text in ["What is 2 + 3? ".repeat(60), "x".repeat(5_000_000)] {
        match chat(&engine(), &question(&text)).await {
            Err(BackendError::Rejected { status: 400, code, .. }) => {
                assert_eq!(code.as_deref(), Some("context_length_exceeded"));
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    let limit = NonZeroUsize::new(20).unwrap();
    let small = Engine::load(settings(FILE).with_context_limit(limit)).unwrap();
    assert_eq!(small.models().await.unwrap()[0].context_length, 20);
    // All slots to their end at once, more than once.
    for _ in 0..3 {
        let answers = [question("What is a node?"), question("What can you do?")];
        for answer in join_all(answers.iter().map(|body| chat(&small, body))).await {
            let finish = answer.unwrap().1;
            assert_eq!(finish.reason, "length");
            assert_eq!(finish.usage.prompt_tokens + finish.usage.completion_tokens, 20);
        }
    }
}

#[tokio::test]
async fn a_conversation_is_known_by_its_salt_and_answers_are_as_without() {
    let engine = engine();
    let mut body = question("What is a node?");
    let answer = whole(&engine, &body).await;
    body["messages"].as_array_mut().unwrap().extend([
        answer["choices"][0]["message"].clone(),
        json!({"role": "user", "content": "What is 2 + 3?"}),
    ]);
    let alone = whole(&engine, &body).await;
    let mut salted = body.clone();
    // Others come and go, and the oldest makes room.
    for salt in ["of mine, drawn at random", "of others, as random as.", "of a third, as random .."]
    {
        salted["cache_salt"] = json!(salt);
        assert_eq!(whole(&engine, &salted).await["choices"], alone["choices"]);
        let again = whole(&engine, &salted).await;
        assert_eq!(again["choices"], alone["choices"]);
        let known = &again["usage"]["prompt_tokens_details"]["cached_tokens"];
        assert_eq!(known.as_u64(), again["usage"]["prompt_tokens"].as_u64().map(|all| all - 1));
    }
}

#[tokio::test]
async fn schemas_draws_and_lists_of_tokens_are_the_engines() {
    let engine = engine();
    let mut body = question("What is the capital of France?");
    let schema = json!({"type": "object", "properties": {"size": {"type": "integer", "maximum": 9}},
        "required": ["size"], "additionalProperties": false});
    body["response_format"] = json!({"type": "json_schema", "json_schema": {"schema": schema}});
    let (text, _) = chat(&engine, &body).await.unwrap();
    assert!(serde_json::from_str::<Value>(&text).unwrap()["size"].is_i64(), "{text}");

    let mut body = question("Tell me about Iris.");
    (body["temperature"], body["seed"]) = (json!(2.0), json!(1));
    let first = chat(&engine, &body).await.unwrap();
    assert_eq!(chat(&engine, &body).await.unwrap(), first);
    body["seed"] = json!(2);
    assert_ne!(chat(&engine, &body).await.unwrap().0, first.0);

    let mut body = question("What is 2 + 3?");
    (body["logprobs"], body["top_logprobs"]) = (json!(true), json!(2));
    let [ours, theirs] =
        [whole(&engine, &body).await, whole(&Engine::bundled().unwrap(), &body).await];
    let [ours, theirs] = [ours, theirs].map(|answer| answer["choices"][0]["logprobs"].clone());
    let lists = [&ours, &theirs].map(|list| list["content"].as_array().unwrap());
    assert_eq!(lists[0].len(), lists[1].len());
    for (one, other) in lists[0].iter().zip(lists[1]) {
        assert_eq!(one["token"], other["token"]);
        let distance = one["logprob"].as_f64().unwrap() - other["logprob"].as_f64().unwrap();
        assert!(distance.abs() < 0.01, "{one} {other}");
    }
}

#[test]
fn damaged_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let sound = std::fs::read(FILE).unwrap();
    let written = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let mut endless = sound[..64].to_vec();
    endless[8..24].fill(0x7f);
    let files = [
        written("empty", b""),
        written("text", b"This is no model."),
        written("short", &sound[..5000]),
        written("shorter", &sound[..sound.len() / 2]),
        written("endless", &endless),
    ];
    for file in files {
        let refused = Engine::load(settings(&file)).unwrap_err();
        assert!(matches!(refused, EngineError::LlamaCpp(_)), "{file:?}: {refused}");
    }
    let missing = Engine::load(settings(folder.path().join("missing"))).unwrap_err();
    assert!(matches!(missing, EngineError::Io(_)), "{missing}");
    let many = |slots| Engine::load(settings(FILE).with_slots(NonZeroUsize::new(slots).unwrap()));
    assert!(many(65).is_ok() && many(128).is_ok());
    assert!(matches!(many(1000), Err(EngineError::LlamaCpp(_))));
    let bundled = EngineSettings::bundled().with_runner(Runner::LlamaCpp);
    assert!(matches!(Engine::load(bundled), Err(EngineError::LlamaCpp(_))));
}

/// The weights of the model inside the crate under the name of an architecture that the engine's
/// layers do not know, and that computes otherwise.
#[tokio::test]
async fn what_the_built_in_layers_do_not_know_is_given_to_llama_cpp() {
    let mut bytes = std::fs::read(FILE).unwrap();
    let name = b"llama";
    while let Some(at) = bytes.windows(name.len()).position(|window| window == name) {
        bytes[at..at + name.len()].copy_from_slice(b"gemma");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("iris-tiny.gguf");
    std::fs::write(&file, bytes).unwrap();
    let built_in = EngineSettings::file(&file).with_runner(Runner::BuiltIn);
    assert!(matches!(Engine::load(built_in), Err(EngineError::Unsupported(_))));
    let engine = Engine::load(EngineSettings::file(&file)).unwrap();
    let mut body = question("Hello");
    body["max_tokens"] = json!(5);
    let (_, finish) = chat(&engine, &body).await.unwrap();
    assert!(finish.usage.completion_tokens > 0);
}
