//! What a peer may send can be anything: decoders and connections answer, and never panic.
//!
//! The same properties run without end in the fuzz targets of the same names.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use iris_protocol::Frame;
use iris_protocol::connection::{
    CoordinatorConnection, CoordinatorEvent, NodeConnection, NodeEvent,
};
use iris_protocol::frame::{BinaryFrame, Utf8};
use iris_protocol::limits::Limits;
use iris_protocol::message::{Challenge, CoordinatorMessage, NodeMessage};
use iris_protocol::text::FixedBytes;
use iris_protocol::version::Version;
use proptest::prelude::*;

mod properties;

/// Texts that look like messages often enough to get past the first check.
fn message_text() -> impl Strategy<Value = Vec<u8>> {
    let vectors = ["node", "coordinator"].into_iter().flat_map(|side| {
        let folder = format!("{}/tests/vectors/{side}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_dir(folder).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap())
    });
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let damaged = (prop::sample::select(vectors.collect::<Vec<_>>()), damage).prop_map(
        |(mut text, damage)| {
            for (at, byte) in damage {
                let at = at.index(text.len());
                text[at] = byte;
            }
            text
        },
    );
    prop_oneof![4 => damaged, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

fn frame() -> impl Strategy<Value = Frame> {
    let text = message_text().prop_filter_map("text frames are UTF-8", |text| {
        Utf8::try_from(Bytes::from(text)).ok().map(Frame::Text)
    });
    let small = prop_oneof![4 => 0u8..4, 1 => any::<u8>()];
    let binary = prop::collection::vec(small, 0..40).prop_map(|bytes| Frame::Binary(bytes.into()));
    prop_oneof![text, binary]
}

proptest! {
    #[test]
    fn whatever_is_read_is_written_the_same(text in message_text()) {
        if let Ok(Some(message)) = NodeMessage::decode(&text) {
            let Frame::Text(again) = message.encode() else { panic!("messages are text") };
            prop_assert_eq!(NodeMessage::decode(again.as_bytes()), Ok(Some(message)));
        }
        if let Ok(Some(message)) = CoordinatorMessage::decode(&text) {
            let Frame::Text(again) = message.encode() else { panic!("messages are text") };
            prop_assert_eq!(CoordinatorMessage::decode(again.as_bytes()), Ok(Some(message)));
        }
    }

    #[test]
    fn any_bytes_are_a_frame_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = BinaryFrame::decode(bytes.into());
    }

    #[test]
    fn no_frames_bring_a_connection_down(frames in prop::collection::vec(frame(), 0..20)) {
        let mut now = Instant::now();
        let challenge = Challenge {
            min_version: Version(1),
            max_version: Version(1),
            nonce: FixedBytes([0; 32]),
            coordinator: FixedBytes([0; 32]),
            capabilities: Vec::new(),
        };
        let mut coordinator = CoordinatorConnection::new(now, Limits::default(), challenge);
        let mut node = NodeConnection::new(now, Limits::default());
        node.connect(now);
        for frame in frames {
            now += Duration::from_millis(100);
            let heard = coordinator.handle_frame(now, frame.clone());
            if let Ok(Some(CoordinatorEvent::Register(_))) = heard {
                coordinator.reject(iris_protocol::message::ErrorCode::Unauthorized, None);
            }
            let heard = node.handle_frame(now, frame);
            prop_assert!(!matches!(heard, Ok(Some(NodeEvent::Body(_)))), "nothing was assigned");
            while node.poll_transmit().or_else(|| coordinator.poll_transmit()).is_some() {}
        }
    }

    #[test]
    fn names_and_ids_are_refused_or_have_one_spelling(text in almost_name()) {
        properties::text(&text);
    }

    #[test]
    fn bodies_and_answers_settle_at_the_first_reading(json in almost_body()) {
        properties::rest(json.as_bytes());
    }
}

/// Texts of the lengths and characters of names, ids and opaque bytes.
fn almost_name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z2-7]{25,27}",
        "[0-9a-f]{31,33}",
        "[A-Za-z0-9_-]{42,44}",
        "[A-Za-z0-9_-]{85,87}",
        "\\PC{0,70}",
        "[a \u{202e}\u{feff}\u{e9}\n]{0,8}",
        any::<String>(),
    ]
}

/// Objects of members that the APIs know, with values of every kind.
fn almost_body() -> impl Strategy<Value = String> {
    const NAMES: [&str; 37] = [
        "model",
        "messages",
        "prompt",
        "role",
        "content",
        "name",
        "tool_calls",
        "function",
        "arguments",
        "stream",
        "stop",
        "choices",
        "delta",
        "index",
        "usage",
        "prompt_tokens",
        "error",
        "message",
        "code",
        "type",
        "data",
        "id",
        "status",
        "created",
        "deadline_ms",
        "account_key",
        "scope",
        "nodes",
        "slots",
        "extra",
        "roster",
        "issued",
        "away",
        "hashes",
        "checkpoint",
        "start",
        "entries",
    ];
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        "[a-z]{0,6}".prop_map(Into::into),
        prop::sample::select(vec!["user", "inference", "finished", "function"])
            .prop_map(Into::into),
    ];
    let value = leaf.prop_recursive(4, 40, 6, |inner| {
        let member = (prop::sample::select(NAMES.to_vec()), inner.clone());
        prop_oneof![
            prop::collection::vec(inner, 0..3).prop_map(Into::into),
            prop::collection::vec(member, 0..6).prop_map(|members| {
                members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
            }),
        ]
    });
    value.prop_map(|value| value.to_string())
}
