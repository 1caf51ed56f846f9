//! Refusals, in the form that OpenAI's client libraries read.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use iris_core::store::StoreError;
use iris_crypto::seal::SealError;
use iris_protocol::openai::{ErrorBody, Refused, RequestError, Retry};

use super::limits;
use crate::accounts::AccountError;
use crate::limits::Allowance;

const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

const INVALID_REQUEST: &str = RequestError::KIND;
const SERVER_ERROR: &str = "server_error";

/// Seconds after which a node that is away may be back.
const NODE_BACK_SECS: u32 = 10;

/// Why a request is refused, and how to say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError(Refused, Option<Box<Allowance>>);

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Refused::new(status.as_u16(), kind, message), None)
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

    /// The access token that was shown is not good.
    pub(super) fn no_session() -> Self {
        let message = "The access token is not valid, or no longer. Go on by POST /auth/refresh, or \
                       log in again.";
        Self::new(StatusCode::UNAUTHORIZED, INVALID_REQUEST, message)
            .with_code("invalid_access_token")
    }

    /// The key that was shown is for something else.
    pub(super) fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", message).with_code("forbidden")
    }

    /// There is nothing of this name.
    pub(super) fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, INVALID_REQUEST, message).with_code("not_found")
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

    /// The body is no sealed request of a version that is known here.
    pub(super) fn bad_sealed_request(error: SealError) -> Self {
        Self::bad_request(format!("The body is {error}.")).with_code("bad_sealed_request")
    }

    /// The same key was used for another request.
    pub(super) fn conflict(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, INVALID_REQUEST, message).with_code("conflict")
    }

    pub(super) fn with_code(self, code: impl Into<Cow<'static, str>>) -> Self {
        Self(self.0.with_code(code), self.1)
    }

    pub(super) fn with_param(self, param: impl Into<Cow<'static, str>>) -> Self {
        Self(self.0.with_param(param), self.1)
    }

    pub(super) fn with_message(self, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Refused { message: message.into(), ..self.0 }, self.1)
    }

    /// Shows what the caller has left of its limits.
    pub(super) fn with_allowance(self, allowance: Allowance) -> Self {
        Self(self.0, Some(Box::new(allowance)))
    }

    fn with_retry(self, retry: Retry) -> Self {
        Self(self.0.with_retry(retry), self.1)
    }

    #[cfg(test)]
    pub(super) const fn status(&self) -> u16 {
        self.0.status
    }

    /// Returns what the caller reads.
    pub(super) fn body(&self) -> ErrorBody {
        self.0.body()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Bytes::from(self.body().to_json()).into());
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::BAD_GATEWAY);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(allowance) = &self.1 {
            limits::write(allowance, headers);
        }
        match self.0.retry {
            Retry::Unsaid => {}
            Retry::After(secs) => {
                headers.insert(RETRY_AFTER, secs.into());
                headers.insert(RETRY_AFTER_MS, (u64::from(secs) * 1000).into());
            }
            Retry::No => {
                headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
            }
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

impl<E: Into<Refused>> From<E> for ApiError {
    fn from(error: E) -> Self {
        Self(error.into(), None)
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
            AccountError::WrongLogin => {
                Self::new(StatusCode::UNAUTHORIZED, INVALID_REQUEST, message)
                    .with_code("invalid_login")
            }
            AccountError::WrongRefresh => {
                Self::new(StatusCode::UNAUTHORIZED, INVALID_REQUEST, message)
                    .with_code("invalid_refresh_token")
                    .with_param("refresh_token")
            }
            AccountError::Closed => Self::forbidden(message).with_code("invitation_required"),
            AccountError::NoInvitations => Self::forbidden(message),
            AccountError::Invitation => {
                Self::forbidden(message).with_code("invalid_invitation").with_param("invitation")
            }
            AccountError::KeyScope => Self::forbidden(message).with_param("scope"),
            AccountError::Email => Self::bad_request(message).with_param("email"),
            AccountError::Password => Self::bad_request(message).with_param("password"),
            AccountError::Label => Self::bad_request(message).with_param("label"),
            AccountError::Terms(param) => Self::bad_request(message).with_param(param),
            AccountError::Taken => Self::conflict(message).with_param("email"),
            AccountError::FeeReused => Self::conflict(message).with_param("reference"),
            AccountError::NoFee
            | AccountError::NoPassword
            | AccountError::TooManyKeys
            | AccountError::TooManyKinds(_)
            | AccountError::TooManyInvitations(_) => Self::conflict(message),
            AccountError::NoKey | AccountError::NoAccount => Self::not_found(message),
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

#[cfg(test)]
mod tests {
    use iris_core::task::TaskError;

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
            (TaskError::NoDataset { name: model() }, 404, "dataset_not_found"),
            (TaskError::TooFewOwners, 503, "too_few_owners"),
            (TaskError::MembershipLapsed, 402, "membership_lapsed"),
            (able(false), 400, "no_node_able"),
            (able(true), 400, "context_length_exceeded"),
            (TaskError::Busy { retry_after_secs: 3 }, 429, "rate_limit_exceeded"),
            (TaskError::BooksFull, 503, "books_full"),
            (TaskError::NodeBusy { retry_after_secs: 3 }, 429, "node_busy"),
            (TaskError::NodeOffline, 503, "node_offline"),
            (TaskError::NotOffered { model: model() }, 404, "model_not_found"),
            (TaskError::StaleKey, 409, "stale_key"),
            (TaskError::SealRejected, 400, "seal_rejected"),
            (TaskError::NodesFailed { attempts: 2 }, 502, "nodes_failed"),
            (TaskError::Interrupted, 502, "interrupted"),
        ];
        for (error, status, code) in cases {
            let error = ApiError::from(error);
            assert_eq!((error.status(), error.0.code.as_deref()), (status, Some(code)));
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
