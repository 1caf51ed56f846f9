use super::mode::{Capacity, Chat, Division};
use super::{Plan, PlanError, single};

/// A long document (temporary).
pub fn context(chat: Chat, _division: &Division, _capacity: Capacity) -> Result<Plan, PlanError> {
    Ok(single(chat))
}
