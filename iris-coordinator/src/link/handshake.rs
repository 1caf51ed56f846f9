use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use futures::TryStreamExt;
use iris_core::model::{Abilities, ModelOffer};
use iris_core::registry::NodeProfile;
use iris_core::store::{Batch, Document, Key, Store, StoreError};
use iris_core::{AccountId, NodeId, Timestamp};
use iris_crypto::certificate::{Expectation, Origin, Role, SignedCertificate};
use iris_crypto::hello::{Hello, verify_hello};
use iris_crypto::{HopRoot, Identity, PublicIdentity, Signature, VerifiedCertificate};
use iris_protocol::connection::{CoordinatorConnection, CoordinatorEvent, Violation};
use iris_protocol::limits::Limits;
use iris_protocol::message::{Challenge, ErrorCode, Hardware, Hop, NodeRegister, SessionId};
use iris_protocol::rest::HoldKind;
use iris_protocol::text::{Bytes32, Label};
use iris_protocol::transport::TransportError;
use iris_protocol::version::{CLASSIFY, CONTINUE, NEWEST, OLDEST, SEAL};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::owned::Owned;
use super::session::Session;
use super::{Arrival, BoxTransport, Command, HopKeys, NodeLink};
use crate::dispatch::Dispatch;

/// The record type that binds nodes to accounts.
pub(super) const NODE: &str = "node";

/// Lets nodes in.
#[derive(Debug)]
pub(crate) struct Door {
    dispatch: Arc<Dispatch>,
    store: Arc<dyn Store>,
    owned: Owned,
    identity: Arc<Identity>,
    limits: Limits,
    most_nodes: u32,
}

/// Why a node was not let in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The node broke a rule of the protocol, or took too long.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The connection failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The node left before it had registered.
    #[error("the node left before it had registered")]
    Left,
    /// The proof of identity or the certificate does not hold.
    #[error("the node's proof of identity does not hold")]
    Unauthorized,
    /// The node belongs to another account.
    #[error("the node belongs to another account")]
    Forbidden,
    /// The operator does not let the node in.
    #[error("the operator does not let this node in")]
    Blocked,
    /// Its account has brought as many nodes as it may; they stay its own for good.
    #[error(
        "the account has {0} nodes already, the most it may have: start one with the identity of a \
         node it had, or ask the operator"
    )]
    TooManyNodes(u32),
    /// The coordinator could not look the node up.
    #[error("the node could not be looked up")]
    Store,
}

/// Whose a node is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NodeRecord {
    pub(super) owner: AccountId,
    pub(super) first_seen: Timestamp,
}

/// Returns who owns which node, as far as nodes ever came.
pub(crate) async fn owners(store: &dyn Store) -> Result<HashMap<NodeId, AccountId>, StoreError> {
    let records = store.scan(Key::all(NODE)).and_then(|record| async move {
        let owner = record.value.decode::<NodeRecord>()?.owner;
        Ok(record.key.id().parse().ok().map(|node| (node, owner)))
    });
    records.try_filter_map(|bound| async move { Ok(bound) }).try_collect().await
}

/// Returns whether a node of this id ever came.
pub(crate) async fn is_known(store: &dyn Store, node: &NodeId) -> Result<bool, StoreError> {
    let key = Key::new(NODE, node).expect("a node id is a key segment");
    Ok(store.get(key).await?.is_some())
}

impl Door {
    pub(crate) const fn new(
        dispatch: Arc<Dispatch>,
        store: Arc<dyn Store>,
        owned: Owned,
        identity: Arc<Identity>,
        limits: Limits,
        most_nodes: u32,
    ) -> Self {
        Self { dispatch, store, owned, identity, limits, most_nodes }
    }

    /// Returns which nodes each account has.
    pub(crate) const fn owned(&self) -> &Owned {
        &self.owned
    }

    /// Leads a node through registration and hands its connection to its session.
    pub(crate) async fn admit(
        &self,
        mut transport: BoxTransport,
        owner: AccountId,
    ) -> Result<NodeId, LinkError> {
        let nonce = iris_crypto::random_bytes::<32>();
        let challenge = Challenge {
            min_version: OLDEST,
            max_version: NEWEST,
            nonce: Bytes32::from(nonce),
            coordinator: Bytes32::from(*self.identity.public().as_bytes()),
            capabilities: [CONTINUE, SEAL].into_iter().filter_map(Label::lossy).collect(),
        };
        let now = self.dispatch.clock.now();
        let mut connection = CoordinatorConnection::new(now, self.limits, challenge);
        let checked = async {
            let register = self.registration(&mut transport, &mut connection).await?;
            let certificate = self.check(&register, &nonce, owner).await?;
            Ok((register, certificate))
        };
        match checked.await {
            Ok((register, certificate)) => {
                let node = certificate.node_id();
                let certificate = Arc::new(certificate);
                let arrival = Arrival { transport, connection, register, certificate };
                self.enter(Box::new(arrival), owner);
                Ok(node)
            }
            Err(error) => {
                self.turn_away(transport, connection, &error).await;
                Err(error)
            }
        }
    }

    /// Tells a node why it is not let in, as far as it listens.
    async fn turn_away(
        &self,
        mut transport: BoxTransport,
        mut connection: CoordinatorConnection,
        error: &LinkError,
    ) {
        let code = match error {
            LinkError::Violation(Violation::Version) => ErrorCode::Version,
            LinkError::Violation(_) => ErrorCode::Violation,
            LinkError::Unauthorized => ErrorCode::Unauthorized,
            LinkError::Forbidden | LinkError::Blocked | LinkError::TooManyNodes(_) => {
                ErrorCode::Forbidden
            }
            LinkError::Store => ErrorCode::Internal,
            LinkError::Transport(_) | LinkError::Left => return,
        };
        connection.reject(code, Label::lossy(&error.to_string()));
        let farewell = async {
            poll_fn(|cx| flush(&mut transport, &mut connection, cx)).await?;
            poll_fn(|cx| transport.as_mut().poll_close(cx)).await
        };
        // Whether it arrived makes no difference any more.
        let _ = tokio::time::timeout(self.limits.registration, farewell).await;
    }

    /// Waits for the answer to the challenge.
    async fn registration(
        &self,
        transport: &mut BoxTransport,
        connection: &mut CoordinatorConnection,
    ) -> Result<Box<NodeRegister>, LinkError> {
        let deadline = tokio::time::Instant::now() + self.limits.registration;
        loop {
            let frame = poll_fn(|cx| {
                if let Poll::Ready(Err(error)) = flush(transport, connection, cx) {
                    return Poll::Ready(Some(Err(error)));
                }
                transport.as_mut().poll_next(cx)
            });
            let frame = tokio::time::timeout_at(deadline, frame)
                .await
                .map_err(|_| Violation::RegistrationTimeout)?
                .ok_or(LinkError::Left)??;
            let event = connection.handle_frame(self.dispatch.clock.now(), frame)?;
            if let Some(CoordinatorEvent::Register(register)) = event {
                return Ok(register);
            }
        }
    }

    async fn check(
        &self,
        register: &NodeRegister,
        nonce: &[u8; 32],
        owner: AccountId,
    ) -> Result<VerifiedCertificate, LinkError> {
        let identity =
            PublicIdentity::from_bytes(register.identity.0).map_err(|_| LinkError::Unauthorized)?;
        let origin = self.identity.public().into();
        let now = self.dispatch.clock.calendar();
        let certificate =
            verify_certificate(register.certificate.as_bytes(), &identity, &origin, now, 0)?;
        let hello = Hello {
            challenge: nonce,
            origin: &origin,
            certificate: &certificate.certificate().hash(),
        };
        let signature = Signature::from_bytes(register.signature.0);
        verify_hello(&identity, &hello, &signature).map_err(|_| LinkError::Unauthorized)?;
        self.bind(identity.node_id(), owner).await?;
        if self.dispatch.holds.kind(&identity.node_id()) == Some(HoldKind::Block) {
            return Err(LinkError::Blocked);
        }
        Ok(certificate)
    }

    /// Binds a node to the account whose key it came with, for good.
    async fn bind(&self, node: NodeId, owner: AccountId) -> Result<(), LinkError> {
        let key = Key::new(NODE, node).expect("a node id is a key segment");
        let known = self.store.get(key.clone()).await.map_err(|_| LinkError::Store)?;
        let Some(known) = known else {
            let record = NodeRecord { owner, first_seen: self.dispatch.clock.calendar() };
            return self.take_in(node, key, &record).await;
        };
        let known: NodeRecord = known.value.decode().map_err(|_| LinkError::Store)?;
        if known.owner != owner {
            return Err(LinkError::Forbidden);
        }
        // A write that seemed to fail may have come through.
        self.owned.note(node, &known);
        Ok(())
    }

    /// Writes down whose a new node is, if its owner may have one more.
    async fn take_in(&self, node: NodeId, key: Key, record: &NodeRecord) -> Result<(), LinkError> {
        let most = self.most_nodes;
        let is_new = self.owned.claim(node, record, most).ok_or(LinkError::TooManyNodes(most))?;
        let batch = Batch::new().create(key, Document::encode(record));
        let written = self.store.commit(batch).await;
        match written {
            Ok(()) => self.owned.note(node, record),
            Err(_) if is_new => self.owned.forget(&node, &record.owner),
            Err(_) => {}
        }
        written.map_err(|_| LinkError::Store)
    }

    /// Gives an admitted node to the session it resumes, or to a new one.
    fn enter(&self, mut arrival: Box<Arrival>, owner: AccountId) {
        let identity = *arrival.certificate.identity();
        let node = identity.node_id();
        let resumes = arrival.register.resume.as_ref().map(|resume| resume.session);
        let known = self.dispatch.link(&node);
        if let Some(link) = known.filter(|link| resumes == Some(link.session)) {
            let sent = link.commands.send(Command::Attach(arrival));
            // A session that has ended in this moment gives the node back.
            let Err(mpsc::error::SendError(Command::Attach(returned))) = sent else { return };
            arrival = returned;
        }
        let session = SessionId::from_bytes(iris_crypto::random_bytes());
        let sealing_key = arrival.certificate.sealing_key();
        // Who waits for the node seals to it before its session has begun.
        let Ok((enc, root)) = HopRoot::initiate(&sealing_key, &Hop::binding(session, 0)) else {
            return;
        };
        let (commands, receiver) = mpsc::unbounded_channel();
        let certificate = Arc::clone(&arrival.certificate);
        let text = |label: Option<&str>| label.unwrap_or_default().to_owned();
        let register = &arrival.register;
        let names = |name| register.capabilities.iter().any(|named| named.as_str() == name);
        let (continues, seals, classifies) = (names(CONTINUE), names(SEAL), names(CLASSIFY));
        let profile = NodeProfile {
            id: node,
            owner,
            name: text(register.name.as_ref().map(Label::as_str)),
            slots: register.slots,
            models: within(continues, register.models.clone()),
            datasets: register.datasets.iter().map(ToString::to_string).collect(),
            memory_gb: memory_gb(&register.hardware),
            terms: register.terms.clone(),
        };
        let agent_version = text(register.agent_version.as_ref().map(Label::as_str));
        let connected = self.dispatch.clock.calendar();
        let (link, displaced) = self.dispatch.join(profile, &arrival.certificate, |seat| {
            Arc::new(NodeLink {
                seat,
                node,
                owner,
                session,
                agent_version,
                connected,
                continues,
                seals,
                classifies,
                audited: AtomicBool::new(false),
                leaving: AtomicBool::new(false),
                identity,
                window: self.limits.window,
                commands,
                keys: Mutex::new(HopKeys { epoch: 0, root, next: 1 }),
                certificate: Mutex::new(certificate),
            })
        });
        if let Some(displaced) = displaced {
            displaced.replace();
        }
        // It may have been blocked since it was checked.
        self.dispatch.carry_out_hold(&node);
        let (dispatch, identity) = (Arc::clone(&self.dispatch), Arc::clone(&self.identity));
        let session = Session::new(dispatch, link, identity, self.limits, enc);
        tokio::spawn(session.run(arrival, receiver));
    }
}

/// Returns all the memory that a machine has; `None` where it says that of its graphics card alone.
fn memory_gb(hardware: &Hardware) -> Option<u32> {
    hardware.ram_gb.map(|ram| ram.saturating_add(hardware.vram_gb.unwrap_or(0)))
}

/// Takes from what a node offers the abilities that its version of the protocol does not carry.
pub(crate) fn within(continues: bool, mut models: Vec<ModelOffer>) -> Vec<ModelOffer> {
    if !continues {
        for offer in &mut models {
            offer.abilities = offer.abilities.without(Abilities::CONTINUE);
        }
    }
    models
}

/// Checks a node's certificate.
pub(super) fn verify_certificate(
    certificate: &[u8],
    identity: &PublicIdentity,
    origin: &Origin,
    now: Timestamp,
    min_serial: u64,
) -> Result<VerifiedCertificate, LinkError> {
    let expected = Expectation { role: Role::Node, origin, now, min_serial };
    SignedCertificate::decode(certificate)
        .and_then(|certificate| certificate.verify(&expected))
        .ok()
        .filter(|certificate| certificate.identity() == identity)
        .ok_or(LinkError::Unauthorized)
}

/// Writes out what the connection has to send.
pub(super) fn flush(
    transport: &mut BoxTransport,
    connection: &mut CoordinatorConnection,
    cx: &mut Context<'_>,
) -> Poll<Result<(), TransportError>> {
    loop {
        ready!(transport.as_mut().poll_ready(cx))?;
        match connection.poll_transmit() {
            Some(frame) => transport.as_mut().start_send(frame)?,
            None => return transport.as_mut().poll_flush(cx),
        }
    }
}
