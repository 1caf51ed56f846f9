//! What a scripted backend says, and when.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};

use futures::channel::oneshot;
use futures::future::{FutureExt, Shared};

use super::locked;
use crate::backend::{BackendError, Chunk, Finish, Usage};

/// One scripted answer: steps, carried out in order as the stream is polled.
///
/// A script that does not say how it ends finishes with `stop`, counting one token for each
/// text. A request that is not streamed gets the texts as one [`Chunk::Whole`], unless the script
/// has a whole answer ready; [`Chunk::Json`] steps are left out of it.
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub(super) steps: VecDeque<Step>,
}

/// One step of a [`Script`].
#[derive(Clone, Debug)]
pub enum Step {
    /// Yields a chunk.
    Chunk(Chunk),
    /// Ends the stream with an error.
    Error(BackendError),
    /// Goes on once the gate is open.
    Wait(Gate),
    /// Opens the gate, so that a test learns how far the script got.
    Open(Gate),
}

impl Script {
    /// Makes a script without steps.
    pub const fn new() -> Self {
        Self { steps: VecDeque::new() }
    }

    /// Makes a script of texts; empty ones are left out.
    pub fn saying<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        texts.into_iter().fold(Self::new(), Self::text)
    }

    /// Adds a text, unless it is empty.
    pub fn text(self, text: impl Into<String>) -> Self {
        let text = text.into();
        if text.is_empty() { self } else { self.step(Step::Chunk(Chunk::Text(text))) }
    }

    /// Adds a step of the answer that is not plain text.
    pub fn json(self, members: &serde_json::Value) -> Self {
        self.step(Step::Chunk(Chunk::Json(members.to_string().into())))
    }

    /// Adds an end with `reason` and `usage`.
    pub fn finish(self, reason: &str, usage: Usage) -> Self {
        let finish = Finish { reason: reason.to_owned(), usage };
        self.step(Step::Chunk(Chunk::Finished(finish)))
    }

    /// Adds an end with `error`.
    pub fn fail(self, error: BackendError) -> Self {
        self.step(Step::Error(error))
    }

    /// Adds a halt until `gate` is open.
    pub fn wait(self, gate: &Gate) -> Self {
        self.step(Step::Wait(gate.clone()))
    }

    /// Adds the opening of `gate`.
    pub fn open(self, gate: &Gate) -> Self {
        self.step(Step::Open(gate.clone()))
    }

    /// Adds any step.
    pub fn step(mut self, step: Step) -> Self {
        self.steps.push_back(step);
        self
    }
}

impl FromIterator<Step> for Script {
    fn from_iter<I: IntoIterator<Item = Step>>(steps: I) -> Self {
        Self { steps: steps.into_iter().collect() }
    }
}

/// Holds scripts back until it is opened, once and for all. Clones are the same gate.
#[derive(Clone)]
pub struct Gate {
    key: Arc<Mutex<Option<oneshot::Sender<()>>>>,
    opened: Shared<oneshot::Receiver<()>>,
}

impl Gate {
    /// Makes a closed gate.
    pub fn new() -> Self {
        let (key, opened) = oneshot::channel();
        Self { key: Arc::new(Mutex::new(Some(key))), opened: opened.shared() }
    }

    /// Lets everything through that waits now or later.
    pub fn open(&self) {
        if let Some(key) = locked(&self.key).take() {
            // Every gate holds a receiver, so there is always someone to tell.
            let _ = key.send(());
        }
    }

    /// Resolves once the gate is open.
    pub fn opened(&self) -> impl Future<Output = ()> + Send + 'static {
        let gate = self.clone();
        async move {
            // The gate itself keeps the key from being dropped while this waits.
            let _ = gate.opened.clone().await;
        }
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if locked(&self.key).is_none() { "open" } else { "closed" };
        write!(f, "Gate({state})")
    }
}
