//! Reads JSON objects member by member, so that a refusal names the one at fault.

use std::str::FromStr;

use iris_protocol::openai::{check_object, count_values};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::ApiError;

/// Most values of one body; tools and their schemas have a few thousand.
const MAX_VALUES: usize = 1 << 17;

/// The members of an object that were not taken out yet.
#[derive(Debug)]
pub(super) struct Members {
    /// Where the object stands in the body, such as `config.`.
    at: String,
    map: Map<String, Value>,
}

impl Members {
    /// Reads a request's body.
    pub(super) fn read(body: &[u8]) -> Result<Self, ApiError> {
        check(body)?;
        let map = serde_json::from_slice(body)
            .map_err(|_| ApiError::bad_request("The request body is not a JSON object."))?;
        Ok(Self { at: String::new(), map })
    }

    /// Takes a member out; a null stands for an absent one.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// Adds a member that is absent.
    pub(super) fn default(&mut self, name: &str, value: Value) {
        if !self.has(name) {
            self.map.insert(name.to_owned(), value);
        }
    }

    /// Returns whether a member is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    /// Takes a member of any type that has a JSON form.
    pub(super) fn optional<T: DeserializeOwned>(
        &mut self,
        name: &str,
        expected: &str,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        // Only what is expected, since the value could hold what nobody else may read.
        serde_json::from_value(value).map(Some).map_err(|_| self.wrong(name, expected))
    }

    /// Checks the type of a member that is read elsewhere.
    pub(super) fn check<T: DeserializeOwned>(
        &self,
        name: &str,
        expected: &str,
    ) -> Result<(), ApiError> {
        match self.map.get(name) {
            Some(value) if !value.is_null() && T::deserialize(value).is_err() => {
                Err(self.wrong(name, expected))
            }
            _ => Ok(()),
        }
    }

    /// Takes a member that must be there.
    pub(super) fn required<T: DeserializeOwned>(
        &mut self,
        name: &str,
        expected: &str,
    ) -> Result<T, ApiError> {
        self.optional(name, expected)?.ok_or_else(|| self.missing(name, expected))
    }

    /// Takes an object whose members are read in turn.
    pub(super) fn object(&mut self, name: &str) -> Result<Option<Self>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self { at: format!("{}{name}.", self.at), map })),
            Some(_) => Err(self.wrong(name, "an object")),
        }
    }

    /// Takes an array of texts that are of some type.
    pub(super) fn texts<T: FromStr>(
        &mut self,
        name: &str,
        expected: &str,
    ) -> Result<Option<Vec<T>>, ApiError> {
        let Some(texts) = self.optional::<Vec<String>>(name, "an array of texts")? else {
            return Ok(None);
        };
        let read = |(place, text): (usize, &String)| {
            text.parse().map_err(|_| self.wrong(&format!("{name}[{place}]"), expected))
        };
        texts.iter().enumerate().map(read).collect::<Result<_, _>>().map(Some)
    }

    /// Returns what is left, for a reader that takes any member.
    pub(super) fn rest(self) -> Map<String, Value> {
        self.map
    }

    /// Refuses members that nobody has taken.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(name) => {
                let place = self.place(name);
                Err(ApiError::bad_request("This member is not known here.").with_param(place))
            }
        }
    }

    /// Says what a member has to be.
    pub(super) fn wrong(&self, name: &str, expected: &str) -> ApiError {
        let place = self.place(name);
        ApiError::bad_request(format!("'{place}' must be {expected}.")).with_param(place)
    }

    pub(super) fn missing(&self, name: &str, expected: &str) -> ApiError {
        let place = self.place(name);
        let message = format!("'{place}' is missing; it must be {expected}.");
        ApiError::bad_request(message).with_param(place)
    }

    fn place(&self, name: &str) -> String {
        // A name is a caller's text, of any length.
        let name: String = name.chars().take(80).collect();
        format!("{}{name}", self.at)
    }
}

/// Checks that a body is one JSON object within bounds.
pub(super) fn check(body: &[u8]) -> Result<(), ApiError> {
    if count_values(body) > MAX_VALUES {
        return Err(ApiError::bad_request("The request body holds too many values."));
    }
    Ok(check_object(body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(error: &ApiError) -> Option<String> {
        assert_eq!(error.status(), 400);
        error.body().error.param
    }

    #[test]
    fn every_refusal_names_the_member_at_fault() {
        let mut members = Members::read(br#"{"a":1,"b":{"c":"x"},"d":null,"e":2}"#).unwrap();
        assert_eq!(
            at(&members.optional::<String>("a", "a text").unwrap_err()).as_deref(),
            Some("a")
        );
        let mut inner = members.object("b").unwrap().unwrap();
        assert_eq!(
            at(&inner.optional::<u32>("c", "a number").unwrap_err()).as_deref(),
            Some("b.c")
        );
        assert_eq!(
            at(&inner.required::<u32>("n", "a number").unwrap_err()).as_deref(),
            Some("b.n")
        );
        assert_eq!(members.optional::<u32>("d", "a number").unwrap(), None);
        assert_eq!(at(&members.finish().unwrap_err()).as_deref(), Some("e"));
        for bad in ["[]", "1", "{", r#"{"a":1,"a":2}"#] {
            assert_eq!(at(&Members::read(bad.as_bytes()).unwrap_err()), None, "{bad}");
        }
    }
}
