use serde_json::json;

use super::*;

#[tokio::test]
async fn durable_task_is_accepted_followed_and_cancelled() {
    let net = Net::start().await;
    let body = r#"{"model":"m","prompt":"hi"}"#;
    let submitted = net.post("/inference", body).await;
    assert_eq!(submitted.status, 202, "{}", submitted.text());
    let id = submitted.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(submitted.header("x-iris-task"), Some(id.as_str()));
    let path = format!("/inference/{id}");
    assert_eq!(net.get(&path).await.json()["id"], id.as_str());
    let bearer = net.bearer();
    let cancelled = send(net.address, request("DELETE", &path, &[bearer.as_pair()], "")).await;
    assert_eq!(cancelled.status, 200, "{}", cancelled.text());
    assert_eq!(net.get(&path).await.json()["status"], cancelled.json()["status"]);
}

#[tokio::test]
async fn repeated_submission_is_one_task() {
    let net = Net::start().await;
    let bearer = net.bearer();
    let headers = [bearer.as_pair(), ("idempotency-key", "once")];
    let submit = |body: &str| send(net.address, request("POST", "/inference", &headers, body));
    let first = submit(r#"{"model":"m","prompt":"hi"}"#).await.json();
    let again = submit(r#"{"model":"m","prompt":"hi"}"#).await.json();
    assert_eq!(first["id"], again["id"]);
    let other = submit(r#"{"model":"m","prompt":"other"}"#).await;
    assert_eq!((other.status, other.error_code()), (409, json!("conflict")));
    let long = "x".repeat(256);
    let headers = [bearer.as_pair(), ("idempotency-key", long.as_str())];
    let refused = send(net.address, request("POST", "/inference", &headers, "{}")).await;
    assert_eq!(refused.status, 400);
}

#[tokio::test]
async fn nobody_sees_another_accounts_tasks() {
    let net = Net::start().await;
    let submitted = net.post("/inference", r#"{"model":"m","prompt":"hi"}"#).await.json();
    let id = submitted["id"].as_str().unwrap();
    let other = net.coordinator.accounts().create_account().await.unwrap().account;
    let other = key(&net.coordinator, other, KeyScope::Inference).await;
    let bearer = format!("Bearer {other}");
    for path in [format!("/inference/{id}"), "/inference/nonsense".to_owned()] {
        let reply = request("GET", &path, &[("authorization", &bearer)], "");
        let reply = send(net.address, reply).await;
        assert_eq!((reply.status, reply.error_code()), (404, json!("not_found")));
    }
}

#[tokio::test]
async fn task_is_explained_to_whoever_asked_it() {
    let net = Net::start().await;
    let answer = r#"{"choices":[{"message":{"content":"hi"}}]}"#;
    net.node(vec![Step::whole(answer), Step::Finish("stop")]).await;
    let reply = net.chat("").await;
    let task = reply.header("x-iris-task").unwrap();
    let explanation = net.get(&format!("/inference/{task}/explain")).await;
    assert_eq!(explanation.status, 200, "{}", explanation.text());
    assert_eq!(explanation.json()["node"].as_str(), reply.header("x-iris-node"));
}

#[tokio::test]
async fn malformed_tasks_are_refused() {
    let net = Net::start().await;
    for body in ["{", "{}", r#"{"model":"m"}"#, r#"{"model":"m","prompt":"a","prompt":"b"}"#] {
        let reply = net.post("/inference", body).await;
        assert_eq!(reply.status, 400, "{body}");
        assert!(reply.json()["error"].is_object());
    }
}

#[tokio::test]
async fn durable_task_about_a_data_set_goes_to_no_node_without_it() {
    let net = Net::start().await;
    let node = net.node(vec![Step::Echo, Step::Finish("stop")]).await;
    let mut body = json!({ "model": Node::MODEL, "prompt": "hi", "iris_dataset": { "name": "d" } });
    let submitted = net.post("/inference", &body.to_string()).await.json();
    let id = submitted["id"].as_str().unwrap();
    net.events(id).await;
    let status = net.get(&format!("/inference/{id}")).await.json();
    assert_eq!(status["error"]["code"], "dataset_not_found", "{status}");
    assert!(node.asked.lock().unwrap().is_empty());
    body["iris_dataset"] = json!("d");
    let refused = net.post("/inference", &body.to_string()).await;
    let at = refused.json()["error"]["param"].clone();
    assert_eq!((refused.status, at), (400, json!("iris_dataset")));
}

#[tokio::test]
async fn durable_task_that_is_too_long_for_every_node_ends_at_once() {
    let net = Net::start().await;
    net.node(Vec::new()).await;
    let body = json!({ "model": Node::MODEL, "prompt": "x ".repeat(40_000) });
    let submitted = net.post("/inference", &body.to_string()).await.json();
    let id = submitted["id"].as_str().unwrap();
    net.events(id).await;
    let status = net.get(&format!("/inference/{id}")).await.json();
    assert_eq!(status["error"]["code"], "no_node_able", "{status}");
}
