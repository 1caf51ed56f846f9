//! A network within this process, as `in_process.rs` shows it step by step.

use std::error::Error;
use std::future::pending;
use std::sync::Arc;

use iris_coordinator::{Builder, Coordinator, TaskEvent, TaskRequest};
use iris_core::AccountId;
use iris_core::backend::{Backend, Chunk};
use iris_core::task::Outcome;
use iris_crypto::Identity;
use iris_node::agent::{Agent, Link, Status};
use iris_protocol::transport::memory;

/// What went wrong, for programs that only print it.
pub(crate) type AnyError = Box<dyn Error + Send + Sync>;

/// A coordinator, and nodes that live as long as this process.
pub(crate) struct SmallNetwork {
    coordinator: Coordinator,
    account: AccountId,
}

impl SmallNetwork {
    /// Starts the coordinator that `builder` describes and one node for each of `backends`.
    pub(crate) async fn start(
        builder: Builder,
        backends: impl IntoIterator<Item = Arc<dyn Backend>>,
    ) -> Result<Self, AnyError> {
        let coordinator = builder.build().await?;
        let account = coordinator.accounts().create_account().await?.account;
        let network = Self { coordinator, account };
        for backend in backends {
            network.join(backend).await?;
        }
        Ok(network)
    }

    async fn join(&self, backend: Arc<dyn Backend>) -> Result<(), AnyError> {
        let (network, owner) = (self.coordinator.clone(), self.account);
        let connect = move || {
            let ((near, far), network) = (memory::pair(16), network.clone());
            tokio::spawn(async move { network.serve_node(far, owner).await });
            async { Ok(Link::new("in process", near)) }
        };
        // Measuring would count as work, and some examples count it.
        let agent = Agent::builder(Identity::generate(), backend).with_measurement(false).build();
        let mut status = agent.status();
        tokio::spawn(agent.run_on(connect, pending()));
        status.wait_for(|status| matches!(status, Status::Online { .. })).await?;
        Ok(())
    }

    /// Asks `model` and returns its answer.
    pub(crate) async fn ask(&self, model: &str, question: &str) -> Result<String, AnyError> {
        let request = TaskRequest::chat(self.account, model.parse()?, question);
        let (mut task, mut answer) = (self.coordinator.submit(request), String::new());
        while let Some(event) = task.next().await {
            match event {
                TaskEvent::Chunk(Chunk::Text(text)) => answer.push_str(&text),
                TaskEvent::Ended(Outcome::Finished(_)) => return Ok(answer),
                TaskEvent::Ended(outcome) => return Err(format!("no answer: {outcome:?}").into()),
                _ => {}
            }
        }
        Err("the task ended without an outcome".into())
    }

    /// Stops the coordinator.
    pub(crate) async fn stop(self) {
        self.coordinator.shutdown().await;
    }
}
