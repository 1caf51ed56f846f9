//! Whatever a coordinator sends, a node answers it with an event, silence or a violation.

#![no_main]

use std::time::{Duration, Instant};

use bytes::Bytes;
use iris_core::AssignmentId;
use iris_protocol::Frame;
use iris_protocol::connection::{NodeConnection, NodeEvent};
use iris_protocol::frame::{Content, DataFrame, Header, Utf8};
use iris_protocol::limits::Limits;
use iris_protocol::message::{NodeMessage, RefuseReason, TaskError};
use libfuzzer_sys::fuzz_target;

#[derive(arbitrary::Arbitrary, Debug)]
enum Step {
    Text(String),
    Binary(Vec<u8>),
    /// Well-formed messages, which the fuzzer would rarely hit.
    Assign {
        assignment: u8,
        body_bytes: u8,
        sealed: bool,
    },
    Cancel(u8),
    Body {
        assignment: u8,
        seq: u8,
        last: bool,
        length: u8,
    },
    Ack {
        assignment: u8,
        next: u8,
    },
    Acknowledged {
        session: bool,
        resumed: Vec<(u8, u8)>,
        epoch: u8,
    },
    Accept(u8),
    Refuse(u8),
    Stream {
        assignment: u8,
        seq: u8,
        sealed: bool,
    },
    Fail {
        assignment: u8,
        frames: u8,
    },
    Wait(u16),
    Reconnect,
}

const REGISTER: &[u8] = include_bytes!("../../iris-protocol/tests/vectors/node/node_register.json");
const CHALLENGE: &[u8] =
    include_bytes!("../../iris-protocol/tests/vectors/coordinator/challenge.json");

fn connect(node: &mut NodeConnection, now: Instant) {
    node.connect(now);
    let challenge = Utf8::try_from(Bytes::from_static(CHALLENGE)).expect("the vector is text");
    let Ok(Some(NodeEvent::Challenged(_))) = node.handle_frame(now, Frame::Text(challenge)) else {
        panic!("the vector is a challenge")
    };
    let Ok(Some(NodeMessage::NodeRegister(register))) = NodeMessage::decode(REGISTER) else {
        panic!("the vector registers")
    };
    node.register(*register).expect("a challenge can be answered");
}

fn text(text: String) -> Frame {
    Frame::Text(Utf8::from(text))
}

fn register_ack(session: bool, resumed: &[(u8, u8)], epoch: u8) -> Frame {
    let session = if session { "05" } else { "06" }.repeat(16);
    let resumed: Vec<_> = resumed
        .iter()
        .map(|(id, next)| format!(r#"{{"assignment":{id},"next":{next}}}"#))
        .collect();
    text(format!(
        r#"{{"type":"REGISTER_ACK","version":1,"session":"{session}","node":"abcdefghijklmnopqrstuvwx27","heartbeat_ms":10,"lost_ms":35,"hop":{{"epoch":{epoch},"enc":"{}"}},"proof":"{}","window":{{"frames":4,"bytes":100}},"resumed":[{}]}}"#,
        "A".repeat(43),
        "A".repeat(86),
        resumed.join(",")
    ))
}

fuzz_target!(|steps: Vec<Step>| {
    let mut now = Instant::now();
    let mut node = NodeConnection::new(now, Limits::default());
    connect(&mut node, now);
    for step in steps {
        let id = |id: u8| AssignmentId(id.into());
        let frame = match step {
            Step::Text(content) => text(content),
            Step::Binary(bytes) => Frame::Binary(bytes.into()),
            Step::Assign { assignment, body_bytes, sealed } => text(format!(
                r#"{{"type":"TASK_ASSIGN","assignment":{assignment},"task":"{}","operation":"chat","model":"m","enable_streaming":true,"time_left_ms":1,"prompt_tokens":1,"hop_epoch":0,"body_bytes":{body_bytes},"sealed":{sealed}}}"#,
                "0".repeat(32)
            )),
            Step::Cancel(assignment) => {
                text(format!(r#"{{"type":"TASK_CANCEL","assignment":{assignment}}}"#))
            }
            Step::Body { assignment, seq, last, length } => {
                let header = Header::body(id(assignment), seq.into(), last);
                DataFrame { header, payload: vec![0; length.into()].into() }.encode()
            }
            Step::Ack { assignment, next } => {
                let mut bytes = vec![0; 28];
                (bytes[0], bytes[23], bytes[27]) = (3, assignment, next);
                Frame::Binary(bytes.into())
            }
            Step::Acknowledged { session, resumed, epoch } => {
                register_ack(session, &resumed, epoch)
            }
            Step::Accept(assignment) => {
                let _ = node.accept(id(assignment));
                continue;
            }
            Step::Refuse(assignment) => {
                let _ = node.refuse(id(assignment), RefuseReason::Busy);
                continue;
            }
            Step::Stream { assignment, seq, sealed } => {
                let content = if sealed { Content::Sealed } else { Content::Text };
                let header = Header::stream(id(assignment), seq.into(), content, false);
                let Frame::Binary(bytes) = (DataFrame { header, payload: Bytes::new() }).encode()
                else {
                    panic!("data frames are binary")
                };
                let _ = node.stream(bytes);
                continue;
            }
            Step::Fail { assignment, frames } => {
                let error = iris_core::backend::BackendError::Failed;
                let _ = node.fail(TaskError::new(id(assignment), frames.into(), error));
                continue;
            }
            Step::Wait(millis) => {
                now += Duration::from_millis(millis.into());
                let _ = node.handle_timeout(now);
                continue;
            }
            Step::Reconnect => {
                node.disconnect();
                connect(&mut node, now);
                continue;
            }
        };
        let heard = match node.handle_frame(now, frame) {
            Ok(Some(NodeEvent::Answered(ack))) => node.enter(now, &ack).map(drop),
            heard => heard.map(drop),
        };
        if heard.is_err() {
            node.disconnect();
            connect(&mut node, now);
        }
        while let Some(frame) = node.poll_transmit() {
            if let Frame::Text(text) = frame {
                assert!(matches!(NodeMessage::decode(text.as_bytes()), Ok(Some(_))));
            }
        }
    }
});
