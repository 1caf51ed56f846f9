//! Requests that name no model.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use iris_core::classify::{Classifier, ClassifyError, Question};
use iris_core::demand::Difficulty;
use iris_protocol::rest::{KeyScope, KeyTerms};
use serde_json::json;

use super::chat::ANSWER;
use super::node::{Offered, Persona};
use super::sealed::Caller;
use super::*;

const SMALL: Offered = Offered("small", 3, 90);
const MIDDLE: Offered = Offered("org/Llama-3-8B", 8, 20);
const LARGE: Offered = Offered("large", 70, 25);

const EASY: &str = r#"{"messages":[{"role":"user","content":"What is the capital of Peru?"}]}"#;
const HARD: &str =
    r#"{"messages":[{"role":"user","content":"Prove that the square root of 2 is irrational."}]}"#;

impl Net {
    async fn offering(&self, model: Offered) -> Node {
        self.saying(model, vec![Step::whole(ANSWER), Step::Finish("stop")]).await
    }

    async fn streaming(&self, model: Offered) -> Node {
        self.saying(model, vec![Step::text("hi"), Step::Finish("stop")]).await
    }

    async fn saying(&self, model: Offered, steps: Vec<Step>) -> Node {
        let key = key(&self.coordinator, self.account, KeyScope::Node).await;
        let persona = Persona { model, ..Persona::sealing(2) };
        Node::connect_as(self.address, &key, persona, steps).await
    }

    async fn ask_any(&self, body: &str) -> Reply {
        self.post("/v1/chat/completions", body).await
    }
}

fn said(reply: &Reply) -> (u16, Option<&str>, Option<&str>) {
    let headers = ["x-iris-difficulty", "x-iris-tier-lowered"].map(|name| reply.header(name));
    (reply.status, headers[0], headers[1])
}

#[tokio::test]
async fn question_goes_to_the_tier_that_is_meant_for_it() {
    let net = Net::start().await;
    let (small, large) = (net.offering(SMALL).await, net.offering(LARGE).await);
    let easy = net.ask_any(EASY).await;
    assert_eq!(said(&easy), (200, Some("SIMPLE"), None), "{}", easy.text());
    assert_eq!(easy.json()["model"], "small");
    let hard = net.ask_any(HARD).await;
    assert_eq!(said(&hard), (200, Some("ADVANCED"), None));
    assert_eq!(hard.json()["model"], "large");
    let named = EASY.replacen('{', r#"{"model":"small","#, 1);
    assert_eq!(small.asked.lock().unwrap().as_slice(), [(false, named.into())]);
    assert_eq!(large.asked.lock().unwrap().len(), 1);
    let rows = net.books("settlement", 2).await;
    let row = rows.iter().find(|row| row["model"] == "large").unwrap();
    assert_eq!((&row["difficulty"], &row["limit_ms"]), (&json!("ADVANCED"), &row["limit_ms"]));
    let limit = row["limit_ms"].as_u64().unwrap();
    assert!((599_000..=600_000).contains(&limit), "{limit}");
}

#[tokio::test]
async fn where_no_such_tier_is_there_the_next_lower_serves_and_says_so() {
    let net = Net::start().await;
    net.offering(SMALL).await;
    let reply = net.ask_any(HARD).await;
    assert_eq!(said(&reply), (200, Some("ADVANCED"), Some("true")));
    let task = reply.header("x-iris-task").unwrap();
    let explained = net.get(&format!("/inference/{task}/explain")).await.json();
    let reasons = explained["reasons"].as_array().unwrap();
    let named: Vec<_> = reasons.iter().map(|one| one["reason"].as_str().unwrap()).collect();
    assert_eq!(named, ["chosen", "tier_lowered"]);
    assert_eq!(explained["node"], reasons[1]["node"]);
}

#[tokio::test]
async fn who_names_a_model_gets_it_however_hard_the_question_is() {
    let net = Net::start().await;
    net.offering(SMALL).await;
    net.offering(LARGE).await;
    let reply = net.ask_any(&HARD.replacen('{', r#"{"model":"small","#, 1)).await;
    assert_eq!(said(&reply), (200, None, None));
    assert_eq!(reply.json()["model"], "small");
}

#[tokio::test]
async fn family_is_served_by_one_of_its_models() {
    let net = Net::start().await;
    net.offering(LARGE).await;
    net.offering(MIDDLE).await;
    for (family, model, status) in [
        ("iris/family:llama-3", json!("org/Llama-3-8B"), 200),
        ("iris/any", json!("org/Llama-3-8B"), 200),
        ("iris/family:mistral", json!(null), 404),
        ("iris/family:", json!(null), 400),
    ] {
        let body = json!({"model": family, "messages": [{"role": "user", "content": "Compare a \
            cat with a dog as a pet for a small flat."}]});
        let reply = net.ask_any(&body.to_string()).await;
        assert_eq!((reply.status, &reply.json()["model"]), (status, &model), "{family}");
    }
}

#[tokio::test]
async fn streams_say_how_hard_the_question_was_found() {
    let net = Net::start().await;
    net.streaming(SMALL).await;
    let streamed = EASY.replacen('{', r#"{"stream":true,"model":null,"#, 1);
    let reply = net.ask_any(&streamed).await;
    assert_eq!(said(&reply), (200, Some("SIMPLE"), None), "{}", reply.text());
    let body = r#"{"prompt":"What is a noun?","stream":true}"#;
    let completion = net.post("/v1/completions", body).await;
    assert_eq!(said(&completion), (200, Some("SIMPLE"), None), "{}", completion.text());
}

#[tokio::test]
async fn divided_chat_may_leave_the_model_open() {
    let net = Net::start().await;
    net.streaming(MIDDLE).await;
    let body = EASY.replacen('{', r#"{"model":"iris/auto:iris/any","#, 1);
    let reply = net.ask_any(&body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let submitted = net.post("/inference", r#"{"mode":"auto","prompt":"What is a noun?"}"#).await;
    assert_eq!((submitted.status, &submitted.json()["error"]["param"]), (400, &json!("model")));
}

#[tokio::test]
async fn without_nodes_there_is_no_model_for_now() {
    let net = Net::start().await;
    let reply = net.ask_any(EASY).await;
    assert_eq!((reply.status, reply.error_code()), (503, json!("no_node_online")));
    net.offering(SMALL).await;
    let vision = r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:"}}]}]}"#;
    let reply = net.ask_any(vision).await;
    assert_eq!(
        (reply.status, reply.error_code()),
        (400, json!("no_node_able")),
        "{}",
        reply.text()
    );
}

#[tokio::test]
async fn key_for_some_models_is_routed_among_these() {
    let net = Net::start().await;
    net.offering(SMALL).await;
    net.offering(LARGE).await;
    let terms = KeyTerms { models: vec!["large".parse().unwrap()], ..KeyTerms::default() };
    let new = iris_coordinator::NewKey { scope: KeyScope::Inference, label: None, terms };
    let created = net.coordinator.accounts().create_key_for(net.account, new).await.unwrap();
    let bearer = format!("Bearer {}", created.key.expose());
    let headers = [("authorization", bearer.as_str())];
    let reply = request("POST", "/v1/chat/completions", &headers, EASY);
    let reply = send(net.address, reply).await;
    assert_eq!(reply.json()["model"], "large", "{}", reply.text());
}

#[tokio::test]
async fn durable_task_without_a_model_is_routed_once() {
    let net = Net::start().await;
    net.offering(SMALL).await;
    let bearer = net.bearer();
    let headers = [bearer.as_pair(), ("idempotency-key", "once")];
    let submit = || {
        let body = r#"{"prompt":"Prove that the square root of 2 is irrational."}"#;
        send(net.address, request("POST", "/inference", &headers, body))
    };
    let first = submit().await;
    assert_eq!(first.status, 202, "{}", first.text());
    assert_eq!(first.json()["model"], "small");
    net.offering(LARGE).await;
    let again = submit().await;
    assert_eq!((again.status, &again.json()["id"]), (202, &first.json()["id"]), "{}", again.text());
    let row = &net.books("settlement", 1).await[0];
    assert_eq!((&row["model"], &row["difficulty"]), (&json!("small"), &json!("ADVANCED")));
}

/// A classifier outside of this process, which counts what it is told.
#[derive(Clone, Debug, Default)]
struct Outside(Arc<AtomicUsize>);

impl Classifier for Outside {
    fn name(&self) -> &'static str {
        "outside"
    }

    fn classify<'a>(
        &'a self,
        _: &'a Question,
    ) -> BoxFuture<'a, Result<Option<Difficulty>, ClassifyError>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(Some(Difficulty::Advanced)) })
    }
}

#[tokio::test]
async fn attack_46_no_prompt_reaches_an_outside_classifier_that_is_sealed_or_meant_for_one_node() {
    let outside = Outside::default();
    let chain = ClassifierChain::new().then(outside.clone());
    let net = Net::around(coordinator_that_asks(chain).await, ServerSettings::default()).await;
    let sealing = Persona::sealing(2);
    let node = net.node_as(sealing, vec![Step::text("hi"), Step::Finish("stop")]).await;
    let sealed = net.relay(&Caller::new(&net, &node.certificate()).request).await;
    assert_eq!(sealed.status, 200);
    let about_data = EASY.replacen('{', r#"{"iris_dataset":{"name":"ward"},"#, 1);
    assert_eq!(net.ask_any(&about_data).await.error_code(), json!("dataset_not_found"));
    assert_ne!(net.chat("").await.status, 400, "whoever names a model needs no classifier");
    assert_eq!(outside.0.load(Ordering::Relaxed), 0);
    net.ask_any(EASY).await;
    assert_eq!(outside.0.load(Ordering::Relaxed), 1, "the operator has set it for the rest");
}

#[tokio::test]
async fn attack_46_no_classifier_is_asked_that_the_operator_has_not_set() {
    let net = Net::start().await;
    let node = net.offering(LARGE).await;
    // The rules have no opinion of it, and nobody else is asked.
    let reply = net.ask_any(r#"{"messages":[{"role":"user","content":"qwertz"}]}"#).await;
    assert_eq!(said(&reply), (200, Some("COMPLEX"), None));
    assert_eq!(node.asked.lock().unwrap().len(), 1, "the node has seen the request alone");
}
