use std::fmt;
use std::time::Duration;

use iris_core::plan::{Mode, UnitReport};
use iris_core::queue::Priority;
use iris_core::task::TaskState;
use iris_core::{ModelName, NodeId, TaskId};
use serde::{Deserialize, Serialize};

use crate::openai::{ChatRequest, Extra, Message, Usage};

/// A task that survives a crash of the coordinator.
///
/// On the wire: `model`, either `prompt` or `messages`, and optionally `max_tokens`,
/// `deadline_ms` and `priority`. Other members (`temperature`, `stop`, ...) reach the model's
/// server unchanged, but for those that divide the task: with `mode`, the members of
/// [`Division`](iris_core::plan::Division) say how.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct InferenceRequest {
    /// The model to ask.
    pub model: ModelName,
    /// What it is asked.
    pub input: Input,
    /// The longest answer, in tokens.
    pub max_tokens: Option<u32>,
    /// How long the task may take from its submission, whole milliseconds.
    pub deadline: Option<Duration>,
    /// How soon the task is served when nodes are busy: `high`, `normal` or `low`, for
    /// `interactive` is refused. Default: `normal`.
    pub priority: Option<Priority>,
    /// Everything else.
    pub extra: Extra,
}

impl InferenceRequest {
    /// Makes a task with the coordinator's defaults.
    pub fn new(model: ModelName, input: impl Into<Input>) -> Self {
        Self {
            model,
            input: input.into(),
            max_tokens: None,
            deadline: None,
            priority: None,
            extra: Extra::new(),
        }
    }

    /// Returns the chat request that carries out this task.
    pub fn into_chat_request(self) -> ChatRequest {
        let messages = match self.input {
            Input::Prompt(prompt) => vec![Message::user(prompt)],
            Input::Messages(messages) => messages,
        };
        ChatRequest {
            max_tokens: self.max_tokens,
            extra: self.extra,
            ..ChatRequest::new(self.model.as_str(), messages)
        }
    }
}

impl fmt::Debug for InferenceRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InferenceRequest")
            .field("model", &self.model)
            .field("max_tokens", &self.max_tokens)
            .field("deadline", &self.deadline)
            .field("priority", &self.priority)
            .finish_non_exhaustive()
    }
}

/// What a model is asked.
#[derive(Clone, PartialEq)]
pub enum Input {
    /// One question.
    Prompt(String),
    /// A conversation.
    Messages(Vec<Message>),
}

impl From<String> for Input {
    fn from(prompt: String) -> Self {
        Self::Prompt(prompt)
    }
}

impl From<&str> for Input {
    fn from(prompt: &str) -> Self {
        Self::Prompt(prompt.to_owned())
    }
}

impl From<Vec<Message>> for Input {
    fn from(messages: Vec<Message>) -> Self {
        Self::Messages(messages)
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Prompts never reach logs.
        match self {
            Self::Prompt(prompt) => write!(f, "Prompt({} bytes)", prompt.len()),
            Self::Messages(messages) => write!(f, "Messages({})", messages.len()),
        }
    }
}

/// Says that a task was submitted with no input, or with two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("exactly one of 'prompt' and 'messages' must be given")]
pub struct InputError;

#[derive(Serialize, Deserialize)]
struct Wire {
    model: ModelName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prompt: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    messages: Option<Vec<Message>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    priority: Option<Priority>,
    #[serde(flatten)]
    extra: Extra,
}

impl TryFrom<Wire> for InferenceRequest {
    type Error = InputError;

    fn try_from(wire: Wire) -> Result<Self, InputError> {
        let input = match (wire.prompt, wire.messages) {
            (Some(prompt), None) => Input::Prompt(prompt),
            (None, Some(messages)) => Input::Messages(messages),
            _ => return Err(InputError),
        };
        Ok(Self {
            model: wire.model,
            input,
            max_tokens: wire.max_tokens,
            deadline: wire.deadline_ms.map(Duration::from_millis),
            priority: wire.priority,
            extra: wire.extra,
        })
    }
}

impl From<InferenceRequest> for Wire {
    fn from(request: InferenceRequest) -> Self {
        let (prompt, messages) = match request.input {
            Input::Prompt(prompt) => (Some(prompt), None),
            Input::Messages(messages) => (None, Some(messages)),
        };
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            model: request.model,
            prompt,
            messages,
            max_tokens: request.max_tokens,
            deadline_ms: request.deadline.map(millis),
            priority: request.priority,
            extra: request.extra,
        }
    }
}

/// Where a task stands.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct InferenceStatus {
    /// Names the task.
    pub id: TaskId,
    /// How far it is.
    pub status: TaskState,
    /// When it was submitted.
    pub created: u64,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<u64>,
    /// The model that is asked.
    pub model: ModelName,
    /// The node that has it or last had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// The answer, once finished and until the coordinator's retention is over. Of a divided
    /// task whose budget or time was used up it is what was there, with the `finish_reason`
    /// `partial` and an `error` beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<InferenceResult>,
    /// Why there is no answer, or no complete one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<InferenceError>,
    /// Which way the task is divided, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The units of a divided task: where each stands, went and what it cost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<UnitReport>,
    /// What all steps of a divided task have cost so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The text of the answer so far, while a divided task runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial: Option<String>,
    /// What waits for a person's decision.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reviews: Vec<Review>,
    /// Which place an undivided task has in the line for its model while every node is busy: 1 for
    /// the next one. Tasks of other priorities may come in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place_in_line: Option<u32>,
}

/// The caller's durable tasks of late.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskList {
    /// At most a hundred, the latest first, as far as their results are kept.
    pub tasks: Vec<TaskSummary>,
}

/// A durable task at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSummary {
    /// Names the task.
    pub id: TaskId,
    /// How far it is.
    pub status: TaskState,
    /// When it was submitted.
    pub created: u64,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<u64>,
    /// The model that is asked, or the first of several.
    pub model: ModelName,
    /// The node that has it or last had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Which way the task is divided, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Whether it waits for a person's decision.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
}

/// A step that waits for a person's decision. It is decided by `POST /inference/{id}/review` with
/// a [`Decision`](iris_core::plan::Decision).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Review {
    /// The step.
    pub step: String,
    /// The units whose outputs are laid out; their texts are in the status' `steps`.
    pub choices: Vec<String>,
}

impl fmt::Debug for InferenceStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InferenceStatus")
            .field("id", &self.id)
            .field("status", &self.status)
            .field("model", &self.model)
            .field("node", &self.node)
            .field("mode", &self.mode)
            .field("steps", &self.steps)
            .field("result", &self.result)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

/// The answer of a finished task.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct InferenceResult {
    /// The text.
    pub text: String,
    /// Why it ended: `stop`, `length` or what else the model's server says.
    pub finish_reason: String,
    /// Tokens used.
    pub usage: Usage,
}

impl fmt::Debug for InferenceResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InferenceResult")
            .field("text", &format_args!("{} bytes", self.text.len()))
            .field("finish_reason", &self.finish_reason)
            .field("usage", &self.usage)
            .finish()
    }
}

/// Why a task has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InferenceError {
    /// The cause, for programs; the same names as in the OpenAI-compatible API.
    pub code: String,
    /// One sentence for a person.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_has_exactly_one_input() {
        let read = |json: &str| serde_json::from_str::<InferenceRequest>(json);
        let message = r#"[{"role":"user","content":"a"}]"#;
        assert!(read(r#"{"model":"m"}"#).is_err());
        assert!(read(&format!(r#"{{"model":"m","prompt":"a","messages":{message}}}"#)).is_err());
        assert!(read(&format!(r#"{{"model":"m","prompt":null,"messages":{message}}}"#)).is_ok());
    }

    #[test]
    fn what_the_coordinator_does_not_know_reaches_the_chat_request() {
        let json = r#"{"model":"m","prompt":"a","max_tokens":5,"deadline_ms":1500,"top_k":3}"#;
        let request: InferenceRequest = serde_json::from_str(json).unwrap();
        assert_eq!(request.deadline, Some(Duration::from_millis(1500)));
        assert_eq!(serde_json::to_string(&request).unwrap(), json);
        let chat = serde_json::to_value(request.into_chat_request()).unwrap();
        assert_eq!((&chat["top_k"], &chat["max_tokens"]), (&3.into(), &5.into()));
        assert!(chat.get("deadline_ms").is_none());
    }
}
