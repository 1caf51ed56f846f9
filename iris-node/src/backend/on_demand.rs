//! Models that are loaded when somebody asks for them, within a limit of memory.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use futures::stream::{self, BoxStream, StreamExt};
use iris_core::ModelName;
use iris_core::backend::{Backend, BackendError, Chunk, GenerateRequest};
use iris_core::memory::ByteSize;
use iris_core::model::ModelOffer;
use iris_core::queue::Priority;
use iris_core::residency::{Action, Capacity, Claim, Refusal, Residency, Ticket};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

/// Loads and unloads models.
///
/// It is asked by one [`OnDemand`], for one model by one call at a time.
pub trait Loader: fmt::Debug + Send + Sync + 'static {
    /// Lists what it can load, each with what that takes; called every few seconds.
    fn models(&self) -> BoxFuture<'_, Result<Vec<Loadable>, BackendError>>;

    /// Loads a model that it has listed, and returns what runs it.
    fn load(&self, model: &ModelName)
    -> BoxFuture<'static, Result<Arc<dyn Backend>, BackendError>>;

    /// Unloads a model that it has loaded and that nobody uses any more, or what there may be of one
    /// that it could not load. Asked again in half a minute after an error: the memory counts as taken
    /// until then.
    fn unload(&self, model: &ModelName) -> BoxFuture<'static, Result<(), BackendError>>;
}

/// A model that can be loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Loadable {
    /// As it is offered.
    pub offer: ModelOffer,
    /// What it takes once it is loaded.
    pub claim: Claim,
    /// Whether it is still loaded, if it was: servers unload models by themselves.
    pub is_loaded: bool,
}

/// A [`Backend`] that offers more models than fit into memory at a time.
///
/// Clones share their models. What is loaded and waited for is decided by [`Residency`].
#[derive(Clone, Debug)]
pub struct OnDemand {
    shared: Arc<Shared>,
}

/// What an [`OnDemand`] has in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resident {
    /// The models that are loaded, and how many requests each works on.
    pub models: Vec<(ModelName, u32)>,
    /// What they take, with those that are being loaded or unloaded.
    pub taken: ByteSize,
    /// What all may take.
    pub limit: ByteSize,
    /// How many requests wait for a model.
    pub waiting: usize,
}

struct Shared {
    loader: Arc<dyn Loader>,
    capacity: Capacity,
    runtime: Handle,
    state: Mutex<State>,
    /// Told when what is due next may be another time.
    changed: Notify,
}

struct State {
    residency: Residency,
    loaded: HashMap<ModelName, Loaded>,
    waiting: HashMap<Ticket, Waiting>,
    /// Models that were said to be too large.
    refused: Vec<ModelName>,
}

struct Loaded {
    backend: Arc<dyn Backend>,
    since: Instant,
}

struct Waiting {
    model: ModelName,
    told: oneshot::Sender<Result<Arc<dyn Backend>, Refusal>>,
}

impl OnDemand {
    /// Offers what `loader` can load, as much at a time as `capacity` lets it.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, which models are loaded on.
    pub fn new(loader: Arc<dyn Loader>, capacity: Capacity) -> Self {
        let state = State {
            residency: Residency::new(capacity),
            loaded: HashMap::new(),
            waiting: HashMap::new(),
            refused: Vec::new(),
        };
        let (runtime, state, changed) = (Handle::current(), Mutex::new(state), Notify::new());
        Self { shared: Arc::new(Shared { loader, capacity, runtime, state, changed }) }
    }

    /// Returns what is in memory now.
    pub fn resident(&self) -> Resident {
        let state = self.shared.locked();
        let models = state.residency.resident().map(|(name, running)| (name.clone(), running));
        Resident {
            models: models.collect(),
            taken: state.residency.taken(),
            limit: self.shared.capacity.memory,
            waiting: state.residency.waiting(),
        }
    }

    /// Unloads what is loaded, for when a node ends. What is being loaded just then stays with the
    /// server, which no node counts any more.
    pub async fn close(&self) {
        let loaded: Vec<_> = self.shared.locked().loaded.drain().map(|(name, _)| name).collect();
        join_all(loaded.iter().map(|model| self.shared.try_unload(model))).await;
    }
}

impl Backend for OnDemand {
    fn models(&self) -> BoxFuture<'_, Result<Vec<ModelOffer>, BackendError>> {
        Box::pin(async {
            let asked = Instant::now();
            let models = self.shared.loader.models().await?;
            Ok(self.shared.list(asked, models))
        })
    }

    fn may_load(&self) -> bool {
        true
    }

    fn generate(
        &self,
        request: GenerateRequest,
    ) -> BoxStream<'static, Result<Chunk, BackendError>> {
        let shared = Arc::clone(&self.shared);
        let start = async move {
            let deadline = Instant::now() + request.time_left.min(LONGEST);
            match shared.wait(&request.model, deadline).await {
                Ok((backend, place)) => {
                    let time_left = deadline.saturating_duration_since(Instant::now());
                    let answer = backend.generate(GenerateRequest { time_left, ..request });
                    // The model stays loaded for as long as the answer is held.
                    let held = answer.map(move |chunk| {
                        let _place = &place;
                        chunk
                    });
                    held.boxed()
                }
                Err(refusal) => stream::iter([Err(error_of(refusal))]).boxed(),
            }
        };
        stream::once(start).flatten().fuse().boxed()
    }
}

/// No answer takes a day, and a longer time could overflow the clock.
const LONGEST: Duration = Duration::from_hours(24);

/// How long to wait before a model is unloaded again that may be there still.
const UNLOAD_AGAIN: Duration = Duration::from_secs(30);

/// Returns what whoever asked is told.
const fn error_of(refusal: Refusal) -> BackendError {
    match refusal {
        Refusal::Full => BackendError::Busy,
        Refusal::Late => BackendError::Timeout,
        Refusal::Failed => BackendError::Failed,
        _ => BackendError::ModelNotFound,
    }
}

/// A request that waits, or works: what it has of a model is given back when this is dropped.
struct Place {
    shared: Arc<Shared>,
    ticket: Ticket,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.shared.locked();
        state.waiting.remove(&self.ticket);
        state.residency.handle_end(now(), self.ticket);
        self.shared.carry_out(&mut state);
    }
}

impl Shared {
    /// Takes in what could be loaded when that was `asked`, and returns what of it fits.
    fn list(self: &Arc<Self>, asked: Instant, models: Vec<Loadable>) -> Vec<ModelOffer> {
        let mut state = self.locked();
        let mut offers = Vec::new();
        for Loadable { offer, claim, is_loaded } in models {
            let offered = state.residency.offer(now(), &offer.name, claim);
            // A model that was loaded meanwhile may not be in the list yet.
            let loaded = state.loaded.get(&offer.name);
            if !is_loaded && loaded.is_some_and(|loaded| loaded.since <= asked) {
                info!(model = %offer.name, "the model is no longer loaded");
                state.residency.handle_gone(now(), &offer.name);
            }
            match offered {
                Ok(()) => offers.push(offer),
                Err(refusal) => {
                    if !state.refused.contains(&offer.name) {
                        warn!(model = %offer.name, %refusal, "this model is not offered");
                        state.refused.push(offer.name);
                    }
                }
            }
        }
        self.carry_out(&mut state);
        offers
    }

    /// Waits until a model is loaded and has a place.
    async fn wait(
        self: &Arc<Self>,
        model: &ModelName,
        deadline: Instant,
    ) -> Result<(Arc<dyn Backend>, Place), Refusal> {
        let (told, mut hears) = oneshot::channel();
        let place = {
            let mut state = self.locked();
            let ticket = state.residency.handle_request(
                now(),
                model,
                Priority::Interactive,
                deadline.into_std(),
            )?;
            state.waiting.insert(ticket, Waiting { model: model.clone(), told });
            self.carry_out(&mut state);
            Place { shared: Arc::clone(self), ticket }
        };
        loop {
            // It hears of all that happens from here on.
            let changed = self.changed.notified();
            let due = self.locked().residency.poll_timeout();
            let due = due.map_or(deadline, Instant::from_std);
            tokio::select! {
                biased;
                told = &mut hears => {
                    return told.unwrap_or(Err(Refusal::Failed)).map(|backend| (backend, place));
                }
                () = changed => {}
                () = sleep_until(due) => {
                    let mut state = self.locked();
                    state.residency.handle_timeout(now());
                    self.carry_out(&mut state);
                }
            }
        }
    }

    /// Does what is to be done.
    fn carry_out(self: &Arc<Self>, state: &mut State) {
        while let Some(action) = state.residency.poll() {
            match action {
                Action::Load(model) => {
                    let shared = Arc::clone(self);
                    self.runtime.spawn(async move { shared.load(model).await });
                }
                Action::Unload(model) => {
                    state.loaded.remove(&model);
                    let shared = Arc::clone(self);
                    self.runtime.spawn(async move { shared.unload(model).await });
                }
                Action::Start(ticket) => {
                    let Some(Waiting { model, told }) = state.waiting.remove(&ticket) else {
                        continue;
                    };
                    let loaded = state.loaded.get(&model).map(|loaded| loaded.backend.clone());
                    // Whoever does not hear it any more gives its place back.
                    let _ = told.send(loaded.ok_or(Refusal::Failed));
                }
                Action::Refuse(ticket, refusal) => {
                    if let Some(Waiting { told, .. }) = state.waiting.remove(&ticket) {
                        let _ = told.send(Err(refusal));
                    }
                }
            }
        }
        self.changed.notify_waiters();
    }

    async fn load(self: Arc<Self>, model: ModelName) {
        info!(%model, "loading");
        let begun = Instant::now();
        let loaded = self.loader.load(&model).await;
        let mut state = self.locked();
        match loaded {
            Ok(backend) => {
                info!(%model, took = ?begun.elapsed(), "loaded");
                let loaded = Loaded { backend, since: Instant::now() };
                state.loaded.insert(model.clone(), loaded);
                state.residency.handle_loaded(now(), &model);
            }
            Err(error) => {
                warn!(%model, %error, "the model cannot be loaded");
                state.residency.handle_failed(now(), &model);
            }
        }
        self.carry_out(&mut state);
    }

    async fn unload(self: Arc<Self>, model: ModelName) {
        info!(%model, "unloading");
        while !self.try_unload(&model).await {
            sleep(UNLOAD_AGAIN).await;
        }
        let mut state = self.locked();
        state.residency.handle_unloaded(now(), &model);
        self.carry_out(&mut state);
    }

    /// Returns whether a model is unloaded now.
    async fn try_unload(&self, model: &ModelName) -> bool {
        let unloaded = self.loader.unload(model).await;
        if let Err(error) = &unloaded {
            warn!(%model, %error, "the model may still be loaded");
        }
        unloaded.is_ok()
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("loader", &self.loader)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

/// Returns what time it is, by the clock that tests can stop.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use iris_core::backend::{Operation, ScriptedBackend};
    use iris_core::conformance;
    use tokio::sync::Semaphore;

    use super::*;

    /// Has models `a`, `b`, ..., each of which takes 6 of 10, and loads them when it is let.
    #[derive(Debug)]
    struct Shelf {
        models: usize,
        lets: Arc<Semaphore>,
        log: Arc<Mutex<Vec<String>>>,
        fails: bool,
        gone: Mutex<bool>,
        /// How often it cannot be unloaded.
        sticks: Mutex<u32>,
        /// Whoever wants the list waits for as long as somebody holds this.
        list: tokio::sync::Mutex<()>,
    }

    fn name(number: usize) -> ModelName {
        ["a", "b", "c"][number].parse().unwrap()
    }

    impl Shelf {
        fn new(models: usize) -> Self {
            let (lets, log) = (Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)), Arc::default());
            let (gone, sticks, list) = Default::default();
            Self { models, lets, log, fails: false, gone, sticks, list }
        }

        fn backend(self) -> (OnDemand, Arc<Self>) {
            let loader = Arc::new(self);
            let capacity =
                Capacity { memory: ByteSize::new(10), waiting: 3, stay: Duration::from_secs(5) };
            (OnDemand::new(loader.clone(), capacity), loader)
        }

        fn log(&self) -> Vec<String> {
            self.log.lock().unwrap().clone()
        }
    }

    impl Loader for Shelf {
        fn models(&self) -> BoxFuture<'_, Result<Vec<Loadable>, BackendError>> {
            let claim = |memory| Claim { memory: ByteSize::new(memory), slots: 2 };
            let is_loaded = !*self.gone.lock().unwrap();
            let model = |number| Loadable {
                offer: ModelOffer::new(name(number), 4096),
                claim: claim(6),
                is_loaded,
            };
            let large = Loadable {
                offer: ModelOffer::new("large".parse().unwrap(), 4096),
                claim: claim(11),
                is_loaded: false,
            };
            let models = (0..self.models).map(model).chain([large]).collect();
            Box::pin(async {
                drop(self.list.lock().await);
                Ok(models)
            })
        }

        fn load(
            &self,
            model: &ModelName,
        ) -> BoxFuture<'static, Result<Arc<dyn Backend>, BackendError>> {
            let (lets, log, model) = (Arc::clone(&self.lets), Arc::clone(&self.log), model.clone());
            let fails = self.fails;
            Box::pin(async move {
                lets.acquire().await.unwrap().forget();
                log.lock().unwrap().push(format!("+{model}"));
                if fails {
                    return Err(BackendError::Failed);
                }
                Ok(Arc::new(ScriptedBackend::echo(model)) as Arc<dyn Backend>)
            })
        }

        fn unload(&self, model: &ModelName) -> BoxFuture<'static, Result<(), BackendError>> {
            let mut sticks = self.sticks.lock().unwrap();
            let sign = if *sticks > 0 { '!' } else { '-' };
            self.log.lock().unwrap().push(format!("{sign}{model}"));
            let unloaded = if *sticks > 0 { Err(BackendError::Timeout) } else { Ok(()) };
            *sticks = sticks.saturating_sub(1);
            Box::pin(async { unloaded })
        }
    }

    fn request(model: &ModelName, secs: u64) -> GenerateRequest {
        let body = serde_json::json!({"model": model, "messages": [{"role": "user", "content": "Hi there"}]});
        GenerateRequest {
            operation: Operation::Chat,
            model: model.clone(),
            body: Bytes::from(body.to_string()),
            stream: true,
            time_left: Duration::from_secs(secs),
            begun: None,
            isolated: false,
        }
    }

    async fn ask(backend: &OnDemand, number: usize) -> Vec<Result<Chunk, BackendError>> {
        backend.generate(request(&name(number), 60)).collect().await
    }

    #[tokio::test(start_paused = true)]
    async fn meets_the_contract_of_backends() {
        let (backend, _) = Shelf::new(1).backend();
        conformance::backend::run_all(&backend, request(&name(0), 60)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn models_are_loaded_on_demand_and_take_turns() {
        let (backend, shelf) = Shelf::new(2).backend();
        let offers = backend.models().await.unwrap();
        let names: Vec<_> = offers.iter().map(|offer| offer.name.as_str()).collect();
        assert_eq!(names, ["a", "b"], "what can never fit is not offered");
        for number in [0, 0, 1, 0] {
            let chunks = ask(&backend, number).await;
            assert!(matches!(chunks.last(), Some(Ok(Chunk::Finished(_)))), "{chunks:?}");
        }
        assert_eq!(shelf.log(), ["+a", "-a", "+b", "-b", "+a"]);
        let resident = backend.resident();
        assert_eq!((resident.models, resident.waiting), (vec![(name(0), 0)], 0));
        assert_eq!((resident.taken.get(), resident.limit.get()), (6, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_in_use_is_not_unloaded_and_who_goes_away_gives_its_place_back() {
        let (backend, shelf) = Shelf::new(2).backend();
        backend.models().await.unwrap();
        let mut first = backend.generate(request(&name(0), 60));
        assert!(first.next().await.unwrap().is_ok());
        let late: Vec<_> = backend.generate(request(&name(1), 30)).collect().await;
        assert_eq!(late, [Err(BackendError::Timeout)], "it waited for the one in use");
        assert_eq!(shelf.log(), ["+a"]);
        let second = ask(&backend, 1);
        let drops = async {
            tokio::task::yield_now().await;
            drop(first);
        };
        let (second, ()) = tokio::join!(second, drops);
        assert!(matches!(second.last(), Some(Ok(Chunk::Finished(_)))), "{second:?}");
        assert_eq!(shelf.log(), ["+a", "-a", "+b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_are_bounded_and_hear_of_a_failure() {
        let shelf = Shelf { lets: Arc::new(Semaphore::new(0)), fails: true, ..Shelf::new(1) };
        let (backend, shelf) = shelf.backend();
        backend.models().await.unwrap();
        let asked: Vec<_> = (0..4).map(|_| ask(&backend, 0)).collect();
        let lets = async {
            tokio::task::yield_now().await;
            assert_eq!(backend.resident().waiting, 3);
            shelf.lets.add_permits(1);
        };
        let (answers, ()) = tokio::join!(futures::future::join_all(asked), lets);
        let count = |error: &BackendError| {
            answers.iter().filter(|chunks| **chunks == [Err(error.clone())]).count()
        };
        assert_eq!((count(&BackendError::Failed), count(&BackendError::Busy)), (3, 1));
        let unknown: Vec<_> =
            backend.generate(request(&"large".parse().unwrap(), 1)).collect().await;
        assert_eq!(unknown, [Err(BackendError::ModelNotFound)]);
    }

    fn is_finished(chunks: &[Result<Chunk, BackendError>]) -> bool {
        matches!(chunks.last(), Some(Ok(Chunk::Finished(_))))
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_served_when_a_stay_ends_that_began_later() {
        let shelf = Shelf { lets: Arc::new(Semaphore::new(0)), ..Shelf::new(2) };
        let (backend, shelf) = shelf.backend();
        backend.models().await.unwrap();
        let begun = Instant::now();
        let waits = async {
            tokio::task::yield_now().await;
            let chunks = ask(&backend, 1).await;
            (chunks, begun.elapsed())
        };
        let lets = async {
            sleep(Duration::from_secs(10)).await;
            shelf.lets.add_permits(2);
        };
        let (first, (second, took), ()) = tokio::join!(ask(&backend, 0), waits, lets);
        assert!(is_finished(&first) && is_finished(&second), "{first:?} {second:?}");
        assert_eq!(took.as_secs(), 15, "the other was loaded after 10 s and stayed 5 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_from_before_a_model_was_loaded_says_nothing_of_it() {
        let (backend, shelf) = Shelf::new(1).backend();
        backend.models().await.unwrap();
        *shelf.gone.lock().unwrap() = true;
        let held = shelf.list.lock().await;
        let loads = async {
            tokio::task::yield_now().await;
            sleep(Duration::from_secs(1)).await;
            ask(&backend, 0).await;
            drop(held);
        };
        let (listed, ()) = tokio::join!(backend.models(), loads);
        assert_eq!(listed.unwrap().len(), 1);
        assert_eq!(backend.resident().models, [(name(0), 0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_still_be_there_takes_its_memory_until_it_is_unloaded() {
        let (backend, shelf) = Shelf { sticks: Mutex::new(2), ..Shelf::new(2) }.backend();
        backend.models().await.unwrap();
        ask(&backend, 0).await;
        let begun = Instant::now();
        let chunks: Vec<_> = backend.generate(request(&name(1), 600)).collect().await;
        assert!(is_finished(&chunks), "{chunks:?}");
        assert_eq!(shelf.log(), ["+a", "!a", "!a", "-a", "+b"]);
        assert!(begun.elapsed() >= 2 * UNLOAD_AGAIN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_that_failed_to_load_is_unloaded_before_another_is_loaded() {
        let (backend, shelf) = Shelf { fails: true, ..Shelf::new(2) }.backend();
        backend.models().await.unwrap();
        for number in [0, 1] {
            assert_eq!(ask(&backend, number).await, [Err(BackendError::Failed)]);
        }
        assert_eq!(shelf.log()[..3], ["+a", "-a", "+b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_stays_loaded_when_a_node_ends() {
        let (backend, shelf) = Shelf::new(1).backend();
        backend.models().await.unwrap();
        ask(&backend, 0).await;
        backend.close().await;
        assert_eq!(shelf.log(), ["+a", "-a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_server_has_unloaded_is_loaded_again() {
        let (backend, shelf) = Shelf::new(1).backend();
        backend.models().await.unwrap();
        ask(&backend, 0).await;
        *shelf.gone.lock().unwrap() = true;
        backend.models().await.unwrap();
        assert_eq!(backend.resident().models, []);
        let chunks = ask(&backend, 0).await;
        assert!(matches!(chunks.last(), Some(Ok(Chunk::Finished(_)))), "{chunks:?}");
        assert_eq!(shelf.log(), ["+a", "-a", "+a"]);
    }
}
