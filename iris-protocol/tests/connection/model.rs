//! Random lives of a connection: nothing is lost, doubled or left over.

use std::collections::{BTreeMap, BTreeSet};

use iris_core::AssignmentId;
use iris_core::backend::BackendError;
use iris_protocol::connection::{CoordinatorEvent, NodeEvent};
use iris_protocol::message::{NodeHeartbeat, RefuseReason, TaskAssign, TaskError};
use proptest::prelude::*;

use crate::pair::{Pair, body, chunk, record, result, task};

#[derive(Clone, Copy, Debug)]
enum Step {
    Assign,
    Accept(usize),
    Refuse(usize),
    Stream(usize),
    Finish(usize),
    Fail(usize),
    Cancel(usize),
    Consume(usize),
    ToNode,
    ToCoordinator,
    Heartbeat,
    Cut,
}

fn step() -> impl Strategy<Value = Step> {
    let any = 0usize..8;
    prop_oneof![
        3 => Just(Step::Assign),
        3 => any.clone().prop_map(Step::Accept),
        1 => any.clone().prop_map(Step::Refuse),
        10 => any.clone().prop_map(Step::Stream),
        2 => any.clone().prop_map(Step::Finish),
        1 => any.clone().prop_map(Step::Fail),
        1 => any.clone().prop_map(Step::Cancel),
        6 => any.prop_map(Step::Consume),
        8 => Just(Step::ToNode),
        8 => Just(Step::ToCoordinator),
        1 => Just(Step::Heartbeat),
        2 => Just(Step::Cut),
    ]
}

/// What an assignment's two ends have seen of it.
#[derive(Default)]
struct Life {
    accepted: bool,
    sent: u32,
    received: u32,
    consumed: u32,
    /// How often the coordinator heard that nothing more will come.
    ends: u32,
    cancelled: bool,
}

/// Every third task is one that its caller sealed.
const fn is_sealed(id: u64) -> bool {
    id.is_multiple_of(3)
}

struct World {
    pair: Pair,
    lives: BTreeMap<u64, Life>,
    /// Assignments the agent works on.
    working: BTreeSet<u64>,
}

impl World {
    fn new(window: u32) -> Self {
        Self { pair: Pair::with_window(window), lives: BTreeMap::new(), working: BTreeSet::new() }
    }

    fn nth_working(&self, n: usize) -> Option<u64> {
        self.working.iter().nth(n % self.working.len().max(1)).copied()
    }

    fn nth_alive(&self, n: usize) -> Option<u64> {
        let alive: Vec<_> =
            self.lives.iter().filter(|(_, life)| life.ends == 0).map(|(id, _)| *id).collect();
        alive.get(n % alive.len().max(1)).copied()
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Assign => {
                let id = self.lives.len() as u64 + 1;
                let task = TaskAssign { sealed: is_sealed(id), ..task(id) };
                self.pair.coordinator.assign(task, body(id)).unwrap();
                self.lives.insert(id, Life::default());
            }
            Step::Accept(n) => {
                let Some(id) = self.nth_working(n) else { return };
                let life = self.lives.get_mut(&id).unwrap();
                if !life.accepted {
                    self.pair.node.accept(AssignmentId(id)).unwrap();
                    life.accepted = true;
                }
            }
            Step::Refuse(n) => {
                let Some(id) = self.nth_working(n) else { return };
                if !self.lives[&id].accepted {
                    self.pair.node.refuse(AssignmentId(id), RefuseReason::Busy).unwrap();
                    self.working.remove(&id);
                }
            }
            Step::Stream(n) => {
                let Some(id) = self.nth_working(n) else { return };
                let life = self.lives.get_mut(&id).unwrap();
                if life.accepted && self.pair.node.has_room(AssignmentId(id)) {
                    let part = if is_sealed(id) { record } else { chunk };
                    self.pair.node.stream(part(id, life.sent)).unwrap();
                    life.sent += 1;
                }
            }
            Step::Finish(n) | Step::Fail(n) => {
                let Some(id) = self.nth_working(n) else { return };
                let life = &self.lives[&id];
                if life.accepted {
                    if matches!(step, Step::Finish(_)) {
                        self.pair.node.finish(result(id, life.sent)).unwrap();
                    } else {
                        let error =
                            TaskError::new(AssignmentId(id), life.sent, BackendError::Failed);
                        self.pair.node.fail(error).unwrap();
                    }
                    self.working.remove(&id);
                }
            }
            Step::Cancel(n) => {
                let Some(id) = self.nth_alive(n) else { return };
                self.pair.coordinator.cancel(AssignmentId(id));
                self.lives.get_mut(&id).unwrap().cancelled = true;
            }
            Step::Consume(n) => {
                let Some(id) = self.nth_alive(n) else { return };
                let life = self.lives.get_mut(&id).unwrap();
                if life.consumed < life.received {
                    life.consumed += 1;
                    self.pair.coordinator.consumed(AssignmentId(id), 1, 21);
                }
            }
            Step::ToNode => self.node_hears(),
            Step::ToCoordinator => self.coordinator_hears(),
            Step::Heartbeat => self.pair.node.heartbeat(NodeHeartbeat::default()).unwrap(),
            Step::Cut => {
                let (lost, dropped) = self.pair.cut();
                for id in lost {
                    self.lives.get_mut(&id.0).unwrap().ends += 1;
                }
                for id in dropped {
                    assert!(self.working.remove(&id.0), "{id} was dropped without being held");
                }
            }
        }
    }

    fn node_hears(&mut self) {
        match self.pair.node_hears() {
            Some(NodeEvent::Assigned(task)) => {
                self.working.insert(task.assignment.0);
            }
            Some(NodeEvent::Cancelled(id)) => {
                assert!(self.working.remove(&id.0), "{id} was cancelled without being held");
            }
            Some(NodeEvent::Body(_) | NodeEvent::Acknowledged(_)) | None => {}
            Some(other) => panic!("{other:?}"),
        }
    }

    fn coordinator_hears(&mut self) {
        let Some(event) = self.pair.coordinator_hears() else { return };
        let (id, ends) = match event {
            CoordinatorEvent::Stream(data) => {
                let life = self.lives.get_mut(&data.header.assignment.0).unwrap();
                assert_eq!(data.header.seq, life.received, "chunks arrive once and in order");
                life.received += 1;
                (data.header.assignment, false)
            }
            CoordinatorEvent::Accepted(id) => (id, false),
            CoordinatorEvent::Refused(refuse) => (refuse.assignment, true),
            CoordinatorEvent::Cancelled(id) => {
                assert!(self.lives[&id.0].cancelled);
                (id, true)
            }
            CoordinatorEvent::Failed(error) => (error.assignment, true),
            CoordinatorEvent::Result(result) => {
                let life = &self.lives[&result.assignment.0];
                assert_eq!(life.received, life.sent, "an end comes after every chunk");
                (result.assignment, true)
            }
            CoordinatorEvent::Heartbeat(_) => return,
            other => panic!("{other:?}"),
        };
        let life = self.lives.get_mut(&id.0).unwrap();
        assert_eq!(life.ends, 0, "{id} goes on after its end");
        life.ends += u32::from(ends);
    }

    /// Lets everything come to its end.
    fn finish(mut self) {
        for _ in 0..10_000 {
            self.node_hears();
            self.coordinator_hears();
            for n in 0..self.lives.len() {
                self.step(Step::Consume(n));
            }
            let ids: Vec<_> = self.working.iter().copied().collect();
            for n in 0..ids.len() {
                self.step(Step::Accept(n));
            }
            self.step(Step::Finish(0));
            self.pair.transmit();
            let quiet = self.pair.to_node.is_empty() && self.pair.to_coordinator.is_empty();
            if quiet && self.working.is_empty() {
                break;
            }
        }
        self.pair.node.heartbeat(NodeHeartbeat::default()).unwrap();
        for _ in 0..10 {
            self.node_hears_acknowledgements();
            self.coordinator_hears();
        }
        assert!(self.pair.node.is_idle(), "the node holds nothing more");
        assert_eq!(self.pair.coordinator.assignments(), 0, "the coordinator waits for nothing");
        for (id, life) in &self.lives {
            assert_eq!(life.ends, 1, "assignment {id} has one end");
        }
    }

    fn node_hears_acknowledgements(&mut self) {
        while let Some(event) = self.pair.node_hears() {
            assert!(matches!(event, NodeEvent::Acknowledged(_)), "{event:?}");
        }
    }
}

proptest! {
    #[test]
    fn any_life_with_cuts_loses_and_doubles_nothing(
        window in 1u32..6,
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let mut world = World::new(window);
        for step in steps {
            world.step(step);
        }
        world.finish();
    }
}
