//! Random plans in a random world, thousands of times.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::super::arbitrary::plans;
use super::super::{
    Assignment, Budget, Decision, Event, Number, Output, Placed, Plan, PlanEnd, Progress,
    StepError, UnitState, Work,
};
use super::{Action, PlanRun};
use crate::backend::Usage;
use crate::id::NodeId;
use crate::task::TaskError;

/// A small pseudo-random sequence: what a node does follows from its seed alone.
fn mixed(seed: u64, salt: u64) -> u64 {
    let z = (seed ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x1234_5678_9abc_def1);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A network whose nodes answer, fail and dawdle as a seed says.
struct World {
    seed: u64,
    /// How many of a hundred assignments fail.
    failing: u64,
    now: Duration,
    run: PlanRun,
    /// What is under way, with the time of its end.
    under_way: BTreeMap<Number, (Duration, Box<Assignment>)>,
    events: Vec<(Duration, Event)>,
    seen: Seen,
}

/// What those around a plan saw of it.
#[derive(Default)]
struct Seen {
    ends: Vec<PlanEnd>,
    told: String,
    assigned: BTreeMap<Number, (String, bool)>,
    over: Vec<String>,
    undone: Vec<String>,
    most_at_once: usize,
    tokens: u64,
}

impl World {
    fn new(plan: Plan, seed: u64, failing: u64) -> Self {
        let run = PlanRun::new(plan).expect("only valid plans are made");
        Self {
            seed,
            failing,
            now: Duration::ZERO,
            run,
            under_way: BTreeMap::new(),
            events: Vec::new(),
            seen: Seen::default(),
        }
    }

    /// Goes on from what was written down, as after a crash.
    fn resumed(plan: Plan, seed: u64, failing: u64, events: Vec<(Duration, Event)>) -> Self {
        let run = PlanRun::replay(plan, events.clone()).expect("only valid plans are made");
        let now = events.last().map_or(Duration::ZERO, |(at, _)| *at);
        let under_way = BTreeMap::new();
        Self { seed, failing, now, run, under_way, events, seen: Seen::default() }
    }

    fn act(&mut self) {
        while let Some(action) = self.run.poll_action() {
            assert!(self.seen.ends.is_empty(), "nothing follows the end");
            match action {
                Action::Assign(assignment) => self.assigned(assignment),
                Action::Withdraw(number) => {
                    assert!(self.under_way.remove(&number).is_some(), "it was under way");
                }
                Action::Tell(Progress::Text { text }) => self.seen.told.push_str(&text),
                Action::Tell(Progress::Over {
                    unit,
                    state: UnitState::Finished | UnitState::Skipped,
                }) => self.seen.over.push(unit),
                Action::Tell(_) => {}
                Action::Finish(end) => self.seen.ends.push(end),
            }
        }
    }

    fn assigned(&mut self, assignment: Box<Assignment>) {
        let number = assignment.number;
        if assignment.undo {
            self.seen.undone.push(assignment.unit.clone());
            assert!(self.under_way.is_empty(), "steps are undone one after the other");
        } else {
            self.check_inputs(&assignment.unit);
        }
        let before = self.seen.assigned.insert(number, (assignment.unit.clone(), assignment.undo));
        assert_eq!(before, None, "a number is used once");
        let millis = 1 + mixed(self.seed, u64::from(number.0)) % 5000;
        self.under_way.insert(number, (self.now + Duration::from_millis(millis), assignment));
        self.seen.most_at_once = self.seen.most_at_once.max(self.under_way.len());
    }

    /// Checks that a unit is asked only after all that it needs is over.
    fn check_inputs(&self, unit: &str) {
        let plan = self.run.plan();
        let name = unit.split('.').next().unwrap();
        let step = plan.steps.iter().find(|step| step.name.as_str() == name).unwrap();
        let report = self.run.report();
        for input in step.uses() {
            let over = |unit: &super::UnitReport| {
                unit.unit.split('.').next() != Some(input.as_str())
                    || matches!(unit.state, UnitState::Finished | UnitState::Skipped)
            };
            assert!(report.iter().all(over), "{unit} needs {input}");
            assert!(plan.place(&input).is_some());
        }
    }

    fn answer(&self, assignment: &Assignment) -> (Placed, Result<Output, StepError>) {
        let luck = mixed(self.seed ^ 0x5eed, u64::from(assignment.number.0));
        let node = node(luck % 7);
        let placed =
            Placed { node: Some(node), task: None, points: Some((luck % 300).cast_signed()) };
        if luck % 100 < self.failing {
            let error = match luck % 5 {
                0 => StepError::Expired,
                1 => StepError::ToolCalls,
                2 => StepError::Partial { text: "half of it".to_owned() },
                3 => StepError::Task { error: TaskError::NodesFailed { attempts: 2 } },
                _ => return (Placed::default(), Err(StepError::TooFewOwners)),
            };
            return (placed, Err(error));
        }
        let text = match luck % 4 {
            0 => (luck % 3).to_string(),
            1 => r#"["one", "two", "three"]"#.to_owned(),
            _ => format!("answer {}", luck % 2),
        };
        let most = assignment.max_tokens.unwrap_or(50);
        let usage = Usage {
            prompt_tokens: assignment.prompt_tokens(),
            completion_tokens: u32::try_from(text.len()).unwrap().min(most),
        };
        (placed, Ok(Output { text, finish_reason: "stop".to_owned(), usage }))
    }

    fn count(&mut self, assignment: &Assignment, result: &Result<Output, StepError>) {
        if let Ok(output) = result
            && !assignment.undo
        {
            self.seen.tokens += u64::from(output.usage.total());
        }
    }

    /// Lets the next thing happen; returns whether there was one.
    fn step(&mut self) -> bool {
        self.act();
        let next = self.under_way.iter().min_by_key(|(number, (end, _))| (*end, **number));
        let next = next.map(|(number, (end, _))| (*number, *end));
        let due = self.run.poll_timeout();
        if let Some(due) = due.filter(|due| next.is_none_or(|(_, end)| *due <= end)) {
            self.now = self.now.max(due);
            self.run.handle_timeout(self.now);
            self.act();
            return true;
        }
        let Some((number, end)) = next else { return self.decide() };
        self.now = self.now.max(end);
        let assignment = self.under_way[&number].1.clone();
        let (placed, result) = self.answer(&assignment);
        if self.run.records_start(number) {
            // What it weighs may be all that was to be known.
            self.happens(Event::Placed { number, placed: placed.clone() });
        } else {
            self.run.handle_started(number, placed.clone());
        }
        if self.under_way.remove(&number).is_none() {
            return true;
        }
        self.count(&assignment, &result);
        if assignment.streams
            && let Ok(output) = &result
        {
            for piece in output.text.as_bytes().chunks(3) {
                self.run.handle_text(number, std::str::from_utf8(piece).unwrap());
            }
        }
        self.happens(Event::Ended { number, placed, result });
        true
    }

    fn happens(&mut self, event: Event) {
        self.events.push((self.now, event.clone()));
        self.run.handle_event(self.now, event);
        self.act();
    }

    /// Lets a person choose what is laid out first.
    fn decide(&mut self) -> bool {
        let reviews = |report: &super::UnitReport| report.state == UnitState::Review;
        let Some(review) = self.run.report().into_iter().find(reviews) else { return false };
        self.now += Duration::from_hours(24);
        let text = Some("a person's word".to_owned());
        self.happens(Event::Decided(Decision { step: review.unit, choose: None, text }));
        true
    }

    fn ended(mut self) -> Self {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 100_000, "it does not end");
        }
        self
    }
}

fn node(number: u64) -> NodeId {
    let digit = char::from(b'a' + u8::try_from(number).unwrap());
    String::from(digit).repeat(26).parse().unwrap()
}

/// Returns the plan without what makes its course depend on time.
fn timeless(mut plan: Plan) -> Plan {
    plan.budget = Budget::default();
    plan.side_by_side = 1;
    for step in &mut plan.steps {
        step.budget = Budget::default();
    }
    plan
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_plan_ends_exactly_once_whatever_fails(
        plan in plans(), seed: u64, failing in 0_u64..60,
    ) {
        let world = World::new(plan, seed, failing).ended();
        prop_assert_eq!(world.seen.ends.len(), 1);
        prop_assert!(world.run.is_over());
        prop_assert!(world.under_way.is_empty());
        let unfinished = |state| matches!(state, UnitState::Waiting | UnitState::Running | UnitState::Review);
        prop_assert!(!world.run.report().iter().any(|unit| unfinished(unit.state)));
    }

    #[test]
    fn followers_have_every_piece_of_the_answer_once(
        plan in plans(), seed: u64, failing in 0_u64..30,
    ) {
        let world = World::new(plan, seed, failing).ended();
        if let PlanEnd::Finished { output } = &world.seen.ends[0] {
            prop_assert_eq!(&world.seen.told, &output.text);
        }
    }

    #[test]
    fn nothing_is_used_beyond_a_budget(
        plan in plans(), seed: u64, failing in 0_u64..40,
        tokens in 0_u64..3000, assignments in 0_u32..20, seconds in 0_u64..20,
    ) {
        let budget =
            Budget { tokens: Some(tokens), assignments: Some(assignments), seconds: Some(seconds) };
        let most = plan.side_by_side as usize;
        let reviewed = plan.steps.iter().any(|step| matches!(step.work, Work::Review { .. }));
        let world = World::new(Plan { budget, ..plan }, seed, failing).ended();
        let own = world.seen.assigned.values().filter(|(_, undo)| !undo).count();
        prop_assert!(own <= assignments as usize);
        prop_assert!(world.seen.tokens <= tokens);
        prop_assert!(world.seen.most_at_once <= most);
        if !reviewed && world.seen.undone.is_empty() {
            prop_assert!(world.now <= Duration::from_secs(seconds));
        }
    }

    #[test]
    fn steps_are_undone_in_the_reverse_order_of_their_ends(
        plan in plans(), seed: u64, failing in 10_u64..60,
    ) {
        let world = World::new(plan, seed, failing).ended();
        let plan = world.run.plan();
        let finished = matches!(world.seen.ends[0], PlanEnd::Finished { .. } | PlanEnd::Cancelled);
        if finished {
            prop_assert!(world.seen.undone.is_empty());
            return Ok(());
        }
        // A step is over with the last of its units.
        let mut order: Vec<&str> = Vec::new();
        for unit in world.seen.over.iter().rev() {
            let name = unit.split('.').next().unwrap();
            if !order.contains(&name) {
                order.push(name);
            }
        }
        let undone: Vec<_> = world.seen.undone.iter().map(String::as_str).collect();
        let named: BTreeSet<_> = undone.iter().copied().collect();
        let expected: Vec<_> = order.into_iter().filter(|name| named.contains(name)).collect();
        prop_assert_eq!(&undone, &expected);
        for name in undone {
            let step = plan.steps.iter().find(|step| step.name.as_str() == name).unwrap();
            prop_assert!(step.undo.is_some());
        }
    }

    #[test]
    fn what_was_written_down_gives_the_same_state(
        plan in plans(), seed: u64, failing in 0_u64..50, stop in 0_usize..40,
    ) {
        let mut world = World::new(plan.clone(), seed, failing);
        world.act();
        for _ in 0..stop {
            world.step();
        }
        // A new process looks at its clock first.
        world.run.handle_timeout(world.now);
        world.act();
        let mut again = PlanRun::replay(plan, world.events.clone()).unwrap();
        again.handle_timeout(world.now);
        let bare = |run: &PlanRun| {
            run.report().into_iter().map(|mut unit| {
                // Where what runs now went is not written down.
                unit.placed.clear();
                unit
            }).collect::<Vec<_>>()
        };
        prop_assert_eq!(bare(&again), bare(&world.run));
        prop_assert_eq!(&again.running, &world.run.running);
        prop_assert_eq!(again.is_over(), world.run.is_over());
    }

    #[test]
    fn a_plan_that_is_resumed_ends_as_one_that_was_not(
        plan in plans(), seed: u64, failing in 0_u64..50, stop in 0_usize..40,
    ) {
        let plan = timeless(plan);
        let whole = World::new(plan.clone(), seed, failing).ended();
        let mut world = World::new(plan.clone(), seed, failing);
        world.act();
        for _ in 0..stop {
            world.step();
        }
        if world.run.is_over() {
            return Ok(());
        }
        let resumed = World::resumed(plan, seed, failing, world.events).ended();
        prop_assert_eq!(&resumed.seen.ends, &whole.seen.ends);
        let texts = |run: &PlanRun| {
            run.report().into_iter().map(|unit| (unit.unit, unit.state, unit.text)).collect::<Vec<_>>()
        };
        prop_assert_eq!(texts(&resumed.run), texts(&whole.run));
    }

    #[test]
    fn a_cancelled_plan_gives_up_everything(
        plan in plans(), seed: u64, stop in 0_usize..20,
    ) {
        let mut world = World::new(plan, seed, 20);
        world.act();
        for _ in 0..stop {
            world.step();
        }
        let was_over = world.run.is_over();
        if !was_over {
            world.happens(Event::Cancelled);
        }
        prop_assert!(world.run.is_over());
        prop_assert!(world.under_way.is_empty());
        prop_assert_eq!(world.seen.ends.len(), 1);
    }
}
