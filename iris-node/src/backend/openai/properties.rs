//! What holds for anything that callers and model servers send; shared by the tests and the fuzz
//! targets.

use std::time::Duration;

use bytes::Bytes;
use iris_core::backend::{BackendError, Begun, Chunk, GenerateRequest, Operation};
use iris_core::model::is_invisible;
use serde_json::{Map, Value};

use super::event::is_envelope;
use super::reader::{EventReader, Step};
use super::sse::SseReader;
use super::{failure, generation, probe, request, server};

/// A stream means the same however it is cut, and each event becomes a clean piece or an error.
pub fn stream(bytes: &[u8]) {
    let (cut, stream) = bytes.split_at(bytes.len().min(1));
    let cut = usize::from(cut.first().copied().unwrap_or(0) % 32) + 1;
    let events = read(std::iter::once(stream));
    assert_eq!(read(stream.chunks(cut)), events);
    for operation in [Operation::Chat, Operation::Completion] {
        let mut reader = EventReader::new(operation);
        for event in &events {
            match reader.read(event) {
                Ok(Step::Chunk(chunk)) => is_clean(&chunk),
                Ok(Step::Skip) => {}
                Ok(Step::Done) => break,
                Err(error) => is_fit(&error),
            }
        }
        let _ = reader.finish(true);
    }
}

/// A whole answer, a refusal and a list of models are read or refused.
pub fn reply(json: &[u8]) {
    if let Ok((whole, _)) = generation::whole(json) {
        is_clean(&Chunk::Whole(whole));
    }
    for status in [200, 302, 400, 404, 429, 503] {
        is_fit(&failure::of_status(status, json));
    }
    is_fit(&failure::of_event(json));
    let _ = failure::is_report(json);
    for offer in probe::offers_in(json) {
        assert!(!offer.name.as_str().chars().any(is_invisible));
        assert!(offer.quantization.is_none_or(|q| q.bytes().all(|byte| byte.is_ascii_graphic())));
    }
}

/// A body is refused, or is sent as one object that names the model, streams as it was told and
/// controls nothing of the server.
pub fn body(json: &[u8]) {
    let begun = || Some(Begun { text: "so far".to_owned(), tokens: 2 });
    for (stream, begun) in [(false, None), (true, None), (true, begun())] {
        let request = GenerateRequest {
            operation: Operation::Chat,
            model: "m".parse().expect("a name"),
            body: Bytes::copy_from_slice(json),
            stream,
            time_left: Duration::from_secs(1),
            begun,
            isolated: false,
        };
        match request::prepare(&request, true) {
            Err(error) => is_fit(&error),
            Ok(None) => assert!(request.begun.is_some(), "there is nothing to send"),
            Ok(Some(sent)) => {
                let Ok(sent) = serde_json::from_slice::<Map<String, Value>>(&sent) else {
                    // Numbers beyond all bounds are well-formed, but no value holds them.
                    assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&sent).is_ok());
                    continue;
                };
                assert_eq!((&sent["model"], &sent["stream"]), (&"m".into(), &stream.into()));
                assert!(!request::SERVER_CONTROL.iter().any(|name| sent.contains_key(*name)));
            }
        }
    }
}

/// An address is refused, or leads to a root that is nothing but an address.
pub fn address(text: &str) {
    let Ok(root) = server::root_of(text) else { return };
    assert!(root.path().ends_with('/') && root.has_host());
    assert!(root.query().is_none() && root.fragment().is_none() && root.username().is_empty());
}

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let mut reader = SseReader::default();
    let mut events = Vec::new();
    for piece in pieces {
        reader.push(piece);
        while let Some(event) = reader.next_event().expect("no input here is that long") {
            events.push(event.to_vec());
        }
    }
    events
}

/// What is passed on fits into one line of one event, without the envelope that the gateway writes.
fn is_clean(chunk: &Chunk) {
    match chunk {
        Chunk::Text(text) => assert!(!text.is_empty()),
        Chunk::Json(json) | Chunk::Whole(json) => {
            assert!(!json.iter().any(|byte| matches!(byte, b'\n' | b'\r')));
            let Ok(object) = serde_json::from_slice::<Map<String, Value>>(json) else {
                assert!(serde_json::from_slice::<serde::de::IgnoredAny>(json).is_ok());
                return;
            };
            assert!(object["choices"].is_array());
            let is_whole = matches!(chunk, Chunk::Whole(_));
            let kept = |name: &str| is_whole && matches!(name, "usage" | "obfuscation");
            assert!(!object.keys().any(|name| is_envelope(name) && !kept(name)));
        }
        Chunk::Finished(_) => {}
    }
}

/// What a server says of a fault is short and safe to print.
fn is_fit(error: &BackendError) {
    let BackendError::Rejected { status, code, param, message } = error else { return };
    assert!((400..500).contains(status));
    for text in code.iter().chain(param).chain([message]) {
        assert!(text.len() <= 1024 && !text.chars().any(is_invisible), "{text:?}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Texts of the pieces that a server's objects and events are made of.
    fn almost_json() -> impl Strategy<Value = String> {
        const NAMES: &[&str] = &[
            "choices",
            "delta",
            "content",
            "index",
            "usage",
            "error",
            "message",
            "code",
            "type",
            "param",
            "finish_reason",
            "object",
            "id",
            "data",
            "models",
            "model",
            "key",
            "loaded_instances",
            "config",
            "context_length",
            "state",
            "status",
            "value",
            "details",
            "parameter_size",
            "quantization",
            "name",
            "default_generation_settings",
            "n_ctx",
            "total_slots",
            "capabilities",
            "messages",
            "lora",
            "image_url",
            "stream",
            "n",
            "n_predict",
            "stream_options",
            "grammar",
        ];
        let leaf = prop::sample::select(vec![
            "null",
            "true",
            "0",
            "1",
            "-1",
            "4294967296",
            "1e400",
            "429",
            r#""""#,
            r#""m""#,
            r#""a\nb""#,
            r#""error""#,
            r#""7.6B""#,
            r#""loaded""#,
            r#""http://a""#,
            "\"\u{202e}\"",
        ]);
        let value = leaf.prop_map(str::to_owned).prop_recursive(4, 32, 5, |inner| {
            let member = (prop::sample::select(NAMES), inner.clone());
            let member = member.prop_map(|(name, value)| format!("\"{name}\": {value}"));
            prop_oneof![
                prop::collection::vec(inner, 0..3).prop_map(|all| format!("[{}]", all.join(",\n"))),
                prop::collection::vec(member, 0..6)
                    .prop_map(|all| format!("{{{}}}", all.join(","))),
            ]
        });
        (value, any::<prop::sample::Index>(), any::<bool>()).prop_map(|(mut text, at, whole)| {
            if !whole {
                text.truncate(text.floor_char_boundary(at.index(text.len())));
            }
            text
        })
    }

    proptest! {
        #[test]
        fn streams_become_clean_pieces_or_errors(
            events in prop::collection::vec(almost_json(), 0..4),
            ending in prop::sample::select(vec!["\n\n", "\r\n\r\n", "\r\r", "\n"]),
            cut in "[ -~]",
        ) {
            let events = events.iter().map(|event| format!("data: {}{ending}", event.replace('\n', "")));
            stream((cut + &events.collect::<String>() + "data: [DONE]\n\n").as_bytes());
        }

        #[test]
        fn replies_are_read_or_refused(json in almost_json()) {
            reply(json.as_bytes());
        }

        #[test]
        fn bodies_are_refused_or_sent_clean(json in almost_json(), named in any::<bool>()) {
            body(json.as_bytes());
            if let (true, Some(rest)) = (named, json.strip_prefix('{')) {
                body(format!(r#"{{"model":"m",{rest}"#).as_bytes());
            }
        }

        #[test]
        fn addresses_are_nothing_but_addresses(
            text in "(https?|ftp)://[a-z0-9.:@\\[\\]-]{0,12}(/v1/?|/a)?[?#]?",
        ) {
            address(&text);
        }
    }
}
