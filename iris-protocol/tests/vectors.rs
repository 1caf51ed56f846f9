//! The files in `tests/vectors` say what goes over the wire, for implementations in any language.
//!
//! Each message has one file, named by its type, with the JSON of an example in which every
//! member is present; those whose members differ for sealed assignments have a second file.
//! `binary.json` holds binary frames in hexadecimal.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use iris_core::backend::{BackendError, Operation, Usage};
use iris_core::demand::Difficulty;
use iris_core::id::CallerTag;
use iris_core::model::{Abilities, ModelOffer, TokenRate};
use iris_core::terms::{Callers, Rest, Terms};
use iris_core::{AssignmentId, TaskId};
use iris_protocol::frame::{Acks, BinaryFrame, Content, DataFrame, Frame, Header};
use iris_protocol::message::*;
use iris_protocol::text::{Blob, FixedBytes};
use iris_protocol::version::Version;
use serde_json::{Value, json};

const ID: AssignmentId = AssignmentId(7);
const ABOUT: About = About { assignment: ID };

fn offer() -> ModelOffer {
    ModelOffer {
        name: "org/model-7b".parse().unwrap(),
        context_length: 8192,
        parameters: Some(7_000_000_000),
        quantization: Some("Q4_K_M".into()),
        abilities: Abilities::TOOLS.union(Abilities::VISION),
        speed: Some(TokenRate::per_second(31)),
    }
}

fn node_messages() -> Vec<NodeMessage> {
    vec![
        NodeMessage::NodeRegister(Box::new(NodeRegister {
            version: Version(1),
            capabilities: vec!["classify".parse().unwrap()],
            identity: FixedBytes([1; 32]),
            certificate: Blob::try_from(vec![2; 5]).unwrap(),
            nonce: FixedBytes([3; 32]),
            signature: FixedBytes([4; 64]),
            name: Some("attic".parse().unwrap()),
            agent_version: Some("iris-node/0.1.0".parse().unwrap()),
            slots: 4,
            models: vec![offer()],
            datasets: Vec::new(),
            hardware: Hardware {
                gpu: Some("NVIDIA RTX 4090".parse().unwrap()),
                vram_gb: Some(24),
                ram_gb: Some(64),
            },
            terms: Terms::default(),
            resume: Some(Resume {
                session: SessionId::from_bytes([5; 16]),
                assignments: vec![Buffered { assignment: ID, buffered_from: 12 }],
            }),
        })),
        NodeMessage::NodeHeartbeat(NodeHeartbeat {
            running: 2,
            models: Some(vec![offer()]),
            slots: Some(3),
            terms: Some(Terms {
                hours: Some(Box::new("mon-fri 18:00-23:00, sat-sun UTC+01:00".parse().unwrap())),
                callers: Callers::Members,
                rest: Some(Rest::OffHours),
            }),
        }),
        NodeMessage::TaskAccept(ABOUT),
        NodeMessage::TaskRefuse(TaskRefuse { assignment: ID, reason: RefuseReason::StaleKey }),
        NodeMessage::TaskProgress(ABOUT),
        NodeMessage::TaskResult(TaskResult {
            assignment: ID,
            frames: 31,
            reason: "stop".parse().unwrap(),
            usage: Usage { prompt_tokens: 12, completion_tokens: 30 },
            receipt: None,
        }),
        NodeMessage::TaskResult(
            TaskResult {
                assignment: ID,
                frames: 31,
                reason: "stop".parse().unwrap(),
                usage: Usage { prompt_tokens: 64, completion_tokens: 64 },
                receipt: None,
            }
            .with_receipt(Blob::try_from(vec![11; 5]).unwrap()),
        ),
        NodeMessage::TaskError(TaskError::new(
            ID,
            3,
            BackendError::Rejected {
                status: 400,
                code: Some("context_length_exceeded".into()),
                param: Some("messages".into()),
                message: "too long".into(),
            },
        )),
        NodeMessage::TaskError(
            TaskError::new(ID, 3, BackendError::Failed)
                .with_receipt(Blob::try_from(vec![11; 5]).unwrap()),
        ),
        NodeMessage::TaskCancelled(ABOUT),
        NodeMessage::ClassifyResult(ClassifyResult {
            assignment: ID,
            difficulty: Difficulty::Complex,
        }),
        NodeMessage::Certificate(Certificate { certificate: Blob::try_from(vec![2; 5]).unwrap() }),
        NodeMessage::Drain(Empty {}),
    ]
}

fn coordinator_messages() -> Vec<CoordinatorMessage> {
    let hop = Hop { epoch: 2, enc: FixedBytes([6; 32]) };
    vec![
        CoordinatorMessage::Challenge(Challenge {
            min_version: Version(1),
            max_version: Version(2),
            nonce: FixedBytes([7; 32]),
            coordinator: FixedBytes([8; 32]),
            capabilities: vec!["classify".parse().unwrap()],
        }),
        CoordinatorMessage::RegisterAck(Box::new(RegisterAck {
            version: Version(1),
            session: SessionId::from_bytes([5; 16]),
            node: "abcdefghijklmnopqrstuvwx27".parse().unwrap(),
            heartbeat_ms: 10_000,
            lost_ms: 35_000,
            hop,
            proof: FixedBytes([9; 64]),
            window: Window { frames: 256, bytes: 1 << 20 },
            resumed: vec![Resumed { assignment: ID, next: 15 }],
        })),
        CoordinatorMessage::HeartbeatAck(Empty {}),
        CoordinatorMessage::TaskAssign(TaskAssign {
            assignment: ID,
            task: TaskId::from_bytes([10; 16]),
            operation: Operation::Chat,
            model: "org/model-7b".parse().unwrap(),
            enable_streaming: true,
            time_left_ms: 60_000,
            prompt_tokens: 12,
            hop_epoch: 2,
            body_bytes: 345,
            begun: Some(BegunSize { bytes: 20, tokens: 4 }),
            sealed: false,
            caller: None,
        }),
        CoordinatorMessage::TaskAssign(TaskAssign {
            assignment: ID,
            task: TaskId::from_bytes([10; 16]),
            operation: Operation::Chat,
            model: "org/model-7b".parse().unwrap(),
            enable_streaming: true,
            time_left_ms: 60_000,
            prompt_tokens: 12,
            hop_epoch: 2,
            body_bytes: 345,
            begun: None,
            sealed: true,
            caller: Some(CallerTag::new(11, [12; 16])),
        }),
        CoordinatorMessage::TaskCancel(ABOUT),
        CoordinatorMessage::Rekey(Rekey { epoch: 3, enc: hop.enc, proof: FixedBytes([9; 64]) }),
        CoordinatorMessage::ClassifyAssign(ClassifyAssign {
            assignment: ID,
            time_left_ms: 5_000,
            hop_epoch: 2,
            body_bytes: 345,
        }),
        CoordinatorMessage::Drain(Empty {}),
        CoordinatorMessage::Error(ErrorMessage {
            code: ErrorCode::Replaced,
            message: Some("connected again from elsewhere".parse().unwrap()),
        }),
    ]
}

fn folder(side: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(side)
}

fn text(frame: Frame) -> String {
    let Frame::Text(text) = frame else { panic!("messages are text") };
    String::from_utf8(text.into_bytes().into()).unwrap()
}

/// A message's name, its encoding and a check that a text is read as this message.
type Example = (&'static str, Frame, Box<dyn Fn(&[u8]) -> bool>);

/// Compares the files of one side with its messages.
fn check(side: &str, examples: Vec<Example>) {
    let mut files: BTreeSet<String> = fs::read_dir(folder(side))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for (name, frame, reads_as) in examples {
        let mut file = format!("{}.json", name.to_lowercase());
        if !files.contains(&file) {
            file = format!("{}_sealed.json", name.to_lowercase());
        }
        let stored = fs::read(folder(side).join(&file)).unwrap();
        let written: Value = serde_json::from_str(&text(frame)).unwrap();
        assert_eq!(written, serde_json::from_slice::<Value>(&stored).unwrap(), "{file}");
        assert!(reads_as(&stored), "{file} is read as another message");
        assert!(files.remove(&file), "{file} stands for two messages");
    }
    assert!(files.is_empty(), "no message belongs to {files:?}");
}

#[test]
fn node_messages_are_what_the_files_say() {
    let examples = node_messages().into_iter().map(|message| -> Example {
        let (name, frame) = (message.name(), message.encode());
        let reads_as = move |text: &[u8]| NodeMessage::decode(text) == Ok(Some(message.clone()));
        (name, frame, Box::new(reads_as) as _)
    });
    check("node", examples.collect());
}

#[test]
fn coordinator_messages_are_what_the_files_say() {
    let examples = coordinator_messages().into_iter().map(|message| -> Example {
        let (name, frame) = (message.name(), message.encode());
        let reads_as =
            move |text: &[u8]| CoordinatorMessage::decode(text) == Ok(Some(message.clone()));
        (name, frame, Box::new(reads_as) as _)
    });
    check("coordinator", examples.collect());
}

#[test]
fn members_and_types_of_later_versions_are_skipped() {
    for message in node_messages() {
        let mut value: Value = serde_json::from_str(&text(message.encode())).unwrap();
        value["later"] = json!({"deep": [1, 2.5, null]});
        let read = NodeMessage::decode(value.to_string().as_bytes());
        assert_eq!(read, Ok(Some(message)));
        value["type"] = json!("LATER");
        assert_eq!(NodeMessage::decode(value.to_string().as_bytes()), Ok(None));
    }
}

#[test]
fn every_bound_is_enforced() {
    let refused = |at: &str, bad: Value| {
        let mut value: Value = serde_json::from_str(&text(node_messages()[0].encode())).unwrap();
        match value.pointer_mut(at) {
            Some(place) => *place = bad,
            None => value[&at[1..]] = bad,
        }
        let read = NodeMessage::decode(value.to_string().as_bytes());
        assert!(matches!(read, Err(DecodeError::Invalid { .. })), "{at}: {read:?}");
    };
    refused("/slots", json!(1025));
    refused("/slots", json!(-1));
    refused("/name", json!("a\u{202e}b"));
    refused("/name", json!("x".repeat(65)));
    refused("/capabilities", json!(vec!["a"; 33]));
    refused("/models", json!([offer(), offer()]));
    let many: Vec<_> =
        (0..257).map(|n| ModelOffer::new(format!("m{n}").parse().unwrap(), 1)).collect();
    refused("/models", json!(many));
    refused("/models/0/quantization", json!("Q\n"));
    refused("/datasets", json!(["ward", "ward"]));
    refused("/datasets", json!(["x".repeat(65)]));
    refused("/datasets", json!((0..33).map(|number| number.to_string()).collect::<Vec<_>>()));
    refused("/hardware/gpu", json!("x".repeat(129)));
    refused("/terms", json!({"hours": "mon-fri 18:00-25:00"}));
    refused("/terms", json!({"hours": vec!["mon"; 17].join(",")}));
    refused("/identity", json!("AAAA"));
    refused("/certificate", json!("A".repeat(5464)));
    refused("/resume/session", json!("0".repeat(31)));
    refused(
        "/resume/assignments",
        json!(vec![Buffered { assignment: ID, buffered_from: 0 }; 2049]),
    );
    assert_eq!(NodeMessage::decode(&vec![b' '; (256 << 10) + 1]), Err(DecodeError::TooLong));
}

#[test]
fn errors_are_made_fit_to_travel() {
    let error = BackendError::Rejected {
        status: 999,
        code: Some("x".repeat(100)),
        param: None,
        message: format!("line one\nline\u{202e} two{}", "é".repeat(5000)),
    };
    let message = NodeMessage::TaskError(TaskError::new(ID, 0, error));
    let written = text(message.encode());
    assert_eq!(NodeMessage::decode(written.as_bytes()), Ok(Some(message)));
    assert!(written.contains("line one line two"));
}

fn binary_frames() -> Vec<(&'static str, Frame)> {
    let data = |header, payload: &'static [u8]| {
        DataFrame { header, payload: Bytes::from_static(payload) }.encode()
    };
    let stream = |seq, content, more| Header::stream(ID, seq, content, more);
    vec![
        ("first part of a prompt", data(Header::body(ID, 0, false), b"ab")),
        ("last part of a prompt", data(Header::body(ID, 1, true), b"c")),
        ("text", data(stream(0, Content::Text, false), b"hello")),
        ("JSON that goes on", data(stream(1, Content::Json, true), b"{")),
        ("JSON that ends", data(stream(2, Content::Json, false), b"}")),
        ("whole answer", data(stream(258, Content::Whole, false), b"{}")),
        ("sealed records", data(stream(3, Content::Sealed, false), b"?")),
        (
            "acknowledgements",
            Acks::encode(&mut [(ID, 3), (AssignmentId(9), 65536)].into_iter()).unwrap(),
        ),
    ]
}

#[test]
fn binary_frames_are_what_the_file_says() {
    let stored: Vec<(String, String)> =
        serde_json::from_slice(&fs::read(folder("binary.json")).unwrap()).unwrap();
    let frames = binary_frames();
    assert_eq!(stored.len(), frames.len());
    for ((name, hex), (expected, frame)) in stored.into_iter().zip(frames) {
        let bytes = Bytes::from(data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap());
        assert_eq!(name, expected);
        assert_eq!(Frame::Binary(bytes.clone()), frame, "{name}");
        let again = match BinaryFrame::decode(bytes).unwrap() {
            BinaryFrame::Data(data) => data.encode(),
            BinaryFrame::Ack(acks) => Acks::encode(&mut acks.iter()).unwrap(),
        };
        assert_eq!(again, frame, "{name}");
    }
}
