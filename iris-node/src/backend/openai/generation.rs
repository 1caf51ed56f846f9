//! One request to the server, and its answer as chunks.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use ::http::header::CONTENT_TYPE;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::poll_fn;
use futures::stream::{self, BoxStream, StreamExt};
use hyper::body::{Body, Incoming};
use iris_core::backend::{BackendError, Chunk, Finish, GenerateRequest, Operation, Usage};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tokio::time::{Instant, Sleep, sleep_until, timeout, timeout_at};

use super::begun::Seam;
use super::event::usage;
use super::failure;
use super::http::{Answer, next_bytes, read_body};
use super::object::{Members, ObjectWriter, Text, passed_on};
use super::reader::{EventReader, Step};
use super::request::prepare;
use super::server::{MAX_ANSWER, Server, read_refusal};
use super::sse::{EventTooLong, SseReader};

type Item = Result<Chunk, BackendError>;

/// Starts `request` at the first poll; its time runs from now on.
pub(super) fn generate(server: Arc<Server>, request: GenerateRequest) -> BoxStream<'static, Item> {
    let deadline = Instant::now().checked_add(request.time_left);
    let deadline = deadline.unwrap_or_else(|| Instant::now() + MAX_TIME);
    let start = {
        let server = Arc::clone(&server);
        async move {
            let answer = timeout_at(deadline, answer(&server, &request, deadline)).await;
            match answer.unwrap_or(Err(BackendError::Timeout)) {
                Ok(chunks) => chunks,
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        }
    };
    let redacted = move |item: Item| item.map_err(|error| server.redacted(error));
    stream::once(start).flatten().map(redacted).boxed()
}

const MAX_TIME: Duration = Duration::from_hours(24);

async fn answer(
    server: &Server,
    request: &GenerateRequest,
    deadline: Instant,
) -> Result<BoxStream<'static, Item>, BackendError> {
    let says_continue = match request.begun {
        Some(_) => server.says_continue().ok_or(BackendError::Unavailable)?,
        None => false,
    };
    let Some(body) = prepare(request, says_continue)? else {
        let written = request.begun.as_ref().map_or(0, |begun| begun.tokens);
        let usage = Usage { prompt_tokens: 0, completion_tokens: written };
        let finish = Finish { reason: "length".to_owned(), usage };
        return Ok(stream::iter([Ok(Chunk::Finished(finish))]).boxed());
    };
    let response = server.ask(request, body).await?;
    if response.status().as_u16() != 200 {
        return Err(read_refusal(response).await);
    }
    if !request.stream {
        let body = read_body(response, MAX_ANSWER).await?;
        let (whole, finish) = match request.operation {
            Operation::Chat | Operation::Completion => whole(&body)?,
            Operation::Embedding => vectors(&body)?,
        };
        let chunks = [Ok(Chunk::Whole(whole)), Ok(Chunk::Finished(finish))];
        return Ok(stream::iter(chunks).boxed());
    }
    if is_json(&response) {
        // The server did not stream; some report their errors so, with status 200.
        let body = read_body(response, MAX_ANSWER).await?;
        return Err(if failure::is_report(&body) {
            failure::of_event(&body)
        } else {
            BackendError::Malformed
        });
    }
    let mut reader = EventReader::new(request.operation);
    if request.begun.is_some() {
        reader.leave_out_server();
    }
    let streamed = Box::new(Streamed::new(response, reader, deadline));
    let chunks = stream::unfold(Some(streamed), |streamed| async move { streamed?.next().await });
    Ok(match &request.begun {
        Some(begun) => Seam::new(begun).join(chunks.boxed()),
        None => chunks.boxed(),
    })
}

fn is_json(response: &Answer) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/json"))
}

/// Takes the envelope off a whole answer and reads how it ended.
pub(super) fn whole(body: &[u8]) -> Result<(Bytes, Finish), BackendError> {
    let members = Members::parse(body).map_err(|_| BackendError::Malformed)?;
    if failure::is_report(body) {
        return Err(failure::of_event(body));
    }
    let choices = members.get("choices").ok_or(BackendError::Malformed)?;
    let choices: Vec<Members<'_>> =
        serde_json::from_str(choices.get()).map_err(|_| BackendError::Malformed)?;
    let first = choices.first().ok_or(BackendError::Malformed)?;
    let reason = first.get("finish_reason").map_or("null", RawValue::get);
    let reason: Option<Text<'_>> =
        serde_json::from_str(reason).map_err(|_| BackendError::Malformed)?;
    let reason = reason.map_or("stop".to_owned(), |Text(reason)| failure::bounded(&reason, 64));
    if reason == "error" {
        return Err(BackendError::Failed);
    }
    bare(&members, body.len(), reason)
}

/// Takes the envelope off an answer that holds vectors.
fn vectors(body: &[u8]) -> Result<(Bytes, Finish), BackendError> {
    let members = Members::parse(body).map_err(|_| BackendError::Malformed)?;
    if failure::is_report(body) {
        return Err(failure::of_event(body));
    }
    let data = members.get("data").ok_or(BackendError::Malformed)?;
    let data: Vec<IgnoredAny> =
        serde_json::from_str(data.get()).map_err(|_| BackendError::Malformed)?;
    if data.is_empty() {
        return Err(BackendError::Malformed);
    }
    bare(&members, body.len(), "stop".to_owned())
}

/// Returns an answer without its envelope, and how it ended.
fn bare(
    members: &Members<'_>,
    size: usize,
    reason: String,
) -> Result<(Bytes, Finish), BackendError> {
    let usage = members.get("usage").and_then(usage).unwrap_or_default();
    let mut json = ObjectWriter::with_capacity(size);
    for (name, value) in members.iter() {
        if !matches!(name, "id" | "object" | "created" | "model") {
            json.member(name, value.get().as_bytes());
        }
    }
    let json = passed_on(json.finish()).ok_or(BackendError::Malformed)?;
    Ok((json, Finish { reason, usage }))
}

/// An answer that is being streamed.
struct Streamed {
    body: Incoming,
    events: SseReader,
    reader: EventReader,
    deadline: Pin<Box<Sleep>>,
}

impl Streamed {
    fn new(response: Answer, reader: EventReader, deadline: Instant) -> Self {
        Self {
            body: response.into_body(),
            events: SseReader::default(),
            reader,
            deadline: Box::pin(sleep_until(deadline)),
        }
    }

    async fn next(mut self: Box<Self>) -> Option<(Item, Option<Box<Self>>)> {
        match self.chunk().await {
            Ok(chunk) => Some((Ok(chunk), Some(self))),
            Err(End::Done) => Some((self.finish(true, BackendError::Failed), (*self).release())),
            Err(End::Cut(error)) => Some((self.finish(false, error), None)),
            Err(End::Fault(error)) => Some((Err(error), None)),
        }
    }

    async fn chunk(&mut self) -> Result<Chunk, End> {
        loop {
            while let Some(data) = self.events.next_event()? {
                match self.reader.read(data)? {
                    Step::Chunk(chunk) => return Ok(chunk),
                    Step::Skip => {}
                    Step::Done => return Err(End::Done),
                }
            }
            let bytes = self.bytes().await?;
            self.events.push(&bytes);
        }
    }

    async fn bytes(&mut self) -> Result<Bytes, End> {
        poll_fn(|cx| {
            // First, because a server that never pauses must not outrun its time.
            if self.deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(End::Cut(BackendError::Timeout)));
            }
            while let Some(Ok(frame)) = ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                if let Ok(bytes) = frame.into_data() {
                    return Poll::Ready(Ok(bytes));
                }
            }
            Poll::Ready(Err(End::Cut(BackendError::Failed)))
        })
        .await
    }

    /// Ends with `error`, unless the answer is known to be complete.
    fn finish(&self, said_done: bool, error: BackendError) -> Item {
        self.reader.finish(said_done).map(Chunk::Finished).ok_or(error)
    }

    /// Lets the server end its answer, so that the connection can carry the next one.
    fn release(self) -> Option<Box<Self>> {
        let Self { mut body, .. } = self;
        if next_bytes(&mut body).now_or_never().is_none() {
            tokio::spawn(async move { timeout(RELEASE_TIME, next_bytes(&mut body)).await });
        }
        None
    }
}

/// Why a streamed answer goes no further.
enum End {
    /// The server said that this was all.
    Done,
    /// Nothing more comes, though the server did not say that this was all.
    Cut(BackendError),
    /// The server said that it failed, or something that is not an answer.
    Fault(BackendError),
}

impl From<BackendError> for End {
    fn from(error: BackendError) -> Self {
        Self::Fault(error)
    }
}

impl From<EventTooLong> for End {
    fn from(_: EventTooLong) -> Self {
        Self::Fault(BackendError::Malformed)
    }
}

/// How long a server may take from its last event to the end of the answer.
const RELEASE_TIME: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_answer_loses_its_envelope_and_its_lines() {
        let body = br#"{
            "id": "c", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [
                {"index": 0, "message": {"content": "a  b\n"}, "finish_reason": "length"}
            ],
            "usage": {"prompt_tokens":2,"completion_tokens":3}
        }"#;
        let (json, finish) = whole(body).unwrap();
        assert_eq!(
            json,
            &br#"{"choices":[{"index":0,"message":{"content":"a  b\n"},"finish_reason":"length"}],"usage":{"prompt_tokens":2,"completion_tokens":3}}"#[..]
        );
        assert_eq!((finish.reason.as_str(), finish.usage.prompt_tokens), ("length", 2));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for (body, expected) in [
            (r#"{"error":{"message":"x","code":429}}"#, BackendError::Busy),
            (r#"{"choices":[]}"#, BackendError::Malformed),
            (r#"{"choices":[{"finish_reason":"error"}]}"#, BackendError::Failed),
            ("[]", BackendError::Malformed),
            ("", BackendError::Malformed),
        ] {
            assert_eq!(whole(body.as_bytes()).unwrap_err(), expected, "{body}");
        }
    }
}
