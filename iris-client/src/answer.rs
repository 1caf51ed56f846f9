use iris_protocol::openai::ChatCompletion;

use crate::error::{ClientError, Cut, Partial};
use crate::head::Head;
use crate::policy::Privacy;
use crate::sealed::{PendingReceipt, WholeAnswer};

/// A whole answer, and how it came to be.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Answer {
    /// What the model answered.
    pub completion: ChatCompletion,
    /// Who could read the request and the answer.
    pub privacy: Privacy,
    /// Where the answer comes from.
    pub head: Head,
    /// What the node signs for a sealed answer; it comes a little later.
    pub receipt: PendingReceipt,
}

impl Answer {
    pub(crate) fn open(completion: ChatCompletion, head: Head) -> Self {
        Self { completion, privacy: Privacy::Open, head, receipt: PendingReceipt::none() }
    }

    pub(crate) fn sealed(answer: WholeAnswer) -> Result<Self, ClientError> {
        let WholeAnswer { body, head, privacy, receipt } = answer;
        match serde_json::from_slice(&body) {
            Ok(completion) => Ok(Self { completion, privacy, head, receipt }),
            Err(error) => {
                let at = format!("{:?} error at column {}", error.classify(), error.column());
                let partial = Partial { text: String::new(), cause: Cut::Malformed(at), head };
                Err(ClientError::Truncated(Box::new(partial)))
            }
        }
    }

    /// Returns the first choice's text; empty when it has none.
    pub fn text(&self) -> &str {
        self.completion.text()
    }
}
