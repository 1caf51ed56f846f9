//! Answers that another node began, in what servers understand.
//!
//! To a chat the beginning is added as a last message by the assistant, to a completion as the
//! end of its prompt. White space at the end of the beginning is kept back: many templates trim
//! it, and models were seldom trained to go on from it. They write it anew, and it is taken off
//! what they write.

use futures::stream::{self, BoxStream, StreamExt};
use iris_core::backend::{BackendError, Begun, Chunk, Finish, Usage};

type Item = Result<Chunk, BackendError>;

/// Splits the beginning into what the server is told and the white space that ends it.
pub(super) fn split(text: &str) -> (&str, &str) {
    text.split_at(text.trim_end().len())
}

/// Shortest beginning, in bytes, that no server says again by chance.
const NO_CHANCE: usize = 16;

/// Where an answer goes on from its beginning.
pub(super) struct Seam {
    /// White space that the caller has and the server does not know of.
    space: String,
    /// What a server that repeats the beginning would say next; empty once it has not.
    repeated: String,
    /// What it said of that so far.
    held: String,
    tokens: u32,
}

impl Seam {
    pub(super) fn new(begun: &Begun) -> Self {
        let (known, space) = split(&begun.text);
        let repeated = if known.len() < NO_CHANCE { "" } else { known };
        Self {
            space: space.to_owned(),
            repeated: repeated.to_owned(),
            held: String::new(),
            tokens: begun.tokens,
        }
    }

    /// Makes what a server says the end of the whole answer.
    pub(super) fn join(
        mut self,
        rest: BoxStream<'static, Result<Chunk, BackendError>>,
    ) -> BoxStream<'static, Result<Chunk, BackendError>> {
        rest.map(move |item| stream::iter(self.pass(item))).flatten().boxed()
    }

    fn pass(&mut self, item: Item) -> Vec<Item> {
        match item {
            Ok(Chunk::Text(text)) => match self.text(text) {
                Ok(text) => Self::said(text).collect(),
                Err(repeats) => vec![Err(repeats)],
            },
            Ok(Chunk::Finished(finish)) => {
                let usage = self.whole(finish.usage);
                let end = Ok(Chunk::Finished(Finish { usage, ..finish }));
                Self::said(self.release()).chain([end]).collect()
            }
            item => Self::said(self.release()).chain([item]).collect(),
        }
    }

    fn said(text: String) -> impl Iterator<Item = Item> {
        (!text.is_empty()).then_some(Ok(Chunk::Text(text))).into_iter()
    }

    fn text(&mut self, text: String) -> Result<String, BackendError> {
        if self.repeated.is_empty() {
            return Ok(self.beyond_space(text));
        }
        self.held.push_str(&text);
        if self.held.starts_with(&self.repeated) {
            return Err(BackendError::Malformed);
        }
        if self.repeated.starts_with(&self.held) {
            return Ok(String::new());
        }
        Ok(self.release())
    }

    /// Lets go of what was held back; it is no repetition.
    fn release(&mut self) -> String {
        self.repeated.clear();
        let held = std::mem::take(&mut self.held);
        self.beyond_space(held)
    }

    /// Takes off what the caller has. A server that goes on otherwise, goes on otherwise.
    fn beyond_space(&mut self, mut text: String) -> String {
        if self.space.is_empty() || text.is_empty() {
            return text;
        }
        let pairs = text.char_indices().zip(self.space.chars());
        let same = pairs.take_while(|((_, new), known)| new == known);
        let end = same.last().map_or(0, |((at, c), _)| at + c.len_utf8());
        if end == text.len() {
            self.space.drain(..end);
        } else {
            self.space.clear();
        }
        text.split_off(end)
    }

    /// Counts the beginning as written, which the server has counted as read.
    fn whole(&self, usage: Usage) -> Usage {
        if usage == Usage::default() {
            return usage;
        }
        Usage {
            prompt_tokens: usage.prompt_tokens.saturating_sub(self.tokens),
            completion_tokens: usage.completion_tokens.saturating_add(self.tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "it is what a stream carries")]
    fn said(text: &str) -> Item {
        Ok(Chunk::Text(text.to_owned()))
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is what a stream carries")]
    fn ended(prompt_tokens: u32, completion_tokens: u32) -> Item {
        let usage = Usage { prompt_tokens, completion_tokens };
        Ok(Chunk::Finished(Finish { reason: "stop".to_owned(), usage }))
    }

    fn joined(begun: &str, rest: &[&str]) -> Vec<Item> {
        let seam = Seam::new(&Begun { text: begun.to_owned(), tokens: 3 });
        let rest: Vec<_> = rest.iter().map(|text| said(text)).chain([ended(10, 5)]).collect();
        let joined = seam.join(stream::iter(rest).boxed()).collect::<Vec<_>>();
        joined.now_or_never().expect("nothing waits")
    }

    fn texts(begun: &str, rest: &[&str]) -> Vec<String> {
        let mut items = joined(begun, rest);
        assert_eq!(items.pop(), Some(ended(7, 8)), "the beginning counts as written");
        let text = |item| match item {
            Ok(Chunk::Text(text)) => text,
            other => panic!("{other:?}"),
        };
        items.into_iter().map(text).collect()
    }

    #[test]
    fn white_space_at_the_seam_is_written_once() {
        assert_eq!(split("one, \n"), ("one,", " \n"));
        assert_eq!(texts("one, \n", &[" ", "\n", "two"]), ["two"]);
        assert_eq!(texts("one, \n", &[" \ntwo", " \n three"]), ["two", " \n three"]);
        assert_eq!(texts("one", &[" two"]), [" two"]);
    }

    #[test]
    fn server_that_goes_on_otherwise_loses_nothing() {
        assert_eq!(texts("one \n", &[" two", " \n"]), ["two", " \n"]);
        assert_eq!(texts("one ", &[".", " "]), [".", " "]);
        assert_eq!(texts("one\u{a0} ", &["\u{a0}", "é"]), ["é"]);
    }

    #[test]
    fn server_that_repeats_the_beginning_is_found_out() {
        let begun = "A node is a machine ";
        for rest in [&["A node is a machine that"][..], &["A node", " is a machine", " that"]] {
            assert_eq!(joined(begun, rest)[0], Err(BackendError::Malformed), "{rest:?}");
        }
        assert_eq!(texts(begun, &["A", " no", "de", "l"]), ["A nodel"]);
        assert_eq!(texts(begun, &[" A node", " is a machine "]), ["A node", " is a machine "]);
        assert_eq!(texts(begun, &["A node"]), ["A node"], "the end tells that it was none");
        assert_eq!(texts("ha", &["ha", "ha"]), ["ha", "ha"], "what is short comes again");
    }

    #[test]
    fn nobody_has_counted() {
        let mut seam = Seam::new(&Begun { text: "one".to_owned(), tokens: 3 });
        assert_eq!(seam.pass(ended(0, 0)), [ended(0, 0)]);
    }
}
