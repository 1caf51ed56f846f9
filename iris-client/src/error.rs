use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use iris_core::plan::PlanError;
use iris_crypto::seal::AnswerError;
use iris_protocol::openai::{ErrorBody, ErrorDetail, Refused, Retry};
use reqwest::StatusCode;
use reqwest::header::HeaderMap;

use crate::head::Head;
use crate::plan::PlanFailure;
use crate::retry;
use crate::trust::TrustError;

/// Why a request has no answer, or only half of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The key, password or other credential is missing, wrong or revoked.
    #[error("not admitted: {0}")]
    Unauthorized(Box<Refusal>),
    /// The session has ended: log in again.
    #[error("the session has ended")]
    SessionEnded,
    /// The file of the session cannot be used.
    #[error("the session file {}: {problem}", path.display())]
    SessionFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do about it.
        problem: String,
    },
    /// The account's fee is due.
    #[error("not served: {0}")]
    PaymentDue(Box<Refusal>),
    /// This may not be done, or not with this key.
    #[error("not allowed: {0}")]
    Forbidden(Box<Refusal>),
    /// No node has offered the model for a long time; check its name.
    #[error("no such model: {0}")]
    ModelNotFound(Box<Refusal>),
    /// There is no such task, or it belongs to another account.
    #[error("not found: {0}")]
    NotFound(Box<Refusal>),
    /// The network knows the model, but nobody can answer now.
    #[error("the network cannot answer now: {0}")]
    NoNode(Box<Refusal>),
    /// The quota is used up or the queue is full.
    #[error("too many requests: {0}")]
    RateLimited(Box<Refusal>),
    /// The request itself is at fault and would be refused again.
    #[error("the request was refused: {0}")]
    BadRequest(Box<Refusal>),
    /// The request is longer than the coordinator takes.
    #[error("the request is too large: {0}")]
    TooLarge(Box<Refusal>),
    /// The coordinator failed.
    #[error("the coordinator failed: {0}")]
    Server(Box<Refusal>),
    /// An answer broke off. What came before of a streamed one is in [`Partial::text`].
    #[error("the answer broke off: {}", .0.cause)]
    Truncated(Box<Partial>),
    /// The answer is not one of a coordinator.
    #[error("the answer cannot be read: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
        /// Names the request, if the answer did.
        request_id: Option<String>,
    },
    /// A key, password or session would travel unencrypted to another machine; nothing was sent.
    #[error("keys and passwords must not travel over plain http to another machine; use https")]
    PlainHttp,
    /// What the coordinator publishes of its nodes is not believed; nothing was sealed or sent.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The coordinator does not take sealed requests, or answers them in the clear. Nothing it
    /// said was taken for an answer, and nothing was sent in the clear.
    #[error(
        "the coordinator {what}; nothing was sent unsealed (to let the coordinator read a request, \
         ask for it as open)"
    )]
    Downgrade {
        /// What it did.
        what: &'static str,
        /// Names the request, if the answer did.
        request_id: Option<String>,
    },
    /// None of the nodes that were named as one's own offers the model now.
    #[error("none of your own nodes offers this model now")]
    NoOwnNode,
    /// A plan is none, or cannot be carried out in this way.
    #[error("the plan cannot be carried out: {0}")]
    InvalidPlan(#[from] PlanError),
    /// A plan has no answer, or not the whole of it.
    #[error("{0}")]
    Plan(Box<PlanFailure>),
    /// Answers of different owners are wanted, and there are too few whose nodes may be asked.
    #[error(
        "there are not enough nodes of different owners{}",
        if *.limited { " among your own and your guards" } else { "" }
    )]
    TooFewOwners {
        /// Whether there might be enough if other nodes than the guards were asked, too.
        limited: bool,
    },
    /// All nodes that may be asked are strangers: neither one's own nor guards.
    #[error("the only nodes that could answer are neither your own nor among your guards")]
    BeyondGuards,
    /// The coordinator says of one node after another that it is busy, and in its roster that they
    /// are free: it may be leading this client to a node of its choice.
    #[error(
        "the coordinator refused {refusals} times in a row on behalf of nodes that it calls free: \
         it may be steering your requests to a node of its choice"
    )]
    SteeringSuspected {
        /// How often in a row.
        refusals: u32,
    },
    /// There was no answer in time.
    #[error("no answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// Nobody listens at the coordinator's address, or not with a certificate to trust.
    #[error("the coordinator cannot be reached: {0}")]
    Unreachable(String),
    /// The connection broke before an answer came.
    #[error("the connection broke: {0}")]
    Connection(String),
}

impl ClientError {
    /// Returns the request's name, for asking an operator about it.
    pub fn request_id(&self) -> Option<&str> {
        match self {
            Self::Truncated(partial) => partial.head.request_id.as_deref(),
            Self::Malformed { request_id, .. } | Self::Downgrade { request_id, .. } => {
                request_id.as_deref()
            }
            Self::Plan(failure) => failure.cause.as_ref()?.request_id(),
            _ => self.refusal()?.request_id.as_deref(),
        }
    }

    /// Returns how long the coordinator asks to wait before the next try.
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal()?.retry_after
    }

    /// Returns the coordinator's refusal, where that is the cause.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Unauthorized(refusal)
            | Self::PaymentDue(refusal)
            | Self::Forbidden(refusal)
            | Self::ModelNotFound(refusal)
            | Self::NotFound(refusal)
            | Self::NoNode(refusal)
            | Self::RateLimited(refusal)
            | Self::BadRequest(refusal)
            | Self::TooLarge(refusal)
            | Self::Server(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Returns whether the same request may well succeed later.
    pub fn is_passing(&self) -> bool {
        if self.refusal().is_some_and(|refusal| refusal.is_final) {
            return false;
        }
        matches!(
            self,
            Self::NoNode(_)
                | Self::RateLimited(_)
                | Self::Server(_)
                | Self::Unreachable(_)
                | Self::Connection(_)
        )
    }

    /// Returns whether privacy is what failed: something that was to be proven is not, so nothing
    /// is asked, or what was answered is not taken for an answer.
    pub fn is_about_privacy(&self) -> bool {
        match self {
            Self::Trust(_)
            | Self::Downgrade { .. }
            | Self::NoOwnNode
            | Self::BeyondGuards
            | Self::SteeringSuspected { .. } => true,
            Self::Truncated(partial) => matches!(partial.cause, Cut::Broken(_)),
            _ => false,
        }
    }

    /// Refuses a request without asking anybody, as a coordinator would.
    pub(crate) fn local(refused: impl Into<Refused>) -> Self {
        let refused = refused.into();
        let retry_after = match refused.retry {
            Retry::After(secs) => Some(Duration::from_secs(secs.into())),
            Retry::Unsaid | Retry::No => None,
        };
        let refusal = Refusal {
            status: refused.status,
            detail: refused.body().error,
            request_id: None,
            retry_after,
            is_final: refused.retry == Retry::No,
        };
        let status = StatusCode::from_u16(refused.status).unwrap_or(StatusCode::BAD_GATEWAY);
        Self::of(status, refusal)
    }

    /// Names the request that led to this refusal.
    pub(crate) fn of_request(mut self, request_id: Option<String>) -> Self {
        if let Self::Unauthorized(refusal)
        | Self::PaymentDue(refusal)
        | Self::Forbidden(refusal)
        | Self::ModelNotFound(refusal)
        | Self::NotFound(refusal)
        | Self::NoNode(refusal)
        | Self::RateLimited(refusal)
        | Self::BadRequest(refusal)
        | Self::TooLarge(refusal)
        | Self::Server(refusal) = &mut self
        {
            refusal.request_id = request_id;
        }
        self
    }

    pub(crate) fn downgrade(what: &'static str, head: &Head) -> Self {
        Self::Downgrade { what, request_id: head.request_id.clone() }
    }

    /// Says `what` of a coordinator that does not know the path.
    pub(crate) fn without(self, what: &'static str) -> Self {
        match self.refusal() {
            Some(Refusal { status: 404 | 405 | 501, request_id, .. }) => {
                Self::Downgrade { what, request_id: request_id.clone() }
            }
            _ => self,
        }
    }

    /// Reads a refusal; `body` may be cut off or anything else than what it should be.
    pub(crate) fn refused(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let request_id = Head::read(headers).request_id;
        if !status.is_client_error() && !status.is_server_error() {
            let reason = format!("status {status} is no answer to this request");
            return Self::Malformed { reason, request_id };
        }
        let refusal = Refusal {
            status: status.as_u16(),
            detail: detail(status, body),
            request_id,
            retry_after: retry::retry_after(headers),
            is_final: headers.get("x-should-retry").is_some_and(|value| value == "false"),
        };
        Self::of(status, refusal)
    }

    fn of(status: StatusCode, refusal: Refusal) -> Self {
        let refusal = Box::new(refusal);
        match status.as_u16() {
            401 => Self::Unauthorized(refusal),
            402 => Self::PaymentDue(refusal),
            403 => Self::Forbidden(refusal),
            404 if refusal.code() == Some("model_not_found") => Self::ModelNotFound(refusal),
            404 => Self::NotFound(refusal),
            408 | 500..=502 | 504.. => Self::Server(refusal),
            413 => Self::TooLarge(refusal),
            429 => Self::RateLimited(refusal),
            503 => Self::NoNode(refusal),
            _ => Self::BadRequest(refusal),
        }
    }

    pub(crate) fn transport(error: &reqwest::Error, timeout: Duration) -> Self {
        if error.is_connect() {
            Self::Unreachable(causes(error))
        } else if error.is_timeout() {
            Self::Timeout(timeout)
        } else {
            Self::Connection(causes(error))
        }
    }
}

/// What a coordinator says when it refuses a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// HTTP status, 400 to 599.
    pub status: u16,
    /// What is wrong.
    pub detail: ErrorDetail,
    /// Names the request, for asking an operator about it.
    pub request_id: Option<String>,
    /// How long to wait before the next try.
    pub retry_after: Option<Duration>,
    /// Whether the coordinator advises against another try, since it has tried again itself.
    pub is_final: bool,
}

impl Refusal {
    /// Returns the cause for programs, such as `context_length_exceeded`.
    pub fn code(&self) -> Option<&str> {
        self.detail.code.as_deref()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail.message)
    }
}

/// An answer that broke off.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Partial {
    /// The first choice's text up to the break.
    pub text: String,
    /// How it broke off.
    pub cause: Cut,
    /// Where the answer came from.
    pub head: Head,
}

impl fmt::Debug for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Answers never reach logs.
        f.debug_struct("Partial")
            .field("text", &format_args!("{} bytes", self.text.len()))
            .field("cause", &self.cause)
            .field("head", &self.head)
            .finish()
    }
}

/// How a stream broke off.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cut {
    /// The coordinator said why.
    #[error("{}", .0.message)]
    Reported(ErrorDetail),
    /// The stream ended without its end mark.
    #[error("the stream ended early")]
    Ended,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Connection(String),
    /// What came of a sealed answer does not open, or not where it came.
    #[error("{0}")]
    Broken(AnswerError),
    /// Nothing came for the idle timeout.
    #[error("nothing came for {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// An event cannot be read.
    #[error("an event cannot be read: {0}")]
    Malformed(String),
    /// The answer is larger than this client takes.
    #[error("the answer is too large")]
    TooLarge,
}

fn detail(status: StatusCode, body: &[u8]) -> ErrorDetail {
    if let Ok(body) = serde_json::from_slice::<ErrorBody>(body)
        && !body.error.message.is_empty()
    {
        return body.error;
    }
    // A proxy on the way may answer in its own form.
    ErrorDetail {
        message: format!("status {status}"),
        kind: String::new(),
        param: None,
        code: None,
    }
}

/// Joins an error with its causes; reqwest's own text stops at the first.
pub(crate) fn causes(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &str) -> ClientError {
        let status = StatusCode::from_u16(status).unwrap();
        ClientError::refused(status, &HeaderMap::new(), body.as_bytes())
    }

    #[test]
    fn a_status_tells_the_cause_even_when_the_body_does_not() {
        for body in ["", "<html>", r#"{"detail":"x"}"#, r#"{"error":{}}"#] {
            let error = refused(503, body);
            assert!(matches!(error, ClientError::NoNode(_)), "{body}");
            assert_eq!(error.refusal().unwrap().detail.message, "status 503 Service Unavailable");
        }
    }

    #[test]
    fn an_unknown_model_is_told_from_an_unknown_path() {
        let unknown = r#"{"error":{"message":"no","code":"model_not_found"}}"#;
        assert!(matches!(refused(404, unknown), ClientError::ModelNotFound(_)));
        assert!(matches!(refused(404, "{}"), ClientError::NotFound(_)));
    }

    #[test]
    fn a_redirect_is_not_followed_and_not_an_answer() {
        assert!(matches!(refused(302, ""), ClientError::Malformed { .. }));
    }
}
