use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iris_core::NodeId;
use iris_core::backend::Operation;
use iris_core::plan::Plan;
use iris_crypto::seal::MEDIA_TYPE;
use iris_protocol::openai::{
    ChatCompletion, ChatRequest, Message, Model, ModelList, StreamOptions, count_values,
};
use iris_protocol::rest::{self, Secret};
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};

use crate::accounts::Accounts;
use crate::answer::Answer;
use crate::builder::{BuildError, ClientBuilder, authorization};
use crate::chat::Ask;
use crate::error::ClientError;
use crate::head::Head;
use crate::invitations::Invitations;
use crate::keys::Keys;
use crate::log::Log;
use crate::network::Network;
use crate::payouts::Payouts;
use crate::plan::PlanCall;
use crate::policy::Policy;
use crate::retry;
use crate::sealed::{Question, Sealed};
use crate::session::{Keeper, Kept, Sessions};
use crate::stream::ChatStream;
use crate::tasks::Tasks;
use crate::trust::{Trust, TrustError};
use crate::verdicts::Verdicts;

/// The longest answer that is read, in bytes.
pub(crate) const MAX_ANSWER: usize = 64 << 20;
/// Most values of an answer; the log probabilities of a long one are a million.
pub(crate) const MAX_VALUES: usize = 1 << 21;
/// How much of a refusal is read, in bytes.
const MAX_REFUSAL: usize = 64 << 10;

/// Asks one coordinator. Cloning is cheap and shares the connections.
///
/// Chats are sealed to the node that answers unless another [`Policy`] is asked for; everything
/// else here is read by the coordinator, which is what it is for.
///
/// Dropping a call cancels it; the coordinator then frees the node within a second.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    authorization: Option<HeaderValue>,
    policy: Policy,
}

pub(crate) struct Inner {
    pub(crate) http: reqwest::Client,
    pub(crate) base: Url,
    pub(crate) keys_are_safe: bool,
    pub(crate) timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) sealed: Sealed,
    pub(crate) keeper: Keeper,
}

impl Client {
    /// Begins a client of the coordinator at `base_url`, such as `https://iris.example`. The
    /// forms with `/v1` and `ws://.../nodes/connect` are understood too.
    pub fn builder(base_url: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(base_url.into())
    }

    pub(crate) fn new(inner: Inner, authorization: Option<HeaderValue>, policy: Policy) -> Self {
        Self { inner: Arc::new(inner), authorization, policy }
    }

    /// Returns this client with another policy; connections and trust are shared.
    pub fn with_policy(&self, policy: Policy) -> Self {
        Self { policy, ..self.clone() }
    }

    /// Returns this client with another key; connections and trust are shared.
    pub fn with_api_key(&self, key: &Secret) -> Result<Self, BuildError> {
        if !self.inner.keys_are_safe {
            return Err(BuildError::PlainHttp);
        }
        Ok(Self { authorization: Some(authorization(key)?), ..self.clone() })
    }

    /// Returns this client without its key, so that its session is used; connections and trust are
    /// shared.
    pub fn without_api_key(&self) -> Self {
        Self { authorization: None, ..self.clone() }
    }

    /// Returns who may read what is asked.
    pub const fn policy(&self) -> Policy {
        self.policy
    }

    /// Returns the coordinator's address.
    pub fn base_url(&self) -> &str {
        self.inner.base.as_str()
    }

    /// Begins one question to `model`.
    pub fn ask(&self, model: impl Into<String>, prompt: impl Into<String>) -> Ask {
        let request = ChatRequest::new(model, vec![Message::user(prompt.into())]);
        Ask::new(self.clone(), request)
    }

    /// Begins a plan, which divides work over several requests.
    pub fn plan(&self, plan: Plan) -> PlanCall {
        PlanCall::new(self.clone(), plan)
    }

    /// Sends a conversation and waits for the whole answer.
    pub async fn chat(&self, mut request: ChatRequest) -> Result<Answer, ClientError> {
        request.stream = None;
        request.stream_options = None;
        if self.policy == Policy::Open {
            let call = Call::post("v1/chat/completions", &request);
            let (completion, headers) = self.call::<ChatCompletion>(call).await?;
            return Ok(Answer::open(completion, Head::read(&headers)));
        }
        let question = self.named(question(&request)?).await?;
        let created = crate::sealed::now().as_secs();
        let answer = self.whole_sealed(&question, created).await?;
        Answer::sealed(answer)
    }

    /// Sends a conversation and yields the answer as it is written.
    ///
    /// Fails here when the request is refused. The tokens used come in the last chunk, unless
    /// `stream_options` says otherwise.
    pub async fn chat_stream(&self, mut request: ChatRequest) -> Result<ChatStream, ClientError> {
        request.stream = Some(true);
        request.stream_options.get_or_insert_with(|| StreamOptions {
            include_usage: Some(true),
            ..StreamOptions::default()
        });
        if self.policy != Policy::Open {
            let question = self.named(question(&request)?).await?;
            let created = crate::sealed::now().as_secs();
            let answer = self.ask_sealed(&question).await?;
            return Ok(ChatStream::sealed(answer, question.asked, created));
        }
        let response = self.event_stream(Call::post("v1/chat/completions", &request)).await?;
        let head = Head::read(response.headers());
        Ok(ChatStream::open(response, head, self.inner.idle_timeout))
    }

    /// Lists the models that can be asked.
    pub async fn models(&self) -> Result<Vec<Model>, ClientError> {
        Ok(self.call::<ModelList>(Call::get("v1/models")).await?.0.data)
    }

    /// Lists the models that can be asked sealed: those that the roster has, too.
    pub async fn sealed_models(&self) -> Result<Vec<Model>, ClientError> {
        let mut models = self.models().await?;
        let listing = self.roster_now().await?;
        models.retain(|model| listing.offers(&model.id));
        Ok(models)
    }

    /// Asks whether the coordinator is at work.
    pub async fn health(&self) -> Result<rest::Health, ClientError> {
        Ok(self.call(Call::get("healthz").once()).await?.0)
    }

    /// Returns the operations on tasks, which survive a crash of the coordinator.
    pub fn tasks(&self) -> Tasks<'_> {
        Tasks::new(self)
    }

    /// Returns what is remembered of the coordinator, its nodes and one's own.
    pub fn trust(&self) -> Result<Trust, TrustError> {
        self.inner.sealed.trust.with(|trust| Ok(trust.clone()))
    }

    /// Returns the file of what is trusted; `None` where that is in memory alone.
    pub fn trust_file(&self) -> Option<&std::path::Path> {
        self.inner.sealed.trust.file()
    }

    /// Takes `node` for one's own from now on; returns whether that is new.
    pub fn pin(&self, node: NodeId) -> Result<bool, TrustError> {
        self.inner.sealed.trust.with(|trust| Ok(trust.pin(node)))
    }

    /// Takes `node` for one's own no more; returns whether it was.
    pub fn unpin(&self, node: &NodeId) -> Result<bool, TrustError> {
        self.inner.sealed.trust.with(|trust| Ok(trust.unpin(node)))
    }

    /// Forgets the coordinator, its log, its nodes and the guards; one's own nodes are kept where
    /// they can be read.
    pub fn forget(&self) -> Result<(), TrustError> {
        self.inner.sealed.trust.reset()
    }

    /// Returns the operations on the coordinator's public log.
    pub fn log(&self) -> Log<'_> {
        Log::new(self)
    }

    /// Returns the operations on accounts.
    pub fn accounts(&self) -> Accounts<'_> {
        Accounts::new(self)
    }

    /// Returns the operations on this client's session, which stands for an API key.
    pub fn session(&self) -> Sessions<'_> {
        Sessions::new(self)
    }

    /// Returns the file of the session; `None` where it is kept in memory alone.
    pub fn session_file(&self) -> Option<&std::path::Path> {
        self.inner.keeper.file()
    }

    /// Returns the operations on the account's API keys.
    pub fn keys(&self) -> Keys<'_> {
        Keys::new(self)
    }

    /// Returns the operations on the account's invitations.
    pub fn invitations(&self) -> Invitations<'_> {
        Invitations::new(self)
    }

    /// Returns what can be known of the network: its nodes, their reputation, one's own history.
    pub fn network(&self) -> Network<'_> {
        Network::new(self)
    }

    /// Returns what the account was paid for the work of its nodes.
    pub fn payouts(&self) -> Payouts<'_> {
        Payouts::new(self)
    }

    /// Returns what was found against the account's nodes.
    pub fn verdicts(&self) -> Verdicts<'_> {
        Verdicts::new(self)
    }

    pub(crate) fn settings(&self) -> &Inner {
        &self.inner
    }

    /// Returns whether a key is sent with every request.
    pub const fn has_api_key(&self) -> bool {
        self.authorization.is_some()
    }

    pub(crate) fn keeper(&self) -> &Keeper {
        &self.inner.keeper
    }

    pub(crate) fn sealed(&self) -> &Sealed {
        &self.inner.sealed
    }

    /// Carries out a call whose answer is JSON, again where that is safe and sensible.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        call: Call,
    ) -> Result<(T, HeaderMap), ClientError> {
        let (body, headers) = self.bytes(call).await?;
        Ok((parse(&body, &headers)?, headers))
    }

    /// Carries out a call, again where that is safe and sensible.
    pub(crate) async fn bytes(&self, call: Call) -> Result<(Vec<u8>, HeaderMap), ClientError> {
        let deadline = Instant::now() + self.inner.timeout;
        let mut attempt = 0;
        loop {
            let error = match self.within(deadline, self.exchange(&call)).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let delay = retry::delay(&error, attempt).filter(|_| call.repeatable);
            match delay {
                Some(delay) if delay < deadline.saturating_duration_since(Instant::now()) => {
                    sleep(delay).await;
                }
                _ => return Err(error),
            }
            attempt += 1;
        }
    }

    /// Carries out a call that is answered by a stream of events, once.
    pub(crate) async fn event_stream(&self, call: Call) -> Result<Response, ClientError> {
        let deadline = Instant::now() + self.inner.timeout;
        let response = self.within(deadline, self.send(&call)).await?;
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        if kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
            return Ok(response);
        }
        let reason = "a stream was asked for, and another form came".to_owned();
        let request_id = Head::read(response.headers()).request_id;
        Err(ClientError::Malformed { reason, request_id })
    }

    async fn exchange(&self, call: &Call) -> Result<(Vec<u8>, HeaderMap), ClientError> {
        let mut response = self.send(call).await?;
        let body = self.read(&mut response, MAX_ANSWER).await?;
        if body.len() > MAX_ANSWER || count_values(&body) > MAX_VALUES {
            let reason = "it is too long".to_owned();
            let request_id = Head::read(response.headers()).request_id;
            return Err(ClientError::Malformed { reason, request_id });
        }
        Ok((body, std::mem::take(response.headers_mut())))
    }

    /// Sends a call and returns the answer's beginning, or the refusal.
    async fn send(&self, call: &Call) -> Result<Response, ClientError> {
        let mut response = self.request(call).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let body = self.read_refusal(&mut response).await;
        Err(ClientError::refused(response.status(), response.headers(), &body))
    }

    /// Sends a call and returns the answer's beginning, whatever it is. A session that is refused is
    /// renewed, and the call sent again: nothing was done for it.
    pub(crate) async fn request(&self, call: &Call) -> Result<Response, ClientError> {
        let session = match (call.shows, &self.authorization) {
            (Shows::Nothing, _) | (_, Some(_)) => None,
            (Shows::Credentials | Shows::CredentialsOnce, None) => self.fresh_session().await?,
        };
        let response = self.transmit(call, session.as_deref()).await?;
        match session {
            Some(stale)
                if response.status() == StatusCode::UNAUTHORIZED
                    && call.shows == Shows::Credentials =>
            {
                let renewed = self.renew(stale).await?;
                self.transmit(call, Some(&renewed)).await
            }
            _ => Ok(response),
        }
    }

    async fn fresh_session(&self) -> Result<Option<Arc<Kept>>, ClientError> {
        match self.inner.keeper.current()? {
            Some(kept) if !kept.is_fresh() => Ok(Some(self.renew(kept).await?)),
            kept => Ok(kept),
        }
    }

    async fn transmit(&self, call: &Call, session: Option<&Kept>) -> Result<Response, ClientError> {
        let holds_secret = session.is_some() || call.shows == Shows::Nothing;
        if holds_secret && !self.inner.keys_are_safe {
            return Err(ClientError::PlainHttp);
        }
        let mut url = self.inner.base.join(&call.path).expect("paths of calls are valid");
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        let mut request = self.inner.http.request(call.method.clone(), url);
        let token = session.map(|kept| authorization(kept.access_token())).transpose();
        let token = token.map_err(|_| ClientError::SessionEnded)?;
        let key = self.authorization.clone().filter(|_| call.shows != Shows::Nothing);
        if let Some(authorization) = key.or(token) {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if let Some(key) = &call.idempotency_key {
            request = request.header(rest::IDEMPOTENCY_KEY, key);
        }
        if let Some((kind, body)) = &call.body {
            let kind = HeaderValue::from_static(kind);
            request = request.header(header::CONTENT_TYPE, kind).body(body.clone());
        }
        request.send().await.map_err(|error| self.transport(&error))
    }

    /// Reads what a refusal says. What its status says stands even if that breaks off.
    pub(crate) async fn read_refusal(&self, response: &mut Response) -> Vec<u8> {
        self.read(response, MAX_REFUSAL).await.unwrap_or_default()
    }

    /// Reads a body until its end, or just beyond `limit` bytes.
    async fn read(&self, response: &mut Response, limit: usize) -> Result<Vec<u8>, ClientError> {
        let mut body = Vec::new();
        while body.len() <= limit
            && let Some(piece) = response.chunk().await.map_err(|error| self.transport(&error))?
        {
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    async fn within<T>(
        &self,
        deadline: Instant,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let late = || Err(ClientError::Timeout(self.inner.timeout));
        timeout_at(deadline, work).await.unwrap_or_else(|_| late())
    }

    fn transport(&self, error: &reqwest::Error) -> ClientError {
        ClientError::transport(error, self.inner.timeout)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("base_url", &self.base_url())
            .field("has_key", &self.authorization.is_some())
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// One request to the coordinator.
pub(crate) struct Call {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    shows: Shows,
    body: Option<(&'static str, Bytes)>,
    idempotency_key: Option<String>,
    repeatable: bool,
}

/// By what a call shows who it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    /// A key, else the session.
    Credentials,
    /// The same; a session that is refused is not renewed.
    CredentialsOnce,
    /// The body alone, which holds a secret.
    Nothing,
}

impl Call {
    /// Reads; may be repeated.
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            query: Vec::new(),
            shows: Shows::Credentials,
            body: None,
            idempotency_key: None,
            repeatable: true,
        }
    }

    /// Deletes; may be repeated.
    pub(crate) fn delete(path: impl Into<String>) -> Self {
        Self { method: Method::DELETE, ..Self::get(path) }
    }

    /// Does something with `body`, once.
    pub(crate) fn post(path: impl Into<String>, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("requests have a JSON form");
        let body = Some(("application/json", body.into()));
        Self { method: Method::POST, body, repeatable: false, ..Self::get(path) }
    }

    /// Sends a secret, once, in place of a key: digits, a password, a token.
    pub(crate) fn proving(path: impl Into<String>, body: &impl Serialize) -> Self {
        Self { shows: Shows::Nothing, ..Self::post(path, body) }
    }

    /// Hands in a sealed request, once.
    pub(crate) fn sealed(wire: Bytes) -> Self {
        let body = Some((MEDIA_TYPE, wire));
        Self { method: Method::POST, body, repeatable: false, ..Self::get("sealed") }
    }

    /// Makes the coordinator take repetitions with the same key for one.
    pub(crate) fn with_idempotency_key(self, key: impl Into<String>) -> Self {
        Self { idempotency_key: Some(key.into()), repeatable: true, ..self }
    }

    /// Asks for a part.
    pub(crate) fn with_query(mut self, name: &'static str, value: &str) -> Self {
        self.query.push((name, value.to_owned()));
        self
    }

    /// Takes a refusal of the session for one of what the call holds.
    pub(crate) fn shown_once(self) -> Self {
        Self { shows: Shows::CredentialsOnce, ..self }
    }

    /// Gives up at the first failure.
    pub(crate) fn once(self) -> Self {
        Self { repeatable: false, ..self }
    }
}

/// Reads a conversation as whoever answers it will.
fn question(request: &ChatRequest) -> Result<Question, ClientError> {
    let body = serde_json::to_vec(request).expect("requests have a JSON form");
    Question::read(Operation::Chat, body.into()).map_err(ClientError::local)
}

fn parse<T: DeserializeOwned>(body: &[u8], headers: &HeaderMap) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|error| ClientError::Malformed {
        // The parser's own text may repeat what the answer says.
        reason: format!("{:?} error at line {}", error.classify(), error.line()),
        request_id: Head::read(headers).request_id,
    })
}
