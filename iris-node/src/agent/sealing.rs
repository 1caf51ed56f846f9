use std::collections::VecDeque;
use std::time::Duration;

use iris_core::{AssignmentId, Timestamp};
use iris_crypto::certificate::{CertificateHash, Origin, Role};
use iris_crypto::hop::{Channel, HopError};
use iris_crypto::{HopRoot, Identity, SealingKey, SignedCertificate};
use iris_protocol::message::{Hop, SessionId};

/// How long before its end a certificate is replaced.
const AHEAD: Duration = Duration::from_mins(30);
/// How long a replaced key still opens what was sealed to it.
const GRACE: Duration = Duration::from_mins(15);
/// How many epochs of a session are remembered; assignments are sealed under the latest, or
/// crossed the message that began it.
const EPOCHS: usize = 2;

/// The node's sealing keys and what the current session derived from them.
#[derive(Debug, Default)]
pub(super) struct Sealing {
    current: Option<Certified>,
    /// The key before, and when it is to be forgotten.
    previous: Option<(Certified, Timestamp)>,
    session: Option<SessionId>,
    epochs: VecDeque<(u32, Epoch)>,
}

#[derive(Debug)]
struct Certified {
    key: SealingKey,
    certificate: SignedCertificate,
    hash: CertificateHash,
}

/// The roots that an epoch may have. There are two while it is open whether the coordinator had
/// seen a new certificate when it began; the first chunk tells.
#[derive(Debug)]
struct Epoch(Vec<HopRoot>);

impl Sealing {
    /// Returns a certificate for the network of `origin`, the current one while it lasts.
    pub(super) fn certificate(
        &mut self,
        identity: &Identity,
        origin: &Origin,
        now: Timestamp,
    ) -> &SignedCertificate {
        let good = self.current.as_ref().is_some_and(|certified| {
            certified.certificate.unverified_claims().origin == *origin && !certified.is_due(now)
        });
        if !good {
            let serial = self.current.as_ref().map_or(0, Certified::serial);
            let certified = Certified::issue(identity, origin, now, serial + 1);
            // A node that registers anew is sealed to its new key only.
            self.previous = None;
            self.current = Some(certified);
        }
        &self.current.as_ref().expect("it was just made").certificate
    }

    /// Replaces the current certificate when it is due and returns the new one, to be announced.
    pub(super) fn rotate(
        &mut self,
        identity: &Identity,
        now: Timestamp,
    ) -> Option<&SignedCertificate> {
        self.previous.take_if(|(_, until)| *until <= now);
        let old = self.current.take_if(|certified| certified.is_due(now))?;
        let origin = &old.certificate.unverified_claims().origin;
        let new = Certified::issue(identity, origin, now, old.serial() + 1);
        self.previous = Some((old, now.saturating_add(GRACE)));
        Some(&self.current.insert(new).certificate)
    }

    /// Returns the key that a certificate is for: the current one, or the one before it during its
    /// grace.
    pub(super) fn key(&self, certificate: &CertificateHash, now: Timestamp) -> Option<&SealingKey> {
        let previous = self.previous.as_ref().filter(|(_, until)| now < *until);
        let current = self.current.as_ref();
        let mut certified = current.into_iter().chain(previous.map(|(certified, _)| certified));
        certified.find(|certified| certified.hash == *certificate).map(|certified| &certified.key)
    }

    /// Begins an epoch of `session`; keys of other sessions are forgotten.
    pub(super) fn begin(
        &mut self,
        session: SessionId,
        epoch: u32,
        encapsulated: &[u8; 32],
    ) -> Result<(), HopError> {
        if self.session != Some(session) {
            self.session = Some(session);
            self.epochs.clear();
        }
        let binding = Hop::binding(session, epoch);
        let current = self.current.as_ref().map(|certified| &certified.key);
        let previous = self.previous.as_ref().map(|(certified, _)| &certified.key);
        let roots = current
            .into_iter()
            .chain(previous)
            .map(|key| HopRoot::accept(key, encapsulated, &binding))
            .collect::<Result<_, _>>()?;
        self.epochs.truncate(EPOCHS - 1);
        self.epochs.push_front((epoch, Epoch(roots)));
        Ok(())
    }

    /// Returns the keys that an assignment of `epoch` may have; none when the epoch is forgotten.
    pub(super) fn channels(&mut self, epoch: u32, assignment: AssignmentId) -> Vec<Channel> {
        let epoch = self.epochs.iter_mut().find(|(number, _)| *number == epoch);
        let roots = epoch.into_iter().flat_map(|(_, Epoch(roots))| roots);
        roots.filter_map(|root| root.channel(assignment.0).ok()).collect()
    }
}

impl Certified {
    fn issue(identity: &Identity, origin: &Origin, now: Timestamp, least_serial: u64) -> Self {
        let key = SealingKey::generate();
        let serial = now.as_millis().max(least_serial);
        let certificate =
            SignedCertificate::issue(identity, Role::Node, key.public(), origin, now, serial);
        let hash = certificate.hash();
        Self { key, certificate, hash }
    }

    fn serial(&self) -> u64 {
        self.certificate.unverified_claims().serial
    }

    fn is_due(&self, now: Timestamp) -> bool {
        let claims = self.certificate.unverified_claims();
        now.saturating_add(AHEAD) >= claims.not_after || now < claims.not_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn at(hours: u32) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000).saturating_add(HOUR * hours)
    }

    fn origin() -> Origin {
        "https://a.example".parse().unwrap()
    }

    fn session() -> SessionId {
        SessionId::from_bytes([7; 16])
    }

    #[test]
    fn a_certificate_is_kept_while_it_lasts_and_belongs_to_one_coordinator() {
        let (identity, mut sealing) = (Identity::generate(), Sealing::default());
        let first = sealing.certificate(&identity, &origin(), at(0)).clone();
        assert_eq!(*sealing.certificate(&identity, &origin(), at(5)), first);
        let other = "https://b.example".parse().unwrap();
        let second = sealing.certificate(&identity, &other, at(5)).clone();
        assert_eq!(second.unverified_claims().origin, other);
        let third = sealing.certificate(&identity, &other, at(11)).clone();
        assert_ne!(third, second);
        let serial = |certificate: &SignedCertificate| certificate.unverified_claims().serial;
        assert!(serial(&first) < serial(&second) && serial(&second) < serial(&third));
    }

    #[test]
    fn an_epoch_sealed_to_the_key_before_opens_during_the_grace_period() {
        let (identity, mut sealing) = (Identity::generate(), Sealing::default());
        let old = sealing.certificate(&identity, &origin(), at(0)).clone();
        assert!(sealing.rotate(&identity, at(1)).is_none());
        assert!(sealing.rotate(&identity, at(6)).is_some());
        let binding = Hop::binding(session(), 1);
        let (enc, mut coordinator) =
            HopRoot::initiate(&old.unverified_claims().sealing_key, &binding).unwrap();
        let sealed = coordinator.channel(3).unwrap().sealer.seal(b"h", b"text").unwrap();

        sealing.begin(session(), 1, &enc).unwrap();
        let channels = sealing.channels(1, AssignmentId(3));
        assert_eq!(channels.len(), 2);
        let opened = channels
            .into_iter()
            .filter_map(|mut channel| channel.opener.open(0, b"h", &sealed).ok());
        assert_eq!(opened.collect::<Vec<_>>(), [b"text"]);

        assert!(sealing.rotate(&identity, at(7)).is_none());
        sealing.begin(session(), 2, &enc).unwrap();
        assert_eq!(sealing.channels(2, AssignmentId(3)).len(), 1);
    }

    #[test]
    fn keys_of_an_assignment_are_given_out_once_and_old_epochs_are_forgotten() {
        let (identity, mut sealing) = (Identity::generate(), Sealing::default());
        sealing.certificate(&identity, &origin(), at(0));
        for epoch in 0..3 {
            sealing.begin(session(), epoch, &[9; 32]).unwrap();
        }
        assert_eq!(sealing.channels(2, AssignmentId(1)).len(), 1);
        assert_eq!(sealing.channels(2, AssignmentId(1)).len(), 0);
        assert_eq!(sealing.channels(1, AssignmentId(2)).len(), 1);
        assert_eq!(sealing.channels(0, AssignmentId(3)).len(), 0);
        sealing.begin(SessionId::from_bytes([8; 16]), 0, &[9; 32]).unwrap();
        assert_eq!(sealing.channels(2, AssignmentId(4)).len(), 0);
    }
}
