//! `iris proxy`.

use std::net::SocketAddr;
use std::time::Duration;

use super::args::{Proxy, Sealing};
use super::failure::{Exit, Failure};
use super::terminal::{Output, remark};
use crate::client::Client;
use crate::proxy::{self, BindError};

/// How long answers may go on once the proxy was told to stop.
const DRAIN: Duration = Duration::from_secs(5);

pub(super) struct Job {
    listen: SocketAddr,
    sealing: Sealing,
    spread: bool,
}

impl Job {
    pub(super) fn prepare(args: &Proxy) -> Self {
        Self { listen: args.listen, sealing: args.sealing.clone(), spread: args.spreading.spread }
    }

    pub(super) const fn sealing(&self) -> &Sealing {
        &self.sealing
    }

    pub(super) async fn run(self, client: Client, output: &mut Output) -> Result<(), Failure> {
        let coordinator = client.base_url().to_owned();
        let has_key = client.has_api_key() || client.session().account()?.is_some();
        let proxy = proxy::Proxy::bind(client, self.listen).await.map_err(|error| match error {
            BindError::NotLoopback(_) => Failure::usage(error.to_string()),
            BindError::Io(..) => Failure::new(Exit::Unreachable, error.to_string()),
        })?;
        output.line(&format!("http://{}/v1", proxy.local_addr()?))?;
        remark(&format!(
            "programs that use this address as their OpenAI base URL ask the network of \
             {coordinator}, sealed: only the node that answers can read what they ask"
        ));
        if !has_key {
            remark(
                "nobody is logged in and no IRIS_API_KEY is set, so each program has to send a key of the network",
            );
        }
        let proxy = proxy.with_spread(self.spread);
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let stopped = async move { drop(told.await) };
        let mut running = std::pin::pin!(proxy.run(stopped));
        tokio::select! {
            ended = &mut running => return Ok(ended?),
            () = stop() => {}
        }
        drop(tell);
        // Whoever still reads an answer gets a moment to do so.
        match tokio::time::timeout(DRAIN, running).await {
            Ok(ended) => Ok(ended?),
            Err(_) => Ok(()),
        }
    }
}

#[cfg(unix)]
async fn stop() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}

#[cfg(not(unix))]
async fn stop() {
    drop(tokio::signal::ctrl_c().await);
}
