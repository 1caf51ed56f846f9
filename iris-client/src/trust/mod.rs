//! What a client believes, and why: no I/O, no clock, no randomness.
//!
//! A coordinator is trusted on first use, or by an identity that was given. From then on its log
//! may only grow, every roster must be fresh and in that log, and no node may come back with an
//! older key than it had before. What breaks one of these is an error, never a weaker check.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use iris_core::{ModelName, NodeId, Timestamp};
use iris_crypto::certificate::{Expectation, MAX_SKEW, Origin, Role, SignedCertificate};
use iris_crypto::log::{
    Checkpoint, Entry, LogError, SignedCheckpoint, TreeHash, verify_consistency, verify_inclusion,
};
use iris_crypto::{PublicIdentity, VerifiedCertificate};
use iris_protocol::rest::{Roster, SignedRoster};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

mod error;
mod file;
mod guards;
#[cfg(test)]
mod tests;

pub use error::{Fork, TrustError};
pub(crate) use file::TrustStore;
pub use guards::GuardCandidate;

/// The oldest roster that is believed.
pub const MAX_ROSTER_AGE: Duration = Duration::from_mins(10);

/// The most nodes whose keys are remembered, beside guards and one's own.
const MAX_NODES: usize = 1024;

/// What is remembered of one coordinator and its nodes.
///
/// [`handle_roster`](Self::handle_roster) takes what the coordinator publishes;
/// [`verify_certificate`](Self::verify_certificate) what is going to be sealed to. The state has a
/// JSON form, which is what a trust file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    version: Version,
    coordinator: Option<PublicIdentity>,
    /// The last signed checkpoint of the log.
    checkpoint: Option<String>,
    own: BTreeSet<NodeId>,
    nodes: BTreeMap<NodeId, Known>,
    guards: BTreeMap<ModelName, Vec<guards::Guard>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Version {
    #[default]
    #[serde(rename = "iris-trust/v1")]
    V1,
}

/// What is remembered of a node that was sealed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Known {
    /// When its first certificate was seen, in seconds since the Unix epoch.
    pub first_seen: u64,
    /// The highest serial of its certificates.
    pub serial: u64,
}

/// What follows from a roster.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It is believed.
    Believed(Box<Roster>),
    /// First, ask for the proof that the log of `to` entries begins with the one of `from`, and
    /// then give both.
    ProofNeeded {
        /// The smaller log's entries.
        from: u64,
        /// The larger log's entries.
        to: u64,
    },
}

/// A proof that the coordinator's log only grew between two sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Growth {
    /// The smaller log's entries.
    pub from: u64,
    /// The larger log's entries.
    pub to: u64,
    /// The proof.
    pub hashes: Vec<TreeHash>,
}

/// What the clocks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// This machine's time.
    pub ours: Timestamp,
    /// What the coordinator says the time is; only to tell a wrong clock from an old roster.
    pub theirs: Option<Timestamp>,
}

impl Trust {
    /// Makes the trust of somebody who has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns who the coordinator is, once that is known.
    pub const fn coordinator(&self) -> Option<&PublicIdentity> {
        self.coordinator.as_ref()
    }

    /// Sets who the coordinator must be, if nothing is known of it.
    pub fn expect_coordinator(&mut self, identity: PublicIdentity) -> Result<(), TrustError> {
        match self.coordinator {
            Some(pinned) if pinned != identity => {
                Err(TrustError::WrongCoordinator { pinned: identity, found: pinned })
            }
            _ => {
                self.coordinator = Some(identity);
                Ok(())
            }
        }
    }

    /// Returns the text of the last checkpoint of the log.
    pub fn checkpoint(&self) -> Option<&str> {
        self.checkpoint.as_deref()
    }

    /// Returns the nodes that are one's own.
    pub fn own(&self) -> impl Iterator<Item = &NodeId> {
        self.own.iter()
    }

    /// Takes `node` for one's own; returns whether that is new.
    pub fn pin(&mut self, node: NodeId) -> bool {
        self.own.insert(node)
    }

    /// Does not take `node` for one's own any more; returns whether it was.
    pub fn unpin(&mut self, node: &NodeId) -> bool {
        self.own.remove(node)
    }

    /// Returns what is remembered of the nodes that were sealed to.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeId, &Known)> {
        self.nodes.iter()
    }

    /// Takes what the coordinator publishes, with a proof if one was asked for.
    ///
    /// Only a believed roster changes what is remembered.
    pub fn handle_roster(
        &mut self,
        signed: &SignedRoster,
        proof: Option<&Growth>,
        clocks: Clocks,
    ) -> Result<Verdict, TrustError> {
        let (coordinator, checkpoint) = self.verify_checkpoint(&signed.checkpoint)?;
        let roster: Roster = serde_json::from_str(&signed.roster)
            .map_err(|_| TrustError::Roster("it is not one of this version"))?;
        if roster.coordinator.as_str() != coordinator.to_string() {
            return Err(TrustError::Roster("it is of another coordinator"));
        }
        let leaf = Entry::Roster(Sha256::digest(&signed.roster).into()).leaf_hash();
        let path: Vec<_> = signed.hashes.iter().map(|hash| TreeHash::from_bytes(hash.0)).collect();
        verify_inclusion(&leaf, signed.index, checkpoint.size, &path, &checkpoint.root)?;
        verify_age(&roster, clocks)?;
        if let Some(needed) = self.handle_checkpoint(&signed.checkpoint, proof)? {
            return Ok(needed);
        }
        Ok(Verdict::Believed(Box::new(roster)))
    }

    /// Takes a checkpoint of the coordinator's log, with a proof if one was asked for. Returns
    /// which proof is needed, or `None` once the checkpoint is believed.
    pub fn handle_checkpoint(
        &mut self,
        text: &str,
        proof: Option<&Growth>,
    ) -> Result<Option<Verdict>, TrustError> {
        let (coordinator, shown) = self.verify_checkpoint(text)?;
        let mut grew = true;
        if let Some(known_text) = &self.checkpoint {
            let known = SignedCheckpoint::decode(known_text)?.verify(&coordinator)?;
            // A slower answer to an earlier question may show a smaller log, which has to be the
            // beginning of the one that is known.
            let (old, new) =
                if shown.size < known.size { (&shown, &known) } else { (&known, &shown) };
            grew = shown.size > known.size;
            let hashes: &[TreeHash] = match proof {
                _ if old.size == new.size => &[],
                Some(proof) if (proof.from, proof.to) == (old.size, new.size) => &proof.hashes,
                _ => {
                    let needed = Verdict::ProofNeeded { from: old.size, to: new.size };
                    return Ok(Some(needed));
                }
            };
            verify_consistency(old, new, hashes)
                .map_err(|cause| self.fork(text, cause.to_string()))?;
        }
        self.coordinator = Some(coordinator);
        if grew || self.checkpoint.is_none() {
            self.checkpoint = Some(text.to_owned());
        }
        Ok(None)
    }

    /// Says that a coordinator would not prove that the log of the checkpoint `shown` and the one
    /// that is known are one.
    pub(crate) fn unproven(&self, shown: &str) -> TrustError {
        self.fork(shown, "the coordinator does not prove that its log only grew".to_owned())
    }

    fn fork(&self, shown: &str, reason: String) -> TrustError {
        TrustError::Fork(Box::new(Fork {
            known: self.checkpoint.clone().unwrap_or_default(),
            shown: shown.to_owned(),
            reason,
            saved: None,
        }))
    }

    /// Checks whose checkpoint a text is.
    fn verify_checkpoint(&self, text: &str) -> Result<(PublicIdentity, Checkpoint), TrustError> {
        let signed = SignedCheckpoint::decode(text)?;
        let found = *signed.unverified_coordinator();
        let coordinator = self.coordinator.unwrap_or(found);
        match signed.verify(&coordinator) {
            Err(LogError::WrongLog) => {
                Err(TrustError::WrongCoordinator { pinned: coordinator, found })
            }
            checked => Ok((coordinator, checked?)),
        }
    }

    /// Checks the certificate of `node` before something is sealed to it, and remembers it.
    pub fn verify_certificate(
        &mut self,
        node: NodeId,
        certificate: &SignedCertificate,
        now: Timestamp,
    ) -> Result<VerifiedCertificate, TrustError> {
        let coordinator =
            self.coordinator.ok_or(TrustError::Roster("it did not come before the certificate"))?;
        let found = certificate.unverified_claims().identity.node_id();
        if found != node {
            return Err(TrustError::WrongNode { expected: node, found });
        }
        let known = self.nodes.get(&node).copied();
        let origin = Origin::from(coordinator);
        let expected = Expectation {
            role: Role::Node,
            now,
            min_serial: known.map_or(0, |known| known.serial),
            origin: &origin,
        };
        let verified = certificate
            .verify(&expected)
            .map_err(|cause| TrustError::Certificate { node, cause: Box::new(cause) })?;
        let first_seen = known.map_or(now.as_secs(), |known| known.first_seen);
        let serial = verified.claims().serial;
        if known.is_none() && self.nodes.len() >= MAX_NODES {
            self.forget_one();
        }
        self.nodes.insert(node, Known { first_seen, serial });
        Ok(verified)
    }

    /// Forgets the node that was not sealed to for the longest time.
    fn forget_one(&mut self) {
        let kept = |node: &NodeId| {
            let is_guard = |guards: &Vec<guards::Guard>| guards.iter().any(|g| g.node == *node);
            self.own.contains(node) || self.guards.values().any(is_guard)
        };
        let oldest =
            self.nodes.iter().filter(|(node, _)| !kept(node)).min_by_key(|(_, k)| k.serial);
        if let Some(node) = oldest.map(|(node, _)| *node) {
            self.nodes.remove(&node);
        }
    }
}

/// Checks that a roster is of now.
fn verify_age(roster: &Roster, clocks: Clocks) -> Result<(), TrustError> {
    let issued = Timestamp::from_millis(roster.issued.saturating_mul(1000));
    let Clocks { ours, theirs } = clocks;
    if issued > ours.saturating_add(MAX_SKEW) {
        let skew = issued.saturating_since(ours);
        return Err(TrustError::ClockSkew { skew, ahead: false });
    }
    let age = ours.saturating_since(issued);
    if age <= MAX_ROSTER_AGE + MAX_SKEW {
        return Ok(());
    }
    match theirs {
        Some(theirs)
            if theirs.saturating_since(issued) <= MAX_ROSTER_AGE
                && ours.saturating_since(theirs) > MAX_SKEW =>
        {
            Err(TrustError::ClockSkew { skew: ours.saturating_since(theirs), ahead: true })
        }
        _ => Err(TrustError::Stale { age }),
    }
}
