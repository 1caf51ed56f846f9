//! What holds for anything that a coordinator answers; shared by the tests and the fuzz targets.

use iris_core::Timestamp;
use iris_protocol::openai::ChatCompletionChunk;
use iris_protocol::rest::SignedRoster;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};

use crate::builder::normalize;
use crate::error::ClientError;
use crate::sse::SseParser;
use crate::trust::{Clocks, Trust, Verdict};

/// A stream means the same however it is cut, and the same as by the letter of the standard.
pub fn events(bytes: &[u8]) {
    let (cut, stream) = bytes.split_at(bytes.len().min(1));
    let cut = usize::from(cut.first().copied().unwrap_or(0) % 32) + 1;
    let whole = read(std::iter::once(stream));
    assert_eq!(read(stream.chunks(cut)), whole);
    assert_eq!(by_the_standard(stream), whole);
    for event in &whole {
        let _ = serde_json::from_str::<ChatCompletionChunk>(event);
    }
}

/// A refusal has the type of its status, whatever its headers and body say.
pub fn refusal(bytes: &[u8]) {
    let Some((&[high, low], rest)) = bytes.split_first_chunk() else { return };
    let Ok(status) = StatusCode::from_u16(100 + u16::from(high) * 3 % 500 + u16::from(low) % 3)
    else {
        return;
    };
    let (line, body) = rest.split_at(rest.iter().position(|b| *b == b'\n').unwrap_or(0));
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(line) {
        headers.insert(RETRY_AFTER, value.clone());
        headers.insert("x-request-id", value);
    }
    let error = ClientError::refused(status, &headers, body);
    let refusal = error.refusal();
    assert_eq!(refusal.is_some(), status.is_client_error() || status.is_server_error());
    assert!(refusal.is_none_or(|refusal| refusal.status == status.as_u16()));
    assert!(!error.to_string().is_empty());
}

/// What is published changes what is trusted only when it is believed, and what is trusted reads
/// back from its file as it was.
pub fn published(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let clocks = Clocks { ours: Timestamp::from_millis(1_800_000_000_000), theirs: None };
    let mut trust = Trust::new();
    if let Ok(signed) = serde_json::from_str::<SignedRoster>(text) {
        match trust.handle_roster(&signed, None, clocks) {
            Ok(Verdict::Believed(_)) => assert!(trust.coordinator().is_some()),
            _ => assert_eq!(trust, Trust::new()),
        }
    }
    let mut trust = Trust::new();
    match trust.handle_checkpoint(text, None) {
        Ok(_) => assert_eq!(trust.checkpoint(), Some(text)),
        Err(_) => assert_eq!(trust, Trust::new()),
    }
    if let Ok(trust) = serde_json::from_str::<Trust>(text) {
        let written = serde_json::to_string(&trust).expect("trust has a JSON form");
        assert_eq!(serde_json::from_str::<Trust>(&written).expect("it was written here"), trust);
    }
}

/// An address is refused, or leads to a base that is nothing but an address.
pub fn address(text: &str) {
    let Ok(base) = normalize(text) else { return };
    assert!(base.path().ends_with('/') && matches!(base.scheme(), "http" | "https"));
    assert!(base.query().is_none() && base.fragment().is_none() && base.username().is_empty());
}

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let mut parser = SseParser::new();
    let mut events = Vec::new();
    for piece in pieces {
        parser.push(piece).expect("no input here is that long");
        events.extend(std::iter::from_fn(|| parser.pop()));
    }
    events.extend(parser.finish());
    events
}

fn by_the_standard(stream: &[u8]) -> Vec<String> {
    let stream = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
    let lines = String::from_utf8_lossy(stream).replace("\r\n", "\n").replace('\r', "\n");
    let mut events = Vec::new();
    let mut data: Option<String> = None;
    for line in lines.split('\n').chain([""]) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        if line.is_empty() {
            events.extend(data.take());
        } else if field == "data" {
            let value = value.strip_prefix(' ').unwrap_or(value);
            data = Some(data.map_or_else(|| value.to_owned(), |data| data + "\n" + value));
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn almost_stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            &b"data"[..],
            b":",
            b" ",
            b"\n",
            b"\r",
            b"\r\n",
            b"\n\n",
            b"a",
            b"\xf0\x9f",
            b"\xff",
            b"data: {\"choices\":[]}\n\n",
            b": c\n",
            b"\xef\xbb\xbf",
            b"\0",
            b"[DONE]",
            b"event",
        ]);
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn streams_mean_what_the_standard_says(stream in almost_stream()) {
            events(&stream);
        }

        #[test]
        fn refusals_have_the_type_of_their_status(
            status in any::<[u8; 2]>(),
            line in "[0-9.]{0,12}|\\PC{0,8}",
            body in prop_oneof![
                r#"\{"error":(\{"(message|code|type)":("a"|1|null|\[\])\}|"busy"|null)\}"#,
                any::<String>(),
            ],
        ) {
            refusal(&[&status[..], line.as_bytes(), b"\n", body.as_bytes()].concat());
        }

        #[test]
        fn what_is_published_is_believed_or_changes_nothing(
            text in prop_oneof![
                r#"\{"roster":"[a-z{}]{0,4}","index":[0-9],"hashes":\[\],"checkpoint":"(iris-log/)?[a-f0-9\\n=]{0,40}"\}"#,
                "iris-log/[0-9a-f]{64}\n[0-9]{1,3}\n[A-Za-z0-9+/]{43}=\n\n\u{2014} [ -~]{0,40}\n",
                r#"\{"version":"iris-trust/v1","coordinator":null,"checkpoint":(null|"a"),"own":\[("[a-z]{26}")?\],"nodes":\{\},"guards":\{("m":\[\])?\}\}"#,
            ],
        ) {
            published(text.as_bytes());
        }

        #[test]
        fn addresses_are_nothing_but_addresses(
            text in "(https?|wss?|ftp)://[a-z0-9.:@\\[\\]-]{0,12}(/v1|/nodes/connect|/a)?[/?#]?",
        ) {
            address(&text);
        }
    }
}
