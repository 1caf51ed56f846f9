//! Names that would hide or forge something where they are printed.

use super::*;

#[tokio::test]
async fn names_that_would_forge_a_log_line_find_no_model() {
    let net = Net::start().await;
    for name in ["a\\nb", "../../etc", "x\\u202ey", "%27%20OR%201=1", "\\u3164", "\\ud83d\\ude00"] {
        let body = format!(r#"{{"model":"{name}","messages":[{{}}]}}"#);
        let reply = net.post("/v1/chat/completions", &body).await;
        assert_eq!((reply.status, reply.error_code()), (404, json!("model_not_found")), "{name}");
    }
    let lone = r#"{"model":"\ud800","messages":[{}]}"#;
    let reply = net.post("/v1/chat/completions", lone).await;
    assert_eq!((reply.status, reply.error_code()), (400, json!(null)));
}

#[tokio::test]
async fn labels_of_keys_are_printable() {
    let net = Net::start().await;
    let account = net.coordinator.accounts().create_account().await.unwrap();
    let digits = account.account_key.expose();
    let ask = |label: &str| {
        let body = format!(r#"{{"account_key":"{digits}","scope":"node","label":{label}}}"#);
        let net = &net;
        async move { net.post("/accounts/keys", &body).await }
    };
    for label in [r#""a\nb""#, r#""\u202e""#, r#""\u0000""#, &format!("\"{}\"", "x".repeat(65))] {
        let reply = ask(label).await;
        assert_eq!(reply.status, 400, "{label}: {}", reply.text());
        assert!(!reply.text().contains(digits));
    }
    assert_eq!(ask(r#""Küche ❤️""#).await.status, 201);
}

#[tokio::test]
async fn paths_that_are_no_text_name_nothing() {
    let net = Net::start().await;
    for id in ["%ff", "%00", "%", "%zz", "..%2f..%2fetc", &"a".repeat(8000)] {
        for path in [format!("/inference/{id}"), format!("/inference/{id}/explain")] {
            let reply = net.get(&path).await;
            assert_eq!((reply.status, reply.error_code()), (404, json!("not_found")), "{id:.20}");
        }
    }
    let bearer = net.bearer();
    let headers = [bearer.as_pair()];
    let reply = send(net.address, request("DELETE", "/inference/%ff", &headers, "")).await;
    assert_eq!((reply.status, reply.error_code()), (404, json!("not_found")));
}

#[tokio::test]
async fn idempotency_keys_are_short_and_printable() {
    let net = Net::start().await;
    let body = r#"{"model":"m","prompt":"hi"}"#;
    for key in ["", "caf\u{e9}", &"k".repeat(256)] {
        let bearer = net.bearer();
        let headers = [bearer.as_pair(), ("idempotency-key", key)];
        let reply = send(net.address, request("POST", "/inference", &headers, body)).await;
        assert_eq!((reply.status, reply.error_code()), (400, json!(null)), "{key:.8}");
        assert_eq!(reply.json()["error"]["param"], "Idempotency-Key");
    }
}
