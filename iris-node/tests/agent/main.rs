//! What an agent does, seen from its coordinator.

// What fails here is a test.
#![allow(clippy::unwrap_used)]

mod coordinator;
mod hostile;
mod owner;
#[cfg(all(unix, feature = "cli", feature = "engine", feature = "openai"))]
mod process;
mod sealed;
mod socket;
mod upheaval;
mod work;
mod work_log;

use std::future::Future;
use std::sync::Arc;

use iris_core::backend::{Backend, Script, ScriptedBackend};
use iris_core::model::ModelOffer;
use iris_crypto::Identity;
use iris_node::agent::{Agent, AgentBuilder, AgentError, Connector, Status};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use coordinator::{Coordinator, NOW, PATIENCE};

/// An agent at work.
struct Running {
    status: watch::Receiver<Status>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), AgentError>>,
}

impl Running {
    fn new(agent: Agent, connector: impl Connector) -> Self {
        let (stop, stopped) = oneshot::channel();
        let status = agent.status();
        let shutdown = async {
            // A test that forgets the agent lets it run.
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let task = tokio::spawn(agent.run_on(connector, shutdown));
        Self { status, stop: Some(stop), task }
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    async fn ended(self) -> Result<(), AgentError> {
        timeout(PATIENCE, self.task).await.expect("the agent ends").unwrap()
    }

    async fn becomes(&mut self, wanted: impl FnMut(&Status) -> bool) -> Status {
        let status = timeout(PATIENCE, self.status.wait_for(wanted)).await;
        status.expect("the agent's status changes").unwrap().clone()
    }
}

fn builder(backend: &ScriptedBackend) -> AgentBuilder {
    builder_of(Arc::new(backend.clone()))
}

fn builder_of(backend: Arc<dyn Backend>) -> AgentBuilder {
    Agent::builder(Identity::generate(), backend)
        .with_clock(|| NOW)
        .with_seed(7)
        .with_measurement(false)
}

/// Runs an agent with `slots` places and a registered connection.
async fn online(backend: &ScriptedBackend, slots: u32) -> (Coordinator, Running) {
    online_as(builder(backend).with_slots(slots)).await
}

async fn online_as(builder: AgentBuilder) -> (Coordinator, Running) {
    let (mut coordinator, connector) = Coordinator::new();
    let running = Running::new(builder.build(), connector);
    coordinator.accept().await;
    (coordinator, running)
}

/// Makes a backend that offers `m` and answers by `script`.
fn scripted(script: impl Fn() -> Script + Send + Sync + 'static) -> ScriptedBackend {
    let offer = ModelOffer::new("m".parse().unwrap(), 4096);
    ScriptedBackend::new([offer], move |_| script())
}

/// Waits until `done`, letting everything else run.
async fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if done() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it does not come about");
}

/// Resolves when nothing but time can bring anything about any more.
fn quiet() -> impl Future<Output = ()> {
    // Paused time moves only when every task waits.
    tokio::time::sleep(std::time::Duration::from_millis(1))
}
