use std::sync::Arc;

use iris_core::explain::Explanation;
use iris_core::registry::Seat;

use super::{Dispatch, Hold, Lease};

/// How many nodes are looked at for one that is free.
const LOOKED_AT: usize = 32;

/// The nodes that say how hard questions are.
#[derive(Debug, Default)]
pub(super) struct Judges(Vec<Seat>);

impl Judges {
    pub(super) fn join(&mut self, seat: Seat) {
        self.0.push(seat);
    }

    pub(super) fn leave(&mut self, seat: Seat) {
        if let Some(at) = self.0.iter().position(|known| *known == seat) {
            self.0.swap_remove(at);
        }
    }
}

impl Dispatch {
    /// Reserves a slot of a node that says how hard questions are, if one is free that nobody waits
    /// for.
    pub(crate) fn acquire_judge(self: &Arc<Self>) -> Option<Lease> {
        let now = self.clock.now();
        let seed = usize::try_from(self.seed() >> 32).unwrap_or_default();
        let mut floor = self.floor();
        if floor.draining {
            return None;
        }
        let judges = &floor.judges.0;
        let first = seed % judges.len().max(1);
        let in_turn = judges[first..].iter().chain(&judges[..first]).take(LOOKED_AT);
        let (seat, node, model) = in_turn.copied().find_map(|seat| {
            // Whose question it is, is not known here.
            let node = floor.registry.node(seat).filter(|node| node.is_free())?;
            node.profile().terms.callers.are_all().then_some(())?;
            let model = node.profile().models.first()?;
            Some((seat, node.profile().id, model.name.clone()))
        })?;
        let link = Arc::clone(floor.links.get(&seat)?);
        if !floor.registry.reserve(seat) {
            return None;
        }
        let hold = Hold { seat, model, since: now, accepted: false };
        Some(Lease::new(Arc::clone(self), hold, node, link, Explanation::default()))
    }
}
