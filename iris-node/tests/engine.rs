//! The built-in engine, running the model inside the crate.

#![cfg(feature = "engine")]
// Helpers of tests fail like tests.
#![allow(clippy::unwrap_used)]

mod asking;

use std::num::NonZeroUsize;
use std::time::Duration;

use futures::StreamExt;
use iris_core::backend::{Backend, BackendError, Begun, Chunk, Finish, GenerateRequest, Operation};
use iris_core::model::Abilities;
use iris_node::backend::engine::{BUNDLED_MODEL, Engine, EngineSettings};
use serde_json::{Value, json};

use crate::asking::{chat, chunks, question, request};

fn engine() -> Engine {
    Engine::bundled().expect("the bundled model loads")
}

#[tokio::test]
async fn a_hundred_prompts_reach_the_files_own_score() {
    // Both numbers count exact answers: the engine's, and those that a second forward pass
    // gave over the same file (`model/recipe/reference.py`).
    let (mut ours, mut reference, mut same) = (0_i32, 0_i32, 0);
    let engine = engine();
    let prompts = include_str!("data/prompts.jsonl").lines();
    for prompt in prompts.map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let body = json!({"messages": prompt["messages"], "temperature": 0, "max_tokens": 160});
        let (text, _) = chat(&engine, &body).await.unwrap();
        let right = prompt["answer"].as_str().unwrap().trim();
        let theirs = prompt["reference"].as_str().unwrap().trim();
        ours += i32::from(text.trim() == right);
        reference += i32::from(theirs == right);
        same += i32::from(text.trim() == theirs);
    }
    println!("{ours} of 100 right, the reference {reference}, {same} worded alike");
    println!("{:?}", engine.models().await);
    assert!((ours - reference).abs() <= 2, "{ours} right, the reference {reference}");
    assert!(reference >= 90 && same >= 95, "the fixture belongs to another file");
}

#[tokio::test]
async fn the_engine_keeps_the_contract_of_backends() {
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
    let able = [
        Abilities::CONTINUE,
        Abilities::EMBEDDINGS,
        Abilities::JSON_SCHEMA,
        Abilities::LOGPROBS,
        Abilities::SCORE,
    ];
    assert_eq!(offer.abilities, able.into_iter().fold(Abilities::NONE, Abilities::union));
    assert_eq!(offer.speed, None);
}

#[tokio::test]
async fn speed_is_known_after_the_first_answer() {
    // With one slot, the first answer's speed is recorded before the second answer begins.
    let engine = one_slot();
    chat(&engine, &question("What is a node?")).await.unwrap();
    chat(&engine, &question("Bye")).await.unwrap();
    assert!(engine.models().await.unwrap()[0].speed.is_some());
}

#[tokio::test]
async fn a_whole_answer_counts_its_tokens() {
    let body = question("What is 2 + 3?");
    let engine = engine();
    let answer = chunks(&engine, request(Operation::Chat, &body, false)).await.unwrap();
    let [Chunk::Whole(whole), Chunk::Finished(finish)] = answer.as_slice() else {
        panic!("unexpected {answer:?}");
    };
    let whole: Value = serde_json::from_slice(whole).unwrap();
    let choice = &whole["choices"][0];
    assert_eq!(choice["message"]["content"], "2 + 3 = 5");
    assert_eq!((&choice["finish_reason"], &finish.reason), (&json!("stop"), &"stop".to_owned()));
    let usage = finish.usage;
    assert_eq!(whole["usage"]["total_tokens"], usage.prompt_tokens + usage.completion_tokens);
    let (text, streamed) = chat(&engine, &body).await.unwrap();
    assert_eq!((text.as_str(), streamed), ("2 + 3 = 5", finish.clone()));
}

#[tokio::test]
async fn an_answer_ends_at_its_limit_and_before_its_stop_string() {
    let engine = engine();
    let mut body = question("What is 2 + 3?");
    body["max_tokens"] = json!(3);
    let (text, finish) = chat(&engine, &body).await.unwrap();
    assert_eq!((text.as_str(), finish.reason.as_str()), ("2 + ", "length"));
    assert_eq!(finish.usage.completion_tokens, 3);

    let mut body = question("What is a node?");
    body["stop"] = json!(["runs a model", "never said"]);
    let (text, finish) = chat(&engine, &body).await.unwrap();
    assert_eq!(finish.reason, "stop");
    assert_eq!(text, "A node is a machine that joins the Iris network, ");
}

#[tokio::test]
async fn a_cut_answer_continues_where_it_ended() {
    let engine = engine();
    let (whole, _) = chat(&engine, &question("What is a node?")).await.unwrap();
    let (begun, rest) = whole.split_at(whole.find(" network").unwrap());
    let mut body = question("What is a node?");
    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(json!({"role": "assistant", "content": begun}));
    assert_eq!(chat(&engine, &body).await.unwrap().0, rest);
}

/// Streams what follows the beginning of an answer.
async fn rest(
    engine: &Engine,
    body: &Value,
    begun: &[String],
) -> Result<(String, Finish), BackendError> {
    let tokens = u32::try_from(begun.len()).unwrap();
    let begun = Some(Begun { text: begun.concat(), tokens });
    let mut text = String::new();
    let request = GenerateRequest { begun, ..request(Operation::Chat, body, true) };
    for chunk in chunks(engine, request).await? {
        match chunk {
            Chunk::Text(part) => text += &part,
            Chunk::Finished(finish) => return Ok((text, finish)),
            other => panic!("unexpected {other:?}"),
        }
    }
    panic!("the stream ended without an end");
}

/// Streams a chat and returns its pieces and its end.
async fn pieces(engine: &Engine, body: &Value) -> (Vec<String>, Finish) {
    let mut pieces = Vec::new();
    for chunk in chunks(engine, request(Operation::Chat, body, true)).await.unwrap() {
        match chunk {
            Chunk::Text(part) => pieces.push(part),
            Chunk::Finished(finish) => return (pieces, finish),
            other => panic!("unexpected {other:?}"),
        }
    }
    panic!("the stream ended without an end");
}

#[tokio::test]
async fn an_answer_cut_anywhere_goes_on_as_if_nothing_had_happened() {
    let engine = engine();
    let prompts = include_str!("data/prompts.jsonl").lines().enumerate();
    let (mut cuts, mut same) = (0, 0);
    for (number, prompt) in prompts.map(|(n, line)| (n, serde_json::from_str(line).unwrap())) {
        let prompt: Value = prompt;
        let body = json!({"messages": prompt["messages"], "max_tokens": 160});
        let (pieces, finish) = pieces(&engine, &body).await;
        // Every tenth answer is cut after each of its pieces, the others in their middle.
        let places = if number % 10 == 0 {
            (1..=pieces.len()).collect()
        } else {
            vec![pieces.len().div_ceil(2)]
        };
        for place in places {
            let (text, end) = rest(&engine, &body, &pieces[..place]).await.unwrap();
            cuts += 1;
            same += i32::from(text == pieces[place..].concat() && end == finish);
        }
    }
    println!("{same} of {cuts} cut answers end as the uncut ones, with the same usage");
    assert!(cuts > 200, "the fixture has longer answers");
    assert_eq!(same, cuts);
}

#[tokio::test]
async fn stops_limits_and_draws_count_what_was_begun() {
    let engine = engine();
    let settings = [
        json!({"stop": ["runs a model"]}),
        json!({"stop": ["Iris net", "never said"]}),
        json!({"max_tokens": 12}),
        json!({"temperature": 1.5, "seed": 7}),
        json!({"temperature": 0.7, "seed": 3, "frequency_penalty": 1.0, "top_p": 0.9}),
        json!({"presence_penalty": 1.5, "repeat_penalty": 1.3}),
    ];
    for setting in settings {
        let mut body = question("What is a node?");
        body.as_object_mut().unwrap().extend(setting.as_object().unwrap().clone());
        let (pieces, finish) = pieces(&engine, &body).await;
        for place in (1..=pieces.len()).step_by(4) {
            let (text, end) = rest(&engine, &body, &pieces[..place]).await.unwrap();
            let whole = pieces[..place].concat() + &text;
            assert_eq!(whole, pieces.concat(), "{setting} after {place}");
            assert_eq!(end, finish, "{setting} after {place}");
        }
    }
}

#[tokio::test]
async fn what_another_model_began_is_gone_on_from_as_well() {
    let engine = engine();
    let body = question("What is a node?");
    for begun in ["A nod", "Ein Knoten ist ", "€ é \u{fffd}", " A node", "<|end|>"] {
        let (text, finish) = rest(&engine, &body, &[begun.to_owned()]).await.unwrap();
        assert!(["stop", "length"].contains(&finish.reason.as_str()), "{begun:?} {text:?}");
        assert!(!text.starts_with(begun), "{begun:?} comes once: {text:?}");
    }
    let (text, _) = rest(&engine, &body, &["A nod".to_owned()]).await.unwrap();
    assert!(text.starts_with("e is a machine"), "{text:?}");
    let long = rest(&engine, &body, &["x ".repeat(100_000)]).await;
    assert!(matches!(long, Err(BackendError::Rejected { status: 400, .. })), "{long:?}");
}

#[tokio::test]
async fn the_context_bounds_prompt_and_answer() {
    let engine = engine();
    for text in ["What is 2 + 3? ".repeat(60), "x".repeat(5_000_000)] {
        match chat(&engine, &question(&text)).await {
            Err(BackendError::Rejected { status: 400, code, param, .. }) => {
                assert_eq!(code.as_deref(), Some("context_length_exceeded"));
                assert_eq!(param.as_deref(), Some("messages"));
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    let limit = NonZeroUsize::new(20).unwrap();
    let small = Engine::load(EngineSettings::bundled().with_context_limit(limit)).unwrap();
    assert_eq!(small.models().await.unwrap()[0].context_length, 20);
    let (_, finish) = chat(&small, &question("What is a node?")).await.unwrap();
    let usage = finish.usage;
    assert_eq!(finish.reason, "length");
    assert_eq!(usage.prompt_tokens + usage.completion_tokens, 20);
}

#[tokio::test]
async fn a_seed_fixes_a_warm_answer() {
    let engine = engine();
    let mut body = question("Tell me about Iris.");
    (body["temperature"], body["seed"]) = (json!(2.0), json!(1));
    let first = chat(&engine, &body).await.unwrap();
    assert_eq!(chat(&engine, &body).await.unwrap(), first);
    body["seed"] = json!(2);
    assert_ne!(chat(&engine, &body).await.unwrap().0, first.0);
}

#[tokio::test]
async fn answers_side_by_side_are_the_answers_one_by_one() {
    let engine = engine();
    let questions = ["What is 2 + 3?", "What is a node?", "Hello", "Reverse apple."];
    let bodies: Vec<_> = questions.iter().map(|text| question(text)).collect();
    let mut alone = Vec::new();
    for body in &bodies {
        alone.push(chat(&engine, body).await.unwrap());
    }
    let together = futures::future::join_all(bodies.iter().map(|body| chat(&engine, body))).await;
    assert_eq!(together.into_iter().map(Result::unwrap).collect::<Vec<_>>(), alone);
}

/// An engine with one slot and room for one request that waits.
fn one_slot() -> Engine {
    let one = NonZeroUsize::MIN;
    Engine::load(EngineSettings::bundled().with_slots(one).with_queue(one)).unwrap()
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
    let engine = one_slot();
    let hello = request(Operation::Chat, &question("Hello"), true);
    let running = stalled(&engine).await;
    let mut waiting = engine.generate(hello.clone());
    assert!(futures::poll!(waiting.next()).is_pending());
    assert_eq!(engine.generate(hello).next().await, Some(Err(BackendError::Busy)));
    drop(running);
    let rest: Vec<_> = waiting.collect().await;
    assert!(matches!(rest.last(), Some(Ok(Chunk::Finished(_)))), "{rest:?}");
}

#[tokio::test]
async fn a_finished_answer_has_left_its_place() {
    let engine = one_slot();
    for _ in 0..20 {
        let both = [question("Hello"), question("Bye")];
        let answers = futures::future::join_all(both.iter().map(|body| chat(&engine, body))).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }
}

#[tokio::test]
async fn time_runs_out_in_the_queue_too_and_harms_nobody_else() {
    let engine = one_slot();
    let running = stalled(&engine).await;
    let mut late = request(Operation::Chat, &question("Hello"), true);
    late.time_left = Duration::from_millis(5);
    let answer: Vec<_> = engine.generate(late).collect().await;
    assert_eq!(answer, [Err(BackendError::Timeout)]);
    let rest: Vec<_> = running.collect().await;
    assert!(matches!(rest.last(), Some(Ok(Chunk::Finished(_)))), "{rest:?}");
}

#[tokio::test]
async fn engines_outlive_their_handles_while_streams_need_them() {
    let engine = engine();
    let answer = engine.generate(request(Operation::Chat, &question("Hello"), true));
    drop(engine);
    assert!(matches!(answer.collect::<Vec<_>>().await.last(), Some(Ok(Chunk::Finished(_)))));
}

#[tokio::test]
async fn tools_and_parts_and_unknown_members_do_no_harm() {
    let mut body = question("");
    body["messages"][0]["content"] = json!([{"type": "text", "text": "What is 2 + 3?"}]);
    body["tools"] = json!([{"type": "function", "function": {"name": "add"}}]);
    body["tool_choice"] = json!("auto");
    body["ttl"] = json!(60);
    assert_eq!(chat(&engine(), &body).await.unwrap().0, "2 + 3 = 5");
}

/// Sends a chat that is not streamed; returns its text and how much of its prompt was known.
async fn known(engine: &Engine, body: &Value, isolated: bool) -> (String, u64) {
    let request = GenerateRequest { isolated, ..request(Operation::Chat, body, false) };
    let answer = chunks(engine, request).await.unwrap();
    let Some(Chunk::Whole(whole)) = answer.first() else { panic!("unexpected {answer:?}") };
    let whole: Value = serde_json::from_slice(whole).unwrap();
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    (text, whole["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0))
}

#[tokio::test]
async fn a_conversation_is_known_to_whoever_brings_its_salt_and_to_nobody_else() {
    let engine = engine();
    let salted = |salt: &str, mut body: Value| {
        body["cache_salt"] = json!(salt);
        body
    };
    let (mine, theirs) = ("mine, drawn at random 01", "theirs, drawn at random 2");
    let first = question("What is a node?");
    let (answer, before) = known(&engine, &salted(mine, first.clone()), false).await;
    let mut second = first.clone();
    second["messages"].as_array_mut().unwrap().extend([
        json!({"role": "assistant", "content": answer}),
        json!({"role": "user", "content": "What is 2 + 3?"}),
    ]);
    let (alone, nothing) = known(&engine, &second, false).await;
    assert_eq!((before, nothing), (0, 0), "no salt, nothing known");
    assert_eq!(known(&engine, &salted(theirs, second.clone()), false).await.1, 0);
    assert_eq!(known(&engine, &salted(mine, second.clone()), true).await.1, 0, "isolated");
    let (text, known_tokens) = known(&engine, &salted(mine, second), false).await;
    assert_eq!(text, alone);
    assert!(known_tokens > 20, "{known_tokens} tokens of the first turn were known");
}

#[tokio::test]
async fn an_answer_keeps_to_its_schema_whatever_the_model_would_say() {
    let engine = engine();
    let schema = json!({
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 12},
            "tags": {"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 3},
            "size": {"type": "integer", "minimum": 0, "maximum": 99},
            "found": {"type": "boolean"},
        },
        "required": ["city", "tags", "size", "found"],
        "additionalProperties": false,
    });
    let mut answers = Vec::new();
    for (temperature, seed) in [(0.0, 0), (1.0, 1), (2.0, 2), (2.0, 3), (1.5, 4)] {
        let mut body = question("What is the capital of France?");
        body["response_format"] = json!({"type": "json_schema", "json_schema": {"schema": schema}});
        (body["temperature"], body["seed"]) = (json!(temperature), json!(seed));
        let (text, finish) = chat(&engine, &body).await.unwrap();
        let found: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text:?}"));
        assert_eq!(finish.reason, "stop");
        assert_eq!(found.as_object().unwrap().len(), 4, "{text}");
        assert!(found["city"].as_str().unwrap().chars().count() <= 12, "{text}");
        let tags = found["tags"].as_array().unwrap();
        assert!(tags.len() <= 3 && tags.iter().all(|tag| tag == "x" || tag == "y"), "{text}");
        assert!(found["size"].as_u64().unwrap() <= 99 && found["found"].is_boolean(), "{text}");
        answers.push(text);
    }
    answers.dedup();
    assert!(answers.len() > 2, "chance has its part: {answers:?}");
}

#[tokio::test]
async fn an_answer_by_a_schema_is_continued_inside_of_it() {
    let engine = engine();
    let mut body = question("What is a node?");
    let schema = json!({"type": "object", "properties": {"a": {"type": "string", "maxLength": 20}},
        "required": ["a"], "additionalProperties": false});
    body["response_format"] = json!({"type": "json_schema", "json_schema": {"schema": schema}});
    let (pieces, _) = pieces(&engine, &body).await;
    for place in 1..=pieces.len() {
        // What was chosen under a schema may be spelt again in other tokens, and go on otherwise.
        let (text, finish) = rest(&engine, &body, &pieces[..place]).await.unwrap();
        let whole = pieces[..place].concat() + &text;
        let found: Value = serde_json::from_str(&whole).unwrap_or_else(|_| panic!("{whole:?}"));
        assert!(found["a"].as_str().unwrap().chars().count() <= 20, "{whole}");
        assert_eq!((found.as_object().unwrap().len(), finish.reason.as_str()), (1, "stop"));
    }
    let other = ["A node is a machine that joins the network".to_owned()];
    let other = rest(&engine, &body, &other).await;
    assert!(matches!(other, Err(BackendError::Rejected { status: 400, .. })));
}

#[tokio::test]
async fn a_schema_that_cannot_be_kept_to_is_refused() {
    let mut body = question("Hi");
    let schema = json!({"type": "object", "unevaluatedProperties": false});
    body["response_format"] = json!({"type": "json_schema", "json_schema": {"schema": schema}});
    let refused = chat(&engine(), &body).await;
    let Err(BackendError::Rejected { status: 400, param, message, .. }) = refused else {
        panic!("not refused: {refused:?}");
    };
    assert_eq!(param.as_deref(), Some("response_format"));
    assert!(message.contains("unevaluatedProperties"), "{message}");
}

/// Asks for vectors; returns them, and how many tokens were read.
async fn vectors(engine: &Engine, body: &Value) -> Result<(Vec<Vec<f64>>, u32), BackendError> {
    let chunks = chunks(engine, request(Operation::Embedding, body, false)).await?;
    let [Chunk::Whole(whole), Chunk::Finished(finish)] = &chunks[..] else {
        panic!("unexpected {chunks:?}")
    };
    let whole: Value = serde_json::from_slice(whole).unwrap();
    assert_eq!(whole["usage"]["total_tokens"], finish.usage.prompt_tokens);
    let vectors = whole["data"].as_array().unwrap().iter().enumerate().map(|(index, entry)| {
        assert_eq!((&entry["object"], &entry["index"]), (&json!("embedding"), &json!(index)));
        let numbers = entry["embedding"].as_array().unwrap().iter();
        numbers.map(|number| number.as_f64().unwrap()).collect()
    });
    Ok((vectors.collect(), finish.usage.prompt_tokens))
}

fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[tokio::test]
async fn texts_become_vectors_of_length_one_in_their_order() {
    let engine = engine();
    assert!(engine.models().await.unwrap()[0].abilities.contains(Abilities::EMBEDDINGS));
    let near = "What is 2 + 3?";
    let far = "A node is a machine that joins the network. ".repeat(4);
    let (all, read) =
        vectors(&engine, &json!({"input": [near, far, "What is 2 + 4?"]})).await.unwrap();
    assert!(all.iter().all(|vector| (product(vector, vector) - 1.0).abs() < 1e-5));
    assert!(product(&all[0], &all[2]) > product(&all[0], &all[1]) + 0.01, "likeness shows");
    let (alone, read_alone) = vectors(&engine, &json!({"input": far})).await.unwrap();
    assert!((product(&alone[0], &all[1]) - 1.0).abs() < 1e-5, "others change nothing");
    assert!(read > read_alone && read_alone > 32, "more than one step: {read}, {read_alone}");
}

#[tokio::test]
async fn vectors_in_base64_are_the_same_numbers() {
    let engine = engine();
    let (floats, _) = vectors(&engine, &json!({"input": [[10, 11, 12]]})).await.unwrap();
    let body = json!({"input": [10, 11, 12], "encoding_format": "base64"});
    let chunks = chunks(&engine, request(Operation::Embedding, &body, false)).await.unwrap();
    let Chunk::Whole(whole) = &chunks[0] else { panic!("unexpected {chunks:?}") };
    let whole: Value = serde_json::from_slice(whole).unwrap();
    let text = whole["data"][0]["embedding"].as_str().unwrap().as_bytes();
    let bytes = data_encoding::BASE64.decode(text).unwrap();
    let (numbers, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty() && numbers.len() == floats[0].len());
    let same = numbers.iter().zip(&floats[0]);
    assert!(same.into_iter().all(|(a, b)| (f64::from(f32::from_le_bytes(*a)) - b).abs() < 1e-6));
}

#[tokio::test]
async fn what_is_no_text_has_no_vector() {
    let engine = engine();
    let long = "word ".repeat(4096);
    for (body, param) in [
        (json!({}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": ""}), "input"),
        (json!({"input": ["a", 1]}), "input"),
        (json!({"input": [1 << 30]}), "input"),
        (json!({"input": vec!["a"; 2049]}), "input"),
        (json!({"input": long}), "input"),
        (json!({"input": "a", "dimensions": 3}), "dimensions"),
        (json!({"input": "a", "encoding_format": "int8"}), "encoding_format"),
    ] {
        match vectors(&engine, &body).await {
            Err(BackendError::Rejected { param: found, .. }) => {
                assert_eq!(found.as_deref(), Some(param));
            }
            other => panic!("{param}: {other:?}"),
        }
    }
    let streamed = request(Operation::Embedding, &json!({"input": "a"}), true);
    assert!(matches!(chunks(&engine, streamed).await, Err(BackendError::Rejected { .. })));
}
