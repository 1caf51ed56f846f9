//! What plans cost, and what dividing work gains: the state machine by itself, a plan of one step
//! beside the plain request that it comes to, and independent steps over more and more nodes.

use std::future::pending;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion};
use futures::FutureExt;
use futures::future::{self, BoxFuture};
use futures::stream::{self, BoxStream, StreamExt};
use iris_client::{Client, Policy, Shape};
use iris_coordinator::Coordinator;
use iris_coordinator::http::{Server, ServerSettings};
use iris_core::backend::{
    Backend, BackendError, Chunk, Finish, GenerateRequest, ScriptedBackend, Usage,
};
use iris_core::model::ModelOffer;
use iris_core::plan::{
    Assignment, Driven, Event, Output, Placed, Plan, PlanRun, Progress, Report, Worker, drive,
};
use iris_core::store::MemoryStore;
use iris_crypto::{Identity, Secret};
use iris_node::agent::{Agent, Status, WebSocketConnector};
use iris_protocol::rest::KeyScope;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// How many parts the large plan has.
const PARTS: u32 = 1000;
/// How often each way of asking is measured, in turns.
const ROUNDS: usize = 200;
/// By how many nodes the speed-up is measured.
const NODES: [u32; 4] = [1, 2, 4, 8];
/// How long a node takes for a step when the speed-up is measured.
const DELAY: Duration = Duration::from_millis(250);
/// How often the speed-up is measured.
const TRIES: usize = 5;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
        .configure_from_args();
    alone(&mut criterion);
    criterion.final_summary();
    let is_measured = std::env::args().any(|arg| arg == "--bench");
    if is_measured {
        let runtime = Runtime::new().expect("the system has threads");
        runtime.block_on(overhead());
        runtime.block_on(speed_up());
    }
}

/// The state machine by itself, with a worker that answers at once.
fn alone(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("the system has threads");
    for (name, plan) in [("plan of 1 step", one_step()), ("plan of 1,000 parts, merged", parts())] {
        criterion.bench_function(name, |bencher| {
            bencher.to_async(&runtime).iter_batched(
                || PlanRun::new(plan.clone()).expect("it is a plan"),
                |run| async move { finished(drive(run, &Prompt).await) },
                BatchSize::LargeInput,
            );
        });
    }
    let (plan, events) = (parts(), events(PARTS));
    criterion.bench_function("replay of 1,000 events", |bencher| {
        bencher.iter_batched(
            || (plan.clone(), events.clone()),
            |(plan, events)| black_box(PlanRun::replay(plan, events).expect("they fit the plan")),
            BatchSize::LargeInput,
        );
    });
}

fn read(plan: &Value) -> Plan {
    Plan::read(plan, None).expect("it is a plan")
}

fn one_step() -> Plan {
    read(&json!({ "model": "m", "input": "Who is it?", "steps": [
        { "name": "answer", "prompt": "{{ input }}" },
    ]}))
}

fn parts() -> Plan {
    let parts: Vec<_> = (0..PARTS).map(|part| format!("part {part}")).collect();
    read(&json!({ "model": "m", "steps": [
        { "name": "found", "each": parts, "prompt": "Read {{ item }}" },
        { "name": "answer", "fold": "found", "prompt": "Merge {{ item }}" },
    ]}))
}

/// What came of the first assignments.
fn events(count: u32) -> Vec<(Duration, Event)> {
    let event = |number| Event::Ended {
        number: iris_core::plan::Number(number),
        placed: Placed::default(),
        result: Ok(output()),
    };
    (0..count).map(|number| (Duration::from_millis(number.into()), event(number))).collect()
}

fn output() -> Output {
    let usage = Usage { prompt_tokens: 10, completion_tokens: 5 };
    Output { text: "an answer of five words".to_owned(), finish_reason: "stop".to_owned(), usage }
}

fn finished(driven: Driven) -> Box<PlanRun> {
    match driven {
        Driven::Over { run, .. } => run,
        Driven::Suspended => panic!("this worker writes nothing down"),
    }
}

/// A worker that answers at once.
struct Prompt;

impl Worker for Prompt {
    fn start(&self, _assignment: Assignment) -> BoxStream<'static, Report> {
        stream::iter([
            Report::Started(Placed::default()),
            Report::Ended(Placed::default(), Ok(output())),
        ])
        .boxed()
    }

    fn record<'a>(&'a self, _at: Duration, _event: &'a Event) -> BoxFuture<'a, bool> {
        future::ready(true).boxed()
    }

    fn tell(&self, _run: &PlanRun, progress: &Progress) {
        black_box(progress);
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep_until(&self, _due: Duration) -> BoxFuture<'static, ()> {
        pending().boxed()
    }

    fn next_event(&self) -> BoxFuture<'_, Event> {
        pending().boxed()
    }
}

/// Prints what a plan of one step adds to the request that it comes to, over real sockets.
async fn overhead() {
    println!("\nA plan of one step, beside the request that it comes to:\n");
    println!("| policy | request | plan | ratio |\n|---|---|---|---|");
    let backend = || ScriptedBackend::echo("m".parse().expect("it is a name"));
    let network = Network::start(2, backend).await;
    for policy in [Policy::Open, Policy::Sealed] {
        let client = network.client(policy).await;
        let (mut plain, mut planned) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            plain.push(timed(client.ask("m", "Who is it?").send()).await);
            planned.push(timed(client.plan(one_step()).run()).await);
        }
        let (plain, planned) = (median(plain), median(planned));
        let ratio = planned.as_secs_f64() / plain.as_secs_f64();
        println!("| {policy:?} | {plain:.2?} | {planned:.2?} | {ratio:.2} |");
    }
}

/// Prints how much sooner k independent steps are done on k nodes than on one.
async fn speed_up() {
    println!("\nIndependent steps of {DELAY:?} each, one for each node:\n");
    println!("| nodes | one after the other | side by side | speed-up | of ideal |");
    println!("|---|---|---|---|---|");
    for nodes in NODES {
        let network = Network::start(nodes, || Slow).await;
        let client = network.client(Policy::Sealed).await;
        let steps = independent(nodes);
        let (mut alone, mut together) = (Vec::new(), Vec::new());
        for _ in 0..TRIES {
            for (taken, side_by_side) in [(&mut alone, 1), (&mut together, nodes)] {
                let plan = Plan { side_by_side, ..steps.clone() };
                taken.push(timed(client.plan(plan).with_spread(true).run()).await);
            }
        }
        let (alone, together) = (median(alone), median(together));
        let gained = alone.as_secs_f64() / together.as_secs_f64();
        let of_ideal = gained / f64::from(nodes);
        println!("| {nodes} | {alone:.2?} | {together:.2?} | {gained:.2} | {of_ideal:.2} |");
    }
}

fn independent(steps: u32) -> Plan {
    let parts: Vec<_> = (0..steps).map(|part| format!("part {part}")).collect();
    read(&json!({ "model": "m", "steps": [
        { "name": "found", "each": parts, "prompt": "{{ item }}" },
        { "name": "answer", "join": { "of": ["found"], "how": "concat" } },
    ]}))
}

async fn timed<T, E: std::fmt::Debug>(asked: impl Future<Output = Result<T, E>>) -> Duration {
    let begun = Instant::now();
    asked.await.expect("the network answers");
    begun.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// A model that takes its time.
#[derive(Debug)]
struct Slow;

impl Backend for Slow {
    fn models(&self) -> BoxFuture<'_, Result<Vec<ModelOffer>, BackendError>> {
        let offer = ModelOffer::new("m".parse().expect("it is a name"), 8192);
        future::ready(Ok(vec![offer])).boxed()
    }

    fn generate(&self, _: GenerateRequest) -> BoxStream<'static, Result<Chunk, BackendError>> {
        let waiting = async {
            tokio::time::sleep(DELAY).await;
            let usage = Usage { prompt_tokens: 10, completion_tokens: 1 };
            let finish = Finish { reason: "stop".to_owned(), usage };
            stream::iter([Ok(Chunk::Text("done".to_owned())), Ok(Chunk::Finished(finish))])
        };
        stream::once(waiting).flatten().fuse().boxed()
    }
}

/// A coordinator, and nodes of one slot, over sockets of this machine.
struct Network {
    coordinator: Coordinator,
    url: String,
}

impl Network {
    async fn start<B: Backend>(nodes: u32, backend: impl Fn() -> B) -> Self {
        let store = Arc::new(MemoryStore::new());
        let builder = Coordinator::builder(store, Identity::generate(), Secret::generate());
        let coordinator = builder.build().await.expect("the store is empty");
        let server = Server::bind(coordinator.clone(), ServerSettings::default()).await;
        let server = server.expect("a port is free");
        let url = format!("http://{}", server.local_addr().expect("it is bound"));
        tokio::spawn(server.run(pending()));
        let network = Self { coordinator, url };
        let key = network.key(KeyScope::Node).await;
        for _ in 0..nodes {
            network.join(backend(), &key).await;
        }
        network
    }

    async fn key(&self, scope: KeyScope) -> String {
        let accounts = self.coordinator.accounts();
        let account = accounts.create_account().await.expect("the store is there").account;
        let key = accounts.create_key_for(account, scope).await;
        key.expect("the account is there").key.expose().to_owned()
    }

    async fn join(&self, backend: impl Backend, key: &str) {
        let url = self.url.parse().expect("it is an address");
        let connector = WebSocketConnector::new(url, key.to_owned());
        let agent = Agent::builder(Identity::generate(), Arc::new(backend));
        let agent = agent.with_measurement(false).with_slots(1).build();
        let mut status = agent.status();
        tokio::spawn(agent.run_on(connector, pending()));
        let online = status.wait_for(|status| matches!(status, Status::Online { .. })).await;
        online.expect("the node runs");
    }

    async fn client(&self, policy: Policy) -> Client {
        let key = self.key(KeyScope::Inference).await;
        let builder = Client::builder(&self.url).with_api_key(key).with_policy(policy);
        builder.with_shape(Shape::Off).build().expect("the address is one of this machine")
    }
}
