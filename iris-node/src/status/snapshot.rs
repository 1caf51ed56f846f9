//! How a node is at a moment, as it tells whoever asks at its socket.

use std::time::Duration;

use iris_core::terms::Rest;
use iris_core::{ModelName, NodeId, TaskId};
use iris_node::agent::{Outcome, Privacy};
use serde::{Deserialize, Serialize};

use crate::moment;

/// How a node is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) node: Option<NodeId>,
    pub(crate) name: Option<String>,
    pub(crate) version: String,
    /// Moments are seconds since the Unix epoch.
    pub(crate) started: u64,
    pub(crate) now: u64,
    pub(crate) state: State,
    /// Why it is not connected.
    pub(crate) cause: Option<String>,
    pub(crate) coordinator: Option<String>,
    pub(crate) connected: Option<u64>,
    pub(crate) round_trip_ms: Option<f64>,
    pub(crate) slots: u32,
    pub(crate) taken: u32,
    pub(crate) models: Vec<Model>,
    pub(crate) more_models: usize,
    /// Of the last ten seconds, as those below.
    pub(crate) tokens_per_second: f64,
    pub(crate) bytes_per_second: f64,
    /// Bytes since the start.
    pub(crate) carried: u64,
    pub(crate) running: Vec<Running>,
    pub(crate) more_running: usize,
    /// The latest first.
    pub(crate) recent: Vec<Ended>,
    /// Tasks since the start.
    pub(crate) finished: u64,
    pub(crate) unfinished: u64,
    /// When the last task came.
    pub(crate) last: Option<u64>,
    /// What the owner lets the node do, limit by limit.
    pub(crate) limits: Vec<String>,
    /// Why the owner lets it do nothing.
    pub(crate) rest: Option<Rest>,
    /// The model server that it has started itself.
    pub(crate) own_server: Option<OwnServer>,
    /// Which models are loaded on demand, and what they take.
    pub(crate) memory: Option<String>,
    /// What was downloaded, and what it takes.
    pub(crate) cache: Option<String>,
}

/// A model server that a node has started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OwnServer {
    /// Where it answers.
    pub(crate) url: String,
    /// Why it does not; nothing while it does.
    pub(crate) trouble: Option<String>,
}

/// How a node stands towards its coordinator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// It looks at its models first.
    #[default]
    Starting,
    Offline,
    Online,
    Draining,
}

/// A model that is offered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Model {
    pub(crate) name: ModelName,
    /// How fast it writes one answer; `None` where that was not measured.
    pub(crate) tokens_per_second: Option<f64>,
}

/// A task that is worked on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Running {
    pub(crate) task: TaskId,
    pub(crate) model: ModelName,
    pub(crate) privacy: Privacy,
    pub(crate) caller: Option<String>,
    pub(crate) for_ms: u64,
}

/// A task that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// When it ended.
    pub(crate) at: u64,
    pub(crate) task: TaskId,
    pub(crate) model: ModelName,
    pub(crate) privacy: Privacy,
    pub(crate) caller: Option<String>,
    pub(crate) outcome: Outcome,
    pub(crate) prompt_tokens: u32,
    pub(crate) completion_tokens: u32,
    pub(crate) took_ms: u64,
}

/// Something that keeps a node from work, and what would change it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Hindrance {
    pub(crate) text: String,
    pub(crate) remedy: String,
}

impl Hindrance {
    pub(crate) fn new(text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { text: text.into(), remedy: remedy.into() }
    }
}

impl Snapshot {
    /// Returns what keeps the node from work, as far as it knows; nothing while it works.
    pub(crate) fn hindrances(&self) -> Vec<Hindrance> {
        let mut found = Vec::new();
        let trouble = self.own_server.as_ref().and_then(|server| server.trouble.as_deref());
        match (self.state, trouble) {
            (State::Starting, Some(trouble)) => found.push(Hindrance::new(
                format!("It starts: {trouble}."),
                "It connects once the server answers; what the server prints is logged with \
                 --log-level trace.",
            )),
            (State::Starting, None) => found.push(Hindrance::new(
                "It starts: it looks at its models and measures how fast they are.",
                "It connects within half a minute.",
            )),
            (State::Offline, _) => {
                let text = match &self.cause {
                    Some(cause) => format!("It is not connected: {cause}."),
                    None => "It is not connected yet.".to_owned(),
                };
                let remedy = "It tries again by itself; `iris-node doctor` tells what is wrong.";
                found.push(Hindrance::new(text, remedy));
            }
            (State::Draining, _) => found.push(Hindrance::new(
                "It finishes what it has and ends.",
                "Start it again when it is to work.",
            )),
            (State::Online, _) => {}
        }
        if let Some(rest) = self.rest {
            found.push(Hindrance::new(rest.sentence(), rest.remedy()));
        }
        if self.models.is_empty() && self.state != State::Starting {
            found.push(match trouble {
                Some(trouble) => Hindrance::new(
                    format!("It offers no model: {trouble}."),
                    "It offers its models once the server answers.",
                ),
                None => Hindrance::new(
                    "It offers no model: the model server is down, or has none loaded, or no model \
                     file can be run.",
                    "Start the server and load a model, or download one (`iris-node models pull`); \
                     the node finds it by itself. `iris-node doctor` looks at both.",
                ),
            });
        }
        if found.is_empty() && self.taken == 0 && self.running.is_empty() {
            let waited = |since: u64| Duration::from_secs(self.now.saturating_sub(since));
            let since = self.last.max(self.connected).unwrap_or(self.started);
            let text = format!("No task came for {}.", moment::span(waited(since)));
            found.push(Hindrance::new(text, "Nothing here is in the way."));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn online() -> Snapshot {
        let model = Model { name: "m".parse().unwrap(), tokens_per_second: None };
        Snapshot {
            state: State::Online,
            models: vec![model],
            slots: 1,
            now: 1000,
            connected: Some(400),
            ..Snapshot::default()
        }
    }

    fn first(snapshot: &Snapshot) -> String {
        snapshot.hindrances().first().map(|found| found.text.clone()).unwrap_or_default()
    }

    #[test]
    fn each_cause_of_idleness_is_told_in_words() {
        let own_server = |trouble: &str| {
            Some(OwnServer { url: String::new(), trouble: Some(trouble.to_owned()) })
        };
        for (snapshot, said) in [
            (Snapshot::default(), "It starts: it looks"),
            (
                Snapshot { own_server: own_server("it loads"), ..Snapshot::default() },
                "It starts: it loads.",
            ),
            (
                Snapshot { models: Vec::new(), own_server: own_server("it failed"), ..online() },
                "It offers no model: it failed.",
            ),
            (
                Snapshot { state: State::Offline, cause: Some("nobody".to_owned()), ..online() },
                "not connected: nobody.",
            ),
            (Snapshot { state: State::Draining, ..online() }, "finishes"),
            (Snapshot { rest: Some(Rest::Paused), ..online() }, "paused"),
            (Snapshot { rest: Some(Rest::OffHours), ..online() }, "other hours"),
            (Snapshot { rest: Some(Rest::Busy), ..online() }, "busy"),
            (Snapshot { models: Vec::new(), ..online() }, "model server is down"),
            (online(), "No task came for 10 min."),
            (Snapshot { last: Some(990), ..online() }, "No task came for 10 s."),
        ] {
            assert!(first(&snapshot).contains(said), "{said}: {:?}", snapshot.hindrances());
        }
        let works = Snapshot { taken: 1, ..online() };
        assert_eq!(works.hindrances(), []);
    }
}
