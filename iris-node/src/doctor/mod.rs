//! `iris-node doctor`: looks at each link of the chain in its order, and says what to do.
//!
//! A link that hangs on one that failed is left out. The exit code is that of the first failure;
//! warnings alone are no failure.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use iris_core::model::TokenRate;
use iris_crypto::Identity;
use iris_node::cache::ModelCache;
use iris_node::probe::Probe;
use serde::Serialize;

use crate::cached;
use crate::failure::{Exit, Failure};
use crate::http::Http;
use crate::settings::Settings;

mod backend;
mod coordinator;
mod files;
pub(crate) mod machine;
mod server;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What `iris-node doctor` takes besides the settings.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

/// How a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warn,
    Fail,
    /// Not looked at, since it hangs on a link that failed.
    Skip,
}

/// What was found at a link.
#[derive(Clone, Debug, Serialize)]
struct Check {
    link: &'static str,
    state: State,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
    #[serde(skip)]
    exit: Option<Exit>,
}

impl Check {
    fn ok(link: &'static str, found: impl Into<String>) -> Self {
        Self { link, state: State::Ok, found: found.into(), advice: None, exit: None }
    }

    fn warn(link: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { state: State::Warn, advice: Some(advice.into()), ..Self::ok(link, found) }
    }

    fn fail(
        link: &'static str,
        exit: Exit,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { state: State::Fail, exit: Some(exit), ..Self::warn(link, found, advice) }
    }

    fn skip(link: &'static str, needs: &str) -> Self {
        Self { state: State::Skip, ..Self::ok(link, format!("not looked at: it needs {needs}")) }
    }
}

/// What was found, told as it is found.
#[derive(Debug)]
struct Report {
    json: bool,
    checks: Vec<Check>,
}

impl Report {
    fn add(&mut self, check: Check) {
        if !self.json {
            let state = match check.state {
                State::Ok => "ok",
                State::Warn => "WARN",
                State::Fail => "FAIL",
                State::Skip => "-",
            };
            println!("{state:<5} {:<13} {}", check.link, check.found);
            if let Some(advice) = &check.advice {
                println!("{:19} -> {advice}", "");
            }
        }
        self.checks.push(check);
    }

    /// Ends the report; returns the exit code of its first failure.
    fn end(self) -> Option<Exit> {
        let count = |state| self.checks.iter().filter(|check| check.state == state).count();
        let (failed, warned) = (count(State::Fail), count(State::Warn));
        let exit = self.checks.iter().find_map(|check| check.exit);
        if self.json {
            let all = serde_json::json!({"ok": failed == 0, "checks": self.checks});
            println!("{all:#}");
        } else if failed + warned == 0 {
            println!("\nEverything is in order.");
        } else {
            println!("\n{failed} failed, {warned} to be looked at.");
        }
        exit
    }
}

/// Looks at everything; returns the exit code of the first failure.
pub(crate) async fn run(
    args: DoctorArgs,
    settings: Result<Settings, Failure>,
    file: Option<&Path>,
) -> Option<Exit> {
    let mut report = Report { json: args.json, checks: Vec::new() };
    let settings = match settings {
        Ok(settings) => settings,
        Err(failure) => {
            let advice = "mend what it names; `iris-node setup` writes settings anew";
            report.add(Check::fail("settings", failure.exit, failure.to_string(), advice));
            return report.end();
        }
    };
    report.add(settings_are(file));
    report.add(identity(&settings));
    let server = server::check(&settings, &mut report).await;
    let settings = settings.with_started(server.as_ref().map(server::Looked::url));
    match Http::new(&settings, PATIENCE) {
        Ok(http) => {
            let rate = backend::check(&settings, &http, &mut report).await;
            coordinator::check(&settings, &http, &mut report).await;
            report.add(earnings(&settings, rate).await);
        }
        Err(failure) => {
            let advice = "name a readable PEM file with --ca-file, or none";
            report.add(Check::fail("TLS", failure.exit, failure.to_string(), advice));
        }
    }
    if let Some(server) = server {
        server.stop().await;
    }
    let cache = settings.cache();
    let folder = settings.key_path.parent().map(Path::to_owned).unwrap_or_default();
    let found = tokio::task::spawn_blocking(move || {
        let mut checks = vec![model_cache(&cache)];
        checks.extend(machine::checks(&Probe::new(), &folder));
        checks
    });
    for check in found.await.unwrap_or_default() {
        report.add(check);
    }
    report.end()
}

/// Says what the machine may earn, where the network tells what that rests on.
async fn earnings(settings: &Settings, rate: Option<TokenRate>) -> Check {
    const LINK: &str = "earnings";
    match crate::estimate::ask(settings, rate).await {
        Ok(lines) => Check::ok(LINK, lines.join(" ")),
        Err(_) => Check::skip(LINK, "a coordinator that tells this node's key what it shares"),
    }
}

/// Says what is in the cache of model files, and whether that is all that may be.
fn model_cache(cache: &ModelCache) -> Check {
    const LINK: &str = "model cache";
    let (found, size) = match cached::summary(cache) {
        Ok(found) => found,
        Err(error) => {
            let advice = "give this user the folder, or name another with --cache-path";
            return Check::fail(LINK, Exit::Files, error.to_string(), advice);
        }
    };
    if size > cache.limit() {
        let advice = "nothing can be downloaded: raise --cache-gb, or remove files of your own";
        return Check::warn(LINK, found, advice);
    }
    Check::ok(LINK, found)
}

fn settings_are(file: Option<&Path>) -> Check {
    match file {
        Some(file) => match crate::private::is_exposed(file) {
            Ok(true) => Check::warn(
                "settings",
                format!("{}, which others may read", file.display()),
                "if it holds a key, run `chmod 600` on it",
            ),
            _ => Check::ok("settings", file.display().to_string()),
        },
        None => Check::ok("settings", "no file: flags, environment and defaults"),
    }
}

fn identity(settings: &Settings) -> Check {
    let file = settings.key_path.display();
    if !settings.key_path.exists() {
        return Check::ok("identity", format!("{file} will be made at the first start"));
    }
    match Identity::load_or_create(&settings.key_path) {
        Ok(identity) => Check::ok("identity", format!("node {}, in {file}", identity.node_id())),
        Err(error) => Check::fail(
            "identity",
            Exit::Files,
            error.to_string(),
            "give this user the file, and run `chmod 600` on it; a node without its old identity \
             starts anew, without its points",
        ),
    }
}
