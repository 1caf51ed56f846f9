//! What an operator does about reports of owners: reading and closing them.

use std::sync::Arc;

use iris_coordinator::{Report, ReportError, Reports, SystemClock};

use crate::admin::say;
use crate::books::Books;
use crate::cli::ReportCommand;
use crate::failure::{Exit, Failure};
use crate::settings::Settings;

/// How many reports are read at a time.
const PAGE: usize = 200;

/// Lists, shows and closes reports.
pub(crate) async fn report(settings: &Settings, command: &ReportCommand) -> Result<(), Failure> {
    let Books { store, secret } = Books::open(settings)?;
    let reports = Reports::new(Arc::new(store), Arc::new(SystemClock), &secret);
    match command {
        ReportCommand::List { closed } => list(&reports, *closed).await,
        ReportCommand::Show { id } => {
            let report = reports.report(*id).await.map_err(refused)?;
            show(&report, reports.content(&report).as_deref())
        }
        ReportCommand::Close { id } => say(&line(&reports.close(*id).await.map_err(refused)?)),
    }
}

async fn list(reports: &Reports, closed: bool) -> Result<(), Failure> {
    let mut last = None;
    loop {
        let page = reports.page(closed, last, PAGE).await.map_err(refused)?;
        if page.is_empty() && last.is_none() {
            eprintln!("there is no such report");
        }
        page.iter().try_for_each(|report| say(&line(report)))?;
        if page.len() < PAGE {
            return Ok(());
        }
        last = page.last().map(|report| report.id);
    }
}

fn line(report: &Report) -> String {
    let state = if report.closed.is_some() { "closed" } else { "open" };
    let account = report.account.map_or_else(|| "no account".to_owned(), |id| id.to_string());
    let first = report.reason.lines().next().unwrap_or_default();
    format!("{}  {state:<6}  {account}  {first}", report.id)
}

fn show(report: &Report, content: Option<&str>) -> Result<(), Failure> {
    say(&line(report))?;
    say(&format!("at       {} (seconds since 1970)", report.at.as_secs()))?;
    say(&format!("owner    {}", report.owner))?;
    if let Some(task) = &report.task {
        say(&format!("task     {task}, as the owner says"))?;
    }
    // What somebody else wrote must not reach the terminal as it is.
    say(&format!("reason   {:?}", report.reason))?;
    match content {
        Some(content) => say(&format!("content  {content:?}")),
        None => say("content  none"),
    }
}

fn refused(error: ReportError) -> Failure {
    match error {
        ReportError::NotFound => {
            let said = format!("{error}; `report list` names those that are open");
            Failure::new(Exit::Verdict, said)
        }
        error => Failure::books(error),
    }
}
