//! The program, told what to do by its owner.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use iris_core::backend::Operation;
use iris_core::reputation::MemoryLedger;
use iris_core::terms::Rest;
use iris_core::{Epoch, Timestamp};
use iris_crypto::seal::{Prompt, SealedRequest, Shape, Terms};
use iris_protocol::connection::CoordinatorEvent;
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
    command.args(order.split(' '));
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
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

/// Runs a command of the program to its end, and reads what it prints as JSON.
async fn asked(key: &Path, line: &'static [&'static str]) -> serde_json::Value {
    let mut command = program(key);
    let output = tokio::task::spawn_blocking(move || command.args(line).output().unwrap());
    let output = output.await.unwrap();
    assert!(output.status.success(), "{line:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn an_owner_sees_what_the_node_does_and_what_it_has_done() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("node.key");
    for command in ["status", "history"] {
        let nothing = told(&key, command).await;
        assert!(!nothing.status.success(), "{command}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut command = program(&key);
    command.args(["--engine", "bundled", "--no-measure", "--slots", "2", "--coordinator", &url]);
    command.env("IRIS_NODE_KEY", "iris_key").stdout(Stdio::null()).stderr(Stdio::null());
    let mut node = Process(command.spawn().unwrap());
    let mut coordinator = Coordinator::over(upgraded(&listener).await);
    coordinator.now = now();
    coordinator.accept().await;
    let model = coordinator.register.as_ref().unwrap().models[0].name.clone();
    let body = serde_json::json!({"model": model, "max_tokens": 4,
        "messages": [{"role": "user", "content": "Hi"}]});
    let body = body.to_string().into();
    let prompt = Prompt { operation: Operation::Chat, stream: true, body };
    let terms = Terms { shape: Shape::Off, ..Terms::new(model.clone(), now()) };
    let sealed = SealedRequest::seal(&coordinator.certificate(), terms, &prompt).unwrap();
    coordinator.assign_sealed(model.as_str(), sealed.0.wire()).await;
    while !matches!(coordinator.next().await, CoordinatorEvent::Result(_)) {}
    coordinator.assign(model.as_str()).await;
    coordinator.answer().await;

    let told_of = asked(&key, &["status", "--json"]).await;
    let now_is = &told_of["node"];
    assert_eq!((&now_is["state"], &now_is["slots"]), (&"online".into(), &2.into()), "{told_of:#}");
    let port = url.rsplit(':').next().unwrap();
    assert!(now_is["coordinator"].as_str().unwrap().contains(port), "{told_of:#}");
    assert_eq!(now_is["models"][0]["name"], model.as_str());
    assert_eq!(now_is["limits"][0], "at most 2 tasks at a time");
    let ended = now_is["recent"].as_array().unwrap();
    assert_eq!((ended.len(), &ended[0]["privacy"]), (2, &"open".into()), "{told_of:#}");
    assert!(told_of["hindrances"][0]["text"].as_str().unwrap().starts_with("No task came"));
    let page = text(&told(&key, "status").await.stdout);
    assert!(page.contains("0 of 2 slots taken") && !page.contains('\u{1b}'), "{page}");

    let draining = key.clone();
    let draining = tokio::spawn(async move { told(&draining, "drain").await });
    assert!(coordinator.is_left().await);
    draining.await.unwrap();
    assert!(node.0.wait().unwrap().success());
    let history = asked(&key, &["history", "--json"]).await;
    let entries = history.as_array().unwrap();
    assert_eq!(entries.len(), 2, "{history:#}");
    assert_eq!(
        (&entries[0]["task"], &entries[0]["model"]),
        (&ended[0]["task"], &ended[0]["model"])
    );
    assert_eq!((&entries[0]["receipt"], &entries[1]["receipt"]), (&().into(), &"valid".into()));
    let tokens = &entries[1]["completion_tokens"];
    assert_eq!((&entries[1]["privacy"], tokens), (&"sealed".into(), &64.into()), "{history:#}");
    assert_eq!(asked(&key, &["history", "--json", "--since", "2000-01"]).await, history);
    let wrong = told(&key, "history --since tomorrow").await;
    assert_eq!(wrong.status.code(), Some(2));
    let table = text(&told(&key, "history").await.stdout);
    assert!(table.starts_with("ENDED (UTC)") && table.contains("2 tasks"), "{table}");
    let ended = Timestamp::from_millis(1000 * entries[1]["ended"].as_u64().unwrap());
    let books = folder.path().join("books.jsonl");
    let month = |receipt: &serde_json::Value| {
        let mut lines = serde_json::json!([
            {"opening": {"format": 1, "epoch": Epoch::of(ended), "policy": "evidence",
                "rates": {"prompt": 250, "completion": 1000}, "state": {"points": MemoryLedger::default(), "rules": null}}},
            {"task": {"at": ended, "requester": "0".repeat(32), "model": model, "attempts": [],
                "usage": {"prompt_tokens": 64, "completion_tokens": 64}, "took_ms": 1,
                "limit_ms": 1}},
        ]);
        lines[1]["task"]["receipt"] = receipt.clone();
        format!("{}\n{}\n", lines[0], lines[1])
    };
    let compare = || async {
        let (mut command, books) = (program(&key), books.clone());
        let run = move || command.arg("history").arg("--books").arg(books).output().unwrap();
        let output = tokio::task::spawn_blocking(run).await.unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    std::fs::write(&books, month(&entries[1]["receipt_id"])).unwrap();
    let (code, said) = compare().await;
    assert!(code == Some(0) && said.contains("all 1 receipts"), "{code:?} {said}");
    std::fs::write(&books, month(&"5a".repeat(32).into())).unwrap();
    let (code, said) = compare().await;
    let task = &entries[1]["task"].as_str().unwrap()[..8];
    assert!(code == Some(0) && said.contains(task), "{code:?} {said}");
    std::fs::write(&books, "{}").unwrap();
    assert_eq!(compare().await.0, Some(5));
    // Another identity has not signed it.
    std::fs::remove_file(&key).unwrap();
    let history = asked(&key, &["history", "--json"]).await;
    assert_eq!(history[1]["receipt"], "unchecked");
    Identity::load_or_create(&key).unwrap();
    let history = asked(&key, &["history", "--json", "--limit", "2"]).await;
    assert_eq!(history[1]["receipt"], "invalid");
}

/// Has a model answer a question.
async fn ask(coordinator: &mut Coordinator, model: &str) {
    let body = serde_json::json!({"model": model, "stream": true, "max_tokens": 3,
        "messages": [{"role": "user", "content": "What is a node?"}]});
    coordinator.assign_body(model, &body.to_string()).await;
    let answer = coordinator.answer().await;
    assert!(answer.error.is_none() && answer.usage.is_some(), "{model}: {answer:?}");
}

#[tokio::test]
async fn downloaded_models_are_run_when_they_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (key, models) = (folder.path().join("node.key"), folder.path().join("models"));
    let tiny = include_bytes!("../../model/iris-tiny-f16.gguf");
    std::fs::create_dir(&models).unwrap();
    for name in ["one.gguf", "two.gguf"] {
        std::fs::write(models.join(name), tiny).unwrap();
    }
    std::fs::write(models.join("bad.gguf"), &tiny[..1 << 20]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut command = program(&key);
    // With so many slots a model takes more than half of a gigabyte.
    command.args(["--engine", "cached", "--slots", "256", "--load-gb", "1"]);
    command.args(["--coordinator", &url]).env("IRIS_NODE_KEY", "iris_key");
    let _node = Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let mut coordinator = Coordinator::over(upgraded(&listener).await);
    coordinator.now = now();
    coordinator.accept().await;
    let names = |models: &[iris_core::model::ModelOffer]| {
        models.iter().map(|model| model.name.to_string()).collect::<Vec<_>>()
    };
    let register = coordinator.register.as_ref().unwrap();
    assert_eq!(names(&register.models), ["one", "two"]);
    for model in ["one", "two"] {
        ask(&mut coordinator, model).await;
        let told = asked(&key, &["status", "--json"]).await;
        let memory = told["node"]["memory"].as_str().unwrap();
        assert!(memory.starts_with(model) && memory.contains("of 1.00 GiB"), "{memory}");
    }
    // What is loaded stays; what goes, and what comes, is known without a restart.
    assert_eq!(told(&key, "models remove two").await.status.code(), Some(5));
    assert!(told(&key, "models remove one").await.status.success());
    std::fs::write(models.join("three.gguf"), tiny).unwrap();
    // A failure has the node look again at once; the other one was loaded too lately to go.
    coordinator.assign_with("one", |task| task.time_left_ms = 500).await;
    assert!(coordinator.answer().await.error.is_some());
    let heard = news(&mut coordinator).await;
    assert_eq!(names(&heard.models.unwrap()), ["three", "two"]);
}

fn now() -> iris_core::Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    iris_core::Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap())
}
