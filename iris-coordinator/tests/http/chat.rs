use iris_core::backend::BackendError;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::node::SOON;
use super::*;

pub(crate) const ANSWER: &str = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"hello","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;

fn deltas(reply: &Reply) -> String {
    let events = reply.events();
    let texts = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str());
    texts.collect()
}

#[tokio::test]
async fn whole_answer_carries_envelope_and_headers() {
    let net = Net::start().await;
    let node = net.node(vec![Step::whole(ANSWER), Step::Finish("stop")]).await;
    let reply = net.chat("").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let body = reply.json();
    let id = reply.header("x-request-id").unwrap();
    assert_eq!(body["id"], format!("chatcmpl-{id}"));
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], Node::MODEL);
    assert_eq!(body["choices"][0]["message"]["content"], "hello");
    assert_eq!(body["usage"]["total_tokens"], 5);
    assert_eq!(reply.header("x-iris-task"), Some(id));
    assert_eq!(reply.header("x-iris-privacy"), Some("open"));
    let nodes = net.coordinator.nodes();
    assert_eq!(reply.header("x-iris-node"), Some(nodes[0].id.as_str()));
    assert!(reply.header("openai-processing-ms").is_some());
    assert_eq!(node.asked.lock().unwrap().as_slice(), [(false, chat_body("").into())]);
}

#[tokio::test]
async fn body_reaches_the_node_byte_for_byte() {
    let net = Net::start().await;
    let node = net.node(vec![Step::whole(ANSWER), Step::Finish("stop")]).await;
    let members = ",  \"min_p\":0.10, \"stop\":null,\"x\":[1e3,\"\\u00e4\"]";
    assert_eq!(net.chat(members).await.status, 200);
    assert_eq!(node.asked.lock().unwrap()[0].1, chat_body(members));
}

#[tokio::test]
async fn stream_is_complete_and_marked_so() {
    let net = Net::start().await;
    let tool = r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c"}]},"finish_reason":null}]}"#;
    let steps = vec![Step::text("he"), Step::json(tool), Step::text("llo"), Step::Finish("stop")];
    net.node(steps).await;
    let reply = net.chat(r#","stream":true,"stream_options":{"include_usage":true}"#).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    assert_eq!(reply.header("cache-control"), Some("no-cache"));
    assert_eq!(reply.header("x-accel-buffering"), Some("no"));
    assert_eq!(reply.header("content-length"), None);
    assert_eq!(deltas(&reply), "hello");
    let events = reply.events();
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let (end, usage) = (&events[events.len() - 1], &events[events.len() - 2]);
    assert_eq!(*end, json!("[DONE]"));
    assert_eq!(usage["usage"]["total_tokens"], 5);
    assert_eq!(events[events.len() - 3]["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn text_cannot_forge_an_event() {
    let net = Net::start().await;
    let evil = "\n\ndata: [DONE]\n\n\r\nevent: x\u{0}\"}]}";
    net.node(vec![Step::text(evil), Step::Finish("stop")]).await;
    let reply = net.chat(r#","stream":true"#).await;
    assert_eq!(deltas(&reply), evil);
    assert_eq!(reply.events().iter().filter(|event| **event == json!("[DONE]")).count(), 1);
}

#[tokio::test]
async fn vectors_come_as_a_list_of_a_named_model() {
    let net = Net::start().await;
    let vectors = r#"{"data":[{"object":"embedding","index":0,"embedding":[0.6,0.8]}],"usage":{"prompt_tokens":2,"total_tokens":2}}"#;
    let node = net.node(vec![Step::whole(vectors), Step::Finish("stop")]).await;
    let body = format!(r#"{{"model":"{}","input":["hi"]}}"#, Node::MODEL);
    let reply = net.post("/v1/embeddings", &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answer = reply.json();
    assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!(Node::MODEL)));
    assert_eq!(answer["data"][0]["embedding"], json!([0.6, 0.8]));
    assert_eq!(node.asked.lock().unwrap().as_slice(), [(false, body.into())]);
    for body in [r#"{"input":"hi"}"#, r#"{"model":"iris/any","input":"hi"}"#] {
        let reply = net.post("/v1/embeddings", body).await;
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("model")));
    }
}

#[tokio::test]
async fn completion_streams_text() {
    let net = Net::start().await;
    net.node(vec![Step::text("a"), Step::Finish("length")]).await;
    let body = format!(r#"{{"model":"{}","prompt":"x","stream":true}}"#, Node::MODEL);
    let events = net.post("/v1/completions", &body).await.events();
    assert_eq!(events[0]["object"], "text_completion");
    assert_eq!(events[0]["choices"][0]["text"], "a");
    assert_eq!(events[1]["choices"][0]["finish_reason"], "length");
    assert_eq!(events[2], json!("[DONE]"));
}

#[tokio::test]
async fn errors_before_the_first_byte_are_statuses_even_when_streaming() {
    let net = Net::start().await;
    let unknown =
        net.post("/v1/chat/completions", r#"{"model":"x","messages":[{}],"stream":true}"#);
    let unknown = unknown.await;
    assert_eq!((unknown.status, unknown.error_code()), (404, json!("model_not_found")));
    let rejected = BackendError::Rejected {
        status: 400,
        code: Some("context_length_exceeded".to_owned()),
        param: Some("messages".to_owned()),
        message: "too long".to_owned(),
    };
    net.node(vec![Step::Fail(rejected)]).await;
    for members in ["", r#","stream":true"#] {
        let reply = net.chat(members).await;
        assert_eq!((reply.status, reply.error_code()), (400, json!("context_length_exceeded")));
        assert_eq!(reply.json()["error"]["param"], "messages");
    }
}

#[tokio::test]
async fn model_whose_node_has_left_is_unavailable_for_a_while() {
    let net = Net::start().await;
    net.node(vec![Step::Vanish]).await;
    // The node is gone once it has failed a request.
    let _ = net.chat("").await;
    let reply = net.chat("").await;
    assert_eq!((reply.status, reply.error_code()), (503, json!("no_node_online")));
    assert_eq!(reply.header("retry-after"), Some("10"));
}

#[tokio::test]
async fn stream_that_breaks_ends_with_an_error_and_without_done() {
    let net = Net::start().await;
    net.node(vec![Step::text("part"), Step::Fail(BackendError::Failed)]).await;
    let reply = net.chat(r#","stream":true"#).await;
    assert_eq!((reply.status, deltas(&reply).as_str()), (200, "part"));
    let events = reply.events();
    let last = events.last().unwrap();
    assert_eq!(last["error"]["code"], "interrupted");
    assert!(!reply.text().contains("[DONE]"));
}

#[tokio::test]
async fn answers_that_are_none_do_not_reach_the_caller() {
    let net = Net::start().await;
    net.node(vec![Step::whole("{\"choices\":[}"), Step::Finish("stop")]).await;
    let reply = net.chat("").await;
    assert_eq!(reply.status, 502, "{}", reply.text());
    let net = Net::start().await;
    let forged = "{\"choices\":[]}\n\ndata: {\"choices\":[]}";
    net.node(vec![Step::text("a"), Step::json(forged), Step::Finish("stop")]).await;
    let reply = net.chat(r#","stream":true"#).await;
    let events = reply.events();
    assert_eq!((reply.status, deltas(&reply).as_str()), (200, "a"));
    assert!(events.last().unwrap()["error"].is_object(), "{}", reply.text());
    let net = Net::start().await;
    net.node(vec![Step::json(forged), Step::Finish("stop")]).await;
    assert_eq!(net.chat(r#","stream":true"#).await.status, 502);
}

#[tokio::test]
async fn caller_that_leaves_frees_the_node() {
    let net = Net::start().await;
    let mut node = net.node(vec![Step::text("a"), Step::Wait, Step::Finish("stop")]).await;
    let mut stream = TcpStream::connect(net.address).await.unwrap();
    let request = net.post_request("/v1/chat/completions", &chat_body(r#","stream":true"#));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(r#""content":"a""#) {
        assert!(stream.read_buf(&mut seen).await.unwrap() > 0);
    }
    drop(stream);
    timeout(SOON, node.cancelled.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn caller_that_leaves_while_waiting_frees_the_node() {
    let net = Net::start().await;
    let mut node = net.node(vec![Step::Wait, Step::Finish("stop")]).await;
    let mut stream = TcpStream::connect(net.address).await.unwrap();
    let request = net.post_request("/v1/chat/completions", &chat_body(""));
    stream.write_all(request.as_bytes()).await.unwrap();
    let arrived = async {
        while node.asked.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, arrived).await.unwrap();
    drop(stream);
    timeout(SOON, node.cancelled.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn silence_is_bridged_by_comments() {
    let keep_alive = std::time::Duration::from_millis(20);
    let net = Net::with_api(ApiSettings::default().with_keep_alive(keep_alive)).await;
    let node = net.node(vec![Step::Wait, Step::text("a"), Step::Finish("stop")]).await;
    let mut stream = TcpStream::connect(net.address).await.unwrap();
    let request = net.post_request("/v1/chat/completions", &chat_body(r#","stream":true"#));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while String::from_utf8_lossy(&seen).matches(": keep-alive\n\n").count() < 2 {
        assert!(timeout(SOON, stream.read_buf(&mut seen)).await.unwrap().unwrap() > 0);
    }
    node.open_gate();
    let rest = async { while stream.read_buf(&mut seen).await.unwrap() > 0 {} };
    timeout(SOON, rest).await.unwrap();
    let reply = client::read(&seen[..]).await;
    assert_eq!((reply.status, deltas(&reply).as_str()), (200, "a"));
    assert_eq!(reply.events().last(), Some(&json!("[DONE]")));
}

#[tokio::test]
async fn models_are_listed_and_found_by_raw_and_encoded_names() {
    let net = Net::start().await;
    net.node(vec![]).await;
    let list = net.get("/v1/models").await.json();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], Node::MODEL);
    assert!(list["data"][0]["created"].as_u64().unwrap() > 0);
    for name in ["org/model:q4", "org%2Fmodel%3Aq4"] {
        let reply = net.get(&format!("/v1/models/{name}")).await;
        assert_eq!((reply.status, reply.json()["id"].as_str()), (200, Some(Node::MODEL)));
    }
    for name in ["other", "org%2", "%ff"] {
        let reply = net.get(&format!("/v1/models/{name}")).await;
        assert_eq!((reply.status, reply.error_code()), (404, json!("model_not_found")), "{name}");
    }
}
