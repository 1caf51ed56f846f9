//! What is asked of Docker, heard by a stub that answers as its API documents.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use iris_node::sandbox::{Container, PinnedImage, Sandbox, SandboxError};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::{SOON, is_empty, spec};

/// The status of an answer that is not given.
const NEVER: u16 = 0;

/// A request's line, and its body.
type Asked = (String, Value);

struct Stub {
    folder: TempDir,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Stub {
    /// Answers by method and path; the rest is what a working engine says.
    fn begin(answer: fn(&str) -> Option<(u16, Value)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let listener = UnixListener::bind(folder.path().join("docker.sock")).unwrap();
        let heard = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(BufReader::new(stream), answer, Arc::clone(&heard)));
            }
        });
        Self { folder, asked }
    }

    fn sandbox(&self) -> Container {
        let socket = self.folder.path().join("docker.sock");
        Container::new(socket, image(), "me", self.sockets())
    }

    fn sockets(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// Returns the bodies of what was asked by this method and path.
    fn asked(&self, line: &str) -> Vec<Value> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(asked, _)| asked == line).map(|(_, body)| body.clone()).collect()
    }
}

fn image() -> PinnedImage {
    format!("llama.cpp@sha256:{}", "0a".repeat(32)).parse().unwrap()
}

async fn serve(
    mut stream: BufReader<UnixStream>,
    answer: fn(&str) -> Option<(u16, Value)>,
    heard: Arc<Mutex<Vec<Asked>>>,
) -> Option<()> {
    loop {
        let mut request = String::new();
        while !request.ends_with("\r\n\r\n") {
            if stream.read_line(&mut request).await.ok()? == 0 {
                return None;
            }
        }
        let length = request.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
        });
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).await.ok()?;
        let mut words = request.split(' ');
        let (method, path) = (words.next()?, words.next()?);
        let path = path.split('?').next()?.trim_start_matches("/v1.41");
        let line = format!("{method} {path}");
        let body = serde_json::from_slice(&body).unwrap_or_default();
        heard.lock().unwrap().push((line.clone(), body));
        if line.ends_with("/attach") {
            let upgraded = "HTTP/1.1 101 UPGRADED\r\nContent-Type: \
                application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
            stream.write_all(upgraded.as_bytes()).await.ok()?;
            // It prints nothing.
            let _ = stream.read(&mut [0]).await;
            return None;
        }
        let (status, body) = answer(&line).unwrap_or_else(|| usual(&line));
        if status == NEVER {
            return std::future::pending().await;
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let length = body.len();
        let reply = format!(
            "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {length}\
             \r\n\r\n{body}"
        );
        stream.write_all(reply.as_bytes()).await.ok()?;
    }
}

fn info(security: &str, limits: bool) -> Value {
    json!({
        "SecurityOptions": [security],
        "MemoryLimit": limits,
        "CpuCfsQuota": limits,
        "PidsLimit": limits,
    })
}

fn usual(line: &str) -> (u16, Value) {
    match line {
        "GET /containers/json" => (200, json!([])),
        "GET /info" => (200, info("name=seccomp,profile=builtin", true)),
        "POST /containers/create" => (201, json!({"Id": "c1", "Warnings": []})),
        line if line.starts_with("GET /images/") => (200, json!({"Id": "sha256:1d"})),
        _ => (204, Value::Null),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_is_asked_for_a_sandbox() {
    let stub = Stub::begin(|_| None);
    let model = stub.folder.path().canonicalize().unwrap().join("m.gguf");
    std::fs::write(&model, "weights").unwrap();
    let running = stub.sandbox().with_model(&model).start(&spec()).await.unwrap();
    let [body] = &stub.asked("POST /containers/create")[..] else { panic!("one is made") };
    let host = &body["HostConfig"];
    assert_eq!(body["Image"], "sha256:1d", "what was looked at is what runs");
    assert_eq!(body["Cmd"][0], "--model");
    assert_eq!(body["Labels"]["iris.owner"], "me");
    assert!(body.get("Entrypoint").is_none_or(Value::is_null), "the image's own");
    for (name, value) in [
        ("NetworkMode", json!("none")),
        ("ReadonlyRootfs", json!(true)),
        ("CapDrop", json!(["ALL"])),
        ("SecurityOpt", json!(["no-new-privileges", "label=disable"])),
        ("Memory", json!(64 << 20)),
        ("MemorySwap", json!(64 << 20)),
        ("NanoCpus", json!(1_000_000_000)),
        ("LogConfig", json!({"Type": "none"})),
    ] {
        assert_eq!(host[name], value, "{name} in {host:#}");
    }
    for absent in ["Binds", "PortBindings", "Privileged", "CapAdd", "Devices", "DeviceRequests"] {
        assert!(host.get(absent).is_none_or(Value::is_null), "{absent} in {host:#}");
    }
    let [model_mount, shared] = &host["Mounts"].as_array().unwrap()[..] else { panic!("{host:#}") };
    assert_eq!((&shared["Target"], &shared["ReadOnly"]), (&json!("/run/iris"), &json!(false)));
    let expected =
        json!({"Type": "bind", "Source": model, "Target": "/models/m.gguf", "ReadOnly": true});
    assert_eq!(*model_mount, expected, "and nothing beside it");
    drop(running);
    assert_eq!(stub.asked("DELETE /containers/c1").len(), 1, "it is removed when it is dropped");
    assert!(is_empty(&stub.sockets()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_without_root_runs_servers_as_its_user() {
    let stub =
        Stub::begin(|line| (line == "GET /info").then(|| (200, info("name=rootless", true))));
    drop(stub.sandbox().start(&spec()).await.unwrap());
    assert_eq!(stub.asked("POST /containers/create")[0]["User"], "0:0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_engine_refuses_is_told_and_leaves_nothing() {
    let stub = Stub::begin(|line| {
        let message = "could not select device driver \"nvidia\" with capabilities: [[gpu]]";
        (line == "POST /containers/c1/start").then(|| (500, json!({"message": message})))
    });
    let sandbox = stub.sandbox().with_gpus("all");
    let error = sandbox.start(&spec()).await.unwrap_err();
    assert!(
        matches!(&error, SandboxError::Engine(said) if said.contains("device driver")),
        "{error:?}"
    );
    let cards = stub.asked("POST /containers/create")[0]["HostConfig"]["DeviceRequests"][0].clone();
    assert_eq!((&cards["Driver"], &cards["Count"]), (&json!("nvidia"), &json!(-1)));
    assert_eq!(cards["Capabilities"], json!([["gpu"]]));
    assert_eq!(stub.asked("DELETE /containers/c1").len(), 1);

    drop(sandbox);
    let named = stub.sandbox().with_gpus("nvidia.com/gpu=0");
    named.start(&spec()).await.unwrap_err();
    let cards = stub.asked("POST /containers/create")[1]["HostConfig"]["DeviceRequests"][0].clone();
    assert_eq!(
        (&cards["Driver"], &cards["DeviceIDs"]),
        (&json!("cdi"), &json!(["nvidia.com/gpu=0"]))
    );

    drop(named);
    let gone = Container::new("/no/such.sock", image(), "me", stub.sockets());
    assert!(matches!(gone.start(&spec()).await.unwrap_err(), SandboxError::Engine(_)));
    assert!(is_empty(&stub.sockets()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_cannot_limit_a_server_runs_none() {
    let stub = Stub::begin(|line| (line == "GET /info").then(|| (200, info("", false))));
    let error = stub.sandbox().start(&spec()).await.unwrap_err();
    assert!(matches!(error, SandboxError::NoLimit("memory")), "{error:?}");
    assert!(stub.asked("POST /containers/create").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_making_is_cut_off_is_removed() {
    let stub =
        Stub::begin(|line| (line == "POST /containers/create").then_some((NEVER, Value::Null)));
    let sandbox = stub.sandbox();
    let spec = spec();
    let mut start = sandbox.start(&spec);
    while stub.asked("POST /containers/create").is_empty() {
        let _ = tokio::time::timeout(Duration::from_millis(1), &mut start).await;
    }
    drop(start);
    let asked = stub.asked.lock().unwrap();
    let removed = asked.iter().filter(|(line, _)| line.starts_with("DELETE /containers/iris-"));
    assert_eq!(removed.count(), 1, "by the name that it was to have");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sandbox_of_an_owner_leaves_the_first_alone() {
    let stub = Stub::begin(|line| {
        let first = json!([{"Id": "c1", "Labels": {"iris.owner": "me", "iris.sandbox": "1"}}]);
        (line == "GET /containers/json").then_some((200, first))
    });
    let first = stub.sandbox();
    let running = first.start(&spec()).await.unwrap();
    let removed = || stub.asked("DELETE /containers/c1").len();
    let before = removed();
    let error = stub.sandbox().start(&spec()).await.unwrap_err();
    assert!(matches!(error, SandboxError::Taken(_)), "{error:?}");
    drop(first);
    stub.sandbox().start(&spec()).await.unwrap_err();
    assert_eq!(removed(), before, "its server runs on");
    drop(running);
    drop(stub.sandbox().start(&spec()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_left_that_was_killed_is_removed() {
    let stub = Stub::begin(|line| {
        let left = json!([{"Id": "old", "Labels": {"iris.owner": "me", "iris.sandbox": "0"}}]);
        (line == "GET /containers/json").then_some((200, left))
    });
    std::fs::create_dir_all(stub.sockets().join("old-socket")).unwrap();
    drop(stub.sandbox().start(&spec()).await.unwrap());
    assert_eq!(stub.asked("DELETE /containers/old").len(), 1);
    assert!(is_empty(&stub.sockets()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_tells_nothing_for_a_while_has_not_ended_the_server() {
    static LOOKS: AtomicUsize = AtomicUsize::new(0);
    let stub = Stub::begin(|line| match line {
        "POST /containers/c1/wait" => Some((500, json!({"message": "later"}))),
        "GET /containers/c1/json" => match LOOKS.fetch_add(1, Ordering::Relaxed) {
            0 => Some((200, json!({"State": {"Running": true, "ExitCode": 0}}))),
            1 => Some((500, json!({"message": "later"}))),
            _ => {
                let state = json!({"Running": false, "ExitCode": 137, "OOMKilled": true});
                Some((200, json!({"State": state})))
            }
        },
        _ => None,
    });
    let mut running = stub.sandbox().start(&spec()).await.unwrap();
    let ended = tokio::time::timeout(SOON, running.ended()).await.unwrap();
    assert_eq!((ended.code, ended.out_of_memory), (Some(137), true));
    assert_eq!(ended.to_string(), "it took more memory than it may");
    assert_eq!(LOOKS.load(Ordering::Relaxed), 3);
    drop(running);
    assert_eq!(stub.asked("DELETE /containers/c1").len(), 1, "it is removed once");
}
