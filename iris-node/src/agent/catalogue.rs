use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use iris_core::ModelName;
use iris_core::backend::{Backend, BackendError};
use iris_core::model::{Abilities, ModelOffer, TokenRate};
use iris_protocol::limits::MAX_MODELS;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::conduct::ModelFilter;
use super::driver::Signal;
use crate::speed::{self, Speeds};

/// How long a backend may take to list its models.
const LIST_LIMIT: Duration = Duration::from_secs(10);
/// How long one model is measured at most.
const TRIAL_LIMIT: Duration = Duration::from_secs(5);
/// How long all models together are measured at most.
const TRIALS_LIMIT: Duration = Duration::from_secs(15);
/// Tokens that a question and what is said around it come to at most.
const ROOM: u32 = 2048;
/// How long to wait after a backend failed before asking it again.
const SETTLE: Duration = Duration::from_secs(1);

/// The models of all backends, as last heard of.
#[derive(Debug)]
pub(super) struct Catalogue {
    backends: Vec<Arc<dyn Backend>>,
    interval: Duration,
    speeds: Speeds,
    listed: Mutex<Listed>,
    doubted: Notify,
}

#[derive(Debug, Default)]
struct Listed {
    /// By name, so that the order says nothing about time.
    offers: BTreeMap<ModelName, (ModelOffer, usize)>,
    /// Backends that did not answer the last time.
    silent: HashSet<usize>,
    /// Which of the models may be offered.
    allowed: ModelFilter,
}

impl Listed {
    /// Returns what is offered, each with its backend.
    fn offered(&self) -> impl Iterator<Item = &(ModelOffer, usize)> {
        self.offers.values().filter(|(offer, _)| self.allowed.allows(&offer.name))
    }

    /// Returns what is offered by this name.
    fn find(&self, model: &ModelName) -> Option<&(ModelOffer, usize)> {
        self.offers.get(model).filter(|_| self.allowed.allows(model))
    }
}

impl Catalogue {
    pub(super) fn new(backends: Vec<Arc<dyn Backend>>, interval: Duration) -> Self {
        Self {
            backends,
            interval,
            speeds: Speeds::default(),
            listed: Mutex::default(),
            doubted: Notify::new(),
        }
    }

    /// Returns the models that would answer now, by name.
    pub(super) fn offers(&self) -> Vec<ModelOffer> {
        let listed = self.locked();
        listed.offered().map(|(offer, _)| offer.clone()).collect()
    }

    /// Lets only some models be offered from now on; returns whether these are others than before.
    pub(super) fn allow(&self, models: ModelFilter) -> bool {
        let mut listed = self.locked();
        let changed = listed.allowed != models;
        listed.allowed = models;
        changed
    }

    /// Returns whether the model is offered for what needs `abilities`.
    pub(super) fn offers_model(&self, model: &ModelName, abilities: Abilities) -> bool {
        let listed = self.locked();
        listed.find(model).is_some_and(|(offer, _)| offer.abilities.meet(abilities))
    }

    /// Returns the backend that has the model.
    pub(super) fn backend(&self, model: &ModelName) -> Option<Arc<dyn Backend>> {
        let at = self.locked().find(model)?.1;
        Some(Arc::clone(&self.backends[at]))
    }

    /// Returns the model that says how hard questions are, with its backend: the fastest of those
    /// that have room for one and answer without being loaded first.
    pub(super) fn judge(&self) -> Option<(ModelName, Arc<dyn Backend>)> {
        let listed = self.locked();
        let fit = listed.offered().filter(|(offer, at)| {
            offer.answers() && offer.context_length >= ROOM && !self.backends[*at].may_load()
        });
        let (offer, at) = fit.max_by_key(|(offer, _)| offer.speed)?;
        Some((offer.name.clone(), Arc::clone(&self.backends[*at])))
    }

    /// Takes in how fast a model worked.
    pub(super) fn record(&self, model: &ModelName, measured: TokenRate) {
        self.speeds.record(model, measured);
    }

    /// Takes in that a generation failed, so that the models are listed again soon.
    pub(super) fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// Lists the models again; true when something about them changed.
    pub(super) async fn refresh(&self) -> bool {
        let lists = self.backends.iter().map(|backend| async {
            let models = timeout(LIST_LIMIT, backend.models()).await;
            models.unwrap_or(Err(BackendError::Timeout))
        });
        let lists = join_all(lists).await;
        let mut listed = self.locked();
        let mut offers = BTreeMap::new();
        for (at, list) in lists.into_iter().enumerate() {
            note_silence(&mut listed.silent, at, list.as_ref().err());
            for offer in list.unwrap_or_default() {
                if offers.len() < MAX_MODELS && !offers.contains_key(&offer.name) {
                    let known = listed.offers.get(&offer.name);
                    let speed = self.speed(&offer, known.and_then(|(known, _)| known.speed));
                    let offer = ModelOffer { speed, ..offer };
                    offers.insert(offer.name.clone(), (offer, at));
                }
            }
        }
        let changed = offers != listed.offers;
        listed.offers = offers;
        let all: Vec<_> = listed.offers.values().map(|(offer, _)| offer.clone()).collect();
        drop(listed);
        self.speeds.retain(&all);
        changed
    }

    /// Measures every model that has no known speed, one after the other, for a short while.
    pub(super) async fn measure(&self) {
        let trials = async {
            for offer in self.offers().into_iter().filter(ModelOffer::answers) {
                let Some(backend) = self.backend(&offer.name) else { continue };
                if backend.may_load() {
                    continue;
                }
                let rate = speed::measure(&*backend, &offer.name, TRIAL_LIMIT).await;
                if let Some(rate) = rate {
                    info!(model = %offer.name, speed = %rate, "model measured");
                    self.record(&offer.name, rate);
                }
            }
        };
        if timeout(TRIALS_LIMIT, trials).await.is_err() {
            info!("not all models were measured; work will tell how fast the others are");
        }
        self.refresh().await;
    }

    /// Keeps the list fresh and tells the connection of every change, while it listens.
    pub(super) async fn keep_fresh(&self, connection: mpsc::Sender<Signal>) {
        loop {
            tokio::select! {
                biased;
                () = sleep(self.interval) => {}
                () = self.doubted.notified() => sleep(SETTLE).await,
            }
            if self.refresh().await && connection.send(Signal::Models).await.is_err() {
                return;
            }
        }
    }

    /// Returns the speed to tell: what was told before, unless that is off by a tenth.
    fn speed(&self, offer: &ModelOffer, told: Option<TokenRate>) -> Option<TokenRate> {
        let known = self.speeds.get(&offer.name).or(offer.speed);
        match (known, told) {
            (Some(known), Some(told)) => {
                let off = known.as_millis().abs_diff(told.as_millis());
                Some(if off > told.as_millis() / 10 { known } else { told })
            }
            (known, _) => known,
        }
    }

    fn locked(&self) -> MutexGuard<'_, Listed> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn note_silence(silent: &mut HashSet<usize>, at: usize, error: Option<&BackendError>) {
    match error {
        Some(error) if silent.insert(at) => {
            warn!(backend = at, %error, "the backend does not list its models");
        }
        None if silent.remove(&at) => info!(backend = at, "the backend lists its models again"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;
    use futures::stream::BoxStream;
    use iris_core::backend::{Chunk, GenerateRequest, ScriptedBackend};

    use super::*;

    #[derive(Debug)]
    struct Down;

    impl Backend for Down {
        fn models(&self) -> BoxFuture<'_, Result<Vec<ModelOffer>, BackendError>> {
            Box::pin(async { Err(BackendError::Unavailable) })
        }

        fn generate(&self, _: GenerateRequest) -> BoxStream<'static, Result<Chunk, BackendError>> {
            Box::pin(futures::stream::empty())
        }
    }

    fn name(text: &str) -> ModelName {
        text.parse().unwrap()
    }

    fn saying(model: &str) -> Arc<dyn Backend> {
        Arc::new(ScriptedBackend::saying(name(model), ["a"; 40]))
    }

    fn catalogue(backends: Vec<Arc<dyn Backend>>) -> Catalogue {
        Catalogue::new(backends, Duration::from_secs(30))
    }

    #[tokio::test]
    async fn the_first_backend_with_a_model_serves_it_and_a_silent_one_hides_nothing() {
        let backends = vec![Arc::new(Down) as Arc<dyn Backend>, saying("a"), saying("a")];
        let catalogue = catalogue(backends);
        assert!(catalogue.refresh().await);
        assert!(!catalogue.refresh().await);
        assert_eq!(catalogue.offers().len(), 1);
        let serving = catalogue.backend(&name("a")).unwrap();
        assert!(Arc::ptr_eq(&serving, &catalogue.backends[1]));
        assert!(catalogue.backend(&name("b")).is_none());
    }

    #[tokio::test]
    async fn a_small_change_of_speed_is_not_told() {
        let catalogue = catalogue(vec![saying("a")]);
        catalogue.refresh().await;
        let speed = || catalogue.offers()[0].speed;
        assert_eq!(speed(), None);
        catalogue.record(&name("a"), TokenRate::per_second(100));
        assert!(catalogue.refresh().await);
        catalogue.record(&name("a"), TokenRate::per_second(120));
        assert!(!catalogue.refresh().await);
        assert_eq!(speed(), Some(TokenRate::per_second(100)));
        catalogue.record(&name("a"), TokenRate::per_second(200));
        assert!(catalogue.refresh().await);
        assert_eq!(speed().unwrap().as_millis(), 128_750);
    }

    #[tokio::test]
    async fn what_only_embeds_is_neither_measured_nor_asked_how_hard_a_question_is() {
        let mut offer = ModelOffer::new(name("vectors"), 8192);
        offer.abilities = Abilities::EMBEDDINGS.union(Abilities::MUTE);
        let backend = ScriptedBackend::new([offer], |_| iris_core::backend::Script::new());
        let catalogue = catalogue(vec![Arc::new(backend.clone())]);
        catalogue.refresh().await;
        catalogue.measure().await;
        assert_eq!(backend.counts().started, 0);
        assert!(catalogue.judge().is_none());
        assert!(catalogue.offers_model(&name("vectors"), Abilities::EMBEDDINGS));
        assert!(!catalogue.offers_model(&name("vectors"), Abilities::NONE));
    }

    #[tokio::test(start_paused = true)]
    async fn models_are_listed_again_soon_after_a_failure() {
        let catalogue = catalogue(vec![saying("a")]);
        catalogue.doubt();
        let begin = tokio::time::Instant::now();
        let (connection, _) = mpsc::channel(1);
        catalogue.keep_fresh(connection).await;
        assert_eq!(begin.elapsed(), SETTLE);
    }
}
