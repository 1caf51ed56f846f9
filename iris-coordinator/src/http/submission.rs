//! What `POST /inference` is asked to do.

use iris_core::plan::{Mode, Plan};
use iris_core::queue::Priority;
use iris_protocol::rest::InferenceRequest;
use serde_json::Value;

use super::Api;
use super::error::ApiError;
use super::members::Members;

/// A task that is submitted.
#[derive(Debug)]
pub(super) enum Submission {
    /// One question.
    Single(Box<InferenceRequest>),
    /// A plan.
    Divided(Box<Plan>, Priority),
}

impl Submission {
    /// Reads the body of a submission.
    pub(super) fn read(api: &Api, body: &[u8]) -> Result<Self, ApiError> {
        let mut members = Members::read(body)?;
        if let Some(plan) = members.take("plan") {
            let priority = priority(&mut members)?;
            members.finish()?;
            let plan = serde_json::from_value(plan)
                .map_err(|error| ApiError::bad_request(error.to_string()).with_param("plan"))?;
            return Ok(Self::Divided(plan, priority));
        }
        single(members)
    }
}

fn priority(members: &mut Members) -> Result<Priority, ApiError> {
    let expected = "'interactive', 'high', 'normal' or 'low'";
    Ok(members.optional("priority", expected)?.unwrap_or(Priority::Batch))
}

fn single(members: Members) -> Result<Submission, ApiError> {
    let request = serde_json::from_value(Value::Object(members.rest())).map_err(|_| {
        ApiError::bad_request("The request body does not have the members it needs.")
    })?;
    Ok(Submission::Single(Box::new(request)))
}
