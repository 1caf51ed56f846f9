//! Bytes from the model to text that may be sent.

/// Turns pieces of tokens into text, without broken characters and stop strings.
///
/// Holds back what may still become a stop string or a whole character.
pub(super) struct Outlet {
    stops: Vec<String>,
    bytes: Vec<u8>,
    text: String,
    stopped: bool,
}

impl Outlet {
    /// Makes an outlet that ends before the first of `stops`; none of them is empty.
    pub(super) fn new(stops: Vec<String>) -> Self {
        Self { stops, bytes: Vec::new(), text: String::new(), stopped: false }
    }

    /// Returns whether a stop string came; nothing comes out after it.
    pub(super) fn stopped(&self) -> bool {
        self.stopped
    }

    /// Takes a piece and returns what may be sent now.
    pub(super) fn push(&mut self, piece: &[u8]) -> String {
        if self.stopped {
            return String::new();
        }
        self.bytes.extend_from_slice(piece);
        self.take_characters();
        if let Some(end) = self.stops.iter().filter_map(|stop| self.text.find(stop)).min() {
            self.stopped = true;
            self.text.truncate(end);
            return std::mem::take(&mut self.text);
        }
        let rest = self.text.split_off(self.text.len() - self.held_back());
        std::mem::replace(&mut self.text, rest)
    }

    /// Returns what was held back, at the end of the answer.
    pub(super) fn finish(mut self) -> String {
        if !self.stopped {
            self.text += &String::from_utf8_lossy(&self.bytes);
        }
        self.text
    }

    /// Moves whole characters from the bytes to the text, and invalid bytes as U+FFFD.
    fn take_characters(&mut self) {
        loop {
            match std::str::from_utf8(&self.bytes) {
                Ok(text) => {
                    self.text += text;
                    self.bytes.clear();
                    return;
                }
                Err(error) => {
                    let (valid, _) = self.bytes.split_at(error.valid_up_to());
                    self.text += &String::from_utf8_lossy(valid);
                    let Some(invalid) = error.error_len() else {
                        self.bytes.drain(..error.valid_up_to());
                        return;
                    };
                    self.text.push(char::REPLACEMENT_CHARACTER);
                    self.bytes.drain(..error.valid_up_to() + invalid);
                }
            }
        }
    }

    /// Returns how many bytes at the end begin a stop string.
    fn held_back(&self) -> usize {
        let begun = |stop: &String| {
            let longest = stop.len().min(self.text.len());
            (1..=longest).rev().find(|n| self.text.as_bytes().ends_with(&stop.as_bytes()[..*n]))
        };
        // A beginning that ends inside a character cannot match whole characters' end.
        self.stops.iter().filter_map(begun).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn outlet(stops: &[&str]) -> Outlet {
        Outlet::new(stops.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_character_comes_out_whole() {
        let mut outlet = outlet(&[]);
        let bytes = "é€".as_bytes();
        let parts: Vec<String> = bytes.iter().map(|byte| outlet.push(&[*byte])).collect();
        assert_eq!(parts, ["", "é", "", "", "€"]);
    }

    #[test]
    fn a_stop_string_across_pieces_never_shows() {
        let mut outlet = outlet(&["\n\nUser:"]);
        let parts: Vec<String> =
            ["Yes.", "\n", "\nUs", "er", ": Hi"].map(|p| outlet.push(p.as_bytes())).into();
        assert_eq!(parts.concat(), "Yes.");
        assert!(outlet.stopped());
        assert_eq!(outlet.finish(), "");
    }

    #[test]
    fn what_only_began_like_a_stop_string_comes_out() {
        let mut outlet = outlet(&["STOP"]);
        assert_eq!(outlet.push(b"a ST"), "a ");
        assert_eq!(outlet.push(b"ART ST"), "START ");
        assert_eq!(outlet.finish(), "ST");
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        let mut outlet = outlet(&[]);
        assert_eq!(outlet.push(b"a\xff\xc3"), "a\u{fffd}");
        assert_eq!(outlet.push(b"b"), "\u{fffd}b");
        assert_eq!(outlet.push(b"\xe2\x82"), "");
        assert_eq!(outlet.finish(), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn pieces_do_not_change_what_comes_out(
            text in "[abé€]{0,40}",
            stop in "[abé€]{1,4}",
            cuts in proptest::collection::vec(1usize..5, 0..40),
        ) {
            let mut outlet = outlet(&[&stop]);
            let (mut rest, mut out) = (text.as_bytes(), String::new());
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                out += &outlet.push(piece);
                rest = after;
            }
            out += &outlet.push(rest);
            out += &outlet.finish();
            prop_assert_eq!(out, text.split(&stop).next().unwrap());
        }
    }
}
