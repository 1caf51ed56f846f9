use std::sync::Arc;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use super::super::tokenizer::{Conventions, Unreadable, Vocabulary};

/// The vocabulary of a file, as llama.cpp reads it.
pub(super) struct LlamaVocabulary {
    model: Arc<LlamaModel>,
}

impl LlamaVocabulary {
    pub(super) fn new(model: Arc<LlamaModel>) -> Self {
        Self { model }
    }

    /// Returns what else the file says about its tokens.
    pub(super) fn conventions(&self) -> Conventions {
        let vocabulary = self.model.vocab();
        let ends = vocabulary.tokens().filter(|token| vocabulary.is_eog(*token));
        // Tokens that a file lacks have the number -1.
        let start = u32::try_from(vocabulary.bos().0);
        let end = u32::try_from(vocabulary.eos().0);
        Conventions {
            ends: ends.filter_map(|token| u32::try_from(token.0).ok()).collect(),
            borders: (start.unwrap_or(u32::MAX), end.unwrap_or(u32::MAX)),
            adds_start: vocabulary.should_add_bos() && start.is_ok(),
        }
    }

    /// Returns a token as llama.cpp's; `None` for one that is not in the file, which ends the
    /// process where it is asked for.
    fn known(&self, token: u32) -> Option<LlamaToken> {
        let token = i32::try_from(token).ok();
        token.filter(|token| *token < self.model.n_vocab()).map(LlamaToken)
    }
}

impl Vocabulary for LlamaVocabulary {
    fn size(&self) -> usize {
        usize::try_from(self.model.n_vocab()).unwrap_or_default()
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, Unreadable> {
        let tokens = self.model.vocab().tokenize(text.as_bytes(), false, true);
        let tokens = tokens.into_iter().map(|token| u32::try_from(token.0).map_err(|_| Unreadable));
        tokens.collect()
    }

    fn piece(&self, token: u32) -> Vec<u8> {
        let piece = |token| self.model.vocab().token_to_piece(token, false, None);
        self.known(token).map(piece).unwrap_or_default()
    }

    fn text(&self, token: u32) -> String {
        let vocabulary = self.model.vocab();
        let text = self.known(token).and_then(|token| vocabulary.text(token));
        text.map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
    }
}
