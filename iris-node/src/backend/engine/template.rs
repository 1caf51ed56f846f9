//! Conversations to prompts, by the template in the model's file.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, State, Value, context};
use serde_json::Map;

use super::calendar;
use super::error::EngineError;

/// What most models without a template of their own were trained on.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' \
     + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}\
     {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Steps that one prompt may take to write; a long conversation takes a hundred thousand.
const MAX_STEPS: u64 = 10_000_000;

/// Marks the end of a message that the model continues; no caller can write it.
const END_MARK: char = '\u{fdd0}';

/// A parsed chat template.
pub(super) struct Template {
    environment: Environment<'static>,
    start: String,
    end: String,
}

/// What one prompt is made of.
pub(super) struct Conversation {
    pub(super) messages: Vec<Map<String, serde_json::Value>>,
    pub(super) tools: Option<serde_json::Value>,
    /// Names that the caller adds for the template.
    pub(super) extra: Map<String, serde_json::Value>,
    /// Whether the last message stays open, so that the answer continues it.
    pub(super) continues: bool,
    /// Whether the prompt ends with what the template puts before an answer.
    pub(super) opens_answer: bool,
}

impl Template {
    pub(super) fn new(
        source: Option<&str>,
        (start, end): (String, String),
    ) -> Result<Self, EngineError> {
        let mut environment = Environment::new();
        // What Python's template engine does by default for chat templates.
        let blocks = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_fuel(Some(MAX_STEPS));
        environment.set_syntax(blocks.expect("the default delimiters are sound"));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise);
        environment.add_function("strftime_now", |state: &State<'_, '_>, format: &str| {
            let now = state.lookup("unix_time").and_then(|now| u64::try_from(now).ok());
            calendar::strftime(format, now.unwrap_or_default())
        });
        environment
            .add_template_owned("chat", source.unwrap_or(CHATML).to_owned())
            .map_err(|error| EngineError::Unsupported(format!("a chat template ({error})")))?;
        Ok(Self { environment, start, end })
    }

    /// Writes the prompt as of `now`; the error is what the template says about the conversation.
    pub(super) fn render(
        &self,
        mut conversation: Conversation,
        now: SystemTime,
    ) -> Result<String, String> {
        for message in &mut conversation.messages {
            if let Some(serde_json::Value::String(text)) = message.get_mut("content") {
                text.retain(|c| c != END_MARK);
            }
        }
        if conversation.continues
            && let Some(last) = conversation.messages.last_mut()
            && let Some(serde_json::Value::String(text)) = last.get_mut("content")
        {
            text.push(END_MARK);
        }
        let values = context! {
            messages => Serde(conversation.messages),
            tools => conversation.tools.map(Serde),
            add_generation_prompt => conversation.opens_answer,
            bos_token => &self.start,
            eos_token => &self.end,
            unix_time => now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            ..Value::from(Serde(&conversation.extra))
        };
        let chat = self.environment.get_template("chat").map_err(|error| error.to_string())?;
        let mut prompt = chat
            .render(values)
            .map_err(|error| error.detail().map_or_else(|| error.to_string(), ToOwned::to_owned))?;
        if conversation.continues {
            let end = prompt.rfind(END_MARK);
            prompt.truncate(end.ok_or("the model's template cannot continue a message")?);
        }
        Ok(prompt)
    }
}

fn raise(message: &str) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn conversation(messages: &[(&str, &str)], continues: bool) -> Conversation {
        let message = |(role, content): &(&str, &str)| {
            Map::from_iter([("role".into(), json!(role)), ("content".into(), json!(content))])
        };
        Conversation {
            messages: messages.iter().map(message).collect(),
            tools: None,
            extra: Map::new(),
            continues,
            opens_answer: !continues,
        }
    }

    fn template(source: Option<&str>) -> Template {
        Template::new(source, ("<s>".into(), "</s>".into())).unwrap()
    }

    #[test]
    fn models_without_a_template_get_chatml() {
        let prompt =
            template(None).render(conversation(&[("user", "Hi")], false), UNIX_EPOCH).unwrap();
        assert_eq!(prompt, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    }

    #[test]
    fn a_continued_message_stays_open_with_its_last_space() {
        let talk = conversation(&[("user", "Hi"), ("assistant", "Hello ")], true);
        let prompt = template(None).render(talk, UNIX_EPOCH).unwrap();
        assert_eq!(prompt, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello ");
    }

    #[test]
    fn foreign_templates_find_the_functions_of_python() {
        let source = "{%- if messages[0]['role'] == 'system' %}\n\
             {{ raise_exception('System role not supported') }}\n{%- endif %}\n\
             {{ bos_token + messages[0].content.strip().upper() }} {{ tools | tojson }}";
        let template = template(Some(source));
        let mut talk = conversation(&[("user", " hi ")], false);
        talk.tools = Some(json!([{"type": "function"}]));
        assert_eq!(template.render(talk, UNIX_EPOCH).unwrap(), "<s>HI [{\"type\": \"function\"}]");
        let refused = template.render(conversation(&[("system", "x")], false), UNIX_EPOCH);
        assert_eq!(refused.unwrap_err(), "System role not supported");
    }

    #[test]
    fn templates_that_would_not_end_are_stopped() {
        let nested = "{% for i in range(9999) %}{% for j in range(9999) %}{% for k in range(9999) \
             %}{{ '' }}{% endfor %}{% endfor %}{% endfor %}";
        let talk = conversation(&[("user", "Hi")], false);
        assert!(template(Some(nested)).render(talk, UNIX_EPOCH).is_err());
    }

    #[test]
    fn templates_read_the_date_they_are_given() {
        let template = template(Some("Today is {{ strftime_now('%d %b %Y') }}."));
        let now = UNIX_EPOCH + Duration::from_hours(474_768);
        let prompt = template.render(conversation(&[("user", "Hi")], false), now);
        assert_eq!(prompt.unwrap(), "Today is 29 Feb 2024.");
    }
}
