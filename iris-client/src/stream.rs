use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use futures::stream::{self, BoxStream};
use iris_protocol::openai::{ChatCompletionChunk, ErrorDetail, Usage};
use reqwest::Response;
use tokio::time::timeout;

use crate::client::MAX_ANSWER;
use crate::error::{ClientError, Cut, Partial, causes};
use crate::head::Head;
use crate::sse::SseParser;

/// An answer as it is written.
///
/// Yields its chunks and then ends, which means that the answer is complete. If it breaks off,
/// the last item is [`ClientError::Truncated`] with the text so far: half an answer never looks
/// like a whole one. Dropping the stream cancels the rest.
pub struct ChatStream {
    head: Head,
    chunks: BoxStream<'static, Result<ChatCompletionChunk, ClientError>>,
}

impl ChatStream {
    pub(crate) fn new(response: Response, head: Head, idle: Duration) -> Self {
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
        Self { head, chunks: Box::pin(chunks) }
    }

    /// Returns where the answer comes from.
    pub fn head(&self) -> &Head {
        &self.head
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
        let malformed = |error: serde_json::Error| {
            Cut::Malformed(format!("{:?} error at column {}", error.classify(), error.column()))
        };
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

const DONE: &str = "[DONE]";
