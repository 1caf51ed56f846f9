//! Text to tokens and back.

/// What a model's texts are made of, however its pieces are found.
pub(super) trait Vocabulary: Send + Sync {
    fn size(&self) -> usize;

    /// Turns a text into tokens, with nothing put around them; markers in it count as the tokens
    /// that they name.
    fn encode(&self, text: &str) -> Result<Vec<u32>, Unreadable>;

    /// Returns the bytes that `token` adds to an answer; they may end inside a character.
    fn piece(&self, token: u32) -> Vec<u8>;

    /// Returns the text of a token, even where it adds nothing to an answer.
    fn text(&self, token: u32) -> String;
}

/// The text cannot be turned into tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// What else a model's file says about its tokens.
pub(super) struct Conventions {
    /// Tokens that end an answer.
    pub(super) ends: Vec<u32>,
    /// The tokens that open and close a text.
    pub(super) borders: (u32, u32),
    /// Whether the first of them is put before each prompt.
    pub(super) adds_start: bool,
}

/// The vocabulary of one model.
pub(super) struct Tokenizer {
    vocabulary: Box<dyn Vocabulary>,
    conventions: Conventions,
    longest: usize,
}

impl Tokenizer {
    pub(super) fn new(vocabulary: impl Vocabulary + 'static, conventions: Conventions) -> Self {
        let size = u32::try_from(vocabulary.size()).unwrap_or(u32::MAX);
        let longest = (0..size).map(|token| vocabulary.text(token).len()).max();
        Self { vocabulary: Box::new(vocabulary), conventions, longest: longest.unwrap_or(0).max(1) }
    }

    pub(super) fn size(&self) -> usize {
        self.vocabulary.size()
    }

    /// Returns the most bytes of text that one token stands for.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Returns whether `token` ends an answer.
    pub(super) fn is_end(&self, token: u32) -> bool {
        self.conventions.ends.contains(&token)
    }

    /// Returns the texts of the tokens that open and close a text, as templates write them.
    pub(super) fn borders(&self) -> (String, String) {
        let (start, end) = self.conventions.borders;
        (self.vocabulary.text(start), self.vocabulary.text(end))
    }

    /// Turns a prompt into tokens; markers in it count as the tokens that they name.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>, Unreadable> {
        let mut tokens = self.vocabulary.encode(text)?;
        let (start, _) = self.conventions.borders;
        if self.conventions.adds_start && tokens.first() != Some(&start) {
            tokens.insert(0, start);
        }
        Ok(tokens)
    }

    /// Returns tokens whose pieces make up a part of an answer; none when it cannot be told how
    /// it was spelt.
    pub(super) fn spell(&self, text: &str) -> Vec<u32> {
        // Some vocabularies put a space before whatever they are given.
        let forms = [Some(text), text.strip_prefix(' ')].into_iter().flatten();
        let mut spelt = forms.filter_map(|form| self.vocabulary.encode(form).ok());
        let pieces = |tokens: &[u32]| -> Vec<u8> {
            tokens.iter().flat_map(|token| self.piece(*token)).collect()
        };
        spelt.find(|tokens| pieces(tokens) == text.as_bytes()).unwrap_or_default()
    }

    /// Returns the bytes that `token` adds to an answer; they may end inside a character.
    pub(super) fn piece(&self, token: u32) -> Vec<u8> {
        self.vocabulary.piece(token)
    }

    /// Returns the bytes by which lists of tokens name `token`: what it adds to an answer, or the
    /// text of the marker that it is.
    pub(super) fn name(&self, token: u32) -> Vec<u8> {
        let piece = self.piece(token);
        if piece.is_empty() { self.vocabulary.text(token).into_bytes() } else { piece }
    }
}
