//! What schedulers compare of a node.

use super::node::{Node, NodeProfile};
use super::{Registry, Seat};
use crate::id::{AccountId, NodeId};
use crate::model::TokenRate;
use crate::standing::Chance;

/// A node that could take a demand, as a scheduler sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its place, to reserve it.
    pub seat: Seat,
    /// Its identity.
    pub node: NodeId,
    /// Its owner.
    pub owner: AccountId,
    /// Slots in use.
    pub in_use: u32,
    /// Slots altogether.
    pub slots: u32,
    /// Measured speed of one stream, if known.
    pub speed: Option<TokenRate>,
    /// How likely it completes a task.
    pub chance: Chance,
}

impl Registry {
    pub(super) fn candidate_in(&self, index: u32, speed: Option<TokenRate>) -> Candidate {
        let Traits { generation, node, owner, in_use, slots, chance } = self.traits[index as usize];
        let seat = Seat { index, generation };
        Candidate { seat, node, owner, in_use, slots, speed, chance }
    }
}

/// What schedulers compare of a node, copied into the length of one cache line: among a hundred
/// thousand nodes the time to choose is the time to fetch those that are compared from memory.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Traits {
    generation: u32,
    node: NodeId,
    owner: AccountId,
    in_use: u32,
    pub(super) slots: u32,
    chance: Chance,
}

impl Traits {
    pub(super) fn of(seat: Seat, node: &Node) -> Self {
        let NodeProfile { id, owner, slots, .. } = node.profile;
        let (generation, chance) = (seat.generation, node.chance);
        Self { generation, node: id, owner, in_use: node.in_use, slots, chance }
    }
}

const _: () = assert!(size_of::<Traits>() == 64, "a node's traits fill one cache line");
