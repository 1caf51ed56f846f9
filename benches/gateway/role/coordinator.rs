//! The coordinator with everything on that a request pays for.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use iris_coordinator::Coordinator;
use iris_coordinator::http::{Server, ServerSettings};
use iris_coordinator::store::{SqliteStore, VIEWS};
use iris_crypto::Identity;
use iris_crypto::keyfile::{Purpose, SecretFile};
use iris_protocol::rest::KeyScope;

use crate::Failure;

/// Opens an account and prints a caller's and a node's key. A process of its own does this,
/// because hashing the account's key takes memory that an idle coordinator never had.
pub(super) async fn open_account(folder: &Path) -> Result<(), Failure> {
    let coordinator = compose(folder).await?;
    let accounts = coordinator.accounts();
    let account = accounts.create_account().await?.account;
    let caller = accounts.create_key_for(account, KeyScope::Inference, None).await?.key;
    let node = accounts.create_key_for(account, KeyScope::Node, None).await?.key;
    coordinator.shutdown().await;
    println!("{} {}", caller.expose(), node.expose());
    Ok(())
}

/// Serves on a free port, which it prints, until `stop` resolves.
pub(super) async fn serve(folder: &Path, stop: impl Future<Output = ()>) -> Result<(), Failure> {
    let coordinator = compose(folder).await?;
    let server = Server::bind(coordinator.clone(), ServerSettings::default()).await?;
    println!("{}", server.local_addr()?);
    server.run(stop).await;
    coordinator.shutdown().await;
    Ok(())
}

async fn compose(folder: &Path) -> Result<Coordinator, Failure> {
    let identity = Identity::load_or_create(folder.join("coordinator.key"))?;
    let secret = SecretFile::new(folder.join("secret"), Purpose::Records).load_or_create()?;
    let store = Arc::new(SqliteStore::open(folder.join("iris.db"), VIEWS)?);
    Ok(Coordinator::builder(store, identity, secret).build().await?)
}
