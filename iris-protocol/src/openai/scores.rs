//! What a model server says about how likely tokens are: of a text that it was given to score, and
//! of its own answers.
//!
//! A text is scored by a chat whose last message is the text, by the assistant, with
//! `"add_generation_prompt": false, "continue_final_message": true, "max_tokens": 1,
//! "prompt_logprobs": 1`; the answer is not streamed. That is vLLM's form, and the built-in engine
//! of a node has it too. One alternative is asked for, no more: of two tokens, the one that stands
//! in the text is told by its rank, whatever order the server lists them in.

use std::borrow::Cow;
use std::fmt;

use iris_core::score::{LogProb, LogProbError, TokenScore};

use super::json::{JsonError, Kind, Reader};

/// Most tokens of a text, and of an answer.
const MAX_TOKENS: usize = 1 << 17;
/// Most places at which a token may begin whose bytes are not told.
const MAX_STARTS: usize = 1024;
/// What stands for bytes that are no text.
const REPLACED: &str = "\u{fffd}";

/// Why scores cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScoresError {
    /// It is not JSON, or has another form.
    #[error("the answer is not JSON of the expected form")]
    Malformed,
    /// There are no scores: the server does not know of them, or was not asked.
    #[error("the answer holds no scores; the server may not be able to give them")]
    Absent,
    /// There are more than 131,072 tokens.
    #[error("the answer scores too many tokens; ask about a shorter text")]
    TooLong,
    /// A number is no logarithm of a probability, or no rank.
    #[error("the answer says of a token what no model can find")]
    Impossible,
    /// A token's alternatives are not one, or do not hold the likeliest.
    #[error("the answer does not list the likeliest token alone; ask with 'prompt_logprobs': 1")]
    NotOneAlternative,
    /// The text that was scored does not end with the answer that it should end with.
    #[error("the text that was scored does not end with this answer")]
    OtherText,
}

impl From<JsonError> for ScoresError {
    fn from(_: JsonError) -> Self {
        Self::Malformed
    }
}

impl From<LogProbError> for ScoresError {
    fn from(_: LogProbError) -> Self {
        Self::Impossible
    }
}

/// The scores of a whole prompt, token by token; of the first there is none.
#[derive(Clone, PartialEq, Eq)]
pub struct PromptScores(Vec<(String, TokenScore)>);

impl PromptScores {
    /// Reads a whole answer to a chat that was asked with `"prompt_logprobs": 1`.
    pub fn read(answer: &[u8]) -> Result<Self, ScoresError> {
        let mut scores = None;
        read_object(answer, |reader, name| {
            if name != "prompt_logprobs" {
                return skip(reader);
            }
            if scores.is_some() {
                return Err(ScoresError::Malformed);
            }
            if reader.kind()? != Kind::Null {
                scores = Some(places(reader)?);
                return Ok(());
            }
            skip(reader)
        })?;
        scores.map(Self).ok_or(ScoresError::Absent)
    }

    /// Returns the scores of all tokens but the first.
    pub fn all(&self) -> impl ExactSizeIterator<Item = TokenScore> {
        self.0.iter().map(|(_, score)| *score)
    }

    /// Returns the scores of the tokens that `answer` is made of, with which the text ends.
    ///
    /// A token that begins before the answer belongs to the prompt. Chat templates cut white space
    /// off, so the text may also end with the answer without the space around it.
    pub fn of_answer(&self, answer: &str) -> Result<Vec<TokenScore>, ScoresError> {
        let forms = [answer, answer.trim_end(), answer.trim()];
        let count = forms.into_iter().find_map(|form| self.spelling(form));
        let count = count.ok_or(ScoresError::OtherText)?;
        Ok(self.0[self.0.len() - count..].iter().map(|(_, score)| *score).collect())
    }

    /// Counts the last tokens that lie within `answer`; `None` when they spell something else.
    ///
    /// Where a part of a character could be one or two bytes, the longest way through is the right
    /// one: prompts end with words of a template, not with parts of characters.
    fn spelling(&self, answer: &str) -> Option<usize> {
        // Where what is spelt so far may begin.
        let mut starts = vec![answer.len()];
        let mut whole = None;
        for (count, (token, _)) in self.0.iter().rev().enumerate() {
            if starts.contains(&0) {
                whole = Some(count);
            }
            let before = starts_before(answer, &starts, token);
            if before.is_empty() {
                let spans =
                    |start: &usize| token.as_bytes().ends_with(&answer.as_bytes()[..*start]);
                return whole.or_else(|| starts.iter().any(spans).then_some(count));
            }
            starts = before;
        }
        starts.contains(&0).then_some(self.0.len()).or(whole)
    }
}

impl fmt::Debug for PromptScores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text never reaches logs.
        write!(f, "PromptScores({} tokens)", self.0.len())
    }
}

/// Returns where `token` may begin so that one of `starts` is its end.
fn starts_before(answer: &str, starts: &[usize], token: &str) -> Vec<usize> {
    let found: Vec<usize> = starts.iter().flat_map(|end| beginnings(answer, *end, token)).collect();
    let mut found = if found.is_empty() {
        // Some tokenizers write a word without the space before it.
        let spaced = starts.iter().filter(|start| answer.as_bytes()[..**start].ends_with(b" "));
        spaced.flat_map(|start| beginnings(answer, start - 1, token)).collect()
    } else {
        found
    };
    found.sort_unstable();
    found.dedup();
    if found.len() > MAX_STARTS { Vec::new() } else { found }
}

/// Returns where `token` may begin that ends at `end`.
fn beginnings(answer: &str, end: usize, token: &str) -> Vec<usize> {
    let mut places = vec![end];
    for (at, part) in token.rsplit(REPLACED).enumerate() {
        if at > 0 {
            places = places.iter().flat_map(|place| parts_of_character(answer, *place)).collect();
            places.sort_unstable();
            places.dedup();
        }
        let fits = |place: &usize| answer.as_bytes()[..*place].ends_with(part.as_bytes());
        places.retain(fits);
        for place in &mut places {
            *place -= part.len();
        }
    }
    places
}

/// Returns where the bytes may begin that end at `end` and are a part of one character, for which
/// one replacement stands. A whole character needs none, unless it is the replacement itself.
fn parts_of_character(answer: &str, end: usize) -> impl Iterator<Item = usize> {
    let begins = (1..=3)
        .find(|length| end.checked_sub(*length).is_some_and(|at| answer.is_char_boundary(at)));
    let starts = (1..=begins.unwrap_or(3)).filter_map(move |length| end.checked_sub(length));
    starts.filter(move |start| match answer.get(*start..end) {
        Some(whole) => whole == REPLACED,
        None => true,
    })
}

/// A token of an answer, as the server lists it that wrote it.
#[derive(Clone, PartialEq, Eq)]
pub struct AnswerToken {
    /// Its bytes, which may end inside of a character.
    pub bytes: Vec<u8>,
    /// How likely the server found it.
    pub logprob: LogProb,
}

impl fmt::Debug for AnswerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AnswerToken({} bytes, {})", self.bytes.len(), self.logprob)
    }
}

/// Reads the tokens of the first choice of a chat's answer, a whole one or a streamed step, that
/// was asked with `"logprobs": true`.
///
/// Some servers list the token that ends the answer as well, though its text does not show.
pub fn read_logprobs(answer: &[u8]) -> Result<Vec<AnswerToken>, ScoresError> {
    let mut tokens = None;
    read_object(answer, |reader, name| {
        if name != "choices" {
            return skip(reader);
        }
        let mut first = true;
        reader.array(|reader| {
            if !std::mem::take(&mut first) {
                return skip(reader);
            }
            only_member(reader, "logprobs", |reader| {
                only_member(reader, "content", |reader| {
                    tokens = Some(answer_tokens(reader)?);
                    Ok(())
                })
            })
        })
    })?;
    tokens.ok_or(ScoresError::Absent)
}

fn answer_tokens(reader: &mut Reader<'_>) -> Result<Vec<AnswerToken>, ScoresError> {
    let mut tokens = Vec::new();
    reader.array(|reader| {
        if tokens.len() == MAX_TOKENS {
            return Err(ScoresError::TooLong);
        }
        let (mut text, mut bytes, mut logprob) = (None, None, None);
        reader.object(|reader, name| {
            match name.as_ref() {
                "token" => text = Some(reader.string()?),
                "logprob" => logprob = Some(read_logprob(reader)?),
                "bytes" if reader.kind()? == Kind::Array => bytes = Some(read_bytes(reader)?),
                _ => skip(reader)?,
            }
            Ok::<_, ScoresError>(())
        })?;
        let text = || text.map(|text| text.into_owned().into_bytes());
        let bytes = bytes.or_else(text).ok_or(ScoresError::Malformed)?;
        tokens.push(AnswerToken { bytes, logprob: logprob.ok_or(ScoresError::Malformed)? });
        Ok(())
    })?;
    Ok(tokens)
}

fn read_bytes(reader: &mut Reader<'_>) -> Result<Vec<u8>, ScoresError> {
    let mut bytes = Vec::new();
    reader.array(|reader| {
        bytes.push(reader.number()?.parse().map_err(|_| ScoresError::Malformed)?);
        Ok::<_, ScoresError>(())
    })?;
    Ok(bytes)
}

/// Reads the places of a prompt's tokens.
fn places(reader: &mut Reader<'_>) -> Result<Vec<(String, TokenScore)>, ScoresError> {
    let mut scores = Vec::new();
    let mut first = true;
    reader.array(|reader| {
        if std::mem::take(&mut first) {
            // It follows on nothing, so nothing is said of it.
            return if reader.kind()? == Kind::Null {
                skip(reader)
            } else {
                Err(ScoresError::Malformed)
            };
        }
        if scores.len() == MAX_TOKENS {
            return Err(ScoresError::TooLong);
        }
        scores.push(place(reader)?);
        Ok(())
    })?;
    if first { Err(ScoresError::Malformed) } else { Ok(scores) }
}

/// A token that is listed at one place.
struct Listed<'a> {
    text: Cow<'a, str>,
    logprob: LogProb,
    rank: u32,
}

/// Reads which token stands at a place and which would be likeliest there.
fn place(reader: &mut Reader<'_>) -> Result<(String, TokenScore), ScoresError> {
    let mut tokens = Vec::with_capacity(2);
    reader.object(|reader, _| {
        if tokens.len() == 2 {
            return Err(ScoresError::NotOneAlternative);
        }
        tokens.push(listed(reader)?);
        Ok(())
    })?;
    tokens.sort_by_key(|token| token.rank);
    let best = tokens.first().filter(|best| best.rank == 1);
    let best_logprob = best.ok_or(ScoresError::NotOneAlternative)?.logprob;
    let second = tokens.get(1).map(|token| (token.rank, token.logprob));
    if second.is_some_and(|(rank, logprob)| rank == 1 || logprob > best_logprob) {
        return Err(ScoresError::Impossible);
    }
    let Listed { text, logprob, rank } = tokens.pop().ok_or(ScoresError::NotOneAlternative)?;
    Ok((text.into_owned(), TokenScore { logprob, rank, best_logprob }))
}

fn listed<'a>(reader: &mut Reader<'a>) -> Result<Listed<'a>, ScoresError> {
    let (mut text, mut logprob, mut rank) = (Cow::Borrowed(""), None, None);
    reader.object(|reader, name| {
        match name.as_ref() {
            "logprob" => logprob = Some(read_logprob(reader)?),
            "rank" => rank = Some(read_rank(reader)?),
            "decoded_token" if reader.kind()? == Kind::String => text = reader.string()?,
            _ => skip(reader)?,
        }
        Ok::<_, ScoresError>(())
    })?;
    let logprob = logprob.ok_or(ScoresError::Malformed)?;
    Ok(Listed { text, logprob, rank: rank.ok_or(ScoresError::Malformed)? })
}

fn read_logprob(reader: &mut Reader<'_>) -> Result<LogProb, ScoresError> {
    let nats = reader.number()?.parse().map_err(|_| ScoresError::Malformed)?;
    Ok(LogProb::from_nats(nats)?)
}

fn read_rank(reader: &mut Reader<'_>) -> Result<u32, ScoresError> {
    let rank = reader.number()?.parse().ok();
    rank.filter(|rank| *rank > 0).ok_or(ScoresError::Impossible)
}

/// Reads the members of an answer, which must be one object.
fn read_object<'a>(
    answer: &'a [u8],
    member: impl FnMut(&mut Reader<'a>, &Cow<'a, str>) -> Result<(), ScoresError>,
) -> Result<(), ScoresError> {
    let text = std::str::from_utf8(answer).map_err(|_| ScoresError::Malformed)?;
    let mut reader = Reader::new(text);
    reader.object(member)?;
    Ok(reader.end()?)
}

/// Reads one member of an object, which may also be null or without it.
fn only_member<'a>(
    reader: &mut Reader<'a>,
    wanted: &str,
    mut read: impl FnMut(&mut Reader<'a>) -> Result<(), ScoresError>,
) -> Result<(), ScoresError> {
    if reader.kind()? == Kind::Null {
        return skip(reader);
    }
    reader.object(|reader, name| {
        if name == wanted && reader.kind()? != Kind::Null { read(reader) } else { skip(reader) }
    })
}

fn skip(reader: &mut Reader<'_>) -> Result<(), ScoresError> {
    Ok(reader.skip().map(drop)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Writes an answer that scores these tokens, each `(text, logprob, rank)`, after a first one.
    fn scored(tokens: &[(&str, f64, u32)]) -> String {
        let place = |(text, logprob, rank): &(&str, f64, u32)| {
            let mut place = json!({"7": {"logprob": logprob, "rank": rank, "decoded_token": text}});
            if *rank > 1 {
                place["8"] = json!({"logprob": -0.25, "rank": 1, "decoded_token": "other"});
            }
            place
        };
        let places = [Value::Null].into_iter().chain(tokens.iter().map(place));
        json!({"choices": [{}], "prompt_logprobs": places.collect::<Vec<_>>()}).to_string()
    }

    fn read(answer: &str) -> Result<PromptScores, ScoresError> {
        PromptScores::read(answer.as_bytes())
    }

    /// Returns how many of the tokens make up `answer`.
    fn count(tokens: &[&str], answer: &str) -> Result<usize, ScoresError> {
        let tokens: Vec<_> = tokens.iter().map(|token| (*token, -0.5, 1)).collect();
        read(&scored(&tokens)).unwrap().of_answer(answer).map(|scores| scores.len())
    }

    #[test]
    fn tokens_of_a_text_are_read_with_the_likeliest_beside_them() {
        // As vLLM 0.11 writes it, where the token itself comes first, and in the other order.
        for (one, other) in [("\"9\"", "\"15\""), ("\"15\"", "\"9\"")] {
            let (mut places, name) = (Vec::new(), |id: &str| {
                if id == "\"9\"" {
                    r#"{"logprob":-3.25,"rank":4,"decoded_token":" a"}"#
                } else {
                    r#"{"logprob":-0.125,"rank":1,"decoded_token":" b"}"#
                }
            });
            places.push(format!("{{{one}:{},{other}:{}}}", name(one), name(other)));
            places.push(format!("{{\"15\":{}}}", name("\"15\"")));
            let answer = format!(r#"{{"id":"x","prompt_logprobs":[null,{}]}}"#, places.join(","));
            let scores: Vec<_> = read(&answer).unwrap().all().collect();
            let found =
                scores.iter().map(|s| (s.logprob.micros(), s.rank, s.best_logprob.micros()));
            let expected = [(-3_250_000, 4, -125_000), (-125_000, 1, -125_000)];
            assert_eq!(found.collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn what_no_model_finds_is_refused() {
        let with = |place: &str| read(&format!(r#"{{"prompt_logprobs":[null,{place}]}}"#)).err();
        let token = |logprob: &str, rank: &str| {
            format!(r#"{{"logprob":{logprob},"rank":{rank},"decoded_token":"a"}}"#)
        };
        let one = |logprob: &str, rank: &str| with(&format!(r#"{{"1":{}}}"#, token(logprob, rank)));
        assert_eq!(one("-1", "1"), None);
        assert_eq!(one("-1e999", "1"), None);
        for (logprob, rank) in
            [("0.1", "1"), ("1e999", "1"), ("-1", "0"), ("-1", "-1"), ("-1", "4294967296")]
        {
            assert_eq!(one(logprob, rank), Some(ScoresError::Impossible), "{logprob} {rank}");
        }
        for (logprob, rank) in [("NaN", "1"), ("-Infinity", "1"), ("null", "1"), ("\"-1\"", "1")] {
            assert_eq!(one(logprob, rank), Some(ScoresError::Malformed), "{logprob} {rank}");
        }
        let two = |a: &str, b: &str| with(&format!(r#"{{"1":{a},"2":{b}}}"#));
        assert_eq!(two(&token("-1", "1"), &token("-2", "9")), None);
        assert_eq!(two(&token("-2", "1"), &token("-1", "9")), Some(ScoresError::Impossible));
        assert_eq!(two(&token("-1", "1"), &token("-1", "1")), Some(ScoresError::Impossible));
    }

    #[test]
    fn answers_to_another_question_say_what_was_to_be_asked() {
        let of = |body: &str| read(body).err();
        for absent in ["{}", r#"{"prompt_logprobs":null}"#, r#"{"choices":[]}"#] {
            assert_eq!(of(absent), Some(ScoresError::Absent), "{absent}");
        }
        for malformed in [
            "",
            "[]",
            r#"{"prompt_logprobs":[]}"#,
            r#"{"prompt_logprobs":[{}]}"#,
            r#"{"prompt_logprobs":[null,null]}"#,
            r#"{"prompt_logprobs":[null],"prompt_logprobs":[null]}"#,
            r#"{"prompt_logprobs":[null]} x"#,
        ] {
            assert_eq!(of(malformed), Some(ScoresError::Malformed), "{malformed}");
        }
        let token = |rank: u32| format!(r#""{rank}":{{"logprob":-1,"rank":{rank}}}"#);
        let with = |tokens: &[u32]| {
            let tokens: Vec<_> = tokens.iter().map(|rank| token(*rank)).collect();
            of(&format!(r#"{{"prompt_logprobs":[null,{{{}}}]}}"#, tokens.join(",")))
        };
        for other in [&[][..], &[2], &[2, 3], &[1, 2, 3]] {
            assert_eq!(with(other), Some(ScoresError::NotOneAlternative), "{other:?}");
        }
    }

    #[test]
    fn texts_beyond_the_bound_are_too_long() {
        let token = r#"{"1":{"logprob":-1,"rank":1}}"#;
        let long = |tokens: usize| {
            read(&format!(r#"{{"prompt_logprobs":[null,{}]}}"#, vec![token; tokens].join(",")))
        };
        assert_eq!(long(MAX_TOKENS).unwrap().all().len(), MAX_TOKENS);
        assert_eq!(long(MAX_TOKENS + 1), Err(ScoresError::TooLong));
    }

    #[test]
    fn answer_is_told_from_the_prompt_before_it() {
        let tokens = ["<|assistant|>", "\n", "A", " node", " is", "."];
        assert_eq!(count(&tokens, "A node is."), Ok(4));
        assert_eq!(count(&tokens, "ode is."), Ok(2), "the token before spans the border");
        assert_eq!(count(&tokens, "."), Ok(1));
        assert_eq!(count(&tokens, ""), Ok(0));
        assert_eq!(count(&["a", "a", "a"], "aa"), Ok(2));
        for other in ["A mode is.", "A node is", "x\n<|assistant|>\nA node is."] {
            assert_eq!(count(&tokens, other), Err(ScoresError::OtherText), "{other}");
        }
    }

    #[test]
    fn space_that_a_template_or_a_tokenizer_left_out_does_no_harm() {
        assert_eq!(count(&["\n", "A", " node"], "A node \n"), Ok(2));
        assert_eq!(count(&["\n", "A", " node"], "  A node\n"), Ok(2));
        assert_eq!(count(&["Assistant", ":", "A", "node", "is"], "A node is"), Ok(3));
    }

    #[test]
    fn characters_that_are_several_tokens_are_told_in_each_servers_way() {
        for parts in [
            &["\u{fffd}", "\u{fffd}"][..],
            &["\u{fffd}", "\u{fffd}", "\u{fffd}", "\u{fffd}"],
            &["\u{fffd}\u{fffd}", "\u{fffd}"],
            &["", "", "😀"],
        ] {
            let tokens = [&["\n", "a"][..], parts, &["b"]].concat();
            assert_eq!(count(&tokens, "a😀b"), Ok(parts.len() + 2), "{parts:?}");
        }
        let cut = ["\n", "ñ\u{fffd}", "\u{fffd}!"];
        assert_eq!(count(&cut, "ñ€!"), Ok(2));
        assert_eq!(count(&cut, "ñe!"), Err(ScoresError::OtherText));
        let many = vec!["\u{fffd}"; 6000];
        assert_eq!(count(&[&["\n"][..], &many].concat(), &"é".repeat(3000)), Ok(6000));
    }

    #[test]
    fn tokens_of_an_answer_are_read_with_their_bytes() {
        let answer = br#"{"choices":[{"index":0,"message":{"content":"a"},"logprobs":{"content":[
            {"token":"a","logprob":-0.5,"bytes":[97],"top_logprobs":[]},
            {"token":"\ufffd","logprob":-9999.0,"bytes":[195]},
            {"token":"b","logprob":0,"bytes":null}],"refusal":null}},{"logprobs":null}]}"#;
        let tokens = read_logprobs(answer).unwrap();
        let found: Vec<_> = tokens.iter().map(|t| (&t.bytes[..], t.logprob.micros())).collect();
        assert_eq!(found, [(&b"a"[..], -500_000), (&[195], -9_999_000_000), (b"b", 0)]);
        for absent in [r#"{"choices":[]}"#, r#"{"choices":[{"logprobs":null}]}"#, "{}"] {
            assert_eq!(read_logprobs(absent.as_bytes()), Err(ScoresError::Absent), "{absent}");
        }
        let with = |token: &str| {
            let body = format!(r#"{{"choices":[{{"logprobs":{{"content":[{token}]}}}}]}}"#);
            read_logprobs(body.as_bytes())
        };
        assert_eq!(with(""), Ok(Vec::new()));
        assert_eq!(with(r#"{"token":"a","logprob":0.1}"#), Err(ScoresError::Impossible));
        for malformed in ["{}", "1", r#"{"logprob":-1}"#, r#"{"logprob":-1,"bytes":[256]}"#] {
            assert_eq!(with(malformed), Err(ScoresError::Malformed), "{malformed}");
        }
    }

    proptest! {
        #[test]
        fn any_cut_into_tokens_is_found_again(
            prompt in "[a-zé€😀 \n]{0,12}",
            answer in "[a-zé€😀 ]{1,24}",
            cuts in prop::collection::vec(1usize..6, 1..40),
            whole in any::<bool>(),
        ) {
            let mut tokens = vec![(format!("{prompt}<|assistant|>"), -0.5, 1)];
            let mut rest = answer.as_bytes();
            for cut in cuts.iter().cycle() {
                let mut cut = *cut.min(&rest.len());
                while whole && !answer.is_char_boundary(answer.len() - rest.len() + cut) {
                    cut += 1;
                }
                let (token, after) = rest.split_at(cut);
                tokens.push((String::from_utf8_lossy(token).into_owned(), -0.5, 1));
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            let listed: Vec<_> = tokens.iter().map(|(text, l, r)| (&text[..], *l, *r)).collect();
            let scores = read(&scored(&listed)).unwrap();
            prop_assert_eq!(scores.of_answer(&answer).map(|s| s.len()), Ok(tokens.len() - 1));
        }
    }
}
