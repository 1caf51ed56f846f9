//! Numbers at their limits.

use super::*;
use crate::chat::ANSWER;

#[tokio::test]
async fn numbers_at_their_limits_are_taken_or_refused_by_name() {
    let net = Net::start().await;
    net.node(vec![Step::whole(ANSWER), Step::Finish("stop")]).await;
    for number in ["0", "-1", "-9223372036854775808", "1000", "null"] {
        let reply = net.chat(&format!(r#","max_tokens":{number}"#)).await;
        assert_eq!(reply.status, 200, "{number}: {}", reply.text());
    }
    for number in ["2147483648", "4294967295"] {
        let reply = net.chat(&format!(r#","max_tokens":{number}"#)).await;
        let code = json!("context_length_exceeded");
        assert_eq!((reply.status, reply.error_code()), (400, code), "{number}");
    }
    for number in ["4294967296", "9007199254740993", "9223372036854775808", "1e400", "1.5", "\"7\""]
    {
        for name in ["max_tokens", "max_completion_tokens"] {
            let reply = net.chat(&format!(r#","{name}":{number}"#)).await;
            assert_eq!((reply.status, reply.error_code()), (400, json!(null)), "{number}");
            assert_eq!(reply.json()["error"]["param"], name);
        }
    }
    for number in ["NaN", "Infinity", "-", "01", "1.", ".5", "1e", "0x7", "+1"] {
        let reply = net.chat(&format!(r#","max_tokens":{number}"#)).await;
        assert_eq!((reply.status, reply.error_code()), (400, json!(null)), "{number}");
    }
}

#[tokio::test]
async fn deadlines_at_their_limits_are_taken_or_refused() {
    let net = Net::start().await;
    let submit = |members: &str| {
        let model = Node::MODEL;
        let body = format!(r#"{{"model":"{model}","prompt":"hi"{members}}}"#);
        let net = &net;
        async move { net.post("/inference", &body).await }
    };
    for number in ["0", "1", "18446744073709551615"] {
        let reply = submit(&format!(r#","deadline_ms":{number}"#)).await;
        assert_eq!(reply.status, 202, "{number}: {}", reply.text());
        let path = format!("/inference/{}", reply.json()["id"].as_str().unwrap());
        let explained = net.get(&path).await;
        assert_eq!(explained.status, 200, "{}", explained.text());
    }
    for number in ["-1", "1.5", "18446744073709551616", "1e400", "\"1\""] {
        let reply = submit(&format!(r#","deadline_ms":{number}"#)).await;
        assert_eq!((reply.status, reply.error_code()), (400, json!(null)), "{number}");
    }
}
