//! `iris-node history`: what this node has done, and whether its receipts hold.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use iris_core::Timestamp;
use iris_crypto::seal::SignedReceipt;
use iris_crypto::{Identity, PublicIdentity};
use iris_node::history::{Entry, History, HistoryError, read};
use serde_json::{Value, json};

use crate::failure::{Exit, Failure};
use crate::moment::{self, Since};
use crate::settings::Settings;

/// How long the end of a node waits for its history to be written.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// What `iris-node history` takes besides the settings.
#[derive(Clone, Debug, Args)]
pub(crate) struct HistoryArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// From when on: a day or month of UTC (2026-11-26, 2026-11), or so long ago (30m, 12h, 7d)
    #[arg(long, value_name = "WHEN", value_parser = Since::read)]
    since: Option<Since>,
    /// How many tasks at most, the latest first
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    limit: usize,
}

/// Begins to keep the node's history, where that is wanted.
pub(crate) fn keep(settings: &Settings) -> Option<Arc<History>> {
    let bounds = settings.history()?;
    match History::keep(file(&settings.key_path), bounds) {
        Ok(history) => Some(Arc::new(history)),
        Err(error) => {
            tracing::warn!(%error, "the history is not kept; tasks go on");
            None
        }
    }
}

/// Writes what is left, as far as the disk lets it.
pub(crate) fn close(history: Option<&History>) {
    if history.is_some_and(|history| !history.flush(LAST_WRITE)) {
        tracing::warn!("the end of the history could not be written");
    }
}

/// Prints what the node with these settings has done.
pub(crate) fn run(args: &HistoryArgs, settings: &Settings) -> Result<(), Failure> {
    let since = args.since.map_or(Timestamp::from_millis(0), |since| since.moment(moment::now()));
    let file = file(&settings.key_path);
    let entries = read(&file, since, args.limit).map_err(|error| match error {
        HistoryError::Missing(_) if settings.history().is_none() => Failure::new(
            Exit::Files,
            format!("{error}, and history_days is 0, so that none is kept"),
        ),
        error => Failure::files(error),
    })?;
    let node = public(&settings.key_path)?;
    let text = if args.json {
        let entries: Value = entries.iter().map(|entry| document(entry, node.as_ref())).collect();
        format!("{entries:#}\n")
    } else {
        table(&entries, node.as_ref())
    };
    // Whoever reads may have had enough, such as `head`.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// Returns where the history lies: beside the identity.
fn file(key: &Path) -> PathBuf {
    key.with_extension("history.db")
}

/// Returns by whom receipts should be signed; nobody, where there is no identity any more.
fn public(key: &Path) -> Result<Option<PublicIdentity>, Failure> {
    if !key.exists() {
        return Ok(None);
    }
    let identity = Identity::load_or_create(key).map_err(Failure::files)?;
    Ok(Some(identity.public()))
}

/// Returns whether the receipt of a task is one that the node has signed; nothing where there is
/// none.
fn verdict(entry: &Entry, node: Option<&PublicIdentity>) -> Option<&'static str> {
    let receipt = entry.receipt.as_deref()?;
    let Some(node) = node else { return Some("unchecked") };
    let holds = SignedReceipt::decode(receipt).is_ok_and(|receipt| receipt.verify(node).is_ok());
    Some(if holds { "valid" } else { "INVALID" })
}

fn document(entry: &Entry, node: Option<&PublicIdentity>) -> Value {
    json!({
        "ended": entry.ended.as_secs(),
        "task": entry.task,
        "model": entry.model,
        "caller": entry.caller,
        "privacy": entry.privacy,
        "outcome": entry.outcome,
        "prompt_tokens": entry.usage.prompt_tokens,
        "completion_tokens": entry.usage.completion_tokens,
        "took_ms": entry.took.as_millis(),
        "receipt": verdict(entry, node).map(str::to_lowercase),
    })
}

fn table(entries: &[Entry], node: Option<&PublicIdentity>) -> String {
    if entries.is_empty() {
        return "no task ended here in that time\n".to_owned();
    }
    let width = |text: &dyn Fn(&Entry) -> usize, least: usize| {
        entries.iter().map(text).max().unwrap_or_default().max(least)
    };
    let models = width(&|entry| entry.model.as_str().chars().count(), 5);
    let callers = width(&|entry| entry.caller.as_deref().map_or(1, |tag| tag.chars().count()), 6);
    let mut text = format!(
        "{:<16}  {:<8}  {:<models$}  {:>7}  {:>7}  {:>10}  {:<9}  {:<7}  {:<callers$}  RECEIPT\n",
        "ENDED (UTC)", "TASK", "MODEL", "READ", "WROTE", "TOOK", "OUTCOME", "PRIVACY", "CALLER",
    );
    text.extend(entries.iter().map(|entry| {
        let task = entry.task.to_string();
        format!(
            "{:<16}  {task:<8.8}  {:<models$}  {:>7}  {:>7}  {:>10}  {:<9}  {:<7}  {:<callers$}  {}\n",
            moment::minute(entry.ended),
            entry.model.as_str(),
            entry.usage.prompt_tokens,
            entry.usage.completion_tokens,
            moment::span(entry.took),
            entry.outcome.name(),
            entry.privacy.name(),
            entry.caller.as_deref().unwrap_or("-"),
            verdict(entry, node).unwrap_or("-"),
        )
    }));
    let sum = |tokens: fn(&Entry) -> u32| entries.iter().map(|e| u64::from(tokens(e))).sum::<u64>();
    let (read, wrote) = (sum(|e| e.usage.prompt_tokens), sum(|e| e.usage.completion_tokens));
    text + &format!("\n{} tasks: {read} tokens read, {wrote} written\n", entries.len())
}
