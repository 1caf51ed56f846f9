use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::limits::MAX_JSON_DEPTH;

/// Says why a text is not a JSON object that one can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// Not JSON at all.
    #[error("it is not JSON")]
    Syntax,
    /// Nested deeper than [`MAX_JSON_DEPTH`].
    #[error("it nests more than {MAX_JSON_DEPTH} levels deep")]
    TooDeep,
    /// An object names a member twice, so that two readers could understand it differently.
    #[error("it names a member twice")]
    DuplicateMember,
    /// Not an object with a text `type`.
    #[error("it has no type")]
    NoType,
}

/// Checks the whole text and returns its `type`, without keeping anything else.
pub(super) fn read_type(text: &[u8]) -> Result<Cow<'_, str>, JsonError> {
    let mut scan = Scan { depth: 0, kind: None, error: None };
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let read = Value(&mut scan).deserialize(&mut deserializer).and_then(|_| deserializer.end());
    match (read, scan.error, scan.kind) {
        (_, Some(error), _) => Err(error),
        (Err(_), None, _) => Err(JsonError::Syntax),
        (Ok(()), None, kind) => kind.ok_or(JsonError::NoType),
    }
}

struct Scan<'de> {
    depth: usize,
    kind: Option<Cow<'de, str>>,
    error: Option<JsonError>,
}

impl Scan<'_> {
    fn enter<E: Error>(&mut self) -> Result<(), E> {
        self.depth += 1;
        if self.depth > MAX_JSON_DEPTH { self.fail(JsonError::TooDeep) } else { Ok(()) }
    }

    fn fail<E: Error>(&mut self, error: JsonError) -> Result<(), E> {
        self.error = Some(error);
        Err(E::custom(error))
    }
}

/// Reads any value; returns it when it is a text.
struct Value<'a, 'de>(&'a mut Scan<'de>);

impl<'de> DeserializeSeed<'de> for Value<'_, 'de> {
    type Value = Option<Cow<'de, str>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_, 'de> {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        self.0.enter()?;
        while seq.next_element_seed(Value(self.0))?.is_some() {}
        self.0.depth -= 1;
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        self.0.enter()?;
        let mut names = BTreeSet::new();
        while let Some(name) = map.next_key_seed(Value(self.0))? {
            let value = map.next_value_seed(Value(self.0))?;
            let name = name.unwrap_or_default();
            if self.0.depth == 1 && name == "type" {
                self.0.kind = value;
            }
            if !names.insert(name) {
                self.0.fail(JsonError::DuplicateMember)?;
            }
        }
        self.0.depth -= 1;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_is_found_wherever_it_stands() {
        assert_eq!(read_type(br#"{"a":[{"type":"B"}],"type":"A"}"#).unwrap(), "A");
        assert_eq!(read_type(br#"{"type":"\u0041"}"#).unwrap(), "A");
    }

    #[test]
    fn each_fault_has_its_name() {
        let nested = |levels: usize| {
            format!(r#"{{"type":"A","a":{}{}}}"#, "[".repeat(levels), "]".repeat(levels))
        };
        let deep = nested(MAX_JSON_DEPTH);
        assert!(read_type(nested(MAX_JSON_DEPTH - 1).as_bytes()).is_ok());
        for (text, error) in [
            ("", JsonError::Syntax),
            ("{", JsonError::Syntax),
            (r#"{"type":"A"} x"#, JsonError::Syntax),
            ("\"\u{1}\"", JsonError::Syntax),
            ("[]", JsonError::NoType),
            (r#""type""#, JsonError::NoType),
            ("{}", JsonError::NoType),
            (r#"{"type":1}"#, JsonError::NoType),
            (r#"{"type":"A","a":1,"a":2}"#, JsonError::DuplicateMember),
            (r#"{"type":"A","b":{"a":1,"\u0061":2}}"#, JsonError::DuplicateMember),
            (&deep, JsonError::TooDeep),
            (&"[".repeat(100_000), JsonError::TooDeep),
        ] {
            assert_eq!(read_type(text.as_bytes()), Err(error), "{text:.40}");
        }
    }
}
