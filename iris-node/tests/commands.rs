//! `iris-node setup` and `iris-node doctor` as processes, against servers on loopback that answer
//! as the documented ones do.
#![cfg(all(unix, feature = "cli", feature = "engine", feature = "openai", feature = "sandbox"))]
#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

const DIGITS: &str = "1234567890123456";

/// Answers by path, and with 404 where there is no answer.
async fn serve(address: &str, answer: fn(&str, &Request) -> Option<Response>) -> String {
    let listener = TcpListener::bind(address).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = Router::new().fallback(move |request: Request| async move {
        let path = request.uri().path().to_owned();
        let answer = answer(&path, &request);
        answer.unwrap_or_else(|| StatusCode::NOT_FOUND.into_response())
    });
    tokio::spawn(async { axum::serve(listener, router).await });
    format!("http://127.0.0.1:{port}")
}

// As the functions that answer return it.
#[allow(clippy::unnecessary_wraps)]
fn reply(body: &Value) -> Option<Response> {
    Some(axum::Json(body.clone()).into_response())
}

/// Nine words, and how many there were.
#[allow(clippy::unnecessary_wraps)]
fn words() -> Option<Response> {
    let word = |text: &str| json!({"choices": [{"index": 0, "delta": {"content": text}}]});
    let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 9}});
    let events = (0..9).map(|_| word("one ")).chain([end, usage]);
    let body = events.fold(String::new(), |body, event| body + &format!("data: {event}\n\n"));
    let body = body + "data: [DONE]\n\n";
    Some(([("content-type", "text/event-stream")], body).into_response())
}

fn lm_studio(path: &str, _: &Request) -> Option<Response> {
    match path {
        "/api/v1/models" => reply(&json!({"models": [
            {"type": "llm", "key": "qwen/qwen3-8b", "loaded_instances": [], "max_context_length": 4096},
            {"type": "llm", "key": "gemma-3-4b", "max_context_length": 4096,
             "loaded_instances": [{"id": "gemma-3-4b", "config": {"context_length": 4096}}]},
        ]})),
        "/v1/models" => reply(&json!({"data": [{"id": "gemma-3-4b"}, {"id": "qwen/qwen3-8b"}]})),
        "/v1/chat/completions" => words(),
        // It has an answer to everything.
        _ => reply(&json!({"error": "Unexpected endpoint or method."})),
    }
}

fn ollama(path: &str, _: &Request) -> Option<Response> {
    match path {
        "/api/ps" => reply(&json!({"models": []})),
        "/api/version" => reply(&json!({"version": "0.12.6"})),
        "/api/tags" => reply(&json!({"models": [{"name": "llama3.2:3b", "model": "llama3.2:3b"}]})),
        "/v1/models" => reply(&json!({"data": [{"id": "llama3.2:3b"}]})),
        _ => None,
    }
}

fn vllm(path: &str, request: &Request) -> Option<Response> {
    let is_open = request.headers().get("authorization").is_some_and(|key| key == "Bearer hunter2");
    match path {
        "/v1/models" if !is_open => Some(StatusCode::UNAUTHORIZED.into_response()),
        "/v1/models" => reply(&json!({"data": [{"id": "m", "owned_by": "vllm"}]})),
        "/version" => reply(&json!({"version": "0.11.0"})),
        _ => None,
    }
}

fn coordinator(path: &str, request: &Request) -> Option<Response> {
    match path {
        "/healthz" | "/readyz" => {
            reply(&json!({"status": "ok", "version": "0.1.0", "nodes": 3, "models": 2}))
        }
        "/accounts/keys" if request.method() == "POST" => {
            reply(&json!({"key": "iris_secret", "id": "0".repeat(24), "scope": "node"}))
        }
        "/nodes/connect" => {
            let key = request.headers().get("authorization");
            // One that it knows would get further, which is not played here.
            let is_known = key.is_some_and(|key| key == "Bearer iris_secret");
            let refused = if is_known { StatusCode::BAD_REQUEST } else { StatusCode::UNAUTHORIZED };
            Some(refused.into_response())
        }
        _ => None,
    }
}

/// A user's home, and a way to run the program in it.
struct Home(TempDir);

struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn settings(&self) -> PathBuf {
        self.path(".config/iris/node.toml")
    }

    fn command(&self, line: &str, environment: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_iris-node"));
        command.args(line.split_whitespace()).env_clear().envs(environment.iter().copied());
        command.env("HOME", self.0.path()).current_dir(self.0.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn run(&self, line: &str, input: &str, environment: &[(&str, &str)]) -> Ended {
        let mut command = self.command(line, environment);
        let input = input.to_owned();
        let ended = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            // One that asks nothing has gone by then.
            let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
            child.wait_with_output().unwrap()
        });
        let ended = ended.await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ended {
            code: ended.status.code().unwrap(),
            out: text(ended.stdout),
            err: text(ended.stderr),
        }
    }
}

fn mode(file: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().unwrap().permissions().mode() & 0o777
}

fn port(url: &str) -> &str {
    url.rsplit(':').next().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_is_asked_and_ends_up_with_a_node() {
    let servers = [
        serve("127.0.0.1:0", ollama).await,
        serve("127.0.0.1:0", lm_studio).await,
        serve("127.0.0.1:0", vllm).await,
    ];
    let network = serve("127.0.0.1:0", coordinator).await;
    let ports: Vec<_> = servers.iter().chain([&network]).map(|url| port(url)).collect();
    let line = format!("setup --ports {}", ports.join(","));
    let home = Home::new();
    // The proposed models; a coordinator that is none, then the right one; the digits; yes.
    let input = format!("\n{}\n{network}\n{DIGITS}\n\n\n", servers[0]);
    let ended = home.run(&line, &input, &[]).await;
    assert_eq!(ended.code, 0, "{}\n{}", ended.out, ended.err);
    for found in [
        format!("Ollama 0.12.6 at {}", servers[0]),
        "llama3.2:3b (not loaded)".to_owned(),
        format!("LM Studio at {}", servers[1]),
        "gemma-3-4b (loaded)".to_owned(),
        "qwen/qwen3-8b (not loaded)".to_owned(),
        format!("{} wants a key", servers[2]),
        format!("at {network} is a coordinator of Iris"),
        "no coordinator answers there".to_owned(),
        "gemma-3-4b writes".to_owned(),
    ] {
        assert!(ended.out.contains(&found), "{found} is missing in:\n{}", ended.out);
    }
    let written = std::fs::read_to_string(home.settings()).unwrap();
    assert!(written.contains(&format!("model_server_url = \"{}\"", servers[1])), "{written}");
    assert!(written.contains(&format!("coordinator_url = [\"{network}\"]")), "{written}");
    let key = home.path(".local/share/iris/node.credential");
    assert_eq!(std::fs::read_to_string(&key).unwrap(), "iris_secret\n");
    assert_eq!((mode(&home.settings()), mode(&key)), (0o600, 0o600));
    let said = ended.out + &ended.err + &written;
    assert!(!said.contains(DIGITS) && !said.contains("iris_secret"), "{said}");

    // The second time everything is known, and nothing changes.
    let again = home.run(&format!("{line} --yes"), "", &[]).await;
    assert_eq!(again.code, 0, "{}\n{}", again.out, again.err);
    assert!(again.out.contains("has a key of its account already"), "{}", again.out);
    assert!(again.out.contains("holds these settings already"), "{}", again.out);
    assert_eq!(std::fs::read_to_string(home.settings()).unwrap(), written);

    // A key that was revoked is replaced.
    std::fs::write(&key, "iris_revoked\n").unwrap();
    let renewed = home.run(&format!("{line} --yes"), &format!("{DIGITS}\n"), &[]).await;
    assert_eq!(renewed.code, 0, "{}\n{}", renewed.out, renewed.err);
    assert_eq!(std::fs::read_to_string(&key).unwrap(), "iris_secret\n");
    let printed = home.run("--print-config", "", &[]).await;
    assert!(printed.out.contains(&servers[1]), "settings are found where they were written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_set_a_node_up_with_flags_and_lose_nothing() {
    let server = serve("127.0.0.1:0", vllm).await;
    let network = serve("127.0.0.1:0", coordinator).await;
    let home = Home::new();
    let file = home.settings();
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let before = "# mine\nname = 'attic'\nslots = 3\n[datasets.a]\npath = '/a.csv'\n\
                  who = 'key'\nkey = '0123456789abcdef'\n";
    std::fs::write(&file, before).unwrap();
    let line = format!(
        "setup --yes --coordinator {network} --model-server {server} --service systemd --ports 1"
    );
    let environment = [("IRIS_ACCOUNT_KEY", DIGITS), ("IRIS_MODEL_SERVER_KEY", "hunter2")];

    let dry = home.run(&format!("{line} --dry-run"), "", &environment).await;
    assert_eq!(dry.code, 0, "{}\n{}", dry.out, dry.err);
    assert!(dry.out.contains("ExecStart=") && dry.out.contains(&server), "{}", dry.out);
    assert!(!dry.out.contains("hunter2") && !dry.out.contains("0123456789"), "{}", dry.out);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    assert!(!home.path(".local").exists() && !home.path(".config/systemd").exists());

    let ended = home.run(&line, "", &environment).await;
    assert_eq!(ended.code, 0, "{}\n{}", ended.out, ended.err);
    assert!(ended.out.contains("vLLM 0.11.0"), "{}", ended.out);
    let written = std::fs::read_to_string(&file).unwrap();
    for kept in ["attic", "slots = 3", "0123456789abcdef", "hunter2", "/a.csv"] {
        assert!(written.contains(kept), "{kept} is missing in:\n{written}");
    }
    assert!(!written.contains(DIGITS));
    assert_eq!(std::fs::read_to_string(home.path(".config/iris/node.toml.1")).unwrap(), before);
    let unit = std::fs::read_to_string(home.path(".config/systemd/user/iris-node.service"));
    assert!(unit.unwrap().contains(&format!("--config \"{}\"", file.display())));
    assert!(ended.out.contains("systemctl --user enable"), "{}", ended.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn setup_that_cannot_be_finished_writes_nothing() {
    let network = serve("127.0.0.1:0", coordinator).await;
    let home = Home::new();
    for (line, input, code, said) in [
        ("--yes --coordinator http://127.0.0.1:9", "", 4, "127.0.0.1:9"),
        (&*format!("--yes --coordinator {network} --engine bundled"), "12\n", 3, "16 digits"),
        (&*format!("--coordinator {network} --engine bundled"), "", 2, "standard input"),
        (
            &*format!("--coordinator {network} --engine bundled"),
            "1234567890123456\nn\nn\n",
            1,
            "nothing",
        ),
        ("--yes --config node.yaml", "", 2, "TOML"),
        ("--yes --model-server http://192.0.2.1:1", "", 2, "--allow-remote-backend"),
    ] {
        let ended = home.run(&format!("setup --ports 1 {line}"), input, &[]).await;
        assert_eq!(ended.code, code, "{line}: {}\n{}", ended.out, ended.err);
        assert!(ended.err.contains(said), "{line}: {}", ended.err);
        assert_eq!(std::fs::read_dir(home.0.path()).unwrap().count(), 0, "{line}");
    }
}

/// Runs the doctor; returns its exit code and the state of each link.
async fn doctor(home: &Home, line: &str, environment: &[(&str, &str)]) -> (i32, Value) {
    let ended = home.run(&format!("doctor --json {line}"), "", environment).await;
    let told: Value = serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("{}", ended.err));
    for check in told["checks"].as_array().unwrap() {
        let needs_advice = matches!(check["state"].as_str(), Some("fail" | "warn"));
        assert_eq!(check["advice"].is_string(), needs_advice, "{check}");
    }
    (ended.code, told)
}

fn state<'a>(told: &'a Value, link: &str) -> (&'a str, &'a str) {
    let checks = told["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["link"] == link);
    let check = check.unwrap_or_else(|| panic!("{link} is missing in {told:#}"));
    (check["state"].as_str().unwrap(), check["found"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_names_the_link_that_is_broken() {
    let server = serve("127.0.0.1:0", lm_studio).await;
    let network = serve("127.0.0.1:0", coordinator).await;
    let home = Home::new();
    let good = format!("--coordinator {network} --model-server {server}");

    // All is well but that this coordinator knows no key.
    let (code, told) = doctor(&home, &good, &[("IRIS_NODE_KEY", "iris_unknown")]).await;
    for link in
        ["settings", "model server", "its door", "models", "first token", "coordinator", "clock"]
    {
        assert_eq!(state(&told, link).0, "ok", "{told:#}");
    }
    assert_eq!((code, state(&told, "door").0), (3, "fail"), "{told:#}");

    let (code, told) = doctor(&home, &good, &[]).await;
    assert_eq!((code, state(&told, "key").0, state(&told, "door").0), (3, "fail", "skip"));
    let (_, told) = doctor(&home, &good, &[("IRIS_ACCOUNT_KEY", DIGITS)]).await;
    assert_eq!(state(&told, "key").0, "warn");

    let key = [("IRIS_NODE_KEY", "iris_unknown")];
    for (server, said) in [
        ("http://127.0.0.1:9", "nothing answers"),
        (&*network, "coordinator"),
        (&*serve("127.0.0.1:0", vllm).await, "right key"),
        (&*serve("127.0.0.1:0", |_, _| None).await, "no list of models"),
    ] {
        let line = format!("--coordinator {network} --model-server {server}");
        let (code, told) = doctor(&home, &line, &key).await;
        let (state_now, found) = state(&told, "model server");
        assert_eq!((code, state_now), (1, "fail"), "{server}: {told:#}");
        assert!(found.contains(said), "{found}");
        assert_eq!(state(&told, "first token").0, "skip");
    }
    let idle = serve("127.0.0.1:0", ollama).await;
    let (code, told) =
        doctor(&home, &format!("--coordinator {network} --model-server {idle}"), &key).await;
    assert_eq!((code, state(&told, "models").0), (1, "fail"));

    let secure = network.replace("http://", "https://");
    for (coordinator, link) in
        [("http://127.0.0.1:9", "coordinator"), (&*server, "coordinator"), (&*secure, "TLS")]
    {
        let line = format!("--coordinator {coordinator} --model-server {server}");
        let (code, told) = doctor(&home, &line, &key).await;
        assert_eq!((code, state(&told, link).0, state(&told, "door").0), (4, "fail", "skip"));
    }
    let (code, told) = doctor(&home, "--slots 0", &key).await;
    assert_eq!((code, state(&told, "settings").0), (2, "fail"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg(target_os = "linux")]
async fn a_model_server_that_everybody_reaches_is_warned_of() {
    let open = serve("0.0.0.0:0", lm_studio).await;
    let network = serve("127.0.0.1:0", coordinator).await;
    let home = Home::new();
    let line = format!("--coordinator {network} --model-server {open}");
    let (_, told) = doctor(&home, &line, &[]).await;
    assert_eq!(state(&told, "its door").0, "warn", "{told:#}");
    let line = format!("setup --ports {} --yes --dry-run --coordinator {network}", port(&open));
    let ended = home.run(&line, "", &[]).await;
    assert!(ended.out.contains("WARNING"), "{}", ended.out);
}

/// A port of this machine that nobody listens on.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until a file has as many lines, and returns them.
async fn lines(file: &Path, count: usize) -> Vec<String> {
    let begun = std::time::Instant::now();
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        if lines.len() >= count {
            return lines;
        }
        assert!(begun.elapsed() < std::time::Duration::from_mins(1), "{lines:?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Waits until a process has ended, which its parent may have left to others.
async fn has_gone(id: &str) {
    let begun = std::time::Instant::now();
    let is_there = || {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    while is_there() {
        assert!(begun.elapsed() < std::time::Duration::from_mins(1), "{id} lives on");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Settings of a node that starts a server which loads its model for ever, and the file in which that
/// notes each start of its own by a process id.
fn slow_server(home: &Home, network: &str) -> (PathBuf, PathBuf) {
    let starts = home.path("starts");
    let server = program(home, &format!("echo $$ >> {}\nexec sleep 600", starts.display()));
    let model = home.path("model.gguf");
    std::fs::write(&model, "").unwrap();
    let file = home.path("own.toml");
    let text = format!(
        "coordinator_url = ['{network}']\n[server]\nmodel = '{}'\nprogram = '{}'\n",
        model.display(),
        server.display()
    );
    std::fs::write(&file, &text).unwrap();
    (file, starts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg(target_os = "linux")]
async fn a_node_whose_server_loads_its_model_can_be_looked_at() {
    let network = serve("127.0.0.1:0", coordinator).await;
    let home = Home::new();
    let (file, starts) = slow_server(&home, &network);
    let line = format!("--config {}", file.display());
    let key = [("IRIS_NODE_KEY", "iris_secret"), ("PATH", "/usr/bin:/bin")];
    let mut node = home.command(&line, &key).spawn().unwrap();
    let ids = lines(&starts, 1).await;
    let status = home.run(&format!("status --json {line}"), "", &key).await;
    assert_eq!(status.code, 0, "{}", status.err);
    let told: Value = serde_json::from_str(&status.out).unwrap();
    let why = told["hindrances"][0]["text"].as_str().unwrap();
    assert!(why.contains("llama-server loads its model"), "{told:#}");
    let (_, told) = doctor(&home, &line, &key).await;
    let (state_now, found) = state(&told, "own server");
    assert!(state_now == "warn" && found.contains("loads its model"), "{told:#}");
    let paused = home.run(&format!("pause {line}"), "", &key).await;
    assert_eq!(paused.code, 0, "{}", paused.err);
    let set_up = home.run(&format!("setup --yes --ports 1 {line}"), "", &key).await;
    assert!(set_up.out.contains("The node runs"), "{}\n{}", set_up.out, set_up.err);
    assert_eq!(lines(&starts, 1).await.len(), 1, "nobody starts it a second time");
    // Nobody is left to end it but the system.
    node.kill().unwrap();
    node.wait().unwrap();
    has_gone(&ids[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg(target_os = "linux")]
async fn a_doctor_that_is_interrupted_leaves_no_server_behind() {
    let network = serve("127.0.0.1:0", coordinator).await;
    let home = Home::new();
    let (file, starts) = slow_server(&home, &network);
    let key = [("IRIS_NODE_KEY", "iris_secret"), ("PATH", "/usr/bin:/bin")];
    let mut doctor =
        home.command(&format!("doctor --config {}", file.display()), &key).spawn().unwrap();
    let ids = lines(&starts, 1).await;
    let id = rustix::process::Pid::from_raw(doctor.id().cast_signed()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let ended = tokio::task::spawn_blocking(move || doctor.wait().unwrap()).await.unwrap();
    assert_eq!(ended.code(), Some(130));
    has_gone(&ids[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_chosen_anew_takes_the_place_of_what_was_chosen_before() {
    let server = serve("127.0.0.1:0", lm_studio).await;
    let network = serve("127.0.0.1:0", coordinator).await;
    let home = Home::new();
    let (file, _) = slow_server(&home, &network);
    let key = [("IRIS_NODE_KEY", "iris_secret")];
    let line = format!("setup --ports {} --config {}", port(&server), file.display());
    // The server that was found in place of the node's own; the proposed coordinator; no service.
    let ended = home.run(&line, &format!("{server}\n\n\n\n"), &key).await;
    assert_eq!(ended.code, 0, "{}\n{}", ended.out, ended.err);
    assert!(ended.out.contains("model.gguf is offered no more"), "{}", ended.out);
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(written.contains(&format!("model_server_url = \"{server}\"")), "{written}");
    assert!(!written.contains("[server]"), "{written}");
    // A flag is a choice, too, and what it does not name is kept where nothing was chosen.
    let again = home.run(&format!("{line} --yes"), "", &key).await;
    assert!(again.out.contains("holds these settings already"), "{}", again.out);
    let ended = home.run(&format!("{line} --yes --engine bundled"), "", &key).await;
    assert_eq!(ended.code, 0, "{}\n{}", ended.out, ended.err);
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(written.contains("engine = \"bundled\""), "{written}");
    assert!(written.contains("# model_server_url is not set"), "{written}");
}

/// Writes a program that does what `script` says, called as llama-server is.
fn program(home: &Home, script: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = home.path("llama-server");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

#[tokio::test]
#[ignore = "is a model server"]
async fn serves_models() {
    let port = std::env::var("PORT").expect("run as a server");
    serve(&format!("127.0.0.1:{port}"), |path, _| match path {
        "/health" => reply(&json!({"status": "ok"})),
        "/v1/models" => reply(&json!({"data": [{"id": "mine", "owned_by": "me"}]})),
        "/v1/chat/completions" => words(),
        _ => None,
    })
    .await;
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_the_nodes_own_is_started_looked_at_and_ended() {
    let network = serve("127.0.0.1:0", coordinator).await;
    let home = Home::new();
    // Called with --model, --host and --port. The runner's own arguments are others.
    let this = std::env::current_exe().unwrap();
    let script =
        format!("PORT=$6 exec {} --ignored --exact --nocapture serves_models", this.display());
    let server = program(&home, &script);
    let model = home.path("model.gguf");
    std::fs::write(&model, "").unwrap();
    let port = free_port();
    let file = home.path("own.toml");
    let text = format!(
        "coordinator_url = ['{network}']\n[server]\nmodel = '{}'\nprogram = '{}'\nport = {port}\n",
        model.display(),
        server.display()
    );
    std::fs::write(&file, &text).unwrap();
    let line = format!("--config {}", file.display());
    let key = [("IRIS_NODE_KEY", "iris_unknown")];
    let (_, told) = doctor(&home, &line, &key).await;
    for link in ["own server", "model server", "its door", "models", "first token"] {
        assert_eq!(state(&told, link).0, "ok", "{told:#}");
    }
    assert_eq!(state(&told, "models").1, "mine");
    let is_gone = || std::net::TcpStream::connect(("127.0.0.1", port)).is_err();
    assert!(is_gone(), "it ended with the doctor");

    // What was wanted is written down as it was.
    let set_up = home.run(&format!("setup --yes --ports 1 {line}"), "", &key).await;
    assert_eq!(set_up.code, 0, "{}\n{}", set_up.out, set_up.err);
    assert!(!set_up.out.contains("does not answer"), "{}", set_up.out);
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(written.contains("[server]") && written.contains(&format!("port = {port}")));
    assert!(written.contains("# model_server_url is not set"), "{written}");
    assert!(is_gone(), "it ended with the trial");

    program(&home, "echo no such model >&2; exit 7");
    let (code, told) = doctor(&home, &line, &key).await;
    let (state_now, found) = state(&told, "own server");
    assert_eq!((code, state_now, state(&told, "models").0), (1, "fail", "skip"), "{told:#}");
    assert!(found.contains("exit code 7") && found.contains("no such model"), "{found}");
    std::fs::remove_file(&model).unwrap();
    let (code, told) = doctor(&home, &line, &key).await;
    assert_eq!((code, state(&told, "own server").0), (5, "fail"), "{told:#}");
    let ended = home.run(&line, "", &key).await;
    assert!(ended.code == 5 && ended.err.contains("model.gguf"), "{}", ended.err);
}

/// Hears in time what a process writes from now on, and what has it open ends with.
#[cfg(target_os = "linux")]
fn rest(mut output: impl std::io::Read + Send + 'static) -> String {
    let (told, hears) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        told.send(text)
    });
    hears.recv_timeout(std::time::Duration::from_mins(1)).expect("nobody has it open any more")
}

#[test]
#[cfg(target_os = "linux")]
fn a_model_server_ends_with_the_node_that_started_it() {
    use std::io::{BufRead, BufReader};

    // A shell stands for the node, and is killed without a chance to stop what it started.
    let server = "echo serves; exec tail -f /dev/null";
    let line = format!("\"$0\" launch-server $$ sh -c '{server}' & wait");
    let mut node = Command::new("sh");
    node.args(["-c", &line, env!("CARGO_BIN_EXE_iris-node")]).stdout(Stdio::piped());
    let mut node = node.spawn().unwrap();
    let mut output = BufReader::new(node.stdout.take().unwrap());
    let mut said = String::new();
    output.read_line(&mut said).unwrap();
    assert_eq!(said, "serves\n");
    node.kill().unwrap();
    node.wait().unwrap();
    assert_eq!(rest(output), "");
}

#[test]
#[cfg(target_os = "linux")]
fn no_model_server_is_started_for_a_node_that_has_ended() {
    let mut launcher = Command::new(env!("CARGO_BIN_EXE_iris-node"));
    // This test is no process of that number.
    let ended = launcher.args(["launch-server", "1", "echo", "serves"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "");
    let error = String::from_utf8_lossy(&ended.stderr);
    assert!(error.contains("the process that wanted it has ended"), "{error}");
}
