//! The `iris-node` command: offers the models on this machine to a network.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use iris_core::NodeId;
use iris_core::backend::Backend;
use iris_crypto::Identity;
use iris_node::agent::{
    Agent, AgentBuilder, AgentError, ConnectError, CoordinatorUrl, Status, WebSocketConnector,
    WorkLog,
};
use iris_node::backend::on_demand::OnDemand;
use iris_node::datasets::Datasets;
use iris_node::probe::Probe;
use iris_protocol::message::Hardware;
use iris_protocol::rest::Secret;
use tokio::sync::watch;

use callers::Callers;
use cli::{Cli, Command};
use credential::Credential;
use failure::{Exit, Failure};
use model_server::ModelServer;
use models::Models;
use owner::Owner;
use reload::Reload;
use settings::{DatasetFault, LogFormat, Settings};
use spending::Spending;

mod ask;
mod cached;
mod callers;
mod cli;
#[cfg(unix)]
mod control;
mod credential;
#[cfg(unix)]
mod desk;
mod doctor;
mod estimate;
mod failure;
mod http;
mod model_server;
mod models;
mod moment;
mod network;
mod owner;
#[cfg(feature = "history")]
mod past;
mod private;
mod progress;
mod reload;
mod servers;
mod settings;
mod setup;
mod signals;
mod spending;
#[cfg(unix)]
mod status;

/// A node's work is many small answers, which the system's allocator takes twice as long for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long what runs in threads of its own may take once the rest has ended.
const END: Duration = Duration::from_secs(2);

// One thread carries all bytes between a coordinator and a model server, and passing them from
// thread to thread costs more than a second one brings. Engines compute in threads of their own.
fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(run(Cli::parse()));
            // A model that is still being loaded keeps no process alive.
            runtime.shutdown_timeout(END);
            ended
        }
        Err(error) => Err(Failure::new(Exit::Work, format!("there is no runtime: {error}"))),
    };
    match ended {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("iris-node: {failure}");
            failure.exit.into()
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let environment = |name: &str| std::env::var(name).ok();
    let default = settings::default_file(environment);
    let file = cli.config.clone().or_else(|| default.clone().filter(|file| file.exists()));
    let load =
        || Settings::load(cli.flags(), environment, file.as_deref()).map_err(Failure::settings);
    match cli.command.clone() {
        None => serve(&cli, load()?, file).await.map(|()| ExitCode::SUCCESS),
        #[cfg(target_os = "linux")]
        Some(Command::Launch { line }) => {
            Err(Failure::new(Exit::Files, iris_node::sandbox::launch(&line)))
        }
        #[cfg(unix)]
        Some(Command::Order(order)) => {
            order.give(&load()?.key_path).await.map(|()| ExitCode::SUCCESS)
        }
        Some(Command::Callers(order)) => {
            order.carry_out(&load()?).await.map(|()| ExitCode::SUCCESS)
        }
        #[cfg(unix)]
        Some(Command::Status(args)) => {
            status::run(args, &load()?).await.map(|()| ExitCode::SUCCESS)
        }
        #[cfg(feature = "history")]
        Some(Command::History(args)) => past::run(&args, &load()?).map(|()| ExitCode::SUCCESS),
        Some(Command::Models { order }) => {
            cached::run(order, &load()?).await.map(|()| ExitCode::SUCCESS)
        }
        Some(Command::Estimate) => estimate::run(&load()?).await.map(|()| ExitCode::SUCCESS),
        Some(Command::Doctor(args)) => {
            let exit = uninterrupted(doctor::run(args, load(), file.as_deref())).await?;
            Ok(exit.map_or(ExitCode::SUCCESS, ExitCode::from))
        }
        Some(Command::Setup(args)) => {
            let file = file.or(default).unwrap_or_else(|| PathBuf::from("node.toml"));
            let sources = setup::Sources { flags: cli.flags(), environment, file: &file };
            uninterrupted(setup::run(args, sources)).await?.map(|()| ExitCode::SUCCESS)
        }
    }
}

/// Does `work` until a signal comes; what it has started, such as a model server, ends with it.
async fn uninterrupted<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let interrupted = signals::interrupted()
        .map_err(|error| Failure::new(Exit::Work, format!("signals cannot be heard: {error}")))?;
    tokio::select! {
        // Heard from the first moment on: a prompt that hides what is typed must be able to set the
        // terminal right.
        biased;
        () = interrupted => Err(Failure::new(Exit::Interrupted, "interrupted")),
        done = work => Ok(done),
    }
}

async fn serve(cli: &Cli, settings: Settings, file: Option<PathBuf>) -> Result<(), Failure> {
    if cli.print_config {
        print!("{settings}");
        return Ok(());
    }
    start_log(&settings)?;
    let reload = Reload::new(cli.flags(), file, settings.clone());
    let owner = Owner::new(settings.limits().map_err(Failure::settings)?);
    let identity = Identity::load_or_create(&settings.key_path).map_err(Failure::files)?;
    #[cfg(feature = "history")]
    let history = past::keep(&settings);
    #[cfg(feature = "history")]
    let log = history.clone().map(|history| -> Arc<dyn WorkLog> { history });
    #[cfg(not(feature = "history"))]
    let log: Option<Arc<dyn WorkLog>> = None;
    #[cfg(unix)]
    let desk = desk::Desk::new(settings.name.clone(), log, Some(settings.cache()));
    #[cfg(unix)]
    let log: Option<Arc<dyn WorkLog>> = Some(desk.clone());
    // Whoever looks at the node while its models are loaded, which may take minutes, finds it.
    #[cfg(unix)]
    listen(&settings.key_path, &owner, &desk);
    let mut server = ModelServer::start(&settings)?;
    #[cfg(unix)]
    if let Some(server) = &server {
        desk.tell_of(server.view());
    }
    let settings = settings.with_started(server.as_ref().map(ModelServer::url));
    let end = futures::future::OptionFuture::from(server.as_ref().map(ModelServer::killer));
    let stop = signals::stop(owner.drained(), end)
        .map_err(|error| Failure::new(Exit::Work, format!("signals cannot be heard: {error}")))?;
    let mut stop = std::pin::pin!(stop);
    let mut models = tokio::select! {
        models = Models::load(&settings) => models?,
        () = &mut stop => return Ok(()),
    };
    let _held = models.held.take();
    let on_demand = models.on_demand(&settings)?;
    #[cfg(unix)]
    if let Some(on_demand) = &on_demand {
        desk.tell_of_loaded(on_demand.clone());
    }
    let datasets = settings.datasets().map_err(|fault| match fault {
        DatasetFault::Setting(error) => Failure::settings(error),
        DatasetFault::File(error) => Failure::files(error),
    })?;
    let credential = tokio::select! {
        credential = Credential::obtain(&settings) => credential?,
        () = &mut stop => return Ok(()),
    };
    if let Some(server) = &mut server {
        tokio::select! {
            () = server.ready() => {}
            () = &mut stop => return Ok(()),
        }
    }
    let agent = compose(&settings, identity, models, on_demand.clone(), datasets).await?;
    let agent = log.into_iter().fold(agent, AgentBuilder::with_work_log);
    let agent = agent.with_conduct(owner.conduct()).build();
    #[cfg(unix)]
    tokio::spawn(desk.watch(agent.observer()));
    let spending = Spending::load(&settings.key_path, agent.carried());
    let coordinators = settings.coordinators().map_err(Failure::settings)?;
    let connector = connector(&settings, coordinators, credential.key.clone())?;
    tokio::spawn(announce(agent.node_id(), agent.status()));
    if let Some(server) = &server {
        server.watch(agent.relisting());
    }
    let callers = Callers::load(&settings.key_path, agent.asked());
    tokio::spawn(callers::keep_up(settings.clone(), credential.key.clone()));
    tokio::spawn(owner.look_after(reload, agent.places(), spending, callers));
    let ended = agent.run_on(connector, stop).await;
    if let Some(on_demand) = &on_demand {
        on_demand.close().await;
    }
    #[cfg(feature = "history")]
    past::close(history.as_deref());
    if let Some(server) = server {
        server.stop().await;
    }
    match ended {
        Ok(()) => Ok(()),
        Err(AgentError::Connect(error @ ConnectError::Unauthorized { .. })) => {
            Err(credential.refused(error))
        }
        Err(error) => Err(Failure::new(Exit::Coordinator, error)),
    }
}

/// Takes orders of the node's user. A node that cannot works all the same.
#[cfg(unix)]
fn listen(key: &Path, owner: &Arc<Owner>, desk: &Arc<desk::Desk>) {
    match control::Control::open(key) {
        Ok(control) => drop(tokio::spawn(control.serve(Arc::clone(owner), Arc::clone(desk)))),
        Err(error) => tracing::warn!(%error, "`iris-node pause` and the like will not work"),
    }
}

/// Says on standard output that the node is connected, once, for scripts that wait for it.
async fn announce(node: NodeId, mut status: watch::Receiver<Status>) {
    if status.wait_for(|status| matches!(status, Status::Online { .. })).await.is_ok() {
        // Whoever started this may not be listening, which is no reason not to work.
        let _ = writeln!(std::io::stdout(), "iris-node {node} is connected");
    }
}

async fn compose(
    settings: &Settings,
    identity: Identity,
    models: Models,
    on_demand: Option<OnDemand>,
    datasets: Datasets,
) -> Result<AgentBuilder, Failure> {
    let slots = models.slots(settings).await;
    let mut backends: Vec<Arc<dyn Backend>> = models.into_backends();
    // What it has loaded is on the server's own list, too, which comes after it.
    backends.extend(on_demand.map(|on_demand| Arc::new(on_demand) as Arc<dyn Backend>));
    let first = backends.pop().expect("there is a model server, an engine, or both");
    let mut agent = Agent::builder(identity, first)
        .with_slots(slots)
        .with_datasets(datasets)
        .with_measurement(settings.measure)
        .with_drain_limit(settings.drain_limit())
        .with_hardware(hardware(settings).await);
    for backend in backends {
        agent = agent.with_backend(backend);
    }
    if let Some(name) = &settings.name {
        agent = agent.with_name(name);
    }
    if let Some(identity) = settings.coordinator_identity().map_err(Failure::settings)? {
        agent = agent.with_coordinator(identity);
    }
    Ok(agent)
}

/// Returns what is told of this machine; nothing where models may run on another.
async fn hardware(settings: &Settings) -> Hardware {
    let vram_gb = settings.vram_gb;
    if settings.allow_remote_backend {
        return Hardware { vram_gb, ..Hardware::default() };
    }
    let machine = tokio::task::spawn_blocking(|| Probe::new().machine()).await;
    machine.unwrap_or_default().told(vram_gb)
}

fn connector(
    settings: &Settings,
    coordinators: Vec<CoordinatorUrl>,
    key: Secret,
) -> Result<WebSocketConnector, Failure> {
    let mut urls = coordinators.into_iter();
    let first = urls.next().expect("settings name at least one coordinator");
    let connector = urls.fold(WebSocketConnector::new(first, key), WebSocketConnector::or);
    match &settings.ca_file {
        Some(file) => Ok(connector.with_roots(roots(file)?)),
        None => Ok(connector),
    }
}

fn roots(file: &std::path::Path) -> Result<rustls::RootCertStore, Failure> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    let unusable =
        |error: &dyn std::fmt::Display| Failure::files(format!("{}: {error}", file.display()));
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(file).map_err(|error| unusable(&error))? {
        roots.add(root.map_err(|error| unusable(&error))?).map_err(|error| unusable(&error))?;
    }
    if roots.is_empty() {
        return Err(unusable(&"it holds no certificate"));
    }
    Ok(roots)
}

fn start_log(settings: &Settings) -> Result<(), Failure> {
    let log = tracing_subscriber::fmt()
        .with_env_filter(settings.log_filter().map_err(Failure::settings)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match settings.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
