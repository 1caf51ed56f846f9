//! Why a node has the work that it has, and what would bring it more.

use iris_core::demand::Trust;
use iris_core::registry::{Node, NodeState, Registry};
use iris_core::standing::Standing;
use iris_core::terms::Callers;
use iris_core::tier::Tier;
use iris_core::verify::Lapse;
use iris_core::{ModelName, NodeId};
use iris_protocol::rest::{Hindrance, HoldKind, NodeHold, NodeWhy, ReasonCount, WantedModel};

use super::Dispatch;

/// How many models are named that are wanted.
const WANTED: usize = 10;
/// Expected success in thousandths, less than which is worth a word.
const LOW: u16 = 700;
/// Evidence for and against a node, less than which leaves it a newcomer, in thousandths of a task.
const NEWCOMER: u64 = 10_000;

impl Dispatch {
    /// Says why a node has the work that it has; `None` where it is not connected.
    pub(crate) fn why(&self, id: &NodeId) -> Option<NodeWhy> {
        let promise = self.promises.of(id);
        let floor = self.floor();
        let node = floor.registry.node(floor.registry.seat(id)?)?;
        let profile = node.profile();
        let mut why = NodeWhy {
            id: *id,
            name: (!profile.name.is_empty()).then(|| profile.name.clone()),
            slots: profile.slots,
            running: node.in_use(),
            points: Some(node.points().value()),
            standing: Some(node.standing().mean()),
            promise,
            hindrances: hindrances(node, &floor.registry, self.holds.of(id)),
            recent: Vec::new(),
            wanted: Vec::new(),
        };
        let wanted = floor.wanted.most(WANTED).into_iter();
        let wanted = wanted.map(|(model, requests)| WantedModel { model, requests });
        why.wanted = wanted.filter(|wanted| !floor.registry.offers(&wanted.model)).collect();
        drop(floor);
        let recent = self.explained().of_node(id).into_iter();
        why.recent = recent
            .map(|(reason, count)| ReasonCount {
                reason,
                text: reason.sentence().to_owned(),
                count: count.into(),
            })
            .collect();
        Some(why)
    }

    /// Returns the models that a connected node offers.
    pub(crate) fn models_of(&self, id: &NodeId) -> Vec<ModelName> {
        let floor = self.floor();
        let node = floor.registry.seat(id).and_then(|seat| floor.registry.node(seat));
        let offers = node.iter().flat_map(|node| &node.profile().models);
        offers.map(|offer| offer.name.clone()).collect()
    }

    /// Says of a node why its work with a model is not paid any more.
    pub(crate) fn why_unpaid(model: &ModelName, lapse: Lapse) -> Hindrance {
        match lapse {
            Lapse::Unanswered => hindrance(
                "tests_unanswered",
                &format!(
                    "It has left many tests in a row unanswered that it was sent as requests for \
                     {model}: its work with it is not paid, and its standing suffers."
                ),
                "See its log: it may refuse or fail some requests, be too slow, or have a bad line. \
                 The first test that it passes ends this.",
            ),
            Lapse::Stale => hindrance(
                "tests_stale",
                &format!(
                    "It has passed no test with {model} for two weeks: its work with it is not paid."
                ),
                "Tests come by themselves where a node of somebody else is here that the operator \
                 trusts, offers the model and scores answers; ask the operator for one. The first \
                 test that it passes ends this.",
            ),
        }
    }

    /// Says of a node that is known and not connected why it has no work.
    pub(crate) fn why_away(&self, id: NodeId) -> NodeWhy {
        let not_connected = hindrance(
            "not_connected",
            "It is not connected.",
            "Start iris-node on its machine; its log tells why it cannot connect.",
        );
        NodeWhy {
            id,
            name: None,
            slots: 0,
            running: 0,
            points: None,
            standing: None,
            promise: None,
            hindrances: self.holds.of(&id).map(held).into_iter().chain([not_connected]).collect(),
            recent: Vec::new(),
            wanted: Vec::new(),
        }
    }
}

/// Returns what keeps a node from work, the most important first.
fn hindrances(node: &Node, registry: &Registry, hold: Option<NodeHold>) -> Vec<Hindrance> {
    let is_held = hold.is_some();
    let mut found: Vec<_> = hold.map(held).into_iter().collect();
    let mut add = |code, text: &str, remedy: &str| found.push(hindrance(code, text, remedy));
    match node.state() {
        NodeState::Ready => {}
        NodeState::Draining if is_held => {}
        NodeState::Draining => add(
            "draining",
            "It finishes what it has and takes nothing new.",
            "It was told to stop; start it again when it is to work.",
        ),
        NodeState::Away => add(
            "away",
            "Its connection is interrupted.",
            "It comes back by itself within seconds, unless its network or its machine is down.",
        ),
    }
    let profile = node.profile();
    if profile.models.is_empty() {
        add(
            "no_models",
            "It offers no model.",
            "Load a model in its model server; the node finds it by itself.",
        );
    }
    if let Some(rest) = profile.terms.rest {
        add(rest.name(), rest.sentence(), rest.remedy());
    } else if profile.slots == 0 {
        add("paused", "It is paused: it has no slots.", "Give it a slot or more.");
    } else if node.in_use() >= profile.slots {
        add(
            "no_free_slot",
            "All its slots are taken.",
            "It is at work. If its machine can do more at a time, give it more slots.",
        );
    }
    match profile.terms.callers {
        Callers::Own => add(
            "own_only",
            "Its owner lets it answer nobody else.",
            "`callers` in its settings says who may ask: members, or the public.",
        ),
        Callers::Invited => add(
            "invited_only",
            "Its owner lets it answer those alone whom it has invited.",
            "`iris-node invite` adds somebody; `callers` in its settings says who else may ask.",
        ),
        Callers::Members => add(
            "members_only",
            "Its owner lets it answer members alone.",
            "`callers` in its settings says who may ask: also the public, who have no account.",
        ),
        _ => {}
    }
    standing(node.standing(), &mut add);
    if registry.trust(node) == Trust::Any {
        add(
            "unproven",
            "It is not proven yet, so requests that ask for proven nodes pass it over.",
            "It is proven by fifty tasks within some weeks, nine of ten of them completed.",
        );
    }
    models(node, registry, &mut add);
    found
}

/// Says what an operator has decided about a node.
fn held(hold: NodeHold) -> Hindrance {
    let (code, text) = match hold.hold {
        HoldKind::Drain => {
            ("held", "The operator lets it finish what it has and gives it nothing new.")
        }
        HoldKind::Block => ("blocked", "The operator does not let it in."),
    };
    let remedy = match hold.reason {
        Some(reason) => format!("Ask the operator, whose reason is: {reason}"),
        None => "Ask the operator, who gave no reason.".to_owned(),
    };
    hindrance(code, text, &remedy)
}

/// Keeps an operator's reason from those who do not own the node.
#[cfg(feature = "http")]
pub(crate) fn hide_reason(why: &mut NodeWhy) {
    for hindrance in &mut why.hindrances {
        if ["held", "blocked"].contains(&hindrance.code.as_str()) {
            "Its owner can read why.".clone_into(&mut hindrance.remedy);
        }
    }
}

fn standing(standing: Standing, add: &mut impl FnMut(&'static str, &str, &str)) {
    let mean = standing.mean();
    if standing.good.saturating_add(standing.bad) < NEWCOMER {
        add(
            "new",
            "Little is known of it yet, so it gets less work than those that are known to be good.",
            "Leave it connected: it gets more with each answer.",
        );
    } else if mean < LOW {
        add(
            "low_standing",
            &format!(
                "It failed or refused of late: of 1000 tasks {mean} are expected to end well."
            ),
            "See its log for what went wrong. Old failures lose half of their weight in two weeks.",
        );
    }
}

fn models(node: &Node, registry: &Registry, add: &mut impl FnMut(&'static str, &str, &str)) {
    let offers = &node.profile().models;
    let names = |mut chosen: Vec<&str>| {
        let more = chosen.len().saturating_sub(3);
        chosen.truncate(3);
        let names = chosen.join(", ");
        if more > 0 { format!("{names} and {more} more") } else { names }
    };
    let unmeasured = offers.iter().filter(|offer| offer.speed.is_none());
    let unmeasured: Vec<_> = unmeasured.map(|offer| offer.name.as_str()).collect();
    if !unmeasured.is_empty() {
        add(
            "unmeasured",
            &format!(
                "Its speed was not measured with {}, which counts as BASIC.",
                names(unmeasured)
            ),
            "Let the node measure: start it without --no-measure and leave it idle for a minute.",
        );
    }
    let unknown = offers.iter().filter(|offer| offer.parameters.is_none());
    let unknown: Vec<_> = unknown.map(|offer| offer.name.as_str()).collect();
    if !unknown.is_empty() {
        add(
            "size_unknown",
            &format!("It does not say how large {} is, which counts as BASIC.", names(unknown)),
            "Use a model server that tells the number of parameters, or a name that holds it.",
        );
    }
    if !offers.is_empty() && node.tiers().all(|(_, tier)| tier == Tier::Basic) {
        add(
            "tier_basic",
            "It counts as BASIC with all its models, which leaves it simple tasks where callers \
             name no model.",
            "A model of 7 billion parameters or more, at 10 tokens per second or more, counts as \
             MID.",
        );
    }
    let is_beyond = |name: &&str| {
        let model = name.parse();
        model.is_ok_and(|m| registry.beyond_share(&m).contains(&node.profile().owner))
    };
    let beyond: Vec<_> = offers.iter().map(|o| o.name.as_str()).filter(is_beyond).collect();
    if !beyond.is_empty() {
        let text =
            format!("Its owner has more than a fair share of the work for {}.", names(beyond));
        add("owner_share", &text, "Offer a model that fewer others offer.");
    }
}

fn hindrance(code: &str, text: &str, remedy: &str) -> Hindrance {
    Hindrance { code: code.to_owned(), text: text.to_owned(), remedy: remedy.to_owned() }
}
