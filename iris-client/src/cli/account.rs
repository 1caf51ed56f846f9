//! `iris account`.

use clap::Subcommand;
use iris_protocol::rest::{Me, Membership, MembershipState, PasswordRequest, Secret};
use serde_json::json;

use super::args::Json;
use super::failure::Failure;
use super::figures::{ago, count, until};
use super::now;
use super::prompt::{self, Wanted};
use super::session::Invited;
use super::terminal::{Output, remark};
use crate::client::Client;

const PASSWORD_SO_FAR: Wanted = Wanted {
    what: "the password so far",
    variable: "IRIS_PASSWORD",
    question: "Password so far: ",
};
const NEW_PASSWORD: Wanted = Wanted {
    what: "the new password",
    variable: "IRIS_NEW_PASSWORD",
    question: "New password (8 characters at least, and not shown): ",
};

#[derive(Debug, Subcommand)]
pub(super) enum AccountCommand {
    /// Open an account without a name and print its 16 digits
    ///
    /// The digits are the account: whoever knows them owns it, and nobody can recover them.
    New {
        #[command(flatten)]
        invited: Invited,
        #[command(flatten)]
        output: Json,
    },
    /// Print what is known of your account
    Show(Json),
    /// Change your password; all sessions end, and this machine is logged in anew
    ///
    /// The password so far is read from `IRIS_PASSWORD`, the new one from `IRIS_NEW_PASSWORD`; you
    /// are asked for what is not set.
    Password(Json),
}

pub(super) struct Job {
    step: Step,
    format: Json,
}

enum Step {
    New(Option<Secret>),
    Show,
    Password(PasswordRequest),
}

impl Job {
    pub(super) fn prepare(args: &AccountCommand) -> Result<Self, Failure> {
        let (step, format) = match args {
            AccountCommand::New { invited, output } => (Step::New(invited.get()?), output),
            AccountCommand::Show(output) => (Step::Show, output),
            AccountCommand::Password(output) => {
                let current = prompt::secret(PASSWORD_SO_FAR)?;
                let new = prompt::new_password(NEW_PASSWORD)?;
                (Step::Password(PasswordRequest { current, new }), output)
            }
        };
        Ok(Self { step, format: format.clone() })
    }

    pub(super) const fn is_about_own_account(&self) -> bool {
        !matches!(self.step, Step::New(_))
    }

    pub(super) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        match self.step {
            Step::New(invitation) => open(client, invitation, &self.format, output).await,
            Step::Show => {
                let me = client.accounts().me().await?;
                if self.format.json {
                    return Ok(output.json(&me)?);
                }
                show(&me, now(), output)
            }
            Step::Password(request) => {
                let account = client.session().change_password(&request).await?;
                if self.format.json {
                    return Ok(output.json(&json!({ "account": account }))?);
                }
                remark("the password is changed, and all other sessions have ended");
                Ok(())
            }
        }
    }
}

async fn open(
    client: &Client,
    invitation: Option<Secret>,
    format: &Json,
    output: &mut Output,
) -> Result<(), Failure> {
    let account = client.accounts().generate(invitation).await?;
    if format.json {
        return Ok(output.json(&account)?);
    }
    output.line(&grouped(account.account_key.expose()))?;
    remark("write these digits down: they are your account, and nobody can recover them");
    remark("next: iris login --digits");
    Ok(())
}

/// Writes an account's digits as people read them.
fn grouped(digits: &str) -> String {
    let digits: Vec<_> = digits.chars().filter(|c| !matches!(c, ' ' | '-')).collect();
    let groups: Vec<String> = digits.chunks(4).map(|group| group.iter().collect()).collect();
    groups.join(" ")
}

fn show(me: &Me, now: u64, output: &mut Output) -> Result<(), Failure> {
    output.line(&format!("account     {}", me.account))?;
    output.line(&format!("e-mail      {}", me.email.as_deref().unwrap_or("none")))?;
    output.line(&format!("opened      {}", ago(now, me.created)))?;
    output.line(&format!("membership  {}", membership(&me.membership, now)))?;
    output.line(&format!("keys        {}", count(me.keys, "API key", "API keys")))?;
    Ok(())
}

fn membership(membership: &Membership, now: u64) -> String {
    let end = |what: &str| match membership.until {
        Some(then) => format!("{what}; ends {}", until(now, then)),
        None => what.to_owned(),
    };
    match membership.state {
        MembershipState::Free => "free: the network takes no fee".to_owned(),
        MembershipState::Trial => end("on trial"),
        MembershipState::Paid => end("paid"),
        MembershipState::Grace => end("the fee is due; all works meanwhile"),
        MembershipState::Lapsed => "the fee was not paid: only your own nodes answer".to_owned(),
    }
}
