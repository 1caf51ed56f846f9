//! Tasks and chats that ask for a way of working.

use iris_core::plan::{PlanEnd, PlanRun, Progress};
use iris_protocol::openai::Preferences;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::node::SOON;
use super::plan::{ask, echo, plan};
use super::*;

const MODEL: &str = Node::MODEL;

fn named(mode: &str, members: &str) -> String {
    format!(
        r#"{{"model":"iris/{mode}:{MODEL}","messages":[{{"role":"user","content":"7"}}]{members}}}"#
    )
}

fn param(reply: &Reply) -> (u16, String) {
    let param = reply.json()["error"]["param"].as_str().unwrap_or_default().to_owned();
    (reply.status, param)
}

#[tokio::test]
async fn mode_divides_a_durable_task() {
    let net = Net::start().await;
    for _ in 0..3 {
        net.strangers_node(echo()).await;
    }
    let body = json!({ "model": MODEL, "prompt": "7", "mode": "consensus", "priority": "high" });
    let submitted = net.post("/inference", &body.to_string()).await;
    assert_eq!(submitted.status, 202, "{}", submitted.text());
    let id = submitted.json()["id"].as_str().unwrap().to_owned();
    let events = net.events(&id).await;
    let agreed: Vec<_> = events.iter().filter(|event| event["event"] == "agreed").collect();
    assert_eq!(agreed.len(), 1, "{events:?}");
    let status = net.get(&format!("/inference/{id}")).await.json();
    assert_eq!((&status["mode"], &status["result"]["text"]), (&json!("consensus"), &json!("<7>")));
    let explained = net.get(&format!("/inference/{id}/explain")).await.json();
    assert!(
        explained["plan"]["mermaid"].as_str().unwrap().contains("graph")
            || !explained["plan"]["mermaid"].as_str().unwrap().is_empty()
    );
}

#[tokio::test]
async fn whoever_wants_events_is_told_them_at_once() {
    let net = Net::start().await;
    net.node(echo()).await;
    let plan = json!({ "plan": {
        "model": MODEL, "input": "in",
        "steps": [{ "name": "a", "prompt": "{{ input }}" }, { "name": "b", "prompt": "b {{ a }}" }],
    }});
    let bearer = net.bearer();
    let headers = [bearer.as_pair(), ("accept", "application/json, text/event-stream")];
    let asked = request("POST", "/inference", &headers, &plan.to_string());
    let reply = timeout(SOON, send(net.address, asked)).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let id = reply.header("x-iris-task").unwrap();
    assert_eq!(reply.events().last().unwrap()["output"]["text"], "<b <in>>");
    assert_eq!(net.get(&format!("/inference/{id}")).await.json()["status"], "finished");
}

#[tokio::test]
async fn what_is_wrong_with_a_division_or_a_plan_is_named() {
    let net = Net::start().await;
    let with = |members: Value| {
        let mut body = json!({ "model": MODEL, "prompt": "hi" });
        body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        body.to_string()
    };
    for (body, at) in [
        (with(json!({ "mode": "unknown" })), "mode"),
        (with(json!({ "mode": "consensus", "replicas": "many" })), "replicas"),
        (with(json!({ "mode": "context", "replicas": 3 })), "replicas"),
        (with(json!({ "mode": "comparative", "models": ["a"] })), "models"),
        (with(json!({ "mode": "consensus", "tools": [{ "type": "function" }] })), "tools"),
        (with(json!({ "mode": "consensus", "n": 2 })), "n"),
        (with(json!({ "mode": "consensus", "priority": "soon" })), "priority"),
        (with(json!({ "mode": "consensus", "priority": "interactive" })), "priority"),
        (with(json!({ "priority": "interactive" })), "priority"),
        (json!({ "plan": {}, "priority": "interactive" }).to_string(), "priority"),
        (with(json!({ "mode": "consensus", "messages": [] })), "messages"),
        (with(json!({ "max_tokens": "few" })), "max_tokens"),
        (json!({ "plan": [] }).to_string(), "plan.plan"),
        (json!({ "plan": { "steps": [] } }).to_string(), "plan.steps"),
        (
            json!({ "plan": { "model": "m", "steps": [{ "name": "a", "prompt": "{{ b }}" }] } })
                .to_string(),
            "plan.steps[0].prompt",
        ),
        (
            json!({ "plan": { "model": "m", "steps": [{ "name": "a", "prompt": "x", "promt": 1 }] } })
                .to_string(),
            "plan.steps[0].promt",
        ),
        (json!({ "plan": {}, "model": "m" }).to_string(), "model"),
    ] {
        let reply = net.post("/inference", &body).await;
        assert_eq!(param(&reply), (400, at.to_owned()), "{body}: {}", reply.text());
    }
}

#[tokio::test]
async fn model_name_asks_for_a_mode_in_a_chat() {
    let net = Net::start().await;
    for _ in 0..3 {
        net.strangers_node(echo()).await;
    }
    let reply = net.post("/v1/chat/completions", &named("consensus", "")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let body = reply.json();
    assert_eq!(body["choices"][0]["message"]["content"], "<7>");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["model"], format!("iris/consensus:{MODEL}"));
    assert!(body["usage"]["total_tokens"].as_u64().unwrap() >= 10, "{body}");
    assert_eq!(reply.header("x-iris-privacy"), Some("open"));
    assert_eq!(reply.header("x-iris-task"), reply.header("x-request-id"));
    let task = reply.header("x-iris-task").unwrap();
    let path = format!("/inference/{task}/explain");
    let explained = net.get(&path).await.json();
    assert!(explained["steps"].as_array().unwrap().len() > 1, "{explained}");
    assert!(explained["steps"][0]["node"].is_string(), "{explained}");
    assert!(explained["plan"]["mermaid"].is_string(), "{explained}");
    let stranger = net.coordinator.accounts().create_account().await.unwrap().account;
    let bearer = format!("Bearer {}", key(&net.coordinator, stranger, KeyScope::Inference).await);
    let asked = request("GET", &path, &[("authorization", &bearer)], "");
    assert_eq!(send(net.address, asked).await.status, 404);
    let members = r#","stream":true,"stream_options":{"include_usage":true}"#;
    let reply = net.post("/v1/chat/completions", &named("subtasks", members)).await;
    assert_eq!(reply.header("content-type"), Some("text/event-stream"), "{}", reply.text());
    let events = reply.events();
    let deltas = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str());
    assert!(deltas.collect::<String>().contains('7'), "{}", reply.text());
    assert_eq!(events.last().unwrap(), &json!("[DONE]"));
    assert!(events[events.len() - 2]["usage"]["total_tokens"].as_u64().unwrap() > 0);
    assert!(reply.text().contains(r#": {"event":"answered""#), "{}", reply.text());
}

#[tokio::test]
async fn chat_that_cannot_be_divided_is_refused_before_it_begins() {
    let net = Net::start().await;
    net.node(echo()).await;
    for (members, at) in [
        (r#","n":2"#, "n"),
        (r#","tools":[{"type":"function","function":{"name":"f"}}]"#, "tools"),
        (r#","logprobs":true"#, "logprobs"),
        (r#","prompt_logprobs":1"#, "prompt_logprobs"),
    ] {
        let reply = net.post("/v1/chat/completions", &named("auto", members)).await;
        assert_eq!(param(&reply), (400, at.to_owned()), "{members}");
    }
    let body = format!(r#"{{"model":"iris/auto:{MODEL}","prompt":"hi"}}"#);
    assert_eq!(param(&net.post("/v1/completions", &body).await), (400, "model".to_owned()));
    // A name that asks for nothing is the name of a model.
    let unknown = net.chat("").await.status;
    assert_eq!(unknown, 200);
    let reply = net.post("/v1/chat/completions", &named("tiny", "")).await;
    assert_eq!((reply.status, reply.error_code()), (404, json!("model_not_found")));
    // There is one owner, and three are needed.
    for members in ["", r#","stream":true"#] {
        let reply = net.post("/v1/chat/completions", &named("consensus", members)).await;
        assert!(reply.status >= 500, "{} {}", reply.status, reply.text());
        assert!(reply.json()["error"]["code"].is_string());
    }
}

#[tokio::test]
async fn caller_that_leaves_cancels_every_step() {
    use tokio::io::AsyncWriteExt;
    let net = Net::start().await;
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(net.strangers_node(vec![Step::Wait, Step::Echo, Step::Finish("stop")]).await);
    }
    let mut stream = tokio::net::TcpStream::connect(net.address).await.unwrap();
    let asked = net.post_request("/v1/chat/completions", &named("consensus", r#","stream":true"#));
    stream.write_all(asked.as_bytes()).await.unwrap();
    let at_work = async {
        while nodes.iter().any(|node| node.asked.lock().unwrap().is_empty()) {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, at_work).await.unwrap();
    drop(stream);
    for node in &mut nodes {
        timeout(SOON, node.cancelled.recv()).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn dissent_is_kept_as_evidence_without_what_was_said() {
    use futures::StreamExt;
    let net = Net::start().await;
    let other = vec![
        Step::whole(r#"{"choices":[{"message":{"content":"8 SECRET"}}]}"#),
        Step::Finish("stop"),
    ];
    net.strangers_node(echo()).await;
    net.strangers_node(echo()).await;
    net.strangers_node(other).await;
    let body = json!({
        "model": MODEL, "prompt": "7", "mode": "consensus", "quorum": 3, "weighted": false,
        "agree": { "by": "number" },
    });
    let id = net.post("/inference", &body.to_string()).await.json()["id"].clone();
    let id = id.as_str().unwrap();
    let events = net.events(id).await;
    let agreed = events.iter().find(|event| event["event"] == "agreed").unwrap();
    let key = iris_core::store::Key::all("evidence");
    let found: Vec<_> = net.store.scan(key).collect().await;
    let evidence: Value = found[0].as_ref().unwrap().value.decode().unwrap();
    assert_eq!((found.len(), &evidence["task"]), (1, &json!(id)));
    assert_eq!(evidence["dissent"], agreed["dissent"]);
    assert_eq!(
        (evidence["agreed"].as_array().unwrap().len(), &evidence["model"]),
        (2, &json!(MODEL))
    );
    assert!(!found[0].as_ref().unwrap().value.as_text().contains("SECRET"));
}

#[tokio::test]
async fn steps_of_passing_plans_leave_room_in_the_line() {
    let (identity, store) = (Identity::generate(), Arc::new(MemoryStore::new()));
    let builder = Coordinator::builder(store, identity, Secret::from_bytes([9; 32]));
    let coordinator = builder.with_queue_capacity(300).build().await.unwrap();
    let net = Net::around(coordinator, ServerSettings::default()).await;
    net.node(echo()).await;
    let plans = (0..8).map(async |_| {
        let mut wide = plan((0..64).map(|number| ask(&format!("s{number}"), "x")).collect());
        wide.side_by_side = 64;
        let (task, run) = (net.coordinator.new_task_id(), PlanRun::new(wide).unwrap());
        let mut handle =
            net.coordinator.submit_plan(task, net.account, run, Preferences::default());
        let mut end = None;
        while let Some(progress) = handle.next().await {
            if let Progress::Ended(ended) = progress {
                end = Some(ended);
            }
        }
        end
    });
    for end in timeout(SOON * 3, futures::future::join_all(plans)).await.unwrap() {
        assert!(matches!(end, Some(PlanEnd::Finished { .. })), "{end:?}");
    }
}
