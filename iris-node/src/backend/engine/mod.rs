//! Runs GGUF models inside this process, on its processor or a graphics card.
//!
//! The engine is there so that a network works on a machine without any model server; it reads
//! the `llama`, `qwen2` and `qwen3` architectures, which cover most small models. Quantised weights
//! stay quantised. Tokenizer and chat template come from the file.
//!
//! A generation runs on one of the engine's own threads, never on a runtime's: `slots` of them
//! work side by side over shared weights, each request with its own cache of keys and values.
//! Those of a large model take their tokens through its layers together, so that its weights are
//! read from memory once for all of them; a small one runs on each thread by itself.
//! Between two tokens a generation looks whether somebody still waits for it, so a dropped
//! stream frees its slot after at most one token, or one step of a prompt: 32 tokens, 128 on a card.
//!
//! What was read of a conversation is kept for its next turn where the request brings a
//! `cache_salt`, as with vLLM: a random text of 22 to 256 characters that only its caller knows.
//! Nothing else tells an engine who calls, so without one nothing is kept, and never of requests
//! that are isolated, as sealed ones are. At most as many conversations are kept as there are
//! slots, the latest ones; a whole answer says in `prompt_tokens_details.cached_tokens` what of
//! its prompt was known.
//!
//! An answer that another node began is continued from its tokens, with their count, penalties and
//! draws as if they had been written here: where both nodes run the same file and nothing is left
//! to chance, the whole is the text that one of them would have written.
//!
//! Log probabilities (`logprobs`, `top_logprobs`) are natural logarithms of what the model finds
//! likely among its whole vocabulary, before temperature, penalties and filters, as llama.cpp and
//! vLLM report them. They cost nothing where they are not asked for. The tokens of a given text are
//! scored on request, by vLLM's `prompt_logprobs`: one pass over the prompt, of which nothing is
//! kept, in an answer that is not streamed. An answer that lists its tokens is not continued.
//!
//! With a `response_format` of `json_object` or `json_schema` an answer keeps to the schema, token
//! by token: it is valid JSON unless its length cuts it. What of a schema cannot be kept to is
//! refused.
//!
//! An [`EngineLoader`] offers all files of a folder, through
//! [`OnDemand`](crate::backend::on_demand::OnDemand): what they take is read in their headers, and each
//! is loaded when somebody asks for it.
//!
//! Texts become vectors by `/v1/embeddings`: the mean over their tokens, or the last one where the
//! file says so, at length 1.
//!
//! With the features `cuda` and `metal`, [`Device`] puts weights and conversations on a graphics
//! card, where candle's operators compute. The tests run the same layers on the processor; neither
//! feature has been run on a card, nor been built, by those who wrote it.
//!
//! With the feature `llama-cpp`, [`Runner`] gives a model to llama.cpp, which knows nearly every
//! architecture that writes texts, and reads a file's texts in its own way; all around it stays the
//! same, and all that is said here holds, but that it makes no vectors and reads prompts in steps
//! of 64 tokens. It takes the memory of all conversations at once. A file that is crafted against
//! llama.cpp's checks can end the process: run files of people you trust.
//!
//! What the engine cannot honour it refuses with [`BackendError::Rejected`]: several answers
//! (`n`), forced tool calls, images. Tools reach the model's
//! template, and what the model writes comes back as text. Answers are deterministic unless a
//! request sets a temperature: the default is 0, since small models lose more by chance than
//! they gain.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, stream};
use iris_core::ModelName;
use iris_core::backend::{Backend, BackendError, Chunk, GenerateRequest};
use iris_core::model::{Abilities, ModelOffer};
use tokio::sync::mpsc;
use tokio::time;

use self::decoder::Decoder;
use self::generation::Shared;
use self::kept::Kept;
use self::model::Model;
use self::network::{Network, Sizes};
use self::outgoing::Item;
use self::passes::Passes;
use self::tensors::Tensors;
use self::weights::FromWeights;
use self::workers::Workers;

mod beginning;
mod cache;
mod calendar;
mod config;
mod constraint;
mod decoder;
mod embedding;
mod error;
#[cfg(test)]
mod families;
mod folder;
mod generation;
mod header;
mod kept;
mod likelihood;
#[cfg(feature = "llama-cpp")]
mod llama;
mod loader;
mod logprobs;
mod matrix;
mod model;
mod network;
mod outgoing;
mod passes;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod properties;
mod request;
mod rope;
mod sampler;
mod scoring;
mod stop;
mod template;
mod tensors;
mod tokenizer;
mod vocabulary;
mod weights;
#[cfg(target_arch = "x86_64")]
mod wide;
mod workers;
mod writer;

pub use self::error::EngineError;
pub use self::loader::{EngineLoader, FoundModel};

/// The name of the model inside this crate.
pub const BUNDLED_MODEL: &str = "iris-tiny";

/// Which model to run, and how much of it at once.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    source: Source,
    name: Option<ModelName>,
    slots: NonZeroUsize,
    queue: NonZeroUsize,
    context_limit: Option<NonZeroUsize>,
    device: Device,
    runner: Runner,
}

/// What runs a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runner {
    /// The engine's own layers where they know the model, else llama.cpp, if it was built in.
    #[default]
    Auto,
    /// The engine's own layers.
    BuiltIn,
    /// llama.cpp. Needs the feature `llama-cpp`, and a model file.
    LlamaCpp,
}

impl FromStr for Runner {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "built-in" => Ok(Self::BuiltIn),
            "llama-cpp" => Ok(Self::LlamaCpp),
            _ => Err("\"auto\", \"built-in\" or \"llama-cpp\""),
        }
    }
}

/// What a model is computed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The first graphics card that this program was built for and that is there (with llama.cpp,
    /// all of them), else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A card of NVIDIA's, by its number. Needs the feature `cuda`.
    Cuda(usize),
    /// Apple's. Needs the feature `metal`.
    Metal,
}

impl FromStr for Device {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let card = || text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "metal" => Ok(Self::Metal),
            _ => card().map(Self::Cuda).ok_or("\"auto\", \"cpu\", \"cuda:0\" or \"metal\""),
        }
    }
}

#[derive(Clone)]
enum Source {
    Bundled,
    File(PathBuf),
    Bytes(Bytes),
}

impl EngineSettings {
    /// Runs the model inside this crate, offered as [`BUNDLED_MODEL`].
    pub fn bundled() -> Self {
        Self::new(Source::Bundled)
    }

    /// Runs a GGUF file, offered under the file's name without its ending.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::new(Source::File(path.into()))
    }

    /// Runs the contents of a GGUF file; needs [`with_name`](Self::with_name).
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self::new(Source::Bytes(bytes.into()))
    }

    fn new(source: Source) -> Self {
        const TWO: NonZeroUsize = NonZeroUsize::new(2).expect("two is not zero");
        Self {
            source,
            name: None,
            slots: TWO,
            queue: TWO,
            context_limit: None,
            device: Device::default(),
            runner: Runner::default(),
        }
    }

    /// Offers the model under another name.
    pub fn with_name(mut self, name: ModelName) -> Self {
        self.name = Some(name);
        self
    }

    /// Sets how many requests run side by side. Default: 2. Each costs a thread and a cache.
    pub fn with_slots(mut self, slots: NonZeroUsize) -> Self {
        self.slots = slots;
        self
    }

    /// Sets how many further requests wait before [`BackendError::Busy`]. Default: 2.
    pub fn with_queue(mut self, queue: NonZeroUsize) -> Self {
        self.queue = queue;
        self
    }

    /// Limits the tokens of prompt and answer together. Default: what the model was trained on, and
    /// at most 4096 where llama.cpp runs it.
    ///
    /// Memory for one request grows with the tokens it really has, up to this limit; llama.cpp takes
    /// all of it at once, for twice as many conversations as there are slots.
    pub fn with_context_limit(mut self, tokens: NonZeroUsize) -> Self {
        self.context_limit = Some(tokens);
        self
    }

    /// Sets what is computed on. Default: [`Device::Auto`].
    pub fn with_device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// Sets what runs the model. Default: [`Runner::Auto`].
    pub fn with_runner(mut self, runner: Runner) -> Self {
        self.runner = runner;
        self
    }

    /// Returns how many requests run side by side.
    pub fn slots(&self) -> NonZeroUsize {
        self.slots
    }
}

impl Device {
    /// Returns whether models are computed on a graphics card, as far as this program was built for
    /// one: whether it is there is found out when a model is loaded.
    pub fn is_card(self) -> bool {
        use candle_core::utils::{cuda_is_available, metal_is_available};

        match self {
            Self::Auto => cuda_is_available() || metal_is_available(),
            Self::Cpu => false,
            Self::Cuda(_) | Self::Metal => true,
        }
    }

    /// Returns the card that is meant; `None` for the processor.
    fn find(self) -> Result<Option<candle_core::Device>, EngineError> {
        use candle_core::Device as Card;
        use candle_core::utils::{cuda_is_available, metal_is_available};

        let found = |card: candle_core::Result<Card>| {
            card.map(Some).map_err(|error| EngineError::NoDevice(error.to_string()))
        };
        let usable = |card: candle_core::Result<Card>| {
            card.inspect_err(|error| {
                tracing::warn!(%error, "the card cannot be used, and the processor is");
            })
            .ok()
        };
        match self {
            Self::Cuda(_) if !cuda_is_available() => Err(EngineError::NotBuilt("cuda")),
            Self::Cuda(number) => found(Card::new_cuda(number)),
            Self::Metal if !metal_is_available() => Err(EngineError::NotBuilt("metal")),
            Self::Metal => found(Card::new_metal(0)),
            Self::Auto if cuda_is_available() => Ok(usable(Card::new_cuda(0))),
            Self::Auto if metal_is_available() => Ok(usable(Card::new_metal(0))),
            Self::Cpu | Self::Auto => Ok(None),
        }
    }
}

impl Source {
    fn read<N: FromWeights>(&self, device: &candle_core::Device) -> Result<Model<N>, EngineError> {
        match self {
            Self::Bundled => Model::from_bytes_to(model::BUNDLED, device),
            Self::File(path) => Model::open(path, device),
            Self::Bytes(bytes) => Model::from_bytes_to(bytes, device),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundled => f.write_str("Bundled"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
        }
    }
}

/// A backend that runs one model in this process. Cloning shares its threads.
///
/// Streams must be polled within a tokio runtime with time enabled.
#[derive(Clone)]
pub struct Engine {
    workers: Workers,
    offer: ModelOffer,
}

impl Engine {
    /// Loads a model and starts its threads. Reads the whole file, so not for async contexts.
    #[expect(clippy::needless_pass_by_value, reason = "settings are made for one engine")]
    pub fn load(settings: EngineSettings) -> Result<Self, EngineError> {
        let name = settings.model_name()?;
        match settings.runner {
            Runner::BuiltIn => Self::built_in(name, &settings),
            Runner::LlamaCpp => Self::llama_cpp(name, &settings),
            Runner::Auto => match Self::built_in(name.clone(), &settings) {
                // Files with a storage of weights that is not known here look damaged.
                Err(error @ (EngineError::Unsupported(_) | EngineError::Malformed(_)))
                    if cfg!(feature = "llama-cpp") =>
                {
                    tracing::info!(reason = %error, "the model is given to llama.cpp");
                    Self::llama_cpp(name, &settings).map_err(|other| {
                        EngineError::LlamaCpp(format!(
                            "{other}; nor can the built-in layers: {error}"
                        ))
                    })
                }
                loaded => loaded,
            },
        }
    }

    fn built_in(name: ModelName, settings: &EngineSettings) -> Result<Self, EngineError> {
        match (settings.device.find()?, &settings.source) {
            (None, Source::Bundled) => Self::start(Model::bundled(), name, settings),
            (None, source) => {
                let model: Model<Decoder> = source.read(&candle_core::Device::Cpu)?;
                Self::start(Arc::new(model), name, settings)
            }
            (Some(card), source) => {
                let model: Model<Tensors> = source.read(&card)?;
                Self::start(Arc::new(model), name, settings)
            }
        }
    }

    #[cfg(feature = "llama-cpp")]
    fn llama_cpp(name: ModelName, settings: &EngineSettings) -> Result<Self, EngineError> {
        let Source::File(path) = &settings.source else {
            return Err(EngineError::LlamaCpp("it is not in a file of its own".to_owned()));
        };
        Self::start(llama::open(path, settings)?, name, settings)
    }

    #[cfg(not(feature = "llama-cpp"))]
    fn llama_cpp(_: ModelName, _: &EngineSettings) -> Result<Self, EngineError> {
        Err(EngineError::NotBuilt("llama-cpp"))
    }

    fn start<N: Network>(
        model: Arc<Model<N>>,
        name: ModelName,
        settings: &EngineSettings,
    ) -> Result<Self, EngineError> {
        let sizes = model.network.sizes();
        let context = settings.context(&sizes);
        let mut offer = offer(name, &sizes, context);
        offer.parameters = Some(model.parameters);
        offer.quantization.clone_from(&model.quantization);
        let slots = settings.slots.get();
        let shared = Shared { passes: Passes::new(model), kept: Kept::new(slots), context };
        let workers = Workers::start(shared, slots, settings.queue.get())?;
        Ok(Self { workers, offer })
    }

    /// Runs the model inside this crate; further engines in one process share its weights.
    pub fn bundled() -> Result<Self, EngineError> {
        Self::load(EngineSettings::bundled())
    }
}

impl EngineSettings {
    /// Returns how many tokens prompt and answer may have together.
    fn context(&self, sizes: &Sizes) -> usize {
        self.context_limit.map_or(sizes.context, |limit| limit.get().min(sizes.context))
    }

    fn model_name(&self) -> Result<ModelName, EngineError> {
        let text = match (&self.name, &self.source) {
            (Some(name), _) => return Ok(name.clone()),
            (None, Source::Bundled) => BUNDLED_MODEL,
            (None, Source::File(path)) => stem(path),
            (None, Source::Bytes(_)) => "",
        };
        text.parse().map_err(|_| EngineError::NoName)
    }
}

/// Returns how a model is offered that reads and writes so many tokens in all.
fn offer(name: ModelName, sizes: &Sizes, context: usize) -> ModelOffer {
    let mut offer = ModelOffer::new(name, u32::try_from(context).unwrap_or(u32::MAX));
    let lists = Abilities::LOGPROBS.union(Abilities::SCORE);
    offer.abilities = Abilities::CONTINUE.union(Abilities::JSON_SCHEMA).union(lists);
    if sizes.pooling.is_some() {
        offer.abilities = offer.abilities.union(Abilities::EMBEDDINGS);
    }
    offer
}

fn stem(path: &Path) -> &str {
    path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("offer", &self.offer).finish_non_exhaustive()
    }
}

impl Backend for Engine {
    fn models(&self) -> BoxFuture<'_, Result<Vec<ModelOffer>, BackendError>> {
        let offer = ModelOffer { speed: self.workers.speed(), ..self.offer.clone() };
        async { Ok(vec![offer]) }.boxed()
    }

    fn generate(&self, request: GenerateRequest) -> BoxStream<'static, Item> {
        if request.model != self.offer.name {
            return stream::iter([Err(BackendError::ModelNotFound)]).boxed();
        }
        let answer = Answer::Asked(self.workers.clone(), request);
        stream::unfold(answer, |answer| async {
            match answer {
                Answer::Asked(workers, request) => match ask(&workers, request) {
                    Ok(incoming) => incoming.next().await,
                    Err(error) => Some((Err(error), Answer::Ended)),
                },
                Answer::Coming(incoming) => incoming.next().await,
                Answer::Ended => None,
            }
        })
        .fuse()
        .boxed()
    }
}

/// The states of one stream.
enum Answer {
    Asked(Workers, GenerateRequest),
    Coming(Incoming),
    Ended,
}

struct Incoming {
    items: mpsc::Receiver<Item>,
    deadline: Instant,
}

fn ask(workers: &Workers, request: GenerateRequest) -> Result<Incoming, BackendError> {
    let now = Instant::now();
    // No answer takes a day, and a longer time could overflow the clock.
    let deadline = now + request.time_left.min(Duration::from_hours(24));
    let (outgoing, items) = outgoing::channel(deadline);
    workers.submit(request, outgoing)?;
    Ok(Incoming { items, deadline })
}

impl Incoming {
    async fn next(mut self) -> Option<(Item, Answer)> {
        let item = match time::timeout_at(self.deadline.into(), self.items.recv()).await {
            Ok(Some(item)) => item,
            // A generation that saw the deadline first ends without a word.
            Ok(None) if Instant::now() >= self.deadline => Err(BackendError::Timeout),
            Ok(None) => Err(BackendError::Failed),
            Err(_) => Err(BackendError::Timeout),
        };
        let ended = matches!(item, Ok(Chunk::Finished(_)) | Err(_));
        Some((item, if ended { Answer::Ended } else { Answer::Coming(self) }))
    }
}
