//! What the running node knows of itself, for whoever asks it at its socket.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use iris_core::Timestamp;
use iris_node::agent::{Done, Observer, Outcome, Status, Work, WorkLog};
use iris_node::backend::on_demand::{OnDemand, Resident};
use iris_node::cache::ModelCache;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::model_server::View;
use crate::owner::Owner;
use crate::status::snapshot::{Ended, Model, OwnServer, Running, Snapshot, State};
use crate::{cached, moment};

/// How many tasks are remembered that have ended.
const RECENT: usize = 20;
/// How many running tasks are told one by one.
const RUNNING: usize = 64;
/// How many models are told.
const MODELS: usize = 64;
/// How often the pace is noted, and how many notes it is told from.
const NOTE: Duration = Duration::from_secs(1);
const NOTES: usize = 10;

/// Hears what the node works on and passes it on to its history.
#[derive(Debug)]
pub(crate) struct Desk {
    name: Option<String>,
    started: Timestamp,
    history: Option<Arc<dyn WorkLog>>,
    /// The model server that the node looks after, set once it is started.
    server: OnceLock<View>,
    /// What was downloaded.
    cache: Option<ModelCache>,
    /// What is loaded when somebody asks for it, set once the models are there.
    on_demand: OnceLock<OnDemand>,
    /// Set once the node is about to connect.
    agent: OnceLock<Observer>,
    heard: Mutex<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    running: BTreeMap<u64, (Work, Instant)>,
    /// The latest first.
    recent: VecDeque<Done>,
    finished: u64,
    unfinished: u64,
    /// When the last task came.
    last: Option<Timestamp>,
    /// What had been written and carried, at a few moments, the earliest first.
    notes: VecDeque<(Instant, u64, u64)>,
}

impl Desk {
    pub(crate) fn new(
        name: Option<String>,
        history: Option<Arc<dyn WorkLog>>,
        cache: Option<ModelCache>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            started: moment::now(),
            history,
            server: OnceLock::new(),
            cache,
            on_demand: OnceLock::new(),
            agent: OnceLock::new(),
            heard: Mutex::default(),
        })
    }

    /// Tells from now on how the model server is that the node looks after.
    pub(crate) fn tell_of(&self, server: View) {
        // There is at most one in a node.
        let _ = self.server.set(server);
    }

    /// Tells from now on what is loaded on demand.
    pub(crate) fn tell_of_loaded(&self, on_demand: OnDemand) {
        let _ = self.on_demand.set(on_demand);
    }

    /// Says what was downloaded, if anything was.
    async fn downloads(&self) -> Option<String> {
        let cache = self.cache.clone()?;
        let told = spawn_blocking(move || {
            let is_there = cache.folder().exists();
            is_there.then(|| cached::summary(&cache).ok()).flatten()
        });
        told.await.ok().flatten().map(|(told, _)| told)
    }

    /// Watches the agent from now on, and its pace for as long as the node lives.
    pub(crate) async fn watch(self: Arc<Self>, agent: Observer) {
        // There is one agent in a node.
        let agent = self.agent.get_or_init(|| agent).clone();
        loop {
            {
                let mut heard = self.heard();
                if heard.notes.len() > NOTES {
                    heard.notes.pop_front();
                }
                heard.notes.push_back((Instant::now(), agent.written(), agent.carried()));
            }
            sleep(NOTE).await;
        }
    }

    /// Tells how the node is.
    pub(crate) async fn snapshot(&self, owner: &Owner) -> Snapshot {
        let cache = self.downloads().await;
        let mut told = Snapshot {
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started.as_secs(),
            now: moment::now().as_secs(),
            limits: owner.limits().words(),
            rest: owner.conduct().borrow().terms.rest,
            own_server: self.server.get().map(|server| OwnServer {
                url: server.url().to_owned(),
                trouble: server.trouble(),
            }),
            memory: self.on_demand.get().map(in_memory),
            cache,
            ..Snapshot::default()
        };
        if let Some(agent) = self.agent.get() {
            tell_agent(&mut told, agent);
        }
        self.heard().tell(&mut told);
        told
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says which models are loaded on demand.
fn in_memory(on_demand: &OnDemand) -> String {
    let Resident { models, taken, limit, waiting } = on_demand.resident();
    let models = models.iter().map(|(name, running)| format!("{name} ({running} running)"));
    let models = models.collect::<Vec<_>>().join(", ");
    let loaded = if models.is_empty() { "nothing is loaded on demand".to_owned() } else { models };
    format!("{loaded}; {taken} of {limit}, {waiting} requests wait")
}

fn tell_agent(told: &mut Snapshot, agent: &Observer) {
    told.node = Some(agent.node_id());
    match agent.status() {
        Status::Online { endpoint, since, .. } => {
            told.state = State::Online;
            (told.coordinator, told.connected) =
                (Some(endpoint.to_string()), Some(since.as_secs()));
            told.round_trip_ms = agent.round_trip().map(|time| time.as_secs_f64() * 1e3);
        }
        Status::Offline { cause } => {
            told.state = State::Offline;
            told.cause = cause.map(|cause| cause.to_string());
        }
        _ => told.state = State::Draining,
    }
    let places = agent.places();
    (told.slots, told.taken) = (places.total(), places.taken());
    told.carried = agent.carried();
    let models = agent.models();
    told.more_models = models.len().saturating_sub(MODELS);
    let models = models.into_iter().take(MODELS);
    let rate = |millis: u64| Duration::from_millis(millis).as_secs_f64();
    told.models = models
        .map(|offer| Model {
            name: offer.name,
            tokens_per_second: offer.speed.map(|speed| rate(speed.as_millis())),
        })
        .collect();
}

impl Heard {
    fn tell(&self, told: &mut Snapshot) {
        (told.finished, told.unfinished) = (self.finished, self.unfinished);
        told.last = self.last.map(Timestamp::as_secs);
        if let (Some(first), Some(last)) = (self.notes.front(), self.notes.back()) {
            let time = last.0.duration_since(first.0).as_secs_f64().max(1.0);
            #[expect(clippy::cast_precision_loss, reason = "they are shown with three digits")]
            let pace = |from: u64, to: u64| to.saturating_sub(from) as f64 / time;
            told.tokens_per_second = pace(first.1, last.1);
            told.bytes_per_second = pace(first.2, last.2);
        }
        told.more_running = self.running.len().saturating_sub(RUNNING);
        let running = self.running.values().take(RUNNING);
        told.running = running
            .map(|(work, since)| Running {
                task: work.task,
                model: work.model.clone(),
                privacy: work.privacy,
                caller: work.caller.clone(),
                for_ms: millis(since.elapsed()),
            })
            .collect();
        let recent = self.recent.iter();
        told.recent = recent
            .map(|done| Ended {
                at: done.work.begun.saturating_add(done.took).as_secs(),
                task: done.work.task,
                model: done.work.model.clone(),
                privacy: done.work.privacy,
                caller: done.work.caller.clone(),
                outcome: done.outcome,
                prompt_tokens: done.usage.prompt_tokens,
                completion_tokens: done.usage.completion_tokens,
                took_ms: millis(done.took),
            })
            .collect();
    }
}

impl WorkLog for Desk {
    fn begun(&self, work: &Work) {
        {
            let mut heard = self.heard();
            heard.last = Some(work.begun);
            heard.running.insert(work.number, (work.clone(), Instant::now()));
        }
        if let Some(history) = &self.history {
            history.begun(work);
        }
    }

    fn ended(&self, done: Done) {
        {
            let mut heard = self.heard();
            heard.running.remove(&done.work.number);
            match done.outcome {
                Outcome::Finished => heard.finished += 1,
                _ => heard.unfinished += 1,
            }
            heard.recent.truncate(RECENT - 1);
            heard.recent.push_front(done.clone());
        }
        if let Some(history) = &self.history {
            history.ended(done);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
