use std::borrow::Cow;

use iris_core::plan::PlanError;
use iris_core::task::TaskError;

use super::{DATASET, ErrorBody};

const SERVER_ERROR: &str = "server_error";

/// Seconds after which a node that is away may be back.
const NODE_BACK_SECS: u32 = 10;
/// Seconds after which books that cannot be written are worth another try.
const BOOKS_BACK_SECS: u32 = 10;

/// Why a request is refused before anybody is asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request makes no sense.
    #[error("{message}")]
    Invalid {
        /// What is wrong with it.
        message: Cow<'static, str>,
        /// The member at fault, where it is one.
        param: Option<&'static str>,
    },
    /// There is no such model.
    #[error("The model is not offered by any node of this network.")]
    UnknownModel,
    /// The body is longer than so many bytes.
    #[error("The request body is longer than {0} bytes.")]
    TooLarge(usize),
    /// The body is compressed.
    #[error("Compressed request bodies are not accepted.")]
    Compressed,
    /// The body did not come in time.
    #[error("The request body did not arrive in time.")]
    Late,
    /// There is nothing at this path.
    #[error("There is nothing at this path.")]
    UnknownPath,
    /// The path exists, for other methods.
    #[error("This path does not know the method; see the Allow header.")]
    UnknownMethod,
}

impl RequestError {
    /// OpenAI's class of these errors.
    pub const KIND: &'static str = "invalid_request_error";

    /// Says that a request makes no sense, no one member of it being at fault.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid { message: message.into(), param: None }
    }
}

/// A refusal, as it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The HTTP status.
    pub status: u16,
    /// OpenAI's class of error.
    pub kind: &'static str,
    /// The code that programs decide by, where there is one.
    pub code: Option<Cow<'static, str>>,
    /// The member of the request that is at fault, where it is one.
    pub param: Option<Cow<'static, str>>,
    /// One sentence for a person.
    pub message: Cow<'static, str>,
    /// What the caller is told about trying again.
    pub retry: Retry,
}

/// What a refused caller is told about trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Client libraries decide by the status.
    Unsaid,
    /// Not before so many seconds.
    After(u32),
    /// Not at all: what could be retried was retried already.
    No,
}

impl Refused {
    /// Makes a refusal without code, `param` or advice.
    pub fn new(status: u16, kind: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let message = message.into();
        Self { status, kind, code: None, param: None, message, retry: Retry::Unsaid }
    }

    /// A node answered something that is not an answer.
    pub fn invalid_answer() -> Self {
        let message = "The node that took this request answered in a form that cannot be read.";
        Self::new(502, SERVER_ERROR, message).with_code("invalid_answer")
    }

    /// The request took too long.
    pub fn expired() -> Self {
        let message = "The request was not answered within its time limit.";
        Self::new(504, SERVER_ERROR, message).with_code("timeout").with_retry(Retry::No)
    }

    /// Sets the code.
    pub fn with_code(mut self, code: impl Into<Cow<'static, str>>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// Names the member of the request that is at fault.
    pub fn with_param(mut self, param: impl Into<Cow<'static, str>>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Sets what the caller is told about trying again.
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Returns what the caller reads.
    pub fn body(&self) -> ErrorBody {
        let mut body = ErrorBody::new(self.kind, &*self.message);
        body.error.code = self.code.as_deref().map(str::to_owned);
        body.error.param = self.param.as_deref().map(str::to_owned);
        body
    }
}

impl From<RequestError> for Refused {
    fn from(error: RequestError) -> Self {
        let message = error.to_string();
        let (status, code) = match error {
            RequestError::Invalid { param, .. } => {
                let refused = Self::new(400, RequestError::KIND, message);
                return match param {
                    Some(param) => refused.with_param(param),
                    None => refused,
                };
            }
            RequestError::UnknownModel => {
                return Self::new(404, RequestError::KIND, message)
                    .with_code("model_not_found")
                    .with_param("model");
            }
            RequestError::UnknownPath => (404, "not_found"),
            RequestError::UnknownMethod => (405, "method_not_allowed"),
            RequestError::Late => (408, "body_timeout"),
            RequestError::TooLarge(_) => (413, "request_too_large"),
            RequestError::Compressed => (415, "unsupported_media_type"),
        };
        Self::new(status, RequestError::KIND, message).with_code(code)
    }
}

impl From<PlanError> for Refused {
    fn from(error: PlanError) -> Self {
        let message = format!("This cannot be carried out: {error}.");
        Self::new(400, RequestError::KIND, message).with_param(error.at)
    }
}

impl From<TaskError> for Refused {
    fn from(error: TaskError) -> Self {
        let message = error.to_string();
        let callers = |status| Self::new(status, RequestError::KIND, message.clone());
        let ours = |status, code| Self::new(status, SERVER_ERROR, message.clone()).with_code(code);
        match error {
            // A node speaks for its data sets, and not for the keys of the network.
            TaskError::Rejected { status: 403, code, param: Some(param), .. }
                if param == DATASET =>
            {
                Self { code: code.map(Cow::Owned), ..callers(403) }.with_param(DATASET)
            }
            TaskError::Rejected { status, code, param, .. } => Self {
                code: code.map(Cow::Owned),
                param: param.map(Cow::Owned),
                ..callers(rejected(status))
            },
            TaskError::ModelNotFound { .. } | TaskError::NotOffered { .. } => {
                callers(404).with_code("model_not_found").with_param("model")
            }
            TaskError::NoNodeOnline { .. } => {
                ours(503, "no_node_online").with_retry(Retry::After(NODE_BACK_SECS))
            }
            TaskError::NoDataset { .. } => {
                callers(404).with_code("dataset_not_found").with_param(DATASET)
            }
            TaskError::TooFewOwners => {
                ours(503, "too_few_owners").with_retry(Retry::After(NODE_BACK_SECS))
            }
            TaskError::MembershipLapsed => callers(402).with_code("membership_lapsed"),
            TaskError::ShuttingDown => {
                ours(503, "shutting_down").with_retry(Retry::After(NODE_BACK_SECS))
            }
            TaskError::BooksFull => {
                ours(503, "books_full").with_retry(Retry::After(BOOKS_BACK_SECS))
            }
            TaskError::NoNodeAble { too_long: true, .. } => {
                callers(400).with_code("context_length_exceeded").with_param("messages")
            }
            TaskError::NoNodeAble { .. } => callers(400).with_code("no_node_able"),
            TaskError::Busy { retry_after_secs } => {
                Self::new(429, "rate_limit_error", message.clone())
                    .with_code("rate_limit_exceeded")
                    .with_retry(Retry::After(retry_after_secs))
            }
            TaskError::NodeBusy { retry_after_secs } => {
                Self::new(429, "rate_limit_error", message.clone())
                    .with_code("node_busy")
                    .with_retry(Retry::After(retry_after_secs))
            }
            TaskError::NodeOffline => {
                ours(503, "node_offline").with_retry(Retry::After(NODE_BACK_SECS))
            }
            TaskError::StaleKey => callers(409).with_code("stale_key"),
            TaskError::SealRejected => callers(400).with_code("seal_rejected"),
            TaskError::NodesFailed { .. } => ours(502, "nodes_failed").with_retry(Retry::No),
            TaskError::Interrupted => ours(502, "interrupted"),
            _ => Self::new(502, SERVER_ERROR, message.clone()),
        }
    }
}

/// Returns the status of a request that a node's server rejected. Only statuses that speak of the
/// request pass: a node must not tell a caller that its key is wrong or that it should try again.
const fn rejected(status: u16) -> u16 {
    match status {
        404 | 413 | 415 | 422 => status,
        _ => 400,
    }
}
