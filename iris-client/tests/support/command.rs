//! The `iris` command as a process of its own.

use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

/// What a run of the command left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// What was printed for programs, by a run that went well.
    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, Some(0), "{}", self.err);
        serde_json::from_str(&self.out).expect("the command prints JSON")
    }
}

pub(crate) fn iris(url: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iris"));
    command
        .args(args)
        .env_clear()
        .env("IRIS_URL", url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

pub(crate) async fn finish_with(mut child: Child, input: &str) -> Ran {
    let mut stdin = child.stdin.take().expect("the input is a pipe");
    // The command may end without reading its input.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let done = child.wait_with_output().await.expect("the command can be waited for");
    let text = |bytes| String::from_utf8(bytes).expect("the command writes UTF-8");
    Ran { code: done.status.code(), out: text(done.stdout), err: text(done.stderr) }
}

pub(crate) async fn run(url: &str, args: &[&str]) -> Ran {
    run_with(url, args, "").await
}

pub(crate) async fn run_with(url: &str, args: &[&str], input: &str) -> Ran {
    finish_with(iris(url, args).spawn().expect("the command was built"), input).await
}

/// Runs the command with a home folder of its own.
pub(crate) async fn run_at_home(url: &str, home: &Path, args: &[&str]) -> Ran {
    answer_at_home(url, home, args, "").await
}

/// The same, with what it reads from standard input.
pub(crate) async fn answer_at_home(url: &str, home: &Path, args: &[&str], input: &str) -> Ran {
    let mut command = iris(url, args);
    command.env("HOME", home);
    finish_with(command.spawn().expect("the command was built"), input).await
}
