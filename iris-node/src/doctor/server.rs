//! The model server that the node starts itself: whether it is there, starts and answers.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::{Check, Report};
use crate::failure::Exit;
use crate::model_server::{Missing, ModelServer, Untried};
use crate::settings::Settings;

const LINK: &str = "own server";
/// How long it may take to load its model.
const START: Duration = Duration::from_mins(3);

/// Starts the server that the settings name, if they do; it runs for as long as it is looked at.
pub(super) async fn check(settings: &Settings, report: &mut Report) -> Option<ModelServer> {
    let setting = settings.server.as_ref()?;
    if let Err(Missing { what, advice }) = ModelServer::missing(setting, &settings.cache()) {
        report.add(Check::fail(LINK, Exit::Files, what, advice));
        return None;
    }
    #[cfg(unix)]
    if crate::control::is_running(&settings.key_path) {
        let found = "not started a second time: the node runs, and with it its server";
        report.add(Check::ok(LINK, found));
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
            return Some(server);
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
