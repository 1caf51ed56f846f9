//! What a caller wants done.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use iris_core::backend::{Begun, Operation};
use iris_core::demand::Demand;
use iris_core::model::Abilities;
use iris_core::queue::Priority;
use iris_core::{AccountId, ModelName, TaskId};
use iris_crypto::seal::SealedRequest;
use iris_protocol::rest::KeyId;

use crate::dispatch::{Placement, Routing};

/// What a caller wants done.
#[derive(Clone)]
pub struct TaskRequest {
    /// Names the task; random.
    pub id: TaskId,
    /// Who asks.
    pub account: AccountId,
    /// The key it asks with, by its [`meter`](crate::ApiKey::meter): whose quota the tokens count
    /// against.
    pub key: Option<KeyId>,
    /// What the body is.
    pub operation: Operation,
    /// The model to run; the same as the body's.
    pub model: ModelName,
    /// The caller's JSON, unchanged.
    pub body: Bytes,
    /// Whether chunks are wanted as they come.
    pub stream: bool,
    /// Estimated length of the prompt, in tokens.
    pub prompt_tokens: u32,
    /// The longest answer asked for, in tokens; 0 where the caller names none.
    pub max_tokens: u32,
    /// What the model's server must be able to do.
    pub abilities: Abilities,
    /// How long the whole task may take.
    pub time_limit: Duration,
    /// How soon it is served when nodes are busy.
    pub priority: Priority,
    /// Which nodes it may go to.
    pub placement: Placement,
    /// How it came to its model, where the caller named none.
    pub routing: Routing,
}

impl TaskRequest {
    /// Makes a chat of one message by the user, for somebody who waits and reads along, under a
    /// new id. It may take ten minutes.
    pub fn chat(account: AccountId, model: ModelName, message: &str) -> Self {
        let body = serde_json::json!({
            "model": model.as_str(),
            "messages": [{ "role": "user", "content": message }],
            "stream": true,
        });
        Self {
            id: TaskId::from_bytes(iris_crypto::random_bytes()),
            account,
            key: None,
            operation: Operation::Chat,
            model,
            body: body.to_string().into(),
            stream: true,
            // English has four bytes to a token, about.
            prompt_tokens: u32::try_from(message.len() / 4 + 1).unwrap_or(u32::MAX),
            max_tokens: 0,
            abilities: Abilities::default(),
            time_limit: Duration::from_mins(10),
            priority: Priority::Interactive,
            placement: Placement::default(),
            routing: Routing::default(),
        }
    }

    /// Returns what a node has to have, for the answer from its start or from where it stands.
    pub(super) fn demand(&self, begun: Option<&Begun>, is_lapsed: bool) -> Demand {
        let (written, more) =
            begun.map_or((0, Abilities::NONE), |begun| (begun.tokens, Abilities::CONTINUE));
        let answer = self.max_tokens.max(written);
        let mut demand = Demand {
            context_tokens: self.prompt_tokens.saturating_add(answer),
            abilities: self.abilities.union(more),
            ..Demand::new(self.model.clone())
        };
        self.placement.apply(&mut demand, self.account);
        demand.min_tier = demand.min_tier.max(self.routing.min_tier);
        if is_lapsed {
            (demand.own_first, demand.owner_only) = (None, Some(self.account));
        }
        demand
    }
}

impl fmt::Debug for TaskRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskRequest")
            .field("id", &self.id)
            .field("operation", &self.operation)
            .field("model", &self.model)
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

/// What a caller wants done that only one node can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedTask {
    /// Names the task here; random. Its caller's own name for it is in the request.
    pub id: TaskId,
    /// Who asks.
    pub account: AccountId,
    /// The key it asks with, by its [`meter`](crate::ApiKey::meter): whose quota the tokens count
    /// against.
    pub key: Option<KeyId>,
    /// What is asked, of which node and under which terms.
    pub request: SealedRequest,
    /// How long the whole task may take; the request may allow less.
    pub time_limit: Duration,
}
