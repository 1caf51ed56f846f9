//! Model names that ask for divided work, such as `iris/consensus:MODEL`: the work is divided
//! here, and each part is sealed on its own.

use std::convert::Infallible;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use iris_core::backend::{Chunk, Finish, Operation};
use iris_core::model::Abilities;
use iris_core::plan::{Chat, Division, PlanError, Progress};
use iris_core::{ModelName, TaskId};
use iris_protocol::openai::{
    ChatCompletion, ChatRequest, Choice, EventWriter, Heading, RequestError, last_words,
    write_error, write_keep_alive,
};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::error::ProxyError;
use super::stream::KEEP_ALIVE;
use crate::client::Client;
use crate::error::ClientError;
use crate::plan::{PlanAnswer, PlanCall, PlanStream};
use crate::policy::{Policy, Privacy};
use crate::sealed::Question;

/// A chat whose model's name asks for a division.
pub(super) struct Divided {
    call: PlanCall,
    /// The least that can be said of its privacy before it is answered.
    pub(super) privacy: Privacy,
    envelope: Envelope,
}

/// The answer's envelope.
struct Envelope {
    /// The name that the request used.
    model: String,
    created: u64,
    include_usage: bool,
}

impl Divided {
    /// Makes a plan of a chat, if the model's name asks for one.
    pub(super) async fn read(
        client: &Client,
        spread: bool,
        question: &Question,
        created: u64,
    ) -> Result<Option<Self>, ProxyError> {
        let asked = &question.asked;
        let Some(named) = Division::of_name(asked.model.as_str()) else { return Ok(None) };
        let (division, model) = named.map_err(ClientError::InvalidPlan)?;
        let words = last_words(question.operation(), question.body())?;
        let model = client.model_for(model.as_str(), &words).await?;
        let chat = match question.operation() {
            Operation::Chat => chat(question.body(), model, asked.abilities)?,
            Operation::Completion | Operation::Embedding => {
                let what = "Only chats can be divided.".to_owned();
                return Err(
                    RequestError::Invalid { message: what.into(), param: Some("model") }.into()
                );
            }
        };
        let plan = client.divide(chat, &division).await?;
        let privacy = match client.policy() {
            Policy::Own => Privacy::Own,
            Policy::Sealed => Privacy::Sealed,
            Policy::Open => Privacy::Open,
        };
        let call = client.plan(plan).with_spread(spread);
        let (model, include_usage) = (asked.model.to_string(), asked.include_usage);
        Ok(Some(Self { call, privacy, envelope: Envelope { model, created, include_usage } }))
    }

    /// Carries the plan out and returns the answer in one piece, with who could read it.
    pub(super) async fn whole(self) -> Result<(Vec<u8>, Privacy), ProxyError> {
        let answer = self.call.run().await?;
        let id = format!("chatcmpl-{}", name());
        let choices = vec![Choice::text(answer.text, answer.finish_reason)];
        let Envelope { model, created, .. } = self.envelope;
        let mut completion = ChatCompletion::new(id, created, model, choices);
        completion.usage = Some(answer.usage.into());
        let body = serde_json::to_vec(&completion).expect("a completion has a JSON form");
        Ok((body, answer.privacy.unwrap_or(self.privacy)))
    }

    /// Begins to carry the plan out. What fails before anything is answered is an error here,
    /// unless that takes so long that whoever asks wants a sign of life.
    pub(super) async fn events(self) -> Result<Events, ProxyError> {
        let mut events = Events::new(self.call.stream()?, &self.envelope);
        events.open().await?;
        Ok(events)
    }
}

/// The events of a plan's answer.
pub(super) struct Events {
    /// The plan, until it is over.
    plan: Option<PlanStream>,
    writer: EventWriter,
    /// What is written and not sent.
    out: BytesMut,
}

impl Events {
    fn new(plan: PlanStream, envelope: &Envelope) -> Self {
        let heading = Heading {
            operation: Operation::Chat,
            task: name(),
            created: envelope.created,
            model: &envelope.model,
        };
        let writer = EventWriter::new(heading, envelope.include_usage);
        let mut out = BytesMut::new();
        writer.begin(&mut out);
        Self { plan: Some(plan), writer, out }
    }

    async fn open(&mut self) -> Result<(), ProxyError> {
        let silent = Instant::now() + KEEP_ALIVE;
        while let Some(plan) = &mut self.plan
            && let Ok(progress) = timeout_at(silent, plan.next()).await
        {
            match progress {
                Some(Progress::Text { text }) => {
                    self.text(text);
                    break;
                }
                Some(Progress::Answered { .. }) => break,
                Some(_) => {}
                None => {
                    let answer = self.finish().await?;
                    self.end(answer);
                }
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<PlanAnswer, ClientError> {
        match self.plan.take() {
            Some(plan) => plan.finish().await,
            None => unreachable!("a plan ends once"),
        }
    }

    fn text(&mut self, text: String) {
        // A text is always a part of an answer.
        let _ = self.writer.chunk(&Chunk::Text(text), &mut self.out);
    }

    fn end(&mut self, answer: PlanAnswer) {
        let PlanAnswer { finish_reason: reason, usage, .. } = answer;
        self.writer.finish(&Finish { reason, usage }, &mut self.out);
    }

    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
        stream::unfold(self, |mut events| async move {
            events.fill().await;
            let out = events.out.split().freeze();
            (!out.is_empty()).then(|| (Ok(out), events))
        })
    }

    /// Writes what comes next, or a sign of life; nothing once all is written.
    async fn fill(&mut self) {
        let silent = Instant::now() + KEEP_ALIVE;
        while self.out.is_empty()
            && let Some(plan) = &mut self.plan
        {
            match timeout_at(silent, plan.next()).await {
                Ok(Some(Progress::Text { text })) => self.text(text),
                Ok(Some(_)) => {}
                Ok(None) => match self.finish().await {
                    Ok(answer) => self.end(answer),
                    Err(error) => {
                        write_error(&ProxyError::from(error).into_body(), &mut self.out);
                    }
                },
                Err(_) => write_keep_alive(&mut self.out),
            }
        }
    }
}

/// Draws a name for an answer: it is of several tasks.
fn name() -> TaskId {
    let mut id = [0; 16];
    // An answer without randomness has a name that others have, too.
    let _ = getrandom::fill(&mut id);
    TaskId::from_bytes(id)
}

/// Takes a chat request for a question that can be divided.
fn chat(body: &[u8], model: ModelName, abilities: Abilities) -> Result<Chat, ProxyError> {
    let request: ChatRequest = serde_json::from_slice(body)
        .map_err(|error| RequestError::invalid(format!("The request is no chat: {error}.")))?;
    let refuse = |at: &str, what: &str| {
        let (at, what) = (at.to_owned(), what.to_owned());
        ProxyError::from(ClientError::InvalidPlan(PlanError { at, what }))
    };
    if abilities.contains(Abilities::TOOLS) {
        return Err(refuse("tools", "a divided question cannot call tools"));
    }
    if request.n.is_some_and(|n| n > 1) {
        return Err(refuse("n", "a divided question has one answer"));
    }
    if abilities.contains(Abilities::LOGPROBS) {
        return Err(refuse("logprobs", "a divided question has none"));
    }
    if abilities.contains(Abilities::SCORE) {
        return Err(refuse("prompt_logprobs", "a divided question scores no prompt"));
    }
    let max_tokens = request.max_answer_tokens();
    let Value::Object(members) = serde_json::to_value(&request).expect("requests have a JSON form")
    else {
        unreachable!("a request is an object")
    };
    let chat = Chat::from_request(model, members).map_err(ClientError::InvalidPlan)?;
    Ok(Chat { max_tokens, abilities, ..chat })
}
