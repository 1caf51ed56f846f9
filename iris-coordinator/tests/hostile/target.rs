//! The coordinator's own command, with an account, its keys and a healthy node.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

use tempfile::TempDir;

use crate::client::{Reply, request, send};
use crate::node::{Node, Step};

/// A serving coordinator; killed when it is dropped.
pub(crate) struct Target {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) node_key: String,
    authorization: String,
    _node: Node,
    _stdout: BufReader<ChildStdout>,
    _folder: TempDir,
}

impl Target {
    pub(crate) async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let digits = run(&folder, "account new", "");
        let key =
            |scope: &str| run(&folder, &format!("key new --account-key-stdin{scope}"), &digits);
        let (user, node_key) = (key(""), key(" --scope node"));
        let mut child = command(&folder, "serve --listen 127.0.0.1:0").spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let (_, address) = line.trim().split_once("http://").unwrap_or_else(|| panic!("{line:?}"));
        let address = address.parse().unwrap();
        let whole =
            r#"{"choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}]}"#;
        let steps = vec![Step::whole(whole), Step::Finish("stop")];
        let node = Node::connect(address, &node_key, 8, steps).await;
        let authorization = format!("Bearer {user}");
        Self {
            child,
            address,
            node_key,
            authorization,
            _node: node,
            _stdout: stdout,
            _folder: folder,
        }
    }

    pub(crate) fn bearer(&self) -> (&str, &str) {
        ("authorization", &self.authorization)
    }

    /// Asks what the healthy node answers.
    pub(crate) async fn chat(&self) -> Reply {
        let model = Node::MODEL;
        let body =
            format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}]}}"#);
        send(self.address, request("POST", "/v1/chat/completions", &[self.bearer()], &body)).await
    }

    /// Returns the memory that the process has now, and had at most, in MiB.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
        };
        (field("VmRSS:"), field("VmHWM:"))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns how many files this process, and each that it starts, may have open.
pub(crate) fn open_files() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap_or(usize::MAX)
}

fn command(folder: &TempDir, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iris-coordinator"));
    command.args(line.split_whitespace()).current_dir(folder.path()).env_clear();
    command.env("RUST_LOG", "error").stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn run(folder: &TempDir, line: &str, input: &str) -> String {
    let mut child = command(folder, line).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{line}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
