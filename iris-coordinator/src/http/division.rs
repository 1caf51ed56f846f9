//! How a question becomes the plan that a caller asks for.

use iris_core::ModelName;
use iris_core::backend::Operation;
use iris_core::demand::Own;
use iris_core::model::Abilities;
use iris_core::plan::{Capacity, Chat, Division, Mode, Plan, divide};
use iris_protocol::openai::{Asked, PREFERENCES};
use serde_json::{Map, Value};

use super::Api;
use super::error::ApiError;

/// The tokens that a node takes, while none is there to tell.
const CONTEXT_TOKENS: u32 = 4096;

impl Api {
    /// Divides a chat request, given as its members, of `model`.
    pub(super) fn divided(
        &self,
        model: ModelName,
        mut chat: Map<String, Value>,
        asked: &Asked,
        division: &Division,
    ) -> Result<Plan, ApiError> {
        refuse_what_cannot_be_divided(&chat, asked)?;
        chat.remove(PREFERENCES);
        let capacity = self.capacity(&model);
        let chat = Chat {
            max_tokens: (asked.max_tokens > 0).then_some(asked.max_tokens),
            abilities: asked.abilities,
            ..Chat::from_request(model, chat)?
        };
        let plan = divide(chat, division, capacity)?;
        if plan.mode == Mode::Consensus && asked.preferences.own == Own::Only {
            let message =
                "A consensus is one of nodes of different owners: 'own' cannot be 'only'.";
            return Err(wrong(PREFERENCES, message));
        }
        Ok(plan)
    }

    /// Returns what all nodes that offer `model` can do.
    fn capacity(&self, model: &ModelName) -> Capacity {
        let nodes = self.coordinator.nodes();
        let offers = nodes.iter().flat_map(|node| &node.models).filter(|o| o.name == *model);
        let shared = |a: Abilities, b: Abilities| a.without(a.without(b));
        let common = offers
            .map(|offer| (offer.context_length, offer.abilities))
            .reduce(|(least, all), (length, own)| (least.min(length), shared(all, own)));
        let (context_tokens, abilities) = common.unwrap_or((CONTEXT_TOKENS, Abilities::NONE));
        Capacity { context_tokens, abilities }
    }
}

/// Reads the members of a body that say how it is to be divided; names the one at fault.
pub(super) fn division(chat: &mut Map<String, Value>) -> Result<Division, ApiError> {
    let mut members = Map::new();
    for name in Division::MEMBERS {
        let Some(value) = chat.remove(name).filter(|value| !value.is_null()) else { continue };
        let alone = Map::from_iter([(name.to_owned(), value.clone())]);
        if let Err(error) = serde_json::from_value::<Division>(alone.into()) {
            return Err(wrong(name, format!("'{name}' cannot be read: {error}.")));
        }
        members.insert(name.to_owned(), value);
    }
    serde_json::from_value(members.into())
        .map_err(|_| ApiError::bad_request("The members that divide the task cannot be read."))
}

/// Reads what a chat request asks for.
pub(super) fn asked(chat: &Map<String, Value>) -> Result<Asked, ApiError> {
    let body = serde_json::to_vec(chat).map_err(|_| ApiError::internal())?;
    Ok(Asked::read(Operation::Chat, &body)?)
}

fn refuse_what_cannot_be_divided(chat: &Map<String, Value>, asked: &Asked) -> Result<(), ApiError> {
    if chat.get("n").is_some_and(|n| !n.is_null() && *n != 1) {
        return Err(wrong("n", "A divided task has one answer: 'n' must be 1."));
    }
    if asked.abilities.contains(Abilities::TOOLS) {
        return Err(wrong("tools", "A divided task cannot call tools."));
    }
    if asked.abilities.contains(Abilities::LOGPROBS) {
        return Err(wrong("logprobs", "A divided task has no logprobs."));
    }
    if asked.abilities.contains(Abilities::SCORE) {
        return Err(wrong("prompt_logprobs", "A divided task scores no prompt."));
    }
    Ok(())
}

fn wrong(param: &'static str, message: impl Into<std::borrow::Cow<'static, str>>) -> ApiError {
    ApiError::bad_request(message).with_param(param)
}
