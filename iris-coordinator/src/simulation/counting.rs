use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use iris_core::ModelName;
use iris_core::backend::{Backend, BackendError, Chunk, Finish, GenerateRequest, Usage};
use iris_core::model::{Abilities, ModelOffer};
use serde::Deserialize;
use serde_json::json;
use tokio::time::sleep;

use super::dice::Dice;

/// A backend that counts, so that whoever asked knows the whole answer beforehand.
///
/// Asked by [`question`](Self::question) it answers [`answer`](Self::answer), a word at a time.
/// Where the conversation ends with the beginning of that answer, it goes on from there. It
/// refuses whatever else it is asked, so a beginning that was changed on its way is noticed.
#[derive(Clone, Debug)]
pub struct Counting {
    model: ModelName,
    first: RangeInclusive<Duration>,
    pace: RangeInclusive<Duration>,
    fail_once_in: u64,
    dice: Arc<Mutex<Dice>>,
}

/// How one answer is given.
struct Count {
    words: std::vec::IntoIter<String>,
    pauses: Dice,
    next: Duration,
    pace: RangeInclusive<Duration>,
    usage: Usage,
    /// Words until the backend fails.
    fails_after: Option<u64>,
    ended: bool,
}

impl Counting {
    /// Makes a backend that offers `model`; `seed` decides how long each word takes.
    pub fn new(model: ModelName, seed: u64) -> Self {
        let millis = Duration::from_millis;
        Self {
            model,
            first: millis(10)..=millis(200),
            pace: millis(5)..=millis(50),
            fail_once_in: 0,
            dice: Arc::new(Mutex::new(Dice::new(seed))),
        }
    }

    /// Sets how long the first word takes, and how long each further one. Default: 10 to 200 ms
    /// and 5 to 50 ms.
    pub fn with_pace(
        mut self,
        first: RangeInclusive<Duration>,
        each: RangeInclusive<Duration>,
    ) -> Self {
        (self.first, self.pace) = (first, each);
        self
    }

    /// Fails in the midst of one answer in `times`. Default: 0, never.
    pub const fn with_fail_once_in(mut self, times: u64) -> Self {
        self.fail_once_in = times;
        self
    }

    /// Returns what to ask for `words` words that nobody else's answer has; `name` is one word.
    pub fn question(name: &str, words: u32) -> String {
        format!("count {words} {name}")
    }

    /// Returns the answer to [`question`](Self::question).
    pub fn answer(name: &str, words: u32) -> String {
        (1..=words).map(|number| word(name, number)).collect()
    }

    fn start(&self, request: &GenerateRequest) -> Result<Count, BackendError> {
        if request.model != self.model {
            return Err(BackendError::ModelNotFound);
        }
        let begun = request.begun.as_ref().map_or("", |begun| &begun.text);
        let (words, all) = asked(&request.body, begun).ok_or_else(|| BackendError::Rejected {
            status: 400,
            code: Some("not_a_count".to_owned()),
            param: None,
            message: "this backend counts, and goes on counting".to_owned(),
        })?;
        let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
        let fails = dice.once_in(self.fail_once_in);
        let fails_after = dice.below(words.len() as u64 + 1);
        Ok(Count {
            next: dice.time(&self.first),
            pauses: dice.fork(),
            pace: self.pace.clone(),
            usage: Usage { prompt_tokens: 1, completion_tokens: all },
            fails_after: fails.then_some(fails_after),
            words: words.into_iter(),
            ended: false,
        })
    }
}

impl Backend for Counting {
    fn models(&self) -> BoxFuture<'_, Result<Vec<ModelOffer>, BackendError>> {
        let mut offer = ModelOffer::new(self.model.clone(), 8192);
        offer.abilities = Abilities::CONTINUE;
        async move { Ok(vec![offer]) }.boxed()
    }

    fn generate(
        &self,
        request: GenerateRequest,
    ) -> BoxStream<'static, Result<Chunk, BackendError>> {
        let backend = self.clone();
        let started = async move {
            match backend.start(&request) {
                Ok(count) if request.stream => stream::unfold(count, Count::next).boxed(),
                Ok(count) => stream::iter(count.whole().await).boxed(),
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        };
        stream::once(started).flatten().fuse().boxed()
    }
}

impl Count {
    async fn next(mut self) -> Option<(Result<Chunk, BackendError>, Self)> {
        if self.ended {
            return None;
        }
        sleep(self.next).await;
        self.next = self.pauses.time(&self.pace);
        let item = self.step();
        self.ended = !matches!(item, Ok(Chunk::Text(_)));
        Some((item, self))
    }

    fn step(&mut self) -> Result<Chunk, BackendError> {
        match &mut self.fails_after {
            Some(0) => return Err(BackendError::Failed),
            Some(left) => *left -= 1,
            None => {}
        }
        let finish = Finish { reason: "stop".to_owned(), usage: self.usage };
        Ok(self.words.next().map_or(Chunk::Finished(finish), Chunk::Text))
    }

    async fn whole(self) -> Vec<Result<Chunk, BackendError>> {
        let (mut text, mut count) = (String::new(), self);
        while let Some((item, rest)) = count.next().await {
            count = rest;
            match item {
                Ok(Chunk::Text(word)) => text.push_str(&word),
                Ok(finished) => {
                    let message = json!({ "role": "assistant", "content": text });
                    let choice = json!({ "index": 0, "message": message, "finish_reason": "stop" });
                    let whole = json!({ "choices": [choice], "usage": count.usage }).to_string();
                    return vec![Ok(Chunk::Whole(whole.into())), Ok(finished)];
                }
                Err(error) => return vec![Err(error)],
            }
        }
        Vec::new()
    }
}

fn word(name: &str, number: u32) -> String {
    format!("{name}.{number} ")
}

#[derive(Deserialize)]
struct Conversation {
    messages: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

/// Returns the words that a conversation asks for beyond what is `begun`, and how many it asks
/// for in all.
fn asked(body: &Bytes, begun: &str) -> Option<(Vec<String>, u32)> {
    let Conversation { messages } = serde_json::from_slice(body).ok()?;
    let question = messages.iter().rfind(|message| message.role == "user")?;
    let mut question = question.content.split(' ');
    let (Some("count"), Some(count), Some(name), None) =
        (question.next(), question.next(), question.next(), question.next())
    else {
        return None;
    };
    let count = count.parse().ok()?;
    let words: Vec<_> = (1..=count).map(|number| word(name, number)).collect();
    let rest = words.concat().strip_prefix(begun)?.to_owned();
    Some((rest.split_inclusive(' ').map(str::to_owned).collect(), count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_goes_on_where_it_was_broken_off() {
        let message = json!({ "role": "user", "content": Counting::question("a", 3) });
        let body = Bytes::from(json!({ "messages": [message] }).to_string());
        let rest = |begun| asked(&body, begun).map(|(words, _)| words);
        assert_eq!(Counting::answer("a", 3), "a.1 a.2 a.3 ");
        assert_eq!(rest("").unwrap(), ["a.1 ", "a.2 ", "a.3 "]);
        assert_eq!(rest("a.1 a.").unwrap(), ["2 ", "a.3 "]);
        assert_eq!(rest("a.1 a.2 a.3 ").unwrap(), [""; 0]);
        assert_eq!(rest("a.1 a.3 "), None, "this is not how the answer begins");
    }
}
