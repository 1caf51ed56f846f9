//! What is asked of whoever sits at the terminal, or of a script that answers line by line.

use std::io::{self, BufRead, IsTerminal, Write};

use iris_protocol::rest::Secret;

use crate::failure::{Exit, Failure};

/// The longest line that is read, in bytes.
const MAX_LINE: usize = 8 << 10;

/// Asks, or takes what is proposed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    /// Whether every proposal is taken without a question.
    pub(crate) yes: bool,
}

impl Asker {
    /// Asks for something that anybody may see; an empty line means `proposal`.
    pub(crate) fn line(self, question: &str, proposal: &str) -> Result<String, Failure> {
        if self.yes {
            return Ok(proposal.to_owned());
        }
        show(&format!("{question} [{proposal}]: "));
        let line = read_line()?;
        Ok(if line.is_empty() { proposal.to_owned() } else { line })
    }

    /// Asks a question that yes or no answers; an empty line means `proposal`.
    pub(crate) fn agrees(self, question: &str, proposal: bool) -> Result<bool, Failure> {
        let choices = if proposal { "Y/n" } else { "y/N" };
        loop {
            let answer = self.line(question, choices)?;
            match answer.to_ascii_lowercase().as_str() {
                "y/n" => return Ok(proposal),
                "y" | "yes" => return Ok(true),
                "n" | "no" => return Ok(false),
                _ => show("Please answer y or n.\n"),
            }
        }
    }

    /// Asks for something that is not shown as it is typed. A script writes it as a line, even one
    /// that takes all proposals.
    pub(crate) fn secret(question: &str) -> Result<Secret, Failure> {
        if !io::stdin().is_terminal() {
            return Ok(Secret::new(read_line()?));
        }
        match rpassword::prompt_password(question) {
            Ok(secret) => Ok(Secret::new(secret.trim())),
            Err(error) => Err(unread(&error)),
        }
    }
}

/// Writes to where nobody looks for results.
fn show(text: &str) {
    // Nobody may be listening.
    let _ = write!(io::stderr(), "{text}").and_then(|()| io::stderr().flush());
}

/// Reads a line without what surrounds it. A signal ends the wait, which `read_line` would resume.
fn read_line() -> Result<String, Failure> {
    let mut stdin = io::stdin().lock();
    let mut line = Vec::new();
    loop {
        let found = stdin.fill_buf().map_err(|error| unread(&error))?;
        let end = found.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(found.len());
        line.extend_from_slice(&found[..taken]);
        let is_over = found.is_empty();
        stdin.consume(end.map_or(taken, |end| end + 1));
        if line.len() > MAX_LINE {
            return Err(Failure::settings("the line on standard input is too long"));
        }
        if is_over && line.is_empty() {
            return Err(unread(&io::ErrorKind::UnexpectedEof.into()));
        }
        if is_over || end.is_some() {
            return Ok(String::from_utf8_lossy(&line).trim().to_owned());
        }
    }
}

fn unread(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::Interrupted => Failure::new(Exit::Interrupted, "interrupted"),
        io::ErrorKind::UnexpectedEof => Failure::settings(
            "standard input has no answer to this: write a line there, or give flags and --yes",
        ),
        _ => Failure::settings(format!("standard input cannot be read: {error}")),
    }
}
