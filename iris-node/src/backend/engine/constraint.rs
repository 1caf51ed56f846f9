//! Answers that are JSON by a schema.
//!
//! What may come next is found by llguidance, which turns a schema into a grammar and refuses what
//! of it it cannot keep to. Its limits bound what a schema costs.

use std::sync::Arc;

use iris_core::backend::BackendError;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use serde_json::Value;

use super::request::refused;
use super::tokenizer::Tokenizer;

/// White space that may stand between two values: weak models write it without an end.
const SPACE: &str = r" |\n {0,8}";
/// Most bytes of what is said about a schema that cannot be kept to.
const MAX_REASON: usize = 300;

/// Makes constraints over one vocabulary.
pub(super) struct Grammars {
    factory: ParserFactory,
}

/// What is left of a grammar after the tokens of one answer so far.
pub(super) struct Constraint {
    matcher: Matcher,
    allowed: SimpleVob,
    may_end: bool,
}

impl Grammars {
    /// Sorts a vocabulary; takes a tenth of a second for the largest ones. `None` for one that
    /// has no token to end with.
    pub(super) fn new(tokenizer: &Tokenizer) -> Option<Self> {
        let size = u32::try_from(tokenizer.size()).ok()?;
        let end = (0..size).find(|token| tokenizer.is_end(*token))?;
        let piece = |token| {
            let piece = if tokenizer.is_end(token) { Vec::new() } else { tokenizer.piece(token) };
            // The byte marks special tokens here, and is never part of JSON.
            if piece.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) { Vec::new() } else { piece }
        };
        let pieces: Vec<Vec<u8>> = (0..size).map(piece).collect();
        let words = TokTrie::from(&TokRxInfo::new(size, end), &pieces);
        let vocabulary: TokEnv = Arc::new(ApproximateTokEnv::new(words));
        let mut factory = ParserFactory::new_simple(&vocabulary).ok()?;
        factory.quiet().limits_mut().verbose_errors = false;
        Some(Self { factory })
    }

    /// Starts an answer that keeps to `schema`.
    pub(super) fn constrain(&self, mut schema: Value) -> Result<Constraint, BackendError> {
        let options = JsonCompileOptions {
            whitespace_pattern: Some(SPACE.to_owned()),
            ..JsonCompileOptions::default()
        };
        if schema.is_object() {
            options.apply_to(&mut schema);
        }
        let parser = self.factory.create_parser(TopLevelGrammar::from_json_schema(schema));
        let mut matcher = Matcher::new(parser);
        if let Some(reason) = matcher.get_error() {
            return Err(unkept(&reason));
        }
        let allowed = matcher.compute_mask().map_err(|error| unkept(&error.to_string()))?;
        Ok(Constraint { matcher, allowed, may_end: false })
    }
}

impl Constraint {
    /// Returns whether `token` may come next.
    pub(super) fn allows(&self, token: u32, tokenizer: &Tokenizer) -> bool {
        if tokenizer.is_end(token) { self.may_end } else { self.allowed.get(token as usize) }
    }

    /// Takes in that a token was chosen.
    pub(super) fn advance(&mut self, token: u32) -> Result<(), BackendError> {
        let error = |_| {
            let text =
                "the answer so far does not keep to the schema, or the schema takes too long";
            refused(Some("response_format"), text)
        };
        self.matcher.consume_token(token).map_err(error)?;
        if self.is_over() {
            self.may_end = true;
            self.allowed.set_all(false);
        } else {
            self.may_end = self.matcher.is_accepting().map_err(error)?;
            self.allowed = self.matcher.compute_mask().map_err(error)?;
        }
        Ok(())
    }

    /// Returns whether nothing can come any more.
    pub(super) fn is_over(&self) -> bool {
        self.matcher.is_stopped()
    }
}

fn unkept(reason: &str) -> BackendError {
    let line = reason.lines().next().unwrap_or_default();
    let line = &line[..line.floor_char_boundary(MAX_REASON)];
    let text = format!("this engine cannot keep to the schema: {line}");
    refused(Some("response_format"), text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::model::Model;
    use super::*;

    /// Returns whether a text may be an answer by a schema: token by token, with its end.
    fn keeps(schema: &Value, text: &str) -> bool {
        let model = Model::bundled();
        let mut constraint =
            Grammars::new(&model.tokenizer).unwrap().constrain(schema.clone()).unwrap();
        for token in model.tokenizer.spell(text) {
            if !constraint.allows(token, &model.tokenizer) {
                return false;
            }
            constraint.advance(token).unwrap();
        }
        constraint.may_end
    }

    #[test]
    fn answers_keep_to_their_schema() {
        let schema = json!({
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 3},
                "age": {"$ref": "#/$defs/age"},
                "kind": {"enum": ["a", "b"]},
            },
            "required": ["name", "age"],
            "additionalProperties": false,
            "$defs": {"age": {"type": "integer", "minimum": 0, "maximum": 120}},
        });
        for right in [
            r#"{"name":"Al","age":7}"#,
            r#"{ "name": "é\n", "age": 120, "kind": "b" }"#,
            "{\n  \"name\": \"\",\n  \"age\": 0\n}",
        ] {
            assert!(keeps(&schema, right), "{right}");
        }
        for wrong in [
            r#"{"name":"Al"}"#,
            r#"{"name":"Alan","age":7}"#,
            r#"{"name":"Al","age":121}"#,
            r#"{"name":"Al","age":7,"kind":"c"}"#,
            r#"{"name":"Al","age":7,"more":1}"#,
            r#"{"name":"Al","age":7"#,
            r#"{"name":"Al","age":7}}"#,
            "[]",
            "Al is 7",
            "",
        ] {
            assert!(!keeps(&schema, wrong), "{wrong}");
        }
        let spaced = |space: &str| keeps(&json!({"type": "object"}), &format!("{{{space}}}"));
        assert!(spaced(" ") && spaced("\n  ") && !spaced("   ") && !spaced("\n\n"));
    }

    #[test]
    fn schemas_that_cannot_be_kept_to_are_refused() {
        let grammars = Grammars::new(&Model::bundled().tokenizer).unwrap();
        for schema in [
            json!({"type": "magic"}),
            json!({"type": "object", "unevaluatedProperties": false}),
            json!({"$ref": "http://example.com/other"}),
            json!({"type": "string", "pattern": "(a"}),
            json!({"type": "integer", "minimum": 5, "maximum": 4}),
            json!(false),
            json!(7),
        ] {
            let refused = grammars.constrain(schema.clone()).err();
            let named = matches!(&refused, Some(BackendError::Rejected { status: 400, param, .. })
                if param.as_deref() == Some("response_format"));
            assert!(named, "{schema}: {refused:?}");
        }
    }
}
