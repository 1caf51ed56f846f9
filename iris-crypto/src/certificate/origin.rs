//! The name of a coordinator's network.

use std::fmt;
use std::str::FromStr;

use crate::identity::PublicIdentity;

/// Names the coordinator that a certificate or a greeting is meant for: its URL's origin, or the
/// text of its public identity. 1 to 255 printable ASCII characters without spaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin(String);

/// Says why a text is no [`Origin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an origin is 1 to 255 printable ASCII characters without spaces")]
pub struct OriginError;

impl Origin {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let valid = (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if valid { Ok(Self(text.to_owned())) } else { Err(OriginError) }
    }
}

impl From<PublicIdentity> for Origin {
    fn from(coordinator: PublicIdentity) -> Self {
        Self(coordinator.to_string())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
