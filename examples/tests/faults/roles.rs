//! What a child process is: a coordinator, a node or a model server.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use iris_coordinator::Coordinator;
use iris_coordinator::http::{ApiSettings, Server, ServerSettings};
use iris_coordinator::store::SqliteStore;
use iris_crypto::{Identity, Secret};
use iris_node::agent::{Agent, ConnectError, Connector, Link, Status, WebSocketConnector};
use iris_node::backend::openai::OpenAiBackend;
use iris_protocol::limits::Limits;
use iris_protocol::transport::tcp::{self, Patient};
use iris_protocol::transport::websocket::{IntoClientRequest, WebSocket};

use crate::live::child::end_with_parent;
use crate::model_server;

pub(crate) const STORE: &str = "IRIS_TEST_STORE";
pub(crate) const LISTEN: &str = "IRIS_TEST_LISTEN";
pub(crate) const COORDINATOR: &str = "IRIS_TEST_COORDINATOR";
pub(crate) const NODE_KEY: &str = "IRIS_TEST_NODE_KEY";
pub(crate) const NODE_NUMBER: &str = "IRIS_TEST_NODE_NUMBER";
pub(crate) const MODEL_SERVER: &str = "IRIS_TEST_MODEL_SERVER";
/// From which seed the faults of the model server's answers are drawn, if there are any.
pub(crate) const FAULTS: &str = "IRIS_TEST_FAULTS";

/// Slots of each node.
pub(crate) const SLOTS: u32 = 4;

/// How soon a peer that says nothing counts as lost, and how long it may come back.
pub(crate) const LOST: Duration = Duration::from_secs(2);
const GRACE: Duration = Duration::from_millis(500);
const STALL: Duration = Duration::from_secs(2);
const MAX_WAIT: Duration = Duration::from_secs(3);

/// What an operator keeps in a file beside the database.
pub(crate) fn secret() -> Secret {
    Secret::from_bytes([7; 32])
}

fn limits() -> Limits {
    let heartbeat = Duration::from_millis(500);
    Limits { heartbeat, lost: LOST, resume_grace: GRACE, ..Limits::default() }
}

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs as a child process"]
async fn coordinator() {
    let (Some(path), Some(listen)) = (setting(STORE), setting(LISTEN)) else { return };
    end_with_parent();
    let store = Arc::new(SqliteStore::open(path, &[]).unwrap());
    let coordinator = Coordinator::builder(store, Identity::from_seed(&secret()), secret())
        .with_link_limits(limits())
        .with_max_wait(MAX_WAIT)
        // One account asks for everybody, as fast as it can.
        .with_rate_per_minute(0)
        .build()
        .await
        .unwrap();
    let listen: SocketAddr = listen.parse().unwrap();
    // Where the test makes a network of its own, nobody else is in it.
    let proxies = if listen.ip().is_loopback() {
        vec![]
    } else {
        vec![listen.ip().to_string().parse().unwrap()]
    };
    let settings = ServerSettings::new(listen)
        .with_api(ApiSettings::default().with_trusted_proxies(proxies))
        .with_stall(STALL);
    let server = Server::bind(coordinator, settings).await.unwrap();
    println!("address {}", server.local_addr().unwrap());
    server.run(pending()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs as a child process"]
async fn node() {
    let (Some(url), Some(key)) = (setting(COORDINATOR), setting(NODE_KEY)) else { return };
    end_with_parent();
    let number: u8 = setting(NODE_NUMBER).unwrap().parse().unwrap();
    let backend = OpenAiBackend::builder(setting(MODEL_SERVER).unwrap()).build().unwrap();
    let agent =
        Agent::builder(Identity::from_seed(&Secret::from_bytes([number; 32])), Arc::new(backend))
            .with_measurement(false)
            .with_list_interval(Duration::from_millis(500))
            .with_slots(SLOTS)
            .build();
    let mut status = agent.status();
    tokio::spawn(async move {
        while status.wait_for(|status| matches!(status, Status::Online { .. })).await.is_ok() {
            println!("online");
            if status.wait_for(|status| !matches!(status, Status::Online { .. })).await.is_err() {
                break;
            }
            println!("offline");
        }
    });
    let ended = match url.strip_prefix("bare ") {
        Some(address) => agent.run_on(bare(address.parse().unwrap(), key), pending()).await,
        None => agent.run_on(WebSocketConnector::new(url.parse().unwrap(), key), pending()).await,
    };
    panic!("a node ends with its process alone: {ended:?}");
}

/// A way to a coordinator without TLS off this machine, which nodes refuse elsewhere.
fn bare(address: SocketAddr, key: String) -> impl Connector {
    move || {
        let key = key.clone();
        async move {
            let endpoint: Arc<str> = address.to_string().into();
            let unreachable = |cause: String| ConnectError::Unreachable {
                endpoint: Arc::clone(&endpoint),
                cause,
            };
            let opening = async {
                let stream = tokio::net::TcpStream::connect(address)
                    .await
                    .map_err(|error| unreachable(error.to_string()))?;
                tcp::prepare(&stream, STALL).unwrap();
                let request = format!("ws://{address}/nodes/connect").into_client_request();
                let mut request = request.unwrap();
                let bearer = format!("Bearer {key}").parse().unwrap();
                request.headers_mut().insert("authorization", bearer);
                let socket = WebSocket::client(Patient::new(stream, STALL), request).await;
                let socket = socket.map_err(|error| unreachable(error.to_string()))?;
                Ok(Link::new(Arc::clone(&endpoint), socket))
            };
            let opened = tokio::time::timeout(Duration::from_secs(1), opening).await;
            opened.unwrap_or_else(|_| Err(unreachable("no answer in time".to_owned())))
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs as a child process"]
async fn model_server() {
    let Some(listen) = setting(LISTEN) else { return };
    end_with_parent();
    let faults = setting(FAULTS).map(|seed| seed.parse().unwrap());
    model_server::serve(listen.parse().unwrap(), faults).await;
}
