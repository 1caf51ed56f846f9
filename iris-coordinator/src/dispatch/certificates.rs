//! Which node a sealed request is for: the one whose certificate it names.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use iris_core::NodeId;
use iris_crypto::certificate::CertificateHash;
use iris_crypto::{SignedCertificate, VerifiedCertificate};

/// How long a node takes requests to a key that it has replaced.
const GRACE: Duration = Duration::from_mins(15);
/// How many hashes are remembered of one node, to tell who uses an old one of its current key.
const OF_ONE: usize = 4;
/// How many nodes that have left are remembered, so that their callers learn that they are away.
const LEFT: usize = 16_384;

/// The certificates of all nodes that are connected, and of those that left of late.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    nodes: HashMap<NodeId, Held>,
    by_hash: HashMap<CertificateHash, NodeId>,
    /// Who left, each once, in the order of its first departure; whoever has come back since is
    /// among them, too.
    left: VecDeque<NodeId>,
}

#[derive(Debug)]
struct Held {
    /// The same as that of its link, while it has one.
    current: Arc<VerifiedCertificate>,
    hash: CertificateHash,
    /// Hashes before that, and when they were replaced; the latest comes last.
    previous: VecDeque<(CertificateHash, Instant)>,
    connected: bool,
    /// Whether it stands among those who left.
    listed: bool,
}

/// What a hash is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It names a key that this node takes requests to.
    InUse(NodeId),
    /// It names a key that this node has replaced.
    Replaced,
    /// Nobody is known by it.
    Unknown,
}

impl Certificates {
    /// Takes in the certificate of a node that has joined, or has a new one.
    pub(super) fn see(
        &mut self,
        node: NodeId,
        certificate: &Arc<VerifiedCertificate>,
        now: Instant,
    ) {
        let hash = certificate.certificate().hash();
        let held = self.nodes.entry(node).or_insert_with(|| Held {
            current: Arc::clone(certificate),
            hash,
            previous: VecDeque::new(),
            connected: true,
            listed: false,
        });
        held.connected = true;
        self.by_hash.insert(hash, node);
        if held.hash == hash {
            return;
        }
        // One that comes back is no previous one.
        held.previous.retain(|(previous, _)| *previous != hash);
        held.previous.push_back((held.hash, now));
        held.current = Arc::clone(certificate);
        held.hash = hash;
        if held.previous.len() >= OF_ONE
            && let Some((forgotten, _)) = held.previous.pop_front()
        {
            self.by_hash.remove(&forgotten);
        }
    }

    /// Notes that a node has left.
    pub(super) fn leave(&mut self, node: NodeId) {
        let Some(held) = self.nodes.get_mut(&node) else { return };
        held.connected = false;
        if std::mem::replace(&mut held.listed, true) {
            return;
        }
        self.left.push_back(node);
        if self.left.len() > LEFT
            && let Some(first) = self.left.pop_front()
        {
            self.forget(first);
        }
    }

    /// Returns what a hash is good for at `now`.
    pub(super) fn standing(&self, hash: &CertificateHash, now: Instant) -> Standing {
        let Some(node) = self.by_hash.get(hash) else { return Standing::Unknown };
        let Some(held) = self.nodes.get(node) else { return Standing::Unknown };
        let replaced = held.previous.iter().find(|(previous, _)| previous == hash);
        match replaced {
            Some((_, at)) if now.saturating_duration_since(*at) >= GRACE => Standing::Replaced,
            _ => Standing::InUse(*node),
        }
    }

    /// Returns the current certificate of the node that `hash` is known of.
    pub(super) fn current_for(&self, hash: &CertificateHash) -> Option<&SignedCertificate> {
        Some(self.nodes.get(self.by_hash.get(hash)?)?.current.certificate())
    }

    /// Returns the current certificate of a node that is connected.
    pub(super) fn of(&self, node: &NodeId) -> Option<Arc<VerifiedCertificate>> {
        let held = self.nodes.get(node).filter(|held| held.connected)?;
        Some(Arc::clone(&held.current))
    }

    /// Forgets a node's departure, and the node with it, unless it is back.
    fn forget(&mut self, node: NodeId) {
        let Some(held) = self.nodes.get_mut(&node) else { return };
        held.listed = false;
        if !held.connected {
            for hash in held.previous.iter().map(|(hash, _)| hash).chain([&held.hash]) {
                self.by_hash.remove(hash);
            }
            self.nodes.remove(&node);
        }
    }
}

#[cfg(test)]
mod tests {
    use iris_core::Timestamp;
    use iris_crypto::certificate::{Expectation, Origin, Role};
    use iris_crypto::{Identity, SealingKey};

    use super::*;

    struct Owner(Identity, Origin, u64);

    impl Owner {
        fn new() -> Self {
            let identity = Identity::generate();
            let origin = identity.public().into();
            Self(identity, origin, 0)
        }

        fn certificate(&mut self) -> Arc<VerifiedCertificate> {
            let Self(identity, origin, serial) = self;
            *serial += 1;
            let key = SealingKey::generate().public();
            let now = Timestamp::from_millis(0);
            let issued = SignedCertificate::issue(identity, Role::Node, key, origin, now, *serial);
            let expected = Expectation { role: Role::Node, now, min_serial: 0, origin };
            Arc::new(issued.verify(&expected).unwrap())
        }

        fn id(&self) -> NodeId {
            self.0.node_id()
        }
    }

    /// Makes the id of some node.
    fn stranger(number: usize) -> NodeId {
        let digits = number.to_be_bytes().map(|byte| [byte >> 4, byte & 15]);
        let letters = digits.iter().flatten().map(|digit| char::from(b'a' + digit));
        letters.chain("zzzzzzzzzz".chars()).collect::<String>().parse().unwrap()
    }

    fn hash(certificate: &VerifiedCertificate) -> CertificateHash {
        certificate.certificate().hash()
    }

    #[test]
    fn replaced_key_is_in_use_for_its_grace_and_then_leads_to_the_current_one() {
        let (mut known, mut owner, now) = (Certificates::default(), Owner::new(), Instant::now());
        let (first, second) = (owner.certificate(), owner.certificate());
        assert_eq!(known.standing(&hash(&first), now), Standing::Unknown);
        known.see(owner.id(), &first, now);
        known.see(owner.id(), &second, now);
        for certificate in [&first, &second] {
            assert_eq!(known.standing(&hash(certificate), now), Standing::InUse(owner.id()));
        }
        let over = now + GRACE;
        assert_eq!(known.standing(&hash(&first), over), Standing::Replaced);
        assert_eq!(known.standing(&hash(&second), over), Standing::InUse(owner.id()));
        assert_eq!(known.current_for(&hash(&first)), Some(second.certificate()));
    }

    #[test]
    fn few_hashes_of_a_node_are_kept() {
        let (mut known, mut owner, now) = (Certificates::default(), Owner::new(), Instant::now());
        let certificates: Vec<_> = (0..20).map(|_| owner.certificate()).collect();
        for certificate in &certificates {
            known.see(owner.id(), certificate, now);
        }
        assert_eq!(known.by_hash.len(), OF_ONE);
        assert_eq!(known.standing(&hash(&certificates[0]), now), Standing::Unknown);
        // One that alternates between two leaves no more.
        for certificate in certificates[18..].iter().cycle().take(40) {
            known.see(owner.id(), certificate, now);
        }
        assert_eq!(known.by_hash.len(), OF_ONE);
    }

    #[test]
    fn those_who_left_are_known_for_a_while_and_those_who_came_back_stay() {
        let (mut known, now) = (Certificates::default(), Instant::now());
        let (mut one, mut other) = (Owner::new(), Owner::new());
        let (mine, its) = (one.certificate(), other.certificate());
        known.see(one.id(), &mine, now);
        known.see(other.id(), &its, now);
        known.leave(one.id());
        assert_eq!(known.standing(&hash(&mine), now), Standing::InUse(one.id()));
        known.leave(other.id());
        known.see(other.id(), &its, now);
        // One that comes and goes takes one place.
        for _ in 0..LEFT {
            known.see(stranger(0), &mine, now);
            known.leave(stranger(0));
        }
        assert_eq!(known.left.len(), 3);
        assert_eq!(known.current_for(&hash(&mine)), Some(mine.certificate()));
        for number in 1..LEFT {
            known.see(stranger(number), &mine, now);
            known.leave(stranger(number));
        }
        assert_eq!(known.nodes.get(&one.id()).map(|held| held.hash), None);
        assert_eq!(known.standing(&hash(&its), now), Standing::InUse(other.id()));
        assert_eq!(known.left.len(), LEFT);
    }
}
