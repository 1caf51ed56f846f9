//! What holds for anything that peers send over HTTP; shared by the tests and the fuzz targets.

use std::net::SocketAddr;

use axum::extract::Request;
use http::header::{
    AUTHORIZATION, CONNECTION, HeaderName, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue};
use iris_protocol::rest::IDEMPOTENCY_KEY;

use super::proxy::{Caller, Network};
use super::{auth, connect, rest};

/// Headers, one a line, each named by its first byte: none makes a stranger local or known.
pub fn headers(lines: &[u8]) {
    let headers = read_headers(lines);
    let proxies: [Network; 2] = ["10.0.0.0/8", "::1"].map(|text| text.parse().expect("a network"));
    for (peer, is_proxy) in [("10.1.2.3:4", true), ("[::1]:4", true), ("192.0.2.1:4", false)] {
        let peer: SocketAddr = peer.parse().expect("an address");
        let caller = Caller::find(&proxies, Some(peer), &headers);
        assert!(!caller.local);
        let address = caller.address;
        if is_proxy {
            assert!(!address.is_some_and(|a| proxies.iter().any(|proxy| proxy.contains(a))));
        } else {
            assert_eq!(address, Some(peer.ip()));
        }
    }
    if let Some(token) = auth::bearer(&headers) {
        assert_eq!(token.trim(), token);
    }
    if let Ok(Some(key)) = rest::idempotency_key(&headers) {
        assert!((1..=255).contains(&key.len()) && key.is_ascii());
    }
    let mut request = Request::new(axum::body::Body::empty());
    *request.headers_mut() = headers;
    let _ = connect::websocket_key(&request);
    if let Ok(network) = std::str::from_utf8(lines).unwrap_or_default().parse::<Network>() {
        assert_eq!(network.to_string().parse(), Ok(network));
    }
}

fn read_headers(lines: &[u8]) -> HeaderMap {
    let names = [
        AUTHORIZATION,
        CONNECTION,
        UPGRADE,
        SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_VERSION,
        HeaderName::from_static("x-forwarded-for"),
        HeaderName::from_static(IDEMPOTENCY_KEY),
    ];
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n').take(100) {
        let Some((which, value)) = line.split_first() else { continue };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(names[usize::from(*which) % names.len()].clone(), value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn almost_headers() -> impl Strategy<Value = String> {
        let value = prop_oneof![
            "[Bb]earer +[a-z_ ]{0,8}",
            "(10\\.0\\.0\\.1|::1|\\[::1\\]:80|203\\.0\\.113\\.9(:80)?|x)(, (10\\.9\\.9\\.9|1\\.2\\.3\\.4|::ffff:10\\.0\\.0\\.1)){0,3}",
            "[a-zA-Z0-9+/=]{24}",
            "(keep-alive, )?[uU]pgrade|websocket|13",
            "\\PC{0,12}",
        ];
        let line = ("[a-g]", value).prop_map(|(which, value)| which + &value);
        prop::collection::vec(line, 0..6).prop_map(|lines| lines.join("\n"))
    }

    proptest! {
        #[test]
        fn no_headers_make_a_stranger_local(lines in almost_headers()) {
            headers(lines.as_bytes());
        }

        #[test]
        fn networks_have_one_meaning(text in "[0-9a-f.:]{0,12}(/[0-9]{0,3})?") {
            headers(text.as_bytes());
        }
    }
}
