//! What is asked of whoever sits at the terminal. Secrets come from the environment, from a prompt
//! that does not show them, or from lines of standard input; never from arguments, which other
//! users of the machine could see.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use futures::FutureExt;
use iris_protocol::rest::Secret;

use super::failure::{Exit, Failure};

/// The longest line that is read, in bytes.
const MAX_LINE: u64 = 8 << 10;

/// A secret that is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// What it is, with its article.
    pub(super) what: &'static str,
    /// The variable that it may be in.
    pub(super) variable: &'static str,
    /// How a person is asked for it.
    pub(super) question: &'static str,
}

const DIGITS: Wanted = Wanted {
    what: "the account's 16 digits",
    variable: "IRIS_ACCOUNT_KEY",
    question: "Your account's 16 digits: ",
};

/// Returns whether somebody is there to be asked.
pub(super) fn is_answered() -> bool {
    io::stdin().is_terminal()
}

/// Returns the secret of the environment, or asks for it.
pub(super) fn secret(wanted: Wanted) -> Result<Secret, Failure> {
    match from_environment(wanted.variable) {
        Some(secret) => Ok(secret),
        None => ask_secret(wanted),
    }
}

/// Returns the password to set of the environment, or asks for it, a person twice.
pub(super) fn new_password(wanted: Wanted) -> Result<Secret, Failure> {
    if let Some(password) = from_environment(wanted.variable) {
        return check_password(password);
    }
    let password = check_password(ask_secret(wanted)?)?;
    let again = Wanted { question: "The same again: ", ..wanted };
    if is_answered() && ask_secret(again)?.expose() != password.expose() {
        return Err(Failure::usage("the two passwords are not the same; nothing was done"));
    }
    Ok(password)
}

/// Returns the 16 digits of an account, or asks for them.
pub(super) fn account_key() -> Result<Secret, Failure> {
    digits(&secret(DIGITS)?)
}

/// Returns the digits that are set in the environment.
pub(super) fn account_key_in_environment() -> Option<Result<Secret, Failure>> {
    from_environment(DIGITS.variable).map(|text| digits(&text))
}

/// Asks for something that anybody may see.
pub(super) fn line(question: &str) -> Result<String, Failure> {
    // Nobody may be listening.
    let _ = write!(io::stderr(), "{question}").and_then(|()| io::stderr().flush());
    let line = read_line()?.ok_or_else(|| Failure::usage("nothing was entered"))?;
    Ok(line.trim().to_owned())
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

fn ask_secret(wanted: Wanted) -> Result<Secret, Failure> {
    if !is_answered() {
        let Wanted { what, variable, .. } = wanted;
        let missing = || {
            Failure::usage(format!(
                "standard input has nothing for {what}: write a line there, or set {variable}"
            ))
        };
        return read_line()?.filter(|line| !line.is_empty()).map(Secret::new).ok_or_else(missing);
    }
    outlive_interrupts();
    match rpassword::prompt_password(wanted.question) {
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

/// Reads a line of standard input; `None` at its end.
fn read_line() -> Result<Option<String>, Failure> {
    let mut line = String::new();
    let read = io::stdin().lock().take(MAX_LINE).read_line(&mut line);
    match read {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(line.trim_end_matches(['\n', '\r']).to_owned())),
        Err(error) => Err(Failure::usage(format!("standard input cannot be read: {error}"))),
    }
}
