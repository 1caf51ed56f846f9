use std::fmt;

use serde::{Deserialize, Serialize};

/// Who may read what is asked. There is no way from one to another but to ask for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// The node that answers, and nobody else: requests are sealed to its key.
    #[default]
    Sealed,
    /// Nodes that were named as one's own, and nobody else.
    Own,
    /// The coordinator too. It chooses the node, and can divide and repeat the work.
    Open,
}

/// Who could read a request and its answer, as far as this program has verified it itself. Never
/// what a server says. The fewer can, the less it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Privacy {
    /// Nobody but a node of one's own.
    Own,
    /// The node that answered, which does not learn who asked.
    Sealed,
    /// The coordinator and the node.
    Open,
}

impl Privacy {
    /// Returns the label's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Sealed => "sealed",
            Self::Open => "open",
        }
    }
}

impl fmt::Display for Privacy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
