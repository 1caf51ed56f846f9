//! What a plan does in single situations.

use std::time::Duration;

use super::super::{
    Agreement, Ask, Budget, Decision, Event, Number, OnFailure, Output, Placed, Plan, PlanEnd,
    Progress, Replicas, Step, StepError, Then, UnitState, Work,
};
use super::{Action, PlanRun};
use crate::backend::Usage;
use crate::model::Abilities;
use crate::task::TaskError;

fn ask(prompt: &str) -> Ask {
    Ask {
        model: "m".parse().unwrap(),
        history: Vec::new(),
        system: None,
        prompt: Some(prompt.parse().unwrap()),
        max_tokens: None,
        params: serde_json::Map::new(),
        abilities: Abilities::NONE,
        dataset: None,
        nodes: Vec::new(),
        replicas: None,
    }
}

fn step(name: &str, work: Work) -> Step {
    Step {
        name: name.parse().unwrap(),
        work,
        when: None,
        budget: Budget::default(),
        on_failure: OnFailure::default(),
        undo: None,
    }
}

fn asking(name: &str, prompt: &str) -> Step {
    step(name, Work::Ask(Box::new(ask(prompt))))
}

fn plan(steps: Vec<Step>) -> Plan {
    let answer = steps.last().unwrap().name.clone();
    Plan {
        mode: super::super::Mode::Chained,
        input: "the input".to_owned(),
        steps,
        answer,
        budget: Budget::default(),
        side_by_side: 32,
        context_tokens: None,
    }
}

/// A plan under test, told what happens.
struct Told {
    run: PlanRun,
    now: Duration,
    assigned: Vec<(Number, String, Vec<serde_json::Value>, String)>,
    withdrawn: Vec<Number>,
    progress: Vec<Progress>,
    end: Option<PlanEnd>,
}

impl Told {
    fn new(plan: Plan) -> Self {
        let mut told = Self {
            run: PlanRun::new(plan).unwrap(),
            now: Duration::ZERO,
            assigned: Vec::new(),
            withdrawn: Vec::new(),
            progress: Vec::new(),
            end: None,
        };
        told.act();
        told
    }

    fn act(&mut self) {
        while let Some(action) = self.run.poll_action() {
            match action {
                Action::Assign(a) => {
                    self.assigned.push((a.number, a.unit, a.messages, a.model.to_string()));
                }
                Action::Withdraw(number) => self.withdrawn.push(number),
                Action::Tell(progress) => self.progress.push(progress),
                Action::Finish(end) => self.end = Some(end),
            }
        }
    }

    fn ends(&mut self, number: u32, result: Result<&str, StepError>, points: i64) {
        let id = char::from(b'a' + u8::try_from(number).unwrap());
        let node = Some(String::from(id).repeat(26).parse().unwrap());
        let placed = Placed { node, task: None, points: Some(points) };
        let result = result.map(|text| Output {
            text: text.to_owned(),
            finish_reason: "stop".to_owned(),
            usage: Usage { prompt_tokens: 3, completion_tokens: 4 },
        });
        self.happens(Event::Ended { number: Number(number), placed, result });
    }

    fn answers(&mut self, number: u32, text: &str) {
        self.ends(number, Ok(text), 100);
    }

    fn happens(&mut self, event: Event) {
        self.run.handle_event(self.now, event);
        self.act();
    }

    fn units(&self) -> Vec<&str> {
        self.assigned.iter().map(|(_, unit, ..)| unit.as_str()).collect()
    }

    fn text(&self) -> &str {
        match self.end.as_ref() {
            Some(PlanEnd::Finished { output }) => &output.text,
            other => panic!("it has not finished: {other:?}"),
        }
    }

    fn error(&self) -> &StepError {
        match self.end.as_ref() {
            Some(PlanEnd::Failed { error, .. } | PlanEnd::Partial { error, .. }) => error,
            other => panic!("it has not failed: {other:?}"),
        }
    }
}

fn consensus(count: u32, agreement: Agreement, weighted: bool) -> Plan {
    let replicas = Replicas { count, quorum: 2, agreement, weighted, synthesis: None };
    let ask = Ask { replicas: Some(replicas), ..ask("{{ input }}") };
    plan(vec![step("answer", Work::Ask(Box::new(ask)))])
}

fn failed() -> StepError {
    StepError::Task { error: TaskError::NodesFailed { attempts: 2 } }
}

#[test]
fn outputs_flow_into_later_prompts() {
    let mut told = Told::new(plan(vec![asking("a", "{{ input }}!"), asking("b", "then {{ a }}")]));
    assert_eq!(told.units(), ["a"]);
    assert_eq!(told.assigned[0].2[0]["content"], "the input!");
    told.answers(0, "forty-two");
    assert_eq!(told.assigned[1].2[0]["content"], "then forty-two");
    told.answers(1, "done");
    assert_eq!(told.text(), "done");
}

#[test]
fn agreement_ends_replicas_that_could_not_change_it() {
    let mut told = Told::new(consensus(3, Agreement::Number { tolerance: 0.0 }, false));
    assert_eq!(told.assigned.len(), 3);
    told.answers(0, "It is 42.");
    told.answers(2, "42");
    assert_eq!(told.text(), "It is 42.");
    assert_eq!(told.withdrawn, [Number(1)]);
}

#[test]
fn reputation_outweighs_numbers_and_dissent_is_named() {
    let mut told = Told::new(consensus(5, Agreement::Number { tolerance: 0.0 }, true));
    for number in 0..3 {
        told.ends(number, Ok("1"), 20);
    }
    assert!(told.end.is_none(), "two others may weigh more than the three");
    told.ends(3, Ok("2"), 200);
    told.ends(4, Ok("2"), 300);
    assert_eq!(told.text(), "2");
    let report = &told.run.report()[0];
    assert_eq!(report.dissent.len(), 3);
}

#[test]
fn no_node_agrees_with_itself_alone_however_much_it_weighs() {
    let mut told = Told::new(consensus(3, Agreement::Number { tolerance: 0.0 }, true));
    told.ends(0, Ok("1"), 20);
    told.ends(1, Ok("1"), 20);
    told.ends(2, Ok("2"), 500);
    assert_eq!(*told.error(), StepError::NoAgreement { answers: 2 });
}

#[test]
fn partial_end_keeps_what_was_read_of_the_answer() {
    let mut short = plan(vec![asking("a", "{{ input }}")]);
    short.budget.seconds = Some(5);
    let mut told = Told::new(short);
    told.run.handle_text(Number(0), "half of it");
    told.run.handle_timeout(Duration::from_secs(5));
    told.act();
    let Some(PlanEnd::Partial { text, .. }) = &told.end else { panic!("{:?}", told.end) };
    assert_eq!(text, "half of it");
}

#[test]
fn token_budget_leaves_an_answer_what_nodes_have_room_for() {
    let limit = |context_tokens| {
        let mut limited = plan(vec![asking("a", "four")]);
        limited.budget.tokens = Some(100_000);
        limited.context_tokens = context_tokens;
        let mut run = PlanRun::new(limited).unwrap();
        std::iter::from_fn(|| run.poll_action()).find_map(|action| match action {
            Action::Assign(assignment) => assignment.max_tokens,
            _ => None,
        })
    };
    assert_eq!(limit(Some(512)), Some(512 - 10));
    assert_eq!(limit(None), Some(1024));
}

#[test]
fn light_third_replica_settles_it_by_its_start() {
    let mut told = Told::new(consensus(3, Agreement::Number { tolerance: 0.0 }, true));
    told.ends(0, Ok("1"), 100);
    told.ends(1, Ok("1"), 100);
    assert!(told.run.records_start(Number(2)));
    let placed = Placed { points: Some(50), ..Placed::default() };
    told.happens(Event::Placed { number: Number(2), placed });
    assert_eq!(told.text(), "1");
    assert_eq!(told.withdrawn, [Number(2)]);
}

#[test]
fn ties_and_missing_quorums_are_outcomes_of_their_own() {
    let mut tie = Told::new(consensus(2, Agreement::Number { tolerance: 0.0 }, false));
    tie.answers(0, "1");
    tie.answers(1, "2");
    assert_eq!(*tie.error(), StepError::Tie { answers: 2 });
    let mut few = Told::new(consensus(3, Agreement::Number { tolerance: 0.0 }, false));
    few.ends(0, Err(failed()), 0);
    few.ends(1, Err(failed()), 0);
    assert_eq!(*few.error(), StepError::NoQuorum { came: 0, needed: 2 });
    assert_eq!(few.withdrawn, [Number(2)], "the last one cannot help");
}

#[test]
fn free_texts_that_differ_are_merged_and_never_voted_on() {
    let mut plan = consensus(2, Agreement::Text { similarity: 0.95 }, false);
    let Work::Ask(asked) = &mut plan.steps[0].work else { unreachable!() };
    asked.replicas.as_mut().unwrap().synthesis = Some(Box::new(ask("merge {{ item }}")));
    let mut told = Told::new(plan);
    told.answers(0, "The sky is blue because of scattering.");
    told.answers(1, "Oceans reflect into it, people once believed.");
    let prompt = told.assigned[2].2[0]["content"].as_str().unwrap();
    assert!(prompt.starts_with("merge [1] The sky") && prompt.contains("[2] Oceans"), "{prompt}");
    told.answers(2, "Scattering.");
    assert_eq!(told.text(), "Scattering.");
    assert_eq!(told.run.report()[0].usage.total(), 21);
}

#[test]
fn failing_step_is_retried_elsewhere_then_with_another_model_then_skipped() {
    let mut first = asking("a", "{{ input }}");
    let fallback = vec!["other".parse().unwrap()];
    first.on_failure = OnFailure { retries: 1, fallback, then: Then::Skip };
    let mut told = Told::new(plan(vec![first, asking("b", "[{{ a }}]")]));
    for number in 0..4 {
        told.ends(number, Err(failed()), 0);
    }
    let models: Vec<_> = told.assigned.iter().map(|(.., model)| model.as_str()).collect();
    assert_eq!(models, ["m", "m", "other", "other", "m"]);
    assert_eq!(told.assigned[4].2[0]["content"], "[]");
    told.answers(4, "fine");
    assert_eq!(told.text(), "fine");
    assert_eq!(told.run.report()[0].state, UnitState::Skipped);
}

#[test]
fn callers_fault_is_not_tried_elsewhere() {
    let mut only = asking("a", "{{ input }}");
    only.on_failure.retries = 3;
    let mut told = Told::new(plan(vec![only]));
    let message = "no".to_owned();
    let error = TaskError::Rejected { status: 400, code: None, param: None, message };
    told.ends(0, Err(StepError::Task { error }), 0);
    assert_eq!(told.assigned.len(), 1);
    assert!(matches!(told.end, Some(PlanEnd::Failed { .. })));
}

#[test]
fn answer_that_broke_off_before_its_readers_is_not_begun_anew() {
    let mut only = asking("a", "{{ input }}");
    only.on_failure.retries = 3;
    let mut told = Told::new(plan(vec![only]));
    told.run.handle_text(Number(0), "half");
    told.ends(0, Err(StepError::Partial { text: "half".to_owned() }), 0);
    assert_eq!(told.assigned.len(), 1);
    assert!(matches!(told.end, Some(PlanEnd::Failed { .. })));
}

#[test]
fn used_up_budget_ends_the_plan_with_what_is_there() {
    let mut short = plan(vec![asking("a", "{{ input }}"), asking("b", "{{ a }}")]);
    short.budget.assignments = Some(1);
    let mut told = Told::new(short);
    told.answers(0, "the first half");
    let Some(PlanEnd::Partial { error, text }) = &told.end else { panic!("{:?}", told.end) };
    assert_eq!((error, text.as_str()), (&super::budget::used_up("assignments"), "the first half"));
}

#[test]
fn time_spent_waiting_for_a_person_does_not_count() {
    let of = vec!["a".parse().unwrap()];
    let mut reviewed = plan(vec![asking("a", "{{ input }}"), step("expert", Work::Review { of })]);
    reviewed.budget.seconds = Some(10);
    let mut told = Told::new(reviewed);
    told.now = Duration::from_secs(5);
    told.answers(0, "a draft");
    assert_eq!(told.run.poll_timeout(), None);
    told.now = Duration::from_hours(1000);
    let wrong = Decision { step: "expert".to_owned(), choose: Some("b".to_owned()), text: None };
    told.happens(Event::Decided(wrong));
    assert!(told.end.is_none(), "what is not laid out cannot be chosen");
    let choose = Some("a".to_owned());
    told.happens(Event::Decided(Decision { step: "expert".to_owned(), choose, text: None }));
    assert_eq!(told.text(), "a draft");
}

#[test]
fn plan_that_fails_undoes_what_was_done_and_says_so() {
    let mut steps = vec![asking("a", "x"), asking("b", "{{ a }}"), asking("c", "{{ b }}")];
    steps[0].undo = Some(Box::new(ask("retract {{ a }}")));
    steps[1].undo = Some(Box::new(ask("retract {{ b }}")));
    let mut told = Told::new(plan(steps));
    told.answers(0, "one");
    told.answers(1, "two");
    told.ends(2, Err(failed()), 0);
    assert_eq!(told.assigned[3].2[0]["content"], "retract two");
    told.answers(3, "ok");
    assert_eq!(told.assigned[4].2[0]["content"], "retract one");
    assert!(told.end.is_none());
    told.now += Duration::from_hours(1);
    told.run.handle_timeout(told.now);
    told.act();
    assert!(told.end.is_none() && told.withdrawn.is_empty(), "a coordinator may have been away");
    told.ends(4, Err(StepError::Expired), 0);
    let states: Vec<_> = told.run.report().iter().map(|unit| unit.state).collect();
    assert_eq!(states, [UnitState::Finished, UnitState::Undone, UnitState::Failed]);
    assert!(matches!(told.end, Some(PlanEnd::Failed { .. })));
}

#[test]
fn tree_of_merges_is_as_deep_as_it_may_be_and_keeps_the_order() {
    let items = (1..=5).map(|n| super::super::Item { text: n.to_string(), source: None });
    let items = super::super::Items::Given(items.collect());
    let each = step("piece", Work::Each { items, ask: Box::new(ask("{{ item }}")) });
    let fold = Work::Fold {
        of: "piece".parse().unwrap(),
        ask: Box::new(ask("{{ item }}")),
        most_tokens: 1,
        most_levels: 2,
    };
    let mut told = Told::new(plan(vec![each, step("whole", fold)]));
    for number in [4, 2, 0, 3, 1] {
        told.answers(number, &format!("p{number}"));
    }
    assert_eq!(told.units()[5..], ["whole.1.1", "whole.1.2"]);
    assert_eq!(told.assigned[5].2[0]["content"], "p0\n\np1");
    told.answers(6, "p2+p3");
    told.answers(5, "p0+p1");
    assert_eq!(told.units()[7..], ["whole.2.1"]);
    assert_eq!(told.assigned[7].2[0]["content"], "p0+p1\n\np2+p3\n\np4");
    told.answers(7, "all");
    assert_eq!(told.text(), "all");
}

#[test]
fn weights_stay_with_their_steps_when_others_are_missing() {
    let mut first = asking("a", "x");
    first.on_failure.then = Then::Skip;
    let of = ["a", "b", "c"].map(|name| name.parse().unwrap()).to_vec();
    let method = super::super::Aggregate::WeightedMean;
    let by = super::super::Join::Aggregate { method, weights: vec![1.0, 3.0, 1.0] };
    let join = step("mean", Work::Join { of, by });
    let mut told = Told::new(plan(vec![first, asking("b", "x"), asking("c", "x"), join]));
    told.ends(0, Err(failed()), 0);
    told.answers(1, "0");
    told.answers(2, "4");
    assert_eq!(told.text(), "1.0");
}

#[test]
fn one_answer_among_many_of_another_form_wins_no_vote() {
    let names = ["a", "b", "c"];
    let of = names.map(|name| name.parse().unwrap()).to_vec();
    let agreement = Agreement::Number { tolerance: 0.0 };
    let by = super::super::Join::Vote { agreement, weights: Vec::new() };
    let mut steps: Vec<_> = names.map(|name| asking(name, "x")).into();
    steps.push(step("vote", Work::Join { of, by }));
    let mut told = Told::new(plan(steps));
    told.answers(0, "no idea");
    told.answers(1, "42");
    told.answers(2, "none");
    assert_eq!(*told.error(), StepError::NoAgreement { answers: 3 });
}

#[test]
fn joins_of_joins_do_not_grow_without_bound() {
    let mut steps = vec![asking("s0", "x")];
    for number in 1..30 {
        let of = (0..number).map(|step| format!("s{step}").parse().unwrap()).collect();
        let by = super::super::Join::Concat { separator: String::new(), headings: Vec::new() };
        steps.push(step(&format!("s{number}"), Work::Join { of, by }));
    }
    let mut told = Told::new(plan(steps));
    told.answers(0, &"x".repeat(1024));
    assert!(matches!(told.error(), StepError::Unusable { .. }));
}
