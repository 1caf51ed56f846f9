use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn name(number: usize) -> ModelName {
    format!("m{number}").parse().unwrap()
}

fn capacity(memory: u64) -> Capacity {
    Capacity { memory: ByteSize::new(memory), waiting: 100, stay: Duration::ZERO }
}

/// A machine whose models are loaded and unloaded when the test says so.
struct Machine {
    residency: Residency,
    now: Instant,
}

impl Machine {
    fn new(capacity: Capacity, models: &[(u64, u32)]) -> Self {
        let (mut residency, now) = (Residency::new(capacity), Instant::now());
        for (number, (memory, slots)) in models.iter().enumerate() {
            let claim = Claim { memory: ByteSize::new(*memory), slots: *slots };
            residency.offer(now, &name(number), claim).unwrap();
        }
        Self { residency, now }
    }

    fn ask(&mut self, model: usize, priority: Priority, patience: u64) -> Result<Ticket, Refusal> {
        let deadline = self.now + Duration::from_secs(patience);
        self.residency.handle_request(self.now, &name(model), priority, deadline)
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.residency.poll()).collect()
    }

    fn pass(&mut self, time: Duration) -> Vec<Action> {
        self.now += time;
        self.residency.handle_timeout(self.now);
        self.actions()
    }

    fn loaded(&mut self, model: usize) -> Vec<Action> {
        self.residency.handle_loaded(self.now, &name(model));
        self.actions()
    }

    fn unloaded(&mut self, model: usize) -> Vec<Action> {
        self.residency.handle_unloaded(self.now, &name(model));
        self.actions()
    }

    fn end(&mut self, ticket: Ticket) -> Vec<Action> {
        self.residency.handle_end(self.now, ticket);
        self.actions()
    }
}

#[test]
fn a_model_is_loaded_for_the_first_who_asks_and_serves_as_many_as_it_has_slots() {
    let mut machine = Machine::new(capacity(10), &[(10, 2)]);
    let tickets: Vec<_> =
        (0..3).map(|_| machine.ask(0, Priority::Interactive, 60).unwrap()).collect();
    assert_eq!(machine.actions(), [Action::Load(name(0))]);
    assert_eq!(machine.loaded(0), [Action::Start(tickets[0]), Action::Start(tickets[1])]);
    assert_eq!(machine.end(tickets[0]), [Action::Start(tickets[2])]);
    assert_eq!(machine.residency.resident().collect::<Vec<_>>(), [(&name(0), 2)]);
}

#[test]
fn what_a_model_takes_may_change_while_it_is_not_loaded() {
    let mut machine = Machine::new(capacity(10), &[(4, 1)]);
    let offer = |machine: &mut Machine, memory| {
        let claim = Claim { memory: ByteSize::new(memory), slots: 1 };
        machine.residency.offer(machine.now, &name(0), claim)
    };
    offer(&mut machine, 6).unwrap();
    let ticket = machine.ask(0, Priority::Interactive, 60).unwrap();
    machine.actions();
    machine.loaded(0);
    offer(&mut machine, 8).unwrap();
    assert_eq!(machine.residency.taken().get(), 6, "as it was loaded");
    machine.end(ticket);
    machine.residency.handle_gone(machine.now, &name(0));
    machine.actions();
    machine.unloaded(0);
    assert!(offer(&mut machine, 11).is_err());
    assert_eq!(machine.ask(0, Priority::Interactive, 60), Err(Refusal::Unknown));
}

#[test]
fn what_can_never_fit_is_refused_with_what_is_missing() {
    let mut residency = Residency::new(capacity(10));
    let claim = Claim { memory: ByteSize::new(12), slots: 1 };
    let refused = residency.offer(Instant::now(), &name(0), claim).unwrap_err();
    let missing = ByteSize::new(2);
    assert!(matches!(refused, Refusal::TooLarge { missing: m, .. } if m == missing));
    let mut machine = Machine::new(capacity(10), &[]);
    assert_eq!(machine.ask(0, Priority::Interactive, 1), Err(Refusal::Unknown));
}

#[test]
fn the_longest_unused_goes_once_nobody_uses_it() {
    let mut machine = Machine::new(capacity(10), &[(5, 1), (5, 1), (5, 1)]);
    let first = machine.ask(0, Priority::Interactive, 60).unwrap();
    let second = machine.ask(1, Priority::Interactive, 60).unwrap();
    machine.loaded(0);
    machine.loaded(1);
    machine.pass(SECOND);
    machine.end(second);
    machine.pass(SECOND);
    let third = machine.ask(2, Priority::Interactive, 60).unwrap();
    // The first was used less lately, and is in use.
    assert_eq!(machine.actions(), [Action::Unload(name(1))]);
    assert_eq!(machine.unloaded(1), [Action::Load(name(2))]);
    assert_eq!(machine.loaded(2), [Action::Start(third)]);
    assert_eq!(machine.end(first), []);
}

#[test]
fn a_model_in_demand_gives_way_to_one_that_was_asked_for_before() {
    let mut machine = Machine::new(capacity(10), &[(10, 1), (10, 1)]);
    let first = machine.ask(0, Priority::Interactive, 600).unwrap();
    machine.loaded(0);
    machine.pass(SECOND);
    let waits = machine.ask(1, Priority::Interactive, 600).unwrap();
    machine.pass(SECOND);
    let later = machine.ask(0, Priority::Interactive, 600).unwrap();
    assert_eq!(machine.actions(), []);
    assert_eq!(machine.end(first), [Action::Unload(name(0))], "the later one waits its turn");
    machine.unloaded(0);
    assert_eq!(machine.loaded(1), [Action::Start(waits)]);
    assert_eq!(machine.end(waits), [Action::Unload(name(1))]);
    assert_eq!(machine.unloaded(1), [Action::Load(name(0))]);
    assert_eq!(machine.loaded(0), [Action::Start(later)]);
}

#[test]
fn a_model_that_was_just_loaded_stays_a_while() {
    let mut machine =
        Machine::new(Capacity { stay: 30 * SECOND, ..capacity(10) }, &[(10, 1), (10, 1)]);
    let first = machine.ask(0, Priority::Interactive, 600).unwrap();
    machine.loaded(0);
    machine.ask(1, Priority::Interactive, 600).unwrap();
    let later = machine.ask(0, Priority::Interactive, 600).unwrap();
    assert_eq!(machine.end(first), [Action::Start(later)]);
    assert_eq!(machine.residency.poll_timeout(), Some(machine.now + 30 * SECOND));
    assert_eq!(machine.pass(30 * SECOND), []);
    let deadline = machine.now + 570 * SECOND;
    assert_eq!(
        machine.residency.poll_timeout(),
        Some(deadline),
        "there is nothing else to wait for"
    );
    assert_eq!(machine.end(later), [Action::Unload(name(0))]);
}

#[test]
fn what_has_gone_takes_its_memory_until_nothing_is_left_of_it_and_comes_back_with_another_claim() {
    let mut machine = Machine::new(capacity(10), &[(6, 1), (4, 1), (6, 1)]);
    let offer = |machine: &mut Machine, memory| {
        let claim = Claim { memory: ByteSize::new(memory), slots: 1 };
        machine.residency.offer(machine.now, &name(0), claim).is_ok()
    };
    let before = machine.ask(0, Priority::Interactive, 600).unwrap();
    machine.actions();
    assert_eq!(machine.loaded(0), [Action::Start(before)]);
    assert!(offer(&mut machine, 7));
    machine.residency.handle_gone(machine.now, &name(0));
    assert_eq!(machine.actions(), [Action::Unload(name(0))]);
    let after = machine.ask(0, Priority::Interactive, 600).unwrap();
    machine.ask(1, Priority::Interactive, 600).unwrap();
    machine.ask(2, Priority::Interactive, 600).unwrap();
    assert_eq!(machine.actions(), [Action::Load(name(1))], "there is no room for the third");
    assert_eq!(machine.end(before), []);
    machine.loaded(1);
    machine.pass(SECOND);
    machine.unloaded(0);
    assert_eq!(machine.residency.taken().get(), 4, "seven more would be too many");
    machine.pass(600 * SECOND);
    assert_eq!(machine.end(after), []);
}

#[test]
fn a_model_that_has_become_too_large_is_not_loaded_again() {
    let mut machine = Machine::new(capacity(10), &[(10, 1)]);
    let offer = |machine: &mut Machine, memory| {
        let claim = Claim { memory: ByteSize::new(memory), slots: 1 };
        machine.residency.offer(machine.now, &name(0), claim)
    };
    let before = machine.ask(0, Priority::Interactive, 600).unwrap();
    machine.actions();
    machine.loaded(0);
    let refusal = offer(&mut machine, 11).unwrap_err();
    machine.residency.handle_gone(machine.now, &name(0));
    let waits = machine.ask(0, Priority::Interactive, 600).unwrap();
    machine.actions();
    assert_eq!(machine.unloaded(0), [Action::Refuse(waits, refusal)]);
    assert_eq!(machine.ask(0, Priority::Interactive, 600), Err(Refusal::Unknown));
    // Who used it may end after it is back.
    offer(&mut machine, 9).unwrap();
    let after = machine.ask(0, Priority::Interactive, 600).unwrap();
    machine.actions();
    assert_eq!(machine.loaded(0), [Action::Start(after)]);
    assert_eq!(machine.end(before), []);
    let next = machine.ask(0, Priority::Interactive, 600).unwrap();
    assert_eq!(machine.end(after), [Action::Start(next)], "its one slot was taken until now");
}

#[test]
fn urgent_requests_come_first_and_others_do_not_starve() {
    let mut machine = Machine::new(capacity(10), &[(10, 1)]);
    let running = machine.ask(0, Priority::Interactive, 900).unwrap();
    machine.loaded(0);
    let batch = machine.ask(0, Priority::Batch, 900).unwrap();
    let own = machine.ask(0, Priority::Interactive, 900).unwrap();
    assert_eq!(machine.end(running), [Action::Start(own)]);
    let mut running = own;
    for second in 0.. {
        assert!(second < 60, "it starves");
        machine.pass(SECOND);
        machine.ask(0, Priority::Interactive, 900).unwrap();
        match machine.end(running)[..] {
            [Action::Start(ticket)] if ticket == batch => break,
            [Action::Start(ticket)] => running = ticket,
            ref other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_queue_is_bounded_and_deadlines_are_kept() {
    let mut machine = Machine::new(Capacity { waiting: 1, ..capacity(10) }, &[(10, 2)]);
    let first = machine.ask(0, Priority::Interactive, 5).unwrap();
    assert_eq!(machine.ask(0, Priority::Interactive, 5), Err(Refusal::Full));
    assert_eq!(machine.residency.poll_timeout(), Some(machine.now + 5 * SECOND));
    let late = Action::Refuse(first, Refusal::Late);
    assert_eq!(machine.pass(5 * SECOND), [Action::Load(name(0)), late]);
    assert_eq!(machine.loaded(0), [], "nobody waits any more");
    let second = machine.ask(0, Priority::Interactive, 5).unwrap();
    assert_eq!(machine.actions(), [Action::Start(second)]);
}

#[test]
fn a_model_that_cannot_be_loaded_is_tried_again_for_the_next() {
    let mut machine = Machine::new(capacity(10), &[(10, 1)]);
    let first = machine.ask(0, Priority::Interactive, 60).unwrap();
    machine.actions();
    machine.residency.handle_failed(machine.now, &name(0));
    let refused = Action::Refuse(first, Refusal::Failed);
    assert_eq!(machine.actions(), [refused, Action::Unload(name(0))]);
    assert_eq!(machine.residency.taken(), ByteSize::new(10), "it may be there still");
    machine.ask(0, Priority::Interactive, 60).unwrap();
    assert_eq!(machine.actions(), []);
    machine.residency.handle_unloaded(machine.now, &name(0));
    assert_eq!(machine.actions(), [Action::Load(name(0))]);
}

#[derive(Clone, Debug)]
enum Step {
    Ask(usize, Priority, u64),
    End(prop::sample::Index),
    Loaded(prop::sample::Index, bool),
    Unloaded(prop::sample::Index),
    Gone(prop::sample::Index),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let priority = prop::sample::select(vec![Priority::Interactive, Priority::High, Priority::Low]);
    prop_oneof![
        4 => (0_usize..4, priority, 1_u64..200).prop_map(|(m, p, t)| Step::Ask(m, p, t)),
        3 => any::<prop::sample::Index>().prop_map(Step::End),
        3 => (any::<prop::sample::Index>(), prop::bool::weighted(0.8))
            .prop_map(|(at, ok)| Step::Loaded(at, ok)),
        3 => any::<prop::sample::Index>().prop_map(Step::Unloaded),
        1 => any::<prop::sample::Index>().prop_map(Step::Gone),
        2 => (0_u64..40).prop_map(Step::Pass),
    ]
}

/// What a machine is told to do and has not done, and who waits and works.
#[derive(Default)]
struct Book {
    loading: Vec<ModelName>,
    unloading: Vec<ModelName>,
    loaded: Vec<ModelName>,
    waiting: BTreeMap<Ticket, ModelName>,
    working: BTreeMap<Ticket, ModelName>,
    /// Whose model has gone, and who has not found out yet.
    left: Vec<Ticket>,
}

impl Book {
    /// Takes actions in, each of which has to be allowed.
    fn take(&mut self, actions: Vec<Action>) -> Result<(), TestCaseError> {
        for action in actions {
            match action {
                Action::Load(model) => {
                    prop_assert!(!self.loaded.contains(&model) && !self.loading.contains(&model));
                    prop_assert!(!self.unloading.contains(&model));
                    self.loading.push(model);
                }
                Action::Unload(model) => {
                    prop_assert!(self.loaded.contains(&model));
                    prop_assert!(!self.working.values().any(|used| *used == model), "in use");
                    self.loaded.retain(|loaded| *loaded != model);
                    self.unloading.push(model);
                }
                Action::Start(ticket) => {
                    let model = self.waiting.remove(&ticket);
                    prop_assert!(model.is_some(), "it ends once");
                    let model = model.unwrap();
                    prop_assert!(self.loaded.contains(&model));
                    self.working.insert(ticket, model);
                }
                Action::Refuse(ticket, _) => {
                    prop_assert!(self.waiting.remove(&ticket).is_some(), "it ends once");
                }
            }
        }
        Ok(())
    }
}

fn one<T: Clone>(all: &[T], at: prop::sample::Index) -> Option<T> {
    (!all.is_empty()).then(|| at.get(all).clone())
}

proptest! {
    #[test]
    fn memory_is_kept_to_and_every_request_ends_once(
        steps in prop::collection::vec(step(), 1..80),
        memory in prop::array::uniform4(1_u64..=10),
        slots in prop::array::uniform4(1_u32..3),
        waiting in 1_usize..6,
        stay in 0_u64..30,
    ) {
        let stay = Duration::from_secs(stay);
        let limit = Capacity { waiting, stay, ..capacity(10) };
        let models: Vec<_> = memory.into_iter().zip(slots).collect();
        let (mut machine, mut book) = (Machine::new(limit, &models), Book::default());
        let claim = |model: &ModelName| memory[model.as_str()[1..].parse::<usize>().unwrap()];
        for step in steps {
            match step {
                Step::Ask(model, priority, patience) => {
                    if let Ok(ticket) = machine.ask(model, priority, patience) {
                        book.waiting.insert(ticket, name(model));
                    }
                }
                Step::End(at) => {
                    let all = book.working.keys().chain(book.waiting.keys()).chain(&book.left);
                    if let Some(ticket) = one(&all.copied().collect::<Vec<_>>(), at) {
                        book.left.retain(|left| *left != ticket);
                        book.working.remove(&ticket);
                        book.waiting.remove(&ticket);
                        machine.residency.handle_end(machine.now, ticket);
                    }
                }
                Step::Loaded(at, well) => if let Some(model) = one(&book.loading, at) {
                    book.loading.retain(|loading| *loading != model);
                    // One that failed may be there until it is unloaded.
                    book.loaded.push(model.clone());
                    if well {
                        machine.residency.handle_loaded(machine.now, &model);
                    } else {
                        machine.residency.handle_failed(machine.now, &model);
                    }
                },
                Step::Unloaded(at) => if let Some(model) = one(&book.unloading, at) {
                    book.unloading.retain(|unloading| *unloading != model);
                    machine.residency.handle_unloaded(machine.now, &model);
                },
                Step::Gone(at) => if let Some(model) = one(&book.loaded, at) {
                    machine.residency.handle_gone(machine.now, &model);
                    prop_assert_eq!(machine.residency.poll(), Some(Action::Unload(model.clone())));
                    book.loaded.retain(|loaded| *loaded != model);
                    let left = book.working.extract_if(.., |_, used| *used == model);
                    book.left.extend(left.map(|(ticket, _)| ticket));
                    book.unloading.push(model);
                },
                Step::Pass(seconds) => {
                    machine.now += Duration::from_secs(seconds);
                    machine.residency.handle_timeout(machine.now);
                }
            }
            book.take(machine.actions())?;
            let there = book.loaded.iter().chain(&book.loading).chain(&book.unloading);
            let taken: u64 = there.map(claim).sum();
            prop_assert!(taken <= 10, "{taken}");
            prop_assert_eq!(machine.residency.taken(), ByteSize::new(taken));
            prop_assert_eq!(machine.residency.waiting(), book.waiting.len());
            for (number, slots) in slots.iter().enumerate() {
                let working = book.working.values().filter(|used| **used == name(number)).count();
                prop_assert!(working <= *slots as usize);
            }
        }
        // Whatever happened: once all that is asked of the machine is done, nobody waits.
        for _ in 0..1000 {
            if let Some(model) = book.loading.pop() {
                book.loaded.push(model.clone());
                machine.residency.handle_loaded(machine.now, &model);
            } else if let Some(model) = book.unloading.pop() {
                machine.residency.handle_unloaded(machine.now, &model);
            } else if let Some((ticket, _)) = book.working.pop_first() {
                machine.residency.handle_end(machine.now, ticket);
            } else if let Some(due) = machine.residency.poll_timeout() {
                machine.now = machine.now.max(due);
                machine.residency.handle_timeout(machine.now);
            } else {
                break;
            }
            book.take(machine.actions())?;
        }
        prop_assert!(book.waiting.is_empty());
    }
}
