use std::collections::HashMap;
use std::sync::Arc;

use iris_crypto::certificate::Origin;
use iris_crypto::hello::{Hello, Welcome, sign_hello, verify_welcome};
use iris_crypto::{PublicIdentity, Signature, SignedCertificate, random_bytes};
use iris_protocol::limits::MAX_CERTIFICATE;
use iris_protocol::message::{Challenge, Hop, NodeRegister, RegisterAck, Rekey, SessionId};
use iris_protocol::text::{Blob, Bytes32, Bytes64, Label};
use iris_protocol::version::{CLASSIFY, CONTINUE, SEAL, Version};

use super::sealing::Sealing;
use super::{AgentError, Core};

/// How node and coordinator come to trust each other, and what is remembered of it.
#[derive(Debug)]
pub(super) struct Handshake {
    /// The only coordinator that is acceptable; else the one that answered first.
    pinned: Option<PublicIdentity>,
    seen: HashMap<Arc<str>, PublicIdentity>,
    endpoint: Arc<str>,
    /// Who claims to be there, and what it must sign.
    pending: Option<Pending>,
    session: Option<SessionId>,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    coordinator: PublicIdentity,
    nonce: [u8; 32],
}

impl Handshake {
    pub(super) fn new(pinned: Option<PublicIdentity>) -> Self {
        Self { pinned, seen: HashMap::new(), endpoint: "".into(), pending: None, session: None }
    }

    /// Begins a handshake with whoever is at `endpoint`.
    pub(super) fn begin(&mut self, endpoint: Arc<str>) {
        self.endpoint = endpoint;
        self.pending = None;
    }

    /// Returns where the last handshake began.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Answers the coordinator's challenge.
    pub(super) fn answer(
        &mut self,
        challenge: &Challenge,
        core: &Core,
        sealing: &mut Sealing,
    ) -> Result<NodeRegister, AgentError> {
        let version = Version::negotiate(challenge.min_version, challenge.max_version);
        let version = version.ok_or(AgentError::Version)?;
        let coordinator = PublicIdentity::from_bytes(challenge.coordinator.0)
            .map_err(|_| AgentError::BadProof)?;
        let expected = self.pinned.as_ref().or_else(|| self.seen.get(&self.endpoint));
        if let Some(expected) = expected
            && *expected != coordinator
        {
            return Err(AgentError::WrongCoordinator { expected: *expected, found: coordinator });
        }
        let origin = Origin::from(coordinator);
        let certificate = sealing.certificate(&core.identity, &origin, (core.clock)());
        let hello = Hello {
            challenge: &challenge.nonce.0,
            origin: &origin,
            certificate: &certificate.hash(),
        };
        let conduct = core.conduct.borrow().clone();
        let nonce = random_bytes();
        self.pending = Some(Pending { coordinator, nonce });
        Ok(NodeRegister {
            version,
            capabilities: [CONTINUE, SEAL, CLASSIFY].into_iter().filter_map(Label::lossy).collect(),
            identity: Bytes32::from(*core.identity.public().as_bytes()),
            certificate: blob(certificate),
            nonce: Bytes32::from(nonce),
            signature: Bytes64::from(*sign_hello(&core.identity, &hello).as_bytes()),
            name: core.name.clone(),
            agent_version: Label::lossy(concat!("iris-node/", env!("CARGO_PKG_VERSION"))),
            slots: conduct.slots(core.slots),
            models: core.catalogue.offers(),
            datasets: core.datasets.names(),
            hardware: core.hardware.clone(),
            terms: conduct.terms,
            resume: None,
        })
    }

    /// Checks the coordinator's answer and takes its keys in.
    pub(super) fn finish(
        &mut self,
        ack: &RegisterAck,
        core: &Core,
        sealing: &mut Sealing,
    ) -> Result<(), AgentError> {
        if ack.node != core.identity.node_id() {
            return Err(AgentError::BadProof);
        }
        let Hop { epoch, enc } = ack.hop;
        let coordinator = self.verify(ack.session, epoch, &enc, &ack.proof)?;
        sealing.begin(ack.session, epoch, &enc.0).map_err(|_| AgentError::BadProof)?;
        self.seen.insert(Arc::clone(&self.endpoint), coordinator);
        self.session = Some(ack.session);
        Ok(())
    }

    /// Checks and takes in a new epoch of keys.
    pub(super) fn rekey(&self, rekey: &Rekey, sealing: &mut Sealing) -> Result<(), AgentError> {
        let session = self.session.ok_or(AgentError::BadProof)?;
        self.verify(session, rekey.epoch, &rekey.enc, &rekey.proof)?;
        let begun = sealing.begin(session, rekey.epoch, &rekey.enc.0);
        begun.map_err(|_| AgentError::BadProof)
    }

    fn verify(
        &self,
        session: SessionId,
        epoch: u32,
        enc: &Bytes32,
        proof: &Bytes64,
    ) -> Result<PublicIdentity, AgentError> {
        let pending = self.pending.ok_or(AgentError::BadProof)?;
        let welcome = Welcome {
            node_nonce: &pending.nonce,
            encapsulated: &enc.0,
            session: &Hop::binding(session, epoch),
        };
        verify_welcome(&pending.coordinator, &welcome, &Signature::from_bytes(proof.0))
            .map_err(|_| AgentError::BadProof)?;
        Ok(pending.coordinator)
    }
}

/// Returns a certificate as it travels.
pub(super) fn blob(certificate: &SignedCertificate) -> Blob<MAX_CERTIFICATE> {
    let bytes = certificate.encoded().to_vec();
    bytes.try_into().expect("a certificate without extensions is short")
}
