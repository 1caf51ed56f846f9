//! Keeps every node listed under the models it offers, in the bucket where it belongs.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::access::Access;
use super::bucket::{Bucket, BucketKey, Listed, count_off};
use super::candidate::Traits;
use super::node::{Node, Place};
use super::{Registry, Seat, SeatState};
use crate::demand::Demand;
use crate::explain::Reason;
use crate::id::AccountId;
use crate::model::ModelName;
use crate::traffic::Traffic;

#[derive(Debug, Default)]
pub(super) struct ModelIndex {
    buckets: BTreeMap<BucketKey, Bucket>,
    /// How many of the nodes that offer the model belong to whom.
    pub(super) owners: BTreeMap<AccountId, u32>,
    /// How many of them their owners have closed.
    closed: u32,
    pub(super) traffic: Traffic,
}

impl ModelIndex {
    pub(super) fn members(&self) -> u32 {
        self.closed.saturating_add(self.open().map(|(_, bucket)| bucket.members).sum())
    }

    /// Iterates over the nodes that their owners have not closed.
    fn open(&self) -> impl Iterator<Item = (&BucketKey, &Bucket)> {
        self.buckets.iter().take_while(|(key, _)| !key.access.is_closed())
    }

    /// Iterates over the nodes of one access.
    fn of(&self, access: Access) -> impl Iterator<Item = (&BucketKey, &Bucket)> {
        let from = self.buckets.range(BucketKey::first_of(access)..);
        from.take_while(move |(key, _)| key.access == access)
    }

    /// Sorts the nodes by why they do not meet `demand`. Those that others alone may ask are
    /// counted, however many owners keep theirs to themselves.
    pub(super) fn judged<'a>(
        &'a self,
        demand: &'a Demand,
    ) -> impl Iterator<Item = (Option<Reason>, Cow<'a, Bucket>)> {
        let own = || Access::closed_for(demand).flat_map(|access| self.of(access));
        let members: u32 = own().map(|(_, bucket)| bucket.members).sum();
        let members = self.closed.saturating_sub(members);
        let others = Bucket { members, ..Bucket::default() };
        let others = (members > 0).then_some((Some(Reason::NotForCaller), Cow::Owned(others)));
        let known = self.open().chain(own());
        known.map(|(key, bucket)| (key.judge(demand), Cow::Borrowed(bucket))).chain(others)
    }
}

impl Registry {
    /// Applies `change` to a node and keeps the lists of free nodes true.
    pub(super) fn change(&mut self, seat: Seat, change: impl FnOnce(&mut Node)) {
        let Some(node) = self.node_mut(seat) else {
            return;
        };
        let (was_free, capacity) = (node.is_free(), node.capacity());
        change(node);
        let (is_free, traits, new) = (node.is_free(), Traits::of(seat, node), node.capacity());
        self.traits[seat.index as usize] = traits;
        if new != capacity {
            self.count(seat.index, |sum| sum - u64::from(capacity) + u64::from(new));
        }
        match (was_free, is_free) {
            (false, true) => self.list(seat.index),
            (true, false) => self.unlist(seat.index),
            _ => {}
        }
    }

    /// Changes the capacity of the buckets of all that a node offers.
    fn count(&mut self, index: u32, change: impl Fn(u64) -> u64) {
        let Self { seats, by_model, .. } = self;
        let node = seats[index as usize].node.as_ref().expect("the seat is taken");
        for (offer, place) in node.profile.models.iter().zip(&node.places) {
            let bucket = bucket_of(by_model, &offer.name, place.bucket);
            bucket.capacity = change(bucket.capacity);
        }
    }

    pub(super) fn index_offers(&mut self, index: u32) {
        let node = self.seats[index as usize].node.as_ref().expect("the seat is taken");
        let trust = self.trust(node);
        let node = self.seats[index as usize].node.as_mut().expect("the seat is taken");
        let bucket = |offer| BucketKey::of(&self.policy, trust, &node.profile, offer);
        let place = |offer| Place { bucket: bucket(offer), position: None };
        node.places = node.profile.models.iter().map(place).collect();
        for (offer, place) in node.profile.models.iter().zip(&node.places) {
            let model = self.by_model.entry(offer.name.clone()).or_default();
            model.buckets.entry(place.bucket).or_default().enter(node);
            *model.owners.entry(node.profile.owner).or_default() += 1;
            model.closed += u32::from(place.bucket.access.is_closed());
        }
        if node.is_free() {
            self.list(index);
        }
    }

    pub(super) fn unindex_offers(&mut self, index: u32) {
        self.unlist(index);
        let Self { seats, by_model, .. } = self;
        let node = seats[index as usize].node.as_mut().expect("the seat is taken");
        let places = std::mem::take(&mut node.places);
        for (offer, place) in node.profile.models.iter().zip(places) {
            let model = by_model.get_mut(&offer.name).expect("an offered model is indexed");
            let bucket = model.buckets.get_mut(&place.bucket).expect("an offer has a bucket");
            bucket.leave(node);
            count_off(&mut model.owners, &node.profile.owner);
            model.closed -= u32::from(place.bucket.access.is_closed());
            if bucket.members == 0 {
                model.buckets.remove(&place.bucket);
            }
            if model.buckets.is_empty() {
                by_model.remove(&offer.name);
            }
        }
    }

    /// Enters a node into the free list of every model it offers.
    fn list(&mut self, index: u32) {
        let Self { seats, by_model, .. } = self;
        let node = seats[index as usize].node.as_mut().expect("the seat is taken");
        let offers = node.profile.models.iter().zip(&mut node.places);
        for (number, (offer, place)) in (0..).zip(offers) {
            let bucket = bucket_of(by_model, &offer.name, place.bucket);
            place.position = Some(bucket.free.len());
            bucket.free.push(Listed { seat: index, offer: number, speed: offer.speed });
        }
    }

    /// Strikes a node off the free list of every model it offers.
    fn unlist(&mut self, index: u32) {
        let Self { seats, by_model, .. } = self;
        let places = |seats: &[SeatState]| {
            seats[index as usize].node.as_ref().map_or(0, |node| node.places.len())
        };
        for offer in 0..places(seats) {
            let node = seats[index as usize].node.as_mut().expect("the seat is taken");
            let Some(position) = node.places[offer].position.take() else {
                continue;
            };
            let key = node.places[offer].bucket;
            let bucket = bucket_of(by_model, &node.profile.models[offer].name, key);
            bucket.free.swap_remove(position);
            if let Some(&moved) = bucket.free.get(position) {
                let node = seats[moved.seat as usize].node.as_mut();
                node.expect("a listed seat is taken").places[moved.offer as usize].position =
                    Some(position);
            }
        }
    }
}

fn bucket_of<'a>(
    by_model: &'a mut BTreeMap<ModelName, ModelIndex>,
    model: &ModelName,
    key: BucketKey,
) -> &'a mut Bucket {
    let index = by_model.get_mut(model).expect("an offered model is indexed");
    index.buckets.get_mut(&key).expect("an offer has a bucket")
}
