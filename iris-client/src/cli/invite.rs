//! `iris invite`.

use std::time::Duration;

use clap::{Args, Subcommand};
use iris_protocol::rest::{InvitationList, InvitationRequest, InvitationSummary, KeyId};

use super::args::{Json, Rows};
use super::failure::Failure;
use super::figures::{ago, parse_span, until};
use super::keys::one_of;
use super::now;
use super::table::{Column, Table, distinct};
use super::terminal::{Output, remark};
use crate::client::Client;

#[derive(Debug, Subcommand)]
pub(super) enum InviteCommand {
    /// Make an invitation and print it
    ///
    /// Whoever has it can open an account: `iris register --invitation`.
    New(NewInvitation),
    /// List your invitations that are still good
    List(Rows),
    /// Take an invitation back; accounts that it opened stay
    Revoke(OneInvitation),
}

#[derive(Debug, Args)]
pub(super) struct NewInvitation {
    /// How many accounts it opens
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// How long it is good, such as 12h or 7d
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = parse_span)]
    valid: Duration,
    /// For whom it is, in your own words
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    #[command(flatten)]
    output: Json,
}

#[derive(Debug, Args)]
pub(super) struct OneInvitation {
    /// The invitation's id, as `iris invite list` shows it, or its label
    #[arg(value_name = "INVITATION")]
    name: String,
    #[command(flatten)]
    output: Json,
}

pub(super) enum Job {
    New { request: InvitationRequest, format: Json },
    List(Rows),
    Revoke { name: String, format: Json },
}

impl Job {
    pub(super) fn prepare(args: &InviteCommand) -> Self {
        match args {
            InviteCommand::New(args) => {
                let request = InvitationRequest {
                    uses: Some(args.uses),
                    valid_secs: Some(args.valid.as_secs()),
                    label: args.label.clone(),
                };
                Self::New { request, format: args.output.clone() }
            }
            InviteCommand::List(rows) => Self::List(rows.clone()),
            InviteCommand::Revoke(args) => {
                Self::Revoke { name: args.name.clone(), format: args.output.clone() }
            }
        }
    }

    pub(super) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        match self {
            Self::New { request, format } => {
                let created = client.invitations().create(&request).await?;
                if format.json {
                    return Ok(output.json(&created)?);
                }
                output.line(created.invitation.expose())?;
                remark("it is shown once; whoever has it runs `iris register --invitation`");
                Ok(())
            }
            Self::List(rows) => {
                let invitations = client.invitations().list().await?;
                if rows.json {
                    return Ok(output.json(&InvitationList { invitations })?);
                }
                if invitations.is_empty() {
                    remark("no invitation is open; `iris invite new` makes one");
                    return Ok(());
                }
                Ok(table(&invitations, now(), rows.wide).write(output, rows.wide)?)
            }
            Self::Revoke { name, format } => {
                let invitation = find(client, &name).await?;
                client.invitations().revoke(invitation).await?;
                if format.json {
                    return Ok(output.json(&serde_json::json!({ "revoked": invitation }))?);
                }
                remark(&format!("the invitation {invitation} opens no account any more"));
                Ok(())
            }
        }
    }
}

async fn find(client: &Client, name: &str) -> Result<KeyId, Failure> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let invitations = client.invitations().list().await?;
    let known = invitations.iter().map(|one| (one.id, one.label.as_deref()));
    one_of(known, name, "invitation", "iris invite list")
}

fn table(invitations: &[InvitationSummary], now: u64, wide: bool) -> Table {
    let ids: Vec<_> = invitations.iter().map(|one| one.id.to_string()).collect();
    let shown = if wide { usize::MAX } else { distinct(&ids) };
    let mut table = Table::new(&[
        Column::new("INVITATION", 0),
        Column::new("LABEL", 0).cut(),
        Column::new("USES LEFT", 1).number(),
        Column::new("EXPIRES", 2),
        Column::new("MADE", 3),
    ]);
    for (one, id) in invitations.iter().zip(&ids) {
        table.row([
            id.chars().take(shown).collect(),
            one.label.clone().unwrap_or_default(),
            one.uses_left.to_string(),
            until(now, one.expires),
            ago(now, one.created),
        ]);
    }
    table
}
