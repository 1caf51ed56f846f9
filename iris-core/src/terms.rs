//! What the owner of a node has settled about it.

use serde::{Deserialize, Serialize};

use crate::hours::Hours;

/// What the owner of a node has settled about it, beyond what it offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// When it promises to be there; `None` where it promises nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hours: Option<Box<Hours>>,
}

impl Terms {
    /// Returns whether nothing is settled.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
