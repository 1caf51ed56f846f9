//! Server-sent events, decoded without I/O.

use std::collections::VecDeque;

/// Decodes a stream of server-sent events into the data of each.
///
/// Bytes go in by [`push`](Self::push), cut anywhere; events come out by [`pop`](Self::pop).
/// Comments and fields other than `data` are skipped. One event takes at most
/// [`MAX_EVENT`](Self::MAX_EVENT) bytes of memory.
#[derive(Debug, Default)]
pub struct SseParser {
    line: Vec<u8>,
    data: Option<Vec<u8>>,
    after_cr: bool,
    past_first_line: bool,
    events: VecDeque<String>,
}

/// Says that an event is longer than [`SseParser::MAX_EVENT`]; the stream cannot be read further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {} bytes", SseParser::MAX_EVENT)]
pub struct EventTooLong;

impl SseParser {
    /// The longest event, in bytes.
    pub const MAX_EVENT: usize = 4 << 20;

    /// Makes a parser at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the stream's next bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), EventTooLong> {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (line, ending) = (&rest[..end], rest[end]);
            rest = &rest[end + 1..];
            // The second half of "\r\n" ends no line of its own.
            let half = ending == b'\n' && line.is_empty() && self.after_cr && self.line.is_empty();
            self.after_cr = ending == b'\r';
            if !half {
                self.extend(line)?;
                self.end_line();
            }
        }
        if !rest.is_empty() {
            self.after_cr = false;
        }
        self.extend(rest)
    }

    /// Returns the data of the next complete event.
    pub fn pop(&mut self) -> Option<String> {
        self.events.pop_front()
    }

    /// Ends the stream and returns the data of an event that lacks its closing empty line.
    pub fn finish(mut self) -> Option<String> {
        // An empty rest is no line, and would end the event out of reach.
        if !self.line.is_empty() {
            self.end_line();
        }
        self.data.take().map(into_text)
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), EventTooLong> {
        let held = self.line.len() + self.data.as_ref().map_or(0, Vec::len);
        if held + bytes.len() > Self::MAX_EVENT {
            return Err(EventTooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self) {
        let mut line = std::mem::take(&mut self.line);
        if !std::mem::replace(&mut self.past_first_line, true) && line.starts_with(b"\xef\xbb\xbf")
        {
            line.drain(..3);
        }
        if line.is_empty() {
            self.events.extend(self.data.take().map(into_text));
        } else if let Some(value) = data_field(&line) {
            if let Some(data) = &mut self.data {
                data.push(b'\n');
                data.extend_from_slice(value);
            } else {
                self.data = Some(value.to_vec());
            }
        }
    }
}

fn data_field(line: &[u8]) -> Option<&[u8]> {
    let value = line.strip_prefix(b"data")?;
    match value.strip_prefix(b":") {
        Some(value) => Some(value.strip_prefix(b" ").unwrap_or(value)),
        None => value.is_empty().then_some(value),
    }
}

fn into_text(data: Vec<u8>) -> String {
    String::from_utf8(data).unwrap_or_else(|bad| String::from_utf8_lossy(bad.as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<String> {
        let mut parser = SseParser::new();
        for piece in pieces {
            parser.push(piece).unwrap();
        }
        let mut events: Vec<_> = std::iter::from_fn(|| parser.pop()).collect();
        events.extend(parser.finish());
        events
    }

    #[test]
    fn comments_other_fields_and_byte_order_marks_are_skipped() {
        let stream =
            b"\xef\xbb\xbfdata: a\n\n: keep-alive\n\nevent: x\nid: 1\nretry: 5\ndata:b\n\n";
        assert_eq!(events(&[stream]), ["a", "b"]);
    }

    #[test]
    fn lines_of_one_event_are_joined_and_all_line_endings_are_equal() {
        assert_eq!(events(&[b"data: a\r\ndata\r\ndata:  b\r\n\r\n"]), ["a\n\n b"]);
        assert_eq!(events(&[b"data: a\rdata: b\r\rdata: c\n\n"]), ["a\nb", "c"]);
        assert_eq!(events(&[b"data: a\r", b"\n\r", b"\ndata: b\r", b"\r"]), ["a", "b"]);
    }

    #[test]
    fn an_event_without_its_empty_line_is_there_at_the_end() {
        for end in ["data: [DONE]", "data: [DONE]\n", "data: [DONE]\r\n", "data: [DONE]\n: c"] {
            assert_eq!(events(&[b"data: a\n\n", end.as_bytes()]), ["a", "[DONE]"], "{end:?}");
        }
    }

    #[test]
    fn endless_events_are_refused_with_bounded_memory() {
        let piece = vec![b'x'; 64 << 10];
        for start in ["", "data: "] {
            let mut parser = SseParser::new();
            parser.push(start.as_bytes()).unwrap();
            let refused = (0..1000).find(|_| parser.push(&piece).is_err());
            assert_eq!(refused, Some(if start.is_empty() { 64 } else { 63 }));
        }
        let mut parser = SseParser::new();
        assert!(
            (0..200_000)
                .any(|_| { parser.push(b"data: 0123456789012345678901234567890\n").is_err() })
        );
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_a_stream_is_cut(
            texts in prop::collection::vec("[a-z\u{e9}\u{1f600}{}\": ]{0,12}", 0..8),
            ending in prop::sample::select(vec!["\n", "\r\n", "\r"]),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let event = |text| format!(": c{ending}{ending}data: {text}{ending}{ending}");
            let stream: String = texts.iter().map(event).collect();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([stream.len()]) {
                pieces.push(&stream.as_bytes()[from..cut]);
                from = cut;
            }
            prop_assert_eq!(events(&pieces), texts);
        }

        #[test]
        fn no_bytes_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..16)) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            events(&pieces);
        }
    }
}
