use super::mode::{Capacity, Chat};
use super::{Plan, single};

/// Parts (temporary).
pub fn subtasks(chat: Chat, _smooth: bool, _capacity: Capacity) -> Plan {
    single(chat)
}

pub(super) fn parts(_prompt: &str) -> Option<Vec<String>> {
    None
}
