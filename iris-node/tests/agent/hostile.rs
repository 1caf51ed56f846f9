//! Coordinators that keep to no rule: the node leaves them, and comes back to a better one.

use iris_protocol::Frame;
use iris_protocol::frame::{Header, Utf8};
use iris_protocol::message::RefuseReason;

use super::work::refusal;
use super::*;

fn saying() -> ScriptedBackend {
    ScriptedBackend::saying("m".parse().unwrap(), ["a"])
}

fn text(text: impl Into<String>) -> Frame {
    Frame::Text(Utf8::from(text.into()))
}

fn register_ack(window: &str, heartbeat: u32, resumed: usize) -> Frame {
    let resumed: Vec<_> =
        (0..resumed).map(|id| format!(r#"{{"assignment":{id},"next":0}}"#)).collect();
    text(format!(
        r#"{{"type":"REGISTER_ACK","version":1,"session":"{}","node":"abcdefghijklmnopqrstuvwx27","heartbeat_ms":{heartbeat},"lost_ms":35000,"hop":{{"epoch":0,"enc":"{}"}},"proof":"{}","window":{window},"resumed":[{}]}}"#,
        "05".repeat(16),
        "A".repeat(43),
        "A".repeat(86),
        resumed.join(",")
    ))
}

fn assign(id: u64, body_bytes: u32) -> Frame {
    text(format!(
        r#"{{"type":"TASK_ASSIGN","assignment":{id},"task":"{}","operation":"chat","model":"m","enable_streaming":true,"time_left_ms":18446744073709551615,"prompt_tokens":4294967295,"hop_epoch":0,"body_bytes":{body_bytes}}}"#,
        "0".repeat(32)
    ))
}

/// Lets the node register, says `frame` in place of a welcome, and then does better.
async fn left_for(frame: Frame) {
    let (mut coordinator, connector) = Coordinator::new();
    let mut agent = Running::new(builder(&saying()).build(), connector);
    coordinator.challenge().await;
    let name = format!("{frame:.200?}");
    coordinator.say(frame).await;
    assert!(coordinator.is_left().await, "the node stays after {name}");
    coordinator.cut();
    coordinator.forget();
    coordinator.accept().await;
    agent.becomes(|status| matches!(status, Status::Online { .. })).await;
    coordinator.assign("m").await;
    assert_eq!(coordinator.answer().await.pieces, ["a"], "after {name}");
}

#[tokio::test(start_paused = true)]
async fn terms_that_cannot_be_kept_are_not_taken() {
    let fine = r#"{"frames":256,"bytes":1048576}"#;
    for (window, heartbeat, resumed) in [
        (r#"{"frames":0,"bytes":1048576}"#, 10_000, 0),
        (r#"{"frames":256,"bytes":0}"#, 10_000, 0),
        (r#"{"frames":4294967295,"bytes":1048576}"#, 10_000, 0),
        (r#"{"frames":256,"bytes":4294967295}"#, 10_000, 0),
        (r#"{"frames":-1,"bytes":1}"#, 10_000, 0),
        (fine, 0, 0),
        (fine, 35_000, 0),
        (fine, u32::MAX, 0),
        // Nothing was held that could be resumed.
        (fine, 10_000, 1),
        (fine, 10_000, 2048),
        (fine, 10_000, 2049),
        (fine, 10_000, 10_000),
    ] {
        left_for(register_ack(window, heartbeat, resumed)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_comes_before_its_turn_ends_the_connection() {
    for frame in [
        assign(0, 1),
        text(r#"{"type":"HEARTBEAT_ACK"}"#),
        text(r#"{"type":"TASK_CANCEL","assignment":0}"#),
        text(r#"{"type":"DRAIN"}"#),
        text(r#"{"type":"NODE_HEARTBEAT","running":0}"#),
        text("[".repeat(100_000)),
        text(r#"{"type":"DRAIN","type":"REGISTER_ACK"}"#),
        text("x".repeat(300 << 10)),
        Frame::Binary(vec![0; 1 << 20].into()),
        Frame::Binary(vec![2; 15].into()),
        Frame::Binary(bytes::Bytes::new()),
    ] {
        left_for(frame).await;
    }
}

#[tokio::test(start_paused = true)]
async fn work_that_is_none_is_refused_or_ends_the_connection() {
    let body = |id: u64, seq: u32| {
        let mut frame = Header::body(iris_core::AssignmentId(id), seq, true).encode().to_vec();
        frame.extend([0; 40]);
        Frame::Binary(frame.into())
    };
    for frames in [
        vec![assign(7, u32::MAX)],
        vec![assign(7, 0)],
        vec![assign(7, 40), assign(7, 40)],
        vec![assign(7, 40), assign(6, 40)],
        vec![assign(7, 41), body(7, 0)],
        vec![assign(7, 40), body(7, 1)],
        vec![body(7, 0)],
        vec![text(r#"{"type":"TASK_CANCEL","assignment":18446744073709551616}"#)],
    ] {
        let (mut coordinator, mut agent) = online(&saying(), 4).await;
        let name = format!("{frames:.300?}");
        for frame in frames {
            coordinator.say(frame).await;
        }
        assert!(coordinator.is_left().await, "the node stays after {name}");
        agent.becomes(|status| matches!(status, Status::Offline { .. })).await;
    }
}

#[tokio::test(start_paused = true)]
async fn prompts_that_do_not_open_take_no_place() {
    let (mut coordinator, _agent) = online(&saying(), 1).await;
    for _ in 0..100 {
        coordinator.assign_altered("m").await;
        assert_eq!(refusal(&mut coordinator).await, RefuseReason::StaleKey);
    }
    coordinator.assign("m").await;
    assert_eq!(coordinator.answer().await.pieces, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn messages_that_nothing_called_for_are_taken_in_bounds() {
    let (mut coordinator, mut agent) = online(&saying(), 1).await;
    for _ in 0..10_000 {
        if !coordinator.try_say(text(r#"{"type":"SOMETHING_NEW"}"#)).await {
            break;
        }
    }
    assert!(coordinator.is_left().await);
    agent.becomes(|status| matches!(status, Status::Offline { .. })).await;
}
