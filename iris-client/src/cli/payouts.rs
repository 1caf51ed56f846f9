//! `iris payouts`.

use std::collections::BTreeMap;

use clap::Args;
use iris_core::Epoch;
use iris_protocol::rest::{Payout, PayoutPage, Statement};

use super::failure::Failure;
use super::figures::{ago, count, until};
use super::network::Listing;
use super::now;
use super::table::{Column, Table, paragraph};
use super::terminal::Output;
use crate::client::Client;

#[derive(Debug, Args)]
pub(super) struct PayoutsArgs {
    /// Tell how the share of this month, such as 2026-11, was computed
    #[arg(value_name = "MONTH", conflicts_with_all = ["limit", "all", "wide"])]
    month: Option<Epoch>,
    #[command(flatten)]
    listing: Listing,
}

pub(super) enum Job {
    List(Listing),
    Statement { month: Epoch, json: bool },
}

impl Job {
    pub(super) fn prepare(args: &PayoutsArgs) -> Self {
        match args.month {
            None => Self::List(args.listing.clone()),
            Some(month) => Self::Statement { month, json: args.listing.is_json() },
        }
    }

    pub(super) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        match self {
            Self::List(listing) => {
                let payouts = listing.read(client.payouts().list()).await?;
                if listing.is_json() {
                    return Ok(output.json(&PayoutPage { payouts, next: None })?);
                }
                listing.print(&payouts, "you have no share of a closed month", table, output)
            }
            Self::Statement { month, json } => {
                let statement = client.payouts().statement(month).await?;
                if json {
                    return Ok(output.json(&statement)?);
                }
                print(&statement, now(), output)
            }
        }
    }
}

fn table(payouts: &[Payout], now: u64, _: bool) -> Table {
    let mut table = Table::new(&[
        Column::new("MONTH", 0),
        Column::new("AMOUNT", 0).number(),
        Column::new("STATE", 0),
        Column::new("RELEASE/PAID", 1),
        Column::new("REFERENCE", 2).cut(),
    ]);
    for payout in payouts {
        table.row([
            payout.epoch.to_string(),
            payout.amount.to_string(),
            payout.state.clone(),
            when(payout, now),
            payout.reference.clone().unwrap_or_default(),
        ]);
    }
    table
}

/// Says when a share is released, and when it was, or was paid or lost.
fn when(payout: &Payout, now: u64) -> String {
    match payout.state.as_str() {
        "held" if payout.release <= now => "due".to_owned(),
        "held" => until(now, payout.release),
        _ => ago(now, payout.since),
    }
}

fn print(statement: &Statement, now: u64, output: &mut Output) -> Result<(), Failure> {
    let month = &statement.month;
    let closed = ago(now, month.closed);
    output.line(&format!("month      {}, closed {closed}", month.epoch))?;
    output.line(&format!("rules      {}", month.policy))?;
    let owners = count(month.owners, "owner", "owners");
    output.line(&format!("pool       {}, shared among {owners}", month.pool))?;
    let share = statement.payout.as_ref().map(|payout| share(payout, now));
    output.line(&format!("share      {}", share.as_deref().unwrap_or("none")))?;
    output.line(&format!("weight     {}", statement.weight))?;
    output.line(&format!("pseudonym  {}", statement.pseudonym))?;
    if !statement.parts.is_empty() {
        output.line("\nThe pool is shared in proportion to weights. Yours comes from:")?;
        print_parts(&statement.parts, output)?;
    }
    Ok(output.line("\nThe month's books, which `iris audit` checks, know you by the pseudonym.")?)
}

/// Says what an owner gets, and what has become of it.
fn share(payout: &Payout, now: u64) -> String {
    let (amount, when) = (payout.amount, when(payout, now));
    let reference = payout.reference.as_deref().map(|text| format!(" ({text})"));
    let reference = reference.unwrap_or_default();
    match payout.state.as_str() {
        "held" if payout.release <= now => format!("{amount}, held, and due to be released"),
        "held" => format!("{amount}, held, and released {when}"),
        "owed" => format!("{amount}, to be paid since {when}"),
        state => format!("{amount}, {state} {when}{reference}"),
    }
}

/// What weights are computed from, in the order in which it is understood.
const PARTS: [(&str, &str); 6] = [
    (
        "work",
        "tokens that your nodes wrote for others, once they were off probation; of tokens read, \
         about four count as one",
    ),
    ("work_counted", "of that counts: each requester moves only so much of an owner's work"),
    (
        "quality_millionths",
        "how sure it is that your nodes run what they offer: 1 would be certain, and each test \
         passed brings it nearer",
    ),
    (
        "promises_thousandths",
        "for the hours that your nodes had promised: above 1 if they were there, below if not",
    ),
    ("nodes", "nodes of yours that something is known of"),
    ("points", "points that they had together at the end of the month"),
];

fn print_parts(parts: &BTreeMap<String, u64>, output: &mut Output) -> Result<(), Failure> {
    let known = PARTS.iter().filter_map(|(name, told)| Some((*name, *parts.get(*name)?, *told)));
    let others = parts.iter().filter(|(name, _)| PARTS.iter().all(|(known, _)| known != name));
    let others = others.map(|(name, value)| (name.as_str(), *value, name.as_str()));
    for (name, value, told) in known.chain(others) {
        paragraph(output, &format!("{:>14}  ", figure(name, value)), told)?;
    }
    Ok(())
}

/// Writes a part with the point where it belongs.
fn figure(name: &str, value: u64) -> String {
    match name {
        "work" | "work_counted" | "promises_thousandths" => {
            format!("{}.{:03}", value / 1000, value % 1000)
        }
        "quality_millionths" => format!("{}.{:06}", value / 1_000_000, value % 1_000_000),
        _ => value.to_string(),
    }
}
