//! The local endpoint that seals, asked as any OpenAI program asks.
#![cfg(feature = "proxy")]
#[allow(dead_code, reason = "each test file uses its own part")]
mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use iris_client::proxy::{BindError, Proxy};
use iris_client::{Client, Policy};
use iris_core::backend::BackendError;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use support::sealed::*;
use support::{SseEvents, refusal};

/// Starts a proxy before `network` that has a key, and returns its address.
async fn start(network: &Network) -> String {
    start_with(network, Some("iris_k")).await
}

async fn start_with(network: &Network, key: Option<&str>) -> String {
    let mut builder = Client::builder(&network.url);
    if let Some(key) = key {
        builder = builder.with_api_key(key);
    }
    // Even a client that is open seals here.
    let client = builder.with_policy(Policy::Open).build().expect("the url is valid");
    let proxy = Proxy::bind(client, "127.0.0.1:0".parse().expect("a port is free"))
        .await
        .expect("a port is free");
    let url = format!("http://{}", proxy.local_addr().expect("it is bound"));
    tokio::spawn(proxy.run(std::future::pending()));
    url
}

fn http() -> reqwest::Client {
    // It needs a provider of cryptography, though it encrypts nothing here.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

async fn post(url: &str, path: &str, body: &Value) -> Response {
    http()
        .post(format!("{url}{path}"))
        .body(body.to_string())
        .send()
        .await
        .expect("the proxy answers")
}

fn chat(stream: bool) -> Value {
    json!({ "model": MODEL, "stream": stream, "messages": [{ "role": "user", "content": "hi" }] })
}

async fn refused(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    assert!(response.headers().contains_key("x-request-id"), "{status}");
    assert_eq!(response.headers()["content-type"], "application/json", "{status}");
    let body: Value = response.json().await.expect("it is JSON");
    let error = body["error"].as_object().expect("an error is an object");
    // Sorted, since whether a map of JSON keeps its order depends on what else is built along.
    let members: BTreeSet<_> = error.keys().map(String::as_str).collect();
    assert_eq!(members, BTreeSet::from(["code", "message", "param", "type"]));
    (status, body["error"].clone())
}

#[tokio::test]
async fn a_whole_answer_has_the_coordinators_form_and_what_was_verified() {
    let network = Network::start(2).await;
    let url = start(&network).await;
    let response = post(&url, "/v1/chat/completions", &chat(false)).await;
    assert_eq!(response.status(), 200);
    let headers = response.headers().clone();
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["choices"][0]["message"]["content"], "hello there");
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["usage"]["total_tokens"], 11);
    let task = headers["x-iris-task"].to_str().unwrap();
    assert_eq!(body["id"], format!("chatcmpl-{task}"));
    assert_eq!(
        (&headers["x-iris-privacy"], &headers["x-request-id"]),
        (&"sealed".parse().unwrap(), &"req-1".parse().unwrap())
    );
    network.with(|state| {
        // Not what the coordinator's own headers say.
        let node = headers["x-iris-node"].to_str().unwrap();
        assert!(state.nodes.iter().any(|it| it.id().as_str() == node));
        assert_eq!(state.calls, ["GET /roster", "POST /sealed"]);
        let (_, prompt, _) = state.open(&state.asked[0]);
        assert_eq!(serde_json::from_slice::<Value>(&prompt.body).unwrap(), chat(false));
    });
}

#[tokio::test]
async fn a_stream_ends_with_done_and_a_broken_one_with_an_error() {
    let network = Network::start(1).await;
    let url = start(&network).await;
    let mut asked = chat(true);
    asked["stream_options"] = json!({ "include_usage": true });
    let response = post(&url, "/v1/chat/completions", &asked).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-iris-privacy"], "sealed");
    let events = SseEvents::of(&response.text().await.unwrap());
    assert_eq!(events.last(), "[DONE]");
    assert_eq!(events.json(0)["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(events.text(), "hello there");
    let usage = events.json(events.len() - 2);
    assert_eq!((&usage["choices"], &usage["usage"]["total_tokens"]), (&json!([]), &json!(11)));

    network.on_sealed(|state, request| {
        let mut records = state.records(&request, "half an answer");
        records.truncate(3);
        sealed(&records)
    });
    let response = post(&url, "/v1/chat/completions", &chat(true)).await;
    assert_eq!(response.status(), 200);
    let events = SseEvents::of(&response.text().await.unwrap());
    assert_eq!(events.text(), "half an ");
    let last = events.json(events.len() - 1);
    assert_eq!(last["error"]["code"], "interrupted");

    network.on_sealed(|state, request| {
        let mut records = state.records(&request, "half an answer");
        records.swap(2, 3);
        sealed(&records)
    });
    let response = post(&url, "/v1/chat/completions", &chat(true)).await;
    let events = SseEvents::of(&response.text().await.unwrap());
    assert_eq!(events.json(events.len() - 1)["error"]["code"], "broken_answer");
}

#[tokio::test]
async fn texts_become_vectors_sealed() {
    let network = Network::start(1).await;
    network.on_sealed(|state, request| {
        let (node, _, sealer) = state.open(&request);
        let whole = r#"{"data":[{"object":"embedding","index":0,"embedding":[1.0]}]}"#;
        sealed(&state.write(node, sealer, &[Piece::Whole(whole.to_owned())], "stop", USAGE))
    });
    let url = start(&network).await;
    let body = json!({ "model": MODEL, "input": "hello" });
    let answer: Value = post(&url, "/v1/embeddings", &body).await.json().await.unwrap();
    assert_eq!(
        (&answer["object"], &answer["data"][0]["embedding"]),
        (&json!("list"), &json!([1.0])),
        "{answer}"
    );
}

#[tokio::test]
async fn completions_are_sealed_too() {
    let network = Network::start(1).await;
    network.on_sealed(|state, request| {
        let (node, _, sealer) = state.open(&request);
        let whole = r#"{"choices":[{"index":0,"text":"there","finish_reason":"stop"}]}"#;
        sealed(&state.write(node, sealer, &[Piece::Whole(whole.to_owned())], "stop", USAGE))
    });
    let url = start(&network).await;
    let body = json!({ "model": MODEL, "prompt": "hello" });
    let answer: Value = post(&url, "/v1/completions", &body).await.json().await.unwrap();
    assert_eq!(
        (&answer["object"], &answer["choices"][0]["text"]),
        (&json!("text_completion"), &json!("there"))
    );
}

#[tokio::test]
async fn models_are_those_that_can_be_sealed_to() {
    let network = Network::start(1).await;
    let url = start(&network).await;
    let get = |path: &str| http().get(format!("{url}{path}")).send();
    let list: Value = get("/v1/models").await.unwrap().json().await.unwrap();
    let names: Vec<_> = list["data"].as_array().unwrap().iter().map(|it| &it["id"]).collect();
    assert_eq!(names, [MODEL]);
    let one: Value = get("/v1/models/m").await.unwrap().json().await.unwrap();
    assert_eq!((&one["id"], &one["object"]), (&json!(MODEL), &json!("model")));
    let (status, error) = refused(get("/v1/models/open-only").await.unwrap()).await;
    assert_eq!((status, &error["code"]), (404, &json!("model_not_found")));
    assert_eq!(get("/healthz").await.unwrap().status(), 200);
}

#[tokio::test]
async fn requests_are_refused_as_by_the_coordinator() {
    let network = Network::start(1).await;
    network.with(|state| state.away = vec!["gone".to_owned()]);
    let url = start(&network).await;
    let path = "/v1/chat/completions";
    for (body, status, code, param) in [
        (json!([]), 400, Value::Null, Value::Null),
        (json!({ "model": MODEL }), 400, Value::Null, json!("messages")),
        (json!({ "model": MODEL, "messages": "x" }), 400, Value::Null, json!("messages")),
        (json!({ "model": "no", "messages": [{}] }), 404, json!("model_not_found"), json!("model")),
        (json!({ "model": "gone", "messages": [{}] }), 503, json!("no_node_online"), Value::Null),
        (
            json!({ "model": MODEL, "messages": [{}], "max_tokens": 99_999 }),
            400,
            json!("context_length_exceeded"),
            json!("messages"),
        ),
    ] {
        let (found, error) = refused(post(&url, path, &body).await).await;
        assert_eq!((found, &error["code"], &error["param"]), (status, &code, &param), "{body}");
    }
    let compressed = http().post(format!("{url}{path}")).header("content-encoding", "gzip");
    assert_eq!(refused(compressed.body("x").send().await.unwrap()).await.0, 415);
    let large = http().post(format!("{url}{path}")).body(vec![b' '; 33 << 20]);
    let (status, error) = refused(large.send().await.unwrap()).await;
    assert_eq!((status, &error["code"]), (413, &json!("request_too_large")));
    let wrong = http().get(format!("{url}{path}")).send().await.unwrap();
    assert_eq!(wrong.headers()["allow"], "POST");
    assert_eq!(refused(wrong).await.0, 405);
    let nowhere = http().get(format!("{url}/v1/nothing")).send().await.unwrap();
    assert_eq!(refused(nowhere).await.1["code"], "not_found");
    assert_eq!(network.asked(), 0);
}

#[tokio::test]
async fn refusals_and_failures_keep_their_status_and_advice() {
    let network = Network::start(1).await;
    let url = start(&network).await;
    let path = "/v1/chat/completions";
    let rejected = |code: &str| BackendError::Rejected {
        status: 400,
        code: Some(code.to_owned()),
        param: None,
        message: "too long".to_owned(),
    };
    let too_long = rejected("context_length_exceeded");
    network.on_sealed(move |state, request| sealed(&state.fail(&request, &[], &too_long)));
    for stream in [false, true] {
        let (status, error) = refused(post(&url, path, &chat(stream)).await).await;
        assert_eq!((status, &error["code"]), (400, &json!("context_length_exceeded")));
    }
    network.on_sealed(|_, _| refusal(401, "invalid_api_key"));
    let response = post(&url, path, &chat(false)).await;
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    assert_eq!(refused(response).await.1["code"], "invalid_api_key");
    // A coordinator that does not seal is not asked in another way.
    network.on_sealed(|_, _| refusal(404, "not_found"));
    let response = post(&url, path, &chat(true)).await;
    assert_eq!(response.headers()["x-should-retry"], "false");
    let (status, error) = refused(response).await;
    assert_eq!((status, &error["code"]), (502, &json!("sealing_unsupported")));
    let calls = network.with(|state| state.calls.clone());
    assert!(!calls.iter().any(|call| call.contains("/v1/")), "{calls:?}");
}

#[tokio::test]
async fn the_callers_key_is_used_where_the_proxy_has_none() {
    let network = Network::start(1).await;
    let last = |network: &Network| network.with(|state| state.keys.last().cloned().flatten());
    for (own, used) in [(None, "Bearer iris_callers"), (Some("iris_own"), "Bearer iris_own")] {
        let url = start_with(&network, own).await;
        let response = http()
            .post(format!("{url}/v1/chat/completions"))
            .bearer_auth("iris_callers")
            .body(chat(false).to_string())
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(last(&network).as_deref(), Some(used));
    }
}

#[tokio::test]
async fn pages_and_strangers_are_refused() {
    let network = Network::start(1).await;
    let url = start(&network).await;
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("host", "evil.example"),
        ("host", "10.0.0.1:8088"),
    ] {
        for method in [Method::GET, Method::POST, Method::OPTIONS] {
            let request = http().request(method, format!("{url}/v1/models")).header(name, value);
            let (status, error) = refused(request.send().await.unwrap()).await;
            assert_eq!((status, &error["code"]), (403, &json!("forbidden")), "{name}: {value}");
        }
    }
    assert!(network.with(|state| state.calls.is_empty()));
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let address: SocketAddr = address.parse().unwrap();
        let client = Client::builder(&network.url).build().unwrap();
        let refused = Proxy::bind(client, address).await.map(drop);
        assert!(matches!(refused, Err(BindError::NotLoopback(_))), "{address}");
    }
}

#[tokio::test]
async fn model_names_ask_for_divided_work_that_is_sealed_part_by_part() {
    let network = Network::start(3).await;
    network.on_sealed(|state, request| sealed(&state.records(&request, "42")));
    let url = start(&network).await;
    let mut asked = chat(true);
    asked["model"] = json!("iris/consensus-3:m");
    asked["stream_options"] = json!({ "include_usage": true });
    let response = post(&url, "/v1/chat/completions", &asked).await;
    assert_eq!(response.headers()["x-iris-privacy"], "sealed");
    let events = SseEvents::of(&response.text().await.unwrap());
    assert_eq!((events.text().as_str(), events.last()), ("42", "[DONE]"));
    assert_eq!(events.json(0)["model"], "iris/consensus-3:m");
    assert!(events.json(events.len() - 2)["usage"]["total_tokens"].as_u64() >= Some(22));
    network.with(|state| {
        let calls: Vec<_> = state.calls.iter().filter(|call| call.starts_with("POST")).collect();
        assert!(calls.len() >= 2 && calls.iter().all(|call| *call == "POST /sealed"), "{calls:?}");
        for request in &state.asked {
            let (_, prompt, _) = state.open(request);
            let body: Value = serde_json::from_slice(&prompt.body).unwrap();
            assert_eq!(body["model"], "m");
        }
    });
    asked["stream"] = json!(false);
    let whole: Value = post(&url, "/v1/chat/completions", &asked).await.json().await.unwrap();
    assert_eq!(whole["choices"][0]["message"]["content"], "42");
    assert_eq!(whole["object"], "chat.completion");
}

#[tokio::test]
async fn the_parts_of_a_divided_chat_ask_for_nothing_that_the_whole_is_read_for() {
    let network = Network::start(3).await;
    network.on_sealed(|state, request| sealed(&state.records(&request, "42")));
    let url = start(&network).await;
    let mut asked = chat(false);
    asked["model"] = json!("iris/consensus:m");
    asked["temperature"] = json!(0.5);
    let read = json!({ "n": 1, "logprobs": false, "tools": [], "functions": [],
        "tool_choice": "none", "function_call": "none", "parallel_tool_calls": false });
    for (name, value) in read.as_object().unwrap() {
        asked[name] = value.clone();
    }
    let response = post(&url, "/v1/chat/completions", &asked).await;
    assert_eq!(response.status(), 200, "{:?}", response.text().await);
    asked["logprobs"] = Value::Null;
    assert_eq!(post(&url, "/v1/chat/completions", &asked).await.status(), 200);
    network.with(|state| {
        assert!(state.asked.len() >= 4);
        for request in &state.asked {
            let (_, prompt, _) = state.open(request);
            let body: Value = serde_json::from_slice(&prompt.body).unwrap();
            assert_eq!(body["temperature"], 0.5);
            for name in read.as_object().unwrap().keys() {
                assert!(body.get(name).is_none(), "{name}: {body}");
            }
        }
    });
}

#[tokio::test]
async fn what_cannot_be_divided_is_refused_by_the_member_at_fault() {
    let network = Network::start(1).await;
    let url = start(&network).await;
    let mut asked = chat(true);
    asked["model"] = json!("iris/consensus:m");
    asked["functions"] = json!([{ "name": "f" }]);
    let (got, error) = refused(post(&url, "/v1/chat/completions", &asked).await).await;
    assert_eq!((got, &error["param"]), (400, &json!("tools")), "{error}");
    for (member, value, status) in [
        ("tools", json!([{ "type": "function", "function": { "name": "f" } }]), 400),
        ("n", json!(2), 400),
        ("logprobs", json!(true), 400),
        ("prompt_logprobs", json!(1), 400),
        ("model", json!("iris/consensus:nothere"), 404),
    ] {
        let mut asked = chat(true);
        asked["model"] = json!("iris/consensus:m");
        asked[member] = value;
        let (got, error) = refused(post(&url, "/v1/chat/completions", &asked).await).await;
        assert_eq!((got, &error["param"]), (status, &json!(member)), "{error}");
    }
    let completion = json!({ "model": "iris/subtasks:m", "prompt": "x" });
    let (status, error) = refused(post(&url, "/v1/completions", &completion).await).await;
    assert_eq!((status, &error["param"]), (400, &json!("model")));
    assert_eq!(network.asked(), 0);
    // One owner cannot make a quorum of two.
    let mut asked = chat(true);
    asked["model"] = json!("iris/consensus:m");
    let (status, error) = refused(post(&url, "/v1/chat/completions", &asked).await).await;
    assert_eq!((status, &error["code"]), (502, &json!("no_quorum")));
}

#[tokio::test]
async fn programs_may_leave_the_model_open() {
    let network = Network::start(1).await;
    let url = start(&network).await;
    for stream in [false, true] {
        let mut body = chat(stream);
        body.as_object_mut().expect("it is an object").remove("model");
        let response = post(&url, "/v1/chat/completions", &body).await;
        assert_eq!(response.status(), 200, "{stream}");
        let text = response.text().await.unwrap();
        assert!(text.contains(&format!(r#""model":"{MODEL}""#)), "{text}");
    }
    let mut divided = chat(false);
    divided["model"] = "iris/auto:iris/any".into();
    assert_eq!(post(&url, "/v1/chat/completions", &divided).await.status(), 200);
}
