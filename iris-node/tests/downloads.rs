//! `iris-node models` as a process: downloads that are killed, the coordinator's folder, and models
//! that are run by their names.
#![cfg(all(unix, feature = "cli", feature = "engine", feature = "openai", feature = "sandbox"))]
#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;

/// The model inside the program, as a file.
const TINY: &[u8] = include_bytes!("../model/iris-tiny-f16.gguf");
const LARGE: usize = 48 << 20;

/// A file that looks like a model's, and is written down before all of it has come.
fn large() -> Vec<u8> {
    let mut file = vec![7; LARGE];
    file[..4].copy_from_slice(b"GGUF");
    file
}

/// Gives files, and parts of them; of `held.gguf` at first no more than the beginning.
async fn answer(request: Request) -> Response {
    let key = request.headers().get("authorization").cloned();
    let range = request.headers().get("range").and_then(|range| range.to_str().ok());
    let from = range.and_then(|range| range.strip_prefix("bytes="));
    let from: usize = from.map_or(0, |from| from.trim_end_matches('-').parse().unwrap());
    let file = match request.uri().path() {
        "/model-files" => {
            let digest = blake3::hash(TINY).to_hex().to_string();
            let file = json!({"name": "shared.gguf", "size": TINY.len(), "blake3": digest});
            return match key {
                Some(key) if key == "Bearer iris_secret" => {
                    axum::Json(json!({ "files": [file] })).into_response()
                }
                _ => axum::http::StatusCode::UNAUTHORIZED.into_response(),
            };
        }
        "/model-files/shared.gguf" if key.is_some() => Bytes::from_static(TINY),
        "/tiny.gguf" => Bytes::from_static(TINY),
        "/held.gguf" => Bytes::from(large()),
        _ => return axum::http::StatusCode::NOT_FOUND.into_response(),
    };
    let rest = file.slice(from..);
    let length = rest.len();
    let body = if length == LARGE {
        let begun = stream::iter([Ok::<_, std::io::Error>(rest.slice(..40 << 20))]);
        Body::from_stream(begun.chain(stream::pending()))
    } else {
        Body::from(rest)
    };
    let response = Response::builder().header("etag", "\"a\"").header("content-length", length);
    let response = if from > 0 {
        let range = format!("bytes {from}-{}/{}", file.len() - 1, file.len());
        response.status(206).header("content-range", range)
    } else {
        response
    };
    response.body(body).unwrap()
}

async fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, Router::new().fallback(answer)).await });
    url
}

struct Home(TempDir);

struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(".local/share/iris").join(name)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_iris-node"));
        command.args(line.split_whitespace()).env_clear().env("HOME", self.0.path());
        command.env("IRIS_NODE_KEY", "iris_secret").current_dir(self.0.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn run(&self, line: &str) -> Ended {
        let mut command = self.command(line);
        let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ended { code: ended.status.code(), out: text(ended.stdout), err: text(ended.stderr) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_whose_process_is_killed_goes_on() {
    let (url, home) = (serve().await, Home::new());
    let line = format!("models pull {url}/held.gguf");
    let mut first = home.command(&line).spawn().unwrap();
    let begun = Instant::now();
    // Another process knows what is written down, and nobody tells when.
    while !std::fs::read_to_string(home.path("models/held.gguf.part.json"))
        .is_ok_and(|record| record.contains("\"noted\":["))
    {
        assert!(begun.elapsed() < Duration::from_mins(2), "nothing is written down");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let busy = home.run(&line).await;
    assert_eq!(busy.code, Some(5), "{}", busy.err);
    first.kill().unwrap();
    first.wait().unwrap();
    let second = home.run(&line).await;
    assert_eq!(second.code, Some(0), "{}", second.err);
    assert!(second.err.contains("going on: 33."), "{}", second.err);
    assert!(std::fs::read(home.path("models/held.gguf")).unwrap() == large());
    let spent = std::fs::read_to_string(home.path("node.downloaded.json")).unwrap();
    assert!(spent.contains("of_month"), "{spent}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_are_pulled_listed_verified_run_and_removed() {
    let (url, home) = (serve().await, Home::new());
    let gone = home.run(&format!("models pull {url}/none.gguf")).await;
    assert_eq!(gone.code, Some(1));
    assert!(gone.err.contains("status 404: it has no such file"), "{}", gone.err);
    let pulled = home.run(&format!("models pull {url}/tiny.gguf --as small.gguf")).await;
    assert_eq!(pulled.code, Some(0), "{}", pulled.err);
    let digest = blake3::hash(TINY).to_hex().to_string();
    assert!(
        pulled.out.contains(&digest) && pulled.out.contains("--engine small"),
        "{}",
        pulled.out
    );
    let shared = home.run(&format!("models pull shared --coordinator {url}")).await;
    assert_eq!(shared.code, Some(0), "{}", shared.err);
    let listed = home.run("models list --json").await;
    let list: serde_json::Value = serde_json::from_str(&listed.out).unwrap();
    let names: Vec<_> = list["models"].as_array().unwrap().iter().map(|m| &m["name"]).collect();
    assert_eq!(names, ["shared.gguf", "small.gguf"]);
    let network = home.run(&format!("models list --network --coordinator {url}")).await;
    assert!(network.out.contains("shared.gguf"), "{}", network.out);
    let unknown = home.run(&format!("models pull other --coordinator {url}")).await;
    assert_eq!(unknown.code, Some(5));
    assert!(unknown.err.contains("models list --network"), "{}", unknown.err);

    let line = format!("doctor --engine small --coordinator {url}");
    let doctor = home.run(&line).await.out;
    assert!(doctor.contains("small answered in"), "{doctor}");
    assert!(doctor.contains("2 models, 0 in use"), "{doctor}");
    let missing = home.run("--engine nothing").await;
    assert_eq!(missing.code, Some(5), "{}", missing.err);
    assert!(missing.err.contains("`iris-node models list`"), "{}", missing.err);

    assert_eq!(home.run("models verify").await.code, Some(0));
    std::fs::write(home.path("models/small.gguf"), b"GGUF").unwrap();
    let changed = home.run("models verify").await;
    assert_eq!(changed.code, Some(5));
    assert!(changed.out.contains("ok       shared.gguf"), "{}", changed.out);
    assert!(changed.out.contains("CHANGED  small.gguf"), "{}", changed.out);
    let removed = home.run("models rm small shared").await;
    assert_eq!(removed.code, Some(0), "{}", removed.err);
    assert!(home.run("models list").await.out.starts_with("0 models"));
}
