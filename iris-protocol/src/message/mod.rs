//! Control messages: JSON objects in text frames, told apart by their `type`.
//!
//! Both sides skip members and types they do not know, so later versions can add some. A member
//! named twice, nesting deeper than [`MAX_JSON_DEPTH`](crate::limits::MAX_JSON_DEPTH), a text
//! that is too long or could forge a log line: each makes the message unreadable, and its sender
//! is disconnected.

use std::fmt;

use iris_core::AssignmentId;
use serde::{Deserialize, Serialize};

use crate::frame::{Frame, Utf8};

pub(crate) mod bounded;
mod coordinator;
mod json;
mod node;

pub use coordinator::{
    BegunSize, Challenge, ClassifyAssign, CoordinatorMessage, ErrorCode, ErrorMessage, Hop,
    RegisterAck, Rekey, Resumed, TaskAssign, Window,
};
pub use json::JsonError;
pub use node::{
    Buffered, Certificate, ClassifyResult, Hardware, NodeHeartbeat, NodeMessage, NodeRegister,
    RefuseReason, Resume, TaskError, TaskRefuse, TaskResult,
};

/// Names a session: what a node and a coordinator keep when the socket between them breaks.
///
/// The text is 32 lower-case hexadecimal digits. Drawn at random by the coordinator; not a
/// secret, because resuming takes the node's signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// Makes an id of 16 random bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes the id was made of.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        data_encoding::HEXLOWER.encode_display(&self.0).fmt(f)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

impl Serialize for SessionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let mut bytes = [0; 16];
        let fits = text.len() == 32
            && data_encoding::HEXLOWER.decode_mut(text.as_bytes(), &mut bytes).is_ok();
        if fits {
            Ok(Self(bytes))
        } else {
            Err(serde::de::Error::custom("a session id is 32 characters of 0-9 and a-f"))
        }
    }
}

/// Names the assignment that a message is about, and says nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Which assignment is meant.
    pub assignment: AssignmentId,
}

/// A message without members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// Says why a control message cannot be read. Always the sender's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Longer than [`MAX_CONTROL`](crate::limits::MAX_CONTROL).
    #[error("a control message exceeds 256 KiB")]
    TooLong,
    /// Not a JSON object that one can act on.
    #[error("a control message is unreadable: {0}")]
    Json(#[from] JsonError),
    /// A member is missing, of the wrong kind or out of bounds.
    #[error("{message} cannot be read: {reason}")]
    Invalid {
        /// The message's type.
        message: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

fn encode(message: &impl Serialize) -> Frame {
    let json = serde_json::to_string(message).expect("messages have text keys and plain members");
    Frame::Text(Utf8::from(json))
}

fn parse<'a, T: Deserialize<'a>>(message: &'static str, text: &'a [u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(text).map_err(|error| DecodeError::Invalid {
        message,
        // The texts of serde quote what a peer wrote.
        reason: error.to_string().chars().filter(|c| !c.is_control()).take(200).collect(),
    })
}

macro_rules! messages {
    (
        $(#[$attribute:meta])*
        pub enum $enum:ident {
            $($(#[doc = $doc:literal])* $tag:literal => $variant:ident($body:ty),)*
        }
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
        #[serde(tag = "type")]
        pub enum $enum {
            $($(#[doc = $doc])* #[serde(rename = $tag)] $variant($body),)*
        }

        impl $enum {
            /// Returns the message's `type`.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $tag,)*
                }
            }

            /// Returns the message as it is sent.
            pub fn encode(&self) -> $crate::frame::Frame {
                super::encode(self)
            }

            /// Reads a message; `None` when this version does not know its type.
            pub fn decode(text: &[u8]) -> Result<Option<Self>, super::DecodeError> {
                if text.len() > $crate::limits::MAX_CONTROL {
                    return Err(super::DecodeError::TooLong);
                }
                match &*super::json::read_type(text)? {
                    $($tag => super::parse($tag, text).map(Self::$variant).map(Some),)*
                    _ => Ok(None),
                }
            }
        }
    };
}

use messages;
