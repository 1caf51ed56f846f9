//! How fast models are on this machine, as measured here.
//!
//! What counts is the pace after the first token: the time before that depends on the prompt.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use iris_core::ModelName;
use iris_core::backend::{Backend, Chunk, GenerateRequest, Operation};
use iris_core::model::{ModelOffer, TokenRate};
use tokio::time::{Instant, timeout};

/// Fewer tokens than this say nothing about a speed.
const FEWEST_TOKENS: u32 = 8;
/// Nor do fewer chunks: what was held back comes at once.
const FEWEST_CHUNKS: u32 = 4;
/// How long a trial generation is, in tokens.
const TRIAL_TOKENS: u32 = 32;
/// How much a new measurement moves the known speed: one part in this many.
const INERTIA: u64 = 4;

/// The speeds of a node's models.
#[derive(Debug, Default)]
pub struct Speeds {
    rates: Mutex<HashMap<ModelName, TokenRate>>,
}

impl Speeds {
    /// Takes a measurement in. The known speed moves a quarter of the way to it.
    pub fn record(&self, model: &ModelName, measured: TokenRate) {
        let mut rates = self.locked();
        let rate = rates.entry(model.clone()).or_insert(measured);
        let moved = rate.as_millis() / INERTIA * (INERTIA - 1) + measured.as_millis() / INERTIA;
        *rate = TokenRate::measured(moved, Duration::from_secs(1000));
    }

    /// Returns the speed of a model; `None` before its first measurement.
    pub fn get(&self, model: &ModelName) -> Option<TokenRate> {
        self.locked().get(model).copied()
    }

    /// Forgets all models but those that are offered.
    pub fn retain(&self, offers: &[ModelOffer]) {
        self.locked().retain(|model, _| offers.iter().any(|offer| offer.name == *model));
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<ModelName, TokenRate>> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Measures one streamed answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stopwatch {
    first: Option<Instant>,
    chunks: u32,
}

impl Stopwatch {
    /// Counts a chunk of streamed output.
    pub fn chunk(&mut self) {
        self.first.get_or_insert_with(Instant::now);
        self.chunks = self.chunks.saturating_add(1);
    }

    /// Returns how many of an answer's `tokens` came without a chunk of their own.
    pub(crate) fn uncounted(&self, tokens: u32) -> u64 {
        tokens.saturating_sub(self.chunks).into()
    }

    /// Returns the pace from the first chunk until now; `None` when too little came to tell.
    ///
    /// `tokens` is how many the server counted; when that is zero, each chunk counts as one. The
    /// first chunk counts for its share of them, which came before the clock ran.
    pub fn rate(&self, tokens: u32) -> Option<TokenRate> {
        let tokens = if tokens == 0 { self.chunks } else { tokens };
        let elapsed = self.first?.elapsed();
        if tokens < FEWEST_TOKENS || self.chunks < FEWEST_CHUNKS || elapsed.is_zero() {
            return None;
        }
        let first = u64::from(tokens.div_ceil(self.chunks));
        Some(TokenRate::measured(u64::from(tokens).saturating_sub(first), elapsed))
    }
}

/// Measures a model with one short generation of at most `limit`; `None` when it fails or says
/// too little.
///
/// The model should be loaded already, or the time to load it is spent.
pub async fn measure(
    backend: &dyn Backend,
    model: &ModelName,
    limit: Duration,
) -> Option<TokenRate> {
    let body = serde_json::json!({
        "model": model.as_str(),
        "messages": [{"role": "user", "content": "Count from one to thirty in words."}],
        "max_tokens": TRIAL_TOKENS,
        "stream": true,
    });
    let mut answer = backend.generate(GenerateRequest {
        operation: Operation::Chat,
        model: model.clone(),
        body: Bytes::from(body.to_string()),
        stream: true,
        time_left: limit,
        begun: None,
        isolated: false,
    });
    let mut watch = Stopwatch::default();
    let trial = async {
        while let Some(chunk) = answer.next().await {
            match chunk.ok()? {
                Chunk::Finished(finish) => return watch.rate(finish.usage.completion_tokens),
                _ => watch.chunk(),
            }
        }
        None
    };
    // What a slow model has said until the limit tells its speed, too.
    let finished = timeout(limit, trial).await;
    finished.unwrap_or_else(|_| watch.rate(0))
}

#[cfg(test)]
mod tests {
    use iris_core::backend::{Gate, Script, ScriptedBackend};

    use super::*;

    fn model() -> ModelName {
        "m".parse().unwrap()
    }

    #[test]
    fn a_new_measurement_moves_the_speed_by_a_quarter() {
        let speeds = Speeds::default();
        speeds.record(&model(), TokenRate::per_second(40));
        assert_eq!(speeds.get(&model()), Some(TokenRate::per_second(40)));
        speeds.record(&model(), TokenRate::per_second(80));
        assert_eq!(speeds.get(&model()), Some(TokenRate::per_second(50)));
        speeds.retain(&[]);
        assert_eq!(speeds.get(&model()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_before_the_first_chunk_does_not_count() {
        let mut watch = Stopwatch::default();
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(watch.rate(100), None);
        watch.chunk();
        tokio::time::advance(Duration::from_secs(2)).await;
        watch.chunk();
        watch.chunk();
        assert_eq!(watch.rate(21), None, "three chunks are too few");
        watch.chunk();
        assert_eq!(watch.rate(20), Some(TokenRate::measured(15, Duration::from_secs(2))));
        assert_eq!(watch.rate(0), None, "so are four tokens");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_model_is_measured_by_what_it_says_within_the_limit() {
        let script = (0..9).fold(Script::new(), |script, _| script.text("a"));
        let never = Gate::new();
        let backend = ScriptedBackend::new([ModelOffer::new(model(), 100)], move |_| {
            script.clone().wait(&never)
        });
        let rate = measure(&backend, &model(), Duration::from_secs(4)).await;
        assert_eq!(rate, Some(TokenRate::per_second(2)));
        assert_eq!(backend.counts().cancelled, 1);
    }
}
