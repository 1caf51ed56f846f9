//! Reading server-sent events as they come, in pieces of any size.

use std::ops::Range;

/// Bytes that a line, and the data of one event, may have.
const LIMIT: usize = 1 << 20;

/// Splits a byte stream into events.
///
/// Lines end with LF, CRLF or CR. Comments, names, ids and retry times are skipped; the data
/// lines of one event are joined by LF. An event that the stream's end cuts off is dropped, as the
/// standard says.
#[derive(Debug, Default)]
pub(super) struct SseReader {
    buffer: Vec<u8>,
    /// Where the first unread line begins.
    start: usize,
    /// Up to where the buffer holds no line end.
    searched: usize,
    data: Vec<u8>,
    state: State,
    /// Whether a CR was read whose LF may follow.
    after_cr: bool,
    past_first_line: bool,
}

/// What `data` holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Nothing,
    /// The lines of the current event so far.
    Lines,
    /// An event that was handed out; the next one starts anew.
    Event,
}

/// Says that an event is too long to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a server-sent event is longer than {LIMIT} bytes")]
pub(super) struct EventTooLong;

impl SseReader {
    /// Takes in the next bytes of the stream.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the data of the next event, or `None` until more bytes are pushed.
    pub(super) fn next_event(&mut self) -> Result<Option<&[u8]>, EventTooLong> {
        if self.state == State::Event {
            self.data.clear();
            self.state = State::Nothing;
        }
        while let Some(line) = self.next_line()? {
            if !line.is_empty() {
                self.read_field(line)?;
            } else if self.state == State::Lines {
                self.state = State::Event;
                return Ok(Some(&self.data));
            }
        }
        Ok(None)
    }

    fn next_line(&mut self) -> Result<Option<Range<usize>>, EventTooLong> {
        if self.after_cr && self.start < self.buffer.len() {
            if self.buffer[self.start] == b'\n' {
                self.start += 1;
                self.searched = self.searched.max(self.start);
            }
            self.after_cr = false;
        }
        let unsearched = &self.buffer[self.searched..];
        let found = unsearched.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let end = self.searched + found.unwrap_or(unsearched.len());
        if end - self.start > LIMIT {
            return Err(EventTooLong);
        }
        if found.is_none() {
            self.searched = end;
            return Ok(None);
        }
        let mut line = self.start..end;
        self.after_cr = self.buffer[end] == b'\r';
        self.start = end + 1;
        self.searched = self.start;
        if !self.past_first_line {
            self.past_first_line = true;
            if self.buffer[line.clone()].starts_with(b"\xef\xbb\xbf") {
                line.start += 3;
            }
        }
        Ok(Some(line))
    }

    fn read_field(&mut self, line: Range<usize>) -> Result<(), EventTooLong> {
        let line = &self.buffer[line];
        let value = match line.strip_prefix(b"data") {
            Some([]) => &[][..],
            Some([b':', b' ', value @ ..] | [b':', value @ ..]) => value,
            _ => return Ok(()),
        };
        if self.data.len() + value.len() >= LIMIT {
            return Err(EventTooLong);
        }
        if self.state == State::Lines {
            self.data.push(b'\n');
        }
        self.state = State::Lines;
        self.data.extend_from_slice(value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<Vec<Vec<u8>>, EventTooLong> {
        let mut reader = SseReader::default();
        let mut events = Vec::new();
        for piece in pieces {
            reader.push(piece);
            while let Some(data) = reader.next_event()? {
                events.push(data.to_vec());
            }
        }
        Ok(events)
    }

    #[test]
    fn every_line_end_ends_a_line() {
        let stream = b"data: a\n\ndata:b\r\n\r\ndata: c\r\rdata\n\ndata: x\ndata:  y\n\n";
        assert_eq!(read(&[stream]).unwrap(), [&b"a"[..], b"b", b"c", b"", b"x\n y"]);
    }

    #[test]
    fn what_is_not_data_is_skipped() {
        let stream = b"\xef\xbb\xbf: hello\nevent: error\nid: 1\ndatum: 2\n\ndata: a\nretry: 5\n\n";
        assert_eq!(read(&[stream]).unwrap(), [b"a"]);
    }

    #[test]
    fn event_without_its_blank_line_is_not_yielded() {
        assert_eq!(read(&[b"data: a\n\ndata: b\n"]).unwrap(), [b"a"]);
    }

    #[test]
    fn endless_line_and_endless_event_are_refused() {
        let line = vec![b'x'; LIMIT + 1];
        assert_eq!(read(&[&line]), Err(EventTooLong));
        let data = [&b"data: "[..], &vec![b'x'; LIMIT / 2], b"\n"].concat();
        assert_eq!(read(&[&data, &data, &data]), Err(EventTooLong));
    }

    fn stream_like() -> impl Strategy<Value = Vec<u8>> {
        let word = prop::sample::select(vec![
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
            b"data: {}\n\n",
            b": c\n",
            b"\xef\xbb\xbf",
            b"\0",
            b"[DONE]",
        ]);
        prop::collection::vec(word, 0..60).prop_map(|words| words.concat())
    }

    proptest! {
        #[test]
        fn cuts_between_reads_change_nothing(
            stream in stream_like(),
            cuts in prop::collection::vec(0_usize..200, 0..8),
        ) {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read(&pieces), read(&[&stream]));
        }

        #[test]
        fn any_bytes_are_read_without_panic(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
        ) {
            let pieces: Vec<_> = pieces.iter().map(Vec::as_slice).collect();
            prop_assert!(read(&pieces).is_ok());
        }
    }
}
