//! The body of a streamed answer: the coordinator's envelope around what was opened here.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, stream};
use iris_core::backend::{Chunk, Operation};
use iris_protocol::openai::{ErrorBody, EventWriter, Heading, write_error, write_keep_alive};
use tokio::time::timeout;

use super::error::{self, ProxyError};
use crate::client::Client;
use crate::error::{ClientError, Cut};
use crate::head::Head;
use crate::policy::Privacy;
use crate::sealed::{Content, Question, SealedAnswer};

/// After how much silence a stream is kept alive.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The wait for an answer's beginning.
pub(super) struct Opening(BoxFuture<'static, Result<Opened, ClientError>>);

/// An answer that has begun.
pub(super) struct Opened {
    answer: SealedAnswer,
    writer: EventWriter,
}

impl Opening {
    pub(super) fn new(
        client: Client,
        operation: Operation,
        question: Question,
        created: u64,
    ) -> Self {
        let opening = async move {
            let answer = client.ask_sealed(&question).await?;
            let model = question.asked.model.as_str();
            let heading = Heading { operation, task: answer.task, created, model };
            let writer = EventWriter::new(heading, question.asked.include_usage);
            Ok(Opened { answer, writer })
        };
        Self(opening.boxed())
    }
}

impl Future for Opening {
    type Output = Result<Opened, ClientError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(cx)
    }
}

impl Opened {
    pub(super) const fn head(&self) -> &Head {
        &self.answer.head
    }

    pub(super) const fn privacy(&self) -> Privacy {
        self.answer.privacy
    }
}

/// The events of one streamed answer.
pub(super) enum Events {
    Waiting(Opening),
    /// Nothing is written yet.
    Begun(Box<Opened>),
    Going(Box<Opened>),
    Over,
}

impl Events {
    pub(super) fn begun(opened: Opened) -> Self {
        Self::Begun(Box::new(opened))
    }

    pub(super) const fn waiting(opening: Opening) -> Self {
        Self::Waiting(opening)
    }

    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
        stream::unfold(self, |events| async move {
            let mut out = BytesMut::new();
            let events = events.step(&mut out).await;
            (!out.is_empty()).then(|| (Ok(out.freeze()), events))
        })
    }

    /// Writes what comes next; nothing once all is written.
    async fn step(self, out: &mut BytesMut) -> Self {
        match self {
            Self::Waiting(mut opening) => match timeout(KEEP_ALIVE, &mut opening).await {
                Ok(Ok(opened)) => {
                    opened.writer.begin(out);
                    // A completion begins with its first text.
                    if out.is_empty() {
                        write_keep_alive(out);
                    }
                    Self::Going(Box::new(opened))
                }
                Ok(Err(error)) => fail(&ProxyError::from(error).into_body(), out),
                Err(_) => {
                    write_keep_alive(out);
                    Self::Waiting(opening)
                }
            },
            Self::Begun(opened) => {
                opened.writer.begin(out);
                opened.step(out).await
            }
            Self::Going(opened) => opened.step(out).await,
            Self::Over => Self::Over,
        }
    }
}

impl Opened {
    async fn step(mut self: Box<Self>, out: &mut BytesMut) -> Events {
        let content = match timeout(KEEP_ALIVE, self.answer.next()).await {
            Err(_) => {
                write_keep_alive(out);
                return Events::Going(self);
            }
            Ok(Ok(content)) => content,
            Ok(Err(cut)) => return fail(&error::cut(cut), out),
        };
        let chunk = match content {
            Some(Content::Text(text)) => Chunk::Text(text),
            Some(Content::Json(json)) => Chunk::Json(json),
            Some(Content::Whole(json)) => Chunk::Whole(json),
            Some(Content::Finished(finish)) => {
                self.writer.finish(&finish, out);
                return Events::Over;
            }
            None => return Events::Over,
        };
        match self.writer.chunk(&chunk, out) {
            Ok(()) => Events::Going(self),
            Err(_) => fail(&error::cut(Cut::Malformed(String::new())), out),
        }
    }
}

fn fail(error: &ErrorBody, out: &mut BytesMut) -> Events {
    write_error(error, out);
    Events::Over
}
