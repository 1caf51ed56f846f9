//! How hard a question is, where its caller names no model.
//!
//! A [`Classifier`] looks at a [`Question`] and gives its opinion, or has none. Whoever asks
//! several in turn takes the first opinion, and [`LAST_RESORT`] where nobody has one.

use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::demand::Difficulty;

mod rules;
mod words;

pub use rules::Rules;

/// What a question counts as that no classifier has an opinion of.
pub const LAST_RESORT: Difficulty = Difficulty::Complex;

/// Says how hard questions are.
///
/// Asked once for a question whose caller names no model, from any number of tasks at once, while
/// the caller waits. Dropping the future gives the question up.
pub trait Classifier: fmt::Debug + Send + Sync + 'static {
    /// Returns a short name for logs and figures, such as `rules`.
    fn name(&self) -> &str;

    /// Returns how long an opinion is waited for; then the next classifier is asked. Default: 2 s.
    fn time_limit(&self) -> Duration {
        Duration::from_secs(2)
    }

    /// Says how hard `question` is; `None` where there is no opinion worth having.
    ///
    /// Errors do not show what was asked.
    fn classify<'a>(
        &'a self,
        question: &'a Question,
    ) -> BoxFuture<'a, Result<Option<Difficulty>, ClassifyError>>;
}

/// What a classifier is shown of a request: the last words of its caller, cut to
/// [`Question::MAX_LEN`].
#[derive(Clone, PartialEq, Eq)]
pub struct Question {
    text: String,
}

impl Question {
    /// The longest text that a classifier is shown, in bytes.
    pub const MAX_LEN: usize = 4096;
    /// How much of a text that is too long is taken from its end, where a task often stands that
    /// is about what precedes it.
    const TAIL: usize = 1024;
    const GAP: &'static str = "\n[...]\n";

    /// Makes a question of a text. Of one that is too long, the beginning and the end are kept.
    pub fn new(text: &str) -> Self {
        let text = text.trim();
        if text.len() <= Self::MAX_LEN {
            return Self { text: text.to_owned() };
        }
        let head = text.floor_char_boundary(Self::MAX_LEN - Self::TAIL - Self::GAP.len());
        let tail = text.ceil_char_boundary(text.len() - Self::TAIL);
        Self { text: [&text[..head], Self::GAP, &text[tail..]].concat() }
    }

    /// Returns the text.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Prompts never reach logs.
        write!(f, "Question({} bytes)", self.text.len())
    }
}

/// Why a classifier gave no opinion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClassifyError {
    /// Whoever is to classify cannot be reached, or has no time; another question may fare better.
    #[error("the classifier cannot be reached")]
    Unavailable,
    /// It refuses whoever asks: its key or its address is wrong.
    #[error("the classifier refuses the request; check its key and address")]
    Refused,
    /// What it answered is none of the three classes.
    #[error("the classifier's answer is none of SIMPLE, COMPLEX and ADVANCED")]
    Malformed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_keeps_its_beginning_and_its_end() {
        let long = format!("begin {} end", "ñ".repeat(5000));
        let question = Question::new(&long);
        assert!(question.text().len() <= Question::MAX_LEN);
        assert!(question.text().starts_with("begin ñ") && question.text().ends_with("ñ end"));
        assert_eq!(Question::new(" short ").text(), "short");
        let shown = format!("{question:?}");
        assert!(!shown.contains("begin"), "{shown}");
    }
}
