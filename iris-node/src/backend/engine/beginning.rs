//! The beginning of an answer that another node wrote, read back into tokens.
//!
//! Its text may be spelt in more than one way, and it may end inside of a token. So the model
//! reads all but the last few of its tokens like a prompt, and chooses those few again among the
//! tokens that spell the rest of it: where it wrote the beginning itself, it takes the same ones.

use super::tokenizer::Tokenizer;

/// Tokens at the end of the beginning that are chosen again.
const CHOSEN_AGAIN: usize = 8;

/// What an answer begins with; empty for an answer from its start.
pub(super) struct Beginning<'a> {
    /// The tokens that are read.
    pub(super) tokens: Vec<u32>,
    /// What they leave to be spelt.
    rest: &'a [u8],
}

impl<'a> Beginning<'a> {
    /// Reads the beginning of an answer of at most `limit` tokens.
    pub(super) fn read(text: &'a str, tokenizer: &Tokenizer, limit: usize) -> Self {
        let mut tokens = tokenizer.spell(text);
        tokens.truncate(tokens.len().saturating_sub(CHOSEN_AGAIN).min(limit));
        let read: usize = tokens.iter().map(|token| tokenizer.piece(*token).len()).sum();
        Self { tokens, rest: &text.as_bytes()[read..] }
    }

    /// Returns whether all of it is read or chosen.
    pub(super) fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    /// Returns whether `token` may come next: any, once the beginning is over.
    pub(super) fn allows(&self, token: u32, tokenizer: &Tokenizer) -> bool {
        self.is_over() || {
            let piece = tokenizer.piece(token);
            let known = self.rest.len().min(piece.len());
            known > 0 && self.rest[..known] == piece[..known]
        }
    }

    /// Takes in that a token with this piece was chosen.
    pub(super) fn advance(&mut self, piece: &[u8]) {
        self.rest = &self.rest[self.rest.len().min(piece.len())..];
    }
}
