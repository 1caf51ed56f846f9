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

/// Opens an account for nodes and one for each caller, and prints a key of each. A process of its
/// own does this, because hashing an account's key takes memory that an idle coordinator never had.
pub(super) async fn open_accounts(folder: &Path, callers: u32) -> Result<(), Failure> {
    let coordinator = compose(folder).await?;
    let accounts = coordinator.accounts();
    let scopes = std::iter::once(KeyScope::Node);
    let scopes = scopes.chain((0..callers).map(|_| KeyScope::Inference));
    let mut keys = Vec::new();
    for scope in scopes {
        let account = accounts.create_account().await?.account;
        let key = accounts.create_key_for(account, scope).await?.key;
        keys.push(key.expose().to_owned());
    }
    coordinator.shutdown().await;
    println!("{}", keys.join(" "));
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
    // One account asks as much as it can.
    let builder = Coordinator::builder(store, identity, secret).with_rate_per_minute(0);
    // One account brings the whole crowd.
    Ok(builder.with_most_nodes_of_one(u32::MAX).build().await?)
}
