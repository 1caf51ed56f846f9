use iris_core::AssignmentId;
use iris_protocol::connection::{CoordinatorEvent, SendError};

use crate::pair::{Pair, body, chunk, result, task};

const ID: AssignmentId = AssignmentId(1);

/// Lets a node stream `length` chunks through a window of `window` and cuts the connection
/// before the `cut_at`th frame arrives; returns the numbers of the chunks that the coordinator
/// saw and how often it saw the end.
fn streamed_across_a_cut(length: u32, window: u32, cut_at: usize) -> (Vec<u32>, usize) {
    let mut pair = Pair::with_window(window);
    pair.start(1);
    let (mut sent, mut ended) = (0, false);
    let (mut seen, mut results) = (Vec::new(), 0);
    let mut heard = 0;
    let mut rounds = 0;
    while results == 0 {
        rounds += 1;
        assert!(rounds < 1000, "the stream stalled after {seen:?}");
        while sent < length && pair.node.stream(chunk(1, sent)).is_ok() {
            sent += 1;
        }
        if sent == length && !ended {
            pair.node.finish(result(1, length)).unwrap();
            ended = true;
        }
        if heard == cut_at {
            let (lost, dropped) = pair.cut();
            assert!(lost.is_empty() && dropped.is_empty(), "{lost:?} {dropped:?}");
        }
        heard += 1;
        match pair.coordinator_hears() {
            Some(CoordinatorEvent::Stream(data)) => {
                seen.push(data.header.seq);
                pair.coordinator.consumed(ID, 1, data.wire_len());
            }
            Some(CoordinatorEvent::Result(_)) => results += 1,
            Some(other) => panic!("{other:?}"),
            None => {}
        }
        pair.node_hears();
    }
    pair.cut();
    assert!(pair.node.is_idle(), "an acknowledged or forgotten end leaves nothing behind");
    (seen, results)
}

#[test]
fn a_cut_at_any_frame_loses_and_doubles_nothing() {
    for window in [1, 2, 3, 8, 64] {
        for cut_at in 0..24 {
            let (seen, results) = streamed_across_a_cut(20, window, cut_at);
            let case = format!("window {window}, cut at {cut_at}");
            assert_eq!(seen, (0..20).collect::<Vec<_>>(), "{case}");
            assert_eq!(results, 1, "{case}");
        }
    }
}

#[test]
fn answers_wait_for_the_node_to_come_back() {
    let mut pair = Pair::with_window(4);
    pair.start(1);
    let _ = pair.node.disconnect();
    for seq in 0..4 {
        pair.node.stream(chunk(1, seq)).unwrap();
    }
    assert!(!pair.node.has_room(ID));
    assert_eq!(pair.node.stream(chunk(1, 4)), Err(SendError::Full));
    pair.cut();
    assert_eq!(pair.settle().len(), 4);
}

#[test]
fn what_the_coordinator_gave_up_meanwhile_is_dropped_by_the_node() {
    let mut pair = Pair::new();
    pair.start(1);
    pair.coordinator.cancel(ID);
    // The cancellation is lost with the connection.
    let (lost, dropped) = pair.cut();
    assert_eq!((lost, dropped), (vec![ID], vec![ID]));
    assert!(pair.node.is_idle());
}

#[test]
fn an_offer_that_was_not_answered_is_lost_on_both_sides() {
    let mut pair = Pair::new();
    pair.coordinator.assign(task(1), body(1)).unwrap();
    pair.settle();
    pair.node.accept(ID).unwrap();
    // The acceptance is lost with the connection.
    assert_eq!(pair.cut(), (vec![ID], vec![ID]));

    pair.coordinator.assign(task(2), body(2)).unwrap();
    pair.transmit();
    assert_eq!(pair.cut(), (vec![AssignmentId(2)], vec![]));
}

#[test]
fn a_prompt_cut_short_is_not_resumed_even_if_it_was_accepted() {
    let mut pair = Pair::new();
    pair.coordinator.assign(task(1), body(1)).unwrap();
    pair.node_hears();
    pair.node.accept(ID).unwrap();
    assert_eq!(pair.coordinator_hears(), Some(CoordinatorEvent::Accepted(ID)));
    assert_eq!(pair.cut(), (vec![ID], vec![ID]));
}

#[test]
fn a_new_session_drops_everything_of_the_old_one() {
    let mut pair = Pair::new();
    pair.start(1);
    assert_eq!(pair.restart_coordinator(), [ID]);
    // Its ids start again.
    pair.start(1);
}

#[test]
fn the_window_counts_what_the_coordinator_still_holds_across_a_cut() {
    let mut pair = Pair::with_window(4);
    pair.start(1);
    for seq in 0..4 {
        pair.node.stream(chunk(1, seq)).unwrap();
    }
    assert_eq!(pair.settle().len(), 4);
    pair.cut();
    pair.settle();
    assert!(!pair.node.has_room(ID), "nothing was consumed");
    pair.coordinator.consumed(ID, 4, 4 * 21);
    pair.settle();
    assert!(pair.node.has_room(ID));
}
