//! What is done with a request that names no model: its last words tell how hard it is, and the
//! model that was chosen is written into it.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use iris_core::ModelName;
use iris_core::backend::Operation;

use super::RequestError;
use super::asked::text;
use super::json::{JsonError, Kind, Reader, escape_into};

/// Returns `body` with `model` in it as the name of the model; all else stays as it is.
///
/// The body is one that [`Asked::read`](super::Asked::read) takes.
pub fn with_model(body: &[u8], model: &ModelName) -> Result<Bytes, RequestError> {
    let text = text(body)?;
    let mut reader = Reader::new(text);
    let mut place = None;
    reader.object::<JsonError>(|reader, name| {
        reader.kind()?;
        let start = reader.position();
        reader.skip()?;
        if name == "model" {
            place = Some((start, reader.position()));
        }
        Ok(())
    })?;
    let mut name = BytesMut::with_capacity(model.as_str().len() + 2);
    name.put_u8(b'"');
    escape_into(model.as_str(), &mut name);
    name.put_u8(b'"');
    let (before, written, after) = if let Some((start, end)) = place {
        (&text[..start], name, &text[end..])
    } else {
        let inside = text.find('{').map_or(0, |at| at + 1);
        let mut member = BytesMut::from(&b"\"model\":"[..]);
        member.extend_from_slice(&name);
        // Such a body has other members, which follow.
        member.put_u8(b',');
        (&text[..inside], member, &text[inside..])
    };
    Ok(Bytes::from([before.as_bytes(), &written, after.as_bytes()].concat()))
}

/// Returns what the caller said last: the text of the user's last message, or the prompt. Nothing
/// where there is no text.
pub fn last_words(operation: Operation, body: &[u8]) -> Result<Cow<'_, str>, RequestError> {
    let mut reader = Reader::new(text(body)?);
    let mut last = Cow::Borrowed("");
    reader.object::<JsonError>(|reader, name| {
        match (operation, name.as_ref(), reader.kind()?) {
            (Operation::Chat, "messages", Kind::Array) => reader.array(|reader| {
                if let Some(words) = of_user(reader)? {
                    last = words;
                }
                Ok::<(), JsonError>(())
            }),
            (Operation::Completion, "prompt", Kind::String | Kind::Array)
            | (Operation::Embedding, "input", Kind::String | Kind::Array) => {
                last = texts(reader)?;
                Ok(())
            }
            _ => reader.skip().map(drop),
        }
    })?;
    Ok(last)
}

/// Reads a message; returns its text if the user speaks.
fn of_user<'a>(reader: &mut Reader<'a>) -> Result<Option<Cow<'a, str>>, JsonError> {
    if reader.kind()? != Kind::Object {
        return reader.skip().map(|_| None);
    }
    let (mut is_user, mut words) = (false, None);
    reader.object::<JsonError>(|reader, name| {
        match (name.as_ref(), reader.kind()?) {
            ("role", Kind::String) => is_user = reader.string()? == "user",
            ("content", Kind::String | Kind::Array) => words = Some(texts(reader)?),
            _ => drop(reader.skip()?),
        }
        Ok(())
    })?;
    Ok(words.filter(|_| is_user))
}

/// Reads a text, or an array of texts and of parts that may hold one; returns the last of them.
fn texts<'a>(reader: &mut Reader<'a>) -> Result<Cow<'a, str>, JsonError> {
    if reader.kind()? == Kind::String {
        return reader.string();
    }
    let mut last = Cow::Borrowed("");
    reader.array::<JsonError>(|reader| {
        match reader.kind()? {
            Kind::String => last = reader.string()?,
            Kind::Object => reader.object::<JsonError>(|reader, name| {
                if name == "text" && reader.kind()? == Kind::String {
                    last = reader.string()?;
                    return Ok(());
                }
                reader.skip().map(drop)
            })?,
            _ => drop(reader.skip()?),
        }
        Ok(())
    })?;
    Ok(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::openai::Asked;

    fn named(body: &str, model: &str) -> String {
        let named = with_model(body.as_bytes(), &model.parse().unwrap()).unwrap();
        String::from_utf8(named.into()).unwrap()
    }

    #[test]
    fn the_model_is_written_where_its_name_stands_or_first() {
        let body = r#" {"messages":[{"model":"x"}], "model" : "iris/any" ,"top_p":0.10}"#;
        let expected = r#" {"messages":[{"model":"x"}], "model" : "a\"b" ,"top_p":0.10}"#;
        assert_eq!(named(body, "a\"b"), expected);
        assert_eq!(named(r#"{"mod\u0065l":null,"n":1}"#, "m"), r#"{"mod\u0065l":"m","n":1}"#);
        let body = r#"{ "messages":[{}]}"#;
        assert_eq!(named(body, "m"), r#"{"model":"m", "messages":[{}]}"#);
    }

    #[test]
    fn the_last_words_are_those_of_the_user() {
        let last = |body: &str| last_words(Operation::Chat, body.as_bytes()).unwrap().into_owned();
        let body = r#"{"messages":[
            {"role":"system","content":"be brief"},
            {"role":"user","content":"first"},
            {"content":[{"type":"image_url","image_url":{"url":"data:"}},
                        {"type":"text","text":"s\u00e9cond"}],"role":"user"},
            {"role":"assistant","content":"well"}, 7, {"role":"user","content":null}]}"#;
        assert_eq!(last(body), "sécond");
        assert_eq!(last(r#"{"messages":[{"role":"tool","content":"t"}]}"#), "");
        let prompt = br#"{"prompt":["a","b"]}"#;
        assert_eq!(last_words(Operation::Completion, prompt).unwrap(), "b");
    }

    proptest! {
        #[test]
        fn whatever_is_taken_can_be_named(
            name in "[a-z\"\\\\/]{1,9}", members in "[a-z]{0,4}", has: bool, text: String,
        ) {
            let model = if has { r#""model":"iris/any","# } else { "" };
            let text = serde_json::to_string(&text).unwrap();
            let body = format!(
                r#"{{"x{members}":1,{model}"messages":[{{"role":"user","content":{text}}}]}}"#
            );
            let model: ModelName = name.parse().unwrap();
            let named = with_model(body.as_bytes(), &model).unwrap();
            prop_assert_eq!(Asked::read(Operation::Chat, &named).unwrap().model, model);
            let said = last_words(Operation::Chat, &named).unwrap();
            prop_assert_eq!(serde_json::to_string(&said).unwrap(), text);
        }

        #[test]
        fn no_body_makes_the_readers_panic(body in "[{}\\[\\]\":,a-z0-9 ]{0,60}") {
            let _ = with_model(body.as_bytes(), &"m".parse().unwrap());
            let _ = last_words(Operation::Chat, body.as_bytes());
        }
    }
}
