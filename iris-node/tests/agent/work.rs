//! Assignments on a connection that holds.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use iris_core::backend::{
    Backend, BackendError, Chunk, Counts, Gate, GenerateRequest, Script, ScriptedBackend, Step,
};
use iris_core::model::{Abilities, ModelOffer};
use iris_protocol::connection::CoordinatorEvent;
use iris_protocol::limits::Limits;
use iris_protocol::message::{RefuseReason, TaskRefuse, Window};
use tokio::time::Instant;

use super::*;

fn saying(texts: usize) -> ScriptedBackend {
    let texts: Vec<_> = (0..texts).map(|n| format!("{n} ")).collect();
    ScriptedBackend::saying("m".parse().unwrap(), texts)
}

fn numbers(texts: usize) -> Vec<String> {
    (0..texts).map(|n| format!("{n} ")).collect()
}

pub(crate) async fn refusal(coordinator: &mut Coordinator) -> RefuseReason {
    let event = coordinator.next().await;
    let CoordinatorEvent::Refused(TaskRefuse { reason, .. }) = event else { panic!("{event:?}") };
    reason
}

#[tokio::test(start_paused = true)]
async fn an_answer_streams_in_order_with_its_usage() {
    let (mut coordinator, _agent) = online(&saying(20), 1).await;
    for _ in 0..3 {
        coordinator.assign("m").await;
        let answer = coordinator.answer().await;
        assert_eq!(answer.pieces, numbers(20));
        assert_eq!(answer.usage.unwrap().completion_tokens, 20);
    }
}

#[tokio::test(start_paused = true)]
async fn the_registration_tells_what_the_node_is() {
    let backend = saying(1);
    let builder = builder(&backend).with_slots(3).with_name("under\u{202e} the stairs");
    let (coordinator, mut agent) = online_as(builder).await;
    let register = coordinator.register.unwrap();
    assert_eq!(register.slots, 3);
    assert_eq!(register.models, [ModelOffer::new("m".parse().unwrap(), 8192)]);
    assert_eq!(register.name.unwrap().as_str(), "under the stairs");
    assert_eq!(
        register.capabilities,
        ["continue", "seal", "classify"].map(|name| name.parse().unwrap())
    );
    assert_eq!(register.resume, None);
    agent.becomes(|status| matches!(status, Status::Online { .. })).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_says_how_fast_its_models_are_before_it_takes_work() {
    let backend = scripted(|| Script::saying(["a"; 32]).wait(&Gate::new()));
    let (coordinator, _agent) = online_as(builder(&backend).with_measurement(true)).await;
    let speed = coordinator.register.unwrap().models[0].speed.unwrap();
    assert_eq!(speed.as_millis(), 31_000 / 5, "31 more tokens within the limit of 5 s");
    assert_eq!(backend.counts().cancelled, 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_node_refuses_and_its_backend_hears_nothing_of_it() {
    let gate = Gate::new();
    let held = gate.clone();
    let backend = scripted(move || Script::new().wait(&held).text("a"));
    let (mut coordinator, _agent) = online(&backend, 2).await;
    for _ in 0..2 {
        coordinator.assign("m").await;
        assert!(matches!(coordinator.next().await, CoordinatorEvent::Accepted(_)));
    }
    coordinator.assign("m").await;
    assert_eq!(refusal(&mut coordinator).await, RefuseReason::Busy);
    assert_eq!(backend.counts().started, 2);
    gate.open();
}

#[tokio::test(start_paused = true)]
async fn what_a_node_cannot_do_it_refuses_by_reason() {
    let backend = saying(1);
    let (mut coordinator, _agent) = online(&backend, 1).await;
    coordinator.assign("another").await;
    assert_eq!(refusal(&mut coordinator).await, RefuseReason::ModelNotFound);
    coordinator.assign_altered("m").await;
    assert_eq!(refusal(&mut coordinator).await, RefuseReason::StaleKey);
    assert_eq!(backend.counts().started, 0);
    coordinator.assign("m").await;
    assert_eq!(coordinator.answer().await.pieces, ["0 "]);
}

/// Makes a backend that can go on from what another wrote.
fn continuing(texts: usize) -> ScriptedBackend {
    let mut offer = ModelOffer::new("m".parse().unwrap(), 4096);
    offer.abilities = Abilities::CONTINUE;
    ScriptedBackend::new([offer], move |_| Script::saying(numbers(texts)))
}

#[tokio::test(start_paused = true)]
async fn a_begun_answer_goes_on_behind_its_beginning() {
    let backend = continuing(6);
    let (mut coordinator, _agent) = online(&backend, 1).await;
    coordinator.assign_begun("m", b"0 1 2", 5).await;
    let answer = coordinator.answer().await;
    assert_eq!(answer.pieces, [" ", "3 ", "4 ", "5 "]);
    assert_eq!(answer.usage.unwrap().completion_tokens, 6);
}

#[tokio::test(start_paused = true)]
async fn a_beginning_that_is_none_is_refused_and_harms_nobody() {
    let backend = continuing(2);
    let (mut coordinator, _agent) = online(&backend, 1).await;
    // Not text, a part of a character, no request left, more than there is.
    let body = u32::try_from(r#"{"model":"m","stream":true,"messages":[]}"#.len()).unwrap();
    for (begun, bytes) in [(&b"\xff"[..], 1), ("€".as_bytes(), 2), (b"0 ", body + 2), (b"0 ", 60)]
    {
        coordinator.assign_begun("m", begun, bytes).await;
        assert_eq!(refusal(&mut coordinator).await, RefuseReason::BadRequest);
    }
    assert_eq!(backend.counts().started, 0);
    coordinator.assign("m").await;
    assert_eq!(coordinator.answer().await.pieces, ["0 ", "1 "]);

    let unable = saying(3);
    let (mut coordinator, _agent) = online(&unable, 1).await;
    coordinator.assign_begun("m", b"0 ", 2).await;
    assert_eq!(refusal(&mut coordinator).await, RefuseReason::ModelNotFound);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_task_is_dropped_at_once_and_frees_its_slot() {
    let gate = Gate::new();
    let backend = scripted(move || Script::new().text("a").wait(&gate).text("b"));
    let (mut coordinator, _agent) = online(&backend, 1).await;
    let first = coordinator.assign("m").await;
    assert_eq!(coordinator.next().await, CoordinatorEvent::Accepted(first));
    assert!(matches!(coordinator.next().await, CoordinatorEvent::Stream(_)));
    let before = Instant::now();
    coordinator.cancel(first).await;
    assert_eq!(coordinator.next().await, CoordinatorEvent::Cancelled(first));
    let second = coordinator.assign("m").await;
    assert_eq!(coordinator.next().await, CoordinatorEvent::Accepted(second));
    until(|| backend.counts().cancelled == 1).await;
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn every_fault_of_a_backend_reaches_the_coordinator_by_type() {
    let rejected = BackendError::Rejected {
        status: 400,
        code: Some("context_length_exceeded".to_owned()),
        param: None,
        message: "too\nlong".to_owned(),
    };
    for fault in [rejected, BackendError::Busy, BackendError::Unavailable, BackendError::Failed] {
        let error = fault.clone();
        let backend = scripted(move || Script::new().text("a").fail(error.clone()));
        let (mut coordinator, _agent) = online(&backend, 1).await;
        coordinator.assign("m").await;
        let answer = coordinator.answer().await;
        assert_eq!(answer.pieces, ["a"]);
        let expected = match fault {
            BackendError::Rejected { status, code, param, .. } => {
                BackendError::Rejected { status, code, param, message: "too long".to_owned() }
            }
            other => other,
        };
        assert_eq!(answer.error, Some(expected));
        coordinator.assign("m").await;
        assert!(matches!(coordinator.next().await, CoordinatorEvent::Accepted(_)));
    }
}

#[derive(Debug)]
struct Odd(fn() -> BoxStream<'static, Result<Chunk, BackendError>>);

impl Backend for Odd {
    fn models(&self) -> BoxFuture<'_, Result<Vec<ModelOffer>, BackendError>> {
        Box::pin(async { Ok(vec![ModelOffer::new("m".parse().unwrap(), 10)]) })
    }

    fn generate(&self, _: GenerateRequest) -> BoxStream<'static, Result<Chunk, BackendError>> {
        (self.0)()
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_breaks_its_contract_fails_its_task_alone() {
    let huge = || -> BoxStream<'static, _> {
        let chunk = Chunk::Whole(vec![b' '; 33 << 20].into());
        Box::pin(stream::iter([Ok(chunk)]))
    };
    let cases: [(fn() -> BoxStream<'static, _>, _); 3] = [
        (|| Box::pin(stream::empty()), BackendError::Failed),
        (|| panic!("on purpose"), BackendError::Failed),
        (huge, BackendError::Malformed),
    ];
    for (odd, expected) in cases {
        let (mut coordinator, _agent) = online_as(builder_of(Arc::new(Odd(odd)))).await;
        for _ in 0..2 {
            coordinator.assign("m").await;
            assert_eq!(coordinator.answer().await.error, Some(expected.clone()));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_piece_longer_than_a_frame_is_cut_and_marked() {
    let whole = "x".repeat(5 << 19);
    let expected = whole.clone();
    let backend =
        scripted(move || Script::new().step(Step::Chunk(Chunk::Whole(whole.clone().into()))));
    let (mut coordinator, _agent) = online(&backend, 1).await;
    coordinator.assign_with("m", |task| task.enable_streaming = false).await;
    let answer = coordinator.answer().await;
    assert_eq!(answer.pieces.len(), 3);
    assert_eq!(answer.pieces.concat(), expected);
    assert!(answer.usage.is_some());
}

#[tokio::test(start_paused = true)]
async fn the_backend_is_not_asked_for_more_than_the_coordinator_takes() {
    let (early, late) = (Gate::new(), Gate::new());
    let (reached, beyond) = (early.clone(), late.clone());
    let backend = scripted(move || {
        let script = Script::saying(numbers(4)).open(&early);
        let script = numbers(60).into_iter().fold(script, Script::text);
        script.open(&late).text("end")
    });
    let limits = Limits { window: Window { frames: 4, bytes: 1 << 20 }, ..Limits::default() };
    let (mut coordinator, connector) = Coordinator::new();
    coordinator.limits = limits;
    let _agent = Running::new(builder(&backend).build(), connector);
    coordinator.accept().await;
    coordinator.assign("m").await;
    reached.opened().await;
    quiet().await;
    assert!(futures::FutureExt::now_or_never(beyond.opened()).is_none());
    let answer = coordinator.answer().await;
    assert_eq!(answer.pieces.len(), 65);
    assert_eq!(answer.pieces[64], "end");
}

#[tokio::test(start_paused = true)]
async fn a_silent_backend_is_shown_to_be_at_work_every_five_seconds() {
    let gate = Gate::new();
    let backend = scripted(move || Script::new().text("a").wait(&gate));
    let (mut coordinator, _agent) = online(&backend, 1).await;
    let assignment = coordinator.assign("m").await;
    assert_eq!(coordinator.next().await, CoordinatorEvent::Accepted(assignment));
    assert!(matches!(coordinator.next().await, CoordinatorEvent::Stream(_)));
    let begin = Instant::now();
    for beat in 1..=4 {
        assert_eq!(coordinator.next().await, CoordinatorEvent::Progress(assignment));
        assert_eq!(begin.elapsed().as_secs(), 5 * beat);
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_ends_when_its_time_is_up() {
    let gate = Gate::new();
    let backend = scripted(move || Script::new().text("a").wait(&gate));
    let (mut coordinator, _agent) = online(&backend, 1).await;
    coordinator.assign_with("m", |task| task.time_left_ms = 3000).await;
    let begin = Instant::now();
    let answer = coordinator.answer().await;
    assert_eq!(answer.error, Some(BackendError::Timeout));
    assert_eq!(begin.elapsed().as_secs(), 3);
    until(|| backend.counts() == Counts { started: 1, cancelled: 1, ..Counts::default() }).await;
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_answer_nobody_takes_still_ends_in_time() {
    let (mut coordinator, connector) = Coordinator::new();
    coordinator.limits.window = Window { frames: 4, bytes: 1 << 20 };
    let _agent = Running::new(builder(&saying(100)).build(), connector);
    coordinator.accept().await;
    coordinator.assign_with("m", |task| task.time_left_ms = 3000).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let answer = coordinator.answer().await;
    assert_eq!(answer.error, Some(BackendError::Timeout));
    assert_eq!(answer.pieces, numbers(answer.pieces.len()));
    assert!((4..100).contains(&answer.pieces.len()));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_does_not_keep_the_slot_of_a_finished_answer() {
    let (mut coordinator, connector) = Coordinator::new();
    coordinator.limits.window = Window { frames: 4, bytes: 1 << 20 };
    let _agent = Running::new(builder(&saying(12)).build(), connector);
    coordinator.accept().await;
    coordinator.assign("m").await;
    quiet().await;
    let second = coordinator.assign("m").await;
    let accepted = CoordinatorEvent::Accepted(second);
    for _ in 0..6 {
        if coordinator.next().await == accepted {
            return;
        }
    }
    panic!("the slot is still taken");
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_not_kept_for_a_prompt_that_never_comes() {
    let (mut coordinator, _agent) = online(&saying(1), 1).await;
    let assignment = coordinator.assign_in_part("m").await;
    let event = coordinator.next().await;
    let refused = TaskRefuse { assignment, reason: RefuseReason::Other };
    assert_eq!(event, CoordinatorEvent::Refused(refused));
    coordinator.assign("m").await;
    assert_eq!(coordinator.answer().await.pieces, ["0 "]);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_come_every_ten_seconds_with_what_runs() {
    let gate = Gate::new();
    let backend = scripted(move || Script::new().wait(&gate));
    let (mut coordinator, _agent) = online(&backend, 2).await;
    let begin = Instant::now();
    for beat in 1..=12 {
        if beat == 6 {
            coordinator.assign_with("m", |task| task.time_left_ms = 55_000).await;
        }
        let heartbeat = loop {
            if let CoordinatorEvent::Heartbeat(heartbeat) = coordinator.event().await {
                break heartbeat;
            }
        };
        assert_eq!(begin.elapsed().as_secs(), 10 * beat);
        assert_eq!(heartbeat.running, u32::from((6..=10).contains(&beat)));
    }
}

/// Offers models that change.
#[derive(Debug, Default)]
struct Changing(std::sync::Mutex<Vec<ModelOffer>>);

impl Changing {
    fn load(&self, model: &str) {
        self.0.lock().unwrap().push(ModelOffer::new(model.parse().unwrap(), 10));
    }
}

impl Backend for Changing {
    fn models(&self) -> BoxFuture<'_, Result<Vec<ModelOffer>, BackendError>> {
        let offers = self.0.lock().unwrap().clone();
        Box::pin(async { Ok(offers) })
    }

    fn generate(&self, _: GenerateRequest) -> BoxStream<'static, Result<Chunk, BackendError>> {
        Box::pin(stream::iter([Err(BackendError::ModelNotFound)]))
    }
}

async fn told(coordinator: &mut Coordinator) -> usize {
    loop {
        if let CoordinatorEvent::Heartbeat(heartbeat) = coordinator.event().await
            && let Some(models) = heartbeat.models
        {
            return models.len();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn models_that_come_and_go_are_told() {
    let backend = Arc::new(Changing::default());
    let (mut coordinator, _agent) = online_as(builder_of(backend.clone())).await;
    assert_eq!(coordinator.register.as_ref().unwrap().models, []);
    let begin = Instant::now();
    backend.load("a");
    assert_eq!(told(&mut coordinator).await, 1);
    assert_eq!(begin.elapsed().as_secs(), 30);

    // A fault makes the agent look at once.
    coordinator.assign("a").await;
    backend.load("b");
    assert_eq!(coordinator.answer().await.error, Some(BackendError::ModelNotFound));
    assert_eq!(told(&mut coordinator).await, 2);
    assert_eq!(begin.elapsed().as_secs(), 31);
}

#[tokio::test(start_paused = true)]
async fn models_that_change_during_registration_are_told_after_it() {
    let backend = Arc::new(Changing::default());
    let agent = builder_of(backend.clone()).with_list_interval(Duration::from_secs(1));
    let (mut coordinator, connector) = Coordinator::new();
    let _agent = Running::new(agent.build(), connector);
    coordinator.challenge().await;
    assert_eq!(coordinator.register.as_ref().unwrap().models, []);
    backend.load("a");
    tokio::time::sleep(Duration::from_secs(2)).await;
    coordinator.welcome();
    assert_eq!(told(&mut coordinator).await, 1);
}
