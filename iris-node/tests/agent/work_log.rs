//! What a node's owner hears of its work.

use std::sync::Mutex;
use std::time::Duration;

use iris_core::backend::{BackendError, Gate, Operation, Usage};
use iris_crypto::seal::{Prompt, SealedRequest, Shape, SignedReceipt, Terms};
use iris_node::agent::{Done, Outcome, Privacy, Work, WorkLog};

use super::*;

/// Remembers what it hears.
#[derive(Debug, Default)]
struct Ears {
    begun: Mutex<Vec<u64>>,
    ended: Mutex<Vec<Done>>,
}

impl WorkLog for Ears {
    fn begun(&self, work: &Work) {
        self.begun.lock().unwrap().push(work.number);
    }

    fn ended(&self, done: Done) {
        self.ended.lock().unwrap().push(done);
    }
}

impl Ears {
    fn outcomes(&self) -> Vec<Outcome> {
        self.ended.lock().unwrap().iter().map(|done| done.outcome).collect()
    }
}

async fn heard(backend: &ScriptedBackend) -> (Coordinator, Running, Arc<Ears>) {
    let ears = Arc::new(Ears::default());
    let log: Arc<dyn WorkLog> = ears.clone();
    let (coordinator, agent) = online_as(builder(backend).with_slots(2).with_work_log(log)).await;
    (coordinator, agent, ears)
}

#[tokio::test(start_paused = true)]
async fn each_end_of_a_task_is_heard_once() {
    let scripts = Mutex::new(vec![
        Script::saying(["a"; 3]),
        Script::new().fail(BackendError::Timeout),
        Script::new().text("a").fail(BackendError::Unavailable),
        Script::new().fail(BackendError::Rejected {
            status: 400,
            code: None,
            param: None,
            message: "no".to_owned(),
        }),
    ]);
    let backend = scripted(move || scripts.lock().unwrap().remove(0));
    let (mut coordinator, _agent, ears) = heard(&backend).await;
    for _ in 0..4 {
        coordinator.assign("m").await;
        coordinator.answer().await;
    }
    let expected = [Outcome::Finished, Outcome::TimedOut, Outcome::Failed, Outcome::Rejected];
    assert_eq!(ears.outcomes(), expected);
    assert_eq!(*ears.begun.lock().unwrap(), [1, 2, 3, 4]);
    let ended = ears.ended.lock().unwrap();
    let first = &ended[0];
    assert_eq!((first.work.privacy, first.receipt.as_ref()), (Privacy::Open, None));
    assert_eq!((first.usage.completion_tokens, first.work.begun), (3, NOW));
    assert_eq!(ended[1].usage, Usage::default());
}

#[tokio::test(start_paused = true)]
async fn work_that_nobody_wants_any_more_is_heard_as_dropped() {
    let backend = scripted(|| Script::new().text("a").wait(&Gate::new()));
    let (mut coordinator, agent, ears) = heard(&backend).await;
    let first = coordinator.assign("m").await;
    coordinator.next().await;
    quiet().await;
    coordinator.cancel(first).await;
    quiet().await;
    assert_eq!(ears.outcomes(), [Outcome::Dropped]);
    coordinator.assign("m").await;
    quiet().await;
    agent.task.abort();
    let _ = agent.task.await;
    assert_eq!(ears.outcomes(), [Outcome::Dropped, Outcome::Dropped]);
}

#[tokio::test(start_paused = true)]
async fn what_was_signed_of_a_sealed_answer_is_heard() {
    let usage = Usage { prompt_tokens: 3, completion_tokens: 70 };
    let backend = scripted(move || Script::new().text("a").finish("stop", usage));
    let ears = Arc::new(Ears::default());
    let log: Arc<dyn WorkLog> = ears.clone();
    let identity = Identity::generate();
    let public = identity.public();
    let agent = Agent::builder(identity, Arc::new(backend))
        .with_clock(|| NOW)
        .with_measurement(false)
        .with_work_log(log);
    let (mut coordinator, _agent) = online_as(agent).await;
    let body = r#"{"model":"m","messages":[]}"#.into();
    let prompt = Prompt { operation: Operation::Chat, stream: true, body };
    let terms = Terms { shape: Shape::Off, ..Terms::new("m".parse().unwrap(), NOW) };
    let sealed = SealedRequest::seal(&coordinator.certificate(), terms, &prompt).unwrap();
    coordinator.assign_sealed("m", sealed.0.wire()).await;
    until_ended(&mut coordinator, &ears).await;
    let ended = ears.ended.lock().unwrap();
    let Done { work, outcome, usage, receipt, .. } = &ended[0];
    assert_eq!((work.privacy, *outcome), (Privacy::Sealed, Outcome::Finished));
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (64, 128));
    let receipt = SignedReceipt::decode(receipt.as_ref().unwrap()).unwrap();
    assert_eq!(receipt.verify(&public), Ok(()));
    assert_eq!(receipt.receipt().usage, *usage);
}

async fn until_ended(coordinator: &mut Coordinator, ears: &Ears) {
    while ears.ended.lock().unwrap().is_empty() {
        coordinator.next().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_sees_tokens_and_the_way_to_the_coordinator() {
    let backend = scripted(|| Script::saying(["a"; 5]));
    let (mut coordinator, connector) = Coordinator::new();
    let agent = builder(&backend).build();
    let observer = agent.observer();
    assert_eq!(observer.status(), Status::Offline { cause: None });
    let _agent = Running::new(agent, connector);
    coordinator.accept().await;
    assert_eq!(observer.round_trip(), None);
    coordinator.assign("m").await;
    coordinator.answer().await;
    assert_eq!(observer.written(), 5);
    coordinator.answer_heartbeat().await;
    until(|| observer.round_trip().is_some()).await;
    assert!(observer.round_trip() < Some(Duration::from_secs(1)));
    let Status::Online { endpoint, since, .. } = observer.status() else { panic!() };
    assert_eq!((&*endpoint, since), ("memory", NOW));
}
