//! Telling how a plan goes, a line at a time.

use std::fmt::Write as _;
use std::io;

use iris_core::NodeId;
use iris_core::plan::{Placed, Progress, UnitState};

use super::terminal::{Output, remark};

/// How much of a node's id is shown, unless everything is.
const SHORT: usize = 8;

/// Writes a plan's answer to standard output as it comes, and what happens to standard error.
pub(super) struct Follower<'a> {
    output: &'a mut Output,
    /// Whether the answer is written as it comes.
    streams: bool,
    verbose: bool,
    /// What was written of the answer.
    written: String,
    /// What is told once the answer's line is complete.
    held: Vec<String>,
}

impl<'a> Follower<'a> {
    pub(super) const fn new(output: &'a mut Output, streams: bool, verbose: bool) -> Self {
        Self { output, streams, verbose, written: String::new(), held: Vec::new() }
    }

    /// Tells one thing.
    pub(super) fn tell(&mut self, progress: &Progress) -> io::Result<()> {
        if let Progress::Text { text } = progress {
            if self.streams {
                self.written.push_str(text);
                self.output.write(text)?;
            }
            return Ok(());
        }
        let Some(line) = self.line(progress) else { return Ok(()) };
        if self.output.is_at_line_start() {
            remark(&line);
        } else {
            self.held.push(line);
        }
        Ok(())
    }

    /// Writes what is missing of the answer, of which this much is there, ends its line and tells
    /// what was held back.
    pub(super) fn end(self, answer: Option<&str>) -> io::Result<&'a mut Output> {
        if let Some(answer) = answer {
            let rest = answer.strip_prefix(&self.written);
            if rest.is_none() {
                self.output.end_line()?;
            }
            self.output.write(rest.unwrap_or(answer))?;
        }
        self.output.end_line()?;
        for line in self.held {
            remark(&line);
        }
        Ok(self.output)
    }

    fn line(&self, progress: &Progress) -> Option<String> {
        Some(match progress {
            Progress::Added { unit, source: Some(source) } if self.verbose => {
                let bytes = source.end.saturating_sub(source.start);
                format!("{unit}: {bytes} bytes from line {} on", source.line)
            }
            Progress::Started { unit, model, placed, .. } if self.verbose => {
                format!("{unit}: {model} at {}", self.place(placed))
            }
            Progress::Answered { unit, placed, took_ms, usage, .. } => {
                let (place, time) = (self.place(placed), seconds(*took_ms));
                format!("{unit}: answered by {place} in {time}, {} tokens", usage.total())
            }
            Progress::Failed { unit, placed, error, .. } => {
                let at = placed.node.map(|node| format!(" at {}", self.node(&node)));
                format!("{unit}: failed{}: {error}", at.unwrap_or_default())
            }
            Progress::Agreed { unit, agreed, dissent } => {
                let mut line =
                    format!("{unit}: {} of {}", agreed.len(), agreed.len() + dissent.len());
                line.push_str(" answers agree");
                if !dissent.is_empty() {
                    let nodes: Vec<_> = dissent.iter().map(|node| self.node(node)).collect();
                    let _ = write!(line, "; not so {}", nodes.join(", "));
                }
                line
            }
            Progress::Over { unit, state: UnitState::Skipped } => format!("{unit}: skipped"),
            Progress::Over { unit, state: UnitState::Undone } => format!("{unit}: taken back"),
            Progress::Over { unit, state: UnitState::Finished } if self.verbose => {
                format!("{unit}: done")
            }
            Progress::Waiting { unit, choices } => {
                format!("{unit}: waits for a decision among {}", choices.join(", "))
            }
            _ => return None,
        })
    }

    fn place(&self, placed: &Placed) -> String {
        placed.node.map_or_else(|| "an unnamed node".to_owned(), |node| self.node(&node))
    }

    fn node(&self, node: &NodeId) -> String {
        let id = node.to_string();
        if self.verbose { id } else { id.chars().take(SHORT).collect() }
    }
}

/// Writes a time in a few letters.
pub(super) fn seconds(millis: u64) -> String {
    match millis {
        0..10_000 => format!("{}.{} s", millis / 1000, millis % 1000 / 100),
        10_000..600_000 => format!("{} s", millis / 1000),
        _ => format!("{} min", millis / 60_000),
    }
}

#[cfg(test)]
mod tests {
    use iris_core::backend::Usage;
    use iris_core::plan::Number;

    use super::*;

    #[test]
    fn a_line_fits_and_names_the_node_briefly() {
        let node: NodeId = "abcdefghijklmnopqrstuvwx27".parse().unwrap();
        let placed = Placed { node: Some(node), ..Placed::default() };
        let usage = Usage { prompt_tokens: 9000, completion_tokens: 1000 };
        let answered = Progress::Answered {
            unit: "sections.120".to_owned(),
            number: Number(7),
            placed,
            took_ms: 9_960,
            usage,
        };
        let mut output = Output::new();
        let line = Follower::new(&mut output, true, false).line(&answered).unwrap();
        assert_eq!(line, "sections.120: answered by abcdefgh in 9.9 s, 10000 tokens");
        let dissent = Progress::Agreed {
            unit: "answer".to_owned(),
            agreed: vec![node, node],
            dissent: vec![node],
        };
        let line = Follower::new(&mut output, true, false).line(&dissent).unwrap();
        assert_eq!(line, "answer: 2 of 3 answers agree; not so abcdefgh");
    }
}
