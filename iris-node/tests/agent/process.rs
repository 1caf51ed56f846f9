//! The program, told what to do by its owner.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use iris_core::terms::Rest;
use tokio::net::TcpListener;

use super::owner::news;
use super::socket::upgraded;
use super::*;

/// A running program that ends with its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program(key: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iris-node"));
    command.env_clear().arg("--key").arg(key);
    command
}

/// Gives a running node an order, as its owner does.
async fn told(key: &Path, order: &'static str) -> Output {
    let mut command = program(key);
    tokio::task::spawn_blocking(move || command.arg(order).output().unwrap()).await.unwrap()
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

#[tokio::test]
async fn an_owner_pauses_resumes_changes_and_drains_a_running_node() {
    let folder = tempfile::tempdir().unwrap();
    let (key, settings) = (folder.path().join("node.key"), folder.path().join("node.toml"));
    let nobody = told(&key, "pause").await;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(text(&nobody.stderr).contains("no node runs"), "{}", text(&nobody.stderr));
    std::fs::write(&settings, "slots = 2\nhours = 'sat'").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut command = program(&key);
    command.args(["--engine", "bundled", "--no-measure", "--config"]).arg(&settings);
    command.arg("--coordinator").arg(format!("http://{}", listener.local_addr().unwrap()));
    command.env("IRIS_NODE_KEY", "iris_key").stdout(Stdio::null()).stderr(Stdio::null());
    let mut node = Process(command.spawn().unwrap());
    let mut coordinator = Coordinator::over(upgraded(&listener).await);
    coordinator.now = now();
    coordinator.accept().await;
    let register = coordinator.register.as_ref().unwrap();
    assert_eq!((register.slots, register.terms.rest), (2, None));
    assert_eq!(register.terms.hours.as_ref().unwrap().to_string(), "sat");

    let paused = told(&key, "pause").await;
    assert!(paused.status.success() && text(&paused.stdout).starts_with("paused"));
    let heard = news(&mut coordinator).await;
    assert_eq!((heard.slots, heard.terms.unwrap().rest), (Some(0), Some(Rest::Paused)));
    let resumed = told(&key, "resume").await;
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
    let heard = news(&mut coordinator).await;
    assert_eq!((heard.slots, heard.terms.unwrap().rest), (Some(2), None));

    // What cannot be used changes nothing; what can is taken in without a restart.
    std::fs::write(&settings, "slots = 'many'").unwrap();
    std::fs::write(&settings, "slots = 1\nhours = 'sat-sun'\nmodels = ['qwen*']").unwrap();
    let heard = news(&mut coordinator).await;
    assert_eq!((heard.slots, heard.models.map(|models| models.len())), (Some(1), Some(0)));
    assert_eq!(heard.terms.unwrap().hours.unwrap().to_string(), "sat-sun");

    let draining = tokio::spawn(async move { told(&key, "drain").await });
    assert!(coordinator.is_left().await);
    let drained = draining.await.unwrap();
    assert!(drained.status.success() && text(&drained.stdout).starts_with("draining"));
    assert!(node.0.wait().unwrap().success());
    let left: Vec<_> = std::fs::read_dir(folder.path().join("node.control")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

fn now() -> iris_core::Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    iris_core::Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap())
}
