//! Answers of others' nodes, checked on a node of one's own.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

mod live;

use futures::TryStreamExt;
use iris_client::{Client, ClientBuilder, Policy, Recheck, RecheckError, Rechecked, Shape};
use iris_core::NodeId;
use iris_core::backend::{Backend, Script, ScriptedBackend};
use iris_core::model::ModelOffer;
use iris_core::routing::ANY;
use iris_core::verify::Finding;
use iris_node::backend::engine::{BUNDLED_MODEL, Engine};
use iris_protocol::openai::{ChatRequest, Message, NotRepeatable, PREFERENCES};
use live::Live;
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

/// A network with a node of one's own and, after it, another; both offer the bundled model.
struct Nodes {
    live: Live,
    own: NodeId,
    other: NodeId,
    _running: [AbortOnDropHandle<()>; 2],
}

impl Nodes {
    async fn start(other: impl Backend) -> Self {
        let live = Live::start().await;
        let client = builder(&live).build().unwrap();
        let ids = || client.network().nodes().map_ok(|node| node.id).try_collect::<Vec<_>>();
        let first = live.join(Engine::bundled().unwrap(), 1).await;
        let own = ids().await.unwrap()[0];
        let second = live.join(other, 1).await;
        let other = ids().await.unwrap().into_iter().find(|id| *id != own).unwrap();
        Self { live, own, other, _running: [first, second] }
    }

    /// A client with the own node, and what checks answers there.
    fn caller(&self) -> (Client, Recheck) {
        let client = builder(&self.live).with_own_node(self.own).build().unwrap();
        (client.with_policy(Policy::Open), Recheck::new(&client))
    }

    /// A greedy chat with the bundled model, for the other node.
    fn chat(&self, question: &str) -> ChatRequest {
        let mut chat = ChatRequest::new(BUNDLED_MODEL, vec![Message::user(question)]);
        chat.temperature = Some(0.0);
        chat.max_tokens = Some(48);
        chat.extra.insert(PREFERENCES.to_owned(), json!({ "allow": [self.other] }));
        chat
    }
}

fn builder(live: &Live) -> ClientBuilder {
    Client::builder(format!("http://{}", live.address))
        .with_api_key(live.key.clone())
        .with_shape(Shape::Off)
}

/// Checks answers to one question after another until they decide; returns how many tokens that
/// took, too. Each `round` has its own questions.
async fn decided(
    nodes: &Nodes,
    (client, recheck): (&Client, &mut Recheck),
    round: u32,
) -> (Rechecked, usize) {
    let mut tokens = 0;
    for number in 0..40 {
        let chat = nodes.chat(&format!("Tell me {number} things about node {round}."));
        let answer = client.chat(chat.clone()).await.unwrap();
        let checked = match recheck.check(&chat, &answer).await {
            Err(RecheckError::TooShort) => continue,
            checked => checked.unwrap(),
        };
        assert_eq!((checked.node, checked.by), (nodes.other, nodes.own));
        tokens += checked.tokens.len();
        if checked.finding != Finding::Continue {
            return (checked, tokens);
        }
    }
    panic!("nothing was decided");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_node_is_found_honest_by_a_node_of_ones_own() {
    let nodes = Nodes::start(Engine::bundled().unwrap()).await;
    let (client, mut recheck) = nodes.caller();
    let mut rest = 0;
    for round in 0..2 {
        let (checked, tokens) = decided(&nodes, (&client, &mut recheck), round).await;
        assert_eq!((checked.finding, checked.trial.mismatches), (Finding::Honest, 0));
        // What ended one test within an answer began the next.
        let left = usize::try_from(checked.trial.tokens).unwrap();
        assert_eq!(rest + tokens - left, 111);
        rest = left;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_with_another_model_is_found_out_and_stays_so() {
    let script = Script::saying(["Paris Paris node seven ", "the the capital of nothing at all."]);
    let offer = ModelOffer::new(BUNDLED_MODEL.parse().unwrap(), 4096);
    let nodes = Nodes::start(ScriptedBackend::new([offer], move |_| script.clone())).await;
    let (client, mut recheck) = nodes.caller();
    let (caught, tokens) = decided(&nodes, (&client, &mut recheck), 0).await;
    assert_eq!(caught.finding, Finding::Dishonest);
    assert!(tokens < 100, "{caught:?}");
    let (again, _) = decided(&nodes, (&client, &mut recheck), 1).await;
    assert_eq!((again.finding, again.trial), (Finding::Dishonest, caught.trial));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_proves_nothing_is_refused_by_type() {
    let nodes = Nodes::start(Engine::bundled().unwrap()).await;
    let (client, mut recheck) = nodes.caller();
    let greedy = nodes.chat("What is a node?");
    let answer = client.chat(greedy.clone()).await.unwrap();
    let drawn = ChatRequest { temperature: None, ..greedy.clone() };
    let error = recheck.check(&drawn, &answer).await.unwrap_err();
    assert!(matches!(error, RecheckError::NotRepeatable(NotRepeatable::Drawn)), "{error}");
    let any = ChatRequest { model: ANY.to_owned(), ..greedy.clone() };
    let error = recheck.check(&any, &answer).await.unwrap_err();
    assert!(matches!(error, RecheckError::NoModel), "{error}");
    let mut thoughtful = answer.clone();
    let message = &mut thoughtful.completion.choices[0].message;
    message.extra.insert("reasoning_content".to_owned(), "so".into());
    let error = recheck.check(&greedy, &thoughtful).await.unwrap_err();
    assert!(matches!(error, RecheckError::NotText), "{error}");
    let mut nobodys = answer.clone();
    nobodys.head.node = None;
    let error = recheck.check(&greedy, &nobodys).await.unwrap_err();
    assert!(matches!(error, RecheckError::NoNode), "{error}");
    let mut mine = answer.clone();
    mine.head.node = Some(nodes.own);
    let error = recheck.check(&greedy, &mine).await.unwrap_err();
    assert!(matches!(error, RecheckError::Own), "{error}");
    let other = ChatRequest { messages: vec![Message::user("Who?")], ..greedy.clone() };
    let checked = recheck.check(&other, &answer).await.unwrap();
    assert!(checked.tokens.iter().any(|token| !token.is_match()), "another question fits as well");

    recheck.check(&greedy, &answer).await.unwrap();
    let error = recheck.check(&greedy, &answer).await.unwrap_err();
    assert!(matches!(error, RecheckError::Repeated), "{error}");

    let mut without = Recheck::new(&builder(&nodes.live).build().unwrap());
    let error = without.check(&greedy, &answer).await.unwrap_err();
    assert!(matches!(&error, RecheckError::Client(error) if error.is_about_privacy()), "{error}");
}
