//! What a model's name tells about it, where its server does not.

use std::fmt;

use super::{family, sizes, words};
use crate::quantization::Quantization;

/// What a model is made for beyond plain answers, as its name tells. A set.
///
/// It says nothing about the model's server: [`Abilities`](super::Abilities) does.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Traits(u8);

impl Traits {
    /// Nothing is told.
    pub const NONE: Self = Self(0);
    /// Sees images.
    pub const VISION: Self = Self(1);
    /// Turns texts into vectors, and answers nothing.
    pub const EMBEDDING: Self = Self(1 << 1);
    /// Puts texts in order, and answers nothing.
    pub const RERANKING: Self = Self(1 << 2);
    /// Turns speech into text or text into speech, and answers nothing.
    pub const SPEECH: Self = Self(1 << 3);
    /// Thinks before it answers.
    pub const REASONING: Self = Self(1 << 4);
    /// Writes programs.
    pub const CODE: Self = Self(1 << 5);
    /// Was trained to call tools.
    pub const TOOLS: Self = Self(1 << 6);

    const NAMES: [(&'static str, Self); 7] = [
        ("vision", Self::VISION),
        ("embedding", Self::EMBEDDING),
        ("reranking", Self::RERANKING),
        ("speech", Self::SPEECH),
        ("reasoning", Self::REASONING),
        ("code", Self::CODE),
        ("tools", Self::TOOLS),
    ];

    /// Returns the set with the members of both.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns whether every member of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns whether the model is one that answers.
    pub const fn answers(self) -> bool {
        self.0 & (Self::EMBEDDING.0 | Self::RERANKING.0 | Self::SPEECH.0) == 0
    }

    /// Iterates over the members' names.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(_, one)| self.contains(*one)).map(|(name, _)| name)
    }

    fn of_words(words: &[String]) -> Self {
        let each = words.iter().map(|word| Self::of_word(word));
        let pairs = words.windows(2).map(|pair| match (&*pair[0], &*pair[1]) {
            ("minicpm", "v") => Self::VISION,
            ("glm", version)
                if version.starts_with(|c: char| c.is_ascii_digit()) && version.ends_with('v') =>
            {
                Self::VISION
            }
            ("gpt", "oss") | ("exaone", "deep") => Self::REASONING,
            _ => Self::NONE,
        });
        let told = each.chain(pairs).fold(Self::NONE, Self::union);
        // Both kinds of a series share its name, and one of them says so.
        if told.contains(Self::RERANKING) { Self(told.0 & !Self::EMBEDDING.0) } else { told }
    }

    fn of_word(word: &str) -> Self {
        let begins = |all: &[&str]| all.iter().any(|start| word.starts_with(start));
        match word {
            "vl" | "vl2" | "omni" | "multimodal" | "qvq" => Self::VISION,
            "e5" | "bge" | "gte" | "minilm" => Self::EMBEDDING,
            "tts" | "asr" => Self::SPEECH,
            "r1" | "qwq" | "think" | "thinking" | "reasoner" | "reasoning" => Self::REASONING,
            "tool" | "tools" | "function" | "xlam" => Self::TOOLS,
            _ if begins(&[
                "llava",
                "bakllava",
                "moondream",
                "pixtral",
                "paligemma",
                "internvl",
                "smolvlm",
                "idefics",
                "cogvlm",
                "vision",
            ]) =>
            {
                Self::VISION
            }
            _ if begins(&["rerank"]) => Self::RERANKING,
            _ if begins(&["embed"]) => Self::EMBEDDING,
            _ if begins(&["whisper", "parakeet", "kokoro"]) => Self::SPEECH,
            _ if begins(&["magistral", "openthinker", "deepscaler"]) => Self::REASONING,
            _ if begins(&["functionary", "firefunction", "functiongemma"]) => Self::TOOLS,
            _ if begins(&["code", "devstral"]) || word.contains("coder") => Self::CODE,
            _ => Self::NONE,
        }
    }
}

impl fmt::Debug for Traits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// What a model's name, or the path of its file, tells about it.
///
/// Names are anybody's to choose, so this is a guess: what the model's server says comes first. Of
/// very long names the end is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameFacts {
    /// Number of parameters, all experts together, rounded as names round them.
    pub parameters: Option<u64>,
    /// How many of them work on each token, where the name tells that apart.
    pub active_parameters: Option<u64>,
    /// How the weights are stored, such as `Q4_K_M`, `FP8` or `4bit`.
    pub quantization: Option<String>,
    /// Tokens of context that the model was made for; its server may have less room.
    pub context_length: Option<u32>,
    /// The family with its version, such as `llama-3.1`, by which
    /// [`Family`](crate::routing::Family) finds it.
    pub family: Option<String>,
    /// What it is made for.
    pub traits: Traits,
}

impl NameFacts {
    /// Reads a name as LM Studio, Ollama, llama.cpp, vLLM or Hugging Face write it.
    ///
    /// ```
    /// use iris_core::model::{NameFacts, Traits};
    ///
    /// let facts = NameFacts::of("unsloth/Qwen3-Coder-30B-A3B-Instruct-1M-GGUF:Q4_K_M");
    /// assert_eq!(facts.parameters, Some(30_000_000_000));
    /// assert_eq!(facts.active_parameters, Some(3_000_000_000));
    /// assert_eq!(facts.quantization.as_deref(), Some("Q4_K_M"));
    /// assert_eq!(facts.context_length, Some(1_000_000));
    /// assert_eq!(facts.family.as_deref(), Some("qwen-3"));
    /// assert_eq!(facts.traits, Traits::CODE);
    /// ```
    pub fn of(name: &str) -> Self {
        let parts = words::parts(name);
        let sizes = parts.iter().find_map(|words| sizes::Sizes::of(words)).unwrap_or_default();
        Self {
            parameters: sizes.total,
            active_parameters: sizes.active,
            quantization: parts.iter().find_map(|words| {
                let words: Vec<&str> = words.iter().flat_map(|word| word.split('.')).collect();
                Quantization::in_words(&words)
            }),
            context_length: parts.iter().find_map(|words| sizes::context_length(words)),
            family: parts.iter().find_map(|words| family::of(words)),
            traits: parts.first().map_or(Traits::NONE, |words| Traits::of_words(words)),
        }
    }

    /// Returns how many parameters the model has at least.
    pub fn least_parameters(&self) -> Option<u64> {
        self.parameters.or(self.active_parameters)
    }
}
