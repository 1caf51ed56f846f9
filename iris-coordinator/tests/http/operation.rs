use std::collections::BTreeSet;
use std::net::SocketAddr;

use iris_coordinator::http::{ServeError, TlsFiles};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::node::SOON;
use super::*;

#[tokio::test]
async fn health_and_readiness_are_open() {
    let net = Net::start().await;
    for path in ["/healthz", "/readyz"] {
        let reply = send(net.address, request("GET", path, &[], "")).await;
        assert_eq!((reply.status, &reply.json()["status"]), (200, &json!("ok")), "{path}");
    }
}

#[tokio::test]
async fn figures_are_for_this_machine_and_for_operators() {
    let net = Net::start().await;
    net.node(vec![]).await;
    let local = send(net.address, request("GET", "/metrics", &[], "")).await;
    assert_eq!(local.status, 200);
    assert!(local.text().contains("iris_nodes 1"), "{}", local.text());
    assert!(local.text().contains("iris_http_requests_total{status=\"1xx\"} 1"));
    assert!(local.text().ends_with("# EOF\n"));
    let relayed = ("x-forwarded-for", "203.0.113.9");
    let reply = send(net.address, request("GET", "/metrics", &[relayed], "")).await;
    assert_eq!(reply.status, 401);
    let bearer = net.bearer();
    let reply = request("GET", "/metrics", &[relayed, bearer.as_pair()], "");
    assert_eq!(send(net.address, reply).await.status, 403);
    let bearer = format!("Bearer {}", net.operator);
    let reply = request("GET", "/metrics", &[relayed, ("authorization", &bearer)], "");
    assert_eq!(send(net.address, reply).await.status, 200);
}

/// The document must name what the server answers: every path and method in it exists, and
/// every path that exists is in it.
#[tokio::test]
async fn description_matches_the_routes() {
    let net = Net::start().await;
    let document = send(net.address, request("GET", "/openapi.json", &[], "")).await.json();
    let described = document["paths"].as_object().unwrap();
    for (path, item) in described {
        let path = path.replace("{id}", "x").replace("{account}", "x");
        let path = path.replace("{month}", "x");
        let methods: BTreeSet<String> =
            item.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
        // A method that no path has is refused with the list of those that this path has.
        let reply = send(net.address, request("PATCH", &path, &[], "")).await;
        assert_eq!(reply.status, 405, "{path}");
        let allowed: BTreeSet<String> = reply
            .header("allow")
            .unwrap()
            .split(',')
            .filter(|method| *method != "HEAD")
            .map(str::to_owned)
            .collect();
        assert_eq!(methods, allowed, "{path}");
    }
    let source = include_str!("../../src/http/mod.rs");
    let routes = source.split(".route(\"").skip(1);
    let routes: BTreeSet<String> =
        routes.map(|rest| rest.split('"').next().unwrap().replace("{*id}", "{id}")).collect();
    assert_eq!(routes, described.keys().cloned().collect());
    check_references(&document, &document);
}

fn check_references(document: &Value, value: &Value) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
            members.values().for_each(|value| check_references(document, value));
        }
        Value::Array(values) => values.iter().for_each(|value| check_references(document, value)),
        _ => {}
    }
}

#[tokio::test]
async fn plain_http_that_others_can_reach_does_not_start() {
    let settings = || ServerSettings::new("0.0.0.0:0".parse().unwrap());
    let refused = Server::bind(coordinator().await, settings()).await.unwrap_err();
    assert!(matches!(refused, ServeError::PlainOffLoopback(_)), "{refused}");
    let proxies = vec!["10.0.0.1".parse().unwrap()];
    let api = ApiSettings::default().with_trusted_proxies(proxies);
    let server = Server::bind(coordinator().await, settings().with_api(api)).await.unwrap();
    assert_ne!(server.local_addr().unwrap().port(), 0);
}

#[tokio::test]
async fn tls_files_that_are_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.pem");
    std::fs::write(&file, "nothing").unwrap();
    let tls = TlsFiles { certificates: file.clone(), key: file };
    let refused = Server::bind(coordinator().await, ServerSettings::default().with_tls(tls)).await;
    assert!(matches!(refused, Err(ServeError::Tls(_))));
}

#[tokio::test]
async fn server_that_stops_lets_running_requests_finish() {
    let mut net = Net::start().await;
    let node = net.node(vec![Step::text("a"), Step::Wait, Step::Finish("stop")]).await;
    let mut stream = TcpStream::connect(net.address).await.unwrap();
    let body = chat_body(r#","stream":true"#);
    stream.write_all(net.post_request("/v1/chat/completions", &body).as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(r#""content":"a""#) {
        assert!(stream.read_buf(&mut seen).await.unwrap() > 0);
    }
    net.stop.take().unwrap().send(()).unwrap();
    // The port is given up at once.
    let refused = async { while TcpStream::connect(net.address).await.is_ok() {} };
    timeout(SOON, refused).await.unwrap();
    node.open_gate();
    timeout(SOON, stream.read_to_end(&mut seen)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&seen).contains("data: [DONE]"));
    timeout(SOON, net.server).await.unwrap().unwrap();
}

#[tokio::test]
async fn server_that_stops_does_not_wait_for_ever() {
    let settings = ServerSettings::default().with_drain(Duration::from_millis(50));
    let mut net = Net::start_with(settings).await;
    let node = net.node(vec![Step::Wait]).await;
    let mut stream = TcpStream::connect(net.address).await.unwrap();
    let request = net.post_request("/v1/chat/completions", &chat_body(""));
    stream.write_all(request.as_bytes()).await.unwrap();
    let arrived = async {
        while node.asked.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, arrived).await.unwrap();
    net.stop.take().unwrap().send(()).unwrap();
    timeout(SOON, net.server).await.unwrap().unwrap();
    let mut rest = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn callers_beyond_the_last_place_are_told_so_and_others_served() {
    let net = Net::start_with(ServerSettings::default().with_max_connections(2)).await;
    let mut idle: Vec<TcpStream> = Vec::new();
    let full: SocketAddr = net.address;
    for _ in 0..2 {
        idle.push(TcpStream::connect(full).await.unwrap());
    }
    let reply = send(full, request("GET", "/healthz", &[], "")).await;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.header("retry-after"), Some("10"));
    idle.pop();
    let served =
        async { while send(full, request("GET", "/healthz", &[], "")).await.status != 200 {} };
    timeout(SOON, served).await.unwrap();
}
