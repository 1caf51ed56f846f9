//! JSON objects read one level deep, so that what is not understood is passed on as it was written.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of one JSON object, in order, their values unparsed.
pub(super) struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// Levels of arrays and objects that are passed on; the coordinator reads no deeper.
pub(super) const MAX_DEPTH: usize = 64;

/// More members than any request or answer has.
const MAX_MEMBERS: usize = 256;

impl<'a> Members<'a> {
    /// Reads `json`, which must be one object of at most 256 members.
    pub(super) fn parse(json: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// Returns the value of the last member called `name`.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    /// Returns a name that two members have.
    pub(super) fn duplicate(&self) -> Option<&str> {
        let mut names = self.0.iter().map(|(name, _)| &**name).collect::<Vec<_>>();
        names.sort_unstable();
        names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (&**name, *value))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some((Text(name), value)) = map.next_entry()? {
                    if members.len() == MAX_MEMBERS {
                        return Err(de::Error::custom("the object has too many members"));
                    }
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A string, borrowed where it holds no escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// Writes one JSON object out of members whose values are JSON already.
pub(super) struct ObjectWriter(Vec<u8>);

impl ObjectWriter {
    /// Starts an object, with room for `capacity` bytes.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        let mut json = Vec::with_capacity(capacity);
        json.push(b'{');
        Self(json)
    }

    pub(super) fn member(&mut self, name: &str, value: &[u8]) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        serde_json::to_writer(&mut self.0, name).expect("a string has a JSON form");
        self.0.push(b':');
        self.0.extend_from_slice(value);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}

/// Removes the space around tokens if `json` spans lines, so that it fits on one.
fn on_one_line(mut json: Vec<u8>) -> Vec<u8> {
    if json.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        let mut strings = Strings::default();
        json.retain(|byte| strings.contain(*byte) || !byte.is_ascii_whitespace());
    }
    json
}

/// Returns an answer's JSON in the form in which it is passed on: on one line and not too deep.
pub(super) fn passed_on(json: Vec<u8>) -> Option<Bytes> {
    (depth(&json) <= MAX_DEPTH).then(|| on_one_line(json).into())
}

/// Returns how deeply arrays and objects are nested in `json`, which need not be valid.
pub(super) fn depth(json: &[u8]) -> usize {
    let mut strings = Strings::default();
    let (mut depth, mut deepest) = (0_usize, 0);
    for &byte in json {
        if strings.contain(byte) {
            continue;
        }
        match byte {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Follows JSON byte by byte and knows what belongs to a string.
#[derive(Default)]
struct Strings {
    inside: bool,
    escaped: bool,
}

impl Strings {
    fn contain(&mut self, byte: u8) -> bool {
        let was_inside = self.inside;
        if self.escaped {
            self.escaped = false;
        } else {
            self.escaped = self.inside && byte == b'\\';
            self.inside ^= byte == b'"';
        }
        was_inside || self.inside
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_keep_their_space_when_lines_are_joined() {
        let json = b"{\n \"a b\\\" \": [1,\r\n 2]\n}".to_vec();
        assert_eq!(on_one_line(json), b"{\"a b\\\" \":[1,2]}");
    }

    #[test]
    fn brackets_in_strings_do_not_nest() {
        assert_eq!(depth(br#"{"a[[[\"[":[{}]}"#), 3);
    }

    #[test]
    fn escaped_names_are_the_names_they_spell() {
        let members = Members::parse(br#"{"lo\u0072a":1,"lora":2}"#).unwrap();
        assert_eq!(members.duplicate(), Some("lora"));
    }
}
