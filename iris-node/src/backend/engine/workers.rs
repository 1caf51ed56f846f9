//! The threads that generate.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use iris_core::backend::{BackendError, GenerateRequest};
use iris_core::model::TokenRate;
use tokio::sync::{Semaphore, watch};

use super::error::EngineError;
use super::generation::{self, Shared};
use super::network::Network;
use super::outgoing::Outgoing;

/// One thread per slot and the queue before them. The threads end with the last handle.
#[derive(Clone)]
pub(super) struct Workers {
    queue: Sender<Job>,
    /// Bounds what runs and waits together, so a free slot never looks busy.
    places: Arc<Semaphore>,
    speed: Arc<Mutex<Option<TokenRate>>>,
    ended: Ended,
}

/// Tells when an engine is gone.
#[derive(Clone, Debug)]
pub(super) struct Ended(watch::Receiver<()>);

impl Ended {
    /// Waits until the last handle of the engine is gone, and with it the threads and all that they
    /// shared.
    pub(super) async fn wait(mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

struct Job {
    request: GenerateRequest,
    outgoing: Outgoing,
}

impl Workers {
    /// Starts `slots` threads, with room for `queue` waiting requests.
    pub(super) fn start<N: Network>(
        shared: Shared<N>,
        slots: usize,
        queue: usize,
    ) -> Result<Self, EngineError> {
        let shared = Arc::new(shared);
        let (sender, receiver) = mpsc::channel();
        let receiver = Arc::new(Mutex::new(receiver));
        let speed = Arc::default();
        let (alive, ended) = watch::channel(());
        let alive = Arc::new(alive);
        for slot in 0..slots {
            let worker = Worker {
                shared: Arc::clone(&shared),
                jobs: Arc::clone(&receiver),
                speed: Arc::clone(&speed),
                _alive: Arc::clone(&alive),
            };
            let thread = thread::Builder::new().name(format!("iris-engine-{slot}"));
            thread.spawn(move || worker.run()).map_err(EngineError::Threads)?;
        }
        let places =
            Arc::new(Semaphore::new(slots.saturating_add(queue).min(Semaphore::MAX_PERMITS)));
        Ok(Self { queue: sender, places, speed, ended: Ended(ended) })
    }

    /// Queues a request; `Busy` when the queue is full.
    pub(super) fn submit(
        &self,
        request: GenerateRequest,
        outgoing: Outgoing,
    ) -> Result<(), BackendError> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        outgoing.hold(place.map_err(|_| BackendError::Busy)?);
        self.queue.send(Job { request, outgoing }).map_err(|_| BackendError::Failed)
    }

    /// Returns what tells when all of this is gone.
    pub(super) fn ended(&self) -> Ended {
        self.ended.clone()
    }

    /// Returns the speed of one stream, as last measured on real work.
    pub(super) fn speed(&self) -> Option<TokenRate> {
        *self.speed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Worker<N: Network> {
    shared: Arc<Shared<N>>,
    jobs: Arc<Mutex<Receiver<Job>>>,
    speed: Arc<Mutex<Option<TokenRate>>>,
    /// The last field, since its end tells that the others are gone.
    _alive: Arc<watch::Sender<()>>,
}

impl<N: Network> Worker<N> {
    fn run(self) {
        while let Some(Job { request, outgoing }) = self.next() {
            if outgoing.check().is_err() {
                continue;
            }
            let generate = || generation::run(&self.shared, &request, &outgoing);
            // A foreign model's contradictions must not take the slot away from later requests.
            match catch_unwind(AssertUnwindSafe(generate)) {
                Ok(Some(rate)) => self.record(rate),
                Ok(None) => {}
                Err(_) => {
                    let _ = outgoing.send(Err(BackendError::Failed));
                }
            }
        }
    }

    fn next(&self) -> Option<Job> {
        // Waiting under the lock is waiting in line: whoever holds it gets the next job.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
    }

    /// Keeps the recorded speed steady: an offer that changes with every answer tells nothing.
    fn record(&self, rate: TokenRate) {
        let mut speed = self.speed.lock().unwrap_or_else(PoisonError::into_inner);
        let near =
            |old: TokenRate| rate.as_millis().abs_diff(old.as_millis()) < old.as_millis() / 4;
        if !speed.is_some_and(near) {
            *speed = Some(rate);
        }
    }
}
