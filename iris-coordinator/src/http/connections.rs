//! How many connections there are, and whose.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::proxy::Network;
use crate::accounts::network;

/// Counts the connections of a server.
#[derive(Debug)]
pub(super) struct Connections {
    limit: usize,
    per_address: usize,
    /// Proxies, which speak for many.
    proxies: Vec<Network>,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    addresses: HashMap<IpAddr, usize>,
}

/// A connection's place among the others, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    connections: Arc<Connections>,
    /// The address that the connection counts for.
    address: Option<IpAddr>,
}

/// Why a connection is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crowded {
    /// All places are taken.
    Everywhere,
    /// The peer has as many connections as one may have.
    ForAddress,
}

impl Connections {
    pub(super) fn new(limit: usize, per_address: usize, proxies: Vec<Network>) -> Self {
        Self { limit, per_address, proxies, counts: Mutex::default() }
    }

    /// Takes a place for a connection from `peer`.
    pub(super) fn take(self: &Arc<Self>, peer: IpAddr) -> Result<Place, Crowded> {
        let peer = peer.to_canonical();
        let counted = !peer.is_loopback() && !self.proxies.iter().any(|p| p.contains(peer));
        let address = counted.then(|| network(peer));
        let mut counts = self.counts();
        if counts.all >= self.limit {
            return Err(Crowded::Everywhere);
        }
        if let Some(address) = address {
            let own = counts.addresses.entry(address).or_default();
            if *own >= self.per_address {
                return Err(Crowded::ForAddress);
            }
            *own += 1;
        }
        counts.all += 1;
        Ok(Place { connections: Arc::clone(self), address })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.connections.counts();
        counts.all -= 1;
        let Some(address) = self.address else { return };
        if let Some(own) = counts.addresses.get_mut(&address) {
            *own -= 1;
            if *own == 0 {
                counts.addresses.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(limit: usize, per_address: usize) -> Arc<Connections> {
        let proxies = vec!["10.0.0.1".parse().unwrap()];
        Arc::new(Connections::new(limit, per_address, proxies))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_cannot_take_all_places() {
        let connections = connections(10, 2);
        let peer = address("192.0.2.1");
        let first = connections.take(peer).unwrap();
        let _second = connections.take(address("::ffff:192.0.2.1")).unwrap();
        assert_eq!(connections.take(peer).unwrap_err(), Crowded::ForAddress);
        assert!(connections.take(address("192.0.2.2")).is_ok());
        drop(first);
        assert!(connections.take(peer).is_ok());
    }

    #[test]
    fn proxies_and_this_machine_are_held_to_the_whole_only() {
        let connections = connections(6, 1);
        let peers = ["10.0.0.1", "127.0.0.1", "::1", "10.0.0.1", "127.0.0.1", "192.0.2.1"];
        let places: Vec<_> =
            peers.iter().map(|peer| connections.take(address(peer)).unwrap()).collect();
        assert_eq!(connections.take(address("10.0.0.1")).unwrap_err(), Crowded::Everywhere);
        drop(places);
        let counts = connections.counts();
        assert_eq!((counts.all, counts.addresses.len()), (0, 0));
    }
}
