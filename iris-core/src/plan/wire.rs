//! Plans as JSON, which is also their form in TOML and YAML files.
//!
//! Read by hand, so that what is wrong is named by where it stands: `steps[2].prompt`.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value, json};

use super::{
    Agreement, Ask, Dataset, Item, Items, Join, OnFailure, Plan, PlanError, Replicas, Step, Work,
};
use crate::model::{Abilities, ModelName};

/// How many tokens are merged at a time where a plan does not say.
const FOLD_TOKENS: u32 = 1500;
/// How many levels a fold has at most where a plan does not say.
const FOLD_LEVELS: u32 = 8;
/// How many assignments are under way at a time where a plan does not say.
const SIDE_BY_SIDE: u32 = 32;

/// What a step that asks may have beside what every step may.
const STEP: [&str; 14] = [
    "prompt",
    "history",
    "system",
    "model",
    "max_tokens",
    "params",
    "abilities",
    "dataset",
    "nodes",
    "replicas",
    "quorum",
    "agree",
    "weighted",
    "synthesis",
];

impl Plan {
    /// Reads a plan. `model` is asked where neither the plan nor a step names one.
    ///
    /// The members of a plan: `steps` (needed), `model`, `input`, `answer` (the last step),
    /// `budget`, `side_by_side` (32), `context_tokens` and `mode`. Those of a step: `name` (needed) and what it does,
    /// which is `prompt`, perhaps with `each` or `fold`, or `join`, or `review`. The plan is not
    /// [checked](Self::check) yet.
    pub fn read(value: &Value, model: Option<&ModelName>) -> Result<Self, PlanError> {
        let mut members = Members::new("", value)?;
        let own = members.get::<ModelName>("model")?;
        let model = own.as_ref().or(model);
        let steps = members.take("steps");
        let steps = steps.ok_or_else(|| error("steps", "a plan has a list of steps"))?;
        let Value::Array(steps) = steps else {
            return Err(error("steps", "it is a list"));
        };
        let read =
            |(place, step): (usize, &Value)| read_step(&format!("steps[{place}]"), step, model);
        let steps = steps.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
        let last = steps.last().map(|step| step.name.clone());
        let answer = members.get("answer")?.or(last);
        let plan = Self {
            mode: members.get("mode")?.unwrap_or(super::Mode::Chained),
            input: members.get("input")?.unwrap_or_default(),
            answer: answer.ok_or_else(|| error("steps", "a plan has at least one step"))?,
            steps,
            budget: members.get("budget")?.unwrap_or_default(),
            side_by_side: members.get("side_by_side")?.unwrap_or(SIDE_BY_SIDE),
            context_tokens: members.get("context_tokens")?,
        };
        members.done()?;
        Ok(plan)
    }
}

impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = Map::new();
        put(&mut members, "mode", &self.mode);
        put(&mut members, "input", &self.input);
        put(&mut members, "answer", &self.answer);
        put(&mut members, "budget", &self.budget);
        put(&mut members, "side_by_side", &self.side_by_side);
        put(&mut members, "context_tokens", &self.context_tokens);
        members.insert("steps".to_owned(), self.steps.iter().map(write_step).collect());
        members.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Plan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::read(&value, None).map_err(de::Error::custom)
    }
}

/// The members of one object, as far as they have not been read.
struct Members {
    path: String,
    rest: Map<String, Value>,
}

impl Members {
    fn new(path: &str, value: &Value) -> Result<Self, PlanError> {
        match value {
            Value::Object(rest) => Ok(Self { path: path.to_owned(), rest: rest.clone() }),
            _ => Err(error(if path.is_empty() { "plan" } else { path }, "it is an object")),
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.rest.remove(name).filter(|value| !value.is_null())
    }

    fn get<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, PlanError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let read = serde_json::from_value(value);
        read.map(Some).map_err(|wrong| error(self.at(name), wrong.to_string()))
    }

    fn has(&self, name: &str) -> bool {
        self.rest.contains_key(name)
    }

    fn at(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Refuses what nobody has read.
    fn done(self) -> Result<(), PlanError> {
        self.known(&[])
    }

    /// Refuses members of other names.
    fn known(&self, names: &[&str]) -> Result<(), PlanError> {
        let unknown = |name: &&String| !names.contains(&name.as_str());
        let Some(name) = self.rest.keys().find(unknown) else { return Ok(()) };
        let shown: String = name.chars().take(64).collect();
        Err(error(self.at(&shown), "there is no such member here, or it does not fit the others"))
    }
}

fn error(at: impl Into<String>, what: impl Into<String>) -> PlanError {
    PlanError { at: at.into(), what: what.into() }
}

fn read_step(path: &str, value: &Value, model: Option<&ModelName>) -> Result<Step, PlanError> {
    let mut members = Members::new(path, value)?;
    let name = members.get("name")?;
    let name = name.ok_or_else(|| error(members.at("name"), "a step has a name"))?;
    let retries = members.get("retries")?.unwrap_or_default();
    let fallback = members.get("fallback")?.unwrap_or_default();
    let then = members.get("on_failure")?.unwrap_or_default();
    let (when, budget) = (members.get("when")?, members.get("budget")?.unwrap_or_default());
    let own = members.get::<ModelName>("model")?;
    let model = own.as_ref().or(model);
    let undo = members.take("undo");
    let undo = undo.map(|undo| read_nested(&members.at("undo"), undo, model)).transpose()?;
    let work = read_work(&mut members, model)?;
    members.done()?;
    let on_failure = OnFailure { retries, fallback, then };
    Ok(Step { name, work, when, budget, on_failure, undo: undo.map(Box::new) })
}

fn read_work(members: &mut Members, model: Option<&ModelName>) -> Result<Work, PlanError> {
    if let Some(of) = members.get("review")? {
        return Ok(Work::Review { of });
    }
    if let Some(join) = members.take("join") {
        let mut inside = Members::new(&members.at("join"), &join)?;
        let of = inside.get("of")?;
        let of = of.ok_or_else(|| error(inside.at("of"), "it names the steps to join"))?;
        let by = serde_json::from_value::<Join>(Value::Object(inside.rest))
            .map_err(|wrong| error(members.at("join"), wrong.to_string()))?;
        return Ok(Work::Join { of, by });
    }
    if let Some(items) = members.take("each") {
        let items = read_items(&members.at("each"), &items)?;
        return Ok(Work::Each { items, ask: Box::new(read_ask(members, model)?) });
    }
    if let Some(of) = members.get("fold")? {
        let most_tokens = members.get("fold_tokens")?.unwrap_or(FOLD_TOKENS);
        let most_levels = members.get("fold_levels")?.unwrap_or(FOLD_LEVELS);
        let ask = Box::new(read_ask(members, model)?);
        return Ok(Work::Fold { of, ask, most_tokens, most_levels });
    }
    members.known(&STEP)?;
    if !members.has("prompt") && !members.has("history") {
        let what = "a step has a prompt, or one of join and review";
        return Err(error(members.at("prompt"), what));
    }
    let count = members.get("replicas")?;
    let mut ask = read_ask(members, model)?;
    if let Some(count) = count {
        ask.replicas = Some(read_replicas(members, count, &ask)?);
    }
    Ok(Work::Ask(Box::new(ask)))
}

fn read_items(path: &str, value: &Value) -> Result<Items, PlanError> {
    if let Value::Array(values) = value {
        let read = |(place, value): (usize, &Value)| match value {
            Value::String(text) => Ok(Item { text: text.clone(), source: None }),
            other => serde_json::from_value(other.clone())
                .map_err(|wrong| error(format!("{path}[{place}]"), wrong.to_string())),
        };
        return Ok(Items::Given(values.iter().enumerate().map(read).collect::<Result<_, _>>()?));
    }
    let mut members = Members::new(path, value)
        .map_err(|_| error(path, "it is a list, or an object with the step that makes one"))?;
    let step = members.get("step")?;
    let step = step.ok_or_else(|| error(members.at("step"), "it names the step that lists"))?;
    let most = members.get("most")?.unwrap_or(16);
    let otherwise = members.get("otherwise")?;
    members.done()?;
    Ok(Items::From { step, most, otherwise })
}

fn read_ask(members: &mut Members, model: Option<&ModelName>) -> Result<Ask, PlanError> {
    let own = members.get::<ModelName>("model")?;
    let model = own.or_else(|| model.cloned());
    let needed = "neither the step nor the plan names a model";
    let model = model.ok_or_else(|| error(members.at("model"), needed))?;
    let dataset = match members.take("dataset") {
        Some(Value::String(name)) => Some(Dataset { name, key: None }),
        Some(other) => Some(
            serde_json::from_value(other)
                .map_err(|wrong| error(members.at("dataset"), wrong.to_string()))?,
        ),
        None => None,
    };
    Ok(Ask {
        model,
        history: members.get("history")?.unwrap_or_default(),
        system: members.get("system")?,
        prompt: members.get("prompt")?,
        max_tokens: members.get("max_tokens")?,
        params: members.get("params")?.unwrap_or_default(),
        abilities: members.get("abilities")?.unwrap_or(Abilities::NONE),
        dataset,
        nodes: members.get("nodes")?.unwrap_or_default(),
        replicas: None,
    })
}

/// Reads an ask that is a member of a step: a prompt alone, or an object.
fn read_nested(path: &str, value: Value, model: Option<&ModelName>) -> Result<Ask, PlanError> {
    let value = match value {
        Value::String(prompt) => json!({ "prompt": prompt }),
        other => other,
    };
    let mut members = Members::new(path, &value)?;
    let ask = read_ask(&mut members, model)?;
    members.done()?;
    Ok(ask)
}

fn read_replicas(members: &mut Members, count: u32, ask: &Ask) -> Result<Replicas, PlanError> {
    let synthesis = members.take("synthesis");
    let at = members.at("synthesis");
    let synthesis = synthesis.map(|value| read_nested(&at, value, Some(&ask.model))).transpose()?;
    Ok(Replicas {
        count,
        quorum: members.get("quorum")?.unwrap_or(count / 2 + 1),
        agreement: members.get("agree")?.unwrap_or(Agreement::Auto),
        weighted: members.get("weighted")?.unwrap_or(true),
        synthesis: synthesis.map(Box::new),
    })
}

fn put(members: &mut Map<String, Value>, name: &str, value: &impl Serialize) {
    let value = serde_json::to_value(value).expect("a plan's parts have a JSON form");
    let is_default = match &value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    };
    if !is_default {
        members.insert(name.to_owned(), value);
    }
}

fn write_step(step: &Step) -> Value {
    let mut members = Map::new();
    put(&mut members, "name", &step.name);
    match &step.work {
        Work::Ask(ask) => write_ask(&mut members, ask),
        Work::Each { items, ask } => {
            members.insert("each".to_owned(), write_items(items));
            write_ask(&mut members, ask);
        }
        Work::Fold { of, ask, most_tokens, most_levels } => {
            put(&mut members, "fold", of);
            put(&mut members, "fold_tokens", most_tokens);
            put(&mut members, "fold_levels", most_levels);
            write_ask(&mut members, ask);
        }
        Work::Join { of, by } => {
            let mut join = serde_json::to_value(by).expect("a join has a JSON form");
            join["of"] = serde_json::to_value(of).expect("names have a JSON form");
            members.insert("join".to_owned(), join);
        }
        Work::Review { of } => put(&mut members, "review", of),
    }
    put(&mut members, "when", &step.when);
    put(&mut members, "budget", &step.budget);
    put(&mut members, "retries", &(step.on_failure.retries > 0).then_some(step.on_failure.retries));
    put(&mut members, "fallback", &step.on_failure.fallback);
    put(&mut members, "on_failure", &step.on_failure.then);
    if let Some(undo) = &step.undo {
        members.insert("undo".to_owned(), write_nested(undo));
    }
    members.into()
}

fn write_items(items: &Items) -> Value {
    match items {
        Items::Given(items) => serde_json::to_value(items).expect("items have a JSON form"),
        Items::From { step, most, otherwise } => {
            let mut members = Map::new();
            put(&mut members, "step", step);
            put(&mut members, "most", most);
            if let Some(otherwise) = otherwise {
                members.insert("otherwise".to_owned(), otherwise.as_str().into());
            }
            members.into()
        }
    }
}

fn write_ask(members: &mut Map<String, Value>, ask: &Ask) {
    put(members, "model", &ask.model);
    put(members, "history", &ask.history);
    if let Some(system) = &ask.system {
        members.insert("system".to_owned(), system.to_string().into());
    }
    if let Some(prompt) = &ask.prompt {
        members.insert("prompt".to_owned(), prompt.to_string().into());
    }
    put(members, "max_tokens", &ask.max_tokens);
    put(members, "params", &ask.params);
    put(members, "abilities", &ask.abilities);
    put(members, "dataset", &ask.dataset);
    put(members, "nodes", &ask.nodes);
    if let Some(replicas) = &ask.replicas {
        put(members, "replicas", &replicas.count);
        put(members, "quorum", &replicas.quorum);
        put(members, "agree", &replicas.agreement);
        put(members, "weighted", &replicas.weighted);
        if let Some(synthesis) = &replicas.synthesis {
            members.insert("synthesis".to_owned(), write_nested(synthesis));
        }
    }
}

fn write_nested(ask: &Ask) -> Value {
    let mut members = Map::new();
    write_ask(&mut members, ask);
    members.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::arbitrary::plans;
    use super::*;

    fn refusal(plan: &Value) -> String {
        let read = Plan::read(plan, Some(&"m".parse().unwrap()));
        read.and_then(|plan| plan.check()).unwrap_err().to_string()
    }

    #[test]
    fn short_plan_needs_little() {
        let plan = json!({ "steps": [
            { "name": "triage", "prompt": "Classify {{ input }}", "max_tokens": 5 },
            { "name": "act", "prompt": "Act on {{ triage }}", "when": { "step": "triage", "contains": "urgent" },
              "fallback": ["other"], "retries": 1, "on_failure": "skip", "undo": "Retract {{ act }}" },
            { "name": "end", "join": { "of": ["triage", "act"], "how": "concat", "separator": "\n" } },
        ]});
        let plan = Plan::read(&plan, Some(&"m".parse().unwrap())).unwrap();
        plan.check().unwrap();
        assert_eq!(plan.answer.as_str(), "end");
        assert_eq!(plan.steps[1].on_failure.fallback[0].as_str(), "other");
    }

    #[test]
    fn what_is_wrong_is_named_by_where_it_stands() {
        let step = |more: Value| {
            let mut step = json!({ "name": "a", "prompt": "x" });
            for (name, value) in more.as_object().unwrap() {
                step[name] = value.clone();
            }
            json!({ "steps": [step] })
        };
        let refused = [
            (json!({}), "steps: "),
            (json!({ "steps": [] }), "steps: "),
            (json!([]), "plan: "),
            (json!({ "steps": [{}] }), "steps[0].name: "),
            (json!({ "steps": [{ "name": "a" }] }), "steps[0].prompt: "),
            (step(json!({ "promt": "y" })), "steps[0].promt: "),
            (json!({ "steps": [{ "name": "a", "promt": "y" }] }), "steps[0].promt: "),
            (
                step(json!({ "replicas": 2, "agree": { "by": "number", "tolerence": 0.1 } })),
                "steps[0].agree: ",
            ),
            (step(json!({ "dataset": { "name": "d", "kee": "k" } })), "steps[0].dataset: "),
            (step(json!({ "dataset": "a\u{1b}b" })), "steps[0].dataset: "),
            (
                json!({ "steps": [{ "name": "a", "prompt": "x" }, { "name": "b", "join": { "of": ["a", "a"], "how": "all" } }] }),
                "steps[1].join.of: ",
            ),
            (
                json!({ "steps": [{ "name": "a", "prompt": "x" }, { "name": "b", "join": { "of": ["a"], "how": "vote", "agreement": { "by": "auto" }, "weight": [1] } }] }),
                "steps[1].join: ",
            ),
            (step(json!({ "prompt": "{{ b }}" })), "steps[0].prompt: no earlier step"),
            (step(json!({ "prompt": "{{ item }}" })), "steps[0].prompt: `item`"),
            (step(json!({ "prompt": "{{ b" })), "steps[0].prompt: "),
            (step(json!({ "max_tokens": "many" })), "steps[0].max_tokens: "),
            (step(json!({ "each": 5 })), "steps[0].each: "),
            (step(json!({ "each": { "step": "b" } })), "steps[0].each.step: no earlier"),
            (step(json!({ "replicas": 1 })), "steps[0].replicas: "),
            (step(json!({ "replicas": 3, "quorum": 4 })), "steps[0].quorum: "),
            (step(json!({ "quorum": 4 })), "steps[0].quorum: "),
            (step(json!({ "replicas": 2, "params": { "tools": [] } })), "steps[0].params.tools: "),
            (step(json!({ "params": { "stream": true } })), "steps[0].params: "),
            (step(json!({ "undo": { "promt": "x" } })), "steps[0].undo.promt: "),
            (step(json!({ "when": { "step": "b", "contains": "x" } })), "steps[0].when.step: "),
            (json!({ "steps": [{ "name": "input", "prompt": "x" }] }), "steps[0].name: "),
            (json!({ "answer": "b", "steps": [{ "name": "a", "prompt": "x" }] }), "answer: "),
            (
                json!({ "budget": { "token": 1 }, "steps": [{ "name": "a", "prompt": "x" }] }),
                "budget: ",
            ),
            (
                json!({ "steps": [{ "name": "a", "prompt": "x" }, { "name": "a", "prompt": "x" }] }),
                "steps[1].name: ",
            ),
        ];
        for (plan, expected) in refused {
            let refusal = refusal(&plan);
            assert!(refusal.starts_with(expected), "{plan}: {refusal}");
        }
        let no_model = Plan::read(&json!({ "steps": [{ "name": "a", "prompt": "x" }] }), None);
        assert_eq!(no_model.unwrap_err().at, "steps[0].model");
    }

    proptest! {
        #[test]
        fn written_plans_are_read_as_they_were(plan in plans()) {
            let text = serde_json::to_string(&plan).unwrap();
            prop_assert!(serde_json::from_str::<Plan>(&text).unwrap() == plan, "{}", text);
        }
    }
}
