//! What is asked, and one connection to ask it on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use iris_crypto::VerifiedCertificate;
use iris_crypto::seal::MEDIA_TYPE;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Failure;
use crate::seal::SealedAnswer;

/// The model that answers as fast as it can.
pub(crate) const INSTANT: &str = "instant";
/// The model that says one word in a set time.
pub(crate) const PACED: &str = "paced";
/// The model that takes a set time for an answer.
pub(crate) const BUSY: &str = "busy";
/// One token. Nothing else in an answer holds its last byte.
pub(crate) const WORD: &str = " word~";
const MARK: u8 = b'~';

const OPEN: &str = "/v1/chat/completions";
const SEALED: &str = "/sealed";

/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Where requests go.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// The caller's key, where one is needed.
    pub(crate) key: Option<HeaderValue>,
    /// The node that requests are sealed to, where they are.
    pub(crate) sealed_to: Option<Arc<VerifiedCertificate>>,
}

impl Target {
    /// Makes a target that takes requests of anybody, as they are.
    pub(crate) const fn open(address: SocketAddr) -> Self {
        Self { address, key: None, sealed_to: None }
    }
}

/// What every request of a load asks.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) model: &'static str,
    pub(crate) body: Bytes,
    pub(crate) stream: bool,
    /// Words that a complete answer has.
    words: u32,
}

impl Question {
    /// Makes a question of about 400 bytes that `model` answers with `words` words.
    pub(crate) fn new(model: &'static str, words: u32, stream: bool) -> Self {
        let prompt = "Tell me about the weather in the capital of France. ".repeat(5);
        let body = serde_json::json!({
            "model": model,
            "messages": [{ "role": "user", "content": prompt }],
            "max_tokens": words,
            "stream": stream,
        });
        Self { model, body: body.to_string().into(), stream, words }
    }
}

/// What came of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply {
    Answer(Answer),
    /// All nodes are busy; the caller may come back after so long.
    Busy(Duration),
}

/// The times of a complete answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    /// From the request to the end of the answer.
    pub(crate) whole: Duration,
    /// From the request to the first word.
    pub(crate) first: Duration,
}

/// One connection that is kept open.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
    key: Option<HeaderValue>,
    sealed_to: Option<Arc<VerifiedCertificate>>,
}

impl Connection {
    pub(crate) async fn open(target: &Target) -> Result<Self, Failure> {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // How a connection ended shows in the request that was on it.
        tokio::spawn(async move { drop(connection.await) });
        let host = HeaderValue::try_from(target.address.to_string())?;
        let Target { key, sealed_to, .. } = target.clone();
        Ok(Self { sender, host, key, sealed_to })
    }

    /// Asks and reads the answer to its end; calls `arrived` with the number of words in each
    /// piece of it, when it comes.
    pub(crate) async fn ask(
        &mut self,
        question: &Question,
        arrived: impl FnMut(Instant, u32),
    ) -> Result<Reply, Failure> {
        timeout(ANSWER_LIMIT, self.exchange(question, arrived)).await?
    }

    async fn exchange(
        &mut self,
        question: &Question,
        mut arrived: impl FnMut(Instant, u32),
    ) -> Result<Reply, Failure> {
        self.sender.ready().await?;
        let asked = Instant::now();
        let (request, mut answer) = match &self.sealed_to {
            Some(node) => {
                let (body, answer) = SealedAnswer::ask(node, question)?;
                (self.request(SEALED, MEDIA_TYPE, body), Some(answer))
            }
            None => (self.request(OPEN, "application/json", question.body.clone()), None),
        };
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        if status == StatusCode::TOO_MANY_REQUESTS {
            return busy(response).await;
        }
        if status != StatusCode::OK {
            return Err(refusal(status, response.into_body()).await);
        }
        let (mut first, mut words, mut body) = (None, 0, response.into_body());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            let now = Instant::now();
            let more = match &mut answer {
                Some(answer) => answer.words(&data)?,
                None => words_in(&data),
            };
            if more > 0 {
                first.get_or_insert(now);
                words += more;
                arrived(now, more);
            }
        }
        if let Some(answer) = answer {
            answer.close()?;
        }
        match first {
            Some(first) if words == question.words => {
                let whole = asked.elapsed();
                Ok(Reply::Answer(Answer { whole, first: first.duration_since(asked) }))
            }
            _ => Err(format!("an answer had {words} words of {}", question.words).into()),
        }
    }

    /// Returns what the coordinator at the other end has at `path`.
    pub(crate) async fn get(&mut self, path: &'static str) -> Result<String, Failure> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = Uri::from_static(path);
        request.headers_mut().insert(HOST, self.host.clone());
        if let Some(key) = &self.key {
            request.headers_mut().insert(AUTHORIZATION, key.clone());
        }
        let response = self.sender.send_request(request).await?;
        Ok(String::from_utf8(response.into_body().collect().await?.to_bytes().into())?)
    }

    fn request(&self, path: &'static str, kind: &'static str, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(path);
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Some(key) = &self.key {
            headers.insert(AUTHORIZATION, key.clone());
        }
        request
    }
}

/// Returns how many words end in `data`.
pub(crate) fn words_in(data: &[u8]) -> u32 {
    data.iter().map(|byte| u32::from(*byte == MARK)).sum()
}

/// Reads a refusal to its end, so that the connection can be used again.
async fn busy(response: Response<Incoming>) -> Result<Reply, Failure> {
    let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let after = after.and_then(|text| text.parse().ok()).ok_or("a 429 has no Retry-After")?;
    response.into_body().collect().await?;
    Ok(Reply::Busy(Duration::from_secs(after)))
}

async fn refusal(status: StatusCode, body: Incoming) -> Failure {
    let text = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    format!("{status}: {}", String::from_utf8_lossy(&text)).into()
}
