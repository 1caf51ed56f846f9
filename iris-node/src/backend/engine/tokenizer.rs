//! Text to tokens and back, as the model's file describes it.

use std::collections::HashMap;

use shimmytok::byte_encoder::bytes_to_unicode;
use shimmytok::{GGUFValue, TokenType};

use super::error::EngineError;

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

/// The vocabulary of one model.
pub(super) struct Tokenizer {
    inner: shimmytok::Tokenizer,
    /// Texts that stand for one token each, longest first.
    markers: Vec<(String, u32)>,
    ends: Vec<u32>,
    adds_start: bool,
    /// Whether a space is put before each text that is not a marker.
    adds_space: bool,
    bytes: HashMap<char, u8>,
    longest: usize,
}

impl Tokenizer {
    pub(super) fn new(inner: shimmytok::Tokenizer) -> Result<Self, EngineError> {
        let size = u32::try_from(inner.vocab_size()).unwrap_or(u32::MAX);
        let mut markers = Vec::new();
        let mut longest = 1;
        for id in 0..size {
            let text = inner.token_to_piece(id)?;
            longest = longest.max(text.len());
            // The library leaves user-defined markers, such as `<think>`, to their letters.
            let marker =
                matches!(inner.token_type(id), TokenType::Control | TokenType::UserDefined);
            if marker && !text.is_empty() {
                markers.push((text, id));
            }
        }
        markers.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        let declared = ["eos", "eot", "eom"].map(|end| format!("tokenizer.ggml.{end}_token_id"));
        let declared = declared.iter().filter_map(|key| number(inner.metadata().get(key)?));
        let known = ENDS.iter().filter_map(|text| inner.get_token(text));
        let known = known.filter(|id| inner.is_special_token(*id));
        let ends = declared.chain(known).filter(|id| *id < size).collect();
        let byte_level = matches!(inner.model_type(), "gpt2" | "qwen" | "qwen2");
        let bytes = bytes_to_unicode().iter().map(|(byte, c)| (*c, *byte));
        Ok(Self {
            adds_start: flag(&inner, "add_bos_token").unwrap_or_else(|| has_sentences(&inner)),
            adds_space: has_sentences(&inner) && flag(&inner, "add_space_prefix").unwrap_or(true),
            bytes: if byte_level { bytes.collect() } else { HashMap::new() },
            inner,
            markers,
            ends,
            longest,
        })
    }

    pub(super) fn size(&self) -> usize {
        self.inner.vocab_size()
    }

    /// Returns the most bytes of text that one token stands for.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    pub(super) fn chat_template(&self) -> Option<&str> {
        self.inner.chat_template()
    }

    /// Returns whether `token` ends an answer.
    pub(super) fn is_end(&self, token: u32) -> bool {
        self.ends.contains(&token)
    }

    /// Returns the texts of the tokens that open and close a text, as templates write them.
    pub(super) fn borders(&self) -> (String, String) {
        let text = |id| self.inner.token_to_piece(id).unwrap_or_default();
        (text(self.inner.bos_token()), text(self.inner.eos_token()))
    }

    /// Turns a prompt into tokens; markers in it count as the tokens that they name.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, shimmytok::Error> {
        let mut tokens = self.encode_marked(text)?;
        let start = self.inner.bos_token();
        if self.adds_start && tokens.first() != Some(&start) {
            tokens.insert(0, start);
        }
        Ok(tokens)
    }

    /// Returns tokens whose pieces make up a part of an answer; none when it cannot be told how
    /// it was spelt.
    pub(super) fn spell(&self, text: &str) -> Vec<u32> {
        // Some vocabularies put a space before whatever they are given.
        let forms = [Some(text), text.strip_prefix(' ')].into_iter().flatten();
        let mut spelt = forms.filter_map(|form| self.encode_marked(form).ok());
        let pieces = |tokens: &[u32]| -> Vec<u8> {
            tokens.iter().flat_map(|token| self.piece(*token)).collect()
        };
        spelt.find(|tokens| pieces(tokens) == text.as_bytes()).unwrap_or_default()
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

    /// Returns the bytes that `token` adds to an answer; they may end inside a character.
    pub(super) fn piece(&self, token: u32) -> Vec<u8> {
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

    /// Returns the bytes by which lists of tokens name `token`: what it adds to an answer, or the
    /// text of the marker that it is.
    pub(super) fn name(&self, token: u32) -> Vec<u8> {
        let piece = self.piece(token);
        if piece.is_empty() {
            return self.inner.token_to_piece(token).unwrap_or_default().into_bytes();
        }
        piece
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
        let inner = shimmytok::Tokenizer::from_gguf_file(file).unwrap();
        let tokenizer = Tokenizer::new(inner).unwrap();
        let texts = |tokens: &[u32]| -> Vec<String> {
            tokens.iter().map(|token| tokenizer.inner.token_to_piece(*token).unwrap()).collect()
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
