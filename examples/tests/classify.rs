//! Nodes say how hard questions are: the real coordinator and agents, in virtual time.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

mod net;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use iris_coordinator::TaskEvent;
use iris_coordinator::classify::{ClassifierChain, Readers};
use iris_core::backend::{BackendError, Gate, Script, ScriptedBackend};
use iris_core::classify::{Question, Rules};
use iris_core::demand::Difficulty;
use iris_core::store::MemoryStore;
use iris_core::task::Outcome;
use net::{Net, read};

async fn network() -> Net {
    let chain = ClassifierChain::new().then(Rules).then_node();
    let store = Arc::new(MemoryStore::default());
    Net::set_up(store, |builder| builder.with_classifiers(chain)).await
}

fn model(script: Script) -> ScriptedBackend {
    let offer = iris_core::model::ModelOffer::new("m".parse().unwrap(), 4096);
    ScriptedBackend::new([offer], move |_| script.clone())
}

async fn classify(net: &Net, text: &str) -> Difficulty {
    net.coordinator.classify(&Question::new(text), Readers::Any).await
}

#[tokio::test(start_paused = true)]
async fn node_says_how_hard_a_question_is_that_the_rules_do_not_understand() {
    let net = network().await;
    let asked: Arc<Mutex<Vec<serde_json::Value>>> = Arc::default();
    let seen = Arc::clone(&asked);
    let offer = iris_core::model::ModelOffer::new("m".parse().unwrap(), 4096);
    let backend = ScriptedBackend::new([offer], move |request| {
        seen.lock().unwrap().push(serde_json::from_slice(&request.body).unwrap());
        Script::saying([" advanced.\n"])
    });
    let _node = net.join(backend).await;
    let question = "Beweise, dass es unendlich viele Primzahlen gibt.";
    assert_eq!(classify(&net, question).await, Difficulty::Advanced);
    assert_eq!(classify(&net, "What is a noun?").await, Difficulty::Simple);
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 1, "what the rules understand, no node is asked");
    assert_eq!((&asked[0]["temperature"], &asked[0]["max_tokens"]), (&0.into(), &8.into()));
    let said = asked[0]["messages"][1]["content"].as_str().unwrap();
    assert!(said.contains(question), "{said}");
}

#[tokio::test(start_paused = true)]
async fn long_question_is_cut_before_a_node_sees_it() {
    let net = network().await;
    let lengths: Arc<Mutex<Vec<usize>>> = Arc::default();
    let seen = Arc::clone(&lengths);
    let offer = iris_core::model::ModelOffer::new("m".parse().unwrap(), 4096);
    let backend = ScriptedBackend::new([offer], move |request| {
        seen.lock().unwrap().push(request.body.len());
        Script::saying(["SIMPLE"])
    });
    let _node = net.join(backend).await;
    assert_eq!(classify(&net, &"東".repeat(500_000)).await, Difficulty::Simple);
    let longest = Question::MAX_LEN + 1500;
    assert!(lengths.lock().unwrap().iter().all(|length| *length < longest), "{lengths:?}");
}

#[tokio::test(start_paused = true)]
async fn node_that_fails_hangs_or_talks_is_passed_over_and_keeps_no_slot() {
    let gate = Gate::new();
    let talk = Script::saying(["SIMPLE, I think"]);
    let hang = Script::saying(Vec::<String>::new()).wait(&gate).text("SIMPLE");
    let fail = Script::saying(Vec::<String>::new()).fail(BackendError::Failed);
    for script in [talk, hang, fail] {
        let net = network().await;
        let backend = model(script);
        let _node = net.join(backend.clone()).await;
        let begun = tokio::time::Instant::now();
        assert_eq!(classify(&net, "qwertz").await, Difficulty::Complex);
        assert!(begun.elapsed() <= Duration::from_secs(6), "{:?}", begun.elapsed());
        assert_eq!(backend.counts().started, 1);
        let freed = async {
            while net.coordinator.nodes()[0].running > 0 {
                tokio::task::yield_now().await;
                tokio::time::advance(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), freed).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn busy_nodes_are_not_kept_from_their_work_and_some_questions_from_nodes() {
    let (net, gate) = (network().await, Gate::new());
    let script = Script::saying(Vec::<String>::new()).wait(&gate).text("SIMPLE");
    let backend = model(script);
    let node = net.join(backend.clone()).await;
    let mut handle = net.coordinator.submit(net.request("m", "hi", true));
    assert_eq!(handle.next().await, Some(TaskEvent::Accepted { node: node.id }));
    let begun = tokio::time::Instant::now();
    assert_eq!(classify(&net, "qwertz").await, Difficulty::Complex);
    assert_eq!(begun.elapsed(), Duration::ZERO, "nobody waits for it");
    gate.open();
    assert!(matches!(read(&mut handle).await.1, Outcome::Finished(_)));
    let question = Question::new("qwertz");
    let named = net.coordinator.classify(&question, Readers::Named).await;
    assert_eq!((named, backend.counts().started), (Difficulty::Complex, 1));
    assert_eq!(classify(&net, "qwertz").await, Difficulty::Simple);
}
