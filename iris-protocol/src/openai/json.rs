//! Reads JSON just far enough: one pass, no copies, and a bound on nesting.
//!
//! Bodies are passed on unchanged, so whoever passes them on needs a few members of them and the
//! certainty that the rest is well-formed. `serde_json` skips values without a bound on their
//! nesting, and keeps quiet about members that occur twice.

use std::borrow::Cow;

/// Deepest nesting that is read; an array or object is one level.
pub(super) const MAX_DEPTH: u32 = 64;

/// Why a text is not JSON, or not JSON that is accepted here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum JsonError {
    /// It is not well-formed, or of another type than asked for.
    #[error("not valid JSON")]
    Invalid,
    /// It is nested too deeply.
    #[error("nested more than 64 levels deep")]
    TooDeep,
}

/// What kind of value comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

/// Walks over one JSON text.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
}

impl<'a> Reader<'a> {
    /// Starts at the beginning of `text`.
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    /// Returns how many bytes have been read.
    pub(super) const fn position(&self) -> usize {
        self.at
    }

    /// Returns how deep the next value stands; 0 for the outermost.
    pub(super) const fn depth(&self) -> u32 {
        self.depth
    }

    /// Returns the kind of the next value, which need not be well-formed.
    pub(super) fn kind(&mut self) -> Result<Kind, JsonError> {
        self.space();
        match self.peek() {
            Some(b'n') => Ok(Kind::Null),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b'"') => Ok(Kind::String),
            Some(b'[') => Ok(Kind::Array),
            Some(b'{') => Ok(Kind::Object),
            _ => Err(JsonError::Invalid),
        }
    }

    /// Reads an object and hands each member's name to `member`, which must read its value.
    pub(super) fn object<E: From<JsonError>>(
        &mut self,
        mut member: impl FnMut(&mut Self, &Cow<'a, str>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.list(b'{', b'}', |reader| {
            let name = reader.string()?;
            reader.expect(b':')?;
            member(reader, &name)
        })
    }

    /// Reads an array and calls `element` before each of its values, which it must read.
    pub(super) fn array<E: From<JsonError>>(
        &mut self,
        element: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.list(b'[', b']', element)
    }

    /// Reads a string.
    pub(super) fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        let (raw, escaped) = self.raw_string()?;
        if !escaped {
            return Ok(Cow::Borrowed(&raw[1..raw.len() - 1]));
        }
        serde_json::from_str(raw).map(Cow::Owned).map_err(|_| JsonError::Invalid)
    }

    /// Reads a number and returns its text.
    pub(super) fn number(&mut self) -> Result<&'a str, JsonError> {
        self.space();
        let start = self.at;
        self.eat_now(b'-');
        if !self.eat_now(b'0') {
            self.digits()?;
        }
        if self.eat_now(b'.') {
            self.digits()?;
        }
        if self.eat_now(b'e') || self.eat_now(b'E') {
            if !self.eat_now(b'+') {
                self.eat_now(b'-');
            }
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    /// Reads `true` or `false`.
    pub(super) fn bool(&mut self) -> Result<bool, JsonError> {
        let value = self.kind()? == Kind::Bool && self.peek() == Some(b't');
        self.word(if value { "true" } else { "false" })?;
        Ok(value)
    }

    /// Reads a value of any kind and returns how many bytes it has.
    pub(super) fn skip(&mut self) -> Result<usize, JsonError> {
        let kind = self.kind()?;
        let start = self.at;
        match kind {
            Kind::Null => self.word("null")?,
            Kind::Bool => drop(self.bool()?),
            Kind::Number => drop(self.number()?),
            Kind::String => drop(self.raw_string()?),
            Kind::Array => self.array(|reader| reader.skip().map(drop))?,
            Kind::Object => self.list(b'{', b'}', |reader| {
                reader.raw_string()?;
                reader.expect(b':')?;
                reader.skip().map(drop)
            })?,
        }
        Ok(self.at - start)
    }

    /// Checks that nothing but space is left.
    pub(super) fn end(&mut self) -> Result<(), JsonError> {
        self.space();
        if self.at == self.text.len() { Ok(()) } else { Err(JsonError::Invalid) }
    }

    /// Reads what stands between two brackets, and calls `item` before each part of it.
    fn list<E: From<JsonError>>(
        &mut self,
        open: u8,
        close: u8,
        mut item: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.enter(open)?;
        if !self.eat(close) {
            loop {
                item(self)?;
                if !self.eat(b',') {
                    self.expect(close)?;
                    break;
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Reads a string with its quotes, and whether it holds escapes.
    fn raw_string(&mut self) -> Result<(&'a str, bool), JsonError> {
        self.expect(b'"')?;
        let start = self.at - 1;
        let mut escaped = false;
        loop {
            let rest = &self.text.as_bytes()[self.at..];
            let plain = rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..=0x1f));
            self.at += plain.ok_or(JsonError::Invalid)?;
            match self.text.as_bytes()[self.at] {
                b'"' => {
                    self.at += 1;
                    return Ok((&self.text[start..self.at], escaped));
                }
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return Err(JsonError::Invalid),
            }
        }
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        let rest = &self.text.as_bytes()[self.at + 1..];
        let length = match rest.first() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
            Some(b'u') => {
                let digits = rest.get(1..5).ok_or(JsonError::Invalid)?;
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(JsonError::Invalid);
                }
                6
            }
            _ => return Err(JsonError::Invalid),
        };
        self.at += length;
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let rest = &self.text.as_bytes()[self.at..];
        let count = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        self.at += count;
        if count == 0 { Err(JsonError::Invalid) } else { Ok(()) }
    }

    fn word(&mut self, word: &str) -> Result<(), JsonError> {
        self.space();
        if !self.text[self.at..].starts_with(word) {
            return Err(JsonError::Invalid);
        }
        self.at += word.len();
        Ok(())
    }

    fn enter(&mut self, bracket: u8) -> Result<(), JsonError> {
        self.expect(bracket)?;
        if self.depth == MAX_DEPTH {
            return Err(JsonError::TooDeep);
        }
        self.depth += 1;
        Ok(())
    }

    fn expect(&mut self, byte: u8) -> Result<(), JsonError> {
        if self.eat(byte) { Ok(()) } else { Err(JsonError::Invalid) }
    }

    fn eat(&mut self, byte: u8) -> bool {
        self.space();
        self.eat_now(byte)
    }

    fn eat_now(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }
}

/// Appends `text` to `out` as the inside of a JSON string.
pub(super) fn escape_into(text: &str, out: &mut impl bytes::BufMut) {
    let bytes = text.as_bytes();
    let mut done = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let short = match byte {
            b'"' => b'"',
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0..=0x1f => 0,
            _ => continue,
        };
        out.put_slice(&bytes[done..at]);
        if short == 0 {
            let digit = |half: u8| b"0123456789abcdef"[usize::from(half)];
            out.put_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
        } else {
            out.put_slice(&[b'\\', short]);
        }
        done = at + 1;
    }
    out.put_slice(&bytes[done..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    fn read(text: &str) -> Result<(), JsonError> {
        let mut reader = Reader::new(text);
        reader.skip()?;
        reader.end()
    }

    /// Texts of the characters that JSON is made of, well-formed by chance only.
    fn almost_json() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", "\"", "\"a\"", "\\", "\\n", "\\u00e4", "\\ud86d",
            "\\u00", "0", "-", "12", ".5", "e+1", "E", "true", "false", "null", " ", "\n", "ä",
            "\u{1}", "nul",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    #[test]
    fn nesting_is_read_to_its_bound() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert_eq!(read(&nested(64)), Ok(()));
        assert_eq!(read(&nested(65)), Err(JsonError::TooDeep));
        assert_eq!(read(&"[{\"a\":".repeat(100_000)), Err(JsonError::TooDeep));
    }

    #[test]
    fn escaped_names_are_compared_by_what_they_mean() {
        let mut names = Vec::new();
        let mut reader = Reader::new(r#"{"mod\u0065l":1,"b":[{}]}"#);
        let read: Result<(), JsonError> = reader.object(|reader, name| {
            names.push(name.to_string());
            reader.skip().map(drop)
        });
        assert_eq!((read, names), (Ok(()), vec!["model".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn half_of_a_character_is_passed_over_and_names_nothing() {
        let text = r#"{"\ud86d":"\ud86d"}"#;
        assert_eq!(read(text), Ok(()));
        assert!(serde_json::from_str::<IgnoredAny>(text).is_ok());
        let mut reader = Reader::new(text);
        let named: Result<(), JsonError> = reader.object(|reader, _| reader.skip().map(drop));
        assert_eq!(named, Err(JsonError::Invalid));
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_what_serde_json_accepts(text in almost_json()) {
            let theirs = serde_json::from_str::<IgnoredAny>(&text).is_ok();
            prop_assert_eq!(read(&text).is_ok(), theirs, "{}", text);
        }

        #[test]
        fn any_document_is_read_whole(text in "\\PC*", number in any::<f64>(), flag: bool) {
            let value = serde_json::json!({"a": [text, number, flag, null], "b": {"c": text}});
            prop_assert_eq!(read(&value.to_string()), Ok(()));
            prop_assert_eq!(read(&serde_json::to_string_pretty(&value).unwrap()), Ok(()));
        }

        #[test]
        fn escaped_text_reads_back_and_stays_on_its_line(text in any::<String>()) {
            let mut out = vec![b'"'];
            escape_into(&text, &mut out);
            out.push(b'"');
            prop_assert!(!out.iter().any(|b| matches!(b, b'\n' | b'\r' | 0)));
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
