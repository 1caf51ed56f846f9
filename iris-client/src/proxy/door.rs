//! Who may ask a local endpoint: programs of this machine, and no web page.

use std::net::IpAddr;

use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, Uri, uri::Authority};

use super::error::ProxyError;

/// Refuses what a browser sends on behalf of a page, and what was meant for another host.
///
/// A page on the internet can make a browser send requests to this machine, directly or by a name
/// of its own that it lets point here. The first shows by the headers that only browsers set, the
/// second by the name.
pub(super) fn admit(headers: &HeaderMap, uri: &Uri) -> Result<(), ProxyError> {
    let from_page = headers.contains_key(ORIGIN)
        || headers.get("sec-fetch-site").is_some_and(|site| site != "none");
    if from_page {
        return Err(ProxyError::forbidden("Web pages may not use this endpoint."));
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    let named = host.filter(|_| hosts.next().is_none()).is_some_and(is_loopback);
    let target = uri.authority().is_none_or(|authority| is_loopback(authority.as_str()));
    if named && target {
        Ok(())
    } else {
        Err(ProxyError::forbidden("This endpoint answers to loopback addresses alone."))
    }
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let host = authority.host();
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    // The user's part before an @ is no part of a host.
    !authority.as_str().contains('@')
        && (host.eq_ignore_ascii_case("localhost")
            || plain.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(headers: &[(&'static str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        admit(&map, &Uri::from_static("/v1/models")).is_ok()
    }

    #[test]
    fn programs_of_this_machine_are_admitted() {
        for host in ["127.0.0.1:8088", "localhost", "LOCALHOST:1", "[::1]:8088", "127.9.9.9"] {
            assert!(admitted(&[("host", host)]), "{host}");
        }
        assert!(admitted(&[("host", "localhost"), ("sec-fetch-site", "none")]));
    }

    #[test]
    fn pages_and_names_that_were_made_to_point_here_are_not() {
        for host in ["evil.example", "localhost.evil.example", "10.0.0.1", "a@localhost", ""] {
            assert!(!admitted(&[("host", host)]), "{host}");
        }
        assert!(!admitted(&[]));
        assert!(!admitted(&[("host", "localhost"), ("host", "evil.example")]));
        for origin in ["https://evil.example", "null", "http://localhost:3000"] {
            assert!(!admitted(&[("host", "localhost"), ("origin", origin)]), "{origin}");
        }
        for site in ["cross-site", "same-site", "same-origin"] {
            assert!(!admitted(&[("host", "localhost"), ("sec-fetch-site", site)]), "{site}");
        }
        let elsewhere = Uri::from_static("http://evil.example/v1/models");
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "localhost".parse().unwrap());
        assert!(admit(&headers, &elsewhere).is_err());
    }
}
