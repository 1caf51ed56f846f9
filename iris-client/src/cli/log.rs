//! `iris log`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use iris_crypto::PublicIdentity;
use iris_crypto::log::{Entry, Frontier, SignedCheckpoint, leaf_hash};
use serde::Deserialize;
use serde_json::json;
use tokio::time::sleep;

use super::args::{Json, LogCommand};
use super::failure::{Exit, Failure};
use super::read_input;
use super::terminal::{Output, remark};
use crate::client::Client;

/// How many entries are asked for at a time.
const BATCH: u64 = 256;
/// The longest file with checkpoints, in bytes.
const MAX_FILE: u64 = 1 << 20;

pub(super) enum Job {
    Show(Json),
    Check { name: String, checkpoints: Vec<String> },
    Monitor { once: bool, interval: Duration },
}

impl Job {
    pub(super) fn prepare(args: &LogCommand) -> Result<Self, Failure> {
        Ok(match args {
            LogCommand::Show(format) => Self::Show(format.clone()),
            LogCommand::Check { file } => {
                let (name, text) = read(file)?;
                Self::Check { name, checkpoints: checkpoints(&text) }
            }
            LogCommand::Monitor { once, interval } => {
                Self::Monitor { once: *once, interval: Duration::from_secs(*interval) }
            }
        })
    }

    pub(super) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        match self {
            Self::Show(format) => show(client, &format, output).await,
            Self::Check { name, checkpoints } => {
                // What is known first has to be of the coordinator, not of the file.
                client.log().checkpoint().await?;
                for checkpoint in checkpoints {
                    client.log().compare(&checkpoint).await?;
                }
                output.line(&format!("{name}: of the same log, which only grew"))?;
                Ok(())
            }
            Self::Monitor { once, interval } => monitor(client, once, interval, output).await,
        }
    }
}

async fn show(client: &Client, format: &Json, output: &mut Output) -> Result<(), Failure> {
    let signed = client.log().checkpoint().await?;
    if !format.json {
        return Ok(output.write(signed.text())?);
    }
    let coordinator = coordinator(client)?;
    let checkpoint = signed.verify(&coordinator).map_err(crate::trust::TrustError::from)?;
    Ok(output.json(&json!({
        "coordinator": coordinator,
        "size": checkpoint.size,
        "root": checkpoint.root,
        "checkpoint": signed.text(),
    }))?)
}

/// Reads the whole log and computes its root, again and again.
async fn monitor(
    client: &Client,
    once: bool,
    interval: Duration,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut read = Frontier::new();
    loop {
        match client.log().checkpoint().await {
            Ok(signed) => follow(client, &signed, &mut read, once, output).await?,
            Err(error) if error.is_passing() && !once => remark(&error.to_string()),
            Err(error) => return Err(error.into()),
        }
        if once {
            return Ok(());
        }
        sleep(interval).await;
    }
}

async fn follow(
    client: &Client,
    signed: &SignedCheckpoint,
    read: &mut Frontier,
    once: bool,
    output: &mut Output,
) -> Result<(), Failure> {
    let doubt = |what: &str| Failure::new(Exit::Privacy, format!("the log is not honest: {what}"));
    let coordinator = coordinator(client)?;
    let checkpoint = signed.verify(&coordinator).map_err(crate::trust::TrustError::from)?;
    let (mut certificates, mut rosters, mut others) = (0_u64, 0_u64, 0_u64);
    while read.size() < checkpoint.size {
        let count = BATCH.min(checkpoint.size - read.size());
        let entries = match client.log().entries(read.size(), count).await {
            Err(error) if error.is_passing() && !once => {
                remark(&error.to_string());
                return Ok(());
            }
            entries => entries?,
        };
        for entry in entries.entries.iter().take(usize::try_from(count).unwrap_or(usize::MAX)) {
            let is_first = read.size() == 0;
            match Entry::decode(entry.as_bytes()) {
                Ok(Entry::Coordinator(identity)) if is_first && identity == coordinator => {}
                _ if is_first => return Err(doubt("it does not begin with its coordinator")),
                Ok(Entry::Certificate(_)) => certificates += 1,
                Ok(Entry::Roster(_)) => rosters += 1,
                _ => others += 1,
            }
            let leaf = leaf_hash(entry.as_bytes());
            read.append(leaf).map_err(crate::trust::TrustError::from)?;
        }
    }
    if read.size() == checkpoint.size && read.root() != checkpoint.root {
        return Err(doubt("its entries are not those that its root is of"));
    }
    let (size, root) = (checkpoint.size, checkpoint.root);
    let new = format!("{certificates} certificates, {rosters} rosters, {others} others");
    Ok(output.line(&format!("{size} entries under {root}; new: {new}"))?)
}

fn coordinator(client: &Client) -> Result<PublicIdentity, Failure> {
    let known = client.log().coordinator()?;
    known.ok_or_else(|| Failure::new(Exit::Privacy, "it is not known whose log this is"))
}

fn read(file: &Path) -> Result<(String, String), Failure> {
    if file == Path::new("-") {
        return Ok(("standard input".to_owned(), read_input()?));
    }
    let name = file.display().to_string();
    let fail = |why: &dyn ToString| Failure::usage(format!("{name}: {}", why.to_string()));
    let length = std::fs::metadata(file).map_err(|error| fail(&error))?.len();
    if length > MAX_FILE {
        return Err(fail(&"it is too long for a checkpoint"));
    }
    let text = std::fs::read_to_string(PathBuf::from(file)).map_err(|error| fail(&error))?;
    Ok((name, text))
}

/// Returns the checkpoints of a file: those of saved evidence, or the one that it is.
fn checkpoints(text: &str) -> Vec<String> {
    #[derive(Deserialize)]
    struct Evidence {
        checkpoints: Vec<String>,
    }
    match serde_json::from_str::<Evidence>(text) {
        Ok(evidence) => evidence.checkpoints,
        Err(_) => vec![text.to_owned()],
    }
}
