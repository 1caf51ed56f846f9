//! A model server that spends nothing on its answers.

use std::convert::Infallible;
use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::Failure;
use crate::request::{BUSY, INSTANT, PACED, WORD};

/// What a request asks for, as far as the mock cares.
#[derive(Debug, Deserialize)]
pub(crate) struct Asked {
    model: String,
    #[serde(default)]
    stream: bool,
    max_tokens: Option<u32>,
}

impl Asked {
    /// Returns how many words the answer has.
    pub(crate) fn words(&self) -> u32 {
        self.max_tokens.unwrap_or(1).min(100_000)
    }
}

/// How long the mock takes for what does not come at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Between two words of the model [`PACED`].
    pub(super) pace: Duration,
    /// Until the model [`BUSY`] answers.
    pub(super) service: Duration,
}

/// Serves on a free port, which it prints, until `stop` resolves.
pub(super) async fn serve(times: Times, stop: impl Future<Output = ()>) -> Result<(), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                tokio::spawn(connection(stream, times));
            }
            () = &mut stop => return Ok(()),
        }
    }
}

async fn connection(stream: TcpStream, times: Times) {
    let answer = service_fn(|request| answer(request, times));
    // A client that goes away ends its own measurement, not the mock's.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}

type Answer = Response<Either<Full<Bytes>, Words>>;

async fn answer(request: Request<Incoming>, times: Times) -> Result<Answer, hyper::Error> {
    let (head, body) = request.into_parts();
    match (head.method, head.uri.path()) {
        (Method::GET, "/v1/models") => Ok(whole(StatusCode::OK, models())),
        (Method::POST, "/v1/chat/completions") => {
            let body = body.collect().await?.to_bytes();
            Ok(match serde_json::from_slice::<Asked>(&body) {
                Ok(asked) if asked.stream => {
                    let pace = (asked.model == PACED).then_some(times.pace);
                    let words = Words::new(asked.words(), pace);
                    response(StatusCode::OK, "text/event-stream", Either::Right(words))
                }
                Ok(asked) => {
                    if asked.model == BUSY {
                        tokio::time::sleep(times.service).await;
                    }
                    whole(StatusCode::OK, completion(asked.words()))
                }
                Err(_) => whole(StatusCode::BAD_REQUEST, "{}".to_owned()),
            })
        }
        _ => Ok(whole(StatusCode::NOT_FOUND, "{}".to_owned())),
    }
}

fn whole(status: StatusCode, json: String) -> Answer {
    response(status, "application/json", Either::Left(Full::new(json.into())))
}

fn response(status: StatusCode, kind: &'static str, body: Either<Full<Bytes>, Words>) -> Answer {
    let response = Response::builder().status(status).header(CONTENT_TYPE, kind).body(body);
    response.expect("its parts are constants")
}

fn models() -> String {
    let model = |id| serde_json::json!({ "id": id, "object": "model" });
    let models = [INSTANT, PACED, BUSY].map(model);
    serde_json::json!({ "object": "list", "data": models }).to_string()
}

fn completion(words: u32) -> String {
    serde_json::json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_790_000_000, "model": INSTANT,
        "choices": [{
            "index": 0,
            "message": { "role": "assistant", "content": WORD.repeat(words as usize) },
            "finish_reason": "stop",
        }],
        "usage": { "prompt_tokens": 12, "completion_tokens": words, "total_tokens": 12 + words },
    })
    .to_string()
}

macro_rules! event {
    ($choices:literal, $usage:literal) => {
        Bytes::from_static(
            concat!(
                r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"#,
                r#""model":"instant","choices":["#,
                $choices,
                "]",
                $usage,
                "}\n\n"
            )
            .as_bytes(),
        )
    };
}

/// A streamed answer whose every event is written by itself, as model servers do it.
struct Words {
    next: Event,
    left: u32,
    pace: Option<Interval>,
    /// Whether the last event has had its write.
    written: bool,
}

#[derive(Clone, Copy)]
enum Event {
    Role,
    Word,
    Finish,
    Usage,
    Done,
    End,
}

impl Words {
    fn new(left: u32, pace: Option<Duration>) -> Self {
        let pace = pace.map(|pace| {
            let mut interval = interval(pace);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        Self { next: Event::Role, left, pace, written: true }
    }

    fn step(&mut self) -> Option<Bytes> {
        let (bytes, next) = match self.next {
            Event::Role => (
                event!(
                    r#"{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}"#,
                    ""
                ),
                Event::Word,
            ),
            Event::Word => {
                self.left = self.left.saturating_sub(1);
                let next = if self.left == 0 { Event::Finish } else { Event::Word };
                (
                    event!(r#"{"index":0,"delta":{"content":" word~"},"finish_reason":null}"#, ""),
                    next,
                )
            }
            Event::Finish => {
                (event!(r#"{"index":0,"delta":{},"finish_reason":"stop"}"#, ""), Event::Usage)
            }
            Event::Usage => (
                event!(
                    "",
                    r#","usage":{"prompt_tokens":12,"completion_tokens":9,"total_tokens":21}"#
                ),
                Event::Done,
            ),
            Event::Done => (Bytes::from_static(b"data: [DONE]\n\n"), Event::End),
            Event::End => return None,
        };
        self.next = next;
        Some(bytes)
    }
}

impl Body for Words {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.written {
            // The server writes what it has whenever a body has nothing more for the moment.
            self.written = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let (Event::Word, Some(pace)) = (self.next, &mut self.pace) {
            ready!(pace.poll_tick(cx));
        }
        self.written = false;
        Poll::Ready(self.step().map(|bytes| Ok(Frame::data(bytes))))
    }
}
