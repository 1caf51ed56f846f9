//! Which node a request is sealed to.

use std::sync::Arc;

use futures::channel::mpsc::UnboundedSender;
use iris_core::demand::Demand;
use iris_core::model::ModelOffer;
use iris_core::plan::Placed;
use iris_core::task::TaskError;
use iris_core::{ModelName, NodeId};
use iris_protocol::rest::FreeSlots;
use tokio::time::Instant;

use super::traffic::{Going, Traffic, Turn};
use super::{Listing, now, random};
use crate::client::Client;
use crate::error::ClientError;
use crate::policy::{Policy, Privacy};
use crate::trust::GuardCandidate;

/// What is asked of the node beyond what the request itself needs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choosing {
    /// The only nodes that may be asked; empty for any. For a data set they need be no guards.
    pub(crate) only: Vec<NodeId>,
    /// Nodes that come last, because they failed at it.
    pub(crate) exclude: Vec<NodeId>,
    /// Requests of the same group of the same traffic go to nodes of different owners.
    pub(crate) apart: Option<u32>,
    /// Asks other nodes than the guards, too, and spreads requests over all that are able.
    pub(crate) spread: bool,
    /// The requests that it belongs to.
    pub(crate) traffic: Arc<Traffic>,
    /// When the answer has to have begun; `None` for the client's timeout.
    pub(crate) deadline: Option<Instant>,
    /// Is told which node took it, and who can read it now; again, when another one did.
    pub(crate) taken: Option<UnboundedSender<(Placed, Privacy)>>,
}

/// What came of looking for a node.
pub(super) enum Choice {
    /// This one.
    Node(Turn, Privacy),
    /// All that may be asked are kept busy by requests of the same traffic.
    Full,
    /// All that may be asked were tried.
    Tried,
}

/// How close a node is to whoever asks. Closer ones come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trusted {
    Own,
    Guard,
    Stranger,
}

/// A node that may be asked.
struct Candidate {
    node: NodeId,
    owner: String,
    slots: u32,
    trusted: Trusted,
}

impl Client {
    /// Chooses a node that was not tried yet and takes a turn at it.
    pub(super) fn choose(
        &self,
        listing: &Listing,
        demand: &Demand,
        choosing: &Choosing,
        tried: &[NodeId],
    ) -> Result<Choice, ClientError> {
        let only_own = self.policy() == Policy::Own;
        let own = self.sealed().trust.own()?;
        let able = match listing.able(demand) {
            Err(_) if only_own => return Err(ClientError::NoOwnNode),
            able => able.map_err(ClientError::local)?,
        };
        let (mine, others): (Vec<_>, Vec<_>) =
            able.into_iter().partition(|candidate| own.contains(&candidate.node));
        let named = |c: &Candidate| choosing.only.is_empty() || choosing.only.contains(&c.node);
        let mine = mine.into_iter().map(|candidate| Candidate::new(candidate, Trusted::Own));
        // One's own that failed at it come after the guards, where these may be asked.
        let may_do = |own: &Candidate| only_own || !choosing.exclude.contains(&own.node);
        // Whoever was invited knows to which nodes, and names them.
        let others = others.into_iter().filter(|other| {
            let is_named = demand.only.contains(&other.node);
            !listing.is_private(&other.node) && (is_named || !listing.is_for_invited(&other.node))
        });
        let (mut allowed, failed): (Vec<_>, Vec<_>) = mine.filter(named).partition(may_do);
        if only_own && allowed.is_empty() {
            return Err(ClientError::NoOwnNode);
        }
        if only_own || !choosing.spread {
            let chosen = self.pick(&allowed, listing, demand, choosing, tried);
            if only_own || matches!(chosen, Ok(Choice::Node(..))) {
                return chosen;
            }
        }
        allowed.extend(failed);
        let guards = self.guards(listing, demand, &own)?;
        let others = others.map(|candidate| {
            let is_guard = guards.contains(&candidate.node);
            Candidate::new(candidate, if is_guard { Trusted::Guard } else { Trusted::Stranger })
        });
        // Data lies where it lies: who names the node that holds it wants that one to read, as
        // does whoever names nodes in the request.
        let holds_data = demand.dataset.is_some() && !choosing.only.is_empty();
        let is_chosen = holds_data || !demand.only.is_empty();
        let mut strangers = false;
        for candidate in others.filter(named) {
            if candidate.trusted == Trusted::Stranger && !choosing.spread && !is_chosen {
                strangers = true;
            } else {
                allowed.push(candidate);
            }
        }
        match (allowed.is_empty(), strangers) {
            (true, true) => Err(ClientError::BeyondGuards),
            (true, false) => Err(ClientError::local(TaskError::NodeOffline)),
            (false, _) => self.pick(&allowed, listing, demand, choosing, tried),
        }
    }

    /// Returns what the nodes that may be asked without spreading offer of `model`: one's own and
    /// where the policy allows it the guards.
    pub(crate) async fn offers(&self, model: &ModelName) -> Result<Vec<ModelOffer>, ClientError> {
        let listing = self.roster_now().await?;
        let demand = Demand::new(model.clone());
        let own = self.sealed().trust.own()?;
        let able = match listing.able(&demand) {
            Err(_) if self.policy() == Policy::Own => return Err(ClientError::NoOwnNode),
            able => able.map_err(ClientError::local)?,
        };
        let mine = able.into_iter().filter(|candidate| own.contains(&candidate.node));
        let mut nodes: Vec<_> = mine.map(|candidate| candidate.node).collect();
        match self.policy() {
            Policy::Own if nodes.is_empty() => return Err(ClientError::NoOwnNode),
            Policy::Own => {}
            Policy::Sealed | Policy::Open => nodes.extend(self.guards(&listing, &demand, &own)?),
        }
        let listed = nodes.iter().filter_map(|node| listing.node(node));
        let offers = listed.flat_map(|node| &node.models).filter(|offer| offer.name == *model);
        Ok(offers.cloned().collect())
    }

    fn pick(
        &self,
        allowed: &[Candidate],
        listing: &Listing,
        demand: &Demand,
        choosing: &Choosing,
        tried: &[NodeId],
    ) -> Result<Choice, ClientError> {
        let mut going = choosing.traffic.going();
        let is_free = |candidate: &&Candidate| {
            choosing.apart.is_none_or(|group| !going.claims(group, &candidate.owner))
        };
        let free: Vec<_> = allowed.iter().filter(is_free).collect();
        if free.is_empty() {
            let limited = !choosing.spread && self.policy() != Policy::Own;
            return Err(ClientError::TooFewOwners { limited });
        }
        let has_failed = |candidate: &&Candidate| choosing.exclude.contains(&candidate.node);
        let fresh: Vec<_> = free.iter().copied().filter(|c| !has_failed(c)).collect();
        let mut pool = if fresh.is_empty() { free } else { fresh };
        pool.retain(|candidate| !tried.contains(&candidate.node));
        let rank = |candidate: &Candidate| Rank::new(candidate, listing, choosing, &going);
        let Some(first) = pool.iter().map(|candidate| rank(candidate)).min() else {
            return Ok(Choice::Tried);
        };
        if first.is_full {
            return Ok(Choice::Full);
        }
        pool.retain(|candidate| rank(candidate) == first);
        let nodes: Vec<_> = pool.iter().map(|candidate| candidate.node).collect();
        let choice = self.sealed().scheduler.choose(
            &listing.some(&nodes),
            demand,
            Instant::now().into(),
            random(),
        );
        let chosen = choice.chosen.map(|chosen| chosen.node);
        let Some(chosen) = pool.into_iter().find(|candidate| Some(candidate.node) == chosen) else {
            return Ok(Choice::Tried);
        };
        let claim = choosing.apart.map(|group| (group, chosen.owner.clone()));
        let turn = choosing.traffic.take(&mut going, chosen.node, claim);
        let privacy = match chosen.trusted {
            Trusted::Own => Privacy::Own,
            Trusted::Guard | Trusted::Stranger => Privacy::Sealed,
        };
        Ok(Choice::Node(turn, privacy))
    }

    /// Returns the guards, whatever data set and nodes are asked for: whoever announces one of that
    /// name must not become a guard by it, and a single request must not choose who stays one.
    fn guards(
        &self,
        listing: &Listing,
        demand: &Demand,
        own: &[NodeId],
    ) -> Result<Vec<NodeId>, ClientError> {
        let Demand { model, context_tokens, abilities, .. } = demand.clone();
        let demand = Demand { context_tokens, abilities, ..Demand::new(model) };
        let mut others = listing.able(&demand).map_err(ClientError::local)?;
        others.retain(|candidate| {
            let is_open =
                !listing.is_private(&candidate.node) && !listing.is_for_invited(&candidate.node);
            !own.contains(&candidate.node) && is_open
        });
        let trust = &self.sealed().trust;
        Ok(trust.with(|trust| Ok(trust.guards(&demand.model, &others, now(), random)))?)
    }
}

impl Candidate {
    fn new(candidate: GuardCandidate, trusted: Trusted) -> Self {
        let GuardCandidate { node, owner, slots } = candidate;
        Self { node, owner, slots, trusted }
    }
}

/// In which order nodes come. The least comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_full: bool,
    /// Trust before everything else, unless requests are to be spread.
    first: u32,
    then: u32,
}

impl Rank {
    fn new(candidate: &Candidate, listing: &Listing, choosing: &Choosing, going: &Going) -> Self {
        let at_work = going.at(&candidate.node);
        let trusted = candidate.trusted as u32;
        let is_full = at_work >= candidate.slots.max(1);
        if choosing.spread {
            let busy = listing.node(&candidate.node).is_some_and(|n| n.free == FreeSlots::None);
            Self { is_full, first: at_work + u32::from(busy), then: trusted }
        } else {
            Self { is_full, first: trusted, then: at_work }
        }
    }
}
