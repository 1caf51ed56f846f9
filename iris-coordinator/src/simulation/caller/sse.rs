/// Cuts a stream of server-sent events into their data.
#[derive(Debug, Default)]
pub(super) struct Events {
    buffer: Vec<u8>,
}

impl Events {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the data of the next whole event; comments are skipped.
    pub(super) fn next(&mut self) -> Option<String> {
        loop {
            let end = self.buffer.windows(2).position(|pair| pair == b"\n\n")?;
            let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
            let text = String::from_utf8_lossy(&event);
            let data: Vec<_> =
                text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
            if !data.is_empty() {
                return Some(data.join("\n"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_however_they_are_cut() {
        let mut events = Events::default();
        events.push(b"data: one\n");
        assert_eq!(events.next(), None);
        events.push(b"\n: keep-alive\n\ndata: two\n\nda");
        assert_eq!(events.next().as_deref(), Some("one"));
        assert_eq!(events.next().as_deref(), Some("two"));
        assert_eq!(events.next(), None);
    }
}
