//! The view that changes with the node.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style as Look};
use ratatui::text::{Line as Shown, Span, Text};
use ratatui::widgets::Paragraph;
use ratatui::{DefaultTerminal, Frame};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::page::{Line, Page, Style};
use super::snapshot::Snapshot;
use crate::control;
use crate::failure::{Exit, Failure};
use crate::network::{Asking, Network};

/// How often the node is asked.
const LOOK: Duration = Duration::from_secs(1);
/// How often the coordinator is asked.
const ASK: Duration = Duration::from_secs(30);
/// How long the keyboard is waited for before it is looked whether anybody still listens.
const KEYS: Duration = Duration::from_millis(200);

/// What is shown.
#[derive(Debug)]
struct View {
    node: Snapshot,
    network: Option<Network>,
    /// Why the node does not answer any more.
    gone: Option<String>,
    has_colours: bool,
}

/// Shows how a node is until a key ends that.
pub(super) async fn run(key: &Path, node: Snapshot, asking: Asking) -> Result<(), Failure> {
    let has_colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let view = View { node, network: None, gone: None, has_colours };
    let failed = |error: io::Error| {
        Failure::new(Exit::Work, format!("this terminal cannot be used ({error}); try --once"))
    };
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let shown = show(&mut terminal, view, key, asking).await;
    ratatui::restore();
    shown.map_err(failed)
}

async fn show(
    terminal: &mut DefaultTerminal,
    mut view: View,
    key: &Path,
    asking: Asking,
) -> io::Result<()> {
    let mut events = events();
    let mut looks = looks(key.to_owned());
    let (told, nodes) = watch::channel(view.node.clone());
    let mut networks = networks(asking, nodes);
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        terminal.draw(|frame| view.draw(frame))?;
        tokio::select! {
            event = events.recv() => match event {
                Some(Event::Key(key)) if ends(key) => return Ok(()),
                // A new size is drawn like any other change.
                Some(_) => {}
                None => return Ok(()),
            },
            Some(look) = looks.recv() => {
                view.take(look);
                told.send_replace(view.node.clone());
            }
            Some(network) = networks.recv() => view.network = Some(network),
            _ = terminate.recv() => return Ok(()),
        }
    }
}

/// Returns whether a key ends the view.
fn ends(key: KeyEvent) -> bool {
    let is_ctrl_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    let is_named = matches!(key.code, KeyCode::Char('q' | 'Q') | KeyCode::Esc);
    key.kind != KeyEventKind::Release && (is_ctrl_c || is_named)
}

/// Reads the keyboard on a thread of its own, which can only be waited for.
fn events() -> mpsc::Receiver<Event> {
    let (sender, events) = mpsc::channel(16);
    tokio::task::spawn_blocking(move || {
        while !sender.is_closed() {
            let event = match event::poll(KEYS) {
                Ok(true) => event::read(),
                Ok(false) => continue,
                Err(error) => Err(error),
            };
            // Without a keyboard the view ends.
            let Ok(event) = event else { return };
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    events
}

/// Asks the node again and again.
fn looks(key: PathBuf) -> mpsc::Receiver<Result<Snapshot, String>> {
    let (sender, looks) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut turns = interval(LOOK);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            let look = control::snapshot(&key).await.map_err(|failure| failure.to_string());
            if sender.send(look).await.is_err() {
                return;
            }
        }
    });
    looks
}

/// Asks the coordinator again and again.
fn networks(asking: Asking, mut nodes: watch::Receiver<Snapshot>) -> mpsc::Receiver<Network> {
    let (sender, networks) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut turns = interval(ASK);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            let (url, node) = {
                let node = nodes.borrow_and_update();
                (node.coordinator.clone(), node.node)
            };
            if url.is_none() {
                // One that connects is asked about at once.
                let connects = nodes.wait_for(|node| node.coordinator.is_some());
                if connects.await.is_err() {
                    return;
                }
                turns.reset_immediately();
                continue;
            }
            if sender.send(asking.about(url.as_deref(), node).await).await.is_err() {
                return;
            }
        }
    });
    networks
}

impl View {
    fn take(&mut self, look: Result<Snapshot, String>) {
        match look {
            Ok(node) => (self.node, self.gone) = (node, None),
            // What was last known stays, under a word that it is not so now.
            Err(gone) => self.gone = Some(gone),
        }
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let rows = Layout::vertical([Constraint::Min(0), Constraint::Length(1)]);
        let [main, foot] = rows.areas(frame.area());
        let mut lines = Vec::new();
        if let Some(gone) = &self.gone {
            lines.push(vec![(format!("{gone}. What was last seen:"), Style::Bad)]);
        }
        let room = usize::from(main.height).saturating_sub(lines.len());
        lines.extend(Page::new(&self.node, self.network.as_ref()).lines(room));
        let lines = lines.into_iter().map(|line| self.shown(line));
        frame.render_widget(Paragraph::new(lines.collect::<Text<'_>>()), main);
        let keys =
            vec![("q, Esc or Ctrl-C ends the view; the node goes on".to_owned(), Style::Faint)];
        frame.render_widget(Paragraph::new(self.shown(keys)), foot);
    }

    fn shown(&self, line: Line) -> Shown<'static> {
        line.into_iter().map(|(text, style)| Span::styled(text, self.look(style))).collect()
    }

    fn look(&self, style: Style) -> Look {
        let look = Look::default();
        match style {
            Style::Title => look.add_modifier(Modifier::BOLD),
            _ if !self.has_colours => look,
            Style::Plain => look,
            Style::Faint => look.fg(Color::DarkGray),
            Style::Good => look.fg(Color::Green),
            Style::Bad => look.fg(Color::Red),
        }
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::buffer::Buffer;

    use super::*;
    use crate::status::snapshot::State;

    fn view(has_colours: bool) -> View {
        let node = Snapshot {
            name: Some("attic".to_owned()),
            state: State::Offline,
            cause: Some("nobody answers".to_owned()),
            ..Snapshot::default()
        };
        View { node, network: None, gone: None, has_colours }
    }

    fn drawn(view: &View, width: u16, height: u16) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        terminal.backend().buffer().clone()
    }

    fn text(buffer: &Buffer) -> String {
        let rows = buffer.content().chunks(usize::from(buffer.area().width));
        rows.fold(String::new(), |text, row| {
            row.iter().fold(text, |text, cell| text + cell.symbol()) + "\n"
        })
    }

    #[test]
    fn a_view_fits_every_terminal() {
        let view = view(true);
        for (width, height) in [(80, 24), (20, 5), (1, 1), (3, 1), (1, 40), (300, 2)] {
            let text = text(&drawn(&view, width, height));
            assert_eq!(text.lines().count(), usize::from(height));
        }
        let text = text(&drawn(&view, 80, 24));
        assert!(text.contains("attic") && text.contains("not connected"), "{text}");
        assert!(text.trim_end().ends_with("the node goes on"), "{text}");
    }

    #[test]
    fn who_wants_no_colours_gets_none() {
        let colours = |view: &View| {
            let buffer = drawn(view, 80, 24);
            buffer.content().iter().filter(|cell| cell.fg != Color::Reset).count()
        };
        assert!(colours(&view(true)) > 0);
        assert_eq!(colours(&view(false)), 0);
    }

    #[test]
    fn a_node_that_has_gone_is_said_to_be_so_until_it_is_back() {
        let mut view = view(true);
        view.take(Err("no node runs".to_owned()));
        assert!(text(&drawn(&view, 80, 24)).contains("no node runs. What was last seen:"));
        view.take(Ok(Snapshot::default()));
        assert!(!text(&drawn(&view, 80, 24)).contains("no node runs"));
    }

    #[test]
    fn three_keys_end_the_view() {
        let key = |code, modifiers| KeyEvent::new(code, modifiers);
        for key in [
            key(KeyCode::Char('q'), KeyModifiers::NONE),
            key(KeyCode::Esc, KeyModifiers::NONE),
            key(KeyCode::Char('c'), KeyModifiers::CONTROL),
        ] {
            assert!(ends(key), "{key:?}");
        }
        assert!(!ends(key(KeyCode::Char('c'), KeyModifiers::NONE)));
    }
}
