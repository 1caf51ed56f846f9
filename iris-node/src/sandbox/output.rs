//! Keeps the end of what a server prints, and no more.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Most lines that are kept.
const LINES: usize = 20;
/// Most bytes of a line that are kept.
const LINE: usize = 500;

/// The last lines that a server printed, to both of its outputs.
#[derive(Clone, Debug, Default)]
pub(super) struct Output {
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl Output {
    /// Reads all that comes, so that the server never waits for a reader.
    pub(super) async fn read(self, mut from: impl AsyncRead + Unpin) {
        let mut line = Vec::with_capacity(LINE);
        let mut piece = [0; 4096];
        loop {
            let read = match from.read(&mut piece).await {
                Ok(0) | Err(_) => break,
                Ok(read) => read,
            };
            for &byte in &piece[..read] {
                if byte == b'\n' {
                    self.keep(&mut line);
                } else if line.len() < LINE {
                    line.push(byte);
                }
            }
        }
        self.keep(&mut line);
    }

    pub(super) fn last_lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn keep(&self, line: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(line).trim_end().to_owned();
        line.clear();
        if text.is_empty() {
            return;
        }
        // A server may quote prompts, so its lines are not for ordinary logs.
        tracing::trace!(line = %text, "the model server printed");
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_lines_are_kept_and_cut() {
        let output = Output::default();
        let mut text: Vec<u8> =
            (0..30).flat_map(|n| format!("line {n}\r\n\n").into_bytes()).collect();
        text.extend([b'x'; 9000]);
        text.extend(b"\n\xff\xfe");
        output.clone().read(text.as_slice()).await;
        let lines = output.last_lines();
        assert_eq!(lines.len(), LINES);
        assert_eq!(lines[0], "line 12");
        assert_eq!(lines[LINES - 2], "x".repeat(LINE));
        assert_eq!(lines[LINES - 1], "\u{fffd}\u{fffd}");
    }
}
