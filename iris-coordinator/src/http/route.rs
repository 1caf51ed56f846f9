//! Requests that name no model: how hard they are, and which model serves them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use iris_core::ModelName;
use iris_core::backend::Operation;
use iris_core::classify::Question;
use iris_core::demand::{Demand, Difficulty, Own, Trust};
use iris_core::routing::{FamilyError, Unnamed, Wanted};
use iris_core::task::TaskError;
use iris_protocol::openai::{Asked, last_words, with_model};
use iris_protocol::rest::{self, InferenceRequest};

use super::Api;
use super::auth::Caller;
use super::error::ApiError;
use crate::classify::Readers;
use crate::dispatch::{Placement, Routing};
use crate::inference::Chosen;

/// A request that names its model.
#[derive(Debug)]
pub(super) struct Routed {
    pub(super) model: ModelName,
    pub(super) body: Bytes,
    pub(super) routing: Routing,
}

/// A body that was written anew, beside the one that takes the room for both.
struct Renamed {
    body: Bytes,
    _original: Bytes,
}

impl AsRef<[u8]> for Renamed {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Api {
    /// Chooses the model where a request names none, and writes it into the body.
    pub(super) async fn route(
        &self,
        caller: &Caller,
        operation: Operation,
        asked: &Asked,
        body: Bytes,
    ) -> Result<Routed, ApiError> {
        let Some(unnamed) = Unnamed::of_name(asked.model.as_str()) else {
            caller.check_models([&asked.model])?;
            let (model, routing) = (asked.model.clone(), Routing::default());
            return Ok(Routed { model, body, routing });
        };
        let words = last_words(operation, &body)?;
        let Chosen { model, routing } =
            self.choose(caller, understood(unnamed)?, asked, &words).await?;
        drop(words);
        let named = with_model(&body, &model)?;
        let body = Bytes::from_owner(Renamed { body: named, _original: body });
        Ok(Routed { model, body, routing })
    }

    /// Returns the model of a durable task: the one that it names, or the one that is chosen.
    pub(super) async fn chosen(
        &self,
        caller: &Caller,
        request: &InferenceRequest,
    ) -> Result<Chosen, ApiError> {
        let Some(unnamed) = Unnamed::of_name(request.model.as_str()) else {
            caller.check_models([&request.model])?;
            return Ok(Chosen { model: request.model.clone(), routing: Routing::default() });
        };
        let chat = request.clone().into_chat_request();
        let body = serde_json::to_vec(&chat).map_err(|_| ApiError::internal())?;
        let asked = Asked::read(Operation::Chat, &body)?;
        let words = last_words(Operation::Chat, &body)?;
        self.choose(caller, understood(unnamed)?, &asked, &words).await
    }

    /// Chooses a model for a question that ends with `words`.
    pub(super) async fn choose(
        &self,
        caller: &Caller,
        models: Unnamed,
        asked: &Asked,
        words: &str,
    ) -> Result<Chosen, ApiError> {
        let mut demand = Demand {
            context_tokens: asked.prompt_tokens.saturating_add(asked.max_tokens),
            abilities: asked.abilities,
            ..Demand::new(asked.model.clone())
        };
        let mut placement = Placement::new(asked.preferences.clone(), asked.dataset.clone());
        let is_lapsed = self.coordinator.is_lapsed(&caller.account);
        if is_lapsed {
            placement.own = Own::Only;
        }
        placement.apply(&mut demand, caller.account);
        // Who picks the nodes that may answer picks those that may read.
        let Demand { only, denied, dataset, owner_only, trust, .. } = &demand;
        let is_picky = !(only.is_empty() && denied.is_empty() && *trust == Trust::Any)
            || dataset.is_some()
            || owner_only.is_some();
        let readers = if is_picky { Readers::Named } else { Readers::Any };
        let difficulty = self.coordinator.classify(&Question::new(words), readers).await;
        let wanted = Wanted { models, difficulty, demand };
        let route = self.coordinator.route(&wanted, |model| caller.may_ask(model));
        let route = route.map_err(|error| match error {
            TaskError::NoNodeAble { .. } | TaskError::NodeOffline if is_lapsed => {
                TaskError::MembershipLapsed
            }
            error => error,
        })?;
        let routing = Routing::new(difficulty, &route);
        Ok(Chosen { model: route.model, routing })
    }
}

/// Refuses what looks like the name of a family of models, and is none.
pub(super) fn understood(unnamed: Result<Unnamed, FamilyError>) -> Result<Unnamed, ApiError> {
    unnamed.map_err(|error| {
        let message = format!("In 'iris/family:...', {error}.");
        ApiError::bad_request(message).with_param("model")
    })
}

impl Routing {
    /// Returns how long a task may take that was asked for at `since`: what its difficulty allows,
    /// and at most `most`. The time that it took to classify counts, too.
    pub(super) fn time_limit(self, most: Duration, since: Instant) -> Duration {
        match self.difficulty.map(Difficulty::time_limit) {
            Some(limit) => limit.min(most).saturating_sub(since.elapsed()),
            None => most,
        }
    }

    /// Tells how a request came to its model, if it named none.
    pub(super) fn describe(self, headers: &mut HeaderMap) {
        let Some(difficulty) = self.difficulty.map(Difficulty::name) else { return };
        let difficulty = HeaderValue::from_static(difficulty);
        headers.insert(HeaderName::from_static(rest::DIFFICULTY), difficulty);
        if self.tier_lowered {
            let lowered = HeaderValue::from_static("true");
            headers.insert(HeaderName::from_static(rest::TIER_LOWERED), lowered);
        }
    }
}
