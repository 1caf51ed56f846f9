//! `iris register`, `iris login` and `iris logout`.

use clap::Args;
use iris_core::AccountId;
use iris_protocol::rest::{LoginRequest, RegisterRequest, Secret};
use serde_json::json;

use super::args::Json;
use super::failure::Failure;
use super::prompt::{self, Wanted};
use super::terminal::{Output, remark};
use crate::client::Client;

/// How a person is asked for an e-mail address.
const EMAIL: &str = "E-mail address: ";
const EMAIL_OR_DIGITS: &str = "E-mail address (or just Enter, to use an account's 16 digits): ";

const PASSWORD: Wanted =
    Wanted { what: "the password", variable: "IRIS_PASSWORD", question: "Password: " };
const INVITATION: Wanted =
    Wanted { what: "the invitation", variable: "IRIS_INVITATION", question: "Invitation: " };

/// An e-mail address and a password.
#[derive(Debug, Args)]
pub(super) struct Register {
    /// Your e-mail address; nothing is sent to it [default: you are asked]
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// Give the name to the account of these 16 digits, rather than open a new one
    #[arg(long, conflicts_with = "invitation")]
    digits: bool,
    #[command(flatten)]
    invited: Invited,
    #[command(flatten)]
    output: Json,
}

/// An invitation.
#[derive(Debug, Args)]
pub(super) struct Invited {
    /// Ask for an invitation, which closed networks want to see (or set `IRIS_INVITATION`)
    #[arg(long)]
    invitation: bool,
}

/// Who logs in.
#[derive(Debug, Args)]
pub(super) struct Login {
    /// Your e-mail address [default: you are asked]
    #[arg(long, value_name = "ADDRESS", conflicts_with = "digits")]
    email: Option<String>,
    /// Log in with the account's 16 digits rather than with e-mail address and password
    #[arg(long)]
    digits: bool,
    #[command(flatten)]
    output: Json,
}

pub(super) struct Job {
    step: Step,
    format: Json,
}

enum Step {
    Register(RegisterRequest),
    Login(LoginRequest),
    Logout,
}

impl Invited {
    /// Returns the invitation that is set, or asked for.
    pub(super) fn get(&self) -> Result<Option<Secret>, Failure> {
        let is_set = std::env::var(INVITATION.variable).is_ok_and(|text| !text.is_empty());
        let wanted = self.invitation || is_set;
        wanted.then(|| prompt::secret(INVITATION)).transpose()
    }
}

impl Job {
    pub(super) fn register(args: &Register) -> Result<Self, Failure> {
        let email = match &args.email {
            Some(email) => email.clone(),
            None if prompt::is_answered() => prompt::line(EMAIL)?,
            None => return Err(Failure::usage("say who you are with --email")),
        };
        check_email(&email)?;
        let account_key = args.digits.then(prompt::account_key).transpose()?;
        let question = "Password (8 characters at least, and not shown): ";
        let password = prompt::new_password(Wanted { question, ..PASSWORD })?;
        let invitation = if args.digits { None } else { args.invited.get()? };
        let request = RegisterRequest { email, password, invitation, account_key };
        Ok(Self { step: Step::Register(request), format: args.output.clone() })
    }

    pub(super) fn login(args: &Login) -> Result<Self, Failure> {
        let digits_are_set = prompt::account_key_in_environment().is_some();
        let request = match &args.email {
            Some(email) => with_password(email.clone())?,
            None if args.digits || digits_are_set => with_digits(prompt::account_key()?),
            None if prompt::is_answered() => {
                let said = prompt::line(EMAIL_OR_DIGITS)?;
                match prompt::digits(&Secret::new(said.as_str())) {
                    Ok(digits) => with_digits(digits),
                    Err(_) if said.is_empty() => with_digits(prompt::account_key()?),
                    Err(_) => with_password(said)?,
                }
            }
            None => return Err(Failure::usage("say who you are with --email, or --digits")),
        };
        Ok(Self { step: Step::Login(request), format: args.output.clone() })
    }

    pub(super) fn logout(format: &Json) -> Self {
        Self { step: Step::Logout, format: format.clone() }
    }

    pub(super) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        let Some(file) = client.session_file() else {
            return Err(Failure::usage("there is no home folder to keep a session in; set HOME"));
        };
        let (account, is_new) = match &self.step {
            Step::Register(request) => (client.session().register(request).await?, true),
            Step::Login(request) => (client.session().login(request).await?, false),
            Step::Logout => return log_out(client, &self.format, output).await,
        };
        if self.format.json {
            let file = file.display().to_string();
            return Ok(output.json(&json!({ "account": account, "session_file": file }))?);
        }
        tell(client, account, is_new);
        Ok(())
    }
}

fn with_password(email: String) -> Result<LoginRequest, Failure> {
    check_email(&email)?;
    let password = Some(prompt::secret(PASSWORD)?);
    Ok(LoginRequest { email: Some(email), password, account_key: None })
}

fn with_digits(digits: Secret) -> LoginRequest {
    LoginRequest { account_key: Some(digits), ..LoginRequest::default() }
}

/// Finds what cannot be an address before a password is asked for.
fn check_email(email: &str) -> Result<(), Failure> {
    let (name, host) = email.split_once('@').unwrap_or_default();
    if name.is_empty() || host.is_empty() || email.contains(char::is_whitespace) {
        return Err(Failure::usage("this is no e-mail address, such as ann@example.org"));
    }
    Ok(())
}

fn tell(client: &Client, account: AccountId, is_new: bool) {
    let base = client.base_url();
    if is_new {
        remark(&format!("welcome: you have the account {account} at {base}"));
    } else {
        remark(&format!("logged in at {base} to the account {account}"));
    }
    if client.has_api_key() {
        remark("IRIS_API_KEY is set, and is used to ask in place of the session");
    } else if is_new {
        remark("next: iris ask \"Why is the sky blue?\"");
    }
}

async fn log_out(client: &Client, format: &Json, output: &mut Output) -> Result<(), Failure> {
    let was = client.session().logout().await;
    if was.is_err() && client.session().account()?.is_none() {
        remark("the session is forgotten here, but the coordinator could not be told");
    }
    let was = was?;
    if format.json {
        return Ok(output.json(&json!({ "was_logged_in": was }))?);
    }
    remark(if was { "logged out" } else { "nobody was logged in" });
    Ok(())
}
