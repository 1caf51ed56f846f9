use std::fmt;
use std::sync::Weak;
use std::time::Duration;

use futures::future::BoxFuture;
use iris_core::classify::{Classifier, ClassifyError, Question};
use iris_core::demand::Difficulty;

use crate::dispatch::Dispatch;
use crate::link::Inquiry;

/// How long a node may take; a model that is at work on other questions writes a word in that.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Asks a node that is free, which shows what is asked to whoever runs it.
pub(super) struct NodeClassifier {
    pub(super) dispatch: Weak<Dispatch>,
}

impl Classifier for NodeClassifier {
    fn name(&self) -> &'static str {
        "node"
    }

    fn time_limit(&self) -> Duration {
        TIME_LIMIT
    }

    fn classify<'a>(
        &'a self,
        question: &'a Question,
    ) -> BoxFuture<'a, Result<Option<Difficulty>, ClassifyError>> {
        Box::pin(async move {
            // There is nothing to ask.
            if question.text().is_empty() {
                return Ok(None);
            }
            let dispatch = self.dispatch.upgrade().ok_or(ClassifyError::Unavailable)?;
            let Some(lease) = dispatch.acquire_judge() else { return Ok(None) };
            let inquiry = Inquiry::new(lease, question.text(), TIME_LIMIT);
            let inquiry = inquiry.ok_or(ClassifyError::Unavailable)?;
            inquiry.answer().await.map(Some)
        })
    }
}

impl fmt::Debug for NodeClassifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeClassifier").finish_non_exhaustive()
    }
}
