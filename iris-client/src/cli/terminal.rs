//! Writing for people and for programs.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

/// What is left free before the later lines of a remark: as much as its first begins with.
const INDENT: usize = "iris: ".len();

/// Standard output. What a model says reaches a terminal without control characters, which could
/// rewrite the screen, the window's title or the clipboard; files and pipes get it unchanged.
#[derive(Debug)]
pub(super) struct Output {
    is_terminal: bool,
    at_line_start: bool,
}

impl Output {
    pub(super) fn new() -> Self {
        Self { is_terminal: io::stdout().is_terminal(), at_line_start: true }
    }

    /// Returns how many columns the reader's terminal has; `None` where there is none.
    pub(super) fn width(&self) -> Option<u16> {
        let size = terminal_size::terminal_size_of(io::stdout())?;
        self.is_terminal.then_some(size.0.0)
    }

    /// Writes `text` at once.
    pub(super) fn write(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let shown = if self.is_terminal { harmless(text) } else { Cow::Borrowed(text) };
        let mut stdout = io::stdout().lock();
        stdout.write_all(shown.as_bytes())?;
        self.at_line_start = text.ends_with('\n');
        stdout.flush()
    }

    pub(super) const fn is_at_line_start(&self) -> bool {
        self.at_line_start
    }

    /// Ends the line, if one is begun.
    pub(super) fn end_line(&mut self) -> io::Result<()> {
        if self.at_line_start { Ok(()) } else { self.write("\n") }
    }

    /// Writes `text` as lines of its own.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        self.write(text)?;
        self.end_line()
    }

    /// Writes a value as JSON.
    pub(super) fn json(&mut self, value: &impl serde::Serialize) -> io::Result<()> {
        self.line(&serde_json::to_string_pretty(value)?)
    }
}

/// Writes a remark to standard error, as one line, which a terminal shows between words as several.
/// Nobody may be listening.
pub(super) fn remark(text: &str) {
    let line = format!("iris: {}", harmless(text).replace('\n', " "));
    let width = terminal_size::terminal_size_of(io::stderr()).map(|size| usize::from(size.0.0));
    let shown = width.map_or_else(|| line.clone(), |width| folded(&line, width));
    let _ = writeln!(io::stderr(), "{shown}");
}

/// Breaks a remark between words, where it is wider than its reader's terminal.
fn folded(line: &str, width: usize) -> String {
    let mut shown = String::new();
    let mut column = 0;
    for word in line.split_inclusive(' ') {
        let length = word.trim_end().chars().count();
        if column + length > width && column > INDENT {
            shown.truncate(shown.trim_end().len());
            shown.push('\n');
            shown.extend([' '; INDENT]);
            column = INDENT;
        }
        shown.push_str(word);
        column += word.chars().count();
    }
    shown
}

/// Writes text to standard error as it is, for whoever sits at the terminal.
pub(super) fn lines(text: &str) {
    let _ = writeln!(io::stderr(), "{}", harmless(text));
}

/// Shows control characters, and those that reorder the text around them, as replacements.
fn harmless(text: &str) -> Cow<'_, str> {
    let steers = |c: char| (c.is_control() && !matches!(c, '\n' | '\t')) || reorders(c);
    if text.contains(steers) {
        let without_cr = text.replace("\r\n", "\n");
        Cow::Owned(without_cr.replace(steers, "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// Returns whether a character reorders the text around it.
pub(super) const fn reorders(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_model_says_steers_the_terminal() {
        for attack in ["\x1b]0;title\x07", "\x1b[2J", "\u{9b}31m", "\x08\x08", "a\rb", "\u{202e}"] {
            let shown = harmless(attack);
            assert!(shown.contains('\u{fffd}'), "{attack:?}");
            assert!(!shown.contains(|c: char| c.is_control() || c == '\u{202e}'), "{shown:?}");
        }
    }

    #[test]
    fn remarks_are_broken_between_words_and_lose_none() {
        let line = "iris: no node attic is connected; see `iris nodes`";
        assert_eq!(folded(line, 80), line);
        let shown = "iris: no node attic is\n      connected; see `iris\n      nodes`";
        assert_eq!(folded(line, 28), shown);
        assert_eq!(folded(line, 26), shown, "a line may be full");
        let long = "iris: http://127.0.0.1:8080/ is long";
        assert_eq!(folded(long, 20), "iris: http://127.0.0.1:8080/\n      is long");
        for width in 0..60 {
            let words: Vec<_> = folded(line, width).split_whitespace().map(str::to_owned).collect();
            assert_eq!(words.join(" "), line);
        }
    }

    #[test]
    fn ordinary_text_is_left_alone() {
        let text = "a\n\tb \u{1f469}\u{200d}\u{1f680} \u{5d0}";
        assert!(matches!(harmless(text), Cow::Borrowed(shown) if shown == text));
        assert_eq!(harmless("a\r\nb"), "a\nb");
    }
}
