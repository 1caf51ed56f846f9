use iris_protocol::rest::KeyScope;
use serde_json::json;
use tokio::net::TcpStream;

use super::*;

const UPGRADE: [(&str, &str); 4] = [
    ("connection", "upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// Asks to become a WebSocket, with `more` headers.
fn upgrade(more: &[(&str, &str)]) -> String {
    let lines = UPGRADE.iter().chain(more).map(|(name, value)| format!("{name}: {value}\r\n"));
    let headers = lines.collect::<Vec<_>>().concat();
    format!("GET /nodes/connect HTTP/1.1\r\nhost: iris\r\n{headers}\r\n")
}

#[tokio::test]
async fn request_without_a_known_key_is_refused() {
    let net = Net::start().await;
    let unknown = format!("Bearer iris_{}", "a".repeat(52));
    for value in ["", "Bearer ", "Bearer iris_", "Basic a", unknown.as_str()] {
        let request = request("POST", "/v1/chat/completions", &[("authorization", value)], "{}");
        let reply = send(net.address, request).await;
        assert_eq!((reply.status, reply.error_code()), (401, json!("invalid_api_key")), "{value}");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    }
}

#[tokio::test]
async fn key_does_what_its_scope_allows_and_nothing_else() {
    let net = Net::start().await;
    let node = key(&net.coordinator, net.account, KeyScope::Node).await;
    let bearer = format!("Bearer {node}");
    let headers = [("authorization", bearer.as_str())];
    let chat = request("POST", "/v1/chat/completions", &headers, &chat_body(""));
    let reply = send(net.address, chat).await;
    assert_eq!((reply.status, reply.error_code()), (403, json!("forbidden")));

    let bearer = format!("Bearer {}", net.user);
    let reply = send(net.address, upgrade(&[("authorization", &bearer), ("connection", "close")]));
    let reply = reply.await;
    assert_eq!((reply.status, reply.error_code()), (403, json!("forbidden")));

    let bearer = format!("Bearer {}", net.operator);
    let headers = [("authorization", bearer.as_str())];
    let chat = request("POST", "/v1/chat/completions", &headers, &chat_body(""));
    assert_eq!(send(net.address, chat).await.status, 403);
    let nodes = send(net.address, request("GET", "/nodes", &headers, "")).await;
    assert_eq!((nodes.status, nodes.json()), (200, json!({"nodes": []})));
}

#[tokio::test]
async fn nodes_key_reads_what_is_its_accounts_and_nothing_of_others() {
    let net = Net::start().await;
    let node = key(&net.coordinator, net.account, KeyScope::Node).await;
    let bearer = format!("Bearer {node}");
    let get = |path: &str| {
        let asked = request("GET", path, &[("authorization", bearer.as_str())], "");
        send(net.address, asked)
    };
    assert_eq!(get("/payouts").await.json(), json!({"payouts": []}));
    assert_eq!(get("/months").await.status, 200);
    for path in ["/nodes", "/stats", "/reputation", "/history", "/balances", "/verdicts"] {
        assert_eq!(get(path).await.status, 403, "{path}");
    }
    let _own = net.node(Vec::new()).await;
    let own = net.coordinator.nodes()[0].id;
    let _others = net.strangers_node(Vec::new()).await;
    let nodes = net.coordinator.nodes();
    let others = nodes.iter().map(|node| node.id).find(|id| *id != own).unwrap();
    let why = get(&format!("/nodes/{own}/why")).await;
    assert_eq!(why.status, 200, "{}", why.text());
    assert_eq!(
        (why.json()["points"].clone(), why.json()["standing"].clone()),
        (json!(100), json!(500))
    );
    assert_eq!(get(&format!("/nodes/{others}/why")).await.status, 404);
}

#[tokio::test]
async fn web_pages_cannot_pose_as_nodes() {
    let net = Net::start().await;
    let node = key(&net.coordinator, net.account, KeyScope::Node).await;
    let bearer = format!("Bearer {node}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("origin", "https://evil.example"),
        ("connection", "close"),
    ];
    let reply = send(net.address, upgrade(&headers)).await;
    assert_eq!((reply.status, reply.error_code()), (403, json!("forbidden")));
    let plain = request("GET", "/nodes/connect", &[("authorization", &bearer)], "");
    assert_eq!(send(net.address, plain).await.status, 400);
}

#[tokio::test]
async fn account_key_buys_api_keys_until_too_many_were_wrong() {
    let net = Net::with_api(ApiSettings::default().with_open_registration(true)).await;
    let account = net.post("/accounts/generate", "").await;
    assert_eq!(account.status, 201, "{}", account.text());
    let digits = account.json()["account_key"].as_str().unwrap().to_owned();
    let ask = |digits: &str, scope: &str| {
        let body = format!(r#"{{"account_key":"{digits}","scope":"{scope}"}}"#);
        send(net.address, request("POST", "/accounts/keys", &[], &body))
    };
    let created = ask(&digits, "inference").await;
    assert_eq!(created.status, 201, "{}", created.text());
    let key = created.json()["key"].as_str().unwrap().to_owned();
    let bearer = format!("Bearer {key}");
    let models = request("GET", "/v1/models", &[("authorization", &bearer)], "");
    assert_eq!(send(net.address, models).await.status, 200);
    assert_eq!(ask(&digits, "admin").await.status, 403);
    for _ in 0..5 {
        assert_eq!(ask("1", "node").await.error_code(), json!("invalid_account_key"));
    }
    let refused = ask(&digits, "node").await;
    assert_eq!((refused.status, refused.error_code()), (429, json!("rate_limit_exceeded")));
    assert!(refused.header("retry-after").is_some());
}

#[tokio::test]
async fn accounts_are_not_opened_unasked() {
    let net = Net::start().await;
    let reply = net.post("/accounts/generate", "").await;
    assert_eq!((reply.status, reply.error_code()), (403, json!("invitation_required")));
}

#[tokio::test]
async fn pages_of_named_origins_alone_may_call() {
    let origins = vec!["https://chat.example".parse().unwrap()];
    let net = Net::with_api(ApiSettings::default().with_cors_origins(origins)).await;
    let preflight = |origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type"),
        ];
        send(net.address, request("OPTIONS", "/v1/chat/completions", &headers, ""))
    };
    let allowed = preflight("https://chat.example").await;
    assert_eq!(allowed.status, 204);
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://chat.example"));
    let headers = allowed.header("access-control-allow-headers").unwrap();
    assert!(headers.contains("authorization") && headers.contains("content-type"), "{headers}");
    let refused = preflight("https://evil.example").await;
    assert_eq!(refused.status, 405);
    assert_eq!(refused.header("access-control-allow-origin"), None);
    let bearer = net.bearer();
    let headers = [bearer.as_pair(), ("origin", "https://chat.example")];
    let models = send(net.address, request("GET", "/v1/models", &headers, "")).await;
    assert_eq!(models.header("access-control-allow-origin"), Some("https://chat.example"));
    assert!(models.header("access-control-expose-headers").unwrap().contains("x-request-id"));
}

#[tokio::test]
async fn node_connection_keeps_its_place_among_the_connections() {
    let settings = ServerSettings::default().with_max_connections(2);
    let net = Net::start_with(settings).await;
    let _node = net.node(vec![]).await;
    let _idle = TcpStream::connect(net.address).await.unwrap();
    let reply = send(net.address, request("GET", "/healthz", &[], "")).await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(reply.json()["error"]["code"], "too_many_connections");
}
