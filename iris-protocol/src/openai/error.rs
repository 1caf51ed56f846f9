use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

/// The body of every refused request, and the last event of a stream that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

impl ErrorBody {
    /// Makes a body without `param` and `code`.
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            error: ErrorDetail {
                message: message.into(),
                kind: kind.into(),
                param: None,
                code: None,
            },
        }
    }

    /// Sets the code that programs decide by, such as `model_not_found`.
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.error.code = Some(code.into());
        self
    }

    /// Returns the JSON that is sent, on one line.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts have a JSON form")
    }

    /// Names the member of the request that is at fault.
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.error.param = Some(param.into());
        self
    }
}

/// What went wrong. All four members are always written, absent ones as null.
///
/// Reading also accepts a bare text in the object's place and numbers as codes, since servers
/// that nodes wrap write these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorDetail {
    /// One sentence for a person.
    pub message: String,
    /// OpenAI's class of error, such as `invalid_request_error` or `server_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The member of the request that is at fault.
    pub param: Option<String>,
    /// The cause, for programs, such as `context_length_exceeded`.
    pub code: Option<String>,
}

impl<'de> Deserialize<'de> for ErrorDetail {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = |value: Option<&Value>| match value? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        match Value::deserialize(deserializer)? {
            Value::String(message) => {
                Ok(Self { message, kind: String::new(), param: None, code: None })
            }
            Value::Object(members) => Ok(Self {
                message: text(members.get("message")).unwrap_or_default(),
                kind: text(members.get("type")).unwrap_or_default(),
                param: text(members.get("param")),
                code: text(members.get("code")),
            }),
            _ => Err(de::Error::custom("an error is an object or a text")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_four_members_are_written() {
        let body = ErrorBody::new("invalid_request_error", "no such model");
        assert_eq!(
            serde_json::to_string(&body).unwrap(),
            r#"{"error":{"message":"no such model","type":"invalid_request_error","param":null,"code":null}}"#
        );
    }

    #[test]
    fn what_other_servers_write_is_understood() {
        let read = |json: &str| serde_json::from_str::<ErrorBody>(json).unwrap().error;
        assert_eq!(read(r#"{"error":"busy"}"#).message, "busy");
        let numeric =
            read(r#"{"error":{"code":401,"message":"no","type":"authentication_error"}}"#);
        assert_eq!((numeric.code.as_deref(), numeric.message.as_str()), (Some("401"), "no"));
        assert!(serde_json::from_str::<ErrorBody>(r#"{"error":null}"#).is_err());
    }
}
