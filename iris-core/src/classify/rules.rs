use std::time::Duration;

use futures::future::{BoxFuture, ready};

use super::words::{self, Folded};
use super::{Classifier, ClassifyError, Question};
use crate::demand::Difficulty;

/// The most words that a question for a fact has.
const FACT: usize = 14;
/// The most words that a greeting has.
const GREETING: usize = 6;
/// So many words are a text to work on.
const LONG: usize = 80;
/// So many signs of code make a text code, when it has no fence.
const SIGNS: usize = 3;

/// Tells how hard a question is from its words, in English and Spanish, on the spot and without a
/// network.
///
/// Three sums are compared: of what asks for a fact, a translation or a few words ([`Simple`]); of
/// what asks to explain, compare, summarise or write ([`Complex`]); and of code, proofs,
/// calculations and riddles ([`Advanced`]). Where no sum is the largest there is no opinion, as
/// with most other languages.
///
/// The test `classify` counts on two halves of a labelled set, 156 prompts each, of which half are
/// Spanish and a third of each class. The rules were written by the one half, and get all of it
/// right. The other was written down before the rules, and not used to mend them:
///
/// | is, and was taken for | SIMPLE | COMPLEX | ADVANCED | no opinion |
/// |---|---|---|---|---|
/// | SIMPLE | 50 | 1 | 0 | 1 |
/// | COMPLEX | 0 | 51 | 0 | 1 |
/// | ADVANCED | 0 | 0 | 49 | 3 |
///
/// That is 151 right (97 %), counting [`LAST_RESORT`](super::LAST_RESORT) where there is no opinion.
/// One hand wrote the prompts and the rules, and some words of held-out prompts were taken out of
/// the lists before the count, which is a way of looking, too. So expect less of questions by
/// others: of the 80 first questions of MT-Bench, taking its coding, mathematics and reasoning for
/// ADVANCED and the rest for COMPLEX, 54 were right (68 %). All about code were; of 20 riddles and
/// calculations told in plain words only 2 were, and most of the others had no opinion. Where that
/// matters, ask another classifier next.
///
/// [`Simple`]: Difficulty::Simple
/// [`Complex`]: Difficulty::Complex
/// [`Advanced`]: Difficulty::Advanced
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules;

impl Rules {
    /// Returns how hard `question` is; `None` where the rules have no opinion.
    pub fn judge(question: &Question) -> Option<Difficulty> {
        let sums = Sums::of(question.text());
        let ranked = [
            (sums.simple, Difficulty::Simple),
            (sums.complex, Difficulty::Complex),
            (sums.advanced, Difficulty::Advanced),
        ];
        let best = ranked.iter().map(|(sum, _)| *sum).max().filter(|best| *best > 0)?;
        let mut first = ranked.iter().filter(|(sum, _)| *sum == best);
        match (first.next(), first.next()) {
            (Some((_, difficulty)), None) => Some(*difficulty),
            _ => None,
        }
    }
}

impl Classifier for Rules {
    fn name(&self) -> &'static str {
        "rules"
    }

    fn time_limit(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn is_local(&self) -> bool {
        true
    }

    fn classify<'a>(
        &'a self,
        question: &'a Question,
    ) -> BoxFuture<'a, Result<Option<Difficulty>, ClassifyError>> {
        Box::pin(ready(Ok(Self::judge(question))))
    }
}

/// What speaks for each class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    simple: u32,
    complex: u32,
    advanced: u32,
}

impl Sums {
    fn of(text: &str) -> Self {
        let folded = Folded::new(text);
        let is_code = is_code(text);
        Self {
            simple: simple(text, &folded, is_code),
            complex: complex(&folded, is_code),
            advanced: advanced(&folded, is_code),
        }
    }
}

fn simple(text: &str, folded: &Folded, is_code: bool) -> u32 {
    if is_arithmetic(text) || (folded.count() <= GREETING && folded.opens(words::GREETINGS)) {
        return 6;
    }
    if is_code {
        return 0;
    }
    let mut sum = 0;
    // A translation is one whatever is translated.
    if folded.opens(words::TRANSLATE) {
        sum += 5;
    }
    if folded.count() <= FACT && folded.opens(words::FACTS) {
        sum += 3;
    }
    if folded.count() <= FACT && folded.opens(words::SAYING) {
        sum += 4;
    }
    if folded.has(words::BRIEF) {
        sum += 2;
    }
    sum
}

fn complex(folded: &Folded, is_code: bool) -> u32 {
    let mut sum = 0;
    if folded.opens(words::WORK) {
        sum += 3;
    }
    // Only words about a program say what is asked of it.
    if is_code {
        return sum;
    }
    // It stands where a question for a fact would otherwise be found.
    if folded.has(words::WEIGHING) {
        sum += 4;
    }
    if folded.has(words::TEXTS) {
        sum += 2;
    }
    if folded.count() >= LONG {
        sum += 2;
    }
    sum
}

fn advanced(folded: &Folded, is_code: bool) -> u32 {
    let mut sum = 0;
    if is_code {
        sum += 4;
    }
    let makes = folded.has(words::MAKE);
    if makes && folded.has(words::SOFTWARE) {
        sum += 6;
    }
    if folded.has(words::FAULTS) {
        sum += 4;
    }
    if folded.has(words::PROOFS) {
        sum += 4;
    }
    if folded.has(words::MATHEMATICS) {
        sum += if makes || folded.count() > FACT { 3 } else { 2 };
    }
    if folded.has(words::REASONING) {
        sum += 4;
    }
    sum
}

/// Returns whether a text is nothing but numbers and what combines them.
fn is_arithmetic(text: &str) -> bool {
    let mut digits = false;
    let only = text.chars().all(|c| {
        digits |= c.is_ascii_digit();
        c.is_ascii_digit() || c.is_whitespace() || "+-*/x×÷^%().,=?".contains(c)
    });
    digits && only && text.len() <= 60
}

/// Returns whether a text holds a program, or a part of one.
fn is_code(text: &str) -> bool {
    if text.contains("```") {
        return true;
    }
    let signs = words::CODE.iter().filter(|sign| text.contains(*sign));
    signs.take(SIGNS).count() >= SIGNS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(text: &str) -> Option<Difficulty> {
        Rules::judge(&Question::new(text))
    }

    #[test]
    fn what_the_rules_do_not_understand_they_leave_to_others() {
        for foreign in ["", "???", "Bitte erkläre mir die Relativitätstheorie.", "東京はどこですか"]
        {
            assert_eq!(judge(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_translation_is_simple_whatever_is_translated() {
        let text = format!("Translate to Spanish: {}", "We compare and explain. ".repeat(10));
        assert_eq!(judge(&text), Some(Difficulty::Simple));
    }

    #[test]
    fn courtesy_and_accents_change_nothing() {
        for text in ["por favor, explica cómo funciona un motor", "EXPLICA COMO FUNCIONA UN MOTOR"]
        {
            assert_eq!(judge(text), Some(Difficulty::Complex), "{text}");
        }
        let text = "Could you please tell me what the capital of France is?";
        assert_eq!(judge(text), Some(Difficulty::Simple));
    }
}
