use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

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

    /// Iterates over the names that it uses, without their members.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Place(path) => path.first().map(String::as_str),
            Piece::Text(_) => None,
        })
    }
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
