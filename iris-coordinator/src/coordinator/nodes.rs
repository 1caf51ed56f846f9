//! What is known and said of nodes, and what an operator does with them.

use iris_core::registry::Node;
use iris_core::store::StoreError;
use iris_core::verify::Stage;
use iris_core::{AccountId, ModelName, NodeId};
use iris_protocol::rest;

use super::Coordinator;
use crate::dispatch::Dispatch;
use crate::holds::HoldError;
use crate::link::{self, NodeLink};
use crate::ranking::Rank;

impl Coordinator {
    /// Returns how far a node has come in showing that it runs a model that it offers.
    pub fn stage(&self, node: &NodeId, model: &ModelName) -> Stage {
        let verification = self.inner.cases.verification();
        verification.map_or(Stage::Probation, |verification| verification.stage(node, model))
    }

    /// Returns the connected nodes, in the order of their ids.
    pub fn nodes(&self) -> Vec<rest::NodeSummary> {
        self.inner.dispatch.nodes(summarise)
    }

    /// Returns at most `limit` connected nodes, in the order of their ids, beginning after `after`.
    pub fn nodes_after(&self, after: Option<&NodeId>, limit: usize) -> Vec<rest::NodeSummary> {
        self.inner.dispatch.nodes_after(after, limit, summarise)
    }

    /// Returns at most `limit` nodes of the ranking by points, beginning after `after`. It is made
    /// anew every ten seconds.
    pub async fn ranking(&self, after: Option<&Rank>, limit: usize) -> rest::ReputationPage {
        self.inner.ranking.page(&self.inner.dispatch, after, limit).await
    }

    /// Returns the reputation of a node that is connected, in points.
    pub fn points_of(&self, node: &NodeId) -> Option<i64> {
        self.inner.dispatch.points_of(node)
    }

    /// Returns at most `limit` nodes of `account`, connected or not, in the order of their ids,
    /// beginning after `after`.
    pub fn nodes_of(
        &self,
        account: &AccountId,
        after: Option<&NodeId>,
        limit: usize,
    ) -> Vec<rest::OwnNode> {
        let dispatch = &self.inner.dispatch;
        let nodes = self.inner.door.owned().of(account, after, limit).into_iter();
        nodes
            .map(|(id, first_seen)| {
                let (points, standing) = dispatch.record_of(&id);
                rest::OwnNode {
                    first_seen: first_seen.as_secs(),
                    points: points.value(),
                    standing: standing.mean(),
                    node: dispatch.show_node(&id, summarise),
                    why: self.why_here(&id).unwrap_or_else(|| self.why_away(id)),
                }
            })
            .collect()
    }

    /// Returns whether a node is an account's, connected or not.
    pub fn owns(&self, account: &AccountId, node: &NodeId) -> bool {
        self.inner.door.owned().has(account, node)
    }

    /// Says why a node has the work that it has and what would bring it more; `None` where it
    /// never was part of the network.
    pub async fn why(&self, node: &NodeId) -> Result<Option<rest::NodeWhy>, StoreError> {
        if let Some(why) = self.why_here(node) {
            return Ok(Some(why));
        }
        let known = link::is_known(&*self.inner.store, node).await?;
        Ok(known.then(|| self.why_away(*node)))
    }

    /// Says of a connected node why it has the work that it has, and what of that is not paid.
    fn why_here(&self, node: &NodeId) -> Option<rest::NodeWhy> {
        let mut why = self.inner.dispatch.why(node)?;
        why.hindrances.extend(self.probation(node));
        let lapses = self.inner.cases.verification().filter(|verification| verification.checks());
        let lapses = lapses.map_or(Vec::new(), |verification| verification.lapses(node));
        let offered = self.inner.dispatch.models_of(node);
        let lapses = lapses.iter().filter(|(model, _)| offered.contains(model));
        let unpaid = lapses.map(|(model, lapse)| Dispatch::why_unpaid(model, *lapse));
        why.hindrances.extend(unpaid);
        Some(why)
    }

    fn why_away(&self, node: NodeId) -> rest::NodeWhy {
        let promise = self.inner.dispatch.promises.of(&node);
        rest::NodeWhy { promise, ..self.inner.dispatch.why_away(node) }
    }

    /// Says of a node that is not paid yet that it is not; `None` where nothing is verified.
    fn probation(&self, node: &NodeId) -> Option<rest::Hindrance> {
        self.inner.cases.checks().then_some(())?;
        let models = self.inner.dispatch.models_of(node);
        let is_paid = |model: &ModelName| self.stage(node, model).is_paid();
        (!models.iter().any(is_paid)).then(|| rest::Hindrance {
            code: "probation".to_owned(),
            text: "It is on probation: what it does is not paid yet.".to_owned(),
            remedy: "Probation with a model ends once it has passed fifty tests with it in seven \
                     days, which come by themselves where a trusted node offers one of its models."
                .to_owned(),
        })
    }

    /// Holds a node, until it is released: a drained one finishes what it has and gets nothing new,
    /// a blocked one is sent away at once and not let in. Its owner reads why.
    pub async fn hold(
        &self,
        node: NodeId,
        request: rest::HoldRequest,
    ) -> Result<rest::NodeHold, HoldError> {
        if !link::is_known(&*self.inner.store, &node).await? {
            return Err(HoldError::NoNode);
        }
        let dispatch = &self.inner.dispatch;
        let hold = dispatch.holds.hold(node, request, dispatch.clock.calendar()).await?;
        dispatch.carry_out_hold(&node);
        Ok(hold)
    }

    /// Lets a node work that was held; returns whether it was. A blocked one comes back when its
    /// owner starts it.
    pub async fn release(&self, node: &NodeId) -> Result<bool, HoldError> {
        let dispatch = &self.inner.dispatch;
        let released = dispatch.holds.release(node).await?;
        dispatch.carry_out_hold(node);
        Ok(released)
    }

    /// Returns the nodes that are held, in the order of their ids.
    pub fn holds(&self) -> Vec<rest::NodeHold> {
        self.inner.dispatch.holds.all()
    }
}

fn summarise(node: &Node, link: Option<&NodeLink>) -> rest::NodeSummary {
    let profile = node.profile();
    let tier = node.tiers().map(|(_, tier)| tier).max().unwrap_or_default();
    rest::NodeSummary {
        id: profile.id,
        name: (!profile.name.is_empty()).then(|| profile.name.clone()),
        tier: tier.to_string(),
        points: node.points().value(),
        standing: node.standing().mean(),
        models: profile.models.clone(),
        datasets: profile.datasets.clone(),
        slots: profile.slots,
        running: node.in_use(),
        hours: profile.terms.hours.as_deref().cloned(),
        callers: profile.terms.callers,
        connected: link.map_or(0, |link| link.connected.as_secs()),
        version: link.map(|link| link.agent_version.clone()).unwrap_or_default(),
    }
}
