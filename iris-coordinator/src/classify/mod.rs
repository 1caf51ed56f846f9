//! How hard a question is, by several classifiers in turn.

use std::sync::Arc;

use iris_core::classify::{Classifier, LAST_RESORT, Question, Rules};
use iris_core::demand::Difficulty;
use tokio::time::timeout;

use self::nodes::NodeClassifier;
use crate::dispatch::Dispatch;

mod nodes;
#[cfg(feature = "openrouter")]
mod openrouter;

#[cfg(feature = "openrouter")]
pub use openrouter::{OpenRouter, OpenRouterError};

/// Classifiers that are asked one after the other, for questions whose callers name no model: the
/// first opinion counts.
///
/// One that fails, or has no opinion within its time limit, is passed over; where nobody has one,
/// the question counts as [`LAST_RESORT`].
#[derive(Clone, Debug)]
pub struct ClassifierChain {
    /// `None` stands for the nodes, which are known once there is a coordinator.
    classifiers: Vec<Option<Arc<dyn Classifier>>>,
}

/// Who may read a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Any node that serves the caller, and whom the operator lets classify.
    Any,
    /// Nobody beside this process and the nodes that the caller named.
    Named,
}

impl ClassifierChain {
    /// Makes a chain of no classifier, by which all questions are [`LAST_RESORT`].
    pub const fn new() -> Self {
        Self { classifiers: Vec::new() }
    }

    /// Asks `classifier` next.
    pub fn then(mut self, classifier: impl Classifier) -> Self {
        self.classifiers.push(Some(Arc::new(classifier)));
        self
    }

    /// Asks a node next that is free and says how hard questions are. Whoever runs it can read the
    /// question, as whoever answers it can; it is not asked about what only some nodes may read.
    pub fn then_node(mut self) -> Self {
        self.classifiers.push(None);
        self
    }

    /// Lets the chain ask the nodes of a coordinator.
    pub(crate) fn over(mut self, dispatch: &Arc<Dispatch>) -> Self {
        for classifier in &mut self.classifiers {
            classifier.get_or_insert_with(|| {
                Arc::new(NodeClassifier { dispatch: Arc::downgrade(dispatch) })
            });
        }
        self
    }

    /// Says how hard a question is.
    pub async fn classify(&self, question: &Question, readers: Readers) -> Difficulty {
        let may_read = |one: &&Arc<dyn Classifier>| readers == Readers::Any || one.is_local();
        for classifier in self.classifiers.iter().flatten().filter(may_read) {
            let name = classifier.name();
            match timeout(classifier.time_limit(), classifier.classify(question)).await {
                Ok(Ok(Some(difficulty))) => {
                    tracing::debug!(name, ?difficulty, "classified");
                    return difficulty;
                }
                Ok(Ok(None)) => {}
                Ok(Err(error)) => tracing::warn!(name, %error, "no classification"),
                Err(_) => tracing::warn!(name, "no classification in time"),
            }
        }
        LAST_RESORT
    }
}

impl Default for ClassifierChain {
    /// Makes the chain of [`Rules`] alone, which tells nobody what is asked.
    fn default() -> Self {
        Self::new().then(Rules)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::future::BoxFuture;
    use iris_core::classify::ClassifyError;

    use super::*;

    type Opinion = Result<Option<Difficulty>, ClassifyError>;

    /// Answers always the same, or never.
    #[derive(Clone, Debug)]
    struct Fixed {
        says: Option<Opinion>,
        asked: Arc<AtomicUsize>,
    }

    impl Fixed {
        fn new(says: Option<Opinion>) -> Self {
            Self { says, asked: Arc::default() }
        }
    }

    impl Classifier for Fixed {
        fn name(&self) -> &'static str {
            "fixed"
        }

        fn time_limit(&self) -> Duration {
            Duration::from_secs(3)
        }

        fn classify<'a>(&'a self, _: &'a Question) -> BoxFuture<'a, Opinion> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            match self.says {
                Some(says) => Box::pin(async move { says }),
                None => Box::pin(pending()),
            }
        }
    }

    async fn classify(chain: &ClassifierChain, readers: Readers) -> Difficulty {
        chain.classify(&Question::new("qwertz"), readers).await
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_fails_hangs_or_has_no_opinion_is_passed_over() {
        let begun = tokio::time::Instant::now();
        let chain = ClassifierChain::new()
            .then(Fixed::new(Some(Err(ClassifyError::Unavailable))))
            .then(Fixed::new(None))
            .then(Fixed::new(Some(Ok(None))))
            .then(Fixed::new(Some(Ok(Some(Difficulty::Simple)))))
            .then(Fixed::new(Some(Ok(Some(Difficulty::Advanced)))));
        assert_eq!(classify(&chain, Readers::Any).await, Difficulty::Simple);
        assert_eq!(begun.elapsed(), Duration::from_secs(3), "the one that hangs has its time");
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_has_an_opinion_a_question_is_complex() {
        assert_eq!(classify(&ClassifierChain::new(), Readers::Any).await, Difficulty::Complex);
        let chain = ClassifierChain::default()
            .then(Fixed::new(Some(Err(ClassifyError::Malformed))))
            .then(Fixed::new(None));
        assert_eq!(classify(&chain, Readers::Any).await, Difficulty::Complex);
    }

    #[tokio::test]
    async fn what_only_some_nodes_may_read_is_told_to_nobody_else() {
        let outside = Fixed::new(Some(Ok(Some(Difficulty::Advanced))));
        let chain = ClassifierChain::default().then(outside.clone());
        assert_eq!(classify(&chain, Readers::Named).await, Difficulty::Complex);
        assert_eq!(outside.asked.load(Ordering::Relaxed), 0);
        assert_eq!(classify(&chain, Readers::Any).await, Difficulty::Advanced);
    }
}
