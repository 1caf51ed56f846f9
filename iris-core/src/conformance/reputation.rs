//! What every [`ReputationLedger`] must do.

use std::time::Duration;

use crate::id::NodeId;
use crate::reputation::{Deed, ReputationEvent, ReputationLedger, WEEK};
use crate::time::Timestamp;

/// Runs every check of this module on empty ledgers that `make` returns.
pub fn run_all<L: ReputationLedger>(make: impl Fn() -> L) {
    same_events_give_the_same_points(&make);
    reading_changes_nothing(&make);
    nodes_do_not_touch_each_other(&make);
    good_deeds_never_cost_and_bad_ones_never_pay(&make);
    clock_that_jumps_back_is_survived(&make);
    what_goes_on_from_a_state_is_as_if_it_had_never_stopped(&make);
}

/// Gives the same points and weights when it is rebuilt from the same events.
pub fn same_events_give_the_same_points<L: ReputationLedger>(make: &impl Fn() -> L) {
    let (mut one, mut other) = (make(), make());
    for event in history() {
        one.apply(&event);
    }
    for event in history() {
        other.apply(&event);
    }
    for node in [node(b'a'), node(b'b')] {
        for week in 0..60 {
            assert_eq!(one.points(&node, at(week)), other.points(&node, at(week)));
            assert_eq!(one.weight(&node, at(week)), other.weight(&node, at(week)));
        }
    }
}

/// Goes on from its own state at any place, where it has one, and begins with nothing without one.
pub fn what_goes_on_from_a_state_is_as_if_it_had_never_stopped<L: ReputationLedger>(
    make: &impl Fn() -> L,
) {
    let mut whole = make();
    history().for_each(|event| whole.apply(&event));
    for place in 0..history().count() {
        let mut first = make();
        history().take(place).for_each(|event| first.apply(&event));
        let Some(state) = first.state() else { return };
        let mut resumed = make().resumed(Some(&state)).expect("its own state is known to it");
        history().skip(place).for_each(|event| resumed.apply(&event));
        assert!(whole.resumed(None).is_some_and(|empty| empty.nodes().is_empty()));
        for node in [node(b'a'), node(b'b')] {
            assert_eq!(whole.points(&node, at(60)), resumed.points(&node, at(60)));
            assert_eq!(whole.weight(&node, at(60)), resumed.weight(&node, at(60)));
        }
    }
}

/// Does not depend on when, or how often, points are read.
pub fn reading_changes_nothing<L: ReputationLedger>(make: &impl Fn() -> L) {
    let (mut read, mut unread) = (make(), make());
    for event in history() {
        read.apply(&event);
        read.points(&node(b'a'), at(50));
        read.weight(&node(b'a'), event.at);
        unread.apply(&event);
    }
    assert_eq!(read.points(&node(b'a'), at(60)), unread.points(&node(b'a'), at(60)));
}

/// Keeps nodes apart.
pub fn nodes_do_not_touch_each_other<L: ReputationLedger>(make: &impl Fn() -> L) {
    let mut ledger = make();
    let before = ledger.points(&node(b'z'), at(0));
    for event in history() {
        ledger.apply(&event);
    }
    assert_eq!(ledger.points(&node(b'z'), at(0)), before);
}

/// Never takes points for a good deed, and never gives any for a bad one.
pub fn good_deeds_never_cost_and_bad_ones_never_pay<L: ReputationLedger>(make: &impl Fn() -> L) {
    for deed in DEEDS {
        let mut ledger = make();
        ledger.apply(&ReputationEvent { node: node(b'a'), deed: Deed::Completed, at: at(0) });
        let before = ledger.points(&node(b'a'), at(0));
        ledger.apply(&ReputationEvent { node: node(b'a'), deed, at: at(0) });
        let after = ledger.points(&node(b'a'), at(0));
        match deed {
            Deed::Completed | Deed::Fast | Deed::Uptime => assert!(after >= before, "{deed:?}"),
            Deed::Timeout | Deed::Invalid | Deed::BrokenPromise => {
                assert!(after <= before, "{deed:?}");
            }
        }
    }
}

/// Takes an event that is dated before the last one, or a year ahead, without losing its head.
pub fn clock_that_jumps_back_is_survived<L: ReputationLedger>(make: &impl Fn() -> L) {
    let (mut jumping, mut steady) = (make(), make());
    let event = |week| ReputationEvent { node: node(b'a'), deed: Deed::Completed, at: at(week) };
    for ledger in [&mut jumping, &mut steady] {
        ledger.apply(&event(10));
    }
    jumping.apply(&event(0));
    steady.apply(&event(10));
    assert_eq!(jumping.points(&node(b'a'), at(20)), steady.points(&node(b'a'), at(20)));
}

const DEEDS: [Deed; 6] =
    [Deed::Completed, Deed::Fast, Deed::Timeout, Deed::Invalid, Deed::Uptime, Deed::BrokenPromise];

fn history() -> impl Iterator<Item = ReputationEvent> {
    (0..200).map(|number| ReputationEvent {
        node: node(if number % 3 == 0 { b'b' } else { b'a' }),
        deed: DEEDS[number % DEEDS.len()],
        at: Timestamp::from_millis(0).saturating_add(Duration::from_secs(number as u64 * 100_000)),
    })
}

fn at(week: u32) -> Timestamp {
    Timestamp::from_millis(0).saturating_add(WEEK * week)
}

fn node(letter: u8) -> NodeId {
    String::from_utf8(vec![letter; 26])
        .ok()
        .and_then(|text| text.parse().ok())
        .expect("26 letters are a node id")
}
