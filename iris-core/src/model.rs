//! What a node can run: models, their sizes and abilities, and the tier that follows.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

mod facts;
mod family;
mod sizes;
mod words;

pub use facts::{NameFacts, Traits};

/// The name by which callers ask for a model, as its server reports it.
///
/// At most 200 bytes, without control characters, invisible formatting or surrounding space.
/// Cloning shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelName(Arc<str>);

/// Says why a text cannot name a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a model name has 1 to 200 bytes and no control or invisible characters or surrounding space"
)]
pub struct ModelNameError;

impl ModelName {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 200;

    /// Returns the name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModelName {
    type Err = ModelNameError;

    fn from_str(text: &str) -> Result<Self, ModelNameError> {
        let fits = (1..=Self::MAX_LEN).contains(&text.len()) && text.trim() == text;
        if fits && !text.chars().any(is_invisible) {
            Ok(Self(text.into()))
        } else {
            Err(ModelNameError)
        }
    }
}

/// Returns whether `c` could hide or reorder the text around it in a log or on a page, or tell two
/// names apart that look the same.
///
/// All that Unicode lets a program ignore, but for the selectors of an emoji's form.
pub fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
                | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

impl Borrow<str> for ModelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Serialize for ModelName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ModelName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// What a model's server can do beyond plain text in and out. A set.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Abilities(u8);

impl Abilities {
    /// Nothing beyond plain chat.
    pub const NONE: Self = Self(0);
    /// Calls tools.
    pub const TOOLS: Self = Self(1);
    /// Constrains its output to a JSON schema.
    pub const JSON_SCHEMA: Self = Self(1 << 1);
    /// Sees images.
    pub const VISION: Self = Self(1 << 2);
    /// Returns log probabilities.
    pub const LOGPROBS: Self = Self(1 << 3);
    /// Goes on from the beginning of an answer that another server wrote.
    pub const CONTINUE: Self = Self(1 << 4);
    /// Tells how likely it finds each token of a text that it is given.
    pub const SCORE: Self = Self(1 << 5);
    /// Turns texts into vectors.
    pub const EMBEDDINGS: Self = Self(1 << 6);
    /// Answers nothing: it is asked for what its other members say, and for nothing else.
    pub const MUTE: Self = Self(1 << 7);

    const NAMES: [(&'static str, Self); 8] = [
        ("tools", Self::TOOLS),
        ("json_schema", Self::JSON_SCHEMA),
        ("vision", Self::VISION),
        ("logprobs", Self::LOGPROBS),
        ("continue", Self::CONTINUE),
        ("score", Self::SCORE),
        ("embeddings", Self::EMBEDDINGS),
        ("mute", Self::MUTE),
    ];

    /// Returns the set with the members of both.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the set without the members of `other`.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Returns whether every member of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns whether a server with these abilities can be asked for what needs `needed`.
    pub const fn meet(self, needed: Self) -> bool {
        let answers = !self.contains(Self::MUTE) || needed.contains(Self::EMBEDDINGS);
        answers && self.contains(needed)
    }

    /// Iterates over the members' names, as they appear on the wire.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(_, a)| self.contains(*a)).map(|(name, _)| name)
    }
}

impl fmt::Debug for Abilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

impl Serialize for Abilities {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl<'de> Deserialize<'de> for Abilities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A name this version does not know belongs to an ability nobody here can ask for.
        let names = Vec::<std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Ok(names.iter().fold(Self::NONE, |set, name| {
            let known = Self::NAMES.iter().find(|(known, _)| known == name);
            known.map_or(set, |(_, ability)| set.union(*ability))
        }))
    }
}

/// A speed of generation, in thousandths of a token per second.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct TokenRate(u64);

impl TokenRate {
    /// Makes a rate of whole tokens per second.
    pub const fn per_second(tokens: u64) -> Self {
        Self(tokens.saturating_mul(1000))
    }

    /// Makes a rate of `tokens` generated within `elapsed`; zero when no time passed.
    pub fn measured(tokens: u64, elapsed: std::time::Duration) -> Self {
        let micros = elapsed.as_micros();
        if micros == 0 {
            return Self(0);
        }
        Self(u64::try_from(u128::from(tokens) * 1_000_000_000 / micros).unwrap_or(u64::MAX))
    }

    /// Returns thousandths of a token per second.
    pub const fn as_millis(self) -> u64 {
        self.0
    }
}

impl fmt::Display for TokenRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} tokens/s", self.0 / 1000, self.0 % 1000 / 100)
    }
}

/// A model that a node offers, with what is known about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelOffer {
    /// The name callers use.
    pub name: ModelName,
    /// Tokens of prompt and answer together that one request may have.
    pub context_length: u32,
    /// Number of parameters, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
    /// How the weights are stored, such as `F16` or `Q4_K_M`, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// What the model's server can do with it.
    #[serde(default)]
    pub abilities: Abilities,
    /// Measured speed of one stream; `None` before the first measurement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<TokenRate>,
}

impl ModelOffer {
    /// Returns whether the model answers chats and completions.
    pub const fn answers(&self) -> bool {
        self.abilities.meet(Abilities::NONE)
    }

    /// Makes an offer of a model about which only the name and context are known.
    pub fn new(name: ModelName, context_length: u32) -> Self {
        Self {
            name,
            context_length,
            parameters: None,
            quantization: None,
            abilities: Abilities::NONE,
            speed: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_forge_a_log_line_are_refused() {
        for bad in
            ["", " a", "a\n", "a\u{202e}b", "a\0", "a\u{3164}", "a\u{e0100}", &"x".repeat(201)]
        {
            assert_eq!(bad.parse::<ModelName>(), Err(ModelNameError), "{bad:?}");
        }
        assert!("org/Model-7B:q4@latest".parse::<ModelName>().is_ok());
    }

    #[test]
    fn what_only_embeds_is_asked_for_nothing_else() {
        let only_embeds = Abilities::EMBEDDINGS.union(Abilities::MUTE);
        assert!(only_embeds.meet(Abilities::EMBEDDINGS));
        assert!(!only_embeds.meet(Abilities::NONE) && !only_embeds.meet(Abilities::TOOLS));
        let both = Abilities::EMBEDDINGS.union(Abilities::TOOLS);
        assert!(
            [Abilities::NONE, Abilities::TOOLS, Abilities::EMBEDDINGS].map(|a| both.meet(a))
                == [true; 3]
        );
        assert!(!Abilities::NONE.meet(Abilities::EMBEDDINGS));
    }

    #[test]
    fn abilities_travel_by_name_and_unknown_ones_are_dropped() {
        let set = Abilities::TOOLS.union(Abilities::CONTINUE);
        assert_eq!(serde_json::to_string(&set).unwrap(), r#"["tools","continue"]"#);
        let read: Abilities = serde_json::from_str(r#"["continue","flies","tools"]"#).unwrap();
        assert_eq!(read, set);
    }
}
