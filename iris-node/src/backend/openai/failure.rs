//! From a server's refusals to typed errors.

use iris_core::backend::BackendError;
use iris_core::model::is_invisible;
use serde_json::value::RawValue;

use super::object::{Members, Text};

/// Bytes of a server's own words that are passed on.
const MAX_MESSAGE: usize = 1024;

/// Codes and types by which servers say that the prompt is too long.
const CONTEXT_CODES: [&str; 4] = [
    "context_length_exceeded",
    "exceed_context_size_error",
    "context_window_exceeded",
    "max_context_length_exceeded",
];

/// Phrases by which LM Studio and vLLM say so, who have no code for it. They only add a code to
/// what is refused anyway.
const CONTEXT_PHRASES: [&str; 4] =
    ["context length", "context size", "context window", "context overflow"];

/// Reads an answer with a status other than 200.
pub(super) fn of_status(status: u16, body: &[u8]) -> BackendError {
    let report = Report::read(body);
    if report.as_ref().is_some_and(Report::says_model_not_found) {
        return BackendError::ModelNotFound;
    }
    match status {
        // A path that is missing is answered without an error object.
        404 if report.is_some() => BackendError::ModelNotFound,
        400 | 406 | 409 | 413 | 415 | 422 => report.unwrap_or_default().into_rejection(status),
        408 | 504 => BackendError::Timeout,
        425 | 429 | 503 => BackendError::Busy,
        500..=599 => BackendError::Failed,
        // The key, the account behind it, and the address are the node owner's business.
        300..=499 => BackendError::Unavailable,
        _ => BackendError::Malformed,
    }
}

/// Reads an error that came where an answer, or a part of one, was expected.
pub(super) fn of_event(data: &[u8]) -> BackendError {
    let report = Report::read(data).unwrap_or_default();
    let status = match (report.status, report.kind.as_str()) {
        (Some(status), _) => status,
        (None, "invalid_request_error" | "BadRequestError") => 400,
        (None, "rate_limit_exceeded" | "rate_limit_error") => 429,
        _ if report.says_context_exceeded() => 400,
        _ => 500,
    };
    of_status(status, data)
}

/// Returns whether `json` is an object that reports an error.
pub(super) fn is_report(json: &[u8]) -> bool {
    Report::read(json).is_some()
}

/// Cuts `text` to `limit` bytes and leaves out what could forge a log line.
pub(super) fn bounded(text: &str, limit: usize) -> String {
    let mut kept = String::with_capacity(text.len().min(limit));
    for c in text.chars().map(|c| if c == '\n' { ' ' } else { c }) {
        if kept.len() + c.len_utf8() > limit {
            break;
        }
        if !is_invisible(c) {
            kept.push(c);
        }
    }
    kept
}

/// Takes everything in `secrets` out of an error's words.
pub(super) fn without(secrets: &[String], error: BackendError) -> BackendError {
    let clean = |text: String| {
        let hide = |text: String, secret: &String| text.replace(secret.as_str(), "[hidden]");
        secrets.iter().fold(text, hide)
    };
    match error {
        BackendError::Rejected { status, code, param, message } => BackendError::Rejected {
            status,
            code: code.map(clean),
            param: param.map(clean),
            message: clean(message),
        },
        other => other,
    }
}

/// What a server says about a failure, in any of the forms in use: OpenAI's object, the same
/// object bare (vLLM before 0.10), or a text (Ollama).
#[derive(Default)]
struct Report {
    status: Option<u16>,
    kind: String,
    code: String,
    param: String,
    message: String,
}

impl Report {
    fn read(json: &[u8]) -> Option<Self> {
        let outer = Members::parse(json).ok()?;
        match outer.get("error") {
            Some(error) if error.get().starts_with('{') => {
                Some(Self::of_members(&Members::parse(error.get().as_bytes()).ok()?))
            }
            Some(error) if error.get().starts_with('"') => {
                Some(Self { message: text(Some(error), MAX_MESSAGE), ..Self::default() })
            }
            _ if text(outer.get("object"), 16) == "error" => Some(Self::of_members(&outer)),
            _ => None,
        }
    }

    fn of_members(error: &Members<'_>) -> Self {
        let code = error.get("code");
        let number = |raw: &RawValue| raw.get().trim_matches('"').parse().ok();
        Self {
            status: code.and_then(number).filter(|status| (400..600).contains(status)),
            kind: text(error.get("type"), 64),
            code: text(code, 64),
            param: text(error.get("param"), 64),
            message: text(error.get("message"), MAX_MESSAGE),
        }
    }

    fn says_model_not_found(&self) -> bool {
        self.code == "model_not_found" || self.kind == "model_not_found"
    }

    fn says_context_exceeded(&self) -> bool {
        let message = self.message.to_ascii_lowercase();
        CONTEXT_CODES.iter().any(|known| *known == self.code || *known == self.kind)
            || CONTEXT_PHRASES.iter().any(|phrase| message.contains(phrase))
    }

    fn into_rejection(self, status: u16) -> BackendError {
        let code = if self.says_context_exceeded() {
            Some("context_length_exceeded".to_owned())
        } else {
            Some(self.code).filter(|code| !code.is_empty())
        };
        let message = if self.message.is_empty() {
            "the model server refused the request".to_owned()
        } else {
            self.message
        };
        let param = Some(self.param).filter(|param| !param.is_empty());
        BackendError::Rejected { status, code, param, message }
    }
}

/// Reads a string; anything else, such as a status in the place of a code, is no text.
fn text(value: Option<&RawValue>, limit: usize) -> String {
    let text = value.and_then(|value| serde_json::from_str::<Text<'_>>(value.get()).ok());
    text.map(|Text(text)| bounded(&text, limit)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(status: u16, body: &str) -> Option<String> {
        match of_status(status, body.as_bytes()) {
            BackendError::Rejected { status: seen, code, .. } if seen == status => code,
            other => panic!("{body} gave {other:?}"),
        }
    }

    #[test]
    fn every_servers_word_for_a_long_prompt_is_one_code() {
        for body in [
            r#"{"error":{"message":"too long","code":"context_length_exceeded"}}"#,
            r#"{"error":{"code":400,"message":"too long","type":"exceed_context_size_error","n_ctx":8}}"#,
            r#"{"error":{"message":"This model's maximum context length is 8 tokens.","type":"BadRequestError","param":null,"code":400}}"#,
            r#"{"object":"error","message":"This model's maximum context length is 8 tokens.","type":"BadRequestError","code":400}"#,
            r#"{"error":"Trying to keep the first 9 tokens when context the overflows. The context length is 8"}"#,
        ] {
            assert_eq!(code(400, body).as_deref(), Some("context_length_exceeded"), "{body}");
        }
    }

    #[test]
    fn missing_model_differs_from_missing_path() {
        for (status, body) in [
            (404, r#"{"error":{"message":"no","code":"model_not_found"}}"#),
            (400, r#"{"error":{"message":"no","param":"model","code":"model_not_found"}}"#),
            (404, r#"{"error":{"message":"model \"m\" not found","type":"api_error"}}"#),
            (404, r#"{"error":"model 'm' not found"}"#),
            (404, r#"{"object":"error","message":"no","type":"NotFoundError","code":404}"#),
        ] {
            assert_eq!(of_status(status, body.as_bytes()), BackendError::ModelNotFound, "{body}");
        }
        for body in [r#"{"detail":"Not Found"}"#, "<html>", ""] {
            assert_eq!(of_status(404, body.as_bytes()), BackendError::Unavailable, "{body}");
        }
    }

    #[test]
    fn faults_of_owner_and_server_are_not_the_callers() {
        for (status, expected) in [
            (401, BackendError::Unavailable),
            (403, BackendError::Unavailable),
            (302, BackendError::Unavailable),
            (429, BackendError::Busy),
            (503, BackendError::Busy),
            (500, BackendError::Failed),
            (502, BackendError::Failed),
        ] {
            assert_eq!(of_status(status, br#"{"error":{"message":"x"}}"#), expected, "{status}");
        }
    }

    #[test]
    fn error_event_tells_its_status_by_code_or_type() {
        for (body, expected) in [
            (r#"{"error":{"code":503,"message":"x"}}"#, BackendError::Busy),
            (r#"{"error":{"code":"502","message":"x"}}"#, BackendError::Failed),
            (r#"{"error":{"message":"x","type":"server_error"}}"#, BackendError::Failed),
            (r#"{"error":{"type":"rate_limit_exceeded"}}"#, BackendError::Busy),
            (r#"{"error":"x"}"#, BackendError::Failed),
        ] {
            assert_eq!(of_event(body.as_bytes()), expected, "{body}");
        }
        let refused = of_event(br#"{"error":{"message":"x","type":"invalid_request_error"}}"#);
        assert!(refused.is_callers_fault());
    }

    #[test]
    fn servers_words_are_bounded_and_harmless() {
        let message = format!("a\\u001b[31m\\nb\\u202e{}", "\u{20ac}".repeat(2000));
        let body = format!(r#"{{"error":{{"message":"{message} http://k:1"}}}}"#);
        let BackendError::Rejected { message, .. } = of_status(400, body.as_bytes()) else {
            panic!("not rejected")
        };
        assert!(message.starts_with("a[31m b\u{20ac}"));
        assert!(message.len() <= MAX_MESSAGE);
    }

    #[test]
    fn secrets_are_taken_out_of_every_part() {
        let body = br#"{"error":{"message":"key sk-1 at h:1","param":"sk-1","code":"sk-1"}}"#;
        let clean = without(&["sk-1".to_owned(), "h:1".to_owned()], of_status(400, body));
        assert!(!format!("{clean:?}{clean}").contains("sk-1"));
        assert_eq!(clean.to_string(), "key [hidden] at [hidden]");
    }
}
