//! Whom owners let their nodes answer, and what they report.

use iris_core::backend::Chunk;
use iris_core::store::Key;
use serde_json::{Value, json};

use super::node::Persona;
use super::sealed::Caller;
use super::*;

/// What a sealed request asks for as well.
const STREAMED: &str = r#", "stream": true"#;

/// An owner of a node, and the key of that node.
struct Owner {
    key: String,
    node: Node,
}

impl Owner {
    async fn new(net: &Net) -> Self {
        let account = net.coordinator.accounts().create_account().await.unwrap().account;
        let key = key(&net.coordinator, account, KeyScope::Node).await;
        let steps = vec![Step::Say(Chunk::Text("hi".into())), Step::Finish("stop")];
        let node = Node::connect_as(net.address, &key, Persona::sealing(2), steps).await;
        Self { key, node }
    }

    /// Returns what the node knows the latest caller by.
    fn latest(&self) -> String {
        self.node.callers.lock().unwrap().last().unwrap().unwrap().to_string()
    }
}

async fn ask(net: &Net, method: &str, path: &str, token: &str, body: Value) -> Reply {
    let bearer = format!("Bearer {token}");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    send(net.address, request(method, path, &[("authorization", &bearer)], &body)).await
}

async fn say(net: &Net, owner: &Owner, caller: &str, rule: &str) -> Reply {
    ask(net, "POST", "/callers", &owner.key, json!({"caller": caller, "rule": rule})).await
}

#[tokio::test]
async fn a_caller_is_known_by_a_tag_that_differs_from_owner_to_owner() {
    let net = Net::start().await;
    let first = Owner::new(&net).await;
    assert_eq!(net.chat(STREAMED).await.status, 200);
    let tag = first.latest();
    assert_eq!(net.chat(STREAMED).await.status, 200);
    assert_eq!(first.latest(), tag, "one caller has one tag");
    assert!(!tag.contains(&net.account.to_string()));
    let other = key(
        &net.coordinator,
        net.coordinator.accounts().create_account().await.unwrap().account,
        KeyScope::Inference,
    )
    .await;
    let chat = serde_json::from_str(&chat_body(STREAMED)).unwrap();
    assert_eq!(ask(&net, "POST", "/v1/chat/completions", &other, chat).await.status, 200);
    assert_ne!(first.latest(), tag, "others have others");
    let said = say(&net, &first, &tag, "blocked").await;
    assert_eq!((said.status, &said.json()["caller"]), (200, &json!(tag)), "{}", said.text());
    let second = Owner::new(&net).await;
    assert_eq!(net.chat(STREAMED).await.status, 200);
    assert_ne!(second.latest(), tag, "owners cannot compare their callers");
}

#[tokio::test]
async fn a_blocked_caller_gets_no_node_of_the_owner_open_or_sealed() {
    let net = Net::start().await;
    let owner = Owner::new(&net).await;
    assert_eq!(net.chat(STREAMED).await.status, 200);
    let sealed =
        || async { net.relay(&Caller::new(&net, &owner.node.certificate()).request).await };
    assert_eq!(sealed().await.status, 200);
    let tag = owner.latest();
    assert_eq!(say(&net, &owner, &tag, "blocked").await.status, 200);
    let count = owner.node.callers.lock().unwrap().len();
    let refused = net.chat(STREAMED).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains("lets it answer this caller"), "{}", refused.text());
    let refused = sealed().await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(!refused.text().contains("block"), "who blocks whom is the owner's business");
    assert_eq!(owner.node.callers.lock().unwrap().len(), count, "the node heard of neither");
    let list = ask(&net, "GET", "/callers", &owner.key, Value::Null).await.json();
    assert_eq!(list["callers"][0]["rule"], json!("blocked"));
    let path = format!("/callers/{tag}");
    assert_eq!(ask(&net, "DELETE", &path, &owner.key, Value::Null).await.status, 204);
    assert_eq!(ask(&net, "DELETE", &path, &owner.key, Value::Null).await.status, 404);
    assert_eq!(net.chat(STREAMED).await.status, 200);
    assert_eq!(sealed().await.status, 200);
}

#[tokio::test]
async fn what_is_said_of_callers_is_refused_by_type() {
    let net = Net::start().await;
    let owner = Owner::new(&net).await;
    for (body, status) in [
        (json!({}), 400),
        (json!({"caller": "somebody", "rule": "blocked"}), 400),
        (json!({"caller": "c".repeat(34), "rule": "hated"}), 400),
    ] {
        assert_eq!(ask(&net, "POST", "/callers", &owner.key, body).await.status, status);
    }
    let own = json!({"caller": net.account.to_string(), "rule": "blocked"});
    let without = ask(&net, "POST", "/callers", &net.user, own.clone()).await;
    assert_eq!(without.status, 403, "nobody asked it anything: {}", without.text());
    let _node = net.node(Vec::new()).await;
    let me = ask(&net, "POST", "/callers", &net.user, own).await;
    assert_eq!((me.status, &me.json()["error"]["param"]), (400, &json!("caller")));
    assert_eq!(ask(&net, "DELETE", "/callers/x", &owner.key, Value::Null).await.status, 400);
    assert_eq!(ask(&net, "GET", "/callers", &net.operator, Value::Null).await.status, 403);
    assert_eq!(ask(&net, "GET", "/callers", "iris_x", Value::Null).await.status, 401);
}

#[tokio::test]
async fn a_report_reaches_the_operator_with_what_its_owner_shows_and_no_more() {
    let net = Net::start().await;
    let admin = key(&net.coordinator, net.account, KeyScope::Admin).await;
    let owner = Owner::new(&net).await;
    assert_eq!(net.chat(STREAMED).await.status, 200);
    let body = json!({
        "caller": owner.latest(), "reason": "asked for a weapon", "content": "how do I MARKER",
    });
    let made = ask(&net, "POST", "/reports", &owner.key, body.clone()).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let soon = ask(&net, "POST", "/reports", &owner.key, body).await;
    assert_eq!(soon.status, 429, "{}", soon.text());

    let list = ask(&net, "GET", "/reports", &net.operator, Value::Null).await.json();
    let report = &list["reports"][0];
    assert_eq!(report["account"], json!(net.account.to_string()), "the operator knows who it is");
    assert_eq!(report["content"], json!("how do I MARKER"));
    let on_disk = stored(&net, "report").await;
    assert!(on_disk.contains("weapon") && !on_disk.contains("MARKER"), "{on_disk}");

    let close = format!("/reports/{}/close", report["id"].as_str().unwrap());
    assert_eq!(ask(&net, "POST", &close, &net.operator, Value::Null).await.status, 403);
    let closed = ask(&net, "POST", &close, &admin, Value::Null).await;
    assert_eq!(closed.status, 200, "{}", closed.text());
    assert_eq!(closed.json()["content"], Value::Null, "what was shown is gone");
    assert_eq!(ask(&net, "POST", &close, &admin, Value::Null).await.status, 404);
    let list = ask(&net, "GET", "/reports", &net.operator, Value::Null).await.json();
    assert_eq!(list["reports"], json!([]));
}

#[tokio::test]
async fn reports_are_refused_by_type_and_are_the_operators_to_read() {
    let net = Net::start().await;
    let owner = Owner::new(&net).await;
    let caller = "c".to_owned() + &"0".repeat(33);
    for (body, param) in [
        (json!({"reason": "x"}), "caller"),
        (json!({"caller": caller, "reason": ""}), "reason"),
        (json!({"caller": caller, "reason": "x".repeat(1001)}), "reason"),
        (json!({"caller": caller, "reason": "\u{202e}"}), "reason"),
        (json!({"caller": caller, "reason": "x", "content": "x".repeat(16_385)}), "content"),
    ] {
        let refused = ask(&net, "POST", "/reports", &owner.key, body).await;
        let told = (refused.status, refused.json()["error"]["param"].clone());
        assert_eq!(told, (400, json!(param)));
    }
    // What was refused is not waited for.
    let task = json!({"task": "0".repeat(32), "reason": "x"});
    assert_eq!(ask(&net, "POST", "/reports", &owner.key, task).await.status, 201);
    for token in [&net.user, &owner.key] {
        assert_eq!(ask(&net, "GET", "/reports", token, Value::Null).await.status, 403);
    }
}

async fn stored(net: &Net, kind: &str) -> String {
    use futures::StreamExt;
    let records: Vec<_> = net.store.scan(Key::all(kind)).collect().await;
    let texts = records.into_iter().map(|record| record.unwrap().value.as_text().to_owned());
    texts.collect::<Vec<_>>().join("\n")
}
