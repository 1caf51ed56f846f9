use futures::TryStreamExt;
use iris_core::ModelName;
use iris_core::model::ModelOffer;
use iris_core::plan::{Capacity, Chat, Division, Plan, divide};
use iris_core::task::TaskError;

use crate::client::Client;
use crate::error::ClientError;
use crate::policy::Policy;

impl Client {
    /// Makes a plan of a question: how `division` says, and in pieces that fit the nodes that may
    /// be asked.
    ///
    /// Nothing of the question leaves this program; the nodes' sizes are in the roster, or for open
    /// chats in the coordinator's list of nodes.
    pub async fn divide(&self, chat: Chat, division: &Division) -> Result<Plan, ClientError> {
        let capacity = self.capacity(&chat.model).await?;
        Ok(divide(chat, division, capacity)?)
    }

    /// Returns what all nodes that may be asked for `model` can do.
    async fn capacity(&self, model: &ModelName) -> Result<Capacity, ClientError> {
        let offers = if self.policy() == Policy::Open {
            let nodes: Vec<_> = self.network().nodes().try_collect().await?;
            nodes.into_iter().flat_map(|node| node.models).filter(|m| m.name == *model).collect()
        } else {
            self.offers(model).await?
        };
        let all = |known: Option<Capacity>, offer: &ModelOffer| {
            let context_tokens = known.map_or(u32::MAX, |known| known.context_tokens);
            let abilities = known.map_or(offer.abilities, |known| {
                known.abilities.without(known.abilities.without(offer.abilities))
            });
            Some(Capacity { context_tokens: context_tokens.min(offer.context_length), abilities })
        };
        offers
            .iter()
            .fold(None, all)
            .ok_or_else(|| ClientError::local(TaskError::NoNodeOnline { model: model.to_string() }))
    }
}
