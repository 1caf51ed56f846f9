//! The job interface of DIM.

use futures::StreamExt;
use iris_protocol::frame::Frame;
use iris_protocol::transport::TransportError;
use iris_protocol::transport::websocket::{IntoClientRequest, WebSocket};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::node::SOON;
use super::*;

const MODEL: &str = Node::MODEL;

fn chained() -> Value {
    json!({
        "pattern": "chained",
        "config": { "steps": [
            { "name": "triage", "modelId": MODEL, "prompt": "Triage: {{ input }}" },
            { "modelId": MODEL, "maxTokens": 20 },
        ]},
        "input": "cough",
        "priority": "low",
    })
}

impl Net {
    async fn job(&self, body: &Value) -> String {
        let reply = self.post("/api/inference/submit", &body.to_string()).await;
        assert_eq!(reply.status, 202, "{}", reply.text());
        reply.json()["jobId"].as_str().unwrap().to_owned()
    }

    async fn watch(
        &self,
        id: &str,
        headers: &[(&str, &str)],
    ) -> Result<WebSocket<TcpStream>, TransportError> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let url = format!("ws://{}/ws/jobs/{id}", self.address);
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        WebSocket::client(stream, request).await
    }
}

#[tokio::test]
async fn chained_job_is_submitted_followed_and_fetched() {
    let net = Net::start().await;
    let node = net.node(vec![Step::WaitIf("Triage"), Step::Echo, Step::Finish("stop")]).await;
    let id = net.job(&chained()).await;
    let unfinished = net.get(&format!("/api/inference/result/{id}")).await;
    assert_eq!((unfinished.status, unfinished.header("retry-after")), (202, Some("1")));
    let bearer = net.bearer();
    let key = format!("iris.jobs, iris.key.{}", net.user);
    let by_header = net.watch(&id, &[bearer.as_pair()]).await.unwrap();
    let by_protocol = net.watch(&id, &[("sec-websocket-protocol", &key)]).await.unwrap();
    node.open_gate();
    for mut socket in [by_header, by_protocol] {
        let mut told: Vec<Value> = Vec::new();
        while let Some(frame) = timeout(SOON, socket.next()).await.unwrap() {
            let Frame::Text(text) = frame.unwrap() else { panic!("all frames are text") };
            told.push(serde_json::from_slice(&text.into_bytes()).unwrap());
        }
        assert!(told.iter().all(|event| event["jobId"] == id.as_str()), "{told:?}");
        let end = told.last().unwrap();
        assert_eq!(end["output"]["text"], "<<Triage: cough>>", "{told:?}");
    }
    let result = net.get(&format!("/api/inference/result/{id}")).await;
    assert_eq!((result.status, &result.json()["result"]), (200, &json!("<<Triage: cough>>")));
    let status = net.get(&format!("/api/inference/status/{id}")).await.json();
    assert_eq!((&status["status"], &status["pattern"]), (&json!("completed"), &json!("chained")));
    assert_eq!(status["progress"], json!({ "done": 2, "total": 2 }));
}

#[tokio::test]
async fn patterns_of_several_nodes_and_models_are_carried_out() {
    let net = Net::start().await;
    let vector = vec![
        Step::whole(r#"{"choices":[{"message":{"content":"{\"vector\":[1,3],\"count\":10}"}}]}"#),
        Step::Finish("stop"),
    ];
    net.node(vector.clone()).await;
    net.node(vector).await;
    let nodes: Vec<_> = net.coordinator.nodes().iter().map(|node| node.id.to_string()).collect();
    let id = net
        .job(&json!({
            "pattern": "collaborative",
            "config": {
                "modelId": MODEL, "nodes": nodes,
                "aggregation": { "method": "federated_averaging" },
            },
            "input": "train",
        }))
        .await;
    net.events(&id).await;
    let result = net.get(&format!("/api/inference/result/{id}")).await.json();
    assert_eq!(result["status"], "completed", "{result}");
    assert!(result["result"].as_str().unwrap().contains('3'), "{result}");
    let placed: std::collections::BTreeSet<_> = result["steps"].as_array().unwrap()[..2]
        .iter()
        .map(|step| step["placed"][0]["node"].as_str().unwrap())
        .collect();
    assert_eq!(placed.len(), 2, "{result}");
    let id = net
        .job(&json!({
            "pattern": "comparative",
            "config": { "modelIds": [MODEL, MODEL], "consensus": { "method": "majority_vote" } },
            "input": "x",
        }))
        .await;
    net.events(&id).await;
    let result = net.get(&format!("/api/inference/result/{id}")).await.json();
    assert_eq!(
        (&result["status"], &result["pattern"]),
        (&json!("completed"), &json!("comparative"))
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_job_is_named() {
    let net = Net::start().await;
    let of = |pattern: &str, config: Value| json!({ "pattern": pattern, "config": config });
    for (body, at) in [
        (json!({}), "pattern"),
        (json!({ "pattern": "other", "config": {} }), "pattern"),
        (json!({ "pattern": "chained" }), "config"),
        (json!({ "pattern": "chained", "config": 1 }), "config"),
        (of("collaborative", json!({})), "config.modelId"),
        (of("collaborative", json!({ "modelId": 7 })), "config.modelId"),
        (of("collaborative", json!({ "modelId": "m" })), "config.nodes"),
        (of("collaborative", json!({ "modelId": "m", "nodes": ["node-1"] })), "config.nodes[0]"),
        (
            of(
                "collaborative",
                json!({
                    "modelId": "m", "datasets": ["d"], "aggregation": { "method": "magic" },
                }),
            ),
            "config.aggregation.method",
        ),
        (of("comparative", json!({})), "config.modelIds"),
        (of("comparative", json!({ "modelIds": ["a"] })), "config.modelIds"),
        (
            of("comparative", json!({ "modelIds": ["a", "b"], "consensus": {} })),
            "config.consensus.method",
        ),
        (of("chained", json!({ "steps": [] })), "config.steps"),
        (of("chained", json!({ "steps": [{ "prompt": "x" }] })), "config.steps[0].modelId"),
        (
            of("chained", json!({ "steps": [{ "modelId": "m", "extra": 1 }] })),
            "config.steps[0].extra",
        ),
        (
            of("chained", json!({ "pipeline": [{ "modelId": "m", "prompt": "{{ later }}" }] })),
            "config.pipeline[0].prompt",
        ),
        (json!({ "pattern": "chained", "config": {}, "priority": "asap" }), "priority"),
        (json!({ "pattern": "comparative", "config": { "modelIds": ["a", "b"] }, "x": 1 }), "x"),
    ] {
        let reply = net.post("/api/inference/submit", &body.to_string()).await;
        let param = reply.json()["error"]["param"].clone();
        assert_eq!((reply.status, param), (400, json!(at)), "{body}: {}", reply.text());
    }
}

#[tokio::test]
async fn watching_needs_a_key_a_job_of_ones_own_and_an_allowed_page() {
    let net = Net::start().await;
    let id = net.job(&chained()).await;
    let other = net.coordinator.accounts().create_account().await.unwrap().account;
    let other = format!("Bearer {}", key(&net.coordinator, other, KeyScope::Inference).await);
    let bearer = net.bearer();
    let own = bearer.as_pair();
    let key = format!("iris.key.{}", net.user);
    for (id, headers, status) in [
        (id.as_str(), vec![], 401),
        (id.as_str(), vec![("authorization", other.as_str())], 404),
        ("nonsense", vec![own], 404),
        (id.as_str(), vec![own, ("origin", "https://evil.example")], 403),
        // The key must not be what the server chooses.
        (id.as_str(), vec![("sec-websocket-protocol", key.as_str())], 400),
    ] {
        let refused = net.watch(id, &headers).await.err();
        assert_eq!(refused, Some(TransportError::Refused(status)), "{id} {status}");
    }
    let here = format!("http://{}", net.address);
    net.watch(&id, &[own, ("origin", &here)]).await.unwrap();
}
