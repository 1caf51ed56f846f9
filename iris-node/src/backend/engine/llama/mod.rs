//! Models of nearly every architecture that writes texts, run by llama.cpp inside this process.
//!
//! llama.cpp reads the weights, turns texts into tokens and computes; requests, templates,
//! sampling, schemas and lists of tokens are the engine's own. One thread owns llama.cpp's context:
//! each pass of all generations is one batch of its, a sequence for each conversation.
//!
//! The context has room for the full length of every conversation that may run or be kept, so
//! nothing runs out of it in the middle of an answer. That memory, 2 bytes for each key and value,
//! is taken at once, which is why the length has a default of its own: [`DEFAULT_CONTEXT`].

use std::fs::File;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;

use iris_core::backend::BackendError;
use llama_cpp_2::context::LlamaContext;
#[cfg(test)]
use llama_cpp_2::context::params::KvCacheType;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::{LlamaModelParams, LlamaSplitMode};
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::{LogOptions, send_logs_to_tracing};

use self::vocabulary::LlamaVocabulary;
use super::error::EngineError;
use super::model::Model;
use super::network::{Memory, Network, Part, Scores, Sizes, Wanted};
use super::template::Template;
use super::tokenizer::Tokenizer;
use super::{Device, EngineSettings};

mod vocabulary;

/// Most tokens of prompt and answer together where the settings say nothing.
pub(super) const DEFAULT_CONTEXT: usize = 4096;
/// Tokens of a prompt in one batch.
const STEP: usize = 64;

/// Weights of fewer bytes are computed with on one thread: several would mostly wait for each other.
const SMALL: u64 = 16 << 20;

/// What `general.file_type` of a file means, by number; empty where nothing does.
#[rustfmt::skip]
const FILE_TYPES: [&str; 39] = [
    "F32", "F16", "Q4_0", "Q4_1", "", "", "", "Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M",
    "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS", "Q2_K_S",
    "IQ3_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M",
    "BF16", "", "", "", "TQ1_0", "TQ2_0", "MXFP4",
];

/// A model in llama.cpp's hands.
pub(super) struct Llama {
    sizes: Sizes,
    /// A conversation of which nothing but all can be forgotten.
    recurrent: bool,
    free: Arc<Free>,
    /// The thread ends with its sender.
    orders: SyncSender<Order>,
}

/// One pass, and where its outcome goes.
struct Order {
    readings: Vec<Reading>,
    outcome: SyncSender<Result<Vec<Scores>, BackendError>>,
}

/// The next tokens of one conversation.
struct Reading {
    sequence: usize,
    /// How many tokens of it were read before.
    start: usize,
    tokens: Vec<u32>,
    wanted: Wanted,
}

/// The sequences of the context that belong to no conversation.
struct Free(Mutex<Vec<usize>>);

/// A conversation of which the context holds what was read.
pub(super) struct Conversation {
    sequence: usize,
    len: usize,
    recurrent: bool,
    free: Arc<Free>,
}

impl Free {
    fn lock(&self) -> MutexGuard<'_, Vec<usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory for Conversation {
    fn len(&self) -> usize {
        self.len
    }

    fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.len = if self.recurrent { 0 } else { len };
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.free.lock().push(self.sequence);
    }
}

/// Loads a file and starts the thread that computes with it.
pub(super) fn open(
    path: &Path,
    settings: &EngineSettings,
) -> Result<Arc<Model<Llama>>, EngineError> {
    open_with(path, settings, LlamaContextParams::default())
}

/// Does the same with a context that rounds nothing of what was read.
#[cfg(test)]
pub(super) fn open_exact(
    path: &Path,
    settings: &EngineSettings,
) -> Result<Arc<Model<Llama>>, EngineError> {
    const NO_FLASH_ATTENTION: i32 = 0;
    let params = LlamaContextParams::default().with_flash_attention_policy(NO_FLASH_ATTENTION);
    open_with(path, settings, params.with_type_k(KvCacheType::F32).with_type_v(KvCacheType::F32))
}

fn open_with(
    path: &Path,
    settings: &EngineSettings,
    params: LlamaContextParams,
) -> Result<Arc<Model<Llama>>, EngineError> {
    // llama.cpp does not say why it cannot open a file.
    File::open(path)?;
    let model = load(path, settings.device)?;
    let vocabulary = LlamaVocabulary::new(Arc::clone(&model));
    let conventions = vocabulary.conventions();
    let tokenizer = Tokenizer::new(vocabulary, conventions);
    let source = model.chat_template(None).ok().and_then(|template| template.to_string().ok());
    let template = Template::new(source.as_deref(), tokenizer.borders())?;
    let kind = model.meta_val_str("general.file_type").ok().and_then(|kind| kind.parse().ok());
    let kind = kind.and_then(|kind: usize| FILE_TYPES.get(kind)).filter(|name| !name.is_empty());
    let parameters = model.n_params();
    let network = Llama::start(model, settings, params)?;
    let kind = kind.map(|name| (*name).to_owned());
    Ok(Arc::new(Model::new(network, tokenizer, template, parameters, kind)))
}

fn load(path: &Path, device: Device) -> Result<Arc<LlamaModel>, EngineError> {
    let backend = backend()?;
    let on_card = LlamaModelParams::default();
    let params = match device {
        Device::Auto => on_card,
        // With no layers there llama.cpp would still compute large products on a card.
        Device::Cpu => {
            on_card.with_n_gpu_layers(0).with_split_mode(LlamaSplitMode::None).with_main_gpu(-1)
        }
        Device::Cuda(_) if !cfg!(feature = "cuda") => return Err(EngineError::NotBuilt("cuda")),
        Device::Metal if !cfg!(feature = "metal") => return Err(EngineError::NotBuilt("metal")),
        _ if !backend.supports_gpu_offload() => {
            return Err(EngineError::NoDevice("llama.cpp finds none".to_owned()));
        }
        // Else it spreads a model over all cards.
        Device::Cuda(number) => on_card
            .with_split_mode(LlamaSplitMode::None)
            .with_main_gpu(i32::try_from(number).unwrap_or(i32::MAX)),
        Device::Metal => on_card,
    };
    let model = LlamaModel::load_from_file(backend, path, &params)
        .map_err(|_| EngineError::LlamaCpp("its log says why".to_owned()))?;
    let architecture = model.meta_val_str("general.architecture").unwrap_or_default();
    let causal = model.meta_val_str(&format!("{architecture}.attention.causal"));
    // Such models turn texts into vectors, or into other texts, and write no answers.
    if model.decode_start_token().0 >= 0 || causal.is_ok_and(|causal| causal == "false") {
        return Err(EngineError::Unsupported(format!("an encoder ({architecture})")));
    }
    Ok(Arc::new(model))
}

/// Returns llama.cpp, set up once for the whole process.
fn backend() -> Result<&'static LlamaBackend, EngineError> {
    static BACKEND: LazyLock<Option<LlamaBackend>> = LazyLock::new(|| {
        send_logs_to_tracing(LogOptions::default());
        LlamaBackend::init().ok()
    });
    let taken = || EngineError::LlamaCpp("another part of this process uses it".to_owned());
    BACKEND.as_ref().ok_or_else(taken)
}

impl Llama {
    fn start(
        model: Arc<LlamaModel>,
        settings: &EngineSettings,
        params: LlamaContextParams,
    ) -> Result<Self, EngineError> {
        let trained = usize::try_from(model.n_ctx_train()).unwrap_or(usize::MAX);
        let asked = settings.context_limit.map_or(DEFAULT_CONTEXT, usize::from);
        let sizes = Sizes {
            context: asked.min(trained),
            width: usize::try_from(model.n_embd()).unwrap_or_default(),
            vocabulary: usize::try_from(model.n_vocab()).unwrap_or_default(),
            pooling: None,
        };
        let slots = settings.slots.get();
        // As many conversations run as are kept.
        let sequences = slots * 2;
        // A pass may want the scores of a token of each sequence.
        let batch = (STEP + slots).max(sequences);
        let small = |count: usize| {
            let error = |_| EngineError::LlamaCpp("the settings ask for too much".to_owned());
            u32::try_from(count).map_err(error)
        };
        let threads = if model.size() < SMALL { 1 } else { rayon::current_num_threads() };
        let threads = i32::try_from(threads).unwrap_or(i32::MAX);
        let params = params
            .with_n_ctx(NonZeroU32::new(small(sizes.context.saturating_mul(sequences))?))
            .with_n_batch(small(batch)?)
            .with_n_ubatch(small(batch)?)
            .with_n_seq_max(small(sequences)?)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            // All conversations in one batch, whichever they are.
            .with_kv_unified(true);
        let free = Arc::new(Free(Mutex::new((0..sequences).collect())));
        let recurrent = model.is_recurrent() || model.is_hybrid();
        let (orders, incoming) = mpsc::sync_channel(1);
        let (ready, started) = mpsc::sync_channel(1);
        let unused = Arc::clone(&free);
        let run = move || match Context::new(&model, params, batch, sequences, unused) {
            Ok(context) => {
                // Whoever waits for it is there.
                let _ = ready.send(Ok(()));
                context.run(&incoming);
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        };
        let thread = thread::Builder::new().name("iris-llama".to_owned());
        thread.spawn(run).map_err(EngineError::Threads)?;
        let gone = |_| EngineError::LlamaCpp("it cannot compute with it".to_owned());
        started.recv().map_err(gone)??;
        Ok(Self { sizes, recurrent, free, orders })
    }
}

impl Network for Llama {
    type Cache = Conversation;

    fn sizes(&self) -> Sizes {
        self.sizes
    }

    fn begin(&self, _tokens: usize, _context: usize) -> Result<Conversation, BackendError> {
        let sequence = self.free.lock().pop().ok_or(BackendError::Failed)?;
        let free = Arc::clone(&self.free);
        Ok(Conversation { sequence, len: 0, recurrent: self.recurrent, free })
    }

    fn forward(&self, parts: &mut [Part<'_, Conversation>]) -> Result<Vec<Scores>, BackendError> {
        let reading = |part: &Part<'_, Conversation>| Reading {
            sequence: part.cache.sequence,
            start: part.cache.len,
            tokens: part.tokens.to_vec(),
            wanted: part.wanted,
        };
        let (outcome, scores) = mpsc::sync_channel(1);
        let order = Order { readings: parts.iter().map(reading).collect(), outcome };
        self.orders.send(order).map_err(|_| BackendError::Failed)?;
        let scores = scores.recv().map_err(|_| BackendError::Failed)??;
        for part in parts {
            part.cache.len += part.tokens.len();
        }
        Ok(scores)
    }

    fn step(&self) -> usize {
        STEP
    }
}

/// llama.cpp's context, on the thread that owns it.
struct Context<'a> {
    inner: LlamaContext<'a>,
    batch: LlamaBatch<'static>,
    /// How many tokens of each sequence the context holds.
    held: Vec<usize>,
    free: Arc<Free>,
}

impl<'a> Context<'a> {
    fn new(
        model: &'a LlamaModel,
        params: LlamaContextParams,
        batch: usize,
        sequences: usize,
        free: Arc<Free>,
    ) -> Result<Self, EngineError> {
        let error = |_| {
            EngineError::LlamaCpp(
                "there is no memory for its conversations, or too many slots".into(),
            )
        };
        let inner = model.new_context(backend()?, params).map_err(error)?;
        let batch = LlamaBatch::new(batch, 1);
        let mut context = Self { inner, batch, held: vec![0; sequences], free };
        // Some files load that are no language models.
        let first = Reading { sequence: 0, start: 0, tokens: vec![0], wanted: Wanted::Last };
        let error = |_| EngineError::LlamaCpp("it does not tell what comes next".to_owned());
        context.answer(&[first]).map_err(error)?;
        Ok(context)
    }

    fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(Order { readings, outcome }) = orders.recv() {
            // Whoever asked waits for it.
            let _ = outcome.send(self.answer(&readings));
        }
    }

    fn answer(&mut self, readings: &[Reading]) -> Result<Vec<Scores>, BackendError> {
        // The library panics where llama.cpp has no scores to give.
        catch_unwind(AssertUnwindSafe(|| self.pass(readings))).unwrap_or_else(|_| {
            tracing::error!("llama.cpp gave no scores");
            Err(BackendError::Failed)
        })
    }

    fn pass(&mut self, readings: &[Reading]) -> Result<Vec<Scores>, BackendError> {
        let freed = self.free.lock().clone();
        freed.into_iter().try_for_each(|sequence| self.forget(sequence, 0))?;
        self.batch.clear();
        for Reading { sequence, start, tokens, wanted } in readings {
            self.forget(*sequence, *start)?;
            self.held[*sequence] = start + tokens.len();
            let sequence = native(*sequence)?;
            for (place, token) in tokens.iter().enumerate() {
                let token = LlamaToken(native(*token)?);
                let scored = wanted.is_after(place, tokens.len());
                let added = self.batch.add(token, native(start + place)?, &[sequence], scored);
                added.map_err(|_| BackendError::Failed)?;
            }
        }
        self.inner.decode(&mut self.batch).map_err(|error| {
            tracing::error!(%error, "llama.cpp could not compute");
            BackendError::Failed
        })?;
        let mut next = 0;
        let mut scores = Vec::with_capacity(readings.len());
        for Reading { tokens, wanted, .. } in readings {
            let places = (0..tokens.len()).filter(|place| wanted.is_after(*place, tokens.len()));
            let places =
                places.map(|place| Ok(self.inner.get_logits_ith(native(next + place)?).to_vec()));
            scores.push(places.collect::<Result<Scores, BackendError>>()?);
            next += tokens.len();
        }
        Ok(scores)
    }

    /// Forgets all but the first `len` tokens of a sequence.
    fn forget(&mut self, sequence: usize, len: usize) -> Result<(), BackendError> {
        if self.held[sequence] > len {
            let removed = self.inner.kv_cache_seq_rm(native(sequence)?, Some(native(len)?), None);
            removed.map_err(|error| {
                tracing::error!(%error, "llama.cpp could not forget a conversation");
                BackendError::Failed
            })?;
            self.held[sequence] = len;
        }
        Ok(())
    }
}

/// Turns a number into llama.cpp's kind.
fn native<N, M: TryFrom<N>>(number: N) -> Result<M, BackendError> {
    M::try_from(number).map_err(|_| BackendError::Failed)
}
