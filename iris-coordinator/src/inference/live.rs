//! What those who follow a durable task are told.
//!
//! What happened is kept once for all followers, in order; each of them has a place in it and
//! reads on at its own pace, so a slow one costs nothing.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iris_core::NodeId;
use iris_core::backend::Usage;
use iris_core::plan::{Decision, DecisionError, PlanRun, Progress, UnitReport, UnitState};
use iris_protocol::rest;
use tokio::sync::watch;

/// How many events are kept. Whoever is further behind goes on from there.
const KEPT: usize = 8192;
/// How many bytes of text are passed on at a time.
const PIECE: usize = 32 << 10;

/// A task that is not over, as its followers see it.
pub(super) struct Live {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    entries: VecDeque<Entry>,
    /// The number of the first entry that is kept.
    first: u64,
    text: String,
    units: Vec<UnitReport>,
    places: HashMap<String, usize>,
    usage: Usage,
    node: Option<NodeId>,
    /// Reviews that wait, with what they lay out.
    reviews: BTreeMap<String, Vec<String>>,
    closed: bool,
}

enum Entry {
    /// Something happened, as JSON.
    Event(Arc<str>),
    /// The text of the answer came so far.
    Text(usize),
}

/// What a follower is told next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed(Arc<str>);

impl Followed {
    /// Returns the event as one line of JSON: a [`Progress`], or `{"event":"resync"}` where the
    /// follower was too slow and has missed some.
    pub fn as_json(&self) -> &str {
        &self.0
    }
}

/// Reads what happens to a task, from its beginning.
pub struct Events {
    source: Source,
}

enum Source {
    Live { live: Arc<Live>, changed: watch::Receiver<()>, next: u64, text: usize },
    Over(VecDeque<Arc<str>>),
}

impl Live {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: watch::Sender::new(()) })
    }

    /// Tells the followers, and notes how the plan stands.
    pub(super) fn tell(&self, run: Option<&PlanRun>, progress: &Progress) {
        let mut state = self.state();
        match progress {
            Progress::Text { text } => state.add_text(text),
            _ => state.push(Entry::Event(json(progress))),
        }
        if let Some(run) = run
            && let Some(unit) = unit(progress)
        {
            state.note(run, unit);
        }
        match progress {
            Progress::Started { placed, .. } => state.node = placed.node.or(state.node),
            Progress::Waiting { unit, choices } => {
                state.reviews.insert(unit.clone(), choices.clone());
            }
            Progress::Over { unit, .. } => drop(state.reviews.remove(unit)),
            _ => {}
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// Says that nothing more will be told.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.send_replace(());
    }

    /// Returns the node that took something last.
    pub(super) fn node(&self) -> Option<NodeId> {
        self.state().node
    }

    /// Returns the units of a plan as they stand.
    pub(super) fn units(&self) -> Vec<UnitReport> {
        self.state().units.clone()
    }

    /// Adds how the plan stands to what is said of its task.
    pub(super) fn describe(&self, status: &mut rest::InferenceStatus) {
        let state = self.state();
        status.steps.clone_from(&state.units);
        status.usage = Some(state.usage.into());
        status.partial = (!state.text.is_empty()).then(|| state.text.clone());
        let reviews = state.reviews.iter();
        status.reviews = reviews
            .map(|(step, choices)| rest::Review { step: step.clone(), choices: choices.clone() })
            .collect();
    }

    /// Returns whether a person has to decide something.
    pub(super) fn waits(&self) -> bool {
        !self.state().reviews.is_empty()
    }

    /// Takes the review that a decision is for, so that nobody decides it a second time.
    pub(super) fn take_review(&self, decision: &Decision) -> Result<(), DecisionError> {
        let mut state = self.state();
        let choices = state.reviews.get(&decision.step).ok_or(DecisionError::NotWaiting)?;
        match (&decision.choose, &decision.text) {
            (Some(choice), None) if choices.contains(choice) => {}
            (Some(_), None) => return Err(DecisionError::UnknownChoice),
            (None, Some(_)) => {}
            _ => return Err(DecisionError::OneOfBoth),
        }
        state.reviews.remove(&decision.step);
        Ok(())
    }

    pub(super) fn follow(self: &Arc<Self>) -> Events {
        let changed = self.changed.subscribe();
        let source = Source::Live { live: Arc::clone(self), changed, next: 0, text: 0 };
        Events { source }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, entry: Entry) {
        if self.entries.len() == KEPT {
            self.entries.pop_front();
            self.first += 1;
        }
        self.entries.push_back(entry);
    }

    fn add_text(&mut self, text: &str) {
        self.text.push_str(text);
        let end = self.text.len();
        if let Some(Entry::Text(known)) = self.entries.back_mut() {
            *known = end;
        } else {
            self.push(Entry::Text(end));
        }
    }

    fn note(&mut self, run: &PlanRun, label: &str) {
        let Some(report) = run.unit(label) else { return };
        self.usage = run.usage();
        let place = *self.places.entry(label.to_owned()).or_insert_with(|| {
            self.units.push(report.clone());
            self.units.len() - 1
        });
        self.units[place] = report;
    }

    /// Returns what comes at `next` for somebody who has `text` bytes of the answer.
    fn read(&self, next: &mut u64, text: &mut usize) -> Option<Arc<str>> {
        if *next < self.first {
            *next = self.first;
            return Some(Arc::from(r#"{"event":"resync"}"#));
        }
        let at = |number: u64| self.entries.get(usize::try_from(number - self.first).ok()?);
        // Text that was read already may have gone on since.
        let before = next.checked_sub(1).filter(|before| *before >= self.first).and_then(at);
        if let Some(Entry::Text(end)) = before
            && *end > *text
        {
            return Some(self.piece(text, *end));
        }
        loop {
            let entry = at(*next)?;
            *next += 1;
            match entry {
                Entry::Event(event) => return Some(Arc::clone(event)),
                Entry::Text(end) if *end > *text => return Some(self.piece(text, *end)),
                Entry::Text(_) => {}
            }
        }
    }

    fn piece(&self, text: &mut usize, end: usize) -> Arc<str> {
        let cut = self.text.floor_char_boundary(end.min(*text + PIECE));
        let piece = self.text[*text..cut].to_owned();
        *text = cut;
        json(&Progress::Text { text: piece })
    }
}

impl Events {
    /// Tells of a task that is over.
    pub(super) fn over(progress: impl IntoIterator<Item = Progress>) -> Self {
        let events = progress.into_iter().map(|progress| json(&progress)).collect();
        Self { source: Source::Over(events) }
    }

    /// Returns what happened next; `None` once the task is over, or the coordinator stops.
    /// Nothing is lost when this is dropped.
    pub async fn next(&mut self) -> Option<Followed> {
        match &mut self.source {
            Source::Over(events) => events.pop_front().map(Followed),
            Source::Live { live, changed, next, text } => loop {
                changed.borrow_and_update();
                let (event, closed) = {
                    let state = live.state();
                    (state.read(next, text), state.closed)
                };
                if let Some(event) = event {
                    return Some(Followed(event));
                }
                if closed {
                    return None;
                }
                // The sender lives as long as `live`.
                let _ = changed.changed().await;
            },
        }
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

/// Tells of a plan that is over what its report still knows.
pub(super) fn retold(units: &[UnitReport]) -> impl Iterator<Item = Progress> + '_ {
    units.iter().flat_map(|report| {
        let (unit, source) = (report.unit.clone(), report.source);
        let added = Progress::Added { unit: unit.clone(), source };
        let is_over =
            !matches!(report.state, UnitState::Waiting | UnitState::Running | UnitState::Review);
        let over = is_over.then_some(Progress::Over { unit, state: report.state });
        std::iter::once(added).chain(over)
    })
}

/// Returns the unit that something is told of.
fn unit(progress: &Progress) -> Option<&str> {
    match progress {
        Progress::Added { unit, .. }
        | Progress::Started { unit, .. }
        | Progress::Answered { unit, .. }
        | Progress::Failed { unit, .. }
        | Progress::Agreed { unit, .. }
        | Progress::Over { unit, .. }
        | Progress::Waiting { unit, .. } => Some(unit),
        _ => None,
    }
}

fn json(progress: &Progress) -> Arc<str> {
    serde_json::to_string(progress).expect("progress has a JSON form").into()
}
