//! Many nodes that are registered, send heartbeats and are never asked for anything.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use futures::{SinkExt, StreamExt};
use iris_core::Timestamp;
use iris_core::model::ModelOffer;
use iris_crypto::certificate::{Origin, Role};
use iris_crypto::hello::{Hello, sign_hello};
use iris_crypto::{Identity, PublicIdentity, SealingKey, SignedCertificate, random_bytes};
use iris_protocol::connection::{NodeConnection, NodeEvent};
use iris_protocol::limits::Limits;
use iris_protocol::message::{Challenge, Hardware, NodeHeartbeat, NodeRegister};
use iris_protocol::transport::websocket::{IntoClientRequest, WebSocket};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::NODE_KEY;
use crate::Failure;
use crate::request::INSTANT;

/// How many nodes connect at the same time.
const AT_A_TIME: usize = 32;

/// Connects so many nodes, says so when all are registered, and stays until `stop` resolves.
pub(super) async fn stay(
    coordinator: SocketAddr,
    nodes: u32,
    stop: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let key: Arc<str> = std::env::var(NODE_KEY)?.into();
    let turns = Arc::new(Semaphore::new(AT_A_TIME));
    let (mut joining, mut staying) = (JoinSet::new(), JoinSet::new());
    for _ in 0..nodes {
        let (key, turns) = (Arc::clone(&key), Arc::clone(&turns));
        joining.spawn(async move {
            let _turn = turns.acquire_owned().await?;
            Node::join(coordinator, &key).await
        });
    }
    while let Some(node) = joining.join_next().await {
        staying.spawn(node??.run());
    }
    println!("connected");
    tokio::select! {
        Some(ended) = staying.join_next() => ended?,
        () = stop => Ok(()),
    }
}

/// One node, registered.
struct Node {
    connection: NodeConnection,
    socket: WebSocket<TcpStream>,
}

impl Node {
    async fn join(coordinator: SocketAddr, key: &str) -> Result<Self, Failure> {
        let stream = TcpStream::connect(coordinator).await?;
        stream.set_nodelay(true)?;
        let mut request = format!("ws://{coordinator}/nodes/connect").into_client_request()?;
        request.headers_mut().insert("authorization", format!("Bearer {key}").parse()?);
        let socket = WebSocket::client(stream, request).await?;
        let mut connection = NodeConnection::new(Instant::now(), Limits::default());
        connection.connect(Instant::now());
        let mut node = Self { connection, socket };
        while !node.step().await? {}
        Ok(node)
    }

    async fn run(mut self) -> Result<(), Failure> {
        loop {
            self.step().await?;
        }
    }

    /// Sends what there is to send and waits for one event; returns whether it registered the node.
    async fn step(&mut self) -> Result<bool, Failure> {
        while let Some(frame) = self.connection.poll_transmit() {
            self.socket.send(frame).await?;
        }
        let due = self.connection.poll_timeout().ok_or("a node is not connected")?;
        let event = tokio::select! {
            frame = self.socket.next() => {
                let frame = frame.ok_or("the coordinator hung up")??;
                self.connection.handle_frame(Instant::now(), frame)?
            }
            () = sleep_until(due.into()) => self.connection.handle_timeout(Instant::now())?,
        };
        match event {
            Some(NodeEvent::Challenged(challenge)) => {
                self.connection.register(registration(&challenge)?)?;
            }
            // An idle node is given nothing to read, so it needs no proof of who would give it.
            Some(NodeEvent::Answered(ack)) => {
                self.connection.enter(Instant::now(), &ack)?;
                return Ok(true);
            }
            Some(NodeEvent::HeartbeatDue) => {
                let heartbeat = NodeHeartbeat::default();
                self.connection.heartbeat(heartbeat)?;
            }
            Some(NodeEvent::Closing(error)) => return Err(format!("{error:?}").into()),
            _ => {}
        }
        Ok(false)
    }
}

fn registration(challenge: &Challenge) -> Result<NodeRegister, Failure> {
    let (identity, sealing) = (Identity::generate(), SealingKey::generate());
    let origin = Origin::from(PublicIdentity::from_bytes(challenge.coordinator.0)?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let now = Timestamp::from_millis(now.try_into()?);
    let certificate =
        SignedCertificate::issue(&identity, Role::Node, sealing.public(), &origin, now, 1);
    let hello =
        Hello { challenge: &challenge.nonce.0, origin: &origin, certificate: &certificate.hash() };
    let certificate = certificate.encoded().to_vec();
    Ok(NodeRegister {
        version: challenge.max_version,
        capabilities: Vec::new(),
        identity: (*identity.public().as_bytes()).into(),
        certificate: certificate.try_into().map_err(|_| "a certificate is short")?,
        nonce: random_bytes::<32>().into(),
        signature: (*sign_hello(&identity, &hello).as_bytes()).into(),
        name: None,
        agent_version: None,
        slots: 1,
        models: vec![ModelOffer::new(INSTANT.parse()?, 32_768)],
        datasets: Vec::new(),
        hardware: Hardware::default(),
        terms: iris_core::terms::Terms::default(),
        resume: None,
    })
}
