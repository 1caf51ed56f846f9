//! Refusals of the proxy: the coordinator's where it refused, else in its words.

use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::{
    CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::response::{IntoResponse, Response};
use iris_core::plan::{PlanError, StepError};
use iris_core::task::TaskError;
use iris_protocol::openai::{ErrorBody, Refused, RequestError};
use iris_protocol::rest;

use crate::builder::BuildError;
use crate::error::{ClientError, Cut};
use crate::plan::PlanFailure;

/// OpenAI's class of errors that are not the caller's fault.
const SERVER_ERROR: &str = "server_error";

#[derive(Debug)]
pub(super) struct ProxyError(Box<Told>);

/// What a refused caller is told.
#[derive(Debug)]
struct Told {
    status: u16,
    body: ErrorBody,
    retry_after: Option<Duration>,
    /// Whether another try is advised against.
    is_final: bool,
    request_id: Option<String>,
}

impl ProxyError {
    fn new(status: u16, body: ErrorBody) -> Self {
        let told = Told { status, body, retry_after: None, is_final: false, request_id: None };
        Self(Box::new(told))
    }

    pub(super) fn forbidden(message: &'static str) -> Self {
        Self::new(403, ErrorBody::new("permission_error", message).with_code("forbidden"))
    }

    /// Returns what ends a stream that had begun.
    pub(super) fn into_body(self) -> ErrorBody {
        self.0.body
    }

    /// A plan's failure: that of its request, where it was one.
    fn of_plan(failure: &PlanFailure, error: &ClientError) -> Self {
        if let (StepError::Task { .. }, Some(cause)) = (&failure.error, &failure.cause) {
            return cause.clone().into();
        }
        Self::server(error, failure.error.code())
    }

    /// A failure on the way that another try may get past.
    fn server(error: &ClientError, code: &str) -> Self {
        Self::new(502, ErrorBody::new(SERVER_ERROR, error.to_string()).with_code(code))
    }
}

impl From<RequestError> for ProxyError {
    fn from(error: RequestError) -> Self {
        ClientError::local(error).into()
    }
}

impl From<ClientError> for ProxyError {
    fn from(error: ClientError) -> Self {
        let mut refused = match &error {
            ClientError::Truncated(partial) => Self::new(502, cut(partial.cause.clone())),
            ClientError::Timeout(_) => ClientError::local(Refused::expired()).into(),
            ClientError::Trust(_) => Self::server(&error, "coordinator_not_trusted"),
            ClientError::Downgrade { .. } => Self::server(&error, "sealing_unsupported"),
            ClientError::NoOwnNode => Self::server(&error, "no_own_node"),
            ClientError::SteeringSuspected { .. } => Self::server(&error, "steering_suspected"),
            ClientError::BeyondGuards => Self::server(&error, "beyond_guards"),
            ClientError::TooFewOwners { .. } => ClientError::local(TaskError::TooFewOwners).into(),
            ClientError::InvalidPlan(PlanError { at, what }) => {
                let mut body = ErrorBody::new(RequestError::KIND, format!("'{at}': {what}."));
                body.error.param = Some(at.clone());
                Self::new(400, body)
            }
            ClientError::Plan(failure) => Self::of_plan(failure, &error),
            error => match error.refusal() {
                Some(refusal) => {
                    let body = ErrorBody { error: refusal.detail.clone() };
                    let mut refused = Self::new(refusal.status, body);
                    refused.0.retry_after = refusal.retry_after;
                    refused.0.is_final = refusal.is_final;
                    refused
                }
                None => Self::server(error, "coordinator_unreachable"),
            },
        };
        // What is not believed now is not believed a second later.
        refused.0.is_final |= error.is_about_privacy();
        refused.0.request_id = error.request_id().map(str::to_owned);
        refused
    }
}

impl From<BuildError> for ProxyError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::InvalidKey => {
                let body = ErrorBody::new(RequestError::KIND, error.to_string());
                Self::new(401, body.with_code("invalid_api_key"))
            }
            _ => Self::new(502, ErrorBody::new(SERVER_ERROR, error.to_string())),
        }
    }
}

/// Says how an answer broke off, as the coordinator would.
pub(super) fn cut(cause: Cut) -> ErrorBody {
    match cause {
        Cut::Reported(error) => ErrorBody { error },
        Cut::Broken(cause) => {
            ErrorBody::new(SERVER_ERROR, cause.to_string()).with_code("broken_answer")
        }
        Cut::Malformed(_) | Cut::TooLarge => Refused::invalid_answer().body(),
        Cut::Ended | Cut::Connection(_) | Cut::Silent(_) => {
            Refused::from(TaskError::Interrupted).body()
        }
    }
}

impl IntoResponse for ProxyError {
    fn into_response(self) -> Response {
        let mut response = Response::new(self.0.body.to_json().into());
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::BAD_GATEWAY);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(after) = self.0.retry_after {
            let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            headers.insert(RETRY_AFTER, millis.div_ceil(1000).into());
            headers.insert(HeaderName::from_static("retry-after-ms"), millis.into());
        }
        if self.0.is_final {
            let name = HeaderName::from_static("x-should-retry");
            headers.insert(name, HeaderValue::from_static("false"));
        }
        if let Some(id) = self.0.request_id.and_then(|id| HeaderValue::try_from(id).ok()) {
            headers.insert(HeaderName::from_static(rest::REQUEST_ID), id);
        }
        match status {
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
