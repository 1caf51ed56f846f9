//! What reads tokens and tells what could come next, with the weights of one model.
//!
//! The [`Decoder`](super::decoder::Decoder) of this engine is one, and everything around it (requests,
//! templates, passes, sampling, lists of tokens) works over any other in the same way.

use iris_core::backend::BackendError;

use super::embedding::Pooling;

/// The weights of one model, and what is done with them.
pub(super) trait Network: Send + Sync + 'static {
    /// What is kept of one conversation.
    type Cache: Memory;

    fn sizes(&self) -> Sizes;

    /// Begins a conversation whose prompt has as many `tokens`, for at most `context` in all.
    fn begin(&self, tokens: usize, context: usize) -> Result<Self::Cache, BackendError>;

    /// Reads all `parts` and returns the scores that each wants.
    fn forward(&self, parts: &mut [Part<'_, Self::Cache>]) -> Result<Vec<Scores>, BackendError>;

    /// Returns whether a pass runs on one thread, so that passes may run side by side.
    fn is_small(&self) -> bool {
        false
    }

    /// Returns how many tokens of a prompt are read between two looks at whether anybody still
    /// waits, and between two tokens of others' answers.
    fn step(&self) -> usize {
        32
    }
}

/// What was read of one conversation.
pub(super) trait Memory: Send + 'static {
    /// Returns how many tokens have been read.
    fn len(&self) -> usize;

    /// Forgets all but the first `len` tokens.
    fn truncate(&mut self, len: usize);
}

/// What requests are checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Most tokens of prompt and answer together.
    pub(super) context: usize,
    /// Numbers of a state.
    pub(super) width: usize,
    /// Scores after each token.
    pub(super) vocabulary: usize,
    /// How vectors are made of texts; `None` where the file asks for a way that is not known.
    pub(super) pooling: Option<Pooling>,
}

/// Tokens of one conversation that a pass reads after those in its cache.
pub(super) struct Part<'a, C> {
    pub(super) tokens: &'a [u32],
    pub(super) cache: &'a mut C,
    pub(super) wanted: Wanted,
}

/// After which tokens the scores of what could come next are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Nothing,
    Last,
    Each,
    /// None, but what the last norm makes of each token.
    States,
}

impl Wanted {
    /// Returns whether scores are wanted after the token at this place of `tokens`.
    pub(super) fn is_after(self, place: usize, tokens: usize) -> bool {
        match self {
            Self::Nothing | Self::States => false,
            Self::Last => place + 1 == tokens,
            Self::Each => true,
        }
    }
}

/// The scores of all tokens after each token that they are wanted after, or its states.
pub(super) type Scores = Vec<Vec<f32>>;

/// Deals out to `parts`, in their order, the `scores` and `states` that they want.
pub(super) fn deal<C>(
    parts: &[Part<'_, C>],
    mut scores: impl Iterator<Item = Vec<f32>>,
    mut states: impl Iterator<Item = Vec<f32>>,
) -> Vec<Scores> {
    let of_part = |part: &Part<'_, C>| match part.wanted {
        Wanted::Nothing => Vec::new(),
        Wanted::Last => scores.by_ref().take(1).collect(),
        Wanted::Each => scores.by_ref().take(part.tokens.len()).collect(),
        Wanted::States => states.by_ref().take(part.tokens.len()).collect(),
    };
    parts.iter().map(of_part).collect()
}

/// Tells the log what an operator said, and the caller that its answer failed.
pub(super) fn failed(error: &candle_core::Error) -> BackendError {
    // The operators' errors speak of shapes and types, never of what a prompt says.
    tracing::error!(%error, "a tensor operation failed");
    BackendError::Failed
}
