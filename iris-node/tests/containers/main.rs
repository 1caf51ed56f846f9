//! Servers in containers: by podman's own service, and by a stub of Docker's API.
//!
//! Where podman cannot run, its part is skipped, and said so.
#![cfg(all(target_os = "linux", feature = "containers"))]
#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

mod podman;
mod stub;

use std::path::Path;
use std::time::Duration;

use iris_node::sandbox::{Container, Health, Limits, ServerSpec, free_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for what should happen at once, on a very busy machine.
const SOON: Duration = Duration::from_mins(2);

/// How the server of the image is called.
fn spec() -> ServerSpec {
    let arguments = ["--model", "/models/m.gguf", "--host", Container::SOCKET];
    ServerSpec {
        program: String::new(),
        arguments: arguments.map(str::to_owned).to_vec(),
        port: free_port().unwrap(),
        health: Health::at("/health"),
        limits: Limits { memory: Some(64 << 20), niceness: None, cpus: Some(1) },
    }
}

/// Asks at a port of this machine; nothing where nobody answers.
async fn ask(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

/// Asks until somebody answers.
async fn answer(port: u16, path: &str) -> String {
    let asked = async {
        loop {
            if let Some(answer) = ask(port, path).await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, asked).await.expect("it answers in time")
}

/// Returns whether a folder of sockets has none, or is not there.
fn is_empty(folder: &Path) -> bool {
    let found = std::fs::read_dir(folder).into_iter().flatten();
    found.map(|found| found.unwrap().file_name()).all(|name| name == "lock")
}
