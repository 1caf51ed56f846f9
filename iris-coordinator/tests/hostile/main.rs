//! A coordinator in a process of its own, attacked while healthy callers and a healthy node go on:
//! they are served as before, within a generous factor, and the process keeps its memory.
//!
//! `cargo test -p iris-coordinator --test hostile -- --nocapture` prints the figures.
#![cfg(all(target_os = "linux", feature = "cli"))]
#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::client::{request, send};
use self::siege::Siege;
use self::target::Target;

#[allow(dead_code, reason = "the other tests use the rest")]
#[path = "../http/client.rs"]
mod client;
mod door;
#[allow(dead_code, reason = "the other tests use the rest")]
#[path = "../http/node.rs"]
mod node;
mod siege;
mod target;

/// What one attack costs is measured without another beside it.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// Does something again and again, in `count` tasks, until it is dropped.
fn flood<F>(count: usize, deed: impl Fn(usize) -> F + Clone + Send + 'static) -> JoinSet<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for task in 0..count {
        let deed = deed.clone();
        tasks.spawn(async move {
            for round in 0_usize.. {
                deed(task + round * count).await;
            }
        });
    }
    tasks
}

/// Ends a flood none of whose deeds failed.
fn ebb(mut tasks: JoinSet<()>) {
    while let Some(ended) = tasks.try_join_next() {
        ended.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_idle_sockets_hold_nobody_up() {
    let _alone = alone().await;
    let target = Target::start().await;
    let siege = Siege::lay(&target).await;
    let count = target::open_files().saturating_sub(300).min(3000);
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        sockets.push(TcpStream::connect(target.address).await.unwrap());
    }
    siege.stand(&format!("{count} idle sockets"), 96).await;
    // Those who say nothing are sent away.
    let mut rest = Vec::new();
    timeout(node::SOON, sockets[0].read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_trickle_in_hold_nobody_up() {
    let _alone = alone().await;
    let target = Target::start().await;
    let siege = Siege::lay(&target).await;
    let address = target.address;
    let trickle = flood(500, move |_| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET /v1/models HTTP/1.1\r\nx-long: {}", "a".repeat(8 << 10));
        for piece in head.as_bytes().chunks(16) {
            if stream.write_all(piece).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    });
    siege.stand("500 heads that trickle in", 64).await;
    ebb(trickle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_trickle_in_take_what_they_send_and_no_more() {
    let _alone = alone().await;
    let target = Target::start().await;
    let siege = Siege::lay(&target).await;
    let head = request("POST", "/v1/chat/completions", &[target.bearer()], "");
    let head = head.replace("content-length: 0", "content-length: 31457280");
    let mut trickle = JoinSet::new();
    for _ in 0..300 {
        let (address, head) = (target.address, head.clone());
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all("x".repeat(32 << 10).as_bytes()).await.unwrap();
        trickle.spawn(async move {
            while stream.write_all(b"x").await.is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
        });
    }
    siege.stand("300 bodies of 30 MiB that trickle in", 128).await;
    ebb(trickle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_of_strangers_are_not_kept() {
    let _alone = alone().await;
    let target = Target::start().await;
    let siege = Siege::lay(&target).await;
    let address = target.address;
    let upload: std::sync::Arc<str> =
        request("POST", "/v1/chat/completions", &[], &"x".repeat(8 << 20)).into();
    let uploads = flood(4, move |_| {
        let upload = std::sync::Arc::clone(&upload);
        async move { assert_eq!(send(address, &*upload).await.status, 401) }
    });
    siege.stand("uploads of 8 MiB without a key", 64).await;
    ebb(uploads);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_would_grow_when_read_are_refused() {
    let _alone = alone().await;
    let target = Target::start().await;
    let siege = Siege::lay(&target).await;
    let zeros = "0,".repeat(3 << 20);
    let cases = [
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{zeros}0]}}]}}"#),
        format!(r#"{{"model":"m","prompt":"a","x":[{zeros}0]}}"#),
        format!(r#"{{"model":"m","prompt":"a","messages":[{}{{}}]}}"#, "{},".repeat(2 << 20)),
        format!(r#"{{"model":"m","prompt":"a","x":{}"#, "[".repeat(6 << 20)),
    ];
    for body in &cases {
        let reply = send(target.address, request("POST", "/inference", &[target.bearer()], body));
        let reply = reply.await;
        assert_eq!((reply.status, reply.error_code()), (400, json!(null)), "{body:.60}");
    }
    let requests: Vec<std::sync::Arc<str>> = cases
        .iter()
        .map(|body| request("POST", "/inference", &[target.bearer()], body).into())
        .collect();
    let address = target.address;
    let posts = flood(2, move |n| {
        let request = std::sync::Arc::clone(&requests[n % requests.len()]);
        async move { assert_eq!(send(address, &*request).await.status, 400) }
    });
    // As values they would take thirty times their own size.
    siege.stand("bodies of 6 MiB with 3 million values", 96).await;
    ebb(posts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_malformed_requests_holds_nobody_up() {
    let _alone = alone().await;
    let target = Target::start().await;
    let siege = Siege::lay(&target).await;
    let bearer = [target.bearer()];
    let post = |body: &str| request("POST", "/v1/chat/completions", &bearer, body).into_bytes();
    let deep = format!(r#"{{"model":"m","x":{}"#, "[".repeat(200_000));
    let gzip = [target.bearer(), ("content-encoding", "gzip")];
    let twice = r#"{"model":"m","model":"n","messages":[{}]}"#;
    let cases = [
        (post(&deep), 400),
        (post(twice), 400),
        (post("\u{feff}{}"), 400),
        (request("POST", "/v1/chat/completions", &gzip, "\x1f\u{8b}").into_bytes(), 415),
        (request("GET", &format!("/{}", "a".repeat(20 << 10)), &[], "").into_bytes(), 431),
        (request("GET", "/healthz", &[("x-a", "b"); 200], "").into_bytes(), 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), 400),
        (request("GET", "/inference/%ff%00", &bearer, "").into_bytes(), 404),
    ];
    let cases = std::sync::Arc::new(cases);
    let address = target.address;
    let requests = flood(8, move |n| {
        let cases = std::sync::Arc::clone(&cases);
        async move {
            let (request, status) = &cases[n % cases.len()];
            assert_eq!(send(address, request).await.status, *status, "case {}", n % cases.len());
        }
    });
    siege.stand("malformed requests", 64).await;
    ebb(requests);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_wrong_nodes_holds_nobody_up() {
    let _alone = alone().await;
    let target = Target::start().await;
    let siege = Siege::lay(&target).await;
    let (address, key) = (target.address, target.node_key.clone());
    let nodes = flood(8, move |n| {
        let key = key.clone();
        async move { door::intrude(address, &key, n).await }
    });
    siege.stand("nodes that break the rules", 64).await;
    ebb(nodes);
}
