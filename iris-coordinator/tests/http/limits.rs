//! Paces, quotas and the models of a key, as their callers are told of them.

use iris_coordinator::NewKey;
use iris_core::store::MemoryStore;
use iris_protocol::rest::{KeyTerms, Quota};
use serde_json::json;

use super::chat::ANSWER;
use super::*;

/// A coordinator whose accounts may make `per_minute` requests.
async fn paced(per_minute: u32) -> Net {
    let store = Arc::new(MemoryStore::new());
    let secret = Secret::from_bytes([9; 32]);
    let builder = Coordinator::builder(store.clone(), Identity::generate(), secret);
    let coordinator = builder.with_rate_per_minute(per_minute).build().await.unwrap();
    Net { store, ..Net::around(coordinator, ServerSettings::default()).await }
}

impl Net {
    /// Makes a key of the account that is held to `terms`, and asks by it from now on.
    async fn hold_to(&mut self, terms: KeyTerms) {
        let key = NewKey { terms, ..KeyScope::Inference.into() };
        let created = self.coordinator.accounts().create_key_for(self.account, key).await.unwrap();
        created.key.expose().clone_into(&mut self.user);
    }

    async fn answering(&self) -> Node {
        self.node(vec![Step::whole(ANSWER), Step::Finish("stop")]).await
    }
}

fn quota(quota: Quota) -> KeyTerms {
    KeyTerms { quota, ..KeyTerms::default() }
}

fn requests(reply: &Reply) -> [Option<&str>; 3] {
    ["limit", "remaining", "reset"]
        .map(|what| reply.header(&format!("x-ratelimit-{what}-requests")))
}

fn refusal(reply: &Reply) -> (u16, serde_json::Value) {
    (reply.status, reply.error_code())
}

#[tokio::test]
async fn pace_is_told_with_answers_and_refusals() {
    let net = paced(2).await;
    let _node = net.answering().await;
    let reply = net.chat("").await;
    assert_eq!((reply.status, requests(&reply)), (200, [Some("2"), Some("1"), Some("30s")]));
    // What is refused for another reason was a request all the same.
    let reply = net.chat(r#","max_tokens":"x""#).await;
    assert_eq!((reply.status, requests(&reply)), (400, [Some("2"), Some("0"), Some("1m0s")]));
    let reply = net.chat("").await;
    assert_eq!(refusal(&reply), (429, json!("rate_limit_exceeded")));
    assert_eq!(requests(&reply), [Some("2"), Some("0"), Some("1m0s")]);
    let wait: u32 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
    // Other accounts have their own pace, and looking is free.
    assert_eq!(net.get("/v1/models").await.status, 200);
    let other = net.coordinator.accounts().create_account().await.unwrap().account;
    let other = Net { user: key(&net.coordinator, other, KeyScope::Inference).await, ..net };
    assert_eq!(other.chat("").await.status, 200);
}

#[tokio::test]
async fn every_way_to_a_model_is_held_to_one_pace() {
    let ways = [
        ("/v1/chat/completions", chat_body("")),
        ("/v1/completions", format!(r#"{{"model":"{}","prompt":"hi"}}"#, Node::MODEL)),
        ("/sealed", "x".to_owned()),
        ("/inference", chat_body("")),
        ("/api/inference/submit", "{}".to_owned()),
        ("/api/chat/stream", r#"{"message":"hi"}"#.to_owned()),
    ];
    for (path, body) in ways {
        let net = paced(1).await;
        let first = net.post(path, &body).await;
        assert_eq!(requests(&first)[1], Some("0"), "{path}: {}", first.head);
        let second = net.post(path, &body).await;
        assert_eq!(refusal(&second), (429, json!("rate_limit_exceeded")), "{path}");
    }
}

#[tokio::test]
async fn account_without_a_pace_is_told_none() {
    let net = paced(0).await;
    let _node = net.answering().await;
    let reply = net.chat("").await;
    assert_eq!((reply.status, requests(&reply)), (200, [None; 3]));
}

#[tokio::test]
async fn tokens_of_an_answer_count_against_the_key_that_asked() {
    let mut net = Net::start().await;
    let _node = net.answering().await;
    net.hold_to(quota(Quota { tokens_per_day: Some(8), ..Quota::default() })).await;
    let left = |reply: &Reply| reply.header("x-ratelimit-remaining-tokens").map(str::to_owned);
    let reply = net.chat("").await;
    assert_eq!((reply.status, left(&reply).as_deref()), (200, Some("8")));
    let reply = net.chat("").await;
    assert_eq!((reply.status, left(&reply).as_deref()), (200, Some("3")));
    let reply = net.chat("").await;
    assert_eq!(refusal(&reply), (429, json!("insufficient_quota")));
    assert_eq!(left(&reply).as_deref(), Some("0"));
    assert!(reply.header("retry-after").is_some());
}

#[tokio::test]
async fn durable_tasks_and_steps_of_plans_count_too() {
    for (name, members) in [("single", ""), ("plan", r#","mode":"consensus","replicas":2"#)] {
        let mut net = Net::start().await;
        let _node = net.answering().await;
        let _other = net.strangers_node(vec![Step::whole(ANSWER), Step::Finish("stop")]).await;
        net.hold_to(KeyTerms::default()).await;
        let submitted = net.post("/inference", &chat_body(members)).await;
        assert_eq!(submitted.status, 202, "{name}: {}", submitted.text());
        let id = submitted.json()["id"].as_str().unwrap().to_owned();
        let events = net.get(&format!("/inference/{id}/events")).await;
        assert_eq!(events.status, 200, "{name}");
        let key = net.coordinator.accounts().authenticate(&net.user).unwrap().id;
        let used = net.coordinator.usage_of(&key);
        assert_eq!(used.requests_today, 1, "{name}");
        let tokens = if name == "single" { 5 } else { 10 };
        assert_eq!(used.tokens_today, tokens, "{name}");
    }
}

#[tokio::test]
async fn whoever_finds_no_node_has_used_no_quota() {
    let mut net = Net::start().await;
    net.hold_to(quota(Quota { requests_per_day: Some(1), ..Quota::default() })).await;
    let node = net.node(vec![Step::Wait]).await;
    node.leave();
    // It is known and away.
    while net.coordinator.stats().nodes > 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..3 {
        let reply = net.chat("").await;
        assert_eq!(reply.status, 503, "{}", reply.text());
    }
    let _node = net.answering().await;
    assert_eq!(net.chat("").await.status, 200);
    assert_eq!(refusal(&net.chat("").await), (429, json!("insufficient_quota")));
}

#[tokio::test]
async fn key_for_some_models_sees_and_asks_no_other() {
    let mut net = Net::start().await;
    let node = net.answering().await;
    let models = |name: &str| vec![name.parse().unwrap()];
    net.hold_to(KeyTerms { models: models("another"), ..KeyTerms::default() }).await;
    let ways = [
        ("/v1/chat/completions", chat_body("")),
        ("/v1/completions", format!(r#"{{"model":"{}","prompt":"hi"}}"#, Node::MODEL)),
        ("/inference", chat_body("")),
        ("/inference", chat_body(r#","mode":"consensus","replicas":2"#)),
        ("/api/chat/stream", format!(r#"{{"message":"hi","model":"{}"}}"#, Node::MODEL)),
    ];
    for (path, body) in ways {
        let reply = net.post(path, &body).await;
        assert_eq!(refusal(&reply), (403, json!("model_not_allowed")), "{path}: {}", reply.text());
        assert_eq!(reply.json()["error"]["param"], "model");
    }
    let divided = chat_body("").replace(Node::MODEL, &format!("iris/consensus:{}", Node::MODEL));
    let reply = net.post("/v1/chat/completions", &divided).await;
    assert_eq!(refusal(&reply), (403, json!("model_not_allowed")), "{}", reply.text());
    assert_eq!(net.get("/v1/models").await.json()["data"], json!([]));
    assert_eq!(net.get(&format!("/v1/models/{}", Node::MODEL)).await.status, 404);
    assert!(node.asked.lock().unwrap().is_empty());
    net.hold_to(KeyTerms { models: models(Node::MODEL), ..KeyTerms::default() }).await;
    assert_eq!(net.chat("").await.status, 200);
    assert_eq!(net.get("/v1/models").await.json()["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn usage_is_written_down_when_the_coordinator_stops() {
    let store = Arc::new(MemoryStore::new());
    let identity = || Identity::from_seed(&Secret::from_bytes([5; 32]));
    let first = coordinator_of(identity(), store.clone()).await;
    let mut net = Net::around(first, ServerSettings::default()).await;
    let _node = net.answering().await;
    let terms = quota(Quota { requests_per_month: Some(1), ..Quota::default() });
    net.hold_to(terms).await;
    assert_eq!(net.chat("").await.status, 200);
    net.stop.take().unwrap().send(()).unwrap();
    net.coordinator.shutdown().await;
    let second = coordinator_of(identity(), store).await;
    let restarted = Net::around(second, ServerSettings::default()).await;
    let restarted = Net { user: net.user.clone(), ..restarted };
    assert_eq!(refusal(&restarted.chat("").await), (429, json!("insufficient_quota")));
}

#[tokio::test]
async fn replaced_key_goes_on_with_the_quota_of_the_old_one() {
    let mut net = Net::start().await;
    let _node = net.answering().await;
    let terms = Quota { requests_per_day: Some(3), tokens_per_day: Some(100), ..Quota::default() };
    net.hold_to(quota(terms)).await;
    let left = |reply: &Reply| {
        assert_eq!(reply.status, 200, "{}", reply.text());
        ["requests", "tokens"].map(|what| {
            reply.header(&format!("x-ratelimit-remaining-{what}")).unwrap().parse::<u32>().unwrap()
        })
    };
    let old_key = net.user.clone();
    assert_eq!(left(&net.chat("").await), [2, 100]);
    let old = net.coordinator.accounts().authenticate(&old_key).unwrap();
    let grace = Duration::from_mins(1);
    let new = net.coordinator.accounts().rotate_key(&net.account, &old.id, grace).await.unwrap();
    new.key.expose().clone_into(&mut net.user);
    assert_eq!(left(&net.chat("").await), [1, 95], "its use was carried over");
    // While the old key works, it takes from the same.
    net.user = old_key;
    assert_eq!(left(&net.chat("").await), [0, 90]);
    new.key.expose().clone_into(&mut net.user);
    assert_eq!(refusal(&net.chat("").await), (429, json!("insufficient_quota")));
    let used = net.coordinator.usage_of(&old.meter);
    assert_eq!((used.requests_today, used.tokens_today), (3, 15));
}
