//! Divided tasks: `/inference` with a plan.

use iris_core::plan::{Ask, Budget, Join, Mode, OnFailure, Plan, Step as PlanStep, Work};
use iris_core::queue::Priority;
use iris_protocol::openai::Preferences;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::node::SOON;
use super::*;

/// A step that asks the node's model.
pub(crate) fn ask(name: &str, prompt: &str) -> PlanStep {
    let ask = Ask {
        model: Node::MODEL.parse().unwrap(),
        history: Vec::new(),
        system: None,
        prompt: Some(prompt.parse().unwrap()),
        max_tokens: None,
        params: serde_json::Map::new(),
        abilities: iris_core::model::Abilities::NONE,
        dataset: None,
        nodes: Vec::new(),
        replicas: None,
    };
    step(name, Work::Ask(Box::new(ask)))
}

pub(crate) fn step(name: &str, work: Work) -> PlanStep {
    PlanStep {
        name: name.parse().unwrap(),
        work,
        when: None,
        budget: Budget::default(),
        on_failure: OnFailure::default(),
        undo: None,
    }
}

pub(crate) fn plan(steps: Vec<PlanStep>) -> Plan {
    let answer = steps.last().unwrap().name.clone();
    Plan {
        mode: Mode::Chained,
        input: "in".to_owned(),
        steps,
        answer,
        budget: Budget::default(),
        side_by_side: 8,
        context_tokens: None,
    }
}

pub(crate) fn chain() -> Plan {
    plan(vec![ask("a", "{{ input }}"), ask("b", "b {{ a }}"), ask("c", "c {{ b }}")])
}

pub(crate) fn echo() -> Vec<Step> {
    vec![Step::Echo, Step::Finish("stop")]
}

impl Net {
    pub(crate) async fn plan(&self, plan: Plan) -> String {
        let inference = self.coordinator.inference();
        let taken = inference
            .submit_plan(self.account, plan, &Preferences::default(), Priority::Batch, None)
            .await;
        taken.unwrap().id.to_string()
    }

    /// Follows a task to its end, and returns what happened.
    pub(crate) async fn events(&self, id: &str) -> Vec<Value> {
        let path = format!("/inference/{id}/events");
        timeout(SOON, self.get(&path)).await.unwrap().events()
    }

    async fn delete(&self, path: &str) -> Reply {
        let bearer = self.bearer();
        send(self.address, request("DELETE", path, &[bearer.as_pair()], "")).await
    }
}

fn told<'a>(events: &'a [Value], what: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == what).collect()
}

#[tokio::test]
async fn plan_is_carried_out_and_told_step_by_step() {
    let net = Net::start().await;
    net.node(echo()).await;
    let id = net.plan(chain()).await;
    let events = net.events(&id).await;
    let units = |what| told(&events, what).iter().map(|e| e["unit"].clone()).collect::<Vec<_>>();
    assert_eq!(units("started"), [json!("a"), json!("b"), json!("c")], "{events:?}");
    assert_eq!(units("answered"), [json!("a"), json!("b"), json!("c")]);
    let text: String = told(&events, "text").iter().filter_map(|e| e["text"].as_str()).collect();
    assert_eq!(text, "<c <b <in>>>");
    let end = events.last().unwrap();
    assert_eq!((&end["event"], &end["end"]), (&json!("ended"), &json!("finished")));
    assert_eq!(end["output"]["text"], "<c <b <in>>>");
    let status = net.get(&format!("/inference/{id}")).await.json();
    assert_eq!(status["status"], "finished", "{status}");
    assert_eq!(status["mode"], "chained");
    assert_eq!(status["result"]["text"], "<c <b <in>>>");
    assert_eq!(status["usage"]["total_tokens"], 15);
    let steps = status["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 3);
    assert_eq!(steps[1]["text"], "<b <in>>");
    assert_eq!(steps[1]["usage"]["completion_tokens"], 2);
    assert!(steps[1]["placed"][0]["task"].is_string() && steps[1]["placed"][0]["node"].is_string());
    // Who comes later is told the same end.
    let later = net.events(&id).await;
    assert_eq!(later.last(), events.last());
    assert_eq!(told(&later, "over").len(), 3);
    let explained = net.get(&format!("/inference/{id}/explain")).await.json();
    assert_eq!(explained["steps"].as_array().unwrap().len(), 3, "{explained}");
    assert_eq!(explained["steps"][2]["unit"], "c");
    assert_eq!(explained["steps"][2]["node"], steps[2]["placed"][0]["node"]);
    assert!(explained["plan"]["text"].is_string() && explained["plan"]["mermaid"].is_string());
}

#[tokio::test]
async fn nothing_of_a_plan_lies_open_and_nothing_is_kept_but_its_report() {
    let net = Net::start().await;
    net.node(echo()).await;
    let mut secret = chain();
    secret.input = "SECRET".to_owned();
    let id = net.plan(secret).await;
    net.events(&id).await;
    let mut kinds = std::collections::BTreeMap::new();
    let all = all(&net.store).await;
    for record in &all {
        *kinds.entry(record.key.record_type().to_owned()).or_insert(0) += 1;
        assert!(!record.value.as_text().contains("SECRET"), "{}", record.key);
    }
    assert_eq!(kinds.get("plan_event"), None);
    assert_eq!((kinds["settlement"], kinds["inference"]), (3, 1));
}

#[tokio::test]
async fn cancelled_plan_stops_its_nodes() {
    let net = Net::start().await;
    let mut node = net.node(vec![Step::WaitIf("b <"), Step::Echo, Step::Finish("stop")]).await;
    let id = net.plan(chain()).await;
    let path = format!("/inference/{id}");
    let at_work = async {
        while node.asked.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, at_work).await.unwrap();
    let running = net.get(&path).await.json();
    assert_eq!(
        (&running["status"], &running["steps"][0]["text"]),
        (&json!("running"), &json!("<in>"))
    );
    let cancelled = net.delete(&path).await;
    assert_eq!(cancelled.json()["status"], "cancelled", "{}", cancelled.text());
    timeout(SOON, node.cancelled.recv()).await.unwrap().unwrap();
    let events = net.events(&id).await;
    assert_eq!(events.last().unwrap()["end"], "cancelled");
}

#[tokio::test]
async fn review_waits_for_its_decision() {
    let net = Net::start().await;
    net.node(echo()).await;
    let of = vec!["a".parse().unwrap(), "b".parse().unwrap()];
    let id = net
        .plan(plan(vec![
            ask("a", "one"),
            ask("b", "two"),
            step("expert", Work::Review { of }),
            ask("c", "so {{ expert }}"),
        ]))
        .await;
    let path = format!("/inference/{id}");
    let waiting = async {
        loop {
            let status = net.get(&path).await.json();
            if status["reviews"].is_array() {
                break status;
            }
        }
    };
    let status = timeout(SOON, waiting).await.unwrap();
    assert_eq!(status["reviews"], json!([{ "step": "expert", "choices": ["a", "b"] }]));
    let review = format!("{path}/review");
    for (body, status, param) in [
        (r#"{"step":"a","choose":"a"}"#, 409, "step"),
        (r#"{"step":"expert","choose":"c"}"#, 400, "choose"),
        (r#"{"step":"expert"}"#, 400, "choose"),
        (r#"{"step":"expert","choose":"a","text":"b"}"#, 400, "choose"),
        (r#"{"choose":"a"}"#, 400, "step"),
        (r#"{"step":7}"#, 400, "step"),
        (r#"{"step":"expert","choose":"a","other":1}"#, 400, "other"),
    ] {
        let reply = net.post(&review, body).await;
        assert_eq!(
            (reply.status, &reply.json()["error"]["param"]),
            (status, &json!(param)),
            "{body}"
        );
    }
    let decided = net.post(&review, r#"{"step":"expert","choose":"b"}"#).await;
    assert_eq!(decided.status, 200, "{}", decided.text());
    net.events(&id).await;
    let status = net.get(&path).await.json();
    assert_eq!(status["result"]["text"], "<so <two>>", "{status}");
    let late = net.post(&review, r#"{"step":"expert","choose":"b"}"#).await;
    assert_eq!(late.status, 409);
}

#[tokio::test]
async fn plans_of_another_account_do_not_exist() {
    let net = Net::start().await;
    let id = net.plan(chain()).await;
    let other = net.coordinator.accounts().create_account().await.unwrap().account;
    let other = format!("Bearer {}", key(&net.coordinator, other, KeyScope::Inference).await);
    let headers = [("authorization", other.as_str())];
    for (method, end, body) in [
        ("GET", "", ""),
        ("DELETE", "", ""),
        ("GET", "/events", ""),
        ("GET", "/explain", ""),
        ("POST", "/review", r#"{"step":"a","choose":"a"}"#),
    ] {
        let path = format!("/inference/{id}{end}");
        let reply = send(net.address, request(method, &path, &headers, body)).await;
        assert_eq!((reply.status, reply.error_code()), (404, json!("not_found")), "{method} {end}");
    }
    net.delete(&format!("/inference/{id}")).await;
}

#[tokio::test]
async fn plan_that_fails_names_its_step() {
    let net = Net::start().await;
    let mut bad = chain();
    if let Work::Ask(ask) = &mut bad.steps[1].work {
        ask.model = "unknown".parse().unwrap();
    }
    net.node(echo()).await;
    let id = net.plan(bad).await;
    net.events(&id).await;
    let status = net.get(&format!("/inference/{id}")).await.json();
    assert_eq!(
        (&status["status"], &status["error"]["code"]),
        (&json!("failed"), &json!("model_not_found"))
    );
    assert!(status["error"]["message"].as_str().unwrap().contains("`b`"), "{status}");
}

#[tokio::test]
async fn budget_that_is_used_up_leaves_what_is_there() {
    let net = Net::start().await;
    net.node(echo()).await;
    let mut small = chain();
    small.budget.assignments = Some(2);
    let id = net.plan(small).await;
    net.events(&id).await;
    let status = net.get(&format!("/inference/{id}")).await.json();
    assert_eq!(
        (&status["status"], &status["error"]["code"]),
        (&json!("failed"), &json!("budget_exceeded"))
    );
    assert_eq!(status["result"]["text"], "<b <in>>");
    assert_eq!(status["result"]["finish_reason"], "partial");
}

#[tokio::test]
async fn several_readers_are_told_the_same() {
    let net = Net::start().await;
    let node = net.node(vec![Step::WaitIf("b <"), Step::Echo, Step::Finish("stop")]).await;
    let joined = vec!["a".parse().unwrap(), "b".parse().unwrap()];
    let by = Join::Concat { separator: "+".to_owned(), headings: Vec::new() };
    let steps =
        vec![ask("a", "x"), ask("b", "b {{ a }}"), step("all", Work::Join { of: joined, by })];
    let id = net.plan(plan(steps)).await;
    let open = async {
        while node.asked.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
        node.open_gate();
    };
    let (first, second, ()) = tokio::join!(net.events(&id), net.events(&id), open);
    assert_eq!(first, second);
    assert_eq!(first.last().unwrap()["output"]["text"], "<x>+<b <x>>");
}

async fn all(store: &MemoryStore) -> Vec<iris_core::store::Record> {
    use futures::StreamExt;
    let kinds = ["inference", "plan_event", "settlement", "evidence", "idempotency"];
    let mut all = Vec::new();
    for kind in kinds {
        let found: Vec<_> = store.scan(iris_core::store::Key::all(kind)).collect().await;
        all.extend(found.into_iter().map(Result::unwrap));
    }
    all
}
