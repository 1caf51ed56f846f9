//! The `iris-coordinator` command as a process.
#![cfg(all(unix, feature = "cli"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use iris_coordinator::payouts::{PayPolicy, Payouts};
use iris_coordinator::store::{SqliteStore, VIEWS};
use iris_coordinator::{Clock, Settlement, SystemClock};
use iris_core::backend::Usage;
use iris_core::ledger::{Book, Cause, Manual, Money, Movement};
use iris_core::reward::audit::Audit;
use iris_core::store::{Batch, Document, Key, Store};
use iris_core::task::{Attempt, AttemptEnd, TaskState};
use iris_core::{AccountId, NodeId, TaskId, Timestamp};
use iris_crypto::keyfile::{Purpose, SecretFile};
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

/// Returns the id in a sentence like `account ID` or `invitation ID, ...`.
fn id_in(text: &str, name: &str) -> String {
    let (_, rest) = text.split_once(&format!("{name} ")).unwrap_or_else(|| panic!("{text}"));
    rest.chars().take_while(char::is_ascii_hexdigit).collect()
}

#[test]
fn invitations_are_made_listed_and_taken_back() {
    let folder = TempDir::new().unwrap();
    let serving = Serving::start(&folder);
    let join = |invitation: &str| {
        let body = format!(r#"{{"invitation":"{invitation}"}}"#);
        serving.request("POST", "/accounts/generate", "", &body).0
    };
    let made = run(&folder, "invite new --uses 2 --days 1 --label Eve");
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let invitation = made.stdout.trim();
    assert!(invitation.starts_with("iris_invite_") && invitation.len() == 64, "{invitation}");
    let id = id_in(&made.stderr, "invitation");
    let list = || {
        let listed = run(&folder, "invite list");
        assert_eq!(listed.code, Some(0), "{}", listed.stderr);
        assert!(!listed.stdout.contains("iris_invite_"), "it is shown once");
        listed.stdout
    };
    assert!(list().starts_with(&format!("{id}  opens 2 more")) && list().ends_with("  Eve\n"));
    assert_eq!(join(invitation), 201, "a running coordinator knows it at once");
    assert!(list().starts_with(&format!("{id}  opens 1 more")), "{}", list());

    let revoked = run(&folder, &format!("invite revoke {id}"));
    assert_eq!((revoked.code, revoked.stdout.as_str()), (Some(0), "taken back\n"));
    assert_eq!(list(), "");
    assert_eq!(join(invitation), 403);
    for (line, code, said) in [
        (format!("invite revoke {id}"), 5, "no such invitation"),
        ("invite revoke '--".to_owned(), 2, "24 characters"),
        ("invite new --uses 0".to_owned(), 2, "uses"),
        ("invite new --days 0".to_owned(), 2, "valid_secs"),
        ("invite new --days 100000".to_owned(), 2, "valid_secs"),
        (format!("invite new --label {}", "x".repeat(65)), 2, "label"),
    ] {
        let refused = run(&folder, &line);
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(code), ""), "{line}");
        assert!(refused.stderr.contains(said), "{line}: {}", refused.stderr);
    }
}

#[test]
fn payment_counts_once_and_a_running_coordinator_takes_it_in() {
    let folder = TempDir::new().unwrap();
    let account = run(&folder, "account new");
    let id = id_in(&account.stderr, "account");
    let pay = |months: &str, reference: &str| {
        run(&folder, &format!("account pay {id} {FEE} --months {months} --reference {reference}"))
    };
    let first = pay("1", "2026-1");
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let until = |paid: &Ended| -> u64 {
        let number = paid.stdout.strip_prefix("paid until ").unwrap().split(' ').next();
        number.unwrap().parse().unwrap()
    };
    let again = pay("1", "2026-1");
    assert_eq!((again.code, until(&again)), (Some(0), until(&first)), "it counts once");
    let second = pay("2", "2026-2");
    let days = (until(&second) - until(&first)) / 86_400;
    assert!((59..=62).contains(&days), "{days}");
    let free = run(&folder, &format!("account pay {id} --months 1 --reference 2026-3"));
    assert_eq!((free.code, free.stdout.as_str()), (Some(2), ""), "{}", free.stderr);
    assert!(free.stderr.contains("membership_fee is 0"), "{}", free.stderr);

    let mut command = command(&folder, &format!("serve --listen 127.0.0.1:0 {FEE}"));
    let serving = Serving::run(&mut command);
    let verify = format!(r#"{{"account_key":"{}"}}"#, account.stdout.trim());
    let (status, me) = serving.request("POST", "/accounts/verify", "", &verify);
    assert_eq!((status, &me["membership"]["state"]), (200, &Value::from("paid")), "{me}");
    assert_eq!(me["membership"]["until"], until(&second), "{me}");

    let stranger = "0123456789abcdef0123456789abcdef";
    for (line, code, said) in [
        (format!("account pay {id} --months 2 --reference 2026-1"), 5, "another number of months"),
        (format!("account pay {stranger} --months 1 --reference x"), 5, "no such account"),
        (format!("account pay {id} --months 0 --reference x"), 2, "months"),
        (format!("account pay {id} --months 121 --reference x"), 2, "months"),
        (format!("account pay {id} --months 1"), 2, "reference"),
        (format!("account pay {id} --months 1 --reference {}", "x".repeat(129)), 2, "reference"),
        ("account pay 1234567890123456 --months 1 --reference x".to_owned(), 2, "ACCOUNT"),
    ] {
        let refused = run(&folder, &format!("{line} {FEE}"));
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(code), ""), "{line}");
        assert!(refused.stderr.contains(said), "{line}: {}", refused.stderr);
    }
}

const FEE: &str = "--membership-fee 5000000";

#[test]
fn logins_of_older_systems_are_imported_and_bad_lines_named_and_left_out() {
    let folder = TempDir::new().unwrap();
    let bcrypt = "$2a$05$abcdefghijklmnopqrstuuWG29KuyeAicPCJODk1zjyGvyQUU2awu";
    let argon2 = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$\
                  CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
    let line = |email: &str, hash: &str| {
        format!("{}\n", serde_json::json!({"email": email, "password_hash": hash}))
    };
    let good = [line("ada@example.org", bcrypt), "\n".to_owned(), line("Eve@Example.org", argon2)];
    let path = folder.path().join("logins.jsonl");
    std::fs::write(&path, good.concat()).unwrap();
    let imported = run(&folder, "account import logins.jsonl");
    assert_eq!(imported.code, Some(0), "{}", imported.stderr);
    assert_eq!(imported.stdout, "2 accounts opened, 0 known already, 0 lines left out\n");

    let bad = [
        line("eve@example.org", bcrypt),
        line("no address", bcrypt),
        line("a@example.org", "5f4dcc3b5aa765d61d8327deb882cf99"),
        line("b@example.org", &bcrypt.replace("$05$", "$31$")),
        line("c@example.org", &argon2.replace("65536", "4294967295")),
        "hunter2\n".to_owned(),
        "{\"email\":\"d@example.org\"}\n".to_owned(),
        format!("{}{}", " ".repeat(5000), line("e@example.org", bcrypt)),
        line("f@example.org", argon2).trim_end().to_owned(),
    ];
    let last = line("g@example.org", bcrypt);
    let bad = [bad.concat().as_bytes(), b"\n\xff\xfe\n", last.as_bytes()].concat();
    std::fs::write(&path, bad).unwrap();
    let imported = run(&folder, "account import logins.jsonl");
    assert_eq!(imported.code, Some(2), "{}", imported.stderr);
    assert_eq!(imported.stdout, "2 accounts opened, 1 known already, 8 lines left out\n");
    let named: Vec<_> =
        imported.stderr.lines().filter_map(|line| line.strip_prefix("line ")).collect();
    let numbers: Vec<_> = named.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(numbers, ["2", "3", "4", "5", "6", "7", "8", "10"], "{}", imported.stderr);
    for secret in ["hunter2", "eve@", "b@", "no address", "$2a$05$", "5f4dcc3b"] {
        assert!(!imported.stderr.contains(secret), "{secret} in {}", imported.stderr);
    }
    assert_eq!(run(&folder, "account import missing.jsonl").code, Some(2));

    let serving = Serving::start(&folder);
    let login = |email: &str, password: &str| {
        let body = serde_json::json!({"email": email, "password": password}).to_string();
        serving.request("POST", "/auth/login", "", &body).0
    };
    for email in ["ada@example.org", "eve@example.org", "f@example.org", "g@example.org"] {
        for _ in 0..2 {
            assert_eq!(login(email, "password"), 200, "{email}");
        }
        assert_eq!(login(email, "passwort"), 401, "{email}");
    }
    assert_eq!(login("e@example.org", "password"), 401, "its line was too long");
}

/// Whoever knows the secret can sign tokens for every account.
#[test]
fn attack_27_coordinator_with_a_default_or_short_jwt_secret_does_not_start() {
    let folder = TempDir::new().unwrap();
    let strong = "0123456789abcdef0123456789abcdef";
    let public = "--listen 0.0.0.0:0 --trusted-proxy 127.0.0.1";
    let behind = "--listen 127.0.0.1:0 --trusted-proxy 127.0.0.1";
    for line in [public, behind] {
        for name in ["JWT_SECRET", "JWT_SECRET_PREVIOUS"] {
            for secret in ["hunter2", "dev-secret-change-me-in-production-12345", &strong[1..]] {
                let mut command = command(&folder, line);
                let mut child =
                    command.env("JWT_SECRET", strong).env(name, secret).spawn().unwrap();
                // One that served would say so here, and not end.
                let mut ready = String::new();
                BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
                if !ready.is_empty() {
                    child.kill().unwrap();
                    panic!("{line} {name} {secret}: {ready}");
                }
                let ended = child.wait_with_output().unwrap();
                let said = String::from_utf8(ended.stderr).unwrap();
                assert_eq!(ended.status.code(), Some(2), "{line} {name} {secret}: {said}");
                assert!(said.contains(name) && said.contains("at least 32 bytes"), "{said}");
                assert!(!said.contains(secret), "{said}");
            }
        }
    }
    assert!(!folder.path().join("data").exists(), "nothing was made");
    let mut command = command(&folder, behind);
    let serving = Serving::run(command.env("JWT_SECRET", strong));
    assert_eq!(serving.stop().code(), Some(0), "a strong one is good");
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

/// A clock that stands still.
#[derive(Debug)]
struct Stopped(Timestamp);

impl Clock for Stopped {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn calendar(&self) -> Timestamp {
        self.0
    }
}

const WORKER: AccountId = AccountId::from_bytes([3; 16]);

fn store(folder: &TempDir) -> Arc<SqliteStore> {
    Arc::new(SqliteStore::open(folder.path().join("data/iris.db"), VIEWS).unwrap())
}

/// Releases what `WORKER` earned, as a coordinator does within an hour of its time.
async fn release(store: &SqliteStore) {
    let key = Key::new("share", format!("2025-01-{WORKER}")).unwrap();
    let mut share: Value = store.get(key.clone()).await.unwrap().unwrap().value.decode().unwrap();
    share["state"] = "owed".into();
    let (now, amount) = (SystemClock.calendar(), Money::micros(12_500_000));
    let cause = Cause::Released { epoch: "2025-01".parse().unwrap(), owner: WORKER };
    let (from, into) = (Book::Held(WORKER), Book::Owed(WORKER));
    let moved = Movement::between(cause, now, from, into, amount).unwrap();
    let movement = Key::new("movement", moved.cause().id()).unwrap();
    let batch = Batch::new().put(key, Document::encode(&share));
    store.commit(batch.put(movement, Document::encode(&moved))).await.unwrap();
}

/// Writes down that a node of `WORKER` answered a question in January 2025, when the operator had
/// put 12.5 into the pool.
fn work_in_january(folder: &TempDir) {
    let (january, store) = (Timestamp::from_millis(1_736_000_000_000), store(folder));
    let data = folder.path().join("data");
    let secret = SecretFile::new(data.join("coordinator.secret"), Purpose::Records).load().unwrap();
    let node: NodeId = "a".repeat(26).parse().unwrap();
    let whose = serde_json::json!({ "owner": WORKER, "first_seen": january });
    let batch = Batch::new().put(Key::new("node", node).unwrap(), Document::encode(&whose));
    let done = Settlement {
        task: TaskId::from_bytes([1; 16]),
        account: AccountId::from_bytes([2; 16]),
        key: None,
        model: "m".parse().unwrap(),
        state: TaskState::Finished,
        attempts: vec![Attempt { node, end: AttemptEnd::Done }],
        usage: Usage { prompt_tokens: 9, completion_tokens: 290 },
        submitted: january,
        first_chunk_ms: None,
        took_ms: 900,
        limit_ms: 60_000,
        sealed: false,
        receipt: None,
        difficulty: None,
    };
    let batch = done.write(batch);
    let clock = Arc::new(Stopped(january));
    let policy = PayPolicy::named("seed").unwrap();
    let payouts = Payouts::new(store.clone(), &secret, policy, Arc::new(Manual), clock);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        store.commit(batch).await.unwrap();
        payouts.top_up(Money::micros(12_500_000), "first").await.unwrap();
    });
}

#[test]
fn first_month_is_closed_by_the_rules_and_the_clock_of_the_coordinator() {
    let folder = TempDir::new().unwrap();
    assert_eq!(Serving::start(&folder).stop().code(), Some(0));
    work_in_january(&folder);
    let refused = run(&folder, "month close 2025-01 --pay-by seed");
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""), "{}", refused.stderr);
    assert!(refused.stderr.contains("Close it with --pay-by evidence"), "{}", refused.stderr);

    let clock = serde_json::json!({ "seen": 1_740_000_000_000_u64, "steady": 0 });
    let note = Batch::new().put(Key::new("steady", "clock").unwrap(), Document::encode(&clock));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let books = store(&folder);
    runtime.block_on(books.commit(note)).unwrap();
    drop(books);
    let refused = run(&folder, "month close 2025-01");
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(6), ""), "{}", refused.stderr);
    assert!(refused.stderr.contains("--clock-is-right"), "{}", refused.stderr);
    let closed = run(&folder, "month close 2025-01 --clock-is-right");
    assert_eq!(closed.code, Some(0), "{}", closed.stderr);
    // What is closed is told, whatever the clock says.
    assert_eq!(run(&folder, "month close 2025-01").stdout, closed.stdout);
}

#[test]
fn a_month_is_closed_exported_and_its_shares_listed() {
    let folder = TempDir::new().unwrap();
    let told = |line: &str| {
        let ended = run(&folder, &format!("{line} --pay-by seed"));
        assert_eq!(ended.code, Some(0), "{line}: {}", ended.stderr);
        (ended.stdout, ended.stderr)
    };
    let nothing = |said: &str| (String::new(), said.to_owned());
    assert_eq!(told("pool show"), nothing("the books hold nothing\n"));
    work_in_january(&folder);
    assert_eq!(told("month list"), nothing("no month is closed yet\n"));
    let before = "          -12.500000  outside\n           12.500000  pool:2025-01\n";
    assert_eq!(told("pool show").0, before);

    let summary = "2025-01  by seed: 12.500000 for 1 owner, 0.000000 carried over; shares \
                   released at 1740960000 (seconds since 1970)\n";
    assert_eq!(told("month close 2025-01").0, summary);
    assert_eq!(told("month close 2025-01").0, summary, "a month is closed once");
    assert_eq!(told("month list").0, summary);
    assert_eq!(told("payout list 2025-01").0, format!("{WORKER}             12.500000  held\n"));
    let after = format!("          -12.500000  outside\n           12.500000  held:{WORKER}\n");
    assert_eq!(told("pool show").0, after);

    let books = told("month export 2025-01").0;
    let mut audit = Audit::default();
    books.lines().for_each(|line| audit.line(line).unwrap());
    let report = audit.finish().unwrap();
    let share = &report.outcome.closing.shares[0];
    assert_eq!((report.tasks, share.amount), (1, Money::micros(12_500_000)));
    assert!(!books.contains(&WORKER.to_string()), "books name nobody");
    let (pseudonym, weight) = (share.owner, share.weight.weight);
    let table = format!(
        "month,account,pseudonym,amount_micros,weight,state,reference\n\
         2025-01,{WORKER},{pseudonym},12500000,{weight},held,\n"
    );
    assert_eq!(told("month export 2025-01 --format csv").0, table);

    for (line, code, said) in [
        ("month close 2025-03", 6, "2025-02 must be closed first"),
        ("month close 2025-13", 2, "YYYY-MM"),
        ("month export 2025-02", 6, "2025-02 is not closed; `month list` names"),
        ("payout list 2025-02", 6, "2025-02 is not closed"),
        (&format!("payout paid 2025-01 {WORKER} --reference a"), 6, "held, not owed; it can be"),
        (
            &format!("payout paid 2025-01 {} --reference a", "0".repeat(32)),
            6,
            "no share of 2025-01",
        ),
        (&format!("payout paid 2025-01 {WORKER}"), 2, "--reference"),
    ] {
        let refused = run(&folder, &format!("{line} --pay-by seed"));
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(code), ""), "{line}");
        assert!(refused.stderr.contains(said), "{line}: {}", refused.stderr);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(release(&store(&folder)));
    let paid = format!("{WORKER}             12.500000  paid       1,\"2\"\n");
    let pay = format!("payout paid 2025-01 {WORKER} --reference");
    assert_eq!(told(&format!("{pay} 1,\"2\"")).0, paid);
    assert_eq!(told(&format!("{pay} 1,\"2\"")).0, paid, "it counts once");
    assert_eq!(told("payout list 2025-01").0, paid);
    assert!(told("month export 2025-01 --format csv").0.ends_with(",paid,\"1,\"\"2\"\"\"\n"));
    assert_eq!(told("pool show"), nothing("the books hold nothing\n"));
    let again = run(&folder, &format!("{pay} 3"));
    assert_eq!(again.code, Some(6), "{}", again.stderr);
    assert!(again.stderr.contains("paid, not owed; `payout list`"), "{}", again.stderr);
    // Other rules cannot go on from the state of these.
    let other = run(&folder, "month close 2025-02 --pay-by evidence");
    assert_eq!(other.code, Some(2), "{}", other.stderr);
    assert!(other.stderr.contains("--pay-by"), "{}", other.stderr);
}

#[test]
fn money_is_added_to_the_running_month_once_for_each_reference() {
    let folder = TempDir::new().unwrap();
    let add = |amount: &str, reference: &str| {
        run(&folder, &format!("pool add {amount} --reference {reference}"))
    };
    for _ in 0..2 {
        let added = add("12.50", "a");
        assert_eq!(added.code, Some(0), "{}", added.stderr);
        assert!(added.stdout.contains("           12.500000  pool:"), "{}", added.stdout);
    }
    assert!(add("0.000001", "b").stdout.contains("           12.500001  pool:"));
    for (amount, reference, code, said) in [
        ("12.51", "a", 6, "another amount; give each payment"),
        ("0", "c", 2, "more than nothing"),
        ("1.0000001", "c", 2, "six digits"),
        ("1,5", "c", 2, "six digits"),
        ("1e3", "c", 2, "six digits"),
        ("9223372036854.775808", "c", 2, "six digits"),
        ("1", &"x".repeat(129), 2, "128 bytes"),
    ] {
        let refused = add(amount, reference);
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(code), ""), "{amount}");
        assert!(refused.stderr.contains(said), "{amount}: {}", refused.stderr);
    }
    let month = run(&folder, "pool show").stdout;
    let month = month.trim().rsplit_once("pool:").unwrap().1.to_owned();
    let early = run(&folder, &format!("month close {month}"));
    assert_eq!(early.code, Some(6), "{}", early.stderr);
    assert!(early.stderr.contains("from 1") && early.stderr.contains("on (seconds"));
}

/// Writes down that a node of `owner` was found lying a day ago; says what its owner says to it.
async fn convict(folder: &TempDir, id: &str, objection: Option<&str>) {
    let trial = serde_json::json!({"tokens": 90, "mismatches": 30, "likelihood": 13_000_000});
    let now = SystemClock.calendar().as_millis();
    let verdict = serde_json::json!({
        "id": id, "node": "a".repeat(26), "owner": WORKER, "model": "m",
        "offence": "another_model", "at": now - 86_400_000, "appeal_until": now + 86_400_000,
        "evidence": {
            "suspicion": trial, "suspecting": WORKER, "confirmation": trial, "answers": 1,
            "confirming": [], "error": 100, "prompts": [],
        },
    });
    let appeal = objection.map(|_| serde_json::json!({"state": "open", "at": now}));
    let mut case = serde_json::json!({"verdict": verdict, "appeal": appeal, "seeds": [],
        "prompts": []});
    if let Some(text) = objection {
        case["objection"] = text.into();
    }
    let batch = Batch::new().put(Key::new("verdict", id).unwrap(), Document::encode(&case));
    store(folder).commit(batch).await.unwrap();
}

#[tokio::test]
async fn operator_reads_verdicts_and_decides_what_their_owners_object_to() {
    let folder = TempDir::new().unwrap();
    assert_eq!(run(&folder, "account new").code, Some(0));
    let before = run(&folder, "verdict list");
    assert_eq!((before.code, before.stderr.as_str()), (Some(0), "no node was found lying\n"));
    let (open, appealed) = ("01".repeat(16), "02".repeat(16));
    convict(&folder, &open, None).await;
    convict(&folder, &appealed, Some("It was the file.")).await;
    let node = "a".repeat(26);
    let list = run(&folder, "verdict list");
    let line = |id: &str, state: &str| format!("{id}  {state:<10}  {node}  {WORKER}  m\n");
    assert_eq!(list.stdout, line(&open, "open") + &line(&appealed, "appealed"));
    let shown = run(&folder, &format!("verdict show {appealed}"));
    assert!(shown.stdout.contains("30 of 90 tokens"), "{}", shown.stdout);
    assert!(shown.stdout.contains("owner     It was the file.\n"), "{}", shown.stdout);
    for (command, exit, said) in [
        (format!("verdict show {}", "03".repeat(16)), 7, "no such verdict; `verdict list` names"),
        (format!("verdict overturn {open}"), 7, "no open appeal"),
        ("verdict show x".to_owned(), 2, "VERDICT"),
    ] {
        let refused = run(&folder, &command);
        assert_eq!(refused.code, Some(exit), "{command}: {}", refused.stderr);
        assert!(refused.stderr.contains(said), "{command}: {}", refused.stderr);
    }
    let decided = run(&folder, &format!("verdict overturn {appealed} --reason mended"));
    assert_eq!((decided.code, decided.stdout), (Some(0), line(&appealed, "overturned")));
    let shown = run(&folder, &format!("verdict show {appealed}"));
    assert!(shown.stdout.contains("operator  mended\n"), "{}", shown.stdout);
    let again = run(&folder, &format!("verdict uphold {appealed}"));
    assert_eq!(again.code, Some(7), "{}", again.stderr);
}
