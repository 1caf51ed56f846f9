use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::node::SOON;
use super::*;

mod answers;
mod door;
mod framing;
mod names;
mod numbers;

#[tokio::test]
async fn malformed_bodies_are_refused_with_the_member_at_fault() {
    let net = Net::start().await;
    let deep = format!(r#"{{"model":"m","x":{}"#, "[".repeat(100_000));
    let cases = [
        ("{", None),
        ("\"a\"", None),
        (deep.as_str(), None),
        (r#"{"model":"m","model":"n","messages":[{}]}"#, None),
        (r#"{"model":"iris/family:-","messages":[{}]}"#, Some("model")),
        (r#"{"model":"m"}"#, Some("messages")),
        (r#"{"model":"m","messages":[{}],"stream":1}"#, Some("stream")),
    ];
    for (body, param) in cases {
        let reply = net.post("/v1/chat/completions", body).await;
        assert_eq!((reply.status, reply.error_code()), (400, json!(null)));
        assert_eq!(reply.json()["error"]["param"], json!(param));
        assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
    }
}

#[tokio::test]
async fn body_that_is_not_text_is_refused() {
    let net = Net::start().await;
    let mut request = net.post_request("/v1/chat/completions", "xx").into_bytes();
    let end = request.len();
    request[end - 2..].copy_from_slice(b"\xff\xfe");
    assert_eq!(send(net.address, request).await.status, 400);
}

#[tokio::test]
async fn unknown_paths_and_methods_have_openai_errors() {
    let net = Net::start().await;
    for path in ["/v1/nothing", "/", "/v1/chat/completions/", "/v1/../etc/passwd"] {
        let reply = net.get(path).await;
        assert_eq!((reply.status, reply.error_code()), (404, json!("not_found")), "{path}");
    }
    let reply = net.get("/v1/chat/completions").await;
    assert_eq!((reply.status, reply.error_code()), (405, json!("method_not_allowed")));
    assert_eq!(reply.header("allow"), Some("POST"));
    let reply = net.post("/inference/x", "{}").await;
    assert_eq!((reply.status, reply.error_code()), (405, json!("method_not_allowed")));
    let allow = reply.header("allow").unwrap();
    assert!(allow.contains("GET") && allow.contains("DELETE"), "{allow}");
}

#[tokio::test]
async fn bodies_beyond_the_limit_are_refused_announced_or_not() {
    let net = Net::with_api(ApiSettings::default().with_body_limit(1000)).await;
    let bearer = net.bearer();
    let long = "x".repeat(1001);
    let reply = net.post("/v1/chat/completions", &long).await;
    assert_eq!((reply.status, reply.error_code()), (413, json!("request_too_large")));
    let chunk = "x".repeat(600);
    let chunked = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: iris\r\nauthorization: {}\r\n\
         transfer-encoding: chunked\r\n\r\n258\r\n{chunk}\r\n258\r\n{chunk}\r\n0\r\n\r\n",
        bearer.0
    );
    let reply = send(net.address, chunked).await;
    assert_eq!((reply.status, reply.error_code()), (413, json!("request_too_large")));
}

#[tokio::test]
async fn upload_refused_in_its_midst_is_let_out_and_finds_its_answer() {
    let net = Net::with_api(ApiSettings::default().with_body_limit(1000)).await;
    let upload = "x".repeat(8 << 20);
    let (path, bearer) = ("/v1/chat/completions", net.bearer());
    let too_large = request("POST", path, &[bearer.as_pair()], &upload);
    for (request, status) in [(too_large, 413), (request("POST", path, &[], &upload), 401)] {
        let mut stream = TcpStream::connect(net.address).await.unwrap();
        // Some clients report a broken upload and never look at the answer.
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(client::read(stream).await.status, status);
    }
}

#[tokio::test]
async fn compressed_bodies_are_refused() {
    let net = Net::start().await;
    let bearer = net.bearer();
    let headers = [bearer.as_pair(), ("content-encoding", "gzip")];
    let reply = send(net.address, request("POST", "/v1/chat/completions", &headers, "bomb")).await;
    assert_eq!((reply.status, reply.error_code()), (415, json!("unsupported_media_type")));
}

#[tokio::test]
async fn heads_beyond_the_limits_are_refused() {
    let net = Net::start().await;
    let long = "x".repeat(17 << 10);
    let reply = send(net.address, request("GET", "/healthz", &[("x-long", &long)], "")).await;
    assert_eq!(reply.status, 431);
    let many: Vec<_> = (0..120).map(|_| ("x-a", "b")).collect();
    let reply = send(net.address, request("GET", "/healthz", &many, "")).await;
    assert_eq!(reply.status, 431);
    let reply = send(net.address, "\x00\x01\x02 nonsense\r\n\r\n").await;
    assert_eq!(reply.status, 400);
}

#[tokio::test]
async fn connection_that_asks_nothing_is_closed() {
    let settings = ServerSettings::default().with_first_request(Duration::from_millis(50));
    let net = Net::start_with(settings).await;
    let mut silent = TcpStream::connect(net.address).await.unwrap();
    let mut trickling = TcpStream::connect(net.address).await.unwrap();
    trickling.write_all(b"GET /healthz HTTP/1.1\r\nx-a: ").await.unwrap();
    for stream in [&mut silent, &mut trickling] {
        let mut rest = Vec::new();
        timeout(SOON, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert!(rest.is_empty());
    }
    assert_eq!(net.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn body_that_never_comes_is_given_up() {
    let timeout = Duration::from_millis(50);
    let net = Net::with_api(ApiSettings::default().with_body_timeout(timeout)).await;
    let whole = net.post_request("/v1/chat/completions", &chat_body(""));
    let mut stream = TcpStream::connect(net.address).await.unwrap();
    stream.write_all(&whole.as_bytes()[..whole.len() - 5]).await.unwrap();
    let reply = tokio::time::timeout(SOON, client::read(&mut stream)).await.unwrap();
    assert_eq!((reply.status, reply.error_code()), (408, json!("body_timeout")));
}

#[tokio::test]
async fn bodies_of_more_values_than_any_task_has_are_refused() {
    let net = Net::start().await;
    let with = |count: usize| {
        let zeros = vec!["0"; count].join(",");
        format!(r#"{{"model":"m","prompt":"hi, [{{","x":[{zeros}]}}"#)
    };
    let reply = net.post("/inference", &with(131_072)).await;
    assert_eq!((reply.status, reply.error_code()), (400, json!(null)));
    assert_eq!(net.post("/inference", &with(131_000)).await.status, 202);
}

#[tokio::test]
async fn long_bodies_that_find_no_room_are_told_to_come_back() {
    let net = Net::with_api(ApiSettings::default().with_body_memory(200 << 10)).await;
    let path = "/v1/chat/completions";
    let long = chat_body(&format!(r#","x":"{}""#, "x".repeat(150 << 10)));
    let whole = net.post_request(path, &long);
    let (most, rest) = whole.split_at(whole.len() - 5);
    let mut held = TcpStream::connect(net.address).await.unwrap();
    held.write_all(most.as_bytes()).await.unwrap();
    let refused = async {
        loop {
            let reply = net.post(path, &long).await;
            if reply.status == 503 {
                return reply;
            }
            assert_eq!(reply.status, 404, "what was sent is on its way: {}", reply.text());
        }
    };
    let refused = timeout(SOON, refused).await.unwrap();
    assert_eq!(refused.error_code(), "unavailable");
    assert_eq!(refused.header("retry-after"), Some("10"));
    assert_eq!(net.chat("").await.status, 404, "short ones need no room");
    held.write_all(rest.as_bytes()).await.unwrap();
    assert_eq!(client::read(held).await.status, 404);
    let taken = async { while net.post(path, &long).await.status != 404 {} };
    timeout(SOON, taken).await.unwrap();
}
