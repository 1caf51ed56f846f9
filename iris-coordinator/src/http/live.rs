//! The network as it changes: `GET /live`.
//!
//! What all watchers see is made once, while there are any, and passed on to each. A watcher that
//! does not keep up is left and begins anew; nobody waits for it, and nothing piles up.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use http::HeaderMap;
use iris_core::{AccountId, NodeId};
use iris_protocol::rest::{KeyScope, NetworkStats, NodeSummary};
use serde::Serialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::Api;
use super::auth::{LOOK, OPERATE};
use super::error::ApiError;
use super::network::figures;
use super::observe::RequestContext;
use super::openai::event_stream;
use crate::Coordinator;
use crate::live::Minute;

/// How often watchers are told what has changed, where that is cheap to find out.
const TICK: Duration = Duration::from_millis(500);
/// How many times longer than it took to find out what has changed the next look is away.
const IDLE: u32 = 50;
/// Most nodes that are shown one by one, the first by their ids.
const SHOWN: usize = 2000;
/// Nodes that are read at a time, since tasks wait for the same lock.
const AT_A_TIME: usize = 250;
/// Watchers at a time.
const WATCHERS: usize = 256;
/// What a watcher may be behind before it is left.
const BEHIND: usize = 16;
/// The longest stream: who was let in once is asked for its key again.
const LONGEST: Duration = Duration::from_mins(10);

const HEARTBEAT: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// `GET /live`.
pub(super) async fn live(
    State(api): State<Arc<Api>>,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let caller = api.key(&headers, LOOK).await?;
    // Whoever may read the same in `/metrics`.
    let scope = caller.key.map_or(KeyScope::Inference, |key| key.scope);
    let sees_times = context.caller.local || OPERATE.contains(&scope);
    let watcher = Audience::join(&api, caller.account, sees_times)?;
    let (keep_alive, stopping) = (api.settings.keep_alive, api.stopping.clone());
    let frames = stream::unfold(watcher, move |watcher| next(watcher, keep_alive));
    let frames = futures::StreamExt::take_until(frames, stopping.cancelled_owned());
    Ok(event_stream(Body::from_stream(frames), context.id, None))
}

async fn next(
    mut watcher: Watcher,
    keep_alive: Duration,
) -> Option<(Result<Bytes, Infallible>, Watcher)> {
    if let Some(hello) = watcher.hello.take() {
        return Some((Ok(hello), watcher));
    }
    let ends = watcher.ends;
    let frame = loop {
        let heartbeat = Instant::now() + keep_alive;
        let received = tokio::time::timeout_at(heartbeat.min(ends), watcher.frames.recv()).await;
        match received {
            Ok(Ok(frame)) => {
                if let Some(bytes) = frame.of(watcher.account, watcher.sees_times) {
                    break bytes;
                }
            }
            // Who has fallen behind begins anew.
            Ok(Err(RecvError::Lagged(_) | RecvError::Closed)) => return None,
            Err(_) if Instant::now() >= ends => return None,
            Err(_) => break HEARTBEAT,
        }
    };
    Some((Ok(frame), watcher))
}

/// Those who watch. Empty, and of no cost, while there are none.
#[derive(Debug, Default)]
pub(super) struct Audience {
    show: Mutex<Option<Show>>,
}

#[derive(Debug)]
struct Show {
    frames: broadcast::Sender<Arc<Frame>>,
    board: Board,
    watchers: usize,
}

/// One watcher, until it is dropped.
struct Watcher {
    api: Arc<Api>,
    account: AccountId,
    sees_times: bool,
    hello: Option<Bytes>,
    frames: broadcast::Receiver<Arc<Frame>>,
    ends: Instant,
}

impl Audience {
    fn join(api: &Arc<Api>, account: AccountId, sees_times: bool) -> Result<Watcher, ApiError> {
        let live = &api.coordinator.dispatch().live;
        if !live.watch(account) {
            return Err(ApiError::too_many("This account watches often enough already.", 10));
        }
        let mut show = api.audience.show();
        if show.is_none() {
            let (frames, _) = broadcast::channel(BEHIND);
            *show = Some(Show { frames, board: Board::read(&api.coordinator), watchers: 0 });
            tokio::spawn(run(Arc::clone(api)));
        }
        let running = show.as_mut().expect("it was begun");
        if running.watchers >= WATCHERS {
            live.leave(account);
            return Err(ApiError::too_many("As many watch as may at a time.", 10));
        }
        running.watchers += 1;
        let (frames, hello) = (running.frames.subscribe(), running.board.hello(api, sees_times));
        let (hello, ends) = (Some(hello), Instant::now() + LONGEST);
        Ok(Watcher { api: Arc::clone(api), account, sees_times, hello, frames, ends })
    }

    fn show(&self) -> MutexGuard<'_, Option<Show>> {
        self.show.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.api.coordinator.dispatch().live.leave(self.account);
        if let Some(show) = &mut *self.api.audience.show() {
            show.watchers -= 1;
        }
    }
}

/// Tells the watchers what changes, until there are none or the server stops.
async fn run(api: Arc<Api>) {
    let mut pause = TICK;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = api.stopping.cancelled() => return,
        }
        let begun = Instant::now();
        // Nodes are read without the lock that newcomers wait for.
        let latest = Board::read(&api.coordinator);
        let mut show = api.audience.show();
        let Some(running) = &mut *show else { return };
        if running.watchers == 0 {
            *show = None;
            return;
        }
        let frame = running.board.pass_to(latest, &api);
        if frame.says_something() {
            // Nobody takes it where the last watcher has just left.
            let _ = running.frames.send(Arc::new(frame));
        }
        drop(show);
        pause = TICK.max(begun.elapsed() * IDLE);
    }
}

/// What is said at one time: to all, to those who see times, and to each account.
#[derive(Debug, Default)]
struct Frame {
    network: Bytes,
    times: Bytes,
    accounts: HashMap<AccountId, Bytes>,
}

impl Frame {
    fn says_something(&self) -> bool {
        !(self.network.is_empty() && self.times.is_empty() && self.accounts.is_empty())
    }

    fn of(&self, account: AccountId, sees_times: bool) -> Option<Bytes> {
        let times = if sees_times { &self.times } else { &Bytes::new() };
        let own = self.accounts.get(&account);
        let parts = [Some(&self.network), Some(times), own];
        let parts: Vec<&Bytes> = parts.into_iter().flatten().filter(|p| !p.is_empty()).collect();
        match parts[..] {
            [] => None,
            [only] => Some(only.clone()),
            _ => Some(parts.iter().flat_map(|part| part.iter().copied()).collect()),
        }
    }
}

/// The network as watchers know it.
#[derive(Debug)]
struct Board {
    stats: NetworkStats,
    ready: bool,
    nodes: Vec<NodeSummary>,
    minute: Option<u64>,
}

/// What changes all the time: a node's id, its tasks, points and standing.
type Pulse = (NodeId, u32, i64, u16);

fn pulse(node: &NodeSummary) -> Pulse {
    (node.id, node.running, node.points, node.standing)
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Said<'a> {
    Hello {
        at: u64,
        sees_times: bool,
        ready: bool,
        stats: &'a NetworkStats,
        minutes: Vec<Minute>,
        nodes: &'a [NodeSummary],
    },
    Network {
        at: u64,
        ready: bool,
        stats: &'a NetworkStats,
        #[serde(skip_serializing_if = "Option::is_none")]
        minute: Option<Minute>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        nodes: Vec<&'a NodeSummary>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pulses: Vec<Pulse>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        gone: Vec<NodeId>,
    },
    Times {
        minute: Minute,
    },
    Tasks {
        #[serde(flatten)]
        news: crate::live::News,
    },
}

impl Said<'_> {
    fn event(&self) -> Bytes {
        let json = serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned());
        Bytes::from(format!("data: {json}\n\n"))
    }
}

impl Board {
    fn read(coordinator: &Coordinator) -> Self {
        let mut nodes: Vec<NodeSummary> = Vec::new();
        while nodes.len() < SHOWN {
            let after = nodes.last().map(|node| node.id);
            let page = coordinator.nodes_after(after.as_ref(), AT_A_TIME);
            let is_last = page.len() < AT_A_TIME;
            nodes.extend(page);
            if is_last {
                break;
            }
        }
        nodes.truncate(SHOWN);
        let dispatch = coordinator.dispatch();
        Self {
            stats: figures(coordinator),
            ready: !dispatch.journal.is_behind(),
            nodes,
            minute: dispatch.live.minutes().latest().map(|minute| minute.at),
        }
    }

    fn hello(&self, api: &Api, sees_times: bool) -> Bytes {
        let minutes = api.coordinator.dispatch().live.minutes();
        let minutes = minutes.iter();
        let minutes = minutes.map(|m| if sees_times { m } else { m.without_times() }).collect();
        let (at, ready, nodes) = (now(api), self.ready, self.nodes.as_slice());
        Said::Hello { at, sees_times, ready, stats: &self.stats, minutes, nodes }.event()
    }

    /// Becomes what is true now, and returns what to say of it.
    fn pass_to(&mut self, latest: Self, api: &Api) -> Frame {
        let live = &api.coordinator.dispatch().live;
        let accounts = live.take().into_iter();
        let accounts = accounts.map(|(account, news)| (account, Said::Tasks { news }.event()));
        let mut frame = Frame { accounts: accounts.collect(), ..Frame::default() };
        let minute = if latest.minute == self.minute { None } else { live.minutes().latest() };
        if let Some(minute) = minute {
            frame.times = Said::Times { minute }.event();
        }
        let changes = self.changes(&latest);
        let is_same = (self.stats.clone(), self.ready) == (latest.stats.clone(), latest.ready);
        if minute.is_some() || !is_same || !changes.is_empty() {
            let Changes { nodes, pulses, gone } = changes;
            let minute = minute.map(Minute::without_times);
            let (at, ready, stats) = (now(api), latest.ready, &latest.stats);
            frame.network = Said::Network { at, ready, stats, minute, nodes, pulses, gone }.event();
        }
        *self = latest;
        frame
    }

    /// Compares two states, whose nodes are in the order of their ids.
    fn changes<'a>(&self, latest: &'a Self) -> Changes<'a> {
        let mut changes = Changes::default();
        let mut before = self.nodes.iter().peekable();
        for node in &latest.nodes {
            while let Some(gone) = before.next_if(|old| old.id < node.id) {
                changes.gone.push(gone.id);
            }
            match before.next_if(|old| old.id == node.id) {
                Some(old) if old == node => {}
                Some(old) if is_only_busier(old, node) => changes.pulses.push(pulse(node)),
                _ => changes.nodes.push(node),
            }
        }
        changes.gone.extend(before.map(|old| old.id));
        changes
    }
}

#[derive(Debug, Default)]
struct Changes<'a> {
    nodes: Vec<&'a NodeSummary>,
    pulses: Vec<Pulse>,
    gone: Vec<NodeId>,
}

impl Changes<'_> {
    fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.pulses.is_empty() && self.gone.is_empty()
    }
}

/// Returns whether nothing differs but what a pulse tells.
fn is_only_busier(old: &NodeSummary, new: &NodeSummary) -> bool {
    let NodeSummary { id, name, tier, models, datasets, slots, connected, version, .. } = old;
    (id, name, tier, models) == (&new.id, &new.name, &new.tier, &new.models)
        && (datasets, slots) == (&new.datasets, &new.slots)
        && (connected, version) == (&new.connected, &new.version)
}

fn now(api: &Api) -> u64 {
    api.coordinator.clock().calendar().as_secs()
}
