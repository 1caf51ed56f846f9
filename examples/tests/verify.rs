//! Nodes that are checked, convicted and absolved, over the real coordinator and agents in virtual
//! time.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

mod net;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::TryStreamExt;
use iris_coordinator::payouts::{PayPolicy, ShareState};
use iris_coordinator::{CaseRecord, Clock, TaskRequest, VerdictError};
use iris_core::backend::{
    BackendError, Chunk, Finish, GenerateRequest, Script, ScriptedBackend, Step, Usage,
};
use iris_core::demand::Own;
use iris_core::model::{Abilities, ModelOffer};
use iris_core::reward::{EvidenceRules, RewardEvent, RewardRules, What};
use iris_core::store::{Batch, Document, Key, MemoryStore, Store};
use iris_core::task::Outcome;
use iris_core::terms::{Callers, Terms};
use iris_core::verify::{Appeal, Canary, Commitment, Flag, Phrases, Ruling, Seed, Stage};
use iris_core::{AccountId, Epoch, NodeId, Timestamp};
use iris_crypto::{Identity, Secret};
use iris_node::agent::{AgentBuilder, Conduct, Done, Work, WorkLog};
use iris_protocol::Frame;
use iris_protocol::openai::{ChatRequest, Message};
use iris_protocol::rest::{CallerName, CallerRule};
use net::{CALLER, Net, Node, OWNER, VirtualClock};
use serde_json::{Value, json};
use tokio::sync::watch;

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const MODEL: &str = "m";
const WORDS: usize = 60;
/// Whose word the operator takes.
const TRUSTED: [AccountId; 2] = [AccountId::from_bytes([8; 16]), AccountId::from_bytes([9; 16])];
const LIAR: AccountId = AccountId::from_bytes([5; 16]);

/// What the model answers: words that follow from the prompt.
fn words(salt: &str, prompt: &str) -> Vec<String> {
    let word = |place: usize| {
        // FNV-1a.
        let text = format!("{salt} {place} {prompt}");
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!(" w{}", hash >> 48)
    };
    (0..WORDS).map(word).collect()
}

fn messages(request: &GenerateRequest) -> Vec<String> {
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let text = |message: &Value| message["content"].as_str().unwrap().to_owned();
    body["messages"].as_array().unwrap().iter().map(text).collect()
}

/// Scores a given answer, word by word, by what the model would have written.
fn score(request: &GenerateRequest, answer: &str) -> Script {
    let prompt = &messages(request)[0];
    let token = |text: &str, logprob: f64, rank: u32| json!({"logprob": logprob, "rank": rank, "decoded_token": text});
    let mut places = vec![Value::Null, json!({"1": token("<assistant>", -0.1, 1)})];
    let own = words("", prompt).into_iter().map(Some).chain(std::iter::repeat(None));
    for (said, own) in answer.split_whitespace().zip(own) {
        let said = format!(" {said}");
        places.push(if Some(&said) == own.as_ref() {
            json!({"1": token(&said, -0.1, 1)})
        } else {
            json!({"1": token("x", -0.1, 1), "2": token(&said, -5.0, 2)})
        });
    }
    let whole = json!({
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"},
            "finish_reason": "length"}],
        "prompt_logprobs": places,
    });
    let finish = Finish {
        reason: "length".to_owned(),
        usage: Usage { prompt_tokens: 9, completion_tokens: 1 },
    };
    let steps = [Chunk::Whole(whole.to_string().into()), Chunk::Finished(finish)];
    steps.into_iter().map(Step::Chunk).collect()
}

/// The prompts that a backend was sent, in order.
type Asked = Arc<Mutex<Vec<String>>>;

fn backend(
    abilities: Abilities,
    answer: impl Fn(&GenerateRequest) -> Script + Send + Sync + 'static,
) -> (ScriptedBackend, Asked) {
    backend_of(&[MODEL], abilities, answer)
}

fn backend_of(
    models: &[&str],
    abilities: Abilities,
    answer: impl Fn(&GenerateRequest) -> Script + Send + Sync + 'static,
) -> (ScriptedBackend, Asked) {
    let offer = |model: &&str| {
        let mut offer = ModelOffer::new(model.parse().unwrap(), 8192);
        offer.abilities = abilities;
        offer
    };
    let asked = Asked::default();
    let noted = Arc::clone(&asked);
    let backend = ScriptedBackend::new(models.iter().map(offer), move |request| {
        noted.lock().unwrap().push(messages(request)[0].clone());
        answer(request)
    });
    (backend, asked)
}

/// A node that answers every prompt by a function of it and of the prompts before.
fn answering(
    answer: impl Fn(&str) -> Vec<String> + Send + Sync + 'static,
) -> (ScriptedBackend, Asked) {
    backend(Abilities::NONE, move |request| Script::saying(answer(&messages(request)[0])))
}

fn honest() -> (ScriptedBackend, Asked) {
    answering(|prompt| words("", prompt))
}

/// A node that runs another model.
fn lying() -> (ScriptedBackend, Asked) {
    answering(|prompt| words("another", prompt))
}

/// A node of a trusted owner, which is honest and scores.
fn reference() -> ScriptedBackend {
    reference_of(&[MODEL])
}

fn reference_of(models: &[&str]) -> ScriptedBackend {
    let scores = |request: &GenerateRequest| {
        if messages(request).len() == 2 {
            score(request, &messages(request)[1])
        } else {
            Script::saying(words("", &messages(request)[0]))
        }
    };
    backend_of(models, Abilities::SCORE, scores).0
}

async fn network(store: &Arc<dyn Store>) -> Net {
    Net::set_up(Arc::clone(store), |builder| builder.with_trusted_owners(TRUSTED)).await
}

async fn join(net: &Net, owner: AccountId, seed: u8, backend: ScriptedBackend) -> Node {
    let identity = Identity::from_seed(&Secret::from_bytes([seed; 32]));
    net.join_of(owner, identity, backend, |agent| agent).await
}

/// Starts a network with two references.
async fn referenced() -> (Net, [Node; 2]) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let net = network(&store).await;
    let nodes = [
        join(&net, TRUSTED[0], 80, reference()).await,
        join(&net, TRUSTED[1], 81, reference()).await,
    ];
    (net, nodes)
}

async fn verdicts(net: &Net) -> Vec<CaseRecord> {
    net.coordinator.cases().page(None, None, 10).await.unwrap()
}

/// Waits until there is a verdict.
async fn conviction(net: &Net) -> CaseRecord {
    for _ in 0..24 * 7 {
        if let Some(case) = verdicts(net).await.pop() {
            return case;
        }
        tokio::time::sleep(HOUR).await;
    }
    panic!("nobody was convicted within a week");
}

async fn events(store: &Arc<dyn Store>) -> Vec<RewardEvent> {
    // What was handed to the journal is in the store a moment later.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let records = store.scan(Key::all("event"));
    records
        .and_then(|record| async move { record.value.decode::<RewardEvent>() })
        .try_collect()
        .await
        .unwrap()
}

fn standing(net: &Net, node: NodeId) -> u16 {
    let nodes = net.coordinator.nodes();
    nodes.iter().find(|shown| shown.id == node).unwrap().standing
}

fn convicted(events: &[RewardEvent]) -> Vec<NodeId> {
    let found = events.iter().filter(|event| event.what == What::Convicted);
    found.map(|event| event.node).collect()
}

fn checked(events: &[RewardEvent], node: NodeId) -> usize {
    let passed = |event: &&RewardEvent| {
        event.node == node && matches!(event.what, What::Checked { passed: true, weight: 1000, .. })
    };
    events.iter().filter(passed).count()
}

#[tokio::test(start_paused = true)]
async fn liar_is_convicted_by_a_second_test_of_another_owner_and_honest_nodes_pass() {
    let (net, references) = referenced().await;
    let (answers, asked) = honest();
    let good = join(&net, OWNER, 1, answers).await;
    let (lies, heard) = lying();
    let bad = join(&net, LIAR, 2, lies).await;
    let mut suspected = false;
    while verdicts(&net).await.is_empty() {
        tokio::time::sleep(HOUR / 12).await;
        suspected |= heard.lock().unwrap().len() == 1;
        assert!(heard.lock().unwrap().len() < 4, "a liar in every word is found at once");
    }
    assert!(suspected, "one bad answer is no verdict");
    let case = conviction(&net).await;
    let verdict = case.verdict();
    assert_eq!((verdict.node, verdict.owner), (bad.id, LIAR));
    let evidence = &verdict.evidence;
    assert!(!evidence.confirming.contains(&evidence.suspecting), "{evidence:?}");
    // The owner can make again what was asked.
    let phrases = Phrases::default();
    let again: Vec<_> =
        case.seeds().iter().map(|seed| Canary::draw(&phrases, *seed).prompt).collect();
    assert_eq!(again, heard.lock().unwrap()[1..]);
    assert_eq!(case.prompts(), again);
    let commitments: Vec<_> = case.seeds().iter().map(Seed::commitment).collect();
    assert_eq!(commitments, evidence.prompts);
    let written: Vec<_> = net.store.scan(Key::all("canary")).try_collect().await.unwrap();
    let written: Vec<Commitment> = written.iter().map(|w| w.value.decode().unwrap()).collect();
    assert!(commitments.iter().all(|commitment| written.contains(commitment)));
    assert_eq!(standing(&net, bad.id), 0);
    assert_eq!(standing(&net, good.id), 500, "checks are no work");

    tokio::time::sleep(2 * DAY).await;
    let asked = asked.lock().unwrap().clone();
    let events = events(&net.store).await;
    assert!(asked.len() >= 10, "{}", asked.len());
    assert_eq!(checked(&events, good.id), asked.len());
    assert!(checked(&events, references[0].id) > 5, "references are checked by each other");
    assert_eq!(checked(&events, bad.id), 0);
    let once: std::collections::BTreeSet<_> = asked.iter().collect();
    assert_eq!(once.len(), asked.len(), "no prompt comes twice");
    assert_eq!(verdicts(&net).await.len(), 1);
    assert_eq!(heard.lock().unwrap().len(), evidence.prompts.len() + 1, "nothing is left to check");
    let stats = net.coordinator.stats();
    assert_eq!((stats.finished, stats.chunks, stats.completion_tokens), (0, 0, 0));
    assert!(net::settlements(net).await.is_empty(), "checks are in nobody's books");
}

#[tokio::test(start_paused = true)]
async fn attack_32_smaller_model_canned_text_echo_and_old_answers_are_caught() {
    let (net, _references) = referenced().await;
    let first = Arc::new(Mutex::new(None));
    let old =
        move |prompt: &str| first.lock().unwrap().get_or_insert_with(|| words("", prompt)).clone();
    let worse = |prompt: &str| {
        let (right, wrong) = (words("", prompt), words("4-bit", prompt));
        (0..WORDS)
            .map(|at| if at % 12 == 3 { wrong[at].clone() } else { right[at].clone() })
            .collect()
    };
    let liars = [
        answering(worse),
        answering(|_| words("canned", "")),
        answering(|prompt| prompt.split_inclusive(' ').map(str::to_owned).collect()),
        answering(old),
    ];
    let mut nodes = Vec::new();
    for (number, (liar, _)) in (10..).zip(liars) {
        nodes.push(join(&net, AccountId::from_bytes([number; 16]), number, liar).await);
    }
    tokio::time::sleep(5 * DAY).await;
    let found: Vec<_> = verdicts(&net).await.iter().map(|case| case.verdict().node).collect();
    for (number, node) in nodes.iter().enumerate() {
        assert!(found.contains(&node.id), "liar {number} of {found:?}");
    }
    assert_eq!(found.len(), nodes.len());
}

#[tokio::test(start_paused = true)]
async fn reference_that_fails_convicts_nobody_and_vouches_for_nobody() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let net = network(&store).await;
    let failing: [fn(&GenerateRequest) -> Script; 4] = [
        |_| Script::new().fail(BackendError::Failed),
        |_| Script::saying(["no scores"]),
        |request| score(request, "another text"),
        // It never answers.
        |_| Script::new().wait(&iris_core::backend::Gate::new()),
    ];
    let mut references = Vec::new();
    let mut scored = Vec::new();
    for (number, fails) in (80..).zip(failing) {
        let (failing, asked) = backend(Abilities::SCORE, fails);
        references.push(join(&net, TRUSTED[0], number, failing).await);
        scored.push(asked);
    }
    let (lies, heard) = lying();
    let bad = join(&net, LIAR, 2, lies).await;
    tokio::time::sleep(6 * DAY).await;
    assert!(heard.lock().unwrap().len() > 10, "{}", heard.lock().unwrap().len());
    assert!(scored.iter().all(|asked| !asked.lock().unwrap().is_empty()), "all were asked");
    assert!(verdicts(&net).await.is_empty());
    let events = events(&net.store).await;
    assert_eq!((convicted(&events), checked(&events, bad.id)), (vec![], 0));
    assert_eq!(standing(&net, bad.id), 500);
    let model = MODEL.parse().unwrap();
    assert_eq!(net.coordinator.stage(&bad.id, &model), Stage::Probation);
}

#[tokio::test(start_paused = true)]
async fn verdict_that_is_overturned_leaves_nothing_behind() {
    let (net, _references) = referenced().await;
    let (lies, heard) = lying();
    let bad = join(&net, LIAR, 2, lies).await;
    let case = conviction(&net).await;
    let (id, cases) = (case.verdict().id, net.coordinator.cases());
    let other = cases.appeal(&OWNER, id, "not mine").await;
    assert_eq!(other, Err(VerdictError::NotFound));
    assert!(matches!(cases.decide(id, Ruling::Overturn, None).await, Err(VerdictError::Appeal(_))));
    for text in ["", " ", "\u{202e}", &"x".repeat(4097)] {
        assert_eq!(cases.appeal(&LIAR, id, text).await, Err(VerdictError::Text));
    }
    cases.appeal(&LIAR, id, "My model server had another file.\nIt is mended.").await.unwrap();
    let twice = cases.appeal(&LIAR, id, "again").await;
    assert!(matches!(twice, Err(VerdictError::Appeal(_))));
    // Nothing happens while nobody has decided, however long that takes.
    tokio::time::sleep(9 * DAY).await;
    assert_eq!(convicted(&events(&net.store).await), []);
    assert_eq!(standing(&net, bad.id), 0);
    let checks = heard.lock().unwrap().len();

    let case = cases.decide(id, Ruling::Overturn, Some("It was the file.")).await.unwrap();
    assert!(matches!(case.appeal(), Some(Appeal::Overturned { .. })));
    assert_eq!(case.reason(), Some("It was the file."));
    assert_eq!(standing(&net, bad.id), 500);
    let model = MODEL.parse().unwrap();
    assert_eq!(net.coordinator.stage(&bad.id, &model), Stage::Probation);
    tokio::time::sleep(HOUR * 5).await;
    assert!(heard.lock().unwrap().len() > checks, "it is checked again");
    assert_eq!(convicted(&events(&net.store).await), []);
}

#[tokio::test(start_paused = true)]
async fn verdict_to_which_nobody_objects_is_final_after_seven_days_and_outlives_a_restart() {
    let (net, _references) = referenced().await;
    let (lies, _) = lying();
    let good = join(&net, OWNER, 1, honest().0).await;
    let bad = join(&net, LIAR, 2, lies).await;
    let case = conviction(&net).await;
    let id = case.verdict().id;
    // Both were there for as long.
    let lost = || {
        let points = |node| net.coordinator.points_of(&node).unwrap();
        points(good.id) - points(bad.id)
    };
    tokio::time::sleep(6 * DAY).await;
    assert_eq!(convicted(&events(&net.store).await), []);
    assert!(lost().abs() <= 1, "{}", lost());
    tokio::time::sleep(2 * DAY).await;
    assert_eq!(convicted(&events(&net.store).await), [bad.id]);
    assert!((49..=51).contains(&lost()), "{}", lost());
    let late = net.coordinator.cases().appeal(&LIAR, id, "too late").await;
    assert!(matches!(late, Err(VerdictError::Appeal(_))), "{late:?}");

    let store = Arc::clone(&net.store);
    net.coordinator.shutdown().await;
    let again = network(&store).await;
    let (lies, heard) = lying();
    let bad = join(&again, LIAR, 2, lies).await;
    let _reference = join(&again, TRUSTED[0], 80, reference()).await;
    tokio::time::sleep(DAY).await;
    assert_eq!(standing(&again, bad.id), 0);
    assert_eq!(again.coordinator.stage(&bad.id, &MODEL.parse().unwrap()), Stage::Convicted);
    assert!(heard.lock().unwrap().is_empty());
    assert_eq!(convicted(&events(&store).await), [bad.id], "once and no more");
}

/// Writes down that a node of `owner` was found lying so many hours ago.
async fn write_verdict(store: &Arc<dyn Store>, owner: AccountId, hours: u64) {
    let trial = json!({"tokens": 90, "mismatches": 30, "likelihood": 13_000_000});
    let at = VirtualClock.calendar().as_millis() - hours * 3_600_000;
    let verdict = json!({
        "id": owner, "node": "a".repeat(26), "owner": owner, "model": MODEL,
        "offence": "another_model", "at": at, "appeal_until": at + 7 * 24 * 3_600_000,
        "evidence": {
            "suspicion": trial, "suspecting": TRUSTED[0], "confirmation": trial, "answers": 1,
            "confirming": [TRUSTED[1]], "error": 100, "prompts": [],
        },
    });
    let case = json!({"verdict": verdict, "appeal": null, "seeds": [], "prompts": []});
    let key = Key::new("verdict", owner).unwrap();
    store.commit(Batch::new().put(key, Document::encode(&case))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn shares_of_the_convicted_are_forfeited_and_those_of_the_accused_wait() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let now = VirtualClock.calendar().as_millis();
    let (epoch, accused, convicted, honest) = ("2026-12", OWNER, LIAR, TRUSTED[0]);
    let month = json!({
        "epoch": epoch, "policy": "seed", "pool": 3, "carried": 0, "owners": 3, "weight": 3, "closed": now,
        "release": now + 2 * 3_600_000,
    });
    let mut batch = Batch::new().put(Key::new("month", epoch).unwrap(), Document::encode(&month));
    for owner in [accused, convicted, honest] {
        let share = json!({
            "epoch": epoch, "owner": owner, "amount": 1, "weight": 1, "parts": {},
            "state": "held", "at": now,
        });
        let key = Key::new("share", format!("{epoch}-{owner}")).unwrap();
        batch = batch.put(key, Document::encode(&share));
    }
    store.commit(batch).await.unwrap();
    write_verdict(&store, accused, 24).await;
    write_verdict(&store, convicted, 8 * 24).await;
    let policy = PayPolicy::named("seed").unwrap();
    let net = Net::set_up(Arc::clone(&store), |builder| builder.with_pay_policy(policy)).await;
    let id = accused.to_string().parse().unwrap();
    let cases = net.coordinator.cases();
    cases.appeal(&accused, id, "It was another file.").await.unwrap();
    let epoch = epoch.parse().unwrap();
    let states = async || {
        let shares = net.coordinator.payouts().shares(epoch).await.unwrap();
        let state =
            |owner: AccountId| shares.iter().find(|share| share.owner == owner).unwrap().state;
        [accused, convicted, honest].map(state)
    };
    tokio::time::sleep(10 * DAY).await;
    assert_eq!(states().await, [ShareState::Held, ShareState::Forfeited, ShareState::Owed]);
    cases.decide(id, Ruling::Overturn, None).await.unwrap();
    tokio::time::sleep(2 * HOUR).await;
    assert_eq!(states().await, [ShareState::Owed, ShareState::Forfeited, ShareState::Owed]);
}

/// A chat at temperature zero of a caller who lets any node read it.
fn comparable(net: &Net, caller: u8, prompt: &str) -> TaskRequest {
    let body = json!({
        "model": MODEL, "stream": true, "temperature": 0,
        "messages": [{"role": "user", "content": prompt}],
    });
    let account = AccountId::from_bytes([caller; 16]);
    let request = net.request(MODEL, prompt, true);
    TaskRequest { account, body: body.to_string().into(), ..request }
}

/// Has `node` answer a task.
async fn work(net: &Net, node: &Node, mut request: TaskRequest) -> String {
    request.placement.nodes = vec![node.id];
    net::answer(net.coordinator.submit(request)).await
}

#[tokio::test(start_paused = true)]
async fn honest_node_passes_fifty_tests_and_is_paid_by_evidence() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let net = network(&store).await;
    let started = VirtualClock.calendar();
    let join_all = async |net: &Net| {
        [
            join(net, TRUSTED[0], 80, reference()).await,
            join(net, TRUSTED[1], 81, reference()).await,
            join(net, OWNER, 1, honest().0).await,
            join(net, LIAR, 2, lying().0).await,
        ]
    };
    let nodes = join_all(&net).await;
    let (good, bad) = (nodes[2].id, nodes[3].id);
    tokio::time::sleep(4 * DAY).await;
    let model = MODEL.parse().unwrap();
    assert_eq!(net.coordinator.stage(&good, &model), Stage::Probation);
    let before = checked(&events(&store).await, good);
    assert!((20..40).contains(&before), "{before} in four days");
    for node in nodes {
        node.stop().await;
    }
    net.coordinator.shutdown().await;

    // What was shown is known to the next coordinator on these books.
    let net = network(&store).await;
    let nodes = join_all(&net).await;
    while net.coordinator.stage(&good, &model) != Stage::Watched {
        let waited = VirtualClock.calendar().saturating_since(started);
        assert!(waited < 9 * DAY, "{} tests", checked(&events(&store).await, good));
        tokio::time::sleep(HOUR).await;
    }
    assert!(checked(&events(&store).await, good) >= 50);
    assert_eq!(net.coordinator.stage(&bad, &model), Stage::Convicted);
    // The books count the seven days from the first test that was passed.
    tokio::time::sleep(DAY).await;
    for number in 0..60 {
        let prompt = format!("question {number}");
        for node in &nodes[2..] {
            work(&net, node, comparable(&net, 100 + number % 20, &prompt)).await;
        }
    }
    let month = Epoch::of(VirtualClock.calendar());
    assert_eq!(month, Epoch::of(started), "the story fits into a month");
    let payouts = net.coordinator.payouts();
    payouts.top_up("12".parse().unwrap(), "gift").await.unwrap();
    let left = month.end().saturating_since(VirtualClock.calendar());
    tokio::time::sleep(left + 9 * DAY).await;
    let shares = payouts.shares(month).await.unwrap();
    let owners: Vec<_> = shares.iter().map(|share| share.owner).collect();
    assert_eq!(owners, [OWNER], "whoever did nothing, or was found lying, has none");
    assert_eq!(shares[0].amount, "12".parse().unwrap());
    assert_eq!(shares[0].state, ShareState::Held);
}

/// Folds events as the rules of pay do.
fn rules_of(events: &[RewardEvent]) -> EvidenceRules {
    let mut rules = EvidenceRules::default();
    rules.begin(Epoch::of(VirtualClock.calendar()));
    for event in events {
        rules.apply(event);
    }
    rules
}

#[tokio::test(start_paused = true)]
async fn each_model_of_a_node_is_tested_and_paid_for_alone() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let net = network(&store).await;
    for (owner, seed) in TRUSTED.into_iter().zip(80..) {
        join(&net, owner, seed, reference_of(&[MODEL, "n"])).await;
    }
    let answer = |request: &GenerateRequest| Script::saying(words("", &messages(request)[0]));
    let (answers, _) = backend_of(&[MODEL, "n", "unscored"], Abilities::NONE, answer);
    let node = join(&net, OWNER, 1, answers).await.id;
    let models = [MODEL, "n", "unscored"].map(|model| model.parse().unwrap());
    let stages = || models.each_ref().map(|model| net.coordinator.stage(&node, model));
    let expected = [Stage::Watched, Stage::Watched, Stage::Probation];
    for _ in 0..9 * 24 {
        if stages() == expected {
            break;
        }
        tokio::time::sleep(HOUR).await;
    }
    assert_eq!(stages(), expected);
    tokio::time::sleep(DAY).await;
    let events = events(&store).await;
    let rules = rules_of(&events);
    let now = VirtualClock.calendar();
    let paid = models.each_ref().map(|model| rules.is_paid(&node, model, now));
    assert_eq!(paid, [true, true, false]);
    let later = now.saturating_add(15 * DAY);
    assert!(!rules.is_paid(&node, &models[0], later), "who is not tested any more is not paid");
}

/// Whose requests a node was told that it works on.
#[derive(Debug, Default)]
struct Names(Mutex<Vec<Option<String>>>);

impl WorkLog for Names {
    fn begun(&self, work: &Work) {
        self.0.lock().unwrap().push(work.caller.clone());
    }

    fn ended(&self, _: Done) {}
}

#[tokio::test(start_paused = true)]
async fn tests_that_go_with_a_strangers_tasks_come_in_its_name_too_and_never_in_that_of_the_blocked()
 {
    let (net, _references) = referenced().await;
    let names = Arc::new(Names::default());
    let log: Arc<dyn WorkLog> = names.clone();
    let identity = Identity::from_seed(&Secret::from_bytes([1; 32]));
    let (backend, asked) = honest();
    let _node = net.join_of(OWNER, identity, backend, |agent| agent.with_work_log(log)).await;
    let rules = net.coordinator.admittance();
    let tag = rules.set(OWNER, &CallerName::Account(CALLER), CallerRule::Invited).await.unwrap();
    let tag = Some(tag.caller.to_string());
    for number in 0..72 {
        // References answer some of them, too.
        let request = net.request(MODEL, &format!("question {number}"), true);
        let ended = net::read(&mut net.coordinator.submit(request)).await.1;
        assert!(matches!(ended, Outcome::Finished(_)), "{ended:?}");
        tokio::time::sleep(HOUR).await;
    }
    let heard = asked.lock().unwrap().clone();
    let served = heard.iter().filter(|prompt| prompt.starts_with("question ")).count();
    let told = names.0.lock().unwrap().clone();
    let tests = heard.len() - served;
    let in_its_name = told.iter().filter(|name| **name == tag).count() - served;
    assert!(tests > 12, "{tests}");
    assert!((tests / 8..tests).contains(&in_its_name), "{in_its_name} of {tests}");
    rules.set(OWNER, &CallerName::Account(CALLER), CallerRule::Blocked).await.unwrap();
    tokio::time::sleep(DAY).await;
    let since = names.0.lock().unwrap()[told.len()..].to_vec();
    assert!(!since.is_empty() && !since.contains(&tag), "{since:?}");
}

#[tokio::test(start_paused = true)]
async fn node_for_the_invited_is_tested_in_their_names() {
    let (net, _references) = referenced().await;
    let invited = Terms { callers: Callers::Invited, ..Terms::default() };
    let own = Terms { callers: Callers::Own, ..Terms::default() };
    let (for_guests, for_itself) = [invited, own]
        .map(|terms| watch::Sender::new(Conduct { terms, ..Conduct::default() }))
        .into();
    let identity = |seed| Identity::from_seed(&Secret::from_bytes([seed; 32]));
    let ((lies, heard), (more_lies, unheard)) = (lying(), lying());
    let set = |agent: AgentBuilder| agent.with_conduct(for_guests.subscribe());
    let bad = net.join_of(LIAR, identity(2), lies, set).await;
    let set = |agent: AgentBuilder| agent.with_conduct(for_itself.subscribe());
    let _own = net.join_of(LIAR, identity(3), more_lies, set).await;
    tokio::time::sleep(DAY).await;
    assert_eq!(heard.lock().unwrap().len(), 0, "it has invited nobody, and is asked by nobody");
    let account = Batch::new().put(Key::new("account", CALLER).unwrap(), Document::encode(&()));
    net.store.commit(account).await.unwrap();
    let guest = CallerName::Account(CALLER);
    net.coordinator.admittance().set(LIAR, &guest, CallerRule::Invited).await.unwrap();
    assert_eq!(conviction(&net).await.verdict().node, bad.id);
    assert_eq!(unheard.lock().unwrap().len(), 0, "its owner alone is answered, and pays nothing");
}

fn unanswered(events: &[RewardEvent], node: NodeId) -> usize {
    let silent =
        |event: &&RewardEvent| event.node == node && matches!(event.what, What::Unanswered { .. });
    events.iter().filter(silent).count()
}

#[tokio::test(start_paused = true)]
async fn node_that_answers_no_test_is_told_of_unpaid_and_never_accused() {
    let (net, references) = referenced().await;
    let (refusing, refused) =
        backend(Abilities::NONE, |_| Script::new().fail(BackendError::Failed));
    let silent = join(&net, OWNER, 1, refusing).await.id;
    // What a model thinks cannot be scored, and that is not its fault.
    let (thinking, thought) = backend(Abilities::NONE, |request| {
        let member = if request.stream { "delta" } else { "message" };
        let said = json!({"choices": [{"index": 0, member: {"reasoning_content": "so"}}]});
        let said = said.to_string().into();
        let said = if request.stream { Chunk::Json(said) } else { Chunk::Whole(said) };
        let finish = Finish { reason: "stop".to_owned(), usage: Usage::default() };
        [said, Chunk::Finished(finish)].into_iter().map(Step::Chunk).collect()
    });
    let thinks = join(&net, LIAR, 2, thinking).await.id;
    tokio::time::sleep(4 * DAY).await;
    assert!(thought.lock().unwrap().len() > 12, "{}", thought.lock().unwrap().len());
    let events = events(&net.store).await;
    let (tests, told) = (refused.lock().unwrap().len(), unanswered(&events, silent));
    assert!((1..=tests / 10).contains(&told), "{told} of {tests}");
    assert_eq!(unanswered(&events, thinks), 0);
    assert!(standing(&net, silent) < 500, "{}", standing(&net, silent));
    assert_eq!(standing(&net, thinks), 500);
    assert!(verdicts(&net).await.is_empty());
    assert_eq!(convicted(&events), []);
    let signs = net.coordinator.signs();
    assert!(signs.iter().all(|sign| sign.node == silent && sign.flag == Flag::Unanswered));
    assert!(!signs.is_empty());
    let code = "tests_unanswered".to_owned();
    assert!(codes_of(&net, &silent).await.contains(&code));
    assert!(!codes_of(&net, &thinks).await.contains(&code));
    assert!(!codes_of(&net, &references[0].id).await.contains(&code));

    // It stands as low after a restart.
    let low = standing(&net, silent);
    net.coordinator.shutdown().await;
    let net = network(&net.store).await;
    let (honest, _) = honest();
    let silent = join(&net, OWNER, 1, honest).await.id;
    assert!(standing(&net, silent).abs_diff(low) < 20, "{} {low}", standing(&net, silent));
    assert!(codes_of(&net, &silent).await.contains(&code), "nor is that forgotten");
    let _references = [
        join(&net, TRUSTED[0], 80, reference()).await,
        join(&net, TRUSTED[1], 81, reference()).await,
    ];
    tokio::time::sleep(DAY).await;
    assert!(!codes_of(&net, &silent).await.contains(&code), "the first answer ends it");
}

async fn codes_of(net: &Net, node: &NodeId) -> Vec<String> {
    let why = net.coordinator.why(node).await.unwrap().unwrap();
    why.hindrances.into_iter().map(|hindrance| hindrance.code).collect()
}

/// Frames of answers that a node has sent.
static OPEN: AtomicUsize = AtomicUsize::new(0);
static SEALED: AtomicUsize = AtomicUsize::new(0);

/// Counts the frames of answers, which have a bit that says whether they are sealed for the caller.
fn count_answers(frame: Frame) -> Frame {
    if let Frame::Binary(bytes) = &frame
        && let [2, flags, ..] = bytes[..]
    {
        let answers = if flags & 8 == 0 { &OPEN } else { &SEALED };
        answers.fetch_add(1, Ordering::Relaxed);
    }
    frame
}

/// What is left of a request when what is asked is taken out.
fn form(body: &str) -> String {
    let value: Value = serde_json::from_str(body).unwrap();
    let prompt = value["messages"][0]["content"].as_str().unwrap();
    let plain = Value::from(prompt).to_string();
    let start = body.find("\"content\":").unwrap() + 10;
    let text = body[start..].trim_start();
    let is_plain = text.starts_with(&plain);
    let end = if is_plain { plain.len() } else { text.find("\"}").unwrap() + 1 };
    format!("{}{}", &body[..start], &text[end..])
}

#[tokio::test(start_paused = true)]
async fn attack_33_canaries_come_as_other_requests_do() {
    let (net, _references) = referenced().await;
    let bodies: Arc<Mutex<Vec<(String, bool, Timestamp)>>> = Arc::default();
    let noted = Arc::clone(&bodies);
    let (watching, _) = backend(Abilities::NONE, move |request| {
        let body = String::from_utf8(request.body.to_vec()).unwrap();
        noted.lock().unwrap().push((body, request.stream, VirtualClock.calendar()));
        Script::saying(words("", &messages(request)[0]))
    });
    let _node = net.join_through(watching, count_answers).await;
    tokio::time::sleep(6 * DAY).await;
    let answers = [&OPEN, &SEALED].map(|answers| answers.load(Ordering::Relaxed));
    assert!(answers.into_iter().all(|answers| answers > 20), "{answers:?} frames, open and sealed");
    let bodies = bodies.lock().unwrap().clone();
    assert!(bodies.len() > 30, "{}", bodies.len());
    let mut forms = BTreeMap::new();
    for (body, stream, _) in &bodies {
        let read: Value = serde_json::from_str(body).unwrap();
        assert_eq!(read.get("stream").is_some(), *stream, "{body}");
        *forms.entry(form(body)).or_insert(0) += 1;
    }
    // As our own client writes it.
    let mut ours = ChatRequest::new(MODEL, vec![Message::user("")]);
    (ours.stream, ours.temperature, ours.max_tokens) = (Some(true), Some(0.0), Some(0));
    let ours = serde_json::to_string(&ours).unwrap().replace("\"content\":\"\"", "\"content\":");
    let ours: Vec<_> = ours.split("\"max_tokens\":0").collect();
    let is_ours = |form: &&String| form.starts_with(ours[0]) && form.ends_with(ours[1]);
    assert!(forms.keys().find(is_ours).is_some(), "{ours:?} in {forms:?}");
    let sorted = |form: &&String| form.find("\"max_tokens\"") < form.find("\"messages\"");
    assert!(forms.keys().find(sorted).is_none(), "{forms:?}");
    assert!(forms.len() >= 8, "{forms:?}");
    let seconds: BTreeSet<_> = bodies.iter().map(|(.., at)| at.as_secs() % 60).collect();
    assert!(seconds.len() >= 10, "they come at any moment: {seconds:?}");
}

#[tokio::test(start_paused = true)]
async fn attack_34_liars_that_agree_are_caught_by_a_reference() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let net = Net::set_up(Arc::clone(&store), |builder| {
        builder.with_trusted_owners(TRUSTED).with_comparisons(true)
    })
    .await;
    let _references = [
        join(&net, TRUSTED[0], 80, reference()).await,
        join(&net, TRUSTED[1], 81, reference()).await,
    ];
    let (one, two) = (lying(), lying());
    let liars = [
        join(&net, LIAR, 2, one.0).await,
        join(&net, AccountId::from_bytes([6; 16]), 3, two.0).await,
    ];
    tokio::time::sleep(HOUR / 2).await;
    for number in 0..40 {
        // Its own node comes first, and vouches for the other's.
        let owner = if number % 2 == 0 { 5 } else { 6 };
        let request = comparable(&net, owner, &format!("question {number}"));
        net::answer(net.coordinator.submit(request)).await;
        tokio::time::sleep(HOUR / 4).await;
    }
    tokio::time::sleep(2 * DAY).await;
    let found: Vec<_> = verdicts(&net).await.iter().map(|case| case.verdict().node).collect();
    assert!(liars.iter().all(|liar| found.contains(&liar.id)), "{found:?}");
    let events = events(&store).await;
    assert!(
        liars.iter().all(|liar| checked(&events, liar.id) == 0),
        "agreement counts for nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn a_chat_is_given_to_a_second_owner_only_where_all_agree_to_that() {
    for compares in [false, true] {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let net = Net::set_up(Arc::clone(&store), |builder| {
            builder.with_trusted_owners(TRUSTED).with_comparisons(compares)
        })
        .await;
        let _reference = join(&net, TRUSTED[0], 80, reference()).await;
        let identity = Identity::from_seed(&Secret::from_bytes([1; 32]));
        let slots = |agent: AgentBuilder| agent.with_slots(4);
        let _first = net.join_of(OWNER, identity, honest().0, slots).await;
        let (second, asked) = honest();
        let _second = join(&net, LIAR, 2, second).await;
        // Until they are known.
        tokio::time::sleep(HOUR / 12).await;
        // A caller's own node comes first, so others are asked for nothing but to compare.
        let ask = async |prompt: &str, change: fn(&mut TaskRequest)| {
            let mut request = comparable(&net, 1, prompt);
            change(&mut request);
            net::answer(net.coordinator.submit(request)).await;
            tokio::time::sleep(HOUR / 12).await;
        };
        for number in 0..20 {
            ask(&format!("question {number}"), |_| ()).await;
            ask("private: own nodes", |request| request.placement.own = Own::Only).await;
            ask("private: not that one", |request| {
                request.placement.denied = vec!["b".repeat(26).parse().unwrap()];
            })
            .await;
            ask("private: drawn", |request| {
                let body = String::from_utf8(request.body.to_vec()).unwrap();
                let body = body.replace("\"temperature\":0", "\"temperature\":1");
                request.body = body.into();
            })
            .await;
        }
        let asked = asked.lock().unwrap().clone();
        let compared = asked.iter().filter(|prompt| prompt.starts_with("question")).count();
        assert_eq!(compared > 0, compares, "{asked:?}");
        assert!(!asked.iter().any(|prompt| prompt.starts_with("private")), "{asked:?}");
        assert_eq!(net.coordinator.stats().finished, 80, "comparisons are in nobody's books");
    }
}
