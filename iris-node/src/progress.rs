//! How a download goes, in a terminal or in lines.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use iris_node::cache::Event;
use iris_protocol::rest::FileName;

use crate::moment;

/// How often a terminal's line is drawn anew, at most.
const DRAWN_EVERY: Duration = Duration::from_millis(100);
/// How often a line is written elsewhere, at most.
const WRITTEN_EVERY: Duration = Duration::from_secs(10);
const CELLS: u8 = 30;

/// Tells on standard error how a download goes.
#[derive(Debug)]
pub(crate) struct Progress {
    name: String,
    is_terminal: bool,
    /// When bytes began to come, and how many there were then.
    begun: Option<(Instant, u64)>,
    drawn: Option<Instant>,
}

impl Progress {
    pub(crate) fn new(name: &FileName, is_terminal: bool) -> Self {
        Self { name: name.to_string(), is_terminal, begun: None, drawn: None }
    }

    pub(crate) fn tell(&mut self, event: &Event) {
        match event {
            Event::Come { len, total, .. } => self.draw(*len, *total),
            Event::Begun { from, total } => {
                self.begun = Some((Instant::now(), *from));
                let goes_on = if *from > 0 { ", going on" } else { "" };
                self.say(&format!("{}{goes_on}: {}", self.name, of(*from, *total)));
            }
            Event::Removed(name) => self.say(&format!("{name} is removed to make room")),
            Event::Waiting { why, pause } => {
                self.say(&format!("{why}; again in {}", moment::span(*pause)));
            }
            Event::Restarted(why) => self.say(&format!("begun anew: {why}")),
        }
    }

    /// Ends the line that is drawn, if one is.
    pub(crate) fn end(&mut self) {
        if self.is_terminal && self.drawn.take().is_some() {
            eprintln!();
        }
    }

    fn say(&mut self, line: &str) {
        self.end();
        eprintln!("{line}");
    }

    fn draw(&mut self, len: u64, total: u64) {
        let every = if self.is_terminal { DRAWN_EVERY } else { WRITTEN_EVERY };
        let now = Instant::now();
        let (begun, from) = *self.begun.get_or_insert((now, len));
        let last = self.drawn.or((!self.is_terminal).then_some(begun));
        if len < total && last.is_some_and(|last| now.duration_since(last) < every) {
            return;
        }
        self.drawn = Some(now);
        let line = line(len, total, len.saturating_sub(from), now.duration_since(begun));
        let mut out = io::stderr().lock();
        // Whoever started this may not be listening, which is no reason to end.
        let _ = if self.is_terminal {
            write!(out, "\r{line}\x1b[K").and_then(|()| out.flush())
        } else {
            writeln!(out, "{line}")
        };
    }
}

/// Shows how much there is, and how fast `came` bytes came in `time`.
fn line(len: u64, total: u64, came: u64, time: Duration) -> String {
    let part = |of: u64| u128::from(len) * u128::from(of) / u128::from(total.max(1));
    let full = usize::try_from(part(CELLS.into())).unwrap_or(0);
    let bar = "#".repeat(full) + &"-".repeat(usize::from(CELLS).saturating_sub(full));
    let rate = u128::from(came) * 1000 / time.as_millis().max(1);
    let left = u128::from(total.saturating_sub(len)).checked_div(rate);
    let left = left.filter(|_| len < total).map(|secs| {
        let secs = u64::try_from(secs).unwrap_or(u64::MAX);
        format!("  {} left", moment::span(Duration::from_secs(secs)))
    });
    let rate = megabytes(u64::try_from(rate).unwrap_or(u64::MAX));
    let left = left.unwrap_or_default();
    format!("[{bar}] {:>3} %  {}  {rate}/s{left}", part(100), of(len, total))
}

fn of(len: u64, total: u64) -> String {
    format!("{} of {}", megabytes(len), megabytes(total))
}

fn megabytes(bytes: u64) -> String {
    let tenths = bytes / 100_000;
    format!("{}.{} MB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_far_how_fast_and_how_long() {
        let second = Duration::from_secs(1);
        let half = line(50_000_000, 100_000_000, 10_000_000, 2 * second);
        let bar = "#".repeat(15) + &"-".repeat(15);
        assert_eq!(half, format!("[{bar}]  50 %  50.0 MB of 100.0 MB  5.0 MB/s  10 s left"));
        let end = line(100, 100, 100, Duration::ZERO);
        assert!(end.starts_with(&format!("[{}] 100 %", "#".repeat(30))) && !end.contains("left"));
        for (len, total) in [(0, 0), (9, 3), (u64::MAX, u64::MAX), (0, u64::MAX)] {
            line(len, total, len, Duration::ZERO);
        }
    }
}
