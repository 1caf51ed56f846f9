//! Which nodes get the work: the caller's own, trusted ones, ones of good standing, and how far
//! those get that claim too much.

#![allow(clippy::unwrap_used, reason = "this is test code")]

mod net;

use std::sync::Arc;

use futures::SinkExt;
use iris_coordinator::{Coordinator, LinkError, Placement, TaskEvent, TaskHandle, TaskRequest};
use iris_core::backend::{BackendError, Gate, Operation, Script, ScriptedBackend};
use iris_core::demand::{Own, Trust};
use iris_core::model::{ModelOffer, TokenRate};
use iris_core::store::MemoryStore;
use iris_core::task::{Outcome, TaskError};
use iris_core::tier::Tier;
use iris_core::{AccountId, NodeId};
use iris_crypto::{Identity, Secret};
use iris_protocol::Frame;
use iris_protocol::connection::Violation;
use iris_protocol::limits::MAX_MODELS;
use iris_protocol::message::{Hardware, NodeMessage, NodeRegister};
use iris_protocol::openai::Asked;
use iris_protocol::rest::NodeReason;
use iris_protocol::transport::memory;
use iris_protocol::version::NEWEST;
use net::{CALLER, Net, Node, OWNER, VirtualClock, answer, read};

fn offer(name: &str) -> ModelOffer {
    ModelOffer::new(name.parse().unwrap(), 4096)
}

fn scripted(script: Script) -> ScriptedBackend {
    ScriptedBackend::new([offer("m")], move |_| script.clone())
}

fn saying(text: &str) -> ScriptedBackend {
    scripted(Script::new().text(text))
}

async fn join(net: &Net, owner: AccountId, backend: ScriptedBackend) -> Node {
    net.join_of(owner, Identity::generate(), backend, |agent| agent).await
}

fn ask(net: &Net, placement: Placement) -> TaskHandle {
    net.coordinator.submit(TaskRequest { placement, ..net.request("m", "hi", true) })
}

async fn failure(mut handle: TaskHandle) -> TaskError {
    match read(&mut handle).await.1 {
        Outcome::Failed(error) => error,
        other => panic!("{other:?}"),
    }
}

fn standing(net: &Net, id: NodeId) -> u16 {
    net.coordinator.nodes().iter().find(|node| node.id == id).unwrap().standing
}

#[tokio::test(start_paused = true)]
async fn own_node_comes_first_while_it_is_free() {
    let net = Net::new().await;
    let gate = Gate::new();
    for _ in 0..5 {
        join(&net, OWNER, saying("stranger")).await;
    }
    let mine = join(&net, CALLER, scripted(Script::new().wait(&gate).text("mine"))).await;
    let mut first = ask(&net, Placement::default());
    let accepted = first.next().await;
    assert_eq!(accepted, Some(TaskEvent::Accepted { node: mine.id }));
    assert_eq!(answer(ask(&net, Placement::default())).await, "stranger", "mine is busy");
    gate.open();
    assert_eq!(answer(first).await, "mine");
    let any = Placement { own: Own::Any, ..Placement::default() };
    let mut strangers = 0;
    for _ in 0..20 {
        assert_eq!(answer(ask(&net, Placement::default())).await, "mine");
        strangers += u32::from(answer(ask(&net, any.clone())).await == "stranger");
    }
    assert!(strangers > 5, "{strangers} of 20");
    assert_eq!(standing(&net, mine.id), 500, "what it does for its owner says nothing of it");
}

#[tokio::test(start_paused = true)]
async fn where_only_own_nodes_will_do_no_other_is_asked() {
    let net = Net::new().await;
    let stranger = join(&net, OWNER, saying("stranger")).await;
    let only = Placement { own: Own::Only, ..Placement::default() };
    let error = failure(ask(&net, only.clone())).await;
    let TaskError::NoNodeAble { needs, .. } = &error else { panic!("{error:?}") };
    assert!(needs.contains("own"), "{needs}");
    join(&net, CALLER, saying("mine")).await;
    assert_eq!(answer(ask(&net, only)).await, "mine");
    let denied = Placement { denied: vec![stranger.id], ..Placement::default() };
    assert_eq!(answer(ask(&net, denied)).await, "mine");
}

#[tokio::test(start_paused = true)]
async fn node_that_its_caller_rules_out_is_not_asked() {
    let net = Net::new().await;
    let bad = join(&net, OWNER, saying("bad")).await;
    let denied = Placement { denied: vec![bad.id], ..Placement::default() };
    let error = failure(ask(&net, denied.clone())).await;
    assert!(matches!(&error, TaskError::NoNodeAble { needs, .. } if needs.contains("ruled out")));
    join(&net, OWNER, saying("good")).await;
    for _ in 0..10 {
        assert_eq!(answer(ask(&net, denied.clone())).await, "good");
    }
}

#[tokio::test(start_paused = true)]
async fn fifty_answers_prove_a_node_and_the_operator_trusts_whom_it_likes() {
    const FRIEND: AccountId = AccountId::from_bytes([7; 16]);
    let coordinator = Coordinator::builder(
        Arc::new(MemoryStore::default()),
        Identity::generate(),
        Secret::generate(),
    );
    let coordinator = coordinator.with_clock(Arc::new(VirtualClock)).with_trusted_owners([FRIEND]);
    let store = Arc::new(MemoryStore::default());
    let net = Net { coordinator: coordinator.build().await.unwrap(), store };
    let node = join(&net, OWNER, saying("stranger")).await;
    let proven = Placement { trust: Trust::Proven, ..Placement::default() };
    let trusted = Placement { trust: Trust::Trusted, ..Placement::default() };
    for _ in 0..50 {
        let error = failure(ask(&net, proven.clone())).await;
        assert!(matches!(error, TaskError::NoNodeAble { .. }), "{error:?}");
        answer(ask(&net, Placement::default())).await;
    }
    assert!(standing(&net, node.id) > 950);
    assert_eq!(answer(ask(&net, proven.clone())).await, "stranger");
    assert!(matches!(failure(ask(&net, trusted.clone())).await, TaskError::NoNodeAble { .. }));
    join(&net, FRIEND, saying("friend")).await;
    assert_eq!(answer(ask(&net, trusted)).await, "friend");
}

#[tokio::test(start_paused = true)]
async fn failure_costs_standing_while_the_task_still_runs() {
    let net = Net::new().await;
    let gate = Gate::new();
    let bad = join(&net, OWNER, scripted(Script::new().fail(BackendError::Failed))).await;
    let only = Placement { nodes: vec![bad.id], ..Placement::default() };
    let good = scripted(Script::new().wait(&gate).text("good"));
    let mut handle = ask(&net, only);
    assert_eq!(handle.next().await, Some(TaskEvent::Accepted { node: bad.id }));
    let good = join(&net, OWNER, good).await;
    let mut second = ask(&net, Placement { nodes: vec![bad.id, good.id], ..Placement::default() });
    loop {
        match second.next().await {
            Some(TaskEvent::Accepted { node }) if node == good.id => break,
            Some(TaskEvent::Accepted { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    drop(handle);
    let third = ask(&net, Placement { nodes: vec![bad.id], ..Placement::default() });
    failure(third).await;
    assert!(standing(&net, bad.id) < 500, "{}", standing(&net, bad.id));
    assert_eq!(standing(&net, good.id), 500);
    gate.open();
    answer(second).await;
    assert!(standing(&net, good.id) > 500);
}

#[tokio::test(start_paused = true)]
async fn refusal_costs_a_little_standing_and_no_points() {
    let net = Net::new().await;
    let busy = join(&net, OWNER, scripted(Script::new().fail(BackendError::Busy))).await;
    failure(ask(&net, Placement::default())).await;
    assert!((300..500).contains(&standing(&net, busy.id)), "{}", standing(&net, busy.id));
    assert_eq!(net.coordinator.nodes()[0].points, 100);
}

#[tokio::test(start_paused = true)]
async fn standing_is_rebuilt_from_the_books() {
    let net = Net::new().await;
    let store = Arc::clone(&net.store);
    let seed = Secret::from_bytes([8; 32]);
    let rejoin = async |net: &Net, owner| {
        let identity = Identity::from_seed(&seed);
        net.join_of(owner, identity, saying("hi"), |agent| agent).await.id
    };
    let id = rejoin(&net, OWNER).await;
    let mine = join(&net, CALLER, saying("mine")).await.id;
    let stranger = Placement { nodes: vec![id], ..Placement::default() };
    for _ in 0..5 {
        answer(ask(&net, stranger.clone())).await;
        answer(ask(&net, Placement::default())).await;
    }
    let before = standing(&net, id);
    assert!(before > 800, "{before}");
    assert_eq!(standing(&net, mine), 500);
    net.coordinator.shutdown().await;
    let again = Net::over(store).await;
    assert_eq!(rejoin(&again, OWNER).await, id);
    assert_eq!(standing(&again, id), before);
}

#[tokio::test(start_paused = true)]
async fn conversation_stays_where_it_was_read() {
    let net = Net::new().await;
    for _ in 0..6 {
        join(&net, OWNER, saying("ok")).await;
    }
    // What is known of all nodes is good, so that chance has little to say.
    for node in net.coordinator.nodes() {
        for _ in 0..200 {
            answer(ask(&net, Placement { nodes: vec![node.id], ..Placement::default() })).await;
        }
    }
    for conversation in 0..5 {
        let mut messages = vec![format!("question {conversation}")];
        let mut last = None;
        for _ in 0..5 {
            let said: Vec<_> = messages
                .iter()
                .map(|text| serde_json::json!({"role": "user", "content": text}))
                .collect();
            let body = serde_json::json!({"model": "m", "messages": said}).to_string();
            let asked = Asked::read(Operation::Chat, body.as_bytes()).unwrap();
            let conversation = net.coordinator.conversation(CALLER, body.as_bytes(), &asked);
            assert!(conversation.is_some());
            let mut handle = ask(&net, Placement { conversation, ..Placement::default() });
            read(&mut handle).await;
            let node = handle.node();
            assert!(last.is_none() || node == last, "{messages:?}");
            last = node;
            messages.extend(["ok".to_owned(), "and now?".to_owned()]);
        }
    }
}

/// One owner with many nodes gets its share and no more while others can do the work.
#[tokio::test(start_paused = true)]
async fn owner_with_many_nodes_is_passed_over_beyond_its_share_and_told_why() {
    const TASKS: usize = 300;
    let net = Net::new().await;
    let mut big = Vec::new();
    for _ in 0..12 {
        big.push(join(&net, OWNER, saying("big")).await.id);
    }
    for owner in 10..20 {
        join(&net, AccountId::from_bytes([owner; 16]), saying("small")).await;
    }
    let (mut answers, mut passed_over, mut told) = (0, 0, false);
    for _ in 0..TASKS {
        let mut handle = ask(&net, Placement::default());
        let (_, outcome) = read(&mut handle).await;
        assert!(matches!(outcome, Outcome::Finished(_)), "{outcome:?}");
        let node = handle.node().unwrap();
        answers += usize::from(big.contains(&node));
        let explained = net.coordinator.explanation(&handle.id(), &CALLER).unwrap();
        // Others can come to be beyond their share, too.
        let is_passed = |r: &NodeReason| r.reason == "owner_share" && big.contains(&r.node);
        let passed: Vec<_> = explained.reasons.iter().filter(|r| is_passed(r)).collect();
        assert!(passed.is_empty() || !big.contains(&node), "while another can do it");
        passed_over += usize::from(!passed.is_empty());
        let why = net.coordinator.why(&big[0]).await.unwrap().unwrap();
        told |= why.hindrances.iter().any(|hindrance| hindrance.code == "owner_share");
    }
    assert!(told, "its owner can ask why");
    // A fifth is its share; it would be more than half by the number of its nodes. Newcomers are
    // drawn by chance, so it may be less.
    assert!(answers < TASKS / 3, "{answers} of {TASKS}");
    assert!(passed_over > 0);
    // Where nobody else can do it, the share is no hindrance.
    let only = Placement { nodes: big.clone(), ..Placement::default() };
    for _ in 0..20 {
        assert_eq!(answer(ask(&net, only.clone())).await, "big");
    }
}

fn registration(models: Vec<ModelOffer>) -> NodeMessage {
    NodeMessage::NodeRegister(Box::new(NodeRegister {
        version: NEWEST,
        capabilities: Vec::new(),
        identity: [1; 32].into(),
        certificate: vec![2; 5].try_into().unwrap(),
        nonce: [3; 32].into(),
        signature: [4; 64].into(),
        name: None,
        agent_version: None,
        slots: 1,
        models,
        datasets: Vec::new(),
        hardware: Hardware::default(),
        terms: iris_core::terms::Terms::default(),
        resume: None,
    }))
}

/// Answers the coordinator's challenge with some frame.
async fn knock(net: &Net, frame: Frame) -> LinkError {
    let (mut here, there) = memory::pair(16);
    let coordinator = net.coordinator.clone();
    let served = tokio::spawn(async move { coordinator.serve_node(there, OWNER).await });
    here.send(frame).await.unwrap();
    served.await.unwrap().unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn attack_39_made_up_models_and_long_lists_are_bounded() {
    let net = Net::new().await;
    let names = |from: usize, count| -> Vec<_> {
        (from..from + count).map(|number| offer(&format!("fake-{number}"))).collect()
    };
    let most = knock(&net, registration(names(0, MAX_MODELS)).encode()).await;
    assert!(matches!(most, LinkError::Unauthorized), "as many as may be are read: {most:?}");
    let more = knock(&net, registration(names(0, MAX_MODELS + 1)).encode()).await;
    assert!(matches!(more, LinkError::Violation(_)), "{more:?}");
    let list = format!("\"{}\"", "x".repeat(60));
    let register = |count: usize| {
        let list = vec![list.as_str(); count].join(",");
        Frame::Text(format!(r#"{{"type":"NODE_REGISTER","capabilities":[{list}]}}"#).into())
    };
    let (mut here, _there) = memory::pair(16);
    assert!(here.send(register(160_000)).await.is_err(), "no transport carries 10 MB");
    let refused = knock(&net, register(10_000)).await;
    assert!(matches!(refused, LinkError::Violation(Violation::Message(_))), "{refused:?}");
    for node in 0..20 {
        let backend = ScriptedBackend::new(names(node * 1000, MAX_MODELS), |_| Script::new());
        join(&net, OWNER, backend).await.stop().await;
    }
    // Their sessions may be resumed for a while.
    tokio::time::sleep(std::time::Duration::from_mins(5)).await;
    assert_eq!(net.coordinator.nodes().len(), 0);
    assert_eq!(net.coordinator.models(), [], "they go with the nodes that made them up");
    let good = join(&net, OWNER, saying("hi")).await;
    assert_eq!(answer(ask(&net, Placement::default())).await, "hi");
    good.stop().await;
}

#[tokio::test(start_paused = true)]
async fn attack_40_memory_that_is_only_claimed_raises_no_tier() {
    let net = Net::new().await;
    let model = |billions: u64, speed: Option<u64>| {
        let mut offer = offer("m");
        offer.parameters = Some(billions * 1_000_000_000);
        offer.speed = speed.map(TokenRate::per_second);
        ScriptedBackend::new([offer], |_| Script::new().text("hi"))
    };
    let claim = |vram: u32, ram: Option<u32>| Hardware {
        gpu: Some("the largest".parse().unwrap()),
        vram_gb: Some(vram),
        ram_gb: ram,
    };
    for (backend, hardware, tier) in [
        (model(1, Some(1000)), claim(1_000_000, Some(1_000_000)), Tier::Basic),
        (model(70, Some(5)), claim(u32::MAX, Some(u32::MAX)), Tier::Basic),
        (model(70, None), claim(1_000_000, Some(1_000_000)), Tier::Basic),
    ] {
        let with = |agent: iris_node::agent::AgentBuilder| agent.with_hardware(hardware.clone());
        let node = net.join_as(Identity::generate(), backend, with).await;
        let listed = net.coordinator.nodes();
        assert_eq!(listed[0].tier, tier.to_string(), "{hardware:?}");
        let request = Placement { min_tier: Tier::Mid, ..Placement::default() };
        let asked = ask(&net, request);
        assert!(matches!(failure(asked).await, TaskError::NoNodeAble { .. }));
        node.stop().await;
    }
}
