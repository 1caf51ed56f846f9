//! `iris-node status`: how the running node is, as a view that changes with it or as it is now.

use std::io::{IsTerminal, Write};
use std::path::Path;

use clap::Args;
use serde_json::json;

use crate::control;
use crate::failure::Failure;
use crate::network::Asking;
use crate::settings::Settings;

#[cfg(feature = "status")]
mod live;
mod page;
pub(crate) mod snapshot;

use page::Page;
use snapshot::Snapshot;

/// What `iris-node status` takes besides the settings.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct StatusArgs {
    /// Print how it is now, and end
    #[arg(long)]
    once: bool,
    /// Print how it is now as JSON, and end
    #[arg(long)]
    json: bool,
}

/// Shows how the node with these settings is.
pub(crate) async fn run(args: StatusArgs, settings: &Settings) -> Result<(), Failure> {
    let snapshot = control::snapshot(&settings.key_path).await?;
    let asking = Asking::new(settings)?;
    let is_watched = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if !args.json && !args.once && is_watched {
        return watch(&settings.key_path, snapshot, asking).await;
    }
    let network = asking.about(snapshot.coordinator.as_deref(), snapshot.node).await;
    let text = if args.json {
        let hindrances = snapshot.hindrances();
        let all = json!({"node": snapshot, "hindrances": hindrances, "network": network});
        format!("{all:#}\n")
    } else {
        text(&Page::new(&snapshot, Some(&network)))
    };
    // Whoever reads may have had enough, such as `head`.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

#[cfg(feature = "status")]
async fn watch(key: &Path, snapshot: Snapshot, asking: Asking) -> Result<(), Failure> {
    live::run(key, snapshot, asking).await
}

/// Prints how it is now, without the feature that shows more.
#[cfg(not(feature = "status"))]
async fn watch(_: &Path, snapshot: Snapshot, asking: Asking) -> Result<(), Failure> {
    let network = asking.about(snapshot.coordinator.as_deref(), snapshot.node).await;
    print!("{}", text(&Page::new(&snapshot, Some(&network))));
    Ok(())
}

/// Writes a page out, however long it is.
fn text(page: &Page) -> String {
    page.lines(usize::MAX).into_iter().fold(String::new(), |mut text, line| {
        for (part, _) in line {
            // What a coordinator wrote must not command the terminal.
            text.extend(part.chars().filter(|letter| !letter.is_control()));
        }
        text + "\n"
    })
}
