//! What members see of the network, page by page.

use iris_core::backend::Usage;
use serde_json::{Value, json};

use super::chat::ANSWER;
use super::node::Persona;
use super::*;

fn ids(list: &Value, member: &str) -> Vec<String> {
    let entries = list.as_array().unwrap().iter();
    entries.map(|entry| entry[member].as_str().unwrap().to_owned()).collect()
}

/// Reads all pages of a list.
async fn pages(net: &Net, path: &str, list: &str, member: &str, limit: usize) -> Vec<Vec<String>> {
    let (mut pages, mut query) = (Vec::new(), format!("{path}?limit={limit}"));
    loop {
        let reply = net.get(&query).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let page = reply.json();
        pages.push(ids(&page[list], member));
        let Some(after) = page["next"].as_str() else { return pages };
        assert!(pages.len() < 20);
        query = format!("{path}?limit={limit}&after={after}");
    }
}

#[tokio::test]
async fn lists_of_nodes_come_in_pages() {
    let net = Net::start().await;
    for _ in 0..5 {
        net.strangers_node(vec![]).await;
    }
    let all: Vec<String> = net.coordinator.nodes().iter().map(|n| n.id.to_string()).collect();
    let nodes = pages(&net, "/nodes", "nodes", "id", 2).await;
    assert_eq!(nodes.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    assert_eq!(nodes.concat(), all);
    assert_eq!(pages(&net, "/nodes", "nodes", "id", 5).await, std::slice::from_ref(&all));
    let ranked = pages(&net, "/reputation", "nodes", "id", 2).await;
    assert_eq!(ranked.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    assert_eq!(ranked.concat(), all, "equals are in the order of their ids");
}

#[tokio::test]
async fn ranking_begins_with_whoever_did_most_and_remembers_who_left() {
    let net = Net::start().await;
    let node = net.node(vec![Step::whole(ANSWER), Step::Finish("stop")]).await;
    let worker = net.coordinator.nodes()[0].id.to_string();
    assert_eq!(net.chat("").await.status, 200);
    node.leave();
    while net.coordinator.stats().nodes > 0 {
        tokio::task::yield_now().await;
    }
    let _idle = net.strangers_node(vec![]).await;
    let page = net.get("/reputation").await.json();
    let first = &page["nodes"][0];
    assert_eq!((&first["rank"], &first["id"]), (&json!(1), &json!(worker)), "{page}");
    assert_eq!(first["connected"], false);
    assert!(first["points"].as_i64() > page["nodes"][1]["points"].as_i64(), "{page}");
    assert_eq!(page["nodes"][1]["rank"], 2);
}

#[tokio::test]
async fn no_more_tokens_are_settled_than_there_were_bytes() {
    let net = Net::start().await;
    let most = Usage { prompt_tokens: u32::MAX, completion_tokens: u32::MAX };
    let node = net.node(vec![Step::whole(ANSWER), Step::Claim(most)]).await;
    assert_eq!(net.chat("").await.status, 200);
    let asked = node.asked.lock().unwrap()[0].1.len();
    let settled = loop {
        let page = net.get("/history").await.json();
        if let Some(task) = page["tasks"].get(0) {
            break (task["prompt_tokens"].clone(), task["completion_tokens"].clone());
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(settled, (json!(asked + 256), json!(ANSWER.len() + 64)));
}

#[tokio::test]
async fn history_is_the_members_own_the_latest_first() {
    let net = Net::start().await;
    let _node = net.node(vec![Step::whole(ANSWER), Step::Finish("stop")]).await;
    let mut asked = Vec::new();
    for _ in 0..3 {
        let reply = net.chat("").await;
        asked.insert(0, reply.header("x-iris-task").unwrap().to_owned());
        // Tasks of one millisecond are in the order of their ids.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let missing = chat_body("").replace(Node::MODEL, "missing");
    let missing = net.post("/v1/chat/completions", &missing).await;
    asked.insert(0, missing.header("x-request-id").unwrap().to_owned());
    // The books may lag behind.
    let mut told = Vec::new();
    while told.len() < 4 {
        told = pages(&net, "/history", "tasks", "task", 3).await.concat();
        tokio::task::yield_now().await;
    }
    assert_eq!(told, asked);
    let page = net.get("/history").await.json();
    assert_eq!(page["tasks"][0]["state"], "failed");
    let done = &page["tasks"][1];
    assert_eq!((&done["state"], &done["model"]), (&json!("finished"), &json!(Node::MODEL)));
    assert_eq!((&done["prompt_tokens"], &done["completion_tokens"]), (&json!(3), &json!(2)));
    assert_eq!(done["node"], json!(net.coordinator.nodes()[0].id));
    let other = net.coordinator.accounts().create_account().await.unwrap().account;
    let other = Net { user: key(&net.coordinator, other, KeyScope::Inference).await, ..net };
    assert_eq!(other.get("/history").await.json(), json!({"tasks": []}));
    let page = other.get(&format!("/history?after=9999999999999-{}", told[0])).await;
    assert_eq!(page.json(), json!({"tasks": []}), "a place is read in one's own history alone");
}

#[tokio::test]
async fn figures_are_those_of_the_network() {
    let net = Net::start().await;
    let _node = net.node(vec![Step::whole(ANSWER), Step::Finish("stop")]).await;
    assert_eq!(net.chat("").await.status, 200);
    let stats = net.get("/stats").await.json();
    let expected = json!({
        "nodes": 1, "slots": 2, "running": 0, "waiting": 0, "models": 1, "finished": 1,
        "failed": 0, "tokens": 2, "since": stats["since"],
    });
    assert_eq!(stats, expected);
    assert!(stats["since"].as_u64().unwrap() > 1_700_000_000);
}

#[tokio::test]
async fn pages_are_for_members_and_bounded() {
    let net = Net::start().await;
    for path in ["/stats", "/nodes", "/account/nodes", "/reputation", "/history", "/receipts"] {
        assert_eq!(send(net.address, request("GET", path, &[], "")).await.status, 401, "{path}");
        let node = key(&net.coordinator, net.account, KeyScope::Node).await;
        let bearer = format!("Bearer {node}");
        let reply = request("GET", path, &[("authorization", &bearer)], "");
        assert_eq!(send(net.address, reply).await.status, 403, "{path}");
    }
    for path in ["/nodes", "/account/nodes", "/reputation", "/history", "/receipts"] {
        for limit in ["0", "501", "-1", "x", "", "1e1", "99999999999999999999"] {
            let reply = net.get(&format!("{path}?limit={limit}")).await;
            assert_eq!(reply.status, 400, "{path} {limit}");
            assert_eq!(reply.json()["error"]["param"], "limit", "{path} {limit}");
        }
        assert_eq!(net.get(&format!("{path}?limit=500")).await.status, 200);
    }
}

#[tokio::test]
async fn members_see_their_own_nodes_and_why_each_is_idle() {
    let net = Net::start().await;
    let node = net.node(vec![Step::whole(ANSWER), Step::Finish("stop")]).await;
    let mine = net.coordinator.nodes()[0].id.to_string();
    let _second = net.node(vec![]).await;
    let _strangers = net.strangers_node(vec![]).await;
    assert_eq!(net.coordinator.nodes().len(), 3);
    assert_eq!(net.chat("").await.status, 200);
    let mut own = Vec::new();
    let mut query = "/account/nodes?limit=1".to_owned();
    loop {
        let page = net.get(&query).await.json();
        own.extend(page["nodes"].as_array().unwrap().clone());
        let Some(after) = page["next"].as_str() else { break };
        query = format!("/account/nodes?limit=1&after={after}");
    }
    let ids: Vec<_> = own.iter().map(|own| own["why"]["id"].as_str().unwrap()).collect();
    assert!(ids.len() == 2 && ids.is_sorted() && ids.contains(&mine.as_str()), "{ids:?}");
    let first = own.iter().find(|own| own["why"]["id"] == mine).unwrap();
    assert_eq!(first["node"]["slots"], 2, "{first}");
    assert_eq!(first["why"]["hindrances"][0]["code"], "new");
    assert!(first["first_seen"].as_u64() > Some(1_700_000_000));

    node.leave();
    let away = loop {
        let page = net.get("/account/nodes").await.json();
        let nodes = page["nodes"].as_array().unwrap().clone();
        let away = nodes.into_iter().find(|own| own["why"]["id"] == mine).unwrap();
        if away["node"].is_null() {
            break away;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(away["why"]["hindrances"][0]["code"], "not_connected");
    assert_eq!((&away["points"], &away["standing"]), (&first["points"], &first["standing"]));
}

#[tokio::test]
async fn own_nodes_are_known_after_a_restart() {
    let identity = || Identity::from_seed(&Secret::from_bytes([7; 32]));
    let store = Arc::new(MemoryStore::new());
    let coordinator = coordinator_of(identity(), store.clone()).await;
    let net = Net::around(coordinator, ServerSettings::default()).await;
    let _node = net.node(vec![]).await;
    let mine = net.coordinator.nodes()[0].id;
    let again = coordinator_of(identity(), store).await;
    let known = again.nodes_of(&net.account, None, 10);
    assert_eq!(known.iter().map(|own| own.why.id).collect::<Vec<_>>(), [mine]);
    assert!(known[0].node.is_none());
    assert!(again.nodes_of(&AccountId::from_bytes([9; 16]), None, 10).is_empty());
}

/// What would mean something to a database, a file system, a terminal or a log means nothing here.
#[tokio::test]
async fn attack_43_hostile_ids_cursors_and_names_are_inert() {
    let net = Net::start().await;
    let _node = net.node(vec![Step::whole(ANSWER), Step::Finish("stop")]).await;
    assert_eq!(net.chat("").await.status, 200);
    let hostile = [
        "'%20OR%201=1%20--",
        "%25",
        "_%25_",
        "..%2F..%2Fetc%2Fpasswd",
        "a%0Ab",
        "%00",
        "%1b%5B2J",
        "0000000000000-'",
        "0000000000000-%25",
        "a.'%20OR%201=1",
        "%F0%9F%92%A3",
    ];
    for text in hostile {
        for path in ["/nodes", "/account/nodes", "/reputation", "/history", "/receipts"] {
            let reply = net.get(&format!("{path}?after={text}")).await;
            assert_eq!(reply.status, 400, "{path} {text}: {}", reply.text());
            assert_eq!(reply.json()["error"]["param"], "after", "{path} {text}");
        }
        for path in ["/inference/", "/v1/models/", "/api/inference/status/"] {
            let reply = net.get(&format!("{path}{text}")).await;
            assert!([400, 404].contains(&reply.status), "{path}{text}: {}", reply.text());
        }
    }
    for model in ["' OR 1=1 --", "%", "../../etc/passwd", "a\\nb", "a\\u0000b"] {
        for (path, body) in [
            ("/v1/chat/completions", chat_body("").replace(Node::MODEL, model)),
            ("/api/chat/stream", format!(r#"{{"message":"x","model":"{model}"}}"#)),
            ("/inference", chat_body("").replace(Node::MODEL, model)),
        ] {
            let reply = net.post(path, &body).await;
            // A name that can be one is taken as one that nobody offers.
            let accepted = reply.status == 202 && path == "/inference";
            assert!(accepted || [400, 404].contains(&reply.status), "{path} {model}");
            assert!(!reply.head.contains("etc/passwd"), "{path} {model}");
        }
    }
    // All is still there, and nobody sees more than before.
    assert_eq!(net.coordinator.nodes().len(), 1);
    assert_eq!(net.chat("").await.status, 200);
}

#[tokio::test]
async fn attack_45_lists_show_no_owner_address_or_account() {
    let net = Net::start().await;
    let steps = vec![Step::whole(ANSWER), Step::Finish("stop")];
    let _own = net.node_as(Persona::sealing(2), steps).await;
    let own = net.coordinator.nodes()[0].id;
    let stranger = net.coordinator.accounts().create_account().await.unwrap().account;
    let strangers_key = key(&net.coordinator, stranger, KeyScope::Node).await;
    let _strangers =
        Node::connect_as(net.address, &strangers_key, Persona::sealing(2), vec![]).await;
    assert_eq!(net.chat("").await.status, 200);
    let secret = |path: &str, text: &str| {
        for account in [net.account, stranger] {
            assert!(!text.contains(&account.to_string()), "{path}: {text}");
        }
        assert!(!text.contains("127.0.0.1") && !text.contains("[::1]"), "{path}: {text}");
    };
    let names = |shown: &Value| {
        let mut members: Vec<_> = shown.as_object().unwrap().keys().cloned().collect();
        members.sort_unstable();
        members.join(" ")
    };
    let members = |path: String, list: Option<&'static str>| {
        let (net, secret, names) = (&net, &secret, &names);
        async move {
            let reply = net.get(&path).await;
            secret(&path, reply.text());
            assert!(!reply.text().contains("owner"), "{path}: {}", reply.text());
            match list {
                Some(list) => names(&reply.json()[list][0]),
                None => names(&reply.json()),
            }
        }
    };
    // A new member is added here on purpose, or not at all.
    assert_eq!(
        members("/stats".to_owned(), None).await,
        "failed finished models nodes running since slots tokens waiting"
    );
    let reputation = members("/reputation".to_owned(), Some("nodes")).await;
    assert_eq!(reputation, "connected id points rank");
    let why = format!("/nodes/{own}/why");
    assert_eq!(
        members(why.clone(), None).await,
        "hindrances id points recent running slots standing"
    );
    assert_eq!(members(why.clone(), Some("hindrances")).await, "code remedy text");
    assert_eq!(members(why, Some("recent")).await, "count reason text");
    assert_eq!(
        members("/account/nodes".to_owned(), Some("nodes")).await,
        "first_seen node points standing why"
    );
    assert_eq!(
        members("/nodes".to_owned(), Some("nodes")).await,
        "connected id models points running slots standing tier version"
    );

    // A roster names owners by tags of this month, which lead to no account.
    let roster = loop {
        let signed = net.get("/roster").await.json();
        let text = signed["roster"].as_str().unwrap().to_owned();
        secret("/roster", &text);
        let roster: Value = serde_json::from_str(&text).unwrap();
        if roster["nodes"].as_array().unwrap().len() == 2 {
            break roster;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(names(&roster), "away coordinator issued nodes number");
    let nodes = roster["nodes"].as_array().unwrap();
    for node in nodes {
        assert_eq!(
            names(node),
            "certificate free id models owner points since slots standing tier"
        );
    }
    let tags: Vec<_> = nodes.iter().map(|node| node["owner"].as_str().unwrap()).collect();
    assert!(tags[0] != tags[1] && tags.iter().all(|tag| tag.len() == 32), "{tags:?}");
}
