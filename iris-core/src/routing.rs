//! Which model serves a request whose caller names none.
//!
//! A caller writes [`ANY`] in place of a model's name, or nothing, or names a family of models such
//! as `iris/family:llama-3`. The difficulty of what is asked then says which tier has to serve it,
//! and the nodes that are there say which model that is.

use std::fmt;

use crate::demand::{Demand, Difficulty};
use crate::explain::Explanation;
use crate::model::{ModelName, TokenRate};
use crate::registry::Registry;
use crate::tier::Tier;

/// What stands for any model in place of a name.
pub const ANY: &str = "iris/any";
/// What stands before the name of a family.
pub const FAMILY: &str = "iris/family:";

/// The most models that are looked at for one request: nodes may make names up, and whoever looks
/// at them holds up others.
const MOST_MODELS: usize = 4096;
/// The most names that are read for it.
const MOST_NAMES: usize = 16_384;
/// The most free nodes of one model whose speeds are looked at.
const MOST_NODES: usize = 8;
const TIERS: [Tier; 3] = [Tier::Basic, Tier::Mid, Tier::Pro];

/// What stands in a request where the name of a model could.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unnamed {
    /// Any model will do.
    Any,
    /// Any of a family.
    Family(Family),
}

impl Unnamed {
    /// Reads what stands in place of a model's name; `None` where that is the name of a model.
    ///
    /// Such names mean this and nothing else: a node that offers a model of such a name is never
    /// asked by it, or it could draw to itself what is meant for all.
    pub fn of_name(name: &str) -> Option<Result<Self, FamilyError>> {
        if name == ANY {
            return Some(Ok(Self::Any));
        }
        let family = name.strip_prefix(FAMILY)?;
        Some(Family::new(family).map(Self::Family))
    }

    /// Returns whether `model` is one of those that are meant.
    pub fn means(&self, model: &ModelName) -> bool {
        // Reserved names are no models.
        !model.as_str().starts_with("iris/")
            && match self {
                Self::Any => true,
                Self::Family(family) => family.has(model),
            }
    }
}

impl fmt::Display for Unnamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str(ANY),
            Self::Family(family) => write!(f, "{FAMILY}{}", family.name),
        }
    }
}

/// A family of models, such as `llama-3` or `qwen2.5`: those in whose names its words and numbers
/// stand one after the other, whatever separates them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    name: String,
    pieces: Vec<String>,
}

/// Says that a text names no family of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a family of models is named by 1 to 64 bytes with a letter or digit in them")]
pub struct FamilyError;

impl Family {
    /// The longest name, in bytes.
    const MAX_LEN: usize = 64;

    /// Takes `name` for that of a family.
    pub fn new(name: &str) -> Result<Self, FamilyError> {
        let pieces = pieces(name);
        let is_clean = !name.chars().any(crate::model::is_invisible);
        if name.len() > Self::MAX_LEN || pieces.is_empty() || !is_clean {
            return Err(FamilyError);
        }
        Ok(Self { name: name.to_owned(), pieces })
    }

    /// Returns whether `model` belongs to it.
    pub fn has(&self, model: &ModelName) -> bool {
        let all = pieces(model.as_str());
        all.windows(self.pieces.len()).any(|some| some == self.pieces)
    }
}

/// Cuts a name into its words and numbers, in small letters.
fn pieces(name: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    let mut last = None;
    for c in name.chars() {
        let kind = c.is_alphanumeric().then(|| c.is_numeric());
        if kind.is_some() && kind != last {
            pieces.push(String::new());
        }
        if let (Some(_), Some(piece)) = (kind, pieces.last_mut()) {
            piece.extend(c.to_lowercase());
        }
        last = kind;
    }
    pieces
}

/// What a caller wants who names no model.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Which models will do.
    pub models: Unnamed,
    /// How hard the question is.
    pub difficulty: Difficulty,
    /// What else is needed of the node; its model is that which is looked at, and its tier follows
    /// from the difficulty unless it asks for a higher one.
    pub demand: Demand,
}

/// Which model serves a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The model.
    pub model: ModelName,
    /// The lowest tier of the nodes that may serve it.
    pub min_tier: Tier,
    /// Whether that is lower than what the difficulty asks for, since no such node is there.
    pub lowered: bool,
}

/// Why no model serves a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// None that is meant is offered now.
    NotOffered,
    /// Some are offered, and none of their nodes can do what is needed, for these reasons.
    NotAble(Explanation),
}

/// Chooses a model among those that `may` be asked.
///
/// Models with a node of the difficulty's tier or a higher one come first, where those with a free
/// node, then those of the lowest such tier, so that strong nodes are left to hard questions; then
/// the fastest, and the one with more nodes free. Where no such node is there, the next lower tier
/// serves. Of very many models the first few thousand by name are looked at.
pub fn route(
    registry: &Registry,
    wanted: &Wanted,
    may: impl Fn(&ModelName) -> bool,
) -> Result<Route, NoRoute> {
    let needed = wanted.difficulty.tier().max(wanted.demand.min_tier);
    let mut refusals = Explanation::default();
    let mut best: Option<(Rank, &ModelName)> = None;
    let mut offered = false;
    let meant = registry.models().take(MOST_NAMES);
    let meant = meant.filter(|model| wanted.models.means(model) && may(model));
    for model in meant.take(MOST_MODELS) {
        offered = true;
        let demand = Demand { model: model.clone(), ..wanted.demand.clone() };
        let standing = Standing::of(registry, &demand, &mut refusals);
        let Some(rank) = standing.rank(needed) else { continue };
        // Of equals the first by name.
        if best.as_ref().is_none_or(|(known, _)| rank > *known) {
            best = Some((rank, model));
        }
    }
    match best {
        Some((rank, model)) => {
            let (model, lowered) = (model.clone(), !rank.is_adequate);
            let min_tier = if lowered { rank.tier() } else { needed };
            Ok(Route { model, min_tier, lowered })
        }
        None if offered => Err(NoRoute::NotAble(refusals)),
        None => Err(NoRoute::NotOffered),
    }
}

/// What the nodes of a model can do, tier by tier.
#[derive(Default)]
struct Standing {
    able: [bool; 3],
    free: [usize; 3],
    speed: [TokenRate; 3],
}

impl Standing {
    /// Looks at the nodes of the demanded model that can meet `demand`.
    fn of(registry: &Registry, demand: &Demand, refusals: &mut Explanation) -> Self {
        let mut standing = Self::default();
        for (place, tier) in TIERS.into_iter().enumerate() {
            let demand = Demand { min_tier: tier.max(demand.min_tier), ..demand.clone() };
            for group in registry.groups(&demand) {
                if let Some(reason) = group.refusal {
                    if place == 0 {
                        let nodes = u32::try_from(group.free()).unwrap_or(u32::MAX);
                        refusals.skip(reason, nodes.saturating_add(group.occupied()));
                    }
                    continue;
                }
                let free = group.free();
                standing.able[place] |= free > 0 || group.capacity() > 0;
                standing.free[place] += free;
                let nodes = (0..free.min(MOST_NODES)).map(|at| group.candidate(at));
                let fastest = nodes.filter_map(|node| node.speed).max().unwrap_or_default();
                standing.speed[place] = standing.speed[place].max(fastest);
            }
        }
        standing
    }

    /// Ranks the model by the best that it has for `needed`; `None` where no node can do it.
    ///
    /// The places count what a tier and those above have, so the tiers that a model really has are
    /// those at which the count changes.
    fn rank(&self, needed: Tier) -> Option<Rank> {
        let needed = needed as usize;
        let free_at = |place: usize| self.free[place] > self.free.get(place + 1).map_or(0, |f| *f);
        let has_free = (needed..TIERS.len()).find(|place| free_at(*place));
        if let Some(place) = has_free {
            return Some(Rank::new(true, true, place, self));
        }
        if self.able[needed] {
            let highest = (needed..TIERS.len()).rev().find(|place| self.able[*place]);
            return Some(Rank::new(true, false, highest.unwrap_or(needed), self));
        }
        let place = (0..needed).rev().find(|place| self.able[*place])?;
        Some(Rank::new(false, free_at(place), place, self))
    }
}

/// How well a model would serve; the greatest is best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_adequate: bool,
    /// Among those that are not adequate, the tier comes before everything else.
    lower_tier: usize,
    has_free: bool,
    /// Lower tiers are better among those that are adequate.
    modesty: usize,
    speed: TokenRate,
    free: usize,
}

impl Rank {
    const fn new(is_adequate: bool, has_free: bool, place: usize, of: &Standing) -> Self {
        Self {
            is_adequate,
            lower_tier: if is_adequate { 0 } else { place },
            has_free,
            modesty: TIERS.len() - place,
            speed: of.speed[place],
            free: of.free[place],
        }
    }

    const fn tier(&self) -> Tier {
        TIERS[TIERS.len() - self.modesty]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{AccountId, NodeId};
    use crate::model::{Abilities, ModelOffer};
    use crate::registry::{NodeProfile, NodeState};
    use crate::reputation::Points;

    struct Net(Registry);

    impl Net {
        fn new() -> Self {
            Self(Registry::default())
        }

        /// Lets a node join that offers one model of so many billion parameters and this speed.
        fn join(&mut self, model: &str, billions: u64, speed: u64) -> crate::registry::Seat {
            let mut offer = ModelOffer::new(model.parse().unwrap(), 4096);
            offer.parameters = Some(billions * 1_000_000_000);
            offer.speed = Some(TokenRate::per_second(speed));
            self.offer(offer)
        }

        fn offer(&mut self, offer: ModelOffer) -> crate::registry::Seat {
            let letter = char::from(b'a' + u8::try_from(self.0.len()).unwrap());
            let id: NodeId = letter.to_string().repeat(26).parse().unwrap();
            let profile = NodeProfile {
                id,
                owner: AccountId::from_bytes([1; 16]),
                name: String::new(),
                slots: 1,
                models: vec![offer],
                datasets: Vec::new(),
                memory_gb: None,
                terms: crate::terms::Terms::default(),
            };
            self.0.join(profile, Points::START)
        }

        fn route(&self, difficulty: Difficulty) -> Result<(String, bool), NoRoute> {
            self.route_to(ANY, difficulty, |_| true)
        }

        fn route_to(
            &self,
            name: &str,
            difficulty: Difficulty,
            may: impl Fn(&ModelName) -> bool,
        ) -> Result<(String, bool), NoRoute> {
            let models = Unnamed::of_name(name).unwrap().unwrap();
            let demand = Demand::new(ANY.parse().unwrap());
            let route = route(&self.0, &Wanted { models, difficulty, demand }, may)?;
            Ok((route.model.to_string(), route.lowered))
        }
    }

    fn to(model: &str, lowered: bool) -> (String, bool) {
        (model.to_owned(), lowered)
    }

    #[test]
    fn a_question_goes_to_the_lowest_tier_that_is_meant_for_it() {
        let mut net = Net::new();
        net.join("small", 3, 100);
        net.join("middle", 8, 20);
        net.join("large", 70, 25);
        assert_eq!(net.route(Difficulty::Simple), Ok(to("small", false)));
        assert_eq!(net.route(Difficulty::Complex), Ok(to("middle", false)));
        assert_eq!(net.route(Difficulty::Advanced), Ok(to("large", false)));
    }

    #[test]
    fn where_no_such_tier_is_there_the_next_lower_serves_and_it_is_said() {
        let mut net = Net::new();
        net.join("small", 3, 100);
        assert_eq!(net.route(Difficulty::Advanced), Ok(to("small", true)));
        let middle = net.join("middle", 8, 20);
        assert_eq!(net.route(Difficulty::Advanced), Ok(to("middle", true)));
        assert_eq!(net.route(Difficulty::Complex), Ok(to("middle", false)));
        net.0.set_state(middle, NodeState::Away);
        net.0.leave(middle);
        assert_eq!(net.route(Difficulty::Complex), Ok(to("small", true)));
    }

    #[test]
    fn a_free_node_of_a_higher_tier_is_better_than_waiting_and_waiting_than_a_lower_one() {
        let mut net = Net::new();
        net.join("small", 3, 100);
        let middle = net.join("middle", 8, 20);
        let large = net.join("large", 70, 25);
        assert!(net.0.reserve(middle));
        assert_eq!(net.route(Difficulty::Complex), Ok(to("large", false)));
        assert!(net.0.reserve(large));
        assert_eq!(net.route(Difficulty::Complex), Ok(to("middle", false)));
    }

    #[test]
    fn of_equal_tiers_the_faster_model_serves() {
        let mut net = Net::new();
        net.join("a", 8, 12);
        net.join("b", 8, 28);
        assert_eq!(net.route(Difficulty::Complex), Ok(to("b", false)));
    }

    #[test]
    fn a_model_is_only_asked_for_what_it_can_do_and_by_whom_it_may_be() {
        let mut net = Net::new();
        assert_eq!(net.route(Difficulty::Simple), Err(NoRoute::NotOffered));
        net.join("blind", 8, 20);
        let mut seeing = ModelOffer::new("seeing".parse().unwrap(), 4096);
        seeing.abilities = Abilities::VISION;
        net.offer(seeing);
        let wanted = |abilities, context_tokens| Wanted {
            models: Unnamed::Any,
            difficulty: Difficulty::Complex,
            demand: Demand { context_tokens, abilities, ..Demand::new(ANY.parse().unwrap()) },
        };
        let found = route(&net.0, &wanted(Abilities::VISION, 0), |_| true).unwrap();
        assert_eq!((found.model.as_str(), found.lowered), ("seeing", true));
        let none = route(&net.0, &wanted(Abilities::NONE, 100_000), |_| true);
        assert!(matches!(none, Err(NoRoute::NotAble(why)) if !why.skipped.is_empty()));
        let only = |model: &ModelName| model.as_str() == "seeing";
        assert_eq!(net.route_to(ANY, Difficulty::Complex, only), Ok(to("seeing", true)));
    }

    #[test]
    fn a_family_is_found_by_its_words_and_numbers() {
        let has =
            |family: &str, model: &str| Family::new(family).unwrap().has(&model.parse().unwrap());
        for model in ["meta-llama/Llama-3-8B-Instruct", "llama3:8b", "Llama-3.2-3B.gguf"] {
            assert!(has("llama-3", model), "{model}");
            assert!(has("LLAMA3", model), "{model}");
        }
        for model in ["codellama-3", "llama-2-7b", "llama-31", "3-llama", "mistral"] {
            assert!(!has("llama-3", model), "{model}");
        }
        assert!(has("qwen2.5", "Qwen/Qwen2.5-7B") && !has("qwen2.5", "qwen25-7b"));
        for bad in ["", "-", "a\n", &"x".repeat(65)] {
            assert_eq!(Family::new(bad), Err(FamilyError), "{bad:?}");
        }
    }

    #[test]
    fn a_node_cannot_draw_requests_to_itself_by_a_reserved_name() {
        let mut net = Net::new();
        net.join(ANY, 70, 100);
        net.join("iris/family:llama", 70, 100);
        assert_eq!(net.route(Difficulty::Simple), Err(NoRoute::NotOffered));
        assert_eq!(Unnamed::of_name("iris/consensus:m"), None);
        assert_eq!(Unnamed::of_name("m"), None);
        assert_eq!(Unnamed::of_name("iris/family:"), Some(Err(FamilyError)));
    }
}
