//! What a user asks, and how it is to be divided.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Aggregate, Agreement, Ask, Budget, Dataset, Mode, Plan, PlanError, Step, Template, Work,
    collaborative, comparative, consensus, subtasks,
};
use crate::id::NodeId;
use crate::model::{Abilities, ModelName};

/// Members of a chat request that are no parameters of the requests it is divided into.
const NO_PARAMS: [&str; 14] = [
    "model",
    "stream",
    "stream_options",
    "n",
    "max_tokens",
    "max_completion_tokens",
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "tools",
    "functions",
    "tool_choice",
    "function_call",
    "parallel_tool_calls",
];

/// A question to a model, before it is divided.
#[derive(Clone, PartialEq)]
pub struct Chat {
    /// The model.
    pub model: ModelName,
    /// Instructions before everything else.
    pub system: Option<String>,
    /// The conversation so far, as JSON objects of the chat API.
    pub history: Vec<Value>,
    /// The question.
    pub prompt: String,
    /// Other members of the chat request, such as `temperature`.
    pub params: Map<String, Value>,
    /// The longest answer, in tokens.
    pub max_tokens: Option<u32>,
    /// What the model's server must be able to do.
    pub abilities: Abilities,
}

/// How a question is to be divided. Members that a mode has no use for are refused by
/// [`divide`].
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Division {
    /// The way of working.
    pub mode: ModeChoice,
    /// Consensus: how often it is asked. Default: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Consensus: how many have to answer. Default: more than half.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quorum: Option<u32>,
    /// Consensus: whether answers weigh as much as their nodes' reputation. Default: yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weighted: Option<bool>,
    /// Consensus and comparative: what counts as the same answer. Default: automatic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agree: Option<Agreement>,
    /// Subtasks: whether a last step makes one text of the answers. Default: no.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub smooth: bool,
    /// Context: the document that the question is about. Default: the question itself is long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
    /// Context: how many tokens two neighbouring pieces share. Default: a tenth of a piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap_tokens: Option<u32>,
    /// Comparative: the models.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelName>,
    /// Comparative: how one answer is made of theirs. Default: majority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Compare>,
    /// Comparative and collaborative: a weight for each model or data set, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<f64>,
    /// Comparative: the model that judges. Default: the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<ModelName>,
    /// Collaborative: the data sets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub datasets: Vec<Dataset>,
    /// Collaborative: the nodes, one for each data set; or, without data sets, the nodes to ask.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeId>,
    /// Collaborative: how the answers are put together. Default: one after the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aggregate: Option<Aggregate>,
    /// What all steps may use together.
    pub budget: Budget,
    /// How many assignments may be under way at a time. Default: 32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side_by_side: Option<u32>,
}

/// A way of working that can be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModeChoice {
    /// One step.
    #[default]
    Single,
    /// Independent parts, merged in order.
    Subtasks,
    /// Replicas that agree.
    Consensus,
    /// A long document.
    Context,
    /// One model, many data sets.
    Collaborative,
    /// Many models, one input.
    Comparative,
    /// Context where the text is longer than a node's, subtasks where a rule finds parts, else
    /// single.
    Auto,
}

/// How one answer is made of those of several models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compare {
    /// The answer that more than half have given.
    #[default]
    Majority,
    /// The same, with weights.
    Weighted,
    /// A model reads all answers and writes the best one.
    Judge,
    /// A person reads all answers and decides; the plan waits.
    Expert,
    /// All answers, side by side.
    All,
}

/// What the nodes that offer the model can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Tokens of prompt and answer together that each of them takes.
    pub context_tokens: u32,
    /// What all of their servers can do beyond chat.
    pub abilities: Abilities,
}

/// Makes the plan that answers `chat` in the way that `division` asks for.
pub fn divide(chat: Chat, division: &Division, capacity: Capacity) -> Result<Plan, PlanError> {
    division.check()?;
    let mut plan = match division.resolved(&chat, capacity) {
        ModeChoice::Subtasks => subtasks(chat, division.smooth, capacity)?,
        ModeChoice::Consensus => consensus(chat, division)?,
        #[cfg(feature = "split")]
        ModeChoice::Context => super::context(chat, division, capacity)?,
        #[cfg(not(feature = "split"))]
        ModeChoice::Context => {
            let what = "this program was built without what cuts documents".to_owned();
            return Err(PlanError { at: "mode".to_owned(), what });
        }
        ModeChoice::Collaborative => collaborative(&chat, division)?,
        ModeChoice::Comparative => comparative(&chat, division)?,
        ModeChoice::Single | ModeChoice::Auto => single(chat),
    };
    plan.budget = division.budget;
    plan.context_tokens = Some(capacity.context_tokens);
    if let Some(most) = division.side_by_side {
        plan.side_by_side = most;
    }
    plan.check().map_err(PlanError::of_division)?;
    Ok(plan)
}

/// Makes a plan of one step.
pub fn single(chat: Chat) -> Plan {
    let (ask, input) = chat.into_ask();
    Plan::of_steps(Mode::Single, input, vec![Step::new("answer", Work::Ask(Box::new(ask)))])
}

impl Division {
    /// The members of a division, as they stand beside those of a chat request.
    pub const MEMBERS: [&'static str; 17] = [
        "mode",
        "replicas",
        "quorum",
        "weighted",
        "agree",
        "smooth",
        "document",
        "overlap_tokens",
        "models",
        "method",
        "weights",
        "judge",
        "datasets",
        "nodes",
        "aggregate",
        "budget",
        "side_by_side",
    ];

    /// Reads a model's name that asks for a way of working: `iris/consensus:MODEL`, with a number
    /// of replicas `iris/consensus-5:MODEL`, `iris/subtasks:MODEL`, `iris/context:MODEL`,
    /// `iris/auto:MODEL` or `iris/single:MODEL`.
    ///
    /// `None` where it is the name of a model, even if that begins with `iris/`.
    pub fn of_name(name: &str) -> Option<Result<(Self, ModelName), PlanError>> {
        let (mode, model) = name.strip_prefix("iris/")?.split_once(':')?;
        let (mode, replicas) = match mode.split_once('-') {
            Some((mode, replicas)) => (mode, Some(replicas.parse().ok()?)),
            None => (mode, None),
        };
        let mode = match mode {
            "single" => ModeChoice::Single,
            "subtasks" => ModeChoice::Subtasks,
            "consensus" => ModeChoice::Consensus,
            "context" => ModeChoice::Context,
            "auto" => ModeChoice::Auto,
            _ => return None,
        };
        let division = Self { mode, replicas, ..Self::default() };
        let model = model.parse().map_err(|wrong: crate::model::ModelNameError| PlanError {
            at: "model".to_owned(),
            what: format!("after `iris/..:` comes the name of a model: {wrong}"),
        });
        Some(division.check().and(model).map(|model| (division, model)))
    }

    /// Refuses members that the mode has no use for, which were meant to do something.
    fn check(&self) -> Result<(), PlanError> {
        use ModeChoice::{Auto, Collaborative, Comparative, Consensus, Context, Subtasks};
        let members: [(&str, bool, &[ModeChoice]); 14] = [
            ("replicas", self.replicas.is_some(), &[Consensus]),
            ("quorum", self.quorum.is_some(), &[Consensus]),
            ("weighted", self.weighted.is_some(), &[Consensus]),
            ("agree", self.agree.is_some(), &[Consensus, Comparative]),
            ("smooth", self.smooth, &[Subtasks, Auto]),
            ("document", self.document.is_some(), &[Context, Auto]),
            ("overlap_tokens", self.overlap_tokens.is_some(), &[Context, Auto]),
            ("models", !self.models.is_empty(), &[Comparative]),
            ("method", self.method.is_some(), &[Comparative]),
            ("weights", !self.weights.is_empty(), &[Comparative, Collaborative]),
            ("judge", self.judge.is_some(), &[Comparative]),
            ("datasets", !self.datasets.is_empty(), &[Collaborative]),
            ("nodes", !self.nodes.is_empty(), &[Collaborative]),
            ("aggregate", self.aggregate.is_some(), &[Collaborative]),
        ];
        for (name, given, modes) in members {
            if given && !modes.contains(&self.mode) {
                let mode = serde_json::to_value(self.mode).unwrap_or_default();
                let what = format!("the mode {mode} has no use for it");
                return Err(PlanError { at: name.to_owned(), what });
            }
        }
        Ok(())
    }

    /// Returns the mode, or what [`ModeChoice::Auto`] comes to.
    fn resolved(&self, chat: &Chat, capacity: Capacity) -> ModeChoice {
        if self.mode != ModeChoice::Auto {
            return self.mode;
        }
        let tokens = super::tokens(&chat.prompt).saturating_add(chat.max_tokens.unwrap_or(0));
        if self.document.is_some() || (chat.is_text() && tokens > capacity.context_tokens) {
            ModeChoice::Context
        } else if chat.is_text() && super::parts::parts(&chat.prompt).is_some() {
            ModeChoice::Subtasks
        } else {
            ModeChoice::Single
        }
    }
}

impl Chat {
    /// Makes a question without a conversation before it.
    pub fn new(model: ModelName, prompt: impl Into<String>) -> Self {
        Self {
            model,
            system: None,
            history: Vec::new(),
            prompt: prompt.into(),
            params: Map::new(),
            max_tokens: None,
            abilities: Abilities::NONE,
        }
    }

    /// Reads a chat request, given as its members. What is not read here, set by a plan itself or
    /// about tools, which nobody could call, goes to the model's server as [`params`](Self::params).
    pub fn from_request(
        model: ModelName,
        mut request: Map<String, Value>,
    ) -> Result<Self, PlanError> {
        let Some(Value::Array(messages)) = request.remove("messages") else {
            let what = "it is an array of messages".to_owned();
            return Err(PlanError { at: "messages".to_owned(), what });
        };
        for name in NO_PARAMS {
            request.remove(name);
        }
        Ok(Self { params: request, ..Self::from_messages(model, messages)? })
    }

    /// Takes the last message of a conversation for the question. It has to be the user's, and
    /// text.
    pub fn from_messages(model: ModelName, mut messages: Vec<Value>) -> Result<Self, PlanError> {
        let last = messages.len().saturating_sub(1);
        let at = |place: usize, what: &str| PlanError {
            at: format!("messages[{place}]"),
            what: what.to_owned(),
        };
        let question = messages.pop().ok_or_else(|| at(0, "there is no message"))?;
        if question["role"] != "user" {
            return Err(at(last, "a divided conversation ends with a message of the user"));
        }
        let prompt = text(&question["content"]);
        let prompt = prompt.ok_or_else(|| at(last, "only text can be divided"))?;
        let instructions = messages.first().is_some_and(|message| message["role"] == "system");
        let system = if instructions {
            let content = text(&messages.remove(0)["content"]);
            Some(content.ok_or_else(|| at(0, "only text can be divided"))?)
        } else {
            None
        };
        Ok(Self { system, history: messages, ..Self::new(model, prompt) })
    }

    /// Returns the question as an ask about the plan's input, and that input. What the user wrote
    /// is never taken for a template.
    pub(super) fn into_ask(self) -> (Ask, String) {
        let ask = self.ask(Template::input());
        (ask, self.prompt)
    }

    /// Returns whether its answer is free text, which can be put together.
    fn is_text(&self) -> bool {
        ["tools", "functions", "response_format"]
            .iter()
            .all(|name| !self.params.contains_key(*name))
    }

    /// Refuses members of the request that cannot be had in its mode.
    pub(super) fn refuse(&self, members: &[&str], why: &str) -> Result<(), PlanError> {
        let is_asked = |name: &&&str| match self.params.get(**name) {
            None | Some(Value::Null) => false,
            Some(value) => value["type"] != "text",
        };
        match members.iter().find(is_asked) {
            Some(name) => Err(PlanError { at: (*name).to_owned(), what: why.to_owned() }),
            None => Ok(()),
        }
    }

    /// Returns an ask under the same conditions with another prompt.
    pub(super) fn ask(&self, prompt: Template) -> Ask {
        Ask {
            model: self.model.clone(),
            history: self.history.clone(),
            system: self.system.clone().map(Template::literal),
            prompt: Some(prompt),
            max_tokens: self.max_tokens,
            params: self.params.clone(),
            abilities: self.abilities,
            dataset: None,
            nodes: Vec::new(),
            replicas: None,
        }
    }
}

/// Returns the text of a message's content.
fn text(content: &Value) -> Option<String> {
    match content {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => {
            let texts = parts.iter().map(|part| match part["type"].as_str() {
                Some("text") => part["text"].as_str(),
                _ => None,
            });
            Some(texts.collect::<Option<Vec<_>>>()?.join("\n"))
        }
        _ => None,
    }
}

impl PlanError {
    /// Names the member of the division, where that is what a step's member was made of.
    fn of_division(self) -> Self {
        let member = self.at.split_once("].").map_or(self.at.as_str(), |(_, member)| member);
        let name = member.split('.').next().unwrap_or_default();
        let known = Division::MEMBERS.contains(&name) || name == "max_tokens";
        let at = if known { member.to_owned() } else { self.at };
        Self { at, what: self.what }
    }
}

impl Plan {
    /// Makes a plan whose last step gives the answer.
    pub(super) fn of_steps(mode: Mode, input: String, steps: Vec<Step>) -> Self {
        let answer = steps.last().expect("a plan has steps").name.clone();
        Self {
            mode,
            input,
            steps,
            answer,
            budget: Budget::default(),
            side_by_side: 32,
            context_tokens: None,
        }
    }
}

impl Step {
    /// Makes a step that stops the plan when it fails.
    pub(super) fn new(name: &str, work: Work) -> Self {
        Self {
            name: name.parse().expect("names of our own are valid"),
            work,
            when: None,
            budget: Budget::default(),
            on_failure: super::OnFailure::default(),
            undo: None,
        }
    }
}

super::quiet_debug!(
    Chat { model, max_tokens, abilities },
    Division { mode, replicas, quorum, models, method, aggregate, budget },
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn model(name: &str) -> ModelName {
        name.parse().unwrap()
    }

    const CAPACITY: Capacity = Capacity { context_tokens: 2048, abilities: Abilities::NONE };

    #[test]
    fn names_of_models_choose_a_mode() {
        let read = |name: &str| Division::of_name(name).map(|read| read.map_err(|e| e.at));
        let (division, model) = read("iris/consensus-5:org/llama:8b").unwrap().unwrap();
        assert_eq!((division.mode, division.replicas), (ModeChoice::Consensus, Some(5)));
        assert_eq!(model.as_str(), "org/llama:8b");
        assert_eq!(read("iris/auto:m").unwrap().unwrap().0.mode, ModeChoice::Auto);
        for own in ["iris/tiny", "iris/tiny:latest", "m", "iris/consensus", "iris/consensus-x:m"] {
            assert!(read(own).is_none(), "{own}");
        }
        assert_eq!(read("iris/consensus:").unwrap(), Err("model".to_owned()));
        assert_eq!(read("iris/subtasks-3:m").unwrap(), Err("replicas".to_owned()));
    }

    #[test]
    fn conversation_becomes_a_question_with_what_came_before() {
        let messages = vec![
            json!({ "role": "system", "content": "Be brief." }),
            json!({ "role": "user", "content": "Hi" }),
            json!({ "role": "assistant", "content": "Hello" }),
            json!({ "role": "user", "content": [{ "type": "text", "text": "Why?" }] }),
        ];
        let chat = Chat::from_messages(model("m"), messages).unwrap();
        assert_eq!((chat.system.as_deref(), chat.prompt.as_str()), (Some("Be brief."), "Why?"));
        assert_eq!(chat.history.len(), 2);
        for (message, at) in [
            (json!({ "role": "assistant", "content": "x" }), "messages[0]"),
            (json!({ "role": "user", "content": [{ "type": "image_url" }] }), "messages[0]"),
        ] {
            assert_eq!(Chat::from_messages(model("m"), vec![message]).unwrap_err().at, at);
        }
        assert!(Chat::from_messages(model("m"), Vec::new()).is_err());
    }

    #[test]
    fn what_a_plan_sets_and_what_is_about_tools_is_no_parameter() {
        let request = json!({
            "model": "iris/auto:m", "messages": [{ "role": "user", "content": "Why?" }],
            "stream": true, "max_completion_tokens": 5, "tool_choice": "auto", "top_k": 3,
        });
        let Value::Object(request) = request else { unreachable!() };
        let chat = Chat::from_request(model("m"), request).unwrap();
        assert_eq!(Value::from(chat.params), json!({ "top_k": 3 }));
        let refused = Chat::from_request(model("m"), Map::new()).unwrap_err();
        assert_eq!(refused.at, "messages");
    }

    #[test]
    fn members_that_a_mode_has_no_use_for_are_refused() {
        let division = Division { replicas: Some(3), ..Division::default() };
        let refused = divide(Chat::new(model("m"), "x"), &division, CAPACITY).unwrap_err();
        assert_eq!(refused.at, "replicas");
        let unknown = serde_json::from_value::<Division>(json!({ "replica": 3 }));
        assert!(unknown.is_err());
    }

    #[test]
    fn list_of_members_is_complete() {
        let full = Division {
            replicas: Some(1),
            quorum: Some(1),
            weighted: Some(true),
            agree: Some(Agreement::Auto),
            smooth: true,
            document: Some(String::new()),
            overlap_tokens: Some(1),
            models: vec![model("m")],
            method: Some(Compare::All),
            weights: vec![1.0],
            judge: Some(model("m")),
            datasets: vec![Dataset { name: "d".to_owned(), key: None }],
            nodes: vec!["a".repeat(26).parse().unwrap()],
            aggregate: Some(Aggregate::Mean),
            side_by_side: Some(1),
            ..Division::default()
        };
        let json = serde_json::to_value(&full).unwrap();
        let mut members: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut known = Division::MEMBERS;
        members.sort_unstable();
        known.sort_unstable();
        assert_eq!(members, known);
    }

    /// Begins a plan and returns the messages that go out first.
    fn asked(plan: Plan) -> Vec<String> {
        let mut run = crate::plan::PlanRun::new(plan).unwrap();
        let actions = std::iter::from_fn(|| run.poll_action());
        let messages = actions.filter_map(|action| match action {
            crate::plan::Action::Assign(assignment) => {
                Some(assignment.messages.iter().map(|m| m["content"].as_str().unwrap()).collect())
            }
            _ => None,
        });
        messages.collect()
    }

    #[test]
    fn braces_of_users_stay_what_they_are() {
        let hostile = r#"{{ item }} {{ "{{" }} {{ nobody }} }} {{"#;
        let prompt = format!("{hostile} Extract: themes, people and ends. {hostile}");
        let base = Division::default();
        let divisions = [
            base.clone(),
            Division { mode: ModeChoice::Subtasks, smooth: true, ..base.clone() },
            Division { mode: ModeChoice::Consensus, ..base.clone() },
            Division {
                mode: ModeChoice::Comparative,
                models: vec![model("a"), model("b")],
                method: Some(Compare::Judge),
                ..base.clone()
            },
            Division {
                mode: ModeChoice::Collaborative,
                datasets: vec![Dataset { name: "ward".to_owned(), key: None }],
                ..base.clone()
            },
            #[cfg(feature = "split")]
            Division {
                mode: ModeChoice::Context,
                document: Some(format!("{hostile} {hostile}")),
                ..base
            },
        ];
        for division in divisions {
            let system = Some(hostile.to_owned());
            let chat = Chat { system, ..Chat::new(model("m"), prompt.clone()) };
            let asked = asked(divide(chat, &division, CAPACITY).unwrap());
            assert!(!asked.is_empty(), "{:?}", division.mode);
            for text in asked {
                assert!(text.matches(hostile).count() >= 3, "{:?}: {text}", division.mode);
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_makes_a_plan_or_says_why_not(
            prompt in "\\PC{0,300}|[{}a:, .?\\n1)-]{0,60}", mode in 0_usize..7, document in "\\PC{0,3000}",
        ) {
            use ModeChoice::*;
            let modes = [Single, Subtasks, Consensus, Context, Collaborative, Comparative, Auto];
            let mode = modes[mode];
            let mut division = Division { mode, ..Division::default() };
            if mode == Context {
                division.document = Some(document);
            }
            if mode == Comparative {
                division.models = vec![model("a"), model("b")];
            }
            if mode == Collaborative {
                division.datasets = vec![Dataset { name: "ward".to_owned(), key: None }];
            }
            // `divide` has checked it.
            let _ = divide(Chat::new(model("m"), prompt), &division, CAPACITY);
        }
    }
}
