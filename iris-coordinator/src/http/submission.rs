//! What `POST /inference` is asked to do.

use iris_core::ModelName;
use iris_core::plan::{Plan, PlanError};
use iris_core::queue::Priority;
use iris_core::routing::{ANY, Unnamed};
use iris_protocol::openai::Preferences;
use iris_protocol::rest::InferenceRequest;
use serde_json::{Map, Value, json};

use super::Api;
use super::division::{asked, division};
use super::error::ApiError;
use super::members::Members;

/// A task that is submitted.
#[derive(Debug)]
pub(super) enum Submission {
    /// One question.
    Single(Box<InferenceRequest>),
    /// A plan, and which nodes its caller wants.
    Divided { plan: Box<Plan>, wishes: Preferences, priority: Priority },
}

impl Submission {
    /// Reads the body of a submission.
    pub(super) fn read(api: &Api, body: &[u8]) -> Result<Self, ApiError> {
        let mut members = Members::read(body)?;
        if let Some(plan) = members.take("plan") {
            let priority = priority(&mut members)?;
            members.finish()?;
            let plan = Box::new(read_plan(&plan, "plan.")?);
            return Ok(Self::Divided { plan, wishes: Preferences::default(), priority });
        }
        if members.has("mode") {
            let priority = priority(&mut members)?;
            return divided(api, members, priority);
        }
        single(members)
    }
}

/// Reads and checks a plan that stands at `at` in a body.
pub(super) fn read_plan(plan: &Value, at: &str) -> Result<Plan, ApiError> {
    let read = Plan::read(plan, None).and_then(|plan| plan.check().map(|()| plan));
    Ok(read.map_err(|error| PlanError { at: format!("{at}{}", error.at), ..error })?)
}

/// Reads how soon a durable task is served: after whoever waits in front of a screen.
fn priority(members: &mut Members) -> Result<Priority, ApiError> {
    let expected = "'high', 'normal' or 'low'";
    match members.optional("priority", expected)? {
        Some(Priority::Interactive) => Err(members.wrong("priority", expected)),
        priority => Ok(priority.unwrap_or(Priority::Batch)),
    }
}

/// Reads a question and how it is to be divided.
fn divided(api: &Api, mut members: Members, priority: Priority) -> Result<Submission, ApiError> {
    let model: Option<ModelName> = members.optional("model", "a model's name")?;
    let deadline: Option<u64> = members.optional("deadline_ms", "a whole number")?;
    let prompt: Option<String> = members.optional("prompt", "a text")?;
    let messages = members.take("messages");
    let messages = match (prompt, messages) {
        (Some(prompt), None) => json!([{ "role": "user", "content": prompt }]),
        (None, Some(messages)) => messages,
        _ => return Err(members.wrong("messages", "given, or else 'prompt'")),
    };
    let mut chat: Map<String, Value> = members.rest();
    let division = division(&mut chat)?;
    // Whoever compares models names them anyway.
    let model = model.or_else(|| division.models.first().cloned());
    let named = model.filter(|model| Unnamed::of_name(model.as_str()).is_none());
    let model = named.ok_or_else(|| {
        let message = "A task that is divided needs the name of a model.";
        ApiError::bad_request(message).with_param("model")
    })?;
    chat.insert("model".to_owned(), model.as_str().into());
    chat.insert("messages".to_owned(), messages);
    let asked = asked(&chat)?;
    let mut plan = api.divided(model, chat, &asked, &division)?;
    if let Some(deadline) = deadline {
        plan.budget.seconds.get_or_insert(deadline.div_ceil(1000));
    }
    Ok(Submission::Divided { plan: Box::new(plan), wishes: asked.preferences, priority })
}

fn single(mut members: Members) -> Result<Submission, ApiError> {
    let priority = priority(&mut members)?;
    members.check::<ModelName>("model", "a model's name")?;
    members.default("model", ANY.into());
    members.check::<String>("prompt", "a text")?;
    members.check::<u32>("max_tokens", "a whole number")?;
    members.check::<u64>("deadline_ms", "a whole number")?;
    let read = serde_json::from_value::<InferenceRequest>(Value::Object(members.rest()));
    let request = read.map_err(|_| {
        ApiError::bad_request("The request body needs either a 'prompt' or 'messages'.")
    })?;
    let request = InferenceRequest { priority: Some(priority), ..request };
    Ok(Submission::Single(Box::new(request)))
}
