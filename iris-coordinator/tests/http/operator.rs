//! What operators see of members and rules, and what they do about nodes.

use std::collections::BTreeSet;

use iris_protocol::rest::KeyScope;
use serde_json::{Value, json};

use super::*;
use crate::chat::ANSWER;
use crate::node::{Persona, Step};

async fn ask(net: &Net, method: &str, path: &str, token: &str, body: &Value) -> Reply {
    let bearer = format!("Bearer {token}");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    send(net.address, request(method, path, &[("authorization", &bearer)], &body)).await
}

fn identity() -> Identity {
    Identity::from_seed(&Secret::from_bytes([3; 32]))
}

/// A network whose coordinator can be started again over the same books.
async fn lasting() -> (Net, Arc<MemoryStore>) {
    let store = Arc::new(MemoryStore::new());
    let coordinator = coordinator_of(identity(), store.clone()).await;
    (Net::around(coordinator, ServerSettings::default()).await, store)
}

/// Returns the id of the only connected node.
async fn only_node(net: &Net) -> String {
    net.get("/nodes").await.json()["nodes"][0]["id"].as_str().unwrap().to_owned()
}

fn answers() -> Vec<Step> {
    vec![Step::whole(ANSWER), Step::Finish("stop")]
}

#[tokio::test]
async fn drained_node_gets_nothing_until_it_is_released() {
    let net = Net::start().await;
    let admin = key(&net.coordinator, net.account, KeyScope::Admin).await;
    let _node = net.node(answers()).await;
    let path = format!("/nodes/{}/hold", only_node(&net).await);
    assert_eq!(net.chat("").await.status, 200);

    let drain = json!({"hold": "drain", "reason": "a new card comes in"});
    let held = ask(&net, "PUT", &path, &admin, &drain).await;
    assert_eq!((held.status, &held.json()["hold"]), (200, &json!("drain")), "{}", held.text());
    let list = ask(&net, "GET", "/holds", &net.operator, &Value::Null).await;
    assert_eq!(list.json(), json!({"holds": [held.json()]}));
    let refused = net.chat("").await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    let why = net.get(&path.replace("/hold", "/why")).await.json();
    assert_eq!(why["hindrances"][0]["code"], "held", "{why}");
    assert!(why["hindrances"][0]["remedy"].as_str().unwrap().contains("a new card comes in"));

    assert_eq!(ask(&net, "DELETE", &path, &admin, &Value::Null).await.status, 204);
    assert_eq!(ask(&net, "DELETE", &path, &admin, &Value::Null).await.status, 404);
    assert_eq!(net.chat("").await.status, 200);
}

#[tokio::test]
async fn blocked_node_is_sent_away_and_stays_out_over_a_restart() {
    let (net, store) = lasting().await;
    let admin = key(&net.coordinator, net.account, KeyScope::Admin).await;
    let node_key = key(&net.coordinator, net.account, KeyScope::Node).await;
    let persona = || Persona { identity: [4; 32], ..Persona::sealing(2) };
    let connect = || Node::try_to_connect(net.address, &node_key, persona(), vec![]);
    let _node = connect().await.unwrap();
    let id = only_node(&net).await;
    let path = format!("/nodes/{id}/hold");
    let held = ask(&net, "PUT", &path, &admin, &json!({"hold": "block"})).await;
    assert_eq!(held.status, 200, "{}", held.text());
    while net.get("/nodes").await.json()["nodes"] != json!([]) {
        tokio::task::yield_now().await;
    }
    let why = net.get(&format!("/nodes/{id}/why")).await.json();
    assert_eq!(why["hindrances"][0]["code"], "blocked", "{why}");
    assert!(connect().await.is_none());

    // Another coordinator over the same books.
    let again = coordinator_of(identity(), store).await;
    assert_eq!(again.holds().len(), 1);

    assert_eq!(ask(&net, "DELETE", &path, &admin, &Value::Null).await.status, 204);
    assert!(connect().await.is_some());
}

#[tokio::test]
async fn members_are_listed_page_by_page_without_what_they_are_known_by() {
    let net = Net::start().await;
    for _ in 0..4 {
        net.coordinator.accounts().create_account().await.unwrap();
    }
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/accounts?limit=2{after}");
        let page = ask(&net, "GET", &path, &net.operator, &Value::Null).await;
        assert_eq!(page.status, 200, "{}", page.text());
        let page = page.json();
        let members = page["accounts"].as_array().unwrap();
        assert!((1..=2).contains(&members.len()), "{page}");
        seen.extend(members.iter().map(|member| member["account"].as_str().unwrap().to_owned()));
        for member in members {
            let known: BTreeSet<_> =
                member.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(known, ["account", "created", "keys", "membership"].into());
        }
        let Some(last) = page["next"].as_str() else { break };
        after = format!("&after={last}");
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.is_sorted() && seen.contains(&net.account.to_string()), "{seen:?}");
}

#[tokio::test]
async fn rules_are_told_as_they_are() {
    let store = Arc::new(MemoryStore::new());
    let trusted = AccountId::from_bytes([7; 16]);
    let builder = Coordinator::builder(store, Identity::generate(), Secret::generate());
    let coordinator = builder
        .with_rate_per_minute(77)
        .with_trusted_owners([trusted])
        .with_retention(Duration::from_secs(55))
        .build();
    let api = ApiSettings::default().with_public_chat(true);
    let settings = ServerSettings::default().with_api(api);
    let net = Net::around(coordinator.await.unwrap(), settings).await;
    let rules = ask(&net, "GET", "/policies", &net.operator, &Value::Null).await.json();
    for (name, value) in [
        ("rate_per_minute", json!(77)),
        ("trusted_owners", json!([trusted.to_string()])),
        ("retention_secs", json!(55)),
        ("public_chat", json!(true)),
        ("open_registration", json!(false)),
        ("pay_by", json!("evidence")),
        ("close_after_days", json!(8)),
        ("hold_days", json!(30)),
        ("grace_days", json!(7)),
        ("owner_share_percent", json!(20)),
    ] {
        assert_eq!(rules[name], value, "{name}: {rules}");
    }
}

#[tokio::test]
async fn what_is_the_operators_is_refused_to_others() {
    let net = Net::start().await;
    let admin = key(&net.coordinator, net.account, KeyScope::Admin).await;
    let nobody = "a".repeat(26);
    let hold = format!("/nodes/{nobody}/hold");
    let drain = json!({"hold": "drain"});
    for (method, path, body) in [
        ("GET", "/accounts", &Value::Null),
        ("GET", "/policies", &Value::Null),
        ("GET", "/holds", &Value::Null),
        ("GET", "/months/next", &Value::Null),
        ("PUT", hold.as_str(), &drain),
        ("DELETE", hold.as_str(), &Value::Null),
    ] {
        let refused = ask(&net, method, path, &net.user, body).await;
        assert_eq!((refused.status, refused.error_code()), (403, json!("forbidden")), "{path}");
        assert_eq!(ask(&net, method, path, "iris_none", body).await.status, 401, "{path}");
    }
    // Who reads the figures changes nothing.
    assert_eq!(ask(&net, "PUT", &hold, &net.operator, &drain).await.status, 403);
    assert_eq!(ask(&net, "DELETE", &hold, &net.operator, &Value::Null).await.status, 403);
    assert_eq!(ask(&net, "PUT", &hold, &admin, &drain).await.status, 404, "it never came");
    assert_eq!(ask(&net, "PUT", "/nodes/x/hold", &admin, &drain).await.status, 404);
    assert_eq!(ask(&net, "GET", "/months/next", &admin, &Value::Null).await.status, 404);
    let _node = net.node(vec![]).await;
    let hold = format!("/nodes/{}/hold", only_node(&net).await);
    let long = json!({"hold": "drain", "reason": "r".repeat(257)});
    let refused = ask(&net, "PUT", &hold, &admin, &long).await;
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("reason")));
    for body in [json!({}), json!({"hold": "burn"}), json!([])] {
        assert_eq!(ask(&net, "PUT", &hold, &admin, &body).await.status, 400, "{body}");
    }
}

#[tokio::test]
async fn own_durable_tasks_are_listed_and_nobody_elses() {
    let (net, store) = lasting().await;
    assert_eq!(net.get("/inference").await.json(), json!({"tasks": []}));
    let _node = net.node(answers()).await;
    let body = json!({"model": Node::MODEL, "prompt": "Who are you?"}).to_string();
    let taken = net.post("/inference", &body).await.json();
    let id = taken["id"].as_str().unwrap();
    loop {
        let list = net.get("/inference").await.json();
        let task = &list["tasks"][0];
        assert_eq!((&task["id"], &task["model"]), (&json!(id), &json!(Node::MODEL)), "{list}");
        assert!(!list.to_string().contains("Who are you?"));
        if task["status"] == "finished" {
            break;
        }
        tokio::task::yield_now().await;
    }
    let stranger = net.coordinator.accounts().create_account().await.unwrap().account;
    let stranger = key(&net.coordinator, stranger, KeyScope::Inference).await;
    let theirs = ask(&net, "GET", "/inference", &stranger, &Value::Null).await;
    assert_eq!(theirs.json(), json!({"tasks": []}));
    // It is known after a restart, too.
    let again = coordinator_of(identity(), store).await;
    let known = again.inference().list(net.account).await.unwrap();
    assert_eq!(known.iter().map(|task| task.id.to_string()).collect::<Vec<_>>(), [id]);
}
