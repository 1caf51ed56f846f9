use iris_core::ModelName;
use iris_core::demand::Difficulty;
use iris_core::routing::{NoRoute, Route, Unnamed, Wanted, route};
use iris_core::task::TaskError;
use iris_core::tier::Tier;
use serde::{Deserialize, Serialize};

use super::Dispatch;

/// How a task came to its model, where its caller named none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Routing {
    /// How hard it is; `None` where the caller named the model.
    pub difficulty: Option<Difficulty>,
    /// The lowest tier of the nodes that may serve it.
    pub min_tier: Tier,
    /// Whether that is lower than what the difficulty asks for, since no such node was there.
    pub tier_lowered: bool,
}

impl Routing {
    /// Says how a task of `difficulty` came to its model.
    pub const fn new(difficulty: Difficulty, route: &Route) -> Self {
        let Route { min_tier, lowered, .. } = route;
        Self { difficulty: Some(difficulty), min_tier: *min_tier, tier_lowered: *lowered }
    }

    /// Returns whether the caller named the model.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serialization passes it like this")]
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Dispatch {
    /// Chooses the model for a task whose caller names none, among those that it `may` ask.
    pub(crate) fn route(
        &self,
        wanted: &Wanted,
        may: impl Fn(&ModelName) -> bool,
    ) -> Result<Route, TaskError> {
        let floor = self.floor();
        route(&floor.registry, wanted, may).map_err(|error| {
            let model = wanted.models.to_string();
            match (error, &wanted.models) {
                (NoRoute::NotAble(why), _) => floor.nobody(&wanted.demand, &why),
                (NoRoute::NotOffered, Unnamed::Family(family))
                    if !floor.models.any(|known| family.has(known)) =>
                {
                    TaskError::ModelNotFound { model }
                }
                (NoRoute::NotOffered, _) => TaskError::NoNodeOnline { model },
            }
        })
    }
}
