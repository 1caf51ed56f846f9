//! Logins, sessions, keys and invitations, as members use them.

use iris_coordinator::{AccountPolicy, MembershipPolicy};
use serde_json::{Value, json};

use super::node::Persona;
use super::sealed::Caller;
use super::transparency::Ahead;
use super::*;

const EMAIL: &str = "ada@example.org";
const PASSWORD: &str = "correct horse";

async fn open_net() -> Net {
    Net::with_api(ApiSettings::default().with_open_registration(true)).await
}

async fn net_with(policy: AccountPolicy) -> Net {
    net_at(policy, Ahead::default()).await
}

async fn net_at(policy: AccountPolicy, clock: Ahead) -> Net {
    let builder = Coordinator::builder(
        Arc::new(MemoryStore::new()),
        Identity::generate(),
        Secret::from_bytes([9; 32]),
    );
    let builder = builder.with_account_policy(policy).with_clock(Arc::new(clock));
    let coordinator = builder.build().await.unwrap();
    let api = ApiSettings::default().with_open_registration(true);
    Net::around(coordinator, ServerSettings::default().with_api(api)).await
}

/// Asks with a token of one's own, or none.
async fn ask(net: &Net, method: &str, path: &str, token: &str, body: &Value) -> Reply {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    let headers = if token.is_empty() { &[] } else { &headers[..] };
    let body = if body.is_null() { String::new() } else { body.to_string() };
    send(net.address, request(method, path, headers, &body)).await
}

async fn post(net: &Net, path: &str, token: &str, body: Value) -> Reply {
    ask(net, "POST", path, token, &body).await
}

async fn get(net: &Net, path: &str, token: &str) -> Reply {
    ask(net, "GET", path, token, &Value::Null).await
}

async fn delete(net: &Net, path: &str, token: &str) -> Reply {
    ask(net, "DELETE", path, token, &Value::Null).await
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("{name} in {value}")).to_owned()
}

struct Tokens {
    access: String,
    refresh: String,
}

impl Tokens {
    fn of(reply: &Reply) -> Self {
        assert!(matches!(reply.status, 200 | 201), "{} {}", reply.status, reply.text());
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        let session = reply.json();
        assert_eq!(
            (&session["token_type"], &session["expires_in"]),
            (&json!("bearer"), &json!(900))
        );
        Self { access: text(&session, "access_token"), refresh: text(&session, "refresh_token") }
    }
}

async fn register(net: &Net) -> Tokens {
    let body = json!({"email": EMAIL, "password": PASSWORD});
    Tokens::of(&post(net, "/auth/register", "", body).await)
}

async fn log_in(net: &Net, password: &str) -> Reply {
    post(net, "/auth/login", "", json!({"email": EMAIL, "password": password})).await
}

#[tokio::test]
async fn member_registers_logs_in_asks_and_logs_out() {
    let net = open_net().await;
    let _node = net.node(vec![Step::Echo, Step::Finish("stop")]).await;
    register(&net).await;
    let tokens = Tokens::of(
        &post(&net, "/auth/login", "", json!({"email": "ADA@Example.org", "password": PASSWORD}))
            .await,
    );
    let me = get(&net, "/auth/me", &tokens.access).await.json();
    assert_eq!((&me["email"], &me["keys"]), (&json!(EMAIL), &json!(0)));
    assert_eq!(me["membership"], json!({"state": "free"}));
    assert_eq!(get(&net, "/v1/models", &tokens.access).await.status, 200);
    let chat: Value = serde_json::from_str(&chat_body("")).unwrap();
    let answer = post(&net, "/v1/chat/completions", &tokens.access, chat).await;
    assert_eq!(answer.status, 200, "{}", answer.text());

    assert_eq!(post(&net, "/auth/logout", &tokens.access, Value::Null).await.status, 204);
    let refused = get(&net, "/auth/me", &tokens.access).await;
    assert_eq!((refused.status, refused.error_code()), (401, json!("invalid_access_token")));
    let refused = post(&net, "/auth/refresh", "", json!({"refresh_token": tokens.refresh})).await;
    assert_eq!((refused.status, refused.error_code()), (401, json!("invalid_refresh_token")));
}

#[tokio::test]
async fn wrong_password_and_unknown_address_are_told_alike() {
    let net = open_net().await;
    register(&net).await;
    let wrong = log_in(&net, "incorrect horse").await;
    let body = json!({"email": "eve@example.org", "password": PASSWORD});
    let unknown = post(&net, "/auth/login", "", body).await;
    assert_eq!((wrong.status, unknown.status), (401, 401));
    assert_eq!(wrong.text(), unknown.text());
    for body in [json!({}), json!({"email": EMAIL}), json!({"email": EMAIL, "account_key": "1"})] {
        assert_eq!(post(&net, "/auth/login", "", body).await.status, 400);
    }
}

#[tokio::test]
async fn bad_registrations_are_refused_with_what_is_wrong() {
    let net = open_net().await;
    register(&net).await;
    for (email, password, status, param) in [
        (EMAIL, PASSWORD, 409, "email"),
        ("ADA@EXAMPLE.ORG", PASSWORD, 409, "email"),
        ("ada", PASSWORD, 400, "email"),
        ("ada@", PASSWORD, 400, "email"),
        ("a da@example.org", PASSWORD, 400, "email"),
        ("eve@example.org", "short", 400, "password"),
    ] {
        let body = json!({"email": email, "password": password});
        let refused = post(&net, "/auth/register", "", body).await;
        let found = (refused.status, refused.json()["error"]["param"].clone());
        assert_eq!(found, (status, json!(param)), "{email}");
    }
    let closed = Net::start().await;
    let body = json!({"email": EMAIL, "password": PASSWORD});
    let refused = post(&closed, "/auth/register", "", body).await;
    assert_eq!((refused.status, refused.error_code()), (403, json!("invitation_required")));
}

#[tokio::test]
async fn account_of_digits_gets_a_name_and_both_open_it() {
    let net = open_net().await;
    let account = post(&net, "/accounts/generate", "", Value::Null).await.json();
    let digits = text(&account, "account_key");
    let me = post(&net, "/accounts/verify", "", json!({"account_key": digits})).await;
    assert_eq!((me.status, &me.json()["account"]), (200, &account["account"]));
    let by_digits = post(&net, "/auth/login", "", json!({"account_key": digits})).await;
    let by_digits = Tokens::of(&by_digits);
    let name = json!({"email": EMAIL, "password": PASSWORD, "account_key": digits});
    Tokens::of(&post(&net, "/auth/register", "", name.clone()).await);
    assert_eq!(post(&net, "/auth/register", "", name).await.status, 409);
    let by_name = Tokens::of(&log_in(&net, PASSWORD).await);
    for token in [&by_digits.access, &by_name.access] {
        let me = get(&net, "/auth/me", token).await.json();
        assert_eq!((&me["account"], &me["email"]), (&account["account"], &json!(EMAIL)));
    }
    let refused = post(&net, "/accounts/verify", "", json!({"account_key": "1"})).await;
    assert_eq!((refused.status, refused.error_code()), (401, json!("invalid_account_key")));
}

#[tokio::test]
async fn changed_password_ends_every_session() {
    let net = open_net().await;
    let first = register(&net).await;
    let second = Tokens::of(&log_in(&net, PASSWORD).await);
    let change = |current: &str| json!({"current": current, "new": "battery staple"});
    let refused = post(&net, "/auth/password", &second.access, change("wrong one")).await;
    assert_eq!((refused.status, refused.error_code()), (401, json!("invalid_login")));
    let third = Tokens::of(&post(&net, "/auth/password", &second.access, change(PASSWORD)).await);
    for tokens in [&first, &second] {
        assert_eq!(get(&net, "/auth/me", &tokens.access).await.status, 401);
        let body = json!({"refresh_token": tokens.refresh});
        assert_eq!(post(&net, "/auth/refresh", "", body).await.status, 401);
    }
    assert_eq!(get(&net, "/auth/me", &third.access).await.status, 200);
    assert_eq!(log_in(&net, PASSWORD).await.status, 401);
    assert_eq!(log_in(&net, "battery staple").await.status, 200);
}

#[tokio::test]
async fn keys_are_listed_rotated_and_revoked_by_their_owner_alone() {
    let net = open_net().await;
    let tokens = register(&net).await;
    let wish = json!({"scope": "inference", "label": "laptop", "models": ["tiny"]});
    let made = post(&net, "/accounts/keys", &tokens.access, wish).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let (key, id) = (text(&made.json(), "key"), text(&made.json(), "id"));
    assert_eq!(get(&net, "/v1/models", &key).await.status, 200);

    let listed = get(&net, "/accounts/keys", &tokens.access).await;
    assert!(!listed.text().contains(&key), "{}", listed.text());
    let listed = listed.json()["keys"].clone();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!((&listed[0]["label"], &listed[0]["models"]), (&json!("laptop"), &json!(["tiny"])));
    assert_eq!(listed[0]["ending"], key[key.len() - 4..]);
    assert!(listed[0]["last_used"].as_u64().unwrap() > 0, "{listed}");

    for other in [key.as_str(), &net.user, &net.operator] {
        for reply in [
            get(&net, "/accounts/keys", other).await,
            delete(&net, &format!("/accounts/keys/{id}"), other).await,
            post(&net, "/accounts/keys", other, json!({"scope": "inference"})).await,
            post(&net, "/auth/logout", other, Value::Null).await,
        ] {
            assert_eq!((reply.status, reply.error_code()), (403, json!("forbidden")));
        }
    }

    let grace = json!({"grace_secs": 60});
    let rotate = format!("/accounts/keys/{id}/rotate");
    let fresh = post(&net, &rotate, &tokens.access, grace).await.json();
    assert_eq!(get(&net, "/v1/models", &key).await.status, 200);
    let (new_key, new_id) = (text(&fresh, "key"), text(&fresh, "id"));
    let listed = get(&net, "/accounts/keys", &tokens.access).await.json()["keys"].clone();
    let newest = listed.as_array().unwrap().iter().find(|key| key["id"] == *new_id).unwrap();
    assert_eq!((&newest["label"], &newest["models"]), (&json!("laptop"), &json!(["tiny"])));
    let rotate = format!("/accounts/keys/{new_id}/rotate");
    let newest = post(&net, &rotate, &tokens.access, Value::Null).await.json();
    assert_eq!(get(&net, "/v1/models", &new_key).await.status, 401);
    let (newest_key, newest_id) = (text(&newest, "key"), text(&newest, "id"));
    assert_eq!(get(&net, "/v1/models", &newest_key).await.status, 200);

    for id in ["x", "0123456789abcdef01234567", new_id.as_str()] {
        let missing = delete(&net, &format!("/accounts/keys/{id}"), &tokens.access).await;
        assert_eq!((missing.status, missing.error_code()), (404, json!("not_found")), "{id}");
    }
    let path = format!("/accounts/keys/{newest_id}");
    assert_eq!(delete(&net, &path, &tokens.access).await.status, 204);
    assert_eq!(get(&net, "/v1/models", &newest_key).await.status, 401);
}

#[tokio::test]
async fn anothers_key_is_not_there() {
    let net = open_net().await;
    let tokens = register(&net).await;
    let body = json!({"email": "eve@example.org", "password": PASSWORD});
    let eve = Tokens::of(&post(&net, "/auth/register", "", body).await);
    let made = post(&net, "/accounts/keys", &tokens.access, json!({"scope": "node"})).await.json();
    let path = format!("/accounts/keys/{}", text(&made, "id"));
    assert_eq!(delete(&net, &path, &eve.access).await.status, 404);
    assert_eq!(post(&net, &format!("{path}/rotate"), &eve.access, Value::Null).await.status, 404);
    assert_eq!(get(&net, "/accounts/keys", &eve.access).await.json(), json!({"keys": []}));
    assert_eq!(delete(&net, &path, &tokens.access).await.status, 204);
}

#[tokio::test]
async fn key_ends_when_it_was_to_end() {
    let net = open_net().await;
    let tokens = register(&net).await;
    for (name, value) in
        [("expires", json!(1)), ("requests_per_minute", json!(0)), ("models", json!(vec!["m"; 65]))]
    {
        let mut wish = json!({"scope": "inference"});
        wish[name] = value;
        let refused = post(&net, "/accounts/keys", &tokens.access, wish).await;
        let found = (refused.status, refused.json()["error"]["param"].clone());
        assert_eq!(found, (400, json!(name)));
    }
    let wish = json!({"scope": "admin"});
    assert_eq!(post(&net, "/accounts/keys", &tokens.access, wish).await.status, 403);
}

#[tokio::test]
async fn invitation_opens_as_many_accounts_as_it_says() {
    let net = Net::start().await;
    let admin = key(&net.coordinator, net.account, KeyScope::Admin).await;
    let made = post(&net, "/invitations", &admin, json!({"uses": 2, "label": "for Eve"})).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    let invitation = text(&made, "invitation");
    assert!(invitation.starts_with("iris_invite_") && made["uses_left"] == 2, "{made}");
    let body = json!({"invitation": invitation});
    assert_eq!(post(&net, "/accounts/generate", "", body.clone()).await.status, 201);
    let listed = get(&net, "/invitations", &admin).await;
    assert!(!listed.text().contains(&invitation));
    assert_eq!(listed.json()["invitations"][0]["uses_left"], 1);
    let taken = json!({"email": EMAIL, "password": PASSWORD, "invitation": invitation});
    Tokens::of(&post(&net, "/auth/register", "", taken).await);
    assert_eq!(get(&net, "/invitations", &admin).await.json(), json!({"invitations": []}));
    for body in [body, json!({"invitation": format!("iris_invite_{}", "a".repeat(52))})] {
        let refused = post(&net, "/accounts/generate", "", body).await;
        assert_eq!((refused.status, refused.error_code()), (403, json!("invalid_invitation")));
    }
    for token in [&net.user, &net.operator] {
        assert_eq!(post(&net, "/invitations", token, Value::Null).await.status, 403);
    }
}

#[tokio::test]
async fn invitation_used_by_many_at_once_opens_no_account_more() {
    let net = Net::start().await;
    let admin = key(&net.coordinator, net.account, KeyScope::Admin).await;
    let made = post(&net, "/invitations", &admin, json!({"uses": 3})).await.json();
    let body = json!({"invitation": text(&made, "invitation")});
    let join = || post(&net, "/accounts/generate", "", body.clone());
    let replies = futures::future::join_all((0..5).map(|_| join())).await;
    let opened = replies.iter().filter(|reply| reply.status == 201).count();
    assert_eq!(opened, 3);
    let refused = replies.iter().filter(|reply| reply.status == 403).count();
    assert_eq!(refused, 2);
}

#[tokio::test]
async fn members_invite_where_they_may_and_take_back() {
    let net = open_net().await;
    let tokens = register(&net).await;
    assert_eq!(post(&net, "/invitations", &tokens.access, Value::Null).await.status, 403);

    let net = net_with(AccountPolicy { member_invitations: 2, ..AccountPolicy::default() }).await;
    let tokens = register(&net).await;
    let refused = post(&net, "/invitations", &tokens.access, json!({"uses": 2})).await;
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("uses")));
    let first = post(&net, "/invitations", &tokens.access, Value::Null).await.json();
    assert_eq!(post(&net, "/invitations", &tokens.access, Value::Null).await.status, 201);
    assert_eq!(post(&net, "/invitations", &tokens.access, Value::Null).await.status, 409);
    let path = format!("/invitations/{}", text(&first, "id"));
    let body = json!({"email": "eve@example.org", "password": PASSWORD});
    let eve = Tokens::of(&post(&net, "/auth/register", "", body).await);
    assert_eq!(delete(&net, &path, &eve.access).await.status, 404);
    assert_eq!(delete(&net, &path, &tokens.access).await.status, 204);
    assert_eq!(delete(&net, &path, &tokens.access).await.status, 404);
    let body = json!({"invitation": text(&first, "invitation")});
    assert_eq!(post(&net, "/accounts/generate", "", body).await.status, 403);
    assert_eq!(post(&net, "/invitations", &tokens.access, Value::Null).await.status, 201);
}

#[tokio::test]
async fn list_of_keys_tells_what_was_used_of_each() {
    let net = open_net().await;
    let tokens = register(&net).await;
    let _node = net.node(vec![Step::whole(chat::ANSWER), Step::Finish("stop")]).await;
    let body = json!({"scope": "inference"});
    let made = post(&net, "/accounts/keys", &tokens.access, body).await;
    let key = text(&made.json(), "key");
    let chat = json!({"model": Node::MODEL, "messages": [{"role": "user", "content": "hi"}]});
    let reply = post(&net, "/v1/chat/completions", &key, chat).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let listed = get(&net, "/accounts/keys", &tokens.access).await.json();
    assert_eq!(listed["keys"][0]["used"]["requests_today"], 1, "{listed}");
}

#[tokio::test]
async fn fee_counts_once_by_its_reference() {
    let membership = MembershipPolicy { fee: 5_000_000, ..MembershipPolicy::default() };
    let net = net_with(AccountPolicy { membership, ..AccountPolicy::default() }).await;
    let admin = key(&net.coordinator, net.account, KeyScope::Admin).await;
    let tokens = register(&net).await;
    let me = get(&net, "/auth/me", &tokens.access).await.json();
    assert_eq!(me["membership"], json!({"state": "lapsed"}));
    let account: AccountId = text(&me, "account").parse().unwrap();
    let lapsed = net.coordinator.accounts().membership(&account);
    assert_eq!(json!(lapsed), me["membership"]);

    let path = format!("/accounts/{account}/fees");
    let fee = |months: u32, reference: &str| json!({"months": months, "reference": reference});
    let first = post(&net, &path, &admin, fee(1, "2026-1")).await;
    assert_eq!((first.status, &first.json()["state"]), (200, &json!("paid")), "{}", first.text());
    let again = post(&net, &path, &admin, fee(1, "2026-1")).await;
    assert_eq!(again.json(), first.json());
    assert_eq!(post(&net, &path, &admin, fee(2, "2026-1")).await.status, 409);
    let second = post(&net, &path, &admin, fee(12, "2026-2")).await.json();
    let until = |fee: &Value| fee["until"].as_u64().unwrap();
    let year = (until(&second) - until(&first.json())) / 86_400;
    assert!((365..=366).contains(&year), "{year}");
    assert_eq!(json!(net.coordinator.accounts().membership(&account)), second);

    for (path, token, body, status) in [
        (path.as_str(), tokens.access.as_str(), fee(1, "x"), 403),
        (&path, &net.user, fee(1, "x"), 403),
        (&path, &net.operator, fee(1, "x"), 403),
        (&path, &admin, fee(0, "x"), 400),
        (&path, &admin, fee(121, "x"), 400),
        (&path, &admin, fee(1, ""), 400),
        (&path, &admin, fee(1, "a\nb"), 400),
        ("/accounts/00112233445566778899aabbccddeeff/fees", &admin, fee(1, "x"), 404),
        ("/accounts/x/fees", &admin, fee(1, "x"), 404),
    ] {
        assert_eq!(post(&net, path, token, body.clone()).await.status, status, "{path} {body}");
    }
}

#[tokio::test]
async fn lapsed_member_is_served_by_nodes_of_its_own_alone() {
    let membership = MembershipPolicy { fee: 5_000_000, ..MembershipPolicy::default() };
    let net = net_with(AccountPolicy { membership, ..AccountPolicy::default() }).await;
    let stranger = {
        let owner = net.coordinator.accounts().create_account().await.unwrap().account;
        let node_key = key(&net.coordinator, owner, KeyScope::Node).await;
        let steps = vec![Step::text("hi"), Step::Finish("stop")];
        Node::connect_as(net.address, &node_key, Persona::sealing(2), steps).await
    };
    let due = (402, json!("membership_lapsed"));
    let refused = |reply: &Reply| (reply.status, reply.error_code());
    let chat = net.chat("").await;
    assert_eq!(refused(&chat), due, "{}", chat.text());
    let any = r#"{"messages":[{"role":"user","content":"What is a noun?"}]}"#;
    assert_eq!(refused(&net.post("/v1/chat/completions", any).await), due);
    assert_eq!(refused(&net.post("/api/chat/stream", r#"{"message":"hi"}"#).await), due);
    let sealed = Caller::new(&net, &stranger.certificate());
    assert_eq!(refused(&net.relay(&sealed.request).await), due);
    let submitted =
        net.post("/inference", &json!({"prompt": "hi", "model": Node::MODEL}).to_string()).await;
    let id = text(&submitted.json(), "id");
    let events = net.get(&format!("/inference/{id}/events")).await;
    let status = net.get(&format!("/inference/{id}")).await.json();
    assert_eq!(status["error"]["code"], "membership_lapsed", "{status} {}", events.text());

    let own = net.node(vec![Step::Echo, Step::Finish("stop")]).await;
    let served = net.chat("").await;
    assert_eq!((served.status, own.asked.lock().unwrap().len()), (200, 1), "{}", served.text());
    let steps = vec![Step::text("hi"), Step::Finish("stop")];
    let own = net.node_as(Persona::sealing(2), steps).await;
    let sealed = Caller::new(&net, &own.certificate());
    assert_eq!(net.relay(&sealed.request).await.status, 200, "it is sealed to a node of its own");
    let sealed = Caller::new(&net, &stranger.certificate());
    assert_eq!(refused(&net.relay(&sealed.request).await), due);
    let admin = key(&net.coordinator, net.account, KeyScope::Admin).await;
    let fees = format!("/accounts/{}/fees", net.account);
    let paid = post(&net, &fees, &admin, json!({"months": 1, "reference": "1"})).await;
    assert_eq!(paid.status, 200, "{}", paid.text());
    let sealed = Caller::new(&net, &stranger.certificate());
    assert_eq!(net.relay(&sealed.request).await.status, 200, "the fee opens all nodes");
}

/// A month and what comes before and after it, in the words of the API.
#[tokio::test]
async fn trial_paid_time_and_grace_follow_one_another_and_then_the_fee_is_due() {
    let day = Duration::from_hours(24);
    let membership =
        MembershipPolicy { fee: 5_000_000, trial: 3 * day, grace: 2 * day, ..Default::default() };
    let policy = AccountPolicy { membership, ..AccountPolicy::default() };
    let clock = Ahead::default();
    let net = net_at(policy, clock.clone()).await;
    let admin = key(&net.coordinator, net.account, KeyScope::Admin).await;
    register(&net).await;
    let (net, clock) = (&net, &clock);
    let _node = net.strangers_node(vec![Step::Echo, Step::Finish("stop")]).await;
    let check = |state: &'static str, passed: Duration| async move {
        clock.by(passed);
        let tokens = Tokens::of(&log_in(net, PASSWORD).await);
        let me = get(net, "/auth/me", &tokens.access).await.json();
        let wish = json!({"scope": "inference"});
        let key = post(net, "/accounts/keys", &tokens.access, wish).await.json();
        let key = text(&key, "key");
        let chat: Value = serde_json::from_str(&chat_body("")).unwrap();
        for token in [&tokens.access, &key] {
            let asked = post(net, "/v1/chat/completions", token, chat.clone()).await;
            let expected = if state == "lapsed" { 402 } else { 200 };
            assert_eq!(asked.status, expected, "{state}: {}", asked.text());
            assert!(expected == 200 || asked.error_code() == "membership_lapsed");
            let listed = get(net, "/v1/models", token).await;
            assert_eq!(listed.status, 200, "looking is free: {}", listed.text());
        }
        assert_eq!(me["membership"]["state"], state, "{me}");
        (text(&me, "account"), me["membership"]["until"].as_u64())
    };
    let (account, first) = check("trial", Duration::ZERO).await;
    let (_, until) = check("trial", 2 * day).await;
    assert_eq!(first, until);
    assert_eq!(check("lapsed", day).await.1, None);
    let fees = format!("/accounts/{account}/fees");
    let paid = post(net, &fees, &admin, json!({"months": 1, "reference": "1"})).await;
    assert_eq!(paid.status, 200, "{}", paid.text());
    let (_, until) = check("paid", Duration::ZERO).await;
    assert_eq!(paid.json()["until"].as_u64(), until);
    // A month has 31 days at most, and 28 at least.
    check("paid", 27 * day).await;
    let (_, grace) = check("grace", 4 * day).await;
    assert!(grace > until);
    check("lapsed", 4 * day).await;
    let paid = post(net, &fees, &admin, json!({"months": 1, "reference": "2"})).await;
    assert_eq!(paid.json()["state"], "paid", "{}", paid.text());
    check("paid", 27 * day).await;
}

/// What people write themselves comes back as they wrote it, or is refused; it never means more.
#[tokio::test]
async fn attack_43_hostile_labels_and_addresses_are_inert() {
    let net = open_net().await;
    let tokens = register(&net).await;
    let admin = key(&net.coordinator, net.account, KeyScope::Admin).await;
    let odd =
        ["' OR 1=1 --", "%", "_", "../../etc/passwd", "<script>alert(1)</script>", "\\x1b[2J"];
    let refused = ["a\nb", "a\r\nset-cookie: x", "\0", "\u{1b}[2J", "\u{202e}gpj", "\u{200b}"];
    let too_long = "x".repeat(65);
    let ways =
        [("/accounts/keys", &tokens.access, "keys"), ("/invitations", &admin, "invitations")];
    for (path, token, list) in ways {
        for label in odd {
            let wish = json!({"scope": "inference", "label": label});
            let made = post(&net, path, token, wish).await;
            assert_eq!(made.status, 201, "{path} {label}: {}", made.text());
        }
        for label in refused.into_iter().chain([too_long.as_str()]) {
            let wish = json!({"scope": "inference", "label": label});
            let reply = post(&net, path, token, wish).await;
            let found = (reply.status, reply.json()["error"]["param"].clone());
            assert_eq!(found, (400, json!("label")), "{path} {label:?}");
            assert!(!reply.head.contains("set-cookie") && !reply.text().contains('\u{1b}'));
        }
        let listed = get(&net, path, token).await.json()[list].clone();
        let mut labels: Vec<_> =
            listed.as_array().unwrap().iter().map(|e| text(e, "label")).collect();
        labels.sort_unstable();
        let mut expected = odd;
        expected.sort_unstable();
        assert_eq!(labels, expected, "{path}");
    }

    for email in [
        "' OR 1=1 --@example.org",
        "ada@example.org\n",
        "ada@example.org\r\nbcc: eve@example.org",
        "ada\0@example.org",
        "\u{202e}ada@example.org",
        "ad\u{200b}a@example.org",
        &format!("{}@example.org", "x".repeat(250)),
    ] {
        let body = json!({"email": email, "password": PASSWORD});
        let reply = post(&net, "/auth/register", "", body).await;
        let found = (reply.status, reply.json()["error"]["param"].clone());
        assert_eq!(found, (400, json!("email")), "{email:?}");
        assert!(!reply.head.contains("bcc:"), "{}", reply.head);
    }
    let mut accounts = vec![text(&get(&net, "/auth/me", &tokens.access).await.json(), "account")];
    for email in
        ["'or'1'='1@example.org", "%@example.org", "___@example.org", "../../ada@example.org"]
    {
        let body = json!({"email": email, "password": "battery staple"});
        let unknown = post(&net, "/auth/login", "", body.clone()).await;
        assert_eq!(unknown.status, 401, "{email} is nobody's yet");
        let tokens = Tokens::of(&post(&net, "/auth/register", "", body).await);
        let me = get(&net, "/auth/me", &tokens.access).await.json();
        assert_eq!((&me["email"], &me["keys"]), (&json!(email), &json!(0)));
        accounts.push(text(&me, "account"));
    }
    accounts.sort_unstable();
    accounts.dedup();
    assert_eq!(accounts.len(), 5, "each is an account of its own");
    assert_eq!(log_in(&net, PASSWORD).await.status, 200, "and nobody else's was touched");
}

/// Anybody can write such a token; none is let in by it.
#[tokio::test]
async fn attack_26_forged_access_tokens_let_nobody_in() {
    use data_encoding::BASE64URL_NOPAD;
    let net = open_net().await;
    let good = register(&net).await.access;
    assert_eq!(get(&net, "/auth/me", &good).await.status, 200);
    let parts: Vec<&str> = good.split('.').collect();
    let encode = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
    let header = String::from_utf8(BASE64URL_NOPAD.decode(parts[0].as_bytes()).unwrap()).unwrap();
    let none = encode(r#"{"alg":"none","typ":"JWT"}"#);
    let kid = encode(&header.replace("\"kid\":\"", "\"kid\":\"0"));
    let rs256 = encode(&header.replace("HS256", "RS256"));
    let claims = BASE64URL_NOPAD.decode(parts[1].as_bytes()).unwrap();
    let mut claims: Value = serde_json::from_slice(&claims).unwrap();
    claims["sub"] = json!(net.account.to_string());
    let other = encode(&claims.to_string());
    for token in [
        format!("{none}.{}.", parts[1]),
        format!("{none}.{}.{}", parts[1], parts[2]),
        format!("{kid}.{}.{}", parts[1], parts[2]),
        format!("{rs256}.{}.{}", parts[1], parts[2]),
        format!("{}.{other}.{}", parts[0], parts[2]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}", parts[0], parts[1]),
        format!("{good}.{}", parts[2]),
        "..".to_owned(),
    ] {
        for path in ["/auth/me", "/v1/models", "/accounts/keys"] {
            let refused = get(&net, path, &token).await;
            assert_eq!(refused.status, 401, "{path} {token}");
            assert_eq!(refused.error_code(), json!("invalid_access_token"));
        }
    }
}

#[tokio::test]
async fn attack_28_refresh_token_used_twice_ends_the_session() {
    let net = open_net().await;
    let first = register(&net).await;
    let refresh = |token: &str| post(&net, "/auth/refresh", "", json!({"refresh_token": token}));
    let second = Tokens::of(&refresh(&first.refresh).await);
    assert_eq!(get(&net, "/auth/me", &second.access).await.status, 200);
    // Whoever has the old token may be the thief or the owner: nobody goes on.
    let refused = refresh(&first.refresh).await;
    assert_eq!((refused.status, refused.error_code()), (401, json!("invalid_refresh_token")));
    assert_eq!(refresh(&second.refresh).await.status, 401);
    for access in [&first.access, &second.access] {
        assert_eq!(get(&net, "/auth/me", access).await.status, 401);
    }
    // Another session of the account is not touched.
    let other = Tokens::of(&log_in(&net, PASSWORD).await);
    Tokens::of(&refresh(&other.refresh).await);
}

#[tokio::test]
async fn two_who_refresh_at_once_do_not_both_go_on() {
    let net = open_net().await;
    let tokens = register(&net).await;
    let body = json!({"refresh_token": tokens.refresh});
    let both = futures::future::join(
        post(&net, "/auth/refresh", "", body.clone()),
        post(&net, "/auth/refresh", "", body),
    );
    let (one, two) = both.await;
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401]);
}

#[tokio::test]
async fn attack_29_tokens_do_only_what_they_are_for() {
    let net = open_net().await;
    let session = register(&net).await.access;
    let node = key(&net.coordinator, net.account, KeyScope::Node).await;
    let chat: Value = serde_json::from_str(&chat_body("")).unwrap();
    for path in ["/v1/chat/completions", "/inference", "/sealed"] {
        let refused = post(&net, path, &node, chat.clone()).await;
        assert_eq!((refused.status, refused.error_code()), (403, json!("forbidden")), "{path}");
    }
    for path in ["/v1/models", "/nodes", "/roster", "/auth/me", "/accounts/keys"] {
        assert_eq!(get(&net, path, &node).await.status, 403, "{path}");
    }
    let socket = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for token in [&net.user, &net.operator, &session] {
        let bearer = format!("Bearer {token}");
        let mut headers = socket.to_vec();
        headers.push(("authorization", &bearer));
        let refused = send(net.address, request("GET", "/nodes/connect", &headers, "")).await;
        assert_eq!((refused.status, refused.error_code()), (403, json!("forbidden")));
    }
    // A session is its owner's: it neither runs the network nor reads the operator's figures.
    let relayed = ("x-forwarded-for", "203.0.113.9");
    let bearer = format!("Bearer {session}");
    let headers = [relayed, ("authorization", bearer.as_str())];
    assert_eq!(send(net.address, request("GET", "/metrics", &headers, "")).await.status, 403);
    let path = format!("/accounts/{}/fees", net.account);
    let fee = json!({"months": 1, "reference": "x"});
    assert_eq!(post(&net, &path, &session, fee).await.status, 403);
}
