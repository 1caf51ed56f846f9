use std::collections::BTreeMap;
use std::time::Duration;

use iris_core::Timestamp;
use iris_core::registry::NodeProfile;
use iris_crypto::PublicIdentity;
use iris_crypto::certificate::CertificateHash;
use iris_protocol::limits::MAX_ROSTER_NODES;
use iris_protocol::rest::{FreeSlots, Roster, RosterNode};

use super::owner::Owners;
use crate::dispatch::{Listed, Listing};

/// A node is listed while its certificate lasts this much longer, so that whoever reads a roster
/// late can still use it.
const REMAINING: Duration = Duration::from_mins(15);

/// Certificates, and when they end.
pub(super) type Certificates = BTreeMap<CertificateHash, Timestamp>;

/// Makes the roster with `number` and returns the certificates in it.
pub(super) fn make(
    Listing { nodes, away }: Listing,
    owners: &Owners,
    coordinator: PublicIdentity,
    number: u64,
    now: Timestamp,
) -> (Roster, Certificates) {
    let mut tags = owners.at(now);
    let mut certificates = BTreeMap::new();
    let rows = nodes.into_iter().filter_map(|listed| {
        let Listed { profile, link, tier, in_use, points, standing } = listed;
        let certificate = link.certificate();
        let not_after = certificate.claims().not_after;
        if not_after < now.saturating_add(REMAINING) {
            return None;
        }
        let certificate = certificate.certificate();
        certificates.insert(certificate.hash(), not_after);
        let NodeProfile { id, owner, name, slots, models, datasets, memory_gb, terms } = profile;
        Some(RosterNode {
            id,
            name: name.parse().ok(),
            certificate: certificate.encoded().to_vec().try_into().expect("a certificate is short"),
            models,
            datasets: datasets.iter().filter_map(|name| name.parse().ok()).collect(),
            tier: tier.to_string().parse().ok(),
            memory_gb,
            callers: terms.callers,
            slots,
            free: FreeSlots::of(slots, in_use),
            points: points.value(),
            standing,
            since: link.connected.as_secs(),
            owner: tags.of(owner),
        })
    });
    let nodes = rows.take(MAX_ROSTER_NODES).collect();
    let coordinator = coordinator.to_string().parse().expect("64 hexadecimal digits are a label");
    (Roster { coordinator, number, issued: now.as_secs(), nodes, away }, certificates)
}
