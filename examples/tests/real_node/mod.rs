//! Real nodes in a simulated network.

#![allow(unreachable_pub, reason = "this is test code")]

use std::sync::Arc;
use std::time::Duration;

use iris_coordinator::simulation::turmoil::{self, net::TcpStream};
use iris_coordinator::simulation::{COORDINATOR, Counting, Dice, PORT, Simulation, calendar};
use iris_crypto::{Identity, Secret};
use iris_node::agent::{Agent, ConnectError, Link};
use iris_protocol::transport::websocket::{IntoClientRequest, WebSocket};

/// How long a node tries to connect.
const CONNECT: Duration = Duration::from_secs(5);

/// Adds up to two real nodes, and returns the names of their hosts.
pub fn join(net: &mut Simulation, dice: &mut Dice) -> Vec<String> {
    let names: Vec<_> = (0..dice.below(3)).map(|number| format!("real{number}")).collect();
    for name in &names {
        let (seed, slots) = (dice.draw(), 1 + u32::try_from(dice.below(3)).unwrap_or_default());
        net.host(name, move |key| serve(key, seed, slots));
    }
    names
}

/// Runs a real node that counts.
pub async fn serve(key: String, seed: u64, slots: u32) -> turmoil::Result {
    let identity = Identity::from_seed(&Secret::from_bytes(Dice::new(seed).bytes()));
    let counting = Counting::new("m".parse()?, seed);
    let agent = Agent::builder(identity, Arc::new(counting))
        .with_slots(slots)
        .with_measurement(false)
        .with_clock(calendar)
        .with_seed(seed)
        .build();
    agent.run_on(move || connect(key.clone()), std::future::pending()).await?;
    Ok(())
}

async fn connect(key: String) -> Result<Link, ConnectError> {
    let url = format!("ws://{COORDINATOR}:{PORT}/nodes/connect");
    let unreachable = |cause: &dyn ToString| ConnectError::Unreachable {
        endpoint: COORDINATOR.into(),
        cause: cause.to_string(),
    };
    let opening = async {
        let stream = TcpStream::connect((COORDINATOR, PORT)).await.map_err(|e| unreachable(&e))?;
        let mut request = url.into_client_request().map_err(|e| unreachable(&e))?;
        let bearer = format!("Bearer {key}").parse().map_err(|e| unreachable(&e))?;
        request.headers_mut().insert("authorization", bearer);
        WebSocket::client(stream, request).await.map_err(|e| unreachable(&e))
    };
    let opened = tokio::time::timeout(CONNECT, opening).await;
    let socket = opened.map_err(|_| unreachable(&"it takes too long"))??;
    Ok(Link::new(COORDINATOR, socket))
}
