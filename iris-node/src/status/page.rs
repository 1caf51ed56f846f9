//! What is shown of a node, line by line, for terminals and files alike.

use std::time::Duration;

use iris_core::Timestamp;

use super::snapshot::{Snapshot, State};
use crate::moment;
use crate::network::Network;

/// How a part of a line is to look, where there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Title,
    Faint,
    Good,
    Bad,
}

/// A line in parts.
pub(super) type Line = Vec<(String, Style)>;

/// How wide the names before the lines are.
const NAMES: usize = 12;
/// How many cells show the slots.
const CELLS: u32 = 20;

/// What is shown: what matters most comes first.
#[derive(Debug)]
pub(super) struct Page {
    head: Vec<Line>,
    running: Vec<Line>,
    recent: Vec<Line>,
}

impl Page {
    pub(super) fn new(node: &Snapshot, network: Option<&Network>) -> Self {
        let mut head = vec![title(node), named("Connection", connection(node))];
        head.push(named("Work", work(node)));
        head.extend(hindrances(node, network));
        head.extend(all("Models", models(node)));
        head.extend(all("Memory", node.memory.iter().cloned().collect()));
        head.extend(all("Downloads", node.cache.iter().cloned().collect()));
        head.extend(all("Limits", node.limits.clone()));
        match network {
            None => head
                .push(named("Network", vec![("asking the coordinator".to_owned(), Style::Faint)])),
            Some(network) => head.extend(of_network(network)),
        }
        Self { head, running: running(node), recent: recent(node) }
    }

    /// Returns at most `height` lines: where there is little room, first the tasks that have ended
    /// give way, then those that run, then the end of what is above them.
    pub(super) fn lines(&self, height: usize) -> Vec<Line> {
        let mut lines: Vec<Line> = self.head.iter().take(height).cloned().collect();
        for block in [&self.running, &self.recent] {
            let room = height.saturating_sub(lines.len());
            // A title alone says nothing.
            if block.len() > 1 && room > 2 {
                lines.push(Vec::new());
                lines.extend(block.iter().take(room - 1).cloned());
            }
        }
        lines
    }
}

fn title(node: &Snapshot) -> Line {
    let id = node.node.map(|id| id.to_string()).unwrap_or_default();
    let name = node.name.clone().unwrap_or_default();
    let up = Duration::from_secs(node.now.saturating_sub(node.started));
    let mut line = vec![("iris-node".to_owned(), Style::Title)];
    for part in [name, id].into_iter().filter(|part| !part.is_empty()) {
        line.push((format!(" {part}"), Style::Title));
    }
    line.push((format!("  {}, running for {}", node.version, moment::span(up)), Style::Faint));
    line
}

fn connection(node: &Snapshot) -> Line {
    let (word, style) = match node.state {
        State::Starting => ("starting", Style::Plain),
        State::Offline => ("not connected", Style::Bad),
        State::Online => ("connected", Style::Good),
        State::Draining => ("ending", Style::Plain),
    };
    let mut line = vec![(word.to_owned(), style)];
    if let (Some(coordinator), Some(since)) = (&node.coordinator, node.connected) {
        let time = moment::span(Duration::from_secs(node.now.saturating_sub(since)));
        let round = match node.round_trip_ms {
            Some(round) => format!("round trip {round:.1} ms"),
            None => "round trip not measured yet".to_owned(),
        };
        let pace = bytes(node.bytes_per_second);
        line.push((format!(" to {coordinator} for {time}; {round}; {pace}/s"), Style::Plain));
    }
    line
}

fn work(node: &Snapshot) -> Line {
    let full =
        if node.slots == 0 { 0 } else { (node.taken * CELLS).div_ceil(node.slots).min(CELLS) };
    let bar = "#".repeat(full as usize) + &"-".repeat((CELLS - full) as usize);
    let words = format!(
        "[{bar}] {} of {} slots taken, {:.1} tokens/s; {} tasks finished, {} not",
        node.taken, node.slots, node.tokens_per_second, node.finished, node.unfinished
    );
    vec![(words, Style::Plain)]
}

fn models(node: &Snapshot) -> Vec<String> {
    let models = node.models.iter().map(|model| match model.tokens_per_second {
        Some(rate) => format!("{}, {rate:.1} tokens/s", model.name),
        None => format!("{}, speed not measured", model.name),
    });
    let more = (node.more_models > 0).then(|| format!("and {} more", node.more_models));
    models.chain(more).collect()
}

/// What keeps it from work. Of what the coordinator says, that comes first which the node does
/// not know itself.
fn hindrances(node: &Snapshot, network: Option<&Network>) -> Vec<Line> {
    let own = node.hindrances();
    if own.is_empty() {
        return Vec::new();
    }
    let why = network.and_then(|network| network.why.as_ref());
    let told = why.into_iter().flat_map(|why| &why.hindrances);
    let told = told.map(|found| (&found.text, &found.remedy));
    let known: Vec<_> = own.iter().map(|found| (&found.text, &found.remedy)).collect();
    let told =
        told.filter(|found| !known.iter().any(|known| known.0 == found.0)).collect::<Vec<_>>();
    let mut lines = Vec::new();
    for (text, remedy) in known.iter().copied().chain(told) {
        let name = if lines.is_empty() { "Idle" } else { "" };
        lines.push(named(name, vec![(text.clone(), Style::Plain)]));
        lines.push(named("", vec![(format!("-> {remedy}"), Style::Faint)]));
    }
    lines
}

fn of_network(network: &Network) -> Vec<Line> {
    let mut lines = all("Standing", network.standing().into_iter().collect());
    lines.extend(all("Earnings", network.earnings()));
    if let Some(trouble) = &network.trouble {
        lines.push(named("Network", vec![(trouble.clone(), Style::Faint)]));
    }
    lines
}

fn running(node: &Snapshot) -> Vec<Line> {
    let mut lines = vec![vec![("Running".to_owned(), Style::Title)]];
    lines.extend(node.running.iter().map(|work| {
        let time = moment::span(Duration::from_millis(work.for_ms));
        let caller = work.caller.as_deref().unwrap_or("-");
        let task = work.task.to_string();
        plain(format!(
            "  {task:<8.8}  {time:>9}  {:<6}  {caller:<8}  {}",
            work.privacy.name(),
            work.model
        ))
    }));
    if node.more_running > 0 {
        lines.push(plain(format!("  and {} more", node.more_running)));
    }
    lines
}

fn recent(node: &Snapshot) -> Vec<Line> {
    let mut lines = vec![vec![("Ended".to_owned(), Style::Title)]];
    lines.extend(node.recent.iter().map(|done| {
        let at = moment::minute(Timestamp::from_millis(done.at.saturating_mul(1000)));
        let time = moment::span(Duration::from_millis(done.took_ms));
        let (caller, task) = (done.caller.as_deref().unwrap_or("-"), done.task.to_string());
        plain(format!(
            "  {task:<8.8}  {time:>9}  {:<6}  {caller:<8}  {:<9}  {at}  {} read, {} written  {}",
            done.privacy.name(),
            done.outcome.name(),
            done.prompt_tokens,
            done.completion_tokens,
            done.model,
        ))
    }));
    lines
}

fn plain(text: String) -> Line {
    vec![(text, Style::Plain)]
}

fn named(name: &str, words: Line) -> Line {
    let mut line = vec![(format!("{name:<NAMES$}"), Style::Faint)];
    line.extend(words);
    line
}

/// Returns a line for each of the words, the first with the name.
fn all(name: &str, words: Vec<String>) -> Vec<Line> {
    let names = std::iter::once(name).chain(std::iter::repeat(""));
    names.zip(words).map(|(name, words)| named(name, plain(words))).collect()
}

fn bytes(count: f64) -> String {
    match count {
        count if count < 1e3 => format!("{count:.0} B"),
        count if count < 1e6 => format!("{:.1} kB", count / 1e3),
        count => format!("{:.1} MB", count / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::snapshot::Model;

    fn busy() -> Snapshot {
        let task = |number: u8| iris_core::TaskId::from_bytes([number; 16]);
        let (model, privacy) = ("m".parse().unwrap(), iris_node::agent::Privacy::Sealed);
        let running = super::super::snapshot::Running {
            task: task(1),
            model,
            privacy,
            caller: None,
            for_ms: 1500,
        };
        Snapshot {
            name: Some("attic".to_owned()),
            state: State::Online,
            coordinator: Some("wss://iris.example:443/nodes/connect".to_owned()),
            connected: Some(0),
            now: 3700,
            slots: 4,
            taken: 1,
            round_trip_ms: Some(23.42),
            tokens_per_second: 41.26,
            models: vec![Model { name: "m".parse().unwrap(), tokens_per_second: Some(50.0) }],
            running: vec![running; 3],
            limits: vec!["works mon-fri".to_owned()],
            memory: Some("big (1 running); 4.00 of 8.00 GiB".to_owned()),
            cache: Some("2 models, 0 in use".to_owned()),
            ..Snapshot::default()
        }
    }

    #[test]
    fn everything_is_told_in_words() {
        let text = super::super::text(&Page::new(&busy(), Some(&Network::default())));
        for said in [
            "attic",
            "connected to wss://iris.example:443/nodes/connect for 1 h 1 min; round trip 23.4 ms",
            "[#####---------------] 1 of 4 slots taken, 41.3 tokens/s",
            "Models      m, 50.0 tokens/s",
            "Memory      big (1 running)",
            "Downloads   2 models",
            "Limits      works mon-fri",
            "1.5 s  sealed",
        ] {
            assert!(text.contains(said), "{said} is missing in:\n{text}");
        }
        assert!(!text.contains("Idle"), "{text}");
    }

    #[test]
    fn little_room_is_for_what_matters() {
        let page = Page::new(&busy(), None);
        for height in 0..20 {
            assert!(page.lines(height).len() <= height, "{height}");
        }
        assert_eq!(page.lines(1)[0][0].0, "iris-node");
    }
}
