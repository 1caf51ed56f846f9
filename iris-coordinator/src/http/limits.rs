//! What callers are held to: asked once for each request to a model, before its body is read.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, StatusCode};
use iris_core::ModelName;
use iris_protocol::rest::KeyId;

use super::Api;
use super::auth::Caller;
use super::error::ApiError;
use crate::dispatch::Payer;
use crate::limits::{Allowance, Bound, Exceeded, Left, Period};

const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// A request that was let in, and what its caller has left.
#[derive(Debug)]
pub(super) struct Permit {
    allowance: Allowance,
    meter: Option<KeyId>,
}

impl Api {
    /// Lets a request to a model in and counts it, or says what its caller has used up.
    pub(super) fn admit(&self, caller: &Caller) -> Result<Permit, ApiError> {
        let admitted = self.coordinator.admit(&caller.account, caller.key.as_ref());
        let allowance = admitted.map_err(exceeded)?;
        Ok(Permit { allowance, meter: caller.key.as_ref().map(|key| key.meter) })
    }

    /// Finishes an answer by what its caller has left. Whoever was sent away for want of room has
    /// not used its quota; that it came counts for its pace all the same.
    pub(super) fn finish(&self, permit: &Permit, answer: Result<Response, ApiError>) -> Response {
        let mut response = answer.into_response();
        let sent_away = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        if let Some(meter) = &permit.meter
            && sent_away.contains(&response.status())
        {
            self.coordinator.limits().take_back(meter);
        }
        write(&permit.allowance, response.headers_mut());
        response
    }
}

impl Permit {
    /// Shows a limit of another kind where it is the tighter one.
    pub(super) fn narrow(&mut self, requests: Option<Left>) {
        self.allowance.requests = Left::tightest([self.allowance.requests, requests]);
    }
}

impl Caller {
    /// Returns who the tasks of this caller count for.
    pub(super) fn payer(&self) -> Payer {
        Payer { account: self.account, key: self.key.as_ref().map(|key| key.meter) }
    }

    /// Returns whether the caller may ask `model`.
    pub(super) fn may_ask(&self, model: &ModelName) -> bool {
        let named = self.key.as_ref().map(|key| &key.terms.models);
        named.is_none_or(|models| models.is_empty() || models.contains(model))
    }

    /// Refuses models that the caller's key is not for.
    pub(super) fn check_models<'a>(
        &self,
        models: impl IntoIterator<Item = &'a ModelName>,
    ) -> Result<(), ApiError> {
        match models.into_iter().find(|model| !self.may_ask(model)) {
            None => Ok(()),
            Some(model) => {
                let message = format!("This key may not ask the model '{model}'.");
                Err(ApiError::forbidden(message).with_code("model_not_allowed").with_param("model"))
            }
        }
    }
}

fn exceeded(exceeded: Exceeded) -> ApiError {
    let Exceeded { bound, wait, allowance } = exceeded;
    let (code, message) = match bound {
        Bound::AccountPace(rate) => {
            ("rate_limit_exceeded", format!("This account may make {rate} requests a minute."))
        }
        Bound::KeyPace(rate) => {
            ("rate_limit_exceeded", format!("This key may make {rate} requests a minute."))
        }
        Bound::Requests(period, limit) => (
            "insufficient_quota",
            format!("This key may make {limit} requests {}, which are used up.", name(period)),
        ),
        Bound::Tokens(period, limit) => (
            "insufficient_quota",
            format!("This key may use {limit} tokens {}, which are used up.", name(period)),
        ),
    };
    ApiError::too_many(message, whole_secs(wait)).with_code(code).with_allowance(allowance)
}

const fn name(period: Period) -> &'static str {
    match period {
        Period::Day => "a day of UTC",
        Period::Month => "a month of UTC",
    }
}

/// Returns the seconds after which a time is over.
pub(super) fn whole_secs(time: Duration) -> u32 {
    let up = u64::from(time.subsec_nanos() > 0);
    u32::try_from(time.as_secs().saturating_add(up)).unwrap_or(u32::MAX).max(1)
}

/// Writes what is left in the headers of OpenAI.
pub(super) fn write(allowance: &Allowance, headers: &mut HeaderMap) {
    let kinds = [(REQUESTS, allowance.requests), (TOKENS, allowance.tokens)];
    for ([limit, remaining, reset], left) in kinds {
        let Some(left) = left else { continue };
        headers.insert(limit, left.limit.into());
        headers.insert(remaining, left.remaining.into());
        let text = HeaderValue::try_from(written(left.reset)).expect("digits and letters");
        headers.insert(reset, text);
    }
}

/// Writes a time as OpenAI does: `120ms`, `1s`, `6m0s`, `1h0m0s`.
fn written(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        return format!("{}ms", time.as_millis());
    }
    let secs = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    match (secs / 3600, secs / 60 % 60, secs % 60) {
        (0, 0, secs) => format!("{secs}s"),
        (0, minutes, secs) => format!("{minutes}m{secs}s"),
        (hours, minutes, secs) => format!("{hours}h{minutes}m{secs}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_clients_read_them() {
        let written = |millis| written(Duration::from_millis(millis));
        assert_eq!(written(0), "0ms");
        assert_eq!(written(120), "120ms");
        assert_eq!(written(1000), "1s");
        assert_eq!(written(59_001), "1m0s");
        assert_eq!(written(360_000), "6m0s");
        assert_eq!(written(3_600_000), "1h0m0s");
        assert_eq!(written(31 * 86_400_000), "744h0m0s");
    }

    #[test]
    fn nobody_is_told_to_come_at_once() {
        assert_eq!(whole_secs(Duration::ZERO), 1);
        assert_eq!(whole_secs(Duration::from_millis(1001)), 2);
        assert_eq!(whole_secs(Duration::MAX), u32::MAX);
    }
}
