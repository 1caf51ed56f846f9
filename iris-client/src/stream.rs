use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use futures::Stream;
use futures::stream::{self, BoxStream, StreamExt};
use iris_core::backend::{Chunk, Finish, Operation};
use iris_protocol::openai::{
    Asked, ChatCompletionChunk, ChunkChoice, Delta, ErrorDetail, EventWriter, Heading, Usage,
};
use reqwest::Response;
use tokio::time::timeout;

use crate::client::MAX_ANSWER;
use crate::error::{ClientError, Cut, Partial, causes};
use crate::head::Head;
use crate::policy::Privacy;
use crate::sealed::{Content, PendingReceipt, SealedAnswer};
use crate::sse::SseParser;

/// An answer as it is written.
///
/// Yields its chunks and then ends, which means that the answer is complete. If it breaks off,
/// the last item is [`ClientError::Truncated`] with the text so far: half an answer never looks
/// like a whole one. Dropping the stream cancels the rest.
pub struct ChatStream {
    head: Head,
    privacy: Privacy,
    receipt: PendingReceipt,
    chunks: BoxStream<'static, Result<ChatCompletionChunk, ClientError>>,
}

impl ChatStream {
    pub(crate) fn open(response: Response, head: Head, idle: Duration) -> Self {
        let reader = Reader {
            response,
            idle,
            head: head.clone(),
            parser: SseParser::new(),
            text: String::new(),
            received: 0,
        };
        let chunks = stream::unfold(Some(reader), |reader| async move {
            let mut reader = reader?;
            match reader.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(reader))),
                Ok(None) => None,
                Err(cause) => Some((Err(reader.broken(cause)), None)),
            }
        });
        let (privacy, receipt) = (Privacy::Open, PendingReceipt::none());
        Self { head, privacy, receipt, chunks: Box::pin(chunks) }
    }

    pub(crate) fn sealed(answer: SealedAnswer, asked: Asked, created: u64) -> Self {
        let (head, privacy, receipt) = (answer.head.clone(), answer.privacy, answer.receipt());
        let reader = SealedReader { answer, asked, created, text: String::new() };
        let chunks = stream::unfold(Some(reader), |reader| async move {
            let mut reader = reader?;
            match reader.next().await {
                Ok(chunks) if chunks.is_empty() => None,
                Ok(chunks) => Some((chunks.into_iter().map(Ok).collect(), Some(reader))),
                Err(cause) => Some((VecDeque::from([Err(reader.broken(cause))]), None)),
            }
        });
        Self { head, privacy, receipt, chunks: Box::pin(chunks.flat_map(stream::iter)) }
    }

    /// Returns where the answer comes from.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Returns who can read the request and the answer.
    pub const fn privacy(&self) -> Privacy {
        self.privacy
    }

    /// Returns what the node signs for a sealed answer. It comes a little after the answer's end,
    /// even when the stream is dropped then; before the end there is none.
    pub const fn receipt(&self) -> &PendingReceipt {
        &self.receipt
    }

    /// Reads the whole answer and returns the first choice's text, with the tokens used where
    /// the coordinator tells.
    pub async fn collect_text(mut self) -> Result<(String, Option<Usage>), ClientError> {
        use futures::TryStreamExt as _;
        let (mut text, mut usage) = (String::new(), None);
        while let Some(chunk) = self.try_next().await? {
            text.push_str(chunk.text());
            usage = chunk.usage.or(usage);
        }
        Ok((text, usage))
    }
}

impl Stream for ChatStream {
    type Item = Result<ChatCompletionChunk, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.chunks.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for ChatStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatStream").field("head", &self.head).finish_non_exhaustive()
    }
}

struct Reader {
    response: Response,
    idle: Duration,
    head: Head,
    parser: SseParser,
    text: String,
    received: usize,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<ChatCompletionChunk>, Cut> {
        loop {
            if let Some(event) = self.parser.pop() {
                return self.read(&event);
            }
            let piece = timeout(self.idle, self.response.chunk())
                .await
                .map_err(|_| Cut::Silent(self.idle))?
                .map_err(|error| Cut::Connection(causes(&error)))?;
            let Some(piece) = piece else {
                // Some servers end right after the mark, without the empty line it needs.
                let rest = std::mem::take(&mut self.parser).finish();
                return if rest.as_deref() == Some(DONE) { Ok(None) } else { Err(Cut::Ended) };
            };
            self.received += piece.len();
            if self.received > MAX_ANSWER {
                return Err(Cut::TooLarge);
            }
            self.parser.push(&piece).map_err(|_| Cut::TooLarge)?;
        }
    }

    fn read(&mut self, event: &str) -> Result<Option<ChatCompletionChunk>, Cut> {
        if event == DONE {
            return Ok(None);
        }
        let mut chunk: ChatCompletionChunk = serde_json::from_str(event).map_err(malformed)?;
        if let Some(error) = chunk.extra.remove("error").filter(|error| !error.is_null()) {
            let detail: ErrorDetail = serde_json::from_value(error).map_err(malformed)?;
            return Err(Cut::Reported(detail));
        }
        self.text.push_str(chunk.text());
        Ok(Some(chunk))
    }

    fn broken(self, cause: Cut) -> ClientError {
        ClientError::Truncated(Box::new(Partial { text: self.text, cause, head: self.head }))
    }
}

/// Makes chunks of what a sealed answer goes on with.
struct SealedReader {
    answer: SealedAnswer,
    asked: Asked,
    created: u64,
    text: String,
}

impl SealedReader {
    /// Returns the next chunks; none once the answer is complete.
    async fn next(&mut self) -> Result<VecDeque<ChatCompletionChunk>, Cut> {
        let Some(content) = self.answer.next().await? else { return Ok(VecDeque::new()) };
        let chunk = match content {
            Content::Text(text) => {
                self.text.push_str(&text);
                let delta = Delta { content: Some(text), ..Delta::default() };
                self.chunk(vec![ChunkChoice { delta, ..ChunkChoice::default() }])
            }
            Content::Json(json) => self.step(json)?,
            Content::Finished(finish) => return Ok(self.end(&finish)),
            Content::Whole(_) => return Err(Cut::Malformed("a whole answer".to_owned())),
        };
        Ok(VecDeque::from([chunk]))
    }

    /// Reads another step than a text, holding it to what a node may send.
    fn step(&mut self, json: bytes::Bytes) -> Result<ChatCompletionChunk, Cut> {
        let heading = Heading {
            operation: Operation::Chat,
            task: self.answer.task,
            created: self.created,
            model: self.asked.model.as_str(),
        };
        let mut event = BytesMut::new();
        EventWriter::new(heading, false)
            .chunk(&Chunk::Json(json), &mut event)
            .map_err(|error| Cut::Malformed(error.to_string()))?;
        let data = event.strip_prefix(b"data: ").unwrap_or_default();
        let chunk: ChatCompletionChunk = serde_json::from_slice(data).map_err(malformed)?;
        self.text.push_str(chunk.text());
        Ok(chunk)
    }

    fn end(&self, finish: &Finish) -> VecDeque<ChatCompletionChunk> {
        let finish_reason = Some(finish.reason.clone());
        let last = ChunkChoice { finish_reason, ..ChunkChoice::default() };
        let mut chunks = VecDeque::from([self.chunk(vec![last])]);
        if self.asked.include_usage {
            let usage = Some(finish.usage.into());
            chunks.push_back(ChatCompletionChunk { usage, ..self.chunk(Vec::new()) });
        }
        chunks
    }

    fn chunk(&self, choices: Vec<ChunkChoice>) -> ChatCompletionChunk {
        let id = format!("chatcmpl-{}", self.answer.task);
        ChatCompletionChunk::new(id, self.created, self.asked.model.as_str(), choices)
    }

    fn broken(self, cause: Cut) -> ClientError {
        let head = self.answer.head;
        ClientError::Truncated(Box::new(Partial { text: self.text, cause, head }))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` passes")]
fn malformed(error: serde_json::Error) -> Cut {
    Cut::Malformed(format!("{:?} error at column {}", error.classify(), error.column()))
}

const DONE: &str = "[DONE]";
