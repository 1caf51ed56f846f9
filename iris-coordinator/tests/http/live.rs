//! The network as it changes.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::node::SOON;
use super::*;

/// Somebody who reads what is told, as it comes.
struct Watcher {
    stream: TcpStream,
    read: String,
}

impl Watcher {
    async fn begin(net: &Net, key: &str, headers: &[(&str, &str)]) -> Self {
        let bearer = format!("Bearer {key}");
        let headers: Vec<_> =
            headers.iter().copied().chain([("authorization", bearer.as_str())]).collect();
        // An answer to this version is not cut into chunks.
        let asked = request("GET", "/live", &headers, "").replace("HTTP/1.1", "HTTP/1.0");
        let mut stream = TcpStream::connect(net.address).await.unwrap();
        stream.write_all(asked.as_bytes()).await.unwrap();
        Self { stream, read: String::new() }
    }

    async fn open(net: &Net, key: &str) -> (Self, Value) {
        let mut watcher = Self::begin(net, key, &[]).await;
        let head = watcher.part("\r\n\r\n").await.unwrap();
        assert!(head.starts_with("HTTP/1.0 200"), "{head}");
        let hello = watcher.next().await;
        assert_eq!(hello["type"], "hello", "{hello}");
        (watcher, hello)
    }

    /// Returns what comes before `end`; `None` where the stream is over.
    async fn part(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some(at) = self.read.find(end) {
                let part = self.read[..at].to_owned();
                self.read.drain(..at + end.len());
                return Some(part);
            }
            let mut bytes = [0; 4096];
            let count = timeout(SOON, self.stream.read(&mut bytes)).await.unwrap().unwrap_or(0);
            if count == 0 {
                return None;
            }
            self.read.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
    }

    async fn next(&mut self) -> Value {
        loop {
            let event = self.part("\n\n").await.unwrap();
            if let Some(data) = event.strip_prefix("data: ") {
                return serde_json::from_str(data).unwrap();
            }
        }
    }

    /// Returns the first thing that is told of a kind and is what a test waits for.
    async fn wait_for(&mut self, kind: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        loop {
            let said = self.next().await;
            if said["type"] == kind && is_it(&said) {
                return said;
            }
        }
    }
}

fn answering() -> Vec<Step> {
    vec![Step::whole(super::chat::ANSWER), Step::Finish("stop")]
}

async fn stranger(net: &Net) -> String {
    let other = net.coordinator.accounts().create_account().await.unwrap().account;
    key(&net.coordinator, other, KeyScope::Inference).await
}

#[tokio::test]
async fn members_see_the_network_and_each_its_own_tasks() {
    let net = Net::start().await;
    let _node = net.node(answering()).await;
    let id = net.coordinator.nodes()[0].id.to_string();
    let (mut own, hello) = Watcher::open(&net, &net.user).await;
    assert_eq!(hello["stats"], net.get("/stats").await.json());
    assert_eq!(hello["nodes"], net.get("/nodes").await.json()["nodes"]);
    let (mut other, _) = Watcher::open(&net, &stranger(&net).await).await;

    let asked = net.chat("").await;
    let task = asked.header("x-iris-task").unwrap();
    let (mut events, mut done) = (Vec::new(), false);
    while !done {
        let said = own.wait_for("tasks", |_| true).await;
        events.extend(said["events"].as_array().unwrap().clone());
        done = events.iter().any(|event| event["event"] == "over");
    }
    assert_eq!(events.len(), 2, "{events:?}");
    let [assigned, over] = &events[..] else { panic!() };
    assert_eq!((&assigned["event"], &assigned["task"]), (&json!("assigned"), &json!(task)));
    assert_eq!((&assigned["node"], &assigned["model"]), (&json!(id), &json!(Node::MODEL)));
    assert_eq!(assigned["reasons"][0]["reason"], "chosen", "{assigned}");
    let explained = net.get(&format!("/inference/{task}/explain")).await.json();
    assert_eq!(assigned["reasons"], explained["reasons"]);
    assert_eq!(
        (&over["task"], &over["state"], &over["node"]),
        (&json!(task), &json!("finished"), &json!(id))
    );
    assert_eq!(over["completion_tokens"], 2);

    // The other one learns that the network did something, and nothing of the task.
    let said = other.wait_for("network", |said| said["stats"]["finished"] == 1).await;
    assert_eq!(said["stats"]["tokens"], 2, "{said}");
    let everything = format!("{said}{}", other.read);
    assert!(!everything.contains(task) && !everything.contains("\"tasks\""), "{everything}");
}

#[tokio::test]
async fn nodes_are_told_when_they_come_change_and_go() {
    let net = Net::start().await;
    let (mut watcher, hello) = Watcher::open(&net, &net.user).await;
    assert_eq!(hello["nodes"], json!([]));
    let node = net.node(answering()).await;
    let said = watcher.wait_for("network", |said| said["nodes"].is_array()).await;
    let id = net.coordinator.nodes()[0].id.to_string();
    assert_eq!(said["nodes"][0]["id"], json!(id), "{said}");
    assert_eq!((&said["stats"]["nodes"], &said["stats"]["slots"]), (&json!(1), &json!(2)));
    assert_eq!(net.chat("").await.status, 200);
    let said = watcher.wait_for("network", |said| said["pulses"].is_array()).await;
    let pulse = &said["pulses"][0];
    assert_eq!((&pulse[0], pulse.as_array().unwrap().len()), (&json!(id), 4), "{said}");
    assert!(said.get("nodes").is_none(), "who only works is not described anew: {said}");
    node.leave();
    let said = watcher.wait_for("network", |said| said["gone"].is_array()).await;
    assert_eq!((&said["gone"], &said["stats"]["nodes"]), (&json!([id]), &json!(0)));
}

#[tokio::test]
async fn watching_takes_a_key_that_may_look() {
    let net = Net::start().await;
    let none = send(net.address, request("GET", "/live", &[], "")).await;
    assert_eq!((none.status, none.error_code()), (401, json!("invalid_api_key")));
    let key = key(&net.coordinator, net.account, KeyScope::Node).await;
    let bearer = format!("Bearer {key}");
    let refused =
        send(net.address, request("GET", "/live", &[("authorization", &bearer)], "")).await;
    assert_eq!(refused.status, 403);
}

#[tokio::test]
async fn times_of_everybody_are_for_those_who_may_read_the_metrics() {
    let proxies = vec!["127.0.0.1".parse().unwrap()];
    let net = Net::with_api(ApiSettings::default().with_trusted_proxies(proxies)).await;
    for (key, sees) in [(&net.user, false), (&net.operator, true)] {
        let away = [("x-forwarded-for", "192.0.2.7")];
        let mut watcher = Watcher::begin(&net, key, &away).await;
        watcher.part("\r\n\r\n").await.unwrap();
        assert_eq!(watcher.next().await["sees_times"], sees);
        let bearer = format!("Bearer {key}");
        let headers = [away[0], ("authorization", bearer.as_str())];
        let metrics = send(net.address, request("GET", "/metrics", &headers, "")).await;
        assert_eq!(metrics.status == 200, sees);
    }
}

#[tokio::test]
async fn account_watches_so_often_and_no_oftener() {
    let net = Net::start().await;
    let mut watching = Vec::new();
    for _ in 0..8 {
        watching.push(Watcher::open(&net, &net.user).await.0);
    }
    let bearer = net.bearer();
    let ask = || request("GET", "/live", &[bearer.as_pair()], "");
    let refused = send(net.address, ask()).await;
    assert_eq!((refused.status, refused.error_code()), (429, json!("rate_limit_exceeded")));
    Watcher::open(&net, &stranger(&net).await).await;
    watching.pop();
    // The place is free as soon as the server has seen that its reader left.
    let again = async {
        loop {
            let mut watcher = Watcher::begin(&net, &net.user, &[]).await;
            if watcher.part("\r\n\r\n").await.unwrap().contains(" 200 ") {
                break;
            }
        }
    };
    timeout(SOON, again).await.unwrap();
}

#[tokio::test]
async fn stream_ends_when_the_server_stops() {
    let mut net = Net::start().await;
    let (mut watcher, _) = Watcher::open(&net, &net.user).await;
    net.stop.take().unwrap().send(()).unwrap();
    while watcher.part("\n\n").await.is_some() {}
    timeout(SOON, net.server).await.unwrap().unwrap();
}
