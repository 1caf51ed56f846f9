//! One event of a streamed answer, parsed once and borrowed from its bytes.

use std::borrow::Cow;
use std::fmt;

use iris_core::backend::Usage;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::object::{Members, Text};

/// One event, read just far enough to tell whether it is plain text.
#[derive(Default)]
pub(super) struct Event<'a> {
    pub(super) choices: Choices<'a>,
    pub(super) usage: Option<Usage>,
    pub(super) is_error: bool,
    /// Names the server's build or service, which is the same in every event.
    pub(super) names_server: bool,
    pub(super) has_extras: bool,
}

#[derive(Default)]
pub(super) struct Choices<'a> {
    pub(super) first: Option<Choice<'a>>,
    pub(super) has_others: bool,
}

#[derive(Default)]
pub(super) struct Choice<'a> {
    index: u64,
    pub(super) text: Option<Cow<'a, str>>,
    pub(super) reason: Option<Cow<'a, str>>,
    pub(super) has_extras: bool,
}

#[derive(Default)]
struct Delta<'a> {
    text: Option<Cow<'a, str>>,
    has_extras: bool,
}

/// The value of a member, as far as it matters here.
enum Value<'a> {
    /// Null, or an empty string, array or object.
    Blank,
    Text(Cow<'a, str>),
    Other,
}

/// Reads a type from an object, handing every member's name and the map to `$body`.
macro_rules! from_object {
    ($type:ident, |$this:ident, $name:ident, $map:ident| $body:expr) => {
        impl<'de> Deserialize<'de> for $type<'de> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Object;
                impl<'de> Visitor<'de> for Object {
                    type Value = $type<'de>;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a JSON object")
                    }

                    fn visit_map<A: MapAccess<'de>>(
                        self,
                        mut $map: A,
                    ) -> Result<$type<'de>, A::Error> {
                        let mut $this = $type::default();
                        while let Some(Text($name)) = $map.next_key()? {
                            $body
                        }
                        Ok($this)
                    }
                }
                deserializer.deserialize_map(Object)
            }
        }
    };
}

from_object!(Event, |event, name, map| match &*name {
    "choices" => event.choices = map.next_value::<Option<_>>()?.unwrap_or_default(),
    "usage" => event.usage = map.next_value::<Option<&RawValue>>()?.and_then(usage),
    "error" => event.is_error |= !matches!(map.next_value()?, Value::Blank),
    "object" => event.is_error |= matches!(map.next_value()?, Value::Text(t) if t == "error"),
    name if is_envelope(name) => drop(map.next_value::<IgnoredAny>()?),
    _ => match map.next_value()? {
        Value::Blank => {}
        Value::Text(_) => event.names_server = true,
        Value::Other => event.has_extras = true,
    },
});

from_object!(Choice, |choice, name, map| match &*name {
    "index" => choice.index = map.next_value::<Option<u64>>()?.unwrap_or(0),
    "delta" => {
        let delta = map.next_value::<Option<Delta<'_>>>()?.unwrap_or_default();
        choice.text = delta.text;
        choice.has_extras |= delta.has_extras;
    }
    "text" => match map.next_value()? {
        Value::Text(text) => choice.text = Some(text),
        value => choice.has_extras |= matches!(value, Value::Other),
    },
    "finish_reason" => match map.next_value()? {
        Value::Text(reason) => choice.reason = Some(reason),
        value => choice.has_extras |= matches!(value, Value::Other),
    },
    _ => choice.has_extras |= !matches!(map.next_value()?, Value::Blank),
});

from_object!(Delta, |delta, name, map| match &*name {
    "content" => match map.next_value()? {
        Value::Text(text) => delta.text = Some(text),
        value => delta.has_extras |= matches!(value, Value::Other),
    },
    "role" => drop(map.next_value::<IgnoredAny>()?),
    _ => delta.has_extras |= !matches!(map.next_value()?, Value::Blank),
});

impl<'de> Deserialize<'de> for Choices<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Choices<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of choices")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Choices<'de>, A::Error> {
                let mut choices = Choices::default();
                while let Some(choice) = list.next_element::<Choice<'de>>()? {
                    if choice.index == 0 && choices.first.is_none() {
                        choices.first = Some(choice);
                    } else {
                        choices.has_others = true;
                    }
                }
                Ok(choices)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

impl<'de> Deserialize<'de> for Value<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E>(self) -> Result<Value<'de>, E> {
                Ok(Value::Blank)
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
                Ok(if text.is_empty() { Value::Blank } else { Value::Text(text.into()) })
            }

            fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
                Ok(if text.is_empty() { Value::Blank } else { Value::Text(text.to_owned().into()) })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value<'de>, A::Error> {
                let mut value = Value::Blank;
                while items.next_element::<IgnoredAny>()?.is_some() {
                    value = Value::Other;
                }
                Ok(value)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
                let mut value = Value::Blank;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    value = Value::Other;
                }
                Ok(value)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Value<'de>, E> {
                Ok(Value::Other)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Value<'de>, E> {
                Ok(Value::Other)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Value<'de>, E> {
                Ok(Value::Other)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Value<'de>, E> {
                Ok(Value::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// Returns whether the gateway writes the member, or nobody needs it.
pub(super) fn is_envelope(name: &str) -> bool {
    matches!(name, "id" | "object" | "created" | "model" | "usage" | "obfuscation")
}

/// Reads a `usage` object; what is missing or odd counts as zero.
pub(super) fn usage(json: &RawValue) -> Option<Usage> {
    if json.get() == "null" {
        return None;
    }
    let members = Members::parse(json.get().as_bytes()).ok()?;
    let count = |name| {
        let count = members.get(name).and_then(|value| value.get().parse::<u64>().ok());
        u32::try_from(count.unwrap_or(0)).unwrap_or(u32::MAX)
    };
    Some(Usage {
        prompt_tokens: count("prompt_tokens"),
        completion_tokens: count("completion_tokens"),
    })
}
