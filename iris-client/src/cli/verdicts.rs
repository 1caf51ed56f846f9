//! `iris verdicts`.

use clap::{Args, Subcommand};
use futures::TryStreamExt;
use iris_core::id::VerdictId;
use iris_protocol::rest::{VerdictPage, VerdictState, VerdictSummary};

use super::args::Json;
use super::failure::Failure;
use super::figures::{ago, until};
use super::network::Listing;
use super::now;
use super::table::{Column, Table, distinct, paragraph};
use super::terminal::{Output, remark};
use crate::client::Client;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Verdicts {
    #[command(subcommand)]
    command: Option<VerdictsCommand>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Subcommand)]
enum VerdictsCommand {
    /// List the verdicts on your nodes
    List(Listing),
    /// Tell what was found, how sure that is, and what the node was asked
    Show(One),
    /// Object to a verdict, once and within seven days
    ///
    /// The network's operator decides. Until then no points are lost, and shares of closed months
    /// wait.
    Appeal(Appeal),
}

#[derive(Debug, Args)]
struct One {
    /// The verdict's id, or its beginning as `iris verdicts` shows it
    #[arg(value_name = "VERDICT")]
    id: String,
    #[command(flatten)]
    output: Json,
}

#[derive(Debug, Args)]
struct Appeal {
    #[command(flatten)]
    verdict: One,
    /// What the operator should know
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(super) enum Job {
    List(Listing),
    Show { id: String, format: Json },
    Appeal { id: String, reason: String, format: Json },
}

impl Job {
    pub(super) fn prepare(args: &Verdicts) -> Self {
        match &args.command {
            None => Self::List(args.listing.clone()),
            Some(VerdictsCommand::List(listing)) => Self::List(listing.clone()),
            Some(VerdictsCommand::Show(One { id, output })) => {
                Self::Show { id: id.clone(), format: output.clone() }
            }
            Some(VerdictsCommand::Appeal(Appeal { verdict: One { id, output }, reason })) => {
                Self::Appeal { id: id.clone(), reason: reason.clone(), format: output.clone() }
            }
        }
    }

    pub(super) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        match self {
            Self::List(listing) => {
                let verdicts = listing.read(client.verdicts().list()).await?;
                if listing.is_json() {
                    return Ok(output.json(&VerdictPage { verdicts, next: None })?);
                }
                listing.print(&verdicts, "no node of yours was found lying", table, output)
            }
            Self::Show { id, format } => {
                let verdict = client.verdicts().get(find(client, &id).await?).await?;
                if format.json {
                    return Ok(output.json(&verdict)?);
                }
                print(&verdict, now(), output)
            }
            Self::Appeal { id, reason, format } => {
                let id = find(client, &id).await?;
                let verdict = client.verdicts().appeal(id, &reason).await?;
                if format.json {
                    return Ok(output.json(&verdict)?);
                }
                remark(
                    "your appeal is written down; `iris verdicts` tells what the operator decides",
                );
                Ok(())
            }
        }
    }
}

/// Returns the verdict of this id, or of an id that begins so.
async fn find(client: &Client, name: &str) -> Result<VerdictId, Failure> {
    /// Less of an id could be a slip.
    const FEWEST: usize = 4;
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let (mut verdicts, mut found) = (client.verdicts().list(), None);
    while let Some(verdict) = verdicts.try_next().await? {
        let is_meant = name.len() >= FEWEST && verdict.id.to_string().starts_with(name);
        if is_meant && found.replace(verdict.id).is_some() {
            return Err(Failure::usage(format!(
                "{name} may mean more than one verdict; give the whole id, from `iris verdicts --wide`"
            )));
        }
    }
    found.ok_or_else(|| Failure::usage(format!("there is no verdict {name}; see `iris verdicts`")))
}

fn table(verdicts: &[VerdictSummary], now: u64, wide: bool) -> Table {
    let short = |ids: Vec<String>| if wide { usize::MAX } else { distinct(&ids) };
    let shown = short(verdicts.iter().map(|verdict| verdict.id.to_string()).collect());
    let nodes = short(verdicts.iter().map(|verdict| verdict.node.to_string()).collect());
    let cut = |id: String, shown: usize| id.chars().take(shown).collect::<String>();
    let mut table = Table::new(&[
        Column::new("VERDICT", 0),
        Column::new("STATE", 0),
        Column::new("FOUND", 1),
        Column::new("NODE", 2),
        Column::new("MODEL", 3).cut(),
    ]);
    for verdict in verdicts {
        table.row([
            cut(verdict.id.to_string(), shown),
            state(verdict, now),
            ago(now, verdict.at),
            cut(verdict.node.to_string(), nodes),
            verdict.model.to_string(),
        ]);
    }
    table
}

fn state(verdict: &VerdictSummary, now: u64) -> String {
    match verdict.state {
        VerdictState::Open => format!("final {}", until(now, verdict.appeal_until)),
        VerdictState::Appealed => "appealed".to_owned(),
        VerdictState::Final => "final".to_owned(),
        VerdictState::Overturned => "overturned".to_owned(),
    }
}

fn print(verdict: &VerdictSummary, now: u64, output: &mut Output) -> Result<(), Failure> {
    let VerdictSummary { id, node, model, at, appeal_until, .. } = verdict;
    output.line(&format!("verdict   {id}, found {}", ago(now, *at)))?;
    output.line(&format!("node      {node}"))?;
    paragraph(output, "model     ", model.as_str())?;
    output.line(&match verdict.state {
        VerdictState::Open => format!(
            "state     it can be appealed against, and is final {} otherwise",
            until(now, *appeal_until)
        ),
        VerdictState::Appealed => {
            "state     appealed against; the operator has yet to decide".to_owned()
        }
        VerdictState::Final => "state     final".to_owned(),
        VerdictState::Overturned => "state     void: nothing of it remains".to_owned(),
    })?;
    paragraph(output, "found     ", &verdict.text)?;
    if let Some(said) = &verdict.objection {
        paragraph(output, "you       ", said)?;
    }
    if let Some(said) = &verdict.reason {
        paragraph(output, "operator  ", said)?;
    }
    if !verdict.prompts.is_empty() {
        output.line("\nThe node was asked, at temperature zero:")?;
    }
    for prompt in &verdict.prompts {
        paragraph(output, "  ", prompt)?;
    }
    Ok(())
}
