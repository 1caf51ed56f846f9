use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use super::Source;

/// A prompt with places for what is known only when it is sent.
///
/// `{{ input }}` is what the user gave, `{{ item }}` the current item of a step that asks for each
/// of several, `{{ part }}` and `{{ parts }}` its number and how many there are, `{{ lines }}`
/// where in the document it stands, `{{ step }}` the output of an earlier step and
/// `{{ step.member.0 }}` a member of its JSON output. `{{ "{{" }}` is two braces.
///
/// There are no loops and no expressions. A coordinator fills in strangers' templates, and with
/// either a short text could become one of any length.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Place(Vec<String>),
}

/// The values of a template's names.
pub(super) struct Scope<'a> {
    pub(super) input: &'a str,
    pub(super) item: Option<&'a str>,
    pub(super) part: usize,
    pub(super) parts: usize,
    pub(super) source: Option<Source>,
    pub(super) output: &'a dyn Fn(&str) -> Option<String>,
}

/// Says why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A place is not closed.
    #[error("'{{{{' at byte {0} is not closed by '}}}}'; write {{{{ \"{{{{\" }}}} for two braces")]
    Open(usize),
    /// A place holds something else than a name.
    #[error("'{0}' is not a name like input, item or a step's name, with members after dots")]
    Name(String),
}

impl Template {
    /// Makes a template of `text` as it is, whatever is in it.
    pub fn literal(text: impl Into<String>) -> Self {
        Self { pieces: vec![Piece::Text(text.into())] }
    }

    /// Makes the template `{{ input }}`.
    pub fn input() -> Self {
        Self { pieces: vec![Piece::Place(vec!["input".to_owned()])] }
    }

    /// Makes the template `{{ item }}`.
    pub fn item() -> Self {
        Self { pieces: vec![Piece::Place(vec!["item".to_owned()])] }
    }

    /// Makes a template of `{{ item }}` between two texts that are taken as they are.
    pub fn around_item(before: &str, after: &str) -> Self {
        let mut pieces = Vec::new();
        push_text(&mut pieces, before);
        pieces.push(Piece::Place(vec!["item".to_owned()]));
        push_text(&mut pieces, after);
        Self { pieces }
    }

    /// Iterates over the names that it uses, without their members.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Place(path) => path.first().map(String::as_str),
            Piece::Text(_) => None,
        })
    }
}

impl Template {
    /// Fills in the places. Says in a sentence what cannot be filled in.
    pub(super) fn render(&self, scope: &Scope<'_>) -> Result<String, String> {
        let mut rendered = String::new();
        let mut values = BTreeMap::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => rendered.push_str(text),
                Piece::Place(path) => {
                    let (name, members) = path.split_first().expect("a place has a name");
                    let value =
                        values.entry(name).or_insert_with(|| Filled::new(scope.value(name)));
                    rendered.push_str(&value.member(name, members)?);
                }
            }
            if rendered.len() > super::Plan::MAX_TEXT {
                return Err("a prompt has at most 8 MiB once its outputs are in it".to_owned());
            }
        }
        Ok(rendered)
    }
}

impl Scope<'_> {
    fn value(&self, name: &str) -> String {
        match name {
            "input" => self.input.to_owned(),
            "item" => self.item.unwrap_or_default().to_owned(),
            "part" => self.part.to_string(),
            "parts" => self.parts.to_string(),
            "lines" => self.source.map(Source::lines).unwrap_or_default(),
            step => (self.output)(step).unwrap_or_default(),
        }
    }
}

/// A value that is read as JSON once, however many places want a member of it.
struct Filled {
    text: String,
    json: OnceCell<Option<Value>>,
}

impl Filled {
    const fn new(text: String) -> Self {
        Self { text, json: OnceCell::new() }
    }

    fn member(&self, name: &str, members: &[String]) -> Result<Cow<'_, str>, String> {
        if members.is_empty() || self.text.is_empty() {
            return Ok(self.text.as_str().into());
        }
        let read = || serde_json::from_str(super::vote::unfenced(&self.text)).ok();
        let value = self.json.get_or_init(read).as_ref();
        value.and_then(|value| member(value, members)).ok_or_else(|| {
            format!("the output of `{name}` is not JSON with a member `{}`", members.join("."))
        })
    }
}

/// Returns a member of a JSON value, strings as they are and all else as JSON.
fn member<'a>(value: &'a Value, members: &[String]) -> Option<Cow<'a, str>> {
    let found = members.iter().try_fold(value, |value, member| match value {
        Value::Array(values) => values.get(member.parse::<usize>().ok()?),
        other => other.get(member),
    })?;
    Some(found.as_str().map_or_else(|| found.to_string().into(), Cow::Borrowed))
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let open = text.len() - after.len() - 2;
            let (inside, after) = match after.strip_prefix(" \"{{\" }}") {
                Some(after) => ("\"{{\"", after),
                None => after.split_once("}}").ok_or(TemplateError::Open(open))?,
            };
            push_text(&mut pieces, before);
            match inside.trim() {
                "\"{{\"" => push_text(&mut pieces, "{{"),
                name => pieces.push(Piece::Place(path(name)?)),
            }
            rest = after;
        }
        push_text(&mut pieces, rest);
        Ok(Self { pieces })
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        _ if text.is_empty() => {}
        Some(Piece::Text(last)) => last.push_str(text),
        _ => pieces.push(Piece::Text(text.to_owned())),
    }
}

fn path(name: &str) -> Result<Vec<String>, TemplateError> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let segments: Vec<_> = name.split('.').map(str::to_owned).collect();
    let valid = segments.iter().all(|part| !part.is_empty() && part.chars().all(known));
    if valid { Ok(segments) } else { Err(TemplateError::Name(name.chars().take(80).collect())) }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => f.write_str(&text.replace("{{", "{{ \"{{\" }}"))?,
                Piece::Place(path) => write!(f, "{{{{ {} }}}}", path.join("."))?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Prompts never reach logs.
        write!(f, "Template({} pieces)", self.pieces.len())
    }
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rendered(template: &str) -> Result<String, String> {
        let output = |name: &str| match name {
            "triage" => Some(r#"{"severity": 3, "signs": ["fever", "cough"]}"#.to_owned()),
            "skipped" => Some(String::new()),
            _ => None,
        };
        let scope = Scope {
            input: "{{ item }}",
            item: Some("this"),
            part: 2,
            parts: 5,
            source: None,
            output: &output,
        };
        template.parse::<Template>().unwrap().render(&scope)
    }

    #[test]
    fn places_are_filled_in_once_and_members_are_looked_up() {
        let filled = rendered("{{input}}: {{ item }} is {{ part }} of {{ parts }}").unwrap();
        assert_eq!(filled, "{{ item }}: this is 2 of 5", "what is filled in is no template");
        let members = rendered("{{ triage.severity }} {{ triage.signs.1 }} {{ triage.signs }}");
        assert_eq!(members.unwrap(), r#"3 cough ["fever","cough"]"#);
        assert_eq!(rendered("[{{ skipped }}{{ skipped.severity }}]").unwrap(), "[]");
        assert_eq!(rendered(r#"{{ "{{" }} x }}"#).unwrap(), "{{ x }}");
        assert!(rendered("{{ triage.age }}").unwrap_err().contains("`age`"));
    }

    #[test]
    fn what_is_no_template_says_why() {
        let refused = |text: &str| text.parse::<Template>().unwrap_err();
        assert_eq!(refused("a {{ b"), TemplateError::Open(2));
        assert_eq!(refused("{{ a + b }}"), TemplateError::Name("a + b".to_owned()));
        assert_eq!(refused("{{}}"), TemplateError::Name(String::new()));
        assert_eq!(refused("{{ a..b }}"), TemplateError::Name("a..b".to_owned()));
    }

    #[test]
    fn prompts_are_bounded() {
        let output = |_: &str| Some("x".repeat(5 << 20));
        let scope =
            Scope { input: "", item: None, part: 1, parts: 1, source: None, output: &output };
        assert!("{{ a }}".parse::<Template>().unwrap().render(&scope).is_ok());
        assert!("{{ a }}{{ a }}".parse::<Template>().unwrap().render(&scope).is_err());
    }

    proptest! {
        #[test]
        fn literal_text_and_its_written_form_mean_the_same(text in "[a-z{} \"]{0,40}") {
            let literal = Template::literal(text.clone());
            let again: Template = literal.to_string().parse().unwrap();
            let output = |_: &str| None;
            let scope =
                Scope { input: "", item: None, part: 1, parts: 1, source: None, output: &output };
            prop_assert_eq!(again.render(&scope), Ok(text.clone()));
            prop_assert_eq!(literal.render(&scope), Ok(text));
        }

        #[test]
        fn any_text_is_a_template_or_an_error(text in "\\PC{0,60}|[{} a\"]{0,20}") {
            if let Ok(template) = text.parse::<Template>() {
                let again: Template = template.to_string().parse().unwrap();
                prop_assert_eq!(again.to_string(), template.to_string());
            }
        }
    }
}
