//! Who the caller is when a proxy stands in between.
//!
//! `X-Forwarded-For` is written by whoever likes to; it is believed only when the connection
//! comes from a proxy that the operator named, and only as far back as named proxies reach.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use http::HeaderMap;
use http::header::{FORWARDED, HeaderName, VIA};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The addresses of proxies: one address, or a network such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Says why a text is no [`Network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a network is an IP address, or one with a prefix length such as 10.0.0.0/8")]
pub struct NetworkError;

impl Network {
    /// Returns whether `address` belongs to the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (own, other) = (self.address.to_canonical(), address.to_canonical());
        let (own, other, width) = match (own, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                (u128::from(u32::from(a)), u128::from(u32::from(b)), 32)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a), u128::from(b), 128),
            _ => return false,
        };
        let differing = width - u32::from(self.prefix).min(width);
        (own ^ other).checked_shr(differing).unwrap_or(0) == 0
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| NetworkError)?,
            None => width,
        };
        if prefix > width { Err(NetworkError) } else { Ok(Self { address, prefix }) }
    }
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Who sent a request, as far as it can be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// The caller's address; `None` when a proxy does not tell, or the server has no sockets.
    pub(super) address: Option<IpAddr>,
    /// Whether the caller certainly sits on this machine.
    pub(super) local: bool,
}

impl Caller {
    /// Finds out who sent a request with `headers` over a connection from `peer`.
    pub(super) fn find(trusted: &[Network], peer: Option<SocketAddr>, headers: &HeaderMap) -> Self {
        let Some(peer) = peer else { return Self { address: None, local: false } };
        let is_proxy = |address| trusted.iter().any(|network| network.contains(address));
        if !is_proxy(peer.ip()) {
            // A proxy on this machine that nobody named must not make its callers local.
            let relayed = [FORWARDED, FORWARDED_FOR, REAL_IP, VIA];
            let relayed = relayed.iter().any(|name| headers.contains_key(name));
            let local = peer.ip().to_canonical().is_loopback() && !relayed;
            return Self { address: Some(peer.ip()), local };
        }
        Self { address: last_untrusted(headers, is_proxy), local: false }
    }
}

/// Returns the last address of `X-Forwarded-For` that is not a proxy's own.
fn last_untrusted(headers: &HeaderMap, is_proxy: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let lines: Vec<_> = headers.get_all(FORWARDED_FOR).iter().collect();
    for line in lines.into_iter().rev() {
        for entry in line.to_str().ok()?.rsplit(',') {
            let address = parse_entry(entry.trim())?;
            if !is_proxy(address) {
                return Some(address);
            }
        }
    }
    None
}

/// Reads one entry; some proxies add the port.
fn parse_entry(entry: &str) -> Option<IpAddr> {
    let plain = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(entry);
    let address: Option<IpAddr> = plain.parse().ok();
    address.or_else(|| entry.parse::<SocketAddr>().ok().map(|socket| socket.ip()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn caller(trusted: &str, peer: &str, forwarded: &[&str]) -> (Option<String>, bool) {
        let trusted: Vec<Network> =
            trusted.split_whitespace().map(|n| n.parse().unwrap()).collect();
        let peer = SocketAddr::new(peer.parse().unwrap(), 5000);
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append(FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
        }
        let caller = Caller::find(&trusted, Some(peer), &headers);
        (caller.address.map(|address| address.to_string()), caller.local)
    }

    fn remote(address: &str) -> (Option<String>, bool) {
        (Some(address.to_owned()), false)
    }

    #[test]
    fn header_is_believed_from_named_proxies_only() {
        assert_eq!(caller("", "192.0.2.1", &["203.0.113.9"]), remote("192.0.2.1"));
        assert_eq!(caller("192.0.2.1", "192.0.2.1", &["203.0.113.9"]), remote("203.0.113.9"));
        assert_eq!(
            caller("192.0.2.0/24", "::ffff:192.0.2.7", &["2001:db8::1"]),
            remote("2001:db8::1")
        );
    }

    #[test]
    fn what_the_caller_wrote_in_front_is_ignored() {
        let forwarded = ["127.0.0.1, 198.51.100.2", "203.0.113.9:4711, 10.0.0.2"];
        assert_eq!(caller("10.0.0.0/8", "10.0.0.1", &forwarded), remote("203.0.113.9"));
        assert_eq!(caller("10.0.0.0/8", "10.0.0.1", &["1.2.3.4, junk"]), (None, false));
    }

    #[test]
    fn nobody_is_local_through_a_proxy() {
        assert_eq!(caller("", "127.0.0.1", &[]), (Some("127.0.0.1".to_owned()), true));
        assert_eq!(caller("", "127.0.0.1", &["203.0.113.9"]), remote("127.0.0.1"));
        assert_eq!(caller("127.0.0.1", "127.0.0.1", &[]), (None, false));
        assert_eq!(caller("127.0.0.1", "127.0.0.1", &["127.0.0.1"]), (None, false));
    }

    #[test]
    fn networks_are_read_and_cover_what_they_say() {
        let network = |text: &str| text.parse::<Network>();
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "a/8", "10.0.0.0/", "10.0.0.0/-1"] {
            assert_eq!(network(bad), Err(NetworkError), "{bad}");
        }
        let everything = network("0.0.0.0/0").unwrap();
        assert!(everything.contains([255, 1, 2, 3].into()));
        let half = network("2001:db8::/32").unwrap();
        assert!(half.contains("2001:db8:ffff::1".parse().unwrap()));
        assert!(!half.contains("2001:db9::1".parse().unwrap()));
    }
}
