//! The `iris-coordinator` command: serves a network.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use iris_coordinator::Coordinator;
use iris_coordinator::http::{Server, TlsReloader, raise_file_limit};
use tokio_util::sync::CancellationToken;

use books::Books;
use cli::{AccountCommand, Cli, Command, InviteCommand, KeyCommand};
use failure::{Exit, Failure};
use settings::{LogFormat, Settings};
use signals::{Signal, Signals};

mod admin;
mod books;
mod cli;
mod failure;
mod money;
mod report_desk;
mod settings;
mod signals;
mod verdicts;

/// A coordinator's work is many small messages, which the system's allocator takes twice as long
/// for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let started = runtime().map_err(|error| Failure::new(Exit::Work, error));
    match started.and_then(|runtime| runtime.block_on(run(&cli))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("iris-coordinator: {failure}");
            failure.exit.into()
        }
    }
}

/// Starts a runtime with a thread for every second core. The other half of a core's work is the
/// kernel's, for the sockets, and the store's; threads that share a core spend more on waking
/// each other than on requests. `TOKIO_WORKER_THREADS` overrides it.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        runtime.worker_threads(cores.div_ceil(2));
    }
    runtime.enable_all().build()
}

async fn run(cli: &Cli) -> Result<(), Failure> {
    let environment = |name: &str| std::env::var(name).ok();
    let settings = Settings::load(cli.flags(), environment, cli.config.as_deref())
        .map_err(|error| Failure::new(Exit::Settings, error))?;
    if cli.print_config {
        print!("{settings}");
        return Ok(());
    }
    start_log(&settings)?;
    match cli.chosen() {
        Command::Serve => serve(&settings).await,
        Command::Check => admin::check(&settings).await,
        Command::Account(AccountCommand::New) => admin::new_account(&settings).await,
        Command::Account(AccountCommand::Pay(payment)) => admin::pay(&settings, payment).await,
        Command::Account(AccountCommand::Import { file }) => admin::import(&settings, file).await,
        Command::Invite(InviteCommand::New(new)) => admin::invite(&settings, new).await,
        Command::Invite(InviteCommand::List) => admin::invitations(&settings).await,
        Command::Invite(InviteCommand::Revoke { id }) => admin::uninvite(&settings, id).await,
        Command::Month(command) => money::month(&settings, command).await,
        Command::Payout(command) => money::payout(&settings, command).await,
        Command::Pool(command) => money::pool(&settings, command).await,
        Command::Report(command) => report_desk::report(&settings, command).await,
        Command::Verdict(command) => verdicts::verdict(&settings, command).await,
        Command::Key(KeyCommand::New(key)) => admin::new_key(&settings, key).await,
    }
}

async fn serve(settings: &Settings) -> Result<(), Failure> {
    let signals = Signals::listen()
        .map_err(|error| Failure::new(Exit::Work, format!("signals cannot be heard: {error}")))?;
    raise_file_limit();
    for name in settings.unused() {
        tracing::warn!(
            "{name} is set and has no effect: IRIS_CLASSIFIER does not name what it is for"
        );
    }
    let classifiers =
        settings.classifiers().map_err(|error| Failure::new(Exit::Settings, error))?;
    let phrases = settings.phrases().map_err(|error| Failure::new(Exit::Settings, error))?;
    let identity = books::identity(settings)?;
    let Books { store, secret } = Books::open(settings)?;
    let _lock = books::lock_alone(settings)?;
    let coordinator = Coordinator::builder(Arc::new(store), identity, secret)
        .with_rate_per_minute(settings.rate_per_minute)
        .with_queue_capacity(settings.queue_capacity)
        .with_max_wait(settings.max_wait())
        .with_patience(settings.patience)
        .with_trusted_owners(settings.trusted_owners.iter().copied())
        .with_comparisons(settings.compare_answers)
        .with_phrases(phrases)
        .with_share(settings.owner_share())
        .with_retry_policy(settings.retry())
        .with_classifiers(classifiers)
        .with_retention(settings.retention())
        .with_account_policy(settings.accounts())
        .with_pay_policy(settings.pay().map_err(|error| Failure::new(Exit::Settings, error))?)
        .build()
        .await
        .map_err(Failure::books)?;
    let served = listen(settings, &coordinator, signals).await;
    coordinator.shutdown().await;
    served
}

/// Serves until a signal says to stop and running requests are through.
async fn listen(
    settings: &Settings,
    coordinator: &Coordinator,
    signals: Signals,
) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Listen, error);
    let server = Server::bind(coordinator.clone(), settings.server()).await;
    let server = server.map_err(|error| failed(&error))?;
    let address = server.local_addr().map_err(|error| failed(&error))?;
    let stop = CancellationToken::new();
    tokio::spawn(obey(signals, stop.clone(), server.tls_reloader()));
    // Whoever started this may not be listening, which is no reason not to serve.
    let _ = writeln!(
        std::io::stdout(),
        "iris-coordinator is ready at {}://{address}",
        settings.scheme()
    );
    server.run(stop.cancelled_owned()).await;
    Ok(())
}

async fn obey(mut signals: Signals, stop: CancellationToken, tls: Option<TlsReloader>) {
    loop {
        match (signals.next().await, &tls) {
            (Signal::Stop, _) if stop.is_cancelled() => std::process::exit(Exit::Work as i32),
            (Signal::Stop, _) => {
                tracing::info!("stopping; running requests may finish");
                stop.cancel();
            }
            (Signal::Reload, Some(tls)) => match tls.reload() {
                Ok(()) => tracing::info!("TLS files read again"),
                Err(error) => tracing::error!(%error, "TLS files cannot be used; keeping the old"),
            },
            (Signal::Reload, None) => tracing::info!("no TLS files to read again"),
        }
    }
}

fn start_log(settings: &Settings) -> Result<(), Failure> {
    let filter = settings.log_filter().map_err(|error| Failure::new(Exit::Settings, error))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match settings.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
