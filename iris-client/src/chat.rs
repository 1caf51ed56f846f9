use std::future::IntoFuture;

use futures::future::BoxFuture;
use iris_protocol::openai::{ChatRequest, Message};

use crate::answer::Answer;
use crate::client::Client;
use crate::error::ClientError;
use crate::stream::ChatStream;

/// One question, not yet sent. Await it for the answer's text.
#[derive(Clone, Debug)]
#[must_use = "a question is sent when it is awaited"]
pub struct Ask {
    client: Client,
    request: ChatRequest,
}

impl Ask {
    pub(crate) fn new(client: Client, request: ChatRequest) -> Self {
        Self { client, request }
    }

    /// Tells the model how to answer, before the question. Default: nothing.
    pub fn with_system(mut self, instructions: impl Into<String>) -> Self {
        self.request.messages.insert(0, Message::system(instructions.into()));
        self
    }

    /// Limits the answer to `tokens`. Default: the coordinator's limit.
    pub fn with_max_tokens(mut self, tokens: u32) -> Self {
        self.request.max_tokens = Some(tokens);
        self
    }

    /// Sets how freely words are chosen: 0 always takes the likeliest. Default: the model
    /// server's.
    pub fn with_temperature(mut self, temperature: f64) -> Self {
        self.request.temperature = Some(temperature);
        self
    }

    /// Returns the request that will be sent, for everything that has no method here.
    pub fn request_mut(&mut self) -> &mut ChatRequest {
        &mut self.request
    }

    /// Sends the question and waits for the whole answer.
    pub async fn send(self) -> Result<Answer, ClientError> {
        self.client.chat(self.request).await
    }

    /// Sends the question and yields the answer as it is written.
    pub async fn stream(self) -> Result<ChatStream, ClientError> {
        self.client.chat_stream(self.request).await
    }
}

impl IntoFuture for Ask {
    type Output = Result<String, ClientError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(self.send().await?.text().to_owned()) })
    }
}
