//! The `iris` command.

mod account;
mod args;
mod ask;
mod audit;
mod dividing;
mod failure;
mod figures;
mod invite;
mod keys;
mod log;
mod network;
mod payouts;
mod plan_file;
mod progress;
mod prompt;
#[cfg(feature = "proxy")]
mod proxy;
mod run;
mod session;
mod table;
mod task;
mod terminal;
mod trust;
mod verdicts;

use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use iris_core::ModelName;
use iris_core::model::ModelNameError;
use iris_core::routing::ANY;
use iris_protocol::rest::LoginRequest;

use crate::client::Client;
use crate::error::ClientError;
use crate::policy::Policy;
use crate::settings::{Settings, session_file};
use args::{Cli, Command, Json, Sealing};
use failure::{Exit, Failure};
use figures::count;
use terminal::{Output, remark};

/// The longest text that is read from standard input, in bytes.
const MAX_INPUT: u64 = 8 << 20;
/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 32 << 20;

/// Runs the command with the process's arguments and returns its exit code.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    match prepare(&cli).and_then(|work| work.map_or(Ok(()), execute)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                remark(&failure.message);
            }
            failure.code()
        }
    }
}

/// A command with everything it needs, ready to use the network.
struct Work {
    settings: Settings,
    job: Job,
}

enum Job {
    Ask(ask::Job),
    Run(Box<run::Job>),
    Models(Json),
    Session(session::Job),
    Account(account::Job),
    Keys(keys::Job),
    Invite(invite::Job),
    Network(network::Job),
    Payouts(payouts::Job),
    Verdicts(verdicts::Job),
    Task(task::Job),
    #[cfg(feature = "proxy")]
    Proxy(proxy::Job),
    Trust(trust::Job),
    Log(log::Job),
    Health(Json),
}

/// Does what may wait for a person: Ctrl-C simply ends the process meanwhile.
fn prepare(cli: &Cli) -> Result<Option<Work>, Failure> {
    let environment = |name: &str| std::env::var(name).ok();
    let settings = Settings::load(cli.flags(), environment, cli.config.as_deref())?;
    if cli.print_config {
        Output::new().write(&settings.to_string())?;
        return Ok(None);
    }
    let command = cli.command.as_ref();
    let job = match command.ok_or_else(|| Failure::usage("no command given; see iris --help"))? {
        Command::Ask(args) => Job::Ask(ask::Job::prepare(args)?),
        Command::Run(args) => {
            let job = run::Job::prepare(args)?;
            if job.print(&settings, &mut Output::new())? {
                return Ok(None);
            }
            Job::Run(Box::new(job))
        }
        Command::Models(output) => Job::Models(output.clone()),
        Command::Register(args) => Job::Session(session::Job::register(args)?),
        Command::Login(args) => Job::Session(session::Job::login(args)?),
        Command::Logout(output) => Job::Session(session::Job::logout(output)),
        Command::Account(args) => Job::Account(account::Job::prepare(args)?),
        Command::Keys(args) => Job::Keys(keys::Job::prepare(args, is_logged_in(&settings))?),
        Command::Invite(args) => Job::Invite(invite::Job::prepare(args)),
        Command::Stats(output) => Job::Network(network::Job::Stats(output.clone())),
        Command::Nodes(args) => Job::Network(network::Job::nodes(args)),
        Command::Reputation(listing) => Job::Network(network::Job::Reputation(listing.clone())),
        Command::History(listing) => Job::Network(network::Job::History(listing.clone())),
        Command::Task(args) => Job::Task(task::Job::prepare(args)?),
        #[cfg(feature = "proxy")]
        Command::Proxy(args) => Job::Proxy(proxy::Job::prepare(args)),
        Command::Payouts(args) => Job::Payouts(payouts::Job::prepare(args)),
        Command::Verdicts(args) => Job::Verdicts(verdicts::Job::prepare(args)),
        Command::Audit(args) => {
            audit::run(args, &mut Output::new())?;
            return Ok(None);
        }
        Command::Trust(args) => Job::Trust(trust::Job::prepare(args)),
        Command::Log(args) => Job::Log(log::Job::prepare(args)?),
        Command::Health(output) => Job::Health(output.clone()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "iris", &mut script);
            Output::new().write(&String::from_utf8_lossy(&script))?;
            return Ok(None);
        }
    };
    Ok(Some(Work { settings, job }))
}

fn execute(work: Work) -> Result<(), Failure> {
    // A service ends by Ctrl-C as it should.
    #[cfg(feature = "proxy")]
    let is_service = matches!(work.job, Job::Proxy(_));
    #[cfg(not(feature = "proxy"))]
    let is_service = false;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime
        .map_err(|error| Failure::new(Exit::Output, format!("the process cannot run: {error}")))?;
    let done = runtime.block_on(async {
        tokio::select! {
            done = work.run() => done,
            _ = tokio::signal::ctrl_c(), if !is_service => Err(Failure::new(Exit::Interrupted, "interrupted")),
        }
    });
    // A name that is still being looked up must not delay the end.
    runtime.shutdown_background();
    done
}

impl Work {
    fn sealing(&self) -> Option<&Sealing> {
        match &self.job {
            Job::Ask(job) => Some(job.sealing()),
            Job::Run(job) => Some(&job.privacy().sealing),
            #[cfg(feature = "proxy")]
            Job::Proxy(job) => Some(job.sealing()),
            _ => None,
        }
    }

    async fn run(self) -> Result<(), Failure> {
        let settings = &self.settings;
        let digits = match prompt::account_key_in_environment() {
            Some(digits) if self.keeps_account() => Some(digits?),
            _ => None,
        };
        let client = connect(settings, self.sealing(), digits.is_none()).await?;
        let mut output = Output::new();
        let Some(account_key) = digits else {
            // What keeps the account is done by the session, where there is one.
            let has_session = self.keeps_account() && client.session().account()?.is_some();
            let client = if has_session { client.without_api_key() } else { client };
            return self.job.run(client, settings, &mut output).await;
        };
        // A session of this command's own, kept in memory.
        let login = LoginRequest { account_key: Some(account_key), ..LoginRequest::default() };
        client.session().login(&login).await?;
        let done = self.job.run(client.clone(), settings, &mut output).await;
        // One that cannot be ended now ends by itself.
        let _ = client.session().logout().await;
        done
    }

    /// Returns whether the command is about the account of whoever runs it.
    fn keeps_account(&self) -> bool {
        match &self.job {
            Job::Account(job) => job.is_about_own_account(),
            Job::Keys(job) => !job.shows_digits(),
            Job::Invite(_) => true,
            _ => false,
        }
    }
}

impl Job {
    async fn run(
        self,
        client: Client,
        settings: &Settings,
        output: &mut Output,
    ) -> Result<(), Failure> {
        match self {
            Self::Ask(job) => job.run(&client, settings, output).await,
            Self::Run(job) => job.run(&client, settings, output).await,
            Self::Models(format) => models(&client, &format, output).await,
            Self::Session(job) => job.run(&client, output).await,
            Self::Account(job) => job.run(&client, output).await,
            Self::Keys(job) => job.run(&client, output).await,
            Self::Invite(job) => job.run(&client, output).await,
            Self::Network(job) => job.run(&client, output).await,
            Self::Payouts(job) => job.run(&client, output).await,
            Self::Verdicts(job) => job.run(&client, output).await,
            Self::Task(job) => job.run(&client, settings, output).await,
            #[cfg(feature = "proxy")]
            Self::Proxy(job) => job.run(client, output).await,
            Self::Trust(job) => job.run(&client, output),
            Self::Log(job) => job.run(&client, output).await,
            Self::Health(format) => health(&client, &format, output).await,
        }
    }
}

/// Returns whether somebody is logged in at a coordinator of the settings.
fn is_logged_in(settings: &Settings) -> bool {
    let kept = |url| {
        let base = crate::builder::normalize(url).ok()?;
        session_file(base.as_str(), variable)
    };
    settings.urls().filter_map(kept).any(|file| file.exists())
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns the time, in seconds since the Unix epoch.
fn now() -> u64 {
    crate::sealed::now().as_secs()
}

/// Makes a client of the first coordinator that can be reached, with the key and session that are
/// kept, unless it is to be somebody else.
async fn connect(
    settings: &Settings,
    sealing: Option<&Sealing>,
    as_kept: bool,
) -> Result<Client, Failure> {
    let authorities = settings.ca_file.as_ref().map(|file| {
        std::fs::read(file)
            .map_err(|error| Failure::usage(format!("ca_file {}: {error}", file.display())))
    });
    let authorities = authorities.transpose()?;
    let clients = settings.urls().map(|url| {
        let mut builder = Client::builder(url).with_timeout(settings.timeout());
        if let Some(key) = settings.api_key.as_ref().filter(|_| as_kept) {
            builder = builder.with_api_key(key.clone());
        }
        if let Some(pem) = &authorities {
            builder = builder.with_authorities(pem.clone());
        }
        if settings.allow_plain_http {
            builder = builder.allow_plain_http();
        }
        if let Some(identity) = settings.coordinator {
            builder = builder.with_coordinator(identity);
        }
        if let Some(shape) = sealing.and_then(|sealing| sealing.shape) {
            builder = builder.with_shape(shape);
        }
        if sealing.is_some_and(|sealing| sealing.own) {
            builder = builder.with_policy(Policy::Own);
        }
        let base = builder.clone().build()?.base_url().to_owned();
        if let Some(file) = settings.trust_file(&base, variable) {
            builder = builder.with_trust_file(file);
        }
        if let Some(file) = session_file(&base, variable).filter(|_| as_kept) {
            builder = builder.with_session_file(file);
        }
        builder.build()
    });
    let mut clients = clients.collect::<Result<Vec<_>, _>>()?;
    let last = clients.pop().ok_or_else(|| Failure::usage("no coordinator's address is set"))?;
    for client in clients {
        match client.health().await {
            Err(ClientError::Unreachable(_)) => {
                remark(&format!("{} cannot be reached; trying the next", client.base_url()));
            }
            _ => return Ok(client),
        }
    }
    Ok(last)
}

async fn models(client: &Client, format: &Json, output: &mut Output) -> Result<(), Failure> {
    let models = client.models().await?;
    if format.json {
        return Ok(output.json(&models)?);
    }
    if models.is_empty() {
        remark("no node offers a model now");
    }
    for model in models {
        output.line(&model.id)?;
    }
    Ok(())
}

async fn health(client: &Client, format: &Json, output: &mut Output) -> Result<(), Failure> {
    let health = client.health().await?;
    if format.json {
        return Ok(output.json(&health)?);
    }
    let nodes = count(health.nodes, "node", "nodes");
    let models = count(health.models, "model", "models");
    Ok(output.line(&format!("{}: {nodes}, {models}", health.status))?)
}

/// Returns the model that is set, or what stands for any.
fn wanted_model(settings: &Settings) -> &str {
    settings.model.as_deref().unwrap_or(ANY)
}

fn model_name(name: &str) -> Result<ModelName, Failure> {
    name.parse().map_err(|error: ModelNameError| Failure::usage(error.to_string()))
}

/// Returns the words of a question, or standard input for `-`.
fn question(words: &[String]) -> Result<String, Failure> {
    let text = if words == ["-"] { read_input()? } else { words.join(" ") };
    if text.trim().is_empty() { Err(Failure::usage("the question is empty")) } else { Ok(text) }
}

/// Reads a text.
fn read_file(path: &Path) -> Result<String, Failure> {
    let refuse = |what: &str| Failure::usage(format!("{}: {what}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| refuse(&error.to_string()))?;
    let mut text = Vec::new();
    let read = file.take(MAX_FILE + 1).read_to_end(&mut text);
    read.map_err(|error| refuse(&error.to_string()))?;
    if text.len() as u64 > MAX_FILE {
        return Err(refuse("it is longer than 32 MiB"));
    }
    String::from_utf8(text).map_err(|_| refuse("it is not a text in UTF-8"))
}

fn read_input() -> Result<String, Failure> {
    let mut text = String::new();
    io::stdin()
        .lock()
        .take(MAX_INPUT + 1)
        .read_to_string(&mut text)
        .map_err(|error| Failure::usage(format!("standard input cannot be read: {error}")))?;
    if text.len() as u64 > MAX_INPUT {
        return Err(Failure::usage("standard input is longer than 8 MiB"));
    }
    Ok(text)
}
