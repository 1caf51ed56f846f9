//! Money over HTTP: who sees and does what.

use std::sync::Arc;
use std::time::Duration;

use iris_coordinator::Coordinator;
use iris_coordinator::http::{ApiSettings, ServerSettings};
use iris_coordinator::payouts::PayPolicy;
use iris_core::reward::audit::Audit;
use iris_core::store::MemoryStore;
use iris_core::{Epoch, Timestamp};
use iris_crypto::{Identity, Secret};
use iris_protocol::rest::KeyScope;
use serde_json::{Value, json};

use crate::chat::ANSWER;
use crate::node::Step;
use crate::transparency::Ahead;
use crate::{Net, Reply, key, request, send};

const DAY: Duration = Duration::from_hours(24);

/// A network that pays by points, so that whoever answered once has a share.
async fn net() -> (Net, Ahead) {
    let clock = Ahead::default();
    let builder = Coordinator::builder(
        Arc::new(MemoryStore::new()),
        Identity::generate(),
        Secret::from_bytes([9; 32]),
    );
    let coordinator = builder
        .with_pay_policy(PayPolicy::named("seed").unwrap())
        .with_clock(Arc::new(clock.clone()))
        .build()
        .await
        .unwrap();
    let settings = ServerSettings::default().with_api(ApiSettings::default());
    (Net::around(coordinator, settings).await, clock)
}

async fn ask(net: &Net, method: &str, path: &str, token: &str, body: Value) -> Reply {
    let bearer = format!("Bearer {token}");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let headers = [("authorization", bearer.as_str())];
    send(net.address, request(method, path, &headers, &body)).await
}

/// Lets a node of the network's account answer once, and waits for the books.
async fn answer_once(net: &Net) {
    let _node = net.node(vec![Step::whole(ANSWER), Step::Finish("stop")]).await;
    assert_eq!(net.chat("").await.status, 200);
    while net.get("/history").await.json()["tasks"].as_array().is_none_or(Vec::is_empty) {
        tokio::task::yield_now().await;
    }
}

fn this_month() -> Epoch {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Epoch::of(Timestamp::from_millis(u64::try_from(now.as_millis()).unwrap()))
}

#[tokio::test]
async fn month_is_filled_closed_checked_and_paid() {
    let (net, clock) = net().await;
    let admin = key(&net.coordinator, net.account, KeyScope::Admin).await;
    let gift = json!({"amount": 1_000_003, "reference": "gift 1"});
    for _ in 0..2 {
        let held = ask(&net, "POST", "/pool", &admin, gift.clone()).await;
        assert_eq!(held.status, 200, "{}", held.text());
        let pool = format!("pool:{}", this_month());
        let held = held.json();
        assert_eq!(held["balances"], json!({"outside": -1_000_003, pool: 1_000_003}));
    }
    answer_once(&net).await;
    let month = this_month();
    let path = |rest: &str| format!("/months/{month}{rest}");
    let early = ask(&net, "POST", &path("/close"), &admin, Value::Null).await;
    assert_eq!(early.status, 409, "{}", early.text());
    let preview = ask(&net, "GET", "/months/next", &admin, Value::Null).await.json();
    assert_eq!((&preview["epoch"], &preview["is_due"]), (&json!(month), &json!(false)));
    clock.by(DAY * 45);
    let preview = ask(&net, "GET", "/months/next", &net.operator, Value::Null).await.json();
    assert_eq!((&preview["pool"], &preview["is_due"]), (&json!(1_000_003), &json!(true)));
    let (account, amount) = (&preview["shares"][0]["account"], &preview["shares"][0]["amount"]);
    assert_eq!((account, amount), (&json!(net.account), &json!(1_000_003)), "{preview}");
    let closed = ask(&net, "POST", &path("/close"), &admin, Value::Null).await;
    assert_eq!((closed.status, closed.json()["owners"].clone()), (200, json!(1)));
    let months = ask(&net, "GET", "/months", &net.user, Value::Null).await.json();
    assert_eq!(months["months"], json!([closed.json()]));
    assert!(months["months"][0]["weight"].as_u64() > Some(0), "{months}");
    let running = &months["running"];
    assert_eq!((&running["tested"], &running["pool"]), (&json!(false), &json!(0)), "{months}");
    assert_ne!(running["epoch"], months["months"][0]["epoch"]);

    let mine = ask(&net, "GET", "/payouts", &net.user, Value::Null).await.json();
    let share = &mine["payouts"][0];
    assert_eq!(
        (share["amount"].clone(), share["state"].clone()),
        (json!(1_000_003), json!("held"))
    );
    let statement = ask(&net, "GET", &path(""), &net.user, Value::Null).await.json();
    assert_eq!(statement["payout"], *share);
    assert!(statement["parts"]["points"].as_u64() > Some(100), "{statement}");

    let books = ask(&net, "GET", &path("/books"), &admin, Value::Null).await;
    let mut audit = Audit::default();
    books.text().lines().try_for_each(|line| audit.line(line)).unwrap();
    assert_eq!(audit.finish().unwrap().tasks, 1);
    assert!(!books.text().contains(&net.account.to_string()), "an export names nobody");
    let pseudonym = statement["pseudonym"].as_str().unwrap();
    assert!(books.text().contains(pseudonym));

    let pay = path(&format!("/payouts/{}", net.account));
    let reference = json!({"reference": "transfer 7"});
    let held = ask(&net, "POST", &pay, &admin, reference.clone()).await;
    assert_eq!(held.status, 409, "it is held yet: {}", held.text());
}

#[tokio::test]
async fn money_is_the_operators_and_shares_are_their_owners() {
    let (net, clock) = net().await;
    let month = this_month();
    answer_once(&net).await;
    clock.by(DAY * 45);
    net.coordinator.payouts().close(month).await.unwrap();
    let other = net.coordinator.accounts().create_account().await.unwrap().account;
    let others = key(&net.coordinator, other, KeyScope::Inference).await;
    let theirs = ask(&net, "GET", "/payouts", &others, Value::Null).await.json();
    assert_eq!(theirs, json!({"payouts": []}));
    let theirs = ask(&net, "GET", &format!("/months/{month}"), &others, Value::Null).await.json();
    assert_eq!((theirs["payout"].clone(), theirs["weight"].clone()), (Value::Null, json!(0)));
    let gift = json!({"amount": 1, "reference": "gift"});
    let paid = json!({"reference": "transfer"});
    for (method, rest, body) in [
        ("POST", "/pool".to_owned(), gift),
        ("GET", "/balances".to_owned(), Value::Null),
        ("GET", format!("/months/{month}/books"), Value::Null),
        ("GET", format!("/months/{month}/payouts"), Value::Null),
        ("POST", format!("/months/{month}/close"), Value::Null),
        ("POST", format!("/months/{month}/payouts/{}", net.account), paid),
    ] {
        let refused = ask(&net, method, &rest, &others, body.clone()).await;
        assert_eq!(refused.status, 403, "{method} {rest}");
        let anonymous = send(net.address, request(method, &rest, &[], &body.to_string())).await;
        assert_eq!(anonymous.status, 401, "{method} {rest}");
    }
}

#[tokio::test]
async fn months_and_amounts_that_are_none_are_refused_by_name() {
    let (net, _clock) = net().await;
    let admin = key(&net.coordinator, net.account, KeyScope::Admin).await;
    for month in ["x", "2026-13", "2026", "..%2F..", "'%20OR%201=1"] {
        let refused = ask(&net, "GET", &format!("/months/{month}"), &admin, Value::Null).await;
        assert_eq!(
            (refused.status, refused.json()["error"]["param"].clone()),
            (400, json!("month"))
        );
    }
    let unknown = ask(&net, "GET", "/months/2001-01", &admin, Value::Null).await;
    assert_eq!(unknown.status, 404);
    for (name, body) in [
        ("amount", json!({"amount": 0, "reference": "r"})),
        ("amount", json!({"amount": -5, "reference": "r"})),
        ("reference", json!({"amount": 5, "reference": ""})),
        ("reference", json!({"amount": 5, "reference": "a\nb"})),
    ] {
        let refused = ask(&net, "POST", "/pool", &admin, body).await;
        assert_eq!((refused.status, refused.json()["error"]["param"].clone()), (400, json!(name)));
    }
}
