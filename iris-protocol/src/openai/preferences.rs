use iris_core::NodeId;
use iris_core::demand::{Own, Trust};
use iris_core::tier::Tier;
use serde::{Deserialize, Serialize};

use super::RequestError;

/// The member of a request by which its caller says which nodes may answer. No node sees it.
pub const PREFERENCES: &str = "iris";

/// Most nodes of one list.
const MAX_NODES: usize = 64;
/// Longest JSON text.
const MAX_LENGTH: usize = 8 << 10;

/// Which nodes may answer a request, as its caller wants it.
///
/// ```json
/// {"model": "m", "messages": [], "iris": {"own": "first", "tier": "MID", "trust": "proven", "deny": []}}
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Preferences {
    /// What part the caller's own nodes have. Default: they come first.
    pub own: Own,
    /// The lowest tier that will do. Default: any.
    pub tier: Tier,
    /// How far the node has to be trusted. Default: not at all.
    pub trust: Trust,
    /// The only nodes that may answer; any where there are none.
    pub allow: Vec<NodeId>,
    /// Nodes that must not answer.
    pub deny: Vec<NodeId>,
}

impl Preferences {
    /// Reads the member's JSON text.
    pub(super) fn read(text: &str) -> Result<Self, RequestError> {
        let refused = |what: String| RequestError::Invalid {
            message: format!("'{PREFERENCES}' {what}.").into(),
            param: Some(PREFERENCES),
        };
        if text.len() > MAX_LENGTH {
            return Err(refused(format!("must have at most {MAX_LENGTH} bytes")));
        }
        // An array would be read as the members in their order.
        if !text.starts_with(['{', 'n']) {
            return Err(refused("must be an object".to_owned()));
        }
        let read: Option<Self> = serde_json::from_str(text)
            .map_err(|error| refused(format!("cannot be read: {}", without_place(&error))))?;
        let read = read.unwrap_or_default();
        if read.allow.len().max(read.deny.len()) > MAX_NODES {
            return Err(refused(format!("must name at most {MAX_NODES} nodes in a list")));
        }
        Ok(read)
    }
}

/// Says what is wrong, but not where: places are counted from the member's beginning.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what).to_owned()
}
