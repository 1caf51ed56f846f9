//! How likely the engine finds its own tokens, and those of a text that it is given.

#![cfg(feature = "engine")]
// Helpers of tests fail like tests.
#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "nobody chats here")]
mod asking;

use std::io::Cursor;

use bytes::Bytes;
use candle_core::quantized::gguf_file::{self, Value as Metadata};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use iris_core::backend::{BackendError, Begun, Chunk, GenerateRequest, Operation};
use iris_core::score::{LogProb, TokenScore};
use iris_node::backend::engine::{BUNDLED_MODEL, Engine, EngineSettings};
use iris_protocol::openai::{PromptScores, ScoresError, read_logprobs};
use serde_json::{Value, json};

use crate::asking::{chunks, request};

const BUNDLED: &[u8] = include_bytes!("../model/iris-tiny-f16.gguf");
/// What a token's log probability may differ by, in nats, between reading it one by one and as
/// part of a whole text. With the bundled model they are the same to a millionth; larger ones go
/// through products that add up in another order.
const TOLERANCE: f64 = 0.001;

fn engine() -> Engine {
    Engine::bundled().expect("the bundled model loads")
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

/// Returns a body with some members more.
fn with(mut body: Value, members: &Value) -> Value {
    body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    body
}

/// Returns an answer that is not streamed.
async fn whole(engine: &Engine, operation: Operation, body: &Value) -> Bytes {
    match chunks(engine, request(operation, body, false)).await.unwrap().as_slice() {
        [Chunk::Whole(whole), Chunk::Finished(_)] => whole.clone(),
        other => panic!("unexpected {other:?}"),
    }
}

/// Returns the steps of a streamed answer, all of which list their tokens.
async fn steps(engine: &Engine, operation: Operation, body: &Value) -> Vec<Bytes> {
    let mut chunks = chunks(engine, request(operation, body, true)).await.unwrap();
    assert!(matches!(chunks.pop(), Some(Chunk::Finished(_))));
    let step = |chunk| match chunk {
        Chunk::Json(step) => step,
        other => panic!("unexpected {other:?}"),
    };
    chunks.into_iter().map(step).collect()
}

/// Returns why a request is refused.
async fn refused(engine: &Engine, request: GenerateRequest) -> Option<String> {
    match chunks(engine, request).await {
        Err(BackendError::Rejected { status: 400, param, .. }) => param,
        other => panic!("unexpected {other:?}"),
    }
}

fn json_of(bytes: &Bytes) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// Returns the body that has `answer` scored as the answer to `messages`.
fn scoring(messages: &Value, answer: &str, alternatives: u32) -> Value {
    let mut messages = messages.clone();
    messages.as_array_mut().unwrap().push(json!({"role": "assistant", "content": answer}));
    json!({
        "messages": messages, "add_generation_prompt": false, "continue_final_message": true,
        "max_tokens": 1, "prompt_logprobs": alternatives,
    })
}

async fn score(engine: &Engine, messages: &Value, answer: &str) -> Vec<TokenScore> {
    let answered = whole(engine, Operation::Chat, &scoring(messages, answer, 1)).await;
    PromptScores::read(&answered).unwrap().of_answer(answer).unwrap()
}

#[tokio::test]
async fn a_whole_answer_lists_its_tokens_as_openai_does() {
    let engine = engine();
    let body = json!({"messages": [user("What is 2 + 3?")]});
    let plain = json_of(&whole(&engine, Operation::Chat, &body).await);
    assert_eq!(plain["choices"][0]["logprobs"], Value::Null);
    assert!(plain.get("prompt_logprobs").is_none());

    let body = with(body, &json!({"logprobs": true, "top_logprobs": 3}));
    let answer = json_of(&whole(&engine, Operation::Chat, &body).await);
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"], plain["choices"][0]["message"], "the answer is the same");
    let list = &choice["logprobs"];
    assert_eq!(list["refusal"], Value::Null);
    let tokens = list["content"].as_array().unwrap();
    let text: String = tokens.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!(text, "2 + 3 = 5");
    for token in tokens {
        let (logprob, top) = (token["logprob"].as_f64().unwrap(), &token["top_logprobs"]);
        assert!(logprob <= 0.0, "{token}");
        assert_eq!(token["bytes"], json!(token["token"].as_str().unwrap().as_bytes()));
        let top = top.as_array().unwrap();
        assert_eq!(top.len(), 3);
        // The answer takes the likeliest.
        for member in ["token", "logprob", "bytes"] {
            assert_eq!(top[0][member], token[member]);
        }
        let falling = top.windows(2).all(|p| p[0]["logprob"].as_f64() >= p[1]["logprob"].as_f64());
        assert!(falling && top[0].as_object().unwrap().len() == 3, "{top:?}");
    }
    let none = with(body, &json!({"top_logprobs": 0, "max_tokens": 1}));
    let answer = json_of(&whole(&engine, Operation::Chat, &none).await);
    assert_eq!(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"], json!([]));
}

#[tokio::test]
async fn probabilities_are_those_before_sampling_parameters() {
    let engine = engine();
    let plain = json!({"messages": [user("What is a node?")], "logprobs": true, "max_tokens": 1,
        "top_logprobs": 20});
    let first = json_of(&whole(&engine, Operation::Chat, &plain).await);
    let top =
        |answer: &Value| answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"].clone();
    for parameters in [
        json!({"temperature": 2.0, "seed": 1}),
        json!({"temperature": 1.0, "top_k": 1, "seed": 1}),
        json!({"repeat_penalty": 5.0, "min_p": 0.9}),
    ] {
        let body = with(plain.clone(), &parameters);
        assert_eq!(top(&json_of(&whole(&engine, Operation::Chat, &body).await)), top(&first));
    }
    let sum: f64 = top(&first)
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token["logprob"].as_f64().unwrap().exp())
        .sum();
    assert!((0.9..1.0001).contains(&sum), "{sum}");
}

#[tokio::test]
async fn streamed_lists_are_the_parts_of_the_whole_one() {
    let engine = engine();
    for question in ["What is a node?", "How do you say \"child\" in Spanish?"] {
        let body = json!({"messages": [user(question)], "logprobs": true, "top_logprobs": 2});
        let answer = json_of(&whole(&engine, Operation::Chat, &body).await);
        let (mut text, mut tokens) = (String::new(), Vec::new());
        for step in steps(&engine, Operation::Chat, &body).await {
            let step = json_of(&step);
            let choice = &step["choices"][0];
            assert_eq!((&choice["index"], &choice["finish_reason"]), (&json!(0), &Value::Null));
            text += choice["delta"]["content"].as_str().unwrap();
            tokens.extend(choice["logprobs"]["content"].as_array().unwrap().clone());
        }
        let choice = &answer["choices"][0];
        assert_eq!(choice["message"]["content"], text);
        assert_eq!(choice["logprobs"]["content"], json!(tokens));
    }
}

#[tokio::test]
async fn tokens_are_listed_with_the_text_that_they_are() {
    let engine = engine();
    // Warm enough that characters fall apart into bytes that are none.
    for seed in 0..20 {
        let body = json!({"messages": [user("How do you say \"child\" in Spanish? ñ é ü")],
            "logprobs": true, "temperature": 2.0, "seed": seed, "max_tokens": 40});
        let answer = whole(&engine, Operation::Chat, &body).await;
        let tokens = read_logprobs(&answer).unwrap();
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.bytes.clone()).collect();
        let answer = json_of(&answer);
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        // Tokens that write nothing are named by their markers.
        let named = String::from_utf8_lossy(&bytes).replace("<|pad|>", "");
        assert!(named == text || named.contains("<|"), "{named:?} is not {text:?}");
        assert_eq!(answer["usage"]["completion_tokens"], tokens.len());
        let mut streamed = Vec::new();
        for step in steps(&engine, Operation::Chat, &body).await {
            streamed.extend(read_logprobs(&step).unwrap());
        }
        assert_eq!(streamed, tokens);
    }
}

#[tokio::test]
async fn tokens_of_a_stop_string_are_not_listed() {
    let engine = engine();
    let body = json!({"messages": [user("What is a node?")], "logprobs": true,
        "stop": ["runs a model", "never said"]});
    let expected = "A node is a machine that joins the Iris network, ";
    let answer = whole(&engine, Operation::Chat, &body).await;
    assert_eq!(json_of(&answer)["choices"][0]["message"]["content"], expected);
    let of = |tokens: Vec<iris_protocol::openai::AnswerToken>| {
        String::from_utf8(tokens.into_iter().flat_map(|token| token.bytes).collect()).unwrap()
    };
    let listed = of(read_logprobs(&answer).unwrap());
    // The last token may begin before the stop string does.
    assert!(expected.trim_end().len() <= listed.len() && listed.len() <= expected.len() + 4);
    let mut streamed = Vec::new();
    for step in steps(&engine, Operation::Chat, &body).await {
        streamed.extend(read_logprobs(&step).unwrap());
    }
    assert_eq!(of(streamed), listed);
    let at_once = json!({"messages": [user("What is a node?")], "logprobs": true, "stop": "A"});
    let answer = json_of(&whole(&engine, Operation::Chat, &at_once).await);
    assert_eq!(answer["choices"][0]["logprobs"], json!({"content": [], "refusal": null}));
}

#[tokio::test]
async fn completions_list_theirs_in_the_older_shape() {
    let engine = engine();
    let body = json!({"prompt": "<|user|>\nWhat is 2 + 3?<|end|>\n<|assistant|>\n", "logprobs": 2});
    let answer = json_of(&whole(&engine, Operation::Completion, &body).await);
    let (text, list) = (&answer["choices"][0]["text"], &answer["choices"][0]["logprobs"]);
    let tokens: Vec<&str> =
        list["tokens"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    assert_eq!((tokens.concat(), text), ("2 + 3 = 5".to_owned(), &json!("2 + 3 = 5")));
    let lengths = ["token_logprobs", "top_logprobs", "text_offset"]
        .map(|name| list[name].as_array().unwrap().len());
    assert_eq!(lengths, [tokens.len(); 3]);
    let mut offset = 0;
    for (at, token) in tokens.iter().enumerate() {
        assert_eq!(list["text_offset"][at], offset);
        offset += token.chars().count();
        assert_eq!(list["top_logprobs"][at].as_object().unwrap().len(), 2);
        assert_eq!(list["top_logprobs"][at][token], list["token_logprobs"][at]);
    }
    let mut streamed = Vec::new();
    for step in steps(&engine, Operation::Completion, &body).await {
        streamed.extend(
            json_of(&step)["choices"][0]["logprobs"]["text_offset"].as_array().unwrap().clone(),
        );
    }
    assert_eq!(json!(streamed), list["text_offset"]);
    let alone = with(body, &json!({"logprobs": 0, "max_tokens": 1}));
    let answer = json_of(&whole(&engine, Operation::Completion, &alone).await);
    assert_eq!(answer["choices"][0]["logprobs"]["top_logprobs"][0].as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn a_scored_prompt_has_vllms_shape() {
    let engine = engine();
    let messages = json!([user("What is 2 + 3?")]);
    let answer = whole(&engine, Operation::Chat, &scoring(&messages, "2 + 3 = 7", 4)).await;
    let answer = json_of(&answer);
    let places = answer["prompt_logprobs"].as_array().unwrap();
    assert_eq!(answer["usage"]["prompt_tokens"], places.len());
    assert_eq!(places[0], Value::Null);
    for place in &places[1..] {
        let place = place.as_object().unwrap();
        assert!((4..=5).contains(&place.len()), "{place:?}");
        let mut ranks = Vec::new();
        for (id, token) in place {
            assert!(id.parse::<u32>().is_ok(), "{id}");
            assert!(
                token["logprob"].as_f64().unwrap() <= 0.0 && token["decoded_token"].is_string()
            );
            ranks.push(token["rank"].as_u64().unwrap());
        }
        ranks.sort_unstable();
        assert_eq!(ranks[..4], [1, 2, 3, 4]);
    }
    let text: String = places[1..]
        .iter()
        .map(|place| {
            let actual = place.as_object().unwrap().values().max_by_key(|t| t["rank"].as_u64());
            actual.unwrap()["decoded_token"].as_str().unwrap().to_owned()
        })
        .collect();
    assert!(!text.is_empty());
    // For completions it stands in the choice.
    let body = json!({"prompt": "A node is", "max_tokens": 1, "prompt_logprobs": 0});
    let answer = json_of(&whole(&engine, Operation::Completion, &body).await);
    assert!(answer.get("prompt_logprobs").is_none());
    let places = answer["choices"][0]["prompt_logprobs"].as_array().unwrap();
    assert!(places.len() > 1 && places[1].as_object().unwrap().len() == 1, "{places:?}");
}

#[tokio::test]
async fn lists_are_refused_where_they_have_no_place() {
    let engine = engine();
    let messages = json!([user("What is 2 + 3?")]);
    let scored = scoring(&messages, "5", 1);
    let streamed = refused(&engine, request(Operation::Chat, &scored, true)).await;
    assert_eq!(streamed.as_deref(), Some("prompt_logprobs"));
    let body = json!({"messages": messages, "logprobs": true});
    let begun = Some(Begun { text: "2 +".to_owned(), tokens: 2 });
    let begun = GenerateRequest { begun, ..request(Operation::Chat, &body, true) };
    assert_eq!(refused(&engine, begun).await.as_deref(), Some("logprobs"));
    let long = scoring(&messages, &"What is 2 + 3? ".repeat(100), 1);
    let long = refused(&engine, request(Operation::Chat, &long, false)).await;
    assert_eq!(long.as_deref(), Some("messages"));
}

#[tokio::test]
async fn an_answer_is_scored_as_it_was_written() {
    let engine = engine();
    let (mut furthest, mut compared) = (0.0_f64, 0);
    for question in ["What is a node?", "What is 12 + 9?", "Reverse apple.", "What can you do?"] {
        let messages = json!([user(question)]);
        let body = json!({"messages": messages, "logprobs": true});
        let answer = whole(&engine, Operation::Chat, &body).await;
        let written = read_logprobs(&answer).unwrap();
        let answer = json_of(&answer);
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        let scores = score(&engine, &messages, text).await;
        // Where the text is spelt in its own tokens again, which it is not always.
        if scores.len() != written.len() {
            continue;
        }
        for (score, written) in scores.iter().zip(&written) {
            compared += 1;
            let apart = (score.logprob.micros() - written.logprob.micros()).abs();
            #[allow(clippy::cast_precision_loss)]
            let apart = apart as f64 / 1e6;
            furthest = furthest.max(apart);
        }
    }
    println!("{compared} tokens, at most {furthest} nats apart");
    assert!(compared > 30 && furthest < TOLERANCE, "{compared} {furthest}");
}

#[tokio::test]
async fn what_another_caller_had_scored_changes_nothing() {
    let engine = engine();
    let messages = json!([user("What is a node?")]);
    let body = scoring(&messages, "A node is a machine.", 20);
    let first = whole(&engine, Operation::Chat, &body).await;
    score(&engine, &messages, "A node is a fruit.").await;
    assert_eq!(whole(&engine, Operation::Chat, &body).await, first);
    let others = PromptScores::read(&first);
    assert_eq!(others, Err(ScoresError::NotOneAlternative), "it was asked for twenty");
}

/// Makes a copy of the bundled model, of weights that went through `change`.
fn altered(storage: GgmlDType, change: impl Fn(Tensor) -> Tensor) -> Engine {
    let mut reader = Cursor::new(BUNDLED);
    let content = gguf_file::Content::read(&mut reader).unwrap();
    let mut names: Vec<&String> = content.tensor_infos.keys().collect();
    names.sort();
    let tensors: Vec<(&str, QTensor)> = names
        .into_iter()
        .map(|name| {
            let tensor = content.tensor(&mut reader, name, &Device::Cpu).unwrap();
            let tensor = tensor.dequantize(&Device::Cpu).unwrap();
            let stored = if tensor.rank() == 1 {
                QTensor::quantize(&tensor, GgmlDType::F32)
            } else {
                QTensor::quantize(&change(tensor), storage)
            };
            (name.as_str(), stored.unwrap())
        })
        .collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let metadata: Vec<(&str, &Metadata)> =
        content.metadata.iter().map(|(name, value)| (name.as_str(), value)).collect();
    let mut file = Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
    let settings = EngineSettings::bytes(file.into_inner());
    Engine::load(settings.with_name(BUNDLED_MODEL.parse().unwrap())).unwrap()
}

/// Adds noise of a share of each weight's own size, drawn from a fixed seed.
fn noisy(share: f32) -> impl Fn(Tensor) -> Tensor {
    move |tensor| {
        let mut state = 7_u64;
        let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let noisy = values.into_iter().map(|value| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            #[allow(clippy::cast_precision_loss)]
            let unit = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
            value * (1.0 + unit * share)
        });
        Tensor::from_vec(noisy.collect::<Vec<_>>(), tensor.shape(), &Device::Cpu).unwrap()
    }
}

/// What a reference finds of another model's answers.
#[derive(Default)]
struct Found {
    tokens: u32,
    /// Tokens that are not the likeliest.
    others: u32,
    /// Differences of probabilities, between what the model says and what the reference finds, each
    /// counted up to a quarter.
    apart: f64,
}

impl Found {
    fn share(&self) -> f64 {
        f64::from(self.others) / f64::from(self.tokens)
    }

    fn distance(&self) -> f64 {
        self.apart / f64::from(self.tokens)
    }
}

/// Lets `model` answer some of the test's prompts, and `reference` score the answers.
async fn found(model: &Engine, reference: &Engine) -> Found {
    let prompts = include_str!("data/prompts.jsonl").lines().step_by(2);
    let mut found = Found::default();
    for prompt in prompts.map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let body = json!({"messages": prompt["messages"], "max_tokens": 60, "logprobs": true});
        let answer = whole(model, Operation::Chat, &body).await;
        let said = read_logprobs(&answer).unwrap();
        let answer = json_of(&answer);
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        let scores = score(reference, &prompt["messages"], text).await;
        // A text that is spelt in other tokens than its own tells nothing.
        if scores.len() != said.len() {
            continue;
        }
        for (score, said) in scores.iter().zip(&said) {
            #[allow(clippy::cast_precision_loss)]
            let share = |logprob: LogProb| (logprob.micros() as f64 / 1e6).exp();
            found.tokens += 1;
            found.others += u32::from(score.rank > 1);
            found.apart += (share(score.logprob) - share(said.logprob)).abs().min(0.25);
        }
    }
    found
}

#[tokio::test]
async fn own_answers_are_the_likeliest_and_those_of_other_weights_are_not() {
    let reference = engine();
    let copies = [
        ("the same file", engine()),
        ("Q4_0", altered(GgmlDType::Q4_0, |tensor| tensor)),
        ("noise", altered(GgmlDType::F16, noisy(0.5))),
    ];
    let mut all = Vec::new();
    for (name, copy) in copies {
        let found = found(&copy, &reference).await;
        let Found { tokens, others, .. } = found;
        println!("{name}: {others} of {tokens} not the likeliest, {:.5} apart", found.distance());
        assert!(tokens > 300, "{tokens}");
        all.push(found);
    }
    let [own, quantised, noisy] = &all[..] else { panic!("three copies") };
    assert!(own.share() <= 0.01 && noisy.share() > 0.05);
    assert!(own.distance() < 0.0005);
    assert!(quantised.distance() > 0.001 && noisy.distance() > 2.0 * quantised.distance());
}

#[tokio::test]
async fn another_text_is_not_what_the_model_would_say() {
    let engine = engine();
    let messages = json!([user("What is a node?")]);
    let other = "Bananas grow where it is warm, and nobody counts them.";
    let scores = score(&engine, &messages, other).await;
    let others = scores.iter().filter(|score| score.rank > 1).count();
    assert!(others * 4 > scores.len(), "{others} of {}", scores.len());
    assert!(scores.iter().all(|score| score.gap() >= 0 && (score.gap() == 0) == (score.rank == 1)));
}
