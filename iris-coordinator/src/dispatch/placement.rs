use std::sync::Arc;

use iris_core::demand::{Demand, Own, Trust};
use iris_core::tier::Tier;
use iris_core::{AccountId, NodeId};
use iris_protocol::openai::Preferences;

use super::{Apart, Conversation};
use crate::accounts::NOBODY;

/// Which nodes a task may go to, beside what it needs of them. By default any, the caller's own
/// first.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// Only these; any where there are none.
    pub nodes: Vec<NodeId>,
    /// Never these, since they are no use for it.
    pub exclude: Vec<NodeId>,
    /// Never these, since the caller does not want them.
    pub denied: Vec<NodeId>,
    /// What part the caller's own nodes have.
    pub own: Own,
    /// The lowest tier that will do.
    pub min_tier: Tier,
    /// How far the node has to be trusted.
    pub trust: Trust,
    /// Only nodes that announce a data set of this name.
    pub dataset: Option<String>,
    /// Only nodes of other owners than those of the tasks that share this.
    pub apart: Option<Arc<Apart>>,
    /// The conversation that it goes on with: a node that has read its beginning comes first.
    pub conversation: Option<Conversation>,
}

impl Placement {
    /// Makes what a caller asks for beside the question.
    pub fn new(preferences: Preferences, dataset: Option<String>) -> Self {
        let Preferences { own, tier, trust, allow, deny } = preferences;
        Self { nodes: allow, denied: deny, own, min_tier: tier, trust, dataset, ..Self::default() }
    }

    /// Returns whether its caller leaves it to the coordinator who reads it.
    pub(crate) fn is_anybodys(&self) -> bool {
        let is_named = !self.nodes.is_empty() || !self.denied.is_empty() || self.dataset.is_some();
        !is_named && self.own != Own::Only && self.trust == Trust::Any && self.apart.is_none()
    }

    /// Adds to the demand of a task of `account` what does not change while it runs.
    pub(crate) fn apply(&self, demand: &mut Demand, account: AccountId) {
        demand.asker = (account != NOBODY).then_some(account);
        demand.min_tier = self.min_tier;
        demand.only.clone_from(&self.nodes);
        demand.denied.clone_from(&self.denied);
        demand.trust = self.trust;
        demand.dataset.clone_from(&self.dataset);
        (demand.own_first, demand.owner_only) = match self.own {
            Own::First => (Some(account), None),
            Own::Only => (None, Some(account)),
            Own::Any => (None, None),
        };
    }

    /// Adds to `demand` what it asks for, where the nodes of `tried` are to be left out, too.
    pub(super) fn restrict(&self, demand: &mut Demand, tried: &[NodeId]) {
        demand.exclude.clear();
        demand.exclude.extend_from_slice(tried);
        for node in &self.exclude {
            if !demand.exclude.contains(node) {
                demand.exclude.push(*node);
            }
        }
    }
}
