//! Refusals, in the form that OpenAI's client libraries read.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use iris_core::store::StoreError;
use iris_core::task::TaskError;
use iris_protocol::openai::{ErrorBody, RequestError};

use crate::accounts::AccountError;

const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

const INVALID_REQUEST: &str = RequestError::KIND;
const SERVER_ERROR: &str = "server_error";

/// Seconds after which a node that is away may be back.
const NODE_BACK_SECS: u32 = 10;
/// Seconds after which books that cannot be written are worth another try.
const BOOKS_BACK_SECS: u32 = 10;

/// Why a request is refused, and how to say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: Option<Cow<'static, str>>,
    param: Option<Cow<'static, str>>,
    message: Cow<'static, str>,
    retry: Retry,
}

/// What a refused caller is told about trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    /// Client libraries decide by the status.
    Unsaid,
    /// Not before so many seconds.
    After(u32),
    /// Not at all: what could be retried was retried here already.
    No,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            kind,
            code: None,
            param: None,
            message: message.into(),
            retry: Retry::Unsaid,
        }
    }

    /// The request makes no sense.
    pub(super) fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, INVALID_REQUEST, message)
    }

    /// No key was shown, or one that is not known.
    pub(super) fn unauthorized() -> Self {
        let message = "Missing or unknown API key. Send it as 'Authorization: Bearer iris_...'.";
        Self::new(StatusCode::UNAUTHORIZED, INVALID_REQUEST, message).with_code("invalid_api_key")
    }

    /// The key that was shown is for something else.
    pub(super) fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", message).with_code("forbidden")
    }

    /// There is nothing of this name.
    pub(super) fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, INVALID_REQUEST, message).with_code("not_found")
    }

    /// A node answered something that is not an answer.
    pub(super) fn invalid_answer() -> Self {
        let message = "The node that took this request answered in a form that cannot be read.";
        Self::new(StatusCode::BAD_GATEWAY, SERVER_ERROR, message).with_code("invalid_answer")
    }

    /// The request took too long.
    pub(super) fn expired() -> Self {
        let message = "The request was not answered within its time limit.";
        let error = Self::new(StatusCode::GATEWAY_TIMEOUT, SERVER_ERROR, message);
        error.with_code("timeout").with_retry(Retry::No)
    }

    /// The coordinator cannot do it now.
    pub(super) fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER_ERROR, message)
            .with_code("unavailable")
            .with_retry(Retry::After(NODE_BACK_SECS))
    }

    /// Something is wrong with the coordinator.
    pub(super) fn internal() -> Self {
        let message = "The coordinator failed; its log says why.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER_ERROR, message)
            .with_code("internal_error")
    }

    /// Too many requests; worth trying again in `secs`.
    pub(super) fn too_many(message: impl Into<Cow<'static, str>>, secs: u32) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message)
            .with_code("rate_limit_exceeded")
            .with_retry(Retry::After(secs))
    }

    /// The same key was used for another request.
    pub(super) fn conflict(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, INVALID_REQUEST, message).with_code("conflict")
    }

    pub(super) fn with_code(mut self, code: impl Into<Cow<'static, str>>) -> Self {
        self.code = Some(code.into());
        self
    }

    pub(super) fn with_param(mut self, param: impl Into<Cow<'static, str>>) -> Self {
        self.param = Some(param.into());
        self
    }

    const fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    #[cfg(test)]
    pub(super) const fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns what the caller reads.
    pub(super) fn body(&self) -> ErrorBody {
        let mut body = ErrorBody::new(self.kind, &*self.message);
        body.error.code = self.code.as_deref().map(str::to_owned);
        body.error.param = self.param.as_deref().map(str::to_owned);
        body
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Bytes::from(self.body().to_json()).into());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self.retry {
            Retry::Unsaid => {}
            Retry::After(secs) => {
                headers.insert(RETRY_AFTER, secs.into());
                headers.insert(RETRY_AFTER_MS, (u64::from(secs) * 1000).into());
            }
            Retry::No => {
                headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
            }
        }
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // What is left of the body would have to be read before the next request.
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let status = StatusCode::from_u16(error.status()).expect("it is a status");
        let mut refused = Self::new(status, INVALID_REQUEST, error.to_string());
        refused.code = error.code().map(Cow::Borrowed);
        refused.param = error.param().map(Cow::Borrowed);
        refused
    }
}

impl From<TaskError> for ApiError {
    fn from(error: TaskError) -> Self {
        let message = error.to_string();
        match error {
            TaskError::Rejected { status, code, param, .. } => {
                let mut refused = Self::new(rejected(status), INVALID_REQUEST, message);
                refused.code = code.map(Cow::Owned);
                refused.param = param.map(Cow::Owned);
                refused
            }
            TaskError::ModelNotFound { .. } => {
                Self::new(StatusCode::NOT_FOUND, INVALID_REQUEST, message)
                    .with_code("model_not_found")
                    .with_param("model")
            }
            TaskError::NoNodeOnline { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER_ERROR, message)
                    .with_code("no_node_online")
                    .with_retry(Retry::After(NODE_BACK_SECS))
            }
            TaskError::ShuttingDown => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER_ERROR, message)
                    .with_code("shutting_down")
                    .with_retry(Retry::After(NODE_BACK_SECS))
            }
            TaskError::BooksFull => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER_ERROR, message)
                    .with_code("books_full")
                    .with_retry(Retry::After(BOOKS_BACK_SECS))
            }
            TaskError::NoNodeAble { too_long: true, .. } => Self::bad_request(message)
                .with_code("context_length_exceeded")
                .with_param("messages"),
            TaskError::NoNodeAble { .. } => Self::bad_request(message).with_code("no_node_able"),
            TaskError::Busy { retry_after_secs } => Self::too_many(message, retry_after_secs),
            TaskError::NodesFailed { .. } => {
                Self::new(StatusCode::BAD_GATEWAY, SERVER_ERROR, message)
                    .with_code("nodes_failed")
                    .with_retry(Retry::No)
            }
            TaskError::Interrupted => {
                Self::new(StatusCode::BAD_GATEWAY, SERVER_ERROR, message).with_code("interrupted")
            }
            _ => Self::new(StatusCode::BAD_GATEWAY, SERVER_ERROR, message),
        }
    }
}

impl From<AccountError> for ApiError {
    fn from(error: AccountError) -> Self {
        let message = error.to_string();
        match error {
            AccountError::Unknown => Self::new(StatusCode::UNAUTHORIZED, INVALID_REQUEST, message)
                .with_code("invalid_account_key")
                .with_param("account_key"),
            AccountError::TooManyAttempts { retry_after_secs } => {
                Self::too_many(message, retry_after_secs)
            }
            AccountError::Label => Self::bad_request(message).with_param("label"),
            AccountError::TooManyKeys => Self::conflict(message),
            AccountError::Overloaded => Self::unavailable(message),
            AccountError::Store(StoreError::Unavailable(_)) => {
                Self::unavailable("The coordinator's books cannot be read or written for now.")
            }
            AccountError::Store(error) => {
                tracing::error!(%error, "the store failed");
                Self::internal()
            }
        }
    }
}

/// Returns the status of a request that a node's server rejected. Only statuses that speak of the
/// request pass: a node must not tell a caller that its key is wrong or that it should try again.
fn rejected(status: u16) -> StatusCode {
    match status {
        404 => StatusCode::NOT_FOUND,
        413 => StatusCode::PAYLOAD_TOO_LARGE,
        415 => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        422 => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::BAD_REQUEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(error: TaskError, name: &str) -> Option<String> {
        let response = ApiError::from(error).into_response();
        Some(response.headers().get(name)?.to_str().unwrap().to_owned())
    }

    #[test]
    fn every_end_of_a_task_has_its_status() {
        let model = || "m".to_owned();
        let able = |too_long| TaskError::NoNodeAble { model: model(), needs: model(), too_long };
        let rejected = |status| TaskError::Rejected {
            status,
            code: Some("context_length_exceeded".to_owned()),
            param: None,
            message: "too long".to_owned(),
        };
        let cases = [
            (rejected(400), 400, "context_length_exceeded"),
            (rejected(422), 422, "context_length_exceeded"),
            (rejected(401), 400, "context_length_exceeded"),
            (rejected(429), 400, "context_length_exceeded"),
            (TaskError::ModelNotFound { model: model() }, 404, "model_not_found"),
            (TaskError::NoNodeOnline { model: model() }, 503, "no_node_online"),
            (able(false), 400, "no_node_able"),
            (able(true), 400, "context_length_exceeded"),
            (TaskError::Busy { retry_after_secs: 3 }, 429, "rate_limit_exceeded"),
            (TaskError::BooksFull, 503, "books_full"),
            (TaskError::NodesFailed { attempts: 2 }, 502, "nodes_failed"),
            (TaskError::Interrupted, 502, "interrupted"),
        ];
        for (error, status, code) in cases {
            let error = ApiError::from(error);
            assert_eq!((error.status().as_u16(), error.code.as_deref()), (status, Some(code)));
        }
    }

    #[test]
    fn a_refused_request_is_answered_as_its_reader_says() {
        for error in [
            RequestError::Invalid { message: "no".into(), param: Some("stream") },
            RequestError::UnknownModel,
            RequestError::TooLarge(7),
            RequestError::Compressed,
            RequestError::Late,
            RequestError::UnknownPath,
            RequestError::UnknownMethod,
        ] {
            let refused = ApiError::from(error.clone());
            assert_eq!(refused.status().as_u16(), error.status());
            assert_eq!(refused.body(), error.body());
        }
    }

    #[test]
    fn callers_learn_when_to_try_again() {
        let busy = TaskError::Busy { retry_after_secs: 3 };
        assert_eq!(header(busy.clone(), "retry-after").as_deref(), Some("3"));
        assert_eq!(header(busy, "retry-after-ms").as_deref(), Some("3000"));
        let offline = TaskError::NoNodeOnline { model: "m".to_owned() };
        assert_eq!(header(offline, "retry-after").as_deref(), Some("10"));
        let failed = TaskError::NodesFailed { attempts: 2 };
        assert_eq!(header(failed, "x-should-retry").as_deref(), Some("false"));
    }

    #[test]
    fn error_is_one_line_with_all_four_members() {
        let error = ApiError::bad_request("a\nb").with_param("model");
        assert_eq!(
            String::from_utf8(error.body().to_json()).unwrap(),
            r#"{"error":{"message":"a\nb","type":"invalid_request_error","param":"model","code":null}}"#
        );
    }
}
