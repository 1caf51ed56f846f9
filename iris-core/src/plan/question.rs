/// The longest question, in bytes; what is longer is text that a question is about.
const LONGEST: usize = 1000;

/// A question, and the text that it is about where both are in one prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question<'a> {
    prompt: &'a str,
    start: usize,
    /// What is asked.
    pub(super) asked: &'a str,
    /// The text, with the place in the prompt where it begins; `None` if there is no text.
    pub(super) text: Option<(usize, &'a str)>,
}

impl<'a> Question<'a> {
    /// Takes the first paragraph for the question, else the last one, else the first sentence,
    /// whichever is short and leaves the longer part to be the text.
    pub(super) fn of(prompt: &'a str) -> Self {
        let whole = Self { prompt, start: 0, asked: prompt, text: None };
        let found = Self::first(prompt, "\n\n", 0)
            .or_else(|| Self::last(prompt))
            .or_else(|| Self::first(prompt, "\n", 0))
            .or_else(|| {
                let borders = [". ", "? ", "! ", ": "].into_iter();
                let found = borders.filter_map(|border| Self::first(prompt, border, 1));
                found.min_by_key(|question| question.asked.len())
            });
        found.unwrap_or(whole)
    }

    /// Returns what stands before and after the question.
    pub(super) fn around(&self) -> (&'a str, &'a str) {
        (&self.prompt[..self.start], &self.prompt[self.start + self.asked.len()..])
    }

    fn first(prompt: &'a str, border: &str, kept: usize) -> Option<Self> {
        let start = prompt.len() - prompt.trim_start().len();
        let end = start + prompt[start..].find(border)? + kept;
        let after = &prompt[end..];
        let at = end + (after.len() - after.trim_start().len());
        let text = Some((at, prompt[at..].trim_end()));
        Self { prompt, start, asked: &prompt[start..end], text }.fits()
    }

    fn last(prompt: &'a str) -> Option<Self> {
        let (text, asked) = prompt.trim_end().rsplit_once("\n\n")?;
        let start = text.len() + 2 + (asked.len() - asked.trim_start().len());
        let at = text.len() - text.trim_start().len();
        let text = Some((at, text.trim()));
        Self { prompt, start, asked: asked.trim_start(), text }.fits()
    }

    fn fits(self) -> Option<Self> {
        let text = self.text?.1;
        let is_short = (1..=LONGEST).contains(&self.asked.len()) && self.asked.len() < text.len();
        is_short.then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn question_is_the_short_end_of_a_long_prompt() {
        let text = "Anna had a dog. ".repeat(100);
        let text = text.trim();
        for prompt in [
            format!("Who is Anna?\n\n{text}"),
            format!("\n\nWho is Anna?  {text}"),
            format!("{text}\n\nWho is Anna?\n"),
            format!("Who is Anna?\n{text}"),
            format!(" Who is Anna? {text}"),
        ] {
            let question = Question::of(&prompt);
            let (at, found) = question.text.unwrap();
            assert_eq!((question.asked, found), ("Who is Anna?", text));
            assert!(prompt[at..].starts_with(text));
        }
        assert_eq!(Question::of(&"x".repeat(9000)).text, None);
        assert_eq!(Question::of("Who?").text, None);
    }

    proptest! {
        #[test]
        fn question_and_what_surrounds_it_are_the_prompt(prompt in "[aé.?: \\n]{0,40}") {
            let question = Question::of(&prompt);
            let (before, after) = question.around();
            prop_assert_eq!(format!("{}{}{}", before, question.asked, after), prompt);
        }
    }
}
