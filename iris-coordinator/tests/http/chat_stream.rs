//! The chat for web pages.

use iris_coordinator::http::Unlimited;
use iris_protocol::message::RefuseReason;
use serde_json::{Value, json};

use super::*;

const PATH: &str = "/api/chat/stream";
const HI: &str = r#"{"message":"hi"}"#;

fn said() -> Vec<Step> {
    vec![Step::text("he"), Step::text("llo"), Step::Finish("stop")]
}

/// Everybody may come, by way of a proxy that tells their addresses.
fn open() -> ApiSettings {
    let proxies = vec!["127.0.0.1".parse().unwrap()];
    ApiSettings::default().with_public_chat(true).with_trusted_proxies(proxies)
}

async fn anonymous(net: &Net, address: &str) -> Reply {
    send(net.address, request("POST", PATH, &[("x-forwarded-for", address)], HI)).await
}

fn kinds(reply: &Reply) -> Vec<String> {
    let events = reply.events();
    events.iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn answer_comes_in_events_of_one_form() {
    let net = Net::start().await;
    let node = net.node(said()).await;
    let reply = net.post(PATH, HI).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let id = net.coordinator.nodes()[0].id.to_string();
    let usage = json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5});
    let task = reply.header("x-request-id").unwrap();
    assert_eq!(
        reply.events(),
        [
            json!({"type": "start", "task": task, "model": Node::MODEL, "node": id}),
            json!({"type": "chunk", "text": "he"}),
            json!({"type": "chunk", "text": "llo"}),
            json!({"type": "end", "finish_reason": "stop", "usage": usage}),
        ]
    );
    let asked: Value = serde_json::from_slice(&node.asked.lock().unwrap()[0].1).unwrap();
    assert_eq!(asked["messages"], json!([{"role": "user", "content": "hi"}]));
    assert_eq!(asked["max_tokens"], Value::Null);
}

#[tokio::test]
async fn member_has_three_messages_a_day_with_all_its_keys() {
    let net = Net::start().await;
    let _node = net.node(said()).await;
    for left in ["2", "1", "0"] {
        let reply = net.post(PATH, HI).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.header("x-ratelimit-remaining-requests"), Some(left));
    }
    let user = key(&net.coordinator, net.account, KeyScope::Inference).await;
    let net = Net { user, ..net };
    let reply = net.post(PATH, HI).await;
    assert_eq!((reply.status, reply.error_code()), (429, json!("rate_limit_exceeded")));
    assert!(reply.header("retry-after").is_some());
    assert_eq!(reply.header("x-ratelimit-limit-requests"), Some("3"));
    assert!(reply.text().contains("3 messages a day"), "{}", reply.text());
}

#[tokio::test]
async fn named_accounts_and_keys_have_any_number() {
    let store = Arc::new(MemoryStore::new());
    let coordinator = coordinator_over(store.clone()).await;
    let account = coordinator.accounts().create_account().await.unwrap().account;
    let own = coordinator.accounts().create_account().await.unwrap().account;
    let key_of_own = key(&coordinator, own, KeyScope::Inference).await;
    let key_of_account = key(&coordinator, account, KeyScope::Inference).await;
    let id = coordinator.accounts().authenticate(&key_of_own).unwrap().id;
    let unlimited = vec![Unlimited::Account(account), Unlimited::Key(id)];
    let api = ApiSettings::default().with_unlimited_chat(unlimited);
    let net = Net::around(coordinator, ServerSettings::default().with_api(api)).await;
    let _node = net.node(said()).await;
    let mut net = net;
    for user in [key_of_account, key_of_own] {
        net.user = user;
        for _ in 0..5 {
            assert_eq!(net.post(PATH, HI).await.status, 200);
        }
    }
}

#[tokio::test]
async fn strangers_are_turned_away_unless_they_are_let_in() {
    let net = Net::start().await;
    let _node = net.node(said()).await;
    let reply = send(net.address, request("POST", PATH, &[], HI)).await;
    assert_eq!((reply.status, reply.error_code()), (401, json!("invalid_api_key")));
    assert!(reply.text().contains("--public-chat"), "{}", reply.text());
    // A bad key does not make a stranger of its bearer.
    let net = Net::with_api(open()).await;
    let reply = request("POST", PATH, &[("authorization", "Bearer iris_x")], HI);
    assert_eq!(send(net.address, reply).await.status, 401);
}

#[tokio::test]
async fn stranger_has_one_message_a_day_and_a_short_answer() {
    let net = Net::with_api(open()).await;
    let node = net.node(said()).await;
    assert_eq!(kinds(&anonymous(&net, "192.0.2.1").await), ["start", "chunk", "chunk", "end"]);
    let reply = anonymous(&net, "192.0.2.1").await;
    assert_eq!((reply.status, reply.error_code()), (429, json!("rate_limit_exceeded")));
    assert_eq!(anonymous(&net, "2001:db8::1").await.status, 200);
    assert_eq!(anonymous(&net, "2001:db8::2").await.status, 429);
    assert_eq!(anonymous(&net, "2001:db8:0:1::1").await.status, 200);
    let asked: Value = serde_json::from_slice(&node.asked.lock().unwrap()[0].1).unwrap();
    assert_eq!(asked["max_tokens"], 2048);
    // A member's messages are the member's own.
    let bearer = net.bearer();
    let headers = [("x-forwarded-for", "192.0.2.1"), bearer.as_pair()];
    assert_eq!(send(net.address, request("POST", PATH, &headers, HI)).await.status, 200);
}

#[tokio::test]
async fn message_that_no_node_took_does_not_count() {
    let net = Net::with_api(open()).await;
    // Nobody is there, then somebody who takes nothing.
    assert_eq!(anonymous(&net, "192.0.2.1").await.status, 503);
    let node = net.node(vec![Step::Refuse(RefuseReason::Busy)]).await;
    let reply = anonymous(&net, "192.0.2.1").await;
    assert!(reply.status >= 429, "{}", reply.text());
    node.leave();
    while net.coordinator.stats().nodes > 0 {
        tokio::task::yield_now().await;
    }
    let _node = net.node(said()).await;
    assert_eq!(anonymous(&net, "192.0.2.1").await.status, 200);
    assert_eq!(anonymous(&net, "192.0.2.1").await.status, 429);
}

#[tokio::test]
async fn messages_side_by_side_cannot_pass_the_limit() {
    let net = Net::with_api(open()).await;
    let node = net.node(vec![Step::Wait, Step::text("x"), Step::Finish("stop")]).await;
    let (first, second) = tokio::join!(
        async {
            let reply = anonymous(&net, "192.0.2.1");
            reply.await.status
        },
        async {
            while node.asked.lock().unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
            let status = anonymous(&net, "192.0.2.1").await.status;
            node.open_gate();
            status
        }
    );
    assert_eq!((first, second), (200, 429));
}

#[tokio::test]
async fn whoever_waits_is_told_so() {
    let net = Net::start().await;
    let node = net.node(vec![Step::Wait, Step::text("x"), Step::Finish("stop")]).await;
    let chat = || net.chat(r#","stream":true"#);
    let (first, second, third) = tokio::join!(chat(), chat(), async {
        while node.asked.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
        let waiting = net.post(PATH, HI);
        let (reply, ()) = tokio::join!(waiting, async {
            while net.coordinator.stats().queued == 0 {
                tokio::task::yield_now().await;
            }
            // The caller is told after half a second.
            tokio::time::sleep(Duration::from_millis(700)).await;
            node.open_gate();
        });
        reply
    });
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(kinds(&third), ["queued", "start", "chunk", "end"], "{}", third.text());
}

#[tokio::test]
async fn wishes_are_kept_and_no_node_sees_them() {
    let net = Net::start().await;
    let said = || vec![Step::text("hi"), Step::Finish("stop")];
    let stranger = net.strangers_node(said()).await;
    let refused = net.post(PATH, r#"{"message":"a","iris":{"own":"only"}}"#).await;
    assert_eq!((refused.status, refused.error_code()), (400, json!("no_node_able")));
    let mine = net.node(said()).await;
    let reply = net.post(PATH, r#"{"message":"a","iris":{"own":"only"}}"#).await;
    assert_eq!(kinds(&reply), ["start", "chunk", "end"], "{}", reply.text());
    assert_eq!(stranger.asked.lock().unwrap().len(), 0);
    let seen = mine.asked.lock().unwrap()[0].1.clone();
    assert!(!String::from_utf8(seen.to_vec()).unwrap().contains("iris\""));
}

#[tokio::test]
async fn bad_requests_name_the_member_at_fault() {
    let net = Net::start().await;
    for (body, param) in [
        ("{}", Some("message")),
        (r#"{"message":"a","messages":[]}"#, Some("message")),
        (r#"{"message":1}"#, Some("message")),
        (r#"{"message":"a","model":7}"#, Some("model")),
        (r#"{"message":"a","iris":{"own":1}}"#, Some("iris")),
        (r#"{"message":"a","colour":"blue"}"#, Some("colour")),
        ("[]", None),
    ] {
        let reply = net.post(PATH, body).await;
        assert_eq!(reply.status, 400, "{body}: {}", reply.text());
        assert_eq!(reply.json()["error"]["param"], json!(param), "{body}");
    }
}
