//! Random plans that pass the check.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::Map;

use super::{
    Aggregate, Agreement, Ask, Budget, Condition, Item, Items, Join, Mode, OnFailure, Plan,
    Replicas, Step, StepName, Then, Work,
};
use crate::model::Abilities;

/// What one step is made of; references are numbers that are taken modulo what there is.
#[derive(Clone, Debug)]
struct Draft {
    kind: u8,
    refs: Vec<usize>,
    items: usize,
    when: Option<(usize, String, bool)>,
    retries: u32,
    fallback: bool,
    skip: bool,
    undo: bool,
    max_tokens: Option<u32>,
    own: Budget,
    number: u32,
}

/// Draws plans of one to six steps of all kinds.
pub(super) fn plans() -> impl Strategy<Value = Plan> {
    (vec(drafts(), 1..7), budgets(), 1_u32..6, any::<usize>()).prop_map(
        |(drafts, budget, side_by_side, answer)| {
            let mut steps: Vec<Step> = Vec::new();
            for draft in drafts {
                let step = draft.step(&steps);
                steps.push(step);
            }
            let answer = steps[answer % steps.len()].name.clone();
            let input = "what the user gave".to_owned();
            Plan {
                mode: Mode::Chained,
                input,
                steps,
                answer,
                budget,
                side_by_side,
                context_tokens: None,
            }
        },
    )
}

fn drafts() -> impl Strategy<Value = Draft> {
    let shape = (0_u8..9, vec(any::<usize>(), 0..4), 0_usize..5, any::<u32>());
    let when = option::weighted(0.2, (any::<usize>(), "answer|one|[0-2]", any::<bool>()));
    let fate = (0_u32..3, any::<bool>(), any::<bool>(), any::<bool>());
    let limits = (option::of(1_u32..200), option::weighted(0.2, budgets()));
    (shape, when, fate, limits).prop_map(
        |(
            (kind, refs, items, number),
            when,
            (retries, fallback, skip, undo),
            (max_tokens, own),
        )| {
            let own = own.unwrap_or_default();
            Draft {
                kind,
                refs,
                items,
                when,
                retries,
                fallback,
                skip,
                undo,
                max_tokens,
                own,
                number,
            }
        },
    )
}

fn budgets() -> impl Strategy<Value = Budget> {
    let tokens = option::weighted(0.3, 0_u64..5000);
    let (seconds, assignments) =
        (option::weighted(0.3, 0_u64..30), option::weighted(0.3, 0_u32..30));
    (tokens, seconds, assignments).prop_map(|(tokens, seconds, assignments)| Budget {
        tokens,
        seconds,
        assignments,
    })
}

impl Draft {
    fn step(self, earlier: &[Step]) -> Step {
        let name: StepName = format!("s{}", earlier.len()).parse().expect("a letter and digits");
        let named =
            |reference: &usize| Some(earlier.get(reference % earlier.len().max(1))?.name.clone());
        let of: std::collections::BTreeSet<StepName> = self.refs.iter().filter_map(named).collect();
        let of: Vec<StepName> = of.into_iter().collect();
        let first = of.first().cloned();
        let work = match (self.kind, first) {
            (3, Some(step)) => {
                let otherwise = self.skip.then(|| "all of it".to_owned());
                let items = Items::From { step, most: 1 + self.number % 4, otherwise };
                Work::Each { items, ask: Box::new(self.ask("{{ item }}", &of)) }
            }
            (4, Some(of)) => Work::Fold {
                ask: Box::new(self.ask("{{ item }}", &[])),
                most_tokens: 1 + self.number % 30,
                most_levels: 1 + self.number % 3,
                of,
            },
            (5, Some(_)) => Work::Join { of, by: self.join() },
            (6, Some(_)) => Work::Review { of },
            (2, _) => {
                let item = |number| Item { text: format!("item {number}"), source: None };
                let items = Items::Given((0..self.items).map(item).collect());
                Work::Each { items, ask: Box::new(self.ask("{{ item }} {{ part }}", &of)) }
            }
            (7 | 8, _) => {
                let mut ask = self.ask("{{ input }}", &of);
                ask.replicas = Some(self.replicas(&ask));
                Work::Ask(Box::new(ask))
            }
            _ => Work::Ask(Box::new(self.ask("{{ input }}", &of))),
        };
        let when = self.when.as_ref().and_then(|(reference, text, not)| {
            let contains = Some(text.clone());
            let step = named(reference)?;
            Some(Condition { step, contains, equals: None, above: None, below: None, not: *not })
        });
        let asks = !matches!(work, Work::Join { .. } | Work::Review { .. });
        let once = !matches!(&work, Work::Ask(ask) if ask.replicas.is_some());
        let fallback =
            if self.fallback && asks && once { vec![model("other")] } else { Vec::new() };
        let then = if self.skip { Then::Skip } else { Then::Stop };
        let retries = if asks { self.retries } else { 0 };
        let undo = self.undo.then(|| Box::new(self.ask("undo it", std::slice::from_ref(&name))));
        let on_failure = OnFailure { retries, fallback, then };
        Step { name, work, when, budget: self.own, on_failure, undo }
    }

    fn ask(&self, prompt: &str, of: &[StepName]) -> Ask {
        let places = of.iter().map(|name| format!("{{{{ {name} }}}}"));
        let prompt = std::iter::once(prompt.to_owned()).chain(places).collect::<Vec<_>>().join(" ");
        Ask {
            model: model("m"),
            history: Vec::new(),
            system: None,
            prompt: Some(prompt.parse().expect("it is a template")),
            max_tokens: self.max_tokens,
            params: Map::new(),
            abilities: Abilities::NONE,
            dataset: None,
            nodes: Vec::new(),
            replicas: None,
        }
    }

    fn replicas(&self, ask: &Ask) -> Replicas {
        let count = 2 + self.number % 4;
        let synthesis = Ask {
            prompt: Some("merge {{ item }}".parse().expect("it is a template")),
            ..ask.clone()
        };
        Replicas {
            count,
            quorum: 1 + self.number / 7 % count,
            agreement: self.agreement(),
            weighted: self.undo,
            synthesis: self.skip.then(|| Box::new(synthesis)),
        }
    }

    fn agreement(&self) -> Agreement {
        match self.number % 5 {
            0 => Agreement::Auto,
            1 => Agreement::Number { tolerance: 0.1 },
            2 => Agreement::Json,
            3 => Agreement::Choice { options: vec!["answer".to_owned(), "one".to_owned()] },
            _ => Agreement::Text { similarity: 0.9 },
        }
    }

    fn join(&self) -> Join {
        match self.number % 6 {
            0 => Join::Concat { separator: "\n".to_owned(), headings: vec!["first".to_owned()] },
            1 => Join::Vote { agreement: self.agreement(), weights: vec![0.5, 2.0] },
            2 => Join::Aggregate { method: Aggregate::Mean, weights: Vec::new() },
            3 => Join::Aggregate { method: Aggregate::Histogram, weights: Vec::new() },
            4 => Join::Aggregate { method: Aggregate::WeightedMean, weights: vec![2.0] },
            _ => Join::All,
        }
    }
}

fn model(name: &str) -> crate::model::ModelName {
    name.parse().expect("it is a name")
}
