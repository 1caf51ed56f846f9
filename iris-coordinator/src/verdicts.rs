//! What an operator does about verdicts: reading them, and deciding appeals.

use std::sync::Arc;

use iris_coordinator::{CaseRecord, Cases, Clock, SystemClock, VerdictError};
use iris_core::verify::{Appeal, Ruling};

use crate::admin::say;
use crate::books::Books;
use crate::cli::{Decision, VerdictCommand};
use crate::failure::{Exit, Failure};
use crate::settings::Settings;

/// How many verdicts are read at a time.
const PAGE: usize = 200;

/// Lists, shows and decides verdicts.
pub(crate) async fn verdict(settings: &Settings, command: &VerdictCommand) -> Result<(), Failure> {
    let Books { store, .. } = Books::open(settings)?;
    let cases = Cases::new(Arc::new(store), Arc::new(SystemClock));
    match command {
        VerdictCommand::List => list(&cases).await,
        VerdictCommand::Show { id } => show(&cases.case(None, *id).await.map_err(refused)?),
        VerdictCommand::Uphold(decision) => decide(&cases, decision, Ruling::Uphold).await,
        VerdictCommand::Overturn(decision) => decide(&cases, decision, Ruling::Overturn).await,
    }
}

async fn list(cases: &Cases) -> Result<(), Failure> {
    let mut last = None;
    loop {
        let page = cases.page(None, last, PAGE).await.map_err(refused)?;
        if page.is_empty() && last.is_none() {
            eprintln!("no node was found lying");
        }
        page.iter().try_for_each(|case| say(&line(case)))?;
        if page.len() < PAGE {
            return Ok(());
        }
        last = page.last().map(|case| case.verdict().id);
    }
}

async fn decide(cases: &Cases, decision: &Decision, ruling: Ruling) -> Result<(), Failure> {
    let decided = cases.decide(decision.id, ruling, decision.reason.as_deref()).await;
    say(&line(&decided.map_err(refused)?))?;
    eprintln!("a running coordinator carries this out within a minute");
    Ok(())
}

fn line(case: &CaseRecord) -> String {
    let verdict = case.verdict();
    let state = state(case);
    format!("{}  {state:<10}  {}  {}  {}", verdict.id, verdict.node, verdict.owner, verdict.model)
}

fn show(case: &CaseRecord) -> Result<(), Failure> {
    let verdict = case.verdict();
    say(&line(case))?;
    say(&format!("found     {verdict}"))?;
    let (at, until) = (verdict.at.as_secs(), verdict.appeal_until.as_secs());
    say(&format!("at        {at}; its owner can appeal until {until} (seconds since 1970)"))?;
    if let Some(said) = case.objection() {
        say(&format!("owner     {said}"))?;
    }
    if let Some(said) = case.reason() {
        say(&format!("operator  {said}"))?;
    }
    Ok(())
}

fn state(case: &CaseRecord) -> &'static str {
    match case.appeal() {
        Some(Appeal::Overturned { .. }) => "overturned",
        Some(Appeal::Open { .. }) => "appealed",
        _ if case.is_final(SystemClock.calendar()) => "final",
        _ => "open",
    }
}

fn refused(error: VerdictError) -> Failure {
    let said = error.to_string();
    match error {
        VerdictError::NotFound => {
            Failure::new(Exit::Verdict, format!("{said}; `verdict list` names those there are"))
        }
        VerdictError::Appeal(_) | VerdictError::Changed => Failure::new(Exit::Verdict, said),
        VerdictError::Text => Failure::new(Exit::Settings, said),
        error => Failure::books(error),
    }
}
