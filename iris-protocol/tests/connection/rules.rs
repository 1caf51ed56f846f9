use std::time::Duration;

use iris_core::AssignmentId;
use iris_core::backend::BackendError;
use iris_core::demand::Difficulty;
use iris_protocol::connection::{
    AssignError, CoordinatorConnection, CoordinatorEvent, NodeConnection, NodeEvent, SendError,
    Violation,
};
use iris_protocol::frame::{Acks, Content, Frame, Header, Utf8};
use iris_protocol::message::{
    About, BegunSize, ClassifyAssign, ClassifyResult, CoordinatorMessage, Empty, ErrorCode,
    NodeHeartbeat, NodeMessage, RefuseReason, Rekey, TaskError, TaskRefuse,
};

use crate::pair::{
    KEY, Pair, SIGNATURE, body, challenge, chunk, data, record, register, result, task,
};

const ID: AssignmentId = AssignmentId(1);
const ABOUT: About = About { assignment: ID };

fn accept() -> Frame {
    NodeMessage::TaskAccept(ABOUT).encode()
}

fn heartbeat() -> Frame {
    NodeMessage::NodeHeartbeat(NodeHeartbeat::default()).encode()
}

/// Sends frames to a coordinator that has offered task 1, and returns what the last one did.
fn to_coordinator(frames: impl IntoIterator<Item = Frame>) -> Result<(), Violation> {
    let mut pair = Pair::new();
    pair.coordinator.assign(task(1), body(1)).unwrap();
    let mut last = Ok(());
    for frame in frames {
        last.clone().expect("only the last frame breaks a rule");
        last = pair.coordinator.handle_frame(pair.now, frame).map(|_| ());
    }
    last
}

/// Sends frames to a node that has been offered task 1, without its prompt.
fn to_node(frames: impl IntoIterator<Item = Frame>) -> Result<(), Violation> {
    let mut pair = Pair::new();
    pair.coordinator.assign(task(1), []).unwrap();
    pair.settle();
    let mut last = Ok(());
    for frame in frames {
        last.clone().expect("only the last frame breaks a rule");
        last = pair.node.handle_frame(pair.now, frame).map(|_| ());
    }
    last
}

#[test]
fn a_coordinator_refuses_frames_out_of_order() {
    let stream = |seq| Frame::Binary(chunk(1, seq));
    let ended = || NodeMessage::TaskResult(result(1, 0)).encode();
    let order = |what| Err(Violation::AssignmentOrder { assignment: ID, what });
    let unknown = Err(Violation::UnknownAssignment(ID));
    let sequence = |expected, got| Err(Violation::Sequence { assignment: ID, expected, got });
    let refuse = || {
        let reason = RefuseReason::Busy;
        NodeMessage::TaskRefuse(TaskRefuse { assignment: ID, reason }).encode()
    };
    let piece =
        |seq, content, more| Frame::Binary(data(Header::stream(ID, seq, content, more), b"piece"));

    assert_eq!(to_coordinator([stream(0)]), order("STREAM"));
    assert_eq!(to_coordinator([accept(), accept()]), order("TASK_ACCEPT"));
    assert_eq!(to_coordinator([accept(), refuse()]), order("TASK_REFUSE"));
    assert_eq!(to_coordinator([refuse(), accept()]), unknown);
    assert_eq!(to_coordinator([ended()]), order("TASK_RESULT"));
    assert_eq!(to_coordinator([accept(), stream(1)]), sequence(0, 1));
    assert_eq!(to_coordinator([accept(), stream(0), stream(0)]), sequence(1, 0));
    assert_eq!(to_coordinator([accept(), stream(0), ended()]), sequence(1, 0));
    assert_eq!(to_coordinator([accept(), ended(), stream(0)]), unknown);
    assert_eq!(to_coordinator([accept(), ended(), ended()]), unknown);
    assert_eq!(
        to_coordinator([accept(), NodeMessage::TaskCancelled(ABOUT).encode()]),
        order("TASK_CANCELLED")
    );
    assert_eq!(to_coordinator([NodeMessage::TaskProgress(ABOUT).encode()]), order("TASK_PROGRESS"));
    assert_eq!(
        to_coordinator([accept(), piece(0, Content::Json, true), piece(1, Content::Text, false)]),
        order("STREAM")
    );
    let unfinished = NodeMessage::TaskResult(result(1, 1)).encode();
    assert_eq!(
        to_coordinator([accept(), piece(0, Content::Json, true), unfinished]),
        order("TASK_RESULT")
    );
    let classified = ClassifyResult { assignment: ID, difficulty: Difficulty::Simple };
    assert_eq!(
        to_coordinator([NodeMessage::ClassifyResult(classified).encode()]),
        order("CLASSIFY_RESULT")
    );
    let other = Frame::Binary(chunk(2, 0));
    assert_eq!(to_coordinator([other]), Err(Violation::UnknownAssignment(AssignmentId(2))));
}

#[test]
fn a_failed_answer_may_stop_in_the_middle_of_a_piece() {
    let piece = Frame::Binary(data(Header::stream(ID, 0, Content::Json, true), b"{"));
    let failed = NodeMessage::TaskError(TaskError::new(ID, 1, BackendError::Failed)).encode();
    assert_eq!(to_coordinator([accept(), piece, failed]), Ok(()));
}

#[test]
fn frames_of_the_other_side_are_refused() {
    let [part, _] = body(1);
    let ack = Acks::encode(&mut [(ID, 0)].into_iter()).unwrap();
    assert_eq!(to_coordinator([ack]), Err(Violation::WrongSide));
    assert_eq!(to_coordinator([Frame::Binary(part)]), Err(Violation::WrongSide));
    assert_eq!(to_node([Frame::Binary(chunk(1, 0))]), Err(Violation::WrongSide));
    // Its messages are merely unknown.
    assert_eq!(to_node([heartbeat()]), Ok(()));
}

#[test]
fn sealed_assignments_are_answered_sealed_and_no_others() {
    let start = |sealed| {
        let mut pair = Pair::new();
        if sealed {
            pair.start_sealed(1);
        } else {
            pair.start(1);
        }
        pair
    };
    for (sealed, right, wrong) in
        [(true, record(1, 0), chunk(1, 0)), (false, chunk(1, 0), record(1, 0))]
    {
        let mut pair = start(sealed);
        assert_eq!(pair.node.stream(wrong.clone()), Err(SendError::OutOfOrder));
        assert_eq!(pair.node.stream(right), Ok(()));
        assert!(matches!(pair.settle()[..], [CoordinatorEvent::Stream(_)]));
        let heard = start(sealed).coordinator.handle_frame(pair.now, Frame::Binary(wrong.clone()));
        assert_eq!(heard, Err(Violation::Sealing(ID)));
        // Nor may it once the assignment was taken back.
        let mut pair = start(sealed);
        pair.coordinator.cancel(ID);
        let heard = pair.coordinator.handle_frame(pair.now, Frame::Binary(wrong));
        assert_eq!(heard, Err(Violation::Sealing(ID)));
    }
}

#[test]
fn a_sealed_answer_goes_on_where_its_socket_broke() {
    let mut pair = Pair::new();
    pair.start_sealed(1);
    pair.node.stream(record(1, 0)).unwrap();
    assert_eq!(pair.cut(), (Vec::new(), Vec::new()));
    let receipt = iris_protocol::text::Blob::try_from(vec![9; 512]).unwrap();
    let end = result(1, 1).with_receipt(receipt);
    pair.node.finish(end.clone()).unwrap();
    let heard = pair.settle();
    assert!(
        matches!(&heard[..], [CoordinatorEvent::Stream(_), CoordinatorEvent::Result(heard)] if *heard == end)
    );
}

#[test]
fn registration_is_first_and_once() {
    let again = NodeMessage::NodeRegister(Box::new(register())).encode();
    let out_of_order = Err(Violation::OutOfOrder("NODE_REGISTER"));
    assert_eq!(to_coordinator([again.clone()]), out_of_order);

    let now = Pair::new().now;
    let limits = iris_protocol::limits::Limits::default();
    let mut early = CoordinatorConnection::new(now, limits, challenge());
    assert_eq!(early.handle_frame(now, heartbeat()), Err(Violation::OutOfOrder("NODE_HEARTBEAT")));
    assert_eq!(early.assign(task(1), []), Err(AssignError::NotRegistered));
    let mut twice = CoordinatorConnection::new(now, limits, challenge());
    assert!(matches!(
        twice.handle_frame(now, again.clone()),
        Ok(Some(CoordinatorEvent::Register(_)))
    ));
    assert_eq!(twice.handle_frame(now, again).map(|_| ()), out_of_order);
    let mut other = CoordinatorConnection::new(now, limits, challenge());
    let mut future = register();
    future.version = iris_protocol::version::Version(2);
    assert_eq!(
        other.handle_frame(now, NodeMessage::NodeRegister(Box::new(future)).encode()),
        Err(Violation::Version)
    );
}

#[test]
fn a_peer_has_five_seconds_to_register_and_35_to_be_heard_again() {
    let pair = Pair::new();
    let (now, limits) = (pair.now, pair.limits);
    let second = Duration::from_secs(1);
    let mut slow = CoordinatorConnection::new(now, limits, challenge());
    assert_eq!(slow.poll_timeout(), Some(now + 5 * second));
    assert_eq!(slow.handle_timeout(now + 4 * second), Ok(()));
    assert_eq!(slow.handle_timeout(now + 5 * second), Err(Violation::RegistrationTimeout));
    let mut node = NodeConnection::new(now, limits);
    node.connect(now);
    assert_eq!(node.handle_timeout(now + 5 * second), Err(Violation::RegistrationTimeout));

    let Pair { mut node, mut coordinator, .. } = pair;
    coordinator.handle_frame(now + 30 * second, heartbeat()).unwrap();
    assert_eq!(coordinator.poll_timeout(), Some(now + 65 * second));
    assert_eq!(coordinator.handle_timeout(now + 64 * second), Ok(()));
    assert_eq!(coordinator.handle_timeout(now + 65 * second), Err(Violation::Silent));
    assert_eq!(node.poll_timeout(), Some(now + 10 * second));
    let due = node.handle_timeout(now + 10 * second);
    assert_eq!(due, Ok(Some(NodeEvent::HeartbeatDue)));
    assert_eq!(node.poll_timeout(), Some(now + 20 * second));
    assert_eq!(node.handle_timeout(now + 35 * second), Err(Violation::Silent));
}

#[test]
fn a_node_that_ignores_the_window_is_caught_even_after_a_cancellation() {
    let flood = |pair: &mut Pair| {
        (0..9)
            .map(|seq| pair.coordinator.handle_frame(pair.now, Frame::Binary(chunk(1, seq))))
            .find_map(Result::err)
    };
    let mut pair = Pair::new();
    pair.start(1);
    assert_eq!(flood(&mut pair), Some(Violation::WindowOverrun(ID)));
    let mut pair = Pair::new();
    pair.start(1);
    pair.coordinator.cancel(ID);
    assert_eq!(flood(&mut pair), Some(Violation::WindowOverrun(ID)));
}

#[test]
fn the_window_closes_by_bytes_too() {
    let mut pair = Pair::new();
    pair.start(1);
    let big = vec![0; 600 << 10];
    let frame = |seq| {
        let mut bytes = Header::stream(ID, seq, Content::Text, false).encode().to_vec();
        bytes.extend(&big);
        bytes::Bytes::from(bytes)
    };
    assert_eq!(pair.node.stream(frame(0)), Ok(()));
    assert_eq!(pair.node.stream(frame(1)), Ok(()));
    assert_eq!(pair.node.stream(frame(2)), Err(SendError::Full));
    pair.settle();
    let overrun = pair.coordinator.handle_frame(pair.now, Frame::Binary(frame(2)));
    assert_eq!(overrun, Err(Violation::WindowOverrun(ID)));
}

#[test]
fn messages_that_nothing_called_for_are_bounded() {
    let mut pair = Pair::new();
    let unknown = || Frame::Text(Utf8::from(r#"{"type":"LATER"}"#.to_owned()));
    for _ in 0..64 {
        assert_eq!(pair.coordinator.handle_frame(pair.now, unknown()), Ok(None));
        assert_eq!(pair.node.handle_frame(pair.now, unknown()), Ok(None));
    }
    assert_eq!(pair.coordinator.handle_frame(pair.now, heartbeat()), Err(Violation::Flood));
    assert_eq!(pair.node.handle_frame(pair.now, unknown()), Err(Violation::Flood));
    pair.advance(Duration::from_secs(10));
    assert!(pair.coordinator.handle_frame(pair.now, heartbeat()).is_ok());
}

#[test]
fn a_node_refuses_a_coordinator_that_breaks_the_rules() {
    let part = |seq, last, payload| Frame::Binary(data(Header::body(ID, seq, last), payload));
    let length = Err(Violation::Length(ID));
    assert_eq!(to_node([part(0, true, b"prompt")]), Ok(()));
    assert_eq!(to_node([part(0, true, b"short")]), length);
    assert_eq!(to_node([part(0, false, b"prompt")]), length);
    assert_eq!(to_node([part(0, true, b"too long")]), length);
    assert_eq!(
        to_node([part(1, true, b"prompt")]),
        Err(Violation::Sequence { assignment: ID, expected: 0, got: 1 })
    );
    assert_eq!(
        to_node([part(0, true, b"prompt"), part(1, true, b"")]),
        Err(Violation::AssignmentOrder { assignment: ID, what: "BODY" })
    );
    let offered = |task| CoordinatorMessage::TaskAssign(task).encode();
    assert_eq!(
        to_node([offered(task(1))]),
        Err(Violation::AssignmentOrder { assignment: ID, what: "TASK_ASSIGN" })
    );
    let empty = iris_protocol::message::TaskAssign { body_bytes: 0, ..task(2) };
    assert_eq!(to_node([offered(empty)]), Err(Violation::Length(AssignmentId(2))));
    for bytes in [0, 6] {
        let begun = Some(BegunSize { bytes, tokens: 1 });
        let begun = iris_protocol::message::TaskAssign { begun, ..task(2) };
        assert_eq!(to_node([offered(begun)]), Err(Violation::Length(AssignmentId(2))));
    }
    let begun = Some(BegunSize { bytes: 1, tokens: 1 });
    let begun = iris_protocol::message::TaskAssign { begun, sealed: true, ..task(2) };
    assert_eq!(to_node([offered(begun)]), Err(Violation::Sealing(AssignmentId(2))));
    let future = iris_protocol::message::TaskAssign { hop_epoch: 1, ..task(2) };
    assert_eq!(to_node([offered(future)]), Err(Violation::Epoch));
    let rekey =
        |epoch| CoordinatorMessage::Rekey(Rekey { epoch, enc: KEY, proof: SIGNATURE }).encode();
    assert_eq!(to_node([rekey(1), rekey(2)]), Ok(()));
    assert_eq!(to_node([rekey(2)]), Err(Violation::Epoch));
    let ack = Acks::encode(&mut [(ID, 1)].into_iter()).unwrap();
    assert_eq!(to_node([ack]), Err(Violation::AckBeyondEnd(ID)));
    assert_eq!(
        to_node([CoordinatorMessage::Challenge(challenge()).encode()]),
        Err(Violation::OutOfOrder("CHALLENGE"))
    );
    assert_eq!(to_node([CoordinatorMessage::Drain(Empty {}).encode()]), Ok(()));
}

#[test]
fn a_cancelled_node_confirms_once_and_stops() {
    let mut pair = Pair::new();
    pair.start(1);
    pair.node.stream(chunk(1, 0)).unwrap();
    pair.coordinator.cancel(ID);
    pair.coordinator.cancel(ID);
    assert_eq!(pair.settle(), [CoordinatorEvent::Cancelled(ID)]);
    assert_eq!(pair.node.stream(chunk(1, 1)), Err(SendError::Gone));
    assert_eq!(pair.coordinator.assignments(), 0);
    assert!(pair.node.is_idle());
}

#[test]
fn an_end_that_crosses_its_cancellation_frees_the_node_once() {
    let mut pair = Pair::new();
    pair.start(1);
    pair.node.finish(result(1, 0)).unwrap();
    pair.coordinator.cancel(ID);
    assert_eq!(pair.settle(), [CoordinatorEvent::Cancelled(ID)]);
    assert!(pair.node.is_idle());
}

#[test]
fn a_refused_prompt_may_still_be_on_its_way() {
    let mut pair = Pair::new();
    pair.coordinator.assign(task(1), body(1)).unwrap();
    pair.node_hears();
    pair.node.refuse(ID, RefuseReason::Busy).unwrap();
    let refuse = TaskRefuse { assignment: ID, reason: RefuseReason::Busy };
    assert_eq!(pair.settle(), [CoordinatorEvent::Refused(refuse)]);
}

#[test]
fn ends_are_acknowledged_together_or_with_the_next_heartbeat() {
    let mut pair = Pair::new();
    for id in 1..64 {
        pair.start(id);
        pair.node.finish(result(id, 0)).unwrap();
        pair.settle();
    }
    assert!(!pair.node.is_idle());
    pair.start(64);
    pair.node.finish(result(64, 0)).unwrap();
    pair.settle();
    assert!(pair.node.is_idle(), "64 ends are acknowledged at once");
    pair.start(65);
    pair.node.finish(result(65, 0)).unwrap();
    pair.settle();
    assert!(!pair.node.is_idle());
    pair.node.heartbeat(NodeHeartbeat::default()).unwrap();
    pair.settle();
    assert!(pair.node.is_idle(), "a heartbeat flushes the rest");
}

#[test]
fn the_round_trip_is_that_of_the_heartbeat_that_was_due() {
    let mut pair = Pair::new();
    let ms = Duration::from_millis;
    // What is sent between heartbeats times nothing, and its answer is not taken for another's.
    pair.node.heartbeat(NodeHeartbeat::default()).unwrap();
    pair.advance(pair.node.poll_timeout().unwrap() - pair.now);
    assert_eq!(pair.node.handle_timeout(pair.now), Ok(Some(NodeEvent::HeartbeatDue)));
    pair.node.heartbeat(NodeHeartbeat::default()).unwrap();
    pair.coordinator_hears();
    pair.node_hears();
    assert_eq!(pair.node.round_trip(), None);
    pair.advance(ms(30));
    pair.coordinator_hears();
    pair.advance(ms(12));
    pair.node_hears();
    assert_eq!(pair.node.round_trip(), Some(ms(42)));
    // Answers to nothing change nothing.
    let unasked = CoordinatorMessage::HeartbeatAck(Empty {}).encode();
    pair.node.handle_frame(pair.now, unasked).unwrap();
    assert_eq!(pair.node.round_trip(), Some(ms(42)));
    pair.cut();
    assert_eq!(pair.node.round_trip(), None, "another connection is another way");
}

#[test]
fn a_question_about_a_task_is_answered_once() {
    let mut pair = Pair::new();
    let question =
        ClassifyAssign { assignment: ID, time_left_ms: 1000, hop_epoch: 0, body_bytes: 6 };
    pair.coordinator.classify(question, body(1)).unwrap();
    assert_eq!(pair.node_hears(), Some(NodeEvent::Classify(question)));
    assert_eq!(pair.node.accept(ID), Err(SendError::OutOfOrder));
    let answer = ClassifyResult { assignment: ID, difficulty: Difficulty::Advanced };
    pair.node.classified(answer).unwrap();
    assert_eq!(pair.settle(), [CoordinatorEvent::Classified(answer)]);
    assert_eq!(pair.node.classified(answer), Err(SendError::Gone));
}

#[test]
fn assignments_are_bounded_and_ascend() {
    let mut pair = Pair::new();
    pair.start(5);
    assert_eq!(pair.coordinator.assign(task(5), []), Err(AssignError::NotAscending));
    for id in 6..1029 {
        pair.coordinator.assign(task(id), []).unwrap();
    }
    assert_eq!(pair.coordinator.assign(task(1029), []), Err(AssignError::Full));
}

#[test]
fn a_rejected_node_hears_why_and_nothing_else() {
    let mut pair = Pair::new();
    pair.coordinator.assign(task(1), body(1)).unwrap();
    pair.coordinator.reject(ErrorCode::Replaced, None);
    assert!(
        matches!(pair.node_hears(), Some(NodeEvent::Closing(e)) if e.code == ErrorCode::Replaced)
    );
    assert_eq!(pair.node_hears(), None);
    // What crossed the rejection is no violation.
    assert_eq!(pair.coordinator.handle_frame(pair.now, heartbeat()), Ok(None));
}
