use std::collections::BTreeMap;

use iris_core::backend::Operation;
use iris_core::routing::Unnamed;
use iris_core::verify::{Finding, Scored, Sequential, Trial};
use iris_core::{ModelName, NodeId};
use iris_protocol::openai::{
    AssistantMessage, ChatRequest, NotRepeatable, PREFERENCES, PromptScores, RepeatableChat,
    ScoresError, scoring,
};

use crate::answer::Answer;
use crate::client::Client;
use crate::error::ClientError;
use crate::policy::{Policy, Privacy};
use crate::sealed::Question;

/// Checks what others' nodes answered, on a node of one's own that runs the same model.
///
/// The own node is given the chat and the answer, and says of each token whether it would have
/// chosen it too. No other node learns of the check, and nobody else can read it; the coordinator
/// sees that a request goes to the own node, and may guess what for. An honest node differs in at most 2 of 100
/// tokens (arithmetic, a neighbouring quantisation), one that runs a smaller or coarser model in 6
/// and more: [`Sequential`] says how sure a finding is. It takes some hundred tokens, so the
/// answers that a node gave with one model are counted together until they decide.
///
/// What decides is what the own node runs under the model's name. Where that is another file than
/// the network's, the honest look dishonest; so begin with a node that is known to be honest.
///
/// A finding is a suspicion. Check each question once, and questions that differ: what is asked
/// again counts again, though an honest node differs in the same places. Chats must end with the
/// user's message, and answers should be some sentences that no limit cut, since the first and last
/// tokens of a text may differ for other reasons. What an answer says after the count has found its
/// node honest is not counted, and an answer that cannot be scored says nothing. So before reporting
/// a node, begin anew with other questions, best on a second node of one's own.
///
/// Only chats of text with a temperature of 0 can be checked, and nothing in them may change which
/// tokens are likeliest ([`NotRepeatable`] says what does). The own node has to score texts, as the
/// built-in engine and vLLM do.
///
/// A sealed answer comes from the node that it names; of an open one the coordinator says which
/// node wrote it, and where that node was lost amid the answer, another may have gone on. Whoever
/// finds a node dishonest has the chat, the answer and, if it was sealed, the node's signed
/// [receipt](Answer::receipt) of it: keep them, and report the node to the operator, whose own
/// checks decide what follows.
///
/// ```no_run
/// # async fn demo(client: iris_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use iris_client::{Policy, Recheck};
/// use iris_core::verify::Finding;
/// use iris_protocol::openai::{ChatRequest, Message};
///
/// // The client knows a node of one's own: `ClientBuilder::with_own_node`.
/// let mut recheck = Recheck::new(&client);
/// let mut chat = ChatRequest::new("some-model", vec![Message::user("Why is the sky blue?")]);
/// chat.temperature = Some(0.0);
/// let answer = client.with_policy(Policy::Open).chat(chat.clone()).await?;
/// let checked = recheck.check(&chat, &answer).await?;
/// if checked.finding == Finding::Dishonest {
///     println!("{} seems not to run some-model", checked.node);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Recheck {
    own: Client,
    test: Sequential,
    trials: BTreeMap<(NodeId, ModelName), Trial>,
}

/// What the check of an answer came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rechecked {
    /// The node that wrote the answer.
    pub node: NodeId,
    /// What the own node says of each token of this answer.
    pub tokens: Vec<Scored>,
    /// What was counted of the node's answers with this model.
    pub trial: Trial,
    /// What that comes to. After [`Finding::Honest`] the count begins anew; a node that was found
    /// dishonest stays so.
    pub finding: Finding,
}

/// Why an answer cannot be checked. Nothing was counted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecheckError {
    /// Another machine may rightly answer the chat differently.
    #[error("an honest node could have answered this chat differently: {0}")]
    NotRepeatable(#[from] NotRepeatable),
    /// The chat leaves it to the network which model answers.
    #[error("the chat names no model of its own; name the one that is to be checked")]
    NoModel,
    /// The answer is empty, calls tools, or follows from thoughts that are not part of it.
    #[error("the answer is not all text")]
    NotText,
    /// The coordinator does not say which node wrote the answer.
    #[error("it is not known which node wrote the answer")]
    NoNode,
    /// A node of one's own wrote the answer.
    #[error("a node of one's own wrote the answer; there is nobody to check")]
    Own,
    /// What the own node says cannot be counted.
    #[error("the own node's scores cannot be used: {0}")]
    Scores(#[from] ScoresError),
    /// The own node could not be asked, such as when none is known or connected.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl Recheck {
    /// Begins to count. Whatever `client`'s policy is, only its
    /// [own nodes](crate::ClientBuilder::with_own_node) are asked here.
    pub fn new(client: &Client) -> Self {
        let own = client.with_policy(Policy::Own);
        Self { own, test: Sequential::default(), trials: BTreeMap::new() }
    }

    /// Sets the figures of the test. Default: those of [`Sequential::default`].
    pub fn with_test(mut self, test: Sequential) -> Self {
        self.test = test;
        self
    }

    /// Has the answer to a chat scored, and counts it.
    pub async fn check(
        &mut self,
        chat: &ChatRequest,
        answer: &Answer,
    ) -> Result<Rechecked, RecheckError> {
        let node = answer.head.node.ok_or(RecheckError::NoNode)?;
        let own = self.own.sealed().trust.own().map_err(ClientError::from)?;
        if answer.privacy == Privacy::Own || own.contains(&node) {
            return Err(RecheckError::Own);
        }
        let model = match Unnamed::of_name(&chat.model) {
            None => chat.model.parse::<ModelName>().map_err(|_| RecheckError::NoModel)?,
            Some(_) => return Err(RecheckError::NoModel),
        };
        // Which nodes may answer changes nothing about what an honest one does.
        let mut chat = chat.clone();
        chat.extra.remove(PREFERENCES);
        let body = serde_json::to_vec(&chat).expect("requests have a JSON form");
        let messages = RepeatableChat::read(&body)?.into_messages();
        let text = text(answer).ok_or(RecheckError::NotText)?;

        let body = scoring(&model, messages, text).to_string();
        let question = Question::read(Operation::Chat, body.into()).map_err(ClientError::local)?;
        let scores = self.own.whole_sealed(&question, crate::sealed::now().as_secs()).await?;
        let tokens: Vec<Scored> = PromptScores::read(&scores.body)?
            .of_answer(text)?
            .into_iter()
            .map(|token| Scored {
                logprob: token.logprob.micros(),
                best_logprob: token.best_logprob.micros(),
            })
            .collect();
        let (trial, finding) = self.count((node, model), &tokens);
        Ok(Rechecked { node, tokens, trial, finding })
    }

    fn count(&mut self, of: (NodeId, ModelName), tokens: &[Scored]) -> (Trial, Finding) {
        let mut trial = self.trials.remove(&of).unwrap_or_default();
        let mut finding = self.test.finding(&trial);
        for token in tokens {
            if finding != Finding::Continue {
                break;
            }
            finding = self.test.count(&mut trial, token.is_match());
        }
        if finding != Finding::Honest {
            self.trials.insert(of, trial);
        }
        (trial, finding)
    }
}

/// Returns the answer, where it is text and follows from nothing else.
fn text(answer: &Answer) -> Option<&str> {
    let AssistantMessage { content, tool_calls, extra, .. } =
        &answer.completion.choices.first()?.message;
    let thinks = ["reasoning", "reasoning_content"].iter().filter_map(|name| extra.get(*name));
    let mut thoughts = thinks.filter(|thought| !thought.is_null() && thought.as_str() != Some(""));
    let is_plain = tool_calls.is_empty() && thoughts.next().is_none();
    content.as_deref().filter(|text| is_plain && !text.is_empty())
}
