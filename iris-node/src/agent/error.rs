use iris_crypto::PublicIdentity;
use iris_protocol::connection::{SendError, Violation};
use iris_protocol::message::{ErrorCode, ErrorMessage};
use iris_protocol::transport::TransportError;

use super::connector::ConnectError;

/// Says why an agent is not connected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// No connection could be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Transport(#[from] TransportError),
    /// The coordinator closed the connection without a word.
    #[error("the coordinator closed the connection")]
    Ended,
    /// The coordinator broke a rule of the protocol, or fell silent.
    #[error("the coordinator broke the protocol: {0}")]
    Violation(#[from] Violation),
    /// The coordinator speaks other versions of the protocol; one of the two needs an update.
    #[error("the coordinator speaks no version of the protocol that this node does; update it")]
    Version,
    /// Another coordinator answered than the one that is trusted here.
    #[error("the coordinator's identity is {found}, not {expected}")]
    WrongCoordinator {
        /// The trusted one.
        expected: PublicIdentity,
        /// The one that answered.
        found: PublicIdentity,
    },
    /// The coordinator could not prove that it is who it says.
    #[error("the coordinator could not prove its identity")]
    BadProof,
    /// The coordinator said why it closed the connection.
    #[error("the coordinator closed the connection: {}", describe(*code, message.as_deref()))]
    Closed {
        /// The cause.
        code: ErrorCode,
        /// The cause in the coordinator's words.
        message: Option<String>,
    },
    /// The node itself did something that has no place in the connection; a defect of Iris.
    #[error("the node broke the protocol: {0}")]
    Defect(#[from] SendError),
}

impl AgentError {
    pub(super) fn closed(message: ErrorMessage) -> Self {
        Self::Closed { code: message.code, message: message.message.map(|text| text.to_string()) }
    }

    /// Returns whether trying again without another setting is in vain.
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_final(),
            Self::Version => true,
            Self::Closed { code, .. } => matches!(
                code,
                ErrorCode::Version
                    | ErrorCode::Unauthorized
                    | ErrorCode::Forbidden
                    | ErrorCode::Replaced
            ),
            _ => false,
        }
    }
}

fn describe(code: ErrorCode, message: Option<&str>) -> String {
    let cause = match code {
        ErrorCode::Version => "the two share no version of the protocol",
        ErrorCode::Unauthorized => "it does not accept this node's proof of identity",
        ErrorCode::Forbidden => "this node is not welcome",
        ErrorCode::Replaced => "the same node has connected from elsewhere",
        ErrorCode::Full => "it has as many nodes as it can take",
        ErrorCode::Violation => "it says that this node broke the protocol",
        ErrorCode::ShuttingDown => "it shuts down",
        ErrorCode::Internal => "it failed",
        _ => "for a cause that this version does not know",
    };
    match message {
        Some(message) => format!("{cause} ({message})"),
        None => cause.to_owned(),
    }
}
