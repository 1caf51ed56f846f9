//! The `iris-coordinator` command as a process.
#![cfg(all(unix, feature = "cli"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// The command in a folder of its own, with nothing of the environment that it reads.
fn command(folder: &TempDir, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iris-coordinator"));
    command.args(line.split_whitespace()).current_dir(folder.path()).env_clear();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run_with(folder: &TempDir, line: &str, input: &str) -> Ended {
    let mut child = command(folder, line).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn run(folder: &TempDir, line: &str) -> Ended {
    run_with(folder, line, "")
}

fn signal(child: &Child, name: &str) {
    let kill = format!("kill -{name} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// A serving coordinator; killed if a test leaves it behind.
struct Serving {
    child: Child,
    address: SocketAddr,
    _stdout: BufReader<ChildStdout>,
}

impl Serving {
    fn start(folder: &TempDir) -> Self {
        Self::run(&mut command(folder, "serve --listen 127.0.0.1:0"))
    }

    fn run(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::inherit()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let (_, address) = line.trim().split_once("http://").unwrap_or_else(|| panic!("{line:?}"));
        Self { child, address: address.parse().unwrap(), _stdout: stdout }
    }

    fn request(&self, method: &str, path: &str, key: &str, body: &str) -> (u16, Value) {
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let length = body.len();
        write!(
            socket,
            "{method} {path} HTTP/1.1\r\nhost: iris\r\nconnection: close\r\n\
             authorization: Bearer {key}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let status = answer[9..12].parse().unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        (status, serde_json::from_str(body).unwrap())
    }

    fn stop(mut self) -> ExitStatus {
        signal(&self.child, "TERM");
        self.child.wait().unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[cfg(target_os = "linux")]
fn opens_as_many_files_as_it_may() {
    let folder = TempDir::new().unwrap();
    let mut lowered = Command::new("/bin/sh");
    lowered.args(["-c", "ulimit -Sn 100; ulimit -Hn 300; exec \"$0\" \"$@\""]);
    lowered.arg(env!("CARGO_BIN_EXE_iris-coordinator")).args(["--listen", "127.0.0.1:0"]);
    lowered.current_dir(folder.path()).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped());
    let serving = Serving::run(&mut lowered);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", serving.child.id())).unwrap();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().next(), Some("300"), "{files}");
}

#[test]
fn serves_until_it_is_told_to_stop() {
    let folder = TempDir::new().unwrap();
    let serving = Serving::start(&folder);
    let (status, health) = serving.request("GET", "/healthz", "", "");
    assert_eq!((status, health["status"].as_str()), (200, Some("ok")));
    // Without TLS there is nothing to read again, which is no reason to die.
    signal(&serving.child, "HUP");
    assert_eq!(serving.request("GET", "/readyz", "", "").0, 200);
    assert_eq!(serving.stop().code(), Some(0));
    for file in ["iris.db", "coordinator.key", "coordinator.secret"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = folder.path().join("data").join(file).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert_eq!(Serving::start(&folder).stop().code(), Some(0), "again on the same books");
}

#[test]
fn hangup_reads_tls_files_again_and_survives_bad_ones() {
    let folder = TempDir::new().unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http/tls");
    let install = |name: &str| {
        for kind in ["pem", "key.pem"] {
            let target = folder.path().join(format!("server.{kind}"));
            std::fs::copy(format!("{source}/{name}.{kind}"), target).unwrap();
        }
    };
    install("first");
    // Everybody may come: with TLS a public address is no reason to refuse.
    let line = "--listen 0.0.0.0:0 --tls-cert server.pem --tls-key server.key.pem";
    let mut child = command(&folder, line).spawn().unwrap();
    let mut ready = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut ready).unwrap();
    assert!(ready.contains("https://0.0.0.0:"), "{ready}");
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut says = |text: &str| log.any(|line| line.unwrap().contains(text));
    install("second");
    signal(&child, "HUP");
    assert!(says("TLS files read again"));
    std::fs::write(folder.path().join("server.pem"), "no certificate").unwrap();
    signal(&child, "HUP");
    assert!(says("TLS files cannot be used"));
    signal(&child, "TERM");
    assert!(says("stopping"));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn accounts_and_keys_made_beside_a_running_coordinator_work_at_once() {
    let folder = TempDir::new().unwrap();
    let serving = Serving::start(&folder);
    let account = run(&folder, "account new");
    assert_eq!(account.code, Some(0), "{}", account.stderr);
    let digits = account.stdout.trim();
    let groups: Vec<_> = digits.split(' ').map(str::len).collect();
    assert_eq!(groups, [4, 4, 4, 4], "{digits}");

    let over_http = format!(r#"{{"account_key":"{digits}","scope":"inference"}}"#);
    let (status, key) = serving.request("POST", "/accounts/keys", "", &over_http);
    assert_eq!(status, 201, "{key}");
    let models = |key: &str| serving.request("GET", "/v1/models", key, "").0;
    assert_eq!(models(key["key"].as_str().unwrap()), 200);

    let by_digits = run_with(&folder, "key new --account-key-stdin", &account.stdout);
    assert_eq!(models(by_digits.stdout.trim()), 200, "{}", by_digits.stderr);
    let id = account.stderr.lines().next().unwrap().trim_start_matches("account ");
    let by_id = run(&folder, &format!("key new --scope read --label board --account {id}"));
    assert_eq!(models(by_id.stdout.trim()), 200, "{}", by_id.stderr);

    assert_eq!(models("iris_0000000000000000000000000000000000000000000"), 401);
    assert_eq!(serving.stop().code(), Some(0));
}

#[test]
fn causes_of_failure_have_their_own_exit_codes() {
    let folder = TempDir::new().unwrap();
    let stranger = "0123456789abcdef0123456789abcdef";
    for (line, code, said) in [
        ("serve --listen 0.0.0.0:0", 4, "TLS certificate"),
        ("serve --listen localhost", 2, "listen"),
        ("serve --bogus", 2, "--bogus"),
        ("serve --listen 127.0.0.1:0 --tls-cert a.pem --tls-key b.pem", 4, "a.pem"),
        ("serve --private-key /dev/null", 3, "/dev/null"),
        ("key new --account-key-stdin", 5, "account key"),
        (&format!("key new --account {stranger}"), 5, "account key"),
    ] {
        let ended = run(&folder, line);
        assert_eq!(ended.code, Some(code), "{line}: {}", ended.stderr);
        assert!(ended.stderr.contains(said), "{line}: {}", ended.stderr);
    }
}

#[test]
fn books_serve_one_coordinator_at_a_time() {
    let folder = TempDir::new().unwrap();
    let serving = Serving::start(&folder);
    let second = run(&folder, "serve --listen 127.0.0.1:0");
    assert_eq!(second.code, Some(3));
    assert!(second.stderr.contains("at work"), "{}", second.stderr);
    let check = run(&folder, "check");
    assert_eq!(check.code, Some(0), "{}{}", check.stdout, check.stderr);
    assert!(check.stdout.contains("at work"), "{}", check.stdout);
    assert_eq!(serving.stop().code(), Some(0));
}

#[test]
fn old_books_are_not_opened_with_a_new_secret() {
    let folder = TempDir::new().unwrap();
    run(&folder, "account new");
    let secret = folder.path().join("data/coordinator.secret");
    std::fs::remove_file(&secret).unwrap();
    for line in ["serve --listen 127.0.0.1:0", "account new", "check"] {
        let ended = run(&folder, line);
        assert_eq!(ended.code, Some(3), "{line}");
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(said.contains("restore"), "{line}: {said}");
    }
    assert!(!secret.exists());
}

#[test]
fn public_log_is_gone_on_with_by_the_identity_that_began_it_alone() {
    let folder = TempDir::new().unwrap();
    assert_eq!(Serving::start(&folder).stop().code(), Some(0));
    assert_eq!(run(&folder, "check --listen 127.0.0.1:0").code, Some(0));
    let key = folder.path().join("data/coordinator.key");
    let kept = folder.path().join("kept.key");
    std::fs::rename(&key, &kept).unwrap();
    assert_eq!(run(&folder, "check --listen 127.0.0.1:0").code, Some(3));
    let refused = run(&folder, "serve --listen 127.0.0.1:0");
    assert_eq!(refused.code, Some(3));
    assert!(refused.stderr.contains("public log"), "{}", refused.stderr);
    let checked = run(&folder, "check --listen 127.0.0.1:0");
    assert_eq!(checked.code, Some(3));
    assert!(checked.stdout.contains("WRONG  books: the public log"), "{}", checked.stdout);
    std::fs::rename(&kept, &key).unwrap();
    assert_eq!(Serving::start(&folder).stop().code(), Some(0));
}

#[test]
fn check_leaves_an_empty_folder_empty() {
    let folder = TempDir::new().unwrap();
    let check = run(&folder, "check --listen 127.0.0.1:0");
    assert_eq!(check.code, Some(0), "{}", check.stdout);
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

#[test]
fn printed_settings_show_where_each_came_from_without_secrets() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("iris.yaml"), "queue_capacity: 5\nmax_wait_secs: 6").unwrap();
    let mut command = command(&folder, "--config iris.yaml --print-config --queue-capacity 7");
    let command = command.env("JWT_SECRET", "hunter2").env("RUST_LOG", "warn");
    let output = command.output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    for line in ["queue_capacity = 7", "max_wait_secs = 6", "log_level = \"warn\""] {
        assert!(printed.lines().any(|printed| printed == line), "{line} in {printed}");
    }
    assert!(!printed.contains("hunter2"));
    assert_eq!(output.status.code(), Some(0));
}
