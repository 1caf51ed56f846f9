//! Another process: the test binary itself, running one of its ignored tests.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use tokio::sync::mpsc;

use super::SOON;

/// A child process; killed when it is dropped.
pub(crate) struct Child {
    process: std::process::Child,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Child {
    /// Runs the ignored test `part` of this binary, with `settings` in its environment.
    pub(crate) fn start(part: &str, settings: &[(&str, &str)]) -> Self {
        Self::run(&mut Command::new(std::env::current_exe().unwrap()), part, settings)
    }

    /// The same in surroundings that a shell has prepared by `setup`, itself run by `wrapper`.
    pub(crate) fn start_within(
        wrapper: &[&str],
        setup: &str,
        part: &str,
        settings: &[(&str, &str)],
    ) -> Self {
        let script = format!("{setup} exec \"$0\" \"$@\"");
        let shell = ["sh", "-c", &script];
        let mut words = wrapper.iter().chain(&shell);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg(std::env::current_exe().unwrap());
        Self::run(&mut command, part, settings)
    }

    fn run(command: &mut Command, part: &str, settings: &[(&str, &str)]) -> Self {
        let mut process = command
            .args(["--exact", part, "--ignored", "--nocapture"])
            .envs(settings.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::unbounded_channel();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // A test that is over does not listen any more.
                let _ = sender.send(line);
            }
        });
        Self { process, lines }
    }

    /// Waits until the child says `word`, and returns what follows on the line.
    pub(crate) async fn says(&mut self, word: &str) -> String {
        let said = async {
            while let Some(line) = self.lines.recv().await {
                if let Some((_, rest)) = line.split_once(word) {
                    return rest.trim().to_owned();
                }
            }
            panic!("the child ended without saying {word:?}");
        };
        tokio::time::timeout(SOON, said).await.unwrap_or_else(|_| panic!("waited for {word:?}"))
    }

    /// Waits for the next line that the child says; `None` when it has ended.
    pub(crate) async fn line(&mut self) -> Option<String> {
        self.lines.recv().await
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success(), "{kill}");
    }

    /// Returns whether the child has not ended.
    pub(crate) fn lives(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Kills the child by SIGKILL and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        let status = self.process.wait().unwrap();
        assert!(!status.success(), "the child ends by the kill alone");
    }
}

/// Ends this process, a child, when its parent is gone and with it the other end of its input.
pub(crate) fn end_with_parent() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(1);
    });
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
