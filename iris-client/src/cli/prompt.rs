//! What is asked of whoever sits at the terminal. Secrets come from the environment, from a prompt
//! that does not show them, or from lines of standard input; never from arguments, which other
//! users of the machine could see.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use futures::FutureExt;
use iris_protocol::rest::Secret;

use super::failure::{Exit, Failure};

/// The longest line that is read, in bytes.
const MAX_LINE: u64 = 8 << 10;

/// Returns whether somebody is there to be asked.
pub(super) fn is_answered() -> bool {
    io::stdin().is_terminal()
}

/// Returns the secret of this variable, or asks for it.
pub(super) fn secret(variable: &str, question: &str) -> Result<Secret, Failure> {
    match from_environment(variable) {
        Some(secret) => Ok(secret),
        None => ask_secret(question),
    }
}

/// Returns the password to set of this variable, or asks for it, a person twice.
pub(super) fn new_password(variable: &str, question: &str) -> Result<Secret, Failure> {
    if let Some(password) = from_environment(variable) {
        return check_password(password);
    }
    let password = check_password(ask_secret(question)?)?;
    if is_answered() && ask_secret("The same again: ")?.expose() != password.expose() {
        return Err(Failure::usage("the two passwords are not the same; nothing was done"));
    }
    Ok(password)
}

/// Returns the 16 digits of an account, or asks for them.
pub(super) fn account_key() -> Result<Secret, Failure> {
    digits(&secret("IRIS_ACCOUNT_KEY", "Your account's 16 digits: ")?)
}

/// Returns the digits that are set in the environment.
pub(super) fn account_key_in_environment() -> Option<Result<Secret, Failure>> {
    from_environment("IRIS_ACCOUNT_KEY").map(|text| digits(&text))
}

/// Asks for something that anybody may see.
pub(super) fn line(question: &str) -> Result<String, Failure> {
    // Nobody may be listening.
    let _ = write!(io::stderr(), "{question}").and_then(|()| io::stderr().flush());
    read_line().map(|line| line.trim().to_owned())
}

/// Returns the digits of an account, if that is what a text is.
pub(super) fn digits(text: &Secret) -> Result<Secret, Failure> {
    let digits: String = text.expose().chars().filter(|c| !matches!(c, ' ' | '-')).collect();
    if digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        Ok(Secret::new(digits))
    } else {
        Err(Failure::usage("an account key has 16 digits; spaces and dashes may stand between"))
    }
}

fn from_environment(variable: &str) -> Option<Secret> {
    std::env::var(variable).ok().filter(|text| !text.is_empty()).map(Secret::new)
}

fn check_password(password: Secret) -> Result<Secret, Failure> {
    let text = password.expose();
    if text.chars().count() < 8 {
        return Err(Failure::usage("a password has 8 characters at least"));
    }
    if text.len() > 1024 {
        return Err(Failure::usage("a password has 1,024 bytes at most"));
    }
    Ok(password)
}

fn ask_secret(question: &str) -> Result<Secret, Failure> {
    if !is_answered() {
        return read_line().map(Secret::new);
    }
    outlive_interrupts();
    match rpassword::prompt_password(question) {
        Ok(secret) => Ok(Secret::new(secret)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            Err(Failure::new(Exit::Interrupted, "interrupted"))
        }
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(Failure::usage("nothing was entered"))
        }
        Err(error) => Err(Failure::usage(format!("the terminal cannot be read: {error}"))),
    }
}

/// Makes Ctrl-C a result of the prompt. By default it ends the process at once, and leaves a
/// terminal behind that does not show what is typed.
fn outlive_interrupts() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    // Without it the prompt still works, and only Ctrl-C is rough.
    if let Ok(runtime) = runtime {
        let _ = runtime.block_on(async { tokio::signal::ctrl_c().now_or_never() });
    }
}

fn read_line() -> Result<String, Failure> {
    let mut line = String::new();
    let read = io::stdin().lock().take(MAX_LINE).read_line(&mut line);
    match read {
        Ok(0) => Err(Failure::usage("standard input has ended, and something is missing")),
        Ok(_) => Ok(line.trim_end_matches(['\n', '\r']).to_owned()),
        Err(error) => Err(Failure::usage(format!("standard input cannot be read: {error}"))),
    }
}
