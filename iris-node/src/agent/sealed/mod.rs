//! Requests that their callers sealed to this node.

use std::time::Duration;

use bytes::Bytes;
use iris_core::Timestamp;
use iris_core::backend::GenerateRequest;
use iris_crypto::seal::{AnswerSealer, Replays, SealError, SealedRequest};
use iris_protocol::message::{RefuseReason, TaskAssign};
use serde::Deserialize;

use super::sealing::Sealing;

mod answer;
mod shape;

pub(super) use answer::SealedAnswer;

/// Opens a request that a caller sealed, once.
///
/// To the outside a request that does not open is one that is refused, whatever is wrong with it,
/// except that its caller may seal again for a newer key.
pub(super) fn open(
    task: &TaskAssign,
    body: Bytes,
    sealing: &Sealing,
    replays: &mut Replays,
    now: Timestamp,
) -> Result<(GenerateRequest, AnswerSealer), RefuseReason> {
    const REJECTED: RefuseReason = RefuseReason::SealRejected;
    let rejected = |_: SealError| REJECTED;
    let request = SealedRequest::decode(body).map_err(rejected)?;
    let header = request.header();
    let key = sealing.key(&header.certificate, now).ok_or(RefuseReason::StaleKey)?;
    header.verify_time(now).map_err(rejected)?;
    if header.terms.model != task.model {
        return Err(REJECTED);
    }
    let (prompt, sealer) = request.open(key).map_err(rejected)?;
    let named: Named<'_> = serde_json::from_slice(&prompt.body).map_err(|_| REJECTED)?;
    if named.model != header.terms.model.as_str() {
        return Err(REJECTED);
    }
    // Only what has opened is remembered, so that nobody can fill the memory with noise.
    replays.insert(request.encapsulated(), header.good_until(), now).map_err(|_| REJECTED)?;
    let request = GenerateRequest {
        operation: prompt.operation,
        model: task.model.clone(),
        body: prompt.body,
        stream: prompt.stream,
        time_left: Duration::ZERO,
        begun: None,
        isolated: true,
    };
    Ok((request, sealer))
}

/// The model that a prompt names.
#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    model: std::borrow::Cow<'a, str>,
}

#[cfg(test)]
mod tests {
    use iris_core::AssignmentId;
    use iris_core::backend::Operation;
    use iris_crypto::certificate::{Expectation, Origin, Role};
    use iris_crypto::seal::{Prompt, Shape, Terms};
    use iris_crypto::{Identity, VerifiedCertificate};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    struct Node {
        identity: Identity,
        sealing: Sealing,
        replays: Replays,
    }

    impl Node {
        fn new() -> Self {
            let (identity, sealing) = (Identity::generate(), Sealing::default());
            Self { identity, sealing, replays: Replays::new() }
        }

        fn certificate(&mut self, now: Timestamp) -> VerifiedCertificate {
            let certificate = self.sealing.certificate(&self.identity, &origin(), now);
            let expected = Expectation { role: Role::Node, now, min_serial: 0, origin: &origin() };
            certificate.verify(&expected).unwrap()
        }

        fn open(&mut self, wire: &Bytes, model: &str, now: Timestamp) -> Result<(), RefuseReason> {
            open(&task(model), wire.clone(), &self.sealing, &mut self.replays, now).map(drop)
        }
    }

    fn origin() -> Origin {
        "https://a.example".parse().unwrap()
    }

    fn task(model: &str) -> TaskAssign {
        TaskAssign {
            assignment: AssignmentId(1),
            task: iris_core::TaskId::from_bytes([1; 16]),
            operation: Operation::Chat,
            model: model.parse().unwrap(),
            enable_streaming: false,
            time_left_ms: 1000,
            prompt_tokens: 1,
            hop_epoch: 0,
            body_bytes: 1,
            begun: None,
            sealed: true,
            caller: None,
        }
    }

    fn sealed(certificate: &VerifiedCertificate, header: &str, body: &str, at: Timestamp) -> Bytes {
        let prompt = Prompt {
            operation: Operation::Chat,
            stream: true,
            body: format!(r#"{{"model":"{body}","messages":[]}}"#).into(),
        };
        let terms = Terms { shape: Shape::Off, ..Terms::new(header.parse().unwrap(), at) };
        SealedRequest::seal(certificate, terms, &prompt).unwrap().0.wire().clone()
    }

    #[test]
    fn attack_02_replayed_request_is_refused_and_a_restart_ends_all_replays() {
        let mut node = Node::new();
        let wire = sealed(&node.certificate(NOW), "m", "m", NOW);
        assert_eq!(node.open(&wire, "m", NOW), Ok(()));
        assert_eq!(node.open(&wire, "m", NOW), Err(RefuseReason::SealRejected));
        let mut restarted = Node { sealing: Sealing::default(), ..node };
        restarted.certificate(NOW);
        assert_eq!(restarted.open(&wire, "m", NOW), Err(RefuseReason::StaleKey));
    }

    #[test]
    fn attack_04_request_for_another_model_or_node_is_refused() {
        let mut node = Node::new();
        let certificate = node.certificate(NOW);
        let wire = sealed(&certificate, "m", "m", NOW);
        assert_eq!(node.open(&wire, "other", NOW), Err(RefuseReason::SealRejected));
        let two_faced = sealed(&certificate, "m", "other", NOW);
        assert_eq!(node.open(&two_faced, "m", NOW), Err(RefuseReason::SealRejected));
        let mut other = Node::new();
        other.certificate(NOW);
        assert_eq!(other.open(&wire, "m", NOW), Err(RefuseReason::StaleKey));
        assert_eq!(node.open(&wire, "m", NOW), Ok(()), "what was refused is not remembered");
    }

    #[test]
    fn attack_03_old_or_future_request_is_refused() {
        let mut node = Node::new();
        let certificate = node.certificate(NOW);
        let hour = Duration::from_hours(1);
        let later = NOW.saturating_add(hour);
        let wire = sealed(&certificate, "m", "m", NOW);
        assert_eq!(node.open(&wire, "m", later), Err(RefuseReason::SealRejected));
        let wire = sealed(&certificate, "m", "m", later);
        assert_eq!(node.open(&wire, "m", NOW), Err(RefuseReason::SealRejected));
        // The time is under the seal.
        let mut wire = sealed(&certificate, "m", "m", later).to_vec();
        let at = wire.windows(8).position(|w| w == later.as_millis().to_be_bytes()).unwrap();
        wire[at..at + 8].copy_from_slice(&NOW.as_millis().to_be_bytes());
        assert_eq!(node.open(&wire.into(), "m", NOW), Err(RefuseReason::SealRejected));
    }

    #[test]
    fn attack_17_replaced_key_opens_for_its_grace_and_not_longer() {
        let mut node = Node::new();
        let hours = |hours| NOW.saturating_add(Duration::from_hours(hours));
        let old = node.certificate(NOW);
        assert!(node.sealing.rotate(&node.identity, hours(6)).is_some());
        let wire = sealed(&old, "m", "m", hours(6));
        assert_eq!(node.open(&wire, "m", hours(6)), Ok(()));
        let wire = sealed(&old, "m", "m", hours(7));
        assert_eq!(node.open(&wire, "m", hours(7)), Err(RefuseReason::StaleKey));
        let wire = sealed(&node.certificate(hours(7)), "m", "m", hours(7));
        assert_eq!(node.open(&wire, "m", hours(7)), Ok(()));
    }

    #[test]
    fn noise_is_refused() {
        let mut node = Node::new();
        node.certificate(NOW);
        for wire in [&b""[..], b"{}", &[0; 2000]] {
            let wire = Bytes::copy_from_slice(wire);
            assert_eq!(node.open(&wire, "m", NOW), Err(RefuseReason::SealRejected));
        }
    }
}
