//! A coordinator over HTTP: `cargo run -p iris-examples --bin coordinator`.
//!
//! Keeps its books in `data/`, and prints the commands that connect a node and ask a question.
//! Give another address as argument; off the loopback interface it needs TLS.

use std::error::Error;
use std::sync::Arc;

use iris_coordinator::Coordinator;
use iris_coordinator::http::{Server, ServerSettings};
use iris_coordinator::store::{SqliteStore, VIEWS};
use iris_crypto::Identity;
use iris_crypto::keyfile::{Purpose, SecretFile};
use iris_protocol::rest::KeyScope;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());

    let identity = Identity::load_or_create("data/coordinator.key")?;
    let secret = SecretFile::new("data/coordinator.secret", Purpose::Records).load_or_create()?;
    let store = Arc::new(SqliteStore::open("data/iris.db", VIEWS)?);
    let coordinator = Coordinator::builder(store, identity, secret).build().await?;
    let server = Server::bind(coordinator.clone(), ServerSettings::new(address.parse()?)).await?;
    let url = format!("http://{}", server.local_addr()?);

    let accounts = coordinator.accounts();
    let account = accounts.create_account().await?.account;
    let node = accounts.create_key_for(account, KeyScope::Node).await?.key;
    let client = accounts.create_key_for(account, KeyScope::Inference).await?.key;
    println!("The coordinator is ready. In two more terminals:");
    println!(
        "  COORDINATOR_URL={url} IRIS_NODE_KEY={} cargo run -p iris-examples --bin node",
        node.expose()
    );
    println!(
        "  COORDINATOR_URL={url} IRIS_API_KEY={} cargo run -p iris-examples --bin client",
        client.expose()
    );

    let stop = async {
        // Without signals the coordinator could not be stopped in order.
        tokio::signal::ctrl_c().await.expect("the system delivers signals");
    };
    server.run(stop).await;
    coordinator.shutdown().await;
    Ok(())
}
