//! What owners and operators do about verdicts.

use futures::StreamExt;
use iris_coordinator::{Clock, SystemClock};
use iris_core::store::{Batch, Document, Key};
use serde_json::{Value, json};

use super::*;

/// Writes down that a node of `owner` was found lying, a day ago.
async fn convict(net: &Net, owner: AccountId, number: u8) -> String {
    let id = hex(number);
    let now = SystemClock.calendar().as_millis();
    let trial = json!({"tokens": 90, "mismatches": 30, "likelihood": 13_000_000});
    let verdict = json!({
        "id": id,
        "node": "a".repeat(26),
        "owner": owner.to_string(),
        "model": "m",
        "offence": "another_model",
        "evidence": {
            "suspicion": trial, "suspecting": hex(1), "confirmation": trial, "answers": 1,
            "confirming": [hex(2)], "error": 100, "prompts": [],
        },
        "at": now - 86_400_000,
        "appeal_until": now + 6 * 86_400_000,
    });
    let case = json!({"verdict": verdict, "appeal": null, "seeds": ["5".repeat(64)],
        "prompts": ["What is new?"]});
    let batch = Batch::new().put(Key::new("verdict", &id).unwrap(), Document::encode(&case));
    net.store.commit(batch).await.unwrap();
    id
}

fn hex(number: u8) -> String {
    format!("{number:02x}").repeat(16)
}

async fn ask(net: &Net, method: &str, path: &str, token: &str, body: &Value) -> Reply {
    let bearer = format!("Bearer {token}");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    send(net.address, request(method, path, &[("authorization", &bearer)], &body)).await
}

async fn ids(net: &Net, path: &str, token: &str) -> Vec<String> {
    let page = ask(net, "GET", path, token, &Value::Null).await;
    assert_eq!(page.status, 200, "{}", page.text());
    let page = page.json();
    let verdicts = page["verdicts"].as_array().unwrap().iter();
    verdicts.map(|verdict| verdict["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn owner_objects_and_operator_overturns() {
    let net = Net::start().await;
    let admin = key(&net.coordinator, net.account, KeyScope::Admin).await;
    let id = convict(&net, net.account, 7).await;
    let list = ask(&net, "GET", "/verdicts", &net.user, &Value::Null).await.json();
    let verdict = &list["verdicts"][0];
    assert_eq!((&verdict["id"], &verdict["state"]), (&json!(id), &json!("open")));
    assert_eq!(verdict["seeds"], json!(["5".repeat(64)]));
    let text = verdict["text"].as_str().unwrap();
    assert!(text.starts_with("30 of 90 tokens"), "{text}");
    assert!(!list.to_string().contains(&hex(2)), "whose reference it was is nobody's business");

    let (appeal, decision) = (format!("/verdicts/{id}/appeal"), format!("/verdicts/{id}/decision"));
    let ruling = json!({"ruling": "overturn", "reason": "It was the file."});
    let early = ask(&net, "POST", &decision, &admin, &ruling).await;
    assert_eq!((early.status, early.error_code()), (409, json!("conflict")));
    for body in [json!({"text": ""}), json!({"text": "x".repeat(4097)}), json!({"text": "\u{0}"})] {
        let refused = ask(&net, "POST", &appeal, &net.user, &body).await;
        assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("text")));
    }
    let text = json!({"text": "The file was another one."});
    let objected = ask(&net, "POST", &appeal, &net.user, &text).await;
    assert_eq!((objected.status, &objected.json()["state"]), (200, &json!("appealed")));
    assert_eq!(ask(&net, "POST", &appeal, &net.user, &text).await.status, 409);
    let wrong = ask(&net, "POST", &decision, &admin, &json!({"ruling": "forget"})).await;
    assert_eq!(wrong.status, 400);
    let decided = ask(&net, "POST", &decision, &admin, &ruling).await;
    assert_eq!(decided.status, 200, "{}", decided.text());
    let verdict = ask(&net, "GET", "/verdicts", &net.user, &Value::Null).await.json();
    let verdict = &verdict["verdicts"][0];
    assert_eq!(verdict["state"], "overturned");
    assert_eq!(verdict["objection"], "The file was another one.");
    assert_eq!(verdict["reason"], "It was the file.");
    assert_eq!(ask(&net, "POST", &decision, &admin, &ruling).await.status, 409);
}

#[tokio::test]
async fn verdicts_are_seen_by_their_owners_and_operators_alone() {
    let net = Net::start().await;
    let other = net.coordinator.accounts().create_account().await.unwrap().account;
    let others = key(&net.coordinator, other, KeyScope::Inference).await;
    let nodes = key(&net.coordinator, net.account, KeyScope::Node).await;
    let (mine, theirs) = (convict(&net, net.account, 7).await, convict(&net, other, 8).await);
    assert_eq!(ids(&net, "/verdicts", &net.user).await, std::slice::from_ref(&mine));
    assert_eq!(ids(&net, "/verdicts", &others).await, std::slice::from_ref(&theirs));
    assert_eq!(ids(&net, "/verdicts", &net.operator).await, [mine.clone(), theirs.clone()]);
    let first = ask(&net, "GET", "/verdicts?limit=1", &net.operator, &Value::Null).await.json();
    assert_eq!(first["next"], json!(mine));
    assert_eq!(
        ids(&net, &format!("/verdicts?after={mine}"), &net.operator).await,
        std::slice::from_ref(&theirs)
    );
    let shown = ask(&net, "GET", &format!("/verdicts/{mine}"), &net.user, &Value::Null).await;
    assert_eq!((shown.status, &shown.json()["id"]), (200, &json!(mine)));
    assert_eq!(shown.json()["prompts"], json!(["What is new?"]));
    let hidden = format!("/verdicts/{theirs}");
    for (token, status) in [(&net.user, 404), (&others, 200), (&net.operator, 200), (&nodes, 403)] {
        let shown = ask(&net, "GET", &hidden, token, &Value::Null).await;
        assert_eq!(shown.status, status, "{}", shown.text());
    }
    for (token, status) in [(&net.user, 403), (&net.operator, 200)] {
        let signs = ask(&net, "GET", "/signs", token, &Value::Null).await;
        assert_eq!(signs.status, status);
        assert!(status != 200 || signs.json() == json!({"signs": []}));
    }
    let appeal = format!("/verdicts/{theirs}/appeal");
    let text = json!({"text": "no"});
    let none = ask(&net, "POST", &appeal, &net.user, &text).await;
    assert_eq!((none.status, none.error_code()), (404, json!("not_found")));
    for id in ["x", "../x", &hex(9)] {
        let path = format!("/verdicts/{}/appeal", id.replace('/', "%2f"));
        assert_eq!(ask(&net, "POST", &path, &net.user, &text).await.status, 404, "{id}");
    }
    let decision = format!("/verdicts/{mine}/decision");
    let ruling = json!({"ruling": "overturn"});
    for (token, status) in [(&net.user, 403), (&net.operator, 403), (&nodes, 403)] {
        assert_eq!(ask(&net, "POST", &decision, token, &ruling).await.status, status);
    }
    assert_eq!(ask(&net, "GET", "/verdicts", &nodes, &Value::Null).await.status, 403);
    assert_eq!(ask(&net, "GET", "/verdicts", "x", &Value::Null).await.status, 401);
}

#[tokio::test]
async fn verdict_that_is_upheld_is_carried_out_at_once() {
    let net = Net::start().await;
    let admin = key(&net.coordinator, net.account, KeyScope::Admin).await;
    let id = convict(&net, net.account, 7).await;
    let text = json!({"text": "no"});
    ask(&net, "POST", &format!("/verdicts/{id}/appeal"), &net.user, &text).await;
    let path = format!("/verdicts/{id}/decision");
    let upheld = ask(&net, "POST", &path, &admin, &json!({"ruling": "uphold"})).await;
    assert_eq!((upheld.status, &upheld.json()["state"]), (200, &json!("final")));
    let events: Vec<_> = net.store.scan(Key::all("event")).collect().await;
    let [event] = &events[..] else { panic!("{events:?}") };
    let event: Value = event.as_ref().unwrap().value.decode().unwrap();
    assert_eq!((&event["what"], &event["owner"]), (&json!("convicted"), &json!(net.account)));
}
