use std::sync::Arc;

use iris_core::NodeId;
use iris_core::demand::Demand;

use super::Apart;

/// Which nodes a task may go to, beside what it needs of them. By default any.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// Only these; any where there are none.
    pub nodes: Vec<NodeId>,
    /// Never these.
    pub exclude: Vec<NodeId>,
    /// Only nodes that announce a data set of this name.
    pub dataset: Option<String>,
    /// Only nodes of other owners than those of the tasks that share this.
    pub apart: Option<Arc<Apart>>,
}

impl Placement {
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
