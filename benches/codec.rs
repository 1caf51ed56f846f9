//! What encoding and decoding cost: the message that offers a task, and the frame of a chunk.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::Criterion;
use iris_core::backend::Operation;
use iris_core::{AssignmentId, TaskId};
use iris_protocol::frame::{BinaryFrame, Content, DataFrame, Frame, Header};
use iris_protocol::message::{CoordinatorMessage, TaskAssign};

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(50)
        .configure_from_args();
    task_assign(&mut criterion);
    stream(&mut criterion);
    criterion.final_summary();
}

fn task_assign(criterion: &mut Criterion) {
    let message = CoordinatorMessage::TaskAssign(TaskAssign {
        assignment: AssignmentId(123_456),
        task: TaskId::from_bytes([0x5a; 16]),
        operation: Operation::Chat,
        model: "mistralai/Mistral-Small-24B-Instruct".parse().expect("the text names a model"),
        enable_streaming: true,
        time_left_ms: 600_000,
        prompt_tokens: 1500,
        hop_epoch: 3,
        body_bytes: 6000,
        begun: None,
        sealed: false,
        caller: None,
    });
    criterion.bench_function("TASK_ASSIGN encode", |bencher| {
        bencher.iter(|| black_box(&message).encode());
    });
    let Frame::Text(text) = message.encode() else { unreachable!("control messages are text") };
    criterion.bench_function("TASK_ASSIGN decode", |bencher| {
        bencher.iter(|| {
            let read = CoordinatorMessage::decode(black_box(text.as_bytes()));
            read.expect("it was just encoded").expect("its type is known")
        });
    });
}

/// A frame of one short chunk: six bytes of text and the 16 of its seal.
fn stream(criterion: &mut Criterion) {
    let frame = DataFrame {
        header: Header::stream(AssignmentId(123_456), 78, Content::Text, false),
        payload: Bytes::from_static(&[0x5a; 22]),
    };
    criterion.bench_function("STREAM encode", |bencher| {
        bencher.iter(|| black_box(&frame).encode());
    });
    let Frame::Binary(bytes) = frame.encode() else { unreachable!("data frames are binary") };
    criterion.bench_function("STREAM decode", |bencher| {
        bencher.iter(|| BinaryFrame::decode(black_box(bytes.clone())).expect("it was encoded"));
    });
}
