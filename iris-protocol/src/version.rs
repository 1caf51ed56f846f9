//! Versions of the protocol, and the names of what a peer can do beyond a version.
//!
//! The coordinator names the range it speaks in `CHALLENGE`, the node answers in `NODE_REGISTER`
//! with the highest version of that range it speaks too. Within a version, fields and message
//! types may be added: both sides skip what they do not know. Anything that needs the other
//! side's consent is a [`Capability`], used only when both sides have named it.

use serde::{Deserialize, Serialize};

use crate::text::Label;

/// One version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u16);

/// The oldest version that this crate speaks.
pub const OLDEST: Version = Version(1);

/// The newest version that this crate speaks.
pub const NEWEST: Version = Version(1);

impl Version {
    /// Returns the version to use with a peer that speaks `oldest` to `newest`; `None` when the
    /// two sides share none.
    pub fn negotiate(oldest: Self, newest: Self) -> Option<Self> {
        let best = newest.min(NEWEST);
        (best >= oldest && best >= OLDEST).then_some(best)
    }

    /// Returns whether this crate speaks the version.
    pub fn is_supported(self) -> bool {
        (OLDEST..=NEWEST).contains(&self)
    }
}

/// The name of something a peer can do beyond its version, such as `classify`.
///
/// Names a peer does not know are ignored.
pub type Capability = Label<{ crate::limits::MAX_CAPABILITY_LEN }>;

/// Answers `CLASSIFY_ASSIGN`.
pub const CLASSIFY: &str = "classify";

/// Goes on from the beginning of an answer: reads `begun` in `TASK_ASSIGN`.
pub const CONTINUE: &str = "continue";

/// Opens requests that are sealed to the node's own key: reads `sealed` in `TASK_ASSIGN`.
pub const SEAL: &str = "seal";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_shared_version_is_chosen() {
        assert_eq!(Version::negotiate(Version(1), Version(9)), Some(Version(1)));
        assert_eq!(Version::negotiate(Version(2), Version(9)), None);
        assert_eq!(Version::negotiate(Version(0), Version(0)), None);
        assert_eq!(Version::negotiate(Version(9), Version(1)), None);
    }
}
