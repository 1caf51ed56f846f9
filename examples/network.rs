//! `cargo demo`: a whole network in one process answers a question with a real model.
//!
//! A coordinator with a SQLite file, three nodes with the built-in engine and a client, over real
//! sockets on free loopback ports. `--json` prints the answer for scripts; `--serve` keeps the
//! network running for any OpenAI-compatible program.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use iris_client::{Client, openai::ChatRequest, openai::Message};
use iris_coordinator::Coordinator;
use iris_coordinator::http::{Server, ServerSettings};
use iris_coordinator::store::{SqliteStore, VIEWS};
use iris_crypto::{Identity, Secret};
use iris_node::agent::{Agent, CoordinatorUrl, Status, WebSocketConnector};
use iris_node::backend::engine::{BUNDLED_MODEL, Engine};
use iris_protocol::rest::KeyScope;
use tokio::sync::watch;
use tokio::task::JoinSet;

const QUESTION: &str = "What does a coordinator do?";
const NODES: [&str; 3] = ["attic", "cellar", "kitchen"];
const HELP: &str = "\
Starts an Iris network in this process and asks it a question.

Usage: cargo demo [OPTIONS] [QUESTION]

Options:
  --json    Print the answer as one JSON object and nothing else
  --serve   Keep the network running and print how to reach it
  --help    Print this help";

type AnyError = Box<dyn Error + Send + Sync>;

/// What the command line asks for.
struct Options {
    question: String,
    json: bool,
    serve: bool,
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let Some(options) = Options::read(std::env::args().skip(1))? else {
        println!("{HELP}");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let network = Network::start(folder.path()).await?;
    if !options.json {
        network.introduce().await?;
    }
    network.ask(&options).await?;
    if options.serve {
        println!("\nThe network keeps running. Point any OpenAI-compatible program at it:");
        println!("  base URL  {}/v1", network.url);
        println!("  API key   {}", network.key);
        println!("  model     {BUNDLED_MODEL}");
        println!("Press Ctrl-C to stop.");
        tokio::signal::ctrl_c().await?;
    }
    network.stop().await;
    Ok(())
}

impl Options {
    fn read(args: impl Iterator<Item = String>) -> Result<Option<Self>, AnyError> {
        let mut options = Self { question: QUESTION.to_owned(), json: false, serve: false };
        for arg in args {
            match arg.as_str() {
                "--json" => options.json = true,
                "--serve" => options.serve = true,
                "--help" | "-h" => return Ok(None),
                flag if flag.starts_with("--") => {
                    return Err(format!("unknown option {flag}; try --help").into());
                }
                _ => options.question = arg,
            }
        }
        Ok(Some(options))
    }
}

/// A running network.
struct Network {
    url: String,
    key: String,
    client: Client,
    stop: watch::Sender<bool>,
    nodes: JoinSet<()>,
    server: tokio::task::JoinHandle<()>,
    coordinator: Coordinator,
}

impl Network {
    async fn start(folder: &std::path::Path) -> Result<Self, AnyError> {
        let (stop, stopped) = watch::channel(false);
        let store = Arc::new(SqliteStore::open(folder.join("iris.db"), VIEWS)?);
        let coordinator =
            Coordinator::builder(store, Identity::generate(), Secret::generate()).build().await?;
        let settings = ServerSettings::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let server = Server::bind(coordinator.clone(), settings).await?;
        let url = format!("http://{}", server.local_addr()?);
        let account = coordinator.accounts().create_account().await?.account;
        let key = |scope| coordinator.accounts().create_key_for(account, scope);
        let node_key = key(KeyScope::Node).await?.key;
        let key = key(KeyScope::Inference).await?.key.expose().to_owned();
        let server = tokio::spawn(server.run(when(stopped.clone())));
        let mut nodes = JoinSet::new();
        let mut online = Vec::new();
        for name in NODES {
            let backend = Arc::new(Engine::bundled()?);
            let agent = Agent::builder(Identity::generate(), backend).with_name(name).build();
            online.push(agent.status());
            let connector =
                WebSocketConnector::new(url.parse::<CoordinatorUrl>()?, node_key.clone());
            let stopped = when(stopped.clone());
            nodes.spawn(async move {
                if let Err(error) = agent.run_on(connector, stopped).await {
                    eprintln!("node {name}: {error}");
                }
            });
        }
        for mut status in online {
            status.wait_for(|status| matches!(status, Status::Online { .. })).await?;
        }
        let client = Client::builder(&url).with_api_key(&*key).build()?;
        Ok(Self { url, key, client, stop, nodes, server, coordinator })
    }

    async fn introduce(&self) -> Result<(), AnyError> {
        println!("coordinator  {}", self.url);
        let mut nodes = self.client.network().nodes();
        while let Some(node) = nodes.try_next().await? {
            let name = node.name.unwrap_or_default();
            let speed = node.models.first().and_then(|model| model.speed);
            let speed = speed.map_or_else(|| "not measured".to_owned(), |s| s.to_string());
            println!("node         {name:<8} {} {} {speed}", node.id, node.tier);
        }
        Ok(())
    }

    async fn ask(&self, options: &Options) -> Result<(), AnyError> {
        let messages = vec![Message::user(options.question.as_str())];
        let request = ChatRequest::new(BUNDLED_MODEL, messages);
        if options.json {
            println!("{}", serde_json::to_string(&self.client.chat(request).await?.completion)?);
            return Ok(());
        }
        println!("\nquestion     {}", options.question);
        let started = Instant::now();
        let mut answer = self.client.chat_stream(request).await?;
        let mut first = None;
        let mut chunks = 0;
        print!("answer       ");
        while let Some(chunk) = answer.next().await {
            for choice in chunk?.choices {
                let Some(text) = choice.delta.content else { continue };
                first.get_or_insert_with(|| started.elapsed());
                chunks += 1;
                print!("{}", text.replace('\n', "\n             "));
                std::io::Write::flush(&mut std::io::stdout())?;
            }
        }
        let (took, first) = (started.elapsed(), first.unwrap_or_default());
        println!("\n\nfirst chunk  after {} ms", first.as_millis());
        println!("whole answer {chunks} chunks in {} ms{}", took.as_millis(), rate(chunks, took));
        let nodes: Vec<_> = self.client.network().nodes().try_collect().await?;
        let node = nodes.iter().find(|node| Some(node.id) == answer.head().node);
        let name = node.and_then(|node| node.name.as_deref()).unwrap_or("?");
        println!("privacy      {}: only {name} could read this", answer.privacy());
        let receipt = answer.receipt().wait().await?;
        println!("receipt      signed by {name}, {} bytes", receipt.encode().len());
        Ok(())
    }

    async fn stop(mut self) {
        let _ = self.stop.send(true);
        while self.nodes.join_next().await.is_some() {}
        let _ = self.server.await;
        self.coordinator.shutdown().await;
    }
}

fn rate(chunks: u32, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    if seconds > 0.0 {
        format!(", {:.0} per second", f64::from(chunks) / seconds)
    } else {
        String::new()
    }
}

/// Resolves when the network is to stop.
async fn when(mut stopped: watch::Receiver<bool>) {
    // A sender that is gone stops the network too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
