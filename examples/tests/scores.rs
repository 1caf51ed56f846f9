//! Log probabilities and scored texts, from the engine inside a node through a coordinator over
//! HTTP.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

mod live;

use iris_core::model::{Abilities, ModelOffer};
use iris_node::backend::engine::{BUNDLED_MODEL, Engine};
use iris_protocol::openai::{PromptScores, read_logprobs};
use live::caller::Request;
use live::{Live, MODEL, echo};
use serde_json::{Value, json};

const QUESTION: &str = "What is a node?";

/// A chat with the bundled model, with some members more.
fn chat(live: &Live, answered: &[&str], members: &Value) -> Request {
    let answers = answered.iter().map(|text| json!({"role": "assistant", "content": text}));
    let question = json!({"role": "user", "content": QUESTION});
    let messages: Vec<Value> = [question].into_iter().chain(answers).collect();
    let mut body = json!({"model": BUNDLED_MODEL, "messages": messages});
    body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    Request::post("/v1/chat/completions", body).bearer(&live.key)
}

/// What asks for the scores of the last message, in vLLM's words.
fn scoring() -> Value {
    json!({"add_generation_prompt": false, "continue_final_message": true, "max_tokens": 1,
        "prompt_logprobs": 1})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answer_with_its_log_probabilities_is_scored_alike_by_another_node() {
    let live = Live::start().await;
    let _node = live.join(Engine::bundled().unwrap(), 2).await;
    let listed = json!({"logprobs": true, "top_logprobs": 2});
    let mut reply = live.send(chat(&live, &[], &listed)).await;
    let body = reply.text().await.unwrap();
    assert_eq!(reply.status, 200, "{body}");
    let said = read_logprobs(body.as_bytes()).unwrap();
    let answer: Value = serde_json::from_str(&body).unwrap();
    let choice = &answer["choices"][0];
    let text = choice["message"]["content"].as_str().unwrap();
    let tokens = choice["logprobs"]["content"].as_array().unwrap();
    assert!(tokens.iter().all(|token| token["top_logprobs"].as_array().unwrap().len() == 2));

    let mut stream = live
        .send(chat(&live, &[], &json!({"logprobs": true, "top_logprobs": 2, "stream": true})))
        .await;
    let (mut streamed, mut content, mut last) = (String::new(), Vec::new(), String::new());
    while let Some(event) = stream.event().await.unwrap() {
        if let Ok(event) = serde_json::from_str::<Value>(&event) {
            let choice = &event["choices"][0];
            streamed += choice["delta"]["content"].as_str().unwrap_or_default();
            content.extend(choice["logprobs"]["content"].as_array().cloned().unwrap_or_default());
            assert_eq!(event["object"], "chat.completion.chunk");
        }
        last = event;
    }
    assert_eq!((streamed.as_str(), &content, last.as_str()), (text, tokens, "[DONE]"));

    let body = live.send(chat(&live, &[text], &scoring())).await.text().await.unwrap();
    let scores = PromptScores::read(body.as_bytes()).unwrap().of_answer(text).unwrap();
    assert_eq!(scores.len(), said.len());
    let likeliest = scores.iter().filter(|score| score.rank == 1).count();
    assert!(likeliest * 100 >= scores.len() * 99, "{likeliest} of {}", scores.len());
    let furthest = scores
        .iter()
        .zip(&said)
        .map(|(score, said)| (score.logprob.micros() - said.logprob.micros()).abs());
    assert!(furthest.max().unwrap() < 1000, "a thousandth of a nat");
    live.is_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_is_scored_by_no_node_that_cannot() {
    let live = Live::start().await;
    let _node = live.join(echo(), 1).await;
    for (members, ability) in [(scoring(), "score"), (json!({"logprobs": true}), "logprobs")] {
        let mut body = json!({"model": MODEL, "messages": [{"role": "assistant", "content": "a"}]});
        body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        let request = Request::post("/v1/chat/completions", body).bearer(&live.key);
        let mut reply = live.send(request).await;
        let error = reply.json().await;
        assert_eq!(
            (reply.status, &error["error"]["code"]),
            (400, &json!("no_node_able")),
            "{error}"
        );
        assert!(error["error"]["message"].as_str().unwrap().contains(ability), "{error}");
    }
    let streamed = chat(&live, &["a"], &json!({"prompt_logprobs": 1, "stream": true}));
    let mut reply = live.send(streamed).await;
    let error = reply.json().await;
    assert_eq!((reply.status, &error["error"]["param"]), (400, &json!("prompt_logprobs")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_that_can_score_is_found_among_those_that_cannot() {
    let live = Live::start().await;
    let engine = Engine::bundled().unwrap();
    // Another node offers the same model with everything but that.
    let mut offer = ModelOffer::new(BUNDLED_MODEL.parse().unwrap(), 4096);
    offer.abilities = Abilities::LOGPROBS.union(Abilities::CONTINUE);
    let script = iris_core::backend::Script::saying(["no scores"]);
    let other = iris_core::backend::ScriptedBackend::new([offer], move |_| script.clone());
    let _other = live.join(other.clone(), 4).await;
    let _node = live.join(engine, 1).await;
    for _ in 0..8 {
        let body = live.send(chat(&live, &["A node is a machine."], &scoring())).await.text().await;
        let scores = PromptScores::read(body.unwrap().as_bytes()).unwrap();
        assert!(!scores.of_answer("A node is a machine.").unwrap().is_empty());
    }
    assert_eq!(other.counts().started, 0);
    live.is_idle().await;
}
