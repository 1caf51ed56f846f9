use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use iris_core::NodeId;
use iris_crypto::PublicIdentity;
use iris_crypto::certificate::CertificateError;
use iris_crypto::log::LogError;

/// Why what a coordinator publishes is not believed. Nothing was sealed, and nothing was sent
/// otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// Another coordinator answers at the address than before, or than was demanded.
    #[error(
        "another coordinator answers than the one that is trusted: {found}, not {pinned}; if you \
         know why, forget the old one with `iris trust reset`"
    )]
    WrongCoordinator {
        /// The coordinator that is trusted.
        pinned: PublicIdentity,
        /// The one that answered.
        found: PublicIdentity,
    },
    /// The coordinator shows different people different things.
    #[error("{0}")]
    Fork(Box<Fork>),
    /// The coordinator's signature or a proof does not hold.
    #[error("the coordinator's log is not believed: {0}")]
    Log(#[from] LogError),
    /// The roster is not one.
    #[error("the roster of nodes is not believed: {0}")]
    Roster(&'static str),
    /// The roster is old: somebody may be replaying it.
    #[error("the roster of nodes is {} minutes old: too old to be believed", .age.as_secs() / 60)]
    Stale {
        /// How old.
        age: Duration,
    },
    /// One of the two clocks is wrong.
    #[error(
        "this machine's clock is {} minutes {} the coordinator's: set it right",
        .skew.as_secs() / 60, if *.ahead { "ahead of" } else { "behind" }
    )]
    ClockSkew {
        /// By how much.
        skew: Duration,
        /// Whether this machine's clock is the later one.
        ahead: bool,
    },
    /// A node's certificate does not hold.
    #[error("node {node} is not sealed to: {cause}")]
    Certificate {
        /// The node.
        node: NodeId,
        /// What is wrong.
        cause: Box<CertificateError>,
    },
    /// The key that is offered for a node is another's.
    #[error("the key that is offered for node {expected} belongs to {found}")]
    WrongNode {
        /// The node that was chosen.
        expected: NodeId,
        /// Whose key it is.
        found: NodeId,
    },
    /// The file of what is trusted cannot be used.
    #[error("the trust file {}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do about it.
        problem: String,
    },
}

/// The evidence that a coordinator keeps two logs: two checkpoints that it signed, and that cannot
/// both be of a log that only grows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fork {
    /// The checkpoint that was seen before.
    pub known: String,
    /// The one that was shown now.
    pub shown: String,
    /// Why they do not go together.
    pub reason: String,
    /// Where both were saved, beside the trust file.
    pub saved: Option<PathBuf>,
}

impl Fork {
    /// Returns the evidence as JSON, for a file; `iris log check` reads it.
    pub fn to_json(&self) -> String {
        let evidence = serde_json::json!({
            "reason": self.reason,
            "checkpoints": [self.known, self.shown],
        });
        format!("{evidence:#}\n")
    }
}

impl fmt::Display for Fork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = &self.reason;
        write!(f, "the coordinator shows different people different logs: {reason}")?;
        match &self.saved {
            Some(path) => write!(f, "; the evidence is in {}", path.display()),
            None => Ok(()),
        }
    }
}

impl TrustError {
    /// Returns whether a certificate is older than one that was seen of its node.
    pub(crate) fn is_old_serial(&self) -> bool {
        match self {
            Self::Certificate { cause, .. } => {
                matches!(**cause, CertificateError::OldSerial { .. })
            }
            _ => false,
        }
    }
}
