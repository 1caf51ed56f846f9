use std::sync::Arc;

use iris_core::ModelName;
use iris_core::registry::{NodeProfile, NodeState};
use iris_core::reputation::Points;
use iris_core::standing::Standing;
use iris_core::tier::Tier;
use iris_protocol::limits::MAX_AWAY;

use super::Dispatch;
use crate::link::NodeLink;

/// What a roster is made of.
#[derive(Debug)]
pub(crate) struct Listing {
    /// The nodes that open sealed requests and take work, in the order of their ids.
    pub(crate) nodes: Vec<Listed>,
    /// Models that are known and that nobody offers now, in the order of their names.
    pub(crate) away: Vec<ModelName>,
}

/// One node of a [`Listing`].
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) profile: NodeProfile,
    pub(crate) link: Arc<NodeLink>,
    pub(crate) tier: Tier,
    pub(crate) in_use: u32,
    pub(crate) points: Points,
    pub(crate) standing: Standing,
}

impl Dispatch {
    /// Lists what a roster needs. Nothing is encoded here, under the lock that tasks wait for.
    pub(crate) fn listing(&self) -> Listing {
        let calendar = self.clock.calendar();
        let floor = self.floor();
        let nodes = floor.registry.iter().filter_map(|(seat, node)| {
            let link = floor.links.get(&seat).filter(|link| link.seals)?;
            (node.state() == NodeState::Ready).then(|| Listed {
                profile: node.profile().clone(),
                link: Arc::clone(link),
                tier: node.tiers().map(|(_, tier)| tier).max().unwrap_or_default(),
                in_use: node.in_use(),
                points: node.points(),
                standing: node.standing(),
            })
        });
        let nodes = nodes.collect();
        let offered = |name: &ModelName| floor.registry.offers(name);
        let away = floor.models.away(offered, MAX_AWAY, calendar);
        Listing { nodes, away }
    }
}
