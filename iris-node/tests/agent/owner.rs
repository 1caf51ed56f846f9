//! What an owner lets a node do, while it is connected.

use iris_core::terms::{Rest, Terms};
use iris_node::agent::{Conduct, ModelFilter};
use iris_protocol::connection::CoordinatorEvent;
use iris_protocol::message::{NodeHeartbeat, RefuseReason};

use super::*;

/// Waits for a heartbeat that tells something.
pub(crate) async fn news(coordinator: &mut Coordinator) -> NodeHeartbeat {
    loop {
        let event = coordinator.event().await;
        if let CoordinatorEvent::Heartbeat(heartbeat) = event
            && (heartbeat.models.is_some() || heartbeat.slots.is_some())
        {
            return heartbeat;
        }
    }
}

fn rest(rest: Rest) -> Conduct {
    let terms = Terms { rest: Some(rest), ..Terms::default() };
    Conduct { terms, ..Conduct::default() }
}

#[tokio::test(start_paused = true)]
async fn a_paused_node_finishes_what_it_has_and_says_why_it_takes_nothing() {
    let gate = iris_core::backend::Gate::default();
    let offers = [ModelOffer::new("m".parse().unwrap(), 8192)];
    let waits = gate.clone();
    let backend = ScriptedBackend::new(offers, move |_| Script::new().wait(&waits).text("a"));
    let owner = watch::Sender::new(Conduct::default());
    let agent = builder(&backend).with_slots(2).with_conduct(owner.subscribe());
    let (mut coordinator, _agent) = online_as(agent).await;
    coordinator.assign("m").await;
    assert!(matches!(coordinator.next().await, CoordinatorEvent::Accepted(_)));
    owner.send_replace(rest(Rest::Paused));
    let told = news(&mut coordinator).await;
    assert_eq!((told.slots, told.running), (Some(0), 1));
    assert_eq!(told.terms.unwrap().rest, Some(Rest::Paused));
    // What was on its way is refused by name, and the running answer ends well.
    let late = coordinator.assign("m").await;
    let CoordinatorEvent::Refused(refused) = coordinator.next().await else { panic!() };
    assert_eq!((refused.assignment, refused.reason), (late, RefuseReason::Paused));
    gate.open();
    assert_eq!(coordinator.answer().await.pieces, ["a"]);
    owner.send_replace(Conduct::default());
    let told = news(&mut coordinator).await;
    assert_eq!((told.slots, told.terms), (Some(2), Some(Terms::default())));
    coordinator.assign("m").await;
    assert_eq!(coordinator.answer().await.pieces, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn slots_and_models_change_while_the_node_is_connected() {
    let offers = ["m-7b", "m-70b"].map(|name| ModelOffer::new(name.parse().unwrap(), 8192));
    let backend = ScriptedBackend::new(offers, |_| Script::new().text("a"));
    let owner = watch::Sender::new(Conduct { slots: Some(3), ..Conduct::default() });
    let agent = builder(&backend).with_slots(1).with_conduct(owner.subscribe());
    let (mut coordinator, _agent) = online_as(agent).await;
    let register = coordinator.register.as_ref().unwrap();
    assert_eq!((register.slots, register.models.len()), (3, 2));
    let models = ModelFilter::new(["!*70b"]);
    owner.send_replace(Conduct { models, ..Conduct::default() });
    let told = news(&mut coordinator).await;
    let models: Vec<_> = told.models.unwrap().into_iter().map(|offer| offer.name).collect();
    assert_eq!((told.slots, models), (Some(1), vec!["m-7b".parse().unwrap()]));
    coordinator.assign("m-70b").await;
    let CoordinatorEvent::Refused(refused) = coordinator.next().await else { panic!() };
    assert_eq!(refused.reason, RefuseReason::ModelNotFound);
}

#[tokio::test(start_paused = true)]
async fn a_node_registers_with_what_its_owner_said_meanwhile() {
    let backend = ScriptedBackend::saying("m".parse().unwrap(), ["a"]);
    let owner = watch::Sender::new(Conduct::default());
    let agent = builder(&backend).with_slots(2).with_conduct(owner.subscribe());
    let (mut coordinator, _agent) = online_as(agent).await;
    coordinator.cut();
    owner.send_replace(rest(Rest::OffHours));
    coordinator.accept().await;
    let register = coordinator.register.as_ref().unwrap();
    assert_eq!((register.slots, register.terms.rest), (0, Some(Rest::OffHours)));
}

#[tokio::test(start_paused = true)]
async fn a_blocked_caller_is_refused_by_name_and_all_others_are_known() {
    let backend = ScriptedBackend::saying("m".parse().unwrap(), ["a"]);
    let owner = watch::Sender::new(Conduct::default());
    let agent = builder(&backend).with_slots(2).with_conduct(owner.subscribe());
    let (mut coordinator, connector) = Coordinator::new();
    let agent = agent.build();
    let asked = agent.asked();
    let _agent = Running::new(agent, connector);
    coordinator.accept().await;
    let tag = |byte| iris_core::id::CallerTag::new(3, [byte; 16]);
    let blocked = Arc::new([tag(1)].into());
    owner.send_replace(Conduct { blocked, ..Conduct::default() });
    quiet().await;
    coordinator.caller = Some(tag(1));
    coordinator.assign("m").await;
    let CoordinatorEvent::Refused(refused) = coordinator.next().await else { panic!() };
    assert_eq!(refused.reason, RefuseReason::CallerBlocked);
    for caller in [Some(tag(2)), None] {
        coordinator.caller = caller;
        coordinator.assign("m").await;
        assert_eq!(coordinator.answer().await.pieces, ["a"]);
    }
    let known: Vec<_> = asked.latest().into_iter().map(|asked| asked.caller).collect();
    assert_eq!(known, [Some(tag(2)), None]);
}
