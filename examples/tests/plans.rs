//! Every way of dividing work, with the bundled model: through the coordinator's `/inference`, and
//! by the client itself over sealed steps.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail with their test")]

mod live;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::future::pending;
use std::sync::Arc;

use futures::StreamExt;
use iris_client::{Client, PlanAnswer, Policy, Privacy, Shape};
use iris_core::NodeId;
use iris_core::backend::{Backend, Script, ScriptedBackend};
use iris_core::model::ModelOffer;
use iris_core::plan::{
    Aggregate, Agreement, Chat, Compare, Dataset, Decision, Division, ModeChoice, Plan, Progress,
    UnitState,
};
use iris_core::store::Key;
use iris_crypto::Identity;
use iris_node::agent::{Agent, Status, WebSocketConnector};
use iris_node::backend::engine::{BUNDLED_MODEL, Engine};
use iris_node::datasets::{Access, Datasets};
use iris_protocol::rest::KeyScope;
use live::Live;
use live::caller::Request;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

const FRIENDS: &str = "Anna lived in a village. A dog followed Anna every day, and soon they were \
                       best friends. In the end Anna learned that a good friend is worth more than \
                       gold.";
const CAVE: &str = "Once upon a time Hugo lived in a forest. Hugo was afraid of the dark cave, but \
                    went in to save a lost fox. So Hugo learned that fear is small when you face \
                    it.";
const SEEDS: &str = "In a valley there lived Marco. Marco planted seeds and watched the flowers \
                     grow in the rain. So Marco learned that the forest gives to those who care \
                     for it.";

/// A network whose nodes belong to different owners.
struct Owners {
    live: Live,
    nodes: Vec<(NodeId, AbortOnDropHandle<()>)>,
    folder: tempfile::TempDir,
}

impl Owners {
    /// Starts a network of three nodes with the bundled model. Each has a data set, `ward`.
    async fn of_engines() -> Self {
        let mut owners = Self::none().await;
        for number in 0..3 {
            owners.join(Engine::bundled().unwrap(), number).await;
        }
        owners
    }

    async fn none() -> Self {
        let (live, folder) = (Live::start().await, tempfile::tempdir().unwrap());
        Self { live, nodes: Vec::new(), folder }
    }

    async fn join(&mut self, backend: impl Backend, number: usize) {
        let accounts = self.live.coordinator.accounts();
        let owner = accounts.create_account().await.unwrap().account;
        let key = accounts.create_key_for(owner, KeyScope::Node).await.unwrap().key;
        let url = format!("http://{}", self.live.address).parse().unwrap();
        let connector = WebSocketConnector::new(url, key.expose().to_owned());
        let file = self.folder.path().join(format!("{number}.json"));
        std::fs::write(&file, format!("[{number}]")).unwrap();
        let mut datasets = Datasets::new();
        datasets.add("ward", file, Access::Anyone).unwrap();
        let agent = Agent::builder(Identity::generate(), Arc::new(backend))
            .with_measurement(false)
            .with_slots(4)
            .with_datasets(datasets)
            .build();
        let (id, mut status) = (agent.node_id(), agent.status());
        let running = tokio::spawn(async move {
            agent.run_on(connector, pending()).await.unwrap();
        });
        let online = |status: &Status| matches!(status, Status::Online { .. });
        tokio::time::timeout(live::SOON, status.wait_for(online)).await.unwrap().unwrap();
        self.nodes.push((id, AbortOnDropHandle::new(running)));
    }

    fn ids(&self) -> Vec<NodeId> {
        self.nodes.iter().map(|(id, _)| *id).collect()
    }

    fn client(&self) -> Client {
        let builder = Client::builder(format!("http://{}", self.live.address));
        builder.with_api_key(self.live.key.clone()).with_shape(Shape::Off).build().unwrap()
    }

    /// Lets the client carry a plan out, each step sealed on its own.
    async fn sealed(&self, plan: Plan) -> PlanAnswer {
        let answer = self.client().plan(plan).with_spread(true).run().await.unwrap();
        assert!(matches!(answer.privacy, None | Some(Privacy::Sealed)), "{:?}", answer.privacy);
        answer
    }

    /// Submits a task to the coordinator, follows it to its end, and returns its status.
    async fn open(&self, task: Value) -> Value {
        let request = Request::post("/inference", task).bearer(&self.live.key);
        let mut reply = self.live.send(request).await;
        let taken = reply.json().await;
        assert_eq!(reply.status, 202, "{taken}");
        let path = format!("/inference/{}", taken["id"].as_str().unwrap());
        let get = |path: &str| self.live.send(Request::get(path).bearer(&self.live.key));
        let mut events = get(&format!("{path}/events")).await;
        while events.event().await.unwrap().is_some() {}
        get(&path).await.json().await
    }

    /// Lets the coordinator divide a question, and then the client; returns what each made of it.
    async fn divided(&self, chat: Chat, division: &Division) -> (Value, PlanAnswer) {
        let mut task = serde_json::to_value(division).unwrap();
        let members = json!({
            "model": chat.model, "prompt": chat.prompt, "max_tokens": chat.max_tokens,
        });
        task.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        task.as_object_mut().unwrap().extend(chat.params.clone());
        let status = self.open(task).await;
        assert_eq!(status["status"], "finished", "{status}");
        let plan = self.client().divide(chat, division).await.unwrap();
        (status, self.sealed(plan).await)
    }

    /// Divides a question both ways and expects the same answer; returns it.
    async fn answer(&self, chat: Chat, division: &Division) -> String {
        let (status, sealed) = self.divided(chat, division).await;
        assert_eq!(status["result"]["text"], sealed.text.as_str());
        sealed.text
    }

    /// Carries a plan out both ways and expects the same answer; returns it.
    async fn both(&self, plan: Plan) -> String {
        let status = self.open(json!({ "plan": plan })).await;
        assert_eq!(status["status"], "finished", "{status}");
        let sealed = self.sealed(plan).await;
        assert_eq!(status["result"]["text"], sealed.text.as_str());
        sealed.text
    }
}

fn tiny(prompt: &str) -> Chat {
    let mut chat = Chat::new(BUNDLED_MODEL.parse().unwrap(), prompt);
    chat.params.insert("temperature".to_owned(), json!(0));
    chat.max_tokens = Some(64);
    chat
}

fn mode(mode: ModeChoice) -> Division {
    Division { mode, ..Division::default() }
}

/// The different nodes that worked on a plan.
fn workers(status: &Value) -> usize {
    let steps = status["steps"].as_array().unwrap().iter();
    let placed = steps.flat_map(|step| step["placed"].as_array().cloned().unwrap_or_default());
    placed.map(|placed| placed["node"].to_string()).collect::<BTreeSet<_>>().len()
}

#[tokio::test]
async fn one_step_answers_as_a_chat_does() {
    let owners = Owners::of_engines().await;
    let answer = owners.answer(tiny("What is 3 + 4?"), &mode(ModeChoice::Single)).await;
    assert_eq!(answer, "3 + 4 = 7");
}

#[tokio::test]
async fn three_things_to_extract_are_three_subtasks() {
    let owners = Owners::of_engines().await;
    let prompt =
        format!("Extract the themes, characters and conclusions from this text. {FRIENDS}");
    let (status, sealed) = owners.divided(tiny(&prompt), &mode(ModeChoice::Subtasks)).await;
    let answer = sealed.text;
    assert_eq!(status["result"]["text"], answer.as_str());
    let at = |part: &str| answer.find(part).unwrap_or_else(|| panic!("{part}: {answer}"));
    let parts = [
        at("Themes: friendship."),
        at("Characters: Anna, dog."),
        at("Conclusion: A good friend is worth more than gold."),
    ];
    assert!(parts.is_sorted(), "{answer}");
    let asked = sealed.units.iter().filter(|unit| unit.assignments > 0).count();
    assert_eq!(asked, 3);
}

#[tokio::test]
async fn nodes_of_three_owners_agree_on_a_sum() {
    let owners = Owners::of_engines().await;
    let division = Division { quorum: Some(3), ..mode(ModeChoice::Consensus) };
    let (status, sealed) = owners.divided(tiny("What is 17 + 5?"), &division).await;
    assert_eq!(status["result"]["text"], "17 + 5 = 22", "{status}");
    assert_eq!((workers(&status), &status["steps"][0]["dissent"]), (3, &Value::Null));
    assert_eq!(sealed.text, "17 + 5 = 22");
    let nodes: BTreeSet<_> = sealed.units[0].placed.iter().filter_map(|at| at.node).collect();
    assert_eq!(nodes.len(), 3);
}

#[tokio::test]
async fn node_that_miscounts_is_outvoted_and_named() {
    let mut owners = Owners::none().await;
    for number in 0..2 {
        owners.join(Engine::bundled().unwrap(), number).await;
    }
    let name = BUNDLED_MODEL.parse().unwrap();
    owners.join(ScriptedBackend::saying(name, ["17 + 5 = 23"]), 2).await;
    let agree = Some(Agreement::Number { tolerance: 0.0 });
    let division = Division { quorum: Some(3), agree, ..mode(ModeChoice::Consensus) };
    let (status, sealed) = owners.divided(tiny("What is 17 + 5?"), &division).await;
    assert_eq!(status["result"]["text"], "17 + 5 = 22", "{status}");
    assert_eq!(status["steps"][0]["dissent"], json!([owners.ids()[2]]));
    assert_eq!((&*sealed.text, &sealed.units[0].dissent[..]), ("17 + 5 = 22", &owners.ids()[2..]));
}

#[tokio::test]
async fn data_sets_of_three_nodes_give_one_mean() {
    let mut owners = Owners::none().await;
    for number in 0..3 {
        let offer = ModelOffer::new("m".parse().unwrap(), 4096);
        // What it is told of the data set is a JSON array of one number, the node's own.
        let reader = ScriptedBackend::new([offer], |request| {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let told = body["messages"][0]["content"].as_str().unwrap();
            Script::new().text(told.lines().last().unwrap())
        });
        owners.join(reader, number).await;
    }
    let division = Division {
        datasets: vec![Dataset { name: "ward".to_owned(), key: None }],
        nodes: owners.ids(),
        aggregate: Some(Aggregate::Mean),
        ..mode(ModeChoice::Collaborative)
    };
    let chat = Chat::new("m".parse().unwrap(), "What is the mean?");
    let answer = owners.answer(chat, &division).await;
    let answer: Vec<f64> = serde_json::from_str(&answer).unwrap();
    assert!((answer[0] - 1.0).abs() < 1e-9, "{answer:?}");
    assert_eq!(answer.len(), 1);
}

#[tokio::test]
async fn bundled_model_works_beside_data_sets() {
    let owners = Owners::of_engines().await;
    let division = Division {
        datasets: vec![Dataset { name: "ward".to_owned(), key: None }],
        nodes: owners.ids(),
        ..mode(ModeChoice::Collaborative)
    };
    let answer = owners.answer(tiny("What is 3 + 4?"), &division).await;
    assert_eq!(answer, ["3 + 4 = 7"; 3].join("\n\n"));
}

#[tokio::test]
async fn two_models_are_compared_and_a_person_decides() {
    let mut owners = Owners::none().await;
    owners.join(Engine::bundled().unwrap(), 0).await;
    owners.join(ScriptedBackend::saying("other".parse().unwrap(), ["3 + 4 = 8"]), 1).await;
    owners.join(ScriptedBackend::saying("third".parse().unwrap(), ["It is 7."]), 2).await;
    let models = [BUNDLED_MODEL, "other", "third"].map(|name| name.parse().unwrap()).to_vec();
    let agree = Some(Agreement::Number { tolerance: 0.0 });
    let division = Division { models, agree, ..mode(ModeChoice::Comparative) };
    assert_eq!(owners.answer(tiny("What is 3 + 4?"), &division).await, "3 + 4 = 7");

    let method = Some(Compare::Expert);
    let client = owners.client();
    let division = Division { method, agree: None, ..division };
    let plan = client.divide(tiny("What is 3 + 4?"), &division).await.unwrap();
    let mut running = client.plan(plan).with_spread(true).stream().unwrap();
    while let Some(progress) = running.next().await {
        let Progress::Waiting { unit, choices } = progress else { continue };
        let laid = running.laid_out();
        let texts: Vec<_> = laid.iter().filter(|report| choices.contains(&report.unit)).collect();
        assert_eq!(texts[0].text.as_deref(), Some("3 + 4 = 7"));
        let choose = Some(texts[2].unit.clone());
        running.decide(Decision { step: unit, choose, text: None });
    }
    assert_eq!(running.finish().await.unwrap().text, "It is 7.");
}

#[tokio::test]
async fn file_of_a_plan_runs_as_printed() {
    let owners = Owners::of_engines().await;
    let run = |story: &str| owners.both(from_file(story));
    let friends = run(FRIENDS).await;
    assert_eq!(
        friends,
        "Themes: friendship.\nCharacters: Anna, dog.\n\"the green house\" in Spanish is \"la casa \
         verde\"."
    );
    // Where the condition does not hold, the step is left out.
    assert_eq!(run(CAVE).await, "Themes: courage.\nCharacters: Hugo, fox.");
}

/// Reads `examples/plan.toml`, as `iris run` does.
fn from_file(input: &str) -> Plan {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/plan.toml");
    let source = config::File::new(file, config::FileFormat::Toml);
    let read = config::Config::builder().add_source(source).build().unwrap();
    let mut members: Value = read.try_deserialize().unwrap();
    members["input"] = input.into();
    Plan::read(&members, None).unwrap()
}

#[tokio::test]
async fn chain_falls_back_and_undoes_what_it_did() {
    let owners = Owners::of_engines().await;
    let chain = |last: &str| {
        let steps = json!({ "model": BUNDLED_MODEL, "steps": [
            { "name": "word", "model": "absent", "fallback": [BUNDLED_MODEL],
              "prompt": "Write \"rabbit\" backwards.", "undo": { "model": BUNDLED_MODEL, "prompt": "Write {{ word }} backwards." },
              "params": { "temperature": 0 }, "max_tokens": 32 },
            { "name": "letters", "prompt": "How many letters are in {{ word }}?",
              "params": { "temperature": 0 }, "max_tokens": 32 },
            { "name": "never", "prompt": "Hello", "when": { "step": "letters", "above": 9 } },
            { "name": "end", "model": last, "when": { "step": "letters", "contains": "6" },
              "prompt": "What is the first letter of {{ word }}?",
              "params": { "temperature": 0 }, "max_tokens": 32 },
        ]});
        Plan::read(&steps, None).unwrap()
    };
    assert_eq!(owners.both(chain(BUNDLED_MODEL)).await, "The first letter of \"tibbar\" is \"t\".");
    let failed = owners.open(json!({ "plan": chain("absent") })).await;
    assert_eq!(failed["status"], "failed", "{failed}");
    let steps = failed["steps"].as_array().unwrap().iter();
    let states: Vec<_> = steps.map(|step| (&step["unit"], &step["state"])).collect();
    let expected = [("word", "undone"), ("letters", "finished"), ("end", "failed")];
    for (unit, state) in expected {
        assert!(states.contains(&(&json!(unit), &json!(state))), "{states:?}");
    }
    let error = owners.client().plan(chain("absent")).with_spread(true).run().await.unwrap_err();
    let iris_client::ClientError::Plan(failure) = error else { panic!("{error:?}") };
    assert_eq!((failure.step.as_deref(), failure.units[0].state), (Some("end"), UnitState::Undone));
}

#[tokio::test]
async fn stories_of_a_few_kilobytes_are_read_in_pieces() {
    let owners = Owners::of_engines().await;
    let stories = [FRIENDS, CAVE, SEEDS].map(|story| format!("{story}\n\n")).concat().repeat(6);
    let division = Division { document: Some(stories), ..mode(ModeChoice::Context) };
    let question = tiny("Extract the characters from this text.");
    let (status, sealed) = owners.divided(question, &division).await;
    let read = sealed.sources().count();
    assert!(read > 3, "{read} pieces");
    assert_eq!(status["result"]["text"], sealed.text.as_str());
    let read = sealed.units.iter().filter(|unit| unit.source.is_some());
    let read: Vec<_> = read.map(|unit| unit.text.as_deref().unwrap()).collect();
    let named = |text: &&&str| ["Anna", "Hugo", "Marco"].iter().any(|name| text.contains(name));
    // So small a model reads most pieces right, and not all of them.
    assert!(read.iter().filter(named).count() * 2 > read.len(), "{read:?}");
}

#[tokio::test]
async fn no_line_of_several_megabytes_is_lost() {
    const LINES: usize = 40_000;
    let mut owners = Owners::none().await;
    for number in 0..3 {
        let offer = ModelOffer::new("m".parse().unwrap(), 8192);
        // It repeats the marked lines that it is told.
        let reader = ScriptedBackend::new([offer], |request| {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let told = body["messages"].as_array().unwrap().last().unwrap()["content"].to_string();
            let told: String = serde_json::from_str(&told).unwrap();
            let marked: BTreeSet<_> = told
                .lines()
                .filter(|line| line.ends_with('!'))
                .filter_map(|line| line.find("line ").map(|at| &line[at..]))
                .collect();
            Script::new().text(marked.into_iter().collect::<Vec<_>>().join("\n"))
        });
        owners.join(reader, number).await;
    }
    let mut document = String::new();
    for line in 0..LINES {
        let mark = if line % 1000 == 0 { '!' } else { '.' };
        writeln!(
            document,
            "line {line:05}: nothing else of note has happened on this long day{mark}"
        )
        .unwrap();
    }
    assert!(document.len() > 2_500_000);
    let division = Division { document: Some(document), ..mode(ModeChoice::Context) };
    let question = Chat::new("m".parse().unwrap(), "What is marked?");
    let answer = owners.answer(question, &division).await;
    let found: BTreeSet<_> = answer.lines().filter_map(|line| line.get(5..10)).collect();
    let marked: Vec<_> = (0..LINES).step_by(1000).map(|line| format!("{line:05}")).collect();
    assert_eq!(found, marked.iter().map(String::as_str).collect());
}

#[tokio::test]
async fn sealed_plan_leaves_nothing_readable_with_the_coordinator() {
    let owners = Owners::of_engines().await;
    assert_eq!(owners.client().policy(), Policy::Sealed);
    let prompt = format!("Extract the themes and characters from this text. {FRIENDS}");
    let subtasks = mode(ModeChoice::Subtasks);
    let plan = owners.client().divide(tiny(&prompt), &subtasks).await.unwrap();
    owners.sealed(plan).await;
    for kind in ["settlement", "inference", "node", "model"] {
        let records: Vec<_> = owners.live.store.scan(Key::all(kind)).collect().await;
        let text = format!("{records:?}");
        assert!(!text.contains("Anna") && !text.contains("friend"), "{kind}");
    }
    let rows = owners.live.settlements().await;
    assert_eq!((rows.len(), rows.iter().all(|row| row.sealed)), (2, true));
}
