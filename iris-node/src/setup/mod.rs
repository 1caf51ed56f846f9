//! `iris-node setup`: from nothing to a node that works, in a minute.
//!
//! Looks for model servers, asks what it cannot know, exchanges the account's digits for a key of
//! this node, writes the settings down, and installs the node as a service where that is wanted.
//! Flags and the environment answer for scripts. Nothing is written before everything was asked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use iris_core::backend::Backend;
use iris_core::model::TokenRate;
use iris_crypto::Identity;
use iris_node::agent::{ConnectError, Connector, CoordinatorUrl};
use iris_node::probe::{Machine, Probe};
use iris_node::sandbox::find_program;
use iris_node::speed;
use iris_protocol::rest::{Health, Secret};
use tokio::time::timeout;

use crate::ask::Asker;
use crate::credential::{self, Credential};
use crate::estimate;
use crate::failure::{Exit, Failure};
use crate::http::{Http, cause};
use crate::model_server::ModelServer;
use crate::models::{self, BUNDLED, CACHED, Models};
use crate::private;
use crate::servers::{self, Found, Look};
use crate::settings::{Flags, Offered, Settings, list};

mod service;

use service::Service;

/// How long one question to a server may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a server that the node starts may take until it answers.
const START: Duration = Duration::from_mins(3);
/// How long the trial of a model may take.
const TRIAL: Duration = Duration::from_secs(20);

/// The server that is proposed where it is installed.
const LLAMA_SERVER: &str = "llama-server";

/// What `iris-node setup` takes besides the settings.
#[derive(Clone, Debug, Args)]
pub(crate) struct SetupArgs {
    /// Take every proposal without a question
    #[arg(long)]
    yes: bool,
    /// Write nothing and ask the coordinator for no key; print what would be written
    #[arg(long)]
    dry_run: bool,
    /// Start the node with the machine: what to install
    #[arg(long, value_name = "KIND", value_enum)]
    service: Option<Service>,
    /// Where on this machine to look for model servers: LM Studio, Ollama, llama.cpp, vLLM
    #[arg(
        long,
        value_name = "PORTS",
        value_delimiter = ',',
        default_value = "1234,11434,8080,8000"
    )]
    ports: Vec<u16>,
}

/// Where settings come from, to be read again with what was answered.
pub(crate) struct Sources<'a, E> {
    pub(crate) flags: Flags,
    pub(crate) environment: E,
    /// Where the settings are, or will be.
    pub(crate) file: &'a Path,
}

impl<E: Fn(&str) -> Option<String>> Sources<'_, E> {
    /// Reads the settings that go into the file: the account's keys are kept elsewhere, and how
    /// much is logged in this terminal is no wish for later.
    fn load(&self, answers: Flags) -> Result<Settings, Failure> {
        self.read(self.flags.iter().cloned().chain(answers).collect())
    }

    fn read(&self, flags: Flags) -> Result<Settings, Failure> {
        let passing = ["IRIS_ACCOUNT_KEY", "IRIS_NODE_KEY", "RUST_LOG", "IRIS_LOG_FORMAT"];
        let lasting = |name: &str| (self.environment)(name).filter(|_| !passing.contains(&name));
        let file = Some(self.file).filter(|file| file.exists());
        Settings::load(flags, lasting, file).map_err(Failure::settings)
    }

    fn secret(&self, name: &str) -> Option<Secret> {
        (self.environment)(name).filter(|text| !text.is_empty()).map(Secret::new)
    }

    fn is_flagged(&self, name: &str) -> bool {
        self.flags.iter().any(|(flag, value)| *flag == name && value.is_some())
    }
}

/// Sets the node up.
pub(crate) async fn run<E: Fn(&str) -> Option<String>>(
    args: SetupArgs,
    sources: Sources<'_, E>,
) -> Result<(), Failure> {
    if sources.file.extension().is_none_or(|extension| extension != "toml") {
        return Err(Failure::settings(format!(
            "{}: setup writes TOML; name a file that ends so with --config",
            sources.file.display()
        )));
    }
    let before = sources.load(Vec::new())?;
    let http = Http::new(&before, PATIENCE)?;
    let setup = Setup { asker: Asker { yes: args.yes }, args, sources, http };
    let machine = tokio::task::spawn_blocking(|| Probe::new().machine()).await;
    print_machine(&machine.unwrap_or_default());
    let (mut answers, kept) = setup.models(&before).await?;
    let (text, coordinator) = setup.coordinator(&before).await?;
    // Those that come after the first in a list stay, unless the first was changed.
    if before.coordinator_urls().first() != Some(&text) {
        answers.push(("coordinator_url", Some(list(&text))));
    }
    let mut settings = setup.sources.load(answers)?;
    for dropped in settings.offer_only(&kept) {
        println!("{dropped} is offered no more.");
    }
    let rate = setup.trial(&settings).await?;
    let key = setup.key(&settings, &coordinator).await?;
    let service = setup.service()?;
    setup.write(&settings, key, &coordinator, service).await?;
    if !setup.args.dry_run {
        setup.estimate(&settings, rate).await;
    }
    Ok(())
}

struct Setup<'a, E> {
    asker: Asker,
    args: SetupArgs,
    sources: Sources<'a, E>,
    http: Http,
}

impl<E: Fn(&str) -> Option<String>> Setup<'_, E> {
    /// Finds out which models to offer, and what to offer models of from now on.
    async fn models(&self, before: &Settings) -> Result<(Flags, Vec<Offered>), Failure> {
        let key = before.model_server_key.as_ref();
        let is_flagged = |offered: &Offered| self.sources.is_flagged(offered.setting());
        let flagged: Vec<_> = Offered::ALL.into_iter().filter(is_flagged).collect();
        if flagged.contains(&Offered::ModelServer) {
            let url = before.model_server().unwrap_or_default();
            models::server(before, url)?;
            print_look(url, &servers::look_at(&self.http, url, key).await);
        }
        if !flagged.is_empty() {
            return Ok((Vec::new(), flagged));
        }
        let mut looks = servers::look_around(&self.http, &self.args.ports, key).await;
        let known = before.named_model_server().map(str::to_owned);
        if let Some(url) = known.filter(|url| !looks.iter().any(|(found, _)| found == url)) {
            looks.insert(0, (url.clone(), servers::look_at(&self.http, &url, key).await));
        }
        // What the running node has started is its own, and ends with it.
        if let Some(own) = running(before).await.and_then(|own| servers::local_port(&own)) {
            looks.retain(|(url, _)| servers::local_port(url) != Some(own));
        }
        println!("\nModel servers on this machine:");
        for (url, look) in &looks {
            print_look(url, look);
            self.warn_if_open(url, look).await;
        }
        if looks.is_empty() {
            println!("  none answers on ports {}", ports(&self.args.ports));
        }
        self.choose(&looks, before)
    }

    /// Chooses among what was found; what has models loaded is proposed, then what has any.
    fn choose(
        &self,
        looks: &[(String, Look)],
        before: &Settings,
    ) -> Result<(Flags, Vec<Offered>), Failure> {
        let servers: Vec<&Found> = looks
            .iter()
            .filter_map(|(_, look)| match look {
                Look::Server(found) => Some(found),
                _ => None,
            })
            .collect();
        let best = servers.iter().find(|found| found.loaded().next().is_some());
        let own = before.server.as_ref().and_then(|server| server.model.as_deref());
        // What was chosen before is proposed first.
        let named = before.named_model_server().or(own).or(before.engine.as_deref());
        let found = best.or(servers.first()).map(|found| found.url.as_str());
        let proposal = named.or(found).unwrap_or(BUNDLED);
        let has_llama_server = find_program(LLAMA_SERVER).is_some();
        if has_llama_server {
            println!("\n{LLAMA_SERVER} is installed: the node can start it with a GGUF file.");
        }
        println!(
            "\nOffer the models of a server (its URL), of a GGUF file or a folder of them (its path), \
             all that were downloaded (\"{CACHED}\"), or the small model inside of this program \
             (\"{BUNDLED}\")?"
        );
        let answer = self.asker.line("Models of", proposal)?;
        if named == Some(answer.as_str()) {
            // Whatever else was named beside it stays.
            return Ok((Vec::new(), Offered::ALL.to_vec()));
        }
        let chosen = if answer.contains("://") {
            Offered::ModelServer
        } else if ![BUNDLED, CACHED].contains(&&*answer)
            && !Path::new(&answer).is_dir()
            && (has_llama_server || before.server.is_some())
            && self
                .asker
                .agrees("Start a server with it, which is faster than the engine?", true)?
        {
            Offered::OwnServer
        } else {
            Offered::Engine
        };
        Ok((vec![(chosen.setting(), Some(answer.into()))], vec![chosen]))
    }

    async fn warn_if_open(&self, url: &str, look: &Look) {
        let Look::Server(found) = look else { return };
        if let Some(address) = servers::open_to_others(&self.http, url).await {
            println!(
                "    WARNING: whoever reaches this machine at {address} can use it without a key; \
                 {}",
                found.kind.closing()
            );
        }
    }

    /// Finds out which network to join, and that it is there.
    async fn coordinator(&self, before: &Settings) -> Result<(String, CoordinatorUrl), Failure> {
        let mut proposal = before.coordinator_urls().first().cloned().unwrap_or_default();
        println!();
        loop {
            let is_given = self.asker.yes || self.sources.is_flagged("coordinator_url");
            let answer = if is_given {
                proposal.clone()
            } else {
                self.asker.line("The network's coordinator", &proposal)?
            };
            let problem = match answer.parse::<CoordinatorUrl>() {
                Err(error) => error.to_string(),
                Ok(url) => match self.greet(&url).await {
                    Ok(health) => {
                        let Health { version, nodes, models, .. } = health;
                        println!("  {answer}: Iris {version}; nodes: {nodes}, models: {models}");
                        return Ok((answer, url));
                    }
                    Err(problem) => format!("{answer}: {problem}"),
                },
            };
            if is_given {
                return Err(Failure::new(
                    Exit::Coordinator,
                    format!("{problem}. Nothing was written; is --coordinator right?"),
                ));
            }
            println!("  {problem}");
            proposal = answer;
        }
    }

    async fn greet(&self, url: &CoordinatorUrl) -> Result<Health, String> {
        let endpoint = format!("{}/healthz", url.http_base());
        let answer = self.http.get(&endpoint, None).await.map_err(|error| cause(&error))?;
        let health: Option<Health> = answer.json();
        let health = health.filter(|health| !health.version.is_empty());
        health.ok_or_else(|| format!("no coordinator answers there (status {})", answer.status))
    }

    /// Runs a model for a moment.
    async fn trial(&self, settings: &Settings) -> Result<Option<TokenRate>, Failure> {
        println!();
        let running = running(settings).await.filter(|_| settings.server.is_some());
        // Without flags: with what the node that runs was started, as far as anybody knows.
        let is_the_same =
            || self.sources.read(Flags::new()).is_ok_and(|before| before.server == settings.server);
        // A second server beside the running node's may not fit into the machine.
        if running.is_some() && !is_the_same() {
            println!("The node runs with another model server; start it again to try this one.");
            return Ok(None);
        }
        let mut server = match &running {
            Some(url) => {
                println!("The node runs; its model server at {url} is tried.");
                None
            }
            None => ModelServer::start(settings)?,
        };
        if let Some(server) = &mut server
            && !matches!(timeout(START, server.tried()).await, Ok(Ok(())))
        {
            println!("{} does not answer; `iris-node doctor` will tell more.", server.program());
        }
        let url = server.as_ref().map(ModelServer::url).or(running.as_deref());
        let settings = &settings.clone().with_started(url);
        let mut fastest = None;
        let models = Models::set_up(settings)?;
        let is_of_files = models.files().is_some();
        for backend in models.into_backends() {
            let backend: &dyn Backend = &*backend;
            let Ok(offers) = backend.models().await else {
                println!("No model server answers now; the node offers its models once it does.");
                continue;
            };
            let mut answering = offers.iter().filter(|offer| offer.answers());
            let Some(offer) = answering.next().filter(|_| !backend.may_load()) else {
                println!("No model was tried: none is known to be loaded.");
                continue;
            };
            match speed::measure(backend, &offer.name, TRIAL).await {
                Some(rate) => {
                    println!("{} writes {rate}.", offer.name);
                    fastest = fastest.max(Some(rate));
                }
                None => println!(
                    "{} did not answer within {} s; `iris-node doctor` tells more.",
                    offer.name,
                    TRIAL.as_secs()
                ),
            }
        }
        if is_of_files {
            println!("Files are loaded when somebody asks; `iris-node doctor` tries one.");
        }
        if let Some(server) = server {
            server.stop().await;
        }
        Ok(fastest)
    }

    /// Says what the machine may earn, where the network tells what that rests on.
    async fn estimate(&self, settings: &Settings, rate: Option<TokenRate>) {
        if let Ok(lines) = estimate::ask(settings, rate).await {
            println!("\nEarnings: {}", lines.join("\n  "));
        }
    }

    /// Finds the key with which the account lets this node in.
    async fn key(&self, settings: &Settings, coordinator: &CoordinatorUrl) -> Result<Key, Failure> {
        if let Some(key) = self.sources.secret("IRIS_NODE_KEY") {
            return Ok(Key::Node(key));
        }
        if let Some(digits) = self.sources.secret("IRIS_ACCOUNT_KEY") {
            return Ok(Key::Account(digits));
        }
        if settings.node_key.is_some() {
            println!("\nThe settings have a key of this node already.");
            return Ok(Key::There);
        }
        if let Some(kept) = Credential::kept(settings)? {
            let door = crate::connector(settings, vec![coordinator.clone()], kept.key)?;
            if !matches!(door.connect().await, Err(ConnectError::Unauthorized { .. })) {
                println!("\nThis node has a key of its account already.");
                return Ok(Key::There);
            }
            println!("\nThe key that this node has is not accepted; it needs a new one.");
        }
        if self.args.dry_run {
            return Ok(Key::There);
        }
        println!(
            "\nYour account's 16 digits are exchanged once for a key of this node, and are not \
             kept. `iris account new` opens an account."
        );
        let digits = Asker::secret("Your account's 16 digits (not shown): ")?;
        let count = digits.expose().bytes().filter(u8::is_ascii_digit).count();
        if count == 16 || digits.expose().starts_with("iris_") {
            return Ok(if count == 16 { Key::Account(digits) } else { Key::Node(digits) });
        }
        Err(Failure::new(Exit::Credential, "an account key has 16 digits; nothing was written"))
    }

    fn service(&self) -> Result<Service, Failure> {
        if let Some(service) = self.args.service {
            return Ok(service);
        }
        let Some(native) = Service::native().filter(|_| !self.asker.yes) else {
            return Ok(Service::None);
        };
        let question = format!("\nStart the node with this machine ({native})?");
        Ok(if self.asker.agrees(&question, false)? { native } else { Service::None })
    }

    async fn write(
        &self,
        settings: &Settings,
        key: Key,
        coordinator: &CoordinatorUrl,
        service: Service,
    ) -> Result<(), Failure> {
        let text = settings.to_file();
        let program = std::env::current_exe().map_err(Failure::files)?;
        let file = std::path::absolute(self.sources.file).map_err(Failure::files)?;
        let installation = service.installation(&program, &file, &self.sources.environment)?;
        if self.args.dry_run {
            println!("\n# {} would hold:\n{}", file.display(), settings);
            if let Some(installation) = &installation {
                println!("# {} would hold:\n{}", installation.path.display(), installation.text);
            }
            return Ok(());
        }
        if !self.asker.agrees(&format!("\nWrite {}?", file.display()), true)? {
            return Err(Failure::new(Exit::Work, "nothing was written"));
        }
        let key = match key {
            Key::There => None,
            Key::Node(key) => Some(key),
            Key::Account(digits) => {
                Some(Credential::exchange(settings, &digits, coordinator).await?)
            }
        };
        let identity = Identity::load_or_create(&settings.key_path).map_err(Failure::files)?;
        if let Some(key) = key {
            Credential::keep(settings, key)?;
            println!("The node's key is in {}.", credential::file(settings).display());
        }
        keep(&file, &text)?;
        println!("{} is set up.", identity.node_id());
        if let Some(installation) = installation {
            installation.install()?;
        } else {
            let flag = if self.sources.is_default() {
                String::new()
            } else {
                format!(" --config {}", file.display())
            };
            println!("Start it with: iris-node{flag}\nCheck it with: iris-node{flag} doctor");
        }
        Ok(())
    }
}

impl<E: Fn(&str) -> Option<String>> Sources<'_, E> {
    fn is_default(&self) -> bool {
        crate::settings::default_file(&self.environment).as_deref() == Some(self.file)
    }
}

/// Returns where the model server answers that the running node has started, if there is one.
async fn running(settings: &Settings) -> Option<String> {
    #[cfg(unix)]
    return Some(crate::control::snapshot(&settings.key_path).await.ok()?.own_server?.url);
    #[cfg(not(unix))]
    None
}

/// Whose key there is.
enum Key {
    /// The node's, kept from before.
    There,
    /// The node's.
    Node(Secret),
    /// The account's, to be exchanged.
    Account(Secret),
}

/// Writes the settings down; what was there before stays beside them.
fn keep(file: &Path, text: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::files(format!("{} cannot be written: {error}", file.display()))
    };
    match std::fs::read_to_string(file) {
        Ok(before) if before == text => {
            println!("{} holds these settings already.", file.display());
            return Ok(());
        }
        Ok(before) => {
            let backup = unused(file);
            private::write(&backup, &before).map_err(failed)?;
            println!("The settings from before are in {}.", backup.display());
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    private::write(file, text).map_err(failed)?;
    println!("The settings are in {}.", file.display());
    Ok(())
}

/// Returns a name for a copy of `file` that no file has.
fn unused(file: &Path) -> PathBuf {
    let named = |number: u64| file.with_extension(format!("toml.{number}"));
    let mut numbers = 1..;
    let free = numbers.find(|number| !named(*number).exists());
    named(free.unwrap_or(u64::MAX))
}

fn print_machine(machine: &Machine) {
    println!("This machine:");
    for line in crate::doctor::machine::lines(machine) {
        println!("  {line}");
    }
}

fn print_look(url: &str, look: &Look) {
    match look {
        Look::Nobody(cause) => println!("  nothing answers at {url}: {cause}"),
        Look::Coordinator => println!("  at {url} is a coordinator of Iris, no model server"),
        Look::Locked => println!("  a server at {url} wants a key: set IRIS_MODEL_SERVER_KEY"),
        Look::Stranger => println!("  at {url} is something that is no model server"),
        Look::Server(found) => {
            println!("  {found}");
            for model in &found.models {
                let state = if model.is_loaded { "loaded" } else { "not loaded" };
                println!("    {} ({state})", model.name);
            }
            if found.models.is_empty() {
                println!("    it has no model");
            } else if found.loaded().next().is_none() {
                println!("    the node offers models that are loaded: load one there");
            }
        }
    }
}

fn ports(ports: &[u16]) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_is_never_lost() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node.toml");
        for text in ["a", "b", "b", "c"] {
            keep(&file, text).unwrap();
        }
        let held = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!([held("node.toml"), held("node.toml.1"), held("node.toml.2")], ["c", "a", "b"]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
        assert!(!private::is_exposed(&file).unwrap());
    }
}
