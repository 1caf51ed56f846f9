//! How much a node works on at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The places for work on a node. Clones share them.
#[derive(Clone, Debug)]
pub struct Slots {
    total: Arc<AtomicU32>,
    taken: Arc<AtomicU32>,
}

impl Slots {
    /// Makes `total` free places.
    pub fn new(total: u32) -> Self {
        Self { total: Arc::new(AtomicU32::new(total)), taken: Arc::default() }
    }

    /// Returns how many places there are.
    pub fn total(&self) -> u32 {
        self.total.load(Ordering::Acquire)
    }

    /// Sets how many places there are. Those that are taken stay so, even where they are more.
    pub fn set_total(&self, total: u32) {
        self.total.store(total, Ordering::Release);
    }

    /// Returns how many are taken.
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Acquire)
    }

    /// Takes a place; `None` while all are taken.
    pub fn take(&self) -> Option<Slot> {
        let total = self.total();
        let one_more = |taken| (taken < total).then_some(taken + 1);
        self.taken.try_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        Some(Slot(Arc::clone(&self.taken)))
    }
}

/// A taken place; free again when dropped.
#[derive(Debug)]
pub struct Slot(Arc<AtomicU32>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_once_and_free_when_dropped() {
        let slots = Slots::new(2);
        let (first, second) = (slots.take().unwrap(), slots.take().unwrap());
        assert!(slots.take().is_none());
        drop(first);
        assert_eq!(slots.taken(), 1);
        let third = slots.take();
        assert!(third.is_some() && slots.take().is_none());
        drop((second, third));
        assert_eq!(slots.taken(), 0);
    }

    #[test]
    fn taken_places_outlive_a_smaller_total() {
        let slots = Slots::new(2);
        let held = (slots.take().unwrap(), slots.take().unwrap());
        slots.set_total(1);
        assert_eq!((slots.total(), slots.taken()), (1, 2));
        drop(held.0);
        assert!(slots.take().is_none());
        drop(held.1);
        assert!(slots.take().is_some() && slots.take().is_none());
    }

    #[test]
    fn a_node_without_places_takes_nothing() {
        assert!(Slots::new(0).take().is_none());
    }
}
