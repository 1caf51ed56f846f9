//! The model server that the node starts itself: whether it is there, starts and answers.

#[cfg(unix)]
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::{Check, Report};
use crate::failure::Exit;
use crate::model_server::{Missing, ModelServer, Untried};
use crate::settings::Settings;
#[cfg(unix)]
use crate::status::snapshot::OwnServer;

const LINK: &str = "own server";
/// How long it may take to load its model.
const START: Duration = Duration::from_mins(3);

/// The server that is looked at.
pub(super) enum Looked {
    /// Started to be looked at; it runs until it is stopped.
    Started(ModelServer),
    /// The running node's, which answers there.
    Nodes(String),
}

impl Looked {
    /// Returns where it answers.
    pub(super) fn url(&self) -> &str {
        match self {
            Self::Started(server) => server.url(),
            Self::Nodes(url) => url,
        }
    }

    pub(super) async fn stop(self) {
        if let Self::Started(server) = self {
            server.stop().await;
        }
    }
}

/// Starts the server that the settings name, if they do, or finds the one that the running node has
/// started.
pub(super) async fn check(settings: &Settings, report: &mut Report) -> Option<Looked> {
    let setting = settings.server.as_ref()?;
    #[cfg(unix)]
    if crate::control::is_running(&settings.key_path) {
        let (check, url) = nodes(&settings.key_path).await;
        report.add(check);
        return url.map(Looked::Nodes);
    }
    if let Err(Missing { what, advice }) = ModelServer::missing(setting, &settings.cache()) {
        report.add(Check::fail(LINK, Exit::Files, what, advice));
        return None;
    }
    let begun = Instant::now();
    let mut server = match ModelServer::start(settings) {
        Ok(server) => server?,
        Err(failure) => {
            let advice = "see `iris-node --help` for --server";
            report.add(Check::fail(LINK, failure.exit, failure.to_string(), advice));
            return None;
        }
    };
    match timeout(START, server.tried()).await {
        Ok(Ok(())) => {
            let found = format!("{} answers after {:.0?}", server.program(), begun.elapsed());
            report.add(Check::ok(LINK, found));
            return Some(Looked::Started(server));
        }
        Ok(Err(Untried { why, printed })) => {
            let advice = if printed.is_empty() {
                "start it by hand to see what it says".to_owned()
            } else {
                format!("its last lines were: {}", printed.join(" | "))
            };
            let found = format!("{} does not start: {why}", server.program());
            report.add(Check::fail(LINK, Exit::Work, found, advice));
        }
        Err(_) => {
            let found =
                format!("{} does not answer within {} s", server.program(), START.as_secs());
            let advice = "choose a smaller model, or give it the time: the node waits longer";
            report.add(Check::fail(LINK, Exit::Work, found, advice));
        }
    }
    server.stop().await;
    None
}

/// Asks the node with this identity how its server is; returns where that answers, if it does.
#[cfg(unix)]
async fn nodes(key: &Path) -> (Check, Option<String>) {
    let advice = "see what the node logs; `iris-node status` tells when it is there";
    match crate::control::snapshot(key).await.map(|node| node.own_server) {
        Ok(Some(OwnServer { url, trouble: None })) => {
            (Check::ok(LINK, format!("the running node's, at {url}")), Some(url))
        }
        Ok(Some(OwnServer { trouble: Some(trouble), .. })) => {
            (Check::warn(LINK, format!("the node runs, and {trouble}"), advice), None)
        }
        Ok(None) => {
            let advice = "start the node again, so that it takes the settings in";
            (Check::warn(LINK, "the node runs without it", advice), None)
        }
        Err(failure) => (Check::fail(LINK, Exit::Work, failure.to_string(), advice), None),
    }
}
