use serde_json::json;

use super::*;

fn answering() -> Vec<Step> {
    vec![Step::Echo, Step::Finish("stop")]
}

#[tokio::test]
async fn preferences_are_kept_and_no_node_sees_them() {
    let net = Net::start().await;
    let node = net.node(answering()).await;
    let other = net.strangers_node(answering()).await;
    let reply = net.chat(r#","n":1, "iris" : {"own":"only"} ,"seed":7"#).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = node.asked.lock().unwrap()[0].1.clone();
    let seen: serde_json::Value = serde_json::from_slice(&seen).unwrap();
    assert_eq!((&seen["n"], &seen["seed"], seen.get("iris")), (&json!(1), &json!(7), None));
    let mine = reply.header("x-iris-node").unwrap().to_owned();
    for _ in 0..10 {
        let deny = format!(r#","iris":{{"own":"any","deny":["{mine}"]}}"#);
        let reply = net.chat(&deny).await;
        assert_ne!(reply.header("x-iris-node"), Some(mine.as_str()), "{}", reply.text());
        let allow = format!(r#","iris":{{"own":"any","allow":["{mine}"]}}"#);
        let reply = net.chat(&allow).await;
        assert_eq!(reply.header("x-iris-node"), Some(mine.as_str()), "{}", reply.text());
    }
    let others = other.asked.lock().unwrap();
    assert!(others.len() == 10 && others.iter().all(|(_, body)| !body.ends_with(b"iris")));
}

#[tokio::test]
async fn preferences_that_cannot_be_met_or_read_are_refused_by_name() {
    let net = Net::start().await;
    net.strangers_node(answering()).await;
    for (wish, status, code) in [
        (r#"{"own":"only"}"#, 400, json!("no_node_able")),
        (r#"{"trust":"proven"}"#, 400, json!("no_node_able")),
        (r#"{"tier":"PRO"}"#, 400, json!("no_node_able")),
        (r#"{"own":"mine"}"#, 400, json!(null)),
        (r#"{"colour":"blue"}"#, 400, json!(null)),
    ] {
        let reply = net.chat(&format!(r#","iris":{wish}"#)).await;
        assert_eq!(reply.status, status, "{wish}: {}", reply.text());
        let error = &reply.json()["error"];
        assert!(!code.is_null() || error["param"] == "iris", "{error}");
        assert!(code.is_null() || error["code"] == code, "{error}");
    }
}

#[tokio::test]
async fn every_step_of_a_divided_task_keeps_preferences() {
    let net = Net::start().await;
    let mut strangers = Vec::new();
    for _ in 0..4 {
        strangers.push(net.strangers_node(answering()).await);
    }
    let counts =
        || strangers.iter().map(|node| node.asked.lock().unwrap().len()).collect::<Vec<_>>();
    let denied = net.coordinator.nodes()[0].id;
    let wish = json!({ "deny": [denied] });
    let chat = json!({ "model": format!("iris/consensus:{}", Node::MODEL), "iris": wish,
        "messages": [{ "role": "user", "content": "7" }] });
    for _ in 0..3 {
        let reply = net.post("/v1/chat/completions", &chat.to_string()).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let task = json!({ "model": Node::MODEL, "prompt": "7", "mode": "consensus", "iris": wish });
    for _ in 0..3 {
        let submitted = net.post("/inference", &task.to_string()).await;
        assert_eq!(submitted.status, 202, "{}", submitted.text());
        let id = submitted.json()["id"].as_str().unwrap().to_owned();
        net.events(&id).await;
        let status = net.get(&format!("/inference/{id}")).await.json();
        assert_eq!(status["status"], "finished", "{status}");
        let steps = status["steps"].to_string();
        assert!(!steps.contains(&denied.to_string()), "{steps}");
    }
    let counts = counts();
    assert_eq!(counts.iter().filter(|asked| **asked == 0).count(), 1, "{counts:?}");
    for node in &strangers {
        let asked = node.asked.lock().unwrap();
        let bodies = asked.iter().map(|(_, body)| String::from_utf8_lossy(body));
        assert!(bodies.into_iter().all(|body| !body.contains("deny")), "no node sees them");
    }
}

#[tokio::test]
async fn divided_task_whose_preferences_nobody_meets_says_so() {
    let net = Net::start().await;
    for _ in 0..3 {
        net.strangers_node(answering()).await;
    }
    net.node(answering()).await;
    let divided = |mode: &str, wish: serde_json::Value| {
        let body = json!({ "model": format!("iris/{mode}:{}", Node::MODEL), "iris": wish,
            "messages": [{ "role": "user", "content": "7" }] });
        let net = &net;
        async move { net.post("/v1/chat/completions", &body.to_string()).await }
    };
    let reply = divided("auto", json!({ "own": "only" })).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let reply = divided("auto", json!({ "tier": "PRO" })).await;
    assert_eq!(
        (reply.status, reply.error_code()),
        (400, json!("no_node_able")),
        "{}",
        reply.text()
    );
    // One person's nodes are no independent witnesses.
    for (mode, wish) in [("consensus", json!({ "own": "only" })), ("auto", json!({ "own": 1 }))] {
        let reply = divided(mode, wish).await;
        assert_eq!(
            (reply.status, &reply.json()["error"]["param"]),
            (400, &json!("iris")),
            "{mode}"
        );
    }
}

#[tokio::test]
async fn durable_tasks_keep_preferences_too() {
    let net = Net::start().await;
    let stranger = net.strangers_node(answering()).await;
    let mine = net.node(answering()).await;
    let body = json!({ "model": Node::MODEL, "prompt": "hi", "iris": { "own": "only" } });
    let submitted = net.post("/inference", &body.to_string()).await;
    assert_eq!(submitted.status, 202, "{}", submitted.text());
    let path = format!("/inference/{}/events", submitted.json()["id"].as_str().unwrap());
    let followed = net.get(&path).await;
    assert!(followed.text().contains("hi"), "{}", followed.text());
    assert_eq!(stranger.asked.lock().unwrap().len(), 0);
    let seen = mine.asked.lock().unwrap()[0].1.clone();
    assert!(!String::from_utf8(seen.to_vec()).unwrap().contains("own"));
    let wrong = json!({ "model": Node::MODEL, "prompt": "hi", "iris": { "own": 1 } });
    let refused = net.post("/inference", &wrong.to_string()).await;
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("iris")));
}

#[tokio::test]
async fn node_is_told_why_it_has_no_work() {
    let net = Net::start().await;
    let node = net.node(answering()).await;
    let id = net.coordinator.nodes()[0].id;
    let path = format!("/nodes/{id}/why");
    net.chat("").await;
    for account in 0..2 {
        let owner = net.coordinator.accounts().create_account().await.unwrap().account;
        let user = key(&net.coordinator, owner, KeyScope::Inference).await;
        let bearer = format!("Bearer {user}");
        let headers = [("authorization", bearer.as_str())];
        let body = r#"{"model":"wanted","messages":[{"role":"user","content":"hi"}]}"#;
        send(net.address, request("POST", "/v1/chat/completions", &headers, body)).await;
        let known = account > 0;
        let why = net.get(&path).await;
        assert_eq!(why.status, 200, "{}", why.text());
        let wanted = &why.json()["wanted"];
        assert_eq!(wanted.is_array(), known, "one account's words are its own: {wanted}");
    }
    let why = net.get(&path).await.json();
    assert_eq!((&why["id"], &why["slots"]), (&json!(id.as_str()), &json!(2)));
    assert_eq!(why["wanted"], json!([{ "model": "wanted", "requests": 2 }]));
    assert_eq!(why["recent"][0]["reason"], "chosen");
    let hindrances = why["hindrances"].as_array().unwrap();
    let codes: Vec<_> = hindrances.iter().map(|found| found["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["new", "unproven", "unmeasured", "size_unknown", "tier_basic"]);
    for found in hindrances {
        assert!(found["text"].is_string() && found["remedy"].is_string());
    }
    node.leave();
    // It is waited for a moment, in case it comes back.
    let mut code = json!(null);
    for _ in 0..10_000 {
        code = net.get(&path).await.json()["hindrances"][0]["code"].clone();
        if code == "not_connected" {
            break;
        }
    }
    assert_eq!(code, "not_connected");
}

/// Returns the codes of what keeps a node from work, and how it came out when it was compared.
async fn why(net: &Net, id: &str) -> (Vec<String>, Vec<String>) {
    let why = net.get(&format!("/nodes/{id}/why")).await;
    assert_eq!(why.status, 200, "{}", why.text());
    let why = why.json();
    let texts = |list: &str, member: &str| -> Vec<String> {
        let entries = why[list].as_array().unwrap().iter();
        entries.map(|entry| entry[member].as_str().unwrap().to_owned()).collect()
    };
    (texts("hindrances", "code"), texts("recent", "reason"))
}

#[tokio::test]
async fn busy_node_is_told_that_its_slots_are_taken() {
    let net = Net::start().await;
    let busy = net.strangers_node(vec![Step::Wait, Step::Echo, Step::Finish("stop")]).await;
    let id = net.coordinator.nodes()[0].id.to_string();
    let (first, second) = (net.chat(""), net.chat(""));
    let watching = async {
        while net.coordinator.stats().slots_in_use < 2 {
            tokio::task::yield_now().await;
        }
        let (hindrances, _) = why(&net, &id).await;
        assert_eq!(hindrances[0], "no_free_slot", "{hindrances:?}");
        busy.open_gate();
    };
    let (first, second, ()) = tokio::join!(first, second, watching);
    assert_eq!((first.status, second.status), (200, 200));
    let (hindrances, recent) = why(&net, &id).await;
    assert!(!hindrances.contains(&"no_free_slot".to_owned()), "{hindrances:?}");
    assert_eq!(recent, ["chosen"]);
}

#[tokio::test]
async fn paused_node_is_told_that_it_has_no_slots() {
    let net = Net::start().await;
    let persona = super::node::Persona { seals: false, ..super::node::Persona::sealing(0) };
    let paused = net.node_as(persona, answering()).await;
    let id = net.coordinator.nodes()[0].id.to_string();
    let (hindrances, _) = why(&net, &id).await;
    assert_eq!(hindrances[0], "paused", "{hindrances:?}");
    let _other = net.strangers_node(answering()).await;
    assert_eq!(net.chat("").await.status, 200);
    assert!(paused.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn node_without_proof_is_told_so_and_passed_over_where_proof_is_asked_for() {
    let net = Net::start().await;
    let node = net.strangers_node(answering()).await;
    let id = net.coordinator.nodes()[0].id.to_string();
    let proven = r#","iris":{"trust":"proven"}"#;
    let refused = net.chat(proven).await;
    assert_eq!((refused.status, refused.error_code()), (400, json!("no_node_able")));
    assert!(why(&net, &id).await.0.contains(&"unproven".to_owned()));
    assert!(node.asked.lock().unwrap().is_empty());
    // Enough that chance has no say: each answer counts as one task that ended well.
    for _ in 0..50 {
        assert_eq!(net.chat("").await.status, 200);
    }
    let (hindrances, recent) = why(&net, &id).await;
    assert!(!hindrances.contains(&"unproven".to_owned()), "{hindrances:?}");
    assert_eq!(recent, ["chosen"]);
    assert_eq!(net.chat(proven).await.status, 200);
}

#[tokio::test]
async fn nodes_are_explained_to_whoever_may_look() {
    let net = Net::start().await;
    net.node(answering()).await;
    let id = net.coordinator.nodes()[0].id;
    let path = format!("/nodes/{id}/why");
    let nodes = key(&net.coordinator, net.account, KeyScope::Node).await;
    for (token, status) in
        [(net.user.as_str(), 200), (&net.operator, 200), (&nodes, 200), ("x", 401)]
    {
        let bearer = format!("Bearer {token}");
        let reply = request("GET", &path, &[("authorization", &bearer)], "");
        assert_eq!(send(net.address, reply).await.status, status, "{token}");
    }
    let nobody = "a".repeat(26);
    for path in
        [format!("/nodes/{nobody}/why"), "/nodes/x/why".to_owned(), "/nodes/%0a/why".to_owned()]
    {
        let reply = net.get(&path).await;
        assert_eq!((reply.status, reply.error_code()), (404, json!("not_found")), "{path}");
    }
}
