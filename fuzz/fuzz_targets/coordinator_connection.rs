//! Whatever a node sends, a coordinator answers it with an event, silence or a violation, and
//! never hears of an assignment more than it gave.

#![no_main]

use std::time::{Duration, Instant};

use bytes::Bytes;
use iris_core::backend::Operation;
use iris_core::{AssignmentId, TaskId};
use iris_protocol::Frame;
use iris_protocol::connection::{CoordinatorConnection, CoordinatorEvent, Welcome};
use iris_protocol::frame::Utf8;
use iris_protocol::limits::Limits;
use iris_protocol::message::{Challenge, Hop, NodeMessage, SessionId, TaskAssign};
use iris_protocol::text::FixedBytes;
use iris_protocol::version::Version;
use libfuzzer_sys::fuzz_target;

#[derive(arbitrary::Arbitrary, Debug)]
enum Step {
    Text(String),
    Binary(Vec<u8>),
    /// A well-formed header and payload, which the fuzzer would rarely hit.
    Stream {
        assignment: u8,
        seq: u8,
        flags: u8,
        length: u8,
    },
    About {
        assignment: u8,
        message: u8,
        frames: u8,
    },
    Assign,
    Cancel(u8),
    Consumed {
        assignment: u8,
        frames: u8,
    },
    Wait(u16),
    Reconnect,
}

const REGISTER: &[u8] = include_bytes!("../../iris-protocol/tests/vectors/node/node_register.json");

fn connect(now: Instant) -> CoordinatorConnection {
    let challenge = Challenge {
        min_version: Version(1),
        max_version: Version(1),
        nonce: FixedBytes([0; 32]),
        coordinator: FixedBytes([0; 32]),
        capabilities: Vec::new(),
    };
    CoordinatorConnection::new(now, Limits::default(), challenge)
}

fn welcome() -> Welcome {
    Welcome {
        session: SessionId::from_bytes([5; 16]),
        node: "abcdefghijklmnopqrstuvwx27".parse().expect("a valid id"),
        hop: Hop { epoch: 0, enc: FixedBytes([0; 32]) },
        proof: FixedBytes([0; 64]),
    }
}

fn task(id: u64) -> TaskAssign {
    TaskAssign {
        assignment: AssignmentId(id),
        task: TaskId::from_bytes([0; 16]),
        operation: Operation::Chat,
        model: "m".parse().expect("a valid name"),
        enable_streaming: true,
        time_left_ms: 1,
        prompt_tokens: 1,
        hop_epoch: 0,
        body_bytes: 1,
        begun: None,
        // Every third task is one that its caller sealed.
        sealed: id.is_multiple_of(3),
        caller: None,
    }
}

fn about(assignment: u8, message: u8, frames: u8) -> Frame {
    let text = match message % 6 {
        0 => format!(r#"{{"type":"TASK_ACCEPT","assignment":{assignment}}}"#),
        1 => format!(r#"{{"type":"TASK_REFUSE","assignment":{assignment},"reason":"busy"}}"#),
        2 => format!(r#"{{"type":"TASK_PROGRESS","assignment":{assignment}}}"#),
        3 => format!(r#"{{"type":"TASK_CANCELLED","assignment":{assignment}}}"#),
        4 => format!(
            r#"{{"type":"TASK_RESULT","assignment":{assignment},"frames":{frames},"reason":"stop","usage":{{"prompt_tokens":1,"completion_tokens":1}}}}"#
        ),
        _ => format!(
            r#"{{"type":"TASK_ERROR","assignment":{assignment},"frames":{frames},"error":{{"kind":"failed"}}}}"#
        ),
    };
    Frame::Text(Utf8::from(text))
}

fuzz_target!(|steps: Vec<Step>| {
    let mut now = Instant::now();
    let mut connection = connect(now);
    let mut session = None;
    let mut last = 0;
    let mut open = 0_i64;
    let mut register = true;
    for step in steps {
        if std::mem::take(&mut register) {
            let text = Utf8::try_from(Bytes::from_static(REGISTER)).expect("the vector is text");
            assert!(NodeMessage::decode(REGISTER).is_ok());
            let Ok(Some(CoordinatorEvent::Register(_))) =
                connection.handle_frame(now, Frame::Text(text))
            else {
                panic!("the vector registers")
            };
            let resumption = connection.welcome(now, welcome(), session.take());
            open -= i64::try_from(resumption.lost.len()).expect("few");
        }
        let frame = match step {
            Step::Text(text) => Frame::Text(Utf8::from(text)),
            Step::Binary(bytes) => Frame::Binary(bytes.into()),
            Step::Stream { assignment, seq, flags, length } => {
                let mut bytes = vec![2, flags, 0, 0, 0, 0, 0, seq, 0, 0, 0, 0, 0, 0, 0, assignment];
                bytes.resize(16 + usize::from(length), 0);
                Frame::Binary(bytes.into())
            }
            Step::About { assignment, message, frames } => about(assignment, message, frames),
            Step::Assign => {
                last += 1;
                let given = connection.assign(task(last), []);
                open += i64::from(given.is_ok());
                continue;
            }
            Step::Cancel(assignment) => {
                connection.cancel(AssignmentId(assignment.into()));
                continue;
            }
            Step::Consumed { assignment, frames } => {
                let bytes = usize::from(frames) * 16;
                connection.consumed(AssignmentId(assignment.into()), frames.into(), bytes);
                while connection.poll_transmit().is_some() {}
                continue;
            }
            Step::Wait(millis) => {
                now += Duration::from_millis(millis.into());
                continue;
            }
            Step::Reconnect => {
                let detached = std::mem::replace(&mut connection, connect(now)).detach();
                open -= i64::try_from(detached.lost.len()).expect("few");
                session = detached.session;
                register = true;
                continue;
            }
        };
        match connection.handle_frame(now, frame) {
            Ok(Some(
                CoordinatorEvent::Refused(_)
                | CoordinatorEvent::Result(_)
                | CoordinatorEvent::Failed(_)
                | CoordinatorEvent::Cancelled(_)
                | CoordinatorEvent::Classified(_),
            )) => open -= 1,
            Ok(_) => {}
            Err(_) => return,
        }
        while connection.poll_transmit().is_some() {}
        assert_eq!(i64::try_from(connection.assignments()).expect("few"), open);
    }
});
