use std::borrow::Cow;

use super::ErrorBody;

/// Why a request is refused before anybody is asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request makes no sense.
    #[error("{message}")]
    Invalid {
        /// What is wrong with it.
        message: Cow<'static, str>,
        /// The member at fault, where it is one.
        param: Option<&'static str>,
    },
    /// There is no such model.
    #[error("The model is not offered by any node of this network.")]
    UnknownModel,
    /// The body is longer than so many bytes.
    #[error("The request body is longer than {0} bytes.")]
    TooLarge(usize),
    /// The body is compressed.
    #[error("Compressed request bodies are not accepted.")]
    Compressed,
    /// The body did not come in time.
    #[error("The request body did not arrive in time.")]
    Late,
    /// There is nothing at this path.
    #[error("There is nothing at this path.")]
    UnknownPath,
    /// The path exists, for other methods.
    #[error("This path does not know the method; see the Allow header.")]
    UnknownMethod,
}

impl RequestError {
    /// OpenAI's class of these errors.
    pub const KIND: &'static str = "invalid_request_error";

    /// Says that a request makes no sense, no one member of it being at fault.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid { message: message.into(), param: None }
    }

    /// Returns the HTTP status that says so.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Invalid { .. } => 400,
            Self::UnknownModel | Self::UnknownPath => 404,
            Self::UnknownMethod => 405,
            Self::Late => 408,
            Self::TooLarge(_) => 413,
            Self::Compressed => 415,
        }
    }

    /// Returns the code that programs decide by, where there is one.
    pub const fn code(&self) -> Option<&'static str> {
        match self {
            Self::Invalid { .. } => None,
            Self::UnknownModel => Some("model_not_found"),
            Self::TooLarge(_) => Some("request_too_large"),
            Self::Compressed => Some("unsupported_media_type"),
            Self::Late => Some("body_timeout"),
            Self::UnknownPath => Some("not_found"),
            Self::UnknownMethod => Some("method_not_allowed"),
        }
    }

    /// Returns the member of the request that is at fault, where it is one.
    pub const fn param(&self) -> Option<&'static str> {
        match self {
            Self::Invalid { param, .. } => *param,
            Self::UnknownModel => Some("model"),
            _ => None,
        }
    }

    /// Returns the body of the refusal.
    pub fn body(&self) -> ErrorBody {
        let mut body = ErrorBody::new(Self::KIND, self.to_string());
        body.error.code = self.code().map(str::to_owned);
        body.error.param = self.param().map(str::to_owned);
        body
    }
}
