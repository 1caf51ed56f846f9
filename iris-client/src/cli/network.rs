//! `iris stats`, `iris nodes`, `iris reputation` and `iris history`.

use clap::{Args, Subcommand};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use iris_core::NodeId;
use iris_core::demand::Difficulty;
use iris_protocol::rest::{
    HistoryEntry, HistoryPage, NetworkStats, NodeList, NodePromise, NodeSummary, NodeWhy,
    ReputationEntry, ReputationPage,
};

use super::args::{Json, Rows};
use super::failure::Failure;
use super::figures::{ago, amount, count, span, until};
use super::now;
use super::progress::seconds;
use super::table::{Column, Table, distinct, paragraph};
use super::terminal::{Output, remark};
use crate::client::Client;
use crate::error::ClientError;

/// A list that may be long.
#[derive(Clone, Debug, Args)]
pub(super) struct Listing {
    /// How many are shown at most
    #[arg(long, value_name = "N", default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Show all, however many there are
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    #[command(flatten)]
    rows: Rows,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Nodes {
    #[command(subcommand)]
    command: Option<NodesCommand>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Subcommand)]
enum NodesCommand {
    /// List the nodes that are connected
    List(Listing),
    /// Tell why a node has the work that it has, and what would bring it more
    Why(Why),
}

#[derive(Debug, Args)]
struct Why {
    /// The node's id, its beginning as `iris nodes` shows it, or its name
    #[arg(value_name = "NODE")]
    node: String,
    #[command(flatten)]
    output: Json,
}

pub(super) enum Job {
    Stats(Json),
    Nodes(Listing),
    Why { node: String, format: Json },
    Reputation(Listing),
    History(Listing),
}

impl Job {
    pub(super) fn nodes(args: &Nodes) -> Self {
        match &args.command {
            None => Self::Nodes(args.listing.clone()),
            Some(NodesCommand::List(listing)) => Self::Nodes(listing.clone()),
            Some(NodesCommand::Why(why)) => {
                Self::Why { node: why.node.clone(), format: why.output.clone() }
            }
        }
    }

    pub(super) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        let network = client.network();
        match self {
            Self::Stats(format) => {
                let stats = network.stats().await?;
                if format.json {
                    return Ok(output.json(&stats)?);
                }
                print_stats(&stats, now(), output)
            }
            Self::Why { node, format } => {
                let why = network.why(find(client, &node).await?).await?;
                if format.json {
                    return Ok(output.json(&why)?);
                }
                print_why(&why, output)
            }
            Self::Nodes(listing) => {
                let nodes = listing.read(network.nodes()).await?;
                if listing.rows.json {
                    return Ok(output.json(&NodeList { nodes, next: None })?);
                }
                listing.print(&nodes, "no node is connected", table_of_nodes, output)
            }
            Self::Reputation(listing) => {
                let nodes = listing.read(network.reputation()).await?;
                if listing.rows.json {
                    return Ok(output.json(&ReputationPage { nodes, next: None })?);
                }
                listing.print(&nodes, "no node has any points yet", ranking, output)
            }
            Self::History(listing) => {
                let tasks = listing.read(network.history()).await?;
                if listing.rows.json {
                    return Ok(output.json(&HistoryPage { tasks, next: None })?);
                }
                listing.print(&tasks, "no task of yours is over yet", history, output)
            }
        }
    }
}

impl Listing {
    pub(super) const fn is_json(&self) -> bool {
        self.rows.json
    }

    /// Reads as many entries as are shown, and one more to know whether there are more.
    pub(super) async fn read<T>(
        &self,
        entries: BoxStream<'_, Result<T, ClientError>>,
    ) -> Result<Vec<T>, ClientError> {
        let most = if self.all { usize::MAX } else { self.limit as usize };
        let more = usize::from(!self.rows.json);
        entries.take(most.saturating_add(more)).try_collect().await
    }

    pub(super) fn print<T>(
        &self,
        entries: &[T],
        none: &str,
        table: impl Fn(&[T], u64, bool) -> Table,
        output: &mut Output,
    ) -> Result<(), Failure> {
        if entries.is_empty() {
            remark(none);
            return Ok(());
        }
        let most = if self.all { entries.len() } else { self.limit as usize };
        let shown = &entries[..most.min(entries.len())];
        table(shown, now(), self.rows.wide).write(output, self.rows.wide)?;
        if shown.len() < entries.len() {
            remark(&format!("there are more than these {most}; --all shows them"));
        }
        Ok(())
    }
}

/// Returns the node of this id, of an id that begins so, or of this name.
async fn find(client: &Client, name: &str) -> Result<NodeId, Failure> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let mut nodes = client.network().nodes();
    let mut found = None;
    while let Some(node) = nodes.try_next().await? {
        let is_meant = node.name.as_deref() == Some(name)
            || (name.len() >= 4 && node.id.to_string().starts_with(name));
        if is_meant && found.replace(node.id).is_some() {
            return Err(Failure::usage(format!(
                "{name} may mean more than one node; give the whole id, from `iris nodes --wide`"
            )));
        }
    }
    found.ok_or_else(|| Failure::usage(format!("no node {name} is connected; see `iris nodes`")))
}

fn print_stats(stats: &NetworkStats, now: u64, output: &mut Output) -> Result<(), Failure> {
    let NetworkStats { nodes, slots, running, waiting, models, finished, failed, tokens, .. } =
        *stats;
    output.line(&format!("nodes     {}", amount(nodes)))?;
    output.line(&format!("models    {}", amount(models)))?;
    let places = count(slots, "request at a time", "requests at a time");
    output.line(&format!(
        "work      {} of {places}, {} waiting",
        amount(running),
        amount(waiting)
    ))?;
    let answers = count(finished, "request", "requests");
    let time = span(now.saturating_sub(stats.since));
    output.line(&format!("answered  {answers} in {time}, {} failed", amount(failed)))?;
    output.line(&format!("written   {}", count(tokens, "token", "tokens")))?;
    Ok(())
}

fn print_why(why: &NodeWhy, output: &mut Output) -> Result<(), Failure> {
    let name = why.name.as_deref().map(|name| format!("{name}, ")).unwrap_or_default();
    let places = count(why.slots.into(), "request", "requests");
    output.line(&format!("{name}{}: works on {} of {places}", why.id, why.running))?;
    if let Some(promise) = &why.promise {
        print_promise(promise, now(), output)?;
    }
    if why.hindrances.is_empty() {
        output.line("\nNothing keeps it from work.")?;
    } else {
        output.line("\nWhat keeps it from work:")?;
        for hindrance in &why.hindrances {
            paragraph(output, "  ", &hindrance.text)?;
            paragraph(output, "    ", &hindrance.remedy)?;
        }
    }
    if !why.recent.is_empty() {
        output.line("\nHow the latest choices came out:")?;
    }
    for reason in &why.recent {
        paragraph(output, &format!("{:>6}  ", amount(reason.count)), &reason.text)?;
    }
    if !why.wanted.is_empty() {
        output.line("\nModels that were asked for of late, and that it does not offer:")?;
    }
    for wanted in &why.wanted {
        output.line(&format!("{:>6}  {}", amount(wanted.requests), wanted.model))?;
    }
    Ok(())
}

fn shortened(ids: &[String], wide: bool) -> impl Iterator<Item = String> {
    let length = if wide { usize::MAX } else { distinct(ids) };
    ids.iter().map(move |id| id.chars().take(length).collect())
}

fn print_promise(promise: &NodePromise, now: u64, output: &mut Output) -> Result<(), Failure> {
    let declared = match &promise.hours {
        Some(hours) => format!("Promises to be there: {hours}"),
        None => "Takes back its promise to be there".to_owned(),
    };
    output.line(&format!("\n{declared}."))?;
    if promise.since > now {
        output.line(&format!("  That counts {}.", until(now, promise.since)))?;
    }
    let hours = u64::from(promise.kept) + u64::from(promise.broken);
    if hours > 0 {
        let hours = count(hours, "promised hour", "promised hours");
        output.line(&format!("  It kept {} of {hours}.", amount(promise.kept.into())))?;
    }
    Ok(())
}

fn table_of_nodes(nodes: &[NodeSummary], now: u64, wide: bool) -> Table {
    let ids: Vec<_> = nodes.iter().map(|node| node.id.to_string()).collect();
    let mut table = Table::new(&[
        Column::new("NODE", 0),
        Column::new("NAME", 0).cut(),
        Column::new("TIER", 3),
        Column::new("POINTS", 4).number(),
        Column::new("BUSY", 2).number(),
        Column::new("MODELS", 1).cut(),
        Column::new("CONNECTED", 5),
        Column::extra("VERSION"),
    ]);
    for (node, id) in nodes.iter().zip(shortened(&ids, wide)) {
        let models: Vec<_> = node.models.iter().map(|model| model.name.as_str()).collect();
        table.row([
            id,
            node.name.clone().unwrap_or_default(),
            node.tier.clone(),
            node.points.to_string(),
            format!("{}/{}", node.running, node.slots),
            models.join(" "),
            ago(now, node.connected),
            node.version.clone(),
        ]);
    }
    table
}

fn ranking(nodes: &[ReputationEntry], _: u64, wide: bool) -> Table {
    let ids: Vec<_> = nodes.iter().map(|node| node.id.to_string()).collect();
    let mut table = Table::new(&[
        Column::new("RANK", 0).number(),
        Column::new("POINTS", 0).number(),
        Column::new("NODE", 0),
        Column::new("NAME", 1).cut(),
        Column::new("CONNECTED", 2),
    ]);
    for (node, id) in nodes.iter().zip(shortened(&ids, wide)) {
        table.row([
            node.rank.to_string(),
            node.points.to_string(),
            id,
            node.name.clone().unwrap_or_default(),
            if node.connected { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table
}

fn history(tasks: &[HistoryEntry], now: u64, wide: bool) -> Table {
    let nodes: Vec<_> = tasks
        .iter()
        .map(|task| task.node.map(|node| node.to_string()).unwrap_or_default())
        .collect();
    let ids: Vec<_> = tasks.iter().map(|task| task.task.to_string()).collect();
    let mut table = Table::new(&[
        Column::new("WHEN", 0),
        Column::new("MODEL", 0).cut(),
        Column::new("END", 0),
        Column::new("TOOK", 2).number(),
        Column::new("TOKENS", 1).number(),
        Column::new("NODE", 4),
        Column::new("TASK", 3),
        Column::new("PRIVACY", 5),
        Column::extra("DIFFICULTY"),
    ]);
    let names = shortened(&nodes, wide).zip(shortened(&ids, wide));
    for (task, (node, id)) in tasks.iter().zip(names) {
        table.row([
            ago(now, task.submitted),
            task.model.to_string(),
            task.state.name().to_owned(),
            seconds(task.took_ms),
            amount(task.prompt_tokens.saturating_add(task.completion_tokens)),
            node,
            id,
            if task.sealed { "sealed" } else { "open" }.to_owned(),
            task.difficulty.map_or("", difficulty).to_owned(),
        ]);
    }
    table
}

const fn difficulty(difficulty: Difficulty) -> &'static str {
    match difficulty {
        Difficulty::Simple => "simple",
        Difficulty::Complex => "complex",
        Difficulty::Advanced => "advanced",
    }
}
