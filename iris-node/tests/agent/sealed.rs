//! Requests that their callers sealed to the node.

use std::time::Duration;

use iris_core::backend::{BackendError, Finish, Gate, Operation, Script, Usage};
use iris_crypto::seal::{
    AnswerEvent, AnswerOpener, Prompt, Record, RecordKind, RecordReader, SealedRequest, Shape,
    SignedReceipt, Terms,
};
use iris_protocol::connection::CoordinatorEvent;
use iris_protocol::message::{RefuseReason, TaskError, TaskResult};
use tokio::time::Instant;

use super::coordinator::{Coordinator, NOW};
use super::{online, scripted};

fn sealed(coordinator: &Coordinator, shape: Shape, stream: bool) -> (SealedRequest, AnswerOpener) {
    let body = format!(r#"{{"model":"m","stream":{stream},"messages":[]}}"#);
    let prompt = Prompt { operation: Operation::Chat, stream, body: body.into() };
    let terms = Terms { shape, ..Terms::new("m".parse().unwrap(), NOW) };
    SealedRequest::seal(&coordinator.certificate(), terms, &prompt).unwrap()
}

/// What a coordinator sees of a sealed answer.
#[derive(Default)]
struct Seen {
    /// The records, and when each came.
    records: Vec<(Duration, Record)>,
    marks: usize,
    result: Option<TaskResult>,
    error: Option<TaskError>,
}

impl Seen {
    async fn of(coordinator: &mut Coordinator) -> Self {
        let (mut seen, begun) = (Self::default(), Instant::now());
        loop {
            match coordinator.next().await {
                CoordinatorEvent::Accepted(_) => {}
                CoordinatorEvent::Progress(_) => seen.marks += 1,
                CoordinatorEvent::Result(result) => {
                    seen.result = Some(result);
                    return seen;
                }
                CoordinatorEvent::Failed(error) => {
                    seen.error = Some(error);
                    return seen;
                }
                event => {
                    // Every part consists of whole records.
                    let mut reader = RecordReader::new();
                    reader.push(&coordinator.open_bytes(event));
                    while let Some(record) = reader.pop().unwrap() {
                        seen.records.push((begun.elapsed(), record));
                    }
                    assert!(reader.is_empty());
                }
            }
        }
    }

    /// Returns when frames came, in tenths of a second.
    fn times(&self) -> Vec<u128> {
        let frames = self.records.iter().filter(|(_, record)| record.kind == RecordKind::Frame);
        frames.map(|(at, _)| at.as_millis() / 100).collect()
    }

    fn receipt(&self) -> SignedReceipt {
        let result = self.result.as_ref().and_then(|result| result.receipt.as_ref());
        let error = self.error.as_ref().and_then(|error| error.receipt.as_ref());
        SignedReceipt::decode(result.or(error).unwrap().as_bytes()).unwrap()
    }

    /// Returns what the caller makes of it.
    fn opened(&self, mut opener: AnswerOpener) -> Vec<AnswerEvent> {
        let mut events = Vec::new();
        for (_, record) in &self.records {
            events.extend(opener.handle_record(record).unwrap());
        }
        let payload = self.receipt().encode();
        let receipt = Record { kind: RecordKind::Receipt, payload };
        events.extend(opener.handle_record(&receipt).unwrap());
        assert_eq!(opener.close(), Ok(()));
        events
    }
}

fn text(events: &[AnswerEvent]) -> String {
    let texts = events.iter().filter_map(|event| match event {
        AnswerEvent::Text(text) => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

fn finished(events: &[AnswerEvent]) -> Option<&Finish> {
    events.iter().find_map(|event| match event {
        AnswerEvent::Finished(finish) => Some(finish),
        _ => None,
    })
}

#[tokio::test(start_paused = true)]
async fn sealed_answer_opens_in_every_shape_and_leaves_a_receipt() {
    for shape in [Shape::Off, Shape::Batched, Shape::Paced] {
        let backend = scripted(|| Script::saying(["The capital ", "is ", "Paris."]));
        let (mut coordinator, _agent) = online(&backend, 1).await;
        let (request, opener) = sealed(&coordinator, shape, true);
        coordinator.assign_sealed("m", request.wire()).await;
        let seen = Seen::of(&mut coordinator).await;
        let events = seen.opened(opener);
        assert_eq!(text(&events), "The capital is Paris.", "{shape:?}");
        let usage = finished(&events).unwrap().usage;
        let result = seen.result.as_ref().unwrap();
        assert_ne!(usage, result.usage, "the coordinator learns no exact count");
        let coarse = |tokens: u32| tokens.next_multiple_of(64);
        let expected = Usage {
            prompt_tokens: coarse(usage.prompt_tokens),
            completion_tokens: coarse(usage.completion_tokens),
        };
        assert_eq!((result.usage, result.reason.as_str()), (expected, "stop"));
        let receipt = seen.receipt();
        assert_eq!(receipt.verify(coordinator.certificate().identity()), Ok(()));
        assert_eq!(receipt.receipt().request, request.digest());
    }
}

#[tokio::test(start_paused = true)]
async fn attack_13_paced_frames_are_alike_and_leave_by_the_clock() {
    let mut seen_ticks = Vec::new();
    for answer in [&["x"][..], &["no", "thing ", "alike", " at all, and longer"]] {
        let answer: Vec<String> = answer.iter().map(|text| (*text).to_owned()).collect();
        let backend = scripted(move || Script::saying(answer.iter().map(String::as_str)));
        let (mut coordinator, _agent) = online(&backend, 1).await;
        let (request, opener) = sealed(&coordinator, Shape::Paced, true);
        coordinator.assign_sealed("m", request.wire()).await;
        let seen = Seen::of(&mut coordinator).await;
        assert!(finished(&seen.opened(opener)).is_some());
        let ticks: Vec<_> = seen
            .records
            .iter()
            .filter(|(_, record)| record.kind == RecordKind::Frame)
            .map(|(at, record)| (at.as_millis() / 100 * 100, record.payload.len()))
            .collect();
        seen_ticks.push(ticks);
    }
    let expected: Vec<_> = (1..=5).map(|tick| (tick * 200, 272)).collect();
    assert_eq!(seen_ticks, [expected.clone(), expected]);
}

#[tokio::test(start_paused = true)]
async fn attack_13_whole_answer_leaves_with_its_class_and_not_when_it_is_made() {
    let mut seen_times = Vec::new();
    for made_after in [250, 950] {
        let gate = Gate::new();
        let backend = scripted({
            let gate = gate.clone();
            move || Script::new().wait(&gate).text("Paris")
        });
        let (mut coordinator, _agent) = online(&backend, 1).await;
        let (request, opener) = sealed(&coordinator, Shape::Paced, false);
        coordinator.assign_sealed("m", request.wire()).await;
        let making = async {
            tokio::time::sleep(Duration::from_millis(made_after)).await;
            gate.open();
        };
        let (seen, ()) = tokio::join!(Seen::of(&mut coordinator), making);
        assert!(finished(&seen.opened(opener)).is_some());
        seen_times.push(seen.times());
    }
    assert_eq!(seen_times[0], seen_times[1]);
}

#[tokio::test(start_paused = true)]
async fn paced_answer_ends_with_a_class_of_durations_and_shows_progress_meanwhile() {
    let gate = Gate::new();
    let backend = scripted({
        let gate = gate.clone();
        move || Script::new().wait(&gate).text("late")
    });
    let (mut coordinator, _agent) = online(&backend, 1).await;
    let (request, opener) = sealed(&coordinator, Shape::Paced, true);
    coordinator.assign_sealed("m", request.wire()).await;
    let opening = async {
        tokio::time::sleep(Duration::from_millis(12_050)).await;
        gate.open();
    };
    let (seen, ()) = tokio::join!(Seen::of(&mut coordinator), opening);
    assert_eq!(text(&seen.opened(opener)), "late");
    assert_eq!(seen.marks, 2, "a mark every five seconds, whatever frames leave");
    // 61 ticks until the text, one for the end; the next class after 51 and 63 is 78.
    let frames = seen.records.len() - 1;
    assert_eq!(frames, 63);
    let last = seen.records.last().unwrap().0.as_millis() / 100;
    assert_eq!(last, 126);
}

#[tokio::test(start_paused = true)]
async fn fast_answer_leaves_in_bursts_of_class_sizes() {
    let long = "x".repeat(1500);
    let backend = scripted(move || Script::saying([long.as_str()]));
    let (mut coordinator, _agent) = online(&backend, 1).await;
    let (request, opener) = sealed(&coordinator, Shape::Paced, true);
    coordinator.assign_sealed("m", request.wire()).await;
    let seen = Seen::of(&mut coordinator).await;
    assert_eq!(text(&seen.opened(opener)).len(), 1500);
    let first_tick = |(at, record): &&(Duration, Record)| {
        at.as_millis() / 100 == 2 && record.kind == RecordKind::Frame
    };
    // Six frames hold it; the classes are 1, 2, 3, 4, 5, 6, 7, 8, 10 and so on.
    assert_eq!(seen.records.iter().filter(first_tick).count(), 6);
}

#[tokio::test(start_paused = true)]
async fn whole_answer_and_long_objects_arrive_unchanged() {
    let backend = scripted(|| Script::saying(["x".repeat(200_000).as_str()]));
    for shape in [Shape::Off, Shape::Paced] {
        let (mut coordinator, _agent) = online(&backend, 1).await;
        let (request, opener) = sealed(&coordinator, shape, false);
        coordinator.assign_sealed("m", request.wire()).await;
        let seen = Seen::of(&mut coordinator).await;
        let events = seen.opened(opener);
        let whole = events.iter().find_map(|event| match event {
            AnswerEvent::Whole(json) => Some(json),
            _ => None,
        });
        let json: serde_json::Value = serde_json::from_slice(whole.unwrap()).unwrap();
        assert!(json.to_string().contains(&"x".repeat(200_000)), "{shape:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_model_server_says_of_a_failure_is_sealed() {
    let error = BackendError::Rejected {
        status: 422,
        code: Some("secret_code".to_owned()),
        param: Some("secret_param".to_owned()),
        message: "a secret of the prompt".to_owned(),
    };
    let backend = scripted({
        let error = error.clone();
        move || Script::new().text("so far").fail(error.clone())
    });
    let (mut coordinator, _agent) = online(&backend, 1).await;
    let (request, opener) = sealed(&coordinator, Shape::Off, true);
    coordinator.assign_sealed("m", request.wire()).await;
    let seen = Seen::of(&mut coordinator).await;
    let events = seen.opened(opener);
    assert!(events.contains(&AnswerEvent::Failed(error)));
    assert_eq!(finished(&events), None);
    let error = seen.error.unwrap().error;
    let clear = format!("{error:?}");
    assert!(!clear.contains("secret") && !clear.contains("422"), "{clear}");
    assert!(error.is_callers_fault());
}

#[tokio::test(start_paused = true)]
async fn attack_02_second_copy_is_refused_and_the_first_goes_on() {
    let backend = scripted(|| Script::saying(["once"]));
    let (mut coordinator, _agent) = online(&backend, 2).await;
    let (request, opener) = sealed(&coordinator, Shape::Off, true);
    coordinator.assign_sealed("m", request.wire()).await;
    assert_eq!(text(&Seen::of(&mut coordinator).await.opened(opener)), "once");
    coordinator.assign_sealed("m", request.wire()).await;
    let event = coordinator.next().await;
    let CoordinatorEvent::Refused(refuse) = event else { panic!("{event:?}") };
    assert_eq!(refuse.reason, RefuseReason::SealRejected);
}
