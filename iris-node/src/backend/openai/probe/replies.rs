//! The lists of each kind of server, as far as they are read, and the offers that follow.

use std::collections::HashMap;

use iris_core::memory::{Attention, ByteSize, Load, Weights};
use iris_core::model::{Abilities, ModelOffer, NameFacts, Traits};
use iris_core::quantization::Quantization;
use serde::Deserialize;

use super::{Facts, granted};

/// What a server can do with a model that is made for vectors.
const ONLY_EMBEDS: Abilities = Abilities::EMBEDDINGS.union(Abilities::MUTE);

/// LM Studio 0.4 and later, `/api/v1/models`.
#[derive(Deserialize)]
pub(in crate::backend::openai) struct LmStudio {
    models: Vec<LmStudioModel>,
}

#[derive(Deserialize)]
struct LmStudioModel {
    #[serde(rename = "type")]
    kind: String,
    // Tells this list from others that are called `models` too.
    key: String,
    #[serde(default)]
    selected_variant: Option<String>,
    #[serde(default)]
    params_string: Option<String>,
    #[serde(default)]
    quantization: Option<LmStudioQuantization>,
    #[serde(default)]
    size_bytes: Option<u64>,
    loaded_instances: Vec<LmStudioInstance>,
    #[serde(default)]
    max_context_length: u32,
    #[serde(default)]
    capabilities: Option<LmStudioCapabilities>,
}

#[derive(Deserialize)]
struct LmStudioQuantization {
    name: Option<String>,
}

#[derive(Deserialize)]
struct LmStudioInstance {
    id: String,
    #[serde(default)]
    config: LmStudioConfig,
}

#[derive(Default, Deserialize)]
struct LmStudioConfig {
    context_length: Option<u32>,
    parallel: Option<u32>,
}

#[derive(Deserialize)]
struct LmStudioCapabilities {
    #[serde(default)]
    vision: bool,
    #[serde(default)]
    trained_for_tool_use: bool,
}

impl From<LmStudio> for Facts {
    fn from(list: LmStudio) -> Self {
        let mut facts = Self::default();
        for model in &list.models {
            for instance in &model.loaded_instances {
                let context = instance.config.context_length.unwrap_or(model.max_context_length);
                let Some(offer) = model.offer(&instance.id, context) else { continue };
                if model.only_embeds() {
                    facts.offers.push(offer);
                    continue;
                }
                facts.offers.push(offer);
                let parallel = instance.config.parallel.unwrap_or(1);
                facts.slots = Some(facts.slots.unwrap_or(0).saturating_add(parallel));
            }
        }
        facts
    }
}

impl LmStudioModel {
    fn only_embeds(&self) -> bool {
        self.kind == "embedding"
    }

    fn offer(&self, name: &str, context: u32) -> Option<ModelOffer> {
        let names = [self.selected_variant.as_deref(), Some(&self.key)];
        let told = Told::by_names(names.into_iter().flatten()).but(
            self.params_string.as_deref().and_then(parameters),
            self.quantization.as_ref().and_then(|q| known(q.name.clone())),
        );
        let mut offer = told.offer(name, context)?;
        if self.only_embeds() {
            offer.abilities = ONLY_EMBEDS;
            return Some(offer);
        }
        offer.abilities = Abilities::JSON_SCHEMA;
        if let Some(capabilities) = &self.capabilities {
            offer.abilities = offer
                .abilities
                .union(granted(capabilities.vision, Abilities::VISION))
                .union(granted(capabilities.trained_for_tool_use, Abilities::TOOLS));
        }
        Some(offer)
    }
}

/// A model that lies on the server's disk, loaded or not.
#[derive(Debug)]
pub(in crate::backend::openai) struct Stored {
    pub(in crate::backend::openai) offer: ModelOffer,
    pub(in crate::backend::openai) load: Load,
    /// What is loaded of it, by the names that are unloaded.
    pub(in crate::backend::openai) instances: Vec<String>,
}

impl Stored {
    fn new(offer: ModelOffer, size: Option<u64>, attention: Option<Attention>) -> Self {
        let quantization = offer.quantization.as_deref().and_then(Quantization::of);
        let weights = match (size.filter(|size| *size > 0), offer.parameters) {
            (Some(size), _) => Weights::Files(ByteSize::new(size)),
            (None, Some(count)) => Weights::Named(count, quantization),
            (None, None) => Weights::Unknown,
        };
        let mut load = Load::new(weights);
        (load.attention, load.context_tokens) = (attention, offer.context_length);
        load.sees = offer.abilities.contains(Abilities::VISION);
        Self { offer, load, instances: Vec::new() }
    }
}

impl LmStudio {
    /// Returns the models on disk, as they would be offered with a context of so many tokens.
    pub(in crate::backend::openai) fn stored(&self, context: u32) -> Vec<Stored> {
        let stored = |model: &LmStudioModel| {
            let longest =
                if model.max_context_length == 0 { u32::MAX } else { model.max_context_length };
            let offer = model.offer(&model.key, context.min(longest))?;
            let instances = model.loaded_instances.iter().map(|one| one.id.clone()).collect();
            Some(Stored { instances, ..Stored::new(offer, model.size_bytes, None) })
        };
        let models = self.models.iter().filter(|model| model.kind != "embedding");
        models.filter_map(stored).collect()
    }
}

/// LM Studio before 0.4, `/api/v0/models`.
#[derive(Deserialize)]
pub(super) struct LmStudioOld {
    data: Vec<LmStudioOldModel>,
}

#[derive(Deserialize)]
struct LmStudioOldModel {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    state: String,
    #[serde(default)]
    quantization: Option<String>,
    #[serde(default)]
    max_context_length: u32,
    #[serde(default)]
    loaded_context_length: Option<u32>,
    #[serde(default)]
    capabilities: Vec<String>,
}

impl From<LmStudioOld> for Facts {
    fn from(list: LmStudioOld) -> Self {
        let loaded = |model: &LmStudioOldModel| model.state == "loaded";
        let offers = list.data.into_iter().filter(loaded).filter_map(|model| {
            let context = model.loaded_context_length.unwrap_or(model.max_context_length);
            let told = Told::by_names([&*model.id]).but(None, known(model.quantization));
            let mut offer = told.offer(&model.id, context)?;
            if model.kind == "embeddings" {
                offer.abilities = ONLY_EMBEDS;
                return Some(offer);
            }
            let tools = model.capabilities.iter().any(|capability| capability == "tool_use");
            offer.abilities = Abilities::JSON_SCHEMA
                .union(granted(tools, Abilities::TOOLS))
                .union(granted(model.kind == "vlm", Abilities::VISION));
            Some(offer)
        });
        // It works on one request after the other.
        Self { offers: offers.collect(), slots: Some(1), ..Self::default() }
    }
}

/// Ollama, `/api/ps`.
#[derive(Deserialize)]
pub(in crate::backend::openai) struct OllamaRunning {
    pub(in crate::backend::openai) models: Vec<OllamaRunningModel>,
}

#[derive(Deserialize)]
pub(in crate::backend::openai) struct OllamaRunningModel {
    pub(in crate::backend::openai) model: String,
    /// What its files take, in the list of all models.
    #[serde(default)]
    size: u64,
    #[serde(default)]
    details: OllamaDetails,
    #[serde(default)]
    context_length: u32,
}

#[derive(Debug, Default, Deserialize)]
struct OllamaDetails {
    parameter_size: Option<String>,
    quantization_level: Option<String>,
}

/// Ollama, `/api/show`.
#[derive(Debug, Default, Deserialize)]
pub(in crate::backend::openai) struct OllamaModel {
    #[serde(default)]
    capabilities: Vec<String>,
    /// The settings of its file, one a line, such as `num_ctx 4096`.
    #[serde(default)]
    parameters: String,
    #[serde(default)]
    details: OllamaDetails,
    #[serde(default)]
    model_info: OllamaModelInfo,
}

#[derive(Debug, Default, Deserialize)]
struct OllamaModelInfo {
    #[serde(rename = "general.parameter_count")]
    parameter_count: Option<u64>,
    /// The others begin with the name of the architecture.
    #[serde(flatten)]
    more: HashMap<String, serde_json::Value>,
}

impl OllamaModelInfo {
    fn number(&self, ending: &str) -> Option<u32> {
        let found = self.more.iter().find(|(name, _)| name.ends_with(ending))?.1;
        found.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0)
    }

    /// Returns what is kept of each token; `None` where heads differ from layer to layer, or it is
    /// not told.
    fn attention(&self) -> Option<Attention> {
        let heads = self.number(".attention.head_count")?;
        let size = || Some(self.number(".embedding_length")? / heads);
        let key_size = self.number(".attention.key_length").or_else(size)?;
        let value_size = self.number(".attention.value_length").unwrap_or(key_size);
        let kv_heads = match self.number(".attention.head_count_kv") {
            Some(heads) => heads,
            None if self.more.keys().any(|name| name.ends_with(".head_count_kv")) => return None,
            None => heads,
        };
        let attention = Attention::new(self.number(".block_count")?, kv_heads, key_size);
        Some(Attention { value_size, ..attention })
    }
}

impl OllamaModel {
    /// Returns the context that the model's file sets.
    fn context_length(&self) -> Option<u32> {
        let mut lines = self.parameters.lines().map(str::split_whitespace);
        lines.find_map(|mut words| match words.next() {
            Some("num_ctx") => words.next()?.parse().ok(),
            _ => None,
        })
    }
}

impl OllamaRunningModel {
    /// Returns a model of the list of all, as it would be offered.
    pub(in crate::backend::openai) fn stored(
        self,
        model: &OllamaModel,
        context: u32,
    ) -> Option<Stored> {
        let size = self.size;
        let mut offer = self.offer(model)?;
        if offer.context_length == 0 {
            offer.context_length = context;
        }
        Some(Stored::new(offer, Some(size), model.model_info.attention()))
    }

    pub(super) fn offer(self, model: &OllamaModel) -> Option<ModelOffer> {
        let can = |name: &str| model.capabilities.iter().any(|capability| capability == name);
        let told = Told::by_names([&*self.model]);
        // Older versions do not say what a model is for.
        let (answers, embeds) = if model.capabilities.is_empty() {
            (told.traits.answers(), told.traits.contains(Traits::EMBEDDING))
        } else {
            (can("completion"), can("embedding"))
        };
        if !answers && !embeds {
            return None;
        }
        let size = self.details.parameter_size.or(model.details.parameter_size.clone());
        let level = known(self.details.quantization_level)
            .or_else(|| known(model.details.quantization_level.clone()));
        let counted = model.model_info.parameter_count.filter(|count| *count > 0);
        let told = told.but(counted.or_else(|| parameters(&size?)), level);
        // Older versions do not tell the context that is in force.
        let context = Some(self.context_length).filter(|tokens| *tokens > 0);
        let mut offer =
            told.offer(&self.model, context.or_else(|| model.context_length()).unwrap_or(0))?;
        if !answers {
            offer.abilities = ONLY_EMBEDS;
            return Some(offer);
        }
        offer.abilities = Abilities::JSON_SCHEMA
            .union(granted(can("tools"), Abilities::TOOLS))
            .union(granted(can("vision"), Abilities::VISION));
        Some(offer)
    }
}

/// llama.cpp, `/props`.
#[derive(Clone, Deserialize)]
pub(super) struct LlamaCppProps {
    default_generation_settings: LlamaCppSettings,
    total_slots: u32,
    #[serde(default)]
    model_path: String,
    #[serde(default)]
    modalities: LlamaCppModalities,
    /// Such as `b5300-0123abc`.
    #[serde(default)]
    build_info: String,
}

#[derive(Clone, Deserialize)]
struct LlamaCppSettings {
    n_ctx: u32,
}

#[derive(Clone, Default, Deserialize)]
struct LlamaCppModalities {
    #[serde(default)]
    vision: bool,
}

impl LlamaCppProps {
    pub(super) fn facts(self, list: ModelList) -> Facts {
        let file = Told::by_names([&*self.model_path]);
        let is_served = file.traits.answers() || file.traits.contains(Traits::EMBEDDING);
        let mut facts = if is_served { Facts::from(list) } else { Facts::default() };
        for offer in &mut facts.offers {
            offer.context_length = self.default_generation_settings.n_ctx;
            // The name that it goes by may be any; that of its file is seldom changed.
            offer.parameters = offer.parameters.or(file.parameters);
            offer.quantization = file.quantization.clone().or_else(|| offer.quantization.take());
            if !file.traits.answers() || !offer.answers() {
                offer.abilities = ONLY_EMBEDS;
                continue;
            }
            offer.abilities = Abilities::JSON_SCHEMA
                .union(Abilities::TOOLS)
                .union(Abilities::LOGPROBS)
                .union(granted(continues(&self.build_info), Abilities::CONTINUE))
                .union(granted(self.modalities.vision, Abilities::VISION));
        }
        // Newer builds repeat a last message that they were not told to continue.
        Facts { slots: Some(self.total_slots), says_continue: true, ..facts }
    }
}

/// Returns whether a build of llama.cpp goes on from a last message by the assistant.
fn continues(build_info: &str) -> bool {
    let number = build_info.strip_prefix('b').and_then(|rest| rest.split('-').next());
    // Who builds from a copy without its history gets the number 0 or 1. What tells nothing is
    // from before such numbers were told.
    number.and_then(|number| number.parse().ok()).is_some_and(|n: u32| n <= 1 || n >= 5300)
}

/// Any server, `/v1/models`, with what vLLM, llama.cpp and hosted services add to it.
#[derive(Deserialize)]
pub(super) struct ModelList {
    data: Vec<ListedModel>,
}

#[derive(Deserialize)]
struct ListedModel {
    id: String,
    #[serde(default)]
    owned_by: Option<String>,
    /// What vLLM loaded, where `id` is another name for it.
    #[serde(default)]
    root: Option<String>,
    /// What an adapter of vLLM's belongs to.
    #[serde(default)]
    parent: Option<String>,
    #[serde(default)]
    max_model_len: Option<u32>,
    #[serde(default)]
    context_length: Option<u32>,
    #[serde(default)]
    meta: Option<ListedMeta>,
    #[serde(default)]
    status: Option<ListedStatus>,
}

#[derive(Deserialize)]
struct ListedMeta {
    n_params: Option<u64>,
}

#[derive(Deserialize)]
struct ListedStatus {
    value: Option<String>,
    /// What llama.cpp as a router started the model's server with.
    #[serde(default)]
    args: Vec<String>,
}

impl ListedStatus {
    /// Returns what follows the first of `flags`.
    fn arg(&self, flags: [&str; 2]) -> Option<&str> {
        let at = self.args.iter().position(|arg| flags.contains(&&**arg))?;
        self.args.get(at + 1).map(String::as_str)
    }

    /// Returns the context that each slot has at least.
    fn context_length(&self) -> Option<u32> {
        let tokens: u32 = self.arg(["--ctx-size", "-c"])?.parse().ok()?;
        let slots = self.arg(["--parallel", "-np"]).and_then(|slots| slots.parse().ok());
        Some(tokens / slots.filter(|slots| *slots > 0).unwrap_or(1))
    }
}

impl From<ModelList> for Facts {
    fn from(list: ModelList) -> Self {
        // llama.cpp as a router lists what it could load, too.
        let loaded = |model: &ListedModel| {
            let status = model.status.as_ref().and_then(|status| status.value.as_deref());
            status.is_none_or(|status| status == "loaded")
        };
        let listed = list.data.iter().map(|model| (&*model.id, model));
        let by_name: HashMap<&str, &ListedModel> = listed.collect();
        let mut says_continue = false;
        let offers = list.data.iter().filter(|model| loaded(model)).filter_map(|model| {
            let status = model.status.as_ref();
            let file = status.and_then(|status| status.arg(["--model", "-m"]));
            // An adapter has the size and the room of what it belongs to.
            let base = model.parent.as_deref().and_then(|parent| by_name.get(parent));
            let base_root = base.and_then(|base| base.root.as_deref());
            let names = [file, base_root, model.parent.as_deref(), model.root.as_deref()];
            let told = Told::by_names(names.into_iter().flatten().chain([&*model.id]));
            let embeds = told.traits.contains(Traits::EMBEDDING);
            if !told.traits.answers() && !embeds {
                return None;
            }
            let started = status.and_then(ListedStatus::context_length);
            let of_base = base.and_then(|base| base.max_model_len);
            let context = model.max_model_len.or(model.context_length).or(of_base).or(started);
            let counted =
                model.meta.as_ref().and_then(|meta| meta.n_params).filter(|count| *count > 0);
            let told = told.but(counted, None);
            let mut offer = told.offer(&model.id, context.unwrap_or(0))?;
            if embeds {
                offer.abilities = ONLY_EMBEDS;
                return Some(offer);
            }
            if model.owned_by.as_deref() == Some("vllm") {
                // It shows a model whatever that can see, and does not say what that is.
                let sees = told.traits.contains(Traits::VISION);
                offer.abilities = Abilities::JSON_SCHEMA
                    .union(Abilities::LOGPROBS)
                    .union(Abilities::CONTINUE)
                    .union(Abilities::SCORE)
                    .union(granted(sees, Abilities::VISION));
                says_continue = true;
            }
            Some(offer)
        });
        let offers = offers.collect();
        Self { offers, slots: None, says_continue }
    }
}

/// What is known of a model beside its context and abilities.
#[derive(Default)]
struct Told {
    parameters: Option<u64>,
    quantization: Option<String>,
    traits: Traits,
}

impl Told {
    /// Reads the names of a model, of which the first that tells something is believed.
    fn by_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        names.into_iter().map(NameFacts::of).fold(Self::default(), |told, facts| Self {
            parameters: told.parameters.or(facts.least_parameters()),
            quantization: told.quantization.or(facts.quantization),
            traits: told.traits.union(facts.traits),
        })
    }

    /// Takes the server's word in place of what its names tell, where it says something.
    fn but(self, parameters: Option<u64>, quantization: Option<String>) -> Self {
        Self {
            parameters: parameters.or(self.parameters),
            quantization: quantization.or(self.quantization),
            ..self
        }
    }

    /// Makes an offer; a context of 0 tokens is one that the server does not tell.
    fn offer(&self, name: &str, context_length: u32) -> Option<ModelOffer> {
        let mut offer = ModelOffer::new(name.parse().ok()?, context_length);
        offer.parameters = self.parameters;
        offer.quantization.clone_from(&self.quantization);
        Some(offer)
    }
}

fn known(quantization: Option<String>) -> Option<String> {
    let is_name = |name: &String| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        (1..=32).contains(&name.len()) && name.bytes().all(plain) && name != "unknown"
    };
    quantization.filter(is_name)
}

/// Reads a number of parameters such as `7.6B`, `135M` or `26B-A4B`.
fn parameters(text: &str) -> Option<u64> {
    NameFacts::of(text).least_parameters()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts<T: Into<Facts> + for<'a> Deserialize<'a>>(reply: &str) -> Facts {
        serde_json::from_str::<T>(reply).unwrap().into()
    }

    #[test]
    fn lm_studio_offers_loaded_instances_with_their_own_context() {
        let facts = facts::<LmStudio>(
            r#"{"models":[
                {"type":"llm","publisher":"google","key":"google/gemma-4-26b-a4b",
                 "display_name":"Gemma 4","architecture":"gemma4",
                 "quantization":{"name":"Q4_K_M","bits_per_weight":4},"size_bytes":1,
                 "params_string":"26B-A4B","max_context_length":262144,"format":"gguf",
                 "loaded_instances":[{"id":"google/gemma-4-26b-a4b","config":
                    {"context_length":8192,"parallel":4,"flash_attention":true}}],
                 "capabilities":{"vision":true,"trained_for_tool_use":true}},
                {"type":"llm","key":"idle","quantization":null,"params_string":null,
                 "max_context_length":4096,"loaded_instances":[]},
                {"type":"embedding","key":"embed","loaded_instances":[{"id":"embed","config":{}}]}
            ]}"#,
        );
        let [offer, vectors] = &facts.offers[..] else { panic!("{facts:?}") };
        assert_eq!((vectors.name.as_str(), vectors.abilities), ("embed", ONLY_EMBEDS));
        assert_eq!(offer.name.as_str(), "google/gemma-4-26b-a4b");
        assert_eq!((offer.context_length, offer.parameters), (8192, Some(26_000_000_000)));
        assert_eq!(offer.quantization.as_deref(), Some("Q4_K_M"));
        assert!(offer.abilities.contains(Abilities::VISION.union(Abilities::TOOLS)));
        assert_eq!(facts.slots, Some(4));
    }

    #[test]
    fn older_lm_studio_offers_loaded_models() {
        let facts = facts::<LmStudioOld>(
            r#"{"object":"list","data":[
                {"id":"qwen2-vl-7b-instruct","object":"model","type":"vlm","publisher":"x",
                 "arch":"qwen2_vl","compatibility_type":"mlx","quantization":"4bit",
                 "state":"loaded","max_context_length":32768,"loaded_context_length":4096},
                {"id":"other","type":"llm","state":"not-loaded","max_context_length":131072},
                {"id":"embed","type":"embeddings","state":"loaded","max_context_length":2048}
            ]}"#,
        );
        let [offer, vectors] = &facts.offers[..] else { panic!("{facts:?}") };
        assert_eq!((offer.context_length, offer.parameters), (4096, Some(7_000_000_000)));
        assert!(offer.abilities.contains(Abilities::VISION));
        assert_eq!((vectors.name.as_str(), vectors.abilities), ("embed", ONLY_EMBEDS));
        assert_eq!(facts.slots, Some(1));
    }

    #[test]
    fn ollama_tells_context_and_capabilities() {
        let mut running: OllamaRunning = serde_json::from_str(
            r#"{"models":[{"name":"gemma3:latest","model":"gemma3:latest","size":1,
                "digest":"a","details":{"parent_model":"","format":"gguf","family":"gemma3",
                "families":["gemma3"],"parameter_size":"4.3B","quantization_level":"Q4_K_M"},
                "expires_at":"2026-10-17T16:47:07Z","size_vram":1,"context_length":4096}]}"#,
        )
        .unwrap();
        let shown = serde_json::from_str(r#"{"capabilities":["completion","tools"]}"#).unwrap();
        let offer = running.models.remove(0).offer(&shown).unwrap();
        assert_eq!((offer.context_length, offer.parameters), (4096, Some(4_300_000_000)));
        assert!(offer.abilities.contains(Abilities::TOOLS));
        assert!(!offer.abilities.contains(Abilities::VISION));
    }

    #[test]
    fn llama_cpp_tells_context_and_slots() {
        let props: LlamaCppProps = serde_json::from_str(
            r#"{"default_generation_settings":{"id":0,"n_ctx":2048,"params":{}},"total_slots":3,
                "model_path":"/models/SmolLM2-135M-Instruct-Q8_0.gguf","chat_template":"...",
                "modalities":{"vision":false,"audio":false},"build_info":"b1","is_sleeping":false}"#,
        )
        .unwrap();
        let list = || {
            serde_json::from_str(
                r#"{"models":[],"object":"list","data":[{"id":"smol","object":"model","created":1,
                    "owned_by":"llamacpp","meta":{"vocab_type":1,"n_ctx_train":8192,
                    "n_params":134515008,"size":1}}]}"#,
            )
            .unwrap()
        };
        let named = |path: &str| LlamaCppProps { model_path: path.to_owned(), ..props.clone() };
        let vectors = named("/models/nomic-embed-text-v1.5.Q8_0.gguf").facts(list());
        assert_eq!(vectors.offers[0].abilities, ONLY_EMBEDS);
        let facts = props.facts(list());
        let offer = &facts.offers[0];
        assert_eq!((offer.context_length, offer.parameters), (2048, Some(134_515_008)));
        assert_eq!(offer.quantization.as_deref(), Some("Q8_0"));
        assert!(offer.abilities.contains(Abilities::CONTINUE) && facts.says_continue);
        assert!(!offer.abilities.contains(Abilities::SCORE), "it has no prompt_logprobs");
        assert_eq!(facts.slots, Some(3));
    }

    #[test]
    fn builds_of_llama_cpp_that_begin_a_new_message_are_known() {
        for build in ["b5300-c0ffee", "b9021", "b0-unknown", "b1-0123abc"] {
            assert!(continues(build), "{build}");
        }
        for build in ["", "unknown", "b4719-d7b31a9d", "b5299"] {
            assert!(!continues(build), "{build}");
        }
    }

    #[test]
    fn plain_list_tells_vllms_context_and_a_routers_state() {
        let facts = facts::<ModelList>(
            r#"{"object":"list","data":[
                {"id":"Qwen/Qwen3-8B","object":"model","created":1,"owned_by":"vllm",
                 "root":"Qwen/Qwen3-8B","parent":null,"max_model_len":40960,"permission":[]},
                {"id":"idle","status":{"value":"unloaded","args":[]}},
                {"id":"forged\u001b[31m"},
                {"id":"bare"}
            ]}"#,
        );
        let [vllm, bare] = &facts.offers[..] else { panic!("{facts:?}") };
        assert_eq!((vllm.context_length, vllm.parameters), (40960, Some(8_000_000_000)));
        assert_eq!((bare.name.as_str(), bare.context_length), ("bare", 0));
        let able = Abilities::CONTINUE.union(Abilities::SCORE);
        assert!(vllm.abilities.contains(able) && facts.says_continue);
        assert!(!bare.abilities.contains(Abilities::SCORE));
        assert!(!bare.abilities.contains(Abilities::CONTINUE));
    }

    #[test]
    fn names_tell_what_the_server_does_not() {
        let facts = facts::<LmStudio>(
            r#"{"models":[{"type":"llm","key":"google/gemma-3-4b","params_string":null,
                "quantization":null,"selected_variant":"google/gemma-3-4b@4bit",
                "max_context_length":131072,"loaded_instances":[{"id":"mine","config":{}}]}]}"#,
        );
        let offer = &facts.offers[0];
        assert_eq!((offer.name.as_str(), offer.context_length), ("mine", 131_072));
        assert_eq!(offer.parameters, Some(4_000_000_000));
        assert_eq!(offer.quantization.as_deref(), Some("4bit"));
    }

    #[test]
    fn the_servers_word_comes_before_the_names() {
        let ollama = |running: &str, shown: &str| {
            let running: OllamaRunningModel = serde_json::from_str(running).unwrap();
            running.offer(&serde_json::from_str(shown).unwrap())
        };
        let offer = ollama(
            r#"{"model":"mine-70b-q2_K","details":{"parameter_size":"8.0B","quantization_level":"Q4_0"}}"#,
            r#"{"model_info":{"general.parameter_count":8030261248,"llama.context_length":8192},
                "parameters":"num_keep 24\nnum_ctx                        2048\nstop \"x\""}"#,
        );
        let offer = offer.unwrap();
        assert_eq!((offer.parameters, offer.context_length), (Some(8_030_261_248), 2048));
        assert_eq!(offer.quantization.as_deref(), Some("Q4_0"));

        let unknown = r#"{"model":"llama3.2:3b","details":{"quantization_level":"unknown"}}"#;
        let offer = ollama(unknown, "{}").unwrap();
        assert_eq!((offer.parameters, offer.quantization), (Some(3_000_000_000), None));
        let vectors = ollama(r#"{"model":"nomic-embed-text:latest"}"#, "{}").unwrap();
        assert_eq!(vectors.abilities, ONLY_EMBEDS);
        let embedding = r#"{"capabilities":["embedding"]}"#;
        assert_eq!(ollama(r#"{"model":"mine"}"#, embedding).unwrap().abilities, ONLY_EMBEDS);
        assert_eq!(ollama(r#"{"model":"bge-reranker-v2-m3"}"#, "{}"), None);
        let completion = r#"{"capabilities":["completion"]}"#;
        assert!(ollama(r#"{"model":"embedded-chat"}"#, completion).is_some());
    }

    #[test]
    fn router_of_llama_cpp_tells_what_it_started_models_with() {
        let facts = facts::<ModelList>(
            r#"{"object":"list","data":[
                {"id":"mine","status":{"value":"loaded","args":["llama-server","--ctx-size","8192",
                    "--parallel","4","--model","/m/Llama-3.2-3B-Instruct-Q6_K.gguf"]}},
                {"id":"ggml-org/gpt-oss-20b-GGUF","status":{"value":"loaded","args":["-np","0","-c"]}},
                {"id":"later","status":{"value":"loading","args":[]}}
            ]}"#,
        );
        let [mine, other] = &facts.offers[..] else { panic!("{facts:?}") };
        assert_eq!((mine.context_length, mine.parameters), (2048, Some(3_000_000_000)));
        assert_eq!(mine.quantization.as_deref(), Some("Q6_K"));
        assert_eq!((other.context_length, other.parameters), (0, Some(20_000_000_000)));
    }
}
