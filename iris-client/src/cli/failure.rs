//! How the command ends when it does not end well.

use std::io;
use std::process::ExitCode;

use iris_core::plan::StepError;

use crate::builder::BuildError;
use crate::error::ClientError;
use crate::settings::SettingsError;
use crate::trust::TrustError;

/// Why the command fails, for scripts by number and for people in words.
#[derive(Debug)]
pub(super) struct Failure {
    exit: Exit,
    /// Empty when there is nothing to say.
    pub(super) message: String,
}

/// Exit codes, as `iris --help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exit {
    Quiet = 0,
    Output = 1,
    Usage = 2,
    Unauthorized = 3,
    ModelNotFound = 4,
    Busy = 5,
    Refused = 6,
    Failed = 7,
    Unreachable = 8,
    Privacy = 9,
    Books = 10,
    Interrupted = 130,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(super) fn code(&self) -> ExitCode {
        ExitCode::from(self.exit as u8)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        // What the coordinator says to that is meant for programs.
        let mut parts = vec![if is_unknown_caller(&error) {
            "not admitted: nobody is logged in, or the key is none of this network".to_owned()
        } else {
            error.to_string()
        }];
        let (mut exit, mut advice) = ending(&error);
        if let ClientError::Plan(failure) = &error
            && let Some(cause) = &failure.cause
        {
            let (exit_of_cause, advice_of_cause) = ending(cause);
            advice = advice_of_cause;
            if let StepError::Task { .. } = failure.error {
                exit = exit_of_cause;
            }
        }
        // Many refusals say it themselves.
        if let Some(wait) = error.retry_after().filter(|_| !parts[0].contains("try again in")) {
            parts.push(format!("try again in {} s", wait.as_secs().max(1)));
        }
        parts.extend(advice.map(str::to_owned));
        if parts.len() > 1 && parts[0].ends_with('.') {
            parts[0].pop();
        }
        let mut message = parts.join("; ");
        if let Some(id) = error.request_id() {
            message = format!("{message} (request {id})");
        }
        Self::new(exit, message)
    }
}

/// Returns how the command ends for an error, and what may help.
fn ending(error: &ClientError) -> (Exit, Option<&'static str>) {
    match error {
        ClientError::Trust(TrustError::File { .. }) | ClientError::InvalidPlan(_) => {
            (Exit::Usage, None)
        }
        ClientError::BeyondGuards | ClientError::TooFewOwners { limited: true } => {
            let exit = if error.is_about_privacy() { Exit::Privacy } else { Exit::Failed };
            (exit, Some("--spread lets other nodes work on it, too"))
        }
        ClientError::NoOwnNode => {
            (Exit::Privacy, Some("`iris trust show` lists them, `iris trust pin` adds one"))
        }
        error if error.is_about_privacy() => (Exit::Privacy, None),
        error if is_unknown_caller(error) => {
            (Exit::Unauthorized, Some("log in with `iris login`, or set IRIS_API_KEY"))
        }
        ClientError::Forbidden(refusal) if refusal.code() == Some("invitation_required") => {
            (Exit::Unauthorized, Some("`--invitation` then asks you for it"))
        }
        ClientError::SessionEnded => (Exit::Unauthorized, Some("log in again with `iris login`")),
        ClientError::SessionFile { .. } => (Exit::Usage, None),
        ClientError::Unauthorized(_) | ClientError::Forbidden(_) | ClientError::PaymentDue(_) => {
            (Exit::Unauthorized, None)
        }
        ClientError::ModelNotFound(_) => (Exit::ModelNotFound, Some("`iris models` lists them")),
        ClientError::NoNode(_) | ClientError::RateLimited(_) => (Exit::Busy, None),
        ClientError::BadRequest(_) | ClientError::TooLarge(_) | ClientError::NotFound(_) => {
            (Exit::Refused, None)
        }
        ClientError::PlainHttp => (Exit::Usage, Some("or add --allow-plain-http")),
        ClientError::Timeout(_) => (Exit::Unreachable, Some("--timeout sets another limit")),
        ClientError::Unreachable(_) | ClientError::Connection(_) => {
            (Exit::Unreachable, Some("is the coordinator running? its address is set by --url"))
        }
        _ => (Exit::Failed, None),
    }
}

/// Returns whether neither session nor key is known; digits and passwords are refused otherwise.
fn is_unknown_caller(error: &ClientError) -> bool {
    let ClientError::Unauthorized(refusal) = error else { return false };
    refusal.code() == Some("invalid_api_key")
}

impl From<TrustError> for Failure {
    fn from(error: TrustError) -> Self {
        ClientError::from(error).into()
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            // The reader has seen enough, as in `iris models | head -1`.
            return Self::new(Exit::Quiet, "");
        }
        Self::new(Exit::Output, format!("the answer cannot be written: {error}"))
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        let advice = match error {
            BuildError::PlainHttp => ", or add --allow-plain-http on a private network",
            _ => "",
        };
        Self::usage(format!("{error}{advice}"))
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Self::usage(format!("settings: {error}"))
    }
}
