//! `iris-node history`: what this node has done, whether its receipts hold, and whether the books
//! have them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use iris_core::id::ReceiptId;
use iris_core::reward::audit::Line;
use iris_core::{Epoch, Timestamp};
use iris_crypto::seal::SignedReceipt;
use iris_crypto::{Identity, PublicIdentity};
use iris_node::agent::Outcome;
use iris_node::history::{Entry, History, HistoryError, read};
use serde_json::{Value, json};

use crate::failure::{Exit, Failure};
use crate::moment::{self, Since};
use crate::settings::Settings;

/// How long the end of a node waits for its history to be written.
const LAST_WRITE: Duration = Duration::from_secs(2);
/// The longest line of a month's books, in bytes.
const MAX_LINE: u64 = 64 << 20;

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
    /// Look for this node's receipts in a month's books, as the network's operator gives them away,
    /// and print the tasks that are missing there
    #[arg(long, value_name = "FILE", conflicts_with_all = ["since", "limit"])]
    books: Option<PathBuf>,
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
    let node = public(&settings.key_path)?;
    if let Some(books) = &args.books {
        let books = Books::read(books)?;
        let entries = entries(settings, books.epoch.start(), usize::MAX)?;
        books.compare(&entries, args.json, node.as_ref());
        return Ok(());
    }
    let entries = entries(settings, since, args.limit)?;
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

fn entries(settings: &Settings, since: Timestamp, limit: usize) -> Result<Vec<Entry>, Failure> {
    read(&file(&settings.key_path), since, limit).map_err(|error| match error {
        HistoryError::Missing(_) if settings.history().is_none() => Failure::new(
            Exit::Files,
            format!("{error}, and history_days is 0, so that none is kept"),
        ),
        error => Failure::files(error),
    })
}

/// The receipts that a month's books name.
struct Books {
    epoch: Epoch,
    receipts: BTreeSet<ReceiptId>,
}

impl Books {
    fn read(file: &Path) -> Result<Self, Failure> {
        let wrong = |what: &str| Failure::files(format!("{}: {what}", file.display()));
        let opened = File::open(file).map_err(|error| wrong(&error.to_string()))?;
        let (mut lines, mut line, mut books) = (BufReader::new(opened), Vec::new(), None);
        loop {
            line.clear();
            let taken = lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
            if taken.map_err(|error| wrong(&error.to_string()))? == 0 {
                break;
            }
            let read = serde_json::from_slice(&line);
            let read =
                read.map_err(|error| wrong(&format!("these are no month's books: {error}")))?;
            match (read, &mut books) {
                (Line::Opening(opening), None) => {
                    books = Some(Self { epoch: opening.epoch, receipts: BTreeSet::new() });
                }
                (Line::Task(task), Some(books)) => books.receipts.extend(task.receipt),
                (_, Some(_)) => {}
                (_, None) => return Err(wrong("a month's books begin with an opening")),
            }
        }
        books.ok_or_else(|| wrong("the file is empty"))
    }

    /// Prints which of the month's completed tasks the books do not have.
    fn compare(&self, entries: &[Entry], json: bool, node: Option<&PublicIdentity>) {
        let month = self.epoch.start()..self.epoch.end();
        let (mut found, mut missing) = (0_u64, Vec::new());
        for entry in entries.iter().filter(|entry| entry.outcome == Outcome::Finished) {
            let Some(receipt) = receipt_id(entry) else { continue };
            if self.receipts.contains(&receipt) {
                found += 1;
            } else if month.contains(&entry.ended) {
                missing.push(entry.clone());
            }
        }
        let text = if json {
            let tasks: Value = missing.iter().map(|entry| document(entry, node)).collect();
            format!("{:#}\n", json!({ "month": self.epoch, "found": found, "missing": tasks }))
        } else if missing.is_empty() {
            format!("the books of {} have all {found} receipts of this node\n", self.epoch)
        } else {
            let count = missing.len();
            format!(
                "{}\nthe books of {} have {found} receipts of this node, and not those of the {count} \
                 tasks above. The network's own tests are in nobody's books, nor are tasks whose \
                 caller left at the end, and those of the month's first and last minutes may be in \
                 the books of the month beside it; for others ask the operator.\n",
                table(&missing, node),
                self.epoch
            )
        };
        let _ = std::io::stdout().write_all(text.as_bytes());
    }
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

/// Returns what the books name the receipt of a task by.
fn receipt_id(entry: &Entry) -> Option<ReceiptId> {
    Some(SignedReceipt::decode(entry.receipt.as_deref()?).ok()?.id())
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
        "receipt_id": receipt_id(entry),
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
