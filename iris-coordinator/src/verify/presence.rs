//! Who is there to be checked, and whose word is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use iris_core::verify::{Auditor, Reference};
use iris_core::{AccountId, ModelName, NodeId, Timestamp};

use crate::dispatch::Offers;

/// How long a reference that is away is waited for, so that another owner confirms what one has
/// seen.
const WAITED_FOR: Duration = Duration::from_hours(24);
/// Most references of a model.
const MOST_REFERENCES: usize = 64;

/// What the auditor was told last.
#[derive(Debug, Default)]
pub(super) struct Presence {
    nodes: BTreeMap<NodeId, (AccountId, BTreeSet<ModelName>)>,
    references: BTreeMap<ModelName, BTreeMap<NodeId, (AccountId, Timestamp)>>,
}

impl Presence {
    /// Tells `auditor` what has changed; returns the nodes that were never there before, and whose
    /// they are.
    pub(super) fn see(
        &mut self,
        offers: &[Offers],
        auditor: &mut Auditor,
        now: Timestamp,
    ) -> Vec<(NodeId, AccountId)> {
        let mut new = Vec::new();
        let here: BTreeSet<_> = offers.iter().map(|offers| offers.node).collect();
        let gone: Vec<_> = self.nodes.keys().filter(|node| !here.contains(node)).copied().collect();
        for node in gone {
            auditor.handle_leave(&node, now);
            self.nodes.remove(&node);
        }
        for Offers { node, owner, models, .. } in offers {
            if auditor.record(node).is_none() && !self.nodes.contains_key(node) {
                new.push((*node, *owner));
            }
            let names: BTreeSet<_> = models.iter().map(|(name, _)| name.clone()).collect();
            let before = self.nodes.insert(*node, (*owner, names.clone()));
            let before = before.filter(|(before, _)| before == owner).map(|(_, names)| names);
            let before = before.unwrap_or_default();
            for model in names.difference(&before) {
                auditor.handle_offer(*node, *owner, model, now);
            }
            for model in before.difference(&names) {
                auditor.handle_withdrawn(node, model);
            }
        }
        self.see_references(offers, auditor, now);
        new
    }

    fn see_references(&mut self, offers: &[Offers], auditor: &mut Auditor, now: Timestamp) {
        for Offers { node, owner, is_trusted, models, .. } in offers {
            for (model, scores) in models {
                if *is_trusted && *scores {
                    let known = self.references.entry(model.clone()).or_default();
                    if known.len() < MOST_REFERENCES || known.contains_key(node) {
                        known.insert(*node, (*owner, now));
                    }
                } else if let Some(known) = self.references.get_mut(model) {
                    // It is here, and of no use any more.
                    known.remove(node);
                }
            }
        }
        self.references.retain(|model, known| {
            known.retain(|_, (_, seen)| now.saturating_since(*seen) < WAITED_FOR);
            let references = known.iter();
            let references =
                references.map(|(node, (owner, _))| Reference { node: *node, owner: *owner });
            auditor.set_references(model.clone(), references.collect());
            if known.is_empty() {
                tracing::warn!(
                    %model,
                    "no node that the operator trusts scores this model's answers any more: nobody is \
                     tested with it, and in two weeks nobody is paid for it"
                );
            }
            !known.is_empty()
        });
    }
}
