use iris_core::{NodeId, TaskId};
use iris_protocol::rest;
use reqwest::header::HeaderMap;

/// What an answer's headers tell about how it came to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Head {
    /// Names the request; an operator finds it in the coordinator's log.
    pub request_id: Option<String>,
    /// The task that the request became.
    pub task: Option<TaskId>,
    /// The node that answered.
    pub node: Option<NodeId>,
}

impl Head {
    pub(crate) fn read(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        Self {
            request_id: text(rest::REQUEST_ID).map(str::to_owned),
            task: text(rest::TASK).and_then(|text| text.parse().ok()),
            node: text(rest::NODE).and_then(|text| text.parse().ok()),
        }
    }
}
