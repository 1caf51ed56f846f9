//! What an operator does about money: closing months, giving their books away, and writing down
//! what was paid.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use futures::TryStreamExt;
use iris_coordinator::SystemClock;
use iris_coordinator::payouts::{MonthRecord, PayoutError, Payouts, ShareRecord, ShareState};
use iris_core::Epoch;
use iris_core::ledger::Manual;

use crate::admin::{say, unwritten};
use crate::books::Books;
use crate::cli::{ExportFormat, MonthCommand, PayoutCommand, PoolCommand};
use crate::failure::{Exit, Failure};
use crate::settings::Settings;

/// Lists, closes and exports months.
pub(crate) async fn month(settings: &Settings, command: &MonthCommand) -> Result<(), Failure> {
    let payouts = payouts(settings)?;
    match command {
        MonthCommand::List => {
            let months = payouts.months().await.map_err(refused)?;
            if months.is_empty() {
                eprintln!("no month is closed yet");
            }
            months.iter().try_for_each(|month| say(&summary(month)))
        }
        MonthCommand::Close { month, clock_is_right } => {
            if !clock_is_right && payouts.month(*month).await.is_err() {
                payouts.check_clock().await.map_err(refused)?;
            }
            say(&summary(&payouts.close(*month).await.map_err(refused)?))
        }
        MonthCommand::Export { month, format: ExportFormat::Jsonl } => {
            export(&payouts, *month).await
        }
        MonthCommand::Export { month, format: ExportFormat::Csv } => table(&payouts, *month).await,
    }
}

/// Lists shares, and writes down that they were paid.
pub(crate) async fn payout(settings: &Settings, command: &PayoutCommand) -> Result<(), Failure> {
    let payouts = payouts(settings)?;
    match command {
        PayoutCommand::List { month } => {
            let shares = shares(&payouts, *month).await?;
            if shares.is_empty() {
                eprintln!("nobody has a share of {month}");
            }
            shares.iter().try_for_each(|share| say(&line(share)))
        }
        PayoutCommand::Paid { month, account, reference } => {
            let paid = payouts.mark_paid(*month, account, reference).await;
            say(&line(&paid.map_err(refused)?))
        }
    }
}

/// Shows what the books hold, and puts money into the running month's pool.
pub(crate) async fn pool(settings: &Settings, command: &PoolCommand) -> Result<(), Failure> {
    let payouts = payouts(settings)?;
    if let PoolCommand::Add { amount, reference } = command {
        payouts.top_up(*amount, reference).await.map_err(refused)?;
    }
    let balances = payouts.balances().await.map_err(refused)?;
    if balances.books().next().is_none() {
        eprintln!("the books hold nothing");
    }
    balances.books().try_for_each(|(book, amount)| say(&format!("{amount:>20}  {book}")))
}

fn payouts(settings: &Settings) -> Result<Payouts, Failure> {
    let policy = settings.pay().map_err(|error| Failure::new(Exit::Settings, error))?;
    let Books { store, secret } = Books::open(settings)?;
    // Whoever is paid by a rail is paid by the coordinator that serves.
    Ok(Payouts::new(Arc::new(store), &secret, policy, Arc::new(Manual), Arc::new(SystemClock)))
}

async fn shares(payouts: &Payouts, month: Epoch) -> Result<Vec<ShareRecord>, Failure> {
    payouts.month(month).await.map_err(refused)?;
    payouts.shares(month).await.map_err(refused)
}

fn summary(month: &MonthRecord) -> String {
    let MonthRecord { epoch, policy, pool, carried, owners, release, .. } = month;
    let (release, plural) = (release.as_secs(), if *owners == 1 { "" } else { "s" });
    format!(
        "{epoch}  by {policy}: {pool} for {owners} owner{plural}, {carried} carried over; shares released \
         at {release} (seconds since 1970)"
    )
}

fn line(share: &ShareRecord) -> String {
    let ShareRecord { owner, amount, state, .. } = share;
    let reference = share.reference.as_deref().unwrap_or_default();
    format!("{owner}  {amount:>20}  {state:<9}  {reference}").trim_end().to_owned()
}

/// Prints all that counted in a month, under pseudonyms.
async fn export(payouts: &Payouts, month: Epoch) -> Result<(), Failure> {
    let mut output = BufWriter::new(io::stdout());
    let mut lines = std::pin::pin!(payouts.export(month).await.map_err(refused)?);
    while let Some(line) = lines.try_next().await.map_err(refused)? {
        serde_json::to_writer(&mut output, &line).map_err(|error| unwritten(&error.into()))?;
        output.write_all(b"\n").map_err(|error| unwritten(&error))?;
    }
    output.flush().map_err(|error| unwritten(&error))
}

/// Prints the shares of a month with the accounts that they belong to.
async fn table(payouts: &Payouts, month: Epoch) -> Result<(), Failure> {
    say("month,account,pseudonym,amount_micros,weight,state,reference")?;
    for share in shares(payouts, month).await? {
        let (owner, pseudonym) = (share.owner, payouts.pseudonym(&share.owner));
        let (amount, weight, state) = (share.amount.as_micros(), share.weight.weight, share.state);
        let reference = quoted(share.reference.as_deref().unwrap_or_default());
        say(&format!("{month},{owner},{pseudonym},{amount},{weight},{state},{reference}"))?;
    }
    Ok(())
}

/// Writes a text as a cell of its own, whatever is in it.
fn quoted(text: &str) -> String {
    if text.contains([',', '"']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

fn refused(error: PayoutError) -> Failure {
    let said = error.to_string();
    let money = |advice: &str| Failure::new(Exit::Money, format!("{said}{advice}"));
    match &error {
        PayoutError::TooEarly(..) | PayoutError::Order(_) => money(""),
        PayoutError::NotClosed(_) => money("; `month list` names the months that are"),
        PayoutError::NoShare(_) => money("; `payout list` names those that have"),
        PayoutError::NotOwed(ShareState::Held) => {
            money("; it can be paid once the coordinator has released it: see `month list`")
        }
        PayoutError::NotOwed(_) => money("; `payout list` tells what became of each"),
        PayoutError::Reused => money("; give each payment a reference of its own"),
        PayoutError::Reference | PayoutError::Amount => Failure::new(Exit::Settings, said),
        PayoutError::Clock { .. } | PayoutError::ClockSet { .. } => {
            money("; if it is right, close the month with --clock-is-right")
        }
        PayoutError::OtherRules { network, .. } => Failure::new(
            Exit::Settings,
            format!(
                "{said}. Close it with --pay-by {network}, or start the coordinator with the rules \
                 that you mean"
            ),
        ),
        PayoutError::Rules(_) => Failure::new(Exit::Settings, format!("{said} (--pay-by)")),
        PayoutError::Changed(_) => Failure::books(format!("{said}; what was printed is not whole")),
        _ => Failure::books(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_keep_what_is_in_them() {
        assert_eq!(quoted("transfer 1"), "transfer 1");
        assert_eq!(quoted("a, \"b\""), "\"a, \"\"b\"\"\"");
    }
}
