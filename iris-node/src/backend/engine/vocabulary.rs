//! The tokens that a model's file describes.

use std::collections::HashMap;

use shimmytok::byte_encoder::bytes_to_unicode;
use shimmytok::{GGUFValue, TokenType};

use super::error::EngineError;
use super::tokenizer::{Conventions, Unreadable, Vocabulary};

/// Tokens that end a turn wherever they exist, whatever else the file declares.
const ENDS: [&str; 9] = [
    "<|end|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "</s>",
    "<|eot|>",
];

/// The vocabulary of a file, as shimmytok reads it.
pub(super) struct FileVocabulary {
    inner: shimmytok::Tokenizer,
    /// Texts that stand for one token each, longest first.
    markers: Vec<(String, u32)>,
    /// Whether a space is put before each text that is not a marker.
    adds_space: bool,
    bytes: HashMap<char, u8>,
}

impl FileVocabulary {
    pub(super) fn new(inner: shimmytok::Tokenizer) -> Result<Self, EngineError> {
        let size = u32::try_from(inner.vocab_size()).unwrap_or(u32::MAX);
        let mut markers = Vec::new();
        for id in 0..size {
            let text = inner.token_to_piece(id)?;
            // The library leaves user-defined markers, such as `<think>`, to their letters.
            let marker =
                matches!(inner.token_type(id), TokenType::Control | TokenType::UserDefined);
            if marker && !text.is_empty() {
                markers.push((text, id));
            }
        }
        markers.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        let byte_level = matches!(inner.model_type(), "gpt2" | "qwen" | "qwen2");
        let bytes = bytes_to_unicode().iter().map(|(byte, c)| (*c, *byte));
        Ok(Self {
            adds_space: has_sentences(&inner) && flag(&inner, "add_space_prefix").unwrap_or(true),
            bytes: if byte_level { bytes.collect() } else { HashMap::new() },
            inner,
            markers,
        })
    }

    /// Returns what else the file says about its tokens.
    pub(super) fn conventions(&self) -> Conventions {
        let inner = &self.inner;
        let declared = ["eos", "eot", "eom"].map(|end| format!("tokenizer.ggml.{end}_token_id"));
        let declared = declared.iter().filter_map(|key| number(inner.metadata().get(key)?));
        let known = ENDS.iter().filter_map(|text| inner.get_token(text));
        let known = known.filter(|id| inner.is_special_token(*id));
        let ends = declared.chain(known).filter(|id| (*id as usize) < inner.vocab_size());
        Conventions {
            ends: ends.collect(),
            borders: (inner.bos_token(), inner.eos_token()),
            adds_start: flag(inner, "add_bos_token").unwrap_or_else(|| has_sentences(inner)),
        }
    }

    pub(super) fn chat_template(&self) -> Option<&str> {
        self.inner.chat_template()
    }

    fn encode_marked(&self, text: &str) -> Result<Vec<u32>, shimmytok::Error> {
        let mut tokens = Vec::new();
        let (mut rest, mut plain) = (text, 0);
        while let Some(next) = rest[plain..].chars().next() {
            let here = &rest[plain..];
            let marker = self.markers.iter().find(|(marker, _)| here.starts_with(marker.as_str()));
            if let Some((marker, token)) = marker {
                self.encode_plain(&rest[..plain], &mut tokens)?;
                tokens.push(*token);
                (rest, plain) = (&here[marker.len()..], 0);
            } else {
                plain += next.len_utf8();
            }
        }
        self.encode_plain(rest, &mut tokens)?;
        Ok(tokens)
    }

    fn encode_plain(&self, text: &str, tokens: &mut Vec<u32>) -> Result<(), shimmytok::Error> {
        if self.adds_space && text.starts_with(' ') {
            // The library takes a text's own first space for the one that is put before it.
            tokens.extend(self.inner.encode(&format!(" {text}"), false)?);
        } else if !text.is_empty() {
            tokens.extend(self.inner.encode(text, false)?);
        }
        Ok(())
    }

    fn bytes_of(&self, text: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(text.len());
        for c in text.chars() {
            match self.bytes.get(&c) {
                Some(byte) => bytes.push(*byte),
                None => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
        bytes
    }
}

impl Vocabulary for FileVocabulary {
    fn size(&self) -> usize {
        self.inner.vocab_size()
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, Unreadable> {
        self.encode_marked(text).map_err(|_| Unreadable)
    }

    fn piece(&self, token: u32) -> Vec<u8> {
        let Ok(text) = self.inner.token_to_piece(token) else {
            return Vec::new();
        };
        match self.inner.token_type(token) {
            TokenType::Control | TokenType::Unknown | TokenType::Unused => Vec::new(),
            TokenType::UserDefined => text.into_bytes(),
            _ if !self.bytes.is_empty() => self.bytes_of(&text),
            _ => sentence_piece(&text),
        }
    }

    fn text(&self, token: u32) -> String {
        self.inner.token_to_piece(token).unwrap_or_default()
    }
}

/// Returns whether the vocabulary puts a space before each text.
fn has_sentences(inner: &shimmytok::Tokenizer) -> bool {
    matches!(inner.model_type(), "llama" | "mistral" | "gemma")
}

fn flag(inner: &shimmytok::Tokenizer, name: &str) -> Option<bool> {
    match inner.metadata().get(&format!("tokenizer.ggml.{name}")) {
        Some(GGUFValue::Bool(flag)) => Some(*flag),
        _ => None,
    }
}

fn number(value: &GGUFValue) -> Option<u32> {
    match value {
        GGUFValue::U32(number) => Some(*number),
        GGUFValue::I32(number) => u32::try_from(*number).ok(),
        GGUFValue::U64(number) => u32::try_from(*number).ok(),
        _ => None,
    }
}

fn sentence_piece(text: &str) -> Vec<u8> {
    let hex = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
        Some(byte) => vec![byte],
        None => text.replace('\u{2581}', " ").into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tokenizer::Tokenizer;
    use super::*;

    #[test]
    fn pieces_of_sentencepiece_are_spaces_and_single_bytes() {
        assert_eq!(sentence_piece("\u{2581}a\u{2581}b"), b" a b");
        assert_eq!(sentence_piece("<0xE2>"), [0xe2]);
        assert_eq!(sentence_piece("<0xZZ>"), b"<0xZZ>");
    }

    #[test]
    fn prompts_become_the_tokens_the_recipe_trained_on() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/model/iris-tiny-f16.gguf");
        let read =
            || FileVocabulary::new(shimmytok::Tokenizer::from_gguf_file(file).unwrap()).unwrap();
        let (vocabulary, own) = (read(), read());
        let conventions = vocabulary.conventions();
        let tokenizer = Tokenizer::new(vocabulary, conventions);
        let texts = |tokens: &[u32]| -> Vec<String> {
            tokens.iter().map(|token| own.text(*token)).collect()
        };
        let tokens = tokenizer.encode("<|user|>\nSay \"ñu\" the<|end|>").unwrap();
        let expected = ["<|user|>", "Ċ", "S", "a", "y", "Ġ\"", "Ã", "±", "u", "\"", "Ġthe"];
        assert_eq!(texts(&tokens)[..11], expected);
        assert_eq!(tokens.last(), Some(&4));
        assert!(tokenizer.is_end(4) && !tokenizer.is_end(2));
        let pieces: Vec<u8> = tokens.iter().flat_map(|token| tokenizer.piece(*token)).collect();
        assert_eq!(pieces, "\nSay \"ñu\" the".as_bytes(), "markers add no text");
    }
}
