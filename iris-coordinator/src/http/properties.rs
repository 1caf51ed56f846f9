//! What holds for anything that peers send over HTTP; shared by the tests and the fuzz targets.

use std::net::SocketAddr;

use axum::extract::Request;
use http::header::{
    AUTHORIZATION, CONNECTION, HeaderName, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue};
use iris_protocol::rest::IDEMPOTENCY_KEY;

use iris_crypto::seal::{RecordKind, RecordReader};

use super::proxy::{Caller, Network};
use super::{auth, rest, upgrade};
use crate::dispatch::Transcript;

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
    let _ = upgrade::websocket_key(&request);
    if let Ok(network) = std::str::from_utf8(lines).unwrap_or_default().parse::<Network>() {
        assert_eq!(network.to_string().parse(), Ok(network));
    }
}

/// Parts of a sealed answer, in frames that end at `cuts`: what is passed on is read by callers as
/// an opening and frames, and nothing else of it.
pub fn records(bytes: &[u8], cuts: &[u8]) {
    let mut transcript = Transcript::default();
    let mut reader = RecordReader::new();
    let mut rest = bytes;
    let mut is_first = true;
    for cut in cuts.iter().map(|cut| usize::from(*cut)).chain([usize::MAX]) {
        let (part, after) = rest.split_at(cut.min(rest.len()));
        if transcript.take_in(part).is_err() {
            return;
        }
        reader.push(part);
        while let Some(record) = reader.pop().expect("no record is too long") {
            let expected = if is_first { RecordKind::Opening } else { RecordKind::Frame };
            assert_eq!(record.kind, expected);
            is_first = false;
        }
        assert!(reader.is_empty(), "records are passed on whole");
        rest = after;
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

    /// Records of all kinds, some of them cut or too long.
    fn almost_records() -> impl Strategy<Value = Vec<u8>> {
        let length = prop_oneof![4 => Just(0), 1 => 0..3_u32, 1 => any::<u32>()];
        let record = (0..6_u8, prop_oneof![Just(64_usize), 0..80_usize], length);
        let record = record.prop_map(|(kind, payload, more)| {
            let length = u32::try_from(payload + 1).expect("it is short").wrapping_add(more);
            [&length.to_be_bytes()[..], &[kind], &vec![kind; payload]].concat()
        });
        let honest = (1..8_usize).prop_map(|count| {
            let frame = [&[0, 0, 0, 4, 2][..], &[7; 3]].concat();
            [&[0, 0, 0, 65, 1][..], &[7; 64], &frame.repeat(count)].concat()
        });
        let any = prop::collection::vec(record, 0..5).prop_map(|records| records.concat());
        (honest, any).prop_flat_map(|(honest, any)| {
            prop_oneof![Just(honest.clone()), Just(any.clone()), Just([honest, any].concat())]
        })
    }

    proptest! {
        #[test]
        fn what_is_passed_on_is_an_opening_and_frames(
            bytes in almost_records(),
            cuts in prop::collection::vec(prop_oneof![Just(69), Just(77), any::<u8>()], 0..4),
        ) {
            records(&bytes, &cuts);
        }

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
