//! Connections that break, coordinators that lie, agents that leave.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use iris_core::backend::{Gate, Script, ScriptedBackend};
use iris_crypto::Identity;
use iris_node::agent::{ConnectError, Connector, Link};
use iris_protocol::connection::CoordinatorEvent;
use iris_protocol::limits::Limits;
use iris_protocol::message::{ErrorCode, RefuseReason, Window};
use tokio::time::Instant;

use super::coordinator::Answer;
use super::*;

const TEXTS: usize = 12;

fn texts() -> Vec<String> {
    (0..TEXTS).map(|n| format!("{n} ")).collect()
}

/// Cuts the connection after `cuts` pieces each, and checks that the answer comes once.
async fn answer_across(cuts: &[usize], window: Window) {
    let backend = ScriptedBackend::saying("m".parse().unwrap(), texts());
    let (mut coordinator, connector) = Coordinator::new();
    coordinator.limits = Limits { window, ..Limits::default() };
    let _agent = Running::new(builder(&backend).build(), connector);
    coordinator.accept().await;
    coordinator.assign("m").await;
    assert!(matches!(coordinator.next().await, CoordinatorEvent::Accepted(_)));
    let mut answer = Answer::default();
    for cut in cuts {
        coordinator.read(&mut answer, *cut).await;
        assert_eq!(coordinator.cut(), []);
        coordinator.accept().await;
    }
    coordinator.read(&mut answer, usize::MAX).await;
    assert_eq!(answer.pieces, texts(), "cut after {cuts:?} with {window:?}");
    assert_eq!(answer.usage.unwrap().completion_tokens, 12);
    assert_eq!(backend.counts().started, 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_comes_once_wherever_the_connection_is_cut() {
    for frames in [1, 3, 256] {
        let window = Window { frames, bytes: 1 << 20 };
        for cut in 0..=TEXTS {
            answer_across(&[cut], window).await;
            answer_across(&[cut / 2, cut, cut], window).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn work_goes_on_while_the_connection_is_down() {
    let (gate, done) = (Gate::new(), Gate::new());
    let (open, reached) = (gate.clone(), done.clone());
    let backend =
        scripted(move || Script::new().text("a").wait(&gate).text("b").text("c").open(&done));
    let (mut coordinator, _agent) = online(&backend, 1).await;
    coordinator.assign("m").await;
    let mut answer = Answer::default();
    coordinator.read(&mut answer, 1).await;
    coordinator.cut();
    open.open();
    reached.opened().await;
    coordinator.accept().await;
    coordinator.read(&mut answer, usize::MAX).await;
    assert_eq!(answer.pieces, ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn work_that_the_coordinator_has_forgotten_is_dropped() {
    let gate = Gate::new();
    let backend = scripted(move || Script::new().text("a").wait(&gate));
    let (mut coordinator, _agent) = online(&backend, 1).await;
    coordinator.assign("m").await;
    coordinator.read(&mut Answer::default(), 1).await;
    coordinator.cut();
    coordinator.forget();
    coordinator.accept().await;
    until(|| backend.counts().cancelled == 1).await;
    // The new session numbers its assignments from the start.
    let again = coordinator.assign("m").await;
    assert_eq!(coordinator.next().await, CoordinatorEvent::Accepted(again));
    coordinator.read(&mut Answer::default(), 1).await;
}

#[tokio::test(start_paused = true)]
async fn an_offer_whose_prompt_was_cut_off_is_forgotten() {
    let backend = ScriptedBackend::saying("m".parse().unwrap(), texts());
    let (mut coordinator, _agent) = online(&backend, 1).await;
    let assignment = coordinator.assign_in_part("m").await;
    quiet().await;
    assert_eq!(coordinator.cut(), [assignment]);
    coordinator.accept().await;
    coordinator.assign("m").await;
    assert_eq!(coordinator.answer().await.pieces, texts());
    assert_eq!(backend.counts().started, 1);
}

#[tokio::test(start_paused = true)]
async fn the_first_retry_comes_at_once_and_later_ones_take_their_time() {
    let backend = ScriptedBackend::saying("m".parse().unwrap(), texts());
    let tries = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&tries);
    let connector = move || {
        seen.lock().unwrap().push(Instant::now());
        std::future::ready(Err(ConnectError::Refused { endpoint: "x".into(), status: 502 }))
    };
    let mut agent = Running::new(builder(&backend).build(), connector);
    tokio::time::sleep(Duration::from_mins(10)).await;
    agent.stop();
    assert_eq!(agent.ended().await, Ok(()));
    let tries = tries.lock().unwrap();
    let waits: Vec<_> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits[0] <= Duration::from_millis(251), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= Duration::from_millis(30_001)), "{waits:?}");
    assert!((20..50).contains(&waits.len()), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_not_accepted_ends_the_agent() {
    let backend = ScriptedBackend::saying("m".parse().unwrap(), texts());
    let error = ConnectError::Unauthorized { endpoint: "x".into(), status: 401 };
    let answer = error.clone();
    let connector = move || std::future::ready(Err(answer.clone()));
    let agent = Running::new(builder(&backend).build(), connector);
    assert_eq!(agent.ended().await, Err(AgentError::Connect(error)));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_was_replaced_does_not_come_back() {
    let backend = ScriptedBackend::saying("m".parse().unwrap(), texts());
    let (mut coordinator, agent) = online(&backend, 1).await;
    coordinator.connection().reject(ErrorCode::Replaced, None);
    coordinator.flush().await;
    let ended = agent.ended().await;
    assert_eq!(ended, Err(AgentError::Closed { code: ErrorCode::Replaced, message: None }));
}

#[tokio::test(start_paused = true)]
async fn a_silent_coordinator_is_given_up_after_35_seconds() {
    let backend = ScriptedBackend::saying("m".parse().unwrap(), texts());
    let (mut coordinator, _agent) = online(&backend, 1).await;
    let begin = Instant::now();
    assert!(coordinator.is_left().await);
    assert_eq!(begin.elapsed().as_secs(), 35);
    coordinator.cut();
    coordinator.accept().await;
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_cannot_prove_itself_gets_no_node() {
    let backend = ScriptedBackend::saying("m".parse().unwrap(), texts());
    let (mut coordinator, connector) = Coordinator::new();
    coordinator.forges = true;
    let mut agent = Running::new(builder(&backend).build(), connector);
    coordinator.accept().await;
    let begin = Instant::now();
    assert!(coordinator.is_left().await);
    assert_eq!(begin.elapsed(), Duration::ZERO);
    let wanted = Status::Offline { cause: Some(AgentError::BadProof) };
    agent.becomes(|status| *status == wanted).await;
    coordinator.cut();
    coordinator.forget();
    coordinator.forges = false;
    coordinator.accept().await;
    agent.becomes(|status| matches!(status, Status::Online { .. })).await;
}

#[tokio::test(start_paused = true)]
async fn work_outlives_whoever_cannot_prove_itself() {
    let gate = Gate::new();
    let held = gate.clone();
    let backend = scripted(move || Script::new().text("a").wait(&held).text("b"));
    let (mut coordinator, _agent) = online(&backend, 1).await;
    coordinator.assign("m").await;
    let mut answer = Answer::default();
    coordinator.read(&mut answer, 1).await;
    coordinator.cut();
    let session = coordinator.forget();
    coordinator.forges = true;
    coordinator.accept().await;
    assert!(coordinator.is_left().await);
    coordinator.cut();
    assert_eq!(backend.counts().running, 1);
    coordinator.remember(session);
    coordinator.forges = false;
    coordinator.accept().await;
    gate.open();
    coordinator.read(&mut answer, usize::MAX).await;
    assert_eq!(answer.pieces, ["a", "b"]);
    assert_eq!(backend.counts().started, 1);
}

#[tokio::test(start_paused = true)]
async fn another_coordinator_at_the_same_place_is_not_trusted() {
    let backend = ScriptedBackend::saying("m".parse().unwrap(), texts());
    let (mut coordinator, mut agent) = online(&backend, 1).await;
    let expected = coordinator.identity.public();
    agent.becomes(|status| matches!(status, Status::Online { .. })).await;
    coordinator.cut();
    coordinator.identity = Identity::generate();
    let found = coordinator.identity.public();
    coordinator.challenge_in_vain().await;
    let wanted = Status::Offline { cause: Some(AgentError::WrongCoordinator { expected, found }) };
    agent.becomes(|status| *status == wanted).await;
}

/// A way to a first coordinator, and to a second one once that has turned the node away.
struct Doors<A, B>(A, B, AtomicBool);

impl<A: Connector, B: Connector> Connector for Doors<A, B> {
    fn connect(&self) -> BoxFuture<'_, Result<Link, ConnectError>> {
        if self.2.load(Ordering::Relaxed) { self.1.connect() } else { self.0.connect() }
    }

    fn turned_away(&self, endpoint: &str, _for_good: bool) -> bool {
        self.2.store(true, Ordering::Relaxed);
        endpoint == "first"
    }
}

#[tokio::test(start_paused = true)]
async fn coordinator_that_wants_no_node_leaves_it_to_the_next() {
    let backend = ScriptedBackend::saying("m".parse().unwrap(), texts());
    let (mut first, to_first) = Coordinator::behind("first");
    let (mut second, to_second) = Coordinator::behind("second");
    let doors = Doors(to_first, to_second, AtomicBool::new(false));
    let mut agent = Running::new(builder(&backend).build(), doors);
    first.challenge().await;
    first.connection().reject(ErrorCode::Forbidden, None);
    first.flush().await;
    second.accept().await;
    agent.becomes(|status| matches!(status, Status::Online { .. })).await;
    // Whoever has let it in decides alone.
    second.connection().reject(ErrorCode::Replaced, None);
    second.flush().await;
    let ended = agent.ended().await;
    assert_eq!(ended, Err(AgentError::Closed { code: ErrorCode::Replaced, message: None }));
}

#[tokio::test(start_paused = true)]
async fn only_the_pinned_coordinator_is_trusted() {
    let backend = ScriptedBackend::saying("m".parse().unwrap(), texts());
    let (mut coordinator, connector) = Coordinator::new();
    let expected = Identity::generate().public();
    let found = coordinator.identity.public();
    let agent = builder(&backend).with_coordinator(expected).build();
    let mut agent = Running::new(agent, connector);
    coordinator.challenge_in_vain().await;
    let wanted = Status::Offline { cause: Some(AgentError::WrongCoordinator { expected, found }) };
    agent.becomes(|status| *status == wanted).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_leaves_finishes_its_work_and_takes_no_more() {
    let gate = Gate::new();
    let held = gate.clone();
    let backend = scripted(move || Script::new().text("a").wait(&held).text("b"));
    let (mut coordinator, mut agent) = online(&backend, 2).await;
    coordinator.assign("m").await;
    let mut answer = Answer::default();
    coordinator.read(&mut answer, 1).await;
    agent.stop();
    assert_eq!(coordinator.next().await, CoordinatorEvent::Draining);
    coordinator.assign("m").await;
    let CoordinatorEvent::Refused(refusal) = coordinator.next().await else { panic!() };
    assert_eq!(refusal.reason, RefuseReason::Draining);
    gate.open();
    coordinator.read(&mut answer, usize::MAX).await;
    assert_eq!(answer.pieces, ["a", "b"]);
    let begin = Instant::now();
    coordinator.answer_heartbeat().await;
    assert!(coordinator.is_left().await);
    assert_eq!(agent.ended().await, Ok(()));
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_last_answer_of_a_leaving_agent_survives_a_cut() {
    let gate = Gate::new();
    let held = gate.clone();
    let backend = scripted(move || Script::new().text("a").wait(&held).text("b"));
    let (mut coordinator, mut agent) = online(&backend, 1).await;
    coordinator.assign("m").await;
    let mut answer = Answer::default();
    coordinator.read(&mut answer, 1).await;
    agent.stop();
    assert_eq!(coordinator.next().await, CoordinatorEvent::Draining);
    coordinator.cut();
    gate.open();
    coordinator.accept().await;
    loop {
        match coordinator.next().await {
            CoordinatorEvent::Draining => {}
            CoordinatorEvent::Result(_) => break,
            event => answer.pieces.push(coordinator.open(event)),
        }
    }
    assert_eq!(answer.pieces, ["a", "b"]);
    assert_eq!(agent.ended().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_leaves_waits_a_minute_and_no_longer() {
    let gate = Gate::new();
    let backend = scripted(move || Script::new().text("a").wait(&gate));
    let (mut coordinator, mut agent) = online(&backend, 1).await;
    coordinator.assign_with("m", |task| task.time_left_ms = 600_000).await;
    coordinator.read(&mut Answer::default(), 1).await;
    agent.stop();
    let begin = Instant::now();
    let listen = async { while coordinator.try_event().await {} };
    let (ended, ()) = tokio::join!(agent.ended(), listen);
    assert_eq!(ended, Ok(()));
    assert_eq!(begin.elapsed().as_secs(), 60);
    until(|| backend.counts().cancelled == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_sealing_key_is_announced_before_the_old_one_ends() {
    let backend = ScriptedBackend::saying("m".parse().unwrap(), texts());
    let begin = Instant::now();
    let agent = builder(&backend).with_clock(move || NOW.saturating_add(begin.elapsed()));
    let (mut coordinator, _agent) = online_as(agent).await;
    let first = coordinator.register.as_ref().unwrap().certificate.clone();
    let CoordinatorEvent::Certificate(second) = coordinator.next().await else { panic!() };
    let hours = begin.elapsed().as_secs_f64() / 3600.0;
    assert!((5.4..5.6).contains(&hours), "{hours}");
    // Sealed to the old key: the announcement crossed the new epoch.
    coordinator.rekey(first.as_bytes()).await;
    coordinator.assign("m").await;
    assert_eq!(coordinator.answer().await.pieces, texts());
    coordinator.rekey(second.certificate.as_bytes()).await;
    coordinator.assign("m").await;
    assert_eq!(coordinator.answer().await.pieces, texts());
}
