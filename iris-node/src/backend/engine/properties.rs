//! What holds for anything that callers ask and model files hold; shared by the tests and the fuzz
//! targets.

use std::time::UNIX_EPOCH;

use iris_core::backend::{BackendError, Operation};
use serde_json::{Map, Value};

use super::model::Model;
use super::request::{Prompt, Request};
use super::template::{Conversation, Template};

/// A body is refused, or is something that this engine can honour.
pub fn request(body: &[u8]) {
    for operation in [Operation::Chat, Operation::Completion] {
        match Request::read(operation, body) {
            Ok(request) => {
                let sampling = &request.sampling;
                assert!((0.0..=2.0).contains(&sampling.temperature));
                assert!((0.0..=1.0).contains(&sampling.top_p));
                assert!(request.max_tokens != Some(0) && request.stops.len() <= 16);
                let lists = [request.logprobs, request.prompt_logprobs];
                assert!(lists.into_iter().flatten().all(|alternatives| alternatives <= 20));
                if let Prompt::Chat(conversation) = request.prompt {
                    let _ = Model::bundled().template.render(conversation, UNIX_EPOCH);
                }
            }
            Err(error) => assert!(matches!(error, BackendError::Rejected { status: 400, .. })),
        }
    }
}

/// A template of a model's file is refused, or writes a prompt or an error in bounded time.
pub fn template(source: &str) {
    let Ok(template) = Template::new(Some(source), ("<s>".into(), "</s>".into())) else { return };
    let message = |role: &str| {
        Map::from_iter([
            ("role".to_owned(), Value::from(role)),
            ("content".to_owned(), Value::from("Hi")),
        ])
    };
    for continues in [false, true] {
        let conversation = Conversation {
            messages: vec![message("user"), message("assistant")],
            tools: None,
            extra: Map::new(),
            continues,
            opens_answer: !continues,
        };
        let _ = template.render(conversation, UNIX_EPOCH);
    }
}

/// Whatever is encoded is the same text when it is written out again.
pub fn prompt(text: &str) {
    let tokenizer = &Model::bundled().tokenizer;
    let Ok(tokens) = tokenizer.encode(text) else { return };
    assert!(tokens.iter().all(|token| (*token as usize) < tokenizer.size()));
    let written: Vec<u8> = tokens.iter().flat_map(|token| tokenizer.piece(*token)).collect();
    // Markers stand for tokens that write nothing.
    if !text.contains('<') {
        assert_eq!(written, text.as_bytes());
    }
}

/// A model file is refused or loaded.
pub fn model(file: &[u8]) {
    let _ = Model::from_bytes(file);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn almost_body() -> impl Strategy<Value = String> {
        const NAMES: &[&str] = &[
            "messages",
            "role",
            "content",
            "prompt",
            "n",
            "stop",
            "max_tokens",
            "temperature",
            "top_p",
            "top_k",
            "seed",
            "tools",
            "tool_choice",
            "response_format",
            "type",
            "text",
            "logprobs",
            "top_logprobs",
            "prompt_logprobs",
            "chat_template_kwargs",
            "repeat_penalty",
        ];
        let leaf = prop::sample::select(vec![
            "null",
            "true",
            "0",
            "1",
            "-1",
            "2.5",
            "1e30",
            "18446744073709551615",
            r#""""#,
            r#""user""#,
            r#""assistant""#,
            r#""text""#,
            r#""auto""#,
            "\"\u{fdd0}\"",
        ]);
        let value = leaf.prop_map(str::to_owned).prop_recursive(4, 32, 5, |inner| {
            let member = (prop::sample::select(NAMES), inner.clone());
            let member = member.prop_map(|(name, value)| format!("\"{name}\":{value}"));
            prop_oneof![
                prop::collection::vec(inner, 0..3).prop_map(|all| format!("[{}]", all.join(","))),
                prop::collection::vec(member, 0..6)
                    .prop_map(|all| format!("{{{}}}", all.join(","))),
            ]
        });
        (value, any::<bool>()).prop_map(|(value, talk)| {
            if !talk {
                return value;
            }
            format!(r#"{{"messages":[{{"role":"user","content":"a"}}],"prompt":"a","x":{value}}}"#)
        })
    }

    fn almost_template() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "{% for m in messages %}",
            "{% endfor %}",
            "{{ m.content }}",
            "{{ m['role'] | upper }}",
            "{% if add_generation_prompt %}",
            "{% else %}",
            "{% endif %}",
            "{{ bos_token }}",
            "{% set x = range(1000000) %}",
            "{% for i in range(99999) %}",
            "{{ 'a' * 1000 }}",
            "{{ x | length }}",
            "{{ raise_exception('no') }}",
            "{{ strftime_now('%d %Q') }}",
            "{% macro f(a) %}{{ f(a) }}{% endmacro %}",
            "{{ f(1) }}",
            "{{ tools | tojson }}",
            "{{",
            "}}",
            "{%",
            "-%}",
            "text ",
            "{{ messages[0].content[:-1].strip() }}",
            "{{ 1 // 0 }}",
            "{{ 2 ** 99999 }}",
        ]);
        prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn bodies_are_refused_or_honoured(body in almost_body()) {
            request(body.as_bytes());
        }

        #[test]
        fn templates_end(source in almost_template()) {
            template(&source);
        }

        #[test]
        fn prompts_survive_their_tokens(text in any::<String>(), mixed in "[a-z <|>]{0,30}") {
            prompt(&text);
            prompt(&mixed);
        }
    }
}
