//! Why the command ends: one sentence, and an exit code that tells causes apart.

use std::fmt;
use std::process::ExitCode;

/// The exit codes of failures, as `--help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Work = 1,
    Settings = 2,
    Credential = 3,
    Coordinator = 4,
    Files = 5,
    Interrupted = 130,
}

/// A failure and what to do about it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }

    pub(crate) fn settings(message: impl fmt::Display) -> Self {
        Self::new(Exit::Settings, message)
    }

    pub(crate) fn files(message: impl fmt::Display) -> Self {
        Self::new(Exit::Files, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
