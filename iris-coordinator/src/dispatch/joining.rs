//! Nodes that come, change what they say of themselves, and leave.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use iris_core::model::ModelOffer;
use iris_core::registry::{NodeProfile, NodeState, Seat};
use iris_core::terms::Terms;
use iris_crypto::VerifiedCertificate;

use super::{Dispatch, Floor};
use crate::link::{NodeLink, within};

impl Dispatch {
    /// Lets a node join by the link that `link` makes for its place; returns the link of a
    /// session that it had before.
    pub(crate) fn join(
        self: &Arc<Self>,
        profile: NodeProfile,
        certificate: &Arc<VerifiedCertificate>,
        link: impl FnOnce(Seat) -> Arc<NodeLink>,
    ) -> (Arc<NodeLink>, Option<Arc<NodeLink>>) {
        let (now, calendar) = (self.clock.now(), self.clock.calendar());
        let points = self.points(&profile.id, calendar);
        let mut floor = self.floor();
        let displaced = floor.registry.seat(&profile.id);
        let before = displaced.and_then(|seat| floor.registry.node(seat));
        let before = before.map(|node| node.profile().models.clone()).unwrap_or_default();
        let displaced = displaced.and_then(|seat| floor.part(seat));
        let news = floor.models.see(&profile.models, calendar);
        floor.certificates.see(profile.id, certificate, now);
        let standing = floor.standings.of(&profile.id, calendar);
        let seat = floor.registry.join(profile, points);
        floor.registry.set_standing(seat, standing);
        if self.allowed(&floor, seat, NodeState::Ready) == NodeState::Draining {
            floor.registry.set_state(seat, NodeState::Draining);
        }
        floor.forget_lines(&before);
        let link = link(seat);
        floor.links.insert(seat, Arc::clone(&link));
        if link.classifies {
            floor.judges.join(seat);
        }
        self.note_change();
        self.serve_node(&mut floor, seat, now);
        drop(floor);
        self.record_models(&news);
        (link, displaced)
    }

    /// Replaces what a node offers.
    pub(crate) fn update(
        self: &Arc<Self>,
        seat: Seat,
        slots: Option<u32>,
        models: Option<Vec<ModelOffer>>,
    ) {
        let mut floor = self.floor();
        let Some(node) = floor.registry.node(seat) else { return };
        let slots_before = node.profile().slots;
        let slots = slots.unwrap_or(slots_before);
        let before = node.profile().models.clone();
        let continues = floor.links.get(&seat).is_some_and(|link| link.continues);
        let models = models.map(|models| within(continues, models));
        let models = models.unwrap_or_else(|| before.clone());
        let news = floor.models.see(&models, self.clock.calendar());
        if slots != slots_before || models != before {
            self.note_change();
        }
        floor.registry.update(seat, slots, models);
        floor.forget_lines(&before);
        self.serve_node(&mut floor, seat, self.clock.now());
        drop(floor);
        self.record_models(&news);
    }

    /// Takes in what a node's owner has settled about it.
    pub(crate) fn take_terms(self: &Arc<Self>, link: &NodeLink, terms: &Terms) {
        let mut floor = self.floor();
        // A session that was replaced does not speak for its node any more.
        if floor.registry.node(link.seat).is_none() {
            return;
        }
        floor.registry.set_terms(link.seat, terms.clone());
        self.note_change();
        self.serve_node(&mut floor, link.seat, self.clock.now());
        drop(floor);
        let now = self.clock.calendar();
        self.promises.declare(now, link.node, link.owner, terms.hours.as_deref());
    }

    /// Sets whether a node takes work.
    pub(crate) fn set_state(self: &Arc<Self>, seat: Seat, state: NodeState) {
        let mut floor = self.floor();
        let state = self.allowed(&floor, seat, state);
        floor.registry.set_state(seat, state);
        self.note_change();
        self.serve_node(&mut floor, seat, self.clock.now());
    }

    /// Removes a node.
    pub(crate) fn leave(&self, seat: Seat) {
        let calendar = self.clock.calendar();
        let mut floor = self.floor();
        let Some(node) = floor.registry.node(seat) else { return };
        let (id, offers) = (node.profile().id, node.profile().models.clone());
        floor.models.see(&offers, calendar);
        floor.registry.leave(seat);
        floor.certificates.leave(id);
        floor.part(seat);
        self.note_change();
        floor.forget_lines(&offers);
    }

    /// Replaces the certificate of a node's sealing key.
    pub(crate) fn certify(&self, link: &NodeLink, certificate: Arc<VerifiedCertificate>) {
        let now = self.clock.now();
        let mut floor = self.floor();
        // A session that was replaced does not speak for its node any more.
        if floor.registry.node(link.seat).is_some() {
            floor.certificates.see(link.node, &certificate, now);
        }
        drop(floor);
        link.set_certificate(certificate);
        self.note_change();
    }

    /// Counts the changes of nodes, their certificates and what they offer.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Counts a change that was made: who sees the count sees the change too.
    pub(super) fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }
}

impl Floor {
    /// Lets go of the link to a node.
    fn part(&mut self, seat: Seat) -> Option<Arc<NodeLink>> {
        let link = self.links.remove(&seat)?;
        if link.classifies {
            self.judges.leave(seat);
        }
        Some(link)
    }

    /// Forgets what is known of the lines for models of `offers` that nobody offers any more.
    fn forget_lines(&mut self, offers: &[ModelOffer]) {
        for offer in offers.iter().filter(|offer| !self.registry.offers(&offer.name)) {
            self.admission.forget(&offer.name);
        }
    }
}
