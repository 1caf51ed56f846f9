use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};

use iris_core::backend::Operation;
use iris_core::routing::Unnamed;
use iris_core::score::TokenScore;
use iris_core::verify::{Finding, Scored, Sequential, Trial};
use iris_core::{ModelName, NodeId};
use iris_protocol::openai::{
    AssistantMessage, ChatCompletion, ChatRequest, NotRepeatable, PREFERENCES, PromptScores,
    RepeatableChat, ScoresError, score_request,
};
use serde_json::Value;

use crate::answer::Answer;
use crate::client::Client;
use crate::error::ClientError;
use crate::policy::{Policy, Privacy};
use crate::sealed::Question;

/// How many tokens a word can have been cut into, which its node never wrote.
const CUT: usize = 3;

/// Checks what others' nodes answered, on a node of one's own that runs the same model.
///
/// The own node is given the chat and the answer, and says of each token whether it would have
/// chosen it too. No other node learns of the check, and nobody else can read it; the coordinator
/// sees that a request goes to the own node, and may guess what for. An honest node differs in at
/// most 2 of 100 tokens (arithmetic, a neighbouring quantisation), one that runs a smaller or
/// coarser model in 6 and more: [`Sequential`] says how sure a finding is. It takes some hundred
/// tokens, so the answers that a node gave with one model are counted together until they decide,
/// and then the next count begins.
///
/// What decides is what the own node runs under the model's name. Where that is another file than
/// the network's, the honest look dishonest; so begin with a node that is known to be honest. And
/// a finding is a suspicion, the first of the two tests that a coordinator asks for: before
/// reporting a node, begin anew with other questions, best on a second node of one's own.
///
/// Only whole answers to questions of text with a temperature of 0 can be checked, and nothing in
/// them may change which tokens are likeliest ([`NotRepeatable`] says what does). Check soon after:
/// some models are told the date. An answer that cannot be checked says nothing of its node. The
/// first token is left out, and the last ones where a limit cut the answer, since those may differ
/// for other reasons; so answers of some sentences tell most. The own node has to score texts, as
/// the built-in engine and vLLM do.
///
/// A sealed answer comes from the node that it names; of an open one the coordinator says which
/// node wrote it, and where that node was lost amid the answer, another may have gone on. Whoever
/// suspects a node has the chat, the answer and, if it was sealed, the node's signed
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
    counts: BTreeMap<Counted, Count>,
    hashes: RandomState,
}

/// Whose answers are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Counted {
    node: NodeId,
    model: ModelName,
    by: NodeId,
}

#[derive(Debug, Default)]
struct Count {
    trial: Trial,
    /// Hashes of what was asked since the test began: the same answer again is no second sign.
    asked: BTreeSet<u64>,
}

/// What the check of an answer came to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rechecked {
    /// The node that wrote the answer.
    pub node: NodeId,
    /// The own node that scored it; what different ones say is counted apart.
    pub by: NodeId,
    /// What that says of the tokens that were counted.
    pub tokens: Vec<Scored>,
    /// What the running test has seen of the node's answers with this model, or what the one saw
    /// that found them dishonest.
    pub trial: Trial,
    /// What the answers come to: with [`Finding::Honest`] a test ended within this answer, and the
    /// next began behind it; after [`Finding::Dishonest`] nothing more is counted.
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
    #[error("the chat must name the one model that is to be checked")]
    NoModel,
    /// The answer is empty, refused, filtered, or calls tools; or it follows from thoughts that are
    /// not part of it, or ends amid a character.
    #[error("the answer is not all text of the model's, so it says nothing; ask something else")]
    NotText,
    /// Nothing is left that could be counted.
    #[error("the answer is too short to say anything; ask for some sentences")]
    TooShort,
    /// The running test has counted an answer to this chat.
    #[error("an answer to this chat was counted already; ask something else")]
    Repeated,
    /// The coordinator does not say which node wrote the answer.
    #[error("it is not known which node wrote the answer; ask with Policy::Sealed")]
    NoNode,
    /// A node of one's own wrote the answer.
    #[error("a node of one's own wrote the answer; there is nobody to check")]
    Own,
    /// What the own node says cannot be counted.
    #[error("the own node's scores cannot be used: {0}")]
    Scores(#[from] ScoresError),
    /// The own node could not be asked: none is known or connected, or none that has the model,
    /// scores texts and has room for chat and answer.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl Recheck {
    /// Begins to count. Whatever `client`'s policy is, only its
    /// [own nodes](crate::ClientBuilder::with_own_node) are asked here.
    pub fn new(client: &Client) -> Self {
        let own = client.with_policy(Policy::Own);
        let hashes = RandomState::new();
        Self { own, test: Sequential::default(), counts: BTreeMap::new(), hashes }
    }

    /// Sets the figures of the test, before the first check. Default: those of
    /// [`Sequential::default`].
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
        let asked = self.hashes.hash_one(&messages);
        let written = Written::read(&answer.completion).ok_or(RecheckError::NotText)?;

        let body = score_request(&model, messages, written.text).to_string();
        let question = Question::read(Operation::Chat, body.into()).map_err(ClientError::local)?;
        let whole = self.own.whole_sealed(&question, crate::sealed::now().as_secs()).await?;
        let by = whole.head.node.ok_or(RecheckError::NoNode)?;
        let scores = PromptScores::read(&whole.body)?.of_answer(written.text)?;
        let tokens: Vec<_> = written.certain(&scores).iter().copied().map(Scored::from).collect();
        if tokens.is_empty() {
            return Err(RecheckError::TooShort);
        }
        let count = self.counts.entry(Counted { node, model, by }).or_default();
        let finding = count.add(&self.test, asked, &tokens).ok_or(RecheckError::Repeated)?;
        Ok(Rechecked { node, by, tokens, trial: count.trial, finding })
    }
}

impl Count {
    /// Counts an answer to what has the hash `asked`; `None` if one was counted.
    fn add(&mut self, test: &Sequential, asked: u64, tokens: &[Scored]) -> Option<Finding> {
        if self.asked.contains(&asked) {
            return None;
        }
        let finding = test.count_all(&mut self.trial, tokens);
        match finding {
            Finding::Honest => self.asked = BTreeSet::from([asked]),
            Finding::Continue => drop(self.asked.insert(asked)),
            Finding::Dishonest => {}
        }
        Some(finding)
    }
}

/// What a model wrote, where that is text and follows from nothing else.
struct Written<'a> {
    text: &'a str,
    is_cut: bool,
}

impl<'a> Written<'a> {
    fn read(completion: &'a ChatCompletion) -> Option<Self> {
        let [choice] = &completion.choices[..] else { return None };
        let is_cut = match choice.finish_reason.as_deref() {
            Some("stop") => false,
            Some("length") => true,
            _ => return None,
        };
        let AssistantMessage { content, refusal, tool_calls, extra, .. } = &choice.message;
        let is_said = |value: &Value| !value.is_null() && value.as_str() != Some("");
        let besides = ["reasoning", "reasoning_content", "function_call"];
        let is_alone = !besides.iter().filter_map(|name| extra.get(*name)).any(is_said);
        let is_plain =
            is_alone && tool_calls.is_empty() && refusal.as_deref().is_none_or(str::is_empty);
        // The replacement character stands for a part of one that its node wrote otherwise.
        let text = content.as_deref().filter(|text| !text.contains('\u{fffd}'))?;
        (is_plain && !text.is_empty()).then_some(Self { text, is_cut })
    }

    /// Returns the scores that only another model can account for. Templates end a prompt in other
    /// words than they begin an answer that they are given, or cut white space off; and a word that
    /// a limit cut is made of other tokens than its node wrote.
    fn certain<'s>(&self, scores: &'s [TokenScore]) -> &'s [TokenScore] {
        let end = scores.len().saturating_sub(if self.is_cut { CUT } else { 0 });
        scores.get(1..end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use iris_core::score::LogProb;
    use iris_protocol::openai::Choice;
    use serde_json::json;

    use super::*;

    fn completion(text: &str, finish_reason: &str) -> ChatCompletion {
        ChatCompletion::new("id", 0, "m", vec![Choice::text(text, finish_reason)])
    }

    fn is_written(change: impl FnOnce(&mut ChatCompletion)) -> bool {
        let mut completion = completion("a", "stop");
        change(&mut completion);
        Written::read(&completion).is_some()
    }

    #[test]
    fn answers_that_are_all_text_of_the_models_are_counted_and_no_others() {
        assert!(is_written(|_| ()));
        let refused = |c: &mut ChatCompletion| c.choices[0].message.refusal = Some("no".to_owned());
        assert!(!is_written(refused));
        assert!(!is_written(|c| c.choices[0].message.content = None));
        assert!(!is_written(|c| *c = completion("", "stop")));
        assert!(!is_written(|c| *c = completion("caf\u{fffd}", "length")));
        assert!(!is_written(|c| *c = completion("a", "content_filter")));
        assert!(!is_written(|c| c.choices.push(Choice::text("b", "stop"))));
        for name in ["reasoning", "reasoning_content", "function_call"] {
            let besides = |value: Value| {
                is_written(|c| drop(c.choices[0].message.extra.insert(name.to_owned(), value)))
            };
            assert!(!besides(json!("so")) && besides(json!("")) && besides(Value::Null), "{name}");
        }
    }

    #[test]
    fn tokens_that_may_differ_for_other_reasons_are_left_out() {
        let zero = LogProb::from_nats(0.0).unwrap();
        let scores = [TokenScore { logprob: zero, rank: 1, best_logprob: zero }; 6];
        for (finish_reason, counted) in [("stop", [0, 0, 5]), ("length", [0, 0, 2])] {
            let completion = completion("a", finish_reason);
            let written = Written::read(&completion).unwrap();
            let found = [0, 1, 6].map(|len| written.certain(&scores[..len]).len());
            assert_eq!(found, counted, "{finish_reason}");
        }
    }

    #[test]
    fn an_answer_counts_once_in_a_test() {
        let (test, mut count) = (Sequential::default(), Count::default());
        let matched = [Scored { logprob: 0, best_logprob: 0 }; 60];
        assert_eq!(count.add(&test, 1, &matched), Some(Finding::Continue));
        assert_eq!(count.add(&test, 1, &matched), None);
        assert_eq!(count.trial.tokens, 60);
        // The second answer ends the test and begins the next, in which it was counted as well.
        assert_eq!(count.add(&test, 2, &matched), Some(Finding::Honest));
        assert_eq!(count.add(&test, 2, &matched), None);
        assert_eq!(count.add(&test, 1, &matched), Some(Finding::Continue));
        assert_eq!(count.trial.tokens, 69);
    }
}
